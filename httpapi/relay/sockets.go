package relay

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
)

// sockets opens the sockets behind relayed addresses. It is pion's RelayAddressGenerator. Safe for
// concurrent use.
type sockets struct {
	// Static after construction.
	bind    netip.Addr // the local IPv4 address of the sockets; unspecified: all
	ports   PortRange
	peers   *peers
	most    int // at once
	metrics *metrics

	mu   sync.Mutex
	open map[uint16]*socket // by port
}

// Errors of AllocatePacketConn, which its client sees as 508 (Insufficient Capacity).
var (
	errTotalQuota = errors.New("all allocations are taken")
	errNoPort     = errors.New("no port is free")
	errTCP        = errors.New("TCP allocations (RFC 6062) are not offered")
)

// Validate implements turn.RelayAddressGenerator.
func (s *sockets) Validate() error { return nil }

// AllocateConn implements turn.RelayAddressGenerator: nobody gets a TCP connection to a peer.
func (s *sockets) AllocateConn(string, int) (net.Conn, net.Addr, error) {
	s.metrics.refuse(whyRequested)
	return nil, nil, errTCP
}

// mostTaken is how many ports that belong to somebody else are tried for one allocation.
const mostTaken = 64

// AllocatePacketConn implements turn.RelayAddressGenerator. Ports are tried from a random one on, since
// a port that is hard to guess is hard to spoof (RFC 8656, section 7.2). The one asked for means
// nothing: pion asks only where a client wants an even port, and clients' wishes of that kind do not reach it.
func (s *sockets) AllocatePacketConn(string, int) (net.PacketConn, net.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= s.most {
		s.metrics.refuse(whyTotalQuota)
		return nil, nil, errTotalQuota
	}
	size := s.ports.Size()
	offset := rand.IntN(size)
	for i, taken := 0, 0; i < size && taken < mostTaken; i++ {
		port := uint16(int(s.ports.Min) + (offset+i)%size)
		if s.open[port] != nil {
			continue
		}
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.bind, port)))
		if err != nil {
			taken++ // somebody else has it
			continue
		}
		relayed := &socket{UDPConn: udp, sockets: s, port: port}
		s.open[relayed.port] = relayed
		return relayed, net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.peers.public, relayed.port)), nil
	}
	s.metrics.refuse(whyNoPort)
	return nil, nil, errNoPort
}

// pass says whether a datagram may go to, or come from, at. At our own address only the relayed addresses
// that are in use are peers: there the clients of one relay meet.
func (s *sockets) pass(at netip.AddrPort) bool {
	if at.Addr() == s.peers.public && !s.peers.allowed(at.Addr()) {
		return s.isOpen(at.Port())
	}
	return at.Port() != 0 && s.peers.permit(at.Addr())
}

// isOpen reports whether port is that of a relayed address now.
func (s *sockets) isOpen(port uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[port] != nil
}

// here is where this machine reaches the socket with port, whatever stands between it and its public
// address: a NAT rarely lets a packet turn round.
func (s *sockets) here(port uint16) netip.AddrPort {
	addr := s.bind
	if addr.IsUnspecified() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(addr, port)
}

// A socket is the UDP socket of one relayed address. Whatever way a datagram takes through pion (Send
// indication or channel), it leaves here, where address and port are checked once more; and what no
// datagram may be sent to, none is taken from.
type socket struct {
	*net.UDPConn
	sockets *sockets
	port    uint16
	once    sync.Once
}

// WriteTo implements net.PacketConn. A datagram that may not go there is counted and dropped, as is
// one that the network does not take: what UDP promises.
func (s *socket) WriteTo(b []byte, to net.Addr) (int, error) {
	at := to.(*net.UDPAddr).AddrPort() // 16 bytes stay IPv6, whatever they hold
	if !s.sockets.pass(at) {
		s.sockets.metrics.refuse(whyPeer)
		return len(b), nil
	}
	if at.Addr() == s.sockets.peers.public && s.sockets.isOpen(at.Port()) {
		at = s.sockets.here(at.Port())
	}
	if _, err := s.UDPConn.WriteToUDPAddrPort(b, at); err == nil {
		s.sockets.metrics.toPeers.Add(float64(len(b)))
	} else if errors.Is(err, net.ErrClosed) {
		return 0, err
	}
	return len(b), nil
}

// ReadFrom implements net.PacketConn.
func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := s.UDPConn.ReadFromUDPAddrPort(b)
		if err != nil {
			return 0, nil, err
		}
		if from == s.sockets.here(from.Port()) && s.sockets.isOpen(from.Port()) {
			from = netip.AddrPortFrom(s.sockets.peers.public, from.Port()) // another client of this relay
		}
		if !s.sockets.pass(from) {
			s.sockets.metrics.refuse(whyPeer)
			continue
		}
		s.sockets.metrics.fromPeers.Add(float64(n))
		return n, net.UDPAddrFromAddrPort(from), nil
	}
}

// Close implements net.PacketConn. Further calls do nothing. It never fails: pion would leave the
// allocations that come next open.
func (s *socket) Close() error {
	s.once.Do(func() {
		s.sockets.mu.Lock()
		defer s.sockets.mu.Unlock()
		delete(s.sockets.open, s.port)
		s.UDPConn.Close()
	})
	return nil
}
