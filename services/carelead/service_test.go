package carelead

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
	"waymark/services/kit/runtest"
)

// others answer as the person and the plan service.
type others struct {
	personv1.UnimplementedPersonServiceServer
	planv1.UnimplementedPlanServiceServer
	mu     sync.Mutex
	person *personv1.Person
	record *planv1.Record
	down   bool
}

func (o *others) GetPerson(context.Context, *personv1.GetPersonRequest) (*personv1.PersonReply, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down {
		return nil, status.Error(codes.Internal, "down")
	}
	return &personv1.PersonReply{Person: o.person}, nil
}

func (o *others) GetPlan(context.Context, *planv1.GetPlanRequest) (*planv1.PlanReply, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.record == nil {
		return nil, fault.NotFound("plan.not_found", "no plan")
	}
	return &planv1.PlanReply{Record: o.record}, nil
}

func (o *others) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

// house is the service behind a real connection, with its log and its clock.
type house struct {
	*runtest.House
	log      *estest.Log
	others   *others
	commands int

	mu  sync.Mutex // guards now
	now time.Time
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *house) later(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

func open(t *testing.T, log *estest.Log) *house {
	t.Helper()
	h := &house{log: log, now: monday, others: &others{
		person: &personv1.Person{Practice: proto.String("G85001")},
		record: &planv1.Record{Plan: &planv1.Plan{Version: 1}, SurveillanceNotNeededReason: "none", Summaries: []*planv1.Summary{{Version: 1, State: planv1.SummaryState_SUMMARY_STATE_APPROVED}}},
	}}
	persons := run.Part{Name: "person", Register: func(r grpc.ServiceRegistrar) { personv1.RegisterPersonServiceServer(r, h.others) }}
	plans := run.Part{Name: "plan", Register: func(r grpc.ServiceRegistrar) { planv1.RegisterPlanServiceServer(r, h.others) }}
	h.House = runtest.Serve(t, log, h.clock, New, persons, plans)
	return h
}

func methods() []protoreflect.MethodDescriptor {
	return runtest.Methods(pb.File_waymark_carelead_v1_carelead_proto)
}

// by is the header of the next command by a user of an organisation.
func (h *house) by(user, organisation string) *metav1.Command {
	h.commands++
	return &metav1.Command{CommandId: uuid.NewSHA1(uuid.NameSpaceDNS, fmt.Append(nil, "house ", h.commands)).String(), Actor: &metav1.Actor{User: user, Organisation: organisation}}
}

func input(kind pb.PartyKind, id string) *pb.PartyInput {
	p := &pb.PartyInput{Kind: kind, Id: id, Name: "Party " + id, Organisation: "RAA"}
	switch kind {
	case pb.PartyKind_PARTY_KIND_PERSON_IN_ROLE:
		p.SdsUserId, p.RoleCode = "user-"+id, "R9801"
	case pb.PartyKind_PARTY_KIND_TEAM:
		p.Organisation = "RJ1"
	}
	return p
}

const (
	aTeam   = pb.PartyKind_PARTY_KIND_TEAM
	aPerson = pb.PartyKind_PARTY_KIND_PERSON_IN_ROLE
	aPool   = pb.PartyKind_PARTY_KIND_FALLBACK_POOL
)

// journey is a request to every RPC, in an order in which each is taken.
func journey(h *house) (requests []proto.Message) {
	do := func(req proto.Message) proto.Message {
		requests = append(requests, req)
		return h.Must(req)
	}
	ledger := func(req proto.Message) *pb.Ledger {
		h.T.Helper()
		return do(req).(*pb.LedgerReply).Ledger
	}
	staff := func() *metav1.Command { return h.by("manager", "RAA") }
	at := func(days int) *timestamppb.Timestamp { return stamp(monday.AddDate(0, 0, days)) }

	do(&pb.DefineNeighbourhoodRequest{Command: staff(), NeighbourhoodId: "n1", Name: "Peckham", Organisation: "RAA", Practices: []string{"G85009"},
		Manager: input(aPerson, "boss"), AllianceContact: input(aPerson, "nurse"), Alliance: "SEL"})
	do(&pb.ChangePracticesRequest{Command: staff(), NeighbourhoodId: "n1", Practices: []string{"G85001", "G85002"}})
	do(&pb.ChangeManagerRequest{Command: staff(), NeighbourhoodId: "n1", Manager: input(aPerson, "boss2")})
	do(&pb.AcceptFallbackRequest{Command: staff(), NeighbourhoodId: "n1", Pool: input(aPool, "pool"), Until: at(400), OutOfHoursMessage: "Call 111"})
	do(&pb.RunNeighbourhoodTimersRequest{Command: staff(), NeighbourhoodId: "n1"})
	for _, l := range []string{"ann", "bob", "cat"} {
		do(&pb.RegisterLeadRequest{Command: staff(), LeadId: l, Party: input(aPerson, l), NeighbourhoodIds: []string{"n1"}, Languages: []string{"en"}, Capacity: 3})
		do(&pb.ActivateLeadRequest{Command: staff(), LeadId: l})
	}
	position := do(&pb.ChangeCapacityRequest{Command: staff(), LeadId: "ann", Capacity: 4}).(*pb.LeadReply).Receipt.Position
	do(&pb.GetNeighbourhoodRequest{NeighbourhoodId: "n1"})
	do(&pb.ListNeighbourhoodsRequest{MinPosition: position})
	if n := do(&pb.FindNeighbourhoodRequest{Practice: "G85002", MinPosition: position}).(*pb.NeighbourhoodReply); n.Neighbourhood.NeighbourhoodId != "n1" {
		h.T.Errorf("found %v", n)
	}
	page := do(&pb.ListLeadsRequest{NeighbourhoodId: "n1", WithPlace: true, Language: "en", MinPosition: position, PageSize: 2}).(*pb.ListLeadsReply)
	rest := do(&pb.ListLeadsRequest{NeighbourhoodId: "n1", WithPlace: true, Language: "en", MinPosition: position, PageSize: 2, PageToken: page.NextPageToken}).(*pb.ListLeadsReply)
	if len(page.Leads) != 2 || len(rest.Leads) != 1 || rest.NextPageToken != "" || page.Leads[0].Capacity != 4 {
		h.T.Errorf("pages %v and %v", page, rest)
	}

	four := pathwayIDs(4)
	id := four[0]
	doctor := func() *metav1.Command { return h.by("doctor", "RJ1") }
	for _, p := range four {
		ledger(&pb.OpenLedgerRequest{Command: doctor(), PathwayId: p, PersonId: personA, Holder: input(aTeam, "breast")})
	}
	prepare := func(p string) {
		ledger(&pb.PrepareHandoverRequest{Command: doctor(), PathwayId: p, Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, PatientInformed: true, ConsentToShare: true})
	}
	offer := func(p, lead string) string {
		return ledger(&pb.OfferHandoverRequest{Command: doctor(), PathwayId: p, Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, LeadId: lead, SummaryVersion: 1, PlanVersion: 1}).Handover.HandoverId
	}
	prepare(id)
	ledger(&pb.WithdrawHandoverRequest{Command: doctor(), PathwayId: id, HandoverId: offer(id, "ann"), Reason: "too early"})
	declined := ledger(&pb.DeclineHandoverRequest{Command: h.by("user-ann", "RAA"), PathwayId: id, HandoverId: offer(id, "ann"), Reason: pb.DeclineReason_DECLINE_REASON_OTHER, Text: "conflict"})
	ledger(&pb.CompleteTaskRequest{Command: doctor(), PathwayId: id, TaskId: declined.Tasks[0].TaskId})
	open := offer(id, "bob")
	ledger(&pb.AcknowledgeOfferRequest{Command: h.by("user-bob", "RAA"), PathwayId: id, HandoverId: open})
	h.later(time.Hour)
	held := ledger(&pb.AcceptHandoverRequest{Command: h.by("user-bob", "RAA"), PathwayId: id, HandoverId: open, SummaryVersion: 1, PlanVersion: 1})
	if held.Holder.Id != "bob" || held.FirstContactDue == nil || held.Handover.State != pb.HandoverState_HANDOVER_STATE_ACCEPTED {
		h.T.Errorf("after the acceptance: %v", held)
	}
	ledger(&pb.RecordFirstContactRequest{Command: h.by("user-bob", "RAA"), PathwayId: id, Made: true, On: "2026-07-06", Medium: "TELEPHONE"})
	arrange := func(from, to int) string {
		covers := ledger(&pb.ArrangeCoverRequest{Command: h.by("user-bob", "RAA"), PathwayId: id, CoverLeadId: "cat", Starts: at(from), Ends: at(to)}).Covers
		return covers[len(covers)-1].CoverId
	}
	cover := arrange(10, 20)
	ledger(&pb.AcceptCoverRequest{Command: h.by("user-cat", "RAA"), PathwayId: id, CoverId: cover})
	ledger(&pb.ChangeCoverRequest{Command: h.by("user-bob", "RAA"), PathwayId: id, CoverId: cover, Ends: at(21)})
	ledger(&pb.CancelCoverRequest{Command: h.by("user-bob", "RAA"), PathwayId: id, CoverId: arrange(30, 40)})
	ledger(&pb.RunTimersRequest{Command: doctor(), PathwayId: id})
	if got := ledger(&pb.GetLedgerRequest{PathwayId: id}); !got.Open || got.Since == nil || len(got.Covers) != 1 {
		h.T.Errorf("the ledger: %v", got)
	}
	ledger(&pb.RecordPatientDecisionRequest{Command: doctor(), PathwayId: four[1], On: "2026-07-06", AskAgainOn: "2026-10-06"})
	ledger(&pb.MergeLedgersRequest{Command: doctor(), PathwayId: four[1], MergedPathwayId: four[2]})
	ledger(&pb.CloseLedgerRequest{Command: doctor(), PathwayId: four[3], Reason: pb.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE, Evidence: "letter 1"})

	leave := do(&pb.BookLeaveRequest{Command: staff(), LeadId: "ann", Starts: at(50), Ends: at(60)}).(*pb.LeadReply).Lead.Leave[0].LeaveId
	do(&pb.CancelLeaveRequest{Command: staff(), LeadId: "ann", LeaveId: leave})
	do(&pb.ReportSicknessRequest{Command: staff(), LeadId: "ann", ExpectedBack: at(5)})
	do(&pb.RunLeadTimersRequest{Command: staff(), LeadId: "ann"})
	do(&pb.ReturnFromLeaveRequest{Command: staff(), LeadId: "ann"})
	do(&pb.DeactivateLeadRequest{Command: staff(), LeadId: "ann", Cause: "role_ended"})
	do(&pb.GetLeadRequest{LeadId: "ann"})
	return requests
}

// TestEveryRPC sends a request to each RPC over a real connection, then each
// again: the same id answers the same and records nothing; with another body it
// is refused. Then the log is audited.
func TestEveryRPC(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewAuditedLog(t))
	requests := journey(h)
	called := map[protoreflect.FullName]bool{}
	for _, req := range requests {
		called[runtest.MethodOf(t, req).FullName()] = true
	}
	for _, m := range methods() {
		if !called[m.FullName()] {
			t.Errorf("%s was never called", m.FullName())
		}
	}
	before, repeats := len(h.log.Events()), 0
	for _, req := range requests {
		if _, ok := req.(es.Request); !ok {
			continue
		}
		repeats++
		first, again := h.Must(req), h.Must(req)
		if !proto.Equal(first, again) {
			t.Errorf("%s repeated:\n %v\nthen\n %v", runtest.Name(req), first, again)
		}
		if strings.HasSuffix(runtest.Name(req), "TimersRequest") {
			continue // recorded nothing, so there is nothing to repeat
		}
		other := proto.Clone(req).(es.Request)
		other.GetCommand().Reason = "another body"
		if _, err := h.Call(other); status.Code(err) != codes.InvalidArgument || fault.CodeOf(err) != "command.id_reused" {
			t.Errorf("%s with another body: %v", runtest.Name(req), err)
		}
	}
	if after := len(h.log.Events()); after != before {
		t.Errorf("repeats recorded %d events", after-before)
	}
	t.Logf("%d RPCs called by %d requests, %d commands repeated, %d events", len(called), len(requests), repeats, before)
}

