package main

import (
	"errors"
	"net"
	"strings"
	"testing"
)

// The WebSocket endpoint says that nothing more comes before it closes a socket.
var _ interface{ CloseWrite() error } = (*placedConn)(nil)

func TestListenerHoldsSoManyAtOnce(t *testing.T) {
	l, err := listen(t.Context(), "DUET_ADDR", "127.0.0.1:0", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan net.Conn)
	go func() {
		c, _ := l.Accept()
		second <- c
	}()
	select {
	case <-second:
		t.Fatal("a second connection was accepted beside the first")
	default:
	}
	first.Close()
	c := <-second
	first.Close() // gives nothing back a second time
	if c == nil || len(l.places) != 1 {
		t.Fatalf("%v; %d places taken", c, len(l.places))
	}

	waiting := make(chan error)
	go func() {
		_, err := l.Accept()
		waiting <- err
	}()
	l.Close()
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	c.Close()
	if len(l.places) != 0 {
		t.Errorf("%d places taken", len(l.places))
	}
}

func TestListenNamesTheSetting(t *testing.T) {
	_, err := listen(t.Context(), "DUET_ADMIN_ADDR", "127.0.0.1", 1)
	if err == nil || !strings.HasPrefix(err.Error(), "DUET_ADMIN_ADDR=127.0.0.1: ") {
		t.Errorf("%v", err)
	}
}
