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

	"github.com/go-json-experiment/json"

	"duet/signaling"
)

const (
	roomTTL      = 24 * time.Hour
	rewriteAfter = 12 * time.Hour // the key of a room that lasts
	rewriteLook  = 10 * time.Minute
	keepEmpty    = 10 * time.Second // a room's key without a hold: rejoin storms cost next to nothing

	maxClaims   = 500    // calls of the key-value store for claims at a time: a dead node's rooms come in a rush
	maxSweeps   = 64     // and for what is given up
	cacheOwners = 16_384 // other nodes' rooms
	keyLength   = 22     // of base64url: 132 bits of SHA-256

	// Who asks for a room's owner again so soon was told so by the owner it was given: the cache is not asked.
	askedAgain = 2 * time.Second

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

// A roomValue is what a room's key holds. The room's name is not in it: nothing readable is in NATS.
type roomValue struct {
	V     int              `json:"v"`
	Node  signaling.NodeID `json:"n"`
	Epoch uint64           `json:"e,omitzero"` // 0: the revision that wrote it
}

func roomBytes(node signaling.NodeID, epoch uint64) []byte {
	value, err := json.Marshal(roomValue{V: 1, Node: node, Epoch: epoch})
	if err != nil {
		panic(err) // plain members
	}
	return value
}

// ownerIn reads a room's key; the zero Owner is that of a room nobody owns.
func ownerIn(e entry) (signaling.Owner, error) {
	if e.value == nil {
		return signaling.Owner{}, nil
	}
	var v roomValue
	if err := json.Unmarshal(e.value, &v); err != nil || v.V != 1 || v.Node == "" {
		return signaling.Owner{}, errors.New("a room's key has a form that this release does not read: upgrade one release at a time")
	}
	if v.Epoch == 0 {
		v.Epoch = e.revision
	}
	return signaling.Owner{Node: v.Node, Epoch: v.Epoch}, nil
}

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

// An emptied room is given up unless it is held again.
type emptied struct {
	room signaling.RoomID
	at   time.Duration
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

// run gives up what nobody holds, and keeps the keys of rooms that last, until ctx ends.
func (s *claims) run(ctx context.Context) {
	var sweeps sync.WaitGroup
	defer sweeps.Wait()
	slots := make(chan struct{}, maxSweeps)
	each := func(f func()) {
		select {
		case slots <- struct{}{}:
			sweeps.Go(func() {
				defer func() { <-slots }()
				f()
			})
		case <-ctx.Done():
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	looked := s.now()
	for ctx.Err() == nil {
		if s.now()-looked >= rewriteLook {
			looked = s.now()
			for _, room := range s.older(looked - rewriteAfter) {
				each(func() { s.rewrite(ctx, room) })
			}
		}
		rooms, next := s.due(s.now() - keepEmpty)
		for _, room := range rooms {
			each(func() { s.vacate(ctx, room) })
		}
		timer.Reset(min(next, rewriteLook))
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
		}
	}
}

// due takes the rooms that became empty before a time off the list, and says when there will be more.
func (s *claims) due(before time.Duration) (rooms []signaling.RoomID, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for ; n < len(s.empty) && s.empty[n].at <= before; n++ {
		if c := s.held[s.empty[n].room]; c != nil && c.holds == 0 && c.busy == nil && c.idle == s.empty[n].at {
			rooms = append(rooms, s.empty[n].room)
		}
	}
	s.empty = append(s.empty[:0:0], s.empty[n:]...)
	if len(s.empty) == 0 {
		return rooms, rewriteLook
	}
	return rooms, s.empty[0].at - before
}

// older lists the owned rooms whose key was written before a time.
func (s *claims) older(than time.Duration) (rooms []signaling.RoomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for room, c := range s.held {
		if c.owned && c.at < than {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// vacate purges a room's key where it still names this node and nobody holds the room. A Find meanwhile
// waits for the outcome.
func (s *claims) vacate(ctx context.Context, room signaling.RoomID) {
	c, err := s.take(ctx, room, func(c *claim) bool { return c.holds == 0 && c.busy == nil })
	if c == nil || err != nil {
		return
	}
	defer s.end(room, c, false) // what did not work out is swept again
	bucket, key := s.key(room)
	revision := c.revision
	if !c.owned {
		revision = 0
	}
	for ctx.Err() == nil {
		if revision != 0 {
			err := bucket.purge(ctx, key, revision)
			if err == nil {
				s.drop(c)
				return
			}
			if !errors.Is(err, errRevision) {
				return
			}
		}
		e, err := bucket.get(ctx, key)
		if err != nil {
			return
		}
		owner, err := ownerIn(e)
		if err != nil || e.revision <= revision {
			return // by a replica that is behind, perhaps
		}
		if owner.Node != s.self {
			s.drop(c)
			return
		}
		revision = e.revision
	}
}

// drop takes down that the key does not name this node.
func (s *claims) drop(c *claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.owned, c.doubtful = false, false
}

// rewrite writes the key of a room that lasts again, with the same epoch, before its time is over.
func (s *claims) rewrite(ctx context.Context, room signaling.RoomID) {
	c, err := s.take(ctx, room, func(c *claim) bool { return c.owned && c.busy == nil })
	if c == nil || err != nil {
		return
	}
	defer s.end(room, c, false)
	ctx, cancel := context.WithTimeout(ctx, 2*kvTimeout)
	defer cancel()
	owner, err := s.settleOwner(ctx, room, c, c.epoch)
	switch {
	case err != nil:
		s.log.Warn("the key of a room that lasts was not written again; later", "err", err)
	case owner.Node != s.self:
		s.log.Error("a room of this node was another's all the time", "owner", owner.Node)
	}
}

// A backoff is the pause between attempts, with jitter. Its zero value begins.
type backoff struct{ next time.Duration }

func (b *backoff) sleep(ctx context.Context) bool {
	b.next = min(max(2*b.next, firstBackoff), lastBackoff)
	return sleep(ctx, b.next/2+rand.N(b.next/2))
}

// An ownerCache keeps the owners of some rooms, in two generations: when recent is full it becomes older.
type ownerCache struct {
	limit         int
	recent, older map[signaling.RoomID]cachedOwner
}

type cachedOwner struct {
	owner signaling.Owner
	at    time.Duration // of the last answer
}

// get returns the owner last known, and whether it may be given to who asks.
func (c *ownerCache) get(room signaling.RoomID, now time.Duration) (owner signaling.Owner, fresh bool) {
	found, ok := c.recent[room]
	if !ok {
		if found, ok = c.older[room]; !ok {
			return signaling.Owner{}, false
		}
	}
	if now-found.at < askedAgain {
		return found.owner, false
	}
	c.put(room, found.owner, now)
	return found.owner, true
}

func (c *ownerCache) put(room signaling.RoomID, owner signaling.Owner, now time.Duration) {
	if owner == (signaling.Owner{}) {
		delete(c.recent, room)
		delete(c.older, room)
		return
	}
	if _, known := c.recent[room]; !known && (len(c.recent) >= c.limit/2 || c.recent == nil) {
		c.older, c.recent = c.recent, map[signaling.RoomID]cachedOwner{}
	}
	c.recent[room] = cachedOwner{owner, now}
}
