package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"duet/signaling"
)

// The documents are part of the product: what they show is played against the server, and what they
// list is compared with the code.
const (
	protocolDoc  = "../../docs/protocol.md"
	operatorDoc  = "../../docs/operator.md"
	tokensDoc    = "../../docs/tokens.md"
	clusterDoc   = "../../docs/cluster.md"
	asyncapiDoc  = "../../docs/asyncapi.yaml"
	schemaFile   = "../../static/protocol.json"
	examplesFile = "../../signaling/testdata/examples.json"
	readme       = "../../README.md"
	readmeZH     = "../../README.zh-CN.md"
)

func TestDocumentsPlayed(t *testing.T) {
	schemas := loadSchemas(t)
	for _, path := range []string{protocolDoc, readme, operatorDoc, tokensDoc, clusterDoc} {
		for _, s := range readScripts(t, path) {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				s.play(t, schemas)
			})
		}
	}
}

// TestDocumentsComplete wants every type, error code and close code in a script that is played.
func TestDocumentsComplete(t *testing.T) {
	notPlayed := map[string]string{
		`< {"type":"ice-servers"`: "comes after hours, and only with a relay",
		"< (close 4001":           "takes a reader that stops reading; see the tests of httpapi",
	}
	var all strings.Builder
	for _, s := range readScripts(t, protocolDoc) {
		for _, st := range s.steps {
			fmt.Fprintln(&all, st.verb, st.text)
		}
	}
	var want []string
	schemas := loadSchemas(t)
	for name := range schemas.messages("clientMessage") {
		want = append(want, `> {"type":"`+name+`"`)
	}
	for name := range schemas.messages("serverMessage") {
		want = append(want, `< {"type":"`+name+`"`)
	}
	for _, f := range signaling.Failures {
		if f.Code != "" {
			want = append(want, `"code":"`+f.Code+`"`)
		}
		if f.Close != 0 {
			sender := "<"
			if f.Close == 1001 || f.Close == 4100 { // these come from clients
				sender = ">"
			}
			want = append(want, fmt.Sprintf("%s (close %d", sender, f.Close))
		}
	}
	for _, w := range want {
		_, excused := notPlayed[w]
		if played := strings.Contains(all.String(), w); played == excused {
			t.Errorf("%s: played %v, excused %v", w, played, excused)
		}
	}
}

