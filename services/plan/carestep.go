package plan

import (
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// afterDiagnosis are the steps of personalised care that a diagnosis asks for; each is a
// clock of waitingtimes, with its source and how sure that is. The survey is for
// those of 16 and over: whom it does not concern is for a person to say.
var afterDiagnosis = []string{"ccr_3m", "ccr_12m", "qol_18m"}

// careStep is a step of a kind that starts on a day; ok is false where no rule is in force.
func (e Env) careStep(kind, from string) (_ *pb.CareStepBecameDue, ok bool) {
	start, err := nhs.ParseDate(from)
	if err != nil {
		return nil, false
	}
	due, rule, err := waitingtimes.Due(kind, start)
	if err != nil {
		return nil, false
	}
	return &pb.CareStepBecameDue{StepId: e.ID("step/" + kind), Kind: kind, Due: due.String(), Rule: rule.ID, Source: rule.Source, Confidence: rule.Confidence}, true
}

func (s State) careSteps(kind string) bool {
	_, found := find(s.steps, func(x *pb.CareStep) bool { return x.Kind == kind })
	return found
}

// done returns the events by which the steps of a kind that wait are done.
func (s State) done(kind, on, outcome string) (out []proto.Message) {
	for _, x := range s.steps {
		if x.Kind == kind && x.DoneOn == "" {
			out = append(out, &pb.CareStepDone{StepId: x.StepId, On: on, Outcome: outcome})
		}
	}
	return out
}

// RecordCareStepsDue asks for what follows a diagnosis, once on a pathway.
type RecordCareStepsDue struct {
	Env
	ToldOn string
}

// Decide passes over what was asked for already.
func (c RecordCareStepsDue) Decide(s State) (out []proto.Message, _ error) {
	for _, kind := range afterDiagnosis {
		if e, ok := c.careStep(kind, c.ToldOn); ok && !s.careSteps(kind) {
			out = append(out, e)
		}
	}
	return out, nil
}

// RecordCareStep records that a step was done, declined or does not apply.
type RecordCareStep struct {
	Env
	*pb.RecordCareStepRequest
}

// Decide needs a step that waits.
func (c RecordCareStep) Decide(s State) ([]proto.Message, error) {
	x, ok := find(s.steps, func(x *pb.CareStep) bool { return x.StepId == lower(c.StepId) })
	if !ok {
		return nil, unknown("care_step")
	}
	if x.DoneOn != "" {
		return nil, notAtStep("care step")
	}
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	return events(&pb.CareStepDone{StepId: x.StepId, On: c.On, Outcome: c.Outcome})
}

// CloseAlert records what a person did about the alert of a response.
type CloseAlert struct {
	Env
	*pb.CloseAlertRequest
}

// Decide needs a person in a role, and an alert that waits.
func (c CloseAlert) Decide(s State) ([]proto.Message, error) {
	if c.Role == "" {
		return nil, fault.Denied("plan.alert.needs_person", "only a person in a role closes an alert: set command.actor.role_code")
	}
	r, ok := find(s.responses, func(r *pb.Response) bool { return r.ResponseId == lower(c.ResponseId) })
	if !ok {
		return nil, unknown("response")
	}
	if r.AlertDue == nil {
		return nil, notAtStep("alert")
	}
	if err := first(c.happened("on", c.On), inOrder("on", r.On, c.On)); err != nil {
		return nil, err
	}
	return events(&pb.AlertClosed{ResponseId: r.ResponseId, On: c.On, Outcome: c.Outcome, Note: c.Note})
}

func evolveCareStep(s State, e proto.Message) (State, bool) {
	edit := func(id string, change func(*pb.CareStep)) (State, bool) {
		s.steps = with(s.steps, func(x *pb.CareStep) bool { return x.StepId == id }, change)
		return s, true
	}
	switch e := e.(type) {
	case *pb.CareStepBecameDue:
		s.steps = add(s.steps, &pb.CareStep{StepId: e.StepId, Kind: e.Kind, Due: e.Due, Rule: e.Rule, Source: e.Source, Confidence: e.Confidence})
		return s, true
	case *pb.CareStepDone:
		return edit(e.StepId, func(x *pb.CareStep) { x.DoneOn, x.Outcome, x.Overdue = e.On, e.Outcome, false })
	case *pb.CareStepOverdue:
		return edit(e.StepId, func(x *pb.CareStep) { x.Overdue = true })
	}
	return s, false
}
