package httpapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
)

// Subprotocol is what /ws speaks (docs/protocol.md, section 1).
const Subprotocol = "duet.v1"

// errGone is the cause of a connection that the peer closed or that broke: nothing is said any more.
var errGone = errors.New("connection gone")

// serveWebSocket makes a WebSocket of the request and returns: from here on the connection belongs to
// a goroutine that reads it and, while there is something to say, one that writes.
func (a *API) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if !a.sockets.enter() {
		a.refuse(w, errDraining)
		return
	}
	defer a.sockets.gone.Done() // the socket, once started, counts itself
	lease, err := a.limits.admit(clientAddr(r))
	if err != nil {
		why := new(refusal)
		errors.As(err, &why)
		a.refuse(w, why)
		return
	}
	s := a.sockets.new(lease)
	s.ws, err = websocket.Accept(hijacker{w, s.wire}, r, &websocket.AcceptOptions{
		Subprotocols:       []string{Subprotocol},
		InsecureSkipVerify: true, // checkOrigin did it, by whole origins
		OnPingReceived:     s.pinged,
	})
	if err != nil { // Accept has answered
		lease.release()
		return
	}
	s.wire.sleep()
	s.ws.SetReadLimit(-1) // readMessage has ours, with the close code and without a reason of many words
	a.sockets.start(s)
}

// sockets are the open connections of an API.
type sockets struct {
	// Static after construction.
	cfg    Config
	hub    *signaling.Hub
	log    *slog.Logger
	ctx    context.Context // of what connections wait for; ends when all must go
	cancel context.CancelFunc
	closes *prometheus.CounterVec
	gauge  prometheus.Gauge

	mu       sync.Mutex
	open     map[*socket]struct{}
	draining bool
	parking  parking        // has a lock of its own
	gone     sync.WaitGroup // one for each open socket, and for each handshake
}

func newSockets(cfg Config, hub *signaling.Hub, log *slog.Logger, reg prometheus.Registerer) *sockets {
	t := &sockets{cfg: cfg, hub: hub, log: log, open: map[*socket]struct{}{},
		closes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_closes_total",
			Help: "Connections ended, by who ended them and close code; 1006 stands for none.",
		}, []string{"by", "code"}),
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "duet_connections", Help: "WebSockets open."})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	reg.MustRegister(t.closes, t.gauge)
	return t
}

// enter counts a handshake; false = no socket is made any more. Whoever drains waits for all that
// were counted.
func (t *sockets) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.draining {
		t.gone.Add(1)
	}
	return !t.draining
}

func (t *sockets) new(l *lease) *socket {
	s := &socket{all: t, lease: l}
	s.conn = t.hub.Connect(s, l.allowJoin)
	s.wire = &wire{cfg: &t.cfg, now: t.hub.Now, ping: s.ping, wake: s.Wake, joined: s.conn.Seated}
	return s
}

func (t *sockets) start(s *socket) {
	t.gauge.Inc()
	s.reading.take() // what comes meanwhile is read below
	s.wire.parks = s.wire.parks && t.parking.add(s)
	t.mu.Lock()
	t.open[s] = struct{}{}
	t.gone.Add(1)
	s.reader.Add(1) // before anybody can find s in open, and close it
	late := t.draining
	t.mu.Unlock()
	if !s.wire.parks || len(s.wire.early) > 0 || !s.reading.end() {
		go s.read()
	}
	if late {
		s.Close(signaling.ErrRestart)
	}
}

func (t *sockets) ended(s *socket) {
	t.mu.Lock()
	_, open := t.open[s]
	delete(t.open, s)
	t.mu.Unlock()
	if open {
		t.gauge.Dec()
		s.lease.release()
		t.gone.Done()
	}
}

// drain closes all sockets with 1012, spread evenly over spread so that their clients do not come
// back all at once, and waits until they are gone, or ctx is.
func (t *sockets) drain(ctx context.Context, spread time.Duration) error {
	t.mu.Lock()
	t.draining = true
	all := make([]*socket, 0, len(t.open))
	for s := range t.open {
		all = append(all, s)
	}
	t.mu.Unlock()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	began := time.Now()
	for i, s := range all {
		at := began.Add(spread * time.Duration(i) / time.Duration(len(all)))
		if wait := time.Until(at); wait > 0 {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(wait):
			}
		}
		s.Close(signaling.ErrRestart)
	}
	t.cancel()
	gone := make(chan struct{})
	go func() { t.gone.Wait(); close(gone) }()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A socket is one WebSocket: it moves bytes between the wire and the protocol's side of the
