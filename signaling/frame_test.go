package signaling

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFrame(t *testing.T) {
	for _, f := range []frame{
		{up: true, link: linkID{"a-x1", 7}, turn: 3, number: 9, confirmed: 4, part: []byte("relay offer 1 - 0\n{}")},
		{link: linkID{"b", 1}, turn: 1<<64 - 1, number: 1<<64 - 1, confirmed: 1<<64 - 1, part: []byte("out 1\n{\"a\": \"b c\"}")},
		{link: linkID{"b", 0}},
	} {
		got, err := parseFrame(f.bytes())
		if err != nil || got.up != f.up || got.link != f.link || got.turn != f.turn || got.number != f.number ||
			got.confirmed != f.confirmed || !bytes.Equal(got.part, f.part) {
			t.Errorf("%q is read as %+v, %v", f.bytes(), got, err)
		}
	}
	for _, bad := range []string{"", "1", "2 up a 1 1 1 1 x", "1 in a 1 1 1 1 x", "1 up  1 1 1 1 x", "1 up a 1 1 1", "1 up a -1 1 1 1 x",
		"1 up a 1 1 1 18446744073709551616 x"} {
		if _, err := parseFrame([]byte(bad)); err == nil {
			t.Errorf("%q is read as a frame", bad)
		}
	}
}

// A cause is the same for the client, whether its connection is on the room's node or not.
func TestCauseCrossesNodes(t *testing.T) {
	for _, f := range Failures {
		if f.Close == 0 {
			continue
		}
		what, rest := word(causePart(f.Err))
		if got := causeOf(rest); string(what) != "end" || !errors.Is(got, f.Err) {
			t.Errorf("%v arrives as %q, %v", f.Err, what, got)
		}
	}
	why := &refusal{err: ErrOutOfSync, text: "a \"b\"\nc", kind: "message", seq: 12, retryAfter: 3}
	_, rest := word(causePart(why))
	if got, ok := causeOf(rest).(*refusal); !ok || *got != *why {
		t.Errorf("%+v arrives as %+v", why, got)
	}
	for _, unknown := range []string{"", "9999", "x\n{", "1000\n{\"code\":\"of-another-version\"}"} {
		if got := FailureOf(causeOf([]byte(unknown))); got.Close != 1012 {
			t.Errorf("%q closes with %d", unknown, got.Close)
		}
	}
}

// Whatever another node says, nothing breaks; and a frame says the same when it is written again.
func FuzzFrame(f *testing.F) {
	for _, part := range []string{"relay offer 1 - 0\n{}", "relay message 2 YQ 5\n{", "relay", "refused offer\n{\"code\":\"busy\"}", "refused x\n",
		"ack 1", "leave 1", "gone 2", "gone 999", "here", "joined abc\n{}", "out 0\n{}", "out 18446744073709551615\n{}", "left", "stays",
		"end 4500", "end 4002\n{\"code\":\"out-of-sync\"}", "moved", "lost", "unknown", "again", ""} {
		f.Add([]byte("1 up b 1 1 2 0 " + part))
		f.Add([]byte("1 down a 1 1 1 0 " + part))
		f.Add([]byte("1 down a 1 1 0 1 " + part))
	}
	f.Add([]byte("1 up b 1 1 1 7 leave")) // answered twice, to one who did not ask: the lane goes on
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := bytes.Clone(b)
		fr, err := parseFrame(b)
		if err != nil {
			return
		}
		again, err := parseFrame(fr.bytes())
		if err != nil || again.link != fr.link || again.turn != fr.turn || again.number != fr.number ||
			again.confirmed != fr.confirmed || !bytes.Equal(again.part, fr.part) {
			t.Fatalf("%q is written %q, %v", b, fr.bytes(), err)
		}
		synctest.Test(t, func(t *testing.T) {
			all := newFakeNodes(t, 1, 0, "a", "b")
			defer all.stop()
			ada, bob := all.nodes["a"].hub.testPeer(t), all.nodes["b"].hub.testPeer(t)
			ada.joined("demo", session(keyA, 1, 0))
			bob.joined("demo", session(keyB, 1, 0))
			for i := range 3 { // some numbers in a row
				fr := fr
				fr.number += uint64(i)
				all.nodes["a"].hub.Frame(fr.bytes())
				all.nodes["b"].hub.Frame(fr.bytes())
			}
			if !bytes.Equal(b, kept) {
				t.Fatal("the frame was changed")
			}
			time.Sleep(time.Minute)
		})
	})
}
