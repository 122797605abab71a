package natsbus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"duet/signaling"
)

// A contract is what every form of signaling.Directory does. others are nodes of the same cluster.
func contract(t *testing.T, d signaling.Directory, others ...signaling.Directory) {
	ctx := t.Context()
	t.Run("claims a free room once", func(t *testing.T) {
		var wg sync.WaitGroup
		owners := make([]signaling.Owner, 20)
		for i := range owners {
			from := d
			if len(others) > 0 && i%2 == 1 {
				from = others[0]
			}
			wg.Go(func() { owners[i] = find(t, from, "contended") })
		}
		wg.Wait()
		for i, owner := range owners {
			if owner != owners[0] || owner.Taken {
				t.Fatalf("Find %d says %+v, the first said %+v", i, owner, owners[0])
			}
		}
		for i := range owners {
			from := d
			if len(others) > 0 && i%2 == 1 {
				from = others[0]
			}
			if owners[i].Node == from.Self() {
				from.Release("contended")
			}
		}
	})
	t.Run("names itself to all", func(t *testing.T) {
		owner := find(t, d, "named")
		defer d.Release("named")
		if owner.Node != d.Self() {
			t.Fatalf("a free room is of %q, not of %q that asked", owner.Node, d.Self())
		}
		for _, other := range others {
			if got := find(t, other, "named"); got != owner {
				t.Errorf("another node says %+v, the owner %+v", got, owner)
			}
			if got, err := other.Look(ctx, "named"); err != nil || got != owner {
				t.Errorf("Look says %+v, %v, Find %+v", got, err, owner)
			}
		}
	})
	t.Run("names in every script", func(t *testing.T) {
		seen := map[uint64]signaling.RoomID{}
		for _, room := range []signaling.RoomID{"a.b", "a*", ">", "комната", "房间", " $KV ", signaling.RoomID(strings.Repeat("ü", 64))} {
			owner := find(t, d, room)
			if other, ok := seen[owner.Epoch]; ok && len(others) > 0 && owner.Epoch == find(t, d, other).Epoch && room == other {
				t.Errorf("%q and %q are one", room, other)
			}
			seen[owner.Epoch] = room
			d.Release(room)
		}
	})
	t.Run("gives up with its context", func(t *testing.T) {
		if len(others) == 0 {
			t.Skip("a single node waits for nobody")
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if owner, err := d.Find(ended, "never asked for"); err == nil {
			t.Errorf("Find with a context that has ended says %+v", owner)
		}
	})
	t.Run("is valid", func(t *testing.T) {
		if !d.Valid() {
			t.Error("not valid")
		}
	})
}

func TestContractLocal(t *testing.T) { contract(t, signaling.NewLocalDirectory()) }

func TestContractNATS(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	cfg := testConfig(urls)
	a, b := start(t, cfg), start(t, cfg)
	contract(t, a, b)

	ctx := t.Context()
	t.Run("no room", func(t *testing.T) {
		if owner, err := a.Look(ctx, "nobody's"); !errors.Is(err, signaling.ErrNoRoom) {
			t.Errorf("Look at a room nobody owns: %+v, %v", owner, err)
		}
	})
	t.Run("handover", func(t *testing.T) {
		old := find(t, a, "moves")
		now, err := b.Receive(ctx, "moves", old)
		if err != nil || now.Node != b.Self() || now.Epoch == old.Epoch {
			t.Fatalf("Receive: %+v, %v; it was %+v", now, err, old)
		}
		if again, err := b.Receive(ctx, "moves", old); err == nil {
			t.Errorf("a second Receive from the same owner: %+v", again)
		}
		if got, err := a.Look(ctx, "moves"); err != nil || got != now {
			t.Errorf("the node before says %+v, %v, not %+v", got, err, now)
		}
		if got := find(t, a, "moves"); got != now {
			t.Errorf("Find of the node before says %+v, not %+v", got, now)
		}
		a.Release("moves")
		b.Release("moves")
	})
	t.Run("handover that the owner has settled", func(t *testing.T) {
		old := find(t, a, "stays")
		defer a.Release("stays")
		now, err := a.Look(ctx, "stays")
		if err != nil || now.Node != a.Self() || now.Epoch == old.Epoch {
			t.Fatalf("Look at a room of one's own: %+v, %v; it was %+v", now, err, old)
		}
		if owner, err := b.Receive(ctx, "stays", old); err == nil || errors.Is(err, signaling.ErrUnsure) {
			t.Errorf("Receive from an epoch that is over: %+v, %v", owner, err)
		}
		if got := find(t, a, "stays"); got != now {
			t.Errorf("Find says %+v, Look %+v", got, now)
		}
		a.Release("stays")
	})
	t.Run("rewritten with the same epoch", func(t *testing.T) {
		old := find(t, a, "lasts")
		a.claims.rewrite(ctx, "lasts")
		if got := find(t, a, "lasts"); got != old {
			t.Errorf("after the rewrite %+v, before %+v", got, old)
		}
		a.Release("lasts")
		if now, err := b.Receive(ctx, "lasts", old); err != nil {
			t.Errorf("Receive after a rewrite: %+v, %v", now, err)
		}
		a.Release("lasts")
		b.Release("lasts")
	})
	t.Run("nothing readable in NATS", func(t *testing.T) {
		find(t, a, "confidential")
		defer a.Release("confidential")
		register, key := a.claims.key("confidential")
		e, err := register.get(ctx, key)
		if err != nil || strings.Contains(key+string(e.value), "confidential") {
			t.Errorf("key %s holds %s, %v", key, e.value, err)
		}
	})
}

func TestReleasedRoomIsFree(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	a, b := start(t, testConfig(urls)), start(t, testConfig(urls))
	ctx := t.Context()
	first := find(t, a, "room")
	a.Release("room")
	if got := find(t, b, "room"); got != first {
		t.Fatalf("just released, the room is of %+v, not of %+v", got, first)
	}
	register, key := a.claims.key("room")
	a.claims.vacate(ctx, "room") // as after keepEmpty
	if e, err := register.get(ctx, key); err != nil || e.value != nil && e.revision >= first.Epoch {
		t.Fatalf("the key of a room given up: %s, %v", e.value, err)
	}
	b.claims.mu.Lock()
	b.claims.cache = ownerCache{limit: cacheOwners}
	b.claims.mu.Unlock()
	if got := find(t, b, "room"); got.Node != b.Self() || got.Taken {
		t.Fatalf("a room given up is of %+v", got)
	}
	b.Release("room")
}

// TestPurgeAgainstFind has a room found while its key is purged: whoever comes first, one node owns it, and
// the key says so.
func TestPurgeAgainstFind(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	a, b := start(t, testConfig(urls)), start(t, testConfig(urls))
	for i := range 100 {
		room := signaling.RoomID(fmt.Sprint("room ", i))
		find(t, a, room)
		a.Release(room)
		var wg sync.WaitGroup
		var owners [2]signaling.Owner
		calls := []func(){
			func() { a.claims.vacate(t.Context(), room) },
			func() { owners[0] = find(t, a, room) },
			func() { owners[1] = find(t, b, room) },
		}
		for _, call := range rand.Perm(len(calls)) {
			wg.Go(calls[call])
		}
		wg.Wait()
		atA, atB := owners[0].Node == a.Self(), owners[1].Node == b.Self()
		if atA && atB {
			t.Fatalf("round %d: both nodes own the room: %+v", i, owners)
		}
		a.claims.vacate(t.Context(), room) // late, and too late where a holds it
		register, key := a.claims.key(room)
		for n, here := range []bool{atA, atB} {
			if here {
				latest(t, register, key, owners[n].Epoch)
				var owner signaling.Owner
				eventually(t, fmt.Sprintf("round %d: the key to name %s", i, owners[n].Node), func() bool { // a replica may lag
					e, err := register.get(t.Context(), key)
					owner, _ = ownerIn(e)
					return err == nil && owner.Node == owners[n].Node
				})
			}
		}
		if atA {
			a.Release(room)
		}
		if atB {
			b.Release(room)
		}
	}
}

func TestSettingsMismatch(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	connect(t, testConfig(urls))
	for name, change := range map[string]func(*Config){
		"buckets": func(c *Config) { c.Buckets = 1 },
		"lease":   func(c *Config) { c.Lease = 4 * time.Second },
		"fence":   func(c *Config) { c.Fence = 1500 * time.Millisecond },
		"renew":   func(c *Config) { c.Renew = 300 * time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(urls)
			change(&cfg)
			_, err := Connect(t.Context(), cfg, testLog(t), prometheus.NewRegistry())
			if err == nil || !strings.Contains(err.Error(), "other settings") {
				t.Errorf("with another %s: %v", name, err)
			}
		})
	}
	connect(t, testConfig(urls)) // the same
}

