package appointment

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// Appointments is the fold of an appointment stream: what is and was planned for
// the patient of one pathway, oldest first. Messages in it are shared and never
// changed.
type Appointments struct {
	appointments []*pb.Appointment
	tasks        []*pb.Task
	visits       []*pb.Visit
	abandoned    map[string]bool // hold ids under which nothing may be booked any more
}

// Short names of the contract's statuses.
const (
	proposed       = pb.AppointmentStatus_APPOINTMENT_STATUS_PROPOSED
	booked         = pb.AppointmentStatus_APPOINTMENT_STATUS_BOOKED
	arrived        = pb.AppointmentStatus_APPOINTMENT_STATUS_ARRIVED
	fulfilled      = pb.AppointmentStatus_APPOINTMENT_STATUS_FULFILLED
	cancelled      = pb.AppointmentStatus_APPOINTMENT_STATUS_CANCELLED
	noshow         = pb.AppointmentStatus_APPOINTMENT_STATUS_NOSHOW
	enteredInError = pb.AppointmentStatus_APPOINTMENT_STATUS_ENTERED_IN_ERROR

	taskOpen   = pb.TaskState_TASK_STATE_OPEN
	taskBooked = pb.TaskState_TASK_STATE_BOOKED
	taskEnded  = pb.TaskState_TASK_STATE_ENDED
)

// appointmentDecider folds streams "appointment-<pathway id>".
func appointmentDecider() es.Decider[Appointments] {
	return es.Decider[Appointments]{Category: "appointment", Evolve: EvolveAppointments}
}

// EvolveAppointments applies one event.
func EvolveAppointments(s Appointments, event proto.Message) Appointments {
	switch e := event.(type) {
	case *pb.AppointmentRequested:
		s.appointments = append(slices.Clip(s.appointments), &pb.Appointment{AppointmentId: e.AppointmentId, Status: proposed, Version: 1,
			ReferralId: e.ReferralId, TreatmentFunction: e.TreatmentFunction, Purpose: e.Purpose, CancerPriorityReason: e.CancerPriorityReason, Needs: e.Needs, WantedBy: e.WantedBy})
	case *pb.AppointmentBooked:
		if s.Appointment(e.AppointmentId) == nil {
			s.appointments = append(slices.Clip(s.appointments), &pb.Appointment{AppointmentId: e.AppointmentId})
		}
		return s.change(e, func(a *pb.Appointment) {
			a.Status, a.Booking, a.ReferralId, a.Purpose, a.Needs = booked, e.Booking, e.ReferralId, e.Purpose, e.Needs
			a.PasSystem, a.PasId, a.PortalId, a.SeriesId = e.PasSystem, e.PasId, e.PortalId, e.SeriesId
			a.CancerPriorityReason, a.OverlapOverrideReason = e.CancerPriorityReason, e.OverlapOverrideReason
			if tf := e.Booking.GetTreatmentFunction(); tf != "" {
				a.TreatmentFunction = tf
			}
		})
	case *pb.AppointmentRescheduled:
		return s.change(e, func(a *pb.Appointment) {
			a.Earlier = append(a.Earlier, e.From)
			a.Booking, a.RequestStatus, a.OverlapsWith = e.To, pb.RequestStatus_REQUEST_STATUS_UNSPECIFIED, nil
			a.OverlapOverrideReason = e.OverlapOverrideReason // that of another time says nothing of this
		})
	case *pb.BookingAbandoned:
		s.abandoned = maps.Clone(s.abandoned)
		if s.abandoned == nil {
			s.abandoned = map[string]bool{}
		}
		s.abandoned[e.HoldId] = true
	case *pb.AppointmentAmended:
		return s.change(e, func(a *pb.Appointment) { a.Booking, a.Purpose, a.Needs = e.Booking, e.Purpose, e.Needs })
	case *pb.AppointmentCancelled:
		return s.change(e, func(a *pb.Appointment) {
			a.Status, a.CancelledBy, a.CancelReason, a.AttendanceCode, a.Teller = cancelled, e.By, e.Reason, e.AttendanceCode, e.Teller
			a.RequestStatus = pb.RequestStatus_REQUEST_STATUS_UNSPECIFIED
		})
	case *pb.PatientArrived:
		return s.change(e, func(a *pb.Appointment) { a.Status, a.ArrivedAt = arrived, e.At })
	case *pb.AppointmentFulfilled:
		return s.change(e, func(a *pb.Appointment) {
			a.Status, a.AttendanceCode, a.OutcomeCode, a.On, a.NextAppointmentId = fulfilled, e.AttendanceCode, e.OutcomeCode, e.On, e.NextAppointmentId
		})
	case *pb.PatientDidNotAttend:
		return s.change(e, func(a *pb.Appointment) {
			a.Status, a.AttendanceCode, a.OutcomeCode, a.On = noshow, e.AttendanceCode, e.OutcomeCode, e.On
		})
	case *pb.AppointmentEnteredInError:
		return s.change(e, func(a *pb.Appointment) { a.Status = enteredInError })
	case *pb.AttendanceConfirmed:
		return s.change(e, func(a *pb.Appointment) { a.RequestStatus = pb.RequestStatus_REQUEST_STATUS_CONFIRMED_ATTENDANCE })
	case *pb.ChangeRequestedByPatient:
		return s.change(e, func(a *pb.Appointment) { a.RequestStatus = pending[e.Request] })
	case *pb.NeedsNotMet:
		return s.change(e, func(a *pb.Appointment) { a.UnmetNeeds = e.Needs })
	case *pb.OverlapFound:
		return s.change(e, func(a *pb.Appointment) { a.OverlapsWith = append(a.OverlapsWith, e.OtherAppointmentId) })
	case *pb.SeriesStopped:
		// Each of its appointments has a cancellation of its own.
	case *pb.ClockAdjustmentProposed, *pb.HolderToldOfMissedAppointment:
		// For others: the referral service, and the list of whoever is accountable.
	default:
		if next, ok := evolveTask(s, event); ok {
			return next
		}
		if next, ok := evolveVisit(s, event); ok {
			return next
		}
		panic(es.Unhandled(event))
	}
	return s
}

