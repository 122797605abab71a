package main

import (
	"bytes"
	"fmt"
	"strconv"
)

// natsWire speaks NATS's own protocol to a NATS server: each client listens to a subject of its own, to
// which the other one in its room publishes. It is what a message between nodes costs at least.
type natsWire struct{}

func (natsWire) lines() bool              { return true }
func (natsWire) target() (string, string) { return "", "" }
func (natsWire) leave(*conn) bool         { return false }

// opened subscribes. The answer to PING says that it is done.
func (natsWire) opened(c *conn) {
	c.say([]byte("CONNECT {\"verbose\":false,\"pedantic\":false}\r"))
	c.say(fmt.Appendf(nil, "SUB %s 1\r", natsSubject(c)))
	c.say([]byte("PING\r"))
}

func natsSubject(c *conn) string { return c.s.run + "." + strconv.Itoa(c.id) }

func (natsWire) relay(dst []byte, c *conn, k kind, n uint64) []byte {
	var buf [256]byte // holds a candidate
	msg := appendMessage(buf[:0], k, n, 0)
	dst = append(append(dst, "PUB "...), natsSubject(c.peer)...)
	dst = strconv.AppendInt(append(dst, ' '), int64(len(msg)), 10)
	dst = append(append(dst, "\r\n"...), msg...)
	return append(dst, '\r')
}

func (natsWire) read(c *conn, p []byte) (event, error) {
	p = bytes.TrimSuffix(p, []byte{'\r'})
	switch {
	case bytes.HasPrefix(p, []byte("MSG ")), bytes.HasPrefix(p, []byte("INFO ")):
		return event{}, nil // what a MSG brings is the next line
	case bytes.Equal(p, []byte("PONG")):
		return event{kind: joined}, nil
	case bytes.Equal(p, []byte("PING")):
		c.s.pings++
		c.say([]byte("PONG\r"))
		return event{}, nil
	}
	if n := messageNumber(p); n > 0 {
		return event{kind: relayed, n: n}, nil
	}
	return event{}, fmt.Errorf("an unexpected line: %.80q", p)
}
