package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"waymark/services/allinone"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

// serving are the services of each process, from allinone's one list.
func serving() []string {
	return []string{"person", "referral", "appointment", "carelead", "plan", "pathway"}
}

// process holds one instance of each service, over its lives.
type process struct {
	w      *world
	name   string
	actors map[string]*actor // by service
	dead   sync.WaitGroup    // lives that are being buried

	mu    sync.Mutex
	life  *served // under mu; nil while it is down
	lives int     // under mu
}

// served is a process from one start to the next crash.
type served struct {
	peer
	server *grpc.Server
	bus    *nats.Conn
	js     jetstream.JetStream
	relay  *bus.Relay
	skew   time.Duration
	parts  []run.Part
	tasks  sync.WaitGroup

	mu    sync.Mutex
	heard map[string]es.Position // under mu: the last event that a service is done with
}

func newProcess(w *world, name string) *process {
	p := &process{w: w, name: name, actors: map[string]*actor{}}
	for _, s := range append(serving(), "relay") {
		p.actors[s] = w.actor(name + "/" + s)
	}
	return p
}

// rules are those of all contracts: compiled once, they serve every process.
var rules = sync.OnceValues(func() (protovalidate.Validator, error) {
	deps := run.Deps{Key: simKey(), Clock: time.Now, Log: &link{}, Slog: slog.New(slog.DiscardHandler), Meter: noop.NewMeterProvider().Meter(""),
		Dial: func(string) grpc.ClientConnInterface { return nil }}
	parts, err := allinone.Services(deps, append(serving(), "edge")...)
	if err != nil {
		return nil, err
	}
	v, err := run.Rules(parts...)
	for _, part := range parts {
		if part.Close != nil {
			err = errors.Join(err, part.Close())
		}
	}
	return v, err
})

// start starts the services.
func (p *process) start() error {
	l := &served{heard: map[string]es.Position{}}
	l.ctx, l.end = context.WithCancel(context.Background())
	logger := slog.New(slog.DiscardHandler)
	valid, err := rules()
	if err != nil {
		return err
	}
	if l.server, err = run.NewServer(l.ctx, run.Config{}, valid, logger); err != nil {
		return err
	}
	p.mu.Lock()
	p.lives++
	lives := p.lives
	actor := func(service string) *actor { return p.actors[service].reborn(lives, l.ctx) }
	p.mu.Unlock()
	relaying := actor("relay")
	if l.bus, l.js, err = p.w.broker.connect(relaying); err != nil {
		return err
	}
	l.relay = bus.NewRelay(&link{wire: wire{relaying, l.ctx}, node: p.w.node}, l.js, bus.RelayOptions{Jitter: relaying.jitter("relay")})
	l.tasks.Go(func() { p.w.supervise(l.ctx, relaying, "relay", l.relay.Run) })
	l.skew = p.w.skew(p.actors["person"])
	for _, name := range serving() {
		a := actor(name)
		log := &link{wire: wire{a, l.ctx}, node: p.w.node}
		deps := run.Deps{
			Log: log, Clock: func() time.Time { return p.w.clock().Add(l.skew) }, Slog: logger, Meter: noop.NewMeterProvider().Meter(""),
			Jitter: a.jitter("retry"), Key: simKey(),
			Dial: func(string) grpc.ClientConnInterface { return &caller{wire: wire{a, l.ctx}} },
		}
		made, err := allinone.Services(deps, name)
		if err != nil {
			return err
		}
		part := made[0] // the other stores the contracts
		part.Register(l.server)
		l.parts = append(l.parts, part)
		if part.Run != nil {
			l.tasks.Go(func() { p.w.supervise(l.ctx, a, "run", part.Run) })
		}
		if part.React != nil {
			l.tasks.Go(func() {
				p.w.supervise(l.ctx, a, "hear", func(ctx context.Context) error { return p.hear(ctx, l, a, log, part) })
			})
		}
	}
	lis := bufconn.Listen(64 << 10)
	go l.server.Serve(lis) // ends with Stop
	if l.conn, err = dial(lis); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life = l
	return nil
}

func dial(lis *bufconn.Listener) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///bubble", // no address is looked up
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
}

