package main

import (
	"math"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	v := make([]time.Duration, 100)
	for i := range v {
		v[i] = time.Duration(100 - i) // 100..1, not sorted
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.005: 1, 0.5: 50, 0.99: 99, 0.991: 100, 1: 100} {
		if got := quantile(v, q); got != want {
			t.Errorf("quantile(1..100, %v) = %d, want %d", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestMedian(t *testing.T) {
	v := []float64{9, 1, 5}
	if got := median(v); got != 5 || v[0] != 9 {
		t.Errorf("of three: %v, and v is now %v", got, v)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("of four: %v", got)
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

func TestNumber(t *testing.T) {
	for want, got := range map[string]string{
		"0":         number(0, 0),
		"999":       number(999, 0),
		"1,000":     number(999.6, 0),
		"1,234,567": number(1234567, 0),
		"-1,234.50": number(-1234.5, 2),
		"26.7":      number(26.71, 1),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
