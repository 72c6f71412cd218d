package plan

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	pb "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
	"waymark/services/kit/runtest"
)

// others answers as the referral and the care-lead service.
type others struct {
	referralv1.UnimplementedPathwayServiceServer
	careleadv1.UnimplementedLeadServiceServer
	pathway func() (*referralv1.GetPathwayResponse, error)
	lead    func() (*careleadv1.LeadReply, error)
}

func (o *others) GetPathway(context.Context, *referralv1.GetPathwayRequest) (*referralv1.GetPathwayResponse, error) {
	return o.pathway()
}

func (o *others) GetLead(context.Context, *careleadv1.GetLeadRequest) (*careleadv1.LeadReply, error) {
	return o.lead()
}

func willing() *others {
	return &others{
		pathway: func() (*referralv1.GetPathwayResponse, error) {
			return &referralv1.GetPathwayResponse{Pathway: &referralv1.Pathway{PersonId: personID,
				Start:     &referralv1.StartFacts{ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Name: "Lower GI"}},
				Diagnosis: &referralv1.DiagnosisFacts{Icd10: "C18.7"},
				Treatments: []*referralv1.Treatment{{Started: &referralv1.TreatmentFacts{On: "2026-05-10", Modality: "01"},
					Ended: &referralv1.TreatmentEndFacts{On: "2026-05-29"}}}}}, nil
		},
		lead: func() (*careleadv1.LeadReply, error) {
			return &careleadv1.LeadReply{Lead: &careleadv1.Lead{State: careleadv1.LeadState_LEAD_STATE_ACTIVE}}, nil
		},
	}
}

// house is the service behind a real connection, with its log.
type house struct {
	*runtest.House
	log *estest.Log
}

func open(t *testing.T, log *estest.Log, o *others) *house {
	t.Helper()
	referral := run.Part{Name: "referral", Register: func(r grpc.ServiceRegistrar) { referralv1.RegisterPathwayServiceServer(r, o) }}
	carelead := run.Part{Name: "carelead", Register: func(r grpc.ServiceRegistrar) { careleadv1.RegisterLeadServiceServer(r, o) }}
	return &house{runtest.Serve(t, log, func() time.Time { return now }, New, referral, carelead), log}
}

func methods() []protoreflect.MethodDescriptor {
	return runtest.Methods(pb.File_waymark_plan_v1_plan_proto)
}

// header is a command header; each n is another command.
func header(n int) *metav1.Command {
	return &metav1.Command{CommandId: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)).String(),
		Actor: &metav1.Actor{User: "U1", RoleCode: "R0600", Organisation: "RJ1"}}
}

