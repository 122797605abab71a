package httpapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limits bounds the WebSockets open at once, in all and per address, and how often an address joins.
//
// An address is remembered while it has connections and for a minute after the last one: by then its
// bucket of joins is full again, so that forgetting it changes nothing. The forgotten are swept out by
// the calls that come later, at most sweepStep in each, so no call does unbounded work. Safe for
// concurrent use.
type limits struct {
	// Static after construction.
	max, perAddr, joinRate int

	mu         sync.Mutex
	open       int
	addresses  map[netip.Addr]*address
	idle       idleList
	mostAtOnce int // entries in addresses since the map was made
}

// An address is what is known of one client address. The limits' mutex guards it, except for joins.
type address struct {
	key        netip.Addr
	open       int
	joins      *rate.Limiter // safe by itself
	idleSince  time.Time     // while open is 0
	prev, next *address      // in the idle list
}

const (
	joinWindow = time.Minute // Config.JoinRate counts joins in it
	sweepStep  = 2           // one call adds one address at most and removes two: the list shrinks
	smallMap   = 1024        // below this an emptied map is kept
)

func newLimits(max, perAddr, joinRate int) *limits {
	return &limits{max: max, perAddr: perAddr, joinRate: joinRate, addresses: make(map[netip.Addr]*address)}
}

// admit counts one more connection from addr. Its error is a *refusal: 503 where all connections are
// taken, 429 where the address has its share. The lease has to be released.
func (l *limits) admit(addr netip.Addr) (*lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(time.Now())
	if l.open >= l.max {
		return nil, &refusal{http.StatusServiceUnavailable, "connections", fmt.Sprintf(
			"All %d connections of this server are taken (DUET_MAX_CONNECTIONS): try again in a moment.", l.max), 5}
	}
	a := l.addresses[addr]
	if a == nil {
		a = &address{key: addr, joins: rate.NewLimiter(rate.Limit(float64(l.joinRate)/joinWindow.Seconds()), l.joinRate)}
		l.addresses[addr] = a
		l.mostAtOnce = max(l.mostAtOnce, len(l.addresses))
	} else if a.open == 0 {
		l.idle.remove(a)
	}
	if a.open >= l.perAddr {
		return nil, &refusal{http.StatusTooManyRequests, "address", fmt.Sprintf(
			"%d connections from %s are open, which is its share (DUET_MAX_CONNECTIONS_PER_IP). "+
				"If that is a proxy's address, name the proxy in DUET_TRUSTED_PROXIES.", a.open, addr), 5}
	}
	l.open++
	a.open++
	return &lease{limits: l, address: a}, nil
}

// connections returns the number of leases that are out.
func (l *limits) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// sweep forgets up to sweepStep addresses that have been idle for long enough. The mutex is held.
func (l *limits) sweep(now time.Time) {
	for range sweepStep {
		a := l.idle.oldest
		if a == nil || now.Sub(a.idleSince) < joinWindow {
			break
		}
		l.idle.remove(a)
		delete(l.addresses, a.key)
	}
	if len(l.addresses) == 0 && l.mostAtOnce > smallMap { // a map keeps the size it once had
		l.addresses, l.mostAtOnce = make(map[netip.Addr]*address), 0
	}
}

// A lease is one connection's place in the limits.
type lease struct {
	limits   *limits
	address  *address
	released bool // guarded by limits.mu
}

// release gives the place back. Further calls do nothing.
func (l *lease) release() {
	l.limits.mu.Lock()
	defer l.limits.mu.Unlock()
	if l.released {
		return
	}
	l.released = true
	l.limits.open--
	l.address.open--
	now := time.Now()
	if l.address.open == 0 {
		l.address.idleSince = now
		l.limits.idle.push(l.address)
	}
	l.limits.sweep(now)
}

// allowJoin takes one join from what the connection's address has left and reports whether there was one.
func (l *lease) allowJoin() bool { return l.address.joins.Allow() }

// An idleList holds the addresses without connections, the one idle longest first.
type idleList struct{ oldest, newest *address }

func (l *idleList) push(a *address) {
	a.prev = l.newest
	if l.newest == nil {
		l.oldest = a
	} else {
		l.newest.next = a
	}
	l.newest = a
}

func (l *idleList) remove(a *address) {
	if a.prev == nil {
		l.oldest = a.next
	} else {
		a.prev.next = a.next
	}
	if a.next == nil {
		l.newest = a.prev
	} else {
		a.next.prev = a.prev
	}
	a.prev, a.next = nil, nil
}
