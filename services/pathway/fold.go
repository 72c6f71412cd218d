package pathway

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// categories of streams that belong to one pathway each: "<category>-<pathway id>".
var categories = []string{"pathway", "referral", "plan", "appointment", "carelead"}

// event is a recorded event with its message.
type event struct {
	*es.Recorded
	message proto.Message
}

func decode(e *es.Recorded) (event, error) {
	m, err := es.Decode(*e)
	return event{e, m}, err
}

// at is the recorded time, as views hold it.
func (e event) at() *timestamppb.Timestamp { return timestamppb.New(e.Recorded.Recorded) }

// fold adds one event to a view. It is total: whatever order events come in, as
// they do when they are placed by when they happened, it takes what it can. Call
// derive when the last one is in.
//
// It fails for an event that it has no case for, and leaves the view as it was:
// what such an event changes is not known, so nobody may be shown a view without it.
func fold(v *pb.Pathway, e event) error {
	if !foldFacts(v, e) && !foldReferral(v, e) && !foldLedger(v, e) && !foldPlan(v, e) && !foldSummary(v, e) && !foldSurveillance(v, e) && !foldAppointment(v, e) {
		return unknown(e)
	}
	v.Events++
	if p := uint64(e.Position); p > v.LastPosition {
		v.LastPosition = p
		if v.LastRecorded == nil {
			v.LastRecorded = &timestamppb.Timestamp{}
		}
		v.LastRecorded.Seconds, v.LastRecorded.Nanos = e.Recorded.Recorded.Unix(), int32(e.Recorded.Recorded.Nanosecond())
	}
	return nil
}

func unknown(e event) error {
	return fault.Lost("pathway.event_unknown", fmt.Sprintf("stream %s, revision %d: this release cannot take in a %s", e.Stream, e.Revision, e.Type))
}

// foldFacts takes the events of "pathway-" streams. Facts are kept as they were
// recorded; all that follows from them is derive's.
func foldFacts(v *pb.Pathway, e event) bool {
	switch m := e.message.(type) {
	case *referralv1.PathwayStarted:
		v.PersonId, v.StartRoute, v.Ruleset, v.ReroutedFrom = m.PersonId, m.Route, m.Ruleset, m.ReroutedFrom
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_Start{Start: m.Facts}})
		if len(v.Custody) == 0 {
			take(v, e, &pb.Custody{Holder: teamOf(m.Facts.GetResponsibleTeam())})
		}
	case *referralv1.UpgradedByConsultant:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_Upgrade{Upgrade: m.Facts}})
	case *referralv1.FirstSeen:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_FirstSeen{FirstSeen: m.Facts}})
	case *referralv1.FirstAppointmentMissed:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_FirstAppointmentMissed{FirstAppointmentMissed: m.Facts}})
	case *referralv1.FirstSeenAdjustmentSet:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_FirstSeenAdjustment{FirstSeenAdjustment: m.Facts}})
	case *referralv1.DiagnosisCommunicated:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_Diagnosis{Diagnosis: m.Facts}})
	case *referralv1.CancerRuledOutCommunicated:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_RuledOut{RuledOut: m.Facts}})
	case *referralv1.FasterDiagnosisExcluded:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_Exclusion{Exclusion: m.Facts}})
	case *referralv1.DecisionToTreatMade:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_DecisionToTreat{DecisionToTreat: m.Facts}})
	case *referralv1.EcadSet:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_Ecad{Ecad: m.Facts}})
	case *referralv1.TreatmentOffered:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_TreatmentOffer{TreatmentOffer: m.Facts}})
	case *referralv1.ReasonableOfferDeclined:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_OfferDeclined{OfferDeclined: m.Facts}})
	case *referralv1.TreatmentAdjustmentSet:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_TreatmentAdjustment{TreatmentAdjustment: m.Facts}})
	case *referralv1.TransferredToTreatingProvider:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_Transfer{Transfer: m.Facts}})
	case *referralv1.TreatmentStarted:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_Treatment{Treatment: m.Facts}})
	case *referralv1.TreatmentPeriodEnded:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_TreatmentEnd{TreatmentEnd: m.Facts}})
	case *referralv1.FollowUpStarted:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_FollowUp{FollowUp: m.Facts}})
	case *referralv1.PathwayRerouted:
		fact(v, e, m.FactId, nil).Onward = m.Facts.GetOnward()
	case *referralv1.PathwayClosed:
		fact(v, e, m.FactId, &referralv1.Replacement{Facts: &referralv1.Replacement_Close{Close: m.Facts}})
	case *referralv1.ClockCorrected:
		v.Corrections++
		correct(v, e, m)
	default:
		return false
	}
	return true
}

func fact(v *pb.Pathway, e event, id string, facts *referralv1.Replacement) *pb.RecordedFact {
	f := &pb.RecordedFact{FactId: id, Event: nameOf(e.message), Facts: facts, Recorded: e.at(), Position: uint64(e.Position)}
	v.Facts = append(v.Facts, f)
	return f
}

