package signaling

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A question about a room that stands still, and whose inbox is full, ends when its time is over.
func TestFrozenRoomIsAsked(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a := all.nodes["a"]
		a.hub.testPeer(t).joined("demo", session(keyA, 1, 0))
		a.freeze(true)
		room := a.hub.rooms["demo"]
		for room.postNow(wakeAll{}) {
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		answered := make(chan error, 1)
		go func() {
			_, err := a.hub.inspectLocal(ctx, "demo")
			answered <- err
		}()
		select {
		case err := <-answered:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want that the time is over", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("no answer")
		}
		a.freeze(false)
	})
}

// A standstill is a command that keeps a room until it is over, as a freeze or a move does.
type standstill chan struct{}

func (s standstill) apply(*Room) { <-s }

// A join is given up when the room stands still for too long, and then leaves nothing behind: no seat is made
// for a connection that was sent away (1012).
func TestJoinOfARoomThatStandsStill(t *testing.T) {
	for _, at := range []NodeID{"a", "b"} {
		for _, full := range []bool{false, true} {
			inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
				a := all.nodes["a"]
				a.hub.testPeer(t).joined("demo", session(keyA, 1, 0)) // the room is at a
				room, over := a.hub.rooms["demo"], make(standstill)
				room.post(over)
				synctest.Wait()
				for full && room.postNow(wakeAll{}) {
				}
				bob, began := all.nodes[at].hub.testPeer(t), time.Now()
				time.AfterFunc(time.Minute, func() { close(over) })
				bob.send(`{"type":"join","room":"demo"%s}`, session(keyB, 1, 0))
				if took := time.Since(began); took >= time.Minute || bob.closeCode() != 1012 {
					t.Errorf("at %s: closed with %d after %v", at, bob.closeCode(), took)
				}
				<-over
				synctest.Wait()
				if n := a.hub.seats.Load(); n != 1 || len(a.hub.nodes.seats) != 0 {
					t.Errorf("at %s: %d seats, %d of them for another node, want the one that was there", at, n, len(a.hub.nodes.seats))
				}
				all.nodes[at].hub.testPeer(t).joined("demo", session(keyC, 1, 0))
			})
		}
	}
}

// An attachment is answered while its asker still waits.
func TestAttachmentToARoomThatStandsStill(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a := all.nodes["a"]
		a.hub.testPeer(t).joined("demo", session(keyA, 1, 0))
		over := make(standstill)
		a.hub.rooms["demo"].post(over)
		time.AfterFunc(time.Minute, func() { close(over) })
		key, began := hashSession(keyB), time.Now()
		for turn, again := range []bool{false, true} {
			got := a.hub.attach(t.Context(), &attachment{Edge: "b", Link: 1, Turn: uint64(turn + 1), Room: "demo", Key: &key, Again: again})
			if got.Status != attachFrozen {
				t.Errorf("again %v: %+v, want to be told to try again", again, got)
			}
		}
		if took := time.Since(began); took > 2*askTimeout {
			t.Errorf("took %v", took)
		}
		<-over
		synctest.Wait()
		if n := len(a.hub.nodes.seats); n != 0 {
			t.Errorf("%d seats were made for who had given up", n)
		}
	})
}

// Whoever speaks in a room that is frozen is closed in time like the others: nothing holds its reader. What it
// said is lost nowhere: it was handled, or is said again.
func TestSpeakingInAFrozenRoom(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a := all.nodes["a"]
		ada, bob := a.hub.testPeer(t), a.hub.testPeer(t)
		ada.joined("demo", session(keyA, 1, 0))
		bob.joined("demo", session(keyB, 1, 0))
		ada.gets(`{"type":"peer-joined",…}`)
		const most = 4 * inboxCommands
		a.freezeFor(10 * time.Minute)
		began := time.Now()
		for seq := 1; seq <= most; seq++ {
			bob.send(`{"type":"message","data":%d,"seq":%[1]d}`, seq)
		}
		bob.conn.Lost(EndLost)
		if took := time.Since(began); took < 10*time.Second || took > 16*time.Second || bob.closeCode() != 1012 {
			t.Errorf("closed with %d after %v", bob.closeCode(), took)
		}
		time.Sleep(10 * time.Minute)
		again := a.hub.testPeer(t)
		m := again.joined("demo", session(keyB, 2, 0))
		if m["resumed"] != true {
			t.Fatalf("joined: %v", m)
		}
		for seq := int(m["received"].(float64)) + 1; seq <= most; seq++ {
			again.send(`{"type":"message","data":%d,"seq":%[1]d}`, seq)
		}
		time.Sleep(time.Second)
		ada = a.hub.testPeer(t)
		ada.joined("demo", session(keyA, 2, 0))
		var heard []string
		for _, msg := range ada.next() {
			if like(msg, `{"type":"message",…`) {
				heard = append(heard, msg)
			}
		}
		if len(heard) != most {
			t.Fatalf("%d messages were heard, want %d: %q", len(heard), most, heard)
		}
		for i, msg := range heard {
			if !like(msg, fmt.Sprintf(`…"data":%d,…`, i+1)) {
				t.Errorf("message %d: %s", i+1, msg)
			}
		}
	})
}

