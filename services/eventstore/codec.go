package eventstore

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// raw is a message that is encoded already, such as a stored frame. It must not
// change once sent: grpc keeps it until it is on the wire.
type raw []byte

// codec passes raw messages through and encodes all others as proto.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case raw:
		return mem.BufferSlice{mem.SliceBuffer(m)}, nil
	case proto.Message:
		b, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	return nil, fmt.Errorf("cannot encode %T", v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	var m proto.Message
	switch into := v.(type) {
	case *appendMessage:
		return into.read(data.Materialize()) // the event keeps parts of it
	case *batchMessage:
		return into.read(data.Materialize())
	case proto.Message:
		m = into
	default:
		return fmt.Errorf("cannot decode %T", v)
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	return proto.Unmarshal(b.ReadOnlyData(), m)
}