// journey sends a request to every RPC, in an order in which each is taken.
func journey(h *house) (requests []proto.Message) {
	n := 0
	// do fills in the header and the pathway, which every command has.
	do := func(req proto.Message) *pb.PlanReply {
		m := req.ProtoReflect()
		fields := m.Descriptor().Fields()
		if f := fields.ByName("command"); f != nil {
			n++
			m.Set(f, protoreflect.ValueOfMessage(header(n).ProtoReflect()))
		}
		if f := fields.ByName("pathway_id"); f != nil {
			m.Set(f, protoreflect.ValueOfString(pathID))
		}
		requests = append(requests, req)
		reply, _ := h.Must(req).(*pb.PlanReply)
		return reply
	}
	today := "2026-06-15"
	plan := openPlan()
	do(plan)
	worry := do(&pb.RecordConcernRequest{Code: "emotional.worry", Score: 9}).SubjectId
	do(&pb.DiscussConcernRequest{ConcernId: worry, On: today})
	goal := do(&pb.AgreeGoalRequest{Description: "sleep", ConcernIds: []string{worry}}).SubjectId
	do(&pb.UpdateGoalRequest{GoalId: goal, Status: pb.GoalStatus_GOAL_STATUS_ACTIVE})
	act := do(&pb.AddActionRequest{Description: "call", RequiredRole: "R9801", Due: "2026-07-01", GoalId: goal}).SubjectId
	do(&pb.AssignActionRequest{ActionId: act, Assignee: "U2", AssigneeRole: "R9801", Organisation: "RJ1", LeadId: "lead-1"})
	do(&pb.DecideConcernRequest{ConcernId: worry, Decision: pb.ConcernDecision_CONCERN_DECISION_ACTION, ActionId: act})
	do(&pb.WriteSectionRequest{Code: "medical", Text: "text"})
	do(&pb.RecordPreferencesRequest{AboutMe: "gardener", Needs: []string{"large print"}})
	do(&pb.RecordShareConsentRequest{With: "gp", What: "everything", Given: true})

	// An assessment, its concerns taken into the plan.
	due := func() string {
		return do(&pb.RecordAssessmentDueRequest{Point: "01", Due: "2026-07-01"}).SubjectId
	}
	a := due()
	do(offerRequest(a))
	do(&pb.DeclineAssessmentRequest{AssessmentId: a, On: "2026-06-02"})
	do(&pb.ReofferAssessmentRequest{AssessmentId: a, On: "2026-06-02", Expires: "2026-07-10"})
	do(&pb.StartAssessmentRequest{AssessmentId: a, On: "2026-06-03"})
	steps := do(&pb.SubmitAssessmentRequest{AssessmentId: a, On: "2026-06-03", Author: "patient", Concerns: []*pb.ConcernInput{{Code: "physical.pain", Score: 4}}}).Record.CareSteps
	do(&pb.RecordCareStepRequest{StepId: steps[0].StepId, On: today, Outcome: "declined"})
	do(&pb.DiscussAssessmentRequest{AssessmentId: a, On: "2026-06-04", StaffRole: "01"})
	do(&pb.CloseAssessmentRequest{AssessmentId: a, PlanOfferedStatus: "03", On: "2026-06-04"})
	pain := do(&pb.AdoptFromAssessmentRequest{AssessmentId: a}).Record.Plan.Concerns[1].ConcernId
	do(&pb.ResolveConcernRequest{ConcernId: pain, On: today})
	do(&pb.RecordAssessmentNotOfferedRequest{AssessmentId: due(), Reason: "in hospital", On: today})
	b := due()
	do(offerRequest(b))
	do(&pb.RecordUnableToCompleteRequest{AssessmentId: b, Reason: "unwell", On: today})
	do(&pb.GetAssessmentRequest{AssessmentId: a})

	do(&pb.RecordPatientAgreementRequest{Agreed: true, On: today, AgreedBy: "patient"})
	do(&pb.PublishPlanRequest{ReviewDue: "2026-12-15", SharedWithPatient: true})
	do(&pb.EscalateConcernRequest{ConcernId: worry})
	do(&pb.WithholdSectionRequest{Code: "medical", Reason: "not told yet"})
	do(&pb.ShareSectionRequest{Code: "medical"})
	do(&pb.ReviewPlanRequest{On: today, NextReviewDue: "2026-12-20"})
	do(&pb.HoldPlanRequest{Reason: "abroad"})
	do(&pb.ResumePlanRequest{Reason: "back"})
	do(&pb.GetPlanRequest{Version: 1})

	// Surveillance.
	do(&pb.RecordSurveillanceNotNeededRequest{Reason: "not decided"})
	x := do(startRequest(func(r *pb.StartSurveillanceRequest) {
		r.Protocol, r.TumourGroup, r.Anchor = "prostate-radical", "10", "2026-01-31"
	})).Record.Surveillance
	item := func(i int) string { return x.Items[i].Item.ItemId }
	do(&pb.SkipItemRequest{ItemId: item(0), Reason: "done by the practice"})
	do(&pb.RequestItemRequest{ItemId: item(1), OrderId: "o1"})
	do(&pb.RecordItemPerformedRequest{ItemId: item(1), On: today})
	res := do(result(func(r *pb.ReceiveResultRequest) { r.Test = "psa" })).SubjectId
	do(&pb.ReviewResultRequest{ResultId: res, On: today})
	do(&pb.TellPatientRequest{ResultId: res, On: today, Medium: "letter"})
	do(&pb.ChangeProtocolRequest{Protocol: "prostate-radical", Organisation: "RJ2"})
	do(&pb.SuspendRemoteMonitoringRequest{Reason: "symptoms"})
	do(&pb.ReaccessPatientRequest{Reason: "symptoms", On: today})
	do(&pb.EndSurveillanceRequest{Reason: "recurrence"})
	do(&pb.GetSurveillanceRequest{})
	do(&pb.AttachDocumentRequest{Document: letter()})
	do(&pb.ReplaceDocumentRequest{Document: letter()})
	do(&pb.WithdrawDocumentRequest{DocumentId: letter().DocumentId, MessageId: letter().MessageId})

	// The summary of a period of treatment.
	s := do(&pb.RecordSummaryDueRequest{PeriodId: pathID, Modality: "01", StartedOn: "2026-05-10", EndedOn: "2026-05-29"}).SubjectId
	do(&pb.DraftSummaryRequest{SummaryId: s, Content: content()})
	do(&pb.MarkSummaryReadyRequest{SummaryId: s})
	do(&pb.ApproveSummaryRequest{SummaryId: s, ApproverRegistration: "1234567", SeenVersion: 1})
	do(&pb.IssueSummaryRequest{SummaryId: s, Recipients: recipients, On: today})
	do(&pb.RecordDeliveryRequest{SummaryId: s, Version: 1, Recipient: gp, Delivered: true})
	do(&pb.AcknowledgeSummaryRequest{SummaryId: s, Version: 1, Recipient: gp})
	do(&pb.AmendSummaryRequest{SummaryId: s, Content: content(), Reason: "late effects"})
	do(&pb.WithdrawSummaryRequest{SummaryId: s, Reason: "wrong period"})
	do(&pb.GetSummaryRequest{SummaryId: s})

	eq := &pb.SubmitResponseRequest{Instrument: "eq-5d-5l", InstrumentVersion: "1", Author: "patient", On: today}
	for _, it := range Instruments()[0].Items {
		eq.Answers = append(eq.Answers, &pb.AnswerInput{Item: it.Item, Value: 1})
	}
	do(eq)
	worst := proto.CloneOf(eq)
	worst.Answers[0].Value = 5
	do(&pb.CloseAlertRequest{ResponseId: do(worst).SubjectId, On: today, Outcome: "patient_contacted"})
	do(&pb.RunTimersRequest{})
	do(&pb.UpdateActionRequest{ActionId: act, Status: pb.ActionStatus_ACTION_STATUS_COMPLETED})
	do(&pb.ClosePlanRequest{Outcome: "completed", Reason: "done"})
	do(&pb.MarkInErrorRequest{SecondPerson: "U2", Reason: "wrong patient"})
	do(&pb.ListConcernCodesRequest{Domain: "family"})
	do(&pb.ListProtocolsRequest{Organisation: "RJ1"})
	return requests
}

