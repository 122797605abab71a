package httpapi

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"duet/signaling"
)

// Over TLS the socket is read by a goroutine of its own and written without a second try. These tests
// are the core of the plain ones again: every kind of end, every timeout, and cuts inside records.

// testTLS makes the two sides' configurations, with a certificate for duet.test.
func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"duet.test"}, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	// A ticket is written at the end of the handshake: into a pipe, where nobody reads yet.
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}, SessionTicketsDisabled: true}
	return server, &tls.Config{RootCAs: roots, ServerName: "duet.test"}
}

// tlsBubble runs a test in a synctest bubble with a service over TLS over pipes.
func tlsBubble(t *testing.T, change func(*settings), test func(t *testing.T, s *service)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server, client := testTLS(t)
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		s := serve(t, tls.NewListener(l, server), change)
		s.patience = time.Hour
		s.dialNet = func() (net.Conn, error) {
			conn, err := l.dial()
			if err != nil {
				return nil, err
			}
			return tls.Client(conn, client), nil
		}
		test(t, s)
	})
}

func TestTLSCall(t *testing.T) {
	tlsBubble(t, nil, func(t *testing.T, s *service) {
		a := s.open()
		a.join("demo", key("a"))
		b := s.dial()
		b.upgrade(textFrame(`{"type":"join","room":"demo"}`)) // in one record with the handshake
		b.listen()
		b.want("joined")
		a.want("peer-joined")
		long := strings.Repeat("x", 40<<10) // three records
		b.send(`{"type":"offer","sdp":%q}`, long)
		if m := a.want("offer"); m["sdp"] != long {
			t.Errorf("%d bytes came", len(fmt.Sprint(m["sdp"])))
		}
		for i := range 100 { // many frames in one record
			a.count("message", fmt.Sprintf(`,"data":%d`, i))
		}
		for i := range 100 {
			if m := b.want("message"); m["data"] != float64(i) {
				t.Fatalf("message %d: %v", i, m)
			}
		}
		b.send(`{"type":"leave"}`)
		b.want("left")
		a.want("peer-left")
		a.write(closeFrame(1000, ""))
		a.wantEndOf(1000)
	})
}

// TLS is ended too (close_notify, RFC 5246, section 7.2.1), or a client may take the end for an attack.
func TestTLSIsEnded(t *testing.T) {
	tlsBubble(t, nil, func(t *testing.T, s *service) {
		for _, byServer := range []bool{true, false} {
			c := s.dial()
			last := new(lastRead)
			last.Conn = c.Conn.(*tls.Conn).NetConn()
			_, client := testTLS(t)
			client.InsecureSkipVerify = true     // it has a certificate of its own
			client.MaxVersion = tls.VersionTLS12 // which shows a record's type
			c.Conn = tls.Client(last, client)
			c.in.Reset(c.Conn)
			c.upgrade()
			c.listen()
			c.join("demo", key("c"))
			if byServer {
				s.only().Close(signaling.ErrReplaced)
				c.wantEnd(4500)
			} else {
				c.mute.Store(true) // one close frame is enough
				c.write(closeFrame(1000, ""))
				c.wantEndOf(1000)
			}
			c.pump.Wait()
			const alert = 21
			if last.read[0] != alert {
				t.Errorf("by the server %t: the last record is of type %d", byServer, last.read[0])
			}
			s.waitGone()
		}
	})
}

// A lastRead remembers what was read last.
type lastRead struct {
	net.Conn
	read []byte
}

func (c *lastRead) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.read = bytes.Clone(p[:n])
	}
	return n, err
}

// After a write that its deadline has ended, TLS cannot go on, also where the hub's clock, which leaves
// out what the process slept through, would give it more time.
func TestTLSWriteIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := testTLS(t)
		near, far := net.Pipe()
		conn, peer := tls.Server(near, server), tls.Client(far, client)
		done := make(chan error)
		go func() { done <- peer.Handshake() }()
		if err := errors.Join(conn.Handshake(), <-done); err != nil {
			t.Fatal(err)
		}
		asleep := time.Now()
		w := &wire{cfg: &defaultSettings().Config, now: func() time.Time { return asleep }}
		w.start(conn, nil)
		if _, err := w.send([]byte("nobody reads this")); !errors.Is(err, signaling.ErrTooSlow) {
			t.Errorf("%v", err)
		}
		far.Close()
		w.closeSoon()
		w.shut(false)
	})
}

