package pathway

import (
	"google.golang.org/protobuf/reflect/protoreflect"
	"slices"
	pb "waymark/proto/waymark/pathway/v1"
	planv1 "waymark/proto/waymark/plan/v1"
)

func plan(v *pb.Pathway) *pb.Plan {
	if v.Plan == nil {
		v.Plan = &pb.Plan{}
	}
	return v.Plan
}

func concern(v *pb.Pathway, id string) *pb.Concern {
	return find(&plan(v).Concerns, id, (*pb.Concern).GetConcernId, func() *pb.Concern { return &pb.Concern{ConcernId: id} })
}

func goal(v *pb.Pathway, id string) *pb.Goal {
	return find(&plan(v).Goals, id, (*pb.Goal).GetGoalId, func() *pb.Goal { return &pb.Goal{GoalId: id} })
}

func action(v *pb.Pathway, id string) *pb.Action {
	return find(&plan(v).Actions, id, (*pb.Action).GetActionId, func() *pb.Action { return &pb.Action{ActionId: id} })
}

func assessment(v *pb.Pathway, id, state string) *pb.Assessment {
	a := find(&v.Assessments, id, (*pb.Assessment).GetAssessmentId, func() *pb.Assessment { return &pb.Assessment{AssessmentId: id} })
	a.State = state
	return a
}

// takenUp lets a thing of the plan wait again that somebody acts on after it had
// ended with the pathway or the patient.
func takenUp(v *pb.Pathway, e event) {
	if len(v.PlanEndedIds) == 0 {
		return
	}
	var about []string
	switch e.message.(type) {
	case *planv1.PlanPublished, *planv1.PlanReviewed, *planv1.PlanResumed:
		about = append(about, v.Plan.GetPlanId())
	}
	m := e.message.ProtoReflect()
	for _, name := range []protoreflect.Name{"action_id", "concern_id", "assessment_id", "summary_id", "item_id", "step_id", "response_id", "result_id"} {
		if f := m.Descriptor().Fields().ByName(name); f != nil {
			about = append(about, m.Get(f).String())
		}
	}
	v.PlanEndedIds = slices.DeleteFunc(v.PlanEndedIds, func(id string) bool { return slices.Contains(about, id) })
}

// highScore is the score of a concern from which on somebody must act.
const highScore = 8

