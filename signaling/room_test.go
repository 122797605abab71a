package signaling

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestACall(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		if m := a.joined("demo", `,"name":"Ann"`); len(m["peers"].([]any)) != 0 || m["grace"] != 0.0 || m["resumed"] != false {
			t.Fatalf("first joined: %v", m)
		}
		m := b.joined("demo", "")
		if got := fmt.Sprint(m["peers"]); got != fmt.Sprintf("[map[id:%s name:Ann]]", a.id) {
			t.Fatalf("peers: %s", got)
		}
		a.gets(`{"type":"peer-joined","peer":{"id":"` + b.id + `"}}`)
		b.send(`{"type":"offer","sdp":"v=0\r\n"}`)
		a.gets(`{"type":"offer","from":"` + b.id + `","sdp":"v=0\r\n"}`)
		a.send(`{"sdp":"v=1","type":"answer","to":%q}`, b.id)
		a.send(`{"type":"candidate","candidate":{"candidate":"c","sdpMLineIndex":0}}`)
		a.send(`{"type":"candidate","candidate":null}`)
		a.send(`{"type":"message","data":[1,{"x":null}],"from":"somebody else"}`)
		b.gets(`{"type":"answer","from":"`+a.id+`","sdp":"v=1"}`,
			`{"type":"candidate","from":"`+a.id+`","candidate":{"candidate":"c","sdpMLineIndex":0}}`,
			`{"type":"candidate","from":"`+a.id+`","candidate":null}`,
			`{"type":"message","from":"`+a.id+`","data":[1,{"x":null}]}`)
		b.send(`{"type":"ping"}`)
		b.gets(`{"type":"pong"}`)
		b.send(`{"type":"leave"}`)
		b.gets(`{"type":"left","room":"demo"}`)
		a.gets(`{"type":"peer-left","peer":{"id":"` + b.id + `"},"reason":"left"}`)
		b.joined("other", "")
		if h.Rooms() != 2 {
			t.Fatalf("%d rooms", h.Rooms())
		}
	})
}

func TestRefusals(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b, c := h.testPeer(t), h.testPeer(t), h.testPeer(t)
		a.send(`{"type":"offer","sdp":"x","seq":7}`)
		a.gets(`{"type":"error","code":"not-joined",…,"for":"offer","ref":7}`)
		a.joined("demo", "")
		a.send(`{"type":"join","room":"demo"}`)
		a.gets(`{"type":"error","code":"already-joined",…,"for":"join"}`)
		a.send(`{"type":"offer","sdp":"x","seq":9}`)
		a.gets(`{"type":"error","code":"no-peer",…,"for":"offer","ref":9}`)
		b.joined("demo", "")
		a.next()
		b.send(`{"type":"offer","sdp":"x","to":"nobody"}`)
		b.gets(`{"type":"error","code":"no-peer",…,"for":"offer"}`)
		b.send(`{"type":"offer","sdp":"x","to":%q}`, b.id)
		b.gets(`{"type":"error","code":"no-peer",…}`)
		if m := c.joins("demo", ""); m["code"] != "room-full" || m["retryAfter"] != nil {
			t.Fatalf("third join: %v", m)
		}
		b.send(`{"type":"ack","received":1}`)
		b.gets(`{"type":"error","code":"bad-message",…,"for":"ack"}`)
		c.joined("free", session(keyC, 0, 0))
		c.send(`{"type":"offer","sdp":"x"}`)
		c.gets(`{"type":"error","code":"bad-message","message":"seq is missing…,"for":"offer","seq":1}`)
	})
}

