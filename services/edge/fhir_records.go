package edge

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// records is what the FHIR server must know of the log itself: which people,
// pathways and sessions there are, whose a thing with an id is, and where and when
// each stream has its events. It follows every stream, so that waiting for the head
// of the log is waiting for all of it.
//
// It is an index on disk, a cache: a crash may lose the newest batches, position and
// all, and they are folded again. Beside the position stands the last event that was
// taken in; where the log does not have it, because it was replaced or restored from
// a backup, and where the index is damaged, it is made again. The fold only writes:
// what an event changes does not depend on what is there.
//
// Keys, each by its first byte; positions as 8 bytes:
//
//	m                      version(1), how many there are of each kind of owner(3 by 8), and of the
//	                       last event position(8) revision(8) id(16) stream
//	a kind(1) n(8)         id of the n-th person, pathway or session
//	s category(1) stream(16) position
//	                       when that event was recorded(8)
//	W thing(16)            whose it is: a stream's own id, and the slots of a session
//	w thing(16) position   who named it there; the first one has it
//	p pathway              its person
//	q person 0 position    their pathway
//	u person               into whom they were merged
//	v person 0 merged      who was merged into them, if u says so still
//	l organisation|value   the person of a local identifier
type records struct {
	*es.Follower // its lock guards all below

	log    es.Log
	slog   *slog.Logger
	fs     vfs.FS
	dir    string
	lock   *pebble.Lock
	db     *pebble.DB    // nil before the first Run
	batch  *pebble.Batch // what is not stored yet
	events int           // that it is of
	live   bool          // it holds the log; each event is stored at once, for somebody may wait for it
	last   es.Recorded   // taken in
	counts [3]uint64     // of owners
	recent map[idKey]bool

	damaged error       // by which it must be made again
	stop    func(error) // ends Run

	// What tests set to plant the bugs that they must catch: the log is believed to be
	// the one; the position is stored before what it stands for.
	unchecked, positionFirst bool
}

const (
	// recordsVersion names what the fold makes of the log.
	recordsVersion = 1
	// mostUnstored events wait for each other while the log is caught up with.
	mostUnstored = 512
	// mostRecent things are known to have an owner already.
	mostRecent = 1 << 15
	// ownersAtOnce are listed at a time.
	ownersAtOnce = 256
)

// idKey is an id as 16 bytes: those of a UUID in lower case, and of a hash for any
// other.
type idKey [16]byte

func keyOf(id string) idKey {
	if len(id) == 36 {
		if u, err := uuid.Parse(id); err == nil && strings.ToLower(id) == id {
			return idKey(u)
		}
	}
	sum := sha256.Sum256([]byte(id))
	return idKey(sum[:16])
}

// stamp is where and when one event was recorded.
type stamp struct {
	position es.Position
	recorded int64 // Unix nanoseconds
}

func (s stamp) time() time.Time { return time.Unix(0, s.recorded).UTC() }

// newRecords makes the index in a folder, "" keeps it in memory. It is opened by Run.
func newRecords(log es.Log, logger *slog.Logger, dir string, fs vfs.FS) *records {
	if dir == "" {
		dir, fs = "fhir", vfs.NewMem()
	}
	x := &records{log: log, slog: logger, dir: dir, fs: fs}
	x.Follower = es.Follow(log, "edge.fhir.behind", x.fold)
	x.Stored(x.begin, x.settle)
	return x
}

// Run keeps the index in step until ctx ends, the log fails, or the index is damaged:
// started again, it is made again.
func (x *records) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x.Lock()
	x.stop = cancel
	x.Unlock()
	err := x.Follower.Run(ctx)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	x.Lock()
	defer x.Unlock()
	return x.fault(err)
}

// fault is an error of the index, or of the log, as who asked is told of it. The
// caller holds the lock.
func (x *records) fault(err error) error {
	if !pebble.IsCorruptionError(err) {
		return err
	}
	return x.damage(err)
}

