package httpapi

import (
	"container/heap"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long a socket waits for its peer in a goroutine before it is parked: at first, and at most.
// Each time the peer comes back within a second it is waited for twice as long, so that one that
// speaks now and then is not parked between.
const (
	minPatience = 20 * time.Millisecond
	maxPatience = time.Second
)

// A parking keeps the sockets whose peers say nothing, which are most of them most of the time,
// without a goroutine and without a buffer each. One goroutine waits for all of them, and starts a
// socket's reader again when there is something to read or something is due.
//
// The kernel's epoll tells what there is to read; that epoll is itself a file that the runtime can
// wait for, with a deadline for what is due first.
type parking struct {
	mu      sync.Mutex // held for a map access or a system call that does not wait
	fd      int        // of the epoll
	epoll   *os.File   // the same, for the runtime to wait; nil until the first socket comes
	sockets map[int]*socket
	due     dueHeap
	running bool
}

// A place is what a parked socket has there. It belongs to the parking.
type place struct {
	known bool // to the epoll
	due   time.Time
	index int // in due
}

// park takes in a socket that waits for its peer until due. False: it must go on by itself.
func (p *parking) park(s *socket, due time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.isClosing() || !p.open() || !p.watch(s) {
		return false
	}
	s.place.due = due
	p.sockets[s.wire.fd] = s
	heap.Push(&p.due, s)
	if p.due[0] == s {
		p.epoll.SetReadDeadline(due)
	}
	if !p.running {
		p.running = true
		s.all.gone.Go(p.run)
	}
	return true
}

// unpark starts a parked socket's reader.
func (p *parking) unpark(s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sockets[s.wire.fd] == s {
		p.release(s)
		if len(p.sockets) == 0 {
			p.epoll.SetReadDeadline(longAgo) // run has nothing to wait for
		}
	}
}

func (p *parking) release(s *socket) {
	delete(p.sockets, s.wire.fd)
	heap.Remove(&p.due, s.place.index)
	s.reader.Go(s.read)
}

// run waits for all parked sockets, as long as there are any.
func (p *parking) run() {
	conn, err := p.epoll.SyscallConn()
	if err != nil {
		panic(err) // the file is never closed
	}
	events := make([]unix.EpollEvent, 128)
	for {
		n := 0
		_ = conn.Read(func(fd uintptr) bool { // an error is the deadline's
			n, _ = unix.EpollWait(int(fd), events, 0)
			return n > 0
		})
		if !p.releaseReady(events[:max(n, 0)]) {
			return
		}
	}
}

// releaseReady starts the readers that have something to do, and reports whether others still wait.
func (p *parking) releaseReady(events []unix.EpollEvent) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		if s := p.sockets[int(e.Fd)]; s != nil {
			p.release(s)
		}
	}
	for now := time.Now(); len(p.due) > 0 && !p.due[0].place.due.After(now); {
		p.release(p.due[0])
	}
	if len(p.due) == 0 {
		p.running = false
		return false
	}
	p.epoll.SetReadDeadline(p.due[0].place.due)
	return true
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
	p.fd, p.epoll, p.sockets = fd, os.NewFile(uintptr(fd), "epoll"), map[int]*socket{}
	return true
}

// watch asks the epoll for one event of s: something to read, or the end.
func (p *parking) watch(s *socket) bool {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(s.wire.fd)}
	op := unix.EPOLL_CTL_ADD
	if s.place.known {
		op = unix.EPOLL_CTL_MOD
	}
	s.place.known = unix.EpollCtl(p.fd, op, s.wire.fd, &event) == nil
	return s.place.known
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
