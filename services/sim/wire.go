package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
)

// peer is somebody who answers calls, until a crash.
type peer struct {
	ctx  context.Context // ends with the crash
	end  context.CancelFunc
	conn *grpc.ClientConn
}

// wire is how an actor reaches others: a network that delays, drops, repeats and
// lies.
type wire struct {
	a     *actor
	alive context.Context // of the process that calls; nothing leaves it afterwards
}

// longest is how long a call without a deadline takes.
const longest = 5 * time.Second

// errNoAnswer says that a call did not get through, or that its answer did not.
var errNoAnswer = errors.New("sim: no answer")

// fate is what the network does to one call.
type fate struct {
	dropped bool // it never arrives
	unheard bool // it is done, and its answer is lost
	hangs   bool // a loss is noticed only when time is up
	again   bool // it arrives a second time, later
}

func (x wire) fate(purpose string) (f fate) {
	if !x.a.w.faulty() {
		return f
	}
	rng, o := x.a.draw("fate "+purpose), x.a.w.opt
	f.dropped = chance(rng, o.Dropped)
	f.unheard = chance(rng, o.Unheard)
	f.hangs = rng.IntN(4) == 0
	f.again = chance(rng, o.Repeated)
	return f
}

func chance(rng *rand.Rand, percent int) bool { return rng.IntN(100) < percent }

// call runs f against who is there. It fails with errNoAnswer, with the end of
// ctx, or with the error of f. again is f for a second delivery, whose answer
// nobody hears.
func (x wire) call(ctx context.Context, purpose string, who func() *peer, f, again func(context.Context, *peer) error) error {
	if x.alive.Err() != nil {
		return errNoAnswer
	}
	if _, ok := ctx.Deadline(); !ok {
		// Not a round number: a call that began with a tick would end with one.
		limited, cancel := context.WithTimeout(ctx, longest+1031*actors)
		defer cancel()
		ctx = limited
	}
	w, fate := x.a.w, x.fate(purpose)
	// A crash ends many calls at one instant, and a sync answers many: what each
	// draws then is told apart by when it began.
	of := fmt.Sprint(purpose, " of ", time.Since(w.begun).Nanoseconds())
	if err := x.a.wait(ctx, purpose, w.opt.Delay); err != nil {
		return err
	}
	to := who()
	if to == nil || fate.dropped || w.cutOff(x.a) || x.alive.Err() != nil {
		return x.lost(ctx, of, fate)
	}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(to.ctx, cancel)()
	err := f(within, to)
	if fate.again {
		w.background.Go(func() { x.repeat(of, who, again) })
	}
	if to.ctx.Err() != nil {
		return x.lost(ctx, of, fate)
	}
	if late := x.a.wait(ctx, "answer "+of, w.opt.Delay); late != nil {
		return late
	}
	if fate.unheard || w.cutOff(x.a) || to.ctx.Err() != nil || x.alive.Err() != nil {
		return x.lost(ctx, of, fate)
	}
	return err
}

// lost says that there is no answer: when time is up, or soon.
func (x wire) lost(ctx context.Context, of string, f fate) error {
	if x.alive.Err() != nil {
		return errNoAnswer
	}
	if f.hangs {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.alive.Done():
			return errNoAnswer
		}
	}
	if err := x.a.wait(ctx, "lost "+of, x.a.w.opt.Delay); err != nil {
		return err
	}
	return errNoAnswer
}

// repeat delivers a call that was delivered once already, long after its answer.
func (x wire) repeat(purpose string, who func() *peer, f func(context.Context, *peer) error) {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	if x.a.wait(ctx, "again "+purpose, time.Second) != nil {
		return
	}
	if to := who(); to != nil {
		_ = f(ctx, to)
	}
}
