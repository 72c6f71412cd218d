package pathway

import (
	"math"

	pb "waymark/proto/waymark/pathway/v1"
)

// Counts of fewer people than smallest are hidden, others rounded to the nearest
// step. Source: disclosure control of sub-national cancer tables (England); the
// numbers themselves are general knowledge of that method.
const (
	smallest = 8
	step     = 5
)

// shown is a count as it may leave those who care for the patients: 0 is 0, 1 to
// 7 are hidden, all else is the nearest 5. Halves, of pathways that two trusts
// share, are hidden like the whole numbers around them.
func shown(n float64) *pb.Figure {
	switch {
	case n == 0:
		return &pb.Figure{}
	case n < smallest:
		return &pb.Figure{Suppressed: true}
	}
	return &pb.Figure{Number: step * math.Round(n/step)}
}

// suppress hides the small numbers of a row, in place. A rate is made of the
// rounded numbers; a median and its like are hidden when fewer than 8 people made
// them, whom denominator counts. No further rows need hiding: rounding keeps
// differences between rows from telling a small number.
func suppress(row *pb.IndicatorRow) {
	if row.Numerator != nil {
		row.Numerator = shown(row.Numerator.Number)
	}
	if row.Denominator != nil {
		row.Denominator = shown(row.Denominator.Number)
	}
	if row.Excluded != nil {
		row.Excluded = shown(row.Excluded.Number)
	}
	switch row.Unit {
	case pb.IndicatorUnit_INDICATOR_UNIT_PERCENT:
		row.Value = rate(row.Numerator, row.Denominator)
	case pb.IndicatorUnit_INDICATOR_UNIT_COUNT:
		row.Value = row.Numerator
	default:
		if row.Denominator.GetSuppressed() && row.Value != nil {
			row.Value = &pb.Figure{Suppressed: true}
			if row.P90 != nil {
				row.P90 = &pb.Figure{Suppressed: true}
			}
		}
	}
	if row.Longest != nil { // is one person's
		row.Longest = &pb.Figure{Suppressed: true}
	}
	for _, f := range []*pb.Figure{row.Value, row.P90, row.Longest, row.Numerator, row.Denominator, row.Excluded} {
		row.Suppressed = row.Suppressed || f.GetSuppressed()
	}
}

// rate in per cent; hidden where a part of it is, absent of nothing.
func rate(numerator, denominator *pb.Figure) *pb.Figure {
	switch {
	case numerator.GetSuppressed() || denominator.GetSuppressed():
		return &pb.Figure{Suppressed: true}
	case denominator.GetNumber() == 0:
		return nil
	}
	return &pb.Figure{Number: 100 * numerator.GetNumber() / denominator.GetNumber()}
}
