package pathway

import (
	"slices"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
)

// foldLead adds one event of a "lead-" stream to what is counted of the lead. It
// fails as fold does.
func foldLead(l *pb.Lead, e event) error {
	without := func(list []string, id string) []string {
		return slices.DeleteFunc(list, func(x string) bool { return x == id })
	}
	switch m := e.message.(type) {
	case *careleadv1.LeadRegistered:
		l.Organisation, l.Capacity = m.Party.GetOrganisation(), m.Capacity
	case *careleadv1.LeadActivated:
		l.Active = true
	case *careleadv1.CapacityChanged:
		l.Capacity = m.Capacity
	case *careleadv1.CaseloadPlaceTaken:
		l.Places = append(without(l.Places, m.PathwayId), m.PathwayId)
	case *careleadv1.CaseloadPlaceFreed:
		l.Places = without(l.Places, m.PathwayId)
	case *careleadv1.LeaveStarted:
		l.OnLeave = append(without(l.OnLeave, m.LeaveId), m.LeaveId)
	case *careleadv1.LeaveEnded:
		l.OnLeave = without(l.OnLeave, m.LeaveId)
	case *careleadv1.LeadDeactivated:
		l.Active, l.OnLeave = false, nil
	case *careleadv1.LeaveBooked, *careleadv1.LeaveCancelled:
	default:
		return unknown(e)
	}
	return nil
}
