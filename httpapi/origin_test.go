package httpapi

import (
	"net/http"
	"strings"
	"testing"
)

func TestOriginPolicy(t *testing.T) {
	for _, tt := range []struct {
		name         string
		listed       []string
		origin, host string
		want         bool
	}{
		{"own", nil, "http://localhost:8080", "localhost:8080", true},
		{"own behind TLS", nil, "https://duet.example", "duet.example", true},
		{"own, default port written in Host", nil, "https://duet.example", "duet.example:443", true},
		{"own, default port written in Origin", nil, "http://duet.example:80", "duet.example", true},
		{"own in capitals", nil, "HTTPS://Duet.Example", "duet.EXAMPLE", true},
		{"own IPv6", nil, "http://[::1]:8080", "[0:0::1]:8080", true},
		{"another port", nil, "http://localhost:3000", "localhost:8080", false},
		{"another scheme's default port", nil, "http://duet.example", "duet.example:443", false},
		{"another host", nil, "https://evil.example", "duet.example", false},
		{"own as a suffix", nil, "https://evilduet.example", "duet.example", false},
		{"own as a prefix", nil, "https://duet.example.evil.example", "duet.example", false},
		{"own as a user", nil, "https://duet.example@evil.example", "duet.example", false},
		{"a trailing dot", nil, "https://duet.example.", "duet.example", false},
		{"a path", nil, "https://duet.example/", "duet.example", false},
		{"white space", nil, "https://duet.example ", "duet.example", false},
		{"null", nil, "null", "duet.example", false},
		{"null as a host", nil, "null", "null", false},
		{"empty", nil, "", "", false},
		{"a file", nil, "file://", "", false},
		{"an extension", nil, "chrome-extension://duet.example", "duet.example", false},
		{"no Host", nil, "https://duet.example", "", false},

		{"listed", []string{"https://app.example"}, "https://app.example", "duet.example", true},
		{"listed, second", []string{"https://a.example", "https://app.example:8443"}, "https://app.example:8443", "duet.example", true},
		{"listed with its default port", []string{"https://app.example:443"}, "https://app.example", "duet.example", true},
		{"listed under another scheme", []string{"https://app.example"}, "http://app.example", "duet.example", false},
		{"listed under another port", []string{"https://app.example"}, "https://app.example:8443", "duet.example", false},
		{"below a listed one", []string{"https://app.example"}, "https://x.app.example", "duet.example", false},
		{"own, where others are listed", []string{"https://app.example"}, "https://duet.example", "duet.example", false},
		{"null listed", []string{"null"}, "null", "duet.example", true},
		{"listed extension", []string{"chrome-extension://abc"}, "chrome-extension://abc", "duet.example", true},
		{"a star is no wildcard", []string{"*"}, "https://evil.example", "duet.example", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := newOriginPolicy(tt.listed).allows(tt.origin, tt.host, false); got != tt.want {
				t.Errorf("origin %q, host %q, listed %q: %t", tt.origin, tt.host, tt.listed, got)
			}
		})
	}
}

// A list of which nothing could be read must not fall back to the page's own origin, nor to everybody's.
func TestUnreadableListAllowsNobody(t *testing.T) {
	if newOriginPolicy([]string{"*"}).allows("https://duet.example", "duet.example", false) {
		t.Error("own origin passes")
	}
}

func TestForeignOriginIsRefusedWithAnExplanation(t *testing.T) {
	a := newTestAPI(t, nil)
	handshake := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Host", "duet.example"}
	w := ask(a.Handler(), "GET", "/ws", append(handshake, "Origin", "https://evil.example")...)
	if w.Code != http.StatusForbidden {
		t.Errorf("status %d", w.Code)
	}
	for _, part := range []string{`"https://evil.example"`, `"duet.example"`, "DUET_ALLOWED_ORIGINS"} {
		if !strings.Contains(w.Body.String(), part) {
			t.Errorf("%q lacks %s", w.Body, part)
		}
	}
	twice := append(handshake, "Origin", "https://duet.example", "Origin", "https://duet.example")
	if w := ask(a.Handler(), "GET", "/ws", twice...); w.Code != http.StatusForbidden {
		t.Errorf("two origins: %d", w.Code)
	}
	if w := ask(a.Handler(), "GET", "/ws", "Host", "duet.example"); w.Code != http.StatusUpgradeRequired {
		t.Errorf("no origin: %d", w.Code)
	}
	if w := ask(a.Handler(), "GET", "/", "Origin", "https://evil.example"); w.Code != http.StatusOK {
		t.Errorf("the page: %d", w.Code)
	}
}

func TestHosts(t *testing.T) {
	h := newTestAPI(t, func(c *Config) { c.AllowedHosts = []string{"duet.example", "other.example:8443"} }).Handler()
	for host, want := range map[string]int{
		"duet.example":       http.StatusOK,
		"DUET.example":       http.StatusOK,
		"duet.example:8080":  http.StatusOK,
		"other.example:8443": http.StatusOK,
		"other.example":      http.StatusForbidden,
		"evil.example":       http.StatusForbidden,
		"x.duet.example":     http.StatusForbidden,
		"127.0.0.1:8080":     http.StatusForbidden,
		"":                   http.StatusForbidden,
	} {
		w := ask(h, "GET", "/", "Host", host)
		if w.Code != want {
			t.Errorf("Host %q: %d, want %d", host, w.Code, want)
		}
		if want == http.StatusForbidden && !strings.Contains(w.Body.String(), "DUET_ALLOWED_HOSTS") {
			t.Errorf("Host %q: %s", host, w.Body)
		}
	}
	if w := ask(h, "GET", "/ws", "Host", "evil.example"); w.Code != http.StatusForbidden {
		t.Errorf("/ws: %d", w.Code)
	}
	if w := ask(h, "GET", "/healthz", "Host", "10.0.0.7:8080"); w.Code != http.StatusOK {
		t.Errorf("/healthz: %d", w.Code)
	}
}

// FuzzOrigin holds ParseOrigin and the policy to what they promise of any header.
func FuzzOrigin(f *testing.F) {
	for _, o := range []string{
		"https://duet.example", "HTTP://[::1]:0080", "null", "", "https://duet.example@evil.example", "https://evil.example#duet.example",
		"https://duet.example:443:443", "https://[::ffff:127.0.0.1]", "https://xn--bcher-kva.example", "https://bücher.example", "a+b-c.d://x", "https://duet.example\x00",
	} {
		f.Add(o, "duet.example")
	}
	f.Fuzz(func(t *testing.T, origin, host string) {
		canonical, err := ParseOrigin(origin)
		if err == nil {
			if again, err := ParseOrigin(canonical); err != nil || again != canonical {
				t.Errorf("%q -> %q -> %q, %v", origin, canonical, again, err)
			}
			if canonical != "null" && strings.ContainsAny(strings.TrimPrefix(canonical[strings.Index(canonical, "://"):], "://"), "/@?#\\ \t\r\n\x00") {
				t.Errorf("%q -> %q", origin, canonical)
			}
		}
		own := newOriginPolicy(nil).allows(origin, host, false)
		if own && (err != nil || !strings.HasPrefix(canonical, "http")) {
			t.Errorf("origin %q passes for host %q", origin, host)
		}
		const listed = "https://app.example"
		if newOriginPolicy([]string{listed}).allows(origin, host, false) != (err == nil && canonical == listed) {
			t.Errorf("origin %q, listed %q", origin, listed)
		}
	})
}
