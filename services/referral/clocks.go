package referral

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// screening is SOURCE OF REFERRAL 17, a national screening programme.
const screening = "17"

// routes gives the routes of the waiting-time rules their names in the contract.
var routes = map[waitingtimes.Route]pb.Route{
	waitingtimes.USC:         pb.Route_ROUTE_USC,
	waitingtimes.BreastSympt: pb.Route_ROUTE_BREAST_SYMPTOMATIC,
	waitingtimes.Screening:   pb.Route_ROUTE_SCREENING,
	waitingtimes.Upgrade:     pb.Route_ROUTE_UPGRADE,
	waitingtimes.NoRoute:     pb.Route_ROUTE_OTHER,
}

func routeOf(s *pb.StartFacts, upgraded bool) pb.Route {
	return routes[waitingtimes.RouteOf(s.GetPriority(), s.GetReferralType(), s.GetSource(), upgraded)]
}

// planned are the dates of facts that may lie ahead. The date of a letter is
// judged with the telling. Every other date is of something that has happened.
var planned = map[protoreflect.FullName]bool{
	"waymark.referral.v1.EcadFacts.on":                      true,
	"waymark.referral.v1.TreatmentOfferFacts.offered_for":   true,
	"waymark.referral.v1.OfferDeclinedFacts.available_from": true,
	"waymark.referral.v1.Told.letter_sent_on":               true,
}

// alone refuses what is wrong whatever was recorded before: dates in the future,
// an outcome that nobody was told, an adjustment at odds with its reason. path is
// where the facts stand in the request.
func alone(facts proto.Message, today nhs.Date, path string) error {
	if err := past(facts.ProtoReflect(), today, path); err != nil {
		return err
	}
	switch f := facts.(type) {
	case *pb.DiagnosisFacts:
		return communicated(f.Told, path+".told")
	case *pb.RuledOutFacts:
		return communicated(f.Told, path+".told")
	case *pb.FirstSeenAdjustmentFacts:
		if f.Days > 0 && f.Reason != "3" {
			return fault.Invalid("cwt.adjustment.reason_mismatch", path+".reason", "days come off only for a missed first appointment (reason 3)")
		}
	case *pb.TreatmentAdjustmentFacts:
		if f.Days == 0 {
			break
		}
		if f.Reason != "8" {
			return fault.Invalid("cwt.adjustment.reason_mismatch", path+".reason", "days come off only for a declined reasonable offer (reason 8)")
		}
		if f.Setting != pb.TreatmentSetting_TREATMENT_SETTING_ORDINARY_ADMISSION && f.Setting != pb.TreatmentSetting_TREATMENT_SETTING_DAY_CASE {
			return fault.Invalid("cwt.adjustment.reason_mismatch", path+".setting", "days come off only where treatment is planned as an admission")
		}
	}
	return nil
}

// past refuses a date after today in any field that ends in "on" and may not lie
// ahead, at any depth. A new fact with such a field is held to it unasked.
func past(m protoreflect.Message, today nhs.Date, path string) error {
	var err error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		switch {
		case f.Kind() == protoreflect.MessageKind && !f.IsList() && !f.IsMap():
			err = past(v.Message(), today, path+"."+name)
		case f.Kind() == protoreflect.StringKind && !f.IsList() && !planned[f.FullName()] && (name == "on" || strings.HasSuffix(name, "_on")):
			if v.String() > today.String() {
				err = fault.Invalid("cwt.date.in_future", path+"."+name, "has not happened yet: it is after today")
			}
		}
		return err == nil
	})
	return err
}

// communicated refuses a telling that has not happened. Told by a letter means
// that it was sent by then; being asked to see the GP tells nothing.
func communicated(t *pb.Told, path string) error {
	switch {
	case t.GetMethod() == pb.OutcomeMethod_OUTCOME_METHOD_ASKED_TO_SEE_GP:
		return fault.Invalid("cwt.fds.not_communicated", path+".method", "the patient was only asked to come: record the outcome when they have been told")
	case t.GetMethod() == pb.OutcomeMethod_OUTCOME_METHOD_LETTER && t.GetLetterSentOn() == "":
		return fault.Invalid("cwt.fds.not_communicated", path+".letter_sent_on", "the letter has not been sent: give the date on which it was")
	case t.GetLetterSentOn() > t.GetOn():
		return fault.Invalid("cwt.fds.not_communicated", path+".letter_sent_on", "the letter was not sent by the day on which the patient is said to have been told")
	}
	return nil
}

