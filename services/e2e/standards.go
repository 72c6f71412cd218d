package e2e

import (
	"fmt"

	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// Standards says what the waiting-time rules find for a pathway, by the names
// of the clocks: "28 days, met" or "70 days, breached", "not counted" where the
// standard leaves it out. A clock that has not ended is absent. It reads the
// first treatment only.
func Standards(p *referralv1.Pathway) (map[string]string, error) {
	var bad error
	date := func(text string) (d nhs.Date) {
		if text != "" && bad == nil {
			d, bad = nhs.ParseDate(text)
		}
		return d
	}
	found := map[string]string{}
	put := func(name string, r waitingtimes.Result, err error) {
		if err != nil {
			bad = err
		}
		found[name] = verdict(r.Days, r.Counted, r.Breach)
	}
	first := &referralv1.Treatment{}
	if len(p.Treatments) > 0 {
		first = p.Treatments[0]
	}
	decided := date(first.GetDecision().GetOn())
	fds := waitingtimes.FasterDiagnosis{Received: date(p.GetStart().GetReceivedOn()), DecisionToTreat: decided, FirstSeenAdjustment: int(p.GetFirstSeenAdjustment().GetDays())}
	switch {
	case p.Diagnosis != nil:
		fds.End, fds.EndReason = date(p.Diagnosis.Told.On), "01"
	case p.RuledOut != nil:
		fds.End, fds.EndReason = date(p.RuledOut.Told.On), p.RuledOut.EndReason
	case p.Exclusion != nil:
		fds.End, fds.EndReason, fds.Exclusion = date(p.Exclusion.On), "03", p.Exclusion.Reason
	}
	if fds.EndReason != "" && bad == nil && p.Route != referralv1.Route_ROUTE_UPGRADE && p.Route != referralv1.Route_ROUTE_OTHER {
		r, err := fds.Result()
		put("fds28", r, err)
	}
	if first.Started == nil || bad != nil {
		return found, bad
	}
	started := date(first.Started.On)
	start31 := decided
	if ecad := date(first.GetEcad().GetOn()); !ecad.IsZero() && !waitingtimes.FirstTreatment(first.Started.EventType) {
		start31 = ecad
	}
	d31 := waitingtimes.Treatment{ClockStart: start31, Start: started, Adjustment: int(first.GetAdjustment().GetDays()),
		EventType: first.Started.EventType, Modality: first.Started.Modality}
	if !start31.IsZero() {
		r, err := d31.Result()
		put("d31", r, err)
	}
	d62 := waitingtimes.Referral{
		Route:    waitingtimes.RouteOf(p.Start.Priority, p.Start.ReferralType, p.Start.Source, p.Upgrade != nil),
		Received: fds.Received, Upgraded: date(p.GetUpgrade().GetOn()), FirstSeen: date(p.GetFirstSeen().GetOn()),
		Transferred: date(p.GetTransfer().GetOn()), TreatmentStart: started,
		FirstSeenAdjustment: fds.FirstSeenAdjustment, TreatmentAdjustment: d31.Adjustment, EventType: d31.EventType, Modality: d31.Modality,
	}
	if bad != nil {
		return found, bad
	}
	r, err := d62.Result()
	put("d62", r, err)
	if p.Transfer == nil || bad != nil || !r.Counted {
		return found, bad
	}
	to38, to24, err := d62.Phases()
	put("d38", to38, err)
	put("d24", to24, err)
	shares, err := d62.Allocate()
	if err != nil {
		return found, err
	}
	found["investigating"] = share(shares.Investigating)
	found["treating"] = share(shares.Treating)
	return found, bad
}

func verdict(days int, counted, breach bool) string {
	switch {
	case !counted:
		return "not counted"
	case breach:
		return fmt.Sprintf("%d days, breached", days)
	}
	return fmt.Sprintf("%d days, met", days)
}

// share is a trust's part: how much of the patient, and how much of it in time.
func share(s waitingtimes.Share) string {
	return fmt.Sprintf("%g of %g in time", s.Credit, s.Denominator)
}
