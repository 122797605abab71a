package signaling

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// How a room moves, one rule at a time.

func handsOver(t *testing.T, h *Hub, moved, left int) {
	t.Helper()
	if m, l := h.HandOver(t.Context(), 3*time.Second); m != moved || l != left {
		t.Fatalf("%d rooms moved and %d did not, want %d and %d", m, l, moved, left)
	}
}

// A snapshot is the whole room: what is restored from it has the same snapshot.
func TestSnapshotIsTheRoom(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := adaAndBob(t, all)
		cyd := all.nodes["a"].hub.testPeer(t)
		cyd.joined("demo", session(keyC, 3, 0)+`,"name":"cyd"`)
		for seq := 1; seq <= 5; seq++ {
			ada.send(`{"type":"message","data":%d,"seq":%[1]d}`, seq)
		}
		bob.send(`{"type":"message","data":"x","seq":1,"to":"nobody"}`)
		bob.next()
		bob.send(`{"type":"ack","received":2}`)
		synctest.Wait()
		cyd.conn.Lost(EndLost)
		synctest.Wait()
		time.Sleep(time.Second)
		r := all.nodes["a"].hub.rooms["demo"]
		for i, s := range r.seats {
			s.subject, s.barren, s.resumed, s.renewAt = fmt.Sprint("user-", i), 1+i, true, r.hub.clock.Now().Add(time.Hour)
		}

		sent := r.snapshot()
		b, err := json.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		var snap snapshot
		if err := json.Unmarshal(b, &snap); err != nil {
			t.Fatal(err)
		}
		again := newRoom("demo", all.nodes["b"].hub, sent.From)
		again.restore(&snap)
		got := again.snapshot()
		got.Age = sent.Age
		if b2, _ := json.Marshal(got); !bytes.Equal(b, b2) {
			t.Errorf("%s\nbecomes\n%s", b, b2)
		}
		for i, s := range again.seats {
			if before := r.seats[i].ring; s.ring.by != before.by || s.ring.relayed != before.relayed || s.ring.head != before.head {
				t.Errorf("what waits for seat %d counts %v of %v, before %v of %v", i, s.ring.by, s.ring.relayed, before.by, before.relayed)
			}
		}
		if s := sent.Seats; len(s) != 3 || s[0].Received != 5 || s[1].Received != 1 || s[1].Handled == 0 || s[1].Acked != 2 || s[1].Given < s[1].Acked ||
			s[1].Error == 0 || s[2].Name != "cyd" || s[2].Attempt != 3 || s[2].Since != 3 || s[2].Away != nanoseconds(29*time.Second) || len(s[2].Items) < 5 ||
			s[2].Subject != "user-2" || s[2].Barren != 3 || !s[2].Resumed || s[2].Renew != nanoseconds(time.Hour) {
			t.Errorf("the snapshot shows nothing: %s", b)
		}
		for _, secret := range []string{keyA, keyB, keyC} {
			if strings.Contains(string(b), secret) {
				t.Errorf("a session key is in %s", b)
			}
		}
	})
}

// The others hear of a move only what it changes for them: who had no session has left, and who does not
// come back within 5 s is away, with what is left of its grace period.
func TestHandOverIsQuiet(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := adaAndBob(t, all)
		pia := all.nodes["c"].hub.testPeer(t)
		pia.joined("demo", "")
		ada.send(`{"type":"message","data":1,"seq":1}`)
		bob.gets(`{"type":"peer-joined",…}`, `{"type":"message",…}`)
		handsOver(t, all.nodes["a"].hub, 1, 0)
		synctest.Wait()
		if ada.closeCode() != 1012 || pia.closeCode() != 1012 || bob.closeCode() != 0 {
			t.Errorf("closed with %d, %d and %d", ada.closeCode(), pia.closeCode(), bob.closeCode())
		}
		bob.gets(`{"type":"peer-left",…"left"…}`) // and nothing that it had
		time.Sleep(quietTime - 100*time.Millisecond)
		bob.gets()
		time.Sleep(time.Second)
		bob.gets(`{"type":"peer-away",…}`)
		time.Sleep(testConfig().Grace - quietTime - 1500*time.Millisecond)
		bob.gets()
		time.Sleep(time.Second)
		bob.gets(`{"type":"peer-left",…"timeout"…}`)
	})
}

// A room moves to the node that has most of its clients, else to the one with the fewest seats, never to one
// that ends.
func TestHandOverChooses(t *testing.T) {
	for _, tt := range []struct {
		name      string
		others    string // nodes of the room's other clients
		elsewhere string // nodes where rooms of others are, one for each letter
		draining  NodeID
		want      NodeID
	}{
		{"most clients", "bb", "bbbc", "", "b"},
		{"most clients, the last", "cc", "ccc", "", "c"},
		{"fewest seats", "", "c", "", "b"},
		{"fewest seats, the last", "", "b", "", "c"},
		{"one ends", "b", "", "b", "c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
				all.nodes["a"].hub.testPeer(t).joined("demo", session(keyA, 1, 0))
				for i, at := range tt.others {
					all.nodes[NodeID(at)].hub.testPeer(t).joined("demo", session([]string{keyB, keyC}[i], 1, 0))
				}
				for i, at := range tt.elsewhere {
					all.nodes[NodeID(at)].hub.testPeer(t).joined(fmt.Sprint("another ", i), "")
				}
				defer time.Sleep(time.Second) // links follow
				if tt.draining != "" {
					handsOver(t, all.nodes[tt.draining].hub, 0, 0)
				}
				handsOver(t, all.nodes["a"].hub, 1, 0)
				if info, err := all.nodes["c"].hub.Inspect(t.Context(), "demo"); err != nil || info.Node != tt.want {
					t.Errorf("the room is at %s, want %s (%v)", info.Node, tt.want, err)
				}
			})
		})
	}
}

