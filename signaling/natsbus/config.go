package natsbus

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	maxBuckets  = 64
	maxNodeName = 63 // as a label of a host name, RFC 1035 section 2.3.4

	// kvTimeout bounds one call of the key-value store.
	kvTimeout = 1500 * time.Millisecond

	pingEvery  = 2 * time.Second // two without an answer: another server is tried
	flushAfter = 2 * time.Second // bounds how long a stuck socket holds up who publishes
)

// A Config says how this node takes part in a cluster.
type Config struct {
	URL string // of the NATS servers, comma-separated

	// Who this node is to NATS, and how it knows the servers; "" where not needed.
	CredsFile string // JWT and seed
	NKeyFile  string // seed alone
	CAFile    string // PEM
	CertFile  string // PEM, with KeyFile
	KeyFile   string

	Prefix   string // of subjects and buckets: clusters with different ones share an account
	Replicas int    // of each bucket that is created: 1, 3 or 5
	Buckets  int    // rooms are spread over so many, 1 to 64; the same on all nodes
	Create   bool   // buckets that do not exist; otherwise the operator makes them

	NodeName string // ASCII letters, digits, '-' and '_', at most 63; each start adds 6 random characters
	Version  string // of the program, for the other nodes' operators

	// A node may act for its rooms until Fence after its last successful renewal; one that has not
	// renewed for Lease may be declared dead. It renews every Renew. The same on all nodes.
	Lease, Fence, Renew time.Duration

	// For tests.
	clock   clock
	options []nats.Option
	speaks  span
}

// Check finds every fault at once.
func (c Config) Check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.URL == "" {
		fault("no URL of a NATS server")
	}
	if c.CredsFile != "" && c.NKeyFile != "" {
		fault("both a credentials file and an nkey file: give one")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		fault("a certificate and its key go together: give both files or none")
	}
	if !isWord(c.Prefix) {
		fault("the prefix %q is not made of letters, digits, '-' and '_'", c.Prefix)
	}
	if !isWord(c.NodeName) || len(c.NodeName) > maxNodeName {
		fault("the node's name %q is not made of 1 to %d letters, digits, '-' and '_'", c.NodeName, maxNodeName)
	}
	if c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5 {
		fault("%d replicas: choose 3, or 5, or 1 for development", c.Replicas)
	}
	if c.Buckets < 1 || c.Buckets > maxBuckets {
		fault("%d buckets: choose 1 to %d", c.Buckets, maxBuckets)
	}
	if c.Renew < 100*time.Millisecond {
		fault("a renewal every %v: choose 100ms or more", c.Renew)
	}
	// The margin is for clocks that run at different rates (20 %) and for the time between a look at the
	// clock and what follows it.
	if latest := c.Lease - max(c.Lease/5, time.Second); c.Fence > latest {
		fault("a fence of %v with a lease of %v: choose at most %v", c.Fence, c.Lease, latest)
	}
	if c.Fence <= 3*c.Renew {
		fault("a fence of %v with a renewal every %v: choose more than %v", c.Fence, c.Renew, 3*c.Renew)
	}
	return errors.Join(faults...)
}

// isWord reports whether s may be part of a subject and of a bucket's name.
func isWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
}

// connectOptions are those without which a node would act on what is long over, or give up.
func (c Config) connectOptions() ([]nats.Option, error) {
	options := []nats.Option{
		nats.Name("duet " + c.NodeName),
		nats.Timeout(2 * time.Second),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // credentials that are renewed late must not end the node
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(time.Second, time.Second),
		nats.ReconnectBufSize(-1), // what could not be sent at once is stale
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(flushAfter),
	}
	if c.CredsFile != "" {
		options = append(options, nats.UserCredentials(c.CredsFile))
	}
	if c.NKeyFile != "" {
		option, err := nats.NkeyOptionFromSeed(c.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the nkey file: %w", err)
		}
		options = append(options, option)
	}
	if c.CAFile != "" {
		options = append(options, nats.RootCAs(c.CAFile))
	}
	if c.CertFile != "" {
		options = append(options, nats.ClientCert(c.CertFile, c.KeyFile))
	}
	return append(options, c.options...), nil
}
