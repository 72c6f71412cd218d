package person

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

// instance is a process of the service on a log: nothing cached from before.
func instance(t testing.TB, log es.Log) *service {
	t.Helper()
	s, err := newService(deps(log))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// heard returns the log as the service hears it from the bus: without the
// fields above PSEUDONYMOUS.
func heard(t testing.TB, log *estest.Log) []bus.Event {
	t.Helper()
	var out []bus.Event
	for _, e := range log.Events() {
		message, err := es.Decode(e)
		if err != nil {
			t.Fatal(err)
		}
		meta, err := es.ParseMetadata(e)
		if err != nil {
			t.Fatal(err)
		}
		message.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if proto.GetExtension(f.Options(), metav1.E_Sensitivity).(metav1.Sensitivity) > metav1.Sensitivity_SENSITIVITY_PSEUDONYMOUS {
				message.ProtoReflect().Clear(f)
			}
			return true
		})
		category, id, _ := strings.Cut(e.Stream, "-")
		if category != "person" {
			continue
		}
		out = append(out, bus.Event{ID: e.ID, Category: category, StreamID: id, Revision: e.Revision, Position: e.Position, Message: message, Tenant: meta.Tenant, CorrelationID: meta.CorrelationID})
	}
	return out
}

// reactToAll lets the service hear all events, and those that it makes, until
// there are no new ones. It returns how many it made.
func reactToAll(t testing.TB, s *service, log *estest.Log) (made int) {
	t.Helper()
	before := len(log.Events())
	for done := 0; ; {
		all := heard(t, log)
		if done == len(all) {
			return len(log.Events()) - before
		}
		for ; done < len(all); done++ {
			if err := s.react(t.Context(), all[done]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

var errCrash = errors.New("crash")

// crashAt ends the process at the nth call of the log: that call and all later
// ones fail. It reports whether it came to that.
func crashAt(log *estest.Log, ctx context.Context, n int64) (context.Context, func() bool) {
	ctx, cancel := context.WithCancel(ctx)
	var calls atomic.Int64
	var crashed atomic.Bool
	log.SetFaults(estest.Faults{Before: func(context.Context, string, string) error {
		if calls.Add(1) <= n {
			return nil
		}
		crashed.Store(true)
		cancel()
		return errCrash
	}})
	return ctx, func() bool {
		cancel()
		log.SetFaults(estest.Faults{})
		return crashed.Load()
	}
}

// sequence is one command that spans streams, with what must be there first.
type sequence struct {
	name  string
	setup func(t testing.TB, s *service)
	run   func(ctx context.Context, s *service) (proto.Message, error)
}

func sequences() []sequence {
	id := func(name string) string { return derive(cmd(name), "person") }
	two := func(t testing.TB, s *service) {
		must[*personv1.PersonReply](t)(s.RegisterPerson(t.Context(), registration("one", "9990000018")))
		must[*personv1.PersonReply](t)(s.RegisterPerson(t.Context(), registration("two", "")))
	}
	merge := func(ctx context.Context, s *service) (*personv1.MergeReply, error) {
		return s.MergePersons(ctx, &personv1.MergePersonsRequest{Command: cmd("merge"), SurvivingPersonId: id("one"), MergedPersonId: id("two")})
	}
	return []sequence{
		{"register", func(testing.TB, *service) {}, func(ctx context.Context, s *service) (proto.Message, error) {
			return s.RegisterPerson(ctx, registration("one", "9990000018"))
		}},
		{"change identifier", two, func(ctx context.Context, s *service) (proto.Message, error) {
			return s.ChangeIdentifier(ctx, &personv1.ChangeIdentifierRequest{Command: cmd("change"), PersonId: id("one"), Source: pds(1, 2),
				Change: &personv1.ChangeIdentifierRequest_SupersedingNhsNumber{SupersedingNhsNumber: "9990000026"}})
		}},
		{"take a number back", two, func(ctx context.Context, s *service) (proto.Message, error) {
			return s.ChangeIdentifier(ctx, &personv1.ChangeIdentifierRequest{Command: cmd("error"), PersonId: id("one"), Source: pds(1, 2),
				Change: &personv1.ChangeIdentifierRequest_NhsNumberRecordedInError{NhsNumberRecordedInError: true}})
		}},
		{"merge", two, func(ctx context.Context, s *service) (proto.Message, error) { return merge(ctx, s) }},
		{"approve", func(t testing.TB, s *service) {
			two(t, s)
			must[*personv1.MergeReply](t)(s.MergePersons(t.Context(), &personv1.MergePersonsRequest{Command: cmd("merge"), SurvivingPersonId: id("one"), MergedPersonId: id("two"), OpenLedgers: true}))
		}, func(ctx context.Context, s *service) (proto.Message, error) {
			return s.ApproveMerge(ctx, &personv1.ApproveMergeRequest{Command: by(cmd("approve"), "U2"), MergedPersonId: id("two"), MergeId: derive(cmd("merge"), "merge")})
		}},
		{"unmerge", func(t testing.TB, s *service) {
			two(t, s)
			must[*personv1.MergeReply](t)(merge(t.Context(), s))
		}, func(ctx context.Context, s *service) (proto.Message, error) {
			return s.UnmergePersons(ctx, &personv1.UnmergePersonsRequest{Command: cmd("unmerge"), MergedPersonId: id("two"), MergeId: derive(cmd("merge"), "merge")})
		}},
		{"link", two, func(ctx context.Context, s *service) (proto.Message, error) {
			return s.LinkPersons(ctx, &personv1.LinkPersonsRequest{Command: cmd("link"), PersonId: id("one"), OtherPersonId: id("two")})
		}},
		{"unlink", func(t testing.TB, s *service) {
			two(t, s)
			must[*personv1.PersonReply](t)(s.LinkPersons(t.Context(), &personv1.LinkPersonsRequest{Command: cmd("link"), PersonId: id("one"), OtherPersonId: id("two")}))
		}, func(ctx context.Context, s *service) (proto.Message, error) {
			return s.UnlinkPersons(ctx, &personv1.UnlinkPersonsRequest{Command: cmd("unlink"), PersonId: id("two"), OtherPersonId: id("one")})
		}},
	}
}

// TestCrashAtEveryStep ends the process at each call of the log in each command
// that spans streams, and has another process either repeat the command or only
// hear what was recorded. The streams must come out as without the crash.
func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, q := range sequences() {
		t.Run(q.name, func(t *testing.T) {
			whole := estest.NewAuditedLog(t)
			s := instance(t, whole)
			q.setup(t, s)
			before := len(whole.Events())
			want, err := q.run(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if made := reactToAll(t, s, whole); made != 0 {
				t.Errorf("hearing what is complete recorded %d events", made)
			}
			crashes, healed := 0, 0
			for n := int64(0); ; n++ {
				for _, by := range []string{"repeat", "hearing"} {
					log := estest.NewAuditedLog(t)
					q.setup(t, instance(t, log))
					ctx, end := crashAt(log, t.Context(), n)
					_, err := q.run(ctx, instance(t, log))
					if !end() {
						if err != nil {
							t.Fatalf("no crash, but %v", err)
						}
						if crashes == 0 {
							t.Fatal("no crash at all")
						}
						t.Logf("%d crashes, %d left something to complete", crashes, healed)
						return
					}
					crashes++
					next := instance(t, log)
					if by == "hearing" {
						left := len(log.Events()) > before
						if made := reactToAll(t, next, log); made > 0 {
							healed++
						}
						// Hearing completes merges and links; a claim waits for the repeat.
						if left && (q.name != "register" && q.name != "change identifier") {
							sameStreams(t, n, log, whole)
						}
					}
					got, err := q.run(t.Context(), next)
					if err != nil {
						t.Fatalf("crash at call %d, repeat: %v", n, err)
					}
					if by == "repeat" && !proto.Equal(got, want) {
						t.Errorf("crash at call %d: another reply\n got %v\nwant %v", n, got, want)
					}
					sameStreams(t, n, log, whole)
				}
			}
		})
	}
}

// sameStreams compares what two logs hold, stream by stream: type, data and
// metadata, which the chain covers with all before.
func sameStreams(t *testing.T, n int64, got, want *estest.Log) {
	t.Helper()
	show := func(l *estest.Log) map[string]string {
		streams := map[string]string{}
		for _, e := range l.Events() {
			streams[e.Stream] += fmt.Sprintf("%s %x %s\n", e.Type, e.Data, e.Metadata)
		}
		return streams
	}
	g, w := show(got), show(want)
	for stream := range w {
		if g[stream] != w[stream] {
			t.Errorf("crash at call %d: stream %s differs\n got %s\nwant %s", n, stream, g[stream], w[stream])
		}
	}
	if len(g) != len(w) {
		t.Errorf("crash at call %d: %d streams, want %d", n, len(g), len(w))
	}
}

// TestAnotherRegistrationCompletesAClaim is a crash between claim and
// registration, and then another message about the same patient.
func TestAnotherRegistrationCompletesAClaim(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	for n := int64(0); len(log.Events()) == 0; n++ {
		ctx, end := crashAt(log, t.Context(), n)
		_, _ = instance(t, log).RegisterPerson(ctx, registration("one", "9990000018"))
		end()
	}
	if n := len(log.Events()); n != 1 {
		t.Fatalf("%d events, want the claim alone", n)
	}
	s := instance(t, log)
	_, err := s.FindPerson(t.Context(), &personv1.FindPersonRequest{NhsNumber: "9990000018"})
	wantCode(t, err, codes.NotFound, "person.unknown")
	other := must[*personv1.PersonReply](t)(s.RegisterPerson(t.Context(), registration("two", "9990000018")))
	first := must[*personv1.PersonReply](t)(s.RegisterPerson(t.Context(), registration("one", "9990000018")))
	if !proto.Equal(other.Person, first.Person) || other.Person.NhsNumber != "9990000018" {
		t.Errorf("two registrations of one number:\n%v\n%v", other.Person, first.Person)
	}
}

// TestMergeRoundTrip is hazard H09: merged, read as one, and two again.
func TestMergeRoundTrip(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := instance(t, estest.NewAuditedLog(t))
	one := must[*personv1.PersonReply](t)(s.RegisterPerson(ctx, registration("one", "9990000018"))).Person
	two := must[*personv1.PersonReply](t)(s.RegisterPerson(ctx, registration("two", "9990000026"))).Person
	must[*personv1.PersonReply](t)(s.SetRestriction(ctx, &personv1.SetRestrictionRequest{Command: cmd("restrict"), PersonId: two.PersonId, Code: "R"}))
	held := must[*personv1.MergeReply](t)(s.MergePersons(ctx, &personv1.MergePersonsRequest{Command: cmd("merge"), SurvivingPersonId: one.PersonId, MergedPersonId: two.PersonId}))
	if held.Merge.State != personv1.MergeState_MERGE_STATE_HELD || held.Person.PersonId != two.PersonId {
		t.Fatalf("two numbers: %v", held)
	}
	_, err := s.ApproveMerge(ctx, &personv1.ApproveMergeRequest{Command: cmd("approve myself"), MergedPersonId: two.PersonId, MergeId: held.Merge.MergeId})
	wantCode(t, err, codes.PermissionDenied, "person.merge.second_person")
	_, err = s.ApproveMerge(ctx, &personv1.ApproveMergeRequest{Command: cmd("approve nothing"), MergedPersonId: one.PersonId, MergeId: held.Merge.MergeId})
	wantCode(t, err, codes.NotFound, "person.merge.unknown")
	merged := must[*personv1.MergeReply](t)(s.ApproveMerge(ctx, &personv1.ApproveMergeRequest{Command: by(cmd("approve"), "U2"), MergedPersonId: two.PersonId, MergeId: held.Merge.MergeId}))
	if merged.Merge.State != personv1.MergeState_MERGE_STATE_MERGED || merged.Person.PersonId != one.PersonId || !merged.Person.Restricted {
		t.Errorf("merged: %v", merged)
	}
	for _, number := range []string{"9990000018", "9990000026"} {
		if p := must[*personv1.PersonReply](t)(s.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: number})).Person; p.PersonId != one.PersonId {
			t.Errorf("%s leads to %s", number, p.PersonId)
		}
	}
	if p := must[*personv1.PersonReply](t)(s.RegisterPerson(ctx, registration("again", "9990000026"))).Person; p.PersonId != one.PersonId {
		t.Errorf("a registration of the merged number gave %s", p.PersonId)
	}
	if p := must[*personv1.PersonReply](t)(s.GetPerson(ctx, &personv1.GetPersonRequest{PersonId: strings.ToUpper(two.PersonId)})).Person; p.PersonId != one.PersonId {
		t.Errorf("the merged person leads to %s", p.PersonId)
	}
	_, err = s.NoteDeath(ctx, &personv1.NoteDeathRequest{Command: cmd("death"), PersonId: two.PersonId, Status: "1"})
	wantCode(t, err, codes.FailedPrecondition, "person.merged")
	must[*personv1.MergeReply](t)(s.UnmergePersons(ctx, &personv1.UnmergePersonsRequest{Command: cmd("unmerge"), MergedPersonId: two.PersonId, MergeId: held.Merge.MergeId}))
	for number, id := range map[string]string{"9990000018": one.PersonId, "9990000026": two.PersonId} {
		p := must[*personv1.PersonReply](t)(s.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: number})).Person
		if p.PersonId != id || p.Restricted != (id == two.PersonId) {
			t.Errorf("after the unmerge %s leads to %v", number, p)
		}
	}
}

