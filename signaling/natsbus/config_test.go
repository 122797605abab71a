package natsbus

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"duet/signaling"
)

func TestConfigCheck(t *testing.T) {
	good := Config{URL: "nats://127.0.0.1", Prefix: "duet", Replicas: 3, Buckets: 1, NodeName: "host-1", Version: "v1",
		Lease: 10 * time.Second, Fence: 8 * time.Second, Renew: 2 * time.Second}
	if err := good.Check(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no URL", func(c *Config) { c.URL = "" }, "no URL"},
		{"two identities", func(c *Config) { c.CredsFile, c.NKeyFile = "a", "b" }, "give one"},
		{"certificate without key", func(c *Config) { c.CertFile = "a" }, "go together"},
		{"prefix of two words", func(c *Config) { c.Prefix = "du.et" }, "prefix"},
		{"name with a dot", func(c *Config) { c.NodeName = "host.example" }, "name"},
		{"name too long", func(c *Config) { c.NodeName = strings.Repeat("n", 64) }, "name"},
		{"two replicas", func(c *Config) { c.Replicas = 2 }, "2 replicas"},
		{"no bucket", func(c *Config) { c.Buckets = 0 }, "0 buckets"},
		{"too many buckets", func(c *Config) { c.Buckets = 65 }, "65 buckets"},
		{"fence too close to the lease", func(c *Config) { c.Fence = 8001 * time.Millisecond }, "at most 8s"},
		{"fence too close to a short lease", func(c *Config) { c.Lease, c.Fence, c.Renew = 4*time.Second, 3001*time.Millisecond, time.Second/2 }, "at most 3s"},
		{"fence of three renewals", func(c *Config) { c.Fence = 6 * time.Second }, "more than 6s"},
		{"renewals without a pause", func(c *Config) { c.Renew = 0 }, "100ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := good
			test.change(&c)
			if err := c.Check(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Check says %v, want %q in it", err, test.want)
			}
		})
	}
	if err := (Config{}).Check(); strings.Count(fmt.Sprint(err), "\n") < 4 {
		t.Errorf("not every fault at once: %v", err)
	}
}

func TestServerVersion(t *testing.T) {
	for version, want := range map[string]bool{
		"2.11.9": false, "2.12.0": true, "2.12.0-RC.1": true, "2.15.2": true, "3.0.0": true, "1.99.99": false, "": false, "dev": false,
	} {
		if got := atLeast(version, minServer); got != want {
			t.Errorf("atLeast(%q) = %v", version, got)
		}
	}
}

// TestOutcome: what a refused or failed write means must not be mistaken.
func TestOutcome(t *testing.T) {
	refused, unsure := errRevision, signaling.ErrUnsure
	for _, test := range []struct {
		name string
		err  error
		want error // nil: neither, it was not done
	}{
		{"one replica", &jetstream.APIError{Code: 400, ErrorCode: 10071}, refused},
		{"several replicas", fmt.Errorf("nats: %w", &jetstream.APIError{Code: 400, ErrorCode: 10164}), refused},
		{"failed at the server", &jetstream.APIError{Code: 503, ErrorCode: 10077}, unsure},
		{"no answer", nats.ErrTimeout, unsure},
		{"connection closed", nats.ErrConnectionClosed, unsure},
		{"nobody there", jetstream.ErrNoStreamResponse, nil},
		{"not connected", nats.ErrReconnectBufExceeded, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := outcome(test.err)
			if errors.Is(err, refused) != (test.want == refused) || errors.Is(err, unsure) != (test.want == unsure) {
				t.Errorf("outcome is %v", err)
			}
		})
	}
}
