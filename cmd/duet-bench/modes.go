package main

import (
	"fmt"
	"time"
)

// A plan is how much each mode does.
type plan struct {
	Repeats     int
	Idle        int           // connections of the connect mode
	rest        time.Duration // before their memory is read
	Pairs       int           // rooms of the relay, latency and resumable modes
	InFlight    int           // messages under way each way in a room
	relay       window
	Rate        int // messages a second of the latency and frozen modes
	latency     window
	rounds      int // of the latency mode in one repeat: in each the systems take turns
	CallsAtOnce int
	calls       window
	growth      []int // rooms
	GrowthRate  int   // messages a second of the growth mode
	growing     window
	heartbeats  int // connections
	heartbeat   time.Duration
	FrozenRooms int
	FrozenPairs int // of windows, one with a frozen reader and one without, undisturbed
	frozen      window
	Clients     int           // of the restart mode
	Down        time.Duration // from the server's end to its next start
	Starts      int
	ClusterRate int // messages a second of the cluster mode
	hops        window
	Claims      int               // joins of the cluster mode, each in a room of its own
	drain       window            // of messages beside a handover
	Takeovers   int               // rooms of a node that is killed
	profile     map[string]window // by mode; the profile covers the measured part of it
}

var full = plan{
	Repeats: 3, Idle: 4000, rest: 2 * time.Second,
	Pairs: 100, InFlight: 4, relay: window{500 * time.Millisecond, time.Second, 3},
	Rate: 4000, latency: window{500 * time.Millisecond, time.Second, 3}, rounds: 2,
	CallsAtOnce: 64, calls: window{500 * time.Millisecond, 3 * time.Second, 1},
	growth: []int{100, 1000, 3000, 9000}, GrowthRate: 20_000, growing: window{300 * time.Millisecond, 700 * time.Millisecond, 2},
	heartbeats: 10_000, heartbeat: pingInterval,
	FrozenRooms: 1000, FrozenPairs: 8, frozen: window{100 * time.Millisecond, 500 * time.Millisecond, 1},
	Clients: 5000, Down: time.Second,
	Starts:      20,
	ClusterRate: 1000, hops: window{500 * time.Millisecond, time.Second, 3}, Claims: 3000,
	drain: window{500 * time.Millisecond, 6 * time.Second, 1}, Takeovers: 200,
	profile: profileWindows(6 * time.Second),
}

var quick = plan{
	Repeats: 1, Idle: 4000, rest: time.Second,
	Pairs: 100, InFlight: 4, relay: window{300 * time.Millisecond, 700 * time.Millisecond, 2},
	Rate: 4000, latency: window{300 * time.Millisecond, time.Second, 2}, rounds: 2,
	CallsAtOnce: 64, calls: window{300 * time.Millisecond, time.Second, 1},
	growth: []int{100, 1000, 9000}, GrowthRate: 20_000, growing: window{300 * time.Millisecond, 500 * time.Millisecond, 2},
	heartbeats: 10_000, heartbeat: pingInterval,
	FrozenRooms: 1000, FrozenPairs: 5, frozen: window{100 * time.Millisecond, 500 * time.Millisecond, 1},
	Clients: 1000, Down: time.Second,
	Starts:      5,
	ClusterRate: 1000, hops: window{300 * time.Millisecond, time.Second, 2}, Claims: 1000,
	drain: window{300 * time.Millisecond, 6 * time.Second, 1}, Takeovers: 100,
	profile: profileWindows(3 * time.Second),
}

// profileWindows gives modes that leave the server idle more time: a profile has 100 samples for each
// second of CPU time.
func profileWindows(busy time.Duration) map[string]window {
	warm := 500 * time.Millisecond
	return map[string]window{"relay": {warm, busy, 1}, "latency": {warm, 3 * busy, 1}, "calls": {warm, busy, 1}, "growth": {warm, busy, 1}}
}

// pingInterval is the server's default; each idle connection gets one ping in that time.
const pingInterval = 20 * time.Second

