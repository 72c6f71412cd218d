package referral

import (
	"encoding/csv"
	"os"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/estest"
	"waymark/services/kit/nhs"
	"waymark/services/kit/runtest"
)

const (
	personID  = "6c1ff9d7-0f52-4be4-9f2a-3a6ad6a8a0c1"
	received0 = "2026-03-02"
)

// cmd is the nth command of a test.
func cmd(n byte) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, []byte{n}) }

// someday is the today of tests: after every date in them.
var someday = date("2026-12-31")

func date(text string) nhs.Date {
	d, err := nhs.ParseDate(text)
	if err != nil {
		panic(err)
	}
	return d
}

func startFacts(edit ...func(*pb.StartFacts)) *pb.StartFacts {
	f := &pb.StartFacts{ReceivedOn: received0, Priority: "3", ReferralType: "03", Source: "03",
		ResponsibleTeam: &pb.Team{Organisation: "RJ1", Code: "LUNG", Name: "Lung cancer team"}}
	for _, e := range edit {
		e(f)
	}
	return f
}

func routine(f *pb.StartFacts)       { f.Priority, f.ReferralType = "1", "" }
func fromScreening(f *pb.StartFacts) { f.Priority, f.Source, f.ReferralType = "2", "17", "" }

func started(edit ...func(*pb.StartFacts)) *pb.PathwayStarted {
	f := startFacts(edit...)
	return &pb.PathwayStarted{FactId: factID(cmd(0), 0), Facts: f, PersonId: personID, Route: routeOf(f, false), Ruleset: "cwt-12.1"}
}

func record(n byte, f proto.Message) func(Pathway) ([]proto.Message, error) {
	return Record{CommandID: cmd(n), Today: someday, Facts: f}.Decide
}

func told(on string) *pb.Told {
	return &pb.Told{On: on, Method: pb.OutcomeMethod_OUTCOME_METHOD_FACE_TO_FACE, Organisation: "RJ1"}
}

func diagnosis(on string) *pb.DiagnosisFacts {
	return &pb.DiagnosisFacts{Told: told(on), TumourGroup: "03", Icd10: "C34.1"}
}

func ruledOut(on string) *pb.RuledOutFacts {
	return &pb.RuledOutFacts{Told: told(on), EndReason: "02"}
}

func seen(on string) *pb.FirstSeenFacts { return &pb.FirstSeenFacts{On: on, Organisation: "RJ1"} }

func decided(on string) *pb.DecisionToTreatFacts {
	return &pb.DecisionToTreatFacts{On: on, Organisation: "RJ1"}
}

func treat(on, eventType string) *pb.TreatmentFacts {
	return &pb.TreatmentFacts{On: on, EventType: eventType, Modality: "01", Organisation: "RJ1",
		Setting: pb.TreatmentSetting_TREATMENT_SETTING_ORDINARY_ADMISSION}
}

func ended(on string) *pb.TreatmentEndFacts {
	return &pb.TreatmentEndFacts{On: on, LastPeriod: true, Organisation: "RJ1"}
}

func offered(on, forDay string) *pb.TreatmentOfferFacts {
	return &pb.TreatmentOfferFacts{On: on, OfferedFor: forDay, Organisation: "RJ1", Setting: pb.TreatmentSetting_TREATMENT_SETTING_DAY_CASE}
}

func closing(on string, reason pb.CloseReason) *pb.CloseFacts {
	return &pb.CloseFacts{On: on, Reason: reason}
}

// history runs commands one after the other; each must be taken.
func history(t testing.TB, start *pb.PathwayStarted, facts ...proto.Message) estest.Scenario[Pathway] {
	t.Helper()
	s := estest.Given(pathwayDecider(), start)
	for i, f := range facts {
		decide := record(byte(100+i), f)
		if _, err := decide(s.State(t)); err != nil {
			t.Fatalf("given %s: %v", runtest.Name(f), err)
		}
		s = s.When(decide)
	}
	s.State(t)
	return s
}

