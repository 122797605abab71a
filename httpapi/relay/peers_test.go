package relay

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// tried are the addresses that TestInternalAddresses tries, with what they are.
var tried = [][2]string{
	{"0.0.0.0", "unspecified"}, {"0.1.2.3", "this network"},
	{"127.0.0.1", "loopback"}, {"127.255.255.254", "loopback"},
	{"10.0.0.1", "private"}, {"172.16.0.1", "private"}, {"172.31.255.254", "private"}, {"192.168.1.1", "private"},
	{"169.254.169.254", "link-local: the metadata service of clouds"},
	{"100.64.0.1", "carrier-grade NAT"}, {"100.127.255.254", "carrier-grade NAT"},
	{"192.0.0.8", "IETF protocol assignments"}, {"192.88.99.1", "6to4 relays"},
	{"192.0.2.1", "documentation"}, {"198.51.100.1", "documentation"}, {"203.0.113.1", "documentation"},
	{"198.18.0.1", "benchmarks"}, {"198.19.255.254", "benchmarks"},
	{"224.0.0.251", "multicast"}, {"239.255.255.250", "multicast"},
	{"240.0.0.1", "reserved"}, {"255.255.255.255", "broadcast"},
	{"8.8.4.4", "an interface of this machine, here by pretence"},
	{"::", "unspecified"}, {"::1", "loopback"},
	{"::ffff:127.0.0.1", "IPv4-mapped loopback"}, {"::ffff:10.0.0.1", "IPv4-mapped private"},
	{"::ffff:169.254.169.254", "IPv4-mapped link-local"}, {"::ffff:198.51.100.77", "IPv4-mapped own address"},
	{"::ffff:8.8.8.8", "IPv4-mapped public"}, {"::ffff:0:127.0.0.1", "IPv4-translated loopback (SIIT)"},
	{"::127.0.0.1", "IPv4-compatible loopback"}, {"::10.0.0.1", "IPv4-compatible private"},
	{"64:ff9b::127.0.0.1", "NAT64 loopback"}, {"64:ff9b::10.0.0.1", "NAT64 private"},
	{"64:ff9b:1::10.0.0.1", "NAT64 private, local prefix"},
	{"2002:7f00:1::1", "6to4 loopback"}, {"2002:a00:1::1", "6to4 private"},
	{"2001:0:a00:1::1", "Teredo"}, {"2001:db8::5efe:10.0.0.1", "ISATAP private"},
	{"100::1", "discard"}, {"2001:2::1", "benchmarks"}, {"2001:10::1", "ORCHID"}, {"2001:db8::1", "documentation"},
	{"3fff::1", "documentation"}, {"5f00::1", "segment routing"},
	{"fc00::1", "unique local"}, {"fd12:3456:789a::1", "unique local"},
	{"fe80::1", "link-local"}, {"fec0::1", "site-local"}, {"ff02::1", "multicast"}, {"ff05::2", "multicast"},
	{"2001:4860:4860::8888", "public IPv6: relayed addresses are IPv4"},
}

