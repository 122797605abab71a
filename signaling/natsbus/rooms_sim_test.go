package natsbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"duet/signaling"
)

// A shakyStore is a register whose answers get lost or come late, whose writes are done long after their
// writer gave up, whose reads are of replicas that are behind, and that stands still now and then, as its
// seed decides. Its time is the bubble's.
type shakyStore struct {
	faults float64 // chance that a message is lost or late

	expires bool // keys vanish after their TTL

	mu       sync.Mutex
	rng      *rand.Rand
	revision uint64
	keys     map[string][]storedEntry // every value there was
	stalled  time.Time                // nothing is answered until then
}

type storedEntry struct {
	entry
	at  time.Time
	ttl time.Duration
}

func newShakyStore(seed uint64, faults float64) *shakyStore {
	return &shakyStore{faults: faults, rng: rand.New(rand.NewPCG(seed, 11)), keys: map[string][]storedEntry{}}
}

func (s *shakyStore) chance(p float64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.Float64() < p
}

func (s *shakyStore) upTo(d time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(s.rng.Int64N(int64(d)))
}

func (s *shakyStore) flight() (d time.Duration, lost bool) {
	switch {
	case !s.chance(s.faults):
		return s.upTo(5 * time.Millisecond), false
	case s.chance(0.3):
		return 0, true
	case s.chance(0.3):
		return s.upTo(30 * time.Second), false
	}
	return s.upTo(3 * time.Second), false
}

func (s *shakyStore) ask(ctx context.Context, do func() (entry, error)) (entry, error) {
	ctx, cancel := context.WithTimeout(ctx, kvTimeout)
	defer cancel()
	type answer struct {
		e   entry
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		there, lost := s.flight()
		if lost {
			return
		}
		time.Sleep(there)
		s.mu.Lock()
		for stalled := s.stalled; time.Now().Before(stalled); stalled = s.stalled {
			s.mu.Unlock()
			time.Sleep(time.Until(stalled))
			s.mu.Lock()
		}
		e, err := do()
		s.mu.Unlock()
		back, lost := s.flight()
		if lost {
			return
		}
		time.Sleep(back)
		answers <- answer{e, err}
	}()
	select {
	case got := <-answers:
		return got.e, got.err
	case <-ctx.Done():
		return entry{}, fmt.Errorf("%w: %w", signaling.ErrUnsure, ctx.Err())
	}
}

func (s *shakyStore) get(ctx context.Context, key string) (entry, error) {
	return s.ask(ctx, func() (found entry, _ error) {
		as := time.Now()
		if s.rng.IntN(4) == 0 {
			as = as.Add(-time.Duration(s.rng.Int64N(int64(5 * time.Second))))
		}
		for _, v := range s.keys[key] {
			if !v.at.After(as) {
				found = s.entryAt(v, as)
			}
		}
		return found, nil
	})
}

// entryAt is what is left of a value at a time.
func (s *shakyStore) entryAt(v storedEntry, at time.Time) entry {
	if s.expires && at.Sub(v.at) > v.ttl {
		return entry{}
	}
	return v.entry
}

func (s *shakyStore) put(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	e, err := s.ask(ctx, func() (entry, error) {
		last := entry{}
		if all := s.keys[key]; len(all) > 0 {
			last = s.entryAt(all[len(all)-1], time.Now())
		}
		if last.revision != revision {
			return entry{}, errRevision
		}
		s.revision++
		next := entry{value: value, revision: s.revision}
		s.keys[key] = append(s.keys[key], storedEntry{next, time.Now(), ttl})
		return next, nil
	})
	return e.revision, err
}

func (s *shakyStore) purge(ctx context.Context, key string, revision uint64) error {
	_, err := s.put(ctx, key, nil, revision, 0)
	return err
}

// A simNode is a node without NATS: keeper, peers and claims over a shakyStore.
type simNode struct {
	sim    *simulation
	keeper *keeper
	peers  *peers
	claims *claims
	stop   context.CancelFunc
	ctx    context.Context
	rooms  map[signaling.RoomID]*simRoom // guarded by simulation.mu
}

// A simRoom is what a hub knows of a room.
type simRoom struct {
	acting  int             // how many act for it on this node
	handing bool            // it is stopped, for a handover
	moved   map[uint64]bool // epochs that ended so: who still has one finds the room again
}

type simulation struct {
	t     *testing.T
	seed  uint64
	store *shakyStore
	start time.Time

	mu      sync.Mutex
	nodes   []*simNode
	names   int
	claimed map[string]int
	moved   int // rooms handed over
	kept    int // handovers that Look found not done
	gone    int // handovers without an answer that Look found done
	faults  []error
}

