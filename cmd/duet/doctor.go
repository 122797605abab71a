package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/go-json-experiment/json"

	"duet/httpapi/token"
)

const (
	doctorPatience = 10 * time.Second // for one answer
	clockTolerance = 30 * time.Second // beyond it tokens and credentials look expired, or not yet valid
	soonExpired    = 14               // days
	doctorTokenTTL = 10 * time.Minute // of the token that the doctor makes for itself
)

// doctorCommand is duet doctor: it asks a running duet, as its people would and from where they are, for
// what goes wrong most often, and prints one line for each answer.
func doctorCommand(args, environ []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("duet doctor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	d := doctor{report: report{w: stdout, colour: isTerminal(stdout)}}
	flags.DurationVar(&d.idle, "idle", 90*time.Second, "how long to keep a connection without messages; 0: not at all")
	flags.BoolVar(&d.insecure, "insecure", false, "go on although the certificate is not trusted")
	flags.StringVar(&d.origin, "origin", "", "`origin` of the page that will connect; unset: the address's own")
	flags.StringVar(&d.room, "room", "", "`room` to join; unset: one that nobody has")
	flags.StringVar(&d.token, "token", "", "`token` to join with, for that room; unset: made with DUET_AUTH_SECRET where that is set")
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: duet doctor [-idle 90s] [-insecure] [-origin https://app.example.com] [-room demo -token ...] [URL]\n\n"+
			"Asks the duet at URL (unset: the one at DUET_ADDR) what goes wrong most often. Exit status 0, or 1 where\n"+
			"something is bad.\n\n")
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	}
	if err := d.prepare(flags.Args(), environ); err != nil {
		fmt.Fprintf(stderr, "duet doctor: %v\n", err)
		return exitUsage
	}
	ctx, stop := untilSignal(context.Background())
	defer stop()
	d.examine(ctx)
	if d.report.bad > 0 {
		return exitFailed
	}
	return exitOK
}

// A doctor examines one server.
type doctor struct {
	page        *url.URL // ends in a slash
	origin      string
	room, token string
	idle        time.Duration
	insecure    bool
	report      report
}

// prepare fills in what args and the environment say, or leave to it.
func (d *doctor) prepare(args, environ []string) error {
	if len(args) > 1 {
		return fmt.Errorf("unknown argument %q: there is one URL, behind the options", args[1])
	}
	if err := d.setPage(args, environ); err != nil {
		return err
	}
	if d.origin == "" {
		d.origin = d.page.Scheme + "://" + d.page.Host
	}
	if d.room == "" {
		d.room = "doctor-" + randomText()
	}
	secret := ownVariables(environ)
	if d.token != "" || secret["DUET_AUTH_SECRET"]+secret["DUET_AUTH_SECRET"+fileSuffix] == "" {
		return nil
	}
	cfg, err := parseConfig(environ, descriptorLimit())
	if err != nil {
		return fmt.Errorf("bad settings (duet -h lists them):\n%w", err)
	}
	signer, _ := cfg.tokens()
	d.token, _, err = token.Sign(signer, token.Claims{Room: d.room}, doctorTokenTTL)
	return err
}

// setPage takes the page's address, or the WebSocket's.
func (d *doctor) setPage(args, environ []string) error {
	var text string
	if len(args) == 1 {
		text = args[0]
	} else {
		cfg, err := parseConfig(environ, descriptorLimit())
		if err != nil {
			return fmt.Errorf("bad settings (duet -h lists them):\n%w", err)
		}
		at, err := ownAddr(environ)
		if err != nil {
			return err
		}
		text = "http://" + at + string(cfg.BasePath)
		if cfg.servesTLS() {
			text = "https://" + at + string(cfg.BasePath)
		}
	}
	for from, to := range map[string]string{"ws://": "http://", "wss://": "https://"} {
		if rest, ok := strings.CutPrefix(text, from); ok {
			text = to + strings.TrimSuffix(rest, "/ws")
		}
	}
	text, _, _ = strings.Cut(text, "#") // an invite link's room and token stay here
	u, err := parseHTTPURL(text)
	if err != nil {
		return fmt.Errorf("%q: must be a page's address such as https://duet.example.com/ or https://www.example.com/duet/", text)
	}
	u.RawQuery = ""
	u.Path = strings.TrimSuffix(u.Path, "/") + "/"
	d.page = u
	return nil
}

