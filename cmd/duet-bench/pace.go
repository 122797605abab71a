package main

import (
	"slices"
	"time"
)

// A pace is a fixed rate of candidates over members, one after the other.
type pace struct {
	members []*conn
	rate    int // messages a second, of all members together
	window  window
	every   time.Duration // between two calls of aside; 0 = none
	aside   func()        // what else happens meanwhile
}

// run sends on schedule whatever the server does (an open loop), and returns the time from when each
// message of the measured window was due to when it arrived, so that a stall is not hidden by
// messages that were held back during it.
func (p pace) run(s *swarm, m meter) ([]time.Duration, load, error) {
	step := time.Second / time.Duration(p.rate)
	first, total := int(p.window.warm/step), int((p.window.warm+p.window.measured)/step)
	base := make([]uint64, len(s.conns))            // sent before, by connection
	place := slices.Repeat([]int{-1}, len(s.conns)) // in members
	for i, c := range p.members {
		base[c.id], place[c.id] = c.sent, i
	}
	latencies := make([]time.Duration, 0, total-first)
	var arrived int
	start := time.Now()
	s.onRelayed = func(c *conn, n uint64) {
		from := c.peer
		if place[from.id] < 0 {
			return
		}
		arrived++
		if i := int(n-base[from.id]-1)*len(p.members) + place[from.id]; i >= first {
			latencies = append(latencies, time.Since(start)-time.Duration(i)*step)
		}
	}
	var began mark
	aside := p.every
	for i := 0; i < total; {
		now := time.Since(start)
		for ; i < total && time.Duration(i)*step <= now; i++ {
			if i == first {
				began = s.mark(m)
			}
			p.members[i%len(p.members)].send(candidate)
			s.flush()
		}
		if p.aside != nil && now >= aside {
			aside += p.every
			p.aside()
			s.flush()
		}
		if err := s.net.poll(max(0, time.Duration(i)*step-time.Since(start))); err != nil {
			return nil, load{}, err
		}
		if s.err != nil {
			return nil, load{}, s.err
		}
	}
	l := s.mark(m).since(began)
	err := s.until("waiting for messages on their way", patience, func() bool { return arrived == total })
	return latencies, l, err
}
