package plan

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "waymark/proto/waymark/plan/v1"
)

// refusals provokes every code that a decision refuses with.
func refusals() map[string]func(d *desk) decision {
	return map[string]func(d *desk) decision{
		"plan.exists": func(d *desk) decision { d.open(); return OpenPlan{d.env(), openPlan()} },
		"plan.none":   func(d *desk) decision { return RecordConcern{d.env(), &pb.RecordConcernRequest{Code: "physical.pain"}} },
		"plan.state":  func(d *desk) decision { d.open(); return HoldPlan{d.env(), &pb.HoldPlanRequest{Reason: "x"}} },
		"plan.diagnosis.stage": func(d *desk) decision {
			r := openPlan()
			r.Diagnosis.Stage = "unstaged"
			return OpenPlan{d.env(), r}
		},
		"plan.date.invalid": func(d *desk) decision {
			r := openPlan()
			r.Diagnosis.DiagnosedOn = "2026-02-30"
			return OpenPlan{d.env(), r}
		},
		"plan.date.in_future": func(d *desk) decision {
			r := openPlan()
			r.Diagnosis.ToldOn = "2026-06-16"
			return OpenPlan{d.env(), r}
		},
		"plan.concern.unknown": func(d *desk) decision {
			d.open()
			return RecordConcern{d.env(), &pb.RecordConcernRequest{Code: "physical.nothing"}}
		},
		"plan.concern.twice": func(d *desk) decision {
			id := d.offer()
			d.do(StartAssessment{d.env(), &pb.StartAssessmentRequest{AssessmentId: id, On: "2026-06-02"}})
			return SubmitAssessment{d.env(), &pb.SubmitAssessmentRequest{AssessmentId: id, On: "2026-06-03",
				Concerns: []*pb.ConcernInput{{Code: "physical.pain", Score: 1}, {Code: "physical.pain", Score: 2}}}}
		},
		"plan.concern.not_found": func(d *desk) decision {
			d.open()
			return ResolveConcern{d.env(), &pb.ResolveConcernRequest{ConcernId: nobody, On: "2026-06-15"}}
		},
		"plan.concern.action_missing": func(d *desk) decision {
			d.open()
			return DecideConcern{d.env(), &pb.DecideConcernRequest{ConcernId: d.raise("physical.pain", 3), Decision: pb.ConcernDecision_CONCERN_DECISION_ACTION, ActionId: nobody}}
		},
		"plan.alert.needs_person": func(d *desk) decision {
			d.role = ""
			return CloseAlert{d.env(), &pb.CloseAlertRequest{ResponseId: nobody, On: "2026-06-15", Outcome: "plan_changed"}}
		},
		"plan.response.not_found": func(d *desk) decision {
			return CloseAlert{d.env(), &pb.CloseAlertRequest{ResponseId: nobody, On: "2026-06-15", Outcome: "plan_changed"}}
		},
		"plan.care_step.not_found": func(d *desk) decision {
			return RecordCareStep{d.env(), &pb.RecordCareStepRequest{StepId: nobody, On: "2026-06-15", Outcome: "done"}}
		},
		"plan.concern.unresolved": func(d *desk) decision {
			d.open()
			d.raise("physical.pain", 3)
			return PublishPlan{d.env(), &pb.PublishPlanRequest{ReviewDue: "2026-12-15"}}
		},
		"plan.review_date.missing": func(d *desk) decision { d.open(); return PublishPlan{d.env(), &pb.PublishPlanRequest{}} },
		"plan.review_date.past": func(d *desk) decision {
			d.open()
			return PublishPlan{d.env(), &pb.PublishPlanRequest{ReviewDue: "2026-06-15"}}
		},
		"plan.agreement.missing": func(d *desk) decision {
			d.open()
			return PublishPlan{d.env(), &pb.PublishPlanRequest{ReviewDue: "2026-12-15"}}
		},
		"plan.stale": func(d *desk) decision {
			d.open()
			d.raise("physical.pain", 3)
			return PublishPlan{d.env(), &pb.PublishPlanRequest{ReviewDue: "2026-12-15", SeenRevision: 7}}
		},
		"plan.agreement.by": func(d *desk) decision {
			d.open()
			return RecordPatientAgreement{d.env(), &pb.RecordPatientAgreementRequest{Agreed: true, On: "2026-06-15"}}
		},
		"plan.agreement.reason": func(d *desk) decision {
			d.open()
			return RecordPatientAgreement{d.env(), &pb.RecordPatientAgreementRequest{On: "2026-06-15"}}
		},
		"plan.preferences.empty": func(d *desk) decision { d.open(); return RecordPreferences{d.env(), &pb.RecordPreferencesRequest{}} },
		"plan.goal.not_found": func(d *desk) decision {
			d.open()
			return UpdateGoal{d.env(), &pb.UpdateGoalRequest{GoalId: nobody, Status: pb.GoalStatus_GOAL_STATUS_ACTIVE}}
		},
		"plan.action.not_found": func(d *desk) decision {
			d.open()
			return UpdateAction{d.env(), &pb.UpdateActionRequest{ActionId: nobody, Status: pb.ActionStatus_ACTION_STATUS_COMPLETED}}
		},
		"plan.section.not_found": func(d *desk) decision {
			d.open()
			d.publish()
			return ShareSection{d.env(), &pb.ShareSectionRequest{Code: "diet"}}
		},
		"plan.assignee.inactive": func(d *desk) decision {
			d.open()
			return AssignAction{Env: d.env(), AssignActionRequest: &pb.AssignActionRequest{ActionId: d.act(), Assignee: "U2", AssigneeRole: "R0600", Organisation: "RJ1", RoleUntil: "2026-06-14"}}
		},
		"plan.assignee.role": func(d *desk) decision {
			d.open()
			return AssignAction{Env: d.env(), AssignActionRequest: &pb.AssignActionRequest{ActionId: d.act(), Assignee: "U2", AssigneeRole: "R9801", Organisation: "RJ1"}}
		},
		"plan.open_actions": func(d *desk) decision {
			d.open()
			d.act()
			d.publish()
			return ClosePlan{d.env(), &pb.ClosePlanRequest{Outcome: "completed", Reason: "done"}}
		},
		"plan.second_person": func(d *desk) decision {
			d.open()
			return MarkInError{d.env(), &pb.MarkInErrorRequest{SecondPerson: "U1", Reason: "wrong patient"}}
		},
		"plan.date.order": func(d *desk) decision {
			return StartAssessment{d.env(), &pb.StartAssessmentRequest{AssessmentId: d.offer(), On: "2026-05-31"}}
		},
		"plan.date.no_rule": func(d *desk) decision {
			return RecordSummaryDue{d.env(), &pb.RecordSummaryDueRequest{PeriodId: pathID, EndedOn: "1999-01-01"}}
		},
		"plan.assessment.not_found": func(d *desk) decision {
			return DeclineAssessment{d.env(), &pb.DeclineAssessmentRequest{AssessmentId: nobody, On: "2026-06-15"}}
		},
		"plan.assessment.exists": func(d *desk) decision {
			d.do(RecordAssessmentDue{d.env(), &pb.RecordAssessmentDueRequest{Point: "01", Due: "2026-07-01"}})
			return RecordAssessmentDue{d.env(), &pb.RecordAssessmentDueRequest{Point: "01", Due: "2026-07-01"}}
		},
		"plan.assessment.has_concerns": func(d *desk) decision {
			id := d.submit(&pb.ConcernInput{Code: "physical.pain", Score: 3})
			d.do(DiscussAssessment{d.env(), &pb.DiscussAssessmentRequest{AssessmentId: id, On: "2026-06-04", StaffRole: "01"}})
			return CloseAssessment{d.env(), &pb.CloseAssessmentRequest{AssessmentId: id, PlanOfferedStatus: "06", On: "2026-06-05"}}
		},
		"plan.summary.not_found": func(d *desk) decision {
			return DraftSummary{d.env(), &pb.DraftSummaryRequest{SummaryId: nobody, Content: content()}}
		},
		"plan.summary.exists": func(d *desk) decision {
			d.summaryDue()
			return RecordSummaryDue{d.env(), &pb.RecordSummaryDueRequest{PeriodId: pathID, EndedOn: "2026-05-29"}}
		},
		"plan.summary.incomplete": func(d *desk) decision {
			id := d.summaryDue()
			d.draft(id, content(func(c *pb.SummaryContent) { c.RedFlagSymptoms = " " }))
			return MarkSummaryReady{d.env(), &pb.MarkSummaryReadyRequest{SummaryId: id}}
		},
		"plan.summary.approver_unregistered": func(d *desk) decision {
			id := d.summaryDue()
			d.draft(id, content())
			d.do(MarkSummaryReady{d.env(), &pb.MarkSummaryReadyRequest{SummaryId: id}})
			return ApproveSummary{d.env(), &pb.ApproveSummaryRequest{SummaryId: id, ApproverRegistration: "none", SeenVersion: 1}}
		},
		"plan.summary.second_clinician": func(d *desk) decision {
			id := d.summaryDue()
			d.draft(id, content(func(c *pb.SummaryContent) { c.ToxicitiesAndLateEffects = "None." }))
			d.do(MarkSummaryReady{d.env(), &pb.MarkSummaryReadyRequest{SummaryId: id}})
			return ApproveSummary{d.env(), &pb.ApproveSummaryRequest{SummaryId: id, ApproverRegistration: "1234567", SeenVersion: 1}}
		},
		"plan.summary.result_untold": func(d *desk) decision {
			id := d.summaryDue()
			d.draft(id, content())
			d.approve(id)
			d.receive()
			return IssueSummary{d.env(), &pb.IssueSummaryRequest{SummaryId: id, Recipients: recipients, On: "2026-06-15"}}
		},
		"plan.summary.already_issued": func(d *desk) decision {
			return IssueSummary{d.env(), &pb.IssueSummaryRequest{SummaryId: d.issued(), Recipients: recipients[1:2], On: "2026-06-15"}}
		},
		"plan.summary.recipient": func(d *desk) decision {
			return AcknowledgeSummary{d.env(), &pb.AcknowledgeSummaryRequest{SummaryId: d.issued(), Version: 1, Recipient: patient}}
		},
		"plan.summary.failure_reason": func(d *desk) decision {
			return RecordDelivery{d.env(), &pb.RecordDeliveryRequest{SummaryId: d.issued(), Version: 1, Recipient: gp}}
		},
		"plan.delivery.not_found": func(d *desk) decision {
			return RecordDelivery{d.env(), &pb.RecordDeliveryRequest{SummaryId: d.issued(), Version: 2, Recipient: gp, Delivered: true}}
		},
		"plan.surveillance.none": func(d *desk) decision { return SkipItem{d.env(), &pb.SkipItemRequest{ItemId: nobody, Reason: "x"}} },
		"plan.surveillance.exists": func(d *desk) decision {
			d.start()
			return StartSurveillance{d.env(), startRequest()}
		},
		"plan.surveillance.unwatched": func(d *desk) decision {
			return StartSurveillance{d.env(), startRequest(func(r *pb.StartSurveillanceRequest) { r.Protocol, r.TumourGroup = "endometrial-low-risk", "08" })}
		},
		"plan.protocol.not_approved": func(d *desk) decision {
			return StartSurveillance{d.env(), startRequest(func(r *pb.StartSurveillanceRequest) { r.Organisation = "RX9" })}
		},
		"plan.protocol.unchanged": func(d *desk) decision {
			d.start()
			return ChangeProtocol{d.env(), &pb.ChangeProtocolRequest{Protocol: "colorectal-curative", Organisation: "RJ1"}}
		},
		"plan.item.not_found": func(d *desk) decision {
			d.start()
			return RequestItem{d.env(), &pb.RequestItemRequest{ItemId: nobody, OrderId: "o"}}
		},
		"plan.document.exists": func(d *desk) decision {
			d.do(AttachDocument{d.env(), &pb.AttachDocumentRequest{Document: letter()}})
			return AttachDocument{d.env(), &pb.AttachDocumentRequest{Document: letter()}}
		},
		"plan.document.not_found": func(d *desk) decision {
			return ReplaceDocument{d.env(), &pb.ReplaceDocumentRequest{Document: letter()}}
		},
		"plan.result.not_found": func(d *desk) decision {
			return ReceiveResult{d.env(), result(func(r *pb.ReceiveResultRequest) { r.ResultId, r.Status = nobody, "C" })}
		},
		"plan.result.final": func(d *desk) decision {
			id := d.receive()
			return ReceiveResult{d.env(), result(func(r *pb.ReceiveResultRequest) { r.ResultId = id })}
		},
		"plan.result.needs_person": func(d *desk) decision {
			id := d.receive(func(r *pb.ReceiveResultRequest) { r.OutOfRange = true })
			d.role = ""
			return ReviewResult{d.env(), &pb.ReviewResultRequest{ResultId: id, On: "2026-06-15"}}
		},
		"plan.result.open": func(d *desk) decision {
			d.start()
			d.receive()
			return EndSurveillance{d.env(), &pb.EndSurveillanceRequest{Reason: "moved"}}
		},
	}
}

