package pathway

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

// gated holds reads back until as many as expected have begun.
type gated struct {
	es.Log
	mu    sync.Mutex
	asked []string
	wait  int
	open  chan struct{}
}

func (g *gated) Read(ctx context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	g.mu.Lock()
	if g.asked = append(g.asked, stream); len(g.asked) == g.wait {
		close(g.open)
	}
	g.mu.Unlock()
	select {
	case <-g.open:
		return g.Log.Read(ctx, stream, from, yield)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestPersonIsReadAtOnce: where the model knows whose pathway it is, all streams
// are asked for before any of them has answered.
func TestPersonIsReadAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.record(t, "person-"+personID, time.Time{}, &personv1.PersonRegistered{PersonId: personID}, &personv1.RestrictionSet{Code: "R"})
	head := w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: strings.ToUpper(personID)})
	log := &gated{Log: w, wait: len(categories) + 1, open: make(chan struct{})}
	c := serve(t, run.Deps{Log: log, Clock: w.clock})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// The list waits until the model holds the pathway.
	if _, err := c.ListCaseload(ctx, &pb.ListCaseloadRequest{PartyId: "BREAST", MinPosition: uint64(head)}); err != nil {
		t.Fatal(err)
	}
	got, err := c.GetPathway(ctx, &pb.GetPathwayRequest{PathwayId: pathwayID})
	if err != nil || !got.Pathway.Person.GetRestricted() {
		t.Fatalf("%v, %v", got, err)
	}
	if len(log.asked) != log.wait {
		t.Errorf("read %q", log.asked)
	}
}

// TestExpectedPersonChangesNothing: whatever person is expected, what is loaded is
// what the log says, merges and all.
func TestExpectedPersonChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	other, survivor, second := uuid.NewString(), uuid.NewString(), uuid.NewString()
	w.record(t, "person-"+personID, time.Time{}, &personv1.PersonRegistered{PersonId: personID}, &personv1.PersonMergedInto{SurvivingPersonId: survivor, MergeId: "m"})
	w.record(t, "person-"+survivor, time.Time{}, &personv1.PersonRegistered{PersonId: survivor}, &personv1.RestrictionSet{Code: "V"})
	w.record(t, "person-"+second, time.Time{}, &personv1.PersonRegistered{PersonId: second})
	w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID})
	w.record(t, "carelead-"+pathwayID, time.Time{}, &careleadv1.LedgerPersonChanged{PersonId: second}, &careleadv1.LedgerPersonChanged{PersonId: personID})
	w.record(t, "person-"+other, time.Time{}, &personv1.PersonRegistered{PersonId: other}, &personv1.DeathConfirmed{}, &personv1.PersonMergedInto{SurvivingPersonId: uuid.NewString(), MergeId: "n"})
	want, err := load(t.Context(), w, pathwayID, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(want.persons) != 3 || len(want.persons[survivor]) != 2 {
		t.Fatalf("persons %v", want.persons)
	}
	for _, expected := range []string{personID, strings.ToUpper(personID), second, survivor, other, uuid.NewString()} {
		got, err := load(t.Context(), w, pathwayID, expected)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.persons) != len(want.persons) || got.position != want.position {
			t.Errorf("expecting %s: %d persons at %d, not %d at %d", expected, len(got.persons), got.position, len(want.persons), want.position)
		}
		a, _ := want.view(moment{})
		if b, err := got.view(moment{}); err != nil || !proto.Equal(a, b) || !b.Person.Restricted || b.Person.Death != "" {
			t.Errorf("expecting %s: %v, %v", expected, b, err)
		}
	}
}

// failing fails for one stream.
type failing struct {
	es.Log
	stream string
}

var errBroken = errors.New("broken")

func (f failing) Read(ctx context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	if stream == f.stream {
		return errBroken
	}
	return f.Log.Read(ctx, stream, from, yield)
}

// TestLoadFailsWhole: a pathway of which one stream cannot be read is not shown.
func TestLoadFailsWhole(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID})
	for _, stream := range []string{"pathway-" + pathwayID, "plan-" + pathwayID, "person-" + personID} {
		if h, err := load(t.Context(), failing{w, stream}, pathwayID, ""); !errors.Is(err, errBroken) || h != nil {
			t.Errorf("%s: %v, %v", stream, h, err)
		}
	}
}
