package session

import (
	"encoding/json"
	"fmt"
	"sync"
)

// outboxLimit is how many messages may wait for an acknowledgement.
const outboxLimit = 256

// An outbox holds what the server has not acknowledged, in order (docs/protocol.md, section 5). Safe
// for concurrent use.
type outbox struct {
	wake chan struct{} // holds one: there is something to write

	mu      sync.Mutex
	waiting []entry
	written int // of waiting, on the present connection
	seq     uint64
	acked   uint64
	leaving bool
}

type entry struct {
	seq  uint64
	text []byte
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

// add takes a message and returns its seq.
func (o *outbox) add(m *Message) (uint64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	leave := m.Type == "leave"
	switch {
	case o.leaving:
		return 0, ErrLeft
	case len(o.waiting) >= outboxLimit && !leave:
		return 0, ErrFull
	}
	numbered := *m
	numbered.Seq = o.seq + 1
	text, err := json.Marshal(&numbered)
	if err != nil {
		return 0, fmt.Errorf("encoding %s: %w", m.Type, err)
	}
	o.seq++
	o.leaving = leave
	o.waiting = append(o.waiting, entry{o.seq, text})
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return o.seq, nil
}

// take returns what is to be written to the present connection.
func (o *outbox) take() []entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	due := append([]entry(nil), o.waiting[o.written:]...)
	o.written = len(o.waiting)
	return due
}

// acknowledge forgets everything up to received; false = that cannot be.
func (o *outbox) acknowledge(received uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.forget(received)
}

func (o *outbox) forget(received uint64) bool {
	if received < o.acked || received > o.seq {
		return false
	}
	n := int(received - o.acked)
	o.waiting = o.waiting[n:]
	o.written = max(0, o.written-n)
	o.acked = received
	return true
}

// resume begins a new connection of the same seat: what the server has not handled is written again.
func (o *outbox) resume(received uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.written = 0
	return o.forget(received)
}

// reset begins a new seat, which counts from 1. What became of the messages of the old one is unknown.
func (o *outbox) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting, o.written, o.seq, o.acked = nil, 0, 0, 0
}

// left reports whether leave was called.
func (o *outbox) left() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.leaving
}

// size is how many messages are not acknowledged.
func (o *outbox) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.waiting)
}
