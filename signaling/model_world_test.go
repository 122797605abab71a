package signaling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing/synctest"
	"time"
)

// A world is one run of a sequence: the rooms and the model, and the clients between them. Its
// methods run in a bubble of fake time.
type world struct {
	scene   scene
	hub     *Hub
	model   *model
	clients []*client
	links   []*link
	audit   audit
	only    func(who int) bool // whose operations are run

	began    time.Time
	waited   []time.Duration // by each opWait, in order
	replay   []time.Duration // to wait so instead
	applied  bool            // whether the last operation could do anything
	done     int             // operations
	messages int             // sent by clients
}

// A client is somebody at a browser, with one page after the other.
type client struct {
	w      *world
	number int
	plain  bool
	room   string
	sent   int    // messages, by name
	id     string // of the seat it had last
	page   *page
	links  []*link // newest last
}

// A page is one load of the page, and the program in it.
type page struct {
	number       int
	key, earlier string // session keys, of this page and the one before; "" = none
	attempt      int
	lives        map[string]*life // by room
	life         *life            // of the room it went to last
	used         map[int]bool     // attempts
	careless     bool             // it used one twice, which the protocol forbids
	joining      map[string]*link // by room, the one it joined with last: it listens to no earlier one
}

// A life is what a client remembers of one seat.
type life struct {
	room     string
	seat     *seat
	began    int           // the operation that got the seat
	since    int           // the attempt that did; 0 = not known
	received int           // the last seq handled
	acked    int           // the last that the server has handled
	outbox   []clientInput // what it sent; outbox[i] has seq i+1
	present  map[string]string
	heard    map[string]bool
	unsure   bool // it does not stick to the protocol, or does not know who was there at first: it has no complaints
}

// A taken is a seat that a link got, by which attempt, and whether nobody had it before.
type taken struct {
	seat    *seat
	attempt int
	fresh   bool
	began   int // the operation that got it
}

// A clientInput is a message, as the server gets it and as the model does.
type clientInput struct {
	json string
	in   modelInput
	name string // part of the payload, unlike any other
	made int    // the operation that made it
}

var ping = clientInput{json: `{"type":"ping"}`, in: modelInput{kind: "ping"}}

// A link is one connection of a client. It is its Transport.
type link struct {
	client  *client
	page    *page
	conn    *Conn
	model   *modelConn
	server  *model // which the connection was made to
	attempt int
	eager   bool
	woken   bool // there is something to fetch
	cut     bool // nothing arrives at the client any more
	lost    bool // the server knows that it ended
	code    int  // it is closed with; 0 = it is not
	got     []string
	checked int     // how many of them were compared
	held    bool    // on the way to the client, for now
	arrived int     // how many it heard
	life    *life   // of the seat it has
	taken   []taken // seats whose joined was not heard yet
	joins   int
	deaf    bool // the page has joined with another since
	hasty   bool // sent something counted before it heard joined
	next    int  // seq of the client's next message here
}

func newWorld(s scene, h *Hub) *world {
	w := &world{scene: s, began: time.Now(), only: func(int) bool { return true }}
	w.start(h)
	w.audit.start()
	for i := range s.everybody() {
		c := &client{w: w, number: i, plain: s.Plain>>i&1 == 1, room: "one"}
		if i >= s.Clients {
			c.room = "calm"
		}
		w.clients = append(w.clients, c)
		c.load()
	}
	return w
}

func (s scene) config() Config {
	cfg := testConfig()
	cfg.RoomCapacity, cfg.MessageRate, cfg.MessageBurst = s.Capacity, float64(s.Rate), s.Burst
	return cfg
}

func (w *world) start(h *Hub) {
	w.hub = h
	w.hub.clock.tick(time.Now())
	w.model = &model{capacity: w.scene.Capacity, rate: w.scene.Rate, burst: w.scene.Burst,
		now: h.Now(), wall: time.Now(), rooms: map[string]*modelRoom{}}
}

