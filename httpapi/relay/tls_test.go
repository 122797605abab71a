package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v3"
	"github.com/pion/turn/v4"
)

// makeCertificate makes one for 127.0.0.1 and name that vouches for itself.
func makeCertificate(t testing.TB, name string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// withTLS has the relay speak TLS with pair.
func withTLS(pair *tls.Certificate) func(*Config) {
	return func(c *Config) {
		c.TLSAddr = "127.0.0.1:0"
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair, nil }
	}
}

// certificate is the one that s has now.
func certificate(t testing.TB, s *Server) *tls.Certificate {
	t.Helper()
	pair, err := s.cfg.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// trusting is a client's configuration that takes pair and no other.
func trusting(pair *tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	return &tls.Config{RootCAs: pool}
}

// A handshake that fails, and what is none where TLS alone is spoken, ends at once and is counted; the
// plain clients of the shared port are served.
func TestTLSHandshakes(t *testing.T) {
	pair := makeCertificate(t, "duet.test")
	s := start(t, withTLS(pair), func(c *Config) {
		c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "" && hello.ServerName != "duet.test" {
				return nil, errors.New("another name")
			}
			return pair, nil
		}
	})
	shake := func(change func(*tls.Config)) func(net.Conn) {
		return func(conn net.Conn) {
			cfg := trusting(pair)
			cfg.ServerName = "duet.test"
			change(cfg)
			if err := tls.Client(conn, cfg).Handshake(); err == nil {
				t.Error("the handshake succeeds")
			}
		}
	}
	say := func(text string) func(net.Conn) {
		return func(conn net.Conn) { io.WriteString(conn, text) }
	}
	binding := string(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
	both, alone := []netip.AddrPort{s.Addr(), s.TLSAddr()}, []netip.AddrPort{s.TLSAddr()}
	for _, tt := range []struct {
		name string
		at   []netip.AddrPort
		do   func(net.Conn)
	}{
		{"another name", both, shake(func(c *tls.Config) { c.ServerName = "evil.test" })},
		{"TLS 1.1", both, shake(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })},
		{"a client that does not trust the certificate", both, shake(func(c *tls.Config) { c.RootCAs = x509.NewCertPool() })},
		{"no handshake behind its first byte", both, say("\x16GET / HTTP/1.1\r\n")},
		{"http", alone, say("GET / HTTP/1.1\r\n")},
		{"a single byte", alone, say("\x00")},
		{"STUN", alone, say(binding)},
		{"ChannelData", alone, say("\x40\x01\x00\x08whatever")},
	} {
		for _, at := range tt.at {
			before := s.refusals(whyTLS)
			conn, err := net.Dial("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(patience)) // less than idleTimeout
			tt.do(conn)
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: the connection stays", tt.name)
			}
			conn.Close()
			if s.refusals(whyTLS) != before+1 {
				t.Errorf("%s: %v were counted", tt.name, s.refusals(whyTLS)-before)
			}
		}
	}
	for _, network := range []string{"tcp", "tls", "tls-only"} {
		if _, code := dial(t, s, network, "anna").ask(stun.MethodBinding); code != 0 {
			t.Errorf("%s: %d", network, code)
		}
	}
}

// A client that says nothing holds up nobody: the handshake is not Accept's.
func TestSilentHandshake(t *testing.T) {
	s := start(t, withTLS(makeCertificate(t, "duet.test")))
	for _, at := range []netip.AddrPort{s.Addr(), s.TLSAddr()} {
		for _, said := range []string{"", "\x16\x03\x01"} {
			conn, err := net.Dial("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, said)
		}
	}
	dial(t, s, "tls", "anna").allocate(0)
	dial(t, s, "tls-only", "bert").allocate(0)
	if n := s.refusals(whyTLS); n != 0 {
		t.Errorf("%v were counted", n)
	}
}

// A certificate that changes is that of the next connection. Those that are open relay on.
func TestCertificateChanges(t *testing.T) {
	old, renewed := makeCertificate(t, "duet.test"), makeCertificate(t, "duet.test")
	var current atomic.Pointer[tls.Certificate]
	current.Store(old)
	s := start(t, withTLS(old), func(c *Config) {
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }
	})
	a, b := dial(t, s, "tls", "anna"), dial(t, s, "tls-only", "bert")
	atA, atB := a.allocate(0), b.allocate(0)
	a.ask(stun.MethodChannelBind, channelNumber(0x4000), peer(atB))
	b.ask(stun.MethodCreatePermission, peer(atA))
	relays := func(text string) {
		t.Helper()
		b.sendIndication(atA, text)
		if got := string(a.receive()); got != "\x40\x00\x00\x08"+text {
			t.Errorf("%q came", got)
		}
	}
	relays("before!!")
	current.Store(renewed)
	relays("after it")
	for _, at := range []netip.AddrPort{s.Addr(), s.TLSAddr()} {
		conn, err := tls.Dial("tcp", at.String(), trusting(renewed))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c := dial(t, s, "udp", "carl")
		c.conn = turn.NewSTUNConn(conn)
		c.allocate(0)
	}
	relays("at last!")
}
