package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"duet/signaling"
)

// forgetAfter is how long a node is waited for that has given no sign of life: longer than any lease.
const forgetAfter = time.Minute

// sayAgain is how often a fault that goes on is logged; the metrics have all of it.
const sayAgain = 10 * time.Second

// A bus is signaling.Bus over core NATS, at most once: nothing it does depends on JetStream. Subjects,
// below <prefix>.v1:
//
//	n.<node>.<lane>   frames to a node
//	ctl.<node>, all   requests to a node, to all nodes
//	re.<node>.<n>     answers
//	hb                beacons
//	hb.<node>         the last beacon once more, to a node that is new
type bus struct {
	// Static after construction.
	conn     *nats.Conn
	self     signaling.NodeID
	stamp    uint64
	version  string // of the program
	speaks   span
	subjects subjects
	log      *slog.Logger
	heard    func(beacon)
	metrics  *busMetrics
	queue    *queue
	askings  askings

	sayFull, saySlow, sayTooLarge, sayUnreadable rate.Sometimes

	mu       sync.Mutex
	listener signaling.Listener // nil before run
	subs     []*nats.Subscription
	roster   map[signaling.NodeID]sighting // the other nodes
	said     []byte                        // the last beacon; nil: none yet
}

// A sighting is the last that was heard of a node.
type sighting struct {
	info    signaling.NodeInfo
	version byte // that it and this node speak
	at      time.Time
}

// A beacon is a node's sign of life. Others take Revision for evidence that its lease was renewed.
type beacon struct {
	Node     signaling.NodeID
	Revision uint64 // of its lease
	Gone     bool   // its last: it has declared itself dead
	Info     signaling.NodeInfo
}

// beaconJSON is a beacon on the wire. A member that is not known is ignored.
type beaconJSON struct {
	stated
	Node     signaling.NodeID `json:"node"`
	Revision uint64           `json:"rev"`
	Version  string           `json:"ver"`
	Rooms    int              `json:"rooms"`
	Seats    int              `json:"seats"`
	Draining bool             `json:"draining,omitzero"`
	Gone     bool             `json:"gone,omitzero"` // to who does not know it, a sign of life like any other
}

type subjects struct{ base, answers, beacons, all string }

func (s subjects) control(node signaling.NodeID) string { return s.base + "ctl." + string(node) }

func (s subjects) greeting(node signaling.NodeID) string { return s.beacons + "." + string(node) }

func (s subjects) lane(node signaling.NodeID, lane int) string {
	return s.base + "n." + string(node) + "." + strconv.Itoa(lane)
}

// newBus returns the bus of node self, which is of the program's version and reads the versions that speaks
// names. It calls heard, which must not block, with each beacon of another node. conn keeps the handlers it
// has; bus adds its own.
func newBus(conn *nats.Conn, self signaling.NodeID, version string, speaks span, prefix string, heard func(beacon), log *slog.Logger, reg prometheus.Registerer) *bus {
	base := prefix + ".v1."
	b := &bus{
		conn: conn, self: self, stamp: stampOf(self), version: version, speaks: speaks, log: log, heard: heard,
		subjects: subjects{base: base, answers: base + "re." + string(self), beacons: base + "hb", all: base + "all"},
		queue:    newQueue(),
		askings:  askings{open: map[string]*asking{}},
		roster:   map[signaling.NodeID]sighting{},
	}
	for _, s := range []*rate.Sometimes{&b.sayFull, &b.saySlow, &b.sayTooLarge, &b.sayUnreadable} {
		s.Interval = sayAgain
	}
	b.metrics = newBusMetrics(reg, b)
	b.watch()
	return b
}

