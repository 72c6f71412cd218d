package plan

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	personv1 "waymark/proto/waymark/person/v1"
	pb "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/fault"
)

// What is open when a pathway is closed or the patient dies waits for nobody any
// more. That is recorded, thing by thing, and lies over the state: the things
// themselves stay as they are, so that a retracted death resumes each where it
// was. A result that nobody has reviewed goes on waiting whatever happened.

// The causes.
const (
	pathwayClosed = "pathway_closed"
	died          = "died"
)

// open lists what waits for a person or a timer, and ends by a cause: what the
// closing of a pathway leaves for others to finish is the summary, the results
// and the alerts.
func (s State) open(cause string) (ids []string) {
	if p, err := s.plan(draft, active, onHold); err == nil {
		for _, a := range p.Actions {
			if !actionEnded(a.Status) {
				ids = append(ids, a.ActionId)
			}
		}
		for _, c := range p.Concerns {
			if c.EscalatedUntil != nil {
				ids = append(ids, c.ConcernId)
			}
		}
		if p.ReviewDue != "" {
			ids = append(ids, p.PlanId)
		}
	}
	for _, a := range s.assessments {
		switch a.State {
		case assessmentDue, offered, inProgress, expired:
			ids = append(ids, a.AssessmentId)
		}
	}
	if x, err := s.schedule(); err == nil {
		ids = append(ids, x.ScheduleId)
		for _, it := range x.Items {
			if it.State == planned || it.State == itemDue || it.State == requested && cause == died {
				ids = append(ids, it.Item.ItemId)
			}
		}
	}
	for _, x := range s.steps {
		if x.DoneOn == "" {
			ids = append(ids, x.StepId)
		}
	}
	if cause == died {
		for _, x := range s.summaries {
			if x.State != withdrawn && (x.IssuedOn == "" || len(x.ToTell) > 0 || len(had(x)) < len(recipients)) {
				ids = append(ids, x.SummaryId)
			}
		}
		for _, r := range s.results {
			if r.State == resultReviewed {
				ids = append(ids, r.ResultId)
			}
		}
		for _, r := range s.responses {
			if r.AlertDue != nil {
				ids = append(ids, r.ResponseId)
			}
		}
	}
	return slices.DeleteFunc(ids, s.ends)
}

// ends reports whether a thing waits for nobody any more.
func (s State) ends(id string) bool { return s.ended[id] != "" }

// EndOpenThings ends what is open.
type EndOpenThings struct{ Cause, FactID string }

// Decide records nothing where nothing is open.
func (c EndOpenThings) Decide(s State) ([]proto.Message, error) {
	ids := s.open(c.Cause)
	if len(ids) == 0 {
		return nil, nil
	}
	return events(&pb.OpenThingsEnded{Cause: c.Cause, SubjectIds: ids, FactId: c.FactID})
}

// ResumeOpenThings takes an ending back whose cause was wrong.
type ResumeOpenThings struct{ Cause, FactID string }

// Decide records nothing where the cause has ended nothing.
func (c ResumeOpenThings) Decide(s State) ([]proto.Message, error) {
	if c.Cause == pathwayClosed && c.FactID != s.closedBy {
		return nil, nil
	}
	var ids []string
	for id, cause := range s.ended {
		if cause == c.Cause {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	slices.Sort(ids)
	return events(&pb.OpenThingsResumed{Cause: c.Cause, SubjectIds: ids})
}

// ChangePerson makes the plan that of the person who is left after a merge.
type ChangePerson struct{ PersonID, MergeID string }

// Decide records nothing without a plan, or when it is theirs.
func (c ChangePerson) Decide(s State) ([]proto.Message, error) {
	p := last(s.plans)
	if p == nil || p.PersonId == c.PersonID || p.PersonId == "" {
		return nil, nil
	}
	return events(&pb.PlanPersonChanged{PersonId: c.PersonID, EarlierPersonId: p.PersonId, MergeId: c.MergeID})
}

func evolveEnding(s State, e proto.Message) (State, bool) {
	switch e := e.(type) {
	case *pb.OpenThingsEnded:
		s.ended = maps.Clone(s.ended)
		if s.ended == nil {
			s.ended = map[string]string{}
		}
		for _, id := range e.SubjectIds {
			s.ended[id] = e.Cause
		}
		if e.Cause == pathwayClosed {
			s.closedBy = e.FactId
		}
		return s, true
	case *pb.OpenThingsResumed:
		s.ended = maps.Clone(s.ended)
		for _, id := range e.SubjectIds {
			delete(s.ended, id)
		}
		return s, true
	case *pb.PlanPersonChanged:
		s.plans = withLast(s.plans, func(p *pb.Plan) { p.PersonId = e.PersonId })
		return s, true
	}
	return s, false
}

// takenUp is s without the ending of what an event is about: whoever acts on a
// thing takes it up again.
func takenUp(s State, e proto.Message) State {
	if len(s.ended) == 0 {
		return s
	}
	var about []string
	switch e.(type) {
	case *pb.PlanPublished, *pb.PlanReviewed, *pb.PlanResumed:
		about = append(about, last(s.plans).GetPlanId())
	}
	m := e.ProtoReflect()
	for _, name := range []protoreflect.Name{"action_id", "concern_id", "assessment_id", "summary_id", "item_id", "step_id", "response_id", "result_id"} {
		if f := m.Descriptor().Fields().ByName(name); f != nil {
			about = append(about, m.Get(f).String())
		}
	}
	cloned := false
	for _, id := range about {
		if s.ends(id) {
			if !cloned {
				s.ended, cloned = maps.Clone(s.ended), true
			}
			delete(s.ended, id)
		}
	}
	return s
}

// onEnding does what the end of a pathway and the change of a person ask for.
func (s *server) onEnding(ctx context.Context, e bus.Event) error {
	run := func(purpose, pathway string, c decision) error {
		req := &pb.RunTimersRequest{Command: asked(e, purpose), PathwayId: pathway}
		_, err := s.do(ctx, req, "", c)
		return err
	}
	switch m := e.Message.(type) {
	case *referralv1.PathwayClosed:
		return run("end open things", e.StreamID, EndOpenThings{pathwayClosed, m.FactId})
	case *referralv1.ClockCorrected:
		if m.Replacement == nil {
			return run("resume open things", e.StreamID, ResumeOpenThings{pathwayClosed, m.WrongFactId})
		}
		return nil
	case *personv1.DeathConfirmed, *personv1.DeathNotificationRetracted, *personv1.PersonsMerged, *personv1.MergeReversed:
		if s.kin == nil {
			return nil
		}
		if err := s.kin.Wait(ctx, e.Position); err != nil {
			return err
		}
		merge := ""
		if m, ok := m.(interface{ GetMergeId() string }); ok {
			merge = m.GetMergeId()
		}
		for _, p := range s.kin.concerned(e.StreamID) {
			var then decision = ResumeOpenThings{Cause: died}
			if p.dead {
				then = EndOpenThings{Cause: died}
			}
			for _, step := range []struct {
				purpose string
				decision
			}{{"death", then}, {"person", ChangePerson{p.person, merge}}} {
				if err := run(step.purpose, p.pathway, step.decision); err != nil && !fault.IsAnswer(err) {
					return err
				}
			}
		}
	}
	return nil
}
