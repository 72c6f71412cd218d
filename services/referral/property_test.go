package referral

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/kit/runtest"
)

// The property tests draw any commands in any order, most of them senseless, and
// hold the invariants after each. They state the invariants in their own words,
// not by calling what enforces them.

// TestPathwayInvariants: whatever is asked, the dates of the facts that stand are
// in order, no adjustment is longer than its interval, at most one clock of each
// kind runs, nothing lies in the future, and nothing but a closing closes.
func TestPathwayInvariants(t *testing.T) {
	t.Parallel()
	taken, refused := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		edit := rapid.SampledFrom([]func(*pb.StartFacts){func(*pb.StartFacts) {}, routine, fromScreening}).Draw(r, "route")
		p := EvolvePathway(Pathway{}, started(edit))
		today := date(received0)
		for i := range rapid.IntRange(5, 40).Draw(r, "commands") {
			today = today.AddDays(rapid.IntRange(0, 20).Draw(r, "later"))
			id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, i))
			decide, closes := drawPathwayCommand(r, p, id, today)
			events, err := decide(p)
			if err != nil {
				refused++
				var f *fault.Error
				if !errors.As(err, &f) {
					r.Fatalf("refused without a code: %v", err)
				}
				continue
			}
			taken++
			before := p
			for _, e := range events {
				p = EvolvePathway(p, e)
			}
			if p.closed != nil && before.closed == nil && !closes {
				r.Fatalf("%s closed the pathway", runtest.Name(events[0]))
			}
			mustHold(r, p, today)
		}
	})
	if taken == 0 || refused == 0 {
		t.Errorf("%d taken, %d refused: the test looks at nothing", taken, refused)
	}
	t.Logf("%d commands taken, %d refused", taken, refused)
}

// drawPathwayCommand draws a command; closes says that closing is its purpose.
func drawPathwayCommand(r *rapid.T, p Pathway, id uuid.UUID, today nhs.Date) (decide func(Pathway) ([]proto.Message, error), closes bool) {
	on := func() string { return today.AddDays(-rapid.IntRange(-3, 30).Draw(r, "days ago")).String() }
	setting := pb.TreatmentSetting(rapid.IntRange(1, 4).Draw(r, "setting"))
	draws := []func() proto.Message{
		func() proto.Message { return &pb.UpgradeFacts{On: on()} },
		func() proto.Message { return seen(on()) },
		func() proto.Message { return &pb.FirstAppointmentMissedFacts{On: on(), Attendance: "3"} },
		func() proto.Message {
			return &pb.FirstSeenAdjustmentFacts{Days: rapid.Uint32Range(0, 20).Draw(r, "days"), Reason: rapid.SampledFrom([]string{"3", "9"}).Draw(r, "reason")}
		},
		func() proto.Message { return diagnosis(on()) },
		func() proto.Message { return ruledOut(on()) },
		func() proto.Message { return &pb.ExclusionFacts{On: on(), Reason: "01"} },
		func() proto.Message { return decided(on()) },
		func() proto.Message { return decided(on()) },
		func() proto.Message { return &pb.EcadFacts{On: on()} },
		func() proto.Message { return offered(on(), on()) },
		func() proto.Message {
			offerID := ""
			for _, t := range p.treatments {
				for _, o := range t.offers {
					offerID = o.factID
				}
			}
			return &pb.OfferDeclinedFacts{OfferFactId: offerID, On: on()}
		},
		func() proto.Message {
			return &pb.TreatmentAdjustmentFacts{Days: rapid.Uint32Range(0, 20).Draw(r, "days"), Reason: "8", Setting: setting}
		},
		func() proto.Message { return &pb.TransferFacts{On: on(), TreatingProvider: "RJ2"} },
		func() proto.Message {
			return treat(on(), rapid.SampledFrom([]string{"01", "02", "07"}).Draw(r, "type"))
		},
		func() proto.Message { return treat(on(), "01") },
		func() proto.Message { return ended(on()) },
		func() proto.Message { return &pb.FollowUpFacts{On: on(), Arrangement: 1} },
	}
	if rapid.IntRange(0, 9).Draw(r, "rarely") == 0 {
		draws = []func() proto.Message{
			func() proto.Message { return closing(on(), pb.CloseReason(rapid.IntRange(1, 8).Draw(r, "reason"))) },
			func() proto.Message {
				return &pb.RerouteFacts{On: on(), OriginalContinues: rapid.Bool().Draw(r, "continues"), Onward: []*pb.Onward{{ReferralType: "05"}}}
			},
		}
		closes = true
	}
	facts := rapid.SampledFrom(draws).Draw(r, "command")()
	if rapid.IntRange(0, 4).Draw(r, "correct") == 0 {
		wrong := rapid.SampledFrom(p.facts).Draw(r, "wrong")
		c := CorrectClock{CommandID: id, Today: today, WrongFactID: wrong.id}
		switch f := facts.(type) {
		case *pb.DecisionToTreatFacts:
			c.Replacement = &pb.Replacement{Facts: &pb.Replacement_DecisionToTreat{DecisionToTreat: f}}
		case *pb.FirstSeenFacts:
			c.Replacement = &pb.Replacement{Facts: &pb.Replacement_FirstSeen{FirstSeen: f}}
		case *pb.TreatmentFacts:
			c.Replacement = &pb.Replacement{Facts: &pb.Replacement_Treatment{Treatment: f}}
		case *pb.DiagnosisFacts:
			c.Replacement = &pb.Replacement{Facts: &pb.Replacement_Diagnosis{Diagnosis: f}}
		}
		return c.Decide, false
	}
	return Record{CommandID: id, Today: today, Facts: facts}.Decide, closes
}

