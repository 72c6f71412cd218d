package pathway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

// dump is everything that a model stores.
func dump(t testing.TB, m *model) string {
	t.Helper()
	it, err := m.db.NewIter(&pebble.IterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	var b strings.Builder
	for ok := it.First(); ok; ok = it.Next() {
		fmt.Fprintf(&b, "%x=%x\n", it.Key(), it.Value())
	}
	return b.String()
}

// stutter delivers as a bad link does: some events a second time.
type stutter struct {
	es.Log
	rand *rand.Rand
}

func (s stutter) Subscribe(ctx context.Context, after es.Position, f es.Filter, handle func(es.Message) error) error {
	return s.Log.Subscribe(ctx, after, f, func(m es.Message) error {
		for n := 1 + s.rand.IntN(2); n > 0; n-- {
			if err := handle(m); err != nil {
				return err
			}
		}
		return nil
	})
}

var discard = slog.New(slog.DiscardHandler)

// until follows the log until the model is complete to a position.
func until(t testing.TB, m *model, at es.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	m.fail(nil) // how an earlier one ended
	go func() { done <- m.follow(ctx, func() time.Time { return monday }) }()
	if err := m.wait(ctx, at); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
}

func rebuilt(t testing.TB, log es.Log, at es.Position) string {
	t.Helper()
	m, err := openModel(log, discard, "m", vfs.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	until(t, m, at)
	return dump(t, m)
}

// crashes follows a log, killed at random points with what was not synced
// lost in part, and returns what the model holds at the end.
func crashes(t testing.TB, log es.Log, head es.Position, seed uint64) string {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewCrashableMem()
	for {
		m, err := openModel(stutter{log, random}, discard, "m", fs)
		if err != nil {
			t.Fatal(err)
		}
		from := m.at()
		// The kill comes after a few more events, perhaps amid a batch.
		kill := from + es.Position(1+random.IntN(int(head)))
		if kill >= head {
			until(t, m, head)
			out := dump(t, m)
			if err := m.close(); err != nil {
				t.Fatal(err)
			}
			return out
		}
		at, n := from, 0
		stop := errors.New("killed")
		err = log.ReadAll(t.Context(), from, func(e es.Recorded) error {
			if e.Position > kill {
				return stop
			}
			if _, err := m.take([]*es.Recorded{&e}); err != nil {
				return err
			}
			at = e.Position
			if n++; n%(1+random.IntN(5)) == 0 {
				if err := m.write(at, time.Time{}, false); err != nil || random.IntN(3) > 0 {
					return err
				}
				return m.keep()
			}
			return nil
		})
		if err != nil && !errors.Is(err, stop) {
			t.Fatal(err)
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: random.IntN(101), RNG: random})
		if err := m.close(); err != nil {
			t.Fatal(err)
		}
		fs = crashed
	}
}

// history records some pathways and persons.
func someHistory(t testing.TB, seed uint64, n int) (*world, es.Position) {
	w := newWorld()
	random := rand.New(rand.NewPCG(seed, 2))
	var at es.Position
	persons := []string{uuid.NewString(), uuid.NewString()}
	for _, p := range persons {
		at = w.record(t, "person-"+p, time.Time{}, &personv1.PersonRegistered{PersonId: p})
	}
	var ids []string
	for i := range n {
		id := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, seed, i)).String()
		ids = append(ids, id)
		at = w.record(t, "pathway-"+id, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: persons[i%2], Route: referralv1.Route_ROUTE_USC})
	}
	for range 6 * n {
		id := ids[random.IntN(len(ids))]
		w.advance(time.Duration(random.IntN(600)) * time.Minute)
		switch random.IntN(6) {
		case 0:
			at = w.record(t, "carelead-"+id, time.Time{}, &careleadv1.AccountabilityTransferred{From: treats, To: lead, Cause: careleadv1.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED})
		case 1:
			at = w.record(t, "carelead-"+id, time.Time{}, &careleadv1.HandoverOffered{HandoverId: uuid.NewString(), From: treats, To: lead, AnswerDue: timestamppb.New(w.clock().Add(48 * time.Hour))})
		case 2:
			at = w.record(t, "appointment-"+id, time.Time{}, &appointmentv1.ToBeBookedTaskRaised{TaskId: uuid.NewString(), Cause: "missed", Due: "2026-08-01"})
		case 3:
			at = w.record(t, "pathway-"+id, time.Time{}, &referralv1.FirstSeen{FactId: uuid.NewString(), Facts: &referralv1.FirstSeenFacts{On: "2026-07-07"}})
		case 4:
			at = w.record(t, "person-"+persons[random.IntN(2)], time.Time{}, &personv1.RestrictionSet{Code: "R"})
		case 5:
			at = w.record(t, "lead-"+id, time.Time{}, &careleadv1.CapacityChanged{Capacity: 5})
		}
	}
	return w, at
}

