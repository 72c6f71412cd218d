package person

import (
	"slices"

	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// needs follows the steps of the Accessible Information Standard (DAPB1605):
// recorded and coded here, shared by whoever reads them, reviewed on a date.
type needs struct {
	Communication []*personv1.CommunicationNeedRecord
	Adjustments   []*personv1.AdjustmentRecord
	ReviewDue     string
	ReviewedOn    string
	Consent       string // RACONSENT, RADISSENT, RAREVOKED, "" never asked
}

func (n needs) evolve(event proto.Message) (needs, bool) {
	switch e := event.(type) {
	case *personv1.CommunicationNeedRecorded:
		n.Communication = slices.DeleteFunc(slices.Clone(n.Communication), func(r *personv1.CommunicationNeedRecord) bool { return r.NeedId == e.NeedId })
		n.Communication = append(n.Communication, &personv1.CommunicationNeedRecord{NeedId: e.NeedId, Need: e.Need})
	case *personv1.AdjustmentRecorded:
		n.Adjustments = slices.DeleteFunc(slices.Clone(n.Adjustments), func(r *personv1.AdjustmentRecord) bool { return r.NeedId == e.NeedId })
		n.Adjustments = append(n.Adjustments, &personv1.AdjustmentRecord{NeedId: e.NeedId, Adjustment: e.Adjustment})
	case *personv1.NeedsReviewDue:
		n.ReviewDue = e.Due
	case *personv1.NeedsReviewed:
		n.ReviewedOn, n.ReviewDue = e.ReviewedOn, e.NextReview
		n.Communication = slices.DeleteFunc(slices.Clone(n.Communication), func(r *personv1.CommunicationNeedRecord) bool { return slices.Contains(e.EndedNeedIds, r.NeedId) })
		n.Adjustments = slices.DeleteFunc(slices.Clone(n.Adjustments), func(r *personv1.AdjustmentRecord) bool { return slices.Contains(e.EndedNeedIds, r.NeedId) })
	case *personv1.NeedsConsentRecorded:
		n.Consent = e.Consent
	default:
		return n, false
	}
	return n, true
}

func (n needs) has(id string) bool {
	return slices.ContainsFunc(n.Communication, func(r *personv1.CommunicationNeedRecord) bool { return r.NeedId == id }) ||
		slices.ContainsFunc(n.Adjustments, func(r *personv1.AdjustmentRecord) bool { return r.NeedId == id })
}

func (n needs) view(p *personv1.Person) {
	p.Needs = &personv1.Needs{
		Communication: n.Communication, Adjustments: n.Adjustments,
		ReviewDue: n.ReviewDue, ReviewedOn: n.ReviewedOn, Consent: n.Consent,
	}
}

// consented returns the event for a stated consent, nil where it says nothing new.
func (n needs) consented(consent string) (proto.Message, error) {
	switch {
	case consent == "" || consent == n.Consent:
		return nil, nil
	case consent == "RAREVOKED" && n.Consent != "RACONSENT":
		return nil, fault.Refused("person.needs.consent.none", "no consent stands that could be revoked: record RADISSENT")
	}
	return &personv1.NeedsConsentRecorded{Consent: consent}, nil
}

// recordNeeds records needs by code. IDs hold an id for each communication need
// and then for each adjustment, used where the code is new.
type recordNeeds struct {
	Communication []*personv1.CommunicationNeed
	Adjustments   []*personv1.Adjustment
	IDs           []string
	ReviewDue     nhs.Date // zero: as it is
	Consent       string
	Today         nhs.Date
}

// Decide implements the rules of RecordNeeds. The first needs need a date of
// review, because the standard's last step is the one that gets lost.
func (c recordNeeds) Decide(s state) ([]proto.Message, error) {
	if len(c.Communication)+len(c.Adjustments) == 0 && c.ReviewDue.IsZero() && c.Consent == "" {
		return nil, fault.Invalid("person.needs.empty", "communication", "record at least a need, an adjustment, a review date or a consent")
	}
	if !c.ReviewDue.IsZero() && !c.ReviewDue.After(c.Today) {
		return nil, fault.Invalid("person.needs.review_due.past", "review_due", "must be after today")
	}
	if err := s.live(); err != nil {
		return nil, err
	}
	if len(c.Communication)+len(c.Adjustments) > 0 && c.ReviewDue.IsZero() && s.Needs.ReviewDue == "" {
		return nil, fault.Invalid("person.needs.review_due.missing", "review_due", "the first needs recorded need a date of review")
	}
	var events []proto.Message
	n, ids := s.Needs, c.IDs
	record := func(e proto.Message) {
		n, _ = n.evolve(e) // a code that stands twice in the request replaces itself
		events = append(events, e)
	}
	for _, need := range c.Communication {
		id := ids[0]
		ids = ids[1:]
		if i := slices.IndexFunc(n.Communication, func(r *personv1.CommunicationNeedRecord) bool {
			return r.Need.Code == need.Code && r.Need.Language == need.Language
		}); i >= 0 {
			if id = n.Communication[i].NeedId; proto.Equal(n.Communication[i].Need, need) {
				continue
			}
		}
		record(&personv1.CommunicationNeedRecorded{NeedId: id, Need: need})
	}
	for _, adjustment := range c.Adjustments {
		id := ids[0]
		ids = ids[1:]
		if i := slices.IndexFunc(n.Adjustments, func(r *personv1.AdjustmentRecord) bool {
			return r.Adjustment.Code == adjustment.Code
		}); i >= 0 {
			if id = n.Adjustments[i].NeedId; proto.Equal(n.Adjustments[i].Adjustment, adjustment) {
				continue
			}
		}
		record(&personv1.AdjustmentRecorded{NeedId: id, Adjustment: adjustment})
	}
	if !c.ReviewDue.IsZero() && c.ReviewDue.String() != n.ReviewDue {
		record(&personv1.NeedsReviewDue{Due: c.ReviewDue.String()})
	}
	consent, err := n.consented(c.Consent)
	if err != nil {
		return nil, err
	}
	if consent != nil {
		record(consent)
	}
	return events, nil
}

// reviewNeeds is a review with the patient.
type reviewNeeds struct {
	On, Next nhs.Date
	Ended    []string
	Consent  string
	Today    nhs.Date
}

// Decide implements the rules of ReviewNeeds.
func (c reviewNeeds) Decide(s state) ([]proto.Message, error) {
	if c.On.After(c.Today) {
		return nil, fault.Invalid("person.needs.reviewed_on.future", "reviewed_on", "must not be after today")
	}
	if !c.Next.After(c.On) {
		return nil, fault.Invalid("person.needs.next_review.early", "next_review", "must be after reviewed_on")
	}
	if err := s.live(); err != nil {
		return nil, err
	}
	if len(s.Needs.Communication)+len(s.Needs.Adjustments) == 0 {
		return nil, fault.Refused("person.needs.none", "no needs are recorded: record them first")
	}
	for _, id := range c.Ended {
		if !s.Needs.has(id) {
			return nil, fault.NotFound("person.needs.unknown", "ended_need_ids names a need that is not recorded")
		}
	}
	events := []proto.Message{&personv1.NeedsReviewed{ReviewedOn: c.On.String(), NextReview: c.Next.String(), EndedNeedIds: c.Ended}}
	consent, err := s.Needs.consented(c.Consent)
	if consent != nil {
		events = append(events, consent)
	}
	return events, err
}

// proxies are the people who may act for the patient, ended ones included.
type proxies []*personv1.ProxyRecord

func (p proxies) evolve(event proto.Message) (proxies, bool) {
	switch e := event.(type) {
	case *personv1.ProxyRecorded:
		p = append(slices.Clip(p), &personv1.ProxyRecord{ProxyId: e.ProxyId, Proxy: e.Proxy})
	case *personv1.ProxyEnded:
		p = slices.Clone(p)
		if i := p.index(e.ProxyId); i >= 0 {
			p[i] = &personv1.ProxyRecord{ProxyId: e.ProxyId, Proxy: p[i].Proxy, EndedOn: e.EndedOn}
		}
	default:
		return p, false
	}
	return p, true
}

func (p proxies) index(id string) int {
	return slices.IndexFunc(p, func(r *personv1.ProxyRecord) bool { return r.ProxyId == id })
}

func (p proxies) view(out *personv1.Person) { out.Proxies = p }

// recordProxy records who may act, and on what authority.
type recordProxy struct {
	ID    string
	Proxy *personv1.Proxy
}

// Decide implements the rules of RecordProxy.
func (c recordProxy) Decide(s state) ([]proto.Message, error) {
	if from, until := c.Proxy.GetFrom(), c.Proxy.GetUntil(); from != "" && until != "" && until < from {
		return nil, fault.Invalid("person.proxy.period", "proxy.until", "must not be before proxy.from")
	}
	if err := s.live(); err != nil {
		return nil, err
	}
	return []proto.Message{&personv1.ProxyRecorded{ProxyId: c.ID, Proxy: c.Proxy}}, nil
}

// endProxy ends an authority.
type endProxy struct {
	ID string
	On nhs.Date
}

// Decide implements the rules of EndProxy.
func (c endProxy) Decide(s state) ([]proto.Message, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	i := s.Proxies.index(c.ID)
	if i < 0 {
		return nil, fault.NotFound("person.proxy.unknown", "the person has no such proxy")
	}
	switch p := s.Proxies[i]; {
	case p.EndedOn != "":
		return nil, fault.Refused("person.proxy.ended", "the authority ended already")
	case c.On.String() < p.Proxy.GetFrom():
		return nil, fault.Invalid("person.proxy.period", "ended_on", "must not be before the first day of the authority")
	}
	return []proto.Message{&personv1.ProxyEnded{ProxyId: c.ID, EndedOn: c.On.String()}}, nil
}
