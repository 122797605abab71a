//go:build !linux

package natsbus

import "time"

var started = time.Now()

// bootTime stands still while some systems are suspended: run clusters on Linux.
func bootTime() time.Duration { return time.Since(started) }
