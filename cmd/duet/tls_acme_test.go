package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/dns/dnsmessage"

	"duet/signaling/natsbus/freeport"
)

// pebbleModule is Let's Encrypt's test authority. It is built apart, so that nothing of it is among this
// module's requirements.
const pebbleModule = "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1"

// buildPebble builds it, or skips the test where it cannot be had.
func buildPebble(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	install := exec.CommandContext(t.Context(), "go", "install", pebbleModule)
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("no ACME authority to test with: go install %s: %v\n%s", pebbleModule, err, out)
	}
	return filepath.Join(dir, "pebble")
}

// An authority is a running Pebble.
type authority struct {
	url, roots string // of the directory and of the root that it signs with
	ca         string // file with the root of its own certificate
	client     *http.Client
	stop       func()
}

// A pebbleConfig says how an authority behaves.
type pebbleConfig struct {
	httpPort, tlsPort int           // where it asks for proofs
	life              time.Duration // of its certificates
	refused           int           // of a hundred nonces; one costs its client a second, each further one in a row twice as much
}

// startPebble starts it: names resolve to 127.0.0.1.
func startPebble(t *testing.T, program string, cfg pebbleConfig) *authority {
	t.Helper()
	dir := t.TempDir()
	own := makeTestCertificate(t, "localhost", -time.Hour, time.Hour)
	cert, key, config := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "config.json")
	writeFile(t, cert, own.cert)
	writeFile(t, key, own.key)
	ports := freePorts(t, 2)
	text, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":           fmt.Sprintf("127.0.0.1:%d", ports[0]),
		"managementListenAddress": fmt.Sprintf("127.0.0.1:%d", ports[1]),
		"certificate":             cert, "privateKey": key, "httpPort": cfg.httpPort, "tlsPort": cfg.tlsPort,
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "for tests", "validityPeriod": int(cfg.life.Seconds())}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, config, text)
	said := &transcript{changed: make(chan struct{})}
	cmd := exec.Command(program, "-config", config, "-dnsserver", resolveToLoopback(t))
	cmd.Env = []string{"PEBBLE_VA_NOSLEEP=1", fmt.Sprint("PEBBLE_WFE_NONCEREJECT=", cfg.refused)}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // which says that it was killed
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("pebble said:\n%s", said)
		}
	})
	said.await(t, regexp.MustCompile(`ACME directory available`))
	a := &authority{url: fmt.Sprintf("https://127.0.0.1:%d/dir", ports[0]), roots: fmt.Sprintf("https://127.0.0.1:%d/roots/0", ports[1]),
		ca: cert, client: clientOf(trusting(own.cert)), stop: stop}
	for _, url := range []string{a.url, a.roots} {
		a.await(t, url)
	}
	return a
}

// await waits until url answers: Pebble says that it listens a moment before it does.
func (a *authority) await(t *testing.T, url string) {
	t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(patience); ; <-poll.C {
		res, err := a.client.Get(url)
		if err == nil {
			res.Body.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// freePorts returns ports of 127.0.0.1 that were free a moment ago.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports, err := freeport.Find(n)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

// resolveToLoopback is a name server to which every name is 127.0.0.1. Pebble asks it by TCP.
func resolveToLoopback(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { l.Close(); running.Wait() })
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				answerWithLoopback(conn)
			})
		}
	})
	return l.Addr().String()
}

// answerWithLoopback answers the questions that come by conn (RFC 1035, section 4.2.2) until it ends.
func answerWithLoopback(conn net.Conn) {
	for {
		var size uint16
		if binary.Read(conn, binary.BigEndian, &size) != nil {
			return
		}
		buf := make([]byte, size)
		var m dnsmessage.Message
		if _, err := io.ReadFull(conn, buf); err != nil || m.Unpack(buf) != nil || len(m.Questions) != 1 {
			return
		}
		m.Response = true
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
			}}
		}
		answer, err := m.Pack()
		if err != nil {
			return
		}
		_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
}

