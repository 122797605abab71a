package relay

import "github.com/prometheus/client_golang/prometheus"

// Reasons of duet_turn_refused_total.
const (
	whyCredentials = "credentials" // wrong, or made with another secret
	whyExpired     = "expired"     // run out
	whyUserQuota   = "user-quota"  // the user has its share of allocations
	whyTotalQuota  = "total-quota" // all allocations are taken
	whyNoPort      = "no-port"     // other programs have the ports
	whyPeer        = "peer"        // an internal address, or a port that is not the relay's
	whyPermissions = "permissions" // more peers than one allocation may have
	whyConnections = "connections" // more TCP connections than there may be
	whyTLS         = "tls"         // a handshake that fails, or none where TLS alone is spoken
	whyMalformed   = "malformed"   // no message that makes sense
	whyRequested   = "unsupported" // a TCP allocation
)

type metrics struct {
	allocations        prometheus.Gauge
	toPeers, fromPeers prometheus.Counter
	refused            *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "duet_turn_bytes_total",
		Help: "Bytes that the relay passed on, without headers, by direction.",
	}, []string{"direction"})
	m := &metrics{
		allocations: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "duet_turn_allocations",
			Help: "Relayed addresses in use.",
		}),
		toPeers:   bytes.WithLabelValues("to-peer"),
		fromPeers: bytes.WithLabelValues("from-peer"),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_turn_refused_total",
			Help: "What the relay refused, by reason.",
		}, []string{"why"}),
	}
	for _, why := range []string{whyCredentials, whyExpired, whyUserQuota, whyTotalQuota, whyNoPort, whyPeer,
		whyPermissions, whyConnections, whyTLS, whyMalformed, whyRequested} {
		m.refused.WithLabelValues(why)
	}
	reg.MustRegister(m.allocations, bytes, m.refused)
	return m
}

func (m *metrics) refuse(why string) { m.refused.WithLabelValues(why).Inc() }
