package referral

import (
	"context"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// referralServer is the gRPC face of referrals and offers.
type referralServer struct {
	pb.UnimplementedReferralServiceServer
	*service
}

// do runs a command on a pathway's referrals and answers with one of them.
func (s *referralServer) do(ctx context.Context, req onPathway, referralID string, c decision[Referrals]) (*pb.ReferralReply, error) {
	id := streamID(req.GetPathwayId())
	state, err := s.referrals.Do(ctx, id, req, c.Decide)
	if err != nil {
		return nil, err
	}
	return &pb.ReferralReply{Referral: Message(state.Value.Referral(referralID), id), Receipt: state.Receipt()}, nil
}

func (s *referralServer) DraftReferral(ctx context.Context, req *pb.DraftReferralRequest) (*pb.ReferralReply, error) {
	if _, err := s.exists(ctx, req.PathwayId); err != nil {
		return nil, err
	}
	c := DraftReferral{DraftReferralRequest: req, CommandID: commandID(req), Today: s.today()}
	return s.do(ctx, req, or(req.ReferralId, referralID(c.CommandID)), c)
}

func (s *referralServer) SendReferral(ctx context.Context, req *pb.SendReferralRequest) (*pb.ReferralReply, error) {
	// The content of a referral never changes, so its target may be looked up first.
	state, err := s.referrals.Load(ctx, streamID(req.PathwayId))
	if err != nil {
		return nil, err
	}
	service, err := s.entry(ctx, state.Value.Referral(req.ReferralId).GetContent().GetTarget().GetServiceId())
	if err != nil {
		return nil, err
	}
	return s.do(ctx, req, req.ReferralId, SendReferral{SendReferralRequest: req, Now: s.clock(), Service: service})
}

func (s *referralServer) AcknowledgeReceipt(ctx context.Context, req *pb.AcknowledgeReceiptRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, AcknowledgeReceipt{req})
}

func (s *referralServer) AcceptReferral(ctx context.Context, req *pb.AcceptReferralRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, AcceptReferral{req})
}

func (s *referralServer) RejectReferral(ctx context.Context, req *pb.RejectReferralRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, RejectReferral{req})
}

func (s *referralServer) RedirectReferral(ctx context.Context, req *pb.RedirectReferralRequest) (*pb.ReferralReply, error) {
	service, err := s.entry(ctx, req.Target.GetServiceId())
	if err != nil {
		return nil, err
	}
	return s.do(ctx, req, req.ReferralId, RedirectReferral{RedirectReferralRequest: req, CommandID: commandID(req), Now: s.clock(), Service: service})
}

func (s *referralServer) BeginReferral(ctx context.Context, req *pb.BeginReferralRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, BeginReferral{req})
}

func (s *referralServer) HoldReferral(ctx context.Context, req *pb.HoldReferralRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, HoldReferral{req})
}

func (s *referralServer) ResumeReferral(ctx context.Context, req *pb.ResumeReferralRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, ResumeReferral{req})
}

func (s *referralServer) CancelReferral(ctx context.Context, req *pb.CancelReferralRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, CancelReferral{req})
}

func (s *referralServer) CompleteReferral(ctx context.Context, req *pb.CompleteReferralRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, CompleteReferral{req})
}

func (s *referralServer) RecordNotAttended(ctx context.Context, req *pb.RecordNotAttendedRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, RecordNotAttended{req, s.today()})
}

func (s *referralServer) RecordNoResponse(ctx context.Context, req *pb.RecordNoResponseRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, RecordNoResponse{req, s.clock()})
}

func (s *referralServer) OfferProgramme(ctx context.Context, req *pb.OfferProgrammeRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, OfferProgramme{req})
}

func (s *referralServer) AcceptProgramme(ctx context.Context, req *pb.AcceptProgrammeRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, AcceptProgramme{req})
}

func (s *referralServer) DeclineProgramme(ctx context.Context, req *pb.DeclineProgrammeRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, DeclineProgramme{req})
}

