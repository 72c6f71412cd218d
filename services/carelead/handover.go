package carelead

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/planted"
)

// Checklist is what must be so before a patient is handed to a lead; the order
// is the order in which a refusal names what is missing.
var Checklist = []string{"summary_approved", "plan_published", "surveillance_set", "patient_informed", "consent_to_share"}

// PrepareHandover records that a handover may be offered.
type PrepareHandover struct {
	HandoverID string
	Kind       pb.HandoverKind
	Met        map[string]bool // by the codes of Checklist
	// OverrideReason and SecondPerson let an urgent handover go ahead without the
	// whole checklist; the second person is not the one who asks.
	OverrideReason, SecondPerson, User string
}

// Decide refuses an incomplete checklist and names what is missing. Between
// teams, and back to the treating team, nothing has to be complete.
func (c PrepareHandover) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	if l.Handover.Open {
		return nil, fault.Refused("carelead.handover.open", "an offer is open; withdraw it or wait for its answer")
	}
	var missing []string
	event := &pb.HandoverPrepared{HandoverId: c.HandoverID, Kind: c.Kind, OverrideReason: c.OverrideReason, OverrideSecondPerson: c.SecondPerson}
	for _, code := range Checklist {
		event.Checklist = append(event.Checklist, &pb.ChecklistItem{Code: code, Met: c.Met[code]})
		if !c.Met[code] {
			missing = append(missing, code)
		}
	}
	if needsChecklist(c.Kind) && len(missing) > 0 {
		switch {
		case c.OverrideReason == "":
			return nil, fault.Refused("carelead.handover.incomplete", "still missing: "+strings.Join(missing, ", ")+". If it cannot wait, give override_reason and override_second_person")
		case c.SecondPerson == "" || c.SecondPerson == c.User:
			return nil, fault.Refused("carelead.handover.second_person", "an override needs a second person, who is not the one who asks")
		}
	}
	return []proto.Message{event}, nil
}

func needsChecklist(k pb.HandoverKind) bool { return k == pb.HandoverKind_HANDOVER_KIND_TO_LEAD }

// OfferHandover offers the pathway to another party. An offer never changes
// who is accountable.
type OfferHandover struct {
	HandoverID                  string
	Kind                        pb.HandoverKind
	To                          *Party
	SummaryVersion, PlanVersion int64
	Now                         time.Time

	// Looked up in the lead's and the neighbourhood's streams; they are not asked
	// for offers to a team.
	Neighbourhood string
	ServesPatient bool // the neighbourhood serves the patient's practice
	LeadActive    bool
	HasPlace      bool // a place of the lead's capacity was taken for this pathway
	HasFallback   bool // the neighbourhood has a pool with standing acceptance
	Escalation    []*Party
}

// Decide refuses an offer to a lead who cannot take it, and a second open offer.
func (c OfferHandover) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	toLead := c.Kind == pb.HandoverKind_HANDOVER_KIND_TO_LEAD || c.Kind == pb.HandoverKind_HANDOVER_KIND_BETWEEN_LEADS
	switch {
	case l.offeredBefore(c.HandoverID): // a repeat so late that its command is forgotten
		return nil, fault.Refused("carelead.handover.not_open", "this offer was made before; read the ledger")
	case l.Handover.Open:
		return nil, fault.Refused("carelead.handover.open", "an offer is open; withdraw it or wait for its answer")
	case Same(c.To, l.Holder):
		return nil, fault.Refused("carelead.handover.to_holder", "this party is accountable already")
	case needsChecklist(c.Kind) && l.Prepared != c.Kind:
		return nil, fault.Refused("carelead.handover.not_prepared", "prepare the handover first: its checklist has not been recorded")
	case c.Kind == pb.HandoverKind_HANDOVER_KIND_TO_LEAD && l.LeadDeclined:
		return nil, fault.Refused("carelead.lead.patient_declined", "the patient does not want a lead; the treating team stays accountable")
	case toLead && !c.HasFallback:
		return nil, fault.Refused("carelead.neighbourhood.no_fallback", "the neighbourhood has no fallback pool with a standing acceptance; record one first")
	case toLead && !c.ServesPatient:
		return nil, errNotServed
	case toLead && !c.LeadActive:
		return nil, errLeadInactive
	case toLead && !c.HasPlace:
		return nil, errNoCapacity
	}
	offer, err := l.offer(c.HandoverID, c.Kind, c.To, 0, c.Escalation, c.Now)
	if err != nil {
		return nil, err
	}
	offer.NeighbourhoodId, offer.SummaryVersion, offer.PlanVersion = c.Neighbourhood, c.SummaryVersion, c.PlanVersion
	return []proto.Message{offer}, nil
}

