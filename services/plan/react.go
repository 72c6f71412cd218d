package plan

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
	pb "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// COSD points of the pathway.
const (
	atDiagnosis      = "01"
	atEndOfTreatment = "04"
)

// react does what events of pathways ask of this service. The id of each command
// derives from the event's, and its request holds only what the event says, so
// that an event heard twice is the same command twice. A refusal is the end of
// that command; any other error makes the bus deliver the event again.
func (s *server) react(ctx context.Context, e bus.Event) error {
	switch m := e.Message.(type) {
	case *referralv1.DiagnosisCommunicated:
		return faults("DiagnosisCommunicated", s.onDiagnosis(ctx, e, m))
	case *referralv1.TreatmentPeriodEnded:
		return faults("TreatmentPeriodEnded", s.onTreatmentEnd(ctx, e, m))
	}
	return faults(string(e.Message.ProtoReflect().Descriptor().Name()), []error{s.onEnding(ctx, e)})
}

// faults passes on the first error that is no answer.
func faults(event string, errs []error) error {
	for _, err := range errs {
		if err != nil && !fault.IsAnswer(err) {
			return fmt.Errorf("plan: on %s: %w", event, err)
		}
	}
	return nil
}

// asked is the header of the command that an event asks for.
func asked(e bus.Event, purpose string) *metav1.Command {
	return &metav1.Command{
		CommandId:     uuid.NewSHA1(e.ID, []byte(purpose)).String(),
		Actor:         &metav1.Actor{User: "waymark/plan", Organisation: e.Tenant},
		Tenant:        e.Tenant,
		CorrelationId: e.CorrelationID,
		CausationId:   e.ID.String(),
	}
}

// pathway asks the referral service what the bus does not carry. Where there is
// no such pathway, that is an answer.
func (s *server) pathway(ctx context.Context, id string) (*referralv1.Pathway, error) {
	if s.pathways == nil {
		return nil, fault.NotFound("plan.pathway.not_connected", "no referral service is known")
	}
	reply, err := s.pathways.GetPathway(ctx, &referralv1.GetPathwayRequest{PathwayId: id})
	return reply.GetPathway(), err
}

// onDiagnosis opens the plan and asks for the first assessment.
func (s *server) onDiagnosis(ctx context.Context, e bus.Event, m *referralv1.DiagnosisCommunicated) (errs []error) {
	toldOn := m.Facts.GetTold().GetOn()
	req := &pb.OpenPlanRequest{Command: asked(e, "open plan"), PathwayId: e.StreamID, TreatingOrganisation: e.Tenant,
		Diagnosis: &pb.Diagnosis{Stage: "unstaged", UnstagedReason: "not recorded yet", ToldOn: toldOn}}
	p, err := s.pathway(ctx, e.StreamID)
	if err == nil {
		// What is looked up is not part of the request: it may read differently when the event is heard again.
		c := OpenPlan{Env: s.env(req), OpenPlanRequest: &pb.OpenPlanRequest{PersonId: p.PersonId, TreatingOrganisation: cmp.Or(p.Start.GetResponsibleTeam().GetOrganisation(), e.Tenant),
			TreatingTeam: p.Start.GetResponsibleTeam().GetName(),
			Diagnosis:    &pb.Diagnosis{Icd10: p.Diagnosis.GetIcd10(), Stage: "unstaged", UnstagedReason: "not recorded yet", ToldOn: toldOn}}}
		_, err = s.do(ctx, req, "", openFirst{c})
	}
	steps := &pb.RunTimersRequest{Command: asked(e, "care steps"), PathwayId: e.StreamID}
	_, asked := s.do(ctx, steps, "", RecordCareStepsDue{s.env(steps), toldOn})
	return append(errs, err, s.assessmentDue(ctx, e, "hna_dx", atDiagnosis, toldOn), asked)
}

// openFirst opens the plan that a diagnosis asks for. An event may be heard late:
// where a plan was opened by somebody, and closed since, there is none to open.
type openFirst struct{ OpenPlan }

// Decide records nothing where there was a plan that was not an error.
func (c openFirst) Decide(s State) ([]proto.Message, error) {
	if slices.ContainsFunc(s.plans, func(p *pb.Plan) bool { return p.State != pb.PlanState_PLAN_STATE_ENTERED_IN_ERROR }) {
		return nil, nil
	}
	return c.OpenPlan.Decide(s)
}

// onTreatmentEnd asks for the summary of the period and an assessment.
func (s *server) onTreatmentEnd(ctx context.Context, e bus.Event, m *referralv1.TreatmentPeriodEnded) []error {
	on := m.Facts.GetOn()
	req := &pb.RecordSummaryDueRequest{Command: asked(e, "summary due"), PathwayId: e.StreamID, PeriodId: m.FactId, EndedOn: on, Last: m.Facts.GetLastPeriod()}
	p, err := s.pathway(ctx, e.StreamID)
	if err == nil || fault.IsAnswer(err) {
		known := &pb.RecordSummaryDueRequest{PeriodId: req.PeriodId, EndedOn: on, Last: req.Last}
		for _, t := range p.GetTreatments() {
			if t.Ended.GetOn() == on {
				known.Modality, known.StartedOn = t.Started.GetModality(), t.Started.GetOn()
			}
		}
		_, err = s.do(ctx, req, "", RecordSummaryDue{s.env(req), known})
	}
	return []error{err, s.assessmentDue(ctx, e, "hna_eot", atEndOfTreatment, on)}
}

func (s *server) assessmentDue(ctx context.Context, e bus.Event, clock, point, from string) error {
	start, err := nhs.ParseDate(from)
	if err != nil {
		return fault.Invalid("plan.date.invalid", "on", "is no date")
	}
	due, _, err := waitingtimes.Due(clock, start)
	if err != nil {
		return fault.Invalid("plan.date.no_rule", "on", "no rule is in force on this day")
	}
	req := &pb.RecordAssessmentDueRequest{Command: asked(e, "assessment due"), PathwayId: e.StreamID, Point: point, Due: due.String()}
	_, err = s.do(ctx, req, "", RecordAssessmentDue{s.env(req), req})
	return err
}
