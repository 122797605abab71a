package faultproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 10 * time.Second       // for what must come
	quiet    = 150 * time.Millisecond // without anything, where nothing must come
)

// through connects a client and a server through a proxy.
func through(t *testing.T, plan Plan) (p *Proxy, client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err = Start(l.Addr().String(), func(int) Plan { return plan })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, conn := range []net.Conn{c, s} {
		conn.SetDeadline(time.Now().Add(patience))
	}
	return p, c.(*net.TCPConn), s.(*net.TCPConn)
}

// readAll returns what c gets until its end, and that end: nil for FIN.
func readAll(c net.Conn) (string, error) {
	b, err := io.ReadAll(c)
	return string(b), err
}

// silence checks that nothing comes, not even an end.
func silence(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(quiet))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want silence", n, err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func TestPassesEverything(t *testing.T) {
	for name, plan := range map[string]Plan{"plain": {}, "trickle": {Trickle: true}, "delay": {Delay: time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			p, client, server := through(t, plan)
			long := bytes.Repeat([]byte("0123456789"), 5000)
			var ends sync.WaitGroup
			for _, pair := range [][2]*net.TCPConn{{client, server}, {server, client}} {
				ends.Go(func() { pair[0].Write(long); pair[0].CloseWrite() })
				ends.Go(func() {
					if got, err := io.ReadAll(pair[1]); err != nil || !bytes.Equal(got, long) {
						t.Errorf("got %d bytes, %v", len(got), err)
					}
				})
			}
			ends.Wait()
			if p.Fired() != 0 {
				t.Error("cut")
			}
		})
	}
}

func TestCutAtByte(t *testing.T) {
	const text = "0123456789"
	for _, f := range Faults {
		for _, d := range []Direction{Up, Down} {
			for k := range len(text) + 1 {
				if k == 0 && f != Finish {
					continue // before the test knows that it is connected
				}
				p, client, server := through(t, Plan{Cut: Cut{f, d, k}})
				from, to := client, server
				if d == Down {
					from, to = server, client
				}
				if k > 0 {
					write(t, from, text)
				}
				if f == BlackHole || f == Silent && d == Up { // to is not told
					expect(t, to, text[:k])
				} else if got, err := readAll(to); f == Finish && (got != text[:k] || err != nil) || f != Finish && err == nil {
					t.Errorf("%v, direction %d, byte %d: got %q, %v", f, d, k, got, err)
				}
				if n := p.Fired(); n != 1 {
					t.Errorf("%v, direction %d, byte %d: %d cuts", f, d, k, n)
				}
			}
		}
	}
}

func TestEnds(t *testing.T) {
	t.Run("reset", func(t *testing.T) {
		p, client, server := through(t, Plan{})
		write(t, client, "x")
		expect(t, server, "x")
		if n := p.Cut(Cut{Fault: Reset}); n != 1 {
			t.Errorf("cut %d", n)
		}
		for _, c := range []net.Conn{client, server} {
			if _, err := readAll(c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v, want a reset", err)
			}
		}
	})
	t.Run("finish", func(t *testing.T) {
		p, client, server := through(t, Plan{})
		write(t, client, "x")
		expect(t, server, "x")
		p.Cut(Cut{Fault: Finish})
		for _, c := range []net.Conn{client, server} {
			if got, err := readAll(c); got != "" || err != nil {
				t.Errorf("%q, %v, want an end", got, err)
			}
		}
	})
	t.Run("black hole", func(t *testing.T) {
		p, client, server := through(t, Plan{})
		write(t, client, "x")
		expect(t, server, "x")
		p.Cut(Cut{Fault: BlackHole})
		write(t, client, "lost")
		write(t, server, "lost")
		silence(t, client)
		silence(t, server)
		client.Close()
		silence(t, server)
		server.Close()
		for p.Open() > 0 {
			time.Sleep(time.Millisecond)
		}
	})
	t.Run("silent", func(t *testing.T) {
		p, client, server := through(t, Plan{})
		write(t, client, "x")
		expect(t, server, "x")
		p.Cut(Cut{Fault: Silent})
		if _, err := readAll(client); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
		silence(t, server)
	})
	t.Run("mid-message", func(t *testing.T) {
		p, client, server := through(t, Plan{})
		write(t, client, "12")
		expect(t, server, "12")
		p.Cut(Cut{Finish, Up, 3})
		write(t, client, "345678")
		if got, err := readAll(server); got != "345" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("the other side's", func(t *testing.T) {
		_, client, server := through(t, Plan{})
		server.SetLinger(0)
		server.Close()
		if _, err := readAll(client); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
	})
}

// A connection that arrives late brings what the client said, even where the client has gone by then.
func TestLate(t *testing.T) {
	const late = 100 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := Start(l.Addr().String(), func(n int) Plan { return Plan{Late: late * time.Duration(1-n)} })
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	began := time.Now()
	for _, word := range []string{"first", "second"} {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		write(t, c, word)
		c.Close()
		if word == "first" {
			for p.Open() == 0 { // connections are counted in the order in which they are accepted
				time.Sleep(time.Millisecond)
			}
		}
	}
	for _, want := range []string{"second", "first"} {
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(s); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
		s.Close()
	}
	if d := time.Since(began); d < late {
		t.Errorf("all there after %v", d)
	}
}

func TestRefuse(t *testing.T) {
	p, client, server := through(t, Plan{})
	p.Refuse(true)
	c, err := net.Dial("tcp", p.Addr())
	if err == nil {
		c.SetDeadline(time.Now().Add(patience))
		_, err = readAll(c)
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	write(t, client, "still here")
	expect(t, server, "still here")
}

// What is held comes later, an end included; the other direction goes on.
func TestHold(t *testing.T) {
	p, client, server := through(t, Plan{})
	write(t, client, "before")
	expect(t, server, "before")
	p.Hold(Up, true)
	write(t, client, "held")
	client.CloseWrite()
	silence(t, server)
	write(t, server, "down")
	expect(t, client, "down")
	p.Hold(Up, false)
	if got, err := readAll(server); got != "held" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// What is held when the connection is cut is lost.
func TestCutWhileHeld(t *testing.T) {
	p, client, server := through(t, Plan{})
	write(t, client, "before")
	expect(t, server, "before")
	p.Hold(Up, true)
	write(t, client, "lost")
	silence(t, server)
	p.Cut(Cut{Fault: Reset})
	p.Hold(Up, false)
	if got, err := readAll(server); got != "" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %q, %v", got, err)
	}
}
