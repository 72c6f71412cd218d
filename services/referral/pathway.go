package referral

import (
	"slices"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// Pathway is the fold of a pathway stream: the facts that stand, oldest first,
// and what follows from them. The zero value is a pathway that was never started.
// Messages in it are shared and never changed.
type Pathway struct {
	PersonID     string
	ReroutedFrom string // pathway id, "" for none
	Ruleset      string // by which Route was derived
	Route        pb.Route
	facts        []fact // that stand

	// What follows from facts; set only by with.
	start      *pb.StartFacts
	upgrade    *pb.UpgradeFacts
	seen       *pb.FirstSeenFacts
	missed     []*pb.FirstAppointmentMissedFacts
	adjustment *pb.FirstSeenAdjustmentFacts
	diagnosis  *pb.DiagnosisFacts
	ruledOut   *pb.RuledOutFacts
	exclusion  *pb.ExclusionFacts
	transfer   *pb.TransferFacts
	treatments []treatment
	onward     []*pb.Onward
	closed     *pb.CloseFacts
}

// fact is one thing that was recorded: the ...Facts message of its event.
type fact struct {
	id    string
	event string // name of the event that recorded it
	facts proto.Message
}

// treatment is one treatment, from the decision to its end.
type treatment struct {
	decision   *pb.DecisionToTreatFacts
	ecad       *pb.EcadFacts
	offers     []offer
	adjustment *pb.TreatmentAdjustmentFacts
	started    *pb.TreatmentFacts
	ended      *pb.TreatmentEndFacts
	followUp   *pb.FollowUpFacts
}

type offer struct {
	factID   string
	made     *pb.TreatmentOfferFacts
	declined *pb.OfferDeclinedFacts
}

// pathwayDecider folds streams "pathway-<pathway id>".
func pathwayDecider() es.Decider[Pathway] {
	return es.Decider[Pathway]{Category: "pathway", Evolve: EvolvePathway}
}

// EvolvePathway applies one event. What was recorded stands even where a later
// release would refuse it.
func EvolvePathway(p Pathway, event proto.Message) Pathway {
	switch e := event.(type) {
	case *pb.PathwayStarted:
		p.PersonID, p.ReroutedFrom, p.Ruleset, p.Route = e.PersonId, e.ReroutedFrom, e.Ruleset, e.Route
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.UpgradedByConsultant:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.FirstSeen:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.FirstAppointmentMissed:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.FirstSeenAdjustmentSet:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.DiagnosisCommunicated:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.CancerRuledOutCommunicated:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.FasterDiagnosisExcluded:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.DecisionToTreatMade:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.EcadSet:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.TreatmentOffered:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.ReasonableOfferDeclined:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.TreatmentAdjustmentSet:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.TransferredToTreatingProvider:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.TreatmentStarted:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.TreatmentPeriodEnded:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.FollowUpStarted:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.PathwayRerouted:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.PathwayClosed:
		return p.evolve(e, e.FactId, e.Facts)
	case *pb.ClockCorrected:
		p, _ = p.corrected(e)
		return p
	default:
		panic(es.Unhandled(event))
	}
}

func (p Pathway) evolve(event proto.Message, id string, facts proto.Message) Pathway {
	p, _ = p.with(fact{id: id, event: nameOf(event), facts: facts})
	return p
}

func nameOf(m proto.Message) string { return string(m.ProtoReflect().Descriptor().Name()) }

// with adds a fact and says whether it fits what was recorded before it; the
// fact is added either way. Dates are check's business.
func (p Pathway) with(f fact) (Pathway, error) {
	var misfit error
	refuse := func(code, text string) {
		if misfit == nil {
			misfit = fault.Refused(code, text)
		}
	}
	// last is a copy of the treatment to change, never shared with earlier states.
	last := func() *treatment {
		p.treatments = slices.Clone(p.treatments)
		if len(p.treatments) == 0 {
			refuse("cwt.treatment.not_decided", "there is no decision to treat yet: record it first")
			p.treatments = append(p.treatments, treatment{})
		}
		return &p.treatments[len(p.treatments)-1]
	}
	if p.closed != nil {
		refuse("pathway.closed", "the pathway is closed: correct the closing if it was wrong")
	}
	outcome := func() {
		if p.diagnosis != nil || p.ruledOut != nil || p.exclusion != nil {
			refuse("cwt.clock.already_stopped", "an outcome of the Faster Diagnosis pathway is recorded: correct it first")
		}
	}
	p.facts = append(slices.Clip(p.facts), f)
	switch v := f.facts.(type) {
	case *pb.StartFacts:
		p.start = v
	case *pb.UpgradeFacts:
		switch {
		case p.start.GetSource() == screening:
			refuse("cwt.route.conflict", "a pathway from a screening programme (source 17) cannot be upgraded")
		case p.Route != pb.Route_ROUTE_OTHER:
			refuse("cwt.route.conflict", "the 62-day clock runs already: an upgrade would start it anew")
		case len(p.treatments) > 0 || p.diagnosis != nil || p.ruledOut != nil:
			refuse("cwt.upgrade.too_late", "an upgrade comes before the outcome and the decision to treat")
		}
		p.upgrade, p.Route = v, routeOf(p.start, true)
	case *pb.FirstSeenFacts:
		if p.seen != nil {
			refuse("cwt.clock.already_stopped", "the date first seen is recorded: correct it first")
		}
		p.seen = v
	case *pb.FirstAppointmentMissedFacts:
		p.missed = append(slices.Clip(p.missed), v)
	case *pb.FirstSeenAdjustmentFacts:
		p.adjustment = v
	case *pb.DiagnosisFacts:
		outcome()
		p.diagnosis = v
	case *pb.RuledOutFacts:
		outcome()
		if len(p.treatments) > 0 {
			refuse("cwt.treatment.decided", "a decision to treat is recorded: correct it before cancer is ruled out")
		}
		p.ruledOut = v
	case *pb.ExclusionFacts:
		outcome()
		p.exclusion = v
	case *pb.DecisionToTreatFacts:
		if p.ruledOut != nil {
			refuse("pathway.ruled_out", "cancer was ruled out on this pathway: correct that first")
		}
		if t := p.open(); t != nil && t.decision != nil {
			refuse("cwt.clock.already_running", "a decision to treat waits for its treatment: start that, or correct the decision")
		}
		if p.open() == nil {
			p.treatments = append(slices.Clip(p.treatments), treatment{})
		}
		last().decision = v
	case *pb.EcadFacts:
		if p.ruledOut != nil {
			refuse("pathway.ruled_out", "cancer was ruled out on this pathway: correct that first")
		}
		if t := p.open(); t != nil && t.ecad != nil {
			refuse("cwt.clock.already_running", "an earliest clinically appropriate date waits for its treatment: correct it")
		}
		if p.open() == nil {
			p.treatments = append(slices.Clip(p.treatments), treatment{})
		}
		last().ecad = v
	case *pb.TreatmentOfferFacts:
		if p.open() == nil {
			refuse("cwt.treatment.not_decided", "no treatment waits to be offered: record the decision to treat first")
		}
		t := last()
		t.offers = append(slices.Clip(t.offers), offer{factID: f.id, made: v})
	case *pb.OfferDeclinedFacts:
		t := last()
		t.offers = slices.Clone(t.offers)
		i := slices.IndexFunc(t.offers, func(o offer) bool { return sameID(o.factID, v.OfferFactId) })
		if i < 0 || t.offers[i].declined != nil {
			refuse("cwt.offer.not_open", "no such offer of the present treatment is open: see the facts of the pathway")
			break
		}
		t.offers[i].declined = v
	case *pb.TreatmentAdjustmentFacts:
		last().adjustment = v
	case *pb.TransferFacts:
		if p.transfer != nil {
			refuse("cwt.clock.already_stopped", "the transfer to the treating provider is recorded: correct it first")
		}
		p.transfer = v
	case *pb.TreatmentFacts:
		switch t := p.open(); {
		case len(p.treatments) == 0:
			refuse("cwt.order.treatment_before_decision", "no decision to treat is recorded: treatment comes after it")
		case t == nil:
			refuse("cwt.clock.already_stopped", "the treatment decided upon has started: record the next decision, or correct the start")
		case waitingtimes.FirstTreatment(v.EventType) && p.firstTreatment() != nil:
			refuse("cwt.clock.already_stopped", "the first treatment has started: this is a subsequent one, or correct the first")
		case waitingtimes.FirstTreatment(v.EventType) && t.ecad != nil:
			refuse("cwt.ecad.first_treatment", "the clock of a first treatment starts at the decision to treat: correct the earliest clinically appropriate date")
		}
		if p.open() == nil {
			p.treatments = append(slices.Clip(p.treatments), treatment{})
		}
		last().started = v
	case *pb.TreatmentEndFacts:
		if !p.inTreatment() {
			refuse("cwt.treatment.not_started", "no treatment is under way")
		}
		p.treatments = slices.Clone(p.treatments)
		for i, t := range p.treatments {
			if t.started != nil && t.ended == nil {
				p.treatments[i].ended = v
			}
		}
	case *pb.FollowUpFacts:
		if p.inTreatment() || p.open() != nil || len(p.treatments) == 0 {
			refuse("cwt.treatment.not_ended", "follow-up starts when treatment has ended")
		}
		last().followUp = v
	case *pb.RerouteFacts:
		p.onward = append(slices.Clip(p.onward), v.Onward...)
	case *pb.CloseFacts:
		if text := p.closable(v.Reason); text != "" {
			refuse("pathway.clock_running", text)
		}
		p.closed = v
	default:
		panic(es.Unhandled(v))
	}
	return p, misfit
}

// corrected folds the facts anew with the wrong one struck or replaced, and says
// whether each still fits.
func (p Pathway) corrected(e *pb.ClockCorrected) (Pathway, error) {
	next := Pathway{PersonID: p.PersonID, ReroutedFrom: p.ReroutedFrom, Ruleset: p.Ruleset, Route: p.Route}
	var misfit error
	for _, f := range p.facts {
		if sameID(f.id, e.WrongFactId) {
			if e.Replacement == nil {
				continue
			}
			f = fact{id: e.FactId, event: f.event, facts: replacementFacts(e.Replacement)}
		}
		if start, ok := f.facts.(*pb.StartFacts); ok {
			// The route of the start: as it was recorded, unless the start itself was wrong.
			if next.Route = p.startRoute(start); e.Route != pb.Route_ROUTE_UNSPECIFIED {
				next.Route = e.Route
			}
		}
		var err error
		if next, err = next.with(f); err != nil && misfit == nil {
			misfit = err
		}
	}
	return next, misfit
}

// startRoute is the route before any upgrade.
func (p Pathway) startRoute(start *pb.StartFacts) pb.Route {
	if p.upgrade == nil {
		return p.Route
	}
	return routeOf(start, false)
}

// replacementFacts returns the facts that the oneof holds.
func replacementFacts(r *pb.Replacement) proto.Message {
	m := r.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("facts")); f != nil {
		return m.Get(f).Message().Interface()
	}
	return nil
}