// TestInternalAddresses tries each address with each way of reaching a peer. The table that comes of it
// stands in docs/relay.md.
func TestInternalAddresses(t *testing.T) {
	s := start(t, func(c *Config) { c.TotalQuota = 1000 })
	s.peers.ours.Store(&interfaces{addrs: map[netip.Addr]bool{netip.MustParseAddr("8.8.4.4"): true}, at: time.Now().Add(time.Hour)})
	socket, _, err := s.sockets.AllocatePacketConn("", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var table strings.Builder
	fmt.Fprint(&table, "| peer address | what it is | CreatePermission | ChannelBind | Send |\n|---|---|---|---|---|\n")
	for i, row := range tried {
		at := netip.AddrPortFrom(netip.MustParseAddr(row[0]), 5000)
		a := dial(t, s, "udp", fmt.Sprint("user", i))
		a.allocate(0)
		refused, sent := s.refusals(whyPeer), testutil.ToFloat64(s.metrics.toPeers)
		_, permission := a.ask(stun.MethodCreatePermission, peer(at))
		_, bind := a.ask(stun.MethodChannelBind, channelNumber(0x4000), peer(at))
		a.sendIndication(at, "inside?")
		a.send([]byte("\x40\x00\x00\x08inside?!"))
		a.ask(stun.MethodBinding)
		if permission == 0 || bind == 0 || s.refusals(whyPeer) != refused+2 {
			t.Errorf("%s: CreatePermission %d, ChannelBind %d, %v refusals counted", at.Addr(), permission, bind, s.refusals(whyPeer)-refused)
		}
		// Pion has dropped what was sent, since there is no permission. The socket would have, too. (It is
		// bound to loopback: what it let through would not leave this machine.)
		if _, err := socket.WriteTo([]byte("inside?"), net.UDPAddrFromAddrPort(at)); err != nil || s.refusals(whyPeer) != refused+3 {
			t.Errorf("%s: the socket does not refuse: %v", at.Addr(), err)
		}
		passed := testutil.ToFloat64(s.metrics.toPeers) - sent
		if passed != 0 {
			t.Errorf("%s: %v bytes sent", at.Addr(), passed)
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", row[0], row[1], answer(permission), answer(bind),
			map[bool]string{true: "dropped", false: "SENT"}[passed == 0])
		a.free()
	}
	t.Logf("\n%s", table.String())
	doc, err := os.ReadFile("../../docs/relay.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), table.String()) {
		t.Error("docs/relay.md has another table")
	}
}

// answer is an answer for people: pion gives no code with a refused CreatePermission.
func answer(code int) string {
	switch code {
	case 0:
		return "ALLOWED"
	case -1:
		return "error"
	}
	return fmt.Sprintf("error %d", code)
}

// Public addresses are allowed: to ask is enough, nothing is sent there.
func TestPublicAddresses(t *testing.T) {
	s := start(t)
	a := dial(t, s, "udp", "anna")
	a.allocate(0)
	for i, addr := range []string{"8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.0.1.1", "198.20.0.1", "223.255.255.254"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(addr), 5000)
		_, permission := a.ask(stun.MethodCreatePermission, peer(at))
		_, bind := a.ask(stun.MethodChannelBind, channelNumber(uint16(0x4000+i)), peer(at))
		if permission != 0 || bind != 0 {
			t.Errorf("%s: CreatePermission %d, ChannelBind %d", addr, permission, bind)
		}
	}
}

// At the relay's own address only the relayed addresses in use are peers: permissions have no port, so
// the sockets look once more, both ways, whatever the method.
func TestOwnAddress(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	s := start(t, func(c *Config) { c.PublicIP = loopback })
	service, err := net.ListenPacket("udp4", "127.0.0.1:0") // of this machine, and nobody else's business
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	inRange, err := listenIn(s.cfg.Ports) // the same, with a port of the range
	if err != nil {
		t.Fatal(err)
	}
	defer inRange.Close()

	a, b := dial(t, s, "udp", "anna"), dial(t, s, "udp", "bert")
	atA, atB := a.allocate(0), b.allocate(0)
	for i, target := range []netip.AddrPort{addrPortOf(service.LocalAddr()), addrPortOf(inRange.LocalAddr()), s.Addr(), netip.AddrPortFrom(loopback, 0)} {
		refused := s.refusals(whyPeer)
		a.ask(stun.MethodCreatePermission, peer(target))
		a.ask(stun.MethodChannelBind, channelNumber(uint16(0x4000+i)), peer(target))
		a.sendIndication(target, "inside?")
		a.send([]byte{0x40, byte(i), 0, 4, 'a', 'b', 'c', 'd'})
		a.ask(stun.MethodBinding)
		if n := s.refusals(whyPeer) - refused; n != 2 {
			t.Errorf("%s: %v of Send and channel refused", target, n)
		}
	}
	if n := testutil.ToFloat64(s.metrics.toPeers); n != 0 {
		t.Errorf("%v bytes sent", n)
	}

	// Nor does anything come from there, although the address has a permission.
	if _, err := inRange.WriteTo([]byte("outside?"), net.UDPAddrFromAddrPort(atA)); err != nil {
		t.Fatal(err)
	}
	b.ask(stun.MethodCreatePermission, peer(atA))
	b.sendIndication(atA, "from bert")
	data := &stun.Message{Raw: a.receive()}
	if err := data.Decode(); err != nil {
		t.Fatal(err)
	}
	if text, _ := data.Get(stun.AttrData); string(text) != "from bert" {
		t.Errorf("%q came", text)
	}
	var from stun.XORMappedAddress
	if err := from.GetFromAs(data, stun.AttrXORPeerAddress); err != nil || from.Port != int(atB.Port()) {
		t.Errorf("from %v, %v", from, err)
	}
	if got := testutil.ToFloat64(s.metrics.fromPeers); got != float64(len("from bert")) {
		t.Errorf("%v bytes came", got)
	}
	for _, c := range []net.PacketConn{service, inRange} {
		c.SetReadDeadline(time.Unix(1, 0))
		if n, _, err := c.ReadFrom(make([]byte, 100)); err == nil {
			t.Errorf("%d bytes reached %s", n, c.LocalAddr())
		}
	}
}

