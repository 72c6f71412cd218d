package edge

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	pb "waymark/proto/waymark/edge/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/fault"
)

// pathwayOf is the pathway that a request started: its identifier names it for
// its sender, else its id.
func (in *intake) pathwayOf(r resource) string {
	name := r.kind + "/" + r.str("id")
	if r.str("id") == "" {
		name = r.url
	}
	for _, id := range r.all("identifier") {
		if value := id.str("value"); value != "" {
			name = id.str("system") + "|" + value
			break
		}
	}
	return uuid.NewSHA1(space, []byte("pathway\x00"+in.d.organisation+"\x00"+name)).String()
}

// team that answers from the first moment: who is to perform a request, else who sent it.
func (in *intake) team(refs ...node) *referralv1.Team {
	t := &referralv1.Team{Organisation: in.d.organisation, Name: "Referral management"}
	for _, ref := range refs {
		if code := in.d.ods(ref); code != "" {
			t.Organisation = code
			break
		}
	}
	return t
}

// open starts a pathway, unless it is there.
func (in *intake) open(ctx context.Context, who *someone, kind, pathway string, facts *referralv1.StartFacts, field string) error {
	w := in.w
	who.pathways = append(who.pathways, pathway)
	c := w.command("pathway")
	_, err := w.service.pathways.StartPathway(ctx, &referralv1.StartPathwayRequest{Command: c, PathwayId: pathway, PersonId: who.id, Facts: facts})
	if fault.CodeOf(err) == "pathway.exists" {
		in.keep(kind, recordedAlready)
		return nil
	}
	if err != nil {
		return answered(err, field)
	}
	w.done("referral.StartPathway", c, pathway)
	return nil
}

// request is a ServiceRequest: one for suspected or known cancer starts a pathway.
func (in *intake) request(r resource, who *someone) (func(context.Context) error, error) {
	found, ok := meaning(slices.Concat(r.codings("code"), r.codings("reasonCode"), r.codings("category"), r.codings("orderDetail"), in.referred(r, "reasonReference")))
	if !ok {
		in.keep(r.kind, notCancer)
		return nil, nil
	}
	// A request for a test or a treatment names the cancer too; one to be seen is a referral.
	if !isReferral(r, found) {
		in.keep(r.kind, notMapped)
		return nil, nil
	}
	state := r.str("status")
	if state != "active" && state != "completed" {
		in.keep(r.kind, notCertain)
		return nil, nil
	}
	received, err := earliest(r.get("authoredOn"))
	if err != nil {
		return nil, err
	}
	if received == "" {
		in.keep(r.kind, undated)
		return nil, nil
	}
	facts := &referralv1.StartFacts{ReceivedOn: received, Priority: "1", Source: in.source(r), ResponsibleTeam: in.team(r.all("performer")...)}
	if found.kind == "suspected" {
		facts.Priority, facts.ReferralType = "3", found.group
	}
	return func(ctx context.Context) error {
		return in.open(ctx, who, r.kind, in.pathwayOf(r), facts, r.get("authoredOn").path)
	}, nil
}

// isReferral tells a referral from a request for something to be done.
func isReferral(r resource, found cancer) bool {
	if found.kind == "suspected" {
		return true
	}
	for _, c := range r.codings("category") {
		if c.code == "referral" || c.code == "3457005" { // SNOMED CT: patient referral
			return true
		}
	}
	return false
}

// source of a referral: 03 a general practitioner, 97 other.
func (in *intake) source(r resource) string {
	if target, ok := in.d.follow(r.get("requester")); ok {
		for _, c := range slices.Concat(target.codings("code"), target.codings("type")) {
			if c.code == "R0260" || c.code == "62247001" || c.code == "RO76" { // GP by SDS and SNOMED CT; GP practice by ODS
				return "03"
			}
		}
	}
	return "97"
}

// referred are the codes of the Conditions that references mean.
func (in *intake) referred(r resource, name string) (codes []coding) {
	for _, ref := range r.all(name) {
		if target, ok := in.d.follow(ref); ok {
			codes = append(codes, target.codings("code")...)
		}
	}
	return codes
}

