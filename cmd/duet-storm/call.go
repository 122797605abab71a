package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"duet/httpapi/faultproxy"
	"duet/httpapi/session"
)

// What a client that is kicked often does otherwise than a page: it notices sooner.
const (
	joinWithin = 10 * time.Second
	idle       = 2 * time.Second
	pong       = 5 * time.Second
	firstWait  = 100 * time.Millisecond
	mostWait   = 2 * time.Second

	lateWithin = 15 * time.Second // of connections that arrive late; some after their successor
	backWithin = 5 * time.Minute  // from a kick until the client has its seat again
	restWithin = 5 * time.Minute  // from the last kick until everything has arrived
)

// totals are the counts of a storm.
type totals struct {
	calls, sent, refused, resumed, newSeats    atomic.Int64
	lost, duplicated, reordered, refusedButGot atomic.Int64
	kicks                                      [kickKinds]atomic.Int64
	longest                                    atomic.Int64 // nanoseconds a client was away
}

func (t *totals) kicked() (n int64) {
	for i := range t.kicks {
		n += t.kicks[i].Load()
	}
	return n
}

func (t *totals) String() string {
	var kinds []string
	for i := range t.kicks {
		kinds = append(kinds, fmt.Sprintf("%d %s", t.kicks[i].Load(), kickNames[i]))
	}
	return fmt.Sprintf("%d rooms, %d kicks (%s), %d messages, %d lost, %d duplicated, %d reordered, %d refused to their sender, %d of these got; %d resumes, %d seats lost, longest away %v",
		t.calls.Load(), t.kicked(), strings.Join(kinds, ", "), t.sent.Load(), t.lost.Load(), t.duplicated.Load(), t.reordered.Load(),
		t.refused.Load(), t.refusedButGot.Load(), t.resumed.Load(), t.newSeats.Load(), time.Duration(t.longest.Load()).Round(time.Millisecond))
}

func (t *totals) away(d time.Duration) {
	for {
		most := t.longest.Load()
		if int64(d) <= most || t.longest.CompareAndSwap(most, int64(d)) {
			return
		}
	}
}

// violation is what must not have happened.
func (t *totals) violation() error {
	if n := t.lost.Load() + t.duplicated.Load() + t.reordered.Load() + t.refusedButGot.Load() + t.newSeats.Load(); n != 0 {
		return fmt.Errorf("%d violations of exactly once and in order", n)
	}
	return nil
}

// Kinds of kicks.
const (
	kickReset = iota
	kickFinish
	kickBlackHole
	kickMidFrame
	kickKinds
)

var kickNames = [kickKinds]string{"reset", "closed", "black-holed", "cut in mid-frame"}

// A call is a room of two who say numbers to each other while they are kicked.
type call struct {
	server string
	room   string
	kicks  int           // of each side
	every  time.Duration // between two kicks of a side, on average
	rate   float64       // messages a second of each side
	total  *totals

	kicking sync.WaitGroup
	calm    chan struct{} // closed when nobody is kicked any more
}

