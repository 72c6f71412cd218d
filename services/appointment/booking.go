package appointment

import (
	"context"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// step is the header of a command that is a part of another: its id derives from
// the first one's, so that a repeat of the whole repeats each part.
func step(first *metav1.Command, purpose string) *metav1.Command {
	id, _ := uuid.Parse(first.GetCommandId())
	c := proto.CloneOf(first)
	c.CommandId = derived(id, purpose)
	c.CorrelationId = or(c.CorrelationId, first.GetCommandId())
	return c
}

// part is a request as the command of one of its parts.
func part[R es.Request](req R, purpose string) R {
	out := proto.Clone(req).(R)
	proto.Merge(out.GetCommand(), step(req.GetCommand(), purpose))
	return out
}

// book holds the slot, books, and takes the slot.
func (s *service) book(ctx context.Context, req *pb.BookAppointmentRequest) (*pb.AppointmentReply, error) {
	c := BookAppointment{BookAppointmentRequest: req, CommandID: commandID(req), Today: s.today()}
	var err error
	if c.Elsewhere, c.PatientNeeds, err = s.elsewhere(ctx, streamID(req.PathwayId)); err != nil {
		return nil, err
	}
	return s.claim(ctx, req, req.Place, c.id(), func(b *pb.Booking, priority string) decision[Appointments] {
		c.Booking, c.PriorityReason = b, priority
		return c
	})
}

// reschedule holds the new slot, moves the booking, takes the new slot and
// releases the old one: at no moment has the patient none.
func (s *service) reschedule(ctx context.Context, req *pb.RescheduleAppointmentRequest) (*pb.AppointmentReply, error) {
	elsewhere, _, err := s.elsewhere(ctx, streamID(req.PathwayId))
	if err != nil {
		return nil, err
	}
	out, err := s.claim(ctx, req, req.To, streamID(req.AppointmentId), func(b *pb.Booking, _ string) decision[Appointments] {
		return RescheduleAppointment{req, b, elsewhere}
	})
	if err != nil {
		return nil, err
	}
	if earlier := out.Appointment.GetEarlier(); len(earlier) > 0 {
		err = s.release(ctx, req, earlier[len(earlier)-1], "rescheduled")
	}
	return out, err
}

// claim runs a booking over its two streams. The order makes any crash harmless:
//
//  1. session: SlotHeld, by the hold id, which is the command's id
//  2. pathway: the booking, refused once the hold was abandoned here
//  3. session: SlotTaken
//
// A hold that stays behind is settled by whoever finds it lapsed: in the
// pathway's stream, where the booking either is or can never be any more.
func (s *service) claim(ctx context.Context, req onPathway, place *pb.Place, appointmentID string, with func(*pb.Booking, string) decision[Appointments]) (*pb.AppointmentReply, error) {
	choice := place.GetSlot()
	if choice == nil {
		x := place.GetExternal()
		from, to, err := interval("place.external.", x.GetStart(), x.GetEnd())
		if err != nil {
			return nil, err
		}
		return s.do(ctx, req, appointmentID, with(&pb.Booking{Start: from, End: to, Medium: x.Medium, Site: x.Site, Room: x.Room,
			TreatmentFunction: x.TreatmentFunction, PractitionerRole: x.PractitionerRole}, ""))
	}
	hold, sessionID, slotID := or(streamID(choice.HoldId), commandID(req).String()), streamID(choice.SessionId), streamID(choice.SlotId)
	if commandID(req) == uuid.Nil {
		return s.do(ctx, req, appointmentID, with(&pb.Booking{}, "")) // refused
	}
	session, err := s.loadSession(ctx, sessionID)
	if err != nil {
		return nil, err
	}
	decided := with(session.Value.booking(sessionID, slotID, hold), session.Value.opened.CancerPriorityReason)

	state, err := s.appointments.Load(ctx, streamID(req.GetPathwayId()))
	if err != nil {
		return nil, err
	}
	if then := state.Value; !then.standing(hold) && !then.spent(hold) && !then.abandoned[hold] {
		if session.Value.slot(slotID) != nil { // what is refused anyway needs no slot
			if _, err := decided.Decide(then); err != nil {
				return nil, err
			}
		}
		if choice.HoldId != "" {
			if c := session.Value.claims[slotID]; c.holdID != hold || c.pathwayID != streamID(req.GetPathwayId()) || c.appointmentID != appointmentID {
				return nil, errNotHeld
			}
		} else if err := s.hold(ctx, req, session.Value, HoldSlot{SlotID: slotID, AppointmentID: appointmentID, PathwayID: streamID(req.GetPathwayId()), HoldID: hold, Now: s.clock()}, sessionID); err != nil {
			return nil, err
		}
	}
	out, err := s.do(ctx, req, appointmentID, decided)
	if err != nil {
		// A hold that was made before is the caller's to use again, until it lapses.
		if choice.HoldId == "" && fault.IsAnswer(err) && fault.CodeOf(err) != "command.id_reused" {
			// The slot would lapse by itself. That it cannot be given back now is no
			// reason to hide the answer.
			_ = s.settle(ctx, req.GetCommand(), sessionID, slotID, claim{holdID: hold, appointmentID: appointmentID, pathwayID: streamID(req.GetPathwayId())}, "hold_lapsed")
		}
		return nil, err
	}
	_, err = s.sessions.Do(ctx, sessionID, part(req, "take"), TakeSlot{slotID, hold}.Decide)
	return out, err
}

// hold keeps a slot; a lapsed hold in its way is settled first.
func (s *service) hold(ctx context.Context, req onPathway, session Session, c HoldSlot, sessionID string) error {
	if s.unheld {
		return nil
	}
	if other, claimed := session.claims[c.SlotID]; claimed && !other.taken && other.holdID != c.HoldID && !c.Now.Before(other.until) {
		if err := s.settle(ctx, req.GetCommand(), sessionID, c.SlotID, other, "hold_lapsed"); err != nil {
			return err
		}
	}
	_, err := s.sessions.Do(ctx, sessionID, part(req, "hold"), c.Decide)
	return err
}

// settleLapsed ends the holds of a session that were not followed up.
func (s *service) settleLapsed(ctx context.Context, first *metav1.Command, sessionID string) error {
	state, err := s.loadSession(ctx, sessionID)
	if err != nil {
		return err
	}
	for _, slot := range state.Value.lapsed(s.clock()) {
		if err := s.settle(ctx, first, sessionID, slot, state.Value.claims[slot], "hold_lapsed"); err != nil {
			return err
		}
	}
	return nil
}

// settle ends a hold: taken where its booking was made, else abandoned in the
// pathway's stream and only then released. The slot is never free while the
// booking can still be made.
func (s *service) settle(ctx context.Context, first *metav1.Command, sessionID, slotID string, c claim, cause string) error {
	req := &pb.RunSessionTimersRequest{Command: step(first, "settle/"+c.holdID), SessionId: sessionID}
	if !s.unfenced {
		abandon := AbandonBooking{AppointmentID: c.appointmentID, SessionID: sessionID, SlotID: slotID, HoldID: c.holdID}
		state, err := s.appointments.Do(ctx, c.pathwayID, req, abandon.Decide)
		if err != nil {
			return err
		}
		if state.Value.standing(c.holdID) {
			_, err = s.sessions.Do(ctx, sessionID, req, TakeSlot{slotID, c.holdID}.Decide)
			return err
		}
	}
	_, err := s.sessions.Do(ctx, sessionID, req, ReleaseSlot{slotID, c.holdID, cause}.Decide)
	return err
}

// release gives back the slot of a booking that is over.
func (s *service) release(ctx context.Context, req es.Request, b *pb.Booking, cause string) error {
	if b.GetSessionId() == "" {
		return nil
	}
	_, err := s.sessions.Do(ctx, b.SessionId, part(req, "release/"+b.HoldId), ReleaseSlot{b.SlotId, b.HoldId, cause}.Decide)
	return err
}

// displace cancels or abandons what had a slot of a suspended session, and frees
// the slot.
func (s *service) displace(ctx context.Context, req es.Request, sessionID string, d *pb.Displaced) error {
	session, err := s.loadSession(ctx, sessionID)
	if err != nil {
		return err
	}
	r := part(req, "displace/"+d.HoldId)
	c := Displace{Displaced: d, SessionID: sessionID, Organisation: session.Value.opened.Organisation, Reason: session.Value.reason, CommandID: commandID(r), Today: s.today()}
	state, err := s.appointments.Do(ctx, d.PathwayId, r, c.Decide)
	if err != nil || state.Value.standing(d.HoldId) {
		return err
	}
	_, err = s.sessions.Do(ctx, sessionID, part(r, "release"), ReleaseSlot{d.SlotId, d.HoldId, "cancelled"}.Decide)
	return err
}
