package httpapi

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A bystander is a call in another room that goes on while somebody misbehaves.
type bystander struct {
	stop   chan struct{}
	done   chan struct{}
	rounds []time.Duration // of a message there and one back
}

// bystand starts one. When the test ends it must have noticed nothing.
func (s *service) bystand() *bystander {
	s.t.Helper()
	a, b := s.pairIn("bystanders", "")
	by := &bystander{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(by.done)
		pace := time.NewTicker(25 * time.Millisecond) // 40 a second: within the limit
		defer pace.Stop()
		for i := 0; ; i++ {
			select {
			case <-by.stop:
				return
			case <-pace.C:
			}
			began := time.Now()
			a.count("message", fmt.Sprintf(`,"data":%d`, i))
			if !by.gets(b, i) {
				return
			}
			b.count("message", fmt.Sprintf(`,"data":%d`, i))
			if !by.gets(a, i) {
				return
			}
			by.rounds = append(by.rounds, time.Since(began))
		}
	}()
	s.t.Cleanup(by.end)
	return by
}

// gets reads the next message of c, which must be message i. It runs beside the test and so must not
// end it.
func (by *bystander) gets(c *testConn, i int) bool {
	late := time.NewTimer(5 * time.Second)
	defer late.Stop()
	for {
		var f frame
		ok := false
		select {
		case f, ok = <-c.frames:
		case <-late.C:
		}
		if !ok {
			c.t.Errorf("the bystander waited in vain for message %d", i)
			return false
		}
		var m message
		if f.op != opText || json.Unmarshal(f.payload, &m) != nil {
			continue
		}
		if m.typ() != "message" || m["data"] != float64(i) {
			c.t.Errorf("the bystander got %v, want message %d", m, i)
			return false
		}
		return true
	}
}

func (by *bystander) end() {
	select {
	case <-by.stop:
	default:
		close(by.stop)
	}
	<-by.done
}

// closeBound is how long the last of a connection may take from the decision to close it
// (docs/protocol.md, section 7).
const closeBound = 2 * time.Second

// gone fails the test where more than want connections are left after closeBound, and some more for a
// machine that is busy: TestCloseBound has it exactly.
func (s *service) gone(since time.Time, want int) {
	s.t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for s.api.Connections() > want {
		if late := time.Since(since) - closeBound; late > 3*time.Second {
			s.t.Errorf("%d connections open %v later, want %d", s.api.Connections(), closeBound+late, want)
			return
		}
		<-poll.C
	}
}

// Whatever the peer does or leaves undone, its connection is gone in time, and its goroutines with it:
// a bubble does not end before they have.
func TestCloseBound(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reads bool   // what the server says
		sends []byte // makes the server close
		then  []byte // every 10 ms
		code  int
	}{
		{"silent", true, makeFrame(final|opBinary, ""), nil, 1003},
		{"sends on", true, makeFrame(final|opBinary, ""), textFrame("{}"), 1003},
		{"holds a frame open", true, concat(makeFrame(final|opBinary, ""), rawFrame(final|opText, 4096, nil)), []byte{0}, 1003},
		{"breaks the next frame too", true, makeFrame(final|opBinary, ""), []byte{0xff, 0}, 1003},
		{"broken frame", true, rawFrame(final|0x40|opText, 0, nil), nil, 1002},
		{"broken frames", true, rawFrame(final|0x40|opText, 0, nil), []byte{0xff, 0}, 1002},
		{"pings", true, makeFrame(final|opBinary, ""), makeFrame(final|opPing, ""), 1003},
		{"neither reads nor writes", false, makeFrame(final|opBinary, ""), nil, 1006},
		{"writes and does not read", false, makeFrame(final|opBinary, ""), textFrame("{}"), 1006},
		{"closes and does not read", false, closeFrame(1000, ""), textFrame("{}"), 1006},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				c := s.dial()
				c.upgrade()
				c.mute.Store(true)
				if tt.reads {
					c.listen()
				}
				start := time.Now()
				c.pump.Go(func() {
					c.Write(tt.sends)
					if tt.then != nil {
						c.keepSending(tt.then, 10*time.Millisecond)
					}
				})
				if tt.reads {
					wantAfter(t, "close frame", start, c.wantEndOf(tt.code), 0)
				}
				time.Sleep(closeBound - time.Since(start))
				synctest.Wait()
				if n := s.api.Connections(); n != 0 {
					t.Errorf("%d connections open after %v", n, closeBound)
				}
			})
		})
	}
}

