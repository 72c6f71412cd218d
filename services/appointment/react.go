package appointment

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	pb "waymark/proto/waymark/appointment/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/fault"
)

// react finishes what a crash left between two streams, and does what other
// services' events ask. A refusal is the end of it; any other error makes the bus
// deliver again.
func (s *service) react(ctx context.Context, e bus.Event) error {
	err := s.hear(ctx, e)
	if err != nil && !fault.IsAnswer(err) {
		return fmt.Errorf("appointment: on %s: %w", e.Message.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

func (s *service) hear(ctx context.Context, e bus.Event) error {
	switch m := e.Message.(type) {
	case *pb.AppointmentBooked:
		if err := s.take(ctx, e, m.Booking); err != nil && !fault.IsAnswer(err) {
			return err
		}
		return s.findOverlaps(ctx, asked(e, e.StreamID), e.StreamID)
	case *pb.AppointmentRescheduled:
		if err := s.findOverlaps(ctx, asked(e, e.StreamID), e.StreamID); err != nil {
			return err
		}
		if err := s.take(ctx, e, m.To); err != nil && !fault.IsAnswer(err) {
			return err
		}
		return s.release(ctx, asked(e, m.From.GetSessionId()), m.From, "rescheduled")
	case *pb.AppointmentCancelled:
		return s.releaseOf(ctx, e, m.AppointmentId, "cancelled")
	case *pb.AppointmentEnteredInError:
		return s.releaseOf(ctx, e, m.AppointmentId, "entered_in_error")
	case *pb.BookingAbandoned:
		return s.release(ctx, asked(e, m.SessionId), &pb.Booking{SessionId: m.SessionId, SlotId: m.SlotId, HoldId: m.HoldId}, "hold_lapsed")
	case *pb.SessionSuspended:
		for _, d := range m.Displaced {
			if err := s.displace(ctx, asked(e, e.StreamID), e.StreamID, d); err != nil && !fault.IsAnswer(err) {
				return err
			}
		}
	case *pb.ClockAdjustmentProposed:
		return s.propose(ctx, e, m)
	case *personv1.PersonsMerged:
		return s.eachPathway(ctx, e, m.SurvivingPersonId, func(pathway string) error {
			if err := s.findOverlaps(ctx, part(asked(e, pathway), pathway), pathway); err != nil {
				return err
			}
			return s.carryNeeds(ctx, e, pathway)
		})
	case *personv1.CommunicationNeedRecorded, *personv1.AdjustmentRecorded:
		return s.eachPathway(ctx, e, e.StreamID, func(pathway string) error { return s.carryNeeds(ctx, e, pathway) })
	case *planv1.ItemBecameDue:
		_, err := s.raiseTask(ctx, &pb.RaiseTaskRequest{Command: header(e), PathwayId: e.StreamID, Cause: "surveillance_due", CauseId: m.ItemId})
		return err
	}
	return nil
}

// eachPathway calls do for the pathways of a person, once the diary has the event.
func (s *service) eachPathway(ctx context.Context, e bus.Event, person string, do func(string) error) error {
	if s.diary == nil {
		return nil
	}
	if err := s.diary.Wait(ctx, e.Position); err != nil {
		return err
	}
	for _, pathway := range s.diary.pathwaysOf(person) {
		if err := do(pathway); err != nil {
			return err
		}
	}
	return nil
}

// carryNeeds adds what the patient needs to the appointments that lie ahead.
func (s *service) carryNeeds(ctx context.Context, e bus.Event, pathway string) error {
	needs := s.diary.needsOf(pathway)
	state, err := s.appointments.Load(ctx, pathway)
	if err != nil {
		return err
	}
	for _, a := range state.Value.appointments {
		if a.Status != booked || len(union(a.Needs, needs)) == len(a.Needs) {
			continue
		}
		req := part(&pb.AmendAppointmentRequest{Command: header(e), PathwayId: pathway, AppointmentId: a.AppointmentId, Needs: needs}, "needs/"+a.AppointmentId)
		if _, err := s.appointments.Do(ctx, pathway, req, AmendAppointment{req}.Decide); err != nil && !fault.IsAnswer(err) {
			return err
		}
	}
	return nil
}

// header is that of the command that an event asks for.
func header(e bus.Event) *metav1.Command {
	return &metav1.Command{
		CommandId:     uuid.NewSHA1(e.ID, []byte("appointment")).String(),
		Actor:         &metav1.Actor{User: "waymark/appointment", Organisation: e.Tenant},
		Tenant:        e.Tenant,
		CorrelationId: e.CorrelationID,
		CausationId:   e.ID.String(),
	}
}

// asked is the request by which an event has the slots of a session put right.
func asked(e bus.Event, sessionID string) *pb.RunSessionTimersRequest {
	return &pb.RunSessionTimersRequest{Command: header(e), SessionId: sessionID}
}

// take turns the hold of a booking into what it was for.
func (s *service) take(ctx context.Context, e bus.Event, b *pb.Booking) error {
	if b.GetSessionId() == "" {
		return nil
	}
	_, err := s.sessions.Do(ctx, b.SessionId, part(asked(e, b.SessionId), "take"), TakeSlot{b.SlotId, b.HoldId}.Decide)
	return err
}

// releaseOf gives back the slot of an appointment that is over.
func (s *service) releaseOf(ctx context.Context, e bus.Event, appointmentID, cause string) error {
	state, err := s.appointments.Load(ctx, e.StreamID)
	if err != nil {
		return err
	}
	b := state.Value.Appointment(appointmentID).GetBooking()
	if state.Value.standing(b.GetHoldId()) {
		return nil
	}
	return s.release(ctx, asked(e, b.GetSessionId()), b, cause)
}

// propose tells the referral service of a missed first appointment. Whether days
// come off the wait is decided there, by a person; no clock stops. Once the
// patient is booked again the proposal is repeated as an event, with the day.
func (s *service) propose(ctx context.Context, e bus.Event, m *pb.ClockAdjustmentProposed) error {
	if s.pathways == nil || m.RebookedOn != "" {
		return nil
	}
	_, err := s.pathways.RecordFirstAppointmentMissed(ctx, &referralv1.RecordFirstAppointmentMissedRequest{Command: header(e), PathwayId: e.StreamID,
		Facts: &referralv1.FirstAppointmentMissedFacts{On: m.MissedOn, Attendance: m.AttendanceCode}})
	return err
}
