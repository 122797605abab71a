package httpapi

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestCutAtEveryByte is the proof of docs/protocol.md, section 5: a call, one side of which loses its
// connection after k bytes, for every k of what that side sends and of what it receives. Its client
// comes back, and the call goes on as if nothing had been: every message once, and in order.
func TestCutAtEveryByte(t *testing.T) {
	s := serveTCP(t, nil)
	step := 1
	if testing.Short() {
		step = 17
	}
	var plans []cutPlan
	for _, up := range []bool{true, false} {
		length := s.recordCall(t, up)
		for k := 0; k < length; k += step {
			p := cutPlan{up: up, after: k, how: []cutKind{cutReset, cutFinish}[len(plans)%2]}
			if len(plans)%8 >= 6 {
				p.how = cutSilent
			}
			p.twice = len(plans)%5 == 4
			plans = append(plans, p)
		}
	}

	began := time.Now()
	var total tally
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for !t.Failed() {
				i := int(next.Add(1)) - 1
				if i >= len(plans) {
					return
				}
				s.cutCall(t, plans[i], i, &total)
			}
		})
	}
	workers.Wait()
	t.Logf("%d bytes, %d cuts (%d reset, %d closed, %d silent), %d messages sent, %d lost, %d duplicated, %d reordered; %d seats resumed, in %v",
		len(plans), total.cuts.Load(), total.kinds[cutReset].Load(), total.kinds[cutFinish].Load(), total.kinds[cutSilent].Load(),
		total.sent.Load(), total.lost.Load(), total.duplicated.Load(), total.reordered.Load(), total.resumed.Load(),
		time.Since(began).Round(100*time.Millisecond))
	if n := total.lost.Load() + total.duplicated.Load() + total.reordered.Load(); n != 0 || total.cuts.Load() < int64(len(plans)) {
		t.Errorf("%d messages went wrong, %d of %d cuts happened", n, total.cuts.Load(), len(plans))
	}
}

// A tally sums up many calls.
type tally struct {
	cuts, resumed, sent, lost, duplicated, reordered atomic.Int64
	kinds                                            [3]atomic.Int64
}

// add compares what one side got with what the other sent.
func (y *tally) add(sent, got []string) (fault bool) {
	y.sent.Add(int64(len(sent)))
	if slices.Equal(sent, got) {
		return false
	}
	times := map[string]int{}
	for _, m := range got {
		times[m]++
	}
	once := []string{}
	for _, m := range sent {
		switch n := times[m]; {
		case n == 0:
			y.lost.Add(1)
		default:
			y.duplicated.Add(int64(n - 1))
			once = append(once, m)
		}
	}
	seen := map[string]bool{}
	firsts := []string{}
	for _, m := range got {
		if !seen[m] {
			seen[m] = true
			firsts = append(firsts, m)
		}
	}
	for i, m := range firsts {
		if i >= len(once) || once[i] != m {
			y.reordered.Add(1)
		}
	}
	return true
}

// A cutPlan says where one side's connection is cut, and how.
type cutPlan struct {
	up    bool // counted is what the client sends, not what it gets
	after int  // bytes
	how   cutKind
	twice bool // the connection it comes back on is cut at the same place
}

type cutKind int

const (
	cutReset  cutKind = iota // RST, to both sides
	cutFinish                // FIN, to both sides
	cutSilent                // the client notices, the server does not
)

func (p cutPlan) String() string {
	direction := map[bool]string{true: "sent", false: "received"}[p.up]
	return fmt.Sprintf("cut after %d bytes %s, %s, twice %t", p.after, direction, []string{"reset", "finish", "silent"}[p.how], p.twice)
}

