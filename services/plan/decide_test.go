package plan

import (
	"encoding/csv"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/waitingtimes"
)

func vectors(t *testing.T, file string) [][]string {
	t.Helper()
	f, err := os.Open("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil || len(rows) < 2 {
		t.Fatalf("%s: %d rows, %v", file, len(rows), err)
	}
	return rows[1:]
}

// TestSurveillanceVectors: months count from the anchor and clamp.
func TestSurveillanceVectors(t *testing.T) {
	t.Parallel()
	rows := vectors(t, "surveillance.csv")
	for _, r := range rows {
		p, ok := approvedProtocol(r[1], "RJ1", "", date("2026-09-01"))
		if !ok {
			t.Fatalf("%s: %s is not approved", r[0], r[1])
		}
		var due []string
		for _, it := range p.items(date(r[2]), func(string, string) string { return "" }) {
			if it.Test == strings.ToLower(r[4]) {
				due = append(due, it.Due)
			}
		}
		if got := strings.Join(due, ";"); got != r[5] {
			t.Errorf("%s: %s, want %s", r[0], got, r[5])
		}
	}
	t.Logf("%d surveillance vectors", len(rows))
}

// TestDeadlineVectors: the deadlines of the plan come out of its own events.
func TestDeadlineVectors(t *testing.T) {
	t.Parallel()
	rows := vectors(t, "plan_deadlines.csv")
	checked := 0
	for _, r := range rows {
		var got string
		switch r[0] {
		case "PL-01", "PL-03":
			clock := map[string]string{"PL-01": "hna_dx", "PL-03": "hna_eot"}[r[0]]
			due, _, err := waitingtimes.Due(clock, date(r[2]))
			if err != nil {
				t.Fatal(err)
			}
			got = due.String()
		case "PL-02":
			d := newDesk(t)
			d.do(RecordSummaryDue{d.env(), &pb.RecordSummaryDueRequest{PeriodId: pathID, EndedOn: r[2]}})
			got = last(d.state.summaries).Target
		default:
			continue // of the practice and the survey, not of this service
		}
		checked++
		if got != r[4] {
			t.Errorf("%s: %s, want %s", r[0], got, r[4])
		}
	}
	t.Logf("%d of %d deadline vectors are of this service", checked, len(rows))
}

func TestCatalogue(t *testing.T) {
	t.Parallel()
	national := 0
	for _, e := range entries() {
		if e.Domain != "lifestyle" && e.Domain != "information" {
			national++
		}
		if !strings.HasPrefix(e.Code, e.Domain+".") || e.Label == "" {
			t.Errorf("%+v", e)
		}
	}
	if national != 48 || len(Catalogue()) != len(entries()) {
		t.Errorf("%d concerns and %d others, want 48 and no code twice", national, len(entries())-national)
	}
}

// TestHighEmotionalScore: the escalation stands in the same append, whether the
// score comes by hand or with an assessment.
func TestHighEmotionalScore(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.open()
	until := timestamppb.New(time.Date(2026, 6, 16, 23, 0, 0, 0, time.UTC)) // midnight in England
	e := d.env()
	id := e.ID("concern/emotional.worry")
	d.then(RecordConcern{e, &pb.RecordConcernRequest{Code: "emotional.worry", Score: 8, PatientPriority: 1}},
		&pb.ConcernRaised{ConcernId: id, Code: "emotional.worry", Score: 8, PatientPriority: 1, HighEmotionalScore: true},
		&pb.ConcernEscalated{ConcernId: id, Due: until})
	// Raised again, it is the same concern; a lower score or another domain is no alarm.
	d.then(RecordConcern{d.env(), &pb.RecordConcernRequest{Code: "emotional.worry", Score: 7}}, &pb.ConcernRaised{ConcernId: id, Code: "emotional.worry", Score: 7})
	e = d.env()
	d.then(RecordConcern{e, &pb.RecordConcernRequest{Code: "physical.pain", Score: 10}}, &pb.ConcernRaised{ConcernId: e.ID("concern/physical.pain"), Code: "physical.pain", Score: 10})

	a := d.offer()
	d.do(StartAssessment{d.env(), &pb.StartAssessmentRequest{AssessmentId: a, On: "2026-06-02"}})
	e = d.env()
	guilt := e.ID("concern/emotional.guilt")
	d.then(SubmitAssessment{e, &pb.SubmitAssessmentRequest{AssessmentId: a, On: "2026-06-03", Author: "patient",
		Concerns: []*pb.ConcernInput{{Code: "emotional.guilt", Score: 9}, {Code: "physical.sleep", Score: 4}}}},
		&pb.AssessmentSubmitted{AssessmentId: a, On: "2026-06-03", Author: "patient",
			Concerns: []*pb.ScoredConcern{{Code: "emotional.guilt", Score: 9}, {Code: "physical.sleep", Score: 4}}},
		&pb.ConcernRaised{ConcernId: guilt, Code: "emotional.guilt", Score: 9, AssessmentId: a, HighEmotionalScore: true},
		&pb.ConcernEscalated{ConcernId: guilt, Due: until},
		&pb.CareStepBecameDue{StepId: e.ID("step/pcsp"), Kind: "pcsp", Due: "2026-06-17", Rule: "PCSP", Source: "platform choice", Confidence: "DESIGN"})
	// Adopting passes over what was raised with the answers.
	e = d.env()
	d.then(AdoptFromAssessment{e, &pb.AdoptFromAssessmentRequest{AssessmentId: a}},
		&pb.ConcernRaised{ConcernId: e.ID("concern/physical.sleep"), Code: "physical.sleep", Score: 4, AssessmentId: a})
	d.then(AdoptFromAssessment{d.env(), &pb.AdoptFromAssessmentRequest{AssessmentId: a}})
}

