package pathway

import (
	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
)

// take begins a spell of accountability and ends the one before it at the same
// position, so that there is one holder at each instant.
func take(v *pb.Pathway, e event, c *pb.Custody) {
	release(v, e)
	c.Since, c.Position = e.at(), uint64(e.Position)
	v.Custody = append(v.Custody, c)
	v.Holder = c.Holder
}

func release(v *pb.Pathway, e event) {
	if n := len(v.Custody); n > 0 && v.Custody[n-1].UntilPosition == 0 {
		v.Custody[n-1].Until, v.Custody[n-1].UntilPosition = e.at(), uint64(e.Position)
	}
	v.Holder = nil
}

// same reports whether two parties are one, however fully they are described.
func same(a, b *careleadv1.Party) bool {
	if a.GetKind() != b.GetKind() || a.GetOrganisation() != b.GetOrganisation() {
		return false
	}
	return a.GetId() == b.GetId() || a.GetName() == b.GetName() && a.GetName() != ""
}

// foldLedger takes the events of "carelead-" streams.
func foldLedger(v *pb.Pathway, e event) bool {
	switch m := e.message.(type) {
	case *careleadv1.LedgerOpened:
		v.LedgerOpened, v.LedgerClosed = true, careleadv1.CloseReason_CLOSE_REASON_UNSPECIFIED
		if v.PersonId == "" {
			v.PersonId = m.PersonId
		}
		// The same team goes on; the ledger may describe it more fully. One that is found by
		// another id from now on is a holder of its own.
		if n := len(v.Custody); n > 0 && v.Holder != nil && same(v.Holder, m.Holder) && partyKey(v.Holder) == partyKey(m.Holder) {
			v.Custody[n-1].Holder, v.Holder = m.Holder, m.Holder
		} else {
			take(v, e, &pb.Custody{Holder: m.Holder})
		}
	case *careleadv1.AccountabilityTransferred:
		take(v, e, &pb.Custody{Holder: m.To, Cause: m.Cause, HandoverId: m.HandoverId, ActingFor: m.ActingFor})
	case *careleadv1.LedgerClosed:
		v.LedgerClosed = m.Reason
		release(v, e)
	case *careleadv1.LedgerReopened:
		v.LedgerClosed = careleadv1.CloseReason_CLOSE_REASON_UNSPECIFIED
		take(v, e, &pb.Custody{Holder: m.Holder})
	case *careleadv1.LedgerPersonChanged:
		v.PersonId = m.PersonId
	case *careleadv1.LedgerMerged:
	case *careleadv1.PatientNoticeDue:
		v.PatientNoticeDue = true
	case *careleadv1.PatientNoticeSuppressed:
		v.PatientNoticeDue = false
	case *careleadv1.PatientNoticesStopped:
		v.PatientNoticesStopped = true
	case *careleadv1.PatientNoticesResumed:
		v.PatientNoticesStopped = false
	case *careleadv1.FirstContactMade:
		contact(v).MadeOn, contact(v).Overdue = m.On, false
	case *careleadv1.FirstContactAttempted:
		contact(v).AttemptedOn = append(contact(v).AttemptedOn, m.On)
	case *careleadv1.FirstContactOverdue:
		contact(v).Overdue = true
	case *careleadv1.CoverArranged:
		c := cover(v, m.CoverId, "arranged")
		c.Lead, c.Cover, c.Starts, c.Ends = m.Lead, m.Cover, m.Starts, m.Ends
	case *careleadv1.CoverAccepted:
		cover(v, m.CoverId, "accepted")
	case *careleadv1.CoverChanged:
		cover(v, m.CoverId, "").Ends = m.Ends
	case *careleadv1.CoverCancelled:
		cover(v, m.CoverId, "cancelled")
	case *careleadv1.CoverStarted:
		cover(v, m.CoverId, "started")
	case *careleadv1.CoverEnded:
		cover(v, m.CoverId, "ended")
	case *careleadv1.CoverMissing, *careleadv1.TreatingProviderChanged, *careleadv1.NeighbourhoodChangeDetected:
	case *careleadv1.LeadDeclinedByPatient:
		v.AskAgainOn = m.AskAgainOn
	case *careleadv1.LeadRequestedByPatient:
		v.AskAgainOn = ""
	case *careleadv1.ReviewTaskRaised:
		t := task(v, m.TaskId)
		t.Code, t.Due = m.Code, m.Due
	case *careleadv1.ReviewTaskDone:
		task(v, m.TaskId).Done = true
	default:
		return foldHandover(v, e)
	}
	return true
}

