package pathway

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	pb "waymark/proto/waymark/pathway/v1"
	"waymark/services/kit/nhs"
)

// foldAppointment takes the events of "appointment-" streams: appointments,
// tasks to book one, and visits.
func foldAppointment(v *pb.Pathway, e event) bool {
	of := func(id, state string) *pb.Appointment {
		a := find(&v.Appointments, id, (*pb.Appointment).GetAppointmentId, func() *pb.Appointment { return &pb.Appointment{AppointmentId: id} })
		if state != "" {
			a.State = state
		}
		return a
	}
	task := func(id, state string) *pb.ToBeBooked {
		t := find(&v.ToBeBooked, id, (*pb.ToBeBooked).GetTaskId, func() *pb.ToBeBooked { return &pb.ToBeBooked{TaskId: id} })
		if state != "" {
			t.State = state
		}
		return t
	}
	visit := func(id, state string) *pb.Visit {
		w := find(&v.Visits, id, (*pb.Visit).GetVisitId, func() *pb.Visit { return &pb.Visit{VisitId: id} })
		if state != "" {
			w.State = state
		}
		return w
	}
	switch m := e.message.(type) {
	case *appointmentv1.AppointmentRequested:
		a := of(m.AppointmentId, "requested")
		a.ReferralId, a.TreatmentFunction, a.WantedBy, a.RequestedAt = m.ReferralId, m.TreatmentFunction, m.WantedBy, e.at()
	case *appointmentv1.AppointmentBooked:
		a := of(m.AppointmentId, "booked")
		a.Booking, a.BookedAt, a.PatientRequest = m.Booking, e.at(), appointmentv1.PatientRequest_PATIENT_REQUEST_UNSPECIFIED
		if m.ReferralId != "" {
			a.ReferralId = m.ReferralId
		}
		if f := m.Booking.GetTreatmentFunction(); f != "" {
			a.TreatmentFunction = f
		}
	case *appointmentv1.AppointmentRescheduled:
		a := of(m.AppointmentId, "booked")
		a.Booking, a.PatientRequest = m.To, appointmentv1.PatientRequest_PATIENT_REQUEST_UNSPECIFIED
		a.Rescheduled++
	case *appointmentv1.AppointmentAmended:
		if m.Booking != nil {
			of(m.AppointmentId, "").Booking = m.Booking
		}
	case *appointmentv1.AppointmentCancelled:
		a := of(m.AppointmentId, "cancelled")
		a.CancelledBy, a.AttendanceCode, a.EndedOn = m.By, m.AttendanceCode, civil(e.at())
	case *appointmentv1.PatientArrived:
		of(m.AppointmentId, "arrived")
	case *appointmentv1.AppointmentFulfilled:
		a := of(m.AppointmentId, "fulfilled")
		a.AttendanceCode, a.EndedOn = m.AttendanceCode, m.On
	case *appointmentv1.PatientDidNotAttend:
		a := of(m.AppointmentId, "did_not_attend")
		a.AttendanceCode, a.EndedOn = m.AttendanceCode, m.On
	case *appointmentv1.AppointmentEnteredInError:
		of(m.AppointmentId, "in_error")
	case *appointmentv1.ChangeRequestedByPatient:
		of(m.AppointmentId, "").PatientRequest = m.Request
	case *appointmentv1.NeedsNotMet:
		of(m.AppointmentId, "").NeedsNotMet = true
	case *appointmentv1.BookingAbandoned, *appointmentv1.OverlapFound, *appointmentv1.SeriesStopped, *appointmentv1.AttendanceConfirmed, *appointmentv1.ClockAdjustmentProposed, *appointmentv1.HolderToldOfMissedAppointment:

	case *appointmentv1.ToBeBookedTaskRaised:
		t := task(m.TaskId, "open")
		t.Cause, t.CauseId, t.Due, t.TreatmentFunction, t.RaisedAt = m.Cause, m.CauseId, m.Due, m.TreatmentFunction, e.at()
	case *appointmentv1.ToBeBookedTaskBooked:
		t := task(m.TaskId, "booked")
		t.AppointmentId, t.ClosedOn = m.AppointmentId, civil(e.at())
	case *appointmentv1.ToBeBookedTaskEnded:
		t := task(m.TaskId, "ended")
		t.EndReasonCode, t.ClosedOn = m.ReasonCode, civil(e.at())
	case *appointmentv1.ToBeBookedTaskOverdue:
		task(m.TaskId, "").Overdue = true

	case *appointmentv1.PreAdmissionRecorded:
		w := visit(m.VisitId, "expected")
		w.Organisation, w.At = m.Organisation, m.Expected
	case *appointmentv1.AdmissionRecorded:
		w := visit(m.VisitId, "admitted")
		w.Organisation, w.At, w.AdmissionMethod, w.PlannedTreatment = m.Organisation, m.At, m.AdmissionMethod, m.PlannedTreatment
	case *appointmentv1.AttendanceStarted:
		w := visit(m.VisitId, "attending")
		w.Organisation, w.At = m.Organisation, m.At
	case *appointmentv1.DischargeRecorded:
		visit(m.VisitId, "discharged").DischargedAt = m.At
	case *appointmentv1.VisitCorrected:
		if m.Applied {
			visit(m.VisitId, "").At = m.At
		}
	case *appointmentv1.VisitReversed:
		visit(m.VisitId, "reversed")
	default:
		return false
	}
	return true
}

// civil is the date of an instant in London.
func civil(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return nhs.DateOf(t.AsTime()).String()
}
