package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// clusterStorm is the storm over several nodes: one fault after the other, each in runs of its own.
type clusterStorm struct {
	runs         int
	only, out    string
	pairs, fours int
	rate         float64
	drain        time.Duration
}

func newClusterStorm(f *flag.FlagSet) storm {
	c := new(clusterStorm)
	f.IntVar(&c.runs, "runs", 3, "runs of each fault")
	f.StringVar(&c.only, "only", "", "faults whose names contain one of these, separated by commas (default: all)")
	f.IntVar(&c.pairs, "pairs", 30, "rooms of two")
	f.IntVar(&c.fours, "fours", 6, "rooms of four")
	f.Float64Var(&c.rate, "rate", 4, "messages a second of each client")
	f.DurationVar(&c.drain, "drain", 10*time.Second, "what a node has from SIGTERM to its end (DUET_DRAIN)")
	f.StringVar(&c.out, "o", "", "a file for the table, as Markdown; rows of other faults that it has stay")
	return c
}

func (c *clusterStorm) run(ctx context.Context, w *world) (string, error) {
	chosen := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return !c.wants(f.name) })
	if len(chosen) == 0 {
		var names []string
		for _, f := range faults {
			names = append(names, f.name)
		}
		return "", fmt.Errorf("-only %s: no fault is called so; there are: %s", c.only, strings.Join(names, "; "))
	}
	if err := keepLogs(w); err != nil {
		return "", err
	}
	var total account
	var errs []error
	if !apart() {
		wired := func(f fault) bool { return f.wires }
		if slices.ContainsFunc(chosen, wired) {
			errs = append(errs, c.runApart(ctx, w))
		}
		if chosen = slices.DeleteFunc(chosen, wired); len(chosen) == 0 {
			return "", errors.Join(errs...)
		}
	} else {
		chosen = slices.DeleteFunc(chosen, func(f fault) bool { return !f.wires })
	}
	for _, f := range chosen {
		a, err := c.row(ctx, w, &f)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		total.add(a)
		verdict := "as promised"
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
			verdict = err.Error()
		}
		fmt.Fprintf(w.progress, "%s\n%s: %s\n", f.line(c.runs, a), f.name, verdict)
		if c.out != "" {
			if err := c.write(w, f.name, f.line(c.runs, a)); err != nil {
				return "", err
			}
		}
	}
	return fmt.Sprintf("%d faults, %d runs of each, %d messages, %d lost, %d duplicated, %d reordered, %d reported lost, %d resumed:false, at most %d owner of a room at once",
		len(chosen), c.runs, total.sent, total.lost, total.duplicated, total.reordered, total.reported, total.fresh, total.owners), errors.Join(errs...)
}

func (c *clusterStorm) wants(name string) bool {
	for part := range strings.SplitSeq(c.only, ",") {
		if strings.Contains(name, strings.TrimSpace(part)) {
			return true
		}
	}
	return false
}

// row lets a fault happen so often as it is to, in a cluster of its own.
func (c *clusterStorm) row(ctx context.Context, w *world, f *fault) (total account, _ error) {
	number := uint64(slices.IndexFunc(faults, func(o fault) bool { return o.name == f.name }))
	arena, err := newArena(ctx, w, seeded(w.seed, number), c.drain, f)
	if err != nil {
		return account{}, err
	}
	defer arena.close()
	var errs []error
	for run := range c.runs {
		a, err := c.once(ctx, arena, f, run)
		total.add(a)
		if err != nil {
			errs = append(errs, fmt.Errorf("run %d: %w", run+1, err))
		}
		if err := arena.settle(ctx); err != nil {
			return total, errors.Join(append(errs, err)...)
		}
	}
	return total, some(errs)
}

// once is one run.
func (c *clusterStorm) once(ctx context.Context, arena *arena, f *fault, run int) (account, error) {
	s := newStage(arena, run)
	s.party = newParty(arena, fmt.Sprintf("run-%d", run+1), c.pairs, c.fours, c.rate, s.homes(f.edge))
	arena.owners.begin(len(s.party.rooms))
	runErr := s.party.run(ctx, func(ctx context.Context) error { return f.strike(ctx, s) })
	most, ownersErr := arena.owners.end()
	a, err := s.party.account()
	a.owners = most
	if f.within > 0 && a.back[0] > f.within {
		err = errors.Join(err, fmt.Errorf("seats were back after %v, the clients' own waits left out: more than %v", a.back[0].Round(time.Millisecond), f.within))
	}
	if f.steps {
		a.relays, a.back = nil, nil
	}
	return a, errors.Join(runErr, ownersErr, err, arena.unexpected())
}