func (l Ledger) offer(id string, kind pb.HandoverKind, to *Party, level int32, escalation []*Party, now time.Time) (*pb.HandoverOffered, error) {
	answer := "offer_answered"
	if kind == pb.HandoverKind_HANDOVER_KIND_TO_TREATING_TEAM {
		answer = "return_answered"
	}
	seen, err := after("offer_seen", now)
	if err != nil {
		return nil, err
	}
	answered, err := after(answer, now)
	if err != nil {
		return nil, err
	}
	return &pb.HandoverOffered{
		HandoverId: id, Kind: kind, From: l.Holder, To: to, OfferedAt: stamp(now), SeenDue: stamp(seen), AnswerDue: stamp(answered),
		EscalationLevel: level, Escalation: escalation,
	}, nil
}

// offered returns the fault of a command on an offer that is not the open one.
func (l Ledger) offered(id string) error {
	if err := l.open(); err != nil {
		return err
	}
	if !l.Handover.Open || l.Handover.ID != id {
		return fault.Refused("carelead.handover.not_open", "this offer is not open any more: it was answered, withdrawn, expired or replaced")
	}
	return nil
}

// Acceptor is who answers an offer.
type Acceptor struct{ User, OnBehalfOf, Organisation string }

// speaksFor reports whether a may answer for p: the person named, a delegate of
// the same organisation who says for whom, or any member of a team or pool.
func (a Acceptor) speaksFor(p *Party) bool {
	if a.Organisation != p.Organisation {
		return false
	}
	if p.Kind == pb.PartyKind_PARTY_KIND_PERSON_IN_ROLE {
		return a.User == p.SdsUserId || a.OnBehalfOf == p.SdsUserId
	}
	return true
}

func (l Ledger) addressee(id string, by Acceptor) error {
	if err := l.offered(id); err != nil {
		return err
	}
	if !by.speaksFor(l.Handover.To) {
		return fault.Denied("carelead.handover.not_addressee", "only the party it was offered to, or their delegate, may answer")
	}
	return nil
}

// AcknowledgeOffer is a read receipt.
type AcknowledgeOffer struct {
	HandoverID string
	By         Acceptor
}

// Decide records the receipt once; accountability is untouched.
func (c AcknowledgeOffer) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.addressee(c.HandoverID, c.By); err != nil {
		return nil, err
	}
	if l.Handover.Seen {
		return nil, nil
	}
	seen := []proto.Message{&pb.HandoverOfferSeen{HandoverId: c.HandoverID}}
	if planted.Is("lead without acceptance") {
		return append(seen, l.transfer(l.Handover.To, &pb.AccountabilityTransferred{Cause: pb.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED, HandoverId: c.HandoverID})...), nil
	}
	return seen, nil
}

// AcceptHandover takes responsibility. Acceptance and transfer are one append.
type AcceptHandover struct {
	HandoverID                  string
	SummaryVersion, PlanVersion int64 // what the acceptor has seen
	By                          Acceptor
	Now                         time.Time
}

// Decide refuses an acceptance of an older version than was offered, so that
// the new holder has seen what they answer for.
func (c AcceptHandover) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.addressee(c.HandoverID, c.By); err != nil {
		return nil, err
	}
	h := l.Handover
	if c.SummaryVersion != h.SummaryVersion || c.PlanVersion != h.PlanVersion {
		return nil, fault.Refused("carelead.handover.stale_version", fmt.Sprintf("the offer is for summary version %d and plan version %d; read those and name them", h.SummaryVersion, h.PlanVersion))
	}
	accepted := &pb.HandoverAccepted{HandoverId: h.ID, SummaryVersion: c.SummaryVersion, PlanVersion: c.PlanVersion, AcceptedBy: c.By.User}
	if h.Kind == pb.HandoverKind_HANDOVER_KIND_TO_LEAD || h.Kind == pb.HandoverKind_HANDOVER_KIND_BETWEEN_LEADS {
		due, err := after("first_contact", c.Now)
		if err != nil {
			return nil, err
		}
		accepted.FirstContactDue = stamp(due)
	}
	events := []proto.Message{accepted}
	if h.Kind == pb.HandoverKind_HANDOVER_KIND_BETWEEN_TEAMS {
		events = append(events, &pb.TreatingProviderChanged{From: l.Treating, To: h.To, On: day(c.Now)})
	}
	for _, cover := range l.Covers { // they stood in for the former holder
		events = append(events, &pb.CoverCancelled{CoverId: cover.ID})
	}
	return append(events, l.transfer(h.To, &pb.AccountabilityTransferred{Cause: pb.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED, HandoverId: h.ID})...), nil
}

// DeclineHandover refuses the offer; the holder stays.
type DeclineHandover struct {
	HandoverID       string
	Reason           pb.DeclineReason
	Text, Suggestion string
	By               Acceptor
	Now              time.Time
}

