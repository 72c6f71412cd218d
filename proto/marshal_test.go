package compat_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pathwayv1 "waymark/proto/waymark/pathway/v1"
)

// generated is a message that encodes and decodes itself without reflection.
type generated interface {
	proto.Message
	SizeVT() int
	MarshalVT() ([]byte, error)
	UnmarshalVT([]byte) error
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

// TestGeneratedUnmarshal compares what generated code decodes with what the library
// does: of a message, of one with fields that a later release may have, and of one that
// was cut off. What nobody writes is not compared, as they differ there: text that is
// no UTF-8 (the library does not encode it either), fields of another wire type, groups,
// a message in two parts. Bytes that changed in the store its checksums find.
func TestGeneratedUnmarshal(t *testing.T) {
	t.Parallel()
	random, messages, compared, refused := rand.New(rand.NewPCG(2, 1)), 0, 0, 0
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if _, ok := mt.New().Interface().(generated); !ok {
			return true
		}
		messages++
		for range 30 {
			m := mt.New()
			fill(m, random, 5)
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
			if err != nil {
				t.Fatal(err)
			}
			tries := [][]byte{b, append(b[:len(b):len(b)], 0xf8, 0x7f, 1, 0xfa, 0x7f, 1, 'x')}
			for range min(len(b), 20) {
				tries = append(tries, b[:random.IntN(len(b))])
			}
			for _, b := range tries {
				failed, err := decodesOtherwise(mt.New().Interface().(generated), b)
				if compared++; failed {
					refused++
				}
				if err != nil {
					t.Errorf("%s: %x: %v", mt.Descriptor().FullName(), b, err)
					return true
				}
			}
		}
		return true
	})
	if refused == 0 || refused == compared {
		t.Errorf("%d of %d refused", refused, compared)
	}
	t.Logf("%d messages, %d compared, of which %d are refused", messages, compared, refused)
}

// TestGeneratedUnmarshalDiffers: the comparison finds a field that is left out.
func TestGeneratedUnmarshalDiffers(t *testing.T) {
	t.Parallel()
	b, err := proto.Marshal(&pathwayv1.Pathway{PathwayId: "a", PersonId: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodesOtherwise(forgetful{&pathwayv1.Pathway{}}, b); err == nil {
		t.Error("a field that is left out was not found")
	}
}

func (f forgetful) UnmarshalVT(b []byte) error {
	err := f.Pathway.UnmarshalVT(b)
	f.PersonId = ""
	return err
}

// decodesOtherwise reports whether the library refuses b, and how generated code differs.
func decodesOtherwise(m generated, b []byte) (refused bool, err error) {
	want := m.ProtoReflect().New().Interface()
	failed, got := proto.Unmarshal(b, want), m.UnmarshalVT(b)
	switch {
	case (failed == nil) != (got == nil):
		return true, fmt.Errorf("%v instead of %v", got, failed)
	case failed == nil && !proto.Equal(m, want):
		return false, errors.New("it decodes to something else")
	}
	return failed != nil, nil
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
