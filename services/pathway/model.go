package pathway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/planted"
)

// modelVersion names what the fold and the indexes make of the log. Another
// version is built in another folder, beside the old one.
const modelVersion = 7

// model is the read model: every pathway as fold sees it, with indexes, and the
// position that they are complete to, written in one batch. It is a cache without
// a log of its own: a process that is killed loses the newest batches, position and
// all (32 MiB at most, none once keep has returned), and folds them again.
//
// Beside the position stands the last event that was taken in. A model begins
// where it left off only if the log still has that event; a log that was put in
// the place of another, or restored from a backup, is folded from its beginning.
//
// Keys, each by its first byte:
//
//	m                                    position(8), and of the last event taken in position(8) id(16) revision(8) stream
//	v pathway                            pb.Pathway
//	n person                             pb.Person
//	l lead                               pb.Lead
//	k pathway                            pb.ConcernCodes
//	h party 0 pathway                    held by that party
//	g party 0 position(8) pathway        gone from that party at that position
//	d due(8) pathway 0 n(2)              deadline n of the view
//	s due(8) pathway 0 n(2)              the same, of those that the sweep has to tell of
//	o due(8) pathway                     an offer waits for its answer
//	b due(8) pathway 0 task              to be booked
//	p pathway                            id of its person
type model struct {
	log  es.Log
	slog *slog.Logger
	db   *pebble.DB

	mu       sync.Mutex // guards all below
	position es.Position
	moved    chan struct{} // closed and renewed with each batch
	fresh    time.Time     // when the model last held all that the log did
	failed   error         // why it stands still
	remade   bool          // in the place of a damaged one: until it is complete it answers nothing

	damaged chan struct{} // closed when damage is met
	// Owned by follow, which is the one writer; a shard by whoever works on it.
	last     mark
	taken    es.Position // what the shards are complete to: position, or beyond
	patience int         // how many events at a time tell that more is behind them
	unkept   int         // how many changed messages wait to be stored at most, more or less
	batch    int         // of those taken in since the shards were empty
	shards   [shards]shard
	whole    bool // the shards hold all that the store does

	// What tests set to plant the bugs that they must catch: the position is stored
	// before what it stands for; an event is folded as often as it is delivered; what
	// was put away is taken for what never was; what was not stored yet when an event
	// could not be taken in is not asked for again.
	positionFirst, repeats, forgetful, careless bool
}

// spoiled is a file in the folder of what damage was met in. A model that has it is not
// opened again.
const spoiled = "SPOILED"

func openModel(log es.Log, logger *slog.Logger, dir string, fs vfs.FS) (*model, error) {
	if _, err := fs.Stat(fs.PathJoin(dir, spoiled)); err == nil {
		return nil, fmt.Errorf("damage was met in it: %w", pebble.ErrCorruption)
	}
	damaged := make(chan struct{})
	met := sync.OnceFunc(func() { // whoever reads gets an error; left to itself Pebble would end the process, at every start
		logger.Error("the read model is damaged: it is made again", slog.String("event.name", "pathway.model.damaged"))
		if f, err := fs.Create(fs.PathJoin(dir, spoiled), vfs.WriteCategoryUnspecified); err == nil {
			f.Close()
		}
		close(damaged)
	})
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quietLogger{},
		EventListener:         &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) { met() }},
		DisableWAL:            true,            // the event log is there to be read again
		CacheSize:             (64 + 32) << 20, // Pebble takes two memtables off it, the one in use and the last: 32 MiB of blocks are left
		MemTableSize:          32 << 20,        // views are stored again and again: few of their versions are to reach a table
		L0CompactionThreshold: 8,               // the first tables are small: with 4 they are compacted while a rebuild goes on
		L0StopWritesThreshold: 24,
	})
	if err != nil {
		return nil, fmt.Errorf("read model, of which another process may have the folder (--models): %w", err)
	}
	m := &model{log: log, slog: logger, db: db, moved: make(chan struct{}), damaged: damaged, patience: atOnce / 2, unkept: unkept}
	m.forget()
	at, last, err := readMark(db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	m.position, m.taken, m.last = at, at, last
	return m, nil
}

func (m *model) close() error { return errors.Join(m.keep(), m.db.Close()) }

// keep puts what was written where a crash leaves it.
func (m *model) keep() error { return m.db.Flush() }

// quietLogger drops what Pebble tells: the model can always be made again.
type quietLogger struct{}

func (quietLogger) Infof(string, ...any)  {}
func (quietLogger) Errorf(string, ...any) {}
func (quietLogger) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("read model: "+format, args...))
}