// TestKilledProjectionEqualsRebuild is R11.
func TestKilledProjectionEqualsRebuild(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		w, head := someHistory(t, seed, 8)
		want := rebuilt(t, w, head)
		if got := crashes(t, w, head, seed); got != want {
			t.Fatalf("seed %d: a model that was killed differs from a fresh one:\n%s\n%s", seed, got, want)
		}
	}
}

// TestPositionBeforeStateIsCaught plants the bug that R11 is there for: a crash
// between the position and what it stands for.
func TestPositionBeforeStateIsCaught(t *testing.T) {
	t.Parallel()
	w, head := someHistory(t, 1, 8)
	want := rebuilt(t, w, head)
	fs := vfs.NewCrashableMem()
	m, err := openModel(w, discard, "m", fs)
	if err != nil {
		t.Fatal(err)
	}
	m.positionFirst = true
	var at es.Position
	n, stop := 0, errors.New("killed")
	err = w.ReadAll(t.Context(), 0, func(e es.Recorded) error {
		if n++; n == 20 {
			return stop
		}
		at = e.Position
		_, err := m.take([]*es.Recorded{&e})
		return err
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if err := m.write(at, time.Time{}, false); err != nil {
		t.Fatal(err)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{}) // only what was synced
	m.close()
	m, err = openModel(w, discard, "m", crashed)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	until(t, m, head)
	if dump(t, m) == want {
		t.Fatal("the planted bug was not caught")
	}
}

// TestModelEqualsRebuiltPathways: what lists show is what GetPathway says.
func TestModelEqualsRebuiltPathways(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w, head := someHistory(t, rapid.Uint64().Draw(rt, "seed"), 4)
		m, err := openModel(w, discard, "m", vfs.NewMem())
		if err != nil {
			rt.Fatal(err)
		}
		defer m.close()
		until(t, m, head)
		count := 0
		at, err := m.each(func(c counts) error {
			v := c.pathway
			if v == nil {
				return nil // a lead
			}
			count++
			want, err := rebuild(t.Context(), w, v.PathwayId)
			if err == nil && !proto.Equal(v, want) {
				rt.Fatalf("the model has\n%v\nthe log says\n%v", v, want)
			}
			return err
		})
		if err != nil || count != 4 || at != head {
			rt.Fatalf("%d pathways at %d of %d: %v", count, at, head, err)
		}
	})
}

