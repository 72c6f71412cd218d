package run

import (
	"context"
	"log/slog"

	"buf.build/go/protovalidate"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
)

// Rules compiles the rules of every request of parts. It takes seconds; the
// result serves any number of servers.
func Rules(parts ...Part) (protovalidate.Validator, error) {
	server := grpc.NewServer()
	defer server.Stop()
	for _, p := range parts {
		if p.Register != nil {
			p.Register(server)
		}
	}
	return compileRules(server)
}

// NewServer returns a server without listener, health and telemetry, in which a
// call passes what it passes in a Program: for harnesses that bring connections,
// and a clock, of their own. rules is of Rules; streams end with stopping.
func NewServer(stopping context.Context, cfg Config, rules protovalidate.Validator, log *slog.Logger) (*grpc.Server, error) {
	edge, err := newEdge(cfg.WithDefaults(), stopping, log, noop.NewMeterProvider().Meter(""))
	if err != nil {
		return nil, err
	}
	edge.validate = rules
	return grpc.NewServer(grpc.UnaryInterceptor(edge.unary), grpc.StreamInterceptor(edge.stream)), nil
}
