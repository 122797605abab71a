package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"duet/httpapi/relay"
	"duet/signaling"
)

// The relay's settings, the relay itself, and the credentials for it or for one of somebody else.

const (
	leastRelayPorts  = 16   // one a relayed address; a call of two browsers takes some
	leastTurnSecret  = 24   // bytes: who has credentials can try secrets at home
	autoAllocations  = 4000 // auto goes no higher, however many ports and descriptors there are
	relayDescriptors = 80   // beside those of allocations: listeners, TCP connections that have none
)

// A portRange is min-max.
type portRange relay.PortRange

func (r *portRange) UnmarshalText(text []byte) error {
	low, high, found := strings.Cut(string(text), "-")
	from, err1 := strconv.ParseUint(low, 10, 16)
	to, err2 := strconv.ParseUint(high, 10, 16)
	if err := errors.Join(err1, err2); !found || err != nil || from < 1024 || from > to {
		return errors.New("must be ports from 1024 to 65535, such as 49152-65535")
	}
	*r = portRange{Min: uint16(from), Max: uint16(to)}
	if n := relay.PortRange(*r).Size(); n < leastRelayPorts {
		return fmt.Errorf("has %d ports, one for each relayed address: at least %d are needed", n, leastRelayPorts)
	}
	return nil
}

func (r portRange) String() string { return relay.PortRange(r).String() }

// A publicIP is an IPv4 address, the zero value where the variable says auto.
type publicIP netip.Addr

func (p *publicIP) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		return nil
	}
	addr, err := netip.ParseAddr(string(text))
	if err != nil || !addr.Is4() || addr.IsUnspecified() || addr.IsMulticast() {
		return errors.New("must be auto, or the IPv4 address at which clients reach the relay, such as 203.0.113.7")
	}
	*p = publicIP(addr)
	return nil
}

func (p publicIP) String() string {
	if addr := netip.Addr(p); addr.IsValid() {
		return addr.String()
	}
	return "auto"
}

// turnURLs are what browsers are told.
type turnURLs []string

func (u *turnURLs) UnmarshalText(text []byte) (err error) {
	*u, err = parseList(text, func(s string) (string, error) {
		_, err := checkICEURL(s)
		return s, err
	})
	return describe(err, "must be URLs such as turn:turn.example.org:3478 or turns:turn.example.org:5349?transport=tcp, separated by commas")
}

func (u turnURLs) String() string { return strings.Join(u, ",") }

// A turnSecret is shared with an external relay, or kept so that credentials outlive a restart.
type turnSecret string

func (s *turnSecret) UnmarshalText(text []byte) error {
	if len(text) < leastTurnSecret {
		return fmt.Errorf("is too short: at least %d bytes, such as openssl rand -base64 32 makes", leastTurnSecret)
	}
	*s = turnSecret(text)
	return nil
}

func (s turnSecret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// A turnRealm is the realm of the relay's credentials.
type turnRealm string

func (r *turnRealm) UnmarshalText(text []byte) error {
	if len(text) > 127 || strings.ContainsFunc(string(text), func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == ':' }) {
		return errors.New("must be a name such as example.org: at most 127 printable ASCII characters without spaces, colons and quotes")
	}
	*r = turnRealm(text)
	return nil
}

// peerPrefixes are IPv4 CIDRs.
type peerPrefixes []netip.Prefix

func (p *peerPrefixes) UnmarshalText(text []byte) (err error) {
	*p, err = parseList(text, func(s string) (netip.Prefix, error) {
		prefix, err := parsePrefix(s)
		if err == nil && !prefix.Addr().Is4() {
			err = errors.New("it is not IPv4, and the relay sends to nothing else")
		}
		return prefix, err
	})
	return describe(err, "must be IPv4 CIDRs or addresses such as 192.168.1.0/24, separated by commas")
}

func (p peerPrefixes) String() string { return prefixes(p).String() }