// TestBadInput: an empty request is refused by every RPC with a field named, and
// so are wrong codes, ids, times and overlong texts. No answer holds what was sent.
func TestBadInput(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog())
	empty := 0
	for _, m := range methods() {
		if strings.HasPrefix(string(m.Name()), "List") {
			continue // lists everything
		}
		mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
		if err != nil {
			t.Fatal(err)
		}
		if h.BadField(mt.New().Interface()) != "" {
			empty++
		}
	}
	id := pathwayIDs(1)[0]
	cmd := func() *metav1.Command { return h.by("u", "RJ1") }
	for want, req := range map[string]proto.Message{
		"pathway_id":         &pb.GetLedgerRequest{PathwayId: "9990000018"},
		"holder.kind":        &pb.OpenLedgerRequest{Command: cmd(), PathwayId: id, PersonId: personA, Holder: input(aPool, "p")},
		"holder.id":          &pb.OpenLedgerRequest{Command: cmd(), PathwayId: id, PersonId: personA, Holder: input(aTeam, "a b")},
		"party.sds_user_id":  &pb.RegisterLeadRequest{Command: cmd(), NeighbourhoodIds: []string{"n"}, Party: &pb.PartyInput{Kind: aPerson, Id: "x", Name: "x", Organisation: "RAA"}},
		"party":              &pb.RegisterLeadRequest{Command: cmd(), NeighbourhoodIds: []string{"n"}, Party: input(aTeam, "x")},
		"neighbourhood_ids":  &pb.RegisterLeadRequest{Command: cmd(), Party: input(aPerson, "x")},
		"capacity":           &pb.ChangeCapacityRequest{Command: cmd(), LeadId: "x", Capacity: -1},
		"practices[0]":       &pb.ChangePracticesRequest{Command: cmd(), NeighbourhoodId: "x", Practices: []string{"not a code"}},
		"medium":             &pb.RecordFirstContactRequest{Command: cmd(), PathwayId: id, On: "2026-07-06", Medium: "PIGEON"},
		"on":                 &pb.RecordFirstContactRequest{Command: cmd(), PathwayId: id, On: "2026-02-30", Medium: "TELEPHONE"},
		"text":               &pb.DeclineHandoverRequest{Command: cmd(), PathwayId: id, HandoverId: id, Reason: 1, Text: strings.Repeat("x", 1001)},
		"cause":              &pb.DeactivateLeadRequest{Command: cmd(), LeadId: "x", Cause: "bored"},
		"page_size":          &pb.ListLeadsRequest{PageSize: -1},
		"merged_pathway_id":  &pb.MergeLedgersRequest{Command: cmd(), PathwayId: id, MergedPathwayId: id},
		"command.command_id": &pb.RunTimersRequest{Command: &metav1.Command{CommandId: "1", Actor: &metav1.Actor{User: "u", Organisation: "RJ1"}}, PathwayId: id},
	} {
		if got := h.BadField(req); got != want {
			t.Errorf("the field named is %q, want %q", got, want)
		}
	}
	t.Logf("%d empty requests refused", empty)
}

