package plan

import (
	"slices"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
)

// Goals, actions, sections and the life of the plan itself.

// known refuses ids of concerns that the plan does not have.
func known(p *pb.Plan, concerns []string) error {
	for _, id := range concerns {
		if _, err := concern(p, id); err != nil {
			return err
		}
	}
	return nil
}

// AgreeGoal records a goal of the patient.
type AgreeGoal struct {
	Env
	*pb.AgreeGoalRequest
}

// Decide refuses concerns that the plan does not have.
func (c AgreeGoal) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(draft, active)
	if err != nil {
		return nil, err
	}
	if err := known(p, c.ConcernIds); err != nil {
		return nil, err
	}
	return events(&pb.GoalAgreed{GoalId: c.ID("goal"), Description: c.Description, TargetOn: c.TargetOn, ConcernIds: c.ConcernIds})
}

// UpdateGoal moves a goal through its life.
type UpdateGoal struct {
	Env
	*pb.UpdateGoalRequest
}

// Decide lets an ended goal be nothing but entered in error.
func (c UpdateGoal) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(draft, active)
	if err != nil {
		return nil, err
	}
	g, err := goal(p, c.GoalId)
	if err != nil {
		return nil, err
	}
	if g.Status == c.Status || goalEnded(g.Status) && c.Status != pb.GoalStatus_GOAL_STATUS_ENTERED_IN_ERROR {
		return nil, notAtStep("goal")
	}
	return events(&pb.GoalStatusChanged{GoalId: g.GoalId, Status: c.Status})
}

// AddAction plans something to be done.
type AddAction struct {
	Env
	*pb.AddActionRequest
}

// Decide refuses concerns and goals that the plan does not have.
func (c AddAction) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(draft, active)
	if err != nil {
		return nil, err
	}
	if err := known(p, c.ConcernIds); err != nil {
		return nil, err
	}
	if c.GoalId != "" {
		if _, err := goal(p, c.GoalId); err != nil {
			return nil, err
		}
	}
	return events(&pb.ActionPlanned{ActionId: c.ID("action"), Description: c.Description, RequiredRole: c.RequiredRole, Due: c.Due,
		ConcernIds: c.ConcernIds, GoalId: c.GoalId})
}

// AssignAction gives an action to somebody.
type AssignAction struct {
	Env
	*pb.AssignActionRequest
	// LeadInactive is what the care-lead service said of a named lead.
	LeadInactive bool
}

// Decide refuses somebody whose role is over, and another role than the action
// needs unless the reason is given.
func (c AssignAction) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(draft, active)
	if err != nil {
		return nil, err
	}
	a, err := action(p, c.ActionId)
	if err != nil {
		return nil, err
	}
	switch {
	case actionEnded(a.Status):
		return nil, notAtStep("action")
	case c.LeadInactive, c.RoleUntil != "" && c.RoleUntil < c.Today().String():
		return nil, fault.Refused("plan.assignee.inactive", "the assignee holds no live role: choose somebody who does")
	case a.RequiredRole != c.AssigneeRole && c.RoleOverrideReason == "":
		return nil, fault.Refused("plan.assignee.role", "the action needs another role: choose somebody in that role, or say why in role_override_reason")
	}
	e := &pb.ActionAssigned{ActionId: a.ActionId, Assignee: c.Assignee, AssigneeRole: c.AssigneeRole, Organisation: c.Organisation}
	if a.RequiredRole != c.AssigneeRole {
		e.RoleOverrideReason = c.RoleOverrideReason
	}
	return events(e)
}

// UpdateAction moves an action through its life.
type UpdateAction struct {
	Env
	*pb.UpdateActionRequest
}

// Decide lets an ended action be nothing but entered in error. Actions of a plan
// on hold may end.
func (c UpdateAction) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(draft, active, onHold)
	if err != nil {
		return nil, err
	}
	a, err := action(p, c.ActionId)
	if err != nil {
		return nil, err
	}
	if a.Status == c.Status || actionEnded(a.Status) && c.Status != pb.ActionStatus_ACTION_STATUS_ENTERED_IN_ERROR ||
		p.State == onHold && !actionEnded(c.Status) {
		return nil, notAtStep("action")
	}
	return events(&pb.ActionStatusChanged{ActionId: a.ActionId, Status: c.Status})
}