// TestUndecodableEventStopsTheModel and health says so, at whatever the release
// cannot take in; GetPathway of another pathway goes on, that of this one does not
// leave the event out.
func TestUndecodableEventStopsTheModel(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(es.Recorded) es.Recorded{
		"damaged data":              func(e es.Recorded) es.Recorded { e.Data = []byte{0xff}; return e },
		"a type of a newer release": func(e es.Recorded) es.Recorded { e.Type = "waymark.carelead.v1.LedgerFrozen"; return e },
		"a type of no proto":        func(e es.Recorded) es.Recorded { e.Type = "$metadata"; return e },
		"an event of no pathway":    func(e es.Recorded) es.Recorded { e.Type, e.Data = "waymark.carelead.v1.CapacityChanged", nil; return e },
		"a message that is none":    func(e es.Recorded) es.Recorded { e.Type, e.Data = "google.protobuf.Timestamp", nil; return e },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			_, _, good := w.handOver(t, pathwayID)
			other := uuid.NewString()
			w.record(t, "pathway-"+other, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID})
			before := w.record(t, "carelead-"+other, time.Time{}, &careleadv1.LedgerOpened{PathwayId: other, Holder: treats})
			at := w.record(t, "carelead-"+other, time.Time{}, &careleadv1.LedgerOpened{PathwayId: other, Holder: treats})
			after := w.record(t, "pathway-"+uuid.NewString(), time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID})
			if good > before || before > at || at > after {
				t.Fatal("not in this order")
			}
			w.Tamper(at, spoil)
			fs := vfs.NewMem()
			m, err := openModel(w, discard, "m", fs)
			if err != nil {
				t.Fatal(err)
			}
			defer m.close()
			m.patience = 2
			for range 2 { // started again it stops again
				if err := m.follow(t.Context(), w.clock); err == nil || !strings.Contains(err.Error(), "undecodable") {
					t.Fatalf("follow ended with %v", err)
				}
			}
			if m.fault() == nil || m.at() != before {
				t.Errorf("health %v, at %d of %d", m.fault(), m.at(), before)
			}
			snap := m.snapshot()
			defer snap.Close()
			if v, err := snap.view(other); err != nil || v.Events != 2 {
				t.Errorf("the view before it: %v, %v", v, err)
			}

			part, err := New(w.deps())
			if err != nil {
				t.Fatal(err)
			}
			if err := part.Run(t.Context()); err == nil || part.Fault() == nil {
				t.Errorf("Run ended with %v, health %v", err, part.Fault())
			}
			c := connect(t, part)
			if _, err := c.GetPathway(t.Context(), &pb.GetPathwayRequest{PathwayId: pathwayID}); err != nil {
				t.Error(err)
			}
			_, err = c.GetPathway(t.Context(), &pb.GetPathwayRequest{PathwayId: other})
			wantCode(t, err, codes.DataLoss)
			_, err = c.GetTimeline(t.Context(), &pb.GetTimelineRequest{PathwayId: other})
			wantCode(t, err, codes.DataLoss)
		})
	}
}

