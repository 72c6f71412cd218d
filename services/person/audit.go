package person

import (
	"fmt"
	"strings"
	"time"

	pb "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
)

// Audit checks the streams of persons and of identifiers from their events
// alone. It shares no code with the folds and the decisions: it is what they
// are checked by. It keeps NHS numbers in memory and never tells one.
type Audit struct {
	persons map[string]*auditedPerson // by id
	claimed map[string]bool           // identity streams
	post    func(es.Fact)
}

type auditedPerson struct {
	numbers    map[string]bool
	registered bool
	into       string // the merge that took it
}

// Keys of facts: a person, a number, and all merges, which are few.
const (
	ofPerson = "person "
	ofNumber = "number "
	ofMerges = "merges"
)

// NewAudit returns an audit of persons and identifiers from their first events.
// What concerns several of them it posts, for a Meeting.
func NewAudit(post func(es.Fact)) *Audit {
	return &Audit{map[string]*auditedPerson{}, map[string]bool{}, post}
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
		a.post(es.Fact{Key: ofPerson + v.PersonId, Kind: "claims", At: e.Place()})
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
		if p.numbers[v.NhsNumber] {
			break
		}
		if p.numbers == nil {
			p.numbers = map[string]bool{}
		}
		p.numbers[v.NhsNumber] = true
		a.post(es.Fact{Key: ofPerson + id, Kind: "holds a number", At: e.Place()})
		a.post(es.Fact{Key: ofNumber + v.NhsNumber, Kind: "is held", Args: []string{id}, At: e.Place()})
	case *pb.PersonMergedInto:
		switch {
		case v.MergedPersonId != id || v.SurvivingPersonId == id:
			return fmt.Errorf("a person is merged into itself, or in the stream of another")
		case p.into != "":
			return fmt.Errorf("a person is merged while a merge of it stands")
		}
		p.into = v.MergeId
		a.post(es.Fact{Key: ofMerges, Kind: "asks", Args: []string{v.MergeId, id, v.SurvivingPersonId}, At: e.Place()})
	case *pb.PersonsMerged:
		a.post(es.Fact{Key: ofMerges, Kind: "answers", Args: []string{v.MergeId, id, v.MergedPersonId}, At: e.Place()})
	case *pb.MergeReversed:
		if p.into == v.MergeId {
			p.into = ""
			a.post(es.Fact{Key: ofMerges, Kind: "reverses", Args: []string{v.MergeId, id}, At: e.Place()})
		}
	}
	return nil
}

// End finds what only the end of the log shows.
func (a *Audit) End(time.Time) []error { return nil }

// Meeting checks what concerns several persons: that no number is held by two or
// by one who did not claim it, and that merges are asked, answered and no circle.
type Meeting struct {
	claims  map[string]int           // of each person, those that no number has used up
	holders map[string]string        // of each number
	merges  map[string]*auditedMerge // by id
	into    map[string]string        // the merge that took a person
}

// auditedMerge is a merge that the merged person's stream has.
type auditedMerge struct {
	surviving, merged string
	answered          bool
}

// NewMeeting returns an audit of what an Audit posts.
func NewMeeting() *Meeting {
	return &Meeting{map[string]int{}, map[string]string{}, map[string]*auditedMerge{}, map[string]string{}}
}

// Next takes the next fact about persons.
func (a *Meeting) Next(f es.Fact) error {
	switch f.Kind {
	case "claims":
		a.claims[f.Key]++
	case "holds a number":
		if a.claims[f.Key]--; a.claims[f.Key] < 0 {
			return fmt.Errorf("an NHS number is recorded that the person has not claimed")
		}
	case "is held":
		holder, known := a.holders[f.Key]
		if known && holder != f.Args[0] {
			return fmt.Errorf("two persons hold one NHS number: the other is person-%s", holder)
		}
		a.holders[f.Key] = f.Args[0]
	case "asks":
		a.merges[f.Args[0]] = &auditedMerge{surviving: f.Args[2], merged: f.Args[1]}
		a.into[f.Args[1]] = f.Args[0]
	case "reverses":
		delete(a.into, f.Args[1])
	case "answers":
		m, surviving := a.merges[f.Args[0]], f.Args[1]
		switch {
		case m == nil || m.surviving != surviving || m.merged != f.Args[2]:
			return fmt.Errorf("a merge is answered that was not asked of this person")
		case m.answered:
			return fmt.Errorf("a merge is answered twice")
		case a.circle(m):
			return fmt.Errorf("merges go in a circle: the person who survives was merged, over others or at once, into the one who is merged now")
		case a.into[surviving] != "":
			return fmt.Errorf("a person who was merged away survives a merge")
		}
		m.answered = true
	}
	return nil
}

// circle reports whether the survivor of m was itself merged into the merged person.
func (a *Meeting) circle(m *auditedMerge) bool {
	at := m.surviving
	for range len(a.merges) + 1 { // a circle that does not pass here has its own end
		next := a.merges[a.into[at]]
		if next == nil || !next.answered {
			return false
		}
		if at = next.surviving; at == m.merged {
			return true
		}
	}
	return true
}

// End finds what only the end of the log shows: nothing.
func (a *Meeting) End(time.Time) []error { return nil }
