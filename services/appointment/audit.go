package appointment

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
// a day. What sessions and appointments say of one hold, and the pathways of one
// person of the same time, is posted, for a Meeting. It shares no code with the
// folds and the decisions.
type Audit struct {
	claims   map[string]*auditedClaim   // by session and slot id
	pathways map[string]*auditedPathway // by pathway id
	post     func(es.Fact)
}

type auditedClaim struct {
	hold, appointment string
	taken             bool
}

// auditedPathway is what is planned for the patient of one pathway.
type auditedPathway struct {
	appointments map[string]*auditedAppointment
	tasks        map[string]*auditedTask
	owed         map[string]string      // of the command at hand: what needs a task, and why
	stopping     []string               // appointments of a series that the command at hand stops
	due          map[string]es.Recorded // tests that became due, by item
	persons      []string               // as whose it started, the last one last: nearly always one
}

type auditedAppointment struct {
	status   string
	booking  *pb.Booking
	override bool // somebody said why the patient has another at that time
	noted    bool // it was found to overlap
	hold     held
	place    place
}

// held is what was posted of an appointment to the hold it is booked under.
type held struct{ hold, status string }

// place is what was posted of an appointment to the persons of its pathway.
type place struct {
	expected, excused bool // excused: an overlap was found, or somebody said why
	start, end        int64
}

type auditedTask struct{ cause, causeID, state, appointment string }

// Keys of facts.
const (
	ofHold   = "hold "
	ofPerson = "person "
)

// NewAudit returns an audit of sessions and pathways from their first events.
func NewAudit(post func(es.Fact)) *Audit {
	return &Audit{claims: map[string]*auditedClaim{}, pathways: map[string]*auditedPathway{}, post: post}
}

func (a *Audit) pathway(id string) *auditedPathway {
	p := a.pathways[id]
	if p == nil {
		p = &auditedPathway{appointments: map[string]*auditedAppointment{}, tasks: map[string]*auditedTask{}, owed: map[string]string{}}
		a.pathways[id] = p
	}
	return p
}

func (a *Audit) fact(e es.Entry, key, kind string, args ...string) {
	a.post(es.Fact{Key: key, Kind: kind, Args: args, At: e.Place()})
}

