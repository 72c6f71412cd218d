package pathway

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	pb "waymark/proto/waymark/pathway/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/nhs"
)

// indicator is one line of the catalogue: a definition as data, and the pure
// function that finds its cases on one pathway. count is nil exactly where the
// definition says why it is not served.
type indicator struct {
	*pb.IndicatorDefinition
	count func(*subject)
}

// caseOf is what one pathway adds to one indicator: to a rate or a count by
// numerator and denominator (a case that the definition leaves out is only
// excluded), to a median by value.
type caseOf struct {
	on       string // civil date of the event that decides the month; "" for as of now
	provider string
	split    string

	numerator, denominator float64
	excluded               bool
	value                  float64

	// once, where it is set, is counted for the case with the earliest date alone;
	// the others are excluded. So a patient's first tumour of a year.
	once string
}

// met makes it a case, in the numerator where it was met.
func (c caseOf) met(met bool) caseOf {
	c.denominator = 1
	if met {
		c.numerator = 1
	}
	return c
}

// out leaves the case out.
func (c caseOf) out() caseOf {
	c.excluded = true
	return c
}

// subject is a pathway that is being counted, at one moment.
type subject struct {
	*pb.Pathway
	codes []*pb.ConcernCodes_Code
	now   time.Time
	today nhs.Date
	add   func(caseOf)
}

// cell is what one row counts.
type cell struct {
	indicator                            int // in the catalogue
	month, provider, group, route, split string
}

type sum struct {
	numerator, denominator, excluded float64
	values                           []float64
}

// firstCase is a case of once that may still be overtaken by an earlier one.
type firstCase struct {
	caseOf
	cell
}

// tally counts the cases of a question over any number of pathways. Add each
// pathway once, in any order, then take the rows. It is for one goroutine.
type tally struct {
	question *pb.GetIndicatorsRequest
	asked    []int // into the catalogue
	now      time.Time
	cells    map[cell]*sum
	first    map[string]firstCase
	pathways int64
}

// newTally counts for a question whose ids are served; none means all.
func newTally(q *pb.GetIndicatorsRequest, now time.Time) *tally {
	t := &tally{question: q, now: now, cells: map[cell]*sum{}, first: map[string]firstCase{}}
	for i, d := range catalogue {
		if d.count != nil && (len(q.Ids) == 0 || slices.Contains(q.Ids, d.Id)) {
			t.asked = append(t.asked, i)
		}
	}
	return t
}

// add counts a pathway or a lead. A pathway that was entered in error never was.
func (t *tally) add(c counts) {
	if c.lead != nil {
		for _, i := range t.asked {
			if count := ofLeads[catalogue[i].Id]; count != nil {
				count(c.lead, func(c caseOf) { t.take(c, cell{indicator: i}) })
			}
		}
		return
	}
	v := c.pathway
	if v.Start == nil || v.Closed.GetReason() == referralv1.CloseReason_CLOSE_REASON_ENTERED_IN_ERROR {
		return
	}
	t.pathways++
	s := &subject{Pathway: v, codes: c.codes, now: t.now, today: nhs.DateOf(t.now)}
	group, route := tumourGroup(v), routeName(v.Route)
	for _, i := range t.asked {
		s.add = func(c caseOf) { t.take(c, cell{indicator: i, group: group, route: route}) }
		catalogue[i].count(s)
	}
}

// take puts a case where it is counted.
func (t *tally) take(c caseOf, at cell) {
	at.provider, at.split = c.provider, c.split
	if len(c.on) >= len("2006-01") {
		at.month = c.on[:len("2006-01")]
	}
	if c.once == "" {
		t.settle(at, c)
		return
	}
	key := catalogue[at.indicator].Id + " " + c.split + " " + c.once
	before, found := t.first[key]
	if found && !earlier(c, at, before) {
		t.settle(at, c.out())
		return
	}
	if found {
		t.settle(before.cell, before.out())
	}
	t.first[key] = firstCase{c, at}
}

// earlier orders cases by date, and cases of a day by what they are, so that the
// order of the pathways makes no difference.
func earlier(c caseOf, at cell, before firstCase) bool {
	return cmp.Or(cmp.Compare(c.on, before.on), cmp.Compare(at.provider, before.cell.provider), cmp.Compare(at.group, before.group), -cmp.Compare(c.numerator, before.numerator)) < 0
}