// A room that has come to the node of a link moves on like any other.
func TestHandOverTwice(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		_, bob := adaAndBob(t, all)
		for _, n := range []NodeID{"a", "b"} {
			handsOver(t, all.nodes[n].hub, 1, 0)
			time.Sleep(time.Second)
		}
		if code := bob.closeCode(); code != 0 {
			t.Errorf("closed with %d", code)
		}
		if m := all.nodes["c"].hub.testPeer(t).joined("demo", session(keyA, 2, 0)); m["resumed"] != true {
			t.Errorf("ada comes back: %v", m)
		}
		bob.gets()
	})
}

// A handover without an answer may have been done or not: the room is where the directory says, goes on
// there, and can move again.
func TestHandOverWithoutAnswer(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		defer time.Sleep(time.Second) // links follow
		adaAndBob(t, all)
		all.lose(1)
		handsOver(t, all.nodes["a"].hub, 0, 1)
		all.lose(0)
		handsOver(t, all.nodes["a"].hub, 1, 0)
	})
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		defer time.Sleep(5 * time.Second) // links follow
		adaAndBob(t, all)
		all.slow = time.Second
		time.AfterFunc(all.slow/2, func() { all.lose(1) }) // the answer
		handsOver(t, all.nodes["a"].hub, 1, 0)
		all.lose(0)
	})
}

// The one that takes a room finds out whether its claim came through.
func TestClaimWithoutAnswer(t *testing.T) {
	for seed := range uint64(8) { // in some it does at once
		inNodes(t, seed, 0, func(t *testing.T, all *fakeNodes) {
			defer time.Sleep(time.Second) // links follow
			adaAndBob(t, all)
			all.mu.Lock()
			all.unsure = 1
			all.mu.Unlock()
			handsOver(t, all.nodes["a"].hub, 1, 0)
			if info, err := all.nodes["c"].hub.Inspect(t.Context(), "demo"); err != nil || info.Node != "b" || len(info.Seats) != 2 {
				t.Errorf("seed %d: %d seats at %q, %v", seed, len(info.Seats), info.Node, err)
			}
		})
	}
}

// A node that ends, or is frozen, or has a room of that name, takes none.
func TestReceiveRefuses(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		adaAndBob(t, all)
		b, c := all.nodes["b"], all.nodes["c"]
		snap := all.nodes["a"].hub.rooms["demo"].snapshot()
		refuses := func(what string, h *Hub, snap *snapshot) {
			t.Helper()
			if err := h.receive(snap); err == nil {
				t.Errorf("%s takes the room", what)
			}
		}
		refuses("the owner", all.nodes["a"].hub, &snap)
		b.freeze(true)
		refuses("a frozen node", b.hub, &snap)
		b.freeze(false)
		c.hub.HandOver(t.Context(), 0)
		refuses("a node that ends", c.hub, &snap)
	})
}

// A room that is on its way here is asked nothing before it has come.
func TestHandedRoomWaits(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		adaAndBob(t, all)
		b := all.nodes["b"]
		snap := all.nodes["a"].hub.rooms["demo"].snapshot()
		all.mu.Lock()
		b.cut = true
		all.mu.Unlock()
		received := make(chan error, 1)
		go func() { received <- b.hub.receive(&snap) }()
		synctest.Wait()
		var info RoomInfo
		asked := make(chan error, 1)
		go func() {
			var err error
			info, err = b.hub.inspectLocal(t.Context(), "demo")
			asked <- err
		}()
		synctest.Wait()
		all.mu.Lock()
		b.cut = false
		all.mu.Unlock()
		if err := <-received; err != nil {
			t.Fatal(err)
		}
		if err := <-asked; err != nil || len(info.Seats) != 2 {
			t.Errorf("the room has %d seats, %v", len(info.Seats), err)
		}
	})
}

func TestSnapshotParts(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		n := all.nodes["a"].hub.nodes
		add := func(id string, index, of int, want string) {
			t.Helper()
			got := "more"
			switch b, whole, err := n.collect(&handedPart{ID: id, Index: index, Of: of}, []byte(fmt.Sprint(index))); {
			case err != nil:
				got = "refused"
			case whole:
				got = string(b)
			}
			if got != want {
				t.Errorf("part %d of %d of %s: %s, want %s", index, of, id, got, want)
			}
		}
		add("whole", 0, 1, "0")
		add("three", 0, 3, "more")
		add("three", 1, 3, "more")
		add("three", 2, 3, "012")
		add("disorder", 0, 3, "more")
		add("disorder", 2, 3, "refused")
		add("twice", 0, 3, "more")
		add("twice", 0, 3, "refused")
		add("too many", 0, mostParts+1, "refused")
		add("miscounted", 1, 1, "refused")
		for i := range mostArriving {
			add(fmt.Sprint(i), 0, 2, "more")
		}
		add("one more", 0, 2, "refused")
		add("0", 1, 2, "01")
		add("one more", 0, 2, "more")
	})
}
