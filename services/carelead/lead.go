package carelead

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// Lead is the fold of lead-<id>: a named person in a role who takes
// coordination near the patient's home.
type Lead struct {
	Party          *Party
	State          pb.LeadState
	Neighbourhoods []string
	Languages      []string
	Skills         []string
	Capacity       int32
	Places         []Place
	Leave          []Leave // neither over nor cancelled
	Activated      bool    // once; what the lead comes back to from leave
}

// Place is one of the lead's capacity, taken for the offer of a pathway.
type Place struct {
	Pathway, Handover string
	Taken             time.Time
}

// Leave of a lead. Started says that the ledgers were told.
type Leave struct {
	ID           string
	Starts, Ends time.Time
	Sickness     bool
	Started      bool
}

// LeadDecider folds leads.
var LeadDecider = es.Decider[Lead]{Category: "lead", Evolve: evolveLead}

func evolveLead(l Lead, event proto.Message) Lead {
	switch e := event.(type) {
	case *pb.LeadRegistered:
		l.Party, l.State, l.Capacity = e.Party, pb.LeadState_LEAD_STATE_INVITED, e.Capacity
		l.Neighbourhoods, l.Languages, l.Skills = e.NeighbourhoodIds, e.Languages, e.Skills
	case *pb.LeadActivated:
		l.Activated = true
		l.State = l.atWork()
	case *pb.CapacityChanged:
		l.Capacity = e.Capacity
	case *pb.CaseloadPlaceTaken:
		l.Places = append(l.placesBut(e.PathwayId), Place{Pathway: e.PathwayId, Handover: e.HandoverId, Taken: e.TakenAt.AsTime()})
	case *pb.CaseloadPlaceFreed:
		l.Places = l.placesBut(e.PathwayId)
	case *pb.LeaveBooked:
		l.Leave = append(slices.Clip(l.Leave), Leave{ID: e.LeaveId, Starts: e.Starts.AsTime(), Ends: e.Ends.AsTime(), Sickness: e.Sickness})
	case *pb.LeaveCancelled:
		l.Leave = slices.DeleteFunc(slices.Clone(l.Leave), func(v Leave) bool { return v.ID == e.LeaveId })
	case *pb.LeaveStarted:
		l.State = pb.LeadState_LEAD_STATE_ON_LEAVE
		l.Leave = slices.Clone(l.Leave)
		for i := range l.Leave {
			l.Leave[i].Started = l.Leave[i].Started || l.Leave[i].ID == e.LeaveId
		}
	case *pb.LeaveEnded:
		l.Leave = slices.DeleteFunc(slices.Clone(l.Leave), func(v Leave) bool { return v.ID == e.LeaveId })
		l.State = l.atWork()
	case *pb.LeadDeactivated:
		l.State, l.Leave = pb.LeadState_LEAD_STATE_DEACTIVATED, nil
	default:
		panic(es.Unhandled(event))
	}
	return l
}

// atWork is the state of a lead whose role goes on. One leave may have begun
// before the end of another was noticed.
func (l Lead) atWork() pb.LeadState {
	switch {
	case l.current() != nil:
		return pb.LeadState_LEAD_STATE_ON_LEAVE
	case l.Activated:
		return pb.LeadState_LEAD_STATE_ACTIVE
	}
	return pb.LeadState_LEAD_STATE_INVITED
}

// place is the one that a pathway holds; the zero Place when none.
func (l Lead) place(pathway string) Place {
	for _, p := range l.Places {
		if p.Pathway == pathway {
			return p
		}
	}
	return Place{}
}

func (l Lead) placesBut(pathway string) []Place {
	return slices.DeleteFunc(slices.Clone(l.Places), func(p Place) bool { return p.Pathway == pathway })
}

var (
	errLeadInactive = fault.Refused("carelead.lead.inactive", "the lead is not active or is on leave; offer it to another")
	errNoCapacity   = fault.Refused("carelead.lead.no_capacity", "the lead's caseload is full; offer it to another or change the capacity")
)

// known refuses commands on a lead who was never registered, or is gone.
func (l Lead) known() error {
	switch {
	case l.Party == nil:
		return fault.NotFound("carelead.lead.not_found", "no lead has this id; register the lead first")
	case l.State == pb.LeadState_LEAD_STATE_DEACTIVATED:
		return fault.Refused("carelead.lead.inactive", "the lead was deactivated; register them anew if they are back")
	}
	return nil
}

