package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// A report is one run, ready to be written down.
type report struct {
	*results
	systems []*system
	plan    plan
	about   string // machine, versions

	profiles []profiled
}

// systemTable has the figures of all systems side by side.
func (r *report) systemTable(w io.Writer) {
	rows := slices.DeleteFunc(slices.Clone(metrics), func(m metric) bool { return !r.measured(m.key) })
	if len(rows) == 0 {
		return
	}
	head, rule := "|", "|---|"
	for _, s := range r.systems {
		head += " " + s.name + " |"
		rule += "---|"
	}
	fmt.Fprintf(w, "| figure %s\n%s\n", head, rule)
	for _, m := range rows {
		fmt.Fprintf(w, "| %s |", m.title)
		for _, s := range r.systems {
			fmt.Fprintf(w, " %s |", r.cell(m, s.name))
		}
		fmt.Fprintln(w)
	}
}

// cell is one figure; behind a baseline's stands duet's over it.
func (r *report) cell(m metric, system string) string {
	if r.failed(m.key, system) != nil {
		return "**FAIL**"
	}
	v := r.of(m.key, system)
	if math.IsNaN(v) {
		return "–"
	}
	s := number(v, m.decimals)
	if r.unsure(m.key, system) {
		s = "~" + s
	}
	if own := r.of(m.key, "duet"); system != "duet" && own == own {
		s += fmt.Sprintf(" (%.2f)", own/v)
	}
	return s
}

// targetTable says which targets were reached, with the baselines' figures beside. A figure that was
// tried for and failed has its row too.
func (r *report) targetTable(w io.Writer) {
	if !slices.ContainsFunc(targets, func(t target) bool { return slices.ContainsFunc(t.needs, r.measured) }) {
		return
	}
	head, rule := "| what | duet | target | | moonshot | |", "|---|---|---|---|---|---|"
	var baselines []*system
	for _, s := range r.systems {
		if s.name != "duet" {
			baselines = append(baselines, s)
			head += " " + s.name + " |"
			rule += "---|"
		}
	}
	fmt.Fprintf(w, "%s\n%s\n", head, rule)
	for _, t := range targets {
		if !slices.ContainsFunc(t.needs, r.measured) {
			continue
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |", t.what, r.targetCell(&t, "duet"),
			t.shown(r.results, t.goal), t.reached(r.results, t.goal),
			t.shown(r.results, t.moonshot), t.reached(r.results, t.moonshot))
		for _, s := range baselines {
			fmt.Fprintf(w, " %s |", r.targetCell(&t, s.name))
		}
		fmt.Fprintln(w)
	}
}

// targetCell is a system's figure for a target.
func (r *report) targetCell(t *target, system string) string {
	x := t.value(r.results, system)
	switch {
	case x == x && slices.ContainsFunc(t.needs, func(key string) bool { return r.unsure(key, system) }):
		return "~" + t.format(x)
	case x == x:
		return t.format(x)
	case slices.ContainsFunc(t.needs, func(key string) bool { return r.failed(key, system) != nil }):
		return "**FAIL**"
	}
	return "–"
}

// growthTable has CPU µs per message by number of rooms: at a fixed rate / rooms taking turns.
func (r *report) growthTable(w io.Writer) {
	lines, turns := r.growthLines(0), r.growthLines(1)
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "| rooms |")
	for _, l := range lines {
		fmt.Fprintf(w, " %s |", l.name)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(lines)))
	for i, n := range r.plan.growth {
		fmt.Fprintf(w, "| %s |", number(float64(n), 0))
		for k := range lines {
			fmt.Fprintf(w, " %s / %s |", orDash(lines[k].y[i], 1), orDash(turns[k].y[i], 1))
		}
		fmt.Fprintln(w)
	}
}

func orDash(x float64, decimals int) string {
	if math.IsNaN(x) {
		return "–"
	}
	return number(x, decimals)
}

// growthLines are the systems whose growth was measured, by one of its two figures.
func (r *report) growthLines(which int) []line {
	var lines []line
	for _, s := range r.systems {
		l := line{name: s.name}
		known := false
		for _, n := range r.plan.growth {
			keys := growthKeys(n)
			l.y = append(l.y, r.of(keys[which], s.name))
			known = known || len(r.values[keys[0]][s.name]) > 0
		}
		if known {
			lines = append(lines, l)
		}
	}
	return lines
}

