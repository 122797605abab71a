package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/pion/turn/v4"
)

// marker is in everything that has to stay secret in TestNoSecretGetsOut.
const marker = "hunter2"

// secretSettings has a value for each setting that is secret, to be filled in where it holds %s.
var secretSettings = map[string]string{
	"DUET_ICE_SERVERS":    `[{"urls":"turn:192.0.2.1","username":"u","credential":"` + marker + `"}]`,
	"DUET_TURN_SECRET":    marker + "-the-secret-of-the-relay",
	"DUET_AUTH_SECRET":    marker + "-the-secret-that-signs-tokens",
	"DUET_ADMIN_TOKEN":    marker + "-the-operators-token",
	"DUET_WEBHOOK_URL":    "%s/" + marker + "?key=" + marker,
	"DUET_WEBHOOK_SECRET": marker + "-the-secret-that-signs-webhooks",
	"DUET_NATS_URL":       "nats://duet:" + marker + "@%n",
	// Another build's, and in place of the one above: TestClusterSettings, and the tests of natsbus.
	"DUET_NATS_EMBED_SECRET": "",
}

// TestNoSecretGetsOut starts duet with every secret set, has calls, the relay, the operator's API and
// webhooks go well and badly with secrets wherever clients have them, and looks for them in all that duet
// says but to whom it is meant for: the log at its most talkative, metrics, errors, answers, events.
func TestNoSecretGetsOut(t *testing.T) {
	t.Parallel()
	said := &utterances{}
	hooks := startFlakyReceiver(t, said)
	nats := startNATS(t, func(o *natsserver.Options) { o.Username, o.Password = "duet", marker })
	filled := strings.NewReplacer("%s", hooks, "%n", nats.Addr().String())
	env := []string{"DUET_LOG_LEVEL=debug", "DUET_STUN=off", "DUET_TURN_ADDR=127.0.0.1:0", "DUET_TURN_PORTS=32000-33999", "DUET_DRAIN=2s"}
	for i, s := range new(config).settings() {
		value, tried := secretSettings[s.name]
		switch {
		case s.secret && !tried:
			t.Errorf("%s is secret: give it a value here", s.name)
		case !s.secret || value == "":
		case i%2 == 0: // half of them come from files
			path := filepath.Join(t.TempDir(), s.name)
			if err := os.WriteFile(path, []byte(filled.Replace(value)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			env = append(env, s.name+fileSuffix+"="+path)
		default:
			env = append(env, s.name+"="+filled.Replace(value))
		}
	}
	creds, seed := natsCredentials(t)
	env = append(env, "DUET_NATS_REPLICAS=1", "DUET_NATS_CREDS_FILE="+creds)
	p := spawn(t, nil, env...)
	page, socket, operator := p.listening(t)
	operator = strings.TrimSuffix(operator, "/metrics")

	secrets := []string{marker, "aHVudGVyMi", seed} // as it is, and in base64
	minted := said.tryOperator(t, operator)
	good, joined := said.tryCall(t, socket, minted)
	for _, token := range []string{minted, good} {
		secrets = append(secrets, token[strings.LastIndex(token, ".")+1:]) // the signature
	}
	said.tryTokens(t, socket)
	said.tryHandshakes(t, page)
	secrets = append(secrets, said.tryRelay(t, joined))
	said.tryEvents(t, operator)
	said.tryNATS(t, p, nats)
	p.stderr.await(t, regexp.MustCompile(`(?s)(webhook: an attempt failed.*webhook: delivered again.*){3}`))
	for _, path := range []string{"/metrics", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/api/rooms", "/api/rooms/demo"} {
		said.request(t, http.MethodGet, operator+path, secretSettings["DUET_ADMIN_TOKEN"], "")
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.exit(t); status != exitOK {
		t.Errorf("status %d", status)
	}
	said.add("the log", p.stderr.String())
	said.add("standard output", p.stdout.String())

	for _, want := range []string{`"level":"DEBUG","msg":"request"`, `"msg":"done for the operator"`, "duet_turn_allocations 1", `duet_tokens_total{outcome="signature"} 1`, `"DUET_ADMIN_TOKEN":"***"`} {
		if !strings.Contains(fmt.Sprint(said.all), want) {
			t.Errorf("%s was not said: what was to be tried did not happen", want)
		}
	}
	for _, u := range said.all {
		for _, secret := range secrets {
			if at := strings.Index(u.text, secret); at >= 0 {
				t.Errorf("%s is in %s: …%s…", secret, u.where, u.text[max(0, at-100):min(len(u.text), at+100)])
			}
		}
	}
}

// natsCredentials writes a credentials file, and returns its path and the seed in it.
func natsCredentials(t *testing.T) (path, seed string) {
	t.Helper()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	key, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "duet.creds")
	text := "-----BEGIN NATS USER JWT-----\n" + marker + "." + marker + "." + marker + "\n------END NATS USER JWT------\n\n" +
		"-----BEGIN USER NKEY SEED-----\n" + string(key) + "\n------END USER NKEY SEED------\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, string(key)
}

// tryNATS cuts p's connection to NATS, and has nodes come that NATS does not let in: with a wrong password, and
// with a wrong token.
func (u *utterances) tryNATS(t *testing.T, p *process, nats *natsserver.Server) {
	t.Helper()
	connections, err := nats.Connz(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range connections.Conns {
		if err := nats.DisconnectClientByID(c.Cid); err != nil {
			t.Error(err)
		}
	}
	p.stderr.await(t, regexp.MustCompile("connected to NATS again"))
	var refused []*process
	for _, who := range []string{"duet:" + marker + "-but-another-one", marker + "-a-token"} {
		refused = append(refused, spawn(t, nil, "DUET_LOG_LEVEL=debug", "DUET_NATS_REPLICAS=1", "DUET_NATS_URL=nats://"+who+"@"+nats.Addr().String()))
	}
	// One that it lets in with a token, and which is cut off, too.
	tokens := startNATS(t, func(o *natsserver.Options) { o.Authorization = marker + "-a-token" })
	other := spawn(t, nil, "DUET_LOG_LEVEL=debug", "DUET_NATS_REPLICAS=1", "DUET_NATS_URL=nats://"+marker+"-a-token@"+tokens.Addr().String())
	other.listening(t)
	connections, err = tokens.Connz(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range connections.Conns {
		if err := tokens.DisconnectClientByID(c.Cid); err != nil {
			t.Error(err)
		}
	}
	other.stderr.await(t, regexp.MustCompile("connected to NATS again"))
	u.add("the log of one with a token", other.stderr.String())
	for _, other := range refused {
		other.stderr.await(t, regexp.MustCompile("(?i)NATS cannot be used yet.*authorization violation"))
		if err := other.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		other.exit(t)
		u.add("the log of one that NATS does not let in", other.stderr.String())
	}
}

// utterances are what duet said, and where.
type utterances struct {
	mu  sync.Mutex
	all []struct{ where, text string }
}

func (u *utterances) add(where, text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all = append(u.all, struct{ where, text string }{where, text})
}

// refuse sends text, and keeps the error that answers it.
func (u *utterances) refuse(t *testing.T, ws *websocket.Conn, text string) {
	t.Helper()
	u.add("the error that answers "+text, speak(t, ws, text, `"type":"error"`))
}

// request keeps what an HTTP request is answered with, and returns it. Where a token is not "" it carries it.
func (u *utterances) request(t *testing.T, method, url, token, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	r.Header.Set("Cookie", "session="+marker)
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	u.add("the answer to "+method+" "+url, fmt.Sprint(res.Header, string(answer)))
	return res.StatusCode, string(answer)
}

// startFlakyReceiver takes webhooks: three fail in different ways, each is taken when it comes again.
func startFlakyReceiver(t *testing.T, said *utterances) (url string) {
	var mu sync.Mutex
	requests := 0
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		said.add("a webhook", fmt.Sprint(r.Header, string(body)))
		switch requests++; requests {
		case 1:
			http.Error(w, marker, http.StatusInternalServerError)
		case 3:
			http.Redirect(w, r, "/"+marker, http.StatusFound)
		case 5:
			panic(http.ErrAbortHandler) // cuts the connection
		}
	}))
	t.Cleanup(receiver.Close)
	return receiver.URL
}

// tryOperator does what the operator can, and returns a token that the API made.
func (u *utterances) tryOperator(t *testing.T, operator string) (minted string) {
	t.Helper()
	admin := secretSettings["DUET_ADMIN_TOKEN"]
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, operator+"/api/tokens", strings.NewReader(`{"room":"demo","ttl":600}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+admin)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var made struct{ Token string } // whom it is meant for: not kept
	if err := json.NewDecoder(res.Body).Decode(&made); err != nil || made.Token == "" {
		t.Fatalf("no token: %v, %v", res.Status, err)
	}
	for _, tt := range []struct {
		method, path, token, body string
		status                    int
	}{
		{http.MethodGet, "/api/rooms", "", "", 401},
		{http.MethodGet, "/api/rooms", marker + "-but-another-one", "", 401},
		{http.MethodGet, "/api/rooms?token=" + admin, "", "", 401},
		{http.MethodPost, "/api/tokens", admin, `{"room":"demo","ttl":600,"` + marker, 400},
		{http.MethodPost, "/api/rooms/demo/messages", admin, `{"data":"` + marker, 400},
		{http.MethodPost, "/api/rooms/demo/messages", admin, `{"data":"` + marker + `"}`, 404},
		{http.MethodDelete, "/api/rooms/none?" + marker, admin, "", 404},
	} {
		if status, answer := u.request(t, tt.method, operator+tt.path, tt.token, tt.body); status != tt.status {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, status, answer)
		}
	}
	return made.Token
}

// connect opens a WebSocket at the URL socket.
func connect(t *testing.T, socket string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	return ws
}

// sign makes a token for the room demo with more claims, and a header that names its key.
func sign(t *testing.T, secret string, claims jwt.MapClaims) string {
	t.Helper()
	all := jwt.MapClaims{"room": "demo", "exp": time.Now().Add(time.Hour).Unix(), "jti": marker}
	for name, value := range claims {
		all[name] = value
	}
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, all)
	token.Header["kid"] = marker
	text, err := token.SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// tryCall has two meet, speak, err, lose a connection and take it up again. It returns the token that one
// of them used, and what the server said to it when it joined.
func (u *utterances) tryCall(t *testing.T, socket, minted string) (token, joined string) {
	t.Helper()
	token = sign(t, secretSettings["DUET_AUTH_SECRET"], nil)
	a, b := connect(t, socket), connect(t, socket)
	join := `{"type":"join","room":"demo","name":"Ada","session":"` + marker + `-session-of-ada-0001","attempt":%d,"token":"` + token + `"}`
	joined = speak(t, a, fmt.Sprintf(join, 1), `"joined"`)
	speak(t, b, `{"type":"join","room":"demo","name":"Bob","session":"`+marker+`-session-of-bob-0001","replaces":"`+marker+`-session-of-bob-0000","token":"`+minted+`"}`, `"joined"`)

	speak(t, a, `{"type":"offer","sdp":"v=0\r\na=ice-pwd:`+marker+`","seq":1}`, `"ack"`)
	speak(t, a, `{"type":"candidate","candidate":{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host ufrag `+marker+`"},"seq":2}`, `"ack"`)
	speak(t, b, "", `"candidate"`)
	u.refuse(t, a, `{"type":"answer","sdp":"`+marker+`","to":"nobody","seq":3}`)
	u.refuse(t, a, `{"type":"message","data":"`+marker+`","to":7,"seq":4}`)
	u.refuse(t, a, `{"type":"candidate","candidate":"`+marker+`","seq":5}`)
	u.refuse(t, a, `{"type":"report","state":"`+marker+`"}`)
	u.refuse(t, a, `{"type":"message","data":{"`+marker+`":1,"`+marker+`":2},"seq":6}`)
	u.refuse(t, a, `{"type":"message","data":"`+marker+`\ud800","seq":6}`)
	u.refuse(t, a, `{"type":"offer","sdp":"`+marker)
	u.refuse(t, a, marker)

	again := connect(t, socket) // the same session from elsewhere
	speak(t, again, fmt.Sprintf(join, 2), `"resumed":true`)
	_, _, err := a.Read(t.Context())
	for ; err == nil; _, _, err = a.Read(t.Context()) {
	}
	u.add("the close of a connection that was replaced", err.Error())
	u.refuse(t, again, `{"type":"offer","sdp":"`+marker+`","seq":99}`) // out of sync
	_, _, err = again.Read(t.Context())
	u.add("the close of one out of sync", fmt.Sprint(err))
	return token, joined
}

// tryTokens joins with everything that is no good token.
func (u *utterances) tryTokens(t *testing.T, socket string) {
	t.Helper()
	secret := secretSettings["DUET_AUTH_SECRET"]
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"room": "demo", "jti": marker}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	ws := connect(t, socket)
	for _, token := range []string{
		"", marker, marker + "." + marker + "." + marker, none,
		sign(t, marker+"-a-secret-of-somebody-else-here", nil),
		sign(t, secret, jwt.MapClaims{"exp": 1}),
		sign(t, secret, jwt.MapClaims{"nbf": time.Now().Add(time.Hour).Unix()}),
		sign(t, secret, jwt.MapClaims{"room": marker}),
		sign(t, secret, jwt.MapClaims{"name": marker + "\n"}),
		sign(t, secret, jwt.MapClaims{"capacity": marker}),
		sign(t, secret, jwt.MapClaims{"exp": marker}),
	} {
		u.refuse(t, ws, fmt.Sprintf(`{"type":"join","room":"demo","session":"%s-session-of-eve-0001","token":%q}`, marker, token))
	}
	u.refuse(t, ws, `{"type":"join","room":"demo","session":"`+marker+`"}`)
	u.refuse(t, ws, `{"type":"join","room":"demo","session":"`+marker+`-session-of-eve-0001","replaces":"`+marker+`-session-of-eve-0001"}`)
	u.refuse(t, ws, `{"type":"join","room":"demo","session":["`+marker+`"]}`)
}

