package main

import (
	"fmt"
	"strings"
	"testing"
)

// said returns what c has queued, unmasked, one message a line.
func said(t *testing.T, c *conn) string {
	t.Helper()
	var lines []string
	for b := c.out; len(b) > 0; {
		head := 6
		if b[1]&0x7f == 126 {
			head = 8
		}
		size := int(b[1] & 0x7f)
		if head == 8 {
			size = int(b[2])<<8 | int(b[3])
		}
		payload := b[head : head+size]
		mask(payload)
		lines = append(lines, string(payload))
		b = b[head+size:]
	}
	c.out = nil
	return strings.Join(lines, "\n")
}

// A session counts what it sends, checks what it gets, and acknowledges each eighth.
func TestSession(t *testing.T) {
	s := &swarm{d: duet{path: "/ws", session: true}, run: "run"}
	c, _ := s.pair()
	s.d.opened(c)
	if got, want := said(t, c), `{"type":"join","room":"bench-run-0","session":"run-00000000-bench-session","attempt":1}`; got != want {
		t.Errorf("join: %s, want %s", got, want)
	}
	c.send(candidate)
	c.send(candidate)
	s.d.leave(c)
	if got := said(t, c); !strings.Contains(got, `"seq":1,`) || !strings.Contains(got, `"seq":2,`) || !strings.HasSuffix(got, `{"type":"leave","seq":3}`) {
		t.Errorf("not counted: %s", got)
	}
	for seq := 1; seq <= 2*ackEvery+1; seq++ {
		e, err := s.d.read(c, fmt.Appendf(nil, `{"type":"candidate","from":"x","seq":%d,"candidate":{"candidate":"#%010d"}}`, seq, seq))
		if err != nil || e.kind != relayed || e.n != uint64(seq) {
			t.Fatalf("message %d: %+v, %v", seq, e, err)
		}
	}
	if got, want := said(t, c), `{"type":"ack","received":8}`+"\n"+`{"type":"ack","received":16}`; got != want {
		t.Errorf("acks: %s, want %s", got, want)
	}
	if _, err := s.d.read(c, []byte(`{"type":"peer-left","peer":{"id":"x"},"reason":"left","seq":19}`)); err == nil {
		t.Error("a gap in seq was not noticed")
	}
}

// After a restart a session joins with what it knows, and both sides count from 1 again.
func TestSessionComesBack(t *testing.T) {
	s := &swarm{d: duet{path: "/ws", session: true}, run: "run"}
	c, _ := s.pair()
	read := func(text string) error {
		e, err := s.d.read(c, []byte(text))
		if err == nil {
			err = s.happened(c, e)
		}
		return err
	}
	s.d.opened(c)
	for _, text := range []string{`{"type":"joined","id":"anna","resumed":false}`, `{"type":"peer-joined","peer":{"id":"x"},"seq":1}`} {
		if err := read(text); err != nil {
			t.Fatal(err)
		}
	}
	c.send(candidate)
	c.renew()
	s.d.opened(c)
	if got, want := said(t, c), `{"type":"join","room":"bench-run-0","session":"run-00000000-bench-session","attempt":2,"since":1,"received":1}`; got != want {
		t.Errorf("came back with %s, want %s", got, want)
	}
	if err := read(`{"type":"joined","id":"anna","resumed":false}`); err != nil || c.seqIn != 0 || c.seqOut != 0 || c.since != 2 {
		t.Errorf("after the restart: seq in %d, out %d, since %d, %v", c.seqIn, c.seqOut, c.since, err)
	}
	for text, why := range map[string]string{
		`{"type":"joined","id":"bob","resumed":false}`: "another id",
		`{"type":"joined","id":"anna","resumed":true}`: "a seat that cannot be there",
	} {
		if err := read(text); err == nil {
			t.Errorf("%s was not noticed", why)
		}
	}
}

func TestPlainDuet(t *testing.T) {
	s := &swarm{d: duet{path: "/ws"}, run: "run"}
	c, _ := s.pair()
	c.send(candidate)
	s.d.leave(c)
	if got := said(t, c); strings.Contains(got, "seq") {
		t.Errorf("seq without a session: %s", got)
	}
	for text, want := range map[string]event{
		`{"type":"joined","room":"r","id":"x","peers":[]}`:               {kind: joined},
		`{"type":"left","room":"r"}`:                                     {kind: left},
		`{"type":"peer-joined","peer":{"id":"x"}}`:                       {},
		`{"type":"error","code":"busy","message":"wait"}`:                {kind: refused, code: "busy: wait"},
		`{"type":"candidate","candidate":{"candidate":"a #0000000003"}}`: {kind: relayed, n: 3},
	} {
		if e, err := s.d.read(c, []byte(text)); err != nil || e != want {
			t.Errorf("%s: %+v, %v, want %+v", text, e, err, want)
		}
	}
}

func TestSocketIO(t *testing.T) {
	s := &swarm{d: socketIO{}, run: "run"}
	c, _ := s.pair()
	for _, step := range []struct {
		in, out string
		want    event
	}{
		{`0{"sid":"x","upgrades":[],"pingInterval":25000}`, `40`, event{}},
		{`40{"sid":"y"}`, `42["create or join","bench-run-0"]`, event{}},
		{`42["created","bench-run-0","y"]`, ``, event{kind: joined}},
		{`42["join","bench-run-0"]`, ``, event{}},
		{`2`, `3`, event{}},
		{`42["message",{"candidate":{"candidate":"a #0000000009"}}]`, ``, event{kind: relayed, n: 9}},
		{`42["leaved","bench-run-0","y"]`, ``, event{kind: left}},
	} {
		e, err := s.d.read(c, []byte(step.in))
		if got := said(t, c); err != nil || e != step.want || got != step.out {
			t.Errorf("%s: %+v, %v, said %q, want %+v and %q", step.in, e, err, got, step.want, step.out)
		}
	}
	if s.pings != 1 {
		t.Errorf("%d pings, want 1", s.pings)
	}
}
