package natsbus

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"duet/signaling"
)

const (
	// Before 2.12 compare-and-set had holes after a change of leader.
	minServer   = "2.12.0"
	minAPILevel = 2

	tryAgain    = time.Second
	sayWaiting  = 10 * time.Second
	checkEvery  = time.Minute     // that the buckets are still those they were
	checkSooner = 2 * time.Second // while the lease is not confirmed

	maxNodeValue = 512 // bytes, headers included
	maxRoomValue = 1024
)

// A Node is this process among others: signaling's Directory and Bus over NATS.
type Node struct {
	*bus

	cfg     Config
	log     *slog.Logger
	conn    *nats.Conn
	js      jetstream.JetStream
	metrics *nodeMetrics
	nodes   *bucket
	rooms   []*bucket
	gen     string // of the cluster's settings
	keeper  *keeper
	peers   *peers
	claims  *claims
}

var (
	_ signaling.Directory = (*Node)(nil)
	_ signaling.Bus       = (*Node)(nil)
)

// A fatal error is one that waiting does not mend.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// Connect connects to NATS, sees that its version and buckets are right, that the cluster has the same
// settings and that the other nodes understand this one, and takes this node's lease. While NATS cannot be
// used it waits, and says so in the log, until ctx ends. Run goes on from there; the lease lasts as long as
// cfg.Lease until then.
func Connect(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Node, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if cfg.clock == nil {
		cfg.clock = bootTime
	}
	if cfg.speaks == (span{}) {
		cfg.speaks = speaks()
	}
	options, err := cfg.connectOptions()
	if err != nil {
		return nil, err
	}
	conn, err := nats.Connect(cfg.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	n, err := newNode(cfg, conn, log.With("component", "cluster"), reg)
	if err == nil {
		err = n.prepare(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	n.log.Info("this node is part of the cluster", "node", n.Self(), "server", conn.ConnectedServerName(), "server_version", conn.ConnectedServerVersion())
	return n, nil
}

func newNode(cfg Config, conn *nats.Conn, log *slog.Logger, reg prometheus.Registerer) (*Node, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	self := newNodeID(cfg.NodeName)
	n := &Node{cfg: cfg, log: log, conn: conn, js: js}
	n.nodes = &bucket{js: js, name: cfg.Prefix + "_nodes"}
	var registers []register
	for i := range cfg.Buckets {
		b := &bucket{js: js, name: fmt.Sprintf("%s_rooms_%02x", cfg.Prefix, i)}
		n.rooms = append(n.rooms, b)
		registers = append(registers, b)
	}
	n.keeper = newKeeper(self, n.nodes, cfg.clock, cfg, log)
	n.peers = newPeers(self, n.nodes, cfg.clock, cfg, log)
	n.claims = newClaims(self, registers, n.peers, n.keeper, cfg.clock, log)
	n.metrics = newNodeMetrics(reg, n)
	for _, b := range n.buckets() {
		b.took = n.metrics.kv
	}
	n.keeper.renewals = func(outcome string) { n.metrics.renewals.WithLabelValues(outcome).Inc() }
	n.keeper.onFrozen = func(d time.Duration) { n.metrics.frozen.Add(d.Seconds()) }
	n.peers.declared = n.metrics.certificates.Inc
	n.claims.claimed = func(how string) { n.metrics.claims.WithLabelValues(how).Inc() }
	n.bus = newBus(conn, self, cfg.Version, cfg.speaks, cfg.Prefix, n.peers.heard, log, reg)
	n.peers.buried = n.bus.forget
	return n, nil
}

// newNodeID makes an identity that no process ever had: a dead one stays dead.
func newNodeID(name string) signaling.NodeID {
	var b [4]byte
	rand.Read(b[:])
	random := base32.StdEncoding.EncodeToString(b[:])[:6]
	return signaling.NodeID(name + "-" + strings.ToLower(random))
}

func (n *Node) buckets() []*bucket { return append([]*bucket{n.nodes}, n.rooms...) }

// prepare does what has to be done before the first room, however long NATS takes.
func (n *Node) prepare(ctx context.Context) error {
	var said time.Time
	for {
		err := n.tryPrepare(ctx)
		if err == nil {
			return nil
		}
		if f, ok := errors.AsType[fatal](err); ok {
			return f.error
		}
		if ctx.Err() == nil && time.Since(said) >= sayWaiting {
			said = time.Now()
			n.log.Warn("NATS cannot be used yet: waiting", "err", err)
		}
		if !sleep(ctx, tryAgain) {
			return fmt.Errorf("wait for NATS: %w", errors.Join(context.Cause(ctx), err))
		}
	}
}

func (n *Node) tryPrepare(ctx context.Context) error {
	if !n.conn.IsConnected() {
		if err := n.conn.LastError(); err != nil {
			return fmt.Errorf("not connected: %w", err)
		}
		return errors.New("not connected")
	}
	if err := n.checkServer(ctx); err != nil {
		return err
	}
	for _, b := range n.buckets() {
		limit := int32(maxRoomValue)
		if b == n.nodes {
			limit = maxNodeValue
		}
		if err := n.open(ctx, b, limit); err != nil {
			return err
		}
	}
	if err := n.agree(ctx); err != nil {
		return err
	}
	if err := n.meet(ctx); err != nil {
		return err
	}
	for {
		if _, renewed := n.keeper.step(ctx); renewed {
			return nil
		}
		select {
		case <-n.keeper.lost:
			return fatal{fmt.Errorf("take the first lease of node %s: %w", n.Self(), ErrLeaseLost)}
		default:
		}
		if !sleep(ctx, retryAfter) {
			return errors.New("no answer to this node's first lease")
		}
	}
}

func (n *Node) checkServer(ctx context.Context) error {
	if v := n.conn.ConnectedServerVersion(); !atLeast(v, minServer) {
		return fatal{fmt.Errorf("the NATS server is version %s: %s or later is needed", v, minServer)}
	}
	ctx, cancel := context.WithTimeout(ctx, kvTimeout)
	defer cancel()
	info, err := n.js.AccountInfo(ctx)
	if err != nil {
		return fmt.Errorf("ask for JetStream (is it enabled, and may this account use it?): %w", err)
	}
	if info.API.Level < minAPILevel {
		return fatal{fmt.Errorf("JetStream has API level %d: %d is needed, as in NATS %s", info.API.Level, minAPILevel, minServer)}
	}
	return nil
}

// atLeast compares versions of NATS servers, such as 2.12.1 or 2.14.0-RC.1.
func atLeast(version, least string) bool {
	var have, want [3]int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &have[0], &have[1], &have[2]); err != nil {
		return false
	}
	fmt.Sscanf(least, "%d.%d.%d", &want[0], &want[1], &want[2])
	for i := range have {
		if have[i] != want[i] {
			return have[i] > want[i]
		}
	}
	return true
}

// open finds a bucket, or makes it.
func (n *Node) open(ctx context.Context, b *bucket, maxValue int32) error {
	ctx, cancel := context.WithTimeout(ctx, 2*kvTimeout)
	defer cancel()
	name := "KV_" + b.name
	stream, err := n.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if !n.cfg.Create {
			return fatal{fmt.Errorf("the bucket %s does not exist, and this node may not make it: start one node with DUET_NATS_CREATE=true and the rights for it, or make the bucket with the properties in docs/cluster.md", b.name)}
		}
		_, err = n.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: b.name, Description: "duet: who owns which room", History: 1, MaxValueSize: maxValue,
			Storage: jetstream.FileStorage, Replicas: n.cfg.Replicas, LimitMarkerTTL: markerTTL,
		})
		if err == nil || errors.Is(err, jetstream.ErrBucketExists) { // another node was first
			stream, err = n.js.Stream(ctx, name)
		}
	}
	if err != nil {
		return fmt.Errorf("open the bucket %s: %w", b.name, err)
	}
	if err := checkBucket(stream.CachedInfo().Config, maxValue); err != nil {
		return fatal{fmt.Errorf("the bucket %s cannot be used: %w", b.name, err)}
	}
	if have := stream.CachedInfo().Config.Replicas; have != n.cfg.Replicas {
		n.log.Warn("a bucket has another number of replicas than the settings say", "bucket", b.name, "replicas", have, "settings", n.cfg.Replicas)
	}
	b.stream = stream
	return nil
}

