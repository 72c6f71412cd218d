package person

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// demographics is what sources said of the person. The messages are shared with
// events and never changed.
type demographics struct {
	Name              *personv1.PersonName
	BirthDate         string
	Address           *personv1.Address
	Telecoms          *personv1.Telecoms
	ContactPreference string
	EthnicCategory    string
	Practice          string
	Area              string
	RemovalReason     string
	Local             []*personv1.LocalIdentifier

	PDS     map[string]bool // name, birth_date, practice: PDS stated it, so PDS owns it
	Sources map[string]mark // how new each source's last word is
	Late    int             // messages that came too late to be applied
}

// mark is how new a message is within its source.
type mark struct {
	Version int64
	Sent    time.Time
}

func markOf(s *personv1.Source) mark { return mark{s.GetVersion(), s.GetSentAt().AsTime()} }

// before compares versions where both have one, else times. Equal is not before:
// two messages of one second are taken in the order of arrival.
func (m mark) before(o mark) bool {
	if m.Version > 0 && o.Version > 0 {
		return m.Version < o.Version
	}
	return m.Sent.Before(o.Sent)
}

// sourceKey says which messages are ordered among themselves: PDS is one source
// whoever hands it on.
func sourceKey(s *personv1.Source) string {
	if s.GetKind() == personv1.SourceKind_SOURCE_KIND_PDS {
		return "PDS"
	}
	return "LOCAL/" + s.GetSystem()
}

func (d demographics) evolve(event proto.Message) (demographics, bool) {
	if from, ok := event.(interface{ GetSource() *personv1.Source }); ok {
		d = d.heard(from.GetSource())
	}
	switch e := event.(type) {
	case *personv1.SourceMessageOutdated:
		d.Late++
	case *personv1.DemographicsUpdated:
		pds := e.GetSource().GetKind() == personv1.SourceKind_SOURCE_KIND_PDS
		if e.Name != nil {
			d.Name = e.Name
			d = d.owned(pds, "name")
		}
		if e.BirthDate != "" {
			d.BirthDate = e.BirthDate
			d = d.owned(pds, "birth_date")
		}
		if e.Address != nil {
			d.Address = e.Address
		}
		if e.Telecoms != nil {
			d.Telecoms = e.Telecoms
		}
		if e.ContactPreference != "" {
			d.ContactPreference = e.ContactPreference
		}
		if e.EthnicCategory != "" {
			d.EthnicCategory = e.EthnicCategory
		}
		for _, field := range e.Confirmed {
			d = d.owned(true, field)
		}
	case *personv1.PracticeChanged:
		d.Practice = e.Practice
		d.RemovalReason = "" // a practice in England has them again
		d = d.owned(e.GetSource().GetKind() == personv1.SourceKind_SOURCE_KIND_PDS, "practice")
	case *personv1.AreaChanged:
		d.Area = e.Area
	case *personv1.LeftEnglandReported:
		d.RemovalReason = e.Reason
	case *personv1.LocalIdentifierAdded:
		d.Local = append(slices.Clip(d.Local), e.Identifier)
	case *personv1.LocalIdentifierReplaced:
		d.Local = slices.Clone(d.Local)
		if i := d.local(e.Earlier); i >= 0 {
			d.Local[i] = e.Identifier
		}
	default:
		return d, false
	}
	return d, true
}

// heard moves the source's mark forward, never back.
func (d demographics) heard(s *personv1.Source) demographics {
	if s == nil {
		return d
	}
	key, now := sourceKey(s), markOf(s)
	if last, ok := d.Sources[key]; ok && now.before(last) {
		return d
	}
	d.Sources = maps.Clone(d.Sources)
	if d.Sources == nil {
		d.Sources = map[string]mark{}
	}
	d.Sources[key] = now
	return d
}

func (d demographics) owned(pds bool, field string) demographics {
	if !pds || d.PDS[field] {
		return d
	}
	d.PDS = maps.Clone(d.PDS)
	if d.PDS == nil {
		d.PDS = map[string]bool{}
	}
	d.PDS[field] = true
	return d
}

func (d demographics) local(id *personv1.LocalIdentifier) int {
	return slices.IndexFunc(d.Local, func(l *personv1.LocalIdentifier) bool { return proto.Equal(l, id) })
}

// outdated reports whether the source has said something newer before.
func (d demographics) outdated(s *personv1.Source) bool {
	last, ok := d.Sources[sourceKey(s)]
	return ok && markOf(s).before(last)
}

func (d demographics) view(p *personv1.Person) {
	p.Name, p.BirthDate = d.Name, d.BirthDate
	p.ContactPreference, p.EthnicCategory = d.ContactPreference, d.EthnicCategory
	p.LocalIdentifiers, p.RemovalReason = d.Local, d.RemovalReason
	if p.Restricted {
		return // what follows says where the person is
	}
	p.Address, p.Telecoms = d.Address, d.Telecoms
	if d.Practice != "" {
		p.Practice = &d.Practice
	}
	if d.Area != "" {
		p.Area = &d.Area
	}
}

type agreement int

const (
	unknown agreement = iota // one side does not say
	same
	differs
)

// agree compares birth date and family name with what is recorded.
func (d demographics) agree(birthDate, family string) (born, name agreement) {
	compare := func(a, b string) agreement {
		switch {
		case a == "" || b == "":
			return unknown
		case a == b:
			return same
		}
		return differs
	}
	return compare(d.BirthDate, birthDate), compare(folded(d.Name.GetFamily()), folded(family))
}

