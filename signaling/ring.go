package signaling

import (
	"math"
	"sync"
	"sync/atomic"
)

// What may wait for one seat (section 5, "Bounds"). Errors and the room's own events have places
// of their own: they must be said even where no relayed message fits any more, and errors cannot
// use up what is kept for events.
const (
	ringMessages    = 256
	ringBytes       = 256 << 10
	errorMessages   = 256
	errorBytes      = 64 << 10
	reserveMessages = 64
	reserveBytes    = 32 << 10
	noticeMessages  = 64
	noticeBytes     = 64 << 10
)

// idleItems is how many places an empty ring keeps for what comes next.
const idleItems = 8

// Slots that no seat has.
const (
	nobody    int8 = -1              // of a sender that has left
	ownEvent  int8 = MaxCapacity     // what the room itself says
	ownError  int8 = MaxCapacity + 1 // what it answers to a message it refused
	ownNotice int8 = MaxCapacity + 2 // what the operator says
)

// A ring holds what one seat is still to get: it is the send queue of the seat's connection and,
// for a seat with a session, also the replay buffer of the next one. Always
//
//	acked ≤ sent ≤ given ≤ head
//
// where (acked, sent] was fetched by the present connection, and (sent, head] waits for it. given is
// the most that any connection fetched: the client may have it, and acknowledge it, even if the
// present connection has not come so far yet. Only the room pushes; the connection fetches. The
// mutex is held for a copy, never over a write.
type ring struct {
	plain   bool // no session: nothing is counted on the wire
	remote  bool // the connection is another node's
	share   usage
	waiting *atomic.Int64 // bytes in all rings of the hub

	mu                       sync.Mutex
	gen                      uint64 // the connection that may fetch
	items                    []item // items[off] is number acked+1
	off                      int
	acked, sent, given, head uint64
	relayed                  usage
	by                       [MaxCapacity + 3]usage // by slot
	ack                      uint64                 // to be said to the client
	ackDue                   bool
	lastError                uint64 // number of the last answer to a refused message
}

type usage struct{ messages, bytes int32 }

func (u *usage) add(bytes int) { u.messages++; u.bytes += int32(bytes) }
func (u *usage) sub(bytes int) { u.messages--; u.bytes -= int32(bytes) }

type item struct {
	envelope []byte // open, see closeEnvelope; shared with other rings
	slot     int8   // the sender's, or ownEvent
	at       int64  // when it arrived, Unix nanoseconds; 0 = not measured
}

func newRing(capacity int, plain bool, waiting *atomic.Int64) *ring {
	senders := int32(capacity - 1)
	return &ring{plain: plain, waiting: waiting,
		share: usage{messages: ringMessages / senders, bytes: ringBytes / senders}}
}

// fits reports whether a relayed message of the sender in slot may be pushed. Each sender has a
// share, so that nobody uses up what belongs to others; one message always fits a sender that has
// none waiting, while the whole has place.
func (r *ring) fits(slot int8, bytes int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.relayed.messages >= ringMessages || int(r.relayed.bytes)+bytes > ringBytes {
		return false
	}
	mine := r.by[slot]
	return mine.messages == 0 || mine.messages < r.share.messages && int(mine.bytes)+bytes <= int(r.share.bytes)
}

// pushRelayed adds a message that fits.
func (r *ring) pushRelayed(it item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.relayed.add(len(it.envelope))
	r.by[it.slot].add(len(it.envelope))
	r.push(it)
}

// pushEvent adds what the room itself says. False means that even the reserve is full: the seat
// must end.
func (r *ring) pushEvent(envelope []byte) bool {
	return r.pushOwn(envelope, ownEvent, usage{reserveMessages, reserveBytes})
}

// pushError adds the answer to a message that was refused; false as with pushEvent. No ack that is said
// later overtakes it: what a client is told was handled, it knows how.
func (r *ring) pushError(envelope []byte) bool {
	return r.pushOwn(envelope, ownError, usage{errorMessages, errorBytes})
}

// pushNotice adds what the operator says; false where too much of that waits already.
func (r *ring) pushNotice(envelope []byte) bool {
	return r.pushOwn(envelope, ownNotice, usage{noticeMessages, noticeBytes})
}

// pushLast adds the answer to leave. It always fits: nothing comes after it.
func (r *ring) pushLast(envelope []byte) {
	r.pushOwn(envelope, ownEvent, usage{math.MaxInt32, math.MaxInt32})
}

func (r *ring) pushOwn(envelope []byte, slot int8, limit usage) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	used := &r.by[slot]
	if used.messages >= limit.messages || used.bytes+int32(len(envelope)) > limit.bytes {
		return false
	}
	used.add(len(envelope))
	r.push(item{envelope: envelope, slot: slot})
	if slot == ownError {
		r.lastError = r.head
	}
	return true
}

