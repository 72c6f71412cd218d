package appointment

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// Session is the fold of a session stream. A slot is held or taken by at most
// one claim, because both are decided here, at one revision.
type Session struct {
	opened    *pb.SessionOpened // nil before
	state     pb.SessionState
	claims    map[string]claim // by slot id; a slot without one is free
	displaced []*pb.Displaced  // by the last suspension
	reason    string           // of the last suspension
}

// claim is who has a slot. It is known by its hold id, not by its appointment:
// an appointment that moves away and back claims anew.
type claim struct {
	holdID, appointmentID, pathwayID string
	until                            time.Time // while held
	taken                            bool
}

// Short names of the contract's states.
const (
	sessionOpen      = pb.SessionState_SESSION_STATE_OPEN
	sessionSuspended = pb.SessionState_SESSION_STATE_SUSPENDED
	sessionClosed    = pb.SessionState_SESSION_STATE_CLOSED
)

// holdFor is how long a slot is kept for a booking that was begun. When it ends
// nothing is lost: the pathway's stream says whether the booking was made.
const holdFor = 2 * time.Minute

// sessionDecider folds streams "session-<session id>".
func sessionDecider() es.Decider[Session] {
	return es.Decider[Session]{Category: "session", Evolve: EvolveSession}
}

// EvolveSession applies one event.
func EvolveSession(s Session, event proto.Message) Session {
	switch e := event.(type) {
	case *pb.SessionOpened:
		s.opened, s.state = e, sessionOpen
	case *pb.SlotHeld:
		s.claims = with(s.claims, e.SlotId, claim{holdID: e.HoldId, appointmentID: e.AppointmentId, pathwayID: e.PathwayId, until: e.Until.AsTime()})
	case *pb.SlotTaken:
		c := s.claims[e.SlotId]
		c.taken, c.until = true, time.Time{}
		s.claims = with(s.claims, e.SlotId, c)
	case *pb.SlotReleased:
		s.claims = maps.Clone(s.claims)
		delete(s.claims, e.SlotId)
	case *pb.SessionSuspended:
		s.state, s.displaced, s.reason = sessionSuspended, e.Displaced, e.Reason
	case *pb.SessionResumed:
		s.state = sessionOpen
	case *pb.SessionClosed:
		s.state = sessionClosed
	default:
		panic(es.Unhandled(event))
	}
	return s
}

func with(m map[string]claim, id string, c claim) map[string]claim {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]claim{}
	}
	m[id] = c
	return m
}

// slot returns a slot, nil when the session has none with the id.
func (s Session) slot(id string) *pb.Slot {
	for _, slot := range s.opened.GetSlots() {
		if slot.SlotId == id {
			return slot
		}
	}
	return nil
}

// booking is what an appointment in the slot is.
func (s Session) booking(sessionID, slotID, holdID string) *pb.Booking {
	slot := s.slot(slotID)
	return &pb.Booking{SessionId: sessionID, SlotId: slotID, HoldId: holdID, Start: slot.GetStart(), End: slot.GetEnd(), Medium: s.opened.GetMedium(),
		Site: s.opened.GetSite(), TreatmentFunction: s.opened.GetTreatmentFunction(), PractitionerRole: s.opened.GetPractitionerRole()}
}

// Message is the session as replies show it, nil when there is none.
func (s Session) Message(id string) *pb.Session {
	if s.opened == nil {
		return nil
	}
	m := &pb.Session{SessionId: id, State: s.state, Organisation: s.opened.Organisation, Site: s.opened.Site, TreatmentFunction: s.opened.TreatmentFunction,
		Modality: s.opened.Modality, PractitionerRole: s.opened.PractitionerRole, Medium: s.opened.Medium, CancerPriorityReason: s.opened.CancerPriorityReason}
	for _, slot := range s.opened.Slots {
		out := &pb.SessionSlot{Slot: slot, State: pb.SlotState_SLOT_STATE_FREE}
		if c, claimed := s.claims[slot.SlotId]; claimed {
			out.State, out.AppointmentId, out.PathwayId, out.HoldId = pb.SlotState_SLOT_STATE_HELD, c.appointmentID, c.pathwayID, c.holdID
			if c.taken {
				out.State = pb.SlotState_SLOT_STATE_TAKEN
			} else {
				out.Until = timestamppb.New(c.until)
			}
		}
		m.Slots = append(m.Slots, out)
	}
	return m
}

