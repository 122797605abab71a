//go:build natsserver

package natsbus

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
)

// A lockedBuffer collects what several servers log.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.String()
}

// selfSigned writes one for 127.0.0.1 that is its own authority.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestThreeEmbeddedServers(t *testing.T) {
	const secret = "only the three of us know"
	cert, key := selfSigned(t)
	var log lockedBuffer
	var routes []string
	for range 3 { // ports that are free now, and were not given to anybody else when they are used
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		routes = append(routes, ln.Addr().String())
		ln.Close()
	}
	var urls []string
	for i, route := range routes {
		at, stop, err := StartEmbedded(EmbeddedConfig{Name: fmt.Sprintf("server-%d", i), Dir: t.TempDir(), Listen: route, Routes: routes, Secret: secret,
			CertFile: cert, KeyFile: key, CAFile: cert, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		urls = append(urls, at)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var nodes []*Node
	for i, at := range urls {
		n, err := Connect(ctx, Config{URL: at, Prefix: "embedded", Replicas: 3, Buckets: 1, Create: true, NodeName: fmt.Sprintf("node-%d", i),
			Lease: 10 * time.Second, Fence: 8 * time.Second, Renew: 2 * time.Second}, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatalf("%v; the servers' log:\n%s", err, log.text())
		}
		t.Cleanup(n.Close)
		nodes = append(nodes, n)
	}
	first, err := nodes[0].Find(ctx, "a room")
	if err != nil || first.Node != nodes[0].Self() {
		t.Fatalf("Find: %+v, %v", first, err)
	}
	if second, err := nodes[2].Look(ctx, "a room"); err != nil || second.Node != first.Node || second.Epoch != first.Epoch {
		t.Errorf("another node sees %+v, %v; want %+v", second, err, first)
	}

	running, stop := context.WithCancel(ctx)
	ended := make(chan error, len(nodes))
	got := make(chan string, 1)
	go func() { ended <- nodes[0].Run(running, hearer{}) }()
	go func() { ended <- nodes[1].Run(running, hearer{frame: func(frame []byte) { got <- string(frame) }}) }()
	ask(t, ctx, nodes[0], nodes[1].Self())
	nodes[0].Send(nodes[1].Self(), 3, []byte("over a route"))
	if frame := <-got; frame != "over a route" {
		t.Errorf("frame %q", frame)
	}
	stop()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}

	if conn, err := nats.Connect("nats://" + mustParse(t, urls[0]).Host); err == nil {
		conn.Close()
		t.Error("the server lets anybody in")
	}
	said := log.text()
	for _, at := range urls {
		password, _ := mustParse(t, at).User.Password()
		if strings.Contains(said, password) {
			t.Error("a password is in the log")
		}
	}
	if strings.Contains(said, secret) || strings.Contains(said, url.PathEscape(secret)) {
		t.Error("the secret is in the log")
	}
}

// ask returns when the route between two nodes carries requests.
func ask(t *testing.T, ctx context.Context, from *Node, to signaling.NodeID) {
	t.Helper()
	for {
		if _, err := from.Ask(ctx, to, nil); err == nil {
			return
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func mustParse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
