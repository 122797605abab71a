package signaling

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// drain is a Transport that reads at once what there is.
type drain struct{ wake chan struct{} }

func (d *drain) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}
func (d *drain) Close(error) {}

// BenchmarkRelay is one candidate from Receive to Next, through the room's goroutine.
func BenchmarkRelay(b *testing.B) {
	cfg := Config{RoomCapacity: 2, Grace: time.Second, MessageRate: 1e12, MessageBurst: 1e12, MaxMessageBytes: 64 << 10}
	h := NewHub(cfg, NewLocalDirectory(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	yes := func() bool { return true }
	from := h.Connect(&drain{make(chan struct{}, 1)}, yes)
	out := &drain{make(chan struct{}, 1)}
	to := h.Connect(out, yes)
	ctx := context.Background()
	for _, c := range []*Conn{from, to} {
		if err := c.Receive(ctx, []byte(`{"type":"join","room":"demo"}`)); err != nil {
			b.Fatal(err)
		}
	}
	buf := make([]byte, 0, 4096)
	for _, _, ok := to.Next(buf); ok; _, _, ok = to.Next(buf) {
	}
	<-out.wake
	msg := []byte(benchCandidate)
	b.ReportAllocs()
	for b.Loop() {
		if err := from.Receive(ctx, msg); err != nil {
			b.Fatal(err)
		}
		for {
			if _, _, ok := to.Next(buf[:0]); ok {
				break
			}
			<-out.wake
		}
	}
}

func BenchmarkRing(b *testing.B) {
	h := &Hub{}
	r := newRing(2, false, &h.waiting)
	r.attach(1)
	feed := Feed{r, 1}
	envelope := []byte(benchCandidate[:len(benchCandidate)-1])
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	var n uint64
	for b.Loop() {
		if r.fits(0, len(envelope)) {
			r.pushRelayed(item{envelope: envelope})
		}
		if _, _, ok := feed.Next(buf[:0]); !ok {
			b.Fatal("nothing there")
		}
		if n++; n%ackEvery == 0 {
			r.acknowledge(n)
		}
	}
}
