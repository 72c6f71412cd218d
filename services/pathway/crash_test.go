package pathway

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// prefix is what a model holds that has just folded the log up to a position.
func prefix(t testing.TB, events []es.Recorded, at es.Position) string {
	t.Helper()
	m, err := openModel(nil, discard, "m", vfs.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	n := 0
	for n < len(events) && events[n].Position <= at {
		n++
	}
	if _, err := m.take(pointers(events[:n])); err != nil {
		t.Fatal(err)
	}
	if err := m.write(at, time.Time{}, false); err != nil {
		t.Fatal(err)
	}
	return contents(t, m)
}

func pointers(events []es.Recorded) (out []*es.Recorded) {
	for i := range events {
		out = append(out, &events[i])
	}
	return out
}

// lives lets a model live through deliveries in batches of any size, some of them
// repeated, through crashes that lose what was not synced, all or in part, and to an
// event that cannot be taken in, before which it stands. It
// returns at how many of its checkpoints the model was not what the log says up to
// there, and how many there were.
func lives(tb testing.TB, t *rapid.T, plant func(*model)) (wrong, checkpoints int) {
	w, _ := someHistory(tb, rapid.Uint64().Draw(t, "seed"), 3)
	events := w.Events()
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "crashes"), 1))
	if rapid.IntRange(0, 3).Draw(t, "one is bad") > 0 {
		bad := &events[random.IntN(len(events))]
		if category, _, _ := strings.Cut(bad.Stream, "-"); slices.Contains(categories, category) {
			bad.Type = "waymark.nothing.v1.Unknown"
		}
	}
	fs, patience, unkept := vfs.NewCrashableMem(), rapid.IntRange(1, 8).Draw(t, "patience"), rapid.SampledFrom([]int{1, 4, 100, 100}).Draw(t, "unkept")
	open := func() *model {
		m, err := openModel(w, discard, "m", fs)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.begin(tb.Context()); err != nil {
			t.Fatal(err)
		}
		m.patience, m.unkept = patience, unkept
		plant(m)
		return m
	}
	m := open()
	defer func() { m.close() }()
	check := func() {
		checkpoints++
		if contents(tb, m) != prefix(tb, events, m.at()) {
			wrong++
		}
	}
	stands := 0
	for turn := 0; turn < 40 && stands < 3 && (turn == 0 || m.at() < events[len(events)-1].Position); turn++ {
		if rapid.IntRange(0, 3).Draw(t, "crash") == 0 {
			crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rapid.SampledFrom([]int{0, 0, 50, 100}).Draw(t, "kept"), RNG: random})
			if err := m.close(); err != nil {
				t.Fatal(err)
			}
			fs = crashed
			m = open()
			check()
			continue
		}
		next := 0
		for next < len(events) && events[next].Position <= m.taken {
			next++
		}
		from := max(0, next-rapid.IntRange(0, 4).Draw(t, "repeated"))
		to := min(len(events), next+rapid.IntRange(0, 9).Draw(t, "new"))
		fresh := time.Time{}
		if rapid.IntRange(0, 3).Draw(t, "caught up") == 3 {
			fresh = w.clock()
		}
		switch err := m.drain(pointers(events[from:to]), fresh); {
		case errors.Is(err, errUnkept):
			if err := m.begin(tb.Context()); err != nil {
				t.Fatal(err)
			}
		case fault.CodeOf(err) == "pathway.model.undecodable":
			stands++
		case err != nil:
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "keep") {
			if err := m.keep(); err != nil {
				t.Fatal(err)
			}
		}
		check()
	}
	return wrong, checkpoints
}

// TestModelIsTheLogAtEveryCheckpoint is R11: whatever the batches, the repeats and
// the crashes, the model holds at each checkpoint what the log says up to there.
func TestModelIsTheLogAtEveryCheckpoint(t *testing.T) {
	t.Parallel()
	total := 0
	rapid.Check(t, func(rt *rapid.T) {
		wrong, checkpoints := lives(t, rt, func(*model) {})
		if total += checkpoints; wrong > 0 {
			rt.Fatalf("wrong at %d of %d checkpoints", wrong, checkpoints)
		}
	})
	t.Logf("%d checkpoints", total)
}

// TestPlantedModelBugs: a position that is stored before what it stands for, an event
// that is folded as often as it is delivered, a view that was put away and is begun
// anew, and events that were lost with what could not be taken in are caught.
func TestPlantedModelBugs(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(*model){"position first": func(m *model) { m.positionFirst = true }, "repeats": func(m *model) { m.repeats = true },
		"put away is forgotten": func(m *model) { m.forgetful = true }, "unkept is not asked for": func(m *model) { m.careless = true }} {
		caught := false
		rapid.Check(t, func(rt *rapid.T) {
			if !caught {
				wrong, _ := lives(t, rt, plant)
				caught = wrong > 0
			}
		})
		if !caught {
			t.Errorf("%s: not caught", name)
		}
	}
}