func (r *ring) push(it item) {
	r.waiting.Add(int64(len(it.envelope)))
	if len(r.items) == cap(r.items) && r.off > 0 {
		kept := copy(r.items, r.items[r.off:])
		clear(r.items[kept:])
		r.items, r.off = r.items[:kept], 0
	}
	r.items = append(r.items, it)
	r.head++
}

// forget drops everything up to number n.
func (r *ring) forget(n uint64) {
	gone := r.items[r.off : r.off+int(n-r.acked)]
	for i, it := range gone {
		size := len(it.envelope)
		r.waiting.Add(int64(-size))
		if it.slot < MaxCapacity {
			r.relayed.sub(size)
		}
		if it.slot != nobody {
			r.by[it.slot].sub(size)
		}
		gone[i] = item{}
	}
	r.acked = n
	r.off += len(gone)
	if r.off < len(r.items) {
		return
	}
	r.items, r.off = r.items[:0], 0
	if cap(r.items) > idleItems {
		r.items = nil
	}
}

// disown counts what the sender in slot still has waiting to nobody, so that the slot's next
// owner starts with a whole share.
func (r *ring) disown(slot int8) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.items[r.off:] {
		if it := &r.items[r.off+i]; it.slot == slot {
			it.slot = nobody
		}
	}
	r.by[slot] = usage{}
}

// acknowledge forgets what the client has handled. It reports false where received was never
// sent, or is below what was acknowledged before.
func (r *ring) acknowledge(received uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if received < r.acked || received > r.given {
		return false
	}
	r.forget(received)
	r.sent = max(r.sent, received)
	return true
}

// attach gives the ring to connection gen, which gets everything after what was acknowledged.
func (r *ring) attach(gen uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gen, r.sent = gen, r.acked
	r.ackDue = false // joined says it
	for i := range r.items {
		r.items[i].at = 0 // time spent away is not the relay's
	}
}

// attachAt is attach for a connection that has everything up to number have, be it acknowledged or not.
// False: it never was given that.
//
// It is told again that everything up to received was handled: what was said last may have been lost, and
// joined may have said more than that.
func (r *ring) attachAt(gen, have, received uint64) bool {
	r.attach(gen)
	r.mu.Lock()
	defer r.mu.Unlock()
	if have > r.given {
		return false
	}
	r.sent = max(r.acked, have)
	r.ack, r.ackDue = received, received > 0
	return true
}

// detach takes the ring from every connection.
func (r *ring) detach() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gen = 0
}

// discard empties the ring of a seat that has ended.
func (r *ring) discard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gen = 0
	r.forget(r.head)
}

// oweAck notes that the client is to be told that everything up to received was handled.
func (r *ring) oweAck(received uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ack, r.ackDue = received, true
}

// A Feed is where one connection fetches what its client is to get.
type Feed interface {
	// Next appends the next message for the client to dst, marking it sent: from here on the client
	// may acknowledge it. at is its arrival in Unix nanoseconds where it was measured, else 0. False
	// means that there is nothing now.
	Next(dst []byte) (msg []byte, at int64, ok bool)
}

// A seatFeed is one connection's right to fetch from a seat's ring; the ring stops giving when the
// seat has another connection.
type seatFeed struct {
	ring *ring
	gen  uint64
}

// Next implements Feed.
func (f seatFeed) Next(dst []byte) (msg []byte, at int64, ok bool) {
	msg, _, at, ok = f.next(dst)
	return msg, at, ok
}

// discard forgets what was not fetched, and not acknowledged.
func (f seatFeed) discard() { f.ring.discard() }

// next is Next, and says which number the message has; 0 where it has none.
func (f seatFeed) next(dst []byte) (msg []byte, number uint64, at int64, ok bool) {
	r := f.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gen != f.gen {
		return dst, 0, 0, false
	}
	if r.ackDue && r.sent >= r.lastError {
		r.ackDue = false
		return ackEnvelope(dst, r.ack), 0, 0, true
	}
	if r.sent == r.head {
		return dst, 0, 0, false
	}
	it := r.items[r.off+int(r.sent-r.acked)]
	r.sent++
	r.given = max(r.given, r.sent)
	dst = append(dst, it.envelope...)
	switch {
	case !r.plain:
		return closeEnvelope(dst, r.sent), r.sent, it.at, true
	case r.remote: // forgotten when it is fetched there
		return closeEnvelope(dst, 0), r.sent, it.at, true
	}
	r.forget(r.sent)
	return closeEnvelope(dst, 0), 0, it.at, true
}
