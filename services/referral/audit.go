package referral

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// Audit checks the streams of pathways, referrals and the directory from their
// events alone. It shares no code with the folds and the decisions: it is what
// they are checked by.
type Audit struct {
	pathways  map[string]*auditedPathway // by stream
	referrals map[string]*auditedReferral
	services  map[string]bool // by stream: whether retired
}

// auditedPathway is what is known of one pathway.
type auditedPathway struct {
	facts   []auditedFact // that stand
	started bool
}

type auditedFact struct {
	id, event string
	facts     proto.Message
}

type auditedReferral struct{ sent, over bool }

// NewAudit returns an audit of a log from its first event.
func NewAudit() *Audit {
	return &Audit{map[string]*auditedPathway{}, map[string]*auditedReferral{}, map[string]bool{}}
}

// Next takes the next event of the log, of any category.
func (a *Audit) Next(e es.Entry) error {
	switch category, _, _ := strings.Cut(e.Stream, "-"); category {
	case "pathway":
		return a.pathway(e)
	case "referral":
		return a.referral(e)
	case "service":
		return a.service(e)
	}
	return nil
}

// End finds what only the end of the log shows: nothing.
func (a *Audit) End(time.Time) []error { return nil }

func (a *Audit) pathway(e es.Entry) error {
	p := a.pathways[e.Stream]
	if p == nil {
		p = &auditedPathway{}
		a.pathways[e.Stream] = p
	}
	_, starts := e.Event.(*pb.PathwayStarted)
	switch {
	case starts && p.started:
		return fmt.Errorf("the pathway starts twice")
	case !starts && !p.started:
		return fmt.Errorf("the pathway's first event does not start it")
	}
	p.started = true
	if c, ok := e.Event.(*pb.ClockCorrected); ok {
		if err := p.correct(c); err != nil {
			return err
		}
	} else {
		if p.fact("PathwayClosed") != nil {
			return fmt.Errorf("a fact is recorded on a closed pathway")
		}
		p.facts = append(p.facts, factOfEvent(e.Event))
	}
	if e.Metadata.Index+1 < e.Metadata.Count {
		return nil // the command goes on
	}
	return p.order(e.Recorded.Recorded)
}

// factOfEvent takes fact_id and facts from any event of a pathway.
func factOfEvent(m proto.Message) auditedFact {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	return auditedFact{
		id: r.Get(fields.ByName("fact_id")).String(), event: string(r.Descriptor().Name()),
		facts: r.Get(fields.ByName("facts")).Message().Interface(),
	}
}

func (p *auditedPathway) correct(c *pb.ClockCorrected) error {
	for i, f := range p.facts {
		if !strings.EqualFold(f.id, c.WrongFactId) {
			continue
		}
		if c.Replacement == nil {
			p.facts = append(p.facts[:i:i], p.facts[i+1:]...)
			return nil
		}
		r := c.Replacement.ProtoReflect()
		which := r.WhichOneof(r.Descriptor().Oneofs().ByName("facts"))
		if which == nil || which.Message().FullName() != f.facts.ProtoReflect().Descriptor().FullName() {
			return fmt.Errorf("a fact is replaced by one of another kind")
		}
		p.facts = append([]auditedFact(nil), p.facts...)
		p.facts[i] = auditedFact{c.FactId, f.event, r.Get(which).Message().Interface()}
		return nil
	}
	return fmt.Errorf("a correction names a fact that does not stand")
}

// fact returns the standing facts of the first event of a name.
func (p *auditedPathway) fact(event string) proto.Message {
	for _, f := range p.facts {
		if f.event == event {
			return f.facts
		}
	}
	return nil
}

