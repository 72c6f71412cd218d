package pathway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/pathway/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/planted"
)

const (
	atOnce = 8 << 10 // events in one batch at most
	few    = 64      // events that are not worth another goroutine
	unkept = 8 << 10 // changed messages that wait to be stored at most, more or less
	shards = 8
	cached = 20_000 / shards // messages that a shard keeps in memory between batches
)

// inbox is what came from the log and waits to be taken in, all at once: the
// further behind a model is, the larger its batches.
type inbox struct {
	mu       sync.Mutex // guards these two
	events   []*es.Recorded
	caughtUp bool // and they reach as far as the log did then

	some, room chan struct{} // hold one: something came, all was taken out
}

func newInbox() *inbox {
	return &inbox{some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// put waits while the inbox is full.
func (b *inbox) put(ctx context.Context, m es.Message) error {
	for {
		b.mu.Lock()
		n := len(b.events)
		if n < atOnce {
			if b.caughtUp = b.caughtUp || m.CaughtUp; m.Event != nil {
				b.events = append(b.events, m.Event)
			}
			b.mu.Unlock()
			if n == 0 || m.CaughtUp {
				tell(b.some)
			}
			return nil
		}
		b.mu.Unlock()
		select {
		case <-b.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// empty takes out what there is, and leaves room for as much.
func (b *inbox) empty(room []*es.Recorded) (events []*es.Recorded, caughtUp bool) {
	clear(room)
	b.mu.Lock()
	events, caughtUp = b.events, b.caughtUp
	b.events, b.caughtUp = room[:0], false
	b.mu.Unlock()
	tell(b.room)
	return events, caughtUp
}

func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// errUnkept: events that were taken in are gone from memory before they were stored.
var errUnkept = errors.New("pathway: events are to be taken in again")

// drain takes in events. Those that were delivered before change nothing. fresh is
// when the last of them was the log's end; zero where that is not known. They are
// stored in one batch; while the model is far behind and most of them change what
// those of the call before did, with those of the next calls. Where one cannot be taken
// in, those before it are; with errUnkept all after the stored position are to be given
// again.
func (m *model) drain(events []*es.Recorded, fresh time.Time) error {
	at := m.taken
	behind := fresh.IsZero() && len(events) >= m.patience
	events = slices.DeleteFunc(events, func(e *es.Recorded) bool {
		if e.Position <= at && !m.repeats {
			return true
		}
		at = e.Position
		return planted.Is("read model drops an event") && at%5 == 0 && m.current()
	})
	failed, err := m.take(events)
	if err != nil {
		// The shards went on for themselves: only the events before it are to be kept.
		m.forget()
		if m.taken != m.at() && !m.careless {
			m.patience = math.MaxInt
			return errUnkept
		}
		if at = m.at(); failed > 0 {
			at = events[failed-1].Position
		}
		if _, before := m.take(events[:failed]); before != nil {
			return errors.Join(err, before)
		}
		fresh = time.Time{}
	} else if behind && m.again() > len(events)/2 && m.unstored() < m.unkept {
		m.taken = at
		return nil
	}
	return errors.Join(err, m.write(at, fresh, behind))
}

// again is how many events of a batch changed what the batch before it did. The first
// batch passes for one like those to come.
func (m *model) again() (n int) {
	for i := range m.shards {
		n += m.shards[i].again
	}
	return n
}

// unstored is how many messages have changed since the last batch.
func (m *model) unstored() (n int) {
	for i := range m.shards {
		n += len(m.shards[i].dirty)
	}
	return n
}

// shard is a part of what the model has in memory: all that belongs to one id is
// in the same one, so that shards can be worked on side by side.
type shard struct {
	came    []arrival // of this batch, in the order of the log
	cache   map[keptKey]*kept
	dirty   []*kept // those of the cache that are not stored yet
	stored  []*kept // those of the cache that the last write stored
	again   int     // events of this batch that changed what the batch before it did
	size    int     // at most, of what is stored for those
	evicted bool    // the cache lacks what is stored
}

// keptKey is the key of a stored message: its kind, which is the first byte, and id.
type keptKey struct {
	kind byte
	id   string
}

// shard is FNV-1a of the id: the same in every run.
func (k keptKey) shard() int {
	h := uint32(2166136261)
	for i := range len(k.id) {
		h = (h ^ uint32(k.id[i])) * 16777619
	}
	return int(h % shards)
}

func (k keptKey) bytes() []byte { return append([]byte{k.kind}, k.id...) }

// kept is one stored message as it is in memory.
type kept struct {
	key    keptKey
	dirty  bool
	away   bool // its value is only in the store
	batch  int  // the last that changed it
	again  bool // and so did the one before that
	size   int  // of the value, once it is settled
	value  stored
	room   []byte   // for the value, in the batch that is being written
	keys   [][]byte // of the indexes of a view, as stored
	next   [][]byte // as they are to be
	person string   // of a view, as stored under its id
}

// stored is a message that generated code encodes and decodes.
type stored interface {
	proto.Message
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// arrival is an event that a shard takes in.
type arrival struct {
	event *es.Recorded
	key   keptKey
	n     int // its place in the batch
}

// forget drops what is in memory.
func (m *model) forget() {
	m.whole, m.batch = false, 0
	for i := range m.shards {
		m.shards[i] = shard{cache: make(map[keptKey]*kept)}
	}
}

// take folds events into what is in memory. It returns which of them is the first
// that cannot be taken in, and why.
func (m *model) take(events []*es.Recorded) (failed int, err error) {
	last := m.last
	for n, e := range events {
		category, id, _ := strings.Cut(e.Stream, "-")
		key := keptKey{'v', id}
		switch {
		case category == "person":
			key.kind = 'n'
		case category == "lead":
			key.kind = 'l'
		case !slices.Contains(categories, category):
			continue
		}
		s := &m.shards[key.shard()]
		s.came = append(s.came, arrival{e, key, n})
		last = mark{e.Position, e.ID, e.Revision, e.Stream}
	}
	failed = len(events)
	m.batch++
	var mu sync.Mutex // guards failed and err
	m.work(len(events), func(s *shard) {
		s.again = 0
		for _, w := range s.came {
			if why := m.fold(s, w); why != nil {
				mu.Lock()
				if w.n < failed {
					failed, err = w.n, why
				}
				mu.Unlock()
				break
			}
		}
		clear(s.came)
		s.came = s.came[:0]
	})
	if err == nil {
		m.last = last
	}
	return failed, err
}

// work lets f work on each shard, on all cores where there is much to do.
func (m *model) work(much int, f func(*shard)) {
	cores := min(runtime.GOMAXPROCS(0), shards)
	if much < few || cores == 1 {
		for i := range m.shards {
			f(&m.shards[i])
		}
		return
	}
	next := make(chan *shard, shards)
	for i := range m.shards {
		next <- &m.shards[i]
	}
	close(next)
	var wg sync.WaitGroup
	for range cores {
		wg.Go(func() {
			for s := range next {
				f(s)
			}
		})
	}
	wg.Wait()
}

// fold folds one event into what a shard has in memory.
func (m *model) fold(s *shard, w arrival) error {
	k, err := m.entry(s, w.key)
	if err != nil {
		return err
	}
	e, err := decode(w.event)
	if err == nil {
		switch into := k.value.(type) {
		case *pb.Pathway:
			err = fold(into, e)
		case *pb.Person:
			err = foldPerson(into, e)
		case *pb.Lead:
			err = foldLead(into, e)
		}
	}
	if err != nil {
		return fault.Lost("pathway.model.undecodable", fmt.Sprintf("the event at position %d cannot be taken in: %v", e.Position, err))
	}
	if k.batch != m.batch {
		k.batch, k.again = m.batch, k.batch == m.batch-1
	}
	if k.again {
		s.again++
	}
	s.changed(k)
	if c, ok := e.message.(*planv1.ConcernRaised); ok {
		key := keptKey{'k', w.key.id}
		codes, err := m.entry(s, key)
		if err != nil {
			return err
		}
		all := codes.value.(*pb.ConcernCodes)
		all.Codes = append(all.Codes, &pb.ConcernCodes_Code{ConcernId: c.ConcernId, Code: c.Code, RaisedOn: civil(e.at())})
		s.changed(codes)
	}
	return nil
}

// entry is what is kept under a key, from memory or the store.
func (m *model) entry(s *shard, key keptKey) (*kept, error) {
	e, ok := s.cache[key]
	switch {
	case !ok:
		e = &kept{key: key}
	case !e.away:
		return e, nil
	}
	switch key.kind {
	case 'n':
		e.value = &pb.Person{PersonId: key.id}
	case 'l':
		e.value = &pb.Lead{LeadId: key.id}
	case 'k':
		e.value = &pb.ConcernCodes{}
	default:
		e.value = newView(key.id)
	}
	if !m.whole || e.away && !m.forgetful {
		found, err := get(m.db, key.bytes(), e.value)
		if err != nil {
			return nil, err
		}
		if v, ok := e.value.(*pb.Pathway); ok && found {
			e.keys, e.person = indexKeys(v), v.PersonId
		}
	}
	e.away = false
	s.cache[key] = e
	return e, nil
}

// write stores what changed and the position in one batch. fresh is when the
// position was the log's end; zero where that is not known. While the model is behind,
// what the write before stored and this one does not is put away: it is seldom changed
// by the next.
func (m *model) write(at es.Position, fresh time.Time, behind bool) (err error) {
	n := m.unstored()
	m.work(n, func(s *shard) {
		s.size = 0
		for _, e := range s.dirty {
			s.size += e.settle()
		}
	})
	size := 1 << 10 // the position
	for i := range m.shards {
		size += m.shards[i].size
	}
	b := m.db.NewBatchWithSize(size, pebble.WithMaxRetainedSizeBytes(4<<20))
	defer b.Close()
	for i := range m.shards {
		for _, e := range m.shards[i].dirty {
			if err := e.place(b); err != nil {
				return err
			}
		}
	}
	if b.Len() > size { // it moved, and no longer is where room was made in it
		return fmt.Errorf("a batch of %d bytes became %d", size, b.Len())
	}
	var errs [shards]error
	m.work(n, func(s *shard) {
		for _, e := range s.dirty {
			if _, err := e.value.MarshalToSizedBufferVT(e.room); err != nil {
				errs[e.key.shard()] = err
			}
		}
		for _, e := range s.stored {
			if behind && !e.dirty {
				e.value, e.keys, e.away = nil, nil, true
			}
		}
		for _, e := range s.dirty {
			e.dirty, e.room = false, nil
		}
		clear(s.stored)
		s.stored, s.dirty = s.dirty, s.stored[:0]
		if len(s.cache) > cached {
			clear(s.cache)
			s.evicted = true
		}
	})
	for i := range m.shards {
		m.whole, m.shards[i].evicted = m.whole && !m.shards[i].evicted, false
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	position := appendMark(at, m.last)
	if m.positionFirst {
		// The planted bug: the position is there before what it stands for.
		if err := errors.Join(m.db.Set([]byte{'m'}, position, pebble.NoSync), m.keep()); err != nil {
			return err
		}
	} else if err := b.Set([]byte{'m'}, position, nil); err != nil {
		return err
	}
	m.mu.Lock() // over both, so that a snapshot is of a position
	defer m.mu.Unlock()
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	m.position, m.taken = at, at
	if !fresh.IsZero() {
		m.fresh = fresh
	}
	close(m.moved)
	m.moved = make(chan struct{})
	return nil
}

func (s *shard) changed(e *kept) {
	if !e.dirty {
		e.dirty = true
		s.dirty = append(s.dirty, e)
	}
}

// settle makes the value ready to be stored, and returns how much of a batch it takes at most.
func (e *kept) settle() int {
	const most = 11 // bytes that a batch adds to a key and a value: a kind and two lengths
	index := 0
	if v, ok := e.value.(*pb.Pathway); ok {
		derive(v)
		e.next = indexKeys(v)
		index = most + 1 + len(v.PathwayId) + len(v.PersonId)
		for _, keys := range [][][]byte{e.keys, e.next} {
			for _, k := range keys {
				index += most + len(k)
			}
		}
	}
	e.size = e.value.SizeVT()
	return most + 1 + len(e.key.id) + e.size + index
}

// place makes room for a settled value in a batch, and adds how it is found.
func (e *kept) place(b *pebble.Batch) error {
	if v, ok := e.value.(*pb.Pathway); ok {
		for _, k := range e.keys {
			if !holds(e.next, k) && !(k[0] == 'h' && planted.Is("caseload keeps who left")) {
				if err := b.Delete(k, nil); err != nil {
					return err
				}
			}
		}
		for _, k := range e.next {
			if !holds(e.keys, k) {
				if err := b.Set(k, nil, nil); err != nil {
					return err
				}
			}
		}
		e.keys, e.next = e.next, nil
		if v.PersonId != e.person {
			if err := b.Set(append([]byte{'p'}, v.PathwayId...), []byte(v.PersonId), nil); err != nil {
				return err
			}
			e.person = v.PersonId
		}
	}
	op := b.SetDeferred(1+len(e.key.id), e.size)
	op.Key[0] = e.key.kind
	copy(op.Key[1:], e.key.id)
	e.room = op.Value
	return op.Finish()
}

func holds(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}
