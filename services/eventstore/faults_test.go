package eventstore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// tally is the record of one fault test. What stands behind acked must be 0,
// and must not be 0 in the control, the same test with a planted bug.
type tally struct {
	name                                              string
	cycles, ops, acked, lost, dup, reordered, torn, x int    // x: unexplained
	more                                              string // what else its line says
}

func (y tally) bad() int { return y.lost + y.dup + y.reordered + y.torn + y.x }

// report prints the record and fails the test that has found something, or that
// could not have.
func report(t *testing.T, got, control tally, minAcked int) {
	t.Helper()
	caught := "caught"
	if control.bad() == 0 {
		caught = "MISSED"
		t.Errorf("the control's bug was not seen: %+v", control)
	}
	fmt.Printf("%s cycles=%d ops=%d acked=%d lost=%d dup=%d reordered=%d torn=%d unexplained=%d%s control=%s\n",
		got.name, got.cycles, got.ops, got.acked, got.lost, got.dup, got.reordered, got.torn, got.x, got.more, caught)
	if got.bad() > 0 {
		t.Errorf("%+v", got)
	}
	if got.acked < minAcked {
		t.Errorf("%s: only %d events were acknowledged, the test has shown nothing below %d", got.name, got.acked, minAcked)
	}
}

// target is a store under attack.
type target interface {
	// append writes events after the expected revision; nil means acknowledged.
	append(ctx context.Context, stream string, expected int64, ids []eventID) error
	// read returns the ids of all events of a stream.
	read(ctx context.Context, stream string) ([]eventID, error)
}

// ledger is what the writers know: each stream has one writer, which writes one
// append after the other.
type ledger struct {
	mu      sync.Mutex
	streams map[string][]attempt // guarded by mu
	ops     atomic.Int64
	acked   atomic.Int64  // events
	limit   int64         // writers end when so many events are acknowledged; 0 is no limit
	grown   chan struct{} // has room for one; told of acked
	idle    chan struct{} // closed when no writer of load is left
}

// attempt is one append. All of its events are stored, or none.
type attempt struct {
	ids   []eventID
	acked bool
}

func newLedger(streams int) *ledger {
	l := &ledger{streams: map[string][]attempt{}, grown: make(chan struct{}, 1)}
	for i := range streams {
		l.streams[fmt.Sprint("stream-", i)] = nil
	}
	return l
}

// write appends to one stream until an append fails or ctx ends.
func (l *ledger) write(ctx context.Context, to target, stream string, rng *rand.Rand) {
	l.mu.Lock()
	last := int64(-1)
	for _, a := range l.streams[stream] {
		last += int64(len(a.ids))
	}
	l.mu.Unlock()
	for ctx.Err() == nil && (l.limit == 0 || l.acked.Load() < l.limit) {
		ids := make([]eventID, 1+rng.IntN(4))
		for i := range ids {
			ids[i] = eventID(uuid.New())
		}
		l.mu.Lock()
		n := len(l.streams[stream])
		l.streams[stream] = append(l.streams[stream], attempt{ids: ids})
		l.mu.Unlock()
		l.ops.Add(1)
		if to.append(ctx, stream, last, ids) != nil {
			return
		}
		l.mu.Lock()
		l.streams[stream][n].acked = true
		l.mu.Unlock()
		l.acked.Add(int64(len(ids)))
		select {
		case l.grown <- struct{}{}:
		default:
		}
		last += int64(len(ids))
	}
}

// load runs a writer for each stream until the returned function is called.
func (l *ledger) load(to target, rng *rand.Rand) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	l.mu.Lock() // the first writers write while the last are started
	streams := slices.Sorted(maps.Keys(l.streams))
	l.mu.Unlock()
	for _, stream := range streams {
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		writers.Go(func() { l.write(ctx, to, stream, own) })
	}
	idle := make(chan struct{})
	l.idle = idle
	go func() {
		writers.Wait()
		close(idle)
	}()
	return func() { cancel(); <-idle }
}

