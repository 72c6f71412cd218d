package edge

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// booking is the appointment that SCH-2 of this facility stands for, and its
// pathway; nil when none is recorded, or only one in error.
func (w *work) booking(ctx context.Context, filler string) (pathway string, a *appointmentv1.Appointment, err error) {
	for _, id := range w.pathways() {
		list, err := w.service.appointments.ListAppointments(ctx, &appointmentv1.ListAppointmentsRequest{PathwayId: id})
		if err != nil {
			return "", nil, answered(err, "SCH-2")
		}
		for _, a := range list.Appointments {
			if a.PasSystem == w.m.org && a.PasId == filler && a.Status != appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_ENTERED_IN_ERROR {
				return id, a, nil
			}
		}
	}
	return "", nil, nil
}

// filler is what the booking system calls a booking; where only the placer has a
// name for it, that.
func (w *work) filler() (string, error) {
	if w.m.get("SCH-2") == "" && w.m.get("SCH-1") != "" {
		placer, err := w.external("SCH-1", 53)
		return "placer/" + placer, err
	}
	return w.external("SCH-2", 60)
}

// slot reads when and where a booking is.
func (w *work) slot() (*appointmentv1.ExternalBooking, error) {
	m := w.m
	text, field := m.firstOf("TQ1-7", "SCH-11.4", "AIS-4", "AIL-6", "AIG-8", "AIP-6")
	start, ok := clockTime(text)
	if !ok {
		return nil, refuse("edge.field.invalid", field, "the start of an appointment is YYYYMMDDHHMM[SS][+ZZZZ]")
	}
	end := ""
	if text, field = m.firstOf("TQ1-8", "SCH-11.5"); text != "" {
		if end, ok = clockTime(text); !ok {
			return nil, refuse("edge.field.invalid", field, "the end of an appointment is YYYYMMDDHHMM[SS][+ZZZZ]")
		}
	} else if end = w.after(start); end == "" {
		return nil, refuse("edge.field.required", "SCH-11.5", "the appointment has neither an end nor a duration (SCH-9, SCH-10)")
	}
	b := &appointmentv1.ExternalBooking{Start: start, End: end, Medium: appointmentv1.Medium_MEDIUM_FACE_TO_FACE, Site: m.org}
	for _, f := range []string{"AIL-3.4", "PV1-3.4"} {
		if site := m.get(f); odsCode.MatchString(site) && strings.ContainsAny(site, "0123456789") {
			b.Site = site
			break
		}
	}
	for _, f := range []string{"SCH-8.1", "SCH-8.2", "AIS-3.1", "AIL-4.1"} {
		switch strings.ToUpper(m.get(f)) {
		case "TELEPHONE", "TEL", "PHONE", "TC":
			b.Medium = appointmentv1.Medium_MEDIUM_TELEPHONE
		case "VIDEO", "VID", "VC", "VIRTUAL":
			b.Medium = appointmentv1.Medium_MEDIUM_VIDEO_CONSULTATION
		}
	}
	room, _ := m.firstOf("AIL-3.1", "PV1-3.1")
	b.Room = short(strings.TrimSpace(room+" "+m.get("AIL-3.2")), 200)
	role, _ := m.firstOf("AIP-4.2", "AIP-4.1")
	b.PractitionerRole = short(role, 60)
	if f := m.get("PV1-10"); len(f) == 3 && strings.Trim(f, "0123456789") == "" {
		b.TreatmentFunction = f
	}
	return b, nil
}

