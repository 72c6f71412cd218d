package appointment

import (
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// evolveTask applies an event of to-be-booked tasks; ok says that it was one.
func evolveTask(s Appointments, event proto.Message) (_ Appointments, ok bool) {
	switch e := event.(type) {
	case *pb.ToBeBookedTaskRaised:
		s.tasks = append(slices.Clip(s.tasks), &pb.Task{TaskId: e.TaskId, Cause: e.Cause, CauseId: e.CauseId, Due: e.Due, TreatmentFunction: e.TreatmentFunction, State: taskOpen})
		return s, true
	case *pb.ToBeBookedTaskBooked:
		return s.changeTask(e.TaskId, func(t *pb.Task) { t.State, t.AppointmentId = taskBooked, e.AppointmentId }), true
	case *pb.ToBeBookedTaskEnded:
		return s.changeTask(e.TaskId, func(t *pb.Task) { t.State, t.EndReasonCode = taskEnded, e.ReasonCode }), true
	case *pb.ToBeBookedTaskOverdue:
		return s.changeTask(e.TaskId, func(t *pb.Task) { t.Overdue = true }), true
	}
	return s, false
}

func (s Appointments) changeTask(id string, edit func(*pb.Task)) Appointments {
	i := slices.IndexFunc(s.tasks, func(t *pb.Task) bool { return t.TaskId == id })
	if i < 0 {
		return s
	}
	t := proto.CloneOf(s.tasks[i])
	edit(t)
	s.tasks = slices.Clone(s.tasks)
	s.tasks[i] = t
	return s
}

// Task returns one task, nil when there is none with the id.
func (s Appointments) Task(id string) *pb.Task {
	id = streamID(id)
	if i := slices.IndexFunc(s.tasks, func(t *pb.Task) bool { return t.TaskId == id }); i >= 0 {
		return s.tasks[i]
	}
	return nil
}

// awaits reports whether a task of a cause is open.
func (s Appointments) awaits(cause, causeID string) bool {
	return slices.ContainsFunc(s.open(), func(t *pb.Task) bool { return t.Cause == cause && t.CauseId == causeID })
}

func (s Appointments) openTask(id string) (*pb.Task, error) {
	t := s.Task(id)
	if t == nil {
		return nil, fault.NotFound("appointment.task.not_found", "there is no such task on this pathway")
	}
	if t.State != taskOpen {
		return nil, fault.Refused("appointment.task.not_open", "the task is booked or ended already")
	}
	return t, nil
}

// open returns the tasks that wait for a booking or a decision.
func (s Appointments) open() (tasks []*pb.Task) {
	for _, t := range s.tasks {
		if t.State == taskOpen {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

// raise is a task that a command leaves; each command leaves one at most.
func raise(command uuid.UUID, cause, causeID string, due nhs.Date, treatmentFunction string) *pb.ToBeBookedTaskRaised {
	return &pb.ToBeBookedTaskRaised{TaskId: derived(command, "task"), Cause: cause, CauseId: causeID, Due: due.String(), TreatmentFunction: treatmentFunction}
}

// RaiseTask raises a task for something that became due, once while it is open.
type RaiseTask struct {
	*pb.RaiseTaskRequest
	CommandID uuid.UUID
	Today     nhs.Date
}

// find returns the task that the request raised or found.
func (c RaiseTask) find(s Appointments) *pb.Task {
	if t := s.Task(derived(c.CommandID, "task")); t != nil {
		return t
	}
	for _, t := range s.open() {
		if t.Cause == c.Cause && t.CauseId == c.CauseId {
			return t
		}
	}
	return nil
}

// Decide implements the decision.
func (c RaiseTask) Decide(s Appointments) ([]proto.Message, error) {
	if c.find(s) != nil {
		return nil, nil
	}
	on := toBook(c.Today)
	if c.Due != "" {
		var err error
		if on, err = nhs.ParseDate(c.Due); err != nil {
			return nil, fault.Invalid("appointment.time.invalid", "due", "must be a date that exists, as YYYY-MM-DD")
		}
	}
	return []proto.Message{raise(c.CommandID, c.Cause, c.CauseId, on, c.TreatmentFunction)}, nil
}

// EndTask is a person's decision that no appointment is needed.
type EndTask struct{ *pb.EndTaskRequest }

// Decide implements the decision.
func (c EndTask) Decide(s Appointments) ([]proto.Message, error) {
	if c.Command.GetActor().GetRoleCode() == "" {
		return nil, fault.Denied("appointment.task.needs_person", "only a person in a role decides that no appointment is needed: set command.actor.role_code")
	}
	t, err := s.openTask(c.TaskId)
	if err != nil {
		return nil, err
	}
	return []proto.Message{&pb.ToBeBookedTaskEnded{TaskId: t.TaskId, ReasonCode: c.ReasonCode, Reason: c.Reason}}, nil
}

// RunTimers marks the open tasks whose day has passed. They stay open.
type RunTimers struct{ Today nhs.Date }

// Decide implements the decision.
func (c RunTimers) Decide(s Appointments) (events []proto.Message, err error) {
	for _, t := range s.open() {
		if due, err := nhs.ParseDate(t.Due); err == nil && !t.Overdue && due.Before(c.Today) {
			events = append(events, &pb.ToBeBookedTaskOverdue{TaskId: t.TaskId, Due: t.Due})
		}
	}
	return events, nil
}
