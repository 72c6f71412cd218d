package pathway

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	pb "waymark/proto/waymark/pathway/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/run"
)

var (
	key     = []byte("0123456789abcdef0123456789abcdef")
	monday  = time.Date(2026, 7, 6, 9, 0, 0, 0, time.UTC)
	treats  = &careleadv1.Party{Kind: careleadv1.PartyKind_PARTY_KIND_TEAM, Id: "BREAST", Name: "RJ1 Breast", Organisation: "RJ1"}
	lead    = &careleadv1.Party{Kind: careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE, Id: "lead-1", Name: "Peckham lead", Organisation: "RAA", SdsUserId: "555"}
	started = &referralv1.StartFacts{ReceivedOn: "2026-07-01", Priority: "3", ReferralType: "01", Source: "03",
		ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Code: "BREAST", Name: "RJ1 Breast"}}
)

// world is a log with a clock and a writer for the streams of any service.
type world struct {
	*estest.Log
	mu  sync.Mutex
	now time.Time
	n   int
}

func newWorld() *world {
	w := &world{Log: estest.NewLog(), now: monday}
	w.SetClock(w.clock)
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
	return w.now
}

// record writes events as the owning service does, in one command. occurred may be zero.
func (w *world) record(t testing.TB, stream string, occurred time.Time, events ...proto.Message) es.Position {
	t.Helper()
	category, id, _ := strings.Cut(stream, "-")
	streams := es.NewStreams(w.Log, es.Decider[struct{}]{Category: category, Evolve: func(s struct{}, _ proto.Message) struct{} { return s }}, es.Options{Key: key})
	w.mu.Lock()
	w.n++
	command := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, w.n))
	w.mu.Unlock()
	c := &metav1.Command{CommandId: command.String(), Actor: &metav1.Actor{User: "555", RoleCode: "R0600", Organisation: "RJ1"}}
	if !occurred.IsZero() {
		c.OccurredAt = timestamppb.New(occurred)
	}
	state, err := streams.Do(context.Background(), id, &careleadv1.RunTimersRequest{Command: c, PathwayId: id}, func(struct{}) ([]proto.Message, error) { return events, nil })
	if err != nil {
		t.Fatal(err)
	}
	return state.Position
}

// rebuild puts one pathway together from the log, as GetPathway does.
func rebuild(ctx context.Context, log es.Log, id string) (*pb.Pathway, error) {
	h, err := load(ctx, log, id, "")
	if err != nil {
		return nil, err
	}
	return h.view(moment{})
}

func serve(t *testing.T, deps run.Deps) pb.PathwayQueryServiceClient {
	t.Helper()
	part, err := New(deps)
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, part)
}

func connect(t *testing.T, part run.Part) pb.PathwayQueryServiceClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.WaitForHandlers(true)) // nobody reads what is closed
	part.Register(srv)
	go srv.Serve(l)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if part.Run != nil {
			part.Run(ctx)
		}
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		cancel()
		<-done
		if part.Close != nil {
			part.Close()
		}
	})
	return pb.NewPathwayQueryServiceClient(conn)
}

func (w *world) deps() run.Deps { return run.Deps{Log: w.Log, Clock: w.clock, Key: key} }

func wantCode(t testing.TB, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("%v, want %s", err, code)
	}
}

const pathwayID, personID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427", "6fa459ea-ee8a-4ca4-894e-db77e160355e"

// handOver records a pathway from its start to an accepted handover and returns
// the positions just before and at the acceptance.
func (w *world) handOver(t testing.TB, id string) (opened, before, at es.Position) {
	opened = w.record(t, "pathway-"+id, time.Time{}, &referralv1.PathwayStarted{FactId: uuid.NewString(), Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC, Ruleset: "cwt-12.1"})
	w.advance(time.Hour)
	w.record(t, "carelead-"+id, time.Time{}, &careleadv1.LedgerOpened{PathwayId: id, PersonId: personID, Holder: treats})
	w.advance(24 * time.Hour)
	before = w.record(t, "carelead-"+id, time.Time{}, &careleadv1.HandoverOffered{HandoverId: "h1", Kind: careleadv1.HandoverKind_HANDOVER_KIND_TO_LEAD, From: treats, To: lead,
		OfferedAt: timestamppb.New(w.clock()), SeenDue: timestamppb.New(w.clock().Add(24 * time.Hour)), AnswerDue: timestamppb.New(w.clock().Add(48 * time.Hour))})
	w.advance(24 * time.Hour)
	at = w.record(t, "carelead-"+id, time.Time{},
		&careleadv1.HandoverAccepted{HandoverId: "h1", FirstContactDue: timestamppb.New(w.clock().Add(72 * time.Hour))},
		&careleadv1.AccountabilityTransferred{From: treats, To: lead, Cause: careleadv1.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED, HandoverId: "h1"})
	return opened, before, at
}