// TestEveryRPC sends a request to each RPC over a real connection, then each
// again: the same id answers the same and records nothing; with another body it
// is refused.
func TestEveryRPC(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewAuditedLog(t), willing())
	requests := journey(h)
	called := map[protoreflect.FullName]bool{}
	for _, req := range requests {
		called[req.ProtoReflect().Descriptor().FullName()] = true
	}
	for _, m := range methods() {
		if !called[m.Input().FullName()] {
			t.Errorf("%s was never called", m.Name())
		}
	}
	before, repeats := len(h.log.Events()), 0
	for _, req := range requests {
		if _, ok := req.(es.Request); !ok {
			continue
		}
		if _, ok := req.(*pb.RunTimersRequest); ok {
			continue // recorded nothing, so there is nothing to repeat
		}
		repeats++
		first, again := h.Must(req), h.Must(req)
		if !proto.Equal(first, again) {
			t.Errorf("%s repeated:\n %v\nthen\n %v", runtest.Name(req), first, again)
		}
		other := proto.Clone(req).(es.Request)
		other.GetCommand().Reason = "another body"
		_, err := h.Call(other)
		if status.Code(err) != codes.InvalidArgument || fault.CodeOf(err) != "command.id_reused" {
			t.Errorf("%s with another body: %v", runtest.Name(req), err)
		}
	}
	if after := len(h.log.Events()); after != before {
		t.Errorf("repeats recorded %d events", after-before)
	}
	t.Logf("%d RPCs called by %d requests, %d commands repeated, %d events", len(called), len(requests), repeats, before)
}

