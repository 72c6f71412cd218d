package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"waymark/services/edge/fhir"
)

// dump is where TestFHIR writes what is served, one resource on a line, for
// validators of others: go test ./e2e -run 'TestFHIR$' -fhir-dump FILE.
var dump = flag.String("fhir-dump", "", "file to write every resource to that the stories serve, as NDJSON")

// reader reads a world over FHIR as another system would.
type reader struct {
	t    *testing.T
	base string
}

// get asks for what is at path, under the base or absolute, and wants status.
func (r reader) get(path string, status int, headers ...string) (fhir.Resource, http.Header) {
	r.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = r.base + "/" + path
	}
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return r.do(req, status)
}

func (r reader) do(req *http.Request, status int) (fhir.Resource, http.Header) {
	r.t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.StatusCode != status {
		r.t.Fatalf("%s %s: %s, want %d: %s", req.Method, req.URL, res.Status, status, body)
	}
	if status == http.StatusNotModified {
		return nil, res.Header
	}
	resource, issues := fhir.Decode(body)
	if len(issues) > 0 {
		r.t.Fatalf("%s: what is served is not R4:\n%v\n%s", req.URL, issues, body)
	}
	return resource, res.Header
}

// refused wants an OperationOutcome with an issue about expression.
func (r reader) refused(path string, status int, expression string) {
	r.t.Helper()
	out, _ := r.get(path, status)
	outcome, ok := out.(*fhir.OperationOutcome)
	if !ok || len(outcome.Issue) != 1 || outcome.Issue[0].Diagnostics == "" || strings.Join(outcome.Issue[0].Expression, " ") != expression {
		r.t.Errorf("%s: %s", path, encode(r.t, out))
	}
}

// all finds every resource of a type that params leave, page by page.
func (r reader) all(typ string, params string) (found []fhir.Resource) {
	r.t.Helper()
	for next := typ + "?" + params; next != ""; {
		out, _ := r.get(next, http.StatusOK)
		next = ""
		for _, e := range out.(*fhir.Bundle).Entry {
			found = append(found, e.Resource)
		}
		for _, l := range out.(*fhir.Bundle).Link {
			if l.Relation == "next" {
				next = l.URL
			}
		}
	}
	return found
}

