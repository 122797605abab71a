package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// An originPolicy says which pages may open a WebSocket here. Browsers let any page try and leave it to
// the server to look at Origin (RFC 6455, section 10.2).
type originPolicy struct {
	listed map[string]bool // canonical; nil = the page's own origin only
}

func newOriginPolicy(origins []string) originPolicy {
	if len(origins) == 0 {
		return originPolicy{}
	}
	p := originPolicy{make(map[string]bool)}
	for _, o := range origins {
		if canonical, err := ParseOrigin(o); err == nil {
			p.listed[canonical] = true
		}
	}
	return p
}

// allows reports whether the page at origin may connect to host, the request's Host. With a list the
// whole origin has to be in it. Without one, host and port must be the request's own, and the scheme
// https where the request came over TLS; else it is left out, because behind a proxy that ends TLS the
// server cannot know it.
func (p originPolicy) allows(origin, host string, secure bool) bool {
	canonical, err := ParseOrigin(origin)
	if err != nil {
		return false
	}
	if p.listed != nil {
		return p.listed[canonical]
	}
	scheme, own, _ := strings.Cut(canonical, "://")
	name, port, err := splitHost(host)
	if err != nil || defaultPort(scheme) == "" || secure && scheme != "https" {
		return false
	}
	if port != "" && port != defaultPort(scheme) {
		name += ":" + port
	}
	return own == name
}

// checkOrigin refuses handshakes from pages that may not connect. A request without Origin does not
// come from a page and passes.
func (a *API) checkOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origins := r.Header["Origin"]
		if len(origins) == 0 || len(origins) == 1 && a.origins.allows(origins[0], r.Host, r.TLS != nil) {
			next.ServeHTTP(w, r)
			return
		}
		a.refuse(w, &refusal{status: http.StatusForbidden, reason: "origin", message: fmt.Sprintf(
			"Origin %q may not connect here (Host %q). Add it to DUET_ALLOWED_ORIGINS, as scheme://host[:port], "+
				"or let the proxy forward the Host header unchanged.", strings.Join(origins, ", "), r.Host)})
	})
}

// checkHost refuses requests for a host that is not served here, which is how DNS rebinding arrives. An
// entry without a port stands for every port.
func (a *API) checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(a.hosts) == 0 || a.answersTo(r.Host) {
			next.ServeHTTP(w, r)
			return
		}
		a.refuse(w, &refusal{status: http.StatusForbidden, reason: "host", message: fmt.Sprintf(
			"Host %q is not served here (Origin %q). Add it to DUET_ALLOWED_HOSTS.", r.Host, r.Header.Get("Origin"))})
	})
}

func (a *API) answersTo(host string) bool {
	name, _, err := splitHost(host)
	if err != nil {
		return false
	}
	whole, _ := ParseHost(host)
	return slices.Contains(a.hosts, name) || slices.Contains(a.hosts, whole)
}

// ParseOrigin returns the canonical form of an origin as browsers send it (RFC 6454, section 6.2):
// scheme://host[:port] in lower case, without the scheme's default port; "null" stands for itself. What
// an origin does not have (a path, a user, white space, letters beyond ASCII) is an error.
func ParseOrigin(s string) (string, error) {
	if s == "null" {
		return s, nil
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !consistsOf(scheme, alphanumerics+"+-.") {
		return "", errors.New("it is not scheme://host or scheme://host:port")
	}
	scheme = strings.ToLower(scheme)
	host, port, err := splitHost(rest)
	if err != nil {
		return "", err
	}
	if port != "" && port != defaultPort(scheme) {
		host += ":" + port
	}
	return scheme + "://" + host, nil
}

// ParseHost returns the canonical form of a Host value: host[:port] in lower case.
func ParseHost(s string) (string, error) {
	host, port, err := splitHost(s)
	if err == nil && port != "" {
		host += ":" + port
	}
	return host, err
}

const alphanumerics = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

// splitHost takes host[:port] apart: the host in lower case, an IPv6 address in brackets and in its
// shortest form; the port without leading zeros, "" where there is none.
func splitHost(s string) (host, port string, err error) {
	host = s
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		n, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil || n == 0 {
			return "", "", fmt.Errorf("%q is not a port", s[i+1:])
		}
		host, port = s[:i], strconv.FormatUint(n, 10)
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !addr.Is6() || addr.Zone() != "" || !strings.HasSuffix(host, "]") {
			return "", "", fmt.Errorf("%q is not an IPv6 address in brackets", host)
		}
		return "[" + addr.String() + "]", port, nil
	}
	if !consistsOf(host, alphanumerics+"-._") {
		return "", "", fmt.Errorf("%q is not a host name (letters beyond ASCII: write them in punycode, xn--...)", host)
	}
	return strings.ToLower(host), port, nil
}

// consistsOf reports whether s has at least one byte and only bytes of chars.
func consistsOf(s, chars string) bool {
	return s != "" && strings.Trim(s, chars) == ""
}

func defaultPort(scheme string) string {
	switch scheme {
	case "http":
		return "80"
	case "https":
		return "443"
	}
	return ""
}
