package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"duet/signaling"
)

var secret = []byte("a secret of at least thirty-two bytes")

func newChecker(t testing.TB, cfg Config) *Checker {
	t.Helper()
	return New(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// sign makes a token of any kind.
func sign(t testing.TB, method jwt.SigningMethod, key any, header map[string]any, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	maps.Copy(token.Header, header)
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// wantRefusal checks that err is sentinel with a text that holds part.
func wantRefusal(t *testing.T, err, sentinel error, part string) {
	t.Helper()
	if !errors.Is(err, sentinel) || !strings.Contains(err.Error(), part) {
		t.Errorf("want %v with %q, got %v", sentinel, part, err)
	}
}

func TestAuthorize(t *testing.T) {
	hour, ago := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	with := func(more jwt.MapClaims) jwt.MapClaims {
		c := jwt.MapClaims{"room": "demo", "exp": hour, "aud": []string{"other", "duet"}, "iss": "https://login.example"}
		maps.Copy(c, more)
		for k, v := range more {
			if v == nil {
				delete(c, k)
			}
		}
		return c
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := sign(t, jwt.SigningMethodHS256, secret, nil, with(nil))
	head, _, _ := strings.Cut(good, ".")
	for _, tt := range []struct {
		name, token string
		sentinel    error
		text        string
		outcome     string
	}{
		{"good", good, nil, "", "ok"},
		{"pattern", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"room": "de*"})), nil, "", "ok"},
		{"any room", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"room": "*"})), nil, "", "ok"},
		{"expired within the leeway", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"exp": time.Now().Add(-time.Second).Unix()})), nil, "", "ok"},
		{"none", "", signaling.ErrUnauthorized, "a token is required", "missing"},
		{"no JWT", "hello", signaling.ErrUnauthorized, "malformed", "malformed"},
		{"no JSON", "a.b.c", signaling.ErrUnauthorized, "malformed", "malformed"},
		{"claims of the wrong kind", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"room": 7})), signaling.ErrUnauthorized, "malformed", "malformed"},
		{"critical extension", sign(t, jwt.SigningMethodHS256, secret, map[string]any{"crit": []string{"x"}}, with(nil)), signaling.ErrUnauthorized, "malformed", "malformed"},
		{"alg none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, with(nil)), signaling.ErrUnauthorized, "wrong algorithm; accepted here: HS256", "algorithm"},
		{"unknown algorithm", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS1"}`)) + strings.TrimPrefix(good, head), signaling.ErrUnauthorized, "wrong algorithm", "algorithm"},
		{"no algorithm", base64.RawURLEncoding.EncodeToString([]byte(`{}`)) + strings.TrimPrefix(good, head), signaling.ErrUnauthorized, "wrong algorithm", "algorithm"},
		{"HS512", sign(t, jwt.SigningMethodHS512, secret, nil, with(nil)), signaling.ErrUnauthorized, "wrong algorithm", "algorithm"},
		{"RS256", sign(t, jwt.SigningMethodRS256, rsaKey, nil, with(nil)), signaling.ErrUnauthorized, "wrong algorithm", "algorithm"},
		{"another secret", sign(t, jwt.SigningMethodHS256, []byte("another"), nil, with(nil)), signaling.ErrUnauthorized, "signature is wrong", "signature"},
		{"changed", strings.Replace(good, ".", ".e", 1), signaling.ErrUnauthorized, "malformed", "malformed"},
		{"expired", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"exp": ago})), signaling.ErrUnauthorized, "expired", "expired"},
		{"no exp", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"exp": nil})), signaling.ErrUnauthorized, "room and exp are required", "claims"},
		{"not yet", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"nbf": hour})), signaling.ErrUnauthorized, "not valid yet", "not-yet"},
		{"audience", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"aud": "other"})), signaling.ErrUnauthorized, "aud", "audience"},
		{"no audience", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"aud": nil})), signaling.ErrUnauthorized, "required", "claims"},
		{"issuer", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"iss": "https://login.example/"})), signaling.ErrUnauthorized, "iss", "issuer"},
		{"no room", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"room": nil})), signaling.ErrUnauthorized, "room is missing", "claims"},
		{"capacity", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"capacity": 9})), signaling.ErrUnauthorized, "between 2 and 8", "claims"},
		{"capacity of one", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"capacity": 1})), signaling.ErrUnauthorized, "between 2 and 8", "claims"},
		{"long name", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"name": strings.Repeat("é", 65)})), signaling.ErrUnauthorized, "64 characters", "claims"},
		{"name that turns text", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"name": "a\u202eb"})), signaling.ErrUnauthorized, "bidirectional", "claims"},
		{"long sub", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"sub": strings.Repeat("s", 256)})), signaling.ErrUnauthorized, "255 bytes", "claims"},
		{"other room", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"room": "demo2"})), signaling.ErrForbidden, "another room", "room"},
		{"beginning of the room", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"room": "dem"})), signaling.ErrForbidden, "another room", "room"},
		{"other pattern", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"room": "demo-*"})), signaling.ErrForbidden, "another room", "room"},
		{"middle of the room", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"room": "em*"})), signaling.ErrForbidden, "another room", "room"},
		{"star inside", sign(t, jwt.SigningMethodHS256, secret, nil, with(jwt.MapClaims{"room": "d*o"})), signaling.ErrForbidden, "another room", "room"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newChecker(t, Config{Secret: secret, Audience: "duet", Issuer: "https://login.example"})
			_, err := c.Authorize(t.Context(), tt.token, "demo")
			if tt.sentinel == nil && err != nil {
				t.Fatal(err)
			}
			if tt.sentinel != nil {
				wantRefusal(t, err, tt.sentinel, tt.text)
			}
			if n := testutil.ToFloat64(c.checked.WithLabelValues(tt.outcome)); n != 1 {
				t.Errorf("%s was counted %v times", tt.outcome, n)
			}
		})
	}
}

