package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"duet/signaling"
)

// A tape reads a fuzzer's input as a sequence of decisions.
type tape []byte

func (t *tape) byte() byte {
	if len(*t) == 0 {
		return 0
	}
	b := (*t)[0]
	*t = (*t)[1:]
	return b
}

func (t *tape) bytes(n int) []byte {
	n = min(n, len(*t))
	b := (*t)[:n]
	*t = (*t)[n:]
	return b
}

// messages are what a fuzzed client may say besides what the fuzzer makes up; %d is a small number.
var messages = []string{
	`{"type":"join","room":"demo"}`,
	`{"type":"join","room":"demo","session":"fuzz-session-0000000001","attempt":%d,"received":0}`,
	`{"type":"join","room":"demo","session":"fuzz-session-0000000002","attempt":%d,"received":%d,"replaces":"fuzz-session-0000000001"}`,
	`{"type":"join","room":"other","session":"fuzz-session-0000000002"}`,
	`{"type":"offer","sdp":"v=0","seq":%d}`,
	`{"type":"candidate","candidate":null,"seq":%d}`,
	`{"type":"message","data":{"a":[1,2,3]},"seq":%d}`,
	`{"type":"message","data":1,"to":"nobody","seq":%d}`,
	`{"type":"leave","seq":%d}`,
	`{"type":"ack","received":%d}`,
	`{"type":"ping"}`,
	`{"type":"unheard-of"}`,
	`not json`,
}

// message is one of messages.
func (t *tape) message() string {
	format := messages[int(t.byte())%len(messages)]
	n := int(t.byte())
	args := make([]any, strings.Count(format, "%d"))
	for i := range args {
		args[i] = n % 16
		n /= 16
	}
	return fmt.Sprintf(format, args...)
}

// frames is what the input says that a client sends: pieces to be written one by one, with a pause of
// some length before each.
func (t *tape) frames(send func([]byte), pause func(time.Duration)) {
	for pieces := 0; len(*t) > 0 && pieces < 64; pieces++ {
		switch op := t.byte(); op % 8 {
		case 0:
			send(textFrame(t.message()))
		case 1:
			send(textFrame(string(t.bytes(int(t.byte())))))
		case 2: // any first byte
			send(makeFrame(t.byte(), string(t.bytes(int(t.byte())))))
		case 3: // a message in two fragments
			m := t.message()
			at := min(int(t.byte()), len(m))
			send(makeFrame(opText, m[:at]))
			send(makeFrame(final|opContinuation, m[at:]))
		case 4: // a length that may lie
			send(rawFrame(t.byte(), uint64(t.byte())<<(t.byte()%64), t.bytes(int(t.byte()))))
		case 5:
			send(makeFrame(final|opClose, string(t.bytes(int(t.byte())%8))))
		case 6:
			send(bytes.Clone(t.bytes(int(t.byte()))))
		case 7:
			pause(time.Duration(t.byte()) * 100 * time.Millisecond)
		}
	}
}

// FuzzConnection: whatever a client sends after the handshake, the connection ends within bounds once
// the client has stopped, having said nothing but sound frames, and leaves nothing behind.
func FuzzConnection(f *testing.F) {
	join, joinAgain := []byte{0, 0, 0}, []byte{0, 1, 1}
	f.Add(bytes.Join([][]byte{join, {0, 6, 0}, {0, 10, 0}, {0, 8, 0}}, nil), false)
	f.Add(bytes.Join([][]byte{joinAgain, {7, 255}, {7, 100}, {0, 9, 1}}, nil), true)
	f.Add(bytes.Join([][]byte{join, {5, 2, 0x03, 0xe8}}, nil), false)
	f.Add([]byte("\x02\x89\x7d"+strings.Repeat("p", 125)+"\x01\x02\xc3\x28"), false)
	f.Add([]byte("\x06\x06\x81\xff\x80\x00\x00\x00\x07\xff\x03\x01\x02\x05"), true)
	f.Add([]byte("\x04\x81\x01\x3e\x01x\x07\xff"), false)
	f.Fuzz(func(t *testing.T, input []byte, answers bool) {
		synctest.Test(t, func(t *testing.T) {
			s := servePipes(t, nil)
			c := s.dial()
			c.upgrade()
			c.mute.Store(!answers)
			c.listen()
			rest := tape(input)
			rest.frames(func(b []byte) { c.Write(b) }, time.Sleep)
			stopped := time.Now()
			c.mute.Store(true) // it answers no ping from here on
			var closed time.Time
			for {
				frame, ok := c.nextFrame()
				if !ok {
					break
				}
				if !closed.IsZero() {
					t.Errorf("%x %q after a close frame", frame.op, frame.payload)
				}
				checkFrame(t, frame)
				if frame.op == opClose {
					closed = frame.at
				}
			}
			// At worst the last ping was just answered: the next one, its answer's time, and the end.
			if took := time.Since(stopped); took > 20*time.Second+10*time.Second+closeBound {
				t.Errorf("open for %v after the client had stopped", took)
			}
			synctest.Wait()
			if n := s.api.Connections(); n != 0 {
				t.Errorf("%d connections open", n)
			}
		})
	})
}

