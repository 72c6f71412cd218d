package sim

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
)

// client works with the services as a trust's system does: one command after the
// other, each with its id until it is answered. A refusal is an answer, and life
// goes on.
type client struct {
	w     *world
	a     *actor
	wire  *caller
	calls int
}

// clients starts those who work with the services: one manages leads and clinic
// sessions, the others have patients. They share leads, slots and NHS numbers.
func (w *world) clients(all *sync.WaitGroup) {
	if w.opt.Clients == 0 {
		return
	}
	for n := range w.opt.Clients {
		c := w.client(fmt.Sprint("client ", n))
		all.Go(func() {
			for range w.opt.Patients {
				c.patient()
			}
		})
	}
	m := w.client("manager")
	all.Go(m.manage)
}

func (w *world) client(name string) *client {
	a := w.actor(name)
	return &client{w: w, a: a, wire: &caller{wire: wire{a, w.life}}}
}

// chance is a decision of the client.
func (c *client) chance(percent int) bool { return chance(c.a.draw("chance"), percent) }

func (c *client) pick(n int) int { return c.a.draw("pick").IntN(n) }

// send sends a command of an organisation and returns its answer, nil when it
// was refused.
func send[R proto.Message](c *client, organisation string, req proto.Message) (reply R, ok bool) {
	_ = c.a.wait(c.w.life, "think", 150*time.Millisecond)
	method := methodOf(req)
	c.calls++
	user := "555000222"
	if organisation == "RRV" { // all leads are one person
		user = "555000333"
	}
	command := &metav1.Command{CommandId: c.id(fmt.Sprint("command ", c.calls)), Actor: &metav1.Actor{User: user, RoleCode: "R0050", Organisation: organisation}}
	m := req.ProtoReflect()
	if f := m.Descriptor().Fields().ByName("command"); f != nil {
		m.Set(f, protoreflect.ValueOfMessage(command.ProtoReflect()))
	}
	reply = reply.ProtoReflect().New().Interface().(R)
	name := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	err := c.w.untilAnswered(c.a, 3*time.Second, func(ctx context.Context) error {
		proto.Reset(reply)
		return c.wire.Invoke(ctx, name, req, reply)
	})
	switch {
	case err == nil:
		c.w.answered(string(method.Name()), true)
		return reply, true
	case refusal(err):
		c.w.answered(string(method.Name()), false)
	case c.w.life.Err() == nil:
		c.w.fail("%s was answered with %v", method.FullName(), err)
	}
	return reply, false
}

func (c *client) id(what string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, c.w.seed, c.a.name, what)).String()
}

func methodOf(req proto.Message) protoreflect.MethodDescriptor {
	want := req.ProtoReflect().Descriptor()
	services := want.ParentFile().Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			if m := services.Get(i).Methods().Get(j); m.Input() == want {
				return m
			}
		}
	}
	panic("sim: no method takes " + string(want.FullName()))
}

// from makes a request of JSON.
func from[R proto.Message](text string, args ...any) (req R) {
	req = req.ProtoReflect().New().Interface().(R)
	if err := protojson.Unmarshal(fmt.Appendf(nil, text, args...), req); err != nil {
		panic(fmt.Sprintf("sim: %s: %v", req.ProtoReflect().Descriptor().Name(), err))
	}
	return req
}

// day is a date some days from now.
func (c *client) day(days int) string {
	return c.w.clock().AddDate(0, 0, days).Format(time.DateOnly)
}

func (c *client) instant(d time.Duration) string {
	return c.w.clock().Add(d).UTC().Format(time.RFC3339)
}

// numbers are of nobody: they are of the range for tests.
func numbers() []string {
	return []string{"9990000018", "9990000026", "9990000034", "9990000042", "9990000050", "9990000069"}
}

func trusts() []string { return []string{"RJ1", "RJZ"} }

const neighbourhood = "peckham"

func leads() []string { return []string{"lead-0", "lead-1", "lead-2"} }

