package session

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
)

// Opcodes and the final bit (RFC 6455, section 5.2).
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xa
	final   = 0x80
)

// maxFrame bounds a frame from the server, in bytes: a message at its limit with what a relay adds.
const maxFrame = 1 << 20

// A frame is one whole frame from the server.
type frame struct {
	op      byte
	payload []byte
}

// closeCode is that of a close frame; 1005 = it has none.
func (f frame) closeCode() int {
	if len(f.payload) < 2 {
		return 1005
	}
	return int(binary.BigEndian.Uint16(f.payload))
}

// readFrame reads a frame. A connection that ends inside one gives io.ErrUnexpectedEOF: half a message
// is none.
func readFrame(r *bufio.Reader) (frame, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return frame{}, err
	}
	if head[0]&0xf0 != final || head[1]&0x80 != 0 {
		return frame{}, fmt.Errorf("a frame that begins with %x: duet sends whole, unmasked ones", head[:2])
	}
	op, size := head[0]&0xf, uint64(head[1])
	switch size {
	case 126:
		if _, err := io.ReadFull(r, head[:2]); err != nil {
			return frame{}, io.ErrUnexpectedEOF
		}
		size = uint64(binary.BigEndian.Uint16(head[:]))
	case 127:
		if _, err := io.ReadFull(r, head[:8]); err != nil {
			return frame{}, io.ErrUnexpectedEOF
		}
		size = binary.BigEndian.Uint64(head[:])
	}
	if size > maxFrame {
		return frame{}, fmt.Errorf("a frame of %d bytes", size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return frame{}, io.ErrUnexpectedEOF
	}
	return frame{op, payload}, nil
}

// appendFrame appends a masked frame, as a client sends it (RFC 6455, section 5.3).
func appendFrame(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, final|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	var key [4]byte
	binary.LittleEndian.PutUint32(key[:], rand.Uint32())
	dst = append(dst, key[:]...)
	for i, b := range payload {
		dst = append(dst, b^key[i%4])
	}
	return dst
}

// upgrade does the opening handshake (RFC 6455, section 4.1).
func upgrade(conn net.Conn, r *bufio.Reader, path string) error {
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: duet.v1\r\n\r\n",
		path, conn.RemoteAddr())
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		res.Body.Close()
		return fmt.Errorf("handshake: %s", res.Status)
	}
	return nil
}
