package eventstore

import (
	"encoding/binary"
	"unicode/utf8"

	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
)

// appendMessage is one message of an Append call. Nearly all hold one event in
// the shape that clients send it in; those are read here, which takes a tenth of
// the time and memory of the generated types. Whatever looks otherwise is left
// to these, and so are all refusals.
type appendMessage struct {
	usual *usualEvent          // set, or else
	other *streamspb.AppendReq // this is
}

// usualEvent is an event with an id, a type and a content type, each once.
type usualEvent struct {
	id             eventID
	typ            string
	contentType    string
	metadata, data []byte
}

// size is what counts towards MaxAppendSize.
func (e *usualEvent) size() int { return len(e.data) + len(e.metadata) + 2*len(e.typ) }

// readUsual reads an AppendReq that holds a proposed message; nil when it is not
// of the usual shape. The event keeps parts of b.
func readUsual(b []byte) *usualEvent {
	number, body, rest := cutBytes(b)
	if number != 2 || len(rest) > 0 { // AppendReq.proposed_message = 2
		return nil
	}
	e := &usualEvent{}
	var seen [5]bool
	for len(body) > 0 {
		number, value, rest := cutBytes(body)
		switch {
		case number == 2: // map<string, string> metadata = 2
			if !e.entry(value) {
				return nil
			}
		case number == 0 || number > 4 || seen[number]:
			return nil
		case number == 1: // UUID id = 1
			var ok bool
			if e.id, ok = readUUID(value); !ok {
				return nil
			}
		case number == 3:
			e.metadata = value
		case number == 4:
			e.data = value
		}
		seen[number], body = true, rest
	}
	if e.id == (eventID{}) || e.typ == "" || len(e.typ) > maxName || e.contentType == "" {
		return nil
	}
	return e
}

// entry reads the type or the content type.
func (e *usualEvent) entry(b []byte) bool {
	key, name, rest := cutBytes(b)
	value, text, rest := cutBytes(rest)
	if key != 1 || value != 2 || len(rest) > 0 || !utf8.Valid(text) {
		return false
	}
	into := &e.typ
	switch string(name) {
	case "type":
	case "content-type":
		into = &e.contentType
	default:
		return false
	}
	if *into != "" {
		return false
	}
	*into = string(text)
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
