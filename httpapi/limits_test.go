package httpapi

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

var alice, bob = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")

// mustAdmit fails the test where addr is refused.
func mustAdmit(t *testing.T, l *limits, addr netip.Addr) *lease {
	t.Helper()
	lease, err := l.admit(addr)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// wantRefusal checks that addr is refused with status.
func wantRefusal(t *testing.T, l *limits, addr netip.Addr, status int) {
	t.Helper()
	_, err := l.admit(addr)
	if refused, ok := errors.AsType[*refusal](err); !ok || refused.status != status {
		t.Errorf("%s: %v, want a refusal with %d", addr, err, status)
	}
}

func TestLimitsOfConnections(t *testing.T) {
	l := newLimits(3, 2, 60)
	first, second := mustAdmit(t, l, alice), mustAdmit(t, l, alice)
	wantRefusal(t, l, alice, http.StatusTooManyRequests)
	third := mustAdmit(t, l, bob)
	wantRefusal(t, l, bob, http.StatusServiceUnavailable)
	if n := l.connections(); n != 3 {
		t.Errorf("%d connections", n)
	}
	first.release()
	first.release() // counts once
	fourth := mustAdmit(t, l, alice)
	wantRefusal(t, l, alice, http.StatusServiceUnavailable)
	for _, lease := range []*lease{second, third, fourth} {
		lease.release()
	}
	if n := l.connections(); n != 0 {
		t.Errorf("%d connections left", n)
	}
}

// TestOneTooManyIsRefusedBeforeTheUpgrade does real handshakes, for several clients behind one proxy.
func TestOneTooManyIsRefusedBeforeTheUpgrade(t *testing.T) {
	a := newTestAPI(t, func(c *Config) {
		c.MaxConnections, c.MaxConnectionsPerIP = 2, 1
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	s := httptest.NewServer(a.Handler())
	defer s.Close()
	defer a.Drain(t.Context(), 0)
	dial := func(client string) *http.Response {
		ws, res, err := websocket.Dial(t.Context(), s.URL+"/ws", &websocket.DialOptions{
			HTTPHeader: http.Header{"X-Forwarded-For": {client}}})
		if res == nil {
			t.Fatal(err)
		}
		if err == nil {
			ws.CloseRead(t.Context()) // answers the close at the end
		}
		return res
	}
	for _, tt := range []struct {
		client, setting string
		want            int
	}{
		{"203.0.113.1", "", http.StatusSwitchingProtocols},
		{"203.0.113.1", "DUET_MAX_CONNECTIONS_PER_IP", http.StatusTooManyRequests},
		{"::ffff:203.0.113.1", "DUET_MAX_CONNECTIONS_PER_IP", http.StatusTooManyRequests},
		{"203.0.113.2", "", http.StatusSwitchingProtocols},
		{"203.0.113.3", "DUET_MAX_CONNECTIONS", http.StatusServiceUnavailable},
	} {
		res := dial(tt.client)
		if res.StatusCode != tt.want {
			t.Errorf("%s: %d, want %d", tt.client, res.StatusCode, tt.want)
		}
		if tt.setting == "" {
			continue
		}
		body, _ := io.ReadAll(res.Body)
		if !strings.Contains(string(body), tt.setting) || res.Header.Get("Retry-After") == "" || !res.Close {
			t.Errorf("%s: %q %v", tt.client, body, res.Header)
		}
	}
	if n := a.Connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestJoinsAreLimitedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(10, 10, 60)
		first, second, other := mustAdmit(t, l, alice), mustAdmit(t, l, alice), mustAdmit(t, l, bob)
		for range 30 {
			if !first.allowJoin() || !second.allowJoin() {
				t.Fatal("refused within the minute's 60")
			}
		}
		if first.allowJoin() || second.allowJoin() {
			t.Error("the 61st join passes")
		}
		if !other.allowJoin() {
			t.Error("another address is refused")
		}
		first.release() // a new connection does not make a new bucket
		second.release()
		again := mustAdmit(t, l, alice)
		if again.allowJoin() {
			t.Error("reconnecting helps")
		}
		time.Sleep(time.Second)
		if !again.allowJoin() || again.allowJoin() {
			t.Error("a second later not exactly one join is allowed")
		}
	})
}

func TestIdleAddressesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(1_000_000, 10, 60)
		keeper := mustAdmit(t, l, bob)
		const many = 10_000
		for i := range many {
			mustAdmit(t, l, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})).release()
		}
		if len(l.addresses) != many+1 {
			t.Fatalf("%d addresses known", len(l.addresses))
		}
		time.Sleep(joinWindow - time.Nanosecond)
		mustAdmit(t, l, alice).release()
		if len(l.addresses) != many+2 {
			t.Errorf("%d addresses known before the minute is over", len(l.addresses))
		}
		time.Sleep(joinWindow)
		for range many/(2*sweepStep) + 1 { // each round sweeps twice
			mustAdmit(t, l, bob).release()
		}
		if len(l.addresses) != 1 || l.idle != (idleList{}) {
			t.Errorf("%d addresses known", len(l.addresses))
		}
		keeper.release()
		time.Sleep(joinWindow)
		mustAdmit(t, l, bob).release()
		if l.mostAtOnce > smallMap {
			t.Error("the big map is kept")
		}
	})
}

func TestReturningAddressIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(10, 10, 1)
		mustAdmit(t, l, alice).release()
		mustAdmit(t, l, bob).release()
		time.Sleep(joinWindow - time.Second)
		lease := mustAdmit(t, l, alice) // leaves the idle list from its front
		lease.allowJoin()
		time.Sleep(2 * time.Second)
		mustAdmit(t, l, bob).release()
		if l.addresses[alice] != lease.address {
			t.Error("an address with a connection was forgotten")
		}
	})
}

func TestLimitsUnderContention(t *testing.T) {
	l := newLimits(8, 4, 1000)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for n := range 200 {
				lease, err := l.admit(netip.AddrFrom4([4]byte{10, 0, 0, byte((i + n) % 8)}))
				if err == nil {
					lease.allowJoin()
					lease.release()
				}
			}
		})
	}
	all.Wait()
	if l.connections() != 0 {
		t.Errorf("%d connections left", l.connections())
	}
	for key, a := range l.addresses {
		if a.open != 0 {
			t.Errorf("%s: %d open", key, a.open)
		}
	}
}