func TestStartPathway(t *testing.T) {
	t.Parallel()
	start := StartPathway{CommandID: cmd(0), Today: someday, PersonID: personID, Facts: startFacts()}
	estest.Given(pathwayDecider()).When(start.Decide).Then(t, started())
	estest.Given(pathwayDecider(), started()).When(start.Decide).ThenRefused(t, "pathway.exists")
	start.Today = date("2026-03-01")
	estest.Given(pathwayDecider()).When(start.Decide).ThenRefused(t, "cwt.date.in_future")
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		edit   func(*pb.StartFacts)
		want   pb.Route
		clocks int
	}{
		{"urgent suspected cancer", func(*pb.StartFacts) {}, pb.Route_ROUTE_USC, 2},
		{"non-specific symptoms", func(f *pb.StartFacts) { f.ReferralType = "17" }, pb.Route_ROUTE_USC, 2},
		{"breast symptomatic", func(f *pb.StartFacts) { f.ReferralType = "16" }, pb.Route_ROUTE_BREAST_SYMPTOMATIC, 2},
		{"screening", fromScreening, pb.Route_ROUTE_SCREENING, 2},
		{"routine", routine, pb.Route_ROUTE_OTHER, 0},
	} {
		p := estest.Given(pathwayDecider(), started(c.edit)).State(t)
		if p.Route != c.want || len(p.clocks()) != c.clocks {
			t.Errorf("%s: route %v, %d clocks", c.name, p.Route, len(p.clocks()))
		}
	}
	p := history(t, started(routine), &pb.UpgradeFacts{On: "2026-03-10", Organisation: "RJ1"}).State(t)
	if c := p.clocks(); p.Route != pb.Route_ROUTE_UPGRADE || len(c) != 1 || c[0].StartOn != "2026-03-10" {
		t.Errorf("upgrade: route %v, clocks %v", p.Route, c)
	}
}

// TestRecords has one case for each fact that can be recorded: what is decided
// and the state that follows.
func TestRecords(t *testing.T) {
	t.Parallel()
	id := factID(cmd(1), 0)
	made := factID(cmd(101), 0) // the second fact given below
	decision := decided("2026-03-20")
	onward := &pb.RerouteFacts{On: "2026-03-12", OriginalContinues: true,
		Onward: []*pb.Onward{{PathwayId: "0b2d1d4e-59a7-4e0c-a3a3-0a6c1c7ff0a1", ReferralType: "05", ResponsibleTeam: &pb.Team{Organisation: "RJ1", Name: "Upper GI"}}}}
	for _, c := range []struct {
		start *pb.PathwayStarted
		given []proto.Message
		facts proto.Message
		want  proto.Message
		state pb.PathwayState
	}{
		{started(routine), nil, &pb.UpgradeFacts{On: "2026-03-10", Organisation: "RJ1"}, &pb.UpgradedByConsultant{}, pb.PathwayState_PATHWAY_STATE_REFERRED},
		{started(), nil, seen("2026-03-10"), &pb.FirstSeen{}, pb.PathwayState_PATHWAY_STATE_SEEN},
		{started(), nil, &pb.FirstAppointmentMissedFacts{On: "2026-03-09", Attendance: "3", RebookedOn: "2026-03-11"}, &pb.FirstAppointmentMissed{}, pb.PathwayState_PATHWAY_STATE_REFERRED},
		{started(), []proto.Message{seen("2026-03-16")}, &pb.FirstSeenAdjustmentFacts{Days: 9, Reason: "3"}, &pb.FirstSeenAdjustmentSet{}, pb.PathwayState_PATHWAY_STATE_SEEN},
		{started(), nil, diagnosis("2026-03-25"), &pb.DiagnosisCommunicated{}, pb.PathwayState_PATHWAY_STATE_DIAGNOSED},
		{started(), nil, ruledOut("2026-03-25"), &pb.CancerRuledOutCommunicated{}, pb.PathwayState_PATHWAY_STATE_RULED_OUT},
		{started(), nil, &pb.ExclusionFacts{On: "2026-03-25", Reason: "01"}, &pb.FasterDiagnosisExcluded{}, pb.PathwayState_PATHWAY_STATE_REFERRED},
		{started(), nil, decision, &pb.DecisionToTreatMade{}, pb.PathwayState_PATHWAY_STATE_DECIDED},
		{started(), nil, &pb.EcadFacts{On: "2027-01-11", Organisation: "RJ1"}, &pb.EcadSet{}, pb.PathwayState_PATHWAY_STATE_DECIDED},
		{started(), []proto.Message{decision}, offered("2026-03-21", "2027-02-01"), &pb.TreatmentOffered{}, pb.PathwayState_PATHWAY_STATE_DECIDED},
		{started(), []proto.Message{decision, offered("2026-03-21", "2026-04-01")},
			&pb.OfferDeclinedFacts{OfferFactId: made, On: "2026-03-22", AvailableFrom: "2027-03-01"}, &pb.ReasonableOfferDeclined{}, pb.PathwayState_PATHWAY_STATE_DECIDED},
		{started(), []proto.Message{decision}, &pb.TreatmentAdjustmentFacts{Days: 7, Reason: "8", Setting: pb.TreatmentSetting_TREATMENT_SETTING_DAY_CASE}, &pb.TreatmentAdjustmentSet{}, pb.PathwayState_PATHWAY_STATE_DECIDED},
		{started(), nil, &pb.TransferFacts{On: "2026-03-21", InvestigatingProvider: "RJ1", TreatingProvider: "RJ2"}, &pb.TransferredToTreatingProvider{}, pb.PathwayState_PATHWAY_STATE_REFERRED},
		{started(), []proto.Message{decision}, treat("2026-04-10", "01"), &pb.TreatmentStarted{}, pb.PathwayState_PATHWAY_STATE_IN_TREATMENT},
		{started(), []proto.Message{decision, treat("2026-04-10", "01")}, ended("2026-05-10"), &pb.TreatmentPeriodEnded{}, pb.PathwayState_PATHWAY_STATE_TREATMENT_ENDED},
		{started(), []proto.Message{decision, treat("2026-04-10", "01"), ended("2026-05-10")},
			&pb.FollowUpFacts{On: "2026-05-20", Arrangement: pb.FollowUpArrangement_FOLLOW_UP_ARRANGEMENT_PATIENT_INITIATED}, &pb.FollowUpStarted{}, pb.PathwayState_PATHWAY_STATE_FOLLOW_UP},
		{started(), nil, onward, &pb.PathwayRerouted{PersonId: personID, Start: startFacts()}, pb.PathwayState_PATHWAY_STATE_REFERRED},
		{started(), nil, closing("2026-03-30", pb.CloseReason_CLOSE_REASON_DIED), &pb.PathwayClosed{}, pb.PathwayState_PATHWAY_STATE_CLOSED},
	} {
		t.Run(runtest.Name(c.want), func(t *testing.T) {
			m := c.want.ProtoReflect()
			fields := m.Descriptor().Fields()
			m.Set(fields.ByName("fact_id"), stringValue(id))
			m.Set(fields.ByName("facts"), messageValue(c.facts))
			s := history(t, c.start, c.given...).When(record(1, c.facts))
			s.Then(t, c.want)
			if got := s.State(t).State(); got != c.state {
				t.Errorf("state %v, want %v", got, c.state)
			}
			estest.Given(pathwayDecider()).When(record(1, c.facts)).ThenRefused(t, "pathway.not_found")
			history(t, c.start, append(c.given, closing("2026-12-30", pb.CloseReason_CLOSE_REASON_DIED))...).
				When(record(1, c.facts)).ThenRefused(t, "pathway.closed")
		})
	}
}

