package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"rsc.io/qr"
)

// Whoever tells a client's end of a call that nothing more comes does so over TLS too.
var _ interface{ CloseWrite() error } = (*tls.Conn)(nil)

// ---- certificates for tests

// A madeCertificate is one with its key, as PEM.
type madeCertificate struct {
	cert, key []byte
	leaf      *x509.Certificate
}

// makeTestCertificate makes one for 127.0.0.1 and name, valid from now+from to now+to.
func makeTestCertificate(t *testing.T, name string, from, to time.Duration) madeCertificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(from), NotAfter: now.Add(to),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return madeCertificate{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), leaf}
}

// trusting is a client's configuration that takes the certificates in the PEM texts, and no others.
func trusting(texts ...[]byte) *tls.Config {
	roots := x509.NewCertPool()
	for _, text := range texts {
		roots.AppendCertsFromPEM(text)
	}
	return &tls.Config{RootCAs: roots}
}

func clientOf(cfg *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func writeFile(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// said returns the line of the log in which the process announced its addresses.
func (p *process) said(t *testing.T) (at struct{ Page, Websocket, Operator, Network, Redirect, Try string }) {
	t.Helper()
	line := p.stderr.await(t, regexp.MustCompile(`(?m)^.*"msg":"listening".*$`))
	if err := json.Unmarshal([]byte(line), &at); err != nil {
		t.Fatal(err)
	}
	return at
}

// fetch does a GET and returns the response and its body.
func fetch(t testing.TB, client *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// ---- settings

func TestTLSSettingsTogether(t *testing.T) {
	for _, tt := range []struct {
		env  []string
		want string // the beginning of the line; "" = taken
	}{
		{[]string{"DUET_TLS_CERT=c"}, "DUET_TLS_CERT: DUET_TLS_KEY is missing"},
		{[]string{"DUET_TLS_KEY=k"}, "DUET_TLS_KEY: DUET_TLS_CERT is missing"},
		{[]string{"DUET_TLS_CERT=c", "DUET_TLS_KEY=k", "DUET_TLS_SELF_SIGNED=true"}, "DUET_TLS_SELF_SIGNED: DUET_TLS_CERT and DUET_TLS_KEY are set too"},
		{[]string{"DUET_TLS_CERT=c", "DUET_TLS_KEY=k", "DUET_TLS_ACME_DOMAIN=a.example"}, "DUET_TLS_ACME_DOMAIN: DUET_TLS_CERT and DUET_TLS_KEY are set too"},
		{[]string{"DUET_TLS_SELF_SIGNED=true", "DUET_TLS_ACME_DOMAIN=a.example"}, "DUET_TLS_ACME_DOMAIN: DUET_TLS_SELF_SIGNED is set too"},
		{[]string{"DUET_TLS_ACME_URL=https://ca.example/dir"}, "DUET_TLS_ACME_URL: DUET_TLS_ACME_DOMAIN is missing"},
		{[]string{"DUET_TLS_ACME_DOMAIN=a.example", "DUET_TLS_ACME_CA=c"}, "DUET_TLS_ACME_CA: DUET_TLS_ACME_URL is missing"},
		{[]string{"DUET_TLS_SELF_SIGNED_NAMES=a.example"}, "DUET_TLS_SELF_SIGNED_NAMES: DUET_TLS_SELF_SIGNED=true is missing"},
		{[]string{"DUET_TLS_HSTS=on"}, "DUET_TLS_HSTS=on: needs"},
		{[]string{"DUET_TLS_HSTS=on", "DUET_TLS_SELF_SIGNED=true"}, "DUET_TLS_HSTS=on: needs"},
		{[]string{"DUET_HTTP_REDIRECT_ADDR=:80"}, "DUET_HTTP_REDIRECT_ADDR: there is no https"},
		{[]string{"DUET_TLS_SELF_SIGNED=yes"}, `DUET_TLS_SELF_SIGNED="yes": must be true or false`},
		{[]string{"DUET_TLS_SELF_SIGNED_NAMES=a.example:443"}, `DUET_TLS_SELF_SIGNED_NAMES="a.example:443": must be host names and addresses`},
		{[]string{"DUET_TLS_ACME_DOMAIN=localhost"}, `DUET_TLS_ACME_DOMAIN="localhost": must be host names`},
		{[]string{"DUET_TLS_ACME_DOMAIN=192.0.2.7"}, `DUET_TLS_ACME_DOMAIN="192.0.2.7": must be host names`},
		{[]string{"DUET_TLS_ACME_DOMAIN=*.a.example"}, `DUET_TLS_ACME_DOMAIN="*.a.example": must be host names`},
		{[]string{"DUET_TLS_ACME_URL=http://ca.example/"}, `DUET_TLS_ACME_URL="http://ca.example/": must be an https URL`},
		{[]string{"DUET_HTTP_REDIRECT_ADDR=80"}, `DUET_HTTP_REDIRECT_ADDR="80": must be host:port`},
		{[]string{"DUET_TLS_HSTS=yes"}, `DUET_TLS_HSTS="yes": must be one of auto, on, off`},
		{[]string{"DUET_TLS_CERT=c", "DUET_TLS_KEY=k", "DUET_TLS_HSTS=on", "DUET_HTTP_REDIRECT_ADDR=:80"}, ""},
		{[]string{"DUET_TLS_SELF_SIGNED=true", "DUET_TLS_SELF_SIGNED_NAMES=Duet.Local, 192.0.2.7,2001:DB8::1", "DUET_HTTP_REDIRECT_ADDR=off"}, ""},
		{[]string{"DUET_TLS_ACME_DOMAIN=a.example, b.example", "DUET_TLS_ACME_URL=https://ca.example/dir", "DUET_TLS_ACME_CA=c"}, ""},
	} {
		_, err := parseConfig(tt.env, 20_000)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%q: %v", tt.env, err)
		case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%q: %v, want %s", tt.env, err, tt.want)
		}
	}
}

func TestRedirectAddrAuto(t *testing.T) {
	for env, want := range map[string]redirectAddr{"DUET_TLS_ACME_DOMAIN=a.example": ":80", "DUET_TLS_SELF_SIGNED=true": "", "": ""} {
		c, err := parseConfig([]string{env}, 20_000)
		if err != nil || c.HTTPRedirectAddr != want {
			t.Errorf("%s: %q, %v", env, c.HTTPRedirectAddr, err)
		}
		if limit := 19_952 - c.redirectDescriptors(); c.listenLimit(20_000) != limit {
			t.Errorf("%s: %d listened to, want %d", env, c.listenLimit(20_000), limit)
		}
	}
}

// TestTLSFaultsAtStart wants one clear line, and no server, for what cannot be served.
func TestTLSFaultsAtStart(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, text)
		return path
	}
	good, other := makeTestCertificate(t, "a.example", -time.Hour, time.Hour), makeTestCertificate(t, "a.example", -time.Hour, time.Hour)
	old, early := makeTestCertificate(t, "a.example", -2*time.Hour, -time.Hour), makeTestCertificate(t, "a.example", time.Hour, 2*time.Hour)
	cert, key := file("cert", good.cert), file("key", good.key)
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}})
	files := func(cert, key string) []string { return []string{"DUET_TLS_CERT=" + cert, "DUET_TLS_KEY=" + key} }
	for _, tt := range []struct {
		name string
		env  []string
		want string
	}{
		{"another key", files(cert, file("other", other.key)), "DUET_TLS_CERT=" + cert + ", DUET_TLS_KEY=" + dir + "/other: the key is not the certificate's"},
		{"ran out", files(file("old", old.cert), file("old key", old.key)), "DUET_TLS_CERT=" + dir + "/old: the certificate ran out on "},
		{"not yet", files(file("early", early.cert), file("early key", early.key)), "DUET_TLS_CERT=" + dir + "/early: the certificate is not valid before "},
		{"no file", files(dir+"/none", key), "DUET_TLS_CERT=" + dir + "/none: no such file or directory"},
		{"a folder", files(cert, dir), "DUET_TLS_KEY=" + dir + ": is a directory"},
		{"switched", files(key, cert), "DUET_TLS_CERT=" + key + ", DUET_TLS_KEY=" + cert + ": failed to find certificate PEM data in certificate input, but did find a private key"},
		{"no PEM", files(file("text", []byte("hello")), key), "DUET_TLS_CERT=" + dir + "/text, DUET_TLS_KEY=" + key + ": failed to find any PEM data"},
		{"encrypted", files(cert, file("enc", encrypted)), "DUET_TLS_KEY=" + dir + "/enc: the key is encrypted"},
		{"too large", files(file("large", bytes.Repeat([]byte("x"), maxPEMBytes+1)), key), "DUET_TLS_CERT=" + dir + "/large: the file is larger than 1024 KiB"},
		{"no folder for certificates", []string{"DUET_TLS_SELF_SIGNED=true", "DUET_DATA_DIR=" + cert}, "DUET_DATA_DIR=" + cert + ": files are kept there, but it cannot be written: "},
		{"no folder can be made", []string{"DUET_TLS_ACME_DOMAIN=a.example", "DUET_HTTP_REDIRECT_ADDR=off", "DUET_DATA_DIR=" + cert + "/x"}, "DUET_DATA_DIR=" + cert + "/x: files are kept there"},
		{"no home", []string{"DUET_TLS_SELF_SIGNED=true"}, "DUET_DATA_DIR: set it to a folder"},
		{"no root", []string{"DUET_TLS_ACME_DOMAIN=a.example", "DUET_HTTP_REDIRECT_ADDR=off", "DUET_DATA_DIR=" + dir, "DUET_TLS_ACME_URL=https://127.0.0.1:1/", "DUET_TLS_ACME_CA=" + key}, "DUET_TLS_ACME_CA=" + key + ": no certificate is in it"},
		{"redirect's port", append(files(cert, key), "DUET_HTTP_REDIRECT_ADDR=192.0.2.1:0"), "DUET_HTTP_REDIRECT_ADDR=192.0.2.1:0: this machine has no such address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := spawn(t, nil, tt.env...)
			if status := p.exit(t); status != exitFailed {
				t.Errorf("status %d", status)
			}
			said := p.stderr.String()
			last := said[strings.LastIndexByte(strings.TrimSuffix(said, "\n"), '\n')+1:]
			if !strings.HasPrefix(last, "duet: "+tt.want) || strings.Contains(last, "BEGIN") {
				t.Errorf("%s\nwant duet: %s", last, tt.want)
			}
		})
	}
}

