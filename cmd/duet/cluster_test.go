package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// ---- NATS

// startNATS starts a NATS server with JetStream on a free port, which ends with the test; change may be nil.
func startNATS(t testing.TB, change func(*natsserver.Options)) *natsserver.Server {
	t.Helper()
	options := &natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true}
	if change != nil {
		change(options)
	}
	s, err := natsserver.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	if !options.NoLog {
		s.ConfigureLogger()
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("the NATS server is not ready")
	}
	return s
}

// natsMain is nats-server.
func natsMain() {
	options, err := natsserver.ConfigureOptions(flag.NewFlagSet("nats-server", flag.ExitOnError), os.Args[1:], func() {}, func() {}, func() {})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s, err := natsserver.NewServer(options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	os.Exit(0)
}

// natsVariables are what deploy/nats/nats-server.conf takes from the environment.
var natsVariables = []string{"SERVER_NAME", "DUET_PASSWORD", "ADMIN_PASSWORD"}

// natsConf guards the environment, from which the parser takes variables.
var natsConf sync.Mutex

// natsOptions reads deploy/nats/nats-server.conf as a server with these variables does.
func natsOptions(t *testing.T, environ []string) *natsserver.Options {
	t.Helper()
	natsConf.Lock()
	defer natsConf.Unlock()
	for _, name := range natsVariables {
		os.Unsetenv(name)
	}
	for _, pair := range environ {
		if name, value, _ := strings.Cut(pair, "="); slices.Contains(natsVariables, name) {
			os.Setenv(name, value)
			defer os.Unsetenv(name)
		}
	}
	options, err := natsserver.ProcessConfigFile(natsFile)
	if err != nil {
		t.Fatal(err)
	}
	return options
}

// A lockedLog collects what NATS servers say.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, format+"\n", args...)
}

func (l *lockedLog) Noticef(string, ...any)            {}
func (l *lockedLog) Debugf(string, ...any)             {}
func (l *lockedLog) Tracef(string, ...any)             {}
func (l *lockedLog) Warnf(format string, args ...any)  { l.add(format, args...) }
func (l *lockedLog) Errorf(format string, args ...any) { l.add(format, args...) }
func (l *lockedLog) Fatalf(format string, args ...any) { l.add(format, args...) }

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestNATSConfiguration starts three servers with deploy/nats/nats-server.conf, changing only where they
// listen and keep their files, and two nodes with the account that it gives them: they do all that nodes do,
// and nothing is refused. What is not theirs is.
func TestNATSConfiguration(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers take their time to find each other")
	}
	const size = 3
	said := &lockedLog{}
	var ports, routes []string
	for range size {
		ports, routes = append(ports, freeAddr(t)), append(routes, freeAddr(t))
	}
	var urls []string
	for i := range size {
		options := natsOptions(t, []string{fmt.Sprintf("SERVER_NAME=nats-%d", i), "DUET_PASSWORD=duetPassword", "ADMIN_PASSWORD=adminPassword"})
		if options.Port != 4222 || options.Cluster.Port != 6222 || options.ServerName != fmt.Sprintf("nats-%d", i) || !options.SyncAlways {
			t.Errorf("%d: %+v", i, options)
		}
		listen := func(host *string, port *int, at string) {
			a, err := net.ResolveTCPAddr("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			*host, *port = a.IP.String(), a.Port
		}
		listen(&options.Host, &options.Port, ports[i])
		listen(&options.Cluster.Host, &options.Cluster.Port, routes[i])
		options.HTTPHost, options.HTTPPort = "127.0.0.1", natsserver.RANDOM_PORT
		options.StoreDir, options.NoSigs = t.TempDir(), true
		for j, route := range options.Routes {
			route.Host = routes[j]
		}
		s, err := natsserver.NewServer(options)
		if err != nil {
			t.Fatal(err)
		}
		s.SetLogger(said, false, false)
		s.Start()
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
		urls = append(urls, "nats://duet:duetPassword@"+ports[i])
	}
	pair := startPair(t, "DUET_NATS_URL="+strings.Join(urls, ","), "DUET_NATS_REPLICAS=3")
	pair.callAcross(t)
	list := pair.list(t)
	if len(list.Rooms) != 1 || len(list.Partial) > 0 {
		t.Errorf("rooms: %+v", list)
	}
	pair.a.stop() // hands its room over
	<-pair.a.ended
	if text := said.String(); strings.Contains(text, "ermission") || strings.Contains(text, "uthoriz") {
		t.Errorf("refused:\n%s", text)
	}

	conn, err := nats.Connect(urls[0], nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, subject := range []string{"$JS.API.STREAM.DELETE.KV_duet_rooms_00", "$JS.API.STREAM.PURGE.KV_duet_rooms_00", "$JS.API.STREAM.CREATE.other", "$KV.other.key", "other"} {
		if _, err := conn.Request(subject, nil, 200*time.Millisecond); !errors.Is(err, nats.ErrTimeout) { // nobody answers what was not taken
			t.Errorf("%s: %v", subject, err)
		}
		if err := conn.LastError(); err == nil || !strings.Contains(err.Error(), subject) {
			t.Errorf("%s is not refused: %v", subject, err)
		}
	}
	if _, err := nats.Connect("nats://" + ports[0]); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("somebody without a password: %v", err)
	}
}

