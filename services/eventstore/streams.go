package eventstore

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"unicode/utf8"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// streams is the Streams service.
type streams struct {
	streamspb.UnimplementedStreamsServer
	node *Node
}

// Append takes a header and events, and answers once they are durable.
func (s *streams) Append(stream streamspb.Streams_AppendServer) error {
	ctx := stream.Context()
	var msg appendMessage // one for the whole call
	if err := stream.RecvMsg(&msg); err != nil {
		return err
	}
	w := &write{ctx: ctx}
	var err error
	if w.stream, w.expected, err = msg.options(); err != nil {
		return err
	}
	if err := s.node.allow(ctx, w.stream, toWrite); err != nil {
		return refuse(ctx, err)
	}
	size := 0
	for {
		err := stream.RecvMsg(&msg)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		ev, err := msg.proposed(ctx)
		if err != nil {
			return err
		}
		if size += ev.size(); size > s.node.cfg.MaxAppendSize {
			return refuse(ctx, &appendTooLarge{s.node.cfg.MaxAppendSize})
		}
		w.events = append(w.events, ev)
	}
	o, err := s.node.seq.do(w)
	var wrong *wrongVersion
	if errors.As(err, &wrong) {
		return stream.SendAndClose(wrongResponse(wrong))
	}
	if err != nil {
		return refuse(ctx, err)
	}
	if o.revision >= 0 && o.position > 0 {
		return stream.SendMsg(successFrame(o))
	}
	return stream.SendAndClose(successResponse(o))
}

// options reads what the first message of a call must hold.
func (m *appendMessage) options() (stream string, expected int64, err error) {
	if m.kind == usualOptions {
		return m.stream, m.expected, nil
	}
	options := m.other.GetOptions()
	if options == nil {
		return "", 0, invalid("the first message of an append must hold its options")
	}
	if stream, err = streamName(options.GetStreamIdentifier()); err != nil {
		return "", 0, err
	}
	switch by := options.GetExpectedStreamRevision().(type) {
	case *streamspb.AppendReq_Options_Revision:
		expected, err = exactRevision(by.Revision)
	case *streamspb.AppendReq_Options_NoStream:
		expected = expectNoStream
	case *streamspb.AppendReq_Options_Any:
		expected = expectAny
	case *streamspb.AppendReq_Options_StreamExists:
		expected = expectExists
	default:
		err = invalid("the expected stream revision is missing")
	}
	return stream, expected, err
}

// proposed reads what all further messages must hold.
func (m *appendMessage) proposed(ctx context.Context) (proposed, error) {
	if m.kind == usualEvent {
		return m.event, nil
	}
	if m.other.GetProposedMessage() == nil {
		return proposed{}, invalid("every message of an append after the first must hold an event")
	}
	return newProposed(ctx, m.other.GetProposedMessage())
}

// message is an event of Append or of BatchAppend.
type message interface {
	GetId() *shared.UUID
	GetMetadata() map[string]string
	GetCustomMetadata() []byte
	GetData() []byte
}

// newProposed checks one event.
func newProposed(ctx context.Context, m message) (proposed, error) {
	typ, hasType := m.GetMetadata()["type"]
	contentType, hasContentType := m.GetMetadata()["content-type"]
	if !hasType || !hasContentType {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("exception", "missing-required-metadata-property",
			"required-metadata-properties", "type,content-type"))
		return proposed{}, invalid("the event's metadata lacks type or content-type")
	}
	if typ == "" {
		return proposed{}, invalid("the event's type is empty")
	}
	if len(typ) > maxName {
		return proposed{}, status.Errorf(codes.InvalidArgument, "the event's type is longer than %d bytes", maxName)
	}
	id, err := parseUUID(m.GetId())
	return proposed{id: id, typ: typ, json: contentType == "application/json", metadata: m.GetCustomMetadata(), data: m.GetData()}, err
}

