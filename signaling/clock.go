package signaling

import (
	"context"
	"sync"
	"time"
)

const (
	clockTick = time.Second
	// A tick that comes this much late means that the whole process stood still.
	stallAfter = 3 * time.Second
)

// A Clock is time without the process's stalls (section 5): while the process is stopped or its
// machine is paused, no deadline comes nearer. Safe for concurrent use.
type Clock struct {
	mu      sync.Mutex
	ticked  time.Time // zero until Run: nothing is taken for a stall before the first tick
	stalled time.Duration
}

// Now is the time by which every deadline of duet is measured.
func (c *Clock) Now() time.Time {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notice(now)
	return now.Add(-c.stalled)
}

// Run ticks once a second until ctx ends.
func (c *Clock) Run(ctx context.Context) error {
	ticker := time.NewTicker(clockTick)
	defer ticker.Stop()
	c.tick(time.Now())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			c.tick(time.Now())
		}
	}
}

func (c *Clock) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notice(now)
	c.ticked = now
}

// Skip leaves out time in which nothing could be done.
func (c *Clock) Skip(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stalled += d
}

// notice books a stall when the last tick is overdue. Whoever asks for the time first after a
// stall finds it, be it the ticker or one of the timers that all fire at once.
func (c *Clock) notice(now time.Time) {
	if c.ticked.IsZero() {
		return
	}
	if late := now.Sub(c.ticked) - clockTick; late > stallAfter {
		c.stalled += late
		c.ticked = now.Add(-clockTick) // the tick is still overdue: what follows is stall as well
	}
}
