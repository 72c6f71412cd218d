// Package appointment keeps what is planned for the patient of a pathway, and the
// clinic sessions whose slots it takes.
//
// Two kinds of stream:
//
//	appointment.go  appointment-<pathway id>  appointments, with attend.go, task.go, visit.go
//	session.go      session-<session id>      a clinic session with its slots
//
// A slot is claimed in its session's stream, at one revision, so that no two
// appointments can have it, whoever their patients are. A booking spans both
// streams (booking.go); the claim is named by the command's id. What a crash
// leaves between the two is finished by the repeat of the command, by the
// reaction to the event (react.go) or by the timer of the session (sweep.go).
//
// Nothing ends silently: what follows an appointment is another appointment or a
// task with a day, and a task ends by a booking or by a person's decision.
package appointment
