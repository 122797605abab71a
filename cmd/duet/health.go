package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// healthPatience is how long /healthz may take.
const healthPatience = 3 * time.Second

// healthCommand is duet health, for a health check in an image that has no shell: it asks the duet that
// listens at DUET_ADDR on this machine for /healthz, over http or https, whichever is spoken there. It
// says nothing and returns 0 where the answer is 200.
func healthCommand(args, environ []string, _, stderr io.Writer) int {
	if len(args) > 0 {
		fmt.Fprintln(stderr, "usage: duet health: asks the duet at DUET_ADDR whether it is alive; exit status 0 or 1")
		return exitUsage
	}
	at, err := ownAddr(environ)
	if err != nil {
		fmt.Fprintf(stderr, "duet health: %v\n", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(context.Background(), healthPatience)
	defer cancel()
	if err := askHealth(ctx, at); err != nil {
		fmt.Fprintf(stderr, "duet health: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// ownAddr is where DUET_ADDR is reached from this machine, host:port.
func ownAddr(environ []string) (string, error) {
	text := ownVariables(environ)["DUET_ADDR"]
	if text == "" {
		text = new(config).settings()[0].standard
	}
	var addr listenAddr
	if err := addr.UnmarshalText([]byte(text)); err != nil {
		return "", fmt.Errorf("DUET_ADDR=%q: %w", text, err)
	}
	host, port, _ := net.SplitHostPort(text)
	if port == "0" {
		return "", fmt.Errorf("DUET_ADDR=%q: any free port was taken, and nobody here knows which", text)
	}
	switch ip, _ := netip.ParseAddr(host); {
	case host == "" || ip == netip.IPv4Unspecified():
		host = "127.0.0.1"
	case ip == netip.IPv6Unspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}

// askHealth asks for /healthz at host:port, over https where http is not understood.
func askHealth(ctx context.Context, at string) error {
	// The certificate is made for the names that clients use; this is the same machine.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var err error
	for _, scheme := range []string{"http", "https"} {
		var req *http.Request
		if req, err = http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+at+"/healthz", nil); err != nil {
			return err
		}
		var res *http.Response
		if res, err = client.Do(req); err != nil {
			continue
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return nil
		}
		if err = fmt.Errorf("%s answered %s", req.URL, res.Status); res.StatusCode != http.StatusBadRequest { // Go's, to http on a TLS port
			return err
		}
	}
	return err
}
