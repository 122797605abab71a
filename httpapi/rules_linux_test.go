package httpapi

import (
	"testing"
	"time"

	"duet/signaling"
)

// The end of a parked socket is told to its room at once, and not when the socket's next ping is due.
func TestCloseOfAParkedSocket(t *testing.T) {
	s := serveTCP(t, func(set *settings) { set.PingInterval = 10 * time.Second })
	b := s.open()
	b.join("demo", "")
	known := s.only()
	a := s.open()
	a.join("demo", key("a"))
	b.want("peer-joined")
	s.wantParked(2)
	start := time.Now()
	s.only(known).Close(signaling.ErrTooSlow)
	a.wantEnd(4001)
	b.want("peer-away")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
