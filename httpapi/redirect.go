package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// RedirectToHTTPS answers everything with the same address under https, for a listener without TLS.
// httpsPort is where that is served. hosts, where there are any, are the Host values that are answered,
// host[:port]; their ports do not matter here.
//
// A client that names another port than it arrived at comes through a mapping of ports, such as a
// container's: nobody here knows the other mapping, and 443 is taken for it.
func RedirectToHTTPS(httpsPort uint16, hosts []string) http.Handler {
	var names []string
	for _, h := range hosts {
		name, _, _ := splitHost(h)
		names = append(names, name)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, port, err := splitHost(r.Host)
		switch {
		case err != nil:
			plainText(w, http.StatusBadRequest, "This is served over https. Host is missing or malformed, so it cannot be said where.")
			return
		case len(names) > 0 && !slices.Contains(names, name):
			plainText(w, http.StatusForbidden, "Host "+strconv.Quote(r.Host)+" is not served here.")
			return
		}
		at := name
		if p := portOverHTTPS(r, port, httpsPort); p != "443" {
			at += ":" + p
		}
		path := r.URL.EscapedPath()
		if path == "" || path[0] != '/' { // "OPTIONS *"
			path = "/"
		}
		if r.URL.RawQuery != "" {
			path += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", "https://"+at+path)
		plainText(w, http.StatusTemporaryRedirect, "This is served over https: https://"+at+path+
			"\nA WebSocket connects with wss: instead of ws:.")
	})
}

// portOverHTTPS is the port under which r's client finds the https listener, which has httpsPort. port
// is what its Host says.
func portOverHTTPS(r *http.Request, port string, httpsPort uint16) string {
	if port == "" {
		port = "80"
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local != nil {
		at, err := netip.ParseAddrPort(local.String())
		if err == nil && strconv.Itoa(int(at.Port())) != port {
			return "443"
		}
	}
	return strconv.Itoa(int(httpsPort))
}

// StrictTransport has browsers use nothing but https for this host name for maxAge from each visit on,
// on every port (HSTS, RFC 6797). It is said over TLS only (section 7.2).
func StrictTransport(maxAge time.Duration, next http.Handler) http.Handler {
	value := "max-age=" + strconv.FormatInt(int64(maxAge.Seconds()), 10)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			w.Header().Set("Strict-Transport-Security", value)
		}
		next.ServeHTTP(w, r)
	})
}
