package pathway

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// derive computes what follows from what was folded: the state, the route, the
// clocks, the deadlines. It may be called again after more events; it keeps
// nothing between calls and asks no clock.
func derive(v *pb.Pathway) {
	v.Start, v.Upgrade, v.FirstSeen, v.FirstSeenAdjustment, v.Transfer, v.Closed = nil, nil, nil, nil, nil, nil
	v.Diagnosis, v.RuledOut, v.Exclusion = nil, nil, nil
	v.FirstAppointmentsMissed, v.Treatments, v.ReroutedTo, v.Clocks, v.Deadlines, v.NextAction = nil, nil, nil, nil, nil, nil
	for _, f := range v.Facts {
		v.ReroutedTo = append(v.ReroutedTo, f.Onward...)
		place(v, f)
	}
	v.Route = v.StartRoute
	if v.Upgrade != nil {
		v.Route = referralv1.Route_ROUTE_UPGRADE
	}
	v.State = stateOf(v)
	v.Clocks = clocks(v)
	v.Deadlines = deadlines(v)
	if len(v.Deadlines) > 0 {
		v.NextAction = v.Deadlines[0]
	}
}

// place puts one fact where readers look for it.
func place(v *pb.Pathway, f *pb.RecordedFact) {
	last := func() *referralv1.Treatment {
		if len(v.Treatments) == 0 {
			v.Treatments = append(v.Treatments, &referralv1.Treatment{})
		}
		return v.Treatments[len(v.Treatments)-1]
	}
	next := func() *referralv1.Treatment {
		if n := len(v.Treatments); n == 0 || v.Treatments[n-1].Started != nil {
			v.Treatments = append(v.Treatments, &referralv1.Treatment{})
		}
		return last()
	}
	switch x := f.Facts.GetFacts().(type) {
	case *referralv1.Replacement_Start:
		v.Start = x.Start
	case *referralv1.Replacement_Upgrade:
		v.Upgrade = x.Upgrade
	case *referralv1.Replacement_FirstSeen:
		v.FirstSeen = x.FirstSeen
	case *referralv1.Replacement_FirstAppointmentMissed:
		v.FirstAppointmentsMissed = append(v.FirstAppointmentsMissed, x.FirstAppointmentMissed)
	case *referralv1.Replacement_FirstSeenAdjustment:
		v.FirstSeenAdjustment = x.FirstSeenAdjustment
	case *referralv1.Replacement_Diagnosis:
		v.Diagnosis = x.Diagnosis
	case *referralv1.Replacement_RuledOut:
		v.RuledOut = x.RuledOut
	case *referralv1.Replacement_Exclusion:
		v.Exclusion = x.Exclusion
	case *referralv1.Replacement_DecisionToTreat:
		next().Decision = x.DecisionToTreat
	case *referralv1.Replacement_Ecad:
		next().Ecad = x.Ecad
	case *referralv1.Replacement_TreatmentOffer:
		last().Offers = append(last().Offers, &referralv1.TreatmentOffer{FactId: f.FactId, Offer: x.TreatmentOffer})
	case *referralv1.Replacement_OfferDeclined:
		for _, o := range last().Offers {
			if strings.EqualFold(o.FactId, x.OfferDeclined.GetOfferFactId()) {
				o.Declined = x.OfferDeclined
			}
		}
	case *referralv1.Replacement_TreatmentAdjustment:
		last().Adjustment = x.TreatmentAdjustment
	case *referralv1.Replacement_Transfer:
		v.Transfer = x.Transfer
	case *referralv1.Replacement_Treatment:
		next().Started = x.Treatment
	case *referralv1.Replacement_TreatmentEnd:
		for _, t := range v.Treatments {
			if t.Started != nil && t.Ended == nil {
				t.Ended = x.TreatmentEnd
			}
		}
	case *referralv1.Replacement_FollowUp:
		last().FollowUp = x.FollowUp
	case *referralv1.Replacement_Close:
		v.Closed = x.Close
	}
}

