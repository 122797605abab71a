package httpapi

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What RFC 6455 asks of an endpoint beyond single faults, which are in hostile_test.go: the classes of
// the Autobahn test suite (framing, pings, reserved bits, opcodes, fragments, UTF-8, close).

// inBytes is b as frames of a byte each.
func inBytes(b string) []byte {
	var all []byte
	head := byte(opText)
	for i := range len(b) {
		if i == len(b)-1 {
			head |= final
		}
		all = append(all, makeFrame(head, b[i:i+1])...)
		head = opContinuation
	}
	return all
}

// Section 8.1: text is UTF-8, whole or in fragments that split its characters. What is valid arrives as
// it was sent, what is not closes with 1007.
func TestText(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		valid      bool
	}{
		{"ASCII", "Hello", true},
		{"Greek", "κόσμε", true},
		{"U+007F", "\x7f", true},
		{"U+0080", "\xc2\x80", true},
		{"U+07FF", "\xdf\xbf", true},
		{"U+0800", "\xe0\xa0\x80", true},
		{"U+D7FF", "\xed\x9f\xbf", true},
		{"U+E000", "\xee\x80\x80", true},
		{"U+FFFD", "\xef\xbf\xbd", true},
		{"U+FFFE, no character", "\xef\xbf\xbe", true},
		{"U+FFFF, no character", "\xef\xbf\xbf", true},
		{"U+10000", "\xf0\x90\x80\x80", true},
		{"U+10FFFF", "\xf4\x8f\xbf\xbf", true},
		{"a byte order mark", "\xef\xbb\xbf", true},
		{"combined", "👩\u200d👧 e\u0301", true},

		{"above U+10FFFF", "\xf4\x90\x80\x80", false},
		{"a continuation byte, 80", "\x80", false},
		{"a continuation byte, bf", "\xbf", false},
		{"cut after 1 of 2", "\xc3", false},
		{"cut after 2 of 3", "\xe2\x82", false},
		{"cut after 3 of 4", "\xf0\x9f\x98", false},
		{"cut in the middle", "\xe2\x82x", false},
		{"overlong, 2 for 1", "\xc0\xaf", false},
		{"overlong, 3 for 1", "\xe0\x80\xaf", false},
		{"overlong, 3 for 2", "\xe0\x9f\xbf", false},
		{"overlong, 4 for 3", "\xf0\x8f\xbf\xbf", false},
		{"overlong U+0000", "\xc0\x80", false},
		{"low half of a surrogate", "\xed\xb0\x80", false},
		{"both halves", "\xed\xa0\xbd\xed\xb8\x80", false},
		{"last surrogate", "\xed\xbf\xbf", false},
		{"5 bytes", "\xf8\x88\x80\x80\x80", false},
		{"6 bytes", "\xfc\x84\x80\x80\x80\x80", false},
		{"fe", "\xfe", false},
		{"ff", "\xff", false},
	} {
		for how, send := range map[string]func(string) []byte{"whole": textFrame, "byte by byte": inBytes} {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T, s *service) {
					a, b := s.pair("")
					a.write(send(`{"type":"message","data":"` + tt.text + `"}`))
					if !tt.valid {
						a.wantEndOf(1007)
						b.want("peer-left")
					} else if m := b.want("message"); m["data"] != tt.text {
						t.Errorf("got %q, want %q", m["data"], tt.text)
					}
				})
			})
		}
	}
}

// Section 7.4: what a client may close with is echoed and decides what becomes of its seat; anything
// else is a violation. The codes up to 1014 that the RFC does not name are in IANA's registry.
func TestCloseCodes(t *testing.T) {
	for _, tt := range []struct {
		codes []int
		event string // what the other hears; "" = the code is no code
	}{
		{[]int{1000, 4500, 4999}, "peer-left"},
		{[]int{1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4100, 4499}, "peer-away"},
		{[]int{0, 1, 1004, 1015, 1016, 1100, 2000, 2999, 65535}, ""},
	} {
		for _, code := range tt.codes {
			t.Run(fmt.Sprint(code), func(t *testing.T) {
				bubble(t, func(t *testing.T, s *service) {
					a, b := s.pair(key("a"))
					a.mute.Store(true)
					a.write(closeFrame(code, "why"))
					if tt.event == "" {
						a.wantEndOf(1002)
						if m := b.want("peer-left"); m["reason"] != "error" {
							t.Errorf("got %v", m)
						}
						return
					}
					a.wantEndOf(code)
					b.want(tt.event)
				})
			})
		}
	}
}

// Section 5.5.1: a close frame has no code and no reason, or a code and up to 123 bytes of reason.
func TestClosePayloads(t *testing.T) {
	for _, size := range []int{0, 2, 3, 124, 125} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, b := s.pair(key("a"))
				a.mute.Store(true)
				payload := ("\x03\xe8" + strings.Repeat("r", 123))[:size]
				a.write(makeFrame(final|opClose, payload))
				if f, ok := a.nextFrame(); !ok || f.op != opClose || string(f.payload) != payload {
					t.Errorf("got %x %q", f.op, f.payload)
				}
				if f, ok := a.nextFrame(); ok {
					t.Errorf("got %x %q after the end", f.op, f.payload)
				}
				b.want("peer-left")
			})
		})
	}
}

