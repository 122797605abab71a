package natsbus

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"duet/signaling"
)

const (
	maxClaims = 500 // calls of the key-value store for claims at a time: a dead node's rooms come in a rush
	keyLength = 22  // of base64url: 132 bits of SHA-256

	firstBackoff = 10 * time.Millisecond
	lastBackoff  = 500 * time.Millisecond
)

// How a room became this node's, for the metrics.
const (
	claimFree     = "free"
	claimTaken    = "taken"
	claimReceived = "received"
	claimAgain    = "again"
)

// A claim is a room that this node owns, or is about to, or did. It is guarded by claims.mu, except that
// owned, epoch, revision and at are changed by who has made it busy alone, and by nobody else.
type claim struct {
	holds    int
	owned    bool
	doubtful bool          // a write of ours had no answer: the key may name us
	epoch    uint64        // of an owned room
	revision uint64        // of its key, as far as we know
	at       time.Duration // of its last write
	idle     time.Duration // when its holds became 0
	busy     chan struct{} // closed when the call that is under way for its key is over; nil: there is none
}

// claims is the directory of rooms.
type claims struct {
	self    signaling.NodeID
	buckets []register
	peers   *peers
	keeper  *keeper
	now     clock
	log     *slog.Logger
	claimed func(how string)
	slots   chan struct{}
	wake    chan struct{} // holds 1: there is something to sweep

	mu    sync.Mutex
	held  map[signaling.RoomID]*claim
	empty []emptied // earliest first
	cache ownerCache
}

func newClaims(self signaling.NodeID, buckets []register, p *peers, k *keeper, now clock, log *slog.Logger) *claims {
	return &claims{
		self: self, buckets: buckets, peers: p, keeper: k, now: now, log: log, claimed: func(string) {},
		slots: make(chan struct{}, maxClaims), wake: make(chan struct{}, 1),
		held: map[signaling.RoomID]*claim{}, cache: ownerCache{limit: cacheOwners},
	}
}

func (s *claims) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// key is where a room's owner stands. Names of rooms are any script; keys and subjects are not.
func (s *claims) key(room signaling.RoomID) (register, string) {
	sum := sha256.Sum256([]byte(room))
	n := binary.BigEndian.Uint64(sum[24:]) % uint64(len(s.buckets))
	return s.buckets[n], "r." + base64.RawURLEncoding.EncodeToString(sum[:])[:keyLength]
}

// Find implements signaling.Directory.
func (s *claims) Find(ctx context.Context, room signaling.RoomID) (signaling.Owner, error) {
	for {
		select {
		case <-s.keeper.lost:
			return signaling.Owner{}, ErrLeaseLost
		default:
		}
		s.mu.Lock()
		c := s.held[room]
		if c != nil && c.owned && c.holds > 0 {
			c.holds++
			s.mu.Unlock()
			return signaling.Owner{Node: s.self, Epoch: c.epoch}, nil
		}
		if c != nil && c.busy != nil {
			busy := c.busy
			s.mu.Unlock()
			if err := s.await(ctx, busy); err != nil {
				return signaling.Owner{}, fmt.Errorf("find the room's owner: %w", err)
			}
			continue
		}
		cached, fresh := s.cache.get(room, s.now())
		if c == nil && fresh && s.peers.alive(cached.Node) {
			s.mu.Unlock()
			return cached, nil
		}
		c = s.begin(room, c)
		s.mu.Unlock()
		owner, err := s.claim(ctx, room, c, cached != signaling.Owner{})
		s.end(room, c, err == nil && owner.Node == s.self)
		if err != nil {
			return signaling.Owner{}, fmt.Errorf("find the room's owner: %w", err)
		}
		return owner, nil
	}
}

// begin makes a claim busy, and makes it. mu is held; it is not busy.
func (s *claims) begin(room signaling.RoomID, c *claim) *claim {
	if c == nil {
		c = &claim{}
		s.held[room] = c
	}
	c.busy = make(chan struct{})
	return c
}

// end lets the next call have the room's key, and holds the room for who asks.
func (s *claims) end(room signaling.RoomID, c *claim, hold bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(c.busy)
	c.busy = nil
	if hold {
		c.holds++
	}
	s.settle(room, c)
}

