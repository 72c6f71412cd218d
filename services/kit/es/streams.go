package es

import (
	"cmp"
	"container/list"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/planted"
)

// Decider folds one kind of stream. Both functions are pure.
type Decider[S any] struct {
	// Category is the stream's: "referral" for streams "referral-<id>".
	Category string
	// Evolve applies one event. The zero S is the state of an empty stream. It
	// must not change what earlier states share (copy maps and slices that grow).
	// Its default branch panics with Unhandled(event).
	Evolve func(S, proto.Message) S
}

// State is a fold of a stream up to and including Revision.
type State[S any] struct {
	Value    S
	Revision Revision // NoStream when nothing was ever written
	Position Position // of the event at Revision
}

// Receipt says where the state stands in the log, for the reply to a command: a
// query with its position as min_position reads this write.
func (s State[S]) Receipt() *metav1.Receipt {
	return &metav1.Receipt{Revision: int64(s.Revision), Position: uint64(s.Position)}
}

// Request is a command request of a service: a proto message with the command
// header as a field.
type Request interface {
	proto.Message
	GetCommand() *metav1.Command
}

// Options of NewStreams. The zero value of each field but Key is a sound default.
type Options struct {
	// Key keys the hash of command bodies that metadata keeps: a bare hash of a
	// body with an NHS number could be reversed by trying all numbers. At least
	// 16 bytes, the same for every instance and for the life of the log.
	Key []byte
	// Cache keeps the folded streams; nil makes one of 64 MiB for these alone. The
	// kinds of stream of a process share one, so that the busy ones get the room.
	Cache *Cache
	// Cached is how many folded streams are kept, in a cache for these alone; 0 is
	// as many as fit.
	Cached int
	// Jitter draws a wait between 0 and max; nil draws at random. Simulations set it.
	Jitter func(max time.Duration) time.Duration
}

const (
	// attempts is how often one command may lose a race before it is given up.
	attempts = 5
	// repeats is how often the same bytes are sent while the outcome is unknown.
	repeats = 5
	// maxCommandBytes bounds one append; the store refuses more than 1 MiB.
	maxCommandBytes = 1000 << 10

	// courtesy is for how many commands after a lost race an instance lets others go
	// first. The loser has to read before it can append; a winner that appends
	// without a pause would win for ever (two writers in a loop on one stream of a
	// node: 9 of 100 commands lost five races, and 1 of 1,000 with the pause).
	courtesy = 16

	raceWait   = 8 * time.Millisecond  // doubled after each lost race
	repeatWait = 25 * time.Millisecond // doubled after each unknown outcome
)

// Streams runs the commands of one kind of stream. Any number of goroutines may
// use it; commands on one stream queue here rather than race in the store.
type Streams[S any] struct {
	log     Log
	decider Decider[S]
	macs    sync.Pool // of hash.Hash: HMAC-SHA-256 with Options.Key; a used one has its key schedule
	cached  int
	weight  int // bytes of an entry without what its events brought
	jitter  func(time.Duration) time.Duration

	// What tests replace to plant the bugs that they must catch.
	eventID   func(command uuid.UUID, n int, content [sha256.Size]byte) uuid.UUID
	forgetful bool

	cache   *Cache
	entries map[string]*entry[S] // guarded by the cache
}

// entry is the cached fold of one stream. Whoever has put a token into lock owns
// fold, behind and shared; the rest is guarded by the cache.
type entry[S any] struct {
	of     *Streams[S]
	stream string
	lock   chan struct{}
	fold   fold[S]
	behind bool // the log may hold more than the fold: read the tail before deciding
	shared int  // commands that still show courtesy to other instances

	users   int
	size    int // of the fold, as the cache counts it
	element *list.Element
}

// NewStreams returns a runner for the decider's streams in log. It panics when
// the key is too short to hide anything.
func NewStreams[S any](log Log, decider Decider[S], opts Options) *Streams[S] {
	if len(opts.Key) < 16 {
		panic("es: Options.Key needs at least 16 bytes")
	}
	s := &Streams[S]{log: log, decider: decider, cached: opts.Cached, jitter: opts.Jitter, eventID: eventID,
		weight: entryBytes + int(reflect.TypeFor[entry[S]]().Size()), cache: opts.Cache, entries: make(map[string]*entry[S])}
	s.macs.New = func() any { return hmac.New(sha256.New, opts.Key) }
	if s.cache == nil || s.cached > 0 {
		s.cache = NewCache(DefaultCache)
	}
	if s.jitter == nil {
		s.jitter = func(max time.Duration) time.Duration { return rand.N(max) }
	}
	return s
}

