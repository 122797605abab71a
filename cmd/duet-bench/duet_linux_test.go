package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// tiny is a plan whose trials end in some tenths of a second. The heartbeat mode is left out: it
// takes a whole ping interval.
var tiny = plan{
	Idle: 20, Pairs: 5, InFlight: 4, relay: short, Rate: 1000, latency: short,
	CallsAtOnce: 3, calls: short, GrowthRate: 1000, FrozenRooms: 5, Starts: 1,
}

// buildDuet builds the server and returns it with the cores to run it on.
func buildDuet(t *testing.T) (*system, coreSet) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds ./cmd/duet")
	}
	w, err := newWorkshop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	sys, err := w.duet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := cores()
	if err != nil {
		t.Fatal(err)
	}
	return sys, c
}

func TestTrials(t *testing.T) {
	sys, cores := buildDuet(t)
	for _, c := range []struct {
		mode    string
		variant int
	}{
		{"connect", 0}, {"relay", 0}, {"latency", 0}, {"calls", 0}, {"growth", 7},
		{"resumable", 0}, {"resumable", 1}, {"frozen", 0}, {"frozen", 1}, {"start", 0}, {"size", 0},
	} {
		m := modeNamed(c.mode)
		tr := &trial{plan: &tiny, sys: sys, variant: c.variant, cores: cores, ctx: t.Context(), values: map[string]float64{}, remarks: map[remark]float64{}}
		if err := m.run(tr); err != nil {
			t.Errorf("%s %d: %v", c.mode, c.variant, err)
			continue
		}
		for _, key := range m.metrics(c.variant) {
			if v, ok := tr.values[key]; !ok || v < 0 || c.mode != "connect" && v == 0 {
				t.Errorf("%s %d: %s is %v", c.mode, c.variant, key, v)
			}
		}
	}
}

func modeNamed(name string) *mode {
	for i := range modes {
		if modes[i].name == name {
			return &modes[i]
		}
	}
	return nil
}

// The limits of a server with its defaults let the defaults of -url through.
func TestRemote(t *testing.T) {
	sys, cores := buildDuet(t)
	sys.env = []string{"DUET_ADDR=127.0.0.1:0", "DUET_ADMIN_ADDR=off"}
	srv, err := sys.start(cores)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.stop()
	o, err := parse([]string{"-url", "http://" + srv.addr.String(), "-for", "500ms"})
	if err != nil {
		t.Fatal(err)
	}
	o.remote.rest = 0
	var out bytes.Buffer
	if err := o.remote.measure(t.Context(), o.modes, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"ws://" + srv.addr.String() + "/ws\n",
		"20 connections joined 10 rooms.", "3,000 messages of 200 bytes", "100 messages at 200 a second", "10 calls",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	t.Log("\n" + out.String())

	o.remote.each = 2000
	err = o.remote.measure(t.Context(), []string{"relay"}, &out)
	if err == nil || !strings.Contains(err.Error(), "DUET_MESSAGE_RATE") {
		t.Errorf("above the limit: %v, want advice on DUET_MESSAGE_RATE", err)
	}
}

func TestEndpoint(t *testing.T) {
	for raw, want := range map[string]string{
		"wss://example.org":            "wss://example.org/ws",
		"https://example.org/":         "wss://example.org/ws",
		"http://example.org:8080/duet": "ws://example.org:8080/duet/ws",
		"wss://example.org/duet/ws":    "wss://example.org/duet/ws",
	} {
		if u, err := endpoint(raw); err != nil || u.String() != want {
			t.Errorf("%s: %v, %v, want %s", raw, u, err, want)
		}
	}
	for _, raw := range []string{"example.org", "ftp://example.org", "wss://", ":"} {
		if u, err := endpoint(raw); err == nil {
			t.Errorf("%q: %v, want an error", raw, u)
		}
	}
}

// A server that ends at once is an error with its own words in it.
func TestStartFails(t *testing.T) {
	sys := &system{name: "broken", argv: []string{"sh", "-c", "echo the port is taken; exit 1"}}
	c, err := cores()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := sys.start(c); err == nil || !strings.Contains(err.Error(), "the port is taken") {
		t.Errorf("got %v", err)
	}
	if time.Since(began) > startTimeout/2 {
		t.Error("it waited although the server had ended")
	}
}
