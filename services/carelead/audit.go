package carelead

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
)

// Audit checks one ledger against the rules I1 to I9 from its events alone. It
// shares no code with the fold and the decisions: it is what they are checked
// by. The zero value is before the first event.
type Audit struct {
	holder, actingFor *Party
	closed            bool
	offers            map[string]*pb.HandoverOffered // open ones
	accepted          map[string]*pb.HandoverOffered // by an acceptance in the command at hand
	covers            map[string]*pb.CoverArranged
	agreed            map[string]bool // covers that were accepted
	command           uuid.UUID       // the command whose events are being read
	notice            bool            // a transfer of the command at hand waits for its notice
	transfers         int
}

// Entry is one event of the ledger's stream, in order.
type Entry struct {
	Event    proto.Message
	Command  uuid.UUID // the append it stood in
	Recorded time.Time
}

// Holder is who is accountable after the entries so far: nil before the ledger
// opened (the team named in PathwayStarted is, by definition) and after it was
// closed.
func (a *Audit) Holder() *Party {
	if a.closed {
		return nil
	}
	return a.holder
}

// Transfers counts how often accountability passed.
func (a *Audit) Transfers() int { return a.transfers }

// End fails when the last command of the stream is incomplete.
func (a *Audit) End() error {
	if a.notice {
		return fmt.Errorf("I9: a transfer has no notice to the patient and no reason for its absence")
	}
	return nil
}

// Next takes the next entry and fails when it breaks a rule; the text begins
// with the rule's number in domain terms.
func (a *Audit) Next(e Entry) error {
	if e.Command != a.command {
		if err := a.End(); err != nil {
			return err
		}
		a.command, a.accepted = e.Command, map[string]*pb.HandoverOffered{}
	}
	if _, opens := e.Event.(*pb.LedgerOpened); !opens && a.holder == nil {
		return fmt.Errorf("I1: the ledger's first event does not open it")
	}
	switch v := e.Event.(type) {
	case *pb.LedgerOpened:
		if a.holder != nil {
			return fmt.Errorf("I1: the ledger opens twice")
		}
		if v.Holder.GetOrganisation() == "" || v.Holder.GetId() == "" {
			return fmt.Errorf("I1: the ledger opens without an accountable party")
		}
		a.holder = v.Holder
		a.offers, a.covers, a.agreed = map[string]*pb.HandoverOffered{}, map[string]*pb.CoverArranged{}, map[string]bool{}
	case *pb.AccountabilityTransferred:
		return a.transfer(v, e.Recorded)
	case *pb.PatientNoticeDue:
		if !Same(v.Holder, a.holder) {
			return fmt.Errorf("I9: the patient is told of somebody who is not accountable")
		}
		a.notice = false
	case *pb.PatientNoticeSuppressed:
		if v.Reason == 0 {
			return fmt.Errorf("I9: a notice is suppressed without a reason")
		}
		a.notice = false
	case *pb.HandoverOffered:
		if len(a.offers) > 0 {
			return fmt.Errorf("I4: a second offer while one is open")
		}
		if a.closed || !Same(v.From, a.holder) {
			return fmt.Errorf("I2: an offer by a party that is not accountable")
		}
		a.offers[v.HandoverId] = v
	case *pb.HandoverAccepted:
		offer := a.offers[v.HandoverId]
		switch {
		case offer == nil:
			return fmt.Errorf("I3: an acceptance of an offer that is not open")
		case v.SummaryVersion != offer.SummaryVersion || v.PlanVersion != offer.PlanVersion:
			return fmt.Errorf("I5: an acceptance of other versions than were offered")
		case v.AcceptedBy == "":
			return fmt.Errorf("I3: an acceptance by nobody")
		}
		a.accepted[v.HandoverId] = offer
		delete(a.offers, v.HandoverId)
	case *pb.HandoverDeclined:
		return a.end(v.HandoverId)
	case *pb.HandoverExpired:
		return a.end(v.HandoverId)
	case *pb.HandoverWithdrawn:
		return a.end(v.HandoverId)
	case *pb.HandoverVoided:
		return a.end(v.HandoverId)
	case *pb.CoverArranged:
		a.covers[v.CoverId] = v
	case *pb.CoverAccepted:
		a.agreed[v.CoverId] = true
	case *pb.LedgerClosed:
		switch {
		case a.closed:
			return fmt.Errorf("I7: the ledger closes twice")
		case v.Reason == 0 || v.Evidence == "":
			return fmt.Errorf("I7: the ledger closes without a reason or without evidence")
		case len(a.offers) > 0:
			return fmt.Errorf("I4: the ledger closes while an offer is open")
		}
		a.closed = true
	case *pb.LedgerReopened:
		if !a.closed || !Same(v.Holder, a.holder) {
			return fmt.Errorf("I1: the ledger reopens with another holder than its last")
		}
		a.closed = false
	}
	return nil
}

func (a *Audit) end(offer string) error {
	if a.offers[offer] == nil {
		return fmt.Errorf("I4: an offer ends that is not open")
	}
	delete(a.offers, offer)
	return nil
}

func (a *Audit) transfer(t *pb.AccountabilityTransferred, at time.Time) error {
	switch {
	case a.closed:
		return fmt.Errorf("I1: accountability passes after the ledger closed")
	case !Same(t.From, a.holder):
		return fmt.Errorf("I1: accountability passes from a party that does not hold it")
	case t.To.GetOrganisation() == "" || t.To.GetId() == "":
		return fmt.Errorf("I1: accountability passes to nobody")
	case Same(t.To, a.holder):
		return fmt.Errorf("I1: accountability passes to its holder")
	}
	switch t.Cause {
	case pb.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED:
		if offer := a.accepted[t.HandoverId]; offer == nil || !Same(offer.To, t.To) {
			return fmt.Errorf("I3: accountability passes without the acceptance of the party it passes to")
		}
	case pb.TransferCause_TRANSFER_CAUSE_COVER_STARTED:
		cover := a.covers[t.CoverId]
		if cover == nil || !a.agreed[t.CoverId] || !Same(cover.Cover, t.To) {
			return fmt.Errorf("I6: accountability passes to a cover who did not agree")
		}
		if !Same(cover.Lead, a.holder) {
			return fmt.Errorf("I1: a cover starts for somebody who is not accountable")
		}
	case pb.TransferCause_TRANSFER_CAUSE_COVER_ENDED:
		if a.actingFor == nil || !Same(a.actingFor, t.To) {
			return fmt.Errorf("I6: accountability returns to a party that was not covered for")
		}
	case pb.TransferCause_TRANSFER_CAUSE_COVER_MISSING, pb.TransferCause_TRANSFER_CAUSE_LEAD_DEACTIVATED:
		if t.To.Kind != pb.PartyKind_PARTY_KIND_FALLBACK_POOL || t.StandingUntil == nil {
			return fmt.Errorf("I6: accountability passes to a party without standing acceptance")
		}
		// A minute of grace: it was decided a moment before it was recorded.
		if !at.IsZero() && at.After(t.StandingUntil.AsTime().Add(time.Minute)) {
			return fmt.Errorf("I6: accountability passes to a pool whose standing acceptance has lapsed")
		}
	default:
		return fmt.Errorf("I6: accountability passes for no listed cause")
	}
	a.holder, a.actingFor, a.notice = t.To, t.ActingFor, true
	a.transfers++
	return nil
}
