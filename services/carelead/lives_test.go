package carelead

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "waymark/proto/waymark/carelead/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/estest"
)

// TestLives drives the whole room: random commands by random people, events of
// other rooms, leave, jumps of the clock, lost and refused appends, restarts,
// events heard twice. The audit reads every prefix; at rest the caseloads agree
// with the ledgers and nobody who is away holds a pathway.
func TestLives(t *testing.T) {
	t.Parallel()
	lives, transfers, events := 0, 0, 0
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t)
		defer w.close()
		w.live(r)
		estest.Audit(t, w.log)
		lives, transfers, events = lives+1, transfers+w.transfer, events+len(w.log.Events())
	})
	if transfers < lives {
		t.Fatalf("%d transfers in %d lives: the test looks at nothing", transfers, lives)
	}
	t.Logf("%d lives, %d events, %d transfers", lives, events, transfers)
}

// TestLivesInAnyOrder is TestLives with events that are heard in any order: what
// comes late undoes nothing that a newer event did, and the end is the same kind
// of rest.
func TestLivesInAnyOrder(t *testing.T) {
	t.Parallel()
	late := 0
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t)
		defer w.close()
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "order"), 2))
		w.order = func(n int) int {
			i := rng.IntN(n)
			if i > 0 {
				late++
			}
			return i
		}
		w.live(r)
		estest.Audit(t, w.log)
	})
	if late == 0 {
		t.Error("nothing was heard out of order: the test looks at nothing")
	}
	t.Logf("%d events were heard before older ones", late)
}

// TestLivesCatchMissingReactions: with any one reaction missing, some life ends
// otherwise than it must.
func TestLivesCatchMissingReactions(t *testing.T) {
	t.Parallel()
	is := func(like ...proto.Message) func(bus.Event) bool {
		return func(e bus.Event) bool {
			return slices.ContainsFunc(like, func(m proto.Message) bool {
				return m.ProtoReflect().Descriptor() == e.Message.ProtoReflect().Descriptor()
			})
		}
	}
	for name, deaf := range map[string]func(bus.Event) bool{
		"a lead is lost":        is(&pb.LeadDeactivated{}),
		"leave begins":          is(&pb.LeaveStarted{}),
		"accountability passes": is(&pb.AccountabilityTransferred{}),
		"an offer is declined":  is(&pb.HandoverDeclined{}),
		"an offer runs out":     is(&pb.HandoverExpired{}),
		"a ledger closes":       is(&pb.LedgerClosed{}),
		"a ledger reopens":      is(&pb.LedgerReopened{}),
		"a death is confirmed":  is(&personv1.DeathConfirmed{}),
		"a death is reported":   is(&personv1.DeathReportedInformally{}),
		"a death is retracted":  is(&personv1.DeathNotificationRetracted{}),
		"a restriction comes":   is(&personv1.RestrictionSet{}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range 200 {
				caught := rapid.Custom(func(r *rapid.T) error {
					w := newWorld(t)
					defer w.close()
					w.deaf = deaf
					w.live(r)
					return w.caught
				}).Example(seed)
				if caught != nil {
					t.Logf("control=caught after %d lives: %v", seed+1, caught)
					return
				}
			}
			t.Error("control=MISSED in 200 lives")
		})
	}
}

// TestLivesCatchABlindBoard: where the board misses one kind of event, some life
// ends with something due, or with a place without an offer, that no sweep finds.
func TestLivesCatchABlindBoard(t *testing.T) {
	t.Parallel()
	for _, missed := range []proto.Message{&pb.HandoverOffered{}, &pb.HandoverAccepted{}, &pb.CoverArranged{}, &pb.LedgerReopened{}, &pb.CaseloadPlaceTaken{}} {
		name := missed.ProtoReflect().Descriptor().Name()
		t.Run(string(name), func(t *testing.T) {
			t.Parallel()
			for seed := range 200 {
				caught := rapid.Custom(func(r *rapid.T) error {
					w := newWorld(t)
					defer w.close()
					w.blind = func(m proto.Message) bool { return m.ProtoReflect().Descriptor().Name() == name }
					w.restart()
					w.live(r)
					return w.caught
				}).Example(seed)
				if caught != nil {
					t.Logf("control=caught after %d lives: %v", seed+1, caught)
					return
				}
			}
			t.Error("control=MISSED in 200 lives")
		})
	}
}

// live is one random life of the room, to its rest.
func (w *world) live(r *rapid.T) {
	leads, pathways := []string{"l", "m", "n"}, pathwayIDs(4)
	w.staff(2, leads...)
	for i, id := range pathways {
		if i < 3 {
			w.give(id, []string{personA, personB}[i%2], leads[i])
		} else {
			w.tell("pathway", id, started(personB))
		}
	}
	w.settle(nil, nil)
	w.mixed = w.order
	seed := rapid.Uint64().Draw(r, "seed")
	w.log.Seed(seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	w.log.SetFaults(estest.Faults{Lost: 0.05, Refused: 0.05, Stale: 0.02, Unread: 0.01})
	crash := func() bool { return rng.IntN(3) == 0 }
	again := func() bool { return rng.IntN(6) == 0 }
	for range rapid.IntRange(15, 40).Draw(r, "steps") {
		w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 20, 70, 400, -3}).Draw(r, "hours")) * time.Hour)
		w.step(r, leads, pathways)
		if rng.IntN(4) == 0 {
			w.restart()
		}
		if rng.IntN(2) == 0 {
			w.settle(crash, again)
		}
	}
	w.settle(crash, again)
	w.log.SetFaults(estest.Faults{})
	w.settle(nil, nil)
	w.atRest(pathways, leads)
}

