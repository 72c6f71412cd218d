package plan

import (
	"cmp"
	"context"

	pb "waymark/proto/waymark/plan/v1"
)

// One method for each command of the contract: the decision, and the id of what
// the command makes or changes.

func (s *server) OpenPlan(ctx context.Context, req *pb.OpenPlanRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	return s.do(ctx, req, e.ID("plan"), OpenPlan{e, req})
}

func (s *server) RecordConcern(ctx context.Context, req *pb.RecordConcernRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	reply, err := s.do(ctx, req, "", RecordConcern{e, req})
	for _, c := range reply.GetRecord().GetPlan().GetConcerns() {
		if c.Code == req.Code && (reply.SubjectId == "" || live(c)) { // the newest of its code
			reply.SubjectId = c.ConcernId
		}
	}
	return reply, err
}

func (s *server) AdoptFromAssessment(ctx context.Context, req *pb.AdoptFromAssessmentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.AssessmentId, AdoptFromAssessment{s.env(req), req})
}

func (s *server) EscalateConcern(ctx context.Context, req *pb.EscalateConcernRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ConcernId, EscalateConcern{s.env(req), req})
}

func (s *server) DiscussConcern(ctx context.Context, req *pb.DiscussConcernRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ConcernId, DiscussConcern{s.env(req), req})
}

func (s *server) DecideConcern(ctx context.Context, req *pb.DecideConcernRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ConcernId, DecideConcern{s.env(req), req})
}

func (s *server) ResolveConcern(ctx context.Context, req *pb.ResolveConcernRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ConcernId, ResolveConcern{s.env(req), req})
}

func (s *server) AgreeGoal(ctx context.Context, req *pb.AgreeGoalRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	return s.do(ctx, req, e.ID("goal"), AgreeGoal{e, req})
}

func (s *server) UpdateGoal(ctx context.Context, req *pb.UpdateGoalRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.GoalId, UpdateGoal{s.env(req), req})
}

func (s *server) AddAction(ctx context.Context, req *pb.AddActionRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	return s.do(ctx, req, e.ID("action"), AddAction{e, req})
}

func (s *server) UpdateAction(ctx context.Context, req *pb.UpdateActionRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ActionId, UpdateAction{s.env(req), req})
}

func (s *server) WriteSection(ctx context.Context, req *pb.WriteSectionRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", WriteSection{s.env(req), req})
}

func (s *server) RecordPreferences(ctx context.Context, req *pb.RecordPreferencesRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", RecordPreferences{s.env(req), req})
}

func (s *server) RecordShareConsent(ctx context.Context, req *pb.RecordShareConsentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", RecordShareConsent{s.env(req), req})
}

func (s *server) RecordPatientAgreement(ctx context.Context, req *pb.RecordPatientAgreementRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", RecordPatientAgreement{s.env(req), req})
}

func (s *server) PublishPlan(ctx context.Context, req *pb.PublishPlanRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", PublishPlan{s.env(req), req})
}

func (s *server) ReviewPlan(ctx context.Context, req *pb.ReviewPlanRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", ReviewPlan{s.env(req), req})
}

func (s *server) HoldPlan(ctx context.Context, req *pb.HoldPlanRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", HoldPlan{s.env(req), req})
}

func (s *server) ResumePlan(ctx context.Context, req *pb.ResumePlanRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", ResumePlan{s.env(req), req})
}

func (s *server) ShareSection(ctx context.Context, req *pb.ShareSectionRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", ShareSection{s.env(req), req})
}

func (s *server) WithholdSection(ctx context.Context, req *pb.WithholdSectionRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", WithholdSection{s.env(req), req})
}

func (s *server) ClosePlan(ctx context.Context, req *pb.ClosePlanRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", ClosePlan{s.env(req), req})
}

func (s *server) MarkInError(ctx context.Context, req *pb.MarkInErrorRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", MarkInError{s.env(req), req})
}

func (s *server) RecordAssessmentDue(ctx context.Context, req *pb.RecordAssessmentDueRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	return s.do(ctx, req, e.ID("assessment"), RecordAssessmentDue{e, req})
}

func (s *server) OfferAssessment(ctx context.Context, req *pb.OfferAssessmentRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	return s.do(ctx, req, cmp.Or(lower(req.AssessmentId), e.ID("assessment")), OfferAssessment{e, req})
}

func (s *server) RecordAssessmentNotOffered(ctx context.Context, req *pb.RecordAssessmentNotOfferedRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.AssessmentId, RecordAssessmentNotOffered{s.env(req), req})
}

func (s *server) DeclineAssessment(ctx context.Context, req *pb.DeclineAssessmentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.AssessmentId, DeclineAssessment{s.env(req), req})
}

func (s *server) RecordUnableToComplete(ctx context.Context, req *pb.RecordUnableToCompleteRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.AssessmentId, RecordUnableToComplete{s.env(req), req})
}

func (s *server) StartAssessment(ctx context.Context, req *pb.StartAssessmentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.AssessmentId, StartAssessment{s.env(req), req})
}

func (s *server) SubmitAssessment(ctx context.Context, req *pb.SubmitAssessmentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.AssessmentId, SubmitAssessment{s.env(req), req})
}

