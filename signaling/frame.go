package signaling

import (
	"bytes"
	"errors"
	"strconv"

	"github.com/go-json-experiment/json"
)

// What nodes say to each other: a line of words, then a body. The first word is the version; a node
// that does not know it leaves the frame alone.
//
//	1 up   <edge> <link> <turn> <number> <confirmed> <part>    from a connection's node to its room's
//	1 down <edge> <link> <turn> <number> <confirmed> <part>    and back
//
// edge and link name the connection, turn its attachment to the room: the higher one is in force. A
// frame with number 0 is not repeated when it is lost. Parts of the way up:
//
//	relay <kind> <seq> <to> <at>\n<envelope>    - for to: everybody
//	refused <kind>\n<refusal>
//	ack <received>       by the client; without a session by its node, for what its connection has fetched
//	leave <seq>
//	gone <ending>
//	here                 is there still anybody?
//
// and of the way down:
//
//	joined <peer>\n<envelope>
//	out <number in the ring, 0 = none>\n<envelope>
//	left, stays          what became of leave
//	end <close code>\n<refusal, or nothing>
//	moved                the room is on another node now
//	lost                 this node took yours for lost
//	here                 as above
//
// and unnumbered, both ways:
//
//	again                there is a gap
//	unknown              no such link here, or no longer

const frameVersion = "1"

// Parts without words of their own.
var (
	partAgain   = []byte("again")
	partHere    = []byte("here")
	partUnknown = []byte("unknown")
)

// A linkID names a connection whose room is on another node.
type linkID struct {
	edge   NodeID
	number uint64 // counts the edge's links
}

// A frame is one of a hop's.
type frame struct {
	up        bool
	link      linkID
	turn      uint64
	number    uint64 // 0 = not a numbered part
	confirmed uint64
	part      []byte
}

func (f *frame) bytes() []byte {
	b := make([]byte, 0, 64+len(f.link.edge)+len(f.part))
	b = append(b, frameVersion...)
	if f.up {
		b = append(b, " up "...)
	} else {
		b = append(b, " down "...)
	}
	b = append(b, f.link.edge...)
	for _, n := range [...]uint64{f.link.number, f.turn, f.number, f.confirmed} {
		b = append(b, ' ')
		b = strconv.AppendUint(b, n, 10)
	}
	b = append(b, ' ')
	return append(b, f.part...)
}

var errFrame = errors.New("not a frame of a version known here")

// parseFrame reads a frame, whose part aliases b.
func parseFrame(b []byte) (f frame, _ error) {
	version, b := word(b)
	way, b := word(b)
	edge, b := word(b)
	if string(version) != frameVersion || len(edge) == 0 || string(way) != "up" && string(way) != "down" {
		return f, errFrame
	}
	f.up, f.link.edge = string(way) == "up", NodeID(edge)
	for _, n := range [...]*uint64{&f.link.number, &f.turn, &f.number, &f.confirmed} {
		var ok bool
		if *n, b, ok = number(b); !ok {
			return f, errFrame
		}
	}
	f.part = b
	return f, nil
}

// word takes the first word off b.
func word(b []byte) (first, rest []byte) {
	i := bytes.IndexAny(b, " \n")
	if i < 0 {
		return b, nil
	}
	return b[:i], b[i+1:]
}

// number takes the first word off b, which is a number.
func number(b []byte) (n uint64, rest []byte, ok bool) {
	first, rest := word(b)
	n, err := strconv.ParseUint(string(first), 10, 64)
	return n, rest, err == nil
}

// partOf makes a part of words and a body.
func partOf(head []byte, body []byte) []byte {
	head = append(head, '\n')
	return append(head, body...)
}

// ---- refusals and causes

// A sentRefusal is a refusal on its way between nodes.
type sentRefusal struct {
	Code       string `json:"code"`
	Text       string `json:"text"`
	Kind       string `json:"kind,omitzero"`
	Seq        uint64 `json:"seq,omitzero"`
	RetryAfter int    `json:"retryAfter,omitzero"`
}

func (r *refusal) sent() *sentRefusal {
	return &sentRefusal{FailureOf(r.err).Code, r.text, r.kind, r.seq, r.retryAfter}
}

func (s *sentRefusal) refusal() *refusal {
	for _, f := range Failures {
		if f.Code == s.Code && s.Code != "" {
			return &refusal{err: f.Err, text: s.Text, kind: s.Kind, seq: s.Seq, retryAfter: s.RetryAfter}
		}
	}
	return &refusal{err: ErrRestart, text: s.Text} // one that only a newer node knows, or the server's own trouble
}

// causePart is End's argument as a part.
func causePart(cause error) []byte {
	head := strconv.AppendInt([]byte("end "), int64(FailureOf(cause).Close), 10)
	why, ok := cause.(*refusal)
	if !ok {
		return head
	}
	body, err := json.Marshal(why.sent())
	if err != nil {
		return head
	}
	return partOf(head, body)
}

// causeOf reads the rest of a causePart.
func causeOf(b []byte) error {
	code, body, _ := number(b)
	if len(body) > 0 {
		var why sentRefusal
		if json.Unmarshal(body, &why) == nil {
			return why.refusal()
		}
	}
	for _, f := range Failures {
		if f.Close != 0 && uint64(f.Close) == code {
			return f.Err
		}
	}
	return ErrRestart
}
