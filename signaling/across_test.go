package signaling

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// What nodes do for each other, one rule at a time. The room is a's; ada is at a, bob at b, where not said
// otherwise.

func adaAndBob(t *testing.T, all *fakeNodes) (ada, bob *peer) {
	t.Helper()
	ada, bob = all.nodes["a"].hub.testPeer(t), all.nodes["b"].hub.testPeer(t)
	ada.joined("demo", session(keyA, 1, 0))
	bob.joined("demo", session(keyB, 1, 0))
	ada.gets(`{"type":"peer-joined",…}`)
	return ada, bob
}

// linkOf is the link of the one connection of a node whose room is elsewhere.
func linkOf(t *testing.T, n *fakeNode) *remoteHold {
	t.Helper()
	links := n.hub.nodes.linksTo("")
	if len(links) != 1 {
		t.Fatalf("%d links", len(links))
	}
	return links[0]
}

// seatOn is the seat here of the one connection elsewhere.
func seatOn(t *testing.T, n *fakeNode) *remoteSeat {
	t.Helper()
	n.hub.nodes.mu.Lock()
	defer n.hub.nodes.mu.Unlock()
	if len(n.hub.nodes.seats) != 1 {
		t.Fatalf("%d remote seats", len(n.hub.nodes.seats))
	}
	for _, s := range n.hub.nodes.seats {
		return s
	}
	return nil
}

// kill ends a node's process, and proves it.
func (n *fakeNode) kill() {
	n.all.mu.Lock()
	n.gone, n.dead = true, true
	n.all.mu.Unlock()
	n.others(func(l Listener) { l.Dead(n.id) })
}

// The room's node decides who sits where, whichever node a client comes to.
func TestSeatsAcrossNodes(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a, b, c := all.nodes["a"].hub, all.nodes["b"].hub, all.nodes["c"].hub
		_, bob := adaAndBob(t, all)
		cyd := c.testPeer(t)
		cyd.joined("demo", session(keyC, 1, 0))

		m := b.testPeer(t).joins("demo", session("dddddddddddddddddddddd", 1, 0))
		if m["code"] != "room-full" || !strings.Contains(m["message"].(string), "3 seats") || m["retryAfter"] != nil {
			t.Errorf("the fourth is answered %v", m)
		}
		bob.conn.Lost(EndLost)
		synctest.Wait()
		if m := c.testPeer(t).joins("demo", session("dddddddddddddddddddddd", 1, 0)); m["retryAfter"] != 30.0 {
			t.Errorf("while a seat is away the fourth is answered %v", m)
		}
		again := c.testPeer(t)
		if m := again.joined("demo", session(keyB, 5, 0)); m["resumed"] != true || m["id"] != bob.id {
			t.Errorf("bob, who was %s, comes back at c: %v", bob.id, m)
		}
		if m := b.testPeer(t).joins("demo", session(keyB, 4, 0)); m["code"] != "stale-attempt" {
			t.Errorf("an earlier attempt at b is answered %v", m)
		}
		if again.closeCode() != 0 {
			t.Errorf("the earlier attempt closes the newest connection with %d", again.closeCode())
		}
		cyd.next()
		a.testPeer(t).joined("demo", session("dddddddddddddddddddddd", 1, 0)+`,"replaces":"`+keyB+`"`)
		cyd.gets(`{"type":"peer-left",…"replaced"…}`, `{"type":"peer-joined",…}`)
		if code := again.closeCode(); code != 4500 {
			t.Errorf("the page before closes with %d", code)
		}
	})
}

