package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// A listener holds a bounded number of connections open; the next ones wait in the kernel's queue until
// one closes. Its connections are whole TCP connections, which golang.org/x/net/netutil's are not:
// closing a WebSocket properly takes CloseWrite.
type listener struct {
	*net.TCPListener
	places chan struct{} // one in it for each open connection
	closed chan struct{}
	once   sync.Once
}

// listen opens addr, the value of the variable named, for most connections at once. Keep-alive probes
// are left out: WebSockets have pings of their own, and requests have deadlines.
func listen(ctx context.Context, variable, addr string, most int) (*listener, error) {
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, listenFault(variable, addr, err)
	}
	return &listener{TCPListener: l.(*net.TCPListener), places: make(chan struct{}, most), closed: make(chan struct{})}, nil
}

// listenFault says what to do about err, by which addr could not be opened.
func listenFault(variable, addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s=%s: the port is taken: stop the program that has it, or choose another port", variable, addr)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s=%s: no permission for this port: choose one from 1024 up, or grant CAP_NET_BIND_SERVICE", variable, addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s=%s: this machine has no such address: choose one of its own, or leave the host out", variable, addr)
	default:
		return fmt.Errorf("%s=%s: %w", variable, addr, err)
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.AcceptTCP()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placedConn{TCPConn: c, places: l.places}, nil
}

// Close implements net.Listener. Connections that are open stay open.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.TCPListener.Close()
}

// A placedConn gives its place in the listener back when it is closed.
type placedConn struct {
	*net.TCPConn
	places <-chan struct{}
	closed atomic.Bool
}

// Close implements net.Conn.
func (c *placedConn) Close() error {
	err := c.TCPConn.Close()
	if c.closed.CompareAndSwap(false, true) {
		<-c.places
	}
	return err
}
