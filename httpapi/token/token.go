// Package token decides by JSON Web Tokens (RFC 7519) who may join which room: it makes them, where the
// key is a secret of duet's own, and checks them, also where somebody else signs (jwks.go).
// docs/tokens.md describes the claims.
package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
)

const (
	// MinSecretBytes is the least for HS256 (RFC 7518, section 3.2): as much as the hash has.
	MinSecretBytes = 32
	// MaxTTL is the longest that Sign lets a token live.
	MaxTTL = 31 * 24 * time.Hour

	leeway          = 5 * time.Second // between the signer's clock and ours, for exp and nbf
	maxSubjectBytes = 255             // as OpenID Connect Core 1.0, section 2, bounds sub
	minCapacity     = 2
)

// A Config says by what tokens are checked: Secret or JWKSURL, not both.
type Config struct {
	Secret   []byte // HS256; MinSecretBytes or more
	JWKSURL  string // RS256, ES256 and EdDSA, with the keys found there
	Audience string // that aud has to name; "" = any
	Issuer   string // that iss has to be; "" = any
}

// Claims are what a token says.
type Claims struct {
	// Of RegisteredClaims duet hands Subject on, to the operator alone, and checks the rest.
	Room     string `json:"room"`               // a room's name; with * at its end all names that begin so
	Name     string `json:"name,omitempty"`     // that the client has to use; "" = its own choice
	Capacity int    `json:"capacity,omitempty"` // seats of the room as far as this client is concerned; 0 = the server's setting
	jwt.RegisteredClaims
}

// A Checker checks tokens. Make one with New. It is safe for concurrent use.
type Checker struct {
	// Static after construction.
	keys       keys
	parser     *jwt.Parser
	algorithms []string
	checked    *prometheus.CounterVec
}

// keys is where a Checker has its keys from.
type keys interface {
	// find returns the key to verify with. Its error is one of those of refusals. It may wait for as long
	// as a fetch takes, or ctx.
	find(ctx context.Context, kid, algorithm string) (any, error)
	// run keeps the keys fresh until ctx ends.
	run(ctx context.Context) error
}

// New makes a Checker, whose Run has to be called. Its metrics are registered with reg.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) *Checker {
	c := &Checker{checked: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_tokens_total", Help: "Tokens of joins checked, by outcome."}, []string{"outcome"})}
	if len(cfg.Secret) > 0 {
		c.keys, c.algorithms = secretKey(cfg.Secret), []string{hs256}
	} else {
		c.keys, c.algorithms = newKeySet(cfg.JWKSURL, log.With("component", "token"), reg), []string{rs256, es256, edDSA}
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(c.algorithms), jwt.WithExpirationRequired(),
		jwt.WithLeeway(leeway), jwt.WithStrictDecoding()}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	c.parser = jwt.NewParser(options...)
	for _, r := range refusals {
		c.checked.WithLabelValues(r.outcome)
	}
	c.checked.WithLabelValues("ok")
	reg.MustRegister(c.checked)
	return c
}

// Run keeps the keys fresh until ctx ends. What goes wrong with them is logged and counted; until they
// are there, every token is refused.
func (c *Checker) Run(ctx context.Context) error { return c.keys.run(ctx) }

// A refusal is one reason for which a token is not taken.
type refusal struct {
	err           error
	outcome, text string
}

// Why a token is refused, beside what the jwt package says.
var (
	errMissing     = errors.New("none")
	errAlgorithm   = errors.New("wrong algorithm")
	errUnknownKey  = errors.New("unknown key")
	errUnavailable = errors.New("keys not available")
	errClaims      = errors.New("bad claims")
	errRoom        = errors.New("other room")
)

// refusals gives the metric's label and the text for people to each reason. The first that is found in an
// error counts.
var refusals = []refusal{
	{errMissing, "missing", "a token is required: send it as token in join"},
	{errAlgorithm, "algorithm", "the token is signed with the wrong algorithm; accepted here: "},
	{errUnknownKey, "unknown-key", "the token's key (kid) is not among the keys that are accepted here"},
	{errUnavailable, "unavailable", "the token cannot be checked now, since the keys are not there; try again in a moment"},
	{jwt.ErrTokenMalformed, "malformed", "the token is malformed: it does not read as a JWT"},
	{jwt.ErrTokenSignatureInvalid, "signature", "the token's signature is wrong: it was signed with another key, or changed after that"},
	{jwt.ErrTokenExpired, "expired", "the token has expired; get a new one"},
	{jwt.ErrTokenNotValidYet, "not-yet", "the token is not valid yet: its nbf lies in the future, or a clock is wrong"},
	{jwt.ErrTokenInvalidAudience, "audience", "the token's aud does not name this service"},
	{jwt.ErrTokenInvalidIssuer, "issuer", "the token's iss is not the issuer that is trusted here"},
	{errClaims, "claims", "the token has a claim that does not fit: "},
	{jwt.ErrTokenRequiredClaimMissing, "claims", "the token lacks a claim: room and exp are required, and aud and iss where they are checked"},
	{errRoom, "room", "the token is for another room"},
	{nil, "malformed", "the token does not read as one that duet knows"}, // any other
}

