// Package estest is what tests of event-sourced code stand on: a log in memory
// with faults, the suite that every es.Log passes, given/when/then for deciders,
// checks that a contract and its decider know each other, and an audit of a log.
package estest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// Faults is how a Log misbehaves. Rates are between 0 and 1.
type Faults struct {
	// Lost is the rate of appends that are executed but reported as failed.
	Lost float64
	// Refused is the rate of appends that fail before they are executed, with the
	// same error, so that a caller cannot tell.
	Refused float64
	// Stale is the rate of appends answered with a wrong revision although theirs
	// was right, as by a store whose leader has just changed.
	Stale float64
	// Unread is the rate of reads that break off after some events.
	Unread float64
	// Down makes every call fail with UNAVAILABLE; subscriptions wait.
	Down bool
	// Hang makes every call wait for the end of its context, as a stopped process
	// does; subscriptions wait.
	Hang bool
	// Full makes every append fail with RESOURCE_EXHAUSTED.
	Full bool
	// Before runs before each call with its name ("Append", "Read", "ReadAll",
	// "Head") and stream, outside the log's lock: it may delay or write itself.
	// Its error fails the call.
	Before func(ctx context.Context, call, stream string) error
	// Unchecked and Blind plant the bugs that tests of tests look for: a store that
	// does not check the expected revision; one that does not know repeated ids.
	Unchecked, Blind bool
}

// Log is an es.Log in memory. Its positions have gaps, as a real store's have.
type Log struct {
	mu      sync.Mutex // guards all below
	all     []es.Recorded
	streams map[string][]es.Recorded
	visible map[string]int // $maxCount
	grown   chan struct{}  // closed and renewed at each append and each change of faults
	faults  Faults
	rand    *rand.Rand
	now     func() time.Time
}

// NewLog returns an empty log without faults. Its clock starts in 2026 and moves
// by a millisecond an append.
func NewLog() *Log {
	at := time.Date(2026, 4, 1, 9, 0, 0, 0, time.UTC)
	return &Log{
		streams: make(map[string][]es.Recorded),
		visible: make(map[string]int),
		grown:   make(chan struct{}),
		rand:    rand.New(rand.NewPCG(1, 2)),
		now:     func() time.Time { at = at.Add(time.Millisecond); return at },
	}
}

// NewAuditedLog returns a log that is audited when the test ends.
func NewAuditedLog(t testing.TB) *Log {
	l := NewLog()
	t.Cleanup(func() {
		l.SetFaults(Faults{})
		Audit(t, l)
	})
	return l
}

// SetClock sets where recorded times come from. The log calls it under its lock.
func (l *Log) SetClock(now func() time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = now
}

// SetFaults replaces the faults from now on. Calls that hang stay until their
// context ends.
func (l *Log) SetFaults(f Faults) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = f
	l.wake()
}

// Seed makes the faults that follow repeatable.
func (l *Log) Seed(seed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rand = rand.New(rand.NewPCG(seed, 2))
}

// Events returns all that was ever appended, oldest first.
func (l *Log) Events() []es.Recorded {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// Tamper replaces the stored event at position with what change makes of it, for
// tests that must notice.
func (l *Log) Tamper(position es.Position, change func(es.Recorded) es.Recorded) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range l.all {
		if e.Position == position {
			changed := change(e)
			l.all[i] = changed
			for j, s := range l.streams[e.Stream] {
				if s.Position == position {
					l.streams[e.Stream][j] = changed
				}
			}
		}
	}
}

func (l *Log) wake() {
	close(l.grown)
	l.grown = make(chan struct{})
}

// enter is what every call goes through first.
func (l *Log) enter(ctx context.Context, call, stream string) (Faults, error) {
	l.mu.Lock()
	f := l.faults
	l.mu.Unlock()
	if f.Before != nil {
		if err := f.Before(ctx, call, stream); err != nil {
			return f, err
		}
	}
	if f.Hang {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return f, fault.TimedOut("log.deadline", "the context ended")
	}
	if f.Down {
		return f, errDown
	}
	return f, nil
}

var errDown = fault.Unavailable("log.unavailable", "the log is down", time.Second)

// chance reports true at a rate. The caller holds mu.
func (l *Log) chance(rate float64) bool { return rate > 0 && l.rand.Float64() < rate }

