package relay

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v3"
	"github.com/pion/turn/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var (
	secret = []byte("a secret for tests that is long enough")
	public = netip.MustParseAddr("198.51.100.77") // of nobody: what goes there must turn round inside
)

// patience bounds whatever a test waits for.
const patience = 20 * time.Second

func start(t testing.TB, change ...func(*Config)) *Server {
	t.Helper()
	cfg := Config{Addr: "127.0.0.1:0", PublicIP: public, Ports: PortRange{20000, 29999}, Realm: "duet", Secret: secret,
		UserQuota: 10, TotalQuota: 100, Lifetime: time.Hour}
	for _, c := range change {
		c(&cfg)
	}
	s, err := Listen(t.Context(), cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (s *Server) refusals(why string) float64 {
	return testutil.ToFloat64(s.metrics.refused.WithLabelValues(why))
}

// A raw client says what it is told: also what a client library would not.
type raw struct {
	t                  testing.TB
	conn               net.PacketConn
	server             net.Addr
	username, password string
	realm              stun.Realm
	nonce              stun.Nonce
}

// dial connects by network, udp, tcp, tls, or tls-only, with good credentials for user.
func dial(t testing.TB, s *Server, network, user string) *raw {
	t.Helper()
	r := &raw{t: t, server: s.addr}
	r.username, r.password = Mint(s.cfg.Secret, user, time.Now().Add(time.Hour))
	server := s.Addr()
	if network == "tls-only" {
		server = s.TLSAddr()
	}
	if server.Addr().IsUnspecified() {
		server = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), server.Port())
	}
	if strings.HasPrefix(network, "tls") {
		conn, err := tls.Dial("tcp", server.String(), trusting(certificate(t, s)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		r.conn = turn.NewSTUNConn(conn)
		return r
	}
	conn, err := net.Dial(network, server.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if network == "udp" {
		conn.Close()
		if r.conn, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.conn.Close() })
		r.server = net.UDPAddrFromAddrPort(server)
	} else {
		r.conn = turn.NewSTUNConn(conn)
	}
	return r
}

// receive returns the next message, a STUN message or ChannelData.
func (r *raw) receive() []byte {
	r.t.Helper()
	buf := make([]byte, 2048)
	r.conn.SetReadDeadline(time.Now().Add(patience))
	n, _, err := r.conn.ReadFrom(buf)
	if err != nil {
		r.t.Fatal(err)
	}
	return buf[:n]
}

func (r *raw) send(b []byte) {
	r.t.Helper()
	if _, err := r.conn.WriteTo(b, r.server); err != nil {
		r.t.Fatal(err)
	}
}

// ask sends a request and returns the answer to it, and its error code: 0 for success, -1 for an error without.
func (r *raw) ask(method stun.Method, attrs ...stun.Setter) (*stun.Message, int) {
	r.t.Helper()
	for {
		all := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
		if r.nonce != nil && method != stun.MethodBinding {
			all = append(all, stun.NewUsername(r.username), r.realm, r.nonce,
				stun.NewLongTermIntegrity(r.username, r.realm.String(), r.password))
		}
		m, err := stun.Build(all...)
		if err != nil {
			r.t.Fatal(err)
		}
		r.send(m.Raw)
		answer := &stun.Message{Raw: r.receive()}
		if err := answer.Decode(); err != nil || answer.TransactionID != m.TransactionID {
			r.t.Fatalf("not the answer: %v, %v", answer, err)
		}
		var code stun.ErrorCodeAttribute
		switch {
		case answer.Type.Class == stun.ClassSuccessResponse:
			return answer, 0
		case code.GetFrom(answer) != nil:
			return answer, -1
		case code.Code == stun.CodeUnauthorized && r.nonce == nil:
			if err := errors.Join(r.realm.GetFrom(answer), r.nonce.GetFrom(answer)); err != nil {
				r.t.Fatal(err)
			}
		default:
			return answer, int(code.Code)
		}
	}
}

var overUDP = stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}

