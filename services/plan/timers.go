package plan

import (
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/waitingtimes"
)

// deliveryDays is how many working days a copy to the patient or the lead may be
// on its way. The practice's has a rule of its own.
const deliveryDays = 5

// RunTimers records what is due at Now, each thing once. Whoever calls it often
// learns of it early; the outcome is the same.
type RunTimers struct{ Env }

// Decide records nothing where nothing is due.
func (c RunTimers) Decide(s State) ([]proto.Message, error) {
	var out []proto.Message
	day := c.Today().String()
	if p, err := s.plan(draft, active, onHold); err == nil {
		for _, x := range p.Concerns {
			// Nobody has acted on the escalation: it is raised again.
			if x.EscalatedUntil != nil && !s.ends(x.ConcernId) && !c.Now.Before(x.EscalatedUntil.AsTime()) {
				out = append(out, &pb.ConcernEscalated{ConcernId: x.ConcernId, Due: endOf(c.Now, 1)})
			}
		}
		if p.State == active && !s.ends(p.PlanId) && p.ReviewDue != "" && p.ReviewDue < day && !p.ReviewOverdue {
			out = append(out, &pb.PlanReviewOverdue{Due: p.ReviewDue})
		}
	}
	for _, a := range s.assessments {
		if (a.State == offered || a.State == inProgress) && !s.ends(a.AssessmentId) && a.Expires < day {
			out = append(out, &pb.AssessmentExpired{AssessmentId: a.AssessmentId})
		}
	}
	for _, x := range s.steps {
		if x.DoneOn == "" && x.Due < day && !x.Overdue && !s.ends(x.StepId) {
			out = append(out, &pb.CareStepOverdue{StepId: x.StepId, Due: x.Due})
		}
	}
	for _, x := range s.summaries {
		if s.ends(x.SummaryId) {
			continue
		}
		if x.IssuedOn == "" && x.State != withdrawn && x.Latest < day && !x.Overdue {
			out = append(out, &pb.SummaryOverdue{SummaryId: x.SummaryId, Latest: x.Latest})
		}
		for _, d := range x.Deliveries {
			if d.State == sent && arriveBy(d.Recipient, x.IssuedOn) < day {
				out = append(out, deliveryFailed(x.SummaryId, d, "nobody confirmed that it arrived", c.Today()))
			}
		}
	}
	if x, err := s.schedule(); err == nil {
		if x.Ends != "" && x.Ends < day && !x.EndPassed && !s.ends(x.ScheduleId) {
			out = append(out, &pb.SurveillanceEndPassed{ScheduleId: x.ScheduleId, Ends: x.Ends})
		}
		for _, it := range x.Items {
			if !s.ends(it.Item.ItemId) {
				out = append(out, itemTimers(it, c)...)
			}
		}
	}
	return out, nil
}

// arriveBy is the last day on which a copy that was issued on a day may arrive.
func arriveBy(r pb.RecipientKind, issuedOn string) string {
	on := date(issuedOn)
	if r == gp {
		if due, _, err := waitingtimes.Due("eots_gp", on); err == nil {
			return due.String()
		}
	}
	return waitingtimes.AddWorkingDays(on, deliveryDays).String()
}

// itemTimers: an item falls due on its day; it is overdue when the grace is over
// without the test done, and when the day for telling the patient has passed.
func itemTimers(it *pb.ItemView, c RunTimers) (out []proto.Message) {
	id, today := it.Item.ItemId, c.Today()
	if it.State == planned && it.Item.Due <= today.String() {
		out = append(out, &pb.ItemBecameDue{ItemId: id})
	}
	step := ""
	switch it.State {
	case planned, itemDue, requested:
		if !today.Before(date(it.Item.Due).AddDays(int(it.Item.GraceDays))) {
			step = "performed"
		}
	case performed, resulted, reviewed:
		if today.After(tellBy(it.Item.Test, it.PerformedOn)) {
			step = map[pb.ItemState]string{performed: "resulted", resulted: "reviewed", reviewed: "told"}[it.State]
		}
	}
	if step != "" && it.OverdueStep != step {
		out = append(out, &pb.ItemOverdue{ItemId: id, Step: step})
	}
	return out
}
