package pathway

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	pb "waymark/proto/waymark/pathway/v1"
)

func openTestExports(t testing.TB, fs vfs.FS) *exports {
	t.Helper()
	dir := "d"
	if fs == nil {
		dir = ""
	}
	x, err := openExports(dir, fs, discard)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// export releases one row of a count and returns what is shown, -1 for hidden.
func export(t testing.TB, x *exports, q *pb.GetIndicatorsRequest, provider string, n float64) (shown float64, held bool) {
	t.Helper()
	row := &pb.IndicatorRow{Id: "M21", Month: "2026-07", Provider: provider, Unit: pb.IndicatorUnit_INDICATOR_UNIT_COUNT,
		Numerator: &pb.Figure{Number: n}, Denominator: &pb.Figure{Number: 100}, Excluded: &pb.Figure{}, Value: &pb.Figure{Number: n}}
	if err := x.release(q, []*pb.IndicatorRow{row}); err != nil {
		t.Fatal(err)
	}
	if row.Value.Suppressed != row.Numerator.Suppressed || row.Value.Number != row.Numerator.Number || row.Value.Suppressed && !row.Suppressed {
		t.Errorf("the row does not fit itself: %v", row)
	}
	if row.Value.Suppressed {
		return -1, row.Held
	}
	return row.Value.Number, row.Held
}

var (
	everyone = &pb.GetIndicatorsRequest{Export: true}
	ofRJ1    = &pb.GetIndicatorsRequest{Export: true, Provider: "RJ1"}
	byTrust  = &pb.GetIndicatorsRequest{Export: true, By: []pb.IndicatorDimension{pb.IndicatorDimension_INDICATOR_DIMENSION_PROVIDER}}
	ofBreast = &pb.GetIndicatorsRequest{Export: true, TumourGroup: "breast"}
)

// TestExportsDoNotDiffer goes through the rule case by case.
func TestExportsDoNotDiffer(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	x := openTestExports(t, fs)
	want := func(name string, q *pb.GetIndicatorsRequest, provider string, n, shown float64, held bool) {
		t.Helper()
		if got, h := export(t, x, q, provider, n); got != shown || h != held {
			t.Errorf("%s: %v is shown as %v, held %v; want %v, %v", name, n, got, h, shown, held)
		}
	}
	want("the first", everyone, "", 52, 50, false)
	want("the same again", everyone, "", 52, 50, false)
	want("one more patient", everyone, "", 53, 50, true)
	want("seven more", everyone, "", 59, 50, true)
	want("seven fewer", everyone, "", 45, 50, true)
	want("one trust has all but three", ofRJ1, "", 49, -1, false)
	want("and as a break-down", byTrust, "RJ1", 49, -1, false)
	want("one trust has all", byTrust, "RRV", 52, 50, false)
	want("another has all but eight", byTrust, "RYK", 44, 45, false)
	want("what was hidden is compared with nothing", byTrust, "RYR", 7, -1, false)
	want("of a tumour group, nested in all but in no trust", ofBreast, "", 43, 45, false)
	want("eight more patients", everyone, "", 60, 60, false)
	want("between two that were shown", everyone, "", 57, 60, true)
	want("as at first", everyone, "", 50, 50, true)
	want("all but four of them", ofRJ1, "", 56, -1, false)

	if err := x.close(); err != nil {
		t.Fatal(err)
	}
	x = openTestExports(t, fs) // a restart forgets nothing
	defer func() { x.close() }()
	want("after a restart", everyone, "", 61, 60, true)
	want("another month or indicator is another figure", &pb.GetIndicatorsRequest{Export: true, Provider: "RXX"}, "", 30, 30, false)
}

// TestExportedMedianStays: a median is told again as it was while the people it
// is of are nearly the same: else the change would tell of one of them.
func TestExportedMedianStays(t *testing.T) {
	t.Parallel()
	x := openTestExports(t, nil)
	defer x.close()
	ask := func(people, value float64) *pb.IndicatorRow {
		t.Helper()
		row := &pb.IndicatorRow{Id: "M07", Unit: inDays, Denominator: &pb.Figure{Number: people}, Excluded: &pb.Figure{}, Value: &pb.Figure{Number: value},
			P90: &pb.Figure{Number: 2 * value}, Longest: &pb.Figure{Number: 300}}
		if err := x.release(everyone, []*pb.IndicatorRow{row}); err != nil {
			t.Fatal(err)
		}
		return row
	}
	if r := ask(20, 30); r.Value.Number != 30 || r.P90.Number != 60 || r.Held || !r.Longest.Suppressed {
		t.Errorf("%v", r)
	}
	for _, people := range []float64{20, 21, 27, 13} {
		if r := ask(people, 41); r.Value.Number != 30 || r.P90.Number != 60 || !r.Held || r.Denominator.Number != 20 {
			t.Errorf("of %v people: %v", people, r)
		}
	}
	if r := ask(28, 41); r.Value.Number != 41 || r.P90.Number != 82 || r.Held || r.Denominator.Number != 30 {
		t.Errorf("%v", r)
	}
	if r := ask(5, 9); !r.Value.Suppressed || !r.P90.Suppressed || r.Value.Number != 0 {
		t.Errorf("%v", r)
	}
}

// TestExportedRateIsOfWhatIsShown: a rate follows the figures beside it.
func TestExportedRateIsOfWhatIsShown(t *testing.T) {
	t.Parallel()
	x := openTestExports(t, nil)
	defer x.close()
	ask := func(numerator, denominator float64) *pb.IndicatorRow {
		t.Helper()
		row := &pb.IndicatorRow{Id: "M01", Unit: percent, Numerator: &pb.Figure{Number: numerator}, Denominator: &pb.Figure{Number: denominator}, Excluded: &pb.Figure{}}
		if err := x.release(everyone, []*pb.IndicatorRow{row}); err != nil {
			t.Fatal(err)
		}
		return row
	}
	if r := ask(30, 40); r.Value.Number != 75 || r.Suppressed {
		t.Errorf("%v", r)
	}
	if r := ask(36, 60); r.Numerator.Number != 30 || r.Denominator.Number != 60 || r.Value.Number != 50 || !r.Held {
		t.Errorf("%v", r)
	}
	if r := ask(24, 24); !r.Value.Suppressed || !r.Suppressed { // 30 of 25
		t.Errorf("%v", r)
	}
}

// TestDamagedExportsAreRefused: damage in any file of what was exported ends no
// process and lets nothing leave, also after a restart, until the folder is removed.
func TestDamagedExportsAreRefused(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{".sst", "MANIFEST-"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			fs := vfs.NewMem()
			x := openTestExports(t, fs)
			for _, q := range []*pb.GetIndicatorsRequest{everyone, ofBreast} {
				export(t, x, q, "", 52)
			}
			if err := x.close(); err != nil {
				t.Fatal(err)
			}
			spoil(t, fs, fs.PathJoin("d", "exports"), kind)
			for _, when := range []string{"at first", "after a restart"} {
				x, err := openExports("d", fs, discard)
				if err != nil {
					t.Fatal(err)
				}
				row := &pb.IndicatorRow{Id: "M21", Month: "2026-07", Unit: counted, Numerator: &pb.Figure{Number: 53}, Denominator: &pb.Figure{}, Excluded: &pb.Figure{}}
				for range 2 {
					if err := x.release(everyone, []*pb.IndicatorRow{row}); !errors.Is(err, errNoMemory) {
						t.Errorf("%s: %v, %v", when, err, row)
					}
				}
				_ = x.close()
			}
			if err := fs.RemoveAll(fs.PathJoin("d", "exports")); err != nil {
				t.Fatal(err)
			}
			x = openTestExports(t, fs)
			defer func() { x.close() }()
			if shown, held := export(t, x, everyone, "", 53); shown != 55 || held {
				t.Errorf("without memory: %v, held %v", shown, held)
			}
		})
	}
}

