package plan

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	pb "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// full is a record in which everything that can wait does.
func full(t *testing.T) *desk {
	d := newDesk(t)
	d.open()
	d.act(d.raise("emotional.worry", 9))
	d.do(DecideConcern{d.env(), &pb.DecideConcernRequest{ConcernId: d.plan().Concerns[0].ConcernId, Decision: pb.ConcernDecision_CONCERN_DECISION_WATCH}})
	d.publish()
	d.do(EscalateConcern{d.env(), &pb.EscalateConcernRequest{ConcernId: d.plan().Concerns[0].ConcernId}})
	d.do(RecordAssessmentDue{d.env(), &pb.RecordAssessmentDueRequest{Point: "04", Due: "2026-07-01"}})
	d.do(RecordCareStepsDue{d.env(), "2026-05-01"})
	d.summaryDue()
	d.start()
	d.receive()
	d.do(SubmitResponse{d.env(), &pb.SubmitResponseRequest{Instrument: "eq-5d-5l", InstrumentVersion: "1", Author: "patient", On: "2026-06-15", Answers: []*pb.AnswerInput{
		{Item: "mobility", Value: 5}, {Item: "self_care", Value: 1}, {Item: "usual_activities", Value: 1}, {Item: "pain", Value: 1}, {Item: "anxiety", Value: 1}, {Item: "vas", Value: 50}}}})
	return d
}