// settle forgets a claim that is none, and has one swept that nobody holds. mu is held.
func (s *claims) settle(room signaling.RoomID, c *claim) {
	switch {
	case c.holds > 0 || c.busy != nil:
	case c.owned || c.doubtful:
		c.idle = s.now()
		s.empty = append(s.empty, emptied{room, c.idle})
		if len(s.empty) == 1 {
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
	default:
		delete(s.held, room)
	}
}

// take waits until it can make a claim busy. With only, it returns nil where that is not so of the claim.
func (s *claims) take(ctx context.Context, room signaling.RoomID, only func(*claim) bool) (*claim, error) {
	for {
		s.mu.Lock()
		c := s.held[room]
		if only != nil && (c == nil || !only(c)) {
			s.mu.Unlock()
			return nil, nil
		}
		if c == nil || c.busy == nil {
			c = s.begin(room, c)
			s.mu.Unlock()
			return c, nil
		}
		busy := c.busy
		s.mu.Unlock()
		if err := s.await(ctx, busy); err != nil {
			return nil, err
		}
	}
}

func (s *claims) await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-s.keeper.lost:
		return ErrLeaseLost
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// claim makes this node the owner of a room, or finds who is. What it knows of a room that it owned until
// a moment ago may be old: only a write tells. known says that the room had another owner lately.
func (s *claims) claim(ctx context.Context, room signaling.RoomID, c *claim, known bool) (signaling.Owner, error) {
	bucket, key := s.key(room)
	revision, how := uint64(0), claimFree
	if c.owned {
		revision, how = c.revision, claimAgain
	}
	var wait backoff
	for read := known && !c.owned; ; read = true {
		if err := s.keeper.wait(ctx); err != nil {
			return signaling.Owner{}, err
		}
		if read {
			e, err := s.read(ctx, bucket, key, &wait)
			if err != nil {
				return signaling.Owner{}, err
			}
			owner, err := ownerIn(e)
			if err != nil {
				return signaling.Owner{}, err
			}
			switch owner.Node {
			case "":
				how = claimFree
			case s.self: // a write of ours without an answer, or a reading of long ago
				if how == claimFree {
					how = claimAgain
				}
			default:
				dead, err := s.peers.await(ctx, owner.Node)
				if err != nil {
					return signaling.Owner{}, err
				}
				if !dead {
					s.disown(c)
					s.remember(room, owner)
					return owner, nil
				}
				how = claimTaken
			}
			revision = e.revision
		}
		err := s.write(ctx, bucket, key, c, 0, revision)
		if err == nil {
			s.claimed(how)
			s.remember(room, signaling.Owner{})
			return signaling.Owner{Node: s.self, Epoch: c.epoch, Taken: how == claimTaken}, nil
		}
		if !errors.Is(err, errRevision) || read {
			if !wait.sleep(ctx) {
				return signaling.Owner{}, errors.Join(context.Cause(ctx), err)
			}
		}
	}
}

// read reads a key, for as long as that takes.
func (s *claims) read(ctx context.Context, bucket register, key string, wait *backoff) (entry, error) {
	for {
		var e entry
		err := s.slot(ctx, func() (err error) {
			e, err = bucket.get(ctx, key)
			return err
		})
		if err == nil {
			return e, nil
		}
		if !wait.sleep(ctx) {
			return entry{}, errors.Join(context.Cause(ctx), err)
		}
	}
}

// write puts this node's name at a revision, and takes the claim down if that works. Epoch 0 starts a new one.
func (s *claims) write(ctx context.Context, bucket register, key string, c *claim, epoch, revision uint64) error {
	return s.slot(ctx, func() error {
		written, err := bucket.put(ctx, key, roomBytes(s.self, epoch), revision, roomTTL)
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case err == nil:
			if epoch == 0 {
				epoch = written
			}
			c.owned, c.doubtful, c.epoch, c.revision, c.at = true, false, epoch, written, s.now()
		case errors.Is(err, signaling.ErrUnsure):
			c.doubtful = true
		}
		return err
	})
}

func (s *claims) slot(ctx context.Context, f func() error) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.slots }()
	return f()
}

// disown takes down that the room is another node's, or nobody's.
func (s *claims) disown(c *claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.owned = false
}

// remember keeps another node's room in the cache; the zero Owner takes it out.
func (s *claims) remember(room signaling.RoomID, owner signaling.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.put(room, owner, s.now())
}

// Look implements signaling.Directory. Of a room that this node holds it makes sure by a write, because a
// reading may be old and a handover without an answer may still be under way: after it no Receive from
// the epoch before succeeds, and the Owner returned, if it is this node, has a new one. So ask it of a room
// of one's own after such a handover, not otherwise. Once the room is found to be another's, Find says so too.
func (s *claims) Look(ctx context.Context, room signaling.RoomID) (signaling.Owner, error) {
	owner, err := s.look(ctx, room)
	if err == nil && owner.Node == "" {
		err = signaling.ErrNoRoom
	}
	if err != nil {
		return signaling.Owner{}, fmt.Errorf("look up the room's owner: %w", err)
	}
	return owner, nil
}