func TestBadMessagesInARow(t *testing.T) {
	for _, seated := range []bool{false, true} {
		inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
			a, other := h.testPeer(t), h.testPeer(t)
			other.joined("demo", "")
			if seated {
				a.joined("demo", "")
				other.next()
			}
			for range badLimit - 1 {
				a.send(`{`)
			}
			a.send(`{"type":"ping"}`) // a good one starts the count again
			for range badLimit - 1 {
				a.send(`{"type":"nonsense"}`)
			}
			if a.closeCode() != 0 || len(a.next()) != 2*badLimit-1 {
				t.Fatal("closed too early, or an error is missing")
			}
			a.send(`[]`)
			a.gets(`{"type":"error","code":"bad-message",…}`)
			if a.closeCode() != 1008 {
				t.Fatalf("close code %d", a.closeCode())
			}
			if seated {
				other.gets(`{"type":"peer-left",…"reason":"error"}`)
			}
		})
	}
}

func TestRateLimit(t *testing.T) {
	cfg := testConfig()
	cfg.MessageRate, cfg.MessageBurst = 50, 200
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", "")
		b.joined("demo", session(keyB, 0, 0))
		a.next()
		for i := range 199 { // the join was one
			b.send(`{"type":"message","data":1,"seq":%d}`, i+1)
			a.next()
		}
		b.send(`{"type":"message","data":1,"seq":200}`)
		if got := a.next(); len(got) != 0 {
			t.Fatalf("over the limit, and relayed: %q", got)
		}
		b.gets(`{"type":"error","code":"rate-limited",…,"for":"message","ref":200,"retryAfter":1,"seq":1}`, `{"type":"ack","received":200}`)
		time.Sleep(time.Second)
		for i := range 50 {
			b.send(`{"type":"message","data":1,"seq":%d}`, 201+i)
		}
		if got := a.next(); len(got) != 50 {
			t.Fatalf("a second later: %d messages", len(got))
		}
		for i := 251; b.closeCode() == 0; i++ {
			if b.send(`{"type":"message","data":1,"seq":%d}`, i); i > 1000 {
				t.Fatal("flooding is not ended")
			}
			b.next()
		}
		if b.closeCode() != 1008 {
			t.Fatalf("close code %d", b.closeCode())
		}
		a.gets(`{"type":"peer-left",…"reason":"error"}`)
	})
}

func TestResume(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		if m := a.joined("demo", session(keyA, 1, 0)); m["grace"] != 30.0 {
			t.Fatalf("joined: %v", m)
		}
		b.joined("demo", "")
		a.gets(`{"type":"peer-joined",…,"seq":1}`)
		a.send(`{"type":"offer","sdp":"1","seq":1}`)
		b.gets(`{"type":"offer","from":"` + a.id + `","sdp":"1"}`)
		a.conn.Lost(EndLost)
		b.gets(`{"type":"peer-away","peer":{"id":"` + a.id + `"}}`)
		b.send(`{"type":"answer","sdp":"2"}`)
		b.send(`{"type":"candidate","candidate":null}`)

		again := h.testPeer(t)
		m := again.joined("demo", session(keyA, 2, 1))
		if m["resumed"] != true || m["received"] != 1.0 || m["id"] != a.id || len(m["peers"].([]any)) != 1 {
			t.Fatalf("joined: %v", m)
		}
		again.gets(`{"type":"answer",…"sdp":"2","seq":2}`, `{"type":"candidate",…"candidate":null,"seq":3}`)
		b.gets(`{"type":"peer-back","peer":{"id":"` + a.id + `"}}`)
		again.send(`{"type":"offer","sdp":"1","seq":1}`) // sent again, handled before
		again.send(`{"type":"message","data":"new","seq":2}`)
		b.gets(`{"type":"message",…"data":"new"}`)

		// Nothing was acknowledged: one more resume gets the same again.
		third := h.testPeer(t)
		third.joined("demo", session(keyA, 3, 1))
		third.gets(`{"type":"answer",…,"seq":2}`, `{"type":"candidate",…,"seq":3}`)
		if again.closeCode() != 4500 {
			t.Fatalf("the replaced connection closes with %d", again.closeCode())
		}
		b.gets() // it was never away
		third.send(`{"type":"ack","received":3}`)
		synctest.Wait()
		if n := h.waiting.Load(); n != 0 {
			t.Fatalf("%d bytes kept after the ack", n)
		}
		fourth := h.testPeer(t)
		fourth.joined("demo", session(keyA, 4, 3))
		fourth.gets()
	})
}

