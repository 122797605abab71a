package signaling

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The tests of rooms run in a bubble of fake time, through Conn, as a transport would: a peer sends
// JSON and reads JSON.

func testConfig() Config {
	return Config{RoomCapacity: 2, Grace: 30 * time.Second, MessageRate: 1000, MessageBurst: 10000, MaxMessageBytes: 64 << 10}
}

func newTestHub(cfg Config) *Hub {
	return NewHub(cfg, NewLocalDirectory(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// inBubble runs f with a hub in a bubble, and ends the hub after it.
func inBubble(t *testing.T, cfg Config, f func(t *testing.T, h *Hub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { h.Run(ctx) })
		synctest.Wait()
		f(t, h)
		cancel()
		running.Wait()
	})
}

// A peer is the client's end of a Conn.
type peer struct {
	t    *testing.T
	conn *Conn
	id   string

	mu     sync.Mutex
	closed error // what the transport was told
	dead   error // what Receive returned
}

func (h *Hub) testPeer(t *testing.T) *peer {
	p := &peer{t: t}
	p.conn = h.Connect(p, func() bool { return true })
	return p
}

func (p *peer) Wake() {}
func (p *peer) Close(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = cause
	}
}

func (p *peer) closeCode() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed != nil:
		return FailureOf(p.closed).Close
	case p.dead != nil:
		return FailureOf(p.dead).Close
	}
	return 0
}

func (p *peer) send(format string, args ...any) {
	p.t.Helper()
	msg := format
	if len(args) > 0 {
		msg = fmt.Sprintf(format, args...)
	}
	if err := p.conn.Receive(p.t.Context(), []byte(msg)); err != nil && p.dead == nil {
		p.dead = err
		p.conn.Lost(EndViolation)
	}
}

// next reads everything there is to read now.
func (p *peer) next() []string {
	p.t.Helper()
	synctest.Wait()
	var all []string
	for {
		msg, _, ok := p.conn.Next(nil)
		if !ok {
			return all
		}
		if !json.Valid(msg) {
			p.t.Fatalf("not JSON: %s", msg)
		}
		all = append(all, string(msg))
	}
}

// gets reads everything there is and compares it with want, in which "…" stands for anything.
func (p *peer) gets(want ...string) {
	p.t.Helper()
	got := p.next()
	if len(got) != len(want) {
		p.t.Fatalf("got %d messages %q, want %d %q", len(got), got, len(want), want)
	}
	for i := range want {
		if !like(got[i], want[i]) {
			p.t.Fatalf("message %d: got %s, want %s", i, got[i], want[i])
		}
	}
}

func like(got, pattern string) bool {
	parts := strings.Split(pattern, "…")
	if len(parts) == 1 {
		return got == pattern
	}
	if !strings.HasPrefix(got, parts[0]) {
		return false
	}
	got = got[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(got, p)
		if i < 0 {
			return false
		}
		got = got[i+len(p):]
	}
	return strings.HasSuffix(got, parts[len(parts)-1])
}

// joins sends a join with the members in more and reads its answer.
func (p *peer) joins(room, more string) map[string]any {
	p.t.Helper()
	p.send(`{"type":"join","room":%q%s}`, room, more)
	synctest.Wait()
	first, _, ok := p.conn.Next(nil)
	if !ok {
		p.t.Fatal("join was not answered")
	}
	var m map[string]any
	if err := json.Unmarshal(first, &m); err != nil {
		p.t.Fatal(err)
	}
	if id, ok := m["id"].(string); ok {
		p.id = id
	}
	return m
}

// joined joins and fails the test if that is refused.
func (p *peer) joined(room, more string) map[string]any {
	p.t.Helper()
	m := p.joins(room, more)
	if m["type"] != "joined" {
		p.t.Fatalf("join was answered with %v", m)
	}
	return m
}

const (
	keyA = "aaaaaaaaaaaaaaaaaaaaaa"
	keyB = "bbbbbbbbbbbbbbbbbbbbbb"
	keyC = "cccccccccccccccccccccc"
)

func session(key string, attempt, received int) string {
	return fmt.Sprintf(`,"session":%q,"attempt":%d,"received":%d`, key, attempt, received)
}

// local is what the connection has of a seat in this process; its members are nil without a seat.
func (c *Conn) local() localHold {
	if h, ok := c.hold.(*localHold); ok {
		return *h
	}
	return localHold{}
}
