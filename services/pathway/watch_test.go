package pathway

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

// picture is what a watcher of a party knows from what it was sent.
type picture struct {
	held  map[string]*pb.Pathway
	after uint64
	told  []string // what came since it was last asked
}

// watch goes on where the picture ends, until all was sent, or for that many messages.
func (p *picture) watch(t testing.TB, c pb.PathwayQueryServiceClient, party string, messages int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := c.Watch(ctx, &pb.WatchRequest{What: &pb.WatchRequest_PartyId{PartyId: party}, AfterPosition: p.after})
	if err != nil {
		t.Fatal(err)
	}
	p.told = nil
	for ; messages != 0; messages-- {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.Position < p.after {
			t.Fatalf("position %d after %d", m.Position, p.after)
		}
		p.after = m.Position
		switch id := m.Pathway.GetPathwayId(); {
		case m.CaughtUp:
			return
		case m.Left:
			p.told = append(p.told, "left "+id)
			delete(p.held, id)
		default:
			p.told = append(p.told, "is "+id)
			p.held[id] = m.Pathway
		}
	}
}

// arrived waits until the model holds all of the log, and returns the caseload of a party.
func arrived(t testing.TB, c pb.PathwayQueryServiceClient, party string, at es.Position) map[string]*pb.Pathway {
	t.Helper()
	got, err := c.ListCaseload(t.Context(), &pb.ListCaseloadRequest{PartyId: party, MinPosition: uint64(at), PageSize: 200})
	if err != nil {
		t.Fatal(err)
	}
	held := make(map[string]*pb.Pathway)
	for _, r := range got.Rows {
		held[r.PathwayId] = r.Pathway
	}
	return held
}

func (w *world) startPathway(t testing.TB, id, person string) es.Position {
	t.Helper()
	return w.record(t, "pathway-"+id, time.Time{}, &referralv1.PathwayStarted{FactId: uuid.NewString(), Facts: started, PersonId: person, Route: referralv1.Route_ROUTE_USC})
}

// TestWatchResumed: whoever was away is told of what changed, came and left since, also
// where it came and left unseen, and of nothing else.
func TestWatchResumed(t *testing.T) {
	t.Parallel()
	w := newWorld()
	c := serve(t, w.deps())
	ids := map[string]string{}
	var at es.Position
	ledger := func(name string, events ...proto.Message) {
		t.Helper()
		at = w.record(t, "carelead-"+ids[name], time.Time{}, events...)
	}
	pass := func(from, to *careleadv1.Party) proto.Message {
		return &careleadv1.AccountabilityTransferred{From: from, To: to}
	}
	for i, name := range []string{"stays", "changes", "leaves", "closes", "returns", "visits", "comes", "left before", "is renamed"} {
		ids[name] = uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)).String()
		at = w.startPathway(t, ids[name], personID)
	}
	for _, name := range []string{"stays", "changes", "leaves", "closes", "returns", "left before"} {
		ledger(name, pass(treats, lead))
	}
	ledger("left before", pass(lead, treats))
	watchers := map[string]*picture{"lead-1": {held: map[string]*pb.Pathway{}}, "breast": {held: map[string]*pb.Pathway{}}}
	for party, p := range watchers {
		arrived(t, c, party, at)
		p.watch(t, c, party, -1)
	}
	at = w.record(t, "pathway-"+ids["changes"], time.Time{}, &referralv1.FirstSeen{FactId: uuid.NewString(), Facts: &referralv1.FirstSeenFacts{On: "2026-07-07"}})
	ledger("leaves", pass(lead, treats))
	ledger("closes", &careleadv1.LedgerClosed{Reason: careleadv1.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE})
	ledger("returns", pass(lead, treats))
	ledger("returns", pass(treats, lead))
	ledger("visits", pass(treats, lead))
	ledger("visits", pass(lead, treats))
	ledger("comes", pass(treats, lead))
	ledger("is renamed", &careleadv1.LedgerOpened{PathwayId: ids["is renamed"], PersonId: personID,
		Holder: &careleadv1.Party{Kind: treats.Kind, Id: "B2", Name: treats.Name, Organisation: treats.Organisation}})

	for party, want := range map[string][]string{
		"lead-1": {"is changes", "left closes", "is comes", "left leaves", "is returns", "left visits"},
		"breast": {"left comes", "left is renamed", "is leaves", "left returns", "is visits"},
	} {
		p, held := watchers[party], arrived(t, c, party, at)
		p.watch(t, c, party, -1)
		for name, id := range ids {
			for i := range p.told {
				p.told[i] = strings.Replace(p.told[i], id, name, 1)
			}
		}
		order := func(a, b string) int { return strings.Compare(a[strings.Index(a, " "):], b[strings.Index(b, " "):]) }
		if slices.SortFunc(p.told, order); !slices.Equal(p.told, want) {
			t.Errorf("%s was told %q, want %q", party, p.told, want)
		}
		if !maps.EqualFunc(p.held, held, func(a, b *pb.Pathway) bool { return proto.Equal(a, b) }) {
			t.Errorf("%s knows %v, and holds %v", party, slices.Sorted(maps.Keys(p.held)), slices.Sorted(maps.Keys(held)))
		}
	}
}

