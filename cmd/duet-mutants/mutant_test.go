package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every mutant of the list fits the code as it is. Whether it is noticed takes longer to find out.
func TestMutantsApply(t *testing.T) {
	all, err := parse(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		source, err := os.ReadFile(filepath.Join("../..", m.file))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.apply(string(source)); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	t.Logf("%d mutants", len(all))
}

func TestParse(t *testing.T) {
	all, err := parse("# a comment\n\nname a/b.go: the rule: a colon\n same\n-old\n+new\n")
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	m := all[0]
	if m.name != "name" || m.file != "a/b.go" || m.rule != "the rule: a colon" {
		t.Errorf("head: %+v", m)
	}
	for source, want := range map[string]string{
		"same\nold\n":            "same\nnew\n",
		"x\nsame\nold\ny\n":      "x\nsame\nnew\ny\n",
		"same\nold\nsame\nold\n": "",
		"not same\nold\n":        "",
	} {
		if got, err := m.apply(source); got != want || (err == nil) != (want != "") {
			t.Errorf("apply(%q) = %q, %v", source, got, err)
		}
	}
	for _, bad := range []string{"-old\n", "no rule\n", "a f: r\n-x\na f: r\n"} {
		if _, err := parse(bad); err == nil || !strings.Contains(err.Error(), "line") {
			t.Errorf("parse(%q): %v", bad, err)
		}
	}
}