// What a replaced connection still has to say comes too late, whatever it is.
func TestFencing(t *testing.T) {
	for _, late := range []struct {
		name string
		do   func(old *peer)
	}{
		{"relay", func(p *peer) { p.send(`{"type":"message","data":"late","seq":1}`) }},
		{"leave", func(p *peer) {
			p.conn.local().room.post(leave{p.conn.local().seat, p.conn.local().gen, 1, func(bool) {}})
		}},
		{"ack", func(p *peer) { p.send(`{"type":"ack","received":1}`) }},
		{"goodbye", func(p *peer) { p.conn.Lost(EndLeft) }},
		{"violation", func(p *peer) { p.conn.Lost(EndViolation) }},
		{"error", func(p *peer) { p.send(`{"type":"offer","seq":1}`) }},
	} {
		t.Run(late.name, func(t *testing.T) {
			inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
				a, b := h.testPeer(t), h.testPeer(t)
				a.joined("demo", session(keyA, 1, 0))
				b.joined("demo", "")
				again := h.testPeer(t)
				again.joined("demo", session(keyA, 2, 0))
				again.gets(`{"type":"peer-joined",…,"seq":1}`)
				late.do(a)
				again.gets()
				b.gets()
				third := h.testPeer(t)
				if m := third.joined("demo", session(keyA, 3, 0)); m["resumed"] != true || m["received"] != 0.0 {
					t.Fatalf("the late message changed the seat: %v", m)
				}
				third.gets(`{"type":"peer-joined",…,"seq":1}`)
				a.gets()
			})
		})
	}
}

func TestResumeRefused(t *testing.T) {
	for _, tt := range []struct {
		name              string
		attempt, received int
		code              string
		close             int
		survives          bool
	}{
		{"older attempt", 1, 0, "stale-attempt", 0, true},
		{"received above sent", 3, 2, "out-of-sync", 4002, false},
		{"received below acknowledged", 3, 0, "out-of-sync", 4002, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
				a, b := h.testPeer(t), h.testPeer(t)
				a.joined("demo", session(keyA, 2, 0))
				b.joined("demo", "")
				a.gets(`{"type":"peer-joined",…}`)
				a.send(`{"type":"ack","received":1}`)
				again := h.testPeer(t)
				if m := again.joins("demo", session(keyA, tt.attempt, tt.received)); m["code"] != tt.code || m["for"] != "join" || m["seq"] != nil {
					t.Fatalf("join: %v", m)
				}
				if again.closeCode() != tt.close {
					t.Fatalf("close code %d, want %d", again.closeCode(), tt.close)
				}
				if tt.survives {
					a.send(`{"type":"message","data":1,"seq":1}`)
					b.gets(`{"type":"message",…}`)
					return
				}
				if a.closeCode() != 4500 {
					t.Fatalf("the old connection closes with %d", a.closeCode())
				}
				b.gets(`{"type":"peer-left",…"reason":"error"}`)
			})
		})
	}
}

func TestEqualAttemptTakesOver(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, again := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		if m := again.joined("demo", session(keyA, 1, 0)); m["resumed"] != true {
			t.Fatalf("joined: %v", m)
		}
	})
}

