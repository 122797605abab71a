package signaling

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
)

// A room moves to another node whole: its goroutine takes no more commands, sends a snapshot, and goes
// on only if the other node did not take it. Who owns it is decided by one compare-and-set of the
// directory, which the receiver makes.

const (
	moveTimeout = 10 * time.Second
	partBytes   = 512 << 10 // of a snapshot in one request
	movesAtOnce = 64
	// For so long after a move a seat may be without connection before the others are told that its
	// peer is away.
	quietTime = 5 * time.Second
)

type snapshot struct {
	Room  RoomID         `json:"room"`
	From  Owner          `json:"from"`
	Age   nanoseconds    `json:"age"`
	Seats []seatSnapshot `json:"seats"`
}

type seatSnapshot struct {
	ID       PeerID      `json:"id"`
	Name     string      `json:"name,omitzero"`
	Subject  string      `json:"subject,omitzero"`
	Slot     int8        `json:"slot"`
	Key      sessionHash `json:"key"`
	Attempt  uint64      `json:"attempt"`
	Since    uint64      `json:"since"`
	Received uint64      `json:"received"`
	Edge     NodeID      `json:"edge,omitzero"`
	Link     uint64      `json:"link,omitzero"`
	Turn     uint64      `json:"turn,omitzero"`
	Handled  uint64      `json:"handled,omitzero"`
	Resumed  bool        `json:"resumed,omitzero"`
	Barren   int         `json:"barren,omitzero"`
	Away     nanoseconds `json:"away,omitzero"` // left of its grace; 0 = connected
	Renew    nanoseconds `json:"renew,omitzero"`
	Share    share       `json:"share"`
	Acked    uint64      `json:"acked"`
	Given    uint64      `json:"given"`
	Error    uint64      `json:"error,omitzero"` // lastError
	Items    []ringItem  `json:"items,omitzero"`
}

// nanoseconds is a time.Duration, which has no form of its own in JSON.
type nanoseconds int64

type share struct {
	Messages int32 `json:"messages"`
	Bytes    int32 `json:"bytes"`
}

type ringItem struct {
	Slot     int8   `json:"slot"`
	Envelope string `json:"envelope"`
}

func (r *Room) snapshot() snapshot {
	now := r.hub.clock.Now()
	snap := snapshot{Room: r.ID, From: r.owner, Age: nanoseconds(time.Since(r.openedAt))}
	for _, s := range r.seats {
		shot := seatSnapshot{ID: s.id, Name: s.name, Subject: s.subject, Slot: s.slot, Key: s.key, Attempt: s.attempt, Since: s.since,
			Received: s.received, Edge: s.link.edge, Link: s.link.number, Turn: s.turn, Handled: s.handled,
			Resumed: s.resumed, Barren: s.barren}
		if s.away() && !s.quietly {
			shot.Away = nanoseconds(max(1, s.awayUntil.Sub(now)))
		}
		if !s.renewAt.IsZero() {
			shot.Renew = nanoseconds(max(1, s.renewAt.Sub(now)))
		}
		s.ring.copyTo(&shot)
		snap.Seats = append(snap.Seats, shot)
	}
	return snap
}

func (r *ring) copyTo(shot *seatSnapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	shot.Share = share{r.share.messages, r.share.bytes}
	// A connection of this process may fetch until the room is away, and its client acknowledge.
	shot.Acked, shot.Given, shot.Error = r.acked, r.head, r.lastError
	for _, it := range r.items[r.off:] {
		shot.Items = append(shot.Items, ringItem{it.slot, string(it.envelope)})
	}
}

// restore fills a room that no goroutine runs yet.
func (r *Room) restore(snap *snapshot) {
	now := r.hub.clock.Now()
	r.openedAt, r.opened = time.Now().Add(-time.Duration(snap.Age)), true
	for i := range snap.Seats {
		shot := &snap.Seats[i]
		s := &seat{id: shot.ID, name: shot.Name, subject: shot.Subject, slot: shot.Slot, session: true, key: shot.Key, attempt: shot.Attempt,
			since: shot.Since, received: shot.Received, link: linkID{shot.Edge, shot.Link}, turn: shot.Turn,
			handled: shot.Handled, resumed: shot.Resumed, barren: shot.Barren, gen: 1, attachedAt: now}
		s.ring = restoreRing(shot, &r.hub.waiting)
		r.hub.metrics.seatTaken()
		r.hub.seats.Add(1)
		if shot.Away > 0 {
			s.awayUntil = now.Add(time.Duration(shot.Away))
			r.hub.metrics.seatAway()
		} else {
			s.awayUntil, s.quietly = now.Add(quietTime), true
		}
		r.wakeAt(s.awayUntil)
		if shot.Renew > 0 {
			s.renewAt = now.Add(time.Duration(shot.Renew))
			r.wakeAt(s.renewAt)
		}
		r.seats = append(r.seats, s)
	}
}

