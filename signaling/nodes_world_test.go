package signaling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Clients on several nodes, which lose frames, freeze, die and hand their rooms over. What the clients
// hear is judged by docs/protocol.md section 5 alone.

// A nodesWorld is one run.
type nodesWorld struct {
	*fakeNodes
	chaos *rand.Rand // of the one goroutine that makes trouble

	mu      sync.Mutex
	clients []*netClient
	links   []*netLink
	lives   map[string]*netLife
	ended   map[RoomID]time.Time // when a room was last lost with its node
	flooded map[PeerID]bool      // its seat had too much waiting
	places  []NodeID             // where clients come to
	born    int                  // nodes
	calm    bool                 // no more trouble: everybody gets to the end
	faults  []string
	story   []string
}

// A netClient is somebody at a browser, with one page after the other.
type netClient struct {
	w        *nodesWorld
	number   int
	plain    bool
	room     RoomID
	chaos    *rand.Rand
	page     int
	key, was string // session keys of this page and the one before
	attempt  int
	since    int
	life     *netLife // nil before the first joined of a page
	lives    int
	link     *netLink
	lost     time.Time // when the last connection was
	short    int       // connections in a row that ended early
	finished bool
}

// A netLife is what a client did in one seat.
type netLife struct {
	name     string
	room     RoomID
	plain    bool
	began    time.Time
	sent     []string // with seq from 1
	acked    int
	sure     int // acknowledged, and what was refused of it is known: joined comes before the errors
	received int
	refused  map[int]bool
	leaving  bool
	over     bool
	heard    map[string][]int // by the sender's life
}

// A netLink is one connection. It is its Transport.
type netLink struct {
	client  *netClient
	node    *fakeNode
	conn    *Conn
	opened  time.Time
	joined  bool
	refused bool

	mu       sync.Mutex
	closed   int // the code; 0 = open
	closedAt time.Time
}

func (l *netLink) Wake() {}

func (l *netLink) Close(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed == 0 {
		l.closed, l.closedAt = FailureOf(cause).Close, time.Now()
	}
}

func (l *netLink) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed != 0
}

func (w *nodesWorld) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
	w.story = append(w.story, fmt.Sprintf("%v FAULT "+format, append([]any{time.Now().Format("04:05.000")}, args...)...))
}

func (w *nodesWorld) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.story = append(w.story, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

func (w *nodesWorld) isCalm() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calm
}

// place is a node that takes connections.
func (w *nodesWorld) place(r *rand.Rand) *fakeNode {
	w.mu.Lock()
	id := w.places[r.IntN(len(w.places))]
	w.mu.Unlock()
	w.fakeNodes.mu.Lock()
	defer w.fakeNodes.mu.Unlock()
	return w.nodes[id]
}

// lostSince reports whether the room was lost with its node after t.
func (w *nodesWorld) lostSince(room RoomID, t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.ended[room].Before(t)
}

// ---- a client

func (c *netClient) String() string { return fmt.Sprintf("client %d", c.number) }

func (c *netClient) load() {
	c.page++
	c.was, c.key = c.key, fmt.Sprintf("client-%d-page-%d-secret-key", c.number, c.page)
	c.attempt, c.since, c.life, c.short = 0, 0, nil, 0
}

// run is the client's goroutine.
func (c *netClient) run() {
	for {
		switch {
		case c.link == nil:
			c.sleep(2 * time.Second)
			c.connect()
		case c.link.isClosed():
			c.drop()
		default:
			c.read()
			if c.act() {
				return
			}
			c.sleep(150 * time.Millisecond)
		}
	}
}

func (c *netClient) sleep(most time.Duration) {
	time.Sleep(time.Duration(c.chaos.Int64N(int64(most))) + time.Microsecond)
}

