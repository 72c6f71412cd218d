package appointment

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
)

// house is the service behind a real connection, with its log.
type house struct {
	t       *testing.T
	log     *estest.Log
	conn    *grpc.ClientConn
	methods map[protoreflect.FullName]protoreflect.MethodDescriptor // by request
}

func open(t *testing.T) *house {
	t.Helper()
	log := estest.NewAuditedLog(t)
	p, err := run.Listen(t.Context(), run.Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Drain: time.Nanosecond}, "appointment-test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	deps := p.Deps(log, nil, testKey)
	deps.Clock = func() time.Time { return now }
	deps.Dial = nil
	part, err := New(deps)
	if err != nil {
		t.Fatal(err)
	}
	part.React = nil // nothing is heard here
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, deps, part) }()
	conn, err := grpc.NewClient(p.GRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
	h := &house{t, log, conn, map[protoreflect.FullName]protoreflect.MethodDescriptor{}}
	services := pb.File_waymark_appointment_v1_appointment_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			h.methods[m.Input().FullName()] = m
		}
	}
	return h
}

// call invokes the RPC that req is the request of.
func (h *house) call(req proto.Message) (proto.Message, error) {
	m := h.methods[req.ProtoReflect().Descriptor().FullName()]
	mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
	if err != nil {
		h.t.Fatal(err)
	}
	out := mt.New().Interface()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	return out, h.conn.Invoke(ctx, fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()), req, out)
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
		out, err := h.call(req)
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
		first, err := h.call(req)
		again, err2 := h.call(req)
		if err != nil || err2 != nil || !proto.Equal(first, again) {
			t.Errorf("%s repeated: %v %v\n%v\n%v", name, err, err2, first, again)
		}
		switch req.(type) {
		case *pb.RunTimersRequest, *pb.RunSessionTimersRequest:
			continue // recorded nothing
		}
		other := proto.Clone(r).(es.Request)
		other.GetCommand().Reason = "another body"
		if _, err := h.call(other); fault.CodeOf(err) != "command.id_reused" {
			t.Errorf("%s with another body: %v", name, err)
		}
	}
	if after := len(h.log.Events()); after != before {
		t.Errorf("repeats recorded %d events", after-before)
	}
	for name, m := range h.methods {
		if !called[name] {
			t.Errorf("%s was never called", m.FullName())
		}
		mt, _ := protoregistry.GlobalTypes.FindMessageByName(name)
		if _, err := h.call(mt.New().Interface()); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s, empty: %v", m.FullName(), err)
		}
	}
	t.Logf("%d RPCs, %d requests, %d repeated, %d events", len(called), len(requests), repeats, before)
}