func (s *server) DiscussAssessment(ctx context.Context, req *pb.DiscussAssessmentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.AssessmentId, DiscussAssessment{s.env(req), req})
}

func (s *server) CloseAssessment(ctx context.Context, req *pb.CloseAssessmentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.AssessmentId, CloseAssessment{s.env(req), req})
}

func (s *server) ReofferAssessment(ctx context.Context, req *pb.ReofferAssessmentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.AssessmentId, ReofferAssessment{s.env(req), req})
}

func (s *server) RecordSummaryDue(ctx context.Context, req *pb.RecordSummaryDueRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	return s.do(ctx, req, e.ID("summary"), RecordSummaryDue{e, req})
}

func (s *server) DraftSummary(ctx context.Context, req *pb.DraftSummaryRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.SummaryId, DraftSummary{s.env(req), req})
}

func (s *server) MarkSummaryReady(ctx context.Context, req *pb.MarkSummaryReadyRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.SummaryId, MarkSummaryReady{s.env(req), req})
}

func (s *server) ApproveSummary(ctx context.Context, req *pb.ApproveSummaryRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.SummaryId, ApproveSummary{s.env(req), req})
}

func (s *server) IssueSummary(ctx context.Context, req *pb.IssueSummaryRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.SummaryId, IssueSummary{s.env(req), req})
}

func (s *server) RecordDelivery(ctx context.Context, req *pb.RecordDeliveryRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.SummaryId, RecordDelivery{s.env(req), req})
}

func (s *server) AcknowledgeSummary(ctx context.Context, req *pb.AcknowledgeSummaryRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.SummaryId, AcknowledgeSummary{s.env(req), req})
}

func (s *server) AmendSummary(ctx context.Context, req *pb.AmendSummaryRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.SummaryId, AmendSummary{s.env(req), req})
}

func (s *server) WithdrawSummary(ctx context.Context, req *pb.WithdrawSummaryRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.SummaryId, WithdrawSummary{s.env(req), req})
}

func (s *server) StartSurveillance(ctx context.Context, req *pb.StartSurveillanceRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	return s.do(ctx, req, e.ID("schedule"), StartSurveillance{e, req})
}

func (s *server) RecordSurveillanceNotNeeded(ctx context.Context, req *pb.RecordSurveillanceNotNeededRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", RecordSurveillanceNotNeeded{s.env(req), req})
}

func (s *server) RequestItem(ctx context.Context, req *pb.RequestItemRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ItemId, RequestItem{s.env(req), req})
}

func (s *server) RecordItemPerformed(ctx context.Context, req *pb.RecordItemPerformedRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ItemId, RecordItemPerformed{s.env(req), req})
}

func (s *server) ReceiveResult(ctx context.Context, req *pb.ReceiveResultRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	return s.do(ctx, req, cmp.Or(lower(req.ResultId), e.ID("result")), ReceiveResult{e, req})
}

func (s *server) ReviewResult(ctx context.Context, req *pb.ReviewResultRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ResultId, ReviewResult{s.env(req), req})
}

func (s *server) TellPatient(ctx context.Context, req *pb.TellPatientRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ResultId, TellPatient{s.env(req), req})
}

func (s *server) SkipItem(ctx context.Context, req *pb.SkipItemRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ItemId, SkipItem{s.env(req), req})
}

func (s *server) ChangeProtocol(ctx context.Context, req *pb.ChangeProtocolRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", ChangeProtocol{s.env(req), req})
}

func (s *server) SuspendRemoteMonitoring(ctx context.Context, req *pb.SuspendRemoteMonitoringRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", SuspendRemoteMonitoring{s.env(req), req})
}

func (s *server) ReaccessPatient(ctx context.Context, req *pb.ReaccessPatientRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", ReaccessPatient{s.env(req), req})
}

func (s *server) EndSurveillance(ctx context.Context, req *pb.EndSurveillanceRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", EndSurveillance{s.env(req), req})
}

func (s *server) SubmitResponse(ctx context.Context, req *pb.SubmitResponseRequest) (*pb.PlanReply, error) {
	e := s.env(req)
	return s.do(ctx, req, e.ID("response"), SubmitResponse{e, req})
}

func (s *server) AttachDocument(ctx context.Context, req *pb.AttachDocumentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, lower(req.Document.GetDocumentId()), AttachDocument{s.env(req), req})
}

func (s *server) ReplaceDocument(ctx context.Context, req *pb.ReplaceDocumentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, lower(req.Document.GetDocumentId()), ReplaceDocument{s.env(req), req})
}

func (s *server) WithdrawDocument(ctx context.Context, req *pb.WithdrawDocumentRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, lower(req.DocumentId), WithdrawDocument{s.env(req), req})
}

func (s *server) RunTimers(ctx context.Context, req *pb.RunTimersRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, "", RunTimers{s.env(req)})
}

func (s *server) CloseAlert(ctx context.Context, req *pb.CloseAlertRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.ResponseId, CloseAlert{s.env(req), req})
}

func (s *server) RecordCareStep(ctx context.Context, req *pb.RecordCareStepRequest) (*pb.PlanReply, error) {
	return s.do(ctx, req, req.StepId, RecordCareStep{s.env(req), req})
}
