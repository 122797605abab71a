package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/turn/v4"
	"github.com/prometheus/client_golang/prometheus"
)

const testTurnSecret = "hunter2-hunter2-hunter2-hunter2"

func TestRelayFaults(t *testing.T) {
	for _, tt := range []struct{ environ, want string }{
		{"DUET_TURN_ADDR=3478", "must be host:port"},
		{"DUET_TURN_TLS_ADDR=:5349", "needs DUET_TURN_ADDR"},
		{"DUET_TURN_PUBLIC_IP=turn.example.org", "must be auto, or the IPv4 address"},
		{"DUET_TURN_PUBLIC_IP=2001:db8::1", "must be auto, or the IPv4 address"},
		{"DUET_TURN_PUBLIC_IP=0.0.0.0", "must be auto, or the IPv4 address"},
		{"DUET_TURN_PORTS=50000", "must be ports from 1024 to 65535"},
		{"DUET_TURN_PORTS=60000-50000", "must be ports from 1024 to 65535"},
		{"DUET_TURN_PORTS=50000-65536", "must be ports from 1024 to 65535"},
		{"DUET_TURN_PORTS=80-2000", "must be ports from 1024 to 65535"},
		{"DUET_TURN_PORTS=50000-50014", "has 15 ports, one for each relayed address: at least 16 are needed"},
		{"DUET_TURN_PORTS=50000-50031 DUET_TURN_TOTAL_QUOTA=33 DUET_TURN_ADDR=:3478", "has 32 ports, and DUET_TURN_TOTAL_QUOTA=33"},
		{"DUET_TURN_PORTS=3000-4000 DUET_TURN_ADDR=:3478", "holds the port of DUET_TURN_ADDR=:3478"},
		{"DUET_TURN_PORTS=5000-6000 DUET_TURN_ADDR=:3478 DUET_TURN_TLS_ADDR=:5349", "holds the port of DUET_TURN_TLS_ADDR=:5349"},
		{"DUET_TURN_USER_QUOTA=0", "must be a whole number"},
		{"DUET_TURN_TOTAL_QUOTA=0", "must be auto or a whole number"},
		{"DUET_TURN_TTL=30s", "must be a duration from 1m to 168h"},
		{"DUET_TURN_REALM=a:b", "must be a name"},
		{"DUET_TURN_URLS=https://turn.example.org", "must be URLs such as turn:turn.example.org:3478"},
		{"DUET_TURN_URLS=turn:turn.example.org", "needs DUET_TURN_SECRET"},
		{"DUET_TURN_SECRET=hunter2-hunter2-hunter2", "is too short: at least 24 bytes"},
		{"DUET_TURN_SECRET=" + testTurnSecret, "does nothing without DUET_TURN_ADDR"},
		{"DUET_TURN_ALLOW_PEERS=fd00::/8", "it is not IPv4"},
		{"DUET_TURN_ALLOW_PEERS=10.0.0.0/33", "must be IPv4 CIDRs"},
		{"DUET_TURN_ADDR=:3478 DUET_MAX_CONNECTIONS=700", "must be below"},
	} {
		_, err := parseConfig(strings.Fields(tt.environ), 1000)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\nlacks %q", tt.environ, err, tt.want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a secret is repeated: %v", err)
		}
	}
}

