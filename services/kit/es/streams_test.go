package es_test

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
)

var key = []byte("a key of a test, not of a system")

// tally is the state of the tests: the numbers added, in order.
type tally struct{ added []int64 }

var tallies = es.Decider[tally]{Category: "tally", Evolve: func(s tally, e proto.Message) tally {
	switch e := e.(type) {
	case *wrapperspb.Int64Value:
		return tally{append(slices.Clip(s.added), e.Value)}
	default:
		panic(es.Unhandled(e))
	}
}}

// request is a command request; its body is the command header itself.
type request struct{ *metav1.Command }

func (r request) GetCommand() *metav1.Command { return r.Command }

func newRequest() request { return requestWithID(uuid.NewString()) }

func requestWithID(id string) request {
	return request{&metav1.Command{CommandId: id, Actor: &metav1.Actor{User: "111222333", RoleCode: "R8000", Organisation: "RJ1"}}}
}

// add decides to add numbers.
func add(numbers ...int64) func(tally) ([]proto.Message, error) {
	return func(tally) (events []proto.Message, err error) {
		for _, n := range numbers {
			events = append(events, wrapperspb.Int64(n))
		}
		return events, nil
	}
}

func newTallies(log es.Log) *es.Streams[tally] {
	return es.NewStreams(log, tallies, es.Options{Key: key})
}

