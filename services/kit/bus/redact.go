package bus

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	metav1 "waymark/proto/waymark/meta/v1"
)

// plan says what to do with the fields of one message type, compiled once. The
// default is to drop: a field without a sensitivity never leaves the log.
type plan struct {
	drop  []protoreflect.FieldDescriptor
	enter []step
}

type step struct {
	field protoreflect.FieldDescriptor
	plan  *plan
}

// planFor compiles the plan of a type, and of the types inside it.
func (m *mapper) planFor(d protoreflect.MessageDescriptor) *plan {
	if p := m.plans[d.FullName()]; p != nil {
		return p
	}
	p := &plan{}
	m.plans[d.FullName()] = p // before the fields: a type may hold itself
	fields := d.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		value := f
		if f.IsMap() {
			value = f.MapValue()
		}
		switch inner := value.Message(); {
		case !public(f):
			p.drop = append(p.drop, f)
		case inner == nil || whole[inner.FullName()]:
		default:
			p.enter = append(p.enter, step{f, m.planFor(inner)})
		}
	}
	return p
}

// whole are the message types that are values: their parts have no sensitivity
// of their own.
var whole = map[protoreflect.FullName]bool{
	"google.protobuf.Timestamp":   true,
	"google.protobuf.Duration":    true,
	"google.protobuf.BoolValue":   true,
	"google.protobuf.Int32Value":  true,
	"google.protobuf.Int64Value":  true,
	"google.protobuf.UInt32Value": true,
	"google.protobuf.UInt64Value": true,
	"google.protobuf.FloatValue":  true,
	"google.protobuf.DoubleValue": true,
	"google.protobuf.StringValue": true,
}

// public reports whether the field says that it may be published.
func public(f protoreflect.FieldDescriptor) bool {
	opts, ok := f.Options().(*descriptorpb.FieldOptions)
	if !ok || !proto.HasExtension(opts, metav1.E_Sensitivity) {
		return false
	}
	switch proto.GetExtension(opts, metav1.E_Sensitivity).(metav1.Sensitivity) {
	case metav1.Sensitivity_SENSITIVITY_PUBLIC, metav1.Sensitivity_SENSITIVITY_OPERATIONAL, metav1.Sensitivity_SENSITIVITY_PSEUDONYMOUS:
		return true
	}
	return false
}

// redact drops from msg, in place, what may not be published, and whatever this
// build does not know.
func (p *plan) redact(msg protoreflect.Message) {
	msg.SetUnknown(nil)
	for _, f := range p.drop {
		msg.Clear(f)
	}
	for _, s := range p.enter {
		if !msg.Has(s.field) {
			continue
		}
		switch v := msg.Mutable(s.field); {
		case s.field.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				s.plan.redact(v.Message())
				return true
			})
		case s.field.IsList():
			for i := range v.List().Len() {
				s.plan.redact(v.List().Get(i).Message())
			}
		default:
			s.plan.redact(v.Message())
		}
	}
}
