package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// A trial is one run of one mode against one system.
type trial struct {
	*plan
	sys     *system
	variant int
	cores   coreSet
	ctx     context.Context // ends the run
	values  map[string]float64
	remarks map[remark]float64
}

// dialsAtOnce is how many connections are on their way while a swarm is filled.
const dialsAtOnce = 64

// with starts the system, hands it over, and stops it.
func (t *trial) with(use func(srv *server, s *swarm) error) error {
	srv, err := t.sys.start(t.cores)
	if err != nil {
		return err
	}
	defer srv.stop()
	s, err := srv.swarm(t.ctx)
	if err != nil {
		return err
	}
	defer s.net.shut()
	return use(srv, s)
}

// loaded is with, for a load on n full rooms.
func (t *trial) loaded(n int, use func(srv *server, s *swarm) error) error {
	return t.with(func(srv *server, s *swarm) error {
		if err := s.fill(n, dialsAtOnce); err != nil {
			return err
		}
		return use(srv, s)
	})
}

// connect measures what it costs to take a connection in and to keep it: CPU time until all have
// joined, and the growth of resident memory a little later.
func (t *trial) connect() error {
	return t.with(func(srv *server, s *swarm) error {
		before, err := resident(srv.cmd.Process.Pid)
		if err != nil {
			return err
		}
		began := s.mark(srv.meter)
		if err := s.fill(t.Idle/2, dialsAtOnce); err != nil {
			return err
		}
		l := s.mark(srv.meter).since(began)
		t.judge(l, false)
		t.values["join"] = microseconds(l.cpu) / float64(t.Idle)
		if err := s.pollFor(t.rest); err != nil {
			return err
		}
		after, err := resident(srv.cmd.Process.Pid)
		t.values["memory"] = float64(after-before) / 1024 / float64(t.Idle)
		t.values["base"] = float64(before) / 1024 / 1024
		return err
	})
}

// saturate measures how many messages one core relays.
func (t *trial) saturate() error {
	return t.loaded(t.Pairs, func(srv *server, s *swarm) error {
		l, err := s.saturate(2*t.Pairs*t.InFlight, false, t.relay, srv.meter)
		t.values["relay"] = l.perSecond()
		t.judge(l, true)
		return err
	})
}

// judge notes what speaks against the figures of a load: other processes that used more than a
// twentieth of a core, or else, where the server should have been saturated, that it was not.
func (t *trial) judge(l load, saturated bool) {
	others := l.others.Seconds() / l.wall.Seconds()
	switch {
	case others > 0.05:
		t.remarks[notQuiet] = max(t.remarks[notQuiet], others)
	case saturated && l.busy() < 0.95:
		t.remarks[notBusy] = max(t.remarks[notBusy], 1-l.busy())
	}
}

// latency measures the time through the server well below saturation.
func (t *trial) latency() error {
	return t.loaded(t.Pairs, func(srv *server, s *swarm) error {
		took, l, err := pace{members: s.conns, rate: t.Rate, window: t.plan.latency}.run(s, srv.meter)
		t.judge(l, false)
		t.values["p50"] = microseconds(quantile(took, 0.50))
		t.values["p99"] = microseconds(quantile(took, 0.99))
		return err
	})
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// calls measures whole calls, from the first connection to the last close.
func (t *trial) calls() error {
	return t.with(func(srv *server, s *swarm) error {
		r, err := callLoad{atOnce: t.CallsAtOnce, window: t.plan.calls}.run(s, srv.meter)
		t.values["calls"] = float64(r.calls) / r.wall.Seconds()
		t.judge(r.load, true)
		return err
	})
}

// growthInFlight is the number of messages under way in all rooms together when they take turns, each
// from another connection: few enough that no connection of the smallest size has two, which a server
// could handle at the price of one.
const growthInFlight = 200

// grow measures the CPU time of a message among t.variant rooms, twice: at a fixed rate, the same for
// each number of rooms, and at saturation with the rooms taking turns, where each message finds its
// connection out of the processor's caches.
func (t *trial) grow() error {
	return t.loaded(t.variant, func(srv *server, s *swarm) error {
		fixed, turns := growthKeys(t.variant)[0], growthKeys(t.variant)[1]
		_, l, err := pace{members: s.conns, rate: t.GrowthRate, window: t.relay}.run(s, srv.meter)
		if err != nil {
			return err
		}
		t.judge(l, false)
		t.values[fixed] = l.cpuPerMessage()
		l, err = s.saturate(growthInFlight, true, t.relay, srv.meter)
		t.values[turns] = l.cpuPerMessage()
		return err
	})
}

// resumable measures the CPU time of a message with sessions (variant 1) or without (0), under the
// load of the relay mode.
func (t *trial) resumable() error {
	sys := *t.sys
	sys.dialect = duet{path: "/ws", session: t.variant == 1}
	t.sys = &sys
	return t.loaded(t.Pairs, func(srv *server, s *swarm) error {
		l, err := s.saturate(2*t.Pairs*t.InFlight, false, t.relay, srv.meter)
		t.judge(l, false)
		t.values[sessionKey(t.variant)[0]] = l.cpuPerMessage()
		return err
	})
}

// heartbeats measures what idle connections cost, in percent of a core, over one ping interval: in it
// each connection has to get one ping.
func (t *trial) heartbeats() error {
	return t.loaded(t.plan.heartbeats/2, func(srv *server, s *swarm) error {
		s.pings = 0
		began := s.mark(srv.meter)
		if err := s.pollFor(t.heartbeat); err != nil {
			return err
		}
		l := s.mark(srv.meter).since(began)
		t.judge(l, false)
		t.values["heartbeat"] = 100 * l.busy()
		if n, want := float64(s.pings), float64(t.plan.heartbeats); n < 0.9*want || n > 1.1*want {
			return fmt.Errorf("%d pings to %d connections in %v; one each was due", s.pings, t.plan.heartbeats, t.heartbeat)
		}
		return nil
	})
}

// starting measures the time from the start of the process to its first answer on /healthz.
func (t *trial) starting() error {
	took := make([]time.Duration, t.Starts)
	for i := range took {
		began := time.Now()
		srv, err := t.sys.start(t.cores)
		if err != nil {
			return err
		}
		err = srv.healthy()
		took[i] = time.Since(began)
		srv.stop()
		if err != nil {
			return err
		}
	}
	t.values["start"] = microseconds(quantile(took, 0.5)) / 1e3
	return nil
}

// size is that of the binary in MB (10^6 bytes).
func (t *trial) size() error {
	info, err := os.Stat(t.sys.argv[0])
	if err != nil {
		return err
	}
	t.values["size"] = float64(info.Size()) / 1e6
	return nil
}