// check holds the facts that stand against each other: the order of their dates
// and the size of the adjustments. Dates are compared as text, which for
// YYYY-MM-DD is their order.
func (p Pathway) check(today nhs.Date) error {
	received := p.start.GetReceivedOn()
	// start is day 0 of the 62-day clock; receipt where none runs.
	start := received
	if p.upgrade != nil {
		start = p.upgrade.On
	}
	told := p.outcomeOn()
	first := p.firstTreatment().GetOn()
	end := order("cwt.order.end_before_start")
	end.after(p.upgrade.GetOn(), received, "the upgrade comes before the receipt of the referral")
	end.after(p.seen.GetOn(), received, "the patient was first seen before the receipt of the referral")
	for _, m := range p.missed {
		end.after(m.On, received, "the missed appointment comes before the receipt of the referral")
		end.after(m.RebookedOn, received, "the rebooking comes before the receipt of the referral")
		end.after(p.seen.GetOn(), m.On, "the first appointment was missed after the patient had been first seen")
	}
	end.after(told, received, "the outcome comes before the receipt of the referral")
	end.after(p.transfer.GetOn(), start, "the transfer comes before the start of the 62-day clock")
	end.after(first, p.transfer.GetOn(), "treatment started before the transfer to the treating provider")
	end.after(first, start, "treatment started before the start of the 62-day clock")
	treated := order("cwt.order.treatment_before_decision")
	for _, t := range p.treatments {
		end.after(t.decision.GetOn(), received, "the decision to treat comes before the receipt of the referral")
		end.after(t.decision.GetOn(), p.upgrade.GetOn(), "the decision to treat comes before the upgrade")
		end.after(t.ecad.GetOn(), received, "the earliest clinically appropriate date comes before the receipt of the referral")
		end.after(t.ecad.GetOn(), t.decision.GetOn(), "the earliest clinically appropriate date comes before the decision to treat")
		for _, o := range t.offers {
			end.after(o.made.On, received, "the offer comes before the receipt of the referral")
			end.after(o.made.OfferedFor, o.made.On, "the day offered comes before the offer")
			end.after(o.declined.GetOn(), o.made.On, "the offer was declined before it was made")
			end.after(o.declined.GetAvailableFrom(), o.declined.GetOn(), "the patient is available again before the offer was declined")
		}
		treated.after(t.started.GetOn(), t.decision.GetOn(), "treatment started before the decision to treat")
		end.after(t.started.GetOn(), t.ecad.GetOn(), "treatment started before the earliest clinically appropriate date")
		end.after(t.ended.GetOn(), t.started.GetOn(), "the period of treatment ended before it started")
		end.after(t.followUp.GetOn(), t.ended.GetOn(), "follow-up started before the treatment ended")
	}
	if p.closed != nil {
		for _, f := range p.facts {
			end.after(p.closed.On, factOn(f.facts), "the pathway was closed before something that happened on it")
		}
	}
	if treated.err != nil {
		return treated.err
	}
	if end.err != nil {
		return end.err
	}
	return p.checkAdjustments(today, start, told)
}

// checkAdjustments refuses more days than the interval has that they come off.
// An interval that has not ended reaches to today.
func (p Pathway) checkAdjustments(today nhs.Date, start, told string) error {
	now := today.String()
	received := p.start.GetReceivedOn()
	tooLong := func(text string) error { return fault.Refused("cwt.adjustment.too_long", text) }
	firstSeen := int(p.adjustment.GetDays())
	if firstSeen > 0 && firstSeen > days(received, or(p.seen.GetOn(), now)) {
		return tooLong("the first-seen adjustment is longer than the wait from receipt to first seen")
	}
	if told != "" && p.runsFasterDiagnosis() && firstSeen > 0 && firstSeen > days(received, earlier(told, p.firstDecision())) {
		return tooLong("the first-seen adjustment is longer than the Faster Diagnosis clock")
	}
	for _, t := range p.treatments {
		if n := int(t.adjustment.GetDays()); n > 0 && n > days(t.clockStart(), or(t.started.GetOn(), now)) {
			return tooLong("the treatment adjustment is longer than the wait for treatment")
		}
		if t.started == nil || !waitingtimes.FirstTreatment(t.started.EventType) {
			continue
		}
		taken := int(t.adjustment.GetDays())
		if p.upgrade == nil || p.upgrade.On <= p.seen.GetOn() { // else it does not count on this route
			taken += firstSeen
		}
		if taken > days(start, t.started.On) {
			return tooLong("the adjustments together are longer than the 62-day clock")
		}
	}
	return nil
}

