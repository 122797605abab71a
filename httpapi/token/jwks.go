package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
)

// The algorithms (RFC 7518, section 3.1; RFC 8037).
const (
	hs256 = "HS256"
	rs256 = "RS256"
	es256 = "ES256"
	edDSA = "EdDSA"
)

const (
	refreshEvery = 10 * time.Minute // between two fetches that went well
	retryFirst   = 5 * time.Second  // after one that did not; then twice as long each time, up to refreshEvery
	askedEvery   = 10 * time.Second // at most this often because of a key that is not known
	fetchTimeout = 5 * time.Second  // for a whole fetch
	maxSetBytes  = 256 << 10        // of a key set
	maxSetKeys   = 100              // in it
	minRSABits   = 2048             // of a key (RFC 7518, section 3.3)
	maxRSABits   = 8192             // larger ones only cost time
)

// A keySet holds the keys of a JWKS (RFC 7517, section 5), each for the one algorithm that its type
// allows. A fetch that fails leaves the earlier keys in force.
type keySet struct {
	// Static after construction.
	url     string
	client  *http.Client
	log     *slog.Logger
	fetches *prometheus.CounterVec
	asked   chan struct{} // one place: somebody waits for a fetch

	mu       sync.Mutex
	keys     []key
	good     time.Time     // of the last fetch that went well; zero = none yet
	fetched  time.Time     // of the last one
	fetching chan struct{} // closed when the fetch that was asked for, or is under way, has ended; nil = none
}

// A key is one of a keySet.
type key struct {
	kid, algorithm string
	public         any
}

func newKeySet(address string, log *slog.Logger, reg prometheus.Registerer) *keySet {
	s := &keySet{
		url: address,
		log: log,
		client: &http.Client{Timeout: fetchTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects, which is not followed: set DUET_AUTH_JWKS_URL to where it leads")
		}},
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_jwks_fetches_total", Help: "Fetches of the key set, by outcome: ok or failed."}, []string{"outcome"}),
		asked:    make(chan struct{}, 1),
		fetching: make(chan struct{}),
	}
	s.fetches.WithLabelValues("ok")
	s.fetches.WithLabelValues("failed")
	reg.MustRegister(s.fetches, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "duet_jwks_age_seconds", Help: "Since the key set was last fetched; -1 = it never was."}, s.age))
	return s
}

func (s *keySet) age() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.good.IsZero() {
		return -1
	}
	return time.Since(s.good).Seconds()
}

// find returns the key named, or without a name the only one of its algorithm. For a key that is not
// known it waits for a fetch, unless the last one is younger than askedEvery. Its error is one of those
// of refusals.
func (s *keySet) find(ctx context.Context, kid, algorithm string) (any, error) {
	public, err := s.look(kid, algorithm)
	if !errors.Is(err, errUnknownKey) && !errors.Is(err, errUnavailable) {
		return public, err
	}
	if s.refresh(ctx) != nil { // who asked is gone
		return nil, errUnavailable
	}
	return s.look(kid, algorithm)
}

func (s *keySet) look(kid, algorithm string) (any, error) {
	s.mu.Lock()
	keys := s.keys // replaced as a whole
	s.mu.Unlock()
	if keys == nil {
		return nil, errUnavailable
	}
	var found []key
	for _, k := range keys {
		if kid == "" && k.algorithm == algorithm || kid != "" && k.kid == kid {
			found = append(found, k)
		}
	}
	switch {
	case len(found) != 1: // two of one name would make it a matter of luck
		return nil, errUnknownKey
	case found[0].algorithm != algorithm:
		return nil, errAlgorithm
	}
	return found[0].public, nil
}

// refresh returns when a fetch has ended, or at once when none is due. Its error is ctx's.
func (s *keySet) refresh(ctx context.Context) error {
	s.mu.Lock()
	if s.fetching == nil {
		if time.Since(s.fetched) < askedEvery {
			s.mu.Unlock()
			return nil
		}
		s.fetching = make(chan struct{})
		s.asked <- struct{}{} // empty: nobody asks while fetching is set
	}
	done := s.fetching
	s.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run fetches the keys now, again and again, and when it is asked to.
func (s *keySet) run(ctx context.Context) error {
	retry := retryFirst
	for {
		wait := refreshEvery
		keys, err := s.fetch(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.fetches.WithLabelValues("failed").Inc()
			s.log.Error("the key set cannot be fetched; tokens are checked with the keys of the last time, if there were any", "error", err)
			wait, retry = retry/2+rand.N(retry/2), min(2*retry, refreshEvery)
		} else {
			s.fetches.WithLabelValues("ok").Inc()
			retry = retryFirst
		}
		s.store(keys)
		due := time.NewTimer(wait)
		select {
		case <-due.C:
			s.begin()
		case <-s.asked:
			due.Stop()
		case <-ctx.Done():
			due.Stop()
			return ctx.Err()
		}
	}
}

// begin notes that a fetch is under way, for which others may wait.
func (s *keySet) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetching == nil {
		s.fetching = make(chan struct{})
		return
	}
	<-s.asked // the same fetch does for who asked just now
}