// load is a page load.
func (c *client) load() {
	p := &page{number: 1, lives: map[string]*life{}, joining: map[string]*link{}, used: map[int]bool{}}
	if c.page != nil {
		p.number, p.earlier = c.page.number+1, c.page.key
	}
	if !c.plain {
		p.key = fmt.Sprintf("client-%d-page-%d-secret-key", c.number, p.number)
	}
	p.goTo(c.room)
	c.page = p
}

func newLife(room string) *life {
	return &life{room: room, present: map[string]string{}, heard: map[string]bool{}}
}

func (p *page) goTo(room string) {
	if p.lives[room] == nil {
		p.lives[room] = newLife(room)
	}
	p.life = p.lives[room]
}

// ---- Transport

func (l *link) Close(cause error) {
	l.woken = true // it says what there is, and then closes
	if l.code == 0 {
		l.code = FailureOf(cause).Close
	}
}

// Wake fetches for an eager client at once, also in the middle of what the room does, or soon after
// where the caller holds the connection.
func (l *link) Wake() {
	if l.woken = true; l.eager && l.conn.mu.TryLock() {
		l.conn.mu.Unlock()
		l.wakeUp()
	}
}

func (l *link) wakeUp() {
	if l.woken {
		l.woken = false
		l.fetch(-1)
	}
}

// fetch takes n messages of the connection, all if n is negative.
func (l *link) fetch(n int) {
	for ; n != 0; n-- {
		msg, _, ok := l.conn.Next(nil)
		if !ok {
			return
		}
		l.got = append(l.got, string(msg))
	}
}

// ---- operations

// do runs one operation on both sides and compares them. An error says how they differ, or what the
// clients found wrong.
func (w *world) do(o op) error {
	w.applied = false
	w.done++
	if w.only(o.Who) || o.Do == opWait {
		if err := w.apply(o); err != nil {
			return err
		}
	}
	return w.check()
}

func (w *world) apply(o op) error {
	c := w.clients[o.Who%len(w.clients)]
	switch o.Do {
	case opWait:
		return w.wait(w.duration(o.A))
	case opStall:
		if w.scene.Calm {
			return nil
		}
		return w.stall(stalls[o.A%len(stalls)])
	case opRestart:
		w.restart()
		return nil
	case opVisit:
		if c.number < w.scene.Clients {
			w.visit(c, visitRepeats[o.A%len(visitRepeats)])
		}
		return nil
	case opReload:
		c.load()
		w.applied = true
		return nil
	case opOpen, opCome:
		c.open()
		if o.Do == opCome {
			l := c.links[len(c.links)-1]
			l.join(op{})
			l.read(1)
		}
		return nil
	}
	if o.Conn >= len(c.links) {
		return nil
	}
	l := c.links[len(c.links)-1-o.Conn]
	switch o.Do {
	case opRead:
		l.read(o.A)
		return nil
	case opHold:
		l.held = !l.held
		w.applied = true
		return nil
	}
	if l.lost {
		return nil
	}
	switch o.Do {
	case opJoin:
		l.join(o)
	case opSend:
		l.sendAll(o)
	case opBad:
		for range badRepeats[o.B%len(badRepeats)] {
			l.bad(o.A % len(bads))
		}
	case opAck:
		in := modelInput{kind: "ack", received: l.received(o.A)}
		l.say(clientInput{json: fmt.Sprintf(`{"type":"ack","received":%d}`, in.received), in: in})
	case opLeave:
		l.counted(o.A, clientInput{json: `{"type":"leave"`, in: modelInput{kind: "leave"}})
	case opPing:
		for range pingRepeats[o.A%len(pingRepeats)] {
			l.say(ping)
		}
	case opLose:
		l.lose(Ending(o.A % int(EndViolation+1)))
	case opCut:
		l.cut = true
		w.applied = true
	}
	return nil
}

func (c *client) open() {
	w := c.w
	p := c.page
	p.attempt++
	l := &link{client: c, page: p, attempt: p.attempt, eager: w.scene.Eager>>c.number&1 == 1, server: w.model,
		life: p.life, next: len(p.life.outbox) + 1}
	l.conn = w.hub.Connect(l, func() bool { return true })
	l.model = &modelConn{eager: l.eager,
		tokens:  newModelBucket(w.scene.Rate, w.scene.Burst, w.model.wall),
		pardons: newModelBucket(w.scene.Rate/5, w.scene.Burst, w.model.wall)}
	c.links = append(c.links, l)
	w.links = append(w.links, l)
	w.applied = true
}