// ordering collects the first pair of dates that is out of order.
type ordering struct {
	code string
	err  error
}

func order(code string) *ordering { return &ordering{code: code} }

// after wants date not before earlier; a date that is not known is in order.
func (o *ordering) after(date, earlier, text string) {
	if o.err == nil && date != "" && earlier != "" && date < earlier {
		o.err = fault.Refused(o.code, text)
	}
}

// factOn is the day of a fact; "" for one that has none or may lie ahead.
func factOn(facts proto.Message) string {
	m := facts.ProtoReflect()
	for _, name := range []protoreflect.Name{"on", "received_on", "told"} {
		f := m.Descriptor().Fields().ByName(name)
		switch {
		case f == nil || planned[f.FullName()]:
		case f.Kind() == protoreflect.MessageKind:
			return factOn(m.Get(f).Message().Interface())
		default:
			return m.Get(f).String()
		}
	}
	return ""
}

// days from one date to another; negative when the other is earlier or either is
// no date.
func days(from, to string) int {
	f, errFrom := nhs.ParseDate(from)
	t, errTo := nhs.ParseDate(to)
	if errFrom != nil || errTo != nil {
		return -1
	}
	return f.DaysUntil(t)
}

// sameID compares two UUIDs as text, in which case does not count.
func sameID(a, b string) bool { return strings.EqualFold(a, b) }

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// earlier of two dates, of which the second may be missing.
func earlier(a, b string) string {
	if b != "" && b < a {
		return b
	}
	return a
}

// outcomeOn is the day of the Faster Diagnosis outcome, "" for none.
func (p Pathway) outcomeOn() string {
	switch {
	case p.diagnosis != nil:
		return p.diagnosis.Told.GetOn()
	case p.ruledOut != nil:
		return p.ruledOut.Told.GetOn()
	}
	return p.exclusion.GetOn()
}

// firstDecision is the earliest decision to treat, "" for none.
func (p Pathway) firstDecision() string {
	date := ""
	for _, t := range p.treatments {
		if d := t.decision.GetOn(); d != "" && (date == "" || d < date) {
			date = d
		}
	}
	return date
}

// firstTreatment is the first definitive treatment, nil before it starts.
func (p Pathway) firstTreatment() *pb.TreatmentFacts {
	for _, t := range p.treatments {
		if t.started != nil && waitingtimes.FirstTreatment(t.started.EventType) {
			return t.started
		}
	}
	return nil
}

// open is the treatment that was decided and has not started, nil for none.
func (p Pathway) open() *treatment {
	if n := len(p.treatments); n > 0 && p.treatments[n-1].started == nil {
		return &p.treatments[n-1]
	}
	return nil
}

func (p Pathway) inTreatment() bool {
	for _, t := range p.treatments {
		if t.started != nil && t.ended == nil {
			return true
		}
	}
	return false
}

// clockStart is day 0 of the 31-day clock: the earliest clinically appropriate
// date where one is set, else the decision to treat.
func (t treatment) clockStart() string { return or(t.ecad.GetOn(), t.decision.GetOn()) }

// closable says why the pathway may not be closed for the reason, "" when it may.
func (p Pathway) closable(reason pb.CloseReason) string {
	switch reason {
	case pb.CloseReason_CLOSE_REASON_CANCER_RULED_OUT:
		if p.ruledOut == nil {
			return "the patient has not been told that cancer is ruled out"
		}
	case pb.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE:
		for _, c := range p.clocks() {
			if c.Status == pb.ClockStatus_CLOCK_STATUS_RUNNING {
				return "a clock runs: record its end first"
			}
		}
		if p.inTreatment() {
			return "treatment is under way"
		}
	}
	return ""
}

// runsFasterDiagnosis reports whether the route runs the 28-day clock.
func (p Pathway) runsFasterDiagnosis() bool {
	return p.Route == pb.Route_ROUTE_USC || p.Route == pb.Route_ROUTE_BREAST_SYMPTOMATIC || p.Route == pb.Route_ROUTE_SCREENING
}

