package person

import (
	"maps"

	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// Death notices of PDS.
const (
	deathInformal  = "1"
	deathFormal    = "2"
	deathRetracted = "U"
)

// notices is what must be known before anybody uses the record: who may not be
// found, and who is dead.
type notices struct {
	Restriction string // U, R, V; "" means U
	Death       string // "", 1, 2
	DiedOn      string
	// Inherited is what merged records said, by merge: it holds here as long as
	// the merge stands, and goes with it.
	Inherited map[string]inherited
}

type inherited struct{ Restriction, Death string }

func (n notices) evolve(event proto.Message) (notices, bool) {
	switch e := event.(type) {
	case *personv1.RestrictionSet:
		n.Restriction = e.Code
	case *personv1.RestrictionLifted:
		n.Restriction = ""
		n = n.each(func(i inherited) inherited { i.Restriction = ""; return i })
	case *personv1.DeathReportedInformally:
		n.Death, n.DiedOn = deathInformal, e.DiedOn
	case *personv1.DeathConfirmed:
		n.Death, n.DiedOn = deathFormal, e.DiedOn
	case *personv1.DeathNotificationRetracted:
		n.Death, n.DiedOn = "", ""
		n = n.each(func(i inherited) inherited { i.Death = ""; return i })
	case *personv1.PersonsMerged:
		n = n.each(nil)
		n.Inherited[e.MergeId] = inherited{e.MergedRestriction, e.MergedDeath}
	case *personv1.MergeReversed:
		if _, ok := n.Inherited[e.MergeId]; ok {
			n = n.each(nil)
			delete(n.Inherited, e.MergeId)
		}
	default:
		return n, false
	}
	return n, true
}

// each copies the inherited notices, changed where change is not nil.
func (n notices) each(change func(inherited) inherited) notices {
	n.Inherited = maps.Clone(n.Inherited)
	if n.Inherited == nil {
		n.Inherited = map[string]inherited{}
	}
	if change != nil {
		for id, i := range n.Inherited {
			n.Inherited[id] = change(i)
		}
	}
	return n
}

// restriction is R or V when the person or a record merged into them is
// restricted, else U.
func (n notices) restriction() string {
	if n.Restriction == "R" || n.Restriction == "V" {
		return n.Restriction
	}
	for _, i := range n.Inherited {
		if i.Restriction == "R" || i.Restriction == "V" {
			return "R" // V is treated alike
		}
	}
	return "U"
}

// death is the strongest notice: formal, informal, "".
func (n notices) death() string {
	d := n.Death
	for _, i := range n.Inherited {
		d = max(d, i.Death)
	}
	return d
}

func (n notices) view(p *personv1.Person) {
	p.Restriction = n.restriction()
	p.Restricted = p.Restriction != "U"
	p.Death, p.DiedOn = n.death(), n.DiedOn
	p.MessagesStopped = p.Death != ""
}

// setRestriction records the PDS confidentiality code of this record. U does not
// touch what merged records brought: only lifting does, because somebody means it.
type setRestriction struct{ Code string }

// Decide implements the rules of SetRestriction.
func (c setRestriction) Decide(s state) ([]proto.Message, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	if c.Code == s.Notices.Restriction || c.Code == "U" && s.Notices.Restriction == "" {
		return nil, nil
	}
	return []proto.Message{&personv1.RestrictionSet{Code: c.Code}}, nil
}

type liftRestriction struct{}

// Decide implements the rules of LiftRestriction.
func (liftRestriction) Decide(s state) ([]proto.Message, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	code := s.Notices.restriction()
	if code == "U" {
		return nil, nil
	}
	return []proto.Message{&personv1.RestrictionLifted{Code: code}}, nil
}

// noteDeath is a notice of death or its removal.
type noteDeath struct {
	Status string   // 1, 2, U
	On     nhs.Date // zero: not known
	Today  nhs.Date
}

// Decide implements the rules of NoteDeath. An informal notice after a formal one
// is no news.
func (c noteDeath) Decide(s state) ([]proto.Message, error) {
	if c.On.After(c.Today) {
		return nil, fault.Invalid("person.died_on.future", "died_on", "must not be after today")
	}
	if err := s.live(); err != nil {
		return nil, err
	}
	n := s.Notices
	if c.Status == deathRetracted {
		if n.death() == "" {
			return nil, fault.Refused("person.death.none", "no notice of death stands: there is none to retract")
		}
		return []proto.Message{&personv1.DeathNotificationRetracted{Retracted: n.death()}}, nil
	}
	if born, err := nhs.ParseDate(s.Demographics.BirthDate); err == nil && !c.On.IsZero() && c.On.Before(born) {
		return nil, fault.Refused("person.died_on.before_birth", "the date of death is before the recorded date of birth: correct one of them")
	}
	on := c.On.String()
	switch {
	case c.Status == n.Death && (on == "" || on == n.DiedOn), c.Status < n.Death:
		return nil, nil
	case on == "":
		on = n.DiedOn // the earlier notice knew it
	}
	if c.Status == deathFormal {
		return []proto.Message{&personv1.DeathConfirmed{DiedOn: on}}, nil
	}
	return []proto.Message{&personv1.DeathReportedInformally{DiedOn: on}}, nil
}