func wantCode(t *testing.T, err error, code string, grpc codes.Code) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != code || f.GRPC != grpc {
		t.Fatalf("error %v, want %s (%s)", err, code, grpc)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestDoAndLoad(t *testing.T) {
	t.Parallel()
	ctx, log := t.Context(), estest.NewAuditedLog(t)
	s, ok := newTallies(log), must[es.State[tally]](t)

	if got := ok(s.Load(ctx, "a")); got.Revision != es.NoStream || got.Position != 0 || got.Value.added != nil {
		t.Fatalf("empty stream: %+v", got)
	}
	ok(s.Do(ctx, "other", newRequest(), add(9)))
	got := ok(s.Do(ctx, "a", newRequest(), add(1, 2)))
	if got.Revision != 1 || !slices.Equal(got.Value.added, []int64{1, 2}) {
		t.Fatalf("after 2 events: %+v", got)
	}
	if head, _ := log.Head(ctx); got.Position != head || got.Receipt().Position != uint64(head) || got.Receipt().Revision != 1 {
		t.Fatalf("position %d, head %d, receipt %v", got.Position, head, got.Receipt())
	}
	got = ok(s.Do(ctx, "a", newRequest(), func(s tally) ([]proto.Message, error) {
		return add(int64(len(s.added)) * 10)(s)
	}))
	fresh := ok(newTallies(log).Load(ctx, "a"))
	if want := []int64{1, 2, 20}; got.Revision != 2 || fresh.Revision != 2 || fresh.Position != got.Position ||
		!slices.Equal(got.Value.added, want) || !slices.Equal(fresh.Value.added, want) {
		t.Fatalf("cached %+v, fresh %+v", got, fresh)
	}
}

func TestLoadAt(t *testing.T) {
	t.Parallel()
	ctx, log := t.Context(), estest.NewAuditedLog(t)
	s, ok := newTallies(log), must[es.State[tally]](t)
	first := ok(s.Do(ctx, "a", newRequest(), add(1)))
	ok(s.Do(ctx, "other", newRequest(), add(9)))
	second := ok(s.Do(ctx, "a", newRequest(), add(2, 3)))
	for at, want := range map[es.Position][]int64{
		0: {1, 2, 3}, 1 << 60: {1, 2, 3}, second.Position: {1, 2, 3},
		second.Position - 1: {1, 2}, // between two events of one command
		first.Position:      {1}, first.Position + 1: {1}, first.Position - 1: nil,
	} {
		got := ok(s.LoadAt(ctx, "a", at))
		if !slices.Equal(got.Value.added, want) || len(want) == 0 && got.Revision != es.NoStream || got.Position > at && at > 0 {
			t.Errorf("at %d: %+v, want %v", at, got, want)
		}
	}
	if _, err := s.LoadAt(ctx, "", 1); err == nil {
		t.Error("an empty id is taken")
	}
}

func TestNoEventsAndRefusals(t *testing.T) {
	t.Parallel()
	ctx, log := t.Context(), estest.NewAuditedLog(t)
	here, there, ok := newTallies(log), newTallies(log), must[es.State[tally]](t)
	refused := fault.Refused("tally.empty", "there is nothing yet")
	unlessEmpty := func(s tally) ([]proto.Message, error) {
		if len(s.added) == 0 {
			return nil, refused
		}
		return nil, nil
	}
	if _, err := here.Do(ctx, "a", newRequest(), unlessEmpty); err != refused {
		t.Fatalf("refusal came back as %v", err)
	}
	// here has folded the empty stream; its answer must not come from that.
	ok(there.Do(ctx, "a", newRequest(), add(1)))
	if got := ok(here.Do(ctx, "a", newRequest(), unlessEmpty)); got.Revision != 0 {
		t.Fatalf("no events answered %+v", got)
	}
	if n := len(log.Events()); n != 1 {
		t.Fatalf("%d events stored, want 1", n)
	}
}

func TestCommandRefused(t *testing.T) {
	t.Parallel()
	s := newTallies(estest.NewAuditedLog(t))
	for _, id := range []string{"", "x", uuid.Nil.String(), "{" + uuid.NewString() + "}", "urn:uuid:" + uuid.NewString(), strings.ReplaceAll(uuid.NewString(), "-", "")} {
		_, err := s.Do(t.Context(), "a", requestWithID(id), add(1))
		wantCode(t, err, "command.id_invalid", codes.InvalidArgument)
	}
	_, err := s.Do(t.Context(), "a", request{}, add(1))
	wantCode(t, err, "command.missing", codes.InvalidArgument)
	_, err = s.Do(t.Context(), "a", newRequest(), func(tally) ([]proto.Message, error) {
		return []proto.Message{wrapperspb.String("no case for this")}, nil
	})
	wantCode(t, err, "es.event_unhandled", codes.DataLoss)
	_, err = s.Do(t.Context(), "a", newRequest(), add(make([]int64, 6000)...))
	wantCode(t, err, "command.too_large", codes.InvalidArgument)
}

func TestRepeatedCommand(t *testing.T) {
	t.Parallel()
	ctx, log := t.Context(), estest.NewAuditedLog(t)
	s, ok := newTallies(log), must[es.State[tally]](t)
	first := newRequest()
	want := ok(s.Do(ctx, "a", first, add(1, 2)))
	for n := range int64(300) {
		if n == 255 { // first is the oldest of 256 now
			for _, streams := range []*es.Streams[tally]{s, newTallies(log)} {
				got := ok(streams.Do(ctx, "a", first, func(tally) ([]proto.Message, error) {
					t.Error("a repeat was decided")
					return nil, nil
				}))
				if got.Revision != want.Revision || got.Position != want.Position || !slices.Equal(got.Value.added, want.Value.added) {
					t.Fatalf("repeat answers %+v, first %+v", got, want)
				}
				other := requestWithID(first.CommandId)
				other.Reason = "another body"
				_, err := streams.Do(ctx, "a", other, add(3))
				wantCode(t, err, "command.id_reused", codes.InvalidArgument)
			}
		}
		ok(s.Do(ctx, "a", newRequest(), add(n)))
	}
	if n := len(log.Events()); n != 302 {
		t.Fatalf("%d events, want 302", n)
	}
	// The same id on another stream is another command.
	if got := ok(s.Do(ctx, "b", first, add(7))); got.Revision != 0 {
		t.Fatalf("other stream: %+v", got)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newTallies(estest.NewLog()).Do(ctx, "a", newRequest(), add(1))
	if err == nil {
		t.Fatal("a cancelled command succeeded")
	}
}

// One command reaches two instances that stand at the same revision, with other
// trace ids. With ids bound to content the second finds the first's result; with
// ids from the command id alone its chain parts from the log's.
func TestSameCommandOnTwoInstances(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(*es.Streams[tally]){"content": nil, "planted": es.IDsFromCommandOnly[tally]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log, ok := estest.NewLog(), must[es.State[tally]](t)
			here, there := newTallies(log), newTallies(log)
			if plant != nil {
				plant(here)
				plant(there)
			}
			both, next := newRequest(), newRequest()
			ok(here.Load(t.Context(), "a"))
			ok(there.Load(t.Context(), "a"))
			won := ok(here.Do(traced(t.Context(), 1), "a", both, add(1)))
			lost := ok(there.Do(traced(t.Context(), 2), "a", both, add(1)))
			if lost.Revision != won.Revision || lost.Position != won.Position {
				t.Errorf("answered %+v, then %+v", won, lost)
			}
			ok(there.Do(t.Context(), "a", next, add(2)))
			_, err := newTallies(log).Load(t.Context(), "a")
			if plant == nil {
				if estest.Audit(t, log); err != nil {
					t.Error(err)
				}
				return
			}
			if fault.CodeOf(err) != "es.chain_broken" || !strings.Contains(err.Error(), "tally-a, revision 1") {
				t.Errorf("MISSED: the fold of a broken chain gave %v", err)
			}
		})
	}
}

