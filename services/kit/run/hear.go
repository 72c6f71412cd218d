package run

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"waymark/services/kit/bus"
)

// listener makes the task that lets part hear the bus.
func (p *Program) listener(part Part, deps Deps) (*listener, *task) {
	meter := p.telemetry.Meter("waymark/run")
	service := metric.WithAttributes(attribute.String("service", part.Name))
	position, _ := meter.Int64Gauge("waymark.consumer.position", metric.WithDescription("Log position of the last event that the service is done with."))
	lag, _ := meter.Float64Gauge("waymark.consumer.lag", metric.WithUnit("s"), metric.WithDescription("Age of the last event when the service was done with it."))
	l := &listener{react: part.React, heard: func(ctx context.Context, e bus.Event, err error) {
		if err == nil {
			position.Record(ctx, int64(e.Position), service)
			lag.Record(ctx, time.Since(e.Recorded).Seconds(), service)
		}
	}}
	return l, p.task(part.Name+" hears", func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	})
}
