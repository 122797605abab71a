package signaling

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth bounds how deep the JSON of one message may nest.
const maxDepth = 64

// A Kind is the type of a client's message (section 2).
type Kind uint8

const (
	KindUnknown Kind = iota
	KindJoin
	KindOffer
	KindAnswer
	KindCandidate
	KindMessage
	KindLeave
	KindAck
	KindPing
	KindReport
	numKinds
)

var kindNames = [numKinds]string{"unknown", "join", "offer", "answer", "candidate", "message", "leave", "ack", "ping", "report"}

// String returns the type's name on the wire.
func (k Kind) String() string { return kindNames[k] }

// counted reports whether k carries a seq when the sender has a session (section 5).
func (k Kind) counted() bool { return k >= KindOffer && k <= KindLeave }

// uncounted reports whether k never carries a seq; a type nobody knows might.
func (k Kind) uncounted() bool { return k != KindUnknown && !k.counted() }

// payload is the member that a relayed message is there for; "" where k is not relayed.
func (k Kind) payload() string {
	switch k {
	case KindOffer, KindAnswer:
		return "sdp"
	case KindCandidate:
		return "candidate"
	case KindMessage:
		return "data"
	}
	return ""
}

// kindOf is the kind of the type that a JSON string names.
func kindOf(quoted []byte) Kind {
	name := plain(quoted)
	return kindNamed(name[1 : len(name)-1])
}

// kindNamed is the kind of that name.
func kindNamed(name []byte) Kind {
	for k, n := range kindNames[1:] {
		if n == string(name) {
			return Kind(k + 1)
		}
	}
	return KindUnknown
}

// A Message is one message from a client, checked.
type Message struct {
	Kind     Kind
	To       PeerID // "" = every other peer
	Seq      uint64 // 0 = none
	Received uint64 // join, ack
	// Payload is the JSON value of sdp, candidate or data, as it was sent. It aliases the input.
	Payload []byte
	// Of a join only.
	Room     RoomID
	Name     string
	Token    string
	Session  string // "" = none
	Replaces string // "" = none
	Attempt  uint64
	Since    uint64 // 0 = not said
	// Of a report only.
	Report Report
}

// A Report is what a client says of its peer connection (section 4.4): no addresses, no descriptions.
type Report struct {
	State string        // one of reportStates
	Path  string        // one of reportPaths; "" = not said
	After time.Duration // from the answer until then, at most maxReportAfter; 0 = not said
}

var (
	reportStates = []string{"connected", "disconnected", "failed"}
	reportPaths  = []string{"direct", "relay"}
)

const maxReportAfter = 10 * time.Minute

// members are the values of an envelope as they stand in it, nil where the member is absent.
type members struct {
	typ, to, seq, received, sdp, candidate, data                   []byte
	room, name, token, session, replaces, attempt, since, leftover []byte
	state, path, after                                             []byte
}

