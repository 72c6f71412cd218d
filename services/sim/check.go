package sim

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"waymark/services/allinone"
	"waymark/services/kit/es"
)

// Check says what became of all that was promised in a run. It is not to be
// called in a bubble: what it waits for takes real time.
func (w *world) Check() Result {
	r := &w.result
	r.promises(w.history, w.log)
	r.order(w.history)
	r.linear(w.history)
	r.rules(w.log)
	r.tallies(w.log)
	r.reactions(w.log)
	r.messages(w)
	r.projections(w)
	r.sign(w)
	return *r
}

func (r *Result) lost(format string, args ...any)    { r.Lost++; r.note(format, args...) }
func (r *Result) doubled(format string, args ...any) { r.Doubled++; r.note(format, args...) }
func (r *Result) unexplained(format string, args ...any) {
	r.Unexplained++
	r.note(format, args...)
}

func (r *Result) note(format string, args ...any) {
	if len(r.Faults) < 10 {
		r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
	}
}

// promises holds what was acknowledged and what was shown against the log.
func (r *Result) promises(h *history, log []es.Recorded) {
	r.Events = len(log)
	at := map[uuid.UUID]es.Recorded{}
	positions := map[es.Position]es.Recorded{}
	for _, e := range log {
		if first, ok := at[e.ID]; ok {
			r.doubled("event %s lies at %s@%d and at %s@%d", e.ID, first.Stream, first.Revision, e.Stream, e.Revision)
		}
		at[e.ID], positions[e.Position] = e, e
	}
	attempted := map[uuid.UUID]bool{}
	for _, o := range h.ops {
		r.Ops++
		if o.read {
			continue
		}
		for i, id := range o.ids {
			attempted[id] = true
			if o.outcome != done {
				continue
			}
			r.Acked++
			e, ok := at[id]
			switch want := o.expected + 1 + es.Revision(i); {
			case !ok:
				r.lost("%s@%d was acknowledged and is not there", o.stream, want)
			case e.Stream != o.stream || e.Revision != want:
				r.unexplained("%s@%d was acknowledged and lies at %s@%d", o.stream, want, e.Stream, e.Revision)
			}
		}
	}
	for _, e := range log {
		if !attempted[e.ID] {
			r.unexplained("%s@%d was written by nobody", e.Stream, e.Revision)
		}
	}
	for p, was := range h.seen {
		if e, ok := positions[p]; !ok || was != (shown{e.ID, e.Stream, e.Revision}) {
			r.unexplained("%s@%d was shown at position %d and is not there", was.stream, was.revision, p)
		}
	}
}

func (r *Result) order(h *history) {
	if n := h.reordered(); n > 0 {
		r.Reordered += n
		r.note("%d appends lie before one that was acknowledged before they were called", n)
	}
}

// head is a stream as the model sees it: the ids of its events, of which the
// list never changes.
type head struct {
	ids []uuid.UUID
	sum uint64
}

// model is an append with an expected revision, and a read of a stream's end.
func model() porcupine.Model {
	return porcupine.Model{
		Init:  func() any { return head{} },
		Equal: func(a, b any) bool { return a.(head).sum == b.(head).sum && len(a.(head).ids) == len(b.(head).ids) },
		Step: func(state, input, output any) (bool, any) {
			s, o := state.(head), input.(*op)
			cur := es.Revision(len(s.ids)) - 1
			if o.read {
				if o.expected > cur {
					return o.revision == es.NoStream, s
				}
				return o.revision == cur && o.ids[0] == s.ids[cur], s
			}
			switch from := int(o.expected) + 1; {
			case o.expected == cur && o.outcome == done && o.revision != cur+es.Revision(len(o.ids)):
				return false, s
			case o.expected == cur:
				return o.outcome == done || o.outcome == unknown, s.with(o.ids)
			case o.expected < cur && from+len(o.ids) <= len(s.ids) && slices.Equal(s.ids[from:from+len(o.ids)], o.ids):
				return o.outcome == unknown || o.outcome == done && o.revision == o.expected+es.Revision(len(o.ids)), s
			}
			return o.outcome == unknown || o.outcome == refused || o.outcome == wrong && o.revision == cur, s
		},
	}
}

func (s head) with(ids []uuid.UUID) head {
	next := head{ids: append(slices.Clip(s.ids), ids...), sum: s.sum}
	for _, id := range ids {
		for _, b := range id {
			next.sum = (next.sum ^ uint64(b)) * 1099511628211
		}
	}
	return next
}

// linear checks that appends and reads of each stream are those of one register
// that takes one at a time.
func (r *Result) linear(h *history) {
	streams := map[string][]porcupine.Operation{}
	for _, o := range h.ops {
		if o.read && (o.outcome != done || !ours(o.stream)) {
			continue // it says nothing, or an end of which the beginning is hidden
		}
		streams[o.stream] = append(streams[o.stream], porcupine.Operation{ClientId: int(o.actor), Input: o, Output: o, Call: o.call, Return: o.ret})
	}
	for name, ops := range streams {
		switch porcupine.CheckOperationsTimeout(model(), ops, 10*time.Second) {
		case porcupine.Illegal:
			r.unexplained("stream %s: its history is not that of one register", name)
		case porcupine.Unknown:
			r.unexplained("stream %s: its history of %d calls could not be checked in time", name, len(ops))
		}
	}
}

// rules runs the verifier of `waymark verify` over the log.
func (r *Result) rules(log []es.Recorded) {
	v := allinone.NewVerifier()
	for _, e := range log {
		v.Next(e)
	}
	v.End(context.Background(), nil)
	r.Unexplained += v.Faults
	for _, b := range v.First {
		r.note("%s", b.Error())
	}
}

// reactions looks for what no service did although it had to: a pathway without
// a ledger, a diagnosis without a plan.
func (r *Result) reactions(log []es.Recorded) {
	due := map[string]string{"waymark.referral.v1.PathwayStarted": "carelead", "waymark.referral.v1.DiagnosisCommunicated": "plan"}
	there := map[string]bool{}
	for _, e := range log {
		there[e.Stream] = true
	}
	for _, e := range log {
		if category := due[e.Type]; category != "" {
			_, id, _ := strings.Cut(e.Stream, "-")
			if !there[category+"-"+id] {
				r.unexplained("%s@%d, %s: nobody acted on it", e.Stream, e.Revision, e.Type)
			}
		}
	}
}

// tallies looks for commands of the writers that were recorded twice.
func (r *Result) tallies(log []es.Recorded) {
	seen := map[string]bool{}
	for _, e := range log {
		m, err := es.Decode(e)
		if err != nil {
			r.unexplained("%v", err)
			continue
		}
		if v, ok := m.(*wrapperspb.StringValue); ok {
			if seen[v.Value] {
				r.doubled("%s@%d repeats an event of the same command", e.Stream, e.Revision)
			}
			seen[v.Value] = true
		}
	}
}

// sign makes the hash of a run.
func (r *Result) sign(w *world) {
	h := sha256.New()
	w.history.sign(h)
	for _, s := range w.inOrder() {
		h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(s.at)), uint64(s.until)))
		io.WriteString(h, s.actor+" "+s.what+"\n")
	}
	signLog(h, w.log)
	slices.Sort(r.Faults)
	r.Hash = ""
	fmt.Fprintf(h, "%+v", *r)
	r.Hash = hex.EncodeToString(h.Sum(nil))
}