// TestRefusals names each refusal of a record in the words of the rule.
func TestRefusals(t *testing.T) {
	t.Parallel()
	treated := []proto.Message{decided("2026-03-20"), treat("2026-04-10", "01")}
	letter := func(on, sentOn string) *pb.DiagnosisFacts {
		d := diagnosis(on)
		d.Told.Method, d.Told.LetterSentOn = pb.OutcomeMethod_OUTCOME_METHOD_LETTER, sentOn
		return d
	}
	gp := diagnosis("2026-03-20")
	gp.Told.Method = pb.OutcomeMethod_OUTCOME_METHOD_ASKED_TO_SEE_GP
	upgrade := &pb.UpgradeFacts{On: "2026-03-10", Organisation: "RJ1"}
	ecad := func(on string) *pb.EcadFacts { return &pb.EcadFacts{On: on, Organisation: "RJ1"} }
	adjust := func(days uint32, reason string) *pb.FirstSeenAdjustmentFacts {
		return &pb.FirstSeenAdjustmentFacts{Days: days, Reason: reason}
	}
	adjustTreatment := func(days uint32, reason string, setting pb.TreatmentSetting) *pb.TreatmentAdjustmentFacts {
		return &pb.TreatmentAdjustmentFacts{Days: days, Reason: reason, Setting: setting}
	}
	admitted, outpatient := pb.TreatmentSetting_TREATMENT_SETTING_ORDINARY_ADMISSION, pb.TreatmentSetting_TREATMENT_SETTING_OUTPATIENT
	transfer := func(on string) *pb.TransferFacts { return &pb.TransferFacts{On: on, TreatingProvider: "RJ2"} }
	followUp := &pb.FollowUpFacts{On: "2026-05-20", Arrangement: pb.FollowUpArrangement_FOLLOW_UP_ARRANGEMENT_CLINIC}
	reroute := func(on string) *pb.RerouteFacts {
		return &pb.RerouteFacts{On: on, Onward: []*pb.Onward{{ReferralType: "05", ResponsibleTeam: &pb.Team{Organisation: "RJ1", Name: "Upper GI"}}}}
	}
	for _, c := range []struct {
		name  string
		start *pb.PathwayStarted
		given []proto.Message
		facts proto.Message
		code  string
	}{
		{"ERR-01 treatment before the decision", started(), []proto.Message{decided("2026-04-03")}, treat("2026-04-01", "01"), "cwt.order.treatment_before_decision"},
		{"treatment without any decision", started(), nil, treat("2026-04-01", "01"), "cwt.order.treatment_before_decision"},
		{"ERR-02 12 days off a wait of 9", started(), []proto.Message{seen("2026-03-11")}, adjust(12, "3"), "cwt.adjustment.too_long"},
		{"first seen too early for the days taken off", started(), []proto.Message{adjust(12, "3")}, seen("2026-03-11"), "cwt.adjustment.too_long"},
		{"more days off than the Faster Diagnosis clock has", started(), []proto.Message{adjust(12, "3")}, ruledOut("2026-03-11"), "cwt.adjustment.too_long"},
		{"more days off than the wait for treatment has", started(), []proto.Message{decided("2026-03-20"), adjustTreatment(30, "8", admitted)}, treat("2026-04-10", "01"), "cwt.adjustment.too_long"},
		{"adjustments together longer than the 62-day clock", started(),
			[]proto.Message{decided("2026-03-02"), adjust(20, "3"), adjustTreatment(30, "8", admitted)}, treat("2026-04-10", "01"), "cwt.adjustment.too_long"},
		{"days off without a reason", started(), nil, adjust(1, "9"), "cwt.adjustment.reason_mismatch"},
		{"treatment days off without a reason", started(), []proto.Message{decided("2026-03-20")}, adjustTreatment(1, "9", admitted), "cwt.adjustment.reason_mismatch"},
		{"treatment days off for an outpatient", started(), []proto.Message{decided("2026-03-20")}, adjustTreatment(1, "8", outpatient), "cwt.adjustment.reason_mismatch"},
		{"ERR-03 upgrade on a screening route", started(fromScreening), nil, upgrade, "cwt.route.conflict"},
		{"upgrade where the 62-day clock runs", started(), nil, upgrade, "cwt.route.conflict"},
		{"second upgrade", started(routine), []proto.Message{upgrade}, upgrade, "cwt.route.conflict"},
		{"upgrade after the diagnosis", started(routine), []proto.Message{diagnosis("2026-03-09")}, upgrade, "cwt.upgrade.too_late"},
		{"upgrade before receipt", started(routine), nil, &pb.UpgradeFacts{On: "2026-03-01"}, "cwt.order.end_before_start"},
		{"ERR-04 first seen tomorrow", started(), nil, seen("2027-01-01"), "cwt.date.in_future"},
		{"told tomorrow", started(), nil, diagnosis("2027-01-01"), "cwt.date.in_future"},
		{"ERR-05 second outcome", started(), []proto.Message{diagnosis("2026-03-20")}, ruledOut("2026-03-21"), "cwt.clock.already_stopped"},
		{"diagnosis after ruling out", started(), []proto.Message{ruledOut("2026-03-20")}, diagnosis("2026-03-21"), "cwt.clock.already_stopped"},
		{"exclusion after an outcome", started(), []proto.Message{ruledOut("2026-03-20")}, &pb.ExclusionFacts{On: "2026-03-21", Reason: "01"}, "cwt.clock.already_stopped"},
		{"first seen twice", started(), []proto.Message{seen("2026-03-11")}, seen("2026-03-12"), "cwt.clock.already_stopped"},
		{"transferred twice", started(), []proto.Message{transfer("2026-03-11")}, transfer("2026-03-12"), "cwt.clock.already_stopped"},
		{"treatment started twice", started(), treated, treat("2026-04-11", "02"), "cwt.clock.already_stopped"},
		{"two first treatments", started(), append(treated, decided("2026-04-20")), treat("2026-04-21", "01"), "cwt.clock.already_stopped"},
		{"two decisions at once", started(), []proto.Message{decided("2026-03-20")}, decided("2026-03-21"), "cwt.clock.already_running"},
		{"two appropriate dates at once", started(), []proto.Message{ecad("2026-03-20")}, ecad("2026-03-21"), "cwt.clock.already_running"},
		{"ERR-06 letter not sent", started(), nil, letter("2026-03-20", ""), "cwt.fds.not_communicated"},
		{"letter sent after the telling", started(), nil, letter("2026-03-20", "2026-03-21"), "cwt.fds.not_communicated"},
		{"letter to be sent next year", started(), nil, letter("2026-03-20", "2027-03-21"), "cwt.fds.not_communicated"},
		{"told only to see the GP", started(), nil, gp, "cwt.fds.not_communicated"},
		{"seen before receipt", started(), nil, seen("2026-03-01"), "cwt.order.end_before_start"},
		{"missed before receipt", started(), nil, &pb.FirstAppointmentMissedFacts{On: "2026-03-01", Attendance: "3"}, "cwt.order.end_before_start"},
		{"rebooked before receipt", started(), nil, &pb.FirstAppointmentMissedFacts{On: "2026-03-09", Attendance: "3", RebookedOn: "2026-03-01"}, "cwt.order.end_before_start"},
		{"first appointment missed after first seen", started(), []proto.Message{seen("2026-03-11")}, &pb.FirstAppointmentMissedFacts{On: "2026-03-12", Attendance: "3"}, "cwt.order.end_before_start"},
		{"told before receipt", started(), nil, diagnosis("2026-03-01"), "cwt.order.end_before_start"},
		{"decision before receipt", started(), nil, decided("2026-03-01"), "cwt.order.end_before_start"},
		{"decision before the upgrade", started(routine), []proto.Message{upgrade}, decided("2026-03-09"), "cwt.order.end_before_start"},
		{"appropriate date before receipt", started(), nil, ecad("2026-03-01"), "cwt.order.end_before_start"},
		{"appropriate date before the decision", started(), []proto.Message{decided("2026-03-20")}, ecad("2026-03-19"), "cwt.order.end_before_start"},
		{"treatment before the appropriate date", started(), []proto.Message{ecad("2026-04-11")}, treat("2026-04-10", "02"), "cwt.order.end_before_start"},
		{"first treatment with an appropriate date", started(), []proto.Message{decided("2026-03-20"), ecad("2026-04-01")}, treat("2026-04-10", "01"), "cwt.ecad.first_treatment"},
		{"transfer before receipt", started(), nil, transfer("2026-03-01"), "cwt.order.end_before_start"},
		{"transfer after treatment", started(), treated, transfer("2026-04-11"), "cwt.order.end_before_start"},
		{"offer before receipt", started(), []proto.Message{decided("2026-03-20")}, offered("2026-03-01", "2026-04-01"), "cwt.order.end_before_start"},
		{"offer of a day gone by", started(), []proto.Message{decided("2026-03-20")}, offered("2026-03-21", "2026-03-20"), "cwt.order.end_before_start"},
		{"declined before offered", started(), []proto.Message{decided("2026-03-20"), offered("2026-03-22", "2026-04-01")},
			&pb.OfferDeclinedFacts{OfferFactId: factID(cmd(101), 0), On: "2026-03-21"}, "cwt.order.end_before_start"},
		{"declined an offer never made", started(), []proto.Message{decided("2026-03-20")},
			&pb.OfferDeclinedFacts{OfferFactId: factID(cmd(9), 0), On: "2026-03-21"}, "cwt.offer.not_open"},
		{"period ended before it started", started(), treated, ended("2026-04-09"), "cwt.order.end_before_start"},
		{"period ended that never started", started(), []proto.Message{decided("2026-03-20")}, ended("2026-04-09"), "cwt.treatment.not_started"},
		{"follow-up during treatment", started(), treated, followUp, "cwt.treatment.not_ended"},
		{"follow-up before treatment ended", started(), append(treated, ended("2026-06-01")), followUp, "cwt.order.end_before_start"},
		{"offer without a decision", started(), nil, offered("2026-03-21", "2026-04-01"), "cwt.treatment.not_decided"},
		{"treatment adjustment without a decision", started(), nil, adjustTreatment(1, "8", admitted), "cwt.treatment.not_decided"},
		{"decision after ruling out", started(), []proto.Message{ruledOut("2026-03-20")}, decided("2026-03-21"), "pathway.ruled_out"},
		{"appropriate date after ruling out", started(), []proto.Message{ruledOut("2026-03-20")}, ecad("2026-03-21"), "pathway.ruled_out"},
		{"ruling out after a decision", started(), []proto.Message{decided("2026-03-20")}, ruledOut("2026-03-21"), "cwt.treatment.decided"},
		{"closed before what happened", started(), []proto.Message{seen("2026-03-11")}, closing("2026-03-10", pb.CloseReason_CLOSE_REASON_DIED), "cwt.order.end_before_start"},
		{"closed while a clock runs", started(), nil, closing("2026-03-10", pb.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE), "pathway.clock_running"},
		{"closed as ruled out before anybody said so", started(), nil, closing("2026-03-10", pb.CloseReason_CLOSE_REASON_CANCER_RULED_OUT), "pathway.clock_running"},
		{"closed as rerouted by hand", started(), nil, closing("2026-03-10", pb.CloseReason_CLOSE_REASON_REROUTED), "pathway.close_reason"},
		{"rerouted before what happened", started(), []proto.Message{seen("2026-03-11")}, reroute("2026-03-10"), "cwt.order.end_before_start"},
	} {
		t.Run(c.name, func(t *testing.T) {
			history(t, c.start, c.given...).When(record(1, c.facts)).ThenRefused(t, c.code)
		})
	}
}