// checkBucket finds what would make keys vanish, or TTLs not work.
func checkBucket(c jetstream.StreamConfig, maxValue int32) error {
	var faults []error
	check := func(ok bool, fault string) {
		if !ok {
			faults = append(faults, errors.New(fault))
		}
	}
	check(c.MaxMsgsPerSubject == 1, "its history is not 1")
	check(c.Storage == jetstream.FileStorage, "it is not kept in files")
	check(c.AllowMsgTTL && c.SubjectDeleteMarkerTTL > 0, "it has no limit marker TTL")
	check(c.AllowDirect, "it does not allow direct reads")
	check(c.AllowRollup && !c.DenyPurge, "its keys cannot be purged")
	check(c.MaxAge == 0, "it has a TTL of its own")
	check(c.MaxMsgs <= 0 && c.MaxBytes <= 0 || c.Discard == jetstream.DiscardNew, "it discards old keys when it is full")
	check(c.MaxMsgSize < 0 || c.MaxMsgSize >= maxValue, fmt.Sprintf("it takes no values of %d bytes", maxValue))
	return errors.Join(faults...)
}

// A settings is what all nodes of a cluster have alike, in the key cfg.
type settings struct {
	V       int    `json:"v"`
	Buckets int    `json:"buckets"`
	Lease   string `json:"lease"`
	Fence   string `json:"fence"`
	Renew   string `json:"renew"`
	Gen     string `json:"gen"` // random: another one means that the bucket was made anew
}

