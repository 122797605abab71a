package main

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// The clients' backoff (docs/protocol.md, section 7): the n-th wait is random between 0 and
// min(backoffLimit, backoffStart·2ⁿ). Every system's clients keep to it.
const (
	backoffStart = 500 * time.Millisecond
	backoffLimit = 15 * time.Second
)

// backoff is the wait before try n, from 0, for random in [0, 1).
func backoff(n int, random float64) time.Duration {
	return time.Duration(random * float64(min(backoffLimit, backoffStart<<min(n, 10))))
}

// backWithin is how long clients may take to come back.
const backWithin = 90 * time.Second

// A herd is clients that have lost their server and come back one by one.
type herd struct {
	s       *swarm
	waiting []retry         // by time
	tries   []int           // connections since the loss, by client
	waits   []time.Duration // that the client chose itself, by client
	back    []time.Duration // from began to each client's seat
	began   time.Time
	wait    func(c *conn, try int) time.Duration
	home    int // where clients come back to
}

// newHerd is of clients of s that are about to lose their server, and go to home then.
func newHerd(s *swarm, home int) *herd {
	h := &herd{s: s, home: home, tries: make([]int, len(s.conns)), waits: make([]time.Duration, len(s.conns)), began: time.Now(), wait: jitter}
	s.onLost, s.onJoined = h.lost, h.joined
	return h
}

// jitter is the protocol's wait. A client's waits are the same in every system and run.
func jitter(c *conn, try int) time.Duration {
	return backoff(try, rand.New(rand.NewPCG(uint64(c.id), uint64(try))).Float64())
}

// A retry is one client's next try to connect.
type retry struct {
	at time.Time
	c  *conn
}

// restart measures a server that is killed with all its clients connected, and started again a little
// later on the same address: how long until all are back, and the new process's CPU time for each of
// them. Then each client's message has to reach the other one in its room.
func (t *trial) restart() error {
	sys := *t.sys
	if d, ok := sys.dialect.(duet); ok {
		d.session = true
		sys.dialect = d
	}
	srv, err := sys.start(t.cores, anyPort)
	if err != nil {
		return err
	}
	defer func() { srv.stop() }()
	s, err := srv.swarm(t.ctx)
	if err != nil {
		return err
	}
	defer s.net.shut()
	if err := s.fill(t.Clients/2, dialsAtOnce); err != nil {
		return err
	}
	h := newHerd(s, 0)
	srv.stop()
	if err := h.until(time.Now().Add(t.Down), func() bool { return false }); err != nil {
		return err
	}
	up := make(chan error, 1)
	old := srv
	go func() { // clients go on trying meanwhile
		next, err := sys.start(t.cores, old.addr.String())
		if err == nil {
			srv = next
		}
		up <- err
	}()
	started := func() bool { return len(up) > 0 }
	if err := errors.Join(h.until(time.Now().Add(startTimeout), started), <-up); err != nil {
		return err
	}
	m := s.mark(srv.meter)
	if err := h.until(h.began.Add(backWithin), func() bool { return len(h.back) == t.Clients }); err != nil {
		return err
	}
	l := s.mark(srv.meter).since(m)
	if n := len(h.back); n < t.Clients {
		return fmt.Errorf("%d of %d clients were back %v after the server's end", n, t.Clients, backWithin)
	}
	disturbed := t.judge(l, false)
	t.note("half", quantile(h.back, 0.5).Seconds(), disturbed)
	t.note("back", quantile(h.back, 1).Seconds(), disturbed)
	t.note("return", microseconds(l.cpu)/float64(t.Clients), disturbed)
	s.onLost = nil
	for _, c := range s.conns {
		c.send(candidate)
	}
	s.flush()
	return s.settle()
}

// lost puts a client's next try off.
func (h *herd) lost(c *conn) {
	wait := h.wait(c, h.tries[c.id])
	h.tries[c.id]++
	h.waits[c.id] += wait
	r := retry{time.Now().Add(wait), c}
	i, _ := slices.BinarySearchFunc(h.waiting, r, func(a, b retry) int { return cmp.Or(a.at.Compare(b.at), -1) })
	h.waiting = slices.Insert(h.waiting, i, r)
}

func (h *herd) joined(*conn, uint64) { h.back = append(h.back, time.Since(h.began)) }

// until lets clients come back until done says so or the time is over.
func (h *herd) until(end time.Time, done func() bool) error {
	for h.s.err == nil && !done() && time.Now().Before(end) {
		if err := h.dial(); err != nil {
			return err
		}
		if err := h.s.net.poll(min(5*time.Millisecond, time.Until(end))); err != nil {
			return err
		}
	}
	return h.s.err
}

// dial has those connect whose wait is over.
func (h *herd) dial() error {
	for len(h.waiting) > 0 && !time.Now().Before(h.waiting[0].at) {
		c := h.waiting[0].c
		h.waiting = h.waiting[1:]
		c.renew()
		c.home = h.home
		if err := h.s.dial(c); err != nil {
			return err
		}
	}
	return nil
}
