package main

import (
	"crypto/rand"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// quantile is the smallest value that at least the share q of v does not exceed (the nearest rank);
// 0 for none. It sorts v.
func quantile(v []time.Duration, q float64) time.Duration {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	rank := int(math.Ceil(q * float64(len(v))))
	return v[min(max(rank, 1), len(v))-1]
}

// median is the middle value, or the mean of the two in the middle; NaN for none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return s[mid]
	}
	return (s[mid-1] + s[mid]) / 2
}

// number prints x with that many decimals and commas between thousands.
func number(x float64, decimals int) string {
	s := strconv.FormatFloat(math.Abs(x), 'f', decimals, 64)
	whole, fraction, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	if x < 0 {
		return "-" + whole
	}
	return whole
}

// runID tells this run's rooms from those of any other run: 12 random characters.
func runID() string { return rand.Text()[:12] }
