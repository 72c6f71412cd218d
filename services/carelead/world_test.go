package carelead

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
	"waymark/services/kit/runtest"
)

// people is the person service as this room sees it.
type people struct {
	personv1.PersonServiceClient
	mu      sync.Mutex
	records map[string]*personv1.Person // by every id that leads to them
	err     error
}

func (p *people) GetPerson(_ context.Context, req *personv1.GetPersonRequest, _ ...grpc.CallOption) (*personv1.PersonReply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	r := p.records[req.PersonId]
	if r == nil {
		r = &personv1.Person{PersonId: req.PersonId}
	}
	return &personv1.PersonReply{Person: proto.CloneOf(r)}, nil
}

func (p *people) change(id string, change func(*personv1.Person)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.records[id] == nil {
		p.records[id] = &personv1.Person{PersonId: id}
	}
	change(p.records[id])
}

// pathways is the referral service as this room sees it.
type pathways struct {
	referralv1.PathwayServiceClient
	identifiers map[string]string
}

func (p *pathways) GetPathway(_ context.Context, req *referralv1.GetPathwayRequest, _ ...grpc.CallOption) (*referralv1.GetPathwayResponse, error) {
	start := &referralv1.StartFacts{PathwayIdentifier: p.identifiers[req.PathwayId], PathwayIdentifierIssuer: "RJ1"}
	return &referralv1.GetPathwayResponse{Pathway: &referralv1.Pathway{Start: start}}, nil
}

// world is the service on a log with faults, without a network: the test is the
// bus and the clock. Whatever it calls, it calls as a client does who repeats a
// call that failed.
type world struct {
	t        testing.TB
	log      *estest.Log
	now      time.Time
	people   *people
	pathways *pathways
	service  *service
	stop     context.CancelFunc
	outside  []bus.Event // of other rooms, delivered in order between the log's
	next     int         // the first event of the log that was not yet delivered
	commands int
	audits   map[string]*Audit
	taken    map[string]map[string]bool // lead id -> pathways with a place, by the log alone
	capacity map[string]int32
	audited  int
	transfer int

	// mixed, if set, draws which of the events that wait is delivered next.
	mixed   func(n int) int
	order   func(n int) int // what mixed becomes once the life begins
	waiting []bus.Event     // taken from the log, not yet delivered; with mixed alone

	deaf   func(bus.Event) bool     // plants the bug that a reaction is missing
	blind  func(proto.Message) bool // plants the bug that the board does not hear of something
	caught error                    // what went wrong first, in a world with a planted bug
}

// fail ends the test; where a bug is planted, it is what was looked for.
func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	if w.deaf == nil && w.blind == nil {
		w.t.Fatalf(format, args...)
	}
	if w.caught == nil {
		w.caught = fmt.Errorf(format, args...)
	}
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, log: estest.NewLog(), now: monday, people: &people{records: map[string]*personv1.Person{}},
		pathways: &pathways{identifiers: map[string]string{}}, audits: map[string]*Audit{},
		taken: map[string]map[string]bool{}, capacity: map[string]int32{}}
	w.log.SetClock(func() time.Time { return w.now })
	w.restart()
	return w
}

// restart is a new process: it knows nothing but the log.
func (w *world) restart() {
	w.close()
	s := newService(run.Deps{Log: w.log, Key: runtest.Key, Clock: func() time.Time { return w.now }})
	s.person, s.pathway, s.board.blind = w.people, w.pathways, w.blind
	// The outages of this world end at once: waiting for them would take long.
	opts := es.Options{Key: runtest.Key, Jitter: func(time.Duration) time.Duration { return 0 }}
	s.ledgers, s.leads, s.neighbourhoods = es.NewStreams(w.log, LedgerDecider, opts), es.NewStreams(w.log, LeadDecider, opts), es.NewStreams(w.log, NeighbourhoodDecider, opts)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.board.Run(ctx) }()
	w.service, w.stop = s, func() { cancel(); <-ended }
}

