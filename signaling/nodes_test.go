package signaling

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Several nodes in one bubble of fake time, over a bus that loses frames by a seed and a register that
// says who owns which room.

type fakeNodes struct {
	mu     sync.Mutex
	chaos  *rand.Rand
	loss   float64 // of frames, and of requests and answers
	unsure float64 // of claims whose answer is lost, before or after they are made
	stale  float64 // of readings that are old
	delay  time.Duration
	slow   time.Duration // of answers
	nodes  map[NodeID]*fakeNode
	keys   map[RoomID]*fakeKey
	epoch  uint64
	wrong  error // what no directory sees
	tells  func(string, ...any)
}

// A fakeKey says whose a room is.
type fakeKey struct {
	owner, before Owner
	holds         int
	idle          time.Time // since when nobody holds it
	doubtful      bool      // its owner was not told
}

// keptKey is how long a key outlives its last hold.
const keptKey = 10 * time.Second

type fakeNode struct {
	all    *fakeNodes
	id     NodeID
	hub    *Hub
	lanes  [Lanes]chan fakeFrame
	ctx    context.Context
	stop   context.CancelFunc
	frozen bool
	cut    bool // from every other node
	gone   bool // its process has ended
	dead   bool // and that is proven
	done   sync.WaitGroup
}

type fakeFrame struct {
	at    time.Time
	bytes []byte
}

func newFakeNodes(_ *testing.T, seed uint64, loss float64, names ...NodeID) *fakeNodes {
	all := &fakeNodes{chaos: rand.New(rand.NewPCG(seed, 1)), loss: loss, unsure: loss,
		nodes: map[NodeID]*fakeNode{}, keys: map[RoomID]*fakeKey{}}
	for _, name := range names {
		cfg := testConfig()
		cfg.RoomCapacity = 3
		all.start(name, cfg)
	}
	return all
}

