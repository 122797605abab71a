package webhook

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"duet/signaling"
)

var secret = []byte("a secret of at least 24 bytes")

// A receiver is a real HTTP server over pipes, so that its time is a bubble's. It checks signatures with
// the library that Standard Webhooks offers to receivers.
type receiver struct {
	t      *testing.T
	verify *standardwebhooks.Webhook
	answer http.HandlerFunc // nil = 204

	mu  sync.Mutex
	got []request
}

type request struct {
	id    string
	event event
	at    time.Time
}

type event struct {
	Type      string
	Timestamp time.Time
	Data      struct{ Room, Peer, Name, Sub, Why string }
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		r.t.Error(err)
	}
	if err := r.verify.Verify(body, req.Header); err != nil {
		r.t.Errorf("%v: %v", req.Header, err)
	}
	if req.Method != http.MethodPost || req.URL.Path != "/hook" || req.Header.Get("Content-Type") != "application/json" {
		r.t.Errorf("%s %s %v", req.Method, req.URL, req.Header)
	}
	got := request{id: req.Header.Get("webhook-id"), at: time.Now()}
	if err := json.Unmarshal(body, &got.event); err != nil {
		r.t.Errorf("%s: %v", body, err)
	}
	r.mu.Lock()
	r.got = append(r.got, got)
	answer := r.answer
	r.mu.Unlock()
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	answer(w, req)
}

// answers changes how the receiver answers from now on.
func (r *receiver) answers(f http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// names are the names of the events received, in order, those of one room or with "" of all.
func (r *receiver) names(room string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, g := range r.got {
		if room == "" || g.event.Data.Room == room {
			names = append(names, g.event.Data.Name)
		}
	}
	return strings.Join(names, " ")
}

func (r *receiver) requests() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]request(nil), r.got...)
}

// hang answers nothing until the sender goes away.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// inBubble runs f with a Sender and its receiver. The Sender is closed at the end, at once.
func inBubble(t *testing.T, f func(t *testing.T, s *Sender, r *receiver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		verify, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(secret))
		if err != nil {
			t.Fatal(err)
		}
		r := &receiver{t: t, verify: verify}
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: r, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(l) })
		transport := &http.Transport{DialContext: l.dial, MaxIdleConnsPerHost: maxAtOnce}
		s := New(Config{URL: "http://hooks.example/hook", Secret: secret, Transport: transport}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		defer func() {
			now, cancel := context.WithCancel(t.Context())
			cancel()
			s.Close(now)
			transport.CloseIdleConnections()
			server.Close()
			serving.Wait()
		}()
		f(t, s, r)
	})
}

// pipes is a listener that hands out the ends of pipes.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// send sends events that are named first to last.
func (s *Sender) send(room signaling.RoomID, first, last int) {
	for n := first; n <= last; n++ {
		s.Send(signaling.Event{At: time.Now(), Type: "joined", Room: room, Peer: "p", Name: fmt.Sprint(n)})
	}
}

func (s *Sender) count(outcome string) float64 {
	return testutil.ToFloat64(s.metrics.events.WithLabelValues(outcome))
}

func TestDelivery(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Sender, r *receiver) {
		at := time.Now()
		s.Send(signaling.Event{At: at, Type: "left", Room: "demo", Peer: "p", Name: "Ada", Subject: "user-7", Why: "kicked"})
		synctest.Wait()
		s.send("demo", 1, 20)
		s.send("other", 1, 20)
		synctest.Wait()
		first := r.requests()[0]
		if e := first.event; e.Type != "left" || !e.Timestamp.Equal(at) || e.Data != (struct{ Room, Peer, Name, Sub, Why string }{"demo", "p", "Ada", "user-7", "kicked"}) {
			t.Errorf("%+v", e)
		}
		for room, want := range map[string]string{"demo": "Ada 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20", "other": "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"} {
			if got := r.names(room); got != want {
				t.Errorf("%s: %s", room, got)
			}
		}
		ids := map[string]bool{}
		for _, g := range r.requests() {
			ids[g.id] = true
			if strings.Contains(g.id, ".") {
				t.Errorf("id %q has a dot", g.id)
			}
		}
		if len(ids) != 41 || s.count("delivered") != 41 || testutil.ToFloat64(s.metrics.queue) != 0 {
			t.Errorf("%d ids, %v delivered, %v wait", len(ids), s.count("delivered"), testutil.ToFloat64(s.metrics.queue))
		}
	})
}

