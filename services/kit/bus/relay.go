package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"waymark/services/kit/es"
)

// RelayOptions of NewRelay. The zero value is sound.
type RelayOptions struct {
	Mapping
	// Slog hears of faults, once for each kind in a row; nil is silent.
	Slog *slog.Logger
	// PublishTimeout is how long one publish may take before the tail is asked
	// whether it landed; 0 is 5 s. A cluster that elects a leader takes 4 to 9 s.
	PublishTimeout time.Duration
	// Jitter draws a wait between 0 and max; nil draws at random.
	Jitter func(max time.Duration) time.Duration
}

// Relay copies the log to the stream EVENTS, every event once and in order, for
// ever. Any number of relays may run at once, in any processes: the one that is
// ahead publishes, the others find themselves fenced, stand by, and take over
// within about a second when it stops.
type Relay struct {
	log     es.Log
	js      jetstream.JetStream
	opts    RelayOptions
	relayed func(es.Position) // hears of every publish; nil is nobody

	unsafe  bool                             // planted bug, tests only
	publish func(*publisher) publishMessages // tests put faults around it; nil is none

	mu     sync.Mutex
	status RelayStatus // under mu
}

type publishMessages func(ctx context.Context, last uint64, msgs []*nats.Msg) error

// RelayStatus is how a relay is doing.
type RelayStatus struct {
	Position  es.Position // of the last event known to be on the stream
	Sequence  uint64      // of its message
	Published uint64      // events that this relay published itself
	Batches   uint64      // atomic batches among the publishes
	Conflicts uint64      // publishes that the fence refused
	Sessions  uint64      // times it started from the tail
	CaughtUp  bool        // the stream holds all of the log that this relay has heard of
	StandBy   bool        // another relay does the work
	Waiting   int         // events read from the log and not yet published; all of the lag only when LagKnown
	LagKnown  bool        // the subscription has been through the whole log
	LastError string      // what stopped it last; "" when it runs well
}

// NewRelay returns a relay; Run starts it.
func NewRelay(log es.Log, js jetstream.JetStream, opts RelayOptions) *Relay {
	if opts.PublishTimeout == 0 {
		opts.PublishTimeout = 5 * time.Second
	}
	if opts.Slog == nil {
		opts.Slog = slog.New(slog.DiscardHandler)
	}
	return &Relay{log: log, js: js, opts: opts}
}

// Status returns how the relay is doing now.
func (r *Relay) Status() RelayStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *Relay) update(f func(*RelayStatus)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.status)
}

// Run relays until ctx ends, through every fault of the store and of NATS. It
// returns early only with a *ServerRefusal that repeating cannot mend: a bug.
func (r *Relay) Run(ctx context.Context) error { return r.run(ctx, false) }

// run is Run; with untilCaughtUp it returns nil at the end of the log.
func (r *Relay) run(ctx context.Context, untilCaughtUp bool) error {
	wait := newBackoff(50*time.Millisecond, 5*time.Second, r.opts.Jitter)
	var last string
	for {
		before := r.Status().Published
		err := r.session(ctx, untilCaughtUp)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		r.update(func(s *RelayStatus) { s.LastError, s.CaughtUp, s.LagKnown = err.Error(), false, false })
		if refusal := (*ServerRefusal)(nil); errors.As(err, &refusal) && refusal.fatal() {
			r.opts.Slog.ErrorContext(ctx, "relay stopped", "error", err.Error())
			return err
		}
		if err.Error() != last {
			r.opts.Slog.WarnContext(ctx, "relay interrupted", "error", err.Error())
			last = err.Error()
		}
		if r.Status().Published != before {
			wait.reset()
		}
		if !wait.sleep(ctx) {
			return ctx.Err()
		}
	}
}

// item is what the subscription hands to the publishing loop: a mapped event, or
// the news that the log has ended.
type item struct {
	msg                *nats.Msg
	position, previous es.Position
	end                bool
}

