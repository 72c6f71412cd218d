package carelead

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

const personA, personB = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"

// TestDeactivationResumes gives one lead 200 ledgers, deactivates the lead, and
// kills the process at random points of the batch, with lost and refused appends.
// Each ledger passes to the pool exactly once, as without any of that.
func TestDeactivationResumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(300, "l")
	all := pathwayIDs(200)
	for i, id := range all {
		w.give(id, fmt.Sprintf("%s%03d", personA[:33], i), "l")
	}
	w.settle(nil, nil)
	if n := len(w.lead("l").Places); n != 200 {
		t.Fatalf("the lead has %d places", n)
	}
	must(w, w.service.leads, "l", pool("P"), DeactivateLead{Cause: "role_ended"})
	rng := rand.New(rand.NewPCG(7, 7))
	kills, dead := 0, false
	before := w.transfer
	w.log.SetFaults(estest.Faults{Lost: 0.1, Refused: 0.1, Stale: 0.02, Before: func(_ context.Context, call, _ string) error {
		if dead = dead || call == "Append" && rng.IntN(25) == 0; dead {
			return fault.Unavailable("test.killed", "the process was killed here", 0)
		}
		return nil
	}})
	w.settle(func() bool { kills++; dead = false; return true }, func() bool { return rng.IntN(10) == 0 })
	w.log.SetFaults(estest.Faults{})
	w.settle(nil, nil)
	if kills < 5 {
		t.Errorf("only %d kills", kills)
	}
	for _, id := range all {
		if l := w.ledger(id); l.Holder.Id != "P" || l.ActingFor != nil {
			t.Fatalf("ledger %s is held by %s", id, l.Holder.Id)
		}
	}
	if passed := w.transfer - before; passed != 200 {
		t.Errorf("%d transfers, want 200", passed)
	}
	w.atRest(all, []string{"l"})
	t.Logf("200 ledgers, %d kills, %d events", kills, len(w.log.Events()))
}

// TestBatchKilledBeforeEachStep kills the process before every single append of
// the batch in turn; the end is always the same.
func TestBatchKilledBeforeEachStep(t *testing.T) {
	t.Parallel()
	var want string
	points := 0
	for kill := 0; ; kill++ {
		w := newWorld(t)
		w.staff(10, "l")
		pathways := pathwayIDs(4)
		for i, id := range pathways {
			w.give(id, fmt.Sprintf("%s%03d", personA[:33], i), "l")
		}
		w.settle(nil, nil)
		must(w, w.service.leads, "l", pool("P"), DeactivateLead{Cause: "role_ended"})
		seen, dead := 0, false
		w.log.SetFaults(estest.Faults{Before: func(_ context.Context, call, _ string) error {
			if call != "Append" {
				return nil
			}
			if seen++; seen == kill+1 {
				dead = true
			}
			if dead {
				return fault.Unavailable("test.killed", "the process was killed here", 0)
			}
			return nil
		}})
		w.settle(func() bool { dead = false; seen = 1 << 20; return true }, nil)
		w.log.SetFaults(estest.Faults{})
		end := ""
		for _, id := range pathways {
			l := w.ledger(id)
			end += fmt.Sprint(l.Holder.Id, l.Closed, len(l.Tasks), " ")
		}
		end += fmt.Sprint(len(w.log.Events()))
		w.atRest(pathways, []string{"l"})
		w.close()
		if want == "" {
			want = end
		}
		if end != want {
			t.Fatalf("killed before append %d: %q, want %q", kill, end, want)
		}
		if seen < 1<<20 {
			points = kill
			break
		}
	}
	if points < 4 {
		t.Fatalf("only %d points: the batch was not looked at", points)
	}
	t.Logf("killed before each of %d appends", points)
}