func repeat(n int, b []byte) []byte { return bytes.Repeat(b, n) }

func concat(parts ...[]byte) []byte { return slices.Concat(parts...) }

// Every violation gets its close code, and its connection is gone within 2 s, even where the peer
// keeps sending and never answers.
func TestViolations(t *testing.T) {
	text := func(n int) string { return `{"type":"ping","x":"` + strings.Repeat("x", n-22) + `"}` }
	unmasked := []byte{final | opText, 2, '{', '}'}
	negative := binary.BigEndian.AppendUint64([]byte{final | opText, masked | 127}, 1<<63|5)
	for _, tt := range []struct {
		name  string
		sends []byte
		then  []byte // every millisecond, without a look at what the server says
		code  int
		error string // the last error message before, if there must be one
	}{
		{"binary", makeFrame(final|opBinary, "{}"), makeFrame(final|opBinary, "{}"), 1003, ""},
		{"binary, in the middle of it", rawFrame(final|opBinary, 1<<40, nil), repeat(4096, []byte{0}), 1003, ""},
		{"invalid UTF-8", textFrame("{\"type\":\"\xc3\x28\"}"), textFrame("\xff"), 1007, ""},
		{"invalid UTF-8 over fragments", concat(makeFrame(opText, "\"\xf0\x9f"), makeFrame(final|opContinuation, "\x98\"")), nil, 1007, ""},
		{"surrogate as UTF-8", textFrame("\"\xed\xa0\x80\""), nil, 1007, ""},
		{"one byte too many", textFrame(text(64<<10 + 1)), textFrame(text(64<<10 + 1)), 1009, ""},
		{"too much in fragments", concat(makeFrame(opText, text(64<<10)), makeFrame(final|opContinuation, " ")), nil, 1009, ""},
		{"no end", rawFrame(final|opText, 1<<62, repeat(70000, []byte("x"))), repeat(4096, []byte("x")), 1009, ""},
		{"100,000 empty fragments", concat(makeFrame(opText, ""), repeat(100_000, makeFrame(opContinuation, ""))), makeFrame(opContinuation, ""), 1009, ""},
		{"unmasked", unmasked, unmasked, 1002, ""},
		{"reserved bit 1", makeFrame(final|0x40|opText, "{}"), textFrame("{}"), 1002, ""},
		{"reserved bit 2", makeFrame(final|0x20|opText, "{}"), textFrame("{}"), 1002, ""},
		{"reserved bit 3", makeFrame(final|0x10|opText, "{}"), textFrame("{}"), 1002, ""},
		{"unknown data frame", makeFrame(final|0x3, "{}"), textFrame("{}"), 1002, ""},
		{"unknown control frame", makeFrame(final|0xb, ""), textFrame("{}"), 1002, ""},
		{"continuation of nothing", makeFrame(final|opContinuation, "{}"), textFrame("{}"), 1002, ""},
		{"message inside a message", concat(makeFrame(opText, "{"), textFrame("{}")), textFrame("{}"), 1002, ""},
		{"fragmented ping", makeFrame(opPing, "a"), makeFrame(final|opContinuation, "b"), 1002, ""},
		{"long ping", makeFrame(final|opPing, strings.Repeat("x", 126)), textFrame("{}"), 1002, ""},
		{"long close", makeFrame(final|opClose, strings.Repeat("x", 126)), textFrame("{}"), 1002, ""},
		{"close of one byte", makeFrame(final|opClose, "x"), textFrame("{}"), 1002, ""},
		{"close 1006", closeFrame(1006, ""), textFrame("{}"), 1002, ""},
		{"close 1005", closeFrame(1005, ""), textFrame("{}"), 1002, ""},
		{"close 999", closeFrame(999, ""), textFrame("{}"), 1002, ""},
		{"close 5000", closeFrame(5000, ""), textFrame("{}"), 1002, ""},
		{"negative length", negative, textFrame("{}"), 1002, ""},
		{"lying length", rawFrame(final|opText, 10, []byte(`{"type":"ping"}`)), textFrame("{}"), 1002, ""},
		{"pings in floods", repeat(1000, makeFrame(final|opPing, "x")), makeFrame(final|opPing, "x"), 1008, ""},
		{"ten bad messages", repeat(10, textFrame("{}")), textFrame("{}"), 1008, "bad-message"},
		{"ten unknown types", repeat(10, textFrame(`{"type":"x"}`)), textFrame(`{"type":"x"}`), 1008, "unknown-type"},
		{"ten times no JSON", repeat(10, textFrame("hello")), textFrame("hello"), 1008, "bad-message"},
		{"messages in floods", repeat(1000, textFrame(`{"type":"ping"}`)), textFrame(`{"type":"ping"}`), 1008, "rate-limited"},
	} {
		for _, keeps := range []bool{false, true} {
			if keeps && tt.then == nil {
				continue
			}
			name := tt.name
			if keeps {
				name += ", and keeps sending"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := serveTCP(t, nil)
				s.bystand()
				a, b := s.pair(key("a"))
				a.mute.Store(keeps)
				a.pump.Go(func() {
					a.Write(tt.sends)
					if keeps {
						a.keepSending(tt.then, time.Millisecond)
					}
				})
				code, last, at := a.endWithError()
				if code != tt.code || last != tt.error {
					t.Errorf("closed with %d after error %q, want %d after %q", code, last, tt.code, tt.error)
				}
				if m := b.want("peer-left"); m["reason"] != "error" {
					t.Errorf("got %v", m)
				}
				s.gone(at, 3)
			})
		}
	}
}