// mark is the last event that a model took in, as found again in a log.
type mark struct {
	position es.Position
	id       uuid.UUID
	revision es.Revision
	stream   string // "" when there was none
}

const markLen = 8 + 8 + 16 + 8 // without the stream

func appendMark(at es.Position, last mark) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(at))
	b = binary.BigEndian.AppendUint64(b, uint64(last.position))
	b = append(b, last.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(last.revision))
	return append(b, last.stream...)
}

// readMark reads what a model is complete to.
func readMark(r pebble.Reader) (at es.Position, last mark, err error) {
	value, closer, err := r.Get([]byte{'m'})
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, mark{}, nil
	}
	if err != nil {
		return 0, mark{}, err
	}
	defer closer.Close()
	if len(value) < markLen {
		return 0, mark{}, fmt.Errorf("it does not say what it is complete to: %w", pebble.ErrCorruption)
	}
	last = mark{position: es.Position(binary.BigEndian.Uint64(value[8:])), id: uuid.UUID(value[16:32]),
		revision: es.Revision(binary.BigEndian.Uint64(value[32:])), stream: string(value[markLen:])}
	return es.Position(binary.BigEndian.Uint64(value)), last, nil
}

// foundIn reports whether a log has the event at its place. Positions are of one
// log: the same event elsewhere is in another.
func (k mark) foundIn(ctx context.Context, log es.Log) (found bool, err error) {
	if k.stream == "" {
		return true, nil // nothing to be found
	}
	return es.Holds(ctx, log, es.Recorded{ID: k.id, Stream: k.stream, Revision: k.revision, Position: k.position})
}

// begin finds where in the log the model goes on: behind the last event that it
// took in, so that all it has passed over since is looked at again; at the
// beginning, emptied, where the log does not have that event.
func (m *model) begin(ctx context.Context) error {
	m.forget() // what a run before this one left half done
	at, last, err := readMark(m.db)
	if err != nil {
		return err
	}
	found, err := last.foundIn(ctx, m.log)
	if err != nil {
		return err
	}
	if !found {
		m.slog.WarnContext(ctx, "the log is not the one that the lists were made of: they are made again from its beginning",
			slog.String("event.name", "pathway.model.log_replaced"), slog.Uint64("position", uint64(at)))
		last = mark{}
	}
	m.last, m.whole = last, last.stream == ""
	if m.taken = last.position; at == last.position {
		return nil
	}
	b := m.db.NewBatch()
	defer b.Close()
	if !found {
		if err := b.DeleteRange([]byte{0}, []byte{0xff}, nil); err != nil {
			return err
		}
	}
	if err := b.Set([]byte{'m'}, appendMark(last.position, last), nil); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	m.position, m.fresh = last.position, time.Time{}
	return nil
}

// get reads one message; found is false where there is none.
func get(r pebble.Reader, key []byte, into stored) (found bool, err error) {
	value, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer closer.Close()
	return true, into.UnmarshalVT(value)
}

const idleFor = time.Second

// follow takes in the log from where the model stands, until ctx ends or an
// event cannot be taken in. Events that wait are taken in together, in one batch.
func (m *model) follow(ctx context.Context, now func() time.Time) (err error) {
	for err = errUnkept; errors.Is(err, errUnkept); {
		err = m.goOn(ctx, now)
	}
	return err
}

