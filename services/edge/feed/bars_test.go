package feed

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	pb "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/edge"
	"waymark/services/kit/estest"
)

// barsMessage makes a message from G84001 to RJ1 about one resource.
func barsMessage(id, event, reason, focus string) string {
	return fmt.Sprintf(`{"resourceType":"Bundle","id":"%s","meta":{"versionId":"1.0.0","lastUpdated":"2026-06-01T09:00:00Z"},"type":"message","timestamp":"2026-06-01T09:00:00Z","entry":[
 {"fullUrl":"urn:uuid:h","resource":{"resourceType":"MessageHeader","id":"h-%s","eventCoding":{"system":"https://fhir.nhs.uk/CodeSystem/message-events-bars","code":"%s"},
  "reason":{"coding":[{"system":"https://fhir.nhs.uk/CodeSystem/message-reason-bars","code":"%s"}]},
  "destination":[{"endpoint":"https://example.org/rj1","receiver":{"reference":"urn:uuid:rj1"}}],
  "source":{"name":"Surgery","endpoint":"https://example.org/g84001","contact":{"system":"phone","value":"01130000001"}},"focus":[{"reference":"urn:uuid:f"}]}},
 {"fullUrl":"urn:uuid:f","resource":%s},
 {"fullUrl":"urn:uuid:p","resource":%s},
 {"fullUrl":"urn:uuid:rj1","resource":{"resourceType":"Organization","identifier":[{"system":"https://fhir.nhs.uk/Id/ods-organization-code","value":"RJ1"}]}},
 {"fullUrl":"urn:uuid:o","resource":{"resourceType":"Observation","status":"final","code":{"text":"x"}}}]}`, id, id, event, reason, focus, fhirPatient)
}

func barsRequest(identifier, status, useCase, updated string) string {
	return fmt.Sprintf(`{"resourceType":"ServiceRequest","id":"sr","meta":{"lastUpdated":"%s"},"identifier":[{"system":"https://example.org/referrals","value":"%s"}],"status":"%s","intent":"order","priority":"urgent",
 "category":[{"coding":[{"system":"https://fhir.nhs.uk/CodeSystem/usecases-categories-bars","code":"%s"}]}],"authoredOn":"2026-06-01T09:00:00Z","subject":{"reference":"urn:uuid:p"},
 "reasonCode":[{"coding":[{"system":"http://snomed.info/sct","code":"134405005"}],"text":"A lump"}]}`, updated, identifier, status, useCase)
}

