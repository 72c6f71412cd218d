package run

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"waymark/services/kit/bus"
	"waymark/services/kit/es"
)

const (
	leastPause = 100 * time.Millisecond // before a failed task starts again
	mostPause  = 30 * time.Second
	// stuckAfter is how long one event may keep a service before health says so.
	stuckAfter = time.Minute
)

// task is background work of a part, started again with back-off whenever it
// ends before its context does.
type task struct {
	name   string // "referral run"
	run    func(context.Context) error
	settle time.Duration // how long it must run after a failure to count as mended
	log    *slog.Logger

	mu  sync.Mutex
	err error // why it is not running properly, nil while it does
}

// supervise runs the task until ctx ends.
func (t *task) supervise(ctx context.Context) {
	pause := leastPause
	for {
		begun := time.Now()
		mended := time.AfterFunc(t.settle, func() { t.set(nil) })
		err := t.once(ctx)
		mended.Stop()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = fmt.Errorf("ended by itself")
		}
		t.set(fmt.Errorf("%s: %w", t.name, err))
		if time.Since(begun) > mostPause {
			pause = leastPause
		}
		t.log.WarnContext(ctx, "background work failed; it starts again", "event.name", "task.failed", "task", t.name, "pause", pause, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

func (t *task) once(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	return t.run(ctx)
}

func (t *task) set(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
}

// fault returns why the task is not running properly.
func (t *task) fault() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// listener watches a service hear events: which one it is at, and since when.
type listener struct {
	react func(context.Context, bus.Event) error
	heard func(context.Context, bus.Event, error) // telemetry

	mu    sync.Mutex
	at    es.Position // of the event that is not yet done, 0 when none
	since time.Time   // when it was first tried
}

// hear hands one event to the service. A failure leaves the event in place: the
// bus brings it again, and the time it was first tried still stands.
func (l *listener) hear(ctx context.Context, e bus.Event) (err error) {
	l.mu.Lock()
	if l.at != e.Position {
		l.at, l.since = e.Position, time.Now()
	}
	l.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
		if err == nil {
			l.mu.Lock()
			l.at = 0
			l.mu.Unlock()
		}
		l.heard(ctx, e, err)
	}()
	return l.react(ctx, e)
}

// stuck returns an error when one event has kept the service too long.
func (l *listener) stuck() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at != 0 && time.Since(l.since) > stuckAfter {
		return fmt.Errorf("stuck at the event at position %d for %s", l.at, time.Since(l.since).Round(time.Second))
	}
	return nil
}
