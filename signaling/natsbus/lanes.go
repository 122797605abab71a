package natsbus

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"duet/signaling"
)

// A frame on the wire is a version, who sent it, its number and the frame itself:
//
//	version (1 byte)  stamp (8)  number (8)  frame
//
// Integers are big-endian. A sender's numbers go up on every lane. NATS keeps the order of one
// publisher on one connection; what a publisher that changed its server sends over the new one may
// overtake what is still on its way through the old one. The receiver drops what it was overtaken by.
const frameHeader = 1 + 8 + 8

// Bounds of what waits for the connection, and on the other side for the Listener, on each lane.
const (
	maxLaneFrames = 65_536
	maxLaneBytes  = 64 << 20

	// control is the way of beacons, requests and answers: beside the lanes, with the same bounds.
	control = signaling.Lanes
	ways    = signaling.Lanes + 1

	keepQueue   = 1024        // messages an empty queue keeps room for
	keepScratch = 128 << 10   // bytes; more than a client's message
	keepPeers   = 1024        // nodes that a lane, or the queue, remembers at least
	lastWords   = time.Second // to get what is queued on its way when the node ends
)

func frameBytes(p []byte, version byte, stamp, number uint64, frame []byte) []byte {
	p = binary.BigEndian.AppendUint64(append(p, version), stamp)
	return append(binary.BigEndian.AppendUint64(p, number), frame...)
}

// stampOf is short for a node, which no two nodes of a cluster have alike: 64 bits of its SHA-256.
func stampOf(node signaling.NodeID) uint64 {
	sum := sha256.Sum256([]byte(node))
	return binary.BigEndian.Uint64(sum[:])
}

// An outgoing message waits for the connection.
type outgoing struct {
	subject string
	data    []byte
	number  uint64  // of a frame; 0: data is complete
	version byte    // of a frame
	way     int     // its lane, or control
	ask     *asking // the question it asks, if it is one
}

// A queue holds what is to be published: nats.Conn's Publish blocks for as long as FlusherTimeout while
// the socket is stuck, and whoever sends must not. Messages of a lane leave in the order they came. A
// queue with nothing in it costs next to nothing.
type queue struct {
	wake chan struct{} // holds 1: there is something

	mu      sync.Mutex
	waiting []outgoing
	ways    [ways]struct{ frames, bytes int } // queued and not yet published
	total   int                               // frames on all ways
	last    uint64                            // number of the last frame
	lanes   map[signaling.NodeID]*[signaling.Lanes]string
}

func newQueue() *queue {
	return &queue{wake: make(chan struct{}, 1), lanes: map[signaling.NodeID]*[signaling.Lanes]string{}}
}

// push queues a message and gives a frame its number. It reports false where the way is full.
func (q *queue) push(m outgoing) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.add(m)
}

// pushFrame queues a frame; subject names the lanes of a node.
func (q *queue) pushFrame(to signaling.NodeID, version byte, lane int, frame []byte, subject func(signaling.NodeID, int) string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	subjects := q.lanes[to]
	if subjects == nil {
		if len(q.lanes) >= keepPeers {
			clear(q.lanes)
		}
		subjects = new([signaling.Lanes]string)
		for l := range subjects {
			subjects[l] = subject(to, l)
		}
		q.lanes[to] = subjects
	}
	q.last++
	return q.add(outgoing{subject: subjects[lane], data: frame, number: q.last, version: version, way: lane})
}

func (q *queue) add(m outgoing) bool {
	w := &q.ways[m.way]
	if w.frames >= maxLaneFrames || w.bytes+len(m.data) > maxLaneBytes {
		return false
	}
	w.frames++
	w.bytes += len(m.data)
	q.total++
	q.waiting = append(q.waiting, m)
	if len(q.waiting) == 1 {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take returns all that waits; spare, which is empty, takes its place. Each message counts until done.
func (q *queue) take(spare []outgoing) []outgoing {
	q.mu.Lock()
	defer q.mu.Unlock()
	taken := q.waiting
	q.waiting = spare
	return taken
}

func (q *queue) done(m *outgoing) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := &q.ways[m.way]
	w.frames--
	w.bytes -= len(m.data)
	q.total--
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}

// A publisher carries what is queued to the connection. It belongs to one goroutine.
type publisher struct {
	*bus
	spare   []outgoing // empty; its room is used again
	scratch []byte     // a frame with its header
}

// run publishes what is queued until ctx ends, and then for lastWords what is left.
func (p *publisher) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-p.queue.wake:
			p.publishAll(nil)
		case <-ctx.Done():
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	p.publishAll(end.Done())
	if err := p.conn.FlushWithContext(end); err != nil {
		p.log.Warn("what was said last may not have left", "err", err)
	}
}

