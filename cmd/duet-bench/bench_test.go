package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Time counts from the first step that is announced, whoever announces it.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		p := &progress{w: &said, expected: 10 * time.Second}
		p.begin(0, 3, "relay")
		time.Sleep(8 * time.Second)
		p.passed = 4 * time.Second
		p.begin(1, 3, "calls")
		if want := "[1/3, 0s gone, about 10s left] relay\n[2/3, 8s gone, about 12s left] calls\n"; said.String() != want {
			t.Errorf("got\n%swant\n%s", said.String(), want)
		}
	})
}
