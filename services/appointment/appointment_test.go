package appointment

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/appointment/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
	"waymark/services/kit/runtest"
)

// now is the clock of tests: a Monday.
var now = time.Date(2026, 6, 1, 9, 0, 0, 0, time.UTC)

// id returns a UUID of the test's own.
func id(what string, n int) string {
	return uuid.NewSHA1(uuid.NameSpaceDNS, fmt.Append(nil, what, n)).String()
}

// by is a command header of a person; each n is another command.
func by(n int) *metav1.Command {
	return &metav1.Command{CommandId: id("command", n), Actor: &metav1.Actor{User: "U1", RoleCode: "R0600", Organisation: "RJ1"}}
}

func slotAt(n int) *pb.NewSlot {
	start := now.Add(time.Duration(24*60+20*n) * time.Minute)
	return &pb.NewSlot{SlotId: id("slot", n), Start: start.Format(time.RFC3339), End: start.Add(20 * time.Minute).Format(time.RFC3339)}
}

// clinic is a request for a session with n slots from tomorrow on.
func clinic(command, session, slots int) *pb.OpenSessionRequest {
	r := &pb.OpenSessionRequest{Command: by(command), SessionId: id("session", session), Organisation: "RJ1", Site: "RJ121", TreatmentFunction: "800",
		Modality: "outpatient", Medium: pb.Medium_MEDIUM_FACE_TO_FACE, CancerPriorityReason: "cdc_cancer"}
	for i := range slots {
		r.Slots = append(r.Slots, slotAt(i))
	}
	return r
}

func inSlot(session, slot int) *pb.Place {
	return &pb.Place{Place: &pb.Place_Slot{Slot: &pb.SlotChoice{SessionId: id("session", session), SlotId: id("slot", slot)}}}
}

func elsewhere(start time.Time) *pb.Place {
	return &pb.Place{Place: &pb.Place_External{External: &pb.ExternalBooking{Start: start.Format(time.RFC3339), End: start.Add(30 * time.Minute).Format(time.RFC3339),
		Medium: pb.Medium_MEDIUM_TELEPHONE, Site: "RJ121", TreatmentFunction: "800"}}}
}

func booking(command, pathway, session, slot int) *pb.BookAppointmentRequest {
	return &pb.BookAppointmentRequest{Command: by(command), PathwayId: id("pathway", pathway), Place: inSlot(session, slot), Purpose: "first visit", Needs: []string{"interpreter"}}
}

// instance is a process of the service on a log: nothing cached from before.
func instance(log es.Log, at time.Time) *service {
	return newService(run.Deps{Log: log, Clock: func() time.Time { return at }, Key: runtest.Key})
}

func (s *service) front() *appointmentServer { return &appointmentServer{service: s} }
func (s *service) clinics() *sessionServer   { return &sessionServer{service: s} }

func TestContracts(t *testing.T) {
	t.Parallel()
	estest.EvolvesAll(t, pb.File_waymark_appointment_v1_events_proto, appointmentDecider())
	estest.EvolvesAll(t, pb.File_waymark_appointment_v1_events_proto, sessionDecider())
	estest.StoredExamples(t, "testdata/events", pb.File_waymark_appointment_v1_events_proto, appointmentDecider())
	estest.StoredExamples(t, "testdata/events", pb.File_waymark_appointment_v1_events_proto, sessionDecider())
}

