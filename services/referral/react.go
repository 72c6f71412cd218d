package referral

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/grpc/status"

	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/fault"
)

// react does what events of pathways ask of this service. The command's id
// derives from the event's, and its request holds only what the event says, so
// that an event heard twice is the same command twice. A refusal is the end of it;
// any other error makes the bus deliver again.
func (s *service) react(ctx context.Context, e bus.Event) error {
	var err error
	switch m := e.Message.(type) {
	case *pb.DiagnosisCommunicated:
		_, err = s.offer(ctx, &pb.OfferServicesRequest{Command: asked(e, "offer services"), PathwayId: e.StreamID, TumourGroup: m.Facts.GetTumourGroup()})
	case *pb.PathwayRerouted:
		for _, o := range m.Facts.GetOnward() {
			if err = s.startOnward(ctx, e, m, o); err != nil && !fault.IsAnswer(err) {
				break
			}
		}
	}
	if err != nil && !fault.IsAnswer(err) {
		return fmt.Errorf("referral: on %s: %w", nameOf(e.Message), err)
	}
	return nil
}

// asked is the header of the command that an event asks for.
func asked(e bus.Event, purpose string) *metav1.Command {
	return &metav1.Command{
		CommandId:     uuid.NewSHA1(e.ID, []byte(purpose)).String(),
		Actor:         &metav1.Actor{User: "waymark/referral", Organisation: e.Tenant},
		Tenant:        e.Tenant,
		CorrelationId: e.CorrelationID,
		CausationId:   e.ID.String(),
	}
}

// startOnward starts a pathway on which a rerouted patient goes on: with the
// start date, and with what was recorded of the first appointment.
func (s *service) startOnward(ctx context.Context, e bus.Event, m *pb.PathwayRerouted, o *pb.Onward) error {
	origin, err := s.pathways.Load(ctx, streamID(e.StreamID))
	if err != nil {
		return err
	}
	req := &pb.StartPathwayRequest{Command: asked(e, "start "+o.PathwayId), PathwayId: o.PathwayId, PersonId: m.PersonId,
		Facts: &pb.StartFacts{ReceivedOn: m.Start.GetReceivedOn(), Priority: m.Start.GetPriority(), Source: m.Start.GetSource(),
			ReferralType: o.ReferralType, ResponsibleTeam: o.ResponsibleTeam}}
	c := StartPathway{CommandID: commandID(req), Today: s.today(), PersonID: m.PersonId, ReroutedFrom: e.StreamID,
		Facts: req.Facts, Seen: m.FirstSeen, Adjustment: m.FirstSeenAdjustment}
	if start := origin.Value.start; start != nil {
		// The bus does not carry the patient pathway identifier; it stays that of the origin.
		c.Facts = &pb.StartFacts{ReceivedOn: req.Facts.ReceivedOn, Priority: req.Facts.Priority, Source: req.Facts.Source,
			ReferralType: req.Facts.ReferralType, ResponsibleTeam: req.Facts.ResponsibleTeam,
			PathwayIdentifier: start.PathwayIdentifier, PathwayIdentifierIssuer: start.PathwayIdentifierIssuer}
	}
	_, err = s.doPathway(ctx, o.PathwayId, req, c)
	return err
}

// offer chooses services for the patient of a pathway and records the offer.
func (s *service) offer(ctx context.Context, req *pb.OfferServicesRequest) (*pb.OfferReply, error) {
	c := OfferServices{CommandID: commandID(req)}
	// What was done already is answered without looking anything up again.
	done, err := s.referrals.Load(ctx, streamID(req.PathwayId))
	if err != nil {
		return nil, err
	}
	if done.Value.Offer(offerID(c.CommandID)) == nil {
		p, err := s.exists(ctx, req.PathwayId)
		if err != nil {
			return nil, err
		}
		if p.closed != nil {
			return nil, fault.Refused("pathway.closed", "the pathway is closed: nothing is offered")
		}
		known, err := s.lookUp(ctx, p.PersonID)
		if err != nil {
			return nil, err
		}
		if known.stop {
			return nil, fault.Refused("referral.offer.messages_stopped", "nothing is sent to this patient any more")
		}
		if err := s.directory.Wait(ctx, 0); err != nil {
			return nil, err
		}
		c.Services, c.Basis = s.directory.toOffer(req.TumourGroup, known.language, known.area)
		c.Basis.LookupRefused = known.refused
	}
	return s.doOffer(ctx, req, offerID(c.CommandID), c)
}

// patient is what an offer needs to know of a person.
type patient struct {
	language, area string // "" where not known, or withheld for a restricted person
	stop           bool   // a death was reported
	refused        string // code with which the person service answered instead
}

// lookUp asks the person service. Its refusal is an answer: the offer is then
// made by tumour group alone, and says so. That it cannot be reached is none.
func (s *service) lookUp(ctx context.Context, personID string) (patient, error) {
	if s.person == nil {
		return patient{refused: "person.not_connected"}, nil
	}
	reply, err := s.person.GetPerson(ctx, &personv1.GetPersonRequest{PersonId: personID})
	if err != nil {
		if fault.IsAnswer(err) {
			return patient{refused: or(fault.CodeOf(err), status.Code(err).String())}, nil
		}
		return patient{}, err
	}
	p := patient{area: reply.Person.GetArea(), stop: reply.Person.GetMessagesStopped()}
	needs := reply.Person.GetNeeds().GetCommunication()
	if i := slices.IndexFunc(needs, func(n *personv1.CommunicationNeedRecord) bool { return n.GetNeed().GetLanguage() != "" }); i >= 0 {
		p.language = needs[i].GetNeed().GetLanguage()
	}
	return p, nil
}
