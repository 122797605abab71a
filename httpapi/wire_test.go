package httpapi

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"duet/signaling"
)

// A stoppableClock is the hub's clock while the process may stand still.
type stoppableClock struct {
	mu      sync.Mutex
	stopped time.Time // zero = it runs
	lost    time.Duration
}

func (c *stoppableClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.stopped.IsZero() {
		now = c.stopped
	}
	return now.Add(-c.lost)
}

// stall stops the clock for d.
func (c *stoppableClock) stall(d time.Duration) {
	c.mu.Lock()
	c.stopped = time.Now()
	c.mu.Unlock()
	time.Sleep(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = time.Time{}
	c.lost += d
}

// wireUnderTest is a wire over a pipe, whose other end it returns.
func wireUnderTest(clock *stoppableClock, joined bool) (w *wire, peer net.Conn, pings <-chan time.Time) {
	cfg := defaultSettings().Config
	cfg.JoinTimeout = 12 * time.Second // before the first ping
	sent := make(chan time.Time, 10)
	w = &wire{cfg: &cfg, now: clock.now, joined: func() bool { return joined }, wake: func() {},
		ping: func() { sent <- time.Now() }}
	ours, theirs := net.Pipe()
	w.start(ours, nil)
	return w, theirs, sent
}

// While the process stands still, no deadline comes nearer: nobody is thrown out by a clock
// (docs/protocol.md, section 5).
func TestStallMovesEveryDeadline(t *testing.T) {
	const stall = time.Hour
	for _, tt := range []struct {
		name   string
		joined bool
		sends  string        // at the start
		after  time.Duration // the stall begins
		pings  []time.Duration
		end    time.Duration
		why    error
	}{
		{"before a ping", true, "", 15 * time.Second, []time.Duration{stall + 20*time.Second}, stall + 30*time.Second, errSilent},
		{"before a pong", true, "", 25 * time.Second, []time.Duration{20 * time.Second}, stall + 30*time.Second, errSilent},
		{"before a join", false, "", 10 * time.Second, nil, stall + 12*time.Second, signaling.ErrJoinTimeout},
		{"in a message", true, "\x81", 5 * time.Second, nil, stall + 10*time.Second, signaling.ErrPolicy},
		{"in a control frame", true, "\x89", time.Second, nil, stall + 4*time.Second, signaling.ErrPolicy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := new(stoppableClock)
				w, peer, pings := wireUnderTest(clock, tt.joined)
				defer peer.Close()
				start := time.Now()
				var both sync.WaitGroup
				both.Go(func() { peer.Write([]byte(tt.sends)) })
				both.Go(func() {
					time.Sleep(tt.after)
					clock.stall(stall)
				})
				err := error(nil)
				for err == nil {
					_, err = w.Read(make([]byte, 10))
				}
				if err != tt.why || w.failed != tt.why {
					t.Errorf("ended with %v, %v, want %v", err, w.failed, tt.why)
				}
				wantAfter(t, "end", start, time.Now(), tt.end)
				both.Wait()
				for _, d := range tt.pings {
					wantAfter(t, "ping", start, <-pings, d)
				}
				if len(pings) > 0 {
					t.Errorf("%d more pings", len(pings))
				}
			})
		})
	}
	t.Run("in a write", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			clock := new(stoppableClock)
			w, peer, _ := wireUnderTest(clock, true)
			defer peer.Close()
			start := time.Now()
			var stalls sync.WaitGroup
			stalls.Go(func() {
				time.Sleep(5 * time.Second)
				clock.stall(stall)
			})
			w.Write([]byte("nobody reads this"))
			if _, err := w.flush(nil); !errors.Is(err, signaling.ErrTooSlow) {
				t.Errorf("ended with %v", err)
			}
			wantAfter(t, "end", start, time.Now(), stall+10*time.Second)
			stalls.Wait()
		})
	})
}