// goOn does so until the shards have lost what they held.
func (m *model) goOn(ctx context.Context, now func() time.Time) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.fail(nil)
	defer func() {
		if ctx.Err() == nil || !errors.Is(err, context.Canceled) {
			m.fail(err)
		}
	}()
	if err := m.begin(ctx); err != nil {
		return err
	}
	after := m.at()
	box, events := newInbox(), []*es.Recorded(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		// Every stream: a position that a caller waits for may be of any.
		cancel(m.log.Subscribe(ctx, after, es.Filter{NoMetadata: true}, func(msg es.Message) error { return box.put(ctx, msg) }))
	})
	wg.Go(func() {
		if err := m.compare(ctx, now); err != nil {
			cancel(err)
		}
	})
	for kept := false; ; {
		select {
		case <-box.some:
			caughtUp, fresh := false, time.Time{}
			if events, caughtUp = box.empty(events); caughtUp {
				fresh = now()
			}
			if err := m.drain(events, fresh); err != nil {
				return err
			}
			if caughtUp && !kept { // what a start had to fold is not to be folded at the next
				if _, err := m.db.AsyncFlush(); err != nil {
					return err
				}
				kept = true
			}
		case <-m.damaged: // met by a reader
			return errDamaged
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// compare asks the log each second whether the model holds all of it. It fails
// when the log has gone back behind the model, as another log may have.
func (m *model) compare(ctx context.Context, now func() time.Time) error {
	tick := time.NewTicker(idleFor)
	defer tick.Stop()
	for {
		asked, held := now(), m.at()
		if head, err := m.log.Head(ctx); err == nil {
			if head < held {
				return fault.Unavailable("pathway.model.ahead", "the log ends before what the lists are made of", time.Second)
			}
			if m.at() >= head {
				m.mu.Lock()
				m.fresh = asked
				m.mu.Unlock()
			}
		}
		select {
		case <-tick.C:
		case <-m.changed():
			select { // a burst asks once
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *model) at() es.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.position
}

// changed is closed when the model moves on.
func (m *model) changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.moved
}

func (m *model) fail(err error) {
	m.mu.Lock()
	m.failed = err
	m.mu.Unlock()
	m.wake()
}

// wake lets those look again who wait for the model to move on.
func (m *model) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.moved)
	m.moved = make(chan struct{})
}

// fault says why the model does not follow the log.
func (m *model) fault() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// staleAfter is how far behind a list may be before it says so.
const staleAfter = 60 * time.Second

func (m *model) freshness(at es.Position, now time.Time) *pb.Freshness {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := &pb.Freshness{Position: uint64(at), Stale: true, BehindSeconds: -1} // never yet caught up
	if !m.fresh.IsZero() {
		behind := max(0, now.Sub(m.fresh))
		f.BehindSeconds, f.Stale = behind.Seconds(), behind > staleAfter
	}
	return f
}

var errStopped = fault.Unavailable("pathway.model.stopped", "the lists do not follow the log at present; GetPathway does", time.Second)

var errDamaged = fault.Unavailable("pathway.model.damaged", "the lists were damaged and are being made again: repeat the request; GetPathway answers", time.Second)

var errBehind = fault.Unavailable("pathway.model.behind", "the lists are not yet complete to min_position: repeat the request", time.Second)

// ready says why the model is not to be read yet.
func (m *model) ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.remade && m.fresh.IsZero() {
		return errDamaged
	}
	return nil
}

// legible is what a caller gets for an error of reading.
func legible(err error) error {
	if pebble.IsCorruptionError(err) {
		return errDamaged
	}
	return err
}

// current reports whether the model has held all that the log did.
func (m *model) current() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.fresh.IsZero()
}

// wait returns when the model is complete to a position, within the deadline.
func (m *model) wait(ctx context.Context, min es.Position) error {
	for {
		moved := m.changed()
		if err := m.ready(); err != nil {
			return err
		}
		if m.at() >= min {
			return nil
		}
		if err := m.fault(); err != nil {
			return errStopped
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return errBehind
		}
	}
}

// snapshot is the model at one position.
type snapshot struct {
	*pebble.Snapshot
	position es.Position
}

func (m *model) snapshot() snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return snapshot{m.db.NewSnapshot(), m.position}
}

// view reads one pathway with its person; nil where there is none.
func (s snapshot) view(id string) (*pb.Pathway, error) {
	v := &pb.Pathway{}
	found, err := get(s, append([]byte{'v'}, id...), v)
	if err != nil || !found {
		return nil, err
	}
	return v, s.join(v)
}

func (s snapshot) join(v *pb.Pathway) (err error) {
	if v.PersonId != "" {
		v.Person, err = s.flags(v.PersonId)
	}
	return err
}

func (s snapshot) flags(personID string) (*pb.PersonFlags, error) {
	return flags(personID, func(id string) (*pb.Person, error) {
		p := &pb.Person{}
		found, err := get(s, append([]byte{'n'}, strings.ToLower(id)...), p)
		if !found {
			p = nil
		}
		return p, err
	})
}

// answered reads one pathway with its person as a field of an answer, encoded; nil
// where there is none. The stored view is copied as it is: to decode and encode it
// again would be most of the work.
func (s snapshot) answered(field protowire.Number, id string) ([]byte, error) {
	view, closer, err := s.Get(append([]byte{'v'}, id...))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	var person []byte
	if personID := textIn(view, personIDField); personID != "" && !planted.Is("look-up without its person") {
		flags, err := s.flags(personID)
		if err != nil {
			return nil, err
		}
		if person, err = proto.Marshal(flags); err != nil {
			return nil, err
		}
	}
	size := len(view)
	if person != nil {
		size += protowire.SizeTag(personField) + protowire.SizeBytes(len(person))
	}
	out := make([]byte, 0, protowire.SizeTag(field)+protowire.SizeBytes(size))
	out = protowire.AppendVarint(protowire.AppendTag(out, field, protowire.BytesType), uint64(size))
	out = append(out, view...)
	if person != nil { // a message is its fields in any order: the person is one more
		out = protowire.AppendBytes(protowire.AppendTag(out, personField, protowire.BytesType), person)
	}
	return out, nil
}

