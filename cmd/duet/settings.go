package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"duet/httpapi"
)

// The types of settings that check themselves. Their errors complete a line that begins with the
// variable's name and value, and say what is allowed.

// A listenAddr is host:port or :port.
type listenAddr string

func (a *listenAddr) UnmarshalText(text []byte) error {
	_, port, err := net.SplitHostPort(string(text))
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return errors.New("must be host:port or :port with a port from 0 to 65535 (0 = any free one), such as :8080 or [::1]:8080")
	}
	*a = listenAddr(text)
	return nil
}

// An adminAddr is a listenAddr, or "" where the variable says off.
type adminAddr string

func (a *adminAddr) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*a = ""
		return nil
	}
	if err := (*listenAddr)(a).UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, or off", err)
	}
	return nil
}

func (a adminAddr) String() string {
	if a == "" {
		return "off"
	}
	return string(a)
}

// A basePath is "" or "/a/b": no slash at the end.
type basePath string

func (p *basePath) UnmarshalText(text []byte) error {
	s := strings.TrimSuffix(string(text), "/")
	for i, segment := range strings.Split(s, "/") {
		if i == 0 && segment == "" {
			continue
		}
		if i == 0 || segment == "" || segment == "." || segment == ".." || !isPathSegment(segment) {
			return errors.New("must be a path such as /duet: a slash, then letters, digits, - . _ ~ and further slashes")
		}
	}
	*p = basePath(s)
	return nil
}

// isPathSegment reports whether s consists of unreserved characters (RFC 3986, section 2.3).
func isPathSegment(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~", r))
	})
}

// origins are whole origins in canonical form.
type origins []string

func (o *origins) UnmarshalText(text []byte) (err error) {
	*o, err = parseList(text, httpapi.ParseOrigin)
	return describe(err, "must be origins such as https://example.com or http://localhost:3000, separated by commas")
}

func (o origins) String() string { return strings.Join(o, ",") }

// hosts are Host values in canonical form.
type hosts []string

func (h *hosts) UnmarshalText(text []byte) (err error) {
	*h, err = parseList(text, httpapi.ParseHost)
	return describe(err, "must be hosts such as example.com or example.com:8443, separated by commas")
}

func (h hosts) String() string { return strings.Join(h, ",") }

// prefixes are CIDRs. A single address stands for itself.
type prefixes []netip.Prefix

func (p *prefixes) UnmarshalText(text []byte) (err error) {
	*p, err = parseList(text, parsePrefix)
	return describe(err, "must be CIDRs or addresses such as 10.0.0.0/8, 192.0.2.7 or fd00::/8, separated by commas")
}

func (p prefixes) String() string {
	list := make([]string, len(p))
	for i, prefix := range p {
		list[i] = prefix.String()
	}
	return strings.Join(list, ",")
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil || prefix.Addr().Is4In6() { // which no client address would ever match
		return prefix, errors.New("it is not a CIDR")
	}
	return prefix.Masked(), nil
}

// parseList parses the entries of a comma-separated list. White space around an entry is dropped.
func parseList[T any](text []byte, parse func(string) (T, error)) ([]T, error) {
	var list []T
	for entry := range strings.SplitSeq(string(text), ",") {
		entry = strings.TrimSpace(entry)
		v, err := parse(entry)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", entry, err)
		}
		list = append(list, v)
	}
	return list, nil
}

// describe adds to err what is allowed.
func describe(err error, allowed string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s; %w", allowed, err)
}

// An autoInt is a whole number, 0 for auto until config.settle gives it a value.
type autoInt int

func (n *autoInt) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*n = 0
		return nil
	}
	v, err := strconv.Atoi(string(text))
	if v == 0 { // which only auto stands for
		v = -1
	}
	*n = autoInt(v)
	return err
}

// A stunURL is a stun: URL, or "" where the variable says off.
type stunURL string

func (u *stunURL) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "off" {
		*u = ""
		return nil
	}
	if scheme, err := checkICEURL(s); err != nil || scheme != "stun" {
		return errors.New("must be off, or stun:host or stun:host:port, such as stun:stun.example.org:3478")
	}
	*u = stunURL(s)
	return nil
}

