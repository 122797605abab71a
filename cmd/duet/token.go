package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"

	"duet/httpapi/token"
)

// An authSecret signs and checks tokens.
type authSecret string

func (s *authSecret) UnmarshalText(text []byte) error {
	if len(text) < token.MinSecretBytes {
		return fmt.Errorf("must have at least %d bytes, random ones: openssl rand -base64 48", token.MinSecretBytes)
	}
	*s = authSecret(text)
	return nil
}

func (s authSecret) String() string { return mask(string(s)) }

// mask is what the log shows of a secret.
func mask(secret string) string {
	if secret == "" {
		return ""
	}
	return "***"
}

// A jwksURL is where a key set is fetched.
type jwksURL string

func (u *jwksURL) UnmarshalText(text []byte) error {
	parsed, err := parseHTTPURL(string(text))
	if err != nil || parsed.Scheme == "http" && !isLoopback(parsed.Hostname()) {
		return errors.New("must be a URL such as https://login.example.com/.well-known/jwks.json (http on loopback only), without user and fragment")
	}
	*u = jwksURL(text)
	return nil
}

// parseHTTPURL takes a URL with a host, without user and fragment.
func parseHTTPURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Contains(text, "#") {
		return nil, errors.New("it is none of these")
	}
	return u, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// A claimText is the value of a claim that a token has to have.
type claimText string

func (c *claimText) UnmarshalText(text []byte) error {
	if len(text) > 256 || strings.ContainsFunc(string(text), unicode.IsControl) {
		return errors.New("must have at most 256 bytes, and no control characters")
	}
	*c = claimText(text)
	return nil
}

// tokens says by what tokens are checked; ok is false where none is asked for.
func (c *config) tokens() (cfg token.Config, ok bool) {
	cfg = token.Config{Secret: []byte(c.AuthSecret), JWKSURL: string(c.AuthJWKSURL),
		Audience: string(c.AuthAudience), Issuer: string(c.AuthIssuer)}
	return cfg, c.AuthSecret != "" || c.AuthJWKSURL != ""
}

// tokenCommand is duet token: it prints a token, signed with DUET_AUTH_SECRET, and where it is for one
// room the invite link with it, each on a line of its own.
func tokenCommand(args, environ []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("duet token", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var claims token.Claims
	flags.StringVar(&claims.Room, "room", "", "the `room`; with * at its end, every room whose name begins so")
	ttl := flags.Duration("ttl", time.Hour, "how long it holds, up to 744h (31 days)")
	flags.StringVar(&claims.Name, "name", "", "the `name` that its bearer has to use")
	flags.StringVar(&claims.Subject, "sub", "", "whose it is (`sub`): the operator's API, events and webhooks say it")
	flags.IntVar(&claims.Capacity, "capacity", 0, "`seats` of the room as far as its bearer is concerned, 2 to 8")
	page := flags.String("url", "http://localhost:8080/", "the page's `address`, for the link")
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: DUET_AUTH_SECRET=... duet token -room demo [-ttl 10m] [-name Ada] [-capacity 3] [-url https://duet.example.com/]\n\n"+
			"Prints a token to join with, and an invite link whose fragment carries it.\n\n")
		flags.PrintDefaults()
	}
	refuse := func(format string, a ...any) int {
		fmt.Fprintf(stderr, "duet token: "+format+"\n", a...)
		return exitUsage
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case flags.NArg() > 0:
		return refuse("unknown argument %q", flags.Arg(0))
	}
	cfg, err := parseConfig(environ, descriptorLimit())
	if err != nil {
		return refuse("bad settings (duet -h lists them):\n%v", err)
	}
	signer, _ := cfg.tokens()
	if len(signer.Secret) == 0 {
		return refuse("DUET_AUTH_SECRET is not set: it is what tokens are signed with here, and has to be the server's")
	}
	address, err := parseHTTPURL(*page)
	if err != nil {
		return refuse("-url=%q: must be a URL such as https://duet.example.com/, without user and fragment", *page)
	}
	text, _, err := token.Sign(signer, claims, *ttl)
	if err != nil {
		return refuse("%v", err)
	}
	fmt.Fprintln(stdout, text)
	if fragment := token.Fragment(claims.Room, text); fragment != "" {
		if address.Path == "" {
			address.Path = "/"
		}
		fmt.Fprintln(stdout, address.String()+fragment)
	}
	return exitOK
}