// ownMetrics are the figures that duet is compared with itself by.
var ownMetrics = []metric{
	{"plain", "CPU µs per message, plain", 2},
	{"session", "CPU µs per message, resumable", 2},
	{"heartbeat", "% of a core for 10,000 idle connections", 2},
	{"image", "MB of the container image", 1},
}

// ownTable has those of ownMetrics that were measured.
func (r *report) ownTable(w io.Writer) {
	measured := slices.DeleteFunc(slices.Clone(ownMetrics), func(m metric) bool { return !r.measured(m.key) })
	if len(measured) == 0 {
		return
	}
	fmt.Fprintln(w, "| duet alone | |\n|---|---|")
	for _, m := range measured {
		fmt.Fprintf(w, "| %s | %s |\n", m.title, r.cell(m, "duet"))
	}
}

// remarkList has what speaks against figures of the run, one a line.
func (r *report) remarkList(w io.Writer) {
	for _, key := range slices.Sorted(maps.Keys(r.failures)) {
		for _, system := range slices.Sorted(maps.Keys(r.failures[key])) {
			fmt.Fprintf(w, "- FAIL %s, %s: %v\n", key, system, r.failures[key][system])
		}
	}
	for _, n := range r.notes {
		fmt.Fprintf(w, "- %s\n", n)
	}
	for _, m := range []remark{notQuiet, notBusy} {
		for _, mode := range slices.Sorted(maps.Keys(r.remarks[m])) {
			systems := r.remarks[m][mode]
			worst := slices.Max(slices.Collect(maps.Values(systems)))
			fmt.Fprintf(w, "- %s, %s: up to %.0f %% %s\n", mode,
				strings.Join(slices.Sorted(maps.Keys(systems)), ", "), 100*worst, m)
		}
	}
	if len(r.remarks[notQuiet]) > 0 {
		fmt.Fprintln(w, "- Windows in which other processes took more than 5 % of a core do not count where there are others. A figure with ~ has no other: run the bench on a machine that does nothing else.")
	}
}

//go:embed performance.md.tmpl
var pageText string

var page = template.Must(template.New("page").
	Funcs(template.FuncMap{"n": func(x int) string { return number(float64(x), 0) }}).Parse(pageText))

// write prints the page. plot is the name of the image, "" where there is none.
func (r *report) write(w io.Writer, plot string) error {
	text := func(f func(io.Writer)) string {
		var b strings.Builder
		f(&b)
		return strings.TrimRight(b.String(), "\n")
	}
	return page.Execute(w, map[string]any{
		"About": r.about, "Plan": r.plan, "Plot": plot, "Systems": r.described(),
		"SystemTable": text(r.systemTable), "TargetTable": text(r.targetTable), "OwnTable": text(r.ownTable),
		"GrowthTable": text(r.growthTable), "Remarks": text(r.remarkList), "InFlight": growthInFlight,
		"Profiles": text(r.profileTable), "ClusterTables": text(r.clusterTables),
		"DialsAtOnce": dialsAtOnce, "AtOnce": atOnce,
	})
}

// save writes the page to path and its plot beside it, as .svg.
func (r *report) save(path string) error {
	plot := ""
	if lines := r.growthLines(0); len(lines) > 0 {
		name := strings.TrimSuffix(path, filepath.Ext(path)) + ".svg"
		svg := plotSVG(fmt.Sprintf("CPU µs per relayed message at %s a second, by number of rooms", number(float64(r.plan.GrowthRate), 0)), r.plan.growth, lines)
		if err := os.WriteFile(name, []byte(svg), 0o644); err != nil {
			return err
		}
		plot = filepath.Base(name)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return cmp.Or(r.write(f, plot), f.Close())
}

// described lists the systems with a line about each.
func (r *report) described() string {
	var b strings.Builder
	for _, s := range r.systems {
		fmt.Fprintf(&b, "- **%s**: %s\n", s.name, s.what)
	}
	return strings.TrimRight(b.String(), "\n")
}

// print writes the tables alone.
func (r *report) print(w io.Writer) {
	for _, table := range []func(io.Writer){r.systemTable, r.ownTable, r.growthTable, r.clusterTables, r.targetTable, r.profileTable, r.remarkList} {
		table(w)
		fmt.Fprintln(w)
	}
}