// TestHandshake sends the README's curl line and wants the answer that it shows.
func TestHandshake(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl")
	}
	i := slices.IndexFunc(codeBlocks(t, readme), func(b block) bool {
		return len(b.lines) > 1 && strings.HasPrefix(b.lines[0], "$ curl ")
	})
	if i < 0 {
		t.Fatal("README shows no handshake")
	}
	b := codeBlocks(t, readme)[i]
	command, shown := b.lines[0], b.lines[1:]
	for strings.HasSuffix(command, `\`) {
		command, shown = strings.TrimSuffix(command, `\`)+shown[0], shown[1:]
	}
	var args []string
	for _, m := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(command, -1)[2:] {
		args = append(args, m[1]+m[2])
	}
	url := args[len(args)-1]
	if url != "http://localhost:8080/ws" {
		t.Fatalf("the last argument is %s", url)
	}
	// curl prints the head of a response when a body comes or the connection ends: that is soon.
	args[len(args)-1] = startServer(t, "DUET_JOIN_TIMEOUT=100ms").page + "ws"
	out, err := exec.CommandContext(t.Context(), curl, args...).Output()
	for _, line := range strings.Split(string(out), "\r\n") {
		shown = slices.DeleteFunc(shown, func(want string) bool { return want == line })
	}
	if len(shown) > 0 {
		t.Errorf("the answer lacks %q: %q (%v)", shown, out, err)
	}
}

// ---- the schema

// schemas holds the compiled definitions of the protocol's JSON Schema.
type schemas struct {
	raw      map[string]any
	compiled map[string]*jsonschema.Schema
}

func loadSchemas(t testing.TB) *schemas {
	t.Helper()
	var raw map[string]any
	readJSON(t, schemaFile, &raw)
	c := jsonschema.NewCompiler()
	if err := c.AddResource("protocol.json", raw); err != nil {
		t.Fatal(err)
	}
	s := &schemas{raw: raw, compiled: map[string]*jsonschema.Schema{}}
	for name := range raw["$defs"].(map[string]any) {
		compiled, err := c.Compile("protocol.json#/$defs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		s.compiled[name] = compiled
	}
	return s
}

// check says why text does not fit the definition, nil if it does.
func (s *schemas) check(definition, text string) error {
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	return s.compiled[definition].Validate(v)
}

func (s *schemas) definition(name string) map[string]any {
	d, _ := s.raw["$defs"].(map[string]any)[name].(map[string]any)
	return d
}

// messages maps the types that clientMessage or serverMessage lists to their definitions.
func (s *schemas) messages(list string) map[string]string {
	types := map[string]string{}
	for _, one := range s.definition(list)["oneOf"].([]any) {
		name := strings.TrimPrefix(one.(map[string]any)["$ref"].(string), "#/$defs/")
		properties := s.definition(name)["properties"].(map[string]any)
		types[properties["type"].(map[string]any)["const"].(string)] = name
	}
	return types
}

func TestSchemaErrorCodes(t *testing.T) {
	var want, have []string
	for _, f := range signaling.Failures {
		if f.Code != "" {
			want = append(want, f.Code)
		}
	}
	for _, code := range loadSchemas(t).definition("errorCode")["enum"].([]any) {
		have = append(have, code.(string))
	}
	if !slices.Equal(want, have) {
		t.Errorf("the schema has the codes %v, the code %v", have, want)
	}
}

func TestExamplesFitSchema(t *testing.T) {
	schemas := loadSchemas(t)
	var examples []struct {
		Name, From, JSON, Want string
		BeyondSchema           bool // wrong in a way that a schema cannot say
	}
	readJSON(t, examplesFile, &examples)
	shown := map[string]bool{}
	for _, e := range examples {
		err := schemas.check(e.From+"Message", e.JSON)
		if fits := e.Want == "ok" || e.BeyondSchema; fits != (err == nil) {
			t.Errorf("%s: want %s, the schema says: %v", e.Name, e.Want, err)
		}
		var m struct{ Type string }
		if json.Unmarshal([]byte(e.JSON), &m) == nil && e.Want == "ok" {
			shown[e.From+" "+m.Type] = true
		}
	}
	for _, from := range []string{"client", "server"} {
		for name := range schemas.messages(from + "Message") {
			if !shown[from+" "+name] {
				t.Errorf("no example of the %s's %s", from, name)
			}
		}
	}
}

// ---- AsyncAPI

func TestAsyncAPI(t *testing.T) {
	schemas := loadSchemas(t)
	data, err := os.ReadFile(asyncapiDoc)
	if err != nil {
		t.Fatal(err)
	}
	type ref struct {
		Ref string `yaml:"$ref"`
	}
	var doc struct {
		AsyncAPI string
		Channels map[string]struct {
			Messages map[string]ref
		}
		Operations map[string]struct {
			Action   string
			Channel  ref
			Messages []ref
		}
		Components struct {
			Messages map[string]struct {
				Name    string
				Payload ref
			}
		}
	}
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.AsyncAPI != "3.0.0" {
		t.Errorf("AsyncAPI version %q", doc.AsyncAPI)
	}

	// The server receives what clients send.
	for action, list := range map[string]string{"receive": "clientMessage", "send": "serverMessage"} {
		want := schemas.messages(list)
		have := map[string]string{}
		for _, op := range doc.Operations {
			if op.Action != action {
				continue
			}
			for _, m := range op.Messages {
				_, key, ok := strings.Cut(m.Ref, op.Channel.Ref+"/messages/")
				channel := doc.Channels[strings.TrimPrefix(op.Channel.Ref, "#/channels/")]
				component := doc.Components.Messages[strings.TrimPrefix(channel.Messages[key].Ref, "#/components/messages/")]
				payload, inSchema := strings.CutPrefix(component.Payload.Ref, "../static/protocol.json#/$defs/")
				if !ok || !inSchema {
					t.Errorf("%s: %s leads to %+v", action, m.Ref, component)
				}
				have[component.Name] = payload
			}
		}
		if !maps.Equal(want, have) {
			t.Errorf("%s: want %v, got %v", action, want, have)
		}
	}

	if own := asyncapiSchema(t); own != nil {
		var raw any
		if err := yaml.Unmarshal(data, &raw); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(raw)
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if err := own.Validate(v); err != nil {
			t.Error(err)
		}
	}
}

// asyncapiSchema is AsyncAPI's own JSON Schema where the packages of static/test are installed, else nil.
func asyncapiSchema(t testing.TB) *jsonschema.Schema {
	const path = "../../static/test/node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json"
	if _, err := os.Stat(path); err != nil {
		t.Log("not validated against AsyncAPI's schema: @asyncapi/specs is not installed in static/test")
		return nil
	}
	var raw any
	readJSON(t, path, &raw)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	if err := c.AddResource("asyncapi.json", raw); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("asyncapi.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ---- README

// settingRow is a line of a settings table in Markdown: variable and default are code, an unset
// default is a dash.
var settingRow = regexp.MustCompile("(?m)^\\| `(DUET_\\w+)` \\| (?:`([^`]*)`|(–)) \\|")

func TestSettingsTables(t *testing.T) {
	var want [][2]string
	for _, m := range regexp.MustCompile(`(?m)^(DUET_\w+) +(\S+)`).FindAllStringSubmatch(usage(), -1) {
		want = append(want, [2]string{m[1], m[2]})
	}
	for _, path := range []string{readme, readmeZH} {
		var have [][2]string
		for _, m := range settingRow.FindAllStringSubmatch(readText(t, path), -1) {
			standard := m[2]
			if m[3] != "" {
				standard = "-"
			}
			have = append(have, [2]string{m[1], standard})
		}
		if !slices.Equal(want, have) {
			t.Errorf("%s lists\n%v\nduet -h\n%v", path, have, want)
		}
	}
}

// TestMetricsTable compares the README's metrics with those that the code registers.
func TestMetricsTable(t *testing.T) {
	want, have := map[string]bool{}, map[string]bool{}
	for _, dir := range []string{"../../signaling", "../../signaling/*", "../../httpapi", "../../httpapi/*", "."} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			for _, m := range regexp.MustCompile(`(?:Name: +|counter\(|gauge\()"(duet_\w+)"`).FindAllStringSubmatch(readText(t, f), -1) {
				want[m[1]] = true
			}
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(duet_\\w+)` \\|").FindAllStringSubmatch(readText(t, readme), -1) {
		have[m[1]] = true
	}
	if !maps.Equal(want, have) {
		t.Errorf("README lists %v, the code registers %v", have, want)
	}
}

func TestMakeTargets(t *testing.T) {
	makefile := readText(t, "../../Makefile")
	for _, m := range regexp.MustCompile("(?m)^\\| `make (\\w+)` \\|").FindAllStringSubmatch(readText(t, readme), -1) {
		if !regexp.MustCompile(`(?m)^` + m[1] + `:.* ## `).MatchString(makefile) {
			t.Errorf("make %s is not a target", m[1])
		}
	}
}

