package referral

import (
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// The second half of the referral stream: programmes that a referral enrols into,
// and offers of services that the patient may take or leave.

// enrolled returns a referral whose programme stands in one of the states.
func (s Referrals) enrolled(id string, in ...pb.EnrolmentState) (*pb.Referral, error) {
	r, err := s.at(id, 0, accepted, inProgress)
	if err != nil {
		return nil, err
	}
	if !kinds[r.Content.Kind].programme {
		return nil, fault.Refused("referral.programme_none", "this kind of referral has no programme")
	}
	if !slices.Contains(in, r.Enrolment.GetState()) {
		return nil, fault.Refused("referral.programme_state", "the programme is not at this step: read the referral again")
	}
	return r, nil
}

// OfferProgramme offers the patient a place.
type OfferProgramme struct{ *pb.OfferProgrammeRequest }

// Decide refuses a second offer, and a referral that was not accepted.
func (c OfferProgramme) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.enrolled(c.ReferralId, pb.EnrolmentState_ENROLMENT_STATE_UNSPECIFIED)
	if err != nil {
		return nil, err
	}
	return events(&pb.ProgrammeOffered{ReferralId: r.ReferralId, Programme: c.Programme, StartsOn: c.StartsOn})
}

// AcceptProgramme records that the patient takes the place.
type AcceptProgramme struct{ *pb.AcceptProgrammeRequest }

// Decide refuses what was not offered.
func (c AcceptProgramme) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.enrolled(c.ReferralId, pb.EnrolmentState_ENROLMENT_STATE_OFFERED)
	if err != nil {
		return nil, err
	}
	return events(&pb.ProgrammeAccepted{ReferralId: r.ReferralId})
}

// DeclineProgramme records that the patient does not; the referral is complete.
type DeclineProgramme struct{ *pb.DeclineProgrammeRequest }

// Decide refuses what was not offered.
func (c DeclineProgramme) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.enrolled(c.ReferralId, pb.EnrolmentState_ENROLMENT_STATE_OFFERED)
	if err != nil {
		return nil, err
	}
	return events(&pb.ProgrammeDeclined{ReferralId: r.ReferralId, Note: c.Note},
		&pb.ReferralCompleted{ReferralId: r.ReferralId, Completion: pb.Completion_COMPLETION_DECLINED})
}

// RecordProgrammeAttendance records one session.
type RecordProgrammeAttendance struct {
	*pb.RecordProgrammeAttendanceRequest
	Today nhs.Date // in England
}

// Decide refuses a session of a programme that was not accepted, or in the future.
func (c RecordProgrammeAttendance) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.enrolled(c.ReferralId, pb.EnrolmentState_ENROLMENT_STATE_ACCEPTED, pb.EnrolmentState_ENROLMENT_STATE_ATTENDING)
	if err != nil {
		return nil, err
	}
	if err := happened(c.On, c.Today); err != nil {
		return nil, err
	}
	return events(&pb.ProgrammeAttended{ReferralId: r.ReferralId, On: c.On})
}

// CompleteProgramme ends the programme and with it the referral.
type CompleteProgramme struct {
	*pb.CompleteProgrammeRequest
	Today nhs.Date // in England
}

// Decide refuses a programme that nobody attended.
func (c CompleteProgramme) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.enrolled(c.ReferralId, pb.EnrolmentState_ENROLMENT_STATE_ATTENDING)
	if err != nil {
		return nil, err
	}
	if err := happened(c.On, c.Today); err != nil {
		return nil, err
	}
	return events(&pb.ProgrammeCompleted{ReferralId: r.ReferralId, On: c.On},
		&pb.ReferralCompleted{ReferralId: r.ReferralId, Completion: pb.Completion_COMPLETION_DONE})
}

// DropOutOfProgramme records that the patient left it.
type DropOutOfProgramme struct {
	*pb.DropOutOfProgrammeRequest
	Today nhs.Date // in England
}

// Decide refuses a programme that was not accepted.
func (c DropOutOfProgramme) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.enrolled(c.ReferralId, pb.EnrolmentState_ENROLMENT_STATE_ACCEPTED, pb.EnrolmentState_ENROLMENT_STATE_ATTENDING)
	if err != nil {
		return nil, err
	}
	if err := happened(c.On, c.Today); err != nil {
		return nil, err
	}
	return events(&pb.ProgrammeDroppedOut{ReferralId: r.ReferralId, On: c.On, Note: c.Note},
		&pb.ReferralCompleted{ReferralId: r.ReferralId, Completion: pb.Completion_COMPLETION_DROPPED_OUT})
}

// OfferServices offers what the directory has for the patient.
type OfferServices struct {
	CommandID uuid.UUID
	Services  []*pb.Service // that suit, from the directory
	Basis     *pb.OfferBasis
}