// settleRelay gives DUET_TURN_TOTAL_QUOTA its value and checks what the settings of the relay say together.
func (c *config) settleRelay(descriptors int) error {
	ports := relay.PortRange(c.TurnPorts)
	if c.TurnTotalQuota == 0 {
		c.TurnTotalQuota = autoInt(max(1, min(ports.Size(), autoAllocations, (descriptors-ownDescriptors-adminConnections-relayDescriptors)/8)))
	}
	if c.TurnAddr == "" {
		switch {
		case c.TurnTLSAddr != "":
			return fmt.Errorf("DUET_TURN_TLS_ADDR=%q: needs DUET_TURN_ADDR, the relay's address for UDP and TCP", c.TurnTLSAddr)
		case c.TurnURLs != nil && c.TurnSecret == "":
			return fmt.Errorf("DUET_TURN_URLS=%q: needs DUET_TURN_SECRET, which that server has as static-auth-secret; credentials that do not change belong into DUET_ICE_SERVERS", c.TurnURLs)
		case c.TurnURLs == nil && c.TurnSecret != "":
			return errors.New("DUET_TURN_SECRET: does nothing without DUET_TURN_ADDR (a relay of its own) or DUET_TURN_URLS (another's)")
		}
		return nil
	}
	for _, a := range []struct {
		name string
		addr listenAddr
	}{{"DUET_TURN_ADDR", c.TurnAddr}, {"DUET_TURN_TLS_ADDR", c.TurnTLSAddr}} {
		_, text, _ := net.SplitHostPort(string(a.addr))
		if port, _ := strconv.Atoi(text); port != 0 && ports.Contains(uint16(port)) {
			return fmt.Errorf("DUET_TURN_PORTS=%q: holds the port of %s=%s: keep them apart", ports, a.name, a.addr)
		}
	}
	if int(c.TurnTotalQuota) > ports.Size() {
		return fmt.Errorf("DUET_TURN_PORTS=%q: has %d ports, and DUET_TURN_TOTAL_QUOTA=%d allocations take one each: widen it, or lower the quota", ports, ports.Size(), c.TurnTotalQuota)
	}
	return nil
}

// relayDescriptors is how many files the relay may have open: for an allocation its socket, and the TCP
// connection by which it may have come.
func (c *config) relayDescriptors() int {
	if c.TurnAddr == "" {
		return 0
	}
	return 2*int(c.TurnTotalQuota) + relayDescriptors
}

// turnService makes the credentials of the relay, which is its own, or somebody else's.
type turnService struct {
	own    *relay.Server // nil: somebody else's
	config *config
	secret []byte
	public netip.Addr   // the own one's
	certs  certificates // the own one's; nil = it does not speak TLS
}

// startRelay opens the relay that cfg asks for; nil where it asks for none. certs may be nil where
// there is no TLS.
func startRelay(ctx context.Context, cfg *config, certs certificates, log *slog.Logger, reg prometheus.Registerer) (*turnService, error) {
	if cfg.TurnAddr == "" && cfg.TurnURLs == nil {
		return nil, nil
	}
	t := &turnService{config: cfg, secret: []byte(cfg.TurnSecret), certs: certs}
	if cfg.TurnAddr == "" {
		return t, nil
	}
	if cfg.TurnTLSAddr != "" && certs == nil {
		return nil, fmt.Errorf("DUET_TURN_TLS_ADDR=%s: needs a certificate, as https does", cfg.TurnTLSAddr)
	}
	if len(t.secret) == 0 {
		t.secret = make([]byte, 32)
		_, _ = rand.Read(t.secret) // never fails
	}
	var err error
	if t.public, err = cfg.publicIP(ctx); err != nil {
		return nil, err
	}
	var certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	if certs != nil {
		certificate = certs.GetCertificate
	}
	t.own, err = relay.Listen(ctx, relay.Config{
		Addr: string(cfg.TurnAddr), TLSAddr: string(cfg.TurnTLSAddr), GetCertificate: certificate,
		PublicIP: t.public, Ports: relay.PortRange(cfg.TurnPorts), Realm: string(cfg.TurnRealm), Secret: t.secret,
		UserQuota: cfg.TurnUserQuota, TotalQuota: int(cfg.TurnTotalQuota), Lifetime: cfg.TurnTTL, AllowPeers: cfg.TurnAllowPeers,
	}, log, reg)
	if err != nil {
		if errors.Is(err, relay.ErrTLSAddr) {
			return nil, listenFault("DUET_TURN_TLS_ADDR", string(cfg.TurnTLSAddr), err)
		}
		return nil, listenFault("DUET_TURN_ADDR", string(cfg.TurnAddr), err)
	}
	if t.public.IsPrivate() || t.public.IsLoopback() || t.public.IsLinkLocalUnicast() {
		log.Warn("the relay's address is not public: only clients in the same network reach it", "DUET_TURN_PUBLIC_IP", t.public.String())
	}
	for _, prefix := range cfg.TurnAllowPeers {
		log.Warn("the relay lets its clients reach internal addresses", "DUET_TURN_ALLOW_PEERS", prefix.String())
	}
	return t, nil
}

