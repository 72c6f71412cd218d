package carelead

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// react does what events ask of this room. Two rules make it safe to hear an
// event twice, late, or to be killed in the middle of one:
//
//   - A command's id derives from the event's and the stream's, and its request
//     holds only those: heard twice it is the same command twice. A batch over
//     many ledgers starts again from the first and finds what is done.
//   - Most commands bring a stream to what is so now (is the lead on leave? does a
//     notice of death stand?), read afresh, rather than repeat what the event says.
//     An event that comes late cannot undo what a newer one did.
//
// A refusal is the end of it; any other error makes the bus deliver again.
func (s *service) react(ctx context.Context, e bus.Event) error {
	var err error
	switch e.Category {
	case LedgerDecider.Category, LeadDecider.Category, NeighbourhoodDecider.Category:
		s.heard.Store(max(s.heard.Load(), uint64(e.Position)))
		err = s.onOwn(ctx, e)
	case "pathway":
		err = s.onPathway(ctx, e)
	case "person":
		err = s.onPerson(ctx, e)
	}
	if err != nil && !fault.IsAnswer(err) {
		return fmt.Errorf("carelead: on %s: %w", e.Message.ProtoReflect().Descriptor().Name(), err)
	}
	if err != nil {
		s.slog.InfoContext(ctx, "a command of a reaction was refused", slog.String("event.name", "carelead.refused"), slog.String("event", e.ID.String()), slog.String("code", fault.CodeOf(err)))
	}
	return nil
}

// asked is the header of the command that an event asks for. It names no tenant
// but at the opening of a ledger: a lead's organisation is not the ledger's.
func asked(e bus.Event, purpose string) *metav1.Command {
	organisation := e.Tenant
	if organisation == "" {
		organisation = system
	}
	return &metav1.Command{
		CommandId:     uuid.NewSHA1(e.ID, []byte(purpose)).String(),
		Actor:         &metav1.Actor{User: "waymark/carelead", Organisation: organisation},
		CorrelationId: e.CorrelationID,
		CausationId:   e.ID.String(),
	}
}

// tell runs a command on the ledger of a pathway because of an event. A refusal
// is the ledger's answer, and the next ledger is told.
func (s *service) tell(ctx context.Context, e bus.Event, pathway, purpose string, c decision[Ledger]) error {
	req := &pb.RunTimersRequest{Command: asked(e, purpose+"/"+pathway), PathwayId: pathway}
	_, err := s.ledgers.Do(ctx, streamID(pathway), req, c.Decide)
	if fault.IsAnswer(err) {
		return nil
	}
	return err
}

func (s *service) onPathway(ctx context.Context, e bus.Event) error {
	switch m := e.Message.(type) {
	case *referralv1.PathwayStarted:
		return s.openLedger(ctx, e, e.StreamID, m.PersonId, m.Facts.GetResponsibleTeam())
	case *referralv1.PathwayRerouted:
		onward := m.Facts.GetOnward()
		for _, o := range onward {
			if err := s.openLedger(ctx, e, o.PathwayId, m.PersonId, o.ResponsibleTeam); err != nil {
				return err
			}
		}
		if m.Facts.GetOriginalContinues() || len(onward) == 0 {
			return nil
		}
		// Only now: at no time is nobody accountable for the patient.
		return s.supersede(ctx, e, "rerouted", e.StreamID, streamID(onward[0].PathwayId))
	case *referralv1.PathwayClosed:
		return s.closed(ctx, e, m.Facts.GetReason())
	case *referralv1.ClockCorrected:
		if m.WrongEvent == "PathwayClosed" {
			return s.tell(ctx, e, e.StreamID, "reopen", ReopenLedger{Now: s.clock()})
		}
	case *referralv1.TransferredToTreatingProvider:
		ledger, err := s.ledgers.Load(ctx, streamID(e.StreamID))
		if err != nil || ledger.Value.Holder.GetOrganisation() == m.Facts.GetTreatingProvider() {
			return err
		}
		// The other provider is accountable when its team accepts, not before.
		return s.tell(ctx, e, e.StreamID, "treating provider", RaiseTask{Code: "treating_provider_changed", About: e.ID.String(), Now: s.clock()})
	}
	return nil
}

