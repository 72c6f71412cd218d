package person

import (
	"fmt"
	"strings"

	pb "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
)

// Audit checks the streams of persons and of identifiers from their events
// alone. It shares no code with the folds and the decisions: it is what they
// are checked by. It keeps NHS numbers in memory and never tells one.
type Audit struct {
	persons map[string]*auditedPerson // by id
	claimed map[string]bool           // identity streams
	numbers map[string]string         // NHS number to the person that recorded it
	merges  map[string]*auditedMerge  // by id
}

type auditedPerson struct {
	claims, numbers int
	registered      bool
	into            string // the merge that took it
}

// auditedMerge is a merge that the merged person's stream has.
type auditedMerge struct {
	surviving, merged string
	answered          bool
}

// NewAudit returns an audit of a log from its first event.
func NewAudit() *Audit {
	return &Audit{map[string]*auditedPerson{}, map[string]bool{}, map[string]string{}, map[string]*auditedMerge{}}
}

func (a *Audit) person(id string) *auditedPerson {
	p := a.persons[id]
	if p == nil {
		p = &auditedPerson{}
		a.persons[id] = p
	}
	return p
}

// Next takes the next event of the log, of any category.
func (a *Audit) Next(e es.Entry) error {
	category, id, _ := strings.Cut(e.Stream, "-")
	if category == "identity" {
		v, ok := e.Event.(*pb.IdentifierClaimed)
		if !ok || a.claimed[e.Stream] || v.PersonId == "" {
			return fmt.Errorf("an identifier is claimed twice, or by nobody")
		}
		a.claimed[e.Stream] = true
		a.person(v.PersonId).claims++
		return nil
	}
	if category != "person" {
		return nil
	}
	p := a.person(id)
	if _, registers := e.Event.(*pb.PersonRegistered); registers == p.registered {
		return fmt.Errorf("a person is registered twice, or not first")
	}
	switch v := e.Event.(type) {
	case *pb.PersonRegistered:
		if v.PersonId != id {
			return fmt.Errorf("a person is registered in the stream of another")
		}
		p.registered = true
	case *pb.NhsNumberRecorded:
		holder, known := a.numbers[v.NhsNumber]
		if known && holder != id {
			return fmt.Errorf("two persons hold one NHS number: the other is person-%s", holder)
		}
		if !known {
			a.numbers[v.NhsNumber] = id
			if p.numbers++; p.numbers > p.claims {
				return fmt.Errorf("an NHS number is recorded that the person has not claimed")
			}
		}
	case *pb.PersonMergedInto:
		switch {
		case v.MergedPersonId != id || v.SurvivingPersonId == id:
			return fmt.Errorf("a person is merged into itself, or in the stream of another")
		case p.into != "":
			return fmt.Errorf("a person is merged while a merge of it stands")
		}
		p.into = v.MergeId
		a.merges[v.MergeId] = &auditedMerge{surviving: v.SurvivingPersonId, merged: id}
		return nil
	case *pb.PersonsMerged:
		m := a.merges[v.MergeId]
		switch {
		case m == nil || m.surviving != id || m.merged != v.MergedPersonId:
			return fmt.Errorf("a merge is answered that was not asked of this person")
		case m.answered:
			return fmt.Errorf("a merge is answered twice")
		case a.circle(m):
			return fmt.Errorf("merges go in a circle: the person who survives was merged, over others or at once, into the one who is merged now")
		case p.into != "":
			return fmt.Errorf("a person who was merged away survives a merge")
		}
		m.answered = true
	case *pb.MergeReversed:
		if p.into == v.MergeId {
			p.into = ""
		}
	}
	return nil
}

// circle reports whether the survivor of m was itself merged into the merged person.
func (a *Audit) circle(m *auditedMerge) bool {
	at := m.surviving
	for range len(a.merges) + 1 { // a circle that does not pass here has its own end
		next := a.merges[a.person(at).into]
		if next == nil || !next.answered {
			return false
		}
		if at = next.surviving; at == m.merged {
			return true
		}
	}
	return true
}

// End finds what only the end of the log shows.
func (a *Audit) End() []error { return nil }