// circle reports whether the merges of the log, followed as readers follow them,
// lead round; and any merge that its two streams do not agree upon.
func circle(t testing.TB, s *service, ids []string) error {
	t.Helper()
	for _, id := range ids {
		st := must[es.State[state]](t)(s.people.Load(t.Context(), id))
		for _, m := range st.Value.Merges.All {
			if m.State != personv1.MergeState_MERGE_STATE_MERGED {
				continue
			}
			gone := must[es.State[state]](t)(s.people.Load(t.Context(), m.Merged)).Value
			took := must[es.State[state]](t)(s.people.Load(t.Context(), m.Surviving)).Value
			if gone.Merges.Into != m.ID || took.Merges.get(m.ID).State != m.State {
				return fmt.Errorf("the streams of merge %s differ", m.ID)
			}
		}
		if _, err := s.resolve(t.Context(), id); err != nil {
			return err
		}
	}
	return nil
}

type fuseKey struct{}

// fuse in a context ends the calls of the log made with it, after some.
type fuse struct {
	left atomic.Int64
	blow func()
}

// TestRacingMergesNeverMakeACircle races random merges and reversals of few
// persons at two instances, hears all of it twice, and looks at the outcome. The
// control takes the rule away that makes it so.
func TestRacingMergesNeverMakeACircle(t *testing.T) {
	t.Parallel()
	const persons, workers, each = 4, 6, 60
	log := estest.NewAuditedLog(t)
	instances := []*service{instance(t, log), instance(t, log)}
	ids := make([]string, persons)
	for i := range ids {
		ids[i] = must[*personv1.PersonReply](t)(instances[0].RegisterPerson(t.Context(), registration(fmt.Sprint(i), ""))).Person.PersonId
	}
	log.SetFaults(estest.Faults{Before: func(ctx context.Context, _, _ string) error {
		runtime.Gosched()
		if f, ok := ctx.Value(fuseKey{}).(*fuse); ok && f.left.Add(-1) < 0 {
			f.blow()
			return errCrash
		}
		return nil
	}})
	var took, refused, contended, died atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(w)))
			s := instances[w%len(instances)]
			for i := range each {
				c := cmd(fmt.Sprint("race ", w, " ", i))
				ctx, cancel := context.WithCancel(t.Context())
				if r.IntN(3) == 0 { // the call dies on its way
					f := &fuse{blow: cancel}
					f.left.Store(int64(r.IntN(8)))
					ctx = context.WithValue(ctx, fuseKey{}, f)
				}
				a, b := ids[r.IntN(persons)], ids[r.IntN(persons)]
				var err error
				if st, loadErr := s.people.Load(t.Context(), a); loadErr == nil && st.Value.Merges.Into != "" && r.IntN(3) == 0 {
					_, err = s.UnmergePersons(ctx, &personv1.UnmergePersonsRequest{Command: c, MergedPersonId: a, MergeId: st.Value.Merges.Into})
				} else {
					_, err = s.MergePersons(ctx, &personv1.MergePersonsRequest{Command: c, SurvivingPersonId: b, MergedPersonId: a})
				}
				switch code := fault.CodeOf(err); {
				case err == nil:
					took.Add(1)
				case ctx.Err() != nil:
					died.Add(1)
				case code == "person.merge.contended":
					contended.Add(1)
				case code != "":
					refused.Add(1)
				default:
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	log.SetFaults(estest.Faults{})
	s := instance(t, log)
	made := reactToAll(t, s, log)
	if again := reactToAll(t, s, log); again != 0 {
		t.Errorf("hearing everything again recorded %d events", again)
	}
	if err := circle(t, s, ids); err != nil {
		t.Error(err)
	}
	t.Logf("%d commands took, %d refused, %d undone, %d died; hearing recorded %d", took.Load(), refused.Load(), contended.Load(), died.Load(), made)
	if took.Load() < 10 || died.Load() < 3 {
		t.Error("too few commands took or died: the test looks at nothing")
	}
}

// TestTwoMergesAtOnce is the shortest circle, step by step: each person is
// claimed for the other before either answers.
func TestTwoMergesAtOnce(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, answers func(*service, cause, merge) error) error {
		log := estest.NewAuditedLog(t)
		s := instance(t, log)
		one := must[*personv1.PersonReply](t)(s.RegisterPerson(t.Context(), registration("one", ""))).Person.PersonId
		two := must[*personv1.PersonReply](t)(s.RegisterPerson(t.Context(), registration("two", ""))).Person.PersonId
		var claims []merge
		for _, m := range []merge{{ID: m1, Surviving: one, Merged: two}, {ID: m2, Surviving: two, Merged: one}} {
			survivor := stateOf(t, registeredAs(m.Surviving, "07")) // as it was before the other claim
			req := &personv1.MergePersonsRequest{Command: cmd(m.ID), SurvivingPersonId: m.Surviving, MergedPersonId: m.Merged}
			must[es.State[state]](t)(s.people.Do(t.Context(), m.Merged, req, mergePersons{MergeID: m.ID, Surviving: m.Surviving, Merged: m.Merged, Survivor: survivor}.Decide))
			claims = append(claims, m)
		}
		for _, m := range claims {
			if err := answers(s, cause{"RJ1", m.ID}, m); err != nil {
				t.Fatal(err)
			}
		}
		return circle(t, instance(t, log), []string{one, two})
	}
	if err := run(t, func(s *service, because cause, m merge) error {
		_, err := s.answer(t.Context(), because, m)
		return err
	}); err != nil {
		t.Error(err)
	}
	// The control: a survivor that always answers yes.
	err := run(t, func(s *service, because cause, m merge) error {
		req := &personv1.ApproveMergeRequest{Command: because.command("answer", m.ID)}
		_, err := s.people.Do(t.Context(), m.Surviving, req, func(state) ([]proto.Message, error) {
			return []proto.Message{&personv1.PersonsMerged{MergeId: m.ID, SurvivingPersonId: m.Surviving, MergedPersonId: m.Merged}}, nil
		})
		return err
	})
	if err == nil {
		t.Error("the control made no circle: this test finds nothing")
	}
}

