package natsbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"duet/signaling"
)

// coreServer starts a NATS server without JetStream.
func coreServer(tb testing.TB) *server.Server {
	tb.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		tb.Fatal("the NATS server is not ready after 10 s")
	}
	return s
}

// A hearer is a Listener made of functions; a nil one does nothing.
type hearer struct {
	frame   func([]byte)
	request func(context.Context, []byte) []byte
	info    signaling.NodeInfo
}

func (h hearer) Frame(frame []byte) {
	if h.frame != nil {
		h.frame(frame)
	}
}

func (h hearer) Request(ctx context.Context, request []byte) []byte {
	if h.request == nil {
		return nil
	}
	return h.request(ctx, request)
}

func (hearer) Silent(signaling.NodeID)    {}
func (hearer) Dead(signaling.NodeID)      {}
func (h hearer) Info() signaling.NodeInfo { return h.info }

// A testBus is a bus that runs until the test ends.
type testBus struct {
	*bus
	beacons chan beacon
	stop    func()
}

// startBus returns when everything that others send to node reaches it.
func startBus(tb testing.TB, url string, node signaling.NodeID, l signaling.Listener, options ...nats.Option) *testBus {
	tb.Helper()
	return startBusOf(tb, url, node, speaks(), l, options...)
}

// startBusOf is startBus for a node of another release.
func startBusOf(tb testing.TB, url string, node signaling.NodeID, versions span, l signaling.Listener, options ...nats.Option) *testBus {
	tb.Helper()
	conn, err := nats.Connect(url, append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(5 * time.Millisecond),
		nats.ReconnectJitter(5*time.Millisecond, 0), nats.ReconnectBufSize(-1), nats.FlusherTimeout(time.Minute)}, options...)...)
	if err != nil {
		tb.Fatal(err)
	}
	b := &testBus{beacons: make(chan beacon, 100)}
	b.bus = newBus(conn, node, "v1.2.3", versions, "test", func(sign beacon) { b.beacons <- sign }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.run(ctx, l) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
		conn.Close()
	})
	tb.Cleanup(b.stop)
	if _, err := b.Ask(tb.Context(), node, []byte("are you there?")); err != nil {
		tb.Fatal(err)
	}
	return b
}

// numbered is a frame of a test: who, on which lane, which one.
func numbered(sender, lane int, number uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(sender), byte(lane)}, number)
}

func TestLanesKeepTheirOrder(t *testing.T) {
	const senders, each = 3, 2000
	s := coreServer(t)
	var last [senders][signaling.Lanes]uint32 // each lane's column belongs to its goroutine
	var left sync.WaitGroup
	left.Add(senders * signaling.Lanes * each)
	startBus(t, s.ClientURL(), "receiver", hearer{frame: func(frame []byte) {
		defer left.Done()
		who, lane, number := frame[0], frame[1], binary.BigEndian.Uint32(frame[2:])
		if number != last[who][lane]+1 {
			t.Errorf("sender %d, lane %d: frame %d after %d", who, lane, number, last[who][lane])
		}
		last[who][lane] = number
	}})
	for who := range senders {
		b := startBus(t, s.ClientURL(), signaling.NodeID(fmt.Sprintf("sender-%d", who)), hearer{})
		for lane := range signaling.Lanes {
			go func() {
				for n := range uint32(each) {
					b.Send("receiver", lane, numbered(who, lane, n+1))
				}
			}()
		}
	}
	left.Wait()
}

func TestToOneself(t *testing.T) {
	got := make(chan string, 1)
	b := startBus(t, coreServer(t).ClientURL(), "me", hearer{
		frame:   func(frame []byte) { got <- string(frame) },
		request: func(_ context.Context, request []byte) []byte { return append([]byte("you said "), request...) },
	})
	b.Send("me", 15, []byte("hello"))
	if frame := <-got; frame != "hello" {
		t.Errorf("frame %q", frame)
	}
	answer, err := b.Ask(t.Context(), "me", []byte("hello"))
	if err != nil || string(answer) != "you said hello" {
		t.Errorf("Ask: %q, %v", answer, err)
	}
}

