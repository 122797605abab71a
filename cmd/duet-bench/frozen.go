package main

import (
	"errors"
	"time"
)

const (
	// bulkEvery is the time between two 16 KB messages to the reader that may have stopped.
	bulkEvery = 20 * time.Millisecond
	// stuckAfter is how long a server may read nothing of a sender before all its buffers count as full.
	stuckAfter = 250 * time.Millisecond
)

// frozen measures the p99 of busy rooms beside one more room, where one side sends 16 KB messages and
// the other reads them, or has stopped reading and stays connected. The load on the server is the same
// or less with a frozen reader; what differs is who has to wait. Both are measured in turn in one
// process, in pairs of short windows whose order alternates, so that whatever else changes in the
// meantime changes both; what counts is the median of the pairs' ratios. Pairs that other processes
// disturbed are made up for, up to as many again.
func (t *trial) frozen() error {
	return t.loaded(t.FrozenRooms, func(srv *server, s *swarm) error {
		busy := s.conns
		quiet := 0
		for pair := 0; quiet < t.FrozenPairs && pair < 2*t.FrozenPairs; pair++ {
			var p99 [2]float64
			var disturbed [2]bool
			for turn := range p99 {
				still := (pair + turn) % 2
				w, err := t.beside(srv, s, busy, still == 1)
				if err != nil {
					return err
				}
				p99[still], disturbed[still] = w.p99(), t.judgePace(w)
			}
			t.note("flowing", p99[0], disturbed[0])
			t.note("frozen", p99[1], disturbed[1])
			t.note("held", p99[1]/p99[0], disturbed[0] || disturbed[1])
			if !disturbed[0] && !disturbed[1] {
				quiet++
			}
		}
		return nil
	})
}

// beside measures one window of the busy rooms while a room is added, used, and cut off again. Where
// its reader is still, the buffers before it are filled first; how long it stays so is well below the
// server's write timeout of 10 s.
func (t *trial) beside(srv *server, s *swarm, busy []*conn, still bool) (paced, error) {
	sender, reader, err := s.sidePair()
	if err != nil {
		return paced{}, err
	}
	var refusals uint64
	s.onRefused = func(c *conn, code string) {
		refusals++
		if c != sender {
			s.fail(c, errors.New(code))
		}
	}
	if still {
		reader.frozen = true
		if err := s.clog(sender, func() bool { return refusals > 0 }); err != nil {
			return paced{}, err
		}
	}
	bulky := func() {
		if len(sender.out) == 0 { // a relay that waits for the reader has stopped reading the sender
			sender.send(bulk)
		}
	}
	windows, err := pace{members: busy, rate: t.Rate, window: t.plan.frozen, every: bulkEvery, aside: bulky}.run(s, srv.meter)
	if err == nil && !still {
		err = s.until("16 KB messages that were neither delivered nor refused", patience, func() bool {
			return reader.received-reader.missed+refusals == sender.sent
		})
	}
	if err != nil {
		return paced{}, err
	}
	s.cut(sender)
	s.cut(reader)
	return windows[0], nil
}

// sidePair adds one room whose second connection has a small receive buffer.
func (s *swarm) sidePair() (sender, reader *conn, err error) {
	sender, reader = s.pair()
	reader.small, reader.gaps = true, true
	goal := s.seats + 2
	for _, c := range []*conn{sender, reader} {
		if err := s.dial(c); err != nil {
			return nil, nil, err
		}
	}
	return sender, reader, s.until("joining", patience, func() bool { return s.seats == goal })
}

// clog sends until the server refuses, or until it has stopped reading the sender: every buffer before
// the frozen reader is full. It sends less at a time than a server may hold for one reader (256 KiB),
// so that a refusal means just that.
func (s *swarm) clog(sender *conn, refused func() bool) error {
	moved := time.Now()
	return s.until("filling the frozen reader's buffers", patience, func() bool {
		if len(sender.out) == 0 {
			moved = time.Now()
		}
		for i := 0; i < 4 && len(sender.out) == 0; i++ {
			sender.send(bulk)
			s.flush()
		}
		return refused() || time.Since(moved) > stuckAfter
	})
}

// cut ends a connection without a word.
func (s *swarm) cut(c *conn) {
	s.net.close(c)
	c.state, c.out = closed, nil
}