// WriteSection writes one of the ten sections.
type WriteSection struct {
	Env
	*pb.WriteSectionRequest
}

// Decide needs an open plan.
func (c WriteSection) Decide(s State) ([]proto.Message, error) {
	if _, err := s.plan(draft, active); err != nil {
		return nil, err
	}
	return events(&pb.SectionWritten{Section: &pb.Section{Code: c.Code, Text: c.Text}})
}

// RecordPreferences records what matters to the patient.
type RecordPreferences struct {
	Env
	*pb.RecordPreferencesRequest
}

// Decide refuses an empty record.
func (c RecordPreferences) Decide(s State) ([]proto.Message, error) {
	if _, err := s.plan(draft, active); err != nil {
		return nil, err
	}
	if c.AboutMe == "" && c.Communication == "" && len(c.Needs) == 0 {
		return nil, fault.Invalid("plan.preferences.empty", "about_me", "give at least one of about_me, communication and needs")
	}
	return events(&pb.PreferencesRecorded{AboutMe: c.AboutMe, Communication: c.Communication, Needs: c.Needs})
}

// RecordShareConsent records with whom the plan may be shared.
type RecordShareConsent struct {
	Env
	*pb.RecordShareConsentRequest
}

// Decide needs an open plan.
func (c RecordShareConsent) Decide(s State) ([]proto.Message, error) {
	if _, err := s.plan(draft, active, onHold); err != nil {
		return nil, err
	}
	return events(&pb.ShareConsentRecorded{With: c.With, What: c.What, Until: c.Until, Given: c.Given})
}

// RecordPatientAgreement records the answer of the patient to the plan.
type RecordPatientAgreement struct {
	Env
	*pb.RecordPatientAgreementRequest
}

// Decide wants to know who agreed, or why not.
func (c RecordPatientAgreement) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(draft, active)
	if err != nil {
		return nil, err
	}
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	version := p.Version // what the patient was shown
	if version == 0 || s.changed {
		version++
	}
	if c.Agreed {
		if err := needed("plan.agreement.by", "agreed_by", c.AgreedBy); err != nil {
			return nil, err
		}
		return append([]proto.Message{&pb.PlanAgreedWithPatient{On: c.On, AgreedBy: c.AgreedBy, Version: version}}, s.done("pcsp", c.On, "done")...), nil
	}
	if err := needed("plan.agreement.reason", "reason", c.Reason); err != nil {
		return nil, err
	}
	return append([]proto.Message{&pb.PlanAgreementDeclined{On: c.On, Reason: c.Reason, Version: version}}, s.done("pcsp", c.On, "declined")...), nil
}

// PublishPlan makes the next version.
type PublishPlan struct {
	Env
	*pb.PublishPlanRequest
}

// Decide refuses what was not seen as it stands, an unsettled concern, a missing
// review date, and a plan that the patient neither agreed to nor declined.
func (c PublishPlan) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(draft, active)
	if err != nil {
		return nil, err
	}
	switch {
	case c.SeenRevision != 0 && c.SeenRevision != s.events-1:
		return nil, fault.Refused("plan.stale", "the record has changed since it was read: read it again, then publish")
	case slices.ContainsFunc(p.Concerns, unsettled):
		return nil, fault.Refused("plan.concern.unresolved", "a concern is not settled: decide or resolve each one first")
	case c.ReviewDue == "":
		return nil, fault.Refused("plan.review_date.missing", "give the day of the next review in review_due")
	case c.ReviewDue <= c.Today().String():
		return nil, fault.Invalid("plan.review_date.past", "review_due", "must be after today")
	case p.Agreement == pb.Agreement_AGREEMENT_UNSPECIFIED:
		return nil, fault.Refused("plan.agreement.missing", "the patient has neither agreed nor declined: record that first")
	}
	return events(&pb.PlanPublished{Version: p.Version + 1, ReviewDue: c.ReviewDue, SharedWithPatient: c.SharedWithPatient, AgreementVersion: p.AgreementVersion})
}