// episode is an EpisodeOfCare: one for cancer is a pathway.
func (in *intake) episode(r resource, who *someone) (func(context.Context) error, error) {
	found := slices.Concat(r.codings("type"))
	for _, d := range r.all("diagnosis") {
		if target, ok := in.d.follow(d.get("condition")); ok {
			found = append(found, target.codings("code")...)
		}
	}
	what, ok := meaning(found)
	if !ok {
		in.keep(r.kind, notCancer)
		return nil, nil
	}
	if s := r.str("status"); s == "cancelled" || s == "entered-in-error" || s == "planned" || s == "" {
		in.keep(r.kind, notCertain)
		return nil, nil
	}
	began, err := earliest(r.at("period", "start"))
	if err != nil {
		return nil, err
	}
	if began == "" {
		in.keep(r.kind, undated)
		return nil, nil
	}
	facts := &referralv1.StartFacts{ReceivedOn: began, Priority: "1", Source: "97", ResponsibleTeam: in.team(r.get("managingOrganization"))}
	if what.kind == "suspected" {
		facts.Priority, facts.ReferralType = "3", what.group
	}
	return func(ctx context.Context) error {
		return in.open(ctx, who, r.kind, in.pathwayOf(r), facts, r.at("period", "start").path)
	}, nil
}

// condition is a Condition: a confirmed primary cancer is a diagnosis. A Condition
// does not say how the patient was told; in person is assumed, on the day on which
// it was recorded.
func (in *intake) condition(r resource, who *someone) (func(context.Context) error, error) {
	found, ok := meaning(r.codings("code"))
	if !ok || found.kind == "suspected" {
		in.keep(r.kind, notCancer)
		return nil, nil
	}
	if found.kind != "primary" {
		in.keep(r.kind, notMapped)
		return nil, nil
	}
	for _, c := range r.codings("verificationStatus") {
		if c.code != "confirmed" {
			in.keep(r.kind, notCertain)
			return nil, nil
		}
	}
	on, err := earliest(r.get("recordedDate"))
	if err == nil && on == "" {
		on, err = earliest(r.get("onsetDateTime"), r.at("onsetPeriod", "start"))
	}
	if err != nil {
		return nil, err
	}
	if on == "" {
		in.keep(r.kind, undated)
		return nil, nil
	}
	facts := &referralv1.DiagnosisFacts{Told: &referralv1.Told{On: on, Method: referralv1.OutcomeMethod_OUTCOME_METHOD_FACE_TO_FACE, Organisation: in.d.organisation}, TumourGroup: found.group, Icd10: found.icd10}
	return func(ctx context.Context) error {
		w := in.w
		pathway, why := in.onlyPathway(who)
		if why == pathwayNone {
			// Nobody referred the patient here: care begins with the diagnosis, and no clock runs.
			start := &referralv1.StartFacts{ReceivedOn: on, Priority: "1", Source: "97", ResponsibleTeam: in.team()}
			pathway, why = in.pathwayOf(r), ""
			if err := in.open(ctx, who, r.kind, pathway, start, r.path); err != nil {
				return err
			}
		}
		if why != "" {
			in.keep(r.kind, why)
			return nil
		}
		c := w.command("diagnosis")
		_, err := w.service.pathways.CommunicateDiagnosis(ctx, &referralv1.CommunicateDiagnosisRequest{Command: c, PathwayId: pathway, Facts: facts})
		if code := fault.CodeOf(err); code == "cwt.clock.already_stopped" || code == "pathway.ruled_out" {
			in.keep(r.kind, recordedAlready)
			return nil
		}
		if err != nil {
			return answered(err, r.get("recordedDate").path)
		}
		w.done("referral.CommunicateDiagnosis", c, pathway)
		return nil
	}, nil
}

// onlyPathway is the one open pathway of a patient: one that the document started,
// else one that is known. Otherwise the code says why there is none.
func (in *intake) onlyPathway(who *someone) (string, string) {
	open := slices.Compact(slices.Sorted(slices.Values(who.pathways)))
	if len(open) == 0 {
		for _, p := range in.w.service.index.pathwaysOf(who.id, true) {
			open = append(open, p.id)
		}
	}
	switch len(open) {
	case 0:
		return "", pathwayNone
	case 1:
		return open[0], ""
	}
	return "", pathwayUnclear
}

// booking is what an Appointment says.
type booking struct {
	status, system, id string
	place              *appointmentv1.ExternalBooking
	purpose            string
	on                 string // its day
	by                 appointmentv1.CancelledBy
	reason             string
	referral           string
}

// appointment is an Appointment: booked, moved, cancelled or missed.
func (in *intake) appointment(r resource, who *someone) (func(context.Context) error, error) {
	b, err := in.booking(r)
	if err != nil {
		return nil, err
	}
	if b == nil {
		in.keep(r.kind, notCertain)
		return nil, nil
	}
	return func(ctx context.Context) error {
		pathway, why := in.onlyPathway(who)
		for _, ref := range r.all("basedOn") {
			if target, ok := in.d.follow(ref); ok && slices.Contains(who.pathways, in.pathwayOf(target)) {
				pathway, why = in.pathwayOf(target), ""
			}
		}
		if why != "" {
			// One that is known already says itself which pathway it is on.
			for _, p := range in.w.service.index.pathwaysOf(who.id, false) {
				if a, err := in.w.booked(ctx, p.id, b); err != nil {
					return answered(err, r.path)
				} else if a != nil {
					pathway, why = p.id, ""
				}
			}
		}
		if why != "" {
			in.keep(r.kind, why)
			return nil
		}
		_, kept, err := in.w.book(ctx, pathway, b, r)
		if kept != "" {
			in.keep(r.kind, kept)
		}
		return err
	}, nil
}

