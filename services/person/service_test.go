package person

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
	"waymark/services/kit/runtest"
)

func deps(log es.Log) run.Deps {
	return run.Deps{
		Log: log, Key: runtest.Key, Slog: slog.New(slog.DiscardHandler),
		Clock: func() time.Time { return time.Date(2026, 6, 15, 9, 0, 0, 0, time.UTC) },
	}
}

// serve serves the person service behind a real connection.
func serve(t *testing.T, log es.Log) *grpc.ClientConn {
	t.Helper()
	return runtest.Serve(t, log, deps(log).Clock, New).Conn
}

// cmd is a command header with an id made from a name.
func cmd(name string) *metav1.Command {
	return &metav1.Command{CommandId: uuid.NewSHA1(uuid.Nil, []byte(name)).String(), Actor: &metav1.Actor{User: "U1", Organisation: "RJ1"}}
}

func by(c *metav1.Command, user string) *metav1.Command {
	c.Actor.User = user
	return c
}

func registration(name, number string) *personv1.RegisterPersonRequest {
	req := &personv1.RegisterPersonRequest{Command: cmd(name), NhsNumber: number, NhsNumberStatus: "02", Source: pas(1)}
	if number == "" {
		req.NhsNumberStatus = "07"
	}
	return req
}

func must[R any](t testing.TB) func(R, error) R {
	return func(r R, err error) R {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

func wantCode(t testing.TB, err error, grpcCode codes.Code, code string) {
	t.Helper()
	if status.Code(err) != grpcCode || fault.CodeOf(err) != code {
		t.Errorf("%v %q (%v), want %v %s", status.Code(err), fault.CodeOf(err), err, grpcCode, code)
	}
}

// commands is a request of each command for a registered person, all of which
// are taken. Their order matters.
func commands(t *testing.T, ctx context.Context, c personv1.PersonServiceClient) []es.Request {
	one := must[*personv1.PersonReply](t)(c.RegisterPerson(ctx, registration("one", ""))).Person.PersonId
	two := must[*personv1.PersonReply](t)(c.RegisterPerson(ctx, registration("two", ""))).Person.PersonId
	merge := derive(cmd("MergePersons"), "merge")
	proxy := derive(cmd("RecordProxy"), "proxy")
	held := derive(cmd("held again"), "merge")
	must[*personv1.MergeReply](t)(c.MergePersons(ctx, &personv1.MergePersonsRequest{Command: cmd("held again"), SurvivingPersonId: one, MergedPersonId: two, OpenLedgers: true}))
	return []es.Request{
		&personv1.RegisterPersonRequest{Command: cmd("RegisterPerson"), NhsNumber: "999 000 0034", NhsNumberStatus: "03", Source: pas(1), Demographics: &personv1.Demographics{BirthDate: "1960-02-29"}},
		&personv1.RejectMergeRequest{Command: cmd("RejectMerge"), MergedPersonId: two, MergeId: held},
		&personv1.UpdateDemographicsRequest{Command: cmd("UpdateDemographics"), PersonId: one, Source: pas(2), Demographics: &personv1.Demographics{Name: &personv1.PersonName{Family: "Smith"}, Address: &personv1.Address{Postcode: "LS1 1AA"}}},
		&personv1.RecordTraceResultRequest{Command: cmd("RecordTraceResult"), PersonId: one, NhsNumber: "9990000018", NhsNumberStatus: "01", Source: pds(1, 2)},
		&personv1.ChangeIdentifierRequest{Command: cmd("ChangeIdentifier"), PersonId: one, Change: &personv1.ChangeIdentifierRequest_SupersedingNhsNumber{SupersedingNhsNumber: "9990000026"}, Source: pds(2, 3)},
		&personv1.SetRestrictionRequest{Command: cmd("SetRestriction"), PersonId: one, Code: "R"},
		&personv1.LiftRestrictionRequest{Command: cmd("LiftRestriction"), PersonId: one},
		&personv1.RecordNeedsRequest{Command: cmd("RecordNeeds"), PersonId: one, ReviewDue: "2027-01-01", Communication: []*personv1.CommunicationNeed{{Code: "204331000000107"}}},
		&personv1.ReviewNeedsRequest{Command: cmd("ReviewNeeds"), PersonId: one, ReviewedOn: "2026-06-15", NextReview: "2027-06-15"},
		&personv1.RecordProxyRequest{Command: cmd("RecordProxy"), PersonId: one, Proxy: &personv1.Proxy{Role: "002", Name: &personv1.PersonName{Family: "Jones"}, Authority: "consent form"}},
		&personv1.EndProxyRequest{Command: cmd("EndProxy"), PersonId: one, ProxyId: strings.ToUpper(proxy), EndedOn: "2026-06-15"},
		&personv1.NoteDeathRequest{Command: cmd("NoteDeath"), PersonId: one, Status: "1"},
		&personv1.NoteMoveRequest{Command: cmd("NoteMove"), PersonId: one, Practice: "B86011", Source: pas(3)},
		&personv1.NoteLeftEnglandRequest{Command: cmd("NoteLeftEngland"), PersonId: one, Reason: "EMB", LeftOn: "2026-06-01"},
		&personv1.LinkPersonsRequest{Command: cmd("LinkPersons"), PersonId: one, OtherPersonId: two},
		&personv1.UnlinkPersonsRequest{Command: cmd("UnlinkPersons"), PersonId: two, OtherPersonId: one},
		&personv1.MergePersonsRequest{Command: cmd("MergePersons"), SurvivingPersonId: one, MergedPersonId: strings.ToUpper(two), OpenLedgers: true},
		&personv1.ApproveMergeRequest{Command: by(cmd("ApproveMerge"), "U2"), MergedPersonId: two, MergeId: merge},
		&personv1.UnmergePersonsRequest{Command: cmd("UnmergePersons"), MergedPersonId: two, MergeId: merge},
	}
}

// method returns the method of a request and an empty reply to it.
func method(t *testing.T, req proto.Message) (string, proto.Message) {
	t.Helper()
	service := personv1.File_waymark_person_v1_person_proto.Services().Get(0)
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		if m.Input().FullName() == req.ProtoReflect().Descriptor().FullName() {
			reply := proto.Message(&personv1.PersonReply{})
			if m.Output().Name() == "MergeReply" {
				reply = &personv1.MergeReply{}
			}
			return fmt.Sprintf("/%s/%s", service.FullName(), m.Name()), reply
		}
	}
	t.Fatalf("no method takes %T", req)
	return "", nil
}

// TestEveryCommandOverTheWire sends each command, repeats it, sends it with
// another body, and sends it malformed in each field.
func TestEveryCommandOverTheWire(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	log := estest.NewAuditedLog(t)
	conn := serve(t, log)
	all := commands(t, ctx, personv1.NewPersonServiceClient(conn))
	var sent []string
	for _, req := range all {
		name, first := method(t, req)
		sent = append(sent, name)
		before := len(log.Events())
		if err := conn.Invoke(ctx, name, req, first); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		taken := len(log.Events())
		if taken == before {
			t.Errorf("%s recorded nothing", name)
		}
		_, again := method(t, req)
		if err := conn.Invoke(ctx, name, req, again); err != nil {
			t.Errorf("%s again: %v", name, err)
		}
		if !proto.Equal(first, again) {
			t.Errorf("%s again: another reply\n%v\n%v", name, first, again)
		}
		other := proto.Clone(req).(es.Request)
		other.GetCommand().Reason = "another body"
		err := conn.Invoke(ctx, name, other, again)
		wantCode(t, err, codes.InvalidArgument, "command.id_reused")
		if got := len(log.Events()); got != taken {
			t.Errorf("%s: repeats recorded %d events", name, got-taken)
		}
	}
	service := personv1.File_waymark_person_v1_person_proto.Services().Get(0)
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		if m.Input().Fields().ByName("command") != nil && !slices.Contains(sent, fmt.Sprintf("/%s/%s", service.FullName(), m.Name())) {
			t.Errorf("%s is not tested", m.Name())
		}
	}
	for _, req := range all {
		malformed(t, ctx, conn, req)
	}
}

