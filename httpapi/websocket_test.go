package httpapi

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"duet/signaling"
)

// The session of docs/protocol.md, section 1: what somebody types who has a terminal and nothing else.
func TestCallWithoutSession(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		b := s.open()
		b.join("demo", "")
		a := s.open()
		joined := a.join("demo", "")
		if peers := fmt.Sprint(joined["peers"]); peers != fmt.Sprintf("[map[id:%s]]", b.id) || joined["grace"] != 0.0 {
			t.Errorf("got %v", joined)
		}
		if m := b.want("peer-joined"); m.peer() != a.id {
			t.Errorf("got %v", m)
		}
		for _, m := range []message{
			{"type": "offer", "sdp": "v=0\r\n"},
			{"type": "answer", "sdp": "v=0\r\n"},
			{"type": "candidate", "candidate": map[string]any{"candidate": "candidate:0 1 udp", "sdpMid": "0"}},
			{"type": "candidate", "candidate": nil},
			{"type": "message", "data": []any{1.0, "héllo \u2028 🙂", nil}},
		} {
			a.sendJSON(m)
			got := b.want(m.typ())
			m["from"] = a.id
			if fmt.Sprint(got) != fmt.Sprint(m) {
				t.Errorf("got %v, want %v", got, m)
			}
		}
		a.send(`{"type":"leave"}`)
		if m := a.want("left"); m["room"] != "demo" {
			t.Errorf("got %v", m)
		}
		if m := b.want("peer-left"); m.peer() != a.id || m["reason"] != "left" {
			t.Errorf("got %v", m)
		}
		a.join("demo", "") // the connection stays open for another
		b.want("peer-joined")
		a.write(closeFrame(1000, ""))
		a.wantEnd(1000)
		b.want("peer-left")
	})
}

func TestSubprotocol(t *testing.T) {
	for _, tt := range []struct{ offered, want string }{
		{"", ""},
		{"duet.v1", "duet.v1"},
		{"other, duet.v1", "duet.v1"},
		{"duet.v2", ""},
	} {
		s := serveTCP(t, nil)
		c := s.dial()
		request := handshake
		if tt.offered != "" {
			request = strings.TrimSuffix(request, "\r\n") + "Sec-WebSocket-Protocol: " + tt.offered + "\r\n" +
				"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
		}
		c.write([]byte(request))
		res := c.readResponse()
		if got := res.Header.Get("Sec-WebSocket-Protocol"); res.StatusCode != 101 || got != tt.want {
			t.Errorf("offered %q: %s with %q, want %q", tt.offered, res.Status, got, tt.want)
		}
		if got := res.Header.Get("Sec-WebSocket-Extensions"); got != "" {
			t.Errorf("negotiated %q", got)
		}
	}
}

// only returns the one socket that is open and not among known.
func (s *service) only(known ...*socket) *socket {
	s.t.Helper()
	s.api.sockets.mu.Lock()
	defer s.api.sockets.mu.Unlock()
	var found *socket
	for open := range s.api.sockets.open {
		old := false
		for _, k := range known {
			old = old || k == open
		}
		if !old {
			if found != nil {
				s.t.Fatal("more than one")
			}
			found = open
		}
	}
	return found
}

// pairWithSocket is pair, and the server's side of a.
func (s *service) pairWithSocket(session string) (a, b *testConn, ofA *socket) {
	s.t.Helper()
	b = s.open()
	b.join("demo", "")
	known := s.only()
	a = s.open()
	a.join("demo", session)
	b.want("peer-joined")
	return a, b, s.only(known)
}