var simConfig = Config{Lease: 10 * time.Second, Fence: 8 * time.Second, Renew: 2 * time.Second}

func (s *simulation) node(ctx context.Context) *simNode {
	s.mu.Lock()
	s.names++
	id := signaling.NodeID(fmt.Sprintf("node-%d", s.names))
	s.mu.Unlock()
	rate := 0.9 + 0.2*float64(s.store.upTo(1000))/1000
	offset := time.Hour + s.store.upTo(time.Hour)
	now := func() time.Duration { return offset + time.Duration(float64(time.Since(s.start))*rate) }
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	n := &simNode{sim: s, rooms: map[signaling.RoomID]*simRoom{}}
	n.keeper = newKeeper(id, s.store, now, simConfig, log)
	n.peers = newPeers(id, s.store, now, simConfig, log)
	n.claims = newClaims(id, []register{s.store}, n.peers, n.keeper, now, log)
	n.claims.claimed = func(how string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.claimed[how]++
	}
	n.ctx, n.stop = context.WithCancel(ctx)
	return n
}

func (n *simNode) run(work *sync.WaitGroup) {
	work.Go(func() {
		n.keeper.run(n.ctx, func(revision uint64) {
			for _, other := range n.sim.others(n) {
				if d, lost := n.sim.store.flight(); !lost {
					work.Go(func() {
						time.Sleep(d)
						other.peers.heard(beacon{Node: n.keeper.self, Revision: revision})
					})
				}
			}
		})
		n.stop()
	})
	work.Go(func() { n.peers.run(n.ctx, hearer{}) })
	work.Go(func() { n.claims.run(n.ctx) })
}

func (s *simulation) others(n *simNode) (others []*simNode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.nodes {
		if other != n {
			others = append(others, other)
		}
	}
	return others
}

// room returns what n knows of a room. simulation.mu is held.
func (n *simNode) room(room signaling.RoomID) *simRoom {
	if n.rooms[room] == nil {
		n.rooms[room] = &simRoom{moved: map[uint64]bool{}}
	}
	return n.rooms[room]
}

// act adds to the number of those that act for a room here, and sees that no other node does. It reports
// false where they may not.
func (n *simNode) act(room signaling.RoomID, epoch uint64, add int) bool {
	s := n.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	r := n.room(room)
	if add > 0 && (r.handing || r.moved[epoch]) {
		return false
	}
	r.acting += add
	acting := 0
	for _, x := range s.nodes {
		if x.room(room).acting > 0 && x.ctx.Err() == nil && x.keeper.valid() {
			acting++
		}
	}
	if acting > 1 {
		s.faults = append(s.faults, fmt.Errorf("seed %d: %d nodes act for %s at %v", s.seed, acting, room, time.Since(s.start)))
	}
	return true
}

func (n *simNode) actFor(room signaling.RoomID, owner signaling.Owner, times int) {
	if !n.act(room, owner.Epoch, 1) {
		return
	}
	for range times {
		if !sleep(n.ctx, n.sim.store.upTo(500*time.Millisecond)) {
			break
		}
		n.act(room, owner.Epoch, 0)
	}
	n.act(room, owner.Epoch, -1)
}

// live finds a room again and again, acts for it where it is here, and hands it over now and then.
func (n *simNode) live(room signaling.RoomID, work *sync.WaitGroup) {
	s := n.sim
	for sleep(n.ctx, s.store.upTo(2*time.Second)) {
		ctx, cancel := context.WithTimeout(n.ctx, 6*time.Second)
		owner, err := n.claims.Find(ctx, room)
		cancel()
		if err != nil || owner.Node != n.keeper.self {
			continue
		}
		n.actFor(room, owner, 1+int(s.store.upTo(6)))
		others := s.others(n)
		if len(others) > 0 && s.store.chance(0.3) {
			if owner, still := n.handOver(room, owner, others[s.store.upTo(time.Duration(len(others)))], work); still {
				n.actFor(room, owner, 3)
			}
		}
		n.claims.Release(room)
		if s.store.chance(0.2) {
			sleep(n.ctx, keepEmpty+s.store.upTo(5*time.Second))
		}
	}
}

