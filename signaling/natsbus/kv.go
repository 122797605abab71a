package natsbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"duet/signaling"
)

// errRevision says that a key has another revision than the one expected, or is just being written.
// Nothing was written.
var errRevision = errors.New("the key has another revision")

// A register holds the last value of each key. What get says may be old (any replica answers, and one
// may be behind), so that every decision is a put or a purge: those succeed only on the key's latest
// revision, and of two at the same time one does. An error of theirs that wraps signaling.ErrUnsure says
// that it may have been done, or may yet be; all others say that it was not and will not be.
type register interface {
	get(ctx context.Context, key string) (entry, error)
	// put writes the key if its revision is still the one given, 0 for a key that has never been, and
	// returns the new one. The key vanishes after ttl, which is for the garbage alone.
	put(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error)
	purge(ctx context.Context, key string, revision uint64) error
}

// An entry is what a register holds of a key. Revisions of a register go up with every write.
type entry struct {
	value    []byte // nil: there is none
	revision uint64 // also of what marks a deleted key; 0: nothing is known of the key
}

// markerTTL bounds how long a deleted key leaves its mark.
const markerTTL = time.Minute

// A bucket is a register in JetStream's key-value store (ADR-8). It is written with plain publishes,
// because the client's Update cannot give a TTL, and so makes a key that has one last for ever.
type bucket struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	name   string
	took   prometheus.ObserverVec // by operation and outcome
}

func (b *bucket) get(ctx context.Context, key string) (e entry, err error) {
	defer b.observe("get", time.Now(), &err)
	ctx, cancel := context.WithTimeout(ctx, kvTimeout)
	defer cancel()
	m, err := b.stream.GetLastMsgForSubject(ctx, b.subject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return entry{}, nil
	}
	if err != nil {
		return entry{}, fmt.Errorf("read %s of %s: %w", key, b.name, err)
	}
	e.revision = m.Sequence
	if m.Header.Get(jetstream.MarkerReasonHeader) == "" && m.Header.Get("KV-Operation") == "" {
		e.value = m.Data
	}
	return e, nil
}

func (b *bucket) put(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (_ uint64, err error) {
	defer b.observe("put", time.Now(), &err)
	new, err := b.publish(ctx, &nats.Msg{Subject: b.subject(key), Data: value}, revision, ttl)
	if err != nil {
		return 0, fmt.Errorf("write %s of %s: %w", key, b.name, err)
	}
	return new, nil
}

func (b *bucket) purge(ctx context.Context, key string, revision uint64) (err error) {
	defer b.observe("purge", time.Now(), &err)
	m := &nats.Msg{Subject: b.subject(key), Header: nats.Header{
		"KV-Operation":      {"PURGE"},
		jetstream.MsgRollup: {jetstream.MsgRollupSubject},
	}}
	if _, err := b.publish(ctx, m, revision, markerTTL); err != nil {
		return fmt.Errorf("purge %s of %s: %w", key, b.name, err)
	}
	return nil
}

func (b *bucket) publish(ctx context.Context, m *nats.Msg, revision uint64, ttl time.Duration) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, kvTimeout)
	defer cancel()
	ack, err := b.js.PublishMsg(ctx, m,
		jetstream.WithExpectLastSequencePerSubject(revision), jetstream.WithMsgTTL(ttl), jetstream.WithRetryAttempts(0))
	if err != nil {
		return 0, outcome(err)
	}
	return ack.Sequence, nil
}

// outcome tells the errors of a publish apart.
func outcome(err error) error {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		// 10071 from one replica, 10164 from several, also where another write of the key is under way.
		if api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant {
			return fmt.Errorf("%w: %w", errRevision, err)
		}
	}
	for _, unsent := range []error{jetstream.ErrNoStreamResponse, nats.ErrReconnectBufExceeded, nats.ErrMaxPayload} {
		if errors.Is(err, unsent) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", signaling.ErrUnsure, err)
}

func (b *bucket) subject(key string) string { return "$KV." + b.name + "." + key }

func (b *bucket) observe(operation string, start time.Time, err *error) {
	outcome := "ok"
	switch {
	case *err == nil:
	case errors.Is(*err, errRevision):
		outcome = "refused"
	default:
		outcome = "failed"
	}
	b.took.With(prometheus.Labels{"operation": operation, "outcome": outcome}).Observe(time.Since(start).Seconds())
}