// answered are the codes of the service's queries and look-ups, which the tests
// over a connection provoke, and the name of what is logged.
var answered = []string{"plan.sweep_failed", "plan.behind", "plan.rounds.behind", "plan.not_found", "plan.version.not_found", "plan.pathway.not_connected"}

// TestEveryRefusal provokes each code, and finds each code of the source among them.
func TestEveryRefusal(t *testing.T) {
	t.Parallel()
	table := refusals()
	for code, provoke := range table {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			if got := d.code(provoke(d)); got != code {
				t.Errorf("refused with %q", got)
			}
		})
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	called := regexp.MustCompile(`"(plan\.[a-z_.]+)"`)
	nouns := regexp.MustCompile(`unknown\("([a-z_]+)"\)`)
	inSource := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var codes []string
		for _, m := range called.FindAllSubmatch(src, -1) {
			codes = append(codes, string(m[1]))
		}
		for _, m := range nouns.FindAllSubmatch(src, -1) {
			codes = append(codes, "plan."+string(m[1])+".not_found")
		}
		for _, code := range codes {
			inSource++
			if _, ok := table[code]; !ok && !strings.HasSuffix(code, ".") && !slices.Contains(answered, code) {
				t.Errorf("%s: no test provokes %s", f, code)
			}
		}
	}
	t.Logf("%d refusals provoked, named %d times in the source", len(table), inSource)
}
