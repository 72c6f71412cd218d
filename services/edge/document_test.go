package edge

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// Whatever comes, reading it does not panic, says the same twice, and names no
// value in a refusal.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		`{"resourceType":"Patient","id":"1","identifier":[{"system":"https://fhir.nhs.uk/Id/nhs-number","value":"9990000018"}],"birthDate":"1961-05-04"}`,
		`{"resourceType":"Bundle","type":"message","id":"b","entry":[{"fullUrl":"urn:uuid:1","resource":{"resourceType":"MessageHeader","eventCoding":{"code":"booking-request"},"focus":[{"reference":"urn:uuid:2"}]}}]}`,
		`{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Appointment","participant":[{"actor":{"reference":"Patient/1"}}]}}]}`,
		`{"resourceType":"Bundle","type":"message","meta":{"versionId":"1.0.0"},"entry":[{"resource":{"resourceType":"MessageHeader","eventCoding":{"code":"servicerequest-request"},"reason":{"coding":[{"code":"update"}]},"source":{"contact":{"value":"1"}},"focus":[{"reference":"ServiceRequest/1"}]}},{"resource":{"resourceType":"ServiceRequest","id":"1","meta":{"lastUpdated":"2026-01-01T00:00:00Z"},"status":"active","authoredOn":"2026-01-01","category":[{"coding":[{"code":"waymark-usc"}]}],"subject":{"reference":"Patient/1"}}},{"resource":{"resourceType":"Patient","id":"1"}}]}`,
		`<Patient/>`, `[]`, `{`, `{"resourceType":"ReferralRequest"}`, `{"resourceType":{"a":[[[]]]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, again := readDocument(raw, "RJ1", "EPR"), readDocument(raw, "RJ1", "EPR")
		if d.digest() != again.digest() {
			t.Error("the digest changes")
		}
		d.header()
		d.patients()
		if _, err := d.fields(); (err != nil) != (d.unread != nil) {
			t.Errorf("fields: %v, unread: %v", err, d.unread)
		}
		for _, remark := range d.remarks() {
			if remark.element == "" {
				t.Errorf("a remark names no element: %+v", remark)
			}
		}
		if d.unread == nil && d.r4() == nil {
			tryRead(t, d)
		}
		for _, r := range d.resources {
			r.codings("code")
			r.extension("x")
			d.identifiers(r.node)
			d.ods(r.get("performer"))
			address(r.at("address"))
		}
	})
}

// tryRead reads a document as far as nothing is asked of a service. A refusal
// names what it is about, and every resource is taken or kept.
func tryRead(t *testing.T, d *document) {
	w := &work{service: &service{key: make([]byte, 32)}, received: time.Unix(1_780_000_000, 0)}
	m, err := d.bars()
	var in *intake
	if err == nil {
		in, err = d.read(w, m)
	}
	if err == nil && m != nil {
		if who := in.about(m.focus); who != nil {
			if m.focus.kind == "ServiceRequest" {
				_, err = in.referralMessage(m, who)
			} else {
				_, err = in.bookingMessage(m, who)
			}
		}
	}
	var why *stop
	switch {
	case errors.As(err, &why):
		if why.reason.Code == "" || why.reason.Field == "" || why.reason.Text == "" {
			t.Errorf("a refusal without code, element or text: %v", why.reason)
		}
	case err != nil:
		t.Errorf("neither taken nor refused: %v", err)
	default:
		n := len(in.steps)
		for _, who := range in.people {
			if who.path != "" {
				n++
			}
		}
		for _, k := range w.kept {
			if k.Code != notR4 {
				n += int(k.Count)
			}
		}
		if m != nil {
			n += 2 // the header, and what it is about
		}
		if n != len(d.resources) {
			t.Errorf("%d resources, %d taken or kept", len(d.resources), n)
		}
	}
}

// The table of codes is whole, and the longest ICD-10 row counts.
func TestCancers(t *testing.T) {
	if len(cancers["icd10"]) < 70 || len(cancers["snomed"]) < 20 {
		t.Fatalf("%d ICD-10 and %d SNOMED CT rows", len(cancers["icd10"]), len(cancers["snomed"]))
	}
	for system, rows := range cancers {
		for code, c := range rows {
			if (c.group == "") != (c.kind == "secondary") || c.kind != "primary" && c.kind != "secondary" && c.kind != "suspected" {
				t.Errorf("%s %s: kind %q, group %q", system, code, c.kind, c.group)
			}
		}
	}
	for _, want := range []struct{ system, code, kind, group, icd10 string }{
		{"http://hl7.org/fhir/sid/icd-10", "C50.4", "primary", "01", "C50.4"},
		{"http://hl7.org/fhir/sid/icd-10-cm", "C50.211", "primary", "01", "C50.2"},
		{"http://hl7.org/fhir/sid/icd-10", "C91.0", "primary", "15", "C91.0"},
		{"http://hl7.org/fhir/sid/icd-10", "C91.1", "primary", "04", "C91.1"},
		{"http://hl7.org/fhir/sid/icd-10", "C79.8", "secondary", "", "C79.8"},
		{"http://hl7.org/fhir/sid/icd-10", "K63.3", "", "", ""},
		{"http://snomed.info/sct", "134405005", "suspected", "01", ""},
		{"http://example.org/local", "C50.4", "", "", ""},
	} {
		got, ok := coding{system: want.system, code: want.code}.means()
		if ok != (want.kind != "") || got.kind != want.kind || got.group != want.group || got.icd10 != want.icd10 {
			t.Errorf("%s %s: %+v", want.system, want.code, got)
		}
	}
}

// A correction puts text in the place of text, and nothing else.
func TestSet(t *testing.T) {
	var v any
	if err := json.Unmarshal([]byte(`{"a":{"b":[{"c":"old"},"x"]},"n":1}`), &v); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"a.b[0].c": true, "a.b[1]": true, "a.b[2]": false, "a.b": false, "n": false, "z": false, "a.b[-1]": false, "a.b[x]": false, "": false} {
		if got := set(v, path, "new"); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
	out, _ := json.Marshal(v)
	if string(out) != `{"a":{"b":[{"c":"new"},"new"]},"n":1}` {
		t.Errorf("%s", out)
	}
	if strings.Contains(string(out), "old") {
		t.Error("the old value is still there")
	}
}
