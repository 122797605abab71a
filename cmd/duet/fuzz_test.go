package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"duet/httpapi"
)

// FuzzSettings reads settings of any name and value: parseConfig never panics; its error has one line
// for each faulty variable and none for the others, and tells no secret; what it accepts is within
// bounds, works in the packages below and, printed, reads as the same again.
//
// Each line of the input is one variable: the first byte says which, the rest is its value.
func FuzzSettings(f *testing.F) {
	names := settingNames()
	line := func(name, value string) string { return string('A'+rune(slices.Index(names, name))) + value }
	for _, lines := range [][]string{
		{line("DUET_ADDR", "[::1]:8080"), line("DUET_ADMIN_ADDR", "off"), line("DUET_BASE_PATH", "/a/duet/")},
		{line("DUET_ALLOWED_ORIGINS", "HTTPS://App.example:443, http://[::1]:3000,null"), line("DUET_ALLOWED_HOSTS", "a.example,[0::1]:80")},
		{line("DUET_TRUSTED_PROXIES", "10.1.2.3/8, ::ffff:1.2.3.4,fd00::/8,fe80::1%eth0")},
		{line("DUET_GRACE", "1.5s"), line("DUET_PING_INTERVAL", "-1s"), line("DUET_WRITE_TIMEOUT", "9999999h")},
		{line("DUET_ROOM_CAPACITY", "9"), line("DUET_MAX_ROOMS", "auto"), line("DUET_MAX_CONNECTIONS", "0"), line("DUET_JOIN_RATE", "99999999999999999999")},
		{line("DUET_STUN", "stun:stun.example.org:3478"), line("DUET_ICE_SERVERS", `[{"urls":["turn:t.example?transport=tcp"],"username":"u","credential":"s3cret"}]`)},
		{line("DUET_ICE_SERVERS", `[{"urls":"turn:t.example","credential":"s3cret"}]`), line("DUET_LOG_LEVEL", "loud"), line("DUET_LOG_FORMAT", "json")},
		{line("DUET_ICE_SERVERS", `[{"urls":"http://s3cret@t.example"}`), line("DUET_GRACE", "s3cret\x00\xff")},
	} {
		f.Add(strings.Join(lines, "\n"))
	}
	const descriptors = 1 << 30 // no limit of this machine's
	f.Fuzz(func(t *testing.T, input string) {
		variables := make(map[string]string)
		for line := range strings.SplitSeq(input, "\n") {
			if line != "" {
				variables[names[(int(line[0])-'A'+256*len(names))%len(names)]] = line[1:]
			}
		}
		c, err := parseConfig(environ(variables), descriptors)
		var want []string
		for _, name := range slices.Sorted(maps.Keys(variables)) {
			if _, err := parseConfig([]string{name + "=" + variables[name]}, descriptors); err != nil {
				want = append(want, name)
			}
		}
		if got := faulty(err); !slices.Equal(got, want) {
			t.Fatalf("faults reported for %v, want %v: %v", got, want, err)
		}
		delete(variables, "DUET_ICE_SERVERS")
		if strings.Contains(memberName.ReplaceAllString(fmt.Sprint(err), ""), "s3cret") && !strings.Contains(fmt.Sprint(variables), "s3cret") {
			t.Fatalf("a secret was told: %v", err)
		}
		if err == nil {
			checkAccepted(t, c, descriptors)
		}
	})
}

// memberName is where an error names a member that is unknown or wrong: names are told, values not.
var memberName = regexp.MustCompile(`at "(?:[^"\\]|\\.)*"`)

// checkAccepted checks what holds of every accepted config.
func checkAccepted(t *testing.T, c config, descriptors int) {
	printed := make(map[string]string)
	for _, s := range c.settings() {
		if err := s.check(nil); err != nil {
			t.Errorf("%s: %v was accepted: %v", s.name, s.value.Interface(), err)
		}
		if !s.secret {
			printed[s.name] = fmt.Sprint(s.value.Interface())
		}
	}
	if !json.Valid(c.hub().ICEServers) {
		t.Errorf("ICE servers are no JSON: %s", c.hub().ICEServers)
	}
	for _, origin := range c.api().AllowedOrigins {
		if again, err := httpapi.ParseOrigin(origin); err != nil || again != origin {
			t.Errorf("origin %q is not canonical: %q, %v", origin, again, err)
		}
	}
	for _, p := range c.api().TrustedProxies {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			t.Errorf("proxy %v", p)
		}
	}
	if n := c.listenLimit(descriptors); n <= int(c.MaxConnections) {
		t.Errorf("listens to %d for %d connections", n, c.MaxConnections)
	}
	secret := c.ICEServers
	again, err := parseConfig(environ(printed), descriptors)
	if err != nil {
		t.Fatalf("%v was accepted, printed as %v it is not: %v", c, printed, err)
	}
	again.ICEServers = secret
	if fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", c) {
		t.Errorf("%+v\nbecame, printed and read again,\n%+v", c, again)
	}
}

func settingNames() []string {
	var names []string
	for _, s := range new(config).settings() {
		names = append(names, s.name)
	}
	return names
}

func environ(variables map[string]string) []string {
	var list []string
	for name, value := range variables {
		list = append(list, name+"="+value)
	}
	return list
}

// faulty lists the variables at the beginnings of err's lines, sorted.
func faulty(err error) []string {
	if err == nil {
		return nil
	}
	var names []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		end := strings.IndexAny(line, "=:")
		names = append(names, line[:max(end, 0)])
	}
	slices.Sort(names)
	return names
}

// FuzzUnknownSettings: any environment gets an answer, and a suggestion is a setting that is near.
func FuzzUnknownSettings(f *testing.F) {
	for _, name := range []string{"DUET_ADR", "DUET_", "DUET_GRACE", "DUET_ALLOWED_ORIGIN", "duet_addr", "DUET_\xff\x00=", "=DUET_X"} {
		f.Add(name)
	}
	names := settingNames()
	f.Fuzz(func(t *testing.T, name string) {
		for unknown, meant := range unknownSettings([]string{name + "=x", "HOME=/"}) {
			if slices.Contains(names, unknown) || !strings.HasPrefix(unknown, "DUET_") {
				t.Errorf("%q is not unknown", unknown)
			}
			if meant != "" && !slices.Contains(names, meant) {
				t.Errorf("%q for %q is no setting", meant, unknown)
			}
			least := math.MaxInt
			for _, n := range names {
				least = min(least, editDistance(unknown, n))
			}
			if d := editDistance(unknown, meant); meant != "" && (d != least || d != editDistance(meant, unknown)) {
				t.Errorf("%q is %d from %q, the nearest is %d", meant, d, unknown, least)
			}
		}
	})
}

// FuzzParsePrefix: what is taken for a proxy holds addresses as clients have them.
func FuzzParsePrefix(f *testing.F) {
	for _, s := range []string{"10.0.0.1/8", "::ffff:10.0.0.1", "::ffff:0:0/96", "fd00::1/8", "1.2.3.4", "fe80::1%eth0", "0.0.0.0/0", "1.2.3.4/33"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePrefix(s)
		if err != nil {
			return
		}
		if again, err := parsePrefix(p.String()); err != nil || again != p {
			t.Errorf("%q is %v, which is %v, %v", s, p, again, err)
		}
		alone, err := netip.ParseAddr(s)
		if err == nil && !p.Contains(alone.Unmap()) {
			t.Errorf("%v does not hold %v", p, alone)
		}
	})
}
