package appointment

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/nhs"
)

// TestNoSilentEnd draws any commands in any order. After each, in words of its
// own: what follows an appointment is an appointment or a task; a task is closed
// by a booking or a person alone; a missed appointment discharges nobody; nobody
// is in two places without a reason.
func TestNoSilentEnd(t *testing.T) {
	t.Parallel()
	taken, refused := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		var s Appointments
		at, closed := now, map[string]bool{} // tasks that a person or a booking closed
		for i := range rapid.IntRange(5, 60).Draw(r, "commands") {
			at = at.Add(time.Duration(rapid.IntRange(0, 30).Draw(r, "hours")) * time.Hour)
			decide := draw(r, s, uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, i)), at)
			events, err := decide(s)
			if err != nil {
				refused++
				continue
			}
			taken++
			for _, e := range events {
				switch m := e.(type) {
				case *pb.ToBeBookedTaskBooked:
					closed[m.TaskId] = true
				case *pb.ToBeBookedTaskEnded:
					closed[m.TaskId] = true
				}
				s = EvolveAppointments(s, e)
			}
			mustHold(r, s, closed)
		}
	})
	if taken == 0 || refused == 0 {
		t.Errorf("%d taken, %d refused: the test looks at nothing", taken, refused)
	}
	t.Logf("%d commands taken, %d refused", taken, refused)
}

func draw(r *rapid.T, s Appointments, command uuid.UUID, at time.Time) func(Appointments) ([]proto.Message, error) {
	today := nhs.DateOf(at)
	appointment, task, next := id("none", 0), "", ""
	if len(s.appointments) > 0 {
		appointment = rapid.SampledFrom(s.appointments).Draw(r, "appointment").AppointmentId
		next = rapid.SampledFrom([]string{"", rapid.SampledFrom(s.appointments).Draw(r, "next").AppointmentId}).Draw(r, "named")
	}
	if len(s.tasks) > 0 {
		task = rapid.SampledFrom(s.tasks).Draw(r, "task").TaskId
	}
	start := at.Add(time.Duration(rapid.IntRange(-2, 40).Draw(r, "start")) * time.Hour)
	b := &pb.Booking{SessionId: id("session", 0), SlotId: id("slot", 0), HoldId: command.String(), Start: timestamppb.New(start), End: timestamppb.New(start.Add(time.Hour))}
	book := &pb.BookAppointmentRequest{Command: by(0), TaskId: rapid.SampledFrom([]string{"", task}).Draw(r, "answers")}
	if a := s.Appointment(appointment); a.GetStatus() == proposed {
		book.AppointmentId = a.AppointmentId
	}
	hold := s.Appointment(appointment).GetBooking().GetHoldId()
	code := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(r, "outcome")
	return rapid.SampledFrom([]func(Appointments) ([]proto.Message, error){
		RequestAppointment{&pb.RequestAppointmentRequest{}, command, today}.Decide,
		BookAppointment{BookAppointmentRequest: book, CommandID: command, Booking: b, Today: today}.Decide,
		BookAppointment{BookAppointmentRequest: book, CommandID: command, Booking: b, Today: today}.Decide,
		RescheduleAppointment{&pb.RescheduleAppointmentRequest{AppointmentId: appointment}, b, nil}.Decide,
		CancelAppointment{&pb.CancelAppointmentRequest{Command: by(0), AppointmentId: appointment, By: pb.CancelledBy(rapid.IntRange(1, 3).Draw(r, "by"))}, command, today}.Decide,
		RecordArrival{&pb.RecordArrivalRequest{AppointmentId: appointment}, at}.Decide,
		RecordOutcome{&pb.RecordOutcomeRequest{AppointmentId: appointment, AttendanceCode: "5", OutcomeCode: code, On: today.String(), NextAppointmentId: next}, command, today}.Decide,
		RecordNoShow{&pb.RecordNoShowRequest{AppointmentId: appointment, AttendanceCode: "3", OutcomeCode: code, On: today.String()}, command, at}.Decide,
		EnterInError{&pb.EnterInErrorRequest{AppointmentId: appointment}, command, today}.Decide,
		RaiseTask{&pb.RaiseTaskRequest{Cause: "surveillance_due", CauseId: "item"}, command, today}.Decide,
		EndTask{&pb.EndTaskRequest{Command: by(0), TaskId: task, ReasonCode: "not_needed"}}.Decide,
		RunTimers{today}.Decide,
		Displace{Displaced: &pb.Displaced{AppointmentId: appointment, HoldId: hold}, CommandID: command, Today: today}.Decide,
	}).Draw(r, "command")
}

func mustHold(r *rapid.T, s Appointments, closed map[string]bool) {
	followed := func(id string) bool {
		for _, t := range s.tasks {
			if t.CauseId == id {
				return true
			}
		}
		return false
	}
	for i, a := range s.appointments {
		if a.Status == noshow && a.OutcomeCode == "1" {
			r.Fatal("discharged for a missed appointment")
		}
		follow := a.Status == noshow || a.Status == cancelled || a.Status == proposed || a.Status == fulfilled && a.OutcomeCode != "1" && a.NextAppointmentId == ""
		if follow && !followed(a.AppointmentId) {
			r.Fatalf("nothing follows %v", a)
		}
		if a.Status == fulfilled && a.NextAppointmentId != "" {
			if n := s.Appointment(a.NextAppointmentId); (n.Status == cancelled || n.Status == enteredInError) && !followed(n.AppointmentId) {
				r.Fatalf("the next appointment is gone: %v", n)
			}
		}
		for _, o := range s.appointments[i+1:] {
			if upcoming(a) && upcoming(o) && a.Booking.Start.AsTime().Before(o.Booking.End.AsTime()) && o.Booking.Start.AsTime().Before(a.Booking.End.AsTime()) {
				r.Fatalf("in two places: %v and %v", a, o)
			}
			if a.Booking.GetHoldId() != "" && a.Booking.HoldId == o.Booking.GetHoldId() {
				r.Fatal("one claim, two appointments")
			}
		}
	}
	for _, t := range s.tasks {
		if (t.State != taskOpen) != closed[t.TaskId] {
			r.Fatalf("task closed by itself: %v", t)
		}
		if t.Due == "" {
			r.Fatalf("task without a day: %v", t)
		}
		if a := s.Appointment(t.AppointmentId); t.State == taskBooked && (a == nil || a.Status == enteredInError && !followed(a.AppointmentId)) {
			r.Fatalf("the booking that answered a task is gone: %v", t)
		}
	}
}