// openLedger opens the ledger of a pathway with the team that PathwayStarted
// names. The onward pathways of a rerouted one are named twice; the second finds
// it done.
func (s *service) openLedger(ctx context.Context, e bus.Event, pathway, person string, team *referralv1.Team) error {
	id := team.GetCode()
	if id == "" {
		id = team.GetOrganisation()
	}
	holder := &Party{Kind: pb.PartyKind_PARTY_KIND_TEAM, Id: id, Name: team.GetName(), Organisation: team.GetOrganisation()}
	req := &pb.RunTimersRequest{Command: asked(e, "open/"+pathway), PathwayId: pathway}
	req.Command.Tenant = e.Tenant
	pathway = streamID(pathway)
	_, err := s.ledgers.Do(ctx, pathway, req, OpenLedger{PathwayID: pathway, PersonID: streamID(person), Holder: holder}.Decide)
	if fault.IsAnswer(err) {
		return nil
	}
	return err
}

// closed brings the ledger to the end that the pathway came to. What is no proof
// that somebody else has taken over is a person's to decide: until then the holder
// stays accountable.
func (s *service) closed(ctx context.Context, e bus.Event, why referralv1.CloseReason) error {
	close := CloseLedger{Evidence: e.ID.String(), Now: s.clock()}
	switch why {
	case referralv1.CloseReason_CLOSE_REASON_REROUTED:
		return nil // PathwayRerouted stands beside it and names where it goes on
	case referralv1.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE:
		close.Reason = pb.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE
	case referralv1.CloseReason_CLOSE_REASON_CANCER_RULED_OUT:
		close.Reason = pb.CloseReason_CLOSE_REASON_CANCER_RULED_OUT
	case referralv1.CloseReason_CLOSE_REASON_ENTERED_IN_ERROR:
		close.Reason = pb.CloseReason_CLOSE_REASON_ENTERED_IN_ERROR
	case referralv1.CloseReason_CLOSE_REASON_DIED:
		ledger, err := s.ledgers.Load(ctx, streamID(e.StreamID))
		if err != nil {
			return err
		}
		p, err := s.lookUp(ctx, ledger.Value.PersonID)
		if err != nil {
			return err
		}
		close.Reason, close.Died = pb.CloseReason_CLOSE_REASON_DIED, p.died
	}
	if close.Reason == 0 || close.Reason == pb.CloseReason_CLOSE_REASON_DIED && !close.Died {
		return s.tell(ctx, e, e.StreamID, "review", RaiseTask{Code: "close_to_review", About: e.ID.String(), Now: s.clock()})
	}
	return s.tell(ctx, e, e.StreamID, "close", close)
}

func (s *service) onPerson(ctx context.Context, e bus.Event) error {
	switch e.Message.(type) {
	case *personv1.DeathReportedInformally, *personv1.DeathConfirmed, *personv1.DeathNotificationRetracted,
		*personv1.RestrictionSet, *personv1.RestrictionLifted, *personv1.PracticeChanged, *personv1.AreaChanged,
		*personv1.LeftEnglandReported, *personv1.PersonsMerged, *personv1.MergeReversed:
	default:
		return nil
	}
	// The ledgers that were opened before this event are in the board: react has
	// heard of them. One opened later asks for the person itself.
	if err := s.board.Wait(ctx, es.Position(s.heard.Load())); err != nil {
		return err
	}
	switch m := e.Message.(type) {
	case *personv1.PersonsMerged:
		return s.personsMerged(ctx, e, m)
	case *personv1.MergeReversed:
		return s.mergeReversed(ctx, e, m)
	}
	for _, pathway := range s.board.pathwaysOf(s.board.ofPerson, streamID(e.StreamID)) {
		if err := s.settlePerson(ctx, e, pathway, e.StreamID); err != nil {
			return err
		}
	}
	return nil
}

