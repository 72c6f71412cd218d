package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

const (
	storyID = "7d1f0c52-6a3e-4d0b-9c61-2f4f3f0a9b11"
	patient = "0b9d7a36-1c55-4b0e-8a38-64a1f6c2d7e5"
)

var (
	storyKey = []byte("a key that keys nothing of value")
	oncology = &careleadv1.Party{Kind: careleadv1.PartyKind_PARTY_KIND_TEAM, Id: "BREAST", Name: "RJ1 Breast Oncology", Organisation: "RJ1", Telephone: "020 7946 0000", Hours: "Monday to Friday 9 to 5"}
	nearHome = &careleadv1.Party{Kind: careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE, Id: "lead-1", Name: "Peckham lead", Organisation: "RYK", SdsUserId: "555254240100", SdsRoleProfileId: "555254242102", RoleCode: "R9801", Telephone: "020 7946 0001", Hours: "Monday to Friday 9 to 5"}
)

// told is an event of the story and the category of the stream that it stands in.
type told struct {
	category string
	event    proto.Message
}

// story is a pathway from referral to follow-up near home, as long as asked for:
// beyond its end there are more appointments. It stands in the five streams of a
// pathway, in the order in which things are recorded.
func story(events int) (all []told) {
	tell := func(category string, events ...proto.Message) {
		for _, e := range events {
			all = append(all, told{category, e})
		}
	}
	at := func(text string) *timestamppb.Timestamp {
		t, err := time.Parse(time.DateTime, text)
		if err != nil {
			panic(err) // of the texts below
		}
		return timestamppb.New(t)
	}
	id := func(of string) string { return uuid.NewSHA1(uuid.Nil, []byte(of)).String() }
	visit := func(n int) {
		a := id(fmt.Sprint("appointment", n))
		tell("appointment",
			&appointmentv1.AppointmentRequested{AppointmentId: a, TreatmentFunction: "800", WantedBy: "2026-08-01"},
			&appointmentv1.AppointmentBooked{AppointmentId: a, PasSystem: "RJ1/PAS", PasId: fmt.Sprint(100000 + n), Booking: &appointmentv1.Booking{
				SessionId: id("session"), SlotId: id(a), Start: at("2026-07-20 09:00:00"), End: at("2026-07-20 09:20:00"), Medium: appointmentv1.Medium_MEDIUM_FACE_TO_FACE, Site: "RJ101", TreatmentFunction: "800"}},
			&appointmentv1.PatientArrived{AppointmentId: a, At: at("2026-07-20 08:50:00")},
			&appointmentv1.AppointmentFulfilled{AppointmentId: a, AttendanceCode: "5", OutcomeCode: "2", On: "2026-07-20"})
	}
	ref, plan, hna, eots, handover := id("referral"), id("plan"), id("assessment"), id("summary"), id("handover")

	tell("pathway", &referralv1.PathwayStarted{FactId: id("start"), PersonId: patient, Route: referralv1.Route_ROUTE_USC, Ruleset: "cwt-12.1",
		Facts: &referralv1.StartFacts{ReceivedOn: "2026-01-05", Priority: "3", ReferralType: "01", Source: "03", PathwayIdentifier: "RJ10000000001", PathwayIdentifierIssuer: "RJ1",
			ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Code: "BREAST", Name: "RJ1 Breast Oncology"}}})
	tell("carelead", &careleadv1.LedgerOpened{PathwayId: storyID, PersonId: patient, Holder: oncology})
	tell("referral",
		&referralv1.ReferralDrafted{ReferralId: ref, HumanId: "R-4D7K-2M", Content: &referralv1.ReferralContent{Kind: referralv1.ReferralKind_REFERRAL_KIND_SUSPECTED_CANCER, Reason: "A lump that grew over six weeks."}},
		&referralv1.ReferralSent{ReferralId: ref, SentAt: at("2026-01-05 09:30:00"), RespondBy: at("2026-01-06 17:00:00"), TraceStatus: "01"},
		&referralv1.ReferralReceived{ReferralId: ref, ReceiverReference: "8812"},
		&referralv1.ReferralAccepted{ReferralId: ref})
	visit(0)
	tell("pathway", &referralv1.FirstSeen{FactId: id("seen"), Facts: &referralv1.FirstSeenFacts{On: "2026-01-12", Organisation: "RJ1"}},
		&referralv1.DiagnosisCommunicated{FactId: id("told"), Facts: &referralv1.DiagnosisFacts{Icd10: "C50.4", TumourGroup: "01",
			Told: &referralv1.Told{On: "2026-01-28", Method: referralv1.OutcomeMethod_OUTCOME_METHOD_FACE_TO_FACE, ProfessionalType: "01", Organisation: "RJ1"}}})
	tell("plan",
		&planv1.PlanOpened{PlanId: plan, PersonId: patient, Diagnosis: &planv1.Diagnosis{Icd10: "C50.4", Stage: "2A", DiagnosedOn: "2026-01-26", ToldOn: "2026-01-28"}, TreatingOrganisation: "RJ1", TreatingTeam: "BREAST"},
		&planv1.AssessmentBecameDue{AssessmentId: hna, Point: "01", Due: "2026-02-28"},
		&planv1.AssessmentOffered{AssessmentId: hna, Point: "01", StaffRole: "01", On: "2026-01-30", OfferedStatus: "03", Expires: "2026-02-28"},
		&planv1.AssessmentSubmitted{AssessmentId: hna, On: "2026-02-02", Author: "patient", Concerns: []*planv1.ScoredConcern{{Code: "physical.fatigue", Score: 6}, {Code: "emotional.worry", Score: 8}}})
	for i, code := range []string{"physical.fatigue", "emotional.worry"} {
		concern := id(code)
		tell("plan", &planv1.ConcernRaised{ConcernId: concern, Code: code, Score: int32(6 + 2*i), AssessmentId: hna, HighEmotionalScore: i == 1},
			&planv1.ConcernDiscussed{ConcernId: concern, On: "2026-02-03"},
			&planv1.ActionPlanned{ActionId: id("action" + code), Description: "Ask the team that runs the exercise group.", RequiredRole: "R9801", Due: "2026-03-01", ConcernIds: []string{concern}},
			&planv1.ConcernDecided{ConcernId: concern, Decision: planv1.ConcernDecision_CONCERN_DECISION_ACTION, ActionId: id("action" + code)})
	}
	tell("plan", &planv1.PlanAgreedWithPatient{On: "2026-02-05", AgreedBy: "patient"}, &planv1.PlanPublished{Version: 1, ReviewDue: "2026-08-05", SharedWithPatient: true})
	tell("pathway",
		&referralv1.DecisionToTreatMade{FactId: id("decision"), Facts: &referralv1.DecisionToTreatFacts{On: "2026-02-04", Organisation: "RJ1"}},
		&referralv1.TreatmentStarted{FactId: id("treated"), Facts: &referralv1.TreatmentFacts{On: "2026-02-24", EventType: "01", Modality: "01", Setting: referralv1.TreatmentSetting_TREATMENT_SETTING_ORDINARY_ADMISSION, Organisation: "RJ1"}},
		&referralv1.TreatmentPeriodEnded{FactId: id("ended"), Facts: &referralv1.TreatmentEndFacts{On: "2026-05-29", LastPeriod: true, Organisation: "RJ1"}})
	tell("plan",
		&planv1.SummaryBecameDue{SummaryId: eots, Period: &planv1.TreatmentPeriod{PeriodId: id("period"), Modality: "01", StartedOn: "2026-02-24", EndedOn: "2026-05-29", Last: true}, Target: "2026-06-26", Latest: "2026-07-10"},
		&planv1.SummaryDrafted{SummaryId: eots, Content: &planv1.SummaryContent{DiagnosedOn: "2026-01-26", Treatment: strings.Repeat("Wide local excision, then radiotherapy in fifteen fractions. ", 4), RedFlagSymptoms: strings.Repeat("A new lump; pain that does not go. ", 4), PlainLanguage: strings.Repeat("Your treatment is finished, and this is what comes next. ", 6)}},
		&planv1.SummaryReady{SummaryId: eots},
		&planv1.SummaryApproved{SummaryId: eots, Version: 1, ApproverRegistration: "NMC 12A3456E", ApprovedBy: "555254240101"},
		&planv1.SurveillanceStarted{ScheduleId: id("schedule"), Protocol: "breast-curative", ProtocolVersion: 3, ApprovedByOrganisation: "RJ1", Anchor: "2026-02-24", AnchorEvent: "surgery", RiskGroup: "low",
			Items: []*planv1.Item{{ItemId: id("m1"), Test: "mammogram", Due: "2027-02-24", GraceDays: 28}, {ItemId: id("m2"), Test: "mammogram", Due: "2028-02-24", GraceDays: 28}}})
	tell("carelead",
		&careleadv1.HandoverPrepared{HandoverId: handover, Kind: careleadv1.HandoverKind_HANDOVER_KIND_TO_LEAD, Checklist: []*careleadv1.ChecklistItem{{Code: "summary_approved", Met: true}, {Code: "plan_published", Met: true}}},
		&careleadv1.HandoverOffered{HandoverId: handover, Kind: careleadv1.HandoverKind_HANDOVER_KIND_TO_LEAD, From: oncology, To: nearHome, NeighbourhoodId: "peckham", SummaryVersion: 1, PlanVersion: 1, OfferedAt: at("2026-06-10 09:00:00"), SeenDue: at("2026-06-11 17:00:00"), AnswerDue: at("2026-06-12 17:00:00")},
		&careleadv1.HandoverOfferSeen{HandoverId: handover},
		&careleadv1.HandoverAccepted{HandoverId: handover, SummaryVersion: 1, PlanVersion: 1, AcceptedBy: "555254240100", FirstContactDue: at("2026-06-25 17:00:00")},
		&careleadv1.AccountabilityTransferred{From: oncology, To: nearHome, Cause: careleadv1.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED, HandoverId: handover},
		&careleadv1.PatientNoticeDue{Holder: nearHome})
	tell("plan",
		&planv1.SummaryIssued{SummaryId: eots, Version: 1, On: "2026-06-11", Recipients: []planv1.RecipientKind{planv1.RecipientKind_RECIPIENT_KIND_PATIENT, planv1.RecipientKind_RECIPIENT_KIND_GP}},
		&planv1.SummaryDelivered{SummaryId: eots, Version: 1, Recipient: planv1.RecipientKind_RECIPIENT_KIND_PATIENT})
	tell("carelead", &careleadv1.FirstContactMade{On: "2026-06-18", Medium: "TELEPHONE"})
	for n := 1; len(all) < events; n++ {
		visit(n)
	}
	return all[:events]
}

