package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// segment is one step of a path: a field, then perhaps [3] or [kind=TO_LEAD].
var segment = regexp.MustCompile(`^([a-z][a-z0-9_]*)(?:\[(?:(\d+)|([a-z][a-z0-9_]*)=([^\]]*))\])?$`)

type step struct {
	field      string
	index      int // -1 for none
	key, value string
}

func parsePath(path string) (steps []step, err error) {
	for part := range strings.SplitSeq(path, ".") {
		m := segment.FindStringSubmatch(part)
		if m == nil {
			return nil, fmt.Errorf("%q is no path of fields", path)
		}
		s := step{field: m[1], index: -1, key: m[3], value: m[4]}
		if m[2] != "" {
			s.index, _ = strconv.Atoi(m[2])
		}
		steps = append(steps, s)
	}
	return steps, nil
}

func fieldOf(m protoreflect.Message, name string) (protoreflect.FieldDescriptor, error) {
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if f == nil {
		var all []string
		for i := range m.Descriptor().Fields().Len() {
			all = append(all, string(m.Descriptor().Fields().Get(i).Name()))
		}
		return nil, fmt.Errorf("%s has no field %s; it has %s", m.Descriptor().Name(), name, strings.Join(all, ", "))
	}
	return f, nil
}

// Set sets the field at path from text. Parties are filled by name; a list of
// values is written with commas; an element of a list of messages by its index.
func Set(msg proto.Message, path, text string, parties map[string]Party) error {
	steps, err := parsePath(path)
	if err != nil {
		return err
	}
	m := msg.ProtoReflect()
	for i, s := range steps {
		f, err := fieldOf(m, s.field)
		if err != nil {
			return err
		}
		last := i == len(steps)-1
		switch {
		case f.IsMap() || s.key != "":
			return fmt.Errorf("%s cannot be set so", path)
		case f.IsList() && f.Message() != nil:
			list := m.Mutable(f).List()
			if s.index < 0 || s.index > list.Len() {
				return fmt.Errorf("%s is a list of %d: say which, as %s[0]", s.field, list.Len(), s.field)
			}
			if s.index == list.Len() {
				list.AppendMutable()
			}
			m = list.Get(s.index).Message()
			if last {
				return fill(m, text, parties)
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for one := range strings.SplitSeq(text, ",") {
				v, err := parse(f, strings.TrimSpace(one))
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				list.Append(v)
			}
			return nil
		case f.Message() != nil:
			m = m.Mutable(f).Message()
			if last {
				return fill(m, text, parties)
			}
		default:
			if !last {
				return fmt.Errorf("%s has no fields below it", s.field)
			}
			v, err := parse(f, text)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			m.Set(f, v)
		}
	}
	return nil
}

// fill makes a message of text: a time, or a party that the story names.
func fill(m protoreflect.Message, text string, parties map[string]Party) error {
	if t, ok := m.Interface().(*timestamppb.Timestamp); ok {
		at, err := ParseTime(text)
		if err != nil {
			return err
		}
		proto.Merge(t, timestamppb.New(at))
		return nil
	}
	p, ok := parties[text]
	if !ok {
		return fmt.Errorf("%q is nobody whom this story names, and %s is no time", text, m.Descriptor().Name())
	}
	for name, value := range map[string]string{"kind": p.Kind, "id": p.Code, "code": p.Code, "name": p.Name, "organisation": p.Organisation,
		"sds_user_id": p.User, "user": p.User, "role_code": p.Role} {
		f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		if f == nil || value == "" {
			continue
		}
		v, err := parse(f, value)
		if err != nil {
			return err
		}
		m.Set(f, v)
	}
	return nil
}

// parse reads one value. An enum may be given without what all its names begin with.
func parse(f protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	case protoreflect.BoolKind:
		switch text {
		case "yes", "no":
			return protoreflect.ValueOfBool(text == "yes"), nil
		}
		return protoreflect.Value{}, fmt.Errorf("%q is neither yes nor no", text)
	case protoreflect.EnumKind:
		var names []string
		values := f.Enum().Values()
		for i := range values.Len() {
			v := values.Get(i)
			if ends(string(v.Name()), text) {
				return protoreflect.ValueOfEnum(v.Number()), nil
			}
			names = append(names, string(v.Name()))
		}
		return protoreflect.Value{}, fmt.Errorf("%q is none of %s", text, strings.Join(names, ", "))
	case protoreflect.DoubleKind:
		n, err := strconv.ParseFloat(text, 64)
		return protoreflect.ValueOfFloat64(n), err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return protoreflect.Value{}, fmt.Errorf("%q is no number", text)
	}
	switch f.Kind() {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n)), nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n)), nil
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(n), nil
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n)), nil
	}
	return protoreflect.Value{}, fmt.Errorf("fields of kind %s cannot be set", f.Kind())
}

