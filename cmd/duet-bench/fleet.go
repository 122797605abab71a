package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"duet/cmd/internal/natsproc"
)

// A fleet is duets that are one cluster, and the NATS servers between them, all of them on the servers'
// core. Without NATS servers it is one duet that stands alone, without duets one NATS server.
type fleet struct {
	nodes  []*server
	nats   *natsproc.Cluster
	folder string // the NATS servers' files
	cores  coreSet
	use    []time.Duration // CPU time of the NATS servers at each reading of meter
}

// formed is how long nodes may take to hear of each other: they give signs of life each 2 s.
const formed = 20 * time.Second

// fleet starts so many duets and NATS servers, and waits until they know each other.
func (t *trial) fleet(nodes, servers int, env ...string) (_ *fleet, err error) {
	f := &fleet{cores: t.cores}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	if servers > 0 {
		if f.folder, err = os.MkdirTemp("", "duet-bench-nats-"); err != nil {
			return nil, err
		}
		err = onCore(t.cores.server, func() (err error) {
			f.nats, err = natsproc.Start(t.ctx, f.folder, servers)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("starting NATS: %w", err)
		}
	}
	var signs *nats.Subscription
	if nodes > 0 && servers > 0 {
		conn, err := nats.Connect(f.nats.URL())
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		if signs, err = conn.SubscribeSync("duet.v1.hb"); err != nil {
			return nil, err
		}
	}
	for i := range nodes {
		sys := *t.sys
		sys.env = append(slices.Clone(sys.env), env...)
		if servers > 0 {
			sys.env = append(sys.env, "DUET_NATS_URL="+f.nats.URL(), fmt.Sprint("DUET_NATS_REPLICAS=", servers), fmt.Sprint("DUET_NODE_ID=n", i+1))
		}
		n, err := sys.start(t.cores, anyPort)
		if err != nil {
			return nil, err
		}
		f.nodes = append(f.nodes, n)
	}
	return f, f.form(t.ctx, signs)
}

// form waits for a sign of life of each node after the last has started: then each has heard all.
func (f *fleet) form(ctx context.Context, signs *nats.Subscription) error {
	if signs == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, formed)
	defer cancel()
	for n, _, _ := signs.Pending(); n > 0; n-- { // from before the last one's start
		if _, err := signs.NextMsgWithContext(ctx); err != nil {
			return err
		}
	}
	for heard := map[string]bool{}; len(heard) < len(f.nodes); {
		m, err := signs.NextMsgWithContext(ctx)
		if err != nil {
			return fmt.Errorf("waiting for %d nodes to form a cluster; %d are there: %w", len(f.nodes), len(heard), err)
		}
		var sign struct{ Node string }
		if err := json.Unmarshal(m.Data, &sign); err != nil {
			return fmt.Errorf("a node's sign of life: %w", err)
		}
		heard[sign.Node] = true
	}
	return nil
}

// swarm returns clients for the fleet; their homes are its nodes.
func (f *fleet) swarm(ctx context.Context, d dialect) (*swarm, error) {
	var addrs []netip.AddrPort
	for _, n := range f.nodes {
		addrs = append(addrs, n.addr)
	}
	if len(f.nodes) == 0 {
		addrs = append(addrs, netip.MustParseAddrPort(f.nats.Servers[0].Addr))
	}
	n, err := newLocalNetwork(ctx, addrs...)
	if err != nil {
		return nil, err
	}
	return &swarm{net: n, d: d, host: addrs[0].String(), run: runID()}, nil
}

// meter reads the CPU time of all duets; that of the NATS servers it notes in use.
func (f *fleet) meter() (cpu, others time.Duration) {
	for _, n := range f.nodes {
		spent, _ := cpuTime(n.cmd.Process.Pid)
		cpu += spent
	}
	var between time.Duration
	if f.nats != nil {
		for _, s := range f.nats.Servers {
			spent, _ := cpuTime(s.Process().Pid)
			between += spent
		}
	}
	f.use = append(f.use, between)
	all, _ := coreTime(f.cores.server, f.cores.generator)
	return cpu, all - cpu - between - ownTime()
}

// between is the CPU time that the NATS servers used in the i-th window since use was emptied.
func (f *fleet) between(i int) time.Duration { return f.use[i+1] - f.use[i] }

// resident is the memory of all duets that is in RAM, in bytes.
func (f *fleet) resident() (sum int64, _ error) {
	for _, n := range f.nodes {
		size, err := resident(n.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += size
	}
	return sum, nil
}

// stop ends all processes and waits for them.
func (f *fleet) stop() {
	for _, n := range f.nodes {
		n.stop()
	}
	if f.nats != nil {
		f.nats.Close()
	}
	if f.folder != "" {
		os.RemoveAll(f.folder)
	}
}

// handover waits until a node says that it has given its rooms away: so many, in that time.
func (srv *server) handover(within time.Duration) (moved int, took time.Duration, err error) {
	select {
	case line := <-srv.handed:
		var h struct {
			Moved, Left int
			Took        string
		}
		if err := json.Unmarshal([]byte(line), &h); err != nil {
			return 0, 0, fmt.Errorf("reading %q: %w", line, err)
		}
		if h.Left > 0 {
			return 0, 0, fmt.Errorf("%d rooms were handed over, %d were left", h.Moved, h.Left)
		}
		took, err = time.ParseDuration(h.Took)
		return h.Moved, took, err
	case <-time.After(within):
		return 0, 0, fmt.Errorf("no word of a handover within %v", within)
	}
}
