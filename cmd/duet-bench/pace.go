package main

import (
	"runtime/debug"
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

// A paced is one measured window of a pace.
type paced struct {
	load
	took []time.Duration // of each message, from just before it was sent to when it was read
	late []time.Duration // of each message, from when it was due to when it was sent: the generator's own part
}

// p99 is that of the messages, in microseconds.
func (w paced) p99() float64 { return microseconds(quantile(w.took, 0.99)) }

// run sends on schedule whatever the server does (an open loop). A message is timed from the moment
// it was sent: nothing that the server does can put that off, so no stall is hidden, and what the
// generator itself was late is told apart.
func (p pace) run(s *swarm, m meter) ([]paced, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // little is allocated here, and a collection is a stall
	step := time.Second / time.Duration(p.rate)
	first, each := int(p.window.warm/step), int(p.window.measured/step)
	windows := make([]paced, p.window.times())
	total := first + each*len(windows)
	for i := range windows {
		windows[i].took, windows[i].late = make([]time.Duration, 0, each), make([]time.Duration, 0, each)
	}
	sent := make([]time.Duration, total)            // when, since start
	base := make([]uint64, len(s.conns))            // sent before, by connection
	place := slices.Repeat([]int{-1}, len(s.conns)) // in members
	for i, c := range p.members {
		base[c.id], place[c.id] = c.sent, i
	}
	var arrived int
	start := time.Now()
	s.onRelayed = func(c *conn, n uint64) {
		from := c.peer
		if from.id >= len(place) || place[from.id] < 0 {
			return
		}
		arrived++
		if i := int(n-base[from.id]-1)*len(p.members) + place[from.id]; i >= first {
			w := &windows[(i-first)/each]
			w.took = append(w.took, time.Since(start)-sent[i])
		}
	}
	var marks []mark
	aside := p.every
	for i := 0; i < total; {
		now := time.Since(start)
		for ; i < total && time.Duration(i)*step <= now; i++ {
			if i >= first && (i-first)%each == 0 {
				marks = append(marks, s.mark(m))
			}
			sent[i] = time.Since(start)
			p.members[i%len(p.members)].send(candidate)
			s.flush()
		}
		if p.aside != nil && now >= aside {
			aside += p.every
			p.aside()
			s.flush()
		}
		if err := s.net.poll(max(0, time.Duration(i)*step-time.Since(start))); err != nil {
			return nil, err
		}
		if s.err != nil {
			return nil, s.err
		}
	}
	marks = append(marks, s.mark(m))
	for i := range windows {
		w := &windows[i]
		w.load = marks[i+1].since(marks[i])
		for k := first + i*each; k < first+(i+1)*each; k++ {
			w.late = append(w.late, sent[k]-time.Duration(k)*step)
		}
	}
	return windows, s.until("waiting for messages on their way", patience, func() bool { return arrived == total })
}