// Every way of damaging a stored stream rejects its fold, and the error says where.
func TestTamperedStream(t *testing.T) {
	t.Parallel()
	damages := map[string]func([]es.Recorded) []es.Recorded{
		"data":     func(e []es.Recorded) []es.Recorded { e[1].Data = flip(e[1].Data, 1); return e },
		"metadata": func(e []es.Recorded) []es.Recorded { e[1].Metadata = flip(e[1].Metadata, 60); return e },
		"chain": func(e []es.Recorded) []es.Recorded {
			e[1].Metadata = flip(e[1].Metadata, len(e[1].Metadata)-10)
			return e
		},
		"no chain": func(e []es.Recorded) []es.Recorded { e[1].Metadata = []byte("{}"); return e },
		"id":       func(e []es.Recorded) []es.Recorded { e[1].ID = uuid.New(); return e },
		"type":     func(e []es.Recorded) []es.Recorded { e[1].Type = "google.protobuf.UInt64Value"; return e },
		"revision": func(e []es.Recorded) []es.Recorded { e[1].Revision = 2; return e },
		"swapped": func(e []es.Recorded) []es.Recorded {
			e[1], e[2] = e[2], e[1]
			e[1].Revision, e[2].Revision = 1, 2
			return e
		},
		"left out": func(e []es.Recorded) []es.Recorded {
			e = slices.Delete(e, 1, 2)
			e[1].Revision = 1
			return e
		},
		"another stream's": func(e []es.Recorded) []es.Recorded {
			for i := range e {
				e[i].Stream = "tally-b"
			}
			return e
		},
	}
	log, ok := estest.NewAuditedLog(t), must[es.State[tally]](t)
	for range 3 {
		ok(newTallies(log).Do(t.Context(), "a", newRequest(), add(1)))
	}
	for name, damage := range damages {
		var chain es.Chain
		var err error
		for _, e := range damage(log.Events()) {
			if chain, err = chain.Next(e); err != nil {
				break
			}
		}
		if fault.CodeOf(err) != "es.chain_broken" {
			t.Errorf("%s: MISSED (%v)", name, err)
		}
		if name != "another stream's" && err != nil && !strings.Contains(err.Error(), "revision ") {
			t.Errorf("%s: the error does not say where: %v", name, err)
		}
	}
	// A fold meets the damage as an error too, and a warm one goes on without reading it again.
	damaged := estest.NewLog()
	warm := newTallies(damaged)
	first := ok(warm.Do(t.Context(), "a", newRequest(), add(1)))
	damaged.Tamper(first.Position, func(e es.Recorded) es.Recorded { e.Data = flip(e.Data, 1); return e })
	_, err := newTallies(damaged).Load(t.Context(), "a")
	wantCode(t, err, "es.chain_broken", codes.DataLoss)
	_, err = newTallies(damaged).Do(t.Context(), "a", newRequest(), add(1))
	wantCode(t, err, "es.chain_broken", codes.DataLoss)
}

func flip(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[i] ^= 1
	return b
}

func TestUnknownEvents(t *testing.T) {
	t.Parallel()
	for _, e := range []es.Recorded{
		{Stream: "tally-a", Revision: 3, Type: "waymark.newer.v1.Happened"},
		{Stream: "tally-a", Revision: 3, Type: "google.protobuf.Int64Value", Data: []byte{0xff}},
	} {
		_, err := es.Decode(e)
		if err == nil || !strings.Contains(err.Error(), "tally-a, revision 3") || !strings.Contains(err.Error(), e.Type) {
			t.Errorf("%s: %v", e.Type, err)
		}
		if _, err := es.JSON(e); err == nil {
			t.Errorf("%s: rendered", e.Type)
		}
	}
}

