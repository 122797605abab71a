package signaling

import (
	"fmt"
	"testing"
	"testing/synctest"
)

// What a client acknowledged while frames were lost comes after its connection is attached again, in its
// turn, and is not taken for going back.
func TestAcknowledgedBeforeReattach(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := all.nodes["a"].hub.testPeer(t), all.nodes["b"].hub.testPeer(t)
		ada.joined("demo", session(keyA, 1, 0))
		bob.joined("demo", session(keyB, 1, 0))
		ada.gets(`{"type":"peer-joined",…}`)
		for seq := 1; seq <= 3; seq++ {
			ada.send(`{"type":"message","data":%d,"seq":%[1]d}`, seq)
			bob.gets(fmt.Sprintf(`{"type":"message",…"data":%d,…}`, seq))
		}
		all.lose(1)
		bob.send(`{"type":"ack","received":1}`)
		bob.send(`{"type":"ack","received":3}`)
		synctest.Wait()
		all.lose(0)
		all.nodes["b"].hub.nodes.linksTo("a")[0].reattach()
		synctest.Wait()
		bob.send(`{"type":"message","data":"back","seq":1}`)
		ada.gets(`{"type":"message",…"data":"back",…}`)
	})
}

// A connection that is attached again is not told less than the joined with which it began.
func TestAckAfterReattach(t *testing.T) {
	inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
		ada, bob := all.nodes["a"].hub.testPeer(t), all.nodes["b"].hub.testPeer(t)
		ada.joined("demo", session(keyA, 1, 0))
		bob.joined("demo", session(keyB, 1, 0))
		for seq := 1; seq <= ackEvery+2; seq++ { // two more than it is told at once
			bob.send(`{"type":"message","data":%d,"seq":%[1]d}`, seq)
		}
		bob.gets(`{"type":"ack","received":8}`)
		again := all.nodes["b"].hub.testPeer(t)
		if received := again.joined("demo", session(keyB, 2, 0))["received"]; received != float64(ackEvery+2) {
			t.Fatalf("received %v", received)
		}
		for _, l := range all.nodes["b"].hub.nodes.linksTo("a") {
			l.reattach()
		}
		again.gets(`{"type":"ack","received":10}`)
	})
}

// lose sets how many frames are lost from now on.
func (all *fakeNodes) lose(share float64) {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.loss = share
}
