// Package waitingtimes computes the clocks of the cancer pathway as pure
// functions over dated rules. The rules are the rows of rules.csv: each has an
// id, the dates it is in force, its source and how sure we are of it. Every
// result names the rule it was computed by, so that it can be computed again
// when guidance changes, and both results be kept.
//
// All arithmetic is on civil dates of Europe/London: days = end - start -
// adjustments, the start date is day 0, weekends and bank holidays count. Only
// the platform's own timers count working days.
//
// Agreement with the test vectors shows agreement with this reading of the
// rules, not acceptance by NHS England.
package waitingtimes

import (
	"embed"
	"encoding/csv"
	"fmt"
	"strconv"
	"sync"

	"waymark/services/kit/nhs"
)

// Ruleset names the guidance that the rules of the national clocks follow.
const Ruleset = "cwt-12.1"

//go:embed rules.csv
var files embed.FS

// Rule is one row of rules.csv. To is zero while the rule is in force.
type Rule struct {
	ID, Clock  string
	Start, End string // the events, in words
	Limit      int
	Unit       Unit
	Threshold  int // per cent; 0 where none is set
	From, To   nhs.Date
	Source     string
	Confidence string
}

// Unit of a rule's limit.
type Unit string

// The units. A month clamps to the end of a shorter month and is counted from
// the start, never from an earlier due date.
const (
	Days        Unit = "days"
	WorkingDays Unit = "working_days" // of England
	Months      Unit = "months"
)

// Rules returns every rule, in the order of the file.
var Rules = sync.OnceValue(func() []Rule {
	f, err := files.Open("rules.csv")
	if err != nil {
		panic(err) // embedded
	}
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		panic(err)
	}
	var rules []Rule
	for _, r := range rows[1:] {
		rule, err := parse(r)
		if err != nil {
			panic(fmt.Errorf("rules.csv, rule %s: %w", r[0], err))
		}
		rules = append(rules, rule)
	}
	return rules
})

func parse(r []string) (Rule, error) {
	rule := Rule{ID: r[0], Clock: r[1], Start: r[2], End: r[3], Unit: Unit(r[5]), Source: r[11], Confidence: r[12]}
	var err error
	if rule.Limit, err = strconv.Atoi(r[4]); err != nil {
		return rule, err
	}
	if r[8] != "" {
		if rule.Threshold, err = strconv.Atoi(r[8]); err != nil {
			return rule, err
		}
	}
	if rule.From, err = nhs.ParseDate(r[9]); err != nil {
		return rule, err
	}
	if r[10] != "" {
		rule.To, err = nhs.ParseDate(r[10])
	}
	return rule, err
}

// RuleOn returns the rule of a clock that is in force on a day.
func RuleOn(clock string, on nhs.Date) (Rule, error) {
	for _, r := range Rules() {
		if r.Clock == clock && !on.Before(r.From) && (r.To.IsZero() || !on.After(r.To)) {
			return r, nil
		}
	}
	return Rule{}, fmt.Errorf("no rule for clock %q is in force on %s", clock, on)
}

// Due returns the last day on which a clock that starts on day start is met.
func Due(clock string, start nhs.Date) (nhs.Date, Rule, error) {
	rule, err := RuleOn(clock, start)
	if err != nil {
		return nhs.Date{}, rule, err
	}
	switch rule.Unit {
	case Days:
		return start.AddDays(rule.Limit), rule, nil
	case WorkingDays:
		return AddWorkingDays(start, rule.Limit), rule, nil
	case Months:
		return AddMonths(start, rule.Limit), rule, nil
	}
	return nhs.Date{}, rule, fmt.Errorf("rule %s has unknown unit %q", rule.ID, rule.Unit)
}