// allocate wants code as the answer to Allocate and returns the relayed address, if there is one.
func (r *raw) allocate(code int) netip.AddrPort {
	r.t.Helper()
	m, got := r.ask(stun.MethodAllocate, attribute(overUDP))
	if got != code {
		r.t.Fatalf("Allocate: %d, want %d", got, code)
	}
	var relayed stun.XORMappedAddress
	if code != 0 {
		return netip.AddrPort{}
	}
	if err := relayed.GetFromAs(m, stun.AttrXORRelayedAddress); err != nil {
		r.t.Fatal(err)
	}
	ip, _ := netip.AddrFromSlice(relayed.IP)
	return netip.AddrPortFrom(ip, uint16(relayed.Port))
}

func (r *raw) free() {
	r.t.Helper()
	if _, code := r.ask(stun.MethodRefresh, attribute{Type: stun.AttrLifetime, Value: make([]byte, 4)}); code != 0 {
		r.t.Fatalf("Refresh: %d", code)
	}
}

// An attribute is added as it is.
type attribute stun.RawAttribute

func (a attribute) AddTo(m *stun.Message) error {
	m.Add(a.Type, a.Value)
	return nil
}

// A peer is an XOR-PEER-ADDRESS in exactly the notation that its address has: libraries write an
// IPv4-mapped address as IPv4.
type peer netip.AddrPort

func (p peer) AddTo(m *stun.Message) error {
	at := netip.AddrPort(p)
	ip := at.Addr().AsSlice()
	value := make([]byte, 4, 20)
	value[1] = 1
	if len(ip) == 16 {
		value[1] = 2
	}
	binary.BigEndian.PutUint16(value[2:], at.Port()^magicCookie>>16)
	key := append(binary.BigEndian.AppendUint32(nil, magicCookie), m.TransactionID[:]...)
	for i, b := range ip {
		value = append(value, b^key[i])
	}
	m.Add(stun.AttrXORPeerAddress, value)
	return nil
}

func channelNumber(n uint16) attribute {
	return attribute{Type: stun.AttrChannelNumber, Value: []byte{byte(n >> 8), byte(n), 0, 0}}
}

// sendIndication sends text to a peer, which is not answered; then it waits until the relay has handled that.
func (r *raw) sendIndication(to netip.AddrPort, text string) {
	r.t.Helper()
	m, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), peer(to),
		attribute{Type: stun.AttrData, Value: []byte(text)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.send(m.Raw)
	r.ask(stun.MethodBinding)
}

func TestBinding(t *testing.T) {
	s := start(t)
	for _, network := range []string{"udp", "tcp"} {
		m, code := dial(t, s, network, "anna").ask(stun.MethodBinding)
		var mapped stun.XORMappedAddress
		if err := mapped.GetFrom(m); code != 0 || err != nil || !mapped.IP.IsLoopback() {
			t.Errorf("%s: %d, %v, %v", network, code, mapped, err)
		}
	}
}

// TestTwoClients lets two clients of the relay exchange data, by each way in, with a library's client.
func TestTwoClients(t *testing.T) {
	s := start(t, withTLS(makeCertificate(t, "127.0.0.1")))
	for _, networks := range [][2]string{{"udp", "udp"}, {"udp", "tcp"}, {"tcp", "tcp"}, {"tls", "tls"}, {"tls-only", "tls"}, {"tls-only", "udp"}} {
		t.Run(networks[0]+"-"+networks[1], func(t *testing.T) {
			var ends [2]net.PacketConn
			for i, network := range networks {
				r := dial(t, s, network, fmt.Sprint("peer", i))
				c, err := turn.NewClient(&turn.ClientConfig{TURNServerAddr: s.Addr().String(), Conn: r.conn,
					Username: r.username, Password: r.password})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(c.Close)
				if err := c.Listen(); err != nil {
					t.Fatal(err)
				}
				if ends[i], err = c.Allocate(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { ends[i].Close() })
				if at := addrPortOf(ends[i].LocalAddr()); at.Addr() != public || !s.cfg.Ports.Contains(at.Port()) {
					t.Fatalf("relayed address %s", at)
				}
			}
			// What is sent first may come before the other side has given its permission, and is lost then.
			if err := ends[1].(interface{ SetReadDeadline(time.Time) error }).SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			say(t, ends[1], ends[0].LocalAddr(), "early")
			for n := range 200 {
				text := fmt.Sprintf("message %d", n)
				say(t, ends[0], ends[1].LocalAddr(), text)
				if got, from := hear(t, ends[1]); got != text || from.String() != ends[0].LocalAddr().String() {
					t.Fatalf("%q from %s", got, from)
				}
			}
		})
	}
	if sent, got := testutil.ToFloat64(s.metrics.toPeers), testutil.ToFloat64(s.metrics.fromPeers); sent < 6*200*9 || got < 6*200*9 {
		t.Errorf("%v bytes to peers, %v from peers", sent, got)
	}
}

