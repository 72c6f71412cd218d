package appointment

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/appointment/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
)

// service is what the two gRPC services and the reactions share.
type service struct {
	clock        func() time.Time
	slog         *slog.Logger
	appointments *es.Streams[Appointments]
	sessions     *es.Streams[Session]
	diary        *diary
	pathways     referralv1.PathwayServiceClient // nil where no referral service is known

	// What tests set to plant the bugs that they must catch: a booking without a
	// hold, and a lapsed hold that is released without asking the pathway.
	unheld, unfenced bool
}

// New makes the appointment service.
func New(deps run.Deps) (run.Part, error) {
	if deps.Log == nil || deps.Clock == nil {
		return run.Part{}, errors.New("appointment: needs a log and a clock")
	}
	s := newService(deps)
	s.diary = newDiary(deps.Log)
	s.diary.Keep(deps.Dir)
	return run.Part{
		Name: "appointment",
		Register: func(r grpc.ServiceRegistrar) {
			pb.RegisterAppointmentServiceServer(r, &appointmentServer{service: s})
			pb.RegisterSessionServiceServer(r, &sessionServer{service: s})
		},
		React:      s.react,
		Categories: []string{"appointment", "session", "plan", "person"},
		Run:        s.keep,
	}, nil
}

func newService(deps run.Deps) *service {
	opts := es.Options{Key: deps.Key, Jitter: deps.Jitter, Cache: deps.Folds}
	s := &service{
		clock:        deps.Clock,
		slog:         deps.Slog,
		appointments: es.NewStreams(deps.Log, appointmentDecider(), opts),
		sessions:     es.NewStreams(deps.Log, sessionDecider(), opts),
	}
	if s.slog == nil {
		s.slog = slog.New(slog.DiscardHandler)
	}
	if deps.Dial != nil {
		if conn := deps.Dial("referral"); conn != nil {
			s.pathways = referralv1.NewPathwayServiceClient(conn)
		}
	}
	return s
}

// today is the civil date in England.
func (s *service) today() nhs.Date { return nhs.DateOf(s.clock()) }

// decision is a command as decider of a kind of stream.
type decision[S any] interface {
	Decide(S) ([]proto.Message, error)
}

// onPathway is a request about one pathway.
type onPathway interface {
	es.Request
	GetPathwayId() string
}

// commandID is the id of a request; a malformed one is es.Streams' to refuse.
func commandID(req es.Request) uuid.UUID {
	id, _ := uuid.Parse(req.GetCommand().GetCommandId())
	return id
}

// streamID is a UUID as stream names and events hold it: in lower case.
func streamID(id string) string { return strings.ToLower(id) }

// derived is the id that follows from a command for one purpose.
func derived(id uuid.UUID, purpose string) string {
	return uuid.NewSHA1(id, []byte(purpose)).String()
}

// or returns a where it is not empty, else b.
func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// appointmentServer is the gRPC face of appointments, tasks and visits.
type appointmentServer struct {
	pb.UnimplementedAppointmentServiceServer
	*service
}

// do runs a command and answers with the appointment named.
func (s *service) do(ctx context.Context, req onPathway, appointmentID string, c decision[Appointments]) (*pb.AppointmentReply, error) {
	id := streamID(req.GetPathwayId())
	state, err := s.appointments.Do(ctx, id, req, c.Decide)
	if err != nil {
		return nil, err
	}
	return reply(state, id, appointmentID), nil
}

func reply(state es.State[Appointments], pathwayID, appointmentID string) *pb.AppointmentReply {
	return &pb.AppointmentReply{Appointment: Message(state.Value.Appointment(appointmentID), pathwayID), OpenTasks: state.Value.open(), Receipt: state.Receipt()}
}

func (s *appointmentServer) RequestAppointment(ctx context.Context, req *pb.RequestAppointmentRequest) (*pb.AppointmentReply, error) {
	c := RequestAppointment{req, commandID(req), s.today()}
	return s.do(ctx, req, appointmentID(c.CommandID), c)
}