// run brings what other nodes send to l until ctx ends; the error says that NATS refused a subscription.
// What is queued then still has lastWords to leave. It runs once; nothing leaves before.
func (b *bus) run(ctx context.Context, l signaling.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var receiving, handling, publishing sync.WaitGroup
	publish, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer publishing.Wait() // after the handlers, so that their answers leave
	defer stop()

	requests := make(chan request, maxWaiting)
	handling.Go(func() { b.handle(ctx, l, requests) })
	defer handling.Wait()
	defer cancel()

	b.mu.Lock()
	b.listener = l
	b.mu.Unlock()
	defer receiving.Wait()
	defer b.unsubscribe()
	subscribe := func(subject string, handler nats.MsgHandler) error {
		sub, err := b.conn.Subscribe(subject, handler)
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		receiving.Add(1)
		done := sync.OnceFunc(receiving.Done)
		sub.SetClosedHandler(func(string) { done() })
		if !sub.IsValid() { // closed before it had its handler
			done()
			return nats.ErrConnectionClosed
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.subs = append(b.subs, sub)
		return sub.SetPendingLimits(maxLaneFrames, maxLaneBytes)
	}
	err := errors.Join(
		subscribe(b.subjects.answers+".*", b.answered),
		subscribe(b.subjects.beacons, b.hear),
		subscribe(b.subjects.greeting(b.self), b.hear),
		subscribe(b.subjects.control(b.self), b.requested(ctx, requests)),
		subscribe(b.subjects.all, b.requested(ctx, requests)))
	for n := range signaling.Lanes {
		way := lane{bus: b, listener: l, recent: map[uint64]uint64{}}
		err = errors.Join(err, subscribe(b.subjects.lane(b.self, n), way.receive))
	}
	if err != nil {
		return err
	}
	// After the subscriptions, and so behind them on the connection: no answer finds nobody.
	publishing.Go(func() { (&publisher{bus: b}).run(publish) })
	<-ctx.Done()
	return nil
}

func (b *bus) unsubscribe() {
	b.mu.Lock()
	subs := b.subs
	b.subs = nil
	b.mu.Unlock()
	for _, sub := range subs {
		sub.Unsubscribe() // the error says that the connection is closed, and the subscription with it
	}
}

// Send implements signaling.Bus.
func (b *bus) Send(to signaling.NodeID, lane int, frame []byte) {
	if !b.queue.pushFrame(to, b.versionFor(to), lane, frame, b.subjects.lane) {
		b.full(lane)
	}
}

// versionFor is what is spoken to a node.
func (b *bus) versionFor(to signaling.NodeID) byte {
	if to == b.self {
		return byte(b.speaks.newest)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, heard := b.roster[to]; heard {
		return s.version
	}
	return byte(b.speaks.oldest)
}

// versionForAll is what all nodes that were heard understand.
func (b *bus) versionForAll() byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	version := byte(b.speaks.newest)
	for _, s := range b.roster {
		version = min(version, s.version)
	}
	return version
}

// full books a message that found no room in the queue.
func (b *bus) full(way int) {
	b.metrics.drop(out, "full")
	b.sayFull.Do(func() {
		b.log.Warn("the connection to NATS does not take what this node sends: messages are dropped", "lane", way)
	})
}

// unreadable books a message of a version that this node does not read, or of none.
func (b *bus) unreadable(m *nats.Msg) {
	b.metrics.drop(in, "unreadable")
	b.sayUnreadable.Do(func() {
		b.log.Warn("a message of a version that this one does not read: upgrade one release at a time", "subject", m.Subject)
	})
}

// Nodes implements signaling.Bus: this node first, then the others by name.
func (b *bus) Nodes() []signaling.NodeInfo {
	b.mu.Lock()
	l := b.listener
	nodes := make([]signaling.NodeInfo, 0, len(b.roster)+1)
	maps.DeleteFunc(b.roster, func(_ signaling.NodeID, s sighting) bool { return time.Since(s.at) > forgetAfter })
	for _, s := range b.roster {
		nodes = append(nodes, s.info)
	}
	b.mu.Unlock()
	slices.SortFunc(nodes, func(x, y signaling.NodeInfo) int { return cmp.Compare(x.ID, y.ID) })
	var self signaling.NodeInfo
	if l != nil {
		self = l.Info()
	}
	self.ID, self.Version = b.self, b.version
	return slices.Insert(nodes, 0, self)
}

// forget takes a node that is proven dead off the roster.
func (b *bus) forget(node signaling.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.roster, node)
}

// sayBeacon tells the other nodes that this one lives. It does not block: a beacon that finds no room is
// dropped.
func (b *bus) sayBeacon(sign beacon) {
	data := b.beaconBytes(sign)
	b.mu.Lock()
	b.said = data
	b.mu.Unlock()
	b.push(b.subjects.beacons, data)
}

// greet says the last beacon again to a node that was not there: it need not wait for the next one to know
// who lives.
func (b *bus) greet(node signaling.NodeID) {
	b.mu.Lock()
	said := b.said
	b.mu.Unlock()
	if said != nil {
		b.push(b.subjects.greeting(node), said)
	}
}

