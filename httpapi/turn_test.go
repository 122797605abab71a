package httpapi

import (
	"sync"
	"sync/atomic"
	"testing"
)

// Whatever is asked for is done after it was asked for, by one goroutine at a time.
func TestTurn(t *testing.T) {
	const askers, each = 4, 1000
	var (
		work          turn
		asked, done   atomic.Int64
		atIt          atomic.Int32
		asking, going sync.WaitGroup
	)
	do := func() {
		if atIt.Add(1) != 1 {
			t.Error("two at a time")
		}
		for {
			done.Store(asked.Load())
			atIt.Add(-1)
			if work.end() {
				return
			}
			atIt.Add(1)
		}
	}
	for range askers {
		asking.Go(func() {
			for range each {
				asked.Add(1)
				if work.ask() {
					going.Go(do)
				}
			}
		})
	}
	asking.Wait()
	going.Wait()
	if done.Load() != askers*each || !work.take() || work.take() {
		t.Errorf("%d of %d done, state %d", done.Load(), askers*each, work.state.Load())
	}
}