func (m *members) named(quoted []byte) *[]byte {
	switch string(plain(quoted)) {
	case `"type"`:
		return &m.typ
	case `"to"`:
		return &m.to
	case `"seq"`:
		return &m.seq
	case `"received"`:
		return &m.received
	case `"sdp"`:
		return &m.sdp
	case `"candidate"`:
		return &m.candidate
	case `"data"`:
		return &m.data
	case `"room"`:
		return &m.room
	case `"name"`:
		return &m.name
	case `"token"`:
		return &m.token
	case `"session"`:
		return &m.session
	case `"replaces"`:
		return &m.replaces
	case `"attempt"`:
		return &m.attempt
	case `"since"`:
		return &m.since
	case `"state"`:
		return &m.state
	case `"path"`:
		return &m.path
	case `"after"`:
		return &m.after
	}
	return &m.leftover // unknown members are ignored
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

type decoder struct {
	json jsontext.Decoder
	in   bytes.Buffer
}

// Decode reads one message. It is strict where leniency would let two readers see two different
// messages: member names are case-sensitive and come once, strings are valid UTF-8 without lone
// surrogates (RFC 8259 section 8, RFC 7493). Unknown members are ignored. The error says what is
// wrong and wraps ErrBadMessage or ErrUnknownType.
//
// The Message's Payload aliases data; everything else is a copy.
func Decode(data []byte) (Message, error) {
	m, err := decode(data)
	if err != nil {
		return m, err // not a typed nil
	}
	return m, nil
}

// decode returns, beside a refusal, what could be read of the message: its kind and seq.
func decode(data []byte) (Message, *refusal) {
	var v members
	if bad := split(data, &v); bad != nil {
		return Message{}, bad
	}
	var m Message
	if len(v.typ) == 0 || v.typ[0] != '"' {
		return m, badMessage("", "type must be a string: one of join, offer, answer, candidate, message, leave, ack, ping")
	}
	ok := false
	m.Kind = kindOf(v.typ)
	if m.Seq, ok = integer(v.seq); !ok || v.seq != nil && m.Seq == 0 {
		m.Seq = 0
		return m, badMessage(echo(v.typ), "seq must be a whole number from 1")
	}
	if m.Kind == KindUnknown {
		return m, &refusal{err: ErrUnknownType, kind: echo(v.typ), seq: m.Seq,
			text: "unknown type; use join, offer, answer, candidate, message, leave, ack or ping"}
	}
	if text := m.fill(&v); text != "" {
		bad := badMessage(m.Kind.String(), text)
		bad.seq = m.Seq
		return m, bad
	}
	return m, nil
}

// split takes the envelope apart.
func split(data []byte, v *members) *refusal {
	err := eachMember(data, func(name, value []byte) { *v.named(name) = value })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTooDeep):
		return badMessage("", fmt.Sprintf("JSON is nested deeper than %d levels", maxDepth))
	case errors.Is(err, errNotObject):
		return badMessage("", "a message is one JSON object a text message, such as "+`{"type":"join","room":"demo"}`)
	case errors.Is(err, errTrailing):
		return badMessage("", "one JSON object a message: there is something after the closing brace")
	case errors.Is(err, jsontext.ErrDuplicateName):
		return badMessage("", "a member name is given twice")
	}
	return badMessage("", "not valid JSON, or not valid UTF-8 in it") // and nothing of it: it may hold a secret
}

var (
	errTooDeep   = errors.New("nested too deep")
	errNotObject = errors.New("not an object")
	errTrailing  = errors.New("something after the object")
)

// eachMember calls f with the quoted name and the value of each member of the one object that data
// is. Both alias data.
func eachMember(data []byte, f func(name, value []byte)) error {
	var members spans
	if n, ok := scan(data, &members); ok {
		for _, m := range members[:n] {
			f(data[m.name.from:m.name.to], data[m.value.from:m.value.to:m.value.to])
		}
		return nil
	}
	return decodeMembers(data, f)
}