func TestAccountableBeforeAndAfterAcceptance(t *testing.T) {
	t.Parallel()
	w := newWorld()
	start := w.clock()
	opened, before, at := w.handOver(t, pathwayID)
	accepted := w.clock()
	w.advance(time.Hour)
	c := serve(t, w.deps())
	ctx := t.Context()

	for _, tt := range []struct {
		name string
		at   *pb.AsOf
		want *careleadv1.Party
		none string
	}{
		{"now", nil, lead, ""},
		{"position before", &pb.AsOf{Moment: &pb.AsOf_Position{Position: uint64(before)}}, treats, ""},
		{"position of the acceptance", &pb.AsOf{Moment: &pb.AsOf_Position{Position: uint64(at)}}, lead, ""},
		{"just before", &pb.AsOf{Moment: &pb.AsOf_Recorded{Recorded: timestamppb.New(accepted.Add(-1))}}, treats, ""},
		{"at the instant", &pb.AsOf{Moment: &pb.AsOf_Recorded{Recorded: timestamppb.New(accepted)}}, lead, ""},
		{"before the ledger opened", &pb.AsOf{Moment: &pb.AsOf_Position{Position: uint64(opened)}}, treats, ""},
		{"at the start", &pb.AsOf{Moment: &pb.AsOf_Recorded{Recorded: timestamppb.New(start)}}, treats, ""},
		{"before the start", &pb.AsOf{Moment: &pb.AsOf_Recorded{Recorded: timestamppb.New(start.Add(-1))}}, nil, "not_started"},
	} {
		got, err := c.WhoWasAccountable(ctx, &pb.WhoWasAccountableRequest{PathwayId: pathwayID, At: tt.at})
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got.None != tt.none || (tt.want != nil) != (got.Custody != nil) || tt.want != nil && !same(got.Custody.Holder, tt.want) {
			t.Errorf("%s: %v, want %v %s", tt.name, got, tt.want, tt.none)
		}
		view, err := c.GetPathway(ctx, &pb.GetPathwayRequest{PathwayId: pathwayID, AsOf: tt.at})
		if tt.want == nil {
			wantCode(t, err, codes.NotFound)
		} else if err != nil || !same(view.Pathway.Holder, tt.want) {
			t.Errorf("%s: holder %v, %v", tt.name, view.GetPathway().GetHolder(), err)
		}
	}
	w.record(t, "carelead-"+pathwayID, time.Time{}, &careleadv1.LedgerClosed{Reason: careleadv1.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE})
	got, err := c.WhoWasAccountable(ctx, &pb.WhoWasAccountableRequest{PathwayId: pathwayID})
	if err != nil || got.None != "closed" {
		t.Errorf("after the close: %v, %v", got, err)
	}
	_, err = c.GetPathway(ctx, &pb.GetPathwayRequest{PathwayId: uuid.NewString()})
	wantCode(t, err, codes.NotFound)
	_, err = c.GetPathway(ctx, &pb.GetPathwayRequest{PathwayId: pathwayID, AsOf: &pb.AsOf{Moment: &pb.AsOf_Position{}}})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.WhoWasAccountable(ctx, &pb.WhoWasAccountableRequest{PathwayId: uuid.NewString()})
	wantCode(t, err, codes.NotFound)
}