func (c *netClient) connect() {
	c.attempt++
	n := c.w.place(c.chaos)
	l := &netLink{client: c, node: n, opened: time.Now()}
	l.conn = n.hub.Connect(l, func() bool { return true })
	c.link = l
	c.w.mu.Lock()
	c.w.links = append(c.w.links, l)
	c.w.mu.Unlock()
	join := fmt.Sprintf(`{"type":"join","room":%q`, c.room)
	if !c.plain {
		join += fmt.Sprintf(`,"session":%q,"attempt":%d`, c.key, c.attempt)
		if c.life != nil {
			join += fmt.Sprintf(`,"received":%d`, c.life.received)
		}
		if c.since > 0 {
			join += fmt.Sprintf(`,"since":%d`, c.since)
		}
		if c.was != "" {
			join += fmt.Sprintf(`,"replaces":%q`, c.was)
		}
	}
	c.w.tell("%v joins %s at %s, attempt %d", c, c.room, n.id, c.attempt)
	c.say(join + "}")
}

func (c *netClient) say(msg string) {
	if c.link.isClosed() {
		return
	}
	if err := c.link.conn.Receive(c.link.node.ctx, []byte(msg)); err != nil {
		c.link.Close(err)
	}
}

// drop loses the connection, with or without what is still in it.
func (c *netClient) drop() {
	if c.chaos.IntN(2) == 0 {
		c.read()
	}
	if c.link == nil {
		return
	}
	c.link.mu.Lock()
	code, at := c.link.closed, c.link.closedAt
	c.link.mu.Unlock()
	c.w.tell("%v lost its connection at %s (%d)", c, c.link.node.id, code)
	if c.link.conn.Seated() {
		c.link.conn.Lost(EndLost)
	}
	if c.link.joined {
		c.lost = at
	}
	if time.Since(c.link.opened) < barrenLife+enterTimeout {
		c.short++
	} else {
		c.short = 0
	}
	c.link = nil
	if c.plain && c.life != nil {
		c.life.over, c.life = true, nil
	}
}

// act does something, or nothing. True: the client has got to its end.
func (c *netClient) act() bool {
	l := c.link
	if l == nil || l.isClosed() {
		return false
	}
	if l.refused || !l.joined {
		if l.refused || time.Since(l.opened) > 20*time.Second {
			l.Close(ErrGoingAway)
		}
		return false
	}
	if c.w.isCalm() {
		if !c.plain && c.chaos.IntN(4) == 0 {
			c.say(fmt.Sprintf(`{"type":"ack","received":%d}`, c.life.received))
		}
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		c.finished = c.finished || c.plain || c.life.acked == len(c.life.sent) && time.Since(l.opened) > 5*time.Second
		for _, other := range c.w.clients {
			if !other.finished {
				return false
			}
		}
		return true
	}
	switch dice := c.chaos.IntN(200); {
	case dice < 60:
		for range 1 + c.chaos.IntN(4) {
			c.send(`{"type":"message","data":"%s:%d"`)
		}
	case dice < 90 && !c.plain:
		c.say(fmt.Sprintf(`{"type":"ack","received":%d}`, c.life.received))
	case dice < 94:
		l.Close(ErrGoingAway)
	case dice == 94:
		c.sleep(40 * time.Second) // and reads nothing
	case dice == 95:
		c.w.tell("%v loads its page again", c)
		l.Close(ErrGoingAway)
		c.drop()
		if c.life != nil {
			c.life.over = true
		}
		c.load()
	case dice == 96 && !c.plain && len(c.life.sent)-c.life.acked < 100:
		c.leave()
	case dice == 97:
		for end := time.Now().Add(40 * time.Second); time.Now().Before(end) && !l.isClosed() && !c.w.isCalm(); { // idle
			c.sleep(time.Second)
			c.read()
		}
	}
	return false
}

// send sends the next message, of a life's name and its number.
func (c *netClient) send(format string) {
	if c.life == nil || c.link == nil || len(c.life.sent)-c.life.acked >= 200 {
		return
	}
	n := len(c.life.sent) + 1
	msg := format
	if strings.Contains(format, "%") {
		msg = fmt.Sprintf(format, c.life.name, n)
	}
	if c.plain {
		msg += "}"
	} else {
		msg += fmt.Sprintf(`,"seq":%d}`, n)
	}
	c.w.mu.Lock()
	c.life.sent = append(c.life.sent, msg)
	c.w.mu.Unlock()
	c.say(msg)
}

