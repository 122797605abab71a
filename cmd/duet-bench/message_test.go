package main

import (
	"encoding/json"
	"testing"
)

func TestMessages(t *testing.T) {
	for k, size := range map[kind]int{candidate: 200, offer: 2800, answer: 2800, bulk: 16 << 10} {
		plain := appendMessage(nil, k, 1234567890, 0)
		if len(plain) != size {
			t.Errorf("kind %d has %d bytes, want %d", k, len(plain), size)
		}
		if n := messageNumber(plain); n != 1234567890 {
			t.Errorf("kind %d: number %d", k, n)
		}
		if n := seqOf(plain); n != 0 {
			t.Errorf("kind %d without seq: %d", k, n)
		}
		if n := seqOf(appendMessage(nil, k, 7, 4711)); n != 4711 {
			t.Errorf("kind %d: seq %d", k, n)
		}
		var m struct {
			Type      string
			Seq       uint64
			SDP       string
			Candidate *struct{ Candidate string }
		}
		if err := json.Unmarshal(appendMessage(nil, k, 1, 42), &m); err != nil || m.Seq != 42 {
			t.Errorf("kind %d: %v, seq %d", k, err, m.Seq)
		}
	}
}

func TestMessageNumberAbsent(t *testing.T) {
	for _, s := range []string{"", "#", "#123456789", "#12345x7890", `{"type":"pong"}`} {
		if n := messageNumber([]byte(s)); n != 0 {
			t.Errorf("%q: %d", s, n)
		}
	}
}
