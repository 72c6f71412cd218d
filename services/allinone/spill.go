package allinone

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"waymark/services/kit/es"
)

const (
	chunkSize = 16 << 10 // bytes of a lane that are compressed together
	inMemory  = 16 << 20 // compressed bytes of a spill before it makes a file
)

// spill keeps records in lanes, each in the order in which it got them: in memory
// as long as they are few, else in one file that has no name any more, compressed
// and under a key that only this process has. So nothing of a patient stays behind,
// however the process ends. Methods may be called by several goroutines.
type spill struct {
	mu     sync.Mutex
	lanes  []lane
	room   int // bytes that may be held in memory
	file   *os.File
	size   int64
	seal   cipher.AEAD
	sealed uint64 // chunks, each with a nonce of its own
	pack   *zstd.Encoder
	packed []byte // used again
	unpack *zstd.Decoder
}

type lane struct {
	open   []byte // not compressed yet
	chunks []chunk
}

// chunk is compressed and sealed: bytes, or where they are in the file.
type chunk struct {
	nonce uint64
	bytes []byte
	at    int64
	size  int
}

func newSpill(lanes int) (*spill, error) {
	key := make([]byte, 32)
	rand.Read(key) // it never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	s := &spill{lanes: make([]lane, lanes), room: inMemory}
	s.seal, err = cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	if s.pack, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false)); err != nil {
		return nil, err
	}
	s.unpack, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0))
	return s, err
}

// add puts a record, which write appends to what it is given, at the end of a lane.
func (s *spill) add(n int, write func([]byte) []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.lanes[n]
	if l.open = write(l.open); len(l.open) < chunkSize {
		return nil
	}
	c := chunk{nonce: s.sealed}
	s.sealed++
	s.packed = s.pack.EncodeAll(l.open, s.packed[:0])
	l.open = l.open[:0]
	s.packed = s.seal.Seal(s.packed[:0], s.nonce(c.nonce), s.packed, nil)
	c.size = len(s.packed)
	if s.room -= c.size; s.room >= 0 {
		c.bytes = bytes.Clone(s.packed)
	} else if err := s.write(&c); err != nil {
		return fmt.Errorf("what is read for verification cannot be set aside; TMPDIR names a folder with room: %w", err)
	}
	l.chunks = append(l.chunks, c)
	return nil
}

func (s *spill) write(c *chunk) (err error) {
	if s.file == nil {
		if s.file, err = os.CreateTemp("", "waymark-verify-"); err != nil {
			return err
		}
		if err := os.Remove(s.file.Name()); err != nil {
			return err
		}
	}
	c.at = s.size
	s.size += int64(c.size)
	_, err = s.file.WriteAt(s.packed, c.at)
	return err
}

func (s *spill) nonce(n uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4), n)
}

// each calls yield with every chunk of a lane, decompressed and whole records
// each, and forgets it. Nothing may be added to the lane any more.
func (s *spill) each(n int, yield func([]byte) error) error {
	l := &s.lanes[n]
	for _, c := range l.chunks {
		if c.bytes == nil {
			c.bytes = make([]byte, c.size)
			if _, err := s.file.ReadAt(c.bytes, c.at); err != nil {
				return err
			}
		}
		packed, err := s.seal.Open(c.bytes[:0], s.nonce(c.nonce), c.bytes, nil)
		if err != nil {
			return errors.New("the file of what verification set aside was changed")
		}
		records, err := s.unpack.DecodeAll(packed, make([]byte, 0, chunkSize+chunkSize/4))
		if err != nil {
			return err
		}
		if err := yield(records); err != nil {
			return err
		}
	}
	open := l.open
	*l = lane{}
	if len(open) == 0 {
		return nil
	}
	return yield(open)
}

func (s *spill) close() error {
	s.unpack.Close()
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// Records are made of numbers and texts. Reading believes what it reads: it is
// sealed.

func putText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func putEvent(b []byte, e es.Recorded) []byte {
	b = append(b, e.ID[:]...)
	b = putText(putText(b, e.Stream), e.Type)
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(e.Revision)), uint64(e.Position))
	b = binary.AppendVarint(binary.AppendVarint(b, e.Recorded.Unix()), int64(e.Recorded.Nanosecond()))
	return putText(putText(b, e.Data), e.Metadata)
}

// reader reads records, and keeps one copy of texts that come again and again.
type reader struct {
	rest  []byte
	texts map[string]string
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	r.rest = r.rest[size:]
	return n
}

func (r *reader) signed() int64 {
	n, size := binary.Varint(r.rest)
	r.rest = r.rest[size:]
	return n
}

// bytes may be of the chunk.
func (r *reader) bytes() []byte {
	n := r.number()
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) text() string { return string(r.bytes()) }

func (r *reader) common() string {
	b := r.bytes()
	text, ok := r.texts[string(b)]
	if !ok {
		text = string(b)
		r.texts[text] = text
	}
	return text
}

func (r *reader) event() (e es.Recorded) {
	copy(e.ID[:], r.rest)
	r.rest = r.rest[len(e.ID):]
	e.Stream, e.Type = r.common(), r.common()
	e.Revision, e.Position = es.Revision(r.number()), es.Position(r.number())
	e.Recorded = time.Unix(r.signed(), r.signed()).UTC()
	e.Data, e.Metadata = r.bytes(), r.bytes()
	return e
}

// ordered is a fact, where its event stands in the log, and of which room it is.
type ordered struct {
	es.Fact
	nth  uint64
	room int
}

func (f ordered) put(b []byte) []byte {
	b = binary.AppendUvarint(append(b, byte(f.room)), f.nth)
	b = binary.AppendUvarint(putText(putText(b, f.Key), f.Kind), uint64(len(f.Args)))
	for _, a := range f.Args {
		b = putText(b, a)
	}
	return putEvent(b, f.At)
}

func (r *reader) fact() (f ordered) {
	f.room, r.rest = int(r.rest[0]), r.rest[1:]
	f.nth, f.Key, f.Kind = r.number(), r.text(), r.common()
	f.Args = make([]string, r.number())
	for i := range f.Args {
		f.Args[i] = r.text()
	}
	f.At = r.event()
	return f
}

func inOrder(a, b ordered) int { return cmp.Compare(a.nth, b.nth) }
