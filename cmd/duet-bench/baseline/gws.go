package baseline

import (
	"net"
	"net/http"
	"time"

	"github.com/lxzan/gws"
)

// serveGWS is the relay on lxzan/gws: its read loop in a goroutine a connection, which writes to the
// other connection itself.
func serveGWS(l net.Listener) error {
	up := gws.NewUpgrader(&gwsRelay{}, &gws.ServerOption{})
	h := func(w http.ResponseWriter, r *http.Request) {
		if ws, err := up.Upgrade(w, r); err == nil {
			go ws.ReadLoop()
		}
	}
	return (&http.Server{Handler: http.HandlerFunc(h), ReadHeaderTimeout: 5 * time.Second}).Serve(l)
}

type gwsRelay struct {
	gws.BuiltinEventHandler
	rooms rooms
}

// A gwsMember is found again through its connection's session storage.
type gwsMember struct {
	*gws.Conn
	name string
	room *room
}

func (m *gwsMember) send(p []byte) { m.WriteMessage(gws.OpcodeText, p) }

const memberKey = "member"

func (g *gwsRelay) OnMessage(ws *gws.Conn, msg *gws.Message) {
	defer msg.Close()
	if v, found := ws.Session().Load(memberKey); found {
		m := v.(*gwsMember)
		if o := g.rooms.other(m.room, m); o != nil {
			o.send(msg.Bytes())
		}
		return
	}
	m := &gwsMember{Conn: ws, name: string(msg.Bytes())}
	if m.room = g.rooms.join(m.name, m); m.room == nil {
		ws.WriteClose(1008, []byte("full"))
		return
	}
	ws.Session().Store(memberKey, m)
	m.send(ok)
}

func (g *gwsRelay) OnClose(ws *gws.Conn, _ error) {
	if v, found := ws.Session().Load(memberKey); found {
		m := v.(*gwsMember)
		g.rooms.leave(m.name, m.room, m)
	}
}