// tryHandshakes comes with secrets where some clients put them.
func (u *utterances) tryHandshakes(t *testing.T, page string) {
	t.Helper()
	u.request(t, http.MethodGet, page+"ws?token="+marker, marker, "")
	u.request(t, http.MethodPost, page+"ws?token="+marker, marker, marker)
	u.request(t, http.MethodGet, page+"?token="+marker, "", "")
	for _, header := range []http.Header{{"Origin": {"https://evil.example"}}, {"Authorization": {"Bearer " + marker}}} {
		ws, res, err := websocket.Dial(t.Context(), page+"ws?token="+marker, &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{"token." + marker}})
		if err == nil {
			ws.CloseNow()
			continue
		}
		body, _ := io.ReadAll(res.Body)
		u.add("the answer to a handshake that is refused", fmt.Sprint(res.Header, string(body)))
	}
	raw, err := net.Dial("tcp", hostOf(t, page))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	fmt.Fprintf(raw, "GET /ws?token=%[1]s HTTP/1.1\r\nHost: a b\r\n%[1]s\r\n\r\n", marker)
	answer, err := io.ReadAll(raw)
	if err != nil {
		t.Fatal(err)
	}
	u.add("the answer to what is not HTTP", string(answer))
}

// tryRelay asks the relay with the credentials out of joined, and with wrong ones. It returns the password.
func (u *utterances) tryRelay(t *testing.T, joined string) (password string) {
	t.Helper()
	var m struct {
		ICEServers []struct {
			URLs                 any
			Username, Credential string
		}
	}
	if err := json.Unmarshal([]byte(joined), &m); err != nil {
		t.Fatal(err)
	}
	relay := m.ICEServers[len(m.ICEServers)-1]
	at := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(fmt.Sprint(relay.URLs))
	for _, tt := range []struct {
		username, password string
		good               bool
	}{
		{relay.Username, relay.Credential, true},
		{relay.Username, marker, false},
		{marker, marker, false},
		{"9999999999:" + marker, relay.Credential, false},
	} {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		c, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: at, TURNServerAddr: at, Conn: conn, Username: tt.username, Password: tt.password})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		if err := c.Listen(); err != nil {
			t.Fatal(err)
		}
		_, err = c.Allocate()
		if tt.good != (err == nil) {
			t.Errorf("the relay: %v", err)
		}
		if err != nil {
			u.add("the relay's answer", err.Error())
		}
	}
	return relay.Credential
}

// tryEvents reads the operator's stream from its beginning to the first error.
func (u *utterances) tryEvents(t *testing.T, operator string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, operator+"/api/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+secretSettings["DUET_ADMIN_TOKEN"])
	r.Header.Set("Last-Event-ID", "0")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		u.add("an event", lines.Text())
		if strings.Contains(lines.Text(), `"why":"error"`) { // the seat that was out of sync
			return
		}
	}
	t.Error("the stream ended")
}
