package signaling

import "context"

// A NodeID names one duet process among several, from its start to its end; "" is the only node there
// is. It has visible ASCII characters other than '.', '*' and '>'.
type NodeID string

// An Owner is the node whose goroutine runs a room, and since which claim of it.
type Owner struct {
	Node  NodeID
	Epoch uint64 // compared for equality only
	// Taken says that this call of Find took the room from a node that is proven dead: its clients are
	// about to come back.
	Taken bool
}

// A Directory says which node owns a room. All methods are safe for concurrent use.
type Directory interface {
	// Self is this node.
	Self() NodeID
	// Find says who owns the room, and claims it for this node where nobody does or where its owner is
	// proven dead. Each answer that names this node is a hold on the room, which one Release ends. It
	// may take as long as ctx; an owner that may be dead is waited for.
	Find(ctx context.Context, room RoomID) (Owner, error)
	// Look says who owns the room and claims nothing. The error wraps ErrNoRoom where nobody does. Of a
	// room that this node holds it makes sure by a new claim, with a new Epoch: after it no Receive from
	// the one before succeeds, and a handover that begins asks Find for the Epoch.
	Look(ctx context.Context, room RoomID) (Owner, error)
	// Release ends a hold. A room without one is soon free. It does not block.
	Release(room RoomID)
	// Receive makes this node the owner of a room that another one hands over: it moves the claim from
	// to this node, or fails. It is a hold as Find's is. An error that wraps ErrUnsure says that the
	// claim may have moved all the same.
	Receive(ctx context.Context, room RoomID, from Owner) (Owner, error)
	// Valid reports whether this node may act for its rooms now. While it may not, they are frozen:
	// they handle nothing and say nothing, and keep everything.
	Valid() bool
}

// NewLocalDirectory returns the Directory of a single node: it owns every room for ever.
func NewLocalDirectory() Directory { return localDirectory{} }

type localDirectory struct{}

func (localDirectory) Self() NodeID                                { return "" }
func (localDirectory) Find(context.Context, RoomID) (Owner, error) { return Owner{}, nil }
func (localDirectory) Look(context.Context, RoomID) (Owner, error) { return Owner{}, nil }
func (localDirectory) Release(RoomID)                              {}
func (localDirectory) Receive(context.Context, RoomID, Owner) (Owner, error) {
	return Owner{}, ErrNoBus
}
func (localDirectory) Valid() bool { return true }
