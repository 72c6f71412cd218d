package appointment

import (
	"fmt"
	"strings"

	pb "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/es"
)

// Audit checks that no slot of a session is ever taken by two appointments,
// from the events alone. It shares no code with the fold and the decisions.
type Audit struct {
	taken map[string]string // session stream and slot id to the appointment that has it
}

// NewAudit returns an audit of a log from its first event.
func NewAudit() *Audit { return &Audit{map[string]string{}} }

// Next takes the next event of the log, of any category.
func (a *Audit) Next(e es.Entry) error {
	if !strings.HasPrefix(e.Stream, "session-") {
		return nil
	}
	switch v := e.Event.(type) {
	case *pb.SlotHeld:
		if by := a.taken[e.Stream+" "+v.SlotId]; by != "" && by != v.AppointmentId {
			return fmt.Errorf("a slot is held that another appointment has taken")
		}
	case *pb.SlotTaken:
		if by := a.taken[e.Stream+" "+v.SlotId]; by != "" && by != v.AppointmentId {
			return fmt.Errorf("a slot is taken by two appointments")
		}
		a.taken[e.Stream+" "+v.SlotId] = v.AppointmentId
	case *pb.SlotReleased:
		if a.taken[e.Stream+" "+v.SlotId] == v.AppointmentId {
			delete(a.taken, e.Stream+" "+v.SlotId)
		}
	}
	return nil
}

// End finds what only the end of the log shows: nothing.
func (a *Audit) End() []error { return nil }