// malformed sends the request with each scalar field of it spoilt and wants the
// field's name back, and never its value.
func malformed(t *testing.T, ctx context.Context, conn grpc.ClientConnInterface, req es.Request) {
	t.Helper()
	const spoilt = "\x01spoilt-9990000018-\u2603"
	name, reply := method(t, req)
	fields := req.ProtoReflect().Descriptor().Fields()
	count := 0
	for i := range fields.Len() {
		f := fields.Get(i)
		bad := proto.Clone(req).(es.Request)
		switch {
		case f.IsList() && f.Kind() == protoreflect.StringKind:
			bad.ProtoReflect().Mutable(f).List().Append(protoreflect.ValueOfString(spoilt))
		case f.IsList(), f.Kind() == protoreflect.BoolKind:
			continue
		case f.Kind() == protoreflect.StringKind:
			bad.ProtoReflect().Set(f, protoreflect.ValueOfString(spoilt+strings.Repeat("x", 600)))
		case f.Kind() == protoreflect.MessageKind:
			inner := f.Message().Fields()
			if bad.ProtoReflect().Has(f) || f.ContainingOneof() != nil {
				bad.ProtoReflect().Set(f, bad.ProtoReflect().NewField(f))
			}
			for j := range inner.Len() {
				if g := inner.Get(j); g.Kind() == protoreflect.StringKind && !g.IsList() {
					bad.ProtoReflect().Mutable(f).Message().Set(g, protoreflect.ValueOfString(spoilt+strings.Repeat("x", 600)))
				}
			}
		}
		count++
		err := conn.Invoke(ctx, name, bad, reply)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s with a bad %s: %v", name, f.Name(), err)
			continue
		}
		named := false
		for _, d := range status.Convert(err).Details() {
			if bad, ok := d.(*errdetails.BadRequest); ok {
				for _, v := range bad.FieldViolations {
					named = named || strings.HasPrefix(v.Field, string(f.Name()))
				}
			}
		}
		if !named {
			t.Errorf("%s with a bad %s: the answer does not name it: %v", name, f.Name(), err)
		}
		if strings.Contains(fmt.Sprint(status.Convert(err).Proto()), "9990000018") {
			t.Errorf("%s with a bad %s: the answer repeats the value", name, f.Name())
		}
	}
	if count < 2 {
		t.Errorf("%s: spoilt %d fields only", name, count)
	}
}

