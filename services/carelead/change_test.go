package carelead

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/estest"
	"waymark/services/kit/nhs"
)

// TestWhoMayLead: the roles are dated data.
func TestWhoMayLead(t *testing.T) {
	t.Parallel()
	register := func(code string, on nhs.Date) func(Lead) ([]proto.Message, error) {
		p := proto.CloneOf(person("l"))
		p.RoleCode = code
		return RegisterLead{Party: p, Neighbourhoods: []string{"n1"}, Capacity: 5, On: on}.Decide
	}
	today := nhs.DateOf(monday)
	for _, r := range roles() {
		if _, err := register(r.code, today)(Lead{}); err != nil || r.title == "" {
			t.Errorf("%s %q: %v", r.code, r.title, err)
		}
		if _, err := register(r.code, r.from.AddDays(-1))(Lead{}); err == nil {
			t.Errorf("%s: may lead before %s", r.code, r.from)
		}
	}
	for _, code := range []string{"R6010", "R8008", "R9999", "R0000"} { // an appointments clerk, access roles, nobody
		estest.Given(LeadDecider).When(register(code, today)).ThenRefused(t, "carelead.lead.role")
	}
	if len(roles()) < 5 {
		t.Errorf("%d roles", len(roles()))
	}
}

// TestRestrictionsComeAndGo: notices stop at a restriction and go on once it is
// lifted; the holder never changes.
func TestRestrictionsComeAndGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(5, "l")
	id := pathwayIDs(1)[0]
	w.give(id, personA, "l")
	silenced := func() bool {
		return slices.Contains(w.ledger(id).Silenced, pb.NoticeSuppression_NOTICE_SUPPRESSION_RESTRICTED_RECORD)
	}
	for _, restricted := range []bool{true, false, true, false} {
		w.people.change(personA, func(p *personv1.Person) { p.Restricted = restricted })
		var m proto.Message = &personv1.RestrictionLifted{}
		if restricted {
			m = &personv1.RestrictionSet{Code: "R"}
		}
		w.tell("person", personA, m)
		w.settle(nil, func() bool { return true })
		if silenced() != restricted || w.ledger(id).Holder.Id != "l" {
			t.Errorf("restricted %v: notices stopped %v, held by %s", restricted, silenced(), w.ledger(id).Holder.Id)
		}
	}
	// Lifted, and heard of late: the record says what is so.
	w.people.change(personA, func(p *personv1.Person) { p.Restricted = false })
	w.tell("person", personA, &personv1.RestrictionSet{Code: "R"})
	w.settle(nil, nil)
	if silenced() {
		t.Error("a restriction that was lifted stops notices")
	}
	w.atRest([]string{id}, []string{"l"})
}

// TestLeftEnglandIsAPersonsToDecide: one task for one notice, however often it is
// heard; the ledger stays open with its holder until somebody closes it with evidence.
func TestLeftEnglandIsAPersonsToDecide(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(5, "l")
	ids := pathwayIDs(2)
	w.give(ids[0], personA, "l")
	w.give(ids[1], personA, "l")
	w.tell("person", personA, &personv1.LeftEnglandReported{Reason: "EMB"})
	w.settle(nil, func() bool { return true })
	for _, id := range ids {
		l := w.ledger(id)
		n := 0
		for _, task := range l.Tasks {
			if task.Code == "left_england" {
				n++
			}
		}
		if n != 1 || l.Closed != 0 || l.Holder.Id != "l" {
			t.Errorf("%d tasks, closed %v, held by %s", n, l.Closed, l.Holder.Id)
		}
	}
	estest.Given(LedgerDecider, events(w, ids[0])...).When(CloseLedger{Reason: pb.CloseReason_CLOSE_REASON_LEFT_ENGLAND, Now: w.now}.Decide).ThenRefused(t, "carelead.end.evidence_missing")
	w.atRest(ids, []string{"l"})
}

// events are those of a ledger.
func events(w *world, id string) (all []proto.Message) {
	for _, r := range w.log.Events() {
		if r.Stream == "carelead-"+id {
			all = append(all, busEvent(w.t, r).Message)
		}
	}
	return all
}

