package signaling

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// doorman is a policy that takes the token "good", lets "vip" have three seats and calls it Bond, and
// sends everything else away.
func doorman(_ context.Context, token string, room RoomID) (Grant, error) {
	switch {
	case token == "broken":
		return Grant{}, errors.New("the key server does not answer")
	case token == "elsewhere":
		return Grant{}, Refuse(ErrForbidden, "the token is for another room")
	case token == "vip":
		return Grant{Name: "Bond", Subject: "user-7", Capacity: 3}, nil
	case token == "moneypenny":
		return Grant{Subject: "user-8"}, nil
	case token == "good":
		return Grant{}, nil
	}
	return Grant{}, Refuse(ErrUnauthorized, "the token has run out")
}

func TestAuthorize(t *testing.T) {
	cfg := testConfig()
	cfg.Policy.Authorize = doorman
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		for token, code := range map[string]string{"": "unauthorized", "old": "unauthorized", "elsewhere": "forbidden", "broken": "unauthorized"} {
			m := h.testPeer(t).joins("demo", fmt.Sprintf(`,"token":%q`, token))
			if m["type"] != "error" || m["code"] != code || m["for"] != "join" || h.most != 0 {
				t.Errorf("token %q: %v, %d rooms", token, m, h.most)
			}
			if strings.Contains(fmt.Sprint(m["message"]), "key server") {
				t.Errorf("the server's own trouble reaches the client: %v", m)
			}
		}
		a, b, vip := h.testPeer(t), h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0)+`,"token":"good"`)
		b.joined("demo", `,"token":"good"`)
		if m := h.testPeer(t).joins("demo", `,"token":"good"`); m["code"] != "room-full" {
			t.Fatalf("third: %v", m)
		}
		a.next()
		vip.joined("demo", `,"token":"vip","name":"James"`)
		a.gets(`{"type":"peer-joined",…"name":"Bond"},"seq":2}`)

		// A token that ran out does not end a call; but it gets no seat that is gone.
		a.conn.Lost(EndLost)
		if m := h.testPeer(t).joined("demo", session(keyA, 2, 2)+`,"token":"old"`); m["resumed"] != true {
			t.Fatalf("resume: %v", m)
		}
		if m := h.testPeer(t).joins("demo", session(keyB, 1, 0)+`,"token":"old"`); m["code"] != "unauthorized" {
			t.Fatalf("a new session: %v", m)
		}
	})
}

// The credentials of the relay are renewed when half of their time is over, and by each join.
func TestICEServersAreRenewed(t *testing.T) {
	cfg := testConfig()
	minted := 0
	cfg.Policy.ICEServers = func(peer PeerID) ([]byte, time.Duration) {
		minted++
		return fmt.Appendf(nil, `[{"urls":"turn:x","username":"%d:%s"}]`, minted, peer), 12 * time.Hour
	}
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		a := h.testPeer(t)
		m := a.joined("demo", session(keyA, 1, 0))
		if got := fmt.Sprint(m["iceServers"]); got != fmt.Sprintf("[map[urls:turn:x username:1:%s]]", a.id) {
			t.Fatalf("joined: %s", got)
		}
		time.Sleep(6*time.Hour - time.Second)
		a.gets()
		time.Sleep(time.Second)
		a.gets(`{"type":"ice-servers","iceServers":[{"urls":"turn:x","username":"2:…"}],"seq":1}`)
		time.Sleep(5 * time.Hour)
		a.conn.Lost(EndLost)
		time.Sleep(20 * time.Second)
		again := h.testPeer(t)
		again.joined("demo", session(keyA, 2, 1))
		time.Sleep(5 * time.Hour)
		again.gets()
		time.Sleep(time.Hour)
		again.gets(`{"type":"ice-servers",…"4:…`)
	})
}

// TestSubject: whose a seat is, the operator is told, by what there is of seats and by each event; no
// peer is. Two seats may be one user's.
func TestSubject(t *testing.T) {
	cfg := testConfig()
	cfg.Policy.Authorize = doorman
	var (
		mu     sync.Mutex // two rooms tell
		events []string
	)
	cfg.Policy.Events = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, strings.TrimSpace(e.Type+" "+e.Subject))
	}
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		a, b, c := h.testPeer(t), h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0)+`,"token":"vip"`)
		m := b.joined("demo", `,"token":"vip"`)
		c.joined("other", `,"token":"good"`)
		told := fmt.Sprint(m, a.next())
		a.conn.Lost(EndLost)
		told += fmt.Sprint(b.next())
		again := h.testPeer(t)
		told += fmt.Sprint(again.joined("demo", session(keyA, 2, 1)+`,"token":"old"`), b.next()) // one that ran out changes nothing
		again.conn.Lost(EndLost)
		told += fmt.Sprint(b.next())
		third := h.testPeer(t)
		told += fmt.Sprint(third.joined("demo", session(keyA, 3, 1)+`,"token":"moneypenny"`), b.next())
		b.conn.Lost(EndLeft)
		told += fmt.Sprint(third.next())
		if strings.Contains(told, "user-") {
			t.Errorf("peers are told: %s", told)
		}
		info, err := h.Inspect(t.Context(), "demo")
		if err != nil || len(info.Seats) != 1 || info.Seats[0].Subject != "user-8" {
			t.Errorf("%+v, %v", info, err)
		}
		want := []string{"room-opened", "joined user-7", "joined user-7", "room-opened", "joined", "away user-7", "back user-7", "away user-7", "back user-8", "left user-7"}
		if !slices.Equal(events, want) {
			t.Errorf("events %q", events)
		}
	})
}

