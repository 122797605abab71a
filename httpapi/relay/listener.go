package relay

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// How long a TCP connection may be there for nothing, and how long one write to it may take.
const (
	idleTimeout  = 30 * time.Second // from the beginning to the first allocation, and after the last one
	writeTimeout = 10 * time.Second // then the client reads too slowly for a call
)

// A listener accepts a bounded number of TCP connections, in all and from one address; one too many is
// closed at once. Safe for concurrent use.
type listener struct {
	net.Listener
	// Static after construction.
	most, perAddr int
	refused       func(why string)

	mu     sync.Mutex
	conns  map[netip.AddrPort]*conn // by the client's address
	from   map[netip.Addr]int       // connections; IPv6 by /64
	closed bool
}

func newListener(l net.Listener, most, perAddr int, refused func(why string)) *listener {
	return &listener{Listener: l, most: most, perAddr: perAddr, refused: refused,
		conns: make(map[netip.AddrPort]*conn), from: make(map[netip.Addr]int)}
}

// A conn is one client's TCP connection.
type conn struct {
	net.Conn
	listener *listener
	client   netip.AddrPort
	once     sync.Once
}

// acceptPause is how long Accept waits where the system has no descriptors left.
const acceptPause = 50 * time.Millisecond

// Accept implements net.Listener. It fails only when the listener is closed: pion gives up on an error.
func (l *listener) Accept() (net.Conn, error) {
	for {
		tcp, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			l.refused(whyConnections) // no descriptors, most likely
			time.Sleep(acceptPause)
			continue
		}
		if c := l.admit(tcp); c != nil {
			return c, nil
		}
		l.refused(whyConnections)
		tcp.Close()
	}
}

// admit counts tcp, or returns nil where there are too many.
func (l *listener) admit(tcp net.Conn) *conn {
	client := addrPortOf(tcp.RemoteAddr())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !client.IsValid() || len(l.conns) >= l.most || l.from[share(client.Addr())] >= l.perAddr {
		return nil
	}
	c := &conn{Conn: tcp, listener: l, client: client}
	l.conns[client] = c
	l.from[share(client.Addr())]++
	_ = tcp.SetReadDeadline(time.Now().Add(idleTimeout))
	return c
}

// share is the address by which connections are counted: one IPv6 customer has a /64.
func share(addr netip.Addr) netip.Addr {
	if addr.Is6() {
		prefix, _ := addr.Prefix(64)
		return prefix.Addr()
	}
	return addr
}

// inUse says whether client's connection has an allocation. One without ends after idleTimeout.
func (l *listener) inUse(client netip.AddrPort, yes bool) {
	l.mu.Lock()
	c := l.conns[client]
	l.mu.Unlock()
	if c == nil {
		return
	}
	var until time.Time
	if !yes {
		until = time.Now().Add(idleTimeout)
	}
	_ = c.SetReadDeadline(until)
}

// Write implements net.Conn. A client that does not read loses its connection: half a message would
// put the rest of the stream out of step.
func (c *conn) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := c.Conn.Write(b)
	if err != nil {
		c.Close()
	}
	return n, err
}

// Close implements net.Conn. Further calls do nothing.
func (c *conn) Close() (err error) {
	c.once.Do(func() {
		err = c.Conn.Close()
		l := c.listener
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, c.client)
		key := share(c.client.Addr())
		if l.from[key]--; l.from[key] == 0 {
			delete(l.from, key)
		}
	})
	return err
}

// closeAll ends the listener and all its connections.
func (l *listener) closeAll() {
	l.Listener.Close()
	l.mu.Lock()
	l.closed = true
	open := make([]*conn, 0, len(l.conns))
	for _, c := range l.conns {
		open = append(open, c)
	}
	l.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// addrPortOf returns the address of a, the zero value where it has none.
func addrPortOf(a net.Addr) netip.AddrPort {
	var at netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		at = a.AddrPort()
	case *net.TCPAddr:
		at = a.AddrPort()
	}
	return netip.AddrPortFrom(at.Addr().WithZone("").Unmap(), at.Port())
}