// after is the end of an appointment by its duration, "" where it has none.
func (w *work) after(start string) string {
	for _, f := range [][2]string{{"SCH-9", "SCH-10"}, {"AIS-7", "AIS-8"}, {"AIL-9", "AIL-10"}, {"AIP-9", "AIP-10"}} {
		n, err := strconv.Atoi(w.m.get(f[0]))
		if err != nil || n <= 0 || n > 100_000 {
			continue
		}
		unit := time.Minute
		switch strings.ToUpper(w.m.get(f[1])) {
		case "", "M", "MIN", "MINS", "MINUTE", "MINUTES":
		case "S", "SEC", "SECONDS":
			unit = time.Second
		case "H", "HR", "HOUR", "HOURS":
			unit = time.Hour
		default:
			continue
		}
		length := time.Duration(n) * unit
		if t, err := time.Parse(time.RFC3339, start); err == nil {
			return t.Add(length).Format(time.RFC3339)
		}
		t, err := time.ParseInLocation("2006-01-02T15:04:05", start, london)
		if err != nil {
			return ""
		}
		return t.Add(length).UTC().Format(time.RFC3339)
	}
	return ""
}

// why is the reason that a booking system gives, or else a text of ours.
func (w *work) why(otherwise string) string {
	text, _ := w.m.firstOf("SCH-6.2", "SCH-6.1", "SCH-7.2", "SCH-7.1")
	if text == "" {
		text = otherwise
	}
	return short(text, 500)
}

// schedule is SIU S12, S13 and S14: a booking of the trust's own system, new,
// moved or changed. Feeds begin in the middle and come out of order, so any of
// them makes the booking when it is not there.
func schedule(ctx context.Context, w *work) error {
	filler, err := w.filler()
	if err != nil {
		return err
	}
	place, err := w.slot()
	if err != nil {
		return err
	}
	if _, err := w.subject(ctx); err != nil {
		return err
	}
	if w.thing("booking", filler) {
		return nil
	}
	pathway, known, err := w.booking(ctx, filler)
	if err != nil {
		return err
	}
	if known == nil {
		if pathway, err = w.pathway(ctx); err != nil {
			return err
		}
	}
	purpose, _ := w.m.firstOf("SCH-7.2", "SCH-7.1", "AIS-3.2", "SCH-8.2")
	purpose = short(purpose, 500)
	c := w.command("book")
	req := &appointmentv1.BookAppointmentRequest{Command: c, PathwayId: pathway, Place: external(place), Purpose: purpose, PasSystem: w.m.org, PasId: filler, SeriesId: w.series()}
	// Also for a booking that is known: it may be this message that made it, before
	// a crash.
	reply, err := w.service.appointments.BookAppointment(ctx, req)
	if fault.CodeOf(err) == "appointment.overlap" {
		c = w.command("book/overlap")
		req.Command, req.OverlapOverrideReason = c, bookedThere
		if reply, err = w.service.appointments.BookAppointment(ctx, req); err == nil {
			w.overlap()
		}
	}
	if err == nil {
		w.done("appointment.BookAppointment", c, reply.Appointment.AppointmentId)
		return nil
	}
	if fault.CodeOf(err) != "appointment.pas.exists" {
		return answered(err, "SCH-11")
	}
	if _, known, err = w.booking(ctx, filler); err != nil {
		return err
	}
	if known.GetStatus() != appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_BOOKED {
		return park("appointment.state", "SCH-2", "the booking with this identifier is over (cancelled, attended or missed): if it stands again, book it by hand")
	}
	return w.change(ctx, pathway, known, place, purpose)
}

// bookedThere is recorded with a booking at whose time the patient has another:
// it was made elsewhere, so that refusing it would hide it.
const bookedThere = "booked in the trust's own system"

func (w *work) overlap() {
	w.noted("appointment.overlap", "SCH-11", "the patient has another appointment at that time: the booking is recorded, and somebody must tell the patient which one stands")
}

func external(b *appointmentv1.ExternalBooking) *appointmentv1.Place {
	return &appointmentv1.Place{Place: &appointmentv1.Place_External{External: b}}
}