// step is one thing that happens. Refusals and faults are as good as success.
func (w *world) step(r *rapid.T, leads, pathways []string) {
	h, s := &handoverServer{service: w.service}, w.service
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	lead := rapid.SampledFrom(leads).Draw(r, "lead")
	id := rapid.SampledFrom(pathways).Draw(r, "pathway")
	l := w.ledger2(ctx, id)
	by := person(lead)
	if l.Handover.To != nil && rapid.IntRange(0, 3).Draw(r, "addressee") > 0 {
		by = l.Handover.To
	}
	onLead := func(c decision[Lead]) {
		_, _ = s.leads.Do(ctx, lead, &pb.RunLeadTimersRequest{Command: w.header(by), LeadId: lead}, c.Decide)
	}
	who := rapid.SampledFrom([]string{personA, personB}).Draw(r, "person")
	switch rapid.IntRange(0, 15).Draw(r, "what") {
	case 0, 1, 2:
		_, _ = s.ledgers.Do(ctx, id, &pb.RunTimersRequest{Command: w.header(by), PathwayId: id}, PrepareHandover{Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, Met: all()}.Decide)
		req := &pb.OfferHandoverRequest{Command: w.header(team("A")), PathwayId: id, Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, LeadId: lead, NeighbourhoodId: "n1"}
		for range 2 { // the client repeats what failed
			if _, err := h.OfferHandover(ctx, req); err == nil {
				break
			}
		}
	case 3:
		_, _ = h.OfferHandover(ctx, &pb.OfferHandoverRequest{Command: w.header(by), PathwayId: id, Kind: pb.HandoverKind_HANDOVER_KIND_BETWEEN_LEADS, LeadId: lead, NeighbourhoodId: "n1"})
	case 4, 5, 6:
		req := &pb.AcceptHandoverRequest{Command: w.header(by), PathwayId: id, HandoverId: l.Handover.ID}
		for range 2 {
			if _, err := h.AcceptHandover(ctx, req); err == nil {
				break
			}
		}
	case 7:
		_, _ = h.DeclineHandover(ctx, &pb.DeclineHandoverRequest{Command: w.header(by), PathwayId: id, HandoverId: l.Handover.ID, Reason: pb.DeclineReason_DECLINE_REASON_CAPACITY})
	case 8:
		if l.Holder != nil {
			_, _ = h.WithdrawHandover(ctx, &pb.WithdrawHandoverRequest{Command: w.header(l.Holder), PathwayId: id, HandoverId: l.Handover.ID, Reason: "r"})
		}
	case 9:
		cover := &pb.ArrangeCoverRequest{Command: w.header(by), PathwayId: id, CoverLeadId: lead, Starts: stamp(w.now.Add(time.Hour)), Ends: stamp(w.now.Add(100 * time.Hour))}
		if _, err := h.ArrangeCover(ctx, cover); err == nil {
			_, _ = h.AcceptCover(ctx, &pb.AcceptCoverRequest{Command: w.header(person(lead)), PathwayId: id, CoverId: idFrom(cover, "cover")})
		}
	case 10:
		onLead(BookLeave{LeaveID: fmt.Sprint("v", w.commands), Starts: w.now, Ends: w.now.Add(200 * time.Hour), Now: w.now, Sickness: rapid.Bool().Draw(r, "ill")})
	case 11:
		onLead(ReturnFromLeave{})
	case 12:
		if rapid.IntRange(0, 3).Draw(r, "really") == 0 {
			onLead(DeactivateLead{Cause: "role_ended"})
		}
	case 13:
		death := rapid.SampledFrom([]string{"", "1", "2"}).Draw(r, "death")
		w.people.change(who, func(p *personv1.Person) { p.Death, p.MessagesStopped = death, death != "" })
		w.tell("person", who, map[string]proto.Message{"": &personv1.DeathNotificationRetracted{}, "1": &personv1.DeathReportedInformally{}, "2": &personv1.DeathConfirmed{}}[death])
	case 14:
		w.people.change(who, func(p *personv1.Person) { p.Restricted = !p.Restricted })
		w.tell("person", who, &personv1.RestrictionSet{Code: "R"})
	case 15:
		_ = s.sweep(ctx)
	}
}

// ledger2 is the ledger as far as it can be read.
func (w *world) ledger2(ctx context.Context, id string) Ledger {
	state, _ := w.service.ledgers.Load(ctx, id)
	return state.Value
}

// TestRepeatedCalls: a client whose calls are executed but reported as failed, and
// who repeats them with their id, has each recorded once. With a fresh id it is
// recorded more often: the control.
func TestRepeatedCalls(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]bool{"same id": false, "control: fresh id": true} {
		w := newWorld(t)
		w.staff(5, "l")
		id := pathwayIDs(1)[0]
		w.give(id, personA, "l")
		w.log.SetFaults(estest.Faults{Lost: 1})
		const calls = 20
		for range calls {
			req := &pb.RecordFirstContactRequest{Command: w.header(person("l")), PathwayId: id, On: "2026-07-06", Medium: "TELEPHONE"}
			for try := 0; try < 2; try++ {
				w.log.SetFaults(estest.Faults{Lost: float64(1 - try)})
				h := &handoverServer{service: w.service}
				_, _ = h.RecordFirstContact(context.Background(), req)
				w.restart() // the process that knew the answer is gone
				if fresh {
					req.Command = w.header(person("l"))
				}
			}
		}
		recorded := 0
		for _, e := range w.log.Events() {
			if e.Type == string((&pb.FirstContactAttempted{}).ProtoReflect().Descriptor().FullName()) {
				recorded++
			}
		}
		if (recorded == calls) == fresh {
			t.Errorf("%s: %d calls, %d recorded", name, calls, recorded)
		}
		t.Logf("%s: %d calls, %d recorded", name, calls, recorded)
		w.close()
	}
}