// folded leaves the letters of a name in lower case: feeds differ in spaces,
// hyphens, apostrophes and capitals (O'Neill, ONEILL).
func folded(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsLetter(r) && !unicode.IsMark(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
}

// stated returns the events by which a source's word becomes the record. What a
// local source says of a field that PDS has stated is named and not applied. A
// newer message that changes nothing is recorded too: it makes older ones late.
func (d demographics) stated(in *personv1.Demographics, local []*personv1.LocalIdentifier, source *personv1.Source, today nhs.Date) ([]proto.Message, error) {
	if born, err := nhs.ParseDate(in.GetBirthDate()); err == nil && born.After(today) {
		return nil, fault.Invalid("person.birth_date.future", "demographics.birth_date", "must not be after today")
	}
	pds := source.GetKind() == personv1.SourceKind_SOURCE_KIND_PDS
	update := &personv1.DemographicsUpdated{Source: source}
	// apply decides for a field that PDS owns once it has stated it.
	apply := func(field string, said, changed bool) bool {
		switch {
		case !said:
		case changed && !pds && d.PDS[field]:
			update.Overruled = append(update.Overruled, field)
		case changed:
			return true
		case pds && !d.PDS[field]:
			update.Confirmed = append(update.Confirmed, field)
		}
		return false
	}
	var events []proto.Message
	if apply("name", in.GetName() != nil, !proto.Equal(in.GetName(), d.Name)) {
		update.Name = in.GetName()
	}
	if apply("birth_date", in.GetBirthDate() != "", in.GetBirthDate() != d.BirthDate) {
		update.BirthDate = in.GetBirthDate()
	}
	if apply("practice", in.GetPractice() != "", in.GetPractice() != d.Practice) {
		events = append(events, &personv1.PracticeChanged{Practice: in.GetPractice(), Source: source})
	}
	if a := in.GetArea(); a != "" && a != d.Area {
		events = append(events, &personv1.AreaChanged{Area: a, Source: source})
	}
	if a := in.GetAddress(); a != nil && !proto.Equal(a, d.Address) {
		update.Address = a
	}
	if t := in.GetTelecoms(); t != nil && !proto.Equal(t, d.Telecoms) {
		update.Telecoms = t
	}
	if c := in.GetContactPreference(); c != d.ContactPreference {
		update.ContactPreference = c
	}
	if c := in.GetEthnicCategory(); c != d.EthnicCategory {
		update.EthnicCategory = c
	}
	var added []*personv1.LocalIdentifier
	for _, id := range local {
		if d.local(id) < 0 && !slices.ContainsFunc(added, func(a *personv1.LocalIdentifier) bool { return proto.Equal(a, id) }) {
			added = append(added, id)
			events = append(events, &personv1.LocalIdentifierAdded{Identifier: id})
		}
	}
	last, heard := d.Sources[sourceKey(source)]
	newer := heard && last.before(markOf(source)) || !heard && len(d.Sources) > 0
	if newer || proto.Size(update) > proto.Size(&personv1.DemographicsUpdated{Source: source}) {
		events = append([]proto.Message{update}, events...)
	}
	return events, nil
}

// updateDemographics is a message of a source.
type updateDemographics struct {
	Demographics *personv1.Demographics
	Local        []*personv1.LocalIdentifier
	Source       *personv1.Source
	Today        nhs.Date
}

// Decide implements the rules of UpdateDemographics.
func (c updateDemographics) Decide(s state) ([]proto.Message, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	if s.Demographics.outdated(c.Source) {
		return []proto.Message{&personv1.SourceMessageOutdated{Source: c.Source}}, nil
	}
	return s.Demographics.stated(c.Demographics, c.Local, c.Source, c.Today)
}

// noteMove is another practice or area.
type noteMove struct {
	Practice, Area string
	Source         *personv1.Source
}

// Decide implements the rules of NoteMove.
func (c noteMove) Decide(s state) ([]proto.Message, error) {
	if c.Practice == "" && c.Area == "" {
		return nil, fault.Invalid("person.move.empty", "practice", "a move needs a practice or an area")
	}
	said := &personv1.Demographics{Practice: c.Practice, Area: c.Area}
	return updateDemographics{Demographics: said, Source: c.Source}.Decide(s)
}

// noteLeftEngland is a removal from the English register.
type noteLeftEngland struct {
	Reason string // EMB, SCT, NIT
	On     nhs.Date
	Today  nhs.Date
}

// Decide implements the rules of NoteLeftEngland.
func (c noteLeftEngland) Decide(s state) ([]proto.Message, error) {
	if c.On.After(c.Today) {
		return nil, fault.Invalid("person.left_on.future", "left_on", "must not be after today")
	}
	if err := s.live(); err != nil {
		return nil, err
	}
	if s.Demographics.RemovalReason == c.Reason {
		return nil, nil
	}
	return []proto.Message{&personv1.LeftEnglandReported{Reason: c.Reason, LeftOn: c.On.String()}}, nil
}

// replaced is HL7 v2 A47 for a number that an organisation gave.
func (d demographics) replaced(c *personv1.LocalIdentifierChange) ([]proto.Message, error) {
	switch {
	case c.GetEarlier().GetAssigner() != c.GetIdentifier().GetAssigner():
		return nil, fault.Invalid("person.local_identifier.assigner", "local.identifier.assigner", "an organisation replaces its own numbers only")
	case d.local(c.Identifier) >= 0 && d.local(c.Earlier) < 0:
		return nil, nil
	case d.local(c.Earlier) < 0:
		return nil, fault.NotFound("person.local_identifier.unknown", "the person has no such local identifier")
	case d.local(c.Identifier) >= 0:
		return nil, fault.Exists("person.local_identifier.exists", "the person has both local identifiers already")
	}
	return []proto.Message{&personv1.LocalIdentifierReplaced{Earlier: c.Earlier, Identifier: c.Identifier}}, nil
}
