package run

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	metav1 "waymark/proto/waymark/meta/v1"
)

// collector keeps the spans that are sent to it.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]string // kind and trace id by name of resource and span
}

func (c *collector) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.ResourceSpans {
		resource := ""
		for _, a := range r.Resource.Attributes {
			if a.Key == "service.name" {
				resource = a.Value.GetStringValue()
			}
		}
		for _, s := range r.ScopeSpans {
			for _, span := range s.Spans {
				c.spans[resource+" "+span.Kind.String()+" "+span.Name] = trace.TraceID(span.TraceId).String()
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

// TestTracesLeaveWhereTheEnvironmentSays: the caller's span and the server's
// are of one trace, which the handler sees too.
func TestTracesLeaveWhereTheEnvironmentSays(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := &collector{spans: map[string]string{}}
	server := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(server, got)
	go server.Serve(lis)
	defer server.Stop()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+lis.Addr().String())

	var seen string
	r := start(t, Config{}, nil, served(func(ctx context.Context, _ *metav1.Command) error {
		seen = trace.SpanContextFromContext(ctx).TraceID().String()
		return nil
	}))
	conn, err := Dial(r.GRPC(), nil, r.Telemetry())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Invoke(within(t, time.Minute), doMethod, command(), &metav1.Receipt{}); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil { // sends what is left
		t.Fatal(err)
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	for _, kind := range []string{"SPAN_KIND_CLIENT", "SPAN_KIND_SERVER"} {
		if id := got.spans["waymark-test "+kind+" waymark.test.v1.TestService/Do"]; id == "" || id != seen {
			t.Errorf("%s has trace %q, the handler saw %q; spans %v", kind, id, seen, got.spans)
		}
	}
}
