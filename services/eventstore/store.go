package eventstore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"

	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
)

// store is the Pebble database: keys, records and scans. Any goroutine may read;
// only the sequencer writes.
type store struct {
	db *pebble.DB
	id uuid.UUID // of this node, made with the store
}

var (
	keyFormat = []byte("iformat")
	keyID     = []byte("iid")
)

const storeFormat = "waymark-eventstore-1"

// openStore opens or makes the database in dir. fatal is called for errors that
// Pebble cannot survive, such as a failed sync of its log.
func openStore(dir string, fs vfs.FS, log *slog.Logger, fatal func(string), readOnly bool, tune func(*pebble.Options)) (*store, error) {
	opts := &pebble.Options{
		FS:                 fs,
		FormatMajorVersion: pebble.FormatNewest,
		// Memtables bound what a start has to replay, 32 MiB about, and how often what
		// is stored is written again: stream order mixes new with old, so most of an
		// append's cost beside its sync is compaction. Hence the patience of L0 too.
		MemTableSize:                32 << 20,
		MemTableStopWritesThreshold: 3,
		CacheSize:                   (64 + 32) << 20, // Pebble takes two memtables off it, the one in use and the last: 32 MiB of blocks are left
		MaxOpenFiles:                4096,
		BytesPerSync:                512 << 10,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       64,
		Logger:                      pebbleLogger{log, fatal},
		ReadOnly:                    readOnly,
		ErrorIfNotExists:            readOnly,
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { log.Error("event store: storage background error", "err", err) },
			// Reads of the damaged part fail with DATA_LOSS; the rest is served.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				log.Error("event store: damaged data found, run fsck", "detail", info.String())
			},
		},
	}
	// Events resemble their neighbours: larger blocks compress better, and reads are
	// scans, which they make cheaper.
	for i := range opts.Levels {
		opts.Levels[i].BlockSize = 16 << 10
		opts.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.FastestCompression }
	}
	if tune != nil {
		tune(opts)
	}
	if err := checkLogTail(fs, dir); err != nil {
		return nil, err
	}
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, err
	}
	s := &store{db: db}
	if err := s.identify(readOnly); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// identify checks that the database is an event store of a format we know, and
// makes a new one so.
func (s *store) identify(readOnly bool) error {
	format, ok, err := s.get(keyFormat)
	if err != nil {
		return err
	}
	if ok {
		if string(format) != storeFormat {
			return fmt.Errorf("the data folder holds format %q, this node reads %q", format, storeFormat)
		}
		id, _, err := s.get(keyID)
		if err != nil {
			return err
		}
		s.id, err = uuid.FromBytes(id)
		return err
	}
	if readOnly {
		return errors.New("the data folder holds no event store")
	}
	s.id = uuid.New()
	b := s.db.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set(keyFormat, []byte(storeFormat), nil), b.Set(keyID, s.id[:], nil)); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return err
	}
	// Pebble begins the log of a new database in an old format, in which damage
	// cannot be told from the end: see checkLogTail. A flush begins another log.
	return s.db.Flush()
}

func (s *store) get(key []byte) ([]byte, bool, error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer closer.Close()
	return bytes.Clone(v), true, nil
}

// all calls yield for the records with positions first to last, both included,
// in rising order or backwards in falling order, until yield says stop. The
// record is valid until yield returns.
func (s *store) all(first, last uint64, backwards bool, yield func(record) bool) error {
	if first > last {
		return nil
	}
	bounds := &pebble.IterOptions{LowerBound: positionKey(first)}
	if last == math.MaxUint64 {
		bounds.UpperBound = []byte{'p' + 1}
	} else {
		bounds.UpperBound = positionKey(last + 1)
	}
	return s.scan(bounds, backwards, yield)
}

// stream does the same for the records of one stream by revision.
func (s *store) stream(name string, first, last int64, backwards bool, yield func(record) bool) error {
	if first > last {
		return nil
	}
	return s.scan(&pebble.IterOptions{
		LowerBound: streamKey(name, uint64(first)),
		UpperBound: streamKey(name, uint64(last)+1),
	}, backwards, yield)
}