func (h *house) bars(t testing.TB, raw string, status int32, code string) *pb.TakeDocumentReply {
	t.Helper()
	r, err := h.edge.TakeDocument(t.Context(), &pb.TakeDocumentRequest{Raw: []byte(raw), Organisation: "G84001", Source: "bars"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != status || r.Message.Reason.GetCode() != code {
		t.Fatalf("%s: status %d, %q at %q (%s); want %d %q", r.Message.Type, r.Status, r.Message.Reason.GetCode(), r.Message.Reason.GetField(), r.Message.Reason.GetText(), status, code)
	}
	return r
}

// sent is the message Bundle of an answer.
type sent struct {
	ResourceType, Type string
	Entry              []struct {
		Resource struct {
			ResourceType, ID, Status string
			EventCoding              struct{ Code string }
			Response                 struct{ Identifier, Code string }
			Extension                []struct {
				ValueCodeableConcept struct{ Coding []struct{ Code string } }
			}
		}
	}
}

func answerOf(t testing.TB, body []byte) sent {
	t.Helper()
	var b sent
	if err := json.Unmarshal(body, &b); err != nil || b.Type != "message" || len(b.Entry) != 2 {
		t.Fatalf("%s: %v", body, err)
	}
	return b
}

func command(name, organisation string) *metav1.Command {
	return &metav1.Command{CommandId: uuid.NewSHA1(uuid.Nil, []byte(name)).String(), Actor: &metav1.Actor{User: "555000222", Organisation: organisation}}
}

// A referral for suspected cancer comes in, starts the pathway, is changed, and is
// accepted; a repeat gets the first answer; what its sender had not seen conflicts.
func TestBarsReferral(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	const t1, t2, t3, t4 = "2099-06-01T09:00:00Z", "2099-06-01T10:00:00Z", "2099-06-01T11:00:00Z", "2099-06-01T12:00:00Z"
	raw := barsMessage("b1", "servicerequest-request", "new", barsRequest("R1", "active", "waymark-usc", t1))
	first := h.bars(t, raw, 200, "")
	wantCommands(t, first.Message, "RegisterPerson", "StartPathway", "DraftReferral", "SendReferral", "AcknowledgeReceipt")
	b := answerOf(t, first.Answer)
	if b.Entry[0].Resource.EventCoding.Code != "servicerequest-response" || b.Entry[0].Resource.Response.Identifier != "h-b1" || b.Entry[1].Resource.ResourceType != "ServiceRequest" {
		t.Errorf("answered %s", first.Answer)
	}
	referral := b.Entry[1].Resource.ID
	if _, kept := took(first.Message); kept["Observation not_mapped"] != 1 || kept["Organization not_mapped"] != 1 {
		t.Errorf("kept %v", kept)
	}
	again := h.bars(t, strings.Replace(raw, `"timestamp":"2026-06-01T09:00:00Z"`, `"timestamp":"2026-06-01T09:00:05Z"`, 1), 200, "")
	if !again.Duplicate || string(again.Answer) != string(first.Answer) {
		t.Errorf("a repeat was answered %s", again.Answer)
	}
	h.bars(t, strings.Replace(raw, "A lump", "Another lump", 1), 409, "edge.control_id.reused")
	h.bars(t, barsMessage("b2", "servicerequest-request", "new", barsRequest("R1", "active", "waymark-usc", t2)), 409, "edge.bars.duplicate")
	h.bars(t, barsMessage("b3", "servicerequest-request", "update", barsRequest("R9", "active", "waymark-usc", t2)), 404, "edge.bars.not_found")

	pathway := first.Message.Effects[1].SubjectId
	get := func(id string) *referralv1.Referral {
		got, err := h.referrals.GetReferral(t.Context(), &referralv1.GetReferralRequest{PathwayId: pathway, ReferralId: id})
		if err != nil {
			t.Fatal(err)
		}
		return got.Referral
	}
	if r := get(referral); r.State != referralv1.ReferralState_REFERRAL_STATE_RECEIVED || r.Content.Requester.Organisation != "G84001" || r.Content.Target.Organisation != "RJ1" || r.Content.Priority != referralv1.ReferralPriority_REFERRAL_PRIORITY_URGENT {
		t.Errorf("received %v", r)
	}

	// A change takes the place of what was sent; one that was made before it conflicts.
	changed := h.bars(t, barsMessage("b4", "servicerequest-request", "update", strings.Replace(barsRequest("R1", "active", "waymark-usc", t3), "A lump", "A second lump", 1)), 200, "")
	wantCommands(t, changed.Message, "UpdateDemographics", "DraftReferral", "SendReferral", "AcknowledgeReceipt")
	h.bars(t, barsMessage("b5", "servicerequest-request", "update", barsRequest("R1", "active", "waymark-usc", t2)), 409, "edge.bars.conflict")
	next := get(referral).ReplacedBy
	if r := get(next); r.Content.Reason != "A second lump" || r.State != referralv1.ReferralState_REFERRAL_STATE_RECEIVED {
		t.Errorf("changed: %v", r)
	}

	// Accepted here: the answer is there for its sender, and for nobody else.
	if _, err := h.referrals.AcceptReferral(t.Context(), &referralv1.AcceptReferralRequest{Command: command("accept", "RJ1"), PathwayId: pathway, ReferralId: next}); err != nil {
		t.Fatal(err)
	}
	out := h.answers(t, "G84001", 0, 1)
	b = answerOf(t, out[0].Bundle)
	if b.Entry[0].Resource.EventCoding.Code != "servicerequest-response" || b.Entry[0].Resource.Response.Identifier != "h-b4" || b.Entry[1].Resource.Status != "active" || b.Entry[1].Resource.ID != next {
		t.Errorf("the answer: %s", out[0].Bundle)
	}
	if out[0].MessageId != changed.Message.MessageId {
		t.Error("the answer names another message")
	}
	h.answers(t, "G84001", out[0].Position, 0)
	h.answers(t, "RJ1", 0, 0)

	// Taken back: in 2026 its sender had not seen the acceptance; in 2099 they had.
	h.bars(t, barsMessage("b6", "servicerequest-request", "update", barsRequest("R1", "revoked", "waymark-usc", "2020-01-01T00:00:00Z")), 409, "edge.bars.conflict")
	back := h.bars(t, barsMessage("b7", "servicerequest-request", "update", barsRequest("R1", "revoked", "waymark-usc", t4)), 200, "")
	wantCommands(t, back.Message, "UpdateDemographics", "CancelReferral")
	if r := get(next); r.State != referralv1.ReferralState_REFERRAL_STATE_CANCELLED {
		t.Errorf("taken back: %v", r.State)
	}
	if h.count(t, "PathwayStarted") != 1 {
		t.Error("not one pathway")
	}
	estest.Audit(t, h.log)
	// The log alone has the answers.
	second := open(t, h.log, edge.ListenOptions{})
	if kept := second.answers(t, "G84001", 0, 1); string(kept[0].Bundle) != string(out[0].Bundle) {
		t.Error("after a restart the answer is another one")
	}
}

// answers waits until the sender has n answers after a position.
func (h *house) answers(t testing.TB, organisation string, after uint64, n int) []*pb.Answer {
	t.Helper()
	r, err := h.edge.ListAnswers(t.Context(), &pb.ListAnswersRequest{Organisation: organisation, After: after, MinPosition: h.head(t)})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Answers) != n {
		t.Fatalf("%s has %d answers after %d, want %d", organisation, len(r.Answers), after, n)
	}
	return r.Answers
}

// A rejection names its reason; a referral on a pathway that is there already
// needs one.
func TestBarsOther(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	ahp := func(id, status, updated string) string {
		return strings.Replace(barsRequest(id, status, "waymark-ahp", updated), `"134405005"`, `"73761001"`, 1)
	}
	parked := h.bars(t, barsMessage("c1", "servicerequest-request", "new", ahp("A1", "active", "2099-01-01T00:00:00Z")), 202, "edge.pathway.none")
	if parked.Message.State != pb.MessageState_MESSAGE_STATE_PARKED {
		t.Errorf("%v", parked.Message)
	}
	usc := h.bars(t, barsMessage("c2", "servicerequest-request", "new", barsRequest("R1", "active", "waymark-usc", "2099-01-01T00:00:00Z")), 200, "")
	r := h.bars(t, barsMessage("c3", "servicerequest-request", "new", ahp("A2", "active", "2099-01-01T00:00:00Z")), 200, "")
	wantCommands(t, r.Message, "UpdateDemographics", "DraftReferral", "SendReferral", "AcknowledgeReceipt")
	pathway := usc.Message.Effects[1].SubjectId
	id := answerOf(t, r.Answer).Entry[1].Resource.ID
	if _, err := h.referrals.RejectReferral(t.Context(), &referralv1.RejectReferralRequest{Command: command("reject", "RJ1"), PathwayId: pathway, ReferralId: id, RejectionReason: "22"}); err != nil {
		t.Fatal(err)
	}
	b := answerOf(t, h.answers(t, "G84001", 0, 1)[0].Bundle)
	if b.Entry[1].Resource.Status != "revoked" || b.Entry[1].Resource.Extension[0].ValueCodeableConcept.Coding[0].Code != "22" {
		t.Errorf("the rejection: %+v", b)
	}
	for raw, want := range map[string]string{
		barsMessage("d1", "servicerequest-request", "new", barsRequest("R2", "active", "surgery", "2099-01-01T00:00:00Z")):                           "",
		strings.Replace(barsMessage("d2", "servicerequest-request", "new", ahp("A3", "active", "2099-01-01T00:00:00Z")), `"1.0.0"`, `"3.0.0"`, 1):    "422 edge.bars.version_unsupported Bundle.meta.versionId",
		barsMessage("d3", "servicerequest-request", "banana", ahp("A3", "active", "2099-01-01T00:00:00Z")):                                           "400 edge.field.invalid Bundle.entry[0].resource.reason",
		barsMessage("d4", "patient-request", "new", ahp("A3", "active", "2099-01-01T00:00:00Z")):                                                     "400 edge.bars.event_unknown Bundle.entry[0].resource.eventCoding.code",
		barsMessage("d5", "booking-request", "new", ahp("A3", "active", "2099-01-01T00:00:00Z")):                                                     "400 edge.field.required Bundle.entry[0].resource.focus[0].reference",
		strings.Replace(barsMessage("d6", "servicerequest-request", "new", ahp("A3", "active", "2099-01-01T00:00:00Z")), `"waymark-ahp"`, `"a1"`, 1): "422 edge.bars.use_case Bundle.entry[1].resource.category",
		barsMessage("d7", "servicerequest-request", "new", ahp("A3", "draft", "2099-01-01T00:00:00Z")):                                               "400 edge.field.invalid Bundle.entry[1].resource.status",
	} {
		if want == "" {
			continue // a known reason makes up for an unknown use case
		}
		got, err := h.edge.TakeDocument(t.Context(), &pb.TakeDocumentRequest{Raw: []byte(raw), Organisation: "G84001", Source: "bars"})
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprint(got.Status, " ", got.Message.Reason.GetCode(), " ", got.Message.Reason.GetField()); text != want {
			t.Errorf("%s, want %s", text, want)
		}
	}
}

// A booking by another system is made, moved and cancelled.
func TestBarsBooking(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	booking := func(status, hour, updated string) string {
		return fmt.Sprintf(`{"resourceType":"Appointment","id":"ap","meta":{"lastUpdated":"%s"},"identifier":[{"value":"BK1"}],"status":"%s","start":"2099-06-20T%s:00:00Z","end":"2099-06-20T%s:30:00Z",
 "participant":[{"actor":{"reference":"urn:uuid:p"},"status":"accepted"}]}`, updated, status, hour, hour)
	}
	h.bars(t, barsMessage("e0", "servicerequest-request", "new", barsRequest("R1", "active", "waymark-usc", "2099-01-01T00:00:00Z")), 200, "")
	h.bars(t, barsMessage("e1", "booking-request", "update", booking("cancelled", "09", "2099-01-01T00:00:00Z")), 404, "edge.bars.not_found")
	first := h.bars(t, barsMessage("e2", "booking-request", "new", booking("booked", "09", "2099-01-01T01:00:00Z")), 200, "")
	wantCommands(t, first.Message, "UpdateDemographics", "BookAppointment")
	b := answerOf(t, first.Answer)
	if b.Entry[0].Resource.EventCoding.Code != "booking-response" || b.Entry[1].Resource.ResourceType != "Appointment" || b.Entry[1].Resource.ID != first.Message.Effects[1].SubjectId {
		t.Errorf("answered %s", first.Answer)
	}
	wantCommands(t, h.bars(t, barsMessage("e3", "booking-request", "update", booking("booked", "11", "2099-01-01T02:00:00Z")), 200, "").Message, "UpdateDemographics", "RescheduleAppointment")
	h.bars(t, barsMessage("e4", "booking-request", "update", booking("booked", "12", "2099-01-01T01:30:00Z")), 409, "edge.bars.conflict")
	wantCommands(t, h.bars(t, barsMessage("e5", "booking-request", "update", booking("cancelled", "11", "2099-01-01T03:00:00Z")), 200, "").Message, "UpdateDemographics", "CancelAppointment")
	list, err := h.edge.ListMessages(t.Context(), &pb.ListMessagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	pathway := list.Messages[0].Effects[1].SubjectId
	booked, err := h.appointments.ListAppointments(t.Context(), &appointmentv1.ListAppointmentsRequest{PathwayId: pathway})
	if err != nil || len(booked.Appointments) != 1 || booked.Appointments[0].Status != appointmentv1.AppointmentStatus_APPOINTMENT_STATUS_CANCELLED {
		t.Fatalf("%v, %v", booked, err)
	}
	// What is over stays so; a new booking has an identifier of its own.
	h.bars(t, barsMessage("e6", "booking-request", "new", booking("booked", "14", "2099-01-01T04:00:00Z")), 422, "edge.fhir.appointment_over")
	wantCommands(t, h.bars(t, barsMessage("e7", "booking-request", "new", strings.Replace(booking("booked", "14", "2099-01-01T04:00:00Z"), "BK1", "BK2", 1)), 200, "").Message, "UpdateDemographics", "BookAppointment")
}