// A publisher that changes its server may send a frame that overtakes an earlier one.
func TestOvertakenFramesAreDropped(t *testing.T) {
	s := coreServer(t)
	got := make(chan string, 10)
	b := startBus(t, s.ClientURL(), "receiver", hearer{frame: func(frame []byte) { got <- string(frame) }})
	for _, m := range []struct {
		stamp, number uint64
	}{{1, 1}, {1, 3}, {1, 2}, {1, 3}, {2, 2}, {1, 4}} {
		frame := fmt.Appendf(nil, "%d/%d", m.stamp, m.number)
		if err := b.conn.Publish("test.v1.n.receiver.3", frameBytes(nil, 1, m.stamp, m.number, frame)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"1/1", "1/3", "2/2", "1/4"} {
		if frame := <-got; frame != want {
			t.Errorf("frame %s, want %s", frame, want)
		}
	}
	if n := testutil.ToFloat64(b.metrics.dropped.WithLabelValues("in", "overtaken")); n != 2 {
		t.Errorf("%v frames dropped as overtaken, want 2", n)
	}
}

func TestLaneForgetsSendersThatAreGone(t *testing.T) {
	b := newBusWithoutNATS()
	l := lane{bus: b, listener: hearer{}, recent: map[uint64]uint64{}}
	const always = 1 << 63 // goes on sending, and so is never forgotten
	for n := range uint64(10 * keepPeers) {
		l.receive(&nats.Msg{Data: frameBytes(nil, 1, always, n, nil)}) // once more
		l.receive(&nats.Msg{Data: frameBytes(nil, 1, always, n+1, nil)})
		l.receive(&nats.Msg{Data: frameBytes(nil, 1, 2*n, 1, nil)})
		l.receive(&nats.Msg{Data: frameBytes(nil, 1, 2*n+1, 1, nil)})
	}
	if n := len(l.recent) + len(l.older); n > 2*keepPeers {
		t.Errorf("%d senders remembered, want at most %d", n, 2*keepPeers)
	}
	if n := testutil.ToFloat64(b.metrics.dropped.WithLabelValues("in", "overtaken")); n != 10*keepPeers {
		t.Errorf("%v repeated frames dropped, want %d", n, 10*keepPeers)
	}
}

func newBusWithoutNATS() *bus {
	b := &bus{queue: newQueue(), speaks: speaks(), log: slog.New(slog.DiscardHandler), subjects: subjects{base: "test.v1."}}
	b.metrics = newBusMetrics(prometheus.NewRegistry(), b)
	return b
}

func TestUnknownVersionsAreDropped(t *testing.T) {
	got := make(chan string, 1)
	b := startBus(t, coreServer(t).ClientURL(), "me", hearer{frame: func(frame []byte) { got <- string(frame) }})
	for _, data := range [][]byte{nil, {1}, append([]byte{2}, make([]byte, 30)...), make([]byte, 30)} {
		if err := b.conn.Publish("test.v1.n.me.0", data); err != nil {
			t.Fatal(err)
		}
	}
	b.Send("me", 0, []byte("readable"))
	if frame := <-got; frame != "readable" {
		t.Errorf("frame %q", frame)
	}
	if n := testutil.ToFloat64(b.metrics.dropped.WithLabelValues("in", "unreadable")); n != 4 {
		t.Errorf("%v messages dropped as unreadable, want 4", n)
	}
}

func TestQueueBounds(t *testing.T) {
	b := newBusWithoutNATS()
	q := b.queue
	push := func(lane, size int) bool {
		return q.pushFrame("n", 1, lane, make([]byte, size), b.subjects.lane)
	}
	for n := range maxLaneFrames {
		if !push(0, 1) {
			t.Fatalf("full after %d frames", n)
		}
	}
	if push(0, 1) {
		t.Error("a frame too many is taken")
	}
	big := make([]byte, 1<<20)
	for n := range maxLaneBytes >> 20 {
		if !q.pushFrame("n", 1, 1, big, b.subjects.lane) {
			t.Fatalf("full after %d MiB", n)
		}
	}
	if push(1, 1) {
		t.Error("a byte too many is taken")
	}
	if !push(2, 1) {
		t.Error("a full lane fills another one")
	}
	batch := q.take(nil)
	if push(0, 1) {
		t.Error("what is taken and not published does not count")
	}
	for i := range batch {
		q.done(&batch[i])
	}
	if q.len() != 0 || !push(0, 1) || !push(1, 1) {
		t.Error("what is published still counts")
	}
}

func TestEmptyQueueKeepsLittle(t *testing.T) {
	b := newBusWithoutNATS()
	ended := make(chan struct{})
	close(ended)
	p := publisher{bus: b}
	for range 3 {
		for range 4 * keepQueue {
			b.Send("n", 0, []byte("a frame"))
		}
		p.publishAll(ended)
		if cap(p.spare) > keepQueue || cap(b.queue.waiting) > keepQueue || b.queue.len() != 0 {
			t.Errorf("room for %d and %d messages is kept, %d count", cap(p.spare), cap(b.queue.waiting), b.queue.len())
		}
	}
	if n := testutil.ToFloat64(b.metrics.dropped.WithLabelValues("out", "disconnected")); n != 12*keepQueue {
		t.Errorf("%v messages counted as dropped, want %d", n, 12*keepQueue)
	}
}

// A swallower is a TCP proxy before a NATS server that can stop reading, or cut what goes through it.
type swallower struct {
	net.Listener
	to     string
	mu     sync.Mutex
	open   []net.Conn
	closed bool         // nobody gets in any more
	gate   sync.RWMutex // write-locked: nothing is read from clients
}

func startSwallower(tb testing.TB, s *server.Server) *swallower {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &swallower{Listener: ln, to: s.Addr().String()}
	var loops sync.WaitGroup
	loops.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", p.to)
			if err != nil {
				client.Close()
				continue
			}
			if !p.enter(client, up) {
				return
			}
			loops.Go(func() { p.forward(up, client) })
			loops.Go(func() { io.Copy(client, up); client.Close() })
		}
	})
	tb.Cleanup(func() { p.close(); loops.Wait() })
	return p
}

