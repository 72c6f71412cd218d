package run

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"waymark/services/kit/bus"
	"waymark/services/kit/es"
)

// stuckAfter is how long a service may hear nothing, or be at one event, before
// health says so. A NATS cluster that elects a leader takes 4 to 9 s.
const stuckAfter = 15 * time.Second

// listener lets a part hear the bus and knows whether it goes forward.
type listener struct {
	react func(context.Context, bus.Event) error
	done  func(context.Context, bus.Event) // counts an event that is done

	mu      sync.Mutex
	bus     bus.ConsumeHealth
	at      es.Position // of the event that is not yet done, 0 when none
	atSince time.Time   // when it was first tried
}

// listener makes the listener of part and the task that runs it. The lag is
// absent until the first event: unknown is not zero.
func (p *Program) listener(part Part, deps Deps) (*listener, *task) {
	service := metric.WithAttributes(attribute.String("service", part.Name))
	meter := p.telemetry.Meter("waymark/run")
	// The instruments' names are constant and valid: no error can come.
	position, _ := meter.Int64Gauge("waymark.consumer.position", metric.WithDescription("Log position of the last event that the service is done with."))
	lag, _ := meter.Float64Gauge("waymark.consumer.lag", metric.WithUnit("s"), metric.WithDescription("Age of the last event when the service was done with it."))
	l := &listener{react: part.React, done: func(ctx context.Context, e bus.Event) {
		position.Record(ctx, int64(e.Position), service)
		lag.Record(ctx, time.Since(e.Recorded).Seconds(), service)
	}}
	return l, p.task(part.Name+" hears", func(ctx context.Context) error {
		return bus.Consume(ctx, deps.Bus, bus.ConsumeOptions{
			Name:       part.Name,
			Categories: part.Categories,
			Checkpoint: bus.LogCheckpoint(deps.Log, part.Name),
			Health:     l.hears,
			Clock:      Clock,
			Jitter:     deps.Jitter,
			Slog:       p.slog,
		}, l.hear)
	})
}

// hear hands one event to the service. A failure leaves the event in place: the
// bus brings it again, and the time it was first tried still stands.
func (l *listener) hear(ctx context.Context, e bus.Event) (err error) {
	l.set(e.Position)
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
		if err == nil {
			l.set(0)
			l.done(ctx, e)
		}
	}()
	return l.react(ctx, e)
}

func (l *listener) set(at es.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at != at {
		l.at, l.atSince = at, time.Now()
	}
}

func (l *listener) hears(h bus.ConsumeHealth) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bus = h
}

// fault returns why the service has not gone forward for too long.
func (l *listener) fault() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.bus.Err != nil && time.Since(l.bus.Since) > stuckAfter:
		return fmt.Errorf("hears no events: %w", l.bus.Err)
	case l.at != 0 && time.Since(l.atSince) > stuckAfter:
		return fmt.Errorf("at the event at position %d since %s", l.at, l.atSince.Format(time.TimeOnly))
	}
	return nil
}