// visit lets a connection without session come to c's room and leave it, n times. It is none of
// the clients'.
func (w *world) visit(c *client, n int) {
	visitor := &client{w: w, number: len(w.clients), plain: true, room: c.room}
	visitor.load()
	visitor.open()
	l := visitor.links[0]
	for range n {
		l.join(op{})
		l.counted(seqMissing, clientInput{json: `{"type":"leave"`, in: modelInput{kind: "leave"}})
	}
	l.read(0)
	l.lose(EndLeft)
}

// say sends one message to both sides.
func (l *link) say(m clientInput) {
	if l.lost {
		return
	}
	w := l.client.w
	w.applied = true
	w.messages++
	if err := l.conn.Receive(context.Background(), []byte(m.json)); err != nil {
		l.Close(err)
		l.lost = true
		l.conn.Lost(EndViolation)
	}
	synctest.Wait()
	if s := l.conn.local().seat; s != nil {
		m.in.newID = string(s.id)
		l.client.id = m.in.newID
	}
	l.server.wall = time.Now() // also of a server that has ended
	l.server.receive(l.model, m.in)
}

func (l *link) join(o op) {
	c, p := l.client, l.page
	if l.joins++; l.joins > 1 {
		p.attempt++
		l.attempt = p.attempt
	}
	in := modelInput{kind: "join", room: c.room, session: p.key, attempt: l.attempt}
	calm := c.number >= c.w.scene.Clients
	switch o.A % numAttempts {
	case attemptNewest:
		in.attempt = p.attempt
	case attemptLower:
		in.attempt = p.attempt - 1
	}
	switch o.C % numJoins {
	case joinReplaces:
		in.replaces = p.earlier
	case joinReplacesOther:
		in.replaces = c.w.clients[(c.number+1)%len(c.w.clients)].page.key
		if in.replaces == in.session && !c.plain { // there is no other
			in.fault = "bad-message"
		}
	case joinReplacesNobody:
		in.replaces = "nobody-has-this-session-key"
	case joinNamed:
		in.name = fmt.Sprintf("Anna %d", l.attempt)
	}
	if elsewhere := o.C%numJoins == joinElsewhere || c.w.scene.Elsewhere>>c.number&1 == 1; elsewhere && !calm {
		in.room = "two"
	}
	p.goTo(in.room)
	in.received, in.since = l.received(o.B), p.life.since
	switch o.C % numJoins {
	case joinWithoutSince:
		in.since = 0
	case joinSinceBefore:
		in.since = max(0, in.since-1)
	}
	p.careless = p.careless || p.used[in.attempt]
	p.life.unsure = p.life.unsure || p.careless || in.since != p.life.since
	p.used[in.attempt] = true
	text := fmt.Sprintf(`{"type":"join","room":%q,"attempt":%d,"received":%d`, in.room, in.attempt, in.received)
	if in.since > 0 {
		text += fmt.Sprintf(`,"since":%d`, in.since)
	}
	for name, value := range map[string]string{"session": in.session, "replaces": in.replaces, "name": in.name} {
		if value != "" {
			text += fmt.Sprintf(`,%q:%q`, name, value)
		}
	}
	had := l.conn.local().seat
	if had == nil {
		p.joining[in.room] = l
	}
	l.say(clientInput{json: text + "}", in: in})
	if s := l.conn.local().seat; s != had {
		l.taken = append(l.taken, taken{s, in.attempt, l.conn.local().gen == 1, c.w.done})
	}
}

// received is a count for ack or join, right or in some way wrong.
func (l *link) received(how int) int {
	n := l.page.life.received
	switch how % numReceived {
	case receivedAbove:
		l.page.life.unsure = true // it lies, and may get a gap for it
		return n + 1
	case receivedBelow:
		return max(0, n-1)
	case receivedNone:
		return 0
	}
	return n
}