const (
	settingsKey  = "cfg"
	settingsForm = 1
)

func (n *Node) settings() settings {
	return settings{V: settingsForm, Buckets: n.cfg.Buckets, Lease: n.cfg.Lease.String(), Fence: n.cfg.Fence.String(), Renew: n.cfg.Renew.String()}
}

// agree sees that the cluster has this node's settings. The first node writes them.
func (n *Node) agree(ctx context.Context) error {
	found, ok, err := n.readSettings(ctx)
	if err == nil && !ok {
		found, err = n.writeSettings(ctx) // another node may be first
	}
	if err != nil {
		return err
	}
	if found.V != settingsForm {
		return fatal{fmt.Errorf("the cluster's settings, key %s of the bucket %s, have form %d, and this release reads %d: end all nodes and delete the key, or start the release that wrote it",
			settingsKey, n.nodes.name, found.V, settingsForm)}
	}
	n.gen = found.Gen
	found.Gen = ""
	if own := n.settings(); found != own {
		return fatal{fmt.Errorf("the cluster was started with other settings: %s; this node has %s. Give all nodes the same; to change them, end all nodes and delete the key %s of the bucket %s",
			found, own, settingsKey, n.nodes.name)}
	}
	return nil
}

func (s settings) String() string {
	return fmt.Sprintf("%d buckets, lease %s, fence %s, renewal every %s", s.Buckets, s.Lease, s.Fence, s.Renew)
}

func (n *Node) readSettings(ctx context.Context) (s settings, ok bool, err error) {
	e, err := n.nodes.get(ctx, settingsKey)
	if err != nil || e.value == nil {
		return settings{}, false, err
	}
	if err := json.Unmarshal(e.value, &s); err != nil {
		return settings{}, false, fatal{fmt.Errorf("the cluster's settings, key %s of the bucket %s, cannot be read: %w", settingsKey, n.nodes.name, err)}
	}
	return s, true, nil
}

// Run renews the lease, watches the other nodes, brings l what they send, and gives up rooms that nobody
// holds, until ctx ends. The error wraps ErrLeaseLost when the lease is lost: the process must end then.
func (n *Node) Run(ctx context.Context, l signaling.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.bus.run(ctx, l) })
	g.Go(func() error {
		alive := func(revision uint64) { n.sayBeacon(beacon{Node: n.Self(), Revision: revision, Info: l.Info()}) }
		return n.keeper.run(ctx, alive)
	})
	g.Go(func() error { n.peers.run(ctx, l); return nil })
	g.Go(func() error { n.claims.run(ctx); return nil })
	g.Go(func() error { n.watchBuckets(ctx); return nil })
	return g.Wait()
}

