package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"duet/httpapi"
)

const (
	acmeRequestTimeout = 30 * time.Second // for one request to the authority
	acmeRetry          = time.Minute      // after a first failure; doubled with each further one
	acmeRetryMost      = time.Hour
	acmeLooks          = 20 // at a certificate in its life, at the least
)

// acmeCertificates come from an authority that speaks ACME (RFC 8555), and are kept in DUET_DATA_DIR.
// The library renews them.
type acmeCertificates struct {
	// Static after construction.
	domains  []string
	manager  *autocert.Manager
	log      *slog.Logger
	renewals *prometheus.CounterVec

	mu    sync.Mutex
	inUse map[string]*x509.Certificate // by domain
}

func newACME(cfg *config, log *slog.Logger, renewals *prometheus.CounterVec) (*acmeCertificates, error) {
	dir, err := cfg.makeDataDir("acme")
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if cfg.TLSACMECA != "" {
		roots, err := readPEM("DUET_TLS_ACME_CA", string(cfg.TLSACMECA))
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(roots) {
			return nil, fmt.Errorf("DUET_TLS_ACME_CA=%s: no certificate is in it (PEM)", cfg.TLSACMECA)
		}
	}
	a := &acmeCertificates{domains: cfg.TLSACMEDomain, log: log, renewals: renewals, inUse: map[string]*x509.Certificate{}}
	a.manager = &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(dir),
		HostPolicy: a.allow,
		Client: &acme.Client{
			DirectoryURL: string(cfg.TLSACMEURL), // "" = Let's Encrypt's
			HTTPClient:   &http.Client{Transport: transport, Timeout: acmeRequestTimeout},
			UserAgent:    "duet",
		},
	}
	return a, nil
}

// allow is the library's policy: certificates are asked for the configured names only. host may have a
// port, where an authority asks over http.
func (a *acmeCertificates) allow(_ context.Context, host string) error {
	name, err := httpapi.ParseHost(host)
	name, _, _ = strings.Cut(name, ":")
	if err != nil || !slices.Contains(a.domains, strings.TrimSuffix(name, ".")) {
		return fmt.Errorf("%q is not in DUET_TLS_ACME_DOMAIN", host)
	}
	return nil
}

// challenges answers the authority's questions over http (RFC 8555, section 8.3) and leaves the rest to
// next.
func (a *acmeCertificates) challenges(next http.Handler) http.Handler {
	return a.manager.HTTPHandler(next)
}

// GetCertificate implements certificates. A client that names no host, because it came by an address,
// gets the first name's.
func (a *acmeCertificates) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" {
		named := *hello
		named.ServerName = a.domains[0]
		hello = &named
	}
	return a.manager.GetCertificate(hello)
}

// Run implements certificates: it asks for them before the first client does, so that none has to wait
// and what goes wrong is in the log.
func (a *acmeCertificates) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, domain := range a.domains {
		all.Go(func() { a.look(ctx, domain) })
	}
	all.Wait()
	return nil
}

// look sees every now and then which certificate domain has, until ctx ends.
func (a *acmeCertificates) look(ctx context.Context, domain string) {
	retry := acmeRetry
	for {
		pair, err := a.obtain(ctx, domain)
		wait := acmeRetryMost
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			a.renewals.WithLabelValues("failed").Inc()
			a.log.Warn("no certificate from the ACME authority", "domain", domain, "error", err, "again_in", retry.String())
			wait, retry = retry, min(2*retry, acmeRetryMost)
		default:
			a.use(domain, pair.Leaf)
			wait, retry = min(pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore)/acmeLooks, acmeRetryMost), acmeRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// use remembers the certificate that domain has, and says so where it is a new one.
func (a *acmeCertificates) use(domain string, leaf *x509.Certificate) {
	a.mu.Lock()
	old := a.inUse[domain]
	a.inUse[domain] = leaf
	a.mu.Unlock()
	if old == nil || !old.Equal(leaf) {
		a.renewals.WithLabelValues("ok").Inc()
		a.log.Info("certificate from the ACME authority", "domain", domain, "expires", leaf.NotAfter.UTC(), "issuer", leaf.Issuer.CommonName)
	}
}

// obtain returns the certificate in use, or gets one, which may take minutes: the library does not let
// go of that, so it is left behind when ctx ends, which is when the process does.
func (a *acmeCertificates) obtain(ctx context.Context, domain string) (*tls.Certificate, error) {
	type result struct {
		pair *tls.Certificate
		err  error
	}
	done := make(chan result, 1)
	go func() {
		pair, err := a.manager.GetCertificate(&tls.ClientHelloInfo{ // what every browser can
			ServerName:       domain,
			CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
			SupportedCurves:  []tls.CurveID{tls.CurveP256},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		})
		if err == nil && pair.Leaf == nil {
			err = errors.New("the certificate cannot be read")
		}
		done <- result{pair, err}
	}()
	select {
	case r := <-done:
		return r.pair, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// InUse implements certificates.
func (a *acmeCertificates) InUse() (first *x509.Certificate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, leaf := range a.inUse {
		if first == nil || leaf.NotAfter.Before(first.NotAfter) {
			first = leaf
		}
	}
	return first
}
