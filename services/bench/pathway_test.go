package bench

import (
	"context"
	"testing"
	"time"
)

// TestPathway runs the measurement with tiny counts: that each kind of read gives
// the whole pathway, and that the figures hang together. It judges no speed.
func TestPathway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rounds := 0
	r, err := Pathway(ctx, PathwayOptions{Dir: t.TempDir(), Rounds: 2, Reads: 3, Round: func(done, of int) { rounds++ }})
	if err != nil {
		t.Fatal(err)
	}
	if r.Events != 60 || r.Streams != 6 || rounds != 2 {
		t.Errorf("%d events in %d streams, %d rounds", r.Events, r.Streams, rounds)
	}
	for name, l := range map[string]Latency{"bare": r.Bare, "rebuild": r.Rebuild, "call": r.Call} {
		if l.P50Micros <= 0 || l.P99Micros < l.P50Micros || l.RatioMin > l.Ratio || l.Ratio > l.RatioMax || l.RatioMin <= 0 {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if r.Bare.RatioMin != 1 || r.Bare.RatioMax != 1 {
		t.Errorf("bare against itself: %+v", r.Bare)
	}
}

func TestStory(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 60, 200} {
		if got := len(story(n)); got != n {
			t.Errorf("a story of %d events has %d", n, got)
		}
	}
}
