package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// asDoctor runs duet doctor and returns its exit status and lines.
func asDoctor(t *testing.T, environ []string, args ...string) (int, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := command(append([]string{"doctor"}, args...), environ, &stdout, &stderr)
	if stderr.Len() > 0 {
		t.Logf("stderr: %s", stderr.String())
	}
	return status, stdout.String()
}

// wantLines wants each of want, a regular expression, to match a line of said.
func wantLines(t *testing.T, said string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !regexp.MustCompile("(?m)^" + w).MatchString(said) {
			t.Errorf("no line matches %s in\n%s", w, said)
		}
	}
}

func TestDoctorFindsNothing(t *testing.T) {
	s := startServer(t, "DUET_TURN_ADDR=127.0.0.1:0", "DUET_PING_INTERVAL=100ms", "DUET_BASE_PATH=/duet")
	status, said := asDoctor(t, nil, "-idle", "500ms", s.page+"duet/")
	if status != exitOK || strings.Contains(said, "BAD") {
		t.Errorf("status %d", status)
	}
	wantLines(t, said,
		`ok  server +http://127\.0\.0\.1:\d+/duet/ is ready`,
		`ok  clock +within 1s`,
		`ok  websocket +the upgrade is forwarded$`,
		`ok  origin +pages of http://127\.0\.0\.1:\d+ may connect`,
		`ok  join `,
		`ok  message +from one to the other in `,
		`ok  stun +stun:127\.0\.0\.1:\d+ sees us at 127\.0\.0\.1:\d+`,
		`ok  turn udp +turn:127\.0\.0\.1:\d+\?transport=udp relays`,
		`ok  turn tcp +turn:127\.0\.0\.1:\d+\?transport=tcp relays`,
		`-   turn tls +no such URL`,
		`ok  idle +a silent connection lived for 500ms, with [1-9]`)
	if strings.Contains(said, "\x1b") {
		t.Error("colours, and no terminal")
	}
}

