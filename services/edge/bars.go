package edge

import (
	"cmp"
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

// The events of the Booking and Referral Standard, with the resource that each
// is about and the event of its answer.
var barsEvents = map[string]struct{ focus, answer string }{
	"servicerequest-request":  {"ServiceRequest", "servicerequest-response"},
	"servicerequest-response": {"ServiceRequest", ""},
	"booking-request":         {"Appointment", "booking-response"},
	"booking-response":        {"Appointment", ""},
}

// barsVersions are the versions of a BaRS application that are taken, as
// Bundle.meta.versionId says them.
var barsVersions = regexp.MustCompile(`^1\.[0-9]+\.[0-9]+(-[a-z0-9.]+)?$`)

// Systems of BaRS.
const (
	barsEventSystem  = "https://fhir.nhs.uk/CodeSystem/message-events-bars"
	barsReasonSystem = "https://fhir.nhs.uk/CodeSystem/message-reason-bars"
	useCaseSystem    = "https://fhir.nhs.uk/CodeSystem/usecases-categories-bars"
)

// useCases are those of the referral service: BaRS has none for cancer care.
var useCases = map[string]referralv1.ReferralKind{
	"waymark-usc": referralv1.ReferralKind_REFERRAL_KIND_SUSPECTED_CANCER, "waymark-upgrade": referralv1.ReferralKind_REFERRAL_KIND_CONSULTANT_UPGRADE,
	"waymark-ipt": referralv1.ReferralKind_REFERRAL_KIND_INTER_PROVIDER_TRANSFER, "waymark-ahp": referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH,
	"waymark-psychology": referralv1.ReferralKind_REFERRAL_KIND_PSYCHOLOGY, "waymark-social-prescribing": referralv1.ReferralKind_REFERRAL_KIND_SOCIAL_PRESCRIBING,
	"waymark-charity": referralv1.ReferralKind_REFERRAL_KIND_CHARITY, "waymark-prehab": referralv1.ReferralKind_REFERRAL_KIND_PREHABILITATION,
	"waymark-palliative": referralv1.ReferralKind_REFERRAL_KIND_PALLIATIVE_CARE, "waymark-care-lead": referralv1.ReferralKind_REFERRAL_KIND_CARE_LEAD,
	"waymark-programme": referralv1.ReferralKind_REFERRAL_KIND_SUPPORT_PROGRAMME,
}

// message of BaRS, read and checked.
type barsMessage struct {
	header   resource
	event    string
	reason   string // new, update, delete
	focus    resource
	receiver string // ODS code of whom it is for; the sender's where it names none
}

// bars reads the MessageHeader; nil for a message of another kind.
func (d *document) bars() (*barsMessage, error) {
	header, ok := d.message()
	if !ok {
		return nil, nil
	}
	m := &barsMessage{header: header}
	for _, c := range header.codings("eventCoding") {
		if _, known := barsEvents[c.code]; known {
			m.event = c.code
		} else if c.system == barsEventSystem || strings.HasPrefix(c.system, "https://fhir.nhs.uk/CodeSystem/message-event-") {
			return nil, refuseKind("edge.bars.event_unknown", c.get("code").path, "BaRS messages are servicerequest-request, servicerequest-response, booking-request and booking-response")
		}
	}
	if m.event == "" {
		return nil, nil
	}
	if version := d.root.at("meta", "versionId"); version.v != nil && !barsVersions.MatchString(version.text()) {
		return nil, refuse("edge.bars.version_unsupported", version.path, "the version of the BaRS application is not taken: 1.x.y is")
	}
	for _, c := range header.codings("reason") {
		m.reason = c.code
	}
	switch m.reason {
	case "new", "update", "delete":
	case "":
		return nil, refuse("edge.field.required", header.get("reason").path, "the reason of the message is missing: new, update or delete")
	default:
		return nil, refuse("edge.field.invalid", header.get("reason").path, "the reason of a message is new, update or delete")
	}
	refs := header.all("focus")
	if len(refs) == 0 {
		return nil, refuse("edge.field.required", header.get("focus").path, "the message does not say what it is about")
	}
	for _, ref := range refs {
		if r, ok := d.follow(ref); ok && r.kind == barsEvents[m.event].focus {
			m.focus = r
		}
	}
	if m.focus.v == nil {
		// Some suppliers point at an Encounter and let it stand for the request.
		for _, r := range d.resources {
			if r.kind == barsEvents[m.event].focus && m.focus.v == nil {
				m.focus = r
			}
		}
	}
	if m.focus.v == nil {
		return nil, refuse("edge.field.required", refs[0].get("reference").path, "the Bundle does not hold the "+barsEvents[m.event].focus+" that the message is about")
	}
	if at := m.focus.at("meta", "lastUpdated"); m.reason != "new" && at.v == nil {
		return nil, refuse("edge.field.required", at.path, "when it was changed is missing: without it nobody can tell whether it was changed here since")
	}
	m.receiver = d.organisation
	for _, to := range header.all("destination") {
		m.receiver = cmp.Or(d.ods(to.get("receiver")), m.receiver)
	}
	return m, nil
}

// process does what a message Bundle asks for.
func (d *document) process(ctx context.Context, w *work) error {
	m, err := d.bars()
	if err != nil {
		return err
	}
	in, err := d.read(w, m)
	if err != nil || m == nil {
		if err == nil {
			err = in.run(ctx)
		}
		return err
	}
	who := in.about(m.focus)
	if who == nil {
		return refuse("edge.field.required", m.focus.get(cmp.Or(map[string]string{"Appointment": "participant"}[m.focus.kind], "subject")).path, "the patient is missing: refer to a Patient of the Bundle, or to one by NHS number")
	}
	do, err := in.bookingMessage, error(nil)
	if m.focus.kind == "ServiceRequest" {
		do = in.referralMessage
	}
	run, err := do(m, who)
	if err != nil {
		return err
	}
	in.steps = append(in.steps, step{1, m.focus, who, run})
	return in.run(ctx)
}

// bookingMessage is booking-request and -response: an appointment in another
// system that is booked, moved or taken back.
func (in *intake) bookingMessage(m *barsMessage, who *someone) (func(context.Context) error, error) {
	b, err := in.booking(m.focus)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, refuse("edge.field.invalid", m.focus.get("status").path, "a booking is booked, cancelled, entered-in-error, arrived, fulfilled or noshow")
	}
	if m.reason == "delete" {
		b.status = "entered-in-error"
	}
	return func(ctx context.Context) error {
		w := in.w
		pathway, err := in.pathwayFor(ctx, m, who, func(id string) (bool, error) {
			a, err := w.booked(ctx, id, b)
			return a != nil, err
		})
		if err != nil {
			return err
		}
		if a, err := w.booked(ctx, pathway, b); err != nil {
			return answered(err, m.focus.path)
		} else if a != nil {
			if err := in.overtaken(m, a.AppointmentId); err != nil {
				return err
			}
		}
		a, kept, err := w.book(ctx, pathway, b, m.focus)
		if err != nil {
			return err
		}
		if kept == appointmentOver {
			return refuse(appointmentOver, m.focus.get("identifier").path, "the appointment with this identifier was cancelled or missed: a new booking has its own")
		}
		if a == nil {
			return refuse("edge.bars.not_found", m.focus.get("identifier").path, "no appointment with this identifier is known: a change follows the booking")
		}
		in.settle(m, a.AppointmentId)
		return nil
	}, nil
}