func kinds(s State) (all []pb.TaskKind) {
	for _, t := range s.tasks() {
		all = append(all, t.Kind)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

const (
	taskConcern  = pb.TaskKind_TASK_KIND_CONCERN_ESCALATED
	taskAction   = pb.TaskKind_TASK_KIND_ACTION_DUE
	taskReview   = pb.TaskKind_TASK_KIND_PLAN_REVIEW
	taskAssess   = pb.TaskKind_TASK_KIND_ASSESSMENT_DUE
	taskStep     = pb.TaskKind_TASK_KIND_CARE_STEP
	taskSummary  = pb.TaskKind_TASK_KIND_SUMMARY_DUE
	taskResult   = pb.TaskKind_TASK_KIND_RESULT_REVIEW
	taskAlert    = pb.TaskKind_TASK_KIND_ALERT
	taskAgreed   = pb.TaskKind_TASK_KIND_AGREEMENT
	taskSurvEnds = pb.TaskKind_TASK_KIND_SURVEILLANCE_END
)

// TestNothingOpenIsDroppedSilently: what a closed pathway and a death leave open is
// named in an event; nothing of it waits or runs out any more; a result is
// reviewed all the same; and what was wrongly ended waits as before.
func TestNothingOpenIsDroppedSilently(t *testing.T) {
	t.Parallel()
	everything := []pb.TaskKind{taskConcern, taskAssess, taskSummary, taskResult, taskReview, taskAlert, taskAction, taskStep}
	d := full(t)
	before := d.state.tasks()
	if got := kinds(d.state); !slices.Equal(got, everything) {
		t.Fatalf("open are %v", got)
	}
	for _, tt := range []struct {
		cause string
		left  []pb.TaskKind
	}{
		{pathwayClosed, []pb.TaskKind{taskSummary, taskResult, taskAlert}},
		{died, []pb.TaskKind{taskResult}},
	} {
		d := full(t)
		d.state = estest.Given(decider(), d.log...).State(t)
		end := d.do(EndOpenThings{tt.cause, nobody})
		if len(end) != 1 {
			t.Fatalf("%s: %d events", tt.cause, len(end))
		}
		named := end[0].(*pb.OpenThingsEnded).SubjectIds
		if got := kinds(d.state); !slices.Equal(got, tt.left) {
			t.Errorf("%s: still open are %v, want %v", tt.cause, got, tt.left)
		}
		for _, task := range before {
			gone := !slices.ContainsFunc(d.state.tasks(), func(o *pb.Task) bool { return o.SubjectId == task.SubjectId && o.Kind == task.Kind })
			if gone && len(named) < len(before)-len(d.state.tasks()) {
				t.Errorf("%s: %v is gone and not named", tt.cause, task)
			}
		}
		if again, err := (EndOpenThings{tt.cause, nobody}).Decide(d.state); err != nil || len(again) != 0 {
			t.Errorf("%s: heard again it records %v, %v", tt.cause, again, err)
		}
		d.now = d.now.AddDate(5, 0, 0)
		for _, e := range d.do(RunTimers{d.env()}) {
			if tt.cause == died {
				t.Errorf("%s: a timer recorded %T", tt.cause, e)
			} else if _, late := e.(*pb.SummaryOverdue); !late {
				t.Errorf("%s: a timer recorded %T", tt.cause, e)
			}
		}
		d.now = now
		other := map[string]string{pathwayClosed: died, died: pathwayClosed}[tt.cause]
		if wrong, err := (ResumeOpenThings{other, nobody}).Decide(d.state); err != nil || len(wrong) != 0 {
			t.Errorf("%s: another cause resumes it: %v, %v", tt.cause, wrong, err)
		}
		d.do(ResumeOpenThings{tt.cause, nobody})
		if got := kinds(d.state); !slices.Equal(got, everything) || len(d.state.ended) != 0 {
			t.Errorf("%s retracted: open are %v", tt.cause, got)
		}
		if late := d.do(RunTimers{Env{Command: uuid.New(), Now: d.now.AddDate(5, 0, 0)}}); len(late) < 5 {
			t.Errorf("%s retracted: timers recorded only %d", tt.cause, len(late))
		}
	}
}

// TestWhoeverActsTakesItUp: a thing that had ended waits again once somebody acts on it.
func TestWhoeverActsTakesItUp(t *testing.T) {
	t.Parallel()
	d := full(t)
	d.do(EndOpenThings{Cause: pathwayClosed})
	a := last(d.plan().Actions).ActionId
	d.do(UpdateAction{d.env(), &pb.UpdateActionRequest{ActionId: a, Status: pb.ActionStatus_ACTION_STATUS_IN_PROGRESS}})
	if got := kinds(d.state); !slices.Contains(got, taskAction) || slices.Contains(got, taskReview) {
		t.Errorf("open are %v", got)
	}
	d.do(ReviewPlan{d.env(), &pb.ReviewPlanRequest{On: "2026-06-15", NextReviewDue: "2026-12-15"}})
	if got := kinds(d.state); !slices.Contains(got, taskReview) {
		t.Errorf("open are %v", got)
	}
}

// TestAgreementIsOfAVersion: each publication says which version the patient spoke
// of; where it is an earlier one, asking is a task.
func TestAgreementIsOfAVersion(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.open()
	d.publish()
	if p := d.plan(); p.AgreementVersion != 1 || p.Version != 1 || slices.Contains(kinds(d.state), taskAgreed) {
		t.Errorf("%v", p)
	}
	agree := func() {
		d.do(RecordPatientAgreement{d.env(), &pb.RecordPatientAgreementRequest{Agreed: true, On: "2026-06-15", AgreedBy: "patient"}})
	}
	agree() // nothing was changed: it is about the version that is there
	if p := d.plan(); p.AgreementVersion != 1 {
		t.Errorf("about version %d", p.AgreementVersion)
	}
	d.do(WriteSection{d.env(), &pb.WriteSectionRequest{Code: "medical", Text: "x"}})
	e := d.do(PublishPlan{d.env(), &pb.PublishPlanRequest{ReviewDue: "2026-12-15"}})[0].(*pb.PlanPublished)
	if e.Version != 2 || e.AgreementVersion != 1 || !slices.Contains(kinds(d.state), taskAgreed) {
		t.Errorf("%v, open %v", e, kinds(d.state))
	}
	agree()
	if p := d.plan(); p.AgreementVersion != 2 || slices.Contains(kinds(d.state), taskAgreed) {
		t.Errorf("%v", p)
	}
	d.do(WriteSection{d.env(), &pb.WriteSectionRequest{Code: "money", Text: "x"}})
	agree() // to the draft of the next
	if e := d.do(PublishPlan{d.env(), &pb.PublishPlanRequest{ReviewDue: "2026-12-15"}})[0].(*pb.PlanPublished); e.Version != 3 || e.AgreementVersion != 3 {
		t.Errorf("%v", e)
	}
}

func TestCloseAlert(t *testing.T) {
	t.Parallel()
	d := full(t)
	r := last(d.state.responses).ResponseId
	closing := &pb.CloseAlertRequest{ResponseId: r, On: "2026-06-15", Outcome: "patient_contacted", Note: "called"}
	d.then(CloseAlert{d.env(), closing}, &pb.AlertClosed{ResponseId: r, On: "2026-06-15", Outcome: "patient_contacted", Note: "called"})
	if slices.Contains(kinds(d.state), taskAlert) || last(d.state.responses).AlertClosedOn != "2026-06-15" {
		t.Errorf("%v", last(d.state.responses))
	}
	if got := d.code(CloseAlert{d.env(), closing}); got != "plan.state" {
		t.Errorf("closed twice: %q", got)
	}
}

// TestCareSteps: once on a pathway; overdue once; the plan that is agreed with the
// patient is the step after an assessment with concerns.
func TestCareSteps(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.open()
	d.do(RecordCareStepsDue{d.env(), "2026-03-05"})
	if more := d.do(RecordCareStepsDue{d.env(), "2026-03-06"}); len(more) != 0 {
		t.Errorf("a second diagnosis asks again: %v", more)
	}
	d.submit()
	if d.state.careSteps("pcsp") {
		t.Error("an assessment without concerns asks for a plan")
	}
	d.submit(&pb.ConcernInput{Code: "physical.pain", Score: 3})
	d.publish()
	for _, x := range d.state.steps {
		if (x.Kind == "pcsp") != (x.DoneOn != "") || x.Kind == "pcsp" && x.Outcome != "done" {
			t.Errorf("%v", x)
		}
	}
	overdue := func() (n int) {
		for _, e := range d.do(RunTimers{d.env()}) {
			if _, is := e.(*pb.CareStepOverdue); is {
				n++
			}
		}
		return n
	}
	if n := overdue(); n != 1 { // 93 days after 5 March is 6 June
		t.Errorf("%d overdue", n)
	}
	if n := overdue(); n != 0 {
		t.Errorf("%d overdue again", n)
	}
	x := d.state.steps[0]
	d.do(RecordCareStep{d.env(), &pb.RecordCareStepRequest{StepId: x.StepId, On: "2026-06-15", Outcome: "done"}})
	if got := d.code(RecordCareStep{d.env(), &pb.RecordCareStepRequest{StepId: x.StepId, On: "2026-06-15", Outcome: "done"}}); got != "plan.state" {
		t.Errorf("done twice: %q", got)
	}
}

// TestSurveillanceEndPasses: the day after, once, as an event and a task.
func TestSurveillanceEndPasses(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	x := d.start(func(r *pb.StartSurveillanceRequest) { r.Ends = "2026-06-20" })
	passed := func() (n int) {
		for _, e := range d.do(RunTimers{d.env()}) {
			if p, is := e.(*pb.SurveillanceEndPassed); is {
				n++
				if p.ScheduleId != x.ScheduleId || p.Ends != "2026-06-20" {
					t.Errorf("%v", p)
				}
			}
		}
		return n
	}
	d.now = time.Date(2026, 6, 20, 22, 59, 0, 0, time.UTC) // the last minute of that day in England
	if n := passed(); n != 0 {
		t.Error("it passed before its day was over")
	}
	d.now = d.now.Add(time.Minute)
	if n := passed(); n != 1 || !slices.Contains(kinds(d.state), taskSurvEnds) {
		t.Errorf("%d events, open %v", n, kinds(d.state))
	}
	if n := passed(); n != 0 {
		t.Error("it passed twice")
	}
	d.do(EndSurveillance{d.env(), &pb.EndSurveillanceRequest{Reason: "as planned"}})
	if slices.Contains(kinds(d.state), taskSurvEnds) {
		t.Error("an ended surveillance waits to end")
	}
}

// TestPersonsAndPlans: a death ends what is open on every pathway of the person, a
// retraction and the reversal of a merge resume it; a merge makes the plan that of
// who is left. Whatever is heard twice changes nothing.
func TestPersonsAndPlans(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	h := open(t, log, willing())
	const second = "b2f7a4a0-1f0e-4b63-8d0b-0a2a6b1f5c10"
	n := 0
	record := func(category, id string, m proto.Message) {
		t.Helper()
		n++
		streams := es.NewStreams(log, es.Decider[int]{Category: category, Evolve: func(n int, _ proto.Message) int { return n }}, es.Options{Key: make([]byte, 32)})
		state, err := streams.Do(t.Context(), id, &pb.RunTimersRequest{Command: header(1000 + n), PathwayId: id}, func(int) ([]proto.Message, error) { return []proto.Message{m}, nil })
		if err != nil {
			t.Fatal(err)
		}
		e := bus.Event{ID: uuid.NewSHA1(uuid.NameSpaceURL, []byte{byte(n)}), Category: category, StreamID: id, Message: m, Tenant: "RJ1", Position: state.Position}
		for range 2 {
			if err := h.Part.React(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	record("pathway", pathID, &referralv1.PathwayStarted{FactId: "f", PersonId: personID})
	record("pathway", second, &referralv1.PathwayStarted{FactId: "f", PersonId: nobody})
	for i, id := range []string{pathID, second} {
		req := openPlan()
		req.Command, req.PathwayId, req.PersonId = header(i), id, map[string]string{pathID: personID, second: nobody}[id]
		h.Must(req)
		h.Must(&pb.AddActionRequest{Command: header(10 + i), PathwayId: id, Description: "call", RequiredRole: "R0600", Due: "2026-07-01"})
	}
	stands := func(what string, ended1, ended2 int, person2 string) {
		t.Helper()
		for id, want := range map[string]int{pathID: ended1, second: ended2} {
			r := h.Must(&pb.GetPlanRequest{PathwayId: id}).(*pb.PlanReply).Record
			if len(r.Ended) != want || len(r.Tasks) != 1-want {
				t.Errorf("%s: on %s ended are %v, tasks %v", what, id, r.Ended, r.Tasks)
			}
			if id == second && r.Plan.PersonId != person2 {
				t.Errorf("%s: the plan is %s's", what, r.Plan.PersonId)
			}
		}
	}
	merge := "11111111-7d0c-4c55-9f7b-6f1f6f0d2b11"
	record("person", personID, &personv1.DeathReportedInformally{})
	stands("an informal notice", 0, 0, nobody)
	record("person", personID, &personv1.DeathConfirmed{DiedOn: "2026-06-14"})
	stands("a death", 1, 0, nobody)
	record("person", personID, &personv1.PersonsMerged{MergeId: merge, SurvivingPersonId: personID, MergedPersonId: nobody})
	stands("a merge with somebody dead", 1, 1, personID)
	record("person", personID, &personv1.MergeReversed{MergeId: merge, SurvivingPersonId: personID, MergedPersonId: nobody})
	stands("its reversal", 1, 0, nobody)
	record("person", personID, &personv1.DeathNotificationRetracted{Retracted: "2"})
	stands("a retraction", 0, 0, nobody)
	record("pathway", pathID, &referralv1.PathwayClosed{FactId: "close", Facts: &referralv1.CloseFacts{On: "2026-06-15"}})
	stands("a closed pathway", 1, 0, nobody)
	record("pathway", pathID, &referralv1.ClockCorrected{FactId: "g", WrongFactId: "other"})
	stands("another fact is struck", 1, 0, nobody)
	record("pathway", pathID, &referralv1.ClockCorrected{FactId: "h", WrongFactId: "close"})
	stands("the closing is struck", 0, 0, nobody)
}