// handOver stops a room that nobody acts for and gives it to another node. It reports whether the room is
// still this node's, and since when.
func (n *simNode) handOver(room signaling.RoomID, owner signaling.Owner, to *simNode, work *sync.WaitGroup) (_ signaling.Owner, still bool) {
	s := n.sim
	s.mu.Lock()
	r := n.room(room)
	if r.acting > 0 || r.handing || r.moved[owner.Epoch] {
		s.mu.Unlock()
		return owner, false
	}
	r.handing = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		r.handing = false
		if !still {
			r.moved[owner.Epoch] = true
		}
	}()
	answer := make(chan error, 1)
	work.Go(func() {
		ctx, cancel := context.WithTimeout(to.ctx, 5*time.Second)
		defer cancel()
		now, err := to.claims.Receive(ctx, room, owner)
		answer <- err
		if err == nil {
			to.actFor(room, now, 5)
			to.claims.Release(room)
		}
	})
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Millisecond+s.store.upTo(2*time.Second))
	defer cancel()
	var err error
	select {
	case err = <-answer:
	case <-ctx.Done():
		err = signaling.ErrUnsure
	}
	if err == nil {
		s.count(&s.moved)
		if s.store.chance(0.5) { // whoever finds the room here again must learn of it all the same
			return owner, false
		}
	} else if !errors.Is(err, signaling.ErrUnsure) {
		return owner, true
	}
	for n.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
		now, lookErr := n.claims.Look(ctx, room)
		cancel()
		switch {
		case errors.Is(lookErr, signaling.ErrNoRoom), lookErr == nil && now.Node != n.keeper.self:
			if err != nil {
				s.count(&s.gone)
			}
			return owner, false
		case lookErr == nil:
			s.count(&s.kept)
			return now, true
		}
	}
	return owner, false
}

func (s *simulation) count(n *int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*n++
}

// simulate lets three nodes live with two rooms for some minutes; one or another is killed or retires.
func simulate(t *testing.T, seed uint64) *simulation {
	s := &simulation{t: t, seed: seed, claimed: map[string]int{}}
	synctest.Test(t, func(t *testing.T) {
		s.start = time.Now()
		s.store = newShakyStore(seed, []float64{0, 0.05, 0.2}[seed%3])
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		var work sync.WaitGroup
		for place := range 3 {
			work.Go(func() {
				for ctx.Err() == nil {
					n := s.node(ctx)
					s.mu.Lock()
					s.nodes = append(s.nodes, n)
					s.mu.Unlock()
					n.run(&work)
					for _, room := range []signaling.RoomID{"one", "two"} {
						work.Go(func() { n.live(room, &work) })
					}
					sleep(n.ctx, time.Minute+s.store.upTo(2*time.Minute))
					if place == 0 && n.ctx.Err() == nil {
						end, cancel := context.WithTimeout(ctx, 5*time.Second)
						n.keeper.fenceAt.Store(0)
						n.stop()
						sleep(ctx, 3*time.Second) // the keeper has ended its step
						n.keeper.retire(end)
						cancel()
						for _, other := range s.others(n) { // whether or not it worked
							if _, lost := s.store.flight(); !lost {
								other.peers.heard(beacon{Node: n.keeper.self, Gone: true})
							}
						}
					}
					n.stop()
				}
			})
		}
		work.Go(func() {
			for sleep(ctx, 10*time.Second+s.store.upTo(60*time.Second)) {
				s.store.mu.Lock()
				s.store.stalled = time.Now().Add(time.Duration(s.store.rng.Int64N(int64(12 * time.Second))))
				s.store.mu.Unlock()
			}
		})
		work.Wait()
		time.Sleep(2 * time.Minute) // what is on its way to the store ends
	})
	return s
}