func (s *store) scan(bounds *pebble.IterOptions, backwards bool, yield func(record) bool) error {
	it, err := s.db.NewIter(bounds)
	if err != nil {
		return err
	}
	step, ok := it.Next, false
	if backwards {
		step, ok = it.Prev, it.Last()
	} else {
		ok = it.First()
	}
	for ; ok; ok = step() {
		v, err := it.ValueAndErr()
		if err == nil {
			err = record(v).check()
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if !yield(record(v)) {
			break
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// event returns a copy of one record of a stream, nil when there is none up to
// position upTo.
func (s *store) event(stream string, revision int64, upTo uint64) (record, error) {
	v, ok, err := s.get(streamKey(stream, uint64(revision)))
	if err != nil || !ok {
		return nil, err
	}
	r := record(v)
	if err := r.check(); err != nil {
		return nil, err
	}
	if r.position() > upTo {
		return nil, nil
	}
	return r, nil
}

// lastPosition returns the position and time of the newest record, 0 when empty.
func (s *store) lastPosition() (position uint64, created int64, err error) {
	err = s.all(0, math.MaxUint64, true, func(r record) bool {
		position, created = r.position(), r.created()
		return false
	})
	return position, created, err
}

// head reads what decides about a stream, as it was when upTo was the last
// position.
func (s *store) head(stream string, upTo uint64) (*head, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{'s'}, UpperBound: []byte{'s' + 1}})
	if err != nil {
		return nil, err
	}
	h, err := readHead(it, stream, upTo)
	return h, errors.Join(err, it.Close())
}

func readHead(it *pebble.Iterator, stream string, upTo uint64) (*head, error) {
	h := &head{last: noRevision}
	r, err := seekLast(it, stream, upTo)
	if err != nil {
		return nil, err
	}
	if r != nil {
		h.last, h.position = r.revision(), r.position()
		h.tombstoned = h.last == tombstoneRevision
	}
	if isMetastream(stream) {
		h.meta = metastreamMeta()
		r, err := seekLast(it, originalOf(stream), upTo)
		if err != nil {
			return nil, err
		}
		h.tombstoned = h.tombstoned || r != nil && r.revision() == tombstoneRevision
		return h, nil
	}
	r, err = seekLast(it, metastreamOf(stream), upTo)
	if err != nil || r == nil {
		return h, err
	}
	ev, err := decodeEvent(r)
	if err != nil {
		return nil, err
	}
	h.setMeta(ev.GetData())
	return h, nil
}

// seekLast returns the newest record of a stream not above position upTo, nil
// when there is none. It is valid until the iterator moves.
func seekLast(it *pebble.Iterator, stream string, upTo uint64) (record, error) {
	end := streamKey(stream, math.MaxUint64)
	prefix := end[:len(end)-8]
	for ok := it.SeekLT(end); ok; ok = it.Prev() {
		if k := it.Key(); len(k) != len(end) || !bytes.HasPrefix(k, prefix) {
			return nil, nil
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		r := record(v)
		if err := r.check(); err != nil {
			return nil, err
		}
		if r.position() <= upTo {
			return r, nil
		}
	}
	return nil, it.Error()
}

// decodeEvent decodes the event in a record's frame.
func decodeEvent(r record) (*streamspb.ReadResp_ReadEvent_RecordedEvent, error) {
	var resp streamspb.ReadResp
	if err := proto.Unmarshal(r.frame(), &resp); err != nil {
		return nil, fmt.Errorf("frame at position %d: %w", r.position(), err)
	}
	return resp.GetEvent().GetEvent(), nil
}

// linkTarget reads the data of a link event, "revision@stream".
func linkTarget(data []byte) (stream string, revision int64, ok bool) {
	rev, name, found := bytes.Cut(data, []byte("@"))
	if !found || len(name) == 0 || len(name) > maxName {
		return "", 0, false
	}
	revision, err := strconv.ParseInt(string(rev), 10, 64)
	return string(name), revision, err == nil && revision >= 0
}

// pebbleLogger hands Pebble's messages on. Fatalf must not return to a caller
// that goes on writing, so it ends the process by way of fatal.
type pebbleLogger struct {
	log   *slog.Logger
	fatal func(string)
}

func (l pebbleLogger) Infof(format string, args ...any) {}
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("event store: storage", "detail", fmt.Sprintf(format, args...))
}
func (l pebbleLogger) Fatalf(format string, args ...any) { l.fatal(fmt.Sprintf(format, args...)) }
