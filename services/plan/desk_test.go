package plan

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

const (
	pathID   = "a2f7a4a0-1f0e-4b63-8d0b-0a2a6b1f5c10"
	personID = "0f1c5a52-7d0c-4c55-9f7b-6f1f6f0d2b11"
	nobody   = "99999999-7d0c-4c55-9f7b-6f1f6f0d2b11"
)

// now is a Monday in summer.
var now = time.Date(2026, 6, 15, 10, 0, 0, 0, time.UTC)

// desk decides one command after the other on one record, and keeps every event.
type desk struct {
	t     *testing.T
	state State
	now   time.Time
	user  string
	role  string
	n     int
	log   []proto.Message
}

func newDesk(t *testing.T) *desk { return &desk{t: t, now: now, user: "U1", role: "R0600"} }

func (d *desk) env() Env {
	d.n++
	return Env{Command: uuid.NewSHA1(uuid.NameSpaceDNS, fmt.Append(nil, d.n)), User: d.user, Role: d.role, Now: d.now}
}

// do decides and folds, and returns the command's Env for the ids it made.
func (d *desk) do(c decision) []proto.Message {
	d.t.Helper()
	out, err := c.Decide(d.state)
	if err != nil {
		d.t.Fatalf("%T refused: %v", c, err)
	}
	d.state = estest.Given(decider(), append(slices.Clone(d.log), out...)...).State(d.t)
	d.log = append(d.log, out...)
	return out
}

func (d *desk) code(c decision) string {
	_, err := c.Decide(d.state)
	return fault.CodeOf(err)
}

// then compares what a command decides with what was wanted.
func (d *desk) then(c decision, want ...proto.Message) {
	d.t.Helper()
	estest.Given(decider(), d.log...).When(c.Decide).Then(d.t, want...)
	d.do(c)
}

func (d *desk) plan() *pb.Plan { return last(d.state.plans) }

// Things that most tests need, each in a few commands.

func (d *desk) open() string {
	d.do(OpenPlan{d.env(), openPlan()})
	return d.plan().PlanId
}

func openPlan() *pb.OpenPlanRequest {
	return &pb.OpenPlanRequest{PersonId: personID, Diagnosis: &pb.Diagnosis{Icd10: "C18.7", Stage: "T3 N0 M0", ToldOn: "2026-05-01", DiagnosedOn: "2026-04-28"},
		KeyWorker: "U1", TreatingOrganisation: "RJ1", TreatingTeam: "Lower GI"}
}

func letter() *pb.Document {
	return &pb.Document{DocumentId: "77777777-7777-4777-8777-777777777777", Type: "CL", Status: "AU", Organisation: "RJ1", ExternalId: "D1",
		MessageId: "66666666-6666-4666-8666-666666666666", On: "2026-06-14"}
}

func (d *desk) raise(code string, score int32) string {
	d.do(RecordConcern{d.env(), &pb.RecordConcernRequest{Code: code, Score: score}})
	return last(d.plan().Concerns).ConcernId
}

func (d *desk) act(concerns ...string) string {
	d.do(AddAction{d.env(), &pb.AddActionRequest{Description: "call", RequiredRole: "R0600", Due: "2026-07-01", ConcernIds: concerns}})
	return last(d.plan().Actions).ActionId
}

func (d *desk) publish() {
	d.do(RecordPatientAgreement{d.env(), &pb.RecordPatientAgreementRequest{Agreed: true, On: "2026-06-14", AgreedBy: "patient"}})
	d.do(PublishPlan{d.env(), &pb.PublishPlanRequest{ReviewDue: "2026-12-15"}})
}

func (d *desk) offer() string {
	d.do(OfferAssessment{d.env(), offerRequest("")})
	return last(d.state.assessments).AssessmentId
}

func offerRequest(id string) *pb.OfferAssessmentRequest {
	return &pb.OfferAssessmentRequest{AssessmentId: id, Point: "01", StaffRole: "01", On: "2026-06-01", OfferedStatus: "01", Expires: "2026-06-29"}
}

func (d *desk) submit(concerns ...*pb.ConcernInput) string {
	id := d.offer()
	d.do(StartAssessment{d.env(), &pb.StartAssessmentRequest{AssessmentId: id, On: "2026-06-02"}})
	d.do(SubmitAssessment{d.env(), &pb.SubmitAssessmentRequest{AssessmentId: id, On: "2026-06-03", Concerns: concerns, Author: "patient"}})
	return id
}

func (d *desk) summaryDue() string {
	d.do(RecordSummaryDue{d.env(), &pb.RecordSummaryDueRequest{PeriodId: pathID, Modality: "01", StartedOn: "2026-05-10", EndedOn: "2026-05-29", Last: true}})
	return last(d.state.summaries).SummaryId
}

