// Package person keeps who the patient is: identity, demographics,
// restrictions, needs, proxies, notices of death, merges and links.
//
// Each person is one stream, person-<person id>. A person id is random to
// everybody else and never an NHS number; one event type holds the number. Which
// person holds a number is decided by the stream identity-<keyed hash>
// (identity.go): the claim comes first, the registration after it, so that a
// crash between the two leaves a claim that the next registration of the number
// completes.
//
// The state has one part for each topic, and the topic's file holds all of it:
// fold, rules and what a reader sees. A new command touches person.proto,
// events.proto, its topic's file and service.go.
//
//	numbers.go       registration, the NHS number and its history
//	demographics.go  names, dates, addresses, moves; which source wins
//	notices.go       restrictions and death
//	needs.go         communication needs, adjustments, proxies
//	merge.go         merges and links, each recorded in two streams
//	queue.go         what waits for a person to look at it (a read model)
//
// What spans two streams is recorded in the stream that guards it first, then in
// the other by a command whose id derives from the first. The call does both; if
// it dies between them, react.go does the second when it hears the first event.
package person

import (
	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// state is the fold of a stream person-<person id>. The zero value is a person
// who was never registered.
type state struct {
	ID           string
	Numbers      numbers
	Demographics demographics
	Notices      notices
	Needs        needs
	Proxies      proxies
	Merges       merges
	Links        links
}

// decision is a command: a pure function of the state.
type decision interface {
	Decide(state) ([]proto.Message, error)
}

func decider() es.Decider[state] {
	return es.Decider[state]{Category: "person", Evolve: evolve}
}

// evolve hands the event to every topic; some events say something to several.
func evolve(s state, event proto.Message) state {
	if e, ok := event.(*personv1.PersonRegistered); ok {
		s.ID = e.PersonId
	}
	var known [7]bool
	s.Numbers, known[0] = s.Numbers.evolve(event)
	s.Demographics, known[1] = s.Demographics.evolve(event)
	s.Notices, known[2] = s.Notices.evolve(event)
	s.Needs, known[3] = s.Needs.evolve(event)
	s.Proxies, known[4] = s.Proxies.evolve(event)
	s.Merges, known[5] = s.Merges.evolve(event)
	s.Links, known[6] = s.Links.evolve(event)
	if known == [7]bool{} {
		panic(es.Unhandled(event))
	}
	return s
}

// live refuses commands on a person who does not exist or is part of another.
func (s state) live() error {
	switch {
	case s.ID == "":
		return fault.NotFound("person.unknown", "no person has this id: register the person first")
	case s.Merges.Into != "":
		return fault.Refused("person.merged", "this person was merged into another: send the command to the one that GetPerson returns")
	}
	return nil
}

// view is the person as a reader may see them.
func (s state) view() *personv1.Person {
	p := &personv1.Person{PersonId: s.ID}
	s.Numbers.view(p)
	s.Notices.view(p)
	s.Demographics.view(p) // after the notices: it withholds where p is restricted
	s.Needs.view(p)
	s.Proxies.view(p)
	s.Merges.view(p)
	s.Links.view(p)
	return p
}
