package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"duet/signaling"
)

func TestDefaults(t *testing.T) {
	c, err := parseConfig([]string{"HOME=/root", "DUET_GRACE="}, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	if c.Addr != ":8080" || c.AdminAddr != "127.0.0.1:9091" || c.RoomCapacity != 2 || c.Grace != 30*time.Second || c.MaxMessageBytes != 65536 {
		t.Errorf("%+v", c)
	}
	if got := string(c.ICEServers.with(c.STUN)); got != `[{"urls":["stun:stun.l.google.com:19302"]}]` {
		t.Errorf("ICE servers: %s", got)
	}
	if c.MaxConnections != 18_928 || c.MaxRooms != c.MaxConnections || c.listenLimit(20_000) != 19_952 {
		t.Errorf("of 20,000 descriptors: %d connections, %d rooms, %d listened to", c.MaxConnections, c.MaxRooms, c.listenLimit(20_000))
	}
}

func TestSettingsReachTheirPackages(t *testing.T) {
	c, err := parseConfig([]string{
		"DUET_BASE_PATH=/a/duet/", "DUET_ALLOWED_ORIGINS= HTTPS://App.example:443 ,http://localhost:3000", "DUET_ALLOWED_HOSTS=Duet.example,[0::1]:80",
		"DUET_TRUSTED_PROXIES=10.1.2.3/8, 192.0.2.7, fd00::/8", "DUET_ROOM_CAPACITY=8", "DUET_MAX_ROOMS=7", "DUET_GRACE=1.5s",
		"DUET_JOIN_TIMEOUT=2s", "DUET_PING_INTERVAL=3s", "DUET_PONG_TIMEOUT=4s", "DUET_WRITE_TIMEOUT=5s", "DUET_MESSAGE_TIMEOUT=6s",
		"DUET_MAX_MESSAGE_BYTES=4096", "DUET_MESSAGE_RATE=11", "DUET_MESSAGE_BURST=12", "DUET_JOIN_RATE=13",
		"DUET_MAX_CONNECTIONS=14", "DUET_MAX_CONNECTIONS_PER_IP=15", "DUET_STUN=off",
		`DUET_ICE_SERVERS=[{"urls":"stun:[2001:db8::1]:3478"},{"urls":["turn:t.example?transport=tcp","turns:t.example:5349"],"username":"u","credential":"c"}]`,
	}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%+v", c.api()), "{BasePath:/a/duet AllowedOrigins:[https://app.example http://localhost:3000] AllowedHosts:[duet.example [::1]:80] "+
		"TrustedProxies:[10.0.0.0/8 192.0.2.7/32 fd00::/8] MaxConnections:14 MaxConnectionsPerIP:15 JoinRate:13 "+
		"JoinTimeout:2s PingInterval:3s PongTimeout:4s WriteTimeout:5s MessageTimeout:6s MaxMessageBytes:4096}"; got != want {
		t.Errorf("httpapi:\n%s\nwant\n%s", got, want)
	}
	hub := c.hub()
	if got, want := string(hub.ICEServers), `[{"urls":["stun:[2001:db8::1]:3478"]},`+
		`{"urls":["turn:t.example?transport=tcp","turns:t.example:5349"],"username":"u","credential":"c"}]`; got != want {
		t.Errorf("ICE servers: %s\nwant %s", got, want)
	}
	hub.ICEServers, hub.Policy = nil, signaling.Policy{}
	if got, want := fmt.Sprintf("%+v", hub), "{RoomCapacity:8 MaxRooms:7 Grace:1.5s MessageRate:11 MessageBurst:12 MaxMessageBytes:4096 ICEServers:[] Policy:{Authorize:<nil> ICEServers:<nil> Events:<nil>} Bus:<nil> FrozenClose:0s Recover:0s}"; got != want {
		t.Errorf("signaling:\n%s\nwant\n%s", got, want)
	}
}

func TestNoICEServers(t *testing.T) {
	c, err := parseConfig([]string{"DUET_STUN=off"}, 1000)
	if err != nil || string(c.hub().ICEServers) != "[]" {
		t.Errorf("%s, %v", c.hub().ICEServers, err)
	}
}

// TestFaults gives every setting values that it must not take, and looks for the line that says so.
func TestFaults(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"DUET_ADDR", "8080", "must be host:port"},
		{"DUET_ADDR", "localhost:http", "must be host:port"},
		{"DUET_ADDR", ":65536", "must be host:port"},
		{"DUET_ADMIN_ADDR", "no", "or off"},
		{"DUET_BASE_PATH", "duet", "must be a path"},
		{"DUET_BASE_PATH", "/a//b", "must be a path"},
		{"DUET_BASE_PATH", "/a/../b", "must be a path"},
		{"DUET_BASE_PATH", "/{a}", "must be a path"},
		{"DUET_ALLOWED_ORIGINS", "*", "must be origins"},
		{"DUET_ALLOWED_ORIGINS", "https://a.example,b.example", `"b.example"`},
		{"DUET_ALLOWED_ORIGINS", "https://a.example/", "must be origins"},
		{"DUET_ALLOWED_ORIGINS", "https://bücher.example", "punycode"},
		{"DUET_ALLOWED_ORIGINS", "https://a.example,", "must be origins"},
		{"DUET_ALLOWED_HOSTS", "https://a.example", "must be hosts"},
		{"DUET_TRUSTED_PROXIES", "10.0.0.0/33", "must be CIDRs"},
		{"DUET_TRUSTED_PROXIES", "proxy", "must be CIDRs"},
		{"DUET_TRUSTED_PROXIES", "::ffff:10.0.0.0/104", "must be CIDRs"},
		{"DUET_ROOM_CAPACITY", "1", "must be a whole number from 2 to 8"},
		{"DUET_ROOM_CAPACITY", "9", "must be a whole number from 2 to 8"},
		{"DUET_ROOM_CAPACITY", "two", "must be a whole number from 2 to 8"},
		{"DUET_MAX_ROOMS", "0", "must be auto or a whole number"},
		{"DUET_MAX_ROOMS", "-5", "must be auto or a whole number"},
		{"DUET_MAX_ROOMS", "1e3", "must be auto or a whole number"},
		{"DUET_GRACE", "30", "must be a duration from 100ms to 10m"},
		{"DUET_GRACE", "-1s", "must be a duration"},
		{"DUET_GRACE", "1h", "must be a duration"},
		{"DUET_JOIN_TIMEOUT", "0s", "must be a duration"},
		{"DUET_PING_INTERVAL", "0", "must be a duration"},
		{"DUET_PONG_TIMEOUT", "x", "must be a duration"},
		{"DUET_WRITE_TIMEOUT", "x", "must be a duration"},
		{"DUET_MESSAGE_TIMEOUT", "x", "must be a duration"},
		{"DUET_MAX_MESSAGE_BYTES", "65537", "from 4096 to 65536"},
		{"DUET_MAX_MESSAGE_BYTES", "64k", "from 4096 to 65536"},
		{"DUET_MESSAGE_RATE", "0", "must be a whole number"},
		{"DUET_MESSAGE_BURST", "0", "must be a whole number"},
		{"DUET_JOIN_RATE", "0", "must be a whole number"},
		{"DUET_MAX_CONNECTIONS", "none", "must be auto or a whole number"},
		{"DUET_MAX_CONNECTIONS", "952", "must be below 952, since this process may open 1000 files"},
		{"DUET_MAX_CONNECTIONS_PER_IP", "0", "must be a whole number"},
		{"DUET_STUN", "stun.example.org", "must be off, or stun:host"},
		{"DUET_STUN", "turn:a.example", "must be off, or stun:host"},
		{"DUET_STUN", "stun://a.example", "must be off, or stun:host"},
		{"DUET_ICE_SERVERS", `hunter2`, "not JSON at byte 0"},
		{"DUET_ICE_SERVERS", `{"urls":"stun:a"}`, "must be a JSON array"},
		{"DUET_ICE_SERVERS", `[{"url":"stun:hunter2"}]`, `at "/0/url"`},
		{"DUET_ICE_SERVERS", `[{"urls":"stun:a","urls":"stun:b"}]`, "not JSON at byte"},
		{"DUET_ICE_SERVERS", `[{"urls":7}]`, `at "/0/urls"`},
		{"DUET_ICE_SERVERS", `[{"urls":[]}]`, "entry 1: urls is missing or empty"},
		{"DUET_ICE_SERVERS", `[{"urls":"stun:a"},{"urls":"https://hunter2"}]`, "entry 2: URL 1: its scheme is none of stun"},
		{"DUET_ICE_SERVERS", `[{"urls":"stun:a?transport=udp"}]`, "only a TURN URL"},
		{"DUET_ICE_SERVERS", `[{"urls":"turn:a?transport=sctp","username":"u","credential":"hunter2"}]`, "only a TURN URL"},
		{"DUET_ICE_SERVERS", `[{"urls":"turn:","username":"u","credential":"hunter2"}]`, "host or host:port"},
		{"DUET_ICE_SERVERS", `[{"urls":"turn:a","username":"hunter2"}]`, "needs username and credential"},
		{"DUET_DRAIN", "x", "must be a duration"},
		{"DUET_LOG_LEVEL", "verbose", "must be one of debug, info, warn, error"},
		{"DUET_LOG_FORMAT", "xml", "must be one of auto, text, json"},
	} {
		t.Run(tt.name+"="+tt.value, func(t *testing.T) {
			_, err := parseConfig([]string{tt.name + "=" + tt.value}, 1000)
			if err == nil {
				t.Fatal("taken")
			}
			line := err.Error()
			if !strings.HasPrefix(line, tt.name) || !strings.Contains(line, tt.want) || strings.Contains(line, "\n") {
				t.Errorf("%s\nlacks %q", line, tt.want)
			}
			if strings.Contains(line, "hunter2") {
				t.Errorf("a secret is repeated: %s", line)
			}
		})
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	_, err := parseConfig([]string{"DUET_ROOM_CAPACITY=9", "DUET_GRACE=soon", "DUET_ADDR=x", "DUET_STUN=off", "DUET_LOG_LEVEL=loud", "DUET_ICE_SERVERS=[1]"}, 1000)
	if err == nil {
		t.Fatal("taken")
	}
	lines := strings.Split(err.Error(), "\n")
	want := []string{`DUET_ADDR="x":`, `DUET_ROOM_CAPACITY="9":`, `DUET_GRACE="soon":`, `DUET_ICE_SERVERS:`, `DUET_LOG_LEVEL="loud":`}
	if len(lines) != len(want) {
		t.Fatalf("%d lines:\n%v", len(lines), err)
	}
	for i, prefix := range want {
		if !strings.HasPrefix(lines[i], prefix) {
			t.Errorf("line %d: %s\nwant %s", i+1, lines[i], prefix)
		}
	}
}

func TestDescriptorsBoundConnections(t *testing.T) {
	for descriptors, want := range map[int]autoInt{64: 15, 256: 188, 1024: 879, 20_000: 18_928, 1 << 30: autoConnections} {
		c, err := parseConfig(nil, descriptors)
		if err != nil {
			t.Fatal(err)
		}
		if limit := c.listenLimit(descriptors); c.MaxConnections != want || limit <= int(want) || limit > descriptors-ownDescriptors-adminConnections {
			t.Errorf("%d descriptors: %d connections, want %d; %d listened to", descriptors, c.MaxConnections, want, limit)
		}
	}
	if _, err := parseConfig(nil, 48); err == nil {
		t.Error("48 descriptors are enough")
	}
}

func TestSettingsAreLoggedWithoutSecrets(t *testing.T) {
	c, err := parseConfig([]string{`DUET_ICE_SERVERS=[{"urls":"turn:a.example","username":"u","credential":"hunter2"}]`}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	logged := c.LogValue().String()
	if strings.Contains(logged, "hunter2") || !strings.Contains(logged, `"credential":"***"`) || !strings.Contains(logged, "DUET_MAX_CONNECTIONS=857") {
		t.Error(logged)
	}
	if c.ICEServers[0].Credential != "hunter2" {
		t.Error("logging changed the setting")
	}
}

// TestUsage holds the table to what other tests and people read out of it: name, default, one line.
func TestUsage(t *testing.T) {
	rows := 0
	for line := range strings.Lines(usage()) {
		if fields := strings.Fields(line); len(fields) > 0 && strings.HasPrefix(fields[0], "DUET_") {
			rows++
			if len(fields) < 4 {
				t.Errorf("no description: %s", line)
			}
		}
	}
	if want := reflect.TypeFor[config]().NumField(); rows != want {
		t.Errorf("%d rows, want %d", rows, want)
	}
}

func TestUnknownSettings(t *testing.T) {
	got := unknownSettings([]string{"DUET_GRASE=1", "DUET_MAX_CONECTIONS=1", "DUET_TELEMETRY=1", "DUET_STUN=off", "PATH=/bin"})
	want := map[string]string{"DUET_GRASE": "DUET_GRACE", "DUET_MAX_CONECTIONS": "DUET_MAX_CONNECTIONS", "DUET_TELEMETRY": ""}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestEditDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"same", "same", 0}} {
		if got := editDistance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q, %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

// FuzzICEServers: whatever is taken is valid JSON that is taken again, and its log form has no credential.
func FuzzICEServers(f *testing.F) {
	f.Add(`[{"urls":"stun:a.example"}]`)
	f.Add(`[{"urls":["turn:a?transport=tcp","turns:[::1]:5349"],"username":"\u0000","credential":"<&>"}]`)
	f.Add(`[null]`)
	f.Fuzz(func(t *testing.T, text string) {
		var s iceServers
		if s.UnmarshalText([]byte(text)) != nil {
			return
		}
		out := s.with("")
		if !json.Valid(out) {
			t.Fatalf("%q -> %q", text, out)
		}
		var again iceServers
		if err := again.UnmarshalText(out); err != nil || !reflect.DeepEqual(again, s) && len(s) > 0 {
			t.Errorf("%q -> %q -> %v, %v", text, out, again, err)
		}
	})
}
