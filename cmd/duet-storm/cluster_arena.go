package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"duet/cmd/internal/natsproc"
	"duet/httpapi/faultproxy"
)

const (
	nodeCount    = 3
	natsCount    = 3
	operatorKey  = "duet-storm-operates-here"
	balanceEvery = 250 * time.Millisecond // the balancer's look at /readyz, and that at the rooms
	askWithin    = time.Second
	leaveWithin  = 20 * time.Second // from SIGTERM to a node's end
)

// buckets are those whose leaders are killed.
var buckets = []string{"duet_nodes", "duet_rooms_00"}

// An arena is three nodes, three NATS servers, and a proxy for each node's way to each server.
type arena struct {
	world  *world
	random *rand.Rand // of the goroutine that strikes
	drain  time.Duration
	next   string // the binary of the next release; "" where no fault needs it
	folder string
	wires  *network // between the machines; nil = everything is on this one
	nats   *natsproc.Cluster
	nodes  []*node
	client *http.Client

	stop    context.CancelFunc
	working sync.WaitGroup
	owners  owners
}

// A node is a duet, again and again at the same address.
type node struct {
	arena *arena
	name  string
	addr  string
	at    *machine            // nil = this one
	newer bool                // its next process is of the next release
	ways  []*faultproxy.Proxy // to each NATS server; none where the node is on a machine of its own
	up    atomic.Bool         // /readyz said so

	mu      sync.Mutex
	running *server
	mayEnd  bool // by itself: its lease is lost
}

func newArena(ctx context.Context, w *world, random *rand.Rand, drain time.Duration, f *fault) (_ *arena, err error) {
	a := &arena{world: w, random: random, drain: drain, client: &http.Client{Timeout: askWithin}}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.folder, err = os.MkdirTemp("", "duet-storm-nats-"); err != nil {
		return nil, err
	}
	if f.upgrade {
		if a.next, err = w.compile(ctx, "duet-next", "-ldflags=-X duet/signaling/natsbus.release=1-2"); err != nil {
			return nil, err
		}
	}
	if f.wires {
		if a.wires, err = layNetwork(nodeCount + natsCount); err != nil {
			return nil, err
		}
		a.nats, err = natsproc.StartAt(ctx, a.folder, a.wires.places())
	} else {
		a.nats, err = natsproc.Start(ctx, a.folder, natsCount)
	}
	if err != nil {
		return nil, err
	}
	for i := range nodeCount {
		n := &node{arena: a, name: fmt.Sprintf("n%d", i+1), addr: "127.0.0.1:0"}
		a.nodes = append(a.nodes, n)
		if f.wires {
			n.at = a.wires.machines[natsCount+i]
			n.addr = n.at.here() + ":0"
		} else if err := n.layWays(); err != nil {
			return nil, err
		}
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	var working context.Context
	working, a.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, n := range a.nodes {
		a.working.Go(func() {
			for rested(working, balanceEvery) {
				n.up.Store(n.get("http://"+n.addr+"/readyz", nil) == nil)
			}
		})
	}
	a.working.Go(func() { a.countOwners(working) })
	a.working.Go(func() { a.listOwners(working) })
	return a, a.settle(ctx)
}

func (a *arena) close() {
	if a.stop != nil {
		a.stop()
		a.working.Wait()
	}
	for _, n := range a.nodes {
		if s := n.server(); s != nil {
			s.kill()
		}
		for _, way := range n.ways {
			way.Close()
		}
	}
	if a.nats != nil {
		a.nats.Close()
	}
	if a.wires != nil {
		a.wires.close()
	}
	a.client.CloseIdleConnections()
	if a.folder != "" {
		os.RemoveAll(a.folder)
	}
}

// settle waits until all is whole: every server, every copy, every node, and the balancer knows.
func (a *arena) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, s := range a.nats.Servers {
		if s.Process() == nil {
			if err := s.Start(); err != nil {
				return err
			}
		}
	}
	if err := a.nats.Settle(ctx, buckets...); err != nil {
		return err
	}
	for _, n := range a.nodes {
		if n.ended() {
			if err := n.start(); err != nil {
				return err
			}
		}
		if err := n.untilReady(ctx); err != nil {
			return err
		}
	}
	return a.untilEmpty(ctx)
}

