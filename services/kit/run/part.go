// Package run is what every Waymark process shares: configuration, logs,
// telemetry, gRPC servers and clients, health and an orderly end.
//
//	part.go       what a service is made of, and what it is
//	config.go     the one struct of settings: flags, WAYMARK_*, defaults
//	log.go        a logger that lets through only what is safe by its type
//	telemetry.go  traces and metrics; web.go: /metrics, /healthz, /readyz
//	edge.go       what every call passes; validate.go: the rules of its contract
//	client.go     connections to other services
//	health.go     grpc.health.v1, kept true by asking
//	task.go       background work that is started again; hear.go: the bus
//	serve.go      a process from its first listener to its orderly end
//
// Any call can be answered with these codes, besides the service's own:
//
//	call.deadline_missing  INVALID_ARGUMENT    it has no deadline: set one, 5 s is usual
//	call.deadline_short    DEADLINE_EXCEEDED   less than 100 ms remained; nothing was begun
//	call.deadline          DEADLINE_EXCEEDED   unknown whether it took effect: repeat with the same command id
//	call.canceled          CANCELED            the caller went away
//	request.invalid        INVALID_ARGUMENT    BadRequest names the fields and rules
//	call.overloaded        RESOURCE_EXHAUSTED  RetryInfo says how long to wait
//	call.unavailable       UNAVAILABLE         a service it needs cannot be reached
//	call.server_stopping   UNAVAILABLE         a stream: resume after the last position
//	call.unimplemented     UNIMPLEMENTED       this version does not serve it
//
// Any other failure is INTERNAL with a reference, under which the log has it.
package run

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"

	"waymark/services/kit/bus"
	"waymark/services/kit/es"
)

// Deps is what a service is made of. The all-in-one and the separate form
// differ in these values and in nothing else.
type Deps struct {
	Log   es.Log
	Bus   jetstream.JetStream
	Dial  func(service string) grpc.ClientConnInterface // "person" -> its connection
	Clock func() time.Time
	Slog  *slog.Logger
	// Environment is the deployment, such as "live"; "" is a development one.
	Environment string
	// Facilities are ODS codes by the names that other systems send in HL7 MSH-4.
	Facilities map[string]string
	Meter      metric.Meter // for gauges of a part's own; no patient in any label
	// Dir is a folder for what a part can make again, such as a read model or the
	// events that a follower took in, and for
	// what it only does better with, such as which figures it has given out; ""
	// keeps it in memory.
	Dir string
	// Jitter draws a wait between 0 and max; nil draws at random. Simulations set it.
	Jitter func(max time.Duration) time.Duration
	// Folds keeps the folded streams of all parts of the process; nil lets each kind
	// of stream keep its own.
	Folds *es.Cache
	// Key keys hashes of identifiers and of command bodies (32 bytes).
	Key []byte
}

// Part is a running service: New(Deps) (Part, error) is the one constructor
// shape, and allinone holds the one list of them.
type Part struct {
	Name     string                      // "referral"
	Register func(grpc.ServiceRegistrar) // its gRPC services
	// React hears other services' events and its own, in order, at least once;
	// nil when the service has none. Categories says which.
	React      func(context.Context, bus.Event) error
	Categories []string
	// Run is background work such as a read model; nil when there is none. It
	// returns when ctx ends; an error restarts it with back-off and turns the
	// service's health red until it runs again.
	Run func(ctx context.Context) error
	// Fault says why the part is not well although its calls are answered; nil
	// when it is, or when there is nothing to say. Health asks it often.
	Fault func() error
	Close func() error
}