// Free returns the slots that can be booked at a time.
func (s Session) Free(now time.Time) (free []*pb.Slot) {
	if s.state != sessionOpen {
		return nil
	}
	for _, slot := range s.opened.Slots {
		if _, claimed := s.claims[slot.SlotId]; !claimed && slot.Start.AsTime().After(now) {
			free = append(free, slot)
		}
	}
	return free
}

// lapsed returns the slots whose hold was not followed up by a time.
func (s Session) lapsed(now time.Time) (slots []string) {
	for id, c := range s.claims {
		if !c.taken && !now.Before(c.until) {
			slots = append(slots, id)
		}
	}
	slices.Sort(slots)
	return slots
}

// OpenSession opens a session with its slots.
type OpenSession struct {
	*pb.OpenSessionRequest
	CommandID uuid.UUID
}

// Decide implements the decision.
func (c OpenSession) Decide(s Session) ([]proto.Message, error) {
	if s.opened != nil {
		return nil, fault.Exists("session.exists", "there is a session with this id: choose another")
	}
	opened := &pb.SessionOpened{Organisation: c.Organisation, Site: c.Site, TreatmentFunction: c.TreatmentFunction, Modality: c.Modality,
		PractitionerRole: c.PractitionerRole, Medium: c.Medium, CancerPriorityReason: c.CancerPriorityReason}
	seen := map[string]bool{}
	for i, n := range c.Slots {
		path := fmt.Sprintf("slots[%d].", i)
		from, to, err := interval(path, n.Start, n.End)
		if err != nil {
			return nil, err
		}
		id := streamID(n.SlotId)
		if id == "" {
			id = derived(c.CommandID, path)
		}
		if seen[id] {
			return nil, fault.Invalid("session.slot.repeated", path+"slot_id", "is that of an earlier slot")
		}
		seen[id] = true
		opened.Slots = append(opened.Slots, &pb.Slot{SlotId: id, Start: from, End: to})
	}
	return []proto.Message{opened}, nil
}

// HoldSlot keeps a slot for one booking. A hold that has lapsed is still a hold:
// whoever finds one settles it first, in the stream of the pathway it is for.
type HoldSlot struct {
	SlotID, AppointmentID, PathwayID, HoldID string
	Now                                      time.Time
}

// Decide implements the decision.
func (c HoldSlot) Decide(s Session) ([]proto.Message, error) {
	slot := s.slot(c.SlotID)
	switch {
	case s.opened == nil:
		return nil, errNoSession
	case slot == nil:
		return nil, fault.NotFound("session.slot.not_found", "the session has no such slot")
	}
	if held, claimed := s.claims[c.SlotID]; claimed {
		if held.holdID == c.HoldID {
			return nil, nil
		}
		return nil, errTaken
	}
	switch {
	case s.state == sessionSuspended:
		return nil, fault.Refused("session.suspended", "the session is suspended: choose a slot of another")
	case s.state == sessionClosed:
		return nil, fault.Refused("session.closed", "the session is closed: choose a slot of another")
	case !slot.Start.AsTime().After(c.Now):
		return nil, fault.Refused("session.slot.past", "the slot has begun: choose a later one")
	}
	return []proto.Message{&pb.SlotHeld{SlotId: c.SlotID, AppointmentId: c.AppointmentID, PathwayId: c.PathwayID, HoldId: c.HoldID, Until: timestamppb.New(c.Now.Add(holdFor))}}, nil
}

