package es_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

// An attack runs commands of several instances against one stream. Each command
// adds its own number; its caller repeats it with the same id, as a client does,
// until it knows the answer.
type attack struct {
	logs     []es.Log // one instance each
	stream   string
	callers  int  // per instance
	commands int  // per caller
	twice    bool // every instance is sent the same commands, as by a broker or an impatient client
	fresh    bool // planted: a repeat takes a new command id
	plant    func(*es.Streams[tally])
	patient  bool // waits as in production
}

// report counts what happened, and names what must not.
type report struct {
	acked, repeated, contended atomic.Int64
	lost, doubled, wrong       int64
	mu                         sync.Mutex
	unexplained                []string
}

// answer is where a caller was told that its number stands.
type answer struct {
	n        int64
	revision es.Revision
	position es.Position
}

func (r *report) explain(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unexplained = append(r.unexplained, fmt.Sprintf(format, args...))
}

func (r *report) String() string {
	s := fmt.Sprintf("acked %d repeated %d contended %d lost %d doubled %d wrong %d unexplained %d",
		r.acked.Load(), r.repeated.Load(), r.contended.Load(), r.lost, r.doubled, r.wrong, len(r.unexplained))
	if len(r.unexplained) > 0 {
		s += ", the first: " + r.unexplained[0]
	}
	return s
}

// broken reports whether any promise was.
func (r *report) broken() bool {
	return r.lost+r.doubled+r.wrong > 0 || len(r.unexplained) > 0
}

func (a attack) run(ctx context.Context, final es.Log) *report {
	r := new(report)
	numbers := len(a.logs) * a.callers * a.commands
	if a.twice {
		numbers /= len(a.logs)
	}
	ids := make([]string, numbers)
	for n := range ids {
		ids[n] = uuid.NewString()
	}
	var wg sync.WaitGroup
	instances := make([]*es.Streams[tally], len(a.logs))
	for i, log := range a.logs {
		if instances[i] = hastyTallies(log); a.patient {
			instances[i] = newTallies(log)
		}
		if a.plant != nil {
			a.plant(instances[i])
		}
	}
	answers := make([][]answer, len(a.logs)*a.callers)
	ask := func(me int, n int64) {
		state, ok := a.call(traced(ctx, me), r, instances[me%len(instances)], ids[n], n)
		if !ok {
			return
		}
		r.acked.Add(1)
		answers[me] = append(answers[me], answer{n, state.Revision, state.Position})
		if added := state.Value.added; int(state.Revision) != len(added)-1 || added[len(added)-1] != n {
			r.explain("command %d answered with revision %d of %d events", n, state.Revision, len(added))
		}
	}
	for caller := range a.callers {
		if a.twice { // all instances get the command at once
			wg.Go(func() {
				for k := range a.commands {
					var at sync.WaitGroup
					for i := range instances {
						at.Go(func() { ask(caller*len(instances)+i, int64(caller*a.commands+k)) })
					}
					at.Wait()
				}
			})
			continue
		}
		for i := range instances {
			wg.Go(func() {
				me := caller*len(instances) + i
				for k := range a.commands {
					ask(me, int64(me*a.commands+k))
				}
			})
		}
	}
	wg.Wait()

	events := make(map[es.Revision]es.Recorded)
	if err := final.Read(ctx, "tally-"+a.stream, 0, func(e es.Recorded) error { events[e.Revision] = e; return nil }); err != nil {
		r.explain("%v", err)
	}
	state, err := newTallies(final).Load(ctx, a.stream)
	if err != nil {
		r.explain("%v", err)
		return r
	}
	times := make(map[int64]int)
	for _, n := range state.Value.added {
		times[n]++
	}
	for n := range int64(numbers) {
		r.lost += int64(max(0, 1-times[n]))
		r.doubled += int64(max(0, times[n]-1))
	}
	for _, mine := range answers {
		for _, got := range mine {
			if int(got.revision) >= len(state.Value.added) || state.Value.added[got.revision] != got.n || events[got.revision].Position != got.position {
				r.wrong++
			}
		}
	}
	return r
}

