package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// A kind is one sort of relayed message. Its JSON is that of the duet protocol, section 2, in every
// system measured, so that all of them move the same bytes.
type kind int

const (
	candidate kind = iota // 200 bytes
	offer                 // 2.8 KB
	answer                // 2.8 KB
	bulk                  // 16 KB: fills the buffers before a reader that stopped
)

// A skeleton is a message with two gaps: one for `seq` behind its type, one for its number.
type skeleton struct{ head, body, tail []byte }

var skeletons = [...]skeleton{
	candidate: makeSkeleton("candidate", 200, `,"candidate":{"candidate":"candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 0.0.0.0 rport 0 ufrag EsAw`, `","sdpMid":"0"}}`, "x"),
	offer:     makeSkeleton("offer", 2800, `,"sdp":"v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n`, `\r\n"}`, `a=rtcp-fb:96 nack pli\r\n`),
	answer:    makeSkeleton("answer", 2800, `,"sdp":"v=0\r\no=- 4611731400430051337 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n`, `\r\n"}`, `a=rtcp-fb:96 nack pli\r\n`),
	bulk:      makeSkeleton("message", 16<<10, `,"data":"`, `"}`, "x"),
}

// numberMark comes before a message's number. Nothing else on the wire holds it.
const numberMark = '#'

// numberDigits is the fixed width of that number.
const numberDigits = 10

// makeSkeleton fills a message up with padding, whole pieces of it and then `x`, until it has size
// bytes without a `seq`.
func makeSkeleton(typ string, size int, body, tail, padding string) skeleton {
	head := `{"type":"` + typ + `"`
	missing := size - len(head) - len(body) - len(tail) - len(" #") - numberDigits
	if missing < 0 {
		panic(fmt.Sprintf("the %s skeleton is %d bytes too long", typ, -missing))
	}
	body += strings.Repeat(padding, missing/len(padding)) + strings.Repeat("x", missing%len(padding)) + " " + string(numberMark)
	return skeleton{[]byte(head), []byte(body), []byte(tail)}
}

// appendMessage appends message number n. seq is left out where it is 0.
func appendMessage(dst []byte, k kind, n, seq uint64) []byte {
	t := &skeletons[k]
	dst = append(dst, t.head...)
	if seq > 0 {
		dst = append(dst, `,"seq":`...)
		dst = strconv.AppendUint(dst, seq, 10)
	}
	dst = append(dst, t.body...)
	for unit := uint64(1e9); unit > 0; unit /= 10 {
		dst = append(dst, '0'+byte(n/unit%10))
	}
	return append(dst, t.tail...)
}

// messageNumber finds the number that appendMessage wrote, however the server wrapped the message;
// 0 where there is none.
func messageNumber(p []byte) uint64 {
	i := bytes.IndexByte(p, numberMark) + 1
	if i == 0 || len(p) < i+numberDigits {
		return 0
	}
	var n uint64
	for _, d := range p[i : i+numberDigits] {
		if d < '0' || d > '9' {
			return 0
		}
		n = n*10 + uint64(d-'0')
	}
	return n
}

var seqMember = []byte(`"seq":`)

// seqOf reads the first `seq` in a server's message; 0 where there is none.
func seqOf(p []byte) uint64 {
	i := bytes.Index(p, seqMember)
	if i < 0 {
		return 0
	}
	var n uint64
	for _, d := range bytes.TrimLeft(p[i+len(seqMember):], " ") {
		if d < '0' || d > '9' {
			break
		}
		n = n*10 + uint64(d-'0')
	}
	return n
}