// change moves and amends a booking to what the message says; nothing when it is
// that already.
func (w *work) change(ctx context.Context, pathway string, known *appointmentv1.Appointment, to *appointmentv1.ExternalBooking, purpose string) error {
	is := known.Booking
	if !same(to.Start, is.Start.AsTime()) || !same(to.End, is.End.AsTime()) {
		if to.TreatmentFunction == "" {
			to.TreatmentFunction = is.TreatmentFunction
		}
		c := w.command("reschedule")
		req := &appointmentv1.RescheduleAppointmentRequest{Command: c, PathwayId: pathway, AppointmentId: known.AppointmentId, To: external(to), Reason: w.why("moved in the booking system")}
		_, err := w.service.appointments.RescheduleAppointment(ctx, req)
		if fault.CodeOf(err) == "appointment.overlap" {
			c = w.command("reschedule/overlap")
			req.Command, req.OverlapOverrideReason = c, bookedThere
			if _, err = w.service.appointments.RescheduleAppointment(ctx, req); err == nil {
				w.overlap()
			}
		}
		if err != nil {
			return answered(err, "SCH-11")
		}
		w.done("appointment.RescheduleAppointment", c, known.AppointmentId)
	} else if to.Medium == is.Medium && to.Site == is.Site && (to.Room == "" || to.Room == is.Room) &&
		(to.PractitionerRole == "" || to.PractitionerRole == is.PractitionerRole) && (purpose == "" || purpose == known.Purpose) {
		return nil
	}
	if purpose == "" || purpose == known.Purpose {
		if len(w.effects) > 0 {
			return nil // the new place came with the move
		}
	}
	c := w.command("amend")
	if _, err := w.service.appointments.AmendAppointment(ctx, &appointmentv1.AmendAppointmentRequest{Command: c, PathwayId: pathway, AppointmentId: known.AppointmentId,
		Medium: to.Medium, Site: to.Site, Room: to.Room, PractitionerRole: to.PractitionerRole, Purpose: purpose}); err != nil {
		return answered(err, "SCH-7")
	}
	w.done("appointment.AmendAppointment", c, known.AppointmentId)
	return nil
}

// same reports whether a time of a request is an instant. One that the service
// would refuse is no instant, and so not the same.
func same(text string, at time.Time) bool {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.Equal(at)
	}
	return at.In(london).Format("2006-01-02T15:04:05") == text
}

// existing finds the booking that a message is about; a feed may speak of one
// that was never booked here.
func (w *work) existing(ctx context.Context) (pathway string, a *appointmentv1.Appointment, outdated bool, err error) {
	filler, err := w.filler()
	if err != nil {
		return "", nil, false, err
	}
	if _, err = w.subject(ctx); err != nil {
		return "", nil, false, err
	}
	if w.thing("booking", filler) {
		return "", nil, true, nil
	}
	if pathway, a, err = w.booking(ctx, filler); err != nil {
		return "", nil, false, err
	}
	if a == nil {
		if _, err = w.pathway(ctx); err == nil {
			err = park("edge.appointment.unknown", "SCH-2", "no booking with this identifier is recorded: redrive it once its S12 was applied")
		}
	}
	return pathway, a, false, err
}

// series is the group of bookings that one is of (SCH-4), "" for none.
func (w *work) series() string {
	if group := w.m.get("SCH-4"); group != "" && len(w.m.org+"/"+group) <= 60 {
		return w.m.org + "/" + group
	}
	return ""
}

// canceller says who cancelled, by SCH-6, SCH-7 and SCH-25. Codes 2 and 4 are
// those of ATTENDED OR DID NOT ATTEND. A message that does not say was sent by a
// system, which counts as the provider (4).
func canceller(m message) appointmentv1.CancelledBy {
	for _, f := range []string{"SCH-6.1", "SCH-6.2", "SCH-7.1", "SCH-7.2", "SCH-25.1", "SCH-25.2"} {
		text := strings.ToUpper(m.get(f))
		words := strings.FieldsFunc(text, func(r rune) bool { return r < 'A' || r > 'Z' })
		says := func(list ...string) bool {
			return slices.ContainsFunc(list, func(w string) bool { return slices.Contains(words, w) })
		}
		switch {
		case text == "2", says("PATIENT", "PAT", "PT"):
			return appointmentv1.CancelledBy_CANCELLED_BY_PATIENT
		case text == "4", says("PROVIDER", "PROV", "HOSPITAL", "HOSP", "CLINIC", "CLINICIAN", "TRUST", "CONSULTANT"):
			return appointmentv1.CancelledBy_CANCELLED_BY_PROVIDER
		}
	}
	return appointmentv1.CancelledBy_CANCELLED_BY_SYSTEM
}

