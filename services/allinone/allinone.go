// Package allinone makes whole systems of the services: all of them with their
// event store and NATS in one process (Start), or some of them against stores
// that run elsewhere (RunServices). It holds the one list of constructors.
//
// Both forms are the same from the constructors on: the services write to the
// store, and reach NATS and each other, over loopback TCP even in one process, with
// the same interceptors and deadlines. Only what reads the log takes it from the
// node at hand (Local).
package allinone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"waymark/services/edge"
	"waymark/services/eventstore"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

// Options of Start. The zero value starts a system in ./.waymark on the
// standard ports.
type Options struct {
	Data       string // folder of everything that is kept; empty means ./.waymark
	PortOffset int    // added to every port
	AnyPort    bool   // take free ports instead; for tests
	Fresh      bool   // delete what Data holds first
	// ClockRate is how many seconds pass in one; 0 means 1, FastClock a day a minute.
	ClockRate float64
	// Machine is the time on which the clock rests; nil is the machine's. A story
	// that begins on a day of its own gives another.
	Machine func() time.Time
	// Config holds what is not decided here: limits, health, telemetry. Addresses,
	// key, peers, TLS and the folder of read models in it are ignored.
	Config run.Config
	Logger *slog.Logger // nil writes text warnings to stderr
}

// DefaultData is the data folder where none is named.
const DefaultData = ".waymark"

// System is a running all-in-one system. Its addresses are those that clients use.
type System struct {
	Data       string // absolute path
	GRPC       string // host:port
	HTTP       string // host:port
	NATS       string // nats://host:port
	EventStore string // esdb://host:port?tls=false
	MLLP       string // host:port
	FHIR       string // URL

	mllp    net.Listener
	fhir    net.Listener
	clock   *clock
	end     context.CancelFunc // begins the end
	ended   chan struct{}      // closed after err is set
	err     error
	closers []func() error // what was opened, in that order; run once, by one goroutine
}

// Start starts everything and returns when health says SERVING, or why it does
// not. ctx bounds the start only; Stop ends the system.
func Start(ctx context.Context, opts Options) (_ *System, err error) {
	if opts.Data == "" {
		opts.Data = DefaultData
	}
	if opts.Logger == nil {
		if opts.Logger, err = run.NewLogger(os.Stderr, "text", "warn"); err != nil {
			return nil, err
		}
	}
	at, err := opts.ports()
	if err != nil {
		return nil, err
	}
	if err := at.check(); err != nil {
		return nil, err
	}
	s := &System{ended: make(chan struct{})}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	s.end = end
	program, deps, err := s.open(life, opts, at)
	if err != nil {
		end()
		return nil, errors.Join(err, s.close())
	}
	deps.Clock = s.clock.Now
	parts, err := build(deps)
	if err != nil {
		end()
		return nil, errors.Join(err, s.close())
	}
	parts = append(parts, s.clock.part(), edge.Listener(deps, s.mllp, edge.ListenOptions{}), edge.FHIR(deps, s.fhir, edge.FHIROptions{}))
	go func() {
		defer close(s.ended)
		s.err = errors.Join(program.Serve(life, deps, parts...), s.close())
	}()
	select {
	case <-program.Ready():
		return s, nil
	case <-s.ended:
		return nil, errors.Join(errors.New("the system ended before it was ready"), s.err)
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("not ready: %w", ctx.Err()), s.Stop())
	}
}

// open takes the folder and the ports, and starts what the services stand on.
func (s *System) open(ctx context.Context, opts Options, at ports) (_ *run.Program, deps run.Deps, err error) {
	data, err := openFolder(opts.Data, opts.Fresh)
	if err != nil {
		return nil, deps, err
	}
	s.Data = data.path
	s.closing(data.close)

	if s.clock, err = openClock(data, opts.Machine, opts.ClockRate); err != nil {
		return nil, deps, err
	}
	s.closing(s.clock.close)
	node, err := eventstore.Open(eventstore.Config{Dir: data.file(storeDir), Logger: opts.Logger, Clock: s.clock.Now})
	if err != nil {
		return nil, deps, err
	}
	s.closing(node.Close)
	lis, err := net.Listen("tcp", at.store)
	if err != nil {
		return nil, deps, err
	}
	s.EventStore = "esdb://" + lis.Addr().String() + "?tls=false"
	go func() {
		if err := node.Serve(lis); err != nil {
			opts.Logger.Error("event store stopped", "event.name", "eventstore.stopped", "error", err)
			s.end()
		}
	}()

	if s.mllp, err = net.Listen("tcp", at.mllp); err != nil {
		return nil, deps, err
	}
	s.closing(func() error { s.mllp.Close(); return nil })
	s.MLLP = s.mllp.Addr().String()
	if s.fhir, err = net.Listen("tcp", at.fhir); err != nil {
		return nil, deps, err
	}
	s.closing(func() error { s.fhir.Close(); return nil })
	s.FHIR = "http://" + s.fhir.Addr().String() + edge.FHIRPath

	broker, err := startBroker(at.nats, data.file(brokerDir), opts.Logger)
	if err != nil {
		return nil, deps, err
	}
	s.closing(func() error { return stopBroker(broker) })
	s.NATS = "nats://" + broker.Addr().String()

	cfg := opts.Config
	cfg.GRPC, cfg.HTTP, cfg.Peers, cfg.MLLP, cfg.FHIR = at.grpc, at.http, nil, "", ""
	cfg.EventStore, cfg.EventStoreAuth, cfg.NATS, cfg.NATSCreds = s.EventStore, "", s.NATS, ""
	cfg.TLSCert, cfg.TLSKey, cfg.TLSCA = "", "", ""
	cfg.Models = data.file(modelsDir)
	cfg.Reflection = true
	cfg.Drain = time.Nanosecond // nobody balances load over one process
	program, deps, err := s.assemble(ctx, cfg, "waymark", data.key, opts.Logger)
	if err != nil {
		return nil, deps, err
	}
	s.GRPC, s.HTTP = program.GRPC(), program.HTTP()
	deps.Log = Local(node, deps.Log)
	// Before the services look for it. A stream that cannot be used is no reason
	// not to start: commands do not need it, and a rebuild needs NATS to run.
	if _, err := bus.Ensure(ctx, deps.Bus); err != nil {
		opts.Logger.Warn("the bus cannot be used; waymark bus rebuild makes it anew", "event.name", "bus.unusable", "error", err)
	}
	return program, deps, nil
}

