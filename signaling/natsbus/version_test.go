package natsbus

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"duet/signaling"
)

func TestSpan(t *testing.T) {
	for _, c := range []struct {
		a, b span
		want int
	}{
		{span{1, 1}, span{1, 1}, 1},
		{span{1, 1}, span{1, 2}, 1},
		{span{1, 2}, span{1, 2}, 2},
		{span{1, 3}, span{2, 5}, 3},
		{span{1, 1}, span{2, 2}, 0},
		{span{1, 2}, span{3, 4}, 0},
	} {
		if got, back := c.a.with(c.b), c.b.with(c.a); got != c.want || back != c.want {
			t.Errorf("%v and %v speak %d and %d, want %d", c.a, c.b, got, back, c.want)
		}
	}
	if s := (stated{V: 3}).span(); s != (span{3, 3}) {
		t.Errorf("who states one version reads %v", s)
	}
}

// Three nodes: a is of the release before the others. Whatever two say to each other is of the lower of
// their newest versions; what is for all, of that which all know.
func TestPairsSpeakTheLower(t *testing.T) {
	s := coreServer(t)
	wire, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	sub, err := wire.SubscribeSync("test.v1.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.Flush(); err != nil {
		t.Fatal(err)
	}
	frames := make(chan string, 10)
	hears := hearer{
		frame:   func(frame []byte) { frames <- string(frame) },
		request: func(_ context.Context, request []byte) []byte { return request },
	}
	start := func(node signaling.NodeID, versions span) *testBus {
		return startBusOf(t, s.ClientURL(), node, versions, hears)
	}
	a, b, c := start("a", span{1, 1}), start("b", span{1, 2}), start("c", span{1, 2})
	// spoken is the version of the next message on a subject, and of the answer, if it is a question.
	spoken := func(subject string) (versions []byte) {
		for {
			m, err := sub.NextMsgWithContext(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if m.Subject == subject {
				versions = append(versions, m.Data[0])
				if subject = m.Reply; subject == "" {
					return versions
				}
			}
		}
	}
	check := func(from *testBus, to signaling.NodeID, want byte) {
		t.Helper()
		from.Send(to, 3, []byte("hello"))
		<-frames
		if got := spoken("test.v1.n." + string(to) + ".3"); got[0] != want {
			t.Errorf("%s sends %s version %d, want %d", from.self, to, got, want)
		}
		answer, err := from.Ask(t.Context(), to, []byte("a question"))
		if err != nil || string(answer) != "a question" {
			t.Errorf("%s asks %s: %q, %v", from.self, to, answer, err)
		}
		if got := spoken("test.v1.ctl." + string(to)); got[0] != want || got[1] != want {
			t.Errorf("%s asks %s in version %d and hears %d, want %d", from.self, to, got[0], got[1], want)
		}
	}
	check(b, "c", 1) // it was not heard yet
	for _, x := range []*testBus{a, b, c} {
		x.sayBeacon(beacon{Revision: 1})
	}
	for _, x := range []*testBus{a, b, c} {
		<-x.beacons
		<-x.beacons
	}
	check(b, "b", 2)
	check(b, "c", 2)
	check(c, "b", 2)
	check(b, "a", 1)
	check(a, "b", 1)
	for _, all := range []struct {
		without signaling.NodeID
		answers int
		want    byte
	}{{"", 3, 1}, {"a", 2, 2}} { // when the last node of the release before is gone all speak the next one
		if all.without != "" {
			a.stop()
			b.forget(all.without)
		}
		answers, silent, err := b.AskAll(t.Context(), []byte("all"))
		if err != nil || len(answers) != all.answers || len(silent) > 0 {
			t.Errorf("%d answers, %v silent, %v", len(answers), silent, err)
		}
		if got := spoken("test.v1.all"); got[0] != all.want {
			t.Errorf("all are asked in version %d, want %d", got[0], all.want)
		}
	}
	for _, x := range []*testBus{a, b, c} {
		if n := testutil.ToFloat64(x.metrics.dropped.WithLabelValues("in", "unreadable")); n != 0 {
			t.Errorf("%s could not read %v messages", x.self, n)
		}
	}
}

// A node that has no version in common with one that lives does not start, and changes nothing.
func TestStrangersDoNotMix(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	old, next, after := testConfig(urls), testConfig(urls), testConfig(urls)
	old.speaks, next.speaks, after.speaks = span{1, 1}, span{1, 2}, span{2, 3}
	after.Version = "v3.0"
	a := start(t, old)
	refused := func() {
		t.Helper()
		_, err := Connect(t.Context(), after, testLog(t), prometheus.NewRegistry())
		if err == nil {
			t.Fatal("a node of versions 2 to 3 starts beside one of version 1")
		}
		for _, want := range []string{string(a.Self()), "duet v1", "speaks version 1 ", "this one versions 2 to 3", "Upgrade one release at a time"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not say %q: %v", want, err)
			}
		}
	}
	refused()
	if !a.Valid() || find(t, a, "room").Node != a.Self() {
		t.Error("the node that was there suffers")
	}
	b := start(t, next)
	if !waitHeard(a, b.Self()) || !waitHeard(b, a.Self()) {
		t.Fatal("nodes with a version in common do not hear each other")
	}
	if got := find(t, b, "room"); got.Node != a.Self() {
		t.Errorf("the room is on %s", got.Node)
	}
	refused() // b alone would do

	// A node that died is no hindrance, for longer than its lease lasts.
	a.kill()
	began := time.Now()
	start(t, after)
	if took := time.Since(began); took > after.Lease+5*time.Second {
		t.Errorf("the lease of a dead node of another version held it up for %v", took)
	}
}

