package httpapi

import (
	"bufio"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// parked is how many sockets wait without a goroutine.
func (s *service) parked() int {
	p := &s.api.sockets.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sockets)
}

func (s *service) wantParked(n int) {
	s.t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(s.patience); s.parked() != n; <-poll.C {
		if time.Now().After(end) {
			s.t.Fatalf("%d sockets parked, want %d", s.parked(), n)
		}
	}
}

// Whoever waits costs no goroutine, and is reached all the same: by its peer, by the server's pings,
// by its own next message, by the end of either side.
func TestParkedSockets(t *testing.T) {
	const pairs = 50
	before := runtime.NumGoroutine()
	s := serveTCP(t, func(set *settings) { set.PingInterval, set.PongTimeout = 300*time.Millisecond, 10*time.Second })
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

// A peer that speaks now and then is waited for longer each time.
func TestPatience(t *testing.T) {
	now := time.Now()
	w := &wire{cfg: &Config{PingInterval: time.Hour, JoinTimeout: time.Hour}, now: func() time.Time { return now },
		joined: func() bool { return true }, parks: true, patience: minPatience, closeBy: now}
	w.reader, w.heardAt = bufio.NewReader(w), now
	for want := 2 * minPatience; w.patience < maxPatience; want = min(2*want, maxPatience) {
		w.sleep()
		now = now.Add(maxPatience / 2)
		w.awake()
		if w.patience != want {
			t.Fatalf("patience %v, want %v", w.patience, want)
		}
		if !w.tiredAt().Equal(now.Add(want)) {
			t.Fatalf("tired %v from now, want %v", w.tiredAt().Sub(now), want)
		}
	}
	w.sleep()
	now = now.Add(maxPatience)
	if w.awake(); w.patience != minPatience {
		t.Fatalf("after a long sleep: %v", w.patience)
	}
}
