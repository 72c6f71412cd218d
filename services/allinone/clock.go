package allinone

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	devv1 "waymark/proto/waymark/dev/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
)

// FastClock is the Options.ClockRate at which a day takes a minute.
const FastClock = 24 * 60

// clock is the time of a system: the machine's, moved ahead, and perhaps
// running faster. It never goes back, also not over a restart or kill -9:
// before it shows a time it has stored how far ahead of the machine it is, and
// a fast clock stores a little more than that, which a restart after a crash
// gives away.
//
// Its services, and the node that stamps what is recorded, share it, so that
// recorded times and the time of a decision agree.
type clock struct {
	devv1.UnimplementedClockServiceServer
	machine func() time.Time
	rate    float64
	store   func(ahead time.Duration) error

	mu     sync.Mutex
	anchor time.Time     // the machine's time since when the clock runs at rate
	ahead  time.Duration // of the machine at anchor
	stored time.Duration // what the last call of store was given; ahead of the machine never exceeds it
	last   time.Time     // the latest time that was shown
}

// spare is how long a fast clock runs, in the machine's time, before it stores
// how far it is; a crash moves it at most that much further.
const spare = 5 * time.Second

// openClock returns the clock of the data folder.
func openClock(f *folder, machine func() time.Time, rate float64) (*clock, error) {
	if machine == nil {
		machine = run.Clock
	}
	var ahead time.Duration
	text, err := os.ReadFile(f.file(clockFile))
	if err == nil {
		ahead, err = time.ParseDuration(strings.TrimSpace(string(text)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: how far the clock is ahead: %w", f.file(clockFile), err)
	}
	return newClock(machine, rate, ahead, func(ahead time.Duration) error {
		return f.write(clockFile, ahead.String()+"\n")
	}), nil
}

func newClock(machine func() time.Time, rate float64, ahead time.Duration, store func(time.Duration) error) *clock {
	if rate < 1 {
		rate = 1
	}
	return &clock{machine: machine, rate: rate, store: store, anchor: machine(), ahead: ahead, stored: ahead}
}

// Now is what every part of the system is given as its clock.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, _ := c.now(c.machine())
	return now
}

// now returns the time when the machine's is at. The caller holds mu. Where the
// way ahead cannot be stored the clock stands rather than show what a restart
// would take back.
func (c *clock) now(at time.Time) (time.Time, error) {
	ahead := c.ahead + time.Duration(float64(at.Sub(c.anchor))*(c.rate-1))
	var err error
	if ahead > c.stored {
		if err = c.keep(ahead + time.Duration(float64(spare)*(c.rate-1))); err != nil {
			ahead = c.stored
		}
	}
	if t := at.Add(ahead).Round(0); t.After(c.last) {
		c.last = t
	}
	return c.last, err
}

func (c *clock) keep(ahead time.Duration) error {
	if err := c.store(ahead); err != nil {
		return fmt.Errorf("the clock stands, because it cannot store how far it is ahead: %w", err)
	}
	c.stored = ahead
	return nil
}

// close stores the time exactly, so that an orderly restart moves nothing.
func (c *clock) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rate == 1 {
		return nil
	}
	at := c.machine()
	t, err := c.now(at)
	if err != nil {
		return err
	}
	return c.keep(t.Sub(at))
}

func (c *clock) part() run.Part {
	return run.Part{Name: "clock", Register: func(r grpc.ServiceRegistrar) { devv1.RegisterClockServiceServer(r, c) }}
}

// GetClock implements devv1.ClockServiceServer.
func (c *clock) GetClock(context.Context, *devv1.GetClockRequest) (*devv1.Clock, error) {
	return c.advance(0)
}

// AdvanceClock implements devv1.ClockServiceServer.
func (c *clock) AdvanceClock(_ context.Context, req *devv1.AdvanceClockRequest) (*devv1.Clock, error) {
	return c.advance(req.GetBy().AsDuration())
}

func (c *clock) advance(by time.Duration) (*devv1.Clock, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.machine()
	now, err := c.now(at)
	if err != nil {
		return nil, err
	}
	if by > 0 {
		// A duration holds 292 years.
		if ahead := now.Sub(at); ahead > 250*365*24*time.Hour-by {
			return nil, fault.Refused("clock.range", "the clock goes at most 250 years ahead of the machine's")
		}
		ahead := now.Sub(at) + by
		if err := c.keep(ahead + time.Duration(float64(spare)*(c.rate-1))); err != nil {
			return nil, err
		}
		c.anchor, c.ahead = at, ahead
		if now, err = c.now(at); err != nil {
			return nil, err
		}
	}
	return &devv1.Clock{Now: timestamppb.New(now), Machine: timestamppb.New(at), Rate: c.rate}, nil
}