// TestACME has certificates made by a real authority, once it has asked over TLS (RFC 8737) and once over
// http (RFC 8555, section 8.3).
func TestACME(t *testing.T) {
	t.Parallel()
	pebble := buildPebble(t)
	for _, challenge := range []string{"tls-alpn-01", "http-01"} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			ports := freePorts(t, 3)
			https, plain, nobody := ports[0], ports[1], ports[2]
			env := []string{"DUET_TLS_ACME_DOMAIN=duet.test", "DUET_DATA_DIR=" + t.TempDir(), fmt.Sprintf("DUET_ADDR=127.0.0.1:%d", https)}
			var ca *authority
			if challenge == "http-01" {
				ca = startPebble(t, pebble, pebbleConfig{httpPort: plain, tlsPort: nobody, life: 24 * time.Hour, refused: 10})
				env = append(env, fmt.Sprintf("DUET_HTTP_REDIRECT_ADDR=127.0.0.1:%d", plain))
			} else {
				ca = startPebble(t, pebble, pebbleConfig{httpPort: nobody, tlsPort: https, life: 24 * time.Hour, refused: 10})
				env = append(env, "DUET_HTTP_REDIRECT_ADDR=off")
			}
			env = append(env, "DUET_TLS_ACME_URL="+ca.url, "DUET_TLS_ACME_CA="+ca.ca)
			_, root := fetch(t, ca.client, ca.roots)

			p := spawn(t, nil, env...)
			p.stderr.await(t, regexp.MustCompile(`"msg":"certificate from the ACME authority.*duet\.test`))
			at := p.said(t)
			if want := fmt.Sprintf("https://duet.test:%d/", https); at.Page != want {
				t.Errorf("announced %s, want %s", at.Page, want)
			}
			leaf := callOverACME(t, at.Page, at.Websocket, []byte(root))
			if _, metrics := get(t, at.Operator); !strings.Contains(metrics, `duet_tls_renewals_total{outcome="ok"} 1`) {
				t.Error("the certificate was not counted")
			}
			if challenge == "http-01" {
				res, _ := fetch(t, clientOf(nil), fmt.Sprintf("http://127.0.0.1:%d/x?y", plain))
				if want := fmt.Sprintf("https://127.0.0.1:%d/x?y", https); res.Header.Get("Location") != want {
					t.Errorf("redirected to %q, want %s", res.Header.Get("Location"), want)
				}
			}
			if err := p.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			p.exit(t)

			ca.stop() // and the certificate is there all the same
			p = spawn(t, nil, env...)
			at = p.said(t)
			if again := callOverACME(t, at.Page, at.Websocket, []byte(root)); !again.Equal(leaf) {
				t.Error("another certificate after a restart")
			}
		})
	}
}

// TestACMERenews: a certificate of a few seconds is renewed before it has run out, by the library's own
// clock. The connection from before stays, and every handshake finds a certificate that is valid.
func TestACMERenews(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes two thirds of a certificate's life")
	}
	t.Parallel()
	const life = 24 * time.Second // a third of it is left when it is renewed, which takes a second
	ports := freePorts(t, 2)
	https, nobody := ports[0], ports[1]
	ca := startPebble(t, buildPebble(t), pebbleConfig{httpPort: nobody, tlsPort: https, life: life})
	p := spawn(t, nil, "DUET_TLS_ACME_DOMAIN=duet.test", "DUET_DATA_DIR="+t.TempDir(), fmt.Sprintf("DUET_ADDR=127.0.0.1:%d", https),
		"DUET_HTTP_REDIRECT_ADDR=off", "DUET_TLS_ACME_URL="+ca.url, "DUET_TLS_ACME_CA="+ca.ca)
	const obtained = `"msg":"certificate from the ACME authority`
	p.stderr.await(t, regexp.MustCompile(obtained))
	_, root := fetch(t, ca.client, ca.roots)
	at := p.said(t)

	ws, _, err := websocket.Dial(t.Context(), at.Websocket, &websocket.DialOptions{HTTPClient: acmeClient([]byte(root))})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	talk(t, ws, `{"type":"join","room":"demo"}`, `"joined"`)

	trust := trusting([]byte(root))
	trust.ServerName = "duet.test"
	shake := func() *x509.Certificate {
		t.Helper()
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", https), trust)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0]
	}
	first := shake()
	if held := first.NotAfter.Sub(first.NotBefore); held > life {
		t.Fatalf("a certificate for %s", held)
	}
	second, poll := first, time.NewTicker(100*time.Millisecond)
	defer poll.Stop()
	for second = shake(); second.Equal(first); second = shake() {
		<-poll.C
	}
	if !time.Now().Before(first.NotAfter) || !second.NotAfter.After(first.NotAfter) {
		t.Errorf("renewed at %s, from the end at %s to that at %s", time.Now(), first.NotAfter, second.NotAfter)
	}
	talk(t, ws, `{"type":"ping"}`, `"pong"`)
	p.stderr.await(t, regexp.MustCompile(`(?s)`+obtained+`.*`+obtained))
	if _, metrics := get(t, at.Operator); !strings.Contains(metrics, `duet_tls_renewals_total{outcome="ok"} 2`) || !strings.Contains(metrics, `duet_tls_renewals_total{outcome="failed"} 0`) {
		t.Error("the renewal was not counted")
	}
}

