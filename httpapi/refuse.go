package httpapi

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// A refusal is a request turned away before it costs anything. Its message is for the person at the
// other end and says what to change.
type refusal struct {
	status     int    // HTTP status
	reason     string // metric label: one of origin, host, connections, address, draining
	message    string
	retryAfter int // seconds; 0 = it makes no sense to try again
}

func (r *refusal) Error() string { return r.message }

// refuse answers with why, counts it, and gives the connection up: the descriptor is wanted elsewhere.
func (a *API) refuse(w http.ResponseWriter, why *refusal) {
	a.refused.WithLabelValues(why.reason).Inc()
	w.Header().Set("Connection", "close")
	if why.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(why.retryAfter))
	}
	plainText(w, why.status, why.message)
}

var errDraining = &refusal{http.StatusServiceUnavailable, "draining", "The server is shutting down: try again in a moment.", 1}

// refuseWhileDraining keeps new WebSockets off a server that is about to end.
func (a *API) refuseWhileDraining(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.draining.Load() {
			a.refuse(w, errDraining)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// plainText answers with a text for people. It is never cached and never taken for anything but text.
func plainText(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

func newRefusedCounter(reg prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_http_refused_total",
		Help: "WebSocket handshakes and page requests turned away, by reason.",
	}, []string{"reason"})
	for _, reason := range []string{"origin", "host", "connections", "address", "draining"} {
		c.WithLabelValues(reason)
	}
	reg.MustRegister(c)
	return c
}
