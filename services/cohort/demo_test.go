package cohort

import (
	"testing"

	"waymark/services/kit/nhs"
)

// TestDemo: the same seed and day give the same journeys; every stage of a pathway
// is there, and the mix of sites and the waits are those of the figures, as far as
// a thousand patients can show.
func TestDemo(t *testing.T) {
	t.Parallel()
	today, _ := nhs.ParseDate("2026-11-21")
	one, two := Demo(60, 1, today), Demo(60, 1, today)
	stages := map[string]int{}
	for i, j := range one.Journeys {
		if describe(j.Courses[0]) != describe(two.Journeys[i].Courses[0]) || j.Family != two.Journeys[i].Family || j.Born != two.Journeys[i].Born {
			t.Fatalf("patient %d is another the second time", i)
		}
		if len(requests(t, j)) < 3 {
			t.Errorf("patient %d has no journey", i)
		}
		switch c := j.Courses[0]; {
		case c.Seen == "":
			stages["referred"]++
		case c.RuledOut != "":
			stages["ruled out"]++
		case c.Told == "":
			stages["seen"]++
		case len(c.Treatment) == 0 || c.Treatment[0].Started == "":
			stages["waiting"]++
		case c.Treatment[0].Ended == "":
			stages["in treatment"]++
		case c.Contacted != "":
			stages["contacted"]++
		default:
			stages["handover"]++
		}
	}
	for _, s := range []string{"referred", "ruled out", "seen", "waiting", "in treatment", "handover", "contacted"} {
		if stages[s] == 0 {
			t.Errorf("nobody is at the stage %q: %v", s, stages)
		}
	}
	t.Logf("stages: %v", stages)

	many := Demo(4000, 2, today).Journeys
	sites, treated, breach := map[string]int{}, 0, 0
	for _, j := range many {
		c := j.Courses[0]
		if c.RuledOut != "" {
			continue
		}
		if len(c.Treatment) > 0 && c.Treatment[0].Started != "" {
			sites[c.ID]++
			from, _ := nhs.ParseDate(c.Received)
			to, _ := nhs.ParseDate(c.Treatment[0].Started)
			if treated++; from.DaysUntil(to) > 62 {
				breach++
			}
		}
	}
	published, all, late := map[string]int{}, 0, 0
	for site, bands := range waits()["treated"] {
		for _, b := range bands {
			published[site], all = published[site]+b.patients, all+b.patients
			if b.from > 62 {
				late += b.patients
			}
		}
	}
	near := func(what string, got, of, want, in int) {
		t.Helper()
		if d := 100*got/of - 100*want/in; d > 6 || d < -6 {
			t.Errorf("%s: %d of %d, published %d of %d", what, got, of, want, in)
		}
	}
	for site, n := range published {
		near(site, sites[site], treated, n, all)
	}
	near("treated after 62 days", breach, treated, late, all)
}
