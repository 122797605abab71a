package httpapi

import (
	"bufio"
	"encoding/binary"
	"time"
)

// A framing follows the frames in what arrives (RFC 6455, section 5.2): the library does not say when
// one begins. What is wrong with them is left to the library.
type framing struct {
	header    [14]byte
	have      int       // bytes of header; 0 = between two frames
	left      uint64    // bytes of the payload still to come, once the header is complete
	messageAt time.Time // the first byte of a message that is not complete; zero = there is none
	controlAt time.Time // the same of a control frame, which may stand inside a message
	size      int       // bytes since a message began, with all headers and control frames
}

// follow books bytes that arrived at now.
func (f *framing) follow(p []byte, now time.Time) {
	for len(p) > 0 {
		n := 1
		if f.have > 0 && f.have == f.headerSize() {
			n = int(min(f.left, uint64(len(p))))
			f.left -= uint64(n)
		} else {
			f.addToHeader(p[0], now)
		}
		f.size += n
		p = p[n:]
		if f.have == f.headerSize() && f.left == 0 {
			f.frameEnded()
		}
	}
}

func (f *framing) addToHeader(b byte, now time.Time) {
	f.header[f.have] = b
	f.have++
	if f.have == 1 {
		if f.control() {
			f.controlAt = now
		} else if f.messageAt.IsZero() {
			f.messageAt = now
		}
	}
	if f.have == f.headerSize() {
		f.left = f.payloadSize()
	}
}

func (f *framing) frameEnded() {
	const fin = 0x80
	if f.control() {
		f.controlAt = time.Time{}
	} else if f.header[0]&fin != 0 {
		f.messageAt = time.Time{}
	}
	if f.messageAt.IsZero() {
		f.size = 0
	}
	f.have = 0
}

func (f *framing) control() bool { return f.header[0]&0x8 != 0 }

// headerSize is the header's length as far as its first two bytes are known.
func (f *framing) headerSize() int {
	size := 2
	if f.have < size {
		return size
	}
	if f.header[1]&0x80 != 0 {
		size += 4
	}
	switch f.header[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	return size
}

func (f *framing) payloadSize() uint64 {
	switch n := f.header[1] & 0x7f; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(f.header[2:]))
	case 127:
		return binary.BigEndian.Uint64(f.header[2:])
	default:
		return uint64(n)
	}
}

// The frames that are written here (RFC 6455, section 5.2): whole, and not masked.
const (
	finText     = "\x81"
	closeOpcode = 0x8
	// An empty ping. Any byte that comes back answers it.
	emptyPing = "\x89\x00"
)

// appendFrame appends a text message in one frame.
func appendFrame(buf, message []byte) []byte {
	buf = append(buf, finText...)
	switch n := len(message); {
	case n < 126:
		buf = append(buf, byte(n))
	case n <= 0xffff:
		buf = binary.BigEndian.AppendUint16(append(buf, 126), uint16(n))
	default:
		buf = binary.BigEndian.AppendUint64(append(buf, 127), uint64(n))
	}
	return append(buf, message...)
}

// wholeText looks whether r holds a whole text message of at most limit bytes in one masked frame. It
// returns that frame's length and the message, without the mask, in r's buffer: the caller discards it
// there. Most messages are like that. Any other, and what is wrong, is for the library, which does more
// for each: frame is 0 and r as it was.
func wholeText(r *bufio.Reader, limit int) (frame int, data []byte) {
	const masked = 0x80
	b, _ := r.Peek(r.Buffered())
	if len(b) < 6 || b[0] != finText[0] || b[1]&masked == 0 {
		return 0, nil
	}
	header, size := 6, int(b[1]&^masked)
	switch {
	case size == 127, size == 126 && len(b) < 8:
		return 0, nil
	case size == 126:
		header, size = 8, int(binary.BigEndian.Uint16(b[2:]))
	}
	if size > limit || len(b) < header+size {
		return 0, nil
	}
	data = b[header : header+size]
	unmask(data, binary.LittleEndian.Uint32(b[header-4:]))
	return header + size, data
}

// unmask takes the mask off a payload (RFC 6455, section 5.3). key has its first byte lowest.
func unmask(p []byte, key uint32) {
	k := uint64(key)<<32 | uint64(key)
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k)
	}
	for i := range p {
		p[i] ^= byte(k)
		k >>= 8
	}
}