func TestGrant(t *testing.T) {
	cfg := Config{Secret: secret, Audience: "duet", Issuer: "me"}
	text, until, err := Sign(cfg, Claims{Room: "a b*", Name: "Ada", Capacity: 3, RegisteredClaims: jwt.RegisteredClaims{Subject: "user-7"}}, 10*time.Minute)
	if err != nil || time.Until(until) < 9*time.Minute || time.Until(until) > 10*time.Minute {
		t.Fatalf("%v, %v", until, err)
	}
	got, err := newChecker(t, cfg).Authorize(t.Context(), text, "a bc")
	if err != nil || got != (signaling.Grant{Name: "Ada", Subject: "user-7", Capacity: 3}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSignRefuses(t *testing.T) {
	long := Config{Secret: secret, Audience: strings.Repeat("<", 256), Issuer: strings.Repeat("<", 256)} // six bytes each as JSON
	subject := func(s string) Claims {
		return Claims{Room: "demo", RegisteredClaims: jwt.RegisteredClaims{Subject: s}}
	}
	for _, tt := range []struct {
		claims Claims
		ttl    time.Duration
		want   string
	}{
		{Claims{}, time.Hour, "room is missing"},
		{Claims{Room: " demo"}, time.Hour, "white space"},
		{Claims{Room: "demo\n"}, time.Hour, "white space"},
		{Claims{Room: strings.Repeat("r", 129)}, time.Hour, "128 bytes"},
		{Claims{Room: "demo", Capacity: 9}, time.Hour, "capacity"},
		{Claims{Room: "demo", Capacity: -1}, time.Hour, "capacity"},
		{Claims{Room: "demo"}, 0, "ttl"},
		{Claims{Room: "demo"}, MaxTTL + 1, "ttl"},
		{Claims{Room: "demo\xff"}, time.Hour, "128 bytes"},
		{Claims{Room: "demo", Name: "\xff"}, time.Hour, "64 characters"},
		{subject(strings.Repeat("s", 256)), time.Hour, "255 bytes"},
		{subject(strings.Repeat("s", 255)), time.Hour, "4,096"},
	} {
		if _, _, err := Sign(long, tt.claims, tt.ttl); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v for %v: %v", tt.claims, tt.ttl, err)
		}
	}
}

func TestFragment(t *testing.T) {
	for room, want := range map[string]string{
		"demo":      "#demo&token=T",
		"a b&c/d=é": "#a%20b%26c%2Fd%3D%C3%A9&token=T",
		"%#":        "#%25%23&token=T",
		"team-*":    "",
	} {
		if got := Fragment(room, "T"); got != want {
			t.Errorf("%q: %s, want %s", room, got, want)
		}
	}
}

// ---- key sets

// A jwksServer serves a key set that a test may change.
type jwksServer struct {
	*httptest.Server
	asked atomic.Int32
	mu    sync.Mutex
	reply http.HandlerFunc
}

func newJWKSServer(t *testing.T) *jwksServer {
	s := &jwksServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.mu.Lock()
		reply := s.reply
		s.mu.Unlock()
		reply(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *jwksServer) answer(reply http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = reply
}

func (s *jwksServer) serve(keys ...map[string]any) {
	s.answer(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
	})
}

// running starts a Checker of the set and returns it when the first fetch has ended.
func (s *jwksServer) running(t *testing.T) *Checker {
	c := newChecker(t, Config{JWKSURL: s.URL})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	_ = c.keys.(*keySet).refresh(t.Context())
	return c
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwkOf is the JSON of a key with its id.
func jwkOf(kid string, public crypto.PublicKey, more ...string) map[string]any {
	k := map[string]any{"kid": kid}
	switch public := public.(type) {
	case *rsa.PublicKey:
		k["kty"], k["n"], k["e"] = "RSA", b64(public.N.Bytes()), "AQAB"
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			panic(err)
		}
		half := len(point) / 2
		k["kty"], k["crv"], k["x"], k["y"] = "EC", public.Curve.Params().Name, b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PublicKey:
		k["kty"], k["crv"], k["x"] = "OKP", "Ed25519", b64(public)
	}
	for i := 0; i < len(more); i += 2 {
		k[more[i]] = more[i+1]
	}
	return k
}

func generate[K any](t *testing.T, k K, err error) K {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeySet(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	r = generate(t, r, err)
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	e = generate(t, e, err)
	e384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	e384 = generate(t, e384, err)
	_, d, err := ed25519.GenerateKey(rand.Reader)
	d = generate(t, d, err)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	small = generate(t, small, err)
	rsaText := []byte(jwkOf("r", &r.PublicKey)["n"].(string))

	s := newJWKSServer(t)
	s.serve(jwkOf("r", &r.PublicKey, "alg", "RS256", "use", "sig"), jwkOf("e", &e.PublicKey), jwkOf("d", d.Public()),
		jwkOf("small", &small.PublicKey), jwkOf("e384", &e384.PublicKey), jwkOf("pss", &r.PublicKey, "alg", "PS256"),
		jwkOf("enc", &r.PublicKey, "use", "enc"), jwkOf("twice", d.Public()), jwkOf("twice", &e.PublicKey),
		map[string]any{"kid": "oct", "kty": "oct", "k": b64(secret)},
		map[string]any{"kid": "off", "kty": "EC", "crv": "P-256", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))})
	c := s.running(t)
	claims := jwt.MapClaims{"room": "demo", "exp": time.Now().Add(time.Hour).Unix()}
	kid := func(id string) map[string]any { return map[string]any{"kid": id} }
	for _, tt := range []struct {
		name, token, text string
	}{
		{"RS256", sign(t, jwt.SigningMethodRS256, r, kid("r"), claims), ""},
		{"ES256", sign(t, jwt.SigningMethodES256, e, kid("e"), claims), ""},
		{"EdDSA", sign(t, jwt.SigningMethodEdDSA, d, kid("d"), claims), ""},
		{"RS256 without kid", sign(t, jwt.SigningMethodRS256, r, nil, claims), ""},
		{"EdDSA without kid, of which there are two", sign(t, jwt.SigningMethodEdDSA, d, nil, claims), "not among the keys"},
		{"a kid given twice", sign(t, jwt.SigningMethodEdDSA, d, kid("twice"), claims), "not among the keys"},
		{"unknown kid", sign(t, jwt.SigningMethodRS256, r, kid("x"), claims), "not among the keys"},
		{"the algorithm of another key", sign(t, jwt.SigningMethodES256, e, kid("r"), claims), "wrong algorithm; accepted here: RS256, ES256, EdDSA"},
		{"PS256 with a key for RS256", sign(t, jwt.SigningMethodPS256, r, kid("r"), claims), "wrong algorithm"},
		{"RS512", sign(t, jwt.SigningMethodRS512, r, kid("r"), claims), "wrong algorithm"},
		{"HS256 with the public key", sign(t, jwt.SigningMethodHS256, rsaText, kid("r"), claims), "wrong algorithm"},
		{"HS256 with the set's secret", sign(t, jwt.SigningMethodHS256, secret, kid("oct"), claims), "wrong algorithm"},
		{"none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid("r"), claims), "wrong algorithm"},
		{"another key", sign(t, jwt.SigningMethodRS256, small, kid("r"), claims), "signature is wrong"},
		{"a key that is too small", sign(t, jwt.SigningMethodRS256, small, kid("small"), claims), "not among the keys"},
		{"a key for PS256", sign(t, jwt.SigningMethodRS256, r, kid("pss"), claims), "not among the keys"},
		{"a key for encryption", sign(t, jwt.SigningMethodRS256, r, kid("enc"), claims), "not among the keys"},
		{"ES384", sign(t, jwt.SigningMethodES384, e384, kid("e384"), claims), "wrong algorithm"},
		{"a point off the curve", sign(t, jwt.SigningMethodES256, e, kid("off"), claims), "not among the keys"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.Authorize(t.Context(), tt.token, "demo")
			if tt.text == "" && err != nil {
				t.Fatal(err)
			}
			if tt.text != "" {
				wantRefusal(t, err, signaling.ErrUnauthorized, tt.text)
			}
		})
	}
	if n := s.asked.Load(); n != 1 { // unknown kids within askedEvery ask no more
		t.Errorf("%d fetches", n)
	}
}