// TestPlanLife follows a plan to its end, and a second one after it.
func TestPlanLife(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	e := d.env()
	d.then(OpenPlan{e, openPlan()}, &pb.PlanOpened{PlanId: e.ID("plan"), PersonId: personID, Diagnosis: openPlan().Diagnosis, KeyWorker: "U1",
		TreatingOrganisation: "RJ1", TreatingTeam: "Lower GI"})
	first := d.plan().PlanId
	pain := d.raise("physical.pain", 5)
	d.then(DiscussConcern{d.env(), &pb.DiscussConcernRequest{ConcernId: pain, On: "2026-06-10"}}, &pb.ConcernDiscussed{ConcernId: pain, On: "2026-06-10"})
	e = d.env()
	d.then(AgreeGoal{e, &pb.AgreeGoalRequest{Description: "walk", ConcernIds: []string{pain}}},
		&pb.GoalAgreed{GoalId: e.ID("goal"), Description: "walk", ConcernIds: []string{pain}})
	goal := e.ID("goal")
	e = d.env()
	d.then(AddAction{e, &pb.AddActionRequest{Description: "call", RequiredRole: "R0600", Due: "2026-07-01", ConcernIds: []string{pain}, GoalId: goal}},
		&pb.ActionPlanned{ActionId: e.ID("action"), Description: "call", RequiredRole: "R0600", Due: "2026-07-01", ConcernIds: []string{pain}, GoalId: goal})
	act := e.ID("action")
	d.then(AssignAction{Env: d.env(), AssignActionRequest: &pb.AssignActionRequest{ActionId: act, Assignee: "U2", AssigneeRole: "R9801", Organisation: "RJ1", RoleOverrideReason: "knows the patient"}},
		&pb.ActionAssigned{ActionId: act, Assignee: "U2", AssigneeRole: "R9801", Organisation: "RJ1", RoleOverrideReason: "knows the patient"})
	if got := d.code(AssignAction{Env: d.env(), LeadInactive: true, AssignActionRequest: &pb.AssignActionRequest{ActionId: act, AssigneeRole: "R0600"}}); got != "plan.assignee.inactive" {
		t.Errorf("an inactive lead: %q", got)
	}
	d.then(DecideConcern{d.env(), &pb.DecideConcernRequest{ConcernId: pain, Decision: pb.ConcernDecision_CONCERN_DECISION_ACTION, ActionId: act}},
		&pb.ConcernDecided{ConcernId: pain, Decision: pb.ConcernDecision_CONCERN_DECISION_ACTION, ActionId: act})
	d.then(UpdateGoal{d.env(), &pb.UpdateGoalRequest{GoalId: goal, Status: pb.GoalStatus_GOAL_STATUS_COMPLETED}}, &pb.GoalStatusChanged{GoalId: goal, Status: pb.GoalStatus_GOAL_STATUS_COMPLETED})
	if got := d.code(UpdateGoal{d.env(), &pb.UpdateGoalRequest{GoalId: goal, Status: pb.GoalStatus_GOAL_STATUS_ACTIVE}}); got != "plan.state" {
		t.Errorf("a goal came back from completed: %q", got)
	}
	d.then(WriteSection{d.env(), &pb.WriteSectionRequest{Code: "medical", Text: "one"}}, &pb.SectionWritten{Section: &pb.Section{Code: "medical", Text: "one"}})
	d.do(WriteSection{d.env(), &pb.WriteSectionRequest{Code: "money", Text: "two"}})
	d.then(RecordPreferences{d.env(), &pb.RecordPreferencesRequest{AboutMe: "gardener"}}, &pb.PreferencesRecorded{AboutMe: "gardener"})
	d.then(RecordShareConsent{d.env(), &pb.RecordShareConsentRequest{With: "lead", What: "all", Given: true}}, &pb.ShareConsentRecorded{With: "lead", What: "all", Given: true})
	d.then(RecordPatientAgreement{d.env(), &pb.RecordPatientAgreementRequest{On: "2026-06-14", Reason: "no time"}}, &pb.PlanAgreementDeclined{On: "2026-06-14", Reason: "no time", Version: 1})
	d.then(RecordPatientAgreement{d.env(), &pb.RecordPatientAgreementRequest{Agreed: true, On: "2026-06-15", AgreedBy: "proxy"}}, &pb.PlanAgreedWithPatient{On: "2026-06-15", AgreedBy: "proxy", Version: 1})
	d.then(PublishPlan{d.env(), &pb.PublishPlanRequest{ReviewDue: "2026-12-15", SharedWithPatient: true, SeenRevision: d.state.events - 1}},
		&pb.PlanPublished{Version: 1, ReviewDue: "2026-12-15", SharedWithPatient: true, AgreementVersion: 1})
	d.then(WithholdSection{d.env(), &pb.WithholdSectionRequest{Code: "money", Reason: "third party"}}, &pb.SectionWithheld{Code: "money", Reason: "third party"})
	if got := shown(d.plan()).Sections; len(got) != 1 || got[0].Code != "medical" {
		t.Errorf("the patient is shown %v", got)
	}
	d.then(ShareSection{d.env(), &pb.ShareSectionRequest{Code: "money"}}, &pb.SectionShared{Code: "money"})
	d.then(EscalateConcern{d.env(), &pb.EscalateConcernRequest{ConcernId: pain}},
		&pb.ConcernEscalated{ConcernId: pain, Due: timestamppb.New(time.Date(2026, 6, 16, 23, 0, 0, 0, time.UTC))})
	d.then(ResolveConcern{d.env(), &pb.ResolveConcernRequest{ConcernId: pain, On: "2026-06-15"}}, &pb.ConcernResolved{ConcernId: pain, On: "2026-06-15"})
	d.then(PublishPlan{d.env(), &pb.PublishPlanRequest{ReviewDue: "2026-12-20"}}, &pb.PlanPublished{Version: 2, ReviewDue: "2026-12-20", AgreementVersion: 1})
	d.then(ReviewPlan{d.env(), &pb.ReviewPlanRequest{On: "2026-06-15", NextReviewDue: "2027-01-15"}}, &pb.PlanReviewed{On: "2026-06-15", NextReviewDue: "2027-01-15"})
	d.then(HoldPlan{d.env(), &pb.HoldPlanRequest{Reason: "abroad"}}, &pb.PlanPutOnHold{Reason: "abroad"})
	d.then(UpdateAction{d.env(), &pb.UpdateActionRequest{ActionId: act, Status: pb.ActionStatus_ACTION_STATUS_COMPLETED}}, &pb.ActionStatusChanged{ActionId: act, Status: pb.ActionStatus_ACTION_STATUS_COMPLETED})
	d.then(ResumePlan{d.env(), &pb.ResumePlanRequest{Reason: "back"}}, &pb.PlanResumed{Reason: "back"})
	d.then(ClosePlan{d.env(), &pb.ClosePlanRequest{Outcome: "completed", Reason: "done"}}, &pb.PlanClosed{Outcome: "completed", Reason: "done"})
	if got := d.code(ResumePlan{d.env(), &pb.ResumePlanRequest{Reason: "x"}}); got != "plan.state" {
		t.Errorf("back from completed: %q", got)
	}
	d.open()
	if p := d.plan(); p.FollowsPlanId != first || len(d.state.Record(pathID).EarlierPlans) != 1 {
		t.Errorf("the new plan follows %q", p.FollowsPlanId)
	}
	d.then(MarkInError{d.env(), &pb.MarkInErrorRequest{SecondPerson: "U2", Reason: "twice"}}, &pb.PlanEnteredInError{SecondPerson: "U2", Reason: "twice"})
}