func TestBucketOfAnotherForm(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	conn, err := nats.Connect(urls)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(urls)
	cfg.Create = false
	if _, err := Connect(t.Context(), cfg, testLog(t), prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("without a bucket, and without leave to make one: %v", err)
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "duet_nodes", TTL: time.Hour, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(t.Context(), cfg, testLog(t), prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "TTL") {
		t.Errorf("with a bucket whose keys vanish: %v", err)
	}
}

// TestBucketsByHand makes the buckets from the files that operators have for it. They are as a node makes them,
// and nodes that may not make them use them.
func TestBucketsByHand(t *testing.T) {
	c := natsCluster(t)
	_, urls := c.account(t)
	_, byHand := c.account(t)
	cfg := testConfig(urls)
	cfg.Buckets = 1
	made := connect(t, cfg)
	conn, err := nats.Connect(byHand)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range made.buckets() {
		file := "../../deploy/nats/KV_" + b.name + ".json"
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var config jetstream.StreamConfig
		if err := json.Unmarshal(text, &config); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		stream, err := js.CreateStream(t.Context(), config)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if got, want := stream.CachedInfo().Config, b.stream.CachedInfo().Config; !reflect.DeepEqual(got, want) {
			t.Errorf("%s makes\n%+v, a node\n%+v", file, got, want)
		}
	}
	cfg = testConfig(byHand)
	cfg.Buckets, cfg.Create = 1, false
	find(t, start(t, cfg), "room")
}

// TestNamesInDocs compares what docs/cluster.md says of NATS with what is there.
func TestNamesInDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	_, urls := natsCluster(t).account(t)
	cfg := testConfig(urls)
	cfg.Buckets = 1
	n := connect(t, cfg)
	named := map[string]int{}
	for _, b := range n.buckets() {
		named[b.name] = 0
	}
	doc := string(text)
	for _, m := range regexp.MustCompile(`\bKV_(\w+)|\bnats kv \w+ (\w+)(?: (\S+))?|\x60(duet_(?:nodes|rooms)\w*)\x60`).FindAllStringSubmatch(doc, -1) {
		bucket, key := m[1]+m[2]+m[4], m[3]
		if _, known := named[bucket]; !known {
			t.Errorf("%s: there is no bucket %s", m[0], bucket)
			continue
		}
		named[bucket]++
		if key != "" && key != settingsKey && !strings.HasPrefix(key, nodeKey("")) {
			t.Errorf("%s: there is no key %s", m[0], key)
		}
	}
	for bucket, times := range named {
		if times < 3 {
			t.Errorf("the bucket %s is named %d times", bucket, times)
		}
	}
	_, key := n.claims.key("room")
	for _, want := range []string{
		fmt.Sprintf("values up to %d and 1,%03d bytes", maxNodeValue, maxRoomValue-1000),
		fmt.Sprintf("limit marker TTL of %.0f minute", markerTTL.Minutes()),
		fmt.Sprintf("for longer than %.0f h |", leaseTTL.Hours()),
		"\x60" + key[:2] + "\x60", "\x60" + nodeKey("") + "\x60", "\x60" + settingsKey + "\x60",
		"**Version** " + strings.TrimSuffix(minServer, ".0") + " or later",
	} {
		if !strings.Contains(doc, want) {
			t.Errorf("docs/cluster.md does not say %q", want)
		}
	}
}