func listenIn(ports PortRange) (net.PacketConn, error) {
	for port := ports.Min; ; port++ {
		c, err := net.ListenPacket("udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
		if err == nil || port == ports.Max {
			return c, err
		}
	}
}

// What DUET_TURN_ALLOW_PEERS names is let through: data go there and come back.
func TestAllowedPeers(t *testing.T) {
	s := start(t, func(c *Config) { c.AllowPeers = mustPrefixes("127.0.0.0/8") })
	inside, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	inside.SetReadDeadline(time.Now().Add(patience))
	a := dial(t, s, "udp", "anna")
	a.allocate(0)
	target := addrPortOf(inside.LocalAddr())
	if _, code := a.ask(stun.MethodCreatePermission, peer(target)); code != 0 {
		t.Fatal(code)
	}
	a.sendIndication(target, "inside")
	buf := make([]byte, 100)
	n, from, err := inside.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "inside" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if _, err := inside.WriteTo([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	m := &stun.Message{Raw: a.receive()}
	if text, _ := m.Get(stun.AttrData); m.Decode() != nil {
		t.Error(text)
	}
	if _, code := a.ask(stun.MethodCreatePermission, peer(netip.MustParseAddrPort("10.0.0.1:9"))); code == 0 {
		t.Error("another internal address is let through, too")
	}
}

// FuzzFrames: what sane lets through has whole attributes, and a framed connection gives whole messages.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x01\x00\x00\x21\x12\xa4\x420123456789ab"))
	f.Add([]byte("\x00\x16\x00\x08\x21\x12\xa4\x420123456789ab\x00\x13\x00\x00\x00\x12\x00\x00"))
	f.Add([]byte("\x40\x00\x00\x05abcde\x00\x00\x00"))
	f.Add([]byte("\x40\x00\xff\xfcabcde"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if sane(b) && b[0]&0xC0 == 0 {
			m := &stun.Message{Raw: append([]byte(nil), b...)}
			if m.Decode() == nil {
				var at stun.XORMappedAddress
				_ = at.GetFromAs(m, stun.AttrXORPeerAddress) // must not panic
			}
		}
		in, out := net.Pipe()
		go func() {
			out.Write(b)
			out.Close()
		}()
		c := newFramed(in, func(string) {}, func(netip.AddrPort) {})
		for buf := make([]byte, maxFrame+1); ; {
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			if n < channel || n > maxFrame || !sane(buf[:n]) {
				t.Fatalf("%d bytes: %x", n, buf[:n])
			}
		}
		in.Close()
	})
}
