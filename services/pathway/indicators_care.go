package pathway

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// over reports whether a day has passed.
func (s *subject) over(d nhs.Date) bool { return d.Before(s.today) }

// by reports whether something happened, on that day or before.
func by(on string, last nhs.Date) bool { return on != "" && !day(on).After(last) }

// dateOf is the civil date of an instant; "" for none.
func dateOf(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return nhs.DateOf(t.AsTime()).String()
}

// diedOn is the day on which the pathway was closed by death; no date otherwise.
func (s *subject) diedOn() nhs.Date {
	if s.Closed.GetReason() == referralv1.CloseReason_CLOSE_REASON_DIED {
		return day(s.Closed.On)
	}
	return nhs.Date{}
}

func (s *subject) diedBy(d nhs.Date) bool {
	died := s.diedOn()
	return !died.IsZero() && !died.After(d)
}

// diagnosed calls do for a case of the cohort of national reporting on
// assessments: a diagnosis of C00 to C97 that the patient was told.
func (s *subject) diagnosed(do func(caseOf, nhs.Date)) {
	told := s.Diagnosis.GetTold()
	if told == nil {
		return
	}
	code := cmp.Or(s.Diagnosis.GetIcd10(), s.Plan.GetDiagnosis().GetIcd10())
	if code != "" && !within(code, "C00", "C97") {
		return
	}
	one := caseOf{on: told.On, provider: told.Organisation}
	if within(code, "C44", "C44") || strings.HasPrefix(s.Plan.GetDiagnosis().GetStage(), "0") {
		s.add(one.out())
		return
	}
	one.once = told.On[:min(4, len(told.On))] + " " + cmp.Or(s.Person.GetMergedInto(), s.PersonId)
	do(one, day(told.On))
}

// offered reports whether an assessment was offered from one day to another.
func (s *subject) offered(from, to nhs.Date) bool {
	for _, a := range s.Assessments {
		if a.State != "not_offered" && by(a.OfferedOn, to) && !day(a.OfferedOn).Before(from) {
			return true
		}
	}
	return false
}

func assessmentIn31(s *subject) {
	s.diagnosed(func(one caseOf, told nhs.Date) {
		due, _, err := waitingtimes.Due("hna_dx", told)
		if err != nil || !s.over(due) {
			one.once = ""
			s.add(one.out())
			return
		}
		s.add(one.met(s.offered(told, due)))
	})
}

func assessmentEver(s *subject) {
	s.diagnosed(func(one caseOf, told nhs.Date) { s.add(one.met(s.offered(told, told.AddDays(730)))) })
}

func assessmentCompleted(s *subject) {
	for _, a := range s.Assessments {
		if a.OfferedOn != "" && a.State != "not_offered" {
			s.add(caseOf{on: a.OfferedOn, provider: s.trust()}.met(a.SubmittedOn != ""))
		}
	}
}

func planOffered(s *subject) {
	submitted, offered, notRequired := "", false, false
	for _, a := range s.Assessments {
		if a.SubmittedOn == "" {
			continue
		}
		if a.Concerns > 0 && (submitted == "" || a.SubmittedOn < submitted) {
			submitted = a.SubmittedOn
		}
		switch a.PlanOfferedStatus {
		case "01", "02", "03", "05":
			offered = true
		case "06":
			notRequired = true
		}
	}
	if submitted == "" {
		return
	}
	for split, met := range map[string]bool{"offered": offered, "agreed": s.Plan.GetAgreedOn() != ""} {
		one := caseOf{on: submitted, provider: s.trust(), split: split}
		if notRequired && !offered {
			s.add(one.out())
		} else {
			s.add(one.met(met))
		}
	}
}

func highConcerns(s *subject) {
	for _, c := range s.Plan.GetConcerns() {
		if !c.HighScore && !c.HighEmotionalScore || c.RaisedOn == "" {
			continue
		}
		due, _, err := waitingtimes.Due("high_concern", day(c.RaisedOn))
		if c.EscalatedDue != nil { // as it went onto the worklist
			due, err = nhs.DateOf(c.EscalatedDue.AsTime()), nil
		}
		one := caseOf{on: due.String(), provider: s.trust(), split: "other"}
		if c.HighEmotionalScore {
			one.split = "emotional"
		}
		if err != nil || !s.over(due) {
			s.add(one.out())
			continue
		}
		s.add(one.met(by(c.DiscussedOn, due) || by(c.ResolvedOn, due)))
	}
}