// TestRingOfMerges merges three ledgers in a ring, in every order in which the
// three can be heard. None closes, so that somebody stays accountable for each, and
// people are asked to look. A chain of three becomes one.
func TestRingOfMerges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		pairs [][2]int // the second is merged into the first
		open  int
	}{
		{"ring", [][2]int{{0, 1}, {1, 2}, {2, 0}}, 3},
		{"two", [][2]int{{0, 1}, {1, 0}}, 3},
		{"chain, from its end", [][2]int{{1, 2}, {0, 1}}, 1},
	} {
		for turn := range 6 {
			w := newWorld(t)
			ids := pathwayIDs(3)
			for i, id := range ids {
				w.tell("pathway", id, started(fmt.Sprintf("%s%03d", personA[:33], i)))
			}
			w.settle(nil, nil)
			for _, p := range tt.pairs { // all are recorded before any is heard
				must(w, w.service.ledgers, ids[p[0]], team("A"), MergeLedger{Merged: ids[p[1]], MergedHolder: w.ledger(ids[p[1]]).Holder, Now: w.now})
			}
			if tt.name != "chain, from its end" {
				n := 0
				w.mixed = func(waiting int) int { n++; return (turn + n*turn) % waiting }
			}
			w.settle(nil, func() bool { return turn%2 == 0 })
			open, asked := 0, 0
			for _, id := range ids {
				l := w.ledger(id)
				if l.Closed == 0 {
					open++
				}
				if slices.ContainsFunc(l.Tasks, func(task Task) bool { return task.Code == "merge_to_review" }) {
					asked++
				}
			}
			if open != tt.open || tt.open == 3 && asked < len(tt.pairs) {
				t.Errorf("%s, turn %d: %d ledgers open, %d people asked", tt.name, turn, open, asked)
			}
			w.close()
		}
	}
	// The control: without waiting for those that were merged into it, each of the
	// ring would close, and nobody would be accountable.
	ring := Ledger{Opened: true, Holder: team("A"), Merged: []string{"next"}}
	if events, err := (SupersedeLedger{By: "before", Settled: []string{"next"}}).Decide(ring); err != nil || len(events) == 0 {
		t.Errorf("the control does not close: %v", err)
	}
	if _, err := (SupersedeLedger{By: "before"}).Decide(ring); err == nil {
		t.Error("a ledger of a ring closes")
	}
}

// TestMoveProposesCandidates: leads of the new neighbourhood, at work and with room;
// those who speak the patient's language first. Nothing passes: the lead holds the
// pathway until another was offered it and accepted.
func TestMoveProposesCandidates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.close()
	w.staff(5, "l")
	p := pool("P")
	must(w, w.service.neighbourhoods, "n2", p, DefineNeighbourhood{Name: "Brixton", Organisation: "RAA", Practices: []string{"G85002"}, Manager: person("boss"), Contact: person("nurse")})
	must(w, w.service.neighbourhoods, "n2", p, AcceptFallback{Pool: p, Until: monday.AddDate(2, 0, 0), Now: w.now, OutOfHours: "111", By: as(p)})
	for _, l := range []struct {
		id, neighbourhood, language string
		capacity                    int32
		active                      bool
	}{{"small", "n2", "en", 2, true}, {"large", "n2", "en", 9, true}, {"polish", "n2", "pl", 1, true}, {"full", "n2", "pl", 0, true}, {"invited", "n2", "pl", 9, false}, {"elsewhere", "n1", "pl", 9, true}} {
		must(w, w.service.leads, l.id, p, RegisterLead{Party: person(l.id), Neighbourhoods: []string{l.neighbourhood}, Languages: []string{l.language}, Capacity: l.capacity, On: nhs.DateOf(w.now)})
		if l.active {
			must(w, w.service.leads, l.id, p, ActivateLead{On: "2026-07-06"})
		}
	}
	id := pathwayIDs(1)[0]
	w.give(id, personA, "l")
	w.people.change(personA, func(x *personv1.Person) {
		x.Practice = proto.String("G85002")
		x.Needs = &personv1.Needs{Communication: []*personv1.CommunicationNeedRecord{{Need: &personv1.CommunicationNeed{Language: "pl"}}}}
	})
	w.tell("person", personA, &personv1.PracticeChanged{})
	w.settle(nil, func() bool { return true })
	l := w.ledger(id)
	if want := []string{"polish", "large", "small"}; !slices.Equal(l.Candidates, want) || !slices.Equal(l.message(id).CandidateLeadIds, want) {
		t.Errorf("candidates %v, want %v", l.Candidates, want)
	}
	if l.Holder.Id != "l" || l.Handover.Open {
		t.Errorf("held by %s, offered %v", l.Holder.Id, l.Handover.Open)
	}
	if !slices.ContainsFunc(l.Tasks, func(task Task) bool { return task.Code == "neighbourhood_changed" }) {
		t.Errorf("nobody is asked: %v", l.Tasks)
	}
	h := &handoverServer{service: w.service}
	reply, err := h.OfferHandover(t.Context(), &pb.OfferHandoverRequest{Command: w.header(person("l")), PathwayId: id, Kind: pb.HandoverKind_HANDOVER_KIND_BETWEEN_LEADS, LeadId: l.Candidates[0], SummaryVersion: 1, PlanVersion: 1})
	if err != nil {
		t.Fatal(err)
	}
	if w.ledger(id).Holder.Id != "l" {
		t.Error("an offer passes accountability")
	}
	if _, err := h.AcceptHandover(t.Context(), &pb.AcceptHandoverRequest{Command: w.header(person("polish")), PathwayId: id, HandoverId: reply.Ledger.Handover.HandoverId, SummaryVersion: 1, PlanVersion: 1}); err != nil {
		t.Fatal(err)
	}
	if l := w.ledger(id); l.Holder.Id != "polish" || len(l.Candidates) != 0 {
		t.Errorf("held by %s, candidates %v", l.Holder.Id, l.Candidates)
	}
	w.settle(nil, nil)
}