func TestNumbersOverTheWire(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	log := estest.NewAuditedLog(t)
	c := personv1.NewPersonServiceClient(serve(t, log))
	for _, bad := range []string{"9000000000", "3333333333", "9999999999", "94347659191", "999000001", "999000001X"} {
		_, err := c.RegisterPerson(ctx, registration("bad", bad))
		wantCode(t, err, codes.InvalidArgument, "person.nhs_number.invalid")
		if strings.Contains(fmt.Sprint(status.Convert(err).Proto()), bad) {
			t.Errorf("the answer repeats the number: %v", err)
		}
		_, err = c.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: bad})
		wantCode(t, err, codes.InvalidArgument, "person.nhs_number.invalid")
	}
	if n := len(log.Events()); n != 0 {
		t.Fatalf("bad numbers recorded %d events", n)
	}
	req := registration("one", "9990000018")
	req.Demographics = &personv1.Demographics{Name: &personv1.PersonName{Family: "O'Neill"}, BirthDate: "1960-02-29"}
	one := must[*personv1.PersonReply](t)(c.RegisterPerson(ctx, req))
	same := registration("two", "999 000 0018")
	same.Demographics = &personv1.Demographics{Name: &personv1.PersonName{Family: "ONEILL"}}
	if again := must[*personv1.PersonReply](t)(c.RegisterPerson(ctx, same)); !proto.Equal(one.Person, again.Person) {
		t.Errorf("the same number made another person: %v", again)
	}
	wrong := registration("three", "9990000018")
	wrong.Demographics = &personv1.Demographics{Name: &personv1.PersonName{Family: "Brown"}, BirthDate: "1970-01-01"}
	_, err := c.RegisterPerson(ctx, wrong)
	wantCode(t, err, codes.FailedPrecondition, "person.identity.mismatch")
	if found := must[*personv1.PersonReply](t)(c.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: "9990000018", MinPosition: one.Receipt.Position})); !proto.Equal(found, one) {
		t.Errorf("found %v", found)
	}
	_, err = c.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: "9990000026"})
	wantCode(t, err, codes.NotFound, "person.unknown")
	_, err = c.GetPerson(ctx, &personv1.GetPersonRequest{PersonId: ada})
	wantCode(t, err, codes.NotFound, "person.unknown")

	// The same command with another number must claim nothing for this person.
	other := registration("one", "9990000026")
	_, err = c.RegisterPerson(ctx, other)
	wantCode(t, err, codes.InvalidArgument, "command.id_reused")
	two := must[*personv1.PersonReply](t)(c.RegisterPerson(ctx, registration("four", "9990000026")))
	if two.Person.PersonId == one.Person.PersonId {
		t.Error("another number gave the same person")
	}
	_, err = c.ChangeIdentifier(ctx, &personv1.ChangeIdentifierRequest{Command: cmd("five"), PersonId: one.Person.PersonId, Source: pds(1, 2),
		Change: &personv1.ChangeIdentifierRequest_SupersedingNhsNumber{SupersedingNhsNumber: "9990000026"}})
	wantCode(t, err, codes.AlreadyExists, "person.nhs_number.claimed")

	// A number recorded for the wrong person goes to its true holder.
	must[*personv1.PersonReply](t)(c.ChangeIdentifier(ctx, &personv1.ChangeIdentifierRequest{Command: cmd("wrong"), PersonId: two.Person.PersonId, Source: pds(1, 2),
		Change: &personv1.ChangeIdentifierRequest_NhsNumberRecordedInError{NhsNumberRecordedInError: true}}))
	_, err = c.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: "9990000026"})
	wantCode(t, err, codes.NotFound, "person.unknown")
	three := must[*personv1.PersonReply](t)(c.RegisterPerson(ctx, registration("true holder", "9990000026")))
	if three.Person.PersonId == two.Person.PersonId || three.Person.NhsNumber != "9990000026" {
		t.Errorf("true holder %v", three)
	}

	// An old number finds its person.
	must[*personv1.PersonReply](t)(c.ChangeIdentifier(ctx, &personv1.ChangeIdentifierRequest{Command: cmd("six"), PersonId: one.Person.PersonId, Source: pds(2, 3),
		Change: &personv1.ChangeIdentifierRequest_SupersedingNhsNumber{SupersedingNhsNumber: "9990000034"}}))
	found := must[*personv1.PersonReply](t)(c.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: "9990000018"}))
	if found.Person.PersonId != one.Person.PersonId || found.Person.NhsNumber != "9990000034" || len(found.Person.NhsNumbers) != 2 {
		t.Errorf("found %v", found)
	}

	// Two of three.
	id := one.Person.PersonId
	for _, ok := range []*personv1.CheckIdentityRequest{
		{PersonId: id, NhsNumber: "9990000018", FamilyName: "o neill"},
		{PersonId: id, NhsNumber: "9990000034", BirthDate: "1960-02-29", FamilyName: "Brown"},
		{PersonId: id, NhsNumber: "9990000026", BirthDate: "1960-02-29", FamilyName: "O'Neill"},
		{PersonId: id, BirthDate: "1960-02-29", FamilyName: "O'Neill"},
	} {
		if _, err := c.CheckIdentity(ctx, ok); err != nil {
			t.Errorf("two of three agree: %v", err)
		}
	}
	for _, bad := range []*personv1.CheckIdentityRequest{
		{PersonId: id}, {PersonId: id, NhsNumber: "9990000018"}, {PersonId: id, NhsNumber: "9990000018", BirthDate: "1960-02-28", FamilyName: "Brown"},
	} {
		_, err := c.CheckIdentity(ctx, bad)
		wantCode(t, err, codes.FailedPrecondition, "person.identity.mismatch")
	}
	// No number outside the one event type.
	for _, e := range log.Events() {
		if strings.Contains(string(e.Data)+string(e.Metadata)+e.Stream, "999000") && !strings.HasSuffix(e.Type, ".NhsNumberRecorded") {
			t.Errorf("%s holds an NHS number", e.Type)
		}
	}
}

