package carelead

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// Neighbourhood is the fold of neighbourhood-<id>: the practices it serves and
// the pool that steps in when nobody else can.
type Neighbourhood struct {
	Name, Organisation, Alliance string
	Practices                    []string // ODS codes
	Manager, Contact             *Party   // of escalation levels 2 and 3
	Pool                         *StandingPool
	OutOfHours                   string
}

// NeighbourhoodDecider folds neighbourhoods.
var NeighbourhoodDecider = es.Decider[Neighbourhood]{Category: "neighbourhood", Evolve: evolveNeighbourhood}

func evolveNeighbourhood(n Neighbourhood, event proto.Message) Neighbourhood {
	switch e := event.(type) {
	case *pb.NeighbourhoodDefined:
		n.Name, n.Organisation, n.Alliance, n.Practices, n.Manager, n.Contact = e.Name, e.Organisation, e.Alliance, e.Practices, e.Manager, e.AllianceContact
	case *pb.PracticesServedChanged:
		n.Practices = e.Practices
	case *pb.FallbackPoolAccepted:
		n.Pool, n.OutOfHours = &StandingPool{Party: e.Pool, Until: e.Until.AsTime()}, e.OutOfHoursMessage
	case *pb.FallbackPoolLapsed:
		n.Pool = nil
	case *pb.ManagerChanged:
		n.Manager = e.Manager
	default:
		panic(es.Unhandled(event))
	}
	return n
}

var (
	errNotServed  = fault.Refused("carelead.neighbourhood.not_served", "no neighbourhood that this lead works for serves the patient's practice")
	errNotServing = fault.NotFound("carelead.neighbourhood.not_found", "no neighbourhood serves this practice")
)

func (n Neighbourhood) known() error {
	if n.Name == "" {
		return fault.NotFound("carelead.neighbourhood.not_found", "no neighbourhood has this id; define it first")
	}
	return nil
}

// Escalation is who is offered a handover next, in order: the duty pool, the
// manager, the lead cancer nurse with the alliance contact.
func (n Neighbourhood) Escalation(now time.Time) []*Party {
	var chain []*Party
	if n.Pool.stands(now) {
		chain = append(chain, n.Pool.Party)
	}
	for _, p := range []*Party{n.Manager, n.Contact} {
		if p != nil {
			chain = append(chain, p)
		}
	}
	return chain
}

// Serves reports whether the neighbourhood serves a practice.
func (n Neighbourhood) Serves(practice string) bool { return slices.Contains(n.Practices, practice) }

// DefineNeighbourhood names a neighbourhood.
type DefineNeighbourhood struct {
	Name, Organisation, Alliance string
	Practices                    []string
	Manager, Contact             *Party
}

// Decide refuses a second definition.
func (c DefineNeighbourhood) Decide(n Neighbourhood) ([]proto.Message, error) {
	if n.Name != "" {
		return nil, fault.Exists("carelead.neighbourhood.exists", "a neighbourhood with this id is defined; change its practices or manager")
	}
	return []proto.Message{&pb.NeighbourhoodDefined{Name: c.Name, Organisation: c.Organisation, Alliance: c.Alliance,
		Practices: c.Practices, Manager: c.Manager, AllianceContact: c.Contact}}, nil
}

// ChangePractices replaces the practices served. No patient is moved by it.
type ChangePractices struct{ Practices []string }

// Decide does nothing when they are the same.
func (c ChangePractices) Decide(n Neighbourhood) ([]proto.Message, error) {
	if err := n.known(); err != nil {
		return nil, err
	}
	if slices.Equal(n.Practices, c.Practices) {
		return nil, nil
	}
	return []proto.Message{&pb.PracticesServedChanged{Practices: c.Practices}}, nil
}

// ChangeManager names another manager.
type ChangeManager struct{ Manager *Party }

// Decide refuses a neighbourhood that is not defined.
func (c ChangeManager) Decide(n Neighbourhood) ([]proto.Message, error) {
	if err := n.known(); err != nil {
		return nil, err
	}
	return []proto.Message{&pb.ManagerChanged{Manager: c.Manager}}, nil
}

// AcceptFallback records that a pool takes responsibility in advance.
type AcceptFallback struct {
	Pool       *Party
	Until, Now time.Time
	OutOfHours string
	By         Acceptor
}

// Decide wants the pool itself to accept, for a time that is not over.
func (c AcceptFallback) Decide(n Neighbourhood) ([]proto.Message, error) {
	if err := n.known(); err != nil {
		return nil, err
	}
	switch {
	case c.Pool.Kind != pb.PartyKind_PARTY_KIND_FALLBACK_POOL:
		return nil, fault.Invalid("carelead.fallback.not_a_pool", "pool.kind", "must be PARTY_KIND_FALLBACK_POOL")
	case !c.Now.Before(c.Until):
		return nil, fault.Invalid("carelead.fallback.until", "until", "must be in the future")
	case !c.By.speaksFor(c.Pool):
		return nil, fault.Denied("carelead.fallback.not_pool", "only a member of the pool's organisation may accept for it")
	}
	return []proto.Message{&pb.FallbackPoolAccepted{Pool: c.Pool, Until: stamp(c.Until), OutOfHoursMessage: c.OutOfHours, AcceptedBy: c.By.User}}, nil
}

// RunFallback records that the standing acceptance ran out; nothing before.
type RunFallback struct{ Now time.Time }

// Decide does nothing while it stands.
func (c RunFallback) Decide(n Neighbourhood) ([]proto.Message, error) {
	if n.Pool == nil || n.Pool.stands(c.Now) {
		return nil, nil
	}
	return []proto.Message{&pb.FallbackPoolLapsed{At: stamp(n.Pool.Until)}}, nil
}
