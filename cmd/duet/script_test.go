package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A script is an example in the documents: a fenced block of kind "duet", in the notation that
// docs/protocol.md explains at its top. Variables on the fence are the server's settings.
type script struct {
	name  string // file and line
	env   []string
	steps []step
}

// A step is one line of a script.
type step struct {
	line   int
	client string // "" = the server itself
	verb   string // "+" connects, ">" sends, "<" receives, "$" is a command of the operator's
	times  int
	text   string
	output []string // of a command
}

var (
	stepLine  = regexp.MustCompile(`^(\w+)(?:(\+)|([<>]) (?:\(× (\d+)\) )?(.+))$`)
	remark    = regexp.MustCompile(`^(#.*)?$`)
	closeWord = regexp.MustCompile(`^\(close (\d+) ?([a-z-]*)\)$`)
	httpWord  = regexp.MustCompile(`^\(HTTP (\d+)\)$`)
	sizeWord  = regexp.MustCompile(`^\(a message of (\d+) bytes\)$`)
	variable  = regexp.MustCompile(`"\$(\w+)"`)
)

// readScripts returns the scripts in a Markdown file.
func readScripts(t testing.TB, path string) []script {
	t.Helper()
	var scripts []script
	for _, b := range codeBlocks(t, path) {
		info := strings.Fields(b.info)
		if len(info) == 0 || info[0] != "duet" {
			continue
		}
		s := script{name: fmt.Sprintf("%s:%d", path[strings.LastIndexByte(path, '/')+1:], b.line), env: info[1:]}
		for i, text := range b.lines {
			line := b.line + 1 + i
			if remark.MatchString(text) {
				continue
			}
			if n := len(s.steps) - 1; n >= 0 && s.steps[n].takes(text) {
				continue
			}
			st, err := parseStep(text)
			if err != nil {
				t.Fatalf("%s:%d: %v", path, line, err)
			}
			st.line = line
			s.steps = append(s.steps, st)
		}
		scripts = append(scripts, s)
	}
	if len(scripts) == 0 {
		t.Fatalf("%s has no script", path)
	}
	return scripts
}

// takes adds text to a command, as its next line or as a line of its output, and reports whether it is
// one.
func (st *step) takes(text string) bool {
	switch begun, open := strings.CutSuffix(st.text, `\`); {
	case st.verb != "$" || strings.HasPrefix(text, "$ ") || strings.HasSuffix(text, " gets SIGTERM)") || stepLine.MatchString(text):
		return false
	case open:
		st.text = begun + text
	default:
		st.output = append(st.output, text)
	}
	return true
}

func parseStep(text string) (step, error) {
	if command, ok := strings.CutPrefix(text, "$ "); ok {
		return step{verb: "$", text: command}, nil
	}
	if text == "(the server gets SIGTERM)" || text == "(node a gets SIGTERM)" {
		return step{text: text}, nil
	}
	m := stepLine.FindStringSubmatch(text)
	if m == nil {
		return step{}, fmt.Errorf("not a line of a script: %s", text)
	}
	times := 1
	if m[4] != "" {
		times, _ = strconv.Atoi(m[4])
	}
	return step{client: m[1], verb: m[2] + m[3], times: times, text: m[5]}, nil
}

// A block is a fenced block of a Markdown file.
type block struct {
	info  string
	line  int // of the opening fence
	lines []string
}

func codeBlocks(t testing.TB, path string) []block {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	open := false
	for i, text := range strings.Split(string(data), "\n") {
		switch info, fence := strings.CutPrefix(text, "```"); {
		case fence && !open:
			blocks = append(blocks, block{info: info, line: i + 1})
			open = true
		case fence:
			open = false
		case open:
			b := &blocks[len(blocks)-1]
			b.lines = append(b.lines, text)
		}
	}
	if open {
		t.Fatalf("%s: a block is not closed", path)
	}
	return blocks
}

// A stage is where a script is played.
type stage struct {
	t       *testing.T
	script  script
	nodes   []*server // one; or a and b, where the script has DUET_NATS_URL: B and what else is of b's is there
	stopped bool      // the first one
	schemas *schemas
	clients map[string]*client
	vars    map[string]string
}

// A client is one connection, kept after its end so that a second end is noticed.
type client struct {
	ws  *websocket.Conn
	tcp net.Conn
}

const patience = 20 * time.Second // for a message to come; a document's own times are shorter

