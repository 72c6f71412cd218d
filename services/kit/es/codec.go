package es

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"waymark/services/kit/fault"
)

// Decode returns the event of e as the Go type that this program links. An event
// of an unknown type (written by a newer release) and one that does not decode
// are errors that name stream, revision and type; no reader may skip either. Text is
// taken as it is: that it is UTF-8 was seen to when the event was encoded.
func Decode(e Recorded) (proto.Message, error) { return decode(e, protoregistry.GlobalTypes) }

func decode(e Recorded, types protoregistry.MessageTypeResolver) (proto.Message, error) {
	mt, err := types.FindMessageByName(protoreflect.FullName(e.Type))
	if err != nil {
		return nil, fault.Lost("es.type_unknown", fmt.Sprintf("stream %s, revision %d: this release has no event type %s", e.Stream, e.Revision, e.Type))
	}
	m := mt.New().Interface()
	if fast, ok := m.(interface{ UnmarshalVT([]byte) error }); ok {
		err = fast.UnmarshalVT(e.Data)
	} else {
		err = proto.Unmarshal(e.Data, m)
	}
	if err != nil {
		return nil, fault.Lost("es.data_unreadable", fmt.Sprintf("stream %s, revision %d: its data is no %s", e.Stream, e.Revision, e.Type))
	}
	return m, nil
}

// JSON renders e with its data and metadata as one JSON object on one line, for
// people and tools. It shows everything, patient data too.
func JSON(e Recorded) ([]byte, error) { return renderJSON(e, protoregistry.GlobalTypes) }

// resolver finds event types and the types of what they hold.
type resolver interface {
	protoregistry.MessageTypeResolver
	protoregistry.ExtensionTypeResolver
}

func renderJSON(e Recorded, types resolver) ([]byte, error) {
	m, err := decode(e, types)
	if err != nil {
		return nil, err
	}
	data, err := protojson.MarshalOptions{Resolver: types}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("stream %s, revision %d: %w", e.Stream, e.Revision, err)
	}
	metadata, err := metadataJSON(e)
	if err != nil {
		return nil, fmt.Errorf("stream %s, revision %d: %w", e.Stream, e.Revision, err)
	}
	out, err := json.Marshal(struct {
		Stream   string          `json:"stream"`
		Revision Revision        `json:"revision"`
		Position Position        `json:"position"`
		ID       string          `json:"id"`
		Type     string          `json:"type"`
		Recorded time.Time       `json:"recorded"`
		Data     json.RawMessage `json:"data"`
		Metadata json.RawMessage `json:"metadata,omitempty"`
	}{e.Stream, e.Revision, e.Position, e.ID.String(), e.Type, e.Recorded.UTC(), data, metadata})
	if err != nil {
		return nil, err
	}
	// json.Marshal compacted the data, which protojson spaces at random, and
	// escaped HTML, which nobody needs here.
	return bytes.TrimSpace(out), nil
}

// metadataJSON renders metadata of ours with all names and defaults in full, and
// any other as it is, where it is JSON.
func metadataJSON(e Recorded) (json.RawMessage, error) {
	m, err := ParseMetadata(e)
	if err != nil {
		if json.Valid(e.Metadata) {
			return e.Metadata, nil
		}
		return nil, nil
	}
	full, err := json.Marshal(m)
	if _, sum, ok := splitChain(e.Metadata); ok && err == nil {
		full = longChain.end(full[:len(full)-1], Chain{sum: sum})
	}
	return full, err
}

// Unhandled is what an Evolve's default branch panics with:
//
//	default:
//		panic(es.Unhandled(e))
//
// Streams turns the panic into an error, before anything is written when the
// event is new, so that no fold ever leaves an event out.
func Unhandled(e proto.Message) any {
	return unhandled{e.ProtoReflect().Descriptor().FullName()}
}

type unhandled struct{ typ protoreflect.FullName }

func (u unhandled) String() string { return "no case in Evolve for " + string(u.typ) }

// TryEvolve calls evolve and reports as an error that it has no case for the event.
func TryEvolve[S any](evolve func(S, proto.Message) S, state S, event proto.Message) (next S, err error) {
	defer func() {
		if p := recover(); p != nil {
			u, ok := p.(unhandled)
			if !ok {
				panic(p)
			}
			err = fault.Lost("es.event_unhandled", u.String())
		}
	}()
	return evolve(state, event), nil
}
