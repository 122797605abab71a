package signaling

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
)

// The tables of docs/protocol.md, sections 6 and 7, say what the code does.
func TestFailuresAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	section := func(n int) string {
		m := regexp.MustCompile(fmt.Sprintf(`(?ms)^## %d\..*?(^## %d\.|\z)`, n, n+1)).FindString(string(doc))
		if m == "" {
			t.Fatalf("docs/protocol.md has no section %d", n)
		}
		return m
	}
	codes := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(section(6), -1) {
		codes[row[1]] = true
	}
	closes := map[int]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\d{4})` \\| (?:`([a-z-]+)`)? ?\\|").FindAllStringSubmatch(section(7), -1) {
		code, _ := strconv.Atoi(row[1])
		closes[code] = row[2]
	}
	seen := map[int]bool{}
	for _, f := range Failures {
		if f.Code != "" {
			if !codes[f.Code] {
				t.Errorf("section 6 lacks %s", f.Code)
			}
			delete(codes, f.Code)
		}
		if f.Close != 0 {
			if reason, ok := closes[f.Close]; !ok || reason != f.Reason {
				t.Errorf("section 7 says %q of %d, the code %q", reason, f.Close, f.Reason)
			}
			seen[f.Close] = true
		}
		if len(f.Reason) > 123 {
			t.Errorf("%q does not fit a close frame", f.Reason)
		}
	}
	for code := range codes {
		t.Errorf("section 6 has %s, the code does not", code)
	}
	for code := range closes {
		if !seen[code] {
			t.Errorf("section 7 has %d, the code does not", code)
		}
	}
}

func TestFailureOf(t *testing.T) {
	for _, f := range Failures {
		if got := FailureOf(fmt.Errorf("join: %w", f.Err)); got != f {
			t.Errorf("%v: got %+v", f.Err, got)
		}
	}
	if got := FailureOf(os.ErrNotExist); got.Code != "" || got.Close != 1012 {
		t.Errorf("an error of our own is shown as %+v", got)
	}
}