// run makes the call. Its error says which side failed and how.
func (c *call) run(ctx context.Context, random *rand.Rand) error {
	c.calm = make(chan struct{})
	var sides [2]*side
	for i, name := range []string{"A", "B"} {
		s, err := c.newSide(name, rand.New(rand.NewPCG(random.Uint64(), 0)))
		if err != nil {
			return err
		}
		defer s.proxy.Close()
		sides[i] = s
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var living, speaking sync.WaitGroup
	for _, s := range sides {
		living.Go(func() {
			if err := s.client.Run(ctx); err != nil {
				cancel(fmt.Errorf("%s, %s: %w", c.room, s.name, err))
			}
		})
		c.kicking.Go(func() {
			if err := s.suffer(ctx); err != nil {
				cancel(fmt.Errorf("%s, %s: %w", c.room, s.name, err))
			}
		})
		speaking.Go(func() {
			if err := s.speak(ctx); err != nil {
				cancel(fmt.Errorf("%s, %s: %w", c.room, s.name, err))
			}
		})
	}
	c.kicking.Wait()
	close(c.calm)
	speaking.Wait()
	rest := time.NewTimer(restWithin)
	defer rest.Stop()
	for _, s := range sides {
		select {
		case <-s.complete:
		case <-ctx.Done():
		case <-rest.C:
			cancel(fmt.Errorf("%s: after %v without a kick %s has not got everything", c.room, restWithin, s.name))
		}
	}
	for _, s := range sides {
		s.client.Leave()
	}
	living.Wait()
	c.total.calls.Add(1)
	c.total.add(sides[0], sides[1])
	c.total.add(sides[1], sides[0])
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return nil
}

// A side is one of the two.
type side struct {
	call   *call
	name   string
	proxy  *faultproxy.Proxy
	client *session.Client
	random *rand.Rand // of suffer
	fate   *rand.Rand // of the proxy's plans
	words  *rand.Rand // of speak

	joined   chan struct{} // holds one: it has its seat, again
	peer     chan struct{} // closed when the other is there
	complete chan struct{} // closed when the other's last number came

	mu       sync.Mutex
	kickedAt time.Time // zero = it has its seat
	seated   bool
	there    bool
	ended    bool
	sent     int
	bySeq    map[uint64]int // number by seq, of what may still be refused
	refused  map[int]bool
	got      []int
}

func (c *call) newSide(name string, random *rand.Rand) (*side, error) {
	s := &side{call: c, name: name, random: random, joined: make(chan struct{}, 1), peer: make(chan struct{}), complete: make(chan struct{}),
		fate: rand.New(rand.NewPCG(random.Uint64(), 1)), words: rand.New(rand.NewPCG(random.Uint64(), 2)),
		bySeq: map[uint64]int{}, refused: map[int]bool{}}
	var err error
	if s.proxy, err = faultproxy.Start(c.server, s.plan); err != nil {
		return nil, err
	}
	jitter := rand.New(rand.NewPCG(random.Uint64(), 3))
	s.client = session.New(session.Config{
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", s.proxy.Addr())
		},
		Room: c.room, Name: name, Key: session.Key(c.room + "-" + name), Handle: s.handle, Joined: s.seat,
		Join: joinWithin, Idle: idle, Pong: pong, Wait: firstWait, Limit: mostWait, Random: jitter.Float64,
	})
	return s, nil
}

// plan is how the n-th connection fares beside the kicks: mostly well. Only the proxy's accepting
// goroutines call it, one at a time for this client.
func (s *side) plan(n int) faultproxy.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p faultproxy.Plan
	if n == 0 || s.call.kicks == 0 {
		return p
	}
	switch s.fate.IntN(10) {
	case 0:
		p.Late = time.Duration(s.fate.Float64() * s.fate.Float64() * float64(lateWithin))
	case 1:
		p.Trickle = true
	case 2:
		p.Delay = time.Duration(s.fate.IntN(100)) * time.Millisecond
	}
	return p
}

func (s *side) seat(m *session.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case m.Resumed:
		s.call.total.resumed.Add(1)
	case s.seated:
		s.call.total.newSeats.Add(1)
	}
	if !s.kickedAt.IsZero() {
		s.call.total.away(time.Since(s.kickedAt))
		s.kickedAt = time.Time{}
	}
	s.seated = true
	if len(m.Peers) > 0 {
		s.meet()
	}
	select {
	case s.joined <- struct{}{}:
	default:
	}
}

func (s *side) meet() {
	if !s.there {
		s.there = true
		close(s.peer)
	}
}

// A number is what a side says.
type number struct {
	N    int    `json:"n"`
	Last bool   `json:"last,omitempty"`
	Pad  string `json:"candidate"`
}

func (s *side) handle(m *session.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := m.Data
	switch m.Type {
	case "peer-joined":
		s.meet()
		return
	case "error":
		if n, ok := s.bySeq[m.Ref]; ok {
			s.refused[n] = true
		}
		return
	case "candidate":
		text = m.Candidate
	case "message":
	default:
		return
	}
	var said number
	if err := json.Unmarshal(text, &said); err != nil {
		said.N = -1
	}
	s.got = append(s.got, said.N)
	if said.Last && !s.ended {
		s.ended = true
		close(s.complete)
	}
}