// patient goes through a life on a pathway, as far as it gets.
func (c *client) patient() {
	trust := trusts()[c.pick(2)]
	number, status := numbers()[c.pick(len(numbers()))], "01"
	if c.chance(20) {
		number, status = "", "07"
	}
	person, ok := send[*personv1.PersonReply](c, trust, from[*personv1.RegisterPersonRequest](
		`{"nhsNumber": %q, "nhsNumberStatus": %q, "demographics": {"practice": "G85004"}, "source": {"kind": "SOURCE_KIND_LOCAL", "system": "sim", "sentAt": %q}}`, number, status, c.instant(-time.Hour)))
	if !ok {
		return
	}
	id := person.Person.PersonId
	started, ok := send[*referralv1.PathwayReply](c, trust, from[*referralv1.StartPathwayRequest](
		`{"personId": %q, "facts": {"receivedOn": %q, "priority": "3", "referralType": "01", "source": "03", "responsibleTeam": {"organisation": %q, "name": "Breast", "code": "BREAST"}}}`, id, c.day(-90), trust))
	if !ok {
		return
	}
	p := started.Pathway.PathwayId
	send[*referralv1.PathwayReply](c, trust, from[*referralv1.RecordFirstSeenRequest](`{"pathwayId": %q, "facts": {"on": %q, "organisation": %q}}`, p, c.day(-80), trust))
	if c.chance(10) {
		send[*referralv1.PathwayReply](c, trust, from[*referralv1.CommunicateCancerRuledOutRequest](
			`{"pathwayId": %q, "facts": {"told": {"on": %q, "method": "OUTCOME_METHOD_FACE_TO_FACE", "organisation": %q}, "endReason": "02"}}`, p, c.day(-70), trust))
		send[*referralv1.PathwayReply](c, trust, from[*referralv1.ClosePathwayRequest](`{"pathwayId": %q, "facts": {"on": %q, "reason": "CLOSE_REASON_CANCER_RULED_OUT"}}`, p, c.day(-1)))
		return
	}
	send[*referralv1.PathwayReply](c, trust, from[*referralv1.CommunicateDiagnosisRequest](
		`{"pathwayId": %q, "facts": {"told": {"on": %q, "method": "OUTCOME_METHOD_FACE_TO_FACE", "organisation": %q}, "tumourGroup": "01"}}`, p, c.day(-70), trust))
	send[*referralv1.PathwayReply](c, trust, from[*referralv1.RecordDecisionToTreatRequest](`{"pathwayId": %q, "facts": {"on": %q, "organisation": %q}}`, p, c.day(-60), trust))
	c.book(trust, p)
	if c.chance(15) {
		other := trusts()[(c.pick(1)+1)%2]
		send[*referralv1.PathwayReply](c, trust, from[*referralv1.TransferToTreatingProviderRequest](
			`{"pathwayId": %q, "facts": {"on": %q, "investigatingProvider": %q, "treatingProvider": %q}}`, p, c.day(-55), trust, other))
	}
	send[*referralv1.PathwayReply](c, trust, from[*referralv1.StartTreatmentRequest](
		`{"pathwayId": %q, "facts": {"on": %q, "eventType": "01", "modality": "01", "setting": "TREATMENT_SETTING_DAY_CASE", "organisation": %q}}`, p, c.day(-50), trust))
	send[*referralv1.PathwayReply](c, trust, from[*referralv1.EndTreatmentPeriodRequest](`{"pathwayId": %q, "facts": {"on": %q, "lastPeriod": true, "organisation": %q}}`, p, c.day(-3), trust))
	c.plan(trust, p)
	for range 1 + c.pick(2) {
		c.handover(trust, p)
	}
	c.change(trust, id, p)
}

// book tries slots of a session that all share, until one is free.
func (c *client) book(trust, pathway string) {
	session := c.w.sessionID(c.pick(2))
	for range 2 {
		booked, ok := send[*appointmentv1.AppointmentReply](c, trust, from[*appointmentv1.BookAppointmentRequest](
			`{"pathwayId": %q, "purpose": "Clinic", "place": {"slot": {"sessionId": %q, "slotId": %q}}}`, pathway, session, c.w.slotID(session, c.pick(slots))))
		if !ok {
			continue
		}
		if c.chance(25) {
			send[*appointmentv1.AppointmentReply](c, trust, from[*appointmentv1.CancelAppointmentRequest](
				`{"pathwayId": %q, "appointmentId": %q, "seenVersion": "%d", "by": "CANCELLED_BY_PATIENT", "reason": "away"}`, pathway, booked.Appointment.AppointmentId, booked.Appointment.Version))
		}
		return
	}
}

