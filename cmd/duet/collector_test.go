package main

import "testing"

func TestGrowthFor(t *testing.T) {
	for live, want := range map[uint64]int{0: 600, 1 << 20: 600, 4 << 20: 150, 24 << 20: 50, 1 << 30: 50} {
		if got := growthFor(live); got != want {
			t.Errorf("%d bytes alive: %d %%, want %d", live, got, want)
		}
	}
}
