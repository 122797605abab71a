package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A remote measures a deployment from outside: what its clients see, from here.
type remote struct {
	url   string
	rooms int
	each  int // messages of each connection in the relay mode
	// rest comes before the latency mode, so that a server's limits recover from the relay mode.
	rest   time.Duration
	rate   int // messages a second in the latency mode
	window time.Duration
	calls  int
}

// remoteModes are those that need nothing but a connection, in their order.
var remoteModes = []string{"connect", "relay", "latency", "calls"}

// remoteAtOnce is how many connections are on their way, and callsAtOnce how many calls: enough to
// measure, too little to disturb.
const (
	remoteAtOnce      = 8
	remoteCallsAtOnce = 2
	remoteInFlight    = 4
)

// unmetered stands in for the clocks of a server that is not here.
func unmetered() (cpu, others time.Duration) { return 0, 0 }

// measure runs the modes one after the other and writes a paragraph on each.
func (r *remote) measure(ctx context.Context, modes []string, w io.Writer) error {
	u, err := endpoint(r.url)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\n", u)
	s := r.swarm(ctx, u)
	defer s.net.shut()
	for _, mode := range remoteModes {
		if mode != "connect" && !slices.Contains(modes, mode) {
			continue // the others need the connections
		}
		found, err := r.run(ctx, mode, s, u)
		if err != nil {
			return fmt.Errorf("%s: %w%s", mode, err, advice(err))
		}
		fmt.Fprintf(w, "%-8s %s\n", mode, found)
	}
	return nil
}

func (r *remote) run(ctx context.Context, mode string, s *swarm, u *url.URL) (string, error) {
	switch mode {
	case "connect":
		return r.connect(s)
	case "relay":
		return r.relay(s)
	case "latency":
		return r.latency(s)
	}
	return r.call(ctx, u)
}

func (r *remote) connect(s *swarm) (string, error) {
	var took []time.Duration
	s.onJoined = func(c *conn, _ uint64) { took = append(took, time.Since(c.dialed)) }
	if err := s.fill(r.rooms, remoteAtOnce); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d connections joined %d rooms. From the first packet to the seat: %s.",
		len(took), r.rooms, spread(took)), nil
}

func (r *remote) relay(s *swarm) (string, error) {
	took, err := s.burst(remoteInFlight, r.each)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s messages of 200 bytes in %v, %s a second, with %d under way each way in a room. Each arrived once and in order.",
		number(float64(s.received), 0), took.Round(time.Millisecond), number(float64(s.received)/took.Seconds(), 0), remoteInFlight), nil
}

func (r *remote) latency(s *swarm) (string, error) {
	if err := s.pollFor(r.rest); err != nil {
		return "", err
	}
	windows, err := pace{members: s.conns, rate: r.rate, window: window{measured: r.window}}.run(s, unmetered)
	if err != nil {
		return "", err
	}
	took := windows[0].took
	return fmt.Sprintf("%s messages at %d a second, from one client through the server to the other: %s.",
		number(float64(len(took)), 0), r.rate, spread(took)), nil
}

// call uses connections of its own.
func (r *remote) call(ctx context.Context, u *url.URL) (string, error) {
	s := r.swarm(ctx, u)
	defer s.net.shut()
	res, err := callLoad{atOnce: min(remoteCallsAtOnce, r.calls), count: r.calls}.run(s, unmetered)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d calls (two joins, offer, answer, ten candidates each way, leave, close), %d at once. From the first packet to the last close: %s.",
		res.calls, remoteCallsAtOnce, spread(res.took)), nil
}

// spread puts a row of times into words.
func spread(v []time.Duration) string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.3g ms", d.Seconds()*1e3) }
	return fmt.Sprintf("half within %s, 99 %% within %s, the longest %s", ms(quantile(v, 0.5)), ms(quantile(v, 0.99)), ms(quantile(v, 1)))
}

// advice says what to do about the errors that a well-configured server gives.
func advice(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "rate-limited"):
		return "\nThe server's limits are doing their work: give smaller -rooms, -messages, -rate or -calls, or raise DUET_MESSAGE_RATE, DUET_MESSAGE_BURST and DUET_JOIN_RATE for the time of the test."
	case strings.Contains(text, " 429 "):
		return "\nThe server bounds the connections from one address: give smaller -rooms, or raise DUET_MAX_CONNECTIONS_PER_IP for the time of the test."
	case strings.Contains(text, " 404 "):
		return "\nThe WebSocket is at /ws, behind a base path at <base path>/ws."
	}
	return ""
}

// endpoint turns what an operator types into the WebSocket's URL.
func endpoint(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("-url: %w", err)
	}
	scheme := map[string]string{"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}[u.Scheme]
	if scheme == "" || u.Host == "" {
		return nil, fmt.Errorf("-url %q: a URL such as wss://example.org/ws is needed", raw)
	}
	u.Scheme = scheme
	if !strings.HasSuffix(u.Path, "/ws") {
		u.Path = strings.TrimSuffix(u.Path, "/") + "/ws"
	}
	return u, nil
}

// swarm returns clients for the deployment, none of them connected yet.
func (r *remote) swarm(ctx context.Context, u *url.URL) *swarm {
	port, cfg := u.Port(), (*tls.Config)(nil)
	if u.Scheme == "wss" {
		cfg = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	}
	if port == "" {
		port = map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
	}
	return &swarm{net: newPortableNetwork(ctx, net.JoinHostPort(u.Hostname(), port), cfg),
		d: duet{path: u.RequestURI()}, host: u.Host, run: runID()}
}
