package sim

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
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
//   - Waits of one actor that begin at one instant and would end at one are put
//     in order by their purpose.
type actor struct {
	w    *world
	name string
	id   int64
	life context.Context // what a dead one still does counts for nothing

	mu    sync.Mutex
	draws map[string]uint64    // under mu: by purpose
	taken map[int64]*appointed // under mu: instants at which somebody will wake
}

// appointed is an instant at which somebody will wake, in nanoseconds.
type appointed struct {
	at, since int64 // at under actor.mu
	purpose   string
}

// actors is more than there are in a run. It divides a millisecond: a timer of
// whole milliseconds, as production sets them, ends at an instant of its actor's.
const actors = 64

func (w *world) actor(name string) *actor {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.actors == actors {
		panic("sim: too many actors")
	}
	w.actors++
	return &actor{w: w, name: name, id: w.actors - 1, life: context.Background(), draws: map[string]uint64{}, taken: map[int64]*appointed{}}
}

// reborn returns the actor of the next life of a process: what the dead one still
// does at the instant of its death draws nothing from it.
func (a *actor) reborn(lives int, life context.Context) *actor {
	return &actor{w: a.w, name: fmt.Sprint(a.name, " ", lives), id: a.id, life: life, draws: map[string]uint64{}, taken: map[int64]*appointed{}}
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
	return a.sleep(ctx, purpose, time.Duration(a.draw(purpose).Int64N(int64(most)+1)))
}

// sleep waits for d and as little more as makes the instant the actor's own.
func (a *actor) sleep(ctx context.Context, purpose string, d time.Duration) error {
	now := a.now()
	p := &appointed{at: a.own(now + int64(max(d, 1))), since: now, purpose: purpose}
	a.trace(purpose, p.at)
	a.mu.Lock()
	a.appoint(p)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.taken, p.at)
	}()
	for {
		a.mu.Lock()
		left := time.Duration(p.at - a.now())
		a.mu.Unlock()
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// appoint gives each an instant of its own. Who asked earlier keeps it; of those
// who asked at the same instant the order of their purposes decides, and not who
// came first, so one may be put off. The caller holds mu.
func (a *actor) appoint(p *appointed) {
	for {
		other := a.taken[p.at]
		if other == nil {
			a.taken[p.at] = p
			return
		}
		if other.since == p.since && other.purpose > p.purpose {
			a.taken[p.at], p = p, other
		}
		p.at += actors
	}
}

func (a *actor) now() int64 { return time.Since(a.w.begun).Nanoseconds() }

// own returns the first instant of the actor from at on.
func (a *actor) own(at int64) int64 { return at + (a.id-at%actors+actors)%actors }

// jitter is for what production draws at random, for one purpose. Its user adds
// a nanosecond, so as never to wait for nothing.
func (a *actor) jitter(purpose string) func(most time.Duration) time.Duration {
	return func(most time.Duration) time.Duration {
		now := a.now()
		at := a.own(now + 1 + a.draw(purpose).Int64N(int64(most)+1))
		a.trace(purpose, at)
		return time.Duration(at - now - 1)
	}
}

// step is something that an actor began at an instant, to end at another.
type step struct {
	at, until int64 // since the beginning, in nanoseconds
	actor     string
	what      string
}

func (s step) String() string {
	return fmt.Sprintf("%s %s: %s until %s", time.Duration(s.at), s.actor, s.what, time.Duration(s.until))
}

// trace notes a step: two runs of a seed must have the same.
func (a *actor) trace(what string, until int64) {
	if a.life.Err() != nil {
		return
	}
	w, s := a.w, step{a.now(), until, a.name, what}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = append(w.steps, s)
}

// inOrder are the steps of a run in an order that does not depend on who of those
// that did something at one instant was noted first.
func (w *world) inOrder() []step {
	slices.SortFunc(w.steps, func(a, b step) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.actor, b.actor), cmp.Compare(a.what, b.what), cmp.Compare(a.until, b.until))
	})
	return w.steps
}
