package carelead

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/fault"
)

// optional is the stamp of a time that may be none.
func optional(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return stamp(t)
}

// message is the ledger as callers see it. The recorded time since when the
// holder holds it is not in the fold; GetLedger reads it from the log.
func (l Ledger) message(pathwayID string) *pb.Ledger {
	m := &pb.Ledger{
		PathwayId: pathwayID, PersonId: l.PersonID, Open: l.Opened && l.Closed == 0, CloseReason: l.Closed, SupersededBy: l.SupersededBy,
		Holder: l.Holder, ActingFor: l.ActingFor, TreatingTeam: l.Treating,
		FirstContactDue: optional(l.FirstContactDue), FirstContactOverdue: l.FirstContactOverdue,
		NoticesStopped: l.Silenced, LeadDeclined: l.LeadDeclined, NeighbourhoodId: l.Neighbourhood, CandidateLeadIds: l.Candidates,
	}
	if h := l.Handover; h.ID != "" {
		m.Handover = &pb.Handover{
			HandoverId: h.ID, Kind: h.Kind, State: h.State, From: h.From, To: h.To,
			SummaryVersion: h.SummaryVersion, PlanVersion: h.PlanVersion,
			SeenDue: optional(h.SeenDue), AnswerDue: optional(h.AnswerDue), Seen: h.Seen, EscalationLevel: h.Level,
		}
	}
	for _, c := range l.Covers {
		m.Covers = append(m.Covers, &pb.Cover{CoverId: c.ID, Lead: c.Lead, Cover: c.By, Starts: stamp(c.Starts), Ends: stamp(c.Ends), Accepted: c.Accepted, Started: c.Started})
	}
	for _, t := range l.Tasks {
		m.Tasks = append(m.Tasks, &pb.ReviewTask{TaskId: t.ID, Code: t.Code, Due: stamp(t.Due)})
	}
	return m
}

func (l Lead) message(id string) *pb.Lead {
	m := &pb.Lead{
		LeadId: id, Party: l.Party, State: l.State, NeighbourhoodIds: l.Neighbourhoods, Languages: l.Languages, Skills: l.Skills,
		Capacity: l.Capacity, Taken: int32(len(l.Places)),
	}
	for _, v := range l.Leave {
		m.Leave = append(m.Leave, &pb.Leave{LeaveId: v.ID, Starts: stamp(v.Starts), Ends: stamp(v.Ends), Sickness: v.Sickness, Started: v.Started})
	}
	return m
}

func (n Neighbourhood) message(id string) *pb.Neighbourhood {
	m := &pb.Neighbourhood{
		NeighbourhoodId: id, Name: n.Name, Organisation: n.Organisation, Practices: n.Practices,
		Manager: n.Manager, AllianceContact: n.Contact, Alliance: n.Alliance,
	}
	if n.Pool != nil {
		m.FallbackPool, m.FallbackUntil, m.OutOfHoursMessage = n.Pool.Party, stamp(n.Pool.Until), n.OutOfHours
	}
	return m
}

// party is a party as a caller named it.
func party(field string, p *pb.PartyInput) (*Party, error) {
	if p.Kind == pb.PartyKind_PARTY_KIND_PERSON_IN_ROLE && p.SdsUserId == "" {
		return nil, fault.Invalid("carelead.party.person", field+".sds_user_id", "a person in a role needs one: it is who may answer")
	}
	return &Party{
		Kind: p.Kind, Id: p.Id, Name: p.Name, Organisation: p.Organisation, SdsUserId: p.SdsUserId,
		SdsRoleProfileId: p.SdsRoleProfileId, RoleCode: p.RoleCode, Telephone: p.Telephone, Hours: p.Hours,
	}, nil
}
