package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"
)

// actor is somebody who waits: a client, a service, a disk. In a bubble the
// scheduler is free to run goroutines that wake at one instant in any order, so
// a run is repeatable only if no two wake together:
//
//   - An actor wakes only at instants that leave its own number when divided by
//     actors, and at each of them once.
//   - A draw depends on the seed, the actor, its purpose and how often it was
//     drawn for before, so that it does not matter who draws first for two
//     purposes at one instant.
type actor struct {
	w    *world
	name string
	id   int64

	mu    sync.Mutex
	draws map[string]uint64 // under mu: by purpose
	taken map[int64]bool    // under mu: instants at which somebody will wake
}

// actors is more than there are in a run.
const actors = 1024

func (w *world) actor(name string) *actor {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.actors == actors {
		panic("sim: too many actors")
	}
	w.actors++
	return &actor{w: w, name: name, id: w.actors - 1, draws: map[string]uint64{}, taken: map[int64]bool{}}
}

// reborn returns the actor of the next life of a process: what the dead one still
// does at the instant of its death draws nothing from it.
func (a *actor) reborn(life int) *actor {
	return &actor{w: a.w, name: fmt.Sprint(a.name, " ", life), id: a.id, draws: map[string]uint64{}, taken: map[int64]bool{}}
}

// next counts up by purpose.
func (a *actor) next(purpose string) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.draws[purpose]++
	return a.draws[purpose]
}

// draw returns a source for one decision.
func (a *actor) draw(purpose string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(a.name))
	h.Write([]byte{0})
	h.Write([]byte(purpose))
	return rand.New(rand.NewPCG(a.w.seed^h.Sum64(), a.next(purpose)))
}

// wait waits up to most, or until ctx ends.
func (a *actor) wait(ctx context.Context, purpose string, most time.Duration) error {
	return a.sleep(ctx, time.Duration(a.draw(purpose).Int64N(int64(most)+1)))
}

// sleep waits for d and as little more as makes the instant the actor's own.
func (a *actor) sleep(ctx context.Context, d time.Duration) error {
	now := time.Since(a.w.begun).Nanoseconds()
	at := now + int64(max(d, 1))
	at += (a.id - at%actors + actors) % actors
	a.mu.Lock()
	for a.taken[at] {
		at += actors
	}
	a.taken[at] = true
	a.mu.Unlock()
	timer := time.NewTimer(time.Duration(at - now))
	defer timer.Stop()
	defer func() {
		a.mu.Lock()
		delete(a.taken, at)
		a.mu.Unlock()
	}()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// jitter is for what production draws at random. Its user adds a nanosecond, so
// as never to wait for nothing.
func (a *actor) jitter(most time.Duration) time.Duration {
	now := time.Since(a.w.begun).Nanoseconds()
	at := now + 1 + a.draw("jitter").Int64N(int64(most)+1)
	return time.Duration(at + (a.id-at%actors+actors)%actors - now - 1)
}