// concernsClosed counts concerns by whether they came to an end in 90 days:
// resolved, or decided to need nothing or to be left at the patient's wish.
func concernsClosed(s *subject) {
	for _, c := range s.Plan.GetConcerns() {
		if c.RaisedOn == "" {
			continue
		}
		one := caseOf{on: c.RaisedOn, provider: s.trust()}
		due, _, err := waitingtimes.Due("concern_closed", day(c.RaisedOn))
		if err != nil || !s.over(due) {
			s.add(one.out())
			continue
		}
		closed := c.Decision == planv1.ConcernDecision_CONCERN_DECISION_PATIENT_DECLINED || c.Decision == planv1.ConcernDecision_CONCERN_DECISION_NO_ACTION_NEEDED
		s.add(one.met(by(c.ResolvedOn, due) || closed && by(c.DecidedOn, due)))
	}
}

// concernsRaised counts concerns by their code.
func concernsRaised(s *subject) {
	if s.Plan.GetState() == "in_error" {
		return
	}
	for _, c := range s.codes {
		s.add(caseOf{on: c.RaisedOn, provider: s.trust(), split: c.Code}.met(true))
	}
}

func summaryIssued(s *subject) {
	for _, t := range s.Treatments {
		if t.Ended == nil {
			continue
		}
		ended, issued := day(t.Ended.On), ""
		for _, sum := range s.Summaries {
			if sum.State != "withdrawn" && sum.Period.GetEndedOn() == t.Ended.On {
				issued = cmp.Or(sum.FirstIssuedOn, issued)
			}
		}
		for split, clock := range map[string]string{"28 days": "eots_target", "42 days": "eots_latest"} {
			one := caseOf{on: t.Ended.On, provider: t.Ended.Organisation, split: split}
			due, _, err := waitingtimes.Due(clock, ended)
			if err != nil || s.diedBy(ended.AddDays(42)) || !s.over(ended.AddDays(42)) {
				s.add(one.out())
				continue
			}
			s.add(one.met(by(issued, due)))
		}
	}
}

func summaryDelivered(s *subject) {
	for _, sum := range s.Summaries {
		if sum.FirstIssuedOn == "" {
			continue
		}
		for split, kind := range map[string]planv1.RecipientKind{"patient": planv1.RecipientKind_RECIPIENT_KIND_PATIENT, "gp": planv1.RecipientKind_RECIPIENT_KIND_GP} {
			one, arrived := caseOf{on: sum.FirstIssuedOn, provider: s.trust(), split: split}, false
			for _, d := range sum.Deliveries {
				arrived = arrived || d.Recipient == kind && (d.State == "delivered" || d.State == "acknowledged")
			}
			if sum.State == "withdrawn" {
				s.add(one.out())
			} else {
				s.add(one.met(arrived))
			}
		}
	}
}

// holderAt is who was accountable at an instant; nil for nobody.
func (s *subject) holderAt(t time.Time) *careleadv1.Party {
	for _, c := range s.Custody {
		if !c.Since.AsTime().After(t) && (c.Until == nil || c.Until.AsTime().After(t)) {
			return c.Holder
		}
	}
	return nil
}

func leadInPlace(s *subject) {
	for _, t := range s.Treatments {
		if !t.Ended.GetLastPeriod() {
			continue
		}
		last := day(t.Ended.On).AddDays(30)
		one := caseOf{on: t.Ended.On, provider: t.Ended.Organisation}
		if s.diedBy(last) || s.AskAgainOn != "" || !s.over(last) {
			s.add(one.out())
			continue
		}
		end := last.AddDays(1).Start().Add(-time.Nanosecond)
		s.add(one.met(s.holderAt(end).GetKind() == careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE))
	}
}

// offers calls do for every handover that was offered and has ended.
func (s *subject) offers(do func(*pb.Handover, caseOf)) {
	for _, h := range s.PastHandovers {
		if h.OfferedAt != nil {
			do(h, caseOf{on: dateOf(h.OfferedAt), provider: h.From.GetOrganisation()})
		}
	}
}

// lapsed reports whether an offer lost its object before anybody answered.
func lapsed(h *pb.Handover) bool {
	return h.State == pb.HandoverState_HANDOVER_STATE_WITHDRAWN || h.State == pb.HandoverState_HANDOVER_STATE_VOIDED
}

func offersAccepted(s *subject) {
	s.offers(func(h *pb.Handover, one caseOf) {
		if lapsed(h) {
			s.add(one.out())
			return
		}
		s.add(one.met(h.State == pb.HandoverState_HANDOVER_STATE_ACCEPTED))
	})
}

