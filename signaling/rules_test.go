package signaling

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What the model does not reach: bounds to the byte, other settings, and two things at once.

// 256 KiB are 256 KiB, whoever sent them.
func TestBytesOfARing(t *testing.T) {
	const all = 256 << 10
	overhead := len(`{"type":"message","from":"0123456789abcdef","data":""`)
	for _, tt := range []struct {
		name     string
		capacity int // as many senders, less one, take turns
		bytes    []int
		refused  bool
	}{
		{"one sender, full", 2, []int{60000, 60000, 60000, 60000, all - 240000}, false},
		{"one sender, too much", 2, []int{60000, 60000, 60000, 60000, all - 240000 + 1}, true},
		{"a message each, full", 6, []int{60000, 60000, 60000, 60000, all - 240000}, false},
		{"a message each, too much", 6, []int{60000, 60000, 60000, 60000, all - 240000 + 1}, true},
		{"a share, full", 3, []int{60000, 100, all/2 - 60000, all/2 - 100}, false},
		{"a share, too much", 3, []int{60000, 100, all/2 - 60000 + 1}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.RoomCapacity = tt.capacity
			inBubble(t, cfg, func(t *testing.T, h *Hub) {
				away := h.testPeer(t)
				away.joined("demo", session(keyA, 1, 0))
				away.conn.Lost(EndLost)
				var senders []*peer
				for range tt.capacity - 1 {
					p := h.testPeer(t)
					p.joined("demo", "")
					senders = append(senders, p)
				}
				for _, p := range senders {
					p.next()
				}
				for i, n := range tt.bytes {
					from := senders[i%len(senders)]
					for n > 0 { // a share is larger than a message may be
						size := min(n, 60000)
						if n -= size; 0 < n && n < overhead {
							size, n = size-overhead, n+overhead
						}
						from.send(`{"type":"message","data":%q,"to":%q}`, strings.Repeat("x", size-overhead), away.id)
					}
					if got, refused := from.next(), i == len(tt.bytes)-1 && tt.refused; (len(got) > 0) != refused {
						t.Fatalf("message %d of %d bytes: %q", i, tt.bytes[i], got)
					}
				}
			})
		})
	}
}

// A page that went away is kept for 8 s, but never longer than one that was lost.
func TestGraceBelow8s(t *testing.T) {
	cfg := testConfig()
	cfg.Grace = 5 * time.Second
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		a.conn.Lost(EndGoingAway)
		b.gets(`{"type":"peer-away",…}`)
		time.Sleep(4999 * time.Millisecond)
		b.gets()
		time.Sleep(time.Millisecond)
		b.gets(`{"type":"peer-left",…"reason":"timeout"}`)
	})
}

// A join that waits for a room while that ends gets a new room.
func TestJoinMeetsTheEndOfItsRoom(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", "")
		old, busy := a.conn.local().room, make(chan struct{})
		old.post(look(func() { <-busy }))
		go a.send(`{"type":"leave"}`)
		synctest.Wait()
		joined := make(chan map[string]any, 1)
		go func() { joined <- b.joins("demo", "") }()
		synctest.Wait()
		close(busy)
		if m := <-joined; m["type"] != "joined" || fmt.Sprint(m["peers"]) != "[]" {
			t.Fatalf("join: %v", m)
		}
		if b.conn.local().room == old || h.Rooms() != 1 {
			t.Fatalf("it is in the old room, or there are %d", h.Rooms())
		}
	})
}

// A join that was answered just before its room ended is not sent to another one.
func TestJoinAnsweredBeforeTheEndOfItsRoom(t *testing.T) {
	for range 30 { // which of the two is seen first is up to chance
		h := newTestHub(testConfig())
		r := newRoom("demo", h, Owner{})
		h.rooms[r.ID] = r
		r.running.Store(true)
		close(r.done)
		c := &join{room: r.ID, reply: make(chan joinReply, 1)}
		c.reply <- joinReply{err: &refusal{err: ErrOutOfSync}}
		_, bad := h.enter(t.Context(), c)
		if bad == nil || bad.err != ErrOutOfSync || len(r.inbox) != 1 {
			t.Fatalf("posted %d times: %v", len(r.inbox), bad)
		}
	}
}

// An ack does not overtake the errors of what it covers: the client would take a refused message for
// a delivered one.
func TestAckComesAfterTheErrorsItCovers(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a := h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		for seq := range ackEvery {
			a.send(`{"type":"message","data":1,"seq":%d}`, seq+1)
		}
		got := a.next()
		if len(got) != ackEvery+1 || !like(got[ackEvery], `{"type":"ack","received":8}`) {
			t.Fatalf("got %q", got)
		}
	})
}

// A seat whose grace is over is gone, even for one who joins before the timer could say so.
func TestJoinBeforeTheTimer(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		a.conn.Lost(EndLost)
		room := b.conn.local().room
		room.post(look(func() { room.timer.Stop() }))
		time.Sleep(30 * time.Second)
		if m := h.testPeer(t).joined("demo", session(keyA, 2, 1)); m["resumed"] != false {
			t.Fatalf("joined: %v", m)
		}
		b.gets(`{"type":"peer-away",…}`, `{"type":"peer-left",…"reason":"timeout"}`, `{"type":"peer-joined",…}`)
	})
}

// Whatever comes at the moment in which the room's goroutine ends is handled: by that one or the next.
func TestRoomWakesForEveryCommand(t *testing.T) {
	h := newTestHub(testConfig())
	r := newRoom("demo", h, Owner{})
	r.seats = []*seat{{ring: newRing(2, true, &h.waiting)}}
	handled := make(chan struct{}, 1)
	for n := range 300_000 {
		if !r.post(look(func() { handled <- struct{}{} })) {
			t.Fatal("the room has ended")
		}
		select {
		case <-handled:
		case <-time.After(5 * time.Second):
			t.Fatalf("command %d waits", n)
		}
	}
}
