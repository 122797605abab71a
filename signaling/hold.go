package signaling

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
}

func (h *localHold) peer() (PeerID, bool) { return h.seat.id, h.seat.session }

func (h *localHold) relay(c *relay) {
	c.seat, c.gen = h.seat, h.gen
	h.room.post(c)
}

func (h *localHold) refused(kind Kind, why *refusal) {
	h.room.post(refused{h.seat, h.gen, kind, why})
}

func (h *localHold) acknowledge(received uint64) {
	h.room.post(acknowledge{h.seat, h.gen, received})
}

func (h *localHold) lost(how Ending) { h.room.post(lost{h.seat, h.gen, how}) }

func (h *localHold) leave(seq uint64) remainder {
	done := make(chan bool, 1)
	if !h.room.post(leave{h.seat, h.gen, seq, func(left bool) { done <- left }}) {
		return nil
	}
	var left bool
	select {
	case left = <-done:
	case <-h.room.done:
		select {
		case left = <-done: // done just before the room ended
		default:
		}
	}
	if !left {
		return nil
	}
	return seatFeed{h.seat.ring, h.gen}
}

// enterLocal brings c to the room of this process that it is for, making the room where there is none,
// and returns the room's answer. ok is false when the room ended before c's turn came. owner is a hold of the
// directory's, which goes over to a room that is made.
func (h *Hub) enterLocal(c *join, owner Owner) (_ *Room, _ joinReply, ok bool) {
	r, refused := h.submit(c, owner)
	if refused != nil {
		return nil, joinReply{err: refused}, true
	}
	rep, ok := r.answer(c)
	return r, rep, ok // not ok: the next room is fresh
}
