// Package compat_test holds the contracts to their promises: events live for 30
// years, so their fields are only ever added, and each says how sensitive it is.
package compat_test

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	_ "waymark/proto/waymark/appointment/v1"
	_ "waymark/proto/waymark/carelead/v1"
	_ "waymark/proto/waymark/dev/v1"
	_ "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	_ "waymark/proto/waymark/pathway/v1"
	_ "waymark/proto/waymark/person/v1"
	_ "waymark/proto/waymark/plan/v1"
	_ "waymark/proto/waymark/referral/v1"
)

var update = flag.Bool("update", false, "add new lines to testdata/golden; it never removes or changes one")

// TestEveryContractIsLinked fails when a contract exists that the other tests
// here cannot see, or Go code whose contract is gone.
func TestEveryContractIsLinked(t *testing.T) {
	count := 0
	err := filepath.WalkDir("waymark", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if base, generated := strings.CutSuffix(path, ".pb.go"); generated {
			base = strings.TrimSuffix(strings.TrimSuffix(base, "_grpc"), "_vtproto")
			if _, err := os.Stat(base + ".proto"); err != nil {
				t.Errorf("%s was generated from %s.proto, which is gone: delete it", path, base)
			}
		}
		if filepath.Ext(path) == ".proto" {
			count++
			if _, err := protoregistry.GlobalFiles.FindFileByPath(filepath.ToSlash(path)); err != nil {
				t.Errorf("%s is not linked: import its Go package in compat_test.go (%v)", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count == 0 {
		t.Error("no contract found")
	}
}

// TestGolden compares every field of every event, and every value of every enum
// that an event holds, with the lines of testdata/golden.
func TestGolden(t *testing.T) {
	total := 0
	for pkg, lines := range byPackage(lines(events(linked()))) {
		path := filepath.Join("testdata", "golden", string(pkg)+".txt")
		content, err := os.ReadFile(path)
		if err != nil && !*update {
			t.Errorf("%v: go test waymark/proto -update makes it", err)
			continue
		}
		golden := strings.FieldsFunc(string(content), func(r rune) bool { return r == '\n' })
		gone, added := compare(golden, lines)
		for _, line := range gone {
			t.Errorf("%s has, and the contract has no longer:\n\t%s\nStored events of 30 years have this field. A field is never removed, renamed, renumbered or given "+
				"another type or sensitivity: mark it deprecated and add a new one beside it (proto/README.md).", path, line)
		}
		if *update && len(gone) == 0 && len(added) > 0 {
			all := append(golden, added...)
			slices.Sort(all)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(strings.Join(all, "\n")+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			added = nil
		}
		if len(added) > 0 {
			t.Errorf("new in %s; go test waymark/proto -update adds to the golden list:\n\t%s", pkg, strings.Join(added, "\n\t"))
		}
		total += len(lines)
	}
	if total == 0 {
		t.Error("no event found")
	}
	t.Logf("%d lines", total)
}

// TestGoldenFilesHaveContracts fails when all events of a package vanish.
func TestGoldenFilesHaveContracts(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	now := byPackage(lines(events(linked())))
	for _, f := range files {
		pkg := strings.TrimSuffix(filepath.Base(f), ".txt")
		if now[protoreflect.FullName(pkg)] == nil {
			t.Errorf("%s lists events and package %s has none any more", f, pkg)
		}
	}
}

func TestEveryEventFieldHasASensitivity(t *testing.T) {
	for _, problem := range bare(events(linked())) {
		t.Error(problem)
	}
}

// TestNHSNumberIsInOneEventTypeOnly: all else refers to ids, so that one key, one
// stream kind and one service guard the number.
func TestNHSNumberIsInOneEventTypeOnly(t *testing.T) {
	holders, problems := nhsNumbers(events(linked()))
	for _, p := range problems {
		t.Error(p)
	}
	if len(holders) > 1 {
		t.Errorf("the NHS number is in %d event types, %v: refer to the person's id instead", len(holders), holders)
	}
	for _, h := range holders {
		if !strings.HasPrefix(string(h), "waymark.person.") {
			t.Errorf("the NHS number is in %s; only an event of person may hold it", h)
		}
	}
	t.Logf("the NHS number is in %v", holders)
}

// TestPlanted is the control of the tests above: each must see its violation.
func TestPlanted(t *testing.T) {
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, s metav1.Sensitivity) *descriptorpb.FieldDescriptorProto {
		options := &descriptorpb.FieldOptions{}
		if s != metav1.Sensitivity_SENSITIVITY_UNSPECIFIED {
			proto.SetExtension(options, metav1.E_Sensitivity, s)
		}
		return &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &kind, Options: options,
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), JsonName: &name}
	}
	const text, whole, nested = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_INT64, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	const pseudonymous, personal = metav1.Sensitivity_SENSITIVITY_PSEUDONYMOUS, metav1.Sensitivity_SENSITIVITY_PERSONAL
	build := func(pkg string, fields ...*descriptorpb.FieldDescriptorProto) []protoreflect.MessageDescriptor {
		part := &descriptorpb.DescriptorProto{Name: proto.String("Part"), Field: []*descriptorpb.FieldDescriptorProto{field("bare", 1, text, 0)}}
		marked := &descriptorpb.MessageOptions{}
		proto.SetExtension(marked, metav1.E_Category, "planted")
		happened := &descriptorpb.DescriptorProto{Name: proto.String("Happened"), Field: fields, Options: marked}
		file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{Name: proto.String(pkg + ".proto"), Package: &pkg, Syntax: proto.String("proto3"),
			MessageType: []*descriptorpb.DescriptorProto{part, happened}}, protoregistry.GlobalFiles)
		if err != nil {
			t.Fatal(err)
		}
		return events([]protoreflect.FileDescriptor{file})
	}
	inside := field("inside", 2, nested, pseudonymous)
	inside.TypeName = proto.String(".waymark.planted.v1.Part")
	const pkg = "waymark.planted.v1"
	golden := lines(build(pkg, field("id", 1, text, pseudonymous)))

	for name, changed := range map[string][]*descriptorpb.FieldDescriptorProto{
		"removed":           {},
		"renamed":           {field("other", 1, text, pseudonymous)},
		"renumbered":        {field("id", 2, text, pseudonymous)},
		"other type":        {field("id", 1, whole, pseudonymous)},
		"other sensitivity": {field("id", 1, text, personal)},
	} {
		if gone, _ := compare(golden, lines(build(pkg, changed...))); len(gone) != 1 {
			t.Errorf("a field that was %s: found %q", name, gone)
		}
	}
	if gone, added := compare(golden, lines(build(pkg, field("id", 1, text, pseudonymous), field("more", 2, text, personal)))); len(gone) != 0 || len(added) != 1 {
		t.Errorf("an added field: gone %q, added %q", gone, added)
	}
	if found := bare(build(pkg, field("id", 1, text, 0))); len(found) != 1 {
		t.Errorf("a field without sensitivity: found %q", found)
	}
	if found := bare(build(pkg, inside)); len(found) != 1 {
		t.Errorf("a nested field without sensitivity: found %q", found)
	}
	if holders, problems := nhsNumbers(build(pkg, field("nhs_number", 1, text, pseudonymous))); len(holders) != 1 || len(problems) != 1 {
		t.Errorf("an NHS number that is not PERSONAL: holders %v, problems %q", holders, problems)
	}
}

// linked returns every file of Waymark that is linked into this test.
func linked() (files []protoreflect.FileDescriptor) {
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(string(f.Package()), "waymark.") {
			files = append(files, f)
		}
		return true
	})
	return files
}

