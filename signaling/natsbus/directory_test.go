package natsbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"duet/signaling"
)

// The rules of lease, peers, claims and buckets that the simulations do not reach, one at a time.

// A soundStore is a register that does what it is told, and that a test can tell what to answer.
type soundStore struct {
	mu       sync.Mutex
	revision uint64
	keys     map[string]entry
	slow     time.Duration
	lagging  []entry // what the next readings find
	failing  []error // what the next writes end with: ErrUnsure when done, another when not
	writes   int
}

func newSoundStore() *soundStore { return &soundStore{keys: map[string]entry{}} }

func (s *soundStore) get(_ context.Context, key string) (entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lagging) > 0 {
		e := s.lagging[0]
		s.lagging = s.lagging[1:]
		return e, nil
	}
	return s.keys[key], nil
}

func (s *soundStore) put(_ context.Context, key string, value []byte, revision uint64, _ time.Duration) (uint64, error) {
	time.Sleep(s.slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	var fails error
	if len(s.failing) > 0 {
		fails, s.failing = s.failing[0], s.failing[1:]
	}
	switch {
	case s.keys[key].revision != revision:
		return 0, errRevision
	case fails != nil && !errors.Is(fails, signaling.ErrUnsure):
		return 0, fails
	}
	s.revision++
	s.keys[key] = entry{value, s.revision}
	return s.revision, fails
}

func (s *soundStore) purge(ctx context.Context, key string, revision uint64) error {
	_, err := s.put(ctx, key, nil, revision, 0)
	return err
}

// set writes a key, whatever its revision, and returns what is there now.
func (s *soundStore) set(key string, value []byte) entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.keys[key] = entry{value, s.revision}
	return s.keys[key]
}

// A loneNode is a node over a soundStore, whose keeper a test steps.
type loneNode struct {
	store  *soundStore
	keeper *keeper
	peers  *peers
	claims *claims
	now    clock
}

// inRules runs f with a node whose lease is confirmed, in a bubble.
func inRules(t *testing.T, f func(t *testing.T, n *loneNode)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now().Add(-time.Hour)
		n := &loneNode{store: newSoundStore(), now: func() time.Duration { return time.Since(began) }}
		log := slog.New(slog.DiscardHandler)
		n.keeper = newKeeper("self", n.store, n.now, simConfig, log)
		n.peers = newPeers("self", n.store, n.now, simConfig, log)
		n.claims = newClaims("self", []register{n.store}, n.peers, n.keeper, n.now, log)
		if _, renewed := n.keeper.step(t.Context()); !renewed {
			t.Fatal("no lease")
		}
		f(t, n)
	})
}

// owner writes whose a room is.
func (n *loneNode) owner(room signaling.RoomID, node signaling.NodeID) signaling.Owner {
	_, key := n.claims.key(room)
	e := n.store.set(key, roomBytes(node, 0))
	return signaling.Owner{Node: node, Epoch: e.revision}
}

func (n *loneNode) find(t *testing.T, room signaling.RoomID) (signaling.Owner, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	return n.claims.Find(ctx, room)
}

// A renewal may be written as soon as it is sent: from then on the fence counts, however late the answer.
func TestFenceCountsFromTheSending(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		n.store.slow = time.Second
		sent := n.now()
		if _, renewed := n.keeper.step(t.Context()); !renewed {
			t.Fatal("not renewed")
		}
		if left := time.Duration(n.keeper.fenceAt.Load()) - sent; left != simConfig.Fence {
			t.Errorf("valid for %v after the sending, want %v", left, simConfig.Fence)
		}
		time.Sleep(simConfig.Fence - n.now() + sent - 1)
		if !n.keeper.valid() {
			t.Error("not valid before the fence")
		}
		time.Sleep(time.Nanosecond)
		if n.keeper.valid() {
			t.Error("valid at the fence")
		}
	})
}

