package sim

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	metav1 "waymark/proto/waymark/meta/v1"

	"waymark/services/allinone"
	"waymark/services/edge"
	"waymark/services/kit/run"
)

// front is the process of the edge over its lives: the one that takes messages
// over MLLP. There is one, because the order of a patient's messages is kept in its
// memory.
type front struct {
	w              *world
	edge, listener *actor
	dead           sync.WaitGroup // lives that are being buried
	mu             sync.Mutex
	life           *open          // under mu; nil while it is down
	lives          int            // under mu
	spans          []span         // under mu: commands that messages made
	hands          map[string]int // under mu: which frames were written and are not answered
}

// open is the edge from one start to the next crash.
type open struct {
	peer
	server *grpc.Server
	mllp   *bufconn.Listener
	parts  []run.Part
	tasks  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // under mu: of senders
}

// span is how long the edge was busy with one command of a message.
type span struct {
	life       int
	message    string // that caused it
	begin, end int64
}

func newFront(w *world) *front {
	return &front{w: w, edge: w.actor("edge"), listener: w.actor("edge/mllp"), hands: map[string]int{}}
}

func (f *front) start() error {
	l := &open{mllp: bufconn.Listen(64 << 10)}
	l.ctx, l.end = context.WithCancel(context.Background())
	valid, err := rules()
	if err != nil {
		return err
	}
	logger := slog.New(slog.DiscardHandler)
	if l.server, err = run.NewServer(l.ctx, run.Config{}, valid, logger); err != nil {
		return err
	}
	f.mu.Lock()
	f.lives++
	lives := f.lives
	f.mu.Unlock()
	a, listening := f.edge.reborn(lives, l.ctx), f.listener.reborn(lives, l.ctx)
	skew := f.w.skew(f.edge)
	deps := run.Deps{
		Log: &link{wire: wire{a, l.ctx}, node: f.w.node}, Clock: func() time.Time { return f.w.clock().Add(skew) }, Slog: logger,
		Meter: noop.NewMeterProvider().Meter(""), Jitter: a.jitter("retry"), Key: simKey(),
		Dial: func(string) grpc.ClientConnInterface {
			return &outgoing{caller{wire: wire{a, l.ctx}}, f, lives}
		},
	}
	made, err := allinone.Services(deps, "edge")
	if err != nil {
		return err
	}
	part := made[0]
	part.Register(l.server)
	deps.Dial = func(string) grpc.ClientConnInterface {
		return &caller{wire{listening, l.ctx}, func() *peer { return &l.peer }}
	}
	taking := edge.Listener(deps, &accepting{l.mllp, l}, edge.ListenOptions{})
	l.parts = []run.Part{part, taking}
	lis := bufconn.Listen(64 << 10)
	go l.server.Serve(lis) // ends with Stop
	if l.conn, err = dial(lis); err != nil {
		return err
	}
	l.tasks.Go(func() { f.w.supervise(l.ctx, a, "run", part.Run) })
	l.tasks.Go(func() { f.w.supervise(l.ctx, listening, "listen", taking.Run) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life = l
	return nil
}

// accepting gives out connections of which nothing leaves once the process is dead.
type accepting struct {
	*bufconn.Listener
	l *open
}

// Accept implements net.Listener.
func (a *accepting) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err != nil {
		return nil, net.ErrClosed
	}
	a.l.mu.Lock()
	defer a.l.mu.Unlock()
	a.l.conns = append(a.l.conns, c)
	return &socket{c, a.l.ctx}, nil
}

func (f *front) alive() *open {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.life
}

// now returns who answers at this moment, nil while the process is down.
func (f *front) now() *peer {
	if l := f.alive(); l != nil {
		return &l.peer
	}
	return nil
}

// crash ends the process without a word. It returns how many messages it had in
// hand.
func (f *front) crash() int {
	f.mu.Lock()
	l := f.life
	f.life = nil
	hands := len(f.hands)
	f.mu.Unlock()
	if l == nil {
		return 0
	}
	l.end()
	l.mu.Lock()
	for _, c := range l.conns {
		c.Close()
	}
	l.mu.Unlock()
	f.dead.Go(func() {
		l.conn.Close()
		l.server.Stop()
		l.tasks.Wait()
		for _, part := range l.parts {
			if part.Close != nil {
				_ = part.Close()
			}
		}
	})
	return hands
}

// stops crashes the edge and starts it again until ctx ends.
func (f *front) stops(ctx context.Context, a *actor) {
	for a.wait(ctx, "gap", f.w.opt.EdgeGap) == nil {
		hit := f.crash()
		f.w.count(func(r *Result) { r.EdgeStops++; r.InHand += hit })
		_ = a.wait(context.Background(), "down", 200*time.Millisecond)
		if err := f.start(); err != nil {
			f.w.fail("%v", err)
			return
		}
	}
}

// outgoing is how the edge calls the services. Now and then one does as it is told
// and fails all the same in a way that is nobody's answer: then the message is
// parked, and later ones of the patient are to wait for it.
type outgoing struct {
	caller
	f    *front
	life int
}

// Invoke implements grpc.ClientConnInterface.
func (o *outgoing) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	command, ok := args.(interface{ GetCommand() *metav1.Command })
	if !ok {
		return o.caller.Invoke(ctx, method, args, reply, opts...)
	}
	s := span{life: o.life, message: command.GetCommand().GetCausationId(), begin: o.a.now()}
	err := o.caller.Invoke(ctx, method, args, reply, opts...)
	s.end = o.a.now()
	o.f.mu.Lock()
	o.f.spans = append(o.f.spans, s)
	o.f.mu.Unlock()
	name := method[strings.LastIndexByte(method, '/')+1:]
	if err == nil && o.a.w.faulty() && chance(o.a.draw("fault "+name), o.a.w.opt.Broken) {
		return status.Error(codes.Internal, "sim: a fault of the service")
	}
	return err
}