// lines hands on each line of a log.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(bytes.TrimSpace(p))
	return len(p), nil
}

func TestStartWhileNATSIsDown(t *testing.T) {
	c := natsCluster(t)
	_, urls := c.account(t, 0)
	gate := newGate(t, urls)
	gate.close()
	log := make(lines, 100)
	cfg := testConfig(gate.url)
	cfg.options = []nats.Option{nats.IgnoreDiscoveredServers()}
	type result struct {
		n   *Node
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := Connect(t.Context(), cfg, slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry())
		done <- result{n, err}
	}()
	for line := ""; !strings.Contains(line, "waiting"); {
		select {
		case line = <-log:
		case got := <-done:
			t.Fatalf("Connect did not wait: %v", got.err)
		case <-time.After(20 * time.Second):
			t.Fatal("nothing in the log of a node that waits for NATS")
		}
	}
	gate.open(t)
	select {
	case got := <-done:
		if got.err != nil {
			t.Fatal(got.err)
		}
		got.n.Close()
	case <-time.After(30 * time.Second):
		t.Fatal("NATS is there, the node is not")
	}

	gate.close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := Connect(ctx, cfg, testLog(t), prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("given up while NATS is down: %v", err)
	}
}

func TestTakeoverFromVanishedOwner(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	cfg := testConfig(urls)
	a, b, c := start(t, cfg), start(t, cfg), start(t, cfg)
	old := find(t, a, "room")
	if got := find(t, b, "room"); got != old {
		t.Fatalf("before: %+v, not %+v", got, old)
	}
	if !waitHeard(c, a.Self()) {
		t.Fatal("no beacon")
	}
	a.kill()
	killed := time.Now()
	var wg sync.WaitGroup
	var owners [2]signaling.Owner
	wg.Go(func() { b.until(t, "a dead", func() bool { return len(b.dead) > 0 }) })
	wg.Go(func() { c.until(t, "a dead", func() bool { return len(c.dead) > 0 }) })
	wg.Wait()
	t.Logf("dead to both after %v with a lease of %v", time.Since(killed), cfg.Lease)
	wg.Go(func() { owners[0] = find(t, b, "room") })
	wg.Go(func() { owners[1] = find(t, c, "room") })
	wg.Wait()
	if owners[0].Node != owners[1].Node || owners[0].Epoch != owners[1].Epoch || owners[0].Node == a.Self() {
		t.Errorf("after: %+v", owners)
	}
	if owners[0].Taken == owners[1].Taken {
		t.Errorf("one of the two took the room: %+v", owners)
	}
	if a.Valid() {
		t.Error("the vanished node is valid")
	}
	if len(b.silent) == 0 || b.silent[0] != a.Self() || b.dead[0] != a.Self() {
		t.Errorf("told: silent %v, dead %v", b.silent, b.dead)
	}
	certificates := testutil.ToFloat64(b.metrics.certificates) + testutil.ToFloat64(c.metrics.certificates)
	if certificates != 1 {
		t.Errorf("%v certificates", certificates)
	}
}