// settle counts a case in its cell, where the question asks for it.
func (t *tally) settle(at cell, c caseOf) {
	q := t.question
	switch {
	case q.Provider != "" && q.Provider != at.provider, q.TumourGroup != "" && q.TumourGroup != at.group:
		return
	case at.month != "" && (q.FromMonth != "" && at.month < q.FromMonth || q.ToMonth != "" && at.month > q.ToMonth):
		return
	}
	for _, dimension := range []struct {
		by   pb.IndicatorDimension
		text *string
	}{
		{pb.IndicatorDimension_INDICATOR_DIMENSION_PROVIDER, &at.provider},
		{pb.IndicatorDimension_INDICATOR_DIMENSION_TUMOUR_GROUP, &at.group},
		{pb.IndicatorDimension_INDICATOR_DIMENSION_ROUTE, &at.route},
	} {
		if !slices.Contains(q.By, dimension.by) {
			*dimension.text = ""
		}
	}
	s := t.cells[at]
	if s == nil {
		s = &sum{}
		t.cells[at] = s
	}
	switch {
	case c.excluded:
		s.excluded++
	case median(catalogue[at.indicator].Unit):
		s.values = append(s.values, c.value)
	default:
		s.numerator += c.numerator
		s.denominator += c.denominator
	}
}

// rows are the values, in the order of the catalogue, then by month, provider,
// tumour group, route and split. They are exact: what is exported goes through
// exports. An indicator without a case has no row.
func (t *tally) rows() []*pb.IndicatorRow {
	for key, f := range t.first {
		t.settle(f.cell, f.caseOf)
		delete(t.first, key)
	}
	at := make([]cell, 0, len(t.cells))
	for c := range t.cells {
		at = append(at, c)
	}
	slices.SortFunc(at, func(a, b cell) int {
		return cmp.Or(cmp.Compare(a.indicator, b.indicator), cmp.Compare(a.month, b.month), cmp.Compare(a.provider, b.provider),
			cmp.Compare(a.group, b.group), cmp.Compare(a.route, b.route), cmp.Compare(a.split, b.split))
	})
	rows := make([]*pb.IndicatorRow, 0, len(at))
	for _, c := range at {
		row := t.cells[c].row(catalogue[c.indicator])
		row.Month, row.Provider, row.TumourGroup, row.Route, row.Split = c.month, c.provider, c.group, c.route, c.split
		rows = append(rows, row)
	}
	return rows
}

func (s *sum) row(d indicator) *pb.IndicatorRow {
	row := &pb.IndicatorRow{Id: d.Id, Unit: d.Unit, Ruleset: d.Ruleset, Excluded: &pb.Figure{Number: s.excluded}}
	if median(d.Unit) {
		row.Denominator = &pb.Figure{Number: float64(len(s.values))}
		if len(s.values) > 0 {
			slices.Sort(s.values)
			row.Value = &pb.Figure{Number: middle(s.values)}
			row.P90 = &pb.Figure{Number: s.values[int(math.Ceil(0.9*float64(len(s.values))))-1]} // nearest rank
			row.Longest = &pb.Figure{Number: s.values[len(s.values)-1]}
		}
		return row
	}
	row.Numerator, row.Denominator = &pb.Figure{Number: s.numerator}, &pb.Figure{Number: s.denominator}
	if d.Unit == pb.IndicatorUnit_INDICATOR_UNIT_COUNT {
		row.Value = &pb.Figure{Number: s.numerator}
	} else {
		row.Value = rate(row.Numerator, row.Denominator)
	}
	return row
}

// median reports whether a unit is of medians.
func median(u pb.IndicatorUnit) bool {
	return u == pb.IndicatorUnit_INDICATOR_UNIT_DAYS || u == pb.IndicatorUnit_INDICATOR_UNIT_HOURS
}

// middle of sorted values; between the two middle ones where their number is even.
func middle(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// tumourGroup of a pathway: by the ICD-10 code of the diagnosis; before there is
// one, by the type of the urgent referral. Rare and less common cancers are all
// but breast, prostate, lung and colorectal (our reading of "Cancer52").
func tumourGroup(v *pb.Pathway) string {
	code := cmp.Or(v.Diagnosis.GetIcd10(), v.Plan.GetDiagnosis().GetIcd10())
	switch {
	case code == "":
		return suspectedGroup(cmp.Or(v.Diagnosis.GetTumourGroup(), v.Start.GetReferralType()))
	case within(code, "C50", "C50"), within(code, "D05", "D05"):
		return "breast"
	case within(code, "C61", "C61"):
		return "prostate"
	case within(code, "C33", "C34"):
		return "lung"
	case within(code, "C18", "C20"):
		return "colorectal"
	case strings.HasPrefix(code, "C") || strings.HasPrefix(code, "D"):
		return "rare_or_less_common"
	}
	return "unknown"
}

// suspectedGroup maps a type of urgent referral. Urological suspicion is more
// than the prostate and lower gastrointestinal more than the bowel, so both stay
// unknown until there is a code.
func suspectedGroup(kind string) string {
	switch kind {
	case "01", "16":
		return "breast"
	case "03":
		return "lung"
	case "02", "04", "05", "07", "08", "09", "11", "12", "13", "15":
		return "rare_or_less_common"
	}
	return "unknown"
}

// within reports whether the category of an ICD-10 code is first to last.
func within(code, first, last string) bool {
	return len(code) >= 3 && code[:3] >= first && code[:3] <= last
}

// routeName is for example "usc".
func routeName(r referralv1.Route) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "ROUTE_"))
}