// Decide records the offer, also one of nothing: a gap in the directory is worth
// knowing. While an offer for the tumour group is open it records no second one.
func (c OfferServices) Decide(s Referrals) ([]proto.Message, error) {
	if s.Offer(offerID(c.CommandID)) != nil {
		return nil, nil
	}
	for _, o := range s.offers {
		if o.State == pb.OfferState_OFFER_STATE_OPEN && o.Basis.GetTumourGroup() == c.Basis.GetTumourGroup() {
			return nil, fault.Refused("referral.offer.open", "services are on offer to this patient already: accept or decline that offer first")
		}
	}
	e := &pb.ServicesOffered{OfferId: offerID(c.CommandID), Basis: c.Basis}
	for _, service := range c.Services {
		e.Services = append(e.Services, &pb.OfferedService{ServiceId: service.ServiceId, Name: service.Details.GetName()})
	}
	return events(e)
}

// offerID is the id of the offer that a command makes.
func offerID(command uuid.UUID) string { return uuid.NewSHA1(command, []byte("offer")).String() }

// Offer returns one offer, nil when there is none with the id.
func (s Referrals) Offer(id string) *pb.ServiceOffer {
	for _, o := range s.offers {
		if sameID(o.OfferId, id) {
			return o
		}
	}
	return nil
}

// changeOffer replaces an offer by a changed copy.
func (s Referrals) changeOffer(id string, edit func(*pb.ServiceOffer)) Referrals {
	s.offers = slices.Clone(s.offers)
	for i, o := range s.offers {
		if sameID(o.OfferId, id) {
			s.offers[i] = proto.CloneOf(o)
			edit(s.offers[i])
		}
	}
	return s
}

// openOffer returns an offer that can be answered.
func (s Referrals) openOffer(id string) (*pb.ServiceOffer, error) {
	switch o := s.Offer(id); {
	case o == nil:
		return nil, fault.NotFound("referral.offer.not_found", "there is no such offer on this pathway")
	case o.State != pb.OfferState_OFFER_STATE_OPEN:
		return nil, fault.Refused("referral.offer.not_open", "the offer was answered already")
	default:
		return o, nil
	}
}

// AcceptOffer records the patient's choice and consent, and drafts the referral.
// Nothing leaves: sending is a command of its own.
type AcceptOffer struct {
	*pb.AcceptOfferRequest
	CommandID uuid.UUID
	Today     nhs.Date    // in England
	Service   *pb.Service // the one chosen, from the directory; nil when unknown there
}

// Decide refuses a service that was not on offer or was retired since, and a
// consent that was not yet given.
func (c AcceptOffer) Decide(s Referrals) ([]proto.Message, error) {
	o, err := s.openOffer(c.OfferId)
	if err != nil {
		return nil, err
	}
	offered := slices.ContainsFunc(o.Services, func(s *pb.OfferedService) bool { return sameID(s.ServiceId, c.ServiceId) })
	if !offered || c.Service == nil || c.Service.Retired {
		return nil, fault.Refused("referral.offer.service", "this service is not on offer, or was retired since: choose another")
	}
	if err := past(c.Consent.ProtoReflect(), c.Today, "consent"); err != nil {
		return nil, err
	}
	if err := ranked(c.Contacts, "contacts"); err != nil {
		return nil, err
	}
	details := c.Service.Details
	target := &pb.Target{Organisation: details.Organisation, ServiceId: c.Service.ServiceId, Endpoint: details.Endpoint, Channel: pb.Channel_CHANNEL_MANUAL}
	if details.Endpoint != "" {
		target.Channel = pb.Channel_CHANNEL_BARS
	}
	id := referralID(c.CommandID)
	return events(
		&pb.OfferAccepted{OfferId: o.OfferId, ServiceId: c.Service.ServiceId, Consent: c.Consent, ReferralId: id},
		drafted(id, &pb.ReferralContent{
			Kind: referralKind(details), Requester: c.Consent.RecordedBy, Target: target,
			Priority: pb.ReferralPriority_REFERRAL_PRIORITY_ROUTINE, Contacts: c.Contacts, Consent: c.Consent,
		}))
}

// referralKind is the kind of referral that a service takes first.
func referralKind(d *pb.ServiceDetails) pb.ReferralKind {
	if len(d.Accepts) > 0 {
		return d.Accepts[0]
	}
	switch d.Kind {
	case pb.ServiceKind_SERVICE_KIND_SUPPORT_PROGRAMME:
		return pb.ReferralKind_REFERRAL_KIND_SUPPORT_PROGRAMME
	case pb.ServiceKind_SERVICE_KIND_COMMUNITY:
		return pb.ReferralKind_REFERRAL_KIND_SOCIAL_PRESCRIBING
	}
	return pb.ReferralKind_REFERRAL_KIND_CHARITY
}

// DeclineOffer records that the patient wants none of them.
type DeclineOffer struct{ *pb.DeclineOfferRequest }

// Decide refuses an offer that was answered.
func (c DeclineOffer) Decide(s Referrals) ([]proto.Message, error) {
	o, err := s.openOffer(c.OfferId)
	if err != nil {
		return nil, err
	}
	return events(&pb.OfferDeclined{OfferId: o.OfferId})
}
