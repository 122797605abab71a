package httpapi

import (
	"net/http"
	"strings"
)

// contentSecurityPolicy lets the page load its own modules, styles and pictures, open its own
// WebSocket ('self' covers ws: and wss: of the same host), and nothing else: no inline script or style,
// no frames around it, no string ever turned into markup or code.
var contentSecurityPolicy = strings.Join([]string{
	"default-src 'none'",
	"script-src 'self'",
	"style-src 'self'",
	"img-src 'self' data: blob:",
	"media-src 'self' blob: mediastream:",
	"connect-src 'self'",
	"manifest-src 'self'",
	"base-uri 'none'",
	"form-action 'none'",
	"frame-ancestors 'none'",
	"require-trusted-types-for 'script'",
	"trusted-types 'none'",
}, "; ")

// permissionsPolicy keeps what a call needs for the page itself: frames and other origins get none of it.
const permissionsPolicy = "camera=(self), microphone=(self), display-capture=(self), " +
	"fullscreen=(self), picture-in-picture=(self), screen-wake-lock=(self)"

// securePage adds the headers that confine the page.
func securePage(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("Permissions-Policy", permissionsPolicy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}
