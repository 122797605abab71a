package signaling

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// The reference model: what docs/protocol.md says of rooms and seats, sections 4 and 5 above all,
// as one plain program. It has no goroutines, no locks and no timers; it keeps everything that was
// ever said to a seat, and knows two marks in that. It is told what the clients do and what time it
// is, and says, message for message, what each connection gets. Room and Conn must do the same
// (model_run_test.go).
//
// Three things the protocol leaves open, and the model takes over from the server: an ack goes
// before whatever else waits, once no answer to a refused message does; what a connection says for
// itself (joined, pong, the answer to a join) goes before what its seat says; and the size of a
// relayed message is that of its JSON without seq and closing brace.
type model struct {
	capacity    int
	rate, burst int
	now         time.Time // without stalls
	wall        time.Time // with them: the rate of messages is measured so
	rooms       map[string]*modelRoom
	closed      bool // the server has ended
}

const (
	modelGrace     = 30 * time.Second
	modelGoingAway = 8 * time.Second
)

type modelRoom struct {
	name  string
	seats []*modelSeat // earliest first
}

// A modelConn is one connection.
type modelConn struct {
	eager  bool       // whoever writes it is at once
	direct []string   // what it says for itself
	seat   *modelSeat // that it took last; whether it still acts for it the seat knows
	close  int        // the code it closes with; 0 = it does not
	got    []string   // what was fetched

	bad             int // bad messages in a row
	bonus           int
	tokens, pardons modelBucket
}

type modelSeat struct {
	id, key, name string // key "" = without session
	room          *modelRoom
	conn          *modelConn // the one that may act for it; nil while away, and after the end
	attempt       int
	knownBy       int // the attempt whose joined told the client of the seat
	away          bool
	awayUntil     time.Time

	handled int       // the client's messages
	owed    int       // of them since the last ack
	ackAt   time.Time // zero = nothing owed
	ack     int       // to be said, when due
	ackDue  bool

	said  []modelSaid // said[i] is number i+1
	acked int         // how many of them the client has for certain
	sent  int         // how many this connection was given
	most  int         // how many any connection was given

	since      time.Time // this connection's beginning
	cameBack   bool
	progress   bool
	lapses     int
	overflowed bool
}

type modelSaid struct {
	text  string // without its closing brace
	from  *modelSeat
	class modelClass
}

type modelClass int

const (
	relayedMessage modelClass = iota
	roomEvent
	errorAnswer
)

// A modelInput is a message of a client. fault is "bad-message" or "unknown-type" where the server
// is to find it so; kind is empty where it cannot be read.
type modelInput struct {
	fault, kind, to, payload             string
	room, name, session, replaces, newID string // newID: what the server called one without session
	seq, attempt, received, since        int
}

// receive handles one message of connection c.
func (m *model) receive(c *modelConn, in modelInput) {
	switch allowed := c.allow(m); {
	case !allowed && !c.pardons.take(m.wall):
		m.dismiss(c, errorText("rate-limited", in, 1))
	case !allowed:
		m.refuse(c, in, "rate-limited", 1)
	case in.fault != "":
		m.refuse(c, in, in.fault, 0)
	case in.kind == "ping":
		c.bad = 0
		c.say(`{"type":"pong"}`)
	case in.kind == "join" && c.seat != nil:
		m.refuse(c, in, "already-joined", 0)
	case in.kind == "join":
		c.bad = 0
		m.join(c, in)
	case c.seat == nil:
		m.refuse(c, in, "not-joined", 0)
	case c.seat.key != "" && in.kind != "ack" && in.seq == 0, c.seat.key == "" && in.kind == "ack":
		m.refuse(c, in, "bad-message", 0)
	default:
		c.bad = 0
		m.fromSeat(c, c.seat, in)
	}
	m.settle()
}