// TestCoverEndsWhileLeadIsAway: the pool again, and the lead when back.
func TestCoverEndsWhileLeadIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(5, "l", "c")
	id := pathwayIDs(1)[0]
	w.give(id, personA, "l")
	must(w, w.service.ledgers, id, person("l"), ArrangeCover{CoverID: "c", By: person("c"), Starts: monday.AddDate(0, 0, 1), Ends: monday.AddDate(0, 0, 8)})
	must(w, w.service.ledgers, id, person("c"), AcceptCover{CoverID: "c", By: as(person("c"))})
	must(w, w.service.leads, "l", person("l"), BookLeave{LeaveID: "v", Starts: monday.AddDate(0, 0, 1), Ends: monday.AddDate(0, 0, 15), Now: w.now})
	w.settle(nil, nil)
	for _, step := range []struct {
		day            int
		holder, acting string
	}{{1, "c", "l"}, {8, "P", "l"}, {15, "l", ""}} {
		w.now = monday.AddDate(0, 0, step.day)
		if err := w.service.sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.settle(nil, nil)
		if l := w.ledger(id); l.Holder.Id != step.holder || l.ActingFor.GetId() != step.acting {
			t.Fatalf("day %d: %s for %s, want %v", step.day, l.Holder.Id, l.ActingFor.GetId(), step)
		}
	}
	w.atRest([]string{id}, []string{"l", "c"})
}

// TestCoverIsLost: a cover who falls ill or loses the role is replaced by the pool,
// which acts for the lead as the cover did.
func TestCoverIsLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]decision[Lead]{
		"ill":         BookLeave{LeaveID: "s", Starts: monday.AddDate(0, 0, 2), Ends: monday.AddDate(0, 0, 20), Now: monday.AddDate(0, 0, 2), Sickness: true},
		"deactivated": DeactivateLead{Cause: "role_ended"},
	} {
		w := newWorld(t)
		w.staff(5, "l", "c")
		id := pathwayIDs(1)[0]
		w.give(id, personA, "l")
		must(w, w.service.ledgers, id, person("l"), ArrangeCover{CoverID: "c", By: person("c"), Starts: monday.AddDate(0, 0, 1), Ends: monday.AddDate(0, 0, 8)})
		must(w, w.service.ledgers, id, person("c"), AcceptCover{CoverID: "c", By: as(person("c"))})
		must(w, w.service.leads, "l", person("l"), BookLeave{LeaveID: "v", Starts: monday.AddDate(0, 0, 1), Ends: monday.AddDate(0, 0, 15), Now: w.now})
		w.settle(nil, nil)
		w.now = monday.AddDate(0, 0, 2)
		if err := w.service.sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.settle(nil, nil)
		must(w, w.service.leads, "c", person("c"), lose)
		w.settle(nil, nil)
		if l := w.ledger(id); l.Holder.Id != "P" || l.ActingFor.GetId() != "l" {
			t.Fatalf("%s: %s for %s", name, l.Holder.Id, l.ActingFor.GetId())
		}
		w.now = monday.AddDate(0, 0, 15)
		if err := w.service.sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.settle(nil, nil)
		if l := w.ledger(id); l.Holder.Id != "l" {
			t.Fatalf("%s: back at work, but %s holds it", name, l.Holder.Id)
		}
		w.atRest([]string{id}, []string{"l", "c"})
		w.close()
	}
}

