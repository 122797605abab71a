package main

import "math"

// line fits a straight line to the points (x, y) by least squares. It returns the mean of y, the line's
// slope and the slope's standard error; all 0 where there are too few points.
func line(x, y []float64) (mean, slope, off float64) {
	n := float64(len(x))
	if n < 3 {
		return 0, 0, 0
	}
	var mx, my float64
	for i := range x {
		mx += x[i] / n
		my += y[i] / n
	}
	var sxx, sxy float64
	for i := range x {
		sxx += (x[i] - mx) * (x[i] - mx)
		sxy += (x[i] - mx) * (y[i] - my)
	}
	if sxx == 0 {
		return my, 0, 0
	}
	slope = sxy / sxx
	var rest float64
	for i := range x {
		d := y[i] - my - slope*(x[i]-mx)
		rest += d * d
	}
	return my, slope, math.Sqrt(rest / (n - 2) / sxx)
}