// Nothing of a join is lost on its way to the room's node.
func TestAttachmentIsTheJoin(t *testing.T) {
	hash := hashSession(keyB)
	want := &join{room: "demo", session: true, key: hashSession(keyA), replaces: &hash, name: "ada", attempt: 7, since: 5, received: 3,
		grant:  Grant{Name: "Ada", Subject: "user-1", Capacity: 4},
		denied: &refusal{err: ErrUnauthorized, text: "get a new token"}}
	b, err := json.Marshal(attachmentOf(want))
	if err != nil {
		t.Fatal(err)
	}
	var a attachment
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	got := a.join(nil)
	got.out, got.reply = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v arrives as %+v", want, got)
	}
	for _, secret := range []string{keyA, keyB} {
		if strings.Contains(string(b), secret) {
			t.Errorf("a session key is in %s", b)
		}
	}
}

func (h *Hub) attachFor(a attachment) attached {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answered := make(chan attached, 1)
	go func() { answered <- h.attach(ctx, &a) }()
	select {
	case got := <-answered:
		return got
	case <-ctx.Done():
		return attached{Status: "no answer"}
	}
}

func TestAttachAnswers(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a, b := all.nodes["a"].hub, all.nodes["b"].hub
		ada, bob := adaAndBob(t, all)
		answers := func(what string, h *Hub, want string, request attachment) attached {
			t.Helper()
			request.Room = "demo"
			got := h.attachFor(request)
			if got.Status != want {
				t.Errorf("%s: %q, want %q", what, got.Status, want)
			}
			return got
		}
		answers("a new seat of another's room", b, attachNotOwner, attachment{Edge: "c", Link: 1, Turn: 1})
		answers("a seat of another's room again", b, attachNotOwner, attachment{Edge: "c", Link: 1, Turn: 1, Again: true})
		answers("a seat that is not there again", a, attachGone, attachment{Edge: "c", Link: 1, Turn: 1, Again: true})
		answers("an earlier turn", a, attachGone, attachment{Edge: "b", Link: linkOf(t, all.nodes["b"]).number, Turn: 1, Again: true})
		bob.send(`{"type":"message","data":"still here","seq":1}`)
		ada.gets(`{"type":"message",…"still here"…}`)
		denied := answers("who may not join", a, attachRefused, attachment{Edge: "c", Link: 1, Turn: 1,
			Denied: &sentRefusal{Code: "unauthorized", Text: "get a new token"}})
		if denied.Refusal == nil || denied.Refusal.Code != "unauthorized" || denied.Refusal.Text != "get a new token" {
			t.Errorf("refused with %+v", denied.Refusal)
		}

		// Nothing says what a client without session has: if its answer was lost it begins anew.
		first := answers("a plain client", a, attachDone, attachment{Edge: "c", Link: 2, Turn: 1})
		second := answers("the same once more", a, attachDone, attachment{Edge: "c", Link: 2, Turn: 2})
		if first.Peer == second.Peer {
			t.Errorf("both times it is %s", first.Peer)
		}
		ada.gets(`{"type":"peer-joined",…}`, `{"type":"peer-left",…}`, `{"type":"peer-joined",…}`)

		answers("more than it was given", a, attachGone, attachment{Edge: "b", Link: linkOf(t, all.nodes["b"]).number, Turn: 2, Again: true, Have: 1000})
		ada.gets(`{"type":"peer-left",…"error"…}`)

		all.nodes["a"].freeze(true)
		began := time.Now()
		answers("a frozen node", a, attachFrozen, attachment{Edge: "c", Link: 3, Turn: 1})
		if took := time.Since(began); took > 0 {
			t.Errorf("a frozen node says so after %v", took)
		}
		all.nodes["a"].freeze(false)
	})
}

func TestRequestOfAnotherVersion(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		for request, readable := range map[string]bool{"1 list\n{}": true, "2 list\n{}": false, "1 fly\n{}": false, "": false} {
			var list RoomList
			err := readAnswer(all.nodes["a"].hub.Request(t.Context(), []byte(request)), &list)
			if (err == nil) != readable {
				t.Errorf("%q is answered with %v", request, err)
			}
		}
	})
}

