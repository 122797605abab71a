package main

import (
	"fmt"
	"strings"
)

// A mutant is the server without one of its rules.
type mutant struct {
	name string
	file string // slash-separated, from the module's root
	rule string // that it takes away
	old  string // lines that stand in the file exactly once
	new  string // what stands there instead
}

// parse reads a list of mutants. Each begins with a line "name file: rule"; then come lines of the
// file as in a diff: "-" those that go, "+" those that come, " " those that stay. Empty lines and
// lines that begin with # are for people.
func parse(list string) (all []mutant, err error) {
	names := map[string]bool{}
	for n, line := range strings.Split(list, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if strings.IndexByte(" -+", line[0]) < 0 {
			head, rule, found := strings.Cut(line, ": ")
			name, file, two := strings.Cut(head, " ")
			if !found || !two || names[name] {
				return nil, fmt.Errorf("mutants.txt, line %d: not \"name file: rule\" with a new name: %s", n+1, line)
			}
			names[name] = true
			all = append(all, mutant{name: name, file: file, rule: rule})
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("mutants.txt, line %d: a change before the first name", n+1)
		}
		m, text := &all[len(all)-1], line[1:]+"\n"
		if line[0] != '+' {
			m.old += text
		}
		if line[0] != '-' {
			m.new += text
		}
	}
	return all, nil
}

// apply returns source with the mutant's change.
func (m mutant) apply(source string) (string, error) {
	source = "\n" + source
	at := strings.Index(source, "\n"+m.old) + 1
	switch {
	case m.old == m.new:
		return "", fmt.Errorf("it changes nothing")
	case at == 0:
		return "", fmt.Errorf("its lines are not in %s", m.file)
	case strings.Contains(source[at:], "\n"+m.old):
		return "", fmt.Errorf("its lines are in %s more than once", m.file)
	}
	return source[1:at] + m.new + source[at+len(m.old):], nil
}
