package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.yaml.in/yaml/v3"
)

// The files of docs/proxies are started as they are, but for what they tell their readers to change:
// names, ports and certificates. changed has all of it. Time runs 60 times as fast: a proxy's 60 s of
// patience are 1 s, and duet's ping every 20 s comes every 333 ms.

// A proxyKind is one of the proxies.
type proxyKind struct {
	file   string // in docs/proxies
	binary string
	// changed returns the file with what its head says to change; wrapped, around it, what its place in
	// the real configuration has around it.
	changed func(p *proxy, text string) []string // pairs of old and new
	wrapped func(p *proxy, text string) string
	command func(p *proxy, path string) []string
	// impatient makes the proxy end what is idle for one second instead of its usual time, as pairs of old
	// and new; nil: it waits for ever.
	impatient func(text string) string
}

var proxyKinds = map[string]proxyKind{
	"nginx": {
		file: "nginx.conf", binary: "nginx",
		changed: func(p *proxy, _ string) []string { return []string{"listen 443 ssl", "listen " + p.addr + " ssl"} },
		wrapped: func(p *proxy, text string) string {
			paths := ""
			for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
				paths += fmt.Sprintf("%s_temp_path %s/%s; ", name, p.dir, name)
			}
			return fmt.Sprintf("daemon off; master_process off; pid %s/pid; error_log stderr;\nevents {}\nhttp { access_log off; %s\n%s\n}\n", p.dir, paths, text)
		},
		command:   func(p *proxy, path string) []string { return []string{"-p", p.dir, "-e", "stderr", "-c", path} },
		impatient: func(text string) string { return strings.Replace(text, "http {", "http { proxy_read_timeout 1s;", 1) }, // 60s unasked
	},
	"caddy": {
		file: "Caddyfile", binary: "caddy",
		changed: func(p *proxy, _ string) []string {
			return []string{"duet.example.com:443", "duet.example.com:" + p.port(), "www.example.com:443", "www.example.com:" + p.port(), "# tls ", "tls "}
		},
		wrapped: func(p *proxy, text string) string {
			return "{\n\tadmin off\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n\tskip_install_trust\n}\n" + text
		},
		command: func(_ *proxy, path string) []string {
			return []string{"run", "--adapter", "caddyfile", "--config", path}
		},
	},
	"haproxy": {
		file: "haproxy.cfg", binary: "haproxy",
		changed: func(p *proxy, _ string) []string { return []string{"bind :443", "bind " + p.addr} },
		command: func(_ *proxy, path string) []string { return []string{"-db", "-f", path} },
		impatient: func(text string) string {
			return regexp.MustCompile(`timeout (client|server|tunnel) +\d+s`).ReplaceAllString(text, "timeout $1 1s")
		},
	},
}

// A proxy is one that runs.
type proxy struct {
	kind proxyKind
	addr string // host:port on loopback
	dir  string
	pool *x509.CertPool // what trusts its certificate
}

func (p *proxy) port() string {
	_, port, _ := net.SplitHostPort(p.addr)
	return port
}

// startProxy starts one in front of the duet at root, and of another with a base path. Both are host:port.
func startProxy(t *testing.T, kind proxyKind, root, subpath string, impatient bool) *proxy {
	t.Helper()
	binary := lookDaemon(kind.binary)
	if binary == "" {
		t.Skipf("%s is not installed: docs/proxies/%s is not tried (make need-proxies installs it)", kind.binary, kind.file)
	}
	p := &proxy{kind: kind, addr: freeAddr(t), dir: t.TempDir()}
	p.makeCertificate(t)
	text := readText(t, "../../docs/proxies/"+kind.file)
	changes := append([]string{
		"/etc/ssl/duet", filepath.Join(p.dir, "duet"), "127.0.0.1:8080", root, "127.0.0.1:8081", subpath}, kind.changed(p, text)...)
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("%s: %q is not there any more", kind.file, changes[i])
		}
		text = strings.ReplaceAll(text, changes[i], changes[i+1])
	}
	if kind.wrapped != nil {
		text = kind.wrapped(p, text)
	}
	if impatient {
		text = kind.impatient(text)
	}
	path := filepath.Join(p.dir, kind.file)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	startDaemon(t, exec.Command(binary, kind.command(p, path)...), p.dir, func() bool {
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return p
}

// startDaemon starts command, whose home is dir, and waits until it is ready. It ends with the test.
func startDaemon(t testing.TB, command *exec.Cmd, dir string, ready func() bool) {
	t.Helper()
	said := &transcript{changed: make(chan struct{})}
	command.Dir, command.Stdout, command.Stderr = dir, said, said
	if command.Env == nil {
		command.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", command.Path, said)
		}
	})
	tooLong, again := time.After(patience), time.NewTicker(20*time.Millisecond)
	defer again.Stop()
	for !ready() {
		select {
		case <-ended:
			t.Fatalf("%s ended:\n%s", command.Path, said)
		case <-tooLong:
			t.Fatalf("%s is not ready:\n%s", command.Path, said)
		case <-again.C:
		}
	}
}