// docs/protocol.md, section 5: how a connection ends decides what its seat does.
func TestEndOfAConnection(t *testing.T) {
	const atOnce, eight, grace = 0, 8 * time.Second, 30 * time.Second
	clientCloses := func(code int) func(*testConn, *socket) {
		return func(c *testConn, _ *socket) { c.write(closeFrame(code, "bye")) }
	}
	serverCloses := func(cause error) func(*testConn, *socket) {
		return func(_ *testConn, s *socket) { s.Close(cause) }
	}
	sends := func(frame []byte) func(*testConn, *socket) {
		return func(c *testConn, _ *socket) { c.write(frame) }
	}
	for _, tt := range []struct {
		name  string
		how   func(*testConn, *socket)
		code  int           // that the client sees
		kept  time.Duration // of a seat with a session
		why   string        // peer-left, where it is freed at once
		plain string        // peer-left, of a seat without session
	}{
		{"client 1000", clientCloses(1000), 1000, atOnce, "left", "left"},
		{"client without code", sends(makeFrame(final|opClose, "")), 1005, atOnce, "left", "left"},
		{"client 4500", clientCloses(4500), 4500, atOnce, "left", "left"},
		{"client 4999", clientCloses(4999), 4999, atOnce, "left", "left"},
		{"client 1001", clientCloses(1001), 1001, eight, "", "left"},
		{"client 1002", clientCloses(1002), 1002, grace, "", "left"},
		{"client 1008", clientCloses(1008), 1008, grace, "", "left"},
		{"client 1011", clientCloses(1011), 1011, grace, "", "left"},
		{"client 3000", clientCloses(3000), 3000, grace, "", "left"},
		{"client 4000", clientCloses(4000), 4000, grace, "", "left"},
		{"client 4100", clientCloses(4100), 4100, grace, "", "left"},
		{"client 4499", clientCloses(4499), 4499, grace, "", "left"},
		{"no close frame", func(c *testConn, _ *socket) { c.Close() }, 1006, grace, "", "left"},

		{"server 1012", serverCloses(signaling.ErrRestart), 1012, grace, "", "left"},
		{"server 4001", serverCloses(signaling.ErrTooSlow), 4001, grace, "", "left"},
		{"server 4501", serverCloses(signaling.ErrKicked), 4501, atOnce, "error", "error"},
		{"server, for a reason of its own", serverCloses(fmt.Errorf("surprise")), 1012, grace, "", "left"},
		{"server 1002", sends(rawFrame(final|0x40|opText, 0, nil)), 1002, atOnce, "error", "error"},
		{"server 1003", sends(makeFrame(final|opBinary, "x")), 1003, atOnce, "error", "error"},
		{"server 1007", sends(textFrame("\"\xff\"")), 1007, atOnce, "error", "error"},
		{"server 1009", sends(rawFrame(final|opText, 1<<20, make([]byte, 1<<17))), 1009, atOnce, "error", "error"},
		{"server 1008", func(c *testConn, _ *socket) {
			for range 10 {
				c.send(`{}`)
			}
		}, 1008, atOnce, "error", "error"},
	} {
		for _, session := range []string{key("a"), ""} {
			name := tt.name + " with a session"
			if session == "" {
				name = tt.name + " without"
			}
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T, s *service) {
					b := s.open()
					b.join("demo", "")
					known := s.only()
					a := s.open()
					a.join("demo", session)
					b.want("peer-joined")
					start := time.Now()
					tt.how(a, s.only(known))
					wantAfter(t, "end", start, a.wantEndOf(tt.code), 0)
					kept, why := tt.kept, tt.why
					if session == "" {
						kept, why = atOnce, tt.plain
					}
					if kept != atOnce {
						m, at := b.wantTimed("peer-away")
						wantAfter(t, "peer-away", start, at, 0)
						if m.peer() != a.id {
							t.Errorf("got %v", m)
						}
						why = "timeout"
					}
					m, at := b.wantTimed("peer-left")
					wantAfter(t, "peer-left", start, at, kept)
					if m.peer() != a.id || m["reason"] != why {
						t.Errorf("got %v, want reason %s", m, why)
					}
				})
			})
		}
	}
}

func TestSeatIsKeptForTheGracePeriod(t *testing.T) {
	for _, tt := range []struct {
		name    string
		close   []byte
		after   time.Duration
		resumed bool
	}{
		{"just in time", nil, 30*time.Second - time.Nanosecond, true},
		{"too late", nil, 30 * time.Second, false},
		{"1001, just in time", closeFrame(1001, ""), 8*time.Second - time.Nanosecond, true},
		{"1001, too late", closeFrame(1001, ""), 8 * time.Second, false},
		{"at once", closeFrame(4100, "reconnecting"), 0, true},
		{"left", closeFrame(1000, ""), 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, b := s.pair(key("a"))
				if tt.close != nil {
					a.write(tt.close)
					a.ended()
				} else {
					a.Close()
				}
				time.Sleep(tt.after)
				synctest.Wait() // a timer due now fires first
				b.count("message", `,"data":"kept"`)
				again := s.open()
				again.send(`{"type":"join","room":"demo","session":%q,"attempt":2}`, key("a"))
				m := again.want("joined")
				if m["resumed"] != tt.resumed || m["id"] != a.id {
					t.Errorf("got %v, want resumed %t", m, tt.resumed)
				}
				if tt.resumed {
					if m := again.want("message"); m["data"] != "kept" || m["seq"] != 1.0 {
						t.Errorf("got %v", m)
					}
				}
			})
		})
	}
}

