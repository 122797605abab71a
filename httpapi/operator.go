package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"

	"duet/httpapi/token"
	"duet/signaling"
)

// MinAdminToken is the least number of characters of the operator's token.
const MinAdminToken = 20

const (
	operationTimeout = 5 * time.Second // for one call on a room
	maxOperatorBody  = 16 << 10        // bytes of a request
	maxDataDepth     = 60              // nesting of a message's data: with its envelope less than a client may send
	roomsDefault     = 100             // rooms on a page
	roomsMost        = 500
	ttlDefault       = time.Hour // of a token
)

// An OperatorConfig holds what the operator's API needs.
type OperatorConfig struct {
	Token  string       // that opens it, at least MinAdminToken characters; "" = the API is off
	Tokens token.Config // by which POST /api/tokens signs; without a secret it does not
}

// An Operator serves the operator's API, described in openapi.json.
type Operator struct {
	// Static after construction.
	cfg      OperatorConfig
	key      [sha256.Size]byte // of the token
	hub      *signaling.Hub
	events   *Events
	log      *slog.Logger
	requests *prometheus.CounterVec
}

// NewOperator makes the API of hub, with the stream of events. Its metrics are registered with reg.
func NewOperator(cfg OperatorConfig, hub *signaling.Hub, events *Events, log *slog.Logger, reg prometheus.Registerer) *Operator {
	o := &Operator{cfg: cfg, key: sha256.Sum256([]byte(cfg.Token)), hub: hub, events: events,
		log: log.With("component", "operator"),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_api_requests_total", Help: "Requests to the operator's API, by outcome: ok, or the code of the error."}, []string{"outcome"}),
	}
	o.requests.WithLabelValues("ok")
	for _, f := range []*fault{errOff, errNoToken, errNoPath, errNoMethod, errNoRoom, errNoPeer, errNoSecret, errTimeout, errStreams} {
		o.requests.WithLabelValues(f.Code)
	}
	o.requests.WithLabelValues(badRequest("").Code)
	reg.MustRegister(o.requests)
	return o
}

//go:embed openapi.json
var openAPI []byte

// routes adds the API and its description.
func (o *Operator) routes(r chi.Router) {
	r.Get("/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openAPI)
	})
	r.Route("/api", func(r chi.Router) {
		r.Use(o.authenticate)
		r.NotFound(o.serve(func(*http.Request) (any, error) { return nil, errNoPath }))
		r.MethodNotAllowed(o.serve(func(*http.Request) (any, error) { return nil, errNoMethod }))
		r.Get("/rooms", o.serve(o.listRooms))
		r.Get("/rooms/{room}", o.serve(o.showRoom))
		r.Delete("/rooms/{room}", o.serve(o.closeRoom))
		r.Delete("/rooms/{room}/peers/{peer}", o.serve(o.kick))
		r.Post("/rooms/{room}/messages", o.serve(o.announce))
		r.Post("/tokens", o.serve(o.makeToken))
		r.Get("/events", o.streamEvents)
	})
}

// A fault is an error of the API: {"code","message"}.
type fault struct {
	status  int
	Code    string `json:"code"`
	Message string `json:"message"` // for people: what to do
}

func (f *fault) Error() string { return f.Message }

var (
	errOff      = &fault{404, "off", "The operator's API is off: set DUET_ADMIN_TOKEN, at least 20 characters."}
	errNoToken  = &fault{401, "unauthorized", "This needs the operator's token: Authorization: Bearer, and then the value of DUET_ADMIN_TOKEN."}
	errNoPath   = &fault{404, "no-path", "There is nothing here: /openapi.json lists what there is."}
	errNoMethod = &fault{405, "no-method", "This is not done with that method: /openapi.json lists what there is."}
	errNoRoom   = &fault{404, "no-room", "There is no such room. A room begins with its first peer and ends with its last."}
	errNoPeer   = &fault{404, "no-peer", "There is no such peer in the room."}
	errNoSecret = &fault{409, "no-secret", "No token is signed here: set DUET_AUTH_SECRET, at least 32 bytes."}
	errTimeout  = &fault{503, "timeout", "The room did not answer in time: try again."}
	errStreams  = &fault{503, "too-many-streams", "As many streams of events are open as there may be: close one."}
)

func badRequest(text string) *fault { return &fault{400, "bad-request", text} }

