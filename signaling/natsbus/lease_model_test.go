package natsbus

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"duet/signaling"
)

// The model of leases: three processes that want the same room, a register, and time that a seed
// decides. Answers get lost or come late, writes are done long after their writer gave up, reads are of a
// replica that is behind, the register stands still, processes do, and their clocks run at rates from 0.9
// to 1.1. Each process takes the steps of lease and evidence, and takes the room as claims does. Never may
// two of them act for it.

const (
	modelLease = 10 * time.Second
	modelFence = 8 * time.Second
	modelRenew = 2 * time.Second
	modelSpan  = 90 * time.Second
)

var errModelUnsure = fmt.Errorf("no answer in the model: %w", signaling.ErrUnsure)

type modelEvent struct {
	at  time.Duration
	seq int
	do  func()
}

type modelEvents []modelEvent

func (q modelEvents) Len() int { return len(q) }
func (q modelEvents) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q modelEvents) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *modelEvents) Push(x any)   { *q = append(*q, x.(modelEvent)) }
func (q *modelEvents) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// A modelWorld is one run.
type modelWorld struct {
	rng    *rand.Rand
	now    time.Duration // true time, which nobody sees
	events modelEvents
	seq    int
	faults float64 // chance that a message is lost or late

	revision uint64
	keys     map[string][]modelVersion
	stalled  time.Duration // the register answers nothing until then

	nodes []*modelNode
	names int

	renewals, adopted, certificates, takeovers, lost, frozen int
}

type modelVersion struct {
	entry
	at time.Duration
}

// A modelNode is one process. Its place is taken by a new one when it ends.
type modelNode struct {
	w        *modelWorld
	id       string
	rate     float64
	offset   time.Duration
	stopped  time.Duration // the process stands still until then
	ended    bool
	lease    lease
	evidence map[string]*evidence
	dead     map[string]bool
	owns     bool
	ownedAt  uint64
}

func (w *modelWorld) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.events, modelEvent{w.now + d, w.seq, do})
}

func (w *modelWorld) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(d)))
}

// flight is how long a message takes; ok is false where it is lost.
func (w *modelWorld) flight() (d time.Duration, ok bool) {
	if w.rng.Float64() >= w.faults {
		return w.upTo(5 * time.Millisecond), true
	}
	switch w.rng.IntN(4) {
	case 0:
		return 0, false
	case 1:
		return w.upTo(30 * time.Second), true
	default:
		return w.upTo(3 * time.Second), true
	}
}

func (n *modelNode) clock() time.Duration {
	return n.offset + time.Duration(float64(n.w.now)*n.rate)
}

// after does something when the node's clock has gone on by d, or as soon as it runs again.
func (n *modelNode) after(d time.Duration, do func()) {
	n.w.after(time.Duration(float64(d)/n.rate), func() { n.run(do) })
}

func (n *modelNode) run(do func()) {
	switch {
	case n.ended:
	case n.stopped > n.w.now:
		n.w.after(n.stopped-n.w.now, func() { n.run(do) })
	default:
		do()
	}
}

// acts reports whether the node does something for the room at this moment.
func (n *modelNode) acts() bool {
	return n.owns && !n.ended && n.stopped <= n.w.now && n.clock() < n.lease.fenceAt
}

// ask sends something to the register; exactly one answer comes.
func (n *modelNode) ask(do func() (entry, error), answer func(entry, error)) {
	w := n.w
	answered := false
	once := func(e entry, err error) {
		n.run(func() {
			if !answered {
				answered = true
				answer(e, err)
			}
		})
	}
	n.after(kvTimeout, func() { once(entry{}, errModelUnsure) })
	there, ok := w.flight()
	if !ok {
		return
	}
	var arrive func()
	arrive = func() {
		if w.stalled > w.now {
			w.after(w.stalled-w.now+w.upTo(time.Millisecond), arrive)
			return
		}
		e, err := do()
		if back, ok := w.flight(); ok {
			w.after(back, func() { once(e, err) })
		}
	}
	w.after(there, arrive)
}

