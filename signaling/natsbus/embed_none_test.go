//go:build !natsserver

package natsbus

import (
	"strings"
	"testing"
)

func TestWithoutEmbeddedServer(t *testing.T) {
	if _, _, err := StartEmbedded(goodEmbedded()); err == nil || !strings.Contains(err.Error(), "-tags natsserver") {
		t.Errorf("the error does not say how to build it: %v", err)
	}
}