// assemble makes the program and its dependencies: the part that both forms share.
func (s *System) assemble(ctx context.Context, cfg run.Config, name string, key []byte, log *slog.Logger) (_ *run.Program, deps run.Deps, err error) {
	program, err := run.Listen(ctx, cfg, name, log)
	if err != nil {
		return nil, deps, err
	}
	s.closing(program.Close)
	program.Telemetry().Globally()
	address, err := cfg.EventStoreURL()
	if err != nil {
		return nil, deps, err
	}
	store, err := es.Open(es.Config{URL: address, Logger: log})
	if err != nil {
		return nil, deps, err
	}
	s.closing(store.Close)
	var auth []nats.Option
	if cfg.NATSCreds != "" {
		auth = append(auth, nats.UserCredentials(cfg.NATSCreds))
	}
	conn, err := connect(cfg.NATS, name, log, auth...)
	if err != nil {
		return nil, deps, fmt.Errorf("NATS: %w", err)
	}
	s.closing(func() error { conn.Close(); return nil })
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, deps, err
	}
	return program, program.Deps(store, js, key), nil
}

func (s *System) closing(f func() error) { s.closers = append(s.closers, f) }

// close closes what was opened, the newest first.
func (s *System) close() (err error) {
	for _, f := range slices.Backward(s.closers) {
		err = errors.Join(err, f())
	}
	s.closers = nil
	return err
}

// Wait returns when the system has ended: nil after Stop, otherwise why.
func (s *System) Wait() error {
	<-s.ended
	return s.err
}

// Stop ends the system in order, keeps its data and returns when all is closed.
func (s *System) Stop() error {
	s.end()
	return s.Wait()
}

// RunServices runs the named services (all when none is named) against the
// event store and NATS of cfg until ctx ends, and returns how it ended. It logs
// to stdout.
func RunServices(ctx context.Context, cfg run.Config, names ...string) error {
	cfg = cfg.WithDefaults()
	log, err := run.NewLogger(os.Stdout, cfg.LogFormat, cfg.LogLevel)
	if err != nil {
		return err
	}
	key, err := run.ReadKey(cfg.KeyFile)
	if err != nil {
		return err
	}
	name := "waymark"
	if len(names) > 0 {
		name += "-" + strings.Join(names, "-")
	}
	var s System
	program, deps, err := s.assemble(ctx, cfg, name, key, log)
	if err != nil {
		return errors.Join(err, s.close())
	}
	parts, err := build(deps, names...)
	if err != nil {
		return errors.Join(err, s.close())
	}
	hidden, err := edge.HiddenFromApp(cfg.NHSAppHide)
	if err != nil {
		return errors.Join(err, s.close())
	}
	for _, l := range []struct {
		address, name string
		part          func(net.Listener, *tls.Config) run.Part
	}{
		{cfg.MLLP, "MLLP", func(lis net.Listener, secure *tls.Config) run.Part {
			return edge.Listener(deps, lis, edge.ListenOptions{TLS: secure})
		}},
		{cfg.FHIR, "FHIR", func(lis net.Listener, secure *tls.Config) run.Part {
			return edge.FHIR(deps, lis, edge.FHIROptions{TLS: secure, Hidden: hidden})
		}},
	} {
		if l.address == "" {
			continue
		}
		lis, secure, err := listen(ctx, cfg, l.address, l.name)
		if err != nil {
			return errors.Join(err, s.close())
		}
		parts = append(parts, l.part(lis, secure))
	}
	log.InfoContext(ctx, "serving", "event.name", "process.started", "grpc", program.GRPC(), "http", program.HTTP(), "process", name, "version", run.Version())
	return errors.Join(program.Serve(ctx, deps, parts...), s.close())
}

// listen opens a listener of a process of services, with the TLS of gRPC.
func listen(ctx context.Context, cfg run.Config, address, name string) (net.Listener, *tls.Config, error) {
	secure, err := cfg.ListenerTLS()
	if err != nil {
		return nil, nil, err
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return lis, secure, nil
}