// pathwayFor is the pathway that a message is about: the one that has its focus
// already, else the patient's only open one. Without one a person must look.
func (in *intake) pathwayFor(ctx context.Context, m *barsMessage, who *someone, has func(pathway string) (bool, error)) (string, error) {
	for _, p := range in.w.service.index.pathwaysOf(who.id, false) {
		if ok, err := has(p.id); err != nil {
			return "", answered(err, m.focus.path)
		} else if ok {
			return p.id, nil
		}
	}
	pathway, why := in.onlyPathway(who)
	switch why {
	case pathwayNone:
		return "", park("edge.pathway.none", m.focus.path, "the patient is on no open cancer pathway here")
	case pathwayUnclear:
		return "", park("edge.pathway.several", m.focus.path, "the patient is on several open pathways: say which one")
	}
	return pathway, nil
}

// settle notes what a message is about, so that the answer can name it.
func (in *intake) settle(m *barsMessage, id string) {
	in.w.focus = id
	if t, err := time.Parse(time.RFC3339Nano, m.focus.str("meta", "lastUpdated")); err == nil {
		in.w.focusSaid = t
	}
}

// overtaken refuses a message whose sender had not seen the newest: one that is
// older than another that was taken, or than what was done here since.
func (in *intake) overtaken(m *barsMessage, id string) error {
	at := m.focus.at("meta", "lastUpdated")
	if t, err := time.Parse(time.RFC3339Nano, at.text()); err == nil && t.Before(in.w.service.index.newest(id)) {
		return refuse("edge.bars.conflict", at.path, "it has changed since: read it again, then send the change")
	}
	return nil
}