// keepSending sends b again and again until the connection ends.
func (c *testConn) keepSending(b []byte, every time.Duration) {
	pace := time.NewTicker(every)
	defer pace.Stop()
	for range pace.C {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// The same at full speed: what arrives after the decision to close is thrown away.
func TestViolationAtFullSpeed(t *testing.T) {
	s := serveTCP(t, nil)
	a, b := s.pair(key("a"))
	a.mute.Store(true)
	a.flood(repeat(1000, makeFrame(final|opBinary, strings.Repeat("x", 100))))
	at := a.wantEnd(1003)
	b.want("peer-left")
	s.gone(at, 1)
}

// The limit is noticed with the first byte beyond it, not with the end of the message.
func TestTooBigIsNoticedAtOnce(t *testing.T) {
	for _, declared := range []uint64{64<<10 + 1, 64<<10 + 5000, 1 << 40} {
		bubble(t, func(t *testing.T, s *service) {
			c := s.open()
			start := time.Now()
			c.write(rawFrame(final|opText, declared, make([]byte, 64<<10)))
			synctest.Wait()
			if len(c.frames) > 0 {
				t.Error("closed before the limit")
			}
			c.write([]byte{0})
			wantAfter(t, "end", start, c.wantEnd(1009), 0)
		})
	}
}

// A socket that is closed while bytes wait to be read is reset, and the reset throws away what the
// peer has not read yet. So they are read.
func TestCloseFrameIsNotLostInAReset(t *testing.T) {
	for _, tt := range []struct {
		sends []byte
		code  int
	}{
		{[]byte{final | opText, 2, '{', '}'}, 1002},
		{makeFrame(final|opBinary, ""), 1003},
		{textFrame("\xff"), 1007},
	} {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			t.Parallel()
			s := serveTCP(t, nil)
			c := s.dial()
			c.upgrade()
			c.mute.Store(true) // a write would find the reset before the read does
			began := time.Now()
			c.write(append(tt.sends, repeat(100_000, []byte{0xff})...))
			s.gone(began, 0)
			c.listen()
			c.wantEnd(tt.code)
			if c.readErr != io.EOF {
				t.Errorf("the connection ended with %v", c.readErr)
			}
		})
	}
}

// endWithError reads until the connection ends, and returns the close code, the last error before it,
// and when the close frame came.
func (c *testConn) endWithError() (code int, last string, at time.Time) {
	c.t.Helper()
	code = 1006
	for {
		f, ok := c.nextFrame()
		switch {
		case !ok:
			return code, last, at
		case f.op == opClose && code != 1006:
			c.t.Error("two close frames")
		case f.op == opClose:
			code, _ = f.closeCode()
			at = f.at
		case f.op == opText:
			var m message
			if err := json.Unmarshal(f.payload, &m); err != nil {
				c.t.Error(err)
			}
			if m.typ() == "error" {
				last, _ = m["code"].(string)
			}
		}
	}
}

