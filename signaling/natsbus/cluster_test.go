package natsbus

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
	"duet/signaling/natsbus/freeport"
)

// A testCluster is some NATS servers. Each test has an account of its own in it, and so
// buckets of its own.
type testCluster struct {
	dir      string
	configs  []string // files
	ports    []int
	seedFile string // of the restricted account's user

	processes bool // not in this one
	servers   []*server.Server
	commands  []*exec.Cmd

	mu       sync.Mutex
	accounts int // given away
}

var shared struct {
	once    sync.Once
	cluster *testCluster
	err     error
}

// serveConfig names a configuration: this process is a NATS server then, for tests that kill one.
const serveConfig = "NATSBUS_TEST_SERVER"

func TestMain(m *testing.M) {
	if config := os.Getenv(serveConfig); config != "" {
		if _, err := serve(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		io.Copy(io.Discard, os.Stdin) // until the test ends, however it does
		os.Exit(0)
	}
	code := m.Run()
	if shared.cluster != nil {
		shared.cluster.close()
	}
	os.Exit(code)
}

// natsCluster is the package's cluster; the first test that needs it starts it.
func natsCluster(t *testing.T) *testCluster {
	t.Helper()
	shared.once.Do(func() { shared.cluster, shared.err = startCluster(3, false) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// maxAccounts is how many tests may ask for an account of their own.
const maxAccounts = 40

// restrictedAccount has one user, with the permissions of deploy/nats/permissions.conf and no more.
const restrictedAccount = "restricted"

func startCluster(size int, processes bool) (*testCluster, error) {
	dir, err := os.MkdirTemp("", "natsbus-")
	if err != nil {
		return nil, err
	}
	c := &testCluster{dir: dir, processes: processes, servers: make([]*server.Server, size), commands: make([]*exec.Cmd, size)}
	ports, err := freeport.Find(2 * size)
	if err != nil {
		return nil, err
	}
	permissions, err := os.ReadFile("../../deploy/nats/permissions.conf")
	if err != nil {
		return nil, err
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, err
	}
	public, err := user.PublicKey()
	if err != nil {
		return nil, err
	}
	c.seedFile = filepath.Join(dir, "node.nk")
	if err := os.WriteFile(c.seedFile, seed, 0o600); err != nil {
		return nil, err
	}
	var routes, accounts strings.Builder
	for i := range size {
		fmt.Fprintf(&routes, "\"nats://127.0.0.1:%d\", ", ports[size+i])
	}
	for n := range maxAccounts {
		fmt.Fprintf(&accounts, "account-%d { jetstream: enabled, users: [{user: account-%d, password: secret}] }\n", n, n)
	}
	for i := range size {
		conf := fmt.Sprintf(`
server_name: nats-%d
listen: "127.0.0.1:%d"
jetstream { store_dir: %q, sync_interval: always }
cluster { name: test, listen: "127.0.0.1:%d", routes: [%s] }
accounts {
%s
%s { jetstream: enabled, users: [{nkey: %s
%s}] }
}
`, i, ports[i], filepath.Join(dir, fmt.Sprint(i)), ports[size+i], routes.String(), accounts.String(), restrictedAccount, public, permissions)
		path := filepath.Join(dir, fmt.Sprintf("%d.conf", i))
		if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
			return nil, err
		}
		c.configs, c.ports = append(c.configs, path), append(c.ports, ports[i])
		if err := c.start(i); err != nil {
			return nil, err
		}
	}
	return c, c.ready()
}

// start starts a server, which finds its files again.
func (c *testCluster) start(i int) error {
	if !c.processes {
		var err error
		c.servers[i], err = serve(c.configs[i])
		return err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveConfig+"="+c.configs[i])
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	c.commands[i] = cmd
	return cmd.Start()
}

func serve(config string) (*server.Server, error) {
	options, err := server.ProcessConfigFile(config)
	if err != nil {
		return nil, err
	}
	options.NoLog, options.NoSigs = true, true
	s, err := server.NewServer(options)
	if err != nil {
		return nil, err
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return nil, fmt.Errorf("the NATS server of %s is not ready after 10 s", config)
	}
	return s, nil
}

// ready waits until the servers have a leader. Of processes a node finds out by waiting.
func (c *testCluster) ready() error {
	if c.processes {
		return nil
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		for _, s := range c.servers {
			if s.JetStreamIsLeader() && s.JetStreamIsCurrent() && len(s.JetStreamClusterPeers()) == len(c.servers) {
				return nil
			}
		}
	}
	return fmt.Errorf("the NATS cluster has no leader after 30 s")
}

func (c *testCluster) close() {
	for _, s := range c.servers {
		if s != nil {
			s.Shutdown()
			s.WaitForShutdown()
		}
	}
	for i := range c.commands {
		c.kill(i)
	}
	os.RemoveAll(c.dir)
}

// kill ends a process with SIGKILL: a server that is shut down hands its leadership over before.
func (c *testCluster) kill(i int) {
	if cmd := c.commands[i]; cmd != nil {
		cmd.Process.Kill()
		cmd.Wait() // the error says that it was killed
		c.commands[i] = nil
	}
}

// account returns the URL of servers for an account that no other test has.
func (c *testCluster) account(t *testing.T, servers ...int) (name, urls string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	name = fmt.Sprintf("account-%d", c.accounts)
	if c.accounts++; c.accounts >= maxAccounts {
		t.Fatal("raise maxAccounts")
	}
	return name, c.urls(name, "secret", servers...)
}

func (c *testCluster) urls(user, password string, servers ...int) string {
	if len(servers) == 0 {
		servers = []int{0, 1, 2}
	}
	var list []string
	for _, i := range servers {
		u := url.URL{Scheme: "nats", User: url.UserPassword(user, password), Host: fmt.Sprintf("127.0.0.1:%d", c.ports[i])}
		list = append(list, u.String())
	}
	return strings.Join(list, ",")
}

// testConfig has a short lease, so that tests need not wait for long.
func testConfig(urls string) Config {
	return Config{
		URL: urls, Prefix: "duet", Replicas: 3, Buckets: 2, Create: true, NodeName: "test", Version: "v1",
		Lease: 2500 * time.Millisecond, Fence: 1400 * time.Millisecond, Renew: 400 * time.Millisecond,
	}
}

// testLog logs for a test as long as it lasts: handlers of connections may run a little longer.
func testLog(t testing.TB) *slog.Logger {
	w := &testWriter{tb: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.tb = nil
	})
	return slog.New(slog.NewTextHandler(w, nil))
}

type testWriter struct {
	mu sync.Mutex
	tb testing.TB // nil after its end
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tb != nil {
		w.tb.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// A runningNode is a Node with a Listener that keeps what it is told.
type runningNode struct {
	*Node
	stop  context.CancelFunc
	ended chan error // Run's error

	mu     sync.Mutex
	news   *sync.Cond
	silent []signaling.NodeID
	dead   []signaling.NodeID
}

func (r *runningNode) Frame([]byte)                           {}
func (r *runningNode) Request(context.Context, []byte) []byte { return nil }
func (r *runningNode) Info() signaling.NodeInfo               { return signaling.NodeInfo{} }
func (r *runningNode) Silent(node signaling.NodeID) {
	r.tell(func() { r.silent = append(r.silent, node) })
}
func (r *runningNode) Dead(node signaling.NodeID) { r.tell(func() { r.dead = append(r.dead, node) }) }

func (r *runningNode) tell(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.news.Broadcast()
}

// eventually waits for what nobody is told of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-look.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 20 s", what)
		}
	}
}

// until waits until what the Listener was told is so.
func (r *runningNode) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.AfterFunc(20*time.Second, func() { r.tell(func() {}) })
	defer late.Stop()
	deadline := time.Now().Add(20 * time.Second)
	r.mu.Lock()
	defer r.mu.Unlock()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("node %s: %s: not after 20 s", r.Self(), what)
		}
		r.news.Wait()
	}
}

