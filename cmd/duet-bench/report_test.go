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
	for _, v := range []float64{9, 7, 30} {
		r.add("memory", "duet", v)
	}
	r.add("memory", "tcp", 18)
	r.add("relay", "duet", 160000)
	r.add("relay", "tcp", 210000)
	r.fail("calls", "duet", errors.New("7 calls began, 6 ended"))
	r.add("growth/100", "duet", 5)
	r.add("growth/9000", "duet", 5.5)
	return &report{r, []*system{{name: "duet", what: "this"}, {name: "tcp", what: "the floor"}}, quick, "a machine."}
}

func TestTables(t *testing.T) {
	r := testReport()
	var b strings.Builder
	r.print(&b)
	for _, want := range []string{
		"| figure | duet | tcp |",
		"| KB per idle, joined connection | 9.0 | 18.0 (0.50) |",
		"| whole calls/s on one core | **FAIL** | – |",
		"| 9.0 | ≤ 10 | reached | ≤ 8 | **not reached** |",
		"| 160,000 | ≥ 150,000 | reached | ≥ 0.8 × plain TCP = 168,000 | **not reached** |",
		"| 1.10 × | ≤ 1.2 × | reached | – | – |",
		"| **FAIL** | ≥ 3,200 | – | ≥ the gws relay | – |",
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

func TestSave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	if err := testReport().save(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a machine.", "](page.svg)", "FAIL calls", "- **tcp**: the floor"} {
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