func (w *world) close() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// header is the command header of the next command by a party.
func (w *world) header(by *Party) *metav1.Command {
	w.commands++
	return &metav1.Command{CommandId: uuid.NewSHA1(uuid.NameSpaceDNS, fmt.Append(nil, w.commands)).String(),
		Actor: &metav1.Actor{User: "user-" + by.Id, Organisation: by.Organisation}}
}

// deliver hands one event to the service until it is done with it. After each
// failed try a process may have died.
func (w *world) deliver(e bus.Event, crash func() bool) {
	w.t.Helper()
	if w.deaf != nil && w.deaf(e) {
		return
	}
	for range 400 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := w.service.react(ctx, e)
		cancel()
		if err == nil {
			return
		}
		if crash != nil && crash() {
			w.restart()
		}
	}
	w.t.Fatalf("%T is never done", e.Message)
}

// busEvent is what the bus makes of an event of the log.
func busEvent(t testing.TB, r es.Recorded) bus.Event {
	m, err := es.Decode(r)
	if err != nil {
		t.Fatal(err)
	}
	category, id, _ := strings.Cut(r.Stream, "-")
	return bus.Event{ID: r.ID, Category: category, StreamID: id, Revision: r.Revision, Position: r.Position, Message: m, Tenant: "RJ1", CorrelationID: "c", Recorded: r.Recorded}
}

// tell is an event of another room.
func (w *world) tell(category, id string, m proto.Message) bus.Event {
	w.commands++
	e := bus.Event{ID: uuid.NewSHA1(uuid.NameSpaceURL, fmt.Append(nil, w.commands)), Category: category, StreamID: id, Message: m, Tenant: "RJ1", CorrelationID: "c"}
	w.outside = append(w.outside, e)
	return e
}

// settle delivers everything there is until nothing more follows.
func (w *world) settle(crash func() bool, again func() bool) {
	w.t.Helper()
	for n := 0; ; n++ {
		if n > 20_000 {
			w.t.Fatal("the reactions never come to rest")
		}
		var e bus.Event
		all := w.log.Events()
		if w.mixed != nil {
			for ; w.next < len(all); w.next++ {
				w.waiting = append(w.waiting, busEvent(w.t, all[w.next]))
			}
			w.waiting, w.outside = append(w.waiting, w.outside...), nil
		}
		switch {
		case len(w.waiting) > 0:
			i := 0
			if w.mixed != nil {
				i = w.mixed(len(w.waiting))
			}
			e = w.waiting[i]
			w.waiting = slices.Delete(w.waiting, i, i+1)
		case w.next < len(all):
			e = busEvent(w.t, all[w.next])
			w.next++
		case len(w.outside) > 0:
			e, w.outside = w.outside[0], w.outside[1:]
		default:
			w.audit()
			return
		}
		w.deliver(e, crash)
		if again != nil && again() {
			w.deliver(e, crash)
		}
	}
}

// audit reads what the log holds beyond the last audit: every prefix of every
// ledger, at the instant of each of its events.
func (w *world) audit() {
	w.t.Helper()
	all := w.log.Events()
	for _, r := range all[w.audited:] {
		category, id, _ := strings.Cut(r.Stream, "-")
		if category == "lead" {
			w.auditPlace(id, r)
		}
		if category != "carelead" {
			continue
		}
		if w.audits[id] == nil {
			w.audits[id] = &Audit{}
		}
		m, err := es.ParseMetadata(r)
		if err != nil {
			w.t.Fatal(err)
		}
		event, err := es.Decode(r)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, is := event.(*pb.AccountabilityTransferred); is {
			w.transfer++
		}
		if err := w.audits[id].Next(Entry{Event: event, Command: m.CommandID, Recorded: r.Recorded}); err != nil {
			w.fail("ledger %s at revision %d (%T): %v", id, r.Revision, event, err)
		}
	}
	w.audited = len(all)
	for id, a := range w.audits {
		if err := a.End(); err != nil {
			w.fail("ledger %s: %v", id, err)
		}
	}
}