// plan does now and then what a handover asks for; without it somebody overrides.
func (c *client) plan(trust, p string) {
	if !c.chance(30) {
		return
	}
	send[*planv1.PlanReply](c, trust, from[*planv1.RecordPatientAgreementRequest](`{"pathwayId": %q, "agreed": true, "on": %q, "agreedBy": "patient"}`, p, c.day(-1)))
	send[*planv1.PlanReply](c, trust, from[*planv1.PublishPlanRequest](`{"pathwayId": %q, "reviewDue": %q, "sharedWithPatient": true}`, p, c.day(180)))
	send[*planv1.PlanReply](c, trust, from[*planv1.RecordSurveillanceNotNeededRequest](`{"pathwayId": %q, "reason": "the GP follows up"}`, p))
}

// handover offers a patient to a lead, and what becomes of the offer is anybody's.
func (c *client) handover(trust, p string) {
	lead := leads()[c.pick(len(leads()))]
	send[*careleadv1.LedgerReply](c, trust, from[*careleadv1.PrepareHandoverRequest](
		`{"pathwayId": %q, "kind": "HANDOVER_KIND_TO_LEAD", "patientInformed": true, "consentToShare": true, "overrideReason": "the lead asked to begin", "overrideSecondPerson": "555000223"}`, p))
	offered, ok := send[*careleadv1.LedgerReply](c, trust, from[*careleadv1.OfferHandoverRequest](`{"pathwayId": %q, "kind": "HANDOVER_KIND_TO_LEAD", "leadId": %q}`, p, lead))
	if !ok {
		return
	}
	h := offered.Ledger.GetHandover().GetHandoverId()
	switch c.pick(6) {
	case 0, 1, 2:
		if c.chance(50) {
			send[*careleadv1.LedgerReply](c, "RRV", from[*careleadv1.AcknowledgeOfferRequest](`{"pathwayId": %q, "handoverId": %q}`, p, h))
		}
		if _, ok := send[*careleadv1.LedgerReply](c, "RRV", from[*careleadv1.AcceptHandoverRequest](`{"pathwayId": %q, "handoverId": %q}`, p, h)); ok && c.chance(50) {
			send[*careleadv1.LedgerReply](c, "RRV", from[*careleadv1.RecordFirstContactRequest](`{"pathwayId": %q, "made": true, "on": %q, "medium": "TELEPHONE"}`, p, c.day(0)))
		}
	case 3:
		send[*careleadv1.LedgerReply](c, "RRV", from[*careleadv1.DeclineHandoverRequest](`{"pathwayId": %q, "handoverId": %q, "reason": "DECLINE_REASON_CAPACITY"}`, p, h))
	case 4:
		send[*careleadv1.LedgerReply](c, trust, from[*careleadv1.WithdrawHandoverRequest](`{"pathwayId": %q, "handoverId": %q, "reason": "wrong team"}`, p, h))
	case 5: // nobody answers: days pass
		_ = c.a.sleep(c.w.life, "days", 14*time.Second)
		send[*careleadv1.LedgerReply](c, trust, from[*careleadv1.RunTimersRequest](`{"pathwayId": %q}`, p))
		send[*careleadv1.LedgerReply](c, "RRV", from[*careleadv1.AcceptHandoverRequest](`{"pathwayId": %q, "handoverId": %q}`, p, h))
	}
}

// change is what comes between: a death, a merge, cover, an end.
func (c *client) change(trust, person, p string) {
	switch c.pick(6) {
	case 0:
		send[*personv1.PersonReply](c, trust, from[*personv1.NoteDeathRequest](`{"personId": %q, "status": %q, "diedOn": %q}`, person, []string{"1", "2"}[c.pick(2)], c.day(-1)))
		if c.chance(30) {
			send[*personv1.PersonReply](c, trust, from[*personv1.NoteDeathRequest](`{"personId": %q, "status": "U"}`, person))
		}
	case 1:
		other, ok := send[*personv1.PersonReply](c, trust, from[*personv1.RegisterPersonRequest](
			`{"nhsNumberStatus": "07", "source": {"kind": "SOURCE_KIND_LOCAL", "system": "sim", "sentAt": %q}}`, c.instant(-time.Hour)))
		if ok {
			send[*personv1.PersonReply](c, trust, from[*personv1.MergePersonsRequest](`{"survivingPersonId": %q, "mergedPersonId": %q}`, person, other.Person.PersonId))
		}
	case 2:
		send[*careleadv1.LedgerReply](c, "RRV", from[*careleadv1.ArrangeCoverRequest](`{"pathwayId": %q, "coverLeadId": %q, "starts": %q, "ends": %q}`,
			p, leads()[c.pick(len(leads()))], c.instant(12*time.Hour), c.instant(72*time.Hour)))
	case 3:
		send[*referralv1.PathwayReply](c, trust, from[*referralv1.ClosePathwayRequest](`{"pathwayId": %q, "facts": {"on": %q, "reason": "CLOSE_REASON_PATIENT_CHOICE"}}`, p, c.day(0)))
	}
}