// foldPlan takes the events of plans, assessments and responses in "plan-"
// streams. What a concern is and what anybody wrote stays with the plan.
func foldPlan(v *pb.Pathway, e event) bool {
	takenUp(v, e)
	switch m := e.message.(type) {
	case *planv1.PlanOpened:
		p := plan(v)
		p.PlanId, p.State, p.Diagnosis, p.TreatingOrganisation, p.OpenedAt = m.PlanId, "open", m.Diagnosis, m.TreatingOrganisation, e.at()
	case *planv1.ConcernRaised:
		c := concern(v, m.ConcernId)
		c.HighEmotionalScore, c.HighScore, c.RaisedOn = m.HighEmotionalScore, m.Score >= highScore, civil(e.at())
	case *planv1.ConcernEscalated:
		concern(v, m.ConcernId).EscalatedDue = m.Due
	case *planv1.ConcernDiscussed:
		concern(v, m.ConcernId).DiscussedOn = m.On
	case *planv1.ConcernDecided:
		c := concern(v, m.ConcernId)
		c.Decision, c.DecidedOn = m.Decision, civil(e.at())
	case *planv1.ConcernResolved:
		concern(v, m.ConcernId).ResolvedOn = m.On
	case *planv1.GoalAgreed:
		g := goal(v, m.GoalId)
		g.TargetOn, g.Status = m.TargetOn, planv1.GoalStatus_GOAL_STATUS_ACCEPTED
	case *planv1.GoalStatusChanged:
		goal(v, m.GoalId).Status = m.Status
	case *planv1.ActionPlanned:
		a := action(v, m.ActionId)
		a.Due, a.RequiredRole, a.Status = m.Due, m.RequiredRole, planv1.ActionStatus_ACTION_STATUS_NOT_STARTED
	case *planv1.ActionAssigned:
		action(v, m.ActionId).Organisation = m.Organisation
	case *planv1.ActionStatusChanged:
		action(v, m.ActionId).Status = m.Status
	case *planv1.SectionWritten, *planv1.PreferencesRecorded, *planv1.ShareConsentRecorded, *planv1.SectionShared, *planv1.SectionWithheld:
	case *planv1.PlanAgreedWithPatient:
		plan(v).AgreedOn, plan(v).AgreementDeclinedOn = m.On, ""
	case *planv1.PlanAgreementDeclined:
		plan(v).AgreementDeclinedOn = m.On
	case *planv1.PlanPublished:
		p := plan(v)
		p.State, p.Version, p.ReviewDue, p.SharedWithPatient, p.ReviewOverdue = "published", m.Version, m.ReviewDue, m.SharedWithPatient, false
		if p.FirstPublishedAt == nil {
			p.FirstPublishedAt = e.at()
		}
	case *planv1.PlanReviewed:
		p := plan(v)
		p.ReviewedOn, p.ReviewDue, p.ReviewOverdue = m.On, m.NextReviewDue, false
	case *planv1.PlanReviewOverdue:
		plan(v).ReviewOverdue = true
	case *planv1.PlanPutOnHold:
		plan(v).State = "on_hold"
	case *planv1.PlanResumed:
		plan(v).State = "open"
		if plan(v).Version > 0 {
			plan(v).State = "published"
		}
	case *planv1.PlanClosed:
		plan(v).State = "closed"
	case *planv1.PlanEnteredInError:
		plan(v).State = "in_error"

	case *planv1.AssessmentBecameDue:
		a := assessment(v, m.AssessmentId, "due")
		a.Point, a.Due = m.Point, m.Due
	case *planv1.AssessmentOffered:
		a := assessment(v, m.AssessmentId, "offered")
		a.Point, a.OfferedOn, a.Expires, a.OfferedStatus = m.Point, m.On, m.Expires, m.OfferedStatus
	case *planv1.AssessmentNotOffered:
		a := assessment(v, m.AssessmentId, "not_offered")
		a.Point, a.EndedOn = m.Point, m.On
	case *planv1.AssessmentDeclined:
		assessment(v, m.AssessmentId, "declined").EndedOn = m.On
	case *planv1.AssessmentUnableToComplete:
		assessment(v, m.AssessmentId, "unable").EndedOn = m.On
	case *planv1.AssessmentStarted:
		assessment(v, m.AssessmentId, "started")
	case *planv1.AssessmentSubmitted:
		a := assessment(v, m.AssessmentId, "submitted")
		a.SubmittedOn, a.Concerns = m.On, int32(len(m.Concerns))
	case *planv1.AssessmentDiscussed:
		assessment(v, m.AssessmentId, "discussed").DiscussedOn = m.On
	case *planv1.AssessmentClosed:
		a := assessment(v, m.AssessmentId, "closed")
		a.ClosedOn, a.EndedOn, a.PlanOfferedStatus = m.On, m.On, m.PlanOfferedStatus
	case *planv1.AssessmentExpired:
		assessment(v, m.AssessmentId, "expired")
	case *planv1.AssessmentReoffered:
		assessment(v, m.AssessmentId, "offered").Expires = m.Expires

	case *planv1.ResponseReceived, *planv1.ResponseScored, *planv1.ResponseRejected, *planv1.DocumentAttached, *planv1.DocumentReplaced, *planv1.DocumentWithdrawn:
	case *planv1.AlertRaised:
		v.Alerts = append(v.Alerts, &pb.Alert{ResponseId: m.ResponseId, Rule: m.AlertRule, Due: m.Due})
	case *planv1.AlertClosed:
		v.Alerts = slices.DeleteFunc(v.Alerts, func(a *pb.Alert) bool { return a.ResponseId == m.ResponseId })

	case *planv1.CareStepBecameDue:
		v.CareSteps = append(v.CareSteps, &pb.CareStep{StepId: m.StepId, Kind: m.Kind, Due: m.Due})
	case *planv1.CareStepDone:
		for _, x := range v.CareSteps {
			if x.StepId == m.StepId {
				x.DoneOn = m.On
			}
		}
	case *planv1.CareStepOverdue, *planv1.SurveillanceEndPassed, *planv1.PlanPersonChanged:
	case *planv1.OpenThingsEnded:
		v.PlanEndedIds = append(v.PlanEndedIds, m.SubjectIds...)
	case *planv1.OpenThingsResumed:
		v.PlanEndedIds = slices.DeleteFunc(v.PlanEndedIds, func(id string) bool { return slices.Contains(m.SubjectIds, id) })
	default:
		return false
	}
	return true
}

