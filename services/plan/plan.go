package plan

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

const (
	draft  = pb.PlanState_PLAN_STATE_DRAFT
	active = pb.PlanState_PLAN_STATE_ACTIVE
	onHold = pb.PlanState_PLAN_STATE_ON_HOLD
)

// highScore is the score from which an emotional concern is escalated.
const highScore = 8

// plan returns the newest plan where it stands in one of the states.
func (s State) plan(in ...pb.PlanState) (*pb.Plan, error) {
	p := last(s.plans)
	if p == nil {
		return nil, fault.Refused("plan.none", "no plan was opened on this pathway: open one first")
	}
	if !slices.Contains(in, p.State) {
		return nil, notAtStep("plan")
	}
	return p, nil
}

func concern(p *pb.Plan, id string) (*pb.Concern, error) {
	c, ok := find(p.Concerns, func(c *pb.Concern) bool { return c.ConcernId == id })
	if !ok {
		return nil, unknown("concern")
	}
	return c, nil
}

// liveConcern is a concern that is not settled, and its plan.
func (s State) liveConcern(id string, states ...pb.PlanState) (*pb.Plan, *pb.Concern, error) {
	p, err := s.plan(states...)
	if err != nil {
		return nil, nil, err
	}
	c, err := concern(p, id)
	if err != nil {
		return nil, nil, err
	}
	if !live(c) {
		return nil, nil, notAtStep("concern")
	}
	return p, c, nil
}

func goal(p *pb.Plan, id string) (*pb.Goal, error) {
	g, ok := find(p.Goals, func(g *pb.Goal) bool { return g.GoalId == id })
	if !ok {
		return nil, unknown("goal")
	}
	return g, nil
}

func action(p *pb.Plan, id string) (*pb.Action, error) {
	a, ok := find(p.Actions, func(a *pb.Action) bool { return a.ActionId == id })
	if !ok {
		return nil, unknown("action")
	}
	return a, nil
}

// unsettled reports whether nobody has said yet how a concern is taken further.
func unsettled(c *pb.Concern) bool {
	return c.State == pb.ConcernState_CONCERN_STATE_RAISED || c.State == pb.ConcernState_CONCERN_STATE_DISCUSSED
}

// live reports whether a concern still counts; a settled one that is raised again is a new one.
func live(c *pb.Concern) bool {
	return unsettled(c) || c.State == pb.ConcernState_CONCERN_STATE_ACTIONED || c.State == pb.ConcernState_CONCERN_STATE_WATCHING
}

func actionEnded(s pb.ActionStatus) bool {
	switch s {
	case pb.ActionStatus_ACTION_STATUS_COMPLETED, pb.ActionStatus_ACTION_STATUS_CANCELLED,
		pb.ActionStatus_ACTION_STATUS_STOPPED, pb.ActionStatus_ACTION_STATUS_ENTERED_IN_ERROR:
		return true
	}
	return false
}

func goalEnded(s pb.GoalStatus) bool {
	switch s {
	case pb.GoalStatus_GOAL_STATUS_COMPLETED, pb.GoalStatus_GOAL_STATUS_CANCELLED,
		pb.GoalStatus_GOAL_STATUS_REJECTED, pb.GoalStatus_GOAL_STATUS_ENTERED_IN_ERROR:
		return true
	}
	return false
}

// endOf is the instant at which the n-th working day from now is over.
func endOf(now time.Time, n int) *timestamppb.Timestamp {
	return timestamppb.New(waitingtimes.AddWorkingDays(nhs.DateOf(now), n).AddDays(1).Start())
}

// OpenPlan opens the plan.
type OpenPlan struct {
	Env
	*pb.OpenPlanRequest
}

// Decide refuses a second open plan; one after a closed plan names it.
func (c OpenPlan) Decide(s State) ([]proto.Message, error) {
	before := last(s.plans)
	if before != nil && slices.Contains([]pb.PlanState{draft, active, onHold}, before.State) {
		return nil, fault.Exists("plan.exists", "a plan is open on this pathway: go on with that one")
	}
	d := c.Diagnosis
	if d.GetStage() == "" {
		return nil, fault.Invalid("plan.diagnosis.stage", "diagnosis.stage", `is needed: TNM, a stage group, or "unstaged"`)
	}
	if d.Stage == "unstaged" && d.UnstagedReason == "" {
		return nil, fault.Invalid("plan.diagnosis.stage", "diagnosis.unstaged_reason", "say why there is no stage")
	}
	for _, on := range []struct{ field, date string }{{"diagnosis.diagnosed_on", d.DiagnosedOn}, {"diagnosis.told_on", d.ToldOn}} {
		if on.date == "" {
			continue
		}
		if date(on.date).IsZero() {
			return nil, fault.Invalid("plan.date.invalid", on.field, "must be a date that exists, as YYYY-MM-DD")
		}
		if err := c.happened(on.field, on.date); err != nil {
			return nil, err
		}
	}
	return events(&pb.PlanOpened{PlanId: c.ID("plan"), PersonId: c.PersonId, Diagnosis: d, KeyWorker: c.KeyWorker,
		TreatingOrganisation: c.TreatingOrganisation, TreatingTeam: c.TreatingTeam, FollowsPlanId: before.GetPlanId()})
}