// TestTLSDocument wants every line that docs/tls.md explains in the code.
func TestTLSDocument(t *testing.T) {
	_, table, _ := strings.Cut(readText(t, "../../docs/tls.md"), "## When it does not start")
	code := readText(t, "listen.go")
	files, err := filepath.Glob("tls*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			code += readText(t, f)
		}
	}
	rows := regexp.MustCompile("(?m)^\\| (`.*?`) \\|").FindAllStringSubmatch(table, -1)
	if len(rows) < 5 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		for line := range strings.SplitSeq(row[1], ", ") {
			if !strings.Contains(code, strings.Trim(line, "`")) {
				t.Errorf("duet never says %s", line)
			}
		}
	}
}

// ---- files

// TestCertificateIsReadAgain changes the files under a server that has a WebSocket open.
func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first, second := makeTestCertificate(t, "duet.example", -time.Hour, time.Hour), makeTestCertificate(t, "duet.example", -time.Hour, 20*time.Hour)
	writeFile(t, cert, first.cert)
	writeFile(t, key, first.key)
	p := spawn(t, nil, "DUET_TLS_CERT="+cert, "DUET_TLS_KEY="+key, "DUET_TLS_HSTS=on")
	at := p.said(t)
	if !strings.HasPrefix(at.Page, "https://127.0.0.1:") || !strings.HasPrefix(at.Websocket, "wss://127.0.0.1:") || at.Network != "off" || at.Redirect != "off" {
		t.Fatalf("announced %+v", at)
	}
	trust := trusting(first.cert, second.cert)
	served := func() *x509.Certificate {
		t.Helper()
		res, body := fetch(t, clientOf(trust), at.Page)
		if res.StatusCode != 200 || !strings.Contains(strings.ToLower(body), "<!doctype html>") || res.Header.Get("Strict-Transport-Security") != "max-age=2592000" {
			t.Errorf("the page: %s, %v", res.Status, res.Header)
		}
		return res.TLS.PeerCertificates[0]
	}
	if !served().Equal(first.leaf) {
		t.Error("not the certificate in the file")
	}
	ws, _, err := websocket.Dial(t.Context(), at.Websocket, &websocket.DialOptions{HTTPClient: clientOf(trust)})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	talk(t, ws, `{"type":"join","room":"demo"}`, `"joined"`)

	writeFile(t, key, []byte("half a key"))
	p.stderr.await(t, regexp.MustCompile(`the old one stays.*DUET_TLS_KEY=`))
	if !served().Equal(first.leaf) {
		t.Error("a broken key changed the certificate")
	}
	writeFile(t, cert, second.cert)
	writeFile(t, key, second.key)
	p.stderr.await(t, regexp.MustCompile(`certificate read again`))
	if !served().Equal(second.leaf) {
		t.Error("the old certificate is still served")
	}
	talk(t, ws, `{"type":"offer","sdp":"x"}`, `"no-peer"`) // the connection from before
	_, metrics := get(t, at.Operator)
	for _, want := range []string{
		`duet_tls_renewals_total{outcome="ok"} 1`,
		fmt.Sprintf("duet_tls_expires_timestamp_seconds %s\n", formatFloat(second.leaf.NotAfter)),
		"duet_connections 1",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(metrics, `duet_tls_renewals_total{outcome="failed"} 0`) {
		t.Error("the broken key was not counted")
	}
}

