package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"duet/httpapi/session"
)

const (
	sampleEvery  = time.Second
	emptyWithin  = 2 * time.Minute // from the end of the last client until the server holds nothing of it
	moreRoutines = 4               // than at the start, at the end: the metrics' own connection comes and goes
	moreFiles    = 4
	moreHeap     = 4 << 20 // bytes after a garbage collection
)

// soak is the storm that goes on: rooms come and go, kicked, beside clients that misbehave.
type soak struct {
	length, warm, grace time.Duration
	rooms               int
}

func newSoak(f *flag.FlagSet) storm {
	s := new(soak)
	f.DurationVar(&s.length, "for", 10*time.Minute, "how long it goes on")
	f.DurationVar(&s.warm, "warm", 0, "time at the beginning that the slopes leave out (default: a fifth)")
	f.DurationVar(&s.grace, "grace", 30*time.Second, "how long the server keeps a seat whose connection was lost")
	f.IntVar(&s.rooms, "rooms", 100, "calls at once")
	return s
}

// A vice is a way to misbehave. It does so once and returns how it ended; nil = as it must.
type vice struct {
	name string
	do   func(ctx context.Context, addr string, random *rand.Rand) error
}

var vices = []vice{
	{"bad messages", sayNonsense},
	{"flood", flood},
	{"slow reader", readNothing},
	{"half a handshake", stopHalfway},
}

func (k *soak) run(ctx context.Context, w *world) (string, error) {
	if k.warm == 0 {
		k.warm = k.length / 5
	}
	s, err := w.start("127.0.0.1:0", "DUET_GRACE="+k.grace.String(), "DUET_WRITE_TIMEOUT=3s")
	if err != nil {
		return "", err
	}
	defer s.kill()
	before, err := s.settled(ctx)
	if err != nil {
		return "", err
	}

	var total totals
	var done [8]atomic.Int64
	var log record
	stop := w.watch(func() string { return log.last() + "; " + total.String() })
	defer stop()
	began := time.Now()
	running, cancel := context.WithTimeout(ctx, k.length)
	defer cancel()
	var busy, sampling sync.WaitGroup
	for n := range k.rooms {
		random := rand.New(rand.NewPCG(w.seed, uint64(n)))
		busy.Go(func() {
			for round := 0; running.Err() == nil; round++ {
				c := &call{server: s.addr, room: fmt.Sprintf("soak-%d-%d", n, round), kicks: random.IntN(4), every: 2 * time.Second,
					rate: 0.5 + 4*random.Float64(), total: &total}
				if err := c.run(ctx, random); err != nil && ctx.Err() == nil {
					log.fault(err)
				}
			}
		})
	}
	for n, v := range vices {
		for i := range 3 {
			random := rand.New(rand.NewPCG(w.seed, uint64(1000*(n+1)+i)))
			busy.Go(func() {
				for running.Err() == nil {
					if err := v.do(ctx, s.addr, random); err != nil && ctx.Err() == nil {
						log.fault(fmt.Errorf("%s: %w", v.name, err))
						return
					}
					done[n].Add(1)
				}
			})
		}
	}
	idle := make(chan struct{})
	sampling.Go(func() {
		for tick := time.NewTicker(sampleEvery); ; {
			select {
			case <-tick.C:
				if m, err := s.metrics(ctx); err == nil && running.Err() == nil {
					log.add(time.Since(began), m)
				}
			case <-idle:
				tick.Stop()
				return
			}
		}
	})
	busy.Wait()
	close(idle)
	sampling.Wait()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	after, left := s.emptied(ctx)
	var said []string
	for n, v := range vices {
		said = append(said, fmt.Sprintf("%d × %s", done[n].Load(), v.name))
	}
	summary := fmt.Sprintf("%s; %s; %s; at the end %s", total.String(), strings.Join(said, ", "), log.slopes(k.warm), differences(before, after))
	return summary, errors.Join(total.violation(), some(log.faults), s.alive(), left, grown(before, after))
}

// watched are the metrics of the record.
var watched = []struct {
	metric, name, unit string
	scale              float64
}{
	{"process_resident_memory_bytes", "memory", "KiB", 1.0 / 1024},
	{"go_goroutines", "goroutines", "", 1},
	{"process_open_fds", "descriptors", "", 1},
	{"duet_ring_bytes", "ring", "KiB", 1.0 / 1024},
	{"duet_rooms", "rooms", "", 1},
}

// A record is what was sampled.
type record struct {
	mu     sync.Mutex
	at     []float64 // hours
	values [][]float64
	faults []error
}

func (r *record) add(at time.Duration, m map[string]float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = append(r.at, at.Hours())
	row := make([]float64, len(watched))
	for i, w := range watched {
		row[i] = m[w.metric] * w.scale
	}
	r.values = append(r.values, row)
}

func (r *record) fault(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, err)
}

func (r *record) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.values) == 0 {
		return "no sample yet"
	}
	var parts []string
	for i, w := range watched {
		parts = append(parts, fmt.Sprintf("%s %.0f %s", w.name, r.values[len(r.values)-1][i], w.unit))
	}
	return fmt.Sprintf("%.0f s: %s", r.at[len(r.at)-1]*3600, strings.Join(parts, ", "))
}

// slopes tells mean and growth of everything watched, without the first warm.
func (r *record) slopes(warm time.Duration) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := 0
	for first < len(r.at) && r.at[first] < warm.Hours() {
		first++
	}
	var parts []string
	for i, w := range watched {
		var y []float64
		for _, row := range r.values[first:] {
			y = append(y, row[i])
		}
		mean, slope, off := line(r.at[first:], y)
		parts = append(parts, fmt.Sprintf("%s %.0f %s, %+.1f ± %.1f an hour", w.name, mean, w.unit, slope, off))
	}
	return fmt.Sprintf("%d samples: %s", len(r.at)-first, strings.Join(parts, "; "))
}

