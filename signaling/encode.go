package signaling

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// What the server says (section 3), written by hand: each envelope is built once, without its
// closing brace, and shared by all the rings it goes into. The brace, and before it the seq of the
// seat, are added when a connection fetches it.

// closeEnvelope ends an envelope: seq 0 means that the seat has no session and counts nothing.
func closeEnvelope(b []byte, seq uint64) []byte {
	if seq != 0 {
		b = append(b, `,"seq":`...)
		b = strconv.AppendUint(b, seq, 10)
	}
	return append(b, '}')
}

func appendString(b []byte, name, value string) []byte {
	b = append(b, name...)
	b, _ = jsontext.AppendQuote(b, value) // value is valid UTF-8: it was decoded strictly
	return b
}

// relayEnvelope is m as the others get it: with from, which is always the server's word, and
// without to.
func relayEnvelope(m *Message, from PeerID) []byte {
	name := m.Kind.payload()
	b := make([]byte, 0, len(`{"type":"candidate","from":"","candidate":`)+len(from)+len(m.Payload))
	b = append(b, `{"type":"`...)
	b = append(b, m.Kind.String()...)
	b = append(b, `","from":"`...)
	b = append(b, from...) // base64url: nothing to escape
	b = append(b, `","`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return append(b, m.Payload...)
}

func appendPeer(b []byte, id PeerID, name string) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, id...)
	b = append(b, '"')
	if name != "" {
		b = appendString(b, `,"name":`, name)
	}
	return b // open: the caller may add a member
}

// peerEnvelope is peer-joined, peer-away or peer-back.
func peerEnvelope(event string, id PeerID, name string) []byte {
	b := append([]byte(`{"type":"`), event...)
	b = append(b, `","peer":`...)
	b = appendPeer(b, id, name)
	return append(b, '}')
}

func peerLeftEnvelope(id PeerID, reason Reason) []byte {
	b := append([]byte(`{"type":"peer-left","peer":{"id":"`), id...)
	b = append(b, `"},"reason":"`...)
	b = append(b, reason...)
	return append(b, '"')
}

func leftEnvelope(room RoomID) []byte {
	return appendString(nil, `{"type":"left","room":`, string(room))
}

func ackEnvelope(b []byte, received uint64) []byte {
	b = append(b, `{"type":"ack","received":`...)
	b = strconv.AppendUint(b, received, 10)
	return append(b, '}')
}

func errorEnvelope(r *refusal) []byte {
	b := appendString(nil, `{"type":"error","code":`, FailureOf(r.err).Code)
	b = appendString(b, `,"message":`, r.text)
	if r.kind != "" {
		b = appendString(b, `,"for":`, r.kind)
	}
	if r.seq != 0 {
		b = append(b, `,"ref":`...)
		b = strconv.AppendUint(b, r.seq, 10)
	}
	if r.retryAfter != 0 {
		b = append(b, `,"retryAfter":`...)
		b = strconv.AppendInt(b, int64(r.retryAfter), 10)
	}
	return b
}

// joinedEnvelope tells s where it sits and with whom; it is complete and never counted.
func (r *Room) joinedEnvelope(s *seat, resumed bool, iceServers []byte) []byte {
	b := make([]byte, 0, 256+len(iceServers))
	b = appendString(b, `{"type":"joined","room":`, string(r.ID))
	b = append(b, `,"id":"`...)
	b = append(b, s.id...)
	b = append(b, `","peers":[`...)
	first := true
	for _, other := range r.seats {
		if other == s {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendPeer(b, other.id, other.name)
		if other.away() && !other.quietly {
			b = append(b, `,"away":true`...)
		}
		b = append(b, '}')
	}
	b = append(b, `],"resumed":`...)
	b = strconv.AppendBool(b, resumed)
	b = append(b, `,"received":`...)
	b = strconv.AppendUint(b, s.received, 10)
	b = append(b, `,"grace":`...)
	grace := time.Duration(0)
	if s.session {
		grace = r.hub.cfg.Grace
	}
	b = strconv.AppendFloat(b, grace.Seconds(), 'f', -1, 64)
	b = append(b, `,"iceServers":`...)
	return append(appendICEServers(b, iceServers), '}')
}

// iceServersEnvelope renews what joined said.
func iceServersEnvelope(servers []byte) []byte {
	return appendICEServers([]byte(`{"type":"ice-servers","iceServers":`), servers)
}

func appendICEServers(b, servers []byte) []byte {
	if len(servers) == 0 {
		return append(b, "[]"...)
	}
	return append(b, servers...)
}