// A failed attempt is repeated later and later under the same id; its room waits, other rooms do not.
func TestRetriesInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Sender, r *receiver) {
		failures := 5
		r.answers(func(w http.ResponseWriter, req *http.Request) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if e := r.got[len(r.got)-1].event; e.Data.Room == "demo" && e.Data.Name == "2" && failures > 0 {
				failures--
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		s.send("demo", 1, 4)
		synctest.Wait()
		s.send("other", 1, 3)
		synctest.Wait()
		if demo, other := r.names("demo"), r.names("other"); demo != "1 2" || other != "1 2 3" {
			t.Errorf("after the first failure: %q and %q", demo, other)
		}
		time.Sleep(time.Minute)
		if got := r.names("demo"); got != "1 2 2 2 2 2 2 3 4" {
			t.Errorf("demo got %s", got)
		}
		var last request
		wait := firstRetry
		for _, g := range r.requests() {
			if g.event.Data.Room != "demo" || g.event.Data.Name != "2" {
				continue
			}
			if last.id != "" {
				if pause := g.at.Sub(last.at); g.id != last.id || pause < wait/2 || pause > wait {
					t.Errorf("id %s after %s, after %v of %v", g.id, last.id, pause, wait)
				}
				wait *= 2
			}
			last = g
		}
		if failed := testutil.ToFloat64(s.metrics.attempts.WithLabelValues("failed")); failed != 5 || s.count("delivered") != 7 {
			t.Errorf("%v failed, %v delivered", failed, s.count("delivered"))
		}
	})
}

// While the receiver hangs, Send takes no time; what does not fit is dropped, what gets too old given up.
func TestReceiverHangs(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Sender, r *receiver) {
		r.answers(hang)
		began := time.Now()
		for n := range maxQueued + 100 {
			s.send(signaling.RoomID(fmt.Sprint(n)), 1, 1)
		}
		if took := time.Since(began); took != 0 || s.count("dropped") != 100 {
			t.Errorf("%v, %v dropped", took, s.count("dropped"))
		}
		synctest.Wait()
		if n := len(r.requests()); n != maxAtOnce {
			t.Errorf("%d requests at once", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(r.requests()); n != 7*maxAtOnce {
			t.Errorf("%d requests in a minute and none", n)
		}
		r.answers(nil)
		time.Sleep(attemptTimeout + lastRetry)
		if n := s.count("delivered"); n != maxQueued {
			t.Errorf("%v delivered", n)
		}
		r.answers(hang)
		s.send("demo", 1, 3)
		time.Sleep(maxAge + 3*lastRetry)
		if n := s.count("given-up"); n != 3 {
			t.Errorf("%v given up", n)
		}
		r.answers(nil)
		s.send("demo", 4, 4)
		synctest.Wait()
		if n := s.count("delivered"); n != maxQueued+1 || testutil.ToFloat64(s.metrics.queue) != 0 {
			t.Errorf("%v delivered", n)
		}
	})
}

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answer  http.HandlerFunc
		outcome string
		wait    time.Duration
	}{
		{"200 with a body", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "thank you") }, "delivered", 0},
		{"an endless body", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
		}, "delivered", 0},
		{"410", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }, "given-up", 0},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "given-up", maxAge + lastRetry},
		{"400", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }, "given-up", maxAge + lastRetry},
		{"cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "given-up", maxAge + lastRetry},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *Sender, r *receiver) {
				r.answers(tt.answer)
				s.send("demo", 1, 1)
				time.Sleep(tt.wait)
				synctest.Wait()
				if n := s.count(tt.outcome); n != 1 {
					t.Errorf("%v %s", n, tt.outcome)
				}
			})
		})
	}
}

// Close waits for what is under way, but no longer than it may.
func TestClose(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Sender, r *receiver) {
		r.answers(func(_ http.ResponseWriter, req *http.Request) {
			select {
			case <-time.After(time.Second):
			case <-req.Context().Done():
			}
		})
		s.send("demo", 1, 3)
		within, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		began := time.Now()
		s.Close(within)
		if took := time.Since(began); took != 2500*time.Millisecond || s.count("delivered") != 2 || s.count("given-up") != 1 {
			t.Errorf("%v: %v delivered, %v given up", took, s.count("delivered"), s.count("given-up"))
		}
		s.send("demo", 4, 4)
		if s.count("dropped") != 1 {
			t.Error("taken after the end")
		}
	})
}

// No error says where the hook is: its path may be what keeps it secret.
func TestErrorsHideTheURL(t *testing.T) {
	s := New(Config{URL: "http://127.0.0.1:1/secret-path", Secret: secret}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	defer s.Close(t.Context())
	if err := s.attempt("evt_1", nil); err == nil || strings.Contains(err.Error(), "secret-path") {
		t.Error(err)
	}
}