func say(t *testing.T, c net.PacketConn, to net.Addr, text string) {
	t.Helper()
	if _, err := c.WriteTo([]byte(text), to); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.PacketConn) (string, net.Addr) {
	t.Helper()
	buf := make([]byte, 2048)
	n, from, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), from
}

func TestChannels(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", ":0"} {
		t.Run(addr, func(t *testing.T) {
			testChannels(t, start(t, func(c *Config) { c.Addr = addr }))
		})
	}
}

func testChannels(t *testing.T, s *Server) {
	a, b := dial(t, s, "udp", "anna"), dial(t, s, "tcp", "bert")
	atA, atB := a.allocate(0), b.allocate(0)
	for _, r := range []struct {
		*raw
		to netip.AddrPort
	}{{a, atB}, {b, atA}} {
		if _, code := r.ask(stun.MethodChannelBind, channelNumber(0x4001), peer(r.to)); code != 0 {
			t.Fatal(code)
		}
	}
	for _, pair := range [][2]*raw{{a, b}, {b, a}} {
		pair[0].send([]byte("\x40\x01\x00\x08whatever"))
		if got := pair[1].receive(); string(got) != "\x40\x01\x00\x08whatever" {
			t.Errorf("%q", got)
		}
	}
}

func TestCredentials(t *testing.T) {
	s := start(t)
	for _, tt := range []struct {
		name, why string
		change    func(*raw)
	}{
		{"wrong password", whyCredentials, func(r *raw) { r.password = "hunter2" }},
		{"another secret", whyCredentials, func(r *raw) {
			r.username, r.password = Mint([]byte("another secret"), "anna", time.Now().Add(time.Hour))
		}},
		{"somebody else's password", whyCredentials, func(r *raw) { r.username += "x" }},
		{"longer life", whyCredentials, func(r *raw) { r.username = "9" + r.username }},
		{"expired", whyExpired, func(r *raw) {
			r.username, r.password = Mint(secret, "anna", time.Now().Add(-time.Second))
		}},
		{"no expiry", whyCredentials, func(r *raw) { r.username, r.password = "anna", sign(secret, "anna") }},
		{"no user", whyCredentials, func(r *raw) { r.username, r.password = "9999999999:", sign(secret, "9999999999:") }},
		{"negative", whyCredentials, func(r *raw) { r.username, r.password = "-1:a", sign(secret, "-1:a") }},
		{"overflow", whyCredentials, func(r *raw) {
			r.username = "99999999999999999999:a"
			r.password = sign(secret, r.username)
		}},
	} {
		for _, network := range []string{"udp", "tcp"} {
			before := s.refusals(tt.why)
			r := dial(t, s, network, "anna")
			tt.change(r)
			r.allocate(int(stun.CodeBadRequest))
			if s.refusals(tt.why) != before+1 {
				t.Errorf("%s by %s is not counted", tt.name, network)
			}
		}
	}
	if n := testutil.ToFloat64(s.metrics.allocations); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A call goes on with credentials that ran out, as long as its allocation is refreshed; but not for ever.
func TestCredentialsRunOutInACall(t *testing.T) {
	s := start(t)
	d, src := s.doors[0], net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1000"))
	d.clients[addrPortOf(src)] = &client{username: fmt.Sprintf("%d:anna", time.Now().Add(-30*time.Minute).Unix())}
	for _, tt := range []struct {
		over time.Duration
		user string
		want bool
	}{{30 * time.Minute, "anna", true}, {30 * time.Minute, "bert", false}, {61 * time.Minute, "anna", false}} {
		username, _ := Mint(secret, tt.user, time.Now().Add(-tt.over))
		if tt.over > s.cfg.Lifetime {
			d.clients[addrPortOf(src)].username = username
		}
		if _, ok := d.authenticate(username, "duet", src); ok != tt.want {
			t.Errorf("%s, %s after the end: %v", tt.user, tt.over, ok)
		}
	}
}

// TestMint has the value that openssl dgst -sha1 -hmac gives.
func TestMint(t *testing.T) {
	username, password := Mint([]byte("north"), "anna", time.Unix(1700000000, 0))
	if username != "1700000000:anna" || password != "WS1fjjHj2gNlXzhc/ZcwmC3ofIo=" {
		t.Error(username, password)
	}
}

func TestQuotas(t *testing.T) {
	s := start(t, func(c *Config) { c.UserQuota, c.TotalQuota = 2, 3 })
	first := dial(t, s, "udp", "anna")
	first.allocate(0)
	dial(t, s, "tcp", "anna").allocate(0)
	dial(t, s, "udp", "anna").allocate(int(stun.CodeAllocQuotaReached))
	dial(t, s, "udp", "bert").allocate(0)
	dial(t, s, "tcp", "carl").allocate(int(stun.CodeInsufficientCapacity))
	if s.refusals(whyUserQuota) != 1 || s.refusals(whyTotalQuota) != 1 || testutil.ToFloat64(s.metrics.allocations) != 3 {
		t.Error("not counted")
	}
	first.free()
	dial(t, s, "udp", "anna").allocate(0)
}

// A connection that ends takes its allocation with it.
func TestConnectionEnds(t *testing.T) {
	s := start(t, func(c *Config) { c.TotalQuota = 1 })
	a := dial(t, s, "tcp", "anna")
	a.allocate(0)
	a.conn.Close()
	s.mu.Lock()
	for len(s.users) > 0 {
		s.nobody.Wait()
	}
	s.mu.Unlock()
	dial(t, s, "tcp", "bert").allocate(0)
}

// Ports that others have are passed over; where none is left, that is said.
func TestPortsTaken(t *testing.T) {
	taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := addrPortOf(taken.LocalAddr()).Port()
	s := start(t, func(c *Config) { c.Ports = PortRange{port, port} })
	dial(t, s, "udp", "anna").allocate(int(stun.CodeInsufficientCapacity))
	if s.refusals(whyNoPort) != 1 {
		t.Error("not counted")
	}
	taken.Close()
	if at := dial(t, s, "udp", "anna").allocate(0); at.Port() != port {
		t.Error(at)
	}
}

func TestPermissionsAreBounded(t *testing.T) {
	s := start(t)
	a := dial(t, s, "udp", "anna")
	a.allocate(0)
	for i := range maxPermissions + 1 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{8, 8, 8, byte(i)}), 9)
		if _, code := a.ask(stun.MethodCreatePermission, peer(at)); (code == 0) != (i < maxPermissions) {
			t.Fatalf("permission %d: %d", i+1, code)
		}
	}
	if _, code := a.ask(stun.MethodCreatePermission, peer(netip.MustParseAddrPort("8.8.8.0:9"))); code != 0 {
		t.Errorf("one that is there is not refreshed: %d", code)
	}
	b := dial(t, s, "udp", "bert")
	b.allocate(0)
	for i := range maxPermissions + 1 {
		at := netip.MustParseAddrPort(fmt.Sprintf("8.8.8.8:%d", 1000+i))
		if _, code := b.ask(stun.MethodChannelBind, channelNumber(uint16(0x4000+i)), peer(at)); (code == 0) != (i < maxPermissions) {
			t.Fatalf("channel %d: %d", i+1, code)
		}
	}
	if s.refusals(whyPermissions) != 2 {
		t.Error("not counted")
	}
}