// Decide wants a text with the reason "other". A task says that the holder must
// find another: a refusal that nobody reads would end there.
func (c DeclineHandover) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.addressee(c.HandoverID, c.By); err != nil {
		return nil, err
	}
	if c.Reason == pb.DeclineReason_DECLINE_REASON_OTHER && c.Text == "" {
		return nil, fault.Invalid("carelead.decline.text", "text", "the reason OTHER needs a text")
	}
	return []proto.Message{
		&pb.HandoverDeclined{HandoverId: c.HandoverID, Reason: c.Reason, Text: c.Text, Suggestion: c.Suggestion},
		l.task("handover_declined", c.HandoverID, c.Now),
	}, nil
}

// WithdrawHandover takes an open offer back; only the holder may.
type WithdrawHandover struct {
	HandoverID, Reason string
	By                 Acceptor
}

// Decide refuses anybody but the party that offered.
func (c WithdrawHandover) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.offered(c.HandoverID); err != nil {
		return nil, err
	}
	if !c.By.speaksFor(l.Handover.From) {
		return nil, fault.Denied("carelead.handover.not_offeror", "only the party that offered may withdraw")
	}
	return []proto.Message{&pb.HandoverWithdrawn{HandoverId: c.HandoverID, Reason: c.Reason}}, nil
}

// RecordFirstContact records the new holder's first contact, made or attempted.
type RecordFirstContact struct {
	Made       bool
	On, Medium string
	By         Acceptor
}

// Decide wants the holder themselves.
func (c RecordFirstContact) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	if !c.By.speaksFor(l.Holder) {
		return nil, fault.Denied("carelead.contact.not_holder", "only the accountable party records its first contact")
	}
	if !c.Made {
		return []proto.Message{&pb.FirstContactAttempted{On: c.On, Medium: c.Medium}}, nil
	}
	return []proto.Message{&pb.FirstContactMade{On: c.On, Medium: c.Medium}}, nil
}

// RunTimers does what is due at Now and nothing when nothing is: it may be
// sent at any time, by any clock, any number of times. It does one step of each
// kind; the caller repeats it until it does nothing.
type RunTimers struct {
	Now time.Time
}

// Decide never moves accountability because an offer ran out of time.
func (c RunTimers) Decide(l Ledger) ([]proto.Message, error) {
	if l.open() != nil {
		return nil, nil
	}
	if events := l.endCover(c.Now); events != nil {
		return events, nil
	}
	if events := l.startCover(c.Now); events != nil {
		return events, nil
	}
	var events []proto.Message
	h := l.Handover
	due := func(t time.Time) bool { return !t.IsZero() && !c.Now.Before(t) }
	switch {
	case h.Open && due(h.AnswerDue):
		expired, err := l.expire(c.Now)
		if err != nil {
			return nil, err
		}
		events = append(events, expired...)
	case h.Open && !h.Seen && !h.Reminded && due(h.SeenDue):
		events = append(events, &pb.HandoverReminderSent{HandoverId: h.ID})
	}
	if !l.FirstContactOverdue && due(l.FirstContactDue) {
		events = append(events, &pb.FirstContactOverdue{Due: stamp(l.FirstContactDue)})
	}
	return events, nil
}

// expire ends the open offer and offers it to the next level, where there is
// one. The holder stays accountable throughout.
func (l Ledger) expire(now time.Time) ([]proto.Message, error) {
	h := l.Handover
	level := h.Level + 1
	events := []proto.Message{&pb.HandoverExpired{HandoverId: h.ID}}
	if planted.Is("a time-out transfers") {
		return append(events, l.transfer(h.To, &pb.AccountabilityTransferred{Cause: pb.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED, HandoverId: h.ID})...), nil
	}
	rest := slices.DeleteFunc(slices.Clone(h.Escalation), func(p *Party) bool { return Same(p, l.Holder) })
	if len(rest) == 0 {
		return append(events,
			&pb.HandoverEscalated{HandoverId: h.ID, Level: level, Exhausted: true},
			l.task("escalation_exhausted", h.ID, now)), nil
	}
	next, err := l.offer(derived(h.ID, "escalation"), h.Kind, rest[0], level, rest[1:], now)
	if err != nil {
		return nil, err
	}
	next.SummaryVersion, next.PlanVersion, next.NeighbourhoodId = h.SummaryVersion, h.PlanVersion, h.Neighbourhood
	return append(events, &pb.HandoverEscalated{HandoverId: h.ID, Level: level}, next), nil
}

// task raises a review task once: its id derives from what it is about.
func (l Ledger) task(code, about string, now time.Time) *pb.ReviewTaskRaised {
	return &pb.ReviewTaskRaised{TaskId: derived(l.PathwayID+about, code), Code: code, Due: stamp(now)}
}

// derived is the id that follows from another id for one purpose.
func derived(id, purpose string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(id+"/"+purpose)).String()
}
