package estest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// within bounds each call of the suite; only a broken log reaches it.
const within = 20 * time.Second

// LogSuite holds an es.Log to what the interface promises. open may return the
// same log each time, and the log may hold anything: the suite works in streams
// of its own.
func LogSuite(t *testing.T, open func() es.Log) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"AppendAndRead", (*suite).appendAndRead},
		{"Revisions", (*suite).revisions},
		{"Repeats", (*suite).repeats},
		{"Atomic", (*suite).atomic},
		{"NothingToAppend", (*suite).nothing},
		{"ReadFails", (*suite).readFails},
		{"ReadAll", (*suite).readAll},
		{"MaxCount", (*suite).maxCount},
		{"Subscribe", (*suite).subscribe},
		{"SubscribeFiltered", (*suite).subscribeFiltered},
		{"SubscribeWithoutMetadata", (*suite).subscribeWithoutMetadata},
		{"SubscribeEnds", (*suite).subscribeEnds},
		{"Concurrent", (*suite).concurrent},
		{"Deadline", (*suite).deadline},
		{"Health", (*suite).health},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			c.test(&suite{T: t, ctx: ctx, log: open(), name: "suite" + uuid.NewString()[:8]})
		})
	}
}

type suite struct {
	*testing.T
	ctx  context.Context
	log  es.Log
	name string // a category that no other log has
}

func (s *suite) stream(n int) string { return fmt.Sprintf("%s-%d", s.name, n) }

func someEvent() es.NewEvent {
	id := uuid.New()
	return es.NewEvent{ID: id, Type: "waymark.test.v1.Something", Data: id[:], Metadata: []byte(`{"of":"` + id.String() + `"}`)}
}

func someEvents(n int) (events []es.NewEvent) {
	for range n {
		events = append(events, someEvent())
	}
	return events
}

func (s *suite) append(stream string, expected es.Revision, events ...es.NewEvent) es.Appended {
	s.Helper()
	at, err := s.log.Append(s.ctx, stream, expected, events)
	if err != nil {
		s.Fatalf("append to %s at %d: %v", stream, expected, err)
	}
	return at
}

func (s *suite) wantWrong(stream string, expected, actual es.Revision, events ...es.NewEvent) {
	s.Helper()
	_, err := s.log.Append(s.ctx, stream, expected, events)
	var wrong *es.WrongRevision
	if !errors.As(err, &wrong) || *wrong != (es.WrongRevision{Expected: expected, Actual: actual}) {
		s.Fatalf("append at %d to a stream at %d: %v", expected, actual, err)
	}
}

func (s *suite) read(stream string, from es.Revision) (events []es.Recorded) {
	s.Helper()
	err := s.log.Read(s.ctx, stream, from, func(e es.Recorded) error { events = append(events, e); return nil })
	if err != nil {
		s.Fatalf("read %s: %v", stream, err)
	}
	return events
}

// same fails unless got are the events, stored from revision from.
func (s *suite) same(got []es.Recorded, want []es.NewEvent, stream string, from es.Revision) {
	s.Helper()
	if len(got) != len(want) {
		s.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.ID != w.ID || g.Type != w.Type || !slices.Equal(g.Data, w.Data) || !slices.Equal(g.Metadata, w.Metadata) ||
			g.Stream != stream || g.Revision != from+es.Revision(i) || g.Position == 0 || g.Recorded.IsZero() {
			s.Fatalf("event %d of %s: %+v, want %+v", i, stream, g, w)
		}
		if i > 0 && g.Position <= got[i-1].Position {
			s.Fatalf("position %d after %d", g.Position, got[i-1].Position)
		}
	}
}

func (s *suite) appendAndRead() {
	events, stream := someEvents(5), s.stream(1)
	if got := s.read(stream, 0); len(got) != 0 {
		s.Fatalf("a stream that does not exist has %d events", len(got))
	}
	first := s.append(stream, es.NoStream, events[0])
	last := s.append(stream, 0, events[1:]...)
	if first.Revision != 0 || last.Revision != 4 || first.Position == 0 || last.Position <= first.Position {
		s.Fatalf("appended at %+v and %+v", first, last)
	}
	got := s.read(stream, 0)
	s.same(got, events, stream, 0)
	if got[0].Position != first.Position || got[4].Position != last.Position {
		s.Fatalf("appended at %d and %d, read at %d and %d", first.Position, last.Position, got[0].Position, got[4].Position)
	}
	s.same(s.read(stream, 3), events[3:], stream, 3)
	s.same(s.read(stream, 5), nil, stream, 5)
	s.same(s.read(stream, 99), nil, stream, 99)
	if head, err := s.log.Head(s.ctx); err != nil || head < last.Position {
		s.Fatalf("head %d after an append at %d: %v", head, last.Position, err)
	}
}