func restoreRing(shot *seatSnapshot, waiting *atomic.Int64) *ring {
	r := &ring{waiting: waiting, share: usage{shot.Share.Messages, shot.Share.Bytes}, ack: shot.Received}
	r.acked, r.sent, r.head = shot.Acked, shot.Acked, shot.Acked
	for _, it := range shot.Items {
		envelope := []byte(it.Envelope)
		if it.Slot < MaxCapacity {
			r.relayed.add(len(envelope))
		}
		if it.Slot != nobody {
			r.by[it.Slot].add(len(envelope))
		}
		r.push(item{envelope: envelope, slot: it.Slot})
	}
	r.given, r.lastError = shot.Given, shot.Error
	return r
}

// awayAfterMove: the client of s did not come back after its room moved.
func (r *Room) awayAfterMove(s *seat) {
	s.quietly = false
	s.awayUntil = r.hub.clock.Now().Add(max(r.hub.cfg.Grace-quietTime, 0))
	r.wakeAt(s.awayUntil)
	r.hub.metrics.seatAway()
	r.tell("away", s, "")
	r.sayToOthers(s, peerEnvelope("peer-away", s.id, ""))
}

// ---- giving

// wasGiven reports whether the room was handed over. The directory may say for a while that it is still here,
// by a reading that is old or for the sake of other holds: who believes that makes it a second time.
func (h *Hub) wasGiven(room RoomID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, given := h.given[room]
	return given
}

// HandOver moves every room to another node, evenly within the time given, and takes no new ones from
// now on. Connections of this process to rooms that move are closed with 1012, so that their clients
// come back elsewhere; those of other nodes notice nothing. Rooms that nobody took stay.
func (h *Hub) HandOver(ctx context.Context, within time.Duration) (moved, left int) {
	h.mu.Lock()
	h.leaves = true
	rooms := make([]*Room, 0, len(h.rooms))
	for _, r := range h.rooms {
		rooms = append(rooms, r)
	}
	h.mu.Unlock()
	if h.nodes == nil || len(rooms) == 0 {
		return 0, len(rooms)
	}
	ctx, cancel := context.WithTimeout(ctx, within+moveTimeout)
	defer cancel()
	var (
		mu      sync.Mutex
		running sync.WaitGroup
		places  = make(chan struct{}, movesAtOnce)
		pace    = time.NewTicker(max(within/time.Duration(len(rooms)), time.Microsecond))
	)
	defer pace.Stop()
	for i, r := range rooms {
		if i > 0 {
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			done := make(chan bool, 1)
			ok := true // a room that has ended is not left
			if err := r.postBy(ctx, moveOut{ctx, done}); err == nil {
				select {
				case ok = <-done:
				case <-r.done:
				case <-ctx.Done(): // it stands still
					ok = false
				}
			} else if !errors.Is(err, ErrNoRoom) {
				ok = false
			}
			mu.Lock()
			defer mu.Unlock()
			if ok {
				moved++
			} else {
				left++
			}
		})
	}
	running.Wait()
	return moved, left
}

// A moveOut gives the room to another node.
type moveOut struct {
	ctx  context.Context
	done chan<- bool // buffered; whether the room is away
}

func (m moveOut) apply(r *Room) {
	for _, s := range slices.Clone(r.seats) { // a client without a session cannot come back to its seat
		if !s.session {
			out := s.fence()
			r.end(s, ReasonLeft)
			if out != nil {
				out.End(ErrRestart)
			}
		}
	}
	r.endOverflowed()
	if len(r.seats) == 0 {
		r.recoverUntil, r.strangers = time.Time{}, nil // they look for another room
		m.done <- true
		return
	}
	to, ok := r.target()
	if !ok || !r.hub.give(m.ctx, r, to) {
		m.done <- false
		return
	}
	r.hub.nodes.hop.moved.Inc()
	for _, s := range r.seats {
		switch out := s.fence().(type) {
		case *remoteSeat:
			out.moved()
		case Outlet:
			out.End(ErrRestart)
		}
		s.ring.discard()
		r.retire(s)
	}
	r.seats, r.moved = nil, true
	r.recoverUntil, r.strangers = time.Time{}, nil
	m.done <- true
}