// TestRestart: a new relay takes the place of the old one at once; credentials outlive it with the secret.
func TestRestart(t *testing.T) {
	s := start(t)
	addr := s.Addr().String()
	for _, network := range []string{"udp", "tcp"} {
		dial(t, s, network, "anna").allocate(0)
	}
	old := dial(t, s, "udp", "anna")
	s.Close()
	if n := testutil.ToFloat64(s.metrics.allocations); n != 0 || len(s.sockets.open) != 0 {
		t.Fatalf("%v allocations, %d sockets after the end", n, len(s.sockets.open))
	}
	s.Close()
	again := start(t, func(c *Config) { c.Addr = addr })
	old.allocate(0)
	dial(t, again, "tcp", "anna").allocate(0)
	again.Close()
	other := start(t, func(c *Config) { c.Addr, c.Secret = addr, []byte("another") })
	r := dial(t, other, "udp", "anna")
	r.username, r.password = old.username, old.password
	r.allocate(int(stun.CodeBadRequest))
}

func TestListenFaults(t *testing.T) {
	s := start(t)
	for _, cfg := range []Config{{Addr: s.Addr().String(), PublicIP: public}, {Addr: "nonsense", PublicIP: public}, {Addr: "127.0.0.1:0"}, {Addr: "127.0.0.1:0", TLSAddr: "127.0.0.1:0", PublicIP: public}} {
		if s, err := Listen(t.Context(), cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); err == nil {
			s.Close()
			t.Errorf("%+v is taken", cfg)
		}
	}
	cfg := Config{Addr: "127.0.0.1:0", PublicIP: public}
	withTLS(makeCertificate(t, "duet.test"))(&cfg)
	cfg.TLSAddr = s.Addr().String()
	if _, err := Listen(t.Context(), cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); !errors.Is(err, ErrTLSAddr) {
		t.Error(err)
	}
}