// TestRefusalVectors holds each row of the vectors that is ours to its code; the
// commands are the rows in our words.
func TestRefusalVectors(t *testing.T) {
	t.Parallel()
	file, err := os.Open("testdata/refusals.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r := csv.NewReader(file)
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	unsent := diagnosis("2026-04-10")
	unsent.Told.Method = pb.OutcomeMethod_OUTCOME_METHOD_LETTER
	type scenario struct {
		start *pb.PathwayStarted
		given []proto.Message
		facts proto.Message
	}
	commands := map[string]scenario{
		"ERR-01": {started(), []proto.Message{decided("2026-04-03")}, treat("2026-04-01", "01")},
		"ERR-02": {started(), []proto.Message{seen("2026-03-11")}, &pb.FirstSeenAdjustmentFacts{Days: 12, Reason: "3"}},
		"ERR-03": {started(fromScreening), nil, &pb.UpgradeFacts{On: "2026-03-10"}},
		"ERR-04": {started(), nil, seen("2027-01-01")},
		"ERR-05": {started(), []proto.Message{diagnosis("2026-03-20")}, ruledOut("2026-03-25")},
		"ERR-06": {started(), nil, unsent},
	}
	for _, row := range rows[1:] {
		s, ok := commands[row[0]]
		if !ok {
			t.Errorf("%s has no command here", row[0])
			continue
		}
		delete(commands, row[0])
		history(t, s.start, s.given...).When(record(1, s.facts)).ThenRefused(t, row[3])
	}
	if len(commands) > 0 {
		t.Errorf("the vectors lack %v", commands)
	}
	t.Logf("%d vectors refused as they should be", len(rows)-1)
}

// TestRefusalsByFieldAreInvalid: what the command alone gets wrong is
// INVALID_ARGUMENT and names the field; what the state forbids is not.
func TestRefusalsByFieldAreInvalid(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		facts proto.Message
		code  codes.Code
	}{
		{seen("2027-01-01"), codes.InvalidArgument},
		{&pb.FirstSeenAdjustmentFacts{Days: 1, Reason: "9"}, codes.InvalidArgument},
		{seen("2026-03-01"), codes.FailedPrecondition},
	} {
		_, err := record(1, c.facts)(estest.Given(pathwayDecider(), started()).State(t))
		if got := status.Code(err); got != c.code {
			t.Errorf("%v: %v", c.facts, got)
		}
	}
}