func content(edit ...func(*pb.SummaryContent)) *pb.SummaryContent {
	c := &pb.SummaryContent{DiagnosedOn: "2026-04-28", Staging: "T3 N0 M0", Treatment: "Hemicolectomy",
		Periods: []*pb.TreatmentPeriod{{PeriodId: pathID, Modality: "01", StartedOn: "2026-05-10", EndedOn: "2026-05-29"}},
		Intent:  pb.TreatmentIntent_TREATMENT_INTENT_CURATIVE, ToxicitiesAndLateEffects: "Loose stools", RedFlagSymptoms: "Bleeding",
		ReAccessContact: "Nurse line", OtherReferrals: "None", OngoingManagement: "CEA and CT", StratifiedPathway: "supported self-management",
		GpActions: "Cancer care review", Support: "Local group", Responsible: "treating team remains responsible",
		PlainLanguage: "Your operation went well.", Language: "en", Format: "letter"}
	for _, e := range edit {
		e(c)
	}
	return c
}

func (d *desk) draft(id string, c *pb.SummaryContent) {
	d.do(DraftSummary{d.env(), &pb.DraftSummaryRequest{SummaryId: id, Content: c}})
}

func (d *desk) approve(id string) {
	d.do(MarkSummaryReady{d.env(), &pb.MarkSummaryReadyRequest{SummaryId: id}})
	x, _ := find(d.state.summaries, func(x *pb.Summary) bool { return x.SummaryId == id })
	d.do(ApproveSummary{d.env(), &pb.ApproveSummaryRequest{SummaryId: id, ApproverRegistration: "1234567", SeenVersion: x.DraftVersion}})
}

func (d *desk) issued() string {
	id := d.summaryDue()
	d.draft(id, content())
	d.approve(id)
	d.do(IssueSummary{d.env(), &pb.IssueSummaryRequest{SummaryId: id, Recipients: recipients, On: "2026-06-15"}})
	return id
}

func startRequest(edit ...func(*pb.StartSurveillanceRequest)) *pb.StartSurveillanceRequest {
	r := &pb.StartSurveillanceRequest{Protocol: "colorectal-curative", Organisation: "RJ1", TumourGroup: "06", Anchor: "2026-06-15",
		AnchorEvent: "surgery", RemoteMonitoring: true, ReAccessPhone: "01632 960001"}
	for _, e := range edit {
		e(r)
	}
	return r
}

func (d *desk) start(edit ...func(*pb.StartSurveillanceRequest)) *pb.Schedule {
	d.do(StartSurveillance{d.env(), startRequest(edit...)})
	return last(d.state.schedules)
}

// itemOf returns the id of the first item of a test that is still to come.
func (d *desk) itemOf(test string) string {
	it, ok := find(last(d.state.schedules).Items, func(it *pb.ItemView) bool { return it.Item.Test == test && it.State == planned })
	if !ok {
		d.t.Fatalf("no %s is planned", test)
	}
	return it.Item.ItemId
}

func result(edit ...func(*pb.ReceiveResultRequest)) *pb.ReceiveResultRequest {
	r := &pb.ReceiveResultRequest{Test: "cea", Status: "F", On: "2026-06-15", Value: "2.1"}
	for _, e := range edit {
		e(r)
	}
	return r
}

func (d *desk) receive(edit ...func(*pb.ReceiveResultRequest)) string {
	d.do(ReceiveResult{d.env(), result(edit...)})
	return last(d.state.results).ResultId
}

func (d *desk) review(id string) {
	d.do(ReviewResult{d.env(), &pb.ReviewResultRequest{ResultId: id, On: d.now.Format(time.DateOnly)}})
}

func (d *desk) tell(id string) []proto.Message {
	return d.do(TellPatient{d.env(), &pb.TellPatientRequest{ResultId: id, On: d.now.Format(time.DateOnly), Medium: "letter"}})
}

// TestDiagnosisHeardLate: by the time a diagnosis is heard, somebody may have opened
// the plan and closed it. That is no reason for another, unless it was an error.
func TestDiagnosisHeardLate(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	heard := func() int {
		out, err := openFirst{OpenPlan{d.env(), openPlan()}}.Decide(d.state)
		if err != nil {
			t.Fatal(err)
		}
		return len(out)
	}
	if heard() != 1 {
		t.Error("the first plan was not opened")
	}
	d.open()
	d.publish()
	d.do(ClosePlan{d.env(), &pb.ClosePlanRequest{Outcome: "completed", Reason: "done"}})
	if heard() != 0 {
		t.Error("a plan was opened after it had been closed")
	}
	e := newDesk(t)
	e.open()
	e.do(MarkInError{e.env(), &pb.MarkInErrorRequest{SecondPerson: "U2", Reason: "another patient's"}})
	d = e
	if heard() != 1 {
		t.Error("no plan was opened after one that was an error")
	}
}