// publicIP is the IPv4 address that clients are told: the one set, else the one listened on, else the one
// from which this machine would go to the internet (nothing is sent to find out).
func (c *config) publicIP(ctx context.Context) (netip.Addr, error) {
	if addr := netip.Addr(c.TurnPublicIP); addr.IsValid() {
		return addr, nil
	}
	host, _, _ := net.SplitHostPort(string(c.TurnAddr))
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() && !addr.IsUnspecified() {
		return addr, nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp4", "192.0.2.1:9")
	if err != nil {
		return netip.Addr{}, errors.New("DUET_TURN_PUBLIC_IP=auto: this machine has no way to the internet by IPv4: set the address at which clients reach the relay")
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// urls are what clients are told: the settings' URLs, else those of the relay as it is now.
func (t *turnService) urls() iceURLs {
	if t.config.TurnURLs != nil {
		return iceURLs(t.config.TurnURLs)
	}
	at := netip.AddrPortFrom(t.public, t.own.Addr().Port()).String()
	urls := iceURLs{"stun:" + at, "turn:" + at + "?transport=udp", "turn:" + at + "?transport=tcp"}
	if host := t.tlsHost(time.Now()); host != "" {
		urls = append(urls, "turns:"+host+"?transport=tcp")
	}
	return urls
}

// tlsHost is the host:port at which browsers can use the relay over TLS now: they take a certificate only
// if it has not run out and names the host. "" = nowhere.
func (t *turnService) tlsHost(now time.Time) string {
	if t.certs == nil {
		return ""
	}
	at := t.own.TLSAddr()
	if !at.IsValid() {
		if _, made := t.certs.(*selfSigned); made {
			return "" // refused by every browser in which it is not installed: who did that asks for TLS
		}
		at = t.own.Addr()
	}
	leaf := t.certs.InUse()
	if leaf == nil || now.After(leaf.NotAfter) {
		return ""
	}
	host := t.public.String()
	if leaf.VerifyHostname(host) != nil {
		if host = firstName(leaf.DNSNames); host == "" {
			return ""
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(int(at.Port())))
}

// policy has p tell clients of the relay.
func (t *turnService) policy(p *signaling.Policy) {
	if t != nil {
		p.ICEServers = t.iceServers
	}
}

// iceServers is signaling.Policy.ICEServers: what the settings name, and in the end the relay.
func (t *turnService) iceServers(peer signaling.PeerID) (servers []byte, lifetime time.Duration) {
	lifetime = t.config.TurnTTL
	username, password := relay.Mint(t.secret, string(peer), time.Now().Add(lifetime))
	all := append(slices.Clone(t.config.ICEServers), iceServer{URLs: t.urls(), Username: username, Credential: password})
	return all.with(t.config.STUN), lifetime
}

// String says for people where the relay is; "" where there is none, or not here.
func (t *turnService) String() string {
	if t == nil || t.own == nil {
		return ""
	}
	return fmt.Sprintf("%s, relayed addresses on ports %s", strings.Join(t.urls(), " "), t.config.TurnPorts)
}

// Close ends the relay, if it is an own one.
func (t *turnService) Close() {
	if t != nil && t.own != nil {
		t.own.Close()
	}
}