// referralOf is the referral that a ServiceRequest is here: its identifier names it
// for its sender, else its id.
func (in *intake) referralOf(r resource) string {
	return uuid.NewSHA1(space, []byte("referral\x00"+in.pathwayOf(r))).String()
}

// referralMessage is servicerequest-request, from those who refer to us, and
// servicerequest-response, from those to whom we referred.
func (in *intake) referralMessage(m *barsMessage, who *someone) (func(context.Context) error, error) {
	state := m.focus.str("status")
	if !slices.Contains([]string{"draft", "active", "on-hold", "revoked", "completed", "entered-in-error", "unknown"}, state) {
		return nil, refuse("edge.field.invalid", m.focus.get("status").path, "not a status of an R4 ServiceRequest")
	}
	if m.event == "servicerequest-response" {
		return in.referralAnswer(m, who, state)
	}
	if m.reason == "delete" {
		state = "entered-in-error"
	}
	switch state {
	case "revoked", "entered-in-error":
		return func(ctx context.Context) error { return in.withdraw(ctx, m, who, state) }, nil
	case "active":
	default:
		return nil, refuse("edge.field.invalid", m.focus.get("status").path, "a request is active; revoked or entered-in-error take it back")
	}
	content, err := in.content(m, who)
	if err != nil {
		return nil, err
	}
	received, err := earliest(m.focus.get("authoredOn"))
	if err != nil {
		return nil, err
	}
	if received == "" {
		return nil, refuse("edge.field.required", m.focus.get("authoredOn").path, "the day of the referral is missing")
	}
	return func(ctx context.Context) error {
		w := in.w
		mine := in.referralOf(m.focus)
		if m.reason == "update" {
			// Content never changes: what is sent now takes the place of what was sent.
			pathway, known, err := in.referralNamed(ctx, who, w.successor(), mine)
			if err != nil {
				return answered(err, m.focus.path)
			}
			if known == nil {
				return refuse("edge.bars.not_found", m.focus.get("identifier").path, "no referral with this identifier is known: send it with reason new")
			}
			if err := cmp.Or(in.overtaken(m, mine), in.overtaken(m, known.ReferralId)); err != nil {
				return err
			}
			content.Replaces = known.ReferralId
			in.settle(m, mine)
			return in.send(ctx, m, who, pathway, w.successor(), content)
		}
		pathway := in.pathwayOf(m.focus)
		if content.Kind == referralv1.ReferralKind_REFERRAL_KIND_SUSPECTED_CANCER {
			found, _ := meaning(slices.Concat(m.focus.codings("code"), m.focus.codings("reasonCode"), in.referred(m.focus, "reasonReference")))
			facts := &referralv1.StartFacts{ReceivedOn: received, Priority: "3", ReferralType: found.group, Source: in.source(m.focus), ResponsibleTeam: &referralv1.Team{Organisation: m.receiver, Name: "Referral management"}}
			if err := in.open(ctx, who, m.focus.kind, pathway, facts, m.focus.get("authoredOn").path); err != nil {
				return err
			}
		} else if pathway, err = in.pathwayFor(ctx, m, who, func(id string) (bool, error) {
			known, err := w.referral(ctx, id, mine)
			return known != nil, err
		}); err != nil {
			return err
		}
		known, err := w.referral(ctx, pathway, mine)
		if err != nil {
			return answered(err, m.focus.path)
		}
		if known != nil && known.ReceiverReference != "" && known.ReceiverReference != w.arrival.commands {
			return refuse("edge.bars.duplicate", m.focus.get("identifier").path, "this referral was taken already: send a change with reason update")
		}
		in.settle(m, mine)
		return in.send(ctx, m, who, pathway, mine, content)
	}, nil
}

