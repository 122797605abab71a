//go:build unix

package main

import (
	"math"

	"golang.org/x/sys/unix"
)

// descriptorLimit returns how many files the process may have open. The Go runtime has raised the soft
// limit to the hard one by now.
func descriptorLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return defaultDescriptors
	}
	return int(min(uint64(limit.Cur), math.MaxInt32))
}
