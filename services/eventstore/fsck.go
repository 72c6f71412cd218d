package eventstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"strconv"
	"time"

	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
)

// FsckConfig says what Fsck checks. Dir is required.
type FsckConfig struct {
	Dir string
	FS  vfs.FS // nil means the disk
	// Each, if set, is called with every sound event, stream by stream, each
	// stream in order of revision, so that a caller can check what it knows of
	// them, such as a hash chain. An error is a fault of that event.
	Each func(CheckedEvent) error
	// Log, if set, is called with every sound event in the order of the log, before
	// Each is with the first. An error is a fault of that event.
	Log func(CheckedEvent) error
}

// CheckedEvent is an event as Fsck hands it on. Data and Metadata are valid
// until the call returns.
type CheckedEvent struct {
	Stream         string
	Revision       int64
	Position       uint64
	ID             uuid.UUID
	Type           string
	Data, Metadata []byte
	Created        time.Time
}

// Report is what Fsck found.
type Report struct {
	Events       int    // in position order
	Streams      int    // metastreams and system streams included
	LastPosition uint64 // of the newest event
	Bytes        int64  // of records, each counted once
	Faults       int
	First        []Fault // the first of them, at most 20
}

// OK reports whether nothing was wrong.
func (r Report) OK() bool { return r.Faults == 0 }

// Fault is one thing that is wrong, at a key of the store.
type Fault struct{ Key, Text string }

func (f Fault) String() string { return f.Key + ": " + f.Text }

// Fsck checks a store that no node has open, and changes nothing: Pebble's
// checksums and level invariants; that positions have no gap and revisions of
// each stream neither; that every event decodes and is what its header and key
// say; and that both orders hold the same records. An error means that the store
// could not be opened, which is a fault too, or that ctx ended first.
func Fsck(ctx context.Context, cfg FsckConfig) (Report, error) {
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	quiet := slog.New(slog.DiscardHandler)
	var fatal error
	st, err := openStore(cfg.Dir, cfg.FS, quiet, func(reason string) { fatal = fmt.Errorf("storage: %s", reason) }, true, nil)
	if err != nil {
		return Report{}, fmt.Errorf("fsck %s: %w", cfg.Dir, err)
	}
	c := &checker{store: st, ctx: ctx, each: cfg.Each, log: cfg.Log, seed: maphash.MakeSeed()}
	c.positions()
	c.streams()
	if c.report.OK() && c.sums[0] != c.sums[1] {
		c.compare()
	}
	if ctx.Err() == nil {
		if err := st.db.CheckLevels(nil); err != nil {
			c.fault("levels", err.Error())
		}
	}
	if fatal != nil {
		c.fault("storage", fatal.Error())
	}
	if err := errors.Join(st.db.Close(), ctx.Err()); err != nil {
		return c.report, fmt.Errorf("fsck %s: %w", cfg.Dir, err)
	}
	return c.report, nil
}

type checker struct {
	store  *store
	ctx    context.Context
	each   func(CheckedEvent) error
	log    func(CheckedEvent) error
	seed   maphash.Seed
	report Report
	// sums of the hashes of all records in position order and in stream order.
	// They do not depend on the order, so equal sums mean equal sets.
	sums [2]uint64
}

func (c *checker) fault(key, text string) {
	c.report.Faults++
	if len(c.report.First) < 20 {
		c.report.First = append(c.report.First, Fault{key, text})
	}
}

// walk calls check with every key and value of one order. A block that cannot
// be read ends it.
func (c *checker) walk(order byte, name func([]byte) string, check func(key []byte, r record)) {
	it, err := c.store.db.NewIter(&pebble.IterOptions{LowerBound: []byte{order}, UpperBound: []byte{order + 1}})
	if err != nil {
		c.fault("order "+string(order), err.Error())
		return
	}
	last := "the start"
	for ok := it.First(); ok && c.ctx.Err() == nil; ok = it.Next() {
		key := it.Key()
		v, err := it.ValueAndErr()
		if err == nil {
			err = record(v).check()
		}
		if err != nil {
			c.fault(name(key), err.Error())
			continue
		}
		check(key, record(v))
		last = name(key)
	}
	if err := it.Error(); err != nil {
		c.fault("after "+last, err.Error())
	}
	if err := it.Close(); err != nil && c.report.OK() {
		c.fault("order "+string(order), err.Error())
	}
}

func (c *checker) positions() {
	var last uint64
	c.walk('p', positionName, func(key []byte, r record) {
		if len(key) != 9 || keyPosition(key) != r.position() {
			c.fault(positionName(key), "the record is of position "+strconv.FormatUint(r.position(), 10))
			return
		}
		if r.position() != last+1 {
			c.fault(positionName(key), "follows position "+strconv.FormatUint(last, 10))
		}
		last = r.position()
		c.sums[0] += maphash.Bytes(c.seed, r)
		c.report.Events++
		c.report.Bytes += int64(len(r))
		if c.log != nil {
			if err := c.event(r, c.log); err != nil {
				c.fault(positionName(key), err.Error())
			}
		}
	})
	c.report.LastPosition = last
}

