package signaling

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func testHopMetrics() *hopMetrics {
	c := func() prometheus.Counter { return prometheus.NewCounter(prometheus.CounterOpts{Name: "x"}) }
	return &hopMetrics{c(), c(), c(), c(), c(), c(), c()}
}

// A hopWorld is two hops and the ways between them: a link's, which lives as long as the run, and a
// seat's, which another one follows now and then, as when a room moves.
type hopWorld struct {
	metrics  *hopMetrics
	link     *hop
	up, down *hopWay

	mu       sync.Mutex // never taken under a hop's
	seat     *hop
	fromLink []int // as the seats handled it
	fromSeat []int // as the link did
	said     int   // by the seats; what the link does not have is said again by the next
	stuck    int
	wrong    error
}

// A hopWay brings frames one way: in order, after a while, or not at all.
type hopWay struct {
	latency time.Duration
	frames  chan hopFrame

	mu    sync.Mutex
	chaos *rand.Rand
	loss  float64
	deaf  time.Time // until then everything is lost
	sent  int       // lost ones too
}

type hopFrame struct {
	turn, number, confirmed uint64
	part                    []byte
	at                      time.Time // when it arrives, unless others are before it
}

func newHopWay(seed, which uint64, loss float64, latency time.Duration) *hopWay {
	return &hopWay{latency: latency, frames: make(chan hopFrame, 1<<14), loss: loss, chaos: rand.New(rand.NewPCG(seed, which))}
}

func (w *hopWay) send(turn, number, confirmed uint64, part []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent++
	if w.chaos.Float64() >= w.loss && !time.Now().Before(w.deaf) {
		w.frames <- hopFrame{turn, number, confirmed, part, time.Now().Add(time.Duration(w.chaos.Int64N(int64(w.latency))))}
	}
}

func (w *hopWay) carry(deliver func(hopFrame)) {
	for f := range w.frames {
		time.Sleep(time.Until(f.at))
		deliver(f)
	}
}

func newHopWorld(seed uint64, loss float64, latency time.Duration) *hopWorld {
	w := &hopWorld{metrics: testHopMetrics(), up: newHopWay(seed, 11, loss, latency), down: newHopWay(seed, 12, loss, latency)}
	w.link = newHop(w.metrics, w.up.send, w.isStuck)
	w.attach()
	return w
}

func (w *hopWorld) isStuck() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stuck++
}

// attach gives the link another seat, which goes on where the last one was.
func (w *hopWorld) attach() {
	turn := w.link.restart()
	w.mu.Lock()
	if w.seat != nil {
		w.seat.close()
	}
	w.seat = newHop(w.metrics, w.down.send, w.isStuck)
	handled := uint64(len(w.fromLink))
	w.seat.count(turn, handled)
	for i := len(w.fromSeat); i < w.said; i++ {
		w.seat.put([]byte(strconv.Itoa(i)))
	}
	w.mu.Unlock()
	w.link.resume(handled)
}

// say has the seat say its next part.
func (w *hopWorld) say() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seat.put([]byte(strconv.Itoa(w.said)))
	w.said++
}

func (w *hopWorld) toSeat(f hopFrame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seat.heard(f.turn, f.number, f.confirmed, f.part) {
		w.fromLink = append(w.fromLink, w.part(f, len(w.fromLink)))
		w.seat.done(f.turn, f.number)
	}
}

func (w *hopWorld) toLink(f hopFrame) {
	if !w.link.heard(f.turn, f.number, f.confirmed, f.part) {
		return
	}
	w.mu.Lock()
	if i := w.part(f, -1); i >= len(w.fromSeat) { // else the seat before said it too
		w.fromSeat = append(w.fromSeat, w.part(f, len(w.fromSeat)))
	}
	w.mu.Unlock()
	w.link.done(f.turn, f.number)
}

// part is which part f brings; it has to be the one wanted, but for -1.
func (w *hopWorld) part(f hopFrame, want int) int {
	i, err := strconv.Atoi(string(f.part))
	if err != nil || want >= 0 && i != want {
		w.wrong = errors.Join(w.wrong, fmt.Errorf("part %q came instead of %d", f.part, want))
	}
	return i
}

// settled reports whether many parts came each way, and nothing is left to say.
func (w *hopWorld) settled(many int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.fromLink) == many && len(w.fromSeat) == many && w.link.idle() && w.seat.idle()
}

func (w *hopWorld) sent() int {
	w.up.mu.Lock()
	defer w.up.mu.Unlock()
	w.down.mu.Lock()
	defer w.down.mu.Unlock()
	return w.up.sent + w.down.sent
}

// Whatever the bus loses, every part is handled once and in order, both ways, also when another seat
// goes on for the first; and then nothing is said any more.
func TestHop(t *testing.T) {
	few := map[bool]int{false: 400, true: 50}[raceEnabled]
	if testing.Short() {
		few /= 4
	}
	seeds := modelSetting(t, "DUET_MODEL_HOPS", few)
	var stuck, resent float64
	synctest.Test(t, func(t *testing.T) {
		for seed := range seeds {
			w := runHop(t, uint64(seed))
			stuck += float64(min(w.stuck, 1))
			resent += testutil.ToFloat64(w.metrics.resent)
		}
	})
	t.Logf("%d runs, %v parts sent again; %v gave up", seeds, resent, stuck)
	if stuck > float64(seeds)/20+1 {
		t.Errorf("%v of %d runs gave up, with at most 30 %% of the frames lost", stuck, seeds)
	}
}

