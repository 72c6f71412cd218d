package feed

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/edge"
	"waymark/services/kit/estest"
)

// fhirPatient is Testcase, as adt says of the same person.
const fhirPatient = `{"resourceType":"Patient","id":"p1","identifier":[{"system":"https://fhir.nhs.uk/Id/nhs-number","value":"9990000018",
 "extension":[{"url":"https://fhir.hl7.org.uk/StructureDefinition/Extension-UKCore-NHSNumberVerificationStatus","valueCodeableConcept":{"coding":[{"code":"number-present-and-verified"}]}}]}],
 "name":[{"use":"official","family":"TESTCASE","given":["ANN"]}],"birthDate":"1961-05-04","gender":"female",
 "address":[{"line":["1 HIGH ST"],"city":"LEEDS","postalCode":"LS1 1AA"}]}`

func bundle(kind string, resources ...string) string {
	var entries []string
	for _, r := range resources {
		entries = append(entries, `{"resource":`+r+`}`)
	}
	return `{"resourceType":"Bundle","type":"` + kind + `","entry":[` + strings.Join(entries, ",") + `]}`
}

const (
	suspected = `{"resourceType":"ServiceRequest","id":"s1","identifier":[{"system":"https://example.org/referrals","value":"R1"}],"status":"active","intent":"order",
 "authoredOn":"2026-06-01","subject":{"reference":"Patient/p1"},"reasonCode":[{"coding":[{"system":"http://snomed.info/sct","code":"134405005"}]}]}`
	breast = `{"resourceType":"Condition","id":"c1","subject":{"reference":"Patient/p1"},"recordedDate":"2026-06-10",
 "code":{"coding":[{"system":"http://hl7.org/fhir/sid/icd-10","code":"C50.4"}]}}`
	clinic = `{"resourceType":"Appointment","id":"a1","status":"booked","start":"2026-06-20T09:30:00+01:00","end":"2026-06-20T10:00:00+01:00",
 "participant":[{"actor":{"reference":"Patient/p1"},"status":"accepted"}]}`
	observation = `{"resourceType":"Observation","status":"final","code":{"text":"x"}}`
)

