package main

import (
	"errors"
	"math"
	"strings"
	"testing"
)

const traces = `File: duet
Type: cpu
Duration: 3.01s, Total samples = 670ms (22.27%)
-----------+-------------------------------------------------------
     150ms   internal/runtime/syscall/linux.Syscall6 internal/runtime/syscall/linux/asm_linux_amd64.s
             syscall.RawSyscall6 syscall/syscall_linux.go
             syscall.Syscall syscall/syscall_linux.go
             syscall.write syscall/zsyscall_linux_amd64.go
             internal/poll.(*FD).Write internal/poll/fd_unix.go
             duet/httpapi.(*wire).send duet/httpapi/wire.go
-----------+-------------------------------------------------------
      10ms   runtime.readvarint runtime/symtab.go (inline)
             runtime.copystack runtime/stack.go
             runtime.newstack runtime/stack.go
             duet/signaling.(*scanner).text duet/signaling/scan.go
-----------+-------------------------------------------------------
      20ms   runtime.memmove runtime/memmove_amd64.s
             duet/signaling.relayEnvelope duet/signaling/encode.go
             duet/signaling.(*Conn).relay duet/signaling/conn.go
-----------+-------------------------------------------------------
      10ms   runtime.scanObject runtime/mgcmark_greenteagc.go
             runtime.gcDrain runtime/mgcmark.go
             runtime.gcBgMarkWorker runtime/mgc.go
-----------+-------------------------------------------------------
      10ms   runtime.mapaccess2_fast64 internal/runtime/maps/runtime_fast64.go
             duet/signaling.(*Room).run duet/signaling/room.go
`

func TestCondense(t *testing.T) {
	shares, err := condense(strings.NewReader(traces))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{"kernel: writing to sockets": 0.75, "stacks that grow and shrink": 0.05, "JSON and envelope": 0.10,
		"memory: allocation and collection": 0.05, "rooms, seats, rings": 0.05}
	if len(shares) != len(want) {
		t.Errorf("got %v", shares)
	}
	for g, share := range want {
		if math.Abs(shares[g]-share) > 1e-9 {
			t.Errorf("%s: %v, want %v", g, shares[g], share)
		}
	}
	nothing := "Duration: 3.01s, Total samples = 0 \n-----------+-------------------------------------------------------\n"
	if _, err := condense(strings.NewReader(nothing)); !errors.Is(err, errNoSamples) {
		t.Errorf("without samples: %v", err)
	}
}

// A profile without samples is taken again; any other fault, and what comes of it, is final.
func TestUntilSampled(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name  string
		comes []error // of one try after the other
		want  error
		tries int
	}{
		{"at once", []error{nil}, nil, 1},
		{"the second time", []error{errNoSamples, nil}, nil, 2},
		{"never", []error{errNoSamples, errNoSamples, errNoSamples, nil}, errNoSamples, 3},
		{"a fault", []error{broken, nil}, broken, 1},
	} {
		tries := 0
		p, err := untilSampled(func() (profiled, error) {
			tries++
			return profiled{spent: float64(tries)}, tt.comes[tries-1]
		})
		if err != tt.want || tries != tt.tries || p.spent != float64(tries) {
			t.Errorf("%s: %v after %d tries, want %v after %d", tt.name, err, tries, tt.want, tt.tries)
		}
	}
}

func TestGroups(t *testing.T) {
	for function, want := range map[string]string{
		"syscall.read syscall/zsyscall_linux_amd64.go":                                     "kernel: reading from sockets",
		"internal/runtime/syscall/linux.EpollWait internal/runtime/syscall/linux/x.go":     "kernel: waiting for sockets (epoll)",
		"golang.org/x/sys/unix.EpollWait golang.org/x/sys/unix/zsyscall.go":                "kernel: waiting for sockets (epoll)",
		"runtime.futex runtime/sys_linux_amd64.s":                                          "kernel: threads (futex)",
		"golang.org/x/sys/unix.RawSyscall golang.org/x/sys/unix/asm.s":                     "",
		"syscall.accept4 syscall/zsyscall_linux_amd64.go":                                  "kernel: other calls (accept, close, options)",
		"runtime.(*timer).modify runtime/time.go":                                          "timers, deadlines, the clock",
		"internal/poll.runtime_pollSetDeadline runtime/netpoll.go":                         "timers, deadlines, the clock",
		"runtime.chanrecv runtime/chan.go":                                                 "Go's scheduler and channels",
		"runtime.selectgo runtime/select.go":                                               "Go's scheduler and channels",
		"github.com/coder/websocket.(*mu).lock github.com/coder/websocket@v1.8.15/conn.go": "WebSocket library",
		"duet/httpapi.(*socket).read duet/httpapi/websocket.go":                            "WebSocket endpoint",
		"duet/httpapi.(*api).upgrade duet/httpapi/upgrade.go":                              "HTTP and handshake",
		"net/http.(*conn).serve net/http/server.go":                                        "HTTP and handshake",
		"net.(*conn).Read net/net.go":                                                      "Go's net and bufio",
		"runtime.memmove runtime/memmove_amd64.s":                                          "",
	} {
		if got := groupOf(function); got != want {
			t.Errorf("%s: %q, want %q", function, got, want)
		}
	}
}