// TestUnkeptEventsAreTakenInAgain: where an event cannot be taken in behind others
// that were not stored yet, those are asked for once more, and stored.
func TestUnkeptEventsAreTakenInAgain(t *testing.T) {
	t.Parallel()
	w, head := someHistory(t, 3, 4)
	bad := w.record(t, "carelead-"+uuid.NewString(), time.Time{}, &careleadv1.CapacityChanged{})
	events := pointers(w.Events())
	m, err := openModel(w, discard, "m", vfs.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	m.patience = 1
	if err := m.drain(events[:10], time.Time{}); err != nil || m.at() != 0 || m.taken != events[9].Position {
		t.Fatalf("%v, at %d, %d taken", err, m.at(), m.taken)
	}
	if err := m.drain(events[10:], time.Time{}); !errors.Is(err, errUnkept) || m.at() != 0 {
		t.Fatalf("%v, at %d", err, m.at())
	}
	if err := m.follow(t.Context(), w.clock); err == nil || !strings.Contains(err.Error(), "undecodable") {
		t.Fatalf("follow ended with %v", err)
	}
	if m.at() != head || head >= bad {
		t.Errorf("at %d, not at %d", m.at(), head)
	}
	if contents(t, m) != prefix(t, w.Events(), head) {
		t.Error("what is stored is not what the log says")
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	w := newWorld()
	var head es.Position
	ids := make(map[string]bool)
	for i := range 5 {
		id := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, "list", i)).String()
		ids[id] = true
		w.handOver(t, id)
		head = w.record(t, "appointment-"+id, time.Time{}, &appointmentv1.ToBeBookedTaskRaised{TaskId: "t" + id, Cause: "end", Due: "2026-08-01"})
	}
	c := serve(t, w.deps())
	ctx := t.Context()
	token, seen := "", 0
	for {
		got, err := c.ListCaseload(ctx, &pb.ListCaseloadRequest{PartyId: "LEAD-1", PageSize: 2, PageToken: token, MinPosition: uint64(head)})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got.Rows {
			if !ids[r.PathwayId] || r.NextAction == nil {
				t.Errorf("%v", r)
			}
			delete(ids, r.PathwayId)
			seen++
		}
		if got.Freshness.Position < uint64(head) {
			t.Errorf("%v", got.Freshness)
		}
		if token = got.NextPageToken; token == "" {
			break
		}
	}
	if seen != 5 || len(ids) != 0 {
		t.Fatalf("%d rows, %d missing", seen, len(ids))
	}
	if got, err := c.ListCaseload(ctx, &pb.ListCaseloadRequest{PartyId: "BREAST"}); err != nil || len(got.Rows) != 0 {
		t.Errorf("the team handed all over: %v %v", got, err)
	}
	booked, err := c.ListToBeBooked(ctx, &pb.ListToBeBookedRequest{PartyId: "lead-1", PageSize: 3})
	if err != nil || len(booked.Rows) != 3 || booked.NextPageToken == "" {
		t.Fatalf("%v %v", booked, err)
	}
	if _, err = c.ListToBeBooked(ctx, &pb.ListToBeBookedRequest{PartyId: "lead-2", PageToken: booked.NextPageToken}); err == nil {
		t.Error("a token of another question was taken")
	}
	wantCode(t, err, codes.InvalidArgument)
	all, err := c.ListDeadlines(ctx, &pb.ListDeadlinesRequest{})
	if err != nil || len(all.Rows) < 10 {
		t.Fatalf("%v %v", all, err)
	}
	for i, r := range all.Rows[1:] {
		if r.Deadline.Due.AsTime().Before(all.Rows[i].Deadline.Due.AsTime()) {
			t.Error("not in order of due times")
		}
	}
	contacts, err := c.ListDeadlines(ctx, &pb.ListDeadlinesRequest{Category: "carelead", DueBefore: timestamppb.New(w.clock().Add(1000 * time.Hour))})
	if err != nil || len(contacts.Rows) != 5 || contacts.Rows[0].Deadline.Kind != "first_contact" {
		t.Fatalf("%v %v", contacts, err)
	}
	late, err := c.ListOverdue(ctx, &pb.ListOverdueRequest{PartyId: "lead-1", Kind: "first_contact"})
	if err != nil || len(late.Rows) >= 5 {
		t.Fatalf("%v %v", late, err)
	}
	id := uuid.NewString()
	w.record(t, "pathway-"+id, time.Time{}, &referralv1.PathwayStarted{FactId: "a", Facts: started, PersonId: personID})
	at := w.record(t, "carelead-"+id, time.Time{}, &careleadv1.HandoverOffered{HandoverId: "h", From: treats, To: lead, AnswerDue: timestamppb.New(w.clock())})
	offers, err := c.ListHandovers(ctx, &pb.ListHandoversRequest{ToPartyId: "lead-1", OverdueOnly: true, MinPosition: uint64(at)})
	if err != nil || len(offers.Rows) != 1 || !offers.Rows[0].Overdue {
		t.Fatalf("%v %v", offers, err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := c.ListHandovers(short, &pb.ListHandoversRequest{MinPosition: uint64(at) + 1_000_000}); err == nil {
		t.Error("answered what it cannot know yet")
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	w := newWorld()
	_, _, at := w.handOver(t, pathwayID)
	c := serve(t, w.deps())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := c.Watch(ctx, &pb.WatchRequest{What: &pb.WatchRequest_PartyId{PartyId: "lead-1"}})
	if err != nil {
		t.Fatal(err)
	}
	// next is the next message that is what is wanted.
	next := func(is func(*pb.WatchResponse) bool) *pb.WatchResponse {
		t.Helper()
		for {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if is(m) {
				return m
			}
		}
	}
	next(func(m *pb.WatchResponse) bool {
		return m.Pathway.GetPathwayId() == pathwayID && m.Position >= uint64(at)
	})
	next(func(m *pb.WatchResponse) bool { return m.CaughtUp })
	back := w.record(t, "carelead-"+pathwayID, time.Time{}, &careleadv1.AccountabilityTransferred{From: lead, To: treats})
	if m := next(func(m *pb.WatchResponse) bool { return m.Left }); m.Position < uint64(back) {
		t.Errorf("%v", m)
	}
}

// TestWatchOfNoPathway: it is refused at once, however far the model is, and a
// pathway that the model does not hold yet is waited for.
func TestWatchOfNoPathway(t *testing.T) {
	t.Parallel()
	w := newWorld()
	_, _, at := w.handOver(t, pathwayID)
	deps := w.deps()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	part, err := New(deps)
	if err != nil {
		t.Fatal(err)
	}
	follow, begin := part.Run, make(chan struct{})
	part.Run = func(ctx context.Context) error {
		select {
		case <-begin:
			return follow(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c := connect(t, part)
	refused := func(after uint64) {
		t.Helper()
		stream, err := c.Watch(ctx, &pb.WatchRequest{What: &pb.WatchRequest_PathwayId{PathwayId: uuid.NewString()}, AfterPosition: after})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantCode(t, err, codes.NotFound)
	}
	refused(0)
	refused(uint64(at) + 1_000_000)
	stream, err := c.Watch(ctx, &pb.WatchRequest{What: &pb.WatchRequest_PathwayId{PathwayId: strings.ToUpper(pathwayID)}})
	if err != nil {
		t.Fatal(err)
	}
	close(begin)
	if m, err := stream.Recv(); err != nil || m.Pathway.GetPathwayId() != pathwayID {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := c.ListCaseload(ctx, &pb.ListCaseloadRequest{PartyId: "lead-1", MinPosition: uint64(at)}); err != nil {
		t.Fatal(err)
	}
	refused(0)
}

// TestLookUpPathway: what the model gives is what GetPathway says, person and all,
// for every pathway of random histories.
func TestLookUpPathway(t *testing.T) {
	t.Parallel()
	w, head := someHistory(t, 21, 6)
	c := serve(t, w.deps())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	looked := 0
	for _, e := range w.Events() {
		id, is := strings.CutPrefix(e.Stream, "pathway-")
		if !is || e.Revision != 0 {
			continue
		}
		looked++
		got, err := c.LookUpPathway(ctx, &pb.LookUpPathwayRequest{PathwayId: strings.ToUpper(id), MinPosition: uint64(head)})
		if err != nil {
			t.Fatal(err)
		}
		want, err := c.GetPathway(ctx, &pb.GetPathwayRequest{PathwayId: id})
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got.Pathway, want.Pathway) || got.Pathway.Person == nil || len(got.ProtoReflect().GetUnknown()) > 0 || got.Freshness.GetPosition() < uint64(head) {
			t.Errorf("the model has\n%v\nthe log says\n%v", got, want)
		}
	}
	if looked != 6 {
		t.Errorf("looked at %d", looked)
	}
	_, err := c.LookUpPathway(ctx, &pb.LookUpPathwayRequest{PathwayId: uuid.NewString()})
	wantCode(t, err, codes.NotFound)
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err = c.LookUpPathway(short, &pb.LookUpPathwayRequest{PathwayId: uuid.NewString(), MinPosition: uint64(head) + 1_000_000}); err == nil {
		t.Error("answered what it cannot know yet")
	}
}

// TestLookUpBeforeTheModel: a pathway that the log has and the model not yet is
// not said to be missing.
func TestLookUpBeforeTheModel(t *testing.T) {
	t.Parallel()
	w := newWorld()
	_, _, _ = w.handOver(t, pathwayID)
	part, err := New(w.deps())
	if err != nil {
		t.Fatal(err)
	}
	part.Run = nil // it never follows
	c := connect(t, part)
	_, err = c.LookUpPathway(t.Context(), &pb.LookUpPathwayRequest{PathwayId: pathwayID})
	wantCode(t, err, codes.Unavailable)
	_, err = c.LookUpPathway(t.Context(), &pb.LookUpPathwayRequest{PathwayId: uuid.NewString()})
	wantCode(t, err, codes.NotFound)
}

// TestStale: a list that does not follow says how far behind it is.
func TestStale(t *testing.T) {
	t.Parallel()
	m := &model{moved: make(chan struct{})}
	if f := m.freshness(1, monday); !f.Stale {
		t.Error("never caught up, and not stale")
	}
	m.fresh = monday
	if f := m.freshness(1, monday.Add(staleAfter)); f.Stale || f.BehindSeconds != 60 {
		t.Errorf("%v", f)
	}
	if f := m.freshness(1, monday.Add(staleAfter+time.Second)); !f.Stale {
		t.Errorf("%v", f)
	}
}

// TestAnotherVersionIsBuiltBeside: the old model answers until the new one has come as far as the log.
func TestAnotherVersionIsBuiltBeside(t *testing.T) {
	t.Parallel()
	w, head := someHistory(t, 7, 4)
	fs := vfs.NewMem()
	one, err := openModels(w, discard, "d", fs, 1)
	if err != nil {
		t.Fatal(err)
	}
	until(t, one.newest, head)
	if err := one.close(); err != nil {
		t.Fatal(err)
	}
	two, err := openModels(w, discard, "d", fs, 2)
	if err != nil {
		t.Fatal(err)
	}
	if two.serving() == two.newest || two.serving().at() != head {
		t.Fatal("the old model does not answer")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- two.follow(ctx, w, func() time.Time { return monday }) }()
	if err := two.newest.wait(ctx, head); err != nil {
		t.Fatal(err)
	}
	for two.serving() != two.newest {
		if ctx.Err() != nil {
			t.Fatal("it was never switched")
		}
		w.record(t, "lead-x", time.Time{}, &careleadv1.CapacityChanged{Capacity: 1})
	}
	cancel()
	<-done
	two.close()
	three, err := openModels(w, discard, "d", fs, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer three.close()
	if names, _ := fs.List("d"); len(names) != 1 || three.serving() != three.newest {
		t.Errorf("left behind: %v", names)
	}
}

// TestCacheHasRoomBesideTheMemtables: Pebble takes the memtables, once they have grown,
// off the cache; where that leaves nothing each look-up reads its blocks from the file.
func TestCacheHasRoomBesideTheMemtables(t *testing.T) {
	t.Parallel()
	m, err := openModel(nil, discard, "m", vfs.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	for range 10 { // a memtable is twice as large as the one before it, up to MemTableSize
		for id := range byte(200) { // more than a block each
			if err := m.db.Set([]byte{'v', id}, make([]byte, 8<<10), pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.keep(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false); err != nil { // none is to go on beside the reads
		t.Fatal(err)
	}
	missed := func() int64 {
		before := m.db.Metrics().BlockCache.Misses
		for id := range byte(200) {
			_, closer, err := m.db.Get([]byte{'v', id})
			if err != nil {
				t.Fatal(err)
			}
			closer.Close()
		}
		return m.db.Metrics().BlockCache.Misses - before
	}
	if first, again := missed(), missed(); again > first/10 {
		t.Errorf("read again, %d blocks were not in the cache; at first %d", again, first)
	}
}