// TestInstants: the vectors of the change of clocks.
func TestInstants(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ id, text, utc, date, refused string }{
		{"TZ-01", "2026-06-30T23:30:00+00:00", "2026-06-30T23:30:00Z", "2026-07-01", ""},
		{"TZ-02", "2026-12-31T23:30:00+00:00", "2026-12-31T23:30:00Z", "2026-12-31", ""},
		{"TZ-03", "2026-03-29T01:00:00+00:00", "2026-03-29T01:00:00Z", "2026-03-29", ""},
		{"TZ-04", "2026-10-25T00:30:00+00:00", "2026-10-25T00:30:00Z", "2026-10-25", ""},
		{"TZ-05", "2026-07-01T00:15:00+01:00", "2026-06-30T23:15:00Z", "2026-07-01", ""},
		{"local summer", "2026-07-01T09:30", "2026-07-01T08:30:00Z", "2026-07-01", ""},
		{"local winter", "2026-01-05T09:30:00", "2026-01-05T09:30:00Z", "2026-01-05", ""},
		{"before the gap", "2026-03-29T00:59", "2026-03-29T00:59:00Z", "2026-03-29", ""},
		{"in the gap", "2026-03-29T01:30", "", "", "appointment.time.missing"},
		{"after the gap", "2026-03-29T02:00", "2026-03-29T01:00:00Z", "2026-03-29", ""},
		{"twice", "2026-10-25T01:30", "", "", "appointment.time.ambiguous"},
		{"once again", "2026-10-25T02:00", "2026-10-25T02:00:00Z", "2026-10-25", ""},
		{"no time", "2026-10-25", "", "", "appointment.time.invalid"},
		{"no day", "2026-02-30T10:00", "", "", "appointment.time.invalid"},
	} {
		got, err := Instant("start", v.text)
		if fault.CodeOf(err) != v.refused || err == nil && v.refused != "" {
			t.Errorf("%s: %v, want %q", v.id, err, v.refused)
			continue
		}
		if v.refused == "" && (got.Format(time.RFC3339) != v.utc || nhs.DateOf(got).String() != v.date) {
			t.Errorf("%s: %s on %s, want %s on %s", v.id, got.Format(time.RFC3339), nhs.DateOf(got), v.utc, v.date)
		}
	}
}

// given runs requests one after the other on a fresh log, as one instance.
type story struct {
	t   *testing.T
	log *estest.Log
	s   *service
	n   int
}

func begin(t *testing.T) *story {
	log := estest.NewAuditedLog(t)
	st := &story{t: t, log: log, s: instance(log, now), n: 1000}
	_, err := st.s.clinics().OpenSession(t.Context(), clinic(0, 0, 6))
	st.ok(err)
	return st
}

// later moves the clock.
func (st *story) later(d time.Duration) {
	at := st.s.clock().Add(d)
	st.s.clock = func() time.Time { return at }
}

func (st *story) header() *metav1.Command { st.n++; return by(st.n) }

func (st *story) ok(err error) {
	st.t.Helper()
	if err != nil {
		st.t.Fatal(err)
	}
}

func (st *story) refused(err error, code string) {
	st.t.Helper()
	if fault.CodeOf(err) != code {
		st.t.Errorf("%v, want %s", err, code)
	}
}

func (st *story) book(pathway, slot int) *pb.Appointment {
	st.t.Helper()
	st.n++
	out, err := st.s.front().BookAppointment(st.t.Context(), booking(st.n, pathway, 0, slot))
	st.ok(err)
	return out.Appointment
}

func (st *story) list(pathway int) *pb.ListAppointmentsResponse {
	st.t.Helper()
	out, err := st.s.front().ListAppointments(st.t.Context(), &pb.ListAppointmentsRequest{PathwayId: id("pathway", pathway)})
	st.ok(err)
	return out
}

// tasks shows the tasks of a pathway: cause, day, state.
func (st *story) tasks(pathway int) string {
	var out []string
	for _, t := range st.list(pathway).Tasks {
		out = append(out, strings.ToLower(fmt.Sprint(t.Cause, " ", t.Due, " ", strings.TrimPrefix(t.State.String(), "TASK_STATE_"))))
	}
	return strings.Join(out, ", ")
}

func (st *story) wantTasks(pathway int, want string) {
	st.t.Helper()
	if got := st.tasks(pathway); got != want {
		st.t.Errorf("tasks %q, want %q", got, want)
	}
}

// slots shows the states of the slots: f free, h held, t taken.
func (st *story) slots() string {
	st.t.Helper()
	return slotsOf(st.t, st.s, id("session", 0))
}

