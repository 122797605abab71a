package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"duet/cmd/internal/natsproc"
)

// Faults of wires need machines: network namespaces, each with a cable to a switch, where nodes and NATS
// servers reach each other, and one to here, where clients are. A namespace around all of it keeps it off
// the network of this machine.

// apartMark, in the environment, says that this process is in a network of its own.
const apartMark = "DUET_STORM_APART"

func apart() bool { return os.Getenv(apartMark) != "" }

// tryWires does once what the network takes.
const tryWires = `ip link set lo up
ip link add br0 type bridge
ip link add v0 type veth peer name v1
unshare -n true
nsenter -t $$ -n ss -Htn
tc qdisc add dev v0 root tbf rate 4mbit burst 16kb latency 100ms
iptables -A INPUT -i v0 -m statistic --mode random --probability 0.05 -j DROP`

// runApart runs the chosen faults of wires in a process with a network of its own. Where that is not
// permitted they are left out, which one line says.
func (c *clusterStorm) runApart(ctx context.Context, w *world) error {
	var refused []byte
	for _, flags := range []string{"-n", "-rn"} { // as root, and as anybody where the kernel permits it
		var err error
		if refused, err = exec.CommandContext(ctx, "unshare", flags, "sh", "-ec", tryWires).CombinedOutput(); err != nil {
			continue
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, "unshare", flags, "sh", "-ec", `ip link set lo up; exec "$@"`, "sh", self, "cluster",
			"-bin", w.binary, "-seed", fmt.Sprint(w.seed), "-logs", w.logs, "-runs", fmt.Sprint(c.runs), "-only", c.only, "-o", c.out,
			"-pairs", fmt.Sprint(c.pairs), "-fours", fmt.Sprint(c.fours), "-rate", fmt.Sprint(c.rate), "-drain", c.drain.String())
		cmd.Env = append(os.Environ(), apartMark+"=1")
		cmd.Stdout, cmd.Stderr = w.progress, w.progress
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = time.Minute
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("faults of wires: %w", err)
		}
		return nil
	}
	fmt.Fprintf(w.progress, "%s: faults of wires are left out: they need root or user namespaces, and ip, ss, tc, iptables, unshare, nsenter: %s\n",
		w.name, strings.ReplaceAll(strings.TrimSpace(string(refused)), "\n", "; "))
	return nil
}

// A network is machines around a switch.
type network struct {
	hub      *holder
	machines []*machine
}

// A machine is a network namespace.
type machine struct {
	*holder
	number int // from 1
}

// here is the machine's address for this process, others for the other machines.
func (m *machine) here() string   { return fmt.Sprintf("10.9.%d.2", m.number) }
func (m *machine) others() string { return fmt.Sprintf("10.10.0.%d", m.number) }

// port is the switch's end of the machine's cable, whose other end is called net; near that of the cable to
// this process.
func (m *machine) port() string { return fmt.Sprint("port", m.number) }
func (m *machine) near() string { return fmt.Sprint("near", m.number) }

// A holder is a process that keeps a network namespace.
type holder struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// hold makes a namespace, which ends with the holder, and that with this process.
func hold() (*holder, error) {
	h := &holder{cmd: exec.Command("unshare", "-n", "sh", "-ec", "ip link set lo up; echo ready; exec cat")}
	h.cmd.Stderr = os.Stderr
	stdin, err := h.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	h.stdin = stdin
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		h.close()
		return nil, errors.New("no network namespace")
	}
	return h, nil
}

func (h *holder) close() {
	h.stdin.Close()
	_ = h.cmd.Wait()
}

// enter is a command that runs the one after it in the namespace.
func (h *holder) enter() []string {
	return []string{"nsenter", "-t", strconv.Itoa(h.cmd.Process.Pid), "-n"}
}

// sh runs commands in the namespace.
func (h *holder) sh(format string, args ...any) error {
	command := append(h.enter(), "sh", "-ec", fmt.Sprintf(format, args...))
	return shell(command...)
}

func shell(command ...string) error {
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command[len(command)-1], err, out)
	}
	return nil
}