// booking reads an Appointment; nil for one that is no booking (proposed, waitlist).
func (in *intake) booking(r resource) (*booking, error) {
	b := &booking{status: r.str("status"), system: in.d.organisation, id: r.str("id"), purpose: shortest(r.str("description"), 500)}
	for _, id := range r.all("identifier") {
		if value := id.str("value"); value != "" {
			b.id = value
			break
		}
	}
	if b.id == "" {
		b.id = r.url
	}
	if b.id == "" || len(b.id) > 60 {
		return nil, refuse("edge.field.required", r.get("identifier").path, "an identifier, or an id, of at most 60 characters is needed to know the appointment again")
	}
	switch b.status {
	case "booked", "arrived", "fulfilled", "checked-in", "cancelled", "noshow", "entered-in-error":
	case "proposed", "pending", "waitlist":
		return nil, nil
	default:
		return nil, refuse("edge.field.invalid", r.get("status").path, "not a status of an R4 Appointment")
	}
	start, err := timeOf(r.get("start"))
	if err != nil {
		return nil, err
	}
	end, err := timeOf(r.get("end"))
	if err != nil {
		return nil, err
	}
	b.on = start.date
	gone := b.status == "cancelled" || b.status == "entered-in-error"
	if start.text == "" && !gone {
		return nil, refuse("edge.field.required", r.get("start").path, "the time at which the appointment begins is missing, with its offset")
	}
	if end.text == "" && start.text != "" {
		minutes, _ := strconv.Atoi(r.str("minutesDuration"))
		if minutes <= 0 && !gone {
			return nil, refuse("edge.field.required", r.get("end").path, "the time at which the appointment ends is missing: end, or minutesDuration")
		}
		from, _ := time.Parse(time.RFC3339, start.text)
		end.text = from.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339)
	}
	b.place = &appointmentv1.ExternalBooking{Start: start.text, End: end.text, Medium: appointmentv1.Medium_MEDIUM_FACE_TO_FACE, Site: in.d.organisation}
	for _, n := range slices.Concat(r.all("participant"), r.all("supportingInformation")) {
		ref := n.get("actor")
		if target, ok := in.d.follow(ref); ok && target.kind == "Patient" {
			continue
		}
		if code := in.d.ods(ref); code != "" {
			b.place.Site = code
			break
		}
	}
	channel := r.extension("DeliveryChannel")
	for _, text := range append([]string{channel.str("valueCode")}, codeTexts(channel.codings("valueCodeableConcept"))...) {
		switch strings.ToLower(text) {
		case "telephone", "phone":
			b.place.Medium = appointmentv1.Medium_MEDIUM_TELEPHONE
		case "video":
			b.place.Medium = appointmentv1.Medium_MEDIUM_VIDEO_CONSULTATION
		}
	}
	for _, c := range r.codings("specialty") {
		if len(c.code) == 3 {
			b.place.TreatmentFunction = strings.ToUpper(c.code)
		}
	}
	b.by, b.reason = appointmentv1.CancelledBy_CANCELLED_BY_PROVIDER, cmp.Or(shortest(r.str("cancelationReason", "text"), 500), "cancelled in the sending system")
	for _, c := range r.codings("cancelationReason") {
		if c.code == "pat" || strings.HasPrefix(c.code, "pat-") {
			b.by = appointmentv1.CancelledBy_CANCELLED_BY_PATIENT
		}
	}
	return b, nil
}

func codeTexts(codings []coding) (codes []string) {
	for _, c := range codings {
		codes = append(codes, c.code)
	}
	return codes
}

// bookedElsewhere is why an overlap is no reason to refuse: the booking exists.
const bookedElsewhere = "booked so in the sending system"

// booked finds an appointment of a pathway by what its own system calls it.
func (w *work) booked(ctx context.Context, pathway string, b *booking) (*appointmentv1.Appointment, error) {
	list, err := w.service.appointments.ListAppointments(ctx, &appointmentv1.ListAppointmentsRequest{PathwayId: pathway})
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found *appointmentv1.Appointment // the newest: one that was cancelled may have been booked anew
	for _, a := range list.Appointments {
		if a.PasSystem == b.system && a.PasId == b.id || a.AppointmentId == b.id {
			found = a
		}
	}
	return found, nil
}