// Frames of other links, and of a link's other attachments, change nothing.
func TestFramesForOthers(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a, b := all.nodes["a"].hub, all.nodes["b"].hub
		ada, bob := adaAndBob(t, all)
		link := linkOf(t, all.nodes["b"])
		id := linkID{"b", link.number}
		for _, f := range []frame{
			{up: true, link: id, turn: 0, part: partUnknown},
			{link: id, turn: 0, part: partUnknown},
			{link: linkID{"c", link.number}, turn: 1, part: partUnknown},
		} {
			for _, h := range []*Hub{a, b} {
				h.Frame(f.bytes())
			}
			synctest.Wait()
			ada.gets()
			if n := testutil.ToFloat64(b.nodes.hop.reattached); n != 0 {
				t.Fatalf("by %s the link is attached again", f.bytes())
			}
		}

		// Of an attachment that this node does not know, its link is told so.
		before := testutil.ToFloat64(a.nodes.hop.unknown)
		later := frame{up: true, link: id, turn: 2, number: 1, part: partHere}
		a.Frame(later.bytes())
		if n := testutil.ToFloat64(a.nodes.hop.unknown) - before; n != 1 {
			t.Errorf("%v frames of an unknown attachment were counted", n)
		}

		// What the client has it does not get again.
		ada.send(`{"type":"message","data":1,"seq":1}`)
		bob.gets(`{"type":"message",…}`)
		again := frame{link: id, turn: 1, number: link.hop.taken + 1, part: []byte("out 1\n" + `{"type":"message","data":1,"seq":1}`)}
		b.Frame(again.bytes())
		bob.gets()
	})
}

// A seat that was forgotten, since its link was not heard for long, is found again by the link's next word.
func TestForgottenLink(t *testing.T) {
	for name, word := range map[string]func(b *Hub, bob *peer){
		"speaks":   func(_ *Hub, bob *peer) { bob.send(`{"type":"message","data":1,"seq":1}`) },
		"is asked": func(b *Hub, _ *peer) { b.Silent("a") },
	} {
		t.Run(name, func(t *testing.T) {
			inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
				ada, bob := adaAndBob(t, all)
				seatOn(t, all.nodes["a"]).lost()
				ada.gets(`{"type":"peer-away",…}`)
				word(all.nodes["b"].hub, bob)
				time.Sleep(2 * time.Second)
				want := []string{`{"type":"peer-back",…}`, `{"type":"message",…}`}
				if name != "speaks" {
					want = want[:1]
				}
				ada.gets(want...)
			})
		})
	}
}

// The connections of a node that gives no sign of life are away, and back when it is heard again.
func TestSilentEdge(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := adaAndBob(t, all)
		all.lose(1)
		all.nodes["a"].hub.Silent("b")
		ada.gets(`{"type":"peer-away",…}`)
		all.lose(0)
		time.Sleep(2 * time.Second)
		ada.gets(`{"type":"peer-back",…}`)
		if code := bob.closeCode(); code != 0 {
			t.Errorf("closed with %d", code)
		}
	})
}

// Where a room has died with its node, its clients are told at once to come back.
func TestDeadOwner(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		_, bob := adaAndBob(t, all)
		all.nodes["a"].kill()
		time.Sleep(time.Second)
		if code := bob.closeCode(); code != 1012 {
			t.Errorf("after a second it is closed with %d", code)
		}
	})
}

// The places in a room taken from a dead node are for 5 s those of the clients that come back.
func TestStrangersWait(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		b, c := all.nodes["b"].hub, all.nodes["c"].hub
		adaAndBob(t, all)
		all.nodes["a"].kill()
		dan, eve := c.testPeer(t), c.testPeer(t)
		go dan.send(`{"type":"join","room":"demo"}`)
		synctest.Wait()
		dan.gets()
		time.Sleep(time.Second)
		ada, bob := c.testPeer(t), b.testPeer(t)
		ada.joined("demo", session(keyA, 2, 0))
		go eve.send(`{"type":"join","room":"demo"}`)
		time.Sleep(time.Second)
		bob.joined("demo", session(keyB, 2, 0))
		time.Sleep(2900 * time.Millisecond)
		dan.gets()
		eve.gets()
		time.Sleep(200 * time.Millisecond)
		dan.gets(`{"type":"joined",…}`)
		eve.gets(`{"type":"error",…"room-full",…}`)
	})
}