// successor is the referral that this message puts in the place of another.
func (w *work) successor() string {
	return uuid.NewSHA1(uuid.MustParse(w.arrival.commands), []byte("referral")).String()
}

// referral of a pathway by its id, nil when there is none.
func (w *work) referral(ctx context.Context, pathway, id string) (*referralv1.Referral, error) {
	got, err := w.service.referrals.GetReferral(ctx, &referralv1.GetReferralRequest{PathwayId: pathway, ReferralId: id})
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	return got.GetReferral(), err
}

// as is a command of another party than the sender of the message.
func (w *work) as(organisation, step string) *metav1.Command {
	c := w.command(step)
	c.Actor.Organisation = organisation
	return c
}

// send records a referral that has arrived: drafted, sent, received.
func (in *intake) send(ctx context.Context, m *barsMessage, who *someone, pathway, referral string, content *referralv1.ReferralContent) error {
	w, service := in.w, in.w.service.referrals
	at := m.focus.path
	c := w.command("draft")
	if _, err := service.DraftReferral(ctx, &referralv1.DraftReferralRequest{Command: c, PathwayId: pathway, ReferralId: referral, Content: content}); err != nil {
		return answered(err, at)
	}
	w.done("referral.DraftReferral", c, referral)
	c = w.command("send")
	if _, err := service.SendReferral(ctx, &referralv1.SendReferralRequest{Command: c, PathwayId: pathway, ReferralId: referral, NhsNumberStatus: cmp.Or(who.status, "02")}); err != nil {
		return answered(err, at)
	}
	w.done("referral.SendReferral", c, referral)
	c = w.as(m.receiver, "receive")
	if _, err := service.AcknowledgeReceipt(ctx, &referralv1.AcknowledgeReceiptRequest{Command: c, PathwayId: pathway, ReferralId: referral, ReceiverReference: w.arrival.commands}); err != nil {
		return answered(err, at)
	}
	w.done("referral.AcknowledgeReceipt", c, referral)
	return nil
}

// withdraw takes a referral back.
func (in *intake) withdraw(ctx context.Context, m *barsMessage, who *someone, state string) error {
	w := in.w
	mine := in.referralOf(m.focus)
	pathway, known, err := in.referralNamed(ctx, who, "", mine)
	if err != nil {
		return answered(err, m.focus.path)
	}
	if known == nil {
		return refuse("edge.bars.not_found", m.focus.get("identifier").path, "no referral with this identifier is known for this patient")
	}
	if err := cmp.Or(in.overtaken(m, mine), in.overtaken(m, known.ReferralId)); err != nil {
		return err
	}
	why := referralv1.CancelReason_CANCEL_REASON_NO_LONGER_NEEDED
	if state == "entered-in-error" {
		why = referralv1.CancelReason_CANCEL_REASON_ENTERED_IN_ERROR
	}
	c := w.command("cancel")
	if _, err := w.service.referrals.CancelReferral(ctx, &referralv1.CancelReferralRequest{Command: c, PathwayId: pathway, ReferralId: known.ReferralId, SeenVersion: known.Version, CancelReason: why}); err != nil {
		return answered(err, m.focus.path)
	}
	w.done("referral.CancelReferral", c, known.ReferralId)
	in.settle(m, mine)
	return nil
}