func (m *model) fromSeat(c *modelConn, s *modelSeat, in modelInput) {
	if s.conn != c { // replaced: it does nothing any more
		return
	}
	if in.kind == "ack" {
		if in.received < s.acked || in.received > s.most {
			m.outOfSync(s, in)
			return
		}
		s.progress = s.progress || in.received > s.acked
		s.acknowledge(in.received)
		return
	}
	if !m.counts(s, in) {
		return
	}
	if in.kind == "leave" {
		s.oweAck(m.now)
		s.say(`{"type":"left","room":`+quote(s.room.name), roomEvent, nil)
		rest := c.fetchAll()
		m.end(s, "left")
		c.seat, c.direct = nil, rest
		return
	}
	if code := m.relay(s, in); code != "" {
		s.answer(errorText(code, in, 0))
	}
	s.oweAck(m.now)
}

// counts is the table of section 5.2. After true an ack is owed, once it is said what became of the message.
func (m *model) counts(s *modelSeat, in modelInput) bool {
	switch {
	case s.key == "":
		return true
	case in.seq == s.handled+1:
		s.handled++
		s.progress = true
		return true
	case in.seq <= s.handled:
		s.oweAck(m.now)
		return false
	}
	m.outOfSync(s, in)
	return false
}

// relay gives the message to all it is for, or to none, and says why not.
func (m *model) relay(from *modelSeat, in modelInput) string {
	var targets []*modelSeat
	for _, s := range from.room.seats {
		if s != from && (in.to == "" || in.to == s.id) {
			targets = append(targets, s)
		}
	}
	if len(targets) == 0 {
		return "no-peer"
	}
	member := map[string]string{"offer": "sdp", "answer": "sdp", "candidate": "candidate", "message": "data"}[in.kind]
	text := fmt.Sprintf(`{"type":%q,"from":%q,%q:%s`, in.kind, from.id, member, in.payload)
	for _, s := range targets {
		if !m.fits(s, from, len(text)) {
			return "busy"
		}
	}
	for _, s := range targets {
		s.say(text, relayedMessage, from)
	}
	return ""
}

// fits is section 5.5: 256 messages and 256 KiB, of each a share for each of the others.
func (m *model) fits(s, from *modelSeat, size int) bool {
	all, allBytes := s.waiting(func(w modelSaid) bool { return w.class == relayedMessage })
	own, ownBytes := s.waiting(func(w modelSaid) bool { return w.class == relayedMessage && w.from == from })
	others := m.capacity - 1
	switch {
	case all+1 > 256 || allBytes+size > 256<<10:
		return false
	case own == 0:
		return true
	}
	return own+1 <= 256/others && ownBytes+size <= 256<<10/others
}

func (m *model) join(c *modelConn, in modelInput) {
	if m.closed {
		c.shut(1012)
		return
	}
	room := m.rooms[in.room]
	if room == nil {
		room = &modelRoom{name: in.room}
	}
	s := room.seatOf(in.session)
	if s != nil && in.attempt < s.attempt {
		m.refuse(c, in, "stale-attempt", 0)
		return
	}
	if old := room.seatOf(in.replaces); old != nil {
		old.conn.shut(4500)
		m.end(old, "replaced")
	}
	if s != nil && s.conn != nil {
		s.conn.shut(4500)
		s.conn = nil
		if m.lapsed(s) {
			m.end(s, "error")
			s = nil
		}
	}
	resumed := false
	if s == nil {
		if len(room.seats) == m.capacity {
			m.refuse(c, in, "room-full", m.retryAfter(room))
			return
		}
		s = m.newSeat(room, in)
	} else {
		resumed = in.since == 0 || in.since == s.knownBy // else it counts for an earlier seat
		if !resumed && (s.handled > 0 || s.acked > 0) || resumed && (in.received < s.acked || in.received > s.most) {
			m.end(s, "error")
			m.refuse(c, in, "out-of-sync", 0)
			return
		}
		m.comeBack(s, in, resumed)
	}
	s.conn, c.seat = c, s
	s.attempt, s.since, s.progress = in.attempt, m.now, false
	s.sent, s.owed, s.ackAt, s.ackDue = s.acked, 0, time.Time{}, false
	if in.received > 0 || in.attempt > 0 {
		c.bonus = 256
	}
	grace := 0
	if s.key != "" {
		grace = int(modelGrace.Seconds())
	}
	c.say(fmt.Sprintf(`{"type":"joined","room":%s,"id":%q,"peers":[%s],"resumed":%t,"received":%d,"grace":%d,"iceServers":[]}`,
		quote(room.name), s.id, room.peersOf(s), resumed, s.handled, grace))
}