// Do runs one command: loads the fold of stream id, calls decide, appends what
// it returns at the revision decided upon, and returns the state after it.
//
//   - A command id that the stream has already taken (last 256) with the same
//     request returns the state as it was right after that command, decides and
//     writes nothing; with another request it is refused with
//     command.id_reused (INVALID_ARGUMENT).
//   - decide may be called several times and must be pure; its error is returned
//     as it is. No events is success and records nothing. Both are answered from
//     a state that was read from the log during this call.
//   - A lost race reads the tail and decides again, 5 attempts with jitter, then
//     command.contended (ABORTED).
//   - An append whose outcome is unknown is repeated with the same bytes or found
//     again in the tail; it is never decided anew before the tail was read. When
//     it stays unknown the error is UNAVAILABLE or DEADLINE_EXCEEDED, and the
//     caller repeats the request with the same command id.
func (s *Streams[S]) Do(ctx context.Context, id string, req Request, decide func(S) ([]proto.Message, error)) (State[S], error) {
	cmd, err := s.parseCommand(req)
	if err != nil {
		return State[S]{}, err
	}
	e, err := s.acquire(ctx, id)
	if err != nil {
		return State[S]{}, err
	}
	defer s.release(e)
	if e.shared > 0 {
		e.shared--
		if err := s.wait(ctx, raceWait); err != nil {
			return State[S]{}, err
		}
	}

	read := false // whether the tail was read for the decision at hand
	for attempt := 1; ; attempt++ {
		if e.behind {
			if err := s.catchUp(ctx, e); err != nil {
				return State[S]{}, err
			}
			read = true
		}
		if first, found, err := e.fold.find(cmd); err != nil {
			return State[S]{}, err
		} else if found && !s.forgetful && !planted.Is("command forgotten") {
			return s.stateAfter(ctx, e, first)
		}
		if attempt > attempts {
			return State[S]{}, fault.Aborted("command.contended", "other commands on the same record won each time: repeat the request")
		}

		events, err := decide(e.fold.state.Value)
		if err != nil || len(events) == 0 {
			if !read { // the cache may be behind; an append would have told, an answer does not
				e.behind = true
				attempt--
				continue
			}
			if err != nil {
				return State[S]{}, err
			}
			return e.fold.state, nil
		}
		draft, err := s.draft(ctx, e, cmd, events)
		if err != nil {
			return State[S]{}, err
		}
		at, unknown, err := s.append(ctx, e, draft)
		if err == nil {
			return s.adopt(e, cmd, draft, at), nil
		}
		e.behind = true
		var wrong *WrongRevision
		if !errors.As(err, &wrong) {
			if unknown {
				if planted.Is("retry with a fresh id") {
					cmd.id = uuid.NewSHA1(cmd.id, nil)
					continue
				}
				return s.lookFor(ctx, e, cmd, err)
			}
			return State[S]{}, err
		}
		e.shared = courtesy
		if wrong.Actual < e.fold.state.Revision {
			e.fold = emptyFold[S]() // the store is not the one that was folded: a restored copy
		}
		if attempt > 1 {
			if err := s.wait(ctx, raceWait<<attempt); err != nil {
				return State[S]{}, err
			}
		}
	}
}

// Load returns the newest state of stream id; it reads at most the tail that
// the cache lacks. An empty stream is State{Revision: NoStream}, no error.
func (s *Streams[S]) Load(ctx context.Context, id string) (State[S], error) {
	e, err := s.acquire(ctx, id)
	if err != nil {
		return State[S]{}, err
	}
	defer s.release(e)
	if err := s.catchUp(ctx, e); err != nil {
		return State[S]{}, err
	}
	return e.fold.state, nil
}

