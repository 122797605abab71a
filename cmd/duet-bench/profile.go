package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A profiled is where the server's CPU time goes under one load.
type profiled struct {
	title, unit string
	spent       float64            // CPU µs a unit
	shares      map[string]float64 // of all samples, by group
}

// A profileLoad is one load that is profiled.
type profileLoad struct {
	mode        string
	variant     int
	title, unit string
}

// profileLoads are those of the modes that were run, where profiles are wanted. Of growth it is the
// first and the last size.
func (b *bench) profileLoads() []profileLoad {
	if b.profileDir == "" || !slices.ContainsFunc(b.systems, isDuet) {
		return nil
	}
	var loads []profileLoad
	for _, m := range b.modes {
		switch m.name {
		case "relay":
			loads = append(loads, profileLoad{m.name, 0, "at saturation", "message"})
		case "latency":
			loads = append(loads, profileLoad{m.name, 0, number(float64(b.plan.Rate), 0) + " messages/s", "message"})
		case "calls":
			loads = append(loads, profileLoad{m.name, 0, "whole calls", "call"})
		case "growth":
			sizes := b.plan.growth
			for _, rooms := range slices.Compact([]int{sizes[0], sizes[len(sizes)-1]}) {
				loads = append(loads, profileLoad{m.name, rooms, fmt.Sprintf("%s messages/s, %s rooms",
					number(float64(b.plan.GrowthRate), 0), number(float64(rooms), 0)), "message"})
			}
		}
	}
	return loads
}

func isDuet(s *system) bool { return s.name == "duet" }

// profileLasts is about how long a profile takes.
func (b *bench) profileLasts(l profileLoad) time.Duration {
	return filling + b.plan.profile[l.mode].lasts()
}

// profile runs duet under the loads once more, so that the profiler takes nothing from the figures. A
// failed one is written down and the run goes on.
func (b *bench) profile(ctx context.Context) error {
	loads := b.profileLoads()
	if len(loads) == 0 {
		return nil
	}
	if err := os.MkdirAll(b.profileDir, 0o777); err != nil {
		return err
	}
	sys := *b.systems[slices.IndexFunc(b.systems, isDuet)]
	sys.env = append(slices.Clone(sys.env), "DUET_ADMIN_ADDR="+anyPort)
	for i, l := range loads {
		what := "profile · " + l.title
		b.log.begin(i, len(loads), what)
		p, err := untilSampled(func() (profiled, error) { return b.profileOne(ctx, &sys, l) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			b.results.fail(what, sys.name, err)
			b.log.fail(what, err)
		} else {
			b.profiles = append(b.profiles, p)
		}
		b.log.passed += b.profileLasts(l)
	}
	return nil
}

// errNoSamples is what a profile ends with that found the server on no processor: on a machine that was
// suspended meanwhile, or had no time for it.
var errNoSamples = errors.New("the profile has no samples: run the bench on a machine that does nothing else")

// profileTries is how often a load is profiled that comes without samples.
const profileTries = 3

// untilSampled takes a profile, and again while it has no samples.
func untilSampled(take func() (profiled, error)) (p profiled, err error) {
	for range profileTries {
		if p, err = take(); !errors.Is(err, errNoSamples) {
			break
		}
	}
	return p, err
}

func (b *bench) profileOne(ctx context.Context, sys *system, l profileLoad) (profiled, error) {
	plan, w := b.plan, b.plan.profile[l.mode]
	plan.relay, plan.latency, plan.calls, plan.growing = w, w, w, w
	t := newTrial(ctx, &plan, sys, l.variant, b.cores)
	name := l.mode
	if l.variant > 0 {
		name = fmt.Sprintf("%s-%d", l.mode, l.variant)
	}
	t.profile, t.profileFor = filepath.Join(b.profileDir, name+".pprof"), w.lasts()
	i := slices.IndexFunc(modes, func(m mode) bool { return m.name == l.mode })
	if err := modes[i].run(t); err != nil {
		return profiled{}, err
	}
	shares, err := sharesOf(ctx, t.profile)
	return profiled{l.title, l.unit, typical(t.values[spentKey]), shares}, err
}

// profile stores a CPU profile of the server in a file; it takes d, in whole seconds.
func (srv *server) profile(ctx context.Context, path string, d time.Duration) error {
	if srv.admin == "" {
		return fmt.Errorf("%s did not say where its operator's listener is", srv.sys.name)
	}
	url := fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", srv.admin, int(d.Seconds()))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, res.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, res.Body)
	return cmp.Or(err, f.Close())
}

// A group is functions that do one sort of work.
type group struct {
	name      string
	functions *regexp.Regexp
}

// groups tells what a sample is for: it belongs to the group of the innermost function of its stack
// that has one, so that copying and hashing count for those who ask for them. The first that matches.
var groups = []group{
	{"kernel: writing to sockets", regexp.MustCompile(`^(syscall|golang\.org/x/sys/unix)\.[wW]ritev?\b`)},
	{"kernel: reading from sockets", regexp.MustCompile(`^(syscall|golang\.org/x/sys/unix)\.([rR]ead|[rR]ecvfrom|[rR]ecvmsg)\b`)},
	{"kernel: waiting for sockets (epoll)", regexp.MustCompile(`EpollWait|EpollCtl|epoll_?(wait|ctl)`)},
	{"kernel: threads (futex)", regexp.MustCompile(`^runtime\.(futex|usleep|osyield|tgkill|mincore|madvise|mmap|munmap|write1|read)\b`)},
	{"kernel: other calls (accept, close, options)", regexp.MustCompile(`^(syscall|golang\.org/x/sys/unix)\.`)},
	{"stacks that grow and shrink", regexp.MustCompile(`^runtime\.(newstack|copystack|shrinkstack|stackalloc|stackfree|malg)\b`)},
	{"memory: allocation and collection", regexp.MustCompile(`^runtime\.(mallocgc|gc[A-Z]\w*|bgsweep|bgscavenge|\(\*(mheap|mcache|mcentral|mspan|sweepLocked|gcWork|wbBuf|pageAlloc|scavengerState)\)|wbBufFlush|deductAssistCredit)`)},
	{"timers, deadlines, the clock", regexp.MustCompile(`^(time\.|runtime\.(\(\*timers?\)|resetTimer|\(\*timeTimer\)|poll_runtime_pollSetDeadline)|internal/poll\.(setDeadlineImpl|runtime_pollSetDeadline|\(\*FD\)\.Set\w*Deadline)|net\.\(\*\w+\)\.Set\w*Deadline)`)},
	{"Go's scheduler and channels", regexp.MustCompile(`^runtime\.(schedule|findRunnable|mcall|park_m|goready|ready|gopark|newproc|goexit|gdestroy|gosched|preemptPark|mstart|sysmon|retake|startm|stopm|wakep|handoffp|entersyscall|exitsyscall|reentersyscall|chansend|chanrecv|closechan|select|sema|netpoll|asyncPreempt|sigtramp)`)},
	{"WebSocket library", regexp.MustCompile(`^github\.com/coder/websocket`)},
	{"JSON and envelope", regexp.MustCompile(` \S*signaling/(message|encode|scan|envelope)\w*\.go|go-json-experiment`)},
	{"rooms, seats, rings", regexp.MustCompile(`duet/signaling\.`)},
	{"HTTP and handshake", regexp.MustCompile(`^(net/http|net/textproto|crypto|mime|net/url|github\.com/go-chi)|duet/httpapi\S* \S*httpapi/(upgrade|router|origin|limits|refuse|security|recover|clientaddr|accesslog|assets)\.go`)},
	{"WebSocket endpoint", regexp.MustCompile(`duet/httpapi`)},
	{"Go's net and bufio", regexp.MustCompile(`^(net|internal/poll|bufio|io|os)\.`)},
}

// transparent functions are how others reach the kernel.
var transparent = regexp.MustCompile(`^(internal/runtime/syscall/\S*Syscall6|(syscall|golang\.org/x/sys/unix)\.(Raw|raw)?(Syscall|VforkSyscall)\w*) `)

// otherWork is the group of what is left.
const otherWork = "everything else"

// sharesOf reads a CPU profile with `go tool pprof` and condenses it.
func sharesOf(ctx context.Context, path string) (map[string]float64, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "pprof", "-symbolize=none", "-traces", "-filefunctions", "-unit=ms", path)
	cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+filepath.Dir(path))
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool pprof %s: %w\n%s", path, err, said.String())
	}
	return condense(strings.NewReader(string(out)))
}