// until waits until so many more events are acknowledged, ended is closed, or no
// writer is left: one that gets no answer, which on a busy machine may be for
// lack of time, writes no more.
func (l *ledger) until(n int64, ended <-chan struct{}) {
	goal := l.acked.Load() + n
	if l.limit > 0 { // the writers may have begun before
		goal = min(goal, l.limit)
	}
	for l.acked.Load() < goal {
		select {
		case <-ended:
			return
		case <-l.idle:
			select {
			case <-ended: // it is ending: the writers have heard of it first
			case <-time.After(10 * time.Second):
			}
			return
		case <-l.grown:
		}
	}
}

// promised is how many appends of each stream were acknowledged by now.
func (l *ledger) promised() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := map[string]int{}
	for stream, attempts := range l.streams {
		for n[stream] < len(attempts) && attempts[n[stream]].acked {
			n[stream]++
		}
	}
	return n
}

// check compares what is stored with what was promised, adds what is wrong to
// the tally, and takes what is stored as the new truth.
func (l *ledger) check(to target, promised map[string]int, y *tally) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for stream, attempts := range l.streams {
		stored, err := to.read(context.Background(), stream)
		if err != nil {
			return err
		}
		kept, at := 0, 0
		for ; kept < len(attempts) && at < len(stored); kept++ {
			ids := attempts[kept].ids
			n := 0
			for n < len(ids) && at+n < len(stored) && stored[at+n] == ids[n] {
				n++
			}
			if n < len(ids) {
				if n > 0 {
					y.torn++
				}
				break
			}
			at += n
		}
		for i := kept; i < promised[stream]; i++ {
			for _, id := range attempts[i].ids {
				if slices.Contains(stored[at:], id) {
					y.reordered++
				} else {
					y.lost++
				}
			}
		}
		for i, id := range stored[at:] {
			switch {
			case slices.Contains(stored[:at+i], id):
				y.dup++
			case kept >= promised[stream] && !attempted(attempts[kept:], id):
				y.x++
			}
		}
		if y.bad() > 0 { // go on from what is there
			attempts = []attempt{{ids: stored}}
			kept = 1
		}
		l.streams[stream] = attempts[:kept]
		for i := range l.streams[stream] {
			l.streams[stream][i].acked = true
		}
	}
	return nil
}

func attempted(attempts []attempt, id eventID) bool {
	return slices.ContainsFunc(attempts, func(a attempt) bool { return slices.Contains(a.ids, id) })
}

// inProcess is a node in this process, without its wire.
type inProcess struct{ *Node }

func (n inProcess) append(ctx context.Context, stream string, expected int64, ids []eventID) error {
	_, err := n.seq.do(&write{ctx: ctx, stream: stream, expected: expected, events: eventsOf(stream, ids)})
	return err
}

func eventsOf(stream string, ids []eventID) []proposed {
	events := make([]proposed, len(ids))
	for i, id := range ids {
		events[i] = proposed{id: id, typ: "T", data: append(slices.Repeat([]byte("x"), 64), id[:]...)}
	}
	return events
}

// read holds the two orders and the frames against each other on the way.
func (n inProcess) read(_ context.Context, stream string) (ids []eventID, err error) {
	var wrong error
	err = n.store.stream(stream, 0, math.MaxInt64-1, false, func(r record) bool {
		ev, err := decodeEvent(r)
		if err != nil {
			wrong = err
			return false
		}
		id, err := parseUUID(ev.GetId())
		if err != nil || id != r.id() || int(r.revision()) != len(ids) || ev.GetStreamRevision() != uint64(r.revision()) {
			wrong = errors.Join(err, fmt.Errorf("%s: record %d and its frame differ", stream, r.revision()))
		}
		ids = append(ids, id)
		return wrong == nil
	})
	return ids, errors.Join(err, wrong)
}

// consistent is what Fsck checks, on an open store.
func (n inProcess) consistent() error {
	c := &checker{store: n.store, ctx: context.Background(), seed: maphash.MakeSeed()}
	c.positions()
	c.streams()
	if c.report.OK() && c.sums[0] != c.sums[1] {
		return errors.New("the two orders differ")
	}
	if !c.report.OK() {
		return fmt.Errorf("%d faults: %v", c.report.Faults, c.report.First)
	}
	return nil
}