// LoadAt returns the state of stream id as it was at position at, folded from the
// first event; at 0 it is Load.
func (s *Streams[S]) LoadAt(ctx context.Context, id string, at Position) (State[S], error) {
	if at == 0 {
		return s.Load(ctx, id)
	}
	if id == "" {
		return State[S]{}, fmt.Errorf("es: empty id of a %s stream", s.decider.Category)
	}
	then := emptyFold[S]()
	after := errors.New("after")
	err := s.log.Read(ctx, s.decider.Category+"-"+id, 0, func(r Recorded) error {
		if r.Position > at {
			return after
		}
		return then.apply(s.decider.Evolve, r)
	})
	if err != nil && !errors.Is(err, after) {
		return State[S]{}, outage(ctx, err)
	}
	return then.state, nil
}

// catchUp folds what the log holds beyond the fold.
func (s *Streams[S]) catchUp(ctx context.Context, e *entry[S]) error {
	err := s.log.Read(ctx, e.stream, e.fold.state.Revision+1, func(r Recorded) error {
		return e.fold.apply(s.decider.Evolve, r)
	})
	if err != nil {
		return outage(ctx, err)
	}
	e.behind = false
	return nil
}

// stateAfter returns the state right after a command that the stream has taken.
func (s *Streams[S]) stateAfter(ctx context.Context, e *entry[S], t taken) (State[S], error) {
	if state, ok := e.fold.after(t); ok {
		return state, nil
	}
	then := emptyFold[S]()
	enough := errors.New("enough")
	err := s.log.Read(ctx, e.stream, 0, func(r Recorded) error {
		if err := then.apply(s.decider.Evolve, r); err != nil {
			return err
		}
		if r.Revision == t.revision {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		if err == nil {
			err = fault.Lost("es.chain_broken", fmt.Sprintf("stream %s ends before revision %d, which it had", e.stream, t.revision))
		}
		return State[S]{}, outage(ctx, err)
	}
	return then.state, nil
}

// lookFor settles an append of unknown outcome by the tail, where that can be
// read in the time left; else it returns the append's error.
func (s *Streams[S]) lookFor(ctx context.Context, e *entry[S], cmd command, failed error) (State[S], error) {
	if ctx.Err() == nil && s.catchUp(ctx, e) == nil {
		if t, found, err := e.fold.find(cmd); found && err == nil && !s.forgetful && !planted.Is("command forgotten") {
			return s.stateAfter(ctx, e, t)
		}
		e.behind = true // the append may still be on its way
	}
	return State[S]{}, failed
}

// draft is what a command would append, and the fold after it.
type draft[S any] struct {
	events []NewEvent
	value  S
	chain  Chain
}

// draft encodes events. The value is folded from the encoded bytes, as every
// reader will fold it, and before anything is written, so that no event is
// stored that Evolve has no case for.
func (s *Streams[S]) draft(ctx context.Context, e *entry[S], cmd command, events []proto.Message) (draft[S], error) {
	d := draft[S]{events: make([]NewEvent, len(events)), value: e.fold.state.Value, chain: e.fold.chain}
	shared := cmd.shared(ctx, e.fold.tenant)
	size := 0
	for i, event := range events {
		typ := string(event.ProtoReflect().Descriptor().FullName())
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(event)
		if err != nil {
			return d, fmt.Errorf("event %s: %w", typ, err)
		}
		stored, err := Decode(Recorded{Stream: e.stream, Revision: d.chain.next, Type: typ, Data: data})
		if err != nil {
			return d, err
		}
		if d.value, err = TryEvolve(s.decider.Evolve, d.value, stored); err != nil {
			return d, err
		}
		before := place(shared, i, len(events))
		dataSum, beforeSum := sha256.Sum256(data), sha256.Sum256(before)
		id := s.eventID(cmd.id, i, d.chain.content(e.stream, typ, dataSum, beforeSum))
		d.chain = d.chain.with(e.stream, id, typ, dataSum, beforeSum)
		d.events[i] = NewEvent{ID: id, Type: typ, Data: data, Metadata: chainForms[0].end(before, d.chain)}
		size += len(data) + len(d.events[i].Metadata) + 2*len(typ)
	}
	if size > maxCommandBytes {
		return d, fault.Invalid("command.too_large", "command", "the request records more than fits into one command: split it")
	}
	return d, nil
}

// eventID binds the id to the command, the place and the content; the package
// comment says why.
func eventID(command uuid.UUID, n int, content [sha256.Size]byte) uuid.UUID {
	name := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(content)), uint32(n))
	return uuid.NewSHA1(command, append(name, content[:]...))
}

