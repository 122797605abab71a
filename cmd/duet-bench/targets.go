package main

import "fmt"

// A target is one line of the second table: what the project set itself.
type target struct {
	what     string
	needs    []string // metrics that value reads
	value    figure
	show     string // format of the figure, with its unit
	atLeast  bool   // the bound is a lower one
	goal     bound
	moonshot bound // without text: none
}

// A figure is computed from a system's results; NaN where something it needs is missing or failed.
type figure func(r *results, system string) float64

type bound struct {
	text  string
	value func(r *results) float64
}

func of(key string) figure {
	return func(r *results, system string) float64 { return r.of(key, system) }
}

func fixed(x float64) func(*results) float64 { return func(*results) float64 { return x } }

// times is a multiple of another system's figure.
func times(x float64, key, system string) func(*results) float64 {
	return func(r *results) float64 { return x * r.of(key, system) }
}

// ratio is one of a system's figures over another.
func ratio(a, b string) figure {
	return func(r *results, system string) float64 { return r.of(a, system) / r.of(b, system) }
}

var targets = []target{
	{"KB per idle, joined connection, its half of the room included", []string{"memory"}, of("memory"), "%.1f", false,
		bound{"≤ 10", fixed(10)}, bound{"≤ 8", fixed(8)}},
	{"relayed messages/s on one core", []string{"relay"}, of("relay"), "%.0f", true,
		bound{"≥ 150,000", fixed(150_000)}, bound{"≥ 0.8 × plain TCP", times(0.8, "relay", "tcp")}},
	{"whole calls/s on one core", []string{"calls"}, of("calls"), "%.0f", true,
		bound{"≥ 3,200", fixed(3200)}, bound{"≥ the gws relay", times(1, "calls", "gws")}},
	{"p99 of a relayed message at 4,000 messages/s, in µs", []string{"p99"}, of("p99"), "%.0f", false,
		bound{"≤ 1.5 × plain TCP", times(1.5, "p99", "tcp")}, bound{"≤ 1.25 × plain TCP", times(1.25, "p99", "tcp")}},
	{"CPU per message with 9,000 rooms over that with 100", []string{"growth/100", "growth/9000"}, ratio("growth/9000", "growth/100"), "%.2f ×", false,
		bound{"≤ 1.2 ×", fixed(1.2)}, bound{}},
	{"CPU per message of a resumable session over a plain one", []string{"plain", "session"}, ratio("session", "plain"), "%.2f ×", false,
		bound{"≤ 1.2 ×", fixed(1.2)}, bound{}},
	{"heartbeats of 10,000 idle connections, in % of a core", []string{"heartbeat"}, of("heartbeat"), "%.2f %%", false,
		bound{"≤ 2 %", fixed(2)}, bound{}},
	{"start to the first answer on /healthz, in ms", []string{"start"}, of("start"), "%.0f", false,
		bound{"≤ 50", fixed(50)}, bound{}},
	{"p99 of 1,000 busy rooms beside a frozen reader over that without", []string{"held"}, of("held"), "%.2f ×", false,
		bound{"≤ 1.1 ×", fixed(1.1)}, bound{}},
	{"container image in MB", []string{"image"}, of("image"), "%.1f", false,
		bound{"≤ 25", fixed(25)}, bound{"≤ 15", fixed(15)}},
}

// reached tells whether x keeps to b, in words; "–" where there is no such bound or no figure.
func (t *target) reached(r *results, b bound) string {
	x := t.value(r, "duet")
	switch {
	case b.text == "" || x != x:
		return "–"
	case b.value(r) != b.value(r):
		return "not known"
	case t.atLeast && x >= b.value(r), !t.atLeast && x <= b.value(r):
		return "reached"
	}
	return "**not reached**"
}

// shown is a bound with the number that it comes to in this run, where that depends on the run.
func (t *target) shown(r *results, b bound) string {
	if b.text == "" {
		return "–"
	}
	if v := b.value(r); v == v && dependsOnRun(b) {
		return b.text + " = " + t.format(v)
	}
	return b.text
}

// dependsOnRun reports whether a bound is a multiple of another system's figure.
func dependsOnRun(b bound) bool { x := b.value(newResults()); return x != x }

func (t *target) format(x float64) string {
	if t.show == "%.0f" {
		return number(x, 0)
	}
	return fmt.Sprintf(t.show, x)
}
