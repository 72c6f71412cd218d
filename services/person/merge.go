package person

import (
	"slices"

	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/fault"
)

// A merge is recorded in two streams. The merged person's comes first: its
// PersonMergedInto is the claim, so that no two merges take one person, and a
// person who is claimed can survive nobody. The survivor's answer is
// PersonsMerged, or MergeReversed when it can no longer take them; either is
// recorded, so a repeat finds the same answer, and a reversal goes back to the
// merged person's stream. A reader follows a merge only when the survivor has
// taken it.
//
// No circle can come about, however merges race: in a circle, take the edge that
// was answered last. Its survivor was unclaimed when it answered, so its own
// edge was claimed, and answered, later still.

// merges is what one stream knows of its merges, oldest first.
type merges struct {
	All  []merge
	Into string // id of the merge that took this person, "" when none stands
}

type merge struct {
	ID, Surviving, Merged string
	State                 personv1.MergeState
	Reasons               []personv1.HoldReason
	Reversal              personv1.ReversalReason
	RequestedBy           []string // who asked and for whom, of a held merge
	Approved              bool
}

func (m merges) evolve(event proto.Message) (merges, bool) {
	switch e := event.(type) {
	case *personv1.MergeHeldForReview:
		m = m.put(merge{
			ID: e.MergeId, Surviving: e.SurvivingPersonId, Merged: e.MergedPersonId,
			State: personv1.MergeState_MERGE_STATE_HELD, Reasons: e.Reasons, RequestedBy: e.RequestedBy,
		})
	case *personv1.MergeApproved:
		one := m.get(e.MergeId)
		one.ID, one.Approved = e.MergeId, true
		m = m.put(one)
	case *personv1.MergeRejected:
		one := m.get(e.MergeId)
		one.ID, one.State = e.MergeId, personv1.MergeState_MERGE_STATE_REJECTED
		m = m.put(one)
	case *personv1.PersonMergedInto:
		one := m.get(e.MergeId)
		one.ID, one.Surviving, one.Merged = e.MergeId, e.SurvivingPersonId, e.MergedPersonId
		one.State, one.Approved = personv1.MergeState_MERGE_STATE_MERGED, e.Approved
		m = m.put(one)
		m.Into = e.MergeId
	case *personv1.PersonsMerged:
		m = m.put(merge{
			ID: e.MergeId, Surviving: e.SurvivingPersonId, Merged: e.MergedPersonId,
			State: personv1.MergeState_MERGE_STATE_MERGED,
		})
	case *personv1.MergeReversed:
		one := m.get(e.MergeId)
		one.ID, one.Surviving, one.Merged = e.MergeId, e.SurvivingPersonId, e.MergedPersonId
		one.State, one.Reversal = personv1.MergeState_MERGE_STATE_REVERSED, e.Reason
		m = m.put(one)
		if m.Into == e.MergeId {
			m.Into = ""
		}
	default:
		return m, false
	}
	return m, true
}

// get returns the merge, the zero merge where it is not known.
func (m merges) get(id string) merge {
	for _, one := range m.All {
		if one.ID == id {
			return one
		}
	}
	return merge{}
}

func (m merges) put(one merge) merges {
	i := slices.IndexFunc(m.All, func(o merge) bool { return o.ID == one.ID })
	if i < 0 {
		m.All = append(slices.Clip(m.All), one)
		return m
	}
	m.All = slices.Clone(m.All)
	m.All[i] = one
	return m
}

func (m merge) view() *personv1.Merge {
	return &personv1.Merge{
		MergeId: m.ID, SurvivingPersonId: m.Surviving, MergedPersonId: m.Merged,
		State: m.State, Reasons: m.Reasons, Reversal: m.Reversal,
	}
}

func (m merges) view(p *personv1.Person) {
	for _, one := range m.All {
		p.Merges = append(p.Merges, one.view())
	}
}

// disagreements are the reasons in the two records not to believe that they are
// one person. Two current numbers always conflict: one number has one person.
func disagreements(a, b state) []personv1.HoldReason {
	var reasons []personv1.HoldReason
	if a.Numbers.current() != nil && b.Numbers.current() != nil {
		reasons = append(reasons, personv1.HoldReason_HOLD_REASON_NHS_NUMBERS_CONFLICT)
	}
	if x, y := a.Demographics.BirthDate, b.Demographics.BirthDate; x != "" && y != "" && x != y {
		reasons = append(reasons, personv1.HoldReason_HOLD_REASON_BIRTH_DATES_DIFFER)
	}
	return reasons
}

// mergePersons is decided on the person to be merged.
type mergePersons struct {
	MergeID           string
	Surviving, Merged string
	Survivor          state // looked up
	OpenLedgers       bool  // looked up by the caller: both sides have an open ledger
	RequestedBy       []string
}

