package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTry: a referral becomes a person and a pathway with what follows from them,
// in the system that is thrown away; after a message about the same patient it
// updates that one. What is no message says so.
func TestTry(t *testing.T) {
	t.Parallel()
	try := func(args ...string) tried {
		t.Helper()
		out, stderr, code := waymark(t, "", append([]string{"try", "../../edge/testdata/ref-i12.hl7", "-o", "json"}, args...)...)
		var got tried
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitOK {
			t.Fatalf("exit %d, %v: %s", code, err, stderr)
		}
		return got
	}
	types := func(got tried) (names []string) {
		for _, e := range got.Events {
			names = append(names, e.Event)
		}
		return names
	}
	got := try()
	if got.State != "applied" || len(got.Calls) != 2 || !strings.HasPrefix(got.Calls[0], "person.RegisterPerson ") || !strings.HasPrefix(got.Calls[1], "referral.StartPathway ") {
		t.Errorf("it is %s %s by %q", got.State, got.Reason, got.Calls)
	}
	if !slices.Contains(got.Fields, field{"RF1-2", "3"}) || !strings.Contains(got.Answer, "\nMSA|AA|DEMO2") {
		t.Errorf("fields %v, answer %q", got.Fields, got.Answer)
	}
	for _, want := range []string{"PersonRegistered", "PathwayStarted", "LedgerOpened"} { // the last by a service that heard of it
		if !slices.Contains(types(got), want) {
			t.Errorf("no %s among %q", want, types(got))
		}
	}
	for _, want := range []string{`"resourceType":"Patient"`, `"resourceType":"EpisodeOfCare"`, "9990000018"} {
		if !strings.Contains(strings.ReplaceAll(string(got.FHIR), " ", ""), want) {
			t.Errorf("the FHIR has no %s", want)
		}
	}
	if again := try("--after", "../../edge/testdata/adt-a28.hl7"); slices.Contains(types(again), "PersonRegistered") || !slices.Contains(types(again), "PathwayStarted") {
		t.Errorf("after a message about the patient: %q", types(again))
	}

	dir := t.TempDir()
	other := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(other, []byte("no message"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := waymark(t, "", "try", other); code != exitUsage || !strings.Contains(stderr, "holds no HL7 v2") {
		t.Errorf("no message: exit %d, %s", code, stderr)
	}
	broken := filepath.Join(dir, "broken.json")
	if err := os.WriteFile(broken, []byte(`{"resourceType": "Patient", `), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := waymark(t, "", "try", broken)
	if code != exitOK || !strings.Contains(out, "refused") || !strings.Contains(out, "Nothing was written") {
		t.Errorf("broken FHIR: exit %d, %s, %s", code, out, stderr)
	}
}
