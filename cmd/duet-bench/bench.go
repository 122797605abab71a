package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"
)

// A bench is one run over systems and modes on this machine.
type bench struct {
	plan    plan
	modes   []mode
	systems []*system
	cores   coreSet
	results *results
	log     *progress

	profileDir string // "" = no profiles
	profiles   []profiled
}

// A step is one trial to come.
type step struct {
	mode    *mode
	sys     *system
	variant int
	repeat  int
}

// spareFiles is what a process needs beside its connections; the duet server keeps some 1,100 back.
const spareFiles = 1200

// fitFiles drops the sizes of growth that a limit on open files does not allow.
func (b *bench) fitFiles(limit uint64) {
	fits := slices.DeleteFunc(slices.Clone(b.plan.growth), func(rooms int) bool { return uint64(2*rooms+spareFiles) > limit })
	if len(fits) < len(b.plan.growth) {
		b.results.notes = append(b.results.notes, fmt.Sprintf(
			"open files are limited to %d (`ulimit -Hn`): more than %d rooms were left out", limit, max(0, int(limit)-spareFiles)/2))
	}
	b.plan.growth = fits
}

// steps lists the trials, so that systems take turns: a bad minute of the machine hits all of them.
func (b *bench) steps() []step {
	var list []step
	for repeat := range b.plan.Repeats {
		for i := range b.modes {
			m := &b.modes[i]
			variants := []int{0}
			if m.variants != nil {
				variants = m.variants(&b.plan)
			}
			rounds := 1
			if m.rounds != nil {
				rounds = m.rounds(&b.plan)
			}
			for range rounds {
				for _, v := range variants {
					for _, sys := range b.systems {
						if slices.Contains(m.systems, sys.name) {
							list = append(list, step{m, sys, v, repeat})
						}
					}
				}
			}
		}
	}
	return list
}

// run does all steps. A failed one is written down and the run goes on.
func (b *bench) run(ctx context.Context) error {
	steps := b.steps()
	b.log.expected = b.lasts(steps)
	for i, st := range steps {
		b.log.begin(i, len(steps), st.title()+" · "+st.sys.name)
		t := newTrial(ctx, &b.plan, st.sys, st.variant, b.cores)
		err := st.mode.run(t)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b.record(st, t, err)
		b.log.end(st, t, err)
		b.log.passed += st.lasts(&b.plan)
		runtime.GC() // what the trial left is not collected during the next one
	}
	return b.profile(ctx)
}

// filling is about how long it takes to start a server and connect what a mode needs.
const filling = 700 * time.Millisecond

// lasts is about how long a step takes.
func (st step) lasts(p *plan) time.Duration { return filling + st.mode.lasts(p) }

// lasts is about how long the steps and the profiles take.
func (b *bench) lasts(steps []step) time.Duration {
	var sum time.Duration
	for _, st := range steps {
		sum += st.lasts(&b.plan)
	}
	for _, l := range b.profileLoads() {
		sum += b.profileLasts(l)
	}
	return sum
}

func (b *bench) record(st step, t *trial, err error) {
	for _, key := range st.mode.metrics(st.variant) {
		if err != nil {
			b.results.fail(key, st.sys.name, err)
		} else {
			b.results.add(key, st.sys.name, t.values[key]...)
		}
	}
	for m, share := range t.remarks {
		b.results.remark(m, st.mode.what, st.sys.name, share)
	}
}

// A progress tells what is going on: on a terminal in one line that changes, else a line a step.
type progress struct {
	w        io.Writer
	terminal bool
	began    time.Time // with the first step

	expected, passed time.Duration // of all steps, and of those that are done, as planned
}

func newProgress(f *os.File) *progress {
	return &progress{w: f, terminal: term.IsTerminal(int(f.Fd()))}
}

// left is the plan's time for the rest, stretched as what is done was.
func (p *progress) left(gone time.Duration) time.Duration {
	rest := p.expected - p.passed
	if p.passed > 0 {
		rest = time.Duration(float64(rest) * float64(gone) / float64(p.passed))
	}
	return rest.Round(time.Second)
}

// begin announces step i of n, with the time that the rest may take.
func (p *progress) begin(i, n int, what string) {
	if p.began.IsZero() {
		p.began = time.Now()
	}
	gone := time.Since(p.began)
	p.line(fmt.Sprintf("[%d/%d, %v gone, about %v left] %s", i+1, n, gone.Round(time.Second), p.left(gone), what))
}

// end shows what a step found.
func (p *progress) end(st step, t *trial, err error) {
	if err != nil {
		p.fail(st.title()+" · "+st.sys.name, err)
		return
	}
	var found []string
	for _, key := range st.mode.metrics(st.variant) {
		found = append(found, fmt.Sprintf("%s %s", key, number(typical(t.values[key]), 2)))
	}
	p.line(fmt.Sprintf("%s · %s: %s", st.title(), st.sys.name, strings.Join(found, ", ")))
}

// fail shows why a step failed.
func (p *progress) fail(what string, err error) {
	p.line(fmt.Sprintf("FAIL %s: %v", what, err))
	if p.terminal {
		fmt.Fprintln(p.w) // it stays on the screen
	}
}

func (p *progress) line(s string) {
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", s)
	} else {
		fmt.Fprintln(p.w, s)
	}
}

// done ends the line.
func (p *progress) done() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func (st step) title() string {
	if keys := st.mode.metrics(st.variant); st.mode.variants != nil {
		return keys[0]
	}
	return st.mode.name
}

// about names the machine and the versions.
func about(systems []*system) string {
	s := machine() + ", " + runtime.Version()
	for _, sys := range systems {
		if sys.name == "socket.io" {
			if v, err := exec.Command(sys.argv[0], "--version").Output(); err == nil {
				s += ", Node.js " + strings.TrimSpace(string(v))
			}
		}
	}
	return s + "."
}