// TestWatchCutOffAnywhere: cut off after any message, and after any change of what it
// watches, a watcher who goes on after the last message knows in the end what the party
// holds.
func TestWatchCutOffAnywhere(t *testing.T) {
	t.Parallel()
	cuts := 0
	for seed := range uint64(6) {
		random := rand.New(rand.NewPCG(seed, 5))
		w := newWorld()
		c := serve(t, w.deps())
		parties := []*careleadv1.Party{treats, lead, {Id: "lead-2", Organisation: "RAA"}}
		persons, ids := []string{uuid.NewString(), uuid.NewString()}, []string(nil)
		var at es.Position
		for i := range 8 {
			ids = append(ids, uuid.NewString())
			at = w.startPathway(t, ids[i], persons[i%2])
		}
		watchers := make([]*picture, len(parties))
		for i := range watchers {
			watchers[i] = &picture{held: map[string]*pb.Pathway{}}
		}
		for range 40 {
			id := ids[random.IntN(len(ids))]
			switch random.IntN(8) {
			case 0:
				at = w.record(t, "carelead-"+id, time.Time{}, &careleadv1.LedgerClosed{Reason: careleadv1.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE})
			case 1:
				at = w.record(t, "carelead-"+id, time.Time{}, &careleadv1.LedgerReopened{Holder: parties[random.IntN(3)]})
			case 2:
				at = w.record(t, "person-"+persons[0], time.Time{}, &personv1.PersonMergedInto{MergeId: "m", SurvivingPersonId: persons[1]})
			case 3:
				at = w.record(t, "person-"+persons[0], time.Time{}, &personv1.MergeReversed{MergeId: "m"})
			case 4:
				at = w.record(t, "person-"+persons[1], time.Time{}, &personv1.RestrictionSet{Code: "R"})
			case 5:
				at = w.record(t, "carelead-"+id, time.Time{}, &careleadv1.LedgerPersonChanged{PersonId: persons[random.IntN(2)]})
			default:
				at = w.record(t, "carelead-"+id, time.Time{}, &careleadv1.AccountabilityTransferred{To: parties[random.IntN(3)]})
			}
			if i := random.IntN(2 * len(parties)); i < len(parties) {
				arrived(t, c, partyKey(parties[i]), at)
				watchers[i].watch(t, c, partyKey(parties[i]), 1+random.IntN(5))
				cuts++
			}
		}
		for i, p := range watchers {
			party := partyKey(parties[i])
			held := arrived(t, c, party, at)
			p.watch(t, c, party, -1)
			if !maps.EqualFunc(p.held, held, func(a, b *pb.Pathway) bool { return proto.Equal(a, b) }) {
				t.Errorf("seed %d: %s knows %v, and holds %v", seed, party, slices.Sorted(maps.Keys(p.held)), slices.Sorted(maps.Keys(held)))
			}
		}
	}
	t.Logf("cut off %d times", cuts)
}

// TestWatchBeyondTheLog: what a watcher was told is not in a log that ends before it.
func TestWatchBeyondTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld()
	_, _, at := w.handOver(t, pathwayID)
	c := serve(t, w.deps())
	for _, req := range []*pb.WatchRequest{
		{What: &pb.WatchRequest_PartyId{PartyId: "lead-1"}, AfterPosition: uint64(at) + 1},
		{What: &pb.WatchRequest_PathwayId{PathwayId: pathwayID}, AfterPosition: uint64(at) + 1},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		stream, err := c.Watch(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantCode(t, err, codes.FailedPrecondition)
	}
}
