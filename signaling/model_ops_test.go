package signaling

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// What the model and the rooms are put through: a scene, and operations of the clients in it. An
// operation says what a client does in words that fit whatever happened before ("the next message",
// "one behind"), so that a sequence stays one when operations are taken out of it.
type scene struct {
	Capacity  int
	Clients   int
	Plain     int  // bit i: client i has no session
	Eager     int  // bit i: what is said to client i is fetched at once; else only by read
	Elsewhere int  // bit i: client i joins another room
	Calm      bool // two more clients in a room of their own, which must notice nothing of the rest
	Rate      int  // messages a second
	Burst     int
}

// An op is one operation. Conn counts the client's connections from the newest, 0. What A, B and C
// mean depends on Do.
type op struct {
	Do        verb
	Who, Conn int
	A, B, C   int
}

type verb string

const (
	opOpen    verb = "open"    // a new connection, with the next attempt
	opCome    verb = "come"    // open, and join
	opJoin    verb = "join"    // A: attempt, B: received, C: what else
	opSend    verb = "send"    // A: seq, B: to, C: what
	opBad     verb = "bad"     // A: what is wrong with it, B: how often
	opAck     verb = "ack"     // A: received
	opLeave   verb = "leave"   // A: seq
	opPing    verb = "ping"    // A: how often
	opLose    verb = "lose"    // A: Ending
	opCut     verb = "cut"     // what the server says arrives no more, and nobody notices
	opHold    verb = "hold"    // what the server says arrives later: at the next hold
	opRead    verb = "read"    // A: how much, 0 = all
	opVisit   verb = "visit"   // A: how often somebody without session comes and goes
	opReload  verb = "reload"  // the page is loaded again: a new session
	opWait    verb = "wait"    // A: how long
	opStall   verb = "stall"   // A: how long the whole server stands still
	opRestart verb = "restart" // the server ends, and another begins
)

const calmClients = 2

// A of opSend and opLeave.
const (
	seqRight = iota
	seqAgain
	seqGap
	seqMissing
	numSeqs
)

// A of opAck, and B of opJoin.
const (
	receivedRight = iota
	receivedAbove
	receivedBelow
	receivedNone
	numReceived
)

// A of opJoin.
const (
	attemptOwn    = iota // the one that this connection was opened with
	attemptNewest        // the newest there was
	attemptLower         // one below that
	numAttempts
)

// C of opJoin.
const (
	joinPlainly        = iota
	joinReplaces       // the earlier page load
	joinReplacesOther  // the next client
	joinReplacesNobody // a key that no seat has
	joinElsewhere      // the other room
	joinNamed
	joinWithoutSince
	joinSinceBefore // an earlier attempt than it should be
	numJoins
)

// B of opSend: everybody, client B-1, or somebody unknown.
const (
	toAll    = 0
	toNobody = 7
	numTos   = 8
)

// C of opSend.
var sends = []struct {
	kind   string
	bytes  int // of the payload, about
	repeat int
}{
	{"message", 0, 1}, {"offer", 0, 1}, {"answer", 0, 1}, {"candidate", 0, 1},
	{"candidate", 0, 7}, {"message", 60 << 10, 1}, {"message", 20 << 10, 2}, {"message", 700, 40},
	{"message", 0, 90}, {"candidate", 0, 260},
}

// A of opBad: the message, what the server is to find wrong with it, and the seq it has.
var bads = []struct {
	json, fault, kind string
	seq               int
}{
	{`not JSON`, "bad-message", "", seqMissing},
	{`{"type":"dance"}`, "unknown-type", "dance", seqMissing},
	{`{"type":"dance","seq":%d}`, "unknown-type", "dance", seqRight},
	{`{"type":"dance","seq":%d}`, "unknown-type", "dance", seqAgain},
	{`{"type":"offer","seq":%d}`, "bad-message", "offer", seqRight},
	{`{"type":"candidate","candidate":7,"seq":%d}`, "bad-message", "candidate", seqAgain},
	{`{"type":"message","seq":%d}`, "bad-message", "message", seqGap},
	{`{"type":"answer"}`, "bad-message", "answer", seqMissing},
	{`{"type":"leave","seq":0}`, "bad-message", "leave", seqMissing},
	{`{"type":"ack"}`, "bad-message", "ack", seqMissing},
	{`{"type":"ack","seq":%d}`, "bad-message", "ack", seqGap},
	{`{"type":"join"}`, "bad-message", "join", seqMissing},
}

// B of opBad, A of opPing and of opVisit.
var (
	badRepeats   = []int{1, 2, 9, 10}
	pingRepeats  = []int{1, 3, 30, 70}
	visitRepeats = []int{1, 2, 30, 31, 32}
)

// A of opWait: the bounds of the protocol, and the moments around them. The last three are those
// around the next thing that is due.
var waits = []time.Duration{
	time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond,
	999 * time.Millisecond, time.Second, 1001 * time.Millisecond,
	1999 * time.Millisecond, 2 * time.Second, 2001 * time.Millisecond,
	7999 * time.Millisecond, 8 * time.Second, 8001 * time.Millisecond,
	29999 * time.Millisecond, 30 * time.Second, 30001 * time.Millisecond, 3 * time.Minute,
	waitDue - time.Millisecond, waitDue, waitDue + time.Millisecond,
}

const waitDue = -time.Hour // stands for the time until something is due

// A of opStall.
var stalls = []time.Duration{6 * time.Second, 45 * time.Second, 3 * time.Hour}

