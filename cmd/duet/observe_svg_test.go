package main

import (
	"fmt"
	"html"
	"math"
	"regexp"
	"slices"
	"strings"
)

// The frame of the picture, in SVG user units: Grafana's grid has 24 columns.
const (
	gridColumn, gridLine = 50, 30
	panelGap             = 8
	panelHead            = 26
	panelFoot            = 30 // legend
	panelLeft            = 46 // values
)

var pictureColours = []string{"#0a7d5a", "#b45f06", "#5b6bc0", "#a83279", "#888888", "#1f8fb3", "#7a6a00", "#c0392b"}

// drawDashboard draws the panels of d with what ask answers: an SVG in the place of Grafana.
func drawDashboard(d dashboard, ask func(expr string, instant bool) []series) string {
	var b strings.Builder
	height := 0
	for _, p := range d.Panels {
		height = max(height, (p.GridPos.Y+p.GridPos.H)*gridLine)
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui,sans-serif" font-size="11" role="img">`+"\n", 24*gridColumn, height+panelGap)
	b.WriteString("<title>The panels of deploy/grafana/duet.json, drawn from Prometheus's answers</title>\n" +
		"<style>text{fill:#333}.back{fill:#fff}.panel{fill:#f7f7f8;stroke:#ddd}.grid{stroke:#ddd}.line{fill:none;stroke-width:1.5;stroke-linejoin:round}" +
		"@media(prefers-color-scheme:dark){text{fill:#ddd}.back{fill:#111}.panel{fill:#181b1f;stroke:#333}.grid{stroke:#333}}</style>\n")
	fmt.Fprintf(&b, `<rect class="back" width="%d" height="%d"/>`+"\n", 24*gridColumn, height+panelGap)
	for _, p := range d.Panels {
		x, y := p.GridPos.X*gridColumn+panelGap/2, p.GridPos.Y*gridLine+panelGap/2
		w, h := p.GridPos.W*gridColumn-panelGap, p.GridPos.H*gridLine-panelGap
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", x, y)
		switch p.Type {
		case "row":
			fmt.Fprintf(&b, `<text y="17" font-size="14" font-weight="600">%s</text>`, html.EscapeString(p.Title))
		case "stat":
			drawHead(&b, p, w, h)
			value := "–"
			if got := ask(p.Targets[0].Expr, true); len(got) > 0 {
				value = withUnit(got[0].Value.value, p.FieldConfig.Defaults.Unit)
			}
			fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="34" text-anchor="middle" style="fill:%s">%s</text>`, w/2, h/2+24, pictureColours[0], value)
		default:
			drawHead(&b, p, w, h)
			drawSeries(&b, p, w, h, ask)
		}
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func drawHead(b *strings.Builder, p dashboardPanel, w, h int) {
	fmt.Fprintf(b, `<rect class="panel" width="%d" height="%d" rx="3"/><text x="10" y="18" font-size="12" font-weight="600">%s</text>`+"\n", w, h, html.EscapeString(p.Title))
}

// drawSeries draws a panel's lines over time, and their names below.
func drawSeries(b *strings.Builder, p dashboardPanel, w, h int, ask func(string, bool) []series) {
	type named struct {
		name   string
		values []sample
	}
	var lines []named
	from, to, top := math.Inf(1), math.Inf(-1), 0.
	for _, target := range p.Targets {
		for _, s := range ask(target.Expr, false) {
			highest := 0.
			for _, v := range s.Values {
				from, to = min(from, v.at), max(to, v.at)
				if !math.IsNaN(v.value) && !math.IsInf(v.value, 0) {
					highest = max(highest, v.value)
				}
			}
			top = max(top, highest)
			name := regexp.MustCompile(`\{\{(\w+)\}\}`).ReplaceAllStringFunc(target.LegendFormat, func(l string) string { return s.Metric[strings.Trim(l, "{}")] })
			if name == s.Metric["instance"] {
				name = "duet"
			}
			if highest > 0 || len(p.Targets) > 1 && len(s.Metric) == 0 { // what never happened has no line
				lines = append(lines, named{name, s.Values})
			}
		}
	}
	if top == 0 {
		top = 1
	}
	unit := p.FieldConfig.Defaults.Unit
	bottom, left, right := float64(h-panelFoot), float64(panelLeft), float64(w-10)
	for i := range 3 {
		y := bottom - float64(i)/2*(bottom-panelHead)
		fmt.Fprintf(b, `<path class="grid" d="M%.0f %.1fH%.0f"/><text x="%.0f" y="%.1f" font-size="9" text-anchor="end">%s</text>`+"\n", left, y, right, left-5, y+3, withUnit(top*float64(i)/2, unit))
	}
	if len(lines) == 0 {
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">0</text>`, w/2, h/2)
	}
	slices.SortStableFunc(lines, func(a, b named) int { return strings.Compare(a.name, b.name) })
	x := 10.
	for i, l := range lines {
		colour := pictureColours[i%len(pictureColours)]
		var path strings.Builder
		command := "M"
		for _, v := range l.values {
			if math.IsNaN(v.value) || math.IsInf(v.value, 0) {
				command = "M"
				continue
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", command, left+(v.at-from)/max(to-from, 1)*(right-left), bottom-v.value/top*(bottom-panelHead))
			command = "L"
		}
		fmt.Fprintf(b, `<path class="line" stroke="%s" d="%s"/>`+"\n", colour, path.String())
		if x < float64(w-60) {
			fmt.Fprintf(b, `<rect x="%.0f" y="%d" width="8" height="3" fill="%s"/><text x="%.0f" y="%d" font-size="9.5">%s</text>`+"\n", x, h-12, colour, x+11, h-8, html.EscapeString(l.name))
		}
		x += 24 + 5.2*float64(len([]rune(l.name)))
	}
}

// withUnit writes v as Grafana does in one of the dashboard's units.
func withUnit(v float64, unit string) string {
	steps := map[string][]struct {
		least float64
		name  string
	}{
		"s":     {{1, " s"}, {1e-3, " ms"}, {0, " µs"}},
		"bytes": {{1 << 20, " MiB"}, {1 << 10, " KiB"}, {1, " B"}},
		"Bps":   {{1e6, " MB/s"}, {1e3, " kB/s"}, {1, " B/s"}},
	}
	switch {
	case math.IsNaN(v):
		return "–"
	case unit == "percentunit":
		return fmt.Sprintf("%.3g %%", v*100)
	case v == 0 || steps[unit] == nil:
		return fmt.Sprintf("%.3g", v)
	}
	for _, s := range steps[unit] {
		if v >= s.least {
			if s.least == 0 {
				s.least = 1e-6
			}
			return fmt.Sprintf("%.3g%s", v/s.least, s.name)
		}
	}
	return fmt.Sprintf("%.3g", v)
}