// damage ends Run, for the index to be made again. The caller holds the lock.
func (x *records) damage(err error) error {
	x.damaged = err
	err = fault.Unavailable("edge.fhir.damaged", "the index of FHIR is damaged and is made again: repeat the request", time.Second)
	if x.stop != nil {
		x.stop(err)
	}
	return err
}

// begin opens the index and returns what it is complete to. The caller holds the lock.
func (x *records) begin(ctx context.Context) (es.Position, error) {
	x.live = false
	if x.damaged != nil {
		if err := x.remove(); err != nil {
			return 0, err
		}
	}
	if x.db == nil {
		if err := x.open(); err != nil {
			return 0, err
		}
	}
	if x.batch != nil {
		if err := x.batch.Close(); err != nil {
			return 0, err
		}
	}
	x.batch, x.events, x.recent = x.db.NewBatch(), 0, map[idKey]bool{}
	found, err := x.readMark()
	if err != nil {
		return 0, x.fault(err)
	}
	if found && !x.unchecked {
		if found, err = es.Holds(ctx, x.log, x.last); err != nil {
			return 0, err
		}
		if !found {
			x.slog.WarnContext(ctx, "the log is not the one that the index of FHIR was made of: it is made again", slog.String("event.name", "edge.fhir.log_replaced"))
		}
	}
	if !found {
		x.last, x.counts = es.Recorded{}, [3]uint64{}
		if err := x.db.DeleteRange([]byte{0}, []byte{0xff}, pebble.NoSync); err != nil {
			return 0, err
		}
	}
	return x.last.Position, nil
}

// open opens the index, which this process then has to itself; one that cannot be
// opened is made again. The caller holds the lock.
func (x *records) open() (err error) {
	for again := false; ; again = true {
		if err := x.fs.MkdirAll(x.dir, 0o700); err != nil {
			return err
		}
		if x.lock, err = pebble.LockDirectory(x.dir, x.fs); err != nil {
			return fmt.Errorf("index of FHIR, of which another process may have the folder (--models): %w", err)
		}
		noticed := func(i pebble.DataCorruptionInfo) { // by Pebble's own work, or by who holds the lock and waits for it
			go func() {
				x.Lock()
				defer x.Unlock()
				_ = x.damage(i.Details)
			}()
		}
		x.db, err = pebble.Open(x.dir, &pebble.Options{FS: x.fs, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}, Lock: x.lock,
			MemTableSize: 8 << 20, EventListener: &pebble.EventListener{DataCorruption: noticed}})
		if err == nil {
			return nil
		}
		x.db = nil
		if again {
			return errors.Join(err, x.lock.Close())
		}
		x.slog.Warn("the index of FHIR is damaged: it is made again", slog.String("event.name", "edge.fhir.damaged"))
		if err := x.remove(); err != nil {
			return err
		}
	}
}

// remove takes the index away. The caller holds the lock.
func (x *records) remove() error {
	_ = x.closeDB() // of what is damaged
	x.damaged = nil
	return x.fs.RemoveAll(x.dir)
}

func (x *records) closeDB() (err error) {
	if x.batch != nil {
		err = x.batch.Close()
	}
	if x.db != nil {
		err = errors.Join(err, x.db.Close())
	}
	if x.lock != nil {
		err = errors.Join(err, x.lock.Close())
	}
	x.db, x.batch, x.lock, x.live = nil, nil, nil, false
	return err
}

// close closes the index; Run must have ended.
func (x *records) close() error {
	x.Lock()
	defer x.Unlock()
	return x.closeDB()
}

// quiet drops what Pebble tells: the index can always be made again.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("index of FHIR: "+format, args...))
}

const recordsMark = 1 + 3*8 + 8 + 8 + 16 // without the stream

// mark says what the index is complete to.
func (x *records) mark() []byte {
	b := []byte{recordsVersion}
	for _, n := range x.counts {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(x.last.Position))
	b = binary.BigEndian.AppendUint64(b, uint64(x.last.Revision))
	return append(append(b, x.last.ID[:]...), x.last.Stream...)
}