// ---- two nodes

// A pair is two nodes that are one, each with the operator's API.
type pair struct{ a, b *server }

// startPair starts nodes called a and b, and waits until they know each other.
func startPair(t testing.TB, env ...string) pair {
	t.Helper()
	start := func(name string) *server {
		own := []string{"DUET_NODE_ID=" + name, "DUET_ADMIN_ADDR=127.0.0.1:0", "DUET_ADMIN_TOKEN=" + pairToken, "DUET_DRAIN=1s", "DUET_RENEW=100ms"}
		return startServer(t, append(own, env...)...)
	}
	p := pair{start("a"), start("b")}
	for _, s := range []*server{p.a, p.b} {
		s.awaitMetric(t, "duet_cluster_nodes 2")
	}
	return p
}

// awaitMetric waits until /metrics has a line.
func (s *server) awaitMetric(t testing.TB, line string) {
	t.Helper()
	tooLong, again := time.After(patience), time.NewTicker(10*time.Millisecond)
	defer again.Stop()
	for {
		if _, text := get(t, s.admin+"/metrics"); strings.Contains(text, "\n"+line+"\n") {
			return
		}
		select {
		case <-again.C:
		case <-tooLong:
			t.Fatalf("%s does not come", line)
		}
	}
}

const pairToken = "the-token-of-the-pairs-operator"

// callAcross has one client on each node, with sessions, in the room demo, say something to the other.
func (p pair) callAcross(t *testing.T) (first, second *websocket.Conn) {
	t.Helper()
	join := func(s *server, name string) *websocket.Conn {
		c, _, err := s.dial(t)
		if err != nil {
			t.Fatal(err)
		}
		speak(t, c.ws, fmt.Sprintf(`{"type":"join","room":"demo","name":"%[1]s","session":"session-of-%[1]s-000000001"}`, name), `"joined"`)
		return c.ws
	}
	first, second = join(p.a, "Ada"), join(p.b, "Bert")
	speak(t, first, `{"type":"message","data":"from a","seq":1}`, `"peer-joined"`)
	speak(t, second, `{"type":"message","data":"from b","seq":1}`, `"from a"`)
	speak(t, first, "", `"from b"`)
	return first, second
}

// A roomsListed is what GET /api/rooms says.
type roomsListed struct {
	Rooms   []struct{ Room, Node string }
	Total   int
	Partial []string
}