// recordCall returns how many bytes a call without a cut has in one direction until it is over and the
// caller leaves: the least of some calls, since an ack more or less depends on the moment.
func (s *service) recordCall(t *testing.T, up bool) int {
	t.Helper()
	least := 1 << 20
	for i := range 20 {
		a, b := newCall(s, i, 0)
		a.hangingUp = func(sent, received int) {
			if up {
				least = min(least, sent)
			} else {
				least = min(least, received)
			}
		}
		if err := talk(a, b); err != nil {
			t.Fatal(err)
		}
	}
	if least < 2000 {
		t.Fatalf("a call of %d bytes", least)
	}
	return least
}

// cutCall makes a call that is cut as planned.
func (s *service) cutCall(t *testing.T, plan cutPlan, number int, total *tally) {
	for try := range 10 { // this call may have had a few bytes less than those recorded
		cut := newCut(s.addr, plan)
		a, b := newCall(s, number, try)
		a.dial, a.hangingUp = cut.dial, cut.disarm
		err := talk(a, b)
		cut.close()
		fired := cut.fired.Load()
		total.cuts.Add(fired)
		total.kinds[plan.how].Add(fired)
		total.resumed.Add(int64(a.resumed))
		fault := total.add(a.sent, b.got)
		fault = total.add(b.sent, a.got) || fault
		switch {
		case err != nil:
			t.Errorf("%v: %v", plan, err)
		case fault:
			t.Errorf("%v: %s; %s", plan, difference(a.sent, b.got), difference(b.sent, a.got))
		case !eventsOfOneCall(b.events) || !eventsOfOneCall(a.events):
			t.Errorf("%v: the callers saw %q and %q", plan, a.events, b.events)
		case fired == 0:
			continue
		}
		return
	}
	t.Errorf("%v: never happened", plan)
}

// difference is where got departs from sent.
func difference(sent, got []string) string {
	for i, m := range sent {
		if i >= len(got) || got[i] != m {
			return fmt.Sprintf("of %d messages got %d, message %d wrong: %.60s", len(sent), len(got), i, m)
		}
	}
	return fmt.Sprintf("of %d messages got %d", len(sent), len(got))
}

// eventsOfOneCall reports whether a caller saw its peer come, perhaps lose its connection and come
// back, and leave.
func eventsOfOneCall(events []string) bool {
	e := strings.Join(events, " ")
	for strings.Contains(e, "peer-away peer-back") {
		e = strings.Replace(e, "peer-away peer-back", "", 1)
	}
	switch strings.Join(strings.Fields(e), " ") {
	case "", "peer-joined peer-left:left": // of who came second, and first
		return true
	}
	return false
}

// ---- the callers

// A caller is a client with all of docs/protocol.md, section 5: it counts, acknowledges, remembers
// what was not acknowledged, comes back and sends it again.
type caller struct {
	room, key string
	dial      func() (net.Conn, error)
	hangingUp func(sent, received int) // called before it leaves, with the bytes of this connection
	calls     bool                     // the one that calls, or the one that is called
	deadline  time.Time
	secure    *tls.Config // nil = without TLS

	conn *meteredConn // as the network sees it
	over net.Conn     // the same, or TLS over it
	in   *bufio.Reader

	seated  bool
	left    bool
	attempt int
	resumed int
	seq     int        // of the last message sent
	unacked []outgoing // not acknowledged by the server
	handled int        // the last seq from the server
	owed    int        // handled and not acknowledged to the server
	ackBy   time.Time  // when that must be done; zero = nothing owed

	sent, got []string // what was relayed: type and payload
	events    []string
}

// A meteredConn counts its bytes.
type meteredConn struct {
	*net.TCPConn
	sent, received int
}

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.received += n
	return n, err
}

func (c *meteredConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.sent += n
	return n, err
}

type outgoing struct {
	seq  int
	text string
}

// incoming is any message from the server.
type incoming struct {
	Type      string
	Seq       int
	Received  int
	Resumed   bool
	Peers     []any
	SDP       json.RawMessage
	Candidate json.RawMessage
	Data      json.RawMessage
	Reason    string
	Code      string
}

var errCut = errors.New("connection lost")