// supervise runs a task of a process again whenever it ends, as a program does.
func (w *world) supervise(life context.Context, a *actor, what string, task func(context.Context) error) {
	for pause := 100 * time.Millisecond; a.wait(life, "start "+what, 5*time.Millisecond) == nil; pause = min(2*pause, 5*time.Second) {
		err := task(life)
		if life.Err() != nil {
			return
		}
		w.count(func(r *Result) { r.Restarts++ })
		if !passing(err) && !errors.Is(err, context.Canceled) {
			w.fail("%s %s ended with %v", a.name, what, err)
		}
		if a.wait(life, "pause "+what, pause) != nil {
			return
		}
	}
}

// hear brings the events of the bus to a service, as a program does, and some of
// them twice.
func (p *process) hear(ctx context.Context, l *served, a *actor, log es.Log, part run.Part) error {
	done := func(at es.Position) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.heard[part.Name] = at
	}
	return bus.Consume(ctx, l.js, bus.ConsumeOptions{
		Name: part.Name, Categories: part.Categories, Checkpoint: &watched{bus.LogCheckpoint(log, part.Name), done}, SaveEvery: 8,
		Clock: time.Now, Jitter: a.jitter("consume"),
	}, func(ctx context.Context, e bus.Event) error {
		if err := part.React(ctx, e); err != nil {
			return err
		}
		if p.w.faulty() && ctx.Err() == nil && chance(a.draw("hear twice"), p.w.opt.Repeated) {
			if err := part.React(ctx, e); err != nil {
				return err
			}
		}
		done(e.Position)
		return nil
	})
}

// watched is a checkpoint that tells where a consumer begins.
type watched struct {
	bus.Checkpoint
	loaded func(es.Position)
}

// Load implements bus.Checkpoint.
func (w *watched) Load(ctx context.Context) (bus.Mark, error) {
	m, err := w.Checkpoint.Load(ctx)
	if err == nil {
		w.loaded(m.Position)
	}
	return m, err
}

// now returns who answers at this moment, nil while the process is down.
func (p *process) now() *peer {
	if l := p.alive(); l != nil {
		return &l.peer
	}
	return nil
}

func (p *process) alive() *served {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life
}

// crash ends the process without a word.
func (p *process) crash() {
	p.mu.Lock()
	l := p.life
	p.life = nil
	p.mu.Unlock()
	if l == nil {
		return
	}
	l.end()
	p.dead.Go(func() {
		l.bus.Close()
		l.conn.Close()
		l.server.Stop()
		l.tasks.Wait()
		for _, part := range l.parts {
			if part.Close != nil {
				_ = part.Close()
			}
		}
	})
}

// clock is the time of the domain: days pass in seconds.
func (w *world) clock() time.Time {
	return w.dawn().Add(time.Since(w.begun) * time.Duration(w.opt.Rate))
}

// dawn is a Monday morning.
func (w *world) dawn() time.Time { return time.Date(2026, 7, 6, 7, 0, 0, 0, time.UTC) }

// caller is a connection to the services, to any process that is up unless who says
// another.
type caller struct {
	wire
	who func() *peer
}

// Invoke implements grpc.ClientConnInterface.
func (c *caller) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	purpose := method[strings.LastIndexByte(method, '/')+1:]
	request := proto.CloneOf(args.(proto.Message)) // a second delivery outlives the call
	who := c.who
	if who == nil {
		who = func() *peer { return c.a.w.anybody(c.a) }
	}
	err := c.call(ctx, purpose, who, func(ctx context.Context, to *peer) error {
		return to.conn.Invoke(ctx, method, args, reply, opts...)
	}, func(ctx context.Context, to *peer) error {
		return to.conn.Invoke(ctx, method, request, proto.Clone(reply.(proto.Message)))
	})
	switch {
	case errors.Is(err, errNoAnswer):
		return status.Error(codes.Unavailable, "sim: no answer")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "sim: too late")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "sim: the caller left")
	}
	return err
}

// NewStream implements grpc.ClientConnInterface.
func (c *caller) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, fmt.Errorf("sim: no service opens a stream to another")
}

// anybody chooses a process for a call.
func (w *world) anybody(a *actor) *peer {
	return w.processes[a.draw("process").IntN(len(w.processes))].now()
}