func slotsOf(t *testing.T, s *service, session string) string {
	t.Helper()
	out, err := s.clinics().GetSession(t.Context(), &pb.GetSessionRequest{SessionId: session})
	if err != nil {
		t.Fatal(err)
	}
	b := ""
	for _, slot := range out.Session.Slots {
		b += map[pb.SlotState]string{pb.SlotState_SLOT_STATE_FREE: "f", pb.SlotState_SLOT_STATE_HELD: "h", pb.SlotState_SLOT_STATE_TAKEN: "t"}[slot.State]
	}
	return b
}

func (st *story) count(of proto.Message) (n int) {
	for _, e := range st.log.Events() {
		if e.Type == string(of.ProtoReflect().Descriptor().FullName()) {
			n++
		}
	}
	return n
}

func TestBooking(t *testing.T) {
	t.Parallel()
	st := begin(t)
	a := st.book(1, 0)
	if a.Status != booked || a.Booking.Site != "RJ121" || a.CancerPriorityReason != "cdc_cancer" || len(a.Needs) != 1 || a.Version != 1 {
		t.Errorf("booked %v", a)
	}
	if got := st.slots(); got != "tfffff" {
		t.Errorf("slots %s", got)
	}
	front := st.s.front()
	_, err := front.BookAppointment(t.Context(), booking(1, 2, 0, 0))
	st.refused(err, "appointment.slot.taken")

	overlapping := booking(2, 1, 0, 1)
	overlapping.Place = elsewhere(now.Add(24*time.Hour + 10*time.Minute))
	_, err = front.BookAppointment(t.Context(), overlapping)
	st.refused(err, "appointment.overlap")
	overlapping.OverlapOverrideReason = "both in one room"
	_, err = front.BookAppointment(t.Context(), overlapping)
	st.ok(err)

	feed := &pb.BookAppointmentRequest{Command: by(3), PathwayId: id("pathway", 3), Place: elsewhere(now.Add(time.Hour)), PasSystem: "RJ1PAS", PasId: "77"}
	_, err = front.BookAppointment(t.Context(), feed)
	st.ok(err)
	feed.Command = by(4)
	_, err = front.BookAppointment(t.Context(), feed)
	st.refused(err, "appointment.pas.exists")

	free, err := st.s.clinics().ListFreeSlots(t.Context(), &pb.ListFreeSlotsRequest{SessionId: id("session", 0)})
	st.ok(err)
	if len(free.Slots) != 5 || free.NoSlots {
		t.Errorf("free: %v", free)
	}
}

func TestRequestedThenBooked(t *testing.T) {
	t.Parallel()
	st := begin(t)
	front := st.s.front()
	out, err := front.RequestAppointment(t.Context(), &pb.RequestAppointmentRequest{Command: st.header(), PathwayId: id("pathway", 1), Needs: []string{"hoist"}, Purpose: "CT"})
	st.ok(err)
	st.wantTasks(1, "requested 2026-06-15 open")
	req := booking(1, 1, 0, 0)
	req.AppointmentId, req.UnmetNeeds, req.Purpose = out.Appointment.AppointmentId, []string{"interpreter"}, ""
	out, err = front.BookAppointment(t.Context(), req)
	st.ok(err)
	st.wantTasks(1, "requested 2026-06-15 booked")
	if a := out.Appointment; len(a.Needs) != 2 || len(a.UnmetNeeds) != 1 || a.Purpose != "CT" {
		t.Errorf("booked %v", a)
	}
}

