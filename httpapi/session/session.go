// Package session is a client of duet with all of docs/protocol.md, section 5: it counts, acknowledges,
// remembers what was not acknowledged, notices a dead connection, comes back and sends the rest again.
// Tests and the tools under cmd use it.
package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

var (
	// ErrFull refuses a message: 256 wait for an acknowledgement.
	ErrFull = errors.New("outbox full")
	// ErrLeft refuses a message after Leave.
	ErrLeft = errors.New("left")

	// errLost is the end of a connection after which the client comes back.
	errLost = errors.New("connection lost")
	// errDone is the end of a client that has left.
	errDone = errors.New("done")
	// errOutOfSync: our counters and the server's contradict each other, which ends the client.
	errOutOfSync = errors.New("out of sync")
)

// What the client's own time is, unless a Config says otherwise.
const (
	defaultJoin  = 10 * time.Second
	defaultIdle  = 25 * time.Second
	defaultPong  = 5 * time.Second
	defaultStart = 500 * time.Millisecond
	defaultLimit = 15 * time.Second

	stable      = 5 * time.Second // after which waits start short again
	ackEvery    = 8
	ackAfter    = time.Second
	writeWithin = 10 * time.Second
	closeWithin = time.Second
)

// A Config describes a client. Dial, Room and Key are needed.
type Config struct {
	Dial func(context.Context) (net.Conn, error) // connects to the server
	Path string                                  // of the WebSocket; "" = /ws

	Room, Name string
	Key        string // the session, at least 22 characters of base64url
	Replaces   string

	// Handle gets each counted message once and in order, errors that answer our own included; Joined
	// each seat taken or taken back. Both are called by Run's goroutine. nil = not wanted.
	Handle func(*Message)
	Joined func(*Message)

	Join        time.Duration  // from dialing to joined; 0 = 10 s
	Idle        time.Duration  // nothing heard for so long: a ping; 0 = 25 s
	Pong        time.Duration  // its answer; 0 = 5 s
	Wait, Limit time.Duration  // between connections: the n-th wait is random below min(Limit, Wait·2ⁿ); 0 = 500 ms, 15 s
	Random      func() float64 // in [0, 1); nil = math/rand/v2
}

