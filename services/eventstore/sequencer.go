package eventstore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
)

// The sequencer is the one goroutine that numbers events. It drains the queue
// of writes, decides each against the heads of streams (those of the batch in
// hand included), and applies one Pebble batch for all of them. It waits for the
// sync of that batch, publishes the new durable position and only then answers,
// refusals included, because they may rest on what was not durable yet. What
// arrives meanwhile is the next group: deciding it only after the sync makes it
// as large, and its writers wait as short, as can be.
type sequencer struct {
	store  *store
	log    *tail
	queue  chan *write
	stop   chan struct{} // closed by close
	done   chan struct{} // closed when the goroutine has ended
	now    func() time.Time
	space  space
	failed *failure
	noSync bool

	// Owned by the sequencer goroutine.
	position uint64 // of the last event, durable or not
	created  int64  // of the last event: time never runs backwards in the log
	heads    map[string]*head
	ids      *idCache
	group    group     // in hand
	wanted   []eventID // room for the ids of a write
	key      []byte    // room for a key
}

type writeKind byte

const (
	appendEvents writeKind = iota
	softDelete
	tombstone
)

// write is one request to the sequencer.
type write struct {
	ctx      context.Context // once it has ended, the write is refused unseen
	kind     writeKind
	stream   string
	expected int64
	events   []proposed
	reply    chan<- outcome // has room for the answer
	token    any            // the sender's own
}

// outcome of a write. Without err, revision is the stream's and position the
// last event's, 0 when a write without events stored none.
type outcome struct {
	write    *write
	revision int64
	position uint64
	err      error
}

// group is what one sync makes durable.
type group struct {
	room     error         // why no write of the group may be taken: the disk is full
	batch    *pebble.Batch // nil as long as there is nothing to store
	records  []record
	outcomes []outcome
	bytes    int
}

const (
	maxGroupWrites = 2048
	maxGroupBytes  = 4 << 20
	maxHeads       = 1 << 16
	maxSeenIDs     = 1 << 16
)

var (
	errClosed  = errors.New("the node is closing")
	errStorage = errors.New("the node's storage has failed")
)

func newSequencer(st *store, log *tail, cfg Config, failed *failure) (*sequencer, error) {
	s := &sequencer{
		store: st, log: log,
		queue: make(chan *write, maxGroupWrites),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
		space: space{cfg.FreeBytes, cfg.MinFree},
		now:   cfg.Clock, noSync: cfg.NoSync || planted("answer before sync"), failed: failed,
		heads: map[string]*head{},
		ids:   newIDCache(maxSeenIDs),
	}
	var err error
	if s.position, s.created, err = st.lastPosition(); err != nil {
		return nil, err
	}
	if err := s.refill(); err != nil {
		return nil, err
	}
	log.start(s.position)
	go s.sequence()
	return s, nil
}

// refill reads the ids of the newest events, so that a repeat with expected
// version any is recognised across a restart.
func (s *sequencer) refill() error {
	var newest []record
	var bytes int
	if s.position == 0 {
		return nil
	}
	first := uint64(1)
	if s.position > maxSeenIDs {
		first = s.position - maxSeenIDs + 1
	}
	err := s.store.all(first, s.position, true, func(r record) bool {
		bytes += len(r)
		newest = append(newest, append(record(nil), r[:len(r)-len(r.frame())]...))
		return bytes < 64<<20 // bounds the time of a start
	})
	for i := len(newest) - 1; i >= 0; i-- {
		r := newest[i]
		s.ids.add(idKey{maphash.Bytes(s.ids.seed, r.stream()), r.id()}, place{r.revision(), r.position()})
	}
	return err
}

// submit queues a write. Its outcome comes on w.reply, unless ctx ends first.
func (s *sequencer) submit(w *write) error {
	if s.failed.happened() {
		return errStorage
	}
	select {
	case s.queue <- w:
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	case <-s.stop:
		return errClosed
	}
}

// do submits a write and waits for its outcome. When ctx ends first the write
// may or may not have happened.
func (s *sequencer) do(w *write) (outcome, error) {
	reply := make(chan outcome, 1)
	w.reply = reply
	if err := s.submit(w); err != nil {
		return outcome{}, err
	}
	select {
	case o := <-reply:
		return o, o.err
	case <-w.ctx.Done():
		return outcome{}, w.ctx.Err()
	case <-s.done:
		select {
		case o := <-reply:
			return o, o.err
		default:
			return outcome{}, errClosed
		}
	}
}

// close ends the goroutine after the group in hand.
func (s *sequencer) close() {
	close(s.stop)
	<-s.done
}

func (s *sequencer) sequence() {
	defer close(s.done)
	for {
		select {
		case w := <-s.queue:
			s.group.room = s.space.check()
			s.take(w)
		case <-s.stop:
			return
		}
	drain:
		for len(s.group.outcomes) < maxGroupWrites && s.group.bytes < maxGroupBytes {
			select {
			case w := <-s.queue:
				s.take(w)
			default:
				break drain
			}
		}
		s.commit()
		s.trimHeads()
	}
}