// Everything that was written since the last flush goes out in one write, in order, also what came
// from another goroutine while the writer gathered or sent.
func TestWritesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer, _ := wireUnderTest(new(stoppableClock), true)
		defer peer.Close()
		wakes := 0
		w.wake = func() { wakes++ }
		w.Write([]byte("pong "))
		out, _ := w.gather(nil)
		w.Write([]byte("one "))
		w.Write([]byte("two"))
		if wakes != 1 {
			t.Errorf("%d wakes, want 1: for what came before the writer was at it", wakes)
		}
		var flushing sync.WaitGroup
		flushing.Go(func() { w.flush(out) })
		synctest.Wait() // in the write
		w.Write([]byte("late"))
		if wakes != 2 {
			t.Errorf("%d wakes, want 2: what comes during a write needs another", wakes)
		}
		got := make([]byte, 100)
		if n, _ := peer.Read(got); string(got[:n]) != "pong one two" {
			t.Errorf("got %q", got[:n])
		}
		flushing.Go(func() { w.flush(nil) })
		if n, _ := peer.Read(got); string(got[:n]) != "late" {
			t.Errorf("got %q", got[:n])
		}
		flushing.Wait()
	})
}

// No message follows a close frame, neither the client's answered by the library nor our own.
func TestNothingFollowsAClose(t *testing.T) {
	w, peer, _ := wireUnderTest(new(stoppableClock), true)
	defer peer.Close()
	if _, closed := w.gather(nil); closed {
		t.Error("closed before anything was written")
	}
	w.Write([]byte("\x8a\x00")) // a pong
	if out, closed := w.gather(nil); closed || string(out) != "\x8a\x00" {
		t.Errorf("gathered %x, closed %v", out, closed)
	}
	w.Write([]byte("\x88\x02\x03\xe8"))
	if out, closed := w.gather(nil); !closed || string(out) != "\x88\x02\x03\xe8" {
		t.Errorf("gathered %x, closed %v", out, closed)
	}
}

// ---- framing

// Frames written here are what the tests' own reader takes for them, and what wholeText takes, it takes
// like the library: the rest stays as it was.
func TestWholeFrames(t *testing.T) {
	for _, n := range []int{0, 1, 7, 8, 9, 125, 126, 127, 4000, 1<<16 - 1, 1 << 16, 1<<16 + 100} {
		text := strings.Repeat("0123456789", n/10+1)[:n]
		f, err := readFrame(bufio.NewReader(bytes.NewReader(appendFrame(nil, []byte(text)))))
		if err != nil || f.op != opText || string(f.payload) != text {
			t.Errorf("wrote a frame of %d bytes: %x, %d bytes, %v", n, f.op, len(f.payload), err)
		}
		r := bufio.NewReaderSize(bytes.NewReader(append(textFrame(text), "next"...)), 8192)
		r.Peek(1)
		frame, data := wholeText(r, 4000)
		if taken := frame > 0; taken != (n <= 4000) {
			t.Errorf("%d bytes: taken %v", n, taken)
		} else if taken {
			r.Discard(frame)
			rest, _ := r.Peek(4)
			if string(data) != text || string(rest) != "next" {
				t.Errorf("read a frame of %d bytes: got %d, then %q", n, len(data), rest)
			}
		}
	}
	whole := textFrame(`{"type":"message","data":"` + strings.Repeat("x", 200) + `"}`)
	for _, f := range [][]byte{
		nil, whole[:1], whole[:2], whole[:4], whole[:7], whole[:len(whole)-1],
		makeFrame(opText, "first fragment"), makeFrame(final|opContinuation, "last"),
		makeFrame(final|opBinary, "binary"), makeFrame(final|0x40|opText, "reserved bit"),
		makeFrame(final|opPing, "ping"), closeFrame(1000, ""), {final | opText, 2, '{', '}', ' ', ' ', ' ', ' '},
	} {
		r := bufio.NewReaderSize(bytes.NewReader(f), 8192)
		r.Peek(1)
		if frame, _ := wholeText(r, 4000); frame != 0 {
			t.Errorf("took %x", f)
		}
		if got, _ := r.Peek(len(f)); !bytes.Equal(got, f) {
			t.Errorf("%x became %x", f, got)
		}
	}
}