// referralNamed finds a referral of a patient by any of the ids, following what
// took its place up to, and without, the one named last.
func (in *intake) referralNamed(ctx context.Context, who *someone, last string, ids ...string) (string, *referralv1.Referral, error) {
	for _, p := range in.w.service.index.pathwaysOf(who.id, false) {
		list, err := in.w.service.referrals.ListReferrals(ctx, &referralv1.ListReferralsRequest{PathwayId: p.id})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		byID := map[string]*referralv1.Referral{}
		for _, r := range list.Referrals {
			byID[r.ReferralId] = r
		}
		for _, id := range ids {
			r := byID[id]
			for range list.Referrals {
				if next := byID[r.GetReplacedBy()]; next != nil && next.ReferralId != last {
					r = next
				}
			}
			if r != nil {
				return p.id, r, nil
			}
		}
	}
	return "", nil, nil
}

// referralAnswer is what the receiver of a referral of ours says of it.
func (in *intake) referralAnswer(m *barsMessage, who *someone, state string) (func(context.Context) error, error) {
	var names []string
	for _, n := range slices.Concat([]node{m.focus.get("id"), m.header.at("response", "identifier")}, m.focus.all("identifier"), m.focus.all("basedOn")) {
		for _, text := range []string{n.text(), n.str("value"), n.str("reference"), n.str("identifier", "value")} {
			if id := text[strings.LastIndexByte(text, '/')+1:]; id != "" {
				names = append(names, strings.TrimPrefix(id, "urn:uuid:"))
			}
		}
	}
	return func(ctx context.Context) error {
		w, service := in.w, in.w.service.referrals
		pathway, known, err := in.referralNamed(ctx, who, "", names...)
		if err != nil {
			return answered(err, m.focus.path)
		}
		if known == nil {
			return refuse("edge.bars.not_found", m.focus.path, "no referral that this could answer is known: name it in id, identifier or basedOn")
		}
		if err := in.overtaken(m, known.ReferralId); err != nil {
			return err
		}
		c := w.command("answer")
		id := known.ReferralId
		name := ""
		switch state {
		case "active":
			name = "referral.AcceptReferral"
			_, err = service.AcceptReferral(ctx, &referralv1.AcceptReferralRequest{Command: c, PathwayId: pathway, ReferralId: id})
		case "on-hold":
			name = "referral.HoldReferral"
			_, err = service.HoldReferral(ctx, &referralv1.HoldReferralRequest{Command: c, PathwayId: pathway, ReferralId: id, Note: "held by the receiver"})
		case "completed":
			name = "referral.CompleteReferral"
			_, err = service.CompleteReferral(ctx, &referralv1.CompleteReferralRequest{Command: c, PathwayId: pathway, ReferralId: id})
		case "revoked":
			name = "referral.RejectReferral"
			_, err = service.RejectReferral(ctx, &referralv1.RejectReferralRequest{Command: c, PathwayId: pathway, ReferralId: id, RejectionReason: rejection(m.focus)})
		default:
			return refuse("edge.field.invalid", m.focus.get("status").path, "an answer is active (accepted), revoked (rejected), on-hold or completed")
		}
		if err != nil {
			return answered(err, m.focus.get("status").path)
		}
		w.done(name, c, id)
		in.settle(m, id)
		return nil
	}, nil
}

var rejections = words("RRNA FC OTH 21 22 23 24 26 27 31 32 40 41 42 99")

// rejection reads the reason of a rejection, 99 (other) where it gives none that BaRS knows.
func rejection(r resource) string {
	for _, c := range slices.Concat(r.codings("reasonCode"), r.extension("statusReason").codings("valueCodeableConcept"), r.codings("statusReason")) {
		if rejections[c.code] {
			return c.code
		}
	}
	return "99"
}

var priorities = map[string]referralv1.ReferralPriority{
	"": referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE, "routine": referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE,
	"urgent": referralv1.ReferralPriority_REFERRAL_PRIORITY_URGENT, "asap": referralv1.ReferralPriority_REFERRAL_PRIORITY_ASAP, "stat": referralv1.ReferralPriority_REFERRAL_PRIORITY_STAT,
}

