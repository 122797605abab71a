// Duet-storm runs the real server as a process and treats its clients badly: it cuts their connections,
// kills the server under them, floods it, and says at the end what was lost. It exits with 1 where
// something was. See docs/reliability.md for what it has measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"duet/cmd/internal/natsproc"
)

func main() {
	natsproc.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return
	case errors.Is(err, context.Canceled):
		os.Exit(130)
	}
	fmt.Fprintln(os.Stderr, "duet-storm:", err)
	os.Exit(1)
}

// A mode is one kind of storm.
type mode struct {
	what string
	make func(*flag.FlagSet) storm
}

// A storm has its settings from flags. run writes one line about the outcome; its error says what was
// violated.
type storm interface {
	run(ctx context.Context, w *world) (summary string, err error)
}

var modes = map[string]mode{
	"kicks":   {"rooms of two whose clients lose their connections again and again while messages flow", newKicks},
	"restart": {"thousands of clients whose server is killed, or told to end, and started again", newRestart},
	"soak":    {"rooms come and go, well and badly behaved, for as long as it is told", newSoak},
	"cluster": {"three nodes and three NATS servers, killed, stopped, cut off and upgraded under load", newClusterStorm},
}

const usage = `duet-storm runs the duet server and treats its clients badly.

  duet-storm kicks   [flags]   rooms of two whose clients lose their connections again and again
  duet-storm restart [flags]   thousands of clients whose server ends and is started again
  duet-storm soak    [flags]   rooms come and go, well and badly behaved; -for 10m
  duet-storm cluster [flags]   three nodes and three NATS servers, killed, stopped and cut off

duet-storm MODE -h lists the flags.
`

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(progress, usage)
		return errors.New("a mode is missing")
	}
	m, ok := modes[args[0]]
	if !ok {
		fmt.Fprint(progress, usage)
		return fmt.Errorf("there is no mode %q", args[0])
	}
	f := flag.NewFlagSet("duet-storm "+args[0], flag.ContinueOnError)
	f.SetOutput(progress)
	w := &world{name: args[0], progress: progress}
	f.Uint64Var(&w.seed, "seed", 1, "what is drawn at random follows from it; the order in time does not")
	f.StringVar(&w.binary, "bin", "", "the server's binary (default: built from ./cmd/duet)")
	f.StringVar(&w.logs, "logs", "", "a folder for the logs of the servers, a file for each process (default: they are dropped)")
	s := m.make(f)
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected %q; -h shows the flags", f.Arg(0))
	}
	if err := w.build(ctx); err != nil {
		return err
	}
	defer w.close()
	began := time.Now()
	summary, err := s.run(ctx, w)
	if summary != "" {
		fmt.Fprintf(out, "%s: seed %d: %s; %v\n", args[0], w.seed, summary, time.Since(began).Round(100*time.Millisecond))
	}
	return err
}
