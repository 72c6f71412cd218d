package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"waymark/services/kit/es"
)

// mostGrace is how long calls in progress get to end when the server stops.
const mostGrace = 5 * time.Second

// Clock is the clock of a running process. Tests and the simulation pass
// another in Deps.
func Clock() time.Time { return time.Now() }

// Program is one process of services: its two listeners, telemetry and the
// connections to other services. Listen makes it, Serve runs it once.
type Program struct {
	cfg       Config
	slog      *slog.Logger
	telemetry *Telemetry
	dialer    *dialer
	grpc      net.Listener
	http      net.Listener
	ready     chan struct{}
	grace     time.Duration // mostGrace; tests are less patient
}

// Listen checks cfg, takes its two addresses and starts telemetry under the
// name service. Nothing is served before Serve.
func Listen(ctx context.Context, cfg Config, service string, logger *slog.Logger) (_ *Program, err error) {
	cfg = cfg.WithDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p := &Program{cfg: cfg, slog: logger, ready: make(chan struct{}), grace: mostGrace}
	creds, err := cfg.clientTLS()
	if err != nil {
		return nil, err
	}
	if p.telemetry, err = NewTelemetry(ctx, cfg, service); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	var lc net.ListenConfig
	if p.grpc, err = lc.Listen(ctx, "tcp", cfg.GRPC); err != nil {
		return nil, fmt.Errorf("gRPC: %w", err)
	}
	if p.http, err = lc.Listen(ctx, "tcp", cfg.HTTP); err != nil {
		p.grpc.Close()
		return nil, fmt.Errorf("HTTP: %w", err)
	}
	if len(cfg.Peers) == 0 {
		cfg.Peers = []string{p.GRPC()}
	}
	p.dialer = &dialer{cfg: cfg, creds: creds, telemetry: p.telemetry, conns: map[string]*grpc.ClientConn{}}
	return p, nil
}

// GRPC returns the address of the gRPC listener, as host:port.
func (p *Program) GRPC() string { return p.grpc.Addr().String() }

// HTTP returns the address of the HTTP listener, as host:port.
func (p *Program) HTTP() string { return p.http.Addr().String() }

// Telemetry returns the process's telemetry.
func (p *Program) Telemetry() *Telemetry { return p.telemetry }

// Ready is closed when health first says SERVING for all.
func (p *Program) Ready() <-chan struct{} { return p.ready }

// Deps returns what services are made of in this process.
func (p *Program) Deps(log es.Log, js jetstream.JetStream, key []byte) Deps {
	return Deps{Log: log, Bus: js, Dial: p.dialer.dial, Clock: Clock, Slog: p.slog, Meter: p.telemetry.Meter("waymark"), Key: key, Folds: es.NewCache(es.DefaultCache), Dir: p.cfg.Models, Environment: p.cfg.Environment, Facilities: p.cfg.facilities()}
}

// Close lets go of the addresses and the connections; Serve does it at its end.
func (p *Program) Close() error {
	p.grpc.Close()
	p.http.Close()
	p.dialer.close()
	return nil
}

