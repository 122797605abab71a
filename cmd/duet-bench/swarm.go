package main

import (
	"errors"
	"fmt"
	"time"
)

// A network moves a swarm's bytes. It calls [conn.connected], [swarm.took] and [swarm.gone] from
// within poll, all on the caller's goroutine.
type network interface {
	dial(c *conn) error
	// flush sends c.out, or as much of it as goes; the rest follows from poll.
	flush(c *conn)
	// close ends c at once, without a call of [swarm.gone].
	close(c *conn)
	// poll handles what has arrived, and waits for something at most that long.
	poll(wait time.Duration) error
	// shut ends every connection.
	shut()
}

// A swarm is the clients of one system, two to a room. Not safe for concurrent use.
type swarm struct {
	net   network
	d     dialect
	host  string // the Host header
	run   string // 12 characters that tell this run's rooms and sessions from another's
	homes [2]int // of the first and the second one in a room
	conns []*conn
	dirty []*conn // with something to send
	err   error   // the first failure

	scratch             []byte
	seats               int
	sent, received      uint64
	pings               int                     // heartbeats of the server, answered
	onJoined, onRelayed func(c *conn, n uint64) // a scenario's hooks, may be nil
	onLeft, onClosed    func(c *conn)
	onLost              func(c *conn)              // nil: a connection that the server ends is a failure
	onRefused           func(c *conn, code string) // nil: a refusal is a failure
}

// patience is how long anything may take that should take far less than a second.
const patience = 30 * time.Second

var errPatience = errors.New("not done in time")

func (s *swarm) touch(c *conn) {
	if !c.queued {
		c.queued = true
		s.dirty = append(s.dirty, c)
	}
}

// flush sends what was queued, one write for each connection.
func (s *swarm) flush() {
	for _, c := range s.dirty {
		c.queued = false
		if c.state != closed {
			s.net.flush(c)
		}
	}
	s.dirty = s.dirty[:0]
}

// took handles bytes from the network, then sends what they led to.
func (s *swarm) took(c *conn, data []byte) {
	if err := c.arrived(data); err != nil {
		s.net.close(c)
		s.gone(c, err)
	}
	s.flush()
}

// gone notes that c's connection has ended.
func (s *swarm) gone(c *conn, err error) {
	orderly := c.state == closing
	c.state = closed
	switch {
	case orderly && s.onClosed != nil:
		s.onClosed(c)
	case orderly, c.frozen:
	case s.onLost != nil:
		s.onLost(c)
	case err == nil:
		s.fail(c, errors.New("the server cut the connection"))
	default:
		s.fail(c, err)
	}
}

func (s *swarm) fail(c *conn, err error) {
	if s.err == nil {
		s.err = fmt.Errorf("connection %d: %w", c.id, err)
	}
}

// happened hands an event to the scenario. Relayed messages must come once and in order.
func (s *swarm) happened(c *conn, e event) error {
	switch e.kind {
	case joined:
		if c.seat != "" && c.seat != e.id {
			return fmt.Errorf("came back with the id %s, which was %s before (protocol section 3)", e.id, c.seat)
		}
		c.seat = e.id
		c.state = seated
		s.seats++
		if s.onJoined != nil {
			s.onJoined(c, 0)
		}
	case relayed:
		if e.n != c.received+1 && !(c.gaps && e.n > c.received) {
			return fmt.Errorf("message %d came after message %d: lost, doubled or out of order", e.n, c.received)
		}
		c.missed += e.n - c.received - 1
		c.received = e.n
		s.received++
		if s.onRelayed != nil {
			s.onRelayed(c, e.n)
		}
	case left:
		if s.onLeft != nil {
			s.onLeft(c)
		}
	case refused:
		if s.onRefused == nil {
			return errors.New(e.code)
		}
		s.onRefused(c, e.code)
	}
	return nil
}

// until polls until done says so.
func (s *swarm) until(what string, limit time.Duration, done func() bool) error {
	deadline := time.Now().Add(limit)
	for !done() {
		left := time.Until(deadline)
		if s.err == nil && left <= 0 {
			s.err = fmt.Errorf("%s: %w (%v)", what, errPatience, limit)
		}
		if s.err != nil {
			return s.err
		}
		if err := s.net.poll(min(left, 50*time.Millisecond)); err != nil {
			return err
		}
	}
	return s.err
}

// pollFor polls for d.
func (s *swarm) pollFor(d time.Duration) error {
	for end := time.Now().Add(d); s.err == nil; {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		if err := s.net.poll(left); err != nil {
			return err
		}
	}
	return s.err
}

// pair adds two connections to one new room. It does not dial them.
func (s *swarm) pair() (a, b *conn) {
	room := fmt.Sprintf("bench-%s-%d", s.run, len(s.conns)/2)
	a = &conn{s: s, id: len(s.conns), room: room, fd: -1, home: s.homes[0]}
	b = &conn{s: s, id: a.id + 1, room: room, fd: -1, peer: a, home: s.homes[1]}
	a.peer = b
	s.conns = append(s.conns, a, b)
	return a, b
}

func (s *swarm) dial(c *conn) error {
	c.dialed = time.Now()
	if err := s.net.dial(c); err != nil {
		return fmt.Errorf("connection %d: %w", c.id, err)
	}
	s.flush()
	return nil
}

// fill opens rooms of two, atOnce connections at a time, until n more of them are full.
func (s *swarm) fill(n, atOnce int) error {
	var waiting []*conn
	for range n {
		a, b := s.pair()
		waiting = append(waiting, a, b)
	}
	return s.seat(waiting, atOnce)
}

// seat dials connections, atOnce at a time, until each has its seat.
func (s *swarm) seat(waiting []*conn, atOnce int) error {
	goal := s.seats + len(waiting)
	for len(waiting) > 0 {
		// goal-seats-waiting connections are on their way.
		for len(waiting) > 0 && goal-s.seats-len(waiting) < atOnce {
			if err := s.dial(waiting[0]); err != nil {
				return err
			}
			waiting = waiting[1:]
		}
		before := s.seats
		if err := s.until("joining", patience, func() bool { return s.seats > before }); err != nil {
			return err
		}
	}
	return s.until("joining", patience, func() bool { return s.seats == goal })
}

// settle waits until all that was sent has arrived.
func (s *swarm) settle() error {
	err := s.until("waiting for messages on their way", patience, func() bool { return s.received == s.sent })
	if errors.Is(err, errPatience) {
		return fmt.Errorf("%d messages sent, %d received", s.sent, s.received)
	}
	return err
}
