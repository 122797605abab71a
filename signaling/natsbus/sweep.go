package natsbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"duet/signaling"
)

const (
	rewriteAfter = 6 * time.Hour // the key of a room that lasts: it lasts through an outage of NATS, as the lease does
	rewriteLook  = time.Minute
	keepEmpty    = 10 * time.Second // a room's key without a hold: rejoin storms cost next to nothing

	maxSweeps = 64 // calls of the key-value store for what is given up, at a time
)

// An emptied room is given up unless it is held again.
type emptied struct {
	room signaling.RoomID
	at   time.Duration
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
		if s.now()-looked >= rewriteLook && s.keeper.valid() { // otherwise the store is away
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
