package signaling

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A hopAlone is a hop whose frames are written down and go nowhere.
type hopAlone struct {
	*hop
	began time.Time
	said  []string // each with the time since began; guarded by the hop's mu
}

func newHopAlone() *hopAlone {
	a := &hopAlone{began: time.Now()}
	a.hop = newHop(testHopMetrics(), func(_, number, confirmed uint64, part []byte) {
		a.said = append(a.said, fmt.Sprintf("%v: %d %s, %d confirmed", time.Since(a.began), number, part, confirmed))
	}, func() {})
	return a
}

// says compares what was said since the last call.
func (a *hopAlone) says(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(a.said, want) {
		t.Errorf("it says %q, want %q", a.said, want)
	}
	a.said = nil
}

// hush forgets what was said since the last call.
func (a *hopAlone) hush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said = nil
}

// takes hears a part and handles it.
func (a *hopAlone) takes(t *testing.T, number uint64) {
	t.Helper()
	if !a.heard(0, number, 0, nil) {
		t.Fatalf("part %d is not taken", number)
	}
	a.done(0, number)
}

// While nothing is confirmed everything is sent again, in ever longer pauses of at most 2 s.
func TestHopRepeatsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newHopAlone()
		defer a.close()
		a.put([]byte("a"))
		a.put([]byte("b"))
		time.Sleep(6 * time.Second)
		var want []string
		for _, at := range []string{"0s", "500ms", "1.5s", "3.5s", "5.5s"} {
			want = append(want, at+": 1 a, 0 confirmed", at+": 2 b, 0 confirmed")
		}
		a.says(t, want...)
	})
}

// Once something was confirmed, the pauses begin short again.
func TestHopIsQuickAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newHopAlone()
		defer a.close()
		a.put([]byte("a"))
		a.put([]byte("b"))
		time.Sleep(3600 * time.Millisecond) // after the repetition of 3.5 s
		a.hush()
		a.heard(0, 0, 1, nil)
		time.Sleep(time.Second)
		a.says(t, "4.1s: 2 b, 0 confirmed")
	})
}

// As long as something is confirmed now and then, nobody is given up.
func TestHopBearsSlowness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newHopAlone()
		defer a.close()
		a.stuck = func() { t.Error("given up") }
		for range 10 {
			a.put(nil)
		}
		for n := range uint64(10) {
			time.Sleep(hopPatience * 2 / 3)
			a.heard(0, 0, n+1, nil)
		}
	})
}

// What is missing is asked for at once, but not with every frame that comes after it.
func TestHopAsksForWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newHopAlone()
		defer a.close()
		for _, number := range []uint64{2, 3, 4} {
			if a.heard(0, number, 0, nil) {
				t.Errorf("part %d is taken, without the first", number)
			}
		}
		a.says(t, "0s: 0 again, 0 confirmed")
		time.Sleep(askAgainAfter)
		a.heard(0, 5, 0, nil)
		a.says(t, "100ms: 0 again, 0 confirmed")
	})
}

// Who is asked again sends everything once, until something is confirmed.
func TestHopIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newHopAlone()
		defer a.close()
		a.put([]byte("a"))
		a.put([]byte("b"))
		a.says(t, "0s: 1 a, 0 confirmed", "0s: 2 b, 0 confirmed")
		a.heard(0, 0, 0, partAgain)
		a.heard(0, 0, 0, partAgain)
		a.says(t, "0s: 1 a, 0 confirmed", "0s: 2 b, 0 confirmed")
		a.heard(0, 0, 1, partAgain)
		a.says(t, "0s: 2 b, 0 confirmed")
	})
}

// Only what was handled is confirmed: within 50 ms, or at once when it is much.
func TestHopConfirms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newHopAlone()
		defer a.close()
		a.heard(0, 1, 0, nil)
		a.put([]byte("a"))
		a.says(t, "0s: 1 a, 0 confirmed")
		a.heard(0, 0, 1, nil)
		a.done(0, 1)
		time.Sleep(confirmAfter)
		a.says(t, "50ms: 0 , 1 confirmed")
		for n := range uint64(confirmEvery) {
			a.takes(t, n+2)
		}
		a.says(t, "50ms: 0 , 33 confirmed")
		time.Sleep(time.Second)
		a.hush() // the timer had been set
		if a.heard(0, 33, 0, nil) {
			t.Error("a part is taken twice")
		}
		time.Sleep(confirmAfter)
		a.says(t, "1.1s: 0 , 33 confirmed") // the first confirmation was lost
	})
}

// What waits on the way to a connection is bounded, whatever its client has room for.
func TestHopToAConnectionIsBounded(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, pia := all.nodes["a"].hub.testPeer(t), all.nodes["b"].hub.testPeer(t)
		ada.joined("demo", "")
		pia.joined("demo", "")
		all.lose(1)
		for n := range 2 * hopParts {
			ada.send(`{"type":"message","data":%d}`, n)
		}
		synctest.Wait()
		s := seatOn(t, all.nodes["a"])
		s.hop.mu.Lock()
		if n := len(s.hop.waiting); n > hopParts {
			t.Errorf("%d parts wait for confirmation, want at most %d", n, hopParts)
		}
		s.hop.mu.Unlock()
		all.lose(0)
	})
}