// Next takes the next event of the log, of any category.
func (a *Audit) Next(e es.Entry) error {
	switch category, id, _ := strings.Cut(e.Stream, "-"); category {
	case "session":
		return a.session(e)
	case "appointment":
		p := a.pathway(id)
		if e.Metadata.Index == 0 {
			clear(p.owed)
			p.stopping = nil
		}
		err := a.appointment(p, e)
		if v, ok := e.Event.(interface{ GetAppointmentId() string }); ok && p.appointments[v.GetAppointmentId()] != nil {
			a.tell(e, p, v.GetAppointmentId(), false)
		}
		if err != nil {
			return err
		}
		if e.Metadata.Index+1 == e.Metadata.Count {
			for _, what := range slices.Sorted(maps.Values(p.owed)) {
				return fmt.Errorf("a silent end: %s, and no task stands for what follows", what)
			}
		}
	case "pathway":
		if v, ok := e.Event.(*referralv1.PathwayStarted); ok {
			p := a.pathway(id)
			if p.persons = slices.DeleteFunc(p.persons, func(person string) bool { return person == v.PersonId }); v.PersonId != "" {
				p.persons = append(p.persons, v.PersonId)
			}
			for _, x := range slices.Sorted(maps.Keys(p.appointments)) {
				p.appointments[x].place = place{} // it is new to this person
				a.tell(e, p, x, false)
			}
		}
	case "plan":
		if v, ok := e.Event.(*planv1.ItemBecameDue); ok {
			p := a.pathway(id)
			if p.due == nil {
				p.due = map[string]es.Recorded{}
			}
			p.due[v.ItemId] = e.Place()
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
		a.fact(e, ofHold+v.HoldId, "is held", slotKey(id, v.SlotId))
	case *pb.SlotTaken:
		c := a.claims[slotKey(id, v.SlotId)]
		switch {
		case c != nil && c.taken && c.appointment != v.AppointmentId:
			return errors.New("a slot is taken by two appointments")
		case c != nil && c.hold != v.HoldId:
			return errors.New("a slot is taken by one who did not hold it")
		}
		a.claims[slotKey(id, v.SlotId)] = &auditedClaim{hold: v.HoldId, appointment: v.AppointmentId, taken: true}
		a.fact(e, ofHold+v.HoldId, "is taken", slotKey(id, v.SlotId))
	case *pb.SlotReleased:
		if c := a.claims[slotKey(id, v.SlotId)]; c == nil || c.hold != v.HoldId {
			return errors.New("a slot is given back that was not claimed so")
		}
		delete(a.claims, slotKey(id, v.SlotId))
		a.fact(e, ofHold+v.HoldId, "is released", slotKey(id, v.SlotId))
	case *pb.SessionSuspended:
		for _, d := range v.Displaced {
			a.fact(e, ofHold+d.HoldId, "is suspended", d.PathwayId+" "+d.AppointmentId)
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
	a.tell(e, p, id, true)
	if b.GetSessionId() != "" {
		_, pathway, _ := strings.Cut(e.Stream, "-")
		a.fact(e, ofHold+b.HoldId, "stands", pathway+" "+id, slotKey(b.SessionId, b.SlotId))
	}
	return nil
}

// tell posts what changed of an appointment, to its hold and to the persons of
// the pathway; stands says that it is booked at this event.
func (a *Audit) tell(e es.Entry, p *auditedPathway, id string, stands bool) {
	x := p.appointments[id]
	_, pathway, _ := strings.Cut(e.Stream, "-")
	now := held{}
	if x.expected() && x.booking.GetHoldId() != "" {
		now = held{x.booking.HoldId, x.status}
	}
	if was := x.hold; was != now {
		if was.hold != "" && was.hold != now.hold {
			a.fact(e, ofHold+was.hold, "is for", pathway+" "+id, "")
		}
		if now.hold != "" {
			a.fact(e, ofHold+now.hold, "is for", pathway+" "+id, now.status)
		}
		x.hold = now
	}
	at := place{x.expected() && x.booking != nil, x.override || x.noted, x.booking.GetStart().AsTime().UnixMicro(), x.booking.GetEnd().AsTime().UnixMicro()}
	if at == x.place && !stands {
		return
	}
	x.place = at
	for i, person := range p.persons {
		a.fact(e, ofPerson+person, "has", pathway, id, strconv.FormatBool(at.expected), strconv.FormatBool(at.excused),
			strconv.FormatInt(at.start, 10), strconv.FormatInt(at.end, 10), strconv.FormatBool(stands && i == len(p.persons)-1))
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

// End finds what only the end of the log shows: a test that nobody books.
func (a *Audit) End(last time.Time) []error {
	var found []error
	for _, id := range slices.Sorted(maps.Keys(a.pathways)) {
		p := a.pathways[id]
		for _, item := range slices.Sorted(maps.Keys(p.due)) {
			raised := p.task(func(t *auditedTask) bool { return t.cause == "surveillance_due" && t.causeID == item })
			if at := p.due[item]; last.Sub(at.Recorded) > patience && !raised {
				found = append(found, es.BreachAt(at, "a silent end: a test became due, and no task to book it was raised"))
			}
		}
	}
	return found
}

// Meeting checks what sessions and appointments say of each other: an appointment
// stands in a slot that is held for it and then taken, its slot is not given away,
// and it is cancelled when its session is suspended. And that no patient has to be
// in two places at one time, unless somebody was told or said why.
type Meeting struct {
	holds   map[string]*auditedHold
	persons map[string]*auditedPerson
}

// auditedHold is what was said of one hold.
type auditedHold struct {
	slots     map[string]bool   // that it claims: whether taken
	expected  map[string]string // appointments that are booked or arrived under it
	holder    string            // the appointment that was booked under it last
	stands    *awaited          // until its slot is taken
	suspended *awaited
}

// auditedPerson is where one person has to be, by pathway and appointment.
type auditedPerson struct {
	places map[[2]string]*place
	clash  map[[4]string]*awaited
}

// awaited is something that one service does because of another's event, or of
// one in another stream.
type awaited struct {
	at   es.Recorded
	text string
	done func() bool
}

func (w *awaited) missing(last time.Time) error {
	if w == nil || last.Sub(w.at.Recorded) <= patience || w.done() {
		return nil
	}
	return es.BreachAt(w.at, "%s", w.text)
}

// NewMeeting returns an audit of what an Audit posts.
func NewMeeting() *Meeting {
	return &Meeting{map[string]*auditedHold{}, map[string]*auditedPerson{}}
}

// Next takes the next fact about holds and persons.
func (a *Meeting) Next(f es.Fact) error {
	if strings.HasPrefix(f.Key, ofPerson) {
		return a.person(f)
	}
	h := a.holds[f.Key]
	if h == nil {
		h = &auditedHold{slots: map[string]bool{}, expected: map[string]string{}}
		a.holds[f.Key] = h
	}
	switch what := f.Args[0]; f.Kind {
	case "is held":
		h.slots[what] = false
	case "is taken":
		h.slots[what], h.stands = true, nil
	case "is released":
		if h.expected[h.holder] != "" {
			return errors.New("the slot of an appointment that stands is given away")
		}
		delete(h.slots, what)
	case "is for":
		if h.expected[what] = f.Args[1]; f.Args[1] == "" {
			delete(h.expected, what)
		}
	case "stands":
		slot := f.Args[1]
		h.holder = what
		if _, claimed := h.slots[slot]; !claimed {
			return errors.New("an appointment is booked in a slot that is not held for it")
		}
		h.stands = &awaited{f.At, "an appointment stands in a slot that is only held for it", func() bool { return h.expected[what] == "" || h.slots[slot] }}
	case "is suspended":
		h.suspended = &awaited{f.At, "a session was suspended, and an appointment in it was not cancelled", func() bool { return h.expected[what] != "booked" }}
	}
	return nil
}

// person awaits that an overlap between two pathways of a person is found, unless
// somebody said why.
func (a *Meeting) person(f es.Fact) error {
	p := a.persons[f.Key]
	if p == nil {
		p = &auditedPerson{map[[2]string]*place{}, map[[4]string]*awaited{}}
		a.persons[f.Key] = p
	}
	pathway, id := f.Args[0], f.Args[1]
	start, err := strconv.ParseInt(f.Args[4], 10, 64)
	if err != nil {
		return err
	}
	end, err := strconv.ParseInt(f.Args[5], 10, 64)
	if err != nil {
		return err
	}
	x := p.places[[2]string{pathway, id}]
	if x == nil {
		x = &place{}
		p.places[[2]string{pathway, id}] = x
	}
	*x = place{f.Args[2] == "true", f.Args[3] == "true", start, end}
	if f.Args[6] != "true" {
		return nil
	}
	for key, y := range p.places {
		clash := func() bool {
			return x.expected && y.expected && !x.excused && !y.excused && x.start < y.end && y.start < x.end
		}
		if key[0] != pathway && clash() {
			p.clash[[4]string{pathway, id, key[0], key[1]}] = &awaited{f.At, "a patient is booked in two places at one time, and nobody was told", func() bool { return !clash() }}
		}
	}
	return nil
}

// End finds what only the end of the log shows: what a reaction has left undone.
// Those of one person come in no order.
func (a *Meeting) End(last time.Time) []error {
	var found []error
	add := func(w *awaited) {
		if err := w.missing(last); err != nil {
			found = append(found, err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(a.holds)) {
		add(a.holds[key].stands)
		add(a.holds[key].suspended)
	}
	for _, key := range slices.Sorted(maps.Keys(a.persons)) {
		for _, w := range a.persons[key].clash {
			add(w)
		}
	}
	return found
}