func (m *model) newSeat(room *modelRoom, in modelInput) *modelSeat {
	s := &modelSeat{id: in.newID, key: in.session, name: in.name, room: room, knownBy: in.attempt}
	if in.session != "" {
		s.id = modelID(in.session)
	}
	for _, other := range room.seats {
		other.event(`{"type":"peer-joined","peer":` + s.withName())
	}
	room.seats = append(room.seats, s)
	m.rooms[room.name] = room
	return s
}

func (m *model) comeBack(s *modelSeat, in modelInput, resumed bool) {
	s.cameBack = true
	if resumed {
		if in.received > s.acked {
			s.lapses = 0
		}
		s.acknowledge(in.received)
	}
	if !resumed || in.since == 0 {
		s.knownBy = in.attempt
	}
	if in.name != "" {
		s.name = in.name
	}
	if s.away {
		s.away = false
		m.tellOthers(s, "peer-back")
	}
}

// lost is the end of connection c (section 7, "What becomes of the seat").
func (m *model) lost(c *modelConn, how Ending) {
	s := c.seat
	if s == nil || s.conn != c {
		return
	}
	s.conn = nil
	switch {
	case how == EndViolation:
		m.end(s, "error")
	case how == EndLeft:
		m.end(s, "left")
	case s.key == "" && how == EndSilent:
		m.end(s, "timeout")
	case s.key == "":
		m.end(s, "left")
	case m.lapsed(s):
		m.end(s, "error")
	default:
		s.away, s.awayUntil = true, m.now.Add(modelGrace)
		if how == EndGoingAway {
			s.awayUntil = m.now.Add(modelGoingAway)
		}
		s.owed, s.ackAt = 0, time.Time{}
		m.tellOthers(s, "peer-away")
	}
	m.settle()
}

// lapsed books the end of a connection of s, and says whether it was one too many.
func (m *model) lapsed(s *modelSeat) bool {
	if s.cameBack && !s.progress && m.now.Sub(s.since) < 2*time.Second {
		s.lapses++
	} else {
		s.lapses = 0
	}
	return s.lapses == 3
}

// advance lets time go by until now; wall is the same with stalls.
func (m *model) advance(now, wall time.Time) {
	m.wall = wall
	for {
		at, any := m.nextDeadline()
		if !any || at.After(now) {
			break
		}
		m.now = at
		for _, r := range m.rooms {
			for _, s := range append([]*modelSeat(nil), r.seats...) {
				if s.away && !s.awayUntil.After(at) {
					m.end(s, "timeout")
				} else if !s.ackAt.IsZero() && !s.ackAt.After(at) {
					s.sayAck()
				}
			}
		}
		m.settle()
	}
	m.now = now
}

func (m *model) nextDeadline() (at time.Time, any bool) {
	for _, r := range m.rooms {
		for _, s := range r.seats {
			due := s.ackAt
			if s.away {
				due = s.awayUntil
			}
			if !due.IsZero() && (!any || due.Before(at)) {
				at, any = due, true
			}
		}
	}
	return at, any
}

// restart ends the server.
func (m *model) restart() {
	m.closed = true
	for _, r := range m.rooms {
		for _, s := range r.seats {
			s.conn.shut(1012)
			s.conn = nil
		}
	}
	m.rooms = nil
}

// ---- what is said

