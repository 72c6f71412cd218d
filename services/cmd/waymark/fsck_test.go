package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// written returns the events of two chained streams, in log order.
func written(t *testing.T) (events []es.Recorded) {
	log := estest.NewLog()
	streams := es.NewStreams(log, es.Decider[int]{Category: "person", Evolve: func(n int, _ proto.Message) int { return n + 1 }}, es.Options{Key: make([]byte, 32)})
	for n, id := range []string{"a", "b", "a", "b", "a"} {
		request := &personv1.NoteMoveRequest{PersonId: id, Command: &metav1.Command{CommandId: strings.Replace(somebody, "5a3f", "5a3"+string(rune('0'+n)), 1),
			Actor: &metav1.Actor{User: "test", Organisation: "RJ1"}}}
		_, err := streams.Do(t.Context(), id, request, func(int) ([]proto.Message, error) {
			return []proto.Message{&personv1.PracticeChanged{}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := log.ReadAll(t.Context(), 0, func(e es.Recorded) error { events = append(events, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return events
}

func verify(events []es.Recorded) *verifier {
	v := &verifier{chains: map[string]followed{}}
	for _, e := range events {
		if err := v.event(e); err != nil {
			v.fault(err.Error())
		}
	}
	return v
}

// TestVerifierSeesWhatWasChanged: the control passes, and each damage is one fault.
func TestVerifierSeesWhatWasChanged(t *testing.T) {
	t.Parallel()
	if v := verify(written(t)); v.Faults != 0 || v.Events != 5 || v.Chained != 2 {
		t.Fatalf("nothing was changed: %+v", v)
	}
	for name, damage := range map[string]func([]es.Recorded) []es.Recorded{
		"data": func(l []es.Recorded) []es.Recorded { l[0].Data = append([]byte{8, 1}, l[0].Data...); return l },
		"metadata": func(l []es.Recorded) []es.Recorded {
			l[2].Metadata = []byte(strings.Replace(string(l[2].Metadata), "RJ1", "RJ2", 1))
			return l
		},
		"type":             func(l []es.Recorded) []es.Recorded { l[1].Type = "waymark.person.v1.PersonDied"; return l },
		"removed":          func(l []es.Recorded) []es.Recorded { return append(l[:2:2], l[3:]...) },
		"moved":            func(l []es.Recorded) []es.Recorded { l[0], l[2] = l[2], l[0]; return l },
		"chain taken away": func(l []es.Recorded) []es.Recorded { l[4].Metadata = []byte("{}"); return l },
	} {
		if v := verify(damage(written(t))); v.Faults != 1 {
			t.Errorf("%s: %d faults, want 1: %v", name, v.Faults, v.First)
		}
	}
}

// TestFsckOfAStoppedSystem: with --data the store must be nobody else's.
func TestFsckOfAStoppedSystem(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	server, _, stderr := c.dev()
	out, err, code := waymark(t, "", "fsck", "--data", filepath.Join(c.dir, ".waymark"))
	if code != exitUnavailable || !strings.Contains(err, "stop the system first") {
		t.Errorf("while it runs: exit %d, %q, %q", code, out, err)
	}
	if err := server.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	out, err, code = waymark(t, "", "fsck", "--data", filepath.Join(c.dir, ".waymark"), "-o", "json")
	var v verifier
	if e := json.Unmarshal([]byte(out), &v); e != nil || code != exitOK || v.Faults != 0 {
		t.Errorf("stopped: exit %d, %v, %q, %q", code, e, out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // Ctrl-C
	if err := (&verifier{chains: map[string]followed{}}).folder(ctx, filepath.Join(c.dir, ".waymark")); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if _, err, code = waymark(t, "", "fsck", "--data", t.TempDir()+"/none"); code != exitNotFound {
		t.Errorf("no folder: exit %d, %q", code, err)
	}
}
