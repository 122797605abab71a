package signaling

import "github.com/prometheus/client_golang/prometheus"

// metrics of the package. Labels come from small sets, never from clients.
type metrics struct {
	rooms      prometheus.Gauge
	connected  prometheus.Gauge
	away       prometheus.Gauge
	received   [numKinds]prometheus.Counter
	errors     map[error]prometheus.Counter
	resumes    *prometheus.CounterVec
	panics     *prometheus.CounterVec
	latency    prometheus.Histogram
	joined     prometheus.Histogram
	answered   prometheus.Histogram
	reports    *prometheus.CounterVec
	connecting *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	seats := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "duet_seats", Help: "Seats taken, by state: connected, or away and kept for a while."}, []string{"state"})
	messages := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_messages_received_total", Help: "Messages from clients, by type."}, []string{"type"})
	errs := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_errors_total", Help: "Error messages to clients, by code."}, []string{"code"})
	m := &metrics{
		rooms: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "duet_rooms", Help: "Rooms open."}),
		connected: seats.WithLabelValues("connected"),
		away:      seats.WithLabelValues("away"),
		errors:    map[error]prometheus.Counter{},
		resumes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_resumes_total", Help: "Joins of clients that came back, by outcome."}, []string{"outcome"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_panics_total", Help: "Panics that ended one connection or room, by where."}, []string{"where"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "duet_relay_latency_seconds",
			Help:    "From a relayed message read to the same message written, of those not kept for an away seat; sampled.",
			Buckets: prometheus.ExponentialBuckets(25e-6, 2, 16)}),
	}
	people := prometheus.ExponentialBuckets(5e-3, 2, 14) // 5 ms to 41 s: what people wait for
	m.joined = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "duet_join_seconds", Help: "From a join read to its joined.", Buckets: prometheus.ExponentialBuckets(25e-6, 4, 11)})
	m.answered = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "duet_answer_seconds", Help: "From an offer relayed to the answer to it.", Buckets: people})
	m.reports = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_reports_total", Help: "Peer connections as clients report them, by state and path (direct, relay, unknown)."}, []string{"state", "path"})
	m.connecting = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "duet_connect_seconds", Help: "From the answer to connected, as clients report it, by path.", Buckets: people}, []string{"path"})
	for k := range m.received {
		m.received[k] = messages.WithLabelValues(Kind(k).String())
	}
	for _, f := range Failures {
		if f.Code != "" {
			m.errors[f.Err] = errs.WithLabelValues(f.Code)
		}
	}
	for _, outcome := range []string{"resumed", "new", "stale-attempt", "out-of-sync"} {
		m.resumes.WithLabelValues(outcome)
	}
	reg.MustRegister(m.rooms, seats, messages, errs, m.resumes, m.panics, m.latency, m.joined, m.answered, m.reports, m.connecting,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "duet_ring_bytes", Help: "Bytes of messages that wait for delivery or acknowledgement in all rings."},
			func() float64 { return float64(h.waiting.Load()) }))
	return m
}

func (m *metrics) resume(outcome string) { m.resumes.WithLabelValues(outcome).Inc() }

func (m *metrics) refused(err error) {
	if c := m.errors[FailureOf(err).Err]; c != nil {
		c.Inc()
	}
}

func (m *metrics) seatTaken() { m.connected.Inc() }
func (m *metrics) seatAway()  { m.connected.Dec(); m.away.Inc() }
func (m *metrics) seatBack()  { m.away.Dec(); m.connected.Inc() }

func (m *metrics) seatFreed(away bool) {
	if away {
		m.away.Dec()
	} else {
		m.connected.Dec()
	}
}

// reported books what a client says of its peer connection. Its words are from small sets.
func (m *metrics) reported(r Report) {
	path := r.Path
	if path == "" {
		path = "unknown"
	}
	m.reports.WithLabelValues(r.State, path).Inc()
	if r.State == "connected" && r.After > 0 {
		m.connecting.WithLabelValues(path).Observe(r.After.Seconds())
	}
}
