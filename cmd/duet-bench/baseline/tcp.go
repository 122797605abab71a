package baseline

import (
	"bufio"
	"net"
)

type tcpMember struct{ net.Conn }

func (m tcpMember) send(p []byte) { m.Write(p) }

// serveTCP relays lines: one goroutine a connection, one write a line. No handshake, no frames, no
// masks: the floor under every WebSocket server in Go.
func serveTCP(l net.Listener) error {
	var rs rooms
	for {
		nc, err := l.Accept()
		if err != nil {
			return err
		}
		go relayLines(&rs, nc)
	}
}

func relayLines(rs *rooms, nc net.Conn) {
	defer nc.Close()
	r := bufio.NewReader(nc)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return
	}
	name, m := string(line), tcpMember{nc}
	place := rs.join(name, m)
	if place == nil {
		return
	}
	defer rs.leave(name, place, m)
	nc.Write([]byte("ok\n"))
	for {
		line, err := r.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			line, err = readLong(r, line)
		}
		if err != nil {
			return
		}
		if o := rs.other(place, m); o != nil {
			o.send(line)
		}
	}
}

// readLong reads on from a line that is longer than the buffer.
func readLong(r *bufio.Reader, start []byte) ([]byte, error) {
	long := append([]byte(nil), start...)
	rest, err := r.ReadBytes('\n')
	return append(long, rest...), err
}