// pending is how the NHS App names a request of the patient.
var pending = map[pb.PatientRequest]pb.RequestStatus{
	pb.PatientRequest_PATIENT_REQUEST_CHANGE:       pb.RequestStatus_REQUEST_STATUS_PENDING_CHANGE,
	pb.PatientRequest_PATIENT_REQUEST_RESCHEDULE:   pb.RequestStatus_REQUEST_STATUS_PENDING_RESCHEDULE,
	pb.PatientRequest_PATIENT_REQUEST_CANCELLATION: pb.RequestStatus_REQUEST_STATUS_PENDING_CANCELLATION,
}

// change replaces the appointment that e names by a changed copy.
func (s Appointments) change(e interface{ GetAppointmentId() string }, edit func(*pb.Appointment)) Appointments {
	i := slices.IndexFunc(s.appointments, func(a *pb.Appointment) bool { return a.AppointmentId == e.GetAppointmentId() })
	if i < 0 {
		return s
	}
	a := proto.CloneOf(s.appointments[i])
	edit(a)
	a.Version++
	s.appointments = slices.Clone(s.appointments)
	s.appointments[i] = a
	return s
}

// Appointment returns one appointment, nil when there is none with the id.
func (s Appointments) Appointment(id string) *pb.Appointment {
	id = streamID(id)
	if i := slices.IndexFunc(s.appointments, func(a *pb.Appointment) bool { return a.AppointmentId == id }); i >= 0 {
		return s.appointments[i]
	}
	return nil
}

// Message is an appointment as replies show it.
func Message(a *pb.Appointment, pathwayID string) *pb.Appointment {
	if a == nil {
		return nil
	}
	m := proto.CloneOf(a)
	m.PathwayId = pathwayID
	return m
}

// upcoming reports whether the patient is expected.
func upcoming(a *pb.Appointment) bool { return a.GetStatus() == booked || a.GetStatus() == arrived }