// ReviewPlan records a review.
type ReviewPlan struct {
	Env
	*pb.ReviewPlanRequest
}

// Decide wants the next one after this one.
func (c ReviewPlan) Decide(s State) ([]proto.Message, error) {
	if _, err := s.plan(active); err != nil {
		return nil, err
	}
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	if c.NextReviewDue <= c.On || c.NextReviewDue <= c.Today().String() {
		return nil, fault.Invalid("plan.review_date.past", "next_review_due", "must be after today")
	}
	return events(&pb.PlanReviewed{On: c.On, NextReviewDue: c.NextReviewDue})
}

// HoldPlan stops work on the plan for a time.
type HoldPlan struct {
	Env
	*pb.HoldPlanRequest
}

// Decide needs an active plan.
func (c HoldPlan) Decide(s State) ([]proto.Message, error) {
	if _, err := s.plan(active); err != nil {
		return nil, err
	}
	return events(&pb.PlanPutOnHold{Reason: c.Reason})
}

// ResumePlan takes it up again.
type ResumePlan struct {
	Env
	*pb.ResumePlanRequest
}

// Decide needs a plan on hold.
func (c ResumePlan) Decide(s State) ([]proto.Message, error) {
	if _, err := s.plan(onHold); err != nil {
		return nil, err
	}
	return events(&pb.PlanResumed{Reason: c.Reason})
}

func (s State) section(code string) (*pb.SectionView, error) {
	p, err := s.plan(active)
	if err != nil {
		return nil, err
	}
	x, ok := find(p.Sections, func(x *pb.SectionView) bool { return x.Code == code })
	if !ok {
		return nil, unknown("section")
	}
	return x, nil
}

// ShareSection shows a section to the patient.
type ShareSection struct {
	Env
	*pb.ShareSectionRequest
}

// Decide refuses a section that was not written.
func (c ShareSection) Decide(s State) ([]proto.Message, error) {
	x, err := s.section(c.Code)
	if err != nil {
		return nil, err
	}
	if x.Shared {
		return nil, notAtStep("section")
	}
	return events(&pb.SectionShared{Code: c.Code})
}

// WithholdSection keeps a section from the patient, with the reason.
type WithholdSection struct {
	Env
	*pb.WithholdSectionRequest
}

// Decide refuses a section that was not written.
func (c WithholdSection) Decide(s State) ([]proto.Message, error) {
	if _, err := s.section(c.Code); err != nil {
		return nil, err
	}
	return events(&pb.SectionWithheld{Code: c.Code, Reason: c.Reason})
}

// ClosePlan ends the plan.
type ClosePlan struct {
	Env
	*pb.ClosePlanRequest
}

// Decide refuses while an action is open at the treating organisation; one that
// is assigned at another was transferred.
func (c ClosePlan) Decide(s State) ([]proto.Message, error) {
	p, err := s.plan(active, onHold)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(p.Actions, func(a *pb.Action) bool {
		return !actionEnded(a.Status) && (a.Organisation == "" || a.Organisation == p.TreatingOrganisation)
	}) {
		return nil, fault.Refused("plan.open_actions", "an action is open: end it, or assign it at the organisation that takes it over")
	}
	return events(&pb.PlanClosed{Outcome: c.Outcome, Reason: c.Reason})
}

// MarkInError takes back a plan that should not exist.
type MarkInError struct {
	Env
	*pb.MarkInErrorRequest
}

// Decide wants a second person.
func (c MarkInError) Decide(s State) ([]proto.Message, error) {
	if _, err := s.plan(draft, active, onHold, pb.PlanState_PLAN_STATE_COMPLETED, pb.PlanState_PLAN_STATE_REVOKED); err != nil {
		return nil, err
	}
	if c.SecondPerson == c.User {
		return nil, fault.Invalid("plan.second_person", "second_person", "must be somebody else than who sends the command")
	}
	return events(&pb.PlanEnteredInError{SecondPerson: c.SecondPerson, Reason: c.Reason})
}
