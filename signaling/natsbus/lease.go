package natsbus

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

	"duet/signaling"
)

// ErrLeaseLost says that another node has declared this one dead, or that the store forgot it. Its rooms
// may have other owners by now: the process must end.
var ErrLeaseLost = errors.New("the node's lease is lost: its rooms may live elsewhere by now")

const (
	// leaseTTL is for the garbage: nobody's death depends on it, but no node outlives an outage of NATS that
	// is longer. The keys of its rooms last longer than that (roomTTL, rewriteAfter).
	leaseTTL       = 6 * time.Hour
	certificateTTL = 48 * time.Hour // longer than roomTTL: a room's key never outlives the proof against its owner

	retryAfter  = 200 * time.Millisecond
	retryJitter = 100 * time.Millisecond
)

// A step is what a node asks of the register about its own key.
type step int

const (
	stepRenew step = iota // put our value at the known revision
	stepRead              // somebody wrote, perhaps we: see who
	stepBury              // put our certificate at revision 0: whether the key is gone, only a write can tell
	stepLost              // nothing any more
)

// A lease is what a node knows of its own key. It has no clock, no goroutine and no register of its own:
// the keeper does its steps, and so does the model (lease_model_test.go).
//
// Why no two nodes can be valid owners. A certificate follows revision r only if no renewal followed it.
// The renewal that made r was sent at t0, and its node is valid until t0 + fence at most. Who certifies
// has known r since t1 ≥ t0, and writes at t1 + lease or later. Only rates of clocks matter.
type lease struct {
	fence    time.Duration
	revision uint64        // our last write that we know of; 0: none
	fenceAt  time.Duration // by the node's clock; valid before it
	next     step
}

// renewed takes the answer of a stepRenew that was sent at a time by the node's clock: before it was
// handed over, for the register may have written it as soon as that.
func (l *lease) renewed(sent time.Duration, revision uint64, err error) {
	switch {
	case err == nil:
		l.revision = revision
		l.fenceAt = sent + l.fence
	case errors.Is(err, errRevision):
		l.next = stepRead
	}
}

// read takes the answer of a stepRead. A write of ours that had no answer is adopted, but does not move
// the fence: when it was written is not known. ours says whether the value is.
func (l *lease) read(e entry, ours bool) {
	switch {
	case e.revision == 0:
		l.next = stepBury
	case !ours:
		l.lose() // dead, or deleted, which nobody does to a lease that is renewed
	case e.revision > l.revision:
		l.revision = e.revision
		l.next = stepRenew
	default:
		l.next = stepRenew // from a replica that is behind
	}
}

// buried takes the answer of a stepBury.
func (l *lease) buried(err error) {
	switch {
	case err == nil:
		l.lose()
	case errors.Is(err, errRevision):
		l.next = stepRenew // the key is there: the replica was behind
	default:
		l.next = stepRead
	}
}

func (l *lease) lose() {
	l.fenceAt = 0
	l.next = stepLost
}

// A keeper keeps this node's lease.
type keeper struct {
	self     signaling.NodeID
	nodes    register
	now      clock
	every    time.Duration
	value    []byte // of the living node's key
	log      *slog.Logger
	renewals func(outcome string)
	onFrozen func(time.Duration)

	fenceAt  atomic.Int64 // of the lease, for valid
	sent     atomic.Int64 // when the last confirmed renewal was
	revision atomic.Uint64

	mu      sync.Mutex // one step at a time
	lease   lease
	retired bool
	said    trouble // that was logged

	turn    sync.Mutex
	renewed chan struct{} // closed with the next confirmed renewal
	lost    chan struct{} // closed when the lease is lost, or given up
}

func newKeeper(self signaling.NodeID, nodes register, now clock, cfg Config, log *slog.Logger) *keeper {
	value, err := json.Marshal(nodeValue{stated: stated{cfg.speaks.oldest, cfg.speaks.newest}, Version: cfg.Version, Nonce: rand.Text()})
	if err != nil {
		panic(err) // two plain members
	}
	return &keeper{
		self: self, nodes: nodes, now: now, every: cfg.Renew, value: value, log: log,
		renewals: func(string) {}, onFrozen: func(time.Duration) {},
		lease:   lease{fence: cfg.Fence},
		renewed: make(chan struct{}), lost: make(chan struct{}),
	}
}

// A nodeValue is what a node's key holds: its lease, or its certificate.
type nodeValue struct {
	stated
	Version string `json:"ver,omitzero"`   // of the program
	Nonce   string `json:"nonce,omitzero"` // random: nobody else's lease is taken for one's own
	Dead    string `json:"dead,omitzero"`  // who declared it dead
}

// readNode reads what a node's key holds: who declared it dead, "" where nobody did. What a later release
// writes is a lease unless it says dead.
func readNode(e entry) (by signaling.NodeID, err error) {
	if e.value == nil {
		return "", nil
	}
	var v nodeValue
	if err := json.Unmarshal(e.value, &v); err != nil {
		return "", fmt.Errorf("a node's key holds something else: %w", err)
	}
	return signaling.NodeID(v.Dead), nil
}

func certificate(by signaling.NodeID) []byte {
	value, err := json.Marshal(nodeValue{stated: stated{V: 1}, Dead: string(by)})
	if err != nil {
		panic(err) // two plain members
	}
	return value
}

func nodeKey(node signaling.NodeID) string { return "n." + string(node) }

// valid reports whether the node may act for its rooms. Safe for concurrent use.
func (k *keeper) valid() bool { return int64(k.now()) < k.fenceAt.Load() }