// What a node learns of its own key decides what it does next.
func TestLeaseSteps(t *testing.T) {
	other := errors.New("no connection")
	for _, tt := range []struct {
		name     string
		learn    func(*lease)
		next     step
		revision uint64
	}{
		{"renewed", func(l *lease) { l.renewed(0, 8, nil) }, stepRenew, 8},
		{"somebody wrote", func(l *lease) { l.renewed(0, 0, errRevision) }, stepRead, 7},
		{"no answer", func(l *lease) { l.renewed(0, 0, signaling.ErrUnsure) }, stepRenew, 7},
		{"a write of ours", func(l *lease) { l.read(entry{nil, 9}, true) }, stepRenew, 9},
		{"a replica that is behind", func(l *lease) { l.read(entry{nil, 6}, true) }, stepRenew, 7},
		{"another's", func(l *lease) { l.read(entry{nil, 9}, false) }, stepLost, 7},
		{"nothing", func(l *lease) { l.read(entry{}, false) }, stepBury, 7},
		{"buried", func(l *lease) { l.buried(nil) }, stepLost, 7},
		{"there after all", func(l *lease) { l.buried(errRevision) }, stepRenew, 7},
		{"perhaps buried", func(l *lease) { l.buried(other) }, stepRead, 7},
	} {
		l := lease{fence: time.Second, revision: 7, fenceAt: time.Minute}
		if tt.learn(&l); l.next != tt.next || l.revision != tt.revision {
			t.Errorf("%s: step %d at revision %d, want %d at %d", tt.name, l.next, l.revision, tt.next, tt.revision)
		}
		if lost := l.next == stepLost; lost != (l.fenceAt == 0) {
			t.Errorf("%s: the fence is at %v", tt.name, l.fenceAt)
		}
	}
}

// Only a revision that is newer is a sign of life, and a refused certificate takes back all there was.
func TestEvidence(t *testing.T) {
	var e evidence
	for at, revision := range []uint64{5, 5, 4, 6, 6, 5} {
		e.saw(time.Duration(at), revision)
	}
	if e.since != 3 || e.revision != 6 {
		t.Errorf("known since %d of revision %d, want 3 and 6", e.since, e.revision)
	}
	if e.ripe(3+9, 10) || !e.ripe(3+10, 10) {
		t.Error("not ripe after a lease, or before")
	}
	e.refused()
	if e.ripe(100, 10) {
		t.Error("ripe after a refusal")
	}
}

// A node is told silent once, and not for what this one did not hear while it stood still.
func TestSilenceIsToldOnce(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		p := n.peers
		silent := func(stalled time.Duration) []signaling.NodeID {
			silent, _ := p.look(n.now(), stalled)
			return silent
		}
		p.heard(beacon{Node: "b", Revision: 1})
		time.Sleep(time.Minute)
		if nodes := silent(time.Minute); len(nodes) > 0 {
			t.Errorf("after a stall %v is silent", nodes)
		}
		time.Sleep(p.quiet + 1)
		if nodes := silent(0); !slices.Equal(nodes, []signaling.NodeID{"b"}) {
			t.Errorf("%v are silent", nodes)
		}
		if nodes := silent(0); len(nodes) > 0 {
			t.Errorf("again %v is silent", nodes)
		}
		p.heard(beacon{Node: "b", Revision: 2})
		time.Sleep(p.quiet + 1)
		if nodes := silent(0); len(nodes) != 1 {
			t.Errorf("silent once more: %v", nodes)
		}
	})
}

// A node whose beacons come is not declared dead, even if the store lets nobody renew; one that is dead stays so.
func TestWhoIsHeardLives(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		n.store.set(nodeKey("b"), n.keeper.value)
		revision := n.store.revision
		for range 6 {
			n.peers.heard(beacon{Node: "b", Revision: revision})
			time.Sleep(simConfig.Renew)
		}
		n.peers.doubt("b")
		x := n.peers.get("b")
		if died, wait := n.peers.inquire(t.Context(), "b", x); died || wait <= 0 {
			t.Fatalf("dead %v, to be asked again after %v", died, wait)
		}
		time.Sleep(n.peers.quiet)
		if died, _ := n.peers.inquire(t.Context(), "b", x); !died {
			t.Fatal("not dead, though silent and not renewed")
		}
		n.peers.heard(beacon{Node: "b", Revision: revision + 1})
		if n.peers.alive("b") {
			t.Error("alive after its death")
		}
	})
}

