package run

import (
	"context"
	"errors"
	"net/http"
	"os"
	"runtime/debug"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/stats"
)

// Telemetry is the traces and metrics of a process. Every process makes trace
// ids, so that logs can be joined; spans leave it only when
// OTEL_EXPORTER_OTLP_ENDPOINT says where to, and are sampled as OTEL_TRACES_*
// say. No attribute may hold a patient's identifier: there is no baggage, and
// labels are RPCs, services and codes.
type Telemetry struct {
	traces   *sdktrace.TracerProvider
	meters   *sdkmetric.MeterProvider
	registry *prometheus.Registry
}

// NewTelemetry starts telemetry for a process called service ("waymark", or
// "waymark-referral" for one service alone).
func NewTelemetry(ctx context.Context, cfg Config, service string) (*Telemetry, error) {
	attrs := []attribute.KeyValue{
		attribute.String("service.name", service),
		attribute.String("service.version", Version()),
		attribute.String("service.instance.id", uuid.NewString()),
	}
	if cfg.Environment != "" {
		attrs = append(attrs, attribute.String("deployment.environment.name", cfg.Environment))
	}
	res, err := resource.New(ctx, resource.WithAttributes(attrs...), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	spans := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "" {
		exporter, err := otlptracegrpc.New(ctx)
		if err != nil {
			return nil, err
		}
		spans = append(spans, sdktrace.WithBatcher(exporter))
	} else {
		spans = append(spans, sdktrace.WithSampler(sdktrace.NeverSample()))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, err
	}
	return &Telemetry{
		traces:   sdktrace.NewTracerProvider(spans...),
		meters:   sdkmetric.NewMeterProvider(sdkmetric.WithResource(res), sdkmetric.WithReader(reader)),
		registry: registry,
	}, nil
}

// Globally makes t what otel.Tracer, otel.Meter and the propagator of the whole
// process use. Only a process that runs one program calls it.
func (t *Telemetry) Globally() {
	otel.SetTracerProvider(t.traces)
	otel.SetMeterProvider(t.meters)
	otel.SetTextMapPropagator(propagation.TraceContext{})
}

// Meter returns the meter of a package. A gauge that was never recorded is
// absent from /metrics: unknown is not zero.
func (t *Telemetry) Meter(name string) metric.Meter { return t.meters.Meter(name) }

// Handler serves /metrics.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Close sends what is left.
func (t *Telemetry) Close(ctx context.Context) error {
	return errors.Join(t.traces.Shutdown(ctx), t.meters.Shutdown(ctx))
}

func (t *Telemetry) grpcOptions() []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(t.traces),
		otelgrpc.WithMeterProvider(t.meters),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool { return !exempt(info.FullMethodName) }),
	}
}

// Version is the version of the program, as the build knows it.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "devel"
	}
	return info.Main.Version
}
