package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"duet/httpapi"
	"duet/signaling"
)

// A config holds the settings, in the order of the table that duet -h prints. The tags say all there is
// to say of each: env its variable, envDefault its default, min and max its bounds, oneof its possible
// values, desc one line for people. The types of settings.go check themselves.
type config struct {
	Addr      listenAddr `env:"DUET_ADDR" envDefault:":8080" desc:"where the page and the WebSocket are served, host:port"`
	AdminAddr adminAddr  `env:"DUET_ADMIN_ADDR" envDefault:"127.0.0.1:9091" desc:"where the operator's /metrics and /debug/pprof/ are served, host:port, or off; keep it private"`
	BasePath  basePath   `env:"DUET_BASE_PATH" desc:"path that a proxy forwards here without cutting it off, such as /duet"`

	TLSCert            filePath         `env:"DUET_TLS_CERT" desc:"file with the certificate and its chain (PEM): DUET_ADDR is served over https; read again when it changes"`
	TLSKey             filePath         `env:"DUET_TLS_KEY" desc:"file with its key (PEM)"`
	TLSSelfSigned      bool             `env:"DUET_TLS_SELF_SIGNED" envDefault:"false" desc:"true = https with a certificate made here for this machine's names and addresses, for a demo on the local network"`
	TLSSelfSignedNames certificateNames `env:"DUET_TLS_SELF_SIGNED_NAMES" desc:"further names and addresses in it, separated by commas; the first one is announced"`
	TLSACMEDomain      acmeDomains      `env:"DUET_TLS_ACME_DOMAIN" desc:"host names for which an ACME authority is asked for certificates, separated by commas"`
	TLSACMEURL         acmeURL          `env:"DUET_TLS_ACME_URL" desc:"the authority's directory; unset = Let's Encrypt's"`
	TLSACMECA          filePath         `env:"DUET_TLS_ACME_CA" desc:"file with the root that the directory's own certificate comes from (PEM); unset = the system's roots"`
	TLSHSTS            string           `env:"DUET_TLS_HSTS" envDefault:"auto" oneof:"auto,on,off" desc:"have browsers use nothing but https for this host name for 30 days; auto = with DUET_TLS_ACME_DOMAIN"`
	HTTPRedirectAddr   redirectAddr     `env:"DUET_HTTP_REDIRECT_ADDR" envDefault:"auto" desc:"where http is redirected to https, host:port, or off; auto = :80 with DUET_TLS_ACME_DOMAIN, else off"`
	DataDir            filePath         `env:"DUET_DATA_DIR" desc:"folder for certificates that are made or obtained, and for an embedded NATS server's files; unset = duet in the user's configuration folder"`

	AllowedOrigins origins  `env:"DUET_ALLOWED_ORIGINS" desc:"origins whose pages may connect, scheme://host[:port], separated by commas; unset = only the page's own, set = only those listed"`
	AllowedHosts   hosts    `env:"DUET_ALLOWED_HOSTS" desc:"Host values that are answered, host[:port], separated by commas; unset = any"`
	TrustedProxies prefixes `env:"DUET_TRUSTED_PROXIES" desc:"proxies whose X-Forwarded-For is believed, as CIDRs, separated by commas; unset = nobody's"`

	RoomCapacity int           `env:"DUET_ROOM_CAPACITY" envDefault:"2" min:"2" max:"8" desc:"seats in a room"`
	MaxRooms     autoInt       `env:"DUET_MAX_ROOMS" envDefault:"auto" min:"1" max:"10000000" desc:"rooms at once; auto = as many as connections, so that everybody may wait alone"`
	Grace        time.Duration `env:"DUET_GRACE" envDefault:"30s" min:"100ms" max:"10m" desc:"how long a seat outlives its lost connection"`

	JoinTimeout     time.Duration `env:"DUET_JOIN_TIMEOUT" envDefault:"60s" min:"100ms" max:"10m" desc:"how long a connection may be in no room"`
	PingInterval    time.Duration `env:"DUET_PING_INTERVAL" envDefault:"20s" min:"100ms" max:"10m" desc:"time between pings; below the idle timeout of every proxy on the way"`
	PongTimeout     time.Duration `env:"DUET_PONG_TIMEOUT" envDefault:"10s" min:"100ms" max:"10m" desc:"how long a ping's answer may take"`
	WriteTimeout    time.Duration `env:"DUET_WRITE_TIMEOUT" envDefault:"10s" min:"100ms" max:"10m" desc:"how long one write may take"`
	MessageTimeout  time.Duration `env:"DUET_MESSAGE_TIMEOUT" envDefault:"10s" min:"100ms" max:"10m" desc:"how long a message may take from its first byte to its last"`
	MaxMessageBytes int           `env:"DUET_MAX_MESSAGE_BYTES" envDefault:"65536" min:"4096" max:"65536" desc:"bytes in one message"`

	MessageRate         int     `env:"DUET_MESSAGE_RATE" envDefault:"50" min:"1" max:"1000000" desc:"messages a second and connection"`
	MessageBurst        int     `env:"DUET_MESSAGE_BURST" envDefault:"200" min:"1" max:"1000000" desc:"messages a connection may send at once"`
	JoinRate            int     `env:"DUET_JOIN_RATE" envDefault:"60" min:"1" max:"100000000" desc:"joins a minute and address (IPv6: /64)"`
	MaxConnections      autoInt `env:"DUET_MAX_CONNECTIONS" envDefault:"auto" min:"1" max:"10000000" desc:"connections at once; auto = from the file-descriptor limit"`
	MaxConnectionsPerIP int     `env:"DUET_MAX_CONNECTIONS_PER_IP" envDefault:"100" min:"1" max:"10000000" desc:"WebSockets at once from one address (IPv6: /64); of other connections as many, or 32"`

	STUN       stunURL    `env:"DUET_STUN" envDefault:"stun:stun.l.google.com:19302" desc:"STUN server that browsers ask for their public address, or off"`
	ICEServers iceServers `env:"DUET_ICE_SERVERS" secret:"true" desc:"further STUN and TURN servers, a JSON array of RTCIceServer"`

	TurnAddr       listenAddr    `env:"DUET_TURN_ADDR" desc:"where a relay of its own (TURN, STUN) listens by UDP and TCP, and by TLS where https has a certificate, host:port, such as :3478; unset = no relay"`
	TurnTLSAddr    listenAddr    `env:"DUET_TURN_TLS_ADDR" desc:"where it listens by TLS alone, host:port, such as :5349; unset = not at all"`
	TurnPublicIP   publicIP      `env:"DUET_TURN_PUBLIC_IP" envDefault:"auto" desc:"IPv4 address at which clients reach the relay; auto = the one listened on, else this machine's own"`
	TurnPorts      portRange     `env:"DUET_TURN_PORTS" envDefault:"49152-65535" desc:"UDP ports of relayed addresses, first-last; the firewall has to let them in"`
	TurnUserQuota  int           `env:"DUET_TURN_USER_QUOTA" envDefault:"50" min:"1" max:"1000" desc:"relayed addresses of one client at once"`
	TurnTotalQuota autoInt       `env:"DUET_TURN_TOTAL_QUOTA" envDefault:"auto" min:"1" max:"64512" desc:"relayed addresses at once; auto = from ports and the file-descriptor limit"`
	TurnTTL        time.Duration `env:"DUET_TURN_TTL" envDefault:"12h" min:"1m" max:"168h" desc:"how long credentials for the relay hold; clients get new ones in time"`
	TurnRealm      turnRealm     `env:"DUET_TURN_REALM" envDefault:"duet" desc:"realm of the relay's credentials"`
	TurnURLs       turnURLs      `env:"DUET_TURN_URLS" desc:"URLs of the relay that clients are told, separated by commas; unset = those of the relay of its own"`
	TurnSecret     turnSecret    `env:"DUET_TURN_SECRET" secret:"true" desc:"what an external relay has as static-auth-secret, at least 24 bytes; unset = one made at each start"`
	TurnAllowPeers peerPrefixes  `env:"DUET_TURN_ALLOW_PEERS" desc:"internal addresses that the relay's clients may reach all the same, as CIDRs, separated by commas; dangerous"`

	AuthSecret   authSecret `env:"DUET_AUTH_SECRET" secret:"true" desc:"asks for a token to join, signed with this (HS256), at least 32 bytes; unset = everybody may join"`
	AuthJWKSURL  jwksURL    `env:"DUET_AUTH_JWKS_URL" desc:"asks for a token to join, signed with a key of the set found here (RS256, ES256, EdDSA); https, or http on loopback"`
	AuthAudience claimText  `env:"DUET_AUTH_AUDIENCE" desc:"aud that a token has to name; unset = any"`
	AuthIssuer   claimText  `env:"DUET_AUTH_ISSUER" desc:"iss that a token has to have; unset = any"`

	AdminToken    adminToken    `env:"DUET_ADMIN_TOKEN" secret:"true" desc:"opens the operator's API on DUET_ADMIN_ADDR, at least 20 characters; unset = it is off"`
	WebhookURL    webhookURL    `env:"DUET_WEBHOOK_URL" secret:"true" desc:"where events of rooms are posted, http or https"`
	WebhookSecret webhookSecret `env:"DUET_WEBHOOK_SECRET" secret:"true" desc:"signs them (Standard Webhooks): whsec_ and base64, or 24 to 64 bytes"`

	NATSURL       natsURLs      `env:"DUET_NATS_URL" secret:"true" desc:"NATS servers by which several nodes are one, separated by commas; unset = this node stands alone"`
	NATSCredsFile filePath      `env:"DUET_NATS_CREDS_FILE" desc:"file with this node's credentials for NATS (JWT and seed)"`
	NATSNKeyFile  filePath      `env:"DUET_NATS_NKEY_FILE" desc:"file with its nkey seed for NATS, where there is no JWT"`
	NATSCAFile    filePath      `env:"DUET_NATS_CA_FILE" desc:"file with the root that the NATS servers' certificates come from (PEM); unset = the system's roots"`
	NATSCertFile  filePath      `env:"DUET_NATS_CERT_FILE" desc:"file with this node's own certificate for NATS (PEM), where the servers ask for one"`
	NATSKeyFile   filePath      `env:"DUET_NATS_KEY_FILE" desc:"file with its key (PEM)"`
	NATSPrefix    word          `env:"DUET_NATS_PREFIX" envDefault:"duet" desc:"beginning of all names in NATS: clusters with different ones share an account"`
	NATSReplicas  int           `env:"DUET_NATS_REPLICAS" envDefault:"3" min:"1" max:"5" desc:"NATS servers that keep who owns which room: 3 or 5; 1 for development"`
	NATSBuckets   int           `env:"DUET_NATS_BUCKETS" envDefault:"1" min:"1" max:"64" desc:"buckets that rooms are spread over; the same on all nodes"`
	NATSCreate    bool          `env:"DUET_NATS_CREATE" envDefault:"true" desc:"make the buckets that are missing; false = the operator does"`
	NATSEmbed     listenAddr    `env:"DUET_NATS_EMBED" desc:"in place of DUET_NATS_URL: where a NATS server inside this process listens for those of the other nodes, host:port, such as :6222"`
	NATSRoutes    routes        `env:"DUET_NATS_EMBED_ROUTES" desc:"where the servers of all three (or five) nodes reach each other, this one included, host:port, separated by commas"`
	NATSSecret    natsSecret    `env:"DUET_NATS_EMBED_SECRET" secret:"true" desc:"what lets them in, the same on all of them, at least 20 bytes"`
	NodeID        word          `env:"DUET_NODE_ID" desc:"this node's name in a cluster; unset = the host's. Each start adds something random"`
	Lease         time.Duration `env:"DUET_LEASE" envDefault:"10s" min:"1s" max:"5m" desc:"how long a node of a cluster may be silent until its rooms are taken over; the same on all nodes"`
	Fence         time.Duration `env:"DUET_FENCE" envDefault:"8s" min:"500ms" max:"5m" desc:"how long it goes on itself without its lease renewed; then its rooms freeze; the same on all nodes"`
	Renew         time.Duration `env:"DUET_RENEW" envDefault:"2s" min:"100ms" max:"1m" desc:"how often it renews its lease; the same on all nodes"`
	FrozenClose   time.Duration `env:"DUET_FROZEN_CLOSE" envDefault:"10s" min:"100ms" max:"5m" desc:"how long clients wait for a frozen node, and up to half as much again, before they are sent to another"`
	Recover       time.Duration `env:"DUET_RECOVER" envDefault:"5s" min:"100ms" max:"5m" desc:"how long a room that was taken over keeps its seats for those who come back"`

	Drain     time.Duration `env:"DUET_DRAIN" envDefault:"10s" min:"100ms" max:"10m" desc:"how long the end may take after SIGINT or SIGTERM"`
	LogLevel  string        `env:"DUET_LOG_LEVEL" envDefault:"info" oneof:"debug,info,warn,error" desc:"what is logged"`
	LogFormat string        `env:"DUET_LOG_FORMAT" envDefault:"auto" oneof:"auto,text,json" desc:"auto = text on a terminal, else json"`
}

