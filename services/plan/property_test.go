package plan

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
)

// TestPlanInvariants draws commands, most of them senseless, and holds after
// each: at most one plan is open; nothing is published with an unsettled concern;
// a high emotional score is escalated in the append that raises it; nobody is
// monitored remotely with nothing to come and no end; every summary that was
// issued was approved; a result out of range is never told unreviewed; what is
// told to the patient in a summary comes after the results; and no earlier state
// is touched. It states them in its own words, from the events.
func TestPlanInvariants(t *testing.T) {
	t.Parallel()
	taken, refused, published, told := 0, 0, 0, 0
	rapid.Check(t, func(r *rapid.T) {
		var s State
		watch := newWatch()
		at := now
		for i := range rapid.IntRange(20, 80).Draw(r, "commands") {
			at = at.Add(time.Duration(rapid.IntRange(0, 200).Draw(r, "hours")) * time.Hour)
			e := Env{Command: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, i)), User: rapid.SampledFrom([]string{"U1", "U2"}).Draw(r, "user"),
				Role: rapid.SampledFrom([]string{"R0600", "R0600", ""}).Draw(r, "role"), Now: at}
			c := drawCommand(r, s, e)
			out, err := c.Decide(s)
			if err != nil {
				refused++
				var f *fault.Error
				if !errors.As(err, &f) {
					r.Fatalf("%T refused without a code: %v", c, err)
				}
				continue
			}
			taken++
			before := s.Record(pathID)
			was := proto.Clone(before)
			for _, m := range out {
				s = evolve(s, m)
			}
			if !proto.Equal(before, was) {
				r.Fatalf("%T changed an earlier state", c)
			}
			if err := watch.see(s, out); err != nil {
				r.Fatalf("%T: %v", c, err)
			}
		}
		published, told = published+watch.published, told+watch.told
	})
	if taken == 0 || refused == 0 || published == 0 || told == 0 {
		t.Errorf("%d taken, %d refused, %d published, %d told: the test looks at nothing", taken, refused, published, told)
	}
	t.Logf("%d commands taken, %d refused, %d plans published, %d results told", taken, refused, published, told)
}

// watch is what the invariants need to know of the events so far.
type watch struct {
	open            bool
	unsettled       map[string]bool
	approved        map[string]int64
	reviewed        map[string]bool // results
	untold          map[string]bool
	published, told int
}

func newWatch() *watch {
	return &watch{unsettled: map[string]bool{}, approved: map[string]int64{}, reviewed: map[string]bool{}, untold: map[string]bool{}}
}