// writeStory records the story and its person as the services do, each event by a
// command of its own, and returns the streams.
func writeStory(ctx context.Context, log es.Log, events int) (streams []string, err error) {
	writers := map[string]*es.Streams[struct{}]{}
	n := 0
	write := func(category, id string, e proto.Message) error {
		if writers[category] == nil {
			writers[category] = es.NewStreams(log, es.Decider[struct{}]{Category: category, Evolve: func(s struct{}, _ proto.Message) struct{} { return s }}, es.Options{Key: storyKey})
			streams = append(streams, category+"-"+id)
		}
		n++
		command := &metav1.Command{CommandId: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)).String(), CorrelationId: "bench",
			Actor: &metav1.Actor{User: "555254240101", RoleCode: "R0600", Organisation: "RJ1"}}
		_, err := writers[category].Do(ctx, id, &careleadv1.RunTimersRequest{Command: command, PathwayId: storyID}, func(struct{}) ([]proto.Message, error) { return []proto.Message{e}, nil })
		return err
	}
	source := &personv1.Source{Kind: personv1.SourceKind_SOURCE_KIND_PDS, System: "PDS"}
	for _, e := range []proto.Message{
		&personv1.PersonRegistered{PersonId: patient, Status: "01", Source: source},
		&personv1.NhsNumberRecorded{RecordId: uuid.NewSHA1(uuid.Nil, []byte("record")).String(), NhsNumber: "9990000018", Status: "01", Source: source},
		&personv1.PracticeChanged{Practice: "G85000", Source: source},
	} {
		if err := write("person", patient, e); err != nil {
			return nil, err
		}
	}
	for _, t := range story(events) {
		if err := write(t.category, storyID, t.event); err != nil {
			return nil, err
		}
	}
	return streams, nil
}