// TestTransferredActionsDoNotHoldAPlan: closing needs actions ended or with others.
func TestTransferredActionsDoNotHoldAPlan(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.open()
	act := d.act()
	d.publish()
	d.do(AssignAction{Env: d.env(), AssignActionRequest: &pb.AssignActionRequest{ActionId: act, Assignee: "U9", AssigneeRole: "R0600", Organisation: "RX9"}})
	d.then(ClosePlan{d.env(), &pb.ClosePlanRequest{Outcome: "revoked", Reason: "moved"}}, &pb.PlanClosed{Outcome: "revoked", Reason: "moved"})
}

func TestAssessmentLife(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	e := d.env()
	id := e.ID("assessment")
	d.then(RecordAssessmentDue{e, &pb.RecordAssessmentDueRequest{Point: "01", Due: "2026-07-01"}}, &pb.AssessmentBecameDue{AssessmentId: id, Point: "01", Due: "2026-07-01"})
	d.then(OfferAssessment{d.env(), offerRequest(id)}, &pb.AssessmentOffered{AssessmentId: id, Point: "01", StaffRole: "01", On: "2026-06-01", OfferedStatus: "01", Expires: "2026-06-29"})
	d.then(DeclineAssessment{d.env(), &pb.DeclineAssessmentRequest{AssessmentId: id, On: "2026-06-02"}}, &pb.AssessmentDeclined{AssessmentId: id, On: "2026-06-02"})
	d.then(ReofferAssessment{d.env(), &pb.ReofferAssessmentRequest{AssessmentId: id, On: "2026-06-03", Expires: "2026-06-30"}}, &pb.AssessmentReoffered{AssessmentId: id, On: "2026-06-03", Expires: "2026-06-30"})
	d.then(RecordUnableToComplete{d.env(), &pb.RecordUnableToCompleteRequest{AssessmentId: id, Reason: "unwell", On: "2026-06-04"}}, &pb.AssessmentUnableToComplete{AssessmentId: id, Reason: "unwell", On: "2026-06-04"})
	d.do(ReofferAssessment{d.env(), &pb.ReofferAssessmentRequest{AssessmentId: id, On: "2026-06-05", Expires: "2026-06-30"}})
	d.then(StartAssessment{d.env(), &pb.StartAssessmentRequest{AssessmentId: id, On: "2026-06-06"}}, &pb.AssessmentStarted{AssessmentId: id, On: "2026-06-06"})
	if got := d.code(CloseAssessment{d.env(), &pb.CloseAssessmentRequest{AssessmentId: id, PlanOfferedStatus: "06", On: "2026-06-07"}}); got != "plan.state" {
		t.Errorf("06 before it was submitted: %q", got)
	}
	d.then(SubmitAssessment{d.env(), &pb.SubmitAssessmentRequest{AssessmentId: id, On: "2026-06-07", Author: "proxy"}}, &pb.AssessmentSubmitted{AssessmentId: id, On: "2026-06-07", Author: "proxy"})
	d.then(DiscussAssessment{d.env(), &pb.DiscussAssessmentRequest{AssessmentId: id, On: "2026-06-08", StaffRole: "02"}}, &pb.AssessmentDiscussed{AssessmentId: id, On: "2026-06-08", StaffRole: "02"})
	d.then(CloseAssessment{d.env(), &pb.CloseAssessmentRequest{AssessmentId: id, PlanOfferedStatus: "06", On: "2026-06-08"}}, &pb.AssessmentClosed{AssessmentId: id, PlanOfferedStatus: "06", On: "2026-06-08"})

	d.do(RecordAssessmentDue{d.env(), &pb.RecordAssessmentDueRequest{Point: "04", Due: "2026-07-10"}})
	id = last(d.state.assessments).AssessmentId
	d.then(RecordAssessmentNotOffered{d.env(), &pb.RecordAssessmentNotOfferedRequest{AssessmentId: id, Reason: "in hospital", On: "2026-06-15"}},
		&pb.AssessmentNotOffered{AssessmentId: id, Point: "04", Reason: "in hospital", On: "2026-06-15"})
}