// foldSummary takes the events of end-of-treatment summaries.
func foldSummary(v *pb.Pathway, e event) bool {
	of := func(id, state string) *pb.Summary {
		s := find(&v.Summaries, id, (*pb.Summary).GetSummaryId, func() *pb.Summary { return &pb.Summary{SummaryId: id} })
		if state != "" {
			s.State = state
		}
		return s
	}
	delivery := func(id string, to planv1.RecipientKind, version int64, state string) *pb.Delivery {
		s := of(id, "")
		for _, d := range s.Deliveries {
			if d.Recipient == to {
				d.Version, d.State, d.ActBy = version, state, ""
				return d
			}
		}
		d := &pb.Delivery{Recipient: to, Version: version, State: state}
		s.Deliveries = append(s.Deliveries, d)
		return d
	}
	switch m := e.message.(type) {
	case *planv1.SummaryBecameDue:
		s := of(m.SummaryId, "due")
		s.Period, s.Target, s.Latest = m.Period, m.Target, m.Latest
	case *planv1.SummaryDrafted:
		of(m.SummaryId, "drafted")
	case *planv1.SummaryReady:
		of(m.SummaryId, "ready")
	case *planv1.SummaryApproved:
		of(m.SummaryId, "approved").Version = m.Version
	case *planv1.SummaryIssued:
		s := of(m.SummaryId, "issued")
		s.IssuedOn, s.Overdue = m.On, false
		if s.FirstIssuedOn == "" {
			s.FirstIssuedOn = m.On
		}
		for _, to := range m.Recipients {
			delivery(m.SummaryId, to, m.Version, "issued")
		}
	case *planv1.SummaryDelivered:
		delivery(m.SummaryId, m.Recipient, m.Version, "delivered")
	case *planv1.SummaryDeliveryFailed:
		delivery(m.SummaryId, m.Recipient, m.Version, "failed").ActBy = m.ActBy
	case *planv1.SummaryAcknowledged:
		delivery(m.SummaryId, m.Recipient, m.Version, "acknowledged")
	case *planv1.SummaryAmended:
		of(m.SummaryId, "drafted").Amendments++
	case *planv1.SummaryWithdrawn:
		of(m.SummaryId, "withdrawn")
	case *planv1.SummaryOverdue:
		of(m.SummaryId, "").Overdue = true
	default:
		return false
	}
	return true
}

// foldSurveillance takes the events of surveillance schedules and results.
func foldSurveillance(v *pb.Pathway, e event) bool {
	schedule := func() *pb.Surveillance {
		if v.Surveillance == nil {
			v.Surveillance = &pb.Surveillance{}
		}
		return v.Surveillance
	}
	item := func(id, state string) *pb.SurveillanceItem {
		if id == "" {
			return &pb.SurveillanceItem{} // a result that no item asked for
		}
		i := find(&schedule().Items, id, (*pb.SurveillanceItem).GetItemId, func() *pb.SurveillanceItem { return &pb.SurveillanceItem{ItemId: id} })
		if state != "" {
			i.State = state
		}
		return i
	}
	plan := func(items []*planv1.Item) {
		for _, i := range items {
			next := item(i.ItemId, "")
			next.Test, next.Due, next.GraceDays = i.Test, i.Due, i.GraceDays
			if next.State == "" {
				next.State = "planned"
			}
		}
	}
	result := func(id string) *pb.Result {
		return find(&v.Results, id, (*pb.Result).GetResultId, func() *pb.Result { return &pb.Result{ResultId: id} })
	}
	switch m := e.message.(type) {
	case *planv1.SurveillanceStarted:
		s := schedule()
		s.ScheduleId, s.State, s.Protocol, s.ProtocolVersion, s.RiskGroup = m.ScheduleId, "started", m.Protocol, m.ProtocolVersion, m.RiskGroup
		s.RemoteMonitoring, s.Ends, s.StartedAt = m.RemoteMonitoring, m.Ends, e.at()
		plan(m.Items)
	case *planv1.SurveillanceNotNeeded:
		schedule().State = "not_needed"
	case *planv1.ProtocolChanged:
		s := schedule()
		s.Protocol, s.ProtocolVersion = m.Protocol, m.ProtocolVersion
		keep := make(map[string]bool)
		for _, i := range m.Items {
			keep[i.ItemId] = true
		}
		for _, i := range s.Items { // what the new protocol no longer asks for
			if !keep[i.ItemId] && (i.State == "planned" || i.State == "due") {
				i.State = "skipped"
			}
		}
		plan(m.Items)
	case *planv1.ItemBecameDue:
		item(m.ItemId, "due")
	case *planv1.ItemRequested:
		item(m.ItemId, "requested")
	case *planv1.ItemPerformed:
		i := item(m.ItemId, "performed")
		i.PerformedOn, i.Overdue = m.On, false
	case *planv1.ItemOverdue:
		item(m.ItemId, "").Overdue = true
	case *planv1.ItemSkipped:
		i := item(m.ItemId, "skipped")
		i.Overdue = false
	case *planv1.ResultReceived:
		r := result(m.ResultId)
		r.ItemId, r.Test, r.ReceivedOn, r.ReviewDue = m.ItemId, m.Test, m.On, m.ReviewDue
		item(m.ItemId, "resulted").Overdue = false
	case *planv1.ResultReviewed:
		r := result(m.ResultId)
		r.ReviewedOn, r.TellBy = m.On, m.TellBy
		item(m.ItemId, "reviewed").Overdue = false
	case *planv1.PatientToldResult:
		result(m.ResultId).ToldOn = m.On
		item(m.ItemId, "told").Overdue = false
	case *planv1.PatientSuspendedFromRemoteMonitoring:
		schedule().Suspended = true
	case *planv1.PatientReaccessed:
		schedule().Reaccessed++
	case *planv1.SurveillanceEnded:
		schedule().State = "ended"
	default:
		return false
	}
	return true
}
