package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"duet/httpapi/token"
	"duet/httpapi/webhook"
	"duet/signaling"
)

const testAdminToken = "a token of the operator's"

// off is an API that is not opened by any token.
func off(reg prometheus.Registerer) *Operator {
	return NewOperator(OperatorConfig{}, nil, NewEvents(prometheus.NewRegistry()), slog.New(slog.DiscardHandler), reg)
}

// An operatorTest is the operator's API beside a service.
type operatorTest struct {
	*Operator
	http.Handler
	service *service
	holding chan struct{} // closed when the room "stuck" does nothing any more
}

// serveOperator serves with seats for three, all of them the user's that is called user-7. The room "stuck" comes to a halt with its first error.
func serveOperator(t testing.TB, cfg OperatorConfig) *operatorTest {
	o := &operatorTest{holding: make(chan struct{})}
	reg := prometheus.NewRegistry()
	events := NewEvents(reg)
	release := make(chan struct{})
	o.service = serveTCP(t, func(s *settings) {
		s.hub.RoomCapacity = 3
		s.hub.Policy.Authorize = func(context.Context, string, signaling.RoomID) (signaling.Grant, error) {
			return signaling.Grant{Subject: "user-7"}, nil
		}
		s.hub.Policy.Events = func(e signaling.Event) {
			events.Add(e)
			if e.Room == "stuck" && e.Type == "error" {
				close(o.holding)
				<-release
			}
		}
	})
	t.Cleanup(func() { close(release) })
	o.Operator = NewOperator(cfg, o.service.api.hub, events, slog.New(slog.DiscardHandler), reg)
	o.Handler = AdminHandler(reg, o.Operator)
	return o
}

// call makes a request with the operator's token.
func (o *operatorTest) call(ctx context.Context, method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+testAdminToken)
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	return w
}

// An openAPIDoc is what the tests read of openapi.json.
type openAPIDoc struct {
	raw   any
	Paths map[string]map[string]json.RawMessage
}

type apiResponse struct {
	Ref     string `json:"$ref"`
	Content map[string]struct {
		Schema struct {
			Ref string `json:"$ref"`
		}
	}
}

func loadOpenAPI(t testing.TB) (*openAPIDoc, *jsonschema.Compiler) {
	t.Helper()
	doc := &openAPIDoc{}
	if err := json.Unmarshal(openAPI, doc); err != nil {
		t.Fatal(err)
	}
	raw, err := jsonschema.UnmarshalJSON(strings.NewReader(string(openAPI)))
	if err != nil {
		t.Fatal(err)
	}
	doc.raw = raw
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("openapi.json", raw); err != nil {
		t.Fatal(err)
	}
	return doc, c
}

