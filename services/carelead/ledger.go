package carelead

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// Party is the wire's party: one who can be accountable.
type Party = pb.Party

// Same reports whether two parties are one. What people call them, and how
// they are reached, may change.
func Same(a, b *Party) bool {
	return a != nil && b != nil && a.Kind == b.Kind && a.Id == b.Id && a.Organisation == b.Organisation
}

// Ledger is the fold of carelead-<pathway id>: who is accountable now, what is
// on offer, and what is due.
type Ledger struct {
	PathwayID, PersonID string
	Opened              bool
	Closed              pb.CloseReason // unspecified while open
	SupersededBy        string         // the pathway whose ledger goes on
	Followed            []string       // merges of persons that the ledger went along with
	Merged              []string       // pathways whose ledgers were closed in favour of this one
	Holder              *Party         // accountable now; the last one when closed
	ActingFor           *Party         // the lead for whom a cover or pool holds it
	Treating            *Party         // the treating team: where it returns to

	Prepared pb.HandoverKind // what was prepared and not yet accepted
	Handover Handover        // the newest offer, or what was prepared since
	Offered  []string        // ids of all offers ever made

	Covers []Cover // neither ended nor cancelled

	FirstContactDue     time.Time // zero: none due
	FirstContactOverdue bool

	Silenced      []pb.NoticeSuppression // why the patient gets no notices; empty: notices go out
	LeadDeclined  bool                   // the patient does not want a lead
	Neighbourhood string                 // of the newest offer or move
	Candidates    []string               // leads who could take over after a move, best first
	Tasks         []Task                 // open ones

	// Violation names the first event that broke the rule of the ledger. It
	// cannot happen by our own code; waymark verify looks for it in the log.
	Violation string
}

// Handover is the newest offer of the ledger.
type Handover struct {
	ID                          string
	Kind                        pb.HandoverKind
	State                       pb.HandoverState
	Open                        bool // offered and neither answered nor ended
	From, To                    *Party
	SummaryVersion, PlanVersion int64
	SeenDue, AnswerDue          time.Time
	Seen, Reminded              bool
	Level                       int32
	Escalation                  []*Party
	Neighbourhood               string
}

// Cover is somebody who stands in for a lead.
type Cover struct {
	ID                string
	Lead, By          *Party
	Starts, Ends      time.Time
	Accepted, Started bool
}

// Task is something that a person must look at.
type Task struct {
	ID, Code string
	Due      time.Time
}

// LedgerDecider folds ledgers.
var LedgerDecider = es.Decider[Ledger]{Category: "carelead", Evolve: evolveLedger}