// mustHold states the invariants of a pathway from its message alone.
func mustHold(r *rapid.T, p Pathway, today nhs.Date) {
	m := p.Message("x")
	ordered := func(what string, dates ...string) {
		last := ""
		for _, d := range dates {
			if d == "" {
				continue
			}
			if d < last {
				r.Fatalf("%s out of order: %v", what, dates)
			}
			last = d
		}
	}
	received := m.Start.ReceivedOn
	running := map[pb.ClockKind]int{}
	for _, c := range m.Clocks {
		ordered(c.Kind.String(), received, c.StartOn)
		ordered(c.Kind.String(), c.StartOn, c.EndOn)
		if c.Status == pb.ClockStatus_CLOCK_STATUS_RUNNING {
			running[c.Kind]++
		}
	}
	for kind, n := range running {
		if n > 1 {
			r.Fatalf("%d clocks of kind %v run", n, kind)
		}
	}
	outcomes := 0
	for _, is := range []bool{m.Diagnosis != nil, m.RuledOut != nil, m.Exclusion != nil} {
		if is {
			outcomes++
		}
	}
	if outcomes > 1 {
		r.Fatal("two outcomes stand")
	}
	ordered("first seen", received, m.FirstSeen.GetOn())
	firsts := 0
	for _, t := range m.Treatments {
		ordered("treatment", received, t.Decision.GetOn(), t.Started.GetOn(), t.Ended.GetOn(), t.FollowUp.GetOn())
		ordered("appropriate date", t.Decision.GetOn(), t.Ecad.GetOn(), t.Started.GetOn())
		if t.Started != nil && t.Decision == nil && t.Ecad == nil {
			r.Fatal("treatment without a decision")
		}
		if t.Started != nil && (t.Started.EventType == "01" || t.Started.EventType == "07") {
			firsts++
			ordered("transfer", m.Transfer.GetOn(), t.Started.On)
		}
		if n := t.Adjustment.GetDays(); n > 0 && t.Started != nil {
			from := or(t.Ecad.GetOn(), t.Decision.GetOn())
			if int(n) > date(from).DaysUntil(date(t.Started.On)) {
				r.Fatalf("%d days off a wait from %s to %s", n, from, t.Started.On)
			}
		}
	}
	if firsts > 1 {
		r.Fatal("two first treatments")
	}
	if n := m.FirstSeenAdjustment.GetDays(); n > 0 && m.FirstSeen != nil && int(n) > date(received).DaysUntil(date(m.FirstSeen.On)) {
		r.Fatalf("%d days off a wait from %s to %s", n, received, m.FirstSeen.On)
	}
	if m.Upgrade != nil && (m.Start.Source == screening || m.Route != pb.Route_ROUTE_UPGRADE) {
		r.Fatalf("upgraded on route %v", m.Route)
	}
	for _, f := range m.Facts {
		if f.On > today.String() {
			r.Fatalf("%s lies ahead", f.Event)
		}
		if m.Closed != nil && f.On > m.Closed.On {
			r.Fatalf("%s after the closing", f.Event)
		}
	}
}

