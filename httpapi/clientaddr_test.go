package httpapi

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestClientAddr(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tt := range []struct {
		name      string
		trusted   []netip.Prefix
		peer      string
		forwarded []string // X-Forwarded-For, one header each
		want      string
	}{
		{"direct", nil, "203.0.113.7:1234", nil, "203.0.113.7"},
		{"direct, mapped", nil, "[::ffff:203.0.113.7]:1234", nil, "203.0.113.7"},
		{"direct, IPv6 counts by /64", nil, "[2001:db8:1:2:3:4:5:6]:1234", nil, "2001:db8:1:2::"},
		{"direct, zone", nil, "[fe80::1%eth0]:1234", nil, "fe80::"},
		{"header without trust", nil, "203.0.113.7:1234", []string{"198.51.100.1"}, "203.0.113.7"},
		{"header from a stranger", proxies, "203.0.113.7:1234", []string{"198.51.100.1"}, "203.0.113.7"},
		{"one proxy", proxies, "10.1.2.3:1234", []string{"198.51.100.1"}, "198.51.100.1"},
		{"one IPv6 proxy", proxies, "[fd00::1]:1234", []string{"2001:db8:1:2:3::1"}, "2001:db8:1:2::"},
		{"spoofed on the left", proxies, "10.1.2.3:1234", []string{"192.0.2.66, 198.51.100.1"}, "198.51.100.1"},
		{"spoofed in a header of its own", proxies, "10.1.2.3:1234", []string{"192.0.2.66", "198.51.100.1"}, "198.51.100.1"},
		{"two proxies", proxies, "10.1.2.3:1234", []string{"198.51.100.1, 10.9.9.9"}, "198.51.100.1"},
		{"mapped in the header", proxies, "10.1.2.3:1234", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"garbage counts as the proxy", proxies, "10.1.2.3:1234", []string{"unknown"}, "10.1.2.3"},
		{"the proxy itself", proxies, "10.1.2.3:1234", nil, "10.1.2.3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/ws", nil)
			r.RemoteAddr = tt.peer
			for _, v := range tt.forwarded {
				r.Header.Add("X-Forwarded-For", v)
			}
			var got netip.Addr
			clientIP(tt.trusted)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = clientAddr(r) })).
				ServeHTTP(httptest.NewRecorder(), r)
			if got.String() != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}