func TestFindWaitsForSuspectedOwner(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	cfg := testConfig(urls)
	a, b := start(t, cfg), start(t, cfg)
	old := find(t, a, "room")
	if !waitHeard(b, a.Self()) {
		t.Fatal("no beacon")
	}
	b.peers.doubt(a.Self())
	if got := find(t, b, "room"); got != old { // heard again at its next renewal
		t.Errorf("the owner was doubted for nothing, and the room is of %+v, not of %+v", got, old)
	}
	a.kill()
	b.peers.doubt(a.Self())
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := b.Find(short, "room"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the owner may be dead: %+v, %v", got, err)
	}
	if got := find(t, b, "room"); got.Node != b.Self() || !got.Taken {
		t.Errorf("the owner is dead, and the room is of %+v", got)
	}
}

func waitHeard(r *runningNode, node signaling.NodeID) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := r.peers.await(ctx, node)
	return err == nil
}

func TestRetireFreesRoomsAtOnce(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	cfg := testConfig(urls)
	a, b := start(t, cfg), start(t, cfg)
	find(t, a, "room")
	if !waitHeard(b, a.Self()) {
		t.Fatal("no beacon")
	}
	a.stop()
	if err := <-a.ended; err != nil {
		t.Fatalf("Run ended with %v", err)
	}
	if err := a.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.Valid() {
		t.Error("valid after its end")
	}
	start := time.Now()
	b.until(t, "a dead", func() bool { return len(b.dead) > 0 })
	if len(b.silent) > 0 || len(b.Nodes()) > 1 {
		t.Errorf("a node that said goodbye is silent (%v), or still there: %+v", b.silent, b.Nodes())
	}
	if got := find(t, b, "room"); got.Node != b.Self() || !got.Taken {
		t.Errorf("the room is of %+v", got)
	}
	if took := time.Since(start); took >= cfg.Renew*quietTenths/10 {
		t.Errorf("it took %v, as long as for a node that fell silent", took)
	}
	if _, err := a.Find(t.Context(), "another"); err == nil {
		t.Error("a retired node finds rooms")
	}
}

