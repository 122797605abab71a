package signaling

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// A node that may not act for its rooms, because it cannot say that they are still its own, freezes
// them: nothing is handled and nothing is said, and everything is kept. When it may act again they go on
// where they were; the time between counts for nobody (section 5, stalls).

// thawEvery is how often a frozen hub looks.
const thawEvery = 20 * time.Millisecond

// A freezer knows since when a hub is frozen.
type freezer struct {
	mu      sync.Mutex
	given   bool          // up: what is frozen stays so
	thawed  chan struct{} // closed when it is over; nil = not frozen
	tooLong chan struct{} // closed when clients have waited long enough
}

// giveUp ends every wait.
func (f *freezer) giveUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.given = true
	if f.thawed != nil {
		close(f.thawed)
		f.thawed = nil
	}
}

// isGivenUp reports whether the hub ends.
func (f *freezer) isGivenUp() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.given
}

// freeze returns what to wait for; nil = given up.
func (h *Hub) freeze() (thawed, tooLong <-chan struct{}) {
	f := &h.ice
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.given {
		return nil, nil
	}
	if f.thawed == nil {
		f.thawed, f.tooLong = make(chan struct{}), make(chan struct{})
		go h.untilThawed(f.thawed, f.tooLong, time.Now())
	}
	return f.thawed, f.tooLong
}

// untilThawed watches until the directory is valid again.
func (h *Hub) untilThawed(thawed, tooLong chan struct{}, since time.Time) {
	h.log.Warn("frozen: this node cannot say that its rooms are still its own")
	patience := time.NewTimer(h.cfg.FrozenClose + rand.N(h.cfg.FrozenClose/2+1))
	defer patience.Stop()
	look := time.NewTicker(thawEvery)
	defer look.Stop()
	for !h.directory.Valid() {
		select {
		case <-look.C:
		case <-thawed: // given up
			return
		case <-patience.C:
			close(tooLong)
			h.postAll(wakeAll{}) // a room without a goroutine has to be told
			h.nodes.abandonLinks()
		}
	}
	f := &h.ice
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.given {
		return
	}
	frozen := time.Since(since)
	h.clock.Skip(frozen)
	h.log.Warn("thawed: rooms go on", "frozen", frozen.Round(time.Millisecond).String())
	f.thawed = nil
	close(thawed)
	go h.postAll(wakeAll{})
	h.nodes.probe("") // other nodes may have taken this one for silent
}

// watchFreeze notices that the hub is frozen when no room does.
func (h *Hub) watchFreeze(ctx context.Context) {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if !h.directory.Valid() {
				h.freeze()
			}
		case <-ctx.Done():
			return
		}
	}
}

// postAll posts c to every room.
func (h *Hub) postAll(c command) {
	h.mu.Lock()
	rooms := make([]*Room, 0, len(h.rooms))
	for _, r := range h.rooms {
		rooms = append(rooms, r)
	}
	h.mu.Unlock()
	for _, r := range rooms {
		if !r.postNow(c) {
			go r.post(c)
		}
	}
}

// thawed waits until the room may go on with c. False: c is not to be handled, since the room ends here.
func (r *Room) thawed(c command) bool {
	for !r.hub.directory.Valid() {
		thawed, tooLong := r.hub.freeze()
		if thawed == nil {
			_, ends := c.(closing)
			return ends
		}
		select {
		case <-thawed:
			continue
		case <-tooLong:
		}
		// The clients try another node. Their seats stay as they are: this node may not say anything.
		for _, s := range r.seats {
			if conn, ok := s.out.(*Conn); ok {
				conn.End(ErrRestart)
			}
		}
		<-thawed
	}
	return true
}

// A wakeAll has every connection look whether there is something for it.
type wakeAll struct{}

func (wakeAll) apply(r *Room) {
	for _, s := range r.seats {
		s.wake()
	}
}