// A client whose seat is gone gets a new one; if that one's joined is lost on the way, the client still
// counts for the old seat, and must not be taken for one that has handled what the new one holds.
func TestJoinedOfANewSeatIsLost(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		a.next()
		a.conn.Lost(EndLost)
		time.Sleep(30 * time.Second)
		second := h.testPeer(t)
		second.joined("demo", session(keyA, 2, 1)+`,"since":1`)
		b.send(`{"type":"offer","sdp":"for the new seat"}`)
		second.next() // written, and lost with the connection
		second.conn.Lost(EndLost)
		b.next()

		third := h.testPeer(t)
		m := third.joined("demo", session(keyA, 3, 1)+`,"since":1`)
		if m["resumed"] != false || m["received"] != 0.0 {
			t.Fatalf("joined: %v", m)
		}
		third.gets(`{"type":"offer",…,"seq":1}`)
		b.gets(`{"type":"peer-back",…}`)
		third.send(`{"type":"message","data":1,"seq":1}`)
		b.gets(`{"type":"message",…}`)
		fourth := h.testPeer(t)
		if m := fourth.joined("demo", session(keyA, 4, 1)+`,"since":3`); m["resumed"] != true || m["received"] != 1.0 {
			t.Fatalf("joined: %v", m)
		}
		// Counters that cannot be: it sent something for a seat it does not know of.
		fifth := h.testPeer(t)
		if m := fifth.joins("demo", session(keyA, 5, 1)+`,"since":1`); m["code"] != "out-of-sync" {
			t.Fatalf("join: %v", m)
		}
	})
}

func TestOutOfSync(t *testing.T) {
	for name, send := range map[string]string{
		"gap in seq":            `{"type":"message","data":1,"seq":2}`,
		"gap in a bad message":  `{"type":"offer","seq":3}`,
		"ack above sent":        `{"type":"ack","received":2}`,
		"ack below acknowledge": `{"type":"ack","received":0}`,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
				a, b := h.testPeer(t), h.testPeer(t)
				a.joined("demo", session(keyA, 1, 0))
				b.joined("demo", "")
				a.gets(`{"type":"peer-joined",…}`)
				a.send(`{"type":"ack","received":1}`)
				a.send("%s", send)
				a.gets(`{"type":"error","code":"out-of-sync",…}`)
				if a.closeCode() != 4002 {
					t.Fatalf("close code %d", a.closeCode())
				}
				b.gets(`{"type":"peer-left",…"reason":"error"}`)
			})
		})
	}
}

// A refused message is handled: the next one leaves no gap, and a resume does not repeat it.
func TestRefusedMessagesCount(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a := h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		a.send(`{"type":"offer","sdp":"x","seq":1}`)
		a.send(`{"type":"offer","seq":2}`)
		a.send(`{"type":"new-in-version-2","seq":3}`)
		a.gets(`{"type":"error","code":"no-peer",…"ref":1,"seq":1}`,
			`{"type":"error","code":"bad-message",…"ref":2,"seq":2}`,
			`{"type":"error","code":"unknown-type",…"ref":3,"seq":3}`)
		a.send(`{"type":"offer","seq":2}`) // a duplicate of what was refused
		a.send(`{"type":"ping","seq":99}`) // not counted
		a.gets(`{"type":"pong"}`)
		a.send(`{"type":"join","room":"demo"}`) // nor is the answer to a join
		a.gets(`{"type":"error","code":"already-joined",…,"for":"join"}`)
		again := h.testPeer(t)
		if m := again.joined("demo", session(keyA, 2, 3)); m["received"] != 3.0 {
			t.Fatalf("joined: %v", m)
		}
	})
}