// So is who wants to leave it.
func TestLeavingAFrozenRoom(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a := all.nodes["a"]
		ada := a.hub.testPeer(t)
		ada.joined("demo", session(keyA, 1, 0))
		a.freezeFor(10 * time.Minute)
		began := time.Now()
		ada.send(`{"type":"leave","seq":1}`)
		ada.conn.Lost(EndLost)
		if took := time.Since(began); took > 16*time.Second || ada.closeCode() != 1012 {
			t.Errorf("closed with %d after %v", ada.closeCode(), took)
		}
		time.Sleep(10 * time.Minute)
		if n, bytes := a.hub.Rooms(), a.hub.waiting.Load(); n != 0 || bytes != 0 {
			t.Errorf("%d rooms, where nobody is; %d bytes wait for nobody", n, bytes)
		}
	})
}

// In a room taken from a dead node strangers get their seats when the time of those who were there is over,
// one each, wherever they wait; they say nothing before, and are not sent away.
func TestStrangersWaitWhereverTheyAre(t *testing.T) {
	for _, at := range []NodeID{"b", "c"} {
		for _, who := range []string{session(keyB, 1, 0), ""} {
			inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
				all.nodes["a"].hub.testPeer(t).joined("demo", session(keyA, 1, 0))
				all.nodes["a"].kill()
				began := time.Now()
				back := all.nodes["b"].hub.testPeer(t)
				back.joined("demo", session(keyA, 2, 0)) // the room is at b now
				stranger := all.nodes[at].hub.testPeer(t)
				stranger.joined("demo", who)
				if took := time.Since(began); took < 5*time.Second || took > 7*time.Second {
					t.Errorf("at %s the stranger waited for %v, want 5 s and what it takes to ask again", at, took)
				}
				back.gets(`{"type":"peer-joined",…}`)
				time.Sleep(time.Minute)
				back.gets()
			})
		}
	}
}

// A room taken from a dead node waits for those who were there even if a stranger of another node is all that
// has come so far.
func TestStrangerComesFirst(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		all.nodes["a"].hub.testPeer(t).joined("demo", session(keyA, 1, 0))
		all.nodes["a"].kill()
		owner, err := all.nodes["b"].hub.directory.Find(t.Context(), "demo")
		if err != nil || !owner.Taken {
			t.Fatal(owner, err)
		}
		b, key := all.nodes["b"].hub, hashSession(keyB)
		c := (&attachment{Edge: "c", Link: 1, Turn: 1, Room: "demo", Key: &key}).join(newRemoteSeat(b, linkID{"c", 1}, 1, "demo"))
		if _, rep, err := b.enterLocal(t.Context(), c, owner); err != nil || rep.err != errWait {
			t.Fatalf("%+v, %v", rep, err)
		}
		time.Sleep(4 * time.Second)
		if b.Rooms() != 1 {
			t.Error("the room ended, and with it what it knows of those who were there")
		}
		time.Sleep(2 * time.Second)
		if b.Rooms() != 0 {
			t.Error("the room waits for ever")
		}
	})
}

func (n *fakeNode) freezeFor(d time.Duration) {
	n.freeze(true)
	time.AfterFunc(d, func() { n.freeze(false) })
}

// freeze takes the node's lease away, or gives it back.
func (n *fakeNode) freeze(frozen bool) {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	n.frozen = frozen
}