// freeAddr is an address on loopback at which nothing listens.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// makeCertificate writes duet.crt, duet.key and duet.pem (both) into the proxy's folder.
func (p *proxy) makeCertificate(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "duet.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		DNSNames: []string{"duet.example.com", "www.example.com", "localhost"},
		IsCA:     true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for name, content := range map[string][]byte{"duet.crt": certificate, "duet.key": secret, "duet.pem": append(bytes.Clone(certificate), secret...)} {
		if err := os.WriteFile(filepath.Join(p.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.pool = x509.NewCertPool()
	p.pool.AppendCertsFromPEM(certificate)
}

// client goes to the proxy from an address of its own on loopback, whatever host is named.
func (p *proxy) client(from string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, network, p.addr)
			},
			TLSClientConfig: &tls.Config{RootCAs: p.pool}, DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dial opens a WebSocket as the page at the URL page would. pings, where it is not nil, counts the server's.
func (p *proxy) dial(t *testing.T, page, from string, header http.Header, pings *atomic.Int32) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if header == nil {
		header = http.Header{}
	}
	header.Set("Origin", page[:strings.Index(page[len("https://"):], "/")+len("https://")])
	ws, res, err := websocket.Dial(ctx, page+"ws", &websocket.DialOptions{HTTPClient: p.client(from), HTTPHeader: header,
		Subprotocols: []string{"duet.v1"},
		OnPingReceived: func(context.Context, []byte) bool {
			if pings != nil {
				pings.Add(1)
			}
			return true
		}})
	if err == nil {
		t.Cleanup(func() { ws.CloseNow() })
	}
	return ws, res, err
}

// speak sends text and returns the first message that holds want.
func speak(t *testing.T, ws *websocket.Conn, text, want string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if text != "" {
		if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for {
		_, got, err := ws.Read(ctx)
		if err != nil {
			t.Fatalf("%s does not come: %v", want, err)
		}
		if strings.Contains(string(got), want) {
			return string(got)
		}
	}
}

func TestProxies(t *testing.T) {
	for name, kind := range proxyKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := []string{"DUET_TRUSTED_PROXIES=127.0.0.1", "DUET_MAX_CONNECTIONS_PER_IP=2"}
			root := startServer(t, settings...)
			subpath := startServer(t, append(settings, "DUET_BASE_PATH=/duet")...)
			p := startProxy(t, kind, hostOf(t, root.page), hostOf(t, subpath.page), false)
			for _, page := range []string{"https://duet.example.com:" + p.port() + "/", "https://www.example.com:" + p.port() + "/duet/"} {
				p.tryPage(t, page)
				p.tryCall(t, page)
				p.tryLimits(t, page)
			}
			if status, location := p.get(t, "https://www.example.com:"+p.port()+"/duet"); status != http.StatusPermanentRedirect || !strings.HasSuffix(location, "/duet/") {
				t.Errorf("/duet: %d to %s", status, location)
			}
		})
	}
}

// get returns status and Location, or the body where there is none.
func (p *proxy) get(t *testing.T, address string) (int, string) {
	t.Helper()
	res, body := fetch(t, p.client("127.0.0.9"), address)
	if location := res.Header.Get("Location"); location != "" {
		return res.StatusCode, location
	}
	return res.StatusCode, body
}

// tryPage loads what a browser would.
func (p *proxy) tryPage(t *testing.T, page string) {
	t.Helper()
	for path, want := range map[string]string{"": "<!doctype html>", "js/protocol.js": "export", "readyz": "ready", "ws": "426"} {
		status, body := p.get(t, page+path)
		if path == "ws" {
			body = fmt.Sprint(status)
		}
		if !strings.Contains(strings.ToLower(body), want) {
			t.Errorf("%s%s: %d, %q is missing", page, path, status, want)
		}
	}
}

// tryCall has two join and say something.
func (p *proxy) tryCall(t *testing.T, page string) {
	t.Helper()
	var ends [2]*websocket.Conn
	for i := range ends {
		ws, _, err := p.dial(t, page, fmt.Sprintf("127.0.0.%d", 10+i), nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", page, err)
		}
		if ws.Subprotocol() != "duet.v1" {
			t.Errorf("%s: subprotocol %q", page, ws.Subprotocol())
		}
		speak(t, ws, `{"type":"join","room":"proxied"}`, `"joined"`)
		ends[i] = ws
	}
	large := strings.Repeat("x", 60_000)
	for i := range ends {
		if err := ends[i].Write(t.Context(), websocket.MessageText, []byte(`{"type":"message","data":"`+large+`"}`)); err != nil {
			t.Fatal(err)
		}
		ends[1-i].SetReadLimit(1 << 20)
		speak(t, ends[1-i], "", large)
	}
	ends[0].Close(websocket.StatusNormalClosure, "")
	speak(t, ends[1], "", `"peer-left"`)
	if err := ends[1].Close(4100, "reconnecting"); err != nil {
		t.Errorf("%s: the close was not answered: %v", page, err)
	}
}

