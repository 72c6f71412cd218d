package estest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

func TestLogInMemory(t *testing.T) {
	t.Parallel()
	LogSuite(t, func() es.Log { return NewLog() })
	shared := NewAuditedLog(t)
	LogSuite(t, func() es.Log { return shared })
}

// The deciders of these tests fold the one event of the contract of metadata.
var schemas = es.Decider[int]{Category: "schema", Evolve: func(n int, e proto.Message) int {
	switch e := e.(type) {
	case *metav1.Schema:
		return n + len(e.FileDescriptorSet)
	default:
		panic(es.Unhandled(e))
	}
}}

func schema(n int) *metav1.Schema { return &metav1.Schema{FileDescriptorSet: make([]byte, n)} }

// verdict is a testing.TB that records how a check ends.
type verdict struct {
	testing.TB
	failures []string
}

func (v *verdict) Helper() {}
func (v *verdict) Errorf(f string, args ...any) {
	v.failures = append(v.failures, fmt.Sprintf(f, args...))
}
func (v *verdict) Error(args ...any)            { v.failures = append(v.failures, fmt.Sprint(args...)) }
func (v *verdict) Fatalf(f string, args ...any) { v.Errorf(f, args...); runtime.Goexit() }
func (v *verdict) Fatal(args ...any)            { v.Error(args...); runtime.Goexit() }

// judge runs check and returns what it complained of.
func judge(t *testing.T, check func(testing.TB)) string {
	v := &verdict{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		check(v)
	}()
	<-done
	return strings.Join(v.failures, "\n")
}

func want(t *testing.T, name, complaint, part string) {
	t.Helper()
	if part == "" && complaint != "" || !strings.Contains(complaint, part) {
		t.Errorf("%s: complained %q, want %q", name, complaint, part)
	}
}

func TestScenario(t *testing.T) {
	t.Parallel()
	double := func(n int) ([]proto.Message, error) {
		if n == 0 {
			return nil, fault.Refused("schema.empty", "nothing to double")
		}
		if n > 100 {
			return nil, nil
		}
		return []proto.Message{schema(n)}, nil
	}
	Given(schemas, schema(3)).When(double).Then(t, schema(3))
	Given(schemas, schema(3)).When(double).When(double).Then(t, schema(6))
	Given(schemas, schema(3)).And(schema(98)).When(double).ThenNothing(t)
	Given(schemas).When(double).ThenRefused(t, "schema.empty")
	if n := Given(schemas, schema(3)).When(double).State(t); n != 6 {
		t.Errorf("state %d", n)
	}
	for _, c := range []struct {
		part  string
		check func(testing.TB)
	}{
		{"want Schema", func(t testing.TB) { Given(schemas, schema(3)).When(double).Then(t, schema(4)) }},
		{"not wanted", func(t testing.TB) { Given(schemas, schema(3)).When(double).ThenNothing(t) }},
		{"nothing, want", func(t testing.TB) { Given(schemas, schema(101)).When(double).Then(t, schema(1)) }},
		{"refused", func(t testing.TB) { Given(schemas).When(double).Then(t, schema(1)) }},
		{"want a refusal", func(t testing.TB) { Given(schemas, schema(3)).When(double).ThenRefused(t, "schema.empty") }},
		{"schema.empty", func(t testing.TB) { Given(schemas).When(double).ThenRefused(t, "schema.other") }},
		{"no case", func(t testing.TB) { Given(schemas, &metav1.Actor{}).When(double).Then(t) }},
	} {
		want(t, c.part, judge(t, c.check), c.part)
	}
}