// formatFloat writes a time as Prometheus does.
func formatFloat(at time.Time) string { return fmt.Sprintf("%v", float64(at.Unix())) }

// TestUnchangedFilesAreLeftAlone: a fault is said once, and not every time the files are looked at.
func TestUnchangedFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	made := makeTestCertificate(t, "duet.example", -time.Hour, time.Hour)
	writeFile(t, cert, made.cert)
	writeFile(t, key, made.key)
	renewals := newRenewals(prometheus.NewRegistry())
	f, err := newCertificateFiles(cert, key, slog.New(slog.DiscardHandler), renewals)
	if err != nil {
		t.Fatal(err)
	}
	count := func(ok, failed float64) {
		t.Helper()
		if a, b := testutil.ToFloat64(renewals.WithLabelValues("ok")), testutil.ToFloat64(renewals.WithLabelValues("failed")); a != ok || b != failed {
			t.Errorf("%v went well and %v failed, want %v and %v", a, b, ok, failed)
		}
	}
	f.look()
	count(0, 0)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	f.look()
	f.look()
	count(0, 1)
	expired := makeTestCertificate(t, "duet.example", -2*time.Hour, -time.Hour)
	writeFile(t, cert, expired.cert)
	writeFile(t, key, expired.key)
	f.look()
	f.look()
	count(0, 2)
	writeFile(t, cert, made.cert)
	writeFile(t, key, made.key)
	f.look()
	count(1, 2)
}

