package httpapi

import (
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
