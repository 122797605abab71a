package httpapi

import "sync/atomic"

// A turn lets one goroutine at a time do a piece of work, and lets it look again where there was more
// to do meanwhile. Its zero value is idle. Safe for concurrent use.
type turn struct{ state atomic.Int32 }

// States of a turn.
const (
	idle  = iota // nobody is at it
	busy         // somebody is
	again        // somebody is, and must look once more before it ends
)

// ask has the work done. True: nobody is at it, and the caller must see that somebody is.
func (t *turn) ask() bool {
	for {
		switch t.state.Load() {
		case again:
			return false
		case busy:
			if t.state.CompareAndSwap(busy, again) {
				return false
			}
		case idle:
			if t.take() {
				return true
			}
		}
	}
}

// take takes the turn where nobody has it.
func (t *turn) take() bool { return t.state.CompareAndSwap(idle, busy) }

// end gives the turn back. False: more was asked for meanwhile, and the caller still has it.
func (t *turn) end() bool {
	if t.state.CompareAndSwap(busy, idle) {
		return true
	}
	t.state.Store(busy)
	return false
}
