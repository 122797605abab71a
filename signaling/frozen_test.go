package signaling

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A question about a room that stands still, and whose inbox is full, ends when its time is over.
func TestFrozenRoomIsAsked(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		a := all.nodes["a"]
		a.hub.testPeer(t).joined("demo", session(keyA, 1, 0))
		a.freeze(true)
		room := a.hub.rooms["demo"]
		for room.postNow(wakeAll{}) {
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		answered := make(chan error, 1)
		go func() {
			_, err := a.hub.inspectLocal(ctx, "demo")
			answered <- err
		}()
		select {
		case err := <-answered:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want that the time is over", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("no answer")
		}
		a.freeze(false)
	})
}

// freeze takes the node's lease away, or gives it back.
func (n *fakeNode) freeze(frozen bool) {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	n.frozen = frozen
}