// TestOccurred: a diagnosis told on 10 July and recorded on the 20th was not known
// on the 15th, and had happened.
func TestOccurred(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC})
	w.advance(14 * 24 * time.Hour)
	w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.DiagnosisCommunicated{FactId: "b", Facts: &referralv1.DiagnosisFacts{Told: &referralv1.Told{On: "2026-07-10"}}})
	h, err := load(t.Context(), w, pathwayID, "")
	if err != nil {
		t.Fatal(err)
	}
	m := moment{recorded: monday.Add(9 * 24 * time.Hour)}
	then, err := h.view(m)
	if err != nil {
		t.Fatal(err)
	}
	occurred, late, err := h.occurred(m, then)
	if err != nil {
		t.Fatal(err)
	}
	if then.Diagnosis != nil || occurred.Diagnosis == nil || late != 1 {
		t.Errorf("known %v, occurred %v, %d late", then.Diagnosis, occurred.Diagnosis, late)
	}
	if clock := occurred.Clocks[0]; clock.Clock != "fds" || clock.GetDays() != 9 || !clock.Counted || clock.Breach || clock.Rule == "" || clock.Source == "" {
		t.Errorf("28-day clock: %v", clock)
	}
	if clock := then.Clocks[0]; clock.Status != referralv1.ClockStatus_CLOCK_STATUS_RUNNING || clock.BreachAfter != "2026-07-29" {
		t.Errorf("28-day clock then: %v", clock)
	}
	// The planted bug: placing by recorded time finds no late evidence at all.
	if wrong := known(h.events, m); len(wrong) == int(occurred.Events) {
		t.Error("events placed by recorded time would pass this test")
	}
}

func TestCorrectionDropsTheFactAndStaysOnTheTimeline(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC})
	w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.FirstSeen{FactId: "b", Facts: &referralv1.FirstSeenFacts{On: "2026-07-03", Organisation: "RJ1"}})
	w.record(t, "pathway-"+pathwayID, time.Time{}, &referralv1.ClockCorrected{FactId: "c", WrongFactId: "b", WrongEvent: "FirstSeen", Reason: "secret words"})
	c := serve(t, w.deps())
	got, err := c.GetPathway(t.Context(), &pb.GetPathwayRequest{PathwayId: pathwayID})
	if err != nil || got.Pathway.FirstSeen != nil || len(got.Pathway.Facts) != 1 || got.Pathway.Corrections != 1 {
		t.Fatalf("%v %v", got, err)
	}
	line, err := c.GetTimeline(t.Context(), &pb.GetTimelineRequest{PathwayId: pathwayID})
	if err != nil || len(line.Entries) != 3 || !line.Entries[1].Corrected || line.Entries[0].Corrected {
		t.Fatalf("%v %v", line, err)
	}
	for _, e := range line.Entries {
		if strings.Contains(e.Text, "secret") || e.Organisation != "RJ1" || e.RoleCode != "R0600" || e.Recorded == nil || e.Occurred == nil || e.Position == 0 {
			t.Errorf("%v", e)
		}
	}
	first, err := c.GetTimeline(t.Context(), &pb.GetTimelineRequest{PathwayId: pathwayID, PageSize: 2})
	if err != nil || len(first.Entries) != 2 || first.NextPageToken == "" {
		t.Fatalf("%v %v", first, err)
	}
	rest, err := c.GetTimeline(t.Context(), &pb.GetTimelineRequest{PathwayId: pathwayID, PageSize: 2, PageToken: first.NextPageToken})
	if err != nil || len(rest.Entries) != 1 || rest.NextPageToken != "" || !proto.Equal(rest.Entries[0], line.Entries[2]) {
		t.Fatalf("%v %v", rest, err)
	}
	_, err = c.GetTimeline(t.Context(), &pb.GetTimelineRequest{PathwayId: uuid.NewString(), PageToken: first.NextPageToken})
	wantCode(t, err, codes.InvalidArgument)
	milestones, err := c.GetTimeline(t.Context(), &pb.GetTimelineRequest{PathwayId: pathwayID, AtLeast: pb.Importance_IMPORTANCE_MILESTONE})
	if err != nil || len(milestones.Entries) != 2 {
		t.Fatalf("%v %v", milestones, err)
	}
}

