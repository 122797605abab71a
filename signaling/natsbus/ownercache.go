package natsbus

import (
	"time"

	"duet/signaling"
)

const (
	cacheOwners = 16_384 // other nodes' rooms

	// Who asks for a room's owner again so soon was told so by the owner it was given: the cache is not asked.
	askedAgain = 2 * time.Second
)

// An ownerCache keeps the owners of some rooms, in two generations: when recent is full it becomes older.
type ownerCache struct {
	limit         int
	recent, older map[signaling.RoomID]cachedOwner
}

type cachedOwner struct {
	owner signaling.Owner
	at    time.Duration // of the last answer
}

// get returns the owner last known, and whether it may be given to who asks.
func (c *ownerCache) get(room signaling.RoomID, now time.Duration) (owner signaling.Owner, fresh bool) {
	found, ok := c.recent[room]
	if !ok {
		if found, ok = c.older[room]; !ok {
			return signaling.Owner{}, false
		}
	}
	if now-found.at < askedAgain {
		return found.owner, false
	}
	c.put(room, found.owner, now)
	return found.owner, true
}

func (c *ownerCache) put(room signaling.RoomID, owner signaling.Owner, now time.Duration) {
	if owner == (signaling.Owner{}) {
		delete(c.recent, room)
		delete(c.older, room)
		return
	}
	if _, known := c.recent[room]; !known && (len(c.recent) >= c.limit/2 || c.recent == nil) {
		c.older, c.recent = c.recent, map[signaling.RoomID]cachedOwner{}
	}
	c.recent[room] = cachedOwner{owner, now}
}