// checkFrame checks a frame of the server's beyond what readFrame does.
func checkFrame(t *testing.T, f frame) {
	switch f.op {
	case opText:
		if !utf8.Valid(f.payload) || !json.Valid(f.payload) {
			t.Errorf("text %q", f.payload)
		}
	case opPing, opPong:
	case opClose:
		code, reason := f.closeCode()
		if code == 1012 {
			t.Error("something panicked: nothing restarts here")
		}
		if code < 1000 || code >= 5000 || code == 1006 || code == 1005 && len(f.payload) > 0 {
			t.Errorf("closed with %d %q", code, reason)
		}
	default:
		t.Errorf("frame with opcode %x", f.op)
	}
}

// An endpoint is a Conn without a connection: a transport that carries nothing.
type endpoint struct {
	conn   *signaling.Conn
	closed bool
	lost   bool
}

func (*endpoint) Wake()         {}
func (e *endpoint) Close(error) { e.closed = true }

// lose ends the connection, once.
func (e *endpoint) lose(how signaling.Ending) {
	if !e.lost {
		e.lost = true
		e.conn.Lost(how)
	}
}

// FuzzConn: whatever three connections are told, in whatever order they are read, written and lost,
// nothing panics, what they say is JSON, and when all are gone and the grace is over nothing is held.
func FuzzConn(f *testing.F) {
	say := func(conn, message, number byte) []byte { return []byte{conn, 0, message, number} }
	f.Add(bytes.Join([][]byte{say(0, 0, 0), say(1, 1, 0), say(0, 6, 0), {1, 2}, say(1, 9, 1), {1, 3, 2}, {1, 5}, say(1, 1, 1)}, nil))
	f.Add(bytes.Join([][]byte{say(0, 1, 0), say(1, 1, 5), say(2, 2, 6), say(0, 4, 1), say(0, 8, 2), {4, 4, 200}}, nil))
	f.Add([]byte("\x00\x01\x0d{\"type\":null}\x00\x03\x04"))
	f.Fuzz(func(t *testing.T, input []byte) {
		synctest.Test(t, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			hub := signaling.NewHub(defaultSettings().hub, signaling.NewLocalDirectory(), slog.New(slog.DiscardHandler), reg)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = hub.Run(ctx) }()
			connect := func() *endpoint {
				e := new(endpoint)
				e.conn = hub.Connect(e, func() bool { return true })
				return e
			}
			var conns [3]*endpoint
			for i := range conns {
				conns[i] = connect()
			}
			for rest, steps := tape(input), 0; len(rest) > 0 && steps < 400; steps++ {
				i := int(rest.byte()) % len(conns)
				e := conns[i]
				switch rest.byte() % 6 {
				case 0:
					e.receive(ctx, []byte(rest.message()))
				case 1:
					e.receive(ctx, bytes.Clone(rest.bytes(int(rest.byte()))))
				case 2:
					e.say(t, 1+int(rest.byte()))
				case 3:
					e.lose(signaling.Ending(rest.byte() % 5))
				case 4:
					time.Sleep(time.Duration(rest.byte()) * 200 * time.Millisecond)
				case 5: // the next connection; the old one may be lost later, or never until the end
					conns[i] = connect()
					defer e.lose(signaling.EndLost)
				}
				synctest.Wait()
				if e.closed {
					e.lose(signaling.EndLost)
				}
			}
			for _, e := range conns {
				e.say(t, 1<<10)
				e.lose(signaling.EndLost)
			}
			t.Cleanup(func() {
				time.Sleep(31 * time.Second)
				synctest.Wait()
				if n := hub.Rooms(); n != 0 {
					t.Errorf("%d rooms are left", n)
				}
				if err := testutil.GatherAndCompare(reg, strings.NewReader(""), "duet_panics_total"); err != nil {
					t.Error(err)
				}
				want := "# HELP duet_ring_bytes Bytes of messages that wait for delivery or acknowledgement in all rings.\n" +
					"# TYPE duet_ring_bytes gauge\nduet_ring_bytes 0\n"
				if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "duet_ring_bytes"); err != nil {
					t.Error(err)
				}
				stop()
				<-done
			})
		})
	})
}

