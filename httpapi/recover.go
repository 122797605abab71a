package httpapi

import (
	"errors"
	"net/http"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// recoverPanics ends a request whose handler panics, counts it, and keeps the server alive.
func (a *API) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { // net/http's own way to cut a response: not a fault
				panic(p)
			}
			a.panics.Inc()
			a.log.Error("panic in a request", "panic", p, "path", r.URL.Path, "stack", string(debug.Stack()))
			if r.Header.Get("Upgrade") != "" { // perhaps no longer HTTP: cut it
				panic(http.ErrAbortHandler)
			}
			plainText(w, http.StatusInternalServerError, "Internal error. It was logged and counted.")
		}()
		next.ServeHTTP(w, r)
	})
}

// newPanicCounter registers duet_panics_total, unless the hub has done so: it counts in the same one.
func newPanicCounter(reg prometheus.Registerer) prometheus.Counter {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_panics_total", Help: "Panics that ended one connection or room, by where."}, []string{"where"})
	if err := reg.Register(c); err != nil {
		taken, ok := errors.AsType[prometheus.AlreadyRegisteredError](err)
		if !ok {
			panic(err)
		}
		c = taken.ExistingCollector.(*prometheus.CounterVec)
	}
	return c.WithLabelValues("http")
}