// clocks lists every run of a clock so far.
func (p Pathway) clocks() []*pb.Clock {
	var out []*pb.Clock
	gone := p.closed.GetOn()
	add := func(kind pb.ClockKind, start, end, discontinued string) {
		c := &pb.Clock{Kind: kind, StartOn: start, EndOn: end, Status: pb.ClockStatus_CLOCK_STATUS_STOPPED}
		if end == "" {
			c.Status = pb.ClockStatus_CLOCK_STATUS_RUNNING
			if discontinued != "" && discontinued < start {
				return // an appropriate date that never came: the clock did not run
			}
			if discontinued != "" {
				c.Status, c.EndOn = pb.ClockStatus_CLOCK_STATUS_DISCONTINUED, discontinued
			}
		}
		out = append(out, c)
	}
	ruledOut := or(p.ruledOut.GetTold().GetOn(), gone)
	switch {
	case p.runsFasterDiagnosis():
		end, decided := p.outcomeOn(), p.firstDecision()
		if end == "" || decided != "" && decided < end {
			end = decided
		}
		add(pb.ClockKind_CLOCK_KIND_FDS28, p.start.GetReceivedOn(), end, gone)
		add(pb.ClockKind_CLOCK_KIND_D62, p.start.GetReceivedOn(), p.firstTreatment().GetOn(), ruledOut)
	case p.Route == pb.Route_ROUTE_UPGRADE:
		add(pb.ClockKind_CLOCK_KIND_D62, p.upgrade.GetOn(), p.firstTreatment().GetOn(), ruledOut)
	}
	for _, t := range p.treatments {
		add(pb.ClockKind_CLOCK_KIND_D31, t.clockStart(), t.started.GetOn(), gone)
	}
	return out
}

// State is how far the pathway has come.
func (p Pathway) State() pb.PathwayState {
	n := len(p.treatments)
	switch {
	case p.start == nil:
		return pb.PathwayState_PATHWAY_STATE_UNSPECIFIED
	case p.closed != nil:
		return pb.PathwayState_PATHWAY_STATE_CLOSED
	case p.inTreatment():
		return pb.PathwayState_PATHWAY_STATE_IN_TREATMENT
	case p.open() != nil:
		return pb.PathwayState_PATHWAY_STATE_DECIDED
	case n > 0 && p.treatments[n-1].followUp != nil:
		return pb.PathwayState_PATHWAY_STATE_FOLLOW_UP
	case n > 0:
		return pb.PathwayState_PATHWAY_STATE_TREATMENT_ENDED
	case p.diagnosis != nil:
		return pb.PathwayState_PATHWAY_STATE_DIAGNOSED
	case p.ruledOut != nil:
		return pb.PathwayState_PATHWAY_STATE_RULED_OUT
	case p.seen != nil:
		return pb.PathwayState_PATHWAY_STATE_SEEN
	}
	return pb.PathwayState_PATHWAY_STATE_REFERRED
}

// Message returns the pathway as the contract shows it.
func (p Pathway) Message(id string) *pb.Pathway {
	out := &pb.Pathway{
		PathwayId: id, PersonId: p.PersonID, State: p.State(), Route: p.Route, Ruleset: p.Ruleset,
		Start: p.start, Upgrade: p.upgrade, FirstSeen: p.seen, FirstAppointmentsMissed: p.missed,
		FirstSeenAdjustment: p.adjustment, Diagnosis: p.diagnosis, RuledOut: p.ruledOut, Exclusion: p.exclusion,
		Transfer: p.transfer, Closed: p.closed, Clocks: p.clocks(), ReroutedFrom: p.ReroutedFrom, ReroutedTo: p.onward,
	}
	for _, t := range p.treatments {
		m := &pb.Treatment{Decision: t.decision, Ecad: t.ecad, Adjustment: t.adjustment, Started: t.started, Ended: t.ended, FollowUp: t.followUp}
		for _, o := range t.offers {
			m.Offers = append(m.Offers, &pb.TreatmentOffer{FactId: o.factID, Offer: o.made, Declined: o.declined})
		}
		out.Treatments = append(out.Treatments, m)
	}
	for _, f := range p.facts {
		out.Facts = append(out.Facts, &pb.Fact{FactId: f.id, Event: f.event, On: factOn(f.facts)})
	}
	return out
}
