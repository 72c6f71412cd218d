package es

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

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
	types    []string                                // what apply is handed; none is all
	bare     bool                                    // apply is handed no data and no metadata
	dir      string                                  // of the journal; "" keeps none
	journal  *journal                                // owned by Run; nil where there is none
	position Position                                // of the last event followed
	live     bool                                    // has once reached the end of the log
	moved    chan struct{}                           // closed and renewed when position or live changes
	waits    int                                     // how many have had to wait so far
	begin    func(context.Context) (Position, error) // of a model that its owner stores; nil where the Follower begins
	settle   func() error                            // likewise

	unchecked bool // what tests set to plant a bug that they must catch: the journal is believed
}

// Turns is what the log of a simulation has besides: several who waited for the
// same event go on at one instant, and who of them is first at a stream is chance,
// unless each waits for a turn of its own. Nobody else's log has it.
type Turns interface {
	// Turn returns when it is the turn of the one that the name is of, or when ctx ends.
	Turn(ctx context.Context, name string) error
}

// Follow returns a Follower of the categories' events. It hands them to apply,
// with the lock held; an error of apply ends Run, so apply must fail before it
// changes anything. The code is that of the refusal when the model is behind, such as "carelead.behind".
func Follow(log Log, code string, apply func(Recorded) error, categories ...string) *Follower {
	return &Follower{log: log, filter: Filter{Categories: categories}, code: code, apply: apply, moved: make(chan struct{})}
}

// Only hands apply the events of these types alone, by the names of TypeOf; one
// that ends in a dot stands for all that begin with it. Before Run.
func (f *Follower) Only(types ...string) { f.types = types }

// Bare hands apply the events without their data and metadata, for a model of which
// streams changed; the journal is small then and without personal data. Before Run.
func (f *Follower) Bare() { f.bare = true }

// Keep keeps the events that apply is handed in a file in dir as well, so that the
// next start takes them from there and only what is newer from the log. "" keeps
// nothing. The file can be deleted at any time that nobody follows. Before Run.
func (f *Follower) Keep(dir string) { f.dir = dir }

// Stored is for a model that its owner stores: each Run asks begin up to where it is
// complete, and goes on there; settle is called whenever the end of the log is reached,
// before anybody who waits for it goes on. Both have the lock held. Before Run.
func (f *Follower) Stored(begin func(context.Context) (Position, error), settle func() error) {
	f.begin, f.settle = begin, settle
}

// TypeOf is the type of an event.
func TypeOf(event proto.Message) string { return string(event.ProtoReflect().Descriptor().FullName()) }

// Run applies events until ctx ends, the log fails or apply does; it goes on
// where an earlier run stopped. One run at a time.
func (f *Follower) Run(ctx context.Context) error {
	f.Lock()
	after := f.position
	f.Unlock()
	if f.begin != nil {
		f.Lock()
		at, err := f.begin(ctx)
		f.position, f.live = at, false // what was not stored comes again
		f.Unlock()
		if err != nil {
			return err
		}
		after = at
	}
	if after == 0 && f.dir != "" {
		if err := f.restore(ctx); err != nil {
			return err
		}
		f.Lock()
		after = f.position
		f.Unlock()
	}
	defer f.note(func(j *journal) error { return errors.Join(j.mark(), j.out.Flush()) })
	var head Recorded // all up to it is handed on by the first time that the end of the log is reached
	if f.journal != nil {
		after, head = max(after, f.journal.last.Position), headOf(ctx, f.log)
	}
	return f.log.Subscribe(ctx, after, f.filter, func(m Message) error {
		f.Lock()
		defer f.Unlock()
		if m.Event != nil {
			e, wanted := *m.Event, wanted(f.types, m.Event.Type)
			if f.bare {
				e.Data, e.Metadata = nil, nil
			}
			if wanted {
				if err := f.apply(e); err != nil {
					return err
				}
			}
			f.position = e.Position
			f.note(func(j *journal) error { return j.add(e, wanted) })
		}
		if m.CaughtUp {
			if f.settle != nil {
				if err := f.settle(); err != nil {
					return err
				}
			}
			f.live = true
			f.note(func(j *journal) error { return errors.Join(j.passed(head), j.out.Flush()) })
		}
		close(f.moved)
		f.moved = make(chan struct{})
		return nil
	})
}

// headOf is the last event of a log, of whatever stream; none where it cannot be read.
func headOf(ctx context.Context, log Log) (last Recorded) {
	head, err := log.Head(ctx)
	if err != nil || head == 0 {
		return last
	}
	enough := errors.New("enough")
	_ = log.ReadAll(ctx, head-1, func(e Recorded) error { last = e; return enough })
	return last
}

// restore applies what the journal holds. Where the file is of no use it goes
// without one; it fails with the log, or with apply.
func (f *Follower) restore(ctx context.Context) error {
	if f.journal != nil { // of a run that failed before its first event
		f.journal.close()
	}
	of := append(slices.Clone(f.filter.Categories), f.types...)
	if f.bare {
		of = append(of, "(bare)")
	}
	var err error
	if f.journal, err = openJournal(f.dir, f.code+".journal", strings.Join(of, " ")); err != nil {
		f.journal = nil
		return nil
	}
	f.journal.unchecked = f.unchecked
	f.Lock()
	defer f.Unlock()
	own, err := f.journal.restore(ctx, f.log, func(e Recorded) error {
		if err := f.apply(e); err != nil {
			return err
		}
		f.position = e.Position
		return nil
	})
	if err != nil { // what was applied is, and stands; the rest comes from the log
		f.journal.close()
		f.journal = nil
		if errors.Is(err, errUnusable) {
			err = nil
		}
		return err
	}
	f.position = own
	return nil
}

// note writes to the journal, and does without it once it cannot be written.
func (f *Follower) note(write func(*journal) error) {
	if f.journal != nil && write(f.journal) != nil {
		f.journal.close()
		f.journal = nil
	}
}

// At is the position up to which the model holds everything. The caller holds the lock.
func (f *Follower) At() Position { return f.position }

// Wait returns when the model has once reached the end of the log and holds
// everything up to position at, which must be that of an event it follows or lie
// before one. When the deadline comes first it is UNAVAILABLE with the code.
func (f *Follower) Wait(ctx context.Context, at Position) error {
	for n := 0; ; {
		f.Lock()
		ready, moved := f.live && f.position >= at, f.moved
		if !ready && n == 0 {
			f.waits++
			n = f.waits
		}
		f.Unlock()
		if ready && (n == 0 || f.turn(ctx, n) == nil) {
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

// turn waits for the turn of the n-th who had to wait.
func (f *Follower) turn(ctx context.Context, n int) error {
	if t, ok := f.log.(Turns); ok {
		return t.Turn(ctx, fmt.Sprint(f.code, " ", n))
	}
	return nil
}