// decodeMembers is eachMember for all of JSON. When it returns an error, f may have been called.
func decodeMembers(data []byte, f func(name, value []byte)) error {
	if tooDeep(data) {
		return errTooDeep
	}
	d := decoders.Get().(*decoder)
	defer func() {
		d.in = bytes.Buffer{}
		decoders.Put(d)
	}()
	d.in = *bytes.NewBuffer(data)
	d.json.Reset(&d.in)
	if d.json.PeekKind() != '{' {
		return errNotObject
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	for d.json.PeekKind() != '}' {
		name, err := d.next(data)
		if err != nil {
			return err
		}
		value, err := d.next(data)
		if err != nil {
			return err
		}
		f(name, value)
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	if _, err := d.json.ReadToken(); err != io.EOF {
		return errTrailing
	}
	return nil
}

// next is the next name or value, as it stands in data.
func (d *decoder) next(data []byte) ([]byte, error) {
	value, err := d.json.ReadValue()
	if err != nil {
		return nil, err
	}
	end := int(d.json.InputOffset())
	return data[end-len(value) : end : end], nil
}

// fill checks and takes over the members that m's kind has. It returns what is wrong, or "".
func (m *Message) fill(v *members) string {
	switch m.Kind {
	case KindJoin:
		return m.fillJoin(v)
	case KindAck:
		var ok bool
		if m.Received, ok = integer(v.received); !ok || v.received == nil {
			return "ack needs received: the seq of the last message that was handled"
		}
	case KindReport:
		return m.fillReport(v)
	case KindOffer, KindAnswer:
		if len(v.sdp) <= len(`""`) || v.sdp[0] != '"' {
			return m.Kind.String() + ` needs sdp: the description's text, as in JSON.stringify(pc.localDescription)`
		}
		m.Payload = v.sdp
	case KindCandidate:
		if !validCandidate(v.candidate) {
			return "candidate needs candidate: an RTCIceCandidateInit object, or null for the end of candidates"
		}
		m.Payload = v.candidate
	case KindMessage:
		if v.data == nil {
			return "message needs data: any JSON value"
		}
		m.Payload = v.data
	}
	if m.Payload != nil && v.to != nil {
		to, ok := unquote(v.to)
		if !ok || to == "" || utf8.RuneCountInString(to) > maxPeerIDLen {
			return "to must be a peer's id; leave it out to speak to everybody"
		}
		m.To = PeerID(to)
	}
	return ""
}

func (m *Message) fillJoin(v *members) string {
	room, ok := unquote(v.room)
	if !ok || CheckRoom(room) != nil {
		return errRoom.Error()
	}
	m.Room = RoomID(room)
	if m.Name, ok = optional(v.name); !ok || CheckName(m.Name) != nil {
		return errName.Error()
	}
	if m.Token, ok = optional(v.token); !ok || utf8.RuneCountInString(m.Token) > MaxTokenLen {
		return fmt.Sprintf("token must be a string of at most %d characters", MaxTokenLen)
	}
	const key = "%s must be %d to %d characters of base64url (at least 16 random bytes)"
	if m.Session, ok = optional(v.session); !ok || v.session != nil && !validSession(m.Session) {
		return fmt.Sprintf(key, "session", minSessionLen, maxSessionLen)
	}
	if m.Replaces, ok = optional(v.replaces); !ok || v.replaces != nil && !validSession(m.Replaces) {
		return fmt.Sprintf(key, "replaces", minSessionLen, maxSessionLen)
	}
	if m.Replaces != "" && m.Replaces == m.Session {
		return "replaces must be the key of an earlier page load, not this session's own"
	}
	if m.Attempt, ok = integer(v.attempt); !ok {
		return "attempt must be a whole number, higher with each reconnect"
	}
	if m.Since, ok = integer(v.since); !ok || v.since != nil && m.Since == 0 {
		return "since must be a whole number from 1: the attempt that got you the seat for which you count"
	}
	if m.Received, ok = integer(v.received); !ok {
		return "received must be a whole number: the seq of the last message that was handled"
	}
	return ""
}

func (m *Message) fillReport(v *members) string {
	var ok bool
	if m.Report.State, ok = unquote(v.state); !ok || !slices.Contains(reportStates, m.Report.State) {
		return "report needs state: connected, disconnected or failed"
	}
	if m.Report.Path, ok = optional(v.path); !ok || v.path != nil && !slices.Contains(reportPaths, m.Report.Path) {
		return "path must be direct or relay"
	}
	after, ok := integer(v.after)
	if !ok || after > uint64(maxReportAfter.Milliseconds()) {
		return fmt.Sprintf("after must be whole milliseconds, at most %d", maxReportAfter.Milliseconds())
	}
	m.Report.After = time.Duration(after) * time.Millisecond
	return ""
}

// validCandidate checks an RTCIceCandidateInit (WebRTC 1.0 section 4.8.1.1), or null. Members that it
// does not name pass through to the peer.
func validCandidate(raw []byte) bool {
	if string(raw) == "null" {
		return true
	}
	ok := true
	err := eachMember(raw, func(name, value []byte) {
		null := string(value) == "null"
		switch string(plain(name)) {
		case `"candidate"`:
			ok = ok && value[0] == '"'
		case `"sdpMid"`, `"usernameFragment"`:
			ok = ok && (null || value[0] == '"')
		case `"sdpMLineIndex"`:
			n, whole := integer(value)
			ok = ok && (null || whole && n <= math.MaxUint16)
		}
	})
	return ok && err == nil
}

func badMessage(kind, text string) *refusal {
	return &refusal{err: ErrBadMessage, kind: kind, text: text}
}

// echo returns the type that a JSON string names for an error message: only if it is one to be shown.
func echo(quoted []byte) string {
	name, ok := unquote(quoted)
	if !ok || len(name) > 32 || CheckName(name) != nil {
		return ""
	}
	return name
}

// tooDeep counts brackets outside strings. Broken JSON is left to the decoder.
func tooDeep(data []byte) bool {
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

func unquote(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), true
	}
	plain, err := jsontext.AppendUnquote(nil, raw)
	return string(plain), err == nil
}

// plain returns a quoted member name without escapes.
func plain(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted
	}
	name, _ := jsontext.AppendUnquote([]byte{'"'}, quoted)
	return append(name, '"')
}

func optional(raw []byte) (string, bool) {
	if raw == nil {
		return "", true
	}
	return unquote(raw)
}

// integer reads a whole number from 0 to 2^53-1, written without fraction or exponent; 0 if absent.
func integer(raw []byte) (uint64, bool) {
	if raw == nil {
		return 0, true
	}
	n, err := strconv.ParseUint(string(raw), 10, 64)
	return n, err == nil && n <= maxSafeInteger
}