// refuse answers a message with an error: counted where there is a seat, unless it answers a join.
func (m *model) refuse(c *modelConn, in modelInput, code string, retryAfter int) {
	text := errorText(code, in, retryAfter)
	if code == "bad-message" || code == "unknown-type" {
		if c.bad++; c.bad == 10 {
			m.dismiss(c, text)
			return
		}
	}
	if c.seat == nil || in.kind == "join" {
		c.say(text + "}")
		if code == "out-of-sync" {
			c.shut(4002)
		}
		return
	}
	if c.seat.conn != c {
		return
	}
	numbered := in.seq != 0 && in.kind != "join" && in.kind != "ack" && in.kind != "ping"
	if numbered && !m.counts(c.seat, in) {
		return
	}
	c.seat.answer(text)
	if numbered {
		c.seat.oweAck(m.now)
	}
}

// dismiss ends a connection for what its client did.
func (m *model) dismiss(c *modelConn, text string) {
	c.say(text + "}")
	c.shut(1008)
	m.lost(c, EndViolation)
}

func (m *model) outOfSync(s *modelSeat, in modelInput) {
	s.conn.say(errorText("out-of-sync", in, 0) + "}")
	s.conn.shut(4002)
	m.end(s, "error")
}

// end frees a seat.
func (m *model) end(s *modelSeat, reason string) {
	s.conn, s.away, s.said = nil, false, nil
	for i, other := range s.room.seats {
		if other == s {
			s.room.seats = append(append([]*modelSeat(nil), s.room.seats[:i]...), s.room.seats[i+1:]...)
			break
		}
	}
	for _, other := range s.room.seats {
		other.event(fmt.Sprintf(`{"type":"peer-left","peer":{"id":%q},"reason":%q`, s.id, reason))
	}
	if len(s.room.seats) == 0 {
		delete(m.rooms, s.room.name)
	}
}

// settle ends the seats that too much waits for. The end of one is an event to the others.
func (m *model) settle() {
	for again := true; again; {
		again = false
		for _, r := range m.rooms {
			for _, s := range r.seats {
				if s.overflowed {
					s.conn.shut(4001)
					m.end(s, "overflow")
					again = true
					break
				}
			}
		}
	}
}

func (m *model) tellOthers(s *modelSeat, event string) {
	for _, other := range s.room.seats {
		if other != s {
			other.event(fmt.Sprintf(`{"type":%q,"peer":{"id":%q}`, event, s.id))
		}
	}
}

func (m *model) retryAfter(r *modelRoom) int {
	first := 0
	for _, s := range r.seats {
		if s.away {
			if in := max(1, int(math.Ceil(s.awayUntil.Sub(m.now).Seconds()))); first == 0 || in < first {
				first = in
			}
		}
	}
	return first
}

func (r *modelRoom) seatOf(key string) *modelSeat {
	for _, s := range r.seats {
		if key != "" && s.key == key {
			return s
		}
	}
	return nil
}

func (r *modelRoom) peersOf(own *modelSeat) string {
	var all []string
	for _, s := range r.seats {
		if s == own {
			continue
		}
		peer := s.withName()
		if s.away {
			peer = strings.TrimSuffix(peer, "}") + `,"away":true}`
		}
		all = append(all, peer)
	}
	return strings.Join(all, ",")
}

func (s *modelSeat) withName() string {
	if s.name == "" {
		return fmt.Sprintf(`{"id":%q}`, s.id)
	}
	return fmt.Sprintf(`{"id":%q,"name":%s}`, s.id, quote(s.name))
}

// event is what the room itself says: 64 messages and 32 KiB wait, or the seat ends.
func (s *modelSeat) event(text string) {
	if n, bytes := s.waiting(func(w modelSaid) bool { return w.class == roomEvent }); n+1 > 64 || bytes+len(text) > 32<<10 {
		s.overflowed = true
		return
	}
	s.say(text, roomEvent, nil)
}

// answer is an error to the seat's own client: 256 wait. (Their 64 KiB are more than 256 that are
// ever said.)
func (s *modelSeat) answer(text string) {
	if n, _ := s.waiting(func(w modelSaid) bool { return w.class == errorAnswer }); n+1 > 256 {
		s.overflowed = true
		return
	}
	s.say(text, errorAnswer, nil)
}

func (s *modelSeat) say(text string, class modelClass, from *modelSeat) {
	s.said = append(s.said, modelSaid{text, from, class})
	s.wake()
}