func encode(t *testing.T, r fhir.Resource) []byte {
	t.Helper()
	body, err := fhir.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// types are what the CapabilityStatement says can be read.
func (r reader) types() []fhir.CapabilityStatementRestResource {
	out, _ := r.get("metadata", http.StatusOK)
	return slices.DeleteFunc(out.(*fhir.CapabilityStatement).Rest[0].Resource, func(k fhir.CapabilityStatementRestResource) bool {
		return !slices.ContainsFunc(k.Interaction, func(i fhir.CapabilityStatementRestResourceInteraction) bool { return i.Code == "read" })
	})
}

// references lists the literal references in any JSON.
func references(v any) (all []string) {
	switch v := v.(type) {
	case map[string]any:
		for name, below := range v {
			if text, ok := below.(string); ok && name == "reference" && !strings.HasPrefix(text, "#") {
				all = append(all, text)
			}
			all = append(all, references(below)...)
		}
	case []any:
		for _, below := range v {
			all = append(all, references(below)...)
		}
	}
	return all
}

// TestFHIR plays every story and then reads all of it over FHIR: every resource
// is R4 by our own strict model, what it refers to is there, it is found again by its id,
// its version and its patient, and its history ends with what it is. Together the stories
// must show every type that is served.
func TestFHIR(t *testing.T) {
	t.Parallel()
	names, err := fs.Glob(Stories, "stories/*.story")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d stories: %v", len(names), err)
	}
	shown := map[string]int{}
	var written bytes.Buffer
	var served []fhir.CapabilityStatementRestResource
	for _, name := range names {
		t.Run(strings.TrimSuffix(path.Base(name), ".story"), func(t *testing.T) {
			var w *world
			if err := perform(t, Stories, name, func(start time.Time) *world { w = newWorld(t, start); return w }); err != nil {
				t.Fatal(err)
			}
			r := reader{t, w.fhir}
			served = r.types()
			known := map[string]bool{}
			for _, k := range served {
				for _, one := range r.all(k.Type, "_count=3") {
					shown[k.Type]++
					known[k.Type+"/"+fhir.ID(one)] = true
					r.consistent(k, one)
				}
			}
			for _, k := range served {
				for _, one := range r.all(k.Type, "") {
					body := encode(t, one)
					written.Write(append(body, '\n'))
					var tree any
					if err := json.Unmarshal(body, &tree); err != nil {
						t.Fatal(err)
					}
					for _, ref := range references(tree) {
						if !known[ref] {
							t.Errorf("%s/%s refers to %s, which is not there", k.Type, fhir.ID(one), ref)
						}
					}
				}
			}
		})
	}
	if len(served) < 15 {
		t.Fatalf("%d types are served", len(served))
	}
	for _, k := range served {
		if shown[k.Type] == 0 {
			t.Errorf("no story shows a %s", k.Type)
		}
	}
	t.Log(shown)
	if *dump != "" {
		if err := os.WriteFile(*dump, written.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// consistent checks that every way of asking for a resource gives the same.
func (r reader) consistent(k fhir.CapabilityStatementRestResource, found fhir.Resource) {
	r.t.Helper()
	id, body := fhir.ID(found), encode(r.t, found)
	same := func(how string, other fhir.Resource) {
		r.t.Helper()
		if got := encode(r.t, other); !bytes.Equal(got, body) {
			r.t.Errorf("%s/%s %s is\n%s\nthe search found\n%s", k.Type, id, how, got, body)
		}
	}
	read, header := r.get(k.Type+"/"+id, http.StatusOK)
	same("read", read)
	version := fhir.MetaOf(found).VersionId
	if header.Get("ETag") != `W/"`+version+`"` {
		r.t.Errorf("%s/%s has the ETag %s at version %s", k.Type, id, header.Get("ETag"), version)
	}
	r.get(k.Type+"/"+id, http.StatusNotModified, "If-None-Match", header.Get("ETag"))
	one, _ := r.get(k.Type+"/"+id+"/_history/"+version, http.StatusOK)
	same("read by version", one)
	one, _ = r.get(k.Type+"/"+id+"?_as-of="+version, http.StatusOK)
	same("as of its version", one)
	one, _ = r.get(k.Type+"/"+id+"?_as-of="+url.QueryEscape(fhir.MetaOf(found).LastUpdated), http.StatusOK)
	if got := fhir.MetaOf(one).LastUpdated; got != fhir.MetaOf(found).LastUpdated {
		r.t.Errorf("%s/%s as of its time is of %s", k.Type, id, got)
	}
	if by := r.all(k.Type, "_id="+id); len(by) != 1 {
		r.t.Errorf("%d found by _id", len(by))
	} else {
		same("found by _id", by[0])
	}
	// Provenance never changes; the rest has a history, and none before it begins.
	out, _ := r.get(k.Type+"/"+id+"/_history?_count=500", http.StatusOK)
	entries := out.(*fhir.Bundle).Entry
	if len(entries) == 0 || int(*out.(*fhir.Bundle).Total) != len(entries) {
		r.t.Fatalf("%s/%s has a history of %d", k.Type, id, len(entries))
	}
	same("newest in its history", entries[0].Resource)
	if entries[len(entries)-1].Request.Method != "POST" {
		r.t.Errorf("the history of %s/%s does not begin", k.Type, id)
	}
	last := ^uint64(0)
	for _, e := range entries {
		v := fhir.MetaOf(e.Resource).VersionId
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil || n >= last {
			r.t.Fatalf("%s/%s: version %s after %d", k.Type, id, v, last)
		}
		last = n
		old, _ := r.get(k.Type+"/"+id+"/_history/"+v, http.StatusOK)
		if !bytes.Equal(encode(r.t, old), encode(r.t, e.Resource)) {
			r.t.Errorf("%s/%s/_history/%s is not what its history says", k.Type, id, v)
		}
	}
	if last > 1 {
		r.get(k.Type+"/"+id+"?_as-of="+strconv.FormatUint(last-1, 10), http.StatusNotFound)
	}
}

// TestFHIRSearch asks one story's record by every parameter that matters, and
// wrongly in every way that there is.
func TestFHIRSearch(t *testing.T) {
	t.Parallel()
	var w *world
	kept, err := performed(t, Stories, "stories/the-whole-record.story", func(start time.Time) *world { w = newWorld(t, start); return w })
	if err != nil {
		t.Fatal(err)
	}
	r := reader{t, w.fhir}
	const nhsNumber = "https://fhir.nhs.uk/Id/nhs-number|9990000018"
	person, pathway := kept["person"], kept["pathway"]
	for _, c := range []struct {
		query string
		want  int
	}{
		{"Patient?identifier=" + nhsNumber, 1}, {"Patient?identifier=https://fhir.nhs.uk/Id/nhs-number|9990000026", 0},
		{"Patient?identifier=https://waymark.example/fhir/Id/local-patient-identifier/RJ1|H0001", 1}, {"Patient?identifier=https://waymark.example/fhir/Id/local-patient-identifier/RJ2|H0001", 0},
		{"CarePlan?patient.identifier=" + nhsNumber, 1}, {"CarePlan?patient=" + person, 1}, {"CarePlan?patient=Patient/" + person, 1}, {"CarePlan?subject=" + r.base + "/Patient/" + person, 1},
		{"CarePlan?patient=" + pathway, 0}, {"CarePlan?patient=" + person + "&patient=" + pathway, 0}, {"CarePlan?patient=" + pathway + "," + person, 1},
		{"CarePlan?status=active", 1}, {"CarePlan?status=draft,completed", 0}, {"CarePlan?status=draft,active", 1}, {"CarePlan?category=http://snomed.info/sct|736252007", 1}, {"CarePlan?category=736252007", 1},
		{"CarePlan?category=http://snomed.info/sct|", 1}, {"CarePlan?category=|736252007", 0}, {"CarePlan?category=http://loinc.org|736252007", 0},
		{"CarePlan?identifier=https://waymark.example/fhir/Id/plan-id|x", 0},
		{"EpisodeOfCare?identifier=https://fhir.nhs.uk/Id/PathwayId|LUNG2026001", 1}, {"EpisodeOfCare?status=active&date=ge2026-07", 1}, {"EpisodeOfCare?date=eb2026-07-06", 0}, {"EpisodeOfCare?date=sa2026-07-05", 1},
		{"EpisodeOfCare?care-manager:identifier=https://fhir.nhs.uk/Id/sds-user-id|555000401", 1}, {"EpisodeOfCare?care-manager:identifier=https://fhir.nhs.uk/Id/sds-user-id|555000402", 0},
		{"Task?owner:identifier=https://fhir.nhs.uk/Id/sds-user-id|555000401&status=accepted", 1}, {"Task?code=fulfill&status=requested", 1}, {"Task?focus=EpisodeOfCare/" + pathway, 1},
		{"ServiceRequest?category=allied-health&status=active", 1}, {"ServiceRequest?performer:identifier=https://fhir.nhs.uk/Id/ods-organization-code|RRV", 1},
		{"Appointment?status=cancelled", 1}, {"Appointment?status=proposed", 1}, {"Appointment?date=2026-10-24", 1}, {"Appointment?date=2026-10-15", 0}, {"Appointment?date=ge2026-10-24T13:30:00Z&date=lt2026-10-25", 1},
		{"Slot?status=free", 2}, {"Slot?status=busy", 0}, {"Slot?start=2026-10-15", 1}, {"Slot?schedule=Schedule/" + kept["session"], 2}, {"Slot?schedule=" + kept["session"] + "&start=gt2026-10-20", 1},
		{"Schedule?active=true", 1}, {"Goal?lifecycle-status=active,accepted,proposed", 1}, {"Goal?target-date=2026-12", 1}, {"Condition?category=problem-list-item", 1}, {"Condition?code=C34.1", 1},
		{"QuestionnaireResponse?status=completed&authored=2026-09-16", 2}, {"Communication?status=not-done", 1}, {"Communication?status=completed&sent=2026-09-18", 1},
		{"Composition?status=final", 1}, {"DocumentReference?type=end-of-treatment-summary", 1}, {"Flag?patient.identifier=" + nhsNumber, 2}, {"Flag?patient=" + person, 2},
		{"Provenance?target=EpisodeOfCare/" + pathway + "&recorded=2026-09-18&_count=500", 3},
		{"Patient?_lastUpdated=ge2026-09-21", 1}, {"Patient?_lastUpdated=lt2026-09-21", 0}, {"Patient?_id=" + person + ",nobody", 1}, {"Patient?_format=json&_pretty=true", 1},
		// As it was.
		{"Appointment?status=booked&_as-of=2026-09-17T07:59:00Z", 0}, {"Flag?patient=" + person + "&_as-of=2026-09-16T07:00:00Z", 0}, {"EpisodeOfCare?status=active&_as-of=2026-07-05T00:00:00Z", 0},
		{"Task?status=requested&_as-of=2026-09-14T12:00:00%2B01:00", 1},
	} {
		if got := r.all(strings.SplitN(c.query, "?", 2)[0], strings.SplitN(c.query, "?", 2)[1]); len(got) != c.want {
			t.Errorf("%s finds %d, want %d", c.query, len(got), c.want)
		}
	}
	for _, c := range []struct {
		query, expression string
		status            int
	}{
		{"CarePlan?state=active", "state", 400}, {"CarePlan?status:not=active", "status:not", 400}, {"CarePlan?_include=CarePlan:goal", "_include", 400}, {"CarePlan?_sort=date", "_sort", 400},
		{"CarePlan?status=", "status", 400}, {"CarePlan?date=yesterday", "date", 400}, {"CarePlan?date=xx2026", "date", 400}, {"CarePlan?_lastUpdated=2026-13-01", "_lastUpdated", 400},
		{"CarePlan?patient=Group/1", "patient", 400}, {"CarePlan?patient.identifier=9990000018", "patient.identifier", 400}, {"CarePlan?patient.identifier=https://example.org|1", "patient.identifier", 400},
		{"CarePlan?patient.identifier=https://fhir.nhs.uk/Id/nhs-number|9990000019", "patient.identifier", 400}, {"CarePlan?_count=0", "_count", 400}, {"CarePlan?_count=501", "_count", 400}, {"CarePlan?_page=x", "_page", 400},
		{"CarePlan?_as-of=yesterday", "_as-of", 400}, {"CarePlan?_as-of=2026-01-01", "_as-of", 400}, {"Task?owner=https://fhir.nhs.uk/Id/sds-user-id|1", "owner", 400}, {"Slot?patient=" + person, "patient", 400},
		{"Patient/" + person + "?status=x", "status", 400}, {"metadata?mode=full", "mode", 400}, {"Patient?_format=xml", "_format", 406},
		{"Patient/nobody", "", 404}, {"Patient/" + person + "/_history/1", "", 404}, {"Patient/" + person + "/_history/x", "", 404}, {"Patient/nobody/_history", "", 404}, {"Banana", "", 404}, {"Patient/" + person + "/$everything", "", 404},
		{"CarePlan/" + pathway, "", 404}, {"../../metadata", "", 404},
	} {
		r.refused(c.query, c.status, c.expression)
	}
	// Lenient leaves out what it does not know, and says so in the self link.
	out, _ := r.get("CarePlan?status=active&banana=1", http.StatusOK, "Prefer", "handling=lenient")
	if link := out.(*fhir.Bundle).Link[0].URL; len(out.(*fhir.Bundle).Entry) != 1 || strings.Contains(link, "banana") {
		t.Errorf("lenient: %s", encode(t, out))
	}
	// A search in a body keeps the number out of URLs.
	post, _ := http.NewRequest(http.MethodPost, r.base+"/CarePlan/_search", strings.NewReader(url.Values{"patient.identifier": {nhsNumber}}.Encode()))
	post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if out, _ := r.do(post, http.StatusOK); len(out.(*fhir.Bundle).Entry) != 1 {
		t.Errorf("POST finds %s", encode(t, out))
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		req, _ := http.NewRequest(method, r.base+"/Patient/"+person, strings.NewReader(`{"resourceType":"Patient"}`))
		r.do(req, http.StatusMethodNotAllowed)
	}
	r.get("Patient", http.StatusNotAcceptable, "Accept", "application/fhir+xml")
	r.get("Patient", http.StatusOK, "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")

	// Pages are whole and hold everything once.
	one, all := r.all("Provenance", "_count=1"), r.all("Provenance", "_count=500")
	if len(one) != len(all) || len(all) < 40 {
		t.Errorf("%d in pages, %d at once", len(one), len(all))
	}

	// The document holds what its Composition refers to.
	document, _ := r.get("Composition/"+kept["summary"]+"/$document", http.StatusOK)
	if b := document.(*fhir.Bundle); b.Type != "document" || len(b.Entry) != 2 || b.Entry[0].Resource.ResourceType() != "Composition" || fhir.ID(b.Entry[1].Resource) != person {
		t.Errorf("the document is %s", encode(t, document))
	}
}

// TestFHIRWithholds: what may no longer be shown is in no version of anything.
func TestFHIRWithholds(t *testing.T) {
	t.Parallel()
	var w *world
	kept, err := performed(t, Stories, "stories/the-whole-record.story", func(start time.Time) *world { w = newWorld(t, start); return w })
	if err != nil {
		t.Fatal(err)
	}
	r := reader{t, w.fhir}
	secrets := []string{"SE15 1AA", "High Street", "020 7946 0001", "A81001", "Lives with a brother"}
	read := 0
	look := func(where string, one fhir.Resource) {
		read++
		body := string(encode(t, one))
		for _, secret := range secrets {
			// The practice is also an organisation that staff belong to.
			if strings.Contains(body, secret) && !(secret == "A81001" && one.ResourceType() == "Provenance") {
				t.Errorf("%s shows %q", where, secret)
			}
		}
	}
	for _, k := range r.types() {
		for _, one := range r.all(k.Type, "") {
			name := k.Type + "/" + fhir.ID(one)
			look(name, one)
			out, _ := r.get(name+"/_history?_count=500", http.StatusOK)
			for _, e := range out.(*fhir.Bundle).Entry {
				look(fmt.Sprintf("%s/_history/%s", name, fhir.MetaOf(e.Resource).VersionId), e.Resource)
			}
		}
		for _, before := range []string{"2026-09-20T00:00:00Z"} {
			for _, one := range r.all(k.Type, "_as-of="+before) {
				look(k.Type+" as of "+before, one)
			}
		}
	}
	if read < 100 {
		t.Fatalf("looked at %d resources", read)
	}
	// The test sees: what is not withheld is there.
	plan := r.all("CarePlan", "")[0].(*fhir.CarePlan)
	if !slices.ContainsFunc(plan.Note, func(a fhir.Annotation) bool { return a.Text == "Wants to be back in May" }) {
		t.Errorf("the plan is %s", encode(t, plan))
	}
	patient, _ := r.get("Patient/"+kept["person"], http.StatusOK)
	if p := patient.(*fhir.Patient); len(p.Name) != 1 || p.Name[0].Family != "Testcase" || len(p.Meta.Security) != 1 || p.Meta.Security[0].Code != "R" {
		t.Errorf("the patient is %s", encode(t, patient))
	}
}

// performed is perform, and what the story kept.
func performed(t *testing.T, files fs.FS, name string, make func(start time.Time) *world) (map[string]string, error) {
	t.Helper()
	s, err := ReadStory(files, name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := &play{Story: s, world: make(s.begin()), kept: map[string]string{}, looked: map[string]int{}}
	return p.kept, p.run(ctx)
}