// call repeats a command until it is answered.
func (a attack) call(ctx context.Context, r *report, streams *es.Streams[tally], id string, n int64) (es.State[tally], bool) {
	for ctx.Err() == nil {
		if a.fresh {
			id = uuid.NewString()
		}
		each, cancel := context.WithTimeout(ctx, 5*time.Second)
		state, err := streams.Do(each, a.stream, requestWithID(id), add(n))
		cancel()
		var f *fault.Error
		var wrong *es.WrongRevision
		switch {
		case err == nil:
			return state, true
		case errors.As(err, &wrong):
			r.explain("command %d: a revision error reached the caller: %v", n, err)
			return state, false
		case errors.As(err, &f) && f.GRPC == codes.Aborted:
			r.contended.Add(1)
		case errors.As(err, &f) && (f.GRPC == codes.Unavailable || f.GRPC == codes.DeadlineExceeded):
			r.repeated.Add(1)
		default:
			r.explain("command %d: %v", n, err)
			return state, false
		}
	}
	r.explain("command %d: no answer in time", n)
	return es.State[tally]{}, false
}

// hastyTallies wait a twentieth of what Streams would, so that tests do not.
func hastyTallies(log es.Log) *es.Streams[tally] {
	return es.NewStreams(log, tallies, es.Options{Key: key, Jitter: func(max time.Duration) time.Duration { return rand.N(max / 20) }})
}

// traced gives each caller a trace of its own, so that the metadata of equal
// commands differ.
func traced(ctx context.Context, caller int) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, byte(caller)}, SpanID: trace.SpanID{1, byte(caller)}, TraceFlags: trace.FlagsSampled,
	}))
}

func TestTwoWriters(t *testing.T) {
	for _, c := range []struct {
		name   string
		attack attack
		faults estest.Faults
	}{
		{"calm", attack{callers: 1, commands: 5000}, estest.Faults{}},
		{"calm, 8 callers each", attack{callers: 8, commands: 625}, estest.Faults{}},
		{"each command to both", attack{callers: 8, commands: 250, twice: true}, estest.Faults{}},
		{"10 % executed but reported as failed", attack{callers: 8, commands: 625}, estest.Faults{Lost: 0.1}},
		{"all faults, each command to both", attack{callers: 8, commands: 125, twice: true}, estest.Faults{Lost: 0.1, Refused: 0.1, Stale: 0.05, Unread: 0.05}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			log := estest.NewAuditedLog(t)
			log.SetFaults(c.faults)
			c.attack.logs, c.attack.stream = []es.Log{log, log}, "hot"
			r := c.attack.run(ctx, quiet{log})
			want := c.attack.callers * c.attack.commands
			if !c.attack.twice {
				want *= 2
			}
			t.Logf("%d commands: %v", want, r)
			if r.broken() || len(log.Events()) != want {
				t.Error("a promise was broken")
			}
		})
	}
}

// The attack must find the bugs that Streams could have.
func TestPlantedBugs(t *testing.T) {
	for _, c := range []struct {
		name   string
		attack attack
		faults estest.Faults
	}{
		{"no command id is recognised", attack{plant: es.Forgetful[tally], twice: true}, estest.Faults{}},
		{"the expected revision is not checked", attack{}, estest.Faults{Unchecked: true}},
		{"a repeat is decided with a fresh id", attack{fresh: true}, estest.Faults{Lost: 0.8, Refused: 0.1, Unread: 0.5}},
		{"event ids come from the command id alone", attack{plant: es.IDsFromCommandOnly[tally], twice: true}, estest.Faults{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			log := estest.NewLog()
			log.SetFaults(c.faults)
			c.attack.logs, c.attack.stream, c.attack.callers, c.attack.commands = []es.Log{log, log}, "hot", 4, 100
			if r := c.attack.run(ctx, quiet{log}); r.broken() {
				t.Logf("caught: %v", r)
			} else {
				t.Errorf("MISSED: %v", r)
			}
		})
	}
}

// quiet reads a log without the faults of its reads.
type quiet struct{ *estest.Log }

func (q quiet) Read(ctx context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	for _, e := range q.Events() {
		if e.Stream == stream && e.Revision >= from {
			if err := yield(e); err != nil {
				return err
			}
		}
	}
	return nil
}