const slots = 3

func (w *world) sessionID(n int) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, w.seed, "session", n)).String()
}

func (w *world) slotID(session string, n int) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, session, n)).String()
}

// manage sets up a neighbourhood, leads with few places and sessions with few
// slots, and then lets leads come and go.
func (c *client) manage() {
	party := func(id, kind string) string {
		return fmt.Sprintf(`{"kind": "PARTY_KIND_%s", "id": %q, "name": %q, "organisation": "RRV", "sdsUserId": "555000333", "roleCode": "R9801"}`, kind, id, id)
	}
	send[*careleadv1.NeighbourhoodReply](c, "RRV", from[*careleadv1.DefineNeighbourhoodRequest](
		`{"neighbourhoodId": %q, "name": "Peckham", "organisation": "RRV", "practices": ["G85004"], "manager": %s, "allianceContact": %s}`,
		neighbourhood, party("manager", "PERSON_IN_ROLE"), party("alliance", "PERSON_IN_ROLE")))
	if c.chance(70) {
		send[*careleadv1.NeighbourhoodReply](c, "RRV", from[*careleadv1.AcceptFallbackRequest](
			`{"neighbourhoodId": %q, "pool": {"kind": "PARTY_KIND_FALLBACK_POOL", "id": "pool", "name": "Pool", "organisation": "RRV", "telephone": "020 7946 0001", "hours": "Mon-Fri 9-17"}, "until": %q, "outOfHoursMessage": "Call 111"}`, neighbourhood, c.instant(4000*time.Hour)))
	}
	for _, lead := range leads() {
		send[*careleadv1.LeadReply](c, "RRV", from[*careleadv1.RegisterLeadRequest](`{"leadId": %q, "party": %s, "neighbourhoodIds": [%q], "languages": ["en"], "capacity": %d}`,
			lead, party(lead, "PERSON_IN_ROLE"), neighbourhood, 1+c.pick(3)))
		send[*careleadv1.LeadReply](c, "RRV", from[*careleadv1.ActivateLeadRequest](`{"leadId": %q}`, lead))
	}
	for n := range 2 {
		session := c.w.sessionID(n)
		var list []string
		for i := range slots {
			at := c.w.dawn().AddDate(0, 0, 60+n).Add(time.Duration(i) * 30 * time.Minute)
			list = append(list, fmt.Sprintf(`{"slotId": %q, "start": %q, "end": %q}`, c.w.slotID(session, i), at.Format(time.RFC3339), at.Add(20*time.Minute).Format(time.RFC3339)))
		}
		send[*appointmentv1.SessionReply](c, trusts()[0], from[*appointmentv1.OpenSessionRequest](
			`{"sessionId": %q, "organisation": %q, "site": "RJ101", "treatmentFunction": "103", "modality": "consultation", "medium": "MEDIUM_FACE_TO_FACE", "slots": [%s]}`, session, trusts()[0], strings.Join(list, ",")))
	}
	for range 2 + c.pick(3) {
		_ = c.a.wait(c.w.life, "between", 2*time.Second)
		lead := leads()[c.pick(len(leads()))]
		switch c.pick(4) {
		case 0:
			send[*careleadv1.LeadReply](c, "RRV", from[*careleadv1.BookLeaveRequest](`{"leadId": %q, "starts": %q, "ends": %q}`, lead, c.instant(6*time.Hour), c.instant(48*time.Hour)))
		case 1:
			send[*careleadv1.LeadReply](c, "RRV", from[*careleadv1.ReportSicknessRequest](`{"leadId": %q, "expectedBack": %q}`, lead, c.instant(48*time.Hour)))
		case 2:
			send[*careleadv1.LeadReply](c, "RRV", from[*careleadv1.ReturnFromLeaveRequest](`{"leadId": %q}`, lead))
		case 3:
			send[*appointmentv1.SessionReply](c, trusts()[0], from[*appointmentv1.SuspendSessionRequest](`{"sessionId": %q, "reason": "no clinician"}`, c.w.sessionID(c.pick(2))))
		}
	}
}