func parseUUID(m *shared.UUID) (eventID, error) {
	var id eventID
	switch v := m.GetValue().(type) {
	case *shared.UUID_Structured_:
		binary.BigEndian.PutUint64(id[:8], uint64(v.Structured.GetMostSignificantBits()))
		binary.BigEndian.PutUint64(id[8:], uint64(v.Structured.GetLeastSignificantBits()))
	case *shared.UUID_String_:
		parsed, err := uuid.Parse(v.String_)
		if err != nil {
			return id, invalid("the event's id is no UUID")
		}
		id = eventID(parsed)
	}
	if id == (eventID{}) {
		return id, invalid("the event's id is empty")
	}
	return id, nil
}

func uuidMessage(id eventID, asString bool) *shared.UUID {
	if asString {
		return &shared.UUID{Value: &shared.UUID_String_{String_: uuid.UUID(id).String()}}
	}
	return &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
		MostSignificantBits:  int64(binary.BigEndian.Uint64(id[:8])),
		LeastSignificantBits: int64(binary.BigEndian.Uint64(id[8:])),
	}}}
}

func streamName(id *shared.StreamIdentifier) (string, error) { return checkName(id.GetStreamName()) }

func checkName(name []byte) (string, error) {
	switch {
	case len(name) == 0 || string(name) == "$$":
		return "", invalid("the stream's name is empty")
	case len(name) > maxName-2: // its metastream has a name too
		return "", status.Errorf(codes.InvalidArgument, "the stream's name is longer than %d bytes", maxName-2)
	case !utf8.Valid(name):
		return "", invalid("the stream's name is not UTF-8")
	}
	return string(name), nil
}

func exactRevision(revision uint64) (int64, error) {
	if revision >= math.MaxInt64 {
		return 0, invalid("the revision is out of range")
	}
	return int64(revision), nil
}

func successResponse(o outcome) *streamspb.AppendResp {
	success := &streamspb.AppendResp_Success{
		CurrentRevisionOption: &streamspb.AppendResp_Success_NoStream{NoStream: &shared.Empty{}},
		PositionOption:        &streamspb.AppendResp_Success_NoPosition{NoPosition: &shared.Empty{}},
	}
	if o.revision >= 0 {
		success.CurrentRevisionOption = &streamspb.AppendResp_Success_CurrentRevision{CurrentRevision: uint64(o.revision)}
	}
	if o.position > 0 {
		success.PositionOption = &streamspb.AppendResp_Success_Position{
			Position: &streamspb.AppendResp_Position{CommitPosition: o.position, PreparePosition: o.position}}
	}
	return &streamspb.AppendResp{Result: &streamspb.AppendResp_Success_{Success: success}}
}

// wrongResponse says what was expected and what is, in the fields of today and
// in those of version 20.6.0.
func wrongResponse(e *wrongVersion) *streamspb.AppendResp {
	none := &shared.Empty{}
	w := &streamspb.AppendResp_WrongExpectedVersion{
		CurrentRevisionOption:        &streamspb.AppendResp_WrongExpectedVersion_CurrentNoStream{CurrentNoStream: none},
		CurrentRevisionOption_20_6_0: &streamspb.AppendResp_WrongExpectedVersion_NoStream_20_6_0{NoStream_20_6_0: none},
	}
	if e.actual >= 0 {
		w.CurrentRevisionOption = &streamspb.AppendResp_WrongExpectedVersion_CurrentRevision{CurrentRevision: uint64(e.actual)}
		w.CurrentRevisionOption_20_6_0 = &streamspb.AppendResp_WrongExpectedVersion_CurrentRevision_20_6_0{CurrentRevision_20_6_0: uint64(e.actual)}
	}
	switch e.expected {
	case expectNoStream: // 20.6.0 has no field for it
		w.ExpectedRevisionOption = &streamspb.AppendResp_WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: none}
	case expectAny:
		w.ExpectedRevisionOption = &streamspb.AppendResp_WrongExpectedVersion_ExpectedAny{ExpectedAny: none}
		w.ExpectedRevisionOption_20_6_0 = &streamspb.AppendResp_WrongExpectedVersion_Any_20_6_0{Any_20_6_0: none}
	case expectExists:
		w.ExpectedRevisionOption = &streamspb.AppendResp_WrongExpectedVersion_ExpectedStreamExists{ExpectedStreamExists: none}
		w.ExpectedRevisionOption_20_6_0 = &streamspb.AppendResp_WrongExpectedVersion_StreamExists_20_6_0{StreamExists_20_6_0: none}
	default:
		w.ExpectedRevisionOption = &streamspb.AppendResp_WrongExpectedVersion_ExpectedRevision{ExpectedRevision: uint64(e.expected)}
		w.ExpectedRevisionOption_20_6_0 = &streamspb.AppendResp_WrongExpectedVersion_ExpectedRevision_20_6_0{ExpectedRevision_20_6_0: uint64(e.expected)}
	}
	return &streamspb.AppendResp{Result: &streamspb.AppendResp_WrongExpectedVersion_{WrongExpectedVersion: w}}
}

