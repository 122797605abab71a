// Package webhook tells an HTTP server what happens in rooms, signed and retried as Standard Webhooks
// 1.0 describes (https://www.standardwebhooks.com). docs/operator.md is the contract with the receiver.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
)

const (
	// MinSecretBytes is the least that Standard Webhooks allows for a secret.
	MinSecretBytes = 24
	// MaxSecretBytes is the most.
	MaxSecretBytes = 64

	maxQueued      = 4096             // events that wait, of all rooms; what comes beside them is dropped
	maxAtOnce      = 8                // requests under way
	attemptTimeout = 10 * time.Second // for one request and its answer
	maxAge         = 10 * time.Minute // of an event; older ones are given up
	firstRetry     = time.Second      // after the first failure; then twice as long each time
	lastRetry      = time.Minute      // at most
	maxAnswer      = 4 << 10          // bytes of an answer's body that are read, to use the connection again
	lossLogEvery   = time.Minute      // between two lines of the log about events that are lost
)

// A Config says where webhooks go.
type Config struct {
	URL       string
	Secret    []byte            // MinSecretBytes to MaxSecretBytes
	Transport http.RoundTripper // nil = net/http's
}

// A Sender posts events, those of one room one after the other and in order. Send never blocks: what
// waits is bounded, and waits in the lanes of rooms, each of which is a goroutine while there is
// something in it. Make one with New and end it with Close.
type Sender struct {
	// Static after construction.
	cfg      Config
	client   *http.Client
	log      *slog.Logger
	metrics  *metrics
	requests chan struct{} // a place for each request under way
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu       sync.Mutex // held for a few lines only
	lanes    map[signaling.RoomID][]*delivery
	queued   int
	closed   bool
	failing  bool      // the last request failed
	lost     int       // events since loggedAt
	loggedAt time.Time // when losses were last in the log
}

// A delivery is one event on its way.
type delivery struct {
	id    string // webhook-id: the same for every attempt
	event signaling.Event
}

type metrics struct {
	events   *prometheus.CounterVec
	attempts *prometheus.CounterVec
	queue    prometheus.Gauge
}

// New makes a Sender. Its metrics are registered with reg.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) *Sender {
	s := &Sender{
		cfg: cfg,
		client: &http.Client{Transport: cfg.Transport, Timeout: attemptTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		log: log.With("component", "webhook"),
		metrics: &metrics{
			events: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "duet_webhook_events_total", Help: "Events for the webhook, by outcome: delivered, dropped (too many waited) or given-up."}, []string{"outcome"}),
			attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "duet_webhook_attempts_total", Help: "Requests to the webhook, by outcome: ok or failed."}, []string{"outcome"}),
			queue: prometheus.NewGauge(prometheus.GaugeOpts{
				Name: "duet_webhook_queue", Help: "Events that wait for the webhook."}),
		},
		requests: make(chan struct{}, maxAtOnce),
		lanes:    map[signaling.RoomID][]*delivery{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, outcome := range []string{"delivered", "dropped", "given-up"} {
		s.metrics.events.WithLabelValues(outcome)
	}
	for _, outcome := range []string{"ok", "failed"} {
		s.metrics.attempts.WithLabelValues(outcome)
	}
	reg.MustRegister(s.metrics.events, s.metrics.attempts, s.metrics.queue)
	return s
}

// Send has e delivered. It never blocks: where maxQueued events wait, e is dropped, counted and logged.
func (s *Sender) Send(e signaling.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.queued >= maxQueued {
		s.lose("dropped", errFull)
		return
	}
	s.queued++
	s.metrics.queue.Inc()
	lane, busy := s.lanes[e.Room]
	s.lanes[e.Room] = append(lane, &delivery{id: newID(), event: e})
	if !busy {
		s.running.Go(func() { s.drain(e.Room) })
	}
}

// lose counts an event that will not be delivered, and logs how many there were, now and then. The mutex
// is held.
func (s *Sender) lose(outcome string, why error) {
	s.metrics.events.WithLabelValues(outcome).Inc()
	s.lost++
	if now := time.Now(); now.Sub(s.loggedAt) >= lossLogEvery && s.ctx.Err() == nil {
		s.log.Error("webhook events lost", "lost", s.lost, "waiting", s.queued, "why", why)
		s.lost, s.loggedAt = 0, now
	}
}