// A client knows what became of a message before it is told that the message was handled, however fast its
// connection fetches.
func TestErrorComesBeforeItsAck(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		e := &eager{}
		e.conn = h.Connect(e, func() bool { return true })
		a := &peer{t: t, conn: e.conn}
		a.joined("demo", session(keyA, 1, 0))
		e.reads = true
		want := refusedAndAcknowledged(a)
		synctest.Wait()
		if got := append(e.got, a.next()...); !slices.EqualFunc(got, want, like) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// refusedAndAcknowledged has somebody who is alone speak until an ack is due, and returns what is to come.
func refusedAndAcknowledged(p *peer) (want []string) {
	for seq := 1; seq <= ackEvery; seq++ {
		if seq%2 == 0 {
			p.send(`{"type":"offer","seq":%d}`, seq) // refused by the connection: sdp is missing
		} else {
			p.send(`{"type":"message","data":0,"seq":%d}`, seq) // by the room
		}
		want = append(want, fmt.Sprintf(`{"type":"error",…"ref":%d,"seq":%[1]d}`, seq))
	}
	return append(want, fmt.Sprintf(`{"type":"ack","received":%d}`, ackEvery))
}

// An eager transport fetches within the very call that says that there is something.
type eager struct {
	conn  *Conn
	reads bool
	got   []string
}

func (e *eager) Close(error) {}

func (e *eager) Wake() {
	for e.reads {
		msg, _, ok := e.conn.Next(nil)
		if !ok {
			return
		}
		e.got = append(e.got, string(msg))
	}
}

func TestAcks(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		a.next()
		send := func(from, to int) {
			for i := from; i <= to; i++ {
				a.send(`{"type":"message","data":%d,"seq":%d}`, i, i)
			}
		}
		send(1, 7)
		a.gets()
		send(8, 8)
		a.gets(`{"type":"ack","received":8}`)
		send(9, 9)
		time.Sleep(999 * time.Millisecond)
		send(10, 10)
		a.gets()
		time.Sleep(time.Millisecond)
		a.gets(`{"type":"ack","received":10}`)
		time.Sleep(time.Hour)
		a.gets() // nothing owed, nothing said
		send(10, 10)
		time.Sleep(time.Second)
		a.gets(`{"type":"ack","received":10}`) // it must have missed ours
		b.send(`{"type":"message","data":1,"seq":1}`)
		time.Sleep(time.Second)
		if got := b.next(); len(got) != 10 {
			t.Fatalf("a client without session got an ack: %q", got)
		}
	})
}

func TestGrace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ending  Ending
		session bool
		kept    time.Duration
		reason  string
	}{
		{"closed on purpose", EndLeft, true, 0, "left"},
		{"hidden", EndGoingAway, true, 8 * time.Second, "timeout"},
		{"lost", EndLost, true, 30 * time.Second, "timeout"},
		{"silent", EndSilent, true, 30 * time.Second, "timeout"},
		{"violation", EndViolation, true, 0, "error"},
		{"plain, lost", EndLost, false, 0, "left"},
		{"plain, hidden", EndGoingAway, false, 0, "left"},
		{"plain, silent", EndSilent, false, 0, "timeout"},
		{"plain, violation", EndViolation, false, 0, "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
				a, b, c := h.testPeer(t), h.testPeer(t), h.testPeer(t)
				more := ""
				if tt.session {
					more = session(keyA, 1, 0)
				}
				a.joined("demo", more)
				b.joined("demo", "")
				a.conn.Lost(tt.ending)
				if tt.kept > 0 {
					b.gets(`{"type":"peer-away",…}`)
					if m := c.joins("demo", ""); m["code"] != "room-full" || m["retryAfter"] != tt.kept.Seconds() {
						t.Fatalf("join while away: %v", m)
					}
					time.Sleep(tt.kept - time.Millisecond)
					b.gets()
					time.Sleep(time.Millisecond)
				}
				b.gets(`{"type":"peer-left","peer":{"id":"` + a.id + `"},"reason":"` + tt.reason + `"}`)
				c.joined("demo", "")
				// The session is gone: the same join gets a new seat elsewhere, with the same id.
				if tt.session {
					again := h.testPeer(t)
					if m := again.joined("demo2", session(keyA, 2, 1)); m["resumed"] != false || m["received"] != 0.0 || m["id"] != a.id {
						t.Fatalf("joined: %v", m)
					}
				}
			})
		})
	}
}

func TestResumeJustInTime(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		a.next()
		a.conn.Lost(EndLost)
		time.Sleep(29999 * time.Millisecond)
		again := h.testPeer(t)
		if m := again.joined("demo", session(keyA, 2, 1)); m["resumed"] != true {
			t.Fatalf("joined: %v", m)
		}
		time.Sleep(time.Hour)
		b.gets(`{"type":"peer-away",…}`, `{"type":"peer-back",…}`)
		again.conn.Lost(EndLost)
		b.gets(`{"type":"peer-away",…}`)
		time.Sleep(30 * time.Second)
		b.gets(`{"type":"peer-left",…"timeout"}`)
	})
}

