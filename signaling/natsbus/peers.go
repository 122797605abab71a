package natsbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"duet/signaling"
)

const (
	// quietTenths of a renewal without a beacon make a node suspect: 2.5 of them.
	quietTenths = 25

	keepDead = time.Hour // after which a dead node's certificate is read again, if anybody asks
)

// An evidence is what one node knows of another's lease: a revision, and since when by its own clock. A
// lease that has kept its revision for the length of a lease has a node that is not valid any more.
type evidence struct {
	known    bool
	revision uint64 // 0: there is no such key
	since    time.Duration
}

// saw takes a revision that was heard or read at a time. An older one is from a replica that is behind.
func (e *evidence) saw(at time.Duration, revision uint64) {
	if !e.known || revision > e.revision {
		*e = evidence{known: true, revision: revision, since: at}
	}
}

// refused takes the answer that the revision is not the key's any more: all there was to know was old.
func (e *evidence) refused() { *e = evidence{} }

// ripe reports whether the certificate may be written over the revision.
func (e *evidence) ripe(now, lease time.Duration) bool { return e.known && now-e.since >= lease }

type peerState int

const (
	peerUnknown peerState = iota
	peerAlive
	peerSuspect
	peerDead
)

// A peer is another node. It is guarded by peers.mu.
type peer struct {
	evidence
	state    peerState
	at       time.Duration // when it was heard last; of a dead one, when its death was known
	observed bool          // a goroutine finds out about it
	silent   bool          // the listener was told so
	gone     bool          // it says that its certificate is written
	changed  chan struct{} // closed when the state changes, or there is news
}

// peers watches the other nodes' signs of life, and proves them dead.
type peers struct {
	self     signaling.NodeID
	nodes    register
	now      clock
	lease    time.Duration
	quiet    time.Duration
	log      *slog.Logger
	declared func()                 // this node wrote a certificate
	buried   func(signaling.NodeID) // a node is dead, whoever declared it so

	wake chan struct{} // holds 1: there may be somebody to observe

	mu    sync.Mutex
	known map[signaling.NodeID]*peer
}

func newPeers(self signaling.NodeID, nodes register, now clock, cfg Config, log *slog.Logger) *peers {
	return &peers{
		self: self, nodes: nodes, now: now, lease: cfg.Lease, quiet: cfg.Renew * quietTenths / 10, log: log,
		declared: func() {}, buried: func(signaling.NodeID) {},
		wake: make(chan struct{}, 1), known: map[signaling.NodeID]*peer{},
	}
}

// get returns what is known of a node. mu is held.
func (p *peers) get(node signaling.NodeID) *peer {
	x := p.known[node]
	if x == nil {
		x = &peer{changed: make(chan struct{})}
		p.known[node] = x
	}
	return x
}

// become changes a node's state and wakes who waits for that. mu is held.
func (x *peer) become(s peerState) {
	if x.state != s {
		x.state = s
		x.wake()
	}
}

func (x *peer) wake() {
	close(x.changed)
	x.changed = make(chan struct{})
}

// heard takes a beacon. It does not block.
func (p *peers) heard(sign beacon) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sign.Gone {
		p.left(sign.Node)
		return
	}
	x := p.get(sign.Node)
	if x.state == peerDead {
		return // it was on its way
	}
	x.at = p.now()
	x.saw(x.at, sign.Revision)
	x.silent = false
	x.become(peerAlive)
}

// left takes a node's last words. They are a hint: the certificate itself is the proof. mu is held.
func (p *peers) left(node signaling.NodeID) {
	if x := p.known[node]; x != nil && x.state != peerDead {
		x.gone = true
		x.become(peerSuspect)
		x.wake()
		p.stir()
	}
}

// doubt takes the news that a node does not listen.
func (p *peers) doubt(node signaling.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.get(node); x.state != peerDead && node != p.self {
		x.become(peerSuspect)
		p.stir()
	}
}

func (p *peers) stir() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// alive and dead report what is known now.
func (p *peers) alive(node signaling.NodeID) bool { return p.stateOf(node) == peerAlive }
func (p *peers) dead(node signaling.NodeID) bool  { return p.stateOf(node) == peerDead }

func (p *peers) stateOf(node signaling.NodeID) peerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.known[node]; x != nil {
		return x.state
	}
	return peerUnknown
}

func (p *peers) suspects() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.known {
		if x.state == peerSuspect {
			n++
		}
	}
	return n
}

