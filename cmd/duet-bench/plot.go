package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// A line is one system's row of a plot; NaN leaves a point out.
type line struct {
	name string
	y    []float64
}

// The plot's frame, in SVG user units.
const (
	plotWidth, plotHeight = 640, 320
	plotLeft, plotRight   = 48, 90 // the right margin holds the names
	plotTop, plotBottom   = 44, 40
)

// colors tell the lines apart on light and dark pages, and for people who see red and green alike.
var colors = []string{"#0a7d5a", "#b45f06", "#5b6bc0", "#888888", "#a83279"}

// plotSVG draws y over a logarithmic x, from 0 up.
func plotSVG(title string, x []int, lines []line) string {
	top := scaleTop(lines)
	px := func(i int) float64 {
		if len(x) == 1 {
			return plotLeft
		}
		span := math.Log(float64(x[len(x)-1])) - math.Log(float64(x[0]))
		return plotLeft + (math.Log(float64(x[i]))-math.Log(float64(x[0])))/span*(plotWidth-plotLeft-plotRight)
	}
	py := func(v float64) float64 { return plotHeight - plotBottom - v/top*(plotHeight-plotTop-plotBottom) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui,sans-serif" font-size="12" role="img">`+"\n", plotWidth, plotHeight)
	title = html.EscapeString(title)
	fmt.Fprintf(&b, "<title>%s</title>\n", title)
	fmt.Fprintf(&b, "<style>text{fill:#333}.grid{stroke:#ccc}.line{fill:none;stroke-width:2}@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}}</style>\n")
	fmt.Fprintf(&b, `<text x="%d" y="20" font-size="14">%s</text>`+"\n", plotLeft, title)
	const steps = 4
	for i := range steps + 1 {
		v := top * float64(i) / steps
		fmt.Fprintf(&b, `<path class="grid" d="M%d %.1fH%d"/><text x="%d" y="%.1f" text-anchor="end">%.3g</text>`+"\n",
			plotLeft, py(v), plotWidth-plotRight, plotLeft-8, py(v)+4, v)
	}
	for i, n := range x {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", px(i), plotHeight-plotBottom+20, number(float64(n), 0))
	}
	var names []label
	for k, l := range lines {
		color := colors[k%len(colors)]
		x, y := drawLine(&b, l, color, px, py)
		names = append(names, label{x + 8, y + 4, l.name, color})
	}
	drawLabels(&b, names)
	b.WriteString("</svg>\n")
	return b.String()
}

// A label names a line at its end.
type label struct {
	x, y        float64
	name, color string
}

// drawLabels moves labels down until none covers another.
func drawLabels(b *strings.Builder, labels []label) {
	const height = 14
	slices.SortFunc(labels, func(a, b label) int { return cmp.Compare(a.y, b.y) })
	for i, l := range labels {
		if i > 0 {
			l.y = max(l.y, labels[i-1].y+height)
			labels[i] = l
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" style="fill:%s">%s</text>`+"\n", l.x, l.y, l.color, l.name)
	}
}

// drawLine returns where the line ends.
func drawLine(b *strings.Builder, l line, color string, px func(int) float64, py func(float64) float64) (endX, endY float64) {
	var path strings.Builder
	for i, v := range l.y {
		if math.IsNaN(v) {
			continue
		}
		command := "L"
		if path.Len() == 0 {
			command = "M"
		}
		endX, endY = px(i), py(v)
		fmt.Fprintf(&path, "%s%.1f %.1f", command, endX, endY)
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", endX, endY, color)
	}
	fmt.Fprintf(b, `<path class="line" stroke="%s" d="%s"/>`+"\n", color, path.String())
	return endX, endY
}

// scaleTop is the first of 1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8 (times a power of ten) that no point exceeds.
func scaleTop(lines []line) float64 {
	highest := 0.0
	for _, l := range lines {
		for _, v := range l.y {
			if v > highest { // false for NaN
				highest = v
			}
		}
	}
	if highest == 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(highest)))
	for _, m := range []float64{1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8} {
		if m*unit >= highest {
			return m * unit
		}
	}
	return 10 * unit
}