func (s *suite) revisions() {
	stream := s.stream(1)
	s.wantWrong(stream, 0, es.NoStream, someEvent())
	s.wantWrong(stream, 7, es.NoStream, someEvent())
	s.append(stream, es.NoStream, someEvents(3)...)
	s.wantWrong(stream, es.NoStream, 2, someEvent())
	s.wantWrong(stream, 0, 2, someEvent())
	s.wantWrong(stream, 1, 2, someEvent())
	s.wantWrong(stream, 3, 2, someEvent())
	s.append(stream, 2, someEvent())
	if got := s.read(stream, 0); len(got) != 4 {
		s.Fatalf("%d events, want 4", len(got))
	}
}

func (s *suite) repeats() {
	stream, events := s.stream(1), someEvents(6)
	first := s.append(stream, es.NoStream, events[:2]...)
	second := s.append(stream, 1, events[2:5]...)
	s.append(stream, 4, events[5])
	if again := s.append(stream, es.NoStream, events[:2]...); again != first {
		s.Errorf("first append %+v, repeated %+v", first, again)
	}
	if again := s.append(stream, 1, events[2:5]...); again != second {
		s.Errorf("second append %+v, repeated %+v", second, again)
	}
	s.append(stream, 1, events[2:4]...) // a part of it is known too
	s.wantWrong(stream, 1, 5, events[2], someEvent())
	s.wantWrong(stream, 1, 5, append(slices.Clone(events[2:6]), someEvent())...)
	s.wantWrong(stream, 2, 5, events[2])
	s.same(s.read(stream, 0), events, stream, 0)
	// The same ids in another stream are other events.
	s.append(s.stream(2), es.NoStream, events[:2]...)
	s.same(s.read(s.stream(2), 0), events[:2], s.stream(2), 0)
}

func (s *suite) atomic() {
	stream := s.stream(1)
	s.append(stream, es.NoStream, someEvent())
	s.wantWrong(stream, es.NoStream, 0, someEvents(3)...)
	if n := len(s.read(stream, 0)); n != 1 {
		s.Fatalf("a refused append left %d events", n-1)
	}
}

func (s *suite) nothing() {
	if _, err := s.log.Append(s.ctx, s.stream(1), es.NoStream, nil); err == nil {
		s.Fatal("an append without events succeeded")
	}
}

func (s *suite) readFails() {
	stream := s.stream(1)
	s.append(stream, es.NoStream, someEvents(5)...)
	stop := errors.New("stop")
	for _, read := range []func(func(es.Recorded) error) error{
		func(yield func(es.Recorded) error) error { return s.log.Read(s.ctx, stream, 0, yield) },
		func(yield func(es.Recorded) error) error { return s.log.ReadAll(s.ctx, 0, yield) },
	} {
		n := 0
		if err := read(func(es.Recorded) error { n++; return stop }); err != stop || n != 1 {
			s.Fatalf("%d events after a failed yield, error %v", n, err)
		}
	}
}