// A receiver of another trust acts on a record; the record stays its trust's,
// also for an instance that has not cached it, unless the command says otherwise.
func TestTenantStaysWithTheStream(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	warm := newTallies(log)
	do := func(s *es.Streams[tally], organisation, tenant string) {
		t.Helper()
		r := newRequest()
		r.Actor.Organisation, r.Tenant = organisation, tenant
		if _, err := s.Do(t.Context(), "a", r, add(1)); err != nil {
			t.Fatal(err)
		}
	}
	do(warm, "RJ1", "")
	do(warm, "RRV", "")
	do(newTallies(log), "RRV", "")
	do(warm, "RRV", "RRV")
	do(warm, "RAA", "")
	var got []string
	for _, e := range log.Events() {
		m, err := es.ParseMetadata(e)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Tenant)
	}
	if want := []string{"RJ1", "RJ1", "RJ1", "RRV", "RJ1"}; !slices.Equal(got, want) {
		t.Errorf("tenants %v, want %v", got, want)
	}
}

// TestMetadataForms: what was written in an earlier form is read as what is
// written now, and an event of one small command stays small.
func TestMetadataForms(t *testing.T) {
	t.Parallel()
	const chain = `,"chain":"yT62+YOPh9BmsPH5LYDws6ei+551pucSQuf3NG7Th0="}`
	for first, later := range map[string][2]string{
		`{"commandId":"31cc0c5a-1b60-5f21-8a32-201d4af6faa7","commandHash":"T5u9clIujHtFvBmq1And3w==","$correlationId":"2ef2fa2f-284e-50aa-a0cf-d469b1c6c80d","$causationId":"73224eab-1dc7-55df-9228-87a93e55c2d4","actor":{"user":"waymark/referral","organisation":"RJ1"},"purpose":"TREAT","tenant":"RJ1","index":0,"count":1`: {
			`{"$correlationId":"LvL6LyhOUKqgz9RpscbIDQ","c":"McwMWhtgXyGKMiAdSvb6pw","h":"T5u9clIujHtFvBmq1And3w","$causationId":"cyJOqx3HVd-SKIepPlXC1A","u":"waymark/referral","o":"RJ1"`,
			`{"c":"McwMWhtgXyGKMiAdSvb6p0-bvXJSLox7","$correlationId":"LvL6LyhOUKqgz9RpscbIDQ","$causationId":"cyJOqx3HVd-SKIepPlXC1A","u":"waymark/referral","o":"RJ1"`},
		`{"commandId":"31cc0c5a-1b60-5f21-8a32-201d4af6faa7","commandHash":"T5u9clIujHtFvBmq1And3w==","$correlationId":"31cc0c5a-1b60-5f21-8a32-201d4af6faa7","actor":{"user":"5","role":"R8000","organisation":"RJ1","onBehalfOf":"6"},"purpose":"BTG","reason":"a \"b\"","tenant":"RXX","occurredAt":"2026-03-02T12:30:00.25Z","traceparent":"00-01-02-01","index":1,"count":2`: {
			`{"$correlationId":"McwMWhtgXyGKMiAdSvb6pw","h":"T5u9clIujHtFvBmq1And3w","u":"5","r":"R8000","o":"RJ1","b":"6","p":"BTG","reason":"a \"b\"","t":"RXX","at":"2026-03-02T12:30:00.25Z","traceparent":"00-01-02-01","later":7,"i":1,"n":2`,
			`{"h":"T5u9clIujHs","$correlationId":"McwMWhtgXyGKMiAdSvb6pw","u":"5","r":"R8000","o":"RJ1","b":"6","p":"BTG","reason":"a \"b\"","t":"RXX","at":1772454600.25,"traceparent":"00-01-02-01","later":7,"i":1,"n":2`},
		`{"commandId":"31cc0c5a-1b60-5f21-8a32-201d4af6faa7","commandHash":"T5u9clIujHtFvBmq1And3w==","$correlationId":"abcdefghijklmnopqrstuA","$causationId":"a:abcdefghijklmnopqrstuA","actor":{"user":"5","organisation":""},"purpose":"TREAT","tenant":"","index":0,"count":1`: {
			`{"$correlationId":"=abcdefghijklmnopqrstuA","c":"McwMWhtgXyGKMiAdSvb6pw","h":"T5u9clIujHtFvBmq1And3w","$causationId":"a:abcdefghijklmnopqrstuA","u":"5"`,
			`{"c":"McwMWhtgXyGKMiAdSvb6p0-bvXJSLox7","$correlationId":"=abcdefghijklmnopqrstuA","$causationId":"=a:abcdefghijklmnopqrstuA","u":"5"`},
	} {
		want, err := es.ParseMetadata(es.Recorded{Metadata: []byte(first + chain)})
		if err != nil {
			t.Fatal(err)
		}
		for i, short := range later {
			if i == 1 {
				want.CommandHash = "T5u9clIujHs=" // half of it is kept now
			}
			got, err := es.ParseMetadata(es.Recorded{Metadata: []byte(short + chain)})
			if err != nil || got != want {
				t.Errorf("%s\nis %+v, %v\nnot %+v", short, got, err, want)
			}
			a, _ := es.CommandIn([]byte(first + chain))
			if b, ok := es.CommandIn([]byte(short + chain)); !ok || a != b {
				t.Errorf("%s: command %s, not %s", short, b, a)
			}
		}
	}
	for _, bad := range []string{``, `{}`, `{"$correlationId":"LvL6LyhOUKqgz9RpscbIDQ"}`, `{"$correlationId":"x","h":"T5u9clIujHtFvBmq1And3w"}`, `{"$correlationId":"McwMWhtgXyGKMiAdSvb6pw","h":"T5u9clIujHtFvBmq1And3w","n":x}`,
		`{"$correlationId":"McwMWhtgXyGKMiAdSvb6pw","h":"T5u9clIujHtFvBmq1And3x"}`, `{"$correlationId":"McwMWhtgXyGKMiAdSvb6pw","h":"T5u9clIujHtFvBmq1And3w","u":"5`, `{"$correlationId":"McwMWhtgXyGKMiAdSvb6pw" "h":"T5u9clIujHtFvBmq1And3w"}`,
		`{"c":"McwMWhtgXyGKMiAdSvb6p0-bvXJSLox","$correlationId":"x"}`, `{"c":"McwMWhtgXyGKMiAdSvb6pw","$correlationId":"x"}`, `{"c":"McwMWhtgXyGKMiAdSvb6p0-bvXJSLox7"`, `{"h":"T5u9clIujHs","$correlationId":"x"}`,
		`{"h":"T5u9clIujHt","$correlationId":"McwMWhtgXyGKMiAdSvb6pw"}`, `{"c":"McwMWhtgXyGKMiAdSvb6p0-bvXJSLox7","$correlationId":"x","at":1.1234567890}`} {
		if m, err := es.ParseMetadata(es.Recorded{Metadata: []byte(bad)}); err == nil {
			t.Errorf("%s is read as %+v", bad, m)
		}
	}
	log := estest.NewAuditedLog(t)
	imported := newRequest()
	imported.CorrelationId, imported.OccurredAt = "synthea:"+uuid.NewString(), timestamppb.New(time.Unix(1772454600, 0))
	for req, most := range map[*metav1.Command]int{newRequest().Command: 160, imported.Command: 200} {
		if _, err := newTallies(log).Do(t.Context(), "a", request{req}, add(1)); err != nil {
			t.Fatal(err)
		}
		all := log.Events()
		if last := all[len(all)-1].Metadata; len(last) > most {
			t.Errorf("metadata of %d bytes: %s", len(last), last)
		}
	}
}

