package pathway

import (
	"cmp"
	"fmt"
	"strings"

	pb "waymark/proto/waymark/pathway/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// day of a text that the contracts hold to be a date; no date for an empty one.
func day(text string) nhs.Date {
	d, _ := nhs.ParseDate(text)
	return d
}

// trust answers for the pathway in the hospitals.
func (s *subject) trust() string {
	return cmp.Or(s.Transfer.GetTreatingProvider(), s.FirstSeen.GetOrganisation(), s.Start.GetResponsibleTeam().GetOrganisation())
}

// stopped calls do for every clock of a name that reached its end.
func (s *subject) stopped(clock string, do func(*pb.Clock)) {
	for _, c := range s.Clocks {
		if c.Clock == clock && c.Status == referralv1.ClockStatus_CLOCK_STATUS_STOPPED {
			do(c)
		}
	}
}

// standard counts a clock by its standard.
func (s *subject) standard(c *pb.Clock, provider, split string) {
	one := caseOf{on: c.EndOn, provider: provider, split: split}
	if !c.Counted || c.Problem != "" {
		s.add(one.out())
		return
	}
	s.add(one.met(!c.Breach))
}

func (s *subject) teller() string {
	return cmp.Or(s.Diagnosis.GetTold().GetOrganisation(), s.RuledOut.GetTold().GetOrganisation(), s.trust())
}

func fasterDiagnosis(s *subject) {
	s.stopped("fds", func(c *pb.Clock) { s.standard(c, s.teller(), "") })
}

func fasterDiagnosisByOutcome(s *subject) {
	outcome := s.RuledOut.GetEndReason()
	if s.Diagnosis != nil {
		outcome = "01"
	}
	if outcome == "01" || outcome == "02" {
		s.stopped("fds", func(c *pb.Clock) { s.standard(c, s.teller(), outcome) })
	}
}

func days31(s *subject) {
	s.stopped("d31", func(c *pb.Clock) {
		provider := s.trust()
		for _, t := range s.Treatments {
			if t.Started.GetOn() == c.EndOn {
				provider = t.Started.Organisation
			}
		}
		s.standard(c, provider, "")
	})
}

// first is the first definitive treatment; nil where there was none.
func (s *subject) first() *referralv1.Treatment {
	for _, t := range s.Treatments {
		if t.Started != nil && waitingtimes.FirstTreatment(t.Started.EventType) {
			return t
		}
	}
	return nil
}

// shared says whether two trusts share the pathway, and who they are. Without a
// recorded investigating provider it is the trust of the first attendance.
func (s *subject) shared() (investigating, treating string, yes bool) {
	treating = cmp.Or(s.first().GetStarted().GetOrganisation(), s.trust())
	investigating = cmp.Or(s.Transfer.GetInvestigatingProvider(), s.FirstSeen.GetOrganisation(), treating)
	return investigating, treating, s.Transfer != nil && investigating != treating
}

func days62(s *subject) {
	s.stopped("d62", func(c *pb.Clock) {
		investigating, treating, shared := s.shared()
		if !shared || !c.Counted || c.Problem != "" {
			s.standard(c, treating, "")
			return
		}
		one := caseOf{on: c.EndOn, provider: treating}
		a, err := s.sixtyTwo().Allocate()
		if err != nil { // the phases contradict the total
			s.add(one.out())
			return
		}
		for provider, share := range map[string]waitingtimes.Share{investigating: a.Investigating, treating: a.Treating} {
			if share.Denominator > 0 {
				s.add(caseOf{on: c.EndOn, provider: provider, numerator: share.Credit, denominator: share.Denominator})
			}
		}
	})
}

// sixtyTwo are the facts of the 62-day clock as the rules take them.
func (s *subject) sixtyTwo() waitingtimes.Referral {
	first := s.first()
	return waitingtimes.Referral{
		Route:               waitingtimes.RouteOf(s.Start.GetPriority(), s.Start.GetReferralType(), s.Start.GetSource(), s.Upgrade != nil),
		Received:            day(s.Start.GetReceivedOn()),
		Upgraded:            day(s.Upgrade.GetOn()),
		FirstSeen:           day(s.FirstSeen.GetOn()),
		Transferred:         day(s.Transfer.GetOn()),
		TreatmentStart:      day(first.GetStarted().GetOn()),
		FirstSeenAdjustment: int(s.FirstSeenAdjustment.GetDays()),
		TreatmentAdjustment: int(first.GetAdjustment().GetDays()),
		EventType:           first.GetStarted().GetEventType(),
		Modality:            first.GetStarted().GetModality(),
	}
}

// days38 counts a pathway when it is transferred.
func days38(s *subject) {
	investigating, _, shared := s.shared()
	if !shared {
		return
	}
	one := caseOf{on: s.Transfer.On, provider: investigating}
	r, err := s.sixtyTwo().ToTransfer()
	if err != nil || routes[s.Route] == waitingtimes.NoRoute || !r.Counted {
		s.add(one.out())
		return
	}
	s.add(one.met(!r.Breach))
}

// days24 counts a pathway when it is treated after its transfer, or can no longer
// be in time.
func days24(s *subject) {
	_, treating, shared := s.shared()
	if !shared {
		return
	}
	one := caseOf{on: s.Transfer.On, provider: treating}
	if s.first() != nil {
		if r, err := s.sixtyTwo().AfterTransfer(); err == nil && r.Counted && routes[s.Route] != waitingtimes.NoRoute {
			s.add(one.met(!r.Breach))
			return
		}
		s.add(one.out())
		return
	}
	for _, c := range s.Clocks {
		if c.Clock == "d24" && c.Status == referralv1.ClockStatus_CLOCK_STATUS_RUNNING && c.BreachAfter != "" && s.over(day(c.BreachAfter)) {
			s.add(one.met(false))
			return
		}
	}
	s.add(one.out()) // it may still be in time, or nothing is to be treated
}

func daysWaited(s *subject) {
	for _, c := range s.Clocks {
		if c.Status != referralv1.ClockStatus_CLOCK_STATUS_STOPPED {
			continue
		}
		one := caseOf{on: c.EndOn, provider: s.trust(), split: c.Clock, value: float64(c.GetDays())}
		if !c.Counted || c.Problem != "" || c.Days == nil {
			one = one.out()
		}
		s.add(one)
	}
}

// bands are the upper ends of the bands of days in which alliance tables count,
// for each clock; beyond the last is one more.
var bands = map[string][]int{
	"fds": {7, 14, 21, 28, 35, 42, 49, 62, 76, 90, 104},
	"d31": {31, 38, 48, 62},
	"d62": {31, 62, 76, 90, 104},
	"d38": {38},
	"d24": {24, 31},
}

// band names the band of a number of days, for example "d62 063-076": its text
// sorts as its days do.
func band(clock string, days int) string {
	from := 0
	for _, to := range bands[clock] {
		if days <= to {
			return fmt.Sprintf("%s %03d-%03d", clock, from, to)
		}
		from = to + 1
	}
	return fmt.Sprintf("%s %03d+", clock, from)
}

func waitingNow(s *subject) {
	for _, c := range s.Clocks {
		if c.Status != referralv1.ClockStatus_CLOCK_STATUS_RUNNING || c.BreachAfter == "" {
			continue
		}
		// As the clock stands: less the adjustments made so far, as breach_after has them.
		days := int(c.Limit) - s.today.DaysUntil(day(c.BreachAfter))
		splits := []string{band(c.Clock, max(0, days))}
		for _, over := range []int{62, 104} {
			if c.Clock == "d62" && days > over {
				splits = append(splits, fmt.Sprintf("d62 over %d", over))
			}
		}
		for _, split := range splits {
			s.add(caseOf{provider: s.trust(), split: split}.met(true))
		}
	}
}

func breachAhead(s *subject) {
	if s.Closed != nil {
		return
	}
	soon := s.today.AddDays(7)
	due, booked := false, false
	for _, c := range s.Clocks {
		if c.Status == referralv1.ClockStatus_CLOCK_STATUS_RUNNING && c.BreachAfter != "" {
			due = due || !day(c.BreachAfter).After(soon)
		}
	}
	for _, a := range s.Appointments {
		booked = booked || a.State == "booked" && a.Booking.GetStart().AsTime().After(s.now)
	}
	s.add(caseOf{provider: s.trust()}.met(due && !booked))
}

// siteTrust is the trust that a site belongs to: the first three characters of a
// five-character site code of an NHS trust (R or T); another code stands for itself.
func siteTrust(site string) string {
	if len(site) == 5 && strings.ContainsAny(site[:1], "RT") {
		return site[:3]
	}
	return site
}
