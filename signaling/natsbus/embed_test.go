package natsbus

import (
	"strings"
	"testing"
)

func goodEmbedded() EmbeddedConfig {
	return EmbeddedConfig{Name: "one", Dir: "data", Listen: "0.0.0.0:6222", Secret: strings.Repeat("s", minSecret),
		Routes: []string{"one.example:6222", "two.example:6222", "three.example:6222"}}
}

func TestEmbeddedConfig(t *testing.T) {
	if err := goodEmbedded().Check(); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for _, test := range []struct {
		name   string
		change func(*EmbeddedConfig)
		want   string
	}{
		{"name", func(c *EmbeddedConfig) { c.Name = "a b" }, `name "a b"`},
		{"folder", func(c *EmbeddedConfig) { c.Dir = "" }, "no folder"},
		{"address", func(c *EmbeddedConfig) { c.Listen = "0.0.0.0" }, `address "0.0.0.0"`},
		{"any port", func(c *EmbeddedConfig) { c.Listen = "0.0.0.0:0" }, `address "0.0.0.0:0"`},
		{"two servers", func(c *EmbeddedConfig) { c.Routes = c.Routes[:2] }, "2 routes"},
		{"one twice", func(c *EmbeddedConfig) { c.Routes[1] = c.Routes[0] }, "twice"},
		{"route", func(c *EmbeddedConfig) { c.Routes[1] = "nats://two:6222" }, `route "nats://two:6222"`},
		{"secret", func(c *EmbeddedConfig) { c.Secret = "s3cret" }, "6 bytes"},
		{"half of TLS", func(c *EmbeddedConfig) { c.CertFile = "cert.pem" }, "all three files"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := goodEmbedded()
			test.change(&c)
			err := c.Check()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %s", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), c.Secret) {
				t.Errorf("the error tells the secret")
			}
		})
	}
}