// Away peers are listed as such, and their seats fill up without losing anything.
func TestAwayInPeers(t *testing.T) {
	cfg := testConfig()
	cfg.RoomCapacity = 3
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		a.conn.Lost(EndLost)
		m := b.joined("demo", "")
		if got := fmt.Sprint(m["peers"]); got != "[map[away:true id:"+a.id+"]]" {
			t.Fatalf("peers: %s", got)
		}
		b.send(`{"type":"offer","sdp":"for when you are back"}`)
		again := h.testPeer(t)
		again.joined("demo", session(keyA, 2, 0))
		again.gets(`{"type":"peer-joined",…,"seq":1}`, `{"type":"offer",…,"seq":2}`)
	})
}

func TestReplaces(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		reloaded := h.testPeer(t)
		m := reloaded.joined("demo", session(keyC, 0, 0)+`,"replaces":"`+keyA+`"`)
		if m["resumed"] != false || m["id"] == a.id {
			t.Fatalf("joined: %v", m)
		}
		if a.closeCode() != 4500 {
			t.Fatalf("the old page closes with %d", a.closeCode())
		}
		b.gets(`{"type":"peer-left","peer":{"id":"`+a.id+`"},"reason":"replaced"}`, `{"type":"peer-joined","peer":{"id":"`+reloaded.id+`"}}`)
		// Without the old key there is no place; with a key of nobody there is none either.
		c := h.testPeer(t)
		if m := c.joins("demo", `,"replaces":"`+keyA+`"`); m["code"] != "room-full" {
			t.Fatalf("join: %v", m)
		}
	})
}

func TestRingIsBounded(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", session(keyB, 1, 0))
		a.next()
		a.conn.Lost(EndLost)
		for i := 1; i <= ringMessages; i++ {
			b.send(`{"type":"message","data":%d,"seq":%d}`, i, i)
		}
		for _, m := range b.next() {
			if strings.Contains(m, `"error"`) {
				t.Fatalf("refused too early: %s", m)
			}
		}
		b.send(`{"type":"candidate","candidate":null,"seq":%d}`, ringMessages+1)
		b.gets(`{"type":"error","code":"busy",…,"for":"candidate","ref":257,"seq":2}`)
		again := h.testPeer(t)
		again.joined("demo", session(keyA, 2, 1))
		got := again.next()
		if len(got) != ringMessages {
			t.Fatalf("%d messages waited", len(got))
		}
		for i, m := range got {
			if !like(m, fmt.Sprintf(`{"type":"message",…"data":%d,"seq":%d}`, i+1, i+2)) {
				t.Fatalf("message %d: %s", i, m)
			}
		}
		again.send(`{"type":"ack","received":%d}`, 1+ringMessages)
		b.next()
		b.send(`{"type":"candidate","candidate":null,"seq":%d}`, ringMessages+2)
		again.gets(`{"type":"candidate",…}`)
	})
}

func TestRingIsBoundedInBytes(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		a.conn.Lost(EndLost)
		b.next()
		big := strings.Repeat("x", 60<<10)
		for range 4 {
			b.send(`{"type":"message","data":%q}`, big)
		}
		b.gets()
		b.send(`{"type":"message","data":%q}`, big)
		b.gets(`{"type":"error","code":"busy",…}`)
		if n := h.waiting.Load(); n > ringBytes+reserveBytes {
			t.Fatalf("%d bytes wait", n)
		}
	})
}