func TestSourceClockAhead(t *testing.T) {
	t.Parallel()
	c := personv1.NewPersonServiceClient(serve(t, estest.NewAuditedLog(t)))
	req := registration("one", "")
	req.Source = pas(16)
	_, err := c.RegisterPerson(t.Context(), req)
	wantCode(t, err, codes.InvalidArgument, "person.source.future")
}

// TestOneNumberOnePerson races registrations of one number, at two instances.
func TestOneNumberOnePerson(t *testing.T) {
	t.Parallel()
	const racers = 16
	log := estest.NewAuditedLog(t)
	instances := []personv1.PersonServiceClient{personv1.NewPersonServiceClient(serve(t, log)), personv1.NewPersonServiceClient(serve(t, log))}
	ids := make([]string, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			r, err := instances[i%len(instances)].RegisterPerson(t.Context(), registration(fmt.Sprint("racer ", i), "9990000018"))
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = r.Person.PersonId
		})
	}
	wg.Wait()
	slices.Sort(ids)
	if one := slices.Compact(ids); len(one) != 1 {
		t.Errorf("%d persons for one number", len(one))
	}
	registered := 0
	for _, e := range log.Events() {
		if strings.HasSuffix(e.Type, ".PersonRegistered") {
			registered++
		}
	}
	if registered != 1 {
		t.Errorf("%d registrations recorded", registered)
	}
	t.Logf("%d racers, %d person", racers, registered)
}