// A resume takes the seat from a connection that is still there: it is closed with 4500, at once, and
// what it says afterwards counts for nothing.
func TestTakeover(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		old, b := s.pair(key("a"))
		old.mute.Store(true)
		again := s.open()
		again.send(`{"type":"join","room":"demo","session":%q,"attempt":1}`, key("a"))
		if m := again.want("joined"); m["resumed"] != true {
			t.Errorf("got %v", m)
		}
		old.Write(textFrame(`{"type":"message","seq":1,"data":"from the old one"}`))
		old.wantEnd(4500)
		again.session = key("a")
		again.count("message", `,"data":"from the new one"`)
		if m := b.want("message"); m["data"] != "from the new one" {
			t.Errorf("got %v", m)
		}
	})
	t.Run("by a reload", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			old, b := s.pair(key("a"))
			again := s.open()
			again.send(`{"type":"join","room":"demo","session":%q,"replaces":%q}`, key("c"), key("a"))
			again.want("joined")
			old.wantEnd(4500)
			if m := b.want("peer-left"); m.peer() != old.id || m["reason"] != "replaced" {
				t.Errorf("got %v", m)
			}
			b.want("peer-joined")
		})
	})
}

func TestOutOfSync(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		a, b := s.pair(key("a"))
		a.send(`{"type":"message","seq":2,"data":1}`)
		if m := a.wantError("out-of-sync"); m["for"] != "message" {
			t.Errorf("got %v", m)
		}
		a.wantEnd(4002)
		if m := b.want("peer-left"); m["reason"] != "error" {
			t.Errorf("got %v", m)
		}
	})
}

// A client that says 1000 and is gone before the server has written what it had for it has left all
// the same: a write that fails must not hide what there is to read.
func TestLeaveIsReadBehindAFailedWrite(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(*testConn)
		event string
	}{
		{"left", func(c *testConn) { c.write(closeFrame(1000, "")) }, "peer-left"},
		{"lost", func(c *testConn) { c.Close() }, "peer-away"},
		{"nothing more comes", func(*testConn) {}, "peer-away"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, b, socket := s.pairWithSocket(key("a"))
				socket.wire.Conn.(*pipeConn).broken.Store(true)
				b.count("message", `,"data":1`)
				synctest.Wait()
				start := time.Now()
				tt.end(a)
				_, at := b.wantTimed(tt.event)
				if at.Sub(start) > closeTime {
					t.Errorf("%s after %v", tt.event, at.Sub(start))
				}
			})
		})
	}
}

// What there is of a message when the connection ends is not a message: it is not answered, its seq is
// not used up, and the client sends it again.
func TestHalfAMessageIsNone(t *testing.T) {
	whole := textFrame(`{"type":"message","seq":1,"data":1}`)
	fragments := append(makeFrame(opText, `{"type":"message",`), makeFrame(final|opContinuation, `"seq":1,"data":1}`)...)
	for _, frames := range [][]byte{whole, fragments} {
		for k := range frames {
			bubble(t, func(t *testing.T, s *service) {
				a, b := s.pair(key("a"))
				a.write(frames[:k])
				synctest.Wait() // the server waits for more
				a.Close()
				b.want("peer-away")
				again := s.open()
				again.send(`{"type":"join","room":"demo","session":%q,"attempt":1}`, key("a"))
				if m := again.want("joined"); m["resumed"] != true || m["received"] != 0.0 {
					t.Errorf("after %d bytes of %d: %v", k, len(frames), m)
				}
				b.want("peer-back")
				again.write(frames)
				b.want("message")
				again.send(`{"type":"ping"}`)
				again.want("pong") // no error before
			})
		}
	}
}