// layNetwork makes n machines.
func layNetwork(n int) (_ *network, err error) {
	w := new(network)
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.hub, err = hold(); err != nil {
		return nil, err
	}
	if err := w.hub.sh("ip link add br0 type bridge; ip link set br0 up"); err != nil {
		return nil, err
	}
	for i := range n {
		h, err := hold()
		if err != nil {
			return nil, err
		}
		m := &machine{holder: h, number: i + 1}
		w.machines = append(w.machines, m)
		pid := h.cmd.Process.Pid
		if err := shell("sh", "-ec", fmt.Sprintf("ip link add %[1]s type veth peer name here netns %[2]d; ip addr add 10.9.%[3]d.1/24 dev %[1]s; ip link set %[1]s up", m.near(), pid, m.number)); err != nil {
			return nil, err
		}
		if err := w.hub.sh("ip link add %[1]s type veth peer name net netns %[2]d; ip link set %[1]s master br0 up", m.port(), pid); err != nil {
			return nil, err
		}
		if err := m.sh("ip addr add %s/24 dev here; ip addr add %s/24 dev net; ip link set here up; ip link set net up", m.here(), m.others()); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// close ends the machines. What runs on them must have ended. The kernel takes its time to end a namespace:
// the cables end before.
func (w *network) close() {
	for _, m := range w.machines {
		_ = shell("ip", "link", "del", m.near())
		m.close()
	}
	if w.hub != nil {
		w.hub.close()
	}
}

// places are the first machines, for NATS servers.
func (w *network) places() (places []natsproc.Place) {
	for _, m := range w.machines[:natsCount] {
		places = append(places, natsproc.Place{Run: m.enter(), Listen: "0.0.0.0", Here: m.here(), Others: m.others()})
	}
	return places
}

// ---- faults

// during does something, lets time pass, and undoes it.
func (s *stage) during(ctx context.Context, length time.Duration, do, undo func() error) error {
	s.party.begin()
	err := do()
	if err == nil {
		err = s.rest(ctx, length, length)
	}
	return errors.Join(err, undo(), s.settles(ctx))
}

// pull takes the victim's cable out of the switch: packets vanish, and nobody is told. Clients reach it
// all the time.
func pull(length time.Duration, fatal bool) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		if fatal {
			if err := s.doom(ctx, s.victim); err != nil {
				return err
			}
		}
		cable := func(state string) func() error {
			return func() error { return s.wires.hub.sh("ip link set %s %s", s.victim.at.port(), state) }
		}
		return s.during(ctx, length, cable("down"), cable("up"))
	}
}

// vanish lets packets of one direction vanish: those of a chain and interface of iptables.
func vanish(direction string, length time.Duration) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		if err := s.doom(ctx, s.victim); err != nil {
			return err
		}
		rule := func(change string) func() error {
			return func() error { return s.victim.at.sh("iptables %s %s net -j DROP", change, direction) }
		}
		return s.during(ctx, length, rule("-A"), rule("-D"))
	}
}

// splitNATS cuts the NATS server that the victim uses off from the two others. All nodes reach all three.
func splitNATS(ctx context.Context, s *stage) error {
	alone, err := s.serverOf(s.victim)
	if err != nil {
		return err
	}
	for _, n := range s.nodes {
		if at, err := s.serverOf(n); err != nil {
			return err
		} else if at != alone {
			continue
		}
		if err := s.doom(ctx, n); err != nil {
			return err
		}
	}
	rules := func(change string) func() error {
		return func() (err error) {
			for _, other := range s.wires.machines[:natsCount] {
				if other != alone {
					err = errors.Join(err, alone.sh("iptables %[1]s INPUT -s %[2]s -j DROP; iptables %[1]s OUTPUT -d %[2]s -j DROP", change, other.others()))
				}
			}
			return err
		}
	}
	return s.during(ctx, 16*time.Second, rules("-A"), rules("-D"))
}

// serverOf is the machine of the NATS server that a node is connected to.
func (s *stage) serverOf(n *node) (*machine, error) {
	for _, m := range s.wires.machines[:natsCount] {
		command := append(n.at.enter(), "ss", "-Htn", "state", "established", "dst", m.others())
		out, err := exec.Command(command[0], command[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("ss: %w", err)
		}
		if len(out) > 0 {
			return m, nil
		}
	}
	return nil, fmt.Errorf("%s has no connection to NATS", n.name)
}

// worsen makes the victim's cable a bad one, both ways.
func worsen(ctx context.Context, s *stage) error {
	const slow = "tc qdisc %s dev %s root %s"
	const lossy = "iptables %s INPUT -i net -m statistic --mode random --probability 0.05 -j DROP; iptables %[1]s OUTPUT -o net -m statistic --mode random --probability 0.05 -j DROP"
	m := s.victim.at
	change := func(tc, iptables, filter string) func() error {
		return func() error {
			return errors.Join(m.sh(slow, tc, "net", filter), s.wires.hub.sh(slow, tc, m.port(), filter), m.sh(lossy, iptables))
		}
	}
	return s.during(ctx, 20*time.Second, change("add", "-A", "tbf rate 2mbit burst 4kb latency 300ms"), change("del", "-D", ""))
}
