package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"
)

// A placement is where the two of each room are connected, and which node runs their room.
type placement struct {
	key, title string
	nodes      int
	servers    int // of NATS
	homes      [2]int
	away       bool // the first one claims the room at its home, then goes to the other's
}

var placements = []placement{
	{key: "alone", title: "no cluster", nodes: 1},
	{key: "local", title: "one node", nodes: 2, servers: 1},
	{key: "remote", title: "two nodes", nodes: 2, servers: 1, homes: [2]int{0, 1}},
	{key: "away", title: "one node, room on another", nodes: 2, servers: 1, homes: [2]int{0, 1}, away: true},
	{key: "nats", title: "bare NATS", servers: 1},
}

// A clusterTrial is one variant of the cluster mode.
type clusterTrial struct {
	keys []string
	run  func(t *trial) error
}

// clusterTrials are the variants of the cluster mode.
var clusterTrials = makeClusterTrials()

var (
	hopFigures      = []string{"p50", "p99", "late", "cpu", "cpu-nats", "relay", "full-cpu", "full-nats"}
	joinFigures     = []string{"joins", "join-cpu", "join-nats"}
	drainFigures    = []string{"moves", "stay", "come-half", "come"}
	takeoverFigures = []string{"first", "half", "all"}
)

// joinServers are the numbers of NATS servers under joins; 0 is no cluster.
var joinServers = []int{0, 1, 3}

// A departure is the end of a node that runs rooms. It spreads their moves over two fifths of the time
// that it has, and stops when nine tenths are over.
type departure struct {
	rooms  int
	within time.Duration // DUET_DRAIN
}

var departures = []departure{{500, time.Second}, {2000, 4 * time.Second}, {2000, 10 * time.Second}}

func (d departure) key() string { return fmt.Sprintf("%d-%v", d.rooms, d.within) }
func (d departure) title() string {
	return fmt.Sprintf("%s rooms, DUET_DRAIN=%v", number(float64(d.rooms), 0), d.within)
}

func makeClusterTrials() (list []clusterTrial) {
	for _, p := range placements {
		list = append(list, clusterTrial{clusterKeys(p.key, hopFigures...), func(t *trial) error { return t.hop(p) }})
	}
	for _, p := range placements[:3] {
		list = append(list, clusterTrial{clusterKeys(p.key, "idle"), func(t *trial) error { return t.idle(p) }})
	}
	for _, servers := range joinServers {
		list = append(list, clusterTrial{clusterKeys(fmt.Sprint(servers), joinFigures...), func(t *trial) error { return t.claims(servers) }})
	}
	for _, d := range departures {
		list = append(list, clusterTrial{clusterKeys(d.key(), drainFigures...), func(t *trial) error { return t.depart(d) }})
	}
	keys := append(clusterKeys("at-once", takeoverFigures...), clusterKeys("backoff", takeoverFigures...)...)
	return append(list, clusterTrial{keys, (*trial).takeover})
}

// clusterKeys are the names of figures in one column.
func clusterKeys(column string, figures ...string) []string {
	var list []string
	for _, f := range figures {
		list = append(list, clusterKey(f, column))
	}
	return list
}

func clusterKey(figure, column string) string { return "cluster-" + figure + "/" + column }

func clusterVariants(*plan) []int {
	list := make([]int, len(clusterTrials))
	for i := range list {
		list[i] = i
	}
	return list
}

// cluster runs one of clusterTrials.
func (t *trial) cluster() error { return clusterTrials[t.variant].run(t) }

// placed starts what p needs, and has its clients ready to be seated.
func (t *trial) placed(p placement, use func(f *fleet, s *swarm) error) error {
	f, err := t.fleet(p.nodes, p.servers)
	if err != nil {
		return err
	}
	defer f.stop()
	var d dialect = duet{path: "/ws", session: true, keeps: true}
	if p.nodes == 0 {
		d = natsWire{}
	}
	s, err := f.swarm(t.ctx, d)
	if err != nil {
		return err
	}
	defer s.net.shut()
	s.homes = p.homes
	return use(f, s)
}