// events returns the messages marked with a category.
func events(files []protoreflect.FileDescriptor) (found []protoreflect.MessageDescriptor) {
	for _, f := range files {
		for i := range f.Messages().Len() {
			m := f.Messages().Get(i)
			if proto.GetExtension(m.Options(), metav1.E_Category).(string) != "" {
				found = append(found, m)
			}
		}
	}
	return found
}

// visit calls each for every field that m holds, also inside messages of ours.
func visit(m protoreflect.MessageDescriptor, each func(protoreflect.FieldDescriptor)) {
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			each(f)
			if f.IsMap() {
				f = f.MapValue()
			}
			if f.Message() != nil && strings.HasPrefix(string(f.Message().FullName()), "waymark.") {
				walk(f.Message())
			}
		}
	}
	walk(m)
}

// lines describes events as the golden list does, sorted.
func lines(events []protoreflect.MessageDescriptor) []string {
	all := map[string]bool{}
	for _, m := range events {
		all[fmt.Sprintf("%s event %s", m.FullName(), proto.GetExtension(m.Options(), metav1.E_Category))] = true
		visit(m, func(f protoreflect.FieldDescriptor) {
			all[fmt.Sprintf("%s %d %s %s", f.FullName(), f.Number(), kindOf(f), sensitivityOf(f))] = true
			if e := f.Enum(); e != nil {
				for i := range e.Values().Len() {
					v := e.Values().Get(i)
					all[fmt.Sprintf("%s.%s %d value", e.FullName(), v.Name(), v.Number())] = true
				}
			}
		})
	}
	return slices.Sorted(maps.Keys(all))
}

