package person

import (
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// number is one NHS number of the person's history. RecordID names it in events,
// because only NhsNumberRecorded holds the digits.
type number struct {
	RecordID string
	Number   nhs.Number
	State    personv1.NhsNumberState
}

type numbers struct {
	Status  string // NHS NUMBER STATUS INDICATOR, 01 to 08
	History []number
}

func (n numbers) evolve(event proto.Message) (numbers, bool) {
	switch e := event.(type) {
	case *personv1.PersonRegistered:
		n.Status = e.Status
	case *personv1.NhsNumberRecorded:
		// What is stored was checked when it was decided; a number that no longer
		// parses would be no number, and finding by it impossible, but no panic.
		parsed, _ := nhs.ParseNumber(e.NhsNumber)
		n.History = append(slices.Clip(n.History), number{e.RecordId, parsed, personv1.NhsNumberState_NHS_NUMBER_STATE_CURRENT})
		n.Status = e.Status
	case *personv1.NhsNumberStatusChanged:
		n.Status = e.Status
	case *personv1.NhsNumberSuperseded:
		n.History = marked(n.History, e.RecordId, personv1.NhsNumberState_NHS_NUMBER_STATE_SUPERSEDED)
	case *personv1.NhsNumberInvalidated:
		n.History = marked(n.History, e.RecordId, personv1.NhsNumberState_NHS_NUMBER_STATE_INVALIDATED)
		n.Status = "05" // trace needs to be resolved
	case *personv1.NhsNumberEnteredInError:
		n.History = marked(n.History, e.RecordId, personv1.NhsNumberState_NHS_NUMBER_STATE_ENTERED_IN_ERROR)
		n.Status = "03" // trace required
	default:
		return n, false
	}
	return n, true
}

func marked(history []number, recordID string, to personv1.NhsNumberState) []number {
	history = slices.Clone(history)
	for i := range history {
		if history[i].RecordID == recordID {
			history[i].State = to
		}
	}
	return history
}

// current is the record of the number in use, nil where there is none.
func (n numbers) current() *number {
	for i := range n.History {
		if n.History[i].State == personv1.NhsNumberState_NHS_NUMBER_STATE_CURRENT {
			return &n.History[i]
		}
	}
	return nil
}

// holds reports whether the person has or had the number, other than by mistake.
func (n numbers) holds(number nhs.Number) bool {
	for _, h := range n.History {
		if h.Number == number && h.State != personv1.NhsNumberState_NHS_NUMBER_STATE_ENTERED_IN_ERROR {
			return true
		}
	}
	return false
}

func (n numbers) view(p *personv1.Person) {
	p.NhsNumberStatus = n.Status
	for _, h := range n.History {
		r := &personv1.NhsNumberRecord{RecordId: h.RecordID, State: h.State}
		if h.State != personv1.NhsNumberState_NHS_NUMBER_STATE_ENTERED_IN_ERROR { // another patient's
			r.NhsNumber = h.Number.Reveal()
		}
		p.NhsNumbers = append(p.NhsNumbers, r)
	}
	if c := n.current(); c != nil {
		p.NhsNumber = c.Number.Reveal()
	}
}

// parseNumber takes a field of a request; empty is no number.
func parseNumber(field, text string) (nhs.Number, error) {
	if text == "" {
		return nhs.Number{}, nil
	}
	n, err := nhs.ParseNumber(text)
	if err != nil {
		return nhs.Number{}, fault.Invalid("person.nhs_number.invalid", field, nhs.ErrNumber.Error())
	}
	return n, nil
}

// checkStatus holds the status against having a number at all.
func checkStatus(has bool, status string) error {
	switch status {
	case "01", "02":
		if !has {
			return fault.Invalid("person.nhs_number.missing", "nhs_number_status", "statuses 01 and 02 say that a number is present: send it, or use 03 to 08")
		}
	case "07", "08":
		if has {
			return fault.Invalid("person.nhs_number.unexpected", "nhs_number_status", "statuses 07 and 08 say that there is no number: use 01 to 06 with one")
		}
	}
	return nil
}

// register makes a person, or finds that the number's holder is registered.
type register struct {
	PersonID, RecordID string
	Number             nhs.Number // zero: none
	Status             string
	Demographics       *personv1.Demographics
	Local              []*personv1.LocalIdentifier
	Source             *personv1.Source
	Today              nhs.Date
}

// Decide implements the rules of RegisterPerson. A registration of somebody who
// is registered records nothing, but what it says of them must not contradict
// the record: a mistyped number would hand out another patient.
func (c register) Decide(s state) ([]proto.Message, error) {
	if s.ID != "" {
		if c.Number.IsZero() {
			return nil, nil
		}
		if !s.Numbers.holds(c.Number) {
			return nil, fault.Refused("person.identity.unsettled", "a change of identifier that claimed this NHS number was not completed: repeat that change, or have it reviewed")
		}
		born, family := s.Demographics.agree(c.Demographics.GetBirthDate(), c.Demographics.GetName().GetFamily())
		if (born == differs || family == differs) && born != same && family != same {
			return nil, errMismatch()
		}
		return nil, nil
	}
	if err := checkStatus(!c.Number.IsZero(), c.Status); err != nil {
		return nil, err
	}
	more, err := s.Demographics.stated(c.Demographics, c.Local, c.Source, c.Today)
	if err != nil {
		return nil, err
	}
	events := []proto.Message{&personv1.PersonRegistered{PersonId: c.PersonID, Status: c.Status, Source: c.Source}}
	if !c.Number.IsZero() {
		events = append(events, &personv1.NhsNumberRecorded{RecordId: c.RecordID, NhsNumber: c.Number.Reveal(), Status: c.Status, Source: c.Source})
	}
	return append(events, more...), nil
}

// twoOfThree is the identity check that a feed must pass before it is applied
// (hazard H01: wrong patient).
func twoOfThree(number, birthDate, family bool) bool {
	return number && birthDate || number && family || birthDate && family
}

// errMismatch is the answer of the identity check: fewer than two of three agree.
func errMismatch() error {
	return fault.Refused("person.identity.mismatch", "of NHS number, birth date and family name fewer than two agree with the record: have it reviewed")
}

// errUnclaimed asks the service to claim the number in its identity stream and
// to decide again with Holder set. It never leaves the service.
var errUnclaimed = errors.New("person: the number must be claimed first")

// recorded returns the events that make number the current one.
func (n numbers) recorded(personID, holder, recordID string, number nhs.Number, status string, source *personv1.Source) ([]proto.Message, error) {
	if !n.holds(number) {
		switch holder {
		case personID:
		case "":
			return nil, errUnclaimed
		default:
			return nil, fault.Exists("person.nhs_number.claimed", "another person holds this NHS number: merge the two")
		}
	}
	events := []proto.Message{&personv1.NhsNumberRecorded{RecordId: recordID, NhsNumber: number.Reveal(), Status: status, Source: source}}
	if c := n.current(); c != nil {
		events = append(events, &personv1.NhsNumberSuperseded{RecordId: c.RecordID, SupersededBy: recordID, Source: source})
	}
	return events, nil
}

// recordTrace is what tracing the number in PDS gave.
type recordTrace struct {
	RecordID     string
	Status       string
	Number       nhs.Number // zero: none found, or the one recorded is confirmed
	Holder       string     // looked up: the person who holds Number, "" when not yet asked
	Demographics *personv1.Demographics
	Source       *personv1.Source
	Today        nhs.Date
}

// Decide implements the rules of RecordTraceResult.
func (c recordTrace) Decide(s state) ([]proto.Message, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	current := s.Numbers.current()
	if err := checkStatus(current != nil || !c.Number.IsZero(), c.Status); err != nil {
		return nil, err
	}
	if s.Demographics.outdated(c.Source) {
		return []proto.Message{&personv1.SourceMessageOutdated{Source: c.Source}}, nil
	}
	var events []proto.Message
	switch {
	case c.Number.IsZero() || current != nil && current.Number == c.Number:
		if c.Status != s.Numbers.Status {
			events = append(events, &personv1.NhsNumberStatusChanged{Status: c.Status, Source: c.Source})
		}
	case current != nil:
		return nil, fault.Refused("person.nhs_number.conflict", "another NHS number is recorded: use ChangeIdentifier when PDS says that it was superseded")
	default:
		recorded, err := s.Numbers.recorded(s.ID, c.Holder, c.RecordID, c.Number, c.Status, c.Source)
		if err != nil {
			return nil, err
		}
		events = recorded
	}
	if c.Demographics == nil && len(events) > 0 {
		return events, nil
	}
	more, err := s.Demographics.stated(c.Demographics, nil, c.Source, c.Today)
	return append(events, more...), err
}

// changeIdentifier is a new number for an old one, or the end of one.
type changeIdentifier struct {
	RecordID    string
	Superseding nhs.Number
	Holder      string // looked up: the person who holds Superseding, "" when not yet asked
	Invalidated bool
	InError     bool // the number is another patient's
	Local       *personv1.LocalIdentifierChange
	Source      *personv1.Source
}

// Decide implements the rules of ChangeIdentifier.
func (c changeIdentifier) Decide(s state) ([]proto.Message, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	if s.Demographics.outdated(c.Source) {
		return []proto.Message{&personv1.SourceMessageOutdated{Source: c.Source}}, nil
	}
	if c.Local != nil {
		return s.Demographics.replaced(c.Local)
	}
	current := s.Numbers.current()
	switch {
	case (c.Invalidated || c.InError) && current == nil:
		return nil, fault.Refused("person.nhs_number.none", "no NHS number is current: there is none to invalidate or to take back")
	case c.InError:
		return []proto.Message{&personv1.NhsNumberEnteredInError{RecordId: current.RecordID, Source: c.Source}}, nil
	case c.Invalidated:
		return []proto.Message{&personv1.NhsNumberInvalidated{RecordId: current.RecordID, Source: c.Source}}, nil
	case current != nil && current.Number == c.Superseding:
		return nil, nil
	}
	status := "02" // present, not traced
	if c.Source.GetKind() == personv1.SourceKind_SOURCE_KIND_PDS {
		status = "01" // PDS said so itself
	}
	return s.Numbers.recorded(s.ID, c.Holder, c.RecordID, c.Superseding, status, c.Source)
}