func TestDoctorFinds(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	secret := "DUET_AUTH_SECRET=" + strings.Repeat("s", 32)
	for _, tt := range []struct {
		name    string
		env     []string                                         // of the server
		between func(t *testing.T, server *url.URL) http.Handler // a proxy's fault; nil: no proxy
		environ []string                                         // of the doctor
		args    []string
		want    []string
		status  int
	}{
		{name: "nobody", args: []string{"http://" + closed.Addr().String()}, want: []string{`BAD server .*refused: is it running`}, status: exitFailed},
		{name: "another path", between: func(t *testing.T, s *url.URL) http.Handler { return http.NotFoundHandler() },
			want: []string{`BAD server +404 Not Found for http://\S+/readyz: is the path right`}, status: exitFailed},
		{name: "duet is away", between: func(*testing.T, *url.URL) http.Handler { return status(http.StatusBadGateway) },
			want: []string{`BAD server +502 Bad Gateway: the proxy answers, duet behind it does not`}, status: exitFailed},
		{name: "sent on", between: func(*testing.T, *url.URL) http.Handler {
			return http.RedirectHandler("https://duet.example.com/readyz", http.StatusPermanentRedirect)
		}, want: []string{`BAD server .* sends us on to https://duet\.example\.com/: ask there`}, status: exitFailed},
		{name: "no upgrade", between: withoutUpgrade,
			want: []string{`ok  server `, `BAD websocket +426 Upgrade Required: the proxy does not forward Upgrade`}, status: exitFailed},
		{name: "no subprotocol", between: withoutSubprotocol,
			want: []string{`BAD websocket +the upgrade is forwarded, Sec-WebSocket-Protocol is not`, `ok  join `}, status: exitFailed},
		{name: "clock", between: withDate("Mon, 02 Jan 2006 15:04:05 GMT"),
			want: []string{`BAD clock +the server's clock and this one differ by \d+h`, `ok  websocket `}, status: exitFailed},
		{name: "origin", env: []string{"DUET_ALLOWED_ORIGINS=https://app.example.com"},
			want: []string{`ok  websocket `, `BAD origin +403: Origin .* Add it to DUET_ALLOWED_ORIGINS`, `ok  join `}, status: exitFailed},
		{name: "the right origin", env: []string{"DUET_ALLOWED_ORIGINS=https://app.example.com"}, args: []string{"-origin", "https://app.example.com"},
			want: []string{`ok  origin +pages of https://app\.example\.com may connect`}},
		{name: "host", env: []string{"DUET_ALLOWED_HOSTS=duet.example.com"},
			want: []string{`BAD websocket +403: Host .* Add it to DUET_ALLOWED_HOSTS`}, status: exitFailed},
		{name: "no token", env: []string{secret}, want: []string{`BAD join +a token is asked for: give one`}, status: exitFailed},
		{name: "its own token", env: []string{secret}, environ: []string{secret}, want: []string{`ok  join `, `ok  message `}},
		{name: "another's token", env: []string{secret}, args: []string{"-token", "x.y.z"}, want: []string{`BAD join +unauthorized: `}, status: exitFailed},
		{name: "no relay", want: []string{`-   stun +no server`, `-   turn +no relay is named`}},
		{name: "wrong relay secret", env: []string{"DUET_TURN_URLS=turn:127.0.0.1:1?transport=tcp", "DUET_TURN_SECRET=" + strings.Repeat("x", 24)},
			want: []string{`BAD turn tcp +turn:127\.0\.0\.1:1\?transport=tcp: .*refused: is it running, and TCP port 1 open`}, status: exitFailed},
		{name: "STUN is silent", env: []string{"DUET_STUN=stun:" + silent.LocalAddr().String()},
			want: []string{`BAD stun +stun:\S+: no answer in 5s: is it running, and UDP port`}, status: exitFailed},
		{name: "idle is cut", between: cutAfter(700 * time.Millisecond), args: []string{"-idle", "20s"},
			want: []string{`BAD idle +a silent connection was cut after [\d.]+m?s, 0 pings came: .*DUET_PING_INTERVAL`}, status: exitFailed},
		{name: "idle without pings", args: []string{"-idle", "200ms"}, want: []string{`ok  idle +a silent connection lived for 200ms; no ping came`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			page := startServer(t, tt.env...).page
			if tt.between != nil {
				server, err := url.Parse(page)
				if err != nil {
					t.Fatal(err)
				}
				proxy := httptest.NewServer(tt.between(t, server))
				t.Cleanup(proxy.Close)
				page = proxy.URL
			}
			args := append([]string{"-idle", "0"}, tt.args...)
			if !strings.Contains(strings.Join(args, " "), "http://") {
				args = append(args, page)
			}
			got, said := asDoctor(t, tt.environ, args...)
			if got != tt.status {
				t.Errorf("status %d, want %d", got, tt.status)
			}
			wantLines(t, said, tt.want...)
			if tt.status == exitOK && strings.Contains(said, "BAD") {
				t.Errorf("it found\n%s", said)
			}
		})
	}
}

// TestDoctorRefusedCredentials has the doctor ask a relay that does not know the secret.
func TestDoctorRefusedCredentials(t *testing.T) {
	relay := startServer(t, "DUET_TURN_ADDR=127.0.0.1:0", "DUET_TURN_PORTS=40000-40100")
	_, said := asDoctor(t, nil, "-idle", "0", relay.page)
	turn := regexp.MustCompile(`turn:\S+udp`).FindString(said)
	s := startServer(t, "DUET_TURN_URLS="+turn, "DUET_TURN_SECRET="+strings.Repeat("x", 24))
	status, said := asDoctor(t, nil, "-idle", "0", s.page)
	if status != exitFailed || strings.Contains(said, "xxxx") {
		t.Errorf("status %d:\n%s", status, said)
	}
	wantLines(t, said, `BAD turn udp +turn:\S+: refuses the credentials: DUET_TURN_SECRET`)
}

