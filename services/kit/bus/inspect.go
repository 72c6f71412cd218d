package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"waymark/services/kit/es"
)

// Report is the state of the bus beside the log.
type Report struct {
	Head     es.Position // of the log
	Relayed  es.Position // position of the last message, 0 when there is none
	Lag      int         // events that belong on the bus and are not there yet
	LagExact bool        // false: Lag was counted up to lagCounted only

	Absent    bool // there is no stream
	Messages  uint64
	Bytes     uint64
	Sequence  uint64    // of the last message
	Created   time.Time // the generation
	Replicas  int
	Consumers []ConsumerReport
}

// ConsumerReport is one reader of the stream, as the server sees it.
type ConsumerReport struct {
	Name    string
	Filters []string
	Pending uint64 // messages not delivered to it
	Created time.Time
}

// lagCounted bounds the work of Inspect.
const lagCounted = 10_000

// Inspect asks the log and the server how the bus is doing.
func Inspect(ctx context.Context, log es.Log, js jetstream.JetStream, mapping Mapping) (Report, error) {
	var out Report
	var err error
	if out.Head, err = log.Head(ctx); err != nil {
		return out, fmt.Errorf("inspect: read the head of the log: %w", err)
	}
	s, err := js.Stream(ctx, StreamName)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		out.Absent = true
	case err != nil:
		return out, fmt.Errorf("inspect: %w", err)
	default:
		if err := out.stream(ctx, s); err != nil {
			return out, fmt.Errorf("inspect: %w", err)
		}
	}
	m, stop := newMapper(mapping), errors.New("counted enough")
	err = log.ReadAll(ctx, out.Relayed, func(e es.Recorded) error {
		if m.relays(&e) {
			out.Lag++
		}
		if out.Lag == lagCounted {
			return stop
		}
		return nil
	})
	if err != nil && !errors.Is(err, stop) {
		return out, fmt.Errorf("inspect: count the lag: %w", err)
	}
	out.LagExact = err == nil
	return out, nil
}

func (r *Report) stream(ctx context.Context, s jetstream.Stream) error {
	info := s.CachedInfo()
	r.Messages, r.Bytes, r.Sequence = info.State.Msgs, info.State.Bytes, info.State.LastSeq
	r.Created, r.Replicas = generation(info), info.Config.Replicas
	tail, err := readTail(ctx, s)
	if err != nil {
		return err
	}
	r.Relayed = tail.position
	list := s.ListConsumers(ctx)
	for c := range list.Info() {
		filters := c.Config.FilterSubjects
		if c.Config.FilterSubject != "" {
			filters = []string{c.Config.FilterSubject}
		}
		r.Consumers = append(r.Consumers, ConsumerReport{Name: c.Name, Filters: filters, Pending: c.NumPending, Created: c.Created})
	}
	return list.Err()
}