// TestReferralInvariants: every referral that was sent and has not ended has
// someone who must act; one that has ended never changes again; a referral that
// replaces another is not sent while that one is under way.
func TestReferralInvariants(t *testing.T) {
	t.Parallel()
	taken, refused := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		ids := []string{"11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333"}
		var s Referrals
		at := now
		for i := range rapid.IntRange(20, 120).Draw(r, "commands") {
			at = at.Add(time.Duration(rapid.IntRange(0, 30).Draw(r, "hours")) * time.Hour)
			id := rapid.SampledFrom(ids[:2]).Draw(r, "referral")
			decide := drawReferralCommand(r, id, ids, i, at)
			events, err := decide(s)
			if err != nil {
				refused++
				continue
			}
			taken++
			before := s
			for _, e := range events {
				s = EvolveReferrals(s, e)
			}
			for _, old := range before.referrals {
				if terminal(old.State) && !proto.Equal(old, s.Referral(old.ReferralId)) {
					r.Fatalf("%s changed after its end: %v", old.ReferralId, events)
				}
			}
			for _, ref := range s.referrals {
				m := Message(ref, "p")
				ended := m.State == cancelled || m.State == enteredInError || m.State == completed || m.State == redirected
				if m.State != draft && !ended && m.Owner.GetOrganisation() == "" {
					r.Fatalf("nobody must act on a referral that is %v", m.State)
				}
				if (m.State == draft || ended) && m.Owner != nil {
					r.Fatalf("somebody must act on a referral that is %v", m.State)
				}
				if m.Content.Kind == pb.ReferralKind_REFERRAL_KIND_CHARITY && m.State != draft && m.SentAt != nil && m.Content.Consent == nil {
					r.Fatal("left for a charity without consent")
				}
				if first := s.Referral(m.Content.Replaces); first != nil && m.SentAt != nil && !terminal(first.State) {
					r.Fatalf("sent in the place of one that is %v", first.State)
				}
			}
		}
	})
	if taken == 0 || refused == 0 {
		t.Errorf("%d taken, %d refused: the test looks at nothing", taken, refused)
	}
	t.Logf("%d commands taken, %d refused", taken, refused)
}

func drawReferralCommand(r *rapid.T, id string, ids []string, i int, at time.Time) func(Referrals) ([]proto.Message, error) {
	today := nhs.DateOf(at)
	on := today.String()
	other := rapid.SampledFrom(append([]string{""}, ids...)).Draw(r, "other")
	if other == id {
		other = ""
	}
	command := uuid.NewSHA1(uuid.NameSpaceURL, fmt.Append(nil, i))
	seenVersion := rapid.SampledFrom([]int64{0, 0, 0, 1, 2}).Draw(r, "seen")
	body := content(kind(pb.ReferralKind(rapid.SampledFrom([]int{4, 7, 11}).Draw(r, "kind"))), func(c *pb.ReferralContent) {
		c.Replaces = other
		if rapid.Bool().Draw(r, "consent") {
			c.Consent = consent
		}
	})
	return rapid.SampledFrom([]func(Referrals) ([]proto.Message, error){
		DraftReferral{&pb.DraftReferralRequest{ReferralId: id, Content: body}, command, today}.Decide,
		SendReferral{&pb.SendReferralRequest{ReferralId: id, NhsNumberStatus: "01", SeenVersion: seenVersion}, at, nil}.Decide,
		SendReferral{&pb.SendReferralRequest{ReferralId: id, NhsNumberStatus: "01", RespondBy: timestamppb.New(at.Add(time.Hour))}, at, nil}.Decide,
		AcknowledgeReceipt{&pb.AcknowledgeReceiptRequest{ReferralId: id}}.Decide,
		AcceptReferral{&pb.AcceptReferralRequest{ReferralId: id, SeenVersion: seenVersion}}.Decide,
		RejectReferral{&pb.RejectReferralRequest{ReferralId: id, RejectionReason: "22"}}.Decide,
		RedirectReferral{&pb.RedirectReferralRequest{ReferralId: id, Target: content().Target}, command, at, nil}.Decide,
		BeginReferral{&pb.BeginReferralRequest{ReferralId: id}}.Decide,
		HoldReferral{&pb.HoldReferralRequest{ReferralId: id}}.Decide,
		ResumeReferral{&pb.ResumeReferralRequest{ReferralId: id}}.Decide,
		CancelReferral{&pb.CancelReferralRequest{ReferralId: id, SeenVersion: seenVersion, CancelReason: pb.CancelReason(rapid.IntRange(1, 3).Draw(r, "reason"))}}.Decide,
		CompleteReferral{&pb.CompleteReferralRequest{ReferralId: id}}.Decide,
		RecordNotAttended{&pb.RecordNotAttendedRequest{ReferralId: id, On: on}, today}.Decide,
		RecordNoResponse{&pb.RecordNoResponseRequest{ReferralId: id}, at}.Decide,
		OfferProgramme{&pb.OfferProgrammeRequest{ReferralId: id, Programme: "HOPE", StartsOn: on}}.Decide,
		AcceptProgramme{&pb.AcceptProgrammeRequest{ReferralId: id}}.Decide,
		DeclineProgramme{&pb.DeclineProgrammeRequest{ReferralId: id}}.Decide,
		RecordProgrammeAttendance{&pb.RecordProgrammeAttendanceRequest{ReferralId: id, On: on}, today}.Decide,
		CompleteProgramme{&pb.CompleteProgrammeRequest{ReferralId: id, On: on}, today}.Decide,
		DropOutOfProgramme{&pb.DropOutOfProgrammeRequest{ReferralId: id, On: on}, today}.Decide,
	}).Draw(r, "command")
}
