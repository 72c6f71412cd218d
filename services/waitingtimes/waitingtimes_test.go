package waitingtimes

import (
	"encoding/csv"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"waymark/services/kit/nhs"
)

// tb is the part of testing.T that the vectors use; see count.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Error(args ...any)
	Fatal(args ...any)
}

// table reads testdata/<name>.csv: the vectors of the domain reference and, in
// the files named edges, our own. Each
// row is a subtest of its id, so the counts show in the test output.
func table(t *testing.T, name string, run func(t tb, row map[string]string)) {
	t.Helper()
	for _, row := range rows(t, name) {
		t.Run(row["id"], func(t *testing.T) { run(t, row) })
	}
}

func rows(t *testing.T, name string) (all []map[string]string) {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(read) < 2 {
		t.Fatal("no rows")
	}
	for _, r := range read[1:] {
		row := map[string]string{}
		for i, col := range read[0] {
			row[col] = r[i]
		}
		all = append(all, row)
	}
	return all
}

func on(t tb, s string) nhs.Date {
	t.Helper()
	if s == "" {
		return nhs.Date{}
	}
	d, err := nhs.ParseDate(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func num(t tb, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func same[T comparable](t tb, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func check(t tb, row map[string]string, included string, got Result, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	same(t, included, got.Counted, row[included] == "true")
	if row["days"] != "" {
		same(t, "days", got.Days, num(t, row["days"]))
	}
	same(t, "breach", got.Breach, row["breach"] == "true")
	if got.Rule.ID == "" || got.Rule.Source == "" || got.Rule.Confidence == "" {
		t.Error("the result does not name its rule, source and confidence")
	}
}

func fds(t tb, r map[string]string) {
	got, err := FasterDiagnosis{
		Received: on(t, r["referral_received"]), End: on(t, r["told_or_end"]), DecisionToTreat: on(t, r["dtt"]),
		FirstSeenAdjustment: num(t, r["first_seen_adj"]), EndReason: r["end_reason"], Exclusion: r["exclusion"],
	}.Result()
	check(t, r, "counted", got, err)
}

func TestFasterDiagnosis(t *testing.T) {
	table(t, "fds", fds)
	table(t, "fds_edges", fds)
}

func d31(t tb, r map[string]string) {
	got, err := Treatment{
		ClockStart: on(t, r["clock_start"]), Start: on(t, r["treatment_start"]), Adjustment: num(t, r["treatment_adj"]),
		EventType: r["event_type"], Modality: r["modality"],
	}.Result()
	check(t, r, "included", got, err)
}

func TestTreatment31(t *testing.T) {
	table(t, "d31", d31)
}

func referral(t tb, r map[string]string) Referral {
	return Referral{
		Route: Route(r["route"]), Received: on(t, r["referral_received"]), Upgraded: on(t, r["consultant_upgrade"]), FirstSeen: on(t, r["first_seen"]),
		Transferred: on(t, r["transfer"]), TreatmentStart: on(t, r["treatment_start"]),
		FirstSeenAdjustment: num(t, r["first_seen_adj"]), TreatmentAdjustment: num(t, r["treatment_adj"]),
		EventType: r["event_type"], Modality: r["modality"],
	}
}

func d62(t tb, r map[string]string) {
	got, err := referral(t, r).Result()
	check(t, r, "included", got, err)
}

func TestReferral62(t *testing.T) {
	table(t, "d62", d62)
}

func allocation(t tb, r map[string]string) {
	c := referral(t, r)
	c.Route, c.EventType, c.Modality = USC, "01", "01"
	d38, d24, err := c.Phases()
	if err != nil {
		t.Fatal(err)
	}
	total, err := c.Result()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "d38", d38.Days, num(t, r["d38"]))
	same(t, "d24", d24.Days, num(t, r["d24"]))
	same(t, "d62", total.Days, num(t, r["d62"]))
	got, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "scenario", got.Scenario, num(t, r["scenario"]))
	for _, s := range []struct {
		name string
		got  Share
	}{{"investigating", got.Investigating}, {"treating", got.Treating}} {
		same(t, s.name+" credit", strconv.FormatFloat(s.got.Credit, 'g', -1, 64), r[s.name+"_credit"])
		same(t, s.name+" denominator", strconv.FormatFloat(s.got.Denominator, 'g', -1, 64), r[s.name+"_denominator"])
	}
}

func TestAllocation(t *testing.T) {
	table(t, "allocation", allocation)
	table(t, "allocation_edges", allocation)
}

func TestAllocationRefusesWhatCannotBe(t *testing.T) {
	// 38 + 24 = 62: both phases late within 62 days needs an adjustment that the phases do not share.
	c := Referral{Route: Upgrade, Received: on(t, "2026-01-05"), Upgraded: on(t, "2026-01-05"), FirstSeen: on(t, "2026-01-04"), EventType: "01", Modality: "01",
		Transferred: on(t, "2026-02-12"), TreatmentStart: on(t, "2026-03-09"), TreatmentAdjustment: 25}
	if got, err := c.Allocate(); err != nil || got.Scenario != 1 {
		t.Errorf("scenario %d, %v", got.Scenario, err)
	}
	c.Transferred, c.TreatmentAdjustment = on(t, "2026-03-10"), 0
	if _, err := c.Allocate(); err == nil {
		t.Error("treatment before transfer was allocated")
	}
}

func TestAdjustments(t *testing.T) {
	table(t, "adj_first_seen", func(t tb, r map[string]string) {
		same(t, "days", FirstSeenAdjustment(on(t, r["received"]), on(t, r["rebooked_on"]), r["attendance_code"]), num(t, r["adjustment_days"]))
	})
	table(t, "adj_treatment", func(t tb, r map[string]string) {
		declined := r["reason"] == "patient declined reasonable offer"
		same(t, "days", TreatmentAdjustment(r["setting"] == "admitted", declined, on(t, r["declined_offer"]), on(t, r["available_from"])), num(t, r["adjustment_days"]))
	})
}

// TestLastDay: ended on its last day a clock has no breach, a day later it has,
// whatever was adjusted.
func TestLastDay(t *testing.T) {
	start := on(t, "2026-02-20") // over the end of a month, a change of clocks, and Easter
	for _, adjusted := range []int{0, 1, 14} {
		for _, route := range []Route{USC, BreastSympt, Screening, Upgrade} {
			r := Referral{Route: route, Received: start, Upgraded: start, FirstSeen: start.AddDays(9), Transferred: start.AddDays(30),
				FirstSeenAdjustment: adjusted, TreatmentAdjustment: 2 * adjusted, EventType: "01", Modality: "01"}
			for name, clock := range map[string]struct {
				last   func() (nhs.Date, Rule, error)
				result func(end nhs.Date) (Result, error)
				days   int
			}{
				"fds": {FasterDiagnosis{Received: start, FirstSeenAdjustment: adjusted}.LastDay, func(end nhs.Date) (Result, error) {
					return FasterDiagnosis{Received: start, End: end, FirstSeenAdjustment: adjusted, EndReason: "01"}.Result()
				}, 28 + adjusted},
				"d31": {Treatment{ClockStart: start, Adjustment: adjusted}.LastDay, func(end nhs.Date) (Result, error) {
					return Treatment{ClockStart: start, Start: end, Adjustment: adjusted, EventType: "01", Modality: "01"}.Result()
				}, 31 + adjusted},
				"d62": {r.LastDay, func(end nhs.Date) (Result, error) {
					r := r
					r.TreatmentStart = end
					return r.Result()
				}, 62 + 3*adjusted},
				"d24": {r.LastDayAfterTransfer, func(end nhs.Date) (Result, error) {
					r := r
					r.TreatmentStart = end
					return r.AfterTransfer()
				}, 30 + 24 + 2*adjusted},
			} {
				last, rule, err := clock.last()
				if err != nil || rule.ID == "" {
					t.Fatalf("%s: %v", name, err)
				}
				if got := start.DaysUntil(last); got != clock.days {
					t.Errorf("%s with %d days adjusted: last day %s is day %d, want %d", name, adjusted, last, got, clock.days)
				}
				on, err1 := clock.result(last)
				after, err2 := clock.result(last.AddDays(1))
				if err1 != nil || err2 != nil || on.Breach || !after.Breach || on.Rule.ID != rule.ID {
					t.Errorf("%s with %d days adjusted: %+v, %+v, %v, %v", name, adjusted, on, after, err1, err2)
				}
			}
		}
	}
	// After an upgrade the first-seen adjustment counts only where the upgrade was not later than the first attendance.
	late := Referral{Route: Upgrade, Received: start, Upgraded: start.AddDays(10), FirstSeen: start.AddDays(9), FirstSeenAdjustment: 7}
	if last, _, err := late.LastDay(); err != nil || late.Upgraded.DaysUntil(last) != 62 {
		t.Errorf("seen before the upgrade: %s, %v", last, err)
	}
	late.FirstSeen = nhs.Date{} // not seen yet
	if last, _, err := late.LastDay(); err != nil || late.Upgraded.DaysUntil(last) != 69 {
		t.Errorf("not seen yet: %s, %v", last, err)
	}
	if _, _, err := (Treatment{ClockStart: start, Adjustment: -1}).LastDay(); err == nil {
		t.Error("an adjustment of less than nothing was taken")
	}
}

func planDeadlines(t tb, r map[string]string) {
	clocks := map[string]string{"PL-01": "hna_dx", "PL-02": "eots_target", "PL-03": "hna_eot", "PL-04": "ccr_3m", "PL-05": "ccr_12m", "PL-06": "qol_18m"}
	due, _, err := Due(clocks[r["id"]], on(t, r["from_date"]))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "due", due.String(), r["due"])
}

func TestPlanDeadlines(t *testing.T) {
	table(t, "plan_deadlines", planDeadlines)
}

func handoverTimers(t tb, r map[string]string) {
	clocks := map[string]string{"HO-01": "offer_answered", "HO-02": "offer_answered", "HO-03": "first_contact"}
	due, _, err := Due(clocks[r["id"]], on(t, r["at"]))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "due", due.String(), r["due"])
}