// StartPathway opens a pathway.
type StartPathway struct {
	CommandID    uuid.UUID
	Today        nhs.Date // in England
	PersonID     string
	ReroutedFrom string
	Facts        *pb.StartFacts
	// Of the pathway that was rerouted; nil for none.
	Seen       *pb.FirstSeenFacts
	Adjustment *pb.FirstSeenAdjustmentFacts
}

// Decide refuses pathway.exists and what record refuses.
func (c StartPathway) Decide(p Pathway) ([]proto.Message, error) {
	if p.start != nil {
		return nil, fault.Exists("pathway.exists", "the pathway is open already")
	}
	started := &pb.PathwayStarted{FactId: factID(c.CommandID, 0), Facts: c.Facts, PersonId: c.PersonID,
		Route: routeOf(c.Facts, false), Ruleset: waitingtimes.Ruleset, ReroutedFrom: c.ReroutedFrom}
	p.PersonID, p.Route = started.PersonId, started.Route
	events := []proto.Message{started}
	if _, err := p.admit(c.Today, fact{id: started.FactId, facts: c.Facts}); err != nil {
		return nil, err
	}
	if c.Seen != nil {
		events = append(events, &pb.FirstSeen{FactId: factID(c.CommandID, 1), Facts: c.Seen})
	}
	if c.Adjustment != nil {
		events = append(events, &pb.FirstSeenAdjustmentSet{FactId: factID(c.CommandID, 2), Facts: c.Adjustment})
	}
	return events, nil
}

