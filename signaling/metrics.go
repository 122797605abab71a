package signaling

import "github.com/prometheus/client_golang/prometheus"

// metrics of the package. Labels come from small sets, never from clients.
type metrics struct {
	rooms     prometheus.Gauge
	connected prometheus.Gauge
	away      prometheus.Gauge
	received  [numKinds]prometheus.Counter
	errors    map[error]prometheus.Counter
	resumes   *prometheus.CounterVec
	panics    *prometheus.CounterVec
	latency   prometheus.Histogram
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
	reg.MustRegister(m.rooms, seats, messages, errs, m.resumes, m.panics, m.latency,
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