// Retire declares this node dead, so that rooms it still has are free at once, and tells the others. Nothing
// is valid after it. Run must have ended.
func (n *Node) Retire(ctx context.Context) error {
	if err := n.keeper.retire(ctx); err != nil {
		return err
	}
	return n.sayGone(ctx, beacon{Revision: n.keeper.revision.Load()})
}

// Close closes the connection to NATS.
func (n *Node) Close() { n.conn.Close() }

// writeSettings writes this node's settings where there are none.
func (n *Node) writeSettings(ctx context.Context) (settings, error) {
	s := n.settings()
	s.Gen = rand.Text()
	value, err := json.Marshal(s)
	if err != nil {
		panic(err) // plain members
	}
	if _, err := n.nodes.put(ctx, settingsKey, value, 0, 0); err != nil {
		return settings{}, fmt.Errorf("write the cluster's settings: %w", err)
	}
	return s, nil
}

// watchBuckets ends the lease when a bucket is not the one it was: whatever was in it is free for others.
func (n *Node) watchBuckets(ctx context.Context) {
	connected := n.conn.StatusChanged(nats.CONNECTED)
	defer n.conn.RemoveStatusListener(connected)
	ticker := time.NewTicker(checkSooner)
	defer ticker.Stop()
	checked := n.cfg.clock()
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-connected:
			if !open {
				connected = nil
			}
		case <-ticker.C:
			if n.keeper.valid() && n.cfg.clock()-checked < checkEvery {
				continue
			}
		}
		checked = n.cfg.clock()
		if err := n.checkBuckets(ctx); err != nil {
			n.log.Error("the cluster's memory was lost: this node ends", "err", err)
			n.keeper.lose()
			return
		}
	}
}

// checkBuckets returns an error where a bucket is not the one it was; when in doubt, none.
func (n *Node) checkBuckets(ctx context.Context) error {
	for _, b := range n.buckets() {
		within, cancel := context.WithTimeout(ctx, kvTimeout)
		stream, err := n.js.Stream(within, "KV_"+b.name)
		cancel()
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound) && !n.keeper.valid():
			return fmt.Errorf("the bucket %s is gone", b.name)
		case err == nil && !stream.CachedInfo().Created.Equal(b.stream.CachedInfo().Created):
			return fmt.Errorf("the bucket %s was made anew", b.name)
		}
	}
	s, ok, err := n.readSettings(ctx)
	if err == nil && !ok { // only a write tells whether they are gone
		s, err = n.writeSettings(ctx)
	}
	if err == nil && s.Gen != n.gen {
		return fmt.Errorf("the bucket %s was emptied", n.nodes.name)
	}
	return nil
}

// Self implements signaling.Directory.
func (n *Node) Self() signaling.NodeID { return n.keeper.self }

// Lost waits until the lease is lost, which is the error, or until ctx ends or the node has retired. Run says
// so later: it waits for requests under way, and these for rooms that stand still.
func (n *Node) Lost(ctx context.Context) error {
	select {
	case <-n.keeper.lost:
		return n.keeper.ending()
	case <-ctx.Done():
		return nil
	}
}

// Valid implements signaling.Directory: it costs one reading of the clock.
func (n *Node) Valid() bool { return n.keeper.valid() }

// Find implements signaling.Directory.
func (n *Node) Find(ctx context.Context, room signaling.RoomID) (signaling.Owner, error) {
	return n.claims.Find(ctx, room)
}

// Look implements signaling.Directory. For a room that this node holds see claims.Look.
func (n *Node) Look(ctx context.Context, room signaling.RoomID) (signaling.Owner, error) {
	return n.claims.Look(ctx, room)
}

// Release implements signaling.Directory.
func (n *Node) Release(room signaling.RoomID) { n.claims.Release(room) }

// Receive implements signaling.Directory.
func (n *Node) Receive(ctx context.Context, room signaling.RoomID, from signaling.Owner) (signaling.Owner, error) {
	return n.claims.Receive(ctx, room, from)
}

// Ask implements signaling.Bus. A node that does not listen is looked into at once.
func (n *Node) Ask(ctx context.Context, to signaling.NodeID, request []byte) ([]byte, error) {
	answer, err := n.bus.Ask(ctx, to, request)
	if errors.Is(err, signaling.ErrNoNode) {
		n.peers.doubt(to)
	}
	return answer, err
}