func TestPausedNodeIsNotValid(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	cfg := testConfig(urls)
	var paused atomic.Int64
	cfg.clock = func() time.Duration { return bootTime() + time.Duration(paused.Load()) }
	a := start(t, cfg)
	if !a.Valid() {
		t.Fatal("not valid")
	}
	paused.Add(int64(cfg.Fence)) // SIGSTOP, and on
	if a.Valid() {
		t.Error("valid after a pause as long as the fence")
	}
	eventually(t, "valid again", a.Valid) // nobody took it for dead
	if frozen := testutil.ToFloat64(a.metrics.frozen); frozen < 0 || frozen > 10 {
		t.Errorf("frozen for %v s", frozen)
	}
}

func TestDeclaredDead(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	a := start(t, testConfig(urls))
	ctx := t.Context()
	for {
		e, err := a.nodes.get(ctx, nodeKey(a.Self()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = a.nodes.put(ctx, nodeKey(a.Self()), certificate("somebody"), e.revision, certificateTTL); err == nil {
			break
		}
	}
	if err := <-a.ended; !errors.Is(err, ErrLeaseLost) {
		t.Errorf("Run ended with %v", err)
	}
	if a.Valid() {
		t.Error("valid after its end")
	}
	if _, err := a.Find(ctx, "room"); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("Find: %v", err)
	}
}

func TestBucketWiped(t *testing.T) {
	for name, wipe := range map[string]func(context.Context, jetstream.JetStream) error{
		"leases purged": func(ctx context.Context, js jetstream.JetStream) error {
			stream, err := js.Stream(ctx, "KV_duet_nodes")
			if err != nil {
				return err
			}
			return stream.Purge(ctx)
		},
		"leases deleted": func(ctx context.Context, js jetstream.JetStream) error {
			return js.DeleteStream(ctx, "KV_duet_nodes")
		},
		"rooms made anew": func(ctx context.Context, js jetstream.JetStream) error {
			stream, err := js.Stream(ctx, "KV_duet_rooms_01")
			if err != nil {
				return err
			}
			if err := js.DeleteStream(ctx, "KV_duet_rooms_01"); err != nil {
				return err
			}
			_, err = js.CreateStream(ctx, stream.CachedInfo().Config)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, urls := natsCluster(t).account(t)
			gate := newGate(t, urls)
			cfg := testConfig(gate.url)
			cfg.options = []nats.Option{nats.IgnoreDiscoveredServers()}
			a := start(t, cfg)
			conn, err := nats.Connect(urls)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			js, err := jetstream.New(conn)
			if err != nil {
				t.Fatal(err)
			}
			if err := wipe(t.Context(), js); err != nil {
				t.Fatal(err)
			}
			gate.close() // a reconnect has the buckets looked at
			gate.open(t)
			select {
			case err := <-a.ended:
				if !errors.Is(err, ErrLeaseLost) {
					t.Errorf("Run ended with %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the node goes on after its cluster's memory was lost")
			}
		})
	}
}

func TestReceiveWithoutAnswer(t *testing.T) {
	_, urls := natsCluster(t).account(t)
	cfg := testConfig(urls)
	cfg.Buckets = 1
	a, b := start(t, cfg), start(t, cfg)
	sound := b.claims.buckets[0]
	for name, cut := range map[string]*cutRegister{
		"the request lost": {register: sound, before: true},
		"the answer lost":  {register: sound},
	} {
		t.Run(name, func(t *testing.T) {
			room := signaling.RoomID(name)
			old := find(t, a, room)
			defer a.Release(room)
			_, key := b.claims.key(room)
			latest(t, sound, key, old.Epoch)
			b.claims.buckets[0] = cut
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			owner, err := b.Receive(ctx, room, old)
			if !errors.Is(err, signaling.ErrUnsure) {
				t.Fatalf("Receive: %+v, %v", owner, err)
			}
			want := a.Self()
			if !cut.before {
				want = b.Self()
			}
			now, err := a.Look(t.Context(), room)
			if err != nil || now.Node != want {
				t.Fatalf("Look says %+v, %v; it is %s", now, err, want)
			}
			cut.mend()
			b.claims.buckets[0] = sound
			if owner, err := b.Receive(t.Context(), room, old); err == nil {
				t.Errorf("a second Receive: %+v", owner)
			}
			if got := find(t, b, room); got.Node != want {
				t.Errorf("Find of the one that received says %+v; it is %s", got, want)
			} else if got.Node == b.Self() {
				b.Release(room)
			}
		})
	}
}

// latest waits until a reading is as new as a revision.
func latest(t *testing.T, r register, key string, revision uint64) {
	t.Helper()
	for range 100 {
		if e, err := r.get(t.Context(), key); err != nil {
			t.Fatal(err)
		} else if e.revision >= revision {
			return
		}
	}
	t.Fatalf("no replica has revision %d", revision)
}

// TestKVLeaderKilled kills the server that leads the bucket of leases. RAFT elects another after 4 to 9 s,
// and until then nobody renews; the fence is at 8 s. Whatever it is, nobody else owns the room while its
// owner is valid, and it goes on.
func TestKVLeaderKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("an election takes 4 to 9 s")
	}
	c, err := startCluster(3, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	_, urls := c.account(t)
	cfg := testConfig(urls)
	cfg.Lease, cfg.Fence, cfg.Renew = 10*time.Second, 8*time.Second, 2*time.Second
	a, b := start(t, cfg), start(t, cfg)
	old := find(t, a, "room")
	if got := find(t, b, "room"); got != old {
		t.Fatalf("before: %+v, not %+v", got, old)
	}
	stream, err := a.js.Stream(t.Context(), "KV_duet_nodes")
	if err != nil {
		t.Fatal(err)
	}
	var leader int
	if _, err := fmt.Sscanf(stream.CachedInfo().Cluster.Leader, "nats-%d", &leader); err != nil {
		t.Fatal(err)
	}
	c.kill(leader)
	killed := time.Now()
	before := a.keeper.revision.Load()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	frozen := false
	for a.keeper.revision.Load() == before {
		if !a.Valid() {
			frozen = true
		}
		if got, err := b.Find(ctx, "room"); err == nil && got.Node == b.Self() && a.Valid() {
			t.Fatalf("two owners: %+v while %s is valid", got, a.Self())
		}
		if !sleep(ctx, 20*time.Millisecond) {
			t.Fatal("the lease is not renewed 40 s after its leader was killed")
		}
	}
	t.Logf("server %d killed; renewed again after %v, frozen meanwhile: %v", leader, time.Since(killed), frozen)
	if err := c.start(leader); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-a.ended:
		t.Fatalf("the owner ended: %v", err)
	default:
	}
	if got := find(t, a, "room"); got != old {
		t.Errorf("after: %+v, not %+v", got, old)
	}
	a.Release("room")
	a.Release("room")
}

