package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// A Raw is a WebSocket that says what it is told and knows nothing of the protocol: for clients that
// misbehave.
type Raw struct {
	net.Conn
	in *bufio.Reader
}

// rawPatience bounds every read and write of a Raw.
const rawPatience = 20 * time.Second

// DialRaw connects to addr, host:port, and does the handshake.
func DialRaw(ctx context.Context, addr, path string) (*Raw, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	r := &Raw{Conn: conn, in: bufio.NewReader(conn)}
	conn.SetDeadline(time.Now().Add(rawPatience))
	if err := upgrade(conn, r.in, path); err != nil {
		conn.Close()
		return nil, err
	}
	return r, nil
}

// Say sends one text message.
func (r *Raw) Say(text string) error {
	r.SetWriteDeadline(time.Now().Add(rawPatience))
	_, err := r.Write(appendFrame(nil, opText, []byte(text)))
	return err
}

// WantClose reads until the server closes the connection, which must be with code.
func (r *Raw) WantClose(code int) error {
	r.SetReadDeadline(time.Now().Add(rawPatience))
	for {
		f, err := readFrame(r.in)
		switch {
		case err != nil:
			return fmt.Errorf("want close %d: %w", code, err)
		case f.op == opClose && f.closeCode() != code:
			return fmt.Errorf("closed with %d %q, want %d", f.closeCode(), f.payload[min(2, len(f.payload)):], code)
		case f.op == opClose:
			_, err := r.Write(appendFrame(nil, opClose, f.payload))
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		}
	}
}