// say sends the next number. A full outbox keeps it for later.
func (s *side) say(last bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := number{N: s.sent + 1, Last: last, Pad: strings.Repeat("x", 60+s.words.IntN(200))}
	if s.words.IntN(50) == 0 {
		n.Pad += strings.Repeat("y", s.words.IntN(8000)) // longer than a read, and than a segment
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	m := &session.Message{Type: "message", Data: text}
	if n.N%2 == 0 {
		m = &session.Message{Type: "candidate", Candidate: text}
	}
	seq, err := s.client.Send(m)
	if err == nil {
		s.sent++
		s.call.total.sent.Add(1)
		s.bySeq[seq] = n.N
	}
	return err
}

// speak says numbers until nobody is kicked any more, and then the last one.
func (s *side) speak(ctx context.Context) error {
	select {
	case <-s.peer:
	case <-ctx.Done():
		return nil
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for last := false; !last; {
		select {
		case <-pause.C:
		case <-s.call.calm:
			last = true
		case <-ctx.Done():
			return nil
		}
		err := s.say(last)
		if errors.Is(err, session.ErrFull) {
			err, last = nil, false
			select { // calm stays closed: this must not spin
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		if err != nil {
			return err
		}
		pause.Reset(time.Duration(s.words.Float64() * 2 * float64(time.Second) / s.call.rate))
	}
	return nil
}

// suffer is kicked as often as it was told.
func (s *side) suffer(ctx context.Context) error {
	back := time.NewTimer(backWithin)
	defer back.Stop()
	for range s.call.kicks {
		select {
		case <-s.joined:
		case <-back.C:
			return fmt.Errorf("not back within %v of a kick", backWithin)
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(time.Duration(s.random.Float64() * 2 * float64(s.call.every))):
		case <-ctx.Done():
			return nil
		}
		kicked, err := s.kick(ctx)
		if err != nil || !kicked {
			return err
		}
		back.Reset(backWithin)
	}
	return nil
}

// kick cuts the connection, which may be between two. The next thing on s.joined is its return.
func (s *side) kick(ctx context.Context) (bool, error) {
	kind := s.random.IntN(kickKinds)
	cut := faultproxy.Cut{Fault: []faultproxy.Fault{faultproxy.Reset, faultproxy.Finish, faultproxy.BlackHole, faultproxy.Reset}[kind]}
	if kind == kickMidFrame {
		cut.Direction, cut.After = faultproxy.Direction(s.random.IntN(2)), 1+s.random.IntN(400)
	}
	select {
	case <-s.joined:
	default:
	}
	before := s.proxy.Fired()
	for s.proxy.Cut(cut) == 0 { // it is away just now
		select {
		case <-s.joined:
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return false, nil
		}
	}
	began := time.Now()
	for s.proxy.Fired() == before { // in mid-frame, as soon as there is one
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return false, nil
		}
		if time.Since(began) > backWithin {
			return false, errors.New("nothing passed on a connection that was to be cut")
		}
	}
	s.call.total.kicks[kind].Add(1)
	s.mu.Lock()
	s.kickedAt = began
	s.mu.Unlock()
	if kind == kickBlackHole && s.random.IntN(2) == 0 {
		s.client.Probe() // the system says that the network has changed
	}
	return true, nil
}

// add compares what to got with what from sent.
func (t *totals) add(from, to *side) {
	from.mu.Lock()
	sent, refused := from.sent, from.refused
	from.mu.Unlock()
	to.mu.Lock()
	defer to.mu.Unlock()
	t.refused.Add(int64(len(refused)))
	r := compare(sent, refused, to.got)
	t.lost.Add(int64(r.lost))
	t.duplicated.Add(int64(r.duplicated))
	t.reordered.Add(int64(r.reordered))
	t.refusedButGot.Add(int64(r.refusedButGot))
}

type result struct{ lost, duplicated, reordered, refusedButGot int }

// compare checks that got is 1, 2, 3 … sent without those refused.
func compare(sent int, refused map[int]bool, got []int) (r result) {
	times := map[int]int{}
	highest := 0
	for _, n := range got {
		if times[n]++; times[n] > 1 {
			r.duplicated++
			continue
		}
		if n < highest {
			r.reordered++
		}
		highest = max(highest, n)
	}
	for n := range sent {
		switch seen := times[n+1] > 0; {
		case refused[n+1] && seen:
			r.refusedButGot++
		case !refused[n+1] && !seen:
			r.lost++
		}
	}
	for _, n := range got {
		if n < 1 || n > sent {
			r.duplicated++ // never sent
		}
	}
	return r
}