// store takes the keys of a fetch that has ended, nil where it failed.
func (s *keySet) store(keys []key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched = time.Now()
	if keys != nil {
		s.keys, s.good = keys, s.fetched
	}
	close(s.fetching)
	s.fetching = nil
}

// fetch gets the key set. Its error says nothing of the URL's path.
func (s *keySet) fetch(ctx context.Context) ([]key, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := s.client.Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return nil, failed.Err
	}
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it is answered with %s", res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxSetBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxSetBytes {
		return nil, fmt.Errorf("it is larger than %d bytes", maxSetBytes)
	}
	return s.parse(body)
}

// A jwk is a key as JSON (RFC 7517; RFC 7518, section 6; RFC 8037). What it does not name is ignored.
type jwk struct {
	Type       string   `json:"kty"`
	ID         string   `json:"kid"`
	Use        string   `json:"use"`
	Operations []string `json:"key_ops"`
	Algorithm  string   `json:"alg"`
	Curve      string   `json:"crv"`
	N          string   `json:"n"`
	E          string   `json:"e"`
	X          string   `json:"x"`
	Y          string   `json:"y"`
}

// parse returns the keys of a set that are of use. The others are left out, and said.
func (s *keySet) parse(body []byte) ([]key, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("it is not a JSON Web Key Set (RFC 7517)")
	}
	if len(set.Keys) > maxSetKeys {
		return nil, fmt.Errorf("it has more than %d keys", maxSetKeys)
	}
	var keys []key
	for i, k := range set.Keys {
		algorithm, public, err := k.public()
		if err != nil {
			s.log.Debug("a key of the set is left out", "number", i+1, "kid", k.ID, "why", err)
			continue
		}
		keys = append(keys, key{kid: k.ID, algorithm: algorithm, public: public})
	}
	if keys == nil {
		return nil, fmt.Errorf("none of its %d keys is of use: wanted is RS256, ES256 or EdDSA", len(set.Keys))
	}
	return keys, nil
}

// public returns the key and the one algorithm that it is for.
func (k *jwk) public() (algorithm string, public any, err error) {
	switch {
	case k.Type == "RSA":
		algorithm = rs256
		public, err = k.rsa()
	case k.Type == "EC" && k.Curve == "P-256":
		algorithm = es256
		public, err = k.ecdsa()
	case k.Type == "OKP" && k.Curve == "Ed25519":
		algorithm = edDSA
		public, err = k.ed25519()
	default:
		return "", nil, fmt.Errorf("its type %q %q is not taken", k.Type, k.Curve)
	}
	switch {
	case err != nil:
		return "", nil, err
	case k.Algorithm != "" && k.Algorithm != algorithm:
		return "", nil, fmt.Errorf("it is for %s, and only %s is taken with its type", k.Algorithm, algorithm)
	case k.Use != "" && k.Use != "sig", k.Operations != nil && !slices.Contains(k.Operations, "verify"):
		return "", nil, errors.New("it is not for signatures")
	}
	return algorithm, public, nil
}

func (k *jwk) rsa() (*rsa.PublicKey, error) {
	n, err1 := base64.RawURLEncoding.DecodeString(k.N)
	e, err2 := base64.RawURLEncoding.DecodeString(k.E)
	exponent, modulus := new(big.Int).SetBytes(e), new(big.Int).SetBytes(n)
	switch bits := modulus.BitLen(); {
	case err1 != nil || err2 != nil:
		return nil, errors.New("it is not base64url")
	case bits < minRSABits || bits > maxRSABits:
		return nil, fmt.Errorf("it has %d bits, and %d to %d are taken", bits, minRSABits, maxRSABits)
	case exponent.BitLen() > 31 || exponent.Bit(0) == 0 || exponent.Cmp(big.NewInt(3)) < 0:
		return nil, errors.New("its exponent is none")
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

func (k *jwk) ecdsa() (*ecdsa.PublicKey, error) {
	const size = 32
	x, err1 := base64.RawURLEncoding.DecodeString(k.X)
	y, err2 := base64.RawURLEncoding.DecodeString(k.Y)
	if err1 != nil || err2 != nil || len(x) != size || len(y) != size {
		return nil, errors.New("its coordinates are not 32 bytes as base64url")
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y)) // checks that it is on the curve
}

func (k *jwk) ed25519() (ed25519.PublicKey, error) {
	x, err := base64.RawURLEncoding.DecodeString(k.X)
	if err != nil || len(x) != ed25519.PublicKeySize {
		return nil, errors.New("it is not 32 bytes as base64url")
	}
	return x, nil
}