func hoursToAnswer(s *subject) {
	s.offers(func(h *pb.Handover, one caseOf) {
		if h.State != pb.HandoverState_HANDOVER_STATE_ACCEPTED && h.State != pb.HandoverState_HANDOVER_STATE_DECLINED {
			s.add(one.out())
			return
		}
		one.value = h.EndedAt.AsTime().Sub(h.OfferedAt.AsTime()).Hours()
		s.add(one)
	})
}

// declines counts declined offers by reason, and for each ledger with one how
// many offers followed: value by denominator are new offers for each ledger.
func declines(s *subject) {
	first, again := caseOf{split: "offered_again"}, 0.0
	follows := func(h *pb.Handover) {
		if first.on != "" && h.GetOfferedAt() != nil {
			again++
		}
	}
	s.offers(func(h *pb.Handover, one caseOf) {
		follows(h)
		if h.State == pb.HandoverState_HANDOVER_STATE_DECLINED {
			if first.on == "" {
				first.on, first.provider = one.on, one.provider
			}
			one.split = strings.ToLower(strings.TrimPrefix(h.DeclineReason.String(), "DECLINE_REASON_"))
			s.add(one.met(true))
		}
	})
	follows(s.OpenHandover)
	if first.on != "" {
		first.numerator, first.denominator = again, 1
		s.add(first)
	}
}

func offersExpired(s *subject) {
	count := func(h *pb.Handover, one caseOf) {
		one.split = fmt.Sprintf("level %d", h.EscalationLevel)
		if lapsed(h) || h == s.OpenHandover {
			s.add(one.out())
			return
		}
		s.add(one.met(h.State == pb.HandoverState_HANDOVER_STATE_EXPIRED))
	}
	s.offers(count)
	if h := s.OpenHandover; h.GetOfferedAt() != nil {
		count(h, caseOf{on: dateOf(h.OfferedAt), provider: h.From.GetOrganisation()})
	}
}

func firstContact(s *subject) {
	for _, c := range append(slices.Clip(s.PastFirstContacts), s.FirstContact) {
		if c.GetDue() == nil || c.GetAcceptedAt() == nil {
			continue
		}
		one, due := caseOf{on: dateOf(c.AcceptedAt), provider: s.Holder.GetOrganisation()}, nhs.DateOf(c.Due.AsTime())
		passedOn := false
		if held := s.acceptedAt(c.AcceptedAt.AsTime()); held != nil {
			one.provider = held.Holder.GetOrganisation()
			passedOn = c != s.FirstContact && held.Until != nil && held.Until.AsTime().Before(due.AddDays(1).Start())
		}
		if !s.over(due) || c.MadeOn == "" && (passedOn || s.Closed != nil && by(s.Closed.On, due)) {
			s.add(one.out())
			continue
		}
		s.add(one.met(by(c.MadeOn, due)))
	}
}

// acceptedAt is the spell of accountability that began with an acceptance: it is
// recorded with it, at that instant or just after.
func (s *subject) acceptedAt(t time.Time) *pb.Custody {
	for _, c := range s.Custody {
		if c.Cause == careleadv1.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED && !c.Since.AsTime().Before(t) {
			return c
		}
	}
	return nil
}

func heldByPool(s *subject) {
	if s.LedgerOpened && s.Holder != nil {
		s.add(caseOf{provider: s.Holder.Organisation}.met(s.Holder.Kind == careleadv1.PartyKind_PARTY_KIND_FALLBACK_POOL))
	}
}

func daysInPool(s *subject) {
	if n := len(s.Custody); n > 0 && s.Holder.GetKind() == careleadv1.PartyKind_PARTY_KIND_FALLBACK_POOL {
		s.add(caseOf{provider: s.Holder.Organisation, value: s.now.Sub(s.Custody[n-1].Since.AsTime()).Hours() / 24})
	}
}

// ledgerViolations counts pathways on which at some instant not exactly one party
// was accountable. The audit of the whole log proves it; this is for a dashboard.
func ledgerViolations(s *subject) {
	s.add(caseOf{provider: s.trust()}.met(!wholeCustody(s.Pathway)))
}