// TestMandatorySections: each is refused by name when it is missing, alone.
func TestMandatorySections(t *testing.T) {
	t.Parallel()
	if got := missing(content()); len(got) != 0 {
		t.Fatalf("a whole summary lacks %v", got)
	}
	all := missing(&pb.SummaryContent{})
	fields := content().ProtoReflect().Descriptor().Fields()
	if len(all) != fields.Len() {
		t.Errorf("an empty summary lacks %d of %d sections", len(all), fields.Len())
	}
	for _, name := range all {
		c := content()
		f := fields.ByName(protoreflect.Name(name))
		c.ProtoReflect().Clear(f)
		if got := missing(c); !slices.Equal(got, []string{name}) {
			t.Errorf("without %s it lacks %v", name, got)
		}
	}
}

// TestSummaryLife: approval, three recipients, a failure, an amendment for all.
func TestSummaryLife(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	id := d.summaryDue()
	if x := last(d.state.summaries); x.Target != "2026-06-26" || x.Latest != "2026-07-10" {
		t.Errorf("target %s, latest %s", x.Target, x.Latest)
	}
	none := content(func(c *pb.SummaryContent) { c.ToxicitiesAndLateEffects = "none" })
	d.then(DraftSummary{d.env(), &pb.DraftSummaryRequest{SummaryId: id, Content: none}}, &pb.SummaryDrafted{SummaryId: id, Content: none, DraftedBy: "U1"})
	d.then(MarkSummaryReady{d.env(), &pb.MarkSummaryReadyRequest{SummaryId: id}}, &pb.SummaryReady{SummaryId: id})
	d.user = "U2" // a second pair of eyes
	d.then(ApproveSummary{d.env(), &pb.ApproveSummaryRequest{SummaryId: id, ApproverRegistration: "12A3456E", SeenVersion: 1}},
		&pb.SummaryApproved{SummaryId: id, Version: 1, ApproverRegistration: "12A3456E", ApprovedBy: "U2"})
	res := d.receive()
	others := []pb.RecipientKind{gp, lead}
	d.then(IssueSummary{d.env(), &pb.IssueSummaryRequest{SummaryId: id, Recipients: others, On: "2026-06-15"}}, &pb.SummaryIssued{SummaryId: id, Version: 1, Recipients: others, On: "2026-06-15"})
	d.review(res)
	d.tell(res)
	d.do(IssueSummary{d.env(), &pb.IssueSummaryRequest{SummaryId: id, Recipients: []pb.RecipientKind{patient}, On: "2026-06-15"}})
	d.then(RecordDelivery{d.env(), &pb.RecordDeliveryRequest{SummaryId: id, Version: 1, Recipient: lead, Delivered: true}}, &pb.SummaryDelivered{SummaryId: id, Version: 1, Recipient: lead})
	d.then(RecordDelivery{d.env(), &pb.RecordDeliveryRequest{SummaryId: id, Version: 1, Recipient: gp, FailureReason: "bounced"}},
		&pb.SummaryDeliveryFailed{SummaryId: id, Version: 1, Recipient: gp, Reason: "bounced", ActBy: "2026-06-16"})
	if !slices.ContainsFunc(d.state.tasks(), func(k *pb.Task) bool {
		return k.Kind == pb.TaskKind_TASK_KIND_SUMMARY_UNDELIVERED && k.Due == "2026-06-16"
	}) {
		t.Error("the failure is on no worklist")
	}
	d.do(IssueSummary{d.env(), &pb.IssueSummaryRequest{SummaryId: id, Recipients: []pb.RecipientKind{gp}, On: "2026-06-15"}}) // again
	d.then(AcknowledgeSummary{d.env(), &pb.AcknowledgeSummaryRequest{SummaryId: id, Version: 1, Recipient: gp}}, &pb.SummaryAcknowledged{SummaryId: id, Version: 1, Recipient: gp})

	d.then(AmendSummary{d.env(), &pb.AmendSummaryRequest{SummaryId: id, Content: content(), Reason: "late effects"}},
		&pb.SummaryAmended{SummaryId: id, Version: 2, Content: content(), Reason: "late effects", ToTell: recipients, DraftedBy: "U2"})
	d.approve(id)
	d.do(IssueSummary{d.env(), &pb.IssueSummaryRequest{SummaryId: id, Recipients: others, On: "2026-06-15"}})
	if x := last(d.state.summaries); x.Version != 2 || !slices.Equal(x.ToTell, []pb.RecipientKind{patient}) {
		t.Errorf("version %d, still to tell %v", x.Version, x.ToTell)
	}
	d.then(WithdrawSummary{d.env(), &pb.WithdrawSummaryRequest{SummaryId: id, Reason: "wrong patient"}}, &pb.SummaryWithdrawn{SummaryId: id, Reason: "wrong patient"})
	// The period may have another now.
	d.summaryDue()
}