// examine asks one thing after the other. What cannot be asked after a failure is left out.
func (d *doctor) examine(ctx context.Context) {
	if !d.examineServer(ctx) {
		return
	}
	patient := d.examineSocket(ctx)
	if patient == nil {
		return
	}
	defer patient.ws.CloseNow()
	servers, ok := d.examineRoom(ctx, patient)
	if !ok {
		return
	}
	asleep := make(chan func(), 1) // the idle connection is watched beside the rest, and spoken of last
	go func() { asleep <- d.watchIdle(ctx, patient) }()
	d.examineICE(ctx, servers)
	(<-asleep)()
}

// client speaks HTTP/1.1, as WebSocket clients do.
func (d *doctor) client() *http.Client {
	return &http.Client{
		Timeout:       doctorPatience,
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: d.tls()},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (d *doctor) tls() *tls.Config { return &tls.Config{InsecureSkipVerify: d.insecure} }

// examineServer asks whether it is there, and looks at its certificate and clock.
func (d *doctor) examineServer(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.page.JoinPath("readyz").String(), nil)
	if err != nil {
		return d.say(bad, "server", "%v", err)
	}
	asked := time.Now()
	res, err := d.client().Do(req)
	took := time.Since(asked)
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return d.say(bad, "certificate", "%v: use one from a known authority (DUET_TLS_ACME_DOMAIN gets one), or, where it is self-signed on purpose, go on with -insecure", untrusted.Err)
	}
	if err != nil {
		return d.say(bad, "server", "%v: is it running, and its port open? Behind a proxy: does its name lead here?", withoutURL(err))
	}
	defer res.Body.Close()
	switch location := res.Header.Get("Location"); {
	case res.StatusCode == http.StatusOK:
		d.say(good, "server", "%s is ready (%s)", d.page, brief(took))
	case location != "":
		return d.say(bad, "server", "%s sends us on to %s: ask there", d.page, strings.TrimSuffix(location, "readyz"))
	case res.StatusCode == http.StatusServiceUnavailable:
		return d.say(bad, "server", "503: %s", firstLine(res.Body))
	case res.StatusCode == http.StatusBadGateway || res.StatusCode == http.StatusGatewayTimeout:
		return d.say(bad, "server", "%s: the proxy answers, duet behind it does not: is it running, at the address that the proxy has?", res.Status)
	default:
		return d.say(bad, "server", "%s for %s: is the path right (DUET_BASE_PATH), and does the proxy forward all of it?", res.Status, req.URL)
	}
	d.examineCertificate(res.TLS)
	d.examineClock(res.Header.Get("Date"), asked.Add(took/2))
	return true
}

func (d *doctor) examineCertificate(state *tls.ConnectionState) {
	if state == nil {
		if host := d.page.Hostname(); host != "localhost" && !isLoopback(host) {
			d.say(bad, "certificate", "http: browsers give no camera to such pages: use https (DUET_TLS_CERT, DUET_TLS_ACME_DOMAIN, or a proxy)")
		}
		return
	}
	leaf := state.PeerCertificates[0]
	days := int(time.Until(leaf.NotAfter).Hours() / 24)
	trust := "trusted"
	if d.insecure {
		trust = "not verified (-insecure)"
	}
	switch {
	case days < 0:
		d.say(bad, "certificate", "ran out on %s: renew it", leaf.NotAfter.Format(time.DateOnly))
	case days < soonExpired:
		d.say(bad, "certificate", "%s, but only %d days left: is it renewed by itself?", trust, days)
	default:
		d.say(good, "certificate", "%s, %d days left", trust, days)
	}
}

// examineClock compares the server's clock, which says whole seconds, with ours.
func (d *doctor) examineClock(date string, now time.Time) {
	theirs, err := http.ParseTime(date)
	if err != nil {
		d.say(open, "clock", "not compared: the answer has no Date")
		return
	}
	ahead := theirs.Add(time.Second / 2).Sub(now).Round(time.Second)
	if ahead.Abs() > clockTolerance {
		d.say(bad, "clock", "the server's clock and this one differ by %s: tokens and relay credentials will look expired: have both set by NTP", ahead.Abs())
		return
	}
	d.say(good, "clock", "within %s of this machine's", max(ahead.Abs(), time.Second))
}

