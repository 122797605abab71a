package signaling

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A client without a session that reads slowly is the same to others wherever it is: too much for it is busy,
// none of it is lost, and when it has caught up there is place again.
func TestSlowClientWithoutSession(t *testing.T) {
	for _, at := range []NodeID{"a", "b"} {
		for _, tt := range []struct{ size, most int }{{1, ringMessages / 2}, {60_000, 2}} { // in a room of three, of which each has half
			t.Run(fmt.Sprintf("at %s, %d bytes", at, tt.size), func(t *testing.T) {
				inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
					ada, bob := all.nodes["a"].hub.testPeer(t), all.nodes[at].hub.testPeer(t)
					ada.joined("demo", "") // the room is at a
					bob.joined("demo", "")
					ada.gets(`{"type":"peer-joined",…}`)
					text := strings.Repeat("x", tt.size)
					for round := range 3 {
						for i := range tt.most {
							ada.send(`{"type":"message","data":"%d %s"}`, i, text)
						}
						ada.gets()
						ada.send(`{"type":"message","data":"too much %s"}`, text)
						ada.gets(`{"type":"error","code":"busy",…}`)
						time.Sleep(time.Minute)
						if code := bob.closeCode(); code != 0 {
							t.Fatalf("round %d: closed with %d", round, code)
						}
						got := bob.next()
						if len(got) != tt.most {
							t.Fatalf("round %d: got %d messages, want %d", round, len(got), tt.most)
						}
						for i, msg := range got {
							if want := fmt.Sprintf(`"data":"%d x`, i); !strings.Contains(msg, want) || strings.Contains(msg, "seq") {
								t.Fatalf("round %d, message %d: %.80s", round, i, msg)
							}
						}
						time.Sleep(time.Second)
					}
				})
			})
		}
	}
}

// A client without a session that reads all the time is told of as often, wherever it is: what it has fetched
// takes no place.
func TestFastClientWithoutSession(t *testing.T) {
	for _, at := range []NodeID{"a", "b"} {
		inNodes(t, 1, 0, func(t *testing.T, all *fakeNodes) {
			ada, bob := all.nodes["a"].hub.testPeer(t), all.nodes[at].hub.testPeer(t)
			ada.joined("demo", "")
			bob.joined("demo", "")
			ada.next()
			for i := range 2 * ringMessages {
				ada.send(`{"type":"message","data":%d}`, i)
				bob.gets(fmt.Sprintf(`{"type":"message",…"data":%d}`, i))
			}
			ada.gets()
			if n := all.nodes["a"].hub.waiting.Load(); n != 0 {
				t.Errorf("at %s: %d bytes wait", at, n)
			}
		})
	}
}