func (s script) play(t *testing.T, schemas *schemas) {
	env := s.env
	if slices.ContainsFunc(s.steps, func(st step) bool { return st.verb == "$" }) {
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skip("no curl")
		}
		env = append([]string{"DUET_ADMIN_ADDR=127.0.0.1:0"}, env...)
	}
	g := &stage{t: t, script: s, schemas: schemas, clients: map[string]*client{}, vars: map[string]string{}}
	if i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, "DUET_NATS_URL=") }); i < 0 {
		g.nodes = []*server{startServer(t, env...)}
	} else {
		env = slices.Clone(env)
		env[i] = "DUET_NATS_URL=" + startNATS(t, nil).ClientURL()
		both := startPair(t, env...)
		g.nodes = []*server{both.a, both.b}
	}
	for i, st := range s.steps {
		if st.verb == "$" {
			g.run(st)
			continue
		}
		if st.client == "" {
			g.nodes[0].stop()
			g.stopped = true
			continue
		}
		g.play(st, g.expectsRefusal(i))
	}
	g.nothingElse()
}

// node is the one that a client comes to, as a balancer would have it.
func (g *stage) node(client string) *server {
	if last := len(g.nodes) - 1; client == "B" || g.stopped {
		return g.nodes[last]
	}
	return g.nodes[0]
}

func (g *stage) fail(st step, format string, args ...any) {
	g.t.Helper()
	g.t.Fatalf("%s, line %d (%s%s): %s", g.script.name, st.line, st.client, st.verb, fmt.Sprintf(format, args...))
}

// expectsRefusal reports whether the next thing that the sender of step i gets says that the
// message was none: only then need it not fit the schema.
func (g *stage) expectsRefusal(i int) bool {
	for _, st := range g.script.steps[i+1:] {
		if st.client == g.script.steps[i].client && st.verb == "<" {
			return strings.Contains(st.text, `"code":"bad-message"`) || strings.Contains(st.text, `"code":"unknown-type"`)
		}
	}
	return false
}

func (g *stage) play(st step, refused bool) {
	c := g.clients[st.client]
	if m := httpWord.FindStringSubmatch(st.text); m != nil {
		_, status, _ := g.node(st.client).dial(g.t)
		if strconv.Itoa(status) != m[1] {
			g.fail(st, "the handshake was answered with %d", status)
		}
		return
	}
	if st.verb == "+" || c == nil {
		var err error
		if c, _, err = g.node(st.client).dial(g.t); err != nil {
			g.fail(st, "%v", err)
		}
		g.clients[st.client] = c
	}
	for range st.times {
		switch st.verb {
		case ">":
			g.send(st, c, refused)
		case "<":
			g.receive(st, c)
		}
	}
}

// send does what stands behind ">".
func (g *stage) send(st step, c *client, refused bool) {
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	kind, text := websocket.MessageText, st.text
	var err error
	if m := closeWord.FindStringSubmatch(st.text); m != nil {
		code, _ := strconv.Atoi(m[1])
		err = c.ws.Close(websocket.StatusCode(code), m[2])
		delete(g.clients, st.client)
		text = ""
	} else if m := sizeWord.FindStringSubmatch(st.text); m != nil {
		size, _ := strconv.Atoi(m[1])
		const head, tail = `{"type":"message","data":"`, `"}`
		text = head + strings.Repeat("x", size-len(head+tail)) + tail
	} else {
		switch st.text {
		case "(cut)":
			err = c.tcp.Close()
			delete(g.clients, st.client)
			text = ""
		case "(a frame without a mask)":
			_, err = c.tcp.Write([]byte{0x81, 2, '{', '}'})
			text = ""
		case "(a binary message)":
			kind, text = websocket.MessageBinary, `{"type":"ping"}`
		case "(a message that is not UTF-8)":
			text = "{\"type\":\"message\",\"data\":\"\xff\"}"
		default:
			text = variable.ReplaceAllStringFunc(text, func(v string) string { return strconv.Quote(g.vars[v[2:len(v)-1]]) })
			if fault := g.schemas.check("clientMessage", text); fault != nil && !refused {
				g.fail(st, "does not fit the schema: %v", fault)
			}
		}
	}
	if err == nil && text != "" {
		err = c.ws.Write(ctx, kind, []byte(text))
	}
	if err != nil {
		g.fail(st, "%v", err)
	}
}