// TestStatusCodes: each refusal has its status and its code on the wire, and
// records nothing.
func TestStatusCodes(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewAuditedLog(t))
	journey(h)
	ids := pathwayIDs(9)
	held, open, closed, none, fresh := ids[0], ids[1], ids[3], ids[7], ids[8]
	doctor := func() *metav1.Command { return h.by("doctor", "RJ1") }
	at := func(days int) *timestamppb.Timestamp { return stamp(monday.AddDate(0, 0, days)) }
	h.Must(&pb.OpenLedgerRequest{Command: doctor(), PathwayId: fresh, PersonId: personA, Holder: input(aTeam, "breast")})
	prepare := func(p string, change func(*pb.PrepareHandoverRequest)) proto.Message {
		req := &pb.PrepareHandoverRequest{Command: doctor(), PathwayId: p, Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, PatientInformed: true, ConsentToShare: true}
		change(req)
		return req
	}
	offer := func(p, lead, neighbourhood string) proto.Message {
		return &pb.OfferHandoverRequest{Command: doctor(), PathwayId: p, Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, LeadId: lead, NeighbourhoodId: neighbourhood, SummaryVersion: 1, PlanVersion: 1}
	}
	before := len(h.log.Events())
	check := func(req proto.Message, code codes.Code, is, text string) {
		t.Helper()
		_, err := h.Call(req)
		if status.Code(err) != code || fault.CodeOf(err) != is || !strings.Contains(status.Convert(err).Message(), text) {
			t.Errorf("%s: %v (%s), want %v %s %q", runtest.Name(req), err, fault.CodeOf(err), code, is, text)
		}
		if now := len(h.log.Events()); now != before {
			t.Errorf("%s was refused and recorded %d events", runtest.Name(req), now-before)
			before = now
		}
	}
	const pre, notFound, denied, exists, invalid = codes.FailedPrecondition, codes.NotFound, codes.PermissionDenied, codes.AlreadyExists, codes.InvalidArgument
	check(&pb.OpenLedgerRequest{Command: doctor(), PathwayId: strings.ToUpper(held), PersonId: personA, Holder: input(aTeam, "breast")}, exists, "carelead.ledger.exists", "")
	check(&pb.GetLedgerRequest{PathwayId: none}, notFound, "carelead.ledger.not_found", "")
	check(offer(none, "bob", "n1"), notFound, "carelead.ledger.not_found", "")
	check(&pb.CompleteTaskRequest{Command: doctor(), PathwayId: held, TaskId: none}, notFound, "carelead.task.not_found", "")
	check(&pb.RunTimersRequest{Command: doctor(), PathwayId: none}, 0, "", "")
	check(prepare(closed, func(*pb.PrepareHandoverRequest) {}), pre, "carelead.ledger.closed", "follow up complete")
	check(prepare(fresh, func(r *pb.PrepareHandoverRequest) { r.ConsentToShare = false }), pre, "carelead.handover.incomplete", "consent_to_share")
	h.others.set(func() { h.others.record = nil })
	check(prepare(fresh, func(*pb.PrepareHandoverRequest) {}), pre, "carelead.handover.incomplete", "summary_approved, plan_published, surveillance_set")
	check(prepare(fresh, func(r *pb.PrepareHandoverRequest) { r.OverrideReason, r.OverrideSecondPerson = "urgent", "doctor" }), pre, "carelead.handover.second_person", "")
	check(offer(fresh, "bob", ""), pre, "carelead.handover.not_prepared", "")
	check(offer(open, "bob", ""), pre, "carelead.handover.not_prepared", "")
	h.Must(prepare(fresh, func(r *pb.PrepareHandoverRequest) { r.OverrideReason, r.OverrideSecondPerson = "urgent", "consultant" }))
	before = len(h.log.Events())
	check(offer(fresh, "", ""), invalid, "carelead.handover.no_lead", "")
	check(offer(fresh, "nobody", ""), notFound, "carelead.lead.not_found", "")
	check(offer(fresh, "ann", ""), pre, "carelead.lead.inactive", "")
	check(offer(fresh, "bob", "elsewhere"), pre, "carelead.neighbourhood.not_served", "")
	h.others.set(func() { h.others.person = &personv1.Person{Restricted: true} })
	check(offer(fresh, "bob", ""), invalid, "carelead.neighbourhood.unknown", "name the neighbourhood")
	h.others.set(func() { h.others.person = &personv1.Person{Practice: proto.String("X99999")} })
	check(offer(fresh, "bob", ""), pre, "carelead.neighbourhood.not_served", "")
	check(offer(fresh, "bob", "n1"), pre, "carelead.neighbourhood.not_served", "")
	h.others.set(func() { h.others.down = true })
	if _, err := h.Call(offer(fresh, "bob", "")); fault.IsAnswer(err) || err == nil {
		t.Errorf("a person service that is down was taken for an answer: %v", err)
	}
	h.others.set(func() { h.others.down, h.others.person = false, &personv1.Person{Practice: proto.String("G85001")} })
	h.Must(&pb.ChangeCapacityRequest{Command: h.by("m", "RAA"), LeadId: "bob", Capacity: 1})
	before = len(h.log.Events())
	check(offer(fresh, "bob", ""), pre, "carelead.lead.no_capacity", "")
	check(&pb.OfferHandoverRequest{Command: doctor(), PathwayId: fresh, Kind: pb.HandoverKind_HANDOVER_KIND_BETWEEN_TEAMS}, invalid, "carelead.handover.no_party", "")
	check(&pb.OfferHandoverRequest{Command: doctor(), PathwayId: fresh, Kind: pb.HandoverKind_HANDOVER_KIND_BETWEEN_TEAMS, To: input(aPool, "p")}, invalid, "carelead.handover.not_a_team", "")
	check(&pb.OfferHandoverRequest{Command: doctor(), PathwayId: fresh, Kind: pb.HandoverKind_HANDOVER_KIND_TO_TREATING_TEAM}, pre, "carelead.handover.to_holder", "")

	reply := h.Must(offer(fresh, "cat", "")).(*pb.LedgerReply)
	before = len(h.log.Events())
	on := reply.Ledger.Handover.HandoverId
	accept := func(user, organisation string, version int64) proto.Message {
		return &pb.AcceptHandoverRequest{Command: h.by(user, organisation), PathwayId: fresh, HandoverId: on, SummaryVersion: 1, PlanVersion: version}
	}
	check(offer(fresh, "cat", ""), pre, "carelead.handover.open", "")
	check(accept("user-bob", "RAA", 1), denied, "carelead.handover.not_addressee", "")
	check(accept("user-cat", "RJ1", 1), denied, "carelead.handover.not_addressee", "")
	check(accept("user-cat", "RAA", 2), pre, "carelead.handover.stale_version", "plan version 1")
	check(&pb.WithdrawHandoverRequest{Command: h.by("user-cat", "RAA"), PathwayId: fresh, HandoverId: on, Reason: "r"}, denied, "carelead.handover.not_offeror", "")
	check(&pb.DeclineHandoverRequest{Command: h.by("user-cat", "RAA"), PathwayId: fresh, HandoverId: on, Reason: pb.DeclineReason_DECLINE_REASON_OTHER}, invalid, "carelead.decline.text", "")
	check(&pb.AcknowledgeOfferRequest{Command: h.by("user-cat", "RAA"), PathwayId: fresh, HandoverId: none}, pre, "carelead.handover.not_open", "")

	// Of two acceptances that race, one wins.
	errs := make(chan error, 2)
	for _, req := range []proto.Message{accept("user-cat", "RAA", 1), accept("user-cat", "RAA", 1)} {
		go func() { _, err := h.Call(req); errs <- err }()
	}
	lost := ""
	for range 2 {
		if err := <-errs; err != nil {
			lost += fault.CodeOf(err)
		}
	}
	if lost != "carelead.handover.not_open" {
		t.Errorf("of two acceptances that raced were refused: %q", lost)
	}
	before = len(h.log.Events())
	check(&pb.RecordFirstContactRequest{Command: doctor(), PathwayId: fresh, On: "2026-07-06", Medium: "VIDEO_CONSULTATION"}, denied, "carelead.contact.not_holder", "")
	check(&pb.ArrangeCoverRequest{Command: doctor(), PathwayId: held, CoverLeadId: "cat", Starts: at(15), Ends: at(16)}, pre, "carelead.cover.overlap", "")
	check(&pb.ArrangeCoverRequest{Command: doctor(), PathwayId: held, CoverLeadId: "bob", Starts: at(60), Ends: at(61)}, pre, "carelead.cover.own", "")
	check(&pb.ArrangeCoverRequest{Command: doctor(), PathwayId: open, CoverLeadId: "bob", Starts: at(60), Ends: at(61)}, pre, "carelead.cover.no_lead", "")
	check(&pb.AcceptCoverRequest{Command: doctor(), PathwayId: held, CoverId: none}, notFound, "carelead.cover.not_found", "")
	check(&pb.RecordPatientDecisionRequest{Command: doctor(), PathwayId: open, On: "2026-07-06"}, invalid, "carelead.patient.ask_again", "")
	// ERR-07: the notice was retracted; nor does an informal one close a ledger.
	for _, death := range []string{"", "1"} {
		h.others.set(func() { h.others.person = &personv1.Person{Death: death} })
		check(&pb.CloseLedgerRequest{Command: doctor(), PathwayId: open, Reason: pb.CloseReason_CLOSE_REASON_DIED, Evidence: "e"}, pre, "carelead.end.reason_not_valid", "")
	}
	h.others.set(func() { h.others.person = &personv1.Person{Practice: proto.String("G85001")} })
	check(&pb.CloseLedgerRequest{Command: doctor(), PathwayId: open, Reason: pb.CloseReason_CLOSE_REASON_SUPERSEDED, Evidence: "e"}, pre, "carelead.end.reason_not_valid", "")
	check(&pb.CloseLedgerRequest{Command: doctor(), PathwayId: open, Reason: pb.CloseReason_CLOSE_REASON_LEFT_ENGLAND}, invalid, "carelead.end.evidence_missing", "")
	check(&pb.MergeLedgersRequest{Command: doctor(), PathwayId: open, MergedPathwayId: closed}, pre, "carelead.ledger.closed", "")
	check(&pb.GetLeadRequest{LeadId: "nobody"}, notFound, "carelead.lead.not_found", "")
	check(&pb.RegisterLeadRequest{Command: doctor(), LeadId: "BOB", Party: input(aPerson, "bob"), NeighbourhoodIds: []string{"n1"}}, exists, "carelead.lead.exists", "")
	check(&pb.ChangeCapacityRequest{Command: doctor(), LeadId: "ann", Capacity: 9}, pre, "carelead.lead.inactive", "")
	check(&pb.ReturnFromLeaveRequest{Command: doctor(), LeadId: "bob"}, pre, "carelead.leave.none", "")
	check(&pb.CancelLeaveRequest{Command: doctor(), LeadId: "bob", LeaveId: none}, notFound, "carelead.leave.not_found", "")
	check(&pb.BookLeaveRequest{Command: doctor(), LeadId: "bob", Starts: at(-3), Ends: at(-2)}, invalid, "carelead.leave.times", "")
	check(&pb.GetNeighbourhoodRequest{NeighbourhoodId: "n9"}, notFound, "carelead.neighbourhood.not_found", "")
	check(&pb.FindNeighbourhoodRequest{Practice: "Y00001"}, notFound, "carelead.neighbourhood.not_found", "")
	check(&pb.DefineNeighbourhoodRequest{Command: doctor(), NeighbourhoodId: "n1", Name: "x", Organisation: "RAA", Manager: input(aPerson, "boss"), AllianceContact: input(aPerson, "nurse")}, exists, "carelead.neighbourhood.exists", "")
	check(&pb.AcceptFallbackRequest{Command: doctor(), NeighbourhoodId: "n1", Pool: input(aPool, "pool"), Until: at(9), OutOfHoursMessage: "m"}, denied, "carelead.fallback.not_pool", "")
	check(&pb.AcceptFallbackRequest{Command: h.by("m", "RAA"), NeighbourhoodId: "n1", Pool: input(aPool, "pool"), Until: at(-9), OutOfHoursMessage: "m"}, invalid, "carelead.fallback.until", "")
	check(&pb.AcceptFallbackRequest{Command: h.by("m", "RAA"), NeighbourhoodId: "n1", Pool: input(aPerson, "pool"), Until: at(9), OutOfHoursMessage: "m"}, invalid, "carelead.fallback.not_a_pool", "")
	// When the pool's acceptance has lapsed, no lead of it can be offered anything.
	h.later(500 * 24 * time.Hour)
	h.Must(&pb.RunNeighbourhoodTimersRequest{Command: doctor(), NeighbourhoodId: "n1"})
	before = len(h.log.Events())
	check(&pb.OfferHandoverRequest{Command: h.by("user-cat", "RAA"), PathwayId: fresh, Kind: pb.HandoverKind_HANDOVER_KIND_BETWEEN_LEADS, LeadId: "bob"}, pre, "carelead.neighbourhood.no_fallback", "")
}