// Append implements es.Log.
func (l *Log) Append(ctx context.Context, stream string, expected es.Revision, events []es.NewEvent) (es.Appended, error) {
	if len(events) == 0 {
		return es.Appended{}, errors.New("estest: an append without events")
	}
	f, err := l.enter(ctx, "Append", stream)
	if err != nil {
		return es.Appended{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.Full {
		return es.Appended{}, fault.Exhausted("log.full", "the log has no room", time.Minute)
	}
	if l.chance(f.Refused) {
		return es.Appended{}, errDown
	}
	stored := l.streams[stream]
	current := es.Revision(len(stored)) - 1
	if l.chance(f.Stale) {
		return es.Appended{}, &es.WrongRevision{Expected: expected, Actual: current}
	}
	if expected < current && !f.Blind && repeats(stored[expected+1:], events) {
		if l.chance(f.Lost) {
			return es.Appended{}, errDown
		}
		last := stored[expected+es.Revision(len(events))]
		return es.Appended{Revision: last.Revision, Position: last.Position}, nil
	}
	if expected != current && !f.Unchecked {
		return es.Appended{}, &es.WrongRevision{Expected: expected, Actual: current}
	}
	for _, e := range events {
		current++
		r := es.Recorded{
			ID: e.ID, Stream: stream, Revision: current, Position: l.head() + 64, Type: e.Type,
			Data: slices.Clone(e.Data), Metadata: slices.Clone(e.Metadata), Recorded: l.now(),
		}
		l.all = append(l.all, r)
		l.streams[stream] = append(l.streams[stream], r)
	}
	l.wake()
	if l.chance(f.Lost) {
		return es.Appended{}, errDown
	}
	return es.Appended{Revision: current, Position: l.head()}, nil
}

// repeats reports whether events are the ones stored first in next.
func repeats(next []es.Recorded, events []es.NewEvent) bool {
	if len(events) > len(next) {
		return false
	}
	for i, e := range events {
		if next[i].ID != e.ID {
			return false
		}
	}
	return true
}

// head is the position of the last event. The caller holds mu.
func (l *Log) head() es.Position {
	if len(l.all) == 0 {
		return 0
	}
	return l.all[len(l.all)-1].Position
}

// Read implements es.Log.
func (l *Log) Read(ctx context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	f, err := l.enter(ctx, "Read", stream)
	if err != nil {
		return err
	}
	l.mu.Lock()
	events := l.streams[stream]
	if n := l.visible[stream]; n > 0 {
		from = max(from, es.Revision(len(events)-n))
	}
	events = events[min(max(from, 0), es.Revision(len(events))):]
	broken := l.chance(f.Unread)
	l.mu.Unlock()
	return hand(ctx, events, broken, yield)
}

// hand yields events, which are not changed any more, outside the lock.
func hand(ctx context.Context, events []es.Recorded, broken bool, yield func(es.Recorded) error) error {
	for i, e := range events {
		if broken && i == len(events)/2 {
			return errDown
		}
		if ctx.Err() != nil {
			return fault.TimedOut("log.deadline", "the context ended")
		}
		if err := yield(e); err != nil {
			return err
		}
	}
	if broken {
		return errDown
	}
	return nil
}

// after returns the events after a position. The caller holds mu.
func (l *Log) after(p es.Position) []es.Recorded {
	i, _ := slices.BinarySearchFunc(l.all, p+1, func(e es.Recorded, p es.Position) int {
		switch {
		case e.Position < p:
			return -1
		case e.Position > p:
			return 1
		}
		return 0
	})
	return l.all[i:]
}

// ReadAll implements es.Log.
func (l *Log) ReadAll(ctx context.Context, after es.Position, yield func(es.Recorded) error) error {
	f, err := l.enter(ctx, "ReadAll", "")
	if err != nil {
		return err
	}
	l.mu.Lock()
	events := l.after(after)
	broken := l.chance(f.Unread)
	l.mu.Unlock()
	return hand(ctx, events, broken, func(e es.Recorded) error {
		if strings.HasPrefix(e.Stream, "$") {
			return nil
		}
		return yield(e)
	})
}

// Head implements es.Log.
func (l *Log) Head(ctx context.Context) (es.Position, error) {
	if _, err := l.enter(ctx, "Head", ""); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range slices.Backward(l.all) {
		if !strings.HasPrefix(e.Stream, "$") {
			return e.Position, nil
		}
	}
	return 0, nil
}

// Subscribe implements es.Log.
func (l *Log) Subscribe(ctx context.Context, after es.Position, filter es.Filter, handle func(es.Message) error) error {
	live := false
	for {
		l.mu.Lock()
		away := l.faults.Down || l.faults.Hang
		events, grown := l.after(after), l.grown
		l.mu.Unlock()
		if away {
			events, live = nil, false
		}
		for _, e := range events {
			if err := ctx.Err(); err != nil {
				return err
			}
			if passes(filter, e.Stream) {
				if err := handle(es.Message{Event: &e}); err != nil {
					return err
				}
			}
			after = e.Position
		}
		if !live && !away {
			live = true
			if err := handle(es.Message{CaughtUp: true}); err != nil {
				return err
			}
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func passes(f es.Filter, stream string) bool {
	if strings.HasPrefix(stream, "$") {
		return false
	}
	category, _, _ := strings.Cut(stream, "-")
	return len(f.Categories) == 0 || slices.Contains(f.Categories, category)
}

// SetMaxCount implements es.Log.
func (l *Log) SetMaxCount(ctx context.Context, stream string, n int) error {
	if _, err := l.enter(ctx, "SetMaxCount", stream); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.visible[stream] = n
	return nil
}

// Health implements es.Log.
func (l *Log) Health(ctx context.Context) (read, write error) {
	f, err := l.enter(ctx, "Health", "")
	if err != nil {
		return err, err
	}
	if f.Full {
		return nil, fault.Exhausted("log.full", "the log has no room", time.Minute)
	}
	return nil, nil
}
