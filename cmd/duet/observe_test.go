package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const (
	dashboardFile = "../../deploy/grafana/duet.json"
	alertsFile    = "../../deploy/prometheus/alerts.yml"
)

// A dashboard is what Grafana reads, as far as it matters here.
type dashboard struct {
	UID    string
	Panels []dashboardPanel
}

type dashboardPanel struct {
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct {
		Expr, LegendFormat string
		Datasource         struct{ UID string }
	}
}

func readDashboard(t testing.TB) (d dashboard) {
	t.Helper()
	readJSON(t, dashboardFile, &d)
	if len(d.Panels) == 0 {
		t.Fatal("no panels")
	}
	return d
}

// concrete is expr with Grafana's variables replaced by window.
func concrete(expr, window string) string {
	return strings.NewReplacer("$__rate_interval", window, "$__range", window).Replace(expr)
}

// startObserved starts two nodes that are one, with their operators' sides and relays. They do not ping:
// playCall's clients read nothing while their people pause.
func startObserved(t testing.TB) pair {
	t.Helper()
	return startPair(t, "DUET_NATS_URL="+startNATS(t, nil).ClientURL(), "DUET_NATS_REPLICAS=1", "DUET_RENEW=2s",
		"DUET_TURN_ADDR=127.0.0.1:0", "DUET_PING_INTERVAL=10m", "DUET_JOIN_RATE=100000", "DUET_MAX_CONNECTIONS_PER_IP=10000")
}

