package signaling

import (
	"context"
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
}

// A Hub knows the rooms of this process. It owns nothing of what is in them.
type Hub struct {
	// Static after construction.
	cfg       Config
	directory Directory
	log       *slog.Logger
	metrics   *metrics
	clock     Clock

	waiting atomic.Int64 // bytes in all rings

	mu      sync.Mutex // held for a map access only
	rooms   map[RoomID]*Room
	most    int // rooms since the map was made
	closed  bool
	running sync.WaitGroup
}

// NewHub makes a Hub. Its rooms work at once; Run gives it the sense of time it needs to tell a
// stall of the process from a client that is late.
func NewHub(cfg Config, dir Directory, log *slog.Logger, reg prometheus.Registerer) *Hub {
	h := &Hub{cfg: cfg, directory: dir, log: log.With("component", "signaling"), rooms: map[RoomID]*Room{}}
	h.metrics = newMetrics(reg, h)
	return h
}

// Run watches for stalls until ctx ends; then it ends every room and waits until they are gone.
func (h *Hub) Run(ctx context.Context) error {
	err := h.clock.Run(ctx)
	h.mu.Lock()
	h.closed = true
	rooms := make([]*Room, 0, len(h.rooms))
	for _, r := range h.rooms {
		rooms = append(rooms, r)
	}
	h.mu.Unlock()
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

// enter brings c to the room it is for, making the room where there is none, and returns the
// room's answer.
func (h *Hub) enter(ctx context.Context, c join, reply <-chan joinReply) (*Room, joinReply) {
	for {
		owner, err := h.directory.Find(ctx, c.msg.Room)
		if err != nil {
			return nil, joinReply{err: &refusal{err: fmt.Errorf("find owner of room: %w", err),
				text: "the room cannot be reached now; try again"}}
		}
		r, refused := h.submit(c, owner.Epoch)
		if refused != nil {
			return nil, joinReply{err: refused}
		}
		select {
		case rep := <-reply:
			return r, rep
		case <-r.done:
		}
		select {
		case rep := <-reply: // answered just before the room ended
			return r, rep
		default: // it ended before c's turn came; the next one is fresh
		}
	}
}

// submit posts c to its room. A room that has ended has left the map before anybody can notice,
// so the second look finds none and makes a new one; never a dead hub, never two of one name.
func (h *Hub) submit(c join, epoch uint64) (*Room, *refusal) {
	for {
		h.mu.Lock()
		r := h.rooms[c.msg.Room]
		if r != nil {
			h.mu.Unlock()
			if r.post(c) {
				return r, nil
			}
			continue
		}
		if c.denied != nil {
			h.mu.Unlock()
			return nil, c.denied
		}
		if h.closed {
			h.mu.Unlock()
			return nil, &refusal{err: ErrRestart, text: "the server restarts"}
		}
		if h.cfg.MaxRooms > 0 && len(h.rooms) >= h.cfg.MaxRooms {
			h.mu.Unlock()
			return nil, &refusal{err: ErrServerFull,
				text: fmt.Sprintf("the server has its most rooms open (%d); try again later", h.cfg.MaxRooms)}
		}
		r = newRoom(c.msg.Room, h, epoch)
		r.inbox <- c // fresh and buffered: never blocks, and no room waits for its first seat
		h.rooms[r.ID] = r
		h.most = max(h.most, len(h.rooms))
		h.running.Add(1)
		h.mu.Unlock()
		r.start()
		h.metrics.rooms.Inc()
		return r, nil
	}
}

// ended takes a room that has no seat any more out of the registry.
func (h *Hub) ended(r *Room) {
	defer h.running.Done()
	h.mu.Lock()
	if h.rooms[r.ID] == r {
		delete(h.rooms, r.ID)
	}
	if len(h.rooms) == 0 && h.most > 1024 {
		h.rooms, h.most = map[RoomID]*Room{}, 0 // a map keeps the memory of its best day
	}
	h.mu.Unlock()
	h.metrics.rooms.Dec()
	close(r.done)
	if err := h.directory.Release(context.Background(), r.ID, r.epoch); err != nil {
		h.log.Error("release room", "error", err)
	}
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
