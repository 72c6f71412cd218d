package main

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"waymark/services/cohort"
	"waymark/services/kit/es"
)

// TestDemoCohort: every drawn patient's journey is taken whole, and drawn again it
// records nothing, also on another day.
func TestDemoCohort(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.dev("--demo", "--demo-patients", "0")
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(portGRPC+c.port))
	seed := func() (sent int) {
		var mu sync.Mutex
		whole, err := seedCohort(within(t, time.Minute), address, 60, func(step cohort.Step, o outcome, err error) {
			mu.Lock()
			defer mu.Unlock()
			sent++
			if err != nil {
				t.Errorf("%s of patient %d: %v", step.Name, step.At.Line, err)
			}
		})
		if err != nil || whole != 60 {
			t.Fatalf("%d of 60 patients are whole: %v", whole, err)
		}
		return sent
	}
	first := seed()
	settled(t, c)
	head := func() es.Position {
		at, err := openLog(t, c).Head(within(t, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	before := head()
	if again := seed(); again != first {
		t.Errorf("%d steps, then %d", first, again)
	}
	c.sh("bin/waymark clock advance 2d -q")
	seed()
	err := openLog(t, c).ReadAll(within(t, time.Minute), before, func(e es.Recorded) error {
		if m, err := es.ParseMetadata(e); err == nil && m.Actor.User == cohort.Actor {
			return fmt.Errorf("seeded again, %s was recorded in %s", e.Type, e.Stream)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	c.sh("bin/waymark verify")
}