// TestSurveillanceLife: from planned to told, corrected, skipped and changed.
func TestSurveillanceLife(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	x := d.start()
	if len(x.Items) != 12 || x.Items[0].Item.Due != "2026-12-15" || x.Items[0].Item.GraceDays != 14 {
		t.Fatalf("%d items, first %v", len(x.Items), x.Items[0])
	}
	cea := d.itemOf("cea")
	d.then(RequestItem{d.env(), &pb.RequestItemRequest{ItemId: cea, OrderId: "o1"}}, &pb.ItemRequested{ItemId: cea, OrderId: "o1"})
	// A result finds the test that was ordered, which was done then.
	e := d.env()
	d.then(ReceiveResult{e, result(func(r *pb.ReceiveResultRequest) { r.OutOfRange, r.Status = true, "P" })},
		&pb.ItemPerformed{ItemId: cea, On: "2026-06-15"},
		&pb.ResultReceived{ResultId: e.ID("result"), ItemId: cea, Test: "cea", Status: "P", OutOfRange: true, Value: "2.1", On: "2026-06-15", ReviewDue: "2026-06-16"})
	id := e.ID("result")
	d.do(ReceiveResult{d.env(), result(func(r *pb.ReceiveResultRequest) { r.ResultId = id })})
	d.then(ReviewResult{d.env(), &pb.ReviewResultRequest{ResultId: id, On: "2026-06-15"}},
		&pb.ResultReviewed{ResultId: id, ItemId: cea, ReviewedBy: "U1", On: "2026-06-15", TellBy: "2026-07-06"})
	d.then(TellPatient{d.env(), &pb.TellPatientRequest{ResultId: id, On: "2026-06-15", Medium: "telephone"}},
		&pb.PatientToldResult{ResultId: id, ItemId: cea, On: "2026-06-15", Medium: "telephone"})
	// A correction opens the review again, on the same item.
	d.do(ReceiveResult{d.env(), result(func(r *pb.ReceiveResultRequest) { r.ResultId, r.Status = id, "C" })})
	if r := last(d.state.results); r.State != resultReceived || r.ItemId != cea || last(d.state.schedules).Items[0].State != resulted {
		t.Errorf("after a correction: %v", r)
	}
	d.do(ReceiveResult{d.env(), result(func(r *pb.ReceiveResultRequest) { r.ResultId, r.Status = id, "X" })})
	if last(d.state.results).State != resultCancelled || last(d.state.schedules).Items[0].State != performed {
		t.Error("after a cancellation the test still has a result")
	}
	// A result of a test nobody ordered is in the reviewer's queue.
	stray := d.receive(func(r *pb.ReceiveResultRequest) { r.Test = "ct_cap" })
	if r := last(d.state.results); r.ItemId != "" || !slices.ContainsFunc(d.state.tasks(), func(k *pb.Task) bool { return k.SubjectId == stray }) {
		t.Errorf("a stray result: %v", r)
	}
	scope := d.itemOf("colonoscopy")
	d.then(RecordItemPerformed{d.env(), &pb.RecordItemPerformedRequest{ItemId: scope, On: "2026-06-14"}}, &pb.ItemPerformed{ItemId: scope, On: "2026-06-14"})
	ct := d.itemOf("ct_cap")
	d.then(SkipItem{d.env(), &pb.SkipItemRequest{ItemId: ct, Reason: "done elsewhere"}}, &pb.ItemSkipped{ItemId: ct, Reason: "done elsewhere"})
	id = x.ScheduleId
	d.then(ReaccessPatient{d.env(), &pb.ReaccessPatientRequest{Reason: "symptoms", On: "2026-06-15"}}, &pb.PatientReaccessed{ScheduleId: id, Reason: "symptoms", On: "2026-06-15"})
	d.then(SuspendRemoteMonitoring{d.env(), &pb.SuspendRemoteMonitoringRequest{Reason: "symptoms"}}, &pb.PatientSuspendedFromRemoteMonitoring{ScheduleId: id, Reason: "symptoms"})
	if got := d.code(EndSurveillance{d.env(), &pb.EndSurveillanceRequest{Reason: "x"}}); got != "plan.result.open" {
		t.Errorf("ended silently: %q", got)
	}
}

