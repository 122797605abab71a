package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Opcodes of RFC 6455 §5.2 that a signaling server uses.
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
)

// maxFrame bounds a frame from the server, in bytes. Nothing measured here comes near it.
const maxFrame = 1 << 20

// maskKey is the same in each frame: drawing one costs time, and nothing on a measured path can be
// attacked through a known key. It has no zero byte, so the server cannot skip unmasking.
var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// appendFrame appends a whole masked frame, as a client sends it (RFC 6455 §5.2 and §5.3).
func appendFrame(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = append(dst, 0x80|126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, 0x80|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	dst = append(dst, maskKey[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	mask(dst[start:])
	return dst
}

// mask applies maskKey to b in place, eight bytes at a time.
func mask(b []byte) {
	k := uint64(binary.LittleEndian.Uint32(maskKey[:]))
	k |= k << 32
	i := 0
	for ; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], binary.LittleEndian.Uint64(b[i:])^k)
	}
	for ; i < len(b); i++ {
		b[i] ^= maskKey[i&3]
	}
}

// A frame is one whole, unmasked frame from a server. payload points into the buffer it was read from.
type frame struct {
	op      byte
	payload []byte
}

var errFragment = errors.New("the server sent a fragmented message; duet-bench reads whole ones only")

// readFrame takes the first frame off b and returns how many bytes it takes up; 0 where b holds
// only a part of one.
func readFrame(b []byte) (frame, int, error) {
	if len(b) < 2 {
		return frame{}, 0, nil
	}
	if b[0]&0x80 == 0 {
		return frame{}, 0, errFragment
	}
	if b[0]&0x70 != 0 || b[1]&0x80 != 0 {
		return frame{}, 0, fmt.Errorf("bad frame header %#x from the server (RFC 6455 §5.2)", b[:2])
	}
	size, head := uint64(b[1]), 2
	switch {
	case size == 126:
		head = 4
	case size == 127:
		head = 10
	}
	if len(b) < head {
		return frame{}, 0, nil
	}
	switch head {
	case 4:
		size = uint64(binary.BigEndian.Uint16(b[2:]))
	case 10:
		size = binary.BigEndian.Uint64(b[2:])
	}
	if size > maxFrame {
		return frame{}, 0, fmt.Errorf("a frame of %d bytes from the server; duet-bench reads up to %d", size, maxFrame)
	}
	end := head + int(size)
	if len(b) < end {
		return frame{}, 0, nil
	}
	return frame{op: b[0] & 0x0f, payload: b[head:end]}, end, nil
}