func TestFasterDiagnosisEndsAtTheEarlierOfToldAndDecision(t *testing.T) {
	t.Parallel()
	p := history(t, started(), decided("2026-03-21"), diagnosis("2026-04-04")).State(t)
	if c := p.clocks()[0]; c.Kind != pb.ClockKind_CLOCK_KIND_FDS28 || c.EndOn != "2026-03-21" {
		t.Errorf("FDS clock %v", c)
	}
}

func TestMissedAppointmentsNeverClose(t *testing.T) {
	t.Parallel()
	miss := func(on string) proto.Message { return &pb.FirstAppointmentMissedFacts{On: on, Attendance: "3"} }
	p := history(t, started(), miss("2026-03-09"), miss("2026-03-16"), miss("2026-03-23")).State(t)
	if p.State() != pb.PathwayState_PATHWAY_STATE_REFERRED || len(p.missed) != 3 {
		t.Errorf("after three missed appointments: %v", p.State())
	}
	for _, c := range p.clocks() {
		if c.Status != pb.ClockStatus_CLOCK_STATUS_RUNNING {
			t.Errorf("%v stopped", c.Kind)
		}
	}
}

// TestSecondTreatment: recurrence after follow-up runs a 31-day clock of its own
// and leaves the 62-day clock alone.
func TestSecondTreatment(t *testing.T) {
	t.Parallel()
	p := history(t, started(), decided("2026-03-20"), treat("2026-04-10", "01"), ended("2026-05-10"),
		&pb.FollowUpFacts{On: "2026-05-20", Arrangement: 1}, decided("2026-08-01"),
		&pb.EcadFacts{On: "2026-08-11"}, treat("2026-08-20", "03"), ended("2026-09-20")).State(t)
	want := []*pb.Clock{
		{Kind: pb.ClockKind_CLOCK_KIND_FDS28, Status: pb.ClockStatus_CLOCK_STATUS_STOPPED, StartOn: received0, EndOn: "2026-03-20"},
		{Kind: pb.ClockKind_CLOCK_KIND_D62, Status: pb.ClockStatus_CLOCK_STATUS_STOPPED, StartOn: received0, EndOn: "2026-04-10"},
		{Kind: pb.ClockKind_CLOCK_KIND_D31, Status: pb.ClockStatus_CLOCK_STATUS_STOPPED, StartOn: "2026-03-20", EndOn: "2026-04-10"},
		{Kind: pb.ClockKind_CLOCK_KIND_D31, Status: pb.ClockStatus_CLOCK_STATUS_STOPPED, StartOn: "2026-08-11", EndOn: "2026-08-20"},
	}
	if got := (&pb.Pathway{Clocks: p.clocks()}); !proto.Equal(got, &pb.Pathway{Clocks: want}) {
		t.Errorf("clocks %v", got)
	}
	if p.State() != pb.PathwayState_PATHWAY_STATE_TREATMENT_ENDED {
		t.Error(p.State())
	}
}

