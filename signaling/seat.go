package signaling

import "time"

// A Reason is why a peer's seat became free (section 3, peer-left).
type Reason string

const (
	ReasonLeft     Reason = "left"
	ReasonTimeout  Reason = "timeout"
	ReasonReplaced Reason = "replaced"
	ReasonKicked   Reason = "kicked"
	ReasonOverflow Reason = "overflow"
	ReasonError    Reason = "error"
)

// An Ending is how a connection ended, which decides what its seat does (section 5).
type Ending uint8

const (
	// Closed on purpose (1000, 1005, 4500-4999 from the client): the seat is free at once.
	EndLeft Ending = iota
	// The page is hidden or gone (1001): the seat is kept for 8 s, since it may be restored.
	EndGoingAway
	// Lost without a fault of the client's: the seat is kept for the grace period.
	EndLost
	// As EndLost, noticed because a ping was not answered.
	EndSilent
	// Closed by the server for what the client did: what broke one connection must not come back
	// with a resume, so the seat is free at once.
	EndViolation
)

// goingAwayGrace is how long a hidden page keeps its seat.
const goingAwayGrace = 8 * time.Second

// freed is why the seat of a client without session is free when its connection ends so.
func (e Ending) freed() Reason {
	switch e {
	case EndSilent:
		return ReasonTimeout
	case EndViolation:
		return ReasonError
	}
	return ReasonLeft
}

// An Outlet is a seat's way out: a connection of this process, or one on another node. None of its
// methods may block: they are called by the room's goroutine.
type Outlet interface {
	// Attach gives the outlet a seat's feed. joined is said before anything from it.
	Attach(joined []byte, feed Feed)
	// Wake says that the feed has something.
	Wake()
	// End closes the connection for cause, one of this package's sentinels.
	End(cause error)
}

// A seat is a peer's place in a room. It outlives its connection if the peer has a session. All
// of it belongs to the room's goroutine, but for the ring, which has a lock of its own.
type seat struct {
	id      PeerID
	name    string
	subject string // Grant.Subject: no other peer is told
	slot    int8   // 0 to capacity-1, unique in the room
	session bool
	key     sessionHash
	ring    *ring

	// Of a connection on another node.
	link    linkID // zero: the connection is one of this process
	turn    uint64 // of its attachment
	handled uint64 // parts of the link's
	resumed bool   // what its joined said

	out     Outlet // nil while away
	gen     uint64 // of the connection that may act for the seat; grows with each
	attempt uint64
	since   uint64 // the attempt by whose joined the client knows of the seat

	received uint64    // the last seq of the client's that was handled
	owed     int       // handled since the last ack
	ackAt    time.Time // when that is to be said; zero = nothing owed

	awayUntil time.Time // zero = connected
	quietly   bool      // since its room moved it has no connection, which nobody was told
	renewAt   time.Time // when it is told new ICE servers; zero = never
	offeredAt time.Time // its last offer that was not answered yet

	// The no-progress backstop (section 5).
	attachedAt time.Time
	back       bool // this connection came back
	progressed bool // something was handled or acknowledged since then
	barren     int  // connections in a row that came back and died early without progress

	overflowed bool // an event did not fit: the room ends the seat after this command
}

const (
	barrenLife  = 2 * time.Second
	barrenLimit = 3
	ackEvery    = 8
	ackAfter    = time.Second
)

func (s *seat) away() bool { return !s.awayUntil.IsZero() }

// acts reports whether connection gen may act for the seat: one that was replaced, or whose seat
// has ended, may not.
func (s *seat) acts(gen uint64) bool { return s.out != nil && s.gen == gen }

// say puts an event of the room into the seat's ring.
func (s *seat) say(envelope []byte) { s.said(s.ring.pushEvent(envelope)) }

// answer puts an error into the seat's ring.
func (s *seat) answer(envelope []byte) { s.said(s.ring.pushError(envelope)) }

func (s *seat) said(ok bool) {
	if ok {
		s.wake()
	} else {
		s.overflowed = true
	}
}

func (s *seat) wake() {
	if s.out != nil {
		s.out.Wake()
	}
}

// fence lets the present connection do nothing more, so that the counters stand still (section 5).
// It returns the connection, nil if there was none.
func (s *seat) fence() Outlet {
	out := s.out
	s.gen++
	s.out = nil
	s.ring.detach()
	return out
}

// lapsed books the end of a connection at now. True means that the seat came back too often
// without anything being handled or acknowledged.
func (s *seat) lapsed(now time.Time) bool {
	if s.back && !s.progressed && now.Sub(s.attachedAt) < barrenLife {
		s.barren++
	} else {
		s.barren = 0
	}
	return s.barren >= barrenLimit
}
