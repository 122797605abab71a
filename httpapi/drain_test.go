package httpapi

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestDrainSpreadsItsCloses(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		const n, spread = 10, 5 * time.Second
		conns := make([]*testConn, n)
		for i := range conns {
			conns[i] = s.open()
			if i < 2 {
				conns[i].join("demo", key(string(rune('a'+i))))
			}
		}
		synctest.Wait() // the last handshake may have been answered and not be over
		start := time.Now()
		drained := make(chan error, 1)
		go func() { drained <- s.api.Drain(t.Context(), spread) }()
		synctest.Wait()

		c := s.dial()
		c.write([]byte(handshake))
		if res := c.readResponse(); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
			t.Errorf("a new one got %s, Retry-After %q", res.Status, res.Header.Get("Retry-After"))
		}

		at := map[time.Duration]int{}
		for _, c := range conns {
			at[c.wantEnd(1012).Sub(start)]++
		}
		for i := range n {
			if d := spread * time.Duration(i) / n; at[d] != 1 {
				t.Errorf("%d closed after %v, want 1: %v", at[d], d, at)
			}
		}
		if err := <-drained; err != nil || time.Since(start) != spread*(n-1)/n {
			t.Errorf("drained after %v: %v", time.Since(start), err)
		}
		if n := s.api.Connections(); n != 0 {
			t.Errorf("%d connections left", n)
		}
	})
}

// Clients that do not answer the close, or do not even read it, are waited for no longer than for any
// other close.
func TestDrainWithoutAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		mute := s.open()
		mute.mute.Store(true)
		deaf := s.dial()
		deaf.upgrade()
		start := time.Now()
		if err := s.api.Drain(t.Context(), 0); err != nil || time.Since(start) > closeBound {
			t.Errorf("drained after %v: %v", time.Since(start), err)
		}
		mute.wantEnd(1012)
	})
}

func TestDrainThatIsCutShort(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		for range 10 {
			s.open()
		}
		synctest.Wait()
		enough := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, enough)
		defer cancel()
		start := time.Now()
		if err := s.api.Drain(ctx, time.Minute); err != enough || time.Since(start) != time.Second {
			t.Errorf("drained after %v: %v", time.Since(start), err)
		}
	})
}

// A handshake under way when a drain begins is waited for, and closed like the rest.
func TestDrainWaitsForHandshakes(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		c := s.dial()
		c.write([]byte(handshake)) // the server is now busy with the answer, which nobody reads
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- s.api.Drain(t.Context(), 0) }()
		time.Sleep(time.Second)
		synctest.Wait()
		select {
		case err := <-drained:
			t.Fatalf("drained during a handshake: %v", err)
		default:
		}
		if err := readUpgrade(c.in); err != nil {
			t.Fatal(err)
		}
		c.listen()
		c.wantEnd(1012)
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

// A drained session is kept as long as the process lives: what was said before the close arrives.
func TestDrainSaysWhatIsWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, s *service) {
		a, b := s.pair(key("a"))
		for range 100 {
			b.count("message", `,"data":1`)
		}
		synctest.Wait()
		if err := s.api.Drain(t.Context(), 0); err != nil {
			t.Error(err)
		}
		for range 100 {
			a.want("message")
		}
		a.wantEnd(1012)
	})
}
