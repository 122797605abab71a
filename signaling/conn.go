package signaling

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	badLimit    = 10 // bad messages in a row that close the connection
	resumeBonus = ringMessages
	directLimit = 512 << 10 // bytes what may wait for a connection outside a ring
	sampleEvery = 16        // relayed messages to one whose latency is measured
)

// A Transport carries a Conn's messages: a WebSocket, say. Its methods must not block.
type Transport interface {
	// Wake says that Next has something.
	Wake()
	// Close says what Next still has, then closes with FailureOf(cause).
	Close(cause error)
}

// A Conn is the protocol's side of one connection: it takes at most one seat at a time. It is the
// Outlet of that seat.
//
// Receive and Lost belong to the goroutine that reads the connection; Next to the one that writes.
type Conn struct {
	// Static after construction.
	hub       *Hub
	transport Transport
	allowJoin func() bool
	limit     *rate.Limiter

	// Owned by the reader.
	patience   *rate.Limiter // with refusing what is over the limit; nil = nothing was yet
	hold       hold          // nil = no seat
	bonus      int           // messages that a resumed client may send beyond the limit
	badInARow  int
	untilProbe int

	mu          sync.Mutex
	direct      [][]byte // what is said before, beside or after a seat's feed
	directBytes int
	feed        Feed          // nil = none
	ended       bool          // by its seat
	waits       chan struct{} // closed then; nil: nobody waits for it
}

// Connect makes the Conn of a new connection. allowJoin is asked before each join; false refuses
// it with rate-limited.
func (h *Hub) Connect(t Transport, allowJoin func() bool) *Conn {
	return &Conn{hub: h, transport: t, allowJoin: allowJoin,
		limit: rate.NewLimiter(rate.Limit(h.cfg.MessageRate), h.cfg.MessageBurst)}
}

// Seated reports whether the connection has joined a room.
func (c *Conn) Seated() bool { return c.hold != nil }

// Receive handles one message. ctx bounds the search for a room's owner. An error means: close
// the connection for that cause. Receive keeps nothing of data.
func (c *Conn) Receive(ctx context.Context, data []byte) error {
	now := time.Now()
	m, bad := decode(data)
	c.hub.metrics.received[m.Kind].Inc()
	if !c.allow(now) {
		return c.flooded(&m, bad, now)
	}
	if bad != nil {
		return c.refuse(m.Kind, bad)
	}
	switch m.Kind {
	case KindJoin:
		return c.join(ctx, m)
	case KindPing:
		c.badInARow = 0
		c.say([]byte(`{"type":"pong"}`))
		return nil
	}
	if bad := c.unseated(&m); bad != nil {
		return c.refuse(m.Kind, bad)
	}
	c.badInARow = 0
	switch m.Kind {
	case KindLeave:
		c.leave(&m)
	case KindAck:
		c.hold.acknowledge(m.Received)
	case KindReport:
		c.hub.metrics.reported(m.Report)
	default:
		c.relay(&m, now)
	}
	return nil
}

// unseated says why m cannot be handled in this connection's present state, nil if it can.
func (c *Conn) unseated(m *Message) *refusal {
	refuse := func(err error, text string) *refusal {
		return &refusal{err: err, text: text, kind: m.Kind.String(), seq: m.Seq}
	}
	if c.hold == nil {
		return refuse(ErrNotJoined, `join a room first: {"type":"join","room":"demo"}`)
	}
	switch _, counts := c.hold.peer(); {
	case counts && m.Kind.counted() && m.Seq == 0:
		return refuse(ErrBadMessage, "seq is missing: you joined with a session, so your messages count 1, 2, 3")
	case !counts && m.Kind == KindAck:
		return refuse(ErrBadMessage, "nothing to acknowledge: you joined without a session")
	}
	return nil
}

func (c *Conn) relay(m *Message, now time.Time) {
	from, _ := c.hold.peer()
	cmd := &relay{kind: m.Kind, seq: m.Seq, to: m.To, envelope: relayEnvelope(m, from)}
	if c.untilProbe--; c.untilProbe < 0 {
		c.untilProbe = sampleEvery - 1
		cmd.at = now.UnixNano()
	}
	c.hold.relay(cmd)
}

func (c *Conn) join(ctx context.Context, m Message) error {
	if c.hold != nil {
		return c.refuse(KindJoin, &refusal{err: ErrAlreadyJoined, kind: "join", seq: m.Seq,
			text: "this connection has a seat already; leave first"})
	}
	c.badInARow = 0
	if !c.allowJoin() {
		return c.refuse(KindJoin, &refusal{err: ErrRateLimited, kind: "join", seq: m.Seq, retryAfter: 1,
			text: "too many joins from your address; wait before the next"})
	}
	began := time.Now()
	cmd := joinOf(&m, c)
	cmd.grant, cmd.denied = c.hub.authorize(ctx, &m)
	got, bad := c.hub.enter(ctx, cmd)
	if bad != nil {
		bad.kind, bad.seq = "join", m.Seq
		return c.refuse(KindJoin, bad)
	}
	c.hold = got
	c.hub.metrics.joined.Observe(time.Since(began).Seconds())
	if m.Received > 0 || m.Attempt > 0 {
		c.bonus = resumeBonus // for what the client sends again
	}
	return nil
}

