package natsbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"duet/signaling"
)

// On the wire, integers big-endian:
//
//	request  version (1 byte)  milliseconds until the asker gives up (4)  request
//	answer   version (1)  1 = handled, 0 = of a version I do not read (1)  length of the node's name (1)  node  answer
//
// An answer has its request's version. One that says 0 has this form in every version.
// Answers come to <prefix>.v1.re.<node>.<number>, which one subscription covers. nats.Conn's own
// requests would do for Ask, but they block in Publish whatever their context, keep a map entry for
// ever where that fails, and cannot gather the answers of several nodes.
const (
	requestHeader = 1 + 4
	answerHeader  = 1 + 1 + 1

	maxRequests = 200              // handled at a time; more wait
	maxWaiting  = 4096             // of those that wait, here; the rest in the subscription, as frames do
	keepAnswers = 16               // to AskAll, beside those of the known nodes, until they are looked at
	maxRequest  = 30 * time.Second // a request is given up after this, whatever its asker says
)

// errRefused says that a request was not handled: the node is of a release too far away from this one.
var errRefused = errors.New("the node does not read this version's requests: upgrade one release at a time")

var errDisconnected = errors.New("disconnected from NATS")

// Whether a question has left, in asking.state.
const (
	queued int32 = iota
	left
	over
)

// An asking is a question whose answers are waited for.
type asking struct {
	reply   string // subject of the answers
	state   atomic.Int32
	answers chan answer
}

type answer struct {
	node signaling.NodeID
	body []byte
	err  error
}

// leave marks the question as on its way, unless its asker has given it up.
func (a *asking) leave() bool { return a.state.CompareAndSwap(queued, left) }

// giveUp is the error of a question whose time is over: certain where it never left.
func (a *asking) giveUp(cause error) error {
	if a.state.CompareAndSwap(queued, over) {
		return fmt.Errorf("not sent: %w", cause)
	}
	return fmt.Errorf("%w: %w", signaling.ErrUnsure, cause)
}

// end brings an answer. It does not block; what nobody waits for any more is dropped.
func (a *asking) end(with answer) {
	select {
	case a.answers <- with:
	default:
	}
}

// An askings is the questions of this node that are open.
type askings struct {
	mu   sync.Mutex
	last uint64
	open map[string]*asking // by the reply subject
}

func (s *askings) add(prefix string, answers int) *asking {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	a := &asking{reply: prefix + "." + strconv.FormatUint(s.last, 36), answers: make(chan answer, answers)}
	s.open[a.reply] = a
	return a
}

func (s *askings) get(reply string) *asking {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[reply]
}

func (s *askings) remove(a *asking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, a.reply)
}

// failAll ends the questions whose answer was lost with the connection, if it came.
func (s *askings) failAll(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range maps.Values(s.open) {
		if a.state.Load() == left {
			a.end(answer{err: err})
		}
	}
}

// Ask implements signaling.Bus. An error that wraps neither ErrUnsure nor ErrNoNode says that the
// request was not handled. Ask never outlasts ctx.
func (b *bus) Ask(ctx context.Context, to signaling.NodeID, request []byte) ([]byte, error) {
	start := time.Now()
	body, err := b.ask(ctx, to, request)
	outcome := "answered"
	switch {
	case errors.Is(err, signaling.ErrNoNode):
		outcome = "no-node"
	case errors.Is(err, signaling.ErrUnsure):
		outcome = "unsure"
	case err != nil:
		outcome = "failed"
	}
	b.metrics.asks.WithLabelValues(outcome).Observe(time.Since(start).Seconds())
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", to, err)
	}
	return body, nil
}

func (b *bus) ask(ctx context.Context, to signaling.NodeID, request []byte) ([]byte, error) {
	a, err := b.question(ctx, b.subjects.control(to), b.versionFor(to), request, 1)
	if err != nil {
		return nil, err
	}
	defer b.askings.remove(a)
	select {
	case got := <-a.answers:
		return got.body, got.err
	case <-ctx.Done():
		return nil, a.giveUp(context.Cause(ctx))
	}
}

// AskAll implements signaling.Bus. Which nodes live is known from their beacons; the answer of one
// that was not known counts too. The error says that the question did not leave, or that the connection
// was lost over it; answers and silent hold what is known then too.
func (b *bus) AskAll(ctx context.Context, request []byte) (answers map[signaling.NodeID][]byte, silent []signaling.NodeID, err error) {
	answers, waiting := map[signaling.NodeID][]byte{}, map[signaling.NodeID]bool{}
	for _, node := range b.Nodes() {
		waiting[node.ID] = true
	}
	a, err := b.question(ctx, b.subjects.all, b.versionForAll(), request, 2*len(waiting)+keepAnswers)
	if err == nil {
		defer b.askings.remove(a)
		err = gather(ctx, a, waiting, answers)
	}
	if err != nil {
		err = fmt.Errorf("ask all nodes: %w", err)
	}
	return answers, slices.Sorted(maps.Keys(waiting)), err
}

