package pathway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	atOnce = 16 << 10 // events in one batch at most
	few    = 64       // events that are not worth another goroutine
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

// drain takes in events in one batch. Those that were delivered before change
// nothing. fresh is when the last of them was the log's end; zero where that is not
// known. Where one cannot be taken in, those before it are.
func (m *model) drain(events []*es.Recorded, fresh time.Time) error {
	at := m.at()
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
		if at = m.at(); failed > 0 {
			at = events[failed-1].Position
		}
		if _, before := m.take(events[:failed]); before != nil {
			return errors.Join(err, before)
		}
		fresh = time.Time{}
	}
	return errors.Join(err, m.write(at, fresh))
}

// shard is a part of what the model has in memory: all that belongs to one id is
// in the same one, so that shards can be worked on side by side.
type shard struct {
	came    []arrival // of this batch, in the order of the log
	cache   map[keptKey]*kept
	dirty   map[keptKey]*kept // those of the cache that are not stored yet
	batch   *pebble.Batch
	evicted bool // the cache lacks what is stored
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
	value  proto.Message
	keys   [][]byte // of the indexes of a view, as stored
	person string   // of a view, as stored under its id
}

// arrival is an event that a shard takes in.
type arrival struct {
	event *es.Recorded
	key   keptKey
	n     int // its place in the batch
}

// forget drops what is in memory.
func (m *model) forget() {
	m.whole = false
	for i := range m.shards {
		m.shards[i] = shard{cache: make(map[keptKey]*kept), dirty: make(map[keptKey]*kept)}
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
	var mu sync.Mutex // guards failed and err
	m.work(len(events), func(s *shard) {
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
	e, err := decode(*w.event)
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
	s.dirty[w.key] = k
	if c, ok := e.message.(*planv1.ConcernRaised); ok {
		key := keptKey{'k', w.key.id}
		codes, err := m.entry(s, key)
		if err != nil {
			return err
		}
		all := codes.value.(*pb.ConcernCodes)
		all.Codes = append(all.Codes, &pb.ConcernCodes_Code{ConcernId: c.ConcernId, Code: c.Code, RaisedOn: civil(e.at())})
		s.dirty[key] = codes
	}
	return nil
}

// entry is what is kept under a key, from memory or the store.
func (m *model) entry(s *shard, key keptKey) (*kept, error) {
	if e, ok := s.cache[key]; ok {
		return e, nil
	}
	e := &kept{}
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
	if !m.whole {
		found, err := get(m.db, key.bytes(), e.value)
		if err != nil {
			return nil, err
		}
		if v, ok := e.value.(*pb.Pathway); ok && found {
			e.keys, e.person = indexKeys(v), v.PersonId
		}
	}
	s.cache[key] = e
	return e, nil
}

// write stores what changed and the position in one batch. fresh is when the
// position was the log's end; zero where that is not known.
func (m *model) write(at es.Position, fresh time.Time) (err error) {
	changed := 0
	for i := range m.shards {
		changed += len(m.shards[i].dirty)
	}
	var errs [shards]error
	m.work(changed, func(s *shard) {
		s.batch = m.db.NewBatch()
		for key, e := range s.dirty {
			if err := e.store(key, s.batch); err != nil {
				errs[key.shard()] = err
				return
			}
		}
		clear(s.dirty)
		if len(s.cache) > cached {
			clear(s.cache)
			s.evicted = true
		}
	})
	b := m.db.NewBatch()
	defer b.Close()
	for i := range m.shards {
		s := &m.shards[i]
		if !s.batch.Empty() {
			errs[i] = errors.Join(errs[i], b.Apply(s.batch, nil))
		}
		errs[i] = errors.Join(errs[i], s.batch.Close())
		m.whole, s.batch, s.evicted = m.whole && !s.evicted, nil, false
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	position := appendMark(at, m.last)
	if m.positionFirst {
		// The planted bug: the position is there before what it stands for.
		if err := m.db.Set([]byte{'m'}, position, pebble.Sync); err != nil {
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
	m.position = at
	if !fresh.IsZero() {
		m.fresh = fresh
	}
	close(m.moved)
	m.moved = make(chan struct{})
	return nil
}

// store adds what is kept under a key, and how it is found, to a batch.
func (e *kept) store(key keptKey, b *pebble.Batch) error {
	if v, ok := e.value.(*pb.Pathway); ok {
		derive(v)
		next := indexKeys(v)
		for _, k := range e.keys {
			if !holds(next, k) && !(k[0] == 'h' && planted.Is("caseload keeps who left")) {
				if err := b.Delete(k, nil); err != nil {
					return err
				}
			}
		}
		for _, k := range next {
			if !holds(e.keys, k) {
				if err := b.Set(k, nil, nil); err != nil {
					return err
				}
			}
		}
		e.keys = next
		if v.PersonId != e.person {
			if err := b.Set(append([]byte{'p'}, v.PathwayId...), []byte(v.PersonId), nil); err != nil {
				return err
			}
			e.person = v.PersonId
		}
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(e.value)
	if err != nil {
		return err
	}
	return b.Set(key.bytes(), data, nil)
}

func holds(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}
