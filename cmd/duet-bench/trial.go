package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// A trial is one run of one mode against one system.
type trial struct {
	*plan
	sys        *system
	variant    int
	cores      coreSet
	ctx        context.Context // ends the run
	profile    string          // the file for the server's CPU profile; "" = none
	profileFor time.Duration   // how long that is taken
	values     map[string][]sample
	remarks    map[remark]float64
}

func newTrial(ctx context.Context, p *plan, sys *system, variant int, cores coreSet) *trial {
	return &trial{plan: p, sys: sys, variant: variant, cores: cores, ctx: ctx,
		values: map[string][]sample{}, remarks: map[remark]float64{}}
}

// note adds one window's figure.
func (t *trial) note(key string, value float64, disturbed bool) {
	t.values[key] = append(t.values[key], sample{value, disturbed})
}

// dialsAtOnce is how many connections are on their way while a swarm is filled.
const dialsAtOnce = 64

// with starts the system, hands it over, and stops it.
func (t *trial) with(use func(srv *server, s *swarm) error) error {
	srv, err := t.sys.start(t.cores, anyPort)
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
		return t.observe(srv, func() error { return use(srv, s) })
	})
}

// observe runs a load, and beside it the server's profiler where a profile is wanted.
func (t *trial) observe(srv *server, load func() error) error {
	if t.profile == "" {
		return load()
	}
	done := make(chan error, 1)
	go func() { done <- srv.profile(t.ctx, t.profile, t.profileFor) }()
	return errors.Join(load(), <-done)
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
		disturbed := t.judge(l, false)
		t.note("join", microseconds(l.cpu)/float64(t.Idle), disturbed)
		if err := s.pollFor(t.rest); err != nil {
			return err
		}
		after, err := resident(srv.cmd.Process.Pid)
		t.note("memory", float64(after-before)/1024/float64(t.Idle), false)
		t.note("base", float64(before)/1024/1024, false)
		return err
	})
}

// saturate measures how many messages one core relays.
func (t *trial) saturate() error {
	return t.loaded(t.Pairs, func(srv *server, s *swarm) error {
		loads, err := s.saturate(2*t.Pairs*t.InFlight, false, t.relay, srv.meter)
		for _, l := range loads {
			t.note("relay", l.perSecond(), t.judge(l, true))
			t.spent(l.cpuPerMessage())
		}
		return err
	})
}

// spent keeps what a unit of work cost the server, in CPU µs, where it is profiled.
func (t *trial) spent(cpu float64) {
	if t.profile != "" {
		t.note(spentKey, cpu, false)
	}
}

const spentKey = "spent"

// tooMuch is the share of a core that other processes may use before a window counts as disturbed.
const tooMuch = 0.05

// judge tells whether other processes disturbed a load, and notes what speaks against its figures:
// that, or else, where the server should have been saturated, that it was not.
func (t *trial) judge(l load, saturated bool) (disturbed bool) {
	others := l.others.Seconds() / l.wall.Seconds()
	switch {
	case others > tooMuch:
		t.remarks[notQuiet] = max(t.remarks[notQuiet], others)
	case saturated && l.busy() < 0.95:
		t.remarks[notBusy] = max(t.remarks[notBusy], 1-l.busy())
	}
	return others > tooMuch
}

// tooLate is how late the load generator may be with one message in a hundred before a window of
// latencies counts as disturbed: what held it up held the server up as well.
const tooLate = 50 * time.Microsecond

// judgePace is judge for latencies.
func (t *trial) judgePace(w paced) (disturbed bool) {
	return t.judge(w.load, false) || quantile(w.late, 0.99) > tooLate
}

// latency measures the time through the server well below saturation.
func (t *trial) latency() error {
	return t.loaded(t.Pairs, func(srv *server, s *swarm) error {
		windows, err := pace{members: s.conns, rate: t.Rate, window: t.plan.latency}.run(s, srv.meter)
		for _, w := range windows {
			disturbed := t.judgePace(w)
			t.note("p50", microseconds(quantile(w.took, 0.50)), disturbed)
			t.note("p99", w.p99(), disturbed)
			t.note("late", microseconds(quantile(w.late, 0.99)), disturbed)
			t.spent(w.cpuPerMessage())
		}
		return err
	})
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// calls measures whole calls, from the first connection to the last close.
func (t *trial) calls() error {
	return t.with(func(srv *server, s *swarm) error {
		return t.observe(srv, func() error {
			r, err := callLoad{atOnce: t.CallsAtOnce, window: t.plan.calls}.run(s, srv.meter)
			t.note("calls", float64(r.calls)/r.wall.Seconds(), t.judge(r.load, true))
			t.spent(microseconds(r.cpu) / float64(r.calls))
			return err
		})
	})
}

// growthInFlight is the number of messages under way in all rooms together when they take turns, each
// from another connection: few enough that no connection of the smallest size has two, which a server
// could handle at the price of one.
const growthInFlight = 200

// grow measures the CPU time of a message among t.variant rooms, twice: at a fixed rate, the same for
// each number of rooms, and at saturation with the rooms taking turns, where each message finds its
// connection out of the processor's caches. Only the first is profiled.
func (t *trial) grow() error {
	return t.loaded(t.variant, func(srv *server, s *swarm) error {
		fixed, turns := growthKeys(t.variant)[0], growthKeys(t.variant)[1]
		windows, err := pace{members: s.conns, rate: t.GrowthRate, window: t.growing}.run(s, srv.meter)
		for _, w := range windows {
			t.note(fixed, w.cpuPerMessage(), t.judge(w.load, false))
			t.spent(w.cpuPerMessage())
		}
		if err != nil || t.profile != "" {
			return err
		}
		loads, err := s.saturate(growthInFlight, true, t.growing, srv.meter)
		for _, l := range loads {
			t.note(turns, l.cpuPerMessage(), t.judge(l, false))
		}
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
		loads, err := s.saturate(2*t.Pairs*t.InFlight, false, t.relay, srv.meter)
		for _, l := range loads {
			t.note(sessionKey(t.variant)[0], l.cpuPerMessage(), t.judge(l, false))
		}
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
		t.note("heartbeat", 100*l.busy(), t.judge(l, false))
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
		srv, err := t.sys.start(t.cores, anyPort)
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
	t.note("start", microseconds(quantile(took, 0.5))/1e3, false)
	return nil
}

// image is the size of the container image in MB (10^6 bytes): that of the binary, to which the
// Dockerfile must add nothing.
func (t *trial) image() error {
	if t.sys.imageFault != nil {
		return t.sys.imageFault
	}
	info, err := os.Stat(t.sys.argv[0])
	if err != nil {
		return err
	}
	t.note("image", float64(info.Size())/1e6, false)
	return nil
}
