package plan

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/nhs"
)

// Record is the state as queries show it.
func (s State) Record(pathwayID string) *pb.Record {
	r := &pb.Record{PathwayId: pathwayID, Plan: last(s.plans), Assessments: s.assessments, Summaries: s.summaries,
		Surveillance: last(s.schedules), Results: s.results, Responses: s.responses, SurveillanceNotNeededReason: s.notNeeded,
		CareSteps: s.steps, Tasks: s.tasks(), Revision: s.events - 1, Documents: s.documents}
	for _, id := range slices.Sorted(maps.Keys(s.ended)) {
		r.Ended = append(r.Ended, &pb.EndedThing{SubjectId: id, Cause: s.ended[id]})
	}
	if n := len(s.plans); n > 1 {
		r.EarlierPlans = s.plans[:n-1]
	}
	if n := len(s.schedules); n > 1 {
		r.EarlierSurveillance = s.schedules[:n-1]
	}
	return r
}

// shown is a plan without what the patient is not shown.
func shown(p *pb.Plan) *pb.Plan {
	if p == nil {
		return nil
	}
	p = proto.Clone(p).(*pb.Plan)
	p.Sections = slices.DeleteFunc(p.Sections, func(x *pb.SectionView) bool { return !x.Shared })
	return p
}

// withheldSince is an earlier record in which the sections that are withheld now
// say so; it shares nothing that it changes.
func withheldSince(then, now *pb.Record) *pb.Record {
	mark := func(p *pb.Plan) *pb.Plan {
		today, ok := find(append(slices.Clone(now.EarlierPlans), now.Plan), func(q *pb.Plan) bool { return q.GetPlanId() == p.GetPlanId() })
		if p == nil || !ok {
			return p
		}
		p = proto.Clone(p).(*pb.Plan)
		for _, x := range p.Sections {
			if y, ok := find(today.Sections, func(y *pb.SectionView) bool { return y.Code == x.Code }); ok && y.WithheldReason != "" {
				x.Shared, x.WithheldReason = false, y.WithheldReason
			}
		}
		return p
	}
	then.Plan = mark(then.Plan)
	then.EarlierPlans = slices.Clone(then.EarlierPlans)
	for i, p := range then.EarlierPlans {
		then.EarlierPlans[i] = mark(p)
	}
	return then
}

// tasks lists what waits for a person, earliest due first. It follows from the
// state alone, so that nothing can be open without being listed.
func (s State) tasks() (all []*pb.Task) {
	task := func(kind pb.TaskKind, id, due string) {
		if s.ends(id) && kind != pb.TaskKind_TASK_KIND_RESULT_REVIEW {
			return
		}
		all = append(all, &pb.Task{Kind: kind, SubjectId: id, Due: due})
	}
	if p, err := s.plan(draft, active, onHold); err == nil {
		for _, c := range p.Concerns {
			if c.EscalatedUntil != nil {
				task(pb.TaskKind_TASK_KIND_CONCERN_ESCALATED, c.ConcernId, nhs.DateOf(c.EscalatedUntil.AsTime()).AddDays(-1).String())
			}
		}
		for _, a := range p.Actions {
			if !actionEnded(a.Status) {
				task(pb.TaskKind_TASK_KIND_ACTION_DUE, a.ActionId, a.Due)
			}
		}
		if p.ReviewDue != "" {
			task(pb.TaskKind_TASK_KIND_PLAN_REVIEW, p.PlanId, p.ReviewDue)
		}
		if p.State == active && p.AgreementVersion < p.Version {
			task(pb.TaskKind_TASK_KIND_AGREEMENT, p.PlanId, p.ReviewDue)
		}
	}
	for _, a := range s.assessments {
		if a.State == assessmentDue || a.State == expired {
			task(pb.TaskKind_TASK_KIND_ASSESSMENT_DUE, a.AssessmentId, cmp.Or(a.Due, a.Expires))
		}
	}
	for _, x := range s.summaries {
		if x.State != withdrawn && (x.IssuedOn == "" || len(x.ToTell) > 0 || len(had(x)) < len(recipients)) {
			task(pb.TaskKind_TASK_KIND_SUMMARY_DUE, x.SummaryId, x.Latest)
		}
		for _, d := range x.Deliveries {
			if d.State == failed && d.Version == x.Version {
				task(pb.TaskKind_TASK_KIND_SUMMARY_UNDELIVERED, x.SummaryId, d.ActBy)
			}
		}
	}
	for _, r := range s.results {
		switch r.State {
		case resultReceived:
			task(pb.TaskKind_TASK_KIND_RESULT_REVIEW, r.ResultId, r.ReviewDue)
		case resultReviewed:
			task(pb.TaskKind_TASK_KIND_TELL_PATIENT, r.ResultId, r.TellBy)
		}
	}
	for _, x := range s.steps {
		if x.DoneOn == "" {
			task(pb.TaskKind_TASK_KIND_CARE_STEP, x.StepId, x.Due)
		}
	}
	if x, err := s.schedule(); err == nil {
		if x.EndPassed {
			task(pb.TaskKind_TASK_KIND_SURVEILLANCE_END, x.ScheduleId, x.Ends)
		}
		for _, it := range x.Items {
			if it.Overdue {
				task(pb.TaskKind_TASK_KIND_ITEM_OVERDUE, it.Item.ItemId, it.Item.Due)
			}
		}
	}
	for _, r := range s.responses {
		if r.AlertDue != nil {
			task(pb.TaskKind_TASK_KIND_ALERT, r.ResponseId, nhs.DateOf(r.AlertDue.AsTime()).AddDays(-1).String())
		}
	}
	slices.SortStableFunc(all, func(a, b *pb.Task) int { return cmp.Compare(a.Due, b.Due) })
	return all
}