// sayGone tells the other nodes that this one has declared itself dead, after run has ended: so it is the last
// they hear of it.
func (b *bus) sayGone(ctx context.Context, sign beacon) error {
	sign.Gone = true
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	if err := errors.Join(b.conn.Publish(b.subjects.beacons, b.beaconBytes(sign)), b.conn.FlushWithContext(ctx)); err != nil {
		return fmt.Errorf("tell the other nodes that this one is gone: %w", err)
	}
	return nil
}

// beaconBytes is a beacon on the wire; Node and Version are filled in.
func (b *bus) beaconBytes(sign beacon) []byte {
	data, err := json.Marshal(beaconJSON{stated: stated{b.speaks.oldest, b.speaks.newest}, Node: b.self, Revision: sign.Revision, Version: b.version,
		Rooms: sign.Info.Rooms, Seats: sign.Info.Seats, Draining: sign.Info.Draining, Gone: sign.Gone})
	if err != nil {
		panic("natsbus: a beacon has no JSON form: " + err.Error()) // strings are of this program alone
	}
	return data
}

// push queues what belongs to no lane.
func (b *bus) push(subject string, data []byte) {
	if !b.queue.push(outgoing{subject: subject, data: data, way: control}) {
		b.full(control)
	}
}

func (b *bus) hear(m *nats.Msg) {
	sign, version := b.parseBeacon(m.Data)
	if version == 0 {
		b.unreadable(m)
		return
	}
	if sign.Node == b.self {
		return
	}
	b.mu.Lock()
	_, known := b.roster[sign.Node]
	if sign.Gone {
		delete(b.roster, sign.Node)
	} else {
		b.roster[sign.Node] = sighting{info: sign.Info, version: byte(version), at: time.Now()}
	}
	b.mu.Unlock()
	b.heard(sign)
	if !known && !sign.Gone && m.Subject == b.subjects.beacons { // a greeting has no answer
		b.greet(sign.Node)
	}
}

// parseBeacon reads a beacon, and which version this node and the other one speak, 0 for none. It reads the
// versions first: where none is common the rest may be anything.
func (b *bus) parseBeacon(data []byte) (_ beacon, version int) {
	var s stated
	var j beaconJSON
	if json.Unmarshal(data, &s) != nil {
		return beacon{}, 0
	}
	version = b.speaks.with(s.span())
	if version == 0 || json.Unmarshal(data, &j) != nil || j.Node == "" {
		return beacon{}, 0
	}
	return beacon{Node: j.Node, Revision: j.Revision, Gone: j.Gone, Info: signaling.NodeInfo{
		ID: j.Node, Version: j.Version, Rooms: j.Rooms, Seats: j.Seats, Draining: j.Draining}}, version
}

// watch adds the bus's handlers to those of the connection.
func (b *bus) watch() {
	disconnected, reconnected, failed := b.conn.DisconnectErrHandler(), b.conn.ReconnectHandler(), b.conn.ErrorHandler()
	b.conn.SetDisconnectErrHandler(func(c *nats.Conn, err error) {
		b.askings.failAll(fmt.Errorf("%w: %w", signaling.ErrUnsure, errDisconnected))
		if !c.IsClosed() {
			b.log.Warn("disconnected from NATS", "err", err)
		}
		if disconnected != nil {
			disconnected(c, err)
		}
	})
	b.conn.SetReconnectHandler(func(c *nats.Conn) {
		b.metrics.reconnects.Inc()
		b.log.Info("connected to NATS again", "server", c.ConnectedServerName())
		if reconnected != nil {
			reconnected(c)
		}
	})
	b.conn.SetErrorHandler(func(c *nats.Conn, sub *nats.Subscription, err error) {
		b.saySlow.Do(func() {
			attrs := []any{"err", err}
			if sub != nil {
				attrs = append(attrs, "subject", sub.Subject)
			}
			b.log.Warn("NATS reports a fault", attrs...)
		})
		if failed != nil {
			failed(c, sub, err)
		}
	})
}

// tooSlow is how many messages found a subscription full.
func (b *bus) tooSlow() (dropped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, sub := range b.subs {
		if n, err := sub.Dropped(); err == nil {
			dropped += n
		}
	}
	return dropped
}