// parseConfig reads the settings from environ, a list as os.Environ gives it. Its error names every
// faulty variable on a line of its own. descriptors is the limit of open files.
func parseConfig(environ []string, descriptors int) (config, error) {
	var c config
	variables := ownVariables(environ)
	faults := readSecretFiles(variables, c.settings())
	unparsed := make(map[string]error) // by field
	if err := env.ParseWithOptions(&c, env.Options{Environment: variables}); err != nil {
		var all env.AggregateError
		if !errors.As(err, &all) {
			return c, err
		}
		for _, err := range all.Errors {
			var one env.ParseError
			if !errors.As(err, &one) {
				return c, err
			}
			unparsed[one.Name] = one.Err
		}
	}
	for _, s := range c.settings() {
		if err := s.check(unparsed[s.field]); err != nil {
			faults = append(faults, s.fault(variables[s.name], err))
		}
	}
	if len(faults) > 0 {
		return c, errors.Join(faults...)
	}
	return c, c.settle(descriptors)
}

const (
	ownDescriptors   = 32      // the process's own: standard streams, listeners, poller, logs
	adminConnections = 16      // at once on the operator's listener
	pageConnections  = 1024    // beside the WebSockets, to fetch the page or be told 503; fewer where descriptors are few
	autoConnections  = 1000000 // auto goes no higher, however many descriptors there are

	defaultDescriptors = 16384 // taken as the limit of open files where the system names none
)