func wholeCustody(v *pb.Pathway) bool {
	ended := v.LedgerClosed != careleadv1.CloseReason_CLOSE_REASON_UNSPECIFIED
	if len(v.Custody) == 0 || !ended && v.Holder == nil {
		return false
	}
	for i, c := range v.Custody {
		last := i == len(v.Custody)-1
		switch {
		case c.Holder == nil || c.Since == nil:
			return false
		case last && (c.Until != nil) != ended:
			return false
		case !last && (c.Until == nil || c.UntilPosition > v.Custody[i+1].Position):
			return false
		}
	}
	return true
}

// ofLeads are the counts of indicators over leads, beside those over pathways.
var ofLeads = map[string]func(*pb.Lead, func(caseOf)){"M26": caseload}

func caseload(l *pb.Lead, add func(caseOf)) {
	if !l.Active {
		return
	}
	places := float64(len(l.Places))
	add(caseOf{provider: l.Organisation, split: "caseload", numerator: places, denominator: float64(l.Capacity)})
	add(caseOf{provider: l.Organisation, split: "over capacity"}.met(places > float64(l.Capacity)))
	add(caseOf{provider: l.Organisation, split: "on leave"}.met(len(l.OnLeave) > 0))
}

// withoutCover counts the pathways of leads: held by them or who covers for them,
// or by a pool because a lead is away and nobody covers.
func withoutCover(s *subject) {
	if s.Holder == nil || len(s.Custody) == 0 {
		return
	}
	missing := s.Custody[len(s.Custody)-1].Cause == careleadv1.TransferCause_TRANSFER_CAUSE_COVER_MISSING
	if missing || s.Holder.Kind == careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE {
		s.add(caseOf{provider: s.Holder.Organisation, split: "leave without cover"}.met(missing))
	}
}

func surveillanceDone(s *subject) {
	for _, item := range s.Surveillance.GetItems() {
		one := caseOf{on: item.Due, provider: s.trust()}
		last := day(item.Due).AddDays(int(item.GraceDays))
		switch {
		case item.State == "skipped":
			s.add(one.out())
		case !s.over(last):
			if !day(item.Due).After(s.today) {
				s.add(one.out())
			}
		default:
			s.add(one.met(by(item.PerformedOn, last)))
		}
	}
}

func surveillanceOverdue(s *subject) {
	for _, item := range s.Surveillance.GetItems() {
		due := day(item.Due)
		if due.After(s.today) || item.State == "skipped" || s.Surveillance.State != "started" {
			continue
		}
		late := due.AddDays(int(item.GraceDays)).DaysUntil(s.today)
		s.add(caseOf{provider: s.trust(), split: "overdue"}.met(item.PerformedOn == "" && late > 0))
		s.add(caseOf{provider: s.trust(), split: "over 30 days"}.met(item.PerformedOn == "" && late > 30))
	}
}

func resultToPatient(s *subject) {
	for _, r := range s.Results {
		if r.ToldOn != "" && r.ReceivedOn != "" {
			s.add(caseOf{on: r.ToldOn, provider: s.trust(), value: float64(day(r.ReceivedOn).DaysUntil(day(r.ToldOn)))})
		}
	}
}

func lostFollowUp(s *subject) {
	// lost counts what was attended on a day and whether the follow-up that it
	// raised a task for was booked in time.
	lost := func(one caseOf, cause, id string) {
		last := day(one.on).AddDays(14)
		if !s.over(last) {
			s.add(one.out())
			return
		}
		missing, ended := false, false
		for _, task := range s.ToBeBooked {
			if task.Cause != cause || task.CauseId != id {
				continue
			}
			ended = task.State == "ended"
			missing = task.State == "open" || task.State == "booked" && !by(s.bookedOn(task.AppointmentId), last)
		}
		if ended {
			s.add(one.out())
			return
		}
		s.add(one.met(missing))
	}
	for _, a := range s.Appointments {
		if a.State == "fulfilled" {
			lost(caseOf{on: a.EndedOn, provider: cmp.Or(siteTrust(a.Booking.GetSite()), s.trust()), split: "attended"}, "outcome_without_next", a.AppointmentId)
		}
	}
	for _, v := range s.Visits {
		if v.State == "discharged" && v.DischargedAt != nil {
			lost(caseOf{on: dateOf(v.DischargedAt), provider: cmp.Or(siteTrust(v.Organisation), s.trust()), split: "discharged"}, "discharge_follow_up", v.VisitId)
		}
	}
}

// bookedOn is the day on which an appointment was booked; "" where it was not.
func (s *subject) bookedOn(id string) string {
	for _, a := range s.Appointments {
		if a.AppointmentId == id {
			return dateOf(a.BookedAt)
		}
	}
	return ""
}

