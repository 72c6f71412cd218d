package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// heartbeat is how often an idle server says that it is there; two missing ones
// end a read.
const heartbeat = time.Second

// errLost says that the connection broke. What was asked over it is never
// answered, and what the server kept for it may be gone.
var errLost = errors.New("the connection to NATS was lost")

// whileConnected returns a context that ends with errLost when the connection
// breaks. The caller must call stop.
func whileConnected(ctx context.Context, nc *nats.Conn) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	status := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	go func() {
		select {
		case <-status:
			cancel(errLost)
		case <-ctx.Done():
		}
		nc.RemoveStatusListener(status)
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// orLost names the loss of the connection where it is what ended ctx.
func orLost(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errLost) {
		return errLost
	}
	return err
}

// errIdle says that no message came within the time.
var errIdle = errors.New("no message for now")

// from says where a read begins: at a sequence, or else at a time, or else with
// what comes next.
type from struct {
	sequence uint64
	time     time.Time
}

// reading is one unbroken run of messages, in the order of the stream: a
// consumer without acknowledgements of its own, in the server's memory. It does
// not mend itself as jetstream.OrderedConsumer does, because that one goes on by
// sequence, and after a rebuild the same sequence may be another event. It
// belongs to one goroutine.
type reading struct {
	iter       jetstream.MessagesContext
	generation time.Time
	delivered  uint64 // messages so far; the server numbers them
	pending    uint64 // messages that the server had left, when last heard
	close      func()
}

// open starts a reading of the subjects (nil is all) and makes sure that it is
// of the generation, unless that is zero.
func open(ctx context.Context, js jetstream.JetStream, name string, subjects []string, start from, gen time.Time) (*reading, error) {
	cfg := jetstream.ConsumerConfig{
		Name:              "waymark-" + name + "-" + uuid.NewString()[:8],
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubjects:    subjects,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: time.Minute,
	}
	switch {
	case start.sequence > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, start.sequence
	case !start.time.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &start.time
	default:
		cfg.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	r := &reading{generation: gen}
	r.close = func() {
		if r.iter != nil {
			r.iter.Stop()
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if js.Conn().IsConnected() {
			_ = js.DeleteConsumer(ctx, StreamName, cfg.Name) // else the server forgets it by itself
		}
	}
	fail := func(err error) (*reading, error) {
		r.close()
		return nil, fmt.Errorf("read %s: %w", StreamName, err)
	}
	c, err := js.CreateConsumer(ctx, StreamName, cfg)
	if err != nil {
		return fail(err)
	}
	// The stream may have been made anew since the start was chosen. From here on
	// that would delete the consumer.
	s, err := js.Stream(ctx, StreamName)
	if err != nil {
		return fail(err)
	}
	now := generation(s.CachedInfo())
	if !gen.IsZero() && !gen.Equal(now) {
		return fail(errors.New("the stream was made anew"))
	}
	r.generation, r.pending = now, c.CachedInfo().NumPending
	r.iter, err = c.Messages(jetstream.PullMaxMessages(512), jetstream.PullHeartbeat(heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fail(err)
	}
	return r, nil
}

// next returns the next message, or errIdle after idle. Every other error ends
// the reading. Once ctx has ended nothing more comes, though messages may wait:
// Next would choose between the two by chance.
func (r *reading) next(ctx context.Context, idle time.Duration) (jetstream.Msg, uint64, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	wait, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	m, err := r.iter.Next(jetstream.NextContext(wait))
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, 0, context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, 0, errIdle
	default:
		return nil, 0, fmt.Errorf("read %s: %w", StreamName, err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", StreamName, err)
	}
	r.pending = meta.NumPending
	r.delivered++
	if meta.Sequence.Consumer != r.delivered {
		return nil, 0, fmt.Errorf("read %s: message %d of the reading came as %d: one was lost on the way", StreamName, meta.Sequence.Consumer, r.delivered)
	}
	return m, meta.Sequence.Stream, nil
}
