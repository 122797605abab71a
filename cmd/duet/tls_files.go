package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	reloadEvery = 3 * time.Second // how often certificate files are looked at
	maxPEMBytes = 1 << 20         // in one of them
)

// A keyPair is the certificate in use. Another one may take its place at any time: the connections
// that are open keep what they have.
type keyPair struct {
	current atomic.Pointer[tls.Certificate]
}

// GetCertificate implements certificates.
func (p *keyPair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return p.current.Load(), nil
}

// InUse implements certificates.
func (p *keyPair) InUse() *x509.Certificate { return p.current.Load().Leaf }

// certificateFiles are DUET_TLS_CERT and DUET_TLS_KEY, which are read again when they have changed.
type certificateFiles struct {
	keyPair
	// Static after construction.
	cert, key string // paths
	log       *slog.Logger
	renewals  *prometheus.CounterVec
	// Owned by Run.
	seen [sha256.Size]byte // of the contents that were tried last
}

func newCertificateFiles(cert, key string, log *slog.Logger, renewals *prometheus.CounterVec) (*certificateFiles, error) {
	f := &certificateFiles{cert: cert, key: key, log: log, renewals: renewals}
	pair, err := f.load()
	if err != nil {
		return nil, err
	}
	f.current.Store(pair)
	return f, nil
}

// Run implements certificates. The contents are compared rather than the times of the files: a
// certificate is small, and a mounted volume may change it behind a link without touching it.
func (f *certificateFiles) Run(ctx context.Context) error {
	return every(ctx, reloadEvery, f.look)
}

// look takes a new pair, or says once why it does not: the old one stays.
func (f *certificateFiles) look() {
	pair, err := f.load()
	switch {
	case err != nil:
		f.renewals.WithLabelValues("failed").Inc()
		f.log.Warn("the new certificate cannot be used; the old one stays", "error", err)
	case pair != nil:
		f.renewals.WithLabelValues("ok").Inc()
		f.current.Store(pair)
		f.log.Info("certificate read again", "expires", pair.Leaf.NotAfter.UTC(), "names", pair.Leaf.DNSNames)
	}
}

// load reads the pair. It returns neither a pair nor an error where the files are what they were, also
// where they were no good then.
func (f *certificateFiles) load() (*tls.Certificate, error) {
	cert, err1 := readPEM("DUET_TLS_CERT", f.cert)
	key, err2 := readPEM("DUET_TLS_KEY", f.key)
	err := errors.Join(err1, err2)
	hash := sha256.New()
	fmt.Fprintf(hash, "%d %d %v\n", len(cert), len(key), err)
	hash.Write(cert)
	hash.Write(key)
	seen := [sha256.Size]byte(hash.Sum(nil))
	if seen == f.seen {
		return nil, nil
	}
	f.seen = seen
	if err != nil {
		return nil, err
	}
	return f.parse(cert, key)
}

func (f *certificateFiles) parse(cert, key []byte) (*tls.Certificate, error) {
	if bytes.Contains(key, []byte("ENCRYPTED")) {
		return nil, fmt.Errorf("DUET_TLS_KEY=%s: the key is encrypted, and nobody is here to ask for its password: decrypt it (openssl pkey)", f.key)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		why := strings.TrimPrefix(err.Error(), "tls: ")
		if strings.Contains(why, "does not match") {
			why = "the key is not the certificate's"
		}
		return nil, fmt.Errorf("DUET_TLS_CERT=%s, DUET_TLS_KEY=%s: %s", f.cert, f.key, why)
	}
	now := time.Now()
	switch leaf := pair.Leaf; {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("DUET_TLS_CERT=%s: the certificate ran out on %s: renew it (or is the clock wrong?)", f.cert, leaf.NotAfter.UTC().Format(time.DateTime))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("DUET_TLS_CERT=%s: the certificate is not valid before %s: is the clock wrong?", f.cert, leaf.NotBefore.UTC().Format(time.DateTime))
	}
	return &pair, nil
}

func readPEM(variable, path string) ([]byte, error) {
	text, err := readFileUpTo(path, maxPEMBytes)
	if err != nil {
		return nil, fmt.Errorf("%s=%s: %w", variable, path, err)
	}
	return text, nil
}

// readFileUpTo is os.ReadFile with a bound. Its errors leave the path to the caller.
func readFileUpTo(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return nil, errors.Unwrap(err)
	case int64(len(text)) > most:
		return nil, fmt.Errorf("the file is larger than %d KiB", most>>10)
	}
	return text, nil
}