func contact(v *pb.Pathway) *pb.FirstContact {
	if v.FirstContact == nil {
		v.FirstContact = &pb.FirstContact{}
	}
	return v.FirstContact
}

func cover(v *pb.Pathway, id, state string) *pb.Cover {
	c := find(&v.Covers, id, (*pb.Cover).GetCoverId, func() *pb.Cover { return &pb.Cover{CoverId: id} })
	if state != "" {
		c.State = state
	}
	return c
}

func task(v *pb.Pathway, id string) *pb.ReviewTask {
	return find(&v.ReviewTasks, id, (*pb.ReviewTask).GetTaskId, func() *pb.ReviewTask { return &pb.ReviewTask{TaskId: id} })
}

// foldHandover takes the steps of a handover. At most one is open.
func foldHandover(v *pb.Pathway, e event) bool {
	// of is the open handover; where another one is open, it ended unseen.
	of := func(id string) *pb.Handover {
		if v.OpenHandover.GetHandoverId() != id {
			if v.OpenHandover != nil {
				v.PastHandovers = append(v.PastHandovers, v.OpenHandover)
			}
			v.OpenHandover = &pb.Handover{HandoverId: id}
		}
		return v.OpenHandover
	}
	end := func(id string, state pb.HandoverState) *pb.Handover {
		h := of(id)
		h.State, h.EndedAt = state, e.at()
		v.PastHandovers, v.OpenHandover = append(v.PastHandovers, h), nil
		return h
	}
	switch m := e.message.(type) {
	case *careleadv1.HandoverPrepared:
		h := of(m.HandoverId)
		h.Kind, h.State, h.Checklist, h.PreparedAt = m.Kind, pb.HandoverState_HANDOVER_STATE_PREPARED, m.Checklist, e.at()
		h.ChecklistOverridden = m.OverrideReason != ""
	case *careleadv1.HandoverOffered:
		prepared := v.OpenHandover
		if prepared.GetHandoverId() != m.HandoverId && prepared.GetState() == pb.HandoverState_HANDOVER_STATE_PREPARED {
			v.OpenHandover.HandoverId = m.HandoverId // what was prepared is offered now, under the id of the offer
		}
		h := of(m.HandoverId)
		h.Kind, h.State, h.From, h.To, h.NeighbourhoodId = m.Kind, pb.HandoverState_HANDOVER_STATE_OFFERED, m.From, m.To, m.NeighbourhoodId
		h.SummaryVersion, h.PlanVersion, h.EscalationLevel = m.SummaryVersion, m.PlanVersion, m.EscalationLevel
		h.OfferedAt, h.SeenDue, h.AnswerDue = m.OfferedAt, m.SeenDue, m.AnswerDue
	case *careleadv1.HandoverOfferSeen:
		h := of(m.HandoverId)
		h.State, h.SeenAt = pb.HandoverState_HANDOVER_STATE_SEEN, e.at()
	case *careleadv1.HandoverReminderSent:
		of(m.HandoverId).Reminders++
	case *careleadv1.HandoverAccepted:
		h := end(m.HandoverId, pb.HandoverState_HANDOVER_STATE_ACCEPTED)
		h.SummaryVersion, h.PlanVersion = m.SummaryVersion, m.PlanVersion
		if v.FirstContact.GetAcceptedAt() != nil {
			v.PastFirstContacts = append(v.PastFirstContacts, v.FirstContact)
		}
		v.FirstContact = &pb.FirstContact{Due: m.FirstContactDue, AcceptedAt: e.at()}
	case *careleadv1.HandoverDeclined:
		end(m.HandoverId, pb.HandoverState_HANDOVER_STATE_DECLINED).DeclineReason = m.Reason
	case *careleadv1.HandoverExpired:
		end(m.HandoverId, pb.HandoverState_HANDOVER_STATE_EXPIRED)
	case *careleadv1.HandoverWithdrawn:
		end(m.HandoverId, pb.HandoverState_HANDOVER_STATE_WITHDRAWN)
	case *careleadv1.HandoverVoided:
		end(m.HandoverId, pb.HandoverState_HANDOVER_STATE_VOIDED).VoidReason = m.Reason
	case *careleadv1.HandoverEscalated:
		for _, h := range append(v.PastHandovers, v.OpenHandover) {
			if h.GetHandoverId() == m.HandoverId && h != nil {
				h.EscalationLevel, h.Exhausted = m.Level, m.Exhausted
			}
		}
	default:
		return false
	}
	return true
}
