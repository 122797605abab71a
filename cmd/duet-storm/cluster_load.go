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
	"time"

	"duet/httpapi/session"
)

const (
	prompt    = time.Second            // a message that takes longer was held up
	lookAgain = 50 * time.Millisecond  // while something is waited for
	speakOn   = 2 * time.Second        // after everything works again
	handful   = 100 * time.Millisecond // from the start of one client to the next few
)

// A party is the rooms of one run, and what was said in them.
type party struct {
	arena *arena
	rate  float64 // messages a second of each member

	mu     sync.Mutex // held for the members' state, never during I/O
	rooms  []*room
	struck time.Time // when the fault began; zero = not yet
	silent bool      // nobody says anything any more
	faults []error
}

type room struct {
	name    string
	members []*member
	mayEnd  bool // its owner was to die: seats may be lost
}

// A member is one client. All but its static part belongs to the party's mutex.
type member struct {
	party  *party
	room   *room
	index  int
	home   int // the node of its first connection
	client *session.Client
	random *rand.Rand // of its goroutine that speaks

	id     string
	here   bool             // had a seat
	fresh  []time.Time      // when it was told that its seat was lost
	open   map[uint64]*word // by seq, of this seat
	said   [][]*word        // by recipient: number n is said[to][n-1]
	next   int              // whom it speaks to
	behind []int            // by sender: the highest number that came

	closed   time.Time // when its last connection ended; zero = there is one, or none yet
	waited   time.Duration
	joinedAt time.Time
	back     time.Duration // from the fault until it had its seat again, the client's own waits left out

	resumes, duplicated, reordered int
}

// A word is one message.
type word struct {
	at      time.Time
	seat    int // how many seats its sender had lost before
	refused bool
	times   int // it came
	gotAt   time.Time
}

// said is a message's data.
type said struct {
	From int    `json:"f"`
	N    int    `json:"n"`
	Pad  string `json:"p"`
}

// newParty makes rooms whose members' first connections go to different nodes; homes says where that of
// a room's n-th member does.
func newParty(a *arena, prefix string, pairs, fours int, rate float64, homes func(room, member int) int) *party {
	p := &party{arena: a, rate: rate}
	for n := range pairs + fours {
		r := &room{name: fmt.Sprintf("%s-%d", prefix, n)}
		size := 2
		if n >= pairs {
			size = 4
		}
		for i := range size {
			m := &member{party: p, room: r, index: i, home: homes(n, i), random: rand.New(rand.NewPCG(a.random.Uint64(), 1)),
				open: map[uint64]*word{}, said: make([][]*word, size), behind: make([]int, size)}
			jitter := rand.New(rand.NewPCG(a.random.Uint64(), 2))
			key := session.Key(fmt.Sprintf("%s-%d", r.name, i))
			m.client = session.New(session.Config{Dial: m.dial, Room: r.name, Key: key, Handle: m.handle, Joined: m.seat,
				Join: joinWithin, Idle: idle, Pong: pong, Wait: firstWait, Limit: mostWait, Random: jitter.Float64})
			r.members = append(r.members, m)
		}
		p.rooms = append(p.rooms, r)
	}
	return p
}

func (p *party) members(yield func(*member) bool) {
	for _, r := range p.rooms {
		for _, m := range r.members {
			if !yield(m) {
				return
			}
		}
	}
}

// run brings everybody in, lets them speak while strike does its work, waits until everything works again
// and has arrived, and lets everybody leave.
func (p *party) run(ctx context.Context, strike func(context.Context) error) error {
	living, cancel := context.WithCancel(ctx)
	var busy sync.WaitGroup
	defer busy.Wait()
	defer cancel()
	for _, first := range []bool{true, false} { // who is first makes the room where it connects
		started := 0
		for m := range p.members {
			if first != (m.index == 0) {
				continue
			}
			busy.Go(func() {
				if err := m.client.Run(living); err != nil && living.Err() == nil {
					p.fault(fmt.Errorf("%s, member %d: %w", m.room.name, m.index, err))
				}
			})
			if started++; started%8 == 0 && !rested(ctx, handful) {
				return ctx.Err()
			}
		}
		if err := p.wait(ctx, time.Minute, "everybody has a seat", func(m *member) bool { return m.here || first && m.index > 0 }); err != nil {
			return err
		}
	}
	var speaking sync.WaitGroup
	for m := range p.members {
		speaking.Go(func() { m.speak(living) })
	}
	if !rested(ctx, speakOn) {
		return ctx.Err()
	}
	err := strike(ctx)
	over := time.Now()
	err = errors.Join(err, p.wait(ctx, 90*time.Second, "every room relays again", func(m *member) bool { return m.heardSince(over) }))
	if err == nil && !rested(ctx, speakOn) {
		err = ctx.Err()
	}
	p.mu.Lock()
	p.silent = true
	p.mu.Unlock()
	speaking.Wait()
	if err == nil {
		// What does not come in time is counted as lost.
		_ = p.wait(ctx, 40*time.Second, "everything has arrived", func(m *member) bool { return m.client.Waiting() == 0 && m.complete() })
	}
	for m := range p.members {
		m.client.Leave()
	}
	left := time.AfterFunc(20*time.Second, cancel)
	defer left.Stop()
	busy.Wait()
	return err
}

