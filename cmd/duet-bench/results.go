package main

import (
	"errors"
	"math"
	"slices"
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
	{"late", "… of which the load generator's own, p99", 1},
	{"calls", "whole calls/s on one core", 0},
	{"flowing", "p99 of 1,000 busy rooms, µs", 0},
	{"frozen", "p99 of 1,000 busy rooms beside a frozen reader, µs", 0},
	{"half", "s from a kill until half of the clients are back", 1},
	{"back", "s until all are back", 1},
	{"return", "CPU µs per returning client", 0},
	{"start", "ms from start to the first answer", 0},
}

// results holds what the runs brought, by metric and system.
type results struct {
	remarks  map[remark]map[string]map[string]float64 // the worst share of a core, by mode and system
	values   map[string]map[string][]sample
	failures map[string]map[string]error
	notes    []string
}

// A sample is a figure of one window.
type sample struct {
	value     float64
	disturbed bool // other processes ran on the cores meanwhile
}

// A remark is what speaks against a figure. Its text follows a share of a core in percent.
type remark string

const (
	notQuiet remark = "of a core went to other processes in the worst window"
	notBusy  remark = "of its core was idle, waiting for the load generator: the server can do more"
)

func newResults() *results {
	return &results{
		values:   map[string]map[string][]sample{},
		failures: map[string]map[string]error{},
		remarks:  map[remark]map[string]map[string]float64{notQuiet: {}, notBusy: {}},
	}
}

func (r *results) add(key, system string, v ...sample) {
	put(r.values, key)[system] = append(r.values[key][system], v...)
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

// of is a figure's median over the windows of all runs; NaN where there is none or a run failed.
func (r *results) of(key, system string) float64 {
	if r.failed(key, system) != nil {
		return math.NaN()
	}
	return typical(r.values[key][system])
}

// unsure reports that each window of a figure was disturbed.
func (r *results) unsure(key, system string) bool {
	samples := r.values[key][system]
	return len(samples) > 0 && !slices.ContainsFunc(samples, func(s sample) bool { return !s.disturbed })
}

// typical is the median of the samples that nothing disturbed, or of all where there is none of those.
func typical(samples []sample) float64 {
	var quiet, all []float64
	for _, s := range samples {
		all = append(all, s.value)
		if !s.disturbed {
			quiet = append(quiet, s.value)
		}
	}
	if len(quiet) > 0 {
		return median(quiet)
	}
	return median(all)
}

// err says that something failed.
func (r *results) err() error {
	if len(r.failures) == 0 {
		return nil
	}
	return errors.New("some figures failed; the remarks say why")
}
