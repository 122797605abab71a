package signaling

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// What an operator can see and do, on whichever node the room is. Each call is a command to the room's
// goroutine, and waits for its turn there as long as ctx.

// Who is asked for may not exist.
var (
	ErrNoRoom = errors.New("no such room")
	ErrNoSeat = errors.New("no such peer in the room")
)

// A RoomInfo describes a room.
type RoomInfo struct {
	ID       RoomID
	Node     NodeID // whose goroutine runs it; "" of a node that stands alone
	OpenedAt time.Time
	Seats    []SeatInfo // earliest first
}

// A SeatInfo describes a seat.
type SeatInfo struct {
	ID       PeerID
	Name     string
	Node     NodeID    // that its connection is on
	Subject  string    // Grant.Subject
	Session  bool      // it outlives its connection
	Away     bool      // it waits for its client
	Since    time.Time // its connection's beginning, or the last one's
	Received uint64    // counted messages from it; 0 without a session
	Sent     uint64    // messages to it
	Waiting  int       // messages that wait for delivery or acknowledgement
	Bytes    int       // of them
}

// A RoomList is a page of rooms, in the order of their names.
type RoomList struct {
	Rooms  []RoomInfo
	More   bool     // there are rooms after the last one
	Total  int      // rooms that there are on all nodes that answered
	Silent []NodeID // nodes that did not answer: their rooms are missing
}

// List describes at most limit rooms after the one named. A room that several nodes say they run is listed
// with each of them, beyond the limit if need be: it is moving from one to the other, or, if that lasts, two
// claim it.
func (h *Hub) List(ctx context.Context, after RoomID, limit int) (RoomList, error) {
	if h.nodes == nil {
		return h.listLocal(ctx, after, limit)
	}
	return h.nodes.list(ctx, after, limit)
}

// listLocal is List of this node's rooms.
func (h *Hub) listLocal(ctx context.Context, after RoomID, limit int) (RoomList, error) {
	ids, total := h.roomIDs(after, limit+1)
	list := RoomList{Total: total, More: len(ids) > limit}
	for _, id := range ids[:min(limit, len(ids))] {
		info, err := h.inspectLocal(ctx, id)
		switch {
		case errors.Is(err, ErrNoRoom): // it ended just now
		case err != nil:
			return RoomList{}, err
		default:
			list.Rooms = append(list.Rooms, info)
		}
	}
	return list, nil
}

// roomIDs lists at most limit rooms of this node after the one named, in the order of their names, and says
// how many there are in all.
func (h *Hub) roomIDs(after RoomID, limit int) (ids []RoomID, total int) {
	h.mu.Lock()
	all := slices.Collect(maps.Keys(h.rooms))
	h.mu.Unlock()
	slices.Sort(all)
	from, found := slices.BinarySearch(all, after)
	if found {
		from++
	}
	return all[from:min(len(all), from+limit)], len(all)
}

// Inspect describes a room. The error wraps ErrNoRoom, or is ctx's.
func (h *Hub) Inspect(ctx context.Context, room RoomID) (RoomInfo, error) {
	done, err := h.operate(ctx, order{Do: "inspect", Room: room})
	return done.Info, err
}

func (h *Hub) inspectLocal(ctx context.Context, room RoomID) (RoomInfo, error) {
	done, err := h.operateLocal(ctx, &order{Do: "inspect", Room: room})
	return done.Info, err
}

func (r *Room) info() RoomInfo {
	info := RoomInfo{ID: r.ID, Node: r.hub.directory.Self(), OpenedAt: r.openedAt}
	for _, s := range r.seats {
		seat := s.info()
		if seat.Node = s.link.edge; seat.Node == "" {
			seat.Node = info.Node
		}
		info.Seats = append(info.Seats, seat)
	}
	return info
}

func (s *seat) info() SeatInfo {
	i := SeatInfo{ID: s.id, Name: s.name, Subject: s.subject, Session: s.session, Away: s.away(), Since: s.attachedAt, Received: s.received}
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	i.Sent = s.ring.head
	for _, it := range s.ring.items[s.ring.off:] {
		i.Waiting++
		i.Bytes += len(it.envelope)
	}
	return i
}