// Decide implements the rules of MergePersons.
func (c mergePersons) Decide(s state) ([]proto.Message, error) {
	if c.Surviving == c.Merged {
		return nil, fault.Invalid("person.merge.same", "merged_person_id", "must be another person than surviving_person_id")
	}
	if err := s.live(); err != nil {
		return nil, err
	}
	if err := c.Survivor.live(); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(s.Merges.All, func(m merge) bool { return m.State == personv1.MergeState_MERGE_STATE_HELD }) {
		return nil, fault.Refused("person.merge.held", "a merge of this person waits for review: approve or reject it first")
	}
	reasons := disagreements(c.Survivor, s)
	if c.OpenLedgers {
		reasons = append(reasons, personv1.HoldReason_HOLD_REASON_OPEN_LEDGERS)
	}
	if len(reasons) > 0 {
		return []proto.Message{&personv1.MergeHeldForReview{
			MergeId: c.MergeID, SurvivingPersonId: c.Surviving, MergedPersonId: c.Merged,
			Reasons: reasons, RequestedBy: c.RequestedBy,
		}}, nil
	}
	return []proto.Message{&personv1.PersonMergedInto{MergeId: c.MergeID, SurvivingPersonId: c.Surviving, MergedPersonId: c.Merged}}, nil
}

// held returns the merge that a reviewer decides upon.
func (m merges) held(id string) (merge, error) {
	one := m.get(id)
	switch {
	case one.ID == "":
		return one, fault.NotFound("person.merge.unknown", "this person has no such merge")
	case one.State != personv1.MergeState_MERGE_STATE_HELD:
		return one, fault.Refused("person.merge.not_held", "the merge does not wait for review")
	}
	return one, nil
}

// approveMerge is the second person's word, on the person to be merged.
type approveMerge struct {
	MergeID  string
	By       []string // who approves and for whom
	Survivor state    // looked up
}

// Decide implements the rules of ApproveMerge.
func (c approveMerge) Decide(s state) ([]proto.Message, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	one, err := s.Merges.held(c.MergeID)
	if err != nil {
		return nil, err
	}
	for _, user := range c.By {
		if slices.Contains(one.RequestedBy, user) {
			return nil, fault.Denied("person.merge.second_person", "who asked for the merge must not approve it: a second person must")
		}
	}
	if err := c.Survivor.live(); err != nil {
		return nil, err
	}
	return []proto.Message{
		&personv1.MergeApproved{MergeId: one.ID},
		&personv1.PersonMergedInto{MergeId: one.ID, SurvivingPersonId: one.Surviving, MergedPersonId: one.Merged, Approved: true},
	}, nil
}

// rejectMerge ends a held merge.
type rejectMerge struct{ MergeID string }

// Decide implements the rules of RejectMerge.
func (c rejectMerge) Decide(s state) ([]proto.Message, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	if _, err := s.Merges.held(c.MergeID); err != nil {
		return nil, err
	}
	return []proto.Message{&personv1.MergeRejected{MergeId: c.MergeID}}, nil
}

// unmergePersons undoes a merge, on the merged person.
type unmergePersons struct{ MergeID string }

// Decide implements the rules of UnmergePersons.
func (c unmergePersons) Decide(s state) ([]proto.Message, error) {
	one := s.Merges.get(c.MergeID)
	switch {
	case s.ID == "":
		return nil, s.live()
	case one.ID == "":
		return nil, fault.NotFound("person.merge.unknown", "this person has no such merge")
	case s.Merges.Into != one.ID:
		return nil, fault.Refused("person.merge.not_in_force", "this merge does not stand: there is nothing to undo")
	}
	return reverseMerge{one, personv1.ReversalReason_REVERSAL_REASON_REQUESTED}.Decide(s)
}

// answerMerge is the survivor's answer to a claim.
type answerMerge struct {
	Claim  merge
	Merged state // looked up, as it was claimed or later
}

// Decide records one answer for each merge, for ever.
func (c answerMerge) Decide(s state) ([]proto.Message, error) {
	if s.Merges.get(c.Claim.ID).ID != "" {
		return nil, nil
	}
	switch {
	case s.Merges.Into != "":
		return reverseMerge{c.Claim, personv1.ReversalReason_REVERSAL_REASON_SURVIVOR_MERGED}.Decide(s)
	case !c.Claim.Approved && len(disagreements(s, c.Merged)) > 0:
		return reverseMerge{c.Claim, personv1.ReversalReason_REVERSAL_REASON_FACTS_CHANGED}.Decide(s)
	}
	e := &personv1.PersonsMerged{MergeId: c.Claim.ID, SurvivingPersonId: c.Claim.Surviving, MergedPersonId: c.Claim.Merged, MergedDeath: c.Merged.Notices.death()}
	if r := c.Merged.Notices.restriction(); r != "U" {
		e.MergedRestriction = r
	}
	return []proto.Message{e}, nil
}