func TestFramingKnowsWhatIsOpen(t *testing.T) {
	const none, message, control = 0, 1, 2
	type piece struct {
		frame         []byte
		during, after int
	}
	fragments := []piece{
		{makeFrame(opText, "a"), message, message},
		{makeFrame(final|opPing, ""), message | control, message},
		{makeFrame(opContinuation, ""), message, message},
		{makeFrame(final|opPong, strings.Repeat("x", 125)), message | control, message},
		{makeFrame(final|opContinuation, "b"), message, none},
	}
	pieces := []piece{
		{textFrame(""), message, none},
		{textFrame("{}"), message, none},
		{textFrame(strings.Repeat("x", 125)), message, none},
		{textFrame(strings.Repeat("x", 126)), message, none},
		{textFrame(strings.Repeat("x", 65535)), message, none},
		{textFrame(strings.Repeat("x", 65536)), message, none},
		{[]byte{final | opText, 2, '{', '}'}, message, none}, // unmasked: the library's to refuse
		{makeFrame(final|opBinary, "x"), message, none},
		{makeFrame(final|opPing, "x"), control, none},
		{closeFrame(1000, ""), control, none},
	}
	pieces = append(append(pieces, fragments...), pieces...)
	state := func(f *framing) (s int) {
		if !f.messageAt.IsZero() {
			s |= message
		}
		if !f.controlAt.IsZero() {
			s |= control
		}
		return s
	}
	var all []byte
	var f framing
	now := time.Now()
	for i, p := range pieces {
		for j := range p.frame {
			now = now.Add(time.Second)
			f.follow(p.frame[j:j+1], now)
			want := p.during
			if j == len(p.frame)-1 {
				want = p.after
			}
			if got := state(&f); got != want {
				t.Fatalf("piece %d, byte %d of %d: state %d, want %d", i, j, len(p.frame), got, want)
			}
		}
		all = append(all, p.frame...)
	}
	for _, size := range []int{1, 2, 3, 7, 100, 1000, len(all)} {
		var f framing
		for rest := all; len(rest) > 0; {
			n := min(size, len(rest))
			f.follow(rest[:n], now)
			rest = rest[n:]
		}
		if state(&f) != none || f.size != 0 || f.have != 0 {
			t.Errorf("in pieces of %d: %+v", size, f)
		}
	}
}

func TestFramingRemembersTheBeginning(t *testing.T) {
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var f framing
	f.follow(append(textFrame("{}"), makeFrame(opText, "begins here")...), at(1))
	f.follow(makeFrame(opContinuation, "goes on"), at(2))
	f.follow(makeFrame(final|opPing, "x")[:3], at(3))
	f.follow(makeFrame(final|opPing, "x")[3:5], at(4))
	if !f.messageAt.Equal(at(1)) || !f.controlAt.Equal(at(3)) {
		t.Errorf("message %v, control %v after the start", f.messageAt.Sub(start), f.controlAt.Sub(start))
	}
}

// Whatever comes, in whatever pieces, framing says the same and stays within itself.
func FuzzFraming(f *testing.F) {
	f.Add(textFrame("{}"), uint8(1))
	f.Add(rawFrame(opText, 1<<63|5, []byte("x")), uint8(3))
	f.Add(bytes.Repeat([]byte{0xff}, 40), uint8(2))
	f.Add(append(makeFrame(opText, "a"), makeFrame(final|opPing, "b")...), uint8(5))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		now := time.Now()
		var whole, parts framing
		whole.follow(data, now)
		for rest := data; len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			parts.follow(rest[:n], now)
			rest = rest[n:]
		}
		if whole != parts {
			t.Errorf("in one %+v, in parts %+v", whole, parts)
		}
	})
}