func TestReroutingKeepsTheStartAndLinks(t *testing.T) {
	t.Parallel()
	nss := started(func(f *pb.StartFacts) { f.ReferralType = "17" })
	facts := &pb.RerouteFacts{On: "2026-03-12", Onward: []*pb.Onward{
		{ReferralType: "05", ResponsibleTeam: &pb.Team{Organisation: "RJ1", Name: "Upper GI"}},
		{ReferralType: "04", ResponsibleTeam: &pb.Team{Organisation: "RJ1", Name: "Haematology"}},
	}}
	s := history(t, nss, seen("2026-03-10")).When(record(1, facts))
	p := s.State(t)
	if p.State() != pb.PathwayState_PATHWAY_STATE_CLOSED || p.closed.Reason != pb.CloseReason_CLOSE_REASON_REROUTED || len(p.onward) != 2 {
		t.Fatalf("%v, %v", p.State(), p.onward)
	}
	for i, o := range p.onward {
		if _, err := uuid.Parse(o.PathwayId); err != nil || o.PathwayId == p.onward[1-i].PathwayId {
			t.Errorf("onward pathway id %q", o.PathwayId)
		}
	}
	if facts.Onward[0].PathwayId != "" {
		t.Error("the decision changed its command")
	}
	for _, c := range p.clocks() {
		if c.Status != pb.ClockStatus_CLOCK_STATUS_DISCONTINUED {
			t.Errorf("%v goes on in the pathway left", c.Kind)
		}
	}
	s.When(CorrectClock{CommandID: cmd(2), Today: someday, WrongFactID: factID(cmd(1), 0), Reason: "x"}.Decide).ThenRefused(t, "cwt.correction.rerouted")
}