// TestProtocolChange keeps what was begun, replaces what lies ahead, counts from
// the anchor, and does not lose what is overdue.
func TestProtocolChange(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	radical := func(r *pb.StartSurveillanceRequest) {
		r.Protocol, r.TumourGroup, r.Anchor = "prostate-radical", "10", "2026-01-31"
	}
	d.start(radical) // version 1: day 42 is long past, month 6 is 31 July
	out := d.do(ChangeProtocol{d.env(), &pb.ChangeProtocolRequest{Protocol: "prostate-radical", Organisation: "RJ2"}})
	if _, ok := out[0].(*pb.ItemBecameDue); !ok || len(out) != 2 {
		t.Fatalf("decided %v", out)
	}
	x := last(d.state.schedules)
	count := map[pb.ItemState]int{}
	for _, it := range x.Items {
		count[it.State]++
	}
	if x.ProtocolVersion != 2 || count[itemDue] != 1 || count[superseded] != 7 || count[planned] != 15 {
		t.Errorf("version %d with %v", x.ProtocolVersion, count)
	}
	if it, _ := find(x.Items, func(it *pb.ItemView) bool { return it.State == planned }); it.Item.Due != "2026-07-31" {
		t.Errorf("the next test is due %s", it.Item.Due)
	}
	e := d.env()
	d.then(EndSurveillance{e, &pb.EndSurveillanceRequest{Reason: "moved"}}, &pb.SurveillanceEnded{ScheduleId: x.ScheduleId, Reason: "moved"})
	d.then(RecordSurveillanceNotNeeded{d.env(), &pb.RecordSurveillanceNotNeededRequest{Reason: "palliative"}}, &pb.SurveillanceNotNeeded{Reason: "palliative"})
	d.start(radical)
	if len(d.state.Record(pathID).EarlierSurveillance) != 1 || d.state.notNeeded != "" {
		t.Error("the earlier schedule is gone, or surveillance is still not needed")
	}
}

// TestNobodyIsWatchedByNothing: the last test of a remote patient cannot be
// skipped away, and when it is told, a person gets the patient back.
func TestNobodyIsWatchedByNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	x := d.start(func(r *pb.StartSurveillanceRequest) { r.Protocol, r.TumourGroup = "breast-curative", "01" })
	for range len(x.Items) - 1 {
		d.do(SkipItem{d.env(), &pb.SkipItemRequest{ItemId: d.itemOf("mammogram"), Reason: "x"}})
	}
	lastItem := d.itemOf("mammogram")
	if got := d.code(SkipItem{d.env(), &pb.SkipItemRequest{ItemId: lastItem, Reason: "x"}}); got != "plan.surveillance.unwatched" {
		t.Errorf("the last test was skipped: %q", got)
	}
	id := d.receive(func(r *pb.ReceiveResultRequest) { r.Test, r.ItemId = "mammogram", lastItem })
	d.review(id)
	if r := last(d.state.results); r.TellBy != "2026-07-13" { // 28 days for an image
		t.Errorf("to be told by %s", r.TellBy)
	}
	out := d.tell(id)
	if _, ok := out[len(out)-1].(*pb.PatientSuspendedFromRemoteMonitoring); !ok || last(d.state.schedules).RemoteMonitoring {
		t.Errorf("still on remote monitoring after %v", out)
	}
}

