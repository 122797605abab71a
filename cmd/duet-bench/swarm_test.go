package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"duet/cmd/duet-bench/baseline"
)

// short is long enough for a load to be seen.
var short = window{10 * time.Millisecond, 25 * time.Millisecond, 2}

// serveRelay runs a bare relay on l until the test ends.
func serveRelay(t *testing.T, name string, l net.Listener) {
	t.Helper()
	go baseline.Relays[name](l)
	t.Cleanup(func() { l.Close() })
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// relaySwarms has one function per way to reach a relay.
func relaySwarms() map[string]func(*testing.T) *swarm {
	m := map[string]func(*testing.T) *swarm{
		"portable/coder": func(t *testing.T) *swarm {
			l := listen(t)
			serveRelay(t, "coder", l)
			return relaySwarm(t, newPortableNetwork(t.Context(), l.Addr().String(), nil), false)
		},
		"portable/gws/tls": func(t *testing.T) *swarm {
			srv := httptest.NewUnstartedServer(nil)
			srv.StartTLS() // for its certificate
			t.Cleanup(srv.Close)
			roots := x509.NewCertPool()
			roots.AddCert(srv.Certificate())
			l := listen(t)
			serveRelay(t, "gws", tls.NewListener(l, &tls.Config{Certificates: srv.TLS.Certificates}))
			t.Cleanup(func() { l.Close() })
			return relaySwarm(t, newPortableNetwork(t.Context(), l.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "example.com"}), false)
		},
	}
	if runtime.GOOS != "linux" {
		return m
	}
	for name := range baseline.Relays {
		m["epoll/"+name] = func(t *testing.T) *swarm {
			l := listen(t)
			serveRelay(t, name, l)
			n, err := newLocalNetwork(t.Context(), l.Addr().(*net.TCPAddr).AddrPort())
			if err != nil {
				t.Fatal(err)
			}
			return relaySwarm(t, n, name == "tcp")
		}
	}
	return m
}

func relaySwarm(t *testing.T, n network, lines bool) *swarm {
	t.Cleanup(n.shut)
	return &swarm{net: n, d: bare{tcp: lines}, host: "bench", run: runID()}
}

func TestLoads(t *testing.T) {
	const rooms = 5
	for name, start := range relaySwarms() {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			if err := s.fill(rooms, 3); err != nil {
				t.Fatal(err)
			}
			for _, rotate := range []bool{false, true} {
				loads, err := s.saturate(4, rotate, short, unmetered)
				if err != nil || len(loads) != short.count || loads[0].messages == 0 {
					t.Errorf("saturate, in turn %v: %+v, %v", rotate, loads, err)
				}
			}
			before := s.received
			if _, err := s.burst(4, 30); err != nil || s.received-before != 30*2*rooms {
				t.Errorf("burst: %d messages, %v, want %d", s.received-before, err, 30*2*rooms)
			}
			windows, err := pace{members: s.conns[:4], rate: 1000, window: short}.run(s, unmetered)
			if err != nil || len(windows) != short.count {
				t.Fatalf("pace: %d windows, %v", len(windows), err)
			}
			for _, w := range windows {
				if len(w.took) != 25 || len(w.late) != 25 {
					t.Errorf("pace: %d messages of the window, %d sent, want 25", len(w.took), len(w.late))
				}
				if slices.Min(w.took) <= 0 || slices.Min(w.late) < 0 {
					t.Errorf("pace: took %v, late by %v", w.took, w.late)
				}
			}
			if s.received != s.sent {
				t.Errorf("%d messages sent, %d received", s.sent, s.received)
			}
		})
	}
}

func TestCalls(t *testing.T) {
	for name, start := range relaySwarms() {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			const calls = 7
			r, err := callLoad{atOnce: 3, count: calls}.run(s, unmetered)
			if err != nil || r.calls != calls || len(r.took) != calls {
				t.Fatalf("%d calls, %d times, %v, want %d", r.calls, len(r.took), err, calls)
			}
			if want := uint64(calls * 2 * (1 + candidatesPerCall)); s.received != want {
				t.Errorf("%d messages, want %d", s.received, want)
			}
		})
	}
}

// A message that is lost, doubled or out of order is a failure.
func TestOrder(t *testing.T) {
	for name, numbers := range map[string][]uint64{"lost": {1, 3}, "doubled": {1, 1}, "swapped": {2, 1}} {
		s := &swarm{d: bare{}}
		a, _ := s.pair()
		var err error
		for _, n := range numbers {
			if err == nil {
				err = s.happened(a, event{kind: relayed, n: n})
			}
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDialFails(t *testing.T) {
	l := listen(t)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	networks := map[string]network{"portable": newPortableNetwork(t.Context(), addr.String(), nil)}
	if runtime.GOOS == "linux" {
		networks["epoll"], _ = newLocalNetwork(t.Context(), netip.AddrPortFrom(addr.Addr(), addr.Port()))
	}
	for name, n := range networks {
		if err := relaySwarm(t, n, false).fill(1, 1); err == nil || !strings.Contains(err.Error(), "connect") {
			t.Errorf("%s: %v, want a refused connection", name, err)
		}
	}
}
