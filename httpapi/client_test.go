package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"duet/signaling"
)

// The tests of the WebSocket endpoint speak to a real http.Server with frames made by hand, so that
// every byte, and every fault, is the test's own. Over TCP time is real; over pipes, in a synctest
// bubble, it is not, and 30 s pass at once.

// TestMain fails the package where a test has left a goroutine behind. Tests that may run side by side
// mostly wait for time to pass: more of them do so than there are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if p := flag.Lookup("test.parallel"); p.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		p.Value.Set("12")
	}
	goleak.VerifyTestMain(m)
}

// settings are what a test may change before a service starts: the defaults of duet otherwise.
type settings struct {
	Config
	hub       signaling.Config
	directory signaling.Directory
}

func defaultSettings() *settings {
	return &settings{
		Config: Config{
			MaxConnections: 10000, MaxConnectionsPerIP: 10000, JoinRate: 1 << 20,
			JoinTimeout: 60 * time.Second, PingInterval: 20 * time.Second, PongTimeout: 10 * time.Second,
			WriteTimeout: 10 * time.Second, MessageTimeout: 10 * time.Second, MaxMessageBytes: 64 << 10,
		},
		hub: signaling.Config{
			RoomCapacity: 2, Grace: 30 * time.Second, MessageRate: 50, MessageBurst: 200, MaxMessageBytes: 64 << 10,
		},
		directory: signaling.NewLocalDirectory(),
	}
}

// A service is an API that is being served.
type service struct {
	t        testing.TB
	api      *API
	patience time.Duration // how long a client waits for something before its test fails
	dialNet  func() (net.Conn, error)
	addr     string      // of the TCP listener; "" over pipes
	secure   *tls.Config // a caller's (see TestTLSCuts); nil = without TLS
}

// serveTCP serves on loopback until the test ends.
func serveTCP(t testing.TB, change func(*settings)) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, l, change)
	s.patience = 20 * time.Second
	s.addr = l.Addr().String()
	s.dialNet = func() (net.Conn, error) { return net.Dial("tcp", s.addr) }
	return s
}

// servePipes serves over pipes until the test ends, inside a synctest bubble.
func servePipes(t testing.TB, change func(*settings)) *service {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := serve(t, l, change)
	s.patience = time.Hour
	s.dialNet = l.dial
	return s
}

func serve(t testing.TB, l net.Listener, change func(*settings)) *service {
	set := defaultSettings()
	if change != nil {
		change(set)
	}
	log, reg := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	hub := signaling.NewHub(set.hub, set.directory, log, reg)
	s := &service{t: t, api: New(set.Config, hub, page, log, reg)}
	ctx, stop := context.WithCancel(context.Background())
	server := &http.Server{Handler: s.api.Handler(), ConnState: s.api.ConnState, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	var running sync.WaitGroup
	running.Go(func() { _ = hub.Run(ctx) })
	running.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		draining, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.api.Drain(draining, 0); err != nil || s.api.Connections() != 0 {
			t.Errorf("drain: %v with %d connections open", err, s.api.Connections())
		}
		server.Close()
		stop()
		running.Wait()
		if n := hub.Rooms(); n != 0 {
			t.Errorf("%d rooms outlive the hub", n)
		}
	})
	return s
}

// await waits until there are n of what is counted.
func (s *service) await(what string, count func() int, n int) {
	s.t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(s.patience); count() != n; <-poll.C {
		if time.Now().After(end) {
			s.t.Fatalf("%d %s, want %d", count(), what, n)
		}
	}
}

// A pipeListener hands out the ends of pipes.
type pipeListener struct {
	conns  chan net.Conn
	close  sync.Once
	closed chan struct{}
}

// A pipeConn is a pipe's end that seems to come from loopback, and that may be made to fail.
type pipeConn struct {
	net.Conn
	broken       atomic.Bool // for writing
	panicOnWrite atomic.Bool // once
	panicOnClose atomic.Bool // once
}

func (c *pipeConn) Write(p []byte) (int, error) {
	if c.panicOnWrite.CompareAndSwap(true, false) {
		panic("as ordered")
	}
	if c.broken.Load() {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

func (c *pipeConn) Close() error {
	if c.panicOnClose.CompareAndSwap(true, false) {
		panic("as ordered")
	}
	return c.Conn.Close()
}

func (*pipeConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (l *pipeListener) dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- &pipeConn{Conn: server}:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.close.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// ---- frames (RFC 6455, section 5.2)

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa

	final  = 0x80 // the bit of a message's last frame
	masked = 0x80 // the bit in the second byte
)

// maskKey is that of the RFC's examples.
var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// rawFrame is a masked frame whose first byte is head and whose header declares length bytes.
func rawFrame(head byte, length uint64, payload []byte) []byte {
	b := []byte{head}
	switch {
	case length < 126:
		b = append(b, masked|byte(length))
	case length <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), length)
	}
	b = append(b, maskKey[:]...)
	for i, c := range payload {
		b = append(b, c^maskKey[i%4])
	}
	return b
}

