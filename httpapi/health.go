package httpapi

import (
	"net/http"

	"github.com/go-chi/chi/v5"
)

// healthRoutes adds the two questions of an orchestrator: is the process alive (/healthz), and should
// it get traffic (/readyz). Neither looks at Host: probes ask by address.
func (a *API) healthRoutes(r chi.Router) {
	for path, answer := range map[string]http.HandlerFunc{"/healthz": a.healthz, "/readyz": a.readyz} {
		r.Get(path, answer)
		r.Head(path, answer)
	}
}

func (a *API) healthz(w http.ResponseWriter, _ *http.Request) {
	plainText(w, http.StatusOK, "ok")
}

func (a *API) readyz(w http.ResponseWriter, _ *http.Request) {
	if a.draining.Load() {
		plainText(w, http.StatusServiceUnavailable, "draining")
		return
	}
	if !a.hub.Valid() {
		plainText(w, http.StatusServiceUnavailable, "frozen: this node cannot reach the others")
		return
	}
	plainText(w, http.StatusOK, "ready")
}