// settle gives the settings left on auto their values and checks what depends on the machine.
func (c *config) settle(descriptors int) error {
	if err := c.settleTLS(); err != nil {
		return err
	}
	if err := c.settleRelay(descriptors); err != nil {
		return err
	}
	usable := descriptors - ownDescriptors - adminConnections - c.redirectDescriptors() - c.relayDescriptors()
	if c.MaxConnections == 0 {
		c.MaxConnections = autoInt(max(1, min(usable-min(pageConnections, usable/10), autoConnections)))
	}
	if int(c.MaxConnections) >= usable {
		return fmt.Errorf("DUET_MAX_CONNECTIONS=%d: must be below %d, since this process may open %d files: lower it, or raise the limit (ulimit -n)",
			c.MaxConnections, usable, descriptors)
	}
	if c.MaxRooms == 0 {
		c.MaxRooms = c.MaxConnections
	}
	if err := c.checkCluster(); err != nil {
		return err
	}
	return c.checkOversight()
}

// listenLimit returns how many connections the public listener holds at once: the WebSockets and some
// beside them, so that the one too many is answered 503 while descriptors never run out.
func (c *config) listenLimit(descriptors int) int {
	return min(int(c.MaxConnections)+pageConnections, descriptors-ownDescriptors-adminConnections-c.redirectDescriptors()-c.relayDescriptors())
}