func (all *fakeNodes) start(name NodeID, cfg Config) *fakeNode {
	n := &fakeNode{all: all, id: name}
	n.ctx, n.stop = context.WithCancel(context.Background())
	cfg.Bus, cfg.FrozenClose, cfg.Recover = n, 10*time.Second, 5*time.Second
	n.hub = NewHub(cfg, n, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	for i := range n.lanes {
		n.lanes[i] = make(chan fakeFrame, 1<<12)
		n.done.Go(func() {
			for {
				select {
				case f := <-n.lanes[i]:
					time.Sleep(time.Until(f.at))
					n.hub.Frame(f.bytes)
				case <-n.ctx.Done():
					return
				}
			}
		})
	}
	all.mu.Lock()
	all.nodes[name] = n
	all.mu.Unlock()
	n.done.Go(func() { n.hub.Run(n.ctx) })
	return n
}

func (all *fakeNodes) stop() {
	all.mu.Lock()
	nodes := slices.Collect(maps.Values(all.nodes))
	all.mu.Unlock()
	for _, n := range nodes {
		n.stop()
	}
	for _, n := range nodes {
		n.done.Wait()
	}
}

// happens is a coin's answer. mu is held.
func (all *fakeNodes) happens(how float64) bool { return how > 0 && all.chaos.Float64() < how }

// others calls f with every living node but this one.
func (n *fakeNode) others(f func(Listener)) {
	n.all.mu.Lock()
	nodes := slices.Collect(maps.Values(n.all.nodes))
	nodes = slices.DeleteFunc(nodes, func(other *fakeNode) bool { return other == n || other.gone })
	n.all.mu.Unlock()
	for _, other := range nodes {
		f(other.hub)
	}
}

// ---- Bus

// way is the node that something gets to, nil if it does not. mu is held.
func (n *fakeNode) way(to NodeID) *fakeNode {
	other := n.all.nodes[to]
	if other == nil || other.gone || n.gone || other != n && (n.cut || other.cut || n.all.happens(n.all.loss)) {
		return nil
	}
	return other
}

func (n *fakeNode) Send(to NodeID, lane int, frame []byte) {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	other := n.way(to)
	if other == nil {
		return
	}
	f := fakeFrame{time.Now(), slices.Clone(frame)}
	if n.all.delay > 0 {
		f.at = f.at.Add(time.Duration(n.all.chaos.Int64N(int64(n.all.delay))))
	}
	select {
	case other.lanes[lane] <- f:
	default:
	}
}

func (n *fakeNode) Ask(ctx context.Context, to NodeID, request []byte) ([]byte, error) {
	n.all.mu.Lock()
	target := n.all.nodes[to]
	nobody := target == nil || target.gone
	other := n.way(to)
	n.all.mu.Unlock()
	if nobody {
		return nil, ErrNoNode
	}
	var answer []byte
	if other != nil {
		answered := make(chan []byte, 1)
		go func() { answered <- other.hub.Request(other.ctx, request) }() // which goes on when nobody waits any more
		select {
		case answer = <-answered:
		case <-ctx.Done():
			return nil, ErrUnsure
		}
	}
	time.Sleep(n.all.slow)
	n.all.mu.Lock()
	back := other != nil && other.way(n.id) != nil
	n.all.mu.Unlock()
	if !back {
		<-ctx.Done()
		return nil, ErrUnsure
	}
	return answer, nil
}

func (n *fakeNode) AskAll(ctx context.Context, request []byte) (map[NodeID][]byte, []NodeID, error) {
	answers := map[NodeID][]byte{}
	for _, other := range n.Nodes() {
		answers[other.ID] = n.all.nodes[other.ID].hub.Request(ctx, request)
	}
	return answers, nil, nil
}

func (n *fakeNode) Nodes() (infos []NodeInfo) {
	n.all.mu.Lock()
	nodes := slices.Collect(maps.Values(n.all.nodes))
	nodes = slices.DeleteFunc(nodes, func(other *fakeNode) bool { return other.gone })
	n.all.mu.Unlock()
	for _, other := range nodes {
		info := other.hub.Info()
		info.ID = other.id
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b NodeInfo) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return infos
}

// ---- Directory

func (n *fakeNode) Self() NodeID { return n.id }

// key is the truth of a room, nil where there is none. mu is held.
func (all *fakeNodes) key(room RoomID) *fakeKey {
	k := all.keys[room]
	if k != nil && k.holds == 0 && !k.idle.IsZero() && time.Since(k.idle) >= keptKey && !all.nodes[k.owner.Node].gone {
		delete(all.keys, room)
		return nil
	}
	return k
}

// old is who had the room before, where a reading says so; never this node, which would have to make sure
// by a write. mu is held.
func (n *fakeNode) old(k *fakeKey) (Owner, bool) {
	known := k.owner.Node == n.id && !k.doubtful
	if known || k.before == (Owner{}) || k.before.Node == n.id || n.all.nodes[k.before.Node].dead || !n.all.happens(n.all.stale) {
		return Owner{}, false
	}
	return k.before, true
}

// claim makes n the owner. mu is held.
func (n *fakeNode) claim(k *fakeKey, holds int) Owner {
	n.all.epoch++
	if n.all.tells != nil {
		n.all.tells("%s claims a room of %v", n.id, k.owner)
	}
	k.before, k.owner, k.doubtful = k.owner, Owner{Node: n.id, Epoch: n.all.epoch}, false
	k.holds, k.idle = holds, time.Time{}
	return k.owner
}

func (n *fakeNode) Find(ctx context.Context, room RoomID) (Owner, error) {
	if err := ctx.Err(); err != nil {
		return Owner{}, err
	}
	if !n.reach(ctx) {
		return Owner{}, ctx.Err()
	}
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	k := n.all.key(room)
	if k == nil {
		k = &fakeKey{}
		n.all.keys[room] = k
		return n.claim(k, 1), nil
	}
	if o, ok := n.old(k); ok {
		return o, nil
	}
	switch {
	case n.all.nodes[k.owner.Node].dead:
		o := n.claim(k, 1)
		o.Taken = true
		return o, nil
	case k.owner.Node == n.id:
		if k.doubtful {
			return n.claim(k, 1), nil
		}
		k.holds++
	}
	return k.owner, nil
}

func (n *fakeNode) Look(ctx context.Context, room RoomID) (Owner, error) {
	if !n.reach(ctx) {
		return Owner{}, ctx.Err()
	}
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	k := n.all.key(room)
	if k == nil {
		return Owner{}, ErrNoRoom
	}
	if o, ok := n.old(k); ok {
		return o, nil
	}
	switch {
	case n.all.nodes[k.owner.Node].dead:
		return Owner{}, ErrNoRoom
	case k.owner.Node == n.id && k.holds > 0:
		before := k.before
		n.claim(k, k.holds)
		k.before = before
	}
	return k.owner, nil
}

func (n *fakeNode) Release(room RoomID) {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	k := n.all.keys[room]
	if k == nil || k.owner.Node != n.id {
		return // it is another's by now
	}
	if k.holds--; k.holds < 0 {
		n.all.wrong = fmt.Errorf("node %s releases room %s, which it does not hold", n.id, room)
	}
	if k.holds == 0 {
		k.idle = time.Now()
	}
}

func (n *fakeNode) Receive(ctx context.Context, room RoomID, from Owner) (Owner, error) {
	if !n.reach(ctx) {
		return Owner{}, ErrUnsure
	}
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	k := n.all.key(room)
	if k == nil || k.owner.Node != from.Node || k.owner.Epoch != from.Epoch {
		return Owner{}, fmt.Errorf("%s is not %s's since %d", room, from.Node, from.Epoch)
	}
	lost := n.all.happens(n.all.unsure)
	if lost && n.all.happens(0.5) {
		return Owner{}, ErrUnsure // and not done
	}
	o := n.claim(k, 1)
	if lost {
		k.doubtful, k.holds = true, 0
		return Owner{}, ErrUnsure
	}
	return o, nil
}

func (n *fakeNode) Valid() bool {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	return !n.frozen && !n.gone
}

// reach waits until the directory can be asked. False: ctx has ended.
func (n *fakeNode) reach(ctx context.Context) bool {
	for {
		n.all.mu.Lock()
		cut := n.gone || n.cut
		n.all.mu.Unlock()
		if !cut {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func inNodes(t *testing.T, seed uint64, loss float64, f func(t *testing.T, all *fakeNodes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		all := newFakeNodes(t, seed, loss, "a", "b", "c")
		synctest.Wait()
		defer all.stop()
		f(t, all)
	})
}

// ---- tests

func TestTwoPeersOnTwoNodes(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := all.nodes["a"].hub.testPeer(t), all.nodes["b"].hub.testPeer(t)
		ada.joined("demo", session(keyA, 1, 0))
		bob.joined("demo", session(keyB, 1, 0))
		ada.gets(`{"type":"peer-joined",…}`)
		bob.send(`{"type":"offer","sdp":"v=0","seq":1}`)
		ada.gets(`{"type":"offer",…"sdp":"v=0",…}`)
		ada.send(`{"type":"answer","sdp":"v=0","seq":1}`)
		bob.gets(`{"type":"answer",…"sdp":"v=0",…}`)
		bob.send(`{"type":"leave","seq":2}`)
		bob.gets(`{"type":"left",…}`)
		ada.gets(`{"type":"peer-left",…}`)
	})
}

func TestErrorComesBeforeItsAckAcrossNodes(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := all.nodes["a"].hub.testPeer(t), all.nodes["b"].hub.testPeer(t)
		ada.joined("demo", session(keyA, 1, 0)) // the room is at a
		bob.joined("demo", session(keyB, 1, 0))
		ada.send(`{"type":"leave","seq":1}`)
		bob.gets(`{"type":"peer-left",…}`)
		want := refusedAndAcknowledged(bob)
		for i := range want[:ackEvery] {
			want[i] = strings.Replace(want[i], fmt.Sprintf(`"seq":%d`, i+1), fmt.Sprintf(`"seq":%d`, i+2), 1) // after peer-left
		}
		bob.gets(want...)
	})
}

