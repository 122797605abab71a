// Duet-bench measures the duet server against four baselines on the same machine, or a running
// deployment from outside. See docs/performance.md for what it measures and how.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"duet/cmd/duet-bench/baseline"
	"duet/cmd/internal/natsproc"
)

func main() {
	natsproc.Main()
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		exit(baseline.Serve(os.Args[2], cmp.Or(os.Getenv(baseline.AddrVariable), anyPort), os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, os.Args[1:]))
}

func exit(err error) {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case errors.Is(err, context.Canceled):
		os.Exit(130)
	}
	fmt.Fprintln(os.Stderr, "duet-bench:", err)
	os.Exit(1)
}

// options are the command line.
type options struct {
	modes, systems []string
	quick          bool
	repeat         int
	out            string
	profile        string // folder for profiles; "" = none are taken
	remote         remote
}

func parse(args []string) (options, error) {
	o := options{remote: remote{rest: 4 * time.Second}}
	var modeList, systemList string
	f := flag.NewFlagSet("duet-bench", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), `duet-bench measures the duet server and four baselines side by side on this machine,
or with -url a running deployment from outside.

  duet-bench                              all modes, all systems: some 18 minutes
  duet-bench -quick                       the same in some 5 minutes, rougher
  duet-bench -mode relay -system duet,gws
  duet-bench -mode cluster                several nodes and NATS: some 5 minutes
  duet-bench -url wss://example.org/ws    connect, relay, latency, calls

`)
		f.PrintDefaults()
		fmt.Fprintln(f.Output(), "\nmodes:")
		for _, m := range modes {
			fmt.Fprintf(f.Output(), "  %-10s %s (%s)\n", m.name, m.what, strings.Join(m.systems, ", "))
		}
	}
	f.StringVar(&modeList, "mode", "", "modes to run, with commas between (default all)")
	f.StringVar(&systemList, "system", "", "systems to measure, with commas between (default all): "+strings.Join(systemNames, ", "))
	f.BoolVar(&o.quick, "quick", false, "short windows, one run of each")
	f.IntVar(&o.repeat, "repeat", 0, "runs of each mode, of which the median counts (default 3, with -quick 1)")
	f.StringVar(&o.out, "o", "", "write the page to this file, and its plot beside it")
	f.StringVar(&o.profile, "profile", "", "then take CPU profiles of duet under the main loads, store them in this folder, and say where the time goes")
	f.StringVar(&o.remote.url, "url", "", "measure the deployment at this ws, wss, http or https URL instead")
	f.IntVar(&o.remote.rooms, "rooms", 10, "with -url: rooms of two")
	f.IntVar(&o.remote.each, "messages", 150, "with -url: messages of each connection in the relay mode; the server's default limit is a burst of 200")
	f.IntVar(&o.remote.rate, "rate", 200, "with -url: messages a second, of all connections, in the latency mode; the default limit is 50 for each connection")
	f.DurationVar(&o.remote.window, "for", 10*time.Second, "with -url: length of the latency mode")
	f.IntVar(&o.remote.calls, "calls", 10, "with -url: calls; the server's default limit is 60 joins a minute")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected %q; -h shows how to call duet-bench", f.Arg(0))
	}
	var err error
	if o.modes, err = choose("mode", modeList, modeNames()); err != nil {
		return o, err
	}
	o.systems, err = choose("system", systemList, systemNames)
	return o, err
}

func modeNames() []string {
	var names []string
	for _, m := range modes {
		names = append(names, m.name)
	}
	return names
}

// choose splits a list and checks it; an empty one is all.
func choose(what, list string, known []string) ([]string, error) {
	if list == "" {
		return known, nil
	}
	chosen := strings.Split(list, ",")
	for _, name := range chosen {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("-%s: no %s called %q; there are %s", what, what, name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.remote.url != "" {
		return o.remote.measure(ctx, o.modes, os.Stdout)
	}
	b, cleanUp, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer cleanUp()
	err = b.run(ctx)
	b.log.done()
	if err != nil {
		return err
	}
	r := &report{b.results, b.systems, b.plan, about(b.systems), b.profiles}
	r.print(os.Stdout)
	if o.out != "" {
		err = r.save(o.out)
	}
	return errors.Join(err, b.results.err())
}

// prepare builds the systems, then takes a core for itself.
func prepare(ctx context.Context, o options) (*bench, func(), error) {
	b := &bench{plan: full, results: newResults(), log: newProgress(os.Stderr), profileDir: o.profile}
	if o.quick {
		b.plan = quick
	}
	if o.repeat > 0 {
		b.plan.Repeats = o.repeat
	}
	for _, m := range modes {
		if slices.Contains(o.modes, m.name) {
			b.modes = append(b.modes, m)
		}
	}
	w, err := newWorkshop(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := b.build(ctx, w, o.systems); err != nil {
		w.close()
		return nil, nil, err
	}
	if err := b.isolate(); err != nil {
		w.close()
		return nil, nil, err
	}
	return b, w.close, nil
}

// build makes the systems. Without duet there is nothing to measure; a baseline that cannot be had
// is left out with a note.
func (b *bench) build(ctx context.Context, w *workshop, names []string) error {
	for _, name := range systemNames {
		needed := func(m mode) bool { return slices.Contains(m.systems, name) }
		if !slices.Contains(names, name) || !slices.ContainsFunc(b.modes, needed) {
			continue
		}
		b.log.line("building " + name)
		sys, err := w.make(ctx, name)
		switch {
		case err == nil:
			b.systems = append(b.systems, sys)
		case name == "duet":
			return err
		default:
			b.results.notes = append(b.results.notes, fmt.Sprintf("%s was left out: %v", name, err))
		}
	}
	return nil
}

// isolate gives the servers one core and this process another, and lifts the limit on open files.
func (b *bench) isolate() error {
	files, err := raiseFiles()
	if err != nil {
		return fmt.Errorf("raising the limit on open files: %w", err)
	}
	b.fitFiles(files)
	if b.cores, err = cores(); err != nil {
		return err
	}
	if b.cores.server == b.cores.generator {
		b.results.notes = append(b.results.notes, "there is one core only: each figure includes the load generator's own work")
	}
	debug.SetGCPercent(400)
	return pin(b.cores.generator)
}
