// Package baseline holds the least that a signaling server could be, on three libraries. Each relay
// pairs connections by room: the first message names the room and is answered with `ok`, every
// other goes as it is to the other one in the room. No checks, no limits, no errors, no sessions:
// what is left is what the library costs.
package baseline

import (
	"fmt"
	"io"
	"net"
	"sync"
)

// Relays are the servers by name. Each serves l until it is closed.
var Relays = map[string]func(l net.Listener) error{
	"coder": serveCoder,
	"gws":   serveGWS,
	"tcp":   serveTCP,
}

// AddrVariable is the environment variable that says where a baseline listens, as host:port.
const AddrVariable = "BENCH_ADDR"

// Serve runs the relay of that name at addr, host:port, and prints its address to w.
func Serve(name, addr string, w io.Writer) error {
	serve, ok := Relays[name]
	if !ok {
		return fmt.Errorf("no relay called %q: coder, gws or tcp", name)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "http://%s/\n", l.Addr())
	return serve(l)
}

// A member is one connection of a room; send may be called from any goroutine.
type member interface {
	send(p []byte)
}

// rooms pairs members by room name.
type rooms struct {
	mu sync.Mutex
	m  map[string]*room
}

type room struct{ a, b member }

var ok = []byte("ok")

// join gives m a place; nil where the room is full.
func (rs *rooms) join(name string, m member) *room {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.m[name]
	switch {
	case r == nil:
		if rs.m == nil {
			rs.m = make(map[string]*room)
		}
		r = &room{a: m}
		rs.m[name] = r
	case r.a == nil:
		r.a = m
	case r.b == nil:
		r.b = m
	default:
		return nil
	}
	return r
}

// other is the one that m shares r with; nil while it is alone.
func (rs *rooms) other(r *room, m member) member {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.a == m {
		return r.b
	}
	return r.a
}

// leave takes m out of r, and r out of rs when it is empty.
func (rs *rooms) leave(name string, r *room, m member) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.a == m {
		r.a = nil
	} else {
		r.b = nil
	}
	if r.a == nil && r.b == nil {
		delete(rs.m, name)
	}
}