func TestReviewQueue(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := personv1.NewPersonServiceClient(serve(t, estest.NewAuditedLog(t)))
	register := func(name, number, status string) *personv1.PersonReply {
		req := registration(name, number)
		req.NhsNumberStatus = status
		return must[*personv1.PersonReply](t)(c.RegisterPerson(ctx, req))
	}
	trace, dead := register("trace", "", "04"), register("dead", "9990000018", "01")
	keep, dup := register("keep", "9990000026", "01"), register("dup", "", "05")
	must[*personv1.PersonReply](t)(c.ChangeIdentifier(ctx, &personv1.ChangeIdentifierRequest{Command: cmd("invalid"), PersonId: dead.Person.PersonId, Source: pds(1, 2),
		Change: &personv1.ChangeIdentifierRequest_NhsNumberInvalidated{NhsNumberInvalidated: true}}))
	held := must[*personv1.MergeReply](t)(c.MergePersons(ctx, &personv1.MergePersonsRequest{Command: cmd("merge"), SurvivingPersonId: keep.Person.PersonId, MergedPersonId: dup.Person.PersonId, OpenLedgers: true}))
	list := func(min uint64, kind personv1.ReviewKind, size int32, token string) *personv1.ListReviewsReply {
		return must[*personv1.ListReviewsReply](t)(c.ListReviews(ctx, &personv1.ListReviewsRequest{Kind: kind, PageSize: size, PageToken: token, MinPosition: min}))
	}
	show := func(r *personv1.ListReviewsReply) (out []string) {
		names := map[string]string{trace.Person.PersonId: "trace", dead.Person.PersonId: "dead", dup.Person.PersonId: "dup"}
		for _, i := range r.Reviews {
			out = append(out, names[i.PersonId]+" "+strings.TrimPrefix(i.Kind.String(), "REVIEW_KIND_"))
		}
		return out
	}
	want := func(r *personv1.ListReviewsReply, items ...string) {
		t.Helper()
		if got := show(r); !slices.Equal(got, items) {
			t.Errorf("queue %q, want %q", got, items)
		}
	}
	var any personv1.ReviewKind
	want(list(held.Receipt.Position, any, 0, ""), "trace TRACE", "dup TRACE", "dead NHS_NUMBER_INVALIDATED", "dup MERGE_HELD")
	want(list(0, personv1.ReviewKind_REVIEW_KIND_MERGE_HELD, 0, ""), "dup MERGE_HELD")
	first := list(0, any, 3, "")
	want(first, "trace TRACE", "dup TRACE", "dead NHS_NUMBER_INVALIDATED")
	if second := list(0, any, 3, first.NextPageToken); second.NextPageToken != "" {
		t.Error("more pages than reviews")
	} else {
		want(second, "dup MERGE_HELD")
	}
	_, err := c.ListReviews(ctx, &personv1.ListReviewsRequest{PageToken: "?"})
	wantCode(t, err, codes.InvalidArgument, "person.page_token.invalid")

	// What is merged need not be traced; what is reversed must.
	approved := must[*personv1.MergeReply](t)(c.ApproveMerge(ctx, &personv1.ApproveMergeRequest{Command: by(cmd("approve"), "U2"), MergedPersonId: dup.Person.PersonId, MergeId: held.Merge.MergeId}))
	want(list(approved.Receipt.Position, any, 0, ""), "trace TRACE", "dead NHS_NUMBER_INVALIDATED")
	reversed := must[*personv1.MergeReply](t)(c.UnmergePersons(ctx, &personv1.UnmergePersonsRequest{Command: cmd("unmerge"), MergedPersonId: dup.Person.PersonId, MergeId: held.Merge.MergeId}))
	want(list(reversed.Receipt.Position, any, 0, ""), "trace TRACE", "dup TRACE", "dead NHS_NUMBER_INVALIDATED")
	traced := must[*personv1.PersonReply](t)(c.RecordTraceResult(ctx, &personv1.RecordTraceResultRequest{Command: cmd("traced"), PersonId: trace.Person.PersonId, NhsNumberStatus: "01", NhsNumber: "9990000034", Source: pds(1, 3)}))
	want(list(traced.Receipt.Position, any, 0, ""), "dup TRACE", "dead NHS_NUMBER_INVALIDATED")
}

func TestQueueBehind(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	wantCode(t, newQueue(estest.NewLog()).Wait(ctx, 0), codes.Unavailable, "person.queue.behind")
}