// A Message is any message of the protocol, either way.
type Message struct {
	Type       string          `json:"type"`
	Seq        uint64          `json:"seq,omitempty"`
	Room       string          `json:"room,omitempty"`
	Name       string          `json:"name,omitempty"`
	Session    string          `json:"session,omitempty"`
	Replaces   string          `json:"replaces,omitempty"`
	Attempt    uint64          `json:"attempt,omitempty"`
	Since      uint64          `json:"since,omitempty"`
	Received   uint64          `json:"received,omitempty"`
	To         string          `json:"to,omitempty"`
	From       string          `json:"from,omitempty"`
	SDP        string          `json:"sdp,omitempty"`
	Candidate  json.RawMessage `json:"candidate,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	ID         string          `json:"id,omitempty"`
	Resumed    bool            `json:"resumed,omitempty"`
	Peers      []Peer          `json:"peers,omitempty"`
	Peer       *Peer           `json:"peer,omitempty"`
	Reason     string          `json:"reason,omitempty"`
	Code       string          `json:"code,omitempty"`
	Text       string          `json:"message,omitempty"`
	For        string          `json:"for,omitempty"`
	Ref        uint64          `json:"ref,omitempty"`
	RetryAfter int             `json:"retryAfter,omitempty"` // seconds
}

// A Peer is a member of the room other than oneself.
type Peer struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	Away bool   `json:"away,omitempty"`
}

// A Client is one seat in one room over however many connections it takes.
type Client struct {
	cfg  Config
	out  *outbox
	look chan struct{} // holds one: Probe was called

	// Owned by Run.
	seated  bool   // had a seat
	handled uint64 // last seq of the server's
	attempt uint64
	since   uint64 // the attempt that got the seat for which handled counts; 0 = none yet
	tries   int    // connections since the last stable one
}

// New makes a client. Run brings it to life.
func New(cfg Config) *Client {
	for d, otherwise := range map[*time.Duration]time.Duration{
		&cfg.Join: defaultJoin, &cfg.Idle: defaultIdle, &cfg.Pong: defaultPong, &cfg.Wait: defaultStart, &cfg.Limit: defaultLimit,
	} {
		if *d == 0 {
			*d = otherwise
		}
	}
	if cfg.Path == "" {
		cfg.Path = "/ws"
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	return &Client{cfg: cfg, out: newOutbox(), look: make(chan struct{}, 1)}
}

// Send takes a counted message and returns its seq. It does not wait for a connection; while there is
// none, or until the server acknowledges, at most 256 messages wait: one more is refused with ErrFull.
// What was not acknowledged when a seat is gone for good is dropped; see Joined. Safe for concurrent use.
func (c *Client) Send(m *Message) (seq uint64, err error) { return c.out.add(m) }

// Leave gives the seat up after everything that was sent, and ends Run. Safe for concurrent use.
func (c *Client) Leave() { _, _ = c.out.add(&Message{Type: "leave"}) }

// Waiting is how many messages the server has not acknowledged. Safe for concurrent use.
func (c *Client) Waiting() int { return c.out.size() }

// Probe finds out at once whether the connection still lives. Safe for concurrent use.
func (c *Client) Probe() {
	select {
	case c.look <- struct{}{}:
	default:
	}
}

// Run connects, and comes back as often as it takes. It returns nil after Leave, ctx's error when ctx
// ends (which frees the seat), and an error where the server refuses this client for good.
func (c *Client) Run(ctx context.Context) error {
	for {
		err := c.connect(ctx)
		switch {
		case errors.Is(err, errDone):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, errLost):
			return err
		}
		limit := min(c.cfg.Limit, c.cfg.Wait<<min(c.tries, 20))
		c.tries++
		select {
		case <-time.After(time.Duration(c.cfg.Random() * float64(limit))):
		case <-c.look:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// connect is the life of one connection. errLost = come back.
func (c *Client) connect(ctx context.Context) error {
	l, err := c.open(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	defer l.close()
	c.attempt++
	l.send(&Message{Type: "join", Room: c.cfg.Room, Name: c.cfg.Name, Session: c.cfg.Key, Replaces: c.cfg.Replaces,
		Attempt: c.attempt, Since: c.since, Received: c.handled})
	for {
		select {
		case f, ok := <-l.frames:
			if !ok {
				return errLost
			}
			l.heard()
			if err := l.handle(f); err != nil {
				return err
			}
		case <-c.out.wake:
			l.flush()
		case <-c.look:
			l.ping()
		case now := <-l.timer.C:
			if err := l.due(now); err != nil {
				return err
			}
		case <-ctx.Done():
			l.sayClose(1000)
			return ctx.Err()
		}
		l.rearm()
	}
}

// open dials, does the handshake and begins to read.
func (c *Client) open(ctx context.Context) (*life, error) {
	began := time.Now()
	dialing, cancel := context.WithTimeout(ctx, c.cfg.Join)
	defer cancel()
	conn, err := c.cfg.Dial(dialing)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(dialing, func() { conn.SetDeadline(time.Unix(1, 0)) })
	in := bufio.NewReaderSize(conn, 1024)
	err = upgrade(conn, in, c.cfg.Path)
	if !stop() && err == nil {
		err = dialing.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	l := &life{client: c, conn: conn, frames: make(chan frame, 16), gone: make(chan struct{}),
		timer: time.NewTimer(time.Hour), joinBy: began.Add(c.cfg.Join)}
	l.heard()
	l.rearm()
	go l.read(in)
	return l, nil
}

// A life is one connection of a client. All but read belongs to Run's goroutine.
type life struct {
	client *Client
	conn   net.Conn
	frames chan frame    // closed when the connection has ended
	gone   chan struct{} // closed when nobody wants frames any more
	timer  *time.Timer

	joined   bool
	joinedAt time.Time
	owed     int    // handled and not acknowledged
	why      string // the error that ends the connection, "" = none came

	joinBy, ackBy, idleAt, pongBy time.Time // zero = nothing due
}

func (l *life) read(in *bufio.Reader) {
	defer close(l.frames)
	for {
		f, err := readFrame(in)
		if err != nil {
			return
		}
		select {
		case l.frames <- f:
		case <-l.gone:
			return
		}
	}
}

// close leaves the socket to itself and waits for its reader.
func (l *life) close() {
	l.timer.Stop()
	if !l.joinedAt.IsZero() && time.Since(l.joinedAt) >= stable {
		l.client.tries = 0
	}
	close(l.gone)
	l.conn.Close()
	for range l.frames {
	}
}

// giveUp says that this socket is left for another one (docs/protocol.md, section 7).
func (l *life) giveUp() error {
	l.sayClose(4100)
	return errLost
}

func (l *life) sayClose(code int) {
	l.conn.SetWriteDeadline(time.Now().Add(closeWithin))
	_, _ = l.conn.Write(appendFrame(nil, opClose, binary.BigEndian.AppendUint16(nil, uint16(code))))
}

// write sends a frame. That it could not is found by the reader, after what has arrived until then.
func (l *life) write(b []byte) {
	l.conn.SetWriteDeadline(time.Now().Add(writeWithin))
	_, _ = l.conn.Write(b)
}

func (l *life) send(m *Message) {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and numbers
	}
	l.write(appendFrame(nil, opText, text))
}

// flush writes what waits in the outbox.
func (l *life) flush() {
	if !l.joined {
		return
	}
	var b []byte
	for _, e := range l.client.out.take() {
		b = appendFrame(b, opText, e.text)
	}
	if b != nil {
		l.write(b)
	}
}

// ---- time

func (l *life) heard() { l.idleAt, l.pongBy = time.Now().Add(l.client.cfg.Idle), time.Time{} }

func (l *life) ping() {
	if !l.joined {
		return
	}
	l.send(&Message{Type: "ping"})
	if l.idleAt = (time.Time{}); l.pongBy.IsZero() {
		l.pongBy = time.Now().Add(l.client.cfg.Pong)
	}
}

func (l *life) rearm() {
	next := time.Now().Add(time.Hour)
	for _, at := range []time.Time{l.joinBy, l.ackBy, l.idleAt, l.pongBy} {
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	l.timer.Reset(time.Until(next))
}

func (l *life) due(now time.Time) error {
	reached := func(at time.Time) bool { return !at.IsZero() && !now.Before(at) }
	if reached(l.joinBy) || reached(l.pongBy) {
		return l.giveUp()
	}
	if reached(l.ackBy) {
		l.acknowledge()
	}
	if reached(l.idleAt) {
		l.ping()
	}
	return nil
}

// ---- what arrives

func (l *life) handle(f frame) error {
	switch f.op {
	case opPing:
		l.write(appendFrame(nil, opPong, f.payload))
		return nil
	case opClose:
		l.write(appendFrame(nil, opClose, f.payload))
		return l.closed(f.closeCode())
	case opText:
	default:
		return nil
	}
	m := new(Message)
	if err := json.Unmarshal(f.payload, m); err != nil {
		return fmt.Errorf("from the server: %.100q: %w", f.payload, err)
	}
	switch m.Type {
	case "joined":
		return l.seat(m)
	case "ack":
		if !l.client.out.acknowledge(m.Received) {
			return fmt.Errorf("%w: ack of %d", errOutOfSync, m.Received)
		}
		return nil
	case "pong":
		return nil
	}
	if !l.joined {
		return l.refused(m)
	}
	return l.counted(m)
}

// closed is what a close code asks of a client (docs/protocol.md, section 7).
func (l *life) closed(code int) error {
	switch code {
	case 1002, 1003, 1007, 1008, 1009, 4002:
	default:
		if code < 4500 {
			return errLost
		}
	}
	return fmt.Errorf("the server closed the connection with %d %s", code, l.why)
}

// refused handles an error that answers the join.
func (l *life) refused(m *Message) error {
	switch m.Code {
	case "rate-limited", "server-full", "stale-attempt":
		return l.giveUp()
	}
	return fmt.Errorf("join: %s: %s", m.Code, m.Text)
}

// seat begins with a seat, or goes on with it.
func (l *life) seat(m *Message) error {
	c := l.client
	if l.joined {
		return errors.New("from the server: joined twice")
	}
	switch {
	case m.Resumed: // or resumed at the first time, where the first joined was lost
		if !c.out.resume(m.Received) {
			return fmt.Errorf("%w: the server has received %d", errOutOfSync, m.Received)
		}
	case c.out.left(): // the server had freed the seat, and this new one is of no use
		l.sayClose(1000)
		return errDone
	default:
		if c.seated {
			c.out.reset()
		}
		c.handled = 0
	}
	if !m.Resumed || c.since == 0 {
		c.since = c.attempt
	}
	c.seated, l.joined, l.joinedAt, l.joinBy = true, true, time.Now(), time.Time{}
	if c.cfg.Joined != nil {
		c.cfg.Joined(m)
	}
	l.flush()
	return nil
}

func (l *life) counted(m *Message) error {
	c := l.client
	switch {
	case m.Seq == 0 && m.Type == "error": // it ends the connection
		l.why = m.Text
		return nil
	case m.Seq <= c.handled:
		return fmt.Errorf("%w: the server sent %d again on the same connection", errOutOfSync, m.Seq)
	case m.Seq > c.handled+1:
		return fmt.Errorf("%w: the server sent %d after %d", errOutOfSync, m.Seq, c.handled)
	}
	c.handled = m.Seq
	if l.owed++; l.owed >= ackEvery {
		l.acknowledge()
	} else if l.ackBy.IsZero() {
		l.ackBy = time.Now().Add(ackAfter)
	}
	if c.cfg.Handle != nil {
		c.cfg.Handle(m)
	}
	if m.Type == "left" {
		l.sayClose(1000)
		return errDone
	}
	return nil
}

func (l *life) acknowledge() {
	l.owed, l.ackBy = 0, time.Time{}
	l.send(&Message{Type: "ack", Received: l.client.handled})
}

// Key makes a session key out of a name, for tests: whoever knows the name knows the key.
func Key(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' {
			return r
		}
		return '_'
	}, name) + strings.Repeat("_", 22)
}