// TestDashboardMetrics wants each metric and label of the dashboard in /metrics. It is a scan, not a parser.
func TestDashboardMetrics(t *testing.T) {
	p := startObserved(t)
	for n := range 4 {
		if err := playCall(t.Context(), p, n, func(time.Duration) {}); err != nil {
			t.Fatal(err)
		}
	}
	_, text := get(t, p.a.admin+"/metrics")
	_, others := get(t, p.b.admin+"/metrics")
	labels := map[string]map[string]bool{"up": {}} // of metrics
	for _, m := range regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? \S+$`).FindAllStringSubmatch(text+others, -1) {
		if labels[m[1]] == nil {
			labels[m[1]] = map[string]bool{"job": true, "instance": true} // which Prometheus adds
		}
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
			labels[m[1]][l[1]] = true
		}
	}
	metric := regexp.MustCompile(`\b(?:duet|process)_\w+`)
	used := map[string]bool{}
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			names := metric.FindAllString(target.Expr, -1)
			if len(names) == 0 {
				t.Errorf("%s asks for nothing: %s", p.Title, target.Expr)
			}
			for _, name := range names {
				used[name] = true
				if labels[name] == nil {
					t.Errorf("%s: there is no metric %s", p.Title, name)
				}
			}
			for _, part := range regexp.MustCompile(`\{([^}]*)\}|by \(([^)]*)\)|\{\{(\w+)\}\}`).FindAllStringSubmatch(target.Expr+target.LegendFormat, -1) {
				for _, l := range regexp.MustCompile(`(\w+)(?:=~?"[^"]*")?`).FindAllStringSubmatch(part[1]+part[2]+part[3], -1) {
					if !labels[names[0]][l[1]] {
						t.Errorf("%s: %s has no label %s", p.Title, names[0], l[1])
					}
				}
			}
			if target.Datasource.UID != "prometheus" {
				t.Errorf("%s: data source %q", p.Title, target.Datasource.UID)
			}
		}
		if p.Type != "row" && p.Description == "" {
			t.Errorf("%s is not described", p.Title)
		}
	}
	for _, name := range metric.FindAllString(readText(t, alertsFile), -1) {
		if labels[name] == nil {
			t.Errorf("%s: there is no metric %s", alertsFile, name)
		}
	}
	for _, name := range []string{"duet_join_seconds_bucket", "duet_answer_seconds_bucket", "duet_connect_seconds_bucket",
		"duet_reports_total", "duet_resumes_total", "duet_errors_total", "duet_rooms", "duet_seats", "duet_ring_bytes"} {
		if !used[name] {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}

// ---- traffic

// playCall has two clients meet, negotiate and report, as browsers do, with the accidents of its number n:
// a failed connection, a third who finds the room full, a lost connection. They come to the two nodes in turn. pause lets time pass.
func playCall(ctx context.Context, p pair, n int, pause func(time.Duration)) error {
	room := fmt.Sprintf("call-%d-%s", n, randomText())
	session := [2]string{"A-" + randomText() + randomText(), "B-" + randomText() + randomText()}
	var ends [2]*websocket.Conn
	defer func() {
		for _, ws := range ends {
			if ws != nil {
				ws.CloseNow()
			}
		}
	}()
	seq, received := [2]int{}, [2]int{}
	await := func(i int, kind string) error {
		for {
			_, text, err := ends[i].Read(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			var m struct {
				Type string
				Seq  int
			}
			if err := json.Unmarshal(text, &m); err != nil {
				return err
			}
			received[i] = max(received[i], m.Seq)
			if m.Type == kind {
				return nil
			}
		}
	}
	send := func(i int, format string, args ...any) error {
		return ends[i].Write(ctx, websocket.MessageText, fmt.Appendf(nil, format, args...))
	}
	join := func(i, attempt int, members string) error {
		ws, _, err := websocket.Dial(ctx, []*server{p.a, p.b}[(n+i+attempt)%2].page+"ws", &websocket.DialOptions{Subprotocols: []string{"duet.v1"}})
		if err != nil {
			return err
		}
		ends[i] = ws
		return errors.Join(send(i, `{"type":"join","room":%q,"session":%q,"attempt":%d%s}`, room, session[i], attempt, members), await(i, "joined"))
	}
	relay := func(i int, kind, members string) error {
		seq[i]++
		return errors.Join(send(i, `{"type":%q,%s,"seq":%d}`, kind, members, seq[i]), await(1-i, kind))
	}
	answerIn, connectIn := logNormal(400*time.Millisecond, 0.6), logNormal(300*time.Millisecond, 0.5)
	path, state := "direct", "connected"
	if n%4 == 3 {
		path, connectIn = "relay", 2*connectIn
	}
	if n%8 == 5 {
		state = "failed"
	}
	steps := []func() error{
		func() error { return join(0, 1, "") },
		func() error { pause(logNormal(3*time.Second, 0.8)); return nil },
		func() error { return join(1, 1, "") },
		func() error { return await(0, "peer-joined") },
		func() error { return relay(1, "offer", `"sdp":"v=0"`) },
		func() error { pause(answerIn); return relay(0, "answer", `"sdp":"v=0"`) },
		func() error { return relay(1, "candidate", `"candidate":null`) },
		func() error { pause(connectIn); return nil },
		func() error {
			for i := range ends {
				var err error
				if state == "connected" {
					err = send(i, `{"type":"report","state":"connected","path":%q,"after":%d}`, path, connectIn.Milliseconds())
				} else {
					err = send(i, `{"type":"report","state":"failed"}`)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
		func() error { // a third
			if n%4 != 1 {
				return nil
			}
			ws, _, err := websocket.Dial(ctx, p.b.page+"ws", nil)
			if err != nil {
				return err
			}
			defer ws.CloseNow()
			if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"join","room":%q}`, room)); err != nil {
				return err
			}
			_, text, err := ws.Read(ctx)
			if !bytes.Contains(text, []byte("room-full")) {
				return fmt.Errorf("a third got %s, %v", text, err)
			}
			return ws.Close(websocket.StatusNormalClosure, "")
		},
		func() error { pause(logNormal(10*time.Second, 0.7)); return nil },
		func() error { // a lost connection
			if n%2 != 0 {
				return nil
			}
			ends[0].CloseNow()
			if err := await(1, "peer-away"); err != nil {
				return err
			}
			pause(logNormal(time.Second, 0.5))
			return errors.Join(join(0, 2, fmt.Sprintf(`,"since":1,"received":%d`, received[0])), await(1, "peer-back"))
		},
		func() error { pause(logNormal(6*time.Second, 0.7)); return nil },
		func() error { // the end
			seq[0]++
			return errors.Join(send(0, `{"type":"leave","seq":%d}`, seq[0]), await(0, "left"), ends[0].Close(websocket.StatusNormalClosure, ""),
				await(1, "peer-left"), ends[1].Close(websocket.StatusNormalClosure, ""))
		},
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("call %d, step %d: %w", n, i+1, err)
		}
	}
	return nil
}

// logNormal is a random time about median, as people's waits are distributed.
func logNormal(median time.Duration, sigma float64) time.Duration {
	return time.Duration(float64(median) * math.Exp(sigma*rand.NormFloat64()))
}

// ---- Prometheus

// A prometheusServer answers queries.
type prometheusServer struct {
	t   testing.TB
	url string
}

// startPrometheus starts one with the product's configuration: only where duet is, and how often it is
// asked, are changed.
func startPrometheus(t testing.TB, nodes pair, interval string) *prometheusServer {
	t.Helper()
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed: the dashboard's queries are scanned, not evaluated (make need-proxies installs it)")
	}
	text := readText(t, prometheusFile)
	for from, to := range map[string]string{`"duet:9091"`: strconv.Quote(hostOf(t, nodes.a.admin)) + ", " + strconv.Quote(hostOf(t, nodes.b.admin)), "scrape_interval: 5s": "scrape_interval: " + interval} {
		if !strings.Contains(text, from) {
			t.Fatalf("%s: %q is not there any more", prometheusFile, from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "prometheus.yml")
	for name, text := range map[string]string{path: text, filepath.Join(dir, "alerts.yml"): readText(t, alertsFile)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := freeAddr(t)
	p := &prometheusServer{t, "http://" + addr}
	startDaemon(t, exec.Command(binary, "--config.file="+path, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--log.level=warn"), dir,
		func() bool {
			res, err := http.Get(p.url + "/-/ready")
			if err != nil {
				return false
			}
			res.Body.Close()
			return res.StatusCode == http.StatusOK
		})
	return p
}

// A series is one answer to a query.
type series struct {
	Metric map[string]string
	Value  sample
	Values []sample
}

// A sample is Unix time and value.
type sample struct{ at, value float64 }

func (s *sample) UnmarshalJSON(data []byte) (err error) {
	var text string
	if err = json.Unmarshal(data, &[]any{&s.at, &text}); err == nil {
		s.value, err = strconv.ParseFloat(text, 64)
	}
	return err
}

// ask sends a query to endpoint, query or query_range.
func (p *prometheusServer) ask(endpoint string, parameters url.Values) []series {
	p.t.Helper()
	res, err := http.Get(p.url + "/api/v1/" + endpoint + "?" + parameters.Encode())
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []series }
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("%s: %v %s", parameters.Get("query"), err, answer.Error)
	}
	return answer.Data.Result
}

// query evaluates expr now.
func (p *prometheusServer) query(expr string) []series {
	p.t.Helper()
	return p.ask("query", url.Values{"query": {expr}})
}

// awaitAtLeast waits until expr has one value that is not below least.
func (p *prometheusServer) awaitAtLeast(expr string, least float64) {
	p.t.Helper()
	tooLong, again := time.After(patience), time.NewTicker(50*time.Millisecond)
	defer again.Stop()
	for {
		if got := p.query(expr); len(got) == 1 && got[0].Value.value >= least {
			return
		}
		select {
		case <-again.C:
		case <-tooLong:
			p.t.Fatalf("%s does not reach %g", expr, least)
		}
	}
}

// TestDashboardInPrometheus has Prometheus evaluate every query of the dashboard over real traffic.
func TestDashboardInPrometheus(t *testing.T) {
	t.Parallel() // Prometheus takes 5 s to look for its targets
	nodes := startObserved(t)
	p := startPrometheus(t, nodes, "100ms")
	const calls, joins = 8, 20 // two each, and four that come back
	play := func() {
		for n := range calls {
			if err := playCall(t.Context(), nodes, n, func(time.Duration) {}); err != nil {
				t.Fatal(err)
			}
		}
	}
	play()
	p.awaitAtLeast("sum(duet_join_seconds_count)", joins)
	play() // so that there is something to see an increase from
	p.awaitAtLeast("sum(duet_join_seconds_count)", 2*joins)
	p.awaitAtLeast(`min(count_over_time(up{job="duet"}[1m]))`, 3)
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			got := p.query(concrete(target.Expr, "1m"))
			if len(got) == 0 {
				t.Errorf("%s shows nothing: %s", panel.Title, target.Expr)
			}
			if panel.Type != "stat" {
				continue
			}
			if v := got[0].Value.value; len(got) != 1 || math.IsNaN(v) {
				t.Errorf("%s: %v", panel.Title, got)
			}
		}
	}
	// One call of eight failed; one in four of the rest went through the relay.
	i := slices.IndexFunc(readDashboard(t).Panels, func(p dashboardPanel) bool { return p.Type == "stat" })
	for k, want := range []float64{7. / 8, 2. / 7} {
		panel := readDashboard(t).Panels[i+k]
		if got := p.query(concrete(panel.Targets[0].Expr, "1m"))[0].Value.value; math.Abs(got-want) > 0.01 {
			t.Errorf("%s: %g, want %g", panel.Title, got, want)
		}
	}
}

// TestDashboardPicture draws docs/dashboard.svg where DUET_DASHBOARD names that file: some minutes of calls
// between made-up clients, with people's pauses, and what Prometheus says of them (make dashboard).
func TestDashboardPicture(t *testing.T) {
	path := os.Getenv("DUET_DASHBOARD")
	if path == "" {
		t.Skip("DUET_DASHBOARD is not set")
	}
	const (
		length  = 4 * time.Minute
		callers = 24 // calls at once
	)
	nodes := startObserved(t)
	p := startPrometheus(t, nodes, "1s")
	began := time.Now()
	ctx, enough := context.WithTimeout(t.Context(), length)
	defer enough()
	pause := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	var calls sync.WaitGroup
	for n := range callers {
		calls.Go(func() {
			pause(time.Duration(n) * time.Second)
			for ctx.Err() == nil {
				if err := playCall(ctx, nodes, rand.IntN(64), pause); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	<-ctx.Done()
	calls.Wait()
	picture := drawDashboard(readDashboard(t), func(expr string, instant bool) []series {
		if instant {
			return p.ask("query", url.Values{"query": {concrete(expr, "4m")}, "time": {fmt.Sprint(began.Add(length).Unix())}})
		}
		return p.ask("query_range", url.Values{"query": {concrete(expr, "20s")}, "step": {"2"},
			"start": {fmt.Sprint(began.Add(20 * time.Second).Unix())}, "end": {fmt.Sprint(began.Add(length).Unix())}})
	})
	if err := os.WriteFile(path, []byte(picture), 0o644); err != nil {
		t.Fatal(err)
	}
}
