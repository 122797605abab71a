package signaling

import (
	"fmt"
	"testing"
	"time"
)

// A room whose claim the directory has made anew can be handed over.
func TestHandOverAfterALook(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a := all.nodes["a"]
		a.hub.testPeer(t).joined("demo", session(keyA, 1, 0))
		if _, err := a.Look(t.Context(), "demo"); err != nil {
			t.Fatal(err)
		}
		handsOver(t, a.hub, 1, 0)
	})
}

// Whatever the directory says, a node that has given a room away does not make it again, and sends who looks
// for it on.
func TestGivenIsGiven(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		_, bob := adaAndBob(t, all)
		a := all.nodes["a"]
		handsOver(t, a.hub, 1, 0)
		all.mu.Lock()
		now := all.keys["demo"].owner
		all.keys["demo"].owner = Owner{Node: "a", Epoch: now.Epoch}
		all.mu.Unlock()
		key := hashSession(keyC)
		for turn, again := range []bool{false, true} {
			got := a.hub.attach(t.Context(), &attachment{Edge: "c", Link: 1, Turn: uint64(turn + 1), Room: "demo", Key: &key, Again: again})
			if got.Status != attachNotOwner {
				t.Errorf("again %v: %+v", again, got)
			}
		}
		cyd := a.hub.testPeer(t)
		cyd.send(`{"type":"join","room":"demo"}`)
		if code := cyd.closeCode(); code != 1012 || a.hub.Rooms() != 0 {
			t.Errorf("closed with %d; %d rooms", code, a.hub.Rooms())
		}
		all.mu.Lock()
		all.keys["demo"].owner = now
		all.mu.Unlock()
		time.Sleep(time.Second)
		if code := bob.closeCode(); code != 0 {
			t.Errorf("bob is closed with %d", code)
		}
	})
}

// A snapshot that does not come whole is forgotten in time, though nothing else comes.
func TestSnapshotThatNeverComes(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		n := all.nodes["a"].hub.nodes
		left := func() int {
			n.arriving.Lock()
			defer n.arriving.Unlock()
			return len(n.arriving.snapshots)
		}
		for i := range mostArriving {
			if _, _, err := n.collect(&handedPart{ID: fmt.Sprint(i), Of: 2}, []byte("part")); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := n.collect(&handedPart{ID: "more", Of: 2}, nil); err == nil {
			t.Error("one more than may was taken")
		}
		if _, whole, err := n.collect(&handedPart{ID: "0", Index: 1, Of: 2}, nil); !whole || err != nil || left() != mostArriving-1 {
			t.Errorf("whole %v, %v; %d left", whole, err, left())
		}
		time.Sleep(arrivalTimeout + time.Second)
		if left() != 0 {
			t.Errorf("%d left", left())
		}
	})
}

// A room that two nodes claim is listed with both, also where a page ends between them.
func TestListShowsBothClaims(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		for i, name := range []NodeID{"a", "b"} {
			all.nodes[name].hub.testPeer(t).joined("demo", session([]string{keyA, keyB}[i], 1, 0))
			all.mu.Lock()
			delete(all.keys, "demo") // the register forgets
			all.mu.Unlock()
		}
		all.nodes["c"].hub.testPeer(t).joined("other", session(keyC, 1, 0))
		list, err := all.nodes["c"].hub.List(t.Context(), "", 1)
		if err != nil || len(list.Rooms) != 2 || list.Rooms[0].Node != "a" || list.Rooms[1].Node != "b" || !list.More || list.Total != 3 {
			t.Errorf("%+v, %v", list, err)
		}
		list, err = all.nodes["c"].hub.List(t.Context(), "demo", 1)
		if err != nil || len(list.Rooms) != 1 || list.Rooms[0].ID != "other" || list.More {
			t.Errorf("the next page: %+v, %v", list, err)
		}
	})
}
