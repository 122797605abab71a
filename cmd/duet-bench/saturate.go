package main

import "time"

// A load is what one measured window came to.
type load struct {
	wall     time.Duration
	cpu      time.Duration // of the server
	others   time.Duration // CPU time of all that is not part of the measurement, on its two cores
	messages uint64        // relayed: received by the other side
}

// perSecond is the relayed messages in a second.
func (l load) perSecond() float64 { return float64(l.messages) / l.wall.Seconds() }

// cpuPerMessage is in microseconds.
func (l load) cpuPerMessage() float64 {
	return float64(l.cpu.Nanoseconds()) / 1e3 / float64(l.messages)
}

// busy is the share of one core that the server used.
func (l load) busy() float64 { return l.cpu.Seconds() / l.wall.Seconds() }

// A meter reads two clocks: the CPU time that the server has used, and what all other processes have
// used on the cores of the measurement.
type meter func() (cpu, others time.Duration)

// A window is how long a load runs before it is measured, and for how long that is done, how many
// times in a row (0 = once). Several short windows of which the median counts bear more disturbance
// than a long one.
type window struct {
	warm, measured time.Duration
	count          int
}

func (w window) times() int { return max(1, w.count) }

// lasts is how long the load runs in all.
func (w window) lasts() time.Duration { return w.warm + time.Duration(w.times())*w.measured }

// saturate keeps inFlight candidates under way until w is over, then checks that each arrived once
// and in order. Each arrival sends the next: from the same sender, or with rotate from each of the
// swarm's connections in turn.
func (s *swarm) saturate(inFlight int, rotate bool, w window, m meter) ([]load, error) {
	turn, sending := 0, true
	sendNext := func() {
		s.conns[turn].send(candidate)
		turn = (turn + 1) % len(s.conns)
	}
	s.onRelayed = func(c *conn, _ uint64) {
		switch {
		case !sending:
		case rotate:
			sendNext()
		default:
			c.peer.send(candidate)
		}
	}
	for range inFlight {
		sendNext()
	}
	s.flush()
	if err := s.pollFor(w.warm); err != nil {
		return nil, err
	}
	var loads []load
	began := s.mark(m)
	for range w.times() {
		if err := s.pollFor(w.measured); err != nil {
			return nil, err
		}
		now := s.mark(m)
		loads = append(loads, now.since(began))
		began = now
	}
	sending = false
	return loads, s.settle()
}

// burst is saturate for each connection's first `each` messages instead of a time: what a server
// with a limit on messages lets through. It returns how long that took.
func (s *swarm) burst(inFlight, each int) (time.Duration, error) {
	goal := s.received + uint64(each*len(s.conns))
	left := make([]int, len(s.conns))
	send := func(c *conn) {
		if left[c.id] > 0 {
			left[c.id]--
			c.send(candidate)
		}
	}
	s.onRelayed = func(c *conn, _ uint64) { send(c.peer) }
	began := time.Now()
	for _, c := range s.conns {
		left[c.id] = each
		for range inFlight {
			send(c)
		}
	}
	s.flush()
	err := s.until("relaying", patience, func() bool { return s.received == goal })
	return time.Since(began), err
}

// A mark is the state at one end of a window.
type mark struct {
	at          time.Time
	cpu, others time.Duration
	received    uint64
}

func (s *swarm) mark(m meter) mark {
	cpu, others := m()
	return mark{time.Now(), cpu, others, s.received}
}

func (m mark) since(o mark) load {
	return load{wall: m.at.Sub(o.at), cpu: m.cpu - o.cpu, others: m.others - o.others, messages: m.received - o.received}
}
