package httpapi

import (
	"fmt"
	"net/http"
	"strings"
)

// requireUpgrade lets WebSocket handshakes through and explains the endpoint to everything else: 405
// for another method than GET, 426 (RFC 9110, section 15.5.22) for a GET without the upgrade headers,
// which is what a person with a browser or a proxy without the right settings sends.
func requireUpgrade(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", http.MethodGet)
			plainText(w, http.StatusMethodNotAllowed, "A WebSocket handshake is a GET.")
		case !isUpgrade(r):
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			plainText(w, http.StatusUpgradeRequired, explainUpgrade(r))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isUpgrade reports whether r asks for a WebSocket (RFC 6455, section 4.2.1).
func isUpgrade(r *http.Request) bool {
	return r.ProtoAtLeast(1, 1) &&
		hasToken(r.Header["Connection"], "upgrade") &&
		hasToken(r.Header["Upgrade"], "websocket")
}

// hasToken reports whether one of the comma-separated values is token, whatever its case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

func explainUpgrade(r *http.Request) string {
	scheme, remark := "ws", " (wss: where the page is https:)"
	if r.TLS != nil {
		scheme, remark = "wss", ""
	}
	return fmt.Sprintf(`This is a WebSocket endpoint (RFC 6455). It wants a handshake:

  GET %[1]s HTTP/1.1
  Connection: Upgrade
  Upgrade: websocket
  Sec-WebSocket-Version: 13
  Sec-WebSocket-Key: (16 random bytes as base64)

This request came as %[2]s with Connection: %[3]q and Upgrade: %[4]q.

Did your proxy forward Upgrade and Connection? nginx needs:

  proxy_http_version 1.1;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection "upgrade";
  proxy_set_header Host $http_host;

To try it from a terminal%[7]s:

  websocat %[6]s://%[5]s%[1]s
  {"type":"join","room":"demo"}`,
		r.URL.EscapedPath(), r.Proto,
		strings.Join(r.Header["Connection"], ", "), strings.Join(r.Header["Upgrade"], ", "), r.Host, scheme, remark)
}
