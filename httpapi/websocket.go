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
	t.mu.Lock()
	t.open[s] = struct{}{}
	t.gone.Add(1)
	s.reader.Go(s.read) // before anybody can find s in open, and close it
	late := t.draining
	t.mu.Unlock()
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
// One goroutine reads, as long as the peer says something now and then; in between the socket is
// parked. Another writes, but lives only while there is something to write, and it alone closes the
// socket.
type socket struct {
	// Static once started.
	all   *sockets
	lease *lease
	wire  *wire
	ws    *websocket.Conn
	conn  *signaling.Conn
	place place // while parked

	// Owned by the reader.
	asleep bool // it was parked
	lost   bool // conn.Lost was called

	reader  sync.WaitGroup        // done when the reader has ended
	writer  atomic.Int32          // idle, writing or again
	pingDue atomic.Bool           // the writer is to send one
	cause   atomic.Pointer[error] // why the socket closes; nil = it does not
}

// States of socket.writer.
const (
	idle    = iota // no writer lives
	writing        // one lives
	again          // one lives, and must look once more before it ends
)

// ---- reading

var readBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// read is a reader's life: one message after the other until the connection ends, or is parked.
func (s *socket) read() {
	defer s.all.hub.Recover("connection", func() {
		s.loseSeat(signaling.EndLost)
		s.Close(signaling.ErrRestart)
	})
	if s.asleep {
		s.asleep = false
		s.wire.awake()
	}
	for {
		err := s.readMessage()
		if err == nil {
			continue
		}
		if errors.Is(err, errIdle) {
			if s.park() {
				return
			}
			continue
		}
		if s.isClosing() {
			s.loseSeat(endingOf(*s.cause.Load()))
			return
		}
		how, cause := s.ending(err)
		s.loseSeat(how)
		s.Close(cause)
		return
	}
}

// park leaves the socket to the parking. False: the reader must go on.
func (s *socket) park() bool {
	s.asleep = true
	if s.all.parking.park(s, s.wire.sleep()) {
		return true // from here on another reader may live
	}
	s.asleep, s.wire.parks = false, false
	s.wire.awake()
	return false
}

// readMessage reads one message and hands it to the protocol. An error means that the socket closes,
// or that there is nothing more to read.
func (s *socket) readMessage() error {
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

// Wake implements signaling.Transport: it starts a writer where none lives.
func (s *socket) Wake() {
	for {
		switch state := s.writer.Load(); state {
		case again:
			return
		case writing:
			if s.writer.CompareAndSwap(writing, again) {
				return
			}
		case idle:
			if s.writer.CompareAndSwap(idle, writing) {
				go s.write()
				return
			}
		}
	}
}

// Close implements signaling.Transport. The first cause wins.
func (s *socket) Close(cause error) {
	if s.cause.CompareAndSwap(nil, &cause) {
		s.wire.closeSoon()
		s.wire.stopReading()
		s.all.parking.unpark(s)
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
			s.all.parking.unpark(s)
		}
		if cause != nil {
			s.end(*cause)
			return // still "writing": no other writer comes
		}
		if s.writer.CompareAndSwap(writing, idle) {
			return
		}
		s.writer.Store(writing)
	}
}

// emptyPing is a ping without payload. Any byte that comes back answers it.
const emptyPing = "\x89\x00"

// writeAll writes what there is, as much as possible with one system call.
func (s *socket) writeAll() error {
	buf := writeBuffers.Get().(*writeBuffer)
	defer writeBuffers.Put(buf)
	for more := true; more; {
		var oldest int64
		s.wire.gather(buf.gathered)
		if s.pingDue.Swap(false) {
			_, _ = s.wire.Write([]byte(emptyPing))
		}
		for size := 0; size < flushBytes; size += len(buf.message) {
			var at int64
			if buf.message, at, more = s.conn.Next(buf.message[:0]); !more {
				break
			}
			if oldest == 0 {
				oldest = at
			}
			if s.ws.Write(context.Background(), websocket.MessageText, buf.message) != nil {
				more = false // a close frame was said already: the reader is about to end the socket
				break
			}
		}
		var err error
		if buf.gathered, err = s.wire.flush(); err != nil {
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
