package run

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	leastPause = 100 * time.Millisecond // before a failed task starts again
	mostPause  = 30 * time.Second
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