// TestDeath: the notices stop at an informal notice; a formal one closes the
// ledger; a retraction reopens it with its last holder, whose place counts again.
func TestDeath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(1, "l")
	id := pathwayIDs(1)[0]
	w.give(id, personA, "l")
	w.settle(nil, nil)
	informal := func(p *personv1.Person) { p.Death, p.MessagesStopped = "1", true }
	formal := func(p *personv1.Person) { p.Death, p.MessagesStopped = "2", true }
	none := func(p *personv1.Person) { p.Death, p.MessagesStopped = "", false }
	check := func(when string, closed pb.CloseReason, silenced bool, places int) {
		t.Helper()
		w.settle(nil, func() bool { return true })
		l := w.ledger(id)
		if l.Closed != closed || (len(l.Silenced) > 0) != silenced || len(w.lead("l").Places) != places || l.Holder.Id != "l" {
			t.Fatalf("%s: closed %v, silenced %v, %d places, holder %s", when, l.Closed, l.Silenced, len(w.lead("l").Places), l.Holder.Id)
		}
		w.atRest([]string{id}, []string{"l"})
	}
	w.people.change(personA, informal)
	w.tell("person", personA, &personv1.DeathReportedInformally{})
	check("informal", 0, true, 1)
	w.tell("pathway", id, &referralv1.PathwayClosed{Facts: &referralv1.CloseFacts{Reason: referralv1.CloseReason_CLOSE_REASON_DIED}})
	check("pathway closed as died without a formal notice", 0, true, 1)
	w.people.change(personA, formal)
	late := w.tell("person", personA, &personv1.DeathConfirmed{})
	check("formal", pb.CloseReason_CLOSE_REASON_DIED, true, 0)
	if !slices.ContainsFunc(w.ledger(id).Tasks, func(t Task) bool { return t.Code == "bereavement" }) {
		t.Error("no bereavement task")
	}
	w.people.change(personA, none)
	w.tell("person", personA, &personv1.DeathNotificationRetracted{Retracted: "2"})
	check("retracted", 0, false, 1)
	w.outside = append(w.outside, late) // heard again, long after
	check("the notice heard again", 0, false, 1)
	// The lead goes on leave while the ledger is closed; reopened, the pool has it.
	w.people.change(personA, formal)
	w.tell("person", personA, &personv1.DeathConfirmed{})
	w.settle(nil, nil)
	must(w, w.service.leads, "l", person("l"), BookLeave{LeaveID: "v", Starts: w.now, Ends: w.now.AddDate(0, 0, 9), Now: w.now, Sickness: true})
	w.settle(nil, nil)
	w.people.change(personA, none)
	w.tell("person", personA, &personv1.DeathNotificationRetracted{Retracted: "2"})
	w.settle(nil, nil)
	if l := w.ledger(id); l.Holder.Id != "P" || l.ActingFor.GetId() != "l" {
		t.Errorf("reopened while the lead is away, %s holds it", l.Holder.Id)
	}
	// A pathway that starts after the notice: its ledger learns of it when it opens.
	w.people.change(personB, informal)
	second := pathwayIDs(2)[1]
	w.tell("person", personB, &personv1.DeathReportedInformally{})
	w.tell("pathway", second, &referralv1.PathwayStarted{PersonId: personB, Facts: &referralv1.StartFacts{ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Name: "A"}}})
	w.settle(nil, nil)
	if len(w.ledger(second).Silenced) != 1 {
		t.Error("a ledger opened after the notice would tell the patient")
	}
}

func started(person string) *referralv1.PathwayStarted {
	return &referralv1.PathwayStarted{PersonId: person, Facts: &referralv1.StartFacts{ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Code: "A", Name: "Team A"}}}
}

// TestPathwayEvents: what each end of a pathway does to its ledger.
func TestPathwayEvents(t *testing.T) {
	t.Parallel()
	closing := func(r referralv1.CloseReason) proto.Message {
		return &referralv1.PathwayClosed{Facts: &referralv1.CloseFacts{Reason: r}}
	}
	onward := pathwayIDs(9)[8]
	for name, c := range map[string]struct {
		event  proto.Message
		closed pb.CloseReason
		task   string
	}{
		"follow-up complete": {closing(referralv1.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE), pb.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE, ""},
		"ruled out":          {closing(referralv1.CloseReason_CLOSE_REASON_CANCER_RULED_OUT), pb.CloseReason_CLOSE_REASON_CANCER_RULED_OUT, ""},
		"in error":           {closing(referralv1.CloseReason_CLOSE_REASON_ENTERED_IN_ERROR), pb.CloseReason_CLOSE_REASON_ENTERED_IN_ERROR, ""},
		"patient choice":     {closing(referralv1.CloseReason_CLOSE_REASON_PATIENT_CHOICE), 0, "close_to_review"},
		"left England":       {closing(referralv1.CloseReason_CLOSE_REASON_LEFT_ENGLAND), 0, "close_to_review"},
		"transferred out":    {closing(referralv1.CloseReason_CLOSE_REASON_TRANSFERRED_OUT), 0, "close_to_review"},
		"other provider":     {&referralv1.TransferredToTreatingProvider{Facts: &referralv1.TransferFacts{TreatingProvider: "RJ2"}}, 0, "treating_provider_changed"},
		"same provider":      {&referralv1.TransferredToTreatingProvider{Facts: &referralv1.TransferFacts{TreatingProvider: "RJ1"}}, 0, ""},
		"rerouted": {&referralv1.PathwayRerouted{PersonId: personA, Facts: &referralv1.RerouteFacts{Onward: []*referralv1.Onward{
			{PathwayId: onward, ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Code: "B", Name: "B"}}}}}, pb.CloseReason_CLOSE_REASON_SUPERSEDED, ""},
	} {
		w := newWorld(t)
		id := pathwayIDs(1)[0]
		w.tell("pathway", id, started(personA))
		w.tell("pathway", id, c.event)
		w.settle(nil, func() bool { return true })
		l := w.ledger(id)
		task := ""
		if len(l.Tasks) > 0 {
			task = l.Tasks[0].Code
		}
		if l.Closed != c.closed || task != c.task || len(l.Tasks) > 1 || l.Holder.Id != "A" {
			t.Errorf("%s: closed %v, tasks %v, held by %s", name, l.Closed, l.Tasks, l.Holder.Id)
		}
		if name == "rerouted" {
			if o := w.ledger(onward); !o.Opened || o.Holder.Id != "B" || l.SupersededBy != onward {
				t.Errorf("the onward ledger: %+v", o)
			}
		}
		w.tell("pathway", id, &referralv1.ClockCorrected{WrongEvent: "PathwayClosed"})
		w.settle(nil, nil)
		if l := w.ledger(id); l.Closed != 0 && l.Closed != pb.CloseReason_CLOSE_REASON_SUPERSEDED {
			t.Errorf("%s: the closing was corrected and the ledger is still closed", name)
		}
		w.close()
	}
}