// Record adds one fact to a pathway.
type Record struct {
	CommandID uuid.UUID
	Today     nhs.Date // in England
	Facts     proto.Message
}

// Decide refuses pathway.not_found, a fact that does not fit those before it,
// dates out of order or in the future, and adjustments that cannot be.
func (c Record) Decide(p Pathway) ([]proto.Message, error) {
	if p.start == nil {
		return nil, errNoPathway
	}
	id := factID(c.CommandID, 0)
	after, err := p.admit(c.Today, fact{id: id, facts: c.Facts})
	if err != nil {
		return nil, err
	}
	switch f := c.Facts.(type) {
	case *pb.UpgradeFacts:
		return events(&pb.UpgradedByConsultant{FactId: id, Facts: f})
	case *pb.FirstSeenFacts:
		return events(&pb.FirstSeen{FactId: id, Facts: f})
	case *pb.FirstAppointmentMissedFacts:
		return events(&pb.FirstAppointmentMissed{FactId: id, Facts: f})
	case *pb.FirstSeenAdjustmentFacts:
		return events(&pb.FirstSeenAdjustmentSet{FactId: id, Facts: f})
	case *pb.DiagnosisFacts:
		return events(&pb.DiagnosisCommunicated{FactId: id, Facts: f})
	case *pb.RuledOutFacts:
		return events(&pb.CancerRuledOutCommunicated{FactId: id, Facts: f})
	case *pb.ExclusionFacts:
		return events(&pb.FasterDiagnosisExcluded{FactId: id, Facts: f})
	case *pb.DecisionToTreatFacts:
		return events(&pb.DecisionToTreatMade{FactId: id, Facts: f})
	case *pb.EcadFacts:
		return events(&pb.EcadSet{FactId: id, Facts: f})
	case *pb.TreatmentOfferFacts:
		return events(&pb.TreatmentOffered{FactId: id, Facts: f})
	case *pb.OfferDeclinedFacts:
		return events(&pb.ReasonableOfferDeclined{FactId: id, Facts: f})
	case *pb.TreatmentAdjustmentFacts:
		return events(&pb.TreatmentAdjustmentSet{FactId: id, Facts: f})
	case *pb.TransferFacts:
		return events(&pb.TransferredToTreatingProvider{FactId: id, Facts: f})
	case *pb.TreatmentFacts:
		return events(&pb.TreatmentStarted{FactId: id, Facts: f})
	case *pb.TreatmentEndFacts:
		return events(&pb.TreatmentPeriodEnded{FactId: id, Facts: f})
	case *pb.FollowUpFacts:
		return events(&pb.FollowUpStarted{FactId: id, Facts: f})
	case *pb.RerouteFacts:
		return after.reroute(c, id, f)
	case *pb.CloseFacts:
		if f.Reason == pb.CloseReason_CLOSE_REASON_REROUTED {
			return nil, fault.Invalid("pathway.close_reason", "facts.reason", "a pathway is closed as rerouted by rerouting it")
		}
		return events(&pb.PathwayClosed{FactId: id, Facts: f})
	default:
		panic(es.Unhandled(f))
	}
}