// book does what an Appointment asks for on a pathway. It returns the appointment,
// or why nothing was to be done.
func (w *work) book(ctx context.Context, pathway string, b *booking, r resource) (a *appointmentv1.Appointment, kept string, err error) {
	service := w.service.appointments
	if a, err = w.booked(ctx, pathway, b); err != nil {
		return nil, "", answered(err, r.path)
	}
	place := &appointmentv1.Place{Place: &appointmentv1.Place_External{External: b.place}}
	did := func(name string, reply *appointmentv1.AppointmentReply, c string, err error, field string) error {
		if err != nil {
			return answered(err, r.get(field).path)
		}
		a = reply.Appointment
		w.effects = append(w.effects, &pb.Effect{Command: "appointment." + name, CommandId: c, SubjectId: a.AppointmentId, Path: w.path})
		return nil
	}
	if over := a != nil && slices.Contains([]appointmentv1.AppointmentStatus{appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_CANCELLED, appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_NOSHOW, appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_ENTERED_IN_ERROR}, a.Status); over && b.status == "booked" {
		return a, appointmentOver, nil
	}
	if a == nil {
		if b.status == "cancelled" || b.status == "entered-in-error" {
			return nil, appointmentUnseen, nil
		}
		c := w.command("book")
		reply, err := service.BookAppointment(ctx, &appointmentv1.BookAppointmentRequest{Command: c, PathwayId: pathway, Place: place, Purpose: b.purpose, PasSystem: b.system, PasId: b.id, ReferralId: b.referral, OverlapOverrideReason: bookedElsewhere})
		if err := did("BookAppointment", reply, c.CommandId, err, "start"); err != nil {
			return nil, "", err
		}
	} else if at := a.Booking.GetStart(); b.status == "booked" && at != nil && a.Status == appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_BOOKED {
		if from, _ := time.Parse(time.RFC3339, b.place.Start); from.Equal(at.AsTime()) {
			return a, recordedAlready, nil
		}
		c := w.command("move")
		reply, err := service.RescheduleAppointment(ctx, &appointmentv1.RescheduleAppointmentRequest{Command: c, PathwayId: pathway, AppointmentId: a.AppointmentId, SeenVersion: a.Version, To: place, Reason: "moved in the sending system", OverlapOverrideReason: bookedElsewhere})
		return a, "", did("RescheduleAppointment", reply, c.CommandId, err, "start")
	}
	c := w.command(b.status)
	switch b.status {
	case "arrived", "checked-in":
		if a.Status != appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_BOOKED {
			return a, recordedAlready, nil
		}
		reply, err := service.RecordArrival(ctx, &appointmentv1.RecordArrivalRequest{Command: c, PathwayId: pathway, AppointmentId: a.AppointmentId, At: b.place.Start})
		return a, "", did("RecordArrival", reply, c.CommandId, err, "status")
	case "fulfilled":
		if a.Status == appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_FULFILLED {
			return a, recordedAlready, nil
		}
		// It does not say what came of it: an appointment is to be made later, which a person ends.
		reply, err := service.RecordOutcome(ctx, &appointmentv1.RecordOutcomeRequest{Command: c, PathwayId: pathway, AppointmentId: a.AppointmentId, AttendanceCode: "5", OutcomeCode: "3", On: b.on})
		return a, "", did("RecordOutcome", reply, c.CommandId, err, "status")
	case "noshow":
		if a.Status == appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_NOSHOW {
			return a, recordedAlready, nil
		}
		reply, err := service.RecordNoShow(ctx, &appointmentv1.RecordNoShowRequest{Command: c, PathwayId: pathway, AppointmentId: a.AppointmentId, AttendanceCode: "3", On: b.on})
		return a, "", did("RecordNoShow", reply, c.CommandId, err, "status")
	case "cancelled":
		if a.Status == appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_CANCELLED {
			return a, recordedAlready, nil
		}
		reply, err := service.CancelAppointment(ctx, &appointmentv1.CancelAppointmentRequest{Command: c, PathwayId: pathway, AppointmentId: a.AppointmentId, SeenVersion: a.Version, By: b.by, Reason: b.reason})
		return a, "", did("CancelAppointment", reply, c.CommandId, err, "status")
	case "entered-in-error":
		if a.Status == appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_ENTERED_IN_ERROR {
			return a, recordedAlready, nil
		}
		reply, err := service.EnterInError(ctx, &appointmentv1.EnterInErrorRequest{Command: c, PathwayId: pathway, AppointmentId: a.AppointmentId})
		return a, "", did("EnterInError", reply, c.CommandId, err, "status")
	}
	return a, "", nil
}
