package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
)

// announce says where to go, with the ports that were really opened: in a few lines for people, or in
// one line of the log for machines.
func announce(cfg *config, public, admin *listener, secure *tlsService, turn *turnService, human bool, w io.Writer, log *slog.Logger) {
	host := secure.host(reachable(public.Addr()))
	page := secure.scheme("http") + "://" + host + string(cfg.BasePath) + "/"
	socket := secure.scheme("ws") + "://" + host + string(cfg.BasePath) + "/ws"
	try := "websocat " + socket
	if cfg.TLSSelfSigned {
		try = "websocat -k " + socket
	}
	operator := "off"
	if admin != nil {
		operator = "http://" + reachable(admin.Addr()) + "/metrics"
	}
	there := "" // for others of the local network
	other, fingerprint, ok := secure.network(public.Addr())
	if ok {
		there = "https://" + other + string(cfg.BasePath) + "/"
	}
	if !human {
		log.Info("listening", "page", page, "websocket", socket, "try", try, "network", cmp.Or(there, "off"), "redirect", cmp.Or(secure.redirects(), "off"), "operator", operator, "relay", cmp.Or(turn.String(), "off"))
		return
	}
	fmt.Fprintf(w, `
duet is ready.

  page       %s   (open it twice and type the same room)
  websocket  %s
  try        %s
             {"type":"join","room":"demo"}
  operator   %s
`, page, socket, try, operator)
	if turn.String() != "" {
		fmt.Fprintf(w, "  relay      %s\n", turn)
	}
	if from := secure.redirects(); from != "" {
		fmt.Fprintf(w, "  redirect   %s\n", from)
	}
	if ok {
		fmt.Fprintf(w, "  network    %s   (from a phone: scan this, and accept the certificate)\n  SHA-256    %s\n\n%s", there, fingerprint, qrCode(there, isTerminal(w)))
	}
	fmt.Fprintln(w)
}

// reachable returns host:port under which this machine reaches a listener at addr: localhost where it
// listens on every address.
func reachable(addr net.Addr) string {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil || !at.Addr().IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("localhost", strconv.Itoa(int(at.Port())))
}