// gather moves nodes from waiting to answers until nobody is waited for or ctx ends.
func gather(ctx context.Context, a *asking, waiting map[signaling.NodeID]bool, answers map[signaling.NodeID][]byte) error {
	for len(waiting) > 0 {
		select {
		case got := <-a.answers:
			if got.err != nil && got.node == "" {
				return got.err
			}
			if got.err == nil {
				answers[got.node] = got.body
				delete(waiting, got.node)
			}
		case <-ctx.Done():
			if err := a.giveUp(context.Cause(ctx)); !errors.Is(err, signaling.ErrUnsure) {
				return err
			}
			return nil
		}
	}
	return nil
}

// question queues a question.
func (b *bus) question(ctx context.Context, subject string, version byte, request []byte, answers int) (*asking, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("not sent: %w", context.Cause(ctx))
	}
	a := b.askings.add(b.subjects.answers, answers)
	if !b.queue.push(outgoing{subject: subject, data: requestBytes(ctx, version, request), way: control, ask: a}) {
		b.askings.remove(a)
		b.full(control)
		return nil, errors.New("not sent: too much waits for the connection to NATS")
	}
	return a, nil
}

func requestBytes(ctx context.Context, version byte, request []byte) []byte {
	wait := maxRequest
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(time.Millisecond, min(wait, time.Until(deadline)))
	}
	p := make([]byte, 0, requestHeader+len(request))
	p = binary.BigEndian.AppendUint32(append(p, version), uint32(wait.Milliseconds()))
	return append(p, request...)
}

// answered brings an answer to whoever waits for it.
func (b *bus) answered(m *nats.Msg) {
	a := b.askings.get(m.Subject)
	if a == nil {
		return // it came too late
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" { // the NATS server's: no responders
		a.end(answer{err: signaling.ErrNoNode})
		return
	}
	refused := len(m.Data) >= answerHeader && m.Data[1] == 0
	if !refused && !b.speaks.reads(m.Data, answerHeader) || len(m.Data) < answerHeader+int(m.Data[2]) {
		b.unreadable(m)
		return
	}
	name := m.Data[answerHeader:][:m.Data[2]]
	got := answer{node: signaling.NodeID(name), body: m.Data[answerHeader+len(name):]}
	if refused {
		got.err = errRefused
	}
	a.end(got)
}

func answerBytes(node signaling.NodeID, version, handled byte, body []byte) []byte {
	p := append(make([]byte, 0, answerHeader+len(node)+len(body)), version, handled, byte(len(node)))
	return append(append(p, node...), body...)
}

// A request waits for its turn.
type request struct {
	reply   string
	version byte
	body    []byte
	until   time.Time
}

// requested queues another node's request. It blocks while maxWaiting others are queued.
func (b *bus) requested(ctx context.Context, requests chan<- request) nats.MsgHandler {
	return func(m *nats.Msg) {
		if !b.speaks.reads(m.Data, requestHeader) {
			b.unreadable(m)
			b.reply(m.Reply, byte(b.speaks.oldest), 0, nil)
			return
		}
		wait := time.Duration(binary.BigEndian.Uint32(m.Data[1:])) * time.Millisecond
		r := request{reply: m.Reply, version: m.Data[0], body: m.Data[requestHeader:], until: time.Now().Add(min(wait, maxRequest))}
		select {
		case requests <- r:
		case <-ctx.Done():
		}
	}
}

// handle answers requests, maxRequests at a time, until ctx ends. One that its asker has given up on
// while it waited is dropped: in a storm the work goes to those that still wait for it.
func (b *bus) handle(ctx context.Context, l signaling.Listener, requests <-chan request) {
	var handlers errgroup.Group
	handlers.SetLimit(maxRequests)
	for ctx.Err() == nil {
		select {
		case r := <-requests:
			handlers.Go(func() error {
				if time.Now().After(r.until) {
					b.metrics.drop(in, "late")
					return nil
				}
				ctx, cancel := context.WithDeadline(ctx, r.until)
				defer cancel()
				b.reply(r.reply, r.version, 1, l.Request(ctx, r.body))
				return nil
			})
		case <-ctx.Done():
		}
	}
	handlers.Wait()
}

func (b *bus) reply(to string, version, handled byte, body []byte) {
	if to == "" {
		return
	}
	if !b.queue.push(outgoing{subject: to, data: answerBytes(b.self, version, handled, body), way: control}) {
		b.full(control)
	}
}
