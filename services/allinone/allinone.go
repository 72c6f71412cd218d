// Package allinone makes whole systems of the services: all of them with their
// event store and NATS in one process (Start), or some of them against stores
// that run elsewhere (RunServices). It holds the one list of constructors.
package allinone

import (
	"context"
	"errors"
	"log/slog"

	"waymark/services/kit/run"
)

// Options of Start. The zero value starts a system in ./.waymark on the
// standard ports.
type Options struct {
	Data       string // folder of everything that is kept; empty means ./.waymark
	PortOffset int    // added to every port
	AnyPort    bool   // take free ports instead; for tests
	Fresh      bool   // delete what Data holds first
	// Config holds what is not decided here: limits, health, telemetry. Addresses,
	// key and peers in it are ignored.
	Config run.Config
	Logger *slog.Logger // nil writes text warnings to stderr
}

// System is a running all-in-one system. Its addresses are those that clients use.
type System struct {
	Data       string // absolute path
	GRPC       string // host:port
	HTTP       string // host:port
	NATS       string // nats://host:port
	EventStore string // esdb://host:port?tls=false
}

// Start starts everything and returns when health says SERVING, or why it does
// not. ctx bounds the start only; Stop ends the system.
func Start(ctx context.Context, opts Options) (*System, error) {
	return nil, errors.New("not yet")
}

// Wait returns when the system has ended: nil after Stop, otherwise why.
func (s *System) Wait() error { return nil }

// Stop ends the system in order, keeps its data and returns when all is closed.
func (s *System) Stop() error { return nil }

// Names lists the services.
func Names() []string { return nil }

// RunServices runs the named services (all when none is named) against the
// event store and NATS of cfg until ctx ends, and returns how it ended.
func RunServices(ctx context.Context, cfg run.Config, names ...string) error {
	return errors.New("not yet")
}