// current is the leave the lead is on, nil when at work.
func (l Lead) current() *Leave {
	for i := range l.Leave {
		if l.Leave[i].Started {
			return &l.Leave[i]
		}
	}
	return nil
}

// RegisterLead invites a lead.
type RegisterLead struct {
	Party                             *Party
	Neighbourhoods, Languages, Skills []string
	Capacity                          int32
	On                                nhs.Date
}

// Decide wants a named person at an organisation: nobody else can be a lead.
func (c RegisterLead) Decide(l Lead) ([]proto.Message, error) {
	switch {
	case l.Party != nil:
		return nil, fault.Exists("carelead.lead.exists", "a lead with this id is registered")
	case c.Party.Kind != pb.PartyKind_PARTY_KIND_PERSON_IN_ROLE || c.Party.SdsUserId == "" || c.Party.RoleCode == "":
		return nil, fault.Invalid("carelead.lead.not_a_person", "party", "a lead is a person in a role: kind PARTY_KIND_PERSON_IN_ROLE, sds_user_id and role_code are needed")
	case !mayLead(c.Party.RoleCode, c.On):
		return nil, fault.Invalid("carelead.lead.role", "party.role_code", "is not a role in which somebody may be a care lead: see roles.csv, for example R9801 Care Co-ordinator")
	case len(c.Neighbourhoods) == 0:
		return nil, fault.Invalid("carelead.lead.no_neighbourhood", "neighbourhood_ids", "a lead works for at least one neighbourhood")
	}
	return []proto.Message{&pb.LeadRegistered{Party: c.Party, NeighbourhoodIds: c.Neighbourhoods, Languages: c.Languages, Skills: c.Skills, Capacity: c.Capacity}}, nil
}

// ActivateLead lets a lead be offered pathways.
type ActivateLead struct{ On string }

// Decide does nothing for a lead who is active.
func (c ActivateLead) Decide(l Lead) ([]proto.Message, error) {
	if err := l.known(); err != nil {
		return nil, err
	}
	if l.Activated {
		return nil, nil
	}
	return []proto.Message{&pb.LeadActivated{On: c.On}}, nil
}

// ChangeCapacity sets the largest caseload. A smaller one than the present
// caseload takes nothing away; it only stops new offers.
type ChangeCapacity struct{ Capacity int32 }

// Decide does nothing when it is the same.
func (c ChangeCapacity) Decide(l Lead) ([]proto.Message, error) {
	if err := l.known(); err != nil {
		return nil, err
	}
	if c.Capacity == l.Capacity {
		return nil, nil
	}
	return []proto.Message{&pb.CapacityChanged{Capacity: c.Capacity}}, nil
}

// TakePlace reserves a place of the capacity for the offer of one pathway.
// Two offers that want the last place are decided here, in one stream.
type TakePlace struct {
	PathwayID, HandoverID string
	Now                   time.Time
}

// Decide lets a newer offer of a pathway take over the place that it has.
func (c TakePlace) Decide(l Lead) ([]proto.Message, error) {
	if err := l.known(); err != nil {
		return nil, err
	}
	had := l.place(c.PathwayID)
	switch {
	case l.State != pb.LeadState_LEAD_STATE_ACTIVE:
		return nil, errLeadInactive
	case had.Pathway != "" && had.Handover == c.HandoverID:
		return nil, nil
	case had.Pathway == "" && len(l.Places) >= int(l.Capacity):
		return nil, errNoCapacity
	}
	return []proto.Message{&pb.CaseloadPlaceTaken{PathwayId: c.PathwayID, HandoverId: c.HandoverID, TakenAt: stamp(c.Now)}}, nil
}

// RestorePlace counts a pathway that came back to the lead by itself, as a ledger
// does that was closed on a wrong notice of death. It is a fact: no capacity
// refuses it.
type RestorePlace struct {
	PathwayID string
	Now       time.Time
}

// Decide does nothing when the pathway is counted.
func (c RestorePlace) Decide(l Lead) ([]proto.Message, error) {
	if l.known() != nil || l.place(c.PathwayID).Pathway != "" {
		return nil, nil
	}
	return []proto.Message{&pb.CaseloadPlaceTaken{PathwayId: c.PathwayID, TakenAt: stamp(c.Now)}}, nil
}

// FreePlace gives a place back when the lead did not take the pathway or has
// passed it on.
type FreePlace struct{ PathwayID, HandoverID string }