func (s *appointmentServer) BookAppointment(ctx context.Context, req *pb.BookAppointmentRequest) (*pb.AppointmentReply, error) {
	return s.book(ctx, req)
}

func (s *appointmentServer) RescheduleAppointment(ctx context.Context, req *pb.RescheduleAppointmentRequest) (*pb.AppointmentReply, error) {
	return s.reschedule(ctx, req)
}

func (s *appointmentServer) AmendAppointment(ctx context.Context, req *pb.AmendAppointmentRequest) (*pb.AppointmentReply, error) {
	return s.do(ctx, req, req.AppointmentId, AmendAppointment{req})
}

func (s *appointmentServer) CancelAppointment(ctx context.Context, req *pb.CancelAppointmentRequest) (*pb.AppointmentReply, error) {
	out, err := s.do(ctx, req, req.AppointmentId, CancelAppointment{req, commandID(req), s.today()})
	if err != nil {
		return nil, err
	}
	return out, s.release(ctx, req, out.Appointment.Booking, "cancelled")
}

func (s *appointmentServer) StopSeries(ctx context.Context, req *pb.StopSeriesRequest) (*pb.StopSeriesResponse, error) {
	c := StopSeries{req, commandID(req), s.clock()}
	state, err := s.appointments.Do(ctx, streamID(req.PathwayId), req, c.Decide)
	if err != nil {
		return nil, err
	}
	out := &pb.StopSeriesResponse{OpenTasks: state.Value.open(), Receipt: state.Receipt()}
	for _, a := range state.Value.appointments {
		if a.SeriesId != c.SeriesId || a.Status != cancelled {
			continue
		}
		out.Appointments = append(out.Appointments, Message(a, streamID(req.PathwayId)))
		if err := s.release(ctx, req, a.Booking, "cancelled"); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *appointmentServer) RecordArrival(ctx context.Context, req *pb.RecordArrivalRequest) (*pb.AppointmentReply, error) {
	return s.do(ctx, req, req.AppointmentId, RecordArrival{req, s.clock()})
}

func (s *appointmentServer) RecordOutcome(ctx context.Context, req *pb.RecordOutcomeRequest) (*pb.AppointmentReply, error) {
	return s.do(ctx, req, req.AppointmentId, RecordOutcome{req, commandID(req), s.today()})
}

func (s *appointmentServer) RecordNoShow(ctx context.Context, req *pb.RecordNoShowRequest) (*pb.AppointmentReply, error) {
	return s.do(ctx, req, req.AppointmentId, RecordNoShow{req, commandID(req), s.clock()})
}

func (s *appointmentServer) EnterInError(ctx context.Context, req *pb.EnterInErrorRequest) (*pb.AppointmentReply, error) {
	out, err := s.do(ctx, req, req.AppointmentId, EnterInError{req, commandID(req), s.today()})
	if err != nil {
		return nil, err
	}
	return out, s.release(ctx, req, out.Appointment.Booking, "entered_in_error")
}

func (s *appointmentServer) ConfirmAttendance(ctx context.Context, req *pb.ConfirmAttendanceRequest) (*pb.AppointmentReply, error) {
	return s.do(ctx, req, req.AppointmentId, ConfirmAttendance{req})
}

func (s *appointmentServer) RequestChange(ctx context.Context, req *pb.RequestChangeRequest) (*pb.AppointmentReply, error) {
	return s.do(ctx, req, req.AppointmentId, RequestChange{req})
}

func (s *appointmentServer) RaiseTask(ctx context.Context, req *pb.RaiseTaskRequest) (*pb.TaskReply, error) {
	return s.raiseTask(ctx, req)
}

func (s *service) raiseTask(ctx context.Context, req *pb.RaiseTaskRequest) (*pb.TaskReply, error) {
	c := RaiseTask{req, commandID(req), s.today()}
	state, err := s.appointments.Do(ctx, streamID(req.PathwayId), req, c.Decide)
	if err != nil {
		return nil, err
	}
	return &pb.TaskReply{Task: c.find(state.Value), Receipt: state.Receipt()}, nil
}

func (s *appointmentServer) EndTask(ctx context.Context, req *pb.EndTaskRequest) (*pb.TaskReply, error) {
	state, err := s.appointments.Do(ctx, streamID(req.PathwayId), req, EndTask{req}.Decide)
	if err != nil {
		return nil, err
	}
	return &pb.TaskReply{Task: state.Value.Task(req.TaskId), Receipt: state.Receipt()}, nil
}

// recordVisit runs a command about a visit.
func (s *appointmentServer) recordVisit(ctx context.Context, req onPathway, visitID string) (*pb.VisitReply, error) {
	c := RecordVisit{Message: req, CommandID: commandID(req), Today: s.today()}
	state, err := s.appointments.Do(ctx, streamID(req.GetPathwayId()), req, c.Decide)
	if err != nil {
		return nil, err
	}
	return &pb.VisitReply{Visit: state.Value.Visit(visitID), Receipt: state.Receipt()}, nil
}

func (s *appointmentServer) RecordAdmission(ctx context.Context, req *pb.RecordAdmissionRequest) (*pb.VisitReply, error) {
	return s.recordVisit(ctx, req, req.VisitId)
}

func (s *appointmentServer) RecordAttendanceStart(ctx context.Context, req *pb.RecordAttendanceStartRequest) (*pb.VisitReply, error) {
	return s.recordVisit(ctx, req, req.VisitId)
}

func (s *appointmentServer) RecordPreAdmission(ctx context.Context, req *pb.RecordPreAdmissionRequest) (*pb.VisitReply, error) {
	return s.recordVisit(ctx, req, req.VisitId)
}

func (s *appointmentServer) RecordDischarge(ctx context.Context, req *pb.RecordDischargeRequest) (*pb.VisitReply, error) {
	return s.recordVisit(ctx, req, req.VisitId)
}

func (s *appointmentServer) CorrectVisit(ctx context.Context, req *pb.CorrectVisitRequest) (*pb.VisitReply, error) {
	return s.recordVisit(ctx, req, req.VisitId)
}

func (s *appointmentServer) ReverseVisit(ctx context.Context, req *pb.ReverseVisitRequest) (*pb.VisitReply, error) {
	return s.recordVisit(ctx, req, req.VisitId)
}

func (s *appointmentServer) RunTimers(ctx context.Context, req *pb.RunTimersRequest) (*pb.ListAppointmentsResponse, error) {
	id := streamID(req.PathwayId)
	state, err := s.appointments.Do(ctx, id, req, RunTimers{s.today()}.Decide)
	if err != nil {
		return nil, err
	}
	return list(state, id), nil
}

// GetAppointment reads the stream, so its answer is never behind min_position.
func (s *appointmentServer) GetAppointment(ctx context.Context, req *pb.GetAppointmentRequest) (*pb.GetAppointmentResponse, error) {
	id := streamID(req.PathwayId)
	state, err := s.appointments.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	a := state.Value.Appointment(req.AppointmentId)
	if a == nil {
		return nil, errNoAppointment
	}
	return &pb.GetAppointmentResponse{Appointment: Message(a, id), ReadAt: state.Receipt()}, nil
}

// ListAppointments reads the stream, so its answer is never behind min_position.
func (s *appointmentServer) ListAppointments(ctx context.Context, req *pb.ListAppointmentsRequest) (*pb.ListAppointmentsResponse, error) {
	id := streamID(req.PathwayId)
	state, err := s.appointments.LoadAt(ctx, id, es.Position(req.AsOfPosition))
	if err != nil {
		return nil, err
	}
	return list(state, id), nil
}

func list(state es.State[Appointments], pathwayID string) *pb.ListAppointmentsResponse {
	out := &pb.ListAppointmentsResponse{Tasks: state.Value.tasks, Visits: state.Value.visits, ReadAt: state.Receipt()}
	for _, a := range state.Value.appointments {
		out.Appointments = append(out.Appointments, Message(a, pathwayID))
	}
	return out
}

// sessionServer is the gRPC face of clinic sessions.
type sessionServer struct {
	pb.UnimplementedSessionServiceServer
	*service
}

func (s *sessionServer) do(ctx context.Context, id string, req es.Request, c decision[Session]) (*pb.SessionReply, error) {
	id = streamID(id)
	state, err := s.sessions.Do(ctx, id, req, c.Decide)
	if err != nil {
		return nil, err
	}
	return &pb.SessionReply{Session: state.Value.Message(id), Receipt: state.Receipt()}, nil
}

func (s *sessionServer) OpenSession(ctx context.Context, req *pb.OpenSessionRequest) (*pb.SessionReply, error) {
	return s.do(ctx, or(req.SessionId, derived(commandID(req), "session")), req, OpenSession{req, commandID(req)})
}

// SuspendSession records the suspension, then displaces. What a crash leaves
// undone is done by the repeat, or by the reaction to the event.
func (s *sessionServer) SuspendSession(ctx context.Context, req *pb.SuspendSessionRequest) (*pb.SessionReply, error) {
	id := streamID(req.SessionId)
	state, err := s.sessions.Do(ctx, id, req, SuspendSession{req, s.clock()}.Decide)
	if err != nil {
		return nil, err
	}
	for _, d := range state.Value.displaced {
		if err := s.displace(ctx, req, id, d); err != nil {
			return nil, err
		}
	}
	return &pb.SessionReply{Session: state.Value.Message(id), Receipt: state.Receipt()}, nil
}

func (s *sessionServer) ResumeSession(ctx context.Context, req *pb.ResumeSessionRequest) (*pb.SessionReply, error) {
	return s.do(ctx, req.SessionId, req, ResumeSession{req})
}

func (s *sessionServer) CloseSession(ctx context.Context, req *pb.CloseSessionRequest) (*pb.SessionReply, error) {
	return s.do(ctx, req.SessionId, req, CloseSession{req, s.clock()})
}

func (s *sessionServer) RunSessionTimers(ctx context.Context, req *pb.RunSessionTimersRequest) (*pb.SessionReply, error) {
	id := streamID(req.SessionId)
	if err := s.settleLapsed(ctx, req.Command, id); err != nil {
		return nil, err
	}
	state, err := s.sessions.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	return &pb.SessionReply{Session: state.Value.Message(id), Receipt: state.Receipt()}, nil
}

// GetSession reads the stream, so its answer is never behind min_position.
func (s *sessionServer) GetSession(ctx context.Context, req *pb.GetSessionRequest) (*pb.GetSessionResponse, error) {
	id := streamID(req.SessionId)
	state, err := s.sessionAt(ctx, id, es.Position(req.AsOfPosition))
	if err != nil {
		return nil, err
	}
	return &pb.GetSessionResponse{Session: state.Value.Message(id), ReadAt: state.Receipt()}, nil
}

// ListFreeSlots reads the stream, so its answer is never behind min_position.
func (s *sessionServer) ListFreeSlots(ctx context.Context, req *pb.ListFreeSlotsRequest) (*pb.ListFreeSlotsResponse, error) {
	state, err := s.loadSession(ctx, streamID(req.SessionId))
	if err != nil {
		return nil, err
	}
	free := state.Value.Free(s.clock())
	return &pb.ListFreeSlotsResponse{Slots: free, NoSlots: len(free) == 0, ReadAt: state.Receipt()}, nil
}

func (s *service) loadSession(ctx context.Context, id string) (es.State[Session], error) {
	return s.sessionAt(ctx, id, 0)
}

func (s *service) sessionAt(ctx context.Context, id string, at es.Position) (es.State[Session], error) {
	state, err := s.sessions.LoadAt(ctx, id, at)
	if err == nil && state.Revision == es.NoStream {
		err = errNoSession
	}
	return state, err
}