// connection, and is the signaling.Transport of that.
//
// One goroutine reads, as long as there is something to read; in between the socket is parked. Another
// writes, as long as there is something to write, and it alone closes the socket.
type socket struct {
	// Static once started.
	all   *sockets
	lease *lease
	wire  *wire
	ws    *websocket.Conn
	conn  *signaling.Conn
	place place // in the parking

	reading turn // of the reader, or of who looks what is due while there is none
	lost    bool // conn.Lost was called; owned by the reader

	reader  sync.WaitGroup // done when the last reader has ended
	writing turn
	pingDue atomic.Bool           // the writer is to send one
	cause   atomic.Pointer[error] // why the socket closes; nil = it does not
}

// ---- reading

var readBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// wakeReader sees that somebody reads, from now on or once more.
func (s *socket) wakeReader() {
	if s.reading.ask() {
		go s.read()
	}
}

// read is a reader's life: one message after the other until the connection ends, or nothing more is
// there.
func (s *socket) read() {
	defer s.all.hub.Recover("connection", func() {
		s.loseSeat(signaling.EndLost)
		s.Close(signaling.ErrRestart)
		s.reader.Done()
	})
	s.wire.awake()
	for {
		err := s.readMessage()
		switch {
		case err == nil:
		case errors.Is(err, errIdle):
			if s.wire.sleep(); s.reading.end() {
				return // parked: from here on another reader may live
			}
			s.wire.awake()
		default:
			s.endReading(err)
			s.reader.Done()
			return // still its turn: no other reader comes
		}
	}
}

// endReading tells the room and the writer that, and why, nothing is read any more.
func (s *socket) endReading(err error) {
	if s.isClosing() {
		s.loseSeat(endingOf(*s.cause.Load()))
		return
	}
	how, cause := s.ending(err)
	s.loseSeat(how)
	s.Close(cause)
}

// readMessage reads one message and hands it to the protocol. An error means that the socket closes,
// or that there is nothing more to read.
func (s *socket) readMessage() error {
	if _, err := s.wire.reader.Peek(1); err != nil {
		return err // most often errIdle, to which the library would add words, at a price
	}
	if frame, data := wholeText(&s.wire.reader, s.all.cfg.MaxMessageBytes); frame > 0 {
		defer s.wire.reader.Discard(frame)
		return s.received(data)
	}
	typ, r, err := s.ws.Reader(context.Background()) // a context that ends would cut the connection
	if err != nil {
		return err
	}
	buf := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(buf)
	if typ != websocket.MessageText {
		return s.violated(signaling.ErrNotText)
	}
	data, err := readAll(r, (*buf)[:0], s.all.cfg.MaxMessageBytes)
	*buf = data[:0]
	if errors.Is(err, signaling.ErrTooBig) {
		return s.violated(signaling.ErrTooBig)
	}
	if err == nil {
		err = s.wire.failed // the library takes a connection that ends inside a message for the message's end
	}
	if err != nil {
		return err
	}
	return s.received(data)
}

// received hands a text message to the protocol.
func (s *socket) received(data []byte) error {
	if s.isClosing() {
		return errGone
	}
	if !utf8.Valid(data) {
		return s.violated(signaling.ErrNotUTF8)
	}
	seated := s.conn.Seated()
	if err := s.conn.Receive(s.all.ctx, data); err != nil {
		return s.violated(err)
	}
	if seated && !s.conn.Seated() { // it left: the join timeout starts again
		s.wire.startJoinTimeout()
	}
	return nil
}

