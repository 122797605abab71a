// Package relay is a TURN relay (RFC 8656) that also answers STUN (RFC 8489), on pion/turn: for peers
// that find no direct way to each other. It listens by UDP, TCP and TLS, gives relayed addresses by
// UDP over IPv4, and reaches nothing that is not on the public internet, except its own clients.
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// A Config says where a Server listens and what it allows.
type Config struct {
	Addr    string // host:port for UDP and TCP, and for TLS where there are certificates
	TLSAddr string // host:port for TLS alone; "" = none
	// GetCertificate finds the certificate for a TLS handshake; nil = no TLS.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	PublicIP netip.Addr // IPv4: what clients are told as their relayed address
	Ports    PortRange  // of relayed addresses
	Realm    string
	Secret   []byte // of Mint

	UserQuota  int            // allocations of one user at once
	TotalQuota int            // allocations at once
	Lifetime   time.Duration  // of credentials: an allocation outlives its own by this much at most
	AllowPeers []netip.Prefix // IPv4: let through although internal
}

// Bounds that nobody needs to set.
const (
	maxPermissions     = 64  // peers of one allocation; a browser asks for each candidate of the other side
	freeConnections    = 64  // TCP connections beside those that have an allocation
	connectionsPerAddr = 128 // TCP connections from one address (IPv6: /64): a household, an office behind one NAT
)

// A Server is the relay.
type Server struct {
	// Static after construction.
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	peers   *peers
	sockets *sockets
	doors   []*door
	addr    net.Addr
	tlsAddr net.Addr // nil = none

	mu     sync.Mutex
	users  map[string]int // allocations
	nobody *sync.Cond     // users is empty
}

// ErrTLSAddr is the error of Listen where TLSAddr is to blame, not Addr.
var ErrTLSAddr = errors.New("TLS")

// Listen opens the relay. It answers from now on, until Close. An error wraps what net says.
func Listen(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (_ *Server, err error) {
	if !cfg.PublicIP.Is4() {
		return nil, errors.New("relayed addresses are IPv4")
	}
	if cfg.TLSAddr != "" && cfg.GetCertificate == nil {
		return nil, fmt.Errorf("%w: there are no certificates", ErrTLSAddr)
	}
	s := &Server{cfg: cfg, log: log.With("component", "relay"), metrics: newMetrics(reg), users: make(map[string]int)}
	s.nobody = sync.NewCond(&s.mu)
	s.peers = &peers{public: cfg.PublicIP, allow: cfg.AllowPeers}
	udp, tcp, err := listenBoth(ctx, cfg.Addr)
	if err != nil {
		return nil, err
	}
	s.addr = tcp.Addr()
	s.sockets = &sockets{bind: bindAddr(tcp.Addr()), ports: cfg.Ports, peers: s.peers, most: cfg.TotalQuota, metrics: s.metrics,
		open: make(map[uint16]*socket)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	var secure *tls.Config
	if cfg.GetCertificate != nil {
		secure = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cfg.GetCertificate}
	}
	err = errors.Join(s.serveUDP(udp), s.serveTCP(tcp, secure, false))
	if err != nil || cfg.TLSAddr == "" {
		return s, err
	}
	alone, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.TLSAddr)
	if err != nil {
		return s, fmt.Errorf("%w: %w", ErrTLSAddr, err)
	}
	s.tlsAddr = alone.Addr()
	return s, s.serveTCP(alone, secure, true)
}

// listenBoth opens addr by TCP and by UDP. With port 0 both get the same free one.
func listenBoth(ctx context.Context, addr string) (*net.UDPConn, net.Listener, error) {
	const tries = 16 // a port that is free by TCP may be taken by UDP
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, err
	}
	for i := 1; ; i++ {
		tcp, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		at := net.JoinHostPort(host, fmt.Sprint(tcp.Addr().(*net.TCPAddr).Port))
		udp, err := new(net.ListenConfig).ListenPacket(ctx, "udp", at)
		if err == nil {
			return udp.(*net.UDPConn), tcp, nil
		}
		tcp.Close()
		if port != "0" || i == tries {
			return nil, nil, err
		}
	}
}

// bindAddr is the IPv4 address for the sockets of relayed addresses: the one listened on, else all.
func bindAddr(listening net.Addr) netip.Addr {
	if addr := addrPortOf(listening).Addr(); addr.Is4() {
		return addr
	}
	return netip.IPv4Unspecified()
}

// Addr is where the relay listens by UDP and TCP.
func (s *Server) Addr() netip.AddrPort { return addrPortOf(s.addr) }

// TLSAddr is where it listens by TLS alone, the zero value where it does not.
func (s *Server) TLSAddr() netip.AddrPort { return addrPortOf(s.tlsAddr) }

