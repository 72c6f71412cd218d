package pathway

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
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
