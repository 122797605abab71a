// Package httpapi is duet's HTTP face: the page, the WebSocket endpoint, the health endpoints and, on a
// listener of its own, the operator's metrics and profiles. It turns requests into calls on the
// signaling package and knows nothing of the environment.
package httpapi

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
)

// A Config holds what the public half of the HTTP interface needs. Its fields are taken as checked.
type Config struct {
	BasePath       string         // "" or, for example, "/duet": no slash at the end
	AllowedOrigins []string       // whole origins, scheme://host[:port]; empty = the page's own
	AllowedHosts   []string       // Host values answered, host[:port]; empty = any
	TrustedProxies []netip.Prefix // whose X-Forwarded-For is believed; empty = nobody's

	MaxConnections      int // WebSockets at once
	MaxConnectionsPerIP int // of them from one address (IPv6: one /64), and of other connections
	JoinRate            int // joins a minute and address (IPv6: /64)

	JoinTimeout     time.Duration // from the handshake, or a leave, to a join
	PingInterval    time.Duration // between pings to a silent connection
	PongTimeout     time.Duration // for the answer to a ping
	WriteTimeout    time.Duration // for one write
	MessageTimeout  time.Duration // for one message, from its first byte to its last
	MaxMessageBytes int           // in one message
}

// An API serves the public listener. Make one with New.
type API struct {
	// Static after construction.
	cfg      Config
	hub      *signaling.Hub
	log      *slog.Logger
	assets   *assets
	origins  originPolicy
	hosts    []string
	limits   *limits
	conns    *ConnLimit
	clientIP func(http.Handler) http.Handler
	panics   prometheus.Counter
	refused  *prometheus.CounterVec
	sockets  *sockets

	draining atomic.Bool
}

// New makes the API of hub and the page in assets. Its metrics are registered with reg.
func New(cfg Config, hub *signaling.Hub, files fs.FS, log *slog.Logger, reg prometheus.Registerer) *API {
	log = log.With("component", "httpapi")
	return &API{
		cfg:      cfg,
		hub:      hub,
		log:      log,
		assets:   loadAssets(files),
		origins:  newOriginPolicy(cfg.AllowedOrigins),
		hosts:    cfg.AllowedHosts,
		limits:   newLimits(cfg.MaxConnections, cfg.MaxConnectionsPerIP, cfg.JoinRate),
		conns:    NewConnLimit("public", max(cfg.MaxConnectionsPerIP, leastConns), cfg.TrustedProxies, reg),
		clientIP: clientIP(cfg.TrustedProxies),
		panics:   newPanicCounter(reg),
		refused:  newRefusedCounter(reg),
		sockets:  newSockets(cfg, hub, log, reg),
	}
}

// Handler returns the public routes: the page and /ws under the base path, /healthz and /readyz there
// and at the root.
func (a *API) Handler() http.Handler {
	root := chi.NewRouter()
	root.Use(a.logAccess, a.recoverPanics)
	root.NotFound(a.notFound)
	a.healthRoutes(root)
	if a.cfg.BasePath == "" {
		a.pageRoutes(root)
		return root
	}
	root.Get(a.cfg.BasePath, a.redirectToPage)
	root.Head(a.cfg.BasePath, a.redirectToPage)
	root.Route(a.cfg.BasePath+"/", func(r chi.Router) {
		a.healthRoutes(r)
		a.pageRoutes(r)
	})
	return root
}

// ConnState is that of the http.Server that serves Handler: it bounds the connections of one address
// that are no WebSockets (see ConnLimit).
func (a *API) ConnState(c net.Conn, state http.ConnState) { a.conns.Watch(c, state) }

// pageRoutes adds what lives under the base path.
func (a *API) pageRoutes(r chi.Router) {
	r.With(a.refuseWhileDraining, a.checkHost, a.clientIP, a.checkOrigin, requireUpgrade).
		HandleFunc("/ws", a.serveWebSocket)
	r.With(a.checkHost, securePage).Handle("/*", http.StripPrefix(a.cfg.BasePath+"/", a.assets))
}

// redirectToPage sends "/duet" to "/duet/". The address is relative, so that it also holds behind a
// proxy that knows the page under another name.
func (a *API) redirectToPage(w http.ResponseWriter, r *http.Request) {
	to := path.Base(a.cfg.BasePath) + "/"
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// notFound answers outside the base path and says where the page is.
func (a *API) notFound(w http.ResponseWriter, _ *http.Request) {
	plainText(w, http.StatusNotFound, "Not found. The page is at "+a.cfg.BasePath+"/")
}

// Connections returns the number of WebSockets open now.
func (a *API) Connections() int { return a.limits.connections() }

// Withdraw takes the API out of service, so that nobody new comes: /readyz answers 503, new WebSockets
// are refused. Those that are open stay.
func (a *API) Withdraw() { a.draining.Store(true) }

// Drain takes the API out of service: /readyz answers 503, new WebSockets are refused, and those that
// are open are closed with 1012 (docs/protocol.md, section 7), spread evenly over spread. It returns
// when all are gone, or with ctx's error.
func (a *API) Drain(ctx context.Context, spread time.Duration) error {
	a.Withdraw()
	return a.sockets.drain(ctx, spread)
}
