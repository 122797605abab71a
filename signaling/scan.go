package signaling

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

const (
	scanMembers = 16 // of one object
	scanDepth   = 4
)

// A scanner reads JSON (RFC 8259) in one pass and without a copy. It takes what browsers and people
// send, and gives up at anything else: a fault, but also what is merely rare, such as \u, a name with
// an escape, deep nesting or many members. That is left to the decoder that knows all of JSON and
// says what is wrong. Whatever the scanner takes, the decoder takes too, and sees the same.
type scanner struct {
	data  []byte
	at    int
	depth int
}

// A span is a part of a scanner's data.
type span struct{ from, to int }

type spans [scanMembers]struct{ name, value span }

// scan finds the members of the one object that data is; false = not taken.
func scan(data []byte, members *spans) (n int, ok bool) {
	s := scanner{data: data}
	s.space()
	n, ok = s.object(members)
	s.space()
	return n, ok && s.at == len(data) && utf8.Valid(data)
}

func (s *scanner) object(members *spans) (n int, ok bool) {
	if s.depth++; s.depth > scanDepth || !s.take('{') {
		return 0, false
	}
	defer func() { s.depth-- }()
	if s.space(); s.take('}') {
		return 0, true
	}
	for ; n < scanMembers; n++ {
		m := &members[n]
		s.space()
		if m.name, ok = s.text(); !ok || bytes.IndexByte(s.in(m.name), '\\') >= 0 {
			return 0, false
		}
		for i := range n {
			if bytes.Equal(s.in(members[i].name), s.in(m.name)) {
				return 0, false
			}
		}
		if s.space(); !s.take(':') {
			return 0, false
		}
		s.space()
		if m.value, ok = s.value(); !ok {
			return 0, false
		}
		if s.space(); s.take('}') {
			return n + 1, true
		}
		if !s.take(',') {
			return 0, false
		}
	}
	return 0, false
}

func (s *scanner) value() (span, bool) {
	from, ok := s.at, false
	switch s.peek() {
	case '"':
		return s.text()
	case '{':
		var members spans
		_, ok = s.object(&members)
	case '[':
		ok = s.array()
	case 't':
		ok = s.word("true")
	case 'f':
		ok = s.word("false")
	case 'n':
		ok = s.word("null")
	default:
		ok = s.number()
	}
	return span{from, s.at}, ok
}

func (s *scanner) array() bool {
	if s.depth++; s.depth > scanDepth || !s.take('[') {
		return false
	}
	defer func() { s.depth-- }()
	if s.space(); s.take(']') {
		return true
	}
	for {
		s.space()
		if _, ok := s.value(); !ok {
			return false
		}
		if s.space(); s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// text takes a string, quotes included.
func (s *scanner) text() (span, bool) {
	from := s.at
	if !s.take('"') {
		return span{}, false
	}
	for {
		for s.at+8 <= len(s.data) {
			special := specialBytes(binary.LittleEndian.Uint64(s.data[s.at:]))
			if special != 0 {
				s.at += bits.TrailingZeros64(special) / 8
				break
			}
			s.at += 8
		}
		switch c := s.peek(); {
		case c == '"':
			s.at++
			return span{from, s.at}, true
		case c == '\\':
			s.at++
			if bytes.IndexByte([]byte(`"\/bfnrt`), s.peek()) < 0 {
				return span{}, false
			}
		case c < ' ':
			return span{}, false
		}
		s.at++
	}
}

// specialBytes has the highest bit set of the first byte, counted from the lowest, that is a quote, a
// backslash or a control character; what it says of the bytes above that one means nothing.
func specialBytes(word uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, backslash := word^ones*'"', word^ones*'\\'
	return ((quote-ones)&^quote | (backslash-ones)&^backslash | (word-ones*' ')&^word) & highs
}

func (s *scanner) number() bool {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return false
	}
	if s.take('.') && !s.digits() {
		return false
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	from := s.at
	for c := s.peek(); '0' <= c && c <= '9'; c = s.peek() {
		s.at++
	}
	return s.at > from
}

func (s *scanner) word(w string) bool {
	if !bytes.HasPrefix(s.data[s.at:], []byte(w)) {
		return false
	}
	s.at += len(w)
	return true
}

func (s *scanner) space() {
	for c := s.peek(); c == ' ' || c == '\n' || c == '\r' || c == '\t'; c = s.peek() {
		s.at++
	}
}

// peek is the next byte; 0, which no JSON has, at the end.
func (s *scanner) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

func (s *scanner) in(p span) []byte { return s.data[p.from:p.to:p.to] }