// Whatever a command says is read back as it was said, by whole parsing, by the
// place of the command, and by any reader of JSON.
func TestMetadataIsReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Custom(func(t *rapid.T) string {
			return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid")).String()
		})
		short := rapid.StringMatching(`[A-Za-z0-9_-]{21}[AQgw]`)
		prefixed := rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"a:", ":", "=", "=:", "a=", "é:"}).Draw(t, "prefix") + rapid.OneOf(id, short).Draw(t, "id")
		})
		text := rapid.OneOf(id, short, prefixed, rapid.String())
		req := newRequest()
		req.CorrelationId, req.CausationId, req.Reason = text.Draw(t, "correlation"), text.Draw(t, "causation"), rapid.String().Draw(t, "reason")
		if rapid.Bool().Draw(t, "own") {
			req.CorrelationId = req.CommandId
		}
		at := time.Unix(rapid.Int64Range(-1<<33, 1<<34).Draw(t, "seconds"), rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 999_999_999)).Draw(t, "nanos")).UTC()
		req.OccurredAt = timestamppb.New(at)
		log := estest.NewLog()
		if _, err := newTallies(log).Do(context.Background(), "a", req, add(1)); err != nil {
			t.Fatal(err)
		}
		e := log.Events()[0]
		m, err := es.ParseMetadata(e)
		if err != nil || m.CorrelationID != cmp.Or(req.CorrelationId, req.CommandId) || m.CausationID != req.CausationId || m.Reason != req.Reason || !m.Occurred.Equal(at) || m.CommandID.String() != req.CommandId {
			t.Fatalf("%s is read as %+v, %v", e.Metadata, m, err)
		}
		if id, ok := es.CommandIn(e.Metadata); !ok || id != m.CommandID {
			t.Fatalf("%s: command %s", e.Metadata, id)
		}
		var any map[string]any
		if err := json.Unmarshal(e.Metadata, &any); err != nil || any["$correlationId"] == nil {
			t.Fatalf("%s is no JSON with a correlation: %v", e.Metadata, err)
		}
		// A repeat is recognised by a fold of what was stored.
		if again, err := newTallies(log).Do(context.Background(), "a", req, add(1)); err != nil || again.Revision != 0 {
			t.Fatalf("%s: the repeat is at %d, %v", e.Metadata, again.Revision, err)
		}
	})
}

