package pathway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
)

type asked []*referralv1.RecordNoResponseRequest

func (a *asked) RecordNoResponse(_ context.Context, req *referralv1.RecordNoResponseRequest, _ ...grpc.CallOption) (*referralv1.ReferralReply, error) {
	*a = append(*a, req)
	return &referralv1.ReferralReply{}, nil
}

type ran []*appointmentv1.RunTimersRequest

func (r *ran) RunTimers(_ context.Context, req *appointmentv1.RunTimersRequest, _ ...grpc.CallOption) (*appointmentv1.ListAppointmentsResponse, error) {
	*r = append(*r, req)
	return &appointmentv1.ListAppointmentsResponse{}, nil
}

// TestSweepTellsOfTasks: what should have been booked is reported once its day
// is over, by the same command each time, and no more once that is recorded.
func TestSweepTellsOfTasks(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC})
	due := nhs.DateOf(monday).AddDays(1)
	at := w.record(t, "appointment-"+pathwayID, time.Time{}, &appointmentv1.ToBeBookedTaskRaised{TaskId: "t", Cause: "requested", Due: due.String()})
	ms, err := openModels(w, discard, "", nil, modelVersion)
	if err != nil {
		t.Fatal(err)
	}
	defer ms.close()
	var told ran
	s := &server{log: w, clock: w.clock, models: ms, tasks: &told, slog: discard}
	until(t, ms.newest, at)
	sweep := func(want int) {
		t.Helper()
		if err := s.sweep(t.Context()); err != nil || len(told) != want {
			t.Fatalf("%d told, want %d: %v", len(told), want, err)
		}
	}
	w.advance(24 * time.Hour)
	sweep(0) // the day it is due
	w.advance(24 * time.Hour)
	sweep(1)
	sweep(2)
	if told[0].Command.CommandId != told[1].Command.CommandId || told[0].PathwayId != pathwayID || told[0].Command.Actor.Organisation != "RJ1" {
		t.Errorf("%v", told)
	}
	until(t, ms.newest, w.record(t, "appointment-"+pathwayID, time.Time{}, &appointmentv1.ToBeBookedTaskOverdue{TaskId: "t", Due: due.String()}))
	sweep(2)
}

// TestSweep: a referral is reported late once its time has come, by the same
// command each time, and no more once that is recorded.
func TestSweep(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC})
	at := w.record(t, "referral-"+pathwayID, time.Time{}, &referralv1.ReferralSent{ReferralId: "r", RespondBy: timestamppb.New(monday.Add(time.Hour))})
	ms, err := openModels(w, discard, "", nil, modelVersion)
	if err != nil {
		t.Fatal(err)
	}
	defer ms.close()
	var told asked
	s := &server{log: w, clock: w.clock, models: ms, late: &told, slog: discard}
	until(t, ms.newest, at)
	sweep := func(want int) {
		t.Helper()
		if err := s.sweep(t.Context()); err != nil || len(told) != want {
			t.Fatalf("%d told, want %d: %v", len(told), want, err)
		}
	}
	sweep(0) // early
	w.advance(time.Hour)
	sweep(1)
	sweep(2)
	if told[0].Command.CommandId != told[1].Command.CommandId || told[0].ReferralId != "r" || told[0].Command.Actor.Organisation != "RJ1" {
		t.Errorf("%v", told)
	}
	until(t, ms.newest, w.record(t, "referral-"+pathwayID, time.Time{}, &referralv1.ReferralUnacknowledged{ReferralId: "r"}))
	sweep(2)
}

