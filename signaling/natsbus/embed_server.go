//go:build natsserver

package natsbus

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	embeddedCluster = "duet"
	embeddedUser    = "duet"
	embeddedReady   = 10 * time.Second
	embeddedMemory  = 64 << 20 // bytes; every bucket is in files
)

// StartEmbedded starts a NATS server with JetStream in this process and returns the URL for Config, with a
// password that lasts as long as the server; only this machine reaches it there. JetStream works as soon
// as most of the servers have found each other: Connect waits for that. What it keeps is on the disk before
// it says so. stop ends the server and waits until it has ended.
func StartEmbedded(cfg EmbeddedConfig) (url string, stop func(), err error) {
	if err := cfg.Check(); err != nil {
		return "", nil, err
	}
	password := rand.Text()
	options, err := cfg.options(password)
	if err != nil {
		return "", nil, err
	}
	s, err := server.NewServer(options)
	if err != nil {
		return "", nil, fmt.Errorf("start the NATS server: %w", err)
	}
	s.SetLogger(&serverLog{cfg.Log.With("component", "nats-server"), strings.NewReplacer(cfg.Secret, "(secret)", password, "(password)")}, false, false)
	s.Start()
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
	}
	if !s.ReadyForConnections(embeddedReady) {
		stop()
		return "", nil, fmt.Errorf("start the NATS server: not ready after %v; its log says why", embeddedReady)
	}
	return withUser(s.Addr().String(), "nats", password).String(), stop, nil
}

func withUser(address, scheme, password string) *url.URL {
	return &url.URL{Scheme: scheme, User: url.UserPassword(embeddedUser, password), Host: address}
}

func (c EmbeddedConfig) options(password string) (*server.Options, error) {
	host, portName, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(portName)
	if err != nil {
		return nil, fmt.Errorf("the port of %q: %w", c.Listen, err)
	}
	o := &server.Options{
		ServerName: c.Name,
		Host:       "127.0.0.1", Port: server.RANDOM_PORT, // for this process
		Username: embeddedUser, Password: password,
		NoSigs:    true,
		JetStream: true, StoreDir: c.Dir, SyncAlways: true, JetStreamMaxMemory: embeddedMemory,
		Cluster: server.ClusterOpts{
			Name: embeddedCluster, Host: host, Port: port,
			Username: embeddedUser, Password: c.Secret,
			NoAdvertise: true, // clients of the other servers reach nothing here
		},
	}
	for _, route := range c.Routes {
		o.Routes = append(o.Routes, withUser(route, "nats-route", c.Secret))
	}
	if c.CertFile != "" {
		tls, err := server.GenTLSConfig(&server.TLSConfigOpts{CertFile: c.CertFile, KeyFile: c.KeyFile, CaFile: c.CAFile, Verify: true})
		if err != nil {
			return nil, errors.Join(errors.New("TLS between the NATS servers"), err)
		}
		tls.RootCAs = tls.ClientCAs
		o.Cluster.TLSConfig = tls
		o.Cluster.TLSTimeout = 2 // seconds
	}
	return o, nil
}

// serverLog brings what the server says into our log, without its secrets. A notice is what an operator
// of NATS wants to read.
type serverLog struct {
	log     *slog.Logger
	secrets *strings.Replacer
}

func (l *serverLog) say(level func(string, ...any), format string, args []any) {
	level(l.secrets.Replace(fmt.Sprintf(format, args...)))
}

func (l *serverLog) Noticef(format string, args ...any) { l.say(l.log.Info, format, args) }
func (l *serverLog) Warnf(format string, args ...any)   { l.say(l.log.Warn, format, args) }
func (l *serverLog) Errorf(format string, args ...any)  { l.say(l.log.Error, format, args) }
func (l *serverLog) Fatalf(format string, args ...any)  { l.say(l.log.Error, format, args) }
func (l *serverLog) Debugf(format string, args ...any)  { l.say(l.log.Debug, format, args) }
func (l *serverLog) Tracef(format string, args ...any)  { l.say(l.log.Debug, format, args) }