// fits says why text does not fit the schema that ref names.
func fits(c *jsonschema.Compiler, ref, text string) error {
	schema, err := c.Compile("openapi.json" + ref)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

// TestOpenAPI makes a request for every path, method and status that the document has, and wants no
// other answer than it describes.
func TestOpenAPI(t *testing.T) {
	doc, schemas := loadOpenAPI(t)
	secret := []byte("a secret of at least thirty-two bytes")
	o := serveOperator(t, OperatorConfig{Token: testAdminToken, Tokens: token.Config{Secret: secret}})
	noSecret := &operatorTest{Operator: NewOperator(OperatorConfig{Token: testAdminToken}, o.hub, NewEvents(prometheus.NewRegistry()), o.log, prometheus.NewRegistry())}
	noSecret.Handler = AdminHandler(prometheus.NewRegistry(), noSecret.Operator)
	closed := &operatorTest{Operator: off(prometheus.NewRegistry())}
	closed.Handler = AdminHandler(prometheus.NewRegistry(), closed.Operator)

	a, b, c := o.service.open(), o.service.open(), o.service.open()
	a.join("demo", key("a"))
	b.join("demo", "")
	c.join("a/b ü%", "")
	stuck := o.service.open()
	stuck.join("stuck", "")
	stuck.send(`{"type":"message","data":1,"to":"nobody"}`)
	<-o.holding

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	now := t.Context()
	answered := map[string]bool{} // "GET /api/rooms 200"
	for _, tt := range []struct {
		on             *operatorTest
		ctx            context.Context
		method, target string
		body           string
		status         int
		part           string // of the answer
	}{
		{o, now, "GET", "/api/rooms/demo", "", 200, `"sub":"user-7","state":"connected"`},
		{o, now, "GET", "/api/rooms/a%2Fb%20%C3%BC%25", "", 200, `{"room":"a/b ü%"`},
		{o, now, "GET", "/api/rooms/none", "", 404, "no-room"},
		{o, gone, "GET", "/api/rooms/stuck", "", 503, "timeout"},
		{o, now, "GET", "/api/rooms?after=a%2Fb%20%C3%BC%25&limit=1", "", 200, `,"total":3,"next":"demo"}`},
		{o, now, "GET", "/api/rooms?after=stuck", "", 200, `{"rooms":[],"total":3}`},
		{o, now, "GET", "/api/rooms?limit=0", "", 400, "limit"},
		{o, now, "GET", "/api/rooms?limit=501", "", 400, "limit"},
		{o, now, "GET", "/api/rooms?limit=x", "", 400, "limit"},
		{o, gone, "GET", "/api/rooms?after=demo", "", 503, "timeout"},
		{o, now, "POST", "/api/rooms/demo/messages", `{"data": {"text": "hello"} }`, 200, `{"reached":2}`},
		{o, now, "POST", "/api/rooms/demo/messages", `{"data":null,"to":"` + b.id + `"}`, 200, `{"reached":1}`},
		{o, now, "POST", "/api/rooms/demo/messages", `{"data":1,"to":"nobody"}`, 404, "no-peer"},
		{o, now, "POST", "/api/rooms/none/messages", `{"data":1}`, 404, "no-room"},
		{o, now, "POST", "/api/rooms/demo/messages", `{}`, 400, "data is missing"},
		{o, now, "POST", "/api/rooms/demo/messages", ``, 400, "bad-request"},
		{o, now, "POST", "/api/rooms/demo/messages", `{"data":1,"data":2}`, 400, "bad-request"},
		{o, now, "POST", "/api/rooms/demo/messages", `{"data":1,"To":"x"}`, 400, "/To"},
		{o, now, "POST", "/api/rooms/demo/messages", `{"data":"\ud800"}`, 400, "bad-request"},
		{o, now, "POST", "/api/rooms/demo/messages", `{"data":` + strings.Repeat("[", 60) + strings.Repeat("]", 60) + `}`, 200, "reached"},
		{o, now, "POST", "/api/rooms/demo/messages", `{"data":` + strings.Repeat("[", 61) + strings.Repeat("]", 61) + `}`, 400, "deeper than 60"},
		{o, now, "POST", "/api/rooms/demo/messages", `{"data":"` + strings.Repeat("x", 16<<10) + `"}`, 400, "more than 16384 bytes"},
		{o, gone, "POST", "/api/rooms/stuck/messages", `{"data":1}`, 503, "timeout"},
		{o, gone, "DELETE", "/api/rooms/stuck/peers/" + stuck.id, "", 503, "timeout"},
		{o, gone, "DELETE", "/api/rooms/stuck", "", 503, "timeout"},
		{o, now, "DELETE", "/api/rooms/demo/peers/nobody", "", 404, "no-peer"},
		{o, now, "DELETE", "/api/rooms/demo/peers/" + b.id, "", 204, ""},
		{o, now, "DELETE", "/api/rooms/none", "", 404, "no-room"},
		{o, now, "DELETE", "/api/rooms/demo", "", 204, ""},
		{o, now, "POST", "/api/tokens", `{"room":"demo","ttl":60,"name":"Ada","sub":"7","capacity":3}`, 200, `"fragment":"#demo&token=`},
		{o, now, "POST", "/api/tokens", `{"room":"team-*"}`, 200, `"expiresAt"`},
		{o, now, "POST", "/api/tokens", `{}`, 400, "room is missing"},
		{o, now, "POST", "/api/tokens", `{"room":"demo","capacity":9}`, 400, "between 2 and 8"},
		{o, now, "POST", "/api/tokens", `{"room":"demo","ttl":2678401}`, 400, "at most 2678400"},
		{o, now, "POST", "/api/tokens", `{"room":"demo","ttl":-1}`, 400, "ttl"},
		{o, now, "POST", "/api/tokens", `{"room":"demo","exp":5}`, 400, "/exp"},
		{noSecret, now, "POST", "/api/tokens", `{"room":"demo"}`, 409, "DUET_AUTH_SECRET"},
		{o, gone, "GET", "/api/events", "", 200, "retry: 3000"},
		{o, now, "GET", "/api/none", "", 404, "no-path"},
		{o, now, "PUT", "/api/rooms", "", 405, "no-method"},
	} {
		w := tt.on.call(tt.ctx, tt.method, tt.target, tt.body)
		checkAnswer(t, doc, schemas, tt.method, tt.target, w, answered)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.part) {
			t.Errorf("%s %s %.60s: %d %s, want %d %s", tt.method, tt.target, tt.body, w.Code, w.Body, tt.status, tt.part)
		}
	}
	b.wantEnd(4501)
	a.wantEnd(4501)

	// Too many streams; and on every path: no token, a wrong one, and the API off.
	for range maxStreams {
		s, _ := o.events.subscribe("")
		defer o.events.unsubscribe(s)
	}
	checkAnswer(t, doc, schemas, "GET", "/api/events", o.call(now, "GET", "/api/events", ""), answered)
	for path, methods := range doc.Paths {
		target := strings.NewReplacer("{room}", "demo", "{peer}", "x").Replace(path)
		for method := range methods {
			if method == "parameters" {
				continue
			}
			method = strings.ToUpper(method)
			for _, header := range []string{"", "Bearer", "Bearer " + testAdminToken[1:], "Bearer " + testAdminToken + "x", "Basic " + testAdminToken, testAdminToken} {
				r := httptest.NewRequest(method, target, nil)
				r.Header.Set("Authorization", header)
				w := httptest.NewRecorder()
				o.ServeHTTP(w, r)
				checkAnswer(t, doc, schemas, method, target, w, answered)
				if w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" || strings.Contains(w.Body.String(), testAdminToken) {
					t.Errorf("%s %s with %q: %d %s", method, target, header, w.Code, w.Body)
				}
			}
			w := closed.call(now, method, target, "")
			checkAnswer(t, doc, schemas, method, target, w, answered)
			if w.Code != 404 || !strings.Contains(w.Body.String(), "DUET_ADMIN_TOKEN") {
				t.Errorf("off: %s %s: %d %s", method, target, w.Code, w.Body)
			}
			responses := doc.responses(t, path, method)
			for status := range responses {
				if what := fmt.Sprintf("%s %s %s", method, path, status); !answered[what] {
					t.Errorf("%s is described and never came", what)
				}
			}
		}
	}
	if n := testutil.ToFloat64(o.requests.WithLabelValues("no-peer")); n != 2 {
		t.Errorf("no-peer was counted %v times", n)
	}
}

