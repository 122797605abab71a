package httpapi

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5/middleware"
)

// logAccess logs each request at debug level. Query strings are left out: people paste tokens into them.
func (a *API) logAccess(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.log.Enabled(r.Context(), slog.LevelDebug) {
			next.ServeHTTP(w, r)
			return
		}
		start := time.Now()
		seen := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		defer func() {
			a.log.LogAttrs(r.Context(), slog.LevelDebug, "request",
				slog.String("method", r.Method),
				slog.String("path", r.URL.Path),
				slog.Int("status", seen.Status()),
				slog.Int("bytes", seen.BytesWritten()),
				slog.Duration("took", time.Since(start)),
				slog.String("peer", r.RemoteAddr))
		}()
		next.ServeHTTP(seen, r)
	})
}