func (u stunURL) String() string {
	if u == "" {
		return "off"
	}
	return string(u)
}

// iceServers are what joined carries to browsers beside the STUN server.
type iceServers []iceServer

// An iceServer is an RTCIceServer (WebRTC 1.0, section 4.2.4).
type iceServer struct {
	URLs       iceURLs `json:"urls"`
	Username   string  `json:"username,omitzero"`
	Credential string  `json:"credential,omitzero"`
}

// iceURLs are one URL or a list of them.
type iceURLs []string

// UnmarshalJSON takes a string or an array of strings.
func (u *iceURLs) UnmarshalJSON(data []byte) error {
	if jsontext.Value(data).Kind() == '"' {
		*u = make(iceURLs, 1)
		return json.Unmarshal(data, &(*u)[0])
	}
	return json.Unmarshal(data, (*[]string)(u))
}

// UnmarshalText takes a JSON array of RTCIceServer. Its errors repeat no value: it may be a secret.
func (s *iceServers) UnmarshalText(text []byte) error {
	const allowed = `must be a JSON array such as [{"urls":"turn:turn.example.org:3478","username":"u","credential":"c"}]`
	var list []iceServer
	if err := json.Unmarshal(text, &list, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("%s; %s", allowed, jsonFault(err))
	}
	for i, server := range list {
		if err := server.check(); err != nil {
			return fmt.Errorf("%s; entry %d: %w", allowed, i+1, err)
		}
	}
	*s = list
	return nil
}

// jsonFault says where err arose without quoting the text.
func jsonFault(err error) string {
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("it is not JSON at byte %d", syntax.ByteOffset)
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		return fmt.Sprintf("at %q (byte %d) something is not as it should be: the members are urls, username and credential",
			semantic.JSONPointer, semantic.ByteOffset)
	}
	return "it does not read as that"
}

func (s *iceServer) check() error {
	if len(s.URLs) == 0 {
		return errors.New("urls is missing or empty")
	}
	for i, u := range s.URLs {
		scheme, err := checkICEURL(u)
		if err != nil {
			return fmt.Errorf("URL %d: %w", i+1, err)
		}
		if strings.HasPrefix(scheme, "turn") && (s.Username == "" || s.Credential == "") {
			return fmt.Errorf("URL %d: a TURN server needs username and credential", i+1)
		}
	}
	return nil
}

// checkICEURL checks u against RFC 7064 and RFC 7065 and returns its scheme.
func checkICEURL(u string) (scheme string, err error) {
	scheme, rest, _ := strings.Cut(u, ":")
	rest, query, hasQuery := strings.Cut(rest, "?")
	if !slices.Contains([]string{"stun", "turn", "turns"}, scheme) {
		return "", errors.New("its scheme is none of stun, turn and turns")
	}
	if hasQuery && (scheme == "stun" || query != "transport=udp" && query != "transport=tcp") {
		return "", errors.New("only a TURN URL may end in ?transport=udp or ?transport=tcp")
	}
	if _, err := httpapi.ParseHost(rest); err != nil {
		return "", errors.New("host or host:port is missing or malformed")
	}
	return scheme, nil
}

// with returns the JSON array of the STUN server at stun, unless that is off, and the servers of s.
func (s iceServers) with(stun stunURL) []byte {
	all := slices.Clone(s)
	if stun != "" {
		all = slices.Insert(all, 0, iceServer{URLs: iceURLs{string(stun)}})
	}
	if all == nil {
		return []byte("[]")
	}
	text, err := json.Marshal([]iceServer(all))
	if err != nil {
		panic("ice servers: " + err.Error()) // strings that were read from JSON
	}
	return text
}

// String is the JSON of s with the credentials masked.
func (s iceServers) String() string {
	masked := slices.Clone(s)
	for i := range masked {
		if masked[i].Credential != "" {
			masked[i].Credential = "***"
		}
	}
	return string(masked.with(""))
}