// place seats n rooms as p says. The first one of each claims it.
func (s *swarm) place(n int, p placement) error {
	var first, second []*conn
	for range n {
		a, b := s.pair()
		first, second = append(first, a), append(second, b)
	}
	if err := s.seat(first, dialsAtOnce); err != nil {
		return err
	}
	if err := s.seat(second, dialsAtOnce); err != nil || !p.away {
		return err
	}
	return s.rehome(first, p.homes[1])
}

// rehome has clients leave and join their rooms again at another node.
func (s *swarm) rehome(all []*conn, home int) error {
	out := 0
	s.onLeft = func(c *conn) { c.finish() }
	s.onClosed = func(*conn) { out++ }
	defer func() { s.onLeft, s.onClosed = nil, nil }()
	for _, c := range all {
		s.d.leave(c)
	}
	s.flush()
	if err := s.until("leaving", patience, func() bool { return out == len(all) }); err != nil {
		return err
	}
	for _, c := range all {
		c.renew()
		c.home = home
	}
	return s.seat(all, dialsAtOnce)
}

// hop measures a message's way: its time and its CPU time at a fixed rate far below saturation, and its
// CPU time at saturation.
func (t *trial) hop(p placement) error {
	return t.placed(p, func(f *fleet, s *swarm) error {
		if err := s.place(t.Pairs, p); err != nil {
			return err
		}
		note := func(figure string, value float64, disturbed bool) {
			t.note(clusterKey(figure, p.key), value, disturbed)
		}
		windows, err := pace{members: s.conns, rate: t.ClusterRate, window: t.hops}.run(s, f.meter)
		if err != nil {
			return err
		}
		for i, w := range windows {
			disturbed := t.judgePace(w)
			note("p50", microseconds(quantile(w.took, 0.50)), disturbed)
			note("p99", w.p99(), disturbed)
			note("late", microseconds(quantile(w.late, 0.99)), disturbed)
			note("cpu", w.cpuPerMessage(), disturbed)
			note("cpu-nats", microseconds(f.between(i))/float64(w.messages), disturbed)
		}
		f.use = nil
		loads, err := s.saturate(2*t.Pairs*t.InFlight, false, t.hops, f.meter)
		for i, l := range loads {
			disturbed := t.judge(l, false)
			note("relay", l.perSecond(), disturbed)
			note("full-cpu", l.cpuPerMessage(), disturbed)
			note("full-nats", microseconds(f.between(i))/float64(l.messages), disturbed)
		}
		return err
	})
}

// idle measures the memory of connections that do nothing, in all duets together.
func (t *trial) idle(p placement) error {
	return t.placed(p, func(f *fleet, s *swarm) error {
		before, err := f.resident()
		if err != nil {
			return err
		}
		if err := s.place(t.Idle/2, p); err != nil {
			return err
		}
		if err := s.pollFor(t.rest); err != nil {
			return err
		}
		after, err := f.resident()
		t.note(clusterKey("idle", p.key), float64(after-before)/1024/float64(t.Idle), false)
		return err
	})
}

// claims measures joins that each claim a room of their own.
func (t *trial) claims(servers int) error {
	p := placement{key: fmt.Sprint(servers), nodes: 1, servers: servers}
	return t.placed(p, func(f *fleet, s *swarm) error {
		var first []*conn
		for range t.Claims {
			a, _ := s.pair()
			first = append(first, a)
		}
		began := s.mark(f.meter)
		if err := s.seat(first, dialsAtOnce); err != nil {
			return err
		}
		l := s.mark(f.meter).since(began)
		disturbed := t.judge(l, false)
		each := func(figure string, d time.Duration) {
			t.note(clusterKey(figure, p.key), microseconds(d)/float64(t.Claims), disturbed)
		}
		t.note(clusterKey("joins", p.key), float64(t.Claims)/l.wall.Seconds(), disturbed)
		each("join-cpu", l.cpu)
		each("join-nats", f.between(0))
		return nil
	})
}

// lookAside is how often clients that lost their node look whether their wait is over.
const lookAside = 2 * time.Millisecond