func (c *config) hub() signaling.Config {
	return signaling.Config{
		RoomCapacity:    c.RoomCapacity,
		MaxRooms:        int(c.MaxRooms),
		Grace:           c.Grace,
		MessageRate:     float64(c.MessageRate),
		MessageBurst:    c.MessageBurst,
		MaxMessageBytes: c.MaxMessageBytes,
		ICEServers:      c.ICEServers.with(c.STUN),
	}
}

func (c *config) api() httpapi.Config {
	return httpapi.Config{
		BasePath:            string(c.BasePath),
		AllowedOrigins:      c.AllowedOrigins,
		AllowedHosts:        c.AllowedHosts,
		TrustedProxies:      c.TrustedProxies,
		MaxConnections:      int(c.MaxConnections),
		MaxConnectionsPerIP: c.MaxConnectionsPerIP,
		JoinRate:            c.JoinRate,
		JoinTimeout:         c.JoinTimeout,
		PingInterval:        c.PingInterval,
		PongTimeout:         c.PongTimeout,
		WriteTimeout:        c.WriteTimeout,
		MessageTimeout:      c.MessageTimeout,
		MaxMessageBytes:     c.MaxMessageBytes,
	}
}

// A setting is one field of config with its tags.
type setting struct {
	field, name, standard, desc string
	min, max                    string // "" = no bounds
	oneof                       []string
	secret                      bool
	value                       reflect.Value
}

// settings lists c's fields in order.
func (c *config) settings() []setting {
	v := reflect.ValueOf(c).Elem()
	list := make([]setting, v.NumField())
	for i := range list {
		f := v.Type().Field(i)
		s := setting{field: f.Name, name: f.Tag.Get("env"), standard: f.Tag.Get("envDefault"), desc: f.Tag.Get("desc"),
			min: f.Tag.Get("min"), max: f.Tag.Get("max"), secret: f.Tag.Get("secret") != "", value: v.Field(i)}
		if one := f.Tag.Get("oneof"); one != "" {
			s.oneof = strings.Split(one, ",")
		}
		list[i] = s
	}
	return list
}

