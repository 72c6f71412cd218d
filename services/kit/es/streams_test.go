package es_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

var key = []byte("a key of a test, not of a system")

// tally is the state of the tests: the numbers added, in order.
type tally struct{ added []int64 }

var tallies = es.Decider[tally]{Category: "tally", Evolve: func(s tally, e proto.Message) tally {
	switch e := e.(type) {
	case *wrapperspb.Int64Value:
		return tally{append(slices.Clip(s.added), e.Value)}
	default:
		panic(es.Unhandled(e))
	}
}}

// request is a command request; its body is the command header itself.
type request struct{ *metav1.Command }

func (r request) GetCommand() *metav1.Command { return r.Command }

func newRequest() request { return requestWithID(uuid.NewString()) }

func requestWithID(id string) request {
	return request{&metav1.Command{CommandId: id, Actor: &metav1.Actor{User: "111222333", RoleCode: "R8000", Organisation: "RJ1"}}}
}

// add decides to add numbers.
func add(numbers ...int64) func(tally) ([]proto.Message, error) {
	return func(tally) (events []proto.Message, err error) {
		for _, n := range numbers {
			events = append(events, wrapperspb.Int64(n))
		}
		return events, nil
	}
}

func newTallies(log es.Log) *es.Streams[tally] {
	return es.NewStreams(log, tallies, es.Options{Key: key})
}

func wantCode(t *testing.T, err error, code string, grpc codes.Code) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != code || f.GRPC != grpc {
		t.Fatalf("error %v, want %s (%s)", err, code, grpc)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestDoAndLoad(t *testing.T) {
	t.Parallel()
	ctx, log := t.Context(), estest.NewAuditedLog(t)
	s, ok := newTallies(log), must[es.State[tally]](t)

	if got := ok(s.Load(ctx, "a")); got.Revision != es.NoStream || got.Position != 0 || got.Value.added != nil {
		t.Fatalf("empty stream: %+v", got)
	}
	ok(s.Do(ctx, "other", newRequest(), add(9)))
	got := ok(s.Do(ctx, "a", newRequest(), add(1, 2)))
	if got.Revision != 1 || !slices.Equal(got.Value.added, []int64{1, 2}) {
		t.Fatalf("after 2 events: %+v", got)
	}
	if head, _ := log.Head(ctx); got.Position != head || got.Receipt().Position != uint64(head) || got.Receipt().Revision != 1 {
		t.Fatalf("position %d, head %d, receipt %v", got.Position, head, got.Receipt())
	}
	got = ok(s.Do(ctx, "a", newRequest(), func(s tally) ([]proto.Message, error) {
		return add(int64(len(s.added)) * 10)(s)
	}))
	fresh := ok(newTallies(log).Load(ctx, "a"))
	if want := []int64{1, 2, 20}; got.Revision != 2 || fresh.Revision != 2 || fresh.Position != got.Position ||
		!slices.Equal(got.Value.added, want) || !slices.Equal(fresh.Value.added, want) {
		t.Fatalf("cached %+v, fresh %+v", got, fresh)
	}
}

func TestNoEventsAndRefusals(t *testing.T) {
	t.Parallel()
	ctx, log := t.Context(), estest.NewAuditedLog(t)
	here, there, ok := newTallies(log), newTallies(log), must[es.State[tally]](t)
	refused := fault.Refused("tally.empty", "there is nothing yet")
	unlessEmpty := func(s tally) ([]proto.Message, error) {
		if len(s.added) == 0 {
			return nil, refused
		}
		return nil, nil
	}
	if _, err := here.Do(ctx, "a", newRequest(), unlessEmpty); err != refused {
		t.Fatalf("refusal came back as %v", err)
	}
	// here has folded the empty stream; its answer must not come from that.
	ok(there.Do(ctx, "a", newRequest(), add(1)))
	if got := ok(here.Do(ctx, "a", newRequest(), unlessEmpty)); got.Revision != 0 {
		t.Fatalf("no events answered %+v", got)
	}
	if n := len(log.Events()); n != 1 {
		t.Fatalf("%d events stored, want 1", n)
	}
}

func TestCommandRefused(t *testing.T) {
	t.Parallel()
	s := newTallies(estest.NewAuditedLog(t))
	for _, id := range []string{"", "x", uuid.Nil.String(), "{" + uuid.NewString() + "}", "urn:uuid:" + uuid.NewString(), strings.ReplaceAll(uuid.NewString(), "-", "")} {
		_, err := s.Do(t.Context(), "a", requestWithID(id), add(1))
		wantCode(t, err, "command.id_invalid", codes.InvalidArgument)
	}
	_, err := s.Do(t.Context(), "a", request{}, add(1))
	wantCode(t, err, "command.missing", codes.InvalidArgument)
	_, err = s.Do(t.Context(), "a", newRequest(), func(tally) ([]proto.Message, error) {
		return []proto.Message{wrapperspb.String("no case for this")}, nil
	})
	wantCode(t, err, "es.event_unhandled", codes.DataLoss)
	_, err = s.Do(t.Context(), "a", newRequest(), add(make([]int64, 4000)...))
	wantCode(t, err, "command.too_large", codes.InvalidArgument)
}

func TestRepeatedCommand(t *testing.T) {
	t.Parallel()
	ctx, log := t.Context(), estest.NewAuditedLog(t)
	s, ok := newTallies(log), must[es.State[tally]](t)
	first := newRequest()
	want := ok(s.Do(ctx, "a", first, add(1, 2)))
	for n := range int64(300) {
		if n == 255 { // first is the oldest of 256 now
			for _, streams := range []*es.Streams[tally]{s, newTallies(log)} {
				got := ok(streams.Do(ctx, "a", first, func(tally) ([]proto.Message, error) {
					t.Error("a repeat was decided")
					return nil, nil
				}))
				if got.Revision != want.Revision || got.Position != want.Position || !slices.Equal(got.Value.added, want.Value.added) {
					t.Fatalf("repeat answers %+v, first %+v", got, want)
				}
				other := requestWithID(first.CommandId)
				other.Reason = "another body"
				_, err := streams.Do(ctx, "a", other, add(3))
				wantCode(t, err, "command.id_reused", codes.InvalidArgument)
			}
		}
		ok(s.Do(ctx, "a", newRequest(), add(n)))
	}
	if n := len(log.Events()); n != 302 {
		t.Fatalf("%d events, want 302", n)
	}
	// The same id on another stream is another command.
	if got := ok(s.Do(ctx, "b", first, add(7))); got.Revision != 0 {
		t.Fatalf("other stream: %+v", got)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newTallies(estest.NewLog()).Do(ctx, "a", newRequest(), add(1))
	if err == nil {
		t.Fatal("a cancelled command succeeded")
	}
}
