package relay

import (
	"crypto/tls"
	"errors"
	"net"
)

// tlsHandshake is the first byte of a TLS connection (RFC 8446, section 5.1). A STUN message begins with
// 0 to 3, ChannelData with 64 to 79 (RFC 7983, section 7): so TLS can share the port of plain TCP.
const tlsHandshake = 22

var errNotTLS = errors.New("not a TLS handshake")

// A tlsListener accepts connections that may be TLS. The handshake is left to the first Read: Accept
// waits for no client.
type tlsListener struct {
	net.Listener
	config  *tls.Config
	only    bool // plain connections are refused
	refused func(why string)
}

// Accept implements net.Listener.
func (l tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tlsOrPlain{Conn: c, listener: l}, nil
}

// A tlsOrPlain is a connection of which the first Read decides what it speaks. Nothing may be written
// before: a server of TURN has nothing to say then.
type tlsOrPlain struct {
	net.Conn // TCP at first; then that with its first byte again, or TLS
	listener tlsListener
	decided  bool // the reader's
}

// Read implements net.Conn. Its first call takes as long as the handshake, which the read deadline of the
// connection bounds.
func (c *tlsOrPlain) Read(b []byte) (int, error) {
	if !c.decided {
		if err := c.decide(); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

func (c *tlsOrPlain) decide() error {
	var first [1]byte
	if _, err := c.Conn.Read(first[:]); err != nil {
		return err
	}
	c.decided = true
	c.Conn = &unread{Conn: c.Conn, bytes: first[:]}
	switch {
	case first[0] == tlsHandshake:
		secure := tls.Server(c.Conn, c.listener.config)
		if err := secure.Handshake(); err != nil {
			c.listener.refused(whyTLS)
			return err
		}
		c.Conn = secure
	case c.listener.only:
		c.listener.refused(whyTLS)
		return errNotTLS
	}
	return nil
}

// An unread connection has bytes once more that were read already.
type unread struct {
	net.Conn
	bytes []byte
}

// Read implements net.Conn.
func (c *unread) Read(b []byte) (int, error) {
	if len(c.bytes) > 0 {
		n := copy(b, c.bytes)
		c.bytes = c.bytes[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}