func TestRescheduleAmendCancel(t *testing.T) {
	t.Parallel()
	st := begin(t)
	front := st.s.front()
	a := st.book(1, 0)
	move := &pb.RescheduleAppointmentRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId, SeenVersion: 1, To: inSlot(0, 3), Reason: "patient asked"}
	out, err := front.RescheduleAppointment(t.Context(), move)
	st.ok(err)
	if got := st.slots(); got != "ffftff" || len(out.Appointment.Earlier) != 1 {
		t.Errorf("slots %s, %v", got, out)
	}
	cancel := &pb.CancelAppointmentRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId, SeenVersion: 1, By: pb.CancelledBy_CANCELLED_BY_PATIENT, Reason: "away"}
	_, err = front.CancelAppointment(t.Context(), cancel)
	st.refused(err, "appointment.stale")
	_, err = front.AmendAppointment(t.Context(), &pb.AmendAppointmentRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId, Room: "B2", Needs: []string{"hoist"}})
	st.ok(err)
	cancel.SeenVersion = 3
	out, err = front.CancelAppointment(t.Context(), cancel)
	st.ok(err)
	if a := out.Appointment; a.AttendanceCode != "2" || a.Teller != "RJ1" || a.Booking.Room != "B2" || len(a.Needs) != 2 {
		t.Errorf("cancelled %v", a)
	}
	if got := st.slots(); got != "ffffff" {
		t.Errorf("slots %s", got)
	}
	st.wantTasks(1, "cancelled 2026-06-15 open")

	// The provider cancels: code 4. The task ends by a booking.
	rebook := booking(900, 1, 0, 5)
	rebook.TaskId = out.OpenTasks[0].TaskId
	out, err = front.BookAppointment(t.Context(), rebook)
	st.ok(err)
	st.wantTasks(1, "cancelled 2026-06-15 booked")
	out, err = front.CancelAppointment(t.Context(), &pb.CancelAppointmentRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: out.Appointment.AppointmentId, By: pb.CancelledBy_CANCELLED_BY_PROVIDER, Reason: "strike"})
	st.ok(err)
	if out.Appointment.AttendanceCode != "4" || len(out.OpenTasks) != 1 {
		t.Errorf("cancelled %v", out)
	}
}

func TestAttendance(t *testing.T) {
	t.Parallel()
	st := begin(t)
	front := st.s.front()
	a, b := st.book(1, 0), st.book(1, 4)
	change := func(r pb.PatientRequest) *pb.Appointment {
		out, err := front.RequestChange(t.Context(), &pb.RequestChangeRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId, Request: r})
		st.ok(err)
		return out.Appointment
	}
	if m := change(pb.PatientRequest_PATIENT_REQUEST_CANCELLATION); m.Status != booked || m.RequestStatus != pb.RequestStatus_REQUEST_STATUS_PENDING_CANCELLATION {
		t.Errorf("the patient asked: %v", m)
	}
	_, err := front.ConfirmAttendance(t.Context(), &pb.ConfirmAttendanceRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId})
	st.ok(err)
	st.later(25 * time.Hour)
	_, err = front.RecordArrival(t.Context(), &pb.RecordArrivalRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId})
	st.ok(err)
	_, err = front.RecordNoShow(t.Context(), &pb.RecordNoShowRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId, AttendanceCode: "3", On: "2026-06-02"})
	st.refused(err, "appointment.arrived")
	outcome := func(code, next, appointment string) (*pb.AppointmentReply, error) {
		return front.RecordOutcome(t.Context(), &pb.RecordOutcomeRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: appointment, AttendanceCode: "5", OutcomeCode: code, On: "2026-06-02", NextAppointmentId: next})
	}
	_, err = outcome("2", a.AppointmentId, a.AppointmentId)
	st.refused(err, "appointment.next")
	out, err := outcome("2", b.AppointmentId, a.AppointmentId)
	st.ok(err)
	if out.Appointment.Status != fulfilled || len(out.OpenTasks) != 0 {
		t.Errorf("%v", out)
	}
	// The next one was wrong: what it was for must be booked again.
	_, err = front.EnterInError(t.Context(), &pb.EnterInErrorRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: b.AppointmentId})
	st.ok(err)
	st.wantTasks(1, "entered_in_error 2026-06-16 open")
	if got := st.slots(); got != "tfffff" {
		t.Errorf("slots %s", got)
	}
	for i, code := range []string{"1", "2", "3"} {
		pathway := 10 + i
		e, err := front.BookAppointment(t.Context(), &pb.BookAppointmentRequest{Command: st.header(), PathwayId: id("pathway", pathway), Place: elsewhere(now)})
		st.ok(err)
		_, err = front.RecordOutcome(t.Context(), &pb.RecordOutcomeRequest{Command: st.header(), PathwayId: id("pathway", pathway), AppointmentId: e.Appointment.AppointmentId, AttendanceCode: "6", OutcomeCode: code, On: "2026-06-01"})
		st.ok(err)
		want := "outcome_without_next 2026-06-15 open"
		if code == "1" {
			want = ""
		}
		st.wantTasks(pathway, want)
	}
}