func TestKeySetAnswers(t *testing.T) {
	elsewhere := newJWKSServer(t)
	elsewhere.serve()
	for _, tt := range []struct {
		name  string
		reply http.HandlerFunc
		want  string
	}{
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "500 Internal"},
		{"204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, "204 No Content"},
		{"a redirect", http.RedirectHandler(elsewhere.URL, http.StatusFound).ServeHTTP, "not followed"},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "not a JSON Web Key Set"},
		{"no keys", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }, "none of its 0 keys"},
		{"useless keys", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`)
		}, "none of its 1 keys"},
		{"too many", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"keys":[{}`+strings.Repeat(",{}", maxSetKeys)+`]}`)
		}, "more than 100"},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, "larger than"},
		{"cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newJWKSServer(t)
			s.answer(tt.reply)
			set := newKeySet(s.URL+"/path", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			_, err := set.fetch(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), "/path") {
				t.Errorf("the URL is in the error: %v", err)
			}
			if elsewhere.asked.Load() > 0 {
				t.Error("the redirect was followed")
			}
		})
	}
}

// A roundTrip answers requests without a network, so that time is a bubble's.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestKeySetOverTime: what is there stays when fetches fail; new keys are found in the background, and by
// the first token that names one, but never more often than askedEvery.
func TestKeySetOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, first, _ := ed25519.GenerateKey(rand.Reader)
		_, second, _ := ed25519.GenerateKey(rand.Reader)
		var asked atomic.Int32
		var failing, hanging atomic.Bool
		var keys atomic.Pointer[[]map[string]any]
		serve := func(list ...map[string]any) { keys.Store(&list) }
		serve(jwkOf("1", first.Public()))
		c := newChecker(t, Config{JWKSURL: "https://login.example/jwks"})
		c.keys.(*keySet).client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			if hanging.Load() {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			w := httptest.NewRecorder()
			if failing.Load() {
				w.WriteHeader(503)
			} else {
				_ = json.NewEncoder(w).Encode(map[string]any{"keys": *keys.Load()})
			}
			return w.Result(), nil
		})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		try := func(key ed25519.PrivateKey, kid string) error {
			claims := jwt.MapClaims{"room": "demo", "exp": time.Now().Add(time.Minute).Unix()}
			_, err := c.Authorize(t.Context(), sign(t, jwt.SigningMethodEdDSA, key, map[string]any{"kid": kid}, claims), "demo")
			return err
		}

		failing.Store(true)
		running.Go(func() { _ = c.Run(ctx) })
		wantRefusal(t, try(first, "1"), signaling.ErrUnauthorized, "try again in a moment") // which waited for the first fetch
		if n := asked.Load(); n != 1 {
			t.Fatalf("%d fetches", n)
		}
		failing.Store(false)
		time.Sleep(2 * retryFirst)
		if n := asked.Load(); n != 2 {
			t.Errorf("%d fetches after a failure and some seconds", n)
		}
		if err := try(first, "1"); err != nil {
			t.Fatalf("after the retry: %v", err)
		}

		// A new key: the first token that names it makes it known, at most every askedEvery.
		time.Sleep(askedEvery)
		serve(jwkOf("1", first.Public()), jwkOf("2", second.Public()))
		before := asked.Load()
		var together sync.WaitGroup
		for range 5 {
			together.Go(func() {
				if err := try(second, "2"); err != nil {
					t.Errorf("the new key: %v", err)
				}
			})
		}
		together.Wait()
		for range 5 {
			wantRefusal(t, try(second, "3"), signaling.ErrUnauthorized, "not among the keys")
		}
		if n := asked.Load() - before; n != 1 {
			t.Errorf("%d fetches for one new key", n)
		}

		// The set does not answer: what is known goes on, what is not waits no longer than a fetch.
		hanging.Store(true)
		time.Sleep(refreshEvery + fetchTimeout)
		if err := try(second, "2"); err != nil {
			t.Errorf("while the set hangs: %v", err)
		}
		time.Sleep(askedEvery)
		began := time.Now()
		wantRefusal(t, try(second, "3"), signaling.ErrUnauthorized, "not among the keys")
		if took := time.Since(began); took > 2*fetchTimeout {
			t.Errorf("a token waited %v", took)
		}
		if age := c.keys.(*keySet).age(); age < refreshEvery.Seconds() {
			t.Errorf("the age of the keys is %v s", age)
		}

		// A key that is gone from the set is taken no longer.
		hanging.Store(false)
		serve(jwkOf("2", second.Public()))
		time.Sleep(2 * refreshEvery)
		wantRefusal(t, try(first, "1"), signaling.ErrUnauthorized, "not among the keys")

		// Who goes away does not wait.
		hanging.Store(true)
		time.Sleep(askedEvery)
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := c.Authorize(gone, sign(t, jwt.SigningMethodEdDSA, first, map[string]any{"kid": "9"}, jwt.MapClaims{}), "demo"); err == nil {
			t.Error("taken")
		}
	})
}

// FuzzAuthorize: nothing is taken whose signature somebody without the secret could have made.
func FuzzAuthorize(f *testing.F) {
	good, _, err := Sign(Config{Secret: secret}, Claims{Room: "*"}, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("")
	f.Add("a.b.c")
	f.Add(strings.Repeat("e30.", 100))
	f.Add(b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(`{"room":"*","exp":9999999999}`)) + ".")
	f.Add(b64([]byte(`{"alg":"HS256","alg":"none"}`)) + "." + b64([]byte(`{"room":"*","exp":9999999999}`)) + ".")
	c := newChecker(f, Config{Secret: secret})
	f.Fuzz(func(t *testing.T, text string) {
		_, err := c.Authorize(t.Context(), text, "demo")
		if err != nil {
			if !errors.Is(err, signaling.ErrUnauthorized) && !errors.Is(err, signaling.ErrForbidden) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		i := strings.LastIndexByte(text, '.')
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(text[:i]))
		if text[i+1:] != b64(mac.Sum(nil)) {
			t.Errorf("%q was taken", text)
		}
	})
}
