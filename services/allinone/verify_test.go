package allinone

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	edgev1 "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// write appends one command to a stream, with a true chain, whatever it says:
// the log as a service with a bug would have written it.
type write struct {
	stream string
	events []proto.Message
}

func (w write) to(t *testing.T, log es.Log, n int) {
	t.Helper()
	category, id, _ := strings.Cut(w.stream, "-")
	decider := es.Decider[int]{Category: category, Evolve: func(n int, _ proto.Message) int { return n }}
	req := &careleadv1.RunTimersRequest{PathwayId: fmt.Sprint(n), Command: &metav1.Command{
		CommandId: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, w.stream, n)).String(), Actor: &metav1.Actor{User: "U1", Organisation: "RJ1"}}}
	_, err := es.NewStreams(log, decider, es.Options{Key: []byte("0123456789abcdef")}).Do(t.Context(), id, req, func(int) ([]proto.Message, error) { return w.events, nil })
	if err != nil {
		t.Fatal(err)
	}
}

var (
	team  = &careleadv1.Party{Kind: careleadv1.PartyKind_PARTY_KIND_TEAM, Id: "BR", Name: "RJ1 Breast", Organisation: "RJ1"}
	lead  = &careleadv1.Party{Kind: careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE, Id: "lead-1", Name: "A. Lead", Organisation: "RRV"}
	other = &careleadv1.Party{Kind: careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE, Id: "lead-2", Name: "B. Lead", Organisation: "RRV"}
)

// story is a short whole log: a person, a pathway, a ledger and an accepted handover.
func story() []write {
	return []write{
		{"identity-aa", []proto.Message{&personv1.IdentifierClaimed{PersonId: "p1"}}},
		{"person-p1", []proto.Message{&personv1.PersonRegistered{PersonId: "p1", Status: "01"},
			&personv1.NhsNumberRecorded{RecordId: "r1", NhsNumber: "9990000018", Status: "01"}}},
		{"pathway-w1", []proto.Message{&referralv1.PathwayStarted{FactId: "f1", PersonId: "p1", Facts: &referralv1.StartFacts{
			ReceivedOn: "2026-03-02", ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Code: "BR", Name: "RJ1 Breast"}}}}},
		{"carelead-w1", []proto.Message{&careleadv1.LedgerOpened{PathwayId: "w1", PersonId: "p1", Holder: team}}},
		{"pathway-w1", []proto.Message{&referralv1.DecisionToTreatMade{FactId: "f2", Facts: &referralv1.DecisionToTreatFacts{On: "2026-03-10", Organisation: "RJ1"}}}},
		{"lead-lead-1", []proto.Message{&careleadv1.LeadRegistered{Party: lead, Capacity: 1}}},
		{"lead-lead-1", []proto.Message{&careleadv1.CaseloadPlaceTaken{PathwayId: "w1"}}},
		{"carelead-w1", []proto.Message{&careleadv1.HandoverOffered{HandoverId: "h1", From: team, To: lead, SummaryVersion: 1, PlanVersion: 1}}},
		{"carelead-w1", []proto.Message{
			&careleadv1.HandoverAccepted{HandoverId: "h1", SummaryVersion: 1, PlanVersion: 1, AcceptedBy: "U2"},
			&careleadv1.AccountabilityTransferred{From: team, To: lead, Cause: careleadv1.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED, HandoverId: "h1"},
			&careleadv1.PatientNoticeDue{Holder: lead}}},
		{"referral-w1", []proto.Message{&referralv1.ReferralDrafted{ReferralId: "x1"}}},
		{"referral-w1", []proto.Message{&referralv1.ReferralSent{ReferralId: "x1"}}},
	}
}

// later is something else that happens two hours after the rest.
var later = write{"carelead-w1", []proto.Message{&careleadv1.HandoverReminderSent{HandoverId: "h1"}}}

// booked is how an appointment gets its slot, but for the last step.
func booked(id string) []write {
	return []write{
		{"session-s1", []proto.Message{&appointmentv1.SlotHeld{SlotId: "1", AppointmentId: id, PathwayId: "w1", HoldId: id}}},
		{"appointment-w1", []proto.Message{&appointmentv1.AppointmentBooked{AppointmentId: id, Booking: &appointmentv1.Booking{SessionId: "s1", SlotId: "1", HoldId: id}}}},
	}
}