func TestAnnouncedHost(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	files := func(name string) *tlsService {
		made := makeTestCertificate(t, name, -time.Hour, time.Hour)
		pair, err := tls.X509KeyPair(made.cert, made.key)
		if err != nil {
			t.Fatal(err)
		}
		f := &certificateFiles{log: log}
		f.current.Store(&pair)
		return &tlsService{certs: f}
	}
	for _, tt := range []struct {
		secure   *tlsService
		at, want string
	}{
		{nil, "localhost:8080", "localhost:8080"},
		{files("duet.example"), "localhost:8443", "duet.example:8443"},
		{files("duet.example"), "localhost:443", "duet.example"},
		{files("duet.example"), "127.0.0.1:8443", "127.0.0.1:8443"},
		{files("*.example"), "localhost:8443", "localhost:8443"},
		{&tlsService{certs: &acmeCertificates{domains: []string{"a.example", "b.example"}}}, "[::1]:443", "a.example"},
		{&tlsService{certs: &selfSigned{}}, "localhost:8080", "localhost:8080"},
	} {
		if got := tt.secure.host(tt.at); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.at, got, tt.want)
		}
	}
}

// ---- self-signed

// TestSelfSigned starts a server twice: the certificate is for this machine, and stays.
func TestSelfSigned(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b") // made, where it is missing
	path := filepath.Join(dir, selfSignedFile)
	env := []string{"DUET_TLS_SELF_SIGNED=true", "DUET_TLS_SELF_SIGNED_NAMES=192.0.2.7,duet.test", "DUET_DATA_DIR=" + dir, "DUET_HTTP_REDIRECT_ADDR=127.0.0.1:0"}
	var first *x509.Certificate
	for range 2 {
		p := spawn(t, nil, env...)
		at := p.said(t)
		if at.Network != "off" || !strings.HasPrefix(at.Try, "websocat -k wss://") { // nobody else reaches 127.0.0.1
			t.Errorf("announced %+v", at)
		}
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		client := clientOf(trusting(stored))
		res, _ := fetch(t, client, at.Page)
		leaf := res.TLS.PeerCertificates[0]
		if res.StatusCode != 200 || res.Header.Get("Strict-Transport-Security") != "" {
			t.Errorf("the page: %s, %v", res.Status, res.Header)
		}
		own, err := machineAddrs()
		if err != nil {
			t.Fatal(err)
		}
		name, _ := os.Hostname()
		for _, addr := range append(own, netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("::1")) {
			if err := leaf.VerifyHostname(addr.String()); err != nil {
				t.Error(err)
			}
		}
		for _, name := range []string{"localhost", "duet.test", strings.ToLower(name)} {
			if err := leaf.VerifyHostname(name); err != nil {
				t.Error(err)
			}
		}
		if leaf.IsCA || leaf.NotAfter.Sub(leaf.NotBefore) > 398*24*time.Hour {
			t.Errorf("an authority: %t; valid from %s to %s", leaf.IsCA, leaf.NotBefore, leaf.NotAfter)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if first != nil && !first.Equal(leaf) {
			t.Error("another certificate after a restart")
		}
		first = leaf

		// http leads to https, with path and query, and says what a WebSocket should do.
		res, body := fetch(t, client, at.Redirect+"js/main.js?x=1")
		if want := at.Page + "js/main.js?x=1"; res.StatusCode != 307 || res.Header.Get("Location") != want || !strings.Contains(body, "wss:") {
			t.Errorf("http: %s to %s, want %s", res.Status, res.Header.Get("Location"), want)
		}
		// A browser that says http where https is spoken is told so.
		if res, body := fetch(t, client, "http"+strings.TrimPrefix(at.Page, "https")); res.StatusCode != 400 || !strings.Contains(body, "HTTP request to an HTTPS server") {
			t.Errorf("http on the port of https: %s %s", res.Status, body)
		}
		if err := p.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if status := p.exit(t); status != exitOK {
			t.Errorf("status %d", status)
		}
		if err := os.Chmod(path, 0o644); err != nil { // which the next start takes back
			t.Fatal(err)
		}
	}
}

// newTestSelfSigned makes one whose machine has the addresses in addrs.
func newTestSelfSigned(t *testing.T, dir string, addrs *[]netip.Addr) *selfSigned {
	t.Helper()
	s := &selfSigned{path: filepath.Join(dir, selfSignedFile), log: slog.New(slog.DiscardHandler), renewals: newRenewals(prometheus.NewRegistry()),
		machine: func() ([]netip.Addr, error) {
			if *addrs == nil {
				return nil, errors.New("no addresses")
			}
			return *addrs, nil
		}}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSelfSignedIsMadeAgainWhenDue(t *testing.T) {
	dir := t.TempDir()
	home, office, six := netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::5")
	addrs := []netip.Addr{home, six}
	s := newTestSelfSigned(t, dir, &addrs)
	key := s.current.Load().PrivateKey.(*ecdsa.PrivateKey)
	step := func(what string, again bool, now ...netip.Addr) {
		t.Helper()
		before := s.InUse()
		addrs = now
		s.look()
		leaf := s.InUse()
		if leaf.Equal(before) == again {
			t.Errorf("%s: made again %t, want %t", what, !again, again)
		}
		if !again {
			return
		}
		for _, addr := range now {
			if err := leaf.VerifyHostname(addr.String()); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if !key.Equal(s.current.Load().PrivateKey) {
			t.Errorf("%s: another key", what)
		}
		if stored, err := s.load(); err != nil || !stored.Leaf.Equal(leaf) {
			t.Errorf("%s: what is stored is another: %v", what, err)
		}
	}
	step("nothing new", false, home, six)
	step("another IPv6 address", false, home, netip.MustParseAddr("2001:db8::6"))
	step("an address less", false, six)
	step("another network", true, office)
	step("no addresses to be had", false)
	if n := testutil.ToFloat64(s.renewals.WithLabelValues("failed")); n != 1 {
		t.Errorf("%v failures counted", n)
	}
	if err := os.Mkdir(filepath.Join(dir, "away"), 0o700); err != nil {
		t.Fatal(err)
	}
	path := s.path
	for _, s.path = range []string{filepath.Join(dir, "gone", "x"), filepath.Join(dir, "away")} {
		step("it cannot be stored", false, home)
	}
	s.path = path
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	step("it can again", true, home)

	// It runs out: the stored one as of a time when little was left.
	short := *s.current.Load()
	leaf := *short.Leaf
	leaf.NotAfter = time.Now().Add(selfSignedMargin - time.Minute)
	short.Leaf = &leaf
	s.current.Store(&short)
	step("it runs out", true, home)
	if left := time.Until(s.InUse().NotAfter); left < selfSignedLife-time.Minute {
		t.Errorf("the new one has %s", left)
	}
}

func TestSelfSignedFileThatIsNoGood(t *testing.T) {
	for name, text := range map[string][]byte{"empty": nil, "half": []byte("-----BEGIN PRIVATE KEY-----\nAAAA"), "large": bytes.Repeat([]byte("x"), maxPEMBytes+1)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, selfSignedFile), text)
			addrs := []netip.Addr{netip.MustParseAddr("192.168.1.5")}
			s := newTestSelfSigned(t, dir, &addrs)
			if stored, err := s.load(); err != nil || !stored.Leaf.Equal(s.InUse()) {
				t.Errorf("%v", err)
			}
			if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
				t.Errorf("left behind: %v, %v", files, err)
			}
		})
	}
}