func TestMissedAppointment(t *testing.T) {
	t.Parallel()
	st := begin(t)
	front := st.s.front()
	a := st.book(1, 0)
	miss := &pb.RecordNoShowRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId, AttendanceCode: "3", On: "2026-06-01", OutcomeCode: "1"}
	_, err := front.RecordNoShow(t.Context(), miss)
	st.refused(err, "appointment.no_show.discharge")
	miss.OutcomeCode = ""
	_, err = front.RecordNoShow(t.Context(), miss)
	st.refused(err, "appointment.not_begun")
	st.later(26 * time.Hour)
	miss.On = "2026-06-02"
	out, err := front.RecordNoShow(t.Context(), miss)
	st.ok(err)
	st.wantTasks(1, "did_not_attend 2026-06-04 open")
	_, err = front.RecordOutcome(t.Context(), &pb.RecordOutcomeRequest{Command: st.header(), PathwayId: a.PathwayId, AppointmentId: a.AppointmentId, AttendanceCode: "5", OutcomeCode: "1", On: "2026-06-02"})
	st.refused(err, "appointment.no_show.discharge")
	if st.count(&pb.ClockAdjustmentProposed{}) != 1 || st.count(&pb.HolderToldOfMissedAppointment{}) != 1 {
		t.Error("the missed appointment was not proposed or told")
	}
	task := out.OpenTasks[0].TaskId
	end := &pb.EndTaskRequest{Command: st.header(), PathwayId: a.PathwayId, TaskId: task, ReasonCode: "not_needed", Reason: "x"}
	end.Command.Actor.RoleCode = ""
	_, err = front.EndTask(t.Context(), end)
	st.refused(err, "appointment.task.needs_person")

	st.later(72 * time.Hour)
	timers := &pb.RunTimersRequest{Command: st.header(), PathwayId: a.PathwayId}
	late, err := front.RunTimers(t.Context(), timers)
	st.ok(err)
	if !late.Tasks[0].Overdue || late.Tasks[0].State != taskOpen {
		t.Errorf("overdue: %v", late.Tasks)
	}
	timers.Command = st.header()
	_, err = front.RunTimers(t.Context(), timers)
	st.ok(err)
	if st.count(&pb.ToBeBookedTaskOverdue{}) != 1 {
		t.Error("overdue twice")
	}
	_, err = front.BookAppointment(t.Context(), &pb.BookAppointmentRequest{Command: st.header(), PathwayId: a.PathwayId, TaskId: task, Place: elsewhere(st.s.clock().Add(time.Hour))})
	st.ok(err)
	st.wantTasks(1, "did_not_attend 2026-06-04 booked")
	if st.count(&pb.ClockAdjustmentProposed{}) != 2 {
		t.Error("the new booking was not proposed")
	}
}