func TestContractChecks(t *testing.T) {
	t.Parallel()
	file := metav1.File_waymark_meta_v1_schema_proto
	deaf := es.Decider[int]{Category: "schema", Evolve: func(_ int, e proto.Message) int { panic(es.Unhandled(e)) }}
	lenient := es.Decider[int]{Category: "schema", Evolve: func(n int, _ proto.Message) int { return n }}
	other := es.Decider[int]{Category: "other", Evolve: schemas.Evolve}
	EvolvesAll(t, file, schemas)
	want(t, "an event without case", judge(t, func(t testing.TB) { EvolvesAll(t, file, deaf) }), "waymark.meta.v1.Schema")
	want(t, "an Evolve that ignores", judge(t, func(t testing.TB) { EvolvesAll(t, file, lenient) }), "es.Unhandled")
	want(t, "a check of nothing", judge(t, func(t testing.TB) { EvolvesAll(t, file, other) }), "no event")

	dir := t.TempDir()
	path := filepath.Join(dir, "waymark.meta.v1.Schema")
	stored := func(t testing.TB) { StoredExamples(t, dir, file, schemas) }
	want(t, "no example", judge(t, stored), "has no stored example")
	writeExample(t, path, Example(t, file.Messages().ByName("Schema")))
	stored(t)
	want(t, "no case for it", judge(t, func(t testing.TB) { StoredExamples(t, dir, file, deaf) }), "no case")
	for name, data := range map[string][]byte{
		"does not decode": {0x0a, 0xff}, "reads differently": {0x0a, 0x01, 'x'}, "no longer knows": append(slices.Clone(read(t, path+".binpb")), 0x98, 0x06, 0x01),
	} {
		good := read(t, path+".binpb")
		write(t, path+".binpb", data)
		want(t, name, judge(t, stored), name)
		write(t, path+".binpb", good)
	}
	write(t, filepath.Join(dir, "waymark.meta.v1.Gone.binpb"), nil)
	want(t, "an event that is gone", judge(t, stored), "no longer declares")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// The audit must see each way in which a log can be wrong.
func TestAuditFindsDamage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	fill := func() *Log {
		log := NewLog()
		if _, err := es.WriteSchema(ctx, log); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if _, err := log.Append(ctx, "plain-1", es.Revision(i)-1, someEvents(1)); err != nil {
				t.Fatal(err)
			}
		}
		return log
	}
	if n := Audit(t, fill()); n != 5 {
		t.Fatalf("%d events audited, want 5", n)
	}
	for name, damage := range map[string]func(*Log){
		"chain":     func(l *Log) { l.all[0].Data = []byte{1} },
		"revision":  func(l *Log) { l.all[2].Revision = 7 },
		"position":  func(l *Log) { l.all[2].Position = l.all[1].Position },
		"twice":     func(l *Log) { l.all[2].ID = l.all[1].ID },
		"left out":  func(l *Log) { l.all = slices.Delete(l.all, 4, 5) },
		"two views": func(l *Log) { l.streams["plain-1"] = slices.Clone(l.streams["plain-1"])[:3] },
	} {
		log := fill()
		damage(log)
		if complaint := judge(t, func(t testing.TB) { Audit(t, log) }); complaint == "" {
			t.Errorf("%s: MISSED", name)
		}
	}
}

// Faults do what they say, and only that.
func TestFaults(t *testing.T) {
	t.Parallel()
	ctx, log := t.Context(), NewLog()
	code := func(f Faults) (string, int) {
		t.Helper()
		log.SetFaults(f)
		before := len(log.Events())
		_, err := log.Append(ctx, "a-1", es.Revision(before)-1, someEvents(1))
		var wrong *es.WrongRevision
		if errors.As(err, &wrong) {
			return "wrong revision", len(log.Events()) - before
		}
		return fault.CodeOf(err), len(log.Events()) - before
	}
	for _, c := range []struct {
		faults Faults
		code   string
		stored int
	}{
		{Faults{}, "", 1},
		{Faults{Lost: 1}, "log.unavailable", 1},
		{Faults{Refused: 1}, "log.unavailable", 0},
		{Faults{Stale: 1}, "wrong revision", 0},
		{Faults{Down: true}, "log.unavailable", 0},
		{Faults{Full: true}, "log.full", 0},
	} {
		if got, stored := code(c.faults); got != c.code || stored != c.stored {
			t.Errorf("%+v: %q and %d stored", c.faults, got, stored)
		}
	}
	log.SetFaults(Faults{Full: true})
	if read, write := log.Health(ctx); read != nil || write == nil {
		t.Errorf("full: read %v, write %v", read, write)
	}
	// A subscription stands still while the log is down, and goes on.
	log.SetFaults(Faults{Down: true})
	heard := make(chan es.Message)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- log.Subscribe(ctx, 0, es.Filter{}, func(m es.Message) error { heard <- m; return nil })
	}()
	log.SetFaults(Faults{})
	for range log.Events() {
		if m := <-heard; m.Event == nil {
			t.Error("caught up before the events")
		}
	}
	if m := <-heard; !m.CaughtUp {
		t.Error("not caught up after the events")
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Error(err)
	}
}
