package carelead

import (
	"context"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// handoverServer is the gRPC face of ledgers.
type handoverServer struct {
	pb.UnimplementedHandoverServiceServer
	*service
}

// onLedger is a request about one ledger.
type onLedger interface {
	es.Request
	GetPathwayId() string
}

// do runs a command on a ledger and answers with the state after it.
func (s *service) do(ctx context.Context, req onLedger, c decision[Ledger]) (*pb.LedgerReply, error) {
	id := streamID(req.GetPathwayId())
	state, err := s.ledgers.Do(ctx, id, req, c.Decide)
	return ledgerReply(id, state, err)
}

func ledgerReply(id string, state es.State[Ledger], err error) (*pb.LedgerReply, error) {
	if err != nil {
		return nil, err
	}
	return &pb.LedgerReply{Ledger: state.Value.message(id), Receipt: state.Receipt()}, nil
}

func (s *handoverServer) OpenLedger(ctx context.Context, req *pb.OpenLedgerRequest) (*pb.LedgerReply, error) {
	holder, err := party("holder", req.Holder)
	if err != nil {
		return nil, err
	}
	if holder.Kind != pb.PartyKind_PARTY_KIND_TEAM {
		return nil, fault.Invalid("carelead.ledger.not_a_team", "holder.kind", "a ledger opens with the treating team: PARTY_KIND_TEAM")
	}
	return s.do(ctx, req, OpenLedger{PathwayID: streamID(req.PathwayId), PersonID: streamID(req.PersonId), Holder: holder})
}

// PrepareHandover looks up what the plan service knows of the checklist.
func (s *handoverServer) PrepareHandover(ctx context.Context, req *pb.PrepareHandoverRequest) (*pb.LedgerReply, error) {
	met := map[string]bool{}
	if needsChecklist(req.Kind) {
		var err error
		if met, err = s.planFacts(ctx, streamID(req.PathwayId)); err != nil {
			return nil, err
		}
	}
	met["patient_informed"], met["consent_to_share"] = req.PatientInformed, req.ConsentToShare
	return s.do(ctx, req, PrepareHandover{
		HandoverID: idFrom(req, "prepared"), Kind: req.Kind, Met: met,
		OverrideReason: req.OverrideReason, SecondPerson: req.OverrideSecondPerson, User: req.GetCommand().GetActor().GetUser(),
	})
}

// OfferHandover takes a place of the lead's capacity, then offers. Between the
// two lies no invariant but the capacity: a place without its offer is given
// back by react or by the lead's timers, an offer without its place is refused.
func (s *handoverServer) OfferHandover(ctx context.Context, req *pb.OfferHandoverRequest) (*pb.LedgerReply, error) {
	c := OfferHandover{HandoverID: idFrom(req, "handover"), Kind: req.Kind, SummaryVersion: req.SummaryVersion, PlanVersion: req.PlanVersion, Now: s.clock()}
	ledger, err := s.ledgers.Load(ctx, streamID(req.PathwayId))
	if err != nil {
		return nil, err
	}
	switch {
	case ledger.Revision == es.NoStream || ledger.Value.offeredBefore(c.HandoverID):
		// Do refuses, or answers with what was done: nothing to look up.
	case req.Kind == pb.HandoverKind_HANDOVER_KIND_TO_LEAD, req.Kind == pb.HandoverKind_HANDOVER_KIND_BETWEEN_LEADS:
		err = s.toLead(ctx, ledger.Value, req, &c)
	case req.Kind == pb.HandoverKind_HANDOVER_KIND_TO_TREATING_TEAM:
		err = s.toTreatingTeam(ledger.Value, req, &c)
	default:
		c.To, c.Escalation, err = s.toTeam(req)
	}
	if err != nil {
		return nil, err
	}
	return s.do(ctx, req, c)
}

// toLead looks up what an offer to a lead needs.
func (s *service) toLead(ctx context.Context, l Ledger, req *pb.OfferHandoverRequest, c *OfferHandover) error {
	if req.LeadId == "" {
		return fault.Invalid("carelead.handover.no_lead", "lead_id", "name the lead it is offered to")
	}
	lead, err := s.leads.Load(ctx, streamID(req.LeadId))
	if err != nil {
		return err
	}
	if err := lead.Value.known(); err != nil {
		return err
	}
	c.To, c.LeadActive = lead.Value.Party, lead.Value.State == pb.LeadState_LEAD_STATE_ACTIVE
	if err := s.neighbourhoodFor(ctx, l, lead.Value, req.NeighbourhoodId, c); err != nil {
		return err
	}
	// Ask the ledger first: a refusal must not cost a place.
	c.HasPlace = true
	if _, err := c.Decide(l); err != nil {
		return err
	}
	take := &pb.OfferHandoverRequest{Command: req.Command, PathwayId: req.PathwayId, LeadId: req.LeadId, Kind: req.Kind}
	if _, err := s.leads.Do(ctx, streamID(req.LeadId), take, TakePlace{PathwayID: streamID(req.PathwayId), HandoverID: c.HandoverID, Now: c.Now}.Decide); err != nil {
		return err
	}
	// A repeated command is answered with its first outcome; the place may have
	// been given back since.
	lead, err = s.leads.Load(ctx, streamID(req.LeadId))
	c.HasPlace = lead.Value.place(streamID(req.PathwayId)).Handover == c.HandoverID
	return err
}

// neighbourhoodFor finds the neighbourhood of an offer to a lead and its chain of
// escalation. The practice of a restricted person is withheld here: then the
// caller, who knows the patient, names the neighbourhood.
func (s *service) neighbourhoodFor(ctx context.Context, l Ledger, lead Lead, named string, c *OfferHandover) error {
	p, err := s.lookUp(ctx, l.PersonID)
	if err != nil {
		return err
	}
	if named == "" && p.practice == "" {
		return fault.Invalid("carelead.neighbourhood.unknown", "neighbourhood_id", "the patient's practice is not known here, or is withheld; name the neighbourhood")
	}
	for _, id := range lead.Neighbourhoods {
		id = streamID(id)
		if named != "" && id != streamID(named) {
			continue
		}
		n, err := s.neighbourhoods.Load(ctx, id)
		if err != nil {
			return err
		}
		if named == "" && !n.Value.Serves(p.practice) {
			continue
		}
		c.Neighbourhood, c.ServesPatient = id, p.practice == "" || n.Value.Serves(p.practice)
		c.HasFallback, c.Escalation = n.Value.Pool.stands(c.Now), n.Value.Escalation(c.Now)
		return nil
	}
	return errNotServed
}

// toTreatingTeam offers the pathway back; it escalates to the party that the
// caller names, the cancer manager of that team.
func (s *service) toTreatingTeam(l Ledger, req *pb.OfferHandoverRequest, c *OfferHandover) error {
	c.To = l.Treating
	if req.To == nil {
		return nil
	}
	manager, err := party("to", req.To)
	if err != nil {
		return err
	}
	if Same(manager, l.Treating) {
		return nil
	}
	c.Escalation = []*Party{manager}
	return nil
}

// toTeam offers the pathway to another treating team.
func (s *service) toTeam(req *pb.OfferHandoverRequest) (*Party, []*Party, error) {
	if req.To == nil {
		return nil, nil, fault.Invalid("carelead.handover.no_party", "to", "name the team it is offered to")
	}
	to, err := party("to", req.To)
	if err == nil && to.Kind != pb.PartyKind_PARTY_KIND_TEAM {
		err = fault.Invalid("carelead.handover.not_a_team", "to.kind", "must be PARTY_KIND_TEAM")
	}
	return to, nil, err
}

func (s *handoverServer) AcknowledgeOffer(ctx context.Context, req *pb.AcknowledgeOfferRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, AcknowledgeOffer{HandoverID: streamID(req.HandoverId), By: acceptor(req)})
}