// Section 5.5.1: what follows a close frame is nothing any more.
func TestNothingAfterClose(t *testing.T) {
	for name, more := range map[string][]byte{
		"a message":     textFrame(`{"type":"message","data":1,"seq":1}`),
		"a ping":        makeFrame(final|opPing, "x"),
		"a close":       closeFrame(1001, ""),
		"a broken one":  makeFrame(final|0x70|opText, ""),
		"half a header": {final | opText},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, b := s.pair(key("a"))
				a.mute.Store(true)
				a.pump.Go(func() { a.Write(append(closeFrame(1000, ""), more...)) })
				a.wantEndOf(1000)
				if m := b.want("peer-left"); m["reason"] != "left" {
					t.Errorf("got %v", m)
				}
			})
		})
	}
}

// Section 5.2: every form of the length, both ways.
func TestFrameSizes(t *testing.T) {
	for _, size := range []int{125, 126, 127, 128, 255, 256, 1 << 12, 65535, 65536} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, b := s.pair("")
				const frame = `{"type":"message","data":""}`
				data := strings.Repeat("x", size-len(frame))
				a.send(`{"type":"message","data":"%s"}`, data)
				if m := b.want("message"); m["data"] != data {
					t.Errorf("%d bytes arrived", len(fmt.Sprint(m["data"])))
				}
			})
		})
	}
	t.Run("0", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			c := s.open()
			c.write(textFrame(""))
			c.wantError("bad-message")
		})
	})
}

// Sections 5.5.2 and 5.5.3: each ping is answered with its payload, in order and at once, also where it
// stands inside a message or comes in pieces; pongs that nobody asked for mean nothing.
func TestPings(t *testing.T) {
	wantPong := func(t *testing.T, c *testConn, payload string) {
		t.Helper()
		if f, ok := c.nextFrame(); !ok || f.op != opPong || string(f.payload) != payload {
			t.Fatalf("ping %q got %x %q", payload, f.op, f.payload)
		}
	}
	t.Run("of every size", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			c := s.open()
			for size := range 126 {
				payload := string(bytes.Repeat([]byte{byte(size), 0xff}, 63)[:size])
				c.write(makeFrame(final|opPing, payload))
				wantPong(t, c, payload)
			}
		})
	})
	t.Run("ten at once", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			c := s.open()
			var all []byte
			for i := range 10 {
				all = append(all, makeFrame(final|opPing, fmt.Sprint(i))...)
			}
			c.write(all)
			for i := range 10 {
				wantPong(t, c, fmt.Sprint(i))
			}
		})
	})
	t.Run("in single bytes", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			c := s.open()
			for _, b := range makeFrame(final|opPing, "payload") {
				c.write([]byte{b})
				time.Sleep(10 * time.Millisecond)
			}
			wantPong(t, c, "payload")
		})
	})
	t.Run("inside a message", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *service) {
			c := s.open()
			c.write(makeFrame(opText, `{"type":`))
			for _, payload := range []string{"", "a", "b"} {
				c.write(makeFrame(final|opPing, payload))
				c.write(makeFrame(final|opPong, "unasked"))
				wantPong(t, c, payload)
				c.write(makeFrame(opContinuation, ""))
			}
			c.write(makeFrame(final|opContinuation, `"ping"}`))
			c.want("pong")
		})
	})
}

// Section 5.2: reserved bits and opcodes, on every kind of frame.
func TestReserved(t *testing.T) {
	heads := map[string]byte{}
	for _, op := range []byte{0x3, 0x4, 0x5, 0x6, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf} {
		heads[fmt.Sprintf("opcode %x", op)] = final | op
	}
	for _, bits := range []byte{0x10, 0x20, 0x40, 0x70} {
		for name, op := range map[string]byte{"text": opText, "ping": opPing, "pong": opPong, "close": opClose} {
			heads[fmt.Sprintf("bits %x, %s", bits, name)] = final | bits | op
		}
	}
	for name, head := range heads {
		for _, inside := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, inside a message: %t", name, inside), func(t *testing.T) {
				bubble(t, func(t *testing.T, s *service) {
					a, b := s.pair(key("a"))
					a.mute.Store(true)
					if inside {
						a.write(makeFrame(opText, `{"type":`))
					}
					a.write(makeFrame(head, ""))
					a.wantEndOf(1002)
					if m := b.want("peer-left"); m["reason"] != "error" {
						t.Errorf("got %v", m)
					}
				})
			})
		}
	}
}

// Section 5.4: fragments of any number and size are one message.
func TestFragments(t *testing.T) {
	const text = `{"type":"message","data":"in fragments"}`
	for size := range len(text) + 1 {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			bubble(t, func(t *testing.T, s *service) {
				a, b := s.pair("")
				head, rest := byte(opText), text
				for size > 0 && len(rest) > size {
					a.write(makeFrame(head, rest[:size]))
					head, rest = opContinuation, rest[size:]
				}
				a.write(makeFrame(head, rest))
				a.write(makeFrame(final|opContinuation, ""))
				if m := b.want("message"); m["data"] != "in fragments" {
					t.Errorf("got %v", m)
				}
			})
		})
	}
}
