package feed

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	pb "waymark/proto/waymark/edge/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/edge"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

func base64of(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// barsHeaders are those of a message of G84001.
func barsHeaders() map[string]string {
	return map[string]string{
		"Content-Type": "application/fhir+json", "X-Request-Id": "11111111-1111-4111-8111-111111111111", "X-Correlation-Id": "22222222-2222-4222-8222-222222222222",
		"NHSD-Target-Identifier":       base64of(`{"system":"https://fhir.nhs.uk/Id/dos-service-id","value":"111"}`),
		"NHSD-End-User-Organisation":   base64of(`{"resourceType":"Organization","identifier":[{"system":"https://fhir.nhs.uk/Id/ods-organization-code","value":"G84001"}]}`),
		"NHSD-Requesting-Practitioner": base64of(`{"resourceType":"PractitionerRole"}`), "NHSD-Requesting-Software": base64of(`{"resourceType":"Device"}`),
	}
}

// resource is what of an answer these tests look at.
type resource struct {
	ResourceType, Type, ID, Status string
	Total                          *int
	Issue                          []struct {
		Severity, Code, Diagnostics string
		Expression                  []string
		Details                     struct{ Coding []struct{ Code string } }
	}
	Entry []struct{ Resource resource }
	Link  []struct{ Relation, URL string }
	Start string
	Meta  struct{ VersionID string }
}

func (h *house) http(t testing.TB, method, path, body string, headers map[string]string) (*http.Response, resource) {
	t.Helper()
	url := path
	if !strings.HasPrefix(path, "http") {
		url = h.fhir + "/" + path
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range headers {
		if v != "" {
			req.Header.Set(name, v)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var r resource
	if method != http.MethodHead {
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatalf("%s %s: %d %q: %v", method, path, resp.StatusCode, raw, err)
		}
	}
	return resp, r
}

// A referral comes in over HTTP, is accepted, and its answer is fetched; the FHIR
// server shows the same.
func TestBarsOverHTTP(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	raw := barsMessage("b1", "servicerequest-request", "new", barsRequest("R1", "active", "waymark-usc", "2099-01-01T00:00:00Z"))
	resp, answer := h.http(t, "POST", "$process-message", raw, barsHeaders())
	if resp.StatusCode != 200 || answer.Type != "message" || resp.Header.Get("X-Correlation-Id") != barsHeaders()["X-Correlation-Id"] || resp.Header.Get("X-Request-Id") == "" {
		t.Fatalf("%d %+v %v", resp.StatusCode, answer, resp.Header)
	}
	referral := answer.Entry[1].Resource.ID
	_, shown := h.http(t, "GET", "ServiceRequest/"+referral, "", nil)
	if shown.ResourceType != "ServiceRequest" || shown.Status != "active" {
		t.Errorf("shown: %+v", shown)
	}
	list, err := h.edge.ListMessages(t.Context(), &pb.ListMessagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	pathway := list.Messages[0].Effects[1].SubjectId
	if _, err := h.referrals.AcceptReferral(t.Context(), &referralv1.AcceptReferralRequest{Command: command("accept", "RJ1"), PathwayId: pathway, ReferralId: referral}); err != nil {
		t.Fatal(err)
	}
	h.answers(t, "G84001", 0, 1) // the edge has heard of it
	_, found := h.http(t, "GET", "$messages?organisation=G84001", "", nil)
	if len(found.Entry) != 1 || found.Entry[0].Resource.Entry[1].Resource.ID != referral {
		t.Fatalf("answers: %+v", found)
	}
	next := found.Link[slices.IndexFunc(found.Link, func(l struct{ Relation, URL string }) bool { return l.Relation == "next" })].URL
	if _, rest := h.http(t, "GET", next, "", nil); len(rest.Entry) != 0 {
		t.Errorf("the next page has %d answers", len(rest.Entry))
	}
	if _, definitions := h.http(t, "GET", "MessageDefinition", "", nil); len(definitions.Entry) != 4 {
		t.Errorf("%d MessageDefinitions", len(definitions.Entry))
	}
	// A repeat by another route is the same message.
	if r := h.bars(t, raw, 200, ""); !r.Duplicate {
		t.Error("the repeat was taken anew")
	}
}

// Faults of the request, by header and status, each an OperationOutcome of BaRS.
func TestBarsHeaders(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	raw := barsMessage("b1", "servicerequest-request", "new", barsRequest("R1", "active", "waymark-usc", "2099-01-01T00:00:00Z"))
	for _, c := range []struct {
		name, method, header, value string
		status                      int
		code, bars, element         string
	}{
		{"a wrong method", "PUT", "", "", 405, "not-supported", "REC_METHOD_NOT_ALLOWED", ""},
		{"no request id", "POST", "X-Request-Id", "", 400, "required", "SEND_BAD_REQUEST", "http.X-Request-Id"},
		{"no correlation id", "POST", "X-Correlation-Id", "", 400, "required", "SEND_BAD_REQUEST", "http.X-Correlation-Id"},
		{"a correlation id with a name in it", "POST", "X-Correlation-Id", "Ann Testcase", 400, "value", "SEND_BAD_REQUEST", "http.X-Correlation-Id"},
		{"no target", "POST", "NHSD-Target-Identifier", "", 400, "required", "SEND_BAD_REQUEST", "http.NHSD-Target-Identifier"},
		{"a target that is no base64", "POST", "NHSD-Target-Identifier", "!!", 400, "value", "SEND_BAD_REQUEST", "http.NHSD-Target-Identifier"},
		{"a target that is no identifier", "POST", "NHSD-Target-Identifier", base64of(`{"value":"1"}`), 400, "structure", "SEND_BAD_REQUEST", "http.NHSD-Target-Identifier"},
		{"software that is no JSON", "POST", "NHSD-Requesting-Software", base64of(`<x/>`), 400, "structure", "SEND_BAD_REQUEST", "http.NHSD-Requesting-Software"},
		{"no sender", "POST", "NHSD-End-User-Organisation", "", 400, "required", "SEND_BAD_REQUEST", "http.NHSD-End-User-Organisation"},
		{"another content type", "POST", "Content-Type", "application/fhir+xml", 415, "not-supported", "REC_UNSUPPORTED_MEDIA_TYPE", "http.Content-Type"},
		{"another format", "POST", "Accept", "application/fhir+xml", 406, "processing", "SEND_NOT_ACCEPTABLE", "http.Accept"},
		{"another version", "POST", "Accept", "application/fhir+json; version=9.0.0", 406, "processing", "SEND_NOT_ACCEPTABLE", "http.Accept"},
	} {
		headers := barsHeaders()
		if c.header != "" {
			headers[c.header] = c.value
		}
		resp, r := h.http(t, c.method, "$process-message", raw, headers)
		if resp.StatusCode != c.status || r.ResourceType != "OperationOutcome" || len(r.Issue) != 1 {
			t.Errorf("%s: %d %+v", c.name, resp.StatusCode, r)
			continue
		}
		i := r.Issue[0]
		if i.Code != c.code || i.Details.Coding[0].Code != c.bars || c.element != "" && !slices.Equal(i.Expression, []string{c.element}) {
			t.Errorf("%s: %+v, want %s %s at %s", c.name, i, c.code, c.bars, c.element)
		}
	}
	if n := h.count(t, "MessageReceived"); n != 0 {
		t.Errorf("%d messages were kept of requests that were refused", n)
	}
	// Accepted as they are: no Accept, a version of BaRS, a charset.
	headers := barsHeaders()
	headers["Accept"], headers["Content-Type"] = "application/fhir+json; version=1.2.0", "application/fhir+json; charset=utf-8"
	if resp, r := h.http(t, "POST", "$process-message", raw, headers); resp.StatusCode != 200 {
		t.Errorf("%d %+v", resp.StatusCode, r)
	}
	if resp, _ := h.http(t, "POST", "$process-message", strings.Repeat(" ", 5<<20), barsHeaders()); resp.StatusCode != 413 {
		t.Errorf("5 MiB: %d", resp.StatusCode)
	}
	for code, want := range map[codes.Code]int{codes.DeadlineExceeded: 408, codes.Unavailable: 503, codes.ResourceExhausted: 429} {
		err := error(&fault.Error{GRPC: code, Code: "call.failed", Text: "gone"})
		h.fail.Store(&failure{"/FindPerson", false, err})
		next := barsMessage(fmt.Sprint("x", want), "servicerequest-request", "new", barsRequest("R2", "active", "waymark-usc", "2099-01-01T00:00:00Z"))
		if resp, r := h.http(t, "POST", "$process-message", next, barsHeaders()); resp.StatusCode != want || r.ResourceType != "OperationOutcome" {
			t.Errorf("%s: %d %+v, want %d", code, resp.StatusCode, r, want)
		}
	}
}

// A booking by HL7 v2 is an Appointment by FHIR and in the patient's feed, also
// once it is cancelled; what must not be shown is not.
func TestPatientFeed(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), edge.ListenOptions{})
	parameters := func(number, born string) string {
		return fmt.Sprintf(`{"resourceType":"Parameters","parameter":[{"name":"nhs-number","valueString":"%s"},{"name":"birth-date","valueDate":"%s"}]}`, number, born)
	}
	headers := map[string]string{"Content-Type": "application/fhir+json", "X-Correlation-Id": "33333333-3333-4333-8333-333333333333"}
	feed := func(number, born string) []resource {
		t.Helper()
		resp, r := h.http(t, "POST", "$patient-appointments", parameters(number, born), headers)
		if resp.StatusCode != 200 || r.Total == nil || *r.Total != len(r.Entry) || resp.Header.Get("X-Correlation-Id") != headers["X-Correlation-Id"] {
			t.Fatalf("%d %+v", resp.StatusCode, r)
		}
		var out []resource
		for _, e := range r.Entry {
			out = append(out, e.Resource)
		}
		return out
	}
	h.want(t, ref("I12", "1", "RF1|P|3|01|||REF1^RJ1|20260601"), "AA", "")
	siu := func(trigger, control, status string) string {
		return fmt.Sprintf("MSH|^~\\&|PAS|RJ1|WAYMARK|X26|20260601120000||SIU^%s^SIU_S12|%s|P|2.4\rSCH|P1|BK1|||||CHECK^Check up||30|MIN^Minutes|^^30^202606201000^202606201030||||||||||||||%s\r"+
			"PID|1||9990000018^^^NHS~H1^^^RJ1||TESTCASE^ANN^^^MRS||19610504|2\rRGS|1\rAIL|1||RJ101\r", trigger, control, status)
	}
	h.want(t, siu("S12", "2", "Booked"), "AA", "")
	wantCommands(t, h.document(t, bundle("collection", fhirPatient, strings.NewReplacer("2026-06-20T09:30:00+01:00", "2026-05-20T09:30:00+01:00", "2026-06-20T10:00:00+01:00", "2026-05-20T10:00:00+01:00").Replace(clinic))).Message, "UpdateDemographics", "BookAppointment")
	shown := feed("9990000018", "1961-05-04")
	if len(shown) != 2 || shown[0].Start > shown[1].Start || shown[1].Status != "booked" {
		t.Fatalf("shown %+v", shown)
	}
	if _, read := h.http(t, "GET", "Appointment/"+shown[1].ID, "", nil); read.Start != shown[1].Start {
		t.Errorf("read: %+v", read)
	}
	h.want(t, siu("S15", "3", "Cancelled"), "AA", "")
	if shown = feed("999 000 0018", "1961-05-04"); len(shown) != 2 || shown[1].Status != "cancelled" {
		t.Errorf("after the cancellation %+v", shown)
	}

	// A clinic and a site that the trust hides.
	hidden := strings.NewReplacer(`"a1"`, `"a2"`, "T09:30", "T13:30", "T10:00", "T14:00", `"status":"booked"`, `"status":"booked","specialty":[{"coding":[{"code":"360"}]}]`).Replace(clinic)
	site := strings.NewReplacer(`"a1"`, `"a3"`, "T09:30", "T15:30", "T10:00", "T16:00", `"participant":[`, `"participant":[{"actor":{"identifier":{"system":"https://fhir.nhs.uk/Id/ods-site-code","value":"RJ199"}},"status":"accepted"},`).Replace(clinic)
	wantCommands(t, h.document(t, bundle("collection", fhirPatient, hidden, site)).Message, "UpdateDemographics", "BookAppointment", "BookAppointment")
	if shown = feed("9990000018", "1961-05-04"); len(shown) != 2 {
		t.Errorf("%d shown with what is hidden", len(shown))
	}

	// Another birth date, another number: the same answer.
	for _, p := range [][2]string{{"9990000018", "1961-05-05"}, {"9990000026", "1961-05-04"}} {
		if resp, r := h.http(t, "POST", "$patient-appointments", parameters(p[0], p[1]), headers); resp.StatusCode != 404 || strings.Contains(fmt.Sprint(r), p[0]) {
			t.Errorf("%d %+v", resp.StatusCode, r)
		}
	}
	for _, bad := range []struct {
		method, body, correlation string
		status                    int
	}{
		{"GET", "", "c1", 405}, {"POST", parameters("9990000019", "1961-05-04"), "c1", 400}, {"POST", parameters("9990000018", "1961-13-04"), "c1", 400},
		{"POST", `{"resourceType":"Patient"}`, "c1", 400}, {"POST", parameters("9990000018", "1961-05-04"), "", 400},
	} {
		if resp, _ := h.http(t, bad.method, "$patient-appointments", bad.body, map[string]string{"Content-Type": "application/fhir+json", "X-Correlation-Id": bad.correlation}); resp.StatusCode != bad.status {
			t.Errorf("%+v: %d", bad, resp.StatusCode)
		}
	}

	// A restricted patient, and one under 16, have nothing.
	persons := personv1.NewPersonServiceClient(h.conn)
	p, err := persons.FindPerson(t.Context(), &personv1.FindPersonRequest{NhsNumber: "9990000018"})
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"R", "U"} {
		if code == "U" {
			_, err = persons.LiftRestriction(t.Context(), &personv1.LiftRestrictionRequest{Command: command("lift", "RJ1"), PersonId: p.Person.PersonId})
		} else {
			_, err = persons.SetRestriction(t.Context(), &personv1.SetRestrictionRequest{Command: command("restrict", "RJ1"), PersonId: p.Person.PersonId, Code: code})
		}
		if err != nil {
			t.Fatal(err)
		}
		if shown = feed("9990000018", "1961-05-04"); len(shown) != map[string]int{"R": 0, "U": 2}[code] {
			t.Errorf("restricted %s: %d shown", code, len(shown))
		}
	}
	child := strings.NewReplacer("9990000018", "9990000026", "1961-05-04", "2010-06-16", "TESTCASE", "YOUNG", "p1", "p2").Replace
	wantCommands(t, h.document(t, bundle("collection", child(fhirPatient), child(strings.Replace(suspected, `"R1"`, `"R9"`, 1)), child(strings.Replace(clinic, `"a1"`, `"a9"`, 1)))).Message, "RegisterPerson", "StartPathway", "BookAppointment")
	if shown = feed("9990000026", "2010-06-16"); len(shown) != 0 { // 16 tomorrow: the clock says 15 June 2026
		t.Errorf("a patient of 15 is shown %d", len(shown))
	}
	// Too many in a second.
	throttled := 0
	for range 200 {
		if resp, _ := h.http(t, "POST", "$patient-appointments", "", headers); resp.StatusCode == 429 && resp.Header.Get("Retry-After") != "" {
			throttled++
		}
	}
	if throttled == 0 {
		t.Error("200 requests at once were not throttled")
	}
}