// toTell is who must be told at a time, by looking at every view there is.
func toTell(t rapid.TB, m *model, now time.Time) (ids []string) {
	_, err := m.each(func(c counts) error {
		v := c.pathway
		if v == nil || v.Closed != nil && v.Holder == nil {
			return nil
		}
		for _, r := range v.Referrals {
			if r.State == "sent" && r.RespondBy != nil && !r.Unacknowledged && !r.RespondBy.AsTime().After(now) {
				ids = append(ids, "late "+v.PathwayId+" "+r.ReferralId)
			}
		}
		for _, k := range v.ToBeBooked {
			if k.State == "open" && !k.Overdue && k.Due < nhs.DateOf(now).String() {
				ids = append(ids, "overdue "+v.PathwayId)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// TestSweepMissesNothing lets pathways live, with restarts, a clock that moves on and
// events that come late: each sweep tells of all that a look at every view finds, and of
// nothing else. The control takes one entry of the index away.
func TestSweepMissesNothing(t *testing.T) {
	t.Parallel()
	tb, told, lost := t, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		w, fs := newWorld(), vfs.NewMem()
		ids := []string{uuid.NewString(), uuid.NewString()}
		var head es.Position
		record := func(stream string, event proto.Message) { head = w.record(t, stream, time.Time{}, event) }
		for _, id := range ids {
			record("pathway-"+id, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC})
			record("carelead-"+id, &careleadv1.LedgerOpened{PathwayId: id, Holder: treats})
		}
		var late asked
		var tasks ran
		s := &server{log: w, clock: w.clock, late: &late, tasks: &tasks, slog: discard}
		open := func() {
			var err error
			if s.models, err = openModels(w, discard, "m", fs, modelVersion); err != nil {
				rt.Fatal(err)
			}
		}
		open()
		defer func() { s.models.close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"event": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "pathway")
				thing := rapid.SampledFrom([]string{"1", "2"}).Draw(t, "thing")
				hours := time.Duration(rapid.IntRange(-48, 96).Draw(t, "hours")) * time.Hour
				by := w.clock().Add(hours + time.Duration(rapid.IntRange(0, 999).Draw(t, "ms"))*time.Millisecond)
				switch rapid.IntRange(0, 9).Draw(t, "what") {
				case 0, 1:
					record("referral-"+id, &referralv1.ReferralSent{ReferralId: thing, RespondBy: timestamppb.New(by)})
				case 2:
					record("referral-"+id, &referralv1.ReferralReceived{ReferralId: thing})
				case 3:
					record("referral-"+id, &referralv1.ReferralAccepted{ReferralId: thing})
				case 4:
					record("referral-"+id, &referralv1.ReferralUnacknowledged{ReferralId: thing})
				case 5, 6:
					record("appointment-"+id, &appointmentv1.ToBeBookedTaskRaised{TaskId: thing, Cause: "requested", Due: nhs.DateOf(by).String()})
				case 7:
					record("appointment-"+id, &appointmentv1.ToBeBookedTaskOverdue{TaskId: thing})
				case 8:
					record("appointment-"+id, &appointmentv1.ToBeBookedTaskEnded{TaskId: thing})
				case 9:
					record("carelead-"+id, &careleadv1.LedgerClosed{})
					record("pathway-"+id, &referralv1.PathwayClosed{FactId: "c", Facts: &referralv1.CloseFacts{On: "2026-07-07"}})
				}
			},
			"advance": func(t *rapid.T) { w.advance(time.Duration(rapid.IntRange(1, 3000).Draw(t, "minutes")) * time.Minute) },
			"restart": func(t *rapid.T) {
				if err := s.models.close(); err != nil {
					t.Fatal(err)
				}
				open()
			},
			"sweep": func(t *rapid.T) {
				m := s.models.newest
				until(tb, m, head)
				sweep := func() (ids []string) {
					late, tasks = nil, nil
					if err := s.sweep(context.Background()); err != nil {
						t.Fatal(err)
					}
					for _, r := range late {
						ids = append(ids, "late "+r.PathwayId+" "+r.ReferralId)
					}
					for _, r := range tasks {
						ids = append(ids, "overdue "+r.PathwayId)
					}
					slices.Sort(ids)
					return slices.Compact(ids)
				}
				got, want := sweep(), toTell(t, m, w.clock())
				if told += len(got); !slices.Equal(got, want) {
					t.Fatalf("told of\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				if len(want) == 0 {
					return
				}
				var entry []byte
				snap := m.snapshot()
				defer snap.Close()
				if err := snap.scan([]byte{'s'}, nil, func(key, _ []byte) (bool, error) { entry = slices.Clone(key); return false, nil }); err != nil {
					t.Fatal(err)
				}
				if err := m.db.Delete(entry, pebble.NoSync); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(sweep(), want) {
					lost++
				}
				if err := m.db.Set(entry, nil, pebble.NoSync); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
	if told == 0 || lost == 0 {
		t.Errorf("%d told of; an entry that is not there was missed %d times", told, lost)
	}
}

// TestSweepFollowsTheWork: what has been told of is not looked at again.
func TestSweepFollowsTheWork(t *testing.T) {
	t.Parallel()
	w := newWorld()
	var at es.Position
	for n := range 5 {
		id := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)).String()
		w.record(t, "pathway-"+id, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC})
		w.record(t, "appointment-"+id, time.Time{}, &appointmentv1.ToBeBookedTaskRaised{TaskId: "t", Cause: "requested", Due: "2026-07-08"})
		at = w.record(t, "appointment-"+id, time.Time{}, &appointmentv1.ToBeBookedTaskOverdue{TaskId: "t", Due: "2026-07-08"})
	}
	m, err := openModel(w, discard, "m", vfs.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	until(t, m, at)
	snap := m.snapshot()
	defer snap.Close()
	for prefix, want := range map[byte]bool{'d': true, 's': false} {
		if err := snap.scan([]byte{prefix}, nil, func([]byte, []byte) (bool, error) { want = !want; return false, nil }); err != nil || want {
			t.Errorf("entries of %q: %v", prefix, err)
		}
	}
}

// TestSweepsAfterAnUpgrade: while a model of an earlier version answers, and when the
// newest has taken over, what is due is told.
func TestSweepsAfterAnUpgrade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, fs := newWorld(), vfs.NewMem()
		w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC})
		at := w.record(t, "referral-"+pathwayID, time.Time{}, &referralv1.ReferralSent{ReferralId: "r", RespondBy: timestamppb.New(monday)})
		before, err := openModels(w, discard, "m", fs, modelVersion-1)
		if err != nil {
			t.Fatal(err)
		}
		until(t, before.newest, at)
		if err := before.close(); err != nil {
			t.Fatal(err)
		}
		told := make(chan string, 1)
		s := &server{log: w, clock: w.clock, wall: time.Now, late: tells(told), slog: discard}
		if s.models, err = openModels(w, discard, "m", fs, modelVersion); err != nil {
			t.Fatal(err)
		}
		defer s.models.close()
		if s.models.serving() == s.models.newest {
			t.Fatal("the earlier model does not answer")
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.run(ctx) }()
		select {
		case <-told:
		case <-time.After(time.Minute):
			t.Error("nobody was told")
		}
		cancel()
		<-ended
	})
}

// tells hands on of which referral it was told.
type tells chan string

func (c tells) RecordNoResponse(ctx context.Context, req *referralv1.RecordNoResponseRequest, _ ...grpc.CallOption) (*referralv1.ReferralReply, error) {
	select {
	case c <- req.ReferralId:
	case <-ctx.Done():
	}
	return &referralv1.ReferralReply{}, nil
}