func makeFrame(head byte, payload string) []byte {
	return rawFrame(head, uint64(len(payload)), []byte(payload))
}

func textFrame(payload string) []byte { return makeFrame(final|opText, payload) }

func closeFrame(code int, reason string) []byte {
	return makeFrame(final|opClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// A frame is one that the server sent.
type frame struct {
	op      byte
	payload []byte
	at      time.Time
}

// readFrame reads one frame and checks what a server must keep to: no mask, no reserved bits, no
// fragments where none are needed. An error leaves what was read in r where that is less than a
// buffer, so that a read whose deadline has passed can go on later.
func readFrame(r *bufio.Reader) (frame, error) {
	head, err := r.Peek(2)
	if err != nil {
		return frame{}, err
	}
	if head[0]&0xf0 != final || head[1]&masked != 0 {
		return frame{}, fmt.Errorf("frame begins with %x", head)
	}
	op, size, skip := head[0]&0xf, int(head[1]), 2
	switch size {
	case 126:
		if head, err = r.Peek(4); err != nil {
			return frame{}, err
		}
		size, skip = int(binary.BigEndian.Uint16(head[2:])), 4
	case 127:
		if head, err = r.Peek(10); err != nil {
			return frame{}, err
		}
		size, skip = int(binary.BigEndian.Uint64(head[2:])), 10
	}
	if skip+size <= r.Size() {
		if _, err := r.Peek(skip + size); err != nil {
			return frame{}, err
		}
	}
	r.Discard(skip)
	payload := make([]byte, size)
	_, err = io.ReadFull(r, payload)
	return frame{op: op, payload: payload}, err
}

// closeCode is the code and reason of a close frame.
func (f frame) closeCode() (int, string) {
	if len(f.payload) < 2 {
		return 1005, ""
	}
	return int(binary.BigEndian.Uint16(f.payload)), string(f.payload[2:])
}

// ---- a client

// handshake is what a client sends to become a WebSocket.
const handshake = "GET /ws HTTP/1.1\r\nHost: duet.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// readUpgrade reads the answer to a handshake.
func readUpgrade(r *bufio.Reader) error {
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("handshake: %s", res.Status)
	}
	return nil
}

// A message is one JSON object from the server.
type message map[string]any

func (m message) typ() string { s, _ := m["type"].(string); return s }

// peer is the id of the peer in an event.
func (m message) peer() string {
	p, _ := m["peer"].(map[string]any)
	id, _ := p["id"].(string)
	return id
}

// A testConn is a client's end of a WebSocket.
type testConn struct {
	net.Conn
	t        testing.TB
	patience time.Duration
	in       *bufio.Reader
	mute     atomic.Bool // answers neither pings nor a close
	frames   chan frame  // what arrived, once listen was called; closed at the end
	readErr  error       // what that was
	pump     sync.WaitGroup

	session string
	id      string
	seq     int
}

// dial connects without a handshake.
func (s *service) dial() *testConn {
	s.t.Helper()
	conn, err := s.dialNet()
	if err != nil {
		s.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(3 * s.patience))
	c := &testConn{Conn: conn, t: s.t, patience: s.patience, in: bufio.NewReader(conn)}
	s.t.Cleanup(func() {
		conn.Close()
		c.pump.Wait()
	})
	return c
}

// upgrade does the handshake, in one segment with early.
func (c *testConn) upgrade(early ...[]byte) {
	c.t.Helper()
	request := []byte(handshake)
	for _, e := range early {
		request = append(request, e...)
	}
	c.write(request)
	if err := readUpgrade(c.in); err != nil {
		c.t.Fatal(err)
	}
}

// readResponse reads the answer to a handshake that may fail.
func (c *testConn) readResponse() *http.Response {
	c.t.Helper()
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return res
}

// reset cuts a TCP connection with RST.
func (c *testConn) reset() {
	c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// open connects and reads from then on.
func (s *service) open() *testConn {
	s.t.Helper()
	c := s.dial()
	c.upgrade()
	c.listen()
	return c
}

// listen reads what arrives until the connection ends, and answers pings and a close.
func (c *testConn) listen() {
	c.frames = make(chan frame, 1<<14)
	c.pump.Go(func() {
		defer close(c.frames)
		for {
			f, err := readFrame(c.in)
			if err != nil {
				c.readErr = err
				return
			}
			f.at = time.Now()
			c.frames <- f
			if c.mute.Load() {
				continue
			}
			switch f.op {
			case opPing:
				c.Write(makeFrame(final|opPong, string(f.payload)))
			case opClose:
				c.Write(makeFrame(final|opClose, string(f.payload)))
			}
		}
	})
}

func (c *testConn) write(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// flood writes b again and again until the connection ends.
func (c *testConn) flood(b []byte) {
	c.pump.Go(func() {
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
}

func (c *testConn) send(format string, args ...any) {
	c.t.Helper()
	c.write(textFrame(fmt.Sprintf(format, args...)))
}

func (c *testConn) sendJSON(m message) {
	c.t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(textFrame(string(b)))
}

// count sends a counted message: one with the next seq, where the client has a session.
func (c *testConn) count(typ, more string) {
	c.t.Helper()
	if c.session == "" {
		c.send(`{"type":%q%s}`, typ, more)
		return
	}
	c.seq++
	c.send(`{"type":%q,"seq":%d%s}`, typ, c.seq, more)
}

// join takes a seat; session "" joins without one.
func (c *testConn) join(room, session string) message {
	c.t.Helper()
	if c.session = session; session == "" {
		c.send(`{"type":"join","room":%q}`, room)
	} else {
		c.send(`{"type":"join","room":%q,"session":%q}`, room, session)
	}
	m := c.want("joined")
	c.id, _ = m["id"].(string)
	return m
}

// key makes a session key out of a name.
func key(name string) string { return name + strings.Repeat("_", 22) }

// nextFrame returns the next frame; false at the end of the connection.
func (c *testConn) nextFrame() (frame, bool) {
	c.t.Helper()
	late := time.NewTimer(c.patience)
	defer late.Stop()
	select {
	case f, ok := <-c.frames:
		return f, ok
	case <-late.C:
		c.t.Fatal("nothing came")
		return frame{}, false
	}
}

// nextTimed returns the next message other than an ack, and when it came.
func (c *testConn) nextTimed() (message, time.Time) {
	c.t.Helper()
	for {
		f, ok := c.nextFrame()
		switch {
		case !ok:
			c.t.Fatal("the connection has ended")
		case f.op == opClose:
			code, reason := f.closeCode()
			c.t.Fatalf("closed with %d %q", code, reason)
		case f.op != opText:
			continue
		}
		var m message
		if err := json.Unmarshal(f.payload, &m); err != nil {
			c.t.Fatalf("%s: %v", f.payload, err)
		}
		if m.typ() != "ack" {
			return m, f.at
		}
	}
}

// want returns the next message, which must be of type typ.
func (c *testConn) want(typ string) message {
	c.t.Helper()
	m, _ := c.wantTimed(typ)
	return m
}

func (c *testConn) wantTimed(typ string) (message, time.Time) {
	c.t.Helper()
	m, at := c.nextTimed()
	if m.typ() != typ {
		c.t.Fatalf("got %v, want %s", m, typ)
	}
	return m, at
}

// wantError reads an error with that code.
func (c *testConn) wantError(code string) message {
	c.t.Helper()
	m := c.want("error")
	if m["code"] != code {
		c.t.Fatalf("got %v, want %s", m, code)
	}
	return m
}

// wantPing waits for a ping and returns when it came.
func (c *testConn) wantPing() time.Time {
	c.t.Helper()
	for {
		f, ok := c.nextFrame()
		if !ok || f.op == opClose {
			c.t.Fatal("the connection has ended")
		}
		if f.op == opPing {
			return f.at
		}
	}
}

// ended reads until the connection ends, and returns the close frame's code and reason, 1006 where
// none came, and when that was.
func (c *testConn) ended() (code int, reason string, at time.Time) {
	c.t.Helper()
	code = 1006
	for {
		f, ok := c.nextFrame()
		if !ok {
			if code == 1006 {
				at = time.Now()
			}
			return code, reason, at
		}
		if f.op == opClose {
			if code != 1006 {
				c.t.Errorf("two close frames")
			}
			code, reason = f.closeCode()
			at = f.at
		}
	}
}

// wantEndOf reads until the connection ends, which must be with code; it returns when that was.
func (c *testConn) wantEndOf(code int) time.Time {
	c.t.Helper()
	got, reason, at := c.ended()
	if got != code {
		c.t.Errorf("closed with %d %q, want %d", got, reason, code)
	}
	return at
}

// wantEnd is wantEndOf where the server closes, with the reason that belongs to code.
func (c *testConn) wantEnd(code int) time.Time {
	c.t.Helper()
	got, reason, at := c.ended()
	if got != code {
		c.t.Errorf("closed with %d %q, want %d", got, reason, code)
	}
	if want := reasonOf(code); reason != want && code != 1002 { // the library's own words
		c.t.Errorf("reason %q of %d, want %q", reason, code, want)
	}
	return at
}

// reasonOf is the constant reason of a close code.
func reasonOf(code int) string {
	for _, f := range signaling.Failures {
		if f.Close == code {
			return f.Reason
		}
	}
	return ""
}

// multiReader reads head, then r.
func multiReader(head []byte, r io.Reader) io.Reader { return io.MultiReader(bytes.NewReader(head), r) }
