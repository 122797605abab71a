package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/acme"
	"golang.org/x/sync/errgroup"

	"duet/httpapi"
)

// How DUET_ADDR is served over TLS. The certificate comes from files (tls_files.go), is made here
// (tls_selfsigned.go), or comes from an ACME authority (tls_acme.go).

const (
	redirectConnections = 64                  // at once on DUET_HTTP_REDIRECT_ADDR
	redirectsPerIP      = 16                  // of them from one address (IPv6: /64)
	strictTransport     = 30 * 24 * time.Hour // how long a browser remembers to use nothing but https
	expiryCheck         = time.Hour
	expiryWarning       = 24 * time.Hour // between two warnings
)

// ---- settings

// A redirectAddr is a listenAddr, "" where the variable says off, "auto" until config.settleTLS.
type redirectAddr string

func (a *redirectAddr) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*a = "auto"
		return nil
	}
	if err := (*adminAddr)(a).UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, or auto", err)
	}
	return nil
}

func (a redirectAddr) String() string { return adminAddr(a).String() }

// A filePath is the path of a file or folder, "" = unset.
type filePath string

// acmeDomains are host names that a public authority can look up.
type acmeDomains []string

func (d *acmeDomains) UnmarshalText(text []byte) (err error) {
	*d, err = parseList(text, func(s string) (string, error) {
		name, err := parseHostName(s)
		if err == nil && !strings.Contains(strings.Trim(name, "."), ".") {
			err = errors.New("it has no dot")
		}
		return name, err
	})
	return describe(err, "must be host names such as duet.example.org, separated by commas")
}

func (d acmeDomains) String() string { return strings.Join(d, ",") }

// certificateNames are host names and addresses: in lower case, IPv6 addresses without brackets.
type certificateNames []string

func (n *certificateNames) UnmarshalText(text []byte) (err error) {
	*n, err = parseList(text, func(s string) (string, error) {
		if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
			return addr.Unmap().String(), nil
		}
		return parseHostName(s)
	})
	return describe(err, "must be host names and addresses such as duet.local or 192.168.1.5, separated by commas")
}

func (n certificateNames) String() string { return strings.Join(n, ",") }

// parseHostName takes a name and nothing else: no port, no address, no star.
func parseHostName(s string) (string, error) {
	name, err := httpapi.ParseHost(s)
	if err != nil {
		return "", err
	}
	if _, err := netip.ParseAddr(name); err == nil || strings.ContainsAny(name, ":[]_") {
		return "", errors.New("it is not a host name")
	}
	return name, nil
}

// An acmeURL is that of an ACME directory, "" = unset.
type acmeURL string

func (u *acmeURL) UnmarshalText(text []byte) error {
	parsed, err := url.Parse(string(text))
	if err != nil || parsed.Scheme != "https" || parsed.Host == "" || parsed.User != nil {
		return errors.New("must be an https URL such as https://acme-staging-v02.api.letsencrypt.org/directory")
	}
	*u = acmeURL(text)
	return nil
}

// servesTLS reports whether DUET_ADDR is served over TLS.
func (c *config) servesTLS() bool {
	return c.TLSCert != "" || c.TLSSelfSigned || len(c.TLSACMEDomain) > 0
}

// settleTLS checks what the settings of TLS say together and decides what was left on auto.
func (c *config) settleTLS() error {
	var faults []error
	fault := func(when bool, text string) {
		if when {
			faults = append(faults, errors.New(text))
		}
	}
	files, authority := c.TLSCert != "" || c.TLSKey != "", len(c.TLSACMEDomain) > 0
	fault(c.TLSCert != "" && c.TLSKey == "", "DUET_TLS_CERT: DUET_TLS_KEY is missing: set both, or neither")
	fault(c.TLSCert == "" && c.TLSKey != "", "DUET_TLS_KEY: DUET_TLS_CERT is missing: set both, or neither")
	fault(files && c.TLSSelfSigned, "DUET_TLS_SELF_SIGNED: DUET_TLS_CERT and DUET_TLS_KEY are set too: choose one source of certificates")
	fault(files && authority, "DUET_TLS_ACME_DOMAIN: DUET_TLS_CERT and DUET_TLS_KEY are set too: choose one source of certificates")
	fault(c.TLSSelfSigned && authority, "DUET_TLS_ACME_DOMAIN: DUET_TLS_SELF_SIGNED is set too: choose one source of certificates")
	fault(c.TLSACMEURL != "" && !authority, "DUET_TLS_ACME_URL: DUET_TLS_ACME_DOMAIN is missing: it says for which name")
	fault(c.TLSACMECA != "" && c.TLSACMEURL == "", "DUET_TLS_ACME_CA: DUET_TLS_ACME_URL is missing: the usual authority needs no other root")
	fault(len(c.TLSSelfSignedNames) > 0 && !c.TLSSelfSigned, "DUET_TLS_SELF_SIGNED_NAMES: DUET_TLS_SELF_SIGNED=true is missing")
	fault(c.TLSHSTS == "on" && !files && !authority, "DUET_TLS_HSTS=on: needs DUET_TLS_CERT and DUET_TLS_KEY, or DUET_TLS_ACME_DOMAIN: with HSTS a browser takes no certificate that it does not trust")
	if c.HTTPRedirectAddr == "auto" {
		c.HTTPRedirectAddr = ""
		if authority {
			c.HTTPRedirectAddr = ":80"
		}
	}
	fault(c.HTTPRedirectAddr != "" && !c.servesTLS(), "DUET_HTTP_REDIRECT_ADDR: there is no https to redirect to: set DUET_TLS_CERT and DUET_TLS_KEY, DUET_TLS_SELF_SIGNED or DUET_TLS_ACME_DOMAIN")
	return errors.Join(faults...)
}

