package fhir

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

// corpus is the folder of TestCorpus: go test -run TestCorpus -v -corpus DIR.
var corpus = flag.String("corpus", filepath.Join("testdata", "corpus"), "folder of JSON files to read, write and compare")

// canonical JSON: without white space, members in order, strings escaped one
// way, numbers as they came.
func canonical(t rapid.TB, data []byte) string {
	v := jsontext.Value(slices.Clone(data))
	if err := v.Format(jsontext.ReorderRawObjects(true), jsontext.CanonicalizeRawFloats(false), jsontext.CanonicalizeRawInts(false)); err != nil {
		t.Fatalf("not JSON: %v", err)
	}
	return string(v)
}

// roundTrip is the promise: what was read is written, and reads the same again.
func roundTrip(t rapid.TB, data []byte) (Resource, Issues) {
	r, issues := Decode(data)
	if r == nil {
		if issues.Valid() {
			t.Fatalf("no resource, and no issue")
		}
		return nil, issues
	}
	out, err := Encode(r)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	if got, want := canonical(t, out), canonical(t, data); got != want {
		t.Fatalf("not what was read:\n got %s\nwant %s", got, want)
	}
	_, again := Decode(out)
	if len(again) != len(issues) {
		t.Fatalf("read again it has other issues:\n%v\nbefore:\n%v", again, issues)
	}
	return r, issues
}

// corpusFiles are the files to read; there must be some.
func corpusFiles(t testing.TB) (files []string) {
	err := filepath.WalkDir(*corpus, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(name) == ".json" {
			files = append(files, name)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files in %s: %v", len(files), *corpus, err)
	}
	return files
}

// TestCorpus reads every file, writes it, and compares. One that is no resource is counted.
func TestCorpus(t *testing.T) {
	clean, flawed, none, texts := 0, 0, 0, map[string]int{}
	files := corpusFiles(t)
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		r, issues := roundTrip(t, data)
		switch {
		case r == nil:
			none++
		case issues.Valid():
			clean++
		default:
			flawed++
		}
		for _, i := range issues {
			texts[i.Severity+": "+i.Text]++
			if i.Severity != "information" && testing.Verbose() {
				t.Logf("%s: %s: %s", filepath.Base(name), i.Expression, i.Text)
			}
		}
	}
	t.Logf("%d files: %d without a fault, %d with, %d that are no resource", len(files), clean, flawed, none)
	for _, text := range slices.Sorted(maps.Keys(texts)) {
		t.Logf("%5d %s", texts[text], text)
	}
}

