package signaling

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Config bounds what a Hub's rooms may do.
type Config struct {
	RoomCapacity    int           // seats a room, 2 to MaxCapacity
	MaxRooms        int           // rooms at once; 0 = no bound
	Grace           time.Duration // how long a seat outlives its lost connection
	MessageRate     float64       // messages a second and connection, of any type
	MessageBurst    int           // how many may come at once
	MaxMessageBytes int           // of one message
	ICEServers      []byte        // JSON array that joined carries as iceServers; nil = []
	Policy          Policy
	Bus             Bus           // to other nodes; nil = this one stands alone
	FrozenClose     time.Duration // how long clients wait for a frozen node before they are sent away (1012)
	Recover         time.Duration // for which a room taken from a dead node takes only clients that come back
}

// A Hub knows the rooms of this process. It owns nothing of what is in them.
type Hub struct {
	// Static after construction.
	cfg       Config
	directory Directory
	log       *slog.Logger
	metrics   *metrics
	clock     Clock

	nodes   *neighborhood // nil = there are none
	waiting atomic.Int64  // bytes in all rings
	seats   atomic.Int64
	ice     freezer

	mu      sync.Mutex // held for a map access only
	rooms   map[RoomID]*Room
	most    int // rooms since the map was made
	closed  bool
	leaves  bool                // its rooms go to other nodes: it takes no new ones
	given   map[RoomID]struct{} // to other nodes, since it leaves: none is ever made here again
	running sync.WaitGroup
}

// NewHub makes a Hub. Its rooms work at once; Run gives it the sense of time it needs to tell a
// stall of the process from a client that is late.
func NewHub(cfg Config, dir Directory, log *slog.Logger, reg prometheus.Registerer) *Hub {
	h := &Hub{cfg: cfg, directory: dir, log: log.With("component", "signaling"), rooms: map[RoomID]*Room{}, given: map[RoomID]struct{}{}}
	h.metrics = newMetrics(reg, h)
	if cfg.Bus != nil {
		h.nodes = newNeighborhood(h, cfg.Bus, reg)
	}
	return h
}

// Run watches for stalls until ctx ends; then it ends every room and waits until they are gone.
func (h *Hub) Run(ctx context.Context) error {
	if h.nodes != nil {
		go h.watchFreeze(ctx)
	}
	err := h.clock.Run(ctx)
	h.mu.Lock()
	h.closed = true
	rooms := make([]*Room, 0, len(h.rooms))
	for _, r := range h.rooms {
		rooms = append(rooms, r)
	}
	h.mu.Unlock()
	h.ice.giveUp()
	h.nodes.abandonLinks()
	for _, r := range rooms {
		r.post(closing{ErrRestart})
	}
	h.running.Wait()
	return err
}

// Now is the time without the process's stalls, by which deadlines are measured.
func (h *Hub) Now() time.Time { return h.clock.Now() }

// Rooms is how many rooms there are.
func (h *Hub) Rooms() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.rooms)
}

// enter brings c to the room it is for, wherever that is, and returns the room's answer: a hold on a
// seat, or a refusal.
func (h *Hub) enter(ctx context.Context, c *join) (hold, *refusal) {
	if h.nodes != nil {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, enterTimeout+h.cfg.Recover)
		defer cancel()
	}
	var link *remoteHold // once the room was elsewhere
	for attempt := 0; ; attempt++ {
		owner, err := h.directory.Find(ctx, c.room)
		if err != nil {
			return nil, link.giveUp(unreachable(fmt.Errorf("find owner of room: %w", err)))
		}
		if owner.Node == h.directory.Self() {
			if bad := link.giveUp(nil); bad != nil {
				h.directory.Release(c.room)
				return nil, bad
			}
			link = nil
			r, rep, err := h.enterLocal(ctx, c, owner)
			switch {
			case errors.Is(err, ErrNoRoom):
				continue
			case err != nil: // it stands still
				return nil, unreachable(fmt.Errorf("wait for the room: %w", err))
			case rep.err != nil:
				return nil, rep.err
			}
			return &localHold{r, rep.seat, rep.gen, c.out.(*Conn)}, nil
		}
		if link == nil {
			link = h.nodes.newLink(c)
		}
		if refused, ok := link.enter(ctx, owner); ok {
			if refused != nil {
				return nil, link.giveUp(refused)
			}
			return link, nil
		}
		pause(ctx, attempt) // when ctx has ended, Find says so
	}
}

// unreachable sends a client away, to come back (1012).
func unreachable(err error) *refusal {
	return &refusal{err: err, text: "the room cannot be reached now; try again"}
}

// submit posts c to its room. Its error is a *refusal, or ctx's. A room that has ended has left the map before
// anybody can notice, so the second look finds none and makes a new one; never a dead hub, never two of one
// name.
//
// hold is the directory's: it goes over to a room that is made, else it ends here.
func (h *Hub) submit(ctx context.Context, c *join, hold Owner) (*Room, error) {
	for {
		h.mu.Lock()
		r := h.rooms[c.room]
		if r != nil {
			h.mu.Unlock()
			err := r.postBy(ctx, c)
			if errors.Is(err, ErrNoRoom) {
				continue
			}
			h.directory.Release(c.room)
			return r, err
		}
		if c.denied != nil {
			h.mu.Unlock()
			h.directory.Release(c.room)
			return nil, c.denied
		}
		if h.closed || h.leaves {
			h.mu.Unlock()
			h.directory.Release(c.room)
			return nil, &refusal{err: ErrRestart, text: "the server restarts"}
		}
		if h.cfg.MaxRooms > 0 && len(h.rooms) >= h.cfg.MaxRooms {
			h.mu.Unlock()
			h.directory.Release(c.room)
			return nil, &refusal{err: ErrServerFull,
				text: fmt.Sprintf("the server has its most rooms open (%d); try again later", h.cfg.MaxRooms)}
		}
		r = newRoom(c.room, h, hold)
		r.inbox <- c // fresh and buffered: never blocks, and no room waits for its first seat
		h.rooms[r.ID] = r
		h.most = max(h.most, len(h.rooms))
		h.running.Add(1)
		h.mu.Unlock()
		h.metrics.rooms.Inc()
		r.start()
		return r, nil
	}
}

// ended takes a room that has no seat any more out of the registry.
func (h *Hub) ended(r *Room) {
	h.forget(r)
	h.directory.Release(r.ID)
}

// forget takes a room out of the registry.
func (h *Hub) forget(r *Room) {
	defer h.running.Done()
	h.mu.Lock()
	if h.rooms[r.ID] == r {
		delete(h.rooms, r.ID)
	}
	if r.moved {
		h.given[r.ID] = struct{}{}
	}
	if len(h.rooms) == 0 && h.most > 1024 {
		h.rooms, h.most = map[RoomID]*Room{}, 0 // a map keeps the memory of its best day
	}
	h.mu.Unlock()
	h.metrics.rooms.Dec()
	close(r.done)
}

// panicked counts and logs a panic that ended one connection or room.
func (h *Hub) panicked(where string, p any) {
	h.metrics.panics.WithLabelValues(where).Inc()
	h.log.Error("panic", "where", where, "panic_type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
}

// Recover, deferred, ends a panic of a connection's goroutine; then, if there was one, it calls
// after.
func (h *Hub) Recover(where string, after func()) {
	if p := recover(); p != nil {
		h.panicked(where, p)
		after()
	}
}

// Valid reports whether rooms are handled: false while the node is frozen.
func (h *Hub) Valid() bool { return h.directory.Valid() }