// readMark reads it. It is not found where there is none, or one of another version.
func (x *records) readMark() (found bool, err error) {
	b, closer, err := x.db.Get([]byte{'m'})
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer closer.Close()
	if len(b) < recordsMark || b[0] != recordsVersion {
		return false, nil
	}
	for i := range x.counts {
		x.counts[i] = binary.BigEndian.Uint64(b[1+8*i:])
	}
	b = b[1+3*8:]
	x.last = es.Recorded{Position: es.Position(binary.BigEndian.Uint64(b)), Revision: es.Revision(binary.BigEndian.Uint64(b[8:])), ID: uuid.UUID(b[16:32]), Stream: string(b[32:])}
	return true, nil
}

// fold takes in one event. The caller holds the lock.
func (x *records) fold(at es.Recorded) error {
	category, id, _ := strings.Cut(at.Stream, "-")
	n := slices.Index(followed, category)
	if n >= 0 {
		event, err := es.Decode(at)
		if err != nil {
			return err
		}
		x.index(at, byte(n), category, id, event)
	}
	x.last = es.Recorded{Position: at.Position, Revision: at.Revision, ID: at.ID, Stream: at.Stream}
	if x.events++; x.live && n >= 0 || x.events >= mostUnstored {
		return x.store()
	}
	return nil
}

// index writes what one event says.
func (x *records) index(at es.Recorded, n byte, category, id string, event proto.Message) {
	if at.Revision == 0 {
		switch category {
		case "person":
			x.begins(ofPerson, id)
		case "pathway":
			x.begins(ofPathway, id)
		case "session":
			x.begins(ofSession, id)
		}
		x.owns(id, id)
	}
	stream := keyOf(id)
	x.set(binary.BigEndian.AppendUint64(append([]byte{'s', n}, stream[:]...), uint64(at.Position)), binary.BigEndian.AppendUint64(nil, uint64(at.Recorded.UnixNano())))
	switch e := event.(type) {
	case *referralv1.PathwayStarted:
		x.set(text('p', id), []byte(e.PersonId))
		x.set(binary.BigEndian.AppendUint64(text('q', e.PersonId+"\x00"), uint64(at.Position)), []byte(id))
	case *personv1.PersonsMerged:
		x.set(text('u', e.MergedPersonId), []byte(e.SurvivingPersonId))
		x.set(text('v', e.SurvivingPersonId+"\x00"+e.MergedPersonId), nil)
	case *personv1.MergeReversed:
		x.delete(text('u', e.MergedPersonId))
	case *personv1.LocalIdentifierAdded:
		x.set(text('l', localKey(e.Identifier)), []byte(id))
	case *personv1.LocalIdentifierReplaced:
		x.delete(text('l', localKey(e.Earlier)))
		x.set(text('l', localKey(e.Identifier)), []byte(id))
	case *appointmentv1.SessionOpened:
		for _, slot := range e.Slots {
			x.owns(id, slot.SlotId)
		}
	}
	if category != "session" { // a session names appointments, which are pathways'
		x.things(at.Position, event, id)
	}
}

// text is a key of one string.
func text(kind byte, s string) []byte { return append([]byte{kind}, s...) }

// An error of a batch would be that it is too large, which is far off.

func (x *records) set(key, value []byte) { _ = x.batch.Set(key, value, nil) }

func (x *records) delete(key []byte) { _ = x.batch.Delete(key, nil) }

// store stores what waits. The caller holds the lock.
func (x *records) store() error {
	if x.events == 0 {
		return nil
	}
	if x.positionFirst {
		if err := x.db.Set([]byte{'m'}, x.mark(), pebble.Sync); err != nil {
			return err
		}
	}
	x.set([]byte{'m'}, x.mark())
	if err := x.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	x.batch, x.events = x.db.NewBatch(), 0
	return nil
}

// settle is called at the end of the log. The caller holds the lock.
func (x *records) settle() error {
	x.live = true
	return x.store()
}

