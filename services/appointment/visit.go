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
)

// Short names of the contract's states of a visit.
const (
	expected   = pb.VisitState_VISIT_STATE_EXPECTED
	attending  = pb.VisitState_VISIT_STATE_ATTENDING
	admitted   = pb.VisitState_VISIT_STATE_ADMITTED
	discharged = pb.VisitState_VISIT_STATE_DISCHARGED
	reversed   = pb.VisitState_VISIT_STATE_REVERSED
)

// evolveVisit applies an event of visits; ok says that it was one.
func evolveVisit(s Appointments, event proto.Message) (_ Appointments, ok bool) {
	switch e := event.(type) {
	case *pb.AdmissionRecorded:
		return s.changeVisit(e.VisitId, func(v *pb.Visit) {
			v.State, v.Organisation, v.StartedAt, v.AdmissionMethod, v.PlannedTreatment = admitted, e.Organisation, e.At, e.AdmissionMethod, e.PlannedTreatment
		}), true
	case *pb.AttendanceStarted:
		return s.changeVisit(e.VisitId, func(v *pb.Visit) { v.State, v.Organisation, v.StartedAt = attending, e.Organisation, e.At }), true
	case *pb.PreAdmissionRecorded:
		return s.changeVisit(e.VisitId, func(v *pb.Visit) { v.State, v.Organisation, v.Expected = expected, e.Organisation, e.Expected }), true
	case *pb.DischargeRecorded:
		return s.changeVisit(e.VisitId, func(v *pb.Visit) {
			v.State, v.DischargedAt, v.DischargeMethod, v.FollowUpIntended = discharged, e.At, e.DischargeMethod, e.FollowUpIntended
		}), true
	case *pb.VisitCorrected:
		return s.changeVisit(e.VisitId, func(v *pb.Visit) {
			if e.Applied {
				v.StartedAt, v.MessageTime = e.At, e.MessageTime
			}
		}), true
	case *pb.VisitReversed:
		return s.changeVisit(e.VisitId, func(v *pb.Visit) {
			switch e.What {
			case "discharge":
				v.State, v.DischargedAt, v.DischargeMethod = attending, nil, ""
				if v.AdmissionMethod != "" {
					v.State = admitted
				}
			case "admission":
				v.State = reversed
			}
		}), true
	}
	return s, false
}

// changeVisit changes a copy of the visit, which it makes where there is none.
func (s Appointments) changeVisit(id string, edit func(*pb.Visit)) Appointments {
	v := &pb.Visit{VisitId: id}
	i := slices.IndexFunc(s.visits, func(v *pb.Visit) bool { return v.VisitId == id })
	s.visits = slices.Clone(s.visits)
	if i >= 0 {
		v = proto.CloneOf(s.visits[i])
		s.visits[i] = v
	} else {
		s.visits = append(s.visits, v)
	}
	edit(v)
	return s
}

// Visit returns one visit, nil when there is none with the id.
func (s Appointments) Visit(id string) *pb.Visit {
	if i := slices.IndexFunc(s.visits, func(v *pb.Visit) bool { return v.VisitId == id }); i >= 0 {
		return s.visits[i]
	}
	return nil
}

func (s Appointments) visit(id string, states ...pb.VisitState) (*pb.Visit, error) {
	v := s.Visit(id)
	if v == nil {
		return nil, fault.NotFound("appointment.visit.not_found", "there is no such visit on this pathway")
	}
	if len(states) > 0 && !slices.Contains(states, v.State) {
		return nil, fault.Refused("appointment.visit.state", "the visit is in a state that does not allow this")
	}
	return v, nil
}

// RecordVisit records what a patient administration system says of a visit. It
// makes no pathway and ends none.
type RecordVisit struct {
	Message   proto.Message // the request
	CommandID uuid.UUID
	Today     nhs.Date
}

// Decide implements the decision.
func (c RecordVisit) Decide(s Appointments) ([]proto.Message, error) {
	switch m := c.Message.(type) {
	case *pb.RecordAdmissionRequest:
		at, err := Instant("at", m.At)
		if err != nil {
			return nil, err
		}
		if v := s.Visit(m.VisitId); v != nil && v.State != expected && v.State != attending && v.State != reversed {
			return nil, errVisitExists
		}
		return []proto.Message{&pb.AdmissionRecorded{VisitId: m.VisitId, Organisation: m.Organisation, At: timestamppb.New(at), AdmissionMethod: m.AdmissionMethod, PlannedTreatment: m.PlannedTreatment}}, nil
	case *pb.RecordAttendanceStartRequest:
		at, err := Instant("at", m.At)
		if err != nil {
			return nil, err
		}
		if v := s.Visit(m.VisitId); v != nil && v.State != expected && v.State != reversed {
			return nil, errVisitExists
		}
		return []proto.Message{&pb.AttendanceStarted{VisitId: m.VisitId, Organisation: m.Organisation, At: timestamppb.New(at)}}, nil
	case *pb.RecordPreAdmissionRequest:
		at, err := Instant("expected", m.Expected)
		if err != nil {
			return nil, err
		}
		if v := s.Visit(m.VisitId); v != nil && v.State != expected && v.State != reversed {
			return nil, errVisitExists
		}
		return []proto.Message{&pb.PreAdmissionRecorded{VisitId: m.VisitId, Organisation: m.Organisation, Expected: timestamppb.New(at)}}, nil
	case *pb.RecordDischargeRequest:
		at, err := Instant("at", m.At)
		if err != nil {
			return nil, err
		}
		v, err := s.visit(m.VisitId, attending, admitted)
		if err != nil {
			return nil, err
		}
		if v.StartedAt.AsTime().After(at) {
			return nil, fault.Invalid("appointment.time.order", "at", "is before the visit began")
		}
		events := []proto.Message{&pb.DischargeRecorded{VisitId: m.VisitId, At: timestamppb.New(at), DischargeMethod: m.DischargeMethod, FollowUpIntended: m.FollowUpIntended}}
		if m.FollowUpIntended {
			events = append(events, raise(c.CommandID, "discharge_follow_up", m.VisitId, toBook(nhs.DateOf(at)), ""))
		}
		return events, nil
	case *pb.CorrectVisitRequest:
		at, err := Instant("at", m.At)
		if err != nil {
			return nil, err
		}
		sent, err := Instant("message_time", m.MessageTime)
		if err != nil {
			return nil, err
		}
		v, err := s.visit(m.VisitId)
		if err != nil {
			return nil, err
		}
		return []proto.Message{&pb.VisitCorrected{VisitId: m.VisitId, At: timestamppb.New(at), MessageTime: timestamppb.New(sent), Applied: newer(v, sent)}}, nil
	case *pb.ReverseVisitRequest:
		states := []pb.VisitState{admitted, attending}
		if m.What == "discharge" {
			states = []pb.VisitState{discharged}
		}
		if _, err := s.visit(m.VisitId, states...); err != nil {
			return nil, err
		}
		return []proto.Message{&pb.VisitReversed{VisitId: m.VisitId, What: m.What}}, nil
	}
	return nil, fault.Invalid("appointment.visit.unknown", "command", "is no message of a visit")
}

// newer reports whether a message is later than the one last applied to v.
func newer(v *pb.Visit, sent time.Time) bool {
	return v.MessageTime == nil || sent.After(v.MessageTime.AsTime())
}

var errVisitExists = fault.Exists("appointment.visit.exists", "the visit is recorded already: correct it, or reverse it first")
