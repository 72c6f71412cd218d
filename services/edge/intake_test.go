package edge

import (
	"context"
	"testing"

	"waymark/services/kit/fault"
)

// TestOneMessageOfAPatient: while a message of a patient is applied, another one of
// the same patient waits, whoever of them is named first or as another; of others
// none does. Each is let in once the first has ended.
func TestOneMessageOfAPatient(t *testing.T) {
	t.Parallel()
	l := &locks{held: map[string]chan struct{}{}}
	ended, cancel := context.WithCancel(t.Context())
	cancel() // who would have to wait says so
	unlock, err := l.lock(t.Context(), []string{"message 1", "a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"message 2", "a"}, {"message 2", "c", "b"}, {"message 2", otherPatient + "a"}} {
		if _, err := l.lock(ended, names); fault.CodeOf(err) != "edge.patient.busy" {
			t.Errorf("%v was let in beside another message of the patient: %v", names, err)
		}
	}
	for _, names := range [][]string{{"message 2", "c"}, {"message 3"}} {
		other, err := l.lock(ended, names)
		if err != nil {
			t.Fatalf("%v waits for a message of another patient: %v", names, err)
		}
		other()
	}
	unlock()
	if _, err := l.lock(ended, []string{"message 2", "b", "a"}); err != nil {
		t.Errorf("nothing is applied, and a message waits: %v", err)
	}
}