func TestOperator(t *testing.T) {
	cfg := testConfig()
	cfg.RoomCapacity = 3
	var events []string
	cfg.Policy.Events = func(e Event) {
		events = append(events, strings.TrimSuffix(fmt.Sprintf("%s %s %s", e.Type, e.Name, e.Why), " "))
	}
	inBubble(t, cfg, func(t *testing.T, h *Hub) {
		ctx := t.Context()
		if _, err := h.Inspect(ctx, "demo"); !errors.Is(err, ErrNoRoom) {
			t.Fatal(err)
		}
		a, b, c := h.testPeer(t), h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0)+`,"name":"Ada"`)
		b.joined("demo", `,"name":"Bob"`)
		c.joined("other", "")
		a.send(`{"type":"message","data":1,"seq":1}`)
		b.conn.Lost(EndLeft)
		a.next()
		a.conn.Lost(EndLost)
		synctest.Wait()
		info, err := h.Inspect(ctx, "demo")
		if err != nil || len(info.Seats) != 1 {
			t.Fatalf("%+v, %v", info, err)
		}
		if s := info.Seats[0]; s.Name != "Ada" || !s.Away || !s.Session || s.Received != 1 || s.Sent != 2 || s.Waiting != 2 {
			t.Errorf("%+v", s)
		}
		again := h.testPeer(t)
		again.joined("demo", session(keyA, 2, 2))

		if ids, total := h.roomIDs("", 10); total != 2 || !slices.Equal(ids, []RoomID{"demo", "other"}) {
			t.Errorf("rooms: %q", ids)
		}
		if ids, _ := h.roomIDs("demo", 10); !slices.Equal(ids, []RoomID{"other"}) {
			t.Errorf("rooms after demo: %q", ids)
		}
		if ids, _ := h.roomIDs("", 1); !slices.Equal(ids, []RoomID{"demo"}) {
			t.Errorf("one room: %q", ids)
		}

		if n, err := h.Announce(ctx, "demo", "", []byte(`"hello"`)); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		again.gets(`{"type":"message","from":"server","data":"hello","seq":3}`)
		if _, err := h.Announce(ctx, "demo", "nobody", []byte("1")); !errors.Is(err, ErrNoSeat) {
			t.Error(err)
		}
		reached := 0
		for range noticeMessages + 5 { // the third was not acknowledged
			n, _ := h.Announce(ctx, "demo", PeerID(again.id), []byte("1"))
			reached += n
		}
		if reached != noticeMessages-1 || again.closeCode() != 0 {
			t.Errorf("%d notices reached it, closed with %d", reached, again.closeCode())
		}

		if err := h.Kick(ctx, "demo", "nobody"); !errors.Is(err, ErrNoSeat) {
			t.Error(err)
		}
		if err := h.Kick(ctx, "demo", PeerID(again.id)); err != nil || again.closeCode() != 4501 {
			t.Errorf("%v, closed with %d", err, again.closeCode())
		}
		synctest.Wait()
		if err := h.CloseRoom(ctx, "other"); err != nil || c.closeCode() != 4501 {
			t.Errorf("%v, closed with %d", err, c.closeCode())
		}
		synctest.Wait()
		if h.Rooms() != 0 {
			t.Errorf("%d rooms", h.Rooms())
		}
		want := []string{"room-opened", "joined Ada", "joined Bob", "room-opened", "joined", "left Bob left", "away Ada", "back Ada",
			"left Ada kicked", "room-closed", "left  kicked", "room-closed"}
		for i := range events {
			events[i] = strings.TrimRight(events[i], " ")
		}
		if !slices.Equal(events, want) {
			t.Errorf("events %q\n  want %q", events, want)
		}
	})
}

// A report is booked, and nobody hears of it.
func TestReport(t *testing.T) {
	inBubble(t, testConfig(), func(t *testing.T, h *Hub) {
		a, b := h.testPeer(t), h.testPeer(t)
		a.joined("demo", session(keyA, 1, 0))
		b.joined("demo", "")
		a.next()
		b.send(`{"type":"offer","sdp":"v=0"}`)
		time.Sleep(time.Second)
		a.send(`{"type":"answer","sdp":"v=0","seq":1}`)
		a.send(`{"type":"report","state":"connected","path":"relay","after":340}`)
		a.send(`{"type":"message","data":1,"seq":2}`)
		b.gets(`{"type":"answer",…`, `{"type":"message",…`)
		if n := testutil.ToFloat64(h.metrics.reports.WithLabelValues("connected", "relay")); n != 1 {
			t.Errorf("%v reports", n)
		}
		if n := testutil.CollectAndCount(h.metrics.connecting); n != 1 {
			t.Errorf("%d series", n)
		}
	})
}
