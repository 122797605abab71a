package httpapi

import (
	"testing"
	"time"

	"duet/signaling"
)

// The end of a parked socket is told to its room at once, and not when the socket's next ping is due.
func TestCloseOfAParkedSocket(t *testing.T) {
	s := serveTCP(t, func(set *settings) { set.PingInterval = 10 * time.Second })
	a, b, socket := s.pairWithSocket(key("a"))
	s.wantParked(2)
	start := time.Now()
	socket.Close(signaling.ErrTooSlow)
	a.wantEnd(4001)
	b.want("peer-away")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
