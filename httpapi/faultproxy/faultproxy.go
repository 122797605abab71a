// Package faultproxy is a network that fails on command: a TCP proxy on loopback, in the test's own
// process, that cuts, swallows, delays and dribbles what passes through it. Only tests and the tools
// under cmd use it.
package faultproxy

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Fault is a way to end a connection.
type Fault int

const (
	Reset     Fault = iota + 1 // RST to both sides; what has not been read there is lost
	Finish                     // FIN to both sides, after what has passed
	BlackHole                  // both sides stay open, nothing passes any more: a half-open connection
	Silent                     // RST to the client only: the server does not notice
)

// Faults lists all of them.
var Faults = []Fault{Reset, Finish, BlackHole, Silent}

func (f Fault) String() string {
	return [...]string{"none", "reset", "finish", "black hole", "silent"}[f]
}

// A Direction is one half of a connection.
type Direction int

const (
	Up   Direction = iota // from the client to the server
	Down                  // from the server to the client
)

// A Cut ends a connection after so many more bytes in one direction: at once after 0. The zero Cut
// ends nothing.
type Cut struct {
	Fault     Fault
	Direction Direction
	After     int // bytes
}

// A Plan is what a connection is to go through. The zero Plan passes everything at once.
type Plan struct {
	Late    time.Duration // the client is accepted at once, and taken to the server so much later
	Delay   time.Duration // added to each byte, both ways
	Trickle bool          // each byte is a write, and mostly a segment, of its own
	Cut     Cut
}

// A Proxy takes connections on loopback to a target. Safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	plan     func(n int) Plan
	fired    atomic.Int64
	working  sync.WaitGroup

	mu       sync.Mutex // held for the links' state, never during I/O
	count    int        // connections so far
	links    map[*link]struct{}
	held     [2]chan struct{} // by Direction: closed when it passes again; nil = it passes
	refusing bool
	closed   chan struct{}
}

// Start makes a proxy for the server at target, host:port. plan is asked for each connection, the
// first has number 0; nil plans nothing. Close the proxy at the end.
func Start(target string, plan func(n int) Plan) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if plan == nil {
		plan = func(int) Plan { return Plan{} }
	}
	p := &Proxy{listener: l, target: target, plan: plan, links: map[*link]struct{}{}, closed: make(chan struct{})}
	p.working.Go(p.accept)
	return p, nil
}

// Addr is where clients connect, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Fired is how many connections were cut so far.
func (p *Proxy) Fired() int { return int(p.fired.Load()) }

// Open is how many connections there are: those that pass bytes, and those that were cut and that
// one side, at least, still holds.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Cut cuts every connection that still passes bytes, counting from now. It returns how many there are.
func (p *Proxy) Cut(c Cut) int {
	p.mu.Lock()
	var due []*link
	armed := 0
	for l := range p.links {
		if l.done || l.server == nil {
			continue
		}
		armed++
		l.cut = c
		if c.After == 0 && l.fire() {
			due = append(due, l)
		}
	}
	p.mu.Unlock()
	for _, l := range due {
		l.end()
	}
	return armed
}

// Refuse resets every new connection at once, or no longer.
func (p *Proxy) Refuse(refusing bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = refusing
}

// Hold lets nothing pass in one direction, of old connections and new ones, or no longer. What is sent
// meanwhile waits, ends of connections included, as on a network that is cut in two and comes together
// again. A Cut before that loses it.
func (p *Proxy) Hold(d Direction, holding bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case holding && p.held[d] == nil:
		p.held[d] = make(chan struct{})
	case !holding && p.held[d] != nil:
		close(p.held[d])
		p.held[d] = nil
	}
}

// passing waits while d is held.
func (p *Proxy) passing(d Direction) {
	for {
		p.mu.Lock()
		held := p.held[d]
		p.mu.Unlock()
		if held == nil {
			return
		}
		select {
		case <-held:
		case <-p.closed:
			return
		}
	}
}

// Close resets every connection and waits until nothing of the proxy is left.
func (p *Proxy) Close() {
	p.mu.Lock()
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	p.listener.Close()
	for l := range p.links {
		l.done = true
		l.reset()
	}
	p.mu.Unlock()
	p.working.Wait()
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			select {
			case <-p.closed:
				return
			case <-time.After(10 * time.Millisecond): // out of descriptors, say
				continue
			}
		}
		p.working.Go(func() { p.serve(conn.(*net.TCPConn)) })
	}
}

// serve is the life of one connection.
func (p *Proxy) serve(client *net.TCPConn) {
	l := &link{proxy: p, client: client}
	if !p.enter(l) {
		reset(client)
		return
	}
	defer p.leave(l)
	if l.plan.Late > 0 {
		select {
		case <-time.After(l.plan.Late):
		case <-p.closed:
			return
		}
	}
	conn, err := p.dial()
	if err != nil {
		reset(client)
		return
	}
	server := conn.(*net.TCPConn)
	p.mu.Lock()
	l.server = server
	cutNow := l.done || l.cut.Fault != 0 && l.cut.After == 0 && l.fire()
	p.mu.Unlock()
	if cutNow {
		l.end()
	}
	var both sync.WaitGroup
	both.Go(func() { l.forward(server, client, Up) })
	both.Go(func() { l.forward(client, server, Down) })
	both.Wait()
}