func (s *handoverServer) AcceptHandover(ctx context.Context, req *pb.AcceptHandoverRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, AcceptHandover{HandoverID: streamID(req.HandoverId), SummaryVersion: req.SummaryVersion, PlanVersion: req.PlanVersion, By: acceptor(req), Now: s.clock()})
}

func (s *handoverServer) DeclineHandover(ctx context.Context, req *pb.DeclineHandoverRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, DeclineHandover{HandoverID: streamID(req.HandoverId), Reason: req.Reason, Text: req.Text, Suggestion: req.Suggestion, By: acceptor(req), Now: s.clock()})
}

func (s *handoverServer) WithdrawHandover(ctx context.Context, req *pb.WithdrawHandoverRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, WithdrawHandover{HandoverID: streamID(req.HandoverId), Reason: req.Reason, By: acceptor(req)})
}

func (s *handoverServer) RecordFirstContact(ctx context.Context, req *pb.RecordFirstContactRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, RecordFirstContact{Made: req.Made, On: req.On, Medium: req.Medium, By: acceptor(req)})
}

// ArrangeCover asks a registered lead who is at work.
func (s *handoverServer) ArrangeCover(ctx context.Context, req *pb.ArrangeCoverRequest) (*pb.LedgerReply, error) {
	lead, err := s.leads.Load(ctx, streamID(req.CoverLeadId))
	if err != nil {
		return nil, err
	}
	if err := lead.Value.known(); err != nil {
		return nil, err
	}
	if lead.Value.State == pb.LeadState_LEAD_STATE_INVITED {
		return nil, errLeadInactive
	}
	return s.do(ctx, req, ArrangeCover{CoverID: idFrom(req, "cover"), By: lead.Value.Party, Starts: req.Starts.AsTime(), Ends: req.Ends.AsTime()})
}