// fill has a room at a with ada and bob, and cyd at c, to whom nothing gets and for whom as much waits as
// may, and one event more.
func fill(t *testing.T, all *fakeNodes, before func(cyd *peer)) (cyd *peer, most int) {
	t.Helper()
	a := all.nodes["a"].hub
	senders := [2]*peer{a.testPeer(t), a.testPeer(t)}
	for i, p := range senders {
		p.joined("demo", session([]string{keyA, keyB}[i], 1, 0))
	}
	cyd = all.nodes["c"].hub.testPeer(t)
	cyd.joined("demo", session(keyC, 1, 0))
	time.Sleep(time.Second)
	all.lose(1)
	before(cyd)
	for n := range hopParts / 2 {
		for _, p := range senders {
			p.send(`{"type":"message","data":%d,"seq":%d,"to":%q}`, n, n+1, cyd.id)
		}
	}
	senders[1].conn.Lost(EndLost)
	synctest.Wait()
	return cyd, hopParts
}

// What waits for a client that leaves is said before left, however much it is.
func TestLeaveBehindMuch(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		cyd, most := fill(t, all, func(cyd *peer) {
			go cyd.send(`{"type":"leave","seq":1}`)
			time.Sleep(200 * time.Millisecond) // its repetition comes before what is said to it
		})
		time.Sleep(1100 * time.Millisecond)
		all.lose(0)
		time.Sleep(time.Second)
		got := cyd.next()
		if n := len(got); n < most+2 || !like(got[n-1], `{"type":"left",…}`) || !like(got[n-2], `{"type":"peer-away",…}`) {
			t.Errorf("%d messages, the last are %q", n, got[max(0, n-3):])
		}
	})
}

// A frozen node says nothing, be it here or elsewhere; what waited is said when it may speak again.
func TestFrozenNodeSaysNothing(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a := all.nodes["a"]
		ada, bob := a.hub.testPeer(t), a.hub.testPeer(t)
		ada.joined("demo", session(keyA, 1, 0))
		bob.joined("demo", session(keyB, 1, 0))
		ada.send(`{"type":"message","data":1,"seq":1}`)
		synctest.Wait()
		a.freeze(true)
		bob.gets()
		time.Sleep(3 * time.Second)
		bob.gets()
		a.freeze(false)
		time.Sleep(time.Second)
		bob.gets(`{"type":"message",…}`)
	})
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		cyd, most := fill(t, all, func(*peer) {})
		all.nodes["a"].freeze(true)
		all.lose(0)
		time.Sleep(3 * time.Second)
		if n := len(cyd.next()); n != most {
			t.Errorf("%d messages came of a frozen node, %d were on their way", n, most)
		}
		all.nodes["a"].freeze(false)
		time.Sleep(time.Second)
		cyd.gets(`{"type":"peer-away",…}`)
	})
}

// A node that stays frozen sends its clients away, wherever their rooms are, and keeps the seats.
func TestFrozenForLong(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := adaAndBob(t, all)
		cyd := all.nodes["c"].hub.testPeer(t)
		cyd.joined("demo", session(keyC, 1, 0))
		for _, n := range []NodeID{"a", "b"} {
			all.nodes[n].freeze(true)
		}
		time.Sleep(10 * time.Second)
		if ada.closeCode() != 0 || bob.closeCode() != 0 {
			t.Errorf("after 10 s closed with %d and %d", ada.closeCode(), bob.closeCode())
		}
		time.Sleep(7 * time.Second)
		if ada.closeCode() != 1012 || bob.closeCode() != 1012 || cyd.closeCode() != 0 {
			t.Errorf("after 17 s closed with %d, %d and %d", ada.closeCode(), bob.closeCode(), cyd.closeCode())
		}
		for _, n := range []NodeID{"a", "b"} {
			all.nodes[n].freeze(false)
		}
		time.Sleep(time.Second)
		if m := all.nodes["b"].hub.testPeer(t).joined("demo", session(keyA, 2, 0)); m["resumed"] != true {
			t.Errorf("the seat was not kept: %v", m)
		}
	})
}