func runHop(t *testing.T, seed uint64) *hopWorld {
	r := rand.New(rand.NewPCG(seed, 3))
	latency := []time.Duration{time.Microsecond, time.Millisecond, 30 * time.Millisecond}[r.IntN(3)]
	w := newHopWorld(seed, float64(r.IntN(31))/100, latency)
	var carriers, senders sync.WaitGroup
	carriers.Go(func() { w.up.carry(w.toSeat) })
	carriers.Go(func() { w.down.carry(w.toLink) })
	many, pause, moves := 1+r.IntN(400), 1+r.Int64N(int64(20*time.Millisecond)), r.IntN(6)
	for _, say := range []func(i int){
		func(i int) { w.link.putSlowly([]byte(strconv.Itoa(i))) },
		func(int) { w.say() },
	} {
		chaos := rand.New(rand.NewPCG(seed, r.Uint64()))
		senders.Go(func() {
			for i := range many {
				time.Sleep(time.Duration(chaos.Int64N(pause)))
				say(i)
			}
		})
	}
	for range moves {
		time.Sleep(time.Duration(r.Int64N(int64(time.Second))))
		if way := []*hopWay{w.up, w.down, nil, nil}[r.IntN(4)]; way != nil {
			way.mu.Lock()
			way.deaf = time.Now().Add(time.Duration(r.Int64N(int64(4 * time.Second))))
			way.mu.Unlock()
		} else {
			w.attach()
		}
	}
	for range 6000 { // at 30 % loss two or three parts get through at a time
		if w.settled(many) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	complete := w.settled(many)
	time.Sleep(time.Second) // for the last confirmations
	before := w.sent()
	time.Sleep(time.Minute)
	switch {
	case w.wrong != nil:
		t.Fatalf("seed %d: %v", seed, w.wrong)
	case !complete && w.stuck == 0:
		t.Fatalf("seed %d: of %d parts each way %d came up and %d down; %d and %d are not confirmed", seed, many, len(w.fromLink), len(w.fromSeat), len(w.link.waiting), len(w.seat.waiting))
	case complete && w.sent() != before:
		t.Fatalf("seed %d: %d frames in a minute in which there was nothing to say", seed, w.sent()-before)
	}
	w.link.close()
	w.seat.close()
	senders.Wait() // one may wait for what was not confirmed
	close(w.up.frames)
	close(w.down.frames)
	carriers.Wait()
	return w
}

// A pair is two hops over a bus that works, or does not.
func hopPair(t *testing.T, works bool) (a, b *hop, m *hopMetrics) {
	m = testHopMetrics()
	toA, toB := newHopWay(1, 1, 0, time.Millisecond), newHopWay(1, 2, 0, time.Millisecond)
	if !works {
		toA.loss, toB.loss = 1, 1
	}
	a = newHop(m, toB.send, func() { m.lost.Inc() })
	b = newHop(m, toA.send, func() { m.lost.Inc() })
	var carriers sync.WaitGroup
	for _, end := range []struct {
		way *hopWay
		hop *hop
	}{{toA, a}, {toB, b}} {
		carriers.Go(func() {
			end.way.carry(func(f hopFrame) {
				if end.hop.heard(f.turn, f.number, f.confirmed, f.part) {
					end.hop.done(f.turn, f.number)
				}
			})
		})
	}
	t.Cleanup(func() {
		a.close()
		b.close()
		close(toA.frames)
		close(toB.frames)
		carriers.Wait()
	})
	return a, b, m
}

// As long as confirmations come, nothing is sent again.
func TestHopSendsOnceWhatArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, m := hopPair(t, true)
		for range 2000 {
			a.put([]byte("part"))
			time.Sleep(10 * time.Millisecond)
		}
		if n := testutil.ToFloat64(m.resent); n != 0 {
			t.Errorf("%v parts were sent again over a bus that loses nothing", n)
		}
	})
}

func TestHopGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, m := hopPair(t, false)
		began := time.Now()
		a.put([]byte("part"))
		for testutil.ToFloat64(m.lost) == 0 && time.Since(began) < 2*hopPatience {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took < hopPatience || took > hopPatience+resendMost+time.Second {
			t.Errorf("gave up after %v", took)
		}
	})
}

// putSlowly waits while too much is not confirmed, be it many parts or big ones.
func TestHopPutSlowlyWaits(t *testing.T) {
	for _, size := range []int{1, hopBytes/4 + 1, hopBytes + 1} {
		synctest.Test(t, func(t *testing.T) {
			a, _, _ := hopPair(t, true)
			a.restart() // and nothing is confirmed
			most := max(1, min(hopParts, hopBytes/size))
			put := 0
			done := make(chan bool)
			go func() {
				for range most + 2 {
					if a.putSlowly(make([]byte, size)) {
						put++
					}
				}
				done <- true
			}()
			synctest.Wait()
			if put != most {
				t.Fatalf("%d parts of %d bytes were taken, want %d", put, size, most)
			}
			a.resume(1)
			synctest.Wait()
			if put != most+1 {
				t.Fatalf("after one was confirmed %d parts of %d bytes are taken, want %d", put, size, most+1)
			}
			a.close()
			<-done
			if put != most+1 || a.putSlowly(nil) {
				t.Error("a closed hop took a part")
			}
		})
	}
}

// What another end said, before the hop went on with this one, changes nothing.
func TestHopLeavesOtherTurnsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, _ := hopPair(t, true)
		first := a.restart()
		a.resume(0)
		a.put([]byte("part"))
		a.heard(first, 1, 0, []byte("old"))
		if second := a.restart(); second == first {
			t.Fatal("the turn is the same")
		}
		a.done(first, 1)
		if a.heard(first, 1, 1, []byte("old")) {
			t.Error("a part of an earlier turn was taken")
		}
		if a.handled != 0 || a.idle() {
			t.Errorf("handled %d, idle %v by what was said in an earlier turn", a.handled, a.idle())
		}
	})
}
