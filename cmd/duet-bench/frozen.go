package main

import (
	"errors"
	"time"
)

// bulkEvery is the time between two 16 KB messages to the reader that may have stopped.
const bulkEvery = 20 * time.Millisecond

// frozen measures the p99 of busy rooms beside one more room, where one side sends 16 KB messages and
// the other reads them (variant 0) or has stopped reading (1) and stays connected. The load on the
// server is the same or less with a frozen reader; what differs is who has to wait.
func (t *trial) frozen() error {
	return t.loaded(t.FrozenRooms, func(srv *server, s *swarm) error {
		members := s.conns
		sender, reader, err := s.sidePair()
		if err != nil {
			return err
		}
		var refusals uint64
		s.onRefused = func(c *conn, code string) {
			refusals++
			if c != sender {
				s.fail(c, errors.New(code))
			}
		}
		if t.variant == 1 {
			reader.frozen = true
			if err := s.clog(sender, func() bool { return refusals > 0 }); err != nil {
				return err
			}
		}
		took, l, err := pace{members: members, rate: t.Rate, window: t.plan.latency,
			every: bulkEvery, aside: func() { sender.send(bulk) }}.run(s, srv.meter)
		t.judge(l, false)
		t.values[frozenKey(t.variant)[0]] = microseconds(quantile(took, 0.99))
		if err != nil || reader.frozen {
			return err
		}
		return s.until("16 KB messages that were neither delivered nor refused", patience, func() bool {
			return reader.received-reader.missed+refusals == sender.sent
		})
	})
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

// clog sends until the server refuses: every buffer before the frozen reader is full. It sends less
// at a time than a server may hold for one reader (256 KiB), so that a refusal means just that.
func (s *swarm) clog(sender *conn, refused func() bool) error {
	return s.until("filling the frozen reader's buffers", patience, func() bool {
		for i := 0; i < 4 && len(sender.out) == 0; i++ {
			sender.send(bulk)
			s.flush()
		}
		return refused()
	})
}