// followed are the categories whose streams are of people, pathways and sessions. A
// key has the place of one here: a new one is added at the end.
var followed = []string{"person", "pathway", "referral", "plan", "appointment", "carelead", "session"}

// begins adds a person, pathway or session. The caller holds the lock.
func (x *records) begins(kind ownerKind, id string) {
	x.set(binary.BigEndian.AppendUint64([]byte{'a', byte(kind)}, x.counts[kind]), []byte(id))
	x.counts[kind]++
}

// owns notes whose a thing is from now on. The caller holds the lock.
func (x *records) owns(owner, thing string) {
	key := keyOf(thing)
	x.set(append([]byte{'W'}, key[:]...), []byte(owner))
}

func localKey(i *personv1.LocalIdentifier) string { return i.GetAssigner() + "|" + i.GetValue() }

// things notes whose the ids in an event are: the first stream that names one has it.
func (x *records) things(at es.Position, event proto.Message, owner string) {
	event.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		if f.Kind() != protoreflect.StringKind || f.IsList() || f.IsMap() || !strings.HasSuffix(name, "_id") || name == "person_id" || name == "pathway_id" {
			return true
		}
		if id := v.String(); len(id) == 36 {
			if key := keyOf(id); !x.recent[key] { // most are named again soon
				if len(x.recent) == mostRecent {
					clear(x.recent)
				}
				x.recent[key] = true
				x.set(binary.BigEndian.AppendUint64(append([]byte{'w'}, key[:]...), uint64(at)), []byte(owner))
			}
		}
		return true
	})
}

// errBegins is for a request that has waited for the index, and then it began again.
var errBegins = fault.Unavailable("edge.fhir.behind", "the index of FHIR is not complete yet: repeat the request", time.Second)

// get reads one value, nil where there is none. The caller holds the lock.
func (x *records) get(key []byte) ([]byte, error) {
	if !x.live {
		return nil, errBegins
	}
	value, closer, err := x.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, x.fault(err)
	}
	defer closer.Close()
	return bytes.Clone(value), nil
}

// scan yields what stands under a prefix, from a key on, in order. The caller holds the lock.
func (x *records) scan(prefix, from []byte, yield func(rest, value []byte) (more bool, err error)) error {
	if !x.live {
		return errBegins
	}
	upper := slices.Clone(prefix)
	for i := len(upper) - 1; ; i-- { // a prefix begins with a letter, which does not run over
		if upper[i]++; upper[i] != 0 {
			upper = upper[:i+1]
			break
		}
	}
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: append(slices.Clone(prefix), from...), UpperBound: upper})
	if err != nil {
		return x.fault(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return x.fault(err)
		}
		if more, err := yield(it.Key()[len(prefix):], value); err != nil || !more {
			return err
		}
	}
	return x.fault(it.Error())
}

// ownerOf returns whose a thing is, "" when nobody's.
func (x *records) ownerOf(id string) (owner string, err error) {
	x.Lock()
	defer x.Unlock()
	key := keyOf(id)
	own, err := x.get(append([]byte{'W'}, key[:]...))
	if err != nil || own != nil {
		return string(own), err
	}
	err = x.scan(append([]byte{'w'}, key[:]...), nil, func(_, value []byte) (bool, error) {
		owner = string(value)
		return false, nil
	})
	return owner, err
}

// person returns whose a pathway is, "" when it is none.
func (x *records) person(pathway string) (string, error) {
	x.Lock()
	defer x.Unlock()
	id, err := x.get(text('p', pathway))
	return string(id), err
}

// local returns who has a local identifier, "" when nobody.
func (x *records) local(key string) (string, error) {
	x.Lock()
	defer x.Unlock()
	id, err := x.get(text('l', key))
	return string(id), err
}

