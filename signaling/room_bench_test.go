package signaling

import (
	"log/slog"
	"strconv"
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

// benchHub and enter set up a hub and its peers for a benchmark.
func benchHub(capacity int) *Hub {
	cfg := Config{RoomCapacity: capacity, Grace: time.Second, MessageRate: 1e12, MessageBurst: 1e12, MaxMessageBytes: 64 << 10}
	return NewHub(cfg, NewLocalDirectory(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

func enter(b *testing.B, h *Hub, more string) (*Conn, *drain) {
	out := &drain{make(chan struct{}, 1)}
	c := h.Connect(out, func() bool { return true })
	if err := c.Receive(b.Context(), []byte(`{"type":"join","room":"demo"`+more+`}`)); err != nil {
		b.Fatal(err)
	}
	return c, out
}

// fetch waits for n messages of c.
func fetch(c *Conn, out *drain, buf []byte, n int) {
	for n > 0 {
		if _, _, ok := c.Next(buf[:0]); ok {
			n--
		} else {
			<-out.wake
		}
	}
}

// BenchmarkRelay is one candidate from Receive to Next, through the room's goroutine.
func BenchmarkRelay(b *testing.B) {
	buf := make([]byte, 0, 4096)
	b.Run("plain", func(b *testing.B) {
		h := benchHub(2)
		from, _ := enter(b, h, "")
		to, out := enter(b, h, "")
		fetch(to, out, buf, 1)
		msg := []byte(benchCandidate)
		b.ReportAllocs()
		for b.Loop() {
			if err := from.Receive(b.Context(), msg); err != nil {
				b.Fatal(err)
			}
			fetch(to, out, buf, 1)
		}
	})
	b.Run("resumable", func(b *testing.B) {
		h := benchHub(2)
		from, acks := enter(b, h, session(keyA, 1, 0))
		to, out := enter(b, h, session(keyB, 1, 0))
		fetch(from, acks, buf, 2) // joined, peer-joined
		fetch(to, out, buf, 1)
		open := benchCandidate[:len(benchCandidate)-1] + `,"seq":`
		b.ReportAllocs()
		for n := uint64(1); b.Loop(); n++ {
			if err := from.Receive(b.Context(), append(strconv.AppendUint(append(buf[:0], open...), n, 10), '}')); err != nil {
				b.Fatal(err)
			}
			fetch(to, out, buf, 1)
			if n%ackEvery == 0 {
				if err := to.Receive(b.Context(), ackEnvelope(nil, n)); err != nil {
					b.Fatal(err)
				}
				fetch(from, acks, buf, 1)
			}
		}
	})
	b.Run("to 7", func(b *testing.B) {
		h := benchHub(MaxCapacity)
		from, _ := enter(b, h, "")
		others := make([]*Conn, MaxCapacity-1)
		outs := make([]*drain, len(others))
		for i := range others {
			others[i], outs[i] = enter(b, h, "")
		}
		for i, c := range others {
			fetch(c, outs[i], buf, len(others)-i) // joined, and those who came later
		}
		msg := []byte(benchCandidate)
		b.ReportAllocs()
		for b.Loop() {
			if err := from.Receive(b.Context(), msg); err != nil {
				b.Fatal(err)
			}
			for i, c := range others {
				fetch(c, outs[i], buf, 1)
			}
		}
	})
}

// BenchmarkRoom is a room's life: two join, one leaves, the other is lost.
func BenchmarkRoom(b *testing.B) {
	h := benchHub(2)
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		first, out := enter(b, h, "")
		second, _ := enter(b, h, "")
		second.Lost(EndLeft)
		fetch(first, out, buf, 3) // joined, peer-joined, peer-left
		if err := first.Receive(b.Context(), []byte(`{"type":"leave"}`)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkResume is a connection that takes its seat back.
func BenchmarkResume(b *testing.B) {
	h := benchHub(2)
	for n := 1; b.Loop(); n++ {
		enter(b, h, session(keyA, n, 0))
	}
}

func BenchmarkRing(b *testing.B) {
	h := &Hub{}
	r := newRing(2, false, &h.waiting)
	r.attach(1)
	feed := seatFeed{r, 1}
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
