package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
)

// announce says where to go, with the ports that were really opened: in a few lines for people, or in
// one line of the log for machines.
func announce(cfg *config, public, admin *listener, human bool, w io.Writer, log *slog.Logger) {
	host := reachable(public.Addr())
	page := "http://" + host + string(cfg.BasePath) + "/"
	socket := "ws://" + host + string(cfg.BasePath) + "/ws"
	operator := "off"
	if admin != nil {
		operator = "http://" + reachable(admin.Addr()) + "/metrics"
	}
	if !human {
		log.Info("listening", "page", page, "websocket", socket, "try", "websocat "+socket, "operator", operator)
		return
	}
	fmt.Fprintf(w, `
duet is ready.

  page       %s   (open it twice and type the same room)
  websocket  %s
  try        websocat %s
             {"type":"join","room":"demo"}
  operator   %s

`, page, socket, socket, operator)
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