// append stores a draft. Unknown says that it may have been stored although err
// is not nil. A wrong revision is certain, also after an unknown outcome: the
// store knows its own bytes again by their ids.
func (s *Streams[S]) append(ctx context.Context, e *entry[S], d draft[S]) (at Appended, unknown bool, err error) {
	for try := 0; ; try++ {
		at, err = s.log.Append(ctx, e.stream, e.fold.state.Revision, d.events)
		var wrong *WrongRevision
		if err == nil || errors.As(err, &wrong) {
			return at, false, err
		}
		err = outage(ctx, err)
		var f *fault.Error
		if !unknown && errors.As(err, &f) && f.GRPC == codes.ResourceExhausted {
			return at, false, err
		}
		unknown = true
		if try == repeats || planted.Is("retry with a fresh id") || s.wait(ctx, repeatWait<<try) != nil {
			return at, true, err
		}
	}
}

// adopt makes an appended draft the cached fold.
func (s *Streams[S]) adopt(e *entry[S], cmd command, d draft[S], at Appended) State[S] {
	e.fold.tenant = cmp.Or(e.fold.tenant, cmd.tenant(""))
	e.fold.state = State[S]{Value: d.value, Revision: e.fold.state.Revision + Revision(len(d.events)), Position: at.Position}
	e.fold.chain = d.chain
	for _, event := range d.events {
		e.fold.data += len(event.Data)
	}
	e.fold.take(taken{id: cmd.id, hash: cmd.hash, revision: e.fold.state.Revision, position: at.Position})
	return e.fold.state
}

// acquire returns the entry of a stream, locked for the caller.
func (s *Streams[S]) acquire(ctx context.Context, id string) (*entry[S], error) {
	if id == "" {
		return nil, fmt.Errorf("es: empty id of a %s stream", s.decider.Category)
	}
	stream := s.decider.Category + "-" + id
	s.cache.mu.Lock()
	e := s.entries[stream]
	if e == nil {
		e = &entry[S]{of: s, stream: stream, lock: make(chan struct{}, 1), fold: emptyFold[S](), behind: true}
		s.entries[stream] = e
	}
	if e.users++; e.element != nil {
		s.cache.idle.Remove(e.element)
		e.element = nil
	}
	s.cache.mu.Unlock()

	select {
	case e.lock <- struct{}{}:
		return e, nil
	default:
	}
	select {
	case e.lock <- struct{}{}:
		return e, nil
	case <-ctx.Done():
		s.cache.mu.Lock()
		defer s.cache.mu.Unlock()
		s.leave(e)
		return nil, outage(ctx, ctx.Err())
	}
}

// release gives back an entry that acquire returned.
func (s *Streams[S]) release(e *entry[S]) {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	size := s.weight + len(e.stream) + e.fold.size()
	s.cache.size += size - e.size
	e.size = size
	<-e.lock
	s.leave(e)
}

// leave gives an entry up and forgets the streams that were not used for longest.
// The caller holds the cache's lock.
func (s *Streams[S]) leave(e *entry[S]) {
	if e.users--; e.users == 0 {
		e.element = s.cache.idle.PushBack(e)
	}
	for s.cache.idle.Len() > 0 && (s.cache.size > s.cache.bytes || s.cached > 0 && len(s.entries) > s.cached) {
		s.cache.size -= s.cache.idle.Remove(s.cache.idle.Front()).(kept).forget()
	}
}

// forget takes an idle entry out of its Streams and returns its size.
func (e *entry[S]) forget() int {
	e.element = nil
	delete(e.of.entries, e.stream)
	return e.size
}

// wait waits up to max, or fails with ctx.
func (s *Streams[S]) wait(ctx context.Context, max time.Duration) error {
	timer := time.NewTimer(s.jitter(max) + 1)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return outage(ctx, ctx.Err())
	}
}

// outage gives the end of a context its fault; any other error stays as it is.
func outage(ctx context.Context, err error) error {
	var f *fault.Error
	switch {
	case errors.As(err, &f):
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fault.TimedOut("log.deadline", "the event store did not answer in time: repeat the request")
	case errors.Is(err, context.Canceled):
		return fault.Canceled("log.canceled", "the caller went away before the event store answered")
	}
	return err
}