// dial connects to the target: from an address of the proxy's own where the system has all of 127/8,
// since one address has ports for some 28,000 connections, those closed in the last minute included.
func (p *Proxy) dial() (net.Conn, error) {
	port := p.listener.Addr().(*net.TCPAddr).Port
	own := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(port>>8), byte(port))}}
	if conn, err := own.Dial("tcp", p.target); err == nil {
		return conn, nil
	}
	return net.Dial("tcp", p.target)
}

// enter counts a connection and gives it its plan; false = it is refused.
func (p *Proxy) enter(l *link) bool {
	p.mu.Lock()
	n := p.count
	p.count++
	p.mu.Unlock()
	l.plan = p.plan(n) // may call the proxy
	l.cut = l.plan.Cut
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		return false
	default:
	}
	if !p.refusing {
		p.links[l] = struct{}{}
	}
	return !p.refusing
}

func (p *Proxy) leave(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
	l.client.Close()
	if l.server != nil {
		l.server.Close()
	}
}

// A link is one connection through the proxy, which is two. The proxy's mutex guards what changes.
type link struct {
	proxy  *Proxy
	plan   Plan
	client *net.TCPConn

	server *net.TCPConn // nil until it was dialed
	cut    Cut
	done   bool // it passes nothing any more
}

// fire books the cut; false = there was one before. The caller, once it has let go of the mutex, calls
// end.
func (l *link) fire() bool {
	if l.done {
		return false
	}
	l.done = true
	l.proxy.fired.Add(1)
	return true
}

// end does what the cut says.
func (l *link) end() {
	switch l.cut.Fault {
	case Reset:
		l.reset()
	case Finish:
		l.client.CloseWrite()
		l.server.CloseWrite()
	case Silent:
		reset(l.client)
	}
}

func (l *link) reset() {
	reset(l.client)
	if l.server != nil {
		reset(l.server)
	}
}

// forward passes what src sends to dst until the link is cut or one side ends, and then drops what
// src still sends until that ends, too: a socket that is closed with unread bytes sends RST.
func (l *link) forward(dst, src *net.TCPConn, d Direction) {
	var from io.Reader = src
	if l.plan.Delay > 0 {
		late := newDelayed(src, l.plan.Delay)
		defer late.stop()
		from = late
	}
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		l.proxy.passing(d)
		if n > 0 && !l.pass(dst, buf[:n], d) {
			break
		}
		if err != nil {
			l.ended(dst, err)
			return
		}
	}
	for {
		if _, err := from.Read(buf); err != nil {
			return
		}
	}
}

// ended passes the end of one side on to the other, unless the link was cut.
func (l *link) ended(dst *net.TCPConn, err error) {
	l.proxy.mu.Lock()
	defer l.proxy.mu.Unlock()
	switch {
	case l.done:
	case errors.Is(err, io.EOF):
		dst.CloseWrite()
	default:
		l.done = true
		l.reset()
	}
}

// pass writes p, or as much of it as the cut lets through. False = the link is cut.
func (l *link) pass(dst *net.TCPConn, p []byte, d Direction) bool {
	due := false
	l.proxy.mu.Lock()
	if l.done {
		l.proxy.mu.Unlock()
		return false
	}
	if l.cut.Fault != 0 && l.cut.Direction == d {
		n := min(len(p), l.cut.After)
		p = p[:n]
		if l.cut.After -= n; l.cut.After == 0 {
			due = l.fire()
		}
	}
	l.proxy.mu.Unlock()
	step := len(p)
	if l.plan.Trickle {
		step = 1
	}
	for b := range slices.Chunk(p, max(step, 1)) {
		if _, err := dst.Write(b); err != nil {
			break // dst has ended, which the other direction notices
		}
	}
	if due {
		l.end()
	}
	return !due
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// A delayed reader gives what it reads some time after it came.
type delayed struct {
	chunks  chan chunk
	stopped chan struct{}
	pumping sync.WaitGroup
	now     chunk
}

type chunk struct {
	at   time.Time
	data []byte
	err  error
}

// delayedChunks is how much may be under way; then the sender is slowed down.
const delayedChunks = 1024

func newDelayed(src io.Reader, delay time.Duration) *delayed {
	d := &delayed{chunks: make(chan chunk, delayedChunks), stopped: make(chan struct{})}
	d.pumping.Go(func() {
		for {
			buf := make([]byte, 2048)
			n, err := src.Read(buf)
			select {
			case d.chunks <- chunk{time.Now().Add(delay), buf[:n], err}:
			case <-d.stopped:
				return
			}
			if err != nil {
				return
			}
		}
	})
	return d
}

// Read implements io.Reader. After an error, or stop, it is not called again.
func (d *delayed) Read(p []byte) (int, error) {
	if len(d.now.data) == 0 {
		d.now = <-d.chunks
		time.Sleep(time.Until(d.now.at))
	}
	n := copy(p, d.now.data)
	d.now.data = d.now.data[n:]
	if len(d.now.data) == 0 {
		return n, d.now.err
	}
	return n, nil
}

// stop ends the reader, whose source has ended.
func (d *delayed) stop() {
	close(d.stopped)
	d.pumping.Wait()
}
