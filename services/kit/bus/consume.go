package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/reflect/protoregistry"

	"waymark/services/kit/es"
	"waymark/services/kit/planted"
)

// ConsumeOptions of Consume.
type ConsumeOptions struct {
	// Name of the consumer, shown in traces and at the server: "carelead".
	Name string
	// Categories to hear; nil is all, and only then is a hole in the stream
	// noticed by its chain. With categories a hole is noticed where it breaks the
	// run of revisions of a stream heard of lately.
	Categories []string
	// Checkpoint keeps the place; nil begins at the first event each time.
	Checkpoint Checkpoint
	// SaveEvery is after how many events the mark is saved; 0 is 256. It is also
	// saved when nothing came for Idle and at the end.
	SaveEvery int
	// Idle is the quiet time after which the mark is saved; 0 is 3 s. Not less
	// than twice the heartbeat of one second, or a dead server goes unnoticed.
	Idle time.Duration
	// Health hears when consumption stops going forward, at every attempt after
	// that, and when it goes on again; nil is nobody.
	Health func(ConsumeHealth)
	// Clock stamps ConsumeHealth.Since; nil leaves it zero.
	Clock func() time.Time
	// Types finds event types by full name; nil means those linked in.
	Types *protoregistry.Types
	// Slog hears of faults, once each; nil is silent.
	Slog *slog.Logger
	// Backoff is the first wait before an event is handled again; it doubles up
	// to 30 s. 0 is 100 ms.
	Backoff time.Duration
	// Jitter draws a wait between 0 and max; nil draws at random.
	Jitter func(max time.Duration) time.Duration
}

// ConsumeHealth says whether a consumer goes forward.
type ConsumeHealth struct {
	Err      error     // why it is stuck; nil when it goes forward
	Since    time.Time // stuck since
	Attempts int       // failed ones in a row
	Mark     Mark      // the last event handled
}

// Gap says that the stream lacks events that this consumer should have heard.
// It waits until the stream is made whole (see Scrub and Rebuild).
type Gap struct {
	After, Before es.Position // handled and found
}

func (e *Gap) Error() string {
	return fmt.Sprintf("events are missing on the bus between positions %d and %d: scrub, then rebuild", e.After, e.Before)
}

// Consume calls handle for each event of the categories in log order, from the
// checkpoint on, until ctx ends, whose error it returns.
//
// Every event is handled at least once. An event whose handling fails is handled
// again, with back-off and for as long as it takes, and no event after it before
// it succeeds: order matters more than progress. An event may come again after a
// crash, because the mark is saved from time to time; handle must be idempotent.
// Within one call of Consume no event is handled again after it succeeded,
// whatever happens to NATS or the stream. An event of a type that this build
// does not know is not skipped either.
func Consume(ctx context.Context, js jetstream.JetStream, opts ConsumeOptions, handle func(context.Context, Event) error) error {
	if opts.SaveEvery == 0 {
		opts.SaveEvery = 256
	}
	if opts.Idle == 0 {
		opts.Idle = 3 * heartbeat
	}
	if opts.Backoff == 0 {
		opts.Backoff = 100 * time.Millisecond
	}
	if opts.Types == nil {
		opts.Types = protoregistry.GlobalTypes
	}
	if opts.Slog == nil {
		opts.Slog = slog.New(slog.DiscardHandler)
	}
	c := &consumer{js: js, opts: opts, handle: handle, revisions: map[string]es.Revision{}}
	defer c.saveAtEnd(ctx)
	wait := newBackoff(opts.Backoff, 5*time.Second, opts.Jitter)
	for {
		before := c.mark.Position
		err := c.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.stuck(ctx, err)
		if c.mark.Position != before {
			wait.reset()
		}
		if !wait.sleep(ctx) {
			return ctx.Err()
		}
	}
}

// consumer is one call of Consume. It belongs to one goroutine.
type consumer struct {
	js     jetstream.JetStream
	opts   ConsumeOptions
	handle func(context.Context, Event) error

	loaded    bool // mark is the checkpoint's or newer
	mark      Mark
	unsaved   int // events handled since the mark was saved
	revisions map[string]es.Revision
	health    ConsumeHealth
}

// revisionsKept bounds what a consumer remembers of streams, to notice holes.
const revisionsKept = 20_000