func (c *netClient) leave() {
	c.w.tell("%v leaves", c)
	c.life.leaving = true
	c.send(`{"type":"leave"`)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && c.link != nil && !c.link.isClosed() && !c.life.over; {
		c.sleep(100 * time.Millisecond)
		c.read()
	}
	if c.link != nil {
		c.link.Close(ErrGoingAway)
		c.drop()
	}
	c.life.over = true
	c.load()
}

type netMessage struct {
	Type     string
	Code     string
	From     string
	Data     string
	Ref      int
	Seq      int
	Resumed  bool
	Received int
}

// read handles what there is.
func (c *netClient) read() {
	for c.link != nil {
		b, _, ok := c.link.conn.Next(nil)
		if !ok {
			return
		}
		var m netMessage
		if err := json.Unmarshal(b, &m); err != nil && m.Type != "iceServers" {
			c.w.fault("%v got %s: %v", c, b, err)
			return
		}
		c.hear(&m, b)
	}
}

func (c *netClient) hear(m *netMessage, b []byte) {
	l := c.link
	switch {
	case m.Type == "joined":
		c.joined(m)
		return
	case m.Type == "error" && !l.joined:
		l.refused = true
		c.w.tell("%v is refused: %s", c, b)
		return
	case !l.joined:
		c.w.fault("%v got %s before joined", c, b)
		return
	case m.Type == "ack":
		c.w.mu.Lock()
		c.life.acked = max(c.life.acked, m.Received)
		c.life.sure = max(c.life.sure, m.Received)
		c.w.mu.Unlock()
		return
	}
	if !c.plain {
		switch {
		case m.Type == "error" && m.Seq == 0:
			c.w.fault("%v (life %s) got %s", c, c.life.name, b)
			return
		case m.Seq <= c.life.received:
			return
		case m.Seq != c.life.received+1:
			c.w.fault("%v (life %s) got %s after %d: a gap", c, c.life.name, b, c.life.received)
			l.Close(ErrGoingAway)
			return
		}
		c.life.received = m.Seq
	}
	switch m.Type {
	case "message":
		c.message(m)
	case "left":
		c.life.over = true
	case "error":
		if m.Code != "no-peer" && m.Code != "busy" {
			c.w.fault("%v got %s", c, b)
		}
		c.w.mu.Lock()
		c.life.refused[m.Ref] = true
		c.w.mu.Unlock()
	}
}