// CloseRoom ends a room: every connection closes with 4501. The error wraps ErrNoRoom, or is ctx's.
func (h *Hub) CloseRoom(ctx context.Context, room RoomID) error {
	_, err := h.operate(ctx, order{Do: "close", Room: room})
	return err
}

// Kick ends one seat, whose connection closes with 4501. The error wraps ErrNoRoom or ErrNoSeat, or is
// ctx's.
func (h *Hub) Kick(ctx context.Context, room RoomID, peer PeerID) error {
	_, err := h.operate(ctx, order{Do: "kick", Room: room, Peer: peer})
	return err
}

// Announce says data, a JSON value, to one peer or, with "", to all in a room, as a message from
// "server". It returns how many are to get it: those for whom more operator's messages wait than fit
// are left out. The error wraps ErrNoRoom or ErrNoSeat, or is ctx's.
func (h *Hub) Announce(ctx context.Context, room RoomID, to PeerID, data []byte) (int, error) {
	done, err := h.operate(ctx, order{Do: "announce", Room: room, Peer: to, Data: data})
	return done.Reached, err
}

// An order is what an operator wants of a room.
type order struct {
	Do   string         `json:"do"` // inspect, close, kick, announce
	Room RoomID         `json:"room"`
	Peer PeerID         `json:"peer,omitzero"`
	Data jsontext.Value `json:"data,omitzero"`
}

// An outcome is what came of an order.
type outcome struct {
	Missing string   `json:"missing,omitzero"` // what there is not: room, peer
	Reached int      `json:"reached,omitzero"`
	Info    RoomInfo `json:"info,omitzero"`
}

func (o outcome) err() error {
	switch o.Missing {
	case "":
		return nil
	case "room":
		return ErrNoRoom
	}
	return ErrNoSeat
}

// do is called by the room's goroutine.
func (o *order) do(r *Room) (done outcome) {
	chosen := r.seats
	if o.Peer != "" {
		i := slices.IndexFunc(r.seats, func(s *seat) bool { return s.id == o.Peer })
		if i < 0 {
			return outcome{Missing: "peer"}
		}
		chosen = r.seats[i : i+1]
	}
	switch o.Do {
	case "inspect":
		done.Info = r.info()
	case "close", "kick":
		r.kick(slices.Clone(chosen))
	case "announce":
		envelope := relayEnvelope(&Message{Kind: KindMessage, Payload: o.Data}, "server")
		for _, s := range chosen {
			if s.ring.pushNotice(envelope) {
				s.wake()
				done.Reached++
			}
		}
	}
	return done
}

// kick ends seats, none of which hears of the others.
func (r *Room) kick(seats []*seat) {
	outs := make([]Outlet, len(seats))
	for i, s := range seats {
		outs[i] = s.fence()
	}
	for i, s := range seats {
		r.end(s, ReasonKicked)
		if outs[i] != nil {
			outs[i].End(ErrKicked)
		}
	}
}

// operate carries out an order where the room is.
func (h *Hub) operate(ctx context.Context, o order) (outcome, error) {
	done, err := h.operateLocal(ctx, &o)
	if h.nodes != nil && errors.Is(err, ErrNoRoom) {
		return h.nodes.operate(ctx, &o)
	}
	return done, err
}

// An operation is an order on its way to the room.
type operation struct {
	order *order
	done  chan<- outcome // buffered
}

func (o operation) apply(r *Room) { o.done <- o.order.do(r) }

// operateLocal carries out an order on a room of this process.
func (h *Hub) operateLocal(ctx context.Context, o *order) (outcome, error) {
	h.mu.Lock()
	r := h.rooms[o.Room]
	h.mu.Unlock()
	done := make(chan outcome, 1)
	if r == nil {
		return outcome{}, ErrNoRoom
	}
	if err := r.postBy(ctx, operation{o, done}); err != nil {
		return outcome{}, err
	}
	select {
	case result := <-done:
		return result, result.err()
	case <-ctx.Done():
		return outcome{}, context.Cause(ctx)
	case <-r.done:
		select {
		case result := <-done: // done just before the room ended
			return result, result.err()
		default:
			return outcome{}, ErrNoRoom
		}
	}
}