func TestSuspension(t *testing.T) {
	t.Parallel()
	st := begin(t)
	a, b := st.book(1, 0), st.book(2, 1)
	clinics := st.s.clinics()
	_, err := clinics.CloseSession(t.Context(), &pb.CloseSessionRequest{Command: st.header(), SessionId: id("session", 0)})
	st.refused(err, "session.in_use")
	suspend := &pb.SuspendSessionRequest{Command: st.header(), SessionId: id("session", 0), Reason: "scanner down"}
	_, err = clinics.SuspendSession(t.Context(), suspend)
	st.ok(err)
	if st.count(&pb.SessionSuspended{}) != 1 || st.count(&pb.AppointmentCancelled{}) != 2 {
		t.Error("not one event for the session and one for each appointment")
	}
	for p, a := range map[int]*pb.Appointment{1: a, 2: b} {
		got := st.list(p).Appointments[0]
		if got.AppointmentId != a.AppointmentId || got.Status != cancelled || got.AttendanceCode != "4" || got.Teller != "RJ1" || got.CancelReason != "scanner down" {
			t.Errorf("displaced: %v", got)
		}
		st.wantTasks(p, "session_suspended 2026-06-15 open")
	}
	before := len(st.log.Events())
	_, err = clinics.SuspendSession(t.Context(), suspend)
	st.ok(err)
	if len(st.log.Events()) != before {
		t.Error("the repeat recorded more")
	}
	_, err = st.s.front().BookAppointment(t.Context(), booking(1, 3, 0, 4))
	st.refused(err, "session.suspended")
	free, err := clinics.ListFreeSlots(t.Context(), &pb.ListFreeSlotsRequest{SessionId: id("session", 0)})
	st.ok(err)
	if !free.NoSlots {
		t.Error("a suspended session has no slots")
	}
	_, err = clinics.ResumeSession(t.Context(), &pb.ResumeSessionRequest{Command: st.header(), SessionId: id("session", 0)})
	st.ok(err)
	if got := st.slots(); got != "ffffff" {
		t.Errorf("slots %s", got)
	}
	_, err = clinics.CloseSession(t.Context(), &pb.CloseSessionRequest{Command: st.header(), SessionId: id("session", 0)})
	st.ok(err)
}

func TestVisits(t *testing.T) {
	t.Parallel()
	st := begin(t)
	front, path := st.s.front(), id("pathway", 1)
	_, err := front.RecordPreAdmission(t.Context(), &pb.RecordPreAdmissionRequest{Command: st.header(), PathwayId: path, VisitId: "V1", Organisation: "RJ1", Expected: "2026-06-02T08:00"})
	st.ok(err)
	_, err = front.RecordAdmission(t.Context(), &pb.RecordAdmissionRequest{Command: st.header(), PathwayId: path, VisitId: "V1", Organisation: "RJ1", At: "2026-06-02T08:30", AdmissionMethod: "11", PlannedTreatment: true})
	st.ok(err)
	for i, message := range []string{"2026-06-02T10:00", "2026-06-02T09:00"} { // the older one comes late
		out, err := front.CorrectVisit(t.Context(), &pb.CorrectVisitRequest{Command: st.header(), PathwayId: path, VisitId: "V1", At: fmt.Sprintf("2026-06-02T08:4%d", i), MessageTime: message})
		st.ok(err)
		if got := out.Visit.StartedAt.AsTime().Format("15:04"); got != "07:40" {
			t.Errorf("started at %s", got)
		}
	}
	_, err = front.RecordDischarge(t.Context(), &pb.RecordDischargeRequest{Command: st.header(), PathwayId: path, VisitId: "V1", At: "2026-06-03T08:30", DischargeMethod: "1", FollowUpIntended: true})
	st.ok(err)
	st.wantTasks(1, "discharge_follow_up 2026-06-17 open")
	out, err := front.ReverseVisit(t.Context(), &pb.ReverseVisitRequest{Command: st.header(), PathwayId: path, VisitId: "V1", What: "discharge"})
	st.ok(err)
	if out.Visit.State != admitted {
		t.Errorf("reversed: %v", out.Visit)
	}
	_, err = front.RecordAttendanceStart(t.Context(), &pb.RecordAttendanceStartRequest{Command: st.header(), PathwayId: path, VisitId: "V1", Organisation: "RJ1", At: "2026-06-02T08:30"})
	st.refused(err, "appointment.visit.exists")
}