// order checks what can stand together, and the order of the dates.
func (p *auditedPathway) order(recorded time.Time) error {
	start, ok := p.fact("PathwayStarted").(*pb.StartFacts)
	if !ok {
		return fmt.Errorf("the start of the pathway was struck")
	}
	// England is at most an hour ahead of UTC.
	today := recorded.Add(time.Hour).UTC().Format(time.DateOnly)
	outcomes := 0
	decision, began, ended := "", "", ""
	for _, f := range p.facts {
		on := auditedDay(f.facts)
		switch {
		case on != "" && on < start.ReceivedOn && f.event != "FirstAppointmentMissed":
			return fmt.Errorf("%s comes before the receipt of the referral", f.event)
		case on > today && f.event != "EcadSet":
			return fmt.Errorf("%s lies after the day on which it was recorded", f.event)
		}
		switch f.event {
		case "DiagnosisCommunicated", "CancerRuledOutCommunicated", "FasterDiagnosisExcluded":
			if outcomes++; outcomes > 1 {
				return fmt.Errorf("the Faster Diagnosis pathway has two outcomes")
			}
		case "DecisionToTreatMade":
			if p.fact("CancerRuledOutCommunicated") != nil {
				return fmt.Errorf("there is a decision to treat although cancer was ruled out")
			}
			decision, began, ended = on, "", ""
		case "TreatmentStarted":
			if on < decision {
				return fmt.Errorf("treatment started before the decision to treat")
			}
			began = on
		case "TreatmentPeriodEnded":
			if on < began {
				return fmt.Errorf("treatment ended before it started")
			}
			ended = on
		case "FollowUpStarted":
			if on < ended {
				return fmt.Errorf("follow-up started before treatment ended")
			}
		}
	}
	return p.adjustments(start, today)
}

// adjustments checks that days come off a wait only for a reason that the
// waiting-time rules list, and never more of them than were waited.
func (p *auditedPathway) adjustments(start *pb.StartFacts, today string) error {
	from := start.ReceivedOn // day 0 of the 62 days
	upgrade, _ := p.fact("UpgradedByConsultant").(*pb.UpgradeFacts)
	if upgrade != nil {
		from = upgrade.On
	}
	seen, told, decided := today, "", ""
	var firstSeen *pb.FirstSeenAdjustmentFacts
	type wait struct {
		begins, ecad, ends string
		first              bool
		adjustment         *pb.TreatmentAdjustmentFacts
	}
	waits := []wait{{}}
	seenOn := ""
	for _, f := range p.facts {
		on, w := auditedDay(f.facts), &waits[len(waits)-1]
		if (f.event == "DecisionToTreatMade" || f.event == "EcadSet") && w.ends != "" {
			waits = append(waits, wait{})
			w = &waits[len(waits)-1]
		}
		switch v := f.facts.(type) {
		case *pb.FirstSeenFacts:
			seen, seenOn = on, on
		case *pb.DiagnosisFacts, *pb.RuledOutFacts:
			told = on
		case *pb.FirstSeenAdjustmentFacts:
			firstSeen = v
		case *pb.DecisionToTreatFacts:
			if w.begins = on; decided == "" {
				decided = on
			}
		case *pb.EcadFacts:
			w.ecad = on
		case *pb.TreatmentAdjustmentFacts:
			w.adjustment = v
		case *pb.TreatmentFacts:
			w.ends, w.first = on, waitingtimes.FirstTreatment(v.EventType)
		}
	}
	if n := firstSeen.GetDays(); n > 0 {
		if firstSeen.Reason != "3" {
			return fmt.Errorf("days come off the wait until first seen without a missed appointment as the reason")
		}
		if longer(n, start.ReceivedOn, seen) {
			return fmt.Errorf("the first-seen adjustment of %d days is longer than the wait until first seen", n)
		}
		route := waitingtimes.RouteOf(start.Priority, start.ReferralType, start.Source, upgrade != nil)
		if told != "" && (route == waitingtimes.USC || route == waitingtimes.BreastSympt || route == waitingtimes.Screening) {
			end := told
			if decided != "" && decided < end {
				end = decided
			}
			if longer(n, start.ReceivedOn, end) {
				return fmt.Errorf("the first-seen adjustment of %d days is longer than the Faster Diagnosis clock", n)
			}
		}
	}
	for _, w := range waits {
		n := w.adjustment.GetDays()
		if n > 0 {
			admitted := w.adjustment.Setting == pb.TreatmentSetting_TREATMENT_SETTING_ORDINARY_ADMISSION || w.adjustment.Setting == pb.TreatmentSetting_TREATMENT_SETTING_DAY_CASE
			if w.adjustment.Reason != "8" || !admitted {
				return fmt.Errorf("days come off the wait for treatment without a declined offer of admission as the reason")
			}
			begins, ends := w.ecad, w.ends
			if begins == "" {
				begins = w.begins
			}
			if ends == "" {
				ends = today
			}
			if longer(n, begins, ends) {
				return fmt.Errorf("the treatment adjustment of %d days is longer than the wait for treatment", n)
			}
		}
		if !w.first {
			continue
		}
		if upgrade == nil || upgrade.On <= seenOn {
			n += firstSeen.GetDays()
		}
		if n > 0 && longer(n, from, w.ends) {
			return fmt.Errorf("the adjustments of %d days together are longer than the 62-day clock", n)
		}
	}
	return nil
}