// await returns whether a node is proven dead, once it is that or gives a sign of life.
func (p *peers) await(ctx context.Context, node signaling.NodeID) (dead bool, err error) {
	for {
		p.mu.Lock()
		x := p.get(node)
		state, changed := x.state, x.changed
		if state == peerUnknown {
			p.stir()
		}
		p.mu.Unlock()
		switch state {
		case peerAlive:
			return false, nil
		case peerDead:
			return true, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, fmt.Errorf("wait for node %s, which may be dead: %w", node, context.Cause(ctx))
		}
	}
}

// run looks for nodes that fell silent until ctx ends, and finds out about each whether it is dead.
func (p *peers) run(ctx context.Context, l signaling.Listener) {
	var observers sync.WaitGroup
	defer observers.Wait()
	every := p.quiet / 10
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	last := p.now()
	for ctx.Err() == nil {
		now := p.now()
		// While this process stood still it heard nobody: that says nothing of them.
		stalled := max(0, now-last-p.quiet/2)
		last = now
		silent, unclear := p.look(now, stalled)
		for _, node := range silent {
			p.log.Warn("a node gives no sign of life", "node", node)
			l.Silent(node)
		}
		for _, node := range unclear {
			observers.Go(func() { p.observe(ctx, node, l) })
		}
		select {
		case <-ticker.C:
		case <-p.wake:
		case <-ctx.Done():
		}
	}
}

// look finds the nodes that are silent since the last look, and those that nobody observes yet.
func (p *peers) look(now, stalled time.Duration) (silent, unclear []signaling.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for node, x := range p.known {
		if x.state == peerDead {
			if now-x.at > keepDead {
				delete(p.known, node)
			}
			continue
		}
		x.at += stalled
		if x.state == peerAlive && now-x.at > p.quiet {
			x.become(peerSuspect)
		}
		if x.state == peerSuspect && now-x.at > p.quiet && !x.silent {
			x.silent = true
			silent = append(silent, node)
		}
		if x.state != peerAlive && !x.observed {
			x.observed = true
			unclear = append(unclear, node)
		}
	}
	return silent, unclear
}

// observe finds out about a node until it gives a sign of life, or is proven dead, or ctx ends.
func (p *peers) observe(ctx context.Context, node signaling.NodeID, l signaling.Listener) {
	died := false
	for ctx.Err() == nil {
		p.mu.Lock()
		x := p.get(node)
		alive, changed := x.state == peerAlive, x.changed
		if alive || died {
			x.observed = false
		}
		p.mu.Unlock()
		if alive || died {
			break
		}
		var wait time.Duration
		if died, wait = p.inquire(ctx, node, x); died || wait == 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	if died {
		p.log.Warn("a node is dead: its rooms are free", "node", node)
		p.buried(node)
		l.Dead(node)
	}
}

// inquire reads a node's key, and writes its certificate where that may be. wait is the time after which
// it is worth doing again; 0 = at once.
func (p *peers) inquire(ctx context.Context, node signaling.NodeID, x *peer) (died bool, wait time.Duration) {
	retry := retryAfter + rand.N(retryJitter)
	e, err := p.nodes.get(ctx, nodeKey(node))
	if err != nil {
		return false, retry
	}
	by, err := readNode(e)
	if err != nil {
		p.log.Error("a node's lease cannot be read", "node", node, "err", err)
		return false, p.lease
	}
	dead := by != ""
	p.mu.Lock()
	now := p.now()
	x.saw(now, e.revision)
	if x.state == peerUnknown {
		// Its lease counts as a sign of life once: this node may just not have listened for long enough.
		x.at = now
		if e.value != nil && !dead {
			x.become(peerAlive)
		} else if !dead {
			x.become(peerSuspect)
		}
	}
	sure := x.evidence
	alive, gone := x.state == peerAlive, x.gone
	wait = max(sure.since+p.lease, x.at+p.quiet) - now // who is heard lives, if the store lets nobody renew
	p.mu.Unlock()
	switch {
	case dead:
		if by == p.self { // written, and its answer lost
			p.declared()
		}
		p.die(x)
		return true, 0
	case alive:
		return false, 0
	case gone && wait > retry: // from a replica that is behind
		return false, retry
	case wait > 0 || !sure.ripe(now, p.lease):
		return false, max(wait, time.Millisecond)
	}
	_, err = p.nodes.put(ctx, nodeKey(node), certificate(p.self), sure.revision, certificateTTL)
	switch {
	case err == nil:
		p.declared()
		p.die(x)
		return true, 0
	case errors.Is(err, errRevision):
		p.mu.Lock()
		if x.revision == sure.revision {
			x.refused()
		}
		p.mu.Unlock()
		return false, time.Millisecond
	}
	return false, retry
}

func (p *peers) die(x *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x.at = p.now()
	x.become(peerDead)
}
