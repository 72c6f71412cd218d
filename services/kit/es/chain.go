package es

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"waymark/services/kit/fault"
)

// Chain follows the hash chain of one stream. Each event's metadata ends with
// the member "x", the base64url without padding of
//
//	SHA-256(previous chain, stream, revision, event id, type, SHA-256(data), SHA-256(metadata before the chain))
//
// where each part is preceded by its length as 4 bytes, big endian, the revision
// is 8 bytes, big endian, and the metadata before the chain are the bytes up to
// the comma in front of the member. The first event's previous chain is 32 zero
// bytes. Only what the writer knows goes in, so that the value is part of the
// append itself, and only stored bytes are hashed, never a re-encoding. Until
// November 2026 the member was called "chain" and was base64 with padding.
//
// The zero value is before the first event. A Chain is a value: copy it to keep
// a point of the stream.
type Chain struct {
	sum  [sha256.Size]byte
	next Revision
}

// chainForm is how the end of a metadata is written.
type chainForm struct {
	head     string
	encoding *base64.Encoding
}

const chainTail = `"}`

var (
	chainForms = []chainForm{{`,"x":"`, base64.RawURLEncoding.Strict()}, longChain} // that of today first
	longChain  = chainForm{`,"chain":"`, base64.StdEncoding.Strict()}               // what people are shown, too
)

// Sum is the chain value of the last event followed, zero before the first.
func (c Chain) Sum() [sha256.Size]byte { return c.sum }

// Next returns the chain after e. It fails with es.chain_broken (DATA_LOSS) when
// e is not the event that its writer appended after the events followed so far:
// a changed byte, a missing, added or moved event, a stream without chain.
func (c Chain) Next(e Recorded) (Chain, error) {
	if e.Revision != c.next {
		return c, c.broken(e, fmt.Sprintf("revision %d follows %d", e.Revision, c.next-1))
	}
	before, stated, ok := splitChain(e.Metadata)
	if !ok {
		return c, c.broken(e, "its metadata has no chain")
	}
	next := c.with(e.Stream, e.ID, e.Type, sha256.Sum256(e.Data), sha256.Sum256(before))
	if next.sum != stated {
		return c, c.broken(e, "its chain value does not match its bytes and the events before it")
	}
	return next, nil
}

// Chained reports whether the metadata of e ends with a chain value. Streams of
// ours are chained from their first event; streams of other writers are not.
func Chained(e Recorded) bool {
	_, _, ok := splitChain(e.Metadata)
	return ok
}

func (c Chain) broken(e Recorded, why string) error {
	return fault.Lost("es.chain_broken", fmt.Sprintf("stream %s, revision %d: %s", e.Stream, e.Revision, why))
}

// with returns the chain after an event of the given parts at the next revision.
func (c Chain) with(stream string, id uuid.UUID, typ string, data, before [sha256.Size]byte) Chain {
	return Chain{sum: c.digest(stream, typ, data, before, id[:]), next: c.next + 1}
}

// content is the digest that event ids are bound to: all that the chain covers,
// but for the id itself.
func (c Chain) content(stream, typ string, data, before [sha256.Size]byte) [sha256.Size]byte {
	return c.digest(stream, typ, data, before, nil)
}

func (c Chain) digest(stream, typ string, data, before [sha256.Size]byte, id []byte) [sha256.Size]byte {
	var space [512]byte // more than names of ours need; it stays on the stack
	buf := lengthPrefixed(space[:0], c.sum[:])
	buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(stream))), stream...)
	buf = binary.BigEndian.AppendUint32(buf, 8)
	buf = binary.BigEndian.AppendUint64(buf, uint64(c.next))
	if id != nil {
		buf = lengthPrefixed(buf, id)
	}
	buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(typ))), typ...)
	buf = lengthPrefixed(buf, data[:])
	buf = lengthPrefixed(buf, before[:])
	return sha256.Sum256(buf)
}

func lengthPrefixed(buf, part []byte) []byte {
	return append(binary.BigEndian.AppendUint32(buf, uint32(len(part))), part...)
}

// splitChain returns the metadata before the chain, and the chain value.
func splitChain(metadata []byte) (before []byte, sum [sha256.Size]byte, ok bool) {
	text, ends := bytes.CutSuffix(metadata, []byte(chainTail))
	for _, form := range chainForms {
		at := len(text) - form.encoding.EncodedLen(sha256.Size)
		if !ends || at < len(form.head) || !bytes.HasSuffix(text[:at], []byte(form.head)) {
			continue
		}
		var raw [sha256.Size + 1]byte // text without the padding that it should have is longer
		n, err := form.encoding.Decode(raw[:], text[at:])
		copy(sum[:], raw[:])
		return text[:at-len(form.head)], sum, err == nil && n == len(sum)
	}
	return nil, sum, false
}

// end ends a metadata that lacks its closing brace.
func (f chainForm) end(metadata []byte, c Chain) []byte {
	metadata = append(metadata, f.head...)
	metadata = f.encoding.AppendEncode(metadata, c.sum[:])
	return append(metadata, chainTail...)
}
