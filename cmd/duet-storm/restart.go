package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"duet/httpapi/session"
)

const (
	allBackWithin = 60 * time.Second       // from the signal
	herdWindow    = 100 * time.Millisecond // in which connects are counted
	herdShare     = 0.5                    // of the clients, at most, may connect in one window
	joinRamp      = 2 * time.Millisecond   // between two clients that join for the first time
)

// restart is the storm in which a full server ends and comes back.
type restart struct {
	clients int
	how     string
	down    time.Duration
}

func newRestart(f *flag.FlagSet) storm {
	r := new(restart)
	f.IntVar(&r.clients, "clients", 5000, "clients, two in a room")
	f.StringVar(&r.how, "signal", "KILL", "how the server ends: KILL or TERM")
	f.DurationVar(&r.down, "down", time.Second, "from the server's end to its next start")
	return r
}

func (r *restart) run(ctx context.Context, w *world) (string, error) {
	sig, ok := map[string]os.Signal{"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM}[r.how]
	if !ok {
		return "", fmt.Errorf("-signal %s: must be KILL or TERM", r.how)
	}
	s, err := w.start("127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { s.kill() }()
	g := &gathering{want: r.clients, changed: make(chan struct{}, 1), ids: map[string]string{}, addr: s.addr}
	stop := w.watch(g.status)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	var living sync.WaitGroup
	defer living.Wait()
	defer cancel()
	for n := range r.clients {
		living.Go(func() { g.live(ctx, n, w.seed) })
		time.Sleep(joinRamp)
	}
	if err := g.all(ctx, allBackWithin); err != nil {
		return "", fmt.Errorf("before the restart: %w", err)
	}

	g.again()
	began := time.Now()
	if err := s.signal(sig, 30*time.Second); err != nil {
		return "", err
	}
	ended := time.Since(began)
	select {
	case <-time.After(r.down):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	next, err := w.start(s.addr)
	if err != nil {
		return "", err
	}
	s = next
	up := time.Since(began)
	err = g.all(ctx, allBackWithin-up)
	return g.report(r.how, began, ended, up), errors.Join(err, g.violation())
}

// A gathering is clients that are to be joined, all of them, twice.
type gathering struct {
	want    int
	addr    string
	changed chan struct{} // holds one

	mu       sync.Mutex
	second   bool
	here     map[int]bool
	joins    []time.Time
	connects []time.Time
	ids      map[string]string // by room and side, of the first time
	faults   []error
}

// live is one client's life.
func (g *gathering) live(ctx context.Context, n int, seed uint64) {
	random := rand.New(rand.NewPCG(seed, uint64(n)))
	room, key := fmt.Sprint("restart-", n/2), session.Key(fmt.Sprint("restart-", n))
	c := session.New(session.Config{
		Dial: func(ctx context.Context) (net.Conn, error) {
			g.mu.Lock()
			g.connects = append(g.connects, time.Now())
			g.mu.Unlock()
			return new(net.Dialer).DialContext(ctx, "tcp", g.addr)
		},
		Room: room, Key: key, Random: random.Float64,
		Joined: func(m *session.Message) { g.joined(n, key, m) },
	})
	if err := c.Run(ctx); err != nil && ctx.Err() == nil {
		g.mu.Lock()
		g.faults = append(g.faults, fmt.Errorf("client %d: %w", n, err))
		g.mu.Unlock()
	}
}

func (g *gathering) joined(n int, key string, m *session.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.here == nil {
		g.here = map[int]bool{}
	}
	if !g.second {
		g.ids[key] = m.ID
	} else {
		if g.ids[key] != m.ID {
			g.faults = append(g.faults, fmt.Errorf("client %d: id %s, before the restart %s", n, m.ID, g.ids[key]))
		}
		if m.Resumed && !g.here[n] {
			g.faults = append(g.faults, fmt.Errorf("client %d: resumed a seat of a server that was gone", n))
		}
	}
	if !g.here[n] {
		g.here[n] = true
		g.joins = append(g.joins, time.Now())
	}
	if len(g.here) == g.want {
		select {
		case g.changed <- struct{}{}:
		default:
		}
	}
}

// all waits until everybody is there.
func (g *gathering) all(ctx context.Context, within time.Duration) error {
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-g.changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		g.mu.Lock()
		defer g.mu.Unlock()
		return errors.Join(fmt.Errorf("%d of %d clients joined within %v", len(g.here), g.want, within), some(g.faults))
	}
}

// again forgets who is there: everybody is to come back.
func (g *gathering) again() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.second, g.here, g.joins, g.connects = true, map[int]bool{}, nil, nil
}

func (g *gathering) status() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fmt.Sprintf("%d of %d joined, %d connects", len(g.here), g.want, len(g.connects))
}

func (g *gathering) report(how string, began time.Time, ended, up time.Duration) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	after := func(share float64) string {
		i := int(share*float64(g.want)+0.5) - 1
		if i >= len(g.joins) {
			return "never"
		}
		return g.joins[i].Sub(began).Round(10 * time.Millisecond).String()
	}
	peak, at := busiest(g.connects, herdWindow)
	arrivals, _ := busiest(g.joins, herdWindow)
	return fmt.Sprintf("%d clients, SIG%s: the server had ended after %v and listened again after %v; half were back after %s, 99 %% after %s, all after %s; %d connects, most in %v: %d (after %v), joins %d",
		g.want, how, ended.Round(10*time.Millisecond), up.Round(10*time.Millisecond), after(0.5), after(0.99), after(1),
		len(g.connects), herdWindow, peak, at.Sub(began).Round(10*time.Millisecond), arrivals)
}

func (g *gathering) violation() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := some(g.faults)
	if peak, _ := busiest(g.connects, herdWindow); float64(peak) > herdShare*float64(g.want) {
		err = errors.Join(err, fmt.Errorf("a herd: %d of %d clients connected within %v", peak, g.want, herdWindow))
	}
	return err
}

// busiest returns how many of the moments fall into the fullest window, and when that begins.
func busiest(moments []time.Time, window time.Duration) (most int, at time.Time) {
	sorted := slices.SortedFunc(slices.Values(moments), time.Time.Compare)
	first := 0
	for i, t := range sorted {
		for t.Sub(sorted[first]) >= window {
			first++
		}
		if n := i - first + 1; n > most {
			most, at = n, sorted[first]
		}
	}
	return most, at
}