// A stream that was begun in the earlier forms is folded, its commands are
// recognised, and it goes on in the form of today. Chain, ids and hashes are made
// here from their description.
func TestStreamsOfEarlierForms(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	forms := []string{
		`{"commandId":"%[1]s","commandHash":"%[2]s","$correlationId":"work","actor":{"user":"5","organisation":"RJ1"},"purpose":"TREAT","tenant":"RJ1","index":0,"count":1`,
		`{"$correlationId":"work","c":"%[3]s","h":"%[4]s","u":"5","o":"RJ1"`,
		`{"$correlationId":"%[3]s","h":"%[4]s","u":"5","o":"RJ1"`,
	}
	prefixed := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(binary.BigEndian.AppendUint32(all, uint32(len(p))), p...)
		}
		return all
	}
	var sum [32]byte
	var requests []request
	for i, form := range forms {
		req := newRequest()
		requests = append(requests, req)
		id := uuid.MustParse(req.CommandId)
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, key)
		mac.Write(id[:])
		mac.Write(body)
		hash := mac.Sum(nil)[:16]
		before := fmt.Sprintf(form, id, base64.StdEncoding.EncodeToString(hash), base64.RawURLEncoding.EncodeToString(id[:]), base64.RawURLEncoding.EncodeToString(hash))
		data, err := proto.Marshal(wrapperspb.Int64(int64(i)))
		if err != nil {
			t.Fatal(err)
		}
		const typ = "google.protobuf.Int64Value"
		event, dataSum, beforeSum := uuid.New(), sha256.Sum256(data), sha256.Sum256([]byte(before))
		sum = sha256.Sum256(prefixed(sum[:], []byte("tally-a"), binary.BigEndian.AppendUint64(nil, uint64(i)), event[:], []byte(typ), dataSum[:], beforeSum[:]))
		metadata := before + `,"chain":"` + base64.StdEncoding.EncodeToString(sum[:]) + `"}`
		if _, err := log.Append(t.Context(), "tally-a", es.Revision(i-1), []es.NewEvent{{ID: event, Type: typ, Data: data, Metadata: []byte(metadata)}}); err != nil {
			t.Fatal(err)
		}
	}
	s := newTallies(log)
	if got, err := s.Do(t.Context(), "a", newRequest(), add(9)); err != nil || !slices.Equal(got.Value.added, []int64{0, 1, 2, 9}) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, req := range requests {
		if got, err := newTallies(log).Do(t.Context(), "a", req, add(9)); err != nil || got.Revision != es.Revision(i) {
			t.Errorf("repeat of command %d is at %d, %v", i, got.Revision, err)
		}
		req.Reason = "another"
		_, err := s.Do(t.Context(), "a", req, add(9))
		wantCode(t, err, "command.id_reused", codes.InvalidArgument)
	}
	for _, e := range log.Events() {
		line, err := es.JSON(e)
		if err != nil || !strings.Contains(string(line), `"chain":"`) || !strings.Contains(string(line), `"tenant":"RJ1"`) {
			t.Errorf("as JSON: %s, %v", line, err)
		}
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	s := newTallies(log)
	full := newRequest()
	full.Actor.OnBehalfOf, full.Purpose, full.Reason = "444", "BTG", "a \"reason\" \\ with é and\nlines"
	full.OccurredAt = timestamppb.New(time.Date(2026, 3, 2, 12, 30, 0, 5, time.UTC))
	full.CorrelationId, full.CausationId, full.Tenant = "work-7", "cause-8", "RXX"
	bare := newRequest()
	if _, err := s.Do(traced(t.Context(), 9), "a", full, add(1, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Do(t.Context(), "a", bare, add(3)); err != nil {
		t.Fatal(err)
	}
	events := log.Events()
	m, err := es.ParseMetadata(events[1])
	if err != nil {
		t.Fatal(err)
	}
	want := es.Metadata{
		CommandID: uuid.MustParse(full.CommandId), CommandHash: m.CommandHash, CorrelationID: "work-7", CausationID: "cause-8",
		Actor:   es.Actor{User: "111222333", Role: "R8000", Organisation: "RJ1", OnBehalfOf: "444"},
		Purpose: "BTG", Reason: full.Reason, Tenant: "RXX", Occurred: time.Date(2026, 3, 2, 12, 30, 0, 5, time.UTC),
		Traceparent: "00-01090000000000000000000000000000-0109000000000000-01", Index: 1, Count: 2,
	}
	if m != want || len(m.CommandHash) != 12 {
		t.Errorf("metadata %+v\nwant     %+v", m, want)
	}
	if m, err = es.ParseMetadata(events[2]); err != nil {
		t.Fatal(err)
	}
	want = es.Metadata{
		CommandID: uuid.MustParse(bare.CommandId), CommandHash: m.CommandHash, CorrelationID: bare.CommandId,
		Actor:   es.Actor{User: "111222333", Role: "R8000", Organisation: "RJ1"},
		Purpose: "TREAT", Tenant: "RXX", Index: 0, Count: 1, // the stream's, not the actor's
	}
	if m != want {
		t.Errorf("metadata %+v\nwant     %+v", m, want)
	}
	if !strings.HasSuffix(string(events[2].Metadata), `"}`) || !strings.Contains(string(events[2].Metadata), `,"o":"RJ1","t":"RXX","x":"`) {
		t.Errorf("the chain is not the last member: %s", events[2].Metadata)
	}
	line, err := es.JSON(events[0])
	if err != nil || !json.Valid(line) || !strings.Contains(string(line), `"data":"1"`) || !strings.Contains(string(line), `"purpose":"BTG"`) || strings.Contains(string(line), "\n") {
		t.Errorf("as JSON: %s, %v", line, err)
	}
}

// The cache forgets the streams used longest ago, and only those in nobody's hands.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	var reads atomic.Int64
	log.SetFaults(estest.Faults{Before: func(_ context.Context, call, _ string) error {
		if call == "Read" {
			reads.Add(1)
		}
		return nil
	}})
	s := es.NewStreams(log, tallies, es.Options{Key: key, Cached: 3})
	for round := range 2 {
		for _, id := range []string{"a", "b", "c"} {
			if _, err := s.Do(t.Context(), id, newRequest(), add(1)); err != nil {
				t.Fatal(err)
			}
		}
		if n := reads.Load(); n != 3 {
			t.Fatalf("round %d: %d reads, want one for each stream", round, n)
		}
	}
	for _, id := range []string{"d", "b", "c"} { // d takes the place of a
		if _, err := s.Do(t.Context(), id, newRequest(), add(1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := reads.Load(); n != 4 {
		t.Fatalf("%d reads, want 4", n)
	}
	_, err := s.Do(t.Context(), "c", newRequest(), func(tally) ([]proto.Message, error) {
		for i := range 9 { // c is in hands while others push
			if _, err := s.Do(t.Context(), fmt.Sprint("push", i), newRequest(), add(1)); err != nil {
				return nil, err
			}
		}
		return add(7)(tally{})
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := newTallies(log).Load(t.Context(), "c"); err != nil || got.Revision != 3 {
		t.Fatalf("c: %+v, %v", got, err)
	}
}

// TestCacheIsShared: kinds of stream that share a cache keep no more than its bytes
// together, what was used last of whichever kind, and folds in hands besides. What
// the cache counts is what its folds add up to, and grows with what they hold.
func TestCacheIsShared(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.SampledFrom([]int{1, 5_000, 20_000, 1 << 20}).Draw(t, "bytes")
		cache, log := es.NewCache(bytes), estest.NewLog()
		other := tallies
		other.Category = "other"
		kinds := []*es.Streams[tally]{es.NewStreams(log, tallies, es.Options{Key: key, Cache: cache}), es.NewStreams(log, other, es.Options{Key: key, Cache: cache})}
		type used struct {
			kind int
			id   string
		}
		var last []used // the newest at the end
		now := func(u used) { last = append(slices.DeleteFunc(last, func(o used) bool { return o == u }), u) }
		use := func(t *rapid.T, held bool) {
			u := used{rapid.IntRange(0, 1).Draw(t, "kind"), rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "id")}
			_, err := kinds[u.kind].Do(context.Background(), u.id, newRequest(), func(s tally) ([]proto.Message, error) {
				if held { // u is in hands while others push
					for i := range 8 {
						if _, err := kinds[1-u.kind].Do(context.Background(), fmt.Sprint("push", i), newRequest(), add(1)); err != nil {
							return nil, err
						}
						now(used{1 - u.kind, fmt.Sprint("push", i)})
					}
					if !es.Kept(kinds[u.kind], u.id) {
						t.Fatalf("%v is in hands and was forgotten", u)
					}
				}
				return add(make([]int64, rapid.IntRange(1, 9).Draw(t, "more"))...)(s)
			})
			if err != nil {
				t.Fatal(err)
			}
			now(u)
		}
		t.Repeat(map[string]func(*rapid.T){
			"use":  func(t *rapid.T) { use(t, false) },
			"hold": func(t *rapid.T) { use(t, true) },
			"": func(t *rapid.T) {
				counted, idle := es.Counts(cache)
				if counted != idle || counted > bytes {
					t.Fatalf("%d bytes counted, %d idle, of %d", counted, idle, bytes)
				}
				gone := false
				for _, u := range slices.Backward(last) {
					if kept := es.Kept(kinds[u.kind], u.id); kept && gone {
						t.Fatalf("%v is kept, and one used later is not", u)
					} else if !kept {
						gone = true
					}
				}
			},
		})
	})
	log, cache, again, before := estest.NewLog(), es.NewCache(1<<20), es.NewCache(1<<20), 0
	s := es.NewStreams(log, tallies, es.Options{Key: key, Cache: cache})
	for range 20 {
		if _, err := s.Do(t.Context(), "a", newRequest(), add(1)); err != nil {
			t.Fatal(err)
		}
		now, _ := es.Counts(cache)
		if now <= before {
			t.Fatalf("%d bytes after a command more, %d before", now, before)
		}
		before = now
	}
	if _, err := es.NewStreams(log, tallies, es.Options{Key: key, Cache: again}).Load(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if now, _ := es.Counts(again); now != before {
		t.Fatalf("%d bytes when it was read from the log, %d when it was written", now, before)
	}
}

// A command waits no longer than its caller, whatever the log and the command
// before it do.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	log := estest.NewLog()
	s := newTallies(log)
	if _, err := s.Do(t.Context(), "a", newRequest(), add(1)); err != nil {
		t.Fatal(err)
	}
	log.SetFaults(estest.Faults{Hang: true})
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := s.Do(ctx, "a", newRequest(), add(1))
			wantTimeout(t, err)
		})
	}
	wg.Wait()
	log.SetFaults(estest.Faults{Full: true})
	_, err := s.Do(t.Context(), "a", newRequest(), add(1))
	wantCode(t, err, "log.full", codes.ResourceExhausted)
	log.SetFaults(estest.Faults{})
	if got, err := s.Do(t.Context(), "a", newRequest(), add(2)); err != nil || got.Revision != 1 {
		t.Fatalf("after the outage: %+v, %v", got, err)
	}
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.GRPC != codes.DeadlineExceeded && f.GRPC != codes.Unavailable {
		t.Errorf("error %v, want DEADLINE_EXCEEDED or UNAVAILABLE", err)
	}
}