// standing reports whether the claim of a slot is an appointment's.
func (s Appointments) standing(holdID string) bool {
	return holdID != "" && slices.ContainsFunc(s.appointments, func(a *pb.Appointment) bool {
		return a.Booking.GetHoldId() == holdID && a.Status != cancelled && a.Status != enteredInError
	})
}

// spent reports whether the claim was an appointment's and is no longer.
func (s Appointments) spent(holdID string) bool {
	return holdID != "" && !s.standing(holdID) && slices.ContainsFunc(s.appointments, func(a *pb.Appointment) bool {
		return a.Booking.GetHoldId() == holdID || slices.ContainsFunc(a.Earlier, func(b *pb.Booking) bool { return b.HoldId == holdID })
	})
}

// overlaps returns another appointment of the patient at the time of b.
func (s Appointments) overlaps(id string, b *pb.Booking) *pb.Appointment {
	for _, a := range s.appointments {
		if a.AppointmentId != id && upcoming(a) && overlap(a.Booking, b) {
			return a
		}
	}
	return nil
}

// overlap reports whether nobody can be at both.
func overlap(a, b *pb.Booking) bool {
	return a.Start.AsTime().Before(b.End.AsTime()) && b.Start.AsTime().Before(a.End.AsTime())
}

// overlapping reports whether a patient is expected at both and nobody said why.
func overlapping(a, b *pb.Appointment) bool {
	return upcoming(a) && upcoming(b) && a.OverlapOverrideReason == "" && b.OverlapOverrideReason == "" && overlap(a.Booking, b.Booking)
}

// clashes reports whether the patient is expected on another pathway at the time of b.
func clashes(elsewhere []*pb.Appointment, b *pb.Booking) bool {
	return slices.ContainsFunc(elsewhere, func(a *pb.Appointment) bool { return overlap(a.Booking, b) })
}

// at returns an appointment in one of the states, with the version that was seen.
func (s Appointments) at(id string, seen int64, states ...pb.AppointmentStatus) (*pb.Appointment, error) {
	a := s.Appointment(id)
	switch {
	case a == nil:
		return nil, errNoAppointment
	case seen != 0 && seen != a.Version:
		return nil, fault.Refused("appointment.stale", "the appointment has changed since it was read: read it again")
	case len(states) > 0 && !slices.Contains(states, a.Status):
		return nil, fault.Refused("appointment.state", "the appointment is in a state that does not allow this: read it again")
	}
	return a, nil
}

var (
	errNoAppointment = fault.NotFound("appointment.not_found", "there is no such appointment on this pathway")
	errLapsed        = fault.Refused("appointment.hold.lapsed", "the slot was held for this request and given up: choose a slot and send a new request")
	errNotHeld       = fault.Refused("appointment.hold.not_held", "the slot is not held for this appointment: it lapsed, or it is another's. Choose a slot and hold it, or book without hold_id")
	errOverlap       = fault.Refused("appointment.overlap", "the patient has another appointment at that time, on this pathway or another: choose another, or say why in overlap_override_reason")
)

// RequestAppointment records that an appointment is wanted.
type RequestAppointment struct {
	*pb.RequestAppointmentRequest
	CommandID uuid.UUID
	Today     nhs.Date
}

// Decide implements the decision.
func (c RequestAppointment) Decide(s Appointments) ([]proto.Message, error) {
	id := appointmentID(c.CommandID)
	if s.Appointment(id) != nil {
		return nil, nil
	}
	due, err := nhs.ParseDate(c.WantedBy)
	if c.WantedBy == "" || err != nil || due.After(toBook(c.Today)) {
		due = toBook(c.Today)
	}
	return []proto.Message{
		&pb.AppointmentRequested{AppointmentId: id, ReferralId: streamID(c.ReferralId), TreatmentFunction: c.TreatmentFunction, Purpose: c.Purpose,
			CancerPriorityReason: c.CancerPriorityReason, Needs: c.Needs, WantedBy: c.WantedBy},
		raise(c.CommandID, "requested", id, due, c.TreatmentFunction),
	}, nil
}

