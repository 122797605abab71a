package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Each, set in the environment, makes the test binary behave as another program.
const (
	asDuet = "TEST_BINARY_IS_DUET"
	asNATS = "TEST_BINARY_IS_NATS_SERVER"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asDuet) != "":
		main()
	case os.Getenv(asNATS) != "":
		natsMain()
	}
	os.Exit(m.Run())
}

// A process is duet in a process of its own.
type process struct {
	*exec.Cmd
	stdout bytes.Buffer
	stderr transcript
	status chan int // its exit status, once
}

// spawn starts duet with args and, beside what a test always needs, env.
func spawn(t *testing.T, args []string, env ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], args...), status: make(chan int, 1)}
	p.Env = append([]string{asDuet + "=1", "GORACE=atexit_sleep_ms=0", "DUET_ADDR=127.0.0.1:0", "DUET_ADMIN_ADDR=127.0.0.1:0"}, env...)
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	p.stderr.changed = make(chan struct{})
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var exit *exec.ExitError
		if err := p.Wait(); err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
		p.status <- p.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("duet said:\n%s", p.stderr.String())
		}
	})
	return p
}

// exit waits for the process to end and returns its status.
func (p *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case status := <-p.status:
		return status
	case <-time.After(patience):
		t.Fatal("duet does not end")
		return 0
	}
}

// listening returns the addresses that the process announced.
func (p *process) listening(t *testing.T) (page, socket, operator string) {
	t.Helper()
	line := p.stderr.await(t, regexp.MustCompile(`(?m)^.*"msg":"listening".*$`))
	var said struct{ Page, Websocket, Operator string }
	if err := json.Unmarshal([]byte(line), &said); err != nil {
		t.Fatal(err)
	}
	return said.Page, said.Websocket, said.Operator
}

// A transcript collects what a process writes.
type transcript struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed and replaced with each write
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.text.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await returns the first match of want as soon as it is there.
func (s *transcript) await(t *testing.T, want *regexp.Regexp) string {
	t.Helper()
	tooLong := time.After(patience)
	for {
		s.mu.Lock()
		found, changed := want.FindString(s.text.String()), s.changed
		s.mu.Unlock()
		if found != "" {
			return found
		}
		select {
		case <-changed:
		case <-tooLong:
			t.Fatalf("%s does not come", want)
		}
	}
}

// get returns status and body of a GET.
func get(t testing.TB, url string) (int, string) {
	t.Helper()
	res, body := fetch(t, http.DefaultClient, url)
	return res.StatusCode, body
}

func TestProcessServesAndEnds(t *testing.T) {
	p := spawn(t, nil, "DUET_BASE_PATH=/duet", "DUET_NONSENSE=1",
		`DUET_ICE_SERVERS=[{"urls":"turn:a.example","username":"u","credential":"hunter2"}]`)
	page, socket, operator := p.listening(t)
	root := strings.TrimSuffix(page, "duet/")
	for _, tt := range []struct {
		url    string
		status int
		part   string
	}{
		{page, 200, "<!doctype html>"},
		{root + "duet", 200, "<!doctype html>"},
		{page + "protocol.json", 200, "{"},
		{root + "healthz", 200, "ok"},
		{page + "readyz", 200, "ready"},
		{page + "ws", 426, socket},
		{page + "metrics", 404, ""},
		{root + "metrics", 404, ""},
		{root + "debug/pprof/", 404, ""},
		{operator, 200, "duet_connections 0"},
		{operator, 200, `duet_panics_total{where="http"} 0`},
		{operator, 200, "go_goroutines"},
		{strings.TrimSuffix(operator, "metrics") + "debug/pprof/", 200, "goroutine"},
		{strings.TrimSuffix(operator, "metrics") + "ws", 404, ""},
	} {
		if status, body := get(t, tt.url); status != tt.status || !strings.Contains(strings.ToLower(body), tt.part) {
			t.Errorf("%s: %d, %q is missing", tt.url, status, tt.part)
		}
	}
	began := time.Now()
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := p.exit(t); status != exitOK {
		t.Errorf("status %d", status)
	}
	if took := time.Since(began); took > 5*time.Second { // of the 10 s there are; nobody was connected
		t.Errorf("the end took %s", took)
	}
	said := p.stderr.String()
	for _, part := range []string{`"name":"DUET_NONSENSE"`, `"DUET_GRACE":"30s"`, `\"credential\":\"***\"`} {
		if !strings.Contains(said, part) {
			t.Errorf("%s was not logged", part)
		}
	}
	if strings.Contains(said, "hunter2") {
		t.Error("a secret was logged")
	}
}