// Nodes that are told more than they know, in keys of theirs and of others, leave it alone.
func TestMembersOfTomorrow(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	cfg := testConfig(urls)
	cfg.Buckets = 1
	a := start(t, cfg)
	ctx := t.Context()
	write := func(r register, key, value string) uint64 {
		t.Helper()
		for { // a reading may be old
			e, err := r.get(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			revision, err := r.put(ctx, key, []byte(value), e.revision, time.Hour)
			if err == nil {
				return revision
			}
			if !errors.Is(err, errRevision) {
				t.Fatal(err)
			}
		}
	}
	write(a.nodes, settingsKey, strings.Replace(`{"v":1,"buckets":1,"lease":"2.5s","fence":"1.4s","renew":"400ms","gen":"GEN","moon":"full"}`, "GEN", a.gen, 1))
	if err := a.checkBuckets(ctx); err != nil {
		t.Errorf("settings with one more: %v", err)
	}
	write(a.nodes, nodeKey("later-aaaaaa"), `{"v":1,"newest":7,"ver":"v9","nonce":"x","zone":{"of":"tomorrow"}}`)
	b := start(t, cfg)

	rooms, room := a.claims.key("known")
	revision := write(rooms, room, `{"v":1,"n":"later-aaaaaa","born":{"of":"tomorrow"}}`)
	eventually(t, "a room's key with more in it is read", func() bool {
		owner, err := b.Look(ctx, "known")
		return err == nil && owner.Node == "later-aaaaaa" && owner.Epoch == revision
	})
	// Its node does not listen, and is proven dead from a lease with more in it.
	b.peers.doubt("later-aaaaaa")
	if owner := find(t, b, "known"); owner.Node != b.Self() || !owner.Taken {
		t.Errorf("the room of a node with more in its lease: %+v", owner)
	}

	write(a.nodes, settingsKey, strings.Replace(`{"v":2,"buckets":1,"lease":"2.5s","fence":"1.4s","renew":"400ms","gen":"GEN"}`, "GEN", a.gen, 1))
	eventually(t, "settings of another form refused", func() bool { // a replica may lag
		n, err := Connect(ctx, cfg, testLog(t), prometheus.NewRegistry())
		if err == nil {
			n.Close()
			return false
		}
		if !strings.Contains(err.Error(), "have form 2") {
			t.Errorf("settings of another form: %v", err)
		}
		return true
	})
}