// A patient is a connection to the server.
type patient struct {
	ws    *websocket.Conn
	pings *atomic.Int32 // from the server
	since time.Time
}

// examineSocket opens a WebSocket as the page would; nil: there is none.
func (d *doctor) examineSocket(ctx context.Context) *patient {
	p, status, err := d.connect(ctx, d.origin)
	if status == http.StatusForbidden {
		reason := err
		if p, _, err = d.connect(ctx, ""); err == nil {
			d.sayUpgraded(p)
			d.say(bad, "origin", "%v", reason)
			return p
		}
		err = reason
	}
	if err != nil {
		d.say(bad, "websocket", "%v", err)
		return nil
	}
	d.sayUpgraded(p)
	d.say(good, "origin", "pages of %s may connect", d.origin)
	return p
}

func (d *doctor) sayUpgraded(p *patient) {
	if p.ws.Subprotocol() == "" {
		d.say(bad, "websocket", "the upgrade is forwarded, Sec-WebSocket-Protocol is not: browsers will refuse. Have the proxy pass it on")
		return
	}
	d.say(good, "websocket", "the upgrade is forwarded")
}

// connect opens a WebSocket. Its error says what to do; status is that of a refused handshake.
func (d *doctor) connect(ctx context.Context, origin string) (p *patient, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	p = &patient{pings: new(atomic.Int32)}
	header := http.Header{}
	if origin != "" {
		header.Set("Origin", origin)
	}
	ws, res, err := websocket.Dial(ctx, d.page.JoinPath("ws").String(), &websocket.DialOptions{
		HTTPClient: d.client(), HTTPHeader: header, Subprotocols: []string{"duet.v1"},
		OnPingReceived: func(context.Context, []byte) bool { p.pings.Add(1); return true },
	})
	if err == nil {
		p.ws, p.since = ws, time.Now()
		ws.SetReadLimit(1 << 20)
		return p, res.StatusCode, nil
	}
	if res == nil {
		return nil, 0, withoutURL(err)
	}
	said := firstLine(res.Body)
	switch status = res.StatusCode; status {
	case http.StatusSwitchingProtocols:
		return nil, status, err
	case http.StatusUpgradeRequired, http.StatusBadRequest:
		return nil, status, fmt.Errorf("%s: the proxy does not forward Upgrade and Connection, or speaks HTTP/1.0: docs/proxies.md has what it needs", res.Status)
	case http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return nil, status, fmt.Errorf("%d: %s", status, said)
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return nil, status, fmt.Errorf("%s: the proxy does not reach duet for /ws", res.Status)
	default:
		return nil, status, fmt.Errorf("%s instead of 101: something else answers to %sws: does the proxy send it to duet?", res.Status, d.page.Path)
	}
}

// A doctorMessage has what the doctor looks at in the server's messages.
type doctorMessage struct {
	Type       string      `json:"type"`
	Code       string      `json:"code"`
	Message    string      `json:"message"`
	ICEServers []iceServer `json:"iceServers"`
}

// examineRoom joins twice and has a message go from one to the other.
func (d *doctor) examineRoom(ctx context.Context, p *patient) ([]iceServer, bool) {
	began := time.Now()
	joined, err := d.join(ctx, p)
	if err != nil {
		return nil, d.say(bad, "join", "%v", err)
	}
	d.say(good, "join", "has a seat after %s", brief(time.Since(began)))
	second, _, err := d.connect(ctx, "")
	if err != nil {
		d.say(bad, "message", "a second connection: %v", err)
		return joined.ICEServers, true
	}
	defer second.ws.Close(websocket.StatusNormalClosure, "")
	if _, err = d.join(ctx, second); err != nil {
		d.say(bad, "message", "a second seat: %v", err)
		return joined.ICEServers, true
	}
	began = time.Now()
	err = second.send(ctx, map[string]any{"type": "message", "data": "doctor"})
	if err == nil {
		_, err = p.await(ctx, "message")
	}
	if err != nil {
		d.say(bad, "message", "from one to the other: %v", err)
	} else {
		d.say(good, "message", "from one to the other in %s", brief(time.Since(began)))
	}
	return joined.ICEServers, true
}

