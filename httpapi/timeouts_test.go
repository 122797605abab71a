package httpapi

import (
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs f in fake time, with a service over pipes.
func bubble(t *testing.T, f func(t *testing.T, s *service)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, servePipes(t, nil)) })
}

// pair seats b and then a, who has the session named, in a room. Both have said nothing since.
func (s *service) pair(session string) (a, b *testConn) { return s.pairIn("demo", session) }

func (s *service) pairIn(room, session string) (a, b *testConn) {
	s.t.Helper()
	b = s.open()
	b.join(room, "")
	a = s.open()
	a.join(room, session)
	b.want("peer-joined")
	return a, b
}

// wantAfter fails the test where at is not exactly d after start.
func wantAfter(t testing.TB, what string, start, at time.Time, d time.Duration) {
	t.Helper()
	if got := at.Sub(start); got != d {
		t.Errorf("%s after %v, want %v", what, got, d)
	}
}

func TestSilentPeerIsPingedThenCut(t *testing.T) {
	for _, tt := range []struct{ name, session, event, reason string }{
		{"with a session", key("a"), "peer-away", ""},
		{"without", "", "peer-left", "timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, b := s.pair(tt.session)
				a.mute.Store(true)
				start := time.Now()
				wantAfter(t, "ping", start, a.wantPing(), 20*time.Second)
				wantAfter(t, "end", start, a.wantEnd(1006), 30*time.Second)
				m, at := b.wantTimed(tt.event)
				wantAfter(t, tt.event, start, at, 30*time.Second)
				if reason, _ := m["reason"].(string); m.peer() != a.id || reason != tt.reason {
					t.Errorf("got %v, want reason %q", m, tt.reason)
				}
			})
		})
	}
}

func TestAnyByteAnswersAPing(t *testing.T) {
	whole := textFrame(`{"type":"ping"}`)
	for _, tt := range []struct {
		name  string
		parts [][]byte // 2 s apart
	}{
		{"the pong", [][]byte{makeFrame(final|opPong, "1")}},
		{"a pong nobody asked for", [][]byte{makeFrame(final|opPong, "?")}},
		{"a ping", [][]byte{makeFrame(final|opPing, "")}},
		{"a message", [][]byte{whole}},
		{"parts of a message", [][]byte{whole[:1], whole[1:3], whole[3:]}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, _ := s.pair("")
				a.mute.Store(true)
				for range 3 {
					a.wantPing()
					time.Sleep(5 * time.Second)
					for _, part := range tt.parts {
						a.write(part)
						time.Sleep(2 * time.Second)
					}
					wantAfter(t, "next ping", time.Now(), a.wantPing(), 18*time.Second)
					a.write(makeFrame(final|opPong, ""))
				}
				last := time.Now()
				wantAfter(t, "end", last, a.wantEnd(1006), 30*time.Second)
			})
		})
	}
}

func TestBusyConnectionIsNotPinged(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		a, _ := s.pair("")
		for range 20 {
			time.Sleep(19 * time.Second)
			a.send(`{"type":"ping"}`)
			a.want("pong")
		}
		synctest.Wait()
		select {
		case f := <-a.frames:
			t.Errorf("got %x %s", f.op, f.payload)
		default:
		}
	})
}

func TestJoinTimeout(t *testing.T) {
	t.Run("never joined", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			start := time.Now()
			wantAfter(t, "end", start, s.open().wantEnd(4000), 60*time.Second)
		})
	})
	t.Run("other messages do not postpone it", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			c := s.open()
			start := time.Now()
			for range 5 {
				time.Sleep(11 * time.Second)
				c.send(`{"type":"ping"}`)
				c.want("pong")
				c.send(`{"type":"join","room":""}`)
				c.wantError("bad-message")
			}
			wantAfter(t, "end", start, c.wantEnd(4000), 60*time.Second)
		})
	})
	t.Run("joined at the last moment", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			c := s.open()
			time.Sleep(60*time.Second - time.Nanosecond)
			c.join("demo", "")
			time.Sleep(10 * time.Minute)
			c.send(`{"type":"ping"}`)
			c.want("pong")
		})
	})
	t.Run("after leave", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			c := s.open()
			for range 3 {
				time.Sleep(59 * time.Second)
				c.join("demo", "")
				time.Sleep(5 * time.Minute)
				c.send(`{"type":"leave"}`)
				c.want("left")
			}
			left := time.Now()
			wantAfter(t, "end", left, c.wantEnd(4000), 60*time.Second)
		})
	})
}