func (n *modelNode) put(key, value string, revision uint64, answer func(uint64, error)) {
	w := n.w
	n.ask(func() (entry, error) {
		last := entry{}
		if versions := w.keys[key]; len(versions) > 0 {
			last = versions[len(versions)-1].entry
		}
		if last.revision != revision {
			return entry{}, errRevision
		}
		w.revision++
		next := entry{revision: w.revision}
		if value != "" {
			next.value = []byte(value)
		}
		w.keys[key] = append(w.keys[key], modelVersion{next, w.now})
		return next, nil
	}, func(e entry, err error) { answer(e.revision, err) })
}

func (n *modelNode) get(key string, answer func(entry, error)) {
	w := n.w
	n.ask(func() (entry, error) {
		as := w.now
		if w.rng.IntN(3) == 0 {
			as -= w.upTo(10 * time.Second)
		}
		found := entry{}
		for _, v := range w.keys[key] {
			if v.at <= as {
				found = v.entry
			}
		}
		return found, nil
	}, answer)
}

const modelDead = "dead"

// renew is keeper's loop.
func (n *modelNode) renew() {
	again := func(d time.Duration) { n.after(d, n.renew) }
	retry := func() { again(retryAfter + n.w.upTo(retryJitter)) }
	switch n.lease.next {
	case stepRenew:
		sent := n.clock()
		n.put(n.id, "alive", n.lease.revision, func(revision uint64, err error) {
			if n.clock() >= n.lease.fenceAt && n.lease.fenceAt > 0 {
				n.w.frozen++
			}
			n.lease.renewed(sent, revision, err)
			switch {
			case err == nil:
				n.w.renewals++
				n.beacon()
				again(max(0, sent+modelRenew-n.clock()))
			case errors.Is(err, errRevision):
				again(0)
			default:
				retry()
			}
		})
	case stepRead:
		n.get(n.id, func(e entry, err error) {
			if err == nil {
				if e.revision > n.lease.revision && string(e.value) == "alive" {
					n.w.adopted++
				}
				n.lease.read(e, string(e.value) == "alive")
			}
			retry()
		})
	case stepBury:
		n.put(n.id, modelDead, 0, func(_ uint64, err error) {
			n.lease.buried(err)
			retry()
		})
	case stepLost:
		n.end()
	}
}

// end lets a new process take this one's place.
func (n *modelNode) end() {
	n.w.lost++
	n.ended = true
	for i, other := range n.w.nodes {
		if other == n {
			n.w.after(n.w.upTo(5*time.Second), func() { n.w.nodes[i] = n.w.start() })
		}
	}
}

func (n *modelNode) beacon() {
	id, revision := n.id, n.lease.revision
	for _, other := range n.w.nodes {
		if d, ok := n.w.flight(); ok && other != n && other != nil {
			n.w.after(d, func() {
				other.run(func() { other.knows(id).saw(other.clock(), revision) })
			})
		}
	}
}

func (n *modelNode) knows(id string) *evidence {
	if n.evidence[id] == nil {
		n.evidence[id] = &evidence{}
	}
	return n.evidence[id]
}

// observe is what peers does about a suspect, except that here everybody is suspect all the time.
func (n *modelNode) observe(id string, done func()) {
	n.get(id, func(e entry, err error) {
		x := n.knows(id)
		switch {
		case err != nil:
			done()
			return
		case string(e.value) == modelDead:
			n.dead[id] = true
			done()
			return
		}
		x.saw(n.clock(), e.revision)
		if !x.ripe(n.clock(), modelLease) {
			done()
			return
		}
		n.put(id, modelDead, x.revision, func(_ uint64, err error) {
			switch {
			case err == nil:
				n.w.certificates++
				n.dead[id] = true
			case errors.Is(err, errRevision):
				x.refused()
			}
			done()
		})
	})
}

