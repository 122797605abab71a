package httpapi

import (
	"container/heap"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// What is due for parked sockets is looked at this often at most: one wakeup serves many.
	dueStep = 50 * time.Millisecond
	// When a socket is looked at again that was just being read.
	dueRetry = 250 * time.Millisecond
)

// A parking keeps the sockets whose peers say nothing, which are most of them most of the time,
// without a goroutine and without a buffer each. One goroutine waits for all of them, and starts a
// socket's reader when something came.
//
// The kernel's epoll tells what came; that epoll is itself a file that the runtime can wait for, with
// a deadline for what is due first. It knows a socket from its first byte to its end and tells of
// everything that arrives (EPOLLET): to park and to leave cost no system call.
type parking struct {
	mu      sync.Mutex // held for memory access, or a system call that does not wait
	fd      int        // of the epoll
	epoll   *os.File   // the same, for the runtime to wait; nil until the first socket comes
	sockets []*socket  // by file descriptor
	due     dueHeap    // all of them
	wakeAt  time.Time  // the deadline that epoll has, by the hub's clock
	running bool
}

// A place is what a socket has in the parking, and belongs to it.
type place struct {
	due   time.Time // when to look what is due, by the hub's clock; never too late
	index int       // in parking.due
}

// add takes in a socket that nobody reads yet. False: it must be read by itself.
func (p *parking) add(s *socket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open() {
		return false
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(s.wire.fd)}
	for len(p.sockets) <= s.wire.fd {
		p.sockets = append(p.sockets, nil)
	}
	p.sockets[s.wire.fd] = s
	if unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, s.wire.fd, &event) != nil {
		p.sockets[s.wire.fd] = nil
		return false
	}
	s.place.due = s.wire.next()
	heap.Push(&p.due, s)
	if !p.running {
		p.running = true
		p.wakeAt = time.Time{}
		s.all.gone.Go(p.run)
	}
	if p.wakeAt.IsZero() || s.place.due.Before(p.wakeAt) {
		p.sleepUntil(s.place.due, s.wire.now())
	}
	return true
}

// remove forgets a socket that is about to be closed.
func (p *parking) remove(s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.wire.fd >= len(p.sockets) || p.sockets[s.wire.fd] != s {
		return
	}
	p.sockets[s.wire.fd] = nil
	heap.Remove(&p.due, s.place.index)
	if len(p.due) == 0 {
		p.epoll.SetReadDeadline(longAgo) // run has nothing to wait for
	}
}

// run waits for all sockets, as long as there are any.
func (p *parking) run() {
	conn, err := p.epoll.SyscallConn()
	if err != nil {
		panic(err) // the file is never closed
	}
	events := make([]unix.EpollEvent, 128)
	for {
		_ = conn.Read(func(fd uintptr) bool { // the error is the deadline's
			for {
				n, _ := unix.EpollWait(int(fd), events, 0)
				p.wake(events[:max(n, 0)])
				if n < len(events) {
					return false // there is no more: wait
				}
			}
		})
		if !p.lookAtDue() {
			return
		}
	}
}

// wake starts the readers of the sockets for which something came.
func (p *parking) wake(events []unix.EpollEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		s := p.sockets[e.Fd]
		if s == nil {
			continue
		}
		s.wakeReader()
		if e.Events&^unix.EPOLLIN != 0 {
			s.wakeReader() // the end came too: it is to be read behind the bytes
		}
	}
}

// lookAtDue does what is due, and reports whether there are sockets to wait for.
func (p *parking) lookAtDue() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.due) == 0 {
		p.running = false
		return false
	}
	now := p.due[0].wire.now()
	for {
		s := p.due[0]
		if s.place.due.After(now) {
			p.sleepUntil(later(s.place.due, now.Add(dueStep)), now)
			return true
		}
		s.place.due = s.lookAtDue(now)
		heap.Fix(&p.due, 0)
	}
}

// lookAtDue does what is due at now, by the hub's clock, where nobody reads, and returns when to look
// again. A reader that waits for the rest of a message looks by itself.
func (s *socket) lookAtDue(now time.Time) time.Time {
	if !s.reading.take() {
		return now.Add(dueRetry)
	}
	s.wire.overdue = s.wire.due(now)
	// It may answer the ping, or leave, before next: then something else is due first.
	cfg := &s.all.cfg
	next := earlier(s.wire.next(), now.Add(min(cfg.PingInterval, cfg.JoinTimeout)))
	if s.wire.overdue != nil || !s.reading.end() {
		go s.read()
	}
	return next
}

// sleepUntil ends the wait for events at t. Both times are the hub's.
func (p *parking) sleepUntil(t, now time.Time) {
	p.wakeAt = t
	p.epoll.SetReadDeadline(time.Now().Add(t.Sub(now)))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// open makes the epoll when it is first needed.
func (p *parking) open() bool {
	if p.epoll != nil {
		return true
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return false
	}
	p.fd, p.epoll = fd, os.NewFile(uintptr(fd), "epoll")
	return true
}

// descriptor is the file descriptor behind conn. Only what the kernel's socket holds can be waited
// for there: a connection that keeps bytes of its own (TLS) has none to give.
func descriptor(conn any) (fd int, ok bool) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(n uintptr) { fd = int(n) })
	return fd, err == nil
}

// readNow reads what is there, and fails with errIdle where nothing is.
func readNow(fd int, p []byte) (int, error) { return now(unix.Read, fd, p) }

// writeNow writes what the kernel takes at once, and fails with errIdle where that is nothing.
func writeNow(fd int, p []byte) (int, error) { return now(unix.Write, fd, p) }

func now(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errIdle
		default:
			return 0, err
		}
	}
}

// dueHeap has the socket that is due first at index 0 (container/heap).
type dueHeap []*socket

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].place.due.Before(h[j].place.due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place.index, h[j].place.index = i, j
}

func (h *dueHeap) Push(x any) {
	s := x.(*socket)
	s.place.index = len(*h)
	*h = append(*h, s)
}

func (h *dueHeap) Pop() any {
	old := *h
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return s
}
