package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v4"
)

// icePatience is how long a STUN or TURN server may take for all that is asked of it.
const icePatience = 5 * time.Second

// An iceTarget is a URL of an RTCIceServer taken apart (RFC 7064, RFC 7065).
type iceTarget struct {
	url, scheme, host, port, transport string
	username, credential               string
}

func iceTargets(servers []iceServer) (targets []iceTarget) {
	for _, s := range servers {
		for _, u := range s.URLs {
			t := iceTarget{url: u, port: "3478", transport: "udp", username: s.Username, credential: s.Credential}
			rest, query, _ := strings.Cut(u, "?")
			t.scheme, t.host, _ = strings.Cut(rest, ":")
			if t.scheme == "turns" || t.scheme == "stuns" {
				t.port, t.transport = "5349", "tls"
			} else if transport, ok := strings.CutPrefix(query, "transport="); ok {
				t.transport = transport
			}
			if host, port, err := net.SplitHostPort(t.host); err == nil {
				t.host, t.port = host, port
			}
			t.host = strings.Trim(t.host, "[]")
			targets = append(targets, t)
		}
	}
	return targets
}

// examineICE asks every STUN and TURN server that joined named, and says what is missing among them.
func (d *doctor) examineICE(ctx context.Context, servers []iceServer) {
	have := map[string]bool{}
	for _, t := range iceTargets(servers) {
		if ctx.Err() != nil {
			return // interrupted
		}
		within, cancel := context.WithTimeout(ctx, icePatience)
		if strings.HasPrefix(t.scheme, "stun") {
			have["stun"] = true
			d.examineSTUN(within, t)
		} else {
			have[t.transport] = true
			d.examineTURN(within, t)
		}
		cancel()
	}
	if !have["stun"] {
		d.say(open, "stun", "no server is named: browsers find no public address by themselves (DUET_STUN)")
	}
	if !have["udp"] && !have["tcp"] && !have["tls"] {
		d.say(open, "turn", "no relay is named: people behind strict networks cannot call (DUET_TURN_ADDR starts one, DUET_TURN_URLS names another)")
		return
	}
	for _, transport := range []string{"udp", "tcp", "tls"} {
		if !have[transport] {
			d.say(open, "turn "+transport, "no such URL is named (turn: with ?transport=udp or tcp, turns:): some networks let nothing else through")
		}
	}
}

func (d *doctor) examineSTUN(ctx context.Context, t iceTarget) {
	c, err := d.dialTURN(ctx, t)
	if err != nil {
		d.say(bad, "stun", "%s: %v", t.url, err)
		return
	}
	defer c.close()
	seen, err := c.SendBindingRequest()
	if err != nil {
		d.say(bad, "stun", "%s: no answer in %s: is it running, and UDP port %s open?", t.url, icePatience, t.port)
		return
	}
	d.say(good, "stun", "%s sees us at %s", t.url, seen)
}

// examineTURN has two clients of the relay exchange a packet.
func (d *doctor) examineTURN(ctx context.Context, t iceTarget) {
	about := "turn " + t.transport
	began := time.Now()
	var ends [2]*turnClient
	for i := range ends {
		c, err := d.dialTURN(ctx, t)
		if err != nil {
			d.say(bad, about, "%s: %v: is it running, and TCP port %s open?", t.url, err, t.port)
			return
		}
		defer c.close()
		if c.relayed, err = c.Allocate(); err != nil {
			d.say(bad, about, "%s: %s", t.url, allocationFault(err, t))
			return
		}
		defer c.relayed.Close()
		ends[i] = c
	}
	if err := exchange(ctx, ends[0], ends[1]); err != nil {
		d.say(bad, about, "%s gives addresses (%s) but relays nothing between them: %v: are its relay ports open (DUET_TURN_PORTS), and is its public address right (DUET_TURN_PUBLIC_IP)?",
			t.url, ends[0].relayed.LocalAddr(), err)
		return
	}
	d.say(good, about, "%s relays (%s)", t.url, brief(time.Since(began)))
}

// allocationFault says what to do about err, which does not repeat the credentials.
func allocationFault(err error, t iceTarget) string {
	switch text := err.Error(); {
	case strings.Contains(text, "error 400"), strings.Contains(text, "error 401"), strings.Contains(text, "error 441"): // pion's servers say 400
		return "refuses the credentials: DUET_TURN_SECRET and its static-auth-secret have to be the same, and the clocks right"
	case strings.Contains(text, "error 486"), strings.Contains(text, "error 508"):
		return "has no relayed address left: raise the quota (DUET_TURN_USER_QUOTA, DUET_TURN_TOTAL_QUOTA), or its ports"
	case strings.Contains(text, "error "):
		return text
	default:
		return fmt.Sprintf("no answer in %s: is it running, and %s port %s open?", icePatience, map[bool]string{true: "UDP", false: "TCP"}[t.transport == "udp"], t.port)
	}
}

// exchange sends a packet from one relayed address to the other until it has arrived.
func exchange(ctx context.Context, from, to *turnClient) error {
	if err := to.CreatePermission(from.relayed.LocalAddr()); err != nil {
		return err
	}
	const sentEvery = 200 * time.Millisecond
	buffer := make([]byte, 64)
	for ctx.Err() == nil {
		if _, err := from.relayed.WriteTo([]byte("duet doctor"), to.relayed.LocalAddr()); err != nil {
			return err
		}
		if err := to.relayed.SetReadDeadline(time.Now().Add(sentEvery)); err != nil {
			return err
		}
		if n, _, err := to.relayed.ReadFrom(buffer); err == nil && string(buffer[:n]) == "duet doctor" {
			return nil
		}
	}
	return fmt.Errorf("nothing arrived in %s", icePatience)
}

// A turnClient is a client of a STUN or TURN server.
type turnClient struct {
	*turn.Client
	relayed net.PacketConn
	close   func()
}

// dialTURN makes a client of t. When ctx ends, what it waits for fails.
func (d *doctor) dialTURN(ctx context.Context, t iceTarget) (*turnClient, error) {
	at := net.JoinHostPort(t.host, t.port)
	conn, err := d.dialTransport(ctx, t, at)
	if err != nil {
		return nil, withoutURL(err)
	}
	client, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: at, TURNServerAddr: at, Conn: conn,
		Username: t.username, Password: t.credential,
		LoggerFactory: &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}})
	if err == nil {
		err = client.Listen()
	}
	if err != nil {
		conn.Close()
		return nil, withoutURL(err)
	}
	giveUp := context.AfterFunc(ctx, func() { client.Close(); conn.Close() })
	return &turnClient{Client: client, close: func() {
		if giveUp() {
			client.Close()
			conn.Close()
		}
	}}, nil
}

// dialTransport opens the way to at that t names.
func (d *doctor) dialTransport(ctx context.Context, t iceTarget, at string) (net.PacketConn, error) {
	if t.transport == "udp" {
		return net.ListenPacket("udp", ":0")
	}
	dialer := &net.Dialer{}
	if t.transport == "tcp" {
		conn, err := dialer.DialContext(ctx, "tcp", at)
		if err != nil {
			return nil, err
		}
		return turn.NewSTUNConn(conn), nil
	}
	conn, err := (&tls.Dialer{NetDialer: dialer, Config: d.tls()}).DialContext(ctx, "tcp", at)
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return nil, fmt.Errorf("its certificate: %w (for a self-signed one: -insecure)", untrusted.Err)
	}
	if err != nil {
		return nil, err
	}
	return turn.NewSTUNConn(conn), nil
}
