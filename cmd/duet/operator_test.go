package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"duet/httpapi/token"
	"duet/httpapi/webhook"
	"duet/signaling"
)

// hangFor is how long the webhook's receiver hangs in TestWebhookHangs, and answers before that.
var hangFor = flag.Duration("hang", time.Second, "how long the webhook's receiver hangs")

const (
	exampleSecret  = "an-example-of-a-secret-and-no-more"
	exampleWebhook = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
)

// TestWebhookHangs measures the relay while the webhook's receiver answers and while it hangs, with
// rooms opening and closing all the time.
func TestWebhookHangs(t *testing.T) {
	var hanging atomic.Bool
	var received, verified atomic.Int64
	verify, err := standardwebhooks.NewWebhook(exampleWebhook)
	if err != nil {
		t.Fatal(err)
	}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		received.Add(1)
		body, _ := io.ReadAll(r.Body)
		if err := verify.Verify(body, r.Header); err != nil {
			t.Error(err)
		} else {
			verified.Add(1)
		}
		if hanging.Load() {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(receiver.Close) // after the server's end, which ends what hangs
	s := startServer(t, "DUET_WEBHOOK_URL="+strings.Replace(receiver.URL, "127.0.0.1", "localhost", 1)+"/hook", "DUET_WEBHOOK_SECRET="+exampleWebhook, "DUET_DRAIN=1s",
		"DUET_MESSAGE_RATE=1000000", "DUET_MESSAGE_BURST=1000000", "DUET_JOIN_RATE=100000000")

	before := s.relayFor(t, *hangFor)
	answered := received.Load()
	hanging.Store(true)
	during := s.relayFor(t, *hangFor)
	t.Logf("relayed messages while the receiver answers (%d webhooks) and while it hangs for %v (%d begun): p50 %v and %v, p99 %v and %v",
		answered, *hangFor, received.Load()-answered, at(before, 50), at(during, 50), at(before, 99), at(during, 99))
	if answered == 0 || verified.Load() != received.Load() {
		t.Errorf("%d answered, %d of %d verified", answered, verified.Load(), received.Load())
	}
	if at(during, 50) > 5*at(before, 50)+100*time.Millisecond { // p99 is the machine's; that Send never blocks has a test of its own
		t.Error("relaying is slower")
	}
}

// at returns a percentile.
func at(sorted []time.Duration, percent int) time.Duration { return sorted[len(sorted)*percent/100] }

// relayFor relays 100 messages a second in each of ten pairs for a while, opens and closes 100 rooms a
// second beside that, and returns how long the messages took, sorted.
func (s *server) relayFor(t *testing.T, window time.Duration) []time.Duration {
	const pairs, pace = 10, 10 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), window)
	defer cancel()
	var all []time.Duration
	var mu sync.Mutex
	var busy sync.WaitGroup
	dial := func() *websocket.Conn {
		c, _, err := s.dial(t)
		if err != nil {
			t.Fatal(err)
		}
		return c.ws
	}
	talk := func(ws *websocket.Conn, text string) { _ = ws.Write(t.Context(), websocket.MessageText, []byte(text)) }
	hear := func(ws *websocket.Conn, part string) {
		for {
			if _, data, err := ws.Read(t.Context()); err != nil || strings.Contains(string(data), part) {
				return
			}
		}
	}
	for n := range pairs {
		a, b := dial(), dial()
		talk(a, fmt.Sprintf(`{"type":"join","room":"pair-%d"}`, n))
		hear(a, "joined")
		talk(b, fmt.Sprintf(`{"type":"join","room":"pair-%d"}`, n))
		hear(b, "joined")
		busy.Go(func() {
			defer a.Close(websocket.StatusNormalClosure, "")
			defer b.Close(websocket.StatusNormalClosure, "")
			var took []time.Duration
			for range beats(ctx, pace) {
				began := time.Now()
				talk(a, `{"type":"message","data":"hello"}`)
				hear(b, "hello")
				took = append(took, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	churn := dial()
	busy.Go(func() {
		defer churn.Close(websocket.StatusNormalClosure, "")
		n := 0
		for range beats(ctx, pace) {
			n++
			talk(churn, fmt.Sprintf(`{"type":"join","room":"churn-%d"}`, n))
			hear(churn, "joined")
			talk(churn, `{"type":"leave"}`)
			hear(churn, "left")
		}
	})
	busy.Wait()
	slices.Sort(all)
	if len(all) < pairs {
		t.Fatalf("%d messages", len(all))
	}
	return all
}

// beats comes again every pace, but never in a rush, until ctx ends.
func beats(ctx context.Context, pace time.Duration) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		ticker := time.NewTicker(pace)
		defer ticker.Stop()
		for {
			select {
			case now := <-ticker.C:
				if !yield(now) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// TestOversightFaults: settings that do not go together are said at the start.
func TestOversightFaults(t *testing.T) {
	for _, tt := range []struct {
		env  []string
		want string
	}{
		{[]string{"DUET_AUTH_SECRET=hunter2-hunter2-hunter2-hunter2"}, "DUET_AUTH_SECRET: must have at least 32 bytes"},
		{[]string{"DUET_AUTH_JWKS_URL=http://login.example/jwks"}, "DUET_AUTH_JWKS_URL=\"http://login.example/jwks\": must be a URL such as https"},
		{[]string{"DUET_AUTH_JWKS_URL=https://u:p@login.example/jwks"}, "without user"},
		{[]string{"DUET_AUTH_JWKS_URL=file:///etc/jwks"}, "must be a URL"},
		{[]string{"DUET_AUTH_JWKS_URL=https://login.example/jwks", "DUET_AUTH_SECRET=" + exampleSecret}, "both set"},
		{[]string{"DUET_AUTH_AUDIENCE=duet"}, "do nothing by themselves"},
		{[]string{"DUET_AUTH_ISSUER=a\nb", "DUET_AUTH_SECRET=" + exampleSecret}, "no control characters"},
		{[]string{"DUET_ADMIN_TOKEN=hunter2-hunter2-hun"}, "DUET_ADMIN_TOKEN: must have at least 20 characters"},
		{[]string{"DUET_ADMIN_TOKEN=hunter2 hunter2 hunter2"}, "visible ASCII"},
		{[]string{"DUET_WEBHOOK_URL=ftp://hunter2.example"}, "DUET_WEBHOOK_URL: must be a URL"},
		{[]string{"DUET_WEBHOOK_URL=https://hooks.example/hunter2"}, "DUET_WEBHOOK_SECRET is missing"},
		{[]string{"DUET_WEBHOOK_SECRET=hunter2"}, "DUET_WEBHOOK_SECRET: must be whsec_"},
		{[]string{"DUET_WEBHOOK_SECRET=whsec_hunter2!"}, "must be whsec_"},
		{[]string{"DUET_WEBHOOK_SECRET=whsec_" + base64.StdEncoding.EncodeToString([]byte("hunter2"))}, "must be whsec_"},
	} {
		_, err := parseConfig(tt.env, 1000)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", tt.env, err)
		}
	}
}

// TestOversightIsLoggedWithoutSecrets also wants the settings to be taken.
func TestOversightIsLoggedWithoutSecrets(t *testing.T) {
	for _, env := range [][]string{
		{"DUET_AUTH_SECRET=hunter2-" + exampleSecret, "DUET_AUTH_AUDIENCE=duet", "DUET_AUTH_ISSUER=me", "DUET_ADMIN_TOKEN=hunter2-hunter2-hunter2",
			"DUET_WEBHOOK_URL=https://hooks.example/hunter2?hunter2", "DUET_WEBHOOK_SECRET=hunter2-hunter2-hunter2-hunter2"},
		{"DUET_AUTH_JWKS_URL=http://[::1]:8081/jwks"},
		{"DUET_AUTH_JWKS_URL=http://localhost/jwks"},
	} {
		c, err := parseConfig(env, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if logged := c.LogValue().String() + fmt.Sprintf("%v", c); strings.Contains(logged, "hunter2") {
			t.Error(logged)
		}
	}
}

// TestOpenIsSaid: a service without tokens warns of it, one with them does not.
func TestOpenIsSaid(t *testing.T) {
	for secret, want := range map[string]bool{"": true, exampleSecret: false} {
		c, err := parseConfig([]string{"DUET_AUTH_SECRET=" + secret}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		newOversight(&c, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
		if warned := strings.Contains(log.String(), "level=WARN") && strings.Contains(log.String(), "everybody may join"); warned != want {
			t.Errorf("secret %q: %s", secret, &log)
		}
	}
}

func TestTokenCommand(t *testing.T) {
	env := []string{"DUET_AUTH_SECRET=" + exampleSecret, "DUET_AUTH_AUDIENCE=duet"}
	for _, tt := range []struct {
		name   string
		args   string
		env    []string
		status int
		stdout string // expression for the whole
		stderr string
	}{
		{"link", "-room demo", env, exitOK, `^(\S+)\nhttp://localhost:8080/#demo&token=(\S+)\n$`, ""},
		{"all", "-room r -ttl 1m -name Ada -capacity 3 -sub 7 -url https://duet.example/sub", env, exitOK, `^(\S+)\nhttps://duet.example/sub#r&token=(\S+)\n$`, ""},
		{"no path", "-room r -url https://duet.example", env, exitOK, `\nhttps://duet.example/#r`, ""},
		{"pattern", "-room team-*", env, exitOK, `^\S+\n$`, ""},
		{"help", "-h", nil, exitOK, "^$", "invite link"},
		{"no room", "", env, exitUsage, "^$", "duet token: room is missing\n"},
		{"no secret", "-room demo", nil, exitUsage, "^$", "duet token: DUET_AUTH_SECRET is not set"},
		{"bad settings", "-room demo", []string{"DUET_AUTH_SECRET=x"}, exitUsage, "^$", "DUET_AUTH_SECRET: must have at least 32 bytes"},
		{"ttl", "-room demo -ttl 2000h", env, exitUsage, "^$", "ttl"},
		{"capacity", "-room demo -capacity 9", env, exitUsage, "^$", "between 2 and 8"},
		{"url", "-room demo -url duet.example", env, exitUsage, "^$", "must be a URL"},
		{"argument", "demo", env, exitUsage, "^$", `unknown argument "demo"`},
		{"flag", "-rom demo", env, exitUsage, "^$", "-rom"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			status := command(append([]string{"token"}, strings.Fields(tt.args)...), tt.env, &stdout, &stderr)
			if status != tt.status || !regexp.MustCompile(tt.stdout).MatchString(stdout.String()) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("status %d\n%s\n%s", status, &stdout, &stderr)
			}
		})
	}
}

// TestSnippets runs the documents' JavaScript: a token made by it is taken, a webhook of ours verified.
func TestSnippets(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node")
	}
	run := func(path, more string, env ...string) (string, error) {
		i := slices.IndexFunc(codeBlocks(t, path), func(b block) bool { return b.info == "js" })
		command := exec.CommandContext(t.Context(), node, "--input-type=module", "-")
		command.Stdin = strings.NewReader(strings.Join(codeBlocks(t, path)[i].lines, "\n") + "\n" + more)
		command.Env = append(os.Environ(), env...)
		out, err := command.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}

	text, err := run(tokensDoc, "console.log(token)", "DUET_AUTH_SECRET="+exampleSecret)
	if err != nil {
		t.Fatal(text)
	}
	checker := token.New(token.Config{Secret: []byte(exampleSecret)}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if grant, err := checker.Authorize(t.Context(), text, "demo"); err != nil || grant.Name != "Ada" {
		t.Errorf("%+v, %v", grant, err)
	}

	var key webhookSecret
	if err := key.UnmarshalText([]byte(exampleWebhook)); err != nil {
		t.Fatal(err)
	}
	var got http.Header
	var body []byte
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r.Header
		body, _ = io.ReadAll(r.Body)
	}))
	defer receiver.Close()
	sender := webhook.New(webhook.Config{URL: receiver.URL, Secret: []byte(key)}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	sender.Send(signaling.Event{At: time.Now(), Type: "joined", Room: "demo", Peer: "p"})
	sender.Close(t.Context())
	for secret, fits := range map[string]bool{exampleWebhook: true, "whsec_AAAA": false} {
		out, err := run(operatorDoc, fmt.Sprintf("verify({'webhook-id': %q, 'webhook-timestamp': %q, 'webhook-signature': 'v1,x ' + %q}, %q, %q)",
			got.Get("webhook-id"), got.Get("webhook-timestamp"), got.Get("webhook-signature"), body, secret))
		if fits != (err == nil) {
			t.Errorf("with %s: %s", secret, out)
		}
	}
}
