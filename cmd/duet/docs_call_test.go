package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The story of a call is told twice, once in each language.
const (
	callDoc   = "../../docs/how-a-call-comes-about.md"
	callDocZH = "../../docs/how-a-call-comes-about.zh-CN.md"
)

// TestCallDocumentPlayed plays the conversation that the story ends with, and wants every message that
// it shows on the way to be a line of it.
func TestCallDocumentPlayed(t *testing.T) {
	schemas := loadSchemas(t)
	said := map[string]bool{}
	for _, s := range readScripts(t, callDoc) {
		for _, st := range s.steps {
			said[canonical(t, st.text)] = true
		}
		t.Run(s.name, func(t *testing.T) { s.play(t, schemas) })
	}
	for _, b := range codeBlocks(t, callDoc) {
		if b.info == "json" && !said[canonical(t, strings.Join(b.lines, "\n"))] {
			t.Errorf("%s:%d: not a line of the conversation", callDoc, b.line)
		}
	}
}

// canonical is the JSON text with its members in order; what is no JSON stays as it is.
func canonical(t testing.TB, text string) string {
	t.Helper()
	var v any
	if json.Unmarshal([]byte(text), &v) != nil {
		return text
	}
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestCallDocumentsAgree keeps the two languages together, and their links and pictures alive.
func TestCallDocumentsAgree(t *testing.T) {
	type shape struct{ headings, blocks, rows, links []string }
	shapeOf := func(path string) (s shape) {
		for _, b := range codeBlocks(t, path) {
			lines := b.lines
			if b.info != "json" { // remarks are prose
				lines = slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.HasPrefix(l, "#") })
			}
			s.blocks = append(s.blocks, b.info+"\n"+strings.Join(lines, "\n"))
		}
		prose := regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(readText(t, path), "")
		s.headings = regexp.MustCompile(`(?m)^#+ `).FindAllString(prose, -1)
		s.rows = regexp.MustCompile(`(?m)^\|`).FindAllString(prose, -1)
		for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(prose, -1) {
			checkLink(t, path, m[1])
			// The same page in either language, and each language has pictures of its own.
			target, _, _ := strings.Cut(m[1], "#")
			target = strings.ReplaceAll(target, ".zh-CN.", ".")
			s.links = append(s.links, target)
		}
		return s
	}
	en, zh := shapeOf(callDoc), shapeOf(callDocZH)
	for what, pair := range map[string][2][]string{
		"headings": {en.headings, zh.headings}, "code": {en.blocks, zh.blocks},
		"table rows": {en.rows, zh.rows}, "links": {en.links, zh.links},
	} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s differ:\n%q\n%q", what, pair[0], pair[1])
		}
	}
}

// checkLink wants the file, and the heading in it, that a link in the document at path leads to.
func checkLink(t *testing.T, path, link string) {
	t.Helper()
	if strings.Contains(link, "://") {
		return
	}
	file, anchor, _ := strings.Cut(link, "#")
	target := path
	if file != "" {
		target = filepath.Join(filepath.Dir(path), file)
	}
	if _, err := os.Stat(target); err != nil {
		t.Errorf("%s links to %s, which is not there", path, link)
		return
	}
	if anchor != "" && !slices.Contains(anchors(t, target), anchor) {
		t.Errorf("%s links to %s: no such heading", path, link)
	}
}

// anchors are the names that GitHub gives the headings of a Markdown file.
func anchors(t testing.TB, path string) (names []string) {
	t.Helper()
	prose := regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(readText(t, path), "")
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(prose, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}