// What is unusual and yet allowed.
func TestUnusualFrames(t *testing.T) {
	data := `,"data":"` + strings.Repeat("é", 100) + `"}`
	most := `{"type":"message","data":"`
	most += strings.Repeat("x", 64<<10-len(most)-2) + `"}`
	euro := []byte("€") // e2 82 ac
	for _, tt := range []struct {
		name  string
		sends []byte
		want  []string // the data of what the other gets, "" for any
	}{
		{"exactly 64 KiB", textFrame(most), []string{""}},
		{"exactly 64 KiB in fragments", concat(makeFrame(opText, most[:1000]), makeFrame(opContinuation, ""),
			makeFrame(opContinuation, most[1000:50000]), makeFrame(final|opContinuation, most[50000:])), []string{""}},
		{"many at once", repeat(100, textFrame(`{"type":"message","data":1}`)), slices.Repeat([]string{"1"}, 100)},
		{"empty first fragment", concat(makeFrame(opText, ""), makeFrame(final|opContinuation, `{"type":"message","data":2}`)), []string{"2"}},
		{"empty last fragment", concat(makeFrame(opText, `{"type":"message","data":3}`), makeFrame(final|opContinuation, "")), []string{"3"}},
		{"control frames between fragments", concat(makeFrame(opText, `{"type":`), makeFrame(final|opPing, "x"),
			makeFrame(opContinuation, `"message"`), makeFrame(final|opPong, "y"), makeFrame(final|opPing, ""),
			makeFrame(final|opContinuation, data)), []string{""}},
		{"a character over three fragments", concat(makeFrame(opText, `{"type":"message","data":"`+string(euro[:1])),
			makeFrame(opContinuation, string(euro[1:2])), makeFrame(final|opPing, ""),
			makeFrame(final|opContinuation, string(euro[2:])+`"}`)), []string{"€"}},
		{"long form of a short length", func() []byte {
			p := `{"type":"message","data":4}`
			f := rawFrame(final|opText, 1<<16, []byte(p))
			binary.BigEndian.PutUint64(f[2:], uint64(len(p)))
			return f
		}(), []string{"4"}},
		{"a ping of 125 bytes", concat(makeFrame(final|opPing, strings.Repeat("x", 125)), textFrame(`{"type":"message","data":5}`)), []string{"5"}},
		{"unasked pongs", concat(repeat(10, makeFrame(final|opPong, "x")), textFrame(`{"type":"message","data":6}`)), []string{"6"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serveTCP(t, nil)
			a, b := s.pair("")
			a.write(tt.sends)
			for _, want := range tt.want {
				m := b.want("message")
				if got := fmt.Sprint(m["data"]); want != "" && got != want {
					t.Errorf("got %v, want %s", m, want)
				}
			}
			a.send(`{"type":"ping"}`)
			a.want("pong")
		})
	}
}

func TestPingIsAnsweredWithItsPayload(t *testing.T) {
	s := serveTCP(t, nil)
	c := s.open()
	for _, payload := range []string{"", "x", strings.Repeat("y", 125)} {
		c.write(makeFrame(final|opPing, payload))
		f, ok := c.nextFrame()
		if !ok || f.op != opPong || string(f.payload) != payload {
			t.Errorf("ping %q got %x %q", payload, f.op, f.payload)
		}
	}
}

// Bytes in the same segment as the handshake are in net/http's buffer, not in the socket.
func TestBytesWithTheHandshake(t *testing.T) {
	join := textFrame(`{"type":"join","room":"demo"}`)
	ping := textFrame(`{"type":"ping"}`)
	big := textFrame(`{"type":"ping","x":"` + strings.Repeat("x", 60000) + `"}`)
	for _, tt := range []struct {
		name  string
		early []byte
		later []byte
		want  []string
	}{
		{"one message", join, nil, []string{"joined"}},
		{"several", concat(join, ping, ping), nil, []string{"joined", "pong", "pong"}},
		{"a hundred", repeat(100, ping), nil, slices.Repeat([]string{"pong"}, 100)},
		{"more than a buffer holds", concat(join, big, ping), nil, []string{"joined", "pong", "pong"}},
		{"one and a half", concat(join, ping[:9]), ping[9:], []string{"joined", "pong"}},
		{"one byte", join[:1], join[1:], []string{"joined"}},
		{"a control frame first", concat(makeFrame(final|opPing, "early"), join), nil, []string{"joined"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveTCP(t, nil)
			c := s.dial()
			c.upgrade(tt.early)
			c.listen()
			c.write(tt.later)
			for _, typ := range tt.want {
				c.want(typ)
			}
		})
	}
	t.Run("in fake time", func(t *testing.T) { // a partial message is given its 10 s, no more
		bubble(t, func(t *testing.T, s *service) {
			c := s.dial()
			c.upgrade(join, ping[:9])
			c.listen()
			start := time.Now()
			c.want("joined")
			wantAfter(t, "end", start, c.wantEnd(1008), 10*time.Second)
		})
	})
}