// receive hands over a message as a reader does, which loses a connection that is to be closed.
func (e *endpoint) receive(ctx context.Context, message []byte) {
	if e.lost || e.closed {
		return
	}
	if err := e.conn.Receive(ctx, message); err != nil {
		e.lose(signaling.EndViolation)
	}
}

// say takes at most n messages out, as a writer does.
func (e *endpoint) say(t *testing.T, n int) {
	for ; n > 0; n-- {
		message, _, ok := e.conn.Next(nil)
		if !ok {
			return
		}
		if !json.Valid(message) {
			t.Errorf("said %q", message)
		}
	}
}

// FuzzOriginPolicy: what passes has, to net/url too, the scheme, host and port of an origin in the
// list, or without a list the host and port of the request, and nothing else.
func FuzzOriginPolicy(f *testing.F) {
	for _, o := range []string{
		"https://app.example", "https://app.example.", "https://app.example.evil.example", "https://evilapp.example", "https://app.example@evil.example",
		"https://evil.example\\.app.example", "https://app.example:443", "https://app.example:00443", "http://[::1]:3000", "http://[0:0::1]:3000", "HTTPS://APP.EXAMPLE",
	} {
		f.Add(o, "app.example")
	}
	f.Add("http://[::1]:3000", "[::1]:3000")
	list := []string{"https://app.example", "http://[::1]:3000"}
	listed, own := newOriginPolicy(list), newOriginPolicy(nil)
	f.Fuzz(func(t *testing.T, origin, host string) {
		if listed.allows(origin, host, false) && !samePlace(t, origin, list[0]) && !samePlace(t, origin, list[1]) {
			t.Errorf("origin %q passes for %q", origin, list)
		}
		scheme, _, _ := strings.Cut(origin, "://")
		if own.allows(origin, host, false) && !samePlace(t, origin, scheme+"://"+host) {
			t.Errorf("origin %q passes for host %q", origin, host)
		}
	})
}

// samePlace compares two origins as net/url reads them.
func samePlace(t *testing.T, a, b string) bool {
	var places [2]string
	for i, s := range []string{a, b} {
		u, err := url.Parse(s)
		if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
			t.Logf("%q: %+v, %v", s, u, err)
			return false
		}
		port := strings.TrimLeft(u.Port(), "0")
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		name := strings.ToLower(u.Hostname())
		if addr, err := netip.ParseAddr(name); err == nil {
			name = addr.String()
		}
		places[i] = u.Scheme + " " + name + " " + port
	}
	return places[0] == places[1]
}

// FuzzClientAddr: nobody chooses the address that its limits are counted under. What stands in
// X-Forwarded-For before the entry of a trusted proxy changes nothing, and the header of a stranger
// changes nothing at all.
func FuzzClientAddr(f *testing.F) {
	for _, s := range []string{"", "1.2.3.4", "10.0.0.1, 10.0.0.2", "unknown", "::ffff:10.1.1.1", "[::1]:80", "fe80::1%eth0", ",,", " \t", "\xff", "1.2.3.4:80", "10.0.0.1\r\nX: y"} {
		f.Add(s, s)
	}
	trust := clientIP([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")})
	countedUnder := func(peer string, forwarded ...string) (got netip.Addr) {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.RemoteAddr = peer
		r.Header["X-Forwarded-For"] = forwarded
		trust(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = clientAddr(r) })).ServeHTTP(httptest.NewRecorder(), r)
		return got
	}
	client, stranger := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("198.51.100.9")
	f.Fuzz(func(t *testing.T, first, second string) {
		for _, peer := range []string{"10.9.9.9:1", "[fd00::9]:1"} {
			for _, chain := range [][]string{
				{first + ", 203.0.113.7"}, {first, "203.0.113.7"}, {first, second + ",203.0.113.7"}, {first + ",203.0.113.7, 10.1.1.1", "fd00::1"}, {first, second, "::ffff:203.0.113.7"},
			} {
				if got := countedUnder(peer, chain...); got != client {
					t.Errorf("%q from a proxy counts under %v", chain, got)
				}
			}
		}
		if got := countedUnder("198.51.100.9:1", first, second); got != stranger {
			t.Errorf("%q from a stranger counts under %v", []string{first, second}, got)
		}
		if got := countedUnder("10.9.9.9:1", first, second); !got.IsValid() || got.Is4In6() || got.Zone() != "" ||
			got.Is6() && netip.PrefixFrom(got, 64).Masked().Addr() != got {
			t.Errorf("%q counts under %v", []string{first, second}, got)
		}
	})
}