func (s *handoverServer) AcceptCover(ctx context.Context, req *pb.AcceptCoverRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, AcceptCover{CoverID: streamID(req.CoverId), By: acceptor(req)})
}

func (s *handoverServer) ChangeCover(ctx context.Context, req *pb.ChangeCoverRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, ChangeCover{CoverID: streamID(req.CoverId), Ends: req.Ends.AsTime(), Now: s.clock()})
}

func (s *handoverServer) CancelCover(ctx context.Context, req *pb.CancelCoverRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, CancelCover{CoverID: streamID(req.CoverId)})
}

func (s *handoverServer) RecordPatientDecision(ctx context.Context, req *pb.RecordPatientDecisionRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, PatientDecides{WantsLead: req.WantsLead, On: req.On, AskAgainOn: req.AskAgainOn})
}

// CloseLedger asks the person service whether a formal death notice stands, where
// that is the reason.
func (s *handoverServer) CloseLedger(ctx context.Context, req *pb.CloseLedgerRequest) (*pb.LedgerReply, error) {
	c := CloseLedger{Reason: req.Reason, Evidence: req.Evidence, Now: s.clock()}
	if req.Reason == pb.CloseReason_CLOSE_REASON_DIED {
		ledger, err := s.ledgers.Load(ctx, streamID(req.PathwayId))
		if err != nil {
			return nil, err
		}
		p, err := s.lookUp(ctx, ledger.Value.PersonID)
		if err != nil {
			return nil, err
		}
		c.Died = p.died
	}
	return s.do(ctx, req, c)
}

func (s *handoverServer) CompleteTask(ctx context.Context, req *pb.CompleteTaskRequest) (*pb.LedgerReply, error) {
	return s.do(ctx, req, CompleteTask{TaskID: streamID(req.TaskId)})
}

// MergeLedgers records the merge in the ledger that goes on; then it closes the
// other, as react does when the call ends in between.
func (s *handoverServer) MergeLedgers(ctx context.Context, req *pb.MergeLedgersRequest) (*pb.LedgerReply, error) {
	surviving, merged := streamID(req.PathwayId), streamID(req.MergedPathwayId)
	if surviving == merged {
		return nil, fault.Invalid("carelead.merge.same", "merged_pathway_id", "must be another pathway")
	}
	other, err := s.ledgers.Load(ctx, merged)
	if err != nil {
		return nil, err
	}
	if err := other.Value.open(); err != nil && other.Value.SupersededBy != surviving {
		return nil, err
	}
	reply, err := s.do(ctx, req, MergeLedger{Merged: merged, MergedHolder: other.Value.Holder, Now: s.clock()})
	if err != nil {
		return nil, err
	}
	_, err = s.ledgers.Do(ctx, merged, req, SupersedeLedger{By: surviving}.Decide)
	return reply, err
}

// RunTimers does everything that is due.
func (s *handoverServer) RunTimers(ctx context.Context, req *pb.RunTimersRequest) (*pb.LedgerReply, error) {
	id := streamID(req.PathwayId)
	state, err := whole(ctx, s.ledgers, id, req, RunTimers{Now: s.clock()}.Decide)
	return ledgerReply(id, state, err)
}

// GetLedger reads the stream, so its answer is never behind min_position. Since
// when the holder holds it is the recorded time of the last transfer.
func (s *handoverServer) GetLedger(ctx context.Context, req *pb.GetLedgerRequest) (*pb.LedgerReply, error) {
	id := streamID(req.PathwayId)
	state, err := s.ledgers.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	if !state.Value.Opened {
		return nil, errNoLedger
	}
	reply, err := ledgerReply(id, state, nil)
	if err != nil {
		return nil, err
	}
	return reply, s.log.Read(ctx, LedgerDecider.Category+"-"+id, 0, func(e es.Recorded) error {
		if e.Revision <= state.Revision && setsHolder[e.Type] {
			reply.Ledger.Since = stamp(e.Recorded)
		}
		return nil
	})
}

// setsHolder has the types of the events from which on a holder holds a ledger.
var setsHolder = map[string]bool{
	string((*pb.LedgerOpened)(nil).ProtoReflect().Descriptor().FullName()):              true,
	string((*pb.AccountabilityTransferred)(nil).ProtoReflect().Descriptor().FullName()): true,
}