func stateOf(v *pb.Pathway) referralv1.PathwayState {
	n := len(v.Treatments)
	under := slices.ContainsFunc(v.Treatments, func(t *referralv1.Treatment) bool { return t.Started != nil && t.Ended == nil })
	switch {
	case v.Start == nil:
		return referralv1.PathwayState_PATHWAY_STATE_UNSPECIFIED
	case v.Closed != nil:
		return referralv1.PathwayState_PATHWAY_STATE_CLOSED
	case under:
		return referralv1.PathwayState_PATHWAY_STATE_IN_TREATMENT
	case n > 0 && v.Treatments[n-1].Started == nil:
		return referralv1.PathwayState_PATHWAY_STATE_DECIDED
	case n > 0 && v.Treatments[n-1].FollowUp != nil:
		return referralv1.PathwayState_PATHWAY_STATE_FOLLOW_UP
	case n > 0:
		return referralv1.PathwayState_PATHWAY_STATE_TREATMENT_ENDED
	case v.Diagnosis != nil:
		return referralv1.PathwayState_PATHWAY_STATE_DIAGNOSED
	case v.RuledOut != nil:
		return referralv1.PathwayState_PATHWAY_STATE_RULED_OUT
	case v.FirstSeen != nil:
		return referralv1.PathwayState_PATHWAY_STATE_SEEN
	}
	return referralv1.PathwayState_PATHWAY_STATE_REFERRED
}

// routes gives the routes of the contract their names in the waiting-time rules.
var routes = map[referralv1.Route]waitingtimes.Route{
	referralv1.Route_ROUTE_USC:                waitingtimes.USC,
	referralv1.Route_ROUTE_BREAST_SYMPTOMATIC: waitingtimes.BreastSympt,
	referralv1.Route_ROUTE_SCREENING:          waitingtimes.Screening,
	referralv1.Route_ROUTE_UPGRADE:            waitingtimes.Upgrade,
}