var snomedCode = regexp.MustCompile(`^[1-9][0-9]{5,17}$`)

// content reads what a referral says.
func (in *intake) content(m *barsMessage, who *someone) (*referralv1.ReferralContent, error) {
	r, d := m.focus, in.d
	c := &referralv1.ReferralContent{
		Requester: &referralv1.Practitioner{User: "not-given", Organisation: cmp.Or(d.ods(r.get("requester")), d.organisation)},
		Target:    &referralv1.Target{Organisation: m.receiver, Channel: referralv1.Channel_CHANNEL_BARS, Endpoint: "https://fhir.nhs.uk/Id/ods-organization-code/" + m.receiver},
	}
	for _, category := range r.codings("category") {
		if kind, ok := useCases[category.code]; ok {
			c.Kind, c.UseCase = kind, category.code
		}
	}
	found, cancer := meaning(slices.Concat(r.codings("code"), r.codings("reasonCode"), in.referred(r, "reasonReference")))
	if c.Kind == 0 && cancer && found.kind == "suspected" {
		c.Kind = referralv1.ReferralKind_REFERRAL_KIND_SUSPECTED_CANCER
	}
	if c.Kind == 0 {
		return nil, refuse("edge.bars.use_case", r.get("category").path, "the kind of referral is not known: a use case of usecases-categories-bars (waymark-usc, waymark-ahp and others), or a reason that says suspected cancer")
	}
	var ok bool
	if c.Priority, ok = priorities[r.str("priority")]; !ok {
		return nil, refuse("edge.field.invalid", r.get("priority").path, "a priority is routine, urgent, asap or stat")
	}
	for _, code := range r.codings("reasonCode") {
		if snomedCode.MatchString(code.code) && strings.Contains(code.system, "snomed") && c.ReasonCode == "" {
			c.ReasonCode = code.code
		}
	}
	var reason []string
	for _, n := range r.all("reasonCode") {
		reason = append(reason, n.str("text"))
	}
	for _, n := range r.all("note") {
		reason = append(reason, n.str("text"))
	}
	c.Reason = shortest(strings.TrimSpace(strings.Join(reason, "\n")), 4000)
	for _, id := range r.all("identifier") {
		if value := id.str("value"); strings.HasSuffix(id.str("system"), "/UBRN") && len(value) == 12 {
			c.Ubrn = value
		}
	}
	if target, ok := d.follow(r.get("requester")); ok {
		for _, id := range target.all("identifier") {
			if value := id.str("value"); strings.HasSuffix(id.str("system"), "/sds-user-id") && localValue.MatchString(value) {
				c.Requester.User = value
			}
		}
	}
	for _, other := range d.resources {
		if other.kind != "Flag" || other.str("status") != "active" {
			continue
		}
		for _, code := range other.codings("code") {
			if snomedCode.MatchString(code.code) && strings.Contains(code.system, "snomed") && len(c.Requirements) < 50 && !slices.Contains(c.Requirements, code.code) {
				c.Requirements = append(c.Requirements, code.code)
			}
		}
	}
	c.Contacts = in.contacts(m, who)
	if len(c.Contacts) == 0 {
		return nil, refuse("edge.field.required", m.header.get("source").get("contact").path, "nobody can be reached about the referral: Patient.contact, Patient.telecom or the contact of the source is needed")
	}
	return c, nil
}

var telecomSystems = map[string]referralv1.ContactSystem{
	"phone": referralv1.ContactSystem_CONTACT_SYSTEM_PHONE, "email": referralv1.ContactSystem_CONTACT_SYSTEM_EMAIL, "sms": referralv1.ContactSystem_CONTACT_SYSTEM_SMS,
}