// redirectDescriptors is how many files the redirect's listener may open.
func (c *config) redirectDescriptors() int {
	if c.HTTPRedirectAddr == "" {
		return 0
	}
	return redirectConnections
}

// makeDataDir returns the folder sub of DUET_DATA_DIR, "" = that itself, which it makes where it is
// missing. It fails where nothing can be written there.
func (c *config) makeDataDir(sub string) (string, error) {
	dir := string(c.DataDir)
	if dir == "" {
		user, err := os.UserConfigDir()
		if err != nil {
			return "", errors.New("DUET_DATA_DIR: set it to a folder that can be written: files are kept there")
		}
		dir = filepath.Join(user, "duet")
	}
	path := filepath.Join(dir, sub)
	err := os.MkdirAll(path, 0o700)
	if err == nil {
		var probe *os.File
		if probe, err = os.CreateTemp(path, ".probe-*"); err == nil {
			err = errors.Join(probe.Close(), os.Remove(probe.Name()))
		}
	}
	if err != nil {
		return "", fmt.Errorf("DUET_DATA_DIR=%s: files are kept there, but it cannot be written: %w", dir, err)
	}
	return path, nil
}

// ---- the service

// certificates are where certificates come from. Safe for concurrent use.
type certificates interface {
	// GetCertificate returns the one for a handshake (tls.Config).
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Run keeps them up to date until ctx ends.
	Run(ctx context.Context) error
	// InUse is the one that runs out first; nil = there is none yet.
	InUse() *x509.Certificate
}

// A tlsService is what the TLS settings come to. A nil one leaves everything plain.
type tlsService struct {
	// Static after construction.
	certs    certificates
	config   *tls.Config
	strict   bool
	redirect *listener // nil where it is off
	plain    *http.Server
	log      *slog.Logger
}

// startTLS finds or makes the certificate and opens the listener for redirects to public. It returns
// nil where TLS is off.
func startTLS(ctx context.Context, cfg *config, public net.Addr, log *slog.Logger, reg prometheus.Registerer) (*tlsService, error) {
	if !cfg.servesTLS() {
		return nil, nil
	}
	t := &tlsService{log: log.With("component", "tls"), strict: cfg.TLSHSTS == "on"}
	renewals := newRenewals(reg)
	handler := httpapi.RedirectToHTTPS(portOf(public), cfg.AllowedHosts)
	protocols := []string{"http/1.1"}
	var err error
	switch {
	case cfg.TLSSelfSigned:
		t.certs, err = newSelfSigned(cfg, t.log, renewals)
	case len(cfg.TLSACMEDomain) > 0:
		var authority *acmeCertificates
		if authority, err = newACME(cfg, t.log, renewals); err == nil {
			t.certs, t.strict = authority, cfg.TLSHSTS != "off"
			protocols = append(protocols, acme.ALPNProto) // the authority asks there too (RFC 8737)
			if cfg.HTTPRedirectAddr != "" {
				handler = authority.challenges(handler)
			}
		}
	default:
		t.certs, err = newCertificateFiles(string(cfg.TLSCert), string(cfg.TLSKey), t.log, renewals)
	}
	if err != nil {
		return nil, err
	}
	t.config = &tls.Config{
		GetCertificate: t.certs.GetCertificate,
		MinVersion:     tls.VersionTLS12,
		// No HTTP/2: a WebSocket is an HTTP/1.1 connection (RFC 6455), clients that are offered both
		// may choose the wrong one, and the page is a few files that browsers keep.
		NextProtos: protocols,
		// Small records first help a long download. A message here is sent whole, in one of its own.
		DynamicRecordSizingDisabled: true,
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "duet_tls_expires_timestamp_seconds",
		Help: "When the certificate in use runs out, in Unix time; 0 while there is none.",
	}, t.expires))
	if cfg.HTTPRedirectAddr != "" {
		if t.redirect, err = listen(ctx, "DUET_HTTP_REDIRECT_ADDR", string(cfg.HTTPRedirectAddr), redirectConnections); err != nil {
			return nil, err
		}
		t.plain = newServer(handler, log)
		t.plain.ReadTimeout, t.plain.WriteTimeout = requestTimeout, requestTimeout
		t.plain.ConnState = httpapi.NewConnLimit("redirect", redirectsPerIP, cfg.TrustedProxies, reg).Watch
	}
	return t, nil
}

