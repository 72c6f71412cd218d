package es_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"

	"waymark/services/kit/es"
)

// turning is a log that is caught up once end is closed, and gives turns.
type turning struct {
	es.Log
	end chan struct{}

	mu    sync.Mutex
	turns map[any]string // under mu: by who asked
}

type asker struct{}

func (l *turning) Subscribe(ctx context.Context, _ es.Position, _ es.Filter, handle func(es.Message) error) error {
	<-l.end
	if err := handle(es.Message{CaughtUp: true}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (l *turning) Turn(ctx context.Context, name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turns[ctx.Value(asker{})] = name
	return ctx.Err()
}

// TestTurns has three wait for one event: each is given a turn by when it began,
// whichever of them wakes first; who comes later waits for none.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		log := &turning{end: make(chan struct{}), turns: map[any]string{}}
		f := es.Follow(log, "test.behind", func(es.Recorded) error { return nil }, "a")
		var all sync.WaitGroup
		all.Go(func() { _ = f.Run(ctx) })
		var errs [4]error
		wait := func(n int) {
			all.Go(func() { errs[n] = f.Wait(context.WithValue(ctx, asker{}, n), 0) })
			synctest.Wait()
		}
		for n := range 3 {
			wait(n)
		}
		close(log.end)
		synctest.Wait()
		wait(3)
		stop()
		all.Wait()
		want := map[any]string{0: "test.behind 1", 1: "test.behind 2", 2: "test.behind 3"}
		if err := errors.Join(errs[:]...); err != nil || !maps.Equal(log.turns, want) {
			t.Error(fmt.Sprint(log.turns, " instead of ", want), err)
		}
	})
}