// session relays from the tail of the stream until something fails.
func (r *Relay) session(ctx context.Context, untilCaughtUp bool) (err error) {
	ctx, cancel := whileConnected(ctx, r.js.Conn())
	defer cancel()
	defer func() { err = orLost(ctx, err) }()
	setup, done := context.WithTimeout(ctx, 2*r.opts.PublishTimeout)
	defer done()
	stream, err := Ensure(setup, r.js)
	if err != nil {
		return err
	}
	if err := claim(setup, r.js, stream, newMapper(r.opts.Mapping).name()); err != nil {
		return err
	}
	tail, err := readTail(setup, stream)
	if err != nil {
		return err
	}
	if err := r.sameLog(setup, tail); err != nil {
		return err
	}
	p, err := newPublisher(r.js.Conn(), r.opts.PublishTimeout)
	if err != nil {
		return err
	}
	defer p.close()
	p.unsafe = r.unsafe
	r.update(func(s *RelayStatus) {
		s.Position, s.Sequence, s.Sessions = tail.position, tail.sequence, s.Sessions+1
	})

	l := &loop{relay: r, stream: stream, tail: tail, publish: p.publish, untilCaughtUp: untilCaughtUp, standBy: newBackoff(25*time.Millisecond, time.Second, r.opts.Jitter)}
	if r.publish != nil {
		l.publish = r.publish(p)
	}
	feed := make(chan item, 2*batchMax)
	var subErr error // written by the subscription before it closes feed
	go func() {
		defer close(feed)
		subErr = r.subscribe(ctx, tail.position, feed)
	}()
	err = l.run(ctx, feed)
	cancel()
	for range feed { // until the subscription has ended
	}
	if errors.Is(err, errFeedEnded) && subErr != nil {
		return subErr
	}
	return err
}

// sameLog refuses to append to a stream that is not a copy of this log: one that
// is ahead of it, or whose last message is another event. The log was replaced
// or restored from an older backup, and only a rebuild helps.
func (r *Relay) sameLog(ctx context.Context, tail place) error {
	if tail.sequence == 0 {
		return nil
	}
	found := false
	stop := errors.New("seen enough")
	err := r.log.ReadAll(ctx, tail.previous, func(e es.Recorded) error {
		if e.Position < tail.position {
			return nil // not relayed
		}
		found = e.Position == tail.position && e.ID.String() == tail.id
		return stop
	})
	if err != nil && !errors.Is(err, stop) {
		return fmt.Errorf("compare the tail with the log: %w", err)
	}
	if !found {
		return fmt.Errorf("the last message of %s (position %d) is not an event of this log: rebuild the stream", StreamName, tail.position)
	}
	return nil
}

