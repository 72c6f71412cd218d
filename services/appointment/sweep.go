package appointment

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	pb "waymark/proto/waymark/appointment/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// sweepEvery is how often lapsed holds are looked for; a hold lasts for minutes.
const sweepEvery = 15 * time.Second

// holds is which slots are held, and until when.
type holds struct {
	mu    sync.Mutex
	until map[string]map[string]time.Time // by session and hold; under mu
}

// heard takes in one event of a session.
func (h *holds) heard(e es.Recorded) error {
	m, err := es.Decode(e)
	if err != nil {
		return err
	}
	_, session, _ := strings.Cut(e.Stream, "-")
	h.mu.Lock()
	defer h.mu.Unlock()
	over := func(hold string) {
		delete(h.until[session], hold)
		if len(h.until[session]) == 0 {
			delete(h.until, session)
		}
	}
	switch m := m.(type) {
	case *pb.SlotHeld:
		if h.until[session] == nil {
			h.until[session] = make(map[string]time.Time)
		}
		h.until[session][m.HoldId] = m.Until.AsTime()
	case *pb.SlotTaken:
		over(m.HoldId)
	case *pb.SlotReleased:
		over(m.HoldId)
	}
	return nil
}

// lapsed lists the sessions with a hold that has lapsed.
func (h *holds) lapsed(now time.Time) (sessions []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for session, until := range h.until {
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

// clear forgets all, before the sessions are followed from their beginning.
func (h *holds) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = make(map[string]map[string]time.Time)
}

// keep keeps the diary and settles lapsed holds, until ctx ends or one of them fails.
func (s *service) keep(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	followed := make(chan error, 1)
	go func() {
		defer cancel()
		followed <- s.diary.Run(ctx)
	}()
	err := s.run(ctx)
	cancel()
	return errors.Join(err, <-followed)
}

// run follows the sessions and settles holds that have lapsed, as soon as it has
// caught up and then from time to time, until ctx ends or the log fails.
func (s *service) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.holds.clear()
	ended, caughtUp := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		ended <- s.log.Subscribe(ctx, 0, es.Filter{Categories: []string{"session"}}, func(m es.Message) error {
			if m.Event != nil {
				return s.holds.heard(*m.Event)
			}
			select {
			case caughtUp <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for first := caughtUp; ; {
		select {
		case err := <-ended:
			return err
		case <-first:
			first = nil // it catches up after every event
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
	for _, session := range s.holds.lapsed(s.clock()) {
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
