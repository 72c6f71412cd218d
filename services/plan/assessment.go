package plan

import (
	"slices"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
)

const (
	assessmentDue = pb.AssessmentState_ASSESSMENT_STATE_DUE
	offered       = pb.AssessmentState_ASSESSMENT_STATE_OFFERED
	notOffered    = pb.AssessmentState_ASSESSMENT_STATE_NOT_OFFERED
	declined      = pb.AssessmentState_ASSESSMENT_STATE_DECLINED
	unable        = pb.AssessmentState_ASSESSMENT_STATE_UNABLE
	inProgress    = pb.AssessmentState_ASSESSMENT_STATE_IN_PROGRESS
	submitted     = pb.AssessmentState_ASSESSMENT_STATE_SUBMITTED
	discussed     = pb.AssessmentState_ASSESSMENT_STATE_DISCUSSED
	closed        = pb.AssessmentState_ASSESSMENT_STATE_CLOSED
	expired       = pb.AssessmentState_ASSESSMENT_STATE_EXPIRED
)

// assessment returns an assessment where it stands in one of the states.
func (s State) assessment(id string, in ...pb.AssessmentState) (*pb.Assessment, error) {
	a, ok := find(s.assessments, func(a *pb.Assessment) bool { return a.AssessmentId == id })
	if !ok {
		return nil, unknown("assessment")
	}
	if !slices.Contains(in, a.State) {
		return nil, notAtStep("assessment")
	}
	return a, nil
}

// step is an assessment about to take a step on a day: not in the future, and
// not before the step it took last. An undated step would vanish from what is
// submitted nationally.
func (e Env) step(s State, id, on string, in ...pb.AssessmentState) (*pb.Assessment, error) {
	a, err := s.assessment(id, in...)
	if err != nil {
		return nil, err
	}
	return a, first(e.happened("on", on), inOrder("on", a.LastOn, on))
}

// RecordAssessmentDue asks for an assessment.
type RecordAssessmentDue struct {
	Env
	*pb.RecordAssessmentDueRequest
}

// Decide refuses a second one that is due at the same point on the same day.
func (c RecordAssessmentDue) Decide(s State) ([]proto.Message, error) {
	if slices.ContainsFunc(s.assessments, func(a *pb.Assessment) bool {
		return a.State == assessmentDue && a.Point == c.Point && a.Due == c.Due
	}) {
		return nil, fault.Exists("plan.assessment.exists", "an assessment is due at this point already")
	}
	return events(&pb.AssessmentBecameDue{AssessmentId: c.ID("assessment"), Point: c.Point, Due: c.Due})
}

// OfferAssessment offers one to the patient.
type OfferAssessment struct {
	Env
	*pb.OfferAssessmentRequest
}

// Decide wants the offer to end after it was made. Point and staff role are
// coded now: they are the commonest gaps of the national data set.
func (c OfferAssessment) Decide(s State) ([]proto.Message, error) {
	id := c.ID("assessment")
	if c.AssessmentId != "" {
		a, err := c.step(s, c.AssessmentId, c.On, assessmentDue)
		if err != nil {
			return nil, err
		}
		id = a.AssessmentId
	}
	if err := first(c.happened("on", c.On), expires(c.On, c.Expires)); err != nil {
		return nil, err
	}
	return events(&pb.AssessmentOffered{AssessmentId: id, Point: c.Point, StaffRole: c.StaffRole, On: c.On, OfferedStatus: c.OfferedStatus, Expires: c.Expires})
}

func expires(on, day string) error {
	if day <= on {
		return fault.Invalid("plan.date.order", "expires", "must be after the day of the offer")
	}
	return nil
}

// RecordAssessmentNotOffered says why none was offered.
type RecordAssessmentNotOffered struct {
	Env
	*pb.RecordAssessmentNotOfferedRequest
}

// Decide needs one that is due.
func (c RecordAssessmentNotOffered) Decide(s State) ([]proto.Message, error) {
	a, err := c.step(s, c.AssessmentId, c.On, assessmentDue)
	if err != nil {
		return nil, err
	}
	return events(&pb.AssessmentNotOffered{AssessmentId: a.AssessmentId, Point: a.Point, Reason: c.Reason, On: c.On})
}