// age is the time since the last confirmed renewal was sent.
func (k *keeper) age() time.Duration { return k.now() - time.Duration(k.sent.Load()) }

// run keeps the lease until ctx ends, or until it is lost, which is the error. After each confirmed
// renewal, and at least as often as a node should be heard, it calls alive.
func (k *keeper) run(ctx context.Context, alive func(revision uint64)) error {
	said := k.now()
	for {
		wait, renewed := k.step(ctx)
		select {
		case <-k.lost:
			return k.ending()
		default:
		}
		// A store that stands still for some seconds does not make nodes silent.
		if now := k.now(); renewed || now-said >= k.every {
			said = now
			alive(k.revision.Load())
		}
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// ending is why the lease ended: retired is no error.
func (k *keeper) ending() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.retired {
		return nil
	}
	return fmt.Errorf("node %s: %w", k.self, ErrLeaseLost)
}

// step does the lease's next step. wait is the time until the one after it.
func (k *keeper) step(ctx context.Context) (wait time.Duration, renewed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := &k.lease
	if l.next == stepLost {
		return 0, false
	}
	key := nodeKey(k.self)
	wait = retryAfter + mrand.N(retryJitter)
	var err error
	switch l.next {
	case stepRenew:
		sent := k.now()
		var revision uint64
		revision, err = k.nodes.put(ctx, key, k.value, l.revision, leaseTTL)
		l.renewed(sent, revision, err)
		if err == nil {
			k.confirm(sent)
			wait, renewed = max(0, sent+k.every-k.now()), true
		}
		k.count(ctx, err)
		if errors.Is(err, errRevision) {
			wait = 0
		}
	case stepRead:
		var e entry
		if e, err = k.nodes.get(ctx, key); err == nil {
			if e.revision > l.revision {
				wait = 0
			}
			l.read(e, bytes.Equal(e.value, k.value))
		}
	case stepBury:
		_, err = k.nodes.put(ctx, key, certificate(k.self), 0, certificateTTL)
		l.buried(err)
	}
	k.revision.Store(l.revision)
	if l.next == stepLost {
		k.ended()
	}
	if err != nil && ctx.Err() == nil {
		k.say(err)
	}
	return wait, renewed
}

// A trouble is how far a lease is from being renewed.
type trouble int

const (
	troubleNone trouble = iota
	troubleLate
	troubleFrozen
)

// say logs that a step failed, once for each degree of trouble.
func (k *keeper) say(err error) {
	left := k.lease.fenceAt - k.now()
	switch {
	case k.lease.next == stepLost:
	case left <= 0 && k.said < troubleFrozen:
		k.said = troubleFrozen
		k.log.Error("this node's rooms stand still until its lease is confirmed", "err", err)
	case left > 0 && k.said < troubleLate:
		k.said = troubleLate
		k.log.Warn("the lease was not renewed; trying again", "err", err, "valid_for", left)
	}
}

func (k *keeper) confirm(sent time.Duration) {
	k.said = troubleNone
	now := k.now()
	if before := time.Duration(k.fenceAt.Load()); before > 0 && now >= before {
		k.onFrozen(now - before)
		k.log.Warn("this node's rooms go on: its lease is confirmed again", "frozen_for", now-before)
	}
	k.fenceAt.Store(int64(k.lease.fenceAt))
	k.sent.Store(int64(sent))
	k.turn.Lock()
	defer k.turn.Unlock()
	close(k.renewed)
	k.renewed = make(chan struct{})
}

func (k *keeper) count(ctx context.Context, err error) {
	switch {
	case err == nil:
		k.renewals("ok")
	case errors.Is(err, errRevision):
		k.renewals("refused")
	case ctx.Err() == nil:
		k.renewals("failed")
	}
}

// wait returns nil once the node is valid, or else why that will not be awaited.
func (k *keeper) wait(ctx context.Context) error {
	for {
		k.turn.Lock()
		renewed := k.renewed
		k.turn.Unlock()
		select {
		case <-k.lost:
			return ErrLeaseLost
		default:
		}
		if k.valid() {
			return nil
		}
		select {
		case <-renewed:
		case <-k.lost:
		case <-ctx.Done():
			return fmt.Errorf("the node's lease is not confirmed: %w", context.Cause(ctx))
		}
	}
}

// lose ends the lease at once.
func (k *keeper) lose() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lease.next != stepLost {
		k.lease.lose()
		k.ended()
	}
}

// ended takes down that the lease is lost. mu is held.
func (k *keeper) ended() {
	k.fenceAt.Store(0)
	close(k.lost)
}

// retire ends the lease and writes this node's certificate, so that what it still owns is free at once.
func (k *keeper) retire(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lease.next == stepLost {
		return nil
	}
	k.lease.lose()
	k.retired = true
	k.ended()
	key := nodeKey(k.self)
	for revision := k.lease.revision; ; {
		_, err := k.nodes.put(ctx, key, certificate(k.self), revision, certificateTTL)
		if err == nil {
			return nil
		}
		e, readErr := k.nodes.get(ctx, key) // a renewal of ours without an answer, or a certificate
		if readErr == nil {
			if by, _ := readNode(e); by != "" {
				return nil
			}
			revision = max(revision, e.revision)
		}
		if !sleep(ctx, retryAfter+mrand.N(retryJitter)) {
			return fmt.Errorf("write the certificate of %s: %w", k.self, errors.Join(err, readErr))
		}
	}
}

// sleep waits, and reports false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