func (s *suite) readAll() {
	before, err := s.log.Head(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	events := someEvents(9)
	var at []es.Appended
	for i, e := range events {
		at = append(at, s.append(s.stream(i%3), es.Revision(i/3)-1, e))
	}
	all := func(after es.Position) (ids []uuid.UUID) {
		last := after
		err := s.log.ReadAll(s.ctx, after, func(e es.Recorded) error {
			if e.Position <= last || e.Stream[0] == '$' {
				return fmt.Errorf("%s at %d after %d", e.Stream, e.Position, last)
			}
			if last = e.Position; len(e.Stream) > len(s.name) && e.Stream[:len(s.name)] == s.name {
				ids = append(ids, e.ID)
			}
			return nil
		})
		if err != nil {
			s.Fatal(err)
		}
		return ids
	}
	for i := range events {
		want := make([]uuid.UUID, 0)
		for _, e := range events[i:] {
			want = append(want, e.ID)
		}
		after := before
		if i > 0 {
			after = at[i-1].Position
		}
		if got := all(after); !slices.Equal(got, want) {
			s.Fatalf("after event %d: %v, want %v", i, got, want)
		}
	}
	if got := all(at[8].Position); len(got) != 0 {
		s.Fatalf("%d events after the last", len(got))
	}
	if got := all(0); len(got) != 9 {
		s.Fatalf("%d events from the start, want 9", len(got))
	}
}

func (s *suite) maxCount() {
	stream, events := s.stream(1), someEvents(5)
	s.append(stream, es.NoStream, events[:3]...)
	if err := s.log.SetMaxCount(s.ctx, stream, 2); err != nil {
		s.Fatal(err)
	}
	s.same(s.read(stream, 0), events[1:3], stream, 1)
	s.append(stream, 2, events[3:]...)
	s.same(s.read(stream, 0), events[3:], stream, 3)
	s.same(s.read(stream, 4), events[4:], stream, 4)
}

// following is a subscription in the background.
type following struct {
	messages chan es.Message
	cancel   context.CancelFunc
	done     chan error
}

func (s *suite) follow(after es.Position, filter es.Filter) *following {
	ctx, cancel := context.WithCancel(s.ctx)
	f := &following{make(chan es.Message), cancel, make(chan error, 1)}
	go func() {
		f.done <- s.log.Subscribe(ctx, after, filter, func(m es.Message) error {
			select {
			case f.messages <- m:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	s.Cleanup(cancel)
	return f
}

// next returns the next message that is news of catching up or an event of the suite.
func (s *suite) next(f *following) es.Message {
	s.Helper()
	for {
		select {
		case m := <-f.messages:
			if m.Event == nil || len(m.Event.Stream) > len(s.name) && m.Event.Stream[:len(s.name)] == s.name {
				return m
			}
		case err := <-f.done:
			s.Fatalf("subscription ended: %v", err)
		case <-s.ctx.Done():
			s.Fatal("no message")
		}
	}
}

func (s *suite) wantEvents(f *following, want []es.NewEvent) {
	s.Helper()
	for i, w := range want {
		m := s.next(f)
		for m.CaughtUp {
			m = s.next(f)
		}
		if m.Event.ID != w.ID {
			s.Fatalf("event %d is %s of %s, want %s", i, m.Event.ID, m.Event.Stream, w.ID)
		}
	}
}

func (s *suite) subscribe() {
	events := someEvents(30)
	before, err := s.log.Head(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	tenth := s.append(s.stream(1), es.NoStream, events[:10]...)
	fromStart, fromTenth := s.follow(before, es.Filter{}), s.follow(tenth.Position, es.Filter{})
	s.wantEvents(fromStart, events[:10])
	for _, f := range []*following{fromStart, fromTenth} {
		for !s.next(f).CaughtUp {
		}
	}
	for i, e := range events[10:20] {
		s.append(s.stream(2), es.Revision(i)-1, e)
	}
	s.append(s.stream(1), 9, events[20:]...)
	s.wantEvents(fromStart, events[10:])
	s.wantEvents(fromTenth, events[10:])
}

func (s *suite) subscribeFiltered() {
	before, err := s.log.Head(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	a, b, c := s.name+"a", s.name+"b", s.name+"bb"
	f := s.follow(before, es.Filter{Categories: []string{a, b}})
	var want []es.NewEvent
	for i := range 100 {
		e := someEvent()
		category := []string{a, c, b, s.name}[i%4]
		s.append(fmt.Sprintf("%s-%d", category, i), es.NoStream, e)
		if category == a || category == b {
			want = append(want, e)
		}
	}
	s.wantEvents(f, want)
	// From the middle of what does not pass.
	s.wantEvents(s.follow(before, es.Filter{Categories: []string{b}}), func() (of []es.NewEvent) {
		for i := 1; i < len(want); i += 2 {
			of = append(of, want[i])
		}
		return of
	}())
}

// subscribeWithoutMetadata: metadata is the stored one or none; all else, and what
// other subscriptions get, is as ever, of old events and of new ones.
func (s *suite) subscribeWithoutMetadata() {
	before, err := s.log.Head(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	events := someEvents(20)
	s.append(s.stream(1), es.NoStream, events[:10]...)
	bare := s.follow(before, es.Filter{Categories: []string{s.name}, NoMetadata: true})
	whole := s.follow(before, es.Filter{Categories: []string{s.name}})
	for i, w := range events {
		if i == 10 {
			for _, f := range []*following{bare, whole} {
				for !s.next(f).CaughtUp {
				}
			}
			s.append(s.stream(1), 9, events[10:]...)
		}
		for _, f := range []*following{bare, whole} {
			m := s.next(f)
			for m.CaughtUp {
				m = s.next(f)
			}
			e := *m.Event
			if f == bare && len(e.Metadata) == 0 {
				e.Metadata = w.Metadata
			}
			if e.ID != w.ID || e.Stream != s.stream(1) || e.Revision != es.Revision(i) || e.Position <= before || e.Recorded.IsZero() ||
				e.Type != w.Type || !bytes.Equal(e.Data, w.Data) || !bytes.Equal(e.Metadata, w.Metadata) {
				s.Fatalf("event %d is %+v, want %+v", i, e, w)
			}
		}
	}
}

func (s *suite) subscribeEnds() {
	s.append(s.stream(1), es.NoStream, someEvents(3)...)
	stop := errors.New("stop")
	if err := s.log.Subscribe(s.ctx, 0, es.Filter{}, func(es.Message) error { return stop }); err != stop {
		s.Fatalf("a failed handler ends with %v", err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	err := s.log.Subscribe(ctx, 0, es.Filter{Categories: []string{s.name}}, func(m es.Message) error {
		if m.CaughtUp {
			cancel()
		}
		return nil
	})
	if err != context.Canceled {
		s.Fatalf("a cancelled subscription ends with %v", err)
	}
}

// concurrent lets writers race for one stream with exact revisions: each revision
// is won once.
func (s *suite) concurrent() {
	const writers, each = 8, 25
	stream := s.stream(1)
	var wg sync.WaitGroup
	won := make([][]uuid.UUID, writers)
	for w := range writers {
		wg.Go(func() {
			at := es.NoStream
			for len(won[w]) < each {
				e := someEvent()
				got, err := s.log.Append(s.ctx, stream, at, []es.NewEvent{e})
				var wrong *es.WrongRevision
				switch {
				case err == nil:
					won[w], at = append(won[w], e.ID), got.Revision
				case errors.As(err, &wrong):
					at = wrong.Actual
				default:
					s.Errorf("append: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	events := s.read(stream, 0)
	ids := make(map[uuid.UUID]bool)
	for i, e := range events {
		if ids[e.ID] = true; e.Revision != es.Revision(i) {
			s.Fatalf("revision %d at place %d", e.Revision, i)
		}
	}
	if len(ids) != writers*each || len(events) != writers*each {
		s.Fatalf("%d events, %d ids, want %d", len(events), len(ids), writers*each)
	}
	for _, mine := range won {
		for _, id := range mine {
			if !ids[id] {
				s.Fatalf("acknowledged event %s is not there", id)
			}
		}
	}
}

func (s *suite) deadline() {
	ctx, cancel := context.WithTimeout(s.ctx, -time.Second)
	defer cancel()
	_, headErr := s.log.Head(ctx)
	_, appendErr := s.log.Append(ctx, s.stream(1), es.NoStream, someEvents(1))
	for i, err := range []error{
		headErr, appendErr,
		s.log.Read(ctx, s.stream(1), 0, func(es.Recorded) error { return nil }),
		s.log.ReadAll(ctx, 0, func(es.Recorded) error { return nil }),
	} {
		var f *fault.Error
		if !errors.As(err, &f) || f.GRPC != codes.DeadlineExceeded && f.GRPC != codes.Unavailable {
			s.Errorf("call %d after the deadline: %v", i, err)
		}
	}
}

func (s *suite) health() {
	read, write := s.log.Health(s.ctx)
	if read != nil || write != nil {
		s.Fatalf("read %v, write %v", read, write)
	}
}