// One sender cannot use up the others' share, and a message for several reaches all or none.
func TestSharesAndAllOrNone(t *testing.T) {
	cfg := testConfig()
	cfg.RoomCapacity = 4
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		away, flood, calm := h.testPeer(t), h.testPeer(t), h.testPeer(t)
		away.joined("demo", session(keyA, 1, 0))
		flood.joined("demo", "")
		calm.joined("demo", "")
		away.next()
		away.conn.Lost(EndLost)
		flood.next()
		calm.next()
		share := ringMessages / 3
		for range share {
			flood.send(`{"type":"message","data":1,"to":%q}`, away.id)
		}
		flood.gets()
		flood.send(`{"type":"message","data":2}`) // to both: one is full
		flood.gets(`{"type":"error","code":"busy",…}`)
		calm.gets()
		calm.send(`{"type":"message","data":3}`) // has its share
		calm.gets()
		flood.gets(`{"type":"message","from":"` + calm.id + `","data":3}`)
		// What was left behind by somebody who is gone does not count against who comes next.
		flood.send(`{"type":"leave"}`)
		next := h.testPeer(t)
		next.joined("demo", "")
		next.send(`{"type":"message","data":4,"to":%q}`, away.id)
		next.gets()
	})
}

// A big message always fits a sender that has nothing waiting, even where its share is smaller.
func TestOneMessageAlwaysFits(t *testing.T) {
	cfg := testConfig()
	cfg.RoomCapacity = MaxCapacity
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", "")
		b.joined("demo", "")
		a.next()
		b.send(`{"type":"message","data":%q}`, strings.Repeat("x", 65000))
		if got := a.next(); len(got) != 1 {
			t.Fatalf("got %d messages", len(got))
		}
	})
}

// Where even the room's own events no longer fit, the seat ends.
func TestOverflow(t *testing.T) {
	for _, connected := range []bool{true, false} {
		inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
			a := h.testPeer(t)
			a.joined("demo", session(keyA, 1, 0))
			if !connected {
				a.conn.Lost(EndLost)
			}
			var last *peer
			for range reserveMessages / 2 {
				last = h.testPeer(t)
				last.joined("demo", "")
				last.send(`{"type":"leave"}`)
				last.next()
			}
			if a.closeCode() != 0 {
				t.Fatal("ended too early")
			}
			last.joined("demo", "")
			last.gets(`{"type":"peer-left","peer":{"id":"` + a.id + `"},"reason":"overflow"}`)
			if want := map[bool]int{true: 4001, false: 0}[connected]; a.closeCode() != want {
				t.Fatalf("close code %d, want %d", a.closeCode(), want)
			}
			if n := h.waiting.Load(); n != 0 {
				t.Fatalf("%d bytes left behind", n)
			}
		})
	}
}

// Something breaks each connection right after the resume: the seat must not come back for ever.
func TestNoProgress(t *testing.T) {
	run := func(t *testing.T, life time.Duration, progress, notice bool) (resumes int) {
		inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
			p, b := h.testPeer(t), h.testPeer(t)
			p.joined("demo", session(keyA, 1, 0))
			b.joined("demo", "")
			received := len(p.next())
			for i := range 10 {
				if notice {
					p.conn.Lost(EndLost)
				}
				again := h.testPeer(t)
				if m := again.joined("demo", session(keyA, 2+i, received)); m["resumed"] != true {
					break
				}
				p = again
				resumes++
				time.Sleep(life)
				if progress {
					p.send(`{"type":"message","data":1,"seq":%d}`, i+1)
				}
				synctest.Wait()
			}
			if resumes < 10 {
				got := b.next()
				if !like(got[len(got)-2], `{"type":"peer-left",…"reason":"error"}`) {
					t.Fatalf("the other saw %q", got)
				}
			}
		})
		return resumes
	}
	for _, tt := range []struct {
		name             string
		life             time.Duration
		progress, notice bool
		resumes          int
	}{
		{"three early deaths", barrenLife - time.Millisecond, false, true, barrenLimit},
		{"three early takeovers", barrenLife - time.Millisecond, false, false, barrenLimit},
		{"long lives", barrenLife, false, true, 10},
		{"something handled", time.Millisecond, true, true, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t, tt.life, tt.progress, tt.notice); got != tt.resumes {
				t.Fatalf("%d resumes, want %d", got, tt.resumes)
			}
		})
	}
}