// What is said while a room moves is neither lost nor a reason to close a connection.
func TestHandOverWhileClientsSpeak(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		all.nodes["a"].hub.testPeer(t).joined("demo", session(keyC, 1, 0)) // the room is at a
		ada, bob := all.nodes["b"].hub.testPeer(t), all.nodes["b"].hub.testPeer(t)
		ada.joined("demo", session(keyA, 1, 0))
		bob.joined("demo", session(keyB, 1, 0))
		ada.next()
		all.slow = time.Second
		moved := make(chan int)
		go func() {
			n, _ := all.nodes["a"].hub.HandOver(t.Context(), time.Second)
			moved <- n
		}()
		time.Sleep(100 * time.Millisecond)
		for seq := 1; seq <= 3; seq++ {
			ada.send(`{"type":"message","data":%d,"seq":%[1]d}`, seq)
		}
		if n := <-moved; n != 1 {
			t.Fatalf("%d rooms moved", n)
		}
		time.Sleep(3 * time.Second)
		var want []string
		for seq := 1; seq <= 3; seq++ {
			want = append(want, fmt.Sprintf(`{"type":"message",…"data":%d,…}`, seq))
		}
		bob.gets(want...)
		if ada.closeCode() != 0 || bob.closeCode() != 0 {
			t.Errorf("closed with %d and %d", ada.closeCode(), bob.closeCode())
		}
	})
}

// The time in which a node is frozen is nobody's: a seat that is away is kept as much longer.
func TestFrozenTimeIsNobodys(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a := all.nodes["a"]
		ada := a.hub.testPeer(t)
		ada.joined("demo", session(keyA, 1, 0))
		ada.conn.Lost(EndLost)
		time.Sleep(10 * time.Second)
		a.freeze(true)
		time.Sleep(time.Minute)
		a.freeze(false)
		time.Sleep(15 * time.Second)
		again := a.hub.testPeer(t)
		if m := again.joined("demo", session(keyA, 2, 0)); m["resumed"] != true {
			t.Errorf("the seat was not kept: %v", m)
		}
	})
}