// unschedule is SIU S15, S16 and S17.
func unschedule(ctx context.Context, w *work) error {
	pathway, a, outdated, err := w.existing(ctx)
	if err != nil || outdated {
		return err
	}
	if w.m.kind() == "SIU/S17" {
		c := w.command("error")
		if _, err := w.service.appointments.EnterInError(ctx, &appointmentv1.EnterInErrorRequest{Command: c, PathwayId: pathway, AppointmentId: a.AppointmentId}); err != nil {
			return answered(err, "SCH-2")
		}
		w.done("appointment.EnterInError", c, a.AppointmentId)
		return nil
	}
	if series := w.series(); w.m.kind() == "SIU/S16" && series != "" && a.SeriesId == series {
		// Discontinued: this one and what was to come after it.
		c := w.command("series")
		req := &appointmentv1.StopSeriesRequest{Command: c, PathwayId: pathway, SeriesId: series, By: canceller(w.m), Reason: w.why("no reason was sent"),
			From: a.Booking.GetStart().AsTime().Format(time.RFC3339)}
		_, err := w.service.appointments.StopSeries(ctx, req)
		if fault.CodeOf(err) == "appointment.series.not_found" {
			w.noted("edge.appointment.over", "SCH-4", "nothing of the series was still to come: nothing changes")
			return nil
		}
		if err != nil {
			return answered(err, "SCH-4")
		}
		w.done("appointment.StopSeries", c, a.AppointmentId)
		return nil
	}
	c := w.command("cancel")
	_, err = w.service.appointments.CancelAppointment(ctx, &appointmentv1.CancelAppointmentRequest{Command: c, PathwayId: pathway, AppointmentId: a.AppointmentId, By: canceller(w.m), Reason: w.why("no reason was sent")})
	if fault.CodeOf(err) == "appointment.state" && a.Status == appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_CANCELLED {
		w.noted("edge.appointment.over", "SCH-2", "the appointment was cancelled before: nothing changes")
		return nil
	}
	if err != nil {
		return answered(err, "SCH-2")
	}
	w.done("appointment.CancelAppointment", c, a.AppointmentId)
	return nil
}

// missed is SIU S26. Attendance 7 is a patient who came too late to be seen.
func missed(ctx context.Context, w *work) error {
	pathway, a, outdated, err := w.existing(ctx)
	if err != nil || outdated {
		return err
	}
	code := "3"
	for _, f := range []string{"SCH-6.1", "SCH-6.2", "SCH-25.1"} {
		if text := strings.ToUpper(w.m.get(f)); text == "7" || strings.Contains(text, "LATE") {
			code = "7"
		}
	}
	c := w.command("noshow")
	_, err = w.service.appointments.RecordNoShow(ctx, &appointmentv1.RecordNoShowRequest{Command: c, PathwayId: pathway, AppointmentId: a.AppointmentId,
		AttendanceCode: code, On: nhs.DateOf(a.Booking.GetStart().AsTime()).String()})
	if fault.CodeOf(err) == "appointment.state" && a.Status == appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_NOSHOW {
		w.noted("edge.appointment.over", "SCH-2", "the appointment was recorded as missed before: nothing changes")
		return nil
	}
	if err != nil {
		return answered(err, "SCH-2")
	}
	w.done("appointment.RecordNoShow", c, a.AppointmentId)
	return nil
}