// trickle writes the parts one second after the other, over and over, until the connection ends.
func (c *testConn) trickle(parts ...[]byte) {
	c.pump.Go(func() {
		for {
			for _, p := range parts {
				if _, err := c.Write(p); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}
	})
}

// single splits b into its bytes.
func single(b []byte) (parts [][]byte) {
	for i := range b {
		parts = append(parts, b[i:i+1])
	}
	return parts
}

func TestMessageTakesTooLong(t *testing.T) {
	long := textFrame(`{"type":"message","data":"` + string(make([]byte, 200)) + `"}`)
	whole := textFrame(`{"type":"ping"}`)
	ping := makeFrame(final|opPing, "hello")
	opened := makeFrame(opText, `{"type"`)
	for _, tt := range []struct {
		name  string
		first []byte   // at once
		then  [][]byte // a second apart, over and over
		want  time.Duration
	}{
		{"one byte and silence", long[:1], nil, 10 * time.Second},
		{"half a message and silence", long[:100], nil, 10 * time.Second},
		{"trickled", nil, single(long), 10 * time.Second},
		{"trickled payload", long[:8], single(long[8:]), 10 * time.Second},
		{"next message partly behind a whole one", append(whole[:len(whole):len(whole)], long[:20]...), nil, 10 * time.Second},
		{"next message trickled behind a whole one", append(whole[:len(whole):len(whole)], long[:8]...), single(long[8:]), 10 * time.Second},
		{"fragments without end", opened, [][]byte{makeFrame(opContinuation, "a")}, 10 * time.Second},
		{"empty fragments without end", opened, [][]byte{makeFrame(opContinuation, "")}, 10 * time.Second},
		{"pings inside a message without end", opened, [][]byte{ping}, 10 * time.Second},
		{"ping trickled", nil, single(ping), 4 * time.Second},
		{"ping partly", ping[:7], nil, 4 * time.Second},
		{"ping partly behind a message", append(whole[:len(whole):len(whole)], ping[:7]...), nil, 4 * time.Second},
		{"ping partly behind a ping", append(ping[:len(ping):len(ping)], ping[:7]...), nil, 4 * time.Second},
		{"ping partly inside a message", append(opened[:len(opened):len(opened)], ping[:7]...), nil, 4 * time.Second},
		{"ping late inside a message", opened, append([][]byte{nil, nil, nil, ping[:7]}, make([][]byte, 100)...), 7 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, b := s.pair(key("a"))
				time.Sleep(3 * time.Second)
				start := time.Now()
				if tt.first != nil {
					a.write(tt.first)
				}
				if tt.then != nil {
					a.trickle(tt.then...)
				}
				wantAfter(t, "end", start, a.wantEnd(1008), tt.want)
				m, at := b.wantTimed("peer-left")
				wantAfter(t, "peer-left", start, at, tt.want)
				if m["reason"] != "error" {
					t.Errorf("got %v", m)
				}
			})
		})
	}
}

func TestSlowMessageIsHandled(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		a, b := s.pair("")
		whole := textFrame(`{"type":"message","data":"slow"}`)
		opened, closed := makeFrame(opText, `{"type":"mess`), makeFrame(final|opContinuation, `age","data":"slow"}`)
		const almost = 10*time.Second - time.Nanosecond
		for range 3 {
			a.write(whole[:1])
			time.Sleep(almost)
			a.write(whole[1:])
			b.want("message")

			a.write(opened)
			time.Sleep(almost)
			a.write(closed)
			b.want("message")

			// The rest of one message and all of another in one piece, then silence.
			a.write(whole[:20])
			time.Sleep(almost)
			a.write(append(whole[20:len(whole):len(whole)], whole...))
			b.want("message")
			b.want("message")
			time.Sleep(50 * time.Second) // not a whole number of ping intervals: a pong would get into the middle of what comes next
		}
		a.send(`{"type":"ping"}`)
		a.want("pong")
	})
}

// openDeaf connects and joins, and reads no more than it must for that.
func (s *service) openDeaf(room, session string) *testConn {
	s.t.Helper()
	c := s.dial()
	c.upgrade()
	c.session = session
	c.send(`{"type":"join","room":%q,"session":%q}`, room, session)
	if f, err := readFrame(c.in); err != nil || f.op != opText {
		s.t.Fatalf("join: %s %v", f.payload, err)
	}
	return c
}

func TestReaderThatStops(t *testing.T) {
	const text = `,"data":"0123456789012345678901234567890123456789"`
	for _, tt := range []struct {
		name   string
		silent time.Duration // of the deaf one before the write that blocks: decides when a ping is due
		reads  int           // bytes of that write before it stops
		back   time.Duration // when it reads again, after the write began
		sees   int           // the close code it then sees
	}{
		{"at a frame's beginning", 0, 0, 11 * time.Second, 4001},
		{"inside a frame", 0, 7, 11 * time.Second, 4001},
		{"with one byte to go", 0, 103, 11 * time.Second, 4001},
		{"as a ping becomes due", 18 * time.Second, 0, 11 * time.Second, 4001},
		{"for ever", 0, 3, 12 * time.Second, 1006},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				b := s.open()
				b.join("demo", "")
				a := s.openDeaf("demo", key("a"))
				a.mute.Store(true)
				b.want("peer-joined")
				time.Sleep(tt.silent)
				start := time.Now()
				b.count("message", text)
				head := make([]byte, tt.reads)
				for i := range head {
					if _, err := a.Read(head[i : i+1]); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(tt.back)
				_, at := b.wantTimed("peer-away")
				wantAfter(t, "peer-away", start, at, 10*time.Second)
				a.in.Reset(multiReader(head, a.Conn))
				a.listen()
				if tt.sees != 1006 {
					if m := a.want("message"); m["data"] != "0123456789012345678901234567890123456789" {
						t.Errorf("got %v", m)
					}
				}
				a.wantEnd(tt.sees)
				synctest.Wait()
				if n := s.api.Connections(); n != 1 && tt.sees == 1006 {
					t.Errorf("%d connections open", n)
				}
			})
		})
	}
}

// A peer that does not read but pings, or closes, must not hold its connection, nor lose its seat
// for something it did not do.
func TestControlFramesOfAReaderThatStopped(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sends []byte
		after time.Duration // the write began
		event string
		at    time.Duration
	}{
		{"pings", makeFrame(final|opPing, "?"), 3 * time.Second, "peer-away", 10 * time.Second},
		{"closes", closeFrame(1000, ""), 3 * time.Second, "peer-left", 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				b := s.open()
				b.join("demo", "")
				a := s.openDeaf("demo", key("a"))
				b.want("peer-joined")
				start := time.Now()
				b.count("message", `,"data":1`)
				time.Sleep(tt.after)
				a.write(tt.sends)
				_, at := b.wantTimed(tt.event)
				wantAfter(t, tt.event, start, at, tt.at)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if n := s.api.Connections(); n != 1 {
					t.Errorf("%d connections open 2 s later", n)
				}
			})
		})
	}
}
