package main

import (
	"errors"
	"fmt"
	"time"
)

// A call is two connections that set a call up and end it.
type call struct {
	conns [2]*conn
	began time.Time
	seats int // joined
	ready int // connections that have all that the other one sends
	ended int // connections closed
}

// candidatesPerCall is how many each side sends (trickle ICE on a machine with a few addresses).
const candidatesPerCall = 10

// A callLoad runs calls back to back.
type callLoad struct {
	atOnce int
	window window // ends the load unless count does
	count  int    // calls in total; 0 = as many as fit the window
}

// callResult is what the measured window came to.
type callResult struct {
	load
	calls int
	took  []time.Duration // of each call, first connection to last close
}

// caller is the state of one callLoad.
type caller struct {
	callLoad
	s             *swarm
	started, done int
	stopped       bool
	took          []time.Duration
}

// run makes calls and checks that each of them came to its end: both joined, offer and answer, ten
// candidates each way, both left, both closed. Messages go out one by one, as browsers send them.
func (l callLoad) run(s *swarm, m meter) (callResult, error) {
	r := &caller{callLoad: l, s: s}
	s.onJoined, s.onRelayed = r.joined, r.relayed
	s.onLeft, s.onClosed = r.left, r.closed
	for range l.atOnce {
		if err := r.start(); err != nil {
			return callResult{}, err
		}
	}
	if l.count > 0 {
		began := s.mark(m)
		err := s.until("calling", 4*patience, func() bool { return r.done == l.count })
		return callResult{s.mark(m).since(began), r.done, r.took}, err
	}
	if err := s.pollFor(l.window.warm); err != nil {
		return callResult{}, err
	}
	began, before := s.mark(m), r.done
	if err := s.pollFor(l.window.measured); err != nil {
		return callResult{}, err
	}
	res := callResult{s.mark(m).since(began), r.done - before, r.took[before:]}
	r.stopped = true
	err := s.until("ending calls", patience, func() bool { return r.done == r.started })
	if errors.Is(err, errPatience) {
		err = fmt.Errorf("%d calls began, %d ended", r.started, r.done)
	}
	return res, err
}

// start begins one more call, unless there have been enough.
func (r *caller) start() error {
	if r.stopped || r.count > 0 && r.started == r.count {
		return nil
	}
	r.started++
	a, b := r.s.pair()
	cl := &call{conns: [2]*conn{a, b}, began: time.Now()}
	a.call, b.call = cl, cl
	if err := r.s.dial(a); err != nil {
		return err
	}
	return r.s.dial(b)
}

// joined waits for both; the newcomer offers (protocol section 4).
func (r *caller) joined(c *conn, _ uint64) {
	if c.call.seats++; c.call.seats == len(c.call.conns) {
		r.signal(c, offer)
	}
}

// signal sends one side's share: its description and its candidates.
func (r *caller) signal(c *conn, k kind) {
	c.send(k)
	r.s.net.flush(c)
	for range candidatesPerCall {
		c.send(candidate)
		r.s.net.flush(c)
	}
}

func (r *caller) relayed(c *conn, n uint64) {
	if n == 1 && c.sent == 0 {
		r.signal(c, answer)
	}
	if n == 1+candidatesPerCall {
		c.call.ready++
	}
	if c.call.ready < len(c.call.conns) {
		return
	}
	for _, c := range c.call.conns {
		if !r.s.d.leave(c) {
			c.finish()
		}
	}
}

func (r *caller) left(c *conn) { c.finish() }

func (r *caller) closed(c *conn) {
	cl := c.call
	if cl.ended++; cl.ended < len(cl.conns) {
		return
	}
	r.done++
	r.took = append(r.took, time.Since(cl.began))
	for _, c := range cl.conns {
		r.s.conns[c.id] = nil // a long run makes many
	}
	if err := r.start(); err != nil && r.s.err == nil {
		r.s.err = err
	}
}
