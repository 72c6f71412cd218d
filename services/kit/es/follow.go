package es

import (
	"context"
	"errors"
	"sync"
	"time"

	"waymark/services/kit/fault"
)

// Follower keeps a read model that lives in memory in step with the log. Its
// owner embeds it: whoever reads or changes the model holds the Follower's lock.
// Make one with Follow.
type Follower struct {
	sync.Mutex // guards the model, and all below

	log      Log
	filter   Filter
	code     string
	apply    func(Recorded) error
	position Position      // of the last event applied
	live     bool          // has once reached the end of the log
	moved    chan struct{} // closed and renewed when position or live changes
}

// Follow returns a Follower of the categories' events. It hands them to apply,
// with the lock held; an error of apply ends Run, so apply must fail before it
// changes anything. The code is that of the refusal when the model is behind, such as "carelead.behind".
func Follow(log Log, code string, apply func(Recorded) error, categories ...string) *Follower {
	return &Follower{log: log, filter: Filter{Categories: categories}, code: code, apply: apply, moved: make(chan struct{})}
}

// Run applies events until ctx ends, the log fails or apply does; it goes on
// where an earlier run stopped. One run at a time.
func (f *Follower) Run(ctx context.Context) error {
	f.Lock()
	after := f.position
	f.Unlock()
	return f.log.Subscribe(ctx, after, f.filter, func(m Message) error {
		f.Lock()
		defer f.Unlock()
		if m.Event != nil {
			if err := f.apply(*m.Event); err != nil {
				return err
			}
			f.position = m.Event.Position
		}
		f.live = f.live || m.CaughtUp
		close(f.moved)
		f.moved = make(chan struct{})
		return nil
	})
}

// At is the position up to which the model holds everything. The caller holds the lock.
func (f *Follower) At() Position { return f.position }

// Wait returns when the model has once reached the end of the log and holds
// everything up to position at, which must be that of an event it follows or lie
// before one. When the deadline comes first it is UNAVAILABLE with the code.
func (f *Follower) Wait(ctx context.Context, at Position) error {
	for {
		f.Lock()
		ready, moved := f.live && f.position >= at, f.moved
		f.Unlock()
		if ready {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fault.Unavailable(f.code, "the list has not come to this position: use one from a receipt of this service, or ask again", time.Second)
		}
	}
}