// disclosures plays exports of random filters over counts that change between
// them, and returns where two figures that were shown tell a small number.
func disclosures(t *rapid.T, x *exports) (wrong []string) {
	trusts, groups := []string{"RJ1", "RRV", "RYK"}, []string{"breast", "lung"}
	counts := map[scope]int{}
	for _, p := range trusts {
		for _, g := range groups {
			counts[scope{p, g, anyOf}] = rapid.IntRange(0, 30).Draw(t, "people")
		}
	}
	type shownFigure struct {
		at    scope
		exact int
		shown float64
	}
	var fresh []shownFigure // the exact numbers that were told
	for range rapid.IntRange(2, 30).Draw(t, "exports") {
		for at := range counts {
			if rapid.IntRange(0, 3).Draw(t, "changes") == 0 {
				counts[at] = max(0, counts[at]+rapid.IntRange(-9, 9).Draw(t, "by"))
			}
		}
		q := &pb.GetIndicatorsRequest{Export: true}
		at := scope{anyOf, anyOf, anyOf}
		if rapid.Bool().Draw(t, "of a trust") {
			q.Provider = rapid.SampledFrom(trusts).Draw(t, "trust")
			at[0] = q.Provider
		}
		if rapid.Bool().Draw(t, "of a group") {
			q.TumourGroup = rapid.SampledFrom(groups).Draw(t, "group")
			at[1] = q.TumourGroup
		}
		n := 0
		for cell, people := range counts {
			if at.includes(cell) {
				n += people
			}
		}
		row := &pb.IndicatorRow{Id: "M21", Unit: counted, Numerator: &pb.Figure{Number: float64(n)}, Denominator: &pb.Figure{}, Excluded: &pb.Figure{}}
		if err := x.release(q, []*pb.IndicatorRow{row}); err != nil {
			t.Fatal(err)
		}
		if row.Value.Suppressed {
			continue
		}
		if 0 < n && n < smallest && row.Value.Number == step*math.Round(float64(n)/step) && !row.Held {
			wrong = append(wrong, fmt.Sprintf("%d is shown", n))
		}
		again := false // a figure that was told before may be told again
		for _, f := range fresh {
			again = again || f.at == at && f.shown == row.Value.Number && math.Abs(float64(f.exact-n)) < smallest
		}
		if again {
			continue
		}
		if row.Held {
			wrong = append(wrong, fmt.Sprintf("%v is held, and never was shown as %v", at, row.Value.Number))
		}
		for _, f := range fresh {
			if (f.at.includes(at) || at.includes(f.at)) && f.exact != n && math.Abs(float64(f.exact-n)) < smallest {
				wrong = append(wrong, fmt.Sprintf("%v of %v beside %v of %v", n, at, f.exact, f.at))
			}
		}
		fresh = append(fresh, shownFigure{at, n, row.Value.Number})
	}
	return wrong
}

func TestExportsTellNoSmallNumber(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		x := openTestExports(t, nil)
		defer x.close()
		if wrong := disclosures(rt, x); len(wrong) > 0 {
			rt.Fatalf("%q", wrong)
		}
	})
}

// TestExportsPlantedBugs: an export that looks only at its own filter, and one
// that does not remember, are caught.
func TestExportsPlantedBugs(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(*exports){"blind": func(x *exports) { x.blind = true }, "forgetful": func(x *exports) { x.forgetful = true }} {
		caught := false
		rapid.Check(t, func(rt *rapid.T) {
			x := openTestExports(t, nil)
			defer x.close()
			plant(x)
			caught = caught || len(disclosures(rt, x)) > 0
		})
		if !caught {
			t.Errorf("%s: not caught", name)
		}
	}
}
