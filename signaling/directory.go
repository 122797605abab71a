package signaling

import "context"

// A NodeID names one duet process among several; "" is the only node there is.
type NodeID string

// An Owner is the node whose goroutine runs a room, and since which claim of it.
type Owner struct {
	Node  NodeID
	Epoch uint64 // compared for equality only
}

// A Directory says which node owns a room.
type Directory interface {
	// Find claims the room for this node where nobody owns it. It may take as long as ctx.
	Find(ctx context.Context, room RoomID) (Owner, error)
	// Release gives up a room whose last seat is gone.
	Release(ctx context.Context, room RoomID, epoch uint64) error
}

// NewLocalDirectory returns the Directory of a single node: it owns every room for ever.
func NewLocalDirectory() Directory { return localDirectory{} }

type localDirectory struct{}

func (localDirectory) Find(context.Context, RoomID) (Owner, error)   { return Owner{}, nil }
func (localDirectory) Release(context.Context, RoomID, uint64) error { return nil }