// take decides one write and puts what it stores in the batch in hand.
func (s *sequencer) take(w *write) {
	o := outcome{write: w, revision: noRevision}
	switch {
	case s.failed.happened():
		o.err = errStorage
	case w.ctx.Err() != nil:
		o.err = w.ctx.Err()
	default:
		if o.err = s.group.room; o.err == nil {
			o.revision, o.position, o.err = s.execute(w)
		}
	}
	s.group.outcomes = append(s.group.outcomes, o)
}

func (s *sequencer) execute(w *write) (revision int64, position uint64, err error) {
	h, err := s.head(w.stream)
	if err != nil {
		return 0, 0, err
	}
	if w.kind == softDelete && h.last < 0 && !h.hasMeta && !h.tombstoned {
		return 0, 0, &wrongVersion{w.stream, w.expected, h.last}
	}
	ids := s.wanted[:0]
	for i := range w.events {
		ids = append(ids, w.events[i].id)
	}
	if w.kind != appendEvents {
		ids = append(ids, eventID(uuid.New()))
	}
	s.wanted = ids
	v := decide(w.stream, h, w.expected, ids, s)
	switch {
	case v.err != nil:
		return 0, 0, v.err
	case !v.write:
		return v.idempotent.revision, v.idempotent.position, nil
	}
	switch w.kind {
	case softDelete:
		return s.softDelete(w.stream)
	case tombstone:
		return s.tombstone(w.stream, h)
	}
	if len(w.events) == 0 {
		return h.last, 0, nil
	}
	return s.append(w.stream, h, w.events)
}

// append stores events after the end of a stream, and what follows from them.
func (s *sequencer) append(stream string, h *head, events []proposed) (int64, uint64, error) {
	var original *head
	if isMetastream(stream) {
		var err error
		if original, err = s.head(originalOf(stream)); err != nil {
			return 0, 0, err
		}
	}
	if h.deleted() { // read what undelete needs before anything is stored
		if _, err := s.head(metastreamOf(stream)); err != nil {
			return 0, 0, err
		}
	}
	if err := s.put(stream, h, events); err != nil {
		return 0, 0, err
	}
	revision, position := h.last, h.position
	switch {
	case original != nil:
		undelete := original.deleted()
		original.setMeta(events[len(events)-1].data)
		if undelete {
			return revision, position, s.undelete(originalOf(stream), original, original.last+1)
		}
	case h.deleted():
		return revision, position, s.undelete(stream, h, revision-int64(len(events))+1)
	}
	return revision, position, nil
}

// undelete makes a soft-deleted stream visible again from revision before on.
func (s *sequencer) undelete(stream string, h *head, before int64) error {
	data, ok := undeleted(h.metaLast, before)
	if !ok {
		return nil
	}
	return s.writeMetadata(stream, h, data)
}

func (s *sequencer) softDelete(stream string) (int64, uint64, error) {
	h, err := s.head(stream)
	if err != nil {
		return 0, 0, err
	}
	if err := s.writeMetadata(stream, h, fmt.Appendf(nil, `{"$tb":%d}`, int64(softDeleted))); err != nil {
		return 0, 0, err
	}
	return h.last, s.position, nil
}

func (s *sequencer) writeMetadata(stream string, h *head, data []byte) error {
	meta := metastreamOf(stream)
	mh, err := s.head(meta)
	if err != nil {
		return err
	}
	h.setMeta(data)
	return s.put(meta, mh, []proposed{{id: eventID(uuid.New()), typ: "$metadata", json: true, data: data}})
}

func (s *sequencer) tombstone(stream string, h *head) (int64, uint64, error) {
	ev := proposed{id: eventID(uuid.New()), typ: "$streamDeleted", json: true, data: []byte("{}")}
	h.last = tombstoneRevision - 1
	if err := s.put(stream, h, []proposed{ev}); err != nil {
		return 0, 0, err
	}
	h.tombstoned = true
	if !isMetastream(stream) {
		if mh := s.heads[metastreamOf(stream)]; mh != nil {
			mh.tombstoned = true
		}
	}
	return h.last, h.position, nil
}

// put numbers events and writes them to the batch in hand, in the order of the
// log; sync adds the order of streams.
func (s *sequencer) put(stream string, h *head, events []proposed) error {
	if s.group.batch == nil {
		s.group.batch = s.store.db.NewBatch()
	}
	s.created = max(s.created, ticks(s.now()))
	hashed := maphash.String(s.ids.seed, stream)
	for i := range events {
		ev := &events[i]
		s.position++
		h.last++
		h.position = s.position
		r := ev.record(stream, s.position, h.last, s.created)
		s.key = appendPositionKey(s.key[:0], s.position)
		if err := s.group.batch.Set(s.key, r, nil); err != nil { // a bug: a batch takes any key and value
			s.failed.set(err.Error())
			return errStorage
		}
		s.ids.add(idKey{hashed, ev.id}, place{h.last, s.position})
		s.group.records = append(s.group.records, r)
		s.group.bytes += len(r)
	}
	return nil
}