// DeclineAssessment records that the patient does not want one.
type DeclineAssessment struct {
	Env
	*pb.DeclineAssessmentRequest
}

// Decide needs one that is offered.
func (c DeclineAssessment) Decide(s State) ([]proto.Message, error) {
	a, err := c.step(s, c.AssessmentId, c.On, offered)
	if err != nil {
		return nil, err
	}
	return events(&pb.AssessmentDeclined{AssessmentId: a.AssessmentId, On: c.On})
}

// RecordUnableToComplete records that the patient could not.
type RecordUnableToComplete struct {
	Env
	*pb.RecordUnableToCompleteRequest
}

// Decide needs one that is offered or begun.
func (c RecordUnableToComplete) Decide(s State) ([]proto.Message, error) {
	a, err := c.step(s, c.AssessmentId, c.On, offered, inProgress)
	if err != nil {
		return nil, err
	}
	return events(&pb.AssessmentUnableToComplete{AssessmentId: a.AssessmentId, Reason: c.Reason, On: c.On})
}

// StartAssessment records that the patient began.
type StartAssessment struct {
	Env
	*pb.StartAssessmentRequest
}

// Decide needs one that is offered.
func (c StartAssessment) Decide(s State) ([]proto.Message, error) {
	a, err := c.step(s, c.AssessmentId, c.On, offered)
	if err != nil {
		return nil, err
	}
	return events(&pb.AssessmentStarted{AssessmentId: a.AssessmentId, On: c.On})
}

// SubmitAssessment records the answers.
type SubmitAssessment struct {
	Env
	*pb.SubmitAssessmentRequest
}

// Decide raises emotional concerns scored high into an open plan at once, with
// their escalation: nobody has to adopt them first.
func (c SubmitAssessment) Decide(s State) ([]proto.Message, error) {
	a, err := c.step(s, c.AssessmentId, c.On, inProgress)
	if err != nil {
		return nil, err
	}
	e := &pb.AssessmentSubmitted{AssessmentId: a.AssessmentId, On: c.On, Author: c.Author}
	seen := map[string]bool{}
	var raised []proto.Message
	for _, x := range c.Concerns {
		entry, ok := Catalogue()[x.Code]
		if !ok {
			return nil, fault.Invalid("plan.concern.unknown", "concerns", "a code is not in the catalogue: see ListConcernCodes")
		}
		if seen[x.Code] {
			return nil, fault.Invalid("plan.concern.twice", "concerns", "a code stands in it twice")
		}
		seen[x.Code] = true
		e.Concerns = append(e.Concerns, &pb.ScoredConcern{Code: x.Code, Score: x.Score, PatientPriority: x.PatientPriority})
		if p, err := s.plan(draft, active); err == nil && entry.Domain == "emotional" && x.Score >= highScore {
			both, err := c.raise(p, x.Code, x.Score, x.PatientPriority, a.AssessmentId)
			if err != nil {
				return nil, err
			}
			raised = append(raised, both...)
		}
	}
	out := append([]proto.Message{e}, raised...)
	if due, ok := c.careStep("pcsp", c.On); ok && len(e.Concerns) > 0 && len(s.done("pcsp", "", "")) == 0 {
		out = append(out, due)
	}
	return out, nil
}

// DiscussAssessment records that it was talked over with the patient.
type DiscussAssessment struct {
	Env
	*pb.DiscussAssessmentRequest
}

// Decide needs one that was submitted.
func (c DiscussAssessment) Decide(s State) ([]proto.Message, error) {
	a, err := c.step(s, c.AssessmentId, c.On, submitted)
	if err != nil {
		return nil, err
	}
	return events(&pb.AssessmentDiscussed{AssessmentId: a.AssessmentId, On: c.On, StaffRole: c.StaffRole})
}

// CloseAssessment ends it with whether a plan was offered.
type CloseAssessment struct {
	Env
	*pb.CloseAssessmentRequest
}

