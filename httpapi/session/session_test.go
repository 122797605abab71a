package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"duet/httpapi"
	"duet/httpapi/faultproxy"
	"duet/httpapi/session"
	"duet/signaling"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs duet on loopback until the test ends and returns its address.
func serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log, reg := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	hub := signaling.NewHub(signaling.Config{RoomCapacity: 2, Grace: 30 * time.Second, MessageRate: 1000, MessageBurst: 1000,
		MaxMessageBytes: 64 << 10}, signaling.NewLocalDirectory(), log, reg)
	api := httpapi.New(httpapi.Config{MaxConnections: 1000, MaxConnectionsPerIP: 1000, JoinRate: 100000,
		JoinTimeout: time.Minute, PingInterval: time.Minute, PongTimeout: time.Minute, WriteTimeout: time.Minute,
		MessageTimeout: time.Minute, MaxMessageBytes: 64 << 10}, hub, files(), log, reg)
	ctx, stop := context.WithCancel(context.Background())
	server := &http.Server{Handler: api.Handler()}
	var running sync.WaitGroup
	running.Go(func() { _ = hub.Run(ctx) })
	running.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Close()
		drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := api.Drain(drain, 0); err != nil {
			t.Error(err)
		}
		stop()
		running.Wait()
	})
	return l.Addr().String()
}

func files() fs.FS { return fstest.MapFS{"index.html": {Data: []byte("<!doctype html>")}} }

// A side is a client that says its numbers and keeps those it gets.
type side struct {
	*session.Client
	proxy   *faultproxy.Proxy
	said    bool
	got     []int
	resumed int
	done    chan struct{} // closed when the other's last number came
}

const numbers = 40

func newSide(t *testing.T, server, room, name string, plan func(int) faultproxy.Plan) *side {
	p, err := faultproxy.Start(server, plan)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(p.Close)
	s := &side{proxy: p, done: make(chan struct{})}
	s.Client = session.New(session.Config{
		Dial: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", p.Addr()) },
		Room: room, Key: session.Key(name), Wait: time.Millisecond, Limit: 20 * time.Millisecond,
		Join: time.Second, Idle: 200 * time.Millisecond, Pong: 400 * time.Millisecond,
		Handle: func(m *session.Message) {
			switch m.Type {
			case "peer-joined":
				s.say()
			case "message":
				var n int
				_ = json.Unmarshal(m.Data, &n)
				if s.got = append(s.got, n); n == numbers {
					close(s.done)
				}
			}
		},
		Joined: func(m *session.Message) {
			if m.Resumed {
				s.resumed++
			}
			if len(m.Peers) > 0 {
				s.say()
			}
		},
	})
	return s
}

// say says everything, once.
func (s *side) say() {
	if s.said {
		return
	}
	s.said = true
	for n := range numbers {
		s.Send(&session.Message{Type: "message", Data: json.RawMessage(fmt.Sprint(n + 1))})
	}
}

// A call whose one side is cut, in each way and at many places, loses nothing. A connection that comes
// late meets its own successor.
func TestNothingIsLost(t *testing.T) {
	const seed, calls = 1, 60
	server := serve(t)
	random := rand.New(rand.NewPCG(seed, 0))
	var resumed atomic.Int64
	var going errgroup.Group
	going.SetLimit(10)
	for n := range calls {
		plans := []faultproxy.Plan{
			{Cut: faultproxy.Cut{Fault: faultproxy.Faults[n%4], Direction: faultproxy.Direction(n / 4 % 2), After: 400 + random.IntN(1500)}},
			{Late: time.Duration(random.IntN(2000)) * time.Millisecond, Trickle: n%2 == 0},
		}
		going.Go(func() error { resumed.Add(int64(call(t, server, fmt.Sprint("call ", n), plans))); return nil })
	}
	_ = going.Wait()
	t.Logf("%d resumed", resumed.Load())
	if resumed.Load() < calls/2 {
		t.Errorf("only %d of %d calls resumed", resumed.Load(), calls)
	}
}

// call makes a call whose one side fares as planned, and returns how often that side came back.
func call(t *testing.T, server, room string, plans []faultproxy.Plan) (resumed int) {
	a := newSide(t, server, room, "A", nil)
	b := newSide(t, server, room, "B", func(n int) faultproxy.Plan {
		if n < len(plans) {
			return plans[n]
		}
		return faultproxy.Plan{}
	})
	result := make(chan error, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() { result <- a.Run(ctx) }()
	go func() { result <- b.Run(ctx) }()
	for _, s := range []*side{a, b} {
		select {
		case <-s.done:
		case <-ctx.Done():
			t.Errorf("%s, %+v: not over in time", room, plans)
		}
	}
	b.Leave()
	a.Leave()
	if err := errors.Join(<-result, <-result); err != nil {
		t.Errorf("%s, %+v: %v", room, plans, err)
	}
	var want []int
	for n := range numbers {
		want = append(want, n+1)
	}
	if !slices.Equal(a.got, want) || !slices.Equal(b.got, want) {
		t.Errorf("%s, %+v: A got %v, B got %v", room, plans, a.got, b.got)
	}
	return b.resumed
}

func TestBounds(t *testing.T) {
	c := session.New(session.Config{Room: "r", Key: session.Key("k")})
	for n := range 256 {
		if seq, err := c.Send(&session.Message{Type: "message", Data: json.RawMessage("1")}); err != nil || seq != uint64(n+1) {
			t.Fatalf("message %d: %d, %v", n, seq, err)
		}
	}
	if _, err := c.Send(&session.Message{Type: "message"}); !errors.Is(err, session.ErrFull) {
		t.Errorf("%v, want ErrFull", err)
	}
	c.Leave()
	if _, err := c.Send(&session.Message{Type: "message"}); !errors.Is(err, session.ErrLeft) {
		t.Errorf("%v, want ErrLeft", err)
	}
}