// patient returns who a person is now, and everybody that was merged into them.
func (x *records) patient(id string) (now string, all []string, err error) {
	x.Lock()
	defer x.Unlock()
	now = id
	for seen := map[string]bool{}; !seen[now]; { // a survivor may have been merged in turn
		seen[now] = true
		into, err := x.get(text('u', now))
		if err != nil {
			return "", nil, err
		}
		if into != nil {
			now = string(into)
		}
	}
	all = []string{now}
	for i := 0; i < len(all); i++ {
		into := all[i]
		err := x.scan(text('v', into+"\x00"), nil, func(merged, _ []byte) (bool, error) {
			still, err := x.get(text('u', string(merged)))
			if err == nil && string(still) == into && !slices.Contains(all, string(merged)) {
				all = append(all, string(merged))
			}
			return true, err
		})
		if err != nil {
			return "", nil, err
		}
	}
	slices.Sort(all[1:])
	return now, all, nil
}

// owners lists some of the people, pathways or sessions, in the order of the log,
// from the n-th on.
func (x *records) owners(kind ownerKind, n int) (ids []string, err error) {
	x.Lock()
	defer x.Unlock()
	err = x.scan([]byte{'a', byte(kind)}, binary.BigEndian.AppendUint64(nil, uint64(n)), func(_, id []byte) (bool, error) {
		ids = append(ids, string(id))
		return len(ids) < ownersAtOnce, nil
	})
	return ids, err
}

// pathwaysOf lists the pathways of some people.
func (x *records) pathwaysOf(people []string) (ids []string, err error) {
	x.Lock()
	defer x.Unlock()
	for _, p := range people {
		err := x.scan(text('q', p+"\x00"), nil, func(_, id []byte) (bool, error) {
			ids = append(ids, string(id))
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// history lists where and when the streams of an owner have events, oldest
// first. With whole, events of a stream that were recorded at one instant were one
// decision, and the last stands for them.
func (x *records) history(categories []string, owner string, whole bool) (all []stamp, err error) {
	x.Lock()
	defer x.Unlock()
	for _, c := range categories {
		stamps, err := x.stampsOf(c, owner)
		if err != nil {
			return nil, err
		}
		for i, s := range stamps {
			if whole && i > 0 && len(all) > 0 && all[len(all)-1].recorded == s.recorded {
				all[len(all)-1] = s
			} else {
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, func(a, b stamp) int { return cmp.Compare(a.position, b.position) })
	return all, nil
}

// stampsOf the stream of a category that belongs to the owner; that of the person, for a pathway.
func (x *records) stampsOf(category, owner string) (all []stamp, err error) {
	if category == "person" {
		person, err := x.get(text('p', owner))
		if err != nil {
			return nil, err
		}
		owner = cmp.Or(string(person), owner)
	}
	stream := keyOf(owner)
	err = x.scan(append([]byte{'s', byte(slices.Index(followed, category))}, stream[:]...), nil, func(position, recorded []byte) (bool, error) {
		all = append(all, stamp{es.Position(binary.BigEndian.Uint64(position)), int64(binary.BigEndian.Uint64(recorded))})
		return true, nil
	})
	return all, err
}

// newest returns the last event of the owner's streams that is within the moment
// and, with whole, that ended what was recorded at its instant: nobody sees half a decision.
func (x *records) newest(categories []string, owner string, m asOf, whole bool) (last stamp, ok bool, err error) {
	x.Lock()
	defer x.Unlock()
	for _, c := range categories {
		all, err := x.stampsOf(c, owner)
		if err != nil {
			return last, false, err
		}
		for i, s := range slices.Backward(all) {
			if whole && i+1 < len(all) && all[i+1].recorded == s.recorded {
				continue
			}
			if m.has(s) {
				if !ok || s.position > last.position {
					last, ok = s, true
				}
				break
			}
		}
	}
	return last, ok, nil
}

// asOf is what _as-of asks for: what was recorded up to a position or an instant. Zero is now.
type asOf struct {
	position es.Position
	instant  time.Time
}

func (m asOf) has(s stamp) bool {
	switch {
	case m.position > 0:
		return s.position <= m.position
	case !m.instant.IsZero():
		return s.recorded <= m.instant.UnixNano()
	}
	return true
}

func (m asOf) isNow() bool { return m.position == 0 && m.instant.IsZero() }