// untilEmpty waits until no node runs a room: those of clients that could not say goodbye end with their
// seats' grace period, and would count as somebody's in the next run.
func (a *arena) untilEmpty(ctx context.Context) error {
	for {
		rooms := 0.0
		for _, n := range a.nodes {
			values, err := n.server().metrics(ctx)
			if err != nil {
				return err
			}
			rooms += values["duet_rooms"]
		}
		if rooms == 0 {
			return nil
		}
		if !rested(ctx, lookAgain) {
			return fmt.Errorf("%v rooms are left of the run before: %w", rooms, ctx.Err())
		}
	}
}

// natsURLs are where the machines reach the NATS servers.
func (a *arena) natsURLs() (urls []string) {
	for i, s := range a.nats.Servers {
		_, port, _ := net.SplitHostPort(s.Addr)
		urls = append(urls, "nats://"+net.JoinHostPort(a.wires.machines[i].others(), port))
	}
	return urls
}

// ready is a node that the balancer takes for ready; any, if there is none.
func (a *arena) ready() *node {
	var ready []*node
	for _, n := range a.nodes {
		if n.up.Load() {
			ready = append(ready, n)
		}
	}
	if len(ready) == 0 {
		ready = a.nodes
	}
	return ready[rand.IntN(len(ready))]
}

// get asks, and reads the answer as JSON into v, or to the end where v is nil.
func (n *node) get(url string, v any) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+operatorKey)
	res, err := n.arena.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	if v == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	return json.NewDecoder(res.Body).Decode(v)
}

func (n *node) server() *server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running
}

// operator is the URL of the operator's side.
func (n *node) operator() string { return strings.TrimSuffix(n.server().operator, "/metrics") }

// layWays puts a proxy before each NATS server.
func (n *node) layWays() error {
	for _, s := range n.arena.nats.Servers {
		way, err := faultproxy.Start(s.Addr, nil)
		if err != nil {
			return err
		}
		n.ways = append(n.ways, way)
	}
	return nil
}

func (n *node) start() error {
	world := *n.arena.world
	if n.newer {
		world.binary = n.arena.next
	}
	host, _, err := net.SplitHostPort(n.addr)
	if err != nil {
		return err
	}
	var urls []string
	for _, way := range n.ways {
		urls = append(urls, "nats://"+way.Addr())
	}
	if n.at != nil {
		world.place = n.at.enter()
		urls = n.arena.natsURLs()
	}
	s, err := world.start(n.addr, "DUET_ADMIN_ADDR="+host+":0", "DUET_NATS_URL="+strings.Join(urls, ","), "DUET_NODE_ID="+n.name, "DUET_ADMIN_TOKEN="+operatorKey, "DUET_ROOM_CAPACITY=4", "DUET_DRAIN="+n.arena.drain.String())
	if err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	n.mu.Lock()
	n.running, n.mayEnd = s, false
	n.mu.Unlock()
	if strings.HasSuffix(n.addr, ":0") { // it keeps the port that it was given first
		n.addr = s.addr
	}
	fmt.Fprintf(n.arena.world.progress, "%s: %s is process %d\n", n.arena.world.name, s.node, s.cmd.Process.Pid)
	return nil
}

func (n *node) ended() bool {
	select {
	case <-n.server().ended:
		return true
	default:
		return false
	}
}

func (n *node) untilReady(ctx context.Context) error {
	for !n.up.Load() {
		if n.ended() {
			return fmt.Errorf("%s ended", n.name)
		}
		if !rested(ctx, lookAgain) {
			return fmt.Errorf("%s is not ready: %w", n.name, ctx.Err())
		}
	}
	return nil
}

// kill ends the node as a crash does.
func (n *node) kill() {
	n.up.Store(false)
	n.server().kill()
}

// leave ends the node with SIGTERM, and returns when it has ended.
func (n *node) leave() error {
	if err := n.server().signal(syscall.SIGTERM, leaveWithin); err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	return nil
}

// hold cuts the node's ways to NATS in two, or makes them whole again.
func (n *node) hold(holding bool, directions ...faultproxy.Direction) {
	for _, way := range n.ways {
		for _, d := range directions {
			way.Hold(d, holding)
		}
	}
}

// cut ends the node's connections to NATS.
func (n *node) cut() {
	for _, way := range n.ways {
		way.Cut(faultproxy.Cut{Fault: faultproxy.Reset})
	}
}

// ---- who owns what

// A page is the operator's list of rooms. One that moves while the nodes are asked may be in it twice.
type page struct {
	Rooms []struct{ Room, Node string }
	Total int
	Next  string
}