func evolveLedger(l Ledger, event proto.Message) Ledger {
	switch e := event.(type) {
	case *pb.LedgerOpened:
		if l.Opened {
			l.violate("LedgerOpened on an open ledger")
		}
		l.PathwayID, l.PersonID, l.Opened, l.Holder, l.Treating = e.PathwayId, e.PersonId, true, e.Holder, e.Holder
	case *pb.AccountabilityTransferred:
		l.Candidates = nil
		if !Same(e.From, l.Holder) || l.Closed != 0 {
			l.violate("AccountabilityTransferred from a party that is not accountable")
		}
		l.Holder, l.ActingFor = e.To, e.ActingFor
	case *pb.PatientNoticeDue, *pb.PatientNoticeSuppressed:
	case *pb.HandoverPrepared:
		l.Prepared = e.Kind
		if !l.Handover.Open {
			l.Handover = Handover{ID: e.HandoverId, Kind: e.Kind, State: pb.HandoverState_HANDOVER_STATE_PREPARED}
		}
	case *pb.HandoverOffered:
		if l.Handover.Open {
			l.violate("HandoverOffered while another offer is open")
		}
		l.Handover = Handover{
			ID: e.HandoverId, Kind: e.Kind, State: pb.HandoverState_HANDOVER_STATE_OFFERED, Open: true, From: e.From, To: e.To,
			SummaryVersion: e.SummaryVersion, PlanVersion: e.PlanVersion,
			SeenDue: e.SeenDue.AsTime(), AnswerDue: e.AnswerDue.AsTime(),
			Level: e.EscalationLevel, Escalation: e.Escalation, Neighbourhood: e.NeighbourhoodId,
		}
		l.Offered = append(slices.Clip(l.Offered), e.HandoverId)
		if e.NeighbourhoodId != "" {
			l.Neighbourhood = e.NeighbourhoodId
		}
	case *pb.HandoverOfferSeen:
		l.Handover.Seen = true
	case *pb.HandoverReminderSent:
		l.Handover.Reminded = true
	case *pb.HandoverAccepted:
		l.endOffer(pb.HandoverState_HANDOVER_STATE_ACCEPTED)
		l.Prepared = 0
		l.FirstContactDue, l.FirstContactOverdue = time.Time{}, false
		if e.FirstContactDue != nil {
			l.FirstContactDue = e.FirstContactDue.AsTime()
		}
	case *pb.HandoverDeclined:
		l.endOffer(pb.HandoverState_HANDOVER_STATE_DECLINED)
	case *pb.HandoverExpired:
		l.endOffer(pb.HandoverState_HANDOVER_STATE_EXPIRED)
	case *pb.HandoverWithdrawn:
		l.endOffer(pb.HandoverState_HANDOVER_STATE_WITHDRAWN)
	case *pb.HandoverVoided:
		l.endOffer(pb.HandoverState_HANDOVER_STATE_VOID)
	case *pb.HandoverEscalated:
	case *pb.FirstContactMade:
		l.FirstContactDue, l.FirstContactOverdue = time.Time{}, false
	case *pb.FirstContactAttempted:
	case *pb.FirstContactOverdue:
		l.FirstContactOverdue = true
	case *pb.CoverArranged:
		l.Covers = append(slices.Clip(l.Covers), Cover{ID: e.CoverId, Lead: e.Lead, By: e.Cover, Starts: e.Starts.AsTime(), Ends: e.Ends.AsTime()})
	case *pb.CoverAccepted:
		l.Covers = changed(l.Covers, e.CoverId, func(c *Cover) { c.Accepted = true })
	case *pb.CoverChanged:
		l.Covers = changed(l.Covers, e.CoverId, func(c *Cover) { c.Ends = e.Ends.AsTime() })
	case *pb.CoverStarted:
		l.Covers = changed(l.Covers, e.CoverId, func(c *Cover) { c.Started = true })
	case *pb.CoverEnded:
		l.Covers = without(l.Covers, e.CoverId)
	case *pb.CoverCancelled:
		l.Covers = without(l.Covers, e.CoverId)
	case *pb.CoverMissing:
	case *pb.LeadDeclinedByPatient:
		l.LeadDeclined = true
	case *pb.LeadRequestedByPatient:
		l.LeadDeclined = false
	case *pb.TreatingProviderChanged:
		l.Treating = e.To
	case *pb.NeighbourhoodChangeDetected:
		l.Neighbourhood, l.Candidates = e.ToNeighbourhoodId, e.CandidateLeadIds
	case *pb.PatientNoticesStopped:
		if !slices.Contains(l.Silenced, e.Reason) {
			l.Silenced = append(slices.Clip(l.Silenced), e.Reason)
		}
	case *pb.PatientNoticesResumed:
		l.Silenced = slices.DeleteFunc(slices.Clone(l.Silenced), func(r pb.NoticeSuppression) bool { return r == e.Reason })
	case *pb.LedgerClosed:
		l.Closed, l.SupersededBy = e.Reason, e.SupersededBy
	case *pb.LedgerReopened:
		if !Same(e.Holder, l.Holder) {
			l.violate("LedgerReopened with a holder that was not the last one")
		}
		l.Closed, l.SupersededBy = 0, ""
	case *pb.LedgerMerged:
		if !slices.Contains(l.Merged, e.MergedPathwayId) {
			l.Merged = append(slices.Clip(l.Merged), e.MergedPathwayId)
		}
	case *pb.LedgerPersonChanged:
		l.PersonID = e.PersonId
		l.Followed = slices.DeleteFunc(slices.Clone(l.Followed), func(m string) bool { return m == e.MergeId })
		if !e.Reversed {
			l.Followed = append(l.Followed, e.MergeId)
		}
	case *pb.ReviewTaskRaised:
		l.Tasks = append(l.tasksBut(e.TaskId), Task{ID: e.TaskId, Code: e.Code, Due: e.Due.AsTime()})
	case *pb.ReviewTaskDone:
		l.Tasks = l.tasksBut(e.TaskId)
	default:
		panic(es.Unhandled(event))
	}
	return l
}