func TestResponses(t *testing.T) {
	t.Parallel()
	eq := func(vas int32, levels ...int32) *pb.SubmitResponseRequest {
		r := &pb.SubmitResponseRequest{Instrument: "eq-5d-5l", InstrumentVersion: "1", Author: "patient", On: "2026-06-15"}
		for i, name := range []string{"mobility", "self_care", "usual_activities", "pain", "anxiety"} {
			if i < len(levels) {
				r.Answers = append(r.Answers, &pb.AnswerInput{Item: name, Value: levels[i]})
			}
		}
		r.Answers = append(r.Answers, &pb.AnswerInput{Item: "vas", Value: vas})
		return r
	}
	with := func(r *pb.SubmitResponseRequest, edit func(*pb.SubmitResponseRequest)) *pb.SubmitResponseRequest {
		edit(r)
		return r
	}
	for name, c := range map[string]struct {
		req           *pb.SubmitResponseRequest
		reason, alert string
		sum           float64
	}{
		"scored":     {eq(80, 1, 2, 1, 3, 2), "", "", 9},
		"worst":      {eq(0, 5, 1, 1, 1, 1), "", "eq5d-worst-level-5", 9},
		"anxious":    {eq(100, 1, 1, 1, 1, 4), "", "eq5d-anxiety-4", 8},
		"incomplete": {eq(80, 1, 2, 1, 3), "incomplete", "", 0},
		"too high":   {eq(80, 1, 2, 6, 3, 1), "out_of_range", "", 0},
		"too low":    {eq(80, 0, 2, 1, 3, 1), "out_of_range", "", 0},
		"vas":        {eq(101, 1, 1, 1, 1, 1), "out_of_range", "", 0},
		"twice":      {with(eq(80, 1, 1, 1, 1, 1), func(r *pb.SubmitResponseRequest) { r.Answers = append(r.Answers, r.Answers[0]) }), "answered_twice", "", 0},
		"extra":      {with(eq(80, 1, 1, 1, 1, 1), func(r *pb.SubmitResponseRequest) { r.Answers = append(r.Answers, &pb.AnswerInput{Item: "x"}) }), "item_unknown", "", 0},
		"unknown":    {with(eq(80, 1, 1, 1, 1, 1), func(r *pb.SubmitResponseRequest) { r.InstrumentVersion = "9" }), "instrument_unknown", "", 0},
	} {
		d := newDesk(t)
		d.do(SubmitResponse{d.env(), c.req})
		r := last(d.state.responses)
		if r.ReasonCode != c.reason || r.AlertRule != c.alert || r.Alert != (c.alert != "") || (r.AlertDue != nil) != r.Alert {
			t.Errorf("%s: %v", name, r)
		}
		if c.reason != "" {
			if len(r.Scores) > 0 || len(r.Answers) == 0 {
				t.Errorf("%s: scored all the same, or its answers are lost: %v", name, r)
			}
			continue
		}
		if s, _ := find(r.Scores, func(s *pb.Score) bool { return s.Scale == "level_sum" }); s.GetValue() != c.sum || r.Algorithm != "level-profile" || r.AlgorithmVersion == "" {
			t.Errorf("%s: %v", name, r.Scores)
		}
	}
	qlq := &pb.SubmitResponseRequest{Instrument: "qlq-c30", InstrumentVersion: "3.0", Author: "patient", On: "2026-06-15"}
	for _, it := range Instruments()[1].Items {
		qlq.Answers = append(qlq.Answers, &pb.AnswerInput{Item: it.Item, Value: it.Max})
	}
	d := newDesk(t)
	d.do(SubmitResponse{d.env(), qlq})
	r := last(d.state.responses)
	if len(qlq.Answers) != 30 || len(r.Scores) != 15 || r.AlertRule != "qlq-emotional-3" {
		t.Errorf("%d items, %d scales, rule %s", len(qlq.Answers), len(r.Scores), r.AlertRule)
	}
}

