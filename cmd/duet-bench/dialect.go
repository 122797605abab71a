package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// An event is what a message from the server means to a scenario.
type event struct {
	kind eventKind
	n    uint64 // relayed: the message's number
	code string // refused: the error's code and text
	id   string // joined, with a session: whose seat it is
}

type eventKind int

const (
	nothing eventKind = iota // of no interest: a peer came or went, an acknowledgement
	joined                   // the connection has its seat
	relayed                  // a message from the other one in the room
	left                     // the seat is given up
	refused                  // the server said no
)

// A dialect is one system's way of speaking. Its methods queue with [conn.say]; the caller flushes.
type dialect interface {
	// lines tells that messages are lines on bare TCP; otherwise they are WebSocket text messages.
	lines() bool
	// target is the path and query of the upgrade; sub is the subprotocol asked for, or "".
	target() (path, sub string)
	// opened is called when messages can be sent. What it says leads to a seat in c.room.
	opened(c *conn)
	// relay appends the wire form of message number n to the other one in the room.
	relay(dst []byte, c *conn, k kind, n uint64) []byte
	// leave gives the seat up, if there is a way to without closing; the answer is a left event.
	leave(c *conn) bool
	// read says what a message means. p is valid until it returns.
	read(c *conn, p []byte) (event, error)
}

// duet speaks docs/protocol.md; with session set, section 5 of it: `seq` on all that counts, and an
// `ack` after each eight. The 1 s rule for acks is left out: loads here reach eight sooner.
type duet struct {
	path    string
	session bool
	keeps   bool // seats outlive the connection: clients come back to where they were
}

// ackEvery is the number of counted messages after which one is due (protocol section 5).
const ackEvery = 8

func (duet) lines() bool                { return false }
func (d duet) target() (string, string) { return d.path, "duet.v1" }

func (d duet) opened(c *conn) {
	if d.session {
		c.attempt++
		b := fmt.Appendf(nil, `{"type":"join","room":%q,"session":"%s-%08d-bench-session","attempt":%d`, c.room, c.s.run, c.id, c.attempt)
		if c.since > 0 {
			b = fmt.Appendf(b, `,"since":%d,"received":%d`, c.since, c.seqIn)
		}
		c.say(append(b, '}'))
		return
	}
	c.say(fmt.Appendf(nil, `{"type":"join","room":%q}`, c.room))
}

func (d duet) relay(dst []byte, c *conn, k kind, n uint64) []byte {
	return appendMessage(dst, k, n, d.nextSeq(c))
}

func (d duet) leave(c *conn) bool {
	if seq := d.nextSeq(c); seq > 0 {
		c.say(fmt.Appendf(nil, `{"type":"leave","seq":%d}`, seq))
	} else {
		c.say([]byte(`{"type":"leave"}`))
	}
	return true
}

// nextSeq counts one message of c; it stays 0 without a session.
func (d duet) nextSeq(c *conn) uint64 {
	if d.session {
		c.seqOut++
	}
	return c.seqOut
}

func (d duet) read(c *conn, p []byte) (event, error) {
	if d.session {
		if err := d.count(c, seqOf(p)); err != nil {
			return event{}, err
		}
	}
	if n := messageNumber(p); n > 0 {
		return event{kind: relayed, n: n}, nil
	}
	var m struct {
		Type, Code, Message, ID string
		Resumed                 bool
		Received                uint64
	}
	if err := json.Unmarshal(p, &m); err != nil {
		return event{}, fmt.Errorf("reading %q: %w", p, err)
	}
	switch m.Type {
	case "joined":
		if !d.session {
			return event{kind: joined}, nil
		}
		switch {
		case m.Resumed && !d.keeps:
			return event{}, errors.New("resumed a seat, but no server here keeps one: its process has ended")
		case m.Resumed && m.Received != c.seqOut: // nobody who comes back here has something under way
			return event{}, fmt.Errorf("back with %d messages handled of %d", m.Received, c.seqOut)
		case m.Resumed:
			return event{kind: joined, id: m.ID}, nil
		}
		c.seqIn, c.seqOut, c.since = 0, 0, c.attempt
		return event{kind: joined, id: m.ID}, nil
	case "left":
		return event{kind: left}, nil
	case "error":
		return event{kind: refused, code: m.Code + ": " + m.Message}, nil
	}
	return event{}, nil
}

// count checks that a counted message is the next one, and acknowledges each eighth.
func (d duet) count(c *conn, seq uint64) error {
	if seq == 0 {
		return nil
	}
	if seq != c.seqIn+1 {
		return fmt.Errorf("seq %d came after seq %d (protocol section 5)", seq, c.seqIn)
	}
	if c.seqIn = seq; seq%ackEvery == 0 {
		b := append(c.s.scratch[:0], `{"type":"ack","received":`...)
		c.say(append(strconv.AppendUint(b, seq, 10), '}'))
	}
	return nil
}

// socketIO speaks Engine.IO 4 over WebSocket and the tutorials' events (socketio/server.js).
type socketIO struct{}

func (socketIO) lines() bool              { return false }
func (socketIO) target() (string, string) { return "/socket.io/?EIO=4&transport=websocket", "" }
func (socketIO) opened(*conn)             {} // the server speaks first

func (socketIO) relay(dst []byte, _ *conn, k kind, n uint64) []byte {
	dst = append(dst, `42["message",`...)
	return append(appendMessage(dst, k, n, 0), ']')
}

func (socketIO) leave(c *conn) bool {
	c.say(fmt.Appendf(nil, `42["leave",%q]`, c.room))
	return true
}

func (socketIO) read(c *conn, p []byte) (event, error) {
	switch {
	case bytes.HasPrefix(p, []byte(`42["message"`)):
		return event{kind: relayed, n: messageNumber(p)}, nil
	case bytes.HasPrefix(p, []byte(`0{`)): // Engine.IO is open: connect to the main namespace
		c.say([]byte(`40`))
	case bytes.HasPrefix(p, []byte(`40`)):
		c.say(fmt.Appendf(nil, `42["create or join",%q]`, c.room))
	case bytes.Equal(p, []byte(`2`)):
		c.s.pings++
		c.say([]byte(`3`))
	case bytes.HasPrefix(p, []byte(`42["created"`)), bytes.HasPrefix(p, []byte(`42["joined"`)):
		return event{kind: joined}, nil
	case bytes.HasPrefix(p, []byte(`42["leaved"`)):
		return event{kind: left}, nil
	case bytes.HasPrefix(p, []byte(`42["full"`)), bytes.HasPrefix(p, []byte(`44`)):
		return event{kind: refused, code: string(p)}, nil
	}
	return event{}, nil
}

// bare speaks to the relays of package baseline: the first message names the room and is answered
// with `ok`, all others go to the other one in the room as they are; to leave is to close.
type bare struct{ tcp bool }

func (b bare) lines() bool            { return b.tcp }
func (bare) target() (string, string) { return "/", "" }
func (bare) opened(c *conn)           { c.say([]byte(c.room)) }
func (bare) leave(*conn) bool         { return false }

func (bare) relay(dst []byte, _ *conn, k kind, n uint64) []byte {
	return appendMessage(dst, k, n, 0)
}

func (bare) read(_ *conn, p []byte) (event, error) {
	if n := messageNumber(p); n > 0 {
		return event{kind: relayed, n: n}, nil
	}
	if string(p) == "ok" {
		return event{kind: joined}, nil
	}
	return event{}, fmt.Errorf("an unexpected message: %.80q", p)
}