func (w *watch) see(s State, out []proto.Message) error {
	escalated := map[string]bool{}
	for _, m := range out {
		if e, ok := m.(*pb.ConcernEscalated); ok {
			escalated[e.ConcernId] = true
		}
	}
	for _, m := range out {
		switch e := m.(type) {
		case *pb.PlanOpened:
			if w.open {
				return errors.New("a second plan is open")
			}
			w.open, w.unsettled = true, map[string]bool{}
		case *pb.PlanClosed, *pb.PlanEnteredInError:
			w.open = false
		case *pb.ConcernRaised:
			w.unsettled[e.ConcernId] = true
			if e.Score >= 8 && e.Code == "emotional.worry" && !escalated[e.ConcernId] {
				return errors.New("a high emotional score was not escalated")
			}
		case *pb.ConcernDecided:
			delete(w.unsettled, e.ConcernId)
		case *pb.ConcernResolved:
			delete(w.unsettled, e.ConcernId)
		case *pb.PlanPublished:
			w.published++
			if len(w.unsettled) > 0 {
				return errors.New("published with an unsettled concern")
			}
		case *pb.SummaryApproved:
			w.approved[e.SummaryId] = e.Version
		case *pb.SummaryIssued:
			if w.approved[e.SummaryId] != e.Version {
				return fmt.Errorf("version %d was issued, %d approved", e.Version, w.approved[e.SummaryId])
			}
			for _, r := range e.Recipients {
				if r == pb.RecipientKind_RECIPIENT_KIND_PATIENT && len(w.untold) > 0 {
					return errors.New("issued to the patient before a result was told")
				}
			}
		case *pb.ResultReceived:
			w.reviewed[e.ResultId] = false
			w.untold[e.ResultId] = true
			if e.Status == "X" {
				delete(w.untold, e.ResultId)
			}
		case *pb.ResultReviewed:
			w.reviewed[e.ResultId] = true
		case *pb.PatientToldResult:
			w.told++
			if !w.reviewed[e.ResultId] {
				return errors.New("told before anybody reviewed it")
			}
			delete(w.untold, e.ResultId)
		}
	}
	r := s.Record(pathID)
	if x := r.Surveillance; x.GetRemoteMonitoring() && x.Ends == "" {
		toCome := 0
		for _, it := range x.Items {
			switch it.State {
			case pb.ItemState_ITEM_STATE_TOLD, pb.ItemState_ITEM_STATE_SKIPPED, pb.ItemState_ITEM_STATE_SUPERSEDED:
			default:
				toCome++
			}
		}
		if toCome == 0 {
			return errors.New("on remote monitoring with nothing to come and no end")
		}
	}
	waiting := map[string]bool{}
	for _, k := range r.Tasks {
		waiting[k.SubjectId] = true
	}
	for id := range w.untold {
		if !waiting[id] {
			return errors.New("a result is open and on no worklist")
		}
	}
	return nil
}

// idOf draws the id of something that exists, or of nothing.
func idOf[M any](r *rapid.T, list []M, id func(M) string) string {
	if len(list) == 0 || rapid.IntRange(0, 9).Draw(r, "nothing") == 0 {
		return nobody
	}
	return id(list[len(list)-1-rapid.IntRange(0, min(2, len(list)-1)).Draw(r, "which")])
}

