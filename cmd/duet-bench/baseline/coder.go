package baseline

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// serveCoder is the relay on coder/websocket in its usual form: the handler reads, a second
// goroutine writes what comes through a channel.
func serveCoder(l net.Listener) error {
	var rs rooms
	h := func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		relayMessages(r.Context(), &rs, ws)
	}
	return (&http.Server{Handler: http.HandlerFunc(h), ReadHeaderTimeout: 5 * time.Second}).Serve(l)
}

// A coderMember's out holds what its writer has not sent yet; a full one holds the sender up.
type coderMember struct {
	out  chan []byte
	done <-chan struct{}
}

func (m *coderMember) send(p []byte) {
	select {
	case m.out <- p:
	case <-m.done:
	}
}

func relayMessages(ctx context.Context, rs *rooms, ws *websocket.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, name, err := ws.Read(ctx)
	if err != nil {
		return
	}
	m := &coderMember{out: make(chan []byte, 16), done: ctx.Done()}
	place := rs.join(string(name), m)
	if place == nil {
		ws.Close(websocket.StatusPolicyViolation, "full")
		return
	}
	defer rs.leave(string(name), place, m)
	go m.write(ctx, ws)
	m.send(ok)
	for {
		_, p, err := ws.Read(ctx)
		if err != nil {
			return
		}
		if o := rs.other(place, m); o != nil {
			o.send(p)
		}
	}
}

func (m *coderMember) write(ctx context.Context, ws *websocket.Conn) {
	for {
		select {
		case p := <-m.out:
			if ws.Write(ctx, websocket.MessageText, p) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
