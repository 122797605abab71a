package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
	"duet/signaling/natsbus"
)

// natsURLs are where NATS is. Passwords in them are secrets.
type natsURLs []string

func (u *natsURLs) UnmarshalText(text []byte) error {
	for entry := range strings.SplitSeq(string(text), ",") {
		entry = strings.TrimSpace(entry)
		parsed, err := url.Parse(entry)
		if err != nil || parsed.Hostname() == "" || !slices.Contains([]string{"nats", "tls"}, parsed.Scheme) || parsed.Path != "" || parsed.RawQuery != "" {
			return errors.New("must be URLs such as nats://10.0.0.5:4222 or tls://user:password@nats.example:4222, separated by commas")
		}
		*u = append(*u, entry)
	}
	return nil
}

// String leaves out who the node is to NATS: a user without a password is a token.
func (u natsURLs) String() string {
	shown := make([]string, 0, len(u))
	for _, s := range u {
		parsed, err := url.Parse(s)
		switch {
		case err != nil: // was checked
		case parsed.User == nil:
			shown = append(shown, s)
		default:
			shown = append(shown, parsed.Scheme+"://***@"+parsed.Host)
		}
	}
	return strings.Join(shown, ",")
}

// A word may be part of a name in NATS.
type word string

func (w *word) UnmarshalText(text []byte) error {
	if len(text) > 63 || strings.ContainsFunc(string(text), func(r rune) bool { return !isWordRune(r) }) {
		return errors.New("must be at most 63 letters, digits, - and _")
	}
	*w = word(text)
	return nil
}

func isWordRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// routes are addresses, host:port, of NATS servers for each other.
type routes []string

func (r *routes) UnmarshalText(text []byte) (err error) {
	*r, err = parseList(text, func(s string) (string, error) {
		host, port, err := net.SplitHostPort(s)
		if err != nil || host == "" || port == "" || port == "0" {
			return "", errors.New("not host:port")
		}
		return s, nil
	})
	return describe(err, "must be addresses such as node-1.example:6222, separated by commas")
}

func (r routes) String() string { return strings.Join(r, ",") }

// A natsSecret lets embedded NATS servers in to each other.
type natsSecret string

func (s natsSecret) String() string { return mask(string(s)) }

// clustered reports whether this node is one of several.
func (c *config) clustered() bool { return len(c.NATSURL) > 0 || c.NATSEmbed != "" }

// nats is what the settings say of this node among others; url is where NATS is.
func (c *config) nats(url string) natsbus.Config {
	n := natsbus.Config{
		URL:       url,
		CredsFile: string(c.NATSCredsFile),
		NKeyFile:  string(c.NATSNKeyFile),
		CAFile:    string(c.NATSCAFile),
		CertFile:  string(c.NATSCertFile),
		KeyFile:   string(c.NATSKeyFile),
		Prefix:    string(c.NATSPrefix),
		Replicas:  c.NATSReplicas,
		Buckets:   c.NATSBuckets,
		Create:    c.NATSCreate,
		NodeName:  c.nodeName(),
		Version:   buildVersion(),
		Lease:     c.Lease,
		Fence:     c.Fence,
		Renew:     c.Renew,
	}
	if c.NATSEmbed != "" { // these are for the servers, and this machine is the server's only client
		n.CAFile, n.CertFile, n.KeyFile = "", "", ""
	}
	return n
}

// embedded is what the settings say of a NATS server inside this process, which keeps its files in dir.
func (c *config) embedded(dir string, log *slog.Logger) natsbus.EmbeddedConfig {
	return natsbus.EmbeddedConfig{
		Name:     c.nodeName(),
		Dir:      dir,
		Listen:   string(c.NATSEmbed),
		Routes:   c.NATSRoutes,
		Secret:   string(c.NATSSecret),
		CertFile: string(c.NATSCertFile),
		KeyFile:  string(c.NATSKeyFile),
		CAFile:   string(c.NATSCAFile),
		Log:      log,
	}
}

// nodeName is DUET_NODE_ID, or else the host's name as far as it may be a node's.
func (c *config) nodeName() string {
	if c.NodeID != "" {
		return string(c.NodeID)
	}
	name, err := os.Hostname()
	if err != nil {
		return "duet"
	}
	name, _, _ = strings.Cut(name, ".")
	name = strings.Map(func(r rune) rune {
		if isWordRune(r) {
			return r
		}
		return '-'
	}, name)
	return cmp.Or(name[:min(len(name), 63)], "duet")
}

