package httpapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A visit is one TCP connection that speaks HTTP by hand, or nothing.
type visit struct {
	net.Conn
	t  testing.TB
	in *bufio.Reader
}

func call(t testing.TB, dial func() (net.Conn, error)) *visit {
	t.Helper()
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &visit{conn, t, bufio.NewReader(conn)}
}

func (c *visit) ask(path string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: duet.test\r\n\r\n", path); err != nil {
		c.t.Fatal(err)
	}
}

func (c *visit) wantAnswer(status int) {
	c.t.Helper()
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != status {
		c.t.Errorf("status %d, %v, want %d", res.StatusCode, err, status)
	}
}

// get asks, and leaves the connection idle.
func (c *visit) get(path string) {
	c.t.Helper()
	c.ask(path)
	c.wantAnswer(http.StatusOK)
}

// wantCut waits for the end of the connection.
func (c *visit) wantCut() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("the connection is still open: %v", err)
	}
}

// cuts is how many connections the service has cut.
func (s *service) cuts() float64 { return testutil.ToFloat64(s.api.conns.cut) }

// One address cannot take all connections of the server by saying nothing: one more costs it its oldest.
func TestOneAddressThatSaysNothing(t *testing.T) {
	const most = 40
	s := serveTCP(t, func(set *settings) { set.MaxConnectionsPerIP = most })
	a, b := s.pair("") // WebSockets have a limit of their own
	var silent []*visit
	for range 3 * most {
		silent = append(silent, call(t, s.dialNet))
	}
	for _, c := range silent[:2*most] {
		c.wantCut()
	}
	late := call(t, s.dialNet) // somebody else behind the same address
	late.get("/healthz")
	silent[2*most].wantCut()
	if n := s.cuts(); n != 2*most+1 {
		t.Errorf("%v connections cut, want %d", n, 2*most+1)
	}
	late.get("/") // its connection is the only idle one, and yet nobody's who came later
	for _, c := range silent[2*most+1:] {
		c.get("/healthz")
	}
	a.send(`{"type":"message","data":1}`)
	b.want("message")
}

// Browsers keep connections for the next request: they lose those, and not one that is just being opened.
func TestIdleConnectionsGoFirst(t *testing.T) {
	s := serveTCP(t, func(set *settings) { set.MaxConnectionsPerIP = 1 }) // which is too few to load a page
	silent := call(t, s.dialNet)
	var idle []*visit
	for range leastConns - 1 {
		c := call(t, s.dialNet)
		c.get("/")
		idle = append(idle, c)
	}
	idle[0].get("/healthz") // it is idle for less long than the others now
	s.wantIdle(len(idle))
	if n := s.cuts(); n != 0 {
		t.Errorf("%v connections cut at the limit", n)
	}
	fresh := call(t, s.dialNet)
	idle[1].wantCut()
	idle[0].get("/healthz")
	silent.get("/healthz")
	fresh.get("/healthz")
	if n := s.cuts(); n != 1 {
		t.Errorf("%v connections cut, want 1", n)
	}
}

// wantIdle waits until the service has noticed that so many connections of an address are idle, which it
// does only after the answer.
func (s *service) wantIdle(n int) {
	s.t.Helper()
	s.await("idle connections", s.idle, n)
}

// idle is how many connections of all addresses are idle.
func (s *service) idle() (n int) {
	l := s.api.conns
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.addresses {
		n += v.idle.Len()
	}
	return n
}

func TestConnectionsOfATrustedProxy(t *testing.T) {
	s := serveTCP(t, func(set *settings) {
		set.MaxConnectionsPerIP = 1
		set.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	var pool []*visit
	for range 2 * leastConns {
		c := call(t, s.dialNet)
		c.get("/healthz")
		pool = append(pool, c)
	}
	for _, c := range pool {
		c.get("/healthz")
	}
	if n := s.cuts(); n != 0 {
		t.Errorf("%v connections cut", n)
	}
}

// A request under way is finished. Where all connections have one, the new connection is too many.
func TestRequestsUnderWayAreNotCut(t *testing.T) {
	const most = 3
	entered, release := make(chan struct{}), make(chan struct{})
	limit := NewConnLimit("test", most, nil, prometheus.NewRegistry())
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-release
		}
	}))
	server.Config.ConnState = limit.Watch
	server.Start()
	defer server.Close()
	dial := func() (net.Conn, error) { return net.Dial("tcp", server.Listener.Addr().String()) }
	var slow []*visit
	for range most {
		c := call(t, dial)
		c.ask("/slow")
		<-entered
		slow = append(slow, c)
	}
	call(t, dial).wantCut()
	close(release)
	for _, c := range slow {
		c.wantAnswer(http.StatusOK)
		c.get("/")
	}
}

// A peer that reads nothing must not hold up the server that cuts it: the end of TLS would be a write.
func TestCutDoesNotWaitForAPeer(t *testing.T) {
	tlsBubble(t, func(set *settings) { set.MaxConnectionsPerIP = 1 }, func(t *testing.T, s *service) {
		first := call(t, s.dialNet)
		first.get("/healthz") // and reads no more: over a pipe nothing can be written to it
		synctest.Wait()       // it is idle
		for range leastConns - 1 {
			call(t, s.dialNet)
		}
		start := time.Now()
		fresh := call(t, s.dialNet)
		fresh.get("/healthz")
		wantAfter(t, "answer", start, time.Now(), 0)
		if n := s.cuts(); n != 1 {
			t.Errorf("%v connections cut, want 1", n)
		}
	})
}

// A farVisit is a connection from another address.
type farVisit struct {
	net.Conn
	from   string
	closed bool
}

func (c *farVisit) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.from))
}

func (c *farVisit) Close() error { c.closed = true; return nil }

func TestConnLimitByAddress(t *testing.T) {
	limit := NewConnLimit("test", 1, nil, prometheus.NewRegistry())
	var all []*farVisit
	for _, tt := range []struct {
		from string
		cuts int // how many are closed then
	}{
		{"203.0.113.7:1", 0},
		{"203.0.113.8:1", 0},
		{"[2001:db8:1:2::1]:1", 0},
		{"[2001:db8:1:3::1]:1", 0},
		{"[2001:db8:1:2:ffff::1]:1", 1}, // the same /64
		{"[::ffff:203.0.113.7]:2", 2},   // the same address
	} {
		c := &farVisit{from: tt.from}
		all = append(all, c)
		limit.Watch(c, http.StateNew)
		cuts := 0
		for _, c := range all {
			if c.closed {
				cuts++
			}
		}
		if cuts != tt.cuts {
			t.Errorf("%s: %d connections cut, want %d", tt.from, cuts, tt.cuts)
		}
	}
	for _, c := range all {
		limit.Watch(c, http.StateActive)
		limit.Watch(c, http.StateHijacked)
	}
	if len(limit.conns) != 0 || len(limit.addresses) != 0 {
		t.Errorf("%d connections and %d addresses are remembered", len(limit.conns), len(limit.addresses))
	}
}
