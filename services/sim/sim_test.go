package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// play plays one seed in a bubble and checks it outside. Seeds of one process
// are played one after the other: NATS keeps timers in pools, which must be empty
// when another bubble begins.
func play(t *testing.T, seed uint64, opt Options) Result {
	r, _ := traced(t, seed, opt)
	return r
}

// traced returns the steps of a run too.
func traced(t *testing.T, seed uint64, opt Options) (Result, []step) {
	if err := Outside(); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.GC() // a pool is empty after the second
	dir := t.TempDir()
	var w *world
	synctest.Test(t, func(*testing.T) { w = Play(seed, opt, dir) })
	r := w.Check()
	return r, w.inOrder()
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

// TestSeeds plays SEEDS seeds from FIRST on, in as many processes as there are
// cores, or the one that SEED names.
func TestSeeds(t *testing.T) {
	if os.Getenv("SEED") != "" {
		r := play(t, number(t, "SEED", 0), Drawn(number(t, "SEED", 0)))
		fmt.Println(r)
		conclude(t, []Result{r})
		return
	}
	first, count := number(t, "FIRST", 0), number(t, "SEEDS", 6)
	if os.Getenv(stride) != "" {
		for seed := first; seed < first+count; seed += number(t, stride, 1) {
			line, err := json.Marshal(play(t, seed, Drawn(seed)))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("%s%s\n", played, line)
		}
		return
	}
	began := time.Now()
	results := make([]Result, count)
	for i := range results {
		results[i].Seed = first + uint64(i)
	}
	var workers sync.WaitGroup
	n := uint64(runtime.NumCPU())
	for i := range min(n, count) {
		workers.Go(func() { work(t, first, first+i, count-i, n, results) })
	}
	workers.Wait()
	conclude(t, results)
	fmt.Printf("in %s\n", time.Since(began).Round(time.Second))
}

// What a worker is told and tells.
const (
	stride = "SIM_STEP"
	played = "played "
)

// work plays every step-th seed in a process of its own.
func work(t *testing.T, zero, first, count, steps uint64, into []Result) {
	child := exec.Command(os.Args[0], "-test.run=^TestSeeds$", "-test.timeout=0")
	child.Env = append(os.Environ(), fmt.Sprint("FIRST=", first), fmt.Sprint("SEEDS=", count), fmt.Sprint(stride, "=", steps), "GOMAXPROCS=1", "GOGC=1000")
	var failure strings.Builder
	child.Stderr = &failure
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Error(err)
		return
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line, ok := strings.CutPrefix(lines.Text(), played)
		if !ok {
			failure.WriteString(lines.Text() + "\n")
			continue
		}
		var r Result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Error(err)
			continue
		}
		into[r.Seed-zero] = r
	}
	if err := child.Wait(); err != nil {
		text := failure.String()
		t.Errorf("a worker ended with %v: %s", err, text[:min(len(text), 8000)])
	}
}

// conclude sums up, and says how to play again what failed.
func conclude(t *testing.T, results []Result) {
	var sum Result
	failed := 0
	for _, r := range results {
		sum.add(r)
		if r.Hash == "" {
			failed++
			t.Errorf("seed %d did not end", r.Seed)
		} else if r.Bad() > 0 {
			failed++
			t.Errorf("%s\nreplay it: make sim SEED=%d", r, r.Seed)
		}
	}
	if len(results) > 1 && sum.InFlight == 0 {
		t.Error("no crash hit an append: the seeds show nothing")
	}
	for list, n := range sum.Rows {
		if n == 0 && len(results) >= 50 {
			t.Errorf("no %s had a row: nothing is learnt of it", list)
		}
	}
	fmt.Printf("seeds %d, %s\n%d passed, %d failed\n", len(results), sum, len(results)-failed, failed)
}

// TestSameSeedSameHistory plays each seed twice: both have the same hash,
// which is over all that anybody was told and did and when, and the log. One that
// differs is shown from its first step that does.
func TestSameSeedSameHistory(t *testing.T) {
	first, count := number(t, "FIRST", 0), number(t, "SAME", 5)
	for seed := first; seed < first+count; seed++ {
		if d := difference(t, seed, Drawn(seed), 2); d != "" {
			t.Errorf("two plays of seed %d differ: %s", seed, d)
		}
	}
	fmt.Printf("%d seeds played twice\n", count)
}

// TestChanceIsFound is the control: one wait that the machine draws.
func TestChanceIsFound(t *testing.T) {
	o := Drawn(0)
	o.Loose = true
	d := difference(t, 0, o, 2)
	if !strings.Contains(d, "loose") {
		t.Errorf("a wait of the machine's choice was not found, but: %s", d)
	}
	t.Log(d)
}

// difference says how plays of a seed differ, "" when they do not.
func difference(t *testing.T, seed uint64, o Options, plays int) string {
	first, steps := traced(t, seed, o)
	for range plays - 1 {
		again, now := traced(t, seed, o)
		for i := range max(len(steps), len(now)) {
			if i >= len(steps) || i >= len(now) || steps[i] != now[i] {
				return fmt.Sprintf("step %d:\n  %v\n  %v", i, steps[min(i, len(steps)):min(i+5, len(steps))], now[min(i, len(now)):min(i+5, len(now))])
			}
		}
		if again.Hash != first.Hash {
			return fmt.Sprintf("the steps are the same, the hash is not:\n  %v\n  %v", first, again)
		}
	}
	return ""
}

// TestUnsyncedIsFound is the control of the disk: a node that answers before the
// sync loses what it promised.
func TestUnsyncedIsFound(t *testing.T) {
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
