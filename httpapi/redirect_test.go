package httpapi

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestRedirectToHTTPS(t *testing.T) {
	for _, tt := range []struct {
		name               string
		local, https       int // ports
		hosts              []string
		host, target, want string // "" = refused
	}{
		{"the usual ports", 80, 443, nil, "duet.example", "/", "https://duet.example/"},
		{"other ports", 8080, 8443, nil, "duet.example:8080", "/", "https://duet.example:8443/"},
		{"http moved", 8080, 443, nil, "duet.example:8080", "/", "https://duet.example/"},
		{"https moved", 80, 8443, nil, "duet.example", "/", "https://duet.example:8443/"},
		{"both behind a mapping", 8080, 8443, nil, "duet.example", "/", "https://duet.example/"},
		{"path and query", 80, 443, nil, "duet.example", "/a%2Fb/ws?x=1&y=%20", "https://duet.example/a%2Fb/ws?x=1&y=%20"},
		{"an address", 8080, 8443, nil, "192.0.2.7:8080", "/", "https://192.0.2.7:8443/"},
		{"IPv6", 8080, 8443, nil, "[2001:DB8::1]:8080", "/", "https://[2001:db8::1]:8443/"},
		{"two slashes", 80, 443, nil, "duet.example", "//evil.example/", "https://duet.example//evil.example/"},
		{"another host in the target", 80, 443, nil, "duet.example", "http://evil.example/x", "https://duet.example/x"},
		{"no path", 80, 443, nil, "duet.example", "*", "https://duet.example/"},
		{"listed", 80, 443, []string{"duet.example:443"}, "DUET.example", "/", "https://duet.example/"},
		{"not listed", 80, 443, []string{"duet.example"}, "evil.example", "/", ""},
		{"malformed", 80, 443, nil, "duet.example/evil", "/", ""},
		{"a user", 80, 443, nil, "duet.example@evil.example", "/", ""},
		{"no host", 80, 443, nil, "", "/", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", tt.target, nil)
			r.Host = tt.host
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: tt.local}))
			w := httptest.NewRecorder()
			RedirectToHTTPS(uint16(tt.https), tt.hosts).ServeHTTP(w, r)
			if got := w.Header().Get("Location"); got != tt.want {
				t.Errorf("%d %q, want %q", w.Code, got, tt.want)
			}
			if redirected := w.Code == http.StatusTemporaryRedirect; redirected != (tt.want != "") || w.Code >= 500 {
				t.Errorf("status %d", w.Code)
			}
			if !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("the text does not say where: %s", w.Body)
			}
		})
	}
}

func TestStrictTransport(t *testing.T) {
	h := StrictTransport(48*time.Hour, http.NotFoundHandler())
	for _, secure := range []bool{true, false} {
		r, want := httptest.NewRequest("GET", "/", nil), ""
		if secure {
			r.TLS, want = new(tls.ConnectionState), "max-age=172800"
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := w.Header().Get("Strict-Transport-Security"); got != want || w.Code != 404 {
			t.Errorf("over TLS %t: %q", secure, got)
		}
	}
}
