package pathway

import (
	"slices"

	pb "waymark/proto/waymark/pathway/v1"
	personv1 "waymark/proto/waymark/person/v1"
)

// foldPerson adds one event of a "person-" stream to what is kept of the person:
// no name, no number and no place. It fails as fold does.
func foldPerson(p *pb.Person, e event) error {
	switch m := e.message.(type) {
	case *personv1.PersonRegistered:
		p.PersonId = m.PersonId
	case *personv1.RestrictionSet:
		p.Restricted = m.Code == "R" || m.Code == "V"
	case *personv1.RestrictionLifted:
		p.Restricted = false
	case *personv1.CommunicationNeedRecorded:
		if m.Need.GetLanguage() != "" || m.Need.GetCode() == signInterpreter {
			p.InterpreterNeeds = append(p.InterpreterNeeds, m.NeedId)
		}
	case *personv1.NeedsReviewed:
		p.InterpreterNeeds = slices.DeleteFunc(p.InterpreterNeeds, func(id string) bool { return slices.Contains(m.EndedNeedIds, id) })
	case *personv1.DeathReportedInformally:
		p.Death = "1"
	case *personv1.DeathConfirmed:
		p.Death = "2"
	case *personv1.DeathNotificationRetracted:
		p.Death = ""
	case *personv1.LeftEnglandReported:
		p.LeftEngland = true
	case *personv1.PersonMergedInto:
		p.MergedInto, p.MergeId = m.SurvivingPersonId, m.MergeId
	case *personv1.PersonsMerged:
		p.Merged = append(p.Merged, &pb.Person_Merged{MergeId: m.MergeId, Restricted: m.MergedRestriction != "", Death: m.MergedDeath})
	case *personv1.MergeReversed:
		if p.MergeId == m.MergeId {
			p.MergedInto, p.MergeId = "", ""
		}
		p.Merged = slices.DeleteFunc(p.Merged, func(x *pb.Person_Merged) bool { return x.MergeId == m.MergeId })
	case *personv1.NhsNumberRecorded, *personv1.NhsNumberStatusChanged, *personv1.NhsNumberSuperseded, *personv1.NhsNumberInvalidated, *personv1.NhsNumberEnteredInError,
		*personv1.DemographicsUpdated, *personv1.SourceMessageOutdated, *personv1.LocalIdentifierAdded, *personv1.LocalIdentifierReplaced,
		*personv1.PracticeChanged, *personv1.AreaChanged, *personv1.AdjustmentRecorded, *personv1.NeedsReviewDue, *personv1.NeedsConsentRecorded,
		*personv1.ProxyRecorded, *personv1.ProxyEnded, *personv1.MergeHeldForReview, *personv1.MergeApproved, *personv1.MergeRejected,
		*personv1.PersonsLinked, *personv1.PersonsUnlinked:
	default:
		return unknown(e)
	}
	p.LastPosition = max(p.LastPosition, uint64(e.Position))
	return nil
}

// signInterpreter is SNOMED CT 204331000000107, British Sign Language interpreter needed.
const signInterpreter = "204331000000107"

// flags joins what is kept of a person, where need be of the one it was merged
// into. lookup returns nil for a person of whom nothing was recorded.
func flags(id string, lookup func(id string) (*pb.Person, error)) (*pb.PersonFlags, error) {
	out := &pb.PersonFlags{PersonId: id}
	for range 10 { // merges into merges; a ring cannot be recorded, but is not to hang anybody
		p, err := lookup(id)
		if err != nil || p == nil {
			return out, err
		}
		out.LastPosition = max(out.LastPosition, p.LastPosition)
		out.Restricted, out.Interpreter = out.Restricted || p.Restricted, out.Interpreter || len(p.InterpreterNeeds) > 0
		out.LeftEngland, out.Death = out.LeftEngland || p.LeftEngland, max(out.Death, p.Death)
		for _, m := range p.Merged {
			out.Restricted, out.Death = out.Restricted || m.Restricted, max(out.Death, m.Death)
		}
		if p.MergedInto == "" {
			return out, nil
		}
		out.MergedInto, id = p.MergedInto, p.MergedInto
	}
	return out, nil
}
