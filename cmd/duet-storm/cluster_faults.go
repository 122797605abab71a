package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"duet/cmd/internal/natsproc"
	"duet/httpapi/faultproxy"
)

// What a node is told as it ships: DUET_LEASE, and what a takeover may take beside it.
const (
	lease    = 10 * time.Second
	takeover = lease + time.Second
	natsDown = 8 * time.Second // a killed server, until it is started again
)

// A fault is one row of the table.
type fault struct {
	name string
	// strike does it, and returns when processes and network are whole again but for nodes that have
	// ended: those are started again afterwards.
	strike func(context.Context, *stage) error
	// Where the victim is an edge it owns no room.
	edge bool
	// within bounds the time until everybody has a seat again, the clients' own waits left out; 0 = no bound.
	within time.Duration
	// steps says that the fault goes on for a while, so that a time since its beginning says nothing.
	steps bool
	// upgrade says that there are processes of the next release.
	upgrade bool
	// wires says that each node and each NATS server has a machine of its own.
	wires bool
}

// A stage is what a fault has to do with: the arena and the party of this run.
type stage struct {
	*arena
	party  *party
	run    int   // from 0
	victim *node // owns rooms, or is an edge
}

var faults = []fault{
	{name: "NATS connections of a node cut 20 times", strike: cutOften, steps: true},
	{name: "answers of NATS lost for 3 s", strike: loseAnswers},
	{name: "NATS server killed: the leader of a bucket", strike: killLeader},
	{name: "NATS server killed: no leader", strike: killFollower},
	{name: "NATS quorum stopped for 12 s", strike: stopQuorum},
	{name: "NATS quorum killed for 12 s", strike: killQuorum},
	{name: "NATS quorum stopped for 30 s, a node told to end meanwhile", strike: endWithoutQuorum},
	{name: "edge killed", strike: killEdge, edge: true},
	{name: "edge cut off for 5 s", strike: cutOff(5*time.Second, false), edge: true},
	{name: "edge cut off for 16 s", strike: cutOff(16*time.Second, true), edge: true},
	{name: "owner cut off for 5 s", strike: cutOff(5*time.Second, false)},
	{name: "owner cut off for 9 s (between fence and lease)", strike: cutOff(9*time.Second, true)},
	{name: "owner cut off for 16 s", strike: cutOff(16*time.Second, true)},
	{name: "owner cut off for 16 s, its way to NATS only", strike: cutOff(16*time.Second, true, faultproxy.Up)},
	{name: "owner cut off for 16 s, the way from NATS only", strike: cutOff(16*time.Second, true, faultproxy.Down)},
	{name: "owner stopped for 5 s", strike: stopOwner(5*time.Second, false)},
	{name: "owner stopped for 14 s", strike: stopOwner(14*time.Second, true)},
	{name: "owner stopped for 60 s", strike: stopOwner(60*time.Second, true)},
	{name: "owner killed", strike: killOwner, within: takeover},
	{name: "owner and the leader of a bucket killed", strike: killOwnerAndLeader},
	{name: "rolling restart", strike: restartAll, steps: true},
	{name: "rolling upgrade to the next version, and back", strike: upgradeAll, steps: true, upgrade: true},
	{name: "handover, its giver killed", strike: killGiver},
	{name: "handover, its receiver killed", strike: killReceiver},
	{name: "machines: the owner's cable pulled for 5 s", strike: pull(5*time.Second, false), wires: true},
	{name: "machines: the owner's cable pulled for 16 s", strike: pull(16*time.Second, true), wires: true},
	{name: "machines: what the owner sends vanishes for 16 s", strike: vanish("OUTPUT -o", 16*time.Second), wires: true},
	{name: "machines: what is sent to the owner vanishes for 16 s", strike: vanish("INPUT -i", 16*time.Second), wires: true},
	{name: "machines: one NATS server cut off from the others for 16 s", strike: splitNATS, wires: true},
	{name: "machines: the owner's cable slow, and 1 packet in 20 lost, for 20 s", strike: worsen, steps: true, wires: true},
}

// doom says that the victim's rooms may end, and the victim with them.
func (s *stage) doom(ctx context.Context, victims ...*node) error {
	for _, n := range victims {
		owned, err := s.ownedBy(ctx, n)
		if err != nil {
			return err
		}
		s.party.doom(owned)
		n.mu.Lock()
		n.mayEnd = true
		n.mu.Unlock()
	}
	return nil
}

