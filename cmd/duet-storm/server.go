package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A world is what all modes need: the server's binary, the seed, and somebody who watches.
type world struct {
	name     string
	seed     uint64
	binary   string
	place    []string // a command that runs the server's in another place; none = on this machine
	folder   string   // "" = nothing was built
	logs     string   // folder for the servers' logs; "" = none
	progress io.Writer
}

// build makes the server as make ships it, unless there is one.
func (w *world) build(ctx context.Context) error {
	if w.binary != "" {
		return nil
	}
	var err error
	w.binary, err = w.compile(ctx, "duet")
	return err
}

// compile makes a server as make ships it, but for the flags, and returns where it is.
func (w *world) compile(ctx context.Context, name string, flags ...string) (_ string, err error) {
	if w.folder == "" {
		if w.folder, err = os.MkdirTemp("", "duet-storm-"); err != nil {
			return "", err
		}
	}
	binary := filepath.Join(w.folder, name)
	args := append([]string{"build", "-trimpath", "-o", binary}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "duet/cmd/duet")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.close()
		return "", fmt.Errorf("building duet/cmd/duet (run it inside the repository, or name a binary with -bin): %w\n%s", err, out)
	}
	return binary, nil
}

func (w *world) close() {
	if w.folder != "" {
		os.RemoveAll(w.folder)
	}
}

// watch prints what status says every few seconds, until stop is called.
func (w *world) watch(status func() string) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(5 * time.Second); ; {
			select {
			case <-tick.C:
				fmt.Fprintf(w.progress, "%s: %s\n", w.name, status())
			case <-ended:
				tick.Stop()
				return
			}
		}
	}()
	return func() { close(ended); <-done }
}

// A server is a running duet.
type server struct {
	cmd      *exec.Cmd
	addr     string // host:port of the WebSocket
	operator string // URL of the metrics
	node     string // its name in the cluster; "" = it stands alone
	ended    chan struct{}
	err      error // how it ended
}

// lifted are the limits that one address with thousands of clients would run into. All others are
// those that duet ships with.
var lifted = []string{"DUET_MAX_CONNECTIONS_PER_IP=1000000", "DUET_JOIN_RATE=100000000"}

// startTimeout bounds the time until a server says where it listens.
const startTimeout = 20 * time.Second

// start runs the server at addr, host:port, port 0 for any.
func (w *world) start(addr string, env ...string) (*server, error) {
	args := append(slices.Clone(w.place), w.binary)
	s := &server{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DUET_") {
			s.cmd.Env = append(s.cmd.Env, v)
		}
	}
	s.cmd.Env = append(s.cmd.Env, lifted...)
	s.cmd.Env = append(s.cmd.Env, "DUET_ADDR="+addr, "DUET_ADMIN_ADDR=127.0.0.1:0", "DUET_LOG_FORMAT=json", "DUET_STUN=off")
	s.cmd.Env = append(s.cmd.Env, env...)
	said, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the server: %w", err)
	}
	var log io.WriteCloser = nowhere{io.Discard}
	if w.logs != "" {
		if log, err = os.Create(filepath.Join(w.logs, fmt.Sprintf("duet-%d.log", s.cmd.Process.Pid))); err != nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
			return nil, err
		}
	}
	announced := make(chan error, 1)
	go func() {
		defer log.Close()
		said := io.TeeReader(said, log)
		announced <- s.listen(said)
		_, _ = io.Copy(io.Discard, said)
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	select {
	case err = <-announced:
	case <-time.After(startTimeout):
		err = fmt.Errorf("it did not say within %v where it listens", startTimeout)
	}
	if err != nil {
		s.kill()
		return nil, fmt.Errorf("starting the server: %w", err)
	}
	return s, nil
}

// nowhere is a log that nobody wants.
type nowhere struct{ io.Writer }

func (nowhere) Close() error { return nil }

// listen reads the server's log until it says where it listens.
func (s *server) listen(log io.Reader) error {
	var lines []string
	for in := bufio.NewReader(log); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("it ended; it said:\n%s", strings.Join(lines, ""))
		}
		lines = append(lines, line)
		var said struct{ Msg, Websocket, Operator, Node string }
		if json.Unmarshal([]byte(line), &said) != nil {
			continue
		}
		if s.node = cmp.Or(s.node, said.Node); said.Msg != "listening" {
			continue
		}
		u, err := url.Parse(said.Websocket)
		if err != nil {
			return err
		}
		s.addr, s.operator = u.Host, said.Operator
		return nil
	}
}

// kill ends the server as a crash would.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// signal sends sig and waits for the end, at most within.
func (s *server) signal(sig os.Signal, within time.Duration) error {
	if err := s.cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-s.ended:
		return nil
	case <-time.After(within):
		s.kill()
		return fmt.Errorf("the server did not end within %v of %v", within, sig)
	}
}

// alive returns an error where the server has ended by itself.
func (s *server) alive() error {
	select {
	case <-s.ended:
		return fmt.Errorf("the server ended: %w", errors.Join(s.err, errors.New("by itself")))
	default:
		return nil
	}
}

// metrics reads what the server counts; values of one name are added up over their labels.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.operator, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	values := map[string]float64{}
	in := bufio.NewScanner(res.Body)
	for in.Scan() {
		name, value, ok := strings.Cut(in.Text(), " ")
		if i := strings.LastIndex(in.Text(), "} "); i > 0 {
			name, value = in.Text()[:i], in.Text()[i+2:]
		}
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			name, _, _ = strings.Cut(name, "{")
			values[name] += v
		}
	}
	return values, in.Err()
}

// collect makes the server collect its garbage.
func (s *server) collect(ctx context.Context) error {
	where := strings.TrimSuffix(s.operator, "/metrics") + "/debug/pprof/heap?gc=1"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}
