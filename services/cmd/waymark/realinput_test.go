package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hl7Of is a message with a control id, about somebody without a number.
func hl7Of(control, trigger string) string {
	return "MSH|^~\\&|PAS|RJ1|WAYMARK|X26|20260601120000||ADT^" + trigger + "|" + control + "|P|2.4\rEVN|" + trigger + "|20260601120000\rPID|1||H" + control + "^^^RJ1||TESTCASE^ANN||19610504\r"
}

// TestRealInput: what is read is counted as what became of it, once, and files
// that reuse a control id do not stand in each other's way.
func TestRealInput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("feed/a.hl7", hl7Of("1", "A28")+hl7Of("1", "A28")+hl7Of("2", "Z99"))
	write("feed/b.dat", strings.ReplaceAll(hl7Of("1", "A31")+hl7Of("3", "A28"), "\r", "\n"))
	write("feed/notes.txt", "not a message")
	write("other/a.json", `{"id": "x", "resourceType": "Patient"`)
	write("other/config.json", `{"holds": {"resourceType": "Patient"}}`)
	write("other/b.xml", `<Patient xmlns="http://hl7.org/fhir"/>`)
	write("README.md", "before\n"+tableBegins+"\nwhat was before\n"+tableEnds+"\nafter\n")
	_, stderr, code := waymark(t, "", "real-input", dir, "--into", filepath.Join(dir, "README.md"), "-q")
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	got := string(raw)
	for _, want := range []string{
		"before\n" + tableBegins + "\n| folder", tableEnds + "\nafter\n",
		"| feed | HL7 v2 | 2 | 5 | 3 | 1 | 0 | 1 | 0 | 4 | 0 |",
		"| feed | HL7 v2, patients known | 2 | 5 | 3 | 1 | 0 | 1 | 0 | 4 | 0 |",
		"| other | FHIR | 1 | 1 | 0 | 0 | 0 | 1 | 0 | 1 | 0 |",
		"| other | FHIR in XML | 1 | not taken |",
		"| **all** | | 3 | 6 | 3 | 1 | 0 | 2 | 0 | 5 | 0 |",
		"| feed | HL7 v2 | refused: edge.type.unknown MSH-9 | 1 |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q", want)
		}
	}
	if strings.Contains(got, "what was before") || t.Failed() {
		t.Errorf("the table is\n%s", got)
	}
}
