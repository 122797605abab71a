package signaling

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// A join asks for a seat: a new one, or one's own again.
type join struct {
	msg    *Message
	key    sessionHash // of msg.Session
	grant  Grant
	denied *refusal // why the client may not take a new seat; nil = it may
	out    Outlet
	reply  chan<- joinReply // buffered: the room never waits for its caller
}

type joinReply struct {
	seat *seat
	gen  uint64
	err  *refusal
}

func (c join) apply(r *Room) {
	if now := r.hub.clock.Now(); !r.timerAt.IsZero() && !now.Before(r.timerAt) {
		r.tick(now) // the timer's own command may be behind this one
	}
	s, resumed, err := r.admit(c)
	if err != nil {
		c.reply <- joinReply{err: err}
		return
	}
	s.out = c.out
	s.ring.attach(s.gen)
	s.attachedAt, s.back, s.progressed = r.hub.clock.Now(), s.gen > 1, false
	var servers []byte
	servers, s.renewAt = r.mintICE(s)
	c.out.Attach(r.joinedEnvelope(s, resumed, servers), Feed{s.ring, s.gen})
	c.reply <- joinReply{seat: s, gen: s.gen}
}

// admit finds or makes the seat that c may have, fenced off from every earlier connection.
func (r *Room) admit(c join) (_ *seat, resumed bool, _ *refusal) {
	var own *seat
	if c.msg.Session != "" {
		own = r.seatOf(c.key)
	}
	if own != nil && c.msg.Attempt < own.attempt {
		r.hub.metrics.resume("stale-attempt")
		return nil, false, &refusal{err: ErrStaleAttempt,
			text: "a newer connection of this session was here already; use a higher attempt"}
	}
	r.replace(c.msg.Replaces)
	if own != nil {
		known := c.msg.Since == 0 || c.msg.Since == own.since
		if err := r.reclaim(own, c, known); err != nil {
			return nil, false, err
		}
		if own.gen != 0 { // not ended by its backstop
			return own, known, nil
		}
	}
	s, err := r.seatNew(c)
	return s, false, err
}

// reclaim gives a seat to the connection that c comes from. First the old connection is made
// powerless, then the counters are read: otherwise a message still in its socket would be handled
// after the count was reported.
//
// A client that does not know of the seat counts for an earlier one: the joined of this one was lost.
// It has handled nothing here, and is told that the seat is new.
func (r *Room) reclaim(s *seat, c join, known bool) *refusal {
	wasAway := s.away()
	if old := s.fence(); old != nil {
		old.End(ErrReplaced)
		if s.lapsed(r.hub.clock.Now()) {
			r.end(s, ReasonError)
			return nil
		}
	}
	acked := s.ring.acked // only this goroutine moves it
	received := c.msg.Received
	if !known {
		received = 0
	}
	if !s.ring.acknowledge(received) || !known && s.received > 0 {
		r.hub.metrics.resume("out-of-sync")
		r.end(s, ReasonError)
		return &refusal{err: ErrOutOfSync,
			text: fmt.Sprintf("received %d is not between what you acknowledged (%d) and what was sent; join with a new session", c.msg.Received, acked)}
	}
	if received > acked {
		s.barren = 0
	}
	s.attempt = c.msg.Attempt
	if !known || c.msg.Since == 0 {
		s.since = c.msg.Attempt
	}
	if name := c.name(); name != "" {
		s.name = name
	}
	if c.grant.Subject != "" {
		s.subject = c.grant.Subject
	}
	s.owed, s.ackAt = 0, time.Time{} // joined says it
	if wasAway {
		s.awayUntil = time.Time{}
		r.hub.metrics.seatBack()
		r.tell("back", s, "")
		r.sayToOthers(s, peerEnvelope("peer-back", s.id, ""))
	}
	if known {
		r.hub.metrics.resume("resumed")
	} else {
		r.hub.metrics.resume("new")
	}
	return nil
}

func (r *Room) seatNew(c join) (*seat, *refusal) {
	if c.denied != nil {
		return nil, c.denied
	}
	capacity := r.hub.cfg.RoomCapacity
	if c.grant.Capacity > 0 {
		capacity = min(c.grant.Capacity, MaxCapacity)
	}
	if len(r.seats) >= capacity {
		return nil, r.full()
	}
	if c.msg.Received > 0 || c.msg.Attempt > 1 {
		r.hub.metrics.resume("new")
	}
	s := &seat{name: c.name(), subject: c.grant.Subject, slot: r.freeSlot(), attempt: c.msg.Attempt, since: c.msg.Attempt, gen: 1}
	if c.msg.Session != "" {
		s.session, s.key, s.id = true, c.key, c.key.peerID()
	} else {
		s.id = randomPeerID()
	}
	s.ring = newRing(max(capacity, r.hub.cfg.RoomCapacity), !s.session, &r.hub.waiting)
	r.sayToOthers(s, peerEnvelope("peer-joined", s.id, s.name))
	r.seats = append(r.seats, s)
	r.hub.metrics.seatTaken()
	if !r.opened {
		r.opened = true
		r.tell("room-opened", nil, "")
	}
	r.tell("joined", s, "")
	return s, nil
}

// replace ends the seat of an earlier page load of the same client, so that a reload never finds
// its own room full.
func (r *Room) replace(session string) {
	if session == "" {
		return
	}
	if s := r.seatOf(hashSession(session)); s != nil {
		out := s.fence()
		r.end(s, ReasonReplaced)
		if out != nil {
			out.End(ErrReplaced)
		}
	}
}

// full says when it may be worth to try again: when the first away seat's grace is over.
func (r *Room) full() *refusal {
	refused := &refusal{err: ErrRoomFull,
		text: fmt.Sprintf("the room is full: its %d seats are taken", len(r.seats))}
	var first time.Time
	for _, s := range r.seats {
		if s.away() && (first.IsZero() || s.awayUntil.Before(first)) {
			first = s.awayUntil
		}
	}
	if !first.IsZero() {
		left := first.Sub(r.hub.clock.Now()).Seconds()
		refused.retryAfter = max(1, int(math.Ceil(left)))
		refused.text += "; one may come free soon, because its peer lost the connection"
	}
	return refused
}

// name is what the client is called: by the grant, else by itself.
func (c join) name() string {
	if c.grant.Name != "" {
		return c.grant.Name
	}
	return c.msg.Name
}

// mintICE makes the ICE servers that s is told of, and says when they are to be renewed: when half of
// the time is over for which their credentials hold; zero = never.
func (r *Room) mintICE(s *seat) (servers []byte, renewAt time.Time) {
	mint := r.hub.cfg.Policy.ICEServers
	if mint == nil {
		return r.hub.cfg.ICEServers, time.Time{}
	}
	servers, lifetime := mint(s.id)
	if lifetime > 0 {
		renewAt = r.hub.clock.Now().Add(lifetime / 2)
		r.wakeAt(renewAt)
	}
	return servers, renewAt
}

func (r *Room) freeSlot() int8 {
	var taken [MaxCapacity]bool
	for _, s := range r.seats {
		taken[s.slot] = true
	}
	return int8(slices.Index(taken[:], false))
}