// Serve serves parts until ctx ends or a listener fails, then stops in order:
// health turns NOT_SERVING, the load balancer gets cfg.Drain to see it, calls
// in progress get 5 s to end, background work ends, and the parts are closed.
// It returns nil when all of that went well. Log and Bus of deps stay open.
func (p *Program) Serve(ctx context.Context, deps Deps, parts ...Part) (err error) {
	defer p.Close()
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	server, edge, err := p.server(streams)
	if err != nil {
		return err
	}
	defer server.Stop()
	var tasks, hearing []*task
	var health []watched
	for _, part := range parts {
		registrar := &noting{ServiceRegistrar: server}
		if part.Register != nil {
			part.Register(registrar)
		}
		w := watched{name: part.Name, services: registrar.names, runs: noFault, also: noFault}
		if part.Run != nil {
			t := p.task(part.Name+" run", part.Run)
			tasks, w.runs = append(tasks, t), t.fault
		}
		if part.Fault != nil {
			w.also = part.Fault
		}
		if part.React != nil {
			l, t := p.listener(part, deps)
			hearing = append(hearing, t)
			own := w.also
			w.also = func() error { return errors.Join(own(), t.fault(), l.fault()) }
		}
		health = append(health, w)
	}
	if edge.validate, err = compileRules(server); err != nil {
		return err
	}
	for service, info := range server.GetServiceInfo() {
		for _, m := range info.Methods {
			if method := "/" + service + "/" + m.Name; !m.IsClientStream && !m.IsServerStream && !exempt(method) {
				edge.unaries[method] = true
			}
		}
	}
	checker, err := newChecker(p.cfg.HealthEvery, deps.Log, p.slog, p.telemetry.Meter("waymark/run"), health)
	if err != nil {
		return err
	}
	checker.register(server)
	if p.cfg.Reflection {
		reflection.Register(server)
	}

	failed := make(chan error, 2)
	go func() { failed <- server.Serve(p.grpc) }()
	web := p.web(checker)
	go func() { failed <- web.Serve(&capped{Listener: p.http, most: mostFromOne, open: map[string]int{}}) }()
	hear := spawn(ctx, hearing)
	// Read models run until the last call has ended.
	background := spawn(ctx, tasks)
	watch := spawn(ctx, []*task{{name: "health", run: func(ctx context.Context) error { checker.watch(ctx); return nil }, log: p.slog}})
	go func() {
		select {
		case <-checker.ready:
			close(p.ready)
		case <-streams.Done():
		}
	}()

	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("listener failed: %w", err)
	}
	watch()
	checker.leave()
	if err == nil {
		wait(p.cfg.Drain)
	}
	endStreams()
	err = errors.Join(err, stop(server, p.grace))
	hear()
	background()
	for _, part := range slices.Backward(parts) {
		if part.Close != nil {
			if e := part.Close(); e != nil {
				err = errors.Join(err, fmt.Errorf("closing %s: %w", part.Name, e))
			}
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	return errors.Join(err, web.Shutdown(last), p.telemetry.Close(last))
}

// server makes the gRPC server; reliability.md of the design gives each value.
func (p *Program) server(streams context.Context) (*grpc.Server, *edge, error) {
	edge, err := newEdge(p.cfg, streams, p.slog, p.telemetry.Meter("waymark/run"))
	if err != nil {
		return nil, nil, err
	}
	creds, err := p.cfg.serverTLS()
	if err != nil {
		return nil, nil, err
	}
	opts := []grpc.ServerOption{
		grpc.NumStreamWorkers(64),
		grpc.MaxConcurrentStreams(256),
		grpc.MaxRecvMsgSize(1 << 20),
		grpc.MaxHeaderListSize(16 << 10),
		// A window of a fixed size: to find a better one grpc-go pings with the data.
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 60 * time.Second, Timeout: 10 * time.Second,
			MaxConnectionIdle: 2 * time.Minute, MaxConnectionAge: 5 * time.Minute, MaxConnectionAgeGrace: 70 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}),
		grpc.InTapHandle(edge.tap),
		grpc.UnaryInterceptor(edge.unary),
		grpc.StreamInterceptor(edge.stream),
		grpc.StatsHandler(otelgrpc.NewServerHandler(p.telemetry.grpcOptions()...)),
	}
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	return grpc.NewServer(opts...), edge, nil
}

func (p *Program) task(name string, run func(context.Context) error) *task {
	return &task{name: name, run: run, settle: p.cfg.HealthEvery, log: p.slog}
}

// stop ends the server: gently, then not.
func stop(server *grpc.Server, grace time.Duration) error {
	ended := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(grace):
		server.Stop()
		return fmt.Errorf("calls were cut off: they took more than %s to end", grace)
	}
}

// spawn starts tasks; the returned function ends them and waits.
func spawn(ctx context.Context, tasks []*task) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	for _, t := range tasks {
		running.Go(func() { t.supervise(ctx) })
	}
	return func() {
		cancel()
		running.Wait()
	}
}

func wait(d time.Duration) { <-time.After(d) }

func noFault() error { return nil }

// noting notes the names of the services that a part registers.
type noting struct {
	grpc.ServiceRegistrar
	names []string
}

func (n *noting) RegisterService(desc *grpc.ServiceDesc, impl any) {
	n.names = append(n.names, desc.ServiceName)
	n.ServiceRegistrar.RegisterService(desc, impl)
}
