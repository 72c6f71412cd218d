package plan

import (
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

const (
	summaryDue   = pb.SummaryState_SUMMARY_STATE_DUE
	drafting     = pb.SummaryState_SUMMARY_STATE_DRAFTING
	ready        = pb.SummaryState_SUMMARY_STATE_READY
	approved     = pb.SummaryState_SUMMARY_STATE_APPROVED
	issued       = pb.SummaryState_SUMMARY_STATE_ISSUED
	acknowledged = pb.SummaryState_SUMMARY_STATE_ACKNOWLEDGED
	withdrawn    = pb.SummaryState_SUMMARY_STATE_WITHDRAWN

	sent      = pb.DeliveryState_DELIVERY_STATE_SENT
	delivered = pb.DeliveryState_DELIVERY_STATE_DELIVERED
	failed    = pb.DeliveryState_DELIVERY_STATE_FAILED
	received  = pb.DeliveryState_DELIVERY_STATE_ACKNOWLEDGED

	patient = pb.RecipientKind_RECIPIENT_KIND_PATIENT
	gp      = pb.RecipientKind_RECIPIENT_KIND_GP
	lead    = pb.RecipientKind_RECIPIENT_KIND_LEAD_OR_TEAM
)

// recipients of every summary.
var recipients = []pb.RecipientKind{patient, gp, lead}

// summary returns a summary where it stands in one of the states.
func (s State) summary(id string, in ...pb.SummaryState) (*pb.Summary, error) {
	x, ok := find(s.summaries, func(x *pb.Summary) bool { return x.SummaryId == id })
	if !ok {
		return nil, unknown("summary")
	}
	if !slices.Contains(in, x.State) {
		return nil, notAtStep("summary")
	}
	return x, nil
}

// missing names the mandatory sections that a summary lacks.
func missing(c *pb.SummaryContent) (names []string) {
	for _, x := range []struct{ name, value string }{
		{"diagnosed_on", c.GetDiagnosedOn()}, {"staging", c.GetStaging()}, {"treatment", c.GetTreatment()},
		{"toxicities_and_late_effects", c.GetToxicitiesAndLateEffects()}, {"red_flag_symptoms", c.GetRedFlagSymptoms()},
		{"re_access_contact", c.GetReAccessContact()}, {"other_referrals", c.GetOtherReferrals()},
		{"ongoing_management", c.GetOngoingManagement()}, {"stratified_pathway", c.GetStratifiedPathway()},
		{"gp_actions", c.GetGpActions()}, {"support", c.GetSupport()}, {"responsible", c.GetResponsible()},
		{"plain_language", c.GetPlainLanguage()}, {"language", c.GetLanguage()}, {"format", c.GetFormat()},
	} {
		if strings.TrimSpace(x.value) == "" {
			names = append(names, x.name)
		}
	}
	if len(c.GetPeriods()) == 0 || slices.ContainsFunc(c.Periods, func(p *pb.TreatmentPeriod) bool { return p.StartedOn == "" || p.EndedOn == "" }) {
		names = append(names, "periods")
	}
	if c.GetIntent() == pb.TreatmentIntent_TREATMENT_INTENT_UNSPECIFIED {
		names = append(names, "intent")
	}
	return names
}

// sound refuses content with dates that do not exist.
func sound(c *pb.SummaryContent) error {
	bad := func(d string) bool { return d != "" && date(d).IsZero() }
	if bad(c.GetDiagnosedOn()) {
		return fault.Invalid("plan.date.invalid", "content.diagnosed_on", "must be a date that exists, as YYYY-MM-DD")
	}
	for _, p := range c.GetPeriods() {
		if bad(p.StartedOn) || bad(p.EndedOn) {
			return fault.Invalid("plan.date.invalid", "content.periods", "dates must exist, as YYYY-MM-DD")
		}
	}
	return nil
}

// RecordSummaryDue asks for a summary at the end of a period of treatment.
type RecordSummaryDue struct {
	Env
	*pb.RecordSummaryDueRequest
}

// Decide refuses a second one for the same period.
func (c RecordSummaryDue) Decide(s State) ([]proto.Message, error) {
	if slices.ContainsFunc(s.summaries, func(x *pb.Summary) bool { return x.Period.GetPeriodId() == c.PeriodId && x.State != withdrawn }) {
		return nil, fault.Exists("plan.summary.exists", "this period of treatment has its summary: go on with that one")
	}
	if err := c.happened("ended_on", c.EndedOn); err != nil {
		return nil, err
	}
	if err := inOrder("ended_on", c.StartedOn, c.EndedOn); err != nil {
		return nil, err
	}
	target, _, err := waitingtimes.Due("eots_target", date(c.EndedOn))
	if err != nil {
		return nil, fault.Invalid("plan.date.no_rule", "ended_on", "no rule is in force on this day")
	}
	latest, _, err := waitingtimes.Due("eots_latest", date(c.EndedOn))
	if err != nil {
		return nil, fault.Invalid("plan.date.no_rule", "ended_on", "no rule is in force on this day")
	}
	return events(&pb.SummaryBecameDue{SummaryId: c.ID("summary"), Target: target.String(), Latest: latest.String(),
		Period: &pb.TreatmentPeriod{PeriodId: c.PeriodId, Modality: c.Modality, StartedOn: c.StartedOn, EndedOn: c.EndedOn, Last: c.Last}})
}

// DraftSummary writes the summary, or writes it again.
type DraftSummary struct {
	Env
	*pb.DraftSummaryRequest
}

// Decide takes a summary that was ready back to drafting.
func (c DraftSummary) Decide(s State) ([]proto.Message, error) {
	x, err := s.summary(c.SummaryId, summaryDue, drafting, ready)
	if err != nil {
		return nil, err
	}
	if err := sound(c.Content); err != nil {
		return nil, err
	}
	return events(&pb.SummaryDrafted{SummaryId: x.SummaryId, Content: c.Content, DraftedBy: c.User})
}

// MarkSummaryReady hands a draft to the approver.
type MarkSummaryReady struct {
	Env
	*pb.MarkSummaryReadyRequest
}

// Decide names every mandatory section that is missing.
func (c MarkSummaryReady) Decide(s State) ([]proto.Message, error) {
	x, err := s.summary(c.SummaryId, drafting)
	if err != nil {
		return nil, err
	}
	if names := missing(x.Content); len(names) > 0 {
		return nil, fault.Refused("plan.summary.incomplete", "write these sections first: "+strings.Join(names, ", "))
	}
	return events(&pb.SummaryReady{SummaryId: x.SummaryId})
}

// registration is a number of the GMC, the NMC or the HCPC.
var registration = regexp.MustCompile(`^([0-9]{7}|[0-9]{2}[A-L][0-9]{4}[A-Z]|[A-Z]{2}[0-9]{5,6})$`)

// none reports whether a text says that there are no late effects.
func none(text string) bool {
	switch strings.ToLower(strings.Trim(text, " .\n\t")) {
	case "none", "nil", "no", "none known", "none expected", "no late effects", "n/a", "not applicable":
		return true
	}
	return false
}

// ApproveSummary makes a draft the next version.
type ApproveSummary struct {
	Env
	*pb.ApproveSummaryRequest
}

// Decide wants a registered clinician who has read this version, and a second
// pair of eyes where no late effect is named.
func (c ApproveSummary) Decide(s State) ([]proto.Message, error) {
	x, err := s.summary(c.SummaryId, ready)
	if err != nil {
		return nil, err
	}
	switch {
	case c.SeenVersion != x.DraftVersion:
		return nil, fault.Refused("plan.stale", "there is another version than the one that was read: read it again")
	case c.Role == "" || !registration.MatchString(c.ApproverRegistration):
		return nil, fault.Refused("plan.summary.approver_unregistered", "only a clinician approves: act in a role, and give the GMC, NMC or HCPC number")
	case none(x.Content.GetToxicitiesAndLateEffects()) && !slices.ContainsFunc(x.DraftedBy, func(by string) bool { return by != c.User }):
		return nil, fault.Refused("plan.summary.second_clinician", "late effects are given as none: somebody else than the only drafter must approve")
	}
	return events(&pb.SummaryApproved{SummaryId: x.SummaryId, Version: x.DraftVersion, ApproverRegistration: c.ApproverRegistration, ApprovedBy: c.User})
}

// IssueSummary sends the approved version.
type IssueSummary struct {
	Env
	*pb.IssueSummaryRequest
}

// Decide refuses the patient's copy while a result was not told, and a copy that
// is on its way or arrived. What failed may be sent again.
func (c IssueSummary) Decide(s State) ([]proto.Message, error) {
	x, err := s.summary(c.SummaryId, approved, issued, acknowledged)
	if err != nil {
		return nil, err
	}
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	seen := map[pb.RecipientKind]bool{}
	for _, r := range c.Recipients {
		if !slices.Contains(recipients, r) || seen[r] {
			return nil, fault.Invalid("plan.summary.recipient", "recipients", "name each of patient, GP, lead or team at most once")
		}
		seen[r] = true
		if d := deliveryOf(x, r, x.Version); d != nil && d.State != failed {
			return nil, fault.Refused("plan.summary.already_issued", "a recipient has this version already")
		}
	}
	if seen[patient] && slices.ContainsFunc(s.results, untold) {
		return nil, fault.Refused("plan.summary.result_untold", "a result was not told to the patient yet: tell it first, or issue to the others")
	}
	return events(&pb.SummaryIssued{SummaryId: x.SummaryId, Version: x.Version, Recipients: c.Recipients, On: c.On})
}

func deliveryOf(x *pb.Summary, r pb.RecipientKind, version int64) *pb.Delivery {
	d, _ := find(x.Deliveries, func(d *pb.Delivery) bool { return d.Recipient == r && d.Version == version })
	return d
}

// RecordDelivery ends a delivery.
type RecordDelivery struct {
	Env
	*pb.RecordDeliveryRequest
}

// Decide gives a failure to a person within one working day. A copy that arrives
// after it was given up has arrived.
func (c RecordDelivery) Decide(s State) ([]proto.Message, error) {
	d, err := s.delivery(c.SummaryId, c.Recipient, c.Version, sent, failed)
	if err != nil {
		return nil, err
	}
	if c.Delivered {
		return events(&pb.SummaryDelivered{SummaryId: c.SummaryId, Version: d.Version, Recipient: d.Recipient})
	}
	if err := needed("plan.summary.failure_reason", "failure_reason", c.FailureReason); err != nil {
		return nil, err
	}
	if d.State == failed {
		return nil, notAtStep("delivery")
	}
	return events(deliveryFailed(c.SummaryId, d, c.FailureReason, c.Today()))
}

func deliveryFailed(id string, d *pb.Delivery, reason string, today nhs.Date) *pb.SummaryDeliveryFailed {
	return &pb.SummaryDeliveryFailed{SummaryId: id, Version: d.Version, Recipient: d.Recipient, Reason: reason,
		ActBy: waitingtimes.AddWorkingDays(today, 1).String()}
}

func (s State) delivery(id string, r pb.RecipientKind, version int64, in ...pb.DeliveryState) (*pb.Delivery, error) {
	x, err := s.summary(id, drafting, ready, approved, issued, acknowledged, withdrawn)
	if err != nil {
		return nil, err
	}
	d := deliveryOf(x, r, version)
	if d == nil {
		return nil, unknown("delivery")
	}
	if !slices.Contains(in, d.State) {
		return nil, notAtStep("delivery")
	}
	return d, nil
}

// AcknowledgeSummary records that the practice or the lead has read it.
type AcknowledgeSummary struct {
	Env
	*pb.AcknowledgeSummaryRequest
}

// Decide refuses it for patients, who acknowledge nothing.
func (c AcknowledgeSummary) Decide(s State) ([]proto.Message, error) {
	if c.Recipient == patient {
		return nil, fault.Invalid("plan.summary.recipient", "recipient", "the practice and the lead acknowledge, patients need not")
	}
	d, err := s.delivery(c.SummaryId, c.Recipient, c.Version, sent, delivered)
	if err != nil {
		return nil, err
	}
	return events(&pb.SummaryAcknowledged{SummaryId: c.SummaryId, Version: d.Version, Recipient: d.Recipient})
}

// AmendSummary makes the next version of an issued summary.
type AmendSummary struct {
	Env
	*pb.AmendSummaryRequest
}

// Decide names every earlier recipient, who must get the new version.
func (c AmendSummary) Decide(s State) ([]proto.Message, error) {
	x, err := s.summary(c.SummaryId, issued, acknowledged)
	if err != nil {
		return nil, err
	}
	if err := sound(c.Content); err != nil {
		return nil, err
	}
	return events(&pb.SummaryAmended{SummaryId: x.SummaryId, Version: x.Version + 1, Content: c.Content, Reason: c.Reason, ToTell: had(x), DraftedBy: c.User})
}

// had returns who was sent any version.
func had(x *pb.Summary) (all []pb.RecipientKind) {
	for _, r := range recipients {
		if slices.ContainsFunc(x.Deliveries, func(d *pb.Delivery) bool { return d.Recipient == r }) {
			all = append(all, r)
		}
	}
	return all
}

// WithdrawSummary takes a summary back.
type WithdrawSummary struct {
	Env
	*pb.WithdrawSummaryRequest
}

// Decide allows it once.
func (c WithdrawSummary) Decide(s State) ([]proto.Message, error) {
	x, err := s.summary(c.SummaryId, summaryDue, drafting, ready, approved, issued, acknowledged)
	if err != nil {
		return nil, err
	}
	return events(&pb.SummaryWithdrawn{SummaryId: x.SummaryId, Reason: c.Reason})
}

func evolveSummary(s State, e proto.Message) (State, bool) {
	edit := func(id string, change func(x *pb.Summary)) (State, bool) {
		s.summaries = with(s.summaries, func(x *pb.Summary) bool { return x.SummaryId == id }, change)
		return s, true
	}
	deliver := func(id string, version int64, r pb.RecipientKind, state pb.DeliveryState, actBy string) (State, bool) {
		return edit(id, func(x *pb.Summary) {
			x.Deliveries = slices.DeleteFunc(x.Deliveries, func(d *pb.Delivery) bool { return d.Recipient == r && d.Version == version })
			x.Deliveries = append(x.Deliveries, &pb.Delivery{Recipient: r, Version: version, State: state, ActBy: actBy})
		})
	}
	switch e := e.(type) {
	case *pb.SummaryBecameDue:
		s.summaries = add(s.summaries, &pb.Summary{SummaryId: e.SummaryId, State: summaryDue, Period: e.Period, Target: e.Target, Latest: e.Latest})
		return s, true
	case *pb.SummaryDrafted:
		return edit(e.SummaryId, func(x *pb.Summary) {
			x.State, x.Content, x.DraftVersion = drafting, e.Content, x.Version+1
			if !slices.Contains(x.DraftedBy, e.DraftedBy) {
				x.DraftedBy = append(x.DraftedBy, e.DraftedBy)
			}
		})
	case *pb.SummaryReady:
		return edit(e.SummaryId, func(x *pb.Summary) { x.State = ready })
	case *pb.SummaryApproved:
		return edit(e.SummaryId, func(x *pb.Summary) { x.State, x.Version, x.ApprovedBy = approved, e.Version, e.ApprovedBy })
	case *pb.SummaryIssued:
		for _, r := range e.Recipients {
			s, _ = deliver(e.SummaryId, e.Version, r, sent, "")
		}
		return edit(e.SummaryId, func(x *pb.Summary) {
			if x.State == approved {
				x.State = issued
			}
			x.IssuedOn, x.Overdue = e.On, false
			x.ToTell = slices.DeleteFunc(x.ToTell, func(r pb.RecipientKind) bool { return slices.Contains(e.Recipients, r) })
		})
	case *pb.SummaryDelivered:
		return deliver(e.SummaryId, e.Version, e.Recipient, delivered, "")
	case *pb.SummaryDeliveryFailed:
		return deliver(e.SummaryId, e.Version, e.Recipient, failed, e.ActBy)
	case *pb.SummaryAcknowledged:
		s, _ = deliver(e.SummaryId, e.Version, e.Recipient, received, "")
		return edit(e.SummaryId, func(x *pb.Summary) {
			if x.State == issued && x.Version == e.Version {
				x.State = acknowledged
			}
		})
	case *pb.SummaryAmended:
		return edit(e.SummaryId, func(x *pb.Summary) {
			x.State, x.Content, x.DraftVersion, x.ToTell, x.DraftedBy = drafting, e.Content, e.Version, e.ToTell, []string{e.DraftedBy}
		})
	case *pb.SummaryWithdrawn:
		return edit(e.SummaryId, func(x *pb.Summary) { x.State, x.Overdue = withdrawn, false })
	case *pb.SummaryOverdue:
		return edit(e.SummaryId, func(x *pb.Summary) { x.Overdue = true })
	}
	return s, false
}