// ---- the banner

// TestBannerWithQRCode reads the code in the banner back.
func TestBannerWithQRCode(t *testing.T) {
	t.Parallel()
	env := []string{"DUET_ADDR=:0", "DUET_BASE_PATH=/duet", "DUET_TLS_SELF_SIGNED=true", "DUET_TLS_SELF_SIGNED_NAMES=duet.test", "DUET_DATA_DIR=" + t.TempDir()}
	p := spawn(t, nil, append(env, "DUET_LOG_FORMAT=text")...)
	banner := p.stderr.await(t, regexp.MustCompile(`(?s)duet is ready\..*network +\S+.*\n\n(  [█▀▄ ]+\n)+\n`))
	url := regexp.MustCompile(`network +(https://duet\.test:\d+/duet/) `).FindStringSubmatch(banner)
	if url == nil || !regexp.MustCompile(`page +https://localhost:\d+/duet/ `).MatchString(banner) || !regexp.MustCompile(`SHA-256 +([0-9A-F]{2}:){31}[0-9A-F]{2}\n`).MatchString(banner) {
		t.Fatal(banner)
	}
	want, err := qr.Encode(url[1], qr.L)
	if err != nil {
		t.Fatal(err)
	}
	modules := readQRCode(banner)
	if size := want.Size + 2*quietZone; len(modules) < size || len(modules[0]) != size {
		t.Fatalf("%d by %d modules, want %d", len(modules), len(modules[0]), size)
	}
	for y := -quietZone; y < want.Size+quietZone; y++ {
		for x := -quietZone; x < want.Size+quietZone; x++ {
			if modules[y+quietZone][x+quietZone] != want.Black(x, y) {
				t.Fatalf("module %d,%d is wrong:\n%s", x, y, banner)
			}
		}
	}

	p = spawn(t, nil, env...)
	if at := p.said(t); !strings.HasPrefix(at.Network, "https://duet.test:") || strings.ContainsAny(p.stderr.String(), "█▀▄") {
		t.Errorf("in the log for machines: %s", p.stderr.String())
	}
}

