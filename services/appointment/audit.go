package appointment

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	pb "waymark/proto/waymark/appointment/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
)

// Audit checks from the events alone that no slot has two appointments, that a
// slot is not given away while an appointment stands in it, and that nothing
// ends silently: what is planned for a patient has an appointment or a task with
// a day. It shares no code with the folds and the decisions.
type Audit struct {
	claims   map[string]*auditedClaim       // by session stream and slot id
	pathways map[string]*auditedPathway     // by pathway id
	persons  map[string][]string            // person id to the pathways that started as theirs
	of       map[string]string              // pathway id to person id
	holders  map[string]*auditedAppointment // by the hold under which each was booked
	awaited  map[string]awaited             // what a reaction must still do, by what it is about
	last     time.Time                      // recorded time of the newest event
}

type auditedClaim struct {
	hold, appointment string
	taken             bool
}

// auditedPathway is what is planned for the patient of one pathway.
type auditedPathway struct {
	appointments map[string]*auditedAppointment
	tasks        map[string]*auditedTask
	owed         map[string]string // of the command at hand: what needs a task, and why
	stopping     []string          // appointments of a series that the command at hand stops
}

type auditedAppointment struct {
	status   string
	booking  *pb.Booking
	override bool // somebody said why the patient has another at that time
	noted    bool // it was found to overlap
}

type auditedTask struct{ cause, causeID, state, appointment string }

// awaited is something that one service does because of another's event, or of
// one in another stream.
type awaited struct {
	at   es.Entry
	text string
	done func() bool
}

// NewAudit returns an audit of a log from its first event.
func NewAudit() *Audit {
	return &Audit{persons: map[string][]string{}, of: map[string]string{}, claims: map[string]*auditedClaim{}, pathways: map[string]*auditedPathway{}, holders: map[string]*auditedAppointment{}, awaited: map[string]awaited{}}
}

func (a *Audit) pathway(id string) *auditedPathway {
	p := a.pathways[id]
	if p == nil {
		p = &auditedPathway{map[string]*auditedAppointment{}, map[string]*auditedTask{}, map[string]string{}, nil}
		a.pathways[id] = p
	}
	return p
}

// Next takes the next event of the log, of any category.
func (a *Audit) Next(e es.Entry) error {
	a.last = e.Recorded.Recorded
	switch category, id, _ := strings.Cut(e.Stream, "-"); category {
	case "session":
		return a.session(e)
	case "appointment":
		p := a.pathway(id)
		if e.Metadata.Index == 0 {
			clear(p.owed)
			p.stopping = nil
		}
		if err := a.appointment(p, e); err != nil {
			return err
		}
		if e.Metadata.Index+1 == e.Metadata.Count {
			for _, what := range slices.Sorted(maps.Values(p.owed)) {
				return fmt.Errorf("a silent end: %s, and no task stands for what follows", what)
			}
		}
	case "pathway":
		if v, ok := e.Event.(*referralv1.PathwayStarted); ok {
			a.of[id] = v.PersonId
			a.persons[v.PersonId] = append(a.persons[v.PersonId], id)
		}
	case "plan":
		if v, ok := e.Event.(*planv1.ItemBecameDue); ok {
			p := a.pathway(id)
			a.awaited["due "+id+" "+v.ItemId] = awaited{e, "a silent end: a test became due, and no task to book it was raised", func() bool {
				return p.task(func(t *auditedTask) bool { return t.cause == "surveillance_due" && t.causeID == v.ItemId })
			}}
		}
	}
	return nil
}

func slotKey(session, slot string) string { return session + " " + slot }

