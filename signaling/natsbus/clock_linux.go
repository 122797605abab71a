package natsbus

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A bootReading is what bootTime last learned from the kernel.
type bootReading struct {
	gap    time.Duration // by which the wall clock led Go's monotonic time
	offset time.Duration // by which CLOCK_BOOTTIME led it
}

var (
	booted   = time.Now()
	lastBoot atomic.Pointer[bootReading]
)

// sameGap is by how much the wall clock may lead more or less than it did, for no suspension to be
// between: far less than the fence leaves.
const sameGap = time.Millisecond

// bootTime is CLOCK_BOOTTIME (clock_gettime(2)), which goes on while the machine is suspended, as the other
// nodes' clocks do; Go's monotonic time does not. Go has no way to read it without a system call, which
// would be three for each message. A suspension moves the wall clock against monotonic time, as a step of
// the wall clock does, and nothing else moves them: while they have not moved, monotonic time is enough.
func bootTime() time.Duration {
	now := time.Now()
	mono := now.Sub(booted)
	gap := time.Duration(now.UnixNano()) - mono
	if r := lastBoot.Load(); r != nil && (gap-r.gap).Abs() < sameGap {
		return mono + r.offset
	}
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("natsbus: CLOCK_BOOTTIME: " + err.Error()) // Linux has it since 2.6.39
	}
	boot := time.Duration(t.Nano())
	lastBoot.Store(&bootReading{gap, boot - mono})
	return boot
}