// readQRCode returns the dark modules of the code drawn in text, row by row.
func readQRCode(text string) (rows [][]bool) {
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "  ")
		if strings.Trim(line, "█▀▄ ") != "" || line == "" {
			continue
		}
		var upper, lower []bool
		for _, r := range line {
			upper, lower = append(upper, r != '█' && r != '▀'), append(lower, r != '█' && r != '▄')
		}
		rows = append(rows, upper, lower)
	}
	return rows
}

func TestQRCodeInColours(t *testing.T) {
	plain, coloured := qrCode("https://192.168.1.5:8080/", false), qrCode("https://192.168.1.5:8080/", true)
	if got := strings.NewReplacer("\x1b[97;40m", "", "\x1b[0m", "").Replace(coloured); got != plain || got == coloured {
		t.Errorf("%q", coloured)
	}
	if got := qrCode(strings.Repeat("x", 5000), true); got != "" {
		t.Errorf("a code of 5000 bytes: %q", got)
	}
}

func TestNetworkName(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.168.1.5")}
	s := &selfSigned{machine: func() ([]netip.Addr, error) { return own, nil }}
	for addr, want := range map[string]string{"127.0.0.1:80": "", "[::1]:80": "", "192.0.2.9:80": "192.0.2.9", "[2001:db8::1]:80": "2001:db8::1"} {
		if got := s.networkName(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))); got != want {
			t.Errorf("%s: %q", addr, got)
		}
	}
	anywhere := &net.TCPAddr{IP: net.IPv6unspecified, Port: 80}
	if got := s.networkName(anywhere); got == "" || strings.HasPrefix(got, "127.") {
		t.Errorf("on all addresses: %q", got)
	}
	s.further = certificateNames{"duet.test"}
	if got := s.networkName(anywhere); got != "duet.test" {
		t.Errorf("with a name: %q", got)
	}
}