// newCall makes the callers of a call, in a room of its own whose name is as long as any other's.
func newCall(s *service, number, try int) (a, b *caller) {
	direct := func() (net.Conn, error) { return net.Dial("tcp", s.addr) }
	deadline := time.Now().Add(30 * time.Second)
	nothing := func(int, int) {}
	room := fmt.Sprintf("call %06d.%d", number, try)
	a = &caller{room: room, key: key("A"), dial: direct, hangingUp: nothing, calls: true, deadline: deadline, secure: s.secure}
	b = &caller{room: room, key: key("B"), dial: direct, hangingUp: nothing, deadline: deadline, secure: s.secure}
	return a, b
}

// talk runs a call: b is there first. It returns when both have left.
func talk(a, b *caller) error {
	ready := make(chan struct{})
	there := sync.OnceFunc(func() { close(ready) })
	result := make(chan error, 1)
	go func() {
		err := b.run(there)
		there()
		result <- err
	}()
	<-ready
	err := a.run(func() {})
	return errors.Join(err, <-result)
}

// run connects until the call is over. joined is called after each join.
func (c *caller) run(joined func()) error {
	for range 10 {
		err := c.connect(joined)
		if c.conn != nil {
			c.conn.SetLinger(0) // nothing is under way; no port is left waiting
			c.conn.Close()
		}
		if c.left {
			return nil
		}
		if !errors.Is(err, errCut) {
			return fmt.Errorf("caller %.1s: %w (seq %d, handled %d, %d not acknowledged, events %q)", c.key, err, c.seq, c.handled, len(c.unacked), c.events)
		}
	}
	return errors.New("cut too often")
}

// connect is the life of one connection.
func (c *caller) connect(joined func()) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	c.conn = &meteredConn{TCPConn: conn.(*net.TCPConn)}
	c.over = c.conn
	if c.secure != nil {
		c.over = tls.Client(c.conn, c.secure)
	}
	c.in = bufio.NewReader(c.over)
	c.conn.SetDeadline(c.deadline)
	if _, err := io.WriteString(c.over, handshake); err != nil {
		return errCut
	}
	if err := readUpgrade(c.in); err != nil {
		return errCut
	}
	c.attempt++
	c.owed, c.ackBy = 0, time.Time{} // received says it
	if err := c.write(fmt.Sprintf(`{"type":"join","room":%q,"session":%q,"attempt":%d,"received":%d}`, c.room, c.key, c.attempt, c.handled)); err != nil {
		return err
	}
	first := true
	for !c.left {
		m, err := c.read()
		if err != nil {
			return err
		}
		if first != (m.Type == "joined") {
			return fmt.Errorf("joined must come first, and once: got %+v", m)
		}
		first = false
		if err := c.handle(m); err != nil {
			return err
		}
		if m.Type == "joined" {
			joined()
		}
	}
	return nil
}

func (c *caller) handle(m *incoming) error {
	switch m.Type {
	case "joined":
		return c.joined(m)
	case "ack":
		c.forget(m.Received)
		return nil
	}
	if m.Seq != c.handled+1 {
		return fmt.Errorf("seq %d after %d: %+v", m.Seq, c.handled, m)
	}
	c.handled++
	if err := c.oweAck(); err != nil {
		return err
	}
	switch m.Type {
	case "peer-joined", "peer-away", "peer-back":
		c.events = append(c.events, m.Type)
	case "peer-left":
		c.events = append(c.events, m.Type+":"+m.Reason)
		return c.leave()
	case "left":
		c.left = true
	case "offer", "answer":
		c.got = append(c.got, m.Type+string(m.SDP))
		if m.Type == "offer" {
			return c.speak()
		}
	case "candidate":
		c.got = append(c.got, m.Type+string(m.Candidate))
	case "message":
		c.got = append(c.got, m.Type+string(m.Data))
		switch string(m.Data) {
		case `"end"`: // the caller has said everything: so says the other
			if !c.calls {
				return c.relay("message", "data", `"bye"`)
			}
		case `"bye"`:
			return c.leave()
		}
	default:
		return fmt.Errorf("got %+v", m)
	}
	return nil
}