// The library's Close reads what the peer still sends, without a bound of its own: a peer that
// declares a frame and sends it bit by bit would hold it open for as long as it likes.
func TestCloseCannotBeHeldOpen(t *testing.T) {
	for _, tt := range []struct {
		name string
		code int
		bad  []byte // makes the server close
	}{
		{"behind a violation", 1003, makeFrame(final|opBinary, "")},
		{"in it", 1003, nil},
		{"behind a broken frame", 1002, makeFrame(final|0x40|opText, "")},
		{"behind too many bad messages", 1008, repeat(10, textFrame("{}"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serveTCP(t, nil)
			s.bystand()
			c := s.open()
			c.join("demo", key("a"))
			c.mute.Store(true)
			// A frame of 4096 bytes, of which 1200 come at once, and one more now and then.
			c.write(concat(tt.bad, rawFrame(final|opBinary, 4096, make([]byte, 1200))))
			c.pump.Go(func() {
				c.keepSending([]byte{0}, 50*time.Millisecond)
			})
			s.gone(c.wantEnd(tt.code), 2)
		})
	}
}

// One connection that does not read, in the same room as two who talk: they are told when it can take
// no more, and it ends with 4001. Nobody else waits for it.
func TestReaderThatStopsWhileOthersSend(t *testing.T) {
	const writeTimeout = 3 * time.Second
	s := serveTCP(t, func(set *settings) {
		set.hub.RoomCapacity = 3
		set.hub.MessageRate, set.hub.MessageBurst = 1e6, 1e6
		set.WriteTimeout = writeTimeout
	})
	by := s.bystand()
	b := s.open()
	b.join("demo", "")
	c := s.open()
	c.join("demo", "")
	b.want("peer-joined")
	deaf := s.dial()
	deaf.Conn.(*net.TCPConn).SetReadBuffer(4096)
	deaf.upgrade()
	deaf.send(`{"type":"join","room":"demo"}`)
	b.want("peer-joined")
	c.want("peer-joined")

	data := strings.Repeat("x", 32<<10)
	taken, refused := 0, 0
	for gone := false; !gone; {
		began := time.Now()
		b.send(`{"type":"message","data":%q}`, data)
		// Either the third gets it, or it is refused.
		select {
		case f := <-c.frames:
			taken++
			gone = strings.Contains(string(f.payload), "peer-left")
		case f := <-b.frames:
			if gone = strings.Contains(string(f.payload), "peer-left"); !gone {
				refused++
				if !strings.Contains(string(f.payload), `"code":"busy"`) {
					t.Fatalf("got %.200s", f.payload)
				}
			}
		case <-time.After(s.patience):
			t.Fatal("a message was neither taken nor refused")
		}
		if waited := time.Since(began); waited > writeTimeout*5/6 {
			t.Errorf("a message waited %v", waited)
		}
	}
	if taken == 0 || refused == 0 {
		t.Errorf("%d messages taken, %d refused", taken, refused)
	}
	s.gone(time.Now(), 4)
	if n := testutil.ToFloat64(s.api.sockets.closes.WithLabelValues("server", "4001")); n != 1 {
		t.Errorf("%v closes with 4001, want 1", n)
	}
	by.end()
	slices.Sort(by.rounds)
	if worst := by.rounds[len(by.rounds)-1]; worst > writeTimeout*5/6 {
		t.Errorf("a bystander waited %v", worst)
	}
	t.Logf("%d messages taken, %d refused; a bystander's rounds: %d, median %v, worst %v",
		taken, refused, len(by.rounds), by.rounds[len(by.rounds)/2], by.rounds[len(by.rounds)-1])
}
