package httpapi

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"duet/signaling"
)

const (
	// The library's write buffer of one connection: as large as a control frame with its header.
	writeBufferBytes = 128
	// A control frame has at most 125 bytes (RFC 6455 section 5.5). The library gives one 5 s by
	// cutting the connection; we are earlier, and can still say why.
	controlFrameTime = 4 * time.Second
	// How much longer than its content a message may be on the wire: a frame of one byte has a
	// header of six.
	framingFactor = 8
	// From the decision to close until the socket is closed, whatever the peer does.
	closeTime = 1500 * time.Millisecond
)

// longAgo, as a deadline, ends what waits at once.
var longAgo = time.Unix(1, 0)

// errIdle ends a Read in which nothing has begun and nothing is there. The next Read goes on.
var errIdle = errors.New("nothing to read")

// errSilent ends a connection whose peer did not answer a ping.
var errSilent = errors.New("ping not answered")

// A wire is the net.Conn under the WebSocket library. The library knows neither deadlines nor when
// a message began, so time is kept here: a ping to a silent peer, the end of one that stays silent,
// the join timeout, the time for one message, the time for one write. All are measured by the hub's
// clock, which leaves out the time in which the process stood still.
//
// Nothing of it costs a timer of its own: the one deadline that a net.Conn has for reading is set
// to whatever comes first, and a wire that wakes up too early sets it again.
//
// The library writes from two goroutines, since it answers a ping or a close where it reads them.
// Its writes are only gathered here, and sent by the socket's writer: a peer that does not read
// holds up that one, and never the reader.
type wire struct {
	net.Conn
	cfg    *Config
	now    func() time.Time
	ping   func() // sends one; must not block
	wake   func() // says that there is something to flush; must not block
	joined func() bool
	fd     int  // of the Conn's socket, if parks
	parks  bool // Read ends with errIdle rather than wait for a message to begin
	secure bool // the Conn is TLS: a Write that its deadline has ended cannot be gone on with

	// Owned by the reader.
	reader    bufio.Reader  // the library reads from it
	buffer    *bufio.Reader // whose buffer reader has while awake; nil = asleep
	early     []byte        // came in the same segment as the handshake
	in        framing       // of what has arrived
	heardAt   time.Time     // the last byte
	pingedAt  time.Time     // zero = no ping is out
	joinSince time.Time     // the join timeout counts from here
	armed     time.Time     // what the read deadline is set to, by the hub's clock
	drained   bool          // the last read took all there was; what came since wakes the reader again
	overdue   error         // for which the next Read fails
	failed    error         // why Read failed

	writing   sync.Mutex // held for a copy, never during I/O
	out       []byte     // written by the library, not yet sent
	closed    bool       // a close frame was: no message may follow
	gathering bool       // the writer is at it and will flush
	direct    bool       // Write sends at once

	deadlines sync.Mutex // held while a deadline is set, never during I/O
	closeBy   time.Time  // real time; zero = not closing
}

// A hijacker hands the connection under an HTTP request over to the library as a wire.
type hijacker struct {
	http.ResponseWriter
	wire *wire
}

// Hijack implements http.Hijacker. Bytes that came with the handshake are in net/http's buffer:
// they are read again from the wire.
func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	h.wire.start(conn, early)
	return h.wire, bufio.NewReadWriter(&h.wire.reader, bufio.NewWriterSize(h.wire, writeBufferBytes)), nil
}

func (w *wire) start(conn net.Conn, early []byte) {
	w.Conn = conn
	w.early = append([]byte(nil), early...)
	w.heardAt = w.now()
	w.fd, w.parks = descriptor(conn)
	if _, w.secure = conn.(*tls.Conn); w.secure {
		// TLS answers a KeyUpdate (RFC 8446, section 4.6.3) where it reads. That must not wait for ever
		// for a peer that does not read; from the first message on send sees to it.
		conn.SetWriteDeadline(time.Now().Add(w.cfg.WriteTimeout))
	}
	w.startJoinTimeout()
	w.awake()
}

// Buffers for reading belong to connections that are read at the moment. A signaling message mostly
// fits; longer ones are read past them.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// sleep gives back what a connection needs only while it is read.
func (w *wire) sleep() {
	w.buffer.Reset(nil)
	readers.Put(w.buffer)
	w.reader, w.buffer = bufio.Reader{}, nil
}

// awake prepares for Read.
func (w *wire) awake() {
	w.buffer = readers.Get().(*bufio.Reader)
	w.buffer.Reset(w)
	w.reader = *w.buffer
	w.drained = false
}