// BookAppointment books what its claim holds, or what another system booked.
type BookAppointment struct {
	*pb.BookAppointmentRequest
	CommandID      uuid.UUID
	Booking        *pb.Booking // under the hold id of the command, none for another system's
	PriorityReason string      // of the session
	Today          nhs.Date
	Elsewhere      []*pb.Appointment // that the patient has on other pathways
	PatientNeeds   []string          // of the person's record
}

// id of the appointment that the request is about.
func (c BookAppointment) id() string {
	if hold := c.Place.GetSlot().GetHoldId(); hold != "" && c.AppointmentId == "" {
		held, _ := uuid.Parse(hold)
		return appointmentID(held) // as HoldSlot has it
	}
	return or(streamID(c.AppointmentId), appointmentID(c.CommandID))
}

// Decide implements the decision.
func (c BookAppointment) Decide(s Appointments) ([]proto.Message, error) {
	hold, id := c.Booking.HoldId, c.id()
	a := s.Appointment(id)
	switch {
	case s.abandoned[hold]:
		return nil, errLapsed
	case s.standing(hold), s.spent(hold), c.AppointmentId == "" && a != nil:
		return nil, nil // a repeat from long ago
	case c.AppointmentId != "" && a == nil:
		return nil, errNoAppointment
	case a != nil && a.Status != proposed:
		return nil, fault.Refused("appointment.state", "only a requested appointment can be booked: reschedule this one, or book another")
	}
	if c.PasId != "" && slices.ContainsFunc(s.appointments, func(o *pb.Appointment) bool {
		return o.PasId == c.PasId && o.PasSystem == c.PasSystem && o.Status != enteredInError
	}) {
		return nil, fault.Exists("appointment.pas.exists", "the booking system's appointment is recorded already: reschedule or amend it")
	}
	if c.OverlapOverrideReason == "" && (s.overlaps(id, c.Booking) != nil || clashes(c.Elsewhere, c.Booking)) {
		return nil, errOverlap
	}
	var tasks []*pb.Task
	if c.TaskId != "" {
		t, err := s.openTask(c.TaskId)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, t)
	}
	for _, t := range s.tasks {
		if a != nil && t.State == taskOpen && t.CauseId == id && t.TaskId != streamID(c.TaskId) {
			tasks = append(tasks, t)
		}
	}
	event := &pb.AppointmentBooked{AppointmentId: id, Booking: c.Booking, ReferralId: or(streamID(c.ReferralId), a.GetReferralId()), Purpose: or(c.Purpose, a.GetPurpose()),
		PasSystem: c.PasSystem, PasId: c.PasId, PortalId: c.PortalId, SeriesId: c.SeriesId, Needs: union(union(a.GetNeeds(), c.Needs), c.PatientNeeds),
		CancerPriorityReason: or(c.CancerPriorityReason, or(a.GetCancerPriorityReason(), c.PriorityReason)), OverlapOverrideReason: c.OverlapOverrideReason}
	events := []proto.Message{event}
	if len(c.UnmetNeeds) > 0 {
		events = append(events, &pb.NeedsNotMet{AppointmentId: id, Needs: c.UnmetNeeds})
	}
	for _, t := range tasks {
		events = append(events, &pb.ToBeBookedTaskBooked{TaskId: t.TaskId, AppointmentId: id})
		if missed := s.Appointment(t.CauseId); missed.GetStatus() == noshow && !s.anyoneSeen() {
			events = append(events, &pb.ClockAdjustmentProposed{AppointmentId: missed.AppointmentId, AttendanceCode: missed.AttendanceCode, MissedOn: missed.On, RebookedOn: c.Today.String()})
		}
	}
	return events, nil
}

// RescheduleAppointment moves a booking to what its claim holds.
type RescheduleAppointment struct {
	*pb.RescheduleAppointmentRequest
	Booking   *pb.Booking
	Elsewhere []*pb.Appointment // that the patient has on other pathways
}

