package httpapi

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestAdminHandler(t *testing.T) {
	reg := prometheus.NewRegistry()
	newRefusedCounter(reg)
	h := AdminHandler(reg, off(reg))
	for target, part := range map[string]string{
		"/":                         "/metrics",
		"/metrics":                  `duet_http_refused_total{reason="origin"} 0`,
		"/debug/pprof/":             "goroutine",
		"/debug/pprof/goroutine":    "",
		"/debug/pprof/cmdline":      "",
		"/debug/pprof/heap?debug=1": "heap profile",
	} {
		w := ask(h, "GET", target)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), part) {
			t.Errorf("%s: %d, %q is missing", target, w.Code, part)
		}
	}
}

func TestLoopbackAdminRefusesRebinding(t *testing.T) {
	h := AdminHandler(prometheus.NewRegistry(), off(prometheus.NewRegistry()))
	for _, tt := range []struct {
		local, host string
		want        int
	}{
		{"127.0.0.1:9091", "localhost:9091", http.StatusOK},
		{"127.0.0.1:9091", "127.0.0.1:9091", http.StatusOK},
		{"[::1]:9091", "[::1]:9091", http.StatusOK},
		{"127.0.0.1:9091", "evil.example:9091", http.StatusForbidden},
		{"127.0.0.1:9091", "", http.StatusForbidden},
		{"10.0.0.7:9091", "duet:9091", http.StatusOK}, // meant to be reached by name
	} {
		local, err := net.ResolveTCPAddr("tcp", tt.local)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/metrics", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(local)))
		r.Host = tt.host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("on %s, Host %q: %d, want %d", tt.local, tt.host, w.Code, tt.want)
		}
	}
}