// Close ends the relay, and returns when all its allocations are gone. Further calls do nothing.
func (s *Server) Close() {
	for _, d := range s.doors {
		_ = d.turn.Close() // says only that it was closed
		if d.listener != nil {
			d.listener.closeAll()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.users) > 0 {
		s.nobody.Wait()
	}
}

func (s *Server) serveUDP(conn *net.UDPConn) error {
	d := s.newDoor(nil)
	cfg := d.config()
	cfg.PacketConnConfigs = []turn.PacketConnConfig{{
		PacketConn:            &packetConn{UDPConn: conn, refused: s.metrics.refuse, handled: d.handled},
		RelayAddressGenerator: s.sockets,
		PermissionHandler:     d.permit,
	}}
	return s.open(d, cfg, conn)
}

// serveTCP serves plain TCP and, with secure, TLS: with tlsOnly nothing else.
func (s *Server) serveTCP(l net.Listener, secure *tls.Config, tlsOnly bool) error {
	bounded := newListener(l, s.cfg.TotalQuota+freeConnections, connectionsPerAddr, s.metrics.refuse)
	d := s.newDoor(bounded)
	l = bounded
	if secure != nil {
		l = tlsListener{Listener: bounded, config: secure, only: tlsOnly, refused: s.metrics.refuse}
	}
	cfg := d.config()
	cfg.ListenerConfigs = []turn.ListenerConfig{{
		Listener:              framedListener{Listener: l, refused: s.metrics.refuse, handled: d.handled},
		RelayAddressGenerator: s.sockets,
		PermissionHandler:     d.permit,
	}}
	return s.open(d, cfg, bounded)
}

func (s *Server) open(d *door, cfg turn.ServerConfig, socket interface{ Close() error }) (err error) {
	if d.turn, err = turn.NewServer(cfg); err != nil {
		socket.Close()
		return err
	}
	s.doors = append(s.doors, d)
	return nil
}

// A door is one way in: UDP, TCP (with TLS), or TLS alone. Within it an address and port are one client.
type door struct {
	// Static after construction.
	relay    *Server
	turn     *turn.Server
	listener *listener // nil: UDP

	adding atomic.Int32 // clients with a new permission

	mu      sync.Mutex
	added   *sync.Cond // a client's permission is complete
	clients map[netip.AddrPort]*client
}

func (s *Server) newDoor(l *listener) *door {
	d := &door{relay: s, listener: l, clients: make(map[netip.AddrPort]*client)}
	d.added = sync.NewCond(&d.mu)
	return d
}

// A client is one that has an allocation. The door's mutex guards it.
type client struct {
	username string
	peers    map[netip.Addr]bool // that it has permissions for
	adding   netip.Addr          // for this one pion is making it; the zero value: none
	channels int
}

func (d *door) config() turn.ServerConfig {
	return turn.ServerConfig{
		Realm:         d.relay.cfg.Realm,
		AuthHandler:   d.authenticate,
		QuotaHandler:  d.underQuota,
		LoggerFactory: quiet(d.relay.log),
		EventHandler: turn.EventHandler{
			OnAuth:              d.authenticated,
			OnAllocationCreated: d.allocated,
			OnAllocationDeleted: d.freed,
			OnPermissionCreated: d.permitted,
			OnPermissionDeleted: d.forgotten,
			OnChannelCreated: func(src, _ net.Addr, _, _, _ string, _, _ net.Addr, _ uint16) {
				d.change(src, func(c *client) { c.channels++ })
			},
			OnChannelDeleted: func(src, _ net.Addr, _, _, _ string, _, _ net.Addr, _ uint16) {
				d.change(src, func(c *client) { c.channels-- })
			},
		},
	}
}

// authenticate returns the key by which pion checks a request's integrity, in constant time (RFC 8489,
// section 9.2.4): the password itself never travels. Credentials that have run out get no allocation;
// one that is there goes on with them, so that a call does not break, for as long again as they held.
func (d *door) authenticate(username, realm string, src net.Addr) (key []byte, ok bool) {
	expiry, _, err := parseUsername(username)
	if err != nil || realm != d.relay.cfg.Realm {
		d.relay.metrics.refuse(whyCredentials)
		return nil, false
	}
	if over := time.Since(expiry); over > 0 && !(d.holds(src, username) && over < d.relay.cfg.Lifetime) {
		d.relay.metrics.refuse(whyExpired)
		return nil, false
	}
	return turn.GenerateAuthKey(username, realm, sign(d.relay.cfg.Secret, username)), true
}

func (d *door) authenticated(_, _ net.Addr, _, _, _, _ string, verdict bool) {
	if !verdict {
		d.relay.metrics.refuse(whyCredentials)
	}
}

func (d *door) holds(src net.Addr, username string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.clients[addrPortOf(src)]
	return c != nil && c.username == username
}

// underQuota says whether a user may have one more allocation. Requests that arrive by two connections in
// the same instant may both pass; the quota of all is exact.
func (d *door) underQuota(username, _ string, _ net.Addr) bool {
	_, user, _ := parseUsername(username)
	d.relay.mu.Lock()
	defer d.relay.mu.Unlock()
	if d.relay.users[user] >= d.relay.cfg.UserQuota {
		d.relay.metrics.refuse(whyUserQuota)
		return false
	}
	return true
}

func (d *door) allocated(src, _ net.Addr, _, username, _ string, _ net.Addr, _ int) {
	_, user, _ := parseUsername(username)
	d.relay.mu.Lock()
	d.relay.users[user]++
	d.relay.mu.Unlock()
	d.relay.metrics.allocations.Inc()
	client := &client{username: username, peers: make(map[netip.Addr]bool)}
	d.mu.Lock()
	d.clients[addrPortOf(src)] = client
	d.mu.Unlock()
	if d.listener != nil {
		d.listener.inUse(addrPortOf(src), true)
	}
}

func (d *door) freed(src, _ net.Addr, _, username, _ string) {
	d.mu.Lock()
	if c := d.clients[addrPortOf(src)]; c != nil {
		d.complete(c)
	}
	delete(d.clients, addrPortOf(src))
	d.mu.Unlock()
	if d.listener != nil {
		d.listener.inUse(addrPortOf(src), false)
	}
	d.relay.metrics.allocations.Dec()
	_, user, _ := parseUsername(username)
	d.relay.mu.Lock()
	defer d.relay.mu.Unlock()
	if d.relay.users[user]--; d.relay.users[user] == 0 {
		delete(d.relay.users, user)
	}
	if len(d.relay.users) == 0 {
		d.relay.nobody.Broadcast()
	}
}

// permit decides about CreatePermission and ChannelBind. It is asked again when one is refreshed.
func (d *door) permit(src net.Addr, ip net.IP) bool {
	peer, _ := netip.AddrFromSlice(ip) // 16 bytes are an IPv6 address, whatever they hold
	if !d.relay.peers.permit(peer) {
		d.relay.metrics.refuse(whyPeer)
		d.relay.log.Debug("peer refused", "client", src.String(), "peer", peer.String())
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.clients[addrPortOf(src)]
	if c == nil || c.channels >= maxPermissions || len(c.peers) >= maxPermissions && !c.peers[peer] {
		d.relay.metrics.refuse(whyPermissions)
		return false
	}
	d.complete(c)
	if !c.peers[peer] {
		c.adding = peer
		d.adding.Add(1)
	}
	return true
}

// Pion v4.1.4 has a permission in its map before it has started the permission's timer: an allocation that
// runs out in that moment stops a timer that is not there, which ends the process. So that end waits
// (in forgotten) until the client's request has been handled, which is when its next one is read.

// handled says that all that src has sent so far is done with.
func (d *door) handled(src netip.AddrPort) {
	if d.adding.Load() == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.clients[src]; c != nil {
		d.complete(c)
	}
}

// complete says that c's permission has its timer. The mutex is held.
func (d *door) complete(c *client) {
	if c.adding.IsValid() {
		c.adding = netip.Addr{}
		d.adding.Add(-1)
		d.added.Broadcast()
	}
}

func (d *door) permitted(src, _ net.Addr, _, _, _ string, _ net.Addr, ip net.IP) {
	peer, _ := netip.AddrFromSlice(ip)
	d.change(src, func(c *client) { c.peers[peer] = true })
}

func (d *door) forgotten(src, _ net.Addr, _, _, _ string, _ net.Addr, ip net.IP) {
	peer, _ := netip.AddrFromSlice(ip)
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := d.clients[addrPortOf(src)]; c != nil; c = d.clients[addrPortOf(src)] {
		if c.adding != peer {
			delete(c.peers, peer)
			return
		}
		d.added.Wait()
	}
}

func (d *door) change(src net.Addr, do func(*client)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.clients[addrPortOf(src)]; c != nil {
		do(c)
	}
}

// quiet gives pion's own words, which hold addresses and user names, to the log at debug level.
func quiet(log *slog.Logger) logging.LoggerFactory {
	level := logging.LogLevelDisabled
	if log.Enabled(context.Background(), slog.LevelDebug) {
		level = logging.LogLevelInfo
	}
	return &logging.DefaultLoggerFactory{
		Writer:          slog.NewLogLogger(log.Handler(), slog.LevelDebug).Writer(),
		DefaultLogLevel: level,
		ScopeLevels:     map[string]logging.LogLevel{},
	}
}