// clocks computes every run of a clock by the rule in force at its start.
func clocks(v *pb.Pathway) (out []*pb.Clock) {
	if v.Start == nil {
		return nil
	}
	gone := v.Closed.GetOn()
	run := func(name, start, end, discontinued string, last func() (nhs.Date, waitingtimes.Rule, error), result func() (waitingtimes.Result, error)) {
		if date(start).IsZero() {
			return
		}
		c := &pb.Clock{Clock: name, StartOn: start, EndOn: end}
		out = append(out, c)
		due, rule, err := last()
		if err != nil {
			c.Problem = err.Error()
			return
		}
		c.Limit, c.Rule, c.Source = int32(rule.Limit), rule.ID, rule.Source
		switch {
		case end != "":
			c.Status = referralv1.ClockStatus_CLOCK_STATUS_STOPPED
			r, err := result()
			if err != nil {
				c.Problem = err.Error()
				return
			}
			c.Counted, c.Breach, c.Rule, c.Source = r.Counted, r.Breach, r.Rule.ID, r.Rule.Source
			if r.Counted {
				c.Days = new(int32(r.Days))
			}
		case discontinued != "" && discontinued < start: // an appropriate date that never came
			out = out[:len(out)-1]
		case discontinued != "":
			c.Status, c.EndOn = referralv1.ClockStatus_CLOCK_STATUS_DISCONTINUED, discontinued
		default:
			c.Status = referralv1.ClockStatus_CLOCK_STATUS_RUNNING
			c.BreachAfter = due.String()
		}
	}

	var first *referralv1.Treatment
	decided := ""
	for _, t := range v.Treatments {
		if d := t.Decision.GetOn(); d != "" && (decided == "" || d < decided) {
			decided = d
		}
		if first == nil && t.Started != nil && waitingtimes.FirstTreatment(t.Started.EventType) {
			first = t
		}
	}
	adjustment := int(v.FirstSeenAdjustment.GetDays())
	if v.Route == referralv1.Route_ROUTE_USC || v.Route == referralv1.Route_ROUTE_BREAST_SYMPTOMATIC || v.Route == referralv1.Route_ROUTE_SCREENING {
		told, reason, exclusion := cmp.Or(v.Diagnosis.GetTold().GetOn(), v.RuledOut.GetTold().GetOn(), v.Exclusion.GetOn()), "01", ""
		switch {
		case v.Diagnosis != nil:
		case v.RuledOut != nil:
			reason = v.RuledOut.EndReason
		case v.Exclusion != nil:
			reason, exclusion = "03", v.Exclusion.Reason
		}
		end := told
		if end == "" || decided != "" && decided < end {
			end = decided
		}
		fds := waitingtimes.FasterDiagnosis{Received: date(v.Start.ReceivedOn), End: date(told), DecisionToTreat: date(decided),
			FirstSeenAdjustment: adjustment, EndReason: reason, Exclusion: exclusion}
		run("fds", v.Start.ReceivedOn, end, gone, fds.LastDay, fds.Result)
	}
	if route := routes[v.Route]; route != waitingtimes.NoRoute {
		treatment := first // before it started, the one that is decided on
		if n := len(v.Treatments); treatment == nil && n > 0 && v.Treatments[n-1].Started == nil {
			treatment = v.Treatments[n-1]
		}
		r := waitingtimes.Referral{Route: route, Received: date(v.Start.ReceivedOn), Upgraded: date(v.Upgrade.GetOn()), FirstSeen: date(v.FirstSeen.GetOn()),
			Transferred: date(v.Transfer.GetOn()), TreatmentStart: date(first.GetStarted().GetOn()), FirstSeenAdjustment: adjustment,
			TreatmentAdjustment: int(treatment.GetAdjustment().GetDays()), EventType: first.GetStarted().GetEventType(), Modality: first.GetStarted().GetModality()}
		start := v.Start.ReceivedOn
		if v.Upgrade != nil {
			start = v.Upgrade.On
		}
		discontinued := cmp.Or(v.RuledOut.GetTold().GetOn(), gone)
		run("d62", start, first.GetStarted().GetOn(), discontinued, r.LastDay, r.Result)
		if v.Transfer != nil {
			run("d38", start, v.Transfer.On, "", func() (nhs.Date, waitingtimes.Rule, error) { return waitingtimes.Due("d38", r.ClockStart()) }, r.ToTransfer)
			run("d24", v.Transfer.On, first.GetStarted().GetOn(), discontinued, r.LastDayAfterTransfer, r.AfterTransfer)
		}
	}
	for _, t := range v.Treatments {
		start := cmp.Or(t.Ecad.GetOn(), t.Decision.GetOn())
		d31 := waitingtimes.Treatment{ClockStart: date(start), Start: date(t.Started.GetOn()), Adjustment: int(t.Adjustment.GetDays()),
			EventType: t.Started.GetEventType(), Modality: t.Started.GetModality()}
		run("d31", start, t.Started.GetOn(), gone, d31.LastDay, d31.Result)
	}
	return out
}

// date is zero for what is empty or not a date.
func date(text string) nhs.Date {
	d, _ := nhs.ParseDate(text)
	return d
}

// deadlines lists all that must happen by a time, soonest first. A pathway that
// is closed and whose ledger is closed has none.
func deadlines(v *pb.Pathway) (out []*pb.Deadline) {
	if v.Closed != nil && v.Holder == nil {
		return nil
	}
	at := func(category, kind, about string, due *timestamppb.Timestamp, who *careleadv1.Party) {
		if due != nil {
			out = append(out, &pb.Deadline{Kind: kind, Category: category, About: about, Due: due, Who: who})
		}
	}
	on := func(category, kind, about, day string) {
		if d := date(day); !d.IsZero() {
			out = append(out, &pb.Deadline{Kind: kind, Category: category, About: about, On: day, Due: timestamppb.New(d.AddDays(1).Start()), Who: v.Holder})
		}
	}
	for _, c := range v.Clocks {
		if c.Status == referralv1.ClockStatus_CLOCK_STATUS_RUNNING {
			on("pathway", c.Clock, c.Rule, c.BreachAfter)
		}
	}
	for _, r := range v.Referrals {
		if r.State == "sent" || r.State == "received" {
			at("referral", "referral_answer", r.ReferralId, r.RespondBy, v.Holder)
		}
	}
	if h := v.OpenHandover; h.GetAnswerDue() != nil {
		if h.SeenAt == nil {
			at("carelead", "handover_seen", h.HandoverId, h.SeenDue, h.To)
		}
		at("carelead", "handover_answer", h.HandoverId, h.AnswerDue, h.To)
	}
	if c := v.FirstContact; c != nil && c.MadeOn == "" && v.Holder != nil {
		at("carelead", "first_contact", "", c.Due, v.Holder)
	}
	for _, t := range v.ReviewTasks {
		if !t.Done {
			at("carelead", "review_task", t.TaskId, t.Due, v.Holder)
		}
	}
	if v.Holder != nil {
		on("carelead", "ask_again", "", v.AskAgainOn)
	}
	planDeadlines(v, at, on)
	for _, t := range v.ToBeBooked {
		if t.State == "open" {
			on("appointment", "to_be_booked", t.TaskId, t.Due)
		}
	}
	for _, a := range v.Appointments {
		if a.State == "requested" {
			on("appointment", "to_be_booked", a.AppointmentId, a.WantedBy)
		}
		if a.State == "booked" && a.PatientRequest != appointmentv1.PatientRequest_PATIENT_REQUEST_UNSPECIFIED {
			at("appointment", "change_requested", a.AppointmentId, a.Booking.GetStart(), v.Holder)
		}
	}
	slices.SortStableFunc(out, func(a, b *pb.Deadline) int {
		return cmp.Or(a.Due.AsTime().Compare(b.Due.AsTime()), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.About, b.About))
	})
	return out
}

