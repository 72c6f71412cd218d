package waitingtimes

import (
	"fmt"

	"waymark/services/kit/nhs"
)

// Result of a clock. Days and Breach mean nothing unless Counted.
type Result struct {
	Days    int
	Counted bool
	Breach  bool
	Rule    Rule
}

// Route by which a patient came onto the 62-day clock.
type Route string

// The routes, as analyst code of the NHS names them.
const (
	USC         Route = "USC"          // urgent suspected cancer
	BreastSympt Route = "BREAST_SYMPT" // breast symptomatic
	Screening   Route = "SCREENING"
	Upgrade     Route = "UPGRADE" // by a consultant
	NoRoute     Route = ""        // no 62-day clock
)

// RouteOf derives the route from PRIORITY TYPE CODE, the urgent referral type
// (16 is breast symptomatic), SOURCE OF REFERRAL (17 is a national screening
// programme) and whether there was a consultant upgrade.
func RouteOf(priority, referralType, source string, upgraded bool) Route {
	switch {
	case source != "17" && upgraded:
		return Upgrade
	case priority == "2" && source == "17":
		return Screening
	case priority == "3" && source != "17" && referralType == "16":
		return BreastSympt
	case priority == "3" && source != "17":
		return USC
	}
	return NoRoute
}

// FasterDiagnosis is the input of the 28-day clock. Dates that did not happen
// are zero.
type FasterDiagnosis struct {
	Received, End, DecisionToTreat nhs.Date
	FirstSeenAdjustment            int    // days
	EndReason                      string // 01 diagnosed, 02 ruled out, 03 excluded, 04 interval screening
	Exclusion                      string // 01 died before the outcome was told
}

// Result of the clock. It ends when the patient was told or at the decision to
// treat, whichever is first. Reasons 01, 02 and 04 are counted; 03 only with
// exclusion 01 after the limit.
func (c FasterDiagnosis) Result() (Result, error) {
	rule, err := RuleOn("fds", c.Received)
	if err != nil {
		return Result{}, err
	}
	end := first(c.End, c.DecisionToTreat)
	days, err := interval("fds", c.Received, end, c.FirstSeenAdjustment)
	if err != nil {
		return Result{}, err
	}
	r := Result{Days: days, Rule: rule}
	switch c.EndReason {
	case "01", "02", "04":
		r.Counted = true
	case "03":
		r.Counted = c.Exclusion == "01" && days > rule.Limit
	}
	r.Breach = r.Counted && days > rule.Limit
	return r, nil
}

// LastDay returns the last day on which the clock can end without a breach, with
// the adjustment that was made so far.
func (c FasterDiagnosis) LastDay() (nhs.Date, Rule, error) {
	return lastDay("fds", c.Received, c.FirstSeenAdjustment)
}

// Treatment is the input of the 31-day clock.
type Treatment struct {
	ClockStart, Start nhs.Date // ClockStart: decision to treat; for a subsequent treatment the ECAD
	Adjustment        int      // days
	EventType         string   // CANCER TREATMENT EVENT TYPE
	Modality          string
}

// FirstTreatment reports whether a CANCER TREATMENT EVENT TYPE is a first
// definitive treatment, which ends the 62-day clock.
func FirstTreatment(eventType string) bool {
	return eventType == "01" || eventType == "07" || eventType == "12"
}

// Result of the 31-day clock; all treatment declined (modality 98) is left out.
func (c Treatment) Result() (Result, error) {
	rule, err := RuleOn("d31", c.ClockStart)
	if err != nil {
		return Result{}, err
	}
	if c.Modality == "98" {
		return Result{Rule: rule}, nil
	}
	days, err := interval("d31", c.ClockStart, c.Start, c.Adjustment)
	if err != nil {
		return Result{}, err
	}
	return Result{Days: days, Counted: true, Breach: days > rule.Limit, Rule: rule}, nil
}

// LastDay returns the last day on which the treatment can start without a breach,
// with the adjustment that was made so far.
func (c Treatment) LastDay() (nhs.Date, Rule, error) {
	return lastDay("d31", c.ClockStart, c.Adjustment)
}

// Referral is the input of the 62-day clock and of its two phases. Dates that
// did not happen are zero.
type Referral struct {
	Route                                    Route
	Received, Upgraded, FirstSeen            nhs.Date
	Transferred, TreatmentStart              nhs.Date
	FirstSeenAdjustment, TreatmentAdjustment int // days
	EventType, Modality                      string
}

// ClockStart is receipt of the referral, for an upgrade the day of the upgrade.
func (c Referral) ClockStart() nhs.Date {
	if c.Route == Upgrade {
		return c.Upgraded
	}
	return c.Received
}

// firstSeen is the part of the first-seen adjustment that counts: after an
// upgrade only where the upgrade was not later than the first attendance.
func (c Referral) firstSeen() int {
	if c.Route == Upgrade && c.Upgraded.After(c.FirstSeen) {
		return 0
	}
	return c.FirstSeenAdjustment
}

// Result of the 62-day clock. Only first definitive treatments count, and not
// modality 98.
func (c Referral) Result() (Result, error) {
	rule, err := RuleOn("d62", c.ClockStart())
	if err != nil {
		return Result{}, err
	}
	if c.Route == NoRoute || c.Modality == "98" || !FirstTreatment(c.EventType) {
		return Result{Rule: rule}, nil
	}
	days, err := interval("d62", c.ClockStart(), c.TreatmentStart, c.firstSeen()+c.TreatmentAdjustment)
	if err != nil {
		return Result{}, err
	}
	return Result{Days: days, Counted: true, Breach: days > rule.Limit, Rule: rule}, nil
}