// TakeSlot turns a hold into what it was for. Without the hold it does nothing:
// somebody settled it already, or the booking is over.
type TakeSlot struct{ SlotID, HoldID string }

// Decide implements the decision.
func (c TakeSlot) Decide(s Session) ([]proto.Message, error) {
	held, claimed := s.claims[c.SlotID]
	if !claimed || held.holdID != c.HoldID || held.taken {
		return nil, nil
	}
	return []proto.Message{&pb.SlotTaken{SlotId: c.SlotID, AppointmentId: held.appointmentID, HoldId: c.HoldID}}, nil
}

// ReleaseSlot gives a slot back. Without the claim it does nothing.
type ReleaseSlot struct{ SlotID, HoldID, Cause string }

// Decide implements the decision.
func (c ReleaseSlot) Decide(s Session) ([]proto.Message, error) {
	held, claimed := s.claims[c.SlotID]
	if !claimed || held.holdID != c.HoldID {
		return nil, nil
	}
	return []proto.Message{&pb.SlotReleased{SlotId: c.SlotID, AppointmentId: held.appointmentID, HoldId: c.HoldID, Cause: c.Cause}}, nil
}

// SuspendSession stops a session. Whoever has a slot that lies ahead is displaced.
type SuspendSession struct {
	*pb.SuspendSessionRequest
	Now time.Time
}

// Decide implements the decision.
func (c SuspendSession) Decide(s Session) ([]proto.Message, error) {
	switch s.state {
	case sessionOpen:
	case sessionSuspended:
		return nil, fault.Refused("session.suspended", "the session is suspended already")
	case sessionClosed:
		return nil, fault.Refused("session.closed", "the session is closed")
	default:
		return nil, errNoSession
	}
	e := &pb.SessionSuspended{Reason: c.Reason}
	for _, slot := range s.opened.Slots {
		if held, claimed := s.claims[slot.SlotId]; claimed && slot.End.AsTime().After(c.Now) {
			e.AppointmentIds = append(e.AppointmentIds, held.appointmentID)
			e.Displaced = append(e.Displaced, &pb.Displaced{AppointmentId: held.appointmentID, PathwayId: held.pathwayID, HoldId: held.holdID, SlotId: slot.SlotId})
		}
	}
	return []proto.Message{e}, nil
}

// ResumeSession opens a suspended session again.
type ResumeSession struct{ *pb.ResumeSessionRequest }

// Decide implements the decision.
func (c ResumeSession) Decide(s Session) ([]proto.Message, error) {
	if s.opened == nil {
		return nil, errNoSession
	}
	if s.state != sessionSuspended {
		return nil, fault.Refused("session.not_suspended", "the session is not suspended")
	}
	return []proto.Message{&pb.SessionResumed{Reason: c.Reason}}, nil
}

// CloseSession ends a session that nobody waits for.
type CloseSession struct {
	*pb.CloseSessionRequest
	Now time.Time
}

// Decide implements the decision.
func (c CloseSession) Decide(s Session) ([]proto.Message, error) {
	if s.opened == nil {
		return nil, errNoSession
	}
	if s.state == sessionClosed {
		return nil, fault.Refused("session.closed", "the session is closed already")
	}
	for _, slot := range s.opened.Slots {
		if _, claimed := s.claims[slot.SlotId]; claimed && slot.End.AsTime().After(c.Now) {
			return nil, fault.Refused("session.in_use", "appointments lie ahead: suspend the session, or move them first")
		}
	}
	return []proto.Message{&pb.SessionClosed{Reason: c.Reason}}, nil
}

var (
	errNoSession = fault.NotFound("session.not_found", "there is no such session")
	// errTaken is what BaRS answers with 409 REC_CONFLICT.
	errTaken = fault.Exists("appointment.slot.taken", "the slot is another appointment's: choose another slot")
)