// TestBadInput: an empty request is refused with a field named, and so are wrong
// codes, ids, dates, scores and overlong texts.
func TestBadInput(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), willing())
	empty := 0
	for _, m := range methods() {
		if strings.HasPrefix(string(m.Name()), "List") {
			continue // lists everything
		}
		mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
		if err != nil {
			t.Fatal(err)
		}
		if h.BadField(mt.New().Interface()) != "" {
			empty++
		}
	}
	long := strings.Repeat("x", 10001)
	c := header(1)
	for want, req := range map[string]proto.Message{
		"person_id":           &pb.OpenPlanRequest{Command: c, PathwayId: pathID, PersonId: "9990000018", Diagnosis: &pb.Diagnosis{Stage: "II"}, TreatingOrganisation: "RJ1"},
		"pathway_id":          &pb.HoldPlanRequest{Command: c, PathwayId: "1", Reason: "x"},
		"score":               &pb.RecordConcernRequest{Command: c, PathwayId: pathID, Code: "physical.pain", Score: 11},
		"text":                &pb.WriteSectionRequest{Command: c, PathwayId: pathID, Code: "medical", Text: long},
		"code":                &pb.WriteSectionRequest{Command: c, PathwayId: pathID, Code: "surgery", Text: "x"},
		"due":                 &pb.RecordAssessmentDueRequest{Command: c, PathwayId: pathID, Point: "01", Due: "2026-02-29"},
		"point":               &pb.RecordAssessmentDueRequest{Command: c, PathwayId: pathID, Point: "08", Due: "2026-02-28"},
		"reason":              &pb.RecordAssessmentNotOfferedRequest{Command: c, PathwayId: pathID, AssessmentId: nobody, On: "2026-06-01"},
		"on":                  &pb.StartAssessmentRequest{Command: c, PathwayId: pathID, AssessmentId: nobody},
		"plan_offered_status": &pb.CloseAssessmentRequest{Command: c, PathwayId: pathID, AssessmentId: nobody, PlanOfferedStatus: "07", On: "2026-06-01"},
		"recipients":          &pb.IssueSummaryRequest{Command: c, PathwayId: pathID, SummaryId: nobody, On: "2026-06-01"},
		"status":              result(func(r *pb.ReceiveResultRequest) { r.Command, r.PathwayId, r.Status = c, pathID, "Z" }),
		"re_access_phone":     startRequest(func(r *pb.StartSurveillanceRequest) { r.Command, r.PathwayId, r.ReAccessPhone = c, pathID, "" }),
		"command.actor":       &pb.HoldPlanRequest{Command: &metav1.Command{CommandId: c.CommandId}, PathwayId: pathID, Reason: "x"},
		"diagnosis.stage":     &pb.OpenPlanRequest{Command: c, PathwayId: pathID, PersonId: personID, Diagnosis: &pb.Diagnosis{}, TreatingOrganisation: "RJ1"},
	} {
		if got := h.BadField(req); got != want {
			t.Errorf("the field named is %q, want %q", got, want)
		}
	}
	if n := len(h.log.Events()); n != 0 {
		t.Errorf("%d events recorded", n)
	}
	t.Logf("%d empty requests refused", empty)
}