// Decide implements the decision.
func (c RescheduleAppointment) Decide(s Appointments) ([]proto.Message, error) {
	hold := c.Booking.HoldId
	switch {
	case s.abandoned[hold]:
		return nil, errLapsed
	case s.standing(hold), s.spent(hold):
		return nil, nil // a repeat from long ago
	}
	a, err := s.at(c.AppointmentId, c.SeenVersion, booked)
	if err != nil {
		return nil, err
	}
	if c.OverlapOverrideReason == "" && (s.overlaps(a.AppointmentId, c.Booking) != nil || clashes(c.Elsewhere, c.Booking)) {
		return nil, errOverlap
	}
	events := []proto.Message{&pb.AppointmentRescheduled{AppointmentId: a.AppointmentId, From: a.Booking, To: c.Booking, Reason: c.Reason, OverlapOverrideReason: c.OverlapOverrideReason}}
	for _, t := range s.open() {
		if t.Cause == "overlap" && t.CauseId == a.AppointmentId {
			events = append(events, &pb.ToBeBookedTaskBooked{TaskId: t.TaskId, AppointmentId: a.AppointmentId})
		}
	}
	return events, nil
}

// NoteOverlap records that the patient is expected on another pathway at the time
// of an appointment, with a task to move one of the two. Both stand until a
// person acts.
type NoteOverlap struct {
	AppointmentID string
	Other         *pb.Appointment
	CommandID     uuid.UUID
	Today         nhs.Date
}

// Decide implements the decision.
func (c NoteOverlap) Decide(s Appointments) ([]proto.Message, error) {
	a := s.Appointment(c.AppointmentID)
	if a == nil || !overlapping(a, c.Other) || slices.Contains(a.OverlapsWith, c.Other.AppointmentId) {
		return nil, nil
	}
	events := []proto.Message{&pb.OverlapFound{AppointmentId: a.AppointmentId, OtherPathwayId: c.Other.PathwayId, OtherAppointmentId: c.Other.AppointmentId}}
	if !s.awaits("overlap", a.AppointmentId) {
		events = append(events, raise(c.CommandID, "overlap", a.AppointmentId, c.Today, a.TreatmentFunction))
	}
	return events, nil
}

// StopSeries cancels what is still to come of a series.
type StopSeries struct {
	*pb.StopSeriesRequest
	CommandID uuid.UUID
	Now       time.Time
}

// stopped lists the appointments that a decision cancels, or has cancelled.
func (c StopSeries) stopped(s Appointments, from time.Time) (all []*pb.Appointment) {
	for _, a := range s.appointments {
		if a.SeriesId == c.SeriesId && a.Status == booked && !a.Booking.Start.AsTime().Before(from) {
			all = append(all, a)
		}
	}
	return all
}

// Decide implements the decision.
func (c StopSeries) Decide(s Appointments) ([]proto.Message, error) {
	from := c.Now
	if c.From != "" {
		var err error
		if from, err = Instant("from", c.From); err != nil {
			return nil, err
		}
	}
	all := c.stopped(s, from)
	if len(all) == 0 {
		return nil, fault.NotFound("appointment.series.not_found", "nothing that is still to come is booked under this series")
	}
	stop := &pb.SeriesStopped{SeriesId: c.SeriesId, By: c.By, Reason: c.Reason, From: timestamppb.New(from)}
	events := []proto.Message{stop}
	for _, a := range all {
		stop.AppointmentIds = append(stop.AppointmentIds, a.AppointmentId)
		events = append(events, cancellation(a, c.By, c.Reason, or(c.Teller, c.Command.GetActor().GetOrganisation())))
	}
	return append(events, raise(c.CommandID, "series_stopped", c.SeriesId, toBook(nhs.DateOf(c.Now)), all[0].TreatmentFunction)), nil
}

// cancellation says who cancelled, in the codes of the NHS too.
func cancellation(a *pb.Appointment, by pb.CancelledBy, reason, teller string) *pb.AppointmentCancelled {
	event := &pb.AppointmentCancelled{AppointmentId: a.AppointmentId, By: by, Reason: reason, AttendanceCode: "4", Teller: teller}
	if by == pb.CancelledBy_CANCELLED_BY_PATIENT {
		event.AttendanceCode = "2"
	}
	return event
}