func (l *link) sendAll(o op) {
	c := l.client
	what := sends[o.C%len(sends)]
	for range what.repeat {
		in := modelInput{kind: what.kind}
		c.sent++
		name := fmt.Sprintf("%d-%d", c.number, c.sent)
		payload := name + strings.Repeat("x", what.bytes)
		var member string
		switch what.kind {
		case "candidate":
			member, in.payload = "candidate", fmt.Sprintf(`{"candidate":%q}`, payload)
		case "message":
			member, in.payload = "data", quote(payload)
		default:
			member, in.payload = "sdp", quote(payload)
		}
		text := fmt.Sprintf(`{"type":%q,%q:%s`, in.kind, member, in.payload)
		if to := o.B % numTos; to != toAll {
			in.to = "nobody"
			if to <= len(c.w.clients) {
				in.to = c.w.clients[to-1].presentID()
			}
			text += fmt.Sprintf(`,"to":%q`, in.to)
		}
		l.counted(o.A, clientInput{text, in, name, c.w.done})
	}
}

// presentID is the id that the others know the client by.
func (c *client) presentID() string {
	switch {
	case c.id != "":
		return c.id
	case !c.plain:
		return modelID(c.page.key)
	}
	return "nobody"
}

func (l *link) bad(which int) {
	b := bads[which]
	m := clientInput{json: b.json, in: modelInput{fault: b.fault, kind: b.kind}}
	if b.seq == seqMissing {
		l.say(m)
		return
	}
	m.json, _, _ = strings.Cut(m.json, `,"seq"`)
	l.counted(b.seq, m)
}

// counted sends m, whose JSON is still open, with a seq that is right or in some way wrong. What the
// client sent before under the right one it sends again.
func (l *link) counted(how int, m clientInput) {
	switch how % numSeqs {
	case seqRight:
		m.in.seq = l.next
		l.next++
	case seqAgain:
		m.in.seq = max(1, l.next-1)
	case seqGap:
		m.in.seq = l.next + 1
	case seqMissing:
		m.json += "}"
		l.say(m)
		return
	}
	outbox := &l.life.outbox
	switch {
	case l.conn.local().seat == nil: // refused, and not counted
		outbox = new([]clientInput)
	case len(l.taken) > 0:
		l.life.unsure, l.hasty = true, true
	}
	if how%numSeqs != seqGap && m.in.seq <= len(*outbox) {
		l.say((*outbox)[m.in.seq-1])
		return
	}
	m.json += fmt.Sprintf(`,"seq":%d}`, m.in.seq)
	if m.in.seq == len(*outbox)+1 && !l.client.plain {
		*outbox = append(*outbox, m)
	}
	l.say(m)
}

func (l *link) lose(how Ending) {
	l.lost = true
	l.conn.Lost(how)
	synctest.Wait()
	l.server.lost(l.model, how)
	l.client.w.applied = true
}

func (l *link) read(n int) {
	before := len(l.got)
	if n == 0 {
		n = -1
	}
	l.fetch(n)
	for i := n; i != 0; i-- {
		text, ok := l.model.fetch()
		if !ok {
			break
		}
		l.model.got = append(l.model.got, text)
	}
	l.client.w.applied = len(l.got) > before
}

// ---- time

// duration is how long an opWait waits.
func (w *world) duration(which int) time.Duration {
	if len(w.replay) > 0 {
		d := w.replay[0]
		w.replay = w.replay[1:]
		return d
	}
	d := waits[which%len(waits)]
	if d < 0 {
		at, any := w.model.nextDeadline()
		if d -= waitDue; any {
			d += at.Sub(w.model.now)
		}
		d = max(d, 0)
	}
	w.waited = append(w.waited, d)
	return d
}

// wait lets time go by, with the ticks of a process that runs.
func (w *world) wait(d time.Duration) error {
	w.applied = d > 0
	for d > 0 {
		step := min(d, clockTick)
		time.Sleep(step)
		synctest.Wait()
		w.hub.clock.tick(time.Now())
		w.model.advance(w.model.now.Add(step), time.Now())
		d -= step
	}
	if now := w.hub.Now(); !now.Equal(w.model.now) {
		return fmt.Errorf("it is %v by the hub, %v after the beginning by the model", now.Sub(w.began), w.model.now.Sub(w.began))
	}
	return nil
}

