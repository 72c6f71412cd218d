package main

import (
	"fmt"
	"slices"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// method is one that the linked contracts declare.
type method struct {
	desc  protoreflect.MethodDescriptor
	short string // referral.AcceptReferral
}

// path is what gRPC calls it.
func (m method) path() string {
	return "/" + string(m.desc.Parent().FullName()) + "/" + string(m.desc.Name())
}

// contract lists every method of ours, and of gRPC health, by short name. The
// contracts are those that this binary was built with, so that no server is
// needed to ask.
func contract() (methods []method) {
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		pkg := strings.Split(string(f.Package()), ".")
		if pkg[0] != "waymark" && f.Package() != "grpc.health.v1" {
			return true
		}
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				desc := service.Methods().Get(j)
				methods = append(methods, method{desc, pkg[1] + "." + string(desc.Name())})
			}
		}
		return true
	})
	count := map[string]int{}
	for _, m := range methods {
		count[m.short]++
	}
	for i, m := range methods { // two services of one context may share a verb
		if count[m.short] > 1 {
			context, _, _ := strings.Cut(m.short, ".")
			methods[i].short = context + "." + string(m.desc.Parent().Name()) + "." + string(m.desc.Name())
		}
	}
	slices.SortFunc(methods, func(a, b method) int { return strings.Compare(a.short, b.short) })
	return methods
}

// find returns the method of a name: short, full with / or ., or the verb alone
// where only one has it. Case does not matter.
func find(name string) (method, error) {
	want := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "/"), "/", "."))
	var verb, like []method
	for _, m := range contract() {
		switch {
		case strings.ToLower(m.short) == want, strings.ToLower(string(m.desc.FullName())) == want:
			return m, nil
		case strings.ToLower(string(m.desc.Name())) == want:
			verb = append(verb, m)
		case strings.Contains(strings.ToLower(m.short), want[strings.LastIndex(want, ".")+1:]):
			like = append(like, m)
		}
	}
	if len(verb) == 1 {
		return verb[0], nil
	}
	next := "waymark call --list"
	if near := append(verb, like...); len(near) > 0 && len(near) <= 5 {
		var names []string
		for _, m := range near {
			names = append(names, m.short)
		}
		next = "did you mean " + strings.Join(names, " or ") + "?"
	}
	return method{}, &coded{fmt.Errorf("no method is called %q", name), exitUsage, next}
}

func (c *cli) listMethods(prefix string) error {
	type line struct {
		Method  string `json:"method"`
		Full    string `json:"full"`
		Request string `json:"request"`
		Reply   string `json:"reply"`
	}
	var lines []line
	for _, m := range contract() {
		if strings.HasPrefix(strings.ToLower(m.short), strings.ToLower(prefix)) {
			lines = append(lines, line{m.short, m.path(), string(m.desc.Input().Name()), string(m.desc.Output().Name())})
		}
	}
	if len(lines) == 0 {
		return notFound("waymark call --list", "no method begins with %q", prefix)
	}
	return list(c, []string{"METHOD", "REQUEST", "REPLY"}, lines, func(l line) []string { return []string{l.Method, l.Request, l.Reply} })
}

// describe shows a method, or a message or enum by its name.
func (c *cli) describe(name string) error {
	m, err := find(name)
	if err == nil {
		c.say("%s", m.path())
		return c.describeMessages(m.desc.Input(), m.desc.Output())
	}
	d, lookup := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if lookup != nil {
		return err
	}
	switch d := d.(type) {
	case protoreflect.MessageDescriptor:
		return c.describeMessages(d)
	default:
		return err
	}
}

type fieldLine struct {
	Message string   `json:"message"`
	Field   string   `json:"field"`
	Type    string   `json:"type"`
	Rules   string   `json:"rules,omitempty"`
	Values  []string `json:"values,omitempty"`
}

// describeMessages lists the fields of messages and of the messages inside them,
// each message once.
func (c *cli) describeMessages(messages ...protoreflect.MessageDescriptor) error {
	var lines []fieldLine
	seen := map[protoreflect.FullName]bool{}
	for len(messages) > 0 {
		m := messages[0]
		messages = messages[1:]
		if seen[m.FullName()] || !strings.HasPrefix(string(m.FullName()), "waymark.") && len(seen) > 0 {
			continue
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			line := fieldLine{string(m.Name()), string(f.Name()), typeOf(f), rulesOf(f), nil}
			if e := f.Enum(); e != nil {
				for j := range e.Values().Len() {
					if e.Values().Get(j).Number() != 0 {
						line.Values = append(line.Values, string(e.Values().Get(j).Name()))
					}
				}
			}
			lines = append(lines, line)
			if f.Message() != nil && !f.IsMap() {
				messages = append(messages, f.Message())
			}
		}
		if m.Fields().Len() == 0 {
			lines = append(lines, fieldLine{Message: string(m.Name()), Field: "-"})
		}
	}
	last := ""
	return list(c, []string{"MESSAGE", "FIELD", "TYPE", "RULES AND VALUES"}, lines, func(l fieldLine) []string {
		message := l.Message
		if message == last {
			message = ""
		}
		last = l.Message
		return []string{message, l.Field, l.Type, strings.TrimSpace(l.Rules + " " + strings.Join(l.Values, " "))}
	})
}

func typeOf(f protoreflect.FieldDescriptor) string {
	name := f.Kind().String()
	switch {
	case f.IsMap():
		return "map<" + typeOf(f.MapKey()) + "," + typeOf(f.MapValue()) + ">"
	case f.Enum() != nil:
		name = string(f.Enum().Name())
	case f.Message() != nil:
		name = string(f.Message().Name())
	}
	if f.IsList() {
		return "repeated " + name
	}
	return name
}

// rulesOf prints the validation rules of a field as the contract writes them.
func rulesOf(f protoreflect.FieldDescriptor) string {
	rules, ok := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
	if !ok || rules == nil {
		return ""
	}
	text := prototext.MarshalOptions{}.Format(rules)
	text = strings.ReplaceAll(text, "[waymark.meta.v1.", "[")
	return strings.Join(strings.Fields(text), " ")
}