// reroute names the onward pathways, whose ids follow from the command, and
// closes this one unless it goes on. p holds the rerouting already.
func (p Pathway) reroute(c Record, id string, f *pb.RerouteFacts) ([]proto.Message, error) {
	f = proto.CloneOf(f)
	for i, o := range f.Onward {
		if o.PathwayId == "" {
			o.PathwayId = uuid.NewSHA1(c.CommandID, []byte{'o', 'n', 'w', 'a', 'r', 'd', byte('0' + i)}).String()
		}
	}
	out := []proto.Message{&pb.PathwayRerouted{FactId: id, Facts: f, PersonId: p.PersonID,
		Start: p.start, FirstSeen: p.seen, FirstSeenAdjustment: p.adjustment}}
	if !f.OriginalContinues {
		closing := &pb.PathwayClosed{FactId: factID(c.CommandID, 1), Facts: &pb.CloseFacts{On: f.On, Reason: pb.CloseReason_CLOSE_REASON_REROUTED}}
		if _, err := p.admit(c.Today, fact{id: closing.FactId, facts: closing.Facts}); err != nil {
			return nil, err
		}
		out = append(out, closing)
	}
	return out, nil
}

// CorrectClock strikes a wrong fact or puts the right one in its place.
type CorrectClock struct {
	CommandID   uuid.UUID
	Today       nhs.Date // in England
	WrongFactID string
	Reason      string
	Replacement *pb.Replacement // nil to strike
}