func (s *claims) look(ctx context.Context, room signaling.RoomID) (signaling.Owner, error) {
	c, err := s.take(ctx, room, func(c *claim) bool { return c.owned && c.holds > 0 })
	if err != nil {
		return signaling.Owner{}, err
	}
	if c != nil {
		defer s.end(room, c, false)
		return s.settleOwner(ctx, room, c, 0)
	}
	bucket, key := s.key(room)
	e, err := s.read(ctx, bucket, key, new(backoff))
	if err != nil {
		return signaling.Owner{}, err
	}
	owner, err := ownerIn(e)
	if s.peers.dead(owner.Node) {
		return signaling.Owner{}, nil
	}
	return owner, err
}

// settleOwner writes the key of a room that this node owned last it knew, or finds out who does; the zero
// Owner says that nobody does.
func (s *claims) settleOwner(ctx context.Context, room signaling.RoomID, c *claim, epoch uint64) (signaling.Owner, error) {
	bucket, key := s.key(room)
	revision := c.revision
	var wait backoff
	for {
		err := s.write(ctx, bucket, key, c, epoch, revision)
		if err == nil {
			return signaling.Owner{Node: s.self, Epoch: c.epoch}, nil
		}
		e, readErr := s.read(ctx, bucket, key, &wait)
		if readErr != nil {
			return signaling.Owner{}, errors.Join(readErr, err)
		}
		if e.revision > revision {
			owner, err := ownerIn(e)
			if err != nil {
				return signaling.Owner{}, err
			}
			if owner.Node != s.self {
				s.disown(c)
				s.remember(room, owner)
				return owner, nil
			}
			revision = e.revision
			continue
		}
		if !wait.sleep(ctx) {
			return signaling.Owner{}, errors.Join(context.Cause(ctx), err)
		}
	}
}

// Release implements signaling.Directory.
func (s *claims) Release(room signaling.RoomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.held[room]
	if c == nil || c.holds == 0 {
		s.log.Error("a room is released that nobody holds")
		return
	}
	c.holds--
	s.settle(room, c)
}

// Receive implements signaling.Directory.
func (s *claims) Receive(ctx context.Context, room signaling.RoomID, from signaling.Owner) (signaling.Owner, error) {
	c, err := s.take(ctx, room, nil)
	var epoch uint64
	if err == nil {
		err = s.receive(ctx, room, c, from)
		epoch = c.epoch
		s.end(room, c, err == nil)
	}
	if err != nil {
		return signaling.Owner{}, fmt.Errorf("receive a room from node %s: %w", from.Node, err)
	}
	return signaling.Owner{Node: s.self, Epoch: epoch}, nil
}

func (s *claims) receive(ctx context.Context, room signaling.RoomID, c *claim, from signaling.Owner) error {
	bucket, key := s.key(room)
	unsure := false
	fail := func(errs ...error) error {
		if unsure {
			errs = append(errs, signaling.ErrUnsure)
		}
		return errors.Join(errs...)
	}
	var wait backoff
	for {
		if err := s.keeper.wait(ctx); err != nil {
			return fail(err)
		}
		e, err := s.read(ctx, bucket, key, &wait)
		if err != nil {
			return fail(err)
		}
		owner, err := ownerIn(e)
		if err != nil {
			return fail(err)
		}
		ours := unsure && owner.Node == s.self
		if !ours && (owner.Node != from.Node || owner.Epoch != from.Epoch) {
			if e.revision >= from.Epoch {
				return errors.New("it is not that node's any more")
			}
			if !wait.sleep(ctx) { // from a replica that is behind
				return fail(context.Cause(ctx))
			}
			continue
		}
		err = s.write(ctx, bucket, key, c, 0, e.revision)
		if err == nil {
			s.claimed(claimReceived)
			s.remember(room, signaling.Owner{})
			return nil
		}
		unsure = unsure || errors.Is(err, signaling.ErrUnsure)
		if !wait.sleep(ctx) {
			return fail(context.Cause(ctx), err)
		}
	}
}

// A backoff is the pause between attempts, with jitter. Its zero value begins.
type backoff struct{ next time.Duration }

func (b *backoff) sleep(ctx context.Context) bool {
	b.next = min(max(2*b.next, firstBackoff), lastBackoff)
	return sleep(ctx, b.next/2+rand.N(b.next/2))
}
