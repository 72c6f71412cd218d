package plan

import (
	"testing"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/estest"
)

// TestEveryEventIsEvolved holds the fold to the contract, and to each event as it
// was stored by an earlier release.
func TestEveryEventIsEvolved(t *testing.T) {
	t.Parallel()
	file := pb.File_waymark_plan_v1_events_proto
	estest.EvolvesAll(t, file, decider())
	estest.StoredExamples(t, "testdata/events", file, decider())
}
