package main

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestVerbsFitTheContracts: every argument, flag and preset of every verb is a
// field of its request, and the example gives what is needed.
func TestVerbsFitTheContracts(t *testing.T) {
	t.Parallel()
	root := newCLI(nil, nil, nil, nil).root()
	for _, v := range verbs {
		m, err := find(v.method)
		if err != nil {
			t.Errorf("%s %s: %v", v.noun, v.name, err)
			continue
		}
		var paths []string
		for _, arg := range strings.Fields(v.args) {
			paths = append(paths, strings.TrimSuffix(arg, "?"))
		}
		for _, pair := range strings.Fields(v.flags) {
			name, path, _ := strings.Cut(pair, "=")
			paths = append(paths, strings.TrimSuffix(strings.TrimRight(path, "*^"), "[]"))
			if must, ok := strings.CutSuffix(name, "!"); ok && !strings.Contains(v.example, "--"+must) {
				t.Errorf("%s %s: its example lacks --%s", v.noun, v.name, must)
			}
		}
		for _, pair := range strings.Fields(v.preset) {
			path, value, _ := strings.Cut(pair, "=")
			paths = append(paths, path)
			if err := assign(map[string]any{}, m.desc.Input(), path, value); err != nil {
				t.Errorf("%s %s: %v", v.noun, v.name, err)
			}
			if e := enumAt(m.desc.Input(), path); e != nil && !strings.HasPrefix(value, "[") && e.Values().ByName(protoreflect.Name(enumValue(e, value))) == nil {
				t.Errorf("%s %s: %s is no %s", v.noun, v.name, value, e.Name())
			}
		}
		for _, path := range paths {
			if !isField(m.desc.Input(), path) {
				t.Errorf("%s %s: %s has no field %s", v.noun, v.name, m.desc.Input().Name(), path)
			}
		}
		if cmd, _, err := root.Find([]string{v.noun, v.name}); err != nil || cmd.Name() != v.name {
			t.Errorf("%s %s is no command: %v", v.noun, v.name, err)
		}
	}
	for _, v := range verbs {
		m, err := find(v.method)
		if err != nil || columns[v.noun+" "+v.name] == "" {
			continue
		}
		for i := range m.desc.Output().Fields().Len() {
			if f := m.desc.Output().Fields().Get(i); f.IsList() && f.Message() != nil {
				for _, col := range columnsOf(columns[v.noun+" "+v.name]) {
					for _, path := range col.paths {
						if !isField(f.Message(), path) {
							t.Errorf("%s %s: %s has no field %s", v.noun, v.name, f.Message().Name(), path)
						}
					}
				}
				break
			}
		}
	}
	t.Logf("%d verbs", len(verbs))
}

func isField(m protoreflect.MessageDescriptor, path string) bool {
	name, rest, nested := strings.Cut(path, ".")
	f := m.Fields().ByName(protoreflect.Name(name))
	if f == nil || nested && f.Message() == nil {
		return false
	}
	return !nested || isField(f.Message(), rest)
}

func enumAt(m protoreflect.MessageDescriptor, path string) protoreflect.EnumDescriptor {
	name, rest, nested := strings.Cut(path, ".")
	f := m.Fields().ByName(protoreflect.Name(name))
	if f != nil && nested && f.Message() != nil {
		return enumAt(f.Message(), rest)
	}
	if f == nil {
		return nil
	}
	return f.Enum()
}