// Decide refuses an unknown fact, a replacement of another kind, and a
// correction after which the facts would not fit each other or be out of order.
func (c CorrectClock) Decide(p Pathway) ([]proto.Message, error) {
	if p.start == nil {
		return nil, errNoPathway
	}
	i := slices.IndexFunc(p.facts, func(f fact) bool { return sameID(f.id, c.WrongFactID) })
	if i < 0 {
		return nil, fault.NotFound("cwt.correction.unknown_fact", "no fact that stands has this id: see the facts of the pathway")
	}
	wrong := p.facts[i]
	e := &pb.ClockCorrected{FactId: factID(c.CommandID, 0), WrongFactId: wrong.id, WrongEvent: wrong.event, Reason: c.Reason, Replacement: c.Replacement}
	_, isStart := wrong.facts.(*pb.StartFacts)
	_, isReroute := wrong.facts.(*pb.RerouteFacts)
	switch {
	case isReroute:
		return nil, fault.Refused("cwt.correction.rerouted", "the onward pathways have started: close those that were wrong as entered in error")
	case c.Replacement == nil && isStart:
		return nil, fault.Refused("cwt.correction.start", "the start of a pathway can be replaced, not struck: close the pathway as entered in error")
	case c.Replacement != nil:
		right := replacementFacts(c.Replacement)
		if right == nil || right.ProtoReflect().Descriptor() != wrong.facts.ProtoReflect().Descriptor() {
			return nil, fault.Invalid("cwt.correction.other_kind", "replacement", "must be of the kind of the wrong fact")
		}
		if err := alone(right, c.Today, "replacement."+oneofField(c.Replacement)); err != nil {
			return nil, err
		}
		if start, ok := right.(*pb.StartFacts); ok {
			e.Route = routeOf(start, false)
		}
	}
	after, err := p.corrected(e)
	if err != nil {
		return nil, err
	}
	if err := after.check(c.Today); err != nil {
		return nil, err
	}
	return events(e)
}

// oneofField names the field of the replacement that is set.
func oneofField(r *pb.Replacement) string {
	m := r.ProtoReflect()
	return string(m.WhichOneof(m.Descriptor().Oneofs().ByName("facts")).Name())
}

// admit returns the pathway with f, or why f may not be recorded.
func (p Pathway) admit(today nhs.Date, f fact) (Pathway, error) {
	if err := alone(f.facts, today, "facts"); err != nil {
		return p, err
	}
	after, err := p.with(f)
	if err != nil {
		return p, err
	}
	return after, after.check(today)
}

var errNoPathway = &fault.Error{GRPC: codes.NotFound, Code: "pathway.not_found", Text: "there is no such pathway: start it first"}

// factID names the nth fact of a command. It is not the id of the event, which
// covers the event's bytes.
func factID(command uuid.UUID, n byte) string {
	return uuid.NewSHA1(command, []byte{'f', 'a', 'c', 't', '0' + n}).String()
}

func events(e ...proto.Message) ([]proto.Message, error) { return e, nil }