func TestPermissions(t *testing.T) {
	c := natsCluster(t)
	var plain []string
	for _, port := range c.ports {
		plain = append(plain, (&url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)}).String())
	}
	cfg := testConfig(strings.Join(plain, ","))
	cfg.Buckets, cfg.NKeyFile = 1, c.seedFile
	violated := make(chan error, 100)
	cfg.options = []nats.Option{nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violated <- err })}
	a, b := start(t, cfg), start(t, cfg)
	old := find(t, a, "room")
	if !waitHeard(b, a.Self()) {
		t.Fatal("no beacon")
	}
	if got := find(t, b, "room"); got != old {
		t.Fatalf("%+v, not %+v", got, old)
	}
	if _, err := b.Receive(t.Context(), "room", old); err != nil {
		t.Error(err)
	}
	if _, err := a.Ask(t.Context(), b.Self(), []byte("hello")); err != nil {
		t.Error(err)
	}
	if _, silent, err := a.AskAll(t.Context(), []byte("hello")); err != nil || len(silent) > 0 {
		t.Errorf("%v silent, %v", silent, err)
	}
	b.Release("room")
	b.claims.vacate(t.Context(), "room")
	if err := a.checkBuckets(t.Context()); err != nil {
		t.Error(err)
	}
	b.stop()
	<-b.ended
	if err := b.Retire(t.Context()); err != nil {
		t.Error(err)
	}
	a.until(t, "b dead", func() bool { return len(a.dead) > 0 })
	cfg.Create = false
	connect(t, cfg)
	select {
	case err := <-violated:
		t.Error(err)
	default:
	}
	// And no more: keys are never listed, other buckets never touched.
	for _, subject := range []string{"$JS.API.CONSUMER.CREATE.KV_duet_nodes", "$JS.API.STREAM.DELETE.KV_duet_nodes", "$KV.others.key"} {
		if err := a.conn.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-violated:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s is permitted", subject)
		}
	}
}

func BenchmarkValid(b *testing.B) {
	k := newKeeper("n", nil, bootTime, simConfig, slog.Default())
	k.fenceAt.Store(1 << 62)
	for b.Loop() {
		if !k.valid() {
			b.Fatal("not valid")
		}
	}
}
