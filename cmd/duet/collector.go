package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How much may be allocated between two collections: half of what is alive, since connections that
// wait are most of it and the runtime's 100 % would keep as much again for garbage; but leastGarbage at
// any rate. A server with few connections has a heap of a few megabytes, and under full load would
// otherwise collect it a hundred times a second.
const (
	heapGrowth   = 50      // percent
	leastGarbage = 6 << 20 // bytes
)

// tuneCollector sets the collector, and again after each collection, unless the operator has chosen by
// GOGC. GOMEMLIMIT works as ever.
func tuneCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	set := 0
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var tune func(*collection)
	tune = func(c *collection) {
		metrics.Read(live)
		if growth := growthFor(live[0].Value.Uint64()); max(growth-set, set-growth) > set/20 {
			set = growth
			debug.SetGCPercent(set)
		}
		runtime.SetFinalizer(c, tune)
	}
	tune(&collection{})
}

// A collection is garbage whose finalizer runs after each one. (The pointer keeps it out of the blocks
// that small values share, which live longer.)
type collection struct{ _ *byte }

// growthFor is the percentage for a heap in which so many bytes are alive.
func growthFor(live uint64) int {
	return max(heapGrowth, int(100*leastGarbage/max(live, 1<<20)))
}
