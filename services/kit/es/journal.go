package es

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A journal is a file with the events that a Follower took in, in log order: its
// own part of the log, so that a start need not go through all of it. It holds
// events and not what was made of them, so that other code may make more of them;
// it holds all that the log holds of them, personal data too.
//
// It is a cache. Nothing is synced: what a crash tore off is read from the log
// again. A file that cannot be read or written is done without. Its last entry is
// looked up in the log; where the log does not have it, because it was replaced or
// restored from a backup, the file begins again. That entry may be of a stream that
// is not followed, so that one who finds little begins near the end of the log too.
//
// One process has it. A second one that adds to it does no harm: entries out of
// order end the file.
//
// The file begins with a line that says what is followed. An entry is its length
// and sum, 4 bytes each, then position(8) revision(8) recorded(8) id(16), and
// stream, type, data and metadata, each behind its length as a varint. An entry
// without a type is a mark: an event that was passed over, here or (type "-") elsewhere.
type journal struct {
	file    *os.File
	out     *bufio.Writer
	last    Recorded // the newest event that was followed or passed over, noted or not
	unnoted int      // events since the last entry

	unchecked bool // planted, see Follower
}

const (
	journalFormat = "waymark journal 2: "
	entryHead     = 8
	entryFixed    = 8 + 8 + 8 + 16
	// elsewhere is the type of a mark that may be of a stream that is not followed.
	elsewhere = "-"
	// mostUnnoted events lie between two entries, so that few are passed over twice.
	mostUnnoted = 4096
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal opens or makes the journal called name in dir, of what is followed.
func openJournal(dir, name, of string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{file: file, out: bufio.NewWriterSize(file, 1<<16)}
	head := []byte(journalFormat + of + "\n")
	is := make([]byte, len(head))
	if _, err := io.ReadFull(file, is); err != nil || string(is) != string(head) {
		if err := file.Truncate(0); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if _, err := file.Write(head); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return j, nil
}

// errUnusable is a file that cannot be read or cut.
var errUnusable = errors.New("journal")

// restore hands on the events of the file, in order, and returns the position of the
// newest that was followed, noted or not; 0 where the log does not have the last entry.
// Its errors are those of the log, of yield, and errUnusable.
func (j *journal) restore(ctx context.Context, log Log, yield func(Recorded) error) (own Position, err error) {
	begin, err := j.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, errUnusable
	}
	last, end := Recorded{}, begin
	if err := j.each(begin, func(e Recorded, next int64) error {
		last, end = e, next
		if e.Type != elsewhere {
			own = e.Position
		}
		return nil
	}); err != nil {
		return 0, err
	}
	if last.Stream != "" && !j.unchecked {
		found, err := Holds(ctx, log, last)
		if err != nil {
			return 0, err
		}
		if !found {
			last, own, end = Recorded{}, 0, begin
		}
	}
	if j.file.Truncate(end) != nil {
		return 0, errUnusable
	}
	j.last, j.unnoted = last, 0
	return own, j.each(begin, func(e Recorded, _ int64) error {
		if e.Type == "" || e.Type == elsewhere {
			return nil
		}
		return yield(e)
	})
}

// each reads entries from a place on, until one that is torn, damaged or out of
// order, with the place behind each.
func (j *journal) each(at int64, yield func(e Recorded, next int64) error) error {
	if _, err := j.file.Seek(at, io.SeekStart); err != nil {
		return errUnusable
	}
	in, before := bufio.NewReaderSize(j.file, 1<<18), Position(0)
	for {
		var head [entryHead]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return nil
		}
		size := binary.BigEndian.Uint32(head[:])
		if size < entryFixed || size > 64<<20 {
			return nil
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(in, body); err != nil || crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
			return nil
		}
		e, ok := entryOf(body)
		if !ok || e.Position <= before {
			return nil
		}
		before, at = e.Position, at+entryHead+int64(size)
		if err := yield(e, at); err != nil {
			return err
		}
	}
}

func entryOf(b []byte) (e Recorded, ok bool) {
	e.Position, e.Revision = Position(binary.BigEndian.Uint64(b)), Revision(binary.BigEndian.Uint64(b[8:]))
	e.Recorded, e.ID = time.Unix(0, int64(binary.BigEndian.Uint64(b[16:]))).UTC(), uuid.UUID(b[24:entryFixed])
	b = b[entryFixed:]
	var parts [4][]byte
	for i := range parts {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return e, false
		}
		parts[i], b = b[size:size+int(n):size+int(n)], b[size+int(n):]
	}
	e.Stream, e.Type, e.Data, e.Metadata = string(parts[0]), string(parts[1]), parts[2], parts[3]
	return e, len(b) == 0 && e.Stream != ""
}

// add takes note of an event that was followed: all of it where it is noted, else
// only now and then that it was there.
func (j *journal) add(e Recorded, noted bool) error {
	j.last = e
	if noted {
		return j.write(e)
	}
	if j.unnoted++; j.unnoted < mostUnnoted {
		return nil
	}
	return j.mark()
}

// passed notes that nothing is missing up to an event, of whatever stream.
func (j *journal) passed(e Recorded) error {
	if e.Position <= j.last.Position {
		return nil
	}
	if err := j.mark(); err != nil {
		return err
	}
	j.last = e
	e.Type, e.Data, e.Metadata = elsewhere, nil, nil
	return j.write(e)
}

// mark notes how far the file is complete.
func (j *journal) mark() error {
	if j.unnoted == 0 {
		return nil
	}
	e := j.last
	e.Type, e.Data, e.Metadata = "", nil, nil
	return j.write(e)
}

func (j *journal) write(e Recorded) error {
	j.unnoted = 0
	b := make([]byte, entryHead, entryHead+entryFixed+len(e.Stream)+len(e.Type)+len(e.Data)+len(e.Metadata)+16)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Position))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Revision))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Recorded.UnixNano()))
	b = append(b, e.ID[:]...)
	for _, part := range [][]byte{[]byte(e.Stream), []byte(e.Type), e.Data, e.Metadata} {
		b = append(binary.AppendUvarint(b, uint64(len(part))), part...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-entryHead))
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[entryHead:], castagnoli))
	_, err := j.out.Write(b)
	return err
}

func (j *journal) close() { j.file.Close() }

// Holds reports whether a log has an event at its place, by which a read model finds
// whether it was made of this log. Positions are of one log: the same event elsewhere
// is in another.
func Holds(ctx context.Context, log Log, e Recorded) (found bool, err error) {
	seen := errors.New("seen")
	err = log.Read(ctx, e.Stream, e.Revision, func(r Recorded) error {
		found = r.ID == e.ID && r.Revision == e.Revision && r.Position == e.Position
		return seen
	})
	if errors.Is(err, seen) {
		err = nil
	}
	return found, err
}

// wanted reports whether events of a type are among types, of which one that ends
// in a dot stands for all that begin with it; no types are all.
func wanted(types []string, typ string) bool {
	return len(types) == 0 || slices.ContainsFunc(types, func(t string) bool {
		return t == typ || strings.HasSuffix(t, ".") && strings.HasPrefix(typ, t)
	})
}
