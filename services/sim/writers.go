package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"

	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// tally is a stream that several writers write to: its state is what they wrote.
func tally() es.Decider[[]string] {
	return es.Decider[[]string]{Category: "tally", Evolve: func(s []string, m proto.Message) []string {
		return append(slices.Clip(s), m.(*wrapperspb.StringValue).Value)
	}}
}

func simKey() []byte { return []byte("0123456789abcdef0123456789abcdef") }

// writers starts clients of kit/es, each an instance of its own, that write to
// the same streams.
func (w *world) writers() *sync.WaitGroup {
	var all sync.WaitGroup
	for n := range w.opt.Writers {
		a := w.actor(fmt.Sprint("writer ", n))
		log := w.link(a)
		all.Go(func() { w.write(a, es.NewStreams(log, tally(), es.Options{Key: simKey(), Jitter: a.jitter("retry")})) })
	}
	return &all
}

// follow starts one who reads the log as a relay does.
func (w *world) follow() *reader {
	r := &reader{log: w.link(w.actor("reader"))}
	w.background.Go(func() { _ = r.log.Subscribe(w.life, 0, es.Filter{}, r.hear) })
	return r
}

type reader struct {
	log es.Log

	mu sync.Mutex
	at es.Position // under mu
}

func (r *reader) hear(m es.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Event != nil {
		r.at = m.Event.Position
	}
	return nil
}

func (w *world) link(a *actor) es.Log {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history.links = append(w.history.links, a)
	return &link{wire: wire{a, w.life}, node: w.node}
}

// write sends the commands of one client, each until it is answered.
func (w *world) write(a *actor, streams *es.Streams[[]string]) {
	for n := range w.opt.Commands {
		_ = a.wait(w.life, "think", 30*time.Millisecond)
		if w.opt.Loose && n == 0 && strings.HasSuffix(a.name, " 0") {
			_ = a.sleep(w.life, "loose", rand.N(10*time.Millisecond))
		}
		id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, w.seed, a.name, n))
		stream := fmt.Sprint(a.draw("stream").IntN(w.opt.Streams))
		req := &careleadv1.RunTimersRequest{Command: &metav1.Command{CommandId: id.String(), Actor: &metav1.Actor{User: a.name, Organisation: "RJ1"}}}
		several := 1 + a.draw("several").IntN(3)
		err := w.untilAnswered(a, 400*time.Millisecond, func(ctx context.Context) error {
			state, err := streams.Do(ctx, stream, req, func([]string) (events []proto.Message, err error) {
				for i := range several {
					events = append(events, wrapperspb.String(value(id, i)))
				}
				return events, nil
			})
			if err == nil && !slices.Contains(state.Value, value(id, several-1)) {
				w.fail("a command was answered with a state that lacks it")
			}
			return err
		})
		if err != nil {
			w.fail("a command that is always right was answered with %v", err)
			return
		}
	}
}

func value(id uuid.UUID, n int) string { return fmt.Sprint(id, " ", n) }

// untilAnswered repeats a call until somebody answers it, as every client does
// who keeps its command id. It reports the answer.
func (w *world) untilAnswered(a *actor, within time.Duration, call func(context.Context) error) error {
	for try := 0; ; try++ {
		ctx, cancel := context.WithTimeout(w.life, within+17*actors)
		err := call(ctx)
		cancel()
		if err == nil || !passing(err) || w.life.Err() != nil {
			return err
		}
		w.count(func(r *Result) { r.Retries++ })
		_ = a.wait(w.life, "retry", 20*time.Millisecond<<min(try, 5))
	}
}

// refusal says that an error is a decision.
func refusal(err error) bool { return fault.IsAnswer(err) }

// answered counts a command of a client.
func (w *world) answered(method string, accepted bool) {
	w.count(func(r *Result) {
		r.Answered++
		if !accepted {
			r.Refused++
			method = "refused " + method
		}
		r.Methods[method]++
	})
}

// passing says that repeating a call may help.
func passing(err error) bool {
	c := status.Code(err)
	if f := (*fault.Error)(nil); errors.As(err, &f) {
		c = f.GRPC
	}
	switch c {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.ResourceExhausted, codes.Canceled:
		return true
	}
	return false
}