// The server's timeouts come when they should, with what they should say.
func TestTLSTimeouts(t *testing.T) {
	t.Run("join", func(t *testing.T) {
		tlsBubble(t, nil, func(t *testing.T, s *service) {
			began := time.Now()
			if took := s.open().wantEnd(4000).Sub(began); took != 60*time.Second {
				t.Errorf("closed after %v", took)
			}
		})
	})
	t.Run("ping", func(t *testing.T) {
		tlsBubble(t, nil, func(t *testing.T, s *service) {
			c := s.open()
			c.join("demo", "")
			began := time.Now()
			if at := c.wantPing(); at.Sub(began) != 20*time.Second {
				t.Errorf("pinged after %v", at.Sub(began))
			}
			c.mute.Store(true)
			c.wantPing()
			began = time.Now()
			if took := c.wantEndOf(1006).Sub(began); took < 10*time.Second || took > 12*time.Second {
				t.Errorf("cut after %v", took)
			}
		})
	})
	t.Run("message", func(t *testing.T) {
		tlsBubble(t, nil, func(t *testing.T, s *service) {
			c := s.open()
			c.join("demo", "")
			began := time.Now()
			c.write(textFrame(`{"type":"leave"}`)[:3])
			if took := c.wantEnd(1008).Sub(began); took != 10*time.Second {
				t.Errorf("closed after %v", took)
			}
		})
	})
}

// A peer that reads nothing holds the server up for the write timeout and the time to close, not for
// the 5 s more that TLS would give its own goodbye.
func TestTLSReaderThatDoesNotRead(t *testing.T) {
	tlsBubble(t, nil, func(t *testing.T, s *service) {
		c := s.dial()
		c.upgrade()
		began := time.Now()
		c.send(`{"type":"join","room":"demo"}`) // its answer has nowhere to go
		s.waitGone()
		if took := time.Since(began); took < 10*time.Second || took > 10*time.Second+2*closeTime {
			t.Errorf("gone after %v", took)
		}
	})
}

// A peer that answers no close frame is given closeTime.
func TestTLSCloseWithoutAnswer(t *testing.T) {
	tlsBubble(t, nil, func(t *testing.T, s *service) {
		a := s.open()
		a.mute.Store(true)
		a.join("demo", key("a"))
		began := time.Now()
		s.open().join("demo", key("a")) // takes the seat
		a.wantEndOf(4500)
		if took := time.Since(began); took > closeTime {
			t.Errorf("the end came after %v", took)
		}
	})
}

// waitGone waits until no connection is open. It is for bubbles.
func (s *service) waitGone() {
	s.t.Helper()
	for began := time.Now(); s.api.Connections() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > s.patience {
			s.t.Fatal("a connection stays")
		}
	}
}

// TestTLSCuts is TestCutAtEveryByte over TLS, at some of the bytes: inside the handshake, inside and
// between records.
func TestTLSCuts(t *testing.T) {
	t.Parallel()
	server, client := testTLS(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, tls.NewListener(l, server), nil)
	s.patience, s.addr, s.secure = 20*time.Second, l.Addr().String(), client

	var plans []cutPlan
	for _, up := range []bool{true, false} {
		for k := 0; k < s.recordCall(t, up)-200; k += 97 { // signatures differ in length
			plans = append(plans, cutPlan{up: up, after: k, how: []cutKind{cutReset, cutFinish, cutSilent}[len(plans)%3]})
		}
	}
	var total tally
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(plans) && !t.Failed(); i = int(next.Add(1)) - 1 {
				s.cutCall(t, plans[i], i, &total)
			}
		})
	}
	workers.Wait()
	t.Logf("%d cuts, %d messages sent, %d lost, %d duplicated, %d reordered; %d seats resumed",
		total.cuts.Load(), total.sent.Load(), total.lost.Load(), total.duplicated.Load(), total.reordered.Load(), total.resumed.Load())
}

// Over TLS the page's own scheme is known: a page that came over http is another one.
func TestOriginOverTLS(t *testing.T) {
	for origin, want := range map[string]bool{
		"https://duet.example": true, "http://duet.example": false, "http://duet.example:443": false, "https://duet.example:8443": false,
	} {
		if newOriginPolicy(nil).allows(origin, "duet.example", true) != want {
			t.Errorf("%s: not %t", origin, want)
		}
	}
	if !newOriginPolicy([]string{"http://app.example"}).allows("http://app.example", "duet.example", true) {
		t.Error("what is listed counts")
	}
}

func TestUpgradeExplainedOverTLS(t *testing.T) {
	r := httptest.NewRequest("GET", "https://duet.test/ws", nil)
	if text := explainUpgrade(r); !strings.Contains(text, "websocat wss://duet.test/ws") || strings.Contains(text, "%!") {
		t.Error(text)
	}
	r.TLS = nil
	if text := explainUpgrade(r); !strings.Contains(text, "(wss: where") || !strings.Contains(text, "websocat ws://duet.test/ws") {
		t.Error(text)
	}
}