// rest is a moment drawn at random.
func (s *stage) rest(ctx context.Context, from, to time.Duration) error {
	if !rested(ctx, from+time.Duration(s.random.Float64()*float64(to-from))) {
		return ctx.Err()
	}
	return nil
}

// ---- the way to NATS

func cutOften(ctx context.Context, s *stage) error {
	s.party.begin()
	for range 20 {
		for _, way := range s.victim.ways {
			way.Refuse(true)
		}
		s.victim.cut()
		err := s.rest(ctx, 50*time.Millisecond, 300*time.Millisecond)
		for _, way := range s.victim.ways {
			way.Refuse(false)
		}
		if err != nil {
			return err
		}
		if err := s.rest(ctx, 100*time.Millisecond, time.Second); err != nil {
			return err
		}
	}
	return nil
}

func loseAnswers(ctx context.Context, s *stage) error {
	s.party.begin()
	s.victim.hold(true, faultproxy.Down)
	err := s.rest(ctx, 3*time.Second, 3*time.Second)
	s.victim.cut()
	s.victim.hold(false, faultproxy.Down)
	return err
}

// cutOff takes the way to NATS away, in both directions unless some are named. Where that is longer than
// the fence, its lease may be: then the rooms it has are taken from it, and it ends.
func cutOff(length time.Duration, fatal bool, directions ...faultproxy.Direction) func(context.Context, *stage) error {
	if len(directions) == 0 {
		directions = []faultproxy.Direction{faultproxy.Up, faultproxy.Down}
	}
	return func(ctx context.Context, s *stage) error {
		if fatal {
			if err := s.doom(ctx, s.victim); err != nil {
				return err
			}
		}
		s.party.begin()
		s.victim.hold(true, directions...)
		err := s.rest(ctx, length, length)
		s.victim.hold(false, directions...)
		return errors.Join(err, s.settles(ctx))
	}
}

// settles waits until a node that was cut off or stopped knows what became of it: it is ready, or has ended.
func (s *stage) settles(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !s.victim.ended() && s.victim.get("http://"+s.victim.addr+"/readyz", nil) != nil {
		if !rested(ctx, lookAgain) {
			return errors.New("a minute after the fault the node is neither ready nor has it ended")
		}
	}
	return nil
}

// ---- NATS servers

// leader is that of one bucket, another one each time.
func (s *stage) leader(ctx context.Context) (*natsproc.Server, error) {
	return s.nats.Leader(ctx, buckets[s.run%len(buckets)])
}

func killLeader(ctx context.Context, s *stage) error {
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	s.party.begin()
	return s.down(ctx, natsDown, leader)
}

func killFollower(ctx context.Context, s *stage) error {
	followers := slices.Clone(s.nats.Servers)
	for _, bucket := range buckets {
		leader, err := s.nats.Leader(ctx, bucket)
		if err != nil {
			return err
		}
		followers = slices.DeleteFunc(followers, func(f *natsproc.Server) bool { return f == leader })
	}
	s.party.begin()
	return s.down(ctx, natsDown, followers[s.random.IntN(len(followers))])
}

// down kills servers, and starts them again.
func (s *stage) down(ctx context.Context, length time.Duration, servers ...*natsproc.Server) error {
	for _, server := range servers {
		server.Kill()
	}
	err := s.rest(ctx, length, length)
	for _, server := range servers {
		err = errors.Join(err, server.Start())
	}
	return err
}

// two servers of three.
func (s *stage) two() []*natsproc.Server {
	servers := slices.Clone(s.nats.Servers)
	s.random.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	return servers[:2]
}

func killQuorum(ctx context.Context, s *stage) error {
	s.party.begin()
	return s.down(ctx, 12*time.Second, s.two()...)
}

func stopQuorum(ctx context.Context, s *stage) error {
	s.party.begin()
	return s.withoutQuorum(func() error { return s.rest(ctx, 12*time.Second, 12*time.Second) })
}

// endWithoutQuorum ends a node with SIGTERM when it is frozen. Nobody takes its rooms.
func endWithoutQuorum(ctx context.Context, s *stage) error {
	if err := s.doom(ctx, s.victim); err != nil {
		return err
	}
	s.party.begin()
	began := time.Now()
	return s.withoutQuorum(func() error {
		if err := s.rest(ctx, lease, lease); err != nil {
			return err
		}
		err := s.victim.leave()
		left := max(0, 30*time.Second-time.Since(began))
		return errors.Join(err, s.rest(ctx, left, left))
	})
}

