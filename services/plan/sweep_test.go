package plan

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/nhs"
	"waymark/services/kit/runtest"
)

// TestSweep: what falls due is recorded on its day, once, also when the log
// fails in between and two instances sweep.
func TestSweep(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	var ahead atomic.Int64 // days
	instance := func() *server {
		return &server{plans: es.NewStreams(log, decider(), es.Options{Key: runtest.Key}), slog: slog.New(slog.DiscardHandler),
			rounds: newRounds(log), clock: func() time.Time { return now.AddDate(0, 0, int(ahead.Load())) }}
	}
	one, two := instance(), instance()
	req := startRequest()
	req.Command, req.PathwayId = header(1), pathID
	if _, err := one.StartSurveillance(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	taken := 0
	both := func() int {
		t.Helper()
		for ; taken < len(log.Events()); taken++ {
			for _, s := range []*server{one, two} {
				if err := s.rounds.heard(log.Events()[taken]); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := len(log.Events())
		for _, s := range []*server{one, two, one} {
			if err := s.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return len(log.Events()) - before
	}
	if n := both(); n != 0 {
		t.Errorf("%d events on the first day", n)
	}
	ahead.Store(182) // 14 December
	if n := both(); n != 0 {
		t.Errorf("%d events on the day before", n)
	}
	ahead.Store(183)
	log.SetFaults(estest.Faults{Down: true})
	if err := one.sweep(t.Context()); err == nil {
		t.Error("swept although the log is down")
	}
	log.SetFaults(estest.Faults{})
	if n := both(); n != 1 {
		t.Errorf("%d events on the day, want 1", n)
	}
	if n := both(); n != 0 {
		t.Errorf("%d events when it is swept again", n)
	}
	state, err := two.plans.Load(t.Context(), pathID)
	if err != nil || state.Value.schedules[0].Items[0].State != pb.ItemState_ITEM_STATE_DUE {
		t.Errorf("the item is not due: %v", err)
	}
	if len(one.rounds.open(nhs.DateOf(now).AddDays(183))) != 0 {
		t.Error("a record is looked at twice a day")
	}
}

// TestRoundsRestart: with its journal, which holds no content, a start knows every
// record that there is.
func TestRoundsRestart(t *testing.T) {
	t.Parallel()
	var stories [][]es.Recorded
	for n := range 2 {
		log := estest.NewAuditedLog(t)
		s := &server{plans: es.NewStreams(log, decider(), es.Options{Key: runtest.Key}), clock: func() time.Time { return now }}
		for i := range 4 {
			req := startRequest()
			req.Command, req.PathwayId = header(10*n+i), uuid.NewSHA1(uuid.Nil, fmt.Append(nil, (n+1)*i)).String()
			if _, err := s.StartSurveillance(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		stories = append(stories, log.Events())
	}
	estest.Restarts(t, func(log es.Log) (*es.Follower, func() string) {
		r := newRounds(log)
		return r.Follower, func() string { return fmt.Sprint(r.At(), r.checked) }
	}, stories...)
}
