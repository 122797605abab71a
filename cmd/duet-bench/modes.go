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
	CallsAtOnce int
	calls       window
	growth      []int // rooms
	GrowthRate  int   // messages a second of the growth mode
	heartbeats  int   // connections
	heartbeat   time.Duration
	FrozenRooms int
	Starts      int
}

var full = plan{
	Repeats: 3, Idle: 4000, rest: 3 * time.Second,
	Pairs: 100, InFlight: 4, relay: window{time.Second, 4 * time.Second},
	Rate: 4000, latency: window{time.Second, 6 * time.Second},
	CallsAtOnce: 64, calls: window{time.Second, 4 * time.Second},
	growth: []int{100, 300, 1000, 3000, 9000}, GrowthRate: 20_000, heartbeats: 10_000, heartbeat: pingInterval,
	FrozenRooms: 1000, Starts: 20,
}

var quick = plan{
	Repeats: 1, Idle: 4000, rest: time.Second,
	Pairs: 100, InFlight: 4, relay: window{500 * time.Millisecond, time.Second},
	Rate: 4000, latency: window{500 * time.Millisecond, 2 * time.Second},
	CallsAtOnce: 64, calls: window{500 * time.Millisecond, time.Second},
	growth: []int{100, 1000, 9000}, GrowthRate: 20_000, heartbeats: 10_000, heartbeat: pingInterval,
	FrozenRooms: 1000, Starts: 5,
}

// pingInterval is the server's default; each idle connection gets one ping in that time.
const pingInterval = 20 * time.Second

// A mode is one thing that is measured.
type mode struct {
	name     string
	what     string
	systems  []string
	variants func(*plan) []int // nil: one, 0
	metrics  func(variant int) []string
	run      func(t *trial) error
}

var (
	onlyDuet = []string{"duet"}
	overHTTP = []string{"duet", "socket.io", "coder", "gws"}
	growing  = []string{"duet", "gws", "tcp"}
)

var modes = []mode{
	{name: "connect", what: "connect, join, wait", systems: systemNames, metrics: keys("memory", "base", "join"), run: (*trial).connect},
	{name: "relay", what: "relay at saturation", systems: systemNames, metrics: keys("relay"), run: (*trial).saturate},
	{name: "latency", what: "relay at a fixed rate", systems: systemNames, metrics: keys("p50", "p99"), run: (*trial).latency},
	{name: "calls", what: "whole calls", systems: systemNames, metrics: keys("calls"), run: (*trial).calls},
	{name: "growth", what: "more rooms", systems: growing, metrics: growthKeys, run: (*trial).grow,
		variants: func(p *plan) []int { return p.growth }},
	{name: "resumable", what: "sessions against plain", systems: onlyDuet, metrics: sessionKey, run: (*trial).resumable,
		variants: func(*plan) []int { return []int{0, 1} }},
	{name: "heartbeat", what: "pings of idle connections", systems: onlyDuet, metrics: keys("heartbeat"), run: (*trial).heartbeats},
	{name: "frozen", what: "a reader that stopped", systems: onlyDuet, metrics: frozenKey, run: (*trial).frozen,
		variants: func(*plan) []int { return []int{0, 1} }},
	{name: "start", what: "start to first answer", systems: overHTTP, metrics: keys("start"), run: (*trial).starting},
	{name: "size", what: "binary", systems: onlyDuet, metrics: keys("size"), run: (*trial).size},
}

func keys(k ...string) func(int) []string { return func(int) []string { return k } }

func growthKeys(rooms int) []string {
	return []string{fmt.Sprintf("growth/%d", rooms), fmt.Sprintf("turns/%d", rooms)}
}
func sessionKey(on int) []string { return []string{[]string{"plain", "session"}[on]} }
func frozenKey(on int) []string  { return []string{[]string{"flowing", "frozen"}[on]} }