// settlePerson brings a ledger to what the person record says now.
func (s *service) settlePerson(ctx context.Context, e bus.Event, pathway, person string) error {
	p, err := s.lookUp(ctx, person)
	if err != nil {
		return err
	}
	if !p.known { // nobody to ask: the event itself is all there is
		p = saidBy(e.Message, p)
	}
	now := s.clock()
	if _, opened := e.Message.(*pb.LedgerOpened); opened && p.id != "" && p.id != person {
		// Merged before the pathway started: events come for the survivor alone.
		if err := s.tell(ctx, e, pathway, "follow", FollowPerson{MergeID: p.mergeID, From: person, To: p.id}); err != nil {
			return err
		}
	}
	if p.known {
		if err := s.tell(ctx, e, pathway, "death", NoteDeath{Stop: p.stop, Died: p.died, Evidence: e.ID.String(), Now: now}); err != nil {
			return err
		}
		var restriction decision[Ledger] = ResumeNotices{Reason: pb.NoticeSuppression_NOTICE_SUPPRESSION_RESTRICTED_RECORD}
		if p.restricted {
			restriction = StopNotices{Reason: pb.NoticeSuppression_NOTICE_SUPPRESSION_RESTRICTED_RECORD}
		}
		if err := s.tell(ctx, e, pathway, "restriction", restriction); err != nil {
			return err
		}
	}
	switch e.Message.(type) {
	case *personv1.LeftEnglandReported:
		return s.tell(ctx, e, pathway, "left England", RaiseTask{Code: "left_england", About: e.ID.String(), Now: now})
	case *personv1.PracticeChanged, *personv1.AreaChanged:
		move := NoteMove{Now: now, Withheld: !p.known || p.restricted}
		if !move.Withheld {
			ledger, err := s.ledgers.Load(ctx, pathway)
			if err != nil {
				return err
			}
			move.To = s.board.serving(p.practice, ledger.Value.Neighbourhood)
			move.Candidates = s.board.candidates(move.To, p.languages)
		}
		return s.tell(ctx, e, pathway, "move", move)
	}
	return nil
}

// saidBy is what an event alone says of a person.
func saidBy(event proto.Message, p patient) patient {
	switch event.(type) {
	case *personv1.DeathReportedInformally:
		return patient{known: true, stop: true}
	case *personv1.DeathConfirmed:
		return patient{known: true, stop: true, died: true}
	case *personv1.DeathNotificationRetracted:
		return patient{known: true}
	}
	return p
}