// textIn is a field of an encoded message, "" where it is not set.
func textIn(message []byte, field protowire.Number) string {
	for len(message) > 0 {
		number, kind, tag := protowire.ConsumeTag(message)
		if tag < 0 {
			return ""
		}
		n := protowire.ConsumeFieldValue(number, kind, message[tag:])
		if n < 0 {
			return ""
		}
		if number == field && kind == protowire.BytesType {
			text, _ := protowire.ConsumeBytes(message[tag:])
			return string(text)
		}
		message = message[tag+n:]
	}
	return ""
}

var (
	personField   = (&pb.Pathway{}).ProtoReflect().Descriptor().Fields().ByName("person").Number()
	personIDField = (&pb.Pathway{}).ProtoReflect().Descriptor().Fields().ByName("person_id").Number()
)

// scan calls yield for each key from prefix and after on, in order; yield
// returns false to end.
func (s snapshot) scan(prefix, after []byte, yield func(key, value []byte) (bool, error)) error {
	lower := prefix
	if len(after) > 0 && string(after) > string(prefix) {
		lower = append(slices.Clip(after), 0)
	}
	it, err := s.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: beyond(prefix)})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if more, err := yield(it.Key(), it.Value()); err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// beyond is the first key after all that have the prefix.
func beyond(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// person is whose pathway this is, "" where the model does not know it.
func (m *model) person(pathwayID string) string {
	value, closer, err := m.db.Get(append([]byte{'p'}, pathwayID...))
	if err != nil {
		return "" // a reader who knows no better asks the log
	}
	defer closer.Close()
	return string(value)
}

// counts is what is counted: a pathway with its person and the codes of its
// concerns, or a lead.
type counts struct {
	pathway *pb.Pathway
	codes   []*pb.ConcernCodes_Code
	lead    *pb.Lead
}

// each hands every pathway and every lead on, as of one position, which it returns.
func (m *model) each(yield func(counts) error) (es.Position, error) {
	s := m.snapshot()
	defer s.Close()
	err := s.scan([]byte{'v'}, nil, func(key, value []byte) (bool, error) {
		v, codes := &pb.Pathway{}, &pb.ConcernCodes{}
		if err := v.UnmarshalVT(value); err != nil {
			return false, err
		}
		if err := s.join(v); err != nil {
			return false, err
		}
		if _, err := get(s, append([]byte{'k'}, key[1:]...), codes); err != nil {
			return false, err
		}
		return true, yield(counts{pathway: v, codes: codes.Codes})
	})
	if err != nil {
		return 0, err
	}
	return s.position, s.scan([]byte{'l'}, nil, func(_, value []byte) (bool, error) {
		l := &pb.Lead{}
		if err := l.UnmarshalVT(value); err != nil {
			return false, err
		}
		return true, yield(counts{lead: l})
	})
}

// indexKeys are the keys under which a view is found.
func indexKeys(v *pb.Pathway) (keys [][]byte) {
	id := v.PathwayId
	if v.Holder != nil {
		keys = append(keys, append(holderPrefix('h', v.Holder), id...))
	}
	for _, c := range v.Custody {
		if c.UntilPosition != 0 {
			keys = append(keys, append(binary.BigEndian.AppendUint64(holderPrefix('g', c.Holder), c.UntilPosition), id...))
		}
	}
	for n, d := range v.Deadlines {
		k := binary.BigEndian.AppendUint16(append(append(dueKey('d', d.Due.AsTime()), id...), 0), uint16(n))
		if keys = append(keys, k); untold(v, d) {
			keys = append(keys, append([]byte{'s'}, k[1:]...))
		}
	}
	if h := v.OpenHandover; h.GetAnswerDue() != nil {
		keys = append(keys, append(dueKey('o', h.AnswerDue.AsTime()), id...))
	}
	for _, t := range v.ToBeBooked {
		if t.State == "open" {
			k := append(dueKey('b', endOf(t.Due)), id...)
			keys = append(keys, append(append(k, 0), t.TaskId...))
		}
	}
	return keys
}

func holderPrefix(kind byte, p *careleadv1.Party) []byte {
	return append(append([]byte{kind}, partyKey(p)...), 0)
}

func dueKey(kind byte, due time.Time) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, uint64(due.Unix())^1<<63)
}

// endOf is when a civil date is over in London; far ahead where it is not known.
func endOf(day string) time.Time {
	d := date(day)
	if d.IsZero() {
		return time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return d.AddDays(1).Start()
}