// Get shows the field at path as a story writes it; "none" where it is absent
// or empty.
func Get(msg proto.Message, path string) (string, error) {
	steps, err := parsePath(path)
	if err != nil {
		return "", err
	}
	m := msg.ProtoReflect()
	for i, s := range steps {
		f, err := fieldOf(m, s.field)
		if err != nil {
			return "", err
		}
		last := i == len(steps)-1
		if s.index >= 0 || s.key != "" {
			if !f.IsList() {
				return "", fmt.Errorf("%s is no list", s.field)
			}
			list := m.Get(f).List()
			at, err := find(list, f, s)
			if err != nil || at < 0 {
				return "none", err
			}
			if f.Message() == nil {
				return show(f, list.Get(at)), nil
			}
			m = list.Get(at).Message()
			if last {
				return showMessage(m), nil
			}
			continue
		}
		if f.IsList() {
			var all []string
			list := m.Get(f).List()
			for j := range list.Len() {
				all = append(all, show(f, list.Get(j)))
			}
			if len(all) == 0 {
				return "none", nil
			}
			return strings.Join(all, ", "), nil
		}
		if last {
			if !m.Has(f) && (f.HasPresence() || f.Kind() == protoreflect.StringKind || f.Kind() == protoreflect.EnumKind) {
				return "none", nil
			}
			return show(f, m.Get(f)), nil
		}
		if f.Message() == nil {
			return "", fmt.Errorf("%s has no fields below it", s.field)
		}
		if !m.Has(f) {
			return "none", nil
		}
		m = m.Get(f).Message()
	}
	return "", fmt.Errorf("%q is empty", path)
}

// find returns where the element is, -1 for nowhere.
func find(list protoreflect.List, f protoreflect.FieldDescriptor, s step) (int, error) {
	if s.key == "" {
		if s.index >= list.Len() {
			return -1, nil
		}
		return s.index, nil
	}
	if f.Message() == nil {
		return -1, fmt.Errorf("%s is a list of values", s.field)
	}
	for i := range list.Len() {
		seen, err := Get(list.Get(i).Message().Interface(), s.key)
		if err != nil {
			return -1, err
		}
		if Agree(s.value, seen) {
			return i, nil
		}
	}
	return -1, nil
}

func show(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch f.Kind() {
	case protoreflect.BoolKind:
		if v.Bool() {
			return "yes"
		}
		return "no"
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			return string(d.Name())
		}
		return fmt.Sprint(v.Enum())
	case protoreflect.MessageKind:
		return showMessage(v.Message())
	}
	return v.String()
}

// showMessage is a time, or what people call a thing, or its JSON.
func showMessage(m protoreflect.Message) string {
	if t, ok := m.Interface().(*timestamppb.Timestamp); ok {
		return showTime(t.AsTime())
	}
	for _, name := range []string{"name", "code"} {
		if f := m.Descriptor().Fields().ByName(protoreflect.Name(name)); f != nil && m.Has(f) {
			return show(f, m.Get(f))
		}
	}
	return protojson.MarshalOptions{UseProtoNames: true}.Format(m.Interface())
}

func showTime(t time.Time) string { return t.In(london()).Format("2006-01-02 15:04") }

// Agree reports whether what was seen is what a story wants.
func Agree(want, seen string) bool { return want == seen || ends(seen, want) }

// ends reports whether an enum's name is text, or ends with it after what the
// names of one enum begin with: HANDOVER_STATE_OFFERED ends with OFFERED.
func ends(name, text string) bool {
	return name == text || text != "" && text == strings.ToUpper(text) && strings.Contains(name, "_") && name == strings.ToUpper(name) && strings.HasSuffix(name, "_"+text)
}
