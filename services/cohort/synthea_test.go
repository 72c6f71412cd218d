package cohort

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/nhs"
)

func northmoor(t *testing.T) *Cohort {
	t.Helper()
	c, err := Synthea(map[string]fs.FS{"Northmoor": os.DirFS("testdata/Northmoor")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestJourneys holds what was read of the six patients against what their files say.
func TestJourneys(t *testing.T) {
	t.Parallel()
	c := northmoor(t)
	want := map[string]string{
		"Alder":  "breast 2025-01-14 source 17, told 2025-01-14, T2 N0 M0, stage 2a; ER positive, PR negative, HER2 negative; 02 2025-01-21 2025-02-04, 01 2025-04-15 2025-04-15, 05 2025-05-20 2025-05-20 ended 2025-05-22 last; handover 3 2025-08-12",
		"Birch":  "colorectal 2023-02-20 source 03, told 2023-03-01, ; ; 01 2023-03-01 2023-03-20, 04 2023-04-20 2023-04-20 ended 2023-05-18 last; handover 3; needs 2023-03-02 emotional.worry physical.pain",
		"Cedar":  "lung 2024-01-05 source 10, told 2024-01-15, TNM stage 1; non-small cell; 04 2024-01-15 2024-02-01",
		"Damson": "breast 2012-06-04 source 03, told 2012-06-04, ; ; 01 2012-06-04 2012-07-02 ended 2012-07-02 last; closed 2017-07-02",
		"Elm": "breast 2021-09-06 source 03, told 2021-09-06, ; ; 01 2021-09-06 2021-10-04 ended 2021-10-04 last; handover 3" +
			" | colorectal 2025-06-02 source 03, told 2025-06-02, ; ; 01 2025-06-02 2025-06-23 ended 2025-06-23 last; handover 3; needs 2025-06-03",
		"Fir": "lung 2025-09-01 source 03, told 2025-09-01, ; non-small cell; 04 2025-09-01 2025-09-22",
	}
	for _, j := range c.Journeys {
		var courses []string
		for _, c := range j.Courses {
			courses = append(courses, describe(c))
		}
		if got := strings.Join(courses, " | "); got != want[j.Family] {
			t.Errorf("%s:\n got %s\nwant %s", j.Family, got, want[j.Family])
		}
		delete(want, j.Family)
	}
	if len(want) > 0 {
		t.Errorf("not read: %v", want)
	}
}

func describe(c *Course) string {
	var parts, treated []string
	parts = append(parts, c.ID+" "+c.Received+" source "+c.Source+", told "+c.Told+", "+c.Stage, c.Finding)
	for _, t := range c.Treatment {
		text := t.Modality + " " + t.Decided + " " + t.Started
		if t.Ended != "" {
			text += " ended " + t.Ended
		}
		if t.Last {
			text += " last"
		}
		treated = append(treated, text)
	}
	parts = append(parts, strings.Join(treated, ", "))
	if c.Handover != NoHandover {
		parts = append(parts, strings.TrimSpace("handover "+string('0'+rune(c.Handover))+" "+c.Contacted))
	}
	if c.Closed != "" {
		parts = append(parts, "closed "+c.Closed)
	}
	if c.Needs != nil {
		text := "needs " + c.Needs.On
		for _, x := range c.Needs.Concerns {
			text += " " + x.Code
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// TestFaultsAreNamed: what cannot be used is named by file, line and field, and
// never with its value; the rest goes on.
func TestFaultsAreNamed(t *testing.T) {
	t.Parallel()
	var got []string
	for _, f := range northmoor(t).Faults {
		got = append(got, f.String())
	}
	slices.Sort(got)
	want := []string{
		"Northmoor/conditions.csv:15 START: row.date",
		"Northmoor/conditions.csv:16 PATIENT: row.patient_unknown",
		"Northmoor/patients.csv:8 CODE: patient.no_cancer",
		"Northmoor/patients.csv:9 BIRTHDATE: row.date",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if _, err := Synthea(map[string]fs.FS{"x": fstest.MapFS{"patients.csv": {Data: []byte("Id,NAME\n")}, "conditions.csv": {}, "encounters.csv": {}}}, Options{}); err == nil || !strings.Contains(err.Error(), "x/patients.csv has no column BIRTHDATE") {
		t.Errorf("a file of another format: %v", err)
	}
}

// requests are the commands of a journey, with answers that are all empty.
func requests(t *testing.T, j *Journey) (all []proto.Message) {
	t.Helper()
	today, _ := nhs.ParseDate("2026-11-21")
	k := &Known{Today: today, Attempt: j.Attempt, Appointments: map[string]string{}, Approved: func(string, string) bool { return false }}
	for _, s := range Steps(j) {
		if r := s.Request(k); r != nil {
			all = append(all, r)
		}
	}
	return all
}

// TestTheSameEachTime: ids derive from the source alone. A journey read again, or
// in other company, gives the same commands; no two commands share an id.
func TestTheSameEachTime(t *testing.T) {
	t.Parallel()
	one, two := northmoor(t), northmoor(t)
	ids := map[string]bool{}
	for i, j := range one.Journeys {
		first, second := requests(t, j), requests(t, two.Journeys[i])
		if len(first) < 10 || len(first) != len(second) {
			t.Fatalf("%d commands, then %d", len(first), len(second))
		}
		for n := range first {
			if !proto.Equal(first[n], second[n]) {
				t.Errorf("command %d differs:\n%v\n%v", n, first[n], second[n])
			}
			id := first[n].(interface{ GetCommand() *metav1.Command }).GetCommand().CommandId
			if ids[id] {
				t.Errorf("the id of %T is used twice", first[n])
			}
			ids[id] = true
		}
	}
}

// TestNumbers: every number is a true one of the 999 range, and who collides goes
// on to another.
func TestNumbers(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for i := range 2000 {
		n := Number("test", ID("somebody", string(rune(i))), 0)
		if _, err := nhs.ParseNumber(n); err != nil || !strings.HasPrefix(n, "999") {
			t.Fatalf("not a number of the 999 range: %v", err)
		}
		seen[n] = true
	}
	if len(seen) < 1990 {
		t.Errorf("2,000 people got %d numbers", len(seen))
	}
	all := []*Journey{{Source: "test", ID: "a"}, {Source: "test", ID: "a"}, {Source: "test", ID: "a"}}
	number(all)
	if all[0].Attempt != 0 || all[1].Attempt != 1 || all[2].Attempt != 2 {
		t.Errorf("attempts %d %d %d, want 0 1 2", all[0].Attempt, all[1].Attempt, all[2].Attempt)
	}
	// Held by somebody of an earlier import: the registration says so.
	s := Steps(northmoor(t).Journeys[0])[0]
	if k := (&Known{Person: &personv1.Person{}}); !s.Again(k) {
		t.Error("somebody else's person was taken for the patient")
	}
}
