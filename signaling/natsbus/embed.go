package natsbus

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
)

// minSecret is the shortest secret, in bytes, that may guard the routes.
const minSecret = 20

// An EmbeddedConfig is for a NATS server inside this process: one of three, or five, on as many machines,
// which stay the same. For nodes that come and go run NATS apart from them: its servers are counted for
// the majority even when they are gone.
type EmbeddedConfig struct {
	Name   string   // of this server in the cluster: letters, digits, '-' and '_'; the same after a restart
	Dir    string   // what the server keeps; the same after a restart, on a disk of its own if possible
	Listen string   // host:port for the other servers; every other server must reach it
	Routes []string // host:port of all three (or five) servers, this one included
	Secret string   // the same on all of them, at least 20 bytes: who knows it is part of the cluster

	// TLS between the servers, PEM files: this server's certificate for its host in Routes, the key, and the
	// authority of all of them. Each shows its certificate to the others. "" is for a network that only
	// the servers reach: what people tell each other crosses it.
	CertFile, KeyFile, CAFile string

	Log *slog.Logger
}

// Check finds every fault at once.
func (c EmbeddedConfig) Check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !isWord(c.Name) {
		fault("the server's name %q is not made of letters, digits, '-' and '_'", c.Name)
	}
	if c.Dir == "" {
		fault("no folder for what the NATS server keeps")
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" || port == "0" {
		fault("the address %q for the other servers is not host:port", c.Listen)
	}
	if n := len(c.Routes); n != 3 && n != 5 {
		fault("%d routes: give those of all three servers, or of all five", n)
	}
	for i, route := range c.Routes {
		if host, port, err := net.SplitHostPort(route); err != nil || host == "" || port == "" {
			fault("the route %q is not host:port", route)
		}
		if slices.Contains(c.Routes[:i], route) {
			fault("the route %q is there twice", route)
		}
	}
	if len(c.Secret) < minSecret {
		fault("the secret has %d bytes: at least %d are needed", len(c.Secret), minSecret)
	}
	if given := [...]bool{c.CertFile != "", c.KeyFile != "", c.CAFile != ""}; given[0] != given[1] || given[1] != given[2] {
		fault("a certificate, its key and the authority go together: give all three files or none")
	}
	return errors.Join(faults...)
}