// A full disk after an append of unknown outcome: the tail tells.
func TestLostThenFull(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	s := hastyTallies(log)
	appends := 0
	log.SetFaults(estest.Faults{Lost: 1, Before: func(_ context.Context, call, _ string) error {
		if call != "Append" {
			return nil
		}
		if appends++; appends > 1 {
			return fault.Exhausted("log.full", "no room", 0)
		}
		return nil
	}})
	got, err := s.Do(t.Context(), "a", newRequest(), add(1))
	if err != nil || got.Revision != 0 || len(log.Events()) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
}

func BenchmarkDoWarm(b *testing.B) {
	s := es.NewStreams(discard{}, es.Decider[int64]{Category: "sum", Evolve: func(n int64, e proto.Message) int64 {
		return n + e.(*wrapperspb.Int64Value).Value
	}}, es.Options{Key: key})
	req, event := newRequest(), []proto.Message{wrapperspb.Int64(1)}
	b.ReportAllocs()
	for b.Loop() {
		req.CommandId = uuid.NewString()
		if _, err := s.Do(b.Context(), "a", req, func(int64) ([]proto.Message, error) { return event, nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// discard takes appends and keeps nothing: what is left is the cost of Do.
type discard struct{ es.Log }

func (discard) Append(_ context.Context, _ string, expected es.Revision, events []es.NewEvent) (es.Appended, error) {
	return es.Appended{Revision: expected + es.Revision(len(events)), Position: 1}, nil
}

func (discard) Read(context.Context, string, es.Revision, func(es.Recorded) error) error { return nil }
