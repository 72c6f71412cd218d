package bus

import (
	"testing"

	"google.golang.org/protobuf/proto"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
)

func TestHearGivesWhatTheBusCarries(t *testing.T) {
	t.Parallel()
	stored := recorded(t, "appointment-5b0c7a52", &appointmentv1.AppointmentBooked{AppointmentId: "a-1", Purpose: "clinical purpose"}, fullMetadata)
	e, relayed, err := Mapping{}.Hear(*stored)
	if err != nil || !relayed {
		t.Fatalf("relayed %v: %v", relayed, err)
	}
	if want := (&appointmentv1.AppointmentBooked{AppointmentId: "a-1"}); !proto.Equal(e.Message, want) {
		t.Errorf("heard %v, want %v", e.Message, want)
	}
	if e.Category != "appointment" || e.StreamID != "5b0c7a52" || e.Position != stored.Position || e.Revision != stored.Revision || e.Tenant != "RJ1" || !e.Recorded.Equal(stored.Recorded) {
		t.Errorf("heard %+v", e)
	}
	stored.Stream = "checkpoint-plan"
	if _, relayed, err := (Mapping{}).Hear(*stored); relayed || err != nil {
		t.Errorf("an excluded category is relayed %v: %v", relayed, err)
	}
}