// startJoinTimeout starts the join timeout again, from the last byte that arrived.
func (w *wire) startJoinTimeout() {
	w.joinSince = w.heardAt
}

// Read implements io.Reader. It fails with one of the package's or signaling's sentinels where it
// was a deadline that ended it, else with the connection's error; both stay in w.failed.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.early) > 0 {
		n := copy(p, w.early)
		if w.early = w.early[n:]; len(w.early) == 0 {
			w.early = nil
		}
		return n, w.got(p[:n])
	}
	if err := w.overdue; err != nil {
		w.overdue, w.failed = nil, err
		return 0, err
	}
	if w.parks && !w.closing() {
		if n, err := w.readNow(p); n > 0 || err != errIdle || w.idle() {
			return n, err
		}
	}
	return w.readLater(p)
}

// readNow reads what is there, and fails with errIdle where nothing is.
func (w *wire) readNow(p []byte) (int, error) {
	if w.drained {
		return 0, errIdle
	}
	n, err := readNow(w.fd, p)
	w.drained = n < len(p)
	switch {
	case n > 0:
		return n, w.got(p[:n])
	case err == nil:
		err = io.EOF
	case err == errIdle:
		return 0, errIdle
	}
	w.failed = err
	return 0, err
}

// readLater waits for something to read.
func (w *wire) readLater(p []byte) (int, error) {
	if w.armed.IsZero() || w.next().Before(w.armed) {
		w.rearm()
	}
	for {
		n, err := w.Conn.Read(p)
		if n > 0 {
			return n, w.got(p[:n])
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !w.closing() {
			if err = w.due(w.now()); err == nil {
				w.rearm()
				continue
			}
		}
		w.failed = err
		return 0, err
	}
}

// got books bytes that arrived.
func (w *wire) got(p []byte) error {
	w.heardAt, w.pingedAt = w.now(), time.Time{}
	if w.in.follow(p, w.heardAt); w.in.size > w.cfg.MaxMessageBytes*framingFactor {
		w.failed = signaling.ErrTooBig
		return w.failed
	}
	return nil
}

// due does what is to be done at now, and returns why the connection must end, or nil.
func (w *wire) due(now time.Time) error {
	if by, ok := w.messageBy(); ok && !now.Before(by) {
		return signaling.ErrPolicy
	}
	if !w.joined() && !now.Before(w.joinSince.Add(w.cfg.JoinTimeout)) {
		return signaling.ErrJoinTimeout
	}
	if !w.pingedAt.IsZero() {
		if !now.Before(w.pingedAt.Add(w.cfg.PongTimeout)) {
			return errSilent
		}
	} else if !now.Before(w.heardAt.Add(w.cfg.PingInterval)) {
		w.pingedAt = now
		w.ping()
	}
	return nil
}

// idle reports whether nothing has begun.
func (w *wire) idle() bool { return w.in.have == 0 && w.in.messageAt.IsZero() }

// next is when something is due that the peer does not do.
func (w *wire) next() time.Time {
	next := w.heardAt.Add(w.cfg.PingInterval)
	if !w.pingedAt.IsZero() {
		next = w.pingedAt.Add(w.cfg.PongTimeout)
	}
	if by, ok := w.messageBy(); ok && by.Before(next) {
		next = by
	}
	if by := w.joinSince.Add(w.cfg.JoinTimeout); !w.joined() && by.Before(next) {
		next = by
	}
	return next
}

// rearm sets the read deadline to what is due first.
func (w *wire) rearm() {
	w.armed = w.next()
	left := w.armed.Sub(w.now())
	w.deadlines.Lock()
	defer w.deadlines.Unlock()
	if w.closeBy.IsZero() {
		w.SetReadDeadline(time.Now().Add(left))
	}
}

// messageBy is when what has begun must be complete; false = nothing has.
func (w *wire) messageBy() (by time.Time, ok bool) {
	if at := w.in.messageAt; !at.IsZero() {
		by = at.Add(w.cfg.MessageTimeout)
	}
	if at := w.in.controlAt; !at.IsZero() {
		if end := at.Add(min(controlFrameTime, w.cfg.MessageTimeout)); by.IsZero() || end.Before(by) {
			by = end
		}
	}
	return by, !by.IsZero()
}

// Write implements io.Writer for the library. It does not wait for the peer, except in direct mode.
func (w *wire) Write(p []byte) (int, error) {
	w.writing.Lock()
	w.out = append(w.out, p...)
	w.closed = w.closed || p[0]&0xf == closeOpcode // the library writes a control frame at once
	gathering, direct := w.gathering, w.direct
	w.writing.Unlock()
	if direct {
		_, err := w.flush(nil)
		return len(p), err
	}
	if !gathering {
		w.wake()
	}
	return len(p), nil
}

// sendDirectly lets each Write wait for its bytes to be sent: for the one goroutine that closes.
func (w *wire) sendDirectly() {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.direct = true
}

// gather moves what the library wrote to buf. What it writes from now on, until flush, wakes nobody.
// closed: the client got, or gets with buf, a close frame.
func (w *wire) gather(buf []byte) (_ []byte, closed bool) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.gathering = true
	buf = append(buf, w.out...)
	w.out = nil
	return buf, w.closed
}