func (d *doctor) join(ctx context.Context, p *patient) (*doctorMessage, error) {
	join := map[string]any{"type": "join", "room": d.room, "name": "duet doctor"}
	if d.token != "" {
		join["token"] = d.token
	}
	if err := p.send(ctx, join); err != nil {
		return nil, err
	}
	m, err := p.await(ctx, "joined")
	if m != nil && m.Code == "unauthorized" && d.token == "" {
		return nil, errors.New("a token is asked for: give one (-room demo -token \"$(duet token -room demo | head -1)\"), or set DUET_AUTH_SECRET")
	}
	return m, err
}

func (p *patient) send(ctx context.Context, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	return p.ws.Write(ctx, websocket.MessageText, text)
}

// await returns the next message of the type. The server's error comes with the error that it is here.
func (p *patient) await(ctx context.Context, kind string) (*doctorMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	for {
		_, text, err := p.ws.Read(ctx)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("no answer in %s: does the proxy buffer what it forwards?", doctorPatience)
		}
		if err != nil {
			return nil, err
		}
		var m doctorMessage
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, errors.New("what comes is not duet's protocol")
		}
		switch m.Type {
		case kind:
			return &m, nil
		case "error":
			return &m, fmt.Errorf("%s: %s", m.Code, m.Message)
		}
	}
}

// watchIdle says nothing on p for as long as d.idle and returns how that is to be reported.
func (d *doctor) watchIdle(ctx context.Context, p *patient) (tell func()) {
	if d.idle <= 0 {
		return func() { d.say(open, "idle", "not asked (-idle 0)") }
	}
	before, began := p.pings.Load(), time.Now()
	ctx, cancel := context.WithTimeout(ctx, d.idle)
	defer cancel()
	var err error
	for err == nil {
		_, _, err = p.ws.Read(ctx)
	}
	lived, pings, ended := time.Since(began), p.pings.Load()-before, ctx.Err()
	return func() {
		switch {
		case ended == nil:
			d.say(bad, "idle", "a silent connection was cut after %s, %d pings came: something on the way ends idle connections: "+
				"lower DUET_PING_INTERVAL below that, or raise the proxy's timeout (docs/proxies.md)", lived.Round(time.Second/10), pings)
		case errors.Is(ended, context.Canceled):
			d.say(open, "idle", "interrupted after %s", lived.Round(time.Second))
		case pings == 0:
			d.say(good, "idle", "a silent connection lived for %s; no ping came in that time", d.idle)
		default:
			d.say(good, "idle", "a silent connection lived for %s, with %d pings from the server", d.idle, pings)
		}
	}
}

// A verdict is the first word of a line.
type verdict int

const (
	good verdict = iota
	bad
	open // could not be asked, or is a matter of taste
)

// A report is what the doctor prints.
type report struct {
	w      io.Writer
	colour bool
	bad    int
}

// say prints a line and returns whether it was good.
func (d *doctor) say(v verdict, about, format string, args ...any) bool {
	word := [...]string{good: "ok ", bad: "BAD", open: "-  "}[v]
	if colour := [...]string{good: "\x1b[32m", bad: "\x1b[31m", open: ""}[v]; d.report.colour && colour != "" {
		word = colour + word + "\x1b[0m"
	}
	if v == bad {
		d.report.bad++
	}
	fmt.Fprintf(d.report.w, "%s %-12s %s\n", word, about, printable(fmt.Sprintf(format, args...)))
	return v == good
}

// printable takes control characters out of what a server said: it goes to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || 0x7f <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// firstLine reads the first line of an answer for people.
func firstLine(body io.Reader) string {
	text, _ := io.ReadAll(io.LimitReader(body, 1024))
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line
}

// withoutURL drops the request from err: the line has said where.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("no address for %s (%s)", dns.Name, dns.Err)
	}
	return err
}

func brief(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }

func randomText() string {
	var b [9]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}
