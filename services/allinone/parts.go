package allinone

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"waymark/services/appointment"
	"waymark/services/carelead"
	"waymark/services/edge"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
	"waymark/services/pathway"
	"waymark/services/person"
	"waymark/services/plan"
	"waymark/services/referral"
)

// part is one line of the list.
type part struct {
	name string
	make func(run.Deps) (run.Part, error)
}

// parts is the one list of everything that Waymark runs. A new service is a
// line here, and nothing else knows of it.
var parts = []part{
	{"relay", relay},
	{"person", person.New},
	{"referral", referral.New},
	{"appointment", appointment.New},
	{"carelead", carelead.New},
	{"plan", plan.New},
	{"pathway", pathway.New},
	{"edge", edge.New},
}

// Names lists the services that there are.
func Names() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// Services makes the named parts, or all but the relay, for a harness that brings
// what they hear to them itself.
func Services(deps run.Deps, names ...string) ([]run.Part, error) {
	if len(names) == 0 {
		names = slices.DeleteFunc(Names(), func(name string) bool { return name == "relay" })
	}
	return build(deps, names...)
}

// build makes the named parts, all when none is named.
func build(deps run.Deps, names ...string) (made []run.Part, err error) {
	for _, name := range names {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("there is no service %q: %s", name, strings.Join(Names(), ", "))
		}
	}
	for _, p := range parts {
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		own := deps
		if deps.Dir != "" {
			own.Dir = filepath.Join(deps.Dir, p.name)
		}
		one, err := p.make(own)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		if one.Name != p.name {
			return nil, fmt.Errorf("%s calls itself %q", p.name, one.Name)
		}
		made = append(made, one)
	}
	return append(made, contracts(deps)), nil
}

// contracts stores the contracts of this build in the log, once, so that what
// it writes can be read without its source. Every process has this part, and is
// not SERVING before it is done.
func contracts(deps run.Deps) run.Part {
	var stored atomic.Bool
	return run.Part{
		Name: "contracts",
		Run: func(ctx context.Context) error {
			if _, err := es.WriteSchema(ctx, deps.Log); err != nil {
				return err
			}
			stored.Store(true)
			<-ctx.Done()
			return nil
		},
		Fault: func() error {
			if !stored.Load() {
				return errors.New("the contracts are not in the log yet")
			}
			return nil
		},
	}
}

// relayPatience is how long the relay may be interrupted before health says so:
// a NATS cluster that elects a leader takes 4 to 9 s.
const relayPatience = 15 * time.Second

// relay copies the log to NATS. Any number may run; one does the work.
func relay(deps run.Deps) (run.Part, error) {
	r := bus.NewRelay(deps.Log, deps.Bus, bus.RelayOptions{Mapping: bus.Mapping{Env: deps.Environment}, Slog: deps.Slog, Jitter: deps.Jitter})
	position, err := deps.Meter.Int64ObservableGauge("waymark.relay.position", metric.WithDescription("Log position of the last event that is on the bus."))
	if err != nil {
		return run.Part{}, err
	}
	waiting, err := deps.Meter.Int64ObservableGauge("waymark.relay.waiting", metric.WithUnit("{event}"), metric.WithDescription("Events of the log that are not on the bus yet; absent while that is not known."))
	if err != nil {
		return run.Part{}, err
	}
	observer, err := deps.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := r.Status()
		o.ObserveInt64(position, int64(s.Position))
		if s.LagKnown {
			o.ObserveInt64(waiting, int64(s.Waiting))
		}
		return nil
	}, position, waiting)
	if err != nil {
		return run.Part{}, err
	}
	var failing time.Time // since when; only Fault knows it, and health alone asks
	return run.Part{
		Name: "relay",
		Run:  r.Run,
		Fault: func() error {
			s, now := r.Status(), run.Clock() // patience is the machine's
			if s.LastError == "" {
				failing = time.Time{}
			} else if failing.IsZero() {
				failing = now
			}
			if failing.IsZero() || now.Sub(failing) < relayPatience {
				return nil
			}
			return errors.New("the bus is behind the log: " + s.LastError)
		},
		Close: observer.Unregister,
	}, nil
}
