package sim

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// history is what callers of the log were told, by the simulated clock.
type history struct {
	w     *world
	links []*actor // under w.mu

	mu      sync.Mutex
	ops     []*op                  // under mu, in order of their calls
	open    int                    // under mu: appends without an answer
	appends int                    // under mu
	seen    map[es.Position]shown  // under mu: events that were handed to anybody
	last    map[string]es.Position // under mu: what each subscriber saw last
}

// op is one append or one read of a stream.
type op struct {
	read     bool
	actor    int64
	stream   string
	expected es.Revision // of a read, from where
	ids      []uuid.UUID // appended; of a read, the last event's if there was one
	call     int64
	ret      int64 // math.MaxInt64 where the outcome is not known
	outcome  outcome
	revision es.Revision // the last one appended or read, or the actual one
	position es.Position
}

type outcome byte

const (
	unknown outcome = iota
	done
	wrong
	refused // certainly not done
)

// shown is an event as somebody saw it.
type shown struct {
	id       uuid.UUID
	stream   string
	revision es.Revision
}

func newHistory(w *world) *history {
	return &history{w: w, seen: map[es.Position]shown{}, last: map[string]es.Position{}}
}

func (h *history) now() int64 { return time.Since(h.w.begun).Nanoseconds() }

func (h *history) append(a *actor, stream string, expected es.Revision, events []es.NewEvent) *op {
	o := &op{actor: a.id, stream: stream, expected: expected, call: h.now(), ret: math.MaxInt64}
	for _, e := range events {
		o.ids = append(o.ids, e.ID)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	h.open++
	h.appends++
	return o
}

func (h *history) appended(o *op, at es.Appended, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
	var w *es.WrongRevision
	var f *fault.Error
	switch {
	case err == nil:
		o.outcome, o.revision, o.position, o.ret = done, at.Revision, at.Position, h.now()
	case errors.As(err, &w):
		o.outcome, o.revision, o.ret = wrong, w.Actual, h.now()
	case errors.As(err, &f) && f.Code == "log.full":
		o.outcome, o.ret = refused, h.now()
	}
}

// calls is how many appends were called so far.
func (h *history) calls() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.appends
}

// inFlight is how many appends have no answer yet.
func (h *history) inFlight() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

func (h *history) read(a *actor, stream string, from es.Revision) *op {
	o := &op{read: true, actor: a.id, stream: stream, expected: max(from, 0), call: h.now(), ret: math.MaxInt64}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	return o
}

func (h *history) was(o *op, events []es.Recorded, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		return
	}
	o.outcome, o.ret, o.revision = done, h.now(), es.NoStream
	if n := len(events); n > 0 {
		o.ids, o.revision = []uuid.UUID{events[n-1].ID}, events[n-1].Revision
	}
	for _, e := range events {
		h.note(e)
	}
}

// saw notes an event that came with a read of the log or with a subscription.
func (h *history) saw(a *actor, e es.Recorded) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(e)
}

// note checks that all see the same event at a position. The caller holds mu.
func (h *history) note(e es.Recorded) {
	now := shown{e.ID, e.Stream, e.Revision}
	if was, ok := h.seen[e.Position]; ok && was != now {
		h.w.fail("position %d was shown as %s@%d and as %s@%d", e.Position, was.stream, was.revision, now.stream, now.revision)
		return
	}
	h.seen[e.Position] = now
}

// sign writes what was told to whom and when, without what is drawn by the
// machine: the ids of checkpoints.
func (h *history) sign(to hash.Hash) {
	for _, o := range h.sorted() {
		fmt.Fprintf(to, "%v %d %s %d %d %d %d %d %d\n", o.read, o.actor, o.stream, o.expected, o.call, o.ret, o.outcome, o.revision, o.position)
		if ours(o.stream) {
			for _, id := range o.ids {
				to.Write(id[:])
			}
		}
	}
}

// sorted are the calls in an order that does not depend on who of those that
// called at one instant was noted first.
func (h *history) sorted() []*op {
	return slices.SortedFunc(slices.Values(h.ops), func(a, b *op) int {
		return cmp.Or(cmp.Compare(a.call, b.call), cmp.Compare(a.actor, b.actor), cmp.Compare(a.stream, b.stream), cmp.Compare(a.expected, b.expected))
	})
}

// signLog writes the log, with the same exception.
func signLog(to hash.Hash, log []es.Recorded) {
	for _, e := range log {
		fmt.Fprintf(to, "%d %s %d %s %d\n", e.Position, e.Stream, e.Revision, e.Type, e.Recorded.UnixNano())
		if ours(e.Stream) {
			to.Write(e.ID[:])
			to.Write(binary.BigEndian.AppendUint32(nil, uint32(len(e.Data))))
			to.Write(e.Data)
			to.Write(e.Metadata)
		}
	}
}

func ours(stream string) bool { return !strings.HasPrefix(stream, "checkpoint-") }

// reordered counts appends that were called after another was acknowledged and
// lie before it.
func (h *history) reordered() (n int) {
	var acked []*op
	for _, o := range h.ops {
		if !o.read && o.outcome == done {
			acked = append(acked, o)
		}
	}
	byReturn := slices.Clone(acked)
	slices.SortFunc(byReturn, func(a, b *op) int { return int(a.ret - b.ret) })
	newest, first := es.Position(0), 0
	for _, o := range acked {
		for ; byReturn[first].ret < o.call; first++ {
			newest = max(newest, byReturn[first].position)
		}
		if o.position < newest && !h.repeat(o, acked) {
			n++
		}
	}
	return n
}

// repeat says that an append was a repeat of an earlier one, whose position it
// was then told.
func (h *history) repeat(o *op, acked []*op) bool {
	for _, p := range h.ops {
		if p.call >= o.call {
			return false
		}
		if !p.read && p.stream == o.stream && p.expected == o.expected && slices.Equal(p.ids, o.ids) {
			return true
		}
	}
	return false
}
