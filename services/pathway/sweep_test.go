package pathway

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	referralv1 "waymark/proto/waymark/referral/v1"
)

type asked []*referralv1.RecordNoResponseRequest

func (a *asked) RecordNoResponse(_ context.Context, req *referralv1.RecordNoResponseRequest, _ ...grpc.CallOption) (*referralv1.ReferralReply, error) {
	*a = append(*a, req)
	return &referralv1.ReferralReply{}, nil
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
