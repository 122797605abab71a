package signaling

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"sync"
)

// A remoteHold is a hold on a seat in a room of another node. It carries what the client says there, and
// brings what the client is to get; of the protocol it knows nothing. When the room moves it follows,
// and the client does not notice.
type remoteHold struct {
	// Static after construction.
	hub     *Hub
	number  uint64 // of the link
	lane    int
	request attachment // as first asked
	out     Outlet     // the connection
	hop     *hop
	queue   *queue
	leaving chan bool     // buffered; what became of leave
	over    chan struct{} // closed when the hold has ended

	mu        sync.Mutex
	owner     Owner
	attaching bool // by enter or follow
	late      bool // what they ask for now is out of date already
	ended     bool
	joined    bool   // the connection was told
	gone      bool   // the connection is lost: nothing goes to it any more
	id        PeerID // "" until joined
	have      uint64 // the last number of the ring that the connection was given
}

// enter takes a seat on the node that owns the room. Not ok: there was no answer, and the directory is to
// be asked again.
func (l *remoteHold) enter(ctx context.Context, owner Owner) (_ *refusal, ok bool) {
	reply, err := l.ask(ctx, owner)
	switch {
	case err != nil || reply.Status == attachNotOwner || reply.Status == attachFrozen:
		return nil, false
	case reply.Status == attachDone:
		if !l.attached(&reply) {
			go l.follow()
		}
		return nil, true
	case reply.Refusal == nil: // gone
		return &refusal{err: ErrRestart, text: "the room's server restarts"}, true
	}
	return reply.Refusal.refusal(), true
}

