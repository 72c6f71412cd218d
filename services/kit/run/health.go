package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"waymark/services/kit/es"
)

const (
	mostAsk    = 2 * time.Second       // the store may take to say how it is
	untilReady = 25 * time.Millisecond // between checks while the process starts
)

// checker keeps grpc.health.v1 true. For each part there is "<name>.read" (its
// queries answer: the log reads and its read models run), "<name>.write" (its
// commands can be recorded), and "<name>" for both and for its hearing of
// events; each gRPC service goes with "<name>", and "" is all of them. All
// begin as NOT_SERVING, and stay so until the first check.
type checker struct {
	server *health.Server
	every  time.Duration
	log    es.Log
	slog   *slog.Logger
	up     metric.Int64Gauge
	parts  []watched
	ready  chan struct{} // closed at the first SERVING of ""

	mu    sync.Mutex
	state map[string]error // by health name; nil is SERVING
}

// watched is a part as health sees it.
type watched struct {
	name     string
	services []string     // gRPC services of the part
	runs     func() error // why its background work does not run
	also     func() error // why else it is not well, such as not hearing events
}

var errNotYet = errors.New("not checked yet")

func newChecker(every time.Duration, log es.Log, slog *slog.Logger, meter metric.Meter, parts []watched) (*checker, error) {
	up, err := meter.Int64Gauge("waymark.health", metric.WithDescription("1 while the health name is SERVING."))
	c := &checker{server: health.NewServer(), every: every, log: log, slog: slog, up: up, parts: parts,
		ready: make(chan struct{}), state: map[string]error{}}
	all := map[string]error{"": errNotYet}
	for _, p := range parts {
		for _, name := range append([]string{p.name, p.name + ".read", p.name + ".write"}, p.services...) {
			all[name] = errNotYet
		}
	}
	c.publish(context.Background(), all)
	return c, err
}

func (c *checker) register(r grpc.ServiceRegistrar) { healthv1.RegisterHealthServer(r, c.server) }

// watch checks until ctx ends, often until all is SERVING for the first time.
func (c *checker) watch(ctx context.Context) {
	for {
		c.check(ctx)
		pause := c.every
		select {
		case <-c.ready:
		default:
			pause = min(pause, untilReady)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (c *checker) check(ctx context.Context) {
	read, write := c.ask(ctx)
	if ctx.Err() != nil {
		return
	}
	next, whole := map[string]error{}, error(nil)
	for _, p := range c.parts {
		canRead, canWrite := errors.Join(read, p.runs()), write
		part := errors.Join(canRead, canWrite, p.also())
		next[p.name+".read"], next[p.name+".write"], next[p.name] = canRead, canWrite, part
		for _, s := range p.services {
			next[s] = part
		}
		whole = errors.Join(whole, part)
	}
	next[""] = errors.Join(whole, read, write)
	c.publish(ctx, next)
}

// ask asks the log, but waits no longer than it should take.
func (c *checker) ask(ctx context.Context) (read, write error) {
	if c.log == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, mostAsk)
	defer cancel()
	answer := make(chan [2]error, 1)
	go func() {
		read, write := c.log.Health(ctx)
		answer <- [2]error{read, write}
	}()
	select {
	case a := <-answer:
		return a[0], a[1]
	case <-ctx.Done():
		late := fmt.Errorf("the event store did not answer: %w", ctx.Err())
		return late, late
	}
}

// publish makes next the state, those that turn bad first, and logs changes.
func (c *checker) publish(ctx context.Context, next map[string]error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := slices.Sorted(maps.Keys(next))
	for _, bad := range []bool{true, false} {
		for _, name := range names {
			err := next[name]
			if (err != nil) != bad {
				continue
			}
			was, known := c.state[name]
			c.state[name] = err
			status, up := healthv1.HealthCheckResponse_SERVING, int64(1)
			if bad {
				status, up = healthv1.HealthCheckResponse_NOT_SERVING, 0
			}
			c.up.Record(ctx, up, metric.WithAttributes(attribute.String("name", label(name))))
			c.server.SetServingStatus(name, status)
			switch {
			case !known || (was == nil) == (err == nil):
			case bad:
				c.slog.WarnContext(ctx, "not serving", "event.name", "health.down", "name", name, "error", err)
			default:
				c.slog.InfoContext(ctx, "serving", "event.name", "health.up", "name", name)
			}
		}
	}
	if next[""] == nil {
		select {
		case <-c.ready:
		default:
			close(c.ready)
		}
	}
}

// leave turns everything NOT_SERVING for good.
func (c *checker) leave() {
	c.server.Shutdown()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.state {
		c.state[name] = errors.New("stopping")
	}
}

// ServeHTTP is /readyz: 200 when all is SERVING, else 503, and one line for
// each name with what is wrong.
func (c *checker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if c.state[""] != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	for _, name := range slices.Sorted(maps.Keys(c.state)) {
		if err := c.state[name]; err != nil {
			fmt.Fprintf(w, "%s NOT_SERVING %q\n", label(name), err)
		} else {
			fmt.Fprintf(w, "%s SERVING\n", label(name))
		}
	}
}

// label is a health name for people: that of the whole is empty.
func label(name string) string {
	if name == "" {
		return "all"
	}
	return name
}