// subscribe maps events, beside the publishing loop, into feed.
func (r *Relay) subscribe(ctx context.Context, after es.Position, feed chan<- item) error {
	m := newMapper(r.opts.Mapping)
	previous := after
	return r.log.Subscribe(ctx, after, es.Filter{}, func(in es.Message) error {
		out := item{end: in.CaughtUp}
		if e := in.Event; e != nil {
			if !m.relays(e) {
				return nil
			}
			msg, err := m.message(e, previous)
			if err != nil {
				return err
			}
			out = item{msg: msg, position: e.Position, previous: previous}
			previous = e.Position
		}
		select {
		case feed <- out:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

var errFeedEnded = errors.New("subscription ended")

// loop publishes what the feed brings. It belongs to one goroutine.
type loop struct {
	relay         *Relay
	stream        jetstream.Stream
	publish       publishMessages
	untilCaughtUp bool
	tail          place  // last message known to be stored
	waiting       []item // read and not known to be stored, in log order
	atEnd         bool   // the feed has been through what the log held when it began
	fenced        bool   // another relay wrote last
	standBy       *backoff
}

func (l *loop) run(ctx context.Context, feed <-chan item) error {
	for {
		if err := l.take(ctx, feed); err != nil {
			return err
		}
		if len(l.waiting) > 0 {
			if err := l.relayOne(ctx); err != nil {
				return err
			}
		}
		caughtUp := l.atEnd && len(l.waiting) == 0
		l.relay.update(func(s *RelayStatus) {
			s.Position, s.Sequence, s.Waiting, s.LagKnown, s.CaughtUp, s.StandBy = l.tail.position, l.tail.sequence, len(l.waiting), l.atEnd, caughtUp, l.fenced
			if caughtUp {
				s.LastError = ""
			}
		})
		if caughtUp && l.untilCaughtUp {
			return nil
		}
	}
}

// take waits for something to do, then takes what is there, up to a batch.
func (l *loop) take(ctx context.Context, feed <-chan item) error {
	for {
		if len(l.waiting) >= batchMax {
			return nil
		}
		var in item
		ok := true
		if len(l.waiting) > 0 {
			select {
			case in, ok = <-feed:
			default:
				return nil
			}
		} else {
			select {
			case in, ok = <-feed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if !ok {
			if len(l.waiting) > 0 {
				return nil // publish what came before the end
			}
			return errFeedEnded
		}
		if in.end {
			l.atEnd = true
			if len(l.waiting) == 0 {
				return nil
			}
			continue
		}
		if in.position > l.tail.position { // else another relay has stored it
			l.waiting = append(l.waiting, in)
		}
	}
}

// relayOne publishes the first of what waits, or finds that another relay did.
func (l *loop) relayOne(ctx context.Context) error {
	if l.fenced {
		// Let the other relay go first, then see what is left to do.
		if !l.standBy.sleep(ctx) {
			return ctx.Err()
		}
		if err := l.reread(ctx); err != nil {
			return err
		}
	}
	if len(l.waiting) == 0 {
		return nil
	}
	if l.waiting[0].previous != l.tail.position && !l.relay.unsafe {
		return fmt.Errorf("the stream ends at position %d, the next event follows %d: start again from the tail", l.tail.position, l.waiting[0].previous)
	}
	n, bytes := 0, 0
	msgs := make([]*nats.Msg, 0, len(l.waiting))
	for n < len(l.waiting) && n < batchMax && bytes < batchBytes {
		msgs = append(msgs, l.waiting[n].msg)
		bytes += len(l.waiting[n].msg.Data)
		n++
	}
	err := l.traced(ctx, msgs)
	switch {
	case errors.Is(err, errFenced):
		l.fenced = true
		l.relay.update(func(s *RelayStatus) { s.Conflicts++ })
		return l.reread(ctx)
	case err != nil:
		return err
	}
	l.fenced = false
	l.standBy.reset()
	l.tail = place{sequence: l.tail.sequence + uint64(n), position: l.waiting[n-1].position, created: l.tail.created}
	if l.relay.relayed != nil {
		l.relay.relayed(l.tail.position)
	}
	l.waiting = append(l.waiting[:0], l.waiting[n:]...)
	l.relay.update(func(s *RelayStatus) {
		s.Published += uint64(n)
		if n >= batchFrom {
			s.Batches++
		}
	})
	return nil
}

// reread asks where the stream ends and drops what it holds already.
func (l *loop) reread(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.relay.opts.PublishTimeout)
	defer cancel()
	tail, err := readTail(ctx, l.stream)
	if err != nil {
		return err
	}
	if !tail.created.Equal(l.tail.created) {
		return errors.New("the stream was made anew: start again from its tail")
	}
	if tail.position < l.tail.position {
		return fmt.Errorf("the stream went back from position %d to %d: start again from the tail", l.tail.position, tail.position)
	}
	l.tail = tail
	n := 0
	for n < len(l.waiting) && l.waiting[n].position <= tail.position {
		n++
	}
	l.waiting = append(l.waiting[:0], l.waiting[n:]...)
	return nil
}

// traced publishes within a span that links to the commands of the events.
func (l *loop) traced(ctx context.Context, msgs []*nats.Msg) error {
	var links []trace.Link
	for _, m := range msgs {
		if k, ok := link(m.Header); ok && k.SpanContext.IsSampled() && len(links) < 128 {
			links = append(links, k)
		}
	}
	ctx, span := startSpan(ctx, "send "+StreamName, trace.SpanKindProducer, links, attrOperation.String("send"), attrBatch.Int(len(msgs)))
	defer span.End()
	err := l.publish(ctx, l.tail.sequence, msgs)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

// backoff is a wait that doubles, with jitter of half. It belongs to one
// goroutine.
type backoff struct {
	first, most, next time.Duration
	jitter            func(time.Duration) time.Duration
}

// newBackoff returns a wait; jitter nil draws at random.
func newBackoff(first, most time.Duration, jitter func(time.Duration) time.Duration) *backoff {
	if jitter == nil {
		jitter = func(max time.Duration) time.Duration { return rand.N(max) + 1 }
	}
	return &backoff{first, most, first, jitter}
}

func (b *backoff) reset() { b.next = b.first }

// sleep waits; false means that ctx ended first.
func (b *backoff) sleep(ctx context.Context) bool {
	d := b.next/2 + b.jitter(b.next/2)
	b.next = min(2*b.next, b.most)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
