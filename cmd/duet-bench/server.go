package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"duet/cmd/duet-bench/baseline"
)

// A server is one system's running process.
type server struct {
	sys   *system
	cores coreSet
	cmd   *exec.Cmd
	addr  netip.AddrPort
	admin string        // the URL of the operator's listener; "" = off
	done  chan struct{} // closed when its output has ended
	said  []string      // its first lines, for the error text

	handed chan string // what it says once it has handed its rooms over
}

// startTimeout bounds the time until a server prints where it listens.
const startTimeout = 20 * time.Second

var (
	listening = regexp.MustCompile(`http://(127\.0\.0\.1:[0-9]+)`)
	operating = regexp.MustCompile(`(http://127\.0\.0\.1:[0-9]+)/metrics`)
)

// anyPort is where a server listens that nobody knows yet.
const anyPort = "127.0.0.1:0"

// A coreSet is who has which core. They are the same where there is only one.
type coreSet struct{ server, generator int }

// start runs sys on the servers' core at addr and waits until it has said where it listens.
func (sys *system) start(cores coreSet, addr string) (*server, error) {
	srv := &server{sys: sys, cores: cores, cmd: exec.Command(sys.argv[0], sys.argv[1:]...), done: make(chan struct{}), handed: make(chan string, 1)}
	srv.cmd.Env = append(cleanEnviron(), "GOMAXPROCS=1")
	srv.cmd.Env = append(srv.cmd.Env, sys.addrEnv+"="+addr)
	srv.cmd.Env = append(srv.cmd.Env, sys.env...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	srv.cmd.Stdout, srv.cmd.Stderr = w, w
	err = startOn(cores.server, srv.cmd)
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("starting %s: %w", sys.name, err)
	}
	found := make(chan netip.AddrPort, 1)
	go srv.listen(r, found)
	select {
	case srv.addr = <-found:
		return srv, nil
	case <-srv.done:
		err = errors.New("it ended")
	case <-time.After(startTimeout):
		err = fmt.Errorf("it printed no address within %v", startTimeout)
	}
	srv.stop()
	return nil, fmt.Errorf("starting %s: %w. It said:\n%s", sys.name, err, strings.Join(srv.said, "\n"))
}

// listen looks for the address in the server's output. Of the rest it keeps what is said of a handover.
func (srv *server) listen(r io.ReadCloser, found chan<- netip.AddrPort) {
	defer close(srv.done)
	defer r.Close()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			if admin := operating.FindStringSubmatch(lines.Text()); admin != nil {
				srv.admin = admin[1]
			}
			found <- netip.MustParseAddrPort(m[1])
			break
		}
		srv.said = append(srv.said, lines.Text())
	}
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"msg":"rooms handed over"`) {
			srv.handed <- lines.Text()
		}
	}
	io.Copy(io.Discard, r)
}

// cleanEnviron is the environment without what would change a server's behavior.
func cleanEnviron() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "DUET_") && name != baseline.AddrVariable && !strings.HasPrefix(name, "GO") && !strings.HasPrefix(name, "NODE_") {
			env = append(env, v)
		}
	}
	return env
}

// stop ends the process and waits for it.
func (srv *server) stop() {
	srv.cmd.Process.Kill()
	<-srv.done
	srv.cmd.Wait()
}

// meter reads the clocks of a measurement. The server's stands at 0 once its process has ended.
func (srv *server) meter() (cpu, others time.Duration) {
	cpu, _ = cpuTime(srv.cmd.Process.Pid)
	all, _ := coreTime(srv.cores.server, srv.cores.generator)
	return cpu, all - cpu - ownTime()
}

// healthy waits for the first answer on /healthz.
func (srv *server) healthy() error {
	res, err := http.Get("http://" + srv.addr.String() + "/healthz")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if srv.sys.name == "duet" && res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /healthz: %s", res.Status)
	}
	return nil
}

// swarm returns clients for the server, none of them connected yet.
func (srv *server) swarm(ctx context.Context) (*swarm, error) {
	n, err := newLocalNetwork(ctx, srv.addr)
	if err != nil {
		return nil, err
	}
	return &swarm{net: n, d: srv.sys.dialect, host: srv.addr.String(), run: runID()}, nil
}