func (s *referralServer) RecordProgrammeAttendance(ctx context.Context, req *pb.RecordProgrammeAttendanceRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, RecordProgrammeAttendance{req, s.today()})
}

func (s *referralServer) CompleteProgramme(ctx context.Context, req *pb.CompleteProgrammeRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, CompleteProgramme{req, s.today()})
}

func (s *referralServer) DropOutOfProgramme(ctx context.Context, req *pb.DropOutOfProgrammeRequest) (*pb.ReferralReply, error) {
	return s.do(ctx, req, req.ReferralId, DropOutOfProgramme{req, s.today()})
}

// doOffer runs a command on a pathway's offers and answers with one of them.
func (s *service) doOffer(ctx context.Context, req onPathway, offerID string, c decision[Referrals]) (*pb.OfferReply, error) {
	id := streamID(req.GetPathwayId())
	state, err := s.referrals.Do(ctx, id, req, c.Decide)
	if err != nil {
		return nil, err
	}
	offer := offerMessage(state.Value.Offer(offerID), id)
	return &pb.OfferReply{Offer: offer, Referral: Message(state.Value.Referral(offer.GetReferralId()), id), Receipt: state.Receipt()}, nil
}

func offerMessage(o *pb.ServiceOffer, pathwayID string) *pb.ServiceOffer {
	if o == nil {
		return nil
	}
	return &pb.ServiceOffer{OfferId: o.OfferId, PathwayId: pathwayID, State: o.State, Services: o.Services, Basis: o.Basis,
		AcceptedServiceId: o.AcceptedServiceId, Consent: o.Consent, ReferralId: o.ReferralId}
}

func (s *referralServer) OfferServices(ctx context.Context, req *pb.OfferServicesRequest) (*pb.OfferReply, error) {
	return s.offer(ctx, req)
}

func (s *referralServer) AcceptOffer(ctx context.Context, req *pb.AcceptOfferRequest) (*pb.OfferReply, error) {
	service, err := s.entry(ctx, req.ServiceId)
	if err != nil {
		return nil, err
	}
	return s.doOffer(ctx, req, req.OfferId, AcceptOffer{AcceptOfferRequest: req, CommandID: commandID(req), Today: s.today(), Service: service})
}

func (s *referralServer) DeclineOffer(ctx context.Context, req *pb.DeclineOfferRequest) (*pb.OfferReply, error) {
	return s.doOffer(ctx, req, req.OfferId, DeclineOffer{req})
}

// GetReferral reads the stream, so its answer is never behind min_position.
func (s *referralServer) GetReferral(ctx context.Context, req *pb.GetReferralRequest) (*pb.GetReferralResponse, error) {
	id := streamID(req.PathwayId)
	state, err := s.referrals.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	r := state.Value.Referral(req.ReferralId)
	if r == nil {
		return nil, errNoReferral
	}
	return &pb.GetReferralResponse{Referral: Message(r, id), ReadAt: state.Receipt()}, nil
}

// ListReferrals reads the stream, so its answer is never behind min_position.
func (s *referralServer) ListReferrals(ctx context.Context, req *pb.ListReferralsRequest) (*pb.ListReferralsResponse, error) {
	id := streamID(req.PathwayId)
	state, err := s.referrals.LoadAt(ctx, id, es.Position(req.AsOfPosition))
	if err != nil {
		return nil, err
	}
	if state.Revision == es.NoStream {
		if _, err := s.exists(ctx, id); err != nil {
			return nil, err
		}
	}
	out := &pb.ListReferralsResponse{ReadAt: state.Receipt()}
	for _, r := range state.Value.referrals {
		out.Referrals = append(out.Referrals, Message(r, id))
	}
	for _, o := range state.Value.offers {
		out.Offers = append(out.Offers, offerMessage(o, id))
	}
	return out, nil
}

var errNoReferral = fault.NotFound("referral.not_found", "there is no such referral on this pathway")