// correct strikes the wrong fact, or puts the right one in its place.
func correct(v *pb.Pathway, e event, m *referralv1.ClockCorrected) {
	for i, f := range v.Facts {
		if !strings.EqualFold(f.FactId, m.WrongFactId) {
			continue
		}
		if f.Facts.GetStart() != nil && m.Route != referralv1.Route_ROUTE_UNSPECIFIED {
			v.StartRoute = m.Route
		}
		if m.Replacement == nil {
			v.Facts = append(v.Facts[:i], v.Facts[i+1:]...)
			return
		}
		v.Facts[i] = &pb.RecordedFact{FactId: m.FactId, Event: f.Event, Facts: m.Replacement, Recorded: e.at(), Position: uint64(e.Position)}
		return
	}
}

func nameOf(m proto.Message) string { return string(m.ProtoReflect().Descriptor().Name()) }

// teamOf is a treating team as a party. Before the ledger has its first event,
// the team that the pathway started with is accountable by definition.
func teamOf(t *referralv1.Team) *careleadv1.Party {
	return &careleadv1.Party{Kind: careleadv1.PartyKind_PARTY_KIND_TEAM, Id: t.GetCode(), Name: t.GetName(), Organisation: t.GetOrganisation()}
}

// foldReferral takes the events of "referral-" streams.
func foldReferral(v *pb.Pathway, e event) bool {
	of := func(id, state string) *pb.Referral {
		r := find(&v.Referrals, id, (*pb.Referral).GetReferralId, func() *pb.Referral { return &pb.Referral{ReferralId: id} })
		if state != "" {
			r.State = state
		}
		return r
	}
	end := func(id, state string) *pb.Referral {
		r := of(id, state)
		r.EndedAt, r.Owner, r.RespondBy = e.at(), nil, nil
		return r
	}
	switch m := e.message.(type) {
	case *referralv1.ReferralDrafted:
		r := of(m.ReferralId, "drafted")
		r.HumanId, r.Kind, r.TargetOrganisation = m.HumanId, m.Content.GetKind(), m.Content.GetTarget().GetOrganisation()
		if r.ScreeningLevel = m.Content.GetScreeningLevel(); r.ScreeningLevel != referralv1.ScreeningLevel_SCREENING_LEVEL_UNSPECIFIED {
			r.ScreenedAt = e.at()
		}
	case *referralv1.ReferralSent:
		r := of(m.ReferralId, "sent")
		r.SentAt, r.RespondBy, r.Owner = m.SentAt, m.RespondBy, m.Owner
	case *referralv1.ReferralReceived:
		r := of(m.ReferralId, "received")
		r.Owner, r.ReceivedAt = m.Owner, e.at()
	case *referralv1.ReferralAccepted:
		r := of(m.ReferralId, "accepted")
		r.Owner, r.AcceptedAt, r.RespondBy, r.Unacknowledged = m.Owner, e.at(), nil, false
	case *referralv1.ReferralRejected:
		end(m.ReferralId, "rejected").Owner = m.Owner
	case *referralv1.ReferralRedirected:
		end(m.ReferralId, "redirected").OnwardReferralId = m.OnwardReferralId
	case *referralv1.ReferralBegun:
		of(m.ReferralId, "begun").RespondBy = nil
	case *referralv1.ReferralHeld:
		of(m.ReferralId, "held")
	case *referralv1.ReferralResumed:
		of(m.ReferralId, "begun")
	case *referralv1.ReferralCancelled:
		end(m.ReferralId, "cancelled").OnwardReferralId = m.ReplacedBy
	case *referralv1.ReferralCompleted:
		end(m.ReferralId, "completed")
	case *referralv1.ReferralNotAttended:
		r := of(m.ReferralId, "not_attended")
		r.Owner = m.Owner
	case *referralv1.ReferralUnacknowledged:
		r := of(m.ReferralId, "")
		r.Unacknowledged, r.Owner = true, m.Owner
	case *referralv1.ProgrammeOffered:
		of(m.ReferralId, "").ProgrammeState = "offered"
	case *referralv1.ProgrammeAccepted:
		of(m.ReferralId, "").ProgrammeState = "accepted"
	case *referralv1.ProgrammeDeclined:
		of(m.ReferralId, "").ProgrammeState = "declined"
	case *referralv1.ProgrammeAttended:
		of(m.ReferralId, "").ProgrammeState = "attended"
	case *referralv1.ProgrammeCompleted:
		of(m.ReferralId, "").ProgrammeState = "completed"
	case *referralv1.ProgrammeDroppedOut:
		of(m.ReferralId, "").ProgrammeState = "dropped_out"
	case *referralv1.ServicesOffered:
		o := offer(v, m.OfferId, "offered")
		o.OfferedOn, o.Services = civil(e.at()), int32(len(m.Services))
	case *referralv1.OfferAccepted:
		offer(v, m.OfferId, "accepted")
	case *referralv1.OfferDeclined:
		offer(v, m.OfferId, "declined")
	default:
		return false
	}
	return true
}

func offer(v *pb.Pathway, id, state string) *pb.ServicesOffer {
	o := find(&v.ServicesOffers, id, (*pb.ServicesOffer).GetOfferId, func() *pb.ServicesOffer { return &pb.ServicesOffer{OfferId: id} })
	o.State = state
	return o
}

// find returns the item with an id, and adds one where there is none.
func find[T any](list *[]T, id string, idOf func(T) string, make func() T) T {
	for _, item := range *list {
		if idOf(item) == id {
			return item
		}
	}
	item := make()
	*list = append(*list, item)
	return item
}
