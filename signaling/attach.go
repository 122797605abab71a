package signaling

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
)

// An attachment asks the node that owns a room for a seat, on behalf of a connection on another node.
// No session key crosses the bus, only its hash.
type attachment struct {
	Edge     NodeID       `json:"edge"`
	Link     uint64       `json:"link"`
	Turn     uint64       `json:"turn"`           // counts the link's attachments
	Again    bool         `json:"again,omitzero"` // to the seat that the link has; never a new one
	Have     uint64       `json:"have,omitzero"`  // again: the last number of the ring that the connection has
	Room     RoomID       `json:"room"`
	Key      *sessionHash `json:"key,omitzero"`
	Replaces *sessionHash `json:"replaces,omitzero"`
	Name     string       `json:"name,omitzero"`
	Attempt  uint64       `json:"attempt,omitzero"`
	Since    uint64       `json:"since,omitzero"`
	Received uint64       `json:"received,omitzero"`
	Grant    Grant        `json:"grant,omitzero"`
	Denied   *sentRefusal `json:"denied,omitzero"`
}

// An attached answers an attachment.
type attached struct {
	Status  string       `json:"status"` // one of the following
	Refusal *sentRefusal `json:"refusal,omitzero"`
	Peer    PeerID       `json:"peer,omitzero"`
	Handled uint64       `json:"handled,omitzero"` // parts of the link's that were handled
}

const (
	attachDone     = "attached"
	attachRefused  = "refused"
	attachNotOwner = "not-owner" // ask the directory again
	attachFrozen   = "frozen"    // try again: nothing was done
	attachGone     = "gone"      // again: there is no such seat any more
)

func attachmentOf(c *join) attachment {
	a := attachment{Room: c.room, Replaces: c.replaces, Name: c.name, Attempt: c.attempt, Since: c.since,
		Received: c.received, Grant: c.grant}
	if c.session {
		a.Key = &c.key
	}
	if c.denied != nil {
		a.Denied = c.denied.sent()
	}
	return a
}

// join is the room's command for a.
func (a *attachment) join(out *remoteSeat) *join {
	c := &join{room: a.Room, replaces: a.Replaces, name: a.Name, attempt: a.Attempt, since: a.Since,
		received: a.Received, grant: a.Grant, out: out, remote: out, again: a.Again, have: a.Have,
		reply: make(chan joinReply, 1)}
	if a.Key != nil {
		c.session, c.key = true, *a.Key
	}
	if a.Denied != nil {
		c.denied = a.Denied.refusal()
	}
	return c
}

// attach answers another node's attachment, or gives up when nobody waits for the answer any more.
func (h *Hub) attach(ctx context.Context, a *attachment) attached {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if !h.directory.Valid() {
		return attached{Status: attachFrozen}
	}
	if h.wasGiven(a.Room) {
		return attached{Status: attachNotOwner}
	}
	out := newRemoteSeat(h, linkID{a.Edge, a.Link}, a.Turn, a.Room)
	c := a.join(out)
	var rep joinReply
	if a.Again {
		h.mu.Lock()
		r := h.rooms[a.Room]
		h.mu.Unlock()
		if r == nil {
			return h.notHere(ctx, a.Room)
		}
		var err error
		if rep, err = r.ask(ctx, c); errors.Is(err, ErrNoRoom) {
			return h.notHere(ctx, a.Room)
		} else if err != nil {
			return attached{Status: attachFrozen}
		}
	} else {
		owner, err := h.directory.Find(ctx, a.Room)
		if err != nil || owner.Node != h.directory.Self() {
			return attached{Status: attachNotOwner}
		}
		if _, rep, err = h.enterLocal(ctx, c, owner); errors.Is(err, ErrNoRoom) {
			return attached{Status: attachNotOwner}
		} else if err != nil {
			return attached{Status: attachFrozen}
		}
	}
	switch {
	case rep.err == errNoSeat:
		return attached{Status: attachGone}
	case rep.err == errWait:
		return attached{Status: attachFrozen}
	case rep.err != nil:
		return attached{Status: attachRefused, Refusal: rep.err.sent()}
	}
	return attached{Status: attachDone, Peer: rep.seat.id, Handled: rep.handled}
}

// notHere answers for a room that does not run here: is it elsewhere, or gone?
func (h *Hub) notHere(ctx context.Context, room RoomID) attached {
	owner, err := h.whose(ctx, room)
	if err == nil && owner.Node != h.directory.Self() || h.wasGiven(room) {
		return attached{Status: attachNotOwner}
	}
	return attached{Status: attachGone}
}

// errNoSeat answers an attachment to a seat that has ended.
var errNoSeat = &refusal{err: ErrNoSeat, text: "the seat has ended"}

// errWait answers an attachment of a stranger while the room waits for those who were there.
var errWait = &refusal{err: ErrRestart, text: "the room waits for those who were there"}

// ---- requests

// Request implements Listener.
func (h *Hub) Request(ctx context.Context, request []byte) []byte {
	version, rest := word(request)
	what, body := word(rest)
	if string(version) != frameVersion {
		return fail(errFrame)
	}
	switch string(what) {
	case "attach":
		var a attachment
		if err := json.Unmarshal(body, &a); err != nil {
			return fail(err)
		}
		return answer(h.attach(ctx, &a))
	case "handover":
		var part handedPart
		if err := json.Unmarshal(body, &part); err != nil {
			return fail(err)
		}
		return answer(h.take(&part))
	case "operate":
		var o order
		if err := json.Unmarshal(body, &o); err != nil {
			return fail(err)
		}
		done, err := h.operateLocal(ctx, &o)
		if errors.Is(err, ErrNoRoom) {
			done.Missing = "room"
		} else if err != nil && done.Missing == "" {
			return fail(err)
		}
		return answer(done)
	case "list":
		var q listing
		if err := json.Unmarshal(body, &q); err != nil {
			return fail(err)
		}
		list, err := h.listLocal(ctx, q.After, min(q.Limit, mostListed))
		if err != nil {
			return fail(err)
		}
		return answer(list)
	}
	return fail(errFrame)
}

// answer is a request's result as JSON.
func answer(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return fail(err)
	}
	return b
}

type failed struct {
	Error string `json:"error"`
}

func fail(err error) []byte {
	b, _ := json.Marshal(failed{err.Error()})
	return b
}

// ask asks another node to do what, and reads the answer into result.
func (n *neighborhood) ask(ctx context.Context, to NodeID, what string, question, result any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	b, err := n.bus.Ask(ctx, to, partOf([]byte(frameVersion+" "+what), body))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := readAnswer(b, result); err != nil {
		return fmt.Errorf("%s: node %s: %w", what, to, err)
	}
	return nil
}

// readAnswer reads what answer or fail wrote.
func readAnswer(b []byte, result any) error {
	var bad failed
	if err := json.Unmarshal(b, &bad); err != nil {
		return err
	}
	if bad.Error != "" {
		return errors.New(bad.Error)
	}
	return json.Unmarshal(b, result)
}
