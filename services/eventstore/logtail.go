package eventstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// checkLogTail finds damage that Pebble takes for the end of its write-ahead log.
//
// At a start Pebble reads its newest log up to the first chunk that is not
// whole, because a crash leaves such a one where the last write was torn. A chunk
// that was damaged later looks the same. Pebble tells the two apart by what
// follows, but looks at the following blocks of 32 KiB only (v2.1.7): a bit
// flipped in the last block would silently drop the acknowledged events behind it.
//
// Each chunk carries the offset up to which the log was synced when it was
// written. So a whole chunk that promises a sync beyond a broken one proves
// damage, wherever it is. What nothing can prove is damage to the last sync's own
// chunks: it looks as if the sync had never ended.
func checkLogTail(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		if _, statErr := fs.Stat(dir); statErr != nil {
			return nil // there is no store yet
		}
		return err
	}
	newest, name := uint64(0), ""
	for _, n := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(n, ".log"), 10, 64)
		if err == nil && path.Ext(n) == ".log" && number >= newest {
			newest, name = number, n
		}
	}
	if name == "" {
		return nil
	}
	f, err := fs.Open(fs.PathJoin(dir, name))
	if err != nil {
		return err
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if broken, ok := damagedAt(b, uint32(newest)); ok {
		return fmt.Errorf("%s is damaged at byte %d, before its end: %w", name, broken, pebble.ErrCorruption)
	}
	return nil
}

// The layout of a log in Pebble's "WAL sync chunk" format: blocks, in which
// chunks follow each other that do not cross a block's end. Numbers are little
// endian.
//
//	offset 0   checksum of all from the kind on
//	       4   length of the payload: 2 bytes
//	       6   kind: 9 to 12
//	       7   number of the log: 4 bytes
//	      11   offset up to which the log is synced: 8 bytes
//	      19   payload
const (
	logBlock       = 32 << 10
	logChunkHeader = 19
)

// damagedAt returns the offset of the first broken chunk, if a later one proves
// that it was whole once.
func damagedAt(b []byte, log uint32) (broken int, damaged bool) {
	at := 0
	for {
		if logBlock-at%logBlock < logChunkHeader { // the end of a block is left free
			at += logBlock - at%logBlock
		}
		length, _, whole := logChunk(b, at, log)
		if !whole {
			break
		}
		at += length
	}
	// A broken chunk does not tell where the next one begins.
	for next := at + 1; next+logChunkHeader <= len(b); next++ {
		if _, synced, whole := logChunk(b, next, log); whole && synced > uint64(at) {
			return at, true
		}
	}
	return 0, false
}

// logChunk reads the chunk at an offset.
func logChunk(b []byte, at int, log uint32) (length int, synced uint64, whole bool) {
	if at+logChunkHeader > len(b) || binary.LittleEndian.Uint32(b[at+7:]) != log || b[at+6] < 9 || b[at+6] > 12 {
		return 0, 0, false
	}
	length = logChunkHeader + int(binary.LittleEndian.Uint16(b[at+4:]))
	if at+length > len(b) || at%logBlock+length > logBlock {
		return 0, 0, false
	}
	sum := crc32.Checksum(b[at+6:at+length], crc32.MakeTable(crc32.Castagnoli))
	if sum = sum>>15 | sum<<17; sum+0xa282ead8 != binary.LittleEndian.Uint32(b[at:]) {
		return 0, 0, false
	}
	return length, binary.LittleEndian.Uint64(b[at+11:]), true
}