// TestPersonsMerged: ledgers follow their person; those of one pathway become
// one; the reversal undoes all of it.
func TestPersonsMerged(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"one pathway": true, "two pathways": false} {
		w := newWorld(t)
		two := pathwayIDs(2)
		w.pathways.identifiers[two[0]] = "X1"
		w.pathways.identifiers[two[1]] = map[bool]string{true: "X1", false: "X2"}[same]
		w.tell("pathway", two[0], started(personA))
		other := started(personB)
		other.Facts.ResponsibleTeam.Code = "B"
		w.tell("pathway", two[1], other)
		w.settle(nil, nil)
		w.tell("person", personA, &personv1.PersonsMerged{MergeId: "m", SurvivingPersonId: personA, MergedPersonId: personB})
		w.settle(nil, func() bool { return true })
		kept, merged := w.ledger(two[0]), w.ledger(two[1])
		if kept.Closed != 0 || len(kept.Tasks) != 1 || merged.PersonID != personA || kept.Holder.Id != "A" {
			t.Errorf("%s: kept %+v", name, kept)
		}
		if (merged.Closed == pb.CloseReason_CLOSE_REASON_SUPERSEDED) != same {
			t.Errorf("%s: the other is closed as %v", name, merged.Closed)
		}
		w.people.change(personA, func(p *personv1.Person) { p.Restricted = true })
		w.tell("person", personA, &personv1.RestrictionSet{Code: "R"})
		w.settle(nil, nil)
		if len(w.ledger(two[1]).Silenced) != 1 {
			t.Errorf("%s: the merged ledger did not hear of the survivor's restriction", name)
		}
		for _, of := range []string{personA, personB} { // it stands in both streams
			w.tell("person", of, &personv1.MergeReversed{MergeId: "m", SurvivingPersonId: personA, MergedPersonId: personB})
		}
		w.settle(nil, func() bool { return true })
		merged = w.ledger(two[1])
		if merged.PersonID != personB || merged.Closed != 0 || merged.Holder.Id != "B" || len(merged.Silenced) != 0 {
			t.Errorf("%s: after the reversal %+v", name, merged)
		}
		w.close()
	}
}

// TestMove: the lead keeps the pathway; who must act is told.
func TestMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(5, "l")
	must(w, w.service.neighbourhoods, "n2", pool("P"), DefineNeighbourhood{Name: "Deptford", Organisation: "RAA", Practices: []string{"G85002"}, Manager: person("boss"), Contact: person("nurse")})
	id := pathwayIDs(1)[0]
	w.give(id, personA, "l")
	move := func(practice string, restricted bool, neighbourhood, task string, tasks int) {
		t.Helper()
		w.people.change(personA, func(p *personv1.Person) {
			p.Practice, p.Restricted = &practice, restricted
			if restricted {
				p.Practice = nil
			}
		})
		w.tell("person", personA, &personv1.PracticeChanged{})
		w.settle(nil, func() bool { return true })
		l := w.ledger(id)
		if l.Neighbourhood != neighbourhood || l.Holder.Id != "l" || len(l.Tasks) != tasks || tasks > 0 && l.Tasks[tasks-1].Code != task {
			t.Fatalf("to %s: %q, held by %s, tasks %v", practice, l.Neighbourhood, l.Holder.Id, l.Tasks)
		}
		w.now = w.now.AddDate(0, 0, 1)
	}
	move("G85001", false, "n1", "", 0)
	move("G85002", false, "n2", "neighbourhood_changed", 1)
	move("G85099", false, "", "no_neighbourhood", 2)
	move("", true, "", "neighbourhood_changed", 3)
}