func (c *netClient) message(m *netMessage) {
	name, number, _ := strings.Cut(m.Data, ":")
	n, err := strconv.Atoi(number)
	if err != nil {
		c.w.fault("%v got data %q", c, m.Data)
		return
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.life.heard[name] = append(c.life.heard[name], n)
}

// sureGrace is how long a seat certainly outlives its connection: the grace period, but for the time in which
// the room took the connection for lost and its client could not know, since its node was frozen or cut off.
const sureGrace = 12 * time.Second

func (c *netClient) joined(m *netMessage) {
	l := c.link
	if l.joined {
		c.w.fault("%v was told joined twice", c)
	}
	l.joined = true
	c.w.tell("%v has joined, resumed %v, received %d", c, m.Resumed, m.Received)
	old := c.life
	switch {
	case m.Resumed && old != nil:
		if m.Received < old.acked || m.Received > len(old.sent) {
			c.w.fault("%v (life %s) resumed with received %d, sent %d, %d acknowledged", c, old.name, m.Received, len(old.sent), old.acked)
		}
		c.w.mu.Lock()
		old.acked = max(m.Received, old.acked)
		again := slices.Clone(old.sent[min(m.Received, len(old.sent)):])
		c.w.mu.Unlock()
		for _, msg := range again {
			c.say(msg)
		}
		return
	case old != nil && !c.plain:
		c.w.mu.Lock()
		flooded := c.w.flooded[hashSession(c.key).peerID()]
		c.w.mu.Unlock()
		if excused := flooded || c.w.lostSince(c.room, old.began) || time.Since(c.lost) > sureGrace || c.short >= barrenLimit; !excused {
			c.w.fault("%v (life %s) lost its seat, %v after its connection", c, old.name, time.Since(c.lost))
		}
		c.w.mu.Lock()
		old.over = true
		c.w.mu.Unlock()
	case m.Resumed && m.Received != 0:
		c.w.fault("%v sent nothing, of which %d was received", c, m.Received)
	}
	if !m.Resumed || c.since == 0 {
		c.since = c.attempt
	}
	c.lives++
	c.life = &netLife{name: fmt.Sprintf("%d.%d.%d", c.number, c.page, c.lives), room: c.room, plain: c.plain, began: l.opened,
		refused: map[int]bool{}, heard: map[string][]int{}}
	c.w.mu.Lock()
	c.w.lives[c.life.name] = c.life
	c.w.mu.Unlock()
}

// ---- trouble

func (w *nodesWorld) event(node NodeID) func(Event) {
	return func(e Event) {
		w.tell("%s: %s: %s %s %s", node, e.Room, e.Peer, e.Type, e.Why)
		if e.Why == string(ReasonOverflow) {
			w.mu.Lock()
			w.flooded[e.Peer] = true
			w.mu.Unlock()
		}
		if e.Type == "room-closed" || e.Room == "" {
			return
		}
		w.fakeNodes.mu.Lock()
		k := w.keys[e.Room]
		wrong := k != nil && k.owner.Node != node && !w.nodes[node].gone
		w.fakeNodes.mu.Unlock()
		if wrong {
			w.fault("node %s says %q of room %s, which is %s's", node, e.Type, e.Room, k.owner.Node)
		}
	}
}

// add starts a node.
func (w *nodesWorld) add() {
	w.mu.Lock()
	w.born++
	id := NodeID(fmt.Sprint("node", w.born))
	w.mu.Unlock()
	cfg := testConfig()
	cfg.RoomCapacity = MaxCapacity
	cfg.Policy.Events = w.event(id)
	w.start(id, cfg)
	w.mu.Lock()
	w.places = append(w.places, id)
	w.mu.Unlock()
}

// close ends every connection of a node.
func (w *nodesWorld) close(n *fakeNode) {
	w.mu.Lock()
	w.places = slices.DeleteFunc(w.places, func(id NodeID) bool { return id == n.id })
	w.mu.Unlock()
}

func (w *nodesWorld) pick() *fakeNode { return w.place(w.chaos) }

func (w *nodesWorld) set(f func()) {
	w.fakeNodes.mu.Lock()
	defer w.fakeNodes.mu.Unlock()
	f()
}

// trouble makes trouble until end.
func (w *nodesWorld) trouble(end time.Time) {
	for time.Now().Before(end) {
		time.Sleep(time.Duration(w.chaos.Int64N(int64(6 * time.Second))))
		switch w.chaos.IntN(9) {
		case 0:
			loss := float64(w.chaos.IntN(31)) / 100
			w.tell("%v of the frames are lost", loss)
			w.set(func() { w.loss, w.unsure = loss, loss })
		case 1:
			w.set(func() { w.loss, w.unsure, w.stale = 0, 0, 0 })
		case 2:
			w.set(func() { w.stale, w.unsure = 0.5, 0.5 })
		case 3, 4:
			n := w.pick()
			w.tell("%s is silent", n.id)
			n.others(func(l Listener) { l.Silent(n.id) })
		case 5, 6:
			w.freeze()
		case 7:
			w.replace(w.pick(), true)
		case 8:
			w.replace(w.pick(), false)
		}
	}
	w.set(func() { w.loss, w.unsure, w.stale = 0, 0, 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calm = true
}

func (w *nodesWorld) freeze() {
	n := w.pick()
	cut := w.chaos.IntN(2) == 0
	w.tell("%s is frozen (cut off: %v)", n.id, cut)
	w.set(func() { n.frozen, n.cut = true, cut })
	time.Sleep(time.Duration(w.chaos.Int64N(int64(5 * time.Second))))
	if w.chaos.IntN(3) == 0 {
		n.others(func(l Listener) { l.Silent(n.id) })
		time.Sleep(time.Duration(w.chaos.Int64N(int64(15 * time.Second))))
	}
	w.set(func() { n.frozen, n.cut = false, false })
	w.tell("%s is thawed", n.id)
}

// replace ends a node, kindly or not, and starts another.
func (w *nodesWorld) replace(n *fakeNode, kindly bool) {
	w.add()
	w.close(n)
	if kindly {
		moved, left := n.hub.HandOver(context.Background(), time.Duration(w.chaos.Int64N(int64(3*time.Second))))
		w.tell("%s has handed %d rooms over, %d not", n.id, moved, left)
		w.cut(n)
		time.Sleep(2 * time.Second)
	} else {
		w.tell("%s is killed", n.id)
	}
	w.set(func() { n.gone = true })
	w.booked(n)
	n.stop()
	w.cut(n)
	if !kindly {
		time.Sleep(time.Duration(w.chaos.Int64N(int64(12 * time.Second))))
		n.others(func(l Listener) { l.Silent(n.id) })
	}
	w.set(func() { n.dead = true })
	w.booked(n)
	w.tell("%s is dead", n.id)
	n.others(func(l Listener) { l.Dead(n.id) })
}

// cut ends the connections to n.
func (w *nodesWorld) cut(n *fakeNode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.links {
		if l.node == n {
			l.Close(ErrRestart)
		}
	}
}

// booked notes that the rooms of n are lost.
func (w *nodesWorld) booked(n *fakeNode) {
	var lost []RoomID
	w.set(func() {
		for room, k := range w.keys {
			if k.owner.Node == n.id {
				lost = append(lost, room)
			}
		}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, room := range lost {
		w.ended[room] = time.Now()
	}
}

// ---- judging

// judge looks at what every life heard of every other.
func (w *nodesWorld) judge() {
	for _, to := range w.lives {
		for name, heard := range to.heard {
			from := w.lives[name]
			if from == nil {
				w.fault("life %s heard of %s, which nobody lived", to.name, name)
				continue
			}
			if from.plain {
				if !slices.IsSorted(heard) || len(slices.Compact(slices.Clone(heard))) < len(heard) {
					w.fault("life %s heard of the plain %s: %v", to.name, name, heard)
				}
				continue
			}
			w.compare(from, to, heard)
		}
	}
}

func (w *nodesWorld) compare(from, to *netLife, heard []int) {
	for i := 1; i < len(heard); i++ {
		if heard[i] <= heard[i-1] {
			w.fault("life %s heard of %s: %d after %d", to.name, from.name, heard[i], heard[i-1])
			return
		}
		for n := heard[i-1] + 1; n < heard[i]; n++ {
			if !from.refused[n] && n <= from.sure && !strings.Contains(from.sent[n-1], "leave") {
				w.fault("life %s never heard message %d of %s, but %d", to.name, n, from.name, heard[i])
				return
			}
		}
	}
	last := heard[len(heard)-1]
	if last > len(from.sent) {
		w.fault("life %s heard message %d of %s, which sent %d", to.name, last, from.name, len(from.sent))
	}
	if from.over || to.over || to.plain {
		return
	}
	for n := last + 1; n <= len(from.sent); n++ {
		if !from.refused[n] {
			w.fault("life %s never heard message %d of %s, the last was %d", to.name, n, from.name, last)
			return
		}
	}
}

// ---- the run

// runNodes runs one seed. The error says what the clients found wrong.
func runNodes(t *testing.T, seed uint64, sum *nodesSum) (err error) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 5))
		w := &nodesWorld{fakeNodes: newFakeNodes(t, seed, 0), chaos: r, lives: map[string]*netLife{}, ended: map[RoomID]time.Time{}, flooded: map[PeerID]bool{}}
		w.tells = w.tell
		w.delay = []time.Duration{0, 5 * time.Millisecond, 200 * time.Millisecond}[r.IntN(3)]
		for range 3 {
			w.add()
		}
		rooms := 1 + r.IntN(3)
		for i := range 2 + r.IntN(7) {
			c := &netClient{w: w, number: i, plain: r.IntN(5) == 0, room: RoomID(fmt.Sprint("room", r.IntN(rooms))),
				chaos: rand.New(rand.NewPCG(seed, uint64(100+i)))}
			c.load()
			w.clients = append(w.clients, c)
		}
		var running, troubled sync.WaitGroup
		for _, c := range w.clients {
			running.Go(c.run)
		}
		troubled.Go(func() { w.trouble(time.Now().Add(60 * time.Second)) })
		troubled.Wait()
		late := time.AfterFunc(5*time.Minute, func() {
			w.fault("the clients do not get to their end")
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, c := range w.clients {
				c.finished = true
				if c.life != nil {
					w.story = append(w.story, fmt.Sprintf("%v: life %s, sent %d, acknowledged %d, link %v", c, c.life.name, len(c.life.sent), c.life.acked, c.link != nil))
				}
			}
		})
		running.Wait()
		late.Stop()
		time.Sleep(5 * time.Second)
		for _, c := range w.clients {
			c.read()
		}
		w.judge()
		sum.add(w)
		for _, c := range w.clients {
			if c.link != nil && c.link.conn.Seated() {
				c.link.conn.Lost(EndLeft)
			}
		}
		time.Sleep(3 * time.Minute)
		w.judgeNodes()
		w.fakeNodes.stop()
		err = errors.Join(w.wrong)
		if len(w.faults) > 0 || err != nil {
			err = fmt.Errorf("seed %d: %s, %v\n%s", seed, strings.Join(w.faults, "\n"), err, strings.Join(w.story, "\n"))
		}
	})
	return err
}

