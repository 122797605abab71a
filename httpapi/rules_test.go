package httpapi

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
)

// A connection closes for the first cause there was, whatever happens to it after that.
func TestFirstCauseWins(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		a := s.open()
		a.join("demo", "")
		socket := s.only()
		socket.Close(signaling.ErrReplaced)
		socket.Close(signaling.ErrTooSlow)
		a.wantEnd(4500)
	})
}

// Sockets measure time by the hub's clock, which leaves out what the whole process slept through.
func TestSocketsHaveTheHubsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := defaultSettings()
		log, reg := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
		hub := signaling.NewHub(set.hub, set.directory, log, reg)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = hub.Run(ctx) })
		synctest.Wait()
		stop() // nothing ticks from now on: to the hub, the process stands still
		running.Wait()
		lease, err := newLimits(1, 1, 1).admit(netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		w := newSockets(set.Config, hub, log, reg).new(lease).wire
		before := w.now()
		time.Sleep(time.Hour)
		if gone := w.now().Sub(before); gone > time.Minute {
			t.Errorf("%v have gone by", gone)
		}
	})
}
