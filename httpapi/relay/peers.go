package relay

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// internal are the IPv4 addresses that no peer on the internet has: all of IANA's special-purpose
// registry that is not global unicast, and multicast.
var internal = mustPrefixes(
	"0.0.0.0/8",       // this network, unspecified
	"10.0.0.0/8",      // private
	"100.64.0.0/10",   // carrier-grade NAT
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local, and the metadata services of clouds
	"172.16.0.0/12",   // private
	"192.0.0.0/24",    // IETF protocol assignments
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relays
	"192.168.0.0/16",  // private
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, broadcast
)

func mustPrefixes(list ...string) []netip.Prefix {
	prefixes := make([]netip.Prefix, len(list))
	for i, s := range list {
		prefixes[i] = netip.MustParsePrefix(s)
	}
	return prefixes
}

// isInternal reports whether addr is one that a peer on the internet cannot have.
func isInternal(addr netip.Addr) bool {
	return slices.ContainsFunc(internal, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// peers decides which addresses may be peers. Relayed addresses are IPv4, so no IPv6 address is one:
// neither a real one nor any notation of an IPv4 address in it (mapped, compatible, translated, 6to4,
// Teredo, ISATAP). Safe for concurrent use.
type peers struct {
	public netip.Addr     // the relayed addresses' own
	allow  []netip.Prefix // let through although internal

	ours atomic.Pointer[interfaces]
}

// interfaces are the addresses of this machine as they were at a time.
type interfaces struct {
	addrs map[netip.Addr]bool
	at    time.Time
}

// interfacesFor is how long the addresses of the interfaces are taken as unchanged.
const interfacesFor = 10 * time.Second

// permit says whether addr may be a peer at all; about ports decides sockets.pass.
func (p *peers) permit(addr netip.Addr) bool {
	return addr.Is4() && (addr == p.public || p.allowed(addr) || !isInternal(addr) && !p.isOurs(addr))
}

func (p *peers) allowed(addr netip.Addr) bool {
	return slices.ContainsFunc(p.allow, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
}

// isOurs reports whether an interface of this machine has addr. Where the interfaces cannot be read,
// what was known stays.
func (p *peers) isOurs(addr netip.Addr) bool {
	known := p.ours.Load()
	if now := time.Now(); known == nil || now.Sub(known.at) > interfacesFor {
		fresh := &interfaces{addrs: make(map[netip.Addr]bool), at: now}
		list, err := net.InterfaceAddrs()
		if err != nil && known != nil {
			fresh.addrs = known.addrs
		}
		for _, a := range list {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				fresh.addrs[prefix.Addr().Unmap()] = true
			}
		}
		p.ours.Store(fresh)
		known = fresh
	}
	return known.addrs[addr]
}

// A PortRange holds the ports from Min to Max, both included.
type PortRange struct{ Min, Max uint16 }

// Contains reports whether port is one of r.
func (r PortRange) Contains(port uint16) bool { return r.Min <= port && port <= r.Max }

// Size is the number of ports in r.
func (r PortRange) Size() int { return int(r.Max) - int(r.Min) + 1 }

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.Min, r.Max) }
