package httpapi

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// leastConns is the ConnLimit of the public listener where Config.MaxConnectionsPerIP is lower: a browser
// opens six connections at once to load the page, and a household has several browsers.
const leastConns = 32

// A ConnLimit bounds how many connections of one address (IPv6: /64) a server holds beside WebSockets:
// silent ones that have sent no request yet, idle ones between two requests (keep-alive), and those with
// a request under way. One more costs the address the one that is idle longest, as HTTP clients have to
// expect (RFC 9112, section 9.5), else the one silent longest. Where requests are under way on all
// others, that is the new one itself. Proxies that are trusted bring many clients, and are not counted.
//
// Make one for each server with NewConnLimit, and set its Watch as ConnState. Safe for concurrent use.
type ConnLimit struct {
	// Static after construction.
	most    int
	proxies []netip.Prefix
	cut     prometheus.Counter

	mu        sync.Mutex // held for memory access, or a close that does not wait
	conns     map[net.Conn]*counted
	addresses map[netip.Addr]*visitor
}

// A visitor is one address with its connections. The ConnLimit's mutex guards it.
type visitor struct {
	key          netip.Addr
	open         int
	idle, silent list.List // of *counted, longest first
}

// A counted is one connection that is no WebSocket.
type counted struct {
	conn  net.Conn
	by    *visitor
	queue *list.List    // idle or silent of by; nil while a request is under way
	place *list.Element // in queue
}

// NewConnLimit makes the limit of the listener named, at most connections for each address that is none of
// proxies. Its counter is registered with reg.
func NewConnLimit(listener string, most int, proxies []netip.Prefix, reg prometheus.Registerer) *ConnLimit {
	l := &ConnLimit{most: most, proxies: proxies,
		conns: map[net.Conn]*counted{}, addresses: map[netip.Addr]*visitor{},
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name:        "duet_http_connections_cut_total",
			Help:        "Connections without a request closed because their address had too many, by listener.",
			ConstLabels: prometheus.Labels{"listener": listener},
		})}
	reg.MustRegister(l.cut)
	return l
}

// Watch is an http.Server's ConnState. It never waits for a peer.
func (l *ConnLimit) Watch(c net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.conns[c]
	switch {
	case state == http.StateNew:
		l.opened(c)
	case k == nil: // a trusted proxy's, or cut
	case state == http.StateActive:
		k.leaveQueue()
	case state == http.StateIdle:
		k.enter(&k.by.idle)
	default: // hijacked or closed
		l.forget(k)
	}
}

// opened counts c, unless it is a trusted proxy's, and makes room for it.
func (l *ConnLimit) opened(c net.Conn) {
	peer, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return
	}
	addr := peer.AddrPort().Addr().Unmap().WithZone("")
	if slices.ContainsFunc(l.proxies, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return
	}
	addr = shareOf(addr)
	v := l.addresses[addr]
	if v == nil {
		v = &visitor{key: addr}
		l.addresses[addr] = v
	}
	k := &counted{conn: c, by: v}
	l.conns[c] = k
	v.open++
	k.enter(&v.silent)
	if v.open > l.most {
		l.cutOne(v)
	}
}

// cutOne closes one of v's connections on which no request is under way. There is one at least: the new
// one. TLS is not ended first: that would wait for a peer that does not read.
func (l *ConnLimit) cutOne(v *visitor) {
	longest := v.idle.Front()
	if longest == nil {
		longest = v.silent.Front()
	}
	k := longest.Value.(*counted)
	l.forget(k)
	conn := k.conn
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	l.cut.Inc()
	_ = conn.Close()
}

func (l *ConnLimit) forget(k *counted) {
	k.leaveQueue()
	delete(l.conns, k.conn)
	if k.by.open--; k.by.open == 0 {
		delete(l.addresses, k.by.key)
	}
}

// enter puts k at the end of queue: no request is under way on it.
func (k *counted) enter(queue *list.List) {
	k.leaveQueue()
	k.queue, k.place = queue, queue.PushBack(k)
}

func (k *counted) leaveQueue() {
	if k.queue != nil {
		k.queue.Remove(k.place)
		k.queue, k.place = nil, nil
	}
}
