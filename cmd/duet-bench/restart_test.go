package main

import (
	"slices"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	const almost = 1 - 1e-9
	for n, limit := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second} {
		if low, high := backoff(n, 0), backoff(n, almost); low != 0 || high > limit || high < limit-time.Millisecond {
			t.Errorf("try %d: %v to %v, want 0 to %v", n, low, high, limit)
		}
	}
	if d := backoff(1000, almost); d > backoffLimit || d < backoffLimit-time.Millisecond {
		t.Errorf("after many tries: %v", d)
	}
}

// Clients wait in the order in which they are to try again.
func TestHerdOrder(t *testing.T) {
	s := &swarm{}
	for range 50 {
		s.pair()
	}
	h := newHerd(s, 0)
	for _, c := range s.conns {
		h.lost(c)
	}
	if len(h.waiting) != 100 || !slices.IsSortedFunc(h.waiting, func(a, b retry) int { return a.at.Compare(b.at) }) {
		t.Errorf("%d wait, not in order of time", len(h.waiting))
	}
}
