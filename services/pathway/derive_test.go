package pathway

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
)

// TestAdjustmentsMoveTheBreach: an adjustment that was made while a clock runs
// moves its last day, what is due, and the days that the patient counts as
// waiting.
func TestAdjustmentsMoveTheBreach(t *testing.T) {
	t.Parallel()
	w := newWorld()
	read := func() map[string]*pb.Clock {
		t.Helper()
		v, err := rebuild(t.Context(), w, pathwayID)
		if err != nil {
			t.Fatal(err)
		}
		out := make(map[string]*pb.Clock)
		for _, c := range v.Clocks {
			out[c.Clock] = c
		}
		return out
	}
	want := func(name, breachAfter string, clocks map[string]*pb.Clock) {
		t.Helper()
		if c := clocks[name]; c.GetBreachAfter() != breachAfter || c.GetStatus() != referralv1.ClockStatus_CLOCK_STATUS_RUNNING {
			t.Errorf("%s: %v, want it to run to %s", name, c, breachAfter)
		}
	}
	record := func(events ...proto.Message) { w.record(t, "pathway-"+pathwayID, time.Time{}, events...) }

	record(&referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC}) // received 1 July
	want("fds", "2026-07-29", read())
	want("d62", "2026-09-01", read())

	record(&referralv1.FirstAppointmentMissed{FactId: "b", Facts: &referralv1.FirstAppointmentMissedFacts{On: "2026-07-08", Attendance: "3"}},
		&referralv1.FirstSeenAdjustmentSet{FactId: "c", Facts: &referralv1.FirstSeenAdjustmentFacts{Days: 8}})
	want("fds", "2026-08-06", read())
	want("d62", "2026-09-09", read())

	record(&referralv1.DiagnosisCommunicated{FactId: "d", Facts: &referralv1.DiagnosisFacts{Told: &referralv1.Told{On: "2026-07-20", Organisation: "RJ1"}}},
		&referralv1.DecisionToTreatMade{FactId: "e", Facts: &referralv1.DecisionToTreatFacts{On: "2026-07-22", Organisation: "RJ1"}})
	want("d31", "2026-08-22", read())

	record(&referralv1.TransferredToTreatingProvider{FactId: "f", Facts: &referralv1.TransferFacts{On: "2026-07-25", InvestigatingProvider: "RJ1", TreatingProvider: "RYK"}})
	clocks := read()
	want("d24", "2026-08-18", clocks)
	if c := clocks["d38"]; c.GetDays() != 16 || !c.Counted || c.Breach { // 24 days, less 8
		t.Errorf("38 days: %v", c)
	}

	record(&referralv1.TreatmentAdjustmentSet{FactId: "g", Facts: &referralv1.TreatmentAdjustmentFacts{Days: 10}})
	clocks = read()
	want("d31", "2026-09-01", clocks)
	want("d62", "2026-09-19", clocks)
	want("d24", "2026-08-28", clocks)

	v, err := rebuild(t.Context(), w, pathwayID)
	if err != nil {
		t.Fatal(err)
	}
	due := make(map[string]string)
	for _, d := range v.Deadlines {
		due[d.Kind] = d.On
	}
	if due["d62"] != "2026-09-19" || due["d24"] != "2026-08-28" || due["d38"] != "" {
		t.Errorf("deadlines %v", due)
	}

	// On 26 August, day 56 less 18, the patient has waited for 38 days, and 24 days from a breach.
	tally := func(now time.Time, id string) (rows []string) {
		t.Helper()
		ts := newTally(&pb.GetIndicatorsRequest{Ids: []string{id}}, now)
		ts.add(counts{pathway: v})
		for _, r := range ts.rows() {
			if r.Numerator.Number > 0 {
				rows = append(rows, r.Split)
			}
		}
		return rows
	}
	if got := tally(time.Date(2026, 8, 26, 9, 0, 0, 0, time.UTC), "M08"); len(got) != 3 || got[0] != "d24 000-024" || got[1] != "d31 000-031" || got[2] != "d62 032-062" {
		t.Errorf("waiting %q", got)
	}
	// Unadjusted the 24 days would have been over on the 18th.
	if got := tally(time.Date(2026, 8, 20, 9, 0, 0, 0, time.UTC), "M09"); len(got) != 0 {
		t.Errorf("a breach within 7 days: %q", got)
	}
	if got := tally(time.Date(2026, 8, 21, 9, 0, 0, 0, time.UTC), "M09"); len(got) != 1 {
		t.Error("the breach of the 24 days on the 28th is not seen a week before")
	}
	// M05 counts at the transfer, M06 when the 24 days are over.
	if got := tally(time.Date(2026, 8, 1, 9, 0, 0, 0, time.UTC), "M05"); len(got) != 1 {
		t.Errorf("transferred in time: %q", got)
	}
	for _, c := range []struct {
		day                   int
		denominator, excluded float64
	}{{28, 0, 1}, {29, 1, 0}} {
		ts := newTally(&pb.GetIndicatorsRequest{Ids: []string{"M06"}}, time.Date(2026, 8, c.day, 9, 0, 0, 0, time.UTC))
		ts.add(counts{pathway: v})
		if r := ts.rows(); len(r) != 1 || r[0].Denominator.Number != c.denominator || r[0].Excluded.Number != c.excluded || r[0].Numerator.Number != 0 || r[0].Month != "2026-07" {
			t.Errorf("on %d August: %v", c.day, r)
		}
	}
}