// personsMerged lets the ledgers of the merged person follow. Two open ledgers of
// one pathway become one; where that cannot be told, a person looks.
func (s *service) personsMerged(ctx context.Context, e bus.Event, m *personv1.PersonsMerged) error {
	surviving, merged := streamID(m.SurvivingPersonId), streamID(m.MergedPersonId)
	kept := s.board.pathwaysOf(s.board.ofPerson, surviving)
	for _, pathway := range s.board.pathwaysOf(s.board.ofPerson, merged) {
		if err := s.tell(ctx, e, pathway, "follow", FollowPerson{MergeID: m.MergeId, From: merged, To: surviving}); err != nil {
			return err
		}
		if !slices.Contains(kept, pathway) {
			kept = append(kept, pathway)
		}
	}
	var ledgers []Ledger
	for _, pathway := range kept {
		if err := s.settlePerson(ctx, e, pathway, surviving); err != nil {
			return err
		}
		ledger, err := s.ledgers.Load(ctx, pathway)
		if err != nil {
			return err
		}
		ledgers = append(ledgers, ledger.Value)
	}
	for _, other := range ledgers {
		if !slices.Contains(other.Followed, m.MergeId) || other.Closed != 0 {
			continue
		}
		for _, l := range ledgers {
			if slices.Contains(l.Followed, m.MergeId) || l.Closed != 0 {
				continue
			}
			same, err := s.samePathway(ctx, l.PathwayID, other.PathwayID)
			if err != nil {
				return err
			}
			var c decision[Ledger] = RaiseTask{Code: "merge_to_review", About: other.PathwayID, Now: s.clock()}
			if same {
				c = MergeLedger{Merged: other.PathwayID, MergedHolder: other.Holder, Now: s.clock()}
			}
			if err := s.tell(ctx, e, l.PathwayID, "merge "+other.PathwayID, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// samePathway reports whether two pathways carry one patient pathway identifier
// of one issuer.
func (s *service) samePathway(ctx context.Context, a, b string) (bool, error) {
	if s.pathway == nil {
		return false, nil
	}
	var start [2]*referralv1.StartFacts
	for i, id := range []string{a, b} {
		reply, err := s.pathway.GetPathway(ctx, &referralv1.GetPathwayRequest{PathwayId: id})
		if err != nil {
			if fault.IsAnswer(err) {
				return false, nil
			}
			return false, err
		}
		start[i] = reply.Pathway.GetStart()
	}
	return start[0].GetPathwayIdentifier() != "" && start[0].GetPathwayIdentifier() == start[1].GetPathwayIdentifier() &&
		start[0].GetPathwayIdentifierIssuer() == start[1].GetPathwayIdentifierIssuer(), nil
}

// mergeReversed gives the ledgers back to the person they were of, reopens those
// that were closed in favour of one of the other's, and brings all to what the two
// records say now.
func (s *service) mergeReversed(ctx context.Context, e bus.Event, m *personv1.MergeReversed) error {
	surviving, merged := streamID(m.SurvivingPersonId), streamID(m.MergedPersonId)
	for _, person := range []string{surviving, merged} {
		for _, pathway := range s.board.pathwaysOf(s.board.ofPerson, person) {
			if err := s.tell(ctx, e, pathway, "part", FollowPerson{MergeID: m.MergeId, From: surviving, To: merged, Reversed: true}); err != nil {
				return err
			}
			ledger, err := s.ledgers.Load(ctx, pathway)
			if err != nil {
				return err
			}
			if ledger.Value.PersonID == merged && ledger.Value.SupersededBy != "" {
				in, err := s.ledgers.Load(ctx, ledger.Value.SupersededBy)
				if err != nil {
					return err
				}
				if in.Value.PersonID == surviving {
					if err := s.tell(ctx, e, pathway, "resume", ResumeLedger{From: ledger.Value.SupersededBy, Now: s.clock()}); err != nil {
						return err
					}
				}
			}
			if err := s.settlePerson(ctx, e, pathway, ledger.Value.PersonID); err != nil {
				return err
			}
		}
	}
	return nil
}

// supersede closes a ledger in favour of another. Where it cannot be closed,
// whoever holds the other looks.
func (s *service) supersede(ctx context.Context, e bus.Event, purpose, pathway, by string) error {
	ledger, err := s.ledgers.Load(ctx, streamID(pathway))
	if err != nil {
		return err
	}
	c := SupersedeLedger{By: by}
	for _, id := range ledger.Value.Merged {
		other, err := s.ledgers.Load(ctx, id)
		if err != nil {
			return err
		}
		if other.Value.Closed != 0 {
			c.Settled = append(c.Settled, id)
		}
	}
	if err := s.tell(ctx, e, pathway, purpose, c); err != nil {
		return err
	}
	if ledger, err = s.ledgers.Load(ctx, streamID(pathway)); err != nil || ledger.Value.open() != nil {
		return err
	}
	return s.tell(ctx, e, by, "merge to review", RaiseTask{Code: "merge_to_review", About: pathway, Now: s.clock()})
}

func (s *service) onOwn(ctx context.Context, e bus.Event) error {
	if err := s.board.Wait(ctx, e.Position); err != nil {
		return err
	}
	switch m := e.Message.(type) {
	case *pb.LeaveStarted, *pb.LeaveEnded, *pb.LeadDeactivated:
		return s.settleLead(ctx, e, e.StreamID)
	case *pb.FallbackPoolAccepted:
		away, _ := list(s.board, s.board.leads, "", func(l Lead) bool {
			return slices.Contains(l.Neighbourhoods, e.StreamID) && (l.State == pb.LeadState_LEAD_STATE_ON_LEAVE || l.State == pb.LeadState_LEAD_STATE_DEACTIVATED)
		})
		for _, l := range away {
			if err := s.settleLead(ctx, e, l.id); err != nil {
				return err
			}
		}
	case *pb.LedgerOpened:
		return s.settlePerson(ctx, e, e.StreamID, m.PersonId)
	case *pb.LedgerMerged:
		return s.supersede(ctx, e, "supersede", m.MergedPathwayId, e.StreamID)
	case *pb.HandoverOffered:
		return s.settleLedger(ctx, e, leadID(m.To))
	case *pb.AccountabilityTransferred:
		if err := s.settleLedger(ctx, e, leadID(m.To)); err != nil {
			return err
		}
		if err := s.settleLedger(ctx, e, leadID(m.ActingFor)); err != nil {
			return err
		}
		return s.settlePlaces(ctx, e)
	case *pb.LedgerReopened:
		// While it was closed, leads went and came back.
		ledger, err := s.ledgers.Load(ctx, e.StreamID)
		if err != nil {
			return err
		}
		for _, p := range []*Party{ledger.Value.Holder, ledger.Value.ActingFor} {
			if err := s.settleLedger(ctx, e, leadID(p)); err != nil {
				return err
			}
		}
		return s.settlePlaces(ctx, e)
	case *pb.HandoverDeclined, *pb.HandoverExpired, *pb.HandoverWithdrawn, *pb.HandoverVoided, *pb.LedgerClosed:
		return s.settlePlaces(ctx, e)
	}
	return nil
}

// settleLead brings all ledgers of a lead to what the lead's state asks for.
func (s *service) settleLead(ctx context.Context, e bus.Event, lead string) error {
	for _, pathway := range s.board.pathwaysOf(s.board.ofLead, lead) {
		if err := s.settle(ctx, e, lead, pathway); err != nil {
			return err
		}
	}
	return nil
}

// settleLedger does it for the one ledger that an event is of: the lead may have
// gone in the moment in which they were given the pathway.
func (s *service) settleLedger(ctx context.Context, e bus.Event, lead string) error {
	if lead == "" {
		return nil
	}
	return s.settle(ctx, e, lead, e.StreamID)
}

func (s *service) settle(ctx context.Context, e bus.Event, id, pathway string) error {
	lead, err := s.leads.Load(ctx, id)
	if err != nil || lead.Value.Party == nil {
		return err // a manager or a contact: no lead
	}
	l := lead.Value
	if l.State != pb.LeadState_LEAD_STATE_ON_LEAVE && l.State != pb.LeadState_LEAD_STATE_DEACTIVATED {
		return s.tell(ctx, e, pathway, "back/"+id, EndLeave{Lead: l.Party})
	}
	pool, err := s.pool(ctx, l, pathway)
	if err != nil {
		return err
	}
	now := s.clock()
	if l.State == pb.LeadState_LEAD_STATE_DEACTIVATED {
		return s.tell(ctx, e, pathway, "lost/"+id, LoseLead{Lead: l.Party, Pool: pool, Now: now})
	}
	return s.tell(ctx, e, pathway, "away/"+id, StartLeave{Lead: l.Party, Until: l.current().Ends, Pool: pool, Now: now})
}

// pool is the fallback pool of the neighbourhood for which the ledger came to the
// lead, else of the lead's first that has one.
func (s *service) pool(ctx context.Context, l Lead, pathway string) (*StandingPool, error) {
	ledger, err := s.ledgers.Load(ctx, pathway)
	if err != nil {
		return nil, err
	}
	now := s.clock()
	for _, id := range append([]string{ledger.Value.Neighbourhood}, l.Neighbourhoods...) {
		if id == "" {
			continue
		}
		n, err := s.neighbourhoods.Load(ctx, id)
		if err != nil {
			return nil, err
		}
		if n.Value.Pool.stands(now) {
			return n.Value.Pool, nil
		}
	}
	return nil, nil
}

// settlePlaces counts the pathway of an event with the lead whose case it is or
// to whom it is on offer, and with nobody else.
func (s *service) settlePlaces(ctx context.Context, e bus.Event) error {
	ledger, err := s.ledgers.Load(ctx, e.StreamID)
	if err != nil {
		return err
	}
	l, now := ledger.Value, s.clock()
	for _, id := range s.board.placesOf(e.StreamID) {
		lead, err := s.leads.Load(ctx, id)
		if err != nil {
			return err
		}
		if lead.Value.Party == nil {
			continue
		}
		place := lead.Value.place(e.StreamID)
		holds := l.Closed == 0 && Same(l.lead(), lead.Value.Party)
		offered := l.Handover.Open && Same(l.Handover.To, lead.Value.Party)
		// A place whose offer the ledger has not seen may be of a call under way;
		// the lead's timers look after it.
		known := place.Handover == "" || l.offeredBefore(place.Handover)
		var c decision[Lead]
		switch {
		case holds && place.Pathway == "":
			c = RestorePlace{PathwayID: e.StreamID, Now: now}
		case !holds && !offered && place.Pathway != "" && known:
			c = FreePlace{PathwayID: e.StreamID, HandoverID: place.Handover}
		default:
			continue
		}
		req := &pb.RunLeadTimersRequest{Command: asked(e, "place/"+id), LeadId: id}
		if _, err := s.leads.Do(ctx, id, req, c.Decide); err != nil && !fault.IsAnswer(err) {
			return err
		}
	}
	return nil
}