// auditPlace counts the places of a lead anew: none is taken for an offer beyond
// the capacity.
func (w *world) auditPlace(lead string, r es.Recorded) {
	event, err := es.Decode(r)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.taken[lead] == nil {
		w.taken[lead] = map[string]bool{}
	}
	switch e := event.(type) {
	case *pb.LeadRegistered:
		w.capacity[lead] = e.Capacity
	case *pb.CapacityChanged:
		w.capacity[lead] = e.Capacity
	case *pb.CaseloadPlaceTaken:
		if e.HandoverId != "" && !w.taken[lead][e.PathwayId] && len(w.taken[lead]) >= int(w.capacity[lead]) {
			w.fail("lead %s: an offer beyond the capacity of %d", lead, w.capacity[lead])
		}
		w.taken[lead][e.PathwayId] = true
	case *pb.CaseloadPlaceFreed:
		delete(w.taken[lead], e.PathwayId)
	}
}

func (w *world) ledger(id string) Ledger {
	state, err := w.service.ledgers.Load(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return state.Value
}

func (w *world) lead(id string) Lead {
	state, err := w.service.leads.Load(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return state.Value
}

// atRest checks what must hold when every event has been heard.
func (w *world) atRest(ledgers, leads []string) {
	w.t.Helper()
	states := map[string]Ledger{}
	for _, id := range ledgers {
		l := w.ledger(id)
		states[id] = l
		w.people.mu.Lock()
		p := w.people.records[l.PersonID]
		w.people.mu.Unlock()
		if silent := slices.Contains(l.Silenced, pb.NoticeSuppression_NOTICE_SUPPRESSION_DEATH); silent != p.GetMessagesStopped() {
			w.fail("ledger %s: notices stopped %v, the person record says %v", id, silent, p.GetMessagesStopped())
		}
		if died := l.Closed == pb.CloseReason_CLOSE_REASON_DIED; died != (p.GetDeath() == formalDeath) && (died || l.Closed == 0) {
			w.fail("ledger %s: closed as died %v, the person record says %q", id, died, p.GetDeath())
		}
		if restricted := slices.Contains(l.Silenced, pb.NoticeSuppression_NOTICE_SUPPRESSION_RESTRICTED_RECORD); restricted != p.GetRestricted() {
			w.fail("ledger %s: silenced for a restriction %v, the person record says %v", id, restricted, p.GetRestricted())
		}
		if l.Violation != "" {
			w.fail("ledger %s: %s", id, l.Violation)
		}
		if l.Closed == 0 && !Same(l.Holder, w.audits[id].Holder()) {
			w.fail("ledger %s: the fold says %v holds it, the audit %v", id, l.Holder.GetId(), w.audits[id].Holder().GetId())
		}
	}
	w.sweeps(states)
	orphans := w.service.board.orphans(w.now.AddDate(9, 0, 0))
	for _, id := range leads {
		lead := w.lead(id)
		for _, pathway := range ledgers {
			l := states[pathway]
			want := l.Closed == 0 && (Same(l.lead(), lead.Party) || l.Handover.Open && Same(l.Handover.To, lead.Party))
			has := lead.place(pathway).Pathway != ""
			if lead.State == pb.LeadState_LEAD_STATE_DEACTIVATED {
				want = has // the caseload of somebody who is gone is nobody's; a pool may still act in their name
			}
			if want && !has || has && !want && l.offeredBefore(lead.place(pathway).Handover) {
				w.fail("lead %s and pathway %s: has a place %v, should have %v", id, pathway, has, want)
			}
			pool, err := w.service.pool(context.Background(), lead, pathway)
			if err != nil {
				w.t.Fatal(err)
			}
			if p := lead.place(pathway); p.Handover != "" && !l.offeredBefore(p.Handover) && !slices.Contains(orphans, named[Place]{id, p}) {
				w.fail("lead %s keeps a place for an offer of pathway %s that was never made: no sweep will find it", id, pathway)
			}
			away := lead.State == pb.LeadState_LEAD_STATE_DEACTIVATED || lead.State == pb.LeadState_LEAD_STATE_ON_LEAVE
			if away && pool != nil && l.Closed == 0 && Same(l.Holder, lead.Party) {
				w.fail("lead %s is %v and still holds pathway %s although a pool stands", id, lead.State, pathway)
			}
		}
	}
}

// sweeps checks that the board misses no timer, now or later.
func (w *world) sweeps(ledgers map[string]Ledger) {
	w.t.Helper()
	all := w.log.Events()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := w.service.board.Wait(ctx, all[len(all)-1].Position); err != nil {
		w.t.Fatal(err)
	}
	for _, days := range []int{0, 1, 2, 7, 30, 400} {
		now := w.now.AddDate(0, 0, days)
		listed := w.service.board.dueBy(now)
		for id, l := range ledgers {
			if events, _ := (RunTimers{Now: now}).Decide(l); len(events) > 0 && !slices.Contains(listed, id) {
				w.fail("ledger %s: %T is due in %d days, and no sweep will find it", id, events[0], days)
			}
		}
	}
}

func pathwayIDs(n int) (all []string) {
	for i := range n {
		all = append(all, uuid.NewSHA1(uuid.NameSpaceX500, fmt.Append(nil, "pathway ", i)).String())
	}
	return all
}

// must runs a decision on a stream of a world without faults.
func must[S any](w *world, streams *es.Streams[S], id string, by *Party, c decision[S]) es.State[S] {
	w.t.Helper()
	state, err := streams.Do(context.Background(), id, &pb.RunTimersRequest{Command: w.header(by), PathwayId: id}, c.Decide)
	if err != nil {
		w.t.Fatalf("%T on %s: %v", c, id, err)
	}
	return state
}

// staff defines a neighbourhood with a standing pool and active leads in it.
func (w *world) staff(capacity int32, leads ...string) {
	p := pool("P")
	must(w, w.service.neighbourhoods, "n1", p, DefineNeighbourhood{Name: "Peckham", Organisation: "RAA", Practices: []string{"G85001"}, Manager: person("boss"), Contact: person("nurse")})
	must(w, w.service.neighbourhoods, "n1", p, AcceptFallback{Pool: p, Until: monday.AddDate(2, 0, 0), Now: w.now, OutOfHours: "111", By: as(p)})
	for _, id := range leads {
		must(w, w.service.leads, id, p, RegisterLead{Party: person(id), Neighbourhoods: []string{"n1"}, Capacity: capacity, On: nhs.DateOf(w.now)})
		must(w, w.service.leads, id, p, ActivateLead{On: "2026-07-06"})
	}
}

// give opens a ledger and hands it to a lead.
func (w *world) give(pathway, personID, lead string) {
	w.t.Helper()
	w.tell("pathway", pathway, &referralv1.PathwayStarted{PersonId: personID, Facts: &referralv1.StartFacts{ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Code: "A", Name: "Team A"}}})
	w.settle(nil, nil)
	must(w, w.service.ledgers, pathway, team("A"), PrepareHandover{Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, Met: all()})
	h := &handoverServer{service: w.service}
	ctx := context.Background()
	w.people.change(personID, func(p *personv1.Person) { p.Practice = proto.String("G85001") })
	reply, err := h.OfferHandover(ctx, &pb.OfferHandoverRequest{Command: w.header(team("A")), PathwayId: pathway, Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, LeadId: lead, SummaryVersion: 1, PlanVersion: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := h.AcceptHandover(ctx, &pb.AcceptHandoverRequest{Command: w.header(person(lead)), PathwayId: pathway, HandoverId: reply.Ledger.Handover.HandoverId, SummaryVersion: 1, PlanVersion: 1}); err != nil {
		w.t.Fatal(err)
	}
}