func didNotAttend(s *subject) {
	for _, a := range s.Appointments {
		one := caseOf{on: a.EndedOn, provider: cmp.Or(siteTrust(a.Booking.GetSite()), s.trust())}
		switch a.State {
		case "fulfilled", "did_not_attend":
			s.add(one.met(a.State == "did_not_attend"))
		case "cancelled":
			one.on = cmp.Or(a.EndedOn, dateOf(a.Booking.GetStart()))
			if one.on != "" {
				s.add(one.out())
			}
		}
	}
}

// contactAfterMissed counts missed appointments by whether the task to contact the
// patient came to an end by its day: by a new appointment, or by a decision.
func contactAfterMissed(s *subject) {
	for _, a := range s.Appointments {
		if a.State != "did_not_attend" {
			continue
		}
		one := caseOf{on: a.EndedOn, provider: cmp.Or(siteTrust(a.Booking.GetSite()), s.trust())}
		i := slices.IndexFunc(s.ToBeBooked, func(t *pb.ToBeBooked) bool { return t.Cause == "did_not_attend" && t.CauseId == a.AppointmentId })
		if i < 0 || s.ToBeBooked[i].EndReasonCode == "died" || !s.over(day(s.ToBeBooked[i].Due)) {
			s.add(one.out())
			continue
		}
		s.add(one.met(by(s.ToBeBooked[i].ClosedOn, day(s.ToBeBooked[i].Due))))
	}
}

// answered is when a referral was first answered; nil for not yet.
func answered(r *pb.Referral) *timestamppb.Timestamp {
	var first *timestamppb.Timestamp
	for _, t := range []*timestamppb.Timestamp{r.ReceivedAt, r.AcceptedAt, r.EndedAt} {
		if t != nil && (first == nil || t.AsTime().Before(first.AsTime())) {
			first = t
		}
	}
	return first
}

func unanswered(s *subject) {
	for _, r := range s.Referrals {
		if r.SentAt == nil {
			continue
		}
		one := caseOf{on: dateOf(r.SentAt), provider: r.TargetOrganisation}
		due := waitingtimes.AddWorkingDays(nhs.DateOf(r.SentAt.AsTime()), 1)
		if !s.over(due) {
			s.add(one.out())
			continue
		}
		s.add(one.met(!by(dateOf(answered(r)), due)))
	}
}

func hoursToResponse(s *subject) {
	for _, r := range s.Referrals {
		if r.SentAt == nil {
			continue
		}
		one := caseOf{on: dateOf(r.SentAt), provider: r.TargetOrganisation}
		if t := answered(r); t == nil {
			one = one.out()
		} else {
			one.value = t.AsTime().Sub(r.SentAt.AsTime()).Hours()
		}
		s.add(one)
	}
}

func signposted(s *subject) {
	told := s.Diagnosis.GetTold()
	if told == nil {
		return
	}
	met := map[string]bool{"offered": false, "accepted": false, "referred": false}
	for _, o := range s.ServicesOffers {
		met["offered"] = met["offered"] || o.Services > 0
		met["accepted"] = met["accepted"] || o.State == "accepted"
	}
	for _, r := range s.Referrals {
		met["referred"] = met["referred"] || r.Kind == referralv1.ReferralKind_REFERRAL_KIND_CHARITY && r.SentAt != nil
	}
	for split, met := range met {
		s.add(caseOf{on: told.On, provider: told.Organisation, split: split}.met(met))
	}
}

func prehabilitated(s *subject) {
	if len(s.Treatments) == 0 || s.Treatments[0].Decision == nil {
		return
	}
	t := s.Treatments[0]
	before := func(at *timestamppb.Timestamp) bool {
		return at != nil && (t.Started == nil || dateOf(at) < t.Started.On)
	}
	met := map[string]bool{"referred": false, "screened": false, "universal": false, "targeted": false, "specialist": false}
	for _, r := range s.Referrals {
		if r.Kind != referralv1.ReferralKind_REFERRAL_KIND_PREHABILITATION {
			continue
		}
		met["referred"] = met["referred"] || before(r.SentAt)
		if before(r.ScreenedAt) {
			met["screened"] = true
			met[strings.ToLower(strings.TrimPrefix(r.ScreeningLevel.String(), "SCREENING_LEVEL_"))] = true
		}
	}
	for split, met := range met {
		s.add(caseOf{on: t.Decision.On, provider: t.Decision.Organisation, split: split}.met(met))
	}
}
