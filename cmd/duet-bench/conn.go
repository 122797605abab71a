package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// A conn is one client's connection. All of it belongs to the goroutine that polls the network.
type conn struct {
	s    *swarm
	id   int
	room string
	peer *conn // the other one in the room
	home int   // which of the network's addresses it dials

	state  connState
	dialed time.Time
	in     []byte // the start of a message whose rest has not come yet
	out    []byte // what is to be sent
	queued bool   // is in s.dirty

	sent, received uint64 // number of the last relayed message from and to this connection
	seqOut, seqIn  uint64 // counted messages of a session (protocol section 5)
	attempt, since uint64 // its join
	seat           string // its id, where the system has such a thing

	gaps   bool   // messages to it may be refused to their sender; missed counts them
	missed uint64 // numbers that never came
	frozen bool   // has stopped reading
	small  bool   // asks for the smallest receive buffer
	call   *call  // in the calls scenario

	fd  int   // of a local network
	gen int32 // tells fd's user from the one before
}

type connState int

const (
	dialing connState = iota
	upgrading
	open
	seated
	closing
	closed
)

// upgradeRequest is the client's half of the opening handshake (RFC 6455 §4.1).
func upgradeRequest(target, host, sub string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", target, host)
	b.WriteString("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	if sub != "" {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", sub)
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}

// renew makes a lost connection ready to be dialed again.
func (c *conn) renew() { c.state, c.in, c.out = dialing, nil, nil }

// connected goes on from an open TCP or TLS connection.
func (c *conn) connected() {
	if c.s.d.lines() {
		c.state = open
		c.s.d.opened(c)
	} else {
		c.state = upgrading
		target, sub := c.s.d.target()
		c.write(upgradeRequest(target, c.s.host, sub))
	}
}

// say queues one message.
func (c *conn) say(p []byte) {
	if c.s.d.lines() {
		c.out = append(append(c.out, p...), '\n')
	} else {
		c.out = appendFrame(c.out, opText, p)
	}
	c.s.touch(c)
}

// write queues bytes as they are.
func (c *conn) write(b []byte) {
	c.out = append(c.out, b...)
	c.s.touch(c)
}

// send queues the next relayed message of kind k.
func (c *conn) send(k kind) {
	c.sent++
	c.s.sent++
	c.s.scratch = c.s.d.relay(c.s.scratch[:0], c, k, c.sent)
	c.say(c.s.scratch)
}

// finish closes in order: a WebSocket with 1000, and the server closes TCP after its answer
// (RFC 6455 §7.1.1); a line at once.
func (c *conn) finish() {
	c.state = closing
	if c.s.d.lines() {
		c.s.net.close(c)
		c.s.gone(c, nil)
		return
	}
	c.write(appendFrame(nil, opClose, []byte{1000 >> 8, 1000 & 0xff}))
}

// arrived takes what came from the network; data is valid until it returns.
func (c *conn) arrived(data []byte) error {
	b := data
	if len(c.in) > 0 {
		c.in = append(c.in, data...)
		b = c.in
	}
	rest, err := c.consume(b)
	c.in = append(c.in[:0], rest...)
	return err
}

// consume handles all whole messages in b and returns what is left.
func (c *conn) consume(b []byte) ([]byte, error) {
	for len(b) > 0 && c.state != closed {
		n, err := c.consumeOne(b)
		if n == 0 || err != nil {
			return b, err
		}
		b = b[n:]
	}
	return nil, nil
}

func (c *conn) consumeOne(b []byte) (int, error) {
	switch {
	case c.state == upgrading:
		return c.upgraded(b)
	case c.s.d.lines():
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return 0, nil
		}
		return i + 1, c.message(b[:i])
	}
	f, n, err := readFrame(b)
	if n == 0 || err != nil {
		return n, err
	}
	switch f.op {
	case opText:
		err = c.message(f.payload)
	case opPing:
		c.s.pings++
		c.write(appendFrame(nil, opPong, f.payload))
	case opClose:
		if c.state != closing {
			err = closeError(f.payload)
		}
	}
	return n, err
}

// upgraded reads the server's half of the handshake.
func (c *conn) upgraded(b []byte) (int, error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, nil
	}
	status, _, _ := strings.Cut(string(b), "\r\n")
	if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		return 0, fmt.Errorf("the server refused the WebSocket: %s: %.200s", status, strings.TrimSpace(string(b[end:])))
	}
	c.state = open
	c.s.d.opened(c)
	return end + 4, nil
}

func (c *conn) message(p []byte) error {
	e, err := c.s.d.read(c, p)
	if err != nil {
		return err
	}
	return c.s.happened(c, e)
}

// closeError puts the server's close frame into words.
func closeError(p []byte) error {
	if len(p) < 2 {
		return fmt.Errorf("the server closed the connection without a code")
	}
	return fmt.Errorf("the server closed the connection: %d %s", int(p[0])<<8|int(p[1]), p[2:])
}