func drawCommand(r *rapid.T, s State, e Env) decision {
	rec := s.Record(pathID)
	today := e.Today().String()
	concernID := idOf(r, rec.Plan.GetConcerns(), (*pb.Concern).GetConcernId)
	assessmentID := idOf(r, rec.Assessments, (*pb.Assessment).GetAssessmentId)
	summaryID := idOf(r, rec.Summaries, (*pb.Summary).GetSummaryId)
	itemID := idOf(r, rec.Surveillance.GetItems(), func(it *pb.ItemView) string { return it.Item.ItemId })
	resultID := idOf(r, rec.Results, (*pb.Result).GetResultId)
	score := rapid.Int32Range(0, 10).Draw(r, "score")
	remote := rapid.Bool().Draw(r, "remote")
	to := rapid.SampledFrom([][]pb.RecipientKind{{1, 2, 3}, {2}, {1}}).Draw(r, "recipients")
	version := rapid.Int64Range(1, 2).Draw(r, "version")
	code := rapid.SampledFrom([]string{"emotional.worry", "physical.pain"}).Draw(r, "code")
	protocol := rapid.SampledFrom([]string{"breast-curative", "endometrial-low-risk", "prostate-radical"}).Draw(r, "protocol")
	all := []decision{
		OpenPlan{e, openPlan()},
		OpenPlan{e, openPlan()},
		RecordConcern{e, &pb.RecordConcernRequest{Code: code, Score: score}},
		DecideConcern{e, &pb.DecideConcernRequest{ConcernId: concernID, Decision: pb.ConcernDecision(rapid.Int32Range(1, 4).Draw(r, "decision"))}},
		ResolveConcern{e, &pb.ResolveConcernRequest{ConcernId: concernID, On: today}},
		RecordPatientAgreement{e, &pb.RecordPatientAgreementRequest{Agreed: true, On: today, AgreedBy: "patient"}},
		PublishPlan{e, &pb.PublishPlanRequest{ReviewDue: e.Today().AddDays(30).String()}},
		PublishPlan{e, &pb.PublishPlanRequest{ReviewDue: e.Today().AddDays(30).String()}},
		ClosePlan{e, &pb.ClosePlanRequest{Outcome: "completed", Reason: "x"}},
		OfferAssessment{e, &pb.OfferAssessmentRequest{Point: "01", StaffRole: "01", On: today, OfferedStatus: "01", Expires: e.Today().AddDays(14).String()}},
		StartAssessment{e, &pb.StartAssessmentRequest{AssessmentId: assessmentID, On: today}},
		SubmitAssessment{e, &pb.SubmitAssessmentRequest{AssessmentId: assessmentID, On: today, Concerns: []*pb.ConcernInput{{Code: code, Score: score}}}},
		AdoptFromAssessment{e, &pb.AdoptFromAssessmentRequest{AssessmentId: assessmentID}},
		RecordSummaryDue{e, &pb.RecordSummaryDueRequest{PeriodId: e.ID("period"), EndedOn: today}},
		DraftSummary{e, &pb.DraftSummaryRequest{SummaryId: summaryID, Content: content()}},
		MarkSummaryReady{e, &pb.MarkSummaryReadyRequest{SummaryId: summaryID}},
		ApproveSummary{e, &pb.ApproveSummaryRequest{SummaryId: summaryID, ApproverRegistration: "1234567", SeenVersion: version}},
		IssueSummary{e, &pb.IssueSummaryRequest{SummaryId: summaryID, Recipients: to, On: today}},
		AmendSummary{e, &pb.AmendSummaryRequest{SummaryId: summaryID, Content: content(), Reason: "x"}},
		StartSurveillance{e, &pb.StartSurveillanceRequest{Protocol: protocol, Organisation: "RJ1", TumourGroup: map[string]string{"breast-curative": "01", "endometrial-low-risk": "08", "prostate-radical": "10"}[protocol],
			Anchor: "2026-06-01", AnchorEvent: "surgery", RemoteMonitoring: remote, ReAccessPhone: "1"}},
		ChangeProtocol{e, &pb.ChangeProtocolRequest{Protocol: protocol, Organisation: "RJ2"}},
		SkipItem{e, &pb.SkipItemRequest{ItemId: itemID, Reason: "x"}},
		SkipItem{e, &pb.SkipItemRequest{ItemId: itemID, Reason: "x"}},
		ReceiveResult{e, &pb.ReceiveResultRequest{ItemId: itemID, Test: "mammogram", Status: "F", OutOfRange: remote, On: today}},
		ReceiveResult{e, &pb.ReceiveResultRequest{Test: "psa", Status: "F", OutOfRange: remote, On: today}},
		ReceiveResult{e, &pb.ReceiveResultRequest{ResultId: resultID, Test: "psa", Status: rapid.SampledFrom([]string{"C", "X"}).Draw(r, "status"), On: today}},
		ReviewResult{e, &pb.ReviewResultRequest{ResultId: resultID, On: today}},
		ReviewResult{e, &pb.ReviewResultRequest{ResultId: resultID, On: today}},
		TellPatient{e, &pb.TellPatientRequest{ResultId: resultID, On: today, Medium: "letter"}},
		TellPatient{e, &pb.TellPatientRequest{ResultId: resultID, On: today, Medium: "letter"}},
		EndSurveillance{e, &pb.EndSurveillanceRequest{Reason: "x"}},
		RunTimers{e},
	}
	if rapid.IntRange(0, 3).Draw(r, "any") > 0 { // mostly what is possible now, so that histories get somewhere
		possible := slices.DeleteFunc(slices.Clone(all), func(c decision) bool {
			out, err := c.Decide(s)
			return err != nil || len(out) == 0
		})
		if len(possible) > 0 {
			all = possible
		}
	}
	return rapid.SampledFrom(all).Draw(r, "command")
}