// A nodesSum is what happened in all runs.
type nodesSum struct{ sent, heard, lives, joins, moved, reattached, lost int }

func (s *nodesSum) add(w *nodesWorld) {
	for _, l := range w.lives {
		s.lives++
		s.sent += len(l.sent)
		for _, heard := range l.heard {
			s.heard += len(heard)
		}
	}
	s.joins += len(w.links)
	for _, n := range w.nodes {
		m := n.hub.nodes.hop
		s.moved += int(testutil.ToFloat64(m.moved))
		s.reattached += int(testutil.ToFloat64(m.reattached))
		s.lost += int(testutil.ToFloat64(m.lost))
	}
}

// judgeNodes looks whether anything is left where nobody is.
func (w *nodesWorld) judgeNodes() {
	for _, n := range w.nodes {
		if n.gone {
			continue
		}
		n.hub.nodes.mu.Lock()
		links, seats := len(n.hub.nodes.links), len(n.hub.nodes.seats)
		n.hub.nodes.mu.Unlock()
		if rooms, taken := n.hub.Rooms(), n.hub.seats.Load(); rooms != 0 || taken != 0 || links != 0 || seats != 0 || n.hub.waiting.Load() != 0 {
			w.fault("on %s there are left: %d rooms, %d seats, %d links, %d remote seats, %d bytes", n.id, rooms, taken, links, seats, n.hub.waiting.Load())
		}
	}
	w.set(func() {
		for room, k := range w.keys {
			if k.holds != 0 && !w.nodes[k.owner.Node].gone {
				w.wrong = fmt.Errorf("node %s holds room %s, %d times", k.owner.Node, room, k.holds)
			}
		}
	})
}

// Whatever becomes of the nodes, clients with a session hear everything once and in order, and lose their
// seats only with their room's node.
func TestNodes(t *testing.T) {
	few := map[bool]int{false: 60, true: 10}[raceEnabled]
	if testing.Short() {
		few /= 4
	}
	seeds := modelSetting(t, "DUET_MODEL_NODES", few)
	first := modelSetting(t, "DUET_MODEL_SEED", 1)
	var sum nodesSum
	for seed := first; seed < first+seeds; seed++ {
		if err := runNodes(t, uint64(seed), &sum); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d runs: %+v", seeds, sum)
}
