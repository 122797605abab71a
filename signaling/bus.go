package signaling

import (
	"context"
	"errors"
)

// ErrNoBus says that this node stands alone.
var ErrNoBus = errors.New("there are no other nodes")

// ErrUnsure says that what was asked for may have been done or not: the answer is missing.
var ErrUnsure = errors.New("no answer: it may have been done all the same")

// Lanes is how many ordered ways there are from one node to another. A room's frames take one.
const Lanes = 16

// A Bus carries frames and requests between nodes. All methods are safe for concurrent use.
type Bus interface {
	// Send sends a frame to a node. Frames from one node to another on one lane (0 to Lanes-1) keep
	// their order; each comes at most once, or is lost. Send never blocks, and keeps frame until it is
	// on its way: the caller must not change it any more.
	Send(to NodeID, lane int, frame []byte)
	// Ask sends a request and returns the answer. An error that wraps ErrUnsure says that the request
	// may have been handled; one that wraps ErrNoNode that nobody of that name listens.
	Ask(ctx context.Context, to NodeID, request []byte) ([]byte, error)
	// AskAll sends a request to every node, this one included, and waits until all that live have
	// answered, or until ctx ends. silent are those that live and did not answer.
	AskAll(ctx context.Context, request []byte) (answers map[NodeID][]byte, silent []NodeID, err error)
	// Nodes are those that are known to live, this one included, with what they say of themselves.
	Nodes() []NodeInfo
}

// ErrNoNode says that a node does not listen: it has ended, or cannot be reached.
var ErrNoNode = errors.New("the node does not listen")

// A NodeInfo is what a node says of itself with each of its signs of life.
type NodeInfo struct {
	ID       NodeID
	Version  string // of the program
	Rooms    int
	Seats    int
	Draining bool // it takes no rooms any more
}

// A Listener is what a Bus brings things to: a Hub.
type Listener interface {
	// Frame handles what another node sent. Frames of one lane come one after the other. It must not
	// block, and keeps nothing of frame.
	Frame(frame []byte)
	// Request answers a request; each call has a goroutine of its own. It may end with ctx, when nobody waits
	// for the answer any more.
	Request(ctx context.Context, request []byte) []byte
	// Silent says that a node gives no sign of life any more. It may come back.
	Silent(node NodeID)
	// Dead says that a node is proven dead: it owns nothing any more and never comes back.
	Dead(node NodeID)
	// Info is what this node says of itself. ID and Version are filled in by the Bus.
	Info() NodeInfo
}
