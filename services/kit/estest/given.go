package estest

import (
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// Scenario is a decision being tested:
//
//	estest.Given(referral.Decider, opened, sent).
//		When(accept.Decide).
//		Then(t, accepted)
type Scenario[S any] struct {
	decider es.Decider[S]
	state   S
	broken  error

	events []proto.Message
	err    error
}

// Given folds what has happened. Each event goes through its encoding, as it
// does on its way through the log.
func Given[S any](decider es.Decider[S], events ...proto.Message) Scenario[S] {
	s := Scenario[S]{decider: decider}
	for _, e := range events {
		s.add(e)
	}
	return s
}

func (s *Scenario[S]) add(e proto.Message) {
	data, err := proto.Marshal(e)
	if err != nil {
		s.broken = err
		return
	}
	stored, err := es.Decode(es.Recorded{Stream: s.decider.Category + "-given", Type: string(e.ProtoReflect().Descriptor().FullName()), Data: data})
	if err == nil {
		s.state, err = es.TryEvolve(s.decider.Evolve, s.state, stored)
	}
	if err != nil {
		s.broken = err
	}
}

// And adds events to those given.
func (s Scenario[S]) And(events ...proto.Message) Scenario[S] {
	for _, e := range events {
		s.add(e)
	}
	return s
}

// When decides. The events it gave in an earlier When of the scenario have
// happened, so that decisions can follow each other.
func (s Scenario[S]) When(decide func(S) ([]proto.Message, error)) Scenario[S] {
	for _, e := range s.events {
		s.add(e)
	}
	s.events, s.err = decide(s.state)
	return s
}

// State returns the state after the events given and decided.
func (s Scenario[S]) State(t testing.TB) S {
	t.Helper()
	for _, e := range s.events {
		s.add(e)
	}
	if s.broken != nil {
		t.Fatalf("given: %v", s.broken)
	}
	return s.state
}

// Then fails unless exactly these events were decided, and Evolve has a case for
// each.
func (s Scenario[S]) Then(t testing.TB, want ...proto.Message) {
	t.Helper()
	s.State(t)
	if s.err != nil {
		t.Fatalf("refused: %v", s.err)
	}
	for i := range max(len(s.events), len(want)) {
		switch {
		case i >= len(want):
			t.Errorf("event %d: %s, not wanted", i, show(s.events[i]))
		case i >= len(s.events):
			t.Errorf("event %d: nothing, want %s", i, show(want[i]))
		case !proto.Equal(s.events[i], want[i]):
			t.Errorf("event %d:\n got %s\nwant %s", i, show(s.events[i]), show(want[i]))
		}
	}
}

// ThenNothing fails unless the decision succeeded without events.
func (s Scenario[S]) ThenNothing(t testing.TB) {
	t.Helper()
	s.Then(t)
}

// ThenRefused fails unless the decision was refused with the fault code.
func (s Scenario[S]) ThenRefused(t testing.TB, code string) {
	t.Helper()
	if s.broken != nil {
		t.Fatalf("given: %v", s.broken)
	}
	if s.err == nil {
		t.Fatalf("decided %d events, want a refusal with %s", len(s.events), code)
	}
	if got := fault.CodeOf(s.err); got != code {
		t.Fatalf("refused with %q (%v), want %s", got, s.err, code)
	}
}

func show(m proto.Message) string {
	return string(m.ProtoReflect().Descriptor().Name()) + " " + protojson.MarshalOptions{}.Format(m)
}
