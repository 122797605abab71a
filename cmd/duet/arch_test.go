package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestCallsGoOneWay keeps the packages in their order: cmd, httpapi, signaling; static beside them.
func TestCallsGoOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "duet/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		imports[fields[0]] = fields[1:]
	}
	for _, tt := range []struct {
		pkg       string
		forbidden []string // prefixes of import paths
	}{
		{"duet/signaling", []string{"duet/", "net/http", "github.com/coder/websocket", "github.com/lxzan/gws", "github.com/go-chi", "github.com/caarlos0/env"}},
		{"duet/httpapi", []string{"duet/cmd", "duet/static", "github.com/caarlos0/env"}},
		{"duet/httpapi/relay", []string{"duet/", "net/http"}},
		{"duet/signaling/natsbus", []string{"duet/cmd", "duet/httpapi", "duet/static", "github.com/nats-io/nats-server/", "github.com/caarlos0/env"}},
		{"duet/static", []string{"duet/"}},
	} {
		if imports[tt.pkg] == nil {
			t.Errorf("%s is missing", tt.pkg)
		}
		for _, path := range imports[tt.pkg] {
			if slices.ContainsFunc(tt.forbidden, func(f string) bool { return strings.HasPrefix(path, f) }) {
				t.Errorf("%s imports %s", tt.pkg, path)
			}
		}
	}
}

// TestNoServerInTheBinary keeps the NATS server out of the ordinary build: it is more than half as large as all
// the rest.
func TestNoServerInTheBinary(t *testing.T) {
	for tags, want := range map[string]bool{"": false, "natsserver": true} {
		out, err := exec.Command("go", "list", "-deps", "-tags", tags, "duet/cmd/duet").Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(out), "github.com/nats-io/nats-server/"); got != want {
			t.Errorf("with the tags %q: a NATS server is in it: %v", tags, got)
		}
	}
}