// settled returns the server's metrics after a garbage collection.
func (s *server) settled(ctx context.Context) (map[string]float64, error) {
	for range 2 { // the first collection only begins to give back what pools hold
		if err := s.collect(ctx); err != nil {
			return nil, err
		}
	}
	return s.metrics(ctx)
}

// emptied waits until no connection and no room is left.
func (s *server) emptied(ctx context.Context) (map[string]float64, error) {
	late := time.Now().Add(emptyWithin)
	for {
		m, err := s.settled(ctx)
		if err != nil {
			return nil, err
		}
		if m["duet_connections"] == 0 && m["duet_rooms"] == 0 && m["duet_seats"] == 0 {
			return m, nil
		}
		if time.Now().After(late) {
			return m, fmt.Errorf("%v after the last client there are %v connections, %v rooms and %v seats", emptyWithin,
				m["duet_connections"], m["duet_rooms"], m["duet_seats"])
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return m, ctx.Err()
		}
	}
}

// bounds are how much more there may be at the end than at the start.
var bounds = []struct {
	metric, name string
	more         float64
}{
	{"go_goroutines", "goroutines", moreRoutines},
	{"process_open_fds", "descriptors", moreFiles},
	{"duet_ring_bytes", "ring bytes", 0},
	{"go_memstats_heap_alloc_bytes", "heap bytes", moreHeap},
	{"process_resident_memory_bytes", "resident bytes", -1},
	{"duet_panics_total", "panics", 0},
}

func differences(before, after map[string]float64) string {
	var parts []string
	for _, b := range bounds {
		parts = append(parts, fmt.Sprintf("%s %.0f (before %.0f)", b.name, after[b.metric], before[b.metric]))
	}
	return strings.Join(parts, ", ")
}

func grown(before, after map[string]float64) error {
	var errs []error
	for _, b := range bounds {
		if more := after[b.metric] - before[b.metric]; b.more >= 0 && more > b.more {
			errs = append(errs, fmt.Errorf("%s: %.0f more than at the start", b.name, more))
		}
	}
	return errors.Join(errs...)
}

// ---- vices

// sayNonsense says bad messages until the server has had enough, and expects 1008.
func sayNonsense(ctx context.Context, addr string, random *rand.Rand) error {
	raw, err := session.DialRaw(ctx, addr, "/ws")
	if err != nil {
		return err
	}
	defer raw.Close()
	if random.IntN(2) == 0 {
		raw.Say(fmt.Sprintf(`{"type":"join","room":"nonsense-%d"}`, random.Uint64()))
	}
	nonsense := []string{`{`, `[]`, `{"type":"offer"}`, `{"type":"join","room":" "}`, `{"type":"candidate","candidate":7}`, `{"type":"no such thing"}`, `{"type":"ping","type":"ping"}`}
	for range 10 {
		raw.Say(nonsense[random.IntN(len(nonsense))])
	}
	if err := raw.WantClose(1008); err != nil {
		return err
	}
	rest(ctx, random, time.Second)
	return nil
}

// rest lets some time pass.
func rest(ctx context.Context, random *rand.Rand, most time.Duration) {
	select {
	case <-time.After(time.Duration(random.Float64() * float64(most))):
	case <-ctx.Done():
	}
}

// flood says far more than is allowed, and expects 1008.
func flood(ctx context.Context, addr string, random *rand.Rand) error {
	raw, err := session.DialRaw(ctx, addr, "/ws")
	if err != nil {
		return err
	}
	defer raw.Close()
	raw.Say(fmt.Sprintf(`{"type":"join","room":"flood-%d"}`, random.Uint64()))
	var flooding sync.WaitGroup
	flooding.Go(func() {
		for raw.Say(`{"type":"ping"}`) == nil {
		}
	})
	err = raw.WantClose(1008)
	raw.Close()
	flooding.Wait()
	rest(ctx, random, time.Second)
	return err
}

// readNothing joins, reads nothing of what another one sends it, and goes.
func readNothing(ctx context.Context, addr string, random *rand.Rand) error {
	room := fmt.Sprintf("slow-%d", random.Uint64())
	lazy, err := session.DialRaw(ctx, addr, "/ws")
	if err != nil {
		return err
	}
	defer lazy.Close()
	lazy.Conn.(*net.TCPConn).SetReadBuffer(1 << 10)
	lazy.Say(fmt.Sprintf(`{"type":"join","room":%q,"session":%q}`, room, session.Key(room+"-lazy")))
	eager, err := session.DialRaw(ctx, addr, "/ws")
	if err != nil {
		return err
	}
	defer eager.Close()
	eager.Say(fmt.Sprintf(`{"type":"join","room":%q}`, room))
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(io.Discard, eager.Conn) })
	data := strings.Repeat("z", 30<<10)
	for range 100 {
		if eager.Say(fmt.Sprintf(`{"type":"message","data":%q}`, data)) != nil {
			break
		}
	}
	rest(ctx, random, 5*time.Second)
	eager.Close()
	reading.Wait()
	return nil
}

// stopHalfway begins a handshake, and goes after a while.
func stopHalfway(ctx context.Context, addr string, random *rand.Rand) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: duet\r\nUpgr")
	rest(ctx, random, 3*time.Second)
	return nil
}
