// Command duet is a WebRTC signaling server that brings its own page. It is set up by environment
// variables; duet -h lists them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// version is set by the linker; without it the build information speaks.
var version string

// Exit statuses. A process ended by a second signal exits with 128 and the signal's number.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked for could not be done: a port is taken, a permission is missing
	exitUsage  = 2 // what was asked for makes no sense: a bad setting, an unknown argument
)

func main() {
	os.Exit(command(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// commands are what duet does beside serving, by the first argument.
var commands = map[string]func(args, environ []string, stdout, stderr io.Writer) int{
	"doctor": doctorCommand,
	"health": healthCommand,
	"token":  tokenCommand,
}

// command runs duet with args and returns the exit status.
func command(args, environ []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && commands[args[0]] != nil {
		return commands[args[0]](args[1:], environ, stdout, stderr)
	}
	flags := flag.NewFlagSet("duet", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	showVersion := flags.Bool("version", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage())
		return exitOK
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unknown argument %q", flags.Arg(0))
		fallthrough
	case err != nil:
		fmt.Fprintf(stderr, "duet: %v: settings are environment variables, listed by duet -h\n", err)
		return exitUsage
	case *showVersion:
		fmt.Fprintln(stdout, "duet", buildVersion())
		return exitOK
	}

	descriptors := descriptorLimit()
	cfg, err := parseConfig(environ, descriptors)
	if err != nil {
		fmt.Fprintf(stderr, "duet: bad settings (duet -h lists them):\n%v\n", err)
		return exitUsage
	}
	tuneCollector()
	ctx, stop := untilSignal(context.Background())
	defer stop()
	if err := run(ctx, &cfg, environ, descriptors, stderr); err != nil {
		fmt.Fprintf(stderr, "duet: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. The second one ends the
// process at once.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
			return
		}
		if s, ok := (<-signals).(syscall.Signal); ok {
			os.Exit(128 + int(s))
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel()
	}
}

// buildVersion names what was built: the linker's word, else the module's version or commit.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
