package signaling

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// A join asks for a seat: a new one, or one's own again.
type join struct {
	room     RoomID
	session  bool        // the client has a session key
	key      sessionHash // its hash
	replaces *sessionHash
	name     string
	attempt  uint64
	since    uint64
	received uint64
	grant    Grant
	denied   *refusal // why the client may not take a new seat; nil = it may
	out      Outlet
	remote   *remoteSeat    // out, where it is one
	again    bool           // remote attaches to the seat it has, and to no other
	have     uint64         // again: the last number of the ring that the client's connection has
	reply    chan joinReply // buffered: the room never waits for its caller
	settled  atomic.Bool    // the room answers it, or who asked has given up: whichever is first
}

// settle reports whether the caller is the first: the room, which from then on answers, or who asked and
// gives up, so that the room leaves the join alone.
func (c *join) settle() bool { return c.settled.CompareAndSwap(false, true) }

// joinOf is the command for m.
func joinOf(m *Message, out Outlet) *join {
	c := &join{room: m.Room, name: m.Name, attempt: m.Attempt, since: m.Since, received: m.Received,
		out: out, reply: make(chan joinReply, 1)}
	if m.Session != "" {
		c.session, c.key = true, hashSession(m.Session)
	}
	if m.Replaces != "" {
		key := hashSession(m.Replaces)
		c.replaces = &key
	}
	return c
}

type joinReply struct {
	seat    *seat
	gen     uint64
	handled uint64 // parts of a remote connection's
	err     *refusal
}

func (c *join) apply(r *Room) {
	if now := r.hub.clock.Now(); !r.timerAt.IsZero() && !now.Before(r.timerAt) {
		r.tick(now) // the timer's own command may be behind this one
	}
	if !r.recoverUntil.IsZero() {
		r.wakeAt(r.recoverUntil)
	}
	if !c.returns() && r.recovering() {
		if c.remote != nil {
			c.reply <- joinReply{err: errWait} // its node asks again: no answer is waited for as long as this takes
			return
		}
		r.strangers = append(r.strangers, c)
		return
	}
	if !c.settle() {
		return
	}
	if c.remote != nil {
		s := r.seatLinked(c.remote.link)
		if s != nil && !s.session && c.remote.turn > s.turn { // nothing says what its client has
			if old, ok := s.fence().(*remoteSeat); ok {
				old.drop()
			}
			r.end(s, ReasonLeft)
			s = nil
		}
		if s != nil || c.again {
			c.reply <- r.reattach(s, c)
			return
		}
	}
	s, resumed, err := r.admit(c)
	if err != nil {
		c.reply <- joinReply{err: err}
		return
	}
	s.link, s.turn, s.handled, s.resumed = linkID{}, 0, 0, resumed
	if c.remote != nil {
		s.link, s.turn = c.remote.link, c.remote.turn
	}
	s.ring.attach(s.gen)
	s.attachedAt, s.back, s.progressed = r.hub.clock.Now(), s.gen > 1, false
	c.reply <- r.seated(s, c)
}

// seated gives s its outlet.
func (r *Room) seated(s *seat, c *join) joinReply {
	s.out = c.out
	var joined []byte
	if !c.again {
		var servers []byte
		servers, s.renewAt = r.mintICE(s)
		joined = r.joinedEnvelope(s, s.resumed, servers)
	}
	if c.remote != nil {
		c.remote.taken(r, s, s.gen, c.again)
	}
	rep := joinReply{seat: s, gen: s.gen, handled: s.handled}
	c.out.Attach(joined, seatFeed{s.ring, s.gen})
	return rep
}

// seatLinked is the seat of a connection on another node.
func (r *Room) seatLinked(link linkID) *seat {
	for _, s := range r.seats {
		if s.link == link {
			return s
		}
	}
	return nil
}

// reattach gives s, the seat of c's link, its connection again: the room has moved, frames were
// lost, or the answer was. The client notices nothing.
func (r *Room) reattach(s *seat, c *join) joinReply {
	if s == nil || c.remote.turn <= s.turn {
		return joinReply{err: errNoSeat}
	}
	if old, ok := s.fence().(*remoteSeat); ok {
		old.drop()
	}
	if !s.ring.attachAt(s.gen, c.have, s.received) {
		r.end(s, ReasonError)
		return joinReply{err: errNoSeat}
	}
	s.turn = c.remote.turn
	r.returned(s)
	return r.seated(s, c)
}