func (a *Audit) session(e es.Entry) error {
	id := strings.TrimPrefix(e.Stream, "session-")
	switch v := e.Event.(type) {
	case *pb.SlotHeld:
		c := a.claims[slotKey(id, v.SlotId)]
		switch {
		case c != nil && c.taken && c.appointment != v.AppointmentId:
			return errors.New("a slot is held that another appointment has taken")
		case c != nil && c.hold != v.HoldId:
			return errors.New("a slot is held that is held already")
		}
		a.claims[slotKey(id, v.SlotId)] = &auditedClaim{hold: v.HoldId, appointment: v.AppointmentId}
	case *pb.SlotTaken:
		c := a.claims[slotKey(id, v.SlotId)]
		switch {
		case c != nil && c.taken && c.appointment != v.AppointmentId:
			return errors.New("a slot is taken by two appointments")
		case c != nil && c.hold != v.HoldId:
			return errors.New("a slot is taken by one who did not hold it")
		}
		a.claims[slotKey(id, v.SlotId)] = &auditedClaim{hold: v.HoldId, appointment: v.AppointmentId, taken: true}
		delete(a.awaited, "taken "+v.HoldId)
	case *pb.SlotReleased:
		if c := a.claims[slotKey(id, v.SlotId)]; c == nil || c.hold != v.HoldId {
			return errors.New("a slot is given back that was not claimed so")
		}
		if x := a.holders[v.HoldId]; x != nil && x.expected() && x.booking.GetHoldId() == v.HoldId {
			return errors.New("the slot of an appointment that stands is given away")
		}
		delete(a.claims, slotKey(id, v.SlotId))
	case *pb.SessionSuspended:
		for _, d := range v.Displaced {
			p := a.pathway(d.PathwayId)
			a.awaited["suspended "+d.HoldId] = awaited{e, "a session was suspended, and an appointment in it was not cancelled", func() bool {
				x := p.appointments[d.AppointmentId]
				return x == nil || x.status != "booked" || x.booking.GetHoldId() != d.HoldId
			}}
		}
	}
	return nil
}

func (x *auditedAppointment) expected() bool { return x.status == "booked" || x.status == "arrived" }

func (p *auditedPathway) task(is func(*auditedTask) bool) bool {
	for _, t := range p.tasks {
		if is(t) {
			return true
		}
	}
	return false
}

// stand puts an appointment in its slot.
func (a *Audit) stand(e es.Entry, p *auditedPathway, id string, b *pb.Booking, override bool) error {
	if p.appointments[id] == nil {
		p.appointments[id] = &auditedAppointment{}
	}
	x := p.appointments[id]
	x.status, x.booking, x.override = "booked", b, override
	a.twoPlaces(e, p, id, x)
	if b.GetSessionId() == "" {
		return nil
	}
	a.holders[b.HoldId] = x
	c := a.claims[slotKey(b.SessionId, b.SlotId)]
	if c == nil || c.hold != b.HoldId {
		return errors.New("an appointment is booked in a slot that is not held for it")
	}
	a.awaited["taken "+b.HoldId] = awaited{e, "an appointment stands in a slot that is only held for it", func() bool {
		return !x.expected() || x.booking.GetHoldId() != b.HoldId || a.claims[slotKey(b.SessionId, b.SlotId)].taken
	}}
	return nil
}

// twoPlaces awaits that an overlap with another pathway of the person is found,
// unless somebody said why.
func (a *Audit) twoPlaces(e es.Entry, p *auditedPathway, id string, x *auditedAppointment) {
	_, pathway, _ := strings.Cut(e.Stream, "-")
	clash := func(y *auditedAppointment) bool {
		return x.expected() && y.expected() && !x.override && !y.override && !x.noted && !y.noted &&
			x.booking.Start.AsTime().Before(y.booking.End.AsTime()) && y.booking.Start.AsTime().Before(x.booking.End.AsTime())
	}
	for _, other := range a.persons[a.of[pathway]] {
		if other == pathway {
			continue
		}
		for key, y := range a.pathway(other).appointments {
			if y.booking != nil && clash(y) {
				a.awaited["two places "+id+" "+key] = awaited{e, "a patient is booked in two places at one time, and nobody was told", func() bool { return !clash(y) }}
			}
		}
	}
}

