package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// An epollNetwork is one thread's event loop over plain TCP to IPv4 loopback addresses. It costs
// less for each message than Go's own poller does, so that the server is what is measured.
type epollNetwork struct {
	ctx    context.Context
	ep     int
	to     []unix.SockaddrInet4 // by [conn.home]
	conns  []*conn              // by file descriptor
	dials  int32
	events [256]unix.EpollEvent
	buf    [256 << 10]byte
}

// sources is the number of loopback addresses that clients come from. One has 28,000 ports to a
// server's port, and a closed connection holds its port for a minute.
const sources = 16

func newLocalNetwork(ctx context.Context, addrs ...netip.AddrPort) (network, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	n := &epollNetwork{ctx: ctx, ep: ep}
	for _, addr := range addrs {
		n.to = append(n.to, unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()})
	}
	return n, nil
}

func (n *epollNetwork) dial(c *conn) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w; `ulimit -n` bounds the open files", err)
	}
	n.dials++
	c.fd, c.gen = fd, n.dials
	for len(n.conns) <= fd {
		n.conns = append(n.conns, nil)
	}
	n.conns[fd] = c
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if c.small {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	}
	from := unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(2 + n.dials%sources)}}
	if err := unix.Bind(fd, &from); err != nil {
		n.close(c)
		return fmt.Errorf("bind: %w", err)
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd), Pad: c.gen}
	if err := unix.Connect(fd, &n.to[c.home]); err != nil && err != unix.EINPROGRESS {
		n.close(c)
		return fmt.Errorf("connect: %w", err)
	}
	if err := unix.EpollCtl(n.ep, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		n.close(c)
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (n *epollNetwork) flush(c *conn) {
	for c.state != dialing && len(c.out) > 0 {
		k, err := unix.Write(c.fd, c.out)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			return // the writable edge brings us back
		}
		if err != nil {
			n.lose(c, fmt.Errorf("write: %w", err))
			return
		}
		c.out = c.out[:copy(c.out, c.out[k:])]
	}
}

func (n *epollNetwork) close(c *conn) {
	if c.fd >= 0 {
		n.conns[c.fd] = nil
		unix.Close(c.fd)
		c.fd = -1
	}
}

func (n *epollNetwork) lose(c *conn, err error) {
	n.close(c)
	c.s.gone(c, err)
}

// longestWait is how long the end of the context may go unnoticed.
const longestWait = 100 * time.Millisecond

// poll waits in whole milliseconds; for less it returns at once, so that a caller with a schedule
// of microseconds spins. It returns an error once the context has ended.
func (n *epollNetwork) poll(wait time.Duration) error {
	if err := n.ctx.Err(); err != nil {
		return err
	}
	k, err := unix.EpollWait(n.ep, n.events[:], int(min(wait, longestWait)/time.Millisecond))
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	for _, e := range n.events[:k] {
		if c := n.conns[e.Fd]; c != nil && c.gen == e.Pad {
			n.ready(c, e.Events)
		}
	}
	return nil
}

// ready handles one edge of c.
func (n *epollNetwork) ready(c *conn, events uint32) {
	if c.state == dialing {
		if code, _ := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); code != 0 {
			n.lose(c, fmt.Errorf("connect: %w", unix.Errno(code)))
			return
		}
		if events&unix.EPOLLOUT == 0 {
			return
		}
		c.connected()
		c.s.flush()
	}
	if events&unix.EPOLLOUT != 0 && len(c.out) > 0 {
		n.flush(c)
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		n.read(c, events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0)
	}
}

// read takes all there is: a read that does not fill the buffer has emptied the socket, unless the
// end was announced.
func (n *epollNetwork) read(c *conn, ending bool) {
	for c.fd >= 0 && !c.frozen {
		k, err := unix.Read(c.fd, n.buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil:
			n.lose(c, fmt.Errorf("read: %w", err))
			return
		case k == 0:
			n.lose(c, io.EOF)
			return
		}
		c.s.took(c, n.buf[:k])
		if k < len(n.buf) && !ending {
			return
		}
	}
}

func (n *epollNetwork) shut() {
	for _, c := range n.conns {
		if c != nil {
			n.close(c)
		}
	}
	unix.Close(n.ep)
}