// tryLimits finds out under which address a client is counted: its own, whatever it says it is.
func (p *proxy) tryLimits(t *testing.T, page string) {
	t.Helper()
	for _, from := range []string{"127.0.0.21", "127.0.0.22"} {
		for i := range 3 {
			_, res, err := p.dial(t, page, from, http.Header{"X-Forwarded-For": {fmt.Sprintf("198.51.100.%d", i)}}, nil)
			switch {
			case i < 2 && err != nil:
				t.Errorf("%s: connection %d from %s: %v", page, i+1, from, err)
			case i == 2 && (res == nil || res.StatusCode != http.StatusTooManyRequests):
				t.Errorf("%s: one connection more than an address may have (2): %v", page, err)
			case i == 2:
				if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), from) {
					t.Errorf("%s: the answer is not about %s: %s", page, from, body)
				}
			}
		}
	}
}

// TestProxiesIdle keeps a silent connection for three times as long as the proxy waits, and finds out that
// without pings it would not have lived.
func TestProxiesIdle(t *testing.T) {
	for name, kind := range proxyKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pinging, silent := startServer(t, "DUET_PING_INTERVAL=333ms"), startServer(t, "DUET_BASE_PATH=/duet", "DUET_PING_INTERVAL=20s")
			p := startProxy(t, kind, hostOf(t, pinging.page), hostOf(t, silent.page), kind.impatient != nil)
			var pings atomic.Int32
			ws, _, err := p.dial(t, "https://duet.example.com:"+p.port()+"/", "127.0.0.30", nil, &pings)
			if err != nil {
				t.Fatal(err)
			}
			speak(t, ws, `{"type":"join","room":"idle"}`, `"joined"`)
			ctx, enough := context.WithTimeout(t.Context(), 3*time.Second)
			defer enough()
			if _, _, err := ws.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the connection was cut after %d pings: %v", pings.Load(), err)
			}
			if n := pings.Load(); n < 4 {
				t.Errorf("%d pings came through", n)
			}
			if kind.impatient == nil {
				return
			}
			if ws, _, err = p.dial(t, "https://www.example.com:"+p.port()+"/duet/", "127.0.0.30", nil, nil); err != nil {
				t.Fatal(err)
			}
			ctx, enough = context.WithTimeout(t.Context(), patience)
			defer enough()
			if _, _, err := ws.Read(ctx); ctx.Err() != nil {
				t.Errorf("without pings the proxy does not cut: %v", err)
			}
		})
	}
}

// TestProxyStand is for tests that bring browsers. Where DUET_PROXY names nginx, caddy or haproxy it starts
// that in front of two duets, prints {"page":…,"subpath":…} on a line of its own and waits until its
// standard input ends. Browsers have to resolve the two names to 127.0.0.1 and to ignore the certificate.
func TestProxyStand(t *testing.T) {
	kind, ok := proxyKinds[os.Getenv("DUET_PROXY")]
	if !ok {
		t.Skip("DUET_PROXY names no proxy")
	}
	root := startServer(t, "DUET_TRUSTED_PROXIES=127.0.0.1")
	subpath := startServer(t, "DUET_TRUSTED_PROXIES=127.0.0.1", "DUET_BASE_PATH=/duet")
	p := startProxy(t, kind, hostOf(t, root.page), hostOf(t, subpath.page), false)
	fmt.Printf("\n{\"page\":\"https://duet.example.com:%[1]s/\",\"subpath\":\"https://www.example.com:%[1]s/duet/\"}\n", p.port())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// TestTraefikFile reads the file that no test can start.
func TestTraefikFile(t *testing.T) {
	var file struct {
		HTTP struct {
			Routers map[string]struct {
				Rule, Service string
				EntryPoints   []string `yaml:"entryPoints"`
				TLS           struct {
					CertResolver string `yaml:"certResolver"`
				}
			}
			Services map[string]struct {
				LoadBalancer struct {
					Servers []struct{ URL string }
				} `yaml:"loadBalancer"`
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(readText(t, "../../docs/proxies/traefik.yml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	for name, router := range file.HTTP.Routers {
		service, ok := file.HTTP.Services[router.Service]
		if !ok || len(service.LoadBalancer.Servers) != 1 || router.TLS.CertResolver == "" || len(router.EntryPoints) != 1 {
			t.Errorf("%s leads to %+v", name, service)
		}
		if !regexp.MustCompile("^Host\\(`[a-z.]+`\\)( && \\(Path\\(`/duet`\\) \\|\\| PathPrefix\\(`/duet/`\\)\\))?$").MatchString(router.Rule) {
			t.Errorf("%s: %s", name, router.Rule)
		}
	}
	if len(file.HTTP.Routers) != 2 {
		t.Errorf("%d routers", len(file.HTTP.Routers))
	}
}
