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
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
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
			if err := in.overtaken(ctx, m, "appointment-"+pathway, a.AppointmentId); err != nil {
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
// older than another that was taken, or than what was done here since to one of
// these referrals or appointments of a stream.
func (in *intake) overtaken(ctx context.Context, m *barsMessage, stream string, ids ...string) error {
	at := m.focus.at("meta", "lastUpdated")
	said, err := time.Parse(time.RFC3339Nano, at.text())
	if err != nil {
		return nil
	}
	for _, id := range ids {
		changed, err := in.w.service.changed(ctx, stream, id)
		if err != nil {
			return err
		}
		if said.Before(changed) {
			return refuse("edge.bars.conflict", at.path, "it has changed since: read it again, then send the change")
		}
	}
	return nil
}

// changed is when a referral or an appointment of a stream was last changed; zero
// for never. What a message did counts as of when its sender said it, by the
// sender's clock.
func (s *service) changed(ctx context.Context, stream, id string) (newest time.Time, err error) {
	newest = s.index.newest(id)
	category, _, _ := strings.Cut(stream, "-")
	err = s.log.Read(ctx, stream, 0, func(e es.Recorded) error {
		event, err := es.Decode(e)
		if err != nil {
			return err
		}
		about := event.ProtoReflect()
		field := about.Descriptor().Fields().ByName(protoreflect.Name(category + "_id"))
		if field == nil || field.Kind() != protoreflect.StringKind || field.IsList() || about.Get(field).String() != id {
			return nil
		}
		m, err := es.ParseMetadata(e)
		if err == nil && s.index.get(m.CausationID) == nil && e.Recorded.After(newest) {
			newest = e.Recorded
		}
		return err
	})
	return newest, err
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