// session reads from the mark until something fails.
func (c *consumer) session(ctx context.Context) (err error) {
	connected, stop := whileConnected(ctx, c.js.Conn())
	defer stop()
	defer func() { err = orLost(connected, err) }()
	setup, cancel := context.WithTimeout(connected, 10*time.Second)
	defer cancel()
	if !c.loaded && c.opts.Checkpoint != nil {
		m, err := c.opts.Checkpoint.Load(setup)
		if err != nil {
			return err
		}
		c.mark = m
	}
	c.loaded = true
	s, err := c.js.Stream(setup, StreamName)
	if err != nil {
		return fmt.Errorf("stream %s: %w", StreamName, err)
	}
	start, err := c.find(setup, s)
	if err != nil {
		return err
	}
	r, err := open(setup, c.js, c.opts.Name, subjectsOf(c.opts.Categories), from{sequence: start}, generation(s.CachedInfo()))
	if err != nil {
		return err
	}
	defer r.close()
	for {
		m, sequence, err := r.next(connected, c.opts.Idle)
		if errors.Is(err, errIdle) {
			c.well() // nothing is waiting
			c.save(ctx)
			continue
		}
		if err != nil {
			return err
		}
		p, err := placeOf(sequence, m.Headers())
		if err != nil {
			return err
		}
		if p.position <= c.mark.Position {
			continue // seen, in this generation or an earlier one
		}
		if planted.Is("checkpoint before effect") {
			c.mark = Mark{Generation: r.generation, Sequence: p.sequence, Position: p.position}
			c.unsaved++
			c.save(ctx)
		}
		if err := c.one(ctx, m, p); err != nil {
			return err
		}
		c.mark = Mark{Generation: r.generation, Sequence: p.sequence, Position: p.position}
		if c.unsaved++; c.unsaved >= c.opts.SaveEvery {
			c.save(ctx)
		}
	}
}

// find returns the sequence to read from. The mark's own sequence is believed
// only when the message there is still the one that was handled.
func (c *consumer) find(ctx context.Context, s jetstream.Stream) (uint64, error) {
	if c.mark.Position == 0 {
		return 1, nil
	}
	if c.mark.Generation.Equal(generation(s.CachedInfo())) {
		m, err := s.GetMsg(ctx, c.mark.Sequence)
		if err == nil {
			if p, err := placeOf(m.Sequence, m.Header); err == nil && p.position == c.mark.Position {
				return c.mark.Sequence + 1, nil
			}
		} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return 0, fmt.Errorf("find the place in %s: %w", StreamName, err)
		}
	}
	return sequenceAfter(ctx, s, c.mark.Position)
}

// one handles one message until it succeeds or ctx ends. Its other errors are of
// the message: nothing was handled.
func (c *consumer) one(ctx context.Context, m jetstream.Msg, p place) error {
	if len(c.opts.Categories) == 0 && p.previous > c.mark.Position {
		return &Gap{After: c.mark.Position, Before: p.position}
	}
	e, err := decode(c.opts.Types, p, m.Subject(), m.Data())
	if err != nil {
		return err
	}
	stream := e.Category + "-" + e.StreamID
	if last, ok := c.revisions[stream]; ok && e.Revision > last+1 && len(c.opts.Categories) > 0 {
		return &Gap{After: c.mark.Position, Before: p.position}
	}
	var links []trace.Link
	if k, ok := link(m.Headers()); ok {
		links = append(links, k)
	}
	wait := newBackoff(c.opts.Backoff, 30*time.Second, c.opts.Jitter)
	for {
		err := c.attempt(ctx, e, links)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.stuck(ctx, fmt.Errorf("handle the %s at position %d: %w", e.Message.ProtoReflect().Descriptor().Name(), e.Position, err))
		if !wait.sleep(ctx) {
			return ctx.Err()
		}
	}
	if len(c.revisions) >= revisionsKept {
		clear(c.revisions)
	}
	c.revisions[stream] = e.Revision
	c.well()
	return nil
}

func (c *consumer) attempt(ctx context.Context, e Event, links []trace.Link) error {
	ctx, span := startSpan(ctx, "process "+e.Category, trace.SpanKindConsumer, links, attrOperation.String("process"),
		attrConsumer.String(c.opts.Name), attrCategory.String(e.Category), attrPosition.Int64(int64(e.Position)))
	defer span.End()
	err := c.handle(ctx, e)
	if err != nil {
		span.SetStatus(codes.Error, "not handled")
	}
	return err
}

// save keeps the mark; when that fails the next time will do.
func (c *consumer) save(ctx context.Context) {
	if c.unsaved == 0 || c.opts.Checkpoint == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := c.opts.Checkpoint.Save(ctx, c.mark); err != nil {
		c.opts.Slog.WarnContext(ctx, "checkpoint not saved", "consumer", c.opts.Name, "error", err.Error())
		return
	}
	c.unsaved = 0
}

func (c *consumer) saveAtEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	c.save(ctx)
}

func (c *consumer) stuck(ctx context.Context, err error) {
	if c.health.Err == nil {
		if c.opts.Clock != nil {
			c.health.Since = c.opts.Clock()
		}
	}
	if c.health.Err == nil || c.health.Err.Error() != err.Error() {
		c.opts.Slog.WarnContext(ctx, "consumer is stuck", "consumer", c.opts.Name, "error", err.Error())
	}
	c.health.Err, c.health.Mark = err, c.mark
	c.health.Attempts++
	if c.opts.Health != nil {
		c.opts.Health(c.health)
	}
}

func (c *consumer) well() {
	if c.health.Err == nil {
		return
	}
	c.health = ConsumeHealth{Mark: c.mark}
	if c.opts.Health != nil {
		c.opts.Health(c.health)
	}
}