// wait looks until every member is as it should be.
func (p *party) wait(ctx context.Context, within time.Duration, what string, as func(*member) bool) error {
	for late := time.Now().Add(within); ; {
		p.mu.Lock()
		var missing []string
		for m := range p.members {
			if !as(m) {
				missing = append(missing, fmt.Sprintf("%s/%d", m.room.name, m.index))
			}
		}
		failed := len(p.faults) > 0
		p.mu.Unlock()
		switch {
		case len(missing) == 0:
			return nil
		case failed:
			return fmt.Errorf("given up, while it is not so that %s: a client failed", what)
		case time.Now().After(late):
			return fmt.Errorf("after %v it is not so that %s: %d members, such as %s", within, what, len(missing), missing[0])
		}
		if !rested(ctx, lookAgain) {
			return ctx.Err()
		}
	}
}

// rested lets time pass; false = ctx has ended.
func rested(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *party) fault(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, err)
}

// begin says that the fault comes now.
func (p *party) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.struck.IsZero() {
		return
	}
	p.struck = time.Now()
	for m := range p.members {
		m.waited = 0
	}
}

// doom says that the seats of rooms may be lost from now on.
func (p *party) doom(doomed func(room string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.rooms {
		r.mayEnd = r.mayEnd || doomed(r.name)
	}
}

// ---- a member

// dial connects to its home at first, then to any node that is ready, as through a balancer.
func (m *member) dial(ctx context.Context) (net.Conn, error) {
	m.party.mu.Lock()
	first := m.id == "" && m.closed.IsZero()
	if !m.closed.IsZero() {
		m.waited += time.Since(m.closed)
		m.closed = time.Time{}
	}
	m.party.mu.Unlock()
	n := m.party.arena.nodes[m.home]
	if !first {
		n = m.party.arena.ready()
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.addr)
	if err != nil {
		m.disconnected()
		return nil, err
	}
	return &watchedConn{conn, m.disconnected}, nil
}

func (m *member) disconnected() {
	m.party.mu.Lock()
	defer m.party.mu.Unlock()
	if m.closed.IsZero() {
		m.closed = time.Now()
	}
}

// A watchedConn says when it is closed on this side.
type watchedConn struct {
	net.Conn
	closed func()
}

func (c *watchedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

func (m *member) seat(joined *session.Message) {
	p := m.party
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	m.joinedAt = now
	if !p.struck.IsZero() {
		m.back = now.Sub(p.struck) - m.waited
	}
	if m.id != "" && m.id != joined.ID {
		p.faults = append(p.faults, fmt.Errorf("%s, member %d: its id was %s and is %s", m.room.name, m.index, m.id, joined.ID))
	}
	m.id = joined.ID
	switch {
	case joined.Resumed:
		m.resumes++
	case m.here:
		m.fresh = append(m.fresh, now)
		m.open = map[uint64]*word{}
	}
	m.here = true
}

func (m *member) handle(msg *session.Message) {
	p := m.party
	p.mu.Lock()
	defer p.mu.Unlock()
	switch msg.Type {
	case "error":
		if w := m.open[msg.Ref]; w != nil {
			w.refused = true
		}
		return
	case "message":
	default:
		return
	}
	var s said
	if err := json.Unmarshal(msg.Data, &s); err != nil || s.From < 0 || s.From >= len(m.room.members) || s.From == m.index {
		p.faults = append(p.faults, fmt.Errorf("%s, member %d: got %.100q", m.room.name, m.index, msg.Data))
		return
	}
	from := m.room.members[s.From]
	if msg.From != from.id || s.N < 1 || s.N > len(from.said[m.index]) {
		p.faults = append(p.faults, fmt.Errorf("%s, member %d: number %d of %d came from %s, who is %s", m.room.name, m.index, s.N, s.From, msg.From, from.id))
		return
	}
	w := from.said[m.index][s.N-1]
	w.times++
	switch {
	case w.times > 1:
		m.duplicated++
		return
	case s.N < m.behind[s.From]:
		m.reordered++
	}
	w.gotAt = time.Now()
	m.behind[s.From] = max(m.behind[s.From], s.N)
}

// speak says numbers to the others in turn, until the party is silent.
func (m *member) speak(ctx context.Context) {
	for rested(ctx, time.Duration((0.5+m.random.Float64())*float64(time.Second)/m.party.rate)) {
		if !m.say() {
			return
		}
	}
}

// say says the next number. One that does not fit into the outbox is not said. False: the party is silent.
func (m *member) say() bool {
	p := m.party
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent {
		return false
	}
	to := m.next % len(m.room.members)
	if to == m.index {
		to = (to + 1) % len(m.room.members)
	}
	m.next = to + 1
	msg := &session.Message{Type: "message"}
	if len(m.room.members) > 2 || len(m.said[to])%2 == 0 { // in a room of two the other one is meant anyway
		msg.To = m.room.members[to].id
	}
	text, err := json.Marshal(said{m.index, len(m.said[to]) + 1, strings.Repeat("x", 60+m.random.IntN(200))})
	if err != nil {
		panic(err) // numbers and a string
	}
	msg.Data = text
	seq, err := m.client.Send(msg)
	if err != nil {
		return errors.Is(err, session.ErrFull)
	}
	w := &word{at: time.Now(), seat: len(m.fresh)}
	m.said[to] = append(m.said[to], w)
	m.open[seq] = w
	return true
}

// heardSince reports whether everybody else has heard of it what it said after a moment.
func (m *member) heardSince(t time.Time) bool {
	for to, words := range m.said {
		if to == m.index {
			continue
		}
		heard := false
		for i := len(words) - 1; i >= 0 && words[i].at.After(t) && !heard; i-- {
			heard = words[i].times > 0
		}
		if !heard {
			return false
		}
	}
	return true
}

// complete reports whether everything it said has come, or it was told.
func (m *member) complete() bool {
	for to, words := range m.said {
		for _, w := range words {
			if w.times == 0 && !w.refused && !m.reported(w, to) {
				return false
			}
		}
	}
	return true
}

// reported says whether a word that did not come was told to be lost: to its sender, whose seat it was
// said from is gone, or to whom it was for, who has lost a seat since.
func (m *member) reported(w *word, to int) bool {
	if w.seat < len(m.fresh) {
		return true
	}
	fresh := m.room.members[to].fresh
	return len(fresh) > 0 && fresh[len(fresh)-1].After(w.at)
}

// ---- the count

// An account is what came of a run, or of several.
type account struct {
	sent, lost, duplicated, reordered, reported, refused, refusedButGot int
	resumes, fresh                                                      int
	relays, back                                                        []time.Duration // of each run
	longest                                                             time.Duration   // that a message took
	owners                                                              int             // of one room at once
}

func (a *account) add(b account) {
	a.sent += b.sent
	a.lost += b.lost
	a.duplicated += b.duplicated
	a.reordered += b.reordered
	a.reported += b.reported
	a.refused += b.refused
	a.refusedButGot += b.refusedButGot
	a.resumes += b.resumes
	a.fresh += b.fresh
	a.relays = append(a.relays, b.relays...)
	a.back = append(a.back, b.back...)
	a.longest = max(a.longest, b.longest)
	a.owners = max(a.owners, b.owners)
}

// account counts. The error says what must not be.
func (p *party) account() (account, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var a account
	var relays, back time.Duration
	var errs []error
	for _, r := range p.rooms {
		for _, m := range r.members {
			a.duplicated += m.duplicated
			a.reordered += m.reordered
			a.resumes += m.resumes
			a.fresh += len(m.fresh)
			back = max(back, m.back)
			if len(m.fresh) > 0 && !r.mayEnd {
				errs = append(errs, fmt.Errorf("%s, member %d: resumed:false %v after the fault, and its owner lived", r.name, m.index,
					m.fresh[0].Sub(p.struck).Round(time.Millisecond)))
			}
			for to, words := range m.said {
				relays = max(relays, a.words(m, to, words, p.struck))
			}
		}
	}
	a.relays, a.back = []time.Duration{relays}, []time.Duration{back}
	if n := a.lost + a.duplicated + a.reordered + a.refusedButGot; n > 0 {
		errs = append(errs, fmt.Errorf("%d lost, %d duplicated, %d reordered, %d refused and delivered", a.lost, a.duplicated, a.reordered, a.refusedButGot))
	}
	return a, some(append(p.faults, errs...))
}

// words counts what one member said to another, and returns how long after the fault the last of it was
// over: when a word came that was prompt, and all after it are.
func (a *account) words(m *member, to int, words []*word, struck time.Time) time.Duration {
	a.sent += len(words)
	held := false // the word before was late, or never came
	var again time.Time
	for n, w := range words {
		switch {
		case w.refused && w.times > 0:
			a.refusedButGot++
		case w.refused:
			a.refused++
		case w.times == 0 && m.reported(w, to):
			a.reported++
		case w.times == 0:
			a.lost++
			m.party.faults = append(m.party.faults, fmt.Errorf("%s: number %d from %d to %d, said %v after the fault, is lost",
				m.room.name, n+1, m.index, to, w.at.Sub(struck).Round(time.Millisecond)))
		}
		late := w.times == 0 || w.gotAt.Sub(w.at) > prompt
		if w.times > 0 {
			a.longest = max(a.longest, w.gotAt.Sub(w.at))
			if late || held {
				again = w.gotAt
			}
		}
		held = late
	}
	if again.IsZero() || struck.IsZero() {
		return 0
	}
	return max(0, again.Sub(struck))
}
