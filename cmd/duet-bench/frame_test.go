package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"testing"

	"github.com/coder/websocket"
	"net/http"
	"net/http/httptest"
)

// serverFrame is a frame as a server sends it: unmasked.
func serverFrame(op byte, payload []byte) []byte {
	b := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

func TestReadFrame(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 70000} {
		payload := bytes.Repeat([]byte("x"), size)
		b := append(serverFrame(opText, payload), 0x81, 0x01) // and the start of another
		f, n, err := readFrame(b)
		if err != nil || n != len(b)-2 || f.op != opText || !bytes.Equal(f.payload, payload) {
			t.Errorf("size %d: got op %d, %d of %d bytes, %d of payload, %v", size, f.op, n, len(b)-2, len(f.payload), err)
		}
		for _, cut := range []int{0, 1, min(size, 3), len(b) - 3} {
			if _, n, err := readFrame(b[:cut]); n != 0 || err != nil {
				t.Errorf("size %d cut at %d: got %d, %v, want 0, nil", size, cut, n, err)
			}
		}
	}
}

func TestReadFrameRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"fragment":  {0x01, 0x01, 'x'},
		"reserved":  {0xC1, 0x01, 'x'},
		"masked":    {0x81, 0x81, 1, 2, 3, 4, 'x'},
		"oversized": {0x81, 127, 0, 0, 0, 0, 1, 0, 0, 0},
	} {
		if _, _, err := readFrame(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, _, err := readFrame([]byte{0x01, 0x00}); !errors.Is(err, errFragment) {
		t.Errorf("fragment: got %v", err)
	}
}

// A WebSocket library reads what appendFrame writes.
func TestAppendFrame(t *testing.T) {
	got := make(chan []byte)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(maxFrame)
		for {
			_, p, err := ws.Read(r.Context())
			if err != nil {
				close(got)
				return
			}
			got <- p
		}
	}))
	defer srv.Close()
	nc, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(upgradeRequest("/", srv.Listener.Addr().String(), "")); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 7, 8, 9, 125, 126, 65535, 65536} {
		payload := bytes.Repeat([]byte("abc"), size/3+1)[:size]
		if _, err := nc.Write(appendFrame(nil, opText, payload)); err != nil {
			t.Fatal(err)
		}
		if p := <-got; !bytes.Equal(p, payload) {
			t.Errorf("size %d: the payload came out different", size)
		}
	}
	if _, err := nc.Write(appendFrame(nil, opClose, []byte{3, 232})); err != nil {
		t.Fatal(err)
	}
	if _, open := <-got; open {
		t.Error("a message instead of the close")
	}
}