// wanted is an appointment to be booked, with its task.
func wanted() []write {
	return []write{{"appointment-w1", []proto.Message{&appointmentv1.AppointmentRequested{AppointmentId: "a1"},
		&appointmentv1.ToBeBookedTaskRaised{TaskId: "t1", Cause: "requested", CauseId: "a1", Due: "2026-05-01"}}}}
}

func kept(id, of string) write {
	return write{"message-" + id, []proto.Message{&edgev1.MessageReceived{MessageId: id, Raw: []byte("MSH"), RedriveOf: of}}}
}

func parked(id string) write {
	return write{"message-" + id, []proto.Message{&edgev1.MessageParked{Reason: &edgev1.Reason{Code: "x"}}}}
}

// verify verifies at once, and in parts, which must come to the same.
func verify(t *testing.T, events []es.Recorded) Verdict {
	t.Helper()
	run := func(v *Verifier) Verdict {
		defer v.Close()
		for _, e := range events {
			if err := v.Next(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := v.End(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		return v.Verdict
	}
	atOnce := run(NewVerifier())
	for _, lanes := range []int{1, 3, 16} {
		v, err := newLanes(lanes)
		if err != nil {
			t.Fatal(err)
		}
		if parts := run(v); !reflect.DeepEqual(parts, atOnce) {
			t.Errorf("in %d lanes: %+v\nat once: %+v", lanes, parts, atOnce)
		}
	}
	return atOnce
}

// TestVerifyFindsPlantedDamage writes what a service with a bug would write,
// after a story that is whole.
func TestVerifyFindsPlantedDamage(t *testing.T) {
	t.Parallel()
	transfer := func(cause careleadv1.TransferCause, to *careleadv1.Party) *careleadv1.AccountabilityTransferred {
		return &careleadv1.AccountabilityTransferred{From: lead, To: to, Cause: cause, HandoverId: "h2"}
	}
	accepted := careleadv1.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED
	one := func(stream string, events ...proto.Message) []write { return []write{{stream, events}} }
	start := func(day string) *referralv1.PathwayStarted {
		return &referralv1.PathwayStarted{FactId: "g1", Facts: &referralv1.StartFacts{ReceivedOn: day, ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Name: "RJ1 Breast"}}}
	}
	urgent := func(day string) *referralv1.PathwayStarted {
		e := start(day)
		e.Facts.Priority, e.Facts.ReferralType, e.Facts.Source = "3", "01", "03"
		return e
	}
	ofPerson := func(id string) *referralv1.PathwayStarted {
		e := start("2026-03-02")
		e.PersonId = id
		return e
	}
	at := func(text string) *appointmentv1.Booking {
		from, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return &appointmentv1.Booking{Start: timestamppb.New(from), End: timestamppb.New(from.Add(20 * time.Minute))}
	}
	for _, tt := range []struct {
		name string
		then []write
		want string
	}{
		{"nothing", nil, ""},
		{"what a booking and a redriven message are", append(booked("a1"), []write{
			{"session-s1", []proto.Message{&appointmentv1.SlotTaken{SlotId: "1", AppointmentId: "a1", HoldId: "a1"}}},
			kept("m1", ""), parked("m1"), {"message-m1", []proto.Message{&edgev1.MessageRedriven{ByMessageId: "m2"}}}, kept("m2", "m1"), kept("m3", ""),
			{"message-m2", []proto.Message{&edgev1.MessageApplied{}}}, later}...), ""},
		{"a lead without acceptance", one("carelead-w1", transfer(accepted, other), &careleadv1.PatientNoticeDue{Holder: other}), "I3"},
		{"a time-out that transfers", []write{
			{"carelead-w1", []proto.Message{&careleadv1.HandoverOffered{HandoverId: "h2", From: lead, To: other}}},
			{"carelead-w1", []proto.Message{&careleadv1.HandoverExpired{HandoverId: "h2"}, transfer(accepted, other), &careleadv1.PatientNoticeDue{Holder: other}}}}, "I3"},
		{"a transfer that tells nobody", []write{
			{"carelead-w1", []proto.Message{&careleadv1.HandoverOffered{HandoverId: "h2", From: lead, To: other}}},
			{"carelead-w1", []proto.Message{&careleadv1.HandoverAccepted{HandoverId: "h2", AcceptedBy: "U2"}, transfer(accepted, other)}}}, "I9"},
		{"a pool without standing acceptance", one("carelead-w1", transfer(careleadv1.TransferCause_TRANSFER_CAUSE_COVER_MISSING, other), &careleadv1.PatientNoticeDue{Holder: other}), "I6"},
		{"two open offers", []write{
			{"carelead-w1", []proto.Message{&careleadv1.HandoverOffered{HandoverId: "h2", From: lead, To: other}}},
			{"carelead-w1", []proto.Message{&careleadv1.HandoverOffered{HandoverId: "h3", From: lead, To: team}}}}, "I4"},
		{"a ledger closes without evidence", one("carelead-w1", &careleadv1.LedgerClosed{Reason: careleadv1.CloseReason_CLOSE_REASON_DIED}), "I7"},
		{"ledgers superseded in a ring", []write{
			{"pathway-w2", []proto.Message{start("2026-03-02")}},
			{"carelead-w2", []proto.Message{&careleadv1.LedgerOpened{PathwayId: "w2", Holder: team}}},
			{"carelead-w2", []proto.Message{&careleadv1.LedgerClosed{Reason: careleadv1.CloseReason_CLOSE_REASON_SUPERSEDED, Evidence: "w1", SupersededBy: "w1"}}},
			{"carelead-w1", []proto.Message{&careleadv1.LedgerClosed{Reason: careleadv1.CloseReason_CLOSE_REASON_SUPERSEDED, Evidence: "w2", SupersededBy: "w2"}}}}, "in a ring"},
		{"a ledger opens with another holder", []write{
			{"pathway-w2", []proto.Message{start("2026-03-02")}},
			{"carelead-w2", []proto.Message{&careleadv1.LedgerOpened{PathwayId: "w2", Holder: lead}}}}, "first holder"},
		{"a ledger without a pathway", one("carelead-w2", &careleadv1.LedgerOpened{PathwayId: "w2", Holder: team}), "never started"},
		{"a pathway without a team", one("pathway-w2", &referralv1.PathwayStarted{FactId: "g1", Facts: &referralv1.StartFacts{ReceivedOn: "2026-03-02"}}), "nobody is accountable"},
		{"a lead beyond the capacity", one("lead-lead-1", &careleadv1.CaseloadPlaceTaken{PathwayId: "w2", HandoverId: "h2"}), "capacity of 1"},
		{"a place is freed twice", []write{
			{"lead-lead-1", []proto.Message{&careleadv1.CaseloadPlaceFreed{PathwayId: "w1"}}},
			{"lead-lead-1", []proto.Message{&careleadv1.CaseloadPlaceFreed{PathwayId: "w1"}}}}, "not taken"},
		{"two persons with one number", []write{
			{"identity-bb", []proto.Message{&personv1.IdentifierClaimed{PersonId: "p2"}}},
			{"person-p2", []proto.Message{&personv1.PersonRegistered{PersonId: "p2"}, &personv1.NhsNumberRecorded{NhsNumber: "9990000018"}}}}, "one NHS number"},
		{"a number without a claim", one("person-p1", &personv1.NhsNumberRecorded{NhsNumber: "9990000026"}), "not claimed"},
		{"an identifier claimed twice", one("identity-aa", &personv1.IdentifierClaimed{PersonId: "p2"}), "claimed twice"},
		{"a merge nobody asked for", one("person-p1", &personv1.PersonsMerged{MergeId: "m", SurvivingPersonId: "p1", MergedPersonId: "p2"}), "not asked"},
		{"treatment before the decision", one("pathway-w1", &referralv1.TreatmentStarted{FactId: "f3", Facts: &referralv1.TreatmentFacts{On: "2026-03-09"}}), "before the decision"},
		{"a fact from the future", one("pathway-w1", &referralv1.TreatmentStarted{FactId: "f3", Facts: &referralv1.TreatmentFacts{On: "2026-06-09"}}), "lies after the day"},
		{"a fact after the end", []write{
			{"pathway-w1", []proto.Message{&referralv1.PathwayClosed{FactId: "f3", Facts: &referralv1.CloseFacts{On: "2026-03-20"}}}},
			{"pathway-w1", []proto.Message{&referralv1.TreatmentStarted{FactId: "f4", Facts: &referralv1.TreatmentFacts{On: "2026-03-19"}}}}}, "closed pathway"},
		{"two outcomes", []write{
			{"pathway-w2", []proto.Message{start("2026-03-02")}},
			{"pathway-w2", []proto.Message{&referralv1.DiagnosisCommunicated{FactId: "g2", Facts: &referralv1.DiagnosisFacts{Told: &referralv1.Told{On: "2026-03-09"}}}}},
			{"pathway-w2", []proto.Message{&referralv1.CancerRuledOutCommunicated{FactId: "g3", Facts: &referralv1.RuledOutFacts{Told: &referralv1.Told{On: "2026-03-10"}}}}}}, "two outcomes"},
		{"a referral accepted before it was sent", []write{
			{"referral-w1", []proto.Message{&referralv1.ReferralDrafted{ReferralId: "x2"}}},
			{"referral-w1", []proto.Message{&referralv1.ReferralAccepted{ReferralId: "x2"}}}}, "not with its receiver"},
		{"a slot taken twice", []write{
			{"session-s1", []proto.Message{&appointmentv1.SlotTaken{SlotId: "1", AppointmentId: "a1"}}},
			{"session-s1", []proto.Message{&appointmentv1.SlotTaken{SlotId: "1", AppointmentId: "a2"}}}}, "two appointments"},
		{"a plan published with an open concern", []write{
			{"plan-w1", []proto.Message{&planv1.PlanOpened{PlanId: "l1"}, &planv1.ConcernRaised{ConcernId: "c1"}}},
			{"plan-w1", []proto.Message{&planv1.PlanPublished{Version: 1}}}}, "nobody decided"},
		{"a ring of three merges", []write{
			{"person-a", []proto.Message{&personv1.PersonRegistered{PersonId: "a"}, &personv1.PersonMergedInto{MergeId: "m1", SurvivingPersonId: "b", MergedPersonId: "a"}}},
			{"person-b", []proto.Message{&personv1.PersonRegistered{PersonId: "b"}, &personv1.PersonsMerged{MergeId: "m1", SurvivingPersonId: "b", MergedPersonId: "a"}}},
			{"person-b", []proto.Message{&personv1.PersonMergedInto{MergeId: "m2", SurvivingPersonId: "c", MergedPersonId: "b"}}},
			{"person-c", []proto.Message{&personv1.PersonRegistered{PersonId: "c"}, &personv1.PersonsMerged{MergeId: "m2", SurvivingPersonId: "c", MergedPersonId: "b"}}},
			{"person-c", []proto.Message{&personv1.PersonMergedInto{MergeId: "m3", SurvivingPersonId: "a", MergedPersonId: "c"}}},
			{"person-a", []proto.Message{&personv1.PersonsMerged{MergeId: "m3", SurvivingPersonId: "a", MergedPersonId: "c"}}}}, "circle"},
		{"an adjustment without a reason", one("pathway-w1", &referralv1.FirstSeenAdjustmentSet{FactId: "f3", Facts: &referralv1.FirstSeenAdjustmentFacts{Days: 3, Reason: "9"}}), "without a missed appointment"},
		{"an adjustment longer than the wait until first seen", []write{
			{"pathway-w1", []proto.Message{&referralv1.FirstSeen{FactId: "f3", Facts: &referralv1.FirstSeenFacts{On: "2026-03-12"}}}},
			{"pathway-w1", []proto.Message{&referralv1.FirstSeenAdjustmentSet{FactId: "f4", Facts: &referralv1.FirstSeenAdjustmentFacts{Days: 11, Reason: "3"}}}}}, "longer than the wait until first seen"},
		{"an adjustment longer than the 28-day clock", []write{
			{"pathway-w2", []proto.Message{urgent("2026-03-02")}},
			{"pathway-w2", []proto.Message{&referralv1.FirstSeenAdjustmentSet{FactId: "g2", Facts: &referralv1.FirstSeenAdjustmentFacts{Days: 9, Reason: "3"}}}},
			{"pathway-w2", []proto.Message{&referralv1.DiagnosisCommunicated{FactId: "g3", Facts: &referralv1.DiagnosisFacts{Told: &referralv1.Told{On: "2026-03-10"}}}}}}, "Faster Diagnosis clock"},
		{"a treatment adjustment for an outpatient", one("pathway-w1", &referralv1.TreatmentAdjustmentSet{FactId: "f3", Facts: &referralv1.TreatmentAdjustmentFacts{Days: 3, Reason: "8", Setting: referralv1.TreatmentSetting_TREATMENT_SETTING_OUTPATIENT}}), "declined offer of admission"},
		{"a treatment adjustment longer than the wait", []write{
			{"pathway-w1", []proto.Message{&referralv1.TreatmentAdjustmentSet{FactId: "f3", Facts: &referralv1.TreatmentAdjustmentFacts{Days: 6, Reason: "8", Setting: referralv1.TreatmentSetting_TREATMENT_SETTING_DAY_CASE}}}},
			{"pathway-w1", []proto.Message{&referralv1.TreatmentStarted{FactId: "f4", Facts: &referralv1.TreatmentFacts{On: "2026-03-15", EventType: "02"}}}}}, "longer than the wait for treatment"},
		{"adjustments longer than the 62-day clock", []write{
			{"pathway-w1", []proto.Message{&referralv1.FirstSeenAdjustmentSet{FactId: "f3", Facts: &referralv1.FirstSeenAdjustmentFacts{Days: 12, Reason: "3"}}}},
			{"pathway-w1", []proto.Message{&referralv1.TreatmentAdjustmentSet{FactId: "f4", Facts: &referralv1.TreatmentAdjustmentFacts{Days: 4, Reason: "8", Setting: referralv1.TreatmentSetting_TREATMENT_SETTING_DAY_CASE}}}},
			{"pathway-w1", []proto.Message{&referralv1.TreatmentStarted{FactId: "f5", Facts: &referralv1.TreatmentFacts{On: "2026-03-16", EventType: "01"}}}}}, "longer than the 62-day clock"},
		{"a wish without a task", one("appointment-w1", &appointmentv1.AppointmentRequested{AppointmentId: "a1"}), "silent end"},
		{"a task without a day", one("appointment-w1", &appointmentv1.AppointmentRequested{AppointmentId: "a1"}, &appointmentv1.ToBeBookedTaskRaised{TaskId: "t1", Cause: "requested", CauseId: "a1"}), "no day"},
		{"a cancellation without a task", append(booked("a1"), one("appointment-w1", &appointmentv1.AppointmentCancelled{AppointmentId: "a1"})...), "silent end"},
		{"a missed appointment without a task", append(booked("a1"), one("appointment-w1", &appointmentv1.PatientDidNotAttend{AppointmentId: "a1", AttendanceCode: "3"})...), "silent end"},
		{"a missed appointment that discharges", append(booked("a1"), one("appointment-w1", &appointmentv1.PatientDidNotAttend{AppointmentId: "a1", AttendanceCode: "3", OutcomeCode: "1"})...), "one missed appointment"},
		{"a next appointment that is not there", append(booked("a1"), one("appointment-w1", &appointmentv1.AppointmentFulfilled{AppointmentId: "a1", OutcomeCode: "2", NextAppointmentId: "a2"})...), "not booked"},
		{"a next appointment to be made by nobody", append(booked("a1"), one("appointment-w1", &appointmentv1.AppointmentFulfilled{AppointmentId: "a1", OutcomeCode: "3"})...), "seen again"},
		{"a follow-up after discharge that nobody books", one("appointment-w1", &appointmentv1.DischargeRecorded{VisitId: "v1", FollowUpIntended: true}), "to be followed up"},
		{"a task answered by nothing", append(wanted(), one("appointment-w1", &appointmentv1.ToBeBookedTaskBooked{TaskId: "t1", AppointmentId: "a9"})...), "not booked"},
		{"a task that a system ends", append(wanted(), one("appointment-w1", &appointmentv1.ToBeBookedTaskEnded{TaskId: "t1", ReasonCode: "not_needed"})...), "without a person"},
		{"a test that nobody books", []write{
			{"plan-w1", []proto.Message{&planv1.PlanOpened{PlanId: "l1"}, &planv1.ItemBecameDue{ItemId: "i1"}}}, later}, "no task to book it"},
		{"a suspended session with a patient in it", []write{booked("a1")[0], booked("a1")[1],
			{"session-s1", []proto.Message{&appointmentv1.SlotTaken{SlotId: "1", AppointmentId: "a1", HoldId: "a1"}}},
			{"session-s1", []proto.Message{&appointmentv1.SessionSuspended{Displaced: []*appointmentv1.Displaced{{AppointmentId: "a1", PathwayId: "w1", HoldId: "a1", SlotId: "1"}}}}}, later}, "was not cancelled"},
		{"a booking whose slot is never taken", append(booked("a1"), later), "only held"},
		{"a booking without a hold", one("appointment-w1", &appointmentv1.AppointmentBooked{AppointmentId: "a1", Booking: &appointmentv1.Booking{SessionId: "s1", SlotId: "1", HoldId: "a1"}}), "not held"},
		{"a slot given away under a booking", append(booked("a1"), one("session-s1", &appointmentv1.SlotReleased{SlotId: "1", AppointmentId: "a1", HoldId: "a1"})...), "given away"},
		{"a patient in two places", []write{
			{"pathway-w2", []proto.Message{ofPerson("p1")}},
			{"appointment-w2", []proto.Message{&appointmentv1.AppointmentBooked{AppointmentId: "a2", Booking: at("2026-05-01T09:00:00Z")}}},
			{"appointment-w1", []proto.Message{&appointmentv1.AppointmentBooked{AppointmentId: "a1", Booking: at("2026-05-01T09:10:00Z")}}}, later}, "two places"},
		{"a message with two outcomes", []write{kept("m1", ""), {"message-m1", []proto.Message{&edgev1.MessageApplied{}}},
			{"message-m1", []proto.Message{&edgev1.MessageRefused{Reason: &edgev1.Reason{Code: "x"}}}}}, "applied already"},
		{"an outcome of no message", one("message-m1", &edgev1.MessageApplied{}), "never kept"},
		{"a message parked for no reason", []write{kept("m1", ""), {"message-m1", []proto.Message{&edgev1.MessageParked{}}}}, "without a reason"},
		{"a message that says it repeats another", []write{kept("m1", ""), parked("m1"), kept("m2", "m1")}, "does not say so"},
		{"a repeat that does not say what it repeats", []write{kept("m1", ""), parked("m1"), kept("m2", ""),
			{"message-m1", []proto.Message{&edgev1.MessageRedriven{ByMessageId: "m2"}}}}, "does not say so"},
		{"a message repeated twice", []write{kept("m1", ""), parked("m1"),
			{"message-m1", []proto.Message{&edgev1.MessageRedriven{ByMessageId: "m2"}}}, kept("m2", "m1"),
			{"message-m1", []proto.Message{&edgev1.MessageRedriven{ByMessageId: "m3"}}}}, "two messages"},
		{"a repeat of what was applied", []write{kept("m1", ""), {"message-m1", []proto.Message{&edgev1.MessageApplied{}}},
			{"message-m1", []proto.Message{&edgev1.MessageRedriven{ByMessageId: "m2"}}}}, "that was applied"},
		{"an event in another's stream", one("pathway-w1", &careleadv1.PatientNoticeDue{Holder: lead}), "lies in a stream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			log := estest.NewLog()
			at := time.Date(2026, 4, 1, 9, 0, 0, 0, time.UTC)
			log.SetClock(func() time.Time { at = at.Add(time.Millisecond); return at })
			guilty := len(tt.then) - 1
			for i, w := range append(story(), tt.then...) {
				if w.events[0] == later.events[0] {
					at, guilty = at.Add(2*time.Hour), guilty-1
				}
				w.to(t, log, i)
			}
			events := log.Events()
			if len(tt.then) > guilty+1 {
				// What a reaction has left undone is found by the passing of time alone.
				if v := verify(t, events[:len(events)-1]); v.Faults != 0 {
					t.Errorf("it is blamed before the reaction had its time: %v", v.First)
				}
			}
			v := verify(t, events)
			if tt.want == "" {
				if v.Faults != 0 || v.Pathways != 1 || v.Open != 1 || v.Transfers != 1 || v.Instants != len(events) || v.Commands != len(story())+len(tt.then) {
					t.Errorf("%+v", v)
				}
				return
			}
			if v.Faults == 0 || !strings.Contains(v.First[0].Text, tt.want) {
				t.Fatalf("%d faults %v, want one with %q", v.Faults, v.First, tt.want)
			}
			last := tt.then[guilty]
			first := len(events) // of the events of the guilty command
			for _, w := range tt.then[guilty:] {
				first -= len(w.events)
			}
			if at := v.First[0]; at.Stream != last.stream || at.Position < events[first].Position || at.Position > events[first+len(last.events)-1].Position {
				t.Errorf("it names %s at %d, not the event that broke the rule", at.Stream, at.Position)
			}
		})
	}
}

// TestVerifyFindsChangedEvents damages what was written, event by event: it is
// always found, and at the right place.
func TestVerifyFindsChangedEvents(t *testing.T) {
	t.Parallel()
	log := estest.NewLog()
	for i, w := range story() {
		w.to(t, log, i)
	}
	whole := log.Events()
	damaged := 0
	try := func(what string, at es.Recorded, events []es.Recorded) {
		t.Helper()
		damaged++
		v := verify(t, events)
		if v.Faults == 0 {
			t.Errorf("%s of %s revision %d is not found", what, at.Stream, at.Revision)
		} else if v.First[0].Stream != at.Stream {
			t.Errorf("%s of %s revision %d is found at %s", what, at.Stream, at.Revision, v.First[0].Stream)
		}
	}
	for i, e := range whole {
		with := func(change func(*es.Recorded)) []es.Recorded {
			events := append([]es.Recorded(nil), whole...)
			change(&events[i])
			return events
		}
		try("a byte", e, with(func(r *es.Recorded) { r.Data = append([]byte{}, r.Data...); r.Data[len(r.Data)-1] ^= 1 }))
		try("the type", e, with(func(r *es.Recorded) { r.Type += "X" }))
		try("the metadata", e, with(func(r *es.Recorded) { r.Metadata = []byte(strings.Replace(string(r.Metadata), "U1", "U9", 1)) }))
		try("the position", e, with(func(r *es.Recorded) { r.Position = 0 }))
		if i+1 < len(whole) && whole[i+1].Stream == e.Stream { // the end of a stream may be missing unseen
			try("the loss", e, append(append([]es.Recorded(nil), whole[:i]...), whole[i+1:]...))
		}
	}
	back := append([]es.Recorded(nil), whole...)
	back[3].Recorded = back[2].Recorded.Add(-time.Second)
	try("the time", back[3], back)
	t.Logf("%d events, %d damages", len(whole), damaged)
}

// TestVerifyARealLog verifies what the services and the node wrote.
func TestVerifyARealLog(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Data: t.TempDir()})
	conn := dial(t, s)
	ctx := within(t, time.Minute)
	command := func() *metav1.Command {
		return &metav1.Command{CommandId: uuid.NewString(), Actor: &metav1.Actor{User: "U1", Organisation: "RJ1"}}
	}
	now := time.Now()
	registered, err := personv1.NewPersonServiceClient(conn).RegisterPerson(ctx, &personv1.RegisterPersonRequest{Command: command(), NhsNumber: "9990000018", NhsNumberStatus: "01",
		Source: &personv1.Source{Kind: personv1.SourceKind_SOURCE_KIND_LOCAL, System: "RJ1/PAS", SentAt: timestamppb.New(now)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := referralv1.NewPathwayServiceClient(conn).StartPathway(ctx, &referralv1.StartPathwayRequest{Command: command(), PersonId: registered.Person.PersonId,
		Facts: &referralv1.StartFacts{ReceivedOn: now.AddDate(0, 0, -2).Format(time.DateOnly), Priority: "3", ReferralType: "01", Source: "03", ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Name: "RJ1 Breast"}}}); err != nil {
		t.Fatal(err)
	}
	v := NewVerifier()
	if err := open(t, s).ReadAll(ctx, 0, v.Next); err != nil {
		t.Fatal(err)
	}
	if err := v.End(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if v.Faults != 0 || v.Pathways != 1 || v.Open != 1 || v.Instants == 0 || v.Commands < 3 {
		t.Errorf("%+v", v)
	}
}

// TestCommandsSeen: a long stream is remembered as well as a short one.
func TestCommandsSeen(t *testing.T) {
	t.Parallel()
	var c commands
	for n := range 300 {
		id := [16]byte{byte(n), byte(n >> 8)}
		if c.has(id) {
			t.Fatalf("command %d is known before it came", n)
		}
		c.add(id)
		if !c.has(id) || !c.has([16]byte{}) {
			t.Fatalf("after command %d one is forgotten", n)
		}
	}
}