// stall stops the process for d: nothing ticks, and all timers fire. The protocol promises that no
// deadline comes nearer; a stall is known to 4 s, so whatever is due in that time is awaited first.
func (w *world) stall(d time.Duration) error {
	for {
		at, any := w.model.nextDeadline()
		if left := at.Sub(w.model.now); !any || left > stallKnown {
			break
		} else if err := w.wait(left); err != nil {
			return err
		}
	}
	w.hub.clock.tick(time.Now())
	time.Sleep(d)
	synctest.Wait()
	now := w.hub.Now()
	w.hub.clock.tick(time.Now())
	if gone := now.Sub(w.model.now); gone < 0 || gone > stallKnown {
		return fmt.Errorf("after a stall of %v the hub's clock is %v further", d, gone)
	}
	w.model.advance(now, time.Now())
	w.applied = true
	return nil
}

const stallKnown = stallAfter + clockTick

func (w *world) restart() {
	w.applied = true
	w.endHub()
	w.model.restart()
	w.start(newTestHub(w.scene.config()))
}

// endHub does what the end of Hub.Run does.
func (w *world) endHub() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w.hub.Run(ctx)
	synctest.Wait()
}

// ---- comparing

var errorMessage = regexp.MustCompile(`^({"type":"error","code":"[^"]*","message":)"(?:[^"\\]|\\.)*"`)

// check compares what the connections got and were closed with, and what must hold of every ring.
func (w *world) check() error {
	for _, l := range w.links {
		if l.eager {
			l.wakeUp()
			l.model.got = append(l.model.got, l.model.fetchAll()...)
		}
		for ; l.checked < max(len(l.got), len(l.model.got)); l.checked++ {
			got, want := "nothing", "nothing"
			if l.checked < len(l.got) {
				got = errorMessage.ReplaceAllString(l.got[l.checked], `$1"…"`)
			}
			if l.checked < len(l.model.got) {
				want = l.model.got[l.checked]
			}
			if got != want {
				return fmt.Errorf("%v, message %d:\n\tgot  %.300s\n\twant %.300s", l, l.checked, got, want)
			}
		}
		for ; !l.held && l.arrived < l.checked; l.arrived++ {
			if err := l.heard(l.got[l.arrived]); err != nil {
				return fmt.Errorf("%v, message %d: %w: %.300s", l, l.arrived, err, l.got[l.arrived])
			}
		}
		if l.code != l.model.close {
			return fmt.Errorf("%v: closed with %d, want %d", l, l.code, l.model.close)
		}
	}
	return w.checkRings()
}

func (l *link) String() string {
	return fmt.Sprintf("client %d, connection of attempt %d", l.client.number, l.attempt)
}

// checkRings looks at what no client can see.
func (w *world) checkRings() error {
	w.hub.mu.Lock()
	rooms := slices.Collect(maps.Values(w.hub.rooms))
	w.hub.mu.Unlock()
	held := 0
	for _, room := range rooms {
		found := make(chan error, 1)
		room.post(look(func() {
			var err error
			for _, s := range room.seats {
				bytes, wrong := w.checkRing(s)
				held += bytes
				err = errors.Join(err, wrong)
			}
			found <- err
		}))
		if err := <-found; err != nil {
			return err
		}
	}
	if n := w.hub.waiting.Load(); n != int64(held) {
		return fmt.Errorf("%d bytes are counted, %d are held", n, held)
	}
	return nil
}

// A look lets a room's goroutine look around.
type look func()

func (l look) apply(*Room) { l() }