func (n *neighborhood) newLink(c *join) *remoteHold {
	l := &remoteHold{hub: n.hub, lane: laneOf(c.room), request: attachmentOf(c), out: c.out, queue: &queue{},
		attaching: true, leaving: make(chan bool, 1), over: make(chan struct{})}
	l.hop = newHop(n.hop, l.send, l.stuck)
	if l.request.Key == nil {
		l.queue.fetched = l.fetched
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastLink++
	l.number = n.lastLink
	n.links[l.number] = l
	l.request.Edge, l.request.Link = n.hub.directory.Self(), l.number
	return l
}

// ask asks owner for the seat.
func (l *remoteHold) ask(ctx context.Context, owner Owner) (reply attached, _ error) {
	turn := l.hop.restart()
	l.mu.Lock()
	l.owner, l.late = owner, false
	request := l.request
	request.Turn = turn
	if request.Again = l.joined; request.Again {
		request.Have = l.have // what the client acknowledged comes through the hop, in its turn
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return reply, l.hub.nodes.ask(ctx, owner.Node, "attach", request, &reply)
}

// attached goes on with the seat that ask got. False: the room is elsewhere already, and has to be followed.
func (l *remoteHold) attached(reply *attached) bool {
	l.mu.Lock()
	l.id = reply.Peer
	l.attaching = l.late
	follow := l.late
	l.mu.Unlock()
	if follow {
		return false
	}
	l.hop.resume(reply.Handled)
	l.settle()
	return true
}

// send is the hop's.
func (l *remoteHold) send(turn, number, confirmed uint64, part []byte) {
	l.mu.Lock()
	to := l.owner.Node
	l.mu.Unlock()
	f := frame{up: true, link: linkID{l.request.Edge, l.number}, turn: turn, number: number, confirmed: confirmed, part: part}
	l.hub.nodes.bus.Send(to, l.lane, f.bytes())
}

// frame handles what the room's node sent.
func (l *remoteHold) frame(f *frame) {
	if !l.hop.current(f.turn) {
		return
	}
	if f.number == 0 && bytes.Equal(f.part, partUnknown) {
		l.disowned()
		return
	}
	if l.hop.heard(f.turn, f.number, f.confirmed, f.part) {
		l.part(f)
		l.hop.done(f.turn, f.number)
	}
	l.settle()
}

// part handles a part that came in its turn.
func (l *remoteHold) part(f *frame) {
	what, rest := word(f.part)
	switch string(what) {
	case "joined":
		id, envelope := word(rest)
		l.mu.Lock()
		twice := l.joined
		l.id, l.joined = PeerID(id), true
		gone := l.gone
		l.mu.Unlock()
		if twice { // asked for before the first was told: it may be another seat
			l.abandon(ErrRestart)
		} else if !gone {
			l.out.Attach(append([]byte(nil), envelope...), l.queue)
		}
	case "out":
		inRing, envelope, _ := number(rest)
		l.mu.Lock()
		stale := l.gone || inRing != 0 && inRing <= l.have
		l.have = max(l.have, inRing)
		l.mu.Unlock()
		if stale {
			return
		}
		if !l.queue.push(queued{append([]byte(nil), envelope...), inRing}) {
			l.abandon(ErrTooSlow)
			return
		}
		l.out.Wake()
	case "moved":
		l.hop.doneNow(f.turn, f.number)
		l.reattach()
	case "lost":
		l.hop.doneNow(f.turn, f.number)
		l.disowned()
	case "left":
		l.hop.doneNow(f.turn, f.number)
		l.answerLeave(true)
		l.finish()
	case "stays":
		l.answerLeave(false)
	case "end":
		l.hop.doneNow(f.turn, f.number)
		l.end(causeOf(rest))
	}
}

// answerLeave tells who waits for it. An answer that nobody asked for must not stop the lane.
func (l *remoteHold) answerLeave(left bool) {
	select {
	case l.leaving <- left:
	default:
	}
}

// say sends the room a part.
func (l *remoteHold) say(part []byte) { l.hop.put(part) }

// settle ends a hold whose connection is lost, once the room knows.
func (l *remoteHold) settle() {
	l.mu.Lock()
	over := l.gone && !l.ended && !l.attaching
	l.mu.Unlock()
	if over && l.hop.idle() {
		l.finish()
	}
}

// disowned: the room's node does not know the link.
func (l *remoteHold) disowned() {
	l.mu.Lock()
	gone, plain := l.gone, l.request.Key == nil
	l.mu.Unlock()
	switch {
	case gone:
		l.finish()
	case plain:
		l.end(ErrRestart) // without a session nothing says what it has
	default:
		l.reattach()
	}
}

// stuck is the hop's: the room's node says nothing any more.
func (l *remoteHold) stuck() {
	l.hub.nodes.hop.lost.Inc()
	l.abandon(ErrRestart)
}

// abandon ends the connection for a cause that the room does not know of.
func (l *remoteHold) abandon(cause error) {
	l.hop.tell(partUnknown)
	l.end(cause)
}

// giveUp ends a hold that enter could not get, and returns what to tell the client: why, or, where it was
// told of a seat already, that it has to come back.
func (l *remoteHold) giveUp(why *refusal) *refusal {
	if l == nil {
		return why
	}
	l.hop.tell(partUnknown)
	l.finish()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.joined {
		return &refusal{err: ErrRestart, text: "the room's server restarts"}
	}
	return why
}

// end ends the connection for cause, and the hold with it.
func (l *remoteHold) end(cause error) {
	if l.finish() {
		l.out.End(cause)
	}
}

// finish ends the hold. It reports whether the connection is to be told.
func (l *remoteHold) finish() bool {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return false
	}
	l.ended = true
	told := !l.gone
	l.mu.Unlock()
	l.hop.close()
	close(l.over)
	n := l.hub.nodes
	n.mu.Lock()
	delete(n.links, l.number)
	n.mu.Unlock()
	return told
}

// ownedBy reports whether node has the room, as far as this link knows.
func (l *remoteHold) ownedBy(node NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owner.Node == node && !l.ended
}

// reattach follows the room to where it is now. It returns at once.
func (l *remoteHold) reattach() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
	case l.attaching:
		l.late = true
	default:
		l.attaching = true
		go l.follow()
	}
}