// receive waits for what stands behind "<" and takes nothing else, except an ack.
func (g *stage) receive(st step, c *client) {
	got, err := g.next(c, strings.Contains(st.text, `"type":"ack"`))
	if m := closeWord.FindStringSubmatch(st.text); m != nil {
		delete(g.clients, st.client)
		var end websocket.CloseError
		if !errors.As(err, &end) || strconv.Itoa(int(end.Code)) != m[1] || end.Reason != m[2] {
			g.fail(st, "want %s, got %s%v", st.text, got, err)
		}
		return
	}
	if err != nil {
		g.fail(st, "want %s\nnot %v", st.text, err)
	}
	var want, have any
	if err := json.Unmarshal([]byte(st.text), &want); err != nil {
		g.fail(st, "not JSON: %v", err)
	}
	if err := json.Unmarshal([]byte(got), &have); err != nil {
		g.fail(st, "got no JSON: %v", err)
	}
	if !g.matches(want, have) {
		g.fail(st, "\nwant %s\ngot  %s\nwith %v", st.text, got, g.vars)
	}
}

// next returns the next message, which fits the schema, or the connection's end.
func (g *stage) next(c *client, acks bool) (string, error) {
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	for {
		kind, data, err := c.ws.Read(ctx)
		if err != nil {
			return "", err
		}
		if kind != websocket.MessageText {
			return "", errors.New("a binary message")
		}
		if fault := g.schemas.check("serverMessage", string(data)); fault != nil {
			return "", fmt.Errorf("%s\nwhich does not fit the schema: %w", data, fault)
		}
		if acks || !strings.Contains(string(data), `"type":"ack"`) {
			return string(data), nil
		}
	}
}

// run runs a command in a shell that knows the script's variables and settings, and wants the output that
// the document shows. One that would go on for ever (curl -N) is ended after that.
func (g *stage) run(st step) {
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	const shell = `duet() { "$DUET_TEST_BINARY" "$@"; }; `
	text := strings.ReplaceAll(st.text, "http://localhost:9091", g.nodes[0].admin)
	text = strings.ReplaceAll(text, "http://localhost:9092", g.nodes[len(g.nodes)-1].admin)
	command := exec.CommandContext(ctx, "sh", "-c", shell+text)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.Env = append(os.Environ(), "DUET_TEST_BINARY="+os.Args[0], asDuet+"=1")
	command.Env = append(command.Env, g.script.env...)
	for name, value := range g.vars {
		command.Env = append(command.Env, name+"="+value)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		g.fail(st, "%v", err)
	}
	var complaints strings.Builder
	command.Stderr = &complaints
	if err := command.Start(); err != nil {
		g.fail(st, "%v", err)
	}
	shown := st.output
	lines := bufio.NewScanner(out)
	for (len(shown) > 0 || !strings.Contains(st.text, "curl -N")) && lines.Scan() {
		switch line := lines.Text(); {
		case line == "":
		case len(shown) == 0 || !g.matchesLine(shown[0], line):
			g.fail(st, "\nwant %q\ngot  %s\nwith %v", shown, line, g.vars)
		default:
			shown = shown[1:]
		}
	}
	if strings.Contains(st.text, "curl -N") {
		cancel()
	}
	err = command.Wait()
	if refused := len(st.output) > 0 && strings.Contains(st.output[0], `"code":`); len(shown) > 0 || ctx.Err() == nil && err != nil && !refused {
		g.fail(st, "%v\n%s\nwant %q", err, complaints.String(), shown)
	}
}

// matchesLine compares a line of output with what a document shows, as JSON where it is that, behind
// "data: " too.
func (g *stage) matchesLine(want, have string) bool {
	if wanted, ok := strings.CutPrefix(want, "data: "); ok && strings.HasPrefix(have, "data: ") {
		want, have = wanted, have[len("data: "):]
	}
	var wanted, got any
	if json.Unmarshal([]byte(want), &wanted) == nil && json.Unmarshal([]byte(have), &got) == nil {
		return g.matches(wanted, got)
	}
	pattern := strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".+")
	var names []string
	pattern = regexp.MustCompile(`\\\$(\w+)`).ReplaceAllStringFunc(pattern, func(v string) string {
		if value := g.vars[v[2:]]; value != "" {
			return regexp.QuoteMeta(value)
		}
		names = append(names, v[2:])
		return `(\S+)`
	})
	m := regexp.MustCompile("^" + pattern + "$").FindStringSubmatch(have)
	for i, name := range names {
		if m != nil {
			g.vars[name] = m[1+i]
		}
	}
	return m != nil
}