// TestLongOutage has the store away for hours: a node and its rooms wait, and go on where they were. Only where
// its lease has vanished meanwhile it ends.
func TestLongOutage(t *testing.T) {
	for _, tt := range []struct {
		outages []time.Duration // a minute between two
		ends    bool
	}{
		{outages: []time.Duration{11 * time.Minute}},
		{outages: []time.Duration{leaseTTL - time.Minute}},
		{outages: []time.Duration{leaseTTL - time.Minute, leaseTTL - time.Minute}},
		{outages: []time.Duration{leaseTTL + time.Minute}, ends: true},
	} {
		t.Run(fmt.Sprint(tt.outages), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &simulation{t: t, start: time.Now(), store: newShakyStore(1, 0), claimed: map[string]int{}}
				s.store.expires = true
				ctx, stop := context.WithCancel(t.Context())
				var work sync.WaitGroup
				n := s.node(ctx)
				s.nodes = []*simNode{n}
				n.run(&work)
				owner, err := n.claims.Find(ctx, "room")
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(4*rewriteAfter - time.Second) // its key is old already when the first one begins
				for _, outage := range tt.outages {
					s.store.mu.Lock()
					s.store.stalled = time.Now().Add(outage)
					s.store.mu.Unlock()
					time.Sleep(outage - time.Second)
					if n.ctx.Err() != nil || n.keeper.valid() {
						t.Fatalf("after %v: ended %v, valid %v", outage, n.ctx.Err() != nil, n.keeper.valid())
					}
					time.Sleep(time.Minute + 2*time.Second)
				}
				if ended := n.ctx.Err() != nil; ended != tt.ends || n.keeper.valid() == tt.ends {
					t.Fatalf("NATS is back: ended %v, valid %v", ended, n.keeper.valid())
				}
				if !tt.ends {
					if now, err := n.claims.Find(ctx, "room"); err != nil || now != owner {
						t.Errorf("the room's owner is %+v (%v), and was %+v", now, err, owner)
					}
					_, key := n.claims.key("room")
					e, err := s.store.get(ctx, key)
					if in, _ := ownerIn(e); err != nil || in != owner {
						t.Errorf("the room's key names %+v (%v), its owner is %+v", in, err, owner)
					}
				}
				stop()
				work.Wait()
				time.Sleep(leaseTTL) // what is on its way to the store ends
			})
		})
	}
}

// TestKeysOutliveOutages: while a node's lease is there, so are the keys of its rooms, even where one outage
// follows another before they are written again. What proves a death is there for longer than what it is about.
func TestKeysOutliveOutages(t *testing.T) {
	if least := roomTTL - rewriteAfter - 2*rewriteLook; least < 2*leaseTTL {
		t.Errorf("a room's key may have %v left, and two outages take %v", least, 2*leaseTTL)
	}
	if certificateTTL <= roomTTL {
		t.Errorf("a certificate lasts %v, a room's key %v", certificateTTL, roomTTL)
	}
}

// TestGoodbyeAheadOfReplica has a node say that it is gone while the store still answers with its lease.
func TestGoodbyeAheadOfReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		lease := entry{value: []byte(`{"v":1}`), revision: 1}
		dead := entry{value: certificate("x"), revision: 2}
		p := newPeers("me", lagging{lease, dead, began.Add(5 * time.Second)}, func() time.Duration { return time.Since(began) }, simConfig, slog.New(slog.DiscardHandler))
		died := make(chan signaling.NodeID, 1)
		p.buried = func(node signaling.NodeID) { died <- node }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.run(ctx, hearer{})
		p.heard(beacon{Node: "x", Revision: 1})
		p.doubt("x") // is observed already when it says goodbye
		time.Sleep(time.Second)
		p.heard(beacon{Node: "x", Revision: 1, Gone: true})
		p.heard(beacon{Node: "stranger", Gone: true})
		<-died
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("its death was known after %v", took)
		}
		cancel()
		synctest.Wait()
		if len(p.known) != 1 {
			t.Errorf("%d nodes are known", len(p.known))
		}
	})
}

// A lagging register answers with an old entry until a time.
type lagging struct {
	old, now entry
	until    time.Time
}

func (l lagging) get(context.Context, string) (entry, error) {
	if time.Now().Before(l.until) {
		return l.old, nil
	}
	return l.now, nil
}

func (l lagging) put(context.Context, string, []byte, uint64, time.Duration) (uint64, error) {
	return 0, errRevision
}
func (l lagging) purge(context.Context, string, uint64) error { return errRevision }

func TestDirectorySimulation(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 30
	}
	claimed := map[string]int{}
	var moved, kept, gone int
	for seed := range seeds {
		s := simulate(t, seed)
		for _, err := range s.faults {
			t.Fatal(err)
		}
		for how, n := range s.claimed {
			claimed[how] += n
		}
		moved, kept, gone = moved+s.moved, kept+s.kept, gone+s.gone
	}
	t.Logf("%d seeds: claims %v; handed over %d; without an answer %d not done, %d done", seeds, claimed, moved, kept, gone)
	for what, n := range map[string]int{"free": claimed[claimFree], "taken": claimed[claimTaken], "received": claimed[claimReceived],
		"again": claimed[claimAgain], "moved": moved, "kept": kept, "gone": gone} {
		if n < int(seeds/10) {
			t.Errorf("%s: only %d: the simulation shows nothing of it", what, n)
		}
	}
}