// enter keeps two ends for cut, or closes them where the proxy was closed since the first was accepted.
func (p *swallower) enter(client, up net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		client.Close()
		up.Close()
		return false
	}
	p.open = append(p.open, client, up)
	return true
}

// close ends the connections that are open, and those that were just being made.
func (p *swallower) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Listener.Close()
	p.cut()
}

func (p *swallower) forward(up, client net.Conn) {
	defer up.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		p.gate.RLock()
		_, err = up.Write(buf[:n])
		p.gate.RUnlock()
		if err != nil {
			return
		}
	}
}

// cut ends the connections that are open.
func (p *swallower) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close()
	}
	p.open = nil
}

func (p *swallower) url() string { return "nats://" + p.Addr().String() }

func TestNothingBlocksOnAStuckSocket(t *testing.T) {
	s := coreServer(t)
	proxy := startSwallower(t, s)
	got := make(chan struct{}, 1)
	startBus(t, s.ClientURL(), "other", hearer{frame: func(frame []byte) {
		if string(frame) == "after" {
			got <- struct{}{}
		}
	}})
	b := startBus(t, proxy.url(), "me", hearer{})
	proxy.gate.Lock()
	release := sync.OnceFunc(proxy.gate.Unlock)
	t.Cleanup(release)

	frame := make([]byte, 16<<10)
	var longest time.Duration
	for range 2 * maxLaneBytes / len(frame) {
		start := time.Now()
		b.Send("other", 0, frame)
		longest = max(longest, time.Since(start))
	}
	if longest > 10*time.Second { // the connection's FlusherTimeout is a minute
		t.Errorf("a Send took %v", longest)
	}
	full := b.metrics.dropped.WithLabelValues("out", "full")
	if n := testutil.ToFloat64(full); n == 0 {
		t.Error("no frame is counted as dropped")
	}
	b.sayBeacon(beacon{Revision: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := b.Ask(ctx, "other", []byte("hello"))
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, signaling.ErrUnsure) {
		t.Errorf("a question that never left: %v", err)
	}
	if answers, silent, err := b.AskAll(ctx, nil); err == nil || len(answers) > 0 || !slices.Equal(silent, []signaling.NodeID{"me"}) {
		t.Errorf("AskAll: %v, %v, %v", answers, silent, err)
	}

	release()
	before := testutil.ToFloat64(full)
	b.Send("other", 1, []byte("after"))
	<-got
	if n := testutil.ToFloat64(full); n != before {
		t.Errorf("%v frames dropped after the socket took them again", n-before)
	}
	if answer, err := b.Ask(t.Context(), "me", nil); err != nil || len(answer) > 0 {
		t.Errorf("Ask: %q, %v", answer, err)
	}
	b.stop()
	if n := b.queue.len(); n != 0 {
		t.Errorf("%d messages still count", n)
	}
}

func TestReconnectLosesAndNeverRepeats(t *testing.T) {
	s := coreServer(t)
	proxy := startSwallower(t, s)
	const lanes, cuts = 4, 10
	var last [lanes]atomic.Uint32
	var received atomic.Int64
	arrived := make(chan struct{}, 1)
	b := startBus(t, proxy.url(), "both", hearer{frame: func(frame []byte) {
		lane, number := frame[1], binary.BigEndian.Uint32(frame[2:])
		if before := last[lane].Swap(number); number <= before {
			t.Errorf("lane %d: frame %d after %d", lane, number, before)
		}
		received.Add(1)
		select {
		case arrived <- struct{}{}:
		default:
		}
	}})
	var sent uint32
	for cut := range cuts + 1 {
		for range 1000 { // what of these is lost, nobody knows
			sent++
			for lane := range lanes {
				b.Send("both", lane, numbered(0, lane, sent))
			}
			if sent%100 == 50 && cut < cuts {
				proxy.cut()
			}
		}
		for round := sent; last[0].Load() <= round; { // until frames come through again
			sent++
			b.Send("both", 0, numbered(0, 0, sent))
			select {
			case <-arrived:
			case <-time.After(time.Millisecond):
			}
		}
	}
	if n := testutil.ToFloat64(b.metrics.reconnects); n < cuts {
		t.Errorf("%v reconnects counted, want at least %d", n, cuts)
	}
	if n := received.Load(); n == 0 || n >= int64(sent)*lanes {
		t.Errorf("%d of %d frames came: nothing was lost, nothing was shown", n, int64(sent)*lanes)
	}
}

func TestAskFails(t *testing.T) {
	s := coreServer(t)
	proxy := startSwallower(t, s)
	asked := make(chan struct{}, 1)
	b := startBus(t, proxy.url(), "me", hearer{})
	release := make(chan struct{})
	startBus(t, s.ClientURL(), "mute", hearer{request: func(_ context.Context, request []byte) []byte {
		if string(request) != "are you there?" {
			asked <- struct{}{}
			<-release
		}
		return nil
	}})
	t.Cleanup(func() { close(release) })

	t.Run("nobody of that name", func(t *testing.T) {
		_, err := b.Ask(t.Context(), "nobody", nil)
		if !errors.Is(err, signaling.ErrNoNode) || errors.Is(err, signaling.ErrUnsure) {
			t.Errorf("error %v", err)
		}
		if !strings.Contains(err.Error(), "nobody") {
			t.Errorf("error %q does not name the node", err)
		}
	})
	t.Run("before it is asked", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Ask(ctx, "mute", nil); !errors.Is(err, context.Canceled) || errors.Is(err, signaling.ErrUnsure) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("given up after it is asked", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { <-asked; cancel() }()
		if _, err := b.Ask(ctx, "mute", nil); !errors.Is(err, signaling.ErrUnsure) || !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("disconnected after it is asked", func(t *testing.T) {
		failed := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _, err := b.Ask(ctx, "mute", nil); failed <- err }()
		<-asked
		proxy.cut()
		if err := <-failed; !errors.Is(err, signaling.ErrUnsure) || !errors.Is(err, errDisconnected) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a request of a version that the node does not read", func(t *testing.T) {
		reply := nats.NewInbox()
		conn, err := nats.Connect(s.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sub, err := conn.SubscribeSync(reply)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.PublishRequest("test.v1.ctl.mute", reply, append([]byte{2}, "whatever"...)); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsgWithContext(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a := &asking{answers: make(chan answer, 1), reply: reply}
		b.askings.mu.Lock()
		b.askings.open[reply] = a
		b.askings.mu.Unlock()
		b.answered(m)
		if got := <-a.answers; !errors.Is(got.err, errRefused) || got.node != "mute" {
			t.Errorf("answer %+v", got)
		}
		b.askings.remove(a)
	})
	t.Run("disconnected before it is asked", func(t *testing.T) {
		proxy.close()
		for {
			_, err := b.Ask(t.Context(), "mute", nil)
			if err == nil {
				t.Fatal("answered")
			}
			if !errors.Is(err, signaling.ErrUnsure) { // the cut may be found a little later
				if !errors.Is(err, nats.ErrReconnectBufExceeded) {
					t.Errorf("error %v", err)
				}
				return
			}
		}
	})
	if n := len(b.askings.open); n != 0 {
		t.Errorf("%d questions are still waited for", n)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	s := coreServer(t)
	var running, most, late atomic.Int32
	busy, release := make(chan struct{}, 2*maxRequests), make(chan struct{})
	other := startBus(t, s.ClientURL(), "other", hearer{request: func(_ context.Context, request []byte) []byte {
		switch string(request) {
		case "late":
			late.Add(1)
		case "wait":
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			busy <- struct{}{}
			<-release
		}
		return request
	}})
	me := startBus(t, s.ClientURL(), "me", hearer{})
	var asks sync.WaitGroup
	for range maxRequests {
		asks.Go(func() {
			if answer, err := me.Ask(t.Context(), "other", []byte("wait")); err != nil || string(answer) != "wait" {
				t.Errorf("Ask: %q, %v", answer, err)
			}
		})
	}
	for range maxRequests {
		<-busy
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // enough to leave
	defer cancel()
	if _, err := me.Ask(ctx, "other", []byte("late")); !errors.Is(err, signaling.ErrUnsure) {
		t.Errorf("a request that waits: %v", err)
	}
	for range maxRequests {
		asks.Go(func() {
			if _, err := me.Ask(t.Context(), "other", []byte("wait")); err != nil {
				t.Errorf("Ask: %v", err)
			}
		})
	}
	close(release)
	asks.Wait()
	other.stop()
	if n := most.Load(); n > maxRequests {
		t.Errorf("%d requests were handled at a time, want at most %d", n, maxRequests)
	}
	if n := testutil.ToFloat64(other.metrics.dropped.WithLabelValues("in", "late")); late.Load() != 0 || n != 1 {
		t.Errorf("a request that nobody waits for was handled (%d) or not counted (%v)", late.Load(), n)
	}
}

func TestAskAll(t *testing.T) {
	s := coreServer(t)
	echo := hearer{request: func(_ context.Context, request []byte) []byte { return request }, info: signaling.NodeInfo{Rooms: 3, Seats: 5}}
	asked, release := make(chan struct{}, 10), make(chan struct{})
	t.Cleanup(func() { close(release) })
	a := startBus(t, s.ClientURL(), "a", echo)
	b := startBus(t, s.ClientURL(), "b", echo)
	c := startBus(t, s.ClientURL(), "c", hearer{request: func(ctx context.Context, request []byte) []byte {
		if string(request) == "all" {
			asked <- struct{}{}
			select {
			case <-ctx.Done():
			case <-release:
			}
		}
		return nil
	}})
	for _, other := range []*testBus{b, c} {
		other.sayBeacon(beacon{Revision: 7, Info: signaling.NodeInfo{Rooms: 1, Draining: true}})
		for sign := (beacon{}); sign.Revision != 7; {
			sign = <-a.beacons
		}
	}
	want := []signaling.NodeInfo{
		{ID: "a", Version: "v1.2.3", Rooms: 3, Seats: 5},
		{ID: "b", Version: "v1.2.3", Rooms: 1, Draining: true},
		{ID: "c", Version: "v1.2.3", Rooms: 1, Draining: true},
	}
	if nodes := a.Nodes(); !slices.Equal(nodes, want) {
		t.Errorf("nodes %+v, want %+v", nodes, want)
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	answers, silent, err := a.AskAll(ctx, []byte("all"))
	if err != nil || !slices.Contains(silent, "c") || len(answers)+len(silent) != 3 {
		t.Errorf("answers %q, silent %v, error %v", answers, silent, err)
	}

	a.forget("c")
	answers, silent, err = a.AskAll(t.Context(), []byte("all"))
	if err != nil || len(silent) > 0 || string(answers["a"]) != "all" || string(answers["b"]) != "all" {
		t.Errorf("without c: answers %q, silent %v, error %v", answers, silent, err)
	}
	a.mu.Lock()
	a.roster["b"] = sighting{info: a.roster["b"].info, at: time.Now().Add(-forgetAfter - time.Second)}
	a.mu.Unlock()
	if nodes := a.Nodes(); len(nodes) != 1 {
		t.Errorf("a node not heard for a minute is still there: %+v", nodes)
	}
}

func TestBeaconOnTheWire(t *testing.T) {
	s := coreServer(t)
	b := startBus(t, s.ClientURL(), "me", hearer{})
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sub, err := conn.SubscribeSync("test.v1.hb")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	b.sayBeacon(beacon{Revision: 12, Info: signaling.NodeInfo{Rooms: 1, Seats: 2, Draining: true}})
	m, err := sub.NextMsgWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"v":1,"newest":1,"node":"me","rev":12,"ver":"v1.2.3","rooms":1,"seats":2,"draining":true}`; string(m.Data) != want {
		t.Errorf("beacon %s, want %s", m.Data, want)
	}
	for _, sign := range []string{
		`{"v":2,"node":17}`, `{"v":0,"node":"x"}`, `{"node":"x"}`, `{"v":1}`, `[]`, ``, `{"v":1,"node":"me","rev":3}`,
		`{"v":1,"node":"x","rev":9,"of tomorrow":true}`,
	} {
		if err := conn.Publish("test.v1.hb", []byte(sign)); err != nil {
			t.Fatal(err)
		}
	}
	want := beacon{Node: "x", Revision: 9, Info: signaling.NodeInfo{ID: "x"}}
	if sign := <-b.beacons; sign != want {
		t.Errorf("heard %+v, want %+v", sign, want)
	}
	if n := testutil.ToFloat64(b.metrics.dropped.WithLabelValues("in", "unreadable")); n != 6 {
		t.Errorf("%v beacons dropped as unreadable, want 6", n)
	}
}

// A node that is new need not wait for the others' next beacons, and is not answered twice.
func TestNewcomerIsGreeted(t *testing.T) {
	s := coreServer(t)
	old := startBus(t, s.ClientURL(), "old", hearer{})
	old.sayBeacon(beacon{Revision: 3, Info: signaling.NodeInfo{Rooms: 7}})
	if _, err := old.Ask(t.Context(), "old", nil); err != nil { // the beacon has left
		t.Fatal(err)
	}
	fresh := startBus(t, s.ClientURL(), "new", hearer{})
	said := beacon{Node: "old", Revision: 3, Info: signaling.NodeInfo{ID: "old", Version: "v1.2.3", Rooms: 7}}
	for range 2 {
		fresh.sayBeacon(beacon{Revision: 4})
		if sign := <-old.beacons; sign.Node != "new" || sign.Revision != 4 {
			t.Errorf("the old node hears %+v", sign)
		}
	}
	if sign := <-fresh.beacons; sign != said {
		t.Errorf("the new node hears %+v, want %+v", sign, said)
	}
	for _, b := range []*testBus{old, fresh} {
		if nodes := b.Nodes(); len(nodes) != 2 {
			t.Errorf("%s knows %+v", b.self, nodes)
		}
		if _, err := b.Ask(t.Context(), b.self, nil); err != nil { // behind all that was said to it
			t.Fatal(err)
		}
		if n := len(b.beacons); n > 0 {
			t.Errorf("%s hears %d beacons more: %+v", b.self, n, <-b.beacons)
		}
	}
}

// A node's last beacon takes it off the others' lists: nobody waits for its answer.
func TestGoneNodeIsNotWaitedFor(t *testing.T) {
	s := coreServer(t)
	b, other := startBus(t, s.ClientURL(), "me", hearer{}), startBus(t, s.ClientURL(), "other", hearer{})
	for _, said := range []struct {
		gone bool
		want int
	}{{false, 2}, {true, 1}} {
		sign := beacon{Revision: 1, Gone: said.gone}
		if said.gone {
			if err := other.sayGone(t.Context(), sign); err != nil {
				t.Fatal(err)
			}
		} else {
			other.sayBeacon(sign)
		}
		if got := <-b.beacons; got.Node != "other" || got.Gone != said.gone {
			t.Errorf("heard %+v", got)
		}
		if nodes := b.Nodes(); len(nodes) != said.want {
			t.Errorf("gone: %v, and the nodes are %+v", said.gone, nodes)
		}
	}
}

// What is said last still leaves.
func TestLastWords(t *testing.T) {
	s := coreServer(t)
	got := make(chan []byte, 1000)
	startBus(t, s.ClientURL(), "other", hearer{frame: func(frame []byte) { got <- bytes.Clone(frame) }})
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := newBus(conn, "me", "", speaks(), "test", nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	for n := range uint32(1000) {
		b.Send("other", 0, numbered(0, 0, n))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	(&publisher{bus: b}).run(ctx)
	for n := range uint32(1000) {
		if frame := <-got; binary.BigEndian.Uint32(frame[2:]) != n {
			t.Fatalf("frame %v, want number %d", frame, n)
		}
	}
}

// BenchmarkSend is a frame there and one back, between two nodes on one server, beside the same with
// nothing but nats.Conn.
func BenchmarkSend(b *testing.B) {
	frame := make([]byte, 500)
	b.Run("bus", func(b *testing.B) {
		s := coreServer(b)
		back := make(chan struct{}, 1)
		one := startBus(b, s.ClientURL(), "one", hearer{frame: func([]byte) { back <- struct{}{} }})
		var two *testBus
		two = startBus(b, s.ClientURL(), "two", hearer{frame: func([]byte) { two.Send("one", 0, frame) }})
		b.ReportAllocs()
		for b.Loop() {
			one.Send("two", 0, frame)
			<-back
		}
	})
	b.Run("nats", func(b *testing.B) {
		s := coreServer(b)
		connect := func(subject string, handler nats.MsgHandler) *nats.Conn {
			conn, err := nats.Connect(s.ClientURL())
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(conn.Close)
			if _, err := conn.Subscribe(subject, handler); err != nil {
				b.Fatal(err)
			}
			if err := conn.Flush(); err != nil {
				b.Fatal(err)
			}
			return conn
		}
		back := make(chan struct{}, 1)
		one := connect("one", func(*nats.Msg) { back <- struct{}{} })
		var two *nats.Conn
		two = connect("two", func(*nats.Msg) { two.Publish("one", frame) })
		b.ReportAllocs()
		for b.Loop() {
			one.Publish("two", frame)
			<-back
		}
	})
}