// authenticate lets requests with the operator's token through. Hashes are compared, in constant time,
// so that neither the token's length nor its beginning shows in how long it takes.
func (o *Operator) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.cfg.Token == "" {
			o.fail(w, errOff)
			return
		}
		scheme, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		given := sha256.Sum256([]byte(strings.TrimSpace(credentials)))
		if right := subtle.ConstantTimeCompare(given[:], o.key[:]) == 1; !right || !strings.EqualFold(scheme, "bearer") {
			w.Header().Set("WWW-Authenticate", `Bearer realm="duet"`)
			o.fail(w, errNoToken)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// serve makes a handler of what answers with a value, or nil for 204, or with an error.
func (o *Operator) serve(answer func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), operationTimeout)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxOperatorBody)
		v, err := answer(r.WithContext(ctx))
		if err != nil {
			o.fail(w, faultOf(err))
			return
		}
		o.requests.WithLabelValues("ok").Inc()
		if r.Method != http.MethodGet {
			o.log.Info("done for the operator", "method", r.Method, "path", r.URL.Path)
		}
		if v == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		writeJSON(w, http.StatusOK, v)
	}
}

// faultOf returns what the API says of err.
func faultOf(err error) *fault {
	if f, ok := errors.AsType[*fault](err); ok {
		return f
	}
	switch {
	case errors.Is(err, signaling.ErrNoRoom):
		return errNoRoom
	case errors.Is(err, signaling.ErrNoSeat):
		return errNoPeer
	}
	return errTimeout
}

func (o *Operator) fail(w http.ResponseWriter, f *fault) {
	o.requests.WithLabelValues(f.Code).Inc()
	writeJSON(w, f.status, f)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic("operator's API: " + err.Error()) // our own types
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n'))
}

// ---- rooms

// A roomLine is a room in the list.
type roomLine struct {
	Room      signaling.RoomID `json:"room"`
	Node      signaling.NodeID `json:"node,omitzero"` // of a cluster, that runs the room
	OpenedAt  time.Time        `json:"openedAt"`
	Connected int              `json:"connected"` // seats
	Away      int              `json:"away"`      // seats kept for somebody who lost the connection
}

type roomPage struct {
	Rooms []roomLine `json:"rooms"`
	Total int        `json:"total"` // rooms on the server
	// Nodes of a cluster that live and did not answer in time: their rooms are missing.
	Partial []signaling.NodeID `json:"partial,omitzero"`
	Next    signaling.RoomID   `json:"next,omitzero"` // the value of after for the next page; "" = this is the last
}

// listRooms returns a page of rooms in the order of their names.
func (o *Operator) listRooms(r *http.Request) (any, error) {
	query := r.URL.Query()
	limit := roomsDefault
	if text := query.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > roomsMost {
			return nil, badRequest(fmt.Sprintf("limit is a whole number from 1 to %d.", roomsMost))
		}
	}
	list, err := o.hub.List(r.Context(), signaling.RoomID(query.Get("after")), limit)
	if err != nil {
		return nil, err
	}
	page := roomPage{Rooms: []roomLine{}, Total: list.Total, Partial: list.Silent}
	if list.More && len(list.Rooms) > 0 {
		page.Next = list.Rooms[len(list.Rooms)-1].ID
	}
	for _, info := range list.Rooms {
		line := roomLine{Room: info.ID, Node: info.Node, OpenedAt: info.OpenedAt.UTC()}
		for _, s := range info.Seats {
			if s.Away {
				line.Away++
			} else {
				line.Connected++
			}
		}
		page.Rooms = append(page.Rooms, line)
	}
	return page, nil
}

// A seatView is a seat of a room.
type seatView struct {
	ID       signaling.PeerID `json:"id"`
	Name     string           `json:"name,omitzero"`
	Subject  string           `json:"sub,omitzero"` // of its token
	State    string           `json:"state"`        // connected or away
	Session  bool             `json:"session"`      // whether it outlives its connection
	Since    time.Time        `json:"since"`        // the beginning of its connection, or of the last one
	Received uint64           `json:"received"`     // counted messages from it; 0 without a session
	Sent     uint64           `json:"sent"`         // messages to it
	Ring     ringView         `json:"ring"`
	Node     signaling.NodeID `json:"node,omitzero"` // of a cluster, that its connection is on
}

// A ringView is what waits for a seat, for delivery or acknowledgement.
type ringView struct {
	Messages int `json:"messages"`
	Bytes    int `json:"bytes"`
}

type roomView struct {
	Room     signaling.RoomID `json:"room"`
	Node     signaling.NodeID `json:"node,omitzero"` // of a cluster, that runs the room
	OpenedAt time.Time        `json:"openedAt"`
	Seats    []seatView       `json:"seats"` // earliest first
}

func (o *Operator) showRoom(r *http.Request) (any, error) {
	info, err := o.hub.Inspect(r.Context(), roomOf(r))
	if err != nil {
		return nil, err
	}
	view := roomView{Room: info.ID, Node: info.Node, OpenedAt: info.OpenedAt.UTC(), Seats: []seatView{}}
	for _, s := range info.Seats {
		state := "connected"
		if s.Away {
			state = "away"
		}
		view.Seats = append(view.Seats, seatView{ID: s.ID, Name: s.Name, Subject: s.Subject, State: state, Session: s.Session, Since: s.Since.UTC(),
			Received: s.Received, Sent: s.Sent, Ring: ringView{s.Waiting, s.Bytes}, Node: s.Node})
	}
	return view, nil
}

