package eventstore

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Nearly all appends come in the shape in which clients send them. Those are read
// here, which takes a tenth of the time and memory of the generated types.
// Whatever looks otherwise is left to these, and so are all refusals.

// appendMessage is one message of an Append call.
type appendMessage struct {
	kind     usualKind
	stream   string // of usualOptions
	expected int64
	event    proposed             // of usualEvent
	other    *streamspb.AppendReq // of unusual
}

type usualKind byte

const (
	unusual usualKind = iota
	usualOptions
	usualEvent
)

// read takes the message from b, parts of which an event keeps.
func (m *appendMessage) read(b []byte) error {
	*m = appendMessage{}
	var ok bool
	switch number, body, rest := cutBytes(b); {
	case len(rest) > 0:
	case number == 1: // AppendReq.options = 1
		if m.stream, m.expected, ok = readOptions(body); ok {
			m.kind = usualOptions
			return nil
		}
	case number == 2: // AppendReq.proposed_message = 2
		if m.event, ok = readEvent(body); ok {
			m.kind = usualEvent
			return nil
		}
	}
	m.other = new(streamspb.AppendReq)
	return proto.Unmarshal(b, m.other)
}

// readOptions reads a stream's name and what is expected of it, both valid.
func readOptions(b []byte) (stream string, expected int64, ok bool) {
	number, identifier, rest := cutBytes(b) // StreamIdentifier stream_identifier = 1
	inner, name, more := cutBytes(identifier)
	if number != 1 || inner != 3 || len(more) > 0 { // bytes stream_name = 3
		return "", 0, false
	}
	if revision, end := cutNumber(rest, 2); end != nil { // uint64 revision = 2
		var err error
		if expected, err = exactRevision(revision); err != nil || len(end) > 0 {
			return "", 0, false
		}
	} else {
		number, empty, end := cutBytes(rest)
		switch {
		case len(empty) > 0 || len(end) > 0:
			return "", 0, false
		case number == 3:
			expected = expectNoStream
		case number == 4:
			expected = expectAny
		case number == 5:
			expected = expectExists
		default:
			return "", 0, false
		}
	}
	stream, err := checkName(name)
	return stream, expected, err == nil
}

// readEvent reads a proposed message with an id, a type and a content type, each
// once. The event keeps parts of b.
func readEvent(b []byte) (e proposed, ok bool) {
	var seen [5]bool
	for len(b) > 0 {
		number, value, rest := cutBytes(b)
		switch {
		case number == 2: // map<string, string> metadata = 2
			name, text, ok := cutEntry(value)
			switch {
			case !ok:
				return e, false
			case string(name) == "type" && e.typ == "" && len(text) <= maxName:
				e.typ = string(text)
			case string(name) == "content-type" && !seen[0]:
				seen[0], e.json = true, string(text) == "application/json"
			default:
				return e, false
			}
		case number == 0 || number > 4 || seen[number]:
			return e, false
		case number == 1: // UUID id = 1
			if e.id, ok = readUUID(value); !ok {
				return e, false
			}
		case number == 3:
			e.metadata = value
		case number == 4:
			e.data = value
		}
		seen[number], b = true, rest
	}
	return e, e.id != (eventID{}) && e.typ != "" && seen[0]
}

// cutEntry reads one entry of a map of strings.
func cutEntry(b []byte) (key, value []byte, ok bool) {
	first, key, rest := cutBytes(b)
	second, value, rest := cutBytes(rest)
	return key, value, first == 1 && second == 2 && len(rest) == 0 && utf8.Valid(value)
}

// batchMessage is one chunk of a BatchAppend call.
type batchMessage struct {
	correlation *shared.UUID
	options     *streamspb.BatchAppendReq_Options
	events      []proposed
	unusual     []*streamspb.BatchAppendReq_ProposedMessage // the events, where one of them is
	final       bool
}

// read takes the message from b, parts of which its events keep.
func (m *batchMessage) read(b []byte) error {
	if *m = (batchMessage{}); m.readUsual(b) {
		return nil
	}
	var req streamspb.BatchAppendReq
	if err := proto.Unmarshal(b, &req); err != nil {
		return err
	}
	*m = batchMessage{correlation: req.GetCorrelationId(), options: req.GetOptions(), unusual: req.GetProposedMessages(), final: req.GetIsFinal()}
	return nil
}

func (m *batchMessage) readUsual(b []byte) bool {
	for len(b) > 0 {
		if final, rest := cutNumber(b, 4); rest != nil { // bool is_final = 4
			m.final, b = final != 0, rest
			continue
		}
		number, value, rest := cutBytes(b)
		switch {
		case number == 1 && m.correlation == nil: // UUID correlation_id = 1
			m.correlation = new(shared.UUID)
			if proto.Unmarshal(value, m.correlation) != nil {
				return false
			}
		case number == 2 && m.options == nil: // Options options = 2
			m.options = new(streamspb.BatchAppendReq_Options)
			if proto.Unmarshal(value, m.options) != nil {
				return false
			}
		case number == 3: // ProposedMessage proposed_messages = 3
			e, ok := readEvent(value)
			if !ok {
				return false
			}
			m.events = append(m.events, e)
		default:
			return false
		}
		b = rest
	}
	return true
}

func readUUID(b []byte) (id eventID, ok bool) {
	switch number, value, rest := cutBytes(b); {
	case len(rest) > 0:
		return id, false
	case number == 1: // Structured: two numbers
		most, value := cutNumber(value, 1)
		least, value := cutNumber(value, 2)
		binary.BigEndian.PutUint64(id[:8], most)
		binary.BigEndian.PutUint64(id[8:], least)
		return id, value != nil && len(value) == 0
	case number == 2: // string
		parsed, err := uuid.ParseBytes(value)
		return eventID(parsed), err == nil && len(value) == 36
	}
	return id, false
}

// cutBytes takes a field of bytes off the front of b; its number is 0 when there
// is none.
func cutBytes(b []byte) (number protowire.Number, value, rest []byte) {
	number, typ, n := protowire.ConsumeTag(b)
	if n < 0 || typ != protowire.BytesType {
		return 0, nil, nil
	}
	value, m := protowire.ConsumeBytes(b[n:])
	if m < 0 {
		return 0, nil, nil
	}
	return number, value[:len(value):len(value)], b[n+m:]
}

// cutNumber takes the field of a number off the front of b; rest is nil when
// another is there.
func cutNumber(b []byte, want protowire.Number) (value uint64, rest []byte) {
	number, typ, n := protowire.ConsumeTag(b)
	if n < 0 || typ != protowire.VarintType || number != want {
		return 0, nil
	}
	value, m := protowire.ConsumeVarint(b[n:])
	if m < 0 {
		return 0, nil
	}
	return value, b[n+m:]
}

// successFrame is the encoded AppendResp of an append that stored or found events.
func successFrame(o outcome) raw {
	var scratch [32]byte
	position := protowire.AppendTag(scratch[:0], 1, protowire.VarintType)
	position = protowire.AppendVarint(position, o.position)
	position = protowire.AppendTag(position, 2, protowire.VarintType)
	position = protowire.AppendVarint(position, o.position)
	b := make([]byte, 2, 48) // the tag and the length, which is below 128
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(o.revision))
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	b = protowire.AppendBytes(b, position)
	b[0], b[1] = 1<<3|byte(protowire.BytesType), byte(len(b)-2) // AppendResp.success = 1
	return b
}