func (d *openAPIDoc) responses(t testing.TB, path, method string) map[string]apiResponse {
	t.Helper()
	var operation struct{ Responses map[string]apiResponse }
	if err := json.Unmarshal(d.Paths[path][strings.ToLower(method)], &operation); err != nil {
		t.Fatal(err)
	}
	return operation.Responses
}

// checkAnswer wants the answer to be described, and notes that it came.
func checkAnswer(t *testing.T, doc *openAPIDoc, schemas *jsonschema.Compiler, method, target string, w *httptest.ResponseRecorder, answered map[string]bool) {
	t.Helper()
	where, _, _ := strings.Cut(target, "?")
	for path := range doc.Paths {
		pattern := "^" + regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(path), `[^/]+`) + "$"
		if doc.Paths[path][strings.ToLower(method)] == nil || !regexp.MustCompile(pattern).MatchString(where) {
			continue
		}
		response, ok := doc.responses(t, path, method)[fmt.Sprint(w.Code)]
		if !ok {
			t.Errorf("%s %s: %d is not described: %s", method, path, w.Code, w.Body)
			return
		}
		answered[fmt.Sprintf("%s %s %d", method, path, w.Code)] = true
		if response.Ref != "" {
			var components struct {
				Components struct{ Responses map[string]apiResponse }
			}
			if err := json.Unmarshal(openAPI, &components); err != nil {
				t.Fatal(err)
			}
			response = components.Components.Responses[strings.TrimPrefix(response.Ref, "#/components/responses/")]
		}
		kind := w.Header().Get("Content-Type")
		content, ok := response.Content[kind]
		switch {
		case len(response.Content) == 0 && kind == "" && w.Body.Len() == 0:
		case !ok:
			t.Errorf("%s %s %d: content %q is not described: %s", method, path, w.Code, kind, w.Body)
		case kind == "application/json":
			if err := fits(schemas, content.Schema.Ref, w.Body.String()); err != nil {
				t.Errorf("%s %s %d: %s: %v", method, path, w.Code, w.Body, err)
			}
		}
		return
	}
	// What the document does not have is an error of its form all the same.
	if err := fits(schemas, "#/components/schemas/Error", w.Body.String()); err != nil {
		t.Errorf("%s %s: %s: %v", method, target, w.Body, err)
	}
}