// Close waits until what was sent is delivered or ctx ends, which gives up what is left. Send drops from
// then on. What is lost by that is logged.
func (s *Sender) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, s.cancel)
	s.running.Wait()
	stop()
	s.cancel()
	s.client.CloseIdleConnections()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 {
		s.log.Error("webhook events lost", "lost", s.lost)
	}
}

// drain delivers what is in a room's lane until it is empty.
func (s *Sender) drain(room signaling.RoomID) {
	for d := s.head(room); d != nil; {
		d = s.next(room, s.deliver(d))
	}
}

func (s *Sender) head(room signaling.RoomID) *delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lanes[room][0]
}

// next takes the head, with which it went as err says, out of a lane and returns the new one; nil ends
// the lane.
func (s *Sender) next(room signaling.RoomID, err error) *delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.lose("given-up", err)
	} else {
		s.metrics.events.WithLabelValues("delivered").Inc()
	}
	s.queued--
	s.metrics.queue.Dec()
	lane := s.lanes[room]
	lane[0] = nil
	if lane = lane[1:]; len(lane) == 0 {
		delete(s.lanes, room)
		return nil
	}
	s.lanes[room] = lane
	return lane[0]
}

// deliver tries until d has arrived. Its error says why it gave up: d is older than maxAge, the receiver
// answered 410, or the Sender is closed.
func (s *Sender) deliver(d *delivery) error {
	body := Payload(d.event)
	for wait := firstRetry; time.Since(d.event.At) < maxAge; wait = min(2*wait, lastRetry) {
		err := s.attempt(d.id, body)
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		s.note(err)
		if err == nil || errors.Is(err, errGone) {
			return err
		}
		pause := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-pause.C:
		case <-s.ctx.Done():
			pause.Stop()
		}
	}
	return errTooOld
}

// note counts an attempt, and logs when the receiver stops or begins to answer.
func (s *Sender) note(err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	s.metrics.attempts.WithLabelValues(outcome).Inc()
	s.mu.Lock()
	was := s.failing
	s.failing = err != nil
	s.mu.Unlock()
	switch {
	case err != nil && !was:
		s.log.Warn("webhook: an attempt failed; it is repeated, and what comes behind it in its room waits", "error", err)
	case err == nil && was:
		s.log.Info("webhook: delivered again")
	}
}

// Why events are lost.
var (
	errFull   = errors.New("too many wait, because the receiver is slow or away")
	errTooOld = errors.New("it could not be delivered in time")
	errGone   = errors.New("the receiver answers 410 Gone: it does not want it")
)

// attempt posts body once. Its error says nothing of the URL.
func (s *Sender) attempt(id string, body []byte) error {
	select {
	case s.requests <- struct{}{}:
		defer func() { <-s.requests }()
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	req, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	now := time.Now().Unix()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "duet")
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now, 10))
	req.Header.Set("Webhook-Signature", sign(s.cfg.Secret, id, now, body))
	res, err := s.client.Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer)
	switch {
	case res.StatusCode/100 == 2:
		return nil
	case res.StatusCode == http.StatusGone:
		return errGone
	case res.StatusCode/100 == 3:
		return fmt.Errorf("it is answered with %s, and redirects are not followed", res.Status)
	}
	return fmt.Errorf("it is answered with %s", res.Status)
}

// sign returns the value of webhook-signature: version 1, HMAC-SHA256 over id, time and body.
func sign(secret []byte, id string, at int64, body []byte) string {
	h := hmac.New(sha256.New, secret)
	fmt.Fprintf(h, "%s.%d.%s", id, at, body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// newID makes the id of an event: nobody else's, and without a dot, which separates it in what is signed.
func newID() string { return "evt_" + crand.Text() }

// Payload is an event as JSON: {"type","timestamp","data":{"room","peer","name","sub","why"}}; what is empty is
// left out.
func Payload(e signaling.Event) []byte {
	body := struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      struct {
			Room signaling.RoomID `json:"room"`
			Peer signaling.PeerID `json:"peer,omitzero"`
			Name string           `json:"name,omitzero"`
			Sub  string           `json:"sub,omitzero"` // of the peer's token
			Why  string           `json:"why,omitzero"`
		} `json:"data"`
	}{Type: e.Type, Timestamp: e.At.UTC()}
	body.Data.Room, body.Data.Peer, body.Data.Name, body.Data.Sub, body.Data.Why = e.Room, e.Peer, e.Name, e.Subject, e.Why
	text, err := json.Marshal(body)
	if err != nil {
		panic("event: " + err.Error()) // strings that were read from JSON, and a time
	}
	return text
}
