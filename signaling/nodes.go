package signaling

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A neighborhood is what a Hub has of other nodes: links of connections here whose rooms are
// elsewhere, and seats of rooms here whose connections are elsewhere.
type neighborhood struct {
	// Static after construction.
	hub *Hub
	bus Bus
	hop *hopMetrics

	mu       sync.Mutex // held for a map access only
	lastLink uint64
	links    map[uint64]*remoteHold
	seats    map[linkID]*remoteSeat

	handovers atomic.Uint64 // begun by this node
	arriving  struct {
		sync.Mutex
		snapshots map[string]*arriving
	}
}

type hopMetrics struct {
	resent, repeated, gaps, unknown prometheus.Counter
	reattached, moved, lost         prometheus.Counter
}

func newNeighborhood(h *Hub, bus Bus, reg prometheus.Registerer) *neighborhood {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	n := &neighborhood{hub: h, bus: bus, links: map[uint64]*remoteHold{}, seats: map[linkID]*remoteSeat{}}
	n.arriving.snapshots = map[string]*arriving{}
	n.hop = &hopMetrics{
		resent:     counter("duet_hop_resent_total", "Parts sent to another node again, because no confirmation came."),
		repeated:   counter("duet_hop_repeated_total", "Parts that came from another node twice, and were dropped."),
		gaps:       counter("duet_hop_gaps_total", "Frames from another node that came after a lost one, and were asked for again."),
		unknown:    counter("duet_hop_unknown_total", "Frames from another node that nobody here is meant by, or of an unknown version."),
		reattached: counter("duet_reattached_total", "Connections attached again to a room that has moved or a node that was away."),
		moved:      counter("duet_rooms_moved_total", "Rooms handed over to another node."),
		lost:       counter("duet_links_lost_total", "Connections given up because their room's node was lost."),
	}
	gauge := func(name, help string, value func() int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			n.mu.Lock()
			defer n.mu.Unlock()
			return float64(value())
		}))
	}
	gauge("duet_remote_links", "Connections here whose room is on another node.", func() int { return len(n.links) })
	gauge("duet_remote_seats", "Seats of rooms here whose connection is on another node.", func() int { return len(n.seats) })
	return n
}

// laneOf is the lane of a room's frames: FNV-1a of its name.
func laneOf(room RoomID) int {
	h := uint32(2166136261)
	for i := range len(room) {
		h = (h ^ uint32(room[i])) * 16777619
	}
	return int(h % Lanes)
}

// Frame implements Listener.
func (h *Hub) Frame(b []byte) {
	n := h.nodes
	f, err := parseFrame(b)
	if err != nil {
		n.hop.unknown.Inc()
		return
	}
	if f.up {
		n.mu.Lock()
		s := n.seats[f.link]
		n.mu.Unlock()
		if s == nil || s.turn < f.turn {
			n.disown(f, f.link.edge)
			return
		}
		if s.turn == f.turn {
			s.frame(&f)
		}
		return
	}
	n.mu.Lock()
	l := n.links[f.link.number]
	n.mu.Unlock()
	if l == nil || f.link.edge != h.directory.Self() {
		n.disown(f, "")
		return
	}
	l.frame(&f)
}

// disown tells the other end that nobody is here. It needs to be told only if it will send again.
func (n *neighborhood) disown(f frame, edge NodeID) {
	n.hop.unknown.Inc()
	if f.number == 0 || edge == "" {
		return
	}
	answer := frame{link: f.link, turn: f.turn, part: partUnknown}
	n.bus.Send(edge, int(f.link.number%Lanes), answer.bytes())
}

// Silent implements Listener: a silent edge is a lost connection of each of its seats. Of a silent owner
// it is found out whether it is there.
func (h *Hub) Silent(node NodeID) {
	h.nodes.forsake(node)
	h.nodes.probe(node)
}

// Dead implements Listener: the rooms of a dead node are gone, but for those that it handed over.
func (h *Hub) Dead(node NodeID) {
	h.nodes.forsake(node)
	for _, l := range h.nodes.linksTo(node) {
		l.reattach()
	}
}