func kindOf(f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	switch {
	case f.IsMap():
		return "map<" + kindOf(f.MapKey()) + "," + kindOf(f.MapValue()) + ">"
	case f.Enum() != nil:
		kind = string(f.Enum().FullName())
	case f.Message() != nil:
		kind = string(f.Message().FullName())
	}
	switch {
	case f.IsList():
		return "repeated:" + kind
	case f.HasOptionalKeyword():
		return "optional:" + kind
	case f.ContainingOneof() != nil:
		return string(f.ContainingOneof().Name()) + ":" + kind
	}
	return kind
}

func sensitivityOf(f protoreflect.FieldDescriptor) string {
	s := proto.GetExtension(f.Options(), metav1.E_Sensitivity).(metav1.Sensitivity)
	return strings.TrimPrefix(s.String(), "SENSITIVITY_")
}

// byPackage groups lines by the package of what they are about.
func byPackage(lines []string) map[protoreflect.FullName][]string {
	grouped := map[protoreflect.FullName][]string{}
	for _, line := range lines {
		parts := strings.SplitN(line, ".", 4) // waymark.person.v1.Rest
		pkg := protoreflect.FullName(strings.Join(parts[:3], "."))
		grouped[pkg] = append(grouped[pkg], line)
	}
	return grouped
}

// compare returns the golden lines that are gone and the lines that are new.
func compare(golden, now []string) (gone, added []string) {
	for _, line := range golden {
		if !slices.Contains(now, line) {
			gone = append(gone, line)
		}
	}
	for _, line := range now {
		if !slices.Contains(golden, line) {
			added = append(added, line)
		}
	}
	return gone, added
}

// bare returns a sentence for each field without a sensitivity.
func bare(events []protoreflect.MessageDescriptor) (problems []string) {
	for _, m := range events {
		visit(m, func(f protoreflect.FieldDescriptor) {
			if sensitivityOf(f) == "UNSPECIFIED" {
				problems = append(problems, fmt.Sprintf("%s, in event %s, has no (waymark.meta.v1.sensitivity): the bus cannot know whether to publish it", f.FullName(), m.Name()))
			}
		})
	}
	return problems
}

// nhsNumbers returns the events that hold an NHS number, by the field's name, and
// a sentence for each such field that is not PERSONAL.
func nhsNumbers(events []protoreflect.MessageDescriptor) (holders []protoreflect.FullName, problems []string) {
	for _, m := range events {
		visit(m, func(f protoreflect.FieldDescriptor) {
			name := strings.ReplaceAll(string(f.Name()), "_", "")
			if !strings.Contains(name, "nhsnumber") || f.Kind() != protoreflect.StringKind {
				return
			}
			if !slices.Contains(holders, m.FullName()) {
				holders = append(holders, m.FullName())
			}
			if sensitivityOf(f) != "PERSONAL" {
				problems = append(problems, fmt.Sprintf("%s, in event %s, is %s: an NHS number is PERSONAL", f.FullName(), m.Name(), sensitivityOf(f)))
			}
		})
	}
	return holders, problems
}
