package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"duet/httpapi/webhook"
	"duet/signaling"
)

const (
	eventsKept     = 1024             // for streams that come back, and those that are behind
	maxStreams     = 8                // at once: the operator's listener has other things to do
	heartbeatEvery = 15 * time.Second // of silence; a comment keeps proxies from closing the stream
	streamWrite    = 10 * time.Second // for one write to a stream
	reconnectAfter = 3 * time.Second  // that a reader waits before it comes back
	mostInAWrite   = 64               // events
)

// Events keeps what happened last, for GET /api/events. Add never blocks: a stream reads at its own
// pace out of one buffer that all share, and one that falls behind by all of it is ended.
type Events struct {
	boot    string // tells this process's events from those of another
	open    prometheus.Gauge
	dropped prometheus.Counter

	mu      sync.Mutex // held for a few lines only
	kept    [eventsKept]signaling.Event
	added   uint64 // events so far; number n is at (n-1) % eventsKept
	streams map[*stream]bool
}

// A stream is one reader of Events.
type stream struct {
	next uint64        // number of the event that it gets next
	wake chan struct{} // one place: there is something
}

// NewEvents makes an empty buffer. Its metrics are registered with reg.
func NewEvents(reg prometheus.Registerer) *Events {
	e := &Events{
		boot:    strconv.FormatInt(time.Now().UnixMilli(), 36),
		streams: map[*stream]bool{},
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "duet_event_streams", Help: "Streams of events open to the operator."}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "duet_event_streams_dropped_total", Help: "Streams of events ended because their reader was too slow."}),
	}
	reg.MustRegister(e.open, e.dropped)
	return e
}

// Add keeps event and wakes the streams. It never blocks.
func (e *Events) Add(event signaling.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept[e.added%eventsKept] = event
	e.added++
	for s := range e.streams {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// subscribe opens a stream that goes on after the event with the id last: "" = with what happens from
// now on, "0" = with the oldest that is kept. complete is false where events are missing in between. The
// stream is nil where there are maxStreams.
func (e *Events) subscribe(last string) (s *stream, complete bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.streams) >= maxStreams {
		return nil, false
	}
	s = &stream{next: e.added + 1, wake: make(chan struct{}, 1)}
	complete = true
	switch number, known := e.number(last); {
	case last == "":
	case last == "0":
		s.next = e.oldest()
	case known && number+1 >= e.oldest():
		s.next = number + 1
	default:
		s.next, complete = e.oldest(), false
	}
	s.wake <- struct{}{}
	e.streams[s] = true
	e.open.Inc()
	return s, complete
}

func (e *Events) unsubscribe(s *stream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.streams, s)
	e.open.Dec()
}

// oldest is the number of the oldest event that is kept, or of the next one. The mutex is held.
func (e *Events) oldest() uint64 {
	if e.added < eventsKept {
		return 1
	}
	return e.added - eventsKept + 1
}

// number takes an id apart. known is false for one of another process, or of no event yet.
func (e *Events) number(id string) (n uint64, known bool) {
	boot, digits, _ := strings.Cut(id, "-")
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && boot == e.boot && n <= e.added
}

// take returns up to mostInAWrite events that s has not had, and the number of the first. ok is false
// where some of them are no longer kept.
func (e *Events) take(s *stream) (events []signaling.Event, first uint64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.next < e.oldest() {
		return nil, 0, false
	}
	first = s.next
	for ; s.next <= e.added && len(events) < mostInAWrite; s.next++ {
		events = append(events, e.kept[(s.next-1)%eventsKept])
	}
	if s.next <= e.added {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return events, first, true
}

// streamEvents serves GET /api/events (Server-Sent Events, HTML Living Standard, section 9.2).
func (o *Operator) streamEvents(w http.ResponseWriter, r *http.Request) {
	s, complete := o.events.subscribe(r.Header.Get("Last-Event-ID"))
	if s == nil {
		o.fail(w, errStreams)
		return
	}
	defer o.events.unsubscribe(s)
	o.requests.WithLabelValues("ok").Inc()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would collect it
	out := &eventWriter{w: w, control: http.NewResponseController(w)}
	out.text = fmt.Appendf(out.text, "retry: %d\n\n", reconnectAfter.Milliseconds())
	if !complete {
		out.lost("gap")
	}
	if err := o.feed(r.Context(), s, out); err != nil {
		o.log.Warn("a stream of events is ended", "error", err)
	}
}

// feed writes what happens to out until the reader goes away, which is no error, or is too slow.
func (o *Operator) feed(ctx context.Context, s *stream, out *eventWriter) error {
	heartbeat := time.NewTicker(heartbeatEvery)
	defer heartbeat.Stop()
	for {
		err := out.flush()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.events.dropped.Inc()
			return errors.New("its reader takes nothing")
		}
		if err != nil { // it is gone
			return nil
		}
		select {
		case <-s.wake:
			events, first, ok := o.events.take(s)
			if !ok {
				o.events.dropped.Inc()
				out.lost("too-slow")
				_ = out.flush() // the last word, for who hears it
				return fmt.Errorf("its reader is more than %d events behind", eventsKept)
			}
			for i, event := range events {
				out.event(o.events.boot, first+uint64(i), event)
			}
		case <-heartbeat.C:
			out.text = append(out.text, ":\n\n"...)
		case <-ctx.Done():
			return nil
		}
	}
}

// An eventWriter collects events and writes them at once.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	text    []byte
}

func (e *eventWriter) event(boot string, number uint64, event signaling.Event) {
	e.text = fmt.Appendf(e.text, "id: %s-%d\nevent: %s\ndata: %s\n\n", boot, number, event.Type, webhook.Payload(event))
}

// lost says that events are missing: gap, between the last stream and this one; too-slow, and this one
// ends.
func (e *eventWriter) lost(why string) {
	e.text = fmt.Appendf(e.text, "event: lost\ndata: {\"why\":%q}\n\n", why)
}

func (e *eventWriter) flush() error {
	_ = e.control.SetWriteDeadline(time.Now().Add(streamWrite))
	_, err := e.w.Write(e.text)
	e.text = e.text[:0]
	if err != nil {
		return err
	}
	return e.control.Flush()
}
