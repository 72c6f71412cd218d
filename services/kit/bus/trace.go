package bus

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Carrier lets a W3C propagator read and write the headers of a message. It
// keeps the names as they are, in lower case: propagation.HeaderCarrier would
// write "Traceparent", which no other reader of NATS headers finds.
type Carrier nats.Header

// Get returns the value of exactly this name.
func (c Carrier) Get(name string) string { return header(nats.Header(c), name) }

// Set replaces the value of exactly this name.
func (c Carrier) Set(name, value string) { c[name] = []string{value} }

// Keys lists the names.
func (c Carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

const tracerName = "waymark/services/kit/bus"

// Attribute keys of this package's spans.
const (
	attrSystem      = attribute.Key("messaging.system")
	attrOperation   = attribute.Key("messaging.operation.type")
	attrDestination = attribute.Key("messaging.destination.template")
	attrBatch       = attribute.Key("messaging.batch.message_count")
	attrPosition    = attribute.Key("waymark.log.position")
	attrCategory    = attribute.Key("waymark.category")
	attrConsumer    = attribute.Key("waymark.consumer")
)

// link returns the link to the span that made the message. An event may be days
// old when it is handled, so spans of the bus are linked to it, not children.
func link(h nats.Header) (trace.Link, bool) {
	sc := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), Carrier(h)))
	return trace.Link{SpanContext: sc}, sc.IsValid()
}

func startSpan(ctx context.Context, name string, kind trace.SpanKind, links []trace.Link, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	attrs = append(attrs, attrSystem.String("nats"), attrDestination.String(subjectPrefix+"{tenant}.{category}.{event}"))
	return otel.Tracer(tracerName).Start(ctx, name, trace.WithNewRoot(), trace.WithSpanKind(kind), trace.WithLinks(links...), trace.WithAttributes(attrs...))
}
