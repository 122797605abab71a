package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"duet/httpapi/session"
)

// inNamespace, set in the environment, says that this process has a network of its own.
const inNamespace = "TEST_HAS_A_NETWORK_OF_ITS_OWN"

// TestKernelFaults loses packets in the kernel: connections that are really half open, and links that
// lose, delay and narrow what passes. It runs itself again in a network namespace, whose loopback
// nobody else uses.
func TestKernelFaults(t *testing.T) {
	onlyInAStorm(t)
	if os.Getenv(inNamespace) == "" {
		runInNamespace(t)
		return
	}
	must(t, "ip", "link", "set", "lo", "mtu", "1500", "up")
	t.Run("half open, the server notices", halfOpenServerNotices)
	t.Run("half open, the client notices", halfOpenClientNotices)
	t.Run("loss", func(t *testing.T) {
		for _, port := range []string{"--sport", "--dport"} {
			must(t, "iptables", "-A", "INPUT", "-p", "tcp", port, kernelPort, "-m", "statistic", "--mode", "random", "--probability", "0.1", "-j", "DROP")
		}
		badLink(t)
	})
	t.Run("narrow", func(t *testing.T) {
		shape(t, "tbf", "rate", "400kbit", "burst", "16kb", "latency", "300ms")
		badLink(t)
	})
	t.Run("netem", func(t *testing.T) {
		shape(t, "netem", "delay", "80ms", "40ms", "loss", "5%", "duplicate", "2%", "reorder", "10%")
		badLink(t)
	})
}

// runInNamespace runs this test again with a network of its own.
func runInNamespace(t *testing.T) {
	bin := serverBinary(t)
	for _, tool := range []string{"ip", "tc", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the kernel's faults need ip, tc and iptables (on Debian: apt-get install iproute2 iptables): %v", err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKernelFaults$", "-test.v", "-test.timeout=90s")
	cmd.Env = append(os.Environ(), inNamespace+"="+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skipf("the kernel's faults need a network namespace, which this system does not permit: %v", err)
	}
	err := cmd.Wait()
	t.Logf("in the namespace:\n%s", out.String())
	if strings.Contains(out.String(), notPermitted) {
		t.Skip("the kernel's faults need iptables in a network namespace, which this system does not permit")
	}
	if err != nil {
		t.Error(err)
	}
}

// notPermitted, in the output, stands for a system that has the tools and does not let us use them.
const notPermitted = "NOT PERMITTED"

// must changes the namespace's network; what it adds to iptables goes away with the subtest.
func must(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "ermission denied") || strings.Contains(string(out), "not permitted") {
			t.Skipf("%s: %s %v: %s", notPermitted, name, args, out)
		}
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	if name == "iptables" && args[0] == "-A" {
		t.Cleanup(func() { must(t, "iptables", append([]string{"-D"}, args[1:]...)...) })
	}
}

// shape gives loopback a queueing discipline until the subtest ends, or skips it where the kernel has
// none of that name.
func shape(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"qdisc", "add", "dev", "lo", "root"}, args...)
	if out, err := exec.Command("tc", args...).CombinedOutput(); err != nil {
		t.Skipf("tc %s: this kernel cannot: %s", strings.Join(args, " "), strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { must(t, "tc", "qdisc", "del", "dev", "lo", "root") })
}

// A talker is a client that says numbers, and what came of them.
type talker struct {
	*session.Client
	mu     sync.Mutex
	conn   net.Conn // the present one, or the one that is being made
	sent   int
	got    []int
	joins  []bool      // resumed
	events chan string // of the room
	last   chan struct{}
}

const (
	kernelPort = "4711" // the namespace is ours alone
	serverPing = time.Second
	serverPong = time.Second
	clientPong = time.Second
	slack      = 1500 * time.Millisecond // on busy machines
	eventsWait = 15 * time.Second
)