// forsake takes the connections on a node for lost.
func (n *neighborhood) forsake(node NodeID) {
	n.mu.Lock()
	var gone []*remoteSeat
	for id, s := range n.seats {
		if id.edge == node {
			gone = append(gone, s)
		}
	}
	n.mu.Unlock()
	for _, s := range gone {
		s.silent()
	}
}

// linksTo are the links to rooms of a node; of every node with "".
func (n *neighborhood) linksTo(node NodeID) []*remoteHold {
	n.mu.Lock()
	all := slices.Collect(maps.Values(n.links))
	n.mu.Unlock()
	return slices.DeleteFunc(all, func(l *remoteHold) bool { return node != "" && !l.ownedBy(node) })
}

// probe finds out whether the links to rooms of a node, of every node with "", are still known there.
func (n *neighborhood) probe(node NodeID) {
	if n == nil {
		return
	}
	for _, l := range n.linksTo(node) {
		l.say(partHere)
	}
}

// abandonLinks ends every connection here whose room is elsewhere.
func (n *neighborhood) abandonLinks() {
	if n == nil {
		return
	}
	for _, l := range n.linksTo("") {
		l.abandon(ErrRestart)
	}
}

// Info implements Listener.
func (h *Hub) Info() NodeInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	return NodeInfo{Rooms: len(h.rooms), Seats: int(h.seats.Load()), Draining: h.leaves}
}

// ---- waiting for a node

// A join waits until a dead owner is proven dead (10 s, the lease, and a second) and its room is taken over;
// then, in a room taken over, for Config.Recover (5 s) where it is a stranger's, whose bound is longer by
// that. None of this is one request's wait: who has no answer after askTimeout, or is told to try again,
// asks the directory and the owner anew, at most once in pause's half second.
const (
	askTimeout   = 1500 * time.Millisecond
	enterTimeout = 15 * time.Second
)

// pause waits a little, more with each attempt, and not the same for everybody. False: ctx has ended.
func pause(ctx context.Context, attempt int) bool {
	most := min(50*time.Millisecond<<min(attempt, 4), 500*time.Millisecond)
	t := time.NewTimer(most/2 + rand.N(most))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ---- the operator

// mostListed is how many rooms a node lists at once.
const mostListed = 1000

// listTime is how long the nodes have to answer.
const listTime = 2 * time.Second

// A listing asks every node for its rooms.
type listing struct {
	After RoomID `json:"after"`
	Limit int    `json:"limit"`
}

// list is Hub.List across nodes.
func (n *neighborhood) list(ctx context.Context, after RoomID, limit int) (RoomList, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	request := partOf([]byte(frameVersion+" list"), answer(listing{after, limit}))
	answers, silent, err := n.bus.AskAll(ctx, request)
	if err != nil {
		return RoomList{}, fmt.Errorf("list rooms: %w", err)
	}
	all := RoomList{Silent: silent}
	for node, b := range answers {
		var one RoomList
		if err := readAnswer(b, &one); err != nil {
			all.Silent = append(all.Silent, node)
			continue
		}
		all.Rooms = append(all.Rooms, one.Rooms...)
		all.Total += one.Total
		all.More = all.More || one.More
	}
	slices.SortFunc(all.Rooms, func(a, b RoomInfo) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node)) })
	end := min(limit, len(all.Rooms))
	for end > 0 && end < len(all.Rooms) && all.Rooms[end].ID == all.Rooms[end-1].ID {
		end++ // the next page begins after that name
	}
	all.Rooms, all.More = all.Rooms[:end], all.More || end < len(all.Rooms)
	slices.Sort(all.Silent)
	return all, nil
}

// operate carries out an order on a room of another node.
func (n *neighborhood) operate(ctx context.Context, o *order) (done outcome, _ error) {
	for attempt := 0; ; attempt++ {
		owner, err := n.hub.whose(ctx, o.Room)
		if err != nil {
			return outcome{}, fmt.Errorf("find the room: %w", err)
		}
		if owner.Node == n.hub.directory.Self() { // it came here meanwhile
			return n.hub.operateLocal(ctx, o)
		}
		done = outcome{}
		err = n.ask(ctx, owner.Node, "operate", o, &done)
		switch {
		case err != nil:
			return outcome{}, err
		case done.Missing != "room" || attempt == 3:
			return done, done.err()
		}
		pause(ctx, attempt) // it may be on its way to a third node
	}
}
