package httpapi

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
)

var page = fstest.MapFS{
	"index.html":    {Data: []byte("<!doctype html><title>duet</title>")},
	"doctor.html":   {Data: []byte("<!doctype html><title>doctor</title>")},
	"app.css":       {Data: []byte("body{}")},
	"js/main.js":    {Data: []byte("export {}")},
	"protocol.json": {Data: []byte("{}")},
}

// newTestAPI makes an API with generous limits that change may alter.
func newTestAPI(t testing.TB, change func(*Config)) *API {
	t.Helper()
	cfg := Config{
		MaxConnections: 100, MaxConnectionsPerIP: 100, JoinRate: 1000,
		JoinTimeout: time.Minute, PingInterval: time.Minute, PongTimeout: time.Minute,
		WriteTimeout: time.Minute, MessageTimeout: time.Minute, MaxMessageBytes: 65536,
	}
	if change != nil {
		change(&cfg)
	}
	log, reg := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	hub := signaling.NewHub(signaling.Config{
		RoomCapacity: 2, Grace: time.Minute, MessageRate: 1000, MessageBurst: 1000, MaxMessageBytes: 65536,
	}, signaling.NewLocalDirectory(), log, reg)
	return New(cfg, hub, page, log, reg)
}

// ask sends a request to h. headers are names and values in turn; Host is among them.
func ask(h http.Handler, method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else {
			r.Header.Add(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// valueOf returns what the one counter of c stands at.
func valueOf(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func TestRoutes(t *testing.T) {
	root := newTestAPI(t, nil).Handler()
	based := newTestAPI(t, func(c *Config) { c.BasePath = "/a/duet" }).Handler()
	for _, tt := range []struct {
		name           string
		handler        http.Handler
		method, target string
		status         int
		header, value  string
		body           string // a part of it
	}{
		{"page", root, "GET", "/", 200, "Content-Type", "text/html; charset=utf-8", "<title>duet"},
		{"page by name", root, "GET", "/index.html", 200, "Content-Type", "text/html; charset=utf-8", "<title>duet"},
		{"doctor", root, "GET", "/doctor", 200, "Content-Type", "text/html; charset=utf-8", "<title>doctor"},
		{"module", root, "GET", "/js/main.js", 200, "Content-Type", "text/javascript; charset=utf-8", "export"},
		{"style", root, "GET", "/app.css", 200, "Content-Type", "text/css; charset=utf-8", "body"},
		{"schema", root, "GET", "/protocol.json", 200, "Content-Type", "application/json", "{}"},
		{"head", root, "HEAD", "/app.css", 200, "Content-Length", "6", ""},
		{"part", root, "GET", "/nothing", 404, "Content-Type", "text/plain; charset=utf-8", "Not found"},
		{"directory", root, "GET", "/js/", 404, "Content-Type", "text/plain; charset=utf-8", "Not found"},
		{"directory without slash", root, "GET", "/js", 404, "", "", "Not found"},
		{"outside", root, "GET", "/../app.css", 404, "", "", "Not found"},
		{"write to the page", root, "POST", "/", 405, "Allow", "GET, HEAD", "GET or HEAD"},
		{"health", root, "GET", "/healthz", 200, "Cache-Control", "no-store", "ok"},
		{"readiness", root, "GET", "/readyz", 200, "Content-Type", "text/plain; charset=utf-8", "ready"},
		{"health by HEAD", root, "HEAD", "/healthz", 200, "", "", ""},
		{"write to the WebSocket", root, "POST", "/ws", 405, "Allow", "GET", "handshake is a GET"},
		{"metrics are elsewhere", root, "GET", "/metrics", 404, "", "", ""},
		{"profiles are elsewhere", root, "GET", "/debug/pprof/", 404, "", "", ""},

		{"based page", based, "GET", "/a/duet/", 200, "Content-Type", "text/html; charset=utf-8", "<title>duet"},
		{"based doctor", based, "GET", "/a/duet/doctor", 200, "Content-Type", "text/html; charset=utf-8", "<title>doctor"},
		{"doctor outside the base", based, "GET", "/doctor", 404, "", "", "The page is at /a/duet/"},
		{"based module", based, "GET", "/a/duet/js/main.js", 200, "", "", "export"},
		{"based health", based, "GET", "/a/duet/healthz", 200, "", "", "ok"},
		{"based readiness", based, "GET", "/a/duet/readyz", 200, "", "", "ready"},
		{"health at the root too", based, "GET", "/healthz", 200, "", "", "ok"},
		{"based WebSocket", based, "GET", "/a/duet/ws", 426, "Upgrade", "websocket", "/a/duet/ws"},
		{"redirect is relative", based, "GET", "/a/duet", 307, "Location", "duet/", ""},
		{"redirect keeps the query", based, "GET", "/a/duet?x=1", 307, "Location", "duet/?x=1", ""},
		{"root with a base", based, "GET", "/", 404, "", "", "The page is at /a/duet/"},
		{"WebSocket outside the base", based, "GET", "/ws", 404, "", "", "The page is at /a/duet/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(tt.handler, tt.method, tt.target)
			if w.Code != tt.status {
				t.Errorf("status %d, want %d", w.Code, tt.status)
			}
			if got := w.Header().Get(tt.header); tt.header != "" && got != tt.value {
				t.Errorf("%s: %q, want %q", tt.header, got, tt.value)
			}
			if !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("body %q lacks %q", w.Body, tt.body)
			}
		})
	}
}

func TestPageIsCheckedAgainByETag(t *testing.T) {
	h := newTestAPI(t, nil).Handler()
	first := ask(h, "GET", "/app.css")
	etag := first.Header().Get("Etag")
	if len(etag) < 20 || etag[0] != '"' || first.Header().Get("Cache-Control") != "no-cache" {
		t.Fatalf("Etag %s, Cache-Control %s", etag, first.Header().Get("Cache-Control"))
	}
	if other := ask(h, "GET", "/").Header().Get("Etag"); other == etag {
		t.Error("two files have one ETag")
	}
	again := ask(h, "GET", "/app.css", "If-None-Match", etag)
	if again.Code != http.StatusNotModified || again.Body.Len() != 0 || again.Header().Get("Etag") != etag {
		t.Errorf("with the ETag: %d %q", again.Code, again.Body)
	}
	if stale := ask(h, "GET", "/app.css", "If-None-Match", `"old"`); stale.Code != http.StatusOK {
		t.Errorf("with an old ETag: %d", stale.Code)
	}
}

func TestPageIsConfined(t *testing.T) {
	h := newTestAPI(t, nil).Handler()
	for _, target := range []string{"/", "/doctor", "/js/main.js", "/nothing"} {
		header := ask(h, "GET", target).Header()
		for name, part := range map[string]string{
			"Content-Security-Policy":    "require-trusted-types-for 'script'",
			"Permissions-Policy":         "camera=(self)",
			"Cross-Origin-Opener-Policy": "same-origin",
			"Referrer-Policy":            "no-referrer",
			"X-Content-Type-Options":     "nosniff",
		} {
			if !strings.Contains(header.Get(name), part) {
				t.Errorf("%s: %s: %q lacks %q", target, name, header.Get(name), part)
			}
		}
		if strings.Contains(header.Get("Content-Security-Policy"), "unsafe") {
			t.Error("the policy has something unsafe")
		}
	}
}

func TestLibraryIsForPagesOfAnyOrigin(t *testing.T) {
	h := newTestAPI(t, func(c *Config) { c.BasePath = "/duet" }).Handler()
	etag := ask(h, "GET", "/duet/js/main.js").Header().Get("Etag")
	for _, tt := range []struct {
		target        string
		headers       []string
		allow, policy string
	}{
		{"/duet/js/main.js", nil, "*", "cross-origin"},
		{"/duet/js/main.js", []string{"Origin", "https://tutorial.example"}, "*", "cross-origin"},
		{"/duet/js/main.js", []string{"Origin", "https://tutorial.example", "If-None-Match", etag}, "*", "cross-origin"},
		{"/duet/", nil, "", ""},
		{"/duet/app.css", nil, "", ""},
		{"/duet/ws", nil, "", ""},
	} {
		header := ask(h, "GET", tt.target, tt.headers...).Header()
		if got := header.Get("Access-Control-Allow-Origin"); got != tt.allow {
			t.Errorf("%s %q: Access-Control-Allow-Origin %q, want %q", tt.target, tt.headers, got, tt.allow)
		}
		if got := header.Get("Cross-Origin-Resource-Policy"); got != tt.policy {
			t.Errorf("%s %q: Cross-Origin-Resource-Policy %q, want %q", tt.target, tt.headers, got, tt.policy)
		}
	}
}

func TestPlainGetOfTheWebSocketIsExplained(t *testing.T) {
	h := newTestAPI(t, nil).Handler()
	for _, tt := range []struct {
		name    string
		headers []string
		want    string
	}{
		{"a browser", nil, `Connection: "" and Upgrade: ""`},
		{"a proxy that forwards half", []string{"Connection", "close", "Upgrade", "websocket"}, `Connection: "close"`},
		{"another protocol", []string{"Connection", "Upgrade", "Upgrade", "h2c"}, `Upgrade: "h2c"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(h, "GET", "/ws", append(tt.headers, "Host", "duet.example:8080")...)
			if w.Code != http.StatusUpgradeRequired || w.Header().Get("Upgrade") != "websocket" || w.Header().Get("Connection") != "Upgrade" {
				t.Errorf("%d %v", w.Code, w.Header())
			}
			for _, part := range []string{tt.want, "Did your proxy forward Upgrade and Connection?", "websocat ws://duet.example:8080/ws"} {
				if !strings.Contains(w.Body.String(), part) {
					t.Errorf("body lacks %q:\n%s", part, w.Body)
				}
			}
		})
	}
}

func TestUpgradeIsRecognised(t *testing.T) {
	for _, tt := range []struct {
		connection, upgrade string
		want                bool
	}{
		{"Upgrade", "websocket", true},
		{"keep-alive, Upgrade", "WebSocket", true},
		{"upgrade", "h2c, websocket", true},
		{"keep-alive", "websocket", false},
		{"Upgrade", "websockets", false},
		{"", "", false},
	} {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.Header.Set("Connection", tt.connection)
		r.Header.Set("Upgrade", tt.upgrade)
		if isUpgrade(r) != tt.want {
			t.Errorf("Connection %q, Upgrade %q: %t", tt.connection, tt.upgrade, !tt.want)
		}
		r.ProtoMinor = 0
		if isUpgrade(r) {
			t.Error("HTTP/1.0 was taken for a handshake")
		}
	}
}

func TestDrainTurnsAway(t *testing.T) {
	a := newTestAPI(t, nil)
	if err := a.Drain(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	h := a.Handler()
	if w := ask(h, "GET", "/readyz"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "draining") {
		t.Errorf("/readyz: %d %s", w.Code, w.Body)
	}
	if w := ask(h, "GET", "/healthz"); w.Code != http.StatusOK {
		t.Errorf("/healthz: %d", w.Code)
	}
	w := ask(h, "GET", "/ws", "Connection", "Upgrade", "Upgrade", "websocket")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("/ws: %d %v", w.Code, w.Header())
	}
	if n := valueOf(t, a.refused.WithLabelValues("draining")); n != 1 {
		t.Errorf("%v refusals counted", n)
	}
}

func TestPanicEndsItsRequestOnly(t *testing.T) {
	a := newTestAPI(t, nil)
	s := httptest.NewServer(a.recoverPanics(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") })))
	defer s.Close()
	res, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusInternalServerError || strings.Contains(string(body), "boom") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	handshake, _ := http.NewRequest("GET", s.URL, nil)
	handshake.Header.Set("Connection", "Upgrade")
	handshake.Header.Set("Upgrade", "websocket")
	if res, err := http.DefaultClient.Do(handshake); err == nil {
		t.Errorf("a handshake got %s", res.Status)
	}
	if n := valueOf(t, a.panics); n != 2 {
		t.Errorf("%v panics counted", n)
	}
}

func TestAccessLogLeavesQueriesOut(t *testing.T) {
	a := newTestAPI(t, nil)
	var out strings.Builder
	a.log = slog.New(slog.NewTextHandler(&out, nil))
	ask(a.Handler(), "GET", "/app.css?token=secret")
	if out.Len() > 0 {
		t.Errorf("logged at info: %s", out.String())
	}
	a.log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ask(a.Handler(), "GET", "/app.css?token=secret")
	if s := out.String(); !strings.Contains(s, "path=/app.css status=200 bytes=6") || strings.Contains(s, "secret") {
		t.Errorf("logged at debug: %s", s)
	}
}

func TestAssetsNameEveryType(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a file of an unknown type was taken")
		}
	}()
	loadAssets(fstest.MapFS{"index.html": {}, "notes.odt": {}})
}