// Decide does nothing when another offer has taken the place over.
func (c FreePlace) Decide(l Lead) ([]proto.Message, error) {
	if p := l.place(c.PathwayID); p.Pathway == "" || p.Handover != c.HandoverID {
		return nil, nil
	}
	return []proto.Message{&pb.CaseloadPlaceFreed{PathwayId: c.PathwayID}}, nil
}

// BookLeave books leave ahead.
type BookLeave struct {
	LeaveID      string
	Starts, Ends time.Time
	Now          time.Time
	Sickness     bool // starts now, at once
}

// Decide refuses leave that overlaps other leave, or lies in the past.
func (c BookLeave) Decide(l Lead) ([]proto.Message, error) {
	if err := l.known(); err != nil {
		return nil, err
	}
	switch {
	case !c.Starts.Before(c.Ends):
		return nil, fault.Invalid("carelead.leave.times", "ends", "must be after the leave starts")
	case !c.Now.Before(c.Ends):
		return nil, fault.Invalid("carelead.leave.times", "ends", "must not be over already")
	}
	for _, v := range l.Leave {
		if c.Starts.Before(v.Ends) && v.Starts.Before(c.Ends) {
			return nil, fault.Refused("carelead.leave.overlap", "other leave is booked for part of that time; cancel it first")
		}
	}
	events := []proto.Message{&pb.LeaveBooked{LeaveId: c.LeaveID, Starts: stamp(c.Starts), Ends: stamp(c.Ends), Sickness: c.Sickness}}
	if c.Sickness {
		events = append(events, &pb.LeaveStarted{LeaveId: c.LeaveID})
	}
	return events, nil
}

// CancelLeave drops leave that has not begun.
type CancelLeave struct{ LeaveID string }

// Decide refuses leave that has begun: return from it instead.
func (c CancelLeave) Decide(l Lead) ([]proto.Message, error) {
	if err := l.known(); err != nil {
		return nil, err
	}
	for _, v := range l.Leave {
		switch {
		case v.ID != c.LeaveID:
		case v.Started:
			return nil, fault.Refused("carelead.leave.started", "the leave has begun; use ReturnFromLeave")
		default:
			return []proto.Message{&pb.LeaveCancelled{LeaveId: c.LeaveID}}, nil
		}
	}
	return nil, fault.NotFound("carelead.leave.not_found", "no such leave is booked: it is over, was cancelled or never was")
}

// ReturnFromLeave ends the leave the lead is on, early.
type ReturnFromLeave struct{}

// Decide refuses a lead who is not on leave.
func (c ReturnFromLeave) Decide(l Lead) ([]proto.Message, error) {
	if err := l.known(); err != nil {
		return nil, err
	}
	v := l.current()
	if v == nil {
		return nil, fault.Refused("carelead.leave.none", "the lead is not on leave")
	}
	return []proto.Message{&pb.LeaveEnded{LeaveId: v.ID}}, nil
}

// RunLeave starts and ends the leave that is due at Now; nothing when none is.
type RunLeave struct{ Now time.Time }

// Decide ends before it starts, so that back-to-back leave follows on.
func (c RunLeave) Decide(l Lead) ([]proto.Message, error) {
	if l.known() != nil {
		return nil, nil
	}
	if v := l.current(); v != nil {
		if c.Now.Before(v.Ends) {
			return nil, nil
		}
		return []proto.Message{&pb.LeaveEnded{LeaveId: v.ID}}, nil
	}
	for _, v := range l.Leave {
		switch {
		case c.Now.Before(v.Starts):
		case !c.Now.Before(v.Ends): // it came and went while nobody looked
			return []proto.Message{&pb.LeaveStarted{LeaveId: v.ID}, &pb.LeaveEnded{LeaveId: v.ID}}, nil
		default:
			return []proto.Message{&pb.LeaveStarted{LeaveId: v.ID}}, nil
		}
	}
	return nil, nil
}

// DeactivateLead ends the role. The ledgers follow by reaction.
type DeactivateLead struct{ Cause string }

// Decide does nothing the second time.
func (c DeactivateLead) Decide(l Lead) ([]proto.Message, error) {
	if l.State == pb.LeadState_LEAD_STATE_DEACTIVATED {
		return nil, nil
	}
	if err := l.known(); err != nil {
		return nil, err
	}
	return []proto.Message{&pb.LeadDeactivated{Cause: c.Cause}}, nil
}