// target is the node that has most of the room's connections, else the one with the fewest seats.
func (r *Room) target() (NodeID, bool) {
	var best NodeInfo
	most := -1
	for _, node := range r.hub.nodes.bus.Nodes() {
		if node.Draining || node.ID == r.hub.directory.Self() {
			continue
		}
		here := 0
		for _, s := range r.seats {
			if s.link.edge == node.ID {
				here++
			}
		}
		if here > most || here == most && node.Seats < best.Seats {
			best, most = node, here
		}
	}
	return best.ID, most >= 0
}

// give has node take the room. False: it is still ours. The room's goroutine waits here.
func (h *Hub) give(ctx context.Context, r *Room, node NodeID) bool {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	owner, err := h.directory.Find(ctx, r.ID) // the directory may have claimed it anew since the room began
	if err != nil {
		h.log.Warn("handover", "node", node, "error", err)
		return false
	}
	if owner.Node != h.directory.Self() {
		return true
	}
	defer h.directory.Release(r.ID)
	r.owner = owner
	err = h.offer(ctx, r.snapshot(), node)
	if err == nil {
		return true
	}
	if errors.Is(err, errNotTaken) {
		h.log.Warn("handover", "node", node, "error", err)
		return false
	}
	// Nobody knows. Our own claim anew settles it: of that and the other node's only one comes through.
	h.log.Warn("handover without an answer", "error", err)
	for attempt := 0; !h.ice.isGivenUp(); attempt++ {
		ctx, cancel := context.WithTimeout(context.Background(), moveTimeout)
		owner, err := h.directory.Look(ctx, r.ID)
		cancel()
		switch {
		case err == nil && owner.Node == h.directory.Self():
			r.owner = owner
			return false
		case err == nil || errors.Is(err, ErrNoRoom):
			return true
		}
		pause(context.Background(), attempt)
	}
	return true
}

// errNotTaken says that the other node did not take the room, and will not.
var errNotTaken = errors.New("the room was not taken")

// A handedPart is a piece of a snapshot.
type handedPart struct {
	ID    string `json:"id"` // of the snapshot
	Index int    `json:"index"`
	Of    int    `json:"of"`
	Data  string `json:"data"` // base64
}

type handedAnswer struct {
	Status string `json:"status"` // more, taken, refused, unsure
	Why    string `json:"why,omitzero"`
}

// offer sends a snapshot. Its error wraps errNotTaken where it is certain that the room stays.
func (h *Hub) offer(ctx context.Context, snap snapshot, node NodeID) error {
	b, err := json.Marshal(snap)
	if err != nil {
		return fmt.Errorf("%w: %v", errNotTaken, err)
	}
	id := string(h.directory.Self()) + "/" + strconv.FormatUint(h.nodes.nextHandover(), 10)
	parts := slices.Collect(slices.Chunk(b, partBytes))
	for i, part := range parts {
		var reply handedAnswer
		last := i == len(parts)-1
		err := h.nodes.ask(ctx, node, "handover", handedPart{id, i, len(parts), base64.StdEncoding.EncodeToString(part)}, &reply)
		switch {
		case err != nil && !last, errors.Is(err, ErrNoNode):
			return fmt.Errorf("%w: %v", errNotTaken, err)
		case err != nil:
			return err
		case reply.Status == "refused":
			return fmt.Errorf("%w: %s", errNotTaken, reply.Why)
		case last && reply.Status != "taken":
			return fmt.Errorf("handover: node %s: answered %q", node, reply.Status)
		}
	}
	return nil
}

// ---- taking

// take is the other half of offer.
func (h *Hub) take(part *handedPart) handedAnswer {
	data, err := base64.StdEncoding.DecodeString(part.Data)
	if err != nil {
		return handedAnswer{"refused", "not base64"}
	}
	b, whole, err := h.nodes.collect(part, data)
	switch {
	case err != nil:
		return handedAnswer{"refused", err.Error()}
	case !whole:
		return handedAnswer{Status: "more"}
	}
	var snap snapshot
	if err := json.Unmarshal(b, &snap); err != nil {
		return handedAnswer{"refused", err.Error()}
	}
	switch err := h.receive(&snap); {
	case errors.Is(err, ErrUnsure):
		return handedAnswer{"unsure", err.Error()}
	case err != nil:
		return handedAnswer{"refused", err.Error()}
	}
	return handedAnswer{Status: "taken"}
}