// longer reports whether n days are more than there are between two days.
func longer(n uint32, from, to string) bool {
	a, err := nhs.ParseDate(from)
	if err != nil {
		return true
	}
	b, err := nhs.ParseDate(to)
	return err != nil || int(n) > a.DaysUntil(b)
}

// auditedDay is the day of a fact: its own, or that on which the patient was told.
func auditedDay(facts proto.Message) string {
	m := facts.ProtoReflect()
	for _, name := range []protoreflect.Name{"on", "received_on"} {
		if f := m.Descriptor().Fields().ByName(name); f != nil {
			return m.Get(f).String()
		}
	}
	if f := m.Descriptor().Fields().ByName("told"); f != nil {
		return auditedDay(m.Get(f).Message().Interface())
	}
	return ""
}

func (a *Audit) referral(e es.Entry) error {
	named, ok := e.Event.(interface{ GetReferralId() string })
	if !ok {
		return nil // an offer of services
	}
	key := e.Stream + " " + strings.ToLower(named.GetReferralId())
	r := a.referrals[key]
	switch v := e.Event.(type) {
	case *pb.ReferralDrafted:
		if r != nil {
			return fmt.Errorf("a referral is drafted twice")
		}
		a.referrals[key] = &auditedReferral{}
		return nil
	case *pb.OfferAccepted:
		return nil // its referral is drafted after it
	case *pb.ReferralSent:
		if r == nil || r.sent || r.over {
			return fmt.Errorf("a referral is sent that is no draft")
		}
		r.sent = true
		return nil
	case *pb.ReferralCancelled:
		if r == nil || r.over {
			return fmt.Errorf("a referral is cancelled that is not there or is over")
		}
		r.over = true
		return nil
	case *pb.ReferralReceived, *pb.ReferralAccepted, *pb.ReferralBegun, *pb.ReferralHeld, *pb.ReferralResumed, *pb.ReferralUnacknowledged:
		if r == nil || !r.sent || r.over {
			return fmt.Errorf("%s of a referral that is not with its receiver", v.ProtoReflect().Descriptor().Name())
		}
	case *pb.ReferralRedirected, *pb.ReferralCompleted:
		if r == nil || !r.sent || r.over {
			return fmt.Errorf("a referral ends that is not with its receiver")
		}
		r.over = true
	default:
		if r == nil {
			return fmt.Errorf("something happens to a referral that was never drafted")
		}
	}
	return nil
}

func (a *Audit) service(e es.Entry) error {
	retired, known := a.services[e.Stream]
	_, registers := e.Event.(*pb.ServiceRegistered)
	_, retires := e.Event.(*pb.ServiceRetired)
	switch {
	case registers == known:
		return fmt.Errorf("a service of the directory is registered twice, or not first")
	case retired:
		return fmt.Errorf("a retired service changes")
	}
	a.services[e.Stream] = retires
	return nil
}