// LastDay returns the last day on which the first definitive treatment can start
// without a breach, with the adjustments that were made so far.
func (c Referral) LastDay() (nhs.Date, Rule, error) {
	adjustment := c.TreatmentAdjustment + c.firstSeen()
	if c.FirstSeen.IsZero() && c.Route == Upgrade { // whenever that will be, the upgrade is not later
		adjustment = c.TreatmentAdjustment + c.FirstSeenAdjustment
	}
	return lastDay("d62", c.ClockStart(), adjustment)
}

// LastDayAfterTransfer is that of the 24-day phase.
func (c Referral) LastDayAfterTransfer() (nhs.Date, Rule, error) {
	return lastDay("d24", c.Transferred, c.TreatmentAdjustment)
}

// ToTransfer returns the 38-day phase, clock start to transfer, of a pathway that
// was transferred, whether or not it was treated since.
func (c Referral) ToTransfer() (Result, error) {
	return phase("d38", c.ClockStart(), c.Transferred, c.firstSeen())
}

// AfterTransfer returns the 24-day phase, transfer to treatment.
func (c Referral) AfterTransfer() (Result, error) {
	return phase("d24", c.Transferred, c.TreatmentStart, c.TreatmentAdjustment)
}

func phase(clock string, start, end nhs.Date, adjustment int) (Result, error) {
	rule, err := RuleOn(clock, start)
	if err != nil {
		return Result{}, err
	}
	days, err := interval(clock, start, end, adjustment)
	if err != nil {
		return Result{}, err
	}
	return Result{Days: days, Counted: true, Breach: days > rule.Limit, Rule: rule}, nil
}

// Phases returns both phases of a pathway that was transferred and treated.
func (c Referral) Phases() (to38, to24 Result, err error) {
	if to38, err = c.ToTransfer(); err != nil {
		return Result{}, Result{}, err
	}
	if to24, err = c.AfterTransfer(); err != nil {
		return Result{}, Result{}, err
	}
	return to38, to24, nil
}

func lastDay(clock string, start nhs.Date, adjustment int) (nhs.Date, Rule, error) {
	due, rule, err := Due(clock, start)
	if err != nil {
		return due, rule, err
	}
	if adjustment < 0 {
		return due, rule, fmt.Errorf("clock %s: adjustment of %d days", clock, adjustment)
	}
	return due.AddDays(adjustment), rule, nil
}

// Share is one trust's part of a 62-day pathway, in halves of a patient.
type Share struct{ Credit, Denominator float64 }

// Allocation of a transferred pathway between the two trusts.
type Allocation struct {
	Scenario                int // 1 to 6
	Investigating, Treating Share
}

// Allocate shares a transferred 62-day pathway between the investigating and
// the treating trust by the six scenarios. The combinations that cannot happen
// unless an adjustment is inconsistent between the phases are an error.
func (c Referral) Allocate() (Allocation, error) {
	total, err := c.Result()
	if err != nil {
		return Allocation{}, err
	}
	to38, to24, err := c.Phases()
	if err != nil {
		return Allocation{}, err
	}
	half := Share{0.5, 0.5}
	switch {
	case !total.Counted:
		return Allocation{}, fmt.Errorf("the pathway is outside the 62-day standard")
	case !to38.Breach && !to24.Breach && !total.Breach:
		return Allocation{1, half, half}, nil
	case !to38.Breach && to24.Breach && !total.Breach:
		return Allocation{2, half, half}, nil
	case to38.Breach && !to24.Breach && !total.Breach:
		return Allocation{3, Share{0, 0}, Share{1, 1}}, nil
	case !to38.Breach && to24.Breach:
		return Allocation{4, Share{0, 0}, Share{0, 1}}, nil
	case to38.Breach && !to24.Breach:
		return Allocation{5, Share{0, 1}, Share{0, 0}}, nil
	case to38.Breach && to24.Breach && total.Breach:
		return Allocation{6, Share{0, 0.5}, Share{0, 0.5}}, nil
	}
	return Allocation{}, fmt.Errorf("d38 %d, d24 %d and d62 %d do not agree: an adjustment is not the same in the phases and the total", to38.Days, to24.Days, total.Days)
}

// FirstSeenAdjustment is the days that a missed first appointment takes off the
// clock: from receipt to the day the patient rebooked, after several to the
// latest. Only attendance codes 3 (did not attend) and 7 (late, could not be
// seen) adjust.
func FirstSeenAdjustment(received, rebooked nhs.Date, attendanceCode string) int {
	if attendanceCode != "3" && attendanceCode != "7" {
		return 0
	}
	return max(0, received.DaysUntil(rebooked))
}

// TreatmentAdjustment is the days between a declined reasonable offer of
// admitted treatment and the day the patient is available again. Outpatient
// treatment, medical deferral, cancellation and non-attendance never adjust.
func TreatmentAdjustment(admitted, patientDeclined bool, offered, available nhs.Date) int {
	if !admitted || !patientDeclined {
		return 0
	}
	return max(0, offered.DaysUntil(available))
}

func interval(clock string, start, end nhs.Date, adjustment int) (int, error) {
	switch {
	case start.IsZero() || end.IsZero():
		return 0, fmt.Errorf("clock %s has no start or no end", clock)
	case end.Before(start):
		return 0, fmt.Errorf("clock %s ends on %s before it starts on %s", clock, end, start)
	case adjustment < 0 || adjustment > start.DaysUntil(end):
		return 0, fmt.Errorf("clock %s: adjustment of %d days does not fit its interval of %d", clock, adjustment, start.DaysUntil(end))
	}
	return start.DaysUntil(end) - adjustment, nil
}

func first(a, b nhs.Date) nhs.Date {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
