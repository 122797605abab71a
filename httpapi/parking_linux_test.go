package httpapi

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// parked is how many sockets wait without a goroutine.
func (s *service) parked() int {
	p := &s.api.sockets.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, s := range p.due {
		if s.reading.state.Load() == idle {
			n++
		}
	}
	return n
}

func (s *service) wantParked(n int) {
	s.t.Helper()
	s.await("sockets parked", s.parked, n)
}

// Whoever waits costs no goroutine, and is reached all the same: by its peer, by the server's pings,
// by its own next message, by the end of either side.
func TestParkedSockets(t *testing.T) {
	const pairs = 50
	before := runtime.NumGoroutine()
	s := serveTCP(t, func(set *settings) { set.PingInterval, set.PongTimeout = 300*time.Millisecond, time.Hour })
	var a, b [pairs]*testConn
	for i := range pairs {
		a[i], b[i] = s.open(), s.open()
		a[i].join(fmt.Sprint("room ", i), key(fmt.Sprint("a", i)))
		b[i].join(fmt.Sprint("room ", i), "")
		a[i].want("peer-joined")
	}
	s.wantParked(2 * pairs)
	// The clients' own readers, the rooms, and what serves.
	if n := runtime.NumGoroutine() - before; n > 2*pairs+pairs+10 {
		t.Errorf("%d goroutines for %d parked sockets", n, 2*pairs)
	}
	for i := range pairs {
		b[i].send(`{"type":"message","data":%d}`, i)
		if m := a[i].want("message"); m["data"] != float64(i) {
			t.Errorf("got %v", m)
		}
	}
	for _, c := range append(a[:], b[:]...) {
		c.wantPing()
		c.wantPing()
	}
	s.wantParked(2 * pairs)
	if n := s.api.Connections(); n != 2*pairs {
		t.Fatalf("%d connections, want %d", n, 2*pairs)
	}
	a[0].reset()
	b[0].want("peer-away")
	b[1].write(closeFrame(1000, ""))
	b[1].wantEnd(1000)
	a[1].want("peer-left")
	// The rest is parked when the test ends: it drains.
}

// A parked socket whose peer is gone without a word is given up like any other.
func TestParkedAndSilent(t *testing.T) {
	s := serveTCP(t, func(set *settings) { set.PingInterval, set.PongTimeout = 200*time.Millisecond, 200*time.Millisecond })
	a, b := s.open(), s.open()
	a.join("demo", key("a"))
	b.join("demo", "")
	a.mute.Store(true)
	b.want("peer-away")
}

// What came together with the end is read, and so is the end.
func TestBytesBeforeTheEnd(t *testing.T) {
	s := serveTCP(t, nil)
	for i := range 50 {
		a, b := s.pairIn(fmt.Sprint("room ", i), "")
		s.wantParked(2)
		a.mute.Store(true)
		a.write(textFrame(`{"type":"message","data":1}`))
		a.Conn.(*net.TCPConn).CloseWrite()
		b.want("message")
		if m := b.want("peer-left"); m["reason"] != "left" {
			t.Errorf("got %v", m)
		}
		b.write(closeFrame(1000, ""))
		b.wantEnd(1000)
		s.gone(time.Now(), 0)
	}
}

// A peer that begins a message and stops in its middle is waited for, and pinged all the same.
func TestMessageInPieces(t *testing.T) {
	s := serveTCP(t, func(set *settings) { set.PingInterval, set.PongTimeout = 200*time.Millisecond, time.Hour })
	a, b := s.pair("")
	a.mute.Store(true) // a pong would get into the middle
	s.wantParked(2)
	whole := textFrame(`{"type":"message","data":"` + strings.Repeat("x", 10_000) + `"}`)
	for range 3 {
		a.write(whole[:5000])
		a.wantPing()
		a.write(whole[5000 : len(whole)-1])
		b.wantPing()
		a.write(append(whole[len(whole)-1:len(whole):len(whole)], whole...))
		b.want("message")
		b.want("message")
		s.wantParked(2)
	}
}

// The join timeout counts from a leave also where it is shorter than what the parking waited for.
func TestParkedAfterLeaving(t *testing.T) {
	s := serveTCP(t, func(set *settings) { set.JoinTimeout = 200 * time.Millisecond })
	c := s.open()
	c.join("demo", "")
	s.wantParked(1)
	c.send(`{"type":"leave"}`)
	c.want("left")
	c.wantEnd(4000)
}

// A read that fills its buffer to the brim is followed by another: nothing wakes the reader for what
// was there already.
func TestMessagesBeyondOneRead(t *testing.T) {
	s := serveTCP(t, nil)
	a, b := s.pair("")
	const open, end, header, buffer = `{"type":"message","data":"`, `"}`, 8, 4 << 10
	full := textFrame(open + strings.Repeat("x", buffer-header-len(open)-len(end)) + end)
	if len(full) != buffer {
		t.Fatalf("the frame has %d bytes", len(full))
	}
	for range 5 {
		s.wantParked(2)
		a.write(append(full[:buffer:buffer], textFrame(`{"type":"message","data":2}`)...))
		b.want("message")
		if m := b.want("message"); m["data"] != 2.0 {
			t.Fatalf("got %v", m)
		}
	}
}

// The limit holds for messages of one frame and one read as for all others.
func TestTooBigInOneRead(t *testing.T) {
	s := serveTCP(t, func(set *settings) { set.MaxMessageBytes = 1024 })
	a, _ := s.pair("")
	a.write(textFrame(`{"type":"message","data":"` + strings.Repeat("x", 1024) + `"}`))
	a.wantEnd(1009)
}