// While the process stands still no seat is lost by the clock: every deadline moves by as much.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub(testConfig())
		live := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(min(clockTick, time.Until(end))) {
				h.clock.tick(time.Now())
			}
		}
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		a.next()
		a.conn.Lost(EndLost)
		b.gets(`{"type":"peer-away",…}`)
		live(10 * time.Second)
		time.Sleep(time.Minute) // stopped: nobody ticks, but all timers fire
		b.gets()
		live(18 * time.Second)
		b.gets()
		live(3 * time.Second) // a stall is known to one tick
		b.gets(`{"type":"peer-left",…"timeout"}`)
		b.send(`{"type":"leave"}`)
	})
}

func TestServerFull(t *testing.T) {
	cfg := testConfig()
	cfg.MaxRooms = 1
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("one", "")
		if m := b.joins("two", ""); m["code"] != "server-full" || m["for"] != "join" {
			t.Fatalf("join: %v", m)
		}
		b.joined("one", "")
		a.send(`{"type":"leave"}`)
		b.send(`{"type":"leave"}`)
		a.next()
		b.next()
		b.joined("two", "")
	})
}

// A room ends with its last seat: many names used once leave nothing behind.
func TestRoomsEnd(t *testing.T) {
	names := 1_000_000
	if testing.Short() || raceEnabled {
		names = 20_000
	}
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		p := h.testPeer(t)
		p.conn.limit.SetLimit(1e9)
		p.conn.limit.SetBurst(1e9)
		use := func(from, to int) {
			for i := from; i < to; i++ {
				p.conn.Receive(t.Context(), fmt.Appendf(nil, `{"type":"join","room":"room %d"}`, i))
				p.conn.Receive(t.Context(), []byte(`{"type":"leave"}`))
				for _, _, ok := p.conn.Next(nil); ok; _, _, ok = p.conn.Next(nil) {
				}
			}
			synctest.Wait()
		}
		use(0, 1000)
		goroutines, before := runtime.NumGoroutine(), heap()
		use(1000, names)
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("%d goroutines, were %d", n, goroutines)
		}
		if after := heap(); after > before+256<<10 {
			t.Errorf("heap grew from %d to %d bytes", before, after)
		}
		if h.Rooms() != 0 || h.waiting.Load() != 0 {
			t.Errorf("%d rooms, %d bytes left", h.Rooms(), h.waiting.Load())
		}
	})
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

type panics struct{}

func (panics) apply(*Room) { panic("a bug") }

// A panic in a room ends that room: its clients are told to come back, and find a new one.
func TestPanicInARoom(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b, c := h.testPeer(t), h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		c.joined("other", "")
		a.conn.local().room.post(panics{})
		synctest.Wait()
		if a.closeCode() != 1012 || b.closeCode() != 1012 || c.closeCode() != 0 {
			t.Fatalf("close codes %d %d %d", a.closeCode(), b.closeCode(), c.closeCode())
		}
		a.conn.Lost(EndLost)
		again := h.testPeer(t)
		if m := again.joined("demo", session(keyA, 2, 1)); m["resumed"] != false || m["id"] != a.id {
			t.Fatalf("joined: %v", m)
		}
	})
}

// A room of several says everything to all in one order.
func TestOneOrder(t *testing.T) {
	cfg := testConfig()
	cfg.RoomCapacity = MaxCapacity
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		var peers []*peer
		for range MaxCapacity {
			p := h.testPeer(t)
			p.joined("demo", "")
			peers = append(peers, p)
		}
		for _, p := range peers {
			p.next()
		}
		for _, p := range peers[2:] {
			go func() {
				for i := range 20 {
					p.send(`{"type":"message","data":%d}`, i)
				}
			}()
		}
		first, second := peers[0].next(), peers[1].next()
		if len(first) != 20*(MaxCapacity-2) || strings.Join(first, "\n") != strings.Join(second, "\n") {
			t.Fatalf("the order differs, or of %d messages some are missing", len(first))
		}
	})
}
