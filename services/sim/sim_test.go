package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// play plays one seed in a bubble and checks it outside.
func play(t *testing.T, seed uint64, opt Options) Result {
	var w *world
	if _, err := rules(); err != nil { // outside of all bubbles
		t.Fatal(err)
	}
	synctest.Test(t, func(*testing.T) { w = Play(seed, opt) })
	return w.Check()
}

// number reads a number from the environment.
func number(t *testing.T, name string, or uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return or
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s is no number", name, text)
	}
	return n
}

// TestSeeds plays SEEDS seeds from FIRST on, or the one that SEED names.
func TestSeeds(t *testing.T) {
	first, count := number(t, "FIRST", 0), number(t, "SEEDS", 6)
	if os.Getenv("SEED") != "" {
		first, count = number(t, "SEED", 0), 1
	}
	began := time.Now()
	results := make([]Result, count)
	t.Run("seeds", func(t *testing.T) {
		for i := range results {
			t.Run(strconv.FormatUint(first+uint64(i), 10), func(t *testing.T) {
				t.Parallel()
				seed := first + uint64(i)
				r := play(t, seed, Drawn(seed))
				if results[i] = r; r.Bad() > 0 {
					t.Errorf("%s\nreplay it: make sim SEED=%d", r, seed)
				} else if count == 1 {
					fmt.Println(r)
				}
			})
		}
	})
	sum, failed := total(results)
	if sum.InFlight == 0 && count > 1 {
		t.Error("no crash hit an append: the seeds show nothing")
	}
	fmt.Printf("seeds %d in %s, %s\n%d passed, %d failed\n", count, time.Since(began).Round(time.Millisecond), sum, int(count)-failed, failed)
}

func total(results []Result) (sum Result, failed int) {
	for _, r := range results {
		if sum.add(r); r.Bad() > 0 || r.Hash == "" {
			failed++
		}
	}
	return sum, failed
}

// TestSameSeedSameHistory plays seeds several times: their hashes are over all
// that anybody was told and when, and the log.
func TestSameSeedSameHistory(t *testing.T) {
	t.Parallel()
	for seed := range number(t, "SAME", 3) {
		first := play(t, seed, Drawn(seed))
		for range 2 {
			if again := play(t, seed, Drawn(seed)); again.Hash != first.Hash {
				t.Errorf("seed %d is not the same each time:\n%s\n%s", seed, first, again)
				break
			}
		}
	}
}

// TestUnsyncedIsFound is the control of the disk: a node that answers before the
// sync loses what it promised.
func TestUnsyncedIsFound(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		o := Drawn(seed)
		o.NoSync = true
		if r := play(t, seed, o); r.Lost > 0 {
			t.Logf("found by seed %d: %s", seed, r.Faults[0])
			return
		}
	}
	t.Error("20 seeds did not see that nothing is synced")
}
