package natsbus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"duet/signaling"
)

// release is which versions of what nodes say to each other this one reads: oldest-newest, each 1 to 255.
// Every node states them, in its lease and in its beacons. Two nodes speak the lower of their newest; to
// one that it has not heard yet a node speaks its oldest.
//
// What is added (a member in JSON, a kind of request or of frame's part) needs no new version: who does not
// know it leaves it alone. What an older node would take for something else does, and then the one before
// is read, and spoken, for as long as nodes of one release before run beside this one. The forms of keys have
// none: all nodes read them at once, so that they only ever grow.
//
// The linker sets it to build a node of another release, for tests:
// -ldflags='-X duet/signaling/natsbus.release=1-2'.
var release = "1-1"

// A span is the versions that a node reads.
type span struct{ oldest, newest int }

// speaks is the span of this program.
func speaks() (s span) {
	if _, err := fmt.Sscanf(release, "%d-%d", &s.oldest, &s.newest); err != nil || s.oldest < 1 || s.newest < s.oldest || s.newest > 255 {
		panic("natsbus: the versions " + release + " are not oldest-newest")
	}
	return s
}

// with is the version that two nodes speak; 0: they have none in common.
func (s span) with(o span) int {
	if version := min(s.newest, o.newest); version >= max(s.oldest, o.oldest) {
		return version
	}
	return 0
}

// reads reports whether p has a version of the span and at least size bytes.
func (s span) reads(p []byte, size int) bool {
	return len(p) >= size && int(p[0]) >= s.oldest && int(p[0]) <= s.newest
}

func (s span) String() string {
	if s.oldest == s.newest {
		return fmt.Sprint("version ", s.oldest)
	}
	return fmt.Sprintf("versions %d to %d", s.oldest, s.newest)
}

// stated is a span on the wire, in a beacon and in a lease. Newest 0: V is all.
type stated struct {
	V      int `json:"v"`
	Newest int `json:"newest,omitzero"`
}

func (s stated) span() span { return span{s.V, max(s.V, s.Newest)} }

// ---- at the start

// A stranger is a node without a version in common, as its lease says.
type stranger struct {
	span
	program  string
	revision uint64
}

// meet sees that this node has a version in common with each other one that lives. A lease without one
// may be what a dead node left: that is not renewed while a lease lasts.
func (n *Node) meet(ctx context.Context) error {
	first, err := n.strangers(ctx)
	if err != nil || len(first) == 0 {
		return err
	}
	n.log.Warn("leases of nodes that have no version in common with this one: waiting whether they live", "nodes", len(first), "this_node", n.cfg.speaks.String())
	for began := n.cfg.clock(); n.cfg.clock()-began < n.cfg.Lease; {
		if !sleep(ctx, n.cfg.Renew) {
			return errors.New("no time to see whether nodes of other versions live")
		}
		now, err := n.strangers(ctx)
		if err != nil {
			return err
		}
		for node, s := range now {
			if before, known := first[node]; known && before.revision == s.revision {
				continue
			}
			return fatal{fmt.Errorf("node %s (duet %s) speaks %s to other nodes, and this one %s: none in common. "+
				"Upgrade one release at a time: replace all nodes by a release between the two first, or end all nodes before this one starts",
				node, s.program, s.span, n.cfg.speaks)}
		}
	}
	return nil
}

// strangers reads all leases, and finds those of nodes without a version in common.
func (n *Node) strangers(ctx context.Context) (map[signaling.NodeID]stranger, error) {
	within, cancel := context.WithTimeout(ctx, 2*kvTimeout)
	defer cancel()
	prefix := n.nodes.subject(nodeKey(""))
	info, err := n.nodes.stream.Info(within, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, fmt.Errorf("list the nodes: %w", err)
	}
	found := map[signaling.NodeID]stranger{}
	for subject := range info.State.Subjects {
		node := signaling.NodeID(strings.TrimPrefix(subject, prefix))
		e, err := n.nodes.get(ctx, nodeKey(node))
		if err != nil {
			return nil, err
		}
		if e.revision == 0 { // the leader has it
			return nil, fmt.Errorf("the lease of node %s is not on every replica yet", node)
		}
		var v nodeValue
		if e.value == nil || json.Unmarshal(e.value, &v) != nil || v.Dead != "" {
			continue
		}
		if s := v.span(); n.cfg.speaks.with(s) == 0 {
			found[node] = stranger{span: s, program: v.Version, revision: e.revision}
		}
	}
	return found, nil
}