// publishAll publishes what is queued now; what has not left when end is closed is dropped.
func (p *publisher) publishAll(end <-chan struct{}) {
	batch := p.queue.take(p.spare)
	for i := range batch {
		m := &batch[i]
		select {
		case <-end:
			p.unsent(m, nats.ErrConnectionClosed)
		default:
			p.publish(m)
		}
		p.queue.done(m)
	}
	clear(batch)
	p.spare = batch[:0]
	if cap(batch) > keepQueue {
		p.spare = nil
	}
	if cap(p.scratch) > keepScratch {
		p.scratch = nil
	}
}

// publish publishes one message. It may take as long as the connection's FlusherTimeout.
func (p *publisher) publish(m *outgoing) {
	msg := nats.Msg{Subject: m.subject, Data: m.data}
	if m.number > 0 { // nats.Conn copies what it is given
		p.scratch = frameBytes(p.scratch[:0], m.version, p.stamp, m.number, m.data)
		msg.Data = p.scratch
	}
	if m.ask != nil {
		if !m.ask.leave() {
			return // given up while it waited
		}
		msg.Reply = m.ask.reply
	}
	if err := p.conn.PublishMsg(&msg); err != nil {
		p.unsent(m, err)
		return
	}
	if m.number > 0 {
		p.metrics.frames[out].Inc()
		p.metrics.bytes[out].Add(float64(len(m.data)))
	}
}

// unsent books a message that did not leave.
func (b *bus) unsent(m *outgoing, err error) {
	switch {
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed):
		b.metrics.drop(out, "disconnected")
	case errors.Is(err, nats.ErrMaxPayload):
		b.metrics.drop(out, "too-large")
		b.sayTooLarge.Do(func() {
			b.log.Error("a message is larger than the NATS server takes: raise its max_payload to 1 MB or more", "bytes", len(m.data))
		})
	default:
		b.metrics.drop(out, "write")
	}
	if m.ask != nil {
		m.ask.end(answer{err: notSent(err)})
	}
}

// notSent says what a failed publish means for a question: where nothing can have left, just that.
func notSent(err error) error {
	for _, certain := range []error{nats.ErrReconnectBufExceeded, nats.ErrConnectionClosed, nats.ErrMaxPayload, nats.ErrBadSubject} {
		if errors.Is(err, certain) {
			return fmt.Errorf("not sent: %w", err)
		}
	}
	return fmt.Errorf("%w: %w", signaling.ErrUnsure, err)
}

// A lane hands the frames of one lane on, in order. It belongs to its subscription's goroutine.
type lane struct {
	*bus
	listener signaling.Listener
	// The last number of each sender, in two generations: when recent is full it becomes older, and who
	// is not heard meanwhile is forgotten.
	recent, older map[uint64]uint64
}

func (l *lane) receive(m *nats.Msg) {
	if !l.speaks.reads(m.Data, frameHeader) {
		l.unreadable(m)
		return
	}
	stamp, number := binary.BigEndian.Uint64(m.Data[1:]), binary.BigEndian.Uint64(m.Data[9:])
	if number <= max(l.recent[stamp], l.older[stamp]) {
		l.metrics.drop(in, "overtaken")
		return
	}
	if len(l.recent) >= keepPeers {
		l.older, l.recent = l.recent, map[uint64]uint64{}
	}
	l.recent[stamp] = number
	frame := m.Data[frameHeader:]
	l.metrics.frames[in].Inc()
	l.metrics.bytes[in].Add(float64(len(frame)))
	l.listener.Frame(frame)
}