func TestRelayTakesDescriptors(t *testing.T) {
	without, err := parseConfig(nil, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	with, err := parseConfig([]string{"DUET_TURN_ADDR=:3478", "DUET_TURN_SECRET=" + testTurnSecret}, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	if with.TurnTotalQuota != 2484 || with.relayDescriptors() != 5048 || without.relayDescriptors() != 0 ||
		with.MaxConnections != without.MaxConnections-5048 || with.listenLimit(20_000) != without.listenLimit(20_000)-5048 {
		t.Errorf("%d allocations, %d descriptors, %d and %d connections", with.TurnTotalQuota, with.relayDescriptors(), with.MaxConnections, without.MaxConnections)
	}
	if logged := with.LogValue().String(); strings.Contains(logged, "hunter2") || !strings.Contains(logged, "DUET_TURN_SECRET=***") {
		t.Error(logged)
	}
}

// joinedServers connects a client to the room demo of the server at socket and returns its iceServers.
func joinedServers(t *testing.T, socket string, trust *tls.Config) (servers []iceServer) {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), socket, &websocket.DialOptions{HTTPClient: clientOf(trust)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	if err := c.Write(t.Context(), websocket.MessageText, []byte(`{"type":"join","room":"demo"}`)); err != nil {
		t.Fatal(err)
	}
	_, data, err := c.Read(t.Context())
	var m struct {
		Type       string
		ICEServers []struct {
			URLs                 any
			Username, Credential string
		}
	}
	if err != nil || json.Unmarshal(data, &m) != nil || m.Type != "joined" {
		t.Fatalf("%s, %v", data, err)
	}
	for _, s := range m.ICEServers {
		one := iceServer{Username: s.Username, Credential: s.Credential}
		for _, u := range s.URLs.([]any) {
			one.URLs = append(one.URLs, u.(string))
		}
		servers = append(servers, one)
	}
	return servers
}

// TestProcessRelays allocates a relayed address with what joined says, as a browser does.
func TestProcessRelays(t *testing.T) {
	t.Parallel()
	p := spawn(t, nil, "DUET_TURN_ADDR=127.0.0.1:0", "DUET_TURN_PORTS=30000-31999", "DUET_STUN=stun:192.0.2.1",
		`DUET_ICE_SERVERS=[{"urls":"stun:192.0.2.2"}]`, "DUET_TURN_SECRET="+testTurnSecret)
	_, socket, operator := p.listening(t)
	servers := joinedServers(t, socket, nil)
	if len(servers) != 3 || servers[0].URLs[0] != "stun:192.0.2.1" || servers[1].URLs[0] != "stun:192.0.2.2" {
		t.Fatalf("%+v", servers)
	}
	relay := servers[2]
	m := regexp.MustCompile(`^stun:(127\.0\.0\.1:\d+) turn:127\.0\.0\.1:\d+\?transport=udp turn:127\.0\.0\.1:\d+\?transport=tcp$`).
		FindStringSubmatch(strings.Join(relay.URLs, " "))
	if m == nil || !regexp.MustCompile(`^\d+:[\w-]{16}$`).MatchString(relay.Username) {
		t.Fatalf("%+v", relay)
	}
	for _, network := range []string{"udp", "tcp"} {
		var conn net.PacketConn
		var err error
		if network == "udp" {
			conn, err = net.ListenPacket("udp", "127.0.0.1:0")
		} else {
			var tcp net.Conn
			if tcp, err = net.Dial("tcp", m[1]); err == nil {
				conn = turn.NewSTUNConn(tcp)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: m[1], TURNServerAddr: m[1], Conn: conn,
			Username: relay.Username, Password: relay.Credential})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Listen(); err != nil {
			t.Fatal(err)
		}
		relayed, err := c.Allocate()
		if err != nil {
			t.Fatal(err)
		}
		defer relayed.Close()
		if _, err := c.SendBindingRequest(); err != nil {
			t.Errorf("STUN by %s: %v", network, err)
		}
	}
	if _, text := get(t, operator); !strings.Contains(text, "duet_turn_allocations 2\n") {
		t.Error("not counted")
	}
	if said := p.stderr.String(); strings.Contains(said, relay.Credential) || strings.Contains(said, "hunter2") || !strings.Contains(said, "relayed addresses on ports 30000-31999") {
		t.Error(said)
	}
}

// A relayClient is a client of the relay over TLS that has a relayed address.
func relayClient(t *testing.T, server iceServer, at string, cfg *tls.Config) (net.PacketConn, *x509.Certificate) {
	t.Helper()
	conn, err := tls.Dial("tcp", at, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c, err := turn.NewClient(&turn.ClientConfig{TURNServerAddr: at, Conn: turn.NewSTUNConn(conn),
		Username: server.Username, Password: server.Credential})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	relayed, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relayed.Close() })
	return relayed, conn.ConnectionState().PeerCertificates[0]
}

// TestProcessRelaysOverTLS relays data between two clients that came by the turns: of joined, and goes on
// when the certificate has changed, which who comes later gets.
func TestProcessRelaysOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first, second := makeTestCertificate(t, "duet.example", -time.Hour, time.Hour), makeTestCertificate(t, "duet.example", -time.Hour, time.Hour)
	writeFile(t, cert, first.cert)
	writeFile(t, key, first.key)
	p := spawn(t, nil, "DUET_TLS_CERT="+cert, "DUET_TLS_KEY="+key, "DUET_STUN=off",
		"DUET_TURN_ADDR=127.0.0.1:0", "DUET_TURN_PORTS=32000-32999")
	at := p.said(t)
	trust := trusting(first.cert, second.cert)
	servers := joinedServers(t, at.Websocket, trust)
	m := regexp.MustCompile(`turn:(127\.0\.0\.1:\d+)\?transport=tcp turns:(127\.0\.0\.1:\d+)\?transport=tcp$`).FindStringSubmatch(strings.Join(servers[0].URLs, " "))
	if m == nil || m[1] != m[2] {
		t.Fatalf("%+v", servers)
	}
	a, leaf := relayClient(t, servers[0], m[2], trust)
	b, _ := relayClient(t, servers[0], m[2], trust)
	if !leaf.Equal(first.leaf) {
		t.Error("another certificate")
	}
	if err := b.(interface{ CreatePermissions(...net.Addr) error }).CreatePermissions(a.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	relays := func(text string) {
		t.Helper()
		if _, err := a.WriteTo([]byte(text), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if err := b.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if n, _, err := b.ReadFrom(buf); err != nil || string(buf[:n]) != text {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	relays("before")
	writeFile(t, cert, second.cert)
	writeFile(t, key, second.key)
	p.stderr.await(t, regexp.MustCompile(`certificate read again`))
	relays("after")
	if _, leaf := relayClient(t, servers[0], m[2], trust); !leaf.Equal(second.leaf) {
		t.Error("the old certificate is still served")
	}
	if _, metrics := get(t, at.Operator); !strings.Contains(metrics, `duet_turn_refused_total{why="tls"} 0`) {
		t.Error("a handshake failed")
	}
}

// inUse has one certificate for ever; nil = none yet.
type inUse struct{ leaf *x509.Certificate }

func (c inUse) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New("no handshakes here")
}
func (c inUse) Run(context.Context) error { return nil }
func (c inUse) InUse() *x509.Certificate  { return c.leaf }

// turns: is told exactly when a browser can use it.
func TestTurnsIsTold(t *testing.T) {
	leaf := func(change func(*x509.Certificate)) inUse {
		c := *makeTestCertificate(t, "duet.example", -time.Hour, time.Hour).leaf
		change(&c)
		return inUse{&c}
	}
	made := &selfSigned{}
	made.current.Store(&tls.Certificate{Leaf: leaf(func(*x509.Certificate) {}).leaf})
	for _, tt := range []struct {
		name    string
		certs   certificates
		tlsAddr string
		want    string
	}{
		{"no https", nil, "", ""},
		{"a certificate for the address", leaf(func(*x509.Certificate) {}), "", "turns:127.0.0.1:PORT?transport=tcp"},
		{"and a port of its own", leaf(func(*x509.Certificate) {}), "127.0.0.1:0", "turns:127.0.0.1:TLS?transport=tcp"},
		{"a certificate for a name", leaf(func(c *x509.Certificate) { c.IPAddresses = nil }), "", "turns:duet.example:PORT?transport=tcp"},
		{"a wildcard before a name", leaf(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"*.duet.example", "duet.example"} }), "", "turns:duet.example:PORT?transport=tcp"},
		{"a wildcard", leaf(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"*.duet.example"} }), "", ""},
		{"one that ran out", leaf(func(c *x509.Certificate) { c.NotAfter = time.Now() }), "", ""},
		{"none from the authority yet", inUse{}, "", ""},
		{"self-signed", made, "", ""},
		{"self-signed, with a port of its own", made, "127.0.0.1:0", "turns:127.0.0.1:TLS?transport=tcp"},
	} {
		cfg, err := parseConfig([]string{"DUET_TURN_ADDR=127.0.0.1:0"}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		cfg.TurnTLSAddr = listenAddr(tt.tlsAddr)
		service, err := startRelay(t.Context(), &cfg, tt.certs, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		urls := service.urls()
		got := strings.Join(urls[3:], " ")
		want := strings.NewReplacer("PORT", fmt.Sprint(service.own.Addr().Port()), "TLS", fmt.Sprint(service.own.TLSAddr().Port())).Replace(tt.want)
		if got != want || !strings.HasPrefix(urls[2], "turn:") {
			t.Errorf("%s: %q, want %q", tt.name, urls, want)
		}
		service.Close()
	}
}

// With an external relay the URLs are the operator's, and the credentials hold for DUET_TURN_TTL.
func TestExternalRelay(t *testing.T) {
	c, err := parseConfig([]string{"DUET_TURN_URLS=turn:turn.example.org:3478?transport=udp, turns:turn.example.org:443?transport=tcp",
		"DUET_TURN_SECRET=" + testTurnSecret, "DUET_TURN_TTL=1h", "DUET_STUN=off"}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	service, err := startRelay(t.Context(), &c, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	text, lifetime := service.iceServers("sh-Uqaq6K_F9TUEa")
	var servers []map[string]any
	if err := json.Unmarshal(text, &servers); err != nil {
		t.Fatal(err)
	}
	var expiry int64
	var user string
	if _, err := fmt.Sscanf(fmt.Sprint(servers[0]["username"]), "%d:%s", &expiry, &user); err != nil || user != "sh-Uqaq6K_F9TUEa" {
		t.Fatal(servers, err)
	}
	if left := time.Until(time.Unix(expiry, 0)); lifetime != time.Hour || left > time.Hour || left < 59*time.Minute || len(servers) != 1 || service.String() != "" {
		t.Errorf("%v, %v, %v", lifetime, left, servers)
	}
}

func TestRelayCannotListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		env  []string
		want string
	}{
		{[]string{"DUET_TURN_ADDR=" + taken.Addr().String()}, "DUET_TURN_ADDR=" + taken.Addr().String() + ": the port is taken"},
		{[]string{"DUET_TURN_ADDR=127.0.0.1:0", "DUET_TURN_TLS_ADDR=127.0.0.1:0"}, "needs a certificate"},
	} {
		p := spawn(t, nil, tt.env...)
		if status := p.exit(t); status != exitFailed || !strings.Contains(p.stderr.String(), tt.want) {
			t.Errorf("%v: status %d", tt.env, status)
		}
	}
}
