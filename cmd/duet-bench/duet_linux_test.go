package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"duet/cmd/internal/natsproc"
)

// tiny is a plan whose trials end in some tenths of a second. The heartbeat mode is left out: it
// takes a whole ping interval.
var tiny = plan{
	Idle: 20, Pairs: 5, InFlight: 4, relay: short, Rate: 1000, latency: short,
	CallsAtOnce: 3, calls: short, growth: []int{3, 7}, GrowthRate: 1000, growing: short,
	FrozenRooms: 5, FrozenPairs: 2, frozen: short, Clients: 20, Starts: 1,
	ClusterRate: 500, hops: short, Claims: 20, drain: window{100 * time.Millisecond, time.Second, 1}, Takeovers: 10,
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
		{"resumable", 0}, {"resumable", 1}, {"frozen", 0}, {"restart", 0}, {"start", 0}, {"image", 0},
	} {
		try(t, c.mode, newTrial(t.Context(), &tiny, sys, c.variant, cores))
	}
}

// Of several nodes: a message's way over each placement, joins that claim, a handover and a takeover.
func TestClusterTrials(t *testing.T) {
	sys, cores := buildDuet(t)
	between := map[string]float64{} // NATS's CPU time of a message
	for _, p := range placements {
		tr := newTrial(t.Context(), &tiny, sys, 0, cores)
		if err := tr.hop(p); err != nil {
			t.Errorf("%s: %v", p.key, err)
		}
		look(t, tr, clusterKeys(p.key, "p50", "p99", "relay"))
		between[p.key] = typical(tr.values[clusterKey("full-nats", p.key)])
	}
	if local := between["local"]; between["remote"] < 2*local || between["away"] < 2*local {
		t.Errorf("NATS has as much to do between nodes as on one: %v", between)
	}
	tr := newTrial(t.Context(), &tiny, sys, 0, cores)
	if err := tr.idle(placements[2]); err != nil {
		t.Error(err)
	}
	if err := tr.claims(1); err != nil {
		t.Error(err)
	}
	look(t, tr, clusterKeys("1", joinFigures...))
	d := departure{20, 2 * time.Second}
	if err := tr.depart(d); err != nil {
		t.Error(err)
	}
	look(t, tr, clusterKeys(d.key(), drainFigures...))
	if err := tr.takeover(); err != nil {
		t.Error(err)
	}
	for _, column := range []string{"at-once", "backoff"} {
		keys := clusterKeys(column, takeoverFigures...)
		look(t, tr, keys)
		if all := typical(tr.values[keys[2]]); all < 8 {
			t.Errorf("%s: after %v s, before the lease can have ended", column, all)
		}
	}
}

// look sees that figures were noted.
func look(t *testing.T, tr *trial, keys []string) {
	t.Helper()
	for _, key := range keys {
		if v := typical(tr.values[key]); !(v > 0) {
			t.Errorf("%s is %v", key, v)
		}
	}
}

// try runs a mode and looks for its figures.
func try(t *testing.T, mode string, tr *trial) {
	t.Helper()
	m := modeNamed(mode)
	if err := m.run(tr); err != nil {
		t.Errorf("%s %d, %s: %v", mode, tr.variant, tr.sys.name, err)
		return
	}
	for _, key := range m.metrics(tr.variant) {
		if v := typical(tr.values[key]); !(v > 0 || v == 0 && mode == "connect") {
			t.Errorf("%s %d, %s: %s is %v", mode, tr.variant, tr.sys.name, key, v)
		}
	}
}

// The bare relay has to bear what is not the same for all systems.
func TestBaselineTrials(t *testing.T) {
	c, err := cores()
	if err != nil {
		t.Fatal(err)
	}
	sys, err := relay("tcp", "") // this test's binary: see TestMain
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"frozen", "restart"} {
		try(t, mode, newTrial(t.Context(), &tiny, sys, 0, c))
	}
}

// TestMain makes the test's binary the relays' and the NATS servers' as well.
func TestMain(m *testing.M) {
	natsproc.Main()
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		main()
	}
	os.Exit(m.Run())
}

// A run's profile covers the loads that were run.
func TestProfile(t *testing.T) {
	sys, cores := buildDuet(t)
	b := &bench{plan: tiny, modes: []mode{*modeNamed("relay"), *modeNamed("image")}, systems: []*system{sys}, cores: cores,
		results: newResults(), log: &progress{w: t.Output()}, profileDir: filepath.Join(t.TempDir(), "profiles")}
	b.plan.profile = profileWindows(time.Second)
	if err := b.profile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.profiles) != 1 || b.profiles[0].spent <= 0 {
		t.Fatalf("profiles: %+v, failures: %v", b.profiles, b.results.failures)
	}
	var sum float64
	for g, share := range b.profiles[0].shares {
		sum += share
		t.Logf("%3.0f %% %s", 100*share, g)
	}
	if math.Abs(sum-1) > 1e-9 || len(b.profiles[0].shares) < 3 { // on a busy machine there are few samples
		t.Errorf("shares: %v, sum %v", b.profiles[0].shares, sum)
	}
}

// A load that cannot be profiled costs nothing but its profile: what was measured before is reported.
func TestProfileFails(t *testing.T) {
	c, err := cores()
	if err != nil {
		t.Fatal(err)
	}
	sys := &system{name: "duet", argv: []string{"sh", "-c", "echo no such luck; exit 1"}}
	var log bytes.Buffer
	b := &bench{plan: tiny, modes: []mode{*modeNamed("relay"), *modeNamed("latency")}, systems: []*system{sys}, cores: c,
		results: newResults(), log: &progress{w: &log}, profileDir: t.TempDir()}
	b.plan.profile = profileWindows(time.Second)
	if err := b.profile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.profiles) > 0 || b.results.err() == nil {
		t.Errorf("profiles: %+v, %v", b.profiles, b.results.err())
	}
	for _, l := range b.profileLoads() {
		if err := b.results.failed("profile · "+l.title, "duet"); err == nil || !strings.Contains(err.Error(), "no such luck") {
			t.Errorf("%s: %v", l.title, err)
		}
		if !strings.Contains(log.String(), "FAIL profile · "+l.title) {
			t.Errorf("%s is missing in\n%s", l.title, log.String())
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
	sys.env = []string{"DUET_ADMIN_ADDR=off"}
	srv, err := sys.start(cores, anyPort)
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
	if _, err := sys.start(c, anyPort); err == nil || !strings.Contains(err.Error(), "the port is taken") {
		t.Errorf("got %v", err)
	}
	if time.Since(began) > startTimeout/2 {
		t.Error("it waited although the server had ended")
	}
}
