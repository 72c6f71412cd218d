package pathway

import (
	"encoding/csv"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "waymark/proto/waymark/pathway/v1"
)

// TestShown runs the vectors of testdata/suppression.csv (the domain reference,
// section 11: small numbers of sub-national counts).
func TestShown(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/suppression.csv")
	if err != nil {
		t.Fatal(err)
	}
	r := csv.NewReader(strings.NewReader(string(text)))
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) < 10 {
		t.Fatalf("only %d rows", len(rows))
	}
	for _, row := range rows[1:] {
		n, err := strconv.ParseFloat(row[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		got := "*"
		if f := shown(n); !f.Suppressed {
			got = strconv.FormatFloat(f.Number, 'f', -1, 64)
		}
		if got != row[1] {
			t.Errorf("%s is shown as %s, want %s", row[0], got, row[1])
		}
	}
	t.Logf("%d vectors", len(rows)-1)
}

// TestSuppressRevealsNoSmallNumber says what it means that 1 to 7 are never
// revealed: a row looks the same whichever of them a count was.
func TestSuppressRevealsNoSmallNumber(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		units := []pb.IndicatorUnit{pb.IndicatorUnit_INDICATOR_UNIT_PERCENT, pb.IndicatorUnit_INDICATOR_UNIT_COUNT, pb.IndicatorUnit_INDICATOR_UNIT_DAYS}
		unit := rapid.SampledFrom(units).Draw(t, "unit")
		half := rapid.Custom(func(t *rapid.T) float64 { return float64(rapid.IntRange(0, 400).Draw(t, "halves")) / 2 })
		numerator, denominator, excluded := half.Draw(t, "numerator"), half.Draw(t, "denominator"), half.Draw(t, "excluded")
		numerator = math.Min(numerator, denominator)
		days := rapid.Float64Range(0, 200).Draw(t, "days")
		out := exported(unit, numerator, denominator, excluded, days)

		for name, pair := range map[string]struct {
			was float64
			f   *pb.Figure
		}{"numerator": {numerator, out.Numerator}, "denominator": {denominator, out.Denominator}, "excluded": {excluded, out.Excluded}} {
			if pair.f == nil {
				continue
			}
			small := pair.was > 0 && pair.was < 8
			if small != pair.f.Suppressed || pair.f.Suppressed && pair.f.Number != 0 || !small && math.Mod(pair.f.Number, 5) != 0 {
				t.Fatalf("%s of %v is shown as %v", name, pair.was, pair.f)
			}
			if small && !out.Suppressed {
				t.Fatal("the row does not say that something is hidden")
			}
		}
		other := func(n float64, name string) float64 {
			if n > 0 && n < 8 {
				return float64(rapid.IntRange(2, 15).Draw(t, name)) / 2
			}
			return n
		}
		otherDays := days
		if denominator > 0 && denominator < 8 {
			otherDays = rapid.Float64Range(0, 200).Draw(t, "other days")
		}
		again := exported(unit, other(numerator, "other numerator"), other(denominator, "other denominator"), other(excluded, "other excluded"), otherDays)
		if !proto.Equal(out, again) {
			t.Fatalf("the row tells small numbers apart:\n%v\n%v", out, again)
		}
	})
}

func exported(unit pb.IndicatorUnit, numerator, denominator, excluded, days float64) *pb.IndicatorRow {
	row := &pb.IndicatorRow{Unit: unit, Denominator: &pb.Figure{Number: denominator}, Excluded: &pb.Figure{Number: excluded}}
	if unit == pb.IndicatorUnit_INDICATOR_UNIT_DAYS {
		row.Value, row.P90 = &pb.Figure{Number: days}, &pb.Figure{Number: days + 1}
	} else {
		row.Numerator = &pb.Figure{Number: numerator}
		row.Value = &pb.Figure{Number: numerator} // exact, must be replaced
	}
	suppress(row)
	return row
}
