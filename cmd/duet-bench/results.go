package main

import (
	"errors"
	"math"
)

// A metric is one figure of the tables.
type metric struct {
	key      string
	title    string
	decimals int
}

// metrics are the rows of the first table.
var metrics = []metric{
	{"memory", "KB per idle, joined connection", 1},
	{"base", "MB of the process before the first connection", 1},
	{"join", "CPU µs per connect + join", 0},
	{"relay", "relayed messages/s on one core", 0},
	{"p50", "µs at 4,000 messages/s, p50", 0},
	{"p99", "µs at 4,000 messages/s, p99", 0},
	{"calls", "whole calls/s on one core", 0},
	{"start", "ms from start to the first answer", 0},
}

// results holds what the runs brought, by metric and system.
type results struct {
	remarks  map[remark]map[string]map[string]float64 // the worst share of a core, by mode and system
	values   map[string]map[string][]float64
	failures map[string]map[string]error
	notes    []string
}

// A remark is what speaks against a figure. Its text follows a share of a core in percent.
type remark string

const (
	notQuiet remark = "of a core went to other processes meanwhile: not a figure to compare"
	notBusy  remark = "of its core was idle, waiting for the load generator: the server can do more"
)

func newResults() *results {
	return &results{
		values:   map[string]map[string][]float64{},
		failures: map[string]map[string]error{},
		remarks:  map[remark]map[string]map[string]float64{notQuiet: {}, notBusy: {}},
	}
}

func (r *results) add(key, system string, v float64) {
	put(r.values, key)[system] = append(r.values[key][system], v)
}
func (r *results) fail(key, system string, err error) { put(r.failures, key)[system] = err }

func put[V any](m map[string]map[string]V, key string) map[string]V {
	if m[key] == nil {
		m[key] = map[string]V{}
	}
	return m[key]
}

// remark keeps the worst share of all runs.
func (r *results) remark(m remark, mode, system string, share float64) {
	put(r.remarks[m], mode)[system] = max(r.remarks[m][mode][system], share)
}

// measured reports whether there was a try at a figure for any system.
func (r *results) measured(key string) bool { return len(r.values[key])+len(r.failures[key]) > 0 }

// failed is the error of one figure's last failed run; one failure spoils the figure.
func (r *results) failed(key, system string) error { return r.failures[key][system] }

// of is a figure's median over the runs; NaN where there is none or a run failed.
func (r *results) of(key, system string) float64 {
	if r.failed(key, system) != nil {
		return math.NaN()
	}
	return median(r.values[key][system])
}

// err says that something failed.
func (r *results) err() error {
	if len(r.failures) == 0 {
		return nil
	}
	return errors.New("some figures failed; the remarks say why")
}