// admit finds or makes the seat that c may have, fenced off from every earlier connection.
func (r *Room) admit(c *join) (_ *seat, resumed bool, _ *refusal) {
	var own *seat
	if c.session {
		own = r.seatOf(c.key)
	}
	if own != nil && c.attempt < own.attempt {
		r.hub.metrics.resume("stale-attempt")
		return nil, false, &refusal{err: ErrStaleAttempt,
			text: "a newer connection of this session was here already; use a higher attempt"}
	}
	r.replace(c.replaces)
	if own != nil {
		known := c.since == 0 || c.since == own.since
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
func (r *Room) reclaim(s *seat, c *join, known bool) *refusal {
	if old := s.fence(); old != nil {
		old.End(ErrReplaced)
		if s.lapsed(r.hub.clock.Now()) {
			r.end(s, ReasonError)
			return nil
		}
	}
	acked := s.ring.acked // only this goroutine moves it
	received := c.received
	if !known {
		received = 0
	}
	if !s.ring.acknowledge(received) || !known && s.received > 0 {
		r.hub.metrics.resume("out-of-sync")
		r.end(s, ReasonError)
		return &refusal{err: ErrOutOfSync,
			text: fmt.Sprintf("received %d is not between what you acknowledged (%d) and what was sent; join with a new session", c.received, acked)}
	}
	if received > acked {
		s.barren = 0
	}
	s.attempt = c.attempt
	if !known || c.since == 0 {
		s.since = c.attempt
	}
	if name := c.called(); name != "" {
		s.name = name
	}
	if c.grant.Subject != "" {
		s.subject = c.grant.Subject
	}
	s.owed, s.ackAt = 0, time.Time{} // joined says it
	r.returned(s)
	if known {
		r.hub.metrics.resume("resumed")
	} else {
		r.hub.metrics.resume("new")
	}
	return nil
}

// returned books that s has a connection again.
func (r *Room) returned(s *seat) {
	if !s.away() {
		return
	}
	s.awayUntil = time.Time{}
	if s.quietly {
		s.quietly = false
		return
	}
	r.hub.metrics.seatBack()
	r.tell("back", s, "")
	r.sayToOthers(s, peerEnvelope("peer-back", s.id, ""))
}

func (r *Room) seatNew(c *join) (*seat, *refusal) {
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
	if c.received > 0 || c.attempt > 1 {
		r.hub.metrics.resume("new")
	}
	s := &seat{name: c.called(), subject: c.grant.Subject, slot: r.freeSlot(), attempt: c.attempt, since: c.attempt, gen: 1}
	if c.session {
		s.session, s.key, s.id = true, c.key, c.key.peerID()
	} else {
		s.id = randomPeerID()
	}
	s.ring = newRing(max(capacity, r.hub.cfg.RoomCapacity), !s.session, &r.hub.waiting)
	s.ring.remote = c.remote != nil
	r.sayToOthers(s, peerEnvelope("peer-joined", s.id, s.name))
	r.seats = append(r.seats, s)
	r.hub.metrics.seatTaken()
	r.hub.seats.Add(1)
	if !r.opened {
		r.opened = true
		r.tell("room-opened", nil, "")
	}
	r.tell("joined", s, "")
	return s, nil
}

// replace ends the seat of an earlier page load of the same client, so that a reload never finds
// its own room full.
func (r *Room) replace(session *sessionHash) {
	if session == nil {
		return
	}
	if s := r.seatOf(*session); s != nil {
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

// called is the client's name: by the grant, else by itself.
func (c *join) called() string {
	if c.grant.Name != "" {
		return c.grant.Name
	}
	return c.name
}

// returns reports whether the client had a seat before.
func (c *join) returns() bool { return c.received > 0 || c.attempt > 1 || c.replaces != nil || c.again }

// recovering reports whether the room was taken from a dead node so lately that its clients may still be
// on their way back: their seats must not go to others.
func (r *Room) recovering() bool {
	return !r.recoverUntil.IsZero() && r.hub.clock.Now().Before(r.recoverUntil)
}

// recovered lets those in who waited.
func (r *Room) recovered() {
	waiting := r.strangers
	r.recoverUntil, r.strangers = time.Time{}, nil
	for _, c := range waiting {
		c.apply(r)
	}
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