// ---- the table

const tableHead = `| fault | runs | messages | lost | duplicated | reordered | reported lost | refused | ` + "`resumed:false`" + ` | owners at once | every room relays again after, s | everybody seated again after, s, without the clients' own waits | the longest message, s |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
`

// line is the fault's row.
func (f *fault) line(runs int, a account) string {
	return fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %s | %s | %.1f |", f.name, runs, a.sent, a.lost, a.duplicated, a.reordered,
		a.reported, a.refused, a.fresh, a.owners, spread(a.relays), spread(a.back), a.longest.Seconds())
}

// spread is the least and the most, in seconds.
func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "–"
	}
	least, most := slices.Min(d).Seconds(), slices.Max(d).Seconds()
	if most-least < 0.05 {
		return fmt.Sprintf("%.1f", most)
	}
	return fmt.Sprintf("%.1f to %.1f", least, most)
}

// write puts a row into the file, in the order of faults, and keeps those of others.
func (c *clusterStorm) write(w *world, name, line string) error {
	rows := map[string]string{}
	old, err := os.ReadFile(c.out)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for row := range strings.Lines(string(old)) {
		if fields := strings.Split(row, "|"); len(fields) > 2 {
			rows[strings.TrimSpace(fields[1])] = strings.TrimSpace(row)
		}
	}
	rows[name] = line
	var b strings.Builder
	fmt.Fprintf(&b, tableText, c.runs, w.seed, runtime.NumCPU(), c.pairs, c.fours, 2*c.pairs+4*c.fours, c.rate)
	b.WriteString(tableHead)
	for _, f := range faults {
		if row, ok := rows[f.name]; ok {
			b.WriteString(row + "\n")
		}
	}
	b.WriteString(tableNotes)
	return os.WriteFile(c.out, []byte(b.String()), 0o644)
}

const tableText = "# Faults in a cluster\n\nMade by `go run ./cmd/duet-storm cluster -runs %d -seed %d -o docs/cluster-faults.md` on a machine with %d cores. " +
	"A row whose figures are not as promised makes it fail.\n\n" +
	"Three duets with the settings they ship with (but for rooms of up to four, and as many connections and joins as one address may want) and three NATS servers, each a process, on one machine. Each run has %d rooms of two and %d of four: " +
	"%d clients whose connections are spread over the nodes, each with %v messages a second, numbered and acknowledged as in [the protocol, section 5](protocol.md#5-nothing-is-lost-on-a-lost-connection). " +
	"A client that loses its connection waits a random time, below 0.1 s at first and at most 2 s, and connects to a node that is ready. It finds a silent connection dead after 7 s.\n\n" +
	"What ended or was cut off came back after that: a new process for a node, the same files for a NATS server. *Cut off*: nothing passes between a node and all NATS servers, and TCP brings later what was held up. *Stopped*: SIGSTOP, then SIGCONT. *Killed*: SIGKILL. " +
	"*Rolling upgrade*: each node is replaced by one of a release that reads and speaks one version more to other nodes, and after all of them back.\n\n" +
	"*Machines*: each node and each NATS server has a network namespace of its own, with a cable to the switch between them and another one to the clients, who reach the nodes all the time. " +
	"Packets vanish, and nobody is told. *Slow*: 2 Mbit/s each way, and 0.3 s of it may queue. These rows take root, or user namespaces, on Linux; they are left out where that is not permitted.\n\n"

const tableNotes = "\n" +
	"- *Lost, duplicated, reordered*: for each sender and recipient, over all their seats. 0 is promised in every row.\n" +
	"- *Reported lost*: what had not arrived when its sender or its recipient was told by `resumed:false` that the seat, with what waited there, is gone. Such seats are promised to be those of rooms only whose owner was killed, ended while it was frozen, or could not renew its lease (10 s). All ids stayed the same.\n" +
	"- *Refused*: answered with `error`, mostly `no-peer` until the other one was back.\n" +
	"- *Owners at once*: of one room, on nodes that say they are ready. Their rooms were counted 4 times a second, and the operator's list was looked through for rooms that went back to an owner they had had before.\n" +
	"- *Relays again after*: from the fault until all messages, between all members of all rooms, arrived again within a second; least and most of the runs. 0.0: they always did.\n" +
	"- *Seated again after*: the same until the last client that had to connect anew had its seat, without what it had waited itself between its attempts. Where the owner is killed at most 11 s is promised: the lease and a second.\n\n" +
	"Single frames that are lost between nodes are not here, since TCP loses none: the simulation in `signaling` does that.\n"