// raise returns what a scored concern records. One of the same code that still
// counts is scored again rather than doubled.
func (e Env) raise(p *pb.Plan, code string, score, priority int32, assessment string) ([]proto.Message, error) {
	entry, ok := Catalogue()[code]
	if !ok {
		return nil, fault.Invalid("plan.concern.unknown", "code", "is not in the catalogue: see ListConcernCodes")
	}
	id := e.ID("concern/" + code)
	if c, ok := find(p.GetConcerns(), func(c *pb.Concern) bool { return c.Code == code && live(c) }); ok {
		id = c.ConcernId
	}
	high := entry.Domain == "emotional" && score >= highScore
	out := []proto.Message{&pb.ConcernRaised{ConcernId: id, Code: code, Score: score, PatientPriority: priority, AssessmentId: assessment, HighEmotionalScore: high}}
	if high {
		out = append(out, &pb.ConcernEscalated{ConcernId: id, Due: endOf(e.Now, 1)})
	}
	return out, nil
}

// RecordConcern adds a concern.
type RecordConcern struct {
	Env
	*pb.RecordConcernRequest
}

// Decide refuses codes that the catalogue does not have.
func (c RecordConcern) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(draft, active)
	if err != nil {
		return nil, err
	}
	return c.raise(p, c.Code, c.Score, c.PatientPriority, "")
}

// AdoptFromAssessment takes concerns of an assessment into the plan.
type AdoptFromAssessment struct {
	Env
	*pb.AdoptFromAssessmentRequest
}

// Decide passes over what was adopted from this assessment already.
func (c AdoptFromAssessment) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(draft, active)
	if err != nil {
		return nil, err
	}
	a, err := s.assessment(c.AssessmentId, submitted, discussed, closed)
	if err != nil {
		return nil, err
	}
	for _, code := range c.Codes {
		if !slices.ContainsFunc(a.Concerns, func(sc *pb.ScoredConcern) bool { return sc.Code == code }) {
			return nil, fault.Invalid("plan.concern.unknown", "codes", "one of them is not among the concerns of the assessment")
		}
	}
	var out []proto.Message
	for _, sc := range a.Concerns {
		adopted := slices.ContainsFunc(p.Concerns, func(x *pb.Concern) bool { return x.Code == sc.Code && x.AssessmentId == a.AssessmentId })
		if adopted || len(c.Codes) > 0 && !slices.Contains(c.Codes, sc.Code) {
			continue
		}
		raised, err := c.raise(p, sc.Code, sc.Score, sc.PatientPriority, a.AssessmentId)
		if err != nil {
			return nil, err
		}
		out = append(out, raised...)
	}
	return out, nil
}

// EscalateConcern puts a concern on the worklist of the accountable party.
type EscalateConcern struct {
	Env
	*pb.EscalateConcernRequest
}

// Decide refuses it for what is settled.
func (c EscalateConcern) Decide(s State) ([]proto.Message, error) {
	_, x, err := s.liveConcern(c.ConcernId, active)
	if err != nil {
		return nil, err
	}
	return events(&pb.ConcernEscalated{ConcernId: x.ConcernId, Due: endOf(c.Now, 1)})
}

// DiscussConcern records that a concern was talked about.
type DiscussConcern struct {
	Env
	*pb.DiscussConcernRequest
}

// Decide refuses days to come.
func (c DiscussConcern) Decide(s State) ([]proto.Message, error) {
	_, x, err := s.liveConcern(c.ConcernId, draft, active)
	if err != nil {
		return nil, err
	}
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	return events(&pb.ConcernDiscussed{ConcernId: x.ConcernId, On: c.On})
}

// DecideConcern settles how a concern is taken further.
type DecideConcern struct {
	Env
	*pb.DecideConcernRequest
}