func TestCorrectClock(t *testing.T) {
	t.Parallel()
	correct := func(wrong string, right *pb.Replacement) func(Pathway) ([]proto.Message, error) {
		return CorrectClock{CommandID: cmd(2), Today: someday, WrongFactID: wrong, Reason: "typed wrong", Replacement: right}.Decide
	}
	fact := func(i byte) string { return factID(cmd(100+i), 0) }
	id := factID(cmd(2), 0)

	t.Run("a struck outcome can be recorded anew", func(t *testing.T) {
		s := history(t, started(), diagnosis("2026-03-20")).When(correct(fact(0), nil))
		s.Then(t, &pb.ClockCorrected{FactId: id, WrongFactId: fact(0), WrongEvent: "DiagnosisCommunicated", Reason: "typed wrong"})
		if st := s.State(t).State(); st != pb.PathwayState_PATHWAY_STATE_REFERRED {
			t.Errorf("state %v", st)
		}
		s = s.When(record(3, ruledOut("2026-03-21")))
		if st := s.State(t).State(); st != pb.PathwayState_PATHWAY_STATE_RULED_OUT {
			t.Errorf("state %v", st)
		}
	})
	t.Run("a replacement stands in the place of the wrong fact", func(t *testing.T) {
		right := &pb.Replacement{Facts: &pb.Replacement_DecisionToTreat{DecisionToTreat: decided("2026-03-22")}}
		s := history(t, started(), decided("2026-03-20"), treat("2026-04-10", "01"), ended("2026-05-01"), decided("2026-05-02")).When(correct(fact(0), right))
		s.Then(t, &pb.ClockCorrected{FactId: id, WrongFactId: fact(0), WrongEvent: "DecisionToTreatMade", Reason: "typed wrong", Replacement: right})
		p := s.State(t)
		if len(p.treatments) != 2 || p.treatments[0].decision.On != "2026-03-22" || p.treatments[1].decision.On != "2026-05-02" {
			t.Errorf("treatments %+v", p.treatments)
		}
		if p.facts[1].id != id {
			t.Error("the replacement cannot be named")
		}
	})
	t.Run("a corrected start changes the route", func(t *testing.T) {
		right := &pb.Replacement{Facts: &pb.Replacement_Start{Start: startFacts(fromScreening)}}
		p := history(t, started(), seen("2026-03-10")).When(correct(factID(cmd(0), 0), right)).State(t)
		if p.Route != pb.Route_ROUTE_SCREENING || p.PersonID != personID {
			t.Errorf("route %v", p.Route)
		}
	})
	t.Run("a struck upgrade gives the route back", func(t *testing.T) {
		p := history(t, started(routine), &pb.UpgradeFacts{On: "2026-03-10"}).When(correct(fact(0), nil)).State(t)
		if p.Route != pb.Route_ROUTE_OTHER || p.upgrade != nil {
			t.Errorf("route %v", p.Route)
		}
	})
	t.Run("a closing can be taken back", func(t *testing.T) {
		p := history(t, started(), closing("2026-03-30", pb.CloseReason_CLOSE_REASON_DIED)).When(correct(fact(0), nil)).State(t)
		if p.State() != pb.PathwayState_PATHWAY_STATE_REFERRED {
			t.Errorf("state %v", p.State())
		}
	})
	for _, c := range []struct {
		name  string
		start *pb.PathwayStarted
		given []proto.Message
		wrong string
		right *pb.Replacement
		code  string
	}{
		{"unknown fact", started(), nil, fact(7), nil, "cwt.correction.unknown_fact"},
		{"the start struck", started(), nil, factID(cmd(0), 0), nil, "cwt.correction.start"},
		{"another kind", started(), []proto.Message{seen("2026-03-10")}, fact(0), &pb.Replacement{Facts: &pb.Replacement_Ecad{Ecad: &pb.EcadFacts{On: "2026-03-10"}}}, "cwt.correction.other_kind"},
		{"what is left has no decision", started(), []proto.Message{decided("2026-03-20"), treat("2026-04-10", "01")}, fact(0), nil, "cwt.order.treatment_before_decision"},
		{"what is left is out of order", started(), []proto.Message{decided("2026-03-20"), treat("2026-04-10", "01")}, fact(0),
			&pb.Replacement{Facts: &pb.Replacement_DecisionToTreat{DecisionToTreat: decided("2026-04-11")}}, "cwt.order.treatment_before_decision"},
		{"a later receipt", started(), []proto.Message{seen("2026-03-10")}, factID(cmd(0), 0),
			&pb.Replacement{Facts: &pb.Replacement_Start{Start: startFacts(func(f *pb.StartFacts) { f.ReceivedOn = "2026-03-11" })}}, "cwt.order.end_before_start"},
		{"screening after an upgrade", started(routine), []proto.Message{&pb.UpgradeFacts{On: "2026-03-10"}}, factID(cmd(0), 0),
			&pb.Replacement{Facts: &pb.Replacement_Start{Start: startFacts(fromScreening)}}, "cwt.route.conflict"},
		{"a date in the future", started(), []proto.Message{seen("2026-03-10")}, fact(0),
			&pb.Replacement{Facts: &pb.Replacement_FirstSeen{FirstSeen: seen("2027-01-01")}}, "cwt.date.in_future"},
	} {
		t.Run(c.name, func(t *testing.T) {
			history(t, c.start, c.given...).When(correct(c.wrong, c.right)).ThenRefused(t, c.code)
		})
	}
}

func TestPathwayEvents(t *testing.T) {
	estest.EvolvesAll(t, pb.File_waymark_referral_v1_events_proto, pathwayDecider())
	estest.StoredExamples(t, "testdata/events", pb.File_waymark_referral_v1_events_proto, pathwayDecider())
}

func stringValue(s string) protoreflect.Value { return protoreflect.ValueOfString(s) }
func messageValue(m proto.Message) protoreflect.Value {
	return protoreflect.ValueOfMessage(m.ProtoReflect())
}