// receive makes this node the owner of a room. With an error it is not, and will not be, or only the
// directory knows: then it wraps ErrUnsure, and the room does not run here.
func (h *Hub) receive(snap *snapshot) error {
	r := newRoom(snap.Room, h, Owner{})
	r.running.Store(true) // nobody runs it: what comes waits in the inbox
	h.mu.Lock()
	switch {
	case h.closed || h.leaves || !h.directory.Valid():
		h.mu.Unlock()
		return errors.New("this node takes no rooms now")
	case h.rooms[r.ID] != nil:
		h.mu.Unlock()
		return errors.New("a room of this name runs here")
	}
	h.rooms[r.ID] = r
	h.most = max(h.most, len(h.rooms))
	h.running.Add(1)
	h.mu.Unlock()
	h.metrics.rooms.Inc()

	owner, err := h.claimHanded(snap)
	if err != nil {
		h.forget(r)
		return err
	}
	r.owner = owner
	r.restore(snap)
	r.running.Store(false)
	r.start() // for what came meanwhile
	return nil
}

// claimHanded makes the claim to a handed room, and finds out what became of it: a room of ours that we
// took for another's would be nobody's.
func (h *Hub) claimHanded(snap *snapshot) (Owner, error) {
	unsure := false
	for attempt := 0; ; attempt++ {
		ctx, cancel := context.WithTimeout(context.Background(), moveTimeout)
		owner, err := h.directory.Receive(ctx, snap.Room, snap.From)
		unsure = unsure || errors.Is(err, ErrUnsure)
		old := false // what Find says is not so any more
		if err != nil {
			now, findErr := h.directory.Find(ctx, snap.Room)
			if findErr == nil && now.Node == h.directory.Self() {
				owner, err = now, nil
			}
			old = unsure && (findErr != nil || now.Node == snap.From.Node && now.Epoch == snap.From.Epoch)
		}
		cancel()
		switch {
		case err == nil:
			return owner, nil
		case !old && !errors.Is(err, ErrUnsure), h.ice.isGivenUp():
			if unsure {
				err = errors.Join(err, ErrUnsure) // the other's claim settles it
			}
			return owner, err
		}
		pause(context.Background(), attempt)
	}
}

// An arriving snapshot has not come whole yet.
type arriving struct {
	parts [][]byte
	late  *time.Timer // forgets it
}

const (
	mostArriving   = 2 * movesAtOnce
	mostParts      = 16
	arrivalTimeout = moveTimeout // from the first part on: the giver waits no longer for all of them
)

func (n *neighborhood) nextHandover() uint64 { return n.handovers.Add(1) }

// collect adds a part and returns the whole when it was the last.
func (n *neighborhood) collect(part *handedPart, data []byte) (b []byte, whole bool, _ error) {
	if part.Of < 1 || part.Of > mostParts || part.Index < 0 || part.Index >= part.Of {
		return nil, false, errors.New("parts are miscounted")
	}
	n.arriving.Lock()
	defer n.arriving.Unlock()
	a := n.arriving.snapshots[part.ID]
	if a == nil {
		if len(n.arriving.snapshots) >= mostArriving {
			return nil, false, errors.New("too many rooms arrive at once")
		}
		a = &arriving{}
		a.late = time.AfterFunc(arrivalTimeout, func() {
			n.arriving.Lock()
			defer n.arriving.Unlock()
			n.arrived(part.ID, a)
		})
		n.arriving.snapshots[part.ID] = a
	}
	if part.Index != len(a.parts) {
		n.arrived(part.ID, a)
		return nil, false, errors.New("parts are out of order")
	}
	if a.parts = append(a.parts, data); len(a.parts) < part.Of {
		return nil, false, nil
	}
	n.arrived(part.ID, a)
	return bytes.Join(a.parts, nil), true, nil
}

// arrived forgets a snapshot that is whole, or never will be. arriving is locked.
func (n *neighborhood) arrived(id string, a *arriving) {
	a.late.Stop()
	if n.arriving.snapshots[id] == a {
		delete(n.arriving.snapshots, id)
	}
}
