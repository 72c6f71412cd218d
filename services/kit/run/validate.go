package run

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"waymark/services/kit/fault"
)

// mostViolations bounds an answer, which travels in HTTP/2 headers.
const mostViolations = 16

// compileRules compiles the rules of every request of server. A rule that does
// not compile is an error now, not in the first call that meets it.
func compileRules(server *grpc.Server) (protovalidate.Validator, error) {
	seen := map[protoreflect.FullName]protoreflect.MessageDescriptor{}
	for name := range server.GetServiceInfo() {
		if exempt("/" + name) {
			continue
		}
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
		methods := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			reach(methods.Get(i).Input(), seen)
		}
	}
	var all []protoreflect.MessageDescriptor
	for _, d := range seen {
		all = append(all, d)
	}
	v, err := protovalidate.New(protovalidate.WithMessageDescriptors(all...), protovalidate.WithDisableLazy())
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		var broken *protovalidate.CompilationError
		if err := v.Validate(dynamicpb.NewMessage(d)); errors.As(err, &broken) {
			return nil, fmt.Errorf("rules of %s: %w", d.FullName(), err)
		}
	}
	return v, nil
}

// reach adds message and all messages inside it to seen.
func reach(message protoreflect.MessageDescriptor, seen map[protoreflect.FullName]protoreflect.MessageDescriptor) {
	if seen[message.FullName()] != nil {
		return
	}
	seen[message.FullName()] = message
	for i := range message.Fields().Len() {
		if inner := message.Fields().Get(i).Message(); inner != nil {
			reach(inner, seen)
		}
	}
}

// invalid makes a refusal of a validation error that names fields and rules and
// never holds a value of the request, map keys included.
func invalid(err error) error {
	var violations *protovalidate.ValidationError
	if !errors.As(err, &violations) {
		return err
	}
	var wrong []fault.Field
	for _, v := range violations.Violations[:min(len(violations.Violations), mostViolations)] {
		wrong = append(wrong, fault.Field{Path: path(v.Proto.GetField()), Text: text(v)})
	}
	return fault.InvalidFields("request.invalid", wrong...)
}

// path writes a field path as protovalidate does, but without string keys.
func path(p *validate.FieldPath) string {
	var b strings.Builder
	for i, e := range p.GetElements() {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(e.GetFieldName())
		switch e.WhichSubscript() {
		case validate.FieldPathElement_Index_case:
			b.WriteString("[" + strconv.FormatUint(e.GetIndex(), 10) + "]")
		case validate.FieldPathElement_BoolKey_case, validate.FieldPathElement_IntKey_case,
			validate.FieldPathElement_UintKey_case, validate.FieldPathElement_StringKey_case:
			b.WriteString("[...]")
		}
	}
	if b.Len() == 0 {
		return "request"
	}
	return b.String()
}

// text is the message of the rule, or its id where the message repeats the value.
func text(v *protovalidate.Violation) string {
	message := v.Proto.GetMessage()
	if message == "" || v.FieldValue.IsValid() && repeats(message, v.FieldValue.String()) {
		return "breaks rule " + v.Proto.GetRuleId()
	}
	return message
}

func repeats(message, value string) bool {
	return len(value) > 1 && strings.Contains(message, value)
}