func TestStatusCodes(t *testing.T) {
	t.Parallel()
	o := willing()
	h := open(t, estest.NewLog(), o)
	first := openPlan()
	first.Command, first.PathwayId = header(1), pathID
	h.Must(first)
	second := openPlan()
	second.Command, second.PathwayId = header(2), strings.ToUpper(pathID)
	act := h.Must(&pb.AddActionRequest{Command: header(3), PathwayId: pathID, Description: "call", RequiredRole: "R9801", Due: "2026-07-01"}).(*pb.PlanReply).SubjectId
	assign := &pb.AssignActionRequest{Command: header(4), PathwayId: pathID, ActionId: act, Assignee: "U2", AssigneeRole: "R9801", Organisation: "RJ1", LeadId: "gone"}
	o.lead = func() (*careleadv1.LeadReply, error) {
		return nil, fault.NotFound("carelead.lead.not_found", "no such lead")
	}
	for _, c := range []struct {
		req  proto.Message
		code codes.Code
		is   string
	}{
		{second, codes.AlreadyExists, "plan.exists"},
		{&pb.GetPlanRequest{PathwayId: nobody}, codes.NotFound, "plan.not_found"},
		{&pb.GetPlanRequest{PathwayId: pathID, Version: 1}, codes.NotFound, "plan.version.not_found"},
		{&pb.GetSummaryRequest{PathwayId: pathID, SummaryId: nobody}, codes.NotFound, "plan.summary.not_found"},
		{&pb.GetAssessmentRequest{PathwayId: pathID, AssessmentId: nobody}, codes.NotFound, "plan.assessment.not_found"},
		{&pb.HoldPlanRequest{Command: header(5), PathwayId: pathID, Reason: "x"}, codes.FailedPrecondition, "plan.state"},
		{&pb.HoldPlanRequest{Command: header(5), PathwayId: nobody, Reason: "x"}, codes.FailedPrecondition, "plan.none"},
		{&pb.RecordConcernRequest{Command: header(5), PathwayId: pathID, Code: "physical.none"}, codes.InvalidArgument, "plan.concern.unknown"},
		{assign, codes.FailedPrecondition, "plan.assignee.inactive"},
	} {
		_, err := h.Call(c.req)
		if status.Code(err) != c.code || fault.CodeOf(err) != c.is {
			t.Errorf("%s: %v, want %v %s", runtest.Name(c.req), err, c.code, c.is)
		}
	}
	// That the care-lead service fails is no answer about the lead.
	o.lead = func() (*careleadv1.LeadReply, error) { return nil, status.Error(codes.Internal, "down") }
	if _, err := h.Call(assign); err == nil || fault.IsAnswer(err) {
		t.Errorf("an outage of the care-lead service was taken for an answer: %v", err)
	}
}

// TestSharedView: the patient is shown no section that was not shared, and no
// result that was not told.
func TestSharedView(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), willing())
	first := openPlan()
	first.Command, first.PathwayId = header(1), pathID
	h.Must(first)
	h.Must(&pb.WriteSectionRequest{Command: header(2), PathwayId: pathID, Code: "medical", Text: "text"})
	h.Must(result(func(r *pb.ReceiveResultRequest) { r.Command, r.PathwayId, r.OutOfRange = header(3), pathID, true }))
	h.Must(&pb.RecordPatientAgreementRequest{Command: header(4), PathwayId: pathID, Agreed: true, On: "2026-06-15", AgreedBy: "patient"})
	h.Must(&pb.PublishPlanRequest{Command: header(5), PathwayId: pathID, ReviewDue: "2026-12-15", SharedWithPatient: true})
	get := func() *pb.Record {
		return h.Must(&pb.GetPlanRequest{PathwayId: pathID, Version: 1, AsSharedWithPatient: true}).(*pb.PlanReply).Record
	}
	if r := get(); len(r.Plan.Sections) != 1 || len(r.Results) != 0 || len(r.Tasks) != 0 {
		t.Errorf("shared: %v", r)
	}
	h.Must(&pb.WithholdSectionRequest{Command: header(6), PathwayId: pathID, Code: "medical", Reason: "not told yet"})
	if r := get(); len(r.Plan.Sections) != 0 {
		t.Errorf("what was withheld since is shown in the earlier version: %v", r.Plan.Sections)
	}
}

func event(m proto.Message) bus.Event {
	return bus.Event{ID: uuid.NewSHA1(uuid.NameSpaceURL, []byte(runtest.Name(m))), Category: "pathway", StreamID: pathID, Message: m, Tenant: "RJ1", CorrelationID: "c1"}
}