// AbandonBooking forbids what was begun under a claim, so that its slot can be
// given to somebody else. A booking that was made stays.
type AbandonBooking struct{ AppointmentID, SessionID, SlotID, HoldID string }

// Decide implements the decision.
func (c AbandonBooking) Decide(s Appointments) ([]proto.Message, error) {
	if s.standing(c.HoldID) || s.spent(c.HoldID) || s.abandoned[c.HoldID] {
		return nil, nil
	}
	return []proto.Message{&pb.BookingAbandoned{AppointmentId: c.AppointmentID, SessionId: c.SessionID, SlotId: c.SlotID, HoldId: c.HoldID}}, nil
}

// AmendAppointment changes where and for what.
type AmendAppointment struct{ *pb.AmendAppointmentRequest }

// Decide implements the decision.
func (c AmendAppointment) Decide(s Appointments) ([]proto.Message, error) {
	a, err := s.at(c.AppointmentId, c.SeenVersion, booked)
	if err != nil {
		return nil, err
	}
	b := proto.CloneOf(a.Booking)
	if c.Medium != pb.Medium_MEDIUM_UNSPECIFIED {
		b.Medium = c.Medium
	}
	b.Site, b.Room, b.PractitionerRole = or(c.Site, b.Site), or(c.Room, b.Room), or(c.PractitionerRole, b.PractitionerRole)
	return []proto.Message{&pb.AppointmentAmended{AppointmentId: a.AppointmentId, Booking: b, Purpose: or(c.Purpose, a.Purpose), Needs: union(a.Needs, c.Needs)}}, nil
}

// CancelAppointment cancels and sees to it that the patient is planned anew.
type CancelAppointment struct {
	*pb.CancelAppointmentRequest
	CommandID uuid.UUID
	Today     nhs.Date
}

// Decide implements the decision.
func (c CancelAppointment) Decide(s Appointments) ([]proto.Message, error) {
	a, err := s.at(c.AppointmentId, c.SeenVersion, proposed, booked)
	if err != nil {
		return nil, err
	}
	events := []proto.Message{cancellation(a, c.By, c.Reason, or(c.Teller, c.Command.GetActor().GetOrganisation()))}
	if a.Status == booked && !s.awaits("overlap", a.AppointmentId) { // that task stands for what follows
		events = append(events, raise(c.CommandID, "cancelled", a.AppointmentId, toBook(c.Today), a.TreatmentFunction))
	}
	return events, nil // the task of one that was only requested is still open
}

// Displace cancels the appointment that lost its slot to a suspension, or
// forbids the booking that was under way. Nothing when somebody moved it first.
type Displace struct {
	*pb.Displaced
	SessionID, Organisation, Reason string
	CommandID                       uuid.UUID
	Today                           nhs.Date
}

// Decide implements the decision.
func (c Displace) Decide(s Appointments) ([]proto.Message, error) {
	if !s.standing(c.HoldId) {
		return AbandonBooking{AppointmentID: c.AppointmentId, SessionID: c.SessionID, SlotID: c.SlotId, HoldID: c.HoldId}.Decide(s)
	}
	a := s.Appointment(c.AppointmentId)
	if a.GetStatus() != booked || a.Booking.HoldId != c.HoldId {
		return nil, nil
	}
	return []proto.Message{
		&pb.AppointmentCancelled{AppointmentId: a.AppointmentId, By: pb.CancelledBy_CANCELLED_BY_PROVIDER, Reason: c.Reason, AttendanceCode: "4", Teller: c.Organisation},
		raise(c.CommandID, "session_suspended", a.AppointmentId, toBook(c.Today), a.TreatmentFunction),
	}, nil
}

// appointmentID is the id of the appointment that a command makes.
func appointmentID(command uuid.UUID) string { return derived(command, "appointment") }

// union adds what is new.
func union(have, more []string) []string {
	out := slices.Clone(have)
	for _, m := range more {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}