// joined begins the call, or goes on with it.
func (c *caller) joined(m *incoming) error {
	if m.Resumed {
		c.resumed++
	} else if c.seated || c.seq > 0 {
		return fmt.Errorf("the seat is gone: %+v", m)
	}
	c.forget(m.Received)
	for _, o := range c.unacked {
		if err := c.write(o.text); err != nil {
			return err
		}
	}
	first := !c.seated
	c.seated = true
	if first && c.calls {
		return c.speak()
	}
	return nil
}

// speak says all that this side has to say, at once.
func (c *caller) speak() error {
	kind := "answer"
	if c.calls {
		kind = "offer"
	}
	const line = "a=rtpmap:111 opus/48000/2"
	sdp := "v=0 " + c.key[:1] + " - 46117317 2 IN IP4 127.0.0.1" + strings.Repeat(line, 10)
	errs := []error{c.relay(kind, "sdp", fmt.Sprintf("%q", sdp))}
	for i := range 10 {
		errs = append(errs, c.relay("candidate", "candidate", fmt.Sprintf(
			`{"candidate":"candidate:%d 1 udp 2122260223 192.0.2.%d 61665 typ host","sdpMid":"0","sdpMLineIndex":0}`, i, i)))
	}
	errs = append(errs, c.relay("candidate", "candidate", "null"))
	for i := range 5 {
		errs = append(errs, c.relay("message", "data", fmt.Sprintf(`{"n":%d,"text":"hello from %.1s"}`, i, c.key)))
	}
	errs = append(errs, c.relay("message", "data", `"end"`))
	return errors.Join(errs...)
}

func (c *caller) leave() error {
	c.hangingUp(c.conn.sent, c.conn.received-c.in.Buffered())
	return c.count(`"leave"`)
}

// relay sends a message to the other side.
func (c *caller) relay(typ, member, value string) error {
	c.sent = append(c.sent, typ+value)
	return c.count(fmt.Sprintf(`%q,%q:%s`, typ, member, value))
}

// count sends a counted message and keeps it until it is acknowledged. It succeeds without a
// connection too: the message goes out on the next.
func (c *caller) count(rest string) error {
	c.seq++
	o := outgoing{c.seq, fmt.Sprintf(`{"seq":%d,"type":%s}`, c.seq, rest)}
	c.unacked = append(c.unacked, o)
	return c.write(o.text)
}

// forget drops what the server has handled.
func (c *caller) forget(received int) {
	for len(c.unacked) > 0 && c.unacked[0].seq <= received {
		c.unacked = c.unacked[1:]
	}
}

// oweAck acknowledges after 8 messages, or 1 s after the first.
func (c *caller) oweAck() error {
	c.owed++
	switch {
	case c.owed == 8:
		return c.ack()
	case c.ackBy.IsZero():
		c.ackBy = time.Now().Add(time.Second)
	}
	return nil
}

func (c *caller) ack() error {
	c.owed, c.ackBy = 0, time.Time{}
	return c.write(fmt.Sprintf(`{"type":"ack","received":%d}`, c.handled))
}

// write sends a message. That it could not is found by read, after what has arrived until then.
func (c *caller) write(text string) error {
	_, err := c.over.Write(textFrame(text))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// read returns the next message; errCut where the connection has ended without a close frame.
func (c *caller) read() (*incoming, error) {
	for {
		if !c.ackBy.IsZero() {
			c.conn.SetReadDeadline(c.ackBy)
		} else {
			c.conn.SetReadDeadline(c.deadline)
		}
		f, err := readFrame(c.in)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(c.deadline):
			if err := c.ack(); err != nil {
				return nil, err
			}
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case err != nil:
			return nil, errCut
		case f.op == opClose:
			code, reason := f.closeCode()
			return nil, fmt.Errorf("closed with %d %s", code, reason)
		case f.op != opText:
			continue
		}
		m := new(incoming)
		if err := json.Unmarshal(f.payload, m); err != nil {
			return nil, fmt.Errorf("%s: %w", f.payload, err)
		}
		return m, nil
	}
}