// leave gives the seat up. What its ring still holds goes to the client, ending with left.
func (c *Conn) leave(m *Message) {
	rest := c.hold.leave(m.Seq)
	if rest == nil {
		return
	}
	c.hold = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		msg, _, ok := rest.Next(nil)
		if !ok {
			break
		}
		c.push(msg)
	}
	rest.discard()
	c.feed = nil
	c.transport.Wake()
}

// Lost tells the room that the connection is gone, and how. It is called once, by the reader,
// after the last Receive.
func (c *Conn) Lost(how Ending) {
	if c.hold != nil {
		c.hold.lost(how)
	}
}

// AllowPing reports whether one more ping of the transport's is to be answered. It takes one
// message off the limit; false means a flood, for which the connection is to be closed.
func (c *Conn) AllowPing() bool {
	now := time.Now()
	return c.allow(now) || c.bear(now)
}

// ---- refusing

// allow takes one message off the limit.
func (c *Conn) allow(now time.Time) bool {
	if c.bonus > 0 {
		c.bonus--
		return true
	}
	return c.limit.AllowN(now, 1)
}

// bear takes one message off the patience with a client that is over its limit.
func (c *Conn) bear(now time.Time) bool {
	if c.patience == nil {
		c.patience = rate.NewLimiter(rate.Limit(c.hub.cfg.MessageRate/5), c.hub.cfg.MessageBurst)
	}
	return c.patience.AllowN(now, 1)
}

// flooded refuses m, which is over the limit. bad is what decode found wrong with it, or nil.
func (c *Conn) flooded(m *Message, bad *refusal, now time.Time) error {
	over := &refusal{err: ErrRateLimited, seq: m.Seq, retryAfter: 1,
		text: fmt.Sprintf("not handled: more than %v messages a second (%d at once); slow down", c.hub.cfg.MessageRate, c.hub.cfg.MessageBurst)}
	if bad != nil {
		over.kind = bad.kind
	} else {
		over.kind = m.Kind.String()
	}
	if !c.bear(now) {
		return c.refuseLast(over)
	}
	return c.refuse(m.Kind, over)
}

// refuse answers a message with an error: through the room where there is a seat, so that it is
// counted and in order, unless it answers a join. Too many bad ones in a row close the connection.
func (c *Conn) refuse(kind Kind, why *refusal) error {
	f := FailureOf(why.err)
	if f.Err == ErrBadMessage || f.Err == ErrUnknownType {
		if c.badInARow++; c.badInARow >= badLimit {
			return c.refuseLast(why)
		}
	}
	if c.hold != nil && kind != KindJoin {
		c.hold.refused(kind, why)
		return nil
	}
	c.hub.metrics.refused(why.err)
	if f.Code != "" {
		c.say(closeEnvelope(errorEnvelope(why), 0))
	}
	if f.Close != 0 {
		return why.err
	}
	return nil
}

// refuseLast answers with an error that ends the connection, and so is not counted.
func (c *Conn) refuseLast(why *refusal) error {
	c.hub.metrics.refused(why.err)
	c.say(closeEnvelope(errorEnvelope(why), 0))
	return ErrPolicy
}

// ---- the way out

// Next appends the next message for the client to dst. at is when a relayed message arrived, in
// Unix nanoseconds, where it was measured, else 0.
func (c *Conn) Next(dst []byte) (msg []byte, at int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.direct) > 0 {
		first := c.direct[0]
		c.direct[0] = nil
		c.direct = c.direct[1:]
		if len(c.direct) == 0 {
			c.direct = nil
		}
		c.directBytes -= len(first)
		return append(dst, first...), 0, true
	}
	if c.feed == nil {
		return dst, 0, false
	}
	if !c.hub.directory.Valid() {
		c.hub.freeze() // wakes everybody when it is over
		return dst, 0, false
	}
	return c.feed.Next(dst)
}

// Written notes that a message that arrived at (Unix nanoseconds) is written now.
func (c *Conn) Written(at int64) {
	c.hub.metrics.latency.Observe(float64(time.Now().UnixNano()-at) / 1e9)
}

// say queues a message outside any ring.
func (c *Conn) say(msg []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.push(msg)
	c.transport.Wake()
}

func (c *Conn) push(msg []byte) {
	if c.directBytes+len(msg) > directLimit {
		c.transport.Close(ErrTooSlow)
		return
	}
	c.direct = append(c.direct, msg)
	c.directBytes += len(msg)
}

// Attach implements Outlet.
func (c *Conn) Attach(joined []byte, feed Feed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.push(joined)
	c.feed = feed
	c.transport.Wake()
}

// Wake implements Outlet.
func (c *Conn) Wake() { c.transport.Wake() }

// over returns a channel that is closed when the connection's seat has ended it.
func (c *Conn) over() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waits == nil {
		c.waits = make(chan struct{})
		if c.ended {
			close(c.waits)
		}
	}
	return c.waits
}

// End implements Outlet.
func (c *Conn) End(cause error) {
	c.mu.Lock()
	c.feed = nil
	if !c.ended && c.waits != nil {
		close(c.waits)
	}
	c.ended = true
	if why, ok := cause.(*refusal); ok {
		c.hub.metrics.refused(why.err)
		c.push(closeEnvelope(errorEnvelope(why), 0))
	}
	c.mu.Unlock()
	c.transport.Close(cause)
}