// TestHostile sends what pion must not see; the relay goes on.
func TestHostile(t *testing.T) {
	s := start(t)
	cookie := "\x21\x12\xa4\x42"
	for name, frame := range map[string]string{
		"STUN length overflows":    "\x00\x01\xff\xec" + cookie + "0123456789ab",
		"channel length overflows": "\x40\x00\xff\xfc12345",
		"neither":                  "GET / HTTP/1.1\r\n",
		"TLS":                      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "0123456789",
		"too long":                 "\x40\x00\x06\x40",
	} {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, frame)
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is not closed: %v", name, err)
		}
		conn.Close()
	}
	for _, network := range []string{"udp", "tcp"} {
		a := dial(t, s, network, "anna")
		a.allocate(0)
		for name, attrs := range map[string][]stun.Setter{
			"peer without value":  {attribute{Type: stun.AttrData, Value: []byte{}}, attribute{Type: stun.AttrData, Value: []byte{}}, attribute{Type: stun.AttrXORPeerAddress}},
			"peer of one byte":    {attribute{Type: stun.AttrXORPeerAddress, Value: []byte{0}}, attribute{Type: stun.AttrData, Value: []byte("x")}},
			"peer of three bytes": {attribute{Type: stun.AttrXORPeerAddress, Value: []byte{0, 1, 2}}, attribute{Type: stun.AttrData, Value: []byte("x")}},
		} {
			before := s.refusals(whyMalformed)
			m, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication)}, attrs...)...)
			if err != nil {
				t.Fatal(err)
			}
			a.send(m.Raw)
			if _, code := a.ask(stun.MethodBinding); code != 0 || s.refusals(whyMalformed) != before+1 {
				t.Errorf("%s: %d, %v", name, code, s.refusals(whyMalformed)-before)
			}
		}
	}
}

// TestEndWaitsForPermission: an allocation that ends while pion makes a permission for it waits until
// that is complete (see handled).
func TestEndWaitsForPermission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{metrics: newMetrics(prometheus.NewRegistry()), peers: &peers{public: public}, users: map[string]int{}}
		s.nobody = sync.NewCond(&s.mu)
		d, src, ip := s.newDoor(nil), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1000")), net.IPv4(8, 8, 8, 8).To4()
		d.allocated(src, nil, "", "9999999999:anna", "", nil, 0)
		if !d.permit(src, ip) {
			t.Fatal("refused")
		}
		d.permitted(src, nil, "", "", "", nil, ip)
		ended := false
		go func() {
			d.forgotten(src, nil, "", "", "", nil, ip)
			ended = true
		}()
		synctest.Wait()
		if ended {
			t.Error("it ends before the permission is complete")
		}
		d.handled(addrPortOf(src))
		synctest.Wait()
		if c := d.clients[addrPortOf(src)]; !ended || len(c.peers) != 0 || d.adding.Load() != 0 {
			t.Errorf("ended: %v, %+v", ended, c)
		}
		d.freed(src, nil, "", "9999999999:anna", "")
	})
}