// pair starts a server and two clients in a room.
func pair(t *testing.T) (a, b *talker) {
	t.Helper()
	w := &world{binary: os.Getenv(inNamespace), progress: io.Discard}
	s, err := w.start("127.0.0.1:"+kernelPort, "DUET_PING_INTERVAL="+serverPing.String(), "DUET_PONG_TIMEOUT="+serverPong.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	ctx, cancel := context.WithCancel(context.Background())
	var living sync.WaitGroup
	t.Cleanup(func() { cancel(); living.Wait() })
	newTalker := func(name string) *talker {
		k := &talker{events: make(chan string, 100), last: make(chan struct{})}
		k.Client = session.New(session.Config{Room: "kernel", Key: session.Key(name), Handle: k.handle, Joined: k.joined,
			Wait: 50 * time.Millisecond, Pong: clientPong, Dial: func(ctx context.Context) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr)
				k.mu.Lock()
				defer k.mu.Unlock()
				k.conn = conn
				return conn, err
			}})
		living.Go(func() {
			if err := k.Run(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		return k
	}
	a = newTalker("A")
	a.await(t, "joined")
	b = newTalker("B")
	b.await(t, "joined")
	a.await(t, "peer-joined")
	return a, b
}

func (k *talker) joined(m *session.Message) {
	k.mu.Lock()
	k.joins = append(k.joins, m.Resumed)
	k.mu.Unlock()
	k.events <- "joined"
}

func (k *talker) handle(m *session.Message) {
	switch m.Type {
	case "message":
		var said number
		_ = json.Unmarshal(m.Data, &said)
		k.mu.Lock()
		k.got = append(k.got, said.N)
		k.mu.Unlock()
		if said.Last {
			close(k.last)
		}
	case "error":
		k.events <- "error " + m.Code
	default:
		k.events <- m.Type
	}
}

// await waits for the next event of the room, which must be want, and returns how long that took.
func (k *talker) await(t *testing.T, want string) time.Duration {
	t.Helper()
	began := time.Now()
	select {
	case got := <-k.events:
		if got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	case <-time.After(eventsWait):
		t.Fatalf("no %s within %v", want, eventsWait)
	}
	return time.Since(began)
}

// say says so many numbers.
func (k *talker) say(t *testing.T, count int, last bool) {
	t.Helper()
	for i := range count {
		k.sent++
		text, _ := json.Marshal(number{N: k.sent, Last: last && i == count-1, Pad: strings.Repeat("x", 300)})
		if _, err := k.Send(&session.Message{Type: "message", Data: text}); err != nil {
			t.Fatal(err)
		}
	}
}

// drop loses all packets of the talker's present connection, both ways.
func (k *talker) drop(t *testing.T) {
	t.Helper()
	k.mu.Lock()
	port := strconv.Itoa(k.conn.LocalAddr().(*net.TCPAddr).Port)
	k.mu.Unlock()
	for _, end := range []string{"--sport", "--dport"} {
		must(t, "iptables", "-A", "INPUT", "-p", "tcp", end, port, "-j", "DROP")
	}
}

// exactlyOnce checks that everything arrives, once and in order, on one seat each.
func exactlyOnce(t *testing.T, a, b *talker) {
	t.Helper()
	for _, p := range [][2]*talker{{a, b}, {b, a}} {
		from, to := p[0], p[1]
		from.say(t, 1, true)
		select {
		case <-to.last:
		case <-time.After(eventsWait):
			t.Fatalf("the last of %d messages has not come", from.sent)
		}
		to.mu.Lock()
		if r := compare(from.sent, nil, to.got); r != (result{}) {
			t.Errorf("of %d messages %d came: %+v", from.sent, len(to.got), r)
		}
		for i, resumed := range to.joins {
			if resumed != (i > 0) {
				t.Errorf("joins that resumed: %v", to.joins)
			}
		}
		to.mu.Unlock()
	}
}

// The server finds out that a connection is half open by its own pings; the client comes back later.
func halfOpenServerNotices(t *testing.T) {
	a, b := pair(t)
	a.say(t, 20, false)
	b.say(t, 20, false)
	a.drop(t)
	a.say(t, 20, false) // into the void
	b.say(t, 20, false) // waits for A
	took := b.await(t, "peer-away")
	t.Logf("the server noticed after %v", took.Round(10*time.Millisecond))
	if took > serverPing+serverPong+slack {
		t.Errorf("the server noticed after %v, want %v", took, serverPing+serverPong)
	}
	began := time.Now()
	a.Probe()
	a.await(t, "joined")
	t.Logf("the client was back %v after its system said that something had changed", time.Since(began).Round(10*time.Millisecond))
	b.await(t, "peer-back")
	exactlyOnce(t, a, b)
}

// The client is back on another connection before the server has noticed that the old one is dead.
func halfOpenClientNotices(t *testing.T) {
	a, b := pair(t)
	for round := range 3 {
		a.say(t, 20, false)
		b.say(t, 20, false)
		a.drop(t)
		a.say(t, 20, false)
		b.say(t, 20, false)
		a.Probe()
		took := a.await(t, "joined")
		t.Logf("round %d: back after %v, while the old connection was black-holed", round, took.Round(10*time.Millisecond))
		if took > clientPong+slack {
			t.Errorf("the client was back after %v", took)
		}
	}
	exactlyOnce(t, a, b)
}

// On a bad link everything arrives, later.
func badLink(t *testing.T) {
	a, b := pair(t)
	began := time.Now()
	for range 10 {
		a.say(t, 10, false)
		b.say(t, 10, false)
		for a.Waiting() > 20 || b.Waiting() > 20 {
			if time.Since(began) > 4*eventsWait {
				t.Fatalf("%d and %d messages wait", a.Waiting(), b.Waiting())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	exactlyOnce(t, a, b)
	t.Logf("%d messages each way in %v", a.sent, time.Since(began).Round(10*time.Millisecond))
}