// TestOpenAPIRoutes compares the document with the routes, the bodies that it asks for with what is
// taken, and the events with their schema.
func TestOpenAPIRoutes(t *testing.T) {
	doc, schemas := loadOpenAPI(t)
	var routes, described []string
	admin := AdminHandler(prometheus.NewRegistry(), off(prometheus.NewRegistry())).(chi.Routes)
	if err := chi.Walk(admin, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if strings.HasPrefix(route, "/api/") {
			routes = append(routes, method+" "+route)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		for method := range methods {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(routes)
	slices.Sort(described)
	if !slices.Equal(routes, described) {
		t.Errorf("described %q\nserved    %q", described, routes)
	}

	for _, ok := range []string{`{"data":1}`, `{"data":null,"to":"x"}`} {
		if err := fits(schemas, "#/components/schemas/Announcement", ok); err != nil {
			t.Error(err)
		}
	}
	for _, e := range []signaling.Event{
		{At: time.Now(), Type: "room-opened", Room: "demo"},
		{At: time.Now(), Type: "left", Room: "demo", Peer: "x", Name: "Ada", Subject: "user-7", Why: "kicked"},
	} {
		if err := fits(schemas, "#/components/schemas/Event", string(webhook.Payload(e))); err != nil {
			t.Error(err)
		}
	}
	w := ask(AdminHandler(prometheus.NewRegistry(), off(prometheus.NewRegistry())), "GET", "/openapi.json")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || !json.Valid(w.Body.Bytes()) {
		t.Errorf("/openapi.json: %d %q", w.Code, w.Header())
	}
	if faults := meta(t).Validate(doc.raw); faults != nil {
		t.Error(faults)
	}
}

// meta is as much of OpenAPI 3.1's own schema as keeps the document's outline right.
func meta(t testing.TB) *jsonschema.Schema {
	t.Helper()
	raw, err := jsonschema.UnmarshalJSON(strings.NewReader(`{
		"type": "object", "required": ["openapi", "info", "paths", "components"],
		"properties": {
			"openapi": {"pattern": "^3\\.1\\."},
			"info": {"type": "object", "required": ["title", "version"]},
			"paths": {"additionalProperties": {"additionalProperties": {"if": {"type": "object"},
				"then": {"required": ["operationId", "summary", "responses"]}}}},
			"webhooks": {"type": "object"}
		}}`))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("meta.json", raw); err != nil {
		t.Fatal(err)
	}
	return c.MustCompile("meta.json")
}

// ---- the stream of events

// An eventServer serves only events, in a bubble.
type eventServer struct {
	*Events
	l *pipeListener
}

func serveEvents(t *testing.T) *eventServer {
	reg := prometheus.NewRegistry()
	s := &eventServer{Events: NewEvents(reg), l: &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}}
	o := NewOperator(OperatorConfig{Token: testAdminToken}, nil, s.Events, slog.New(slog.DiscardHandler), reg)
	server := &http.Server{Handler: AdminHandler(reg, o), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(s.l) })
	t.Cleanup(func() {
		server.Close()
		running.Wait()
	})
	return s
}

// happen adds n events, whose names count on.
func (s *eventServer) happen(n int) {
	for range n {
		s.Add(signaling.Event{At: time.Now(), Type: "joined", Room: "demo", Name: fmt.Sprint(s.added + 1)})
	}
}

// A eventReader reads a stream over a pipe, which holds nothing: what is not read is not written.
type eventReader struct {
	t    *testing.T
	conn net.Conn
	body *bufio.Reader
}

// open begins a stream.
func (s *eventServer) open(t *testing.T, last string) *eventReader {
	t.Helper()
	conn, err := s.l.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nLast-Event-ID: %s\r\n\r\n", testAdminToken, last)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%v, %v", res, err)
	}
	r := &eventReader{t, conn, bufio.NewReader(res.Body)}
	if block := r.next(); block != "retry: 3000" {
		t.Fatalf("the stream begins with %q", block)
	}
	return r
}

