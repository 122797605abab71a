// Command duet-mutants checks the tests: it takes one rule after the other out of the server and
// expects the tests to notice.
//
//	go run ./cmd/duet-mutants [-j 2] [-run regexp] [-tests regexp]
//
// The rules are listed in mutants.txt. The tree is never touched: a mutant exists only in an overlay
// of the go command. The exit status is 1 where a mutant survives or no longer fits the code.
package main

import (
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

//go:embed mutants.txt
var list string

// timeLimit is for the tests of one package: several times what they need. A mutant may well let them
// wait for ever.
const timeLimit = 2 * time.Minute

func main() {
	parallel := flag.Int("j", 2, "how many mutants are tested at once")
	only := flag.String("run", "", "only the mutants whose names match this regular expression")
	tests := flag.String("tests", "", "only the tests that match this regular expression, as go test's -run: quicker, where it is known which should notice")
	flag.Parse()
	ok, err := run(*parallel, *only, *tests)
	if err != nil {
		fmt.Fprintln(os.Stderr, "duet-mutants:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(parallel int, only, tests string) (ok bool, err error) {
	chosen, err := regexp.Compile(only)
	if err != nil {
		return false, fmt.Errorf("-run: %w", err)
	}
	all, err := parse(list)
	if err != nil {
		return false, err
	}
	all = slices.DeleteFunc(all, func(m mutant) bool { return !chosen.MatchString(m.name) })
	dir, err := os.MkdirTemp("", "duet-mutants")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)

	began := time.Now()
	if err := healthy(all, tests); err != nil {
		return false, err
	}
	queue, results := make(chan mutant), make(chan result)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for m := range queue {
				results <- m.try(dir, tests)
			}
		})
	}
	go func() {
		for _, m := range all {
			queue <- m
		}
		close(queue)
		workers.Wait()
		close(results)
	}()
	tried, killed := 0, 0
	for r := range results {
		tried++
		if r.killer != "" {
			killed++
		}
		fmt.Println(r)
	}
	fmt.Printf("%d of %d mutants killed in %v\n", killed, tried, time.Since(began).Round(time.Second))
	return killed == tried && tried > 0, nil
}

// healthy reports a test that fails without any mutant: it would kill them all.
func healthy(all []mutant, tests string) error {
	packages := map[string]bool{}
	for _, m := range all {
		packages[m.pkg()] = true
	}
	for pkg := range packages {
		killer, err := test("", pkg, tests)
		if err != nil {
			return err
		}
		if killer != "" {
			return fmt.Errorf("%s fails in %s without a mutant", killer, pkg)
		}
	}
	return nil
}

// A result is what the tests say to a mutant.
type result struct {
	mutant
	killer string // the test that noticed; "" = none did
	err    error  // why it could not be tried
	took   time.Duration
}

func (r result) String() string {
	took := r.took.Round(100 * time.Millisecond)
	switch {
	case r.err != nil:
		return fmt.Sprintf("BROKEN    %s: %v", r.name, r.err)
	case r.killer == "":
		return fmt.Sprintf("SURVIVED  %s (%v): %s", r.name, took, r.rule)
	}
	return fmt.Sprintf("killed    %s (%v) by %s", r.name, took, r.killer)
}

// try runs the tests of the file's package with m in place of the file.
func (m mutant) try(dir, tests string) (r result) {
	r.mutant = m
	began := time.Now()
	defer func() { r.took = time.Since(began) }()
	overlay, err := m.overlay(dir)
	if err != nil {
		r.err = err
		return r
	}
	r.killer, r.err = test(overlay, m.pkg(), tests)
	return r
}

func (m mutant) pkg() string { return "./" + path.Dir(m.file) }

// overlay writes the mutated file, and the file that tells the go command about it.
func (m mutant) overlay(dir string) (string, error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	mutated, err := m.apply(string(source))
	if err != nil {
		return "", err
	}
	original, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	instead := filepath.Join(dir, m.name+".go")
	if err := os.WriteFile(instead, []byte(mutated), 0o600); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{original: instead}})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, m.name+".json")
	return name, os.WriteFile(name, replace, 0o600)
}

var (
	failed   = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	crashed  = regexp.MustCompile(`(?m)^(panic|fatal error): (.{1,80})`)
	tooLong  = regexp.MustCompile(`(?m)^(panic: test timed out|\*\*\* Test killed)`)
	notBuilt = regexp.MustCompile(`\[(build|setup) failed\]`)
)

// test returns the test of pkg that fails under the overlay ("" = none), or "".
func test(overlay, pkg, tests string) (killer string, err error) {
	out, err := exec.Command("go", "test", "-overlay", overlay, "-short", "-failfast", "-vet=off", "-count=1",
		"-timeout", timeLimit.String(), "-run", tests, pkg).CombinedOutput() // go test itself kills what does not heed -timeout
	switch {
	case err == nil:
		return "", nil
	case notBuilt.Match(out):
		return "", fmt.Errorf("it does not compile:\n%s", out)
	case tooLong.Match(out):
		return "the time limit", nil
	}
	if m := failed.FindSubmatch(out); m != nil {
		return string(m[1]), nil
	}
	if m := crashed.FindSubmatch(out); m != nil {
		return "a " + string(m[1]) + ": " + string(m[2]), nil
	}
	return "", fmt.Errorf("go test: %w:\n%s", err, out)
}
