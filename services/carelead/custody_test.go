package carelead

import (
	"testing"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/es"
)

// TestCustodyOfPlaces holds what an auditor takes for a fault against what
// TakePlace and RestorePlace do. The simulation met the second and third case
// (make sim SEED=142 of its first workload).
func TestCustodyOfPlaces(t *testing.T) {
	take := func(pathway, handover string) proto.Message {
		return &pb.CaseloadPlaceTaken{PathwayId: pathway, HandoverId: handover}
	}
	for name, c := range map[string]struct {
		events []proto.Message
		bad    bool
	}{
		"an offer":                                    {[]proto.Message{take("p", "h")}, false},
		"a newer offer takes over the place":          {[]proto.Message{take("p", "h"), take("p", "h2")}, false},
		"a pathway comes back where there is no room": {[]proto.Message{take("p", "h"), take("q", "")}, false},
		"the same offer takes two":                    {[]proto.Message{take("p", "h"), take("p", "h")}, true},
		"beyond the capacity":                         {[]proto.Message{take("p", "h"), take("q", "h2")}, true},
		"freed twice":                                 {[]proto.Message{take("p", "h"), &pb.CaseloadPlaceFreed{PathwayId: "p"}, &pb.CaseloadPlaceFreed{PathwayId: "p"}}, true},
	} {
		a := NewCustody(nil)
		err := a.lead("lead", es.Entry{Event: &pb.LeadRegistered{Party: &pb.Party{Organisation: "RRV"}, Capacity: 1}})
		for _, e := range c.events {
			if err == nil {
				err = a.lead("lead", es.Entry{Event: e})
			}
		}
		if (err != nil) != c.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}
