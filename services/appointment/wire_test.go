package appointment

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/runtest"
)

// house is the service behind a real connection, with its log.
type house struct {
	*runtest.House
	log *estest.Log
}

func open(t *testing.T) *house {
	t.Helper()
	log := estest.NewAuditedLog(t)
	return &house{runtest.Serve(t, log, func() time.Time { return now }, New), log}
}

// TestEveryRPC calls each RPC over a real connection; the same request again has
// the same answer and records nothing; another body under its id is refused.
func TestEveryRPC(t *testing.T) {
	t.Parallel()
	h := open(t)
	var requests []proto.Message
	do := func(req proto.Message) proto.Message {
		t.Helper()
		requests = append(requests, req)
		out, err := h.Call(req)
		if err != nil {
			t.Fatalf("%s: %v", req.ProtoReflect().Descriptor().Name(), err)
		}
		return out
	}
	path, n := id("pathway", 1), 100
	next := func() int { n++; return n }
	idOf := func(m proto.Message) string { return m.(*pb.AppointmentReply).Appointment.AppointmentId }

	do(clinic(next(), 0, 6))
	do(&pb.GetSessionRequest{SessionId: id("session", 0)})
	do(&pb.ListFreeSlotsRequest{SessionId: id("session", 0)})
	do(&pb.RequestAppointmentRequest{Command: by(next()), PathwayId: path, Purpose: "CT"})
	a := idOf(do(booking(next(), 1, 0, 0)))
	do(&pb.RescheduleAppointmentRequest{Command: by(next()), PathwayId: path, AppointmentId: a, To: inSlot(0, 1), Reason: "x"})
	do(&pb.AmendAppointmentRequest{Command: by(next()), PathwayId: path, AppointmentId: a, Room: "B2"})
	do(&pb.ConfirmAttendanceRequest{Command: by(next()), PathwayId: path, AppointmentId: a})
	do(&pb.RequestChangeRequest{Command: by(next()), PathwayId: path, AppointmentId: a, Request: pb.PatientRequest_PATIENT_REQUEST_CHANGE})
	do(&pb.RecordArrivalRequest{Command: by(next()), PathwayId: path, AppointmentId: a})
	do(&pb.RecordOutcomeRequest{Command: by(next()), PathwayId: path, AppointmentId: a, AttendanceCode: "5", OutcomeCode: "3", On: "2026-06-01"})
	do(&pb.EnterInErrorRequest{Command: by(next()), PathwayId: path, AppointmentId: a})
	b := idOf(do(&pb.BookAppointmentRequest{Command: by(next()), PathwayId: path, Place: elsewhere(now.Add(-time.Hour))}))
	do(&pb.RecordNoShowRequest{Command: by(next()), PathwayId: path, AppointmentId: b, AttendanceCode: "3", On: "2026-06-01"})
	c := idOf(do(booking(next(), 1, 0, 2)))
	do(&pb.CancelAppointmentRequest{Command: by(next()), PathwayId: path, AppointmentId: c, By: pb.CancelledBy_CANCELLED_BY_SYSTEM, Reason: "x"})
	task := do(&pb.RaiseTaskRequest{Command: by(next()), PathwayId: path, Cause: "surveillance_due", CauseId: "item-1"}).(*pb.TaskReply).Task.TaskId
	do(&pb.EndTaskRequest{Command: by(next()), PathwayId: path, TaskId: task, ReasonCode: "not_needed", Reason: "seen elsewhere"})
	do(&pb.RecordPreAdmissionRequest{Command: by(next()), PathwayId: path, VisitId: "V1", Organisation: "RJ1", Expected: "2026-05-30T08:00"})
	do(&pb.RecordAttendanceStartRequest{Command: by(next()), PathwayId: path, VisitId: "V1", Organisation: "RJ1", At: "2026-05-30T08:10"})
	do(&pb.RecordAdmissionRequest{Command: by(next()), PathwayId: path, VisitId: "V1", Organisation: "RJ1", At: "2026-05-30T08:30", AdmissionMethod: "11"})
	do(&pb.CorrectVisitRequest{Command: by(next()), PathwayId: path, VisitId: "V1", At: "2026-05-30T08:20", MessageTime: "2026-05-30T09:00"})
	do(&pb.RecordDischargeRequest{Command: by(next()), PathwayId: path, VisitId: "V1", At: "2026-05-31T08:30", DischargeMethod: "1"})
	do(&pb.ReverseVisitRequest{Command: by(next()), PathwayId: path, VisitId: "V1", What: "discharge"})
	do(clinic(next(), 1, 2))
	do(&pb.HoldSlotRequest{Command: by(next()), PathwayId: path, SessionId: id("session", 1), SlotId: id("slot", 1)})
	do(&pb.FindSlotsRequest{Site: "RJ121", CancerPriorityReason: "two_week"})
	series := booking(next(), 1, 1, 0)
	series.SeriesId = "S1"
	do(series)
	do(&pb.StopSeriesRequest{Command: by(next()), PathwayId: path, SeriesId: "S1", By: pb.CancelledBy_CANCELLED_BY_PROVIDER, Reason: "x"})
	do(&pb.RunTimersRequest{Command: by(next()), PathwayId: path})
	do(&pb.RunSessionTimersRequest{Command: by(next()), SessionId: id("session", 0)})
	do(booking(next(), 2, 0, 4))
	do(&pb.SuspendSessionRequest{Command: by(next()), SessionId: id("session", 0), Reason: "scanner down"})
	do(&pb.ResumeSessionRequest{Command: by(next()), SessionId: id("session", 0)})
	do(&pb.CloseSessionRequest{Command: by(next()), SessionId: id("session", 0)})
	do(&pb.GetAppointmentRequest{PathwayId: path, AppointmentId: a})
	do(&pb.ListAppointmentsRequest{PathwayId: path})

	called := map[protoreflect.FullName]bool{}
	before, repeats := len(h.log.Events()), 0
	for _, req := range requests {
		name := req.ProtoReflect().Descriptor().FullName()
		called[name] = true
		r, ok := req.(es.Request)
		if !ok {
			continue
		}
		repeats++
		first, err := h.Call(req)
		again, err2 := h.Call(req)
		if err != nil || err2 != nil || !proto.Equal(first, again) {
			t.Errorf("%s repeated: %v %v\n%v\n%v", name, err, err2, first, again)
		}
		switch req.(type) {
		case *pb.RunTimersRequest, *pb.RunSessionTimersRequest:
			continue // recorded nothing
		}
		other := proto.Clone(r).(es.Request)
		other.GetCommand().Reason = "another body"
		if _, err := h.Call(other); fault.CodeOf(err) != "command.id_reused" {
			t.Errorf("%s with another body: %v", name, err)
		}
	}
	if after := len(h.log.Events()); after != before {
		t.Errorf("repeats recorded %d events", after-before)
	}
	for _, m := range runtest.Methods(pb.File_waymark_appointment_v1_appointment_proto) {
		name := m.Input().FullName()
		if !called[name] {
			t.Errorf("%s was never called", m.FullName())
		}
		if name.Name() == "FindSlotsRequest" {
			continue // every field may be left out
		}
		mt, _ := protoregistry.GlobalTypes.FindMessageByName(name)
		if _, err := h.Call(mt.New().Interface()); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s, empty: %v", m.FullName(), err)
		}
	}
	t.Logf("%d RPCs, %d requests, %d repeated, %d events", len(called), len(requests), repeats, before)
}