// TestEscalation: the offer runs out again and again until nobody is left. The
// team stays accountable; then a task tells a person. RunTimers before its time
// does nothing, and one call does all that is due.
func TestEscalation(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewAuditedLog(t))
	journey(h)
	id := pathwayIDs(9)[8]
	doctor := func() *metav1.Command { return h.by("doctor", "RJ1") }
	// Back to the team: one working day, then its cancer manager.
	held := pathwayIDs(1)[0]
	back := h.Must(&pb.OfferHandoverRequest{Command: h.by("user-bob", "RAA"), PathwayId: held, Kind: pb.HandoverKind_HANDOVER_KIND_TO_TREATING_TEAM, To: input(aPerson, "cancer-manager")}).(*pb.LedgerReply).Ledger.Handover
	if back.To.Id != "breast" || !back.AnswerDue.AsTime().Equal(back.SeenDue.AsTime()) {
		t.Errorf("the return: %v", back)
	}
	h.later(back.AnswerDue.AsTime().Sub(h.clock()))
	next := h.Must(&pb.RunTimersRequest{Command: doctor(), PathwayId: held}).(*pb.LedgerReply).Ledger
	if next.Handover.To.Id != "cancer-manager" || next.Handover.EscalationLevel != 1 {
		t.Errorf("the return escalates to %v", next.Handover)
	}
	h.Must(&pb.OpenLedgerRequest{Command: doctor(), PathwayId: id, PersonId: personA, Holder: input(aTeam, "breast")})
	h.Must(&pb.PrepareHandoverRequest{Command: doctor(), PathwayId: id, Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, PatientInformed: true, ConsentToShare: true})
	h.Must(&pb.OfferHandoverRequest{Command: doctor(), PathwayId: id, Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, LeadId: "cat"})
	tick := func() *pb.Ledger {
		return h.Must(&pb.RunTimersRequest{Command: doctor(), PathwayId: id}).(*pb.LedgerReply).Ledger
	}
	before := len(h.log.Events())
	tick()
	if len(h.log.Events()) != before {
		t.Error("a timer ran before its time")
	}
	for level, to := range []string{"cat", "pool", "boss2", "nurse"} {
		l := tick()
		if l.Handover.To.Id != to || l.Handover.EscalationLevel != int32(level) || l.Holder.Id != "breast" || l.Handover.State != pb.HandoverState_HANDOVER_STATE_OFFERED {
			t.Fatalf("level %d: %v", level, l)
		}
		h.later(l.Handover.AnswerDue.AsTime().Sub(h.clock()))
	}
	l := tick()
	if l.Handover.State != pb.HandoverState_HANDOVER_STATE_EXPIRED || l.Holder.Id != "breast" || len(l.Tasks) != 1 || l.Tasks[0].Code != "escalation_exhausted" {
		t.Errorf("at the end of the chain: %v", l)
	}
}

// TestEventsAreKept: each declared event is evolved, and an example of each that
// was stored once is read for ever.
func TestEventsAreKept(t *testing.T) {
	t.Parallel()
	file := pb.File_waymark_carelead_v1_events_proto
	estest.EvolvesAll(t, file, LedgerDecider)
	estest.EvolvesAll(t, file, LeadDecider)
	estest.EvolvesAll(t, file, NeighbourhoodDecider)
	estest.StoredExamples(t, "testdata/events", file, LedgerDecider)
	estest.StoredExamples(t, "testdata/events", file, LeadDecider)
	estest.StoredExamples(t, "testdata/events", file, NeighbourhoodDecider)
}