// TestEveryEventIsKnown: each event of the streams of a pathway has a case in the
// fold and a line on the timeline, and each of a person a case.
func TestEveryEventIsKnown(t *testing.T) {
	t.Parallel()
	count := 0
	for _, file := range []protoreflect.FileDescriptor{referralv1.File_waymark_referral_v1_events_proto, careleadv1.File_waymark_carelead_v1_events_proto,
		planv1.File_waymark_plan_v1_events_proto, appointmentv1.File_waymark_appointment_v1_events_proto, personv1.File_waymark_person_v1_events_proto} {
		for i := range file.Messages().Len() {
			m := file.Messages().Get(i)
			category, _ := proto.GetExtension(m.Options(), metav1.E_Category).(string)
			e := event{Recorded: &es.Recorded{Type: string(m.FullName()), Position: 1}}
			switch category {
			case "pathway", "referral", "plan", "appointment", "carelead":
				count++
				e.message = estest.Example(t, m)
				v := newView(pathwayID)
				if err := fold(v, e); err != nil {
					t.Error(err)
				}
				derive(v)
				if _, ok := lines[e.Type]; !ok {
					t.Errorf("%s has no line on the timeline", m.FullName())
				}
			case "lead":
				count++
				e.message = estest.Example(t, m)
				if err := foldLead(&pb.Lead{}, e); err != nil {
					t.Error(err)
				}
			case "person":
				count++
				e.message = estest.Example(t, m)
				if err := foldPerson(&pb.Person{}, e); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if count < 150 {
		t.Errorf("only %d events were looked at", count)
	}
	t.Logf("%d events", count)
}

// anyEvents draws a history of several services on one pathway.
func anyEvents(t *rapid.T) (streams []string, events []proto.Message) {
	files := []protoreflect.FileDescriptor{referralv1.File_waymark_referral_v1_events_proto, careleadv1.File_waymark_carelead_v1_events_proto,
		planv1.File_waymark_plan_v1_events_proto, appointmentv1.File_waymark_appointment_v1_events_proto}
	streams, events = []string{"pathway-" + pathwayID}, []proto.Message{&referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID, Route: referralv1.Route_ROUTE_USC}}
	for range rapid.IntRange(1, 30).Draw(t, "events") {
		messages := rapid.SampledFrom(files).Draw(t, "file").Messages()
		m := messages.Get(rapid.IntRange(0, messages.Len()-1).Draw(t, "message"))
		category, _ := proto.GetExtension(m.Options(), metav1.E_Category).(string)
		switch category {
		case "pathway", "referral", "plan", "appointment", "carelead":
			streams, events = append(streams, category+"-"+pathwayID), append(events, estest.Example(quiet{}, m))
		}
	}
	return streams, events
}

// quiet lets estest.Example run within rapid.
type quiet struct{ testing.TB }

func (quiet) Helper() {}

// TestAsOfIsThePrefix is R12: the view as of each position is the fold of the
// events up to it, folding on from one equals the next, and what was known only grows.
func TestAsOfIsThePrefix(t *testing.T) {
	t.Parallel()
	prefixes := 0
	rapid.Check(t, func(rt *rapid.T) {
		streams, events := anyEvents(rt)
		w := newWorld()
		for i, e := range events {
			w.record(t, streams[i], time.Time{}, e)
			w.advance(time.Duration(rapid.IntRange(0, 100).Draw(rt, "wait")) * time.Minute)
		}
		h, err := load(t.Context(), w, pathwayID, "")
		if err != nil {
			rt.Fatal(err)
		}
		grown := newView(pathwayID)
		last := int64(0)
		for i, e := range h.events {
			if err := fold(grown, e); err != nil {
				rt.Fatal(err)
			}
			derive(grown)
			for _, m := range []moment{{position: e.Position}, {recorded: e.Recorded.Recorded}} {
				got, err := h.view(m)
				if err != nil {
					rt.Fatal(err)
				}
				if m.position == 0 && i+1 < len(h.events) && h.events[i+1].Recorded.Recorded.Equal(m.recorded) {
					continue // the next was recorded at the same instant
				}
				got.Person = nil
				if !proto.Equal(got, grown) {
					rt.Fatalf("as of event %d:\n%v\nfold of the prefix:\n%v", i, got, grown)
				}
				if got.Events < last {
					rt.Fatalf("%d events known, %d before", got.Events, last)
				}
				last = got.Events
				prefixes++
			}
		}
	})
	t.Logf("%d prefixes", prefixes)
}
