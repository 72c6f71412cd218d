package eventstore

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// A stored event is a record: a header that filters, windows and idempotency
// need, followed by the frame, which is the event as the ReadResp message that
// goes to clients. It is written once in position order and once in stream
// order, so that both kinds of read are one sequential scan.
//
//	offset 0   version of the layout, 1
//	       1   flags
//	       2   position, 10 revision, 18 created: 8 bytes each, big endian
//	      26   event id, 16 bytes
//	      42   length of type, 44 length of stream: 2 bytes each, big endian
//	      46   type, stream, frame
type record []byte

type eventID [16]byte

const (
	recordVersion = 1
	recordHeader  = 46

	flagJSON = 1

	// maxName bounds stream names and event types, in bytes. Keys and headers
	// hold them.
	maxName = 4096

	tombstoneRevision = math.MaxInt64
	noRevision        = -1
)

func (r record) position() uint64 { return binary.BigEndian.Uint64(r[2:]) }
func (r record) revision() int64  { return int64(binary.BigEndian.Uint64(r[10:])) }

// created is in ticks of 100 ns since 1970.
func (r record) created() int64 { return int64(binary.BigEndian.Uint64(r[18:])) }
func (r record) id() eventID    { return eventID(r[26:42]) }
func (r record) json() bool     { return r[1]&flagJSON != 0 }

func (r record) typ() []byte {
	return r[recordHeader : recordHeader+int(binary.BigEndian.Uint16(r[42:]))]
}

func (r record) stream() []byte {
	from := recordHeader + int(binary.BigEndian.Uint16(r[42:]))
	return r[from : from+int(binary.BigEndian.Uint16(r[44:]))]
}

// frame is the encoded ReadResp.
func (r record) frame() []byte {
	return r[recordHeader+int(binary.BigEndian.Uint16(r[42:]))+int(binary.BigEndian.Uint16(r[44:])):]
}

// check reports why r cannot be a record. Every record read from the disk goes
// through it before its methods are used.
func (r record) check() error {
	if len(r) < recordHeader {
		return fmt.Errorf("record of %d bytes is too short", len(r))
	}
	if r[0] != recordVersion {
		return fmt.Errorf("record has unknown version %d", r[0])
	}
	if n := recordHeader + int(binary.BigEndian.Uint16(r[42:])) + int(binary.BigEndian.Uint16(r[44:])); len(r) < n {
		return fmt.Errorf("record of %d bytes is shorter than its header says", len(r))
	}
	return nil
}

// proposed is an event that a client wants stored.
type proposed struct {
	id   eventID
	typ  string
	json bool
	data []byte
	// body holds the fields of RecordedEvent that are known before the event is
	// numbered: id, stream, type, content type, metadata and data.
	body []byte
}

// propose pre-encodes an event, so that the sequencer has only to number it.
func propose(stream string, id eventID, typ string, json bool, metadata, data []byte) proposed {
	contentType := "application/octet-stream"
	if json {
		contentType = "application/json"
	}
	b := make([]byte, 0, 96+len(stream)+len(typ)+len(contentType)+len(metadata)+len(data))
	most, least := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	structured := protowire.SizeVarint(most) + protowire.SizeVarint(least) + 2
	b = protowire.AppendTag(b, 1, protowire.BytesType) // UUID id = 1
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(structured)))
	b = protowire.AppendTag(b, 1, protowire.BytesType) // Structured structured = 1
	b = protowire.AppendVarint(b, uint64(structured))
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, most)
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	b = protowire.AppendVarint(b, least)
	b = protowire.AppendTag(b, 2, protowire.BytesType) // StreamIdentifier = 2
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(stream))))
	b = protowire.AppendTag(b, 3, protowire.BytesType) // bytes stream_name = 3
	b = protowire.AppendString(b, stream)
	b = appendMapEntry(b, "type", typ)
	b = appendMapEntry(b, "content-type", contentType)
	if len(metadata) > 0 {
		b = protowire.AppendTag(b, 7, protowire.BytesType)
		b = protowire.AppendBytes(b, metadata)
	}
	if len(data) > 0 {
		b = protowire.AppendTag(b, 8, protowire.BytesType)
		b = protowire.AppendBytes(b, data)
	}
	return proposed{id: id, typ: typ, json: json, data: data, body: b}
}

// appendMapEntry appends one entry of map<string, string> metadata = 6.
func appendMapEntry(b []byte, key, value string) []byte {
	b = protowire.AppendTag(b, 6, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(2+protowire.SizeBytes(len(key))+protowire.SizeBytes(len(value))))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, key)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	return protowire.AppendString(b, value)
}

// number makes the record of an event: it gives it its place and its time.
func (p *proposed) number(stream string, position uint64, revision, created int64) record {
	var scratch [96]byte
	tail := scratch[:0] // the rest of RecordedEvent
	tail = protowire.AppendTag(tail, 3, protowire.VarintType)
	tail = protowire.AppendVarint(tail, uint64(revision))
	tail = protowire.AppendTag(tail, 4, protowire.VarintType)
	tail = protowire.AppendVarint(tail, position)
	tail = protowire.AppendTag(tail, 5, protowire.VarintType)
	tail = protowire.AppendVarint(tail, position)
	tail = appendMapEntry(tail, "created", strconv.FormatInt(created, 10))

	recorded := len(tail) + len(p.body)
	event := 1 + protowire.SizeBytes(recorded) + 1 + protowire.SizeVarint(position)
	size := recordHeader + len(p.typ) + len(stream) + 1 + protowire.SizeBytes(event)

	b := make([]byte, recordHeader, size)
	b[0] = recordVersion
	if p.json {
		b[1] |= flagJSON
	}
	binary.BigEndian.PutUint64(b[2:], position)
	binary.BigEndian.PutUint64(b[10:], uint64(revision))
	binary.BigEndian.PutUint64(b[18:], uint64(created))
	copy(b[26:], p.id[:])
	binary.BigEndian.PutUint16(b[42:], uint16(len(p.typ)))
	binary.BigEndian.PutUint16(b[44:], uint16(len(stream)))
	b = append(b, p.typ...)
	b = append(b, stream...)

	b = protowire.AppendTag(b, 1, protowire.BytesType) // ReadResp.event = 1
	b = protowire.AppendVarint(b, uint64(event))
	b = protowire.AppendTag(b, 3, protowire.VarintType) // ReadEvent.commit_position = 3
	b = protowire.AppendVarint(b, position)
	b = protowire.AppendTag(b, 1, protowire.BytesType) // ReadEvent.event = 1
	b = protowire.AppendVarint(b, uint64(recorded))
	b = append(b, tail...)
	return append(b, p.body...)
}

// Keys. 'p' begins the log in position order, 's' the streams, 'i' what the
// node knows about itself. A stream's name is length-prefixed, so that one
// stream's keys never mix with another's.

func positionKey(position uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{'p'}, position)
}

func streamKey(stream string, revision uint64) []byte {
	b := make([]byte, 0, 3+len(stream)+8)
	b = append(b, 's', byte(len(stream)>>8), byte(len(stream)))
	b = append(b, stream...)
	return binary.BigEndian.AppendUint64(b, revision)
}
