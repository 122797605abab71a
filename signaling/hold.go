package signaling

import (
	"context"
	"errors"
	"sync/atomic"
)

// A hold is what a connection has of its seat, wherever the room is. Its methods belong to the
// connection's reader.
type hold interface {
	// peer is the seat's id. counts: its client has a session, so that its messages are counted.
	peer() (id PeerID, counts bool)
	relay(c *relay)
	refused(kind Kind, why *refusal)
	acknowledge(received uint64)
	// leave gives the seat up. rest is what the client is still to get, ending with left; nil where the
	// seat is not given up, or has ended otherwise.
	leave(seq uint64) (rest remainder)
	// lost says how the connection ended. It is the last call.
	lost(how Ending)
}

// A remainder is what is left of a feed whose seat is given up.
type remainder interface {
	Feed
	discard()
}

// A localHold is a hold on a seat in a room of this process.
type localHold struct {
	room *Room
	seat *seat
	gen  uint64
	conn *Conn // whose hold it is
}

// post hands a command to the room. False: the room has ended, or the connection has been while the room stood
// still: whoever closes it waits for its reader, and what was not handed over its client says again.
func (h *localHold) post(c command) bool {
	if h.room.postNow(c) {
		return true
	}
	select {
	case h.room.inbox <- c:
		h.room.start()
		return true
	case <-h.room.done:
	case <-h.conn.over():
	}
	return false
}

func (h *localHold) peer() (PeerID, bool) { return h.seat.id, h.seat.session }

func (h *localHold) relay(c *relay) {
	c.seat, c.gen = h.seat, h.gen
	h.post(c)
}

func (h *localHold) refused(kind Kind, why *refusal) {
	h.post(refused{h.seat, h.gen, kind, why})
}

func (h *localHold) acknowledge(received uint64) {
	h.post(acknowledge{h.seat, h.gen, received})
}

func (h *localHold) lost(how Ending) {
	if c := (lost{h.seat, h.gen, how}); !h.room.postNow(c) {
		go h.room.post(c)
	}
}

func (h *localHold) leave(seq uint64) remainder {
	var settled atomic.Bool // answered, or given up
	ring, done := h.seat.ring, make(chan bool, 1)
	answer := func(left bool) {
		if settled.CompareAndSwap(false, true) {
			done <- left
		} else if left {
			ring.discard() // nobody takes what is left
		}
	}
	if !h.post(leave{h.seat, h.gen, seq, answer}) {
		return nil
	}
	var left bool
	select {
	case left = <-done:
	case <-h.room.done:
		left = !settled.CompareAndSwap(false, true) && <-done // answered just before
	case <-h.conn.over():
		left = !settled.CompareAndSwap(false, true) && <-done
	}
	if !left {
		return nil
	}
	return seatFeed{ring, h.gen}
}

// enterLocal brings c to the room of this process that it is for, making the room where there is none,
// and returns the room's answer. The error is as ask's: after ErrNoRoom the next room is fresh. owner is a
// hold of the directory's, which goes over to a room that is made.
func (h *Hub) enterLocal(ctx context.Context, c *join, owner Owner) (*Room, joinReply, error) {
	r, err := h.submit(ctx, c, owner)
	if refused, ok := errors.AsType[*refusal](err); ok {
		return nil, joinReply{err: refused}, nil
	}
	if err != nil {
		return nil, joinReply{}, err
	}
	rep, err := r.answer(ctx, c)
	return r, rep, err
}