// Decide wants the action where action is the decision.
func (c DecideConcern) Decide(s State) ([]proto.Message, error) {
	p, x, err := s.liveConcern(c.ConcernId, draft, active)
	if err != nil {
		return nil, err
	}
	e := &pb.ConcernDecided{ConcernId: x.ConcernId, Decision: c.Decision}
	if c.Decision == pb.ConcernDecision_CONCERN_DECISION_ACTION {
		a, err := action(p, c.ActionId)
		if err != nil || a.Status == pb.ActionStatus_ACTION_STATUS_CANCELLED || a.Status == pb.ActionStatus_ACTION_STATUS_ENTERED_IN_ERROR {
			return nil, fault.Refused("plan.concern.action_missing", "no action of the plan has this action_id: add the action first")
		}
		e.ActionId = a.ActionId
	}
	return events(e)
}

// ResolveConcern ends a concern.
type ResolveConcern struct {
	Env
	*pb.ResolveConcernRequest
}

// Decide refuses days to come.
func (c ResolveConcern) Decide(s State) ([]proto.Message, error) {
	_, x, err := s.liveConcern(c.ConcernId, draft, active)
	if err != nil {
		return nil, err
	}
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	return events(&pb.ConcernResolved{ConcernId: x.ConcernId, On: c.On})
}

