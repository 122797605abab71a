package signaling

import (
	"context"
	"errors"
	"time"
)

// A Policy is what a Hub leaves to others. Each field may be nil.
type Policy struct {
	// Authorize decides who may join which room; nil: everybody may join every room. It is called by
	// the connection's reader, may take as long as ctx, and is safe for concurrent use. Its error is
	// one that Refuse made; any other counts as the server's own trouble.
	Authorize func(ctx context.Context, token string, room RoomID) (Grant, error)
	// ICEServers makes the JSON array of STUN and TURN servers for one peer, and says for how long its
	// credentials hold; nil: everybody gets Config.ICEServers. It must not block.
	ICEServers func(peer PeerID) (servers []byte, lifetime time.Duration)
	// Events hears what happens in rooms. It is called by their goroutines and must not block.
	Events func(Event)
}

// A Grant is what a client may do in the room that it asked for.
type Grant struct {
	Name     string // that the client has to use; "" = its own choice
	Subject  string // whose it is, for the operator alone; "" = not said
	Capacity int    // seats of the room as far as this client is concerned; 0 = Config.RoomCapacity
}

// Refuse returns an error for Policy.Authorize: sentinel, ErrUnauthorized or ErrForbidden, with a text
// for people that says what to do. The text reaches the client: nothing secret may be in it.
func Refuse(sentinel error, text string) error { return &refusal{err: sentinel, text: text} }

// authorize asks the policy. A client that is refused may still have a seat: a token that ran out in
// the middle of a call must not end the call, for which the session key stands.
func (h *Hub) authorize(ctx context.Context, m *Message) (Grant, *refusal) {
	if h.cfg.Policy.Authorize == nil {
		return Grant{}, nil
	}
	grant, err := h.cfg.Policy.Authorize(ctx, m.Token, m.Room)
	if err == nil {
		return grant, nil
	}
	var refused *refusal
	if !errors.As(err, &refused) {
		h.log.Error("authorize", "error", err)
		refused = &refusal{err: ErrUnauthorized, text: "the token cannot be checked now; try again"}
	}
	return Grant{}, &refusal{err: refused.err, text: refused.text}
}

// An Event is one thing that happened in a room, for the operator.
type Event struct {
	At      time.Time
	Type    string // room-opened, joined, away, back, left, error, room-closed
	Room    RoomID
	Peer    PeerID // "" of a room
	Name    string
	Subject string // Grant.Subject
	Why     string // left: a Reason; error: a code of the protocol's section 6
}

// tell reports what happened to s, or with nil to the room.
func (r *Room) tell(kind string, s *seat, why string) {
	if r.hub.cfg.Policy.Events == nil {
		return
	}
	e := Event{At: time.Now(), Type: kind, Room: r.ID, Why: why}
	if s != nil {
		e.Peer, e.Name, e.Subject = s.id, s.name, s.subject
	}
	r.hub.cfg.Policy.Events(e)
}