// Close closes the listener for redirects.
func (t *tlsService) Close() {
	if t != nil && t.redirect != nil {
		t.redirect.Close()
	}
}

// run keeps the certificate up to date and redirects until ctx ends.
func (t *tlsService) run(ctx context.Context) error {
	if t == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return t.certs.Run(ctx) })
	group.Go(func() error { return t.watchExpiry(ctx) })
	if t.redirect != nil {
		group.Go(func() error { return untilDone(t.plain.Serve(t.redirect)) })
		group.Go(func() error { <-ctx.Done(); return t.plain.Close() })
	}
	return group.Wait()
}

// over returns l with TLS. The handshake is bounded by the server's ReadHeaderTimeout.
func (t *tlsService) over(l net.Listener) net.Listener {
	if t == nil {
		return l
	}
	return tls.NewListener(l, t.config)
}

// handler returns h with what is said over TLS only.
func (t *tlsService) handler(h http.Handler) http.Handler {
	if t == nil || !t.strict {
		return h
	}
	return httpapi.StrictTransport(strictTransport, h)
}

// certificates says where others who speak TLS find certificates; nil where there are none.
func (t *tlsService) certificates() certificates {
	if t == nil {
		return nil
	}
	return t.certs
}

func (t *tlsService) expires() float64 {
	if leaf := t.certs.InUse(); leaf != nil {
		return float64(leaf.NotAfter.Unix())
	}
	return 0
}

// watchExpiry warns once a day of a certificate that has less than a tenth of its life left: by then
// it should have been renewed.
func (t *tlsService) watchExpiry(ctx context.Context) error {
	ticker := time.NewTicker(expiryCheck)
	defer ticker.Stop()
	var warned time.Time
	for {
		now := time.Now()
		if leaf := t.certs.InUse(); leaf != nil && now.Sub(warned) >= expiryWarning {
			if left := leaf.NotAfter.Sub(now); left < leaf.NotAfter.Sub(leaf.NotBefore)/10 {
				t.log.Warn("the certificate runs out: renew it", "expires", leaf.NotAfter.UTC(), "left", left.Round(time.Minute).String())
				warned = now
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// newRenewals makes the counter of what became of new certificates after the start.
func newRenewals(reg prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_tls_renewals_total",
		Help: "Certificates read again, made again or asked for while serving, by outcome: ok or failed.",
	}, []string{"outcome"})
	for _, outcome := range []string{"ok", "failed"} {
		c.WithLabelValues(outcome)
	}
	reg.MustRegister(c)
	return c
}

func portOf(addr net.Addr) uint16 {
	at, _ := netip.ParseAddrPort(addr.String()) // that of a TCP listener
	return at.Port()
}

// ---- what the banner says

// scheme returns http or ws with the s that TLS gives it.
func (t *tlsService) scheme(plain string) string {
	if t == nil {
		return plain
	}
	return plain + "s"
}

// host returns the host:port to announce in place of at: one that the certificate is for, where there
// is one.
func (t *tlsService) host(at string) string {
	if t == nil {
		return at
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return at
	}
	var names []string
	switch c := t.certs.(type) {
	case *acmeCertificates:
		names = c.domains
	case *certificateFiles:
		if leaf := c.InUse(); leaf.VerifyHostname(host) != nil {
			names = leaf.DNSNames
		}
	}
	name := firstName(names)
	switch {
	case name == "":
		return at
	case port == "443":
		return name
	}
	return net.JoinHostPort(name, port)
}

// firstName is the first of a certificate's names that stands for itself; "" = none does.
func firstName(names []string) string {
	i := slices.IndexFunc(names, func(name string) bool { return !strings.HasPrefix(name, "*") })
	if i < 0 {
		return ""
	}
	return names[i]
}

// redirects returns the address that is redirected, "" where none is.
func (t *tlsService) redirects() string {
	if t == nil || t.redirect == nil {
		return ""
	}
	return "http://" + reachable(t.redirect.Addr()) + "/"
}

// network returns the host:port under which other machines of the local network reach a listener at
// addr, and the fingerprint of the certificate that they have to take. ok is false where there is nothing
// to take, or nobody else reaches it.
func (t *tlsService) network(addr net.Addr) (host, fingerprint string, ok bool) {
	if t == nil {
		return "", "", false
	}
	made, ok := t.certs.(*selfSigned)
	if !ok {
		return "", "", false
	}
	name := made.networkName(addr)
	return net.JoinHostPort(name, fmt.Sprint(portOf(addr))), made.fingerprint(), name != ""
}

// every calls do each time the interval is over, until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			do()
		}
	}
}