// TestReactions: a diagnosis opens the plan and asks for an assessment, the end of
// treatment asks for a summary and one more; however often they are heard and
// whatever fails on the way.
func TestReactions(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	o := willing()
	h := open(t, log, o)
	diagnosis := event(&referralv1.DiagnosisCommunicated{FactId: nobody, Facts: &referralv1.DiagnosisFacts{Told: &referralv1.Told{On: "2026-03-05"}, TumourGroup: "06"}})
	end := event(&referralv1.TreatmentPeriodEnded{FactId: personID, Facts: &referralv1.TreatmentEndFacts{On: "2026-05-29", LastPeriod: true, Organisation: "RJ1"}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	answer := o.pathway
	o.pathway = func() (*referralv1.GetPathwayResponse, error) { return nil, status.Error(codes.Internal, "down") }
	for _, e := range []bus.Event{diagnosis, end} {
		if err := h.Part.React(ctx, e); err == nil {
			t.Error("a fault was taken for an answer")
		}
	}
	o.pathway = answer
	log.SetFaults(estest.Faults{Lost: 0.4, Refused: 0.2})
	for _, e := range []bus.Event{diagnosis, end} {
		for range 50 {
			if h.Part.React(ctx, e) == nil {
				break
			}
		}
	}
	log.SetFaults(estest.Faults{})
	once := len(log.Events())
	o.pathway = func() (*referralv1.GetPathwayResponse, error) { // reads differently now
		return &referralv1.GetPathwayResponse{Pathway: &referralv1.Pathway{PersonId: nobody}}, nil
	}
	again := open(t, log, o) // a process that has just started
	for _, e := range []bus.Event{diagnosis, end, diagnosis} {
		for _, part := range []run.Part{h.Part, again.Part} {
			if err := part.React(ctx, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(log.Events()); n != once || n != 7 {
		t.Errorf("%d events, then %d; want 7", once, n)
	}
	r := h.Must(&pb.GetPlanRequest{PathwayId: pathID}).(*pb.PlanReply).Record
	if p := r.Plan; p.PersonId != personID || p.Diagnosis.Icd10 != "C18.7" || p.Diagnosis.ToldOn != "2026-03-05" || p.TreatingTeam != "Lower GI" {
		t.Errorf("the plan is %v", p)
	}
	if a := r.Assessments; len(a) != 2 || a[0].Point != "01" || a[0].Due != "2026-04-05" || a[1].Point != "04" || a[1].Due != "2026-07-10" {
		t.Errorf("the assessments are %v", a)
	}
	if x := r.CareSteps; len(x) != 3 || x[0].Kind != "ccr_3m" || x[0].Due != "2026-06-06" || x[1].Due != "2027-03-05" || x[2].Kind != "qol_18m" || x[2].Due != "2027-09-05" || x[2].Rule != "QOL-18M" || x[2].Source == "" || x[2].Confidence == "" {
		t.Errorf("the steps are %v", x)
	}
	if s := r.Summaries; len(s) != 1 || s[0].Target != "2026-06-26" || s[0].Latest != "2026-07-10" || s[0].Period.Modality != "01" || !s[0].Period.Last {
		t.Errorf("the summaries are %v", s)
	}
}

// TestRefusedLookup: where the referral service knows no such pathway, that is
// the end of the plan, not of the rest.
func TestRefusedLookup(t *testing.T) {
	t.Parallel()
	log := estest.NewLog()
	o := willing()
	o.pathway = func() (*referralv1.GetPathwayResponse, error) {
		return nil, fault.NotFound("pathway.not_found", "no such pathway")
	}
	h := open(t, log, o)
	for _, m := range []proto.Message{
		&referralv1.DiagnosisCommunicated{Facts: &referralv1.DiagnosisFacts{Told: &referralv1.Told{On: "2026-03-05"}}},
		&referralv1.TreatmentPeriodEnded{FactId: personID, Facts: &referralv1.TreatmentEndFacts{On: "2026-05-29"}},
		&referralv1.PathwayClosed{}, // ends the assessments and the steps
	} {
		if err := h.Part.React(t.Context(), event(m)); err != nil {
			t.Error(err)
		}
	}
	var types []string
	for _, e := range log.Events() {
		types = append(types, e.Type[strings.LastIndex(e.Type, ".")+1:])
	}
	if got := strings.Join(types, " "); got != "CareStepBecameDue CareStepBecameDue CareStepBecameDue AssessmentBecameDue SummaryBecameDue AssessmentBecameDue OpenThingsEnded" {
		t.Errorf("recorded %s", got)
	}
}
