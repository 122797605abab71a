package natsbus

import (
	"errors"
	"time"

	"github.com/go-json-experiment/json"

	"duet/signaling"
)

// roomTTL is how long a room's key lasts that its owner does not write again: for the garbage alone.
const roomTTL = 24 * time.Hour

// A roomValue is what a room's key holds. The room's name is not in it: nothing readable is in NATS.
type roomValue struct {
	V     int              `json:"v"`
	Node  signaling.NodeID `json:"n"`
	Epoch uint64           `json:"e,omitzero"` // 0: the revision that wrote it
}

func roomBytes(node signaling.NodeID, epoch uint64) []byte {
	value, err := json.Marshal(roomValue{V: 1, Node: node, Epoch: epoch})
	if err != nil {
		panic(err) // plain members
	}
	return value
}

// ownerIn reads a room's key; the zero Owner is that of a room nobody owns.
func ownerIn(e entry) (signaling.Owner, error) {
	if e.value == nil {
		return signaling.Owner{}, nil
	}
	var v roomValue
	if err := json.Unmarshal(e.value, &v); err != nil || v.V != 1 || v.Node == "" {
		return signaling.Owner{}, errors.New("a room's key has a form that this release does not read: upgrade one release at a time")
	}
	if v.Epoch == 0 {
		v.Epoch = e.revision
	}
	return signaling.Owner{Node: v.Node, Epoch: v.Epoch}, nil
}