// readAll appends what r has to buf, at most limit bytes: one more ends it at once. (The library fills
// what it is given to read into before it returns.)
func readAll(r io.Reader, buf []byte, limit int) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):min(cap(buf), limit+1)])
		buf = buf[:len(buf)+n]
		if len(buf) > limit {
			return buf, signaling.ErrTooBig
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

// pinged answers a ping of the peer's, as long as they do not come in floods.
func (s *socket) pinged(context.Context, []byte) bool {
	if s.isClosing() {
		return false
	}
	if !s.conn.AllowPing() {
		_ = s.violated(signaling.ErrPolicy)
		return false
	}
	return true
}

// violated closes the socket for what the client did, and returns why.
func (s *socket) violated(cause error) error {
	s.loseSeat(endingOf(cause))
	s.Close(cause)
	return cause
}

// loseSeat tells the room, once, that and how the connection ended.
func (s *socket) loseSeat(how signaling.Ending) {
	if !s.lost {
		s.lost = true
		s.conn.Lost(how)
	}
}

// ending finds out what err, from the library, means: how the seat fares and what is still to be
// said to the peer.
func (s *socket) ending(err error) (signaling.Ending, error) {
	if code := websocket.CloseStatus(err); code != -1 {
		s.countClose("client", int(code))
		return endingOfCode(int(code)), errGone
	}
	switch cause := s.wire.failed; {
	case cause == nil: // the bytes came; the library did not like them
		return signaling.EndViolation, signaling.ErrProtocol
	case errors.Is(cause, errSilent):
		s.countClose("server", 1006)
		return signaling.EndSilent, errGone
	case errors.Is(cause, signaling.ErrJoinTimeout), errors.Is(cause, signaling.ErrPolicy), errors.Is(cause, signaling.ErrTooBig):
		return endingOf(cause), cause
	}
	s.countClose("client", 1006)
	return signaling.EndLost, errGone
}

// endingOfCode is how a seat fares after a close frame of the client (docs/protocol.md, section 5).
func endingOfCode(code int) signaling.Ending {
	switch {
	case code == 1000 || code == 1005 || code >= 4500:
		return signaling.EndLeft
	case code == 1001:
		return signaling.EndGoingAway
	}
	return signaling.EndLost
}

// endingOf is how a seat fares after the server closed its connection for cause.
func endingOf(cause error) signaling.Ending {
	switch code := signaling.FailureOf(cause).Close; {
	case code == 1001 || code == 1012 || code >= 4000 && code < 4500 && code != 4002:
		return signaling.EndLost
	}
	return signaling.EndViolation
}

// ---- writing

// flushBytes is how much is gathered for one system call before it is written.
const flushBytes = 32 << 10

var writeBuffers = sync.Pool{New: func() any { return new(writeBuffer) }}

type writeBuffer struct{ message, gathered []byte }

// Wake implements signaling.Transport: it sees that somebody writes.
func (s *socket) Wake() {
	if s.writing.ask() {
		go s.write()
	}
}

// Close implements signaling.Transport. The first cause wins.
func (s *socket) Close(cause error) {
	if s.cause.CompareAndSwap(nil, &cause) {
		s.wire.closeSoon()
		s.wire.stopReading()
		s.wakeReader()
		s.Wake()
	}
}

func (s *socket) isClosing() bool { return s.cause.Load() != nil }

// write is a writer's life: it writes while there is something to say and closes the socket if it
// is to be closed.
func (s *socket) write() {
	defer s.all.hub.Recover("connection", func() { s.Close(errGone); s.end(errGone) })
	for {
		cause := s.cause.Load() // first: what was said before Close is written before the end
		switch err := s.writeAll(); {
		case errors.Is(err, signaling.ErrTooSlow):
			s.Close(signaling.ErrTooSlow)
		case err != nil: // the peer has gone; the reader finds out how, from what is still to be read
			s.wire.closeSoon()
			s.wakeReader()
		}
		if cause != nil {
			s.end(*cause)
			return // still its turn: no other writer comes
		}
		if s.writing.end() {
			return
		}
	}
}

// writeAll writes what there is, as much as possible with one system call.
func (s *socket) writeAll() error {
	buf := writeBuffers.Get().(*writeBuffer)
	defer writeBuffers.Put(buf)
	for more := true; more; {
		var oldest, at int64
		out, closed := s.wire.gather(buf.gathered[:0])
		if s.pingDue.Swap(false) {
			out = append(out, emptyPing...)
		}
		for more = !closed; more && len(out) < flushBytes; {
			if buf.message, at, more = s.conn.Next(buf.message[:0]); more {
				out = appendFrame(out, buf.message)
			}
			if oldest == 0 {
				oldest = at
			}
		}
		var err error
		if buf.gathered, err = s.wire.flush(out); err != nil {
			return err
		}
		if oldest != 0 {
			s.conn.Written(oldest)
		}
	}
	return nil
}

// ping lets the writer send a ping.
func (s *socket) ping() {
	s.pingDue.Store(true)
	s.Wake()
}

// end closes the socket: with the close frame that cause has, unless the peer is gone already. It
// takes closeTime at most, whatever the peer does.
func (s *socket) end(cause error) {
	defer s.all.ended(s)
	s.reader.Wait() // closeSoon has ended it; the library reads the peer's answer in Close
	s.all.parking.remove(s)
	if errors.Is(cause, errGone) {
		_ = s.ws.CloseNow()
		s.wire.shut(false)
		return
	}
	f := signaling.FailureOf(cause)
	s.countClose("server", f.Close)
	s.all.log.Debug("close", "code", f.Close, "reason", f.Reason)
	s.wire.sendDirectly()
	s.wire.readAgain()
	err := s.ws.Close(websocket.StatusCode(f.Close), f.Reason)
	s.wire.shut(err != nil)
}

// countClose counts the end of a connection, by who ended it: 1006 = without a close frame.
func (s *socket) countClose(by string, code int) {
	s.all.closes.WithLabelValues(by, closeLabel(code)).Inc()
}

// closeLabel keeps the label of a metric to codes that mean something here.
func closeLabel(code int) string {
	for _, f := range signaling.Failures {
		if f.Close == code {
			return strconv.Itoa(code)
		}
	}
	switch code {
	case 1000, 1005, 1006:
		return strconv.Itoa(code)
	}
	return "other"
}
