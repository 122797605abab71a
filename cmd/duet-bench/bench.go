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

// steps lists the trials, so that systems take turns: a machine that slows down slows all of them.
func (b *bench) steps() []step {
	var list []step
	for repeat := range b.plan.Repeats {
		for i := range b.modes {
			m := &b.modes[i]
			variants := []int{0}
			if m.variants != nil {
				variants = m.variants(&b.plan)
			}
			for _, v := range variants {
				for _, sys := range b.systems {
					if slices.Contains(m.systems, sys.name) {
						list = append(list, step{m, sys, v, repeat})
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
	for i, st := range steps {
		b.log.begin(i, len(steps), st)
		t := &trial{plan: &b.plan, sys: st.sys, variant: st.variant, cores: b.cores, ctx: ctx, values: map[string]float64{}, remarks: map[remark]float64{}}
		err := st.mode.run(t)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b.record(st, t, err)
		b.log.end(st, t, err)
		runtime.GC() // what the trial left is not collected during the next one
	}
	return nil
}

func (b *bench) record(st step, t *trial, err error) {
	for _, key := range st.mode.metrics(st.variant) {
		if err != nil {
			b.results.fail(key, st.sys.name, err)
		} else {
			b.results.add(key, st.sys.name, t.values[key])
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
	began    time.Time
}

func newProgress(f *os.File) *progress {
	return &progress{f, term.IsTerminal(int(f.Fd())), time.Now()}
}

// begin announces step i of n, with the time that the rest may take.
func (p *progress) begin(i, n int, st step) {
	gone := time.Since(p.began).Round(time.Second)
	left := "?"
	if i > 0 {
		left = (gone / time.Duration(i) * time.Duration(n-i)).Round(time.Second).String()
	}
	p.line(fmt.Sprintf("[%d/%d, %v gone, about %s left] %s · %s", i+1, n, gone, left, st.title(), st.sys.name))
}

// end shows what a step found.
func (p *progress) end(st step, t *trial, err error) {
	if err != nil {
		p.line(fmt.Sprintf("FAIL %s · %s: %v", st.title(), st.sys.name, err))
		if p.terminal {
			fmt.Fprintln(p.w) // a failure stays on the screen
		}
		return
	}
	var found []string
	for _, key := range st.mode.metrics(st.variant) {
		found = append(found, fmt.Sprintf("%s %s", key, number(t.values[key], 2)))
	}
	p.line(fmt.Sprintf("%s · %s: %s", st.title(), st.sys.name, strings.Join(found, ", ")))
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
