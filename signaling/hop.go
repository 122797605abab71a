package signaling

import (
	"bytes"
	"sync"
	"time"
)

const (
	resendAfter   = 500 * time.Millisecond // without a confirmation; doubles with each time
	resendMost    = 2 * time.Second
	confirmAfter  = 50 * time.Millisecond // at most, for what came
	confirmEvery  = 32                    // parts, without waiting
	hopPatience   = 15 * time.Second      // without progress, then the other end is given up
	hopParts      = 256                   // that may wait for confirmation, of one end
	hopBytes      = 256 << 10             // of them; one part always fits
	askAgainAfter = 100 * time.Millisecond
)

// A hop is one end of a reliable way to another node, over a Bus that keeps the order of frames but may
// lose them. Its parts are numbered from 1 each way. A part that is not confirmed in time is sent
// again, with all after it (go-back-N, as in RFC 3366 section 2.2); one that comes twice, or after a gap,
// is dropped. Timers run only while something is outstanding.
//
// A confirmation says that a part was handled, not merely that it came: what is not confirmed can be
// sent to another node that goes on with the work.
type hop struct {
	// Static after construction. None of them may block, nor call the hop: they are called under its lock.
	send    func(turn, number, confirmed uint64, part []byte) // part nil: a mere confirmation
	stuck   func()                                            // no progress within hopPatience; has a goroutine of its own
	metrics *hopMetrics

	mu     sync.Mutex
	closed bool
	turn   uint64    // of the other end: what carries another is not for this hop, or not any more
	space  sync.Cond // signals that parts were confirmed, or that the hop is closed

	// The way out.
	paused    bool // nothing is sent: the other end is not there yet
	confirmed uint64
	waiting   [][]byte // waiting[0] is number confirmed+1
	bytes     int
	followed  uint64    // confirmed+1 when the other end asked again last: once for each is enough
	moved     time.Time // the last progress, or when the oldest began to wait
	wait      time.Duration
	resend    *time.Timer

	// The way in.
	taken      uint64 // the last part that came in its turn
	handled    uint64
	told       uint64 // what the other end was told of handled
	confirm    *time.Timer
	confirming bool      // the timer runs
	asked      time.Time // when a gap was told last
}

func newHop(metrics *hopMetrics, send func(turn, number, confirmed uint64, part []byte), stuck func()) *hop {
	h := &hop{send: send, stuck: stuck, metrics: metrics, wait: resendAfter}
	h.space.L = &h.mu
	return h
}

// put sends a part. It keeps part.
func (h *hop) put(part []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.push(part)
	}
}

// putSlowly is put, and waits while too much is not confirmed. False: the hop was closed.
func (h *hop) putSlowly(part []byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.closed && len(h.waiting) > 0 && (len(h.waiting) >= hopParts || h.bytes+len(part) > hopBytes) {
		h.space.Wait()
	}
	if h.closed {
		return false
	}
	h.push(part)
	return true
}

func (h *hop) push(part []byte) {
	if len(h.waiting) == 0 {
		h.moved, h.wait = time.Now(), resendAfter
	}
	h.waiting = append(h.waiting, part)
	h.bytes += len(part)
	if h.paused {
		return
	}
	h.say(h.confirmed+uint64(len(h.waiting)), part)
	if len(h.waiting) == 1 {
		h.arm(&h.resend, h.wait, h.late)
	}
}

// say sends a frame, which carries the confirmation too.
func (h *hop) say(number uint64, part []byte) {
	h.told = h.handled
	h.send(h.turn, number, h.handled, part)
}

func (h *hop) arm(t **time.Timer, after time.Duration, f func()) {
	if *t == nil {
		*t = time.AfterFunc(after, f)
	} else {
		(*t).Reset(after)
	}
}

// full reports whether as much waits for confirmation as may.
func (h *hop) full() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed || h.paused || len(h.waiting) > 0 && (len(h.waiting) >= hopParts || h.bytes >= hopBytes)
}

// idle reports whether everything is confirmed.
func (h *hop) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waiting) == 0
}

// count goes on in a turn with the parts of another end, which this one handled up to number.
func (h *hop) count(turn, number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turn, h.taken, h.handled, h.told = turn, number, number, number
}

