package appointment

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/appointment/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/fault"
)

// sweepEvery is how often lapsed holds are looked for; a hold lasts for minutes.
const sweepEvery = 15 * time.Second

// hold takes in one event of a session. The caller holds the lock.
func (d *diary) hold(session string, event proto.Message) {
	over := func(hold string) {
		delete(d.held[session], hold)
		if len(d.held[session]) == 0 {
			delete(d.held, session)
		}
	}
	switch m := event.(type) {
	case *pb.SlotHeld:
		if d.held[session] == nil {
			d.held[session] = make(map[string]time.Time)
		}
		d.held[session][m.HoldId] = m.Until.AsTime()
	case *pb.SlotTaken:
		over(m.HoldId)
	case *pb.SlotReleased:
		over(m.HoldId)
	}
}

// lapsed lists the sessions with a hold that has lapsed.
func (d *diary) lapsed(now time.Time) (sessions []string) {
	d.Lock()
	defer d.Unlock()
	for session, until := range d.held {
		for _, at := range until {
			if !now.Before(at) {
				sessions = append(sessions, session)
				break
			}
		}
	}
	slices.Sort(sessions)
	return sessions
}

// keep keeps the diary and settles holds that have lapsed, as soon as it has
// caught up and then from time to time, until ctx ends or the log fails.
func (s *service) keep(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended, caughtUp := make(chan error, 1), make(chan struct{})
	go func() { ended <- s.diary.Run(ctx) }()
	go func() {
		if s.diary.Wait(ctx, 0) == nil {
			close(caughtUp)
		}
	}()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for first := caughtUp; ; {
		select {
		case err := <-ended:
			return err
		case <-first:
			first = nil
		case <-tick.C:
		}
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.slog.WarnContext(ctx, "lapsed holds were not all settled; it is tried again", slog.String("event.name", "appointment.sweep_failed"))
		}
	}
}

// sweep settles every hold that has lapsed. Instances that sweep together give
// the same command, so that each settlement is recorded once.
func (s *service) sweep(ctx context.Context) (failed error) {
	for _, session := range s.diary.lapsed(s.clock()) {
		first := &metav1.Command{
			CommandId: uuid.NewSHA1(uuid.NameSpaceOID, []byte("holds of "+session)).String(), // settle adds the hold to it
			Actor:     &metav1.Actor{User: "waymark/appointment", Organisation: system},
		}
		if err := s.settleLapsed(ctx, first, session); err != nil && !fault.IsAnswer(err) {
			failed = err
		}
	}
	return failed
}

// system is the organisation of commands that nobody outside asked for: NHS
// England, who hold no record of a patient here; the tenant is the stream's.
const system = "X26"
