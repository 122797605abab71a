package signaling

import (
	"encoding/base64"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json"
)

// A remoteSeat is the Outlet of a seat whose connection is on another node, and what brings the
// client's messages from there to the room.
type remoteSeat struct {
	// Static after construction.
	hub  *Hub
	link linkID
	turn uint64
	lane int
	hop  *hop

	// Set by the room's goroutine when the seat is taken, before anything comes.
	room  *Room
	seat  *seat
	gen   uint64
	quiet bool // joined is not said: the client does not know of this attachment

	mu      sync.Mutex
	feed    seatFeed
	arrived []arrival // for the room
	posted  bool      // the room knows
	over    bool      // the seat has ended, or has another outlet: what is left is sent, then nothing
}

// An arrival is a part that came for the room.
type arrival struct {
	number  uint64
	command command
}

// mostArrived is how many parts may wait for the room: what is over is sent again.
const mostArrived = 2 * hopParts

func newRemoteSeat(h *Hub, link linkID, turn uint64, room RoomID) *remoteSeat {
	s := &remoteSeat{hub: h, link: link, turn: turn, lane: laneOf(room)}
	s.hop = newHop(h.nodes.hop, s.send, s.lost)
	return s
}

// send is the hop's.
func (s *remoteSeat) send(turn, number, confirmed uint64, part []byte) {
	f := frame{link: s.link, turn: turn, number: number, confirmed: confirmed, part: part}
	s.hub.nodes.bus.Send(s.link.edge, s.lane, f.bytes())
}

// taken is called by the room's goroutine when the seat has this outlet.
func (s *remoteSeat) taken(r *Room, seat *seat, gen uint64, quiet bool) {
	s.room, s.seat, s.gen, s.quiet = r, seat, gen, quiet
	s.hop.count(s.turn, seat.handled)
	n := s.hub.nodes
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seats[s.link] = s
}

// ---- Outlet

// Attach implements Outlet.
func (s *remoteSeat) Attach(joined []byte, feed Feed) {
	s.mu.Lock()
	s.feed = feed.(seatFeed)
	s.mu.Unlock()
	if s.quiet {
		s.hop.put(partHere) // a link that has given up meanwhile does not confirm it
	} else {
		s.hop.put(partOf(append([]byte("joined "), s.seat.id...), joined))
	}
	s.Wake()
}

// Wake implements Outlet: it sends what the feed has, as far as the hop takes it.
func (s *remoteSeat) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.feed.ring == nil || !s.hub.directory.Valid() {
		return
	}
	s.pump(false)
}

func (s *remoteSeat) pump(all bool) {
	for all || !s.hop.full() {
		msg, number, _, ok := s.feed.next(nil)
		if !ok {
			return
		}
		s.hop.put(partOf(strconv.AppendUint([]byte("out "), number, 10), msg))
	}
}

// End implements Outlet.
func (s *remoteSeat) End(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if why, ok := cause.(*refusal); ok {
		s.hub.metrics.refused(why.err)
	}
	s.hop.put(causePart(cause))
}

// moved tells the edge that the room is on another node now.
func (s *remoteSeat) moved() { s.last([]byte("moved")) }

// silent says that the edge gives no sign of life. If it comes back it attaches again.
func (s *remoteSeat) silent() {
	s.last([]byte("lost"))
	c := lost{s.seat, s.gen, EndLost}
	if !s.room.postNow(c) {
		go s.room.post(c)
	}
}

// last says what has become of the attachment. Nothing comes through it any more.
func (s *remoteSeat) last(part []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over, s.arrived = true, nil
	s.hop.put(part)
}

// drop forgets the link.
func (s *remoteSeat) drop() {
	s.mu.Lock()
	s.over, s.arrived = true, nil
	s.mu.Unlock()
	s.hop.close()
	n := s.hub.nodes
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seats[s.link] == s {
		delete(n.seats, s.link)
	}
}

// lost says that the edge is not heard any more.
func (s *remoteSeat) lost() {
	s.drop()
	s.room.post(lost{s.seat, s.gen, EndLost})
}

// ---- what comes from the edge

// frame handles what the edge sent.
func (s *remoteSeat) frame(f *frame) {
	if f.number == 0 {
		if what, _ := word(f.part); string(what) == "unknown" {
			s.drop()
			go s.room.post(lost{s.seat, s.gen, EndLost})
			return
		}
		s.hop.heard(f.turn, 0, f.confirmed, f.part)
		s.settle()
		return
	}
	s.mu.Lock()
	full := len(s.arrived) >= mostArrived
	s.mu.Unlock()
	if full {
		return
	}
	if s.hop.heard(f.turn, f.number, f.confirmed, f.part) {
		s.arrive(f.number, s.command(f.part))
	}
	s.settle()
}

// settle goes on after a confirmation.
func (s *remoteSeat) settle() {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if !over {
		s.Wake()
	} else if s.hop.idle() {
		s.drop()
	}
}

// arrive brings a command to the room, without waiting for it.
func (s *remoteSeat) arrive(number uint64, c command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.arrived = append(s.arrived, arrival{number, c})
	if s.posted {
		return
	}
	s.posted = true
	if !s.room.postNow(arrivals{s}) {
		go s.room.post(arrivals{s})
	}
}

// arrivals is what has come through one remote seat.
type arrivals struct{ from *remoteSeat }

func (a arrivals) apply(r *Room) {
	s := a.from
	for {
		s.mu.Lock()
		batch := s.arrived
		s.arrived = nil
		s.posted = len(batch) > 0
		s.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for _, part := range batch {
			if !s.seat.acts(s.gen) {
				continue // not confirmed: it is sent again to whoever may handle it
			}
			s.seat.handled = part.number
			if part.command != nil {
				part.command.apply(r)
			}
			s.hop.done(s.turn, part.number)
		}
	}
}

// command reads a part; nil where this version knows no such part.
func (s *remoteSeat) command(part []byte) command {
	what, rest := word(part)
	switch string(what) {
	case "relay":
		kind, rest := word(rest)
		seq, rest, _ := number(rest)
		to, rest := word(rest)
		at, envelope, _ := number(rest)
		c := &relay{seat: s.seat, gen: s.gen, kind: kindNamed(kind), seq: seq, at: int64(at), envelope: append([]byte(nil), envelope...)}
		if string(to) != "-" {
			peer, _ := base64.RawURLEncoding.DecodeString(string(to))
			c.to = PeerID(peer)
		}
		return c
	case "refused":
		kind, body := word(rest)
		var why sentRefusal
		if json.Unmarshal(body, &why) != nil {
			return nil
		}
		return refused{s.seat, s.gen, kindNamed(kind), why.refusal()}
	case "ack":
		received, _, _ := number(rest)
		return acknowledge{s.seat, s.gen, received}
	case "leave":
		seq, _, _ := number(rest)
		return leave{s.seat, s.gen, seq, s.leave}
	case "gone":
		how, _, _ := number(rest)
		return departure{s, Ending(min(how, uint64(EndViolation)))}
	}
	return nil
}

// leave answers a leave; it is called by the room's goroutine.
func (s *remoteSeat) leave(left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !left {
		s.hop.put([]byte("stays"))
		return
	}
	s.pump(true)
	s.over = true
	s.hop.put([]byte("left"))
	s.feed.discard()
}

// A departure is the end of a remote seat's connection.
type departure struct {
	from *remoteSeat
	how  Ending
}

func (d departure) apply(r *Room) {
	s := d.from
	lost{s.seat, s.gen, d.how}.apply(r)
	s.hop.doneNow(s.turn, s.seat.handled)
	s.drop()
}