// contacts are whom to reach, in the order of their ranks: those of the Patient,
// the patient, and the sender.
func (in *intake) contacts(m *barsMessage, who *someone) (found []*referralv1.Contact) {
	add := func(kind referralv1.ContactKind, name, relationship string, telecoms []node) {
		c := &referralv1.Contact{Rank: uint32(len(found) + 1), Kind: kind, Name: shortest(name, 160), Relationship: shortest(relationship, 80)}
		slices.SortStableFunc(telecoms, func(a, b node) int { return cmp.Compare(rank(a), rank(b)) })
		for _, t := range telecoms {
			if value := t.str("value"); value != "" && len(value) <= 200 && len(c.Methods) < 8 {
				system, ok := telecomSystems[t.str("system")]
				if !ok {
					system = referralv1.ContactSystem_CONTACT_SYSTEM_OTHER
				}
				c.Methods = append(c.Methods, &referralv1.ContactMethod{Rank: uint32(len(c.Methods) + 1), System: system, Value: value})
			}
		}
		if len(c.Methods) > 0 && len(found) < 10 {
			found = append(found, c)
		}
	}
	if p, ok := in.d.resourceAt(who.path); ok {
		people := p.all("contact")
		slices.SortStableFunc(people, func(a, b node) int { return cmp.Compare(rank(a), rank(b)) })
		for _, c := range people {
			kind, relation := referralv1.ContactKind_CONTACT_KIND_RELATED_PERSON, ""
			for _, code := range c.codings("relationship") {
				if relation = cmp.Or(code.str("display"), code.code); strings.EqualFold(code.code, "ONESELF") {
					kind, relation = referralv1.ContactKind_CONTACT_KIND_PATIENT, ""
				}
			}
			add(kind, strings.TrimSpace(c.str("name", "given")+" "+c.str("name", "family")), relation, c.all("telecom"))
		}
		add(referralv1.ContactKind_CONTACT_KIND_PATIENT, "", "", p.all("telecom"))
	}
	source := m.header.get("source")
	add(referralv1.ContactKind_CONTACT_KIND_PROFESSIONAL, source.str("name"), "", source.all("contact"))
	return found
}

// rank of a ContactPoint, or of a contact by its extension; none comes last.
func rank(n node) int {
	text := cmp.Or(n.extension("ContactRank").str("valuePositiveInt"), n.str("rank"))
	if r, err := strconv.Atoi(text); err == nil {
		return r
	}
	return 1000
}

func (d *document) resourceAt(path string) (resource, bool) {
	i := slices.IndexFunc(d.resources, func(r resource) bool { return r.path == path && path != "" })
	if i < 0 {
		return resource{}, false
	}
	return d.resources[i], true
}

// response is the message Bundle that answers a request that was taken. It is made
// of the request and what is recorded: the same each time.
func (d *document) response(id string, outcome *pb.MessageApplied) []byte {
	m, err := d.bars()
	if err != nil || m == nil || barsEvents[m.event].answer == "" {
		return nil
	}
	subject := outcome.FocusId
	if subject == "" {
		return nil
	}
	when := outcome.At.AsTime().UTC().Format(time.RFC3339)
	about := map[string]any{"resourceType": m.focus.kind, "id": subject, "meta": map[string]any{"lastUpdated": when}, "status": m.focus.v.(map[string]any)["status"]}
	patient := map[string]any{"reference": "Patient/" + outcome.PersonId}
	if m.focus.kind == "ServiceRequest" {
		about["intent"], about["subject"] = "order", patient
	} else {
		about["participant"] = []any{map[string]any{"actor": patient, "status": "accepted"}}
		for _, name := range []string{"start", "end"} {
			if v := m.focus.get(name); v.text() != "" {
				about[name] = v.text()
			}
		}
	}
	if ids := m.focus.get("identifier"); ids.v != nil {
		about["identifier"] = ids.v
	}
	return messageBundle(id, barsEvents[m.event].answer, "new", when, m, d, about)
}

