package bench

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waymark/services/kit/es"
)

// TestYear records a very small year: that nothing the services decide is
// refused, that all of it reaches the node, and that no rule is broken.
func TestYear(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	opts := YearOptions{Dir: t.TempDir(), Referrals: 48, Seed: 3, Child: child, appending: 50 * time.Millisecond}
	r, err := Year(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	v := r.Verdict
	if r.Referrals != 48 || r.Diagnosed != 5 || v.Pathways != 50 || v.Faults != 0 || v.Transfers == 0 || len(r.Refusals) != 0 {
		t.Errorf("%+v\n%+v", r, v)
	}
	// The verifier counts the streams of measurements too.
	own := 10 + 100 + 1000
	for _, g := range r.Growth {
		own += 200
		if g.Start <= 0 || g.Append <= 0 || g.One.P50 <= 0 || g.Read10.P50 <= 0 || g.Read1000.P50 <= 0 {
			t.Errorf("%+v", g)
		}
	}
	if r.Events < 48*20 || v.Events < r.Events+own {
		t.Errorf("%d events recorded, %d verified, %d of measurements", r.Events, v.Events, own)
	}
	if size := r.DataBytes + r.MetadataBytes; size > 300 {
		t.Errorf("an event has %.0f bytes on average, more than 300: data %.0f, metadata %.0f", size, r.DataBytes, r.MetadataBytes)
	}
	var out strings.Builder
	if err := r.Write(&out, true); err != nil || !strings.Contains(out.String(), "| events in the log |") {
		t.Errorf("%s, %v", out.String(), err)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
	// What was kept is measured again, and no patient comes twice.
	again, err := Year(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	if again.Events != r.Events || again.Verdict.Pathways != 50 || again.Verdict.Faults != 0 || again.Commands != r.Commands || r.Commands == 0 || len(again.Growth) != len(r.Growth) {
		t.Errorf("%+v", again)
	}
	if err := os.Remove(filepath.Join(opts.Dir, "year.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := Year(ctx, opts); err == nil || !strings.Contains(err.Error(), "not recorded to its end") {
		t.Errorf("half a year: %v", err)
	}
}

// TestDraft: a draft refuses what is not decided on its end, and what is not of
// the patient at hand.
func TestDraft(t *testing.T) {
	t.Parallel()
	d := &draft{streams: map[string][]es.Recorded{}}
	mine := context.WithValue(t.Context(), turn{}, true)
	events := []es.NewEvent{{Type: "a"}, {Type: "b"}}
	if at, err := d.Append(mine, "plan-1", es.NoStream, events); err != nil || at != (es.Appended{Revision: 1, Position: 2}) {
		t.Error(at, err)
	}
	var wrong *es.WrongRevision
	if _, err := d.Append(mine, "plan-1", 0, events); !errors.As(err, &wrong) || wrong.Actual != 1 {
		t.Error(err)
	}
	if _, err := d.Append(t.Context(), "plan-1", 1, events); err == nil {
		t.Error("somebody else wrote")
	}
	if _, err := d.Append(mine, "lead-1", es.NoStream, events[:1]); err != nil {
		t.Error(err)
	}
	if out := d.handOver(); len(out) != 2 || out[0].stream != "plan-1" || len(out[0].events) != 2 || len(d.streams["plan-1"]) != 0 || len(d.streams["lead-1"]) != 1 {
		t.Errorf("%+v, %d streams", out, len(d.streams))
	}
	if out := d.handOver(); len(out) != 0 {
		t.Errorf("%+v", out)
	}
}