// TestReadmesAgree keeps the two languages together: the same sections, code and tables.
func TestReadmesAgree(t *testing.T) {
	shape := func(path string) (headings []string, blocks []string, rows, links []string) {
		text := readText(t, path)
		for _, b := range codeBlocks(t, path) {
			blocks = append(blocks, b.info+"\n"+strings.Join(b.lines, "\n"))
		}
		prose := regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(text, "")
		headings = regexp.MustCompile(`(?m)^#+ `).FindAllString(prose, -1)
		rows = regexp.MustCompile("(?m)^\\| `[^`]*`").FindAllString(prose, -1)
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`).FindAllStringSubmatch(prose, -1) {
			if m[1] != "README.md" && !strings.HasSuffix(m[1], ".zh-CN.md") { // of the other language
				links = append(links, m[1])
			}
		}
		return headings, blocks, rows, links
	}
	h1, b1, r1, l1 := shape(readme)
	h2, b2, r2, l2 := shape(readmeZH)
	for what, pair := range map[string][2][]string{"headings": {h1, h2}, "code": {b1, b2}, "table rows": {r1, r2}, "links": {l1, l2}} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s differ:\n%q\n%q", what, pair[0], pair[1])
		}
	}
	for _, link := range l1 {
		if _, err := os.Stat("../../" + link); err != nil && !strings.Contains(link, "://") {
			t.Errorf("README links to %s, which is not there", link)
		}
	}
}

func readText(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(readText(t, path)), v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
