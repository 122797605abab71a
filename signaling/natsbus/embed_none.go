//go:build !natsserver

package natsbus

import "errors"

// StartEmbedded fails: this program was built without a NATS server, which would be most of it.
func StartEmbedded(EmbeddedConfig) (url string, stop func(), err error) {
	return "", nil, errors.New("this program was built without a NATS server: build it with go build -tags natsserver ./cmd/duet, or run NATS apart from it and give its URL")
}