// TestPublished pins what is found in files that are wrong as published.
func TestPublished(t *testing.T) {
	for name, want := range map[string]string{
		"fhir-test-cases/bundle-bad-empty.json":                 "Bundle.entry[0].fullUrl",
		"fhir-test-cases/patient-id-bad-1.json":                 "Patient.id",
		"fhir-test-cases/xver-task-r5.json":                     "Task.input[0].valueCodeableReference Task.input[0].value",
		"ukcore/Extension-UKCore-ConditionEpisode-Example.json": "Condition.extension[0].value",
		"bars/healthcareservice.json":                           "HealthcareService.providedBy",
		"fhir-test-cases/patient-example.json":                  "",
		"fhir-test-cases/observation-decimal.json":              "",
		"ukcore/UKCore-Composition-Discharge-Example.json":      "",
	} {
		data, err := os.ReadFile(filepath.Join("testdata", "corpus", name))
		if err != nil {
			t.Fatal(err)
		}
		_, issues := Decode(data)
		var got []string
		for _, i := range issues {
			if i.Severity == "error" {
				got = append(got, i.Expression)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v", name, issues)
		}
	}
}

// TestStrict has one fault per line, where it is, and which kind it is.
func TestStrict(t *testing.T) {
	patient := func(members string) string { return `{"resourceType":"Patient",` + members + `}` }
	for _, c := range []struct{ json, code, expression string }{
		{patient(`"nme":[]`), "structure", "Patient.nme"},
		{patient(`"name":[{"familly":"x"}]`), "structure", "Patient.name[0].familly"},
		{patient(`"name":{"family":"x"}`), "structure", "Patient.name"},
		{patient(`"name":["x"]`), "structure", "Patient.name[0]"},
		{patient(`"name":[]`), "structure", "Patient.name"},
		{patient(`"name":[{}]`), "structure", "Patient.name[0]"},
		{patient(`"name":[null]`), "structure", "Patient.name[0]"},
		{patient(`"name":null`), "structure", "Patient.name"},
		{patient(`"birthDate":["1970-01-01"]`), "structure", "Patient.birthDate"},
		{patient(`"birthDate":19700101`), "structure", "Patient.birthDate"},
		{patient(`"birthDate":""`), "value", "Patient.birthDate"},
		{patient(`"birthDate":"1970-02-30"`), "value", "Patient.birthDate"},
		{patient(`"birthDate":"01/02/1970"`), "value", "Patient.birthDate"},
		{patient(`"active":"true"`), "structure", "Patient.active"},
		{patient(`"gender":"banana"`), "code-invalid", "Patient.gender"},
		{patient(`"id":"a b"`), "value", "Patient.id"},
		{patient(`"id":"` + strings.Repeat("x", 65) + `"`), "value", "Patient.id"},
		{patient(`"multipleBirthInteger":1.0`), "value", "Patient.multipleBirth"},
		{patient(`"multipleBirthInteger":1,"multipleBirthBoolean":true`), "structure", "Patient.multipleBirth"},
		{patient(`"deceasedString":"x"`), "structure", "Patient.deceasedString"},
		{patient(`"deceased":true`), "structure", "Patient.deceased"},
		{patient(`"deceasedDateTime":"2020-01-01T10:00"`), "value", "Patient.deceased"},
		{patient(`"_name":[{"id":"x"}]`), "structure", "Patient.name"},
		{patient(`"_birthDate":{}`), "structure", "Patient.birthDate"},
		{patient(`"_birthDate":{"extension":[{"valueString":"x"}]}`), "required", "Patient.birthDate.extension[0].url"},
		{patient(`"name":[{"given":["a",null]}]`), "structure", "Patient.name[0].given"},
		{patient(`"name":[{"given":["a"],"_given":[null,{"id":"x"}]}]`), "structure", "Patient.name[0].given"},
		{patient(`"name":[{"given":"a","_given":[{"id":"x"}]}]`), "structure", "Patient.name[0].given"},
		{patient(`"communication":[{"preferred":true}]`), "required", "Patient.communication[0].language"},
		{patient(`"contained":[{"resourceType":"Organization","active":1}]`), "structure", "Patient.contained[0].active"},
		{patient(`"contained":[{"resourceType":"Banana"}]`), "structure", "Patient.contained[0]"},
		{patient(`"contained":[{"id":"x"}]`), "required", "Patient.contained[0]"},
		{patient(`"contained":["x"]`), "structure", "Patient.contained[0]"},
		{patient(`"text":{"status":"generated","div":"hello"}`), "value", "Patient.text.div"},
		{patient(`"photo":[{"size":-1}]`), "value", "Patient.photo[0].size"},
		{patient(`"photo":[{"data":"a"}]`), "value", "Patient.photo[0].data"},
		{`{"resourceType":"Task","intent":"order"}`, "required", "Task.status"},
		{`{"resourceType":"Task","status":"open","intent":"order"}`, "code-invalid", "Task.status"},
		{`{"resourceType":"Task","status":"draft","intent":"order","restriction":{"repetitions":0}}`, "value", "Task.restriction.repetitions"},
		{`{"resourceType":"Condition","subject":{"reference":"Patient/1"},"clinicalStatus":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/condition-clinical","code":"better"}]}}`, "code-invalid", "Condition.clinicalStatus"},
		{`{"resourceType":"Bundle","type":"collection","entry":[{"resource":{"resourceType":"Patient","gender":"x"}}]}`, "code-invalid", "Bundle.entry[0].resource.gender"},
		{`{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":"1.0"}}`, "structure", "Observation.value.value"},
		{`{"resourceType":"Questionnaire","status":"draft","item":[{"linkId":"1","type":"group","item":[{"linkId":"1.1"}]}]}`, "required", "Questionnaire.item[0].item[0].type"},
		{`{"resourceType":"Banana","id":"x"}`, "structure", ""},
	} {
		r, issues := roundTrip(t, []byte(c.json))
		if r == nil || len(issues) != 1 || issues[0].Code != c.code || issues[0].Expression != c.expression {
			t.Errorf("%s\nwant one issue %s at %s, got %+v", c.json, c.code, c.expression, issues)
		}
	}
}

// TestFatal is what cannot be read at all.
func TestFatal(t *testing.T) {
	for _, text := range []string{
		"", " ", "null", "[]", `"x"`, "{}", `{"resourceType":1}`, `{"resourceType":""}`, `{"resourceType":"Patient"`, `{"resourceType":"Patient"} x`,
		`{"resourceType":"Patient"}{}`, `{"resourceType":"Patient","id":"a","id":"b"}`, `{"resourceType":"Patient","id":"` + "\xff" + `"}`,
		`{"resourceType":"Patient","id":"\ud800"}`, `{"resourceType":"Patient","active":tru}`, `{"resourceType":"Patient","name":[{]}`,
		`{"resourceType":"Parameters","parameter":` + strings.Repeat(`[{"part":`, 200) + "1" + strings.Repeat("}]", 200) + "}",
		`{"resourceType":"Patient","extension":[` + strings.Repeat(`{"url":"u","extension":[`, 100_000),
	} {
		r, issues := Decode([]byte(text))
		if r != nil || len(issues) == 0 || issues[len(issues)-1].Severity != "fatal" {
			t.Errorf("%.80q: %v %v", text, r, issues)
		}
	}
}

// TestManyIssues: what is listed is bounded, and what is only kept is no fault however much it is.
func TestManyIssues(t *testing.T) {
	bundle := func(resource string) string {
		return `{"resourceType":"Bundle","type":"collection","entry":[` + strings.Repeat(`{"resource":`+resource+`},`, 999) + `{"resource":` + resource + `}]}`
	}
	if _, issues := roundTrip(t, []byte(bundle(`{"resourceType":"Medication"}`))); !issues.Valid() || len(issues) != maxIssues {
		t.Errorf("%d remarks, valid %t", len(issues), issues.Valid())
	}
	if _, issues := roundTrip(t, []byte(bundle(`{"resourceType":"Medication"},"x":1`))); issues.Valid() || len(issues) != 2*maxIssues+1 {
		t.Errorf("%d issues, valid %t", len(issues), issues.Valid())
	}
}

// TestIssuesHoldNoValue: what a sender wrote wrongly may be about a patient.
func TestIssuesHoldNoValue(t *testing.T) {
	const secret = "Secretname"
	for _, text := range []string{
		`{"resourceType":"Patient","birthDate":"Secretname","gender":"Secretname","active":"Secretname","name":"Secretname"}`,
		`{"resourceType":"Patient","Secretname is ill":1}`, `{"resourceType":"Secretname of Leeds"}`, `{"resourceType":"Patient",Secretname}`,
	} {
		_, issues := Decode([]byte(text))
		if len(issues) == 0 || strings.Contains(fmt.Sprint(issues), secret) {
			t.Errorf("%s: %v", text, issues)
		}
	}
}

// TestMutants takes files of others, breaks them at random, and holds the
// promise: what is still JSON is written as it was read.
func TestMutants(t *testing.T) {
	var seeds []jsontext.Value
	for _, name := range corpusFiles(t) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, data)
	}
	values := rapid.SampledFrom([]string{
		`null`, `true`, `0`, `1.50`, `-1`, `1e3`, `""`, `"x"`, `" "`, `"2020-01-01"`, `"\u0000\u00e9\/"`, `[]`, `{}`, `[null]`, `[[1]]`, `[{}]`, `{"id":"x"}`, `[{"id":"x"},null]`,
		`{"resourceType":"Patient","contained":[{"resourceType":"List","id":"y"}]}`, `[{"resourceType":"Patient"}]`, `{"extension":[{"url":"u","valueDecimal":1.10}]}`, `["a",null]`, `12345678901234567890`,
	})
	names := rapid.SampledFrom([]string{"id", "extension", "value", "valueString", "_valueString", "valueQuantity", "name", "_given", "given", "status", "_status", "contained", "resource", "item", "resourceType", "coding", "text", "x", "_", "", "subject", "birthDate", "_birthDate", "entry", "code"})
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SampledFrom(seeds).Draw(t, "seed")
		dec := jsontext.NewDecoder(strings.NewReader(string(seed)))
		// Places where a value begins, and where an object opens.
		var places, objects []int
		for {
			kind := dec.PeekKind()
			if _, err := dec.ReadToken(); err != nil {
				break
			}
			if at := int(dec.InputOffset()); kind == '{' {
				objects = append(objects, at)
			} else if i, n := dec.StackIndex(dec.StackDepth()); i == '{' && n%2 == 1 || i == '[' {
				places = append(places, at)
			}
		}
		out := []byte(seed)
		if rapid.Bool().Draw(t, "insert") && len(objects) > 0 {
			at := rapid.SampledFrom(objects).Draw(t, "object")
			comma := ","
			if rest := strings.TrimLeft(string(seed[at:]), " \t\r\n"); rest != "" && rest[0] == '}' {
				comma = ""
			}
			out = slices.Concat(seed[:at], fmt.Appendf(nil, "%q:%s%s", names.Draw(t, "name"), values.Draw(t, "value"), comma), seed[at:])
		} else if len(places) > 0 {
			at := rapid.SampledFrom(places).Draw(t, "place")
			rest := seed[at:]
			skip := 0
			for skip < len(rest) && strings.IndexByte(" \t\r\n:", rest[skip]) >= 0 {
				skip++
			}
			sub := jsontext.NewDecoder(strings.NewReader(string(rest[skip:])))
			if old, err := sub.ReadValue(); err == nil && skip > 0 {
				out = slices.Concat(seed[:at+skip], []byte(values.Draw(t, "value")), rest[skip+len(old):])
			}
		}
		roundTrip(t, out)
	})
}