func (c *checker) streams() {
	var stream []byte
	var revision int64
	var position uint64
	c.walk('s', streamKeyName, func(key []byte, r record) {
		name, rev, ok := splitStreamKey(key)
		if !ok || !bytes.Equal(name, r.stream()) || rev != r.revision() {
			c.fault(streamKeyName(key), fmt.Sprintf("the record is of stream %q revision %d", r.stream(), r.revision()))
			return
		}
		if stream == nil || !bytes.Equal(name, stream) {
			stream, revision, position = bytes.Clone(name), noRevision, 0
			c.report.Streams++
		}
		if rev != revision+1 && rev != tombstoneRevision {
			c.fault(streamKeyName(key), "follows revision "+strconv.FormatInt(revision, 10))
		}
		if r.position() <= position {
			c.fault(streamKeyName(key), fmt.Sprintf("position %d follows %d", r.position(), position))
		}
		revision, position = rev, r.position()
		c.sums[1] += maphash.Bytes(c.seed, r)
		if err := c.event(r, c.each); err != nil {
			c.fault(streamKeyName(key), err.Error())
		}
	})
}

// event checks that the frame says what the header says, and hands it on.
func (c *checker) event(r record, to func(CheckedEvent) error) error {
	ev, err := decodeEvent(r)
	if err != nil {
		return err
	}
	id, err := parseUUID(ev.GetId())
	if err != nil {
		return err
	}
	created, err := strconv.ParseInt(ev.GetMetadata()["created"], 10, 64)
	if err != nil {
		return fmt.Errorf("created: %w", err)
	}
	if id != r.id() || ev.GetMetadata()["type"] != string(r.typ()) || created != r.created() ||
		!bytes.Equal(ev.GetStreamIdentifier().GetStreamName(), r.stream()) || int64(ev.GetStreamRevision()) != r.revision() ||
		ev.GetCommitPosition() != r.position() || ev.GetPreparePosition() != r.position() || isJSON(ev) != r.json() {
		return fmt.Errorf("the frame disagrees with the header")
	}
	if to == nil {
		return nil
	}
	return to(CheckedEvent{
		Stream: string(r.stream()), Revision: r.revision(), Position: r.position(), ID: uuid.UUID(id), Type: string(r.typ()),
		Data: ev.GetData(), Metadata: ev.GetCustomMetadata(), Created: ticksTime(created),
	})
}

func isJSON(ev *streamspb.ReadResp_ReadEvent_RecordedEvent) bool {
	return ev.GetMetadata()["content-type"] == "application/json"
}

// compare finds the records that one order has and the other has not, one Get
// each; it runs only when the sums differ.
func (c *checker) compare() {
	c.walk('p', positionName, func(key []byte, r record) {
		other, ok, err := c.store.get(streamKey(string(r.stream()), uint64(r.revision())))
		if err != nil || !ok || !bytes.Equal(other, r) {
			c.fault(positionName(key), fmt.Sprintf("stream order has another record or none (error: %v)", err))
		}
	})
	c.walk('s', streamKeyName, func(key []byte, r record) {
		if other, ok, err := c.store.get(positionKey(r.position())); err != nil || !ok || !bytes.Equal(other, r) {
			c.fault(streamKeyName(key), fmt.Sprintf("position order has another record or none (error: %v)", err))
		}
	})
}

func keyPosition(key []byte) uint64 { return binary.BigEndian.Uint64(key[1:]) }

func positionName(key []byte) string {
	if len(key) != 9 {
		return fmt.Sprintf("key %x", key)
	}
	return "position " + strconv.FormatUint(keyPosition(key), 10)
}

// splitStreamKey takes a key of stream order apart.
func splitStreamKey(key []byte) (stream []byte, revision int64, ok bool) {
	if len(key) < 11 {
		return nil, 0, false
	}
	n := int(binary.BigEndian.Uint16(key[1:]))
	rev := uint64(0)
	if len(key) != 3+n+8 {
		return nil, 0, false
	}
	if rev = binary.BigEndian.Uint64(key[3+n:]); rev > math.MaxInt64 {
		return nil, 0, false
	}
	return key[3 : 3+n], int64(rev), true
}

func streamKeyName(key []byte) string {
	stream, revision, ok := splitStreamKey(key)
	if !ok {
		return fmt.Sprintf("key %x", key)
	}
	return fmt.Sprintf("stream %q revision %d", stream, revision)
}