// waiting is how much of what was said has to be kept.
func (s *modelSeat) waiting(of func(modelSaid) bool) (messages, bytes int) {
	for _, w := range s.said[s.acked:] {
		if of(w) {
			messages++
			bytes += len(w.text)
		}
	}
	return messages, bytes
}

func (s *modelSeat) acknowledge(received int) {
	s.acked = received
	s.sent = max(s.sent, received)
}

// oweAck: after 8 messages, or 1 s after the first.
func (s *modelSeat) oweAck(now time.Time) {
	if s.key == "" || s.overflowed {
		return
	}
	if s.owed++; s.owed == 8 {
		s.sayAck()
	} else if s.owed == 1 {
		s.ackAt = now.Add(time.Second)
	}
}

func (s *modelSeat) sayAck() {
	s.ack, s.ackDue = s.handled, true
	s.owed, s.ackAt = 0, time.Time{}
	s.wake()
}

func (s *modelSeat) wake() {
	if s.conn != nil && s.conn.eager {
		s.conn.got = append(s.conn.got, s.conn.fetchAll()...)
	}
}

// ---- the connection

func (c *modelConn) say(text string) { c.direct = append(c.direct, text) }

// shut closes c with code, if there is a c and nothing closed it before.
func (c *modelConn) shut(code int) {
	if c != nil && c.close == 0 {
		c.close = code
	}
}

// fetch is the next message of the connection.
func (c *modelConn) fetch() (string, bool) {
	if len(c.direct) > 0 {
		text := c.direct[0]
		c.direct = c.direct[1:]
		return text, true
	}
	s := c.seat
	if s == nil || s.conn != c {
		return "", false
	}
	refusals := slices.ContainsFunc(s.said[s.sent:], func(w modelSaid) bool { return w.class == errorAnswer })
	if s.ackDue && !refusals {
		s.ackDue = false
		return fmt.Sprintf(`{"type":"ack","received":%d}`, s.ack), true
	}
	if s.sent == len(s.said) {
		return "", false
	}
	text := s.said[s.sent].text
	s.sent++
	s.most = max(s.most, s.sent)
	if s.key == "" {
		s.acked = s.sent
		return text + "}", true
	}
	return fmt.Sprintf(`%s,"seq":%d}`, text, s.sent), true
}

func (c *modelConn) fetchAll() (all []string) {
	for {
		text, ok := c.fetch()
		if !ok {
			return all
		}
		all = append(all, text)
	}
}

func (c *modelConn) allow(m *model) bool {
	if c.bonus > 0 {
		c.bonus--
		return true
	}
	return c.tokens.take(m.wall)
}

// A modelBucket is a limit of so many a second, and burst at once.
type modelBucket struct {
	rate, burst int
	billionths  int // what is in it
	at          time.Time
}

func newModelBucket(rate, burst int, now time.Time) modelBucket {
	return modelBucket{rate, burst, burst * 1e9, now}
}

func (b *modelBucket) take(now time.Time) bool {
	elapsed := min(now.Sub(b.at), 24*time.Hour)
	b.billionths = min(b.burst*1e9, b.billionths+int(elapsed)*b.rate)
	b.at = now
	if b.billionths < 1e9 {
		return false
	}
	b.billionths -= 1e9
	return true
}

// ---- words

// errorText is an error without its closing brace; what it says to people is left open.
func errorText(code string, in modelInput, retryAfter int) string {
	text := fmt.Sprintf(`{"type":"error","code":%q,"message":"…"`, code)
	if in.kind != "" {
		text += fmt.Sprintf(`,"for":%q`, in.kind)
	}
	if in.seq != 0 {
		text += fmt.Sprintf(`,"ref":%d`, in.seq)
	}
	if retryAfter != 0 {
		text += fmt.Sprintf(`,"retryAfter":%d`, retryAfter)
	}
	return text
}

func modelID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:])[:16]
}

func quote(s string) string { return `"` + s + `"` } // of text that needs no escapes
