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

// proposed is an event that a client wants stored. Metadata and data may be parts
// of the message that it came in.
type proposed struct {
	id             eventID
	typ            string
	json           bool
	metadata, data []byte
}

// size is what counts towards MaxAppendSize.
func (p *proposed) size() int { return len(p.data) + len(p.metadata) + 2*len(p.typ) }

// record gives the event its place and its time.
func (p *proposed) record(stream string, position uint64, revision, created int64) record {
	contentType := "application/octet-stream"
	if p.json {
		contentType = "application/json"
	}
	var digits [20]byte
	ticks := strconv.AppendInt(digits[:0], created, 10)
	most, least := binary.BigEndian.Uint64(p.id[:8]), binary.BigEndian.Uint64(p.id[8:])
	structured := 2 + protowire.SizeVarint(most) + protowire.SizeVarint(least)

	recorded := 3 + protowire.SizeVarint(uint64(revision)) + 2*protowire.SizeVarint(position) +
		sizeMapEntry("created", ticks) + sizeBytes(sizeBytes(structured)) + sizeBytes(sizeBytes(len(stream))) +
		sizeMapEntry("type", p.typ) + sizeMapEntry("content-type", contentType)
	if len(p.metadata) > 0 {
		recorded += sizeBytes(len(p.metadata))
	}
	if len(p.data) > 0 {
		recorded += sizeBytes(len(p.data))
	}
	event := sizeBytes(recorded) + 1 + protowire.SizeVarint(position)

	b := make([]byte, recordHeader, recordHeader+len(p.typ)+len(stream)+sizeBytes(event))
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

	b = appendLength(b, 1, event)    // ReadResp.event = 1
	b = appendNumber(b, 3, position) // ReadEvent.commit_position = 3
	b = appendLength(b, 1, recorded) // ReadEvent.event = 1, a RecordedEvent
	b = appendNumber(b, 3, uint64(revision))
	b = appendNumber(b, 4, position) // prepare
	b = appendNumber(b, 5, position) // commit
	b = appendMapEntry(b, "created", ticks)
	b = appendLength(b, 1, sizeBytes(structured)) // UUID id = 1
	b = appendLength(b, 1, structured)            // Structured structured = 1
	b = appendNumber(b, 1, most)
	b = appendNumber(b, 2, least)
	b = appendLength(b, 2, sizeBytes(len(stream))) // StreamIdentifier = 2
	b = append(appendLength(b, 3, len(stream)), stream...)
	b = appendMapEntry(b, "type", p.typ)
	b = appendMapEntry(b, "content-type", contentType)
	if len(p.metadata) > 0 {
		b = append(appendLength(b, 7, len(p.metadata)), p.metadata...)
	}
	if len(p.data) > 0 {
		b = append(appendLength(b, 8, len(p.data)), p.data...)
	}
	return b
}

// sizeBytes is the size of a field of n bytes whose number is below 16.
func sizeBytes(n int) int { return 1 + protowire.SizeBytes(n) }

// appendLength begins a field of n bytes.
func appendLength(b []byte, number protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.BytesType), uint64(n))
}

func appendNumber(b []byte, number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), value)
}

func sizeMapEntry[T string | []byte](key string, value T) int {
	return sizeBytes(sizeBytes(len(key)) + sizeBytes(len(value)))
}

// appendMapEntry appends one entry of map<string, string> metadata = 6.
func appendMapEntry[T string | []byte](b []byte, key string, value T) []byte {
	b = appendLength(b, 6, sizeBytes(len(key))+sizeBytes(len(value)))
	b = append(appendLength(b, 1, len(key)), key...)
	return append(appendLength(b, 2, len(value)), value...)
}

// Keys. 'p' begins the log in position order, 's' the streams, 'i' what the
// node knows about itself. A stream's name is length-prefixed, so that one
// stream's keys never mix with another's.

func positionKey(position uint64) []byte { return appendPositionKey(nil, position) }

func appendPositionKey(b []byte, position uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 'p'), position)
}

func streamKey(stream string, revision uint64) []byte {
	return appendStreamKey(make([]byte, 0, 3+len(stream)+8), stream, revision)
}

func appendStreamKey[T string | []byte](b []byte, stream T, revision uint64) []byte {
	b = append(b, 's', byte(len(stream)>>8), byte(len(stream)))
	b = append(b, stream...)
	return binary.BigEndian.AppendUint64(b, revision)
}
