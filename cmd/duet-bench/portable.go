package main

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// A portableNetwork goes to any address, with TLS where tls is set: one goroutine reads for each
// connection, and everything is handled by the one that polls, until the context ends.
type portableNetwork struct {
	addr     string // host:port
	tls      *tls.Config
	ctx      context.Context // ends with shut, if not before
	stop     context.CancelFunc
	arrivals chan arrival
	open     map[*conn]net.Conn
}

// An arrival is what a reader has: a new connection, bytes, or its end.
type arrival struct {
	c    *conn
	nc   net.Conn
	data []byte
	err  error
}

// dialTimeout bounds TCP and TLS handshake together.
const dialTimeout = 15 * time.Second

// writeTimeout bounds one write; more waiting than the socket takes means that the server is stuck.
const writeTimeout = 10 * time.Second

func newPortableNetwork(ctx context.Context, addr string, cfg *tls.Config) network {
	ctx, stop := context.WithCancel(ctx)
	return &portableNetwork{addr: addr, tls: cfg, ctx: ctx, stop: stop,
		arrivals: make(chan arrival, 256), open: map[*conn]net.Conn{}}
}

func (n *portableNetwork) dial(c *conn) error {
	go n.serve(c)
	return nil
}

// serve connects and reads until the connection ends.
func (n *portableNetwork) serve(c *conn) {
	nc, err := n.connect()
	if !n.post(arrival{c: c, nc: nc, err: err}) && nc != nil {
		nc.Close()
	}
	for err == nil {
		buf := make([]byte, 4096)
		var k int
		k, err = nc.Read(buf)
		n.post(arrival{c: c, data: buf[:k], err: err})
	}
}

func (n *portableNetwork) connect() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	if n.tls == nil {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", n.addr)
	}
	d := tls.Dialer{Config: n.tls}
	return d.DialContext(ctx, "tcp", n.addr)
}

// post reports whether the network still takes arrivals.
func (n *portableNetwork) post(a arrival) bool {
	select {
	case n.arrivals <- a:
		return true
	case <-n.ctx.Done():
		return false
	}
}

func (n *portableNetwork) flush(c *conn) {
	nc := n.open[c]
	if nc == nil || len(c.out) == 0 {
		return
	}
	nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := nc.Write(c.out)
	c.out = c.out[:0]
	if err != nil {
		n.close(c)
		c.s.gone(c, err)
	}
}

func (n *portableNetwork) close(c *conn) {
	if nc := n.open[c]; nc != nil {
		nc.Close()
		delete(n.open, c)
	}
}

func (n *portableNetwork) poll(wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case a := <-n.arrivals:
		n.handle(a)
	case <-timer.C:
		return nil
	case <-n.ctx.Done():
		return n.ctx.Err()
	}
	for range len(n.arrivals) {
		n.handle(<-n.arrivals)
	}
	return nil
}

func (n *portableNetwork) handle(a arrival) {
	if a.nc != nil {
		n.open[a.c] = a.nc
		a.c.connected()
		a.c.s.flush()
		return
	}
	if len(a.data) > 0 && n.open[a.c] != nil {
		a.c.s.took(a.c, a.data)
	}
	if a.err != nil && a.c.state != closed {
		n.close(a.c)
		a.c.s.gone(a.c, a.err)
	}
}

func (n *portableNetwork) shut() {
	n.stop()
	for c := range n.open {
		n.close(c)
	}
	for {
		select {
		case a := <-n.arrivals:
			if a.nc != nil {
				a.nc.Close()
			}
		default:
			return
		}
	}
}