// TestDoctorAndCertificates asks behind a proxy with a certificate that nobody trusts.
func TestDoctorAndCertificates(t *testing.T) {
	server, err := url.Parse(startServer(t).page)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewTLSServer(asProxy(server, nil, nil))
	defer proxy.Close()
	status, said := asDoctor(t, nil, "-idle", "0", proxy.URL)
	if status != exitFailed || strings.Count(said, "\n") != 1 {
		t.Errorf("status %d:\n%s", status, said)
	}
	wantLines(t, said, `BAD certificate .*: use one from a known authority .* -insecure`)
	status, said = asDoctor(t, nil, "-idle", "0", "-insecure", strings.Replace(proxy.URL, "https", "wss", 1)+"/ws")
	if status != exitOK {
		t.Errorf("status %d:\n%s", status, said)
	}
	wantLines(t, said, `ok  server +https://`, `ok  certificate +not verified \(-insecure\), \d+ days left`, `ok  join `)
}

// TestDoctorOverTLS asks a duet that serves https and a relay over TLS, as health checks do too.
func TestDoctorOverTLS(t *testing.T) {
	p := spawn(t, nil, "DUET_TLS_SELF_SIGNED=true", "DUET_DATA_DIR="+t.TempDir(), "DUET_STUN=off",
		"DUET_TURN_ADDR=127.0.0.1:0", "DUET_TURN_TLS_ADDR=127.0.0.1:0")
	page, _, _ := p.listening(t)
	environ := []string{"DUET_ADDR=" + hostOf(t, page), "DUET_TLS_SELF_SIGNED=true"}
	var stdout, stderr bytes.Buffer
	if status := command([]string{"health"}, environ, &stdout, &stderr); status != exitOK {
		t.Errorf("health: status %d, %s", status, stderr.String())
	}
	status, said := asDoctor(t, environ, "-idle", "0", "-insecure")
	if status != exitOK {
		t.Errorf("doctor: status %d", status)
	}
	wantLines(t, said, `ok  server +https://`, `ok  certificate +not verified`, `ok  join `, `ok  turn udp `, `ok  turn tcp `, `ok  turn tls +turns:\S+ relays`)
}

func TestDoctorArguments(t *testing.T) {
	for _, args := range [][]string{{"ftp://x"}, {"http://a", "http://b"}, {"-idle", "x"}, {"-nonsense"}, {"https://user@x/"}} {
		if status, said := asDoctor(t, nil, args...); status != exitUsage || said != "" {
			t.Errorf("%q: status %d, %s", args, status, said)
		}
	}
	var d doctor
	for args, want := range map[string]string{
		"https://duet.example.com":                "https://duet.example.com/",
		"https://duet.example.com/duet#demo":      "https://duet.example.com/duet/",
		"wss://duet.example.com/duet/ws":          "https://duet.example.com/duet/",
		"ws://localhost:8080/ws":                  "http://localhost:8080/",
		"https://duet.example.com/?utm=1#a&token": "https://duet.example.com/",
	} {
		if err := d.setPage([]string{args}, nil); err != nil || d.page.String() != want {
			t.Errorf("%s: %s, %v", args, d.page, err)
		}
	}
	if err := d.setPage(nil, []string{"DUET_ADDR=:8081", "DUET_BASE_PATH=/duet"}); err != nil || d.page.String() != "http://127.0.0.1:8081/duet/" {
		t.Errorf("from the environment: %s, %v", d.page, err)
	}
	if err := d.setPage(nil, []string{"DUET_ADDR=[::]:8443", "DUET_TLS_SELF_SIGNED=true"}); err != nil || d.page.String() != "https://[::1]:8443/" {
		t.Errorf("from the environment: %s, %v", d.page, err)
	}
}

// TestDoctorTerminal keeps what a server says from being taken for orders to the terminal.
func TestDoctorTerminal(t *testing.T) {
	var out bytes.Buffer
	d := doctor{report: report{w: &out, colour: true}}
	d.say(bad, "x", "%s", "\x1b[2J\u009b31m\r\n")
	if got := out.String(); got != "\x1b[31mBAD\x1b[0m x             [2J 31m  \n" {
		t.Errorf("%q", got)
	}
}