// TestAllocationsRunOut has short allocations end while permissions are made for them.
func TestAllocationsRunOut(t *testing.T) {
	s := start(t)
	var all []*raw
	for i := range 4 { // all of them before the flood, which what comes by UDP may drown in
		a := dial(t, s, []string{"udp", "tcp"}[i%2], fmt.Sprint("peer", i))
		if _, code := a.ask(stun.MethodAllocate, attribute(overUDP), attribute{Type: stun.AttrLifetime, Value: []byte{0, 0, 0, 1}}); code != 0 {
			t.Fatal(code)
		}
		all = append(all, a)
	}
	var ended sync.WaitGroup
	for _, a := range all {
		ended.Go(func() {
			for n := byte(0); s.doors[0].has(a) || s.doors[1].has(a); n++ {
				request := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodCreatePermission, stun.ClassRequest),
					peer(netip.AddrPortFrom(netip.AddrFrom4([4]byte{8, 8, n, n}), 9)), stun.NewUsername(a.username), a.realm, a.nonce,
					stun.NewLongTermIntegrity(a.username, a.realm.String(), a.password))
				a.conn.WriteTo(request.Raw, a.server)
			}
		})
	}
	ended.Wait()
	if _, code := dial(t, s, "tcp", "bert").ask(stun.MethodBinding); code != 0 { // by UDP it may not fit behind the rest
		t.Error(code)
	}
}

func (d *door) has(r *raw) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clients[addrPortOf(r.conn.LocalAddr())] != nil
}

// TestConnectionsAreBounded: one too many is closed at once; one that is closed makes room; one without
// an allocation has a deadline.
func TestConnectionsAreBounded(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newListener(tcp, 3, 2, func(string) {})
	defer l.closeAll()
	connect := func(from string) *conn {
		t.Helper()
		c := l.admit(deadlines{from: netip.MustParseAddrPort(from), read: new(time.Time)})
		return c
	}
	first, second := connect("192.0.2.1:1"), connect("192.0.2.1:2")
	if first == nil || second == nil || connect("192.0.2.1:3") != nil {
		t.Fatal("one address has not its share")
	}
	if connect("[2001:db8::1]:1") == nil || connect("[2001:db8::2]:1") != nil {
		t.Fatal("not three in all")
	}
	first.Close()
	first.Close()
	if connect("[2001:db8::2]:1") == nil || connect("192.0.2.1:1") != nil {
		t.Fatal("one place is free, and one only")
	}
	deadline := second.Conn.(deadlines).read
	if left := time.Until(*deadline); left <= 0 || left > idleTimeout {
		t.Errorf("%s without an allocation", left)
	}
	if l.inUse(second.client, true); !deadline.IsZero() {
		t.Error("it ends although it has an allocation")
	}
	if l.inUse(second.client, false); deadline.IsZero() {
		t.Error("it stays although its allocation has ended")
	}
	if _, err := second.Write([]byte("x")); err == nil || len(l.conns) != 2 {
		t.Error("a failed write does not end it")
	}
	client, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if c, err := l.Accept(); err != nil || c.(*conn).client.String() != client.LocalAddr().String() {
		t.Error(err)
	}
	l.closeAll()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) || len(l.conns) != 0 || len(l.from) != 0 {
		t.Error(err, l.conns, l.from)
	}
}

// deadlines is a connection from an address that remembers its deadline for reading, and takes no data.
type deadlines struct {
	net.Conn
	from netip.AddrPort
	read *time.Time
}

func (d deadlines) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(d.from) }
func (d deadlines) SetReadDeadline(at time.Time) error { *d.read = at; return nil }
func (d deadlines) SetWriteDeadline(time.Time) error   { return nil }
func (d deadlines) Write([]byte) (int, error)          { return 0, io.ErrShortWrite }
func (d deadlines) Close() error                       { return nil }