// check says what is wrong with the value of s, where err is what its parser said.
func (s *setting) check(err error) error {
	switch v := s.value.Interface().(type) {
	case time.Duration:
		low, _ := time.ParseDuration(s.min)
		high, _ := time.ParseDuration(s.max)
		if err != nil || v < low || v > high {
			return fmt.Errorf("must be a duration from %s to %s, such as 1.5s", s.min, s.max)
		}
	case int, autoInt:
		if n := s.value.Int(); err != nil || s.outside(n) {
			word := ""
			if _, auto := v.(autoInt); auto {
				word = "auto or "
			}
			return fmt.Errorf("must be %sa whole number from %s to %s", word, s.min, s.max)
		}
	case bool:
		if err != nil {
			return errors.New("must be true or false")
		}
	case string:
		if !slices.Contains(s.oneof, v) {
			return fmt.Errorf("must be one of %s", strings.Join(s.oneof, ", "))
		}
	}
	return err
}

// outside reports whether n is out of bounds. In an autoInt 0 stands for auto.
func (s *setting) outside(n int64) bool {
	low, _ := strconv.ParseInt(s.min, 10, 64)
	high, _ := strconv.ParseInt(s.max, 10, 64)
	return n > high || n < low && (n != 0 || s.value.Type() != reflect.TypeFor[autoInt]())
}

// fault is the line for a person who set s to given.
func (s *setting) fault(given string, err error) error {
	if s.secret {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return fmt.Errorf("%s=%q: %w", s.name, given, err)
}

// usage is the text of duet -h: one line for each variable with its name, default and meaning.
func usage() string {
	var b strings.Builder
	b.WriteString("duet: WebRTC signaling server with its own page\n\n" +
		"usage: duet [-h | -version]\n" +
		"       duet token -room demo   prints a token to join with, and an invite link (duet token -h)\n" +
		"       duet doctor [URL]       asks a running duet what goes wrong most often (duet doctor -h)\n" +
		"       duet health             asks the one at DUET_ADDR whether it lives, for health checks\n\n" +
		"It is set up by environment variables (default in the second column, - = unset).\n" +
		"An empty variable counts as unset. Durations are written 500ms, 30s, 2m.\n" +
		"A secret (marked *) may also come from a file: its variable with _FILE behind it names the path.\n\n")
	settings := new(config).settings()
	var name, standard int // column widths
	for _, s := range settings {
		name, standard = max(name, len(s.name)), max(standard, len(s.standard))
	}
	for _, s := range settings {
		mark := ""
		if s.secret {
			mark = "* "
		}
		fmt.Fprintf(&b, "%-*s  %-*s  %s\n", name, s.name, standard, orDash(s.standard), mark+s.desc+s.bounds())
	}
	return b.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// bounds is the end of a line of usage.
func (s *setting) bounds() string {
	switch {
	case s.min != "":
		return fmt.Sprintf(" (%s to %s)", s.min, s.max)
	case s.oneof != nil:
		return fmt.Sprintf(" (%s)", strings.Join(s.oneof, ", "))
	}
	return ""
}

// LogValue gives the settings in effect, without secrets, for the log.
func (c *config) LogValue() slog.Value {
	var attrs []slog.Attr
	for _, s := range c.settings() {
		attrs = append(attrs, slog.String(s.name, fmt.Sprint(s.value.Interface())))
	}
	return slog.GroupValue(attrs...)
}

// ownVariables returns those of environ that begin with DUET_.
func ownVariables(environ []string) map[string]string {
	variables := env.ToMap(environ)
	maps.DeleteFunc(variables, func(name, _ string) bool { return !strings.HasPrefix(name, "DUET_") })
	return variables
}

// unknownSettings lists the variables in environ that begin with DUET_ and mean nothing, each with the
// name that was probably meant, "" where none is near.
func unknownSettings(environ []string) map[string]string {
	known := make(map[string]bool)
	for _, s := range new(config).settings() {
		known[s.name] = true
		if s.secret {
			known[s.name+fileSuffix] = true
		}
	}
	unknown := make(map[string]string)
	for name := range ownVariables(environ) {
		if !known[name] {
			unknown[name] = nearest(name, slices.Sorted(maps.Keys(known)))
		}
	}
	return unknown
}

// nearest returns the one of names that fewest edits turn into name, "" when all need more than a third
// of name's length behind the prefix.
func nearest(name string, names []string) string {
	best, least := "", math.MaxInt
	for _, n := range names {
		if d := editDistance(name, n); d < least {
			best, least = n, d
		}
	}
	if least > max(2, (len(name)-len("DUET_"))/3) {
		return ""
	}
	return best
}

// editDistance counts the bytes to insert, delete or replace to make b out of a (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
