package httpapi

import (
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminHandler returns the operator's routes: /metrics (Prometheus) with what g gathers, /debug/pprof/,
// and o's API. They belong on a listener of their own that the public cannot reach.
func AdminHandler(g prometheus.Gatherer, o *Operator) http.Handler {
	r := chi.NewRouter()
	r.Use(refuseRebinding)
	r.Get("/", func(w http.ResponseWriter, _ *http.Request) {
		plainText(w, http.StatusOK, "duet, operator's side: /metrics, /debug/pprof/ and /openapi.json")
	})
	r.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	r.Get("/debug/pprof/*", pprof.Index)
	r.Get("/debug/pprof/cmdline", pprof.Cmdline)
	r.Get("/debug/pprof/profile", pprof.Profile)
	r.Get("/debug/pprof/symbol", pprof.Symbol)
	r.Post("/debug/pprof/symbol", pprof.Symbol)
	r.Get("/debug/pprof/trace", pprof.Trace)
	o.routes(r)
	return r
}

// refuseRebinding keeps web pages out of a loopback listener: a page whose host name was made to
// resolve to 127.0.0.1 sends that name as Host, while the operator's tools send localhost or an address.
func refuseRebinding(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if onLoopback(r) && !isLocalName(r.Host) {
			plainText(w, http.StatusForbidden, "On a loopback address this listener answers to localhost and to addresses only.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func onLoopback(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return false
	}
	addr, err := netip.ParseAddrPort(local.String())
	return err == nil && addr.Addr().Unmap().IsLoopback()
}

func isLocalName(host string) bool {
	name, _, err := splitHost(host)
	if err != nil {
		return false
	}
	if name == "localhost" || name[0] == '[' {
		return true
	}
	_, err = netip.ParseAddr(name)
	return err == nil
}