// list asks node b, and compares with what openapi.json promises.
func (p pair) list(t *testing.T) (list roomsListed) {
	t.Helper()
	if err := json.Unmarshal([]byte(p.b.operate(t, "/api/rooms", "RoomPage")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// operate asks for path, and returns the answer, which fits the definition in openapi.json.
func (s *server) operate(t *testing.T, path, definition string) string {
	t.Helper()
	_, answer := (&utterances{}).request(t, "GET", s.admin+path, pairToken, "")
	var api any
	readJSON(t, "../../httpapi/openapi.json", &api)
	c := jsonschema.NewCompiler()
	if err := c.AddResource("openapi.json", api); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("openapi.json#/components/schemas/" + definition)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(answer))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(v); err != nil {
		t.Errorf("%s: %s\n%v", path, answer, err)
	}
	return answer
}

func TestOperatorAcrossNodes(t *testing.T) {
	p := startPair(t, "DUET_NATS_URL="+startNATS(t, nil).ClientURL(), "DUET_NATS_REPLICAS=1")
	first, second := p.callAcross(t)
	list := p.list(t)
	if len(list.Rooms) != 1 || list.Total != 1 || list.Rooms[0].Room != "demo" || !strings.HasPrefix(list.Rooms[0].Node, "a-") {
		t.Fatalf("b lists %+v", list)
	}
	var room struct {
		Node  string
		Seats []struct{ Name, Node string }
	}
	for _, s := range []*server{p.a, p.b} {
		if err := json.Unmarshal([]byte(s.operate(t, "/api/rooms/demo", "Room")), &room); err != nil {
			t.Fatal(err)
		}
		if room.Node != list.Rooms[0].Node || len(room.Seats) != 2 || room.Seats[0].Node != room.Node || !strings.HasPrefix(room.Seats[1].Node, "b-") {
			t.Errorf("%+v", room)
		}
	}
	said := &utterances{}
	if status, answer := said.request(t, "POST", p.b.admin+"/api/rooms/demo/messages", pairToken, `{"data":"hello all"}`); status != 200 || !strings.Contains(answer, `"reached":2`) {
		t.Errorf("%d %s", status, answer)
	}
	speak(t, first, "", "hello all")
	speak(t, second, "", "hello all")
	if status, answer := said.request(t, "DELETE", p.b.admin+"/api/rooms/demo", pairToken, ""); status != 204 {
		t.Errorf("%d %s", status, answer)
	}
	for _, ws := range []*websocket.Conn{first, second} {
		if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != 4501 {
			t.Errorf("closed with %v", err)
		}
	}
	if status, _ := said.request(t, "GET", p.b.admin+"/api/rooms/demo", pairToken, ""); status != 404 {
		t.Errorf("the room that was ended: %d", status)
	}
}

// ---- settings

func TestClusterSettings(t *testing.T) {
	const embed = "DUET_NATS_EMBED=:6222 DUET_NATS_EMBED_ROUTES=a:6222,b:6222,c:6222 DUET_NATS_EMBED_SECRET=hunter2-and-hunter2-again"
	for _, tt := range []struct{ name, env, want string }{
		{"none", "", ""},
		{"one", "DUET_NATS_URL=nats://10.0.0.5:4222", ""},
		{"several", "DUET_NATS_URL=nats://u:hunter2@a,tls://hunter2@b:4222", ""},
		{"no scheme", "DUET_NATS_URL=u:hunter2@10.0.0.5:4222", "DUET_NATS_URL: must be URLs such as"},
		{"another scheme", "DUET_NATS_URL=http://u:hunter2@a", "DUET_NATS_URL: must be URLs such as"},
		{"one of two is bad", "DUET_NATS_URL=nats://u:hunter2@a,nats://u:hunter2@:x", "DUET_NATS_URL: must be URLs such as"},
		{"a path", "DUET_NATS_URL=nats://a/hunter2", "DUET_NATS_URL: must be URLs such as"},
		{"name", "DUET_NODE_ID=a.b", "DUET_NODE_ID=\"a.b\": must be at most 63 letters"},
		{"prefix", "DUET_NATS_PREFIX=a*", "must be at most 63 letters"},
		{"two replicas", "DUET_NATS_URL=nats://a DUET_NATS_REPLICAS=2", "2 replicas: choose 3"},
		{"seven replicas", "DUET_NATS_REPLICAS=7", "must be a whole number from 1 to 5"},
		{"buckets", "DUET_NATS_BUCKETS=65", "must be a whole number from 1 to 64"},
		{"fence", "DUET_NATS_URL=nats://a DUET_FENCE=9s", "choose at most 8s"},
		{"renewal", "DUET_NATS_URL=nats://a DUET_RENEW=3s", "choose more than 9s"},
		{"certificate without key", "DUET_NATS_URL=nats://a DUET_NATS_CERT_FILE=c", "go together"},
		{"creds and nkey", "DUET_NATS_URL=nats://a DUET_NATS_CREDS_FILE=c DUET_NATS_NKEY_FILE=n", "give one"},
		{"frozen for longer than the grace", "DUET_NATS_URL=nats://a DUET_GRACE=10s", "with half as much again (15s)"},
		{"embedded", embed, ""},
		{"embedded and not", embed + " DUET_NATS_URL=nats://a", "both set"},
		{"embedded, two routes", strings.Replace(embed, ",c:6222", "", 1), "2 routes"},
		{"embedded, a route without port", strings.Replace(embed, "c:6222", "c", 1), "must be addresses such as"},
		{"embedded, a short secret", strings.Replace(embed, "-and-hunter2-again", "", 1), "at least 20"},
		{"embedded, creds", embed + " DUET_NATS_CREDS_FILE=c", "leave them out"},
		{"routes alone", "DUET_NATS_EMBED_ROUTES=a:1,b:1,c:1", "set DUET_NATS_EMBED too"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := parseConfig(strings.Fields(tt.env), 1000)
			if text := fmt.Sprint(err); (err == nil) != (tt.want == "") || !strings.Contains(text, tt.want) || strings.Contains(text, "hunter2") {
				t.Errorf("%v\nwant %s", err, tt.want)
			}
			if logged := c.LogValue().String(); strings.Contains(logged, "hunter2") {
				t.Errorf("logged: %s", logged)
			}
		})
	}
}

func TestClusterSettingsReachTheirPackage(t *testing.T) {
	c, err := parseConfig([]string{"DUET_NATS_URL= nats://u:p@a:4222 ,nats://b", "DUET_NATS_CREDS_FILE=creds", "DUET_NATS_CA_FILE=ca", "DUET_NATS_CERT_FILE=cert",
		"DUET_NATS_KEY_FILE=key", "DUET_NATS_PREFIX=blue", "DUET_NATS_REPLICAS=5", "DUET_NATS_BUCKETS=4", "DUET_NATS_CREATE=false", "DUET_NODE_ID=one",
		"DUET_LEASE=20s", "DUET_FENCE=16s", "DUET_RENEW=5s"}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	n := c.nats(strings.Join(c.NATSURL, ","))
	n.Version = ""
	if got, want := fmt.Sprintf("%+v", n), "{URL:nats://u:p@a:4222,nats://b CredsFile:creds NKeyFile: CAFile:ca CertFile:cert KeyFile:key Prefix:blue Replicas:5 Buckets:4 "+
		"Create:false NodeName:one Version: Lease:20s Fence:16s Renew:5s clock:<nil> options:[] speaks:{oldest:0 newest:0}}"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := c.NATSURL.String(); got != "nats://***@a:4222,nats://b" {
		t.Error(got)
	}
	c, err = parseConfig([]string{"DUET_NATS_EMBED=:6222", "DUET_NATS_EMBED_ROUTES=a:6222, b:6222,c:6222", "DUET_NATS_EMBED_SECRET=12345678901234567890",
		"DUET_NATS_CA_FILE=ca", "DUET_NATS_CERT_FILE=cert", "DUET_NATS_KEY_FILE=key", "DUET_NODE_ID=one"}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%+v", c.embedded("dir", nil)), "{Name:one Dir:dir Listen::6222 Routes:[a:6222 b:6222 c:6222] Secret:12345678901234567890 "+
		"CertFile:cert KeyFile:key CAFile:ca Log:<nil>}"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if n := c.nats("nats://given"); n.CAFile+n.CertFile+n.KeyFile != "" {
		t.Errorf("to the server in the same process: %+v", n)
	}
}

// TestNodeName: a host's name is as good as it can be.
func TestNodeName(t *testing.T) {
	if name := new(config).nodeName(); new(word).UnmarshalText([]byte(name)) != nil || name == "" {
		t.Errorf("%q", name)
	}
}

// ---- processes

// TestWaitsForNATS starts a node while NATS is away: it says so, nobody is served, and it can be ended; once
// NATS is there it serves.
func TestWaitsForNATS(t *testing.T) {
	at := freeAddr(t)
	env := []string{"DUET_NATS_URL=nats://" + at, "DUET_NATS_REPLICAS=1", "DUET_NODE_ID=one"}
	impatient := spawn(t, nil, env...)
	impatient.stderr.await(t, regexp.MustCompile("NATS cannot be used yet: waiting"))
	if err := impatient.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := impatient.exit(t); status != exitOK {
		t.Errorf("ended while it waits: status %d", status)
	}
	p := spawn(t, nil, env...)
	p.stderr.await(t, regexp.MustCompile("NATS cannot be used yet: waiting"))
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	startNATS(t, func(o *natsserver.Options) {
		o.Host = host
		fmt.Sscan(port, &o.Port)
	})
	page, _, _ := p.listening(t)
	if status, _ := get(t, page+"readyz"); status != 200 {
		t.Errorf("/readyz: %d", status)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.exit(t); status != exitOK {
		t.Errorf("status %d", status)
	}
}

// TestAnotherRelease: a node that has no version in common with those that are there ends, and says what to
// do; they go on.
func TestAnotherRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the server")
	}
	binary := filepath.Join(t.TempDir(), "duet")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-X duet/signaling/natsbus.release=2-3 -X main.version=v9.0", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	url := "DUET_NATS_URL=" + startNATS(t, nil).ClientURL()
	p := startPair(t, url, "DUET_NATS_REPLICAS=1")
	first, second := p.callAcross(t)

	later := exec.CommandContext(t.Context(), binary)
	later.Env = []string{url, "DUET_NATS_REPLICAS=1", "DUET_RENEW=100ms", "DUET_NODE_ID=c", "DUET_ADDR=127.0.0.1:0", "DUET_ADMIN_ADDR=off"}
	out, err := later.CombinedOutput()
	if later.ProcessState.ExitCode() != exitFailed {
		t.Errorf("it ended with %v", err)
	}
	if want := regexp.MustCompile(`join the cluster: node [ab]-\w{6} \(duet .*\) speaks version 1 to other nodes, and this one versions 2 to 3: none in common\. ` +
		`Upgrade one release at a time: replace all nodes by a release between the two first, or end all nodes before this one starts`); !want.Match(out) {
		t.Errorf("it said:\n%s", out)
	}
	speak(t, second, `{"type":"message","data":"still here","seq":2}`, "")
	speak(t, first, "", `"still here"`)
}

// TestEndsWithoutNATS: a node that cannot say goodbye ends all the same, within DUET_DRAIN or little more.
func TestEndsWithoutNATS(t *testing.T) {
	nats := startNATS(t, nil)
	p := spawn(t, nil, "DUET_NATS_URL="+nats.ClientURL(), "DUET_NATS_REPLICAS=1", "DUET_DRAIN=1s")
	_, socket, _ := p.listening(t)
	speak(t, connect(t, socket), `{"type":"join","room":"demo","session":"anna-session-000000001"}`, `"joined"`)
	nats.Shutdown()
	p.stderr.await(t, regexp.MustCompile("disconnected from NATS"))
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.exit(t); status != exitOK {
		t.Errorf("status %d", status)
	}
}

// TestEmbedNeedsItsBuild: the ordinary binary says how to build the other one.
func TestEmbedNeedsItsBuild(t *testing.T) {
	p := spawn(t, nil, "DUET_NATS_EMBED=127.0.0.1:6222", "DUET_NATS_EMBED_ROUTES=a:6222,b:6222,c:6222", "DUET_NATS_EMBED_SECRET=12345678901234567890", "DUET_DATA_DIR="+t.TempDir())
	if status := p.exit(t); status != exitFailed || !strings.Contains(p.stderr.String(), "duet: DUET_NATS_EMBED: this program was built without a NATS server: build it with go build -tags natsserver ./cmd/duet") {
		t.Errorf("status %d:\n%s", status, p.stderr.String())
	}
}

// TestClusterByHand types the commands that docs/cluster.md shows, each in a terminal of its own: ports are
// changed, and programs are this one.
func TestClusterByHand(t *testing.T) {
	var lines []string
	for _, b := range codeBlocks(t, clusterDoc) {
		if b.info == "sh" && strings.HasPrefix(b.lines[0], "go run github.com/nats-io/nats-server/") {
			lines = b.lines
		}
	}
	if len(lines) != 3 {
		t.Fatalf("the three commands are not there: %q", lines)
	}
	program, arguments, _ := strings.Cut(strings.TrimPrefix(lines[0], "go run "), " ")
	module, version, _ := strings.Cut(program, "@")
	if !strings.Contains(readText(t, "../../go.mod"), module+" "+version+"\n") && !strings.Contains(readText(t, "../../go.mod"), module+" "+version+" // indirect\n") {
		t.Errorf("%s is not the version that the tests use", program)
	}
	nats := freeAddr(t)
	_, port, _ := net.SplitHostPort(nats)
	dir := t.TempDir()
	lines[0] = `"$DUET_TEST_BINARY" -a 127.0.0.1 -p ` + port + " " + arguments
	var pages, operators []string
	for i, line := range lines {
		if i > 0 {
			pages, operators = append(pages, freeAddr(t)), append(operators, freeAddr(t))
			line, _, _ = strings.Cut(line, " #")
			line = strings.Replace(line, "localhost:4222", nats, 1)
			line = strings.Replace(line, "DUET_ADDR=:8081 ", "DUET_ADDR="+pages[i-1]+" ", 1)
			line = strings.Replace(line, "DUET_ADMIN_ADDR=:9092 ", "DUET_ADMIN_ADDR="+operators[i-1]+" ", 1)
			before, found := strings.CutSuffix(strings.TrimSpace(line), " duet")
			if !found {
				t.Fatalf("not a command that starts duet: %s", line)
			}
			line = before + ` "$DUET_TEST_BINARY"`
		}
		command := exec.Command("sh", "-c", "exec env "+line)
		command.Env = append(os.Environ(), "DUET_TEST_BINARY="+os.Args[0], "DUET_DRAIN=1s")
		if i == 0 {
			command.Env = append(command.Env, asNATS+"=1")
		} else {
			command.Env = append(command.Env, asDuet+"=1", "DUET_ADDR="+pages[i-1], "DUET_ADMIN_ADDR="+operators[i-1], "DUET_STUN=off")
		}
		ready := nats
		if i > 0 {
			ready = pages[i-1]
		}
		startProgram(t, command, dir, ready)
	}
	if _, err := os.Stat(filepath.Join(dir, "nats-data", "jetstream")); err != nil {
		t.Error(err)
	}
	p := pair{&server{page: "http://" + pages[0] + "/"}, &server{page: "http://" + pages[1] + "/"}}
	p.callAcross(t)
}

// startProgram starts command in dir, and waits until something listens at an address.
func startProgram(t *testing.T, command *exec.Cmd, dir, at string) {
	t.Helper()
	startDaemon(t, command, dir, func() bool {
		conn, err := net.Dial("tcp", at)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// ---- balancers

// TestBalancers starts the balancers of the documents in front of two nodes, changing only where things listen:
// clients that name their room come to one node, all others to the one and the other, and meet all the same; and
// where a node ends, everybody comes to the other.
func TestBalancers(t *testing.T) {
	for _, tt := range []struct {
		name, binary string
		text         func(t *testing.T) string
		listen       string // in its file
		wrapped      func(dir, text string) string
		arguments    func(dir, path string) []string
	}{
		{"haproxy", "haproxy", func(t *testing.T) string { return readText(t, haproxyFile) }, "bind :8080",
			func(_, text string) string { return text }, func(_, path string) []string { return []string{"-db", "-f", path} }},
		{"nginx", "nginx", func(t *testing.T) string {
			for _, b := range codeBlocks(t, clusterDoc) {
				if b.info == "nginx" {
					return strings.Join(b.lines, "\n")
				}
			}
			t.Fatal("docs/cluster.md shows no nginx")
			return ""
		}, "listen 8080", func(dir, text string) string { return proxyKinds["nginx"].wrapped(&proxy{dir: dir}, text) }, func(dir, path string) []string { return []string{"-p", dir, "-e", "stderr", "-c", path} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			binary := lookDaemon(tt.binary)
			if binary == "" {
				t.Skipf("%s is not installed (make need-proxies installs it)", tt.binary)
			}
			p := startPair(t, "DUET_NATS_URL="+startNATS(t, nil).ClientURL(), "DUET_NATS_REPLICAS=1", "DUET_TRUSTED_PROXIES=127.0.0.1")
			at, dir := freeAddr(t), t.TempDir()
			_, port, _ := net.SplitHostPort(at)
			text := tt.text(t)
			for _, change := range [][2]string{{tt.listen, strings.Replace(tt.listen, "8080", port, 1)}, {"duet-1:8080", hostOf(t, p.a.page)}, {"duet-2:8080", hostOf(t, p.b.page)}} {
				if !strings.Contains(text, change[0]) {
					t.Fatalf("%q is not there any more", change[0])
				}
				text = strings.ReplaceAll(text, change[0], change[1])
			}
			path := filepath.Join(dir, "conf")
			if err := os.WriteFile(path, []byte(tt.wrapped(dir, text)), 0o600); err != nil {
				t.Fatal(err)
			}
			startProgram(t, exec.Command(binary, tt.arguments(dir, path)...), dir, at)

			// nodes has two clients meet in a room, and returns the nodes of their connections.
			nodes := func(room, query string) (nodes []string) {
				for range 2 {
					ws := connect(t, "ws://"+at+"/ws"+query)
					speak(t, ws, fmt.Sprintf(`{"type":"join","room":%q}`, room), `"joined"`)
				}
				var view struct{ Seats []struct{ Node string } }
				if err := json.Unmarshal([]byte(p.a.operate(t, "/api/rooms/"+room, "Room")), &view); err != nil {
					t.Fatal(err)
				}
				for _, s := range view.Seats {
					nodes = append(nodes, s.Node)
				}
				if len(nodes) != 2 {
					t.Fatalf("%s: %v", room, nodes)
				}
				return nodes
			}
			apart := false
			for n := 0; n < 32 && !apart; n++ { // by chance, with nginx
				got := nodes(fmt.Sprintf("anywhere-%d", n), "")
				apart = got[0] != got[1]
			}
			if !apart {
				t.Error("without the room's name both come to one node each time")
			}
			seen := map[string]bool{}
			for n := range 8 {
				room := fmt.Sprintf("room-%d", n)
				got := nodes(room, "?room="+room)
				if got[0] != got[1] {
					t.Errorf("%s: %v", room, got)
				}
				seen[got[0]] = true
			}
			if len(seen) != 2 {
				t.Errorf("all rooms came to %v", seen)
			}
			p.b.stop()
			<-p.b.ended
			for n := range 4 {
				if got := nodes(fmt.Sprintf("later-%d", n), ""); !strings.HasPrefix(got[0], "a-") || got[0] != got[1] {
					t.Errorf("after b's end: %v", got)
				}
			}
		})
	}
}

// lookDaemon is where a program is, also where that is not in everybody's PATH; "" = nowhere.
func lookDaemon(name string) string {
	if binary, err := exec.LookPath(name); err == nil {
		return binary
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return ""
}
