package natsbus

import "github.com/prometheus/client_golang/prometheus"

// Directions, as labels.
const (
	in = iota
	out
)

var directions = [...]string{in: "in", out: "out"}

// busMetrics are the bus's. Labels come from small sets.
type busMetrics struct {
	frames, bytes [len(directions)]prometheus.Counter
	dropped       *prometheus.CounterVec
	asks          *prometheus.HistogramVec
	reconnects    prometheus.Counter
}

func newBusMetrics(reg prometheus.Registerer, b *bus) *busMetrics {
	frames := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_cluster_frames_total", Help: "Frames between nodes, by direction."}, []string{"direction"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_cluster_frame_bytes_total", Help: "Bytes of frames between nodes, by direction."}, []string{"direction"})
	m := &busMetrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_cluster_dropped_total",
			Help: "Messages between nodes that this node dropped, by direction and reason; frames are sent again."}, []string{"direction", "reason"}),
		asks: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "duet_cluster_ask_seconds", Help: "From a request to another node to its answer, by outcome.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 4, 9)}, []string{"outcome"}), // 0.1 ms to 6.5 s
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "duet_cluster_nats_reconnects_total", Help: "Connections to NATS made again after they were lost."}),
	}
	for d, name := range directions {
		m.frames[d], m.bytes[d] = frames.WithLabelValues(name), bytes.WithLabelValues(name)
	}
	for _, reason := range []string{"full", "disconnected", "too-large", "write"} {
		m.dropped.WithLabelValues(directions[out], reason)
	}
	for _, reason := range []string{"unreadable", "overtaken", "late"} {
		m.dropped.WithLabelValues(directions[in], reason)
	}
	for _, outcome := range []string{"answered", "no-node", "unsure", "failed"} {
		m.asks.WithLabelValues(outcome)
	}
	reg.MustRegister(frames, bytes, m.dropped, m.asks, m.reconnects,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "duet_cluster_queued_messages", Help: "Messages that wait for the connection to NATS."},
			func() float64 { return float64(b.queue.len()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "duet_cluster_slow_total",
			Help: "Messages from other nodes dropped because this node did not get round to them; frames are sent again."},
			func() float64 { return float64(b.tooSlow()) }))
	return m
}

func (m *busMetrics) drop(direction int, reason string) {
	m.dropped.WithLabelValues(directions[direction], reason).Inc()
}