// Delete hides a stream; a later append makes it visible again from there on.
func (s *streams) Delete(ctx context.Context, req *streamspb.DeleteReq) (*streamspb.DeleteResp, error) {
	expected := int64(0)
	var err error
	switch e := req.GetOptions().GetExpectedStreamRevision().(type) {
	case *streamspb.DeleteReq_Options_Revision:
		expected, err = exactRevision(e.Revision)
	case *streamspb.DeleteReq_Options_NoStream:
		expected = expectNoStream
	case *streamspb.DeleteReq_Options_Any:
		expected = expectAny
	case *streamspb.DeleteReq_Options_StreamExists:
		expected = expectExists
	default:
		err = invalid("the expected stream revision is missing")
	}
	if err != nil {
		return nil, err
	}
	position, err := s.end(ctx, softDelete, req.GetOptions().GetStreamIdentifier(), expected)
	if err != nil {
		return nil, err
	}
	return &streamspb.DeleteResp{PositionOption: &streamspb.DeleteResp_Position_{
		Position: &streamspb.DeleteResp_Position{CommitPosition: position, PreparePosition: position}}}, nil
}

// Tombstone ends a stream for ever.
func (s *streams) Tombstone(ctx context.Context, req *streamspb.TombstoneReq) (*streamspb.TombstoneResp, error) {
	expected := int64(0)
	var err error
	switch e := req.GetOptions().GetExpectedStreamRevision().(type) {
	case *streamspb.TombstoneReq_Options_Revision:
		expected, err = exactRevision(e.Revision)
	case *streamspb.TombstoneReq_Options_NoStream:
		expected = expectNoStream
	case *streamspb.TombstoneReq_Options_Any:
		expected = expectAny
	case *streamspb.TombstoneReq_Options_StreamExists:
		expected = expectExists
	default:
		err = invalid("the expected stream revision is missing")
	}
	if err != nil {
		return nil, err
	}
	position, err := s.end(ctx, tombstone, req.GetOptions().GetStreamIdentifier(), expected)
	if err != nil {
		return nil, err
	}
	return &streamspb.TombstoneResp{PositionOption: &streamspb.TombstoneResp_Position_{
		Position: &streamspb.TombstoneResp_Position{CommitPosition: position, PreparePosition: position}}}, nil
}

// end deletes or tombstones a stream.
func (s *streams) end(ctx context.Context, kind writeKind, id *shared.StreamIdentifier, expected int64) (uint64, error) {
	name, err := streamName(id)
	if err != nil {
		return 0, err
	}
	if isMetastream(name) {
		return 0, invalid("a metastream is deleted with its stream")
	}
	if err := s.node.allow(ctx, name, toDelete); err != nil {
		return 0, refuse(ctx, err)
	}
	o, err := s.node.seq.do(&write{ctx: ctx, kind: kind, stream: name, expected: expected})
	return o.position, refuse(ctx, err)
}