// One address cannot hold all connections of a listener by saying nothing: neither of the one for clients
// nor of the one that leads to it.
func TestOneAddressThatSaysNothing(t *testing.T) {
	p := spawn(t, nil, "DUET_MAX_CONNECTIONS_PER_IP=1", "DUET_TLS_SELF_SIGNED=true", "DUET_HTTP_REDIRECT_ADDR=127.0.0.1:0", "DUET_DATA_DIR="+t.TempDir())
	at := p.said(t)
	for _, tt := range []struct {
		listener, url string
		most          int
	}{{"public", at.Page, 32}, {"redirect", at.Redirect, redirectsPerIP}} {
		to, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		var first net.Conn
		for range tt.most + 1 {
			c, err := net.Dial("tcp", to.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			first = cmp.Or(first, c)
		}
		began := time.Now()
		if err := first.SetReadDeadline(began.Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > headerTimeout*9/10 {
			t.Errorf("%s: %v after %v, want the end at once", tt.listener, err, time.Since(began))
		}
		want := fmt.Sprintf("duet_http_connections_cut_total{listener=%q} 1\n", tt.listener)
		if _, metrics := get(t, at.Operator); !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestBannerForPeople(t *testing.T) {
	p := spawn(t, nil, "DUET_LOG_FORMAT=text", "DUET_ADMIN_ADDR=off")
	banner := p.stderr.await(t, regexp.MustCompile(`(?s)duet is ready\..*operator\s+\S+\n`))
	for _, want := range []string{`page +http://127\.0\.0\.1:\d+/ `, `websocket +ws://127\.0\.0\.1:\d+/ws\n`, `try +websocat ws://127\.0\.0\.1:\d+/ws\n`, `operator +off\n`} {
		if !regexp.MustCompile(want).MatchString(banner) {
			t.Errorf("%s is missing in\n%s", want, banner)
		}
	}
}

func TestExitStatus(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		name   string
		args   []string
		env    []string
		status int
		stdout string
		stderr []string // one line each; nil = nothing
	}{
		{"help", []string{"-h"}, nil, exitOK, "DUET_ADDR ", nil},
		{"long help", []string{"--help"}, nil, exitOK, "DUET_ADDR ", nil},
		{"help with bad settings", []string{"-h"}, []string{"DUET_GRACE=x"}, exitOK, "DUET_GRACE ", nil},
		{"version", []string{"-version"}, nil, exitOK, "duet ", nil},
		{"unknown argument", []string{"serve"}, nil, exitUsage, "", []string{`duet: unknown argument "serve": settings are environment variables, listed by duet -h`}},
		{"unknown flag", []string{"-port=80"}, nil, exitUsage, "", []string{"duet: flag provided but not defined: -port: settings"}},
		{"bad settings", nil, []string{"DUET_GRACE=x", "DUET_ROOM_CAPACITY=1"}, exitUsage, "",
			[]string{"duet: bad settings", `DUET_ROOM_CAPACITY="1": must be`, `DUET_GRACE="x": must be`}},
		{"port taken", nil, []string{"DUET_ADDR=" + taken.Addr().String()}, exitFailed, "",
			[]string{"duet: DUET_ADDR=" + taken.Addr().String() + ": the port is taken: stop"}},
		{"operator's port taken", nil, []string{"DUET_ADMIN_ADDR=" + taken.Addr().String()}, exitFailed, "",
			[]string{"duet: DUET_ADMIN_ADDR=" + taken.Addr().String() + ": the port is taken: stop"}},
		{"another machine's address", nil, []string{"DUET_ADDR=192.0.2.1:0"}, exitFailed, "",
			[]string{"duet: DUET_ADDR=192.0.2.1:0: this machine has no such address"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := spawn(t, tt.args, tt.env...)
			if status := p.exit(t); status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			if !strings.Contains(p.stdout.String(), tt.stdout) || tt.stdout == "" && p.stdout.Len() > 0 {
				t.Errorf("stdout lacks %q:\n%s", tt.stdout, p.stdout.String())
			}
			lines := strings.FieldsFunc(p.stderr.String(), func(r rune) bool { return r == '\n' })
			if len(lines) != len(tt.stderr) {
				t.Fatalf("stderr:\n%s", p.stderr.String())
			}
			for i, prefix := range tt.stderr {
				if !strings.HasPrefix(lines[i], prefix) {
					t.Errorf("line %d: %s\nwant %s", i+1, lines[i], prefix)
				}
			}
		})
	}
}

func TestDrainClosesSocketsWith1012(t *testing.T) {
	p := spawn(t, nil, "DUET_DRAIN=8s")
	page, socket, _ := p.listening(t)
	const clients = 20
	closed := make(chan error, clients)
	for range clients {
		ws, _, err := websocket.Dial(t.Context(), socket, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _, err := ws.Read(context.Background())
			closed <- err
		}()
	}
	silent := rawWebSocket(t, strings.TrimSuffix(strings.TrimPrefix(page, "http://"), "/"))
	began := time.Now()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for range clients {
		var end websocket.CloseError
		if err := <-closed; !errors.As(err, &end) || end.Code != websocket.StatusServiceRestart || end.Reason != "restart" {
			t.Errorf("a client saw %v", err)
		}
	}
	// The silent one never answers the close: until its time is up the server is there, but takes nobody in.
	if status, body := get(t, page+"readyz"); status != http.StatusServiceUnavailable || body != "draining\n" {
		t.Errorf("/readyz: %d %q", status, body)
	}
	if status, _ := get(t, page+"healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	if _, res, err := websocket.Dial(t.Context(), socket, nil); err == nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a new connection: %v", err)
	}
	frame, err := io.ReadAll(silent)
	if want := "\x88\x09\x03\xf4restart"; err != nil || string(frame) != want {
		t.Errorf("the silent client got %q, %v", frame, err)
	}
	if status := p.exit(t); status != exitOK {
		t.Errorf("status %d", status)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the drain took %s", took)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	p := spawn(t, nil)
	page, _, _ := p.listening(t)
	rawWebSocket(t, strings.TrimSuffix(strings.TrimPrefix(page, "http://"), "/")) // holds the drain up
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.stderr.await(t, regexp.MustCompile("draining"))
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.exit(t); status != 128+int(syscall.SIGTERM) {
		t.Errorf("status %d", status)
	}
}

// rawWebSocket does the handshake by hand and returns what follows. Nothing answers there.
func rawWebSocket(t *testing.T, addr string) io.Reader {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", addr)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v, %v", res, err)
	}
	return in
}
