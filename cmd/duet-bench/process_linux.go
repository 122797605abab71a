package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cores returns the one for servers and the one for the load generator: the first two this process
// may use.
func cores() (coreSet, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return coreSet{}, fmt.Errorf("reading the CPU affinity: %w", err)
	}
	var free []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			free = append(free, i)
		}
	}
	return coreSet{free[0], free[min(1, len(free)-1)]}, nil
}

// pin keeps this process on one core: all threads there are, and so those that come of them.
func pin(core int) error {
	runtime.GOMAXPROCS(1)
	var set unix.CPUSet
	set.Set(core)
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		id, _ := strconv.Atoi(t.Name())
		if err := unix.SchedSetaffinity(id, &set); err != nil && err != unix.ESRCH {
			return fmt.Errorf("pinning to core %d: %w", core, err)
		}
	}
	return nil
}

// startOn starts cmd on one core.
func startOn(core int, cmd *exec.Cmd) error {
	// The kernel ends the child with its parent, however that ends.
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return onCore(core, cmd.Start)
}

// onCore has f start processes on one core: a child inherits the affinity of the thread that forks it.
func onCore(core int, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var own, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &own); err != nil {
		return err
	}
	set.Set(core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pinning to core %d: %w", core, err)
	}
	defer unix.SchedSetaffinity(0, &own)
	return f()
}

// cpuTime is the user and system time that a process has used, in all its threads. Read from its
// CPU clock (clock_getcpuclockid(3)): /proc/<pid>/stat has the same in steps of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(^int32(pid)<<3|2, &t); err != nil {
		return 0, fmt.Errorf("the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// coreTime is the time that the given cores have worked for processes, in steps of 10 ms.
func coreTime(cores ...int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	var ticks int64
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 9 || !slices.ContainsFunc(cores, func(n int) bool { return f[0] == "cpu"+strconv.Itoa(n) }) {
			continue
		}
		for _, column := range []int{1, 2, 3, 8} { // user, nice, system, steal: proc_stat(5)
			n, _ := strconv.ParseInt(f[column], 10, 64)
			ticks += n
		}
	}
	const tick = time.Second / 100 // USER_HZ
	return time.Duration(ticks) * tick, nil
}

// ownTime is the CPU time of this process.
func ownTime() time.Duration {
	t, _ := cpuTime(os.Getpid())
	return t
}

// resident is the memory of a process that is in RAM, in bytes.
func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm: %q", pid, b)
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// raiseFiles lifts the limit on open files as far as it goes and returns it.
func raiseFiles() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	l.Cur = l.Max
	return l.Cur, unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

// machine describes the computer in a few words.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	var u unix.Utsname
	unix.Uname(&u)
	release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	return fmt.Sprintf("%s, %d cores, Linux %s", model, runtime.NumCPU(), release)
}