func (h *house) document(t testing.TB, raw string) *pb.TakeDocumentReply {
	t.Helper()
	r, err := h.edge.TakeDocument(t.Context(), &pb.TakeDocumentRequest{Raw: []byte(raw), Organisation: "RJ1", Source: "EPR"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// took is what a document did: its commands in order, and what was kept.
func took(m *pb.Message) (commands []string, kept map[string]int32) {
	kept = map[string]int32{}
	for _, e := range m.Effects {
		commands = append(commands, e.Command[strings.Index(e.Command, ".")+1:])
	}
	for _, k := range m.Kept {
		kept[k.Type+" "+strings.TrimPrefix(k.Code, "edge.fhir.")] += k.Count
	}
	return commands, kept
}

func wantCommands(t testing.TB, m *pb.Message, want ...string) {
	t.Helper()
	got, kept := took(m)
	if m.State != pb.MessageState_MESSAGE_STATE_APPLIED || !slices.Equal(got, want) {
		t.Errorf("%s %s at %s (%s): commands %v, want %v; kept %v", m.State, m.Reason.GetCode(), m.Reason.GetField(), m.Reason.GetText(), got, want, kept)
	}
}

// A Bundle becomes commands in the order that they need, and what is not mapped
// is counted. The same again, packed, gets the first answer and does nothing.
func TestBundle(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	raw := bundle("transaction", clinic, breast, observation, observation, suspected, fhirPatient)
	first := h.document(t, raw)
	wantCommands(t, first.Message, "RegisterPerson", "StartPathway", "CommunicateDiagnosis", "BookAppointment")
	if _, kept := took(first.Message); kept["Observation not_mapped"] != 2 || len(kept) != 1 {
		t.Errorf("kept %v", kept)
	}
	if first.Message.Effects[3].Path != "Bundle.entry[0].resource" || first.Message.Type != "Bundle/transaction" || first.Status != 200 {
		t.Errorf("effects %v, type %s, status %d", first.Message.Effects, first.Message.Type, first.Status)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write([]byte(raw))
	w.Close()
	again, err := h.edge.TakeDocument(t.Context(), &pb.TakeDocumentRequest{Raw: packed.Bytes(), Gzip: true, Organisation: "RJ1", Source: "EPR"})
	if err != nil || !again.Duplicate || again.Message.MessageId != first.Message.MessageId || string(again.Answer) != string(first.Answer) {
		t.Errorf("the repeat: %v, %v", again, err)
	}
	if n := h.count(t, "MessageReceived"); n != 1 {
		t.Errorf("%d messages kept", n)
	}
	// Another document about the same things changes what changed.
	moved := h.document(t, bundle("collection", fhirPatient, suspected, strings.NewReplacer("T09:30", "T11:00", "T10:00", "T11:30").Replace(clinic)))
	wantCommands(t, moved.Message, "UpdateDemographics", "RescheduleAppointment")
	cancelled := h.document(t, bundle("collection", fhirPatient, strings.Replace(clinic, "booked", "cancelled", 1)))
	wantCommands(t, cancelled.Message, "UpdateDemographics", "CancelAppointment")
	// HL7 v2 means the same person.
	if r := h.want(t, adt("A31", "1", ""), "AA", ""); r.Message.PersonId != first.Message.PersonId {
		t.Error("HL7 v2 is about somebody else")
	}
	if h.count(t, "PathwayStarted") != 1 {
		t.Error("a pathway was started twice")
	}
	estest.Audit(t, h.log)
}

// Lines of NDJSON refer to each other by Type/id, one message each.
func TestLines(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	early := h.document(t, strings.Replace(breast, "c1", "c0", 1))
	if _, kept := took(early.Message); kept["Condition patient_unknown"] != 1 {
		t.Errorf("a Condition before its Patient: %v", kept)
	}
	who := h.document(t, fhirPatient)
	wantCommands(t, who.Message, "RegisterPerson")
	wantCommands(t, h.document(t, suspected).Message, "StartPathway")
	told := h.document(t, breast)
	wantCommands(t, told.Message, "CommunicateDiagnosis")
	if told.Message.PersonId != who.Message.PersonId {
		t.Error("the line is about somebody else")
	}
	wantCommands(t, h.document(t, clinic).Message, "BookAppointment")
	// Another system's Patient/p1 is another one.
	r, err := h.edge.TakeDocument(t.Context(), &pb.TakeDocumentRequest{Raw: []byte(breast), Organisation: "RJ1", Source: "OTHER"})
	if err != nil {
		t.Fatal(err)
	}
	if _, kept := took(r.Message); kept["Condition patient_unknown"] != 1 {
		t.Errorf("another system's patient: %v", r.Message)
	}
	// After a restart the log alone knows them.
	second := open(t, h.log, edge.ListenOptions{})
	if r := second.document(t, strings.Replace(clinic, `"a1"`, `"a2"`, 1)); r.Message.PersonId != who.Message.PersonId {
		t.Errorf("after a restart: %v", r.Message)
	}
}

// Several patients in one document stay several, each known again by their own
// identifiers.
func TestSeveralPatients(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	local := func(id, family string) string {
		return fmt.Sprintf(`{"resourceType":"Patient","id":"%s","identifier":[{"type":{"coding":[{"code":"MR"}]},"value":"%s"}],"name":[{"family":"%s"}],"birthDate":"1950-01-01"}`, id, id, family)
	}
	r := h.document(t, bundle("searchset", local("m1", "ONE"), local("m2", "TWO"), fhirPatient))
	wantCommands(t, r.Message, "RegisterPerson", "RegisterPerson", "RegisterPerson")
	if r.Message.PersonId != "" {
		t.Error("a document about several names one")
	}
	again := h.document(t, local("m2", "TWO"))
	wantCommands(t, again.Message, "UpdateDemographics")
	if again.Message.PersonId != r.Message.Effects[1].SubjectId {
		t.Error("the second patient was not known again")
	}
}

// A true fault is refused with the element that is at fault, and nothing of the
// document is done; what is only unusual is not refused.
func TestFaults(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	type want struct {
		raw, code, field string
		status           int32
	}
	for i, c := range []want{
		{`<Patient xmlns="http://hl7.org/fhir"/>`, "edge.fhir.xml", "", 415},
		{`{"resourceType":"Patient"`, "edge.fhir.unreadable", "", 400},
		{`{"resourceType":"Patient"} {}`, "edge.fhir.unreadable", "", 400},
		{`[]`, "edge.fhir.unreadable", "", 400},
		{`{"a":` + strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat(`}`, 101), "edge.fhir.unreadable", "", 400},
		{`{"id":"x"}`, "edge.fhir.type_missing", "resourceType", 400},
		{`{"resourceType":"Nonsense"}`, "edge.fhir.type_unknown", "resourceType", 400},
		{`{"resourceType":"ReferralRequest","id":"x"}`, "edge.fhir.stu3", "ReferralRequest.resourceType", 422},
		{bundle("collection", `{"resourceType":"Patient","meta":{"profile":["https://fhir.hl7.org.uk/STU3/StructureDefinition/CareConnect-Patient-1"]}}`), "edge.fhir.stu3", "Bundle.entry[0].resource.meta.profile[0]", 422},
		{bundle("batch", clinic, strings.Replace(fhirPatient, "9990000018", "9990000019", 1)), "person.nhs_number.invalid", "Bundle.entry[1].resource.identifier[0].value", 400},
		{strings.Replace(fhirPatient, "1961-05-04", "1961-13-50", 1), "edge.field.invalid", "Patient.birthDate", 400},
		{bundle("batch", fhirPatient, strings.Replace(clinic, "2026-06-20T09:30:00+01:00", "20/06/2026", 1)), "edge.field.invalid", "Bundle.entry[1].resource.start", 400},
		{bundle("batch", fhirPatient, strings.Replace(clinic, `"end":"2026-06-20T10:00:00+01:00",`, "", 1)), "edge.field.required", "Bundle.entry[1].resource.end", 400},
		{bundle("batch", fhirPatient, strings.Replace(clinic, `"booked"`, `"banana"`, 1)), "edge.field.invalid", "Bundle.entry[1].resource.status", 400},
	} {
		r := h.document(t, c.raw)
		if r.Message.State != pb.MessageState_MESSAGE_STATE_REFUSED || r.Message.Reason.Code != c.code || r.Message.Reason.Field != c.field || r.Status != c.status {
			t.Errorf("%d: %s %s at %q, status %d; want %s at %q, %d", i, r.Message.State, r.Message.Reason.GetCode(), r.Message.Reason.GetField(), r.Status, c.code, c.field, c.status)
		}
		var outcome struct {
			ResourceType string
			Issue        []struct {
				Severity, Code, Diagnostics string
				Expression                  []string
			}
		}
		if err := json.Unmarshal(r.Answer, &outcome); err != nil || outcome.ResourceType != "OperationOutcome" || len(outcome.Issue) != 1 || outcome.Issue[0].Severity != "error" || c.field != "" && !slices.Equal(outcome.Issue[0].Expression, []string{c.field}) {
			t.Errorf("%d: answered %s, %v", i, r.Answer, err)
		}
		for _, value := range []string{"9990000019", "1961-13", "banana", "20/06", "TESTCASE"} {
			if strings.Contains(string(r.Answer), value) {
				t.Errorf("%d: the answer holds a value: %s", i, r.Answer)
			}
		}
	}
	if n := h.count(t, "PersonRegistered"); n != 0 {
		t.Errorf("%d persons were registered by documents that were refused", n)
	}
	// Not refused: a year of birth, a Condition without a date, a Patient without an identifier.
	wantCommands(t, h.document(t, strings.Replace(fhirPatient, "1961-05-04", "1961", 1)).Message, "RegisterPerson")
	if _, kept := took(h.document(t, bundle("batch", fhirPatient, strings.Replace(breast, `"recordedDate":"2026-06-10",`, "", 1))).Message); kept["Condition undated"] != 1 {
		t.Errorf("kept %v", kept)
	}
	odd := h.document(t, strings.NewReplacer(`"id":"p1"`, `"id":"p1","nonsense":1,"maritalStatus":"M"`).Replace(fhirPatient))
	wantCommands(t, odd.Message, "UpdateDemographics")
	if _, kept := took(odd.Message); kept["Patient not_r4"] != 2 || !strings.Contains(string(odd.Answer), `"Patient.nonsense"`) || !strings.Contains(string(odd.Answer), `"Patient.maritalStatus"`) {
		t.Errorf("what is not R4 is not named: %v %s", kept, odd.Answer)
	}
	if r := h.document(t, `{"resourceType":"Patient","name":[{"family":"NOBODY"}]}`); r.Message.State != pb.MessageState_MESSAGE_STATE_PARKED || r.Message.Reason.Code != "edge.fhir.patient_unidentified" || r.Status != 202 {
		t.Errorf("a Patient without an identifier: %v", r.Message)
	}
}

// Certainty: what is refuted, provisional, benign or a mere request for a test is
// no pathway.
func TestNotCancer(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	status := func(code string) string {
		return strings.Replace(breast, `"recordedDate"`, `"verificationStatus":{"coding":[{"code":"`+code+`"}]},"recordedDate"`, 1)
	}
	r := h.document(t, bundle("collection", fhirPatient, status("refuted"), status("provisional"), status("entered-in-error"),
		strings.Replace(breast, "C50.4", "D24", 1), strings.Replace(breast, "C50.4", "C78.0", 1),
		strings.Replace(suspected, `"active"`, `"revoked"`, 1), strings.Replace(suspected, "134405005", "73761001", 1), clinic))
	wantCommands(t, r.Message, "RegisterPerson")
	want := map[string]int32{"Condition not_certain": 3, "Condition not_cancer": 1, "Condition not_mapped": 1, "ServiceRequest not_certain": 1, "ServiceRequest not_cancer": 1, "Appointment pathway_none": 1}
	if _, kept := took(r.Message); fmt.Sprint(kept) != fmt.Sprint(want) {
		t.Errorf("kept %v, want %v", kept, want)
	}
}

// A service that fails with or without having done its work leaves the document
// without an outcome; its repeat ends as if nothing had been.
func TestDocumentAfterFailure(t *testing.T) {
	t.Parallel()
	raw := bundle("transaction", fhirPatient, suspected, breast, clinic)
	for _, method := range []string{"/RegisterPerson", "/StartPathway", "/CommunicateDiagnosis", "/BookAppointment"} {
		for _, after := range []bool{false, true} {
			h := open(t, estest.NewLog(), edge.ListenOptions{})
			h.fail.Store(&failure{method, after, status.Error(codes.DeadlineExceeded, "gone")})
			if _, err := h.edge.TakeDocument(t.Context(), &pb.TakeDocumentRequest{Raw: []byte(raw), Organisation: "RJ1", Source: "EPR"}); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%s: answered %v", method, err)
			}
			h.fail.Store(nil)
			if r := h.document(t, raw); r.Message.State != pb.MessageState_MESSAGE_STATE_APPLIED {
				t.Errorf("%s, done %v: %v", method, after, r.Message)
			}
			for _, event := range []string{"MessageReceived", "PersonRegistered", "PathwayStarted", "DiagnosisCommunicated", "AppointmentBooked"} {
				if n := h.count(t, event); n != 1 {
					t.Errorf("%s, done %v: %d of %s, want 1", method, after, n, event)
				}
			}
		}
	}
}

// A document without a time of its own that was half applied and parked says the same
// when it is redriven later.
func TestRedriveHalfApplied(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"/RegisterPerson", "/UpdateDemographics", "/StartPathway", "/CommunicateDiagnosis", "/BookAppointment"} {
		h := open(t, estest.NewLog(), edge.ListenOptions{})
		if method == "/UpdateDemographics" {
			h.document(t, bundle("transaction", strings.Replace(fhirPatient, "HIGH", "LOW", 1)))
			h.late.Store(int64(time.Minute))
		}
		h.fail.Store(&failure{method, true, status.Error(codes.Internal, "broken")})
		parked := h.document(t, bundle("transaction", fhirPatient, suspected, breast, clinic))
		if parked.Message.State != pb.MessageState_MESSAGE_STATE_PARKED {
			t.Fatalf("%s: %v", method, parked.Message)
		}
		h.fail.Store(nil)
		h.late.Store(int64(time.Hour))
		r, err := h.edge.RedriveMessage(t.Context(), &pb.RedriveMessageRequest{MessageId: parked.Message.MessageId,
			Command: &metav1.Command{CommandId: uuid.NewSHA1(uuid.Nil, []byte("half")).String(), Actor: &metav1.Actor{User: "U1", Organisation: "RJ1"}}})
		if err != nil || r.Message.State != pb.MessageState_MESSAGE_STATE_APPLIED {
			t.Fatalf("%s: %v, %v", method, r.GetMessage(), err)
		}
		for _, event := range []string{"PersonRegistered", "PathwayStarted", "DiagnosisCommunicated", "AppointmentBooked"} {
			if n := h.count(t, event); n != 1 {
				t.Errorf("%s: %d of %s, want 1", method, n, event)
			}
		}
	}
}

// A refused document is shown, corrected and applied again.
func TestCorrectDocument(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	bad := h.document(t, bundle("collection", strings.Replace(fhirPatient, "9990000018", "9990000019", 1)))
	shown, err := h.edge.GetMessage(t.Context(), &pb.GetMessageRequest{MessageId: bad.Message.MessageId})
	if err != nil || !slices.ContainsFunc(shown.Fields, func(f *pb.Field) bool {
		return f.Path == bad.Message.Reason.Field && f.Value == "9990000019"
	}) {
		t.Fatalf("shown: %v, %v", shown, err)
	}
	r, err := h.edge.RedriveMessage(t.Context(), &pb.RedriveMessageRequest{
		Command:   &metav1.Command{CommandId: uuid.NewSHA1(uuid.Nil, []byte("fhir")).String(), Actor: &metav1.Actor{User: "U1", Organisation: "RJ1"}},
		MessageId: bad.Message.MessageId, Corrections: []*pb.Correction{{Path: bad.Message.Reason.Field, Value: "9990000018"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantCommands(t, r.Message, "RegisterPerson")
	if r.Message.RedriveOf != bad.Message.MessageId || r.Message.ContentType != "application/fhir+json" {
		t.Errorf("redriven: %v", r.Message)
	}
}