// A mode is one thing that is measured.
type mode struct {
	name     string
	what     string
	systems  []string
	variants func(*plan) []int // nil: one, 0
	rounds   func(*plan) int   // how often the systems take turns in one repeat; nil: once
	metrics  func(variant int) []string
	run      func(t *trial) error
	lasts    func(*plan) time.Duration // about, beside starting the server and filling it
}

var (
	onlyDuet = []string{"duet"}
	overHTTP = []string{"duet", "socket.io", "coder", "gws"}
	growing  = []string{"duet", "gws", "tcp"}
	waiting  = []string{"duet", "tcp"}
)

var modes = []mode{
	{name: "connect", what: "connect, join, wait", systems: systemNames, metrics: keys("memory", "base", "join"), run: (*trial).connect,
		lasts: func(p *plan) time.Duration { return p.rest + time.Duration(p.Idle)*100*time.Microsecond }},
	{name: "relay", what: "relay at saturation", systems: systemNames, metrics: keys("relay"), run: (*trial).saturate,
		lasts: func(p *plan) time.Duration { return p.relay.lasts() }},
	{name: "latency", what: "relay at a fixed rate", systems: systemNames, metrics: keys("p50", "p99", "late"), run: (*trial).latency,
		rounds: func(p *plan) int { return p.rounds },
		lasts:  func(p *plan) time.Duration { return p.latency.lasts() }},
	{name: "calls", what: "whole calls", systems: systemNames, metrics: keys("calls"), run: (*trial).calls,
		lasts: func(p *plan) time.Duration { return p.calls.lasts() }},
	{name: "growth", what: "more rooms", systems: growing, metrics: growthKeys, run: (*trial).grow,
		variants: func(p *plan) []int { return p.growth },
		lasts:    func(p *plan) time.Duration { return 2*p.growing.lasts() + time.Second }},
	{name: "resumable", what: "sessions against plain", systems: onlyDuet, metrics: sessionKey, run: (*trial).resumable,
		variants: func(*plan) []int { return []int{0, 1} },
		lasts:    func(p *plan) time.Duration { return p.relay.lasts() }},
	{name: "heartbeat", what: "pings of idle connections", systems: onlyDuet, metrics: keys("heartbeat"), run: (*trial).heartbeats,
		lasts: func(p *plan) time.Duration { return p.heartbeat + time.Second }},
	{name: "frozen", what: "a reader that stopped", systems: waiting, metrics: keys("flowing", "frozen", "held"), run: (*trial).frozen,
		lasts: func(p *plan) time.Duration {
			return time.Duration(2*p.FrozenPairs) * (p.frozen.lasts() + stuckAfter)
		}},
	{name: "restart", what: "a server killed, and all clients back", systems: systemNames, metrics: keys("half", "back", "return"), run: (*trial).restart,
		lasts: func(p *plan) time.Duration { return p.Down + 6*time.Second }},
	{name: "start", what: "start to first answer", systems: overHTTP, metrics: keys("start"), run: (*trial).starting,
		lasts: func(p *plan) time.Duration { return time.Duration(p.Starts) * 20 * time.Millisecond }},
	{name: "cluster", what: "several nodes", systems: onlyDuet, metrics: func(v int) []string { return clusterTrials[v].keys }, run: (*trial).cluster,
		variants: clusterVariants,
		lasts:    func(*plan) time.Duration { return 7 * time.Second }}, // some 4 s most of them, 20 s a takeover
	{name: "image", what: "container image", systems: onlyDuet, metrics: keys("image"), run: (*trial).image,
		lasts: func(*plan) time.Duration { return 0 }},
}

func keys(k ...string) func(int) []string { return func(int) []string { return k } }

func growthKeys(rooms int) []string {
	return []string{fmt.Sprintf("growth/%d", rooms), fmt.Sprintf("turns/%d", rooms)}
}
func sessionKey(on int) []string { return []string{[]string{"plain", "session"}[on]} }