// ListAnswers makes the messages that answer referrals.
func (s *service) ListAnswers(ctx context.Context, req *pb.ListAnswersRequest) (*pb.ListAnswersReply, error) {
	if err := s.index.Wait(ctx, es.Position(req.MinPosition)); err != nil {
		return nil, err
	}
	out := &pb.ListAnswersReply{}
	for _, decision := range s.index.decisions(req.Organisation, es.Position(req.After), cmp.Or(int(req.PageSize), 50)) {
		st, raw, err := s.read(ctx, decision.message)
		if err != nil {
			return nil, err
		}
		d := readDocument(raw, st.Value.Received.Facility, st.Value.Received.Application)
		m, err := d.bars()
		if err != nil || m == nil {
			continue // cannot be: it was applied
		}
		var applied *pb.MessageApplied
		if applied, _ = st.Value.Outcome.(*pb.MessageApplied); applied == nil {
			continue
		}
		when := decision.recorded.UTC().Format(time.RFC3339)
		about := map[string]any{"resourceType": "ServiceRequest", "id": decision.referral, "meta": map[string]any{"lastUpdated": when}, "status": decision.status,
			"intent": "order", "subject": map[string]any{"reference": "Patient/" + applied.PersonId}}
		if ids := m.focus.get("identifier"); ids.v != nil {
			about["identifier"] = ids.v
		}
		if decision.rejection != "" {
			about["extension"] = []any{map[string]any{"url": "http://hl7.org/fhir/StructureDefinition/request-statusReason", "valueCodeableConcept": map[string]any{
				"coding": []any{map[string]any{"system": "https://fhir.nhs.uk/CodeSystem/rejected-reasons-bars", "code": decision.rejection}}}}}
		}
		id := uuid.NewSHA1(uuid.MustParse(decision.message), []byte("decision/"+strconv.FormatUint(uint64(decision.at), 10))).String()
		out.Answers = append(out.Answers, &pb.Answer{Position: uint64(decision.at), MessageId: decision.message, ReferralId: decision.referral, RecordedAt: timestamppb.New(decision.recorded),
			Bundle: messageBundle(id, "servicerequest-response", decision.reason, when, m, d, about)})
	}
	return out, nil
}

// messageBundle is a message from the receiver of another back to its sender.
func messageBundle(id, event, reason, when string, to *barsMessage, d *document, about map[string]any) []byte {
	made := func(what string) string { return uuid.NewSHA1(uuid.MustParse(id), []byte(event+"/"+what)).String() }
	header, focus := made("header"), made("focus")
	organisation := func(ods string) map[string]any {
		return map[string]any{"type": "Organization", "identifier": map[string]any{"system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": ods}}
	}
	body, err := json.Marshal(map[string]any{
		"resourceType": "Bundle", "id": made("bundle"), "type": "message", "timestamp": when,
		"meta": map[string]any{"lastUpdated": when, "profile": []any{"https://fhir.nhs.uk/StructureDefinition/BARSBundleMessage"}},
		"entry": []any{
			map[string]any{"fullUrl": "urn:uuid:" + header, "resource": map[string]any{
				"resourceType": "MessageHeader", "id": header, "meta": map[string]any{"lastUpdated": when},
				"eventCoding": map[string]any{"system": barsEventSystem, "code": event},
				"reason":      map[string]any{"coding": []any{map[string]any{"system": barsReasonSystem, "code": reason}}},
				"sender":      organisation(to.receiver),
				"source":      map[string]any{"name": "Waymark", "software": "Waymark", "endpoint": "https://fhir.nhs.uk/Id/ods-organization-code/" + to.receiver},
				"destination": []any{map[string]any{"endpoint": cmp.Or(to.header.str("source", "endpoint"), "https://fhir.nhs.uk/Id/ods-organization-code/"+d.organisation), "receiver": organisation(d.organisation)}},
				"response":    map[string]any{"identifier": cmp.Or(to.header.str("id"), d.root.str("id"), id), "code": "ok"},
				"focus":       []any{map[string]any{"reference": "urn:uuid:" + focus}},
			}},
			map[string]any{"fullUrl": "urn:uuid:" + focus, "resource": about},
		},
	})
	if err != nil {
		panic(err) // cannot be: it was read from JSON
	}
	return body
}
