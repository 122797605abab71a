package httpapi

import (
	"net/http"
	"net/netip"

	"github.com/go-chi/chi/v5/middleware"
)

// clientIP returns the middleware that reads X-Forwarded-For where the connection comes from one of
// proxies. Without proxies the header is never read, and there is nothing to do.
func clientIP(proxies []netip.Prefix) func(http.Handler) http.Handler {
	if len(proxies) == 0 {
		return func(next http.Handler) http.Handler { return next }
	}
	cidrs := make([]string, len(proxies))
	for i, p := range proxies {
		cidrs[i] = p.String()
	}
	return middleware.ClientIPFromXFF(cidrs...)
}

// clientAddr returns the address that r's limits are counted under: the client's as a trusted proxy
// gave it, else the connection's own.
func clientAddr(r *http.Request) netip.Addr {
	addr := middleware.GetClientIPAddr(r.Context())
	if !addr.IsValid() {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr)
		addr = peer.Addr()
	}
	return shareOf(addr)
}

// shareOf returns what addr counts as. An IPv4 address in IPv6 form is folded; of an IPv6 address the
// first 64 bits count, since one household or machine has all of the rest.
func shareOf(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() {
		return addr
	}
	prefix, _ := addr.Prefix(64) // 64 bits fit an IPv6 address: no error
	return prefix.Addr()
}
