package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"duet/cmd/duet-bench/baseline"
)

// A system is a server that is measured.
type system struct {
	name    string // in -system and in the tables
	what    string // one line about it
	argv    []string
	env     []string
	addrEnv string // the variable that says where to listen
	dialect dialect
	http    bool // answers GET /healthz, be it with 404

	imageFault error // why the container image is not just the binary
}

// unlimited lifts the limits that one address with thousands of clients would run into.
var unlimited = []string{
	"DUET_ADMIN_ADDR=off",
	"DUET_MAX_CONNECTIONS_PER_IP=1000000",
	"DUET_JOIN_RATE=100000000",
	"DUET_MESSAGE_RATE=1000000",
	"DUET_MESSAGE_BURST=1000000",
}

// workshop is where the systems come from: the module's folder and one for what is built.
type workshop struct{ root, bin string }

func newWorkshop(ctx context.Context) (*workshop, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "duet").Output()
	if err != nil {
		return nil, errors.New("duet-bench builds the server from source: run it inside the duet repository, or give -url")
	}
	bin, err := os.MkdirTemp("", "duet-bench-")
	return &workshop{strings.TrimSpace(string(out)), bin}, err
}

func (w *workshop) close() { os.RemoveAll(w.bin) }

// duet builds the server as the Dockerfile does.
func (w *workshop) duet(ctx context.Context) (*system, error) {
	bin := filepath.Join(w.bin, "duet")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin, "./cmd/duet")
	build.Dir, build.Env = w.root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building ./cmd/duet: %w\n%s", err, out)
	}
	return &system{name: "duet", what: "this server", argv: []string{bin}, env: unlimited, addrEnv: "DUET_ADDR",
		dialect: duet{path: "/ws"}, http: true, imageFault: nothingButBinary(filepath.Join(w.root, "Dockerfile"))}, nil
}

// socketIO installs the tutorials' server from its lock file, where that has not been done.
func (w *workshop) socketIO(ctx context.Context) (*system, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, errors.New("there is no node in the PATH")
	}
	dir := filepath.Join(w.root, "cmd", "duet-bench", "socketio")
	if !fresh(filepath.Join(dir, "node_modules", ".package-lock.json"), filepath.Join(dir, "package-lock.json")) {
		npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		npm.Dir = dir
		if out, err := npm.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("npm ci: %w\n%s", err, out)
		}
	}
	return &system{name: "socket.io", what: "the tutorials' server on Socket.IO 4.8, Node.js",
		argv: []string{node, filepath.Join(dir, "server.js")}, addrEnv: baseline.AddrVariable, dialect: socketIO{}, http: true}, nil
}

// fresh reports that made is there and not older than source.
func fresh(made, source string) bool {
	m, err := os.Stat(made)
	if err != nil {
		return false
	}
	s, err := os.Stat(source)
	return err == nil && !m.ModTime().Before(s.ModTime())
}

// relay is a bare relay, served by this program itself.
func relay(name, what string) (*system, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &system{name: name, what: what, argv: []string{self, "serve", name}, addrEnv: baseline.AddrVariable,
		dialect: bare{tcp: name == "tcp"}, http: name != "tcp"}, nil
}

// systemNames are the systems in the order of the tables.
var systemNames = []string{"duet", "socket.io", "coder", "gws", "tcp"}

// make builds or installs one system.
func (w *workshop) make(ctx context.Context, name string) (*system, error) {
	switch name {
	case "duet":
		return w.duet(ctx)
	case "socket.io":
		return w.socketIO(ctx)
	case "coder":
		return relay(name, "a bare relay on coder/websocket, two goroutines a connection")
	case "gws":
		return relay(name, "a bare relay on lxzan/gws, no protocol to speak of")
	case "tcp":
		return relay(name, "a line relay on plain TCP in Go: the floor")
	}
	return nil, fmt.Errorf("no system called %q: %s", name, strings.Join(systemNames, ", "))
}