// depart measures the end of a node after SIGTERM. In the first half of its rooms both clients are at the
// other node and go on sending; in the others the first client is at the node that ends, and comes back
// to the other one.
func (t *trial) depart(d departure) error {
	n := d.rooms
	f, err := t.fleet(2, 1, "DUET_DRAIN="+d.within.String())
	if err != nil {
		return err
	}
	defer f.stop()
	s, err := f.swarm(t.ctx, duet{path: "/ws", session: true, keeps: true})
	if err != nil {
		return err
	}
	defer s.net.shut()
	s.homes = [2]int{0, 1}
	if err := s.place(n/2, placement{homes: s.homes, away: true}); err != nil {
		return err
	}
	staying := s.conns
	if err := s.place(n-n/2, placement{}); err != nil {
		return err
	}

	h := newHerd(s, 1)
	lost := make([]time.Time, len(s.conns))
	var gaps []time.Duration // from the loss to the seat, without the client's own waits
	s.onLost = func(c *conn) {
		if lost[c.id].IsZero() {
			lost[c.id] = time.Now()
		}
		h.lost(c)
	}
	s.onJoined = func(c *conn, _ uint64) { gaps = append(gaps, time.Since(lost[c.id])-h.waits[c.id]) }
	signalAt, signaled := time.Now().Add(t.drain.warm+t.drain.measured/4), false
	aside := func() {
		if !signaled && !time.Now().Before(signalAt) {
			signaled = true
			f.nodes[0].cmd.Process.Signal(syscall.SIGTERM)
		}
		if err := h.dial(); err != nil && s.err == nil {
			s.err = err
		}
	}
	windows, err := pace{members: staying, rate: t.ClusterRate, window: t.drain, every: lookAside, aside: aside}.run(s, f.meter)
	moved, took, notMoved := f.nodes[0].handover(d.within) // which may be why messages are missing
	if err := errors.Join(notMoved, err); err != nil {
		return err
	}
	if moved != n {
		return fmt.Errorf("%d rooms moved of %d", moved, n)
	}
	if err := h.until(time.Now().Add(backWithin), func() bool { return len(gaps) == n-n/2 }); err != nil {
		return err
	}
	if len(gaps) != n-n/2 {
		return fmt.Errorf("%d of %d clients of the node that ended were back after %v", len(gaps), n-n/2, backWithin)
	}
	disturbed := t.judge(windows[0].load, false)
	note := func(figure string, value float64) { t.note(clusterKey(figure, d.key()), value, disturbed) }
	note("moves", float64(moved)/took.Seconds())
	note("stay", microseconds(quantile(windows[0].took, 1))/1e3)
	note("come-half", microseconds(quantile(gaps, 0.5))/1e3)
	note("come", microseconds(quantile(gaps, 1))/1e3)
	return s.allSend()
}

// allSend has each client send a message, and waits until all have arrived.
func (s *swarm) allSend() error {
	s.onRelayed = nil
	for _, c := range s.conns {
		c.send(candidate)
	}
	s.flush()
	return s.settle()
}

// atOnce is the wait of clients that do without the protocol's backoff.
const atOnce = 50 * time.Millisecond

// takeover measures how long rooms stand still when their node is killed, with the settings that duet
// ships with: until both clients of a room have their seats at the other node and a message of each has
// reached the other. In every other room clients try again at once; the rest keep to the protocol.
func (t *trial) takeover() error {
	p := placement{nodes: 2, servers: 1, homes: [2]int{0, 1}}
	return t.placed(p, func(f *fleet, s *swarm) error {
		if err := s.place(t.Takeovers, p); err != nil {
			return err
		}
		h := newHerd(s, 1)
		eager := func(c *conn) bool { return c.id/2%2 == 0 }
		h.wait = func(c *conn, try int) time.Duration {
			if eager(c) {
				return atOnce
			}
			return jitter(c, try)
		}
		seated, heard := make([]int, t.Takeovers), make([]int, t.Takeovers)
		again := map[bool][]time.Duration{} // by eager
		rooms := 0
		s.onJoined = func(c *conn, _ uint64) {
			if seated[c.id/2]++; seated[c.id/2] == 2 {
				c.send(candidate)
				c.peer.send(candidate)
			}
		}
		s.onRelayed = func(c *conn, _ uint64) {
			if heard[c.id/2]++; heard[c.id/2] == 2 {
				again[eager(c)] = append(again[eager(c)], time.Since(h.began))
				rooms++
			}
		}
		began := s.mark(f.meter)
		h.began = time.Now()
		f.nodes[0].cmd.Process.Kill()
		if err := h.until(h.began.Add(backWithin), func() bool { return rooms == t.Takeovers }); err != nil {
			return err
		}
		if rooms < t.Takeovers {
			return fmt.Errorf("%d of %d rooms relayed again %v after their node's end", rooms, t.Takeovers, backWithin)
		}
		disturbed := t.judge(s.mark(f.meter).since(began), false)
		for column, took := range map[string][]time.Duration{"at-once": again[true], "backoff": again[false]} {
			for i, q := range []float64{0, 0.5, 1} {
				t.note(clusterKey(takeoverFigures[i], column), quantile(took, q).Seconds(), disturbed)
			}
		}
		return nil
	})
}