// What comes for a room that stands still is bounded.
func TestArrivalsAreBounded(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		adaAndBob(t, all)
		all.nodes["a"].freeze(true)
		s := seatOn(t, all.nodes["a"])
		for n := range uint64(2 * mostArrived) {
			f := frame{up: true, link: s.link, turn: s.turn, number: n + 1, part: partHere}
			all.nodes["a"].hub.Frame(f.bytes())
		}
		s.mu.Lock()
		if n := len(s.arrived); n != mostArrived {
			t.Errorf("%d parts wait for the room, want %d", n, mostArrived)
		}
		s.mu.Unlock()
		all.nodes["a"].freeze(false)
	})
}

func TestOperatorAcrossNodes(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		c, ctx := all.nodes["c"].hub, t.Context()
		ada, bob := adaAndBob(t, all)
		info, err := c.Inspect(ctx, "demo")
		if err != nil || info.Node != "a" || len(info.Seats) != 2 || info.Seats[0].Node != "a" || info.Seats[1].Node != "b" {
			t.Errorf("Inspect: %+v, %v", info, err)
		}
		if n, err := c.Announce(ctx, "demo", "", []byte(`"soon"`)); n != 2 || err != nil {
			t.Errorf("Announce: %d, %v", n, err)
		}
		bob.gets(`{"type":"message",…"soon",…}`)
		if err := c.Kick(ctx, "demo", "nobody"); !errors.Is(err, ErrNoSeat) {
			t.Errorf("Kick of nobody: %v", err)
		}
		if err := c.Kick(ctx, "demo", PeerID(bob.id)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if bob.closeCode() != 4501 || ada.closeCode() != 0 {
			t.Errorf("kicked one with %d, the other with %d", bob.closeCode(), ada.closeCode())
		}
		if links, seats := len(all.nodes["b"].hub.nodes.links), len(all.nodes["a"].hub.nodes.seats); links != 0 || seats != 0 {
			t.Errorf("%d links and %d remote seats are left", links, seats)
		}
		if err := c.CloseRoom(ctx, "demo"); err != nil || ada.closeCode() != 4501 {
			t.Errorf("CloseRoom: %v; closed with %d", err, ada.closeCode())
		}
		if _, err := c.Inspect(ctx, "demo"); !errors.Is(err, ErrNoRoom) {
			t.Errorf("Inspect of a room that has ended: %v", err)
		}
	})
}

// An answer that nobody waits for does not stop what comes after it.
func TestAnswerToNobody(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := adaAndBob(t, all)
		s := seatOn(t, all.nodes["a"])
		for n := range uint64(3) {
			f := frame{up: true, link: s.link, turn: s.turn, number: n + 1, part: []byte("leave 0")}
			all.nodes["a"].hub.Frame(f.bytes())
		}
		ada.send(`{"type":"message","data":1,"seq":1}`)
		time.Sleep(time.Second)
		bob.gets(`{"type":"message",…}`, `{"type":"ack",…}`)
	})
}

// The room hears that a connection is lost, even if the news is lost once.
func TestLostNewsOfALostConnection(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := adaAndBob(t, all)
		time.Sleep(time.Second)
		all.lose(1)
		bob.conn.Lost(EndLost)
		synctest.Wait()
		all.lose(0)
		ada.send(`{"type":"message","data":1,"seq":1}`)
		synctest.Wait()
		time.Sleep(time.Second)
		ada.gets(`{"type":"ack",…}`, `{"type":"peer-away",…}`)
		if n := len(all.nodes["b"].hub.nodes.linksTo("")); n != 0 {
			t.Errorf("%d links are left", n)
		}
	})
}