// matches compares what came with what a document shows: "…" is anything, "$x" a value to remember.
func (g *stage) matches(want, have any) bool {
	switch want := want.(type) {
	case string:
		name, isVariable := strings.CutPrefix(want, "$")
		text, isText := have.(string)
		switch {
		case want == "…":
			return true
		case !isVariable:
			return isText && text == want
		case g.vars[name] == "":
			g.vars[name] = text
			return isText && text != ""
		}
		return isText && text == g.vars[name]
	case map[string]any:
		object, ok := have.(map[string]any)
		if !ok || len(object) != len(want) {
			return false
		}
		for k, v := range want {
			if inside, ok := object[k]; !ok || !g.matches(v, inside) {
				return false
			}
		}
		return true
	case []any:
		list, ok := have.([]any)
		return ok && slices.EqualFunc(want, list, g.matches)
	}
	return reflect.DeepEqual(want, have)
}

// nothingElse asks every connection that is left for a pong and takes it amiss when something
// comes before it that the document does not show.
func (g *stage) nothingElse() {
	for _, name := range slices.Sorted(maps.Keys(g.clients)) {
		c := g.clients[name]
		if err := c.ws.Write(g.t.Context(), websocket.MessageText, []byte(`{"type":"ping"}`)); err != nil {
			g.t.Errorf("%s: at the end %s is closed: %v", g.script.name, name, err)
			continue
		}
		got, err := g.next(c, false)
		if err != nil || got != `{"type":"pong"}` && !strings.Contains(got, `"for":"ping"`) {
			g.t.Errorf("%s: at the end %s gets, and the document does not show: %s %v", g.script.name, name, got, err)
		}
	}
}

// ---- the server

// A server is duet with settings of its own, as run starts it, on a free port.
type server struct {
	page  string // URL, ending in a slash
	admin string // URL of the operator's side, without one; "" where it is off
	stop  context.CancelFunc
	ended chan struct{} // closed when it has ended
}

// startServer starts one that ends with the test. env are settings as NAME=value.
func startServer(t testing.TB, env ...string) *server {
	t.Helper()
	env = append([]string{"DUET_ADDR=127.0.0.1:0", "DUET_ADMIN_ADDR=off", "DUET_STUN=off"}, env...)
	cfg, err := parseConfig(env, descriptorLimit())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	output := &announcement{page: make(chan string, 1)}
	ended, gone := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(gone)
		ended <- run(ctx, &cfg, env, descriptorLimit(), output)
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended: %v", err)
		}
		if t.Failed() {
			t.Logf("the server said:\n%s", output.text)
		}
	})
	select {
	case page := <-output.page:
		return &server{page: page, admin: output.admin, stop: stop, ended: gone}
	case err := <-ended:
		ended <- nil
		t.Fatalf("the server did not start: %v", err)
	case <-time.After(patience):
		t.Fatal("the server did not say where its page is")
	}
	return nil
}

// An announcement is what the server prints; its page's address is taken out of it.
type announcement struct {
	mu   sync.Mutex
	text []byte
	page chan string // the address, once

	admin string // of the operator's side, said together with the page's
	seen  bool
}

var (
	pageURL  = regexp.MustCompile(`http://127\.0\.0\.1:\d+/`)
	adminURL = regexp.MustCompile(`(http://127\.0\.0\.1:\d+)/metrics`)
)

func (a *announcement) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.text = append(a.text, p...)
	if u := pageURL.Find(a.text); u != nil && !a.seen {
		a.seen = true
		if m := adminURL.FindSubmatch(a.text); m != nil {
			a.admin = string(m[1])
		}
		a.page <- string(u)
	}
	return len(p), nil
}

// dial opens a WebSocket. Where the handshake is refused it returns the HTTP status and an error.
func (s *server) dial(t testing.TB) (_ *client, status int, _ error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := &client{}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		c.tcp = conn
		return conn, err
	}}
	ws, resp, err := websocket.Dial(ctx, s.page+"ws", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{"duet.v1"}})
	if resp != nil {
		status = resp.StatusCode
	}
	if err != nil {
		transport.CloseIdleConnections()
		return nil, status, err
	}
	if ws.Subprotocol() != "duet.v1" {
		return nil, status, fmt.Errorf("the server chose subprotocol %q", ws.Subprotocol())
	}
	ws.SetReadLimit(1 << 20)
	c.ws = ws
	t.Cleanup(func() { ws.CloseNow() })
	return c, status, nil
}