func evolvePlan(s State, e proto.Message) (State, bool) {
	edit := func(change func(p *pb.Plan)) (State, bool) {
		s.plans = withLast(s.plans, change)
		return s, true
	}
	onConcern := func(id string, change func(c *pb.Concern)) (State, bool) {
		return edit(func(p *pb.Plan) {
			p.Concerns = with(p.Concerns, func(c *pb.Concern) bool { return c.ConcernId == id }, change)
		})
	}
	section := func(code string, change func(x *pb.SectionView)) (State, bool) {
		return edit(func(p *pb.Plan) {
			p.Sections = with(p.Sections, func(x *pb.SectionView) bool { return x.Code == code }, change)
		})
	}
	switch e := e.(type) {
	case *pb.PlanOpened:
		s.plans = add(s.plans, &pb.Plan{PlanId: e.PlanId, PersonId: e.PersonId, State: draft, Diagnosis: e.Diagnosis, KeyWorker: e.KeyWorker,
			TreatingOrganisation: e.TreatingOrganisation, TreatingTeam: e.TreatingTeam, FollowsPlanId: e.FollowsPlanId})
		return s, true
	case *pb.ConcernRaised:
		return edit(func(p *pb.Plan) {
			c := &pb.Concern{ConcernId: e.ConcernId, Code: e.Code, Domain: Catalogue()[e.Code].Domain, Score: e.Score,
				PatientPriority: e.PatientPriority, AssessmentId: e.AssessmentId, State: pb.ConcernState_CONCERN_STATE_RAISED}
			if i := slices.IndexFunc(p.Concerns, func(x *pb.Concern) bool { return x.ConcernId == e.ConcernId }); i >= 0 {
				p.Concerns[i] = c
			} else {
				p.Concerns = append(p.Concerns, c)
			}
		})
	case *pb.ConcernEscalated:
		return onConcern(e.ConcernId, func(c *pb.Concern) { c.EscalatedUntil = e.Due })
	case *pb.ConcernDiscussed:
		return onConcern(e.ConcernId, func(c *pb.Concern) {
			c.EscalatedUntil = nil
			if c.State == pb.ConcernState_CONCERN_STATE_RAISED {
				c.State = pb.ConcernState_CONCERN_STATE_DISCUSSED
			}
		})
	case *pb.ConcernDecided:
		return onConcern(e.ConcernId, func(c *pb.Concern) {
			c.State, c.ActionId, c.EscalatedUntil = decided[e.Decision], e.ActionId, nil
		})
	case *pb.ConcernResolved:
		return onConcern(e.ConcernId, func(c *pb.Concern) { c.State, c.EscalatedUntil = pb.ConcernState_CONCERN_STATE_RESOLVED, nil })
	case *pb.GoalAgreed:
		return edit(func(p *pb.Plan) {
			p.Goals = append(p.Goals, &pb.Goal{GoalId: e.GoalId, Description: e.Description, TargetOn: e.TargetOn, ConcernIds: e.ConcernIds,
				Status: pb.GoalStatus_GOAL_STATUS_ACCEPTED})
		})
	case *pb.GoalStatusChanged:
		return edit(func(p *pb.Plan) {
			p.Goals = with(p.Goals, func(g *pb.Goal) bool { return g.GoalId == e.GoalId }, func(g *pb.Goal) { g.Status = e.Status })
		})
	case *pb.ActionPlanned:
		return edit(func(p *pb.Plan) {
			p.Actions = append(p.Actions, &pb.Action{ActionId: e.ActionId, Description: e.Description, RequiredRole: e.RequiredRole, Due: e.Due,
				ConcernIds: e.ConcernIds, GoalId: e.GoalId, Status: pb.ActionStatus_ACTION_STATUS_NOT_STARTED})
		})
	case *pb.ActionAssigned:
		return edit(func(p *pb.Plan) {
			p.Actions = with(p.Actions, func(a *pb.Action) bool { return a.ActionId == e.ActionId }, func(a *pb.Action) {
				a.Assignee, a.AssigneeRole, a.Organisation = e.Assignee, e.AssigneeRole, e.Organisation
			})
		})
	case *pb.ActionStatusChanged:
		return edit(func(p *pb.Plan) {
			p.Actions = with(p.Actions, func(a *pb.Action) bool { return a.ActionId == e.ActionId }, func(a *pb.Action) { a.Status = e.Status })
		})
	case *pb.SectionWritten:
		code := e.Section.GetCode()
		if p := last(s.plans); p != nil && slices.ContainsFunc(p.Sections, func(x *pb.SectionView) bool { return x.Code == code }) {
			return section(code, func(x *pb.SectionView) { x.Text, x.Shared = e.Section.GetText(), false }) // new text was not shared
		}
		return edit(func(p *pb.Plan) {
			p.Sections = append(p.Sections, &pb.SectionView{Code: code, Text: e.Section.GetText()})
		})
	case *pb.SectionShared:
		return section(e.Code, func(x *pb.SectionView) { x.Shared, x.WithheldReason = true, "" })
	case *pb.SectionWithheld:
		return section(e.Code, func(x *pb.SectionView) { x.Shared, x.WithheldReason = false, e.Reason })
	case *pb.PreferencesRecorded:
		return edit(func(p *pb.Plan) { p.Preferences = e })
	case *pb.ShareConsentRecorded:
		return edit(func(p *pb.Plan) {
			p.Consents = append(slices.DeleteFunc(p.Consents, func(x *pb.ShareConsentRecorded) bool { return x.With == e.With }), e)
		})
	case *pb.PlanAgreedWithPatient:
		return edit(func(p *pb.Plan) {
			p.Agreement, p.AgreementOn, p.AgreementVersion = pb.Agreement_AGREEMENT_AGREED, e.On, cmp.Or(e.Version, p.Version+1)
		})
	case *pb.PlanAgreementDeclined:
		return edit(func(p *pb.Plan) {
			p.Agreement, p.AgreementOn, p.AgreementVersion = pb.Agreement_AGREEMENT_DECLINED, e.On, cmp.Or(e.Version, p.Version+1)
		})
	case *pb.PlanPublished:
		s, _ = edit(func(p *pb.Plan) {
			p.State, p.Version, p.ReviewDue, p.ReviewOverdue, p.SharedWithPatient = active, e.Version, e.ReviewDue, false, e.SharedWithPatient
			if e.SharedWithPatient {
				p.Sections = with(p.Sections, func(x *pb.SectionView) bool { return x.WithheldReason == "" }, func(x *pb.SectionView) { x.Shared = true })
			}
		})
		if p := last(s.plans); p != nil {
			s.published = add(s.published, p)
		}
		return s, true
	case *pb.PlanReviewed:
		return edit(func(p *pb.Plan) { p.ReviewDue, p.ReviewOverdue = e.NextReviewDue, false })
	case *pb.PlanReviewOverdue:
		return edit(func(p *pb.Plan) { p.ReviewOverdue = true })
	case *pb.PlanPutOnHold:
		return edit(func(p *pb.Plan) { p.State = onHold })
	case *pb.PlanResumed:
		return edit(func(p *pb.Plan) { p.State = active })
	case *pb.PlanClosed:
		return edit(func(p *pb.Plan) {
			p.State, p.ClosedReason = pb.PlanState_PLAN_STATE_COMPLETED, e.Reason
			if e.Outcome == "revoked" {
				p.State = pb.PlanState_PLAN_STATE_REVOKED
			}
		})
	case *pb.PlanEnteredInError:
		return edit(func(p *pb.Plan) { p.State, p.ClosedReason = pb.PlanState_PLAN_STATE_ENTERED_IN_ERROR, e.Reason })
	}
	return s, false
}

// decided is the state that each decision leaves a concern in.
var decided = map[pb.ConcernDecision]pb.ConcernState{
	pb.ConcernDecision_CONCERN_DECISION_ACTION:           pb.ConcernState_CONCERN_STATE_ACTIONED,
	pb.ConcernDecision_CONCERN_DECISION_WATCH:            pb.ConcernState_CONCERN_STATE_WATCHING,
	pb.ConcernDecision_CONCERN_DECISION_PATIENT_DECLINED: pb.ConcernState_CONCERN_STATE_DECLINED,
	pb.ConcernDecision_CONCERN_DECISION_NO_ACTION_NEEDED: pb.ConcernState_CONCERN_STATE_NO_ACTION_NEEDED,
}