func (w *world) checkRing(s *seat) (bytes int, err error) {
	r := s.ring
	items := r.items[r.off:]
	if r.acked > r.sent || r.sent > r.given || r.given > r.head || int(r.head-r.acked) != len(items) {
		return 0, fmt.Errorf("ring of %s: acked %d, sent %d, given %d, head %d, %d held", s.id, r.acked, r.sent, r.given, r.head, len(items))
	}
	may := 0
	for _, l := range w.links {
		if f, ok := l.conn.feed.(seatFeed); ok && f.ring == r && f.gen == r.gen {
			may++
		}
	}
	if may > 1 || may == 1 && s.away() {
		return 0, fmt.Errorf("%d connections may fetch from the ring of %s", may, s.id)
	}
	for _, it := range items {
		bytes += len(it.envelope)
	}
	if bytes > ringBytes+errorBytes+reserveBytes {
		return 0, fmt.Errorf("the ring of %s holds %d bytes", s.id, bytes)
	}
	return bytes, nil
}

// ---- what the clients see

// An audit is kept by all clients together, of what reached them and nothing else: the server's
// promises as they look from outside.
type audit struct {
	refused map[string]string // names of messages whose senders were told so, and with what
	heard   map[string]bool   // names of messages that somebody got

	messages int // looked at
	arrivals int // looked for
}

func (a *audit) start() { a.refused, a.heard = map[string]string{}, map[string]bool{} }

type heardMessage struct {
	Type, Room, From, SDP, Code, For string
	Seq, Ref, Received               int
	Resumed                          bool
	Peer                             struct{ ID string }
	Peers                            []struct {
		ID   string
		Away bool
	}
	Candidate struct{ Candidate string }
	Data      string
}

// name is that of the clientInput.
func (m *heardMessage) name() string {
	return strings.TrimRight(m.Data+m.SDP+m.Candidate.Candidate, "x")
}

// heard is the client's side of the protocol: it counts, remembers, and objects.
func (l *link) heard(text string) error {
	if l.cut {
		return nil
	}
	var m heardMessage
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	if m.Type == "joined" {
		return l.joined(&m)
	}
	v := l.life
	if !l.client.plain && l.page.joining[v.room] != l {
		l.deaf = true
	}
	switch {
	case l.deaf:
		return nil
	case v.unsure:
		v.received = max(v.received, m.Seq)
		return nil
	}
	l.client.w.audit.messages++
	if l.client.plain != (m.Seq == 0) && counts(&m) {
		return fmt.Errorf("seq %d", m.Seq)
	}
	if m.Seq != 0 {
		if m.Seq <= v.received {
			return nil
		}
		if m.Seq != v.received+1 {
			return fmt.Errorf("seq %d after %d", m.Seq, v.received)
		}
		v.received = m.Seq
	}
	return v.heardNew(&m, &l.client.w.audit)
}

// counts reports whether m is of those that carry a seq (section 5.2).
func counts(m *heardMessage) bool {
	switch m.Type {
	case "ack", "pong":
		return false
	case "error":
		return m.For != "join" && m.Code != "not-joined" && m.Code != "out-of-sync" && m.Seq != 0
	}
	return true
}

func (l *link) joined(m *heardMessage) error {
	t, p := l.taken[0], l.page
	l.taken = l.taken[1:]
	if p.joining[m.Room] != l && !l.client.plain {
		return nil
	}
	v := p.lives[m.Room]
	switch {
	case !m.Resumed:
		v = newLife(m.Room)
		v.seat, v.began = t.seat, t.began
		v.unsure = p.careless || !t.fresh // who was there when it was is in the joined that was lost
		for _, p := range m.Peers {
			v.present[p.ID] = map[bool]string{false: "here", true: "away"}[p.Away]
		}
	case v.seat == nil: // the first joined was lost, and who was there with it
		v.seat, v.unsure = t.seat, true
	case v.seat != t.seat && !v.unsure:
		return errors.New("it is not the seat that the client knows")
	case v.seat != t.seat:
		v.seat, v.outbox = t.seat, nil
	}
	if !m.Resumed || v.since == 0 {
		v.since = t.attempt
	}
	v.unsure, v.acked = v.unsure || l.hasty, m.Received
	if p.life == p.lives[m.Room] {
		p.life = v
	}
	p.lives[m.Room] = v
	l.life, l.next, l.hasty, l.deaf = v, m.Received+1, false, false
	for len(v.outbox) < m.Received { // sent by an earlier connection, whose joined was lost
		v.outbox = append(v.outbox, ping)
	}
	return nil
}