// want is Find: the room becomes this node's where it is free, or its owner is proven dead.
func (n *modelNode) want() {
	again := func() { n.after(100*time.Millisecond+n.w.upTo(2*time.Second), n.want) }
	if n.owns {
		if n.w.rng.IntN(20) == 0 && n.acts() {
			n.owns = false
			n.put("room", "", n.ownedAt, func(uint64, error) { again() })
			return
		}
		again()
		return
	}
	n.get("room", func(e entry, err error) {
		owner := string(e.value)
		switch {
		case err != nil:
			again()
		case owner != "" && owner != n.id && !n.dead[owner]:
			n.observe(owner, again)
		default:
			n.put("room", n.id, e.revision, func(revision uint64, err error) {
				if err == nil {
					n.owns, n.ownedAt = true, revision
					if n.dead[owner] {
						n.w.takeovers++
					}
				}
				again()
			})
		}
	})
}

// gossip declares others dead without need, as soon as that is possible.
func (n *modelNode) gossip() {
	again := func() { n.after(500*time.Millisecond+n.w.upTo(2*time.Second), n.gossip) }
	other := n.w.nodes[n.w.rng.IntN(len(n.w.nodes))]
	if other == nil || other == n || n.dead[other.id] {
		again()
		return
	}
	n.observe(other.id, again)
}

func (w *modelWorld) start() *modelNode {
	w.names++
	n := &modelNode{
		w: w, id: fmt.Sprintf("node-%d", w.names), rate: 0.9 + 0.2*w.rng.Float64(), offset: time.Hour + w.upTo(time.Hour),
		lease: lease{fence: modelFence}, evidence: map[string]*evidence{}, dead: map[string]bool{},
	}
	n.renew()
	n.after(w.upTo(2*time.Second), n.want)
	n.after(w.upTo(2*time.Second), n.gossip)
	return n
}

// trouble stops a process, or the register, now and then.
func (w *modelWorld) trouble() {
	w.after(w.upTo(20*time.Second), w.trouble)
	if w.rng.IntN(3) == 0 {
		w.stalled = w.now + w.upTo(12*time.Second)
		return
	}
	if n := w.nodes[w.rng.IntN(len(w.nodes))]; n != nil {
		n.stopped = w.now + w.upTo(20*time.Second)
	}
}

// runModel runs a seed; the error says when two acted at a time.
func runModel(seed uint64) (*modelWorld, error) {
	w := &modelWorld{rng: rand.New(rand.NewPCG(seed, 7)), keys: map[string][]modelVersion{}}
	w.faults = []float64{0, 0.02, 0.1, 0.3}[seed%4]
	w.nodes = make([]*modelNode, 3)
	for i := range w.nodes {
		w.nodes[i] = w.start()
	}
	w.after(w.upTo(20*time.Second), w.trouble)
	for len(w.events) > 0 && w.events[0].at < modelSpan {
		e := heap.Pop(&w.events).(modelEvent)
		w.now = e.at
		e.do()
		acting := 0
		for _, n := range w.nodes {
			if n.acts() {
				acting++
			}
		}
		if acting > 1 {
			return w, fmt.Errorf("seed %d: %d nodes act for the room at %v", seed, acting, w.now)
		}
	}
	return w, nil
}

func TestLeaseModel(t *testing.T) {
	seeds := uint64(10_000)
	if testing.Short() || raceEnabled { // the model has one goroutine
		seeds = 1000
	}
	var renewals, adopted, certificates, takeovers, lost, frozen int
	for seed := range seeds {
		w, err := runModel(seed)
		if err != nil {
			t.Fatal(err)
		}
		renewals += w.renewals
		adopted += w.adopted
		certificates += w.certificates
		takeovers += w.takeovers
		lost += w.lost
		frozen += w.frozen
	}
	t.Logf("%d seeds: %d renewals, %d adopted, %d times frozen, %d certificates, %d leases lost, %d takeovers",
		seeds, renewals, adopted, frozen, certificates, lost, takeovers)
	for what, n := range map[string]int{"adopted": adopted, "certificates": certificates, "takeovers": takeovers, "lost": lost, "frozen": frozen} {
		if n < int(seeds/100) {
			t.Errorf("%s: only %d: the model shows nothing of it", what, n)
		}
	}
}
