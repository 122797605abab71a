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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"duet/signaling/natsbus/freeport"
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
	Host            string // where it listens
	Port, RoutePort int    // RoutePort 0: it stands alone
	Routes          []string
}

// A Place is where a server runs.
type Place struct {
	Run    []string // a command that runs the one after it there; none = this machine
	Listen string   // the address for all
	Here   string   // the server's address as this process sees it
	Others string   // and as the other servers see it
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
	o := &server.Options{ServerName: c.Name, Host: c.Host, Port: c.Port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: c.Dir, SyncAlways: true}
	if c.RoutePort != 0 {
		o.Cluster = server.ClusterOpts{Name: "natsproc", Host: c.Host, Port: c.RoutePort,
			NoAdvertise: true} // clients know no way around the address they were given
		o.Routes = server.RoutesFromStr(strings.Join(c.Routes, ","))
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
	run   []string
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
	args := append(slices.Clone(s.run), self, hidden, string(text))
	cmd := exec.Command(args[0], args[1:]...)
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

// A Cluster is NATS servers with JetStream.
type Cluster struct {
	Servers []*Server
}

// Start begins n servers, 1 or more, on loopback, which keep what they have to keep below dir. It returns
// when JetStream works.
func Start(ctx context.Context, dir string, n int) (*Cluster, error) {
	const host = "127.0.0.1"
	return StartAt(ctx, dir, slices.Repeat([]Place{{Listen: host, Here: host, Others: host}}, n))
}

// StartAt is Start with a server at each place.
func StartAt(ctx context.Context, dir string, places []Place) (*Cluster, error) {
	n := len(places)
	ports, err := freeport.Find(2 * n)
	if err != nil {
		return nil, err
	}
	var routes []string
	for i, p := range places {
		routes = append(routes, fmt.Sprintf("nats-route://%s:%d", p.Others, ports[n+i]))
	}
	c := new(Cluster)
	for i, p := range places {
		name := fmt.Sprint("nats-", i+1)
		s := &Server{Name: name, Addr: fmt.Sprintf("%s:%d", p.Here, ports[i]), run: p.Run,
			child: child{Name: name, Dir: filepath.Join(dir, name), Host: p.Listen, Port: ports[i]}}
		if n > 1 {
			s.child.RoutePort, s.child.Routes = ports[n+i], routes
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