// ---- tables

// A clusterTable has figures of the cluster mode side by side.
type clusterTable struct {
	head    string
	columns []column
	rows    []metric
}

type column struct{ key, title string }

func clusterTables(p *plan) []clusterTable {
	hops := clusterTable{head: "both clients on", rows: []metric{
		{"p50", fmt.Sprintf("µs at %s messages/s, p50", number(float64(p.ClusterRate), 0)), 0},
		{"p99", fmt.Sprintf("µs at %s messages/s, p99", number(float64(p.ClusterRate), 0)), 0},
		{"late", "… of which the load generator's own, p99", 1},
		{"cpu", "CPU µs per message at that rate, all duets", 1},
		{"cpu-nats", "… and NATS", 1},
		{"full-cpu", "CPU µs per message at saturation, all duets", 2},
		{"full-nats", "… and NATS", 2},
		{"relay", "messages/s at saturation, everything on one core", 0},
		{"idle", "KB per idle connection, all duets", 1},
	}}
	for _, place := range placements {
		hops.columns = append(hops.columns, column{place.key, place.title})
	}
	joins := clusterTable{head: "each join a new room", rows: []metric{
		{"joins", "connections and joins/s, everything on one core", 0},
		{"join-cpu", "CPU µs of the duet for each", 0},
		{"join-nats", "CPU µs of all NATS servers for each", 0},
	}}
	for _, servers := range joinServers {
		title := map[int]string{0: "no cluster", 1: "1 NATS server"}[servers]
		if title == "" {
			title = fmt.Sprintf("%d NATS servers, as many replicas", servers)
		}
		joins.columns = append(joins.columns, column{fmt.Sprint(servers), title})
	}
	drain := clusterTable{head: "SIGTERM to a node that runs", rows: []metric{
		{"moves", "rooms moved a second", 0},
		{"stay", "ms, the longest message where both clients are on the other node", 0},
		{"come-half", "ms from a connection's end to the seat on the other node, the client's wait left out, median", 0},
		{"come", "… the longest", 0},
	}}
	for _, d := range departures {
		drain.columns = append(drain.columns, column{d.key(), d.title()})
	}
	takeover := clusterTable{
		head:    "kill -9 of a node: s until a room relays again",
		columns: []column{{"at-once", "clients that try again at once"}, {"backoff", "clients that keep to the protocol's backoff"}},
		rows:    []metric{{"first", "the first room", 1}, {"half", "half of the rooms", 1}, {"all", "every room", 1}},
	}
	return []clusterTable{hops, joins, drain, takeover}
}

// clusterTables writes what was measured of several nodes.
func (r *report) clusterTables(w io.Writer) {
	for _, table := range clusterTables(&r.plan) {
		var body strings.Builder
		for _, row := range table.rows {
			line, measured := "| "+row.title+" |", false
			for _, c := range table.columns {
				key := clusterKey(row.key, c.key)
				measured = measured || r.measured(key)
				line += " " + r.cell(metric{key, row.title, row.decimals}, "duet") + " |"
			}
			if measured {
				fmt.Fprintln(&body, line)
			}
		}
		if body.Len() == 0 {
			continue
		}
		head, rule := "| "+table.head+" |", "|---|"
		for _, c := range table.columns {
			head += " " + c.title + " |"
			rule += "---|"
		}
		fmt.Fprintf(w, "%s\n%s\n%s\n", head, rule, body.String())
	}
}