// ---- the proxy

// A cut is a TCP proxy for one caller. It cuts the first connection that is made through it, or the
// first two, as planned; further ones go straight to the server.
type cut struct {
	plan  cutPlan
	addr  string // of the server
	left  int    // connections still to be cut
	fired atomic.Int64

	mu      sync.Mutex // held while bytes are forwarded, so that disarm has a clear before and after
	limit   int        // no cut behind this byte
	open    []net.Conn // to be closed at the end
	copying sync.WaitGroup
}

func newCut(addr string, plan cutPlan) *cut {
	c := &cut{plan: plan, addr: addr, left: 1, limit: plan.after}
	if plan.twice {
		c.left = 2
	}
	return c
}

// dial is the caller's dial: it makes a proxy for this one connection and connects to it.
func (c *cut) dial() (net.Conn, error) {
	if c.left == 0 {
		return net.Dial("tcp", c.addr)
	}
	c.left--
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	inner, err := l.Accept()
	if err != nil {
		return nil, err
	}
	server, err := net.Dial("tcp", c.addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.open = append(c.open, inner, server)
	c.mu.Unlock()
	link := &link{cut: c, client: inner.(*net.TCPConn), server: server.(*net.TCPConn)}
	c.copying.Go(func() { link.forward(link.server, link.client, c.plan.up) })
	c.copying.Go(func() { link.forward(link.client, link.server, !c.plan.up) })
	return client, nil
}

// disarm lets what the caller says from now on pass: a cut behind the bytes that it has sent, or one
// among those it receives, does not happen any more.
func (c *cut) disarm(sent, _ int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = -1
	if c.plan.up {
		c.limit = sent
	}
}

// close ends all connections through the proxy.
func (c *cut) close() {
	c.mu.Lock()
	for _, conn := range c.open {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
	c.mu.Unlock()
	c.copying.Wait()
}

// A link is one connection through the proxy.
type link struct {
	cut            *cut
	client, server *net.TCPConn
	counted        int // bytes in the direction that is counted
	done           bool
}

// forward copies from src to dst until the link is cut. Bytes count in one direction.
func (l *link) forward(dst, src *net.TCPConn, counts bool) {
	buf := make([]byte, 4096)
	n := 0
	for {
		if !l.pass(dst, buf[:n], counts) {
			break
		}
		var err error
		if n, err = src.Read(buf); err != nil {
			dst.CloseWrite()
			return
		}
	}
	for { // after the cut: what comes is read, so that a FIN is no RST, and dropped
		if _, err := src.Read(buf); err != nil {
			return
		}
	}
}

// pass forwards p, or as much of it as the plan lets through. It reports false after the cut.
func (l *link) pass(dst *net.TCPConn, p []byte, counts bool) bool {
	l.cut.mu.Lock()
	defer l.cut.mu.Unlock()
	if l.done {
		return false
	}
	due := false
	if counts {
		rest := l.cut.plan.after - l.counted
		if due = len(p) >= rest && l.cut.plan.after <= l.cut.limit; due {
			p = p[:rest]
		}
		l.counted += len(p)
	}
	if len(p) > 0 {
		dst.Write(p)
	}
	if due {
		l.done = true
		l.cut.fired.Add(1)
		l.end()
	}
	return !l.done
}

// end cuts the link.
func (l *link) end() {
	switch l.cut.plan.how {
	case cutReset:
		for _, c := range []*net.TCPConn{l.client, l.server} {
			c.SetLinger(0)
			c.Close()
		}
	case cutFinish:
		l.client.CloseWrite()
		l.server.CloseWrite()
	case cutSilent:
		l.client.SetLinger(0)
		l.client.Close()
	}
}
