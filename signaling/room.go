package signaling

import (
	"context"
	"crypto/subtle"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// MaxCapacity is the most seats a room may have: beyond it a mesh of peer connections is no
// longer what anybody wants.
const MaxCapacity = 8

// inboxCommands is how many commands may wait for a room. A full inbox slows the one connection
// that posts next; the room itself never waits for anybody.
const inboxCommands = 8

// A Room holds the seats of one call. Its state belongs to its goroutine, which does no I/O;
// everybody else posts commands. The goroutine lives while there are commands: a room in which
// nobody speaks costs no stack. A room begins with its first seat and ends with its last.
type Room struct {
	// Static after construction.
	ID       RoomID
	hub      *Hub
	owner    Owner // this node, since its claim
	inbox    chan command
	done     chan struct{} // closed when the room has ended: no command is handled any more
	openedAt time.Time

	running atomic.Bool // the goroutine lives, or is about to

	// Owned by the goroutine.
	opened bool // somebody has had a seat
	moved  bool // it is on another node now

	recoverUntil time.Time // until then only clients that come back are seated, and the room does not end; zero = it is over
	strangers    []*join   // who wait for that
	seats        []*seat   // earliest first
	timer        *time.Timer
	timerAt      time.Time // when timer fires; zero = not set
}

// A command is one change to a room, applied by its goroutine.
type command interface{ apply(*Room) }

func newRoom(id RoomID, hub *Hub, owner Owner) *Room {
	r := &Room{ID: id, hub: hub, owner: owner, openedAt: time.Now(),
		inbox: make(chan command, inboxCommands), done: make(chan struct{})}
	if owner.Taken {
		r.recoverUntil = hub.clock.Now().Add(hub.cfg.Recover)
	}
	return r
}

// post hands a command to the room's goroutine. False means that the room has ended.
func (r *Room) post(c command) bool {
	select {
	case r.inbox <- c:
		r.start()
		return true
	case <-r.done:
		return false
	}
}

// postBy is post, given up when ctx ends: the inbox of a room that is frozen may be full for long. The error
// wraps ErrNoRoom where the room has ended.
func (r *Room) postBy(ctx context.Context, c command) error {
	select {
	case r.inbox <- c:
		r.start()
		return nil
	case <-r.done:
		return ErrNoRoom
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// postNow is post where that is possible without waiting, or pointless.
func (r *Room) postNow(c command) bool {
	select {
	case r.inbox <- c:
		r.start()
		return true
	case <-r.done:
		return true
	default:
		return false
	}
}

// ask posts a join and waits for the answer. The error wraps ErrNoRoom where the room ended before the
// join's turn came, or is ctx's: then the room has left the join alone, and will.
func (r *Room) ask(ctx context.Context, c *join) (joinReply, error) {
	if err := r.postBy(ctx, c); err != nil {
		return joinReply{}, err
	}
	return r.answer(ctx, c)
}

// answer waits for the answer to a join that was posted, as ask does.
func (r *Room) answer(ctx context.Context, c *join) (joinReply, error) {
	giveUp := ctx.Done()
	for {
		select {
		case rep := <-c.reply:
			return rep, nil
		case <-giveUp:
			if c.settle() {
				return joinReply{}, context.Cause(ctx)
			}
			giveUp = nil // the answer is on its way
			continue
		case <-r.done:
		}
		select {
		case rep := <-c.reply: // answered just before the room ended
			return rep, nil
		default:
			c.settled.Store(false) // another room may answer it
			return joinReply{}, ErrNoRoom
		}
	}
}

// start makes sure that what is in the inbox is handled: by the goroutine that lives, or a new one.
func (r *Room) start() {
	if r.running.CompareAndSwap(false, true) {
		go r.run()
	}
}

// run is a life of the room's goroutine: it ends when nothing is left to do, or with the room.
func (r *Room) run() {
	defer r.recoverPanic()
	for {
		select {
		case c := <-r.inbox:
			if !r.hub.directory.Valid() && !r.thawed(c) {
				continue
			}
			c.apply(r)
		default:
			r.running.Store(false)
			if len(r.inbox) > 0 { // posted since, by one that saw running
				r.start()
			}
			return
		}
		r.endOverflowed()
		if len(r.seats) == 0 && r.recoverUntil.IsZero() {
			r.ended() // still running: no other goroutine comes
			return
		}
	}
}

// ended books the room out.
func (r *Room) ended() {
	if r.opened && !r.moved {
		r.tell("room-closed", nil, "")
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.hub.ended(r)
}

// recoverPanic ends a room whose goroutine panicked, and only that: its clients come back (1012)
// and find a new one.
func (r *Room) recoverPanic() {
	p := recover()
	if p == nil {
		return
	}
	defer r.ended()
	r.hub.panicked("room", p)
	r.endAll(ErrRestart)
}

// endAll ends every seat for cause. No other hears of it: the clients of a server that restarts
// keep their calls, and would take peer-left for the end of them.
func (r *Room) endAll(cause error) {
	for _, s := range r.seats {
		if out := s.fence(); out != nil {
			out.End(cause)
		}
		s.ring.discard()
		r.retire(s)
	}
	r.seats = nil
	r.recoverUntil, r.strangers = time.Time{}, nil // who waits for a seat looks for another room
}

// ---- relay

// A relay is a message for the other seats.
type relay struct {
	seat     *seat
	gen      uint64
	kind     Kind
	seq      uint64
	to       PeerID
	envelope []byte
	at       int64 // see item.at
}

func (c *relay) apply(r *Room) {
	if !r.counts(c.seat, c.gen, c.seq, c.kind.String()) {
		return
	}
	if err := r.relay(c); err != nil {
		err.kind, err.seq = c.kind.String(), c.seq
		r.refuse(c.seat, err)
	}
	r.oweAck(c.seat)
}

// relay puts the message into the rings of all it is for, or of none.
func (r *Room) relay(c *relay) *refusal {
	targets := 0
	for _, s := range r.seats {
		if s == c.seat || c.to != "" && s.id != c.to {
			continue
		}
		if !s.ring.fits(c.seat.slot, len(c.envelope)) {
			return &refusal{err: ErrBusy, text: fmt.Sprintf(
				"not sent: %d messages or %d KiB wait for a peer already; try again when it is back or has caught up",
				s.ring.share.messages, s.ring.share.bytes>>10)}
		}
		targets++
	}
	if targets == 0 {
		if c.to != "" {
			return &refusal{err: ErrNoPeer, text: "not sent: no peer with that id is in the room"}
		}
		return &refusal{err: ErrNoPeer, text: "not sent: nobody else is in the room yet; wait for peer-joined"}
	}
	for _, s := range r.seats {
		if s == c.seat || c.to != "" && s.id != c.to {
			continue
		}
		s.ring.pushRelayed(item{envelope: c.envelope, slot: c.seat.slot, at: c.at})
		s.wake()
		if c.kind == KindAnswer && !s.offeredAt.IsZero() {
			r.hub.metrics.answered.Observe(time.Since(s.offeredAt).Seconds())
			s.offeredAt = time.Time{}
		}
	}
	if c.kind == KindOffer {
		c.seat.offeredAt = time.Now()
	}
	return nil
}

// A refused is a message of a seated client that is not handled beyond an error in answer.
type refused struct {
	seat *seat
	gen  uint64
	kind Kind
	err  *refusal
}

func (c refused) apply(r *Room) {
	if !c.seat.acts(c.gen) {
		return
	}
	// What is refused counts as handled, or the next message would leave a gap. One whose seq
	// could not be read cannot count.
	counted := c.err.seq != 0 && !c.kind.uncounted()
	if counted && !r.counts(c.seat, c.gen, c.err.seq, c.err.kind) {
		return
	}
	r.refuse(c.seat, c.err)
	if counted {
		r.oweAck(c.seat)
	}
}

func (r *Room) refuse(s *seat, err *refusal) {
	r.hub.metrics.refused(err.err)
	r.tell("error", s, FailureOf(err.err).Code)
	s.answer(errorEnvelope(err))
}

// counts reports whether a message of connection gen is to be handled now: it is not when the
// connection may not act any more, nor when the message was handled before. kind is its type's name.
//
// After true the ack is owed, once what became of the message is in the ring: no ack comes before an error.
func (r *Room) counts(s *seat, gen, seq uint64, kind string) bool {
	if !s.acts(gen) {
		return false
	}
	if !s.session {
		return true
	}
	switch {
	case seq == s.received+1:
		s.received++
		s.progressed = true
		return true
	case seq <= s.received:
		r.oweAck(s) // it must have missed ours
		return false
	}
	r.outOfSync(s, kind, seq, fmt.Sprintf("seq %d came after %d: messages between them are missing; join with a new session", seq, s.received))
	return false
}

// oweAck makes sure that an ack is said after 8 messages or 1 s.
func (r *Room) oweAck(s *seat) {
	if !s.session || s.overflowed { // what did not fit may be the error
		return
	}
	s.owed++
	if s.owed >= ackEvery {
		r.sayAck(s)
	} else if s.ackAt.IsZero() {
		s.ackAt = r.hub.clock.Now().Add(ackAfter)
		r.wakeAt(s.ackAt)
	}
}

func (r *Room) sayAck(s *seat) {
	s.owed, s.ackAt = 0, time.Time{}
	s.ring.oweAck(s.received)
	s.wake()
}

// outOfSync ends a seat whose counters no longer agree with its client's.
func (r *Room) outOfSync(s *seat, kind string, seq uint64, text string) {
	out := s.fence()
	r.end(s, ReasonError)
	out.End(&refusal{err: ErrOutOfSync, kind: kind, seq: seq, text: text})
}

// ---- ack, leave, lost

// An acknowledge says what the client has handled.
type acknowledge struct {
	seat     *seat
	gen      uint64
	received uint64
}

func (c acknowledge) apply(r *Room) {
	s := c.seat
	if !s.acts(c.gen) {
		return
	}
	before := s.ring.acked
	if !s.ring.acknowledge(c.received) {
		r.outOfSync(s, "ack", 0, fmt.Sprintf("received %d is below what you acknowledged (%d) or above what was sent; join with a new session", c.received, before))
		return
	}
	if c.received > before {
		s.progressed = true
	}
}

// A leave gives the seat up; the connection stays.
type leave struct {
	seat  *seat
	gen   uint64
	seq   uint64
	reply func(left bool) // whether the seat is given up; must not block
}

func (c leave) apply(r *Room) {
	s := c.seat
	if !r.counts(s, c.gen, c.seq, "leave") {
		c.reply(false)
		return
	}
	r.oweAck(s)
	s.ring.pushLast(leftEnvelope(r.ID))
	r.remove(s, ReasonLeft)
	c.reply(true) // the connection takes what is left in the ring
}

// A lost is the end of a connection.
type lost struct {
	seat   *seat
	gen    uint64
	ending Ending
}

func (c lost) apply(r *Room) {
	s := c.seat
	if !s.acts(c.gen) {
		return // a late goodbye of a replaced connection
	}
	s.fence()
	now := r.hub.clock.Now()
	switch {
	case !s.session || c.ending == EndLeft || c.ending == EndViolation:
		r.end(s, c.ending.freed())
	case s.lapsed(now):
		r.end(s, ReasonError)
	default:
		grace := r.hub.cfg.Grace
		if c.ending == EndGoingAway {
			grace = min(grace, goingAwayGrace)
		}
		s.awayUntil = now.Add(grace)
		s.owed, s.ackAt = 0, time.Time{}
		r.wakeAt(s.awayUntil)
		r.hub.metrics.seatAway()
		r.tell("away", s, "")
		r.sayToOthers(s, peerEnvelope("peer-away", s.id, ""))
	}
}

// A closing ends all seats, and so the room, for cause.
type closing struct{ cause error }

func (c closing) apply(r *Room) { r.endAll(c.cause) }

// ---- time

// wakeAt makes sure that tick is called at t.
func (r *Room) wakeAt(t time.Time) {
	if !r.timerAt.IsZero() && !t.Before(r.timerAt) {
		return
	}
	r.timerAt = t
	wait := t.Sub(r.hub.clock.Now())
	if r.timer == nil {
		r.timer = time.AfterFunc(wait, func() { r.post(timeUp{}) })
	} else {
		r.timer.Reset(wait)
	}
}

// A timeUp is the timer's.
type timeUp struct{}

func (timeUp) apply(r *Room) { r.tick(r.hub.clock.Now()) }

// tick does what is due at now and sets the timer for the next.
func (r *Room) tick(now time.Time) {
	r.timerAt = time.Time{}
	if !r.recoverUntil.IsZero() && !now.Before(r.recoverUntil) {
		r.recovered()
	}
	for _, s := range slices.Clone(r.seats) {
		if s.away() && !now.Before(s.awayUntil) {
			if s.quietly {
				r.awayAfterMove(s)
			} else {
				r.end(s, ReasonTimeout)
			}
			continue
		}
		if !s.ackAt.IsZero() && !now.Before(s.ackAt) {
			r.sayAck(s)
		}
		if !s.away() && !s.renewAt.IsZero() && !now.Before(s.renewAt) {
			var servers []byte
			servers, s.renewAt = r.mintICE(s)
			s.say(iceServersEnvelope(servers))
		}
	}
	if !r.recoverUntil.IsZero() {
		r.wakeAt(r.recoverUntil)
	}
	for _, s := range r.seats {
		if s.away() {
			r.wakeAt(s.awayUntil)
		}
		if !s.ackAt.IsZero() {
			r.wakeAt(s.ackAt)
		}
		if !s.away() && !s.renewAt.IsZero() {
			r.wakeAt(s.renewAt)
		}
	}
}

// ---- seats

func (r *Room) sayToOthers(s *seat, envelope []byte) {
	for _, other := range r.seats {
		if other != s {
			other.say(envelope)
		}
	}
}

// end frees a seat whose connection, if it has one, gets nothing more from it.
func (r *Room) end(s *seat, reason Reason) {
	s.ring.discard()
	r.remove(s, reason)
}

// remove frees a seat and tells the others why.
func (r *Room) remove(s *seat, reason Reason) {
	i := slices.Index(r.seats, s)
	if i < 0 {
		return
	}
	r.seats = slices.Delete(r.seats, i, i+1)
	r.retire(s)
	r.tell("left", s, string(reason))
	for _, other := range r.seats {
		other.ring.disown(s.slot)
		other.say(peerLeftEnvelope(s.id, reason))
	}
}

// retire books a seat out: no connection acts for it again.
func (r *Room) retire(s *seat) {
	r.hub.metrics.seatFreed(s.away() && !s.quietly)
	r.hub.seats.Add(-1)
	s.out, s.gen = nil, 0
}

// endOverflowed ends the seats for which an event did not fit. Ending one is an event to the
// others, so it goes on until all fit.
func (r *Room) endOverflowed() {
	for {
		i := slices.IndexFunc(r.seats, func(s *seat) bool { return s.overflowed })
		if i < 0 {
			return
		}
		s := r.seats[i]
		out := s.fence()
		r.end(s, ReasonOverflow)
		if out != nil {
			out.End(ErrTooSlow)
		}
	}
}

func (r *Room) seatOf(key sessionHash) *seat {
	for _, s := range r.seats {
		if s.session && subtle.ConstantTimeCompare(s.key[:], key[:]) == 1 {
			return s
		}
	}
	return nil
}