// reverseMerge carries a reversal to one of the two streams. The survivor's
// records it even before it answered: a claim that comes late then finds it.
type reverseMerge struct {
	Claim  merge
	Reason personv1.ReversalReason
}

// Decide records the reversal once.
func (c reverseMerge) Decide(s state) ([]proto.Message, error) {
	if s.Merges.get(c.Claim.ID).State == personv1.MergeState_MERGE_STATE_REVERSED {
		return nil, nil
	}
	return []proto.Message{&personv1.MergeReversed{
		MergeId: c.Claim.ID, SurvivingPersonId: c.Claim.Surviving, MergedPersonId: c.Claim.Merged, Reason: c.Reason,
	}}, nil
}

// links is what one stream knows of its links, ended ones included: a link that
// arrives after its end stays ended.
type links []link

type link struct {
	ID, Person, Other string
	Ended             bool
}

// opposite returns the other end.
func (l link) opposite(person string) string {
	if l.Other == person {
		return l.Person
	}
	return l.Other
}

func (l links) evolve(event proto.Message) (links, bool) {
	switch e := event.(type) {
	case *personv1.PersonsLinked:
		return l.put(link{ID: e.LinkId, Person: e.PersonId, Other: e.OtherPersonId}), true
	case *personv1.PersonsUnlinked:
		return l.put(link{ID: e.LinkId, Person: e.PersonId, Other: e.OtherPersonId, Ended: true}), true
	}
	return l, false
}

func (l links) put(one link) links {
	for i := range l {
		if l[i].ID == one.ID {
			l = slices.Clone(l)
			l[i] = one
			return l
		}
	}
	return append(slices.Clip(l), one)
}

func (l links) get(id string) link {
	for _, one := range l {
		if one.ID == id {
			return one
		}
	}
	return link{}
}

// with returns the links in force with a person.
func (l links) with(person string) []link {
	var found []link
	for _, one := range l {
		if !one.Ended && (one.Person == person || one.Other == person) {
			found = append(found, one)
		}
	}
	return found
}

// ended returns the links with a person that are over.
func (l links) ended(person string) []link {
	var found []link
	for _, one := range l {
		if one.Ended && (one.Person == person || one.Other == person) {
			found = append(found, one)
		}
	}
	return found
}

func (l links) view(p *personv1.Person) {
	for _, one := range l {
		other := one.opposite(p.PersonId)
		if !one.Ended && !slices.Contains(p.LinkedPersonIds, other) {
			p.LinkedPersonIds = append(p.LinkedPersonIds, other)
		}
	}
}

// linkPersons is decided on the person named first.
type linkPersons struct {
	LinkID        string
	Person, Other string
	Linked        state // looked up: the other person
}

// Decide implements the rules of LinkPersons.
func (c linkPersons) Decide(s state) ([]proto.Message, error) {
	if c.Person == c.Other {
		return nil, fault.Invalid("person.link.same", "other_person_id", "must be another person than person_id")
	}
	if err := s.live(); err != nil {
		return nil, err
	}
	if err := c.Linked.live(); err != nil {
		return nil, err
	}
	if len(s.Links.with(c.Other)) > 0 {
		return nil, nil
	}
	return []proto.Message{&personv1.PersonsLinked{LinkId: c.LinkID, PersonId: c.Person, OtherPersonId: c.Other}}, nil
}

// unlinkPersons ends every link with the other person.
type unlinkPersons struct{ Other string }

// Decide implements the rules of UnlinkPersons.
func (c unlinkPersons) Decide(s state) ([]proto.Message, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	found := s.Links.with(c.Other)
	if len(found) == 0 {
		return nil, fault.Refused("person.link.none", "the two persons are not linked")
	}
	var events []proto.Message
	for _, one := range found {
		events = append(events, &personv1.PersonsUnlinked{LinkId: one.ID, PersonId: one.Person, OtherPersonId: one.Other})
	}
	return events, nil
}

// mirrorLink carries a link, or its end, to the other person's stream.
type mirrorLink struct{ Link link }

// Decide records a link once and never after its end.
func (c mirrorLink) Decide(s state) ([]proto.Message, error) {
	known := s.Links.get(c.Link.ID)
	if known.Ended || known.ID != "" && !c.Link.Ended {
		return nil, nil
	}
	if c.Link.Ended {
		return []proto.Message{&personv1.PersonsUnlinked{LinkId: c.Link.ID, PersonId: c.Link.Person, OtherPersonId: c.Link.Other}}, nil
	}
	return []proto.Message{&personv1.PersonsLinked{LinkId: c.Link.ID, PersonId: c.Link.Person, OtherPersonId: c.Link.Other}}, nil
}