// TestACMEThatDoesNotAnswer: what is wrong is logged and counted, and duet goes on.
func TestACMEThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	port := freePorts(t, 1)[0]
	p := spawn(t, nil, "DUET_TLS_ACME_DOMAIN=duet.test", "DUET_HTTP_REDIRECT_ADDR=off", "DUET_DATA_DIR="+t.TempDir(),
		fmt.Sprintf("DUET_TLS_ACME_URL=https://127.0.0.1:%d/dir", port))
	p.stderr.await(t, regexp.MustCompile(`no certificate from the ACME authority.*duet\.test.*connection refused`))
	at := p.said(t)
	if _, metrics := get(t, at.Operator); !strings.Contains(metrics, `duet_tls_renewals_total{outcome="failed"} 1`) || !strings.Contains(metrics, "duet_tls_expires_timestamp_seconds 0\n") {
		t.Error("the failure was not counted")
	}
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := p.exit(t); status != exitOK {
		t.Errorf("status %d", status)
	}
}

// acmeClient trusts root alone, and finds every name at 127.0.0.1.
func acmeClient(root []byte) *http.Client {
	client := clientOf(trusting(root))
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, port, _ := net.SplitHostPort(addr)
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
	}
	return client
}

// callOverACME fetches the page and joins a room, trusting root alone, and returns the certificate.
func callOverACME(t *testing.T, page, socket string, root []byte) *x509.Certificate {
	t.Helper()
	client := acmeClient(root)
	res, _ := fetch(t, client, page)
	if res.StatusCode != 200 || res.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("the page: %s, %v", res.Status, res.Header)
	}
	ws, _, err := websocket.Dial(t.Context(), socket, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"join","room":"demo"}`)); err != nil {
		t.Fatal(err)
	}
	if _, text, err := ws.Read(t.Context()); err != nil || !strings.Contains(string(text), `"joined"`) {
		t.Errorf("%s, %v", text, err)
	}
	// Who comes by an address, as duet health does, gets a certificate too; another name gets none.
	at := strings.TrimSuffix(strings.TrimPrefix(page, "https://duet.test"), "/")
	byAddress, err := tls.Dial("tcp", "127.0.0.1"+at, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	byAddress.Close()
	if other, err := tls.Dial("tcp", "127.0.0.1"+at, &tls.Config{InsecureSkipVerify: true, ServerName: "evil.test"}); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("another name: %v", err)
		if other != nil {
			other.Close()
		}
	}
	return res.TLS.PeerCertificates[0]
}

func TestACMEPolicy(t *testing.T) {
	a := &acmeCertificates{domains: []string{"duet.test"}}
	for host, want := range map[string]bool{"duet.test": true, "duet.test:5002": true, "DUET.test": true, "duet.test.": true, "evil.test": false, "duet.test.evil.test": false, "": false, "[::1]:80": false} {
		if got := a.allow(t.Context(), host) == nil; got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}
