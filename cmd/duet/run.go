package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"duet/httpapi"
	"duet/signaling"
	"duet/static"
)

// run serves until ctx ends, then drains. It returns nil when the drain was complete or had to be cut
// short by DUET_DRAIN, an error when a listener could not be opened or failed.
func run(ctx context.Context, cfg *config, environ []string, descriptors int, stderr io.Writer) error {
	human := cfg.LogFormat == "text" || cfg.LogFormat == "auto" && isTerminal(stderr)
	log := newLogger(cfg, human, stderr)
	for name, meant := range unknownSettings(environ) {
		log.Warn("unknown setting: it does nothing", "name", name, "nearest", meant)
	}

	public, err := listen(ctx, "DUET_ADDR", string(cfg.Addr), cfg.listenLimit(descriptors))
	if err != nil {
		return err
	}
	defer public.Close()
	var admin *listener // nil where it is off
	if cfg.AdminAddr != "" {
		if admin, err = listen(ctx, "DUET_ADMIN_ADDR", string(cfg.AdminAddr), adminConnections); err != nil {
			return err
		}
		defer admin.Close()
	}

	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	secure, err := startTLS(ctx, cfg, public.Addr(), log, reg)
	if err != nil {
		return err
	}
	defer secure.Close()
	beside := newOversight(cfg, log, reg)
	nodes, err := joinCluster(ctx, cfg, log, reg)
	if err != nil {
		if ctx.Err() != nil { // while it waited for NATS
			return nil
		}
		return err
	}
	defer nodes.close()
	rooms := cfg.hub()
	nodes.settle(cfg, &rooms)
	beside.policy(cfg, &rooms.Policy)
	turn, err := startRelay(ctx, cfg, secure.certificates(), log, reg)
	if err != nil {
		return err
	}
	defer turn.Close()
	turn.policy(&rooms.Policy)
	hub := signaling.NewHub(rooms, nodes.directory(), log, reg)
	api := httpapi.New(cfg.api(), hub, static.Files, log, reg)
	site := newServer(secure.handler(api.Handler()), log)
	site.ReadTimeout, site.WriteTimeout = requestTimeout, requestTimeout // an upgraded socket sheds both
	site.ConnState = api.ConnState
	operations := httpapi.NewOperator(cfg.operator(), hub, beside.events, log, reg)
	operator := newServer(httpapi.AdminHandler(reg, operations), log) // a profile takes its time

	// What serves outlives ctx: it ends when the drain has.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, working := errgroup.WithContext(working)
	belonging, part := context.WithCancel(context.WithoutCancel(working)) // to the cluster, until the last room is gone
	defer part()
	group.Go(func() error {
		defer beside.close(cfg.Drain / 20) // after the last room
		defer part()
		return untilDone(hub.Run(working))
	})
	group.Go(func() error {
		if err := untilDone(nodes.run(belonging, hub)); err != nil {
			return err
		}
		nodes.leave(cfg.Drain / 20)
		return nil
	})
	group.Go(func() error { return nodes.untilLost(belonging) })
	group.Go(func() error { return untilDone(beside.run(working)) })
	group.Go(func() error { return untilDone(site.Serve(secure.over(public))) })
	group.Go(func() error { return secure.run(working) })
	if admin != nil {
		group.Go(func() error { return untilDone(operator.Serve(admin)) })
	}
	group.Go(func() error {
		defer stop()
		defer operator.Close()
		select {
		case <-ctx.Done():
		case <-working.Done(): // something above failed
		}
		drain(ctx, cfg.Drain, api, hub, nodes, site, log)
		return nil
	})

	log.Info("settings", "env", cfg)
	announce(cfg, public, admin, secure, turn, human, stderr, log)
	return group.Wait()
}

const (
	headerTimeout  = 5 * time.Second  // for the head of a request
	requestTimeout = 30 * time.Second // for a request and its response: the page is small
	idleTimeout    = time.Minute      // between two requests
	maxHeaderBytes = 8 << 10          // of a request

	closeEvery   = time.Millisecond // between two sockets closed at the end, so that clients do not come back all at once
	lastRequests = time.Second      // at the end, for the requests under way
)

// newServer makes an HTTP/1.1 server. It logs what clients do wrong at debug level.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.With("component", "http").Handler(), slog.LevelDebug),
	}
}

// drain ends the service in order: not ready, rooms handed over to other nodes where there are any,
// WebSockets closed with 1012, requests under way finished.
// After nine tenths of within it cuts what is left.
func drain(ctx context.Context, within time.Duration, api *httpapi.API, hub *signaling.Hub, nodes *cluster, site *http.Server, log *slog.Logger) {
	open := api.Connections()
	log.Info("draining; a second signal ends at once", "connections", open, "within", within.String())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within*9/10)
	defer cancel()
	api.Withdraw()
	nodes.handOver(ctx, hub, within*2/5)
	if err := api.Drain(ctx, min(time.Duration(open)*closeEvery, within/2)); err != nil {
		log.Warn("connections cut: DUET_DRAIN is over", "connections", api.Connections())
	}
	ctx, cancel = context.WithTimeout(ctx, lastRequests)
	defer cancel()
	if err := site.Shutdown(ctx); err != nil {
		site.Close()
	}
	log.Info("drained")
}

// untilDone drops the errors by which a part says that it was told to end.
func untilDone(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func newLogger(cfg *config, human bool, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // was checked
	opts := &slog.HandlerOptions{Level: level}
	if human {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