// list returns the owner of each room that has one, and no other that has just moved to or from it.
func (n *node) list() (map[string]string, error) {
	owners, moves := map[string]string{}, map[string]bool{}
	for after := ""; ; {
		var p page
		if err := n.get(n.operator()+"/api/rooms?limit=500&after="+after, &p); err != nil {
			return nil, err
		}
		for _, r := range p.Rooms {
			if owner, twice := owners[r.Room]; twice && owner != r.Node {
				moves[r.Room] = true
			}
			owners[r.Room] = r.Node
		}
		if after = p.Next; after == "" {
			maps.DeleteFunc(owners, func(room, _ string) bool { return moves[room] })
			return owners, nil
		}
	}
}

// An owners watches that no room has two at once.
type owners struct {
	mu     sync.Mutex
	rooms  int // that there are at most; 0 = nobody looks
	had    map[string][]string
	most   int // owners of one room at once
	faults []error
}

// begin forgets the last run.
func (o *owners) begin(rooms int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rooms, o.had, o.most, o.faults = rooms, map[string][]string{}, 0, nil
}

// end returns what was seen.
func (o *owners) end() (most int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rooms = 0
	return o.most, some(o.faults)
}

func (o *owners) two(format string, args ...any) {
	o.most = 2
	o.faults = append(o.faults, fmt.Errorf("two owners: "+format, args...))
}

// countOwners adds up the rooms of all nodes that are ready before and after their rooms are counted: a
// room that two of them run makes more than there are.
func (a *arena) countOwners(ctx context.Context) {
	for rested(ctx, balanceEvery) {
		var asking sync.WaitGroup
		var total atomic.Int64
		var mu sync.Mutex
		var each []string
		for _, n := range a.nodes {
			asking.Go(func() {
				within, cancel := context.WithTimeout(ctx, askWithin)
				defer cancel()
				if n.get("http://"+n.addr+"/readyz", nil) != nil {
					return
				}
				values, err := n.server().metrics(within)
				if err != nil || n.get("http://"+n.addr+"/readyz", nil) != nil {
					return
				}
				total.Add(int64(values["duet_rooms"]))
				mu.Lock()
				defer mu.Unlock()
				each = append(each, fmt.Sprintf("%s %v", n.name, values["duet_rooms"]))
			})
		}
		asking.Wait()
		o := &a.owners
		o.mu.Lock()
		if o.rooms > 0 && int(total.Load()) > o.rooms {
			o.two("%d rooms run, of %d: %s", total.Load(), o.rooms, strings.Join(each, ", "))
		} else if total.Load() > 0 {
			o.most = max(o.most, 1)
		}
		o.mu.Unlock()
	}
}

// listOwners asks one node after the other who runs what. A node's process never owns a room again that
// it has lost, so one that is seen to has been at it all the time.
func (a *arena) listOwners(ctx context.Context) {
	for i := 0; rested(ctx, balanceEvery); i++ {
		n := a.nodes[i%len(a.nodes)]
		if n.ended() {
			continue
		}
		list, err := n.list()
		if err != nil {
			continue
		}
		o := &a.owners
		o.mu.Lock()
		for room, owner := range list {
			had := o.had[room]
			if o.rooms == 0 || len(had) > 0 && had[len(had)-1] == owner {
				continue
			}
			for _, before := range had {
				if before == owner {
					o.two("%s was on %s, and is on %s", room, strings.Join(had, ", then "), owner)
				}
			}
			o.had[room] = append(had, owner)
		}
		o.mu.Unlock()
	}
}

// ownedBy returns which rooms a node owns now.
func (a *arena) ownedBy(ctx context.Context, n *node) (func(room string) bool, error) {
	for {
		list, err := n.list()
		if err == nil {
			self := n.server().node
			return func(room string) bool { return list[room] == self }, nil
		}
		if !rested(ctx, lookAgain) {
			return nil, fmt.Errorf("list the rooms: %w", err)
		}
	}
}

// unexpected says which nodes have ended that had no reason to.
func (a *arena) unexpected() error {
	var errs []error
	for _, n := range a.nodes {
		n.mu.Lock()
		mayEnd := n.mayEnd
		n.mu.Unlock()
		if n.ended() && !mayEnd {
			errs = append(errs, fmt.Errorf("%s ended: %w", n.name, errors.Join(n.server().err, errors.New("by itself"))))
		}
	}
	return errors.Join(errs...)
}

// keepLogs makes the folder for logs, where one is wanted.
func keepLogs(w *world) error {
	if w.logs == "" {
		return nil
	}
	var err error
	if w.logs, err = filepath.Abs(w.logs); err != nil {
		return err
	}
	return os.MkdirAll(w.logs, 0o755)
}
