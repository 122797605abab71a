// Package natsproc runs NATS servers as processes of their own, so that they can be killed and stopped:
// for the tools under cmd that measure or mistreat a cluster of duets. A program that uses it needs no
// nats-server installed: it runs itself again, and becomes one.
package natsproc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// hidden, as the first argument, says that this process is to be a NATS server.
const hidden = "natsproc-server"

const (
	readyWithin = 20 * time.Second // for one server, and then for JetStream of all
	askWithin   = time.Second
	lookEvery   = 50 * time.Millisecond
)

// A child is what a server's process is told.
type child struct {
	Name, Dir       string
	Port, RoutePort int // RoutePort 0: it stands alone
	Routes          []int
}

// Main makes this process a NATS server, and ends it with that, where Start began it. It is the first
// thing that main, or TestMain, calls.
func Main() {
	if len(os.Args) != 3 || os.Args[1] != hidden {
		return
	}
	if err := serve(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "NATS server:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs until standard input ends, as it does when the process that began this one is gone.
func serve(text string) error {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	o := &server.Options{ServerName: c.Name, Host: "127.0.0.1", Port: c.Port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: c.Dir, SyncAlways: true}
	if c.RoutePort != 0 {
		o.Cluster = server.ClusterOpts{Name: "natsproc", Host: "127.0.0.1", Port: c.RoutePort,
			NoAdvertise: true} // clients know no way around the address they were given
		var routes []string
		for _, port := range c.Routes {
			routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", port))
		}
		o.Routes = server.RoutesFromStr(strings.Join(routes, ","))
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(readyWithin) {
		return errors.New("not ready for connections")
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// A Server is one of a cluster. Its methods are for one goroutine at a time.
type Server struct {
	Name string
	Addr string // host:port for clients

	child child
	cmd   *exec.Cmd
	stdin io.Closer
}

// Process is the running server's, nil while it does not run.
func (s *Server) Process() *os.Process {
	if s.cmd == nil {
		return nil
	}
	return s.cmd.Process
}

// Start begins the server, again with what it has kept, and waits until it takes connections.
func (s *Server) Start() error {
	text, err := json.Marshal(s.child)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, hidden, string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.stdin = cmd, stdin
	late := time.AfterFunc(readyWithin, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		s.Kill()
		return fmt.Errorf("NATS server %s: not ready", s.Name)
	}
	return nil
}

// Kill ends the server as a crash does. It may be called again.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.stdin.Close()
	s.cmd = nil
}

// A Cluster is NATS servers with JetStream, on loopback.
type Cluster struct {
	Servers []*Server
}

// Start begins n servers, 1 or more, which keep what they have to keep below dir. It returns when
// JetStream works.
func Start(ctx context.Context, dir string, n int) (*Cluster, error) {
	ports, err := freePorts(2 * n)
	if err != nil {
		return nil, err
	}
	c := new(Cluster)
	for i := range n {
		name := fmt.Sprint("nats-", i+1)
		s := &Server{Name: name, Addr: fmt.Sprintf("127.0.0.1:%d", ports[i]), child: child{Name: name, Dir: filepath.Join(dir, name), Port: ports[i]}}
		if n > 1 {
			s.child.RoutePort, s.child.Routes = ports[n+i], ports[n:]
		}
		c.Servers = append(c.Servers, s)
		if err := s.Start(); err != nil {
			c.Close()
			return nil, err
		}
	}
	if err := c.ready(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// ready waits until JetStream answers.
func (c *Cluster) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		err := c.ask(ctx, func(ctx context.Context, js jetstream.JetStream) error {
			_, err := js.AccountInfo(ctx)
			return err
		})
		if err == nil {
			return nil
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return fmt.Errorf("JetStream: %w", err)
		}
	}
}

// ask connects, asks, and disconnects. A JetStream without a leader says nothing at all.
func (c *Cluster) ask(ctx context.Context, question func(context.Context, jetstream.JetStream) error) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	conn, err := nats.Connect(c.URL(), nats.Timeout(time.Second))
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	return question(ctx, js)
}

// URL is where clients reach the servers.
func (c *Cluster) URL() string {
	var urls []string
	for _, s := range c.Servers {
		urls = append(urls, "nats://"+s.Addr)
	}
	return strings.Join(urls, ",")
}

// Leader is the server that leads a key-value bucket.
func (c *Cluster) Leader(ctx context.Context, bucket string) (leader *Server, err error) {
	err = c.ask(ctx, func(ctx context.Context, js jetstream.JetStream) error {
		stream, err := js.Stream(ctx, "KV_"+bucket)
		if err != nil {
			return err
		}
		if info := stream.CachedInfo().Cluster; info != nil {
			for _, s := range c.Servers {
				if s.Name == info.Leader {
					leader = s
					return nil
				}
			}
		}
		return errors.New("it has none now")
	})
	if err != nil {
		return nil, fmt.Errorf("the leader of %s: %w", bucket, err)
	}
	return leader, nil
}

// Settle waits until every copy of the buckets is up to date, so that any one server may fail again.
func (c *Cluster) Settle(ctx context.Context, buckets ...string) error {
	for {
		err := c.ask(ctx, func(ctx context.Context, js jetstream.JetStream) error {
			for _, bucket := range buckets {
				stream, err := js.Stream(ctx, "KV_"+bucket)
				if err != nil {
					return err
				}
				info := stream.CachedInfo().Cluster
				if info == nil { // it stands alone
					continue
				}
				if info.Leader == "" {
					return fmt.Errorf("%s has no leader", bucket)
				}
				for _, replica := range info.Replicas {
					if replica.Offline || !replica.Current {
						return fmt.Errorf("%s of %s is behind", replica.Name, bucket)
					}
				}
			}
			return nil
		})
		if err == nil {
			return nil
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return fmt.Errorf("settle NATS: %w", err)
		}
	}
}

// Close ends the servers.
func (c *Cluster) Close() {
	for _, s := range c.Servers {
		s.Kill()
	}
}

// freePorts finds ports that nobody listens on just now.
func freePorts(n int) (ports []int, _ error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
