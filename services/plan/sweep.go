package plan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	metav1 "waymark/proto/waymark/meta/v1"
	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// sweepEvery is how often the clock is looked at. All timers of this room run out
// at the end of a day in England.
const sweepEvery = time.Minute

// rounds is which records were looked at on which day. A record is looked at
// once a day, and once more after a day on which it changed; nothing else can
// make a timer run out.
type rounds struct {
	*es.Follower // its lock guards checked

	checked map[string]nhs.Date // pathway id -> day of the last look; no date after a change
}

func newRounds(log es.Log) *rounds {
	r := &rounds{checked: make(map[string]nhs.Date)}
	r.Follower = es.Follow(log, "plan.rounds.behind", r.heard, "plan")
	r.Bare()
	return r
}

// heard takes in that a record changed. The caller holds the lock.
func (r *rounds) heard(e es.Recorded) error {
	_, id, _ := strings.Cut(e.Stream, "-")
	r.checked[id] = nhs.Date{}
	return nil
}

// open lists the records to look at on a day.
func (r *rounds) open(day nhs.Date) []string {
	r.Lock()
	defer r.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(r.checked)), func(id string) bool { return !r.checked[id].Before(day) })
}

func (r *rounds) set(id string, day nhs.Date) {
	r.Lock()
	defer r.Unlock()
	r.checked[id] = day
}

// keep keeps kin and rounds and records what falls due, until ctx ends or the log fails.
func (s *server) keep(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	for _, f := range []*es.Follower{s.kin.Follower, s.rounds.Follower} {
		go func() { ended <- f.Run(ctx) }()
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			cancel()
			return errors.Join(err, <-ended)
		case <-tick.C:
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.slog.WarnContext(ctx, "timers were not all run; they are tried again", slog.String("event.name", "plan.sweep_failed"))
			}
		}
	}
}

// sweep runs the timers of every record that was not looked at today. A record
// whose timers fail is looked at again.
func (s *server) sweep(ctx context.Context) (failed error) {
	day := nhs.DateOf(s.clock())
	for _, id := range s.rounds.open(day) {
		s.rounds.set(id, day) // before the look: a change that comes during it asks for another
		if err := s.timersOf(ctx, id, day); err != nil && !fault.IsAnswer(err) {
			failed = err
			s.rounds.set(id, nhs.Date{})
		}
	}
	return failed
}

// timersOf runs the timers of one record. The command's id derives from the
// record's revision, so that instances that sweep together record once.
func (s *server) timersOf(ctx context.Context, id string, day nhs.Date) error {
	state, err := s.plans.Load(ctx, id)
	if err != nil {
		return err
	}
	req := &pb.RunTimersRequest{PathwayId: id, Command: &metav1.Command{
		CommandId: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "timers of %s on %s at %d", id, day, state.Revision)).String(),
		Actor:     &metav1.Actor{User: "waymark/plan", Organisation: system},
	}}
	_, err = s.do(ctx, req, "", RunTimers{s.env(req)})
	return err
}

// system is the organisation of commands that nobody outside asked for: NHS
// England, who hold no record of a patient here; the tenant is the stream's.
const system = "X26"