// ---- handshakes

// handshaking serves over TLS with a made certificate, and returns what a client needs.
func handshaking(t *testing.T, l net.Listener) (server *http.Server, client *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	made := makeTestCertificate(t, "duet.test", -time.Hour, time.Hour)
	writeFile(t, dir+"/cert", made.cert)
	writeFile(t, dir+"/key", made.key)
	cfg, err := parseConfig([]string{"DUET_TLS_CERT=" + dir + "/cert", "DUET_TLS_KEY=" + dir + "/key"}, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	secure, err := startTLS(t.Context(), &cfg, l.Addr(), log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	server = newServer(secure.handler(http.NotFoundHandler()), log)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(secure.over(l)) }()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	client = trusting(made.cert)
	client.ServerName = "duet.test"
	return server, client
}

// onePipe is a listener with one connection.
type onePipe struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *onePipe) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *onePipe) Close() error   { close(l.closed); return nil }
func (l *onePipe) Addr() net.Addr { return &net.TCPAddr{} }

// A handshake that is begun and not gone on with ends after 5 s.
func TestHalfOpenHandshakeEnds(t *testing.T) {
	for name, begun := range map[string]string{"nothing": "", "half a hello": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &onePipe{conns: make(chan net.Conn), closed: make(chan struct{})}
				handshaking(t, l)
				near, far := net.Pipe()
				l.conns <- far
				began := time.Now()
				if begun != "" {
					if _, err := io.WriteString(near, begun); err != nil {
						t.Fatal(err)
					}
				}
				_, err := io.Copy(io.Discard, near)
				if took := time.Since(began); err != nil || took != headerTimeout {
					t.Errorf("ended after %s: %v", took, err)
				}
			})
		})
	}
}