func (o *Operator) closeRoom(r *http.Request) (any, error) {
	return nil, o.hub.CloseRoom(r.Context(), roomOf(r))
}

func (o *Operator) kick(r *http.Request) (any, error) {
	return nil, o.hub.Kick(r.Context(), roomOf(r), signaling.PeerID(segment(r, "peer")))
}

type announcement struct {
	Data jsontext.Value   `json:"data"`
	To   signaling.PeerID `json:"to"` // "" = all in the room
}

type announced struct {
	Reached int `json:"reached"` // peers
}

func (o *Operator) announce(r *http.Request) (any, error) {
	var a announcement
	if err := readBody(r, &a); err != nil {
		return nil, err
	}
	if a.Data == nil {
		return nil, badRequest("data is missing: any JSON value.")
	}
	if tooDeep(a.Data) {
		return nil, badRequest(fmt.Sprintf("data is nested deeper than %d.", maxDataDepth))
	}
	if err := a.Data.Compact(); err != nil { // it was read as JSON
		return nil, err
	}
	reached, err := o.hub.Announce(r.Context(), roomOf(r), a.To, a.Data)
	return announced{reached}, err
}

// tooDeep reports whether v, which is valid JSON, is nested deeper than maxDataDepth.
func tooDeep(v jsontext.Value) bool {
	for d := jsontext.NewDecoder(bytes.NewReader(v)); ; {
		if _, err := d.ReadToken(); err != nil { // the end
			return false
		}
		if d.StackDepth() > maxDataDepth {
			return true
		}
	}
}

// ---- tokens

type tokenWish struct {
	Room     string `json:"room"`
	TTL      int    `json:"ttl"` // seconds; 0 = an hour
	Subject  string `json:"sub"`
	Name     string `json:"name"`
	Capacity int    `json:"capacity"`
}

type tokenMade struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expiresAt"`
	Fragment  string    `json:"fragment,omitzero"` // behind the page's address it makes an invite link; not for a pattern
}

func (o *Operator) makeToken(r *http.Request) (any, error) {
	if len(o.cfg.Tokens.Secret) == 0 {
		return nil, errNoSecret
	}
	var wish tokenWish
	if err := readBody(r, &wish); err != nil {
		return nil, err
	}
	if wish.TTL < 0 || wish.TTL > int(token.MaxTTL/time.Second) {
		return nil, badRequest(fmt.Sprintf("ttl is in seconds, at most %d.", int(token.MaxTTL/time.Second)))
	}
	ttl := cmp.Or(time.Duration(wish.TTL)*time.Second, ttlDefault)
	claims := token.Claims{Room: wish.Room, Name: wish.Name, Capacity: wish.Capacity}
	claims.Subject = wish.Subject
	text, until, err := token.Sign(o.cfg.Tokens, claims, ttl)
	if err != nil {
		return nil, badRequest("The token cannot be: " + err.Error() + ".")
	}
	return tokenMade{Token: text, ExpiresAt: until.UTC(), Fragment: token.Fragment(wish.Room, text)}, nil
}

// ---- requests

// roomOf returns the room that a request's path names.
func roomOf(r *http.Request) signaling.RoomID { return signaling.RoomID(segment(r, "room")) }

// segment returns a part of a request's path, decoded: a room's name may hold anything, a slash too.
func segment(r *http.Request, name string) string {
	text := chi.URLParam(r, name)
	if r.URL.RawPath == "" { // then the router went by the decoded path
		return text
	}
	text, _ = url.PathUnescape(text) // of a URL that was parsed
	return text
}

// readBody reads a JSON object, strictly: a misspelt member must not be taken for one left out.
func readBody(r *http.Request, v any) error {
	data, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return badRequest(fmt.Sprintf("The body has more than %d bytes.", maxOperatorBody))
	}
	if err != nil {
		return badRequest("The body did not arrive.")
	}
	if err := json.Unmarshal(data, v, json.RejectUnknownMembers(true)); err != nil {
		return badRequest("The body is not the JSON object that /openapi.json describes: " + where(err))
	}
	return nil
}

// where says at what place err arose, without quoting the text.
func where(err error) string {
	if e, ok := errors.AsType[*json.SemanticError](err); ok && e.JSONPointer != "" {
		return fmt.Sprintf("see %s.", e.JSONPointer)
	}
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Sprintf("see byte %d.", e.ByteOffset)
	}
	return "see its members."
}