// checkCluster says which of the settings for a cluster do not go together.
func (c *config) checkCluster() error {
	embedding := c.NATSRoutes != nil || c.NATSSecret != ""
	switch {
	case c.NATSEmbed != "" && len(c.NATSURL) > 0:
		return errors.New("DUET_NATS_URL and DUET_NATS_EMBED are both set: NATS is either apart from this process or inside it")
	case c.NATSEmbed == "" && embedding:
		return errors.New("DUET_NATS_EMBED_ROUTES and DUET_NATS_EMBED_SECRET do nothing by themselves: set DUET_NATS_EMBED too")
	case c.NATSEmbed != "" && (c.NATSCredsFile != "" || c.NATSNKeyFile != ""):
		return errors.New("DUET_NATS_CREDS_FILE and DUET_NATS_NKEY_FILE are for a NATS apart from this process: leave them out with DUET_NATS_EMBED")
	case !c.clustered():
		return nil
	}
	if c.NATSEmbed != "" {
		if err := c.embedded("given", nil).Check(); err != nil {
			return fmt.Errorf("DUET_NATS_EMBED, with DUET_NATS_EMBED_ROUTES, DUET_NATS_EMBED_SECRET and DUET_NATS_{CERT,KEY,CA}_FILE: %w", err)
		}
	}
	if err := c.nats("given").Check(); err != nil {
		return fmt.Errorf("DUET_NATS_…, DUET_LEASE, DUET_FENCE or DUET_RENEW: %w", err)
	}
	if longest := c.FrozenClose + c.FrozenClose/2; longest > c.Grace && c.Grace >= time.Second {
		return fmt.Errorf("DUET_FROZEN_CLOSE=%v: with half as much again (%v) it must end within DUET_GRACE (%v), so that clients find their seats elsewhere", c.FrozenClose, longest, c.Grace)
	}
	return nil
}

// A cluster is what this node has to do with others; its zero value stands alone.
type cluster struct {
	node *natsbus.Node
	stop func() // ends the NATS server inside this process; nil = there is none
	log  *slog.Logger
}

// joinCluster connects to NATS, if it is asked to, and starts it before where it is inside this process.
// It waits for a NATS that is away, as long as ctx.
func joinCluster(ctx context.Context, cfg *config, log *slog.Logger, reg prometheus.Registerer) (_ *cluster, err error) {
	c := &cluster{log: log}
	if !cfg.clustered() {
		return c, nil
	}
	at := strings.Join(cfg.NATSURL, ",")
	if cfg.NATSEmbed != "" {
		dir, err := cfg.makeDataDir("nats")
		if err != nil {
			return nil, fmt.Errorf("DUET_NATS_EMBED: %w", err)
		}
		if at, c.stop, err = natsbus.StartEmbedded(cfg.embedded(filepath.Join(dir, cfg.nodeName()), log)); err != nil {
			return nil, fmt.Errorf("DUET_NATS_EMBED: %w", err)
		}
	}
	if c.node, err = natsbus.Connect(ctx, cfg.nats(at), log, reg); err != nil {
		c.close()
		return nil, fmt.Errorf("join the cluster: %w", err)
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "duet_cluster_nodes", Help: "Nodes of the cluster that this one hears, itself included."},
		func() float64 { return float64(len(c.node.Nodes())) }))
	return c, nil
}

// close ends what joinCluster began.
func (c *cluster) close() {
	if c.node != nil {
		c.node.Close()
	}
	if c.stop != nil {
		c.stop()
	}
}

func (c *cluster) directory() signaling.Directory {
	if c.node == nil {
		return signaling.NewLocalDirectory()
	}
	return c.node
}

// settle adds what rooms need to know.
func (c *cluster) settle(cfg *config, rooms *signaling.Config) {
	if c.node != nil {
		rooms.Bus, rooms.FrozenClose, rooms.Recover = c.node, cfg.FrozenClose, cfg.Recover
	}
}

// run keeps this node's lease until ctx ends, and brings hub what other nodes say.
func (c *cluster) run(ctx context.Context, hub *signaling.Hub) error {
	if c.node == nil {
		return nil
	}
	if err := c.node.Run(ctx, hub); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// untilLost returns an error as soon as the lease is lost, so that the rooms end. What run waits for may be
// rooms that stand still until then.
func (c *cluster) untilLost(ctx context.Context) error {
	if c.node == nil {
		return nil
	}
	if err := c.node.Lost(ctx); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// handOver moves the rooms to other nodes within the time given.
func (c *cluster) handOver(ctx context.Context, hub *signaling.Hub, within time.Duration) {
	if c.node == nil {
		return
	}
	began := time.Now()
	moved, left := hub.HandOver(ctx, within)
	c.log.Info("rooms handed over", "moved", moved, "left", left, "took", time.Since(began).Round(time.Millisecond).String())
}

// leave says that this node is gone for good, so that what is left of it is free at once; where NATS does not
// take it within the time given, the others find out by themselves.
func (c *cluster) leave(within time.Duration) {
	if c.node == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := c.node.Retire(ctx); err != nil {
		c.log.Warn("leave the cluster", "error", err)
	}
}
