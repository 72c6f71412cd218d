package estest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
)

var update = flag.Bool("update", false, "write the examples of events that have none; never changes one that is there")

// events returns the messages of file that are events of the category. None
// fails the test: a check of nothing must not pass.
func events(t testing.TB, file protoreflect.FileDescriptor, category string) (of []protoreflect.MessageDescriptor) {
	t.Helper()
	for i := range file.Messages().Len() {
		m := file.Messages().Get(i)
		if proto.GetExtension(m.Options(), metav1.E_Category).(string) == category {
			of = append(of, m)
		}
	}
	if len(of) == 0 {
		t.Fatalf("%s declares no event of category %q", file.Path(), category)
	}
	return of
}

// EvolvesAll fails for each event of the decider's category in file that its
// Evolve has no case for. Evolve's default branch must panic with es.Unhandled,
// which is checked too.
func EvolvesAll[S any](t testing.TB, file protoreflect.FileDescriptor, decider es.Decider[S]) {
	t.Helper()
	for _, m := range events(t, file, decider.Category) {
		var zero S
		if _, err := es.TryEvolve(decider.Evolve, zero, Example(t, m)); err != nil {
			t.Errorf("%s: %v", m.FullName(), err)
		}
	}
	// An event that nobody declares: metadata of the contract itself.
	var zero S
	if _, err := es.TryEvolve(decider.Evolve, zero, proto.Message(&metav1.Actor{})); err == nil {
		t.Errorf("Evolve of %q passes over unknown events: its default branch must panic with es.Unhandled", decider.Category)
	}
}

func newMessage(t testing.TB, m protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(m.FullName())
	if err != nil {
		t.Fatalf("%s: %v", m.FullName(), err)
	}
	return mt.New().Interface()
}

// StoredExamples holds the decider to the events that were ever written. For
// each event type of its category, dir (usually testdata/events) keeps
// <full name>.binpb as an earlier release stored it and <full name>.json as it
// reads. Each must decode to what it reads, and evolve; an event type without
// example fails, and so does an example whose type is gone. go test -update
// writes the missing ones.
func StoredExamples[S any](t testing.TB, dir string, file protoreflect.FileDescriptor, decider es.Decider[S]) {
	t.Helper()
	declared := make(map[string]bool)
	for _, m := range events(t, file, decider.Category) {
		name := string(m.FullName())
		declared[name] = true
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path + ".binpb")
		if os.IsNotExist(err) && *update {
			writeExample(t, path, Example(t, m))
			data, err = os.ReadFile(path + ".binpb")
		}
		if err != nil {
			t.Errorf("%s has no stored example: run go test -update and commit it (%v)", name, err)
			continue
		}
		stored := newMessage(t, m)
		if err := proto.Unmarshal(data, stored); err != nil {
			t.Errorf("%s: the stored example does not decode: %v", name, err)
			continue
		}
		want, err := os.ReadFile(path + ".json")
		if err != nil {
			t.Error(err)
			continue
		}
		if got := readable(t, stored); !bytes.Equal(got, want) {
			t.Errorf("%s: the stored example reads differently now.\n got %s\nwant %s", name, got, want)
		}
		if len(stored.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("%s: the stored example has fields that the contract no longer knows", name)
		}
		var zero S
		if _, err := es.TryEvolve(decider.Evolve, zero, stored); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	prefix := string(file.Package()) + "."
	kept, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range kept {
		name := strings.TrimSuffix(strings.TrimSuffix(f.Name(), ".binpb"), ".json")
		if strings.HasPrefix(name, prefix) && !declared[name] && file.Messages().ByName(protoreflect.FullName(name).Name()) == nil {
			t.Errorf("%s: events of this type are stored for 30 years, but the contract no longer declares it", name)
		}
	}
}

func writeExample(t testing.TB, path string, m proto.Message) {
	t.Helper()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	for suffix, content := range map[string][]byte{".binpb": data, ".json": readable(t, m)} {
		if err := os.WriteFile(path+suffix, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// readable is JSON with fixed spaces.
func readable(t testing.TB, m proto.Message) []byte {
	t.Helper()
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		t.Fatal(err)
	}
	out.WriteByte('\n')
	return out.Bytes()
}

// Example returns a message of the type with every field filled, the same each
// time: enough to see that encoding, folding and publishing keep each field.
// Strings fit their field's name where the name says what they are.
func Example(t testing.TB, m protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	e := newMessage(t, m)
	fill(e.ProtoReflect(), 0)
	return e
}

// maxDepth ends messages that hold themselves.
const maxDepth = 4

func fill(m protoreflect.Message, depth int) {
	switch m.Descriptor().FullName() {
	case "google.protobuf.Timestamp":
		m.Set(m.Descriptor().Fields().ByName("seconds"), protoreflect.ValueOfInt64(1_772_454_600)) // 2026-03-02T12:30:00Z
		return
	case "google.protobuf.Duration":
		m.Set(m.Descriptor().Fields().ByName("seconds"), protoreflect.ValueOfInt64(86_400))
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() && o.Fields().Get(0) != f {
			continue // one member can be set: the first
		}
		switch {
		case f.IsMap():
			entries := m.Mutable(f).Map()
			value := entries.NewValue()
			if f.MapValue().Message() != nil {
				fill(value.Message(), depth+1)
			} else {
				value = scalar(f.MapValue())
			}
			entries.Set(scalar(f.MapKey()).MapKey(), value)
		case f.Message() != nil && depth >= maxDepth:
		case f.IsList() && f.Message() != nil:
			fill(m.Mutable(f).List().AppendMutable().Message(), depth+1)
		case f.IsList():
			m.Mutable(f).List().Append(scalar(f))
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), depth+1)
		default:
			m.Set(f, scalar(f))
		}
	}
}

func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(min(1, f.Enum().Values().Len()-1)).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(7)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(7)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(7)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(7)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(0.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(0.5)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("example"))
	}
	name := string(f.Name())
	for _, s := range []struct{ last, value string }{ // the last words of the name
		{"nhs_number", "9990000018"},
		{"on", "2026-03-02"},
		{"date", "2026-03-02"},
		{"birth", "1950-07-14"},
		{"ods", "RJ1"},
		{"organisation", "RJ1"},
		{"tenant", "RJ1"},
		{"id", "6f2a9c1e-52c8-4b7e-9d15-0c3b8a7e4f10"},
	} {
		if name == s.last || strings.HasSuffix(name, "_"+s.last) {
			return protoreflect.ValueOfString(s.value)
		}
	}
	return protoreflect.ValueOfString("example " + name)
}