// flush sends buf and what the library wrote since gather, with one system call, and returns the
// buffer. Only one goroutine may call it at a time.
func (w *wire) flush(buf []byte) ([]byte, error) {
	w.writing.Lock()
	buf = append(buf, w.out...)
	w.out, w.gathering = nil, false
	w.writing.Unlock()
	rest, err := w.send(buf)
	if errors.Is(err, signaling.ErrTooSlow) { // a close frame must not get into the middle of another
		w.writing.Lock()
		w.out = append(bytes.Clone(rest), w.out...)
		w.writing.Unlock()
	}
	return buf, err
}

// send writes p within the write timeout. With an error it returns what was not sent.
func (w *wire) send(p []byte) (rest []byte, err error) {
	if w.parks && len(p) > 0 {
		n, err := writeNow(w.fd, p)
		if err != nil && err != errIdle {
			return p, err
		}
		p = p[n:]
	}
	if len(p) == 0 {
		return nil, nil
	}
	began := w.now()
	for wait := w.cfg.WriteTimeout; ; wait = w.cfg.WriteTimeout - w.now().Sub(began) {
		w.deadlines.Lock()
		closing := !w.closeBy.IsZero()
		if !closing {
			w.SetWriteDeadline(time.Now().Add(wait))
		}
		w.deadlines.Unlock()
		n, err := w.Conn.Write(p)
		if err == nil {
			return nil, nil
		}
		p = p[n:]
		if closing || !errors.Is(err, os.ErrDeadlineExceeded) {
			return p, err
		}
		if w.secure || w.now().Sub(began) >= w.cfg.WriteTimeout {
			return p, signaling.ErrTooSlow
		}
	}
}

// closeSoon bounds everything that is still read and written to closeTime from now on.
func (w *wire) closeSoon() {
	w.deadlines.Lock()
	defer w.deadlines.Unlock()
	if w.closeBy.IsZero() {
		w.closeBy = time.Now().Add(closeTime)
		w.SetDeadline(w.closeBy)
	}
}

// stopReading ends a Read that waits.
func (w *wire) stopReading() { w.SetReadDeadline(longAgo) }

// readAgain lets the goroutine that closes read what the peer answers, until closeTime is over.
func (w *wire) readAgain() {
	w.deadlines.Lock()
	defer w.deadlines.Unlock()
	w.SetReadDeadline(w.closeBy)
}

func (w *wire) closing() bool {
	w.deadlines.Lock()
	defer w.deadlines.Unlock()
	return !w.closeBy.IsZero()
}

// Close implements io.Closer for the library, which calls it when it is done with the connection.
// It only ends a Read that waits; the socket itself is closed by shut.
func (w *wire) Close() error {
	w.closeSoon()
	w.stopReading()
	return nil
}

// shut closes the socket. With linger it first says that nothing more comes and reads what the peer
// still sends, until the peer closes or closeTime is over: a socket closed with unread bytes is
// reset, and a reset may overtake the close frame.
func (w *wire) shut(linger bool) {
	conn := w.Conn
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
		w.endTLS(over)
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok && linger {
		half.CloseWrite()
		w.readAgain()
		io.Copy(io.Discard, w.Conn)
	}
	conn.Close()
}

// endTLS says that nothing more comes (close_notify). TLS gives that a deadline of its own, which is
// later than ours.
func (w *wire) endTLS(over *tls.Conn) {
	w.deadlines.Lock()
	left := time.Until(w.closeBy)
	w.deadlines.Unlock()
	late := time.AfterFunc(left, func() { over.NetConn().Close() })
	defer late.Stop()
	over.CloseWrite()
}