// next returns what comes up to the next empty line, "" at the end.
func (r *eventReader) next() string {
	var lines []string
	for {
		line, err := r.body.ReadString('\n')
		if line = strings.TrimSuffix(line, "\n"); line == "" {
			if err != nil && lines != nil {
				r.t.Errorf("cut after %q", lines)
			}
			return strings.Join(lines, "\n")
		}
		lines = append(lines, line)
	}
}

// wants reads events by their numbers.
func (r *eventReader) wants(s *eventServer, from, to int) {
	r.t.Helper()
	for n := from; n <= to; n++ {
		block := r.next()
		var e struct {
			Type string
			Data struct{ Room, Name string }
		}
		id := fmt.Sprintf("id: %s-%d\nevent: joined\ndata: ", s.boot, n)
		data, ok := strings.CutPrefix(block, id)
		if err := json.Unmarshal([]byte(data), &e); !ok || err != nil || e.Type != "joined" || e.Data.Room != "demo" || e.Data.Name != fmt.Sprint(n) {
			r.t.Fatalf("want %q, got %q", id, block)
		}
	}
}

func (r *eventReader) want(block string) {
	r.t.Helper()
	if got := r.next(); got != block {
		r.t.Fatalf("want %q, got %q", block, got)
	}
}

func TestEventStream(t *testing.T) {
	inBubble := func(name string, f func(t *testing.T, s *eventServer)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { f(t, serveEvents(t)) }) })
	}
	const gap, slow = "event: lost\ndata: {\"why\":\"gap\"}", "event: lost\ndata: {\"why\":\"too-slow\"}"
	inBubble("from now on", func(t *testing.T, s *eventServer) {
		s.happen(3)
		r := s.open(t, "")
		s.happen(200)
		r.wants(s, 4, 203)
		began := time.Now()
		r.want(":")
		if silent := time.Since(began); silent != heartbeatEvery {
			t.Errorf("a heartbeat after %v", silent)
		}
		s.happen(1)
		r.wants(s, 204, 204)
	})
	inBubble("after the last one", func(t *testing.T, s *eventServer) {
		s.happen(2 * eventsKept)
		s.open(t, fmt.Sprintf("%s-%d", s.boot, 2*eventsKept-3)).wants(s, 2*eventsKept-2, 2*eventsKept)
		s.open(t, fmt.Sprintf("%s-%d", s.boot, eventsKept)).wants(s, eventsKept+1, 2*eventsKept)
	})
	inBubble("all that are kept", func(t *testing.T, s *eventServer) {
		s.happen(3)
		s.open(t, "0").wants(s, 1, 3)
	})
	for name, last := range map[string]string{"older than what is kept": "%[1]s-%[2]d", "of an earlier process": "x-%[3]d", "nonsense": "nonsense%[1]s%[3]d", "of the future": "%[1]s-9999"} {
		inBubble(name, func(t *testing.T, s *eventServer) {
			s.happen(2 * eventsKept)
			r := s.open(t, fmt.Sprintf(last, s.boot, eventsKept-1, 2*eventsKept-3))
			r.want(gap)
			r.wants(s, eventsKept+1, 2*eventsKept)
		})
	}
	inBubble("a slow reader is told", func(t *testing.T, s *eventServer) {
		r := s.open(t, "")
		s.happen(1)
		synctest.Wait() // it is being written
		s.happen(2 * eventsKept)
		r.wants(s, 1, 1)
		r.want(slow)
		r.want("")
		if n := testutil.ToFloat64(s.dropped); n != 1 {
			t.Errorf("%v were counted", n)
		}
	})
	inBubble("a reader that takes nothing is cut", func(t *testing.T, s *eventServer) {
		s.open(t, "")
		s.happen(1)
		time.Sleep(streamWrite - time.Second)
		synctest.Wait()
		if n := testutil.ToFloat64(s.Events.open); n != 1 {
			t.Errorf("%v streams", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n, dropped := testutil.ToFloat64(s.Events.open), testutil.ToFloat64(s.dropped); n != 0 || dropped != 1 {
			t.Errorf("%v streams, %v dropped", n, dropped)
		}
	})
	inBubble("a reader that goes away", func(t *testing.T, s *eventServer) {
		r := s.open(t, "")
		r.conn.Close()
		synctest.Wait()
		if n, dropped := testutil.ToFloat64(s.Events.open), testutil.ToFloat64(s.dropped); n != 0 || dropped != 0 {
			t.Errorf("%v streams, %v dropped", n, dropped)
		}
	})
}