// current reports whether turn is that of the other end.
func (h *hop) current(turn uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.closed && turn == h.turn
}

// heard books a frame of the other end. True: it is the next part, to be handled now.
func (h *hop) heard(turn, number, confirmed uint64, part []byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || turn != h.turn {
		return false
	}
	h.forget(confirmed)
	switch {
	case number == 0:
		if bytes.Equal(part, partAgain) && len(h.waiting) > 0 && !h.paused && h.followed != h.confirmed+1 {
			h.followed = h.confirmed + 1
			h.repeat()
		}
		return false
	case number == h.taken+1:
		h.taken++
		return true
	case number <= h.taken:
		h.metrics.repeated.Inc()
		h.confirmSoon() // ours was lost
		return false
	}
	h.metrics.gaps.Inc()
	if now := time.Now(); now.Sub(h.asked) >= askAgainAfter {
		h.asked = now
		h.say(0, partAgain)
	}
	return false
}

// forget drops what is confirmed.
func (h *hop) forget(confirmed uint64) {
	if confirmed <= h.confirmed || confirmed > h.confirmed+uint64(len(h.waiting)) {
		return
	}
	gone := h.waiting[:confirmed-h.confirmed]
	for i, part := range gone {
		h.bytes -= len(part)
		gone[i] = nil
	}
	h.waiting, h.confirmed = h.waiting[len(gone):], confirmed
	late := h.wait > resendAfter
	h.moved, h.wait = time.Now(), resendAfter
	switch {
	case len(h.waiting) == 0:
		h.waiting = nil
		if h.resend != nil {
			h.resend.Stop()
		}
	case late: // the timer still stands at the longer pause
		h.arm(&h.resend, h.wait, h.late)
	}
	h.space.Broadcast()
}

// done says that everything up to a part was handled.
func (h *hop) done(turn, number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || turn != h.turn || number <= h.handled {
		return
	}
	h.handled = number
	h.confirmSoon()
}

func (h *hop) confirmSoon() {
	if h.handled-h.told >= confirmEvery {
		h.say(0, nil)
		return
	}
	if !h.confirming {
		h.confirming = true
		h.arm(&h.confirm, confirmAfter, h.confirmDue)
	}
}

// confirmDue is the confirm timer's.
func (h *hop) confirmDue() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.confirming = false
	if !h.closed {
		h.say(0, nil)
	}
}

// doneNow is done, and tells the other end at once.
func (h *hop) doneNow(turn, number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed && turn == h.turn {
		h.handled = max(h.handled, number)
		h.say(0, nil)
	}
}

// late is the resend timer's.
func (h *hop) late() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.paused || len(h.waiting) == 0 {
		return
	}
	still := time.Since(h.moved)
	if still >= hopPatience {
		go h.stuck()
		return
	}
	if still < h.wait {
		h.arm(&h.resend, h.wait-still, h.late)
		return
	}
	h.wait = min(2*h.wait, resendMost)
	h.repeat()
}

// repeat sends everything that is not confirmed again.
func (h *hop) repeat() {
	h.metrics.resent.Add(float64(len(h.waiting)))
	for i, part := range h.waiting {
		h.say(h.confirmed+uint64(i)+1, part)
	}
	h.arm(&h.resend, h.wait, h.late)
}

// tell sends a part that is not numbered, and not repeated.
func (h *hop) tell(part []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.say(0, part)
	}
}

// resume goes on with another end, which has handled everything up to a part, and counts its own parts
// from 1.
func (h *hop) resume(handled uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.forget(handled)
	h.paused = false
	if len(h.waiting) > 0 {
		h.moved, h.wait = time.Now(), resendAfter
		h.repeat()
	}
}

// restart makes ready for the parts of another end, from 1, in the next turn, and keeps everything until
// resume.
func (h *hop) restart() (turn uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.paused, h.followed = true, 0
	h.turn++
	h.taken, h.handled, h.told = 0, 0, 0
	return h.turn
}

// close ends the hop. Nothing is sent any more.
func (h *hop) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.waiting, h.bytes = nil, 0
	if h.resend != nil {
		h.resend.Stop()
	}
	if h.confirm != nil {
		h.confirm.Stop()
	}
	h.space.Broadcast()
}
