package signaling

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

type example struct{ Name, From, JSON, Want string }

// examples are the messages that the documents, the schema and the browser's tests share.
func examples(t testing.TB) []example {
	t.Helper()
	data, err := os.ReadFile("testdata/examples.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []example
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDecodeExamples(t *testing.T) {
	for _, e := range examples(t) {
		if e.From != "client" {
			continue
		}
		t.Run(e.Name, func(t *testing.T) {
			_, err := Decode([]byte(e.JSON))
			got := "ok"
			if err != nil {
				got = FailureOf(err).Code
			}
			if got != e.Want {
				t.Errorf("%.200s: %s (%v), want %s", e.JSON, got, err, e.Want)
			}
		})
	}
}

// What only a program would send: the examples hold what people write.
func TestDecodeStrictness(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, tt := range []struct {
		name, in string
		want     error
	}{
		{"depth at the bound", `{"type":"message","data":` + deep(maxDepth-1) + `}`, nil},
		{"depth beyond the bound", `{"type":"message","data":` + deep(maxDepth) + `}`, ErrBadMessage},
		{"objects beyond the bound", `{"type":"message","data":` + strings.Repeat(`{"a":`, maxDepth) + "1" + strings.Repeat("}", maxDepth) + `}`, ErrBadMessage},
		{"deep in an unknown member", `{"type":"ping","x":` + deep(maxDepth) + `}`, ErrBadMessage},
		{"brackets in a string", `{"type":"message","data":"` + strings.Repeat("[{", 100) + `"}`, nil},
		{"escaped quote before brackets", `{"type":"message","data":"\"` + strings.Repeat("[", 100) + `"}`, nil},
		{"name twice, once escaped", `{"type":"ping","t\u0079pe":"ping"}`, ErrBadMessage},
		{"name twice in the payload", `{"type":"message","data":{"a":1,"a":2}}`, ErrBadMessage},
		{"name twice in an unknown member", `{"type":"ping","x":{"a":1,"a":2}}`, ErrBadMessage},
		{"other case is another name", `{"type":"ping","Type":"join"}`, nil},
		{"lone surrogate", `{"type":"message","data":"\ud800"}`, ErrBadMessage},
		{"invalid UTF-8", "{\"type\":\"message\",\"data\":\"\xff\"}", ErrBadMessage},
		{"something behind", `{"type":"ping"}{}`, ErrBadMessage},
		{"number too big for JavaScript", `{"type":"ack","received":9007199254740992}`, ErrBadMessage},
		{"number with a fraction", `{"type":"ack","received":1.0}`, ErrBadMessage},
		{"number with an exponent", `{"type":"ack","received":1e2}`, ErrBadMessage},
		{"candidate twice in the object", `{"type":"candidate","candidate":{"candidate":"a","candidate":"b"}}`, ErrBadMessage},
		{"candidate's string is null", `{"type":"candidate","candidate":{"candidate":null}}`, ErrBadMessage},
		{"candidate with a new member", `{"type":"candidate","candidate":{"candidate":"a","x":{"y":1}}}`, nil},
		{"line index out of range", `{"type":"candidate","candidate":{"sdpMLineIndex":65536}}`, ErrBadMessage},
		{"line index with a fraction", `{"type":"candidate","candidate":{"sdpMLineIndex":0.5}}`, ErrBadMessage},
		{"no type", `{}`, ErrBadMessage},
		{"type is a number", `{"type":1}`, ErrBadMessage},
		{"type unknown", `{"type":"unknown"}`, ErrUnknownType},
		{"empty", ``, ErrBadMessage},
		{"not an object", `"join"`, ErrBadMessage},
		{"cut", `{"type":"pi`, ErrBadMessage},
		{"nul", "{\"type\":\"ping\"}\x00", ErrBadMessage},
		{"byte order mark", "\ufeff{\"type\":\"ping\"}", ErrBadMessage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode([]byte(tt.in))
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// An error never repeats what was sent: it may hold a secret.
func TestErrorsRepeatNothing(t *testing.T) {
	const secret = "SECRET"
	for _, in := range []string{
		`{"type":"join","room":"demo","session":"SECRET"}`,
		`{"type":"join","room":"demo","SECRET":1,"SECRET":2}`,
		`{"type":"offer","sdp":{"SECRET":1}}`,
		`{"type":"candidate","candidate":"SECRET"}`,
		`{"type":"message","data":"SECRET`,
		`SECRET`,
	} {
		_, bad := decode([]byte(in))
		if bad == nil || strings.Contains(string(errorEnvelope(bad)), secret) {
			t.Errorf("%s: %v", in, bad)
		}
	}
}

func TestPeerIDIsTheFingerprint(t *testing.T) {
	// printf %s 0123456789abcdefghijkl | openssl dgst -sha256 -binary | basenc --base64url | head -c 16
	if id := hashSession("0123456789abcdefghijkl").peerID(); id != "JllLosc-vBcgR_Iw" {
		t.Errorf("got %s", id)
	}
	if a, b := randomPeerID(), randomPeerID(); a == b || len(a) != peerIDLen {
		t.Errorf("got %s, %s", a, b)
	}
}

// reencode writes m as a client would have sent it.
func reencode(m *Message) []byte {
	b := append([]byte(`{"type":"`), m.Kind.String()...)
	b = append(b, '"')
	str := func(name, value string) {
		if value != "" {
			b = appendString(b, `,"`+name+`":`, value)
		}
	}
	num := func(name string, n uint64) {
		if n != 0 {
			b = append(b, `,"`+name+`":`...)
			b = append(b, jsontext.Uint(n).String()...)
		}
	}
	str("room", string(m.Room))
	str("name", m.Name)
	str("token", m.Token)
	str("session", m.Session)
	str("replaces", m.Replaces)
	str("to", string(m.To))
	str("state", m.Report.State)
	str("path", m.Report.Path)
	num("after", uint64(m.Report.After.Milliseconds()))
	num("attempt", m.Attempt)
	num("since", m.Since)
	num("seq", m.Seq)
	if m.Kind == KindAck {
		b = append(b, `,"received":`...)
		b = append(b, jsontext.Uint(m.Received).String()...)
	} else {
		num("received", m.Received)
	}
	if p := m.Kind.payload(); p != "" {
		b = append(b, `,"`+p+`":`...)
		b = append(b, m.Payload...)
	}
	return append(b, '}')
}

// FuzzDecode: never panics; what is accepted means the same when it is written again; what is
// relayed of it is valid JSON with the server's from.
func FuzzDecode(f *testing.F) {
	for _, e := range examples(f) {
		f.Add([]byte(e.JSON))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.Clone(data)
		m, err := Decode(data)
		if !bytes.Equal(in, data) {
			t.Fatal("Decode changed its input")
		}
		if err != nil {
			return
		}
		again, err := Decode(reencode(&m))
		if err != nil {
			t.Fatalf("%s was accepted, %s is not: %v", data, reencode(&m), err)
		}
		if !bytes.Equal(again.Payload, m.Payload) {
			t.Fatalf("payload changed: %s, %s", m.Payload, again.Payload)
		}
		m.Payload, again.Payload = nil, nil
		if !equalMessages(&m, &again) {
			t.Fatalf("%+v became %+v", m, again)
		}
		again, _ = Decode(data)
		if again.Kind.payload() == "" {
			return
		}
		out := closeEnvelope(relayEnvelope(&again, "me"), 7)
		var env struct {
			From string
			Seq  uint64
		}
		if !jsontext.Value(out).IsValid() {
			t.Fatalf("%s was relayed as %s", data, out)
		}
		if err := json.Unmarshal(out, &env); err != nil || env.From != "me" || env.Seq != 7 {
			t.Fatalf("%s was relayed as %s", data, out)
		}
	})
}

// FuzzScan: what the fast way takes, the decoder takes as well, and sees the same members.
func FuzzScan(f *testing.F) {
	for _, e := range examples(f) {
		f.Add([]byte(e.JSON))
	}
	for _, text := range []string{`{"a":-0.5e+7,"b":[1,0,{}],"c":[[]]}`, `{"a":01}`, `{"a":1.}`, `{"a":-}`, `{"a":1e}`, `{"a":[1,]}`, `{"a":1,}`,
		"{\"a\":\"1234567\x1f\"}", `{"a":"\"\\\/\b\f\n\r\t"}`, `{"a":"\u00e9"}`, `{"a":"ünïcödé €😀"}`, " {\t\"a\" :\r\n true } ", `{"a":nulL}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var members spans
		n, ok := scan(data, &members)
		if !ok {
			return
		}
		var fast, slow []string
		for _, m := range members[:n] {
			fast = append(fast, string(data[m.name.from:m.name.to]), string(data[m.value.from:m.value.to]))
		}
		err := decodeMembers(data, func(name, value []byte) { slow = append(slow, string(name), string(value)) })
		if err != nil || !slices.Equal(fast, slow) {
			t.Fatalf("%q: scanned %q, decoded %q, %v", data, fast, slow, err)
		}
	})
}

// What comes every day goes the fast way.
func TestScanTakesWhatIsCommon(t *testing.T) {
	var members spans
	for _, text := range []string{benchCandidate, `{"type":"join","room":"demo","session":"0123456789abcdefghijkl","attempt":1,"received":0}`,
		`{"type":"offer","seq":12,"sdp":"v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\n"}`, `{ "type": "message", "data": { "chat": "你好" } }`} {
		if _, ok := scan([]byte(text), &members); !ok {
			t.Errorf("%s goes the slow way", text)
		}
	}
}

func equalMessages(a, b *Message) bool {
	return a.Kind == b.Kind && a.To == b.To && a.Seq == b.Seq && a.Received == b.Received && a.Room == b.Room &&
		a.Name == b.Name && a.Token == b.Token && a.Session == b.Session && a.Replaces == b.Replaces && a.Attempt == b.Attempt && a.Since == b.Since && a.Report == b.Report
}

const benchCandidate = `{"type":"candidate","candidate":{"candidate":"candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 10.0.17.1 rport 50000 generation 0 ufrag EsAw network-cost 999","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":"EsAw"}}`

func BenchmarkDecode(b *testing.B) {
	sdp := strings.Repeat(`a=rtpmap:96 VP8/90000\r\n`, 120)
	for _, bb := range []struct{ name, msg string }{
		{"candidate", benchCandidate},
		{"candidate by jsontext", strings.Replace(benchCandidate, "EsAw", `Es\u0041w`, 1)}, // not for the scanner
		{"offer", `{"type":"offer","sdp":"` + sdp + `","seq":1}`},
		{"message", `{"type":"message","data":{"chat":"hello"},"to":"Qz8abcdefghijklm","seq":12}`},
		{"join", `{"type":"join","room":"demo","name":"Ada","session":"0123456789abcdefghijkl","attempt":1,"received":0}`},
		{"ack", `{"type":"ack","received":8}`},
		{"ping", `{"type":"ping"}`},
	} {
		b.Run(bb.name, func(b *testing.B) {
			data := []byte(bb.msg)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncode is what the server says, envelope by envelope.
func BenchmarkEncode(b *testing.B) {
	const id = "Qz8abcdefghijklm"
	h := newTestHub(testConfig())
	s := &seat{id: id, session: true}
	room := &Room{ID: "demo", hub: h, seats: []*seat{s, {id: id, name: "Ada"}}}
	refused := &refusal{err: ErrBusy, text: "not sent: 256 messages wait for a peer already", kind: "offer", seq: 7}
	buf := make([]byte, 0, 256)
	for _, bb := range []struct {
		name   string
		encode func()
	}{
		{"joined", func() { room.joinedEnvelope(s, true, nil) }},
		{"peer-joined", func() { peerEnvelope("peer-joined", id, "Ada") }},
		{"peer-left", func() { peerLeftEnvelope(id, ReasonLeft) }},
		{"left", func() { leftEnvelope("demo") }},
		{"error", func() { errorEnvelope(refused) }},
		{"ack", func() { ackEnvelope(buf, 12345) }},
		{"close with seq", func() { closeEnvelope(buf, 12345) }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bb.encode()
			}
		})
	}
}

func BenchmarkRelayEnvelope(b *testing.B) {
	m, err := Decode([]byte(benchCandidate))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		relayEnvelope(&m, "Qz8abcdefghijklm")
	}
}
