package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testReport() *report {
	r := newResults()
	r.add("memory", "duet", sample{value: 9}, sample{value: 7}, sample{value: 30})
	r.add("memory", "tcp", sample{value: 18})
	r.add("relay", "duet", sample{value: 160000})
	r.add("relay", "tcp", sample{value: 210000, disturbed: true})
	r.fail("calls", "duet", errors.New("7 calls began, 6 ended"))
	r.add("growth/100", "duet", sample{value: 5})
	r.add("growth/9000", "duet", sample{value: 5.5})
	r.add("cluster-p50/alone", "duet", sample{value: 50})
	r.add("cluster-p50/remote", "duet", sample{value: 120, disturbed: true})
	r.fail("cluster-p50/away", "duet", errors.New("no NATS"))
	return &report{results: r, systems: []*system{{name: "duet", what: "this"}, {name: "tcp", what: "the floor"}}, plan: quick, about: "a machine.",
		profiles: []profiled{{"at saturation", "message", 8, map[string]float64{otherWork: 0.25, "rooms, seats, rings": 0.75}}}}
}

func TestTables(t *testing.T) {
	r := testReport()
	var b strings.Builder
	r.print(&b)
	for _, want := range []string{
		"| figure | duet | tcp |",
		"| KB per idle, joined connection | 9.0 | 18.0 (0.50) |",
		"| whole calls/s on one core | **FAIL** | – |",
		"| 9.0 | ≤ 10 | reached | ≤ 8 | **not reached** | 18.0 |",
		"| 160,000 | ≥ 150,000 | reached | ≥ 0.8 × plain TCP = 168,000 | **not reached** | ~210,000 |",
		"| 1.10 × | ≤ 1.2 × | reached | – | – | – |",
		"| **FAIL** | ≥ 3,200 | – | ≥ the gws relay | – | – |",
		"| both clients on | no cluster | one node | two nodes | one node, room on another | bare NATS |\n|---|---|---|---|---|---|\n" +
			"| µs at 1,000 messages/s, p50 | 50 | – | ~120 | **FAIL** | – |\n\n",
		"| CPU µs and share | at saturation, a message |",
		"| **all** | 8.0 |\n| rooms, seats, rings | 6.0 (75 %) |\n| everything else | 2.0 (25 %) |",
		"- FAIL calls, duet: 7 calls began, 6 ended",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if r.err() == nil {
		t.Error("a failed figure is no error")
	}
}

// Windows that something disturbed count only where there are no others.
func TestTypical(t *testing.T) {
	disturbed := []sample{{90, true}, {70, true}}
	if got := typical(append(disturbed, sample{5, false}, sample{7, false})); got != 6 {
		t.Errorf("two of four disturbed: %v, want the median 6 of the others", got)
	}
	if got := typical(disturbed); got != 80 {
		t.Errorf("all disturbed: %v, want their median 80", got)
	}
}

func TestSave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	if err := testReport().save(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a machine.", "](page.svg)", "FAIL calls", "- **tcp**: the floor", "## Where the CPU time goes"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
}

func TestPlot(t *testing.T) {
	svg := plotSVG("cost < rooms", []int{100, 1000, 9000}, []line{
		{"duet", []float64{5, math.NaN(), 7}}, {"tcp", []float64{3, 3.5, 4}}})
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Errorf("not a number in\n%s", svg)
	}
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		_, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
}

func TestScaleTop(t *testing.T) {
	for _, c := range []struct{ highest, want float64 }{{0, 1}, {1, 1}, {3.2, 3.2}, {4.1, 6}, {8.5, 10}, {23, 24}, {0.5, 0.6}} {
		if got := scaleTop([]line{{"x", []float64{math.NaN(), c.highest}}}); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("up to %v: %v, want %v", c.highest, got, c.want)
		}
	}
}