func TestHandoverTimers(t *testing.T) {
	table(t, "handover_timers", handoverTimers)
}

func TestBankHolidays(t *testing.T) {
	// gov.uk, bank holidays of England and Wales.
	want := map[int]string{
		2022: "01-03 04-15 04-18 05-02 06-02 06-03 08-29 09-19 12-26 12-27",
		2023: "01-02 04-07 04-10 05-01 05-08 05-29 08-28 12-25 12-26",
		2024: "01-01 03-29 04-01 05-06 05-27 08-26 12-25 12-26",
		2025: "01-01 04-18 04-21 05-05 05-26 08-25 12-25 12-26",
		2026: "01-01 04-03 04-06 05-04 05-25 08-31 12-25 12-28",
		2027: "01-01 03-26 03-29 05-03 05-31 08-30 12-27 12-28",
		2028: "01-03 04-14 04-17 05-01 05-29 08-28 12-25 12-26",
	}
	for year, days := range want {
		var got []string
		for d := date(year, 1, 1); d.Before(date(year+1, 1, 1)); d = d.AddDays(1) {
			if BankHoliday(d) {
				got = append(got, d.String()[5:])
			}
		}
		same(t, strconv.Itoa(year), strings.Join(got, " "), days)
	}
}

func TestEveryClockHasOneRuleADay(t *testing.T) {
	rules := Rules()
	if len(rules) < 20 {
		t.Fatalf("only %d rules", len(rules))
	}
	for _, r := range rules {
		if r.Source == "" || r.Confidence == "" {
			t.Errorf("rule %s has no source or no confidence", r.ID)
		}
		for _, other := range rules {
			if other.ID != r.ID && other.Clock == r.Clock && !r.From.Before(other.From) && (other.To.IsZero() || !r.From.After(other.To)) {
				t.Errorf("rules %s and %s overlap", r.ID, other.ID)
			}
		}
	}
	if _, err := RuleOn("fds", on(t, "1999-01-01")); err == nil {
		t.Error("a rule was found for 1999")
	}
	before, _ := RuleOn("fds", on(t, "2026-02-28"))
	after, _ := RuleOn("fds", on(t, "2026-03-01"))
	same(t, "threshold before March 2026", before.Threshold, 75)
	same(t, "threshold from March 2026", after.Threshold, 80)
}