// A hearerOfDeath keeps who was told dead.
type hearerOfDeath struct {
	hearer
	dead *[]signaling.NodeID
}

func (h hearerOfDeath) Dead(node signaling.NodeID) { *h.dead = append(*h.dead, node) }

func TestDeathIsTold(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		n.store.set(nodeKey("b"), certificate("c"))
		var buried, told []signaling.NodeID
		n.peers.buried = func(node signaling.NodeID) { buried = append(buried, node) }
		n.peers.observe(t.Context(), "b", hearerOfDeath{dead: &told})
		if want := []signaling.NodeID{"b"}; !slices.Equal(buried, want) || !slices.Equal(told, want) {
			t.Errorf("buried %v, told %v", buried, told)
		}
	})
}

// While the lease is not confirmed nothing is claimed.
func TestFindWaitsForTheLease(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		time.Sleep(simConfig.Fence)
		if owner, err := n.find(t, "room"); err == nil {
			t.Errorf("frozen, and the owner is %+v", owner)
		}
		if n.store.writes != 1 {
			t.Errorf("%d writes", n.store.writes)
		}
	})
}

// A room that nobody holds here any more may have been given away.
func TestFindAfterTheLastHold(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		n.peers.heard(beacon{Node: "b", Revision: 1})
		if owner, err := n.find(t, "room"); err != nil || owner.Node != "self" {
			t.Fatalf("%+v, %v", owner, err)
		}
		n.claims.Release("room")
		want := n.owner("room", "b")
		if owner, err := n.find(t, "room"); err != nil || owner != want {
			t.Errorf("%+v, %v; it is %+v", owner, err, want)
		}
	})
}

// An owner that may be dead is waited for, also where it was known a moment ago.
func TestFindTrustsNoSuspect(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		want := n.owner("room", "b")
		for _, alive := range []bool{true, true, false, true} {
			if alive {
				n.peers.heard(beacon{Node: "b", Revision: 1})
			} else {
				n.peers.doubt("b")
			}
			if owner, err := n.find(t, "room"); alive && owner != want || !alive && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("alive %v: %+v, %v", alive, owner, err)
			}
			time.Sleep(askedAgain)
			n.keeper.step(t.Context())
		}
	})
}

// A reading from before the claim that is handed over says nothing.
func TestReceiveFromALaggingReplica(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		from := n.owner("room", "b")
		n.store.lagging = []entry{{}, {roomBytes("c", 0), from.Epoch - 1}}
		if owner, err := n.claims.Receive(t.Context(), "room", from); err != nil || owner.Node != "self" {
			t.Errorf("%+v, %v", owner, err)
		}
	})
}

// A claim to a handed room whose answer was lost may have been made: then it is made once more.
func TestReceiveOnceMore(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		from := n.owner("room", "b")
		n.store.failing = []error{signaling.ErrUnsure}
		if owner, err := n.claims.Receive(t.Context(), "room", from); err != nil || owner.Node != "self" || owner.Epoch != n.store.revision {
			t.Errorf("%+v, %v; the store is at revision %d", owner, err, n.store.revision)
		}
	})
}

// Of a room of one's own a write tells, not a reading from before it.
func TestLookThroughALaggingReplica(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		n.owner("room", "c")
		n.peers.die(n.peers.get("c"))
		first, err := n.find(t, "room")
		if err != nil || !first.Taken {
			t.Fatalf("%+v, %v", first, err)
		}
		n.store.failing = []error{errors.New("not connected")}
		n.store.lagging = []entry{{roomBytes("c", 0), first.Epoch - 1}}
		if owner, err := n.claims.Look(t.Context(), "room"); err != nil || owner.Node != "self" || owner.Epoch == first.Epoch {
			t.Errorf("%+v, %v; it was %+v", owner, err, first)
		}
	})
}

