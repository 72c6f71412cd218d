package compat_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pathwayv1 "waymark/proto/waymark/pathway/v1"
)

// generated is a message that encodes itself without reflection.
type generated interface {
	proto.Message
	SizeVT() int
	MarshalVT() ([]byte, error)
}

// TestGeneratedMarshal compares what generated code encodes with what the library
// does, byte for byte, for every message that has such code.
func TestGeneratedMarshal(t *testing.T) {
	t.Parallel()
	random, messages, bytesIn := rand.New(rand.NewPCG(1, 1)), 0, 0
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if _, ok := mt.New().Interface().(generated); !ok {
			return true
		}
		messages++
		for range 30 {
			m := mt.New()
			fill(m, random, 5)
			n, err := differs(m.Interface().(generated))
			if bytesIn += n; err != nil {
				t.Errorf("%s: %v", mt.Descriptor().FullName(), err)
				return true
			}
		}
		return true
	})
	if _, ok := any(&pathwayv1.Pathway{}).(generated); !ok || bytesIn == 0 {
		t.Error("the views have no such code")
	}
	t.Logf("%d messages, %d bytes", messages, bytesIn)
}

// TestGeneratedMarshalDiffers: the comparison finds a field that is left out.
func TestGeneratedMarshalDiffers(t *testing.T) {
	t.Parallel()
	if _, err := differs(forgetful{&pathwayv1.Pathway{PathwayId: "a", PersonId: "b"}}); err == nil {
		t.Error("a field that is left out was not found")
	}
}

type forgetful struct{ *pathwayv1.Pathway }

func (f forgetful) MarshalVT() ([]byte, error) {
	return (&pathwayv1.Pathway{PathwayId: f.PathwayId}).MarshalVT()
}

func differs(m generated) (size int, err error) {
	want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return 0, err
	}
	got, err := m.MarshalVT()
	switch {
	case err != nil:
		return 0, err
	case !bytes.Equal(got, want):
		return 0, fmt.Errorf("%x instead of %x", got, want)
	case m.SizeVT() != len(want):
		return 0, fmt.Errorf("a size of %d instead of %d", m.SizeVT(), len(want))
	}
	return len(want), nil
}

// fill sets most fields at random, messages within messages to a depth.
func fill(m protoreflect.Message, random *rand.Rand, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		message := f.Message() != nil
		switch {
		case random.IntN(4) == 0 || message && depth == 0:
		case f.IsMap():
			panic("no message of ours has a map: say here how one is filled")
		case f.IsList():
			list := m.Mutable(f).List()
			for range random.IntN(3) {
				if message {
					fill(list.AppendMutable().Message(), random, depth-1)
				} else {
					list.Append(scalar(f, random))
				}
			}
		case message:
			fill(m.Mutable(f).Message(), random, depth-1)
		default:
			m.Set(f, scalar(f, random))
		}
	}
}

func scalar(f protoreflect.FieldDescriptor, random *rand.Rand) protoreflect.Value {
	n := random.Int64() >> random.IntN(64)
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n%2 == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n % 20))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(-n)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(fmt.Append(nil, n))
	}
	return protoreflect.ValueOfString(fmt.Sprintf("%d é", n))
}