// commit makes the group in hand durable, shows it to readers and answers it.
func (s *sequencer) commit() {
	g := &s.group
	if g.batch != nil && !s.failed.happened() {
		if err := s.sync(g.batch); err != nil {
			s.failed.set(err.Error())
		}
	}
	if s.failed.happened() { // the batch is Pebble's now; the process is about to end
		for i := range g.outcomes {
			g.outcomes[i] = outcome{write: g.outcomes[i].write, err: errStorage}
		}
	} else {
		s.log.publish(g.records)
	}
	for _, o := range g.outcomes {
		o.write.reply <- o
	}
	clear(g.outcomes)
	clear(g.records)
	s.group = group{outcomes: g.outcomes[:0], records: g.records[:0]}
}

// sync returns once what the batch holds is on the disk. The keys of streams come
// behind those of the log: Pebble finds the place of a key that follows the one
// before without a search.
func (s *sequencer) sync(batch *pebble.Batch) error {
	for _, r := range s.group.records {
		s.key = appendStreamKey(s.key[:0], r.stream(), uint64(r.revision()))
		if err := batch.Set(s.key, r, nil); err != nil {
			return err
		}
	}
	if s.noSync {
		return errors.Join(s.store.db.Apply(batch, pebble.NoSync), batch.Close())
	}
	if err := s.store.db.ApplyNoSyncWait(batch, pebble.Sync); err != nil {
		return err
	}
	if planted("shown before sync") {
		s.log.publish(s.group.records)
		s.group.records = nil
	}
	if err := batch.SyncWait(); err != nil {
		return err
	}
	return batch.Close()
}

// failure is set once, when the storage cannot be trusted any more. Nothing is
// acknowledged after that, and the process ends.
type failure struct {
	reason atomic.Pointer[string]
	report func(string)
}

func (f *failure) happened() bool { return f.reason.Load() != nil }

func (f *failure) set(reason string) {
	if f.reason.CompareAndSwap(nil, &reason) {
		f.report(reason)
	}
}

// head returns the cached head of a stream, reading it on a miss. Heads are
// dropped between batches only, when what they say can be read.
func (s *sequencer) head(stream string) (*head, error) {
	if h := s.heads[stream]; h != nil {
		return h, nil
	}
	h, err := s.store.head(stream, math.MaxUint64)
	if err != nil {
		return nil, err
	}
	if isMetastream(stream) {
		if original := s.heads[originalOf(stream)]; original != nil {
			h.tombstoned = h.tombstoned || original.tombstoned
		}
	}
	s.heads[stream] = h
	return h, nil
}

// trimHeads drops arbitrary heads above the bound.
func (s *sequencer) trimHeads() {
	for stream := range s.heads {
		if len(s.heads) <= maxHeads {
			return
		}
		delete(s.heads, stream)
	}
}

// seen implements stored.
func (s *sequencer) seen(stream string, id eventID) (place, bool) {
	p, ok := s.ids.places[idKey{maphash.String(s.ids.seed, stream), id}]
	return p, ok
}

// at implements stored: what is applied, and then what the group in hand holds.
func (s *sequencer) at(stream string, from int64, yield func(eventID, place) bool) error {
	more := true
	err := s.store.stream(stream, from, tombstoneRevision, false, func(r record) bool {
		more = yield(r.id(), place{r.revision(), r.position()})
		return more
	})
	for i := 0; i < len(s.group.records) && more && err == nil; i++ {
		if r := s.group.records[i]; r.revision() >= from && string(r.stream()) == stream {
			more = yield(r.id(), place{r.revision(), r.position()})
		}
	}
	return err
}

// idCache remembers where the newest events went, by stream and id. Streams are
// known by a hash with a seed of this process: an entry without a pointer costs
// the garbage collector nothing, and that two streams share both hash and id
// will not be seen.
type idCache struct {
	seed   maphash.Seed
	places map[idKey]place
	size   int
	order  []idKey // ring, oldest at next once full
	next   int
}

type idKey struct {
	stream uint64
	id     eventID
}

func newIDCache(size int) *idCache {
	return &idCache{seed: maphash.MakeSeed(), places: make(map[idKey]place), size: size}
}

// add remembers an event. An id that is written twice keeps its first place,
// which is the one a repeat is answered with.
func (c *idCache) add(key idKey, p place) {
	if _, ok := c.places[key]; ok {
		return
	}
	c.places[key] = p
	if len(c.order) < c.size {
		c.order = append(c.order, key)
		return
	}
	delete(c.places, c.order[c.next])
	c.order[c.next] = key
	c.next = (c.next + 1) % len(c.order)
}