// Half-open handshakes take places in the listener, and no more than there are.
func TestHalfOpenHandshakesAreCapped(t *testing.T) {
	l, err := listen(t.Context(), "DUET_ADDR", "127.0.0.1:0", 2)
	if err != nil {
		t.Fatal(err)
	}
	_, client := handshaking(t, l)
	var silent []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	third, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Client(third, client).HandshakeContext(t.Context()) }()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for ; len(l.places) < 2; <-poll.C { // until both are accepted
	}
	select {
	case err := <-done:
		t.Fatalf("a third one was served: %v", err)
	default:
	}
	silent[0].Close()
	if err := <-done; err != nil {
		t.Errorf("after one had gone: %v", err)
	}
}

func TestTLSVersionsAndProtocols(t *testing.T) {
	l, err := listen(t.Context(), "DUET_ADDR", "127.0.0.1:0", 10)
	if err != nil {
		t.Fatal(err)
	}
	_, client := handshaking(t, l)
	for _, tt := range []struct {
		version uint16
		offered []string
		want    string // "" = refused
	}{
		{tls.VersionTLS13, []string{"h2", "http/1.1"}, "http/1.1"},
		{tls.VersionTLS12, []string{"h2", "http/1.1"}, "http/1.1"},
		{tls.VersionTLS11, []string{"http/1.1"}, ""},
		{tls.VersionTLS13, []string{"h2"}, ""},
	} {
		cfg := client.Clone()
		cfg.MinVersion, cfg.MaxVersion, cfg.NextProtos = tls.VersionTLS10, tt.version, tt.offered
		conn, err := tls.Dial("tcp", l.Addr().String(), cfg)
		if err != nil {
			if tt.want != "" {
				t.Errorf("%s, %q: %v", tls.VersionName(tt.version), tt.offered, err)
			}
			continue
		}
		if state := conn.ConnectionState(); state.Version != tt.version || state.NegotiatedProtocol != tt.want {
			t.Errorf("%s, %q: %s, %q", tls.VersionName(tt.version), tt.offered, tls.VersionName(state.Version), state.NegotiatedProtocol)
		}
		conn.Close()
	}
}

// A certificate that should have been renewed is complained of once a day.
func TestExpiryIsWarnedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		made := makeTestCertificate(t, "duet.test", 0, 100*24*time.Hour)
		pair, err := tls.X509KeyPair(made.cert, made.key)
		if err != nil {
			t.Fatal(err)
		}
		f := new(certificateFiles)
		f.current.Store(&pair)
		secure := &tlsService{certs: f, log: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, stop := context.WithTimeout(t.Context(), 93*24*time.Hour-time.Minute)
		defer stop()
		if err := secure.watchExpiry(ctx); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(log.String(), "renew it"); n != 3 { // after 90 days and an hour, 91 and 92
			t.Errorf("%d warnings:\n%s", n, log.String())
		}
	})
}

// talk sends a message and reads one that has want in it.
func talk(t *testing.T, ws *websocket.Conn, send, want string) {
	t.Helper()
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(send)); err != nil {
		t.Fatal(err)
	}
	if _, text, err := ws.Read(t.Context()); err != nil || !strings.Contains(string(text), want) {
		t.Fatalf("%s: %s, %v", send, text, err)
	}
}
