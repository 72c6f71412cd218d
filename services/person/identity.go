package person

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"

	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
)

// identity is the state of a stream identity-<keyed hash of an NHS number>: who
// holds the number. The append at NoStream is what keeps two registrations of
// one number from making two persons. A claim is kept when a number is superseded,
// so that an old number finds its person, and given up only when the number was
// recorded for the wrong person. Merges redirect the person, not the claim.
type identity struct {
	PersonID string // "" while nobody holds the number
}

func identityDecider() es.Decider[identity] {
	return es.Decider[identity]{Category: "identity", Evolve: evolveIdentity}
}

func evolveIdentity(s identity, event proto.Message) identity {
	switch e := event.(type) {
	case *personv1.IdentifierClaimed:
		s.PersonID = e.PersonId
	case *personv1.IdentifierReleased:
		s.PersonID = ""
	default:
		panic(es.Unhandled(event))
	}
	return s
}

// claim binds the number of the stream to a person, unless it is bound. Whose it
// is then stands in the state: losing is an answer, not an error.
type claim struct{ PersonID string }

// Decide implements the rule of claim.
func (c claim) Decide(s identity) ([]proto.Message, error) {
	if s.PersonID != "" {
		return nil, nil
	}
	return []proto.Message{&personv1.IdentifierClaimed{PersonId: c.PersonID}}, nil
}

// release gives the number of the stream back, where the person holds it.
type release struct{ PersonID string }

// Decide implements the rule of release.
func (c release) Decide(s identity) ([]proto.Message, error) {
	if s.PersonID != c.PersonID {
		return nil, nil
	}
	return []proto.Message{&personv1.IdentifierReleased{PersonId: c.PersonID}}, nil
}

// identityID names the stream of a number. It is a keyed hash, because a bare
// one could be reversed by hashing all ten thousand million numbers.
func identityID(key []byte, number nhs.Number) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(number.Reveal()))
	return hex.EncodeToString(mac.Sum(nil))
}