// Decide refuses "not required" where there is a concern.
func (c CloseAssessment) Decide(s State) ([]proto.Message, error) {
	a, err := c.step(s, c.AssessmentId, c.On, discussed)
	if err != nil {
		return nil, err
	}
	if c.PlanOfferedStatus == "06" && len(a.Concerns) > 0 {
		return nil, fault.Refused("plan.assessment.has_concerns", "the assessment has concerns: a plan is required, 06 is not true")
	}
	return events(&pb.AssessmentClosed{AssessmentId: a.AssessmentId, PlanOfferedStatus: c.PlanOfferedStatus, On: c.On})
}

// ReofferAssessment offers again what was not completed.
type ReofferAssessment struct {
	Env
	*pb.ReofferAssessmentRequest
}

// Decide needs one that was declined, expired, or not possible.
func (c ReofferAssessment) Decide(s State) ([]proto.Message, error) {
	a, err := c.step(s, c.AssessmentId, c.On, declined, unable, expired)
	if err != nil {
		return nil, err
	}
	if err := expires(c.On, c.Expires); err != nil {
		return nil, err
	}
	return events(&pb.AssessmentReoffered{AssessmentId: a.AssessmentId, On: c.On, Expires: c.Expires})
}

func evolveAssessment(s State, e proto.Message) (State, bool) {
	edit := func(id, on string, state pb.AssessmentState, change func(a *pb.Assessment)) (State, bool) {
		s.assessments = with(s.assessments, func(a *pb.Assessment) bool { return a.AssessmentId == id }, func(a *pb.Assessment) {
			a.State = state
			if on != "" {
				a.LastOn = on
			}
			if change != nil {
				change(a)
			}
		})
		return s, true
	}
	switch e := e.(type) {
	case *pb.AssessmentBecameDue:
		s.assessments = add(s.assessments, &pb.Assessment{AssessmentId: e.AssessmentId, Point: e.Point, State: assessmentDue, Due: e.Due})
		return s, true
	case *pb.AssessmentOffered:
		if !slices.ContainsFunc(s.assessments, func(a *pb.Assessment) bool { return a.AssessmentId == e.AssessmentId }) {
			s.assessments = add(s.assessments, &pb.Assessment{AssessmentId: e.AssessmentId})
		}
		return edit(e.AssessmentId, e.On, offered, func(a *pb.Assessment) {
			a.Point, a.StaffRole, a.OfferedOn, a.OfferedStatus, a.Expires = e.Point, e.StaffRole, e.On, e.OfferedStatus, e.Expires
		})
	case *pb.AssessmentNotOffered:
		return edit(e.AssessmentId, e.On, notOffered, func(a *pb.Assessment) { a.OfferedStatus, a.Reason = "04", e.Reason })
	case *pb.AssessmentDeclined:
		return edit(e.AssessmentId, e.On, declined, func(a *pb.Assessment) { a.OfferedStatus = "02" })
	case *pb.AssessmentUnableToComplete:
		return edit(e.AssessmentId, e.On, unable, func(a *pb.Assessment) { a.OfferedStatus, a.Reason = "05", e.Reason })
	case *pb.AssessmentStarted:
		return edit(e.AssessmentId, e.On, inProgress, func(a *pb.Assessment) { a.OfferedStatus = "03" })
	case *pb.AssessmentSubmitted:
		return edit(e.AssessmentId, e.On, submitted, func(a *pb.Assessment) { a.SubmittedOn, a.Concerns, a.Author = e.On, e.Concerns, e.Author })
	case *pb.AssessmentDiscussed:
		return edit(e.AssessmentId, e.On, discussed, func(a *pb.Assessment) { a.DiscussedOn = e.On })
	case *pb.AssessmentClosed:
		return edit(e.AssessmentId, e.On, closed, func(a *pb.Assessment) { a.PlanOfferedStatus = e.PlanOfferedStatus })
	case *pb.AssessmentExpired:
		return edit(e.AssessmentId, "", expired, nil)
	case *pb.AssessmentReoffered:
		return edit(e.AssessmentId, e.On, offered, func(a *pb.Assessment) { a.OfferedStatus, a.Expires, a.Reason = "01", e.Expires, "" })
	}
	return s, false
}
