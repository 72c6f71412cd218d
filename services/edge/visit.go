package edge

import (
	"context"
	"slices"
	"strings"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// visit is the visit that PV1-19 of this facility stands for, as the appointment
// service has it: its pathway, and nil when it is not recorded.
func (w *work) visit(ctx context.Context, id string) (pathway string, v *appointmentv1.Visit, err error) {
	for _, pathway := range w.pathways() {
		list, err := w.service.appointments.ListAppointments(ctx, &appointmentv1.ListAppointmentsRequest{PathwayId: pathway})
		if err != nil {
			return "", nil, answered(err, "PV1-19")
		}
		if i := slices.IndexFunc(list.Visits, func(v *appointmentv1.Visit) bool { return v.VisitId == id }); i >= 0 {
			return pathway, list.Visits[i], nil
		}
	}
	return "", nil, nil
}

// visitOf identifies the patient, then the visit: the sender's organisation with
// PV1-19, or where that is empty PV1-50 or the account, PID-18. HL7 asks for none.
func (w *work) visitOf(ctx context.Context) (id string, outdated bool, err error) {
	if _, err := w.subject(ctx); err != nil {
		return "", false, err
	}
	number, field := w.m.firstOf("PV1-19", "PV1-50", "PID-18")
	if number == "" {
		if _, err := w.pathway(ctx); err != nil {
			return "", false, err
		}
		return "", false, park("edge.visit.unidentified", "PV1-19", "the visit has no number, so that nothing later could be told to be about it: redrive it with PV1-19")
	}
	id = w.m.org + "/" + number
	if len(id) > 60 {
		return "", false, refuse("edge.field.invalid", field, "the number of a visit has at most 60 characters with the facility's code")
	}
	return id, w.thing("visit", id), nil
}

// at reads the time of the first of some fields that has one.
func (w *work) at(fields ...string) (string, error) {
	text, field := w.m.firstOf(fields...)
	if len(text) == 8 {
		text += "0000" // only the day is known
	}
	at, ok := clockTime(text)
	if !ok {
		return "", refuse("edge.field.invalid", field, "a time is YYYYMMDDHHMM[SS][+ZZZZ]")
	}
	return at, nil
}

// began is when a visit began, or is expected to.
func (w *work) began() (string, error) {
	if w.m.kind() == "ADT/A05" {
		return w.at("PV2-8", "PV1-44", "EVN-3", "EVN-6", "EVN-2", "MSH-7")
	}
	return w.at("PV1-44", "EVN-6", "EVN-2", "MSH-7")
}

// method is the ADMISSION METHOD of PV1-4, 99 (not known) where it is none of
// the NHS Data Dictionary.
func method(m message) string {
	if code := m.get("PV1-4"); len(code) == 2 && (strings.Contains("11 12 13 21 22 23 24 25 28 31 32 81 82 83", code) || code[0] == '2' && code[1] >= 'A' && code[1] <= 'D') {
		return code
	}
	return "99"
}

// admit is ADT A01, A04 and A05.
func admit(ctx context.Context, w *work) error {
	at, err := w.began()
	if err != nil {
		return err
	}
	id, outdated, err := w.visitOf(ctx)
	if err != nil || outdated {
		return err
	}
	pathway, known, err := w.visit(ctx, id)
	if err == nil && known == nil {
		pathway, err = w.pathway(ctx)
	}
	if err != nil {
		return err
	}
	return w.begin(ctx, pathway, id, at)
}

// begin records the beginning of a visit, or corrects it.
func (w *work) begin(ctx context.Context, pathway, id, at string) (err error) {
	s, c := w.service.appointments, w.command("visit")
	name := "appointment.RecordAdmission"
	outpatient := w.m.get("PV1-2") == "O"
	switch kind := w.m.kind(); {
	case kind == "ADT/A05":
		name = "appointment.RecordPreAdmission"
		_, err = s.RecordPreAdmission(ctx, &appointmentv1.RecordPreAdmissionRequest{Command: c, PathwayId: pathway, VisitId: id, Organisation: w.m.org, Expected: at})
	case kind == "ADT/A04", kind != "ADT/A01" && outpatient:
		name = "appointment.RecordAttendanceStart"
		_, err = s.RecordAttendanceStart(ctx, &appointmentv1.RecordAttendanceStartRequest{Command: c, PathwayId: pathway, VisitId: id, Organisation: w.m.org, At: at})
	default:
		_, err = s.RecordAdmission(ctx, &appointmentv1.RecordAdmissionRequest{Command: c, PathwayId: pathway, VisitId: id, Organisation: w.m.org, At: at, AdmissionMethod: method(w.m)})
	}
	if fault.CodeOf(err) == "appointment.visit.exists" {
		w.noted("appointment.visit.exists", "PV1-19", "the visit was recorded before: its beginning is corrected")
		return w.correctVisit(ctx, pathway, id, at)
	}
	if err != nil {
		return answered(err, "PV1-44")
	}
	w.done(name, c, pathway)
	return nil
}

func (w *work) correctVisit(ctx context.Context, pathway, id, at string) error {
	c := w.command("correct")
	reply, err := w.service.appointments.CorrectVisit(ctx, &appointmentv1.CorrectVisitRequest{Command: c, PathwayId: pathway, VisitId: id, At: at,
		MessageTime: w.said.AsTime().UTC().Format("2006-01-02T15:04:05Z")})
	if err != nil {
		return answered(err, "PV1-44")
	}
	w.done("appointment.CorrectVisit", c, pathway)
	if newest := reply.Visit.GetMessageTime(); newest != nil && newest.AsTime().After(w.said.AsTime()) {
		w.noted("edge.outdated", "EVN-2", "a message about this visit that was sent later was applied: this one is recorded and changes nothing")
	}
	return nil
}

// correct is ADT A08: the person's details, and the beginning of the visit if it
// is one of a pathway. The services put late messages in their place: the person
// by source, the visit by the time of its messages.
func correct(ctx context.Context, w *work) error {
	if _, err := w.subject(ctx); err != nil {
		return err
	}
	if _, err := w.known(ctx); err != nil {
		return err
	}
	number, _ := w.m.firstOf("PV1-19", "PV1-50", "PID-18")
	if number == "" {
		return nil
	}
	id := w.m.org + "/" + number
	pathway, known, err := w.visit(ctx, id)
	if err != nil {
		return err
	}
	if known == nil {
		w.noted("edge.visit.unknown", "PV1-19", "the visit is not one of a pathway: only the person's details were taken")
		return nil
	}
	at, err := w.began()
	if err != nil {
		return err
	}
	return w.correctVisit(ctx, pathway, id, at)
}

// transfer is ADT A02: where in the hospital the patient is, is not kept.
func transfer(ctx context.Context, w *work) error {
	if _, err := w.subject(ctx); err != nil {
		return err
	}
	w.noted("edge.nothing_to_record", "EVN-1", "a transfer within the hospital changes nothing here")
	return nil
}

// discharged reads the DISCHARGE METHOD of PV1-36: 4 died, 9 not known. 20 to 29
// are the expired of HL7 table 0112.
func discharged(m message) (code string, died bool) {
	text := m.get("PV1-36")
	switch {
	case len(text) == 1 && strings.Contains("1234589", text):
		code = text
	case len(text) == 2 && text[0] == '2' && text[1] >= '0' && text[1] <= '9':
		code = "4"
	default:
		code = "9"
	}
	return code, code == "4" || m.get("PID-30") == "Y"
}

// discharge is ADT A03. It ends the visit and no treatment. Where the visit is
// not recorded but its beginning is in the message, both are.
func discharge(ctx context.Context, w *work) error {
	at, err := w.at("PV1-45", "EVN-6", "EVN-2", "MSH-7")
	if err != nil {
		return err
	}
	id, outdated, err := w.visitOf(ctx)
	if err != nil && w.person == "" || outdated {
		return err
	}
	unplaced := err
	code, died := discharged(w.m)
	if died {
		on, err := moment(w.m.get("PV1-45"))
		if err != nil {
			on = w.said.AsTime()
		}
		if err := w.died(ctx, nhs.DateOf(on).String()); err != nil {
			return err
		}
	}
	if err = unplaced; err == nil {
		err = w.leave(ctx, id, at, code)
	}
	if why, ok := err.(*stop); ok && died && !why.refuse {
		w.note, err = why.reason, nil // the death was noted: that is not to be done again
	}
	return err
}

func (w *work) leave(ctx context.Context, id, at, code string) error {
	pathway, known, err := w.visit(ctx, id)
	if err != nil {
		return err
	}
	if known == nil {
		if pathway, err = w.pathway(ctx); err != nil {
			return err
		}
		if w.m.get("PV1-44") == "" {
			return park("edge.visit.unknown", "PV1-19", "the visit is not recorded and PV1-44 does not say when it began: redrive it once its A01 was applied, or with PV1-44")
		}
		began, err := w.began()
		if err == nil {
			err = w.begin(ctx, pathway, id, began)
		}
		if err != nil {
			return err
		}
	}
	c := w.command("discharge")
	_, err = w.service.appointments.RecordDischarge(ctx, &appointmentv1.RecordDischargeRequest{Command: c, PathwayId: pathway, VisitId: id, At: at, DischargeMethod: code})
	if fault.CodeOf(err) == "appointment.visit.state" {
		return park("appointment.visit.state", "PV1-19", "the visit is not one of somebody who is there: it was ended or reversed before")
	}
	if err != nil {
		return answered(err, "PV1-45")
	}
	w.done("appointment.RecordDischarge", c, pathway)
	return nil
}

// reverse is ADT A11, A12 and A13: what was recorded of the visit did not happen.
func reverse(what string) func(context.Context, *work) error {
	return func(ctx context.Context, w *work) error {
		id, outdated, err := w.visitOf(ctx)
		if err != nil || outdated {
			return err
		}
		pathway, known, err := w.visit(ctx, id)
		if err != nil {
			return err
		}
		if known == nil {
			if _, err := w.pathway(ctx); err != nil {
				return err
			}
			return park("edge.visit.unknown", "PV1-19", "no visit with this number is recorded: redrive it once what it cancels was applied")
		}
		c := w.command("reverse")
		_, err = w.service.appointments.ReverseVisit(ctx, &appointmentv1.ReverseVisitRequest{Command: c, PathwayId: pathway, VisitId: id, What: what})
		if fault.CodeOf(err) == "appointment.visit.state" {
			return park("appointment.visit.state", "PV1-19", "the visit is in a state in which there is nothing to cancel")
		}
		if err != nil {
			return answered(err, "PV1-19")
		}
		w.done("appointment.ReverseVisit", c, pathway)
		return nil
	}
}