func (l *Ledger) endOffer(how pb.HandoverState) { l.Handover.Open, l.Handover.State = false, how }

func (l Ledger) tasksBut(id string) []Task {
	return slices.DeleteFunc(slices.Clone(l.Tasks), func(t Task) bool { return t.ID == id })
}

func (l *Ledger) violate(what string) {
	if l.Violation == "" {
		l.Violation = what
	}
}

func changed(covers []Cover, id string, change func(*Cover)) []Cover {
	covers = slices.Clone(covers)
	for i := range covers {
		if covers[i].ID == id {
			change(&covers[i])
		}
	}
	return covers
}

func without(covers []Cover, id string) []Cover {
	return slices.DeleteFunc(slices.Clone(covers), func(c Cover) bool { return c.ID == id })
}

// transfer passes accountability from the holder to another party. It is the
// only place that makes the event, so that it always names the holder it was
// decided upon, always tells the patient or says why not, and never leaves an
// offer of the former holder open.
func (l Ledger) transfer(to *Party, t *pb.AccountabilityTransferred) []proto.Message {
	t.From, t.To = l.Holder, to
	events := []proto.Message{t}
	if len(l.Silenced) > 0 {
		events = append(events, &pb.PatientNoticeSuppressed{Reason: l.Silenced[0]})
	} else {
		events = append(events, &pb.PatientNoticeDue{Holder: to})
	}
	if l.Handover.Open && l.Handover.ID != t.HandoverId {
		events = append(events, &pb.HandoverVoided{HandoverId: l.Handover.ID, Reason: pb.VoidReason_VOID_REASON_HOLDER_CHANGED})
	}
	return events
}

// void ends an open offer that lost its object.
func (l Ledger) void(reason pb.VoidReason) []proto.Message {
	if !l.Handover.Open {
		return nil
	}
	return []proto.Message{&pb.HandoverVoided{HandoverId: l.Handover.ID, Reason: reason}}
}

var errNoLedger = fault.NotFound("carelead.ledger.not_found", "no ledger is open for this pathway; it opens when the pathway starts")

// offeredBefore reports whether an offer was ever made.
func (l Ledger) offeredBefore(id string) bool { return slices.Contains(l.Offered, id) }

// open refuses commands on a ledger that does not exist or is closed.
func (l Ledger) open() error {
	switch {
	case !l.Opened:
		return errNoLedger
	case l.Closed != 0:
		return fault.Refused("carelead.ledger.closed", "the ledger is closed: "+reason(l.Closed.String(), "CLOSE_REASON_"))
	case l.Violation != "":
		return fault.Refused("carelead.ledger.violated", "the ledger is broken: "+l.Violation+"; run waymark verify")
	}
	return nil
}

// reason is an enum value as people write it.
func reason(enum, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(enum, prefix)), "_", " ")
}

// endOfDay is the first instant after a civil day: a timer that is due on the
// day runs out then.
func endOfDay(d nhs.Date) time.Time { return d.AddDays(1).Start().UTC() }

func stamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

// after counts a timer of waitingtimes from the day of an instant and returns
// the instant at which it has run out.
func after(clock string, from time.Time) (time.Time, error) {
	due, _, err := waitingtimes.Due(clock, nhs.DateOf(from))
	if err != nil {
		return time.Time{}, err
	}
	return endOfDay(due), nil
}

// OpenLedger opens the ledger of a pathway with the team named in PathwayStarted.
type OpenLedger struct {
	PathwayID, PersonID string
	Holder              *Party
}

// Decide refuses a second ledger.
func (c OpenLedger) Decide(l Ledger) ([]proto.Message, error) {
	if l.Opened {
		return nil, fault.Exists("carelead.ledger.exists", "this pathway has a ledger")
	}
	return []proto.Message{&pb.LedgerOpened{PathwayId: c.PathwayID, PersonId: c.PersonID, Holder: c.Holder}}, nil
}
