package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"duet/httpapi"
)

const (
	selfSignedFile   = "self-signed.pem"    // in DUET_DATA_DIR: the key and the certificate
	selfSignedLife   = 397 * 24 * time.Hour // Apple's systems take 398 days at most
	selfSignedMargin = selfSignedLife / 8   // left when a new one is made
	selfSignedEvery  = time.Minute          // how often the machine's addresses are looked at
)

// A selfSigned certificate is made here, for the names and addresses of this machine. Browsers warn of
// it until a person accepts it, so it stays the same for as long as it can: over restarts, in a file,
// and the key with it when the certificate has to be made again.
type selfSigned struct {
	keyPair
	// Static after construction.
	path     string
	further  certificateNames             // to be in it beside the machine's own
	machine  func() ([]netip.Addr, error) // the addresses of its interfaces
	log      *slog.Logger
	renewals *prometheus.CounterVec
	// Owned by Run.
	failed string // the last error that was logged; "" = it went well
}

func newSelfSigned(cfg *config, log *slog.Logger, renewals *prometheus.CounterVec) (*selfSigned, error) {
	dir, err := cfg.makeDataDir("")
	if err != nil {
		return nil, err
	}
	s := &selfSigned{path: filepath.Join(dir, selfSignedFile), further: cfg.TLSSelfSignedNames, machine: machineAddrs, log: log, renewals: renewals}
	if err := s.start(); err != nil {
		return nil, fmt.Errorf("DUET_TLS_SELF_SIGNED: %w", err)
	}
	return s, nil
}

// start takes the certificate from the file, or makes one.
func (s *selfSigned) start() error {
	pair, err := s.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		s.log.Warn("the self-signed certificate cannot be used: a new one is made", "file", s.path, "error", err)
	default:
		s.current.Store(pair)
	}
	_, err = s.refresh()
	return err
}

// Run implements certificates.
func (s *selfSigned) Run(ctx context.Context) error {
	return every(ctx, selfSignedEvery, s.look)
}

// look makes a new certificate where one is due. Why it cannot is logged once.
func (s *selfSigned) look() {
	made, err := s.refresh()
	switch {
	case err != nil:
		s.renewals.WithLabelValues("failed").Inc()
		if err.Error() != s.failed {
			s.failed = err.Error()
			s.log.Warn("no new self-signed certificate could be made; the old one stays", "error", err)
		}
		return
	case made:
		s.renewals.WithLabelValues("ok").Inc()
		s.log.Info("a new self-signed certificate was made: browsers will ask again", "addresses", s.InUse().IPAddresses, "sha256", s.fingerprint())
	}
	s.failed = ""
}

// refresh makes a certificate unless the one in use lasts and is for this machine.
func (s *selfSigned) refresh() (made bool, err error) {
	names, addrs, err := s.names()
	if err != nil {
		return false, err
	}
	old := s.current.Load()
	if old != nil && time.Until(old.Leaf.NotAfter) > selfSignedMargin && covers(old.Leaf, names, addrs) {
		return false, nil
	}
	pair, err := s.makeCertificate(old, names, addrs)
	if err != nil {
		return false, err
	}
	s.current.Store(pair)
	return true, nil
}

// covers reports whether cert is for all of names and addrs. IPv6 addresses do not count: most machines
// change theirs every day (RFC 8981), and each new certificate has to be accepted again.
func covers(cert *x509.Certificate, names []string, addrs []netip.Addr) bool {
	for _, name := range names {
		if !slices.Contains(cert.DNSNames, name) {
			return false
		}
	}
	for _, addr := range addrs {
		if addr.Is4() && !slices.ContainsFunc(cert.IPAddresses, net.IP(addr.AsSlice()).Equal) {
			return false
		}
	}
	return true
}

// makeCertificate makes a certificate with the key of old, or a new one where that is nil, and writes
// both to the file.
func (s *selfSigned) makeCertificate(old *tls.Certificate, names []string, addrs []netip.Addr) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if old != nil {
		key = old.PrivateKey.(*ecdsa.PrivateKey) // load saw to it
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(randomBytes(16)),
		Subject:               pkix.Name{CommonName: "duet, self-signed"},
		NotBefore:             now.Add(-time.Hour), // clocks differ
		NotAfter:              now.Add(selfSignedLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, // not an authority: the key signs for nobody else
		DNSNames:              names,
	}
	for _, addr := range addrs {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	_ = pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: private}) // a buffer takes it
	_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert})
	if err := writeSecretFile(s.path, text.Bytes()); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(text.Bytes(), text.Bytes())
	return &pair, err
}

// load reads the file and takes everybody else's permissions off it.
func (s *selfSigned) load() (*tls.Certificate, error) {
	text, err := readFileUpTo(s.path, maxPEMBytes)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(s.path, 0o600); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	if _, ok := pair.PrivateKey.(*ecdsa.PrivateKey); !ok {
		return nil, errors.New("its key is of another kind")
	}
	return &pair, nil
}

// writeSecretFile replaces the file at path at once, readable by its owner only.
func writeSecretFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // with 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone, where it went well
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// names returns what the certificate has to be for: localhost and this machine's name, also in the form
// that the local network resolves (RFC 6762), its addresses, and what the setting adds.
func (s *selfSigned) names() (names []string, addrs []netip.Addr, err error) {
	names = []string{"localhost"}
	addrs = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, name := range s.further {
		if addr, err := netip.ParseAddr(name); err == nil {
			addrs = append(addrs, addr)
		} else {
			names = append(names, name)
		}
	}
	if name, err := os.Hostname(); err == nil {
		label, _, _ := strings.Cut(name, ".")
		for _, n := range []string{label + ".local", name} {
			if n, err := httpapi.ParseHost(n); err == nil {
				names = append(names, n)
			}
		}
	}
	own, err := s.machine()
	if err != nil {
		return nil, nil, err
	}
	return unique(names), unique(append(addrs, own...)), nil
}

// unique drops from list what came before, and keeps the order.
func unique[T comparable](list []T) []T {
	var once []T
	for _, v := range list {
		if !slices.Contains(once, v) {
			once = append(once, v)
		}
	}
	return once
}

// machineAddrs returns the addresses of this machine's interfaces that can stand in a URL: a link-local
// IPv6 address needs a zone, which browsers do not take.
func machineAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		prefix, err := netip.ParsePrefix(a.String())
		if addr := prefix.Addr().Unmap(); err == nil && !(addr.Is6() && addr.IsLinkLocalUnicast()) {
			addrs = append(addrs, addr)
		}
	}
	return addrs, nil
}

// networkName returns the name or address of this machine for others of its network, where a listener
// at addr can be reached by them, else "".
func (s *selfSigned) networkName(addr net.Addr) string {
	at, err := netip.ParseAddrPort(addr.String())
	switch {
	case err != nil || at.Addr().IsLoopback():
		return ""
	case len(s.further) > 0:
		return s.further[0]
	case !at.Addr().IsUnspecified():
		return at.Addr().Unmap().String()
	}
	// The address that packets to elsewhere would come from. Nothing is sent.
	if out, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer out.Close()
		if from, err := netip.ParseAddrPort(out.LocalAddr().String()); err == nil && !from.Addr().IsLoopback() {
			return from.Addr().Unmap().String()
		}
	}
	own, _ := s.machine()
	if i := slices.IndexFunc(own, func(a netip.Addr) bool { return a.Is4() && a.IsPrivate() }); i >= 0 {
		return own[i].String()
	}
	return ""
}

// fingerprint is what browsers show as the certificate's SHA-256.
func (s *selfSigned) fingerprint() string {
	sum := sha256.Sum256(s.InUse().Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}