func TestRoutes(t *testing.T) {
	for _, c := range []struct {
		priority, kind, source string
		upgraded               bool
		want                   Route
	}{
		{"3", "03", "03", false, USC}, {"3", "16", "03", false, BreastSympt}, {"2", "", "17", false, Screening},
		{"1", "", "03", true, Upgrade}, {"2", "", "17", true, Screening}, {"1", "", "03", false, NoRoute},
	} {
		same(t, "route", RouteOf(c.priority, c.kind, c.source, c.upgraded), c.want)
	}
}

// count is a tb that only counts.
type count struct{ failed int }

func (*count) Helper()                 {}
func (c *count) Errorf(string, ...any) { c.failed++ }
func (c *count) Error(...any)          { c.failed++ }
func (c *count) Fatal(...any)          { c.failed++; panic(c) }

// A day more or less in any rule that has vectors must fail some of them. The
// rules without vectors are named, so that one is not forgotten silently.
func TestVectorsSeeAnOffByOne(t *testing.T) {
	noVector := "d104 pcsp eots_latest eots_gp offer_seen return_answered high_concern concern_closed plan_review result_told result_told_imaging to_book dna_contact"
	vectors := map[string]func(tb, map[string]string){
		"fds": fds, "fds_edges": fds, "d31": d31, "d62": d62, "allocation": allocation, "allocation_edges": allocation,
		"plan_deadlines": planDeadlines, "handover_timers": handoverTimers,
	}
	failing := func() int {
		var c count
		for name, run := range vectors {
			for _, row := range rows(t, name) {
				func() {
					defer func() {
						if p := recover(); p != nil && p != any(&c) {
							panic(p)
						}
					}()
					run(&c, row)
				}()
			}
		}
		return c.failed
	}
	if n := failing(); n != 0 {
		t.Fatalf("%d failures before anything is planted", n)
	}
	for i := range Rules() {
		rule := &Rules()[i]
		for _, wrong := range []int{-1, 1} {
			rule.Limit += wrong
			n := failing()
			rule.Limit -= wrong
			if seen, exempt := n > 0, slices.Contains(strings.Fields(noVector), rule.Clock); seen == exempt {
				t.Errorf("rule %s off by %d fails %d vectors; named as one without vectors: %v", rule.ID, wrong, n, exempt)
			}
		}
	}
}