// wish lists the verbs, each as often as it is wanted.
var wish = func() (all []verb) {
	for _, v := range []struct {
		do    verb
		times int
	}{
		{opOpen, 3}, {opCome, 12}, {opJoin, 9}, {opSend, 26}, {opBad, 3}, {opAck, 9}, {opLeave, 3}, {opPing, 1},
		{opLose, 10}, {opCut, 3}, {opHold, 4}, {opRead, 14}, {opReload, 2}, {opVisit, 2}, {opWait, 14}, {opStall, 1},
	} {
		for range v.times {
			all = append(all, v.do)
		}
	}
	return all
}()

// A chooser makes the choices of a sequence: at random, or out of a fuzzer's bytes.
type chooser interface{ choose(n int) int }

type randomChooser struct{ *rand.Rand }

func newRandomChooser(seed, number uint64) randomChooser {
	return randomChooser{rand.New(rand.NewPCG(seed, number))}
}

func (c randomChooser) choose(n int) int { return c.IntN(n) }

type byteChooser struct{ left []byte }

func (c *byteChooser) choose(n int) int {
	if len(c.left) == 0 {
		return 0
	}
	b := int(c.left[0])
	c.left = c.left[1:]
	return b % n
}

// seldom is 0 but in one of times cases, where it is anything below n.
func seldom(c chooser, times, n int) int {
	if c.choose(times) > 0 {
		return 0
	}
	return c.choose(n)
}

func generateScene(c chooser) scene {
	s := scene{Capacity: 2 + c.choose(3), Clients: 2 + c.choose(3), Rate: 1000, Burst: 10000}
	all := 1 << s.Clients
	if c.choose(3) == 0 {
		s.Plain = c.choose(all)
	}
	switch c.choose(3) {
	case 0:
		s.Eager = c.choose(all)
	case 1:
		s.Eager = all - 1
	}
	if c.choose(5) == 0 {
		s.Elsewhere = c.choose(all)
	}
	s.Calm = c.choose(5) == 0
	if c.choose(12) == 0 {
		s.Rate, s.Burst = 5, 20
	}
	return s
}

func generateOp(c chooser, s scene) op {
	o := op{Do: wish[c.choose(len(wish))], Who: c.choose(s.everybody()), Conn: seldom(c, 5, 3)}
	if s.Calm == false && c.choose(150) == 0 {
		return op{Do: opRestart}
	}
	switch o.Do {
	case opJoin:
		o.A, o.B, o.C = seldom(c, 3, numAttempts), seldom(c, 4, numReceived), seldom(c, 2, numJoins)
	case opSend:
		o.A, o.B, o.C = seldom(c, 12, numSeqs), seldom(c, 3, numTos), seldom(c, 3, len(sends))
	case opBad:
		o.A, o.B = c.choose(len(bads)), seldom(c, 4, len(badRepeats))
	case opAck:
		o.A = seldom(c, 8, numReceived)
	case opLeave:
		o.A = seldom(c, 6, numSeqs)
	case opPing:
		o.A = c.choose(len(pingRepeats))
	case opVisit:
		o.A = c.choose(len(visitRepeats))
	case opLose:
		o.A = []int{int(EndLost), int(EndSilent), int(EndGoingAway), int(EndLeft), int(EndViolation)}[seldom(c, 2, 5)]
	case opRead:
		o.A = seldom(c, 2, 5)
	case opWait:
		o.A = c.choose(len(waits))
		o.Who, o.Conn = 0, 0
	case opStall:
		o.A = c.choose(len(stalls))
		o.Who, o.Conn = 0, 0
	}
	return o
}

// generate begins with everybody in a room: what comes after that is more telling.
func generate(c chooser, length int) (scene, []op) {
	s := generateScene(c)
	ops := make([]op, 0, length)
	for i := range s.everybody() {
		ops = append(ops, op{Do: opCome, Who: i})
	}
	for len(ops) < length {
		ops = append(ops, generateOp(c, s))
	}
	return s, ops
}

func (s scene) everybody() int {
	if s.Calm {
		return s.Clients + calmClients
	}
	return s.Clients
}

const sceneFormat = "scene capacity=%d clients=%d plain=%d eager=%d elsewhere=%d calm=%t rate=%d burst=%d"

// program writes a sequence down, one operation a line; parseProgram reads it.
func program(s scene, ops []op) string {
	var b strings.Builder
	fmt.Fprintf(&b, sceneFormat+"\n", s.Capacity, s.Clients, s.Plain, s.Eager, s.Elsewhere, s.Calm, s.Rate, s.Burst)
	for _, o := range ops {
		fmt.Fprintf(&b, "%s %d %d  %d %d %d\n", o.Do, o.Who, o.Conn, o.A, o.B, o.C)
	}
	return b.String()
}

func parseProgram(text string) (s scene, ops []op, err error) {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		switch {
		case strings.TrimSpace(line) == "":
		case strings.HasPrefix(line, "scene"):
			_, err = fmt.Sscanf(line, sceneFormat, &s.Capacity, &s.Clients, &s.Plain, &s.Eager, &s.Elsewhere, &s.Calm, &s.Rate, &s.Burst)
		default:
			var o op
			_, err = fmt.Sscan(line, &o.Do, &o.Who, &o.Conn, &o.A, &o.B, &o.C)
			ops = append(ops, o)
		}
		if err != nil {
			return s, ops, fmt.Errorf("%q: %w", line, err)
		}
	}
	return s, ops, lines.Err()
}