func planDeadlines(v *pb.Pathway, at func(category, kind, about string, due *timestamppb.Timestamp, who *careleadv1.Party), on func(category, kind, about, day string)) {
	// What has ended with the pathway or the patient waits for nobody; a result is reviewed all the same.
	ends := func(kind, about string) bool {
		return kind != "result_review" && slices.Contains(v.PlanEndedIds, about)
	}
	everyAt, everyOn := at, on
	at = func(category, kind, about string, due *timestamppb.Timestamp, who *careleadv1.Party) {
		if !ends(kind, about) {
			everyAt(category, kind, about, due, who)
		}
	}
	on = func(category, kind, about, day string) {
		if !ends(kind, about) {
			everyOn(category, kind, about, day)
		}
	}
	for _, x := range v.CareSteps {
		if x.DoneOn == "" {
			on("plan", "care_step", x.StepId, x.Due)
		}
	}
	if p := v.Plan; p != nil && p.State != "closed" && p.State != "in_error" {
		if p.State == "published" {
			on("plan", "plan_review", p.PlanId, p.ReviewDue)
		}
		for _, c := range p.Concerns {
			if c.DiscussedOn == "" && c.ResolvedOn == "" && c.Decision == planv1.ConcernDecision_CONCERN_DECISION_UNSPECIFIED {
				at("plan", "concern_escalated", c.ConcernId, c.EscalatedDue, v.Holder)
			}
		}
	}
	for _, a := range v.Assessments {
		switch a.State {
		case "due":
			on("plan", "assessment_offer", a.AssessmentId, a.Due)
		case "offered", "started":
			on("plan", "assessment_answer", a.AssessmentId, a.Expires)
		}
	}
	for _, s := range v.Summaries {
		switch s.State {
		case "due", "drafted", "ready", "approved":
			if s.FirstIssuedOn == "" {
				on("plan", "summary", s.SummaryId, cmp.Or(s.Latest, s.Target))
			}
		case "issued":
			for _, d := range s.Deliveries {
				if d.State == "failed" {
					on("plan", "delivery", s.SummaryId, d.ActBy)
				}
			}
		}
	}
	if s := v.Surveillance; s.GetState() == "started" {
		for _, i := range s.Items {
			if i.State == "planned" || i.State == "due" || i.State == "requested" {
				on("plan", "surveillance_item", i.ItemId, i.Due)
			}
		}
	}
	for _, r := range v.Results {
		switch {
		case r.ReviewedOn == "":
			on("plan", "result_review", r.ResultId, r.ReviewDue)
		case r.ToldOn == "":
			on("plan", "result_told", r.ResultId, r.TellBy)
		}
	}
	for _, a := range v.Alerts {
		at("plan", "alert", a.ResponseId, a.Due, v.Holder)
	}
}