func (a *Audit) appointment(p *auditedPathway, e es.Entry) error {
	known := func(id string) (*auditedAppointment, error) {
		x := p.appointments[id]
		if x == nil {
			return nil, errors.New("something happens to an appointment that was never made")
		}
		return x, nil
	}
	named, _ := e.Event.(interface{ GetAppointmentId() string })
	switch v := e.Event.(type) {
	case *pb.AppointmentRequested:
		p.appointments[v.AppointmentId] = &auditedAppointment{status: "proposed"}
		p.owed[v.AppointmentId] = "an appointment is wanted"
	case *pb.AppointmentBooked:
		if x := p.appointments[v.AppointmentId]; x != nil && x.status != "proposed" {
			return errors.New("an appointment is booked that is booked or over")
		}
		return a.stand(e, p, v.AppointmentId, v.Booking, v.OverlapOverrideReason != "")
	case *pb.AppointmentRescheduled:
		x, err := known(v.AppointmentId)
		if err == nil && x.status != "booked" {
			err = errors.New("an appointment is moved that is not booked")
		}
		if err != nil {
			return err
		}
		return a.stand(e, p, v.AppointmentId, v.To, v.OverlapOverrideReason != "")
	case *pb.AppointmentCancelled:
		x, err := known(v.AppointmentId)
		if err != nil {
			return err
		}
		switch x.status {
		case "booked", "proposed":
			if slices.Contains(p.stopping, v.AppointmentId) {
				break // one task stands for all
			}
			if !p.task(func(t *auditedTask) bool { return t.causeID == v.AppointmentId && t.state == "open" }) {
				p.owed[v.AppointmentId] = "an appointment is cancelled"
			}
		default:
			return errors.New("an appointment is cancelled that is over")
		}
		x.status = "cancelled"
	case *pb.AppointmentFulfilled:
		x, err := known(v.AppointmentId)
		if err != nil {
			return err
		}
		if x.status = "fulfilled"; v.NextAppointmentId != "" {
			next := p.appointments[v.NextAppointmentId]
			if next == nil || next.status != "booked" {
				return errors.New("a silent end: the next appointment that was given is not booked")
			}
		} else if v.OutcomeCode != "1" {
			p.owed[v.AppointmentId] = "a patient is to be seen again"
		}
	case *pb.PatientDidNotAttend:
		x, err := known(v.AppointmentId)
		if err != nil {
			return err
		}
		if v.OutcomeCode == "1" {
			return errors.New("a silent end: one missed appointment discharges a patient")
		}
		x.status = "noshow"
		p.owed[v.AppointmentId] = "a patient did not attend"
	case *pb.AppointmentEnteredInError:
		x, err := known(v.AppointmentId)
		if err != nil {
			return err
		}
		if x.expected() || x.status == "fulfilled" {
			if p.task(func(t *auditedTask) bool { return t.state == "booked" && t.appointment == v.AppointmentId }) {
				p.owed[v.AppointmentId] = "the appointment that answered a task is struck"
			}
		}
		x.status = "struck"
	case *pb.SeriesStopped:
		p.owed[v.SeriesId], p.stopping = "a series is stopped", v.AppointmentIds
	case *pb.OverlapFound:
		x, err := known(v.AppointmentId)
		if err != nil {
			return err
		}
		x.noted = true
	case *pb.PatientArrived:
		x, err := known(v.AppointmentId)
		if err != nil {
			return err
		}
		x.status = "arrived"
	case *pb.AppointmentAmended:
		x, err := known(v.AppointmentId)
		if err != nil {
			return err
		}
		x.booking = v.Booking
	case *pb.DischargeRecorded:
		if v.FollowUpIntended {
			p.owed[v.VisitId] = "a patient is discharged to be followed up"
		}
	case *pb.ToBeBookedTaskRaised:
		if _, err := nhs.ParseDate(v.Due); err != nil {
			return errors.New("a task to book has no day by which")
		}
		if p.tasks[v.TaskId] != nil {
			return errors.New("a task is raised twice")
		}
		p.tasks[v.TaskId] = &auditedTask{cause: v.Cause, causeID: v.CauseId, state: "open"}
		delete(p.owed, v.CauseId)
	case *pb.ToBeBookedTaskBooked:
		t, x := p.tasks[v.TaskId], p.appointments[v.AppointmentId]
		switch {
		case t == nil || t.state != "open":
			return errors.New("a task is answered that is not open")
		case x == nil || !x.expected():
			return errors.New("a silent end: a task is answered by an appointment that is not booked")
		}
		t.state, t.appointment = "booked", v.AppointmentId
	case *pb.ToBeBookedTaskEnded:
		t := p.tasks[v.TaskId]
		switch {
		case t == nil || t.state != "open":
			return errors.New("a task ends that is not open")
		case e.Metadata.Actor.Role == "" || v.ReasonCode == "":
			return errors.New("a silent end: a task ends without a person's decision")
		}
		t.state = "ended"
	case *pb.AttendanceConfirmed, *pb.ChangeRequestedByPatient, *pb.NeedsNotMet, *pb.ClockAdjustmentProposed, *pb.HolderToldOfMissedAppointment:
		_, err := known(named.GetAppointmentId())
		return err
	}
	return nil
}

// patience is how long the doing of a reaction may lie behind what it reacts to
// before it counts as missing. Recorded times, so that an outage which is over is
// no fault: whatever was caught up with is there.
const patience = time.Hour

// End finds what only the end of the log shows: what a reaction has left undone.
func (a *Audit) End() []error {
	var found []error
	for _, key := range slices.Sorted(maps.Keys(a.awaited)) {
		if w := a.awaited[key]; a.last.Sub(w.at.Recorded.Recorded) > patience && !w.done() {
			found = append(found, es.BreachAt(w.at.Recorded, "%s", w.text))
		}
	}
	return found
}