func TestHealth(t *testing.T) {
	tlsServer := httptest.NewTLSServer(status(http.StatusOK))
	defer tlsServer.Close()
	ill := httptest.NewServer(status(http.StatusInternalServerError))
	defer ill.Close()
	strange := httptest.NewServer(status(http.StatusBadRequest))
	defer strange.Close()
	s := startServer(t)
	for _, tt := range []struct {
		name, addr string
		args       []string
		status     int
		stderr     string
	}{
		{name: "alive", addr: hostOf(t, s.page)},
		{name: "alive over https", addr: hostOf(t, tlsServer.URL)},
		{name: "on every address", addr: strings.TrimPrefix(hostOf(t, s.page), "127.0.0.1")},
		{name: "ill", addr: hostOf(t, ill.URL), status: exitFailed, stderr: "answered 500"},
		{name: "something else", addr: hostOf(t, strange.URL), status: exitFailed, stderr: "duet health:"},
		{name: "nobody", addr: "127.0.0.1:1", status: exitFailed, stderr: "refused"},
		{name: "any port", addr: "127.0.0.1:0", status: exitUsage, stderr: "nobody here knows which"},
		{name: "nonsense", addr: "x", status: exitUsage, stderr: `DUET_ADDR="x": must be`},
		{name: "arguments", addr: ":1", args: []string{"x"}, status: exitUsage, stderr: "usage: duet health"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			got := command(append([]string{"health"}, tt.args...), []string{"DUET_ADDR=" + tt.addr}, &stdout, &stderr)
			if got != tt.status || stdout.Len() > 0 || !strings.Contains(stderr.String(), tt.stderr) || tt.stderr == "" && stderr.Len() > 0 {
				t.Errorf("status %d, said %q", got, stderr.String())
			}
		})
	}
}

func hostOf(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// ---- proxies with faults

func status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

// asProxy forwards to server what request and response have changed.
func asProxy(server *url.URL, request func(*http.Request), response func(*http.Response)) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = server.Scheme, server.Host, r.In.Host
			if request != nil {
				request(r.Out)
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if response != nil {
				response(r)
			}
			return nil
		},
	}
}

// withoutUpgrade is what nginx does unasked.
func withoutUpgrade(_ *testing.T, server *url.URL) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Upgrade")
		r.Header.Del("Connection")
		asProxy(server, nil, nil).ServeHTTP(w, r)
	})
}

func withoutSubprotocol(_ *testing.T, server *url.URL) http.Handler {
	return asProxy(server, func(r *http.Request) { r.Header.Del("Sec-WebSocket-Protocol") }, nil)
}

func withDate(date string) func(*testing.T, *url.URL) http.Handler {
	return func(_ *testing.T, server *url.URL) http.Handler {
		return asProxy(server, nil, func(r *http.Response) { r.Header.Set("Date", date) })
	}
}

// cutAfter forwards WebSockets and cuts one where it is silent for so long.
func cutAfter(idle time.Duration) func(*testing.T, *url.URL) http.Handler {
	return func(t *testing.T, server *url.URL) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				asProxy(server, nil, nil).ServeHTTP(w, r)
				return
			}
			inside, err := net.Dial("tcp", server.Host)
			if err != nil {
				t.Error(err)
				return
			}
			defer inside.Close()
			outside, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer outside.Close()
			if err := r.Write(inside); err != nil {
				t.Error(err)
				return
			}
			go copyUntilIdle(inside, buffered.Reader, outside, idle)
			copyUntilIdle(outside, bufio.NewReader(inside), inside, idle)
		})
	}
}

func copyUntilIdle(to io.Writer, from *bufio.Reader, conn net.Conn, idle time.Duration) {
	buffer := make([]byte, 4096)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(idle))
		n, err := from.Read(buffer)
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

// TestDoctorColours has both colours where they are wanted.
func TestDoctorColours(t *testing.T) {
	var out bytes.Buffer
	d := doctor{report: report{w: &out, colour: true}}
	fmt.Fprint(&out, d.say(good, "a", "b"), d.say(open, "c", "d"))
	if got := out.String(); got != "\x1b[32mok \x1b[0m a            b\n-   c            d\ntrue false" {
		t.Errorf("%q", got)
	}
}
