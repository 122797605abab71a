package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"duet/httpapi"
	"duet/httpapi/token"
	"duet/httpapi/webhook"
	"duet/signaling"
)

// An adminToken opens the operator's API.
type adminToken string

func (t *adminToken) UnmarshalText(text []byte) error {
	if len(text) < httpapi.MinAdminToken || strings.ContainsFunc(string(text), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("must have at least %d characters, all of them visible ASCII: openssl rand -hex 20", httpapi.MinAdminToken)
	}
	*t = adminToken(text)
	return nil
}

func (t adminToken) String() string { return mask(string(t)) }

// A webhookURL is where events go. Its path and query may be what keeps it secret.
type webhookURL string

func (u *webhookURL) UnmarshalText(text []byte) error {
	if _, err := parseHTTPURL(string(text)); err != nil {
		return errors.New("must be a URL such as https://example.com/duet, without user and fragment")
	}
	*u = webhookURL(text)
	return nil
}

// String is the URL as far as its host.
func (u webhookURL) String() string {
	parsed, err := url.Parse(string(u))
	if u == "" || err != nil {
		return ""
	}
	return parsed.Scheme + "://" + parsed.Host + "/***"
}

// A webhookSecret is the key behind whsec_ and base64, or as it stands.
type webhookSecret string

func (s *webhookSecret) UnmarshalText(text []byte) error {
	key := text
	var err error
	if encoded, ok := strings.CutPrefix(string(text), "whsec_"); ok {
		key, err = base64.StdEncoding.DecodeString(encoded)
	}
	if err != nil || len(key) < webhook.MinSecretBytes || len(key) > webhook.MaxSecretBytes {
		return fmt.Errorf(`must be whsec_ and the base64 of %[1]d to %[2]d random bytes, or %[1]d to %[2]d bytes as they are: echo "whsec_$(openssl rand -base64 32)"`,
			webhook.MinSecretBytes, webhook.MaxSecretBytes)
	}
	*s = webhookSecret(key)
	return nil
}

func (s webhookSecret) String() string { return mask(string(s)) }

// checkOversight says which of the settings for tokens and webhooks do not go together.
func (c *config) checkOversight() error {
	_, asked := c.tokens()
	switch {
	case c.AuthSecret != "" && c.AuthJWKSURL != "":
		return errors.New("DUET_AUTH_SECRET and DUET_AUTH_JWKS_URL are both set: tokens are checked with the one or the other")
	case !asked && (c.AuthAudience != "" || c.AuthIssuer != ""):
		return errors.New("DUET_AUTH_AUDIENCE and DUET_AUTH_ISSUER do nothing by themselves: set DUET_AUTH_SECRET or DUET_AUTH_JWKS_URL too")
	case c.WebhookURL != "" && c.WebhookSecret == "":
		return errors.New("DUET_WEBHOOK_SECRET is missing, with which DUET_WEBHOOK_URL can tell our requests from others")
	}
	return nil
}

// An oversight is what stands beside the rooms: who may join, and who hears what happens.
type oversight struct {
	tokens *token.Checker  // nil = everybody may join
	events *httpapi.Events // for the operator's API
	hooks  *webhook.Sender // nil = there are none
}

func newOversight(cfg *config, log *slog.Logger, reg prometheus.Registerer) *oversight {
	o := &oversight{events: httpapi.NewEvents(reg)}
	if tokens, asked := cfg.tokens(); asked {
		o.tokens = token.New(tokens, log, reg)
	} else {
		log.Warn("everybody may join: DUET_AUTH_SECRET or DUET_AUTH_JWKS_URL would ask for a token")
	}
	if cfg.WebhookURL != "" {
		o.hooks = webhook.New(webhook.Config{URL: string(cfg.WebhookURL), Secret: []byte(cfg.WebhookSecret)}, log, reg)
	}
	return o
}

// policy adds to p what is in force.
func (o *oversight) policy(cfg *config, p *signaling.Policy) {
	if o.tokens != nil {
		p.Authorize = o.tokens.Authorize
	}
	api := cfg.AdminAddr != "" && cfg.AdminToken != ""
	switch {
	case api && o.hooks != nil:
		p.Events = func(e signaling.Event) {
			o.events.Add(e)
			o.hooks.Send(e)
		}
	case api:
		p.Events = o.events.Add
	case o.hooks != nil:
		p.Events = o.hooks.Send
	}
}

// run keeps the keys fresh with which tokens are checked.
func (o *oversight) run(ctx context.Context) error {
	if o.tokens == nil {
		return nil
	}
	return o.tokens.Run(ctx)
}

// close has the last webhooks delivered, for at most within. No room may be left.
func (o *oversight) close(within time.Duration) {
	if o.hooks == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	o.hooks.Close(ctx)
}

// operator is what the operator's API needs to know.
func (c *config) operator() httpapi.OperatorConfig {
	tokens, _ := c.tokens()
	return httpapi.OperatorConfig{Token: string(c.AdminToken), Tokens: tokens}
}
