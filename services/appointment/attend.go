package appointment

import (
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// anyoneSeen reports whether the patient was ever seen on this pathway: only a
// missed first appointment adjusts a clock.
func (s Appointments) anyoneSeen() bool {
	return slices.ContainsFunc(s.appointments, func(a *pb.Appointment) bool { return a.Status == fulfilled })
}

// RecordArrival records that the patient is there.
type RecordArrival struct {
	*pb.RecordArrivalRequest
	Now time.Time
}

// Decide implements the decision.
func (c RecordArrival) Decide(s Appointments) ([]proto.Message, error) {
	a, err := s.at(c.AppointmentId, 0, booked)
	if err != nil {
		return nil, err
	}
	at := c.Now
	if c.At != "" {
		if at, err = Instant("at", c.At); err != nil {
			return nil, err
		}
	}
	if at.After(c.Now) {
		return nil, fault.Invalid("appointment.time.ahead", "at", "lies ahead")
	}
	return []proto.Message{&pb.PatientArrived{AppointmentId: a.AppointmentId, At: timestamppb.New(at)}}, nil
}

// RecordOutcome records that the patient was seen and what follows.
type RecordOutcome struct {
	*pb.RecordOutcomeRequest
	CommandID uuid.UUID
	Today     nhs.Date
}

// Decide implements the decision. A follow-up without an appointment that is
// booked is a task: it cannot be intended and not booked.
func (c RecordOutcome) Decide(s Appointments) ([]proto.Message, error) {
	a, err := s.at(c.AppointmentId, 0)
	if err != nil {
		return nil, err
	}
	if a.Status == noshow {
		return nil, fault.Refused("appointment.no_show.discharge", "the patient did not attend: one missed appointment has no outcome and discharges nobody")
	}
	if a, err = s.at(c.AppointmentId, 0, booked, arrived); err != nil {
		return nil, err
	}
	on, err := dayNotAhead("on", c.On, c.Today)
	if err != nil {
		return nil, err
	}
	event := &pb.AppointmentFulfilled{AppointmentId: a.AppointmentId, AttendanceCode: c.AttendanceCode, OutcomeCode: c.OutcomeCode, On: c.On}
	if c.NextAppointmentId != "" {
		next := s.Appointment(c.NextAppointmentId)
		if c.OutcomeCode != "2" || next == nil || next.Status != booked || next.AppointmentId == a.AppointmentId {
			return nil, fault.Refused("appointment.next", "the next appointment goes with outcome 2 and must be another one that is booked on this pathway")
		}
		event.NextAppointmentId = next.AppointmentId
	}
	events := []proto.Message{event}
	if c.OutcomeCode != "1" && event.NextAppointmentId == "" {
		events = append(events, raise(c.CommandID, "outcome_without_next", a.AppointmentId, toBook(on), a.TreatmentFunction))
	}
	return events, nil
}

// RecordNoShow records a missed appointment with all that follows from it, in
// one append: a task to contact and rebook, what the referral service may take
// off the wait until first seen, and word to whoever is accountable.
type RecordNoShow struct {
	*pb.RecordNoShowRequest
	CommandID uuid.UUID
	Now       time.Time
}

// Decide implements the decision.
func (c RecordNoShow) Decide(s Appointments) ([]proto.Message, error) {
	if c.OutcomeCode == "1" {
		return nil, fault.Refused("appointment.no_show.discharge", "one missed appointment discharges nobody: send it without outcome 1; a person ends the task when no appointment is needed")
	}
	a, err := s.at(c.AppointmentId, 0, booked, arrived)
	if err != nil {
		return nil, err
	}
	if a.Status == arrived && c.AttendanceCode == "3" {
		return nil, fault.Refused("appointment.arrived", "the patient came: late and could not be seen is attendance 7")
	}
	if a.Booking.Start.AsTime().After(c.Now) {
		return nil, fault.Refused("appointment.not_begun", "the appointment lies ahead: cancel it instead")
	}
	on, err := dayNotAhead("on", c.On, nhs.DateOf(c.Now))
	if err != nil {
		return nil, err
	}
	events := []proto.Message{
		&pb.PatientDidNotAttend{AppointmentId: a.AppointmentId, AttendanceCode: c.AttendanceCode, On: c.On, OutcomeCode: c.OutcomeCode},
		raise(c.CommandID, "did_not_attend", a.AppointmentId, due("dna_contact", on), a.TreatmentFunction),
	}
	if !s.anyoneSeen() {
		events = append(events, &pb.ClockAdjustmentProposed{AppointmentId: a.AppointmentId, AttendanceCode: c.AttendanceCode, MissedOn: c.On})
	}
	return append(events, &pb.HolderToldOfMissedAppointment{AppointmentId: a.AppointmentId}), nil
}

// EnterInError strikes an appointment that should not be there. What it was
// booked for is to be booked again.
type EnterInError struct {
	*pb.EnterInErrorRequest
	CommandID uuid.UUID
	Today     nhs.Date
}

// Decide implements the decision.
func (c EnterInError) Decide(s Appointments) ([]proto.Message, error) {
	a, err := s.at(c.AppointmentId, 0, proposed, booked, arrived, fulfilled, cancelled, noshow)
	if err != nil {
		return nil, err
	}
	events := []proto.Message{&pb.AppointmentEnteredInError{AppointmentId: a.AppointmentId, WrongEventId: c.WrongEventId}}
	answered := slices.ContainsFunc(s.tasks, func(t *pb.Task) bool { return t.State == taskBooked && t.AppointmentId == a.AppointmentId })
	next := slices.ContainsFunc(s.appointments, func(o *pb.Appointment) bool {
		return o.Status == fulfilled && o.NextAppointmentId == a.AppointmentId
	})
	if (answered || next) && a.Status != cancelled && a.Status != noshow { // those have their task
		events = append(events, raise(c.CommandID, "entered_in_error", a.AppointmentId, toBook(c.Today), a.TreatmentFunction))
	}
	return events, nil
}

// ConfirmAttendance records that the patient means to come.
type ConfirmAttendance struct{ *pb.ConfirmAttendanceRequest }

// Decide implements the decision.
func (c ConfirmAttendance) Decide(s Appointments) ([]proto.Message, error) {
	a, err := s.at(c.AppointmentId, 0, booked)
	if err != nil {
		return nil, err
	}
	return []proto.Message{&pb.AttendanceConfirmed{AppointmentId: a.AppointmentId}}, nil
}

// RequestChange records what the patient asked for. The booking stands.
type RequestChange struct{ *pb.RequestChangeRequest }

// Decide implements the decision.
func (c RequestChange) Decide(s Appointments) ([]proto.Message, error) {
	a, err := s.at(c.AppointmentId, 0, booked)
	if err != nil {
		return nil, err
	}
	return []proto.Message{&pb.ChangeRequestedByPatient{AppointmentId: a.AppointmentId, Request: c.Request}}, nil
}

func dayNotAhead(field, text string, today nhs.Date) (nhs.Date, error) {
	d, err := nhs.ParseDate(text)
	if err != nil {
		return d, fault.Invalid("appointment.time.invalid", field, "must be a date that exists, as YYYY-MM-DD")
	}
	if d.After(today) {
		return d, fault.Invalid("appointment.time.ahead", field, "lies ahead")
	}
	return d, nil
}

// due is the last day of one of the platform's own timers. Before the first rule
// came into force there is nothing to look up, and it is due at once.
func due(timer string, from nhs.Date) nhs.Date {
	d, _, err := waitingtimes.Due(timer, from)
	if err != nil {
		return from
	}
	return d
}

// toBook is by when a follow-up that is planned from a day on must be booked.
func toBook(from nhs.Date) nhs.Date { return due("to_book", from) }