func TestLookAtADeadNodesRoom(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		want := n.owner("room", "b")
		if owner, err := n.claims.Look(t.Context(), "room"); err != nil || owner != want {
			t.Errorf("%+v, %v", owner, err)
		}
		n.peers.die(n.peers.get("b"))
		if owner, err := n.claims.Look(t.Context(), "room"); !errors.Is(err, signaling.ErrNoRoom) {
			t.Errorf("%+v, %v", owner, err)
		}
	})
}

// A claim whose answer was lost is given up in the end, so that the key does not name this node for nothing;
// another node's key is left alone.
func TestDoubtfulClaimsAreGivenUp(t *testing.T) {
	inRules(t, func(t *testing.T, n *loneNode) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go n.claims.run(ctx)
		for _, room := range []signaling.RoomID{"ours", "another's"} {
			n.store.failing, n.store.slow = []error{signaling.ErrUnsure}, time.Second
			hasty, cancel := context.WithTimeout(ctx, time.Second/2)
			if owner, err := n.claims.Find(hasty, room); err == nil {
				t.Fatalf("without an answer the owner is %+v", owner)
			}
			cancel()
		}
		n.owner("another's", "b")
		time.Sleep(keepEmpty + time.Second)
		synctest.Wait()
		_, ours := n.claims.key("ours")
		_, others := n.claims.key("another's")
		if e := n.store.keys[ours]; e.value != nil {
			t.Errorf("the key still holds %s", e.value)
		}
		if e := n.store.keys[others]; e.value == nil {
			t.Error("another node's key was purged")
		}
		if n := n.claims.len(); n != 0 {
			t.Errorf("%d claims are left", n)
		}
	})
}

func TestOwnerCache(t *testing.T) {
	c := ownerCache{limit: 10}
	owner := signaling.Owner{Node: "b", Epoch: 1}
	c.put("room", owner, 0)
	if got, fresh := c.get("room", askedAgain-1); got != owner || fresh {
		t.Errorf("asked again: %+v, fresh %v", got, fresh)
	}
	if got, fresh := c.get("room", askedAgain); got != owner || !fresh {
		t.Errorf("asked later: %+v, fresh %v", got, fresh)
	}
	for i := range 100 {
		c.put(signaling.RoomID(fmt.Sprint(i)), owner, 0)
	}
	if n := len(c.recent) + len(c.older); n > c.limit {
		t.Errorf("%d owners are remembered, want at most %d", n, c.limit)
	}
	if got, _ := c.get("99", 0); got != owner {
		t.Error("the last one is forgotten")
	}
	c.put("99", signaling.Owner{}, 0)
	if got, _ := c.get("99", 0); got == owner {
		t.Error("what was taken out is there")
	}
}

// Each property without which keys would vanish, or could not be written, is looked at.
func TestCheckBucket(t *testing.T) {
	good := jetstream.StreamConfig{MaxMsgsPerSubject: 1, Storage: jetstream.FileStorage, AllowMsgTTL: true, SubjectDeleteMarkerTTL: markerTTL,
		AllowDirect: true, AllowRollup: true, MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: maxRoomValue}
	if err := checkBucket(good, maxRoomValue); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for want, change := range map[string]func(*jetstream.StreamConfig){
		"its history is not 1":         func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 2 },
		"it is not kept in files":      func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"it has no limit marker TTL":   func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = 0 },
		"does not allow direct reads":  func(c *jetstream.StreamConfig) { c.AllowDirect = false },
		"its keys cannot be purged":    func(c *jetstream.StreamConfig) { c.DenyPurge = true },
		"it has a TTL of its own":      func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"it discards old keys":         func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 },
		"takes no values of 1024 byte": func(c *jetstream.StreamConfig) { c.MaxMsgSize = maxRoomValue - 1 },
	} {
		c := good
		change(&c)
		if err := checkBucket(c, maxRoomValue); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want that %q", err, want)
		}
	}
}