// TestTimers: each timer does nothing the day before, its work on the day, and
// nothing when it runs again.
func TestTimers(t *testing.T) {
	t.Parallel()
	at := func(day string) time.Time { return date(day).Start().Add(9 * time.Hour) }
	for name, c := range map[string]struct {
		given     func(d *desk)
		early, at time.Time
		want      func(d *desk) []proto.Message
	}{
		"escalation": {func(d *desk) { d.open(); d.raise("emotional.worry", 9) },
			date("2026-06-17").Start().Add(-time.Second), date("2026-06-17").Start(), func(d *desk) []proto.Message {
				return []proto.Message{&pb.ConcernEscalated{ConcernId: d.plan().Concerns[0].ConcernId, Due: timestamppb.New(date("2026-06-19").Start())}}
			}},
		"review": {func(d *desk) { d.open(); d.publish() }, at("2026-12-15"), at("2026-12-16"), func(d *desk) []proto.Message {
			return []proto.Message{&pb.PlanReviewOverdue{Due: "2026-12-15"}}
		}},
		"assessment": {func(d *desk) { d.offer() }, at("2026-06-29"), at("2026-06-30"), func(d *desk) []proto.Message {
			return []proto.Message{&pb.AssessmentExpired{AssessmentId: d.state.assessments[0].AssessmentId}}
		}},
		"summary": {func(d *desk) { d.summaryDue() }, at("2026-07-10"), at("2026-07-11"), func(d *desk) []proto.Message {
			return []proto.Message{&pb.SummaryOverdue{SummaryId: d.state.summaries[0].SummaryId, Latest: "2026-07-10"}}
		}},
		"delivery": {func(d *desk) { d.issued() }, at("2026-06-16"), at("2026-06-17"), func(d *desk) []proto.Message {
			return []proto.Message{&pb.SummaryDeliveryFailed{SummaryId: d.state.summaries[0].SummaryId, Version: 1, Recipient: gp,
				Reason: "nobody confirmed that it arrived", ActBy: "2026-06-18"}}
		}},
		"item due": {func(d *desk) { d.start() }, at("2026-12-14"), at("2026-12-15"), func(d *desk) []proto.Message {
			return []proto.Message{&pb.ItemBecameDue{ItemId: last(d.state.schedules).Items[0].Item.ItemId}}
		}},
		"blood overdue": {func(d *desk) { d.start(); d.now = at("2026-12-15"); d.do(RunTimers{d.env()}) }, at("2026-12-28"), at("2026-12-29"), func(d *desk) []proto.Message {
			return []proto.Message{&pb.ItemOverdue{ItemId: last(d.state.schedules).Items[0].Item.ItemId, Step: "performed"}}
		}},
		"image overdue": {func(d *desk) {
			d.start(func(r *pb.StartSurveillanceRequest) { r.Protocol, r.TumourGroup = "breast-curative", "01" })
			d.now = at("2027-06-15")
			d.do(RunTimers{d.env()})
		}, at("2027-07-12"), at("2027-07-13"), func(d *desk) []proto.Message {
			return []proto.Message{&pb.ItemOverdue{ItemId: last(d.state.schedules).Items[0].Item.ItemId, Step: "performed"}}
		}},
		"no result": {func(d *desk) {
			d.start()
			d.do(RecordItemPerformed{d.env(), &pb.RecordItemPerformedRequest{ItemId: d.itemOf("cea"), On: "2026-06-15"}})
		}, at("2026-07-06"), at("2026-07-07"), func(d *desk) []proto.Message {
			return []proto.Message{&pb.ItemOverdue{ItemId: last(d.state.schedules).Items[0].Item.ItemId, Step: "resulted"}}
		}},
	} {
		d := newDesk(t)
		c.given(d)
		d.now = c.early
		if out := d.do(RunTimers{d.env()}); len(out) != 0 {
			t.Errorf("%s: too early: %v", name, out)
		}
		d.now = c.at
		d.then(RunTimers{d.env()}, c.want(d)...)
		if out := d.do(RunTimers{d.env()}); len(out) != 0 {
			t.Errorf("%s: again: %v", name, out)
		}
	}
}

// A document is attached once, replaced as often as it comes, and withdrawn once.
func TestDocuments(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	first := letter()
	d.then(AttachDocument{d.env(), &pb.AttachDocumentRequest{Document: first}}, &pb.DocumentAttached{Document: first})
	newer := letter()
	newer.Status, newer.MessageId = "LA", pathID
	d.then(ReplaceDocument{d.env(), &pb.ReplaceDocumentRequest{Document: newer}}, &pb.DocumentReplaced{Document: newer})
	gone := &pb.WithdrawDocumentRequest{DocumentId: first.DocumentId, MessageId: first.MessageId}
	d.then(WithdrawDocument{d.env(), gone}, &pb.DocumentWithdrawn{DocumentId: first.DocumentId, MessageId: first.MessageId})
	d.then(WithdrawDocument{d.env(), gone})
	if v := d.state.documents[0]; !v.Withdrawn || v.Versions != 2 || v.Document.Status != "LA" {
		t.Errorf("withdrawn: %v", v)
	}
	d.do(ReplaceDocument{d.env(), &pb.ReplaceDocumentRequest{Document: newer}})
	if v := d.state.documents[0]; v.Withdrawn || v.Versions != 3 {
		t.Errorf("sent again: %v", v)
	}
	if r := d.state.Record(pathID); len(r.Documents) != 1 {
		t.Errorf("the record has %d documents", len(r.Documents))
	}
}