// heardNew checks a message that was not heard before against what came before it.
func (v *life) heardNew(m *heardMessage, a *audit) error {
	is, want := v.present[m.Peer.ID], "here"
	switch m.Type {
	case "peer-joined":
		v.present[m.Peer.ID], want = "here", ""
	case "peer-away":
		v.present[m.Peer.ID] = "away"
	case "peer-back":
		v.present[m.Peer.ID], want = "here", "away"
	case "peer-left":
		delete(v.present, m.Peer.ID)
		if want = is; is == "" {
			want = "here or away"
		}
	case "offer", "answer", "candidate", "message":
		if v.present[m.From] == "" {
			return fmt.Errorf("from somebody who is not there")
		}
		p := m.name()
		if v.heard[p] {
			return fmt.Errorf("heard before")
		}
		v.heard[p], a.heard[p] = true, true
		return nil
	case "error":
		if m.Seq > 0 && m.Ref > 0 && m.Ref <= len(v.outbox) && v.outbox[m.Ref-1].in.kind == m.For {
			a.refused[v.outbox[m.Ref-1].name] = m.Code
		}
		return nil
	case "ack":
		v.acked = m.Received
		return nil
	default:
		return nil
	}
	if is != want {
		return fmt.Errorf("the peer is %q", is)
	}
	return nil
}

// end lets every client hear what there is still to hear, then lets all connections break and all
// seats run out. Nothing may be left.
func (w *world) end() error {
	if err := w.readAll(); err != nil {
		return err
	}
	if err := w.checkArrivals(); err != nil {
		return err
	}
	for _, l := range w.links {
		if !l.lost {
			l.lose(EndLost)
		}
	}
	if err := w.check(); err != nil {
		return err
	}
	for len(w.model.rooms) > 0 {
		at, _ := w.model.nextDeadline()
		if err := w.wait(at.Sub(w.model.now)); err != nil {
			return err
		}
		if err := w.check(); err != nil {
			return err
		}
	}
	if err := w.readAll(); err != nil {
		return err
	}
	for p, code := range w.audit.refused {
		if w.audit.heard[p] && p != "" {
			return fmt.Errorf("message %s was refused with %s, and arrived", p, code)
		}
	}
	if n, bytes := w.hub.Rooms(), w.hub.waiting.Load(); n != 0 || bytes != 0 {
		return fmt.Errorf("%d rooms and %d bytes are left", n, bytes)
	}
	return nil
}

// checkArrivals compares what clients know to be handled with what the others have, once everybody
// has heard all there is.
func (w *world) checkArrivals() error {
	var seated []*link
	for _, l := range w.links {
		listens := l.client.plain || l.page.joining[l.life.room] == l && !l.deaf
		if listens && !l.lost && !l.cut && l.code == 0 && l.conn.local().seat != nil && l.life.seat == l.conn.local().seat && !l.life.unsure {
			seated = append(seated, l)
		}
	}
	for _, from := range seated {
		for _, m := range from.life.outbox[:min(from.life.acked, len(from.life.outbox))] {
			if m.in.payload == "" || w.audit.refused[m.name] != "" {
				continue
			}
			for _, to := range seated {
				sameRoom := to != from && to.conn.local().room == from.conn.local().room
				meant := m.in.to == "" || m.in.to == string(to.conn.local().seat.id)
				if !sameRoom || !meant || to.life.began >= m.made {
					continue
				}
				if w.audit.arrivals++; !to.life.heard[m.name] {
					return fmt.Errorf("message %s of client %d was handled, and never heard by client %d", m.name, from.client.number, to.client.number)
				}
			}
		}
	}
	return nil
}

func (w *world) readAll() error {
	for _, l := range w.links {
		l.read(0)
		l.held = false
	}
	return w.check()
}

// transcript is all that the clients for which of is true got.
func (w *world) transcript(of func(who int) bool) []string {
	var all []string
	for _, l := range w.links {
		if of(l.client.number) {
			all = append(all, l.String())
			all = append(all, l.got...)
		}
	}
	return all
}