// Authorize is for signaling.Policy: it says what text allows in room. Its error is one of
// signaling.Refuse.
func (c *Checker) Authorize(ctx context.Context, text string, room signaling.RoomID) (signaling.Grant, error) {
	claims, err := c.check(ctx, text)
	if err == nil && !covers(claims.Room, room) {
		err = errRoom
	}
	if err == nil {
		c.checked.WithLabelValues("ok").Inc()
		return signaling.Grant{Name: claims.Name, Subject: claims.Subject, Capacity: claims.Capacity}, nil
	}
	return signaling.Grant{}, c.refuse(err)
}

// check verifies text and returns its claims.
func (c *Checker) check(ctx context.Context, text string) (*Claims, error) {
	if text == "" {
		return nil, errMissing
	}
	var claims Claims
	t, err := c.parser.ParseWithClaims(text, &claims, func(t *jwt.Token) (any, error) {
		if _, critical := t.Header["crit"]; critical { // extensions that must be understood (RFC 7515, section 4.1.11): there are none here
			return nil, jwt.ErrTokenMalformed
		}
		kid, _ := t.Header["kid"].(string)
		return c.keys.find(ctx, kid, t.Method.Alg())
	})
	if err != nil && t != nil && (t.Method == nil || !slices.Contains(c.algorithms, t.Method.Alg())) && !errors.Is(err, jwt.ErrTokenMalformed) {
		return nil, errAlgorithm
	}
	if err != nil {
		return nil, err
	}
	if err := claims.check(); err != nil {
		return nil, err
	}
	return &claims, nil
}

// refuse counts err and makes the client's answer of it.
func (c *Checker) refuse(err error) error {
	r := refusals[slices.IndexFunc(refusals, func(r refusal) bool { return r.err == nil || errors.Is(err, r.err) })]
	c.checked.WithLabelValues(r.outcome).Inc()
	switch r.err {
	case errRoom:
		return signaling.Refuse(signaling.ErrForbidden, r.text)
	case errAlgorithm:
		r.text += strings.Join(c.algorithms, ", ")
	case errClaims:
		r.text += strings.TrimPrefix(err.Error(), errClaims.Error()+": ")
	}
	return signaling.Refuse(signaling.ErrUnauthorized, r.text)
}

// covers reports whether the claim allows room.
func covers(claim string, room signaling.RoomID) bool {
	if prefix, pattern := strings.CutSuffix(claim, "*"); pattern {
		return strings.HasPrefix(string(room), prefix)
	}
	return claim == string(room)
}

// check says what is wrong with what duet itself reads of c. Its error wraps errClaims.
func (c *Claims) check() error {
	wrong := func(text string) error { return fmt.Errorf("%w: %s", errClaims, text) }
	badRoom, badName := signaling.CheckRoom(c.Room), signaling.CheckName(c.Name) // a pattern is bounded as a room's name is
	switch {
	case c.Room == "":
		return wrong("room is missing")
	case badRoom != nil:
		return wrong(badRoom.Error())
	case badName != nil:
		return wrong(badName.Error())
	case len(c.Subject) > maxSubjectBytes:
		return wrong(fmt.Sprintf("sub must be at most %d bytes", maxSubjectBytes))
	case c.Capacity != 0 && (c.Capacity < minCapacity || c.Capacity > signaling.MaxCapacity):
		return wrong("capacity lies between 2 and 8")
	}
	return nil
}

// Sign makes a token that holds for ttl, up to MaxTTL, and says when it ends. cfg gives the secret,
// and the audience and issuer where they are asked for. The error says which claim does not fit.
func Sign(cfg Config, claims Claims, ttl time.Duration) (text string, until time.Time, err error) {
	if err := claims.check(); err != nil {
		return "", time.Time{}, errors.New(strings.TrimPrefix(err.Error(), errClaims.Error()+": "))
	}
	if ttl < time.Second || ttl > MaxTTL {
		return "", time.Time{}, errors.New("ttl lies between 1 second and 31 days")
	}
	now := time.Now()
	until = now.Add(ttl).Truncate(time.Second)
	claims.IssuedAt, claims.ExpiresAt = jwt.NewNumericDate(now), jwt.NewNumericDate(until)
	claims.Issuer = cfg.Issuer
	if cfg.Audience != "" {
		claims.Audience = jwt.ClaimStrings{cfg.Audience}
	}
	text, err = jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(cfg.Secret)
	if err == nil && len(text) > signaling.MaxTokenLen {
		err = errors.New("the token would be longer than the 4,096 characters that join takes: shorten the audience or the issuer")
	}
	return text, until, err
}

// Fragment is the end of an invite link: "#room&token=text" with the room percent-encoded as
// encodeURIComponent does it. A fragment stays in the browser: no server, proxy or log sees it. For a
// pattern it is "".
func Fragment(room, text string) string {
	if strings.HasSuffix(room, "*") {
		return ""
	}
	return "#" + escape(room) + "&token=" + text
}

// escape is JavaScript's encodeURIComponent, but for ! ' ( ) and *, which it leaves as they are.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// secretKey is a key set of one.
type secretKey []byte

func (k secretKey) find(context.Context, string, string) (any, error) { return []byte(k), nil }

func (k secretKey) run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
