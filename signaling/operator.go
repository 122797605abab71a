package signaling

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// What an operator can see and do. Each call is a command to the room's goroutine, and waits for its
// turn there as long as ctx.

// Who is asked for may not exist.
var (
	ErrNoRoom = errors.New("no such room")
	ErrNoSeat = errors.New("no such peer in the room")
)

// A RoomInfo describes a room.
type RoomInfo struct {
	ID       RoomID
	OpenedAt time.Time
	Seats    []SeatInfo // earliest first
}

// A SeatInfo describes a seat.
type SeatInfo struct {
	ID       PeerID
	Name     string
	Subject  string    // Grant.Subject
	Session  bool      // it outlives its connection
	Away     bool      // it waits for its client
	Since    time.Time // its connection's beginning, or the last one's
	Received uint64    // counted messages from it; 0 without a session
	Sent     uint64    // messages to it
	Waiting  int       // messages that wait for delivery or acknowledgement
	Bytes    int       // of them
}

// RoomIDs lists at most limit rooms after the one named, in the order of their names.
func (h *Hub) RoomIDs(after RoomID, limit int) []RoomID {
	h.mu.Lock()
	all := slices.Collect(maps.Keys(h.rooms))
	h.mu.Unlock()
	slices.Sort(all)
	from, found := slices.BinarySearch(all, after)
	if found {
		from++
	}
	return all[from:min(len(all), from+limit)]
}

// Inspect describes a room. The error wraps ErrNoRoom, or is ctx's.
func (h *Hub) Inspect(ctx context.Context, room RoomID) (RoomInfo, error) {
	var info RoomInfo
	err := h.operate(ctx, room, func(r *Room) error {
		info = RoomInfo{ID: r.ID, OpenedAt: r.openedAt}
		for _, s := range r.seats {
			info.Seats = append(info.Seats, s.info())
		}
		return nil
	})
	if err != nil {
		return RoomInfo{}, err // the room may be writing info yet
	}
	return info, nil
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
	return h.operate(ctx, room, func(r *Room) error {
		for _, s := range slices.Clone(r.seats) {
			r.kick(s)
		}
		return nil
	})
}

// Kick ends one seat, whose connection closes with 4501. The error wraps ErrNoRoom or ErrNoSeat, or is
// ctx's.
func (h *Hub) Kick(ctx context.Context, room RoomID, peer PeerID) error {
	return h.operate(ctx, room, func(r *Room) error {
		i := slices.IndexFunc(r.seats, func(s *seat) bool { return s.id == peer })
		if i < 0 {
			return ErrNoSeat
		}
		r.kick(r.seats[i])
		return nil
	})
}

func (r *Room) kick(s *seat) {
	out := s.fence()
	r.end(s, ReasonKicked)
	if out != nil {
		out.End(ErrKicked)
	}
}

// Announce says data, a JSON value, to one peer or, with "", to all in a room, as a message from
// "server". It returns how many are to get it: those for whom more operator's messages wait than fit
// are left out. The error wraps ErrNoRoom or ErrNoSeat, or is ctx's.
func (h *Hub) Announce(ctx context.Context, room RoomID, to PeerID, data []byte) (int, error) {
	envelope := relayEnvelope(&Message{Kind: KindMessage, Payload: data}, "server")
	reached := 0
	err := h.operate(ctx, room, func(r *Room) error {
		found := to == ""
		for _, s := range r.seats {
			if to != "" && s.id != to {
				continue
			}
			found = true
			if s.ring.pushNotice(envelope) {
				s.wake()
				reached++
			}
		}
		if !found {
			return ErrNoSeat
		}
		return nil
	})
	if err != nil {
		return 0, err // the room may be counting yet
	}
	return reached, nil
}

// An operation is an operator's command.
type operation struct {
	do   func(*Room) error
	done chan<- error // buffered
}

func (o operation) apply(r *Room) { o.done <- o.do(r) }

func (h *Hub) operate(ctx context.Context, room RoomID, do func(*Room) error) error {
	h.mu.Lock()
	r := h.rooms[room]
	h.mu.Unlock()
	if r == nil {
		return ErrNoRoom
	}
	done := make(chan error, 1)
	if !r.post(operation{do, done}) {
		return ErrNoRoom
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.done:
		select {
		case err := <-done: // done just before the room ended
			return err
		default:
			return ErrNoRoom
		}
	}
}