// TestBuilt is a resource made in Go: it encodes, and is right.
func TestBuilt(t *testing.T) {
	task := &Task{
		ID: "1", Status: "requested", Intent: "order",
		Code:        &CodeableConcept{Coding: []Coding{{System: "http://example.org", Code: "x"}}},
		Restriction: &TaskRestriction{Repetitions: new(int32(2)), Period: &Period{End: "2026-01-31T00:00:00Z"}},
		Input:       []TaskInput{{Type: &CodeableConcept{Text: "version"}, Value: PositiveInt(3)}, {Type: &CodeableConcept{Text: "ok"}, Value: Boolean(false)}, {Type: &CodeableConcept{Text: "dose"}, Value: &Quantity{Value: "1.50"}}},
		Contained:   []Resource{&Organization{ID: "o", Name: "A \"quoted\" trust"}},
	}
	out, err := Encode(task)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"resourceType":"Task","id":"1","contained":[{"resourceType":"Organization","id":"o","name":"A \"quoted\" trust"}],"status":"requested","intent":"order",` +
		`"code":{"coding":[{"system":"http://example.org","code":"x"}]},"restriction":{"repetitions":2,"period":{"end":"2026-01-31T00:00:00Z"}},` +
		`"input":[{"type":{"text":"version"},"valuePositiveInt":3},{"type":{"text":"ok"},"valueBoolean":false},{"type":{"text":"dose"},"valueQuantity":{"value":1.50}}]}`
	if string(out) != want {
		t.Fatalf("got  %s\nwant %s", out, want)
	}
	if _, issues := roundTrip(t, out); len(issues) > 0 {
		t.Fatal(issues)
	}
	for _, wrong := range []Resource{nil, (*Patient)(nil), &Observation{Value: &Quantity{Value: "1,5"}}, &Patient{Language: "\xff"}, &Patient{Contained: []Resource{nil}}, &Other{Raw: []byte("{")}} {
		if out, err := Encode(wrong); err == nil {
			t.Errorf("%T encodes as %s", wrong, out)
		}
	}
}

// FuzzDecode: any bytes, no panic, and what was read is written.
func FuzzDecode(f *testing.F) {
	for _, name := range corpusFiles(f) {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { roundTrip(t, data) })
}