// TestLastPlace: two offers that race for the last place of a lead; and places
// whose call was killed between the place and the offer come back.
func TestLastPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(1, "l")
	three := pathwayIDs(3)
	h := &handoverServer{service: w.service}
	offer := func(id string) *pb.OfferHandoverRequest {
		return &pb.OfferHandoverRequest{Command: w.header(team("A")), PathwayId: id, Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, LeadId: "l", NeighbourhoodId: "n1"}
	}
	for _, id := range three {
		w.tell("pathway", id, started(personA))
		w.settle(nil, nil)
		must(w, w.service.ledgers, id, team("A"), PrepareHandover{Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, Met: all()})
	}
	answers := make(chan error, 2)
	for _, req := range []*pb.OfferHandoverRequest{offer(three[0]), offer(three[1])} {
		go func() {
			_, err := h.OfferHandover(context.Background(), req)
			answers <- err
		}()
	}
	refused := ""
	for range 2 {
		if err := <-answers; err != nil {
			refused += fault.CodeOf(err)
		}
	}
	if refused != "carelead.lead.no_capacity" {
		t.Fatalf("of two offers for the last place were refused: %q", refused)
	}
	w.settle(nil, nil)
	w.atRest(three, []string{"l"})

	must(w, w.service.leads, "l", pool("P"), ChangeCapacity{Capacity: 2})
	killed := offer(three[2])
	w.log.SetFaults(estest.Faults{Before: func(_ context.Context, call, stream string) error {
		if call == "Append" && stream == "carelead-"+three[2] {
			return fault.Exhausted("test.killed", "killed between the place and the offer", 0)
		}
		return nil
	}})
	if _, err := h.OfferHandover(context.Background(), killed); err == nil {
		t.Fatal("the offer was made")
	}
	w.log.SetFaults(estest.Faults{})
	w.settle(nil, nil)
	if n := len(w.lead("l").Places); n != 2 {
		t.Fatalf("%d places", n)
	}
	w.now = w.now.Add(inFlight + time.Minute)
	if err := w.service.sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.lead("l").Places); n != 1 {
		t.Fatalf("%d places after the sweep: the one without an offer is lost", n)
	}
	if _, err := h.OfferHandover(context.Background(), killed); fault.CodeOf(err) != "carelead.lead.no_capacity" {
		t.Fatalf("an offer whose place was given back: %v", err)
	}
	if _, err := h.OfferHandover(context.Background(), offer(three[2])); err != nil {
		t.Fatal(err)
	}
	w.settle(nil, nil)
	w.atRest(three, []string{"l"})
}

// TestSweepFollowsTheWork: places whose offers were made are not looked at again, how
// many there are and however short ago they were taken.
func TestSweepFollowsTheWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(20, "l")
	ids := pathwayIDs(20)
	for _, id := range ids {
		w.give(id, personA, "l")
	}
	w.settle(nil, nil)
	w.now = w.now.Add(inFlight + time.Minute)
	w.atRest(ids, []string{"l"})
	reads := 0
	w.log.SetFaults(estest.Faults{Before: func(_ context.Context, call, _ string) error {
		if call == "Read" {
			reads++
		}
		return nil
	}})
	if err := w.service.sweep(context.Background()); err != nil || reads > 0 {
		t.Errorf("a sweep with nothing due read %d streams: %v", reads, err)
	}
}

// TestReopenedLedgerIsSwept: what was to be done when a ledger was closed in error is
// due again when it is reopened.
func TestReopenedLedgerIsSwept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(5, "l")
	id := pathwayIDs(1)[0]
	w.give(id, personA, "l")
	for _, stop := range []bool{true, false} {
		must(w, w.service.ledgers, id, pool("P"), NoteDeath{Stop: stop, Died: stop, Evidence: "e", Now: w.now})
	}
	w.settle(nil, nil)
	w.now = w.now.AddDate(0, 1, 0)
	if err := w.service.sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if l := w.ledger(id); l.Closed != 0 || !l.FirstContactOverdue {
		t.Error("nobody is told that the first contact is overdue")
	}
}