// follow attaches to the seat again, or ends the connection: its client then joins anew, with the same
// id, and its call goes on.
func (l *remoteHold) follow() {
	l.hop.restart() // nothing more is said to where the room was
	ctx, cancel := context.WithTimeout(context.Background(), enterTimeout)
	defer cancel()
	for attempt := 0; ; attempt++ {
		owner, err := l.hub.whose(ctx, l.request.Room)
		if errors.Is(err, ErrNoRoom) {
			break
		}
		if err == nil {
			reply, err := l.ask(ctx, owner)
			if err == nil && reply.Status == attachDone && l.attached(&reply) {
				l.hub.nodes.hop.reattached.Inc()
				return
			}
			if err == nil && (reply.Status == attachGone || reply.Status == attachRefused) {
				break
			}
		}
		select {
		case <-l.over:
			return
		default:
		}
		if !pause(ctx, attempt) {
			break
		}
	}
	l.hub.nodes.hop.lost.Inc()
	l.abandon(ErrRestart)
}

// whose is Look, which is not to be asked of a room that is here: the answer would be a new claim.
func (h *Hub) whose(ctx context.Context, room RoomID) (Owner, error) {
	h.mu.Lock()
	r := h.rooms[room]
	h.mu.Unlock()
	if r != nil {
		return Owner{Node: h.directory.Self()}, nil
	}
	return h.directory.Look(ctx, room)
}

// ---- hold

func (l *remoteHold) peer() (PeerID, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, l.request.Key != nil
}

func (l *remoteHold) relay(c *relay) {
	head := append([]byte("relay "), c.kind.String()...)
	head = append(head, ' ')
	head = strconv.AppendUint(head, c.seq, 10)
	head = append(head, ' ')
	if c.to == "" {
		head = append(head, '-')
	} else {
		head = base64.RawURLEncoding.AppendEncode(head, []byte(c.to))
	}
	head = append(head, ' ')
	head = strconv.AppendInt(head, c.at, 10)
	l.hop.putSlowly(partOf(head, c.envelope))
}

func (l *remoteHold) refused(kind Kind, why *refusal) {
	l.hop.putSlowly(partOf([]byte("refused "+kind.String()), answer(why.sent())))
}

func (l *remoteHold) acknowledge(received uint64) {
	l.hop.putSlowly(strconv.AppendUint([]byte("ack "), received, 10))
}

// fetched acknowledges for a client without a session, which cannot: the room keeps for it what its
// connection has not fetched, as it would on its own node, and says busy to others when that is too much.
func (l *remoteHold) fetched(number uint64) {
	l.say(strconv.AppendUint([]byte("ack "), number, 10))
}

func (l *remoteHold) leave(seq uint64) remainder {
	if !l.hop.putSlowly(strconv.AppendUint([]byte("leave "), seq, 10)) {
		return nil
	}
	left := false
	select {
	case left = <-l.leaving:
	case <-l.over:
		select {
		case left = <-l.leaving:
		default:
		}
	}
	if !left {
		return nil
	}
	return l.queue
}

func (l *remoteHold) lost(how Ending) {
	l.mu.Lock()
	l.gone = true
	ended := l.ended
	l.mu.Unlock()
	if !ended {
		l.hop.put(strconv.AppendUint([]byte("gone "), uint64(how), 10))
	}
}

// ---- queue

// A queue holds what came for a connection until its transport fetches it.
type queue struct {
	fetched func(number uint64) // called when a message in the ring is fetched and none is left, or many were; nil: nobody cares

	mu    sync.Mutex
	items []queued
	bytes int
	owed  int // fetched and not told
}

type queued struct {
	msg    []byte
	number uint64 // in the room's ring; 0 = none
}

// fetchedEvery is how many messages may be fetched before that is told, while there are more.
const fetchedEvery = 32

// push adds a message. False: the connection is too slow, or gone. The room's ring is full sooner.
func (q *queue) push(m queued) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+len(m.msg) > directLimit {
		return false
	}
	q.items = append(q.items, m)
	q.bytes += len(m.msg)
	return true
}

// Next implements Feed.
func (q *queue) Next(dst []byte) (msg []byte, at int64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return dst, 0, false
	}
	first := q.items[0]
	q.items[0] = queued{}
	if q.items = q.items[1:]; len(q.items) == 0 {
		q.items = nil
	}
	q.bytes -= len(first.msg)
	if q.owed++; q.fetched != nil && first.number != 0 && (q.items == nil || q.owed >= fetchedEvery) {
		q.owed = 0
		q.fetched(first.number)
	}
	return append(dst, first.msg...), 0, true
}

func (q *queue) discard() {}