// A client whose connection breaks while its ping is being answered has done nothing wrong.
func TestPongThatCannotBeWritten(t *testing.T) {
	s := serveTCP(t, nil)
	b := s.open()
	b.join("demo", "")
	for i := range 50 {
		a := s.open()
		a.join("demo", key(fmt.Sprint(i)))
		b.want("peer-joined")
		a.mute.Store(true)
		ping := makeFrame(final|opPing, "?")
		a.write([]byte(strings.Repeat(string(ping), 20)))
		a.reset()
		b.want("peer-away")
		again := s.open()
		again.send(`{"type":"join","room":"demo","session":%q,"attempt":1}`, key(fmt.Sprint(i)))
		if m := again.want("joined"); m["resumed"] != true {
			t.Fatalf("got %v", m)
		}
		b.want("peer-back")
		again.write(closeFrame(1000, ""))
		b.want("peer-left")
	}
}

// ---- panics

// A panicky directory panics for rooms of a certain name: where a room is looked for, in the reader of
// a connection.
type panicky struct{ signaling.Directory }

func (d panicky) Find(ctx context.Context, room signaling.RoomID) (signaling.Owner, error) {
	if room == "panic" {
		panic("as ordered")
	}
	return d.Directory.Find(ctx, room)
}

func TestPanicEndsItsConnectionOnly(t *testing.T) {
	for _, tt := range []struct {
		name  string
		order func(*pipeConn)
	}{
		{"in a write", func(c *pipeConn) { c.panicOnWrite.Store(true) }},
		{"at the end", func(c *pipeConn) { c.panicOnClose.Store(true); c.broken.Store(true) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, b, socket := s.pairWithSocket(key("a"))
				tt.order(socket.wire.Conn.(*pipeConn))
				b.count("message", `,"data":1`)
				a.wantEnd(1006)
				b.want("peer-away")
				synctest.Wait()
				if n, gauge := s.api.Connections(), testutil.ToFloat64(s.api.sockets.gauge); n != 1 || gauge != 1 {
					t.Errorf("%d connections, %v in the gauge, want 1", n, gauge)
				}
			})
		})
	}
	t.Run("in a message", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := servePipes(t, func(set *settings) { set.directory = panicky{set.directory} })
			a, b := s.pair(key("a"))
			c := s.open()
			c.send(`{"type":"join","room":"panic"}`)
			c.wantEnd(1012)
			a.count("message", `,"data":1`)
			b.want("message")
			synctest.Wait()
			if n := s.api.Connections(); n != 2 {
				t.Errorf("%d connections, want 2", n)
			}
		})
	})
}

func TestClosesAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		count := func(by, code string) float64 {
			return testutil.ToFloat64(s.api.sockets.closes.WithLabelValues(by, code))
		}
		for range 2 {
			c := s.open()
			c.write(closeFrame(1000, ""))
			c.ended()
		}
		c := s.open()
		c.Close()
		c = s.open()
		c.write(closeFrame(3999, ""))
		c.ended()
		c = s.open()
		c.mute.Store(true)
		c.wantEnd(1006)
		c = s.open()
		c.wantEnd(4000)
		time.Sleep(closeTime)
		synctest.Wait()
		for _, tt := range []struct {
			by, code string
			want     float64
		}{
			{"client", "1000", 2}, {"client", "1006", 1}, {"client", "other", 1},
			{"server", "1006", 1}, {"server", "4000", 1}, {"server", "1012", 0},
		} {
			if got := count(tt.by, tt.code); got != tt.want {
				t.Errorf("%s %s: %v, want %v", tt.by, tt.code, got, tt.want)
			}
		}
		if n := testutil.ToFloat64(s.api.sockets.gauge); n != 0 {
			t.Errorf("%v connections in the gauge", n)
		}
	})
}

// Many connections, all at once, and nothing left behind.
func TestCrowd(t *testing.T) {
	s := serveTCP(t, nil)
	var crowd sync.WaitGroup
	for i := range 50 {
		a, b := s.pairIn(fmt.Sprint("room ", i), key(fmt.Sprint(i)))
		crowd.Go(func() {
			for j := range 20 {
				a.count("message", fmt.Sprintf(`,"data":%d`, j))
			}
			a.count("leave", "")
		})
		crowd.Go(func() {
			for j := range 20 {
				if m := b.want("message"); m["data"] != float64(j) {
					t.Errorf("got %v, want %d", m, j)
				}
			}
			b.want("peer-left")
		})
	}
	crowd.Wait()
}