// TestFoldKeepsWhatIndicatorsCount: from the events of the services to the fields
// that are counted.
func TestFoldKeepsWhatIndicatorsCount(t *testing.T) {
	t.Parallel()
	w := newWorld()
	record := func(category string, events ...proto.Message) {
		w.record(t, category+"-"+pathwayID, time.Time{}, events...)
	}
	record("pathway", &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC})
	record("plan", &planv1.AssessmentSubmitted{AssessmentId: "h", On: "2026-07-06", Concerns: []*planv1.ScoredConcern{{Code: "a", Score: 3}, {Code: "b", Score: 8}}},
		&planv1.ConcernRaised{ConcernId: "low", Code: "a", Score: 7}, &planv1.ConcernRaised{ConcernId: "high", Code: "b", Score: 8})
	record("appointment", &appointmentv1.ToBeBookedTaskRaised{TaskId: "t1", Cause: "did_not_attend", Due: "2026-07-08"}, &appointmentv1.ToBeBookedTaskRaised{TaskId: "t2", Cause: "requested", Due: "2026-07-20"})
	record("referral", &referralv1.ReferralDrafted{ReferralId: "r", Content: &referralv1.ReferralContent{Kind: referralv1.ReferralKind_REFERRAL_KIND_PREHABILITATION, ScreeningLevel: referralv1.ScreeningLevel_SCREENING_LEVEL_TARGETED}},
		&referralv1.ServicesOffered{OfferId: "o", Services: []*referralv1.OfferedService{{ServiceId: "s"}}}, &referralv1.OfferAccepted{OfferId: "o"})
	record("carelead", &careleadv1.HandoverAccepted{HandoverId: "h1", FirstContactDue: timestamppb.New(monday.AddDate(0, 0, 14))}, &careleadv1.AccountabilityTransferred{From: treats, To: lead, Cause: careleadv1.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED})
	w.advance(24 * time.Hour)
	record("plan", &planv1.ConcernDecided{ConcernId: "low", Decision: planv1.ConcernDecision_CONCERN_DECISION_NO_ACTION_NEEDED})
	record("appointment", &appointmentv1.ToBeBookedTaskEnded{TaskId: "t1", ReasonCode: "not_needed"}, &appointmentv1.ToBeBookedTaskBooked{TaskId: "t2", AppointmentId: "x"})
	record("carelead", &careleadv1.FirstContactMade{On: "2026-07-07"}, &careleadv1.HandoverAccepted{HandoverId: "h2", FirstContactDue: timestamppb.New(monday.AddDate(0, 0, 15))})
	v, err := rebuild(t.Context(), w, pathwayID)
	if err != nil {
		t.Fatal(err)
	}
	low, high := v.Plan.Concerns[0], v.Plan.Concerns[1]
	if v.Assessments[0].Concerns != 2 || low.HighScore || !high.HighScore || low.RaisedOn != "2026-07-06" || low.DecidedOn != "2026-07-07" || high.DecidedOn != "" {
		t.Errorf("assessment %v, concerns %v, %v", v.Assessments[0], low, high)
	}
	if a, b := v.ToBeBooked[0], v.ToBeBooked[1]; a.ClosedOn != "2026-07-07" || a.EndReasonCode != "not_needed" || b.ClosedOn != "2026-07-07" || b.AppointmentId != "x" {
		t.Errorf("tasks %v, %v", a, b)
	}
	if r, o := v.Referrals[0], v.ServicesOffers[0]; r.ScreeningLevel != referralv1.ScreeningLevel_SCREENING_LEVEL_TARGETED || !r.ScreenedAt.AsTime().Equal(monday) || o.OfferedOn != "2026-07-06" || o.Services != 1 || o.State != "accepted" {
		t.Errorf("referral %v, offer %v", r, o)
	}
	if past := v.PastFirstContacts; len(past) != 1 || past[0].MadeOn != "2026-07-07" || v.FirstContact.MadeOn != "" || !v.FirstContact.AcceptedAt.AsTime().Equal(monday.Add(24*time.Hour)) {
		t.Errorf("first contacts %v, then %v", past, v.FirstContact)
	}
	if c := (&subject{Pathway: v}).acceptedAt(v.PastFirstContacts[0].AcceptedAt.AsTime()); c.GetHolder().GetOrganisation() != lead.Organisation {
		t.Errorf("the first acceptance was by %v", c)
	}
}