// connect connects a node that does not run yet.
func connect(t *testing.T, cfg Config) *Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	n, err := Connect(ctx, cfg, testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// start connects a node and runs it until the test ends, or until it is killed.
func start(t *testing.T, cfg Config) *runningNode {
	t.Helper()
	r := &runningNode{Node: connect(t, cfg), ended: make(chan error, 1)}
	r.news = sync.NewCond(&r.mu)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	var running sync.WaitGroup
	running.Go(func() { r.ended <- r.Run(ctx, r) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return r
}

// kill ends a node without a word.
func (r *runningNode) kill() {
	r.conn.Close()
	r.stop()
}

// find finds a room's owner, or fails the test.
func find(t *testing.T, d signaling.Directory, room signaling.RoomID) signaling.Owner {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	owner, err := d.Find(ctx, room)
	if err != nil {
		t.Fatalf("Find(%q): %v", room, err)
	}
	return owner
}

// A gate stands before the first of some servers, and can be closed: whoever is inside is thrown out.
type gate struct {
	url    string
	target string
	port   string

	mu       sync.Mutex
	listener net.Listener // nil while closed
	conns    []net.Conn
	passing  sync.WaitGroup
}

func newGate(t *testing.T, urls string) *gate {
	t.Helper()
	first, _, _ := strings.Cut(urls, ",")
	u, err := url.Parse(first)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{target: u.Host, port: "127.0.0.1:0"}
	g.open(t)
	u.Host = g.port
	g.url = u.String()
	t.Cleanup(func() {
		g.close()
		g.passing.Wait()
	})
	return g
}

func (g *gate) open(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", g.port)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listener, g.port = l, l.Addr().String()
	g.passing.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", g.target)
			if err != nil {
				in.Close()
				continue
			}
			g.mu.Lock()
			g.conns = append(g.conns, in, out)
			if g.listener != l {
				in.Close()
				out.Close()
			}
			g.mu.Unlock()
			g.passing.Go(func() { io.Copy(in, out); in.Close() })
			g.passing.Go(func() { io.Copy(out, in); out.Close() })
		}
	})
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil {
		g.listener.Close()
		g.listener = nil
	}
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
}

// A cutRegister is a register whose connection breaks at a put: before it, or after it and before its
// answer. Nothing works from then on until it is mended.
type cutRegister struct {
	register
	before bool
	mu     sync.Mutex
	cut    bool
}

func (c *cutRegister) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

func (c *cutRegister) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return signaling.ErrUnsure
	}
	return nil
}

func (c *cutRegister) get(ctx context.Context, key string) (entry, error) {
	if err := c.broken(); err != nil {
		return entry{}, err
	}
	return c.register.get(ctx, key)
}

func (c *cutRegister) put(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	if err := c.broken(); err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.cut = true
	c.mu.Unlock()
	if !c.before {
		if _, err := c.register.put(ctx, key, value, revision, ttl); err != nil {
			return 0, err
		}
	}
	return 0, signaling.ErrUnsure
}