// traceHead is a sample's first line: its weight and its innermost function.
var traceHead = regexp.MustCompile(`^\s*([0-9.]+)ms\s+(\S.*)$`)

// condense adds up the samples of `go tool pprof -traces` by group, as shares of them all.
func condense(r io.Reader) (map[string]float64, error) {
	shares := map[string]float64{}
	var total, weight float64
	found := ""
	end := func() {
		if weight > 0 {
			shares[cmp.Or(found, otherWork)] += weight
			total += weight
		}
		weight, found = 0, ""
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	inside := false // behind the first rule, which ends the header
	for lines.Scan() {
		line := lines.Text()
		switch head := traceHead.FindStringSubmatch(line); {
		case strings.HasPrefix(line, "-----------+"):
			end()
			inside = true
			continue
		case !inside:
			continue
		case head != nil && weight == 0:
			fmt.Sscan(head[1], &weight)
			line = head[2]
		}
		if found == "" {
			found = groupOf(strings.TrimSpace(line))
		}
	}
	end()
	if total == 0 {
		return nil, cmp.Or(lines.Err(), errNoSamples)
	}
	for g := range shares {
		shares[g] /= total
	}
	return shares, lines.Err()
}

// groupOf is the group of one function with its file; "" where it has none.
func groupOf(function string) string {
	if transparent.MatchString(function) {
		return ""
	}
	for _, g := range groups {
		if g.functions.MatchString(function) {
			return g.name
		}
	}
	return ""
}

// profileTable has CPU µs by group and load, the largest group first.
func (r *report) profileTable(w io.Writer) {
	if len(r.profiles) == 0 {
		return
	}
	weight := map[string]float64{}
	head, rule, all := "| CPU µs and share |", "|---|", "| **all** |"
	for _, p := range r.profiles {
		head += fmt.Sprintf(" %s, a %s |", p.title, p.unit)
		rule += "---|"
		all += fmt.Sprintf(" %s |", number(p.spent, 1))
		for g, share := range p.shares {
			weight[g] += share
		}
	}
	fmt.Fprintf(w, "%s\n%s\n%s\n", head, rule, all)
	names := slices.SortedFunc(maps.Keys(weight), func(a, b string) int {
		return cmp.Or(cmp.Compare(weight[b], weight[a]), cmp.Compare(a, b))
	})
	for _, g := range names {
		fmt.Fprintf(w, "| %s |", g)
		for _, p := range r.profiles {
			fmt.Fprintf(w, " %s (%.0f %%) |", number(p.shares[g]*p.spent, 1), 100*p.shares[g])
		}
		fmt.Fprintln(w)
	}
}
