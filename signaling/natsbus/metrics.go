package natsbus

import "github.com/prometheus/client_golang/prometheus"

// nodeMetrics are of leases and claims. Labels come from small sets.
type nodeMetrics struct {
	kv           *prometheus.HistogramVec
	renewals     *prometheus.CounterVec
	frozen       prometheus.Counter
	claims       *prometheus.CounterVec
	certificates prometheus.Counter
}

func newNodeMetrics(reg prometheus.Registerer, n *Node) *nodeMetrics {
	m := &nodeMetrics{
		kv: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "duet_cluster_kv_seconds",
			Help:    "Calls of the key-value store, by operation and outcome; refused: somebody else was first.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 15)}, []string{"operation", "outcome"}),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_cluster_renewals_total", Help: "Attempts to renew this node's lease, by outcome."}, []string{"outcome"}),
		frozen: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "duet_cluster_frozen_seconds_total", Help: "Time for which this node's rooms stood still because its lease was not confirmed."}),
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_cluster_claims_total", Help: "Rooms that became this node's, by how: free, taken from a dead node, handed over, again its own."}, []string{"how"}),
		certificates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "duet_cluster_certificates_total", Help: "Nodes that this one declared dead."}),
	}
	for _, outcome := range []string{"ok", "refused", "failed"} {
		m.renewals.WithLabelValues(outcome)
	}
	for _, how := range []string{claimFree, claimTaken, claimReceived, claimAgain} {
		m.claims.WithLabelValues(how)
	}
	reg.MustRegister(m.kv, m.renewals, m.frozen, m.claims, m.certificates,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "duet_cluster_lease_age_seconds", Help: "Since the last confirmed renewal was sent."},
			func() float64 { return n.keeper.age().Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "duet_cluster_rooms_claimed", Help: "Rooms that this node holds or has just given up."},
			func() float64 { return float64(n.claims.len()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "duet_cluster_suspects", Help: "Other nodes that give no sign of life and are not proven dead."},
			func() float64 { return float64(n.peers.suspects()) }))
	return m
}
