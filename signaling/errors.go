package signaling

import "errors"

// What can go wrong, as the protocol names it (sections 6 and 7). Match with errors.Is.
var (
	ErrBadMessage    = errors.New("bad message")
	ErrUnknownType   = errors.New("unknown type")
	ErrNotJoined     = errors.New("not joined")
	ErrAlreadyJoined = errors.New("already joined")
	ErrRoomFull      = errors.New("room full")
	ErrNoPeer        = errors.New("no peer")
	ErrBusy          = errors.New("busy")
	ErrRateLimited   = errors.New("rate limited")
	ErrUnauthorized  = errors.New("unauthorized")
	ErrForbidden     = errors.New("forbidden")
	ErrStaleAttempt  = errors.New("stale attempt")
	ErrOutOfSync     = errors.New("out of sync")
	ErrServerFull    = errors.New("server full")

	ErrGoingAway    = errors.New("going away")
	ErrProtocol     = errors.New("broken WebSocket framing")
	ErrNotText      = errors.New("binary message")
	ErrNotUTF8      = errors.New("invalid UTF-8")
	ErrPolicy       = errors.New("policy")
	ErrTooBig       = errors.New("message over the limit")
	ErrRestart      = errors.New("restart")
	ErrJoinTimeout  = errors.New("join timeout")
	ErrTooSlow      = errors.New("too slow")
	ErrReconnecting = errors.New("reconnecting")
	ErrReplaced     = errors.New("replaced")
	ErrKicked       = errors.New("kicked")
)

// A Failure is what one sentinel looks like to a client.
type Failure struct {
	Err    error
	Code   string // "code" of the error message; "" where only the close speaks
	Close  int    // WebSocket close code; 0 leaves the connection open
	Reason string // the close's reason: one constant word, so that it always fits a close frame
}

// Failures lists every sentinel of this package (docs/protocol.md, sections 6 and 7). Of the
// private close codes (RFC 6455 section 7.4.2) 4000-4499 mean "come back", 4500-4999 "do not".
var Failures = []Failure{
	{ErrBadMessage, "bad-message", 0, ""},
	{ErrUnknownType, "unknown-type", 0, ""},
	{ErrNotJoined, "not-joined", 0, ""},
	{ErrAlreadyJoined, "already-joined", 0, ""},
	{ErrRoomFull, "room-full", 0, ""},
	{ErrNoPeer, "no-peer", 0, ""},
	{ErrBusy, "busy", 0, ""},
	{ErrRateLimited, "rate-limited", 0, ""},
	{ErrUnauthorized, "unauthorized", 0, ""},
	{ErrForbidden, "forbidden", 0, ""},
	{ErrStaleAttempt, "stale-attempt", 0, ""},
	{ErrOutOfSync, "out-of-sync", 4002, "out-of-sync"},
	{ErrServerFull, "server-full", 0, ""},

	{ErrGoingAway, "", 1001, ""},
	{ErrProtocol, "", 1002, ""},
	{ErrNotText, "", 1003, ""},
	{ErrNotUTF8, "", 1007, ""},
	{ErrPolicy, "", 1008, "policy"},
	{ErrTooBig, "", 1009, ""},
	{ErrRestart, "", 1012, "restart"},
	{ErrJoinTimeout, "", 4000, "join-timeout"},
	{ErrTooSlow, "", 4001, "too-slow"},
	{ErrReconnecting, "", 4100, "reconnecting"},
	{ErrReplaced, "", 4500, "replaced"},
	{ErrKicked, "", 4501, "kicked"},
}

// FailureOf finds err's row. An error outside the table is the server's own trouble: its text
// stays in our log and the client is told to come back (1012).
func FailureOf(err error) Failure {
	for _, f := range Failures {
		if errors.Is(err, f.Err) {
			return f
		}
	}
	return Failure{Err: err, Close: 1012, Reason: "restart"}
}

// A refusal answers one message of a client: an error message in the making (section 6).
type refusal struct {
	err        error  // a sentinel with a Code
	text       string // for people: what to do about it
	kind       string // type of the message it answers; "" where it could not be read
	seq        uint64 // that message's seq; 0 = none
	retryAfter int    // seconds; 0 = not said
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.err }