// TestContendedMerge is what the caller hears whose merge was undone.
func TestContendedMerge(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	s := instance(t, log)
	var ids []string
	for _, name := range []string{"one", "two", "three"} {
		ids = append(ids, must[*personv1.PersonReply](t)(s.RegisterPerson(t.Context(), registration(name, ""))).Person.PersonId)
	}
	// Between the claim on the second person and the first one's answer, the first
	// is merged into the third.
	var begun atomic.Bool
	other := instance(t, log)
	log.SetFaults(estest.Faults{Before: func(_ context.Context, call, stream string) error {
		if call == "Append" && stream == "person-"+ids[0] && begun.CompareAndSwap(false, true) {
			must[*personv1.MergeReply](t)(other.MergePersons(t.Context(), &personv1.MergePersonsRequest{Command: cmd("other"), SurvivingPersonId: ids[2], MergedPersonId: ids[0]}))
		}
		return nil
	}})
	req := &personv1.MergePersonsRequest{Command: cmd("merge"), SurvivingPersonId: ids[0], MergedPersonId: ids[1]}
	for range 2 {
		_, err := s.MergePersons(t.Context(), req)
		wantCode(t, err, codes.Aborted, "person.merge.contended")
	}
	if err := circle(t, s, ids); err != nil {
		t.Error(err)
	}
	if p := must[*personv1.PersonReply](t)(s.GetPerson(t.Context(), &personv1.GetPersonRequest{PersonId: ids[1]})).Person; p.PersonId != ids[1] {
		t.Errorf("the second person leads to %s", p.PersonId)
	}
}