// withoutQuorum does something while two servers are stopped.
func (s *stage) withoutQuorum(do func() error) error {
	two := s.two()
	var err error
	for _, server := range two {
		err = errors.Join(err, pause(server.Process()))
	}
	err = errors.Join(err, do())
	for _, server := range two {
		err = errors.Join(err, resume(server.Process()))
	}
	return err
}

// ---- nodes

func killEdge(_ context.Context, s *stage) error {
	s.victim.mu.Lock()
	s.victim.mayEnd = true
	s.victim.mu.Unlock()
	s.party.begin()
	s.victim.kill()
	return nil
}

func killOwner(ctx context.Context, s *stage) error {
	if err := s.doom(ctx, s.victim); err != nil {
		return err
	}
	s.party.begin()
	s.victim.kill()
	return nil
}

func killOwnerAndLeader(ctx context.Context, s *stage) error {
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	if err := s.doom(ctx, s.victim); err != nil {
		return err
	}
	s.party.begin()
	s.victim.kill()
	return s.down(ctx, natsDown, leader)
}

func stopOwner(length time.Duration, fatal bool) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		if fatal {
			if err := s.doom(ctx, s.victim); err != nil {
				return err
			}
		}
		s.party.begin()
		p := s.victim.server().cmd.Process
		if err := pause(p); err != nil {
			return err
		}
		err := s.rest(ctx, length, length)
		return errors.Join(err, resume(p), s.settles(ctx))
	}
}

// restartAll ends each node with SIGTERM and starts it again, one after the other.
func restartAll(ctx context.Context, s *stage) error {
	s.party.begin()
	return s.roll(ctx)
}

// upgradeAll replaces the nodes by those of the next release, one after the other, and then back.
func upgradeAll(ctx context.Context, s *stage) error {
	s.party.begin()
	for _, newer := range []bool{true, false} {
		for _, n := range s.nodes {
			n.newer = newer
		}
		if err := s.roll(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) roll(ctx context.Context) error {
	for _, n := range s.nodes {
		if err := n.leave(); err != nil {
			return err
		}
		if err := n.start(); err != nil {
			return err
		}
		if err := n.untilReady(ctx); err != nil {
			return err
		}
		if err := s.rest(ctx, time.Second, 2*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// handing waits until some of a node's rooms are on their way to others: they are over two fifths of the drain.
func (s *stage) handing(ctx context.Context) error {
	return s.rest(ctx, s.drain/100, s.drain*2/5)
}

func killGiver(ctx context.Context, s *stage) error {
	if err := s.doom(ctx, s.victim); err != nil {
		return err
	}
	s.party.begin()
	if err := s.victim.server().cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := s.handing(ctx); err != nil {
		return err
	}
	s.victim.kill()
	return nil
}

// killReceiver kills one of those who take rooms. They may have been the victim's before.
func killReceiver(ctx context.Context, s *stage) error {
	others := slices.DeleteFunc(slices.Clone(s.nodes), func(n *node) bool { return n == s.victim })
	receiver := others[s.random.IntN(len(others))]
	if err := s.doom(ctx, s.victim, receiver); err != nil {
		return err
	}
	s.party.begin()
	var leaving sync.WaitGroup
	var err error
	leaving.Go(func() { err = s.victim.leave() })
	restErr := s.handing(ctx)
	receiver.kill()
	leaving.Wait()
	return errors.Join(err, restErr)
}

// homes spreads a party over the nodes. The first of a room makes it, where it connects.
func (s *stage) homes(edge bool) func(room, member int) int {
	if !edge {
		return func(room, member int) int { return (room + member) % nodeCount }
	}
	victim := slices.Index(s.nodes, s.victim)
	return func(room, member int) int {
		if member == 0 {
			return (victim + 1 + room%(nodeCount-1)) % nodeCount
		}
		return (victim + member - 1) % nodeCount
	}
}

// newStage draws the victim.
func newStage(a *arena, run int) *stage {
	return &stage{arena: a, run: run, victim: a.nodes[a.random.IntN(len(a.nodes))]}
}

func seeded(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }
