package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
)

// What comes from clients is looked over before pion sees it. pion/turn v4.1.4 and pion/stun v3.0.1
// would panic on an XOR-PEER-ADDRESS without a value, spin for ever on a TCP frame whose length
// overflows 16 bits, and keep state for each Allocate that asks for an even port.

const (
	maxFrame   = 1599 // bytes; pion drops longer ones (its InboundMTU is 1600)
	stunHeader = 20
	attrHeader = 4
	channel    = 4 // bytes of the header of ChannelData

	magicCookie = 0x2112A442

	methodAllocate       = 0x0003 // request
	attrXORPeerAddress   = 0x0012
	attrEvenPort         = 0x0018
	attrReservationToken = 0x0022
)

// sane reports whether b is a STUN message or ChannelData that pion may see.
func sane(b []byte) bool {
	if len(b) >= channel && b[0]&0xC0 == 0x40 {
		return true // whether it is whole, pion checks
	}
	if len(b) < stunHeader || b[0]&0xC0 != 0 || binary.BigEndian.Uint32(b[4:]) != magicCookie ||
		int(binary.BigEndian.Uint16(b[2:])) != len(b)-stunHeader {
		return false
	}
	allocate := binary.BigEndian.Uint16(b) == methodAllocate
	for rest := b[stunHeader:]; len(rest) > 0; {
		if len(rest) < attrHeader {
			return false
		}
		kind, size := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		if size > len(rest)-attrHeader {
			return false
		}
		switch kind {
		case attrXORPeerAddress:
			if size != 8 && size != 20 { // IPv4, IPv6
				return false
			}
		case attrEvenPort, attrReservationToken:
			if allocate {
				return false
			}
		}
		rest = rest[min(attrHeader+(size+3)&^3, len(rest)):]
	}
	return true
}

// A packetConn is the UDP socket that clients send to.
type packetConn struct {
	*net.UDPConn
	refused func(why string)
	handled func(src netip.AddrPort) // called when src's message has been
	last    netip.AddrPort           // who sent the one that pion has; its only reader's
}

// ReadFrom implements net.PacketConn.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.handled(c.last)
	for {
		n, from, err := c.UDPConn.ReadFrom(b)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return 0, nil, err
			}
			continue // of one datagram only; pion gives up on an error
		}
		if sane(b[:n]) {
			c.last = addrPortOf(from)
			return n, from, nil
		}
		c.refused(whyMalformed)
	}
}

var errFrame = errors.New("neither a STUN message nor ChannelData")

// A framed connection gives pion one whole message with each Read. (Pion keeps one of fewer than 9 bytes,
// which is ChannelData with at most 4, until the next has come; nothing in WebRTC is that short.)
type framed struct {
	net.Conn
	in      *bufio.Reader
	refused func(why string)
	handled func(src netip.AddrPort)
}

func newFramed(c net.Conn, refused func(why string), handled func(src netip.AddrPort)) *framed {
	return &framed{Conn: c, in: bufio.NewReaderSize(c, maxFrame+1), refused: refused, handled: handled}
}

// Read implements net.Conn. b has room for maxFrame bytes. What cannot be told apart any more ends the
// connection; a message that is whole and makes no sense is left out.
func (f *framed) Read(b []byte) (int, error) {
	f.handled(addrPortOf(f.RemoteAddr()))
	for {
		head, err := f.in.Peek(channel)
		if err != nil {
			return 0, err
		}
		size := int(binary.BigEndian.Uint16(head[2:]))
		switch head[0] & 0xC0 {
		case 0x00:
			if head, err = f.in.Peek(stunHeader); err != nil {
				return 0, err
			}
			if binary.BigEndian.Uint32(head[4:]) != magicCookie {
				f.refused(whyMalformed)
				return 0, errFrame
			}
			size += stunHeader
		case 0x40:
			size = channel + (size+3)&^3 // padded in a stream (RFC 8656, section 12.5)
		default:
			f.refused(whyMalformed)
			return 0, errFrame
		}
		if size > min(maxFrame, len(b)) {
			f.refused(whyMalformed)
			return 0, errFrame
		}
		if _, err := io.ReadFull(f.in, b[:size]); err != nil {
			return 0, err
		}
		if sane(b[:size]) {
			return size, nil
		}
		f.refused(whyMalformed)
	}
}

// framedListener gives pion connections that are framed.
type framedListener struct {
	net.Listener
	refused func(why string)
	handled func(src netip.AddrPort)
}

// Accept implements net.Listener.
func (l framedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newFramed(c, l.refused, l.handled), nil
}
