package allinone

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/appointment"
	"waymark/services/carelead"
	"waymark/services/edge"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/person"
	"waymark/services/plan"
	"waymark/services/referral"
)

// auditor checks the rules of one room for streams with one id, reading them in
// order. An error of Next names the rule; the event is the one at hand. What it
// cannot know without other ids it posts as facts.
type auditor interface {
	Next(es.Entry) error
	End(last time.Time) []error
}

// meeting checks the rules of one room between streams with different ids, by the
// facts that an auditor posts.
type meeting interface {
	Next(es.Fact) error
	End(last time.Time) []error
}

// Verdict is what a Verifier found.
type Verdict struct {
	Events    int         `json:"events"`
	Streams   int         `json:"streams"`
	Chained   int         `json:"chained_streams"`
	Commands  int         `json:"commands"`
	Pathways  int         `json:"pathways"`
	Open      int         `json:"open_pathways"`
	Transfers int         `json:"transfers"` // of accountability
	Instants  int         `json:"instants"`  // distinct recorded times at which custody was checked
	Faults    int         `json:"faults"`
	First     []es.Breach `json:"first,omitempty"` // the first 20, in the order of the log
}

// Verifier checks a whole log: that every event is as it was written and where it
// belongs, and that no rule of the domain is broken. It shares nothing with the
// services but the contracts. Not for use by several goroutines.
//
// A rule concerns streams with one id, such as those of a pathway, or it is
// checked by facts that meet under a key. So a long log is put into lanes by id
// as it is read; then each lane is checked by itself, and after all of them each
// lane of facts. No more than a few lanes are in memory at a time.
type Verifier struct {
	Verdict

	last   es.Position
	newest time.Time // recorded
	seed   maphash.Seed

	now    *rules // that check at once; nil for a long log
	events *spill // by id
	facts  *spill // by key
}

// rules are the auditors of some ids and some keys, and what they found.
type rules struct {
	Verdict
	custody  *carelead.Custody
	held     *carelead.Meeting
	auditors []auditor
	meetings []meeting // each of the auditor with its index
	streams  map[string]*verified
	nth      uint64 // of the event at hand, in the log
	failed   error  // facts could not be set aside
}

// verified is how far a stream was followed.
type verified struct {
	chain   es.Chain
	next    es.Revision
	broken  bool // told once
	command placed
	seen    commands
}

// placed is the command of an event, and where in it the event stands.
type placed struct {
	id           [16]byte
	index, count int
}

// commands are those of a stream. Nearly all streams are short, and there are
// millions of them: a map is made only where it pays.
type commands struct {
	few  [][16]byte
	many map[[16]byte]bool
}

func (c *commands) has(id [16]byte) bool { return c.many[id] || slices.Contains(c.few, id) }

func (c *commands) add(id [16]byte) {
	switch {
	case c.many != nil:
		c.many[id] = true
	case len(c.few) < 64:
		c.few = append(c.few, id)
	default:
		c.many = map[[16]byte]bool{id: true}
	}
}

// NewVerifier returns a verifier of a log from its first event. It checks each
// event as it comes, and keeps in memory what it must know of all those before.
func NewVerifier() *Verifier {
	v := &Verifier{}
	v.now = newRules(func(f ordered) error { v.now.meet(f); return nil })
	return v
}

const (
	// laneCount bounds the memory: no more than workers of so many parts of the log
	// are in it.
	laneCount = 512
	workers   = 4
)

// NewLongVerifier returns a verifier of a log of any length from its first event.
// It checks at End, and sets aside until then, in a file where it is much, some
// 160 bytes an event. Close lets go of that.
func NewLongVerifier() (*Verifier, error) { return newLanes(laneCount) }

func newLanes(n int) (*Verifier, error) {
	events, err := newSpill(n)
	if err != nil {
		return nil, err
	}
	facts, err := newSpill(n)
	return &Verifier{seed: maphash.MakeSeed(), events: events, facts: facts}, err
}

// Close lets go of what was set aside.
func (v *Verifier) Close() error {
	if v.events == nil {
		return nil
	}
	return errors.Join(v.events.close(), v.facts.close())
}

// newRules returns rules for events in order, whose facts go to post.
func newRules(post func(ordered) error) *rules {
	r := &rules{streams: map[string]*verified{}}
	to := func(room int) func(es.Fact) {
		return func(f es.Fact) {
			if err := post(ordered{f, r.nth, room}); err != nil {
				r.failed = err
			}
		}
	}
	r.custody, r.held = carelead.NewCustody(to(0)), carelead.NewMeeting()
	r.auditors = []auditor{r.custody, person.NewAudit(to(1)), appointment.NewAudit(to(2)), edge.NewAudit(to(3)), referral.NewAudit(), plan.NewAudit()}
	r.meetings = []meeting{r.held, person.NewMeeting(), appointment.NewMeeting(), edge.NewMeeting()}
	return r
}

// Next takes the next event of the log. An error is none of the log's: a long log
// could not be set aside.
func (v *Verifier) Next(e es.Recorded) error {
	if strings.HasPrefix(e.Stream, "$") {
		return nil
	}
	v.Events++
	if e.Position <= v.last {
		v.fault(es.BreachAt(e, "position %d does not come after %d", e.Position, v.last))
	}
	v.last = e.Position
	late := false
	if ours(e) {
		if late = e.Recorded.Before(v.newest); late {
			v.fault(es.BreachAt(e, "it was recorded before the event before it: nobody can say who was accountable when"))
		} else if e.Recorded.After(v.newest) {
			v.newest = e.Recorded
			v.Instants++
		}
	}
	nth := uint64(v.Events)
	if v.now != nil {
		v.now.next(e, nth, late)
		v.take(v.now)
		return nil
	}
	_, id, _ := strings.Cut(e.Stream, "-")
	return v.events.add(v.lane(id), func(b []byte) []byte {
		b = append(b, 0)
		if late {
			b[len(b)-1] = 1
		}
		return putEvent(binary.AppendUvarint(b, nth), e)
	})
}

// lane is where all that concerns an id or a key is.
func (v *Verifier) lane(key string) int {
	return int(maphash.String(v.seed, key) % uint64(len(v.events.lanes)))
}

// next checks the event that is the nth of the log. One that is late has no place
// in the times of holders.
func (r *rules) next(e es.Recorded, nth uint64, late bool) {
	r.nth = nth
	s := r.streams[e.Stream]
	if s == nil {
		s = &verified{}
		r.streams[e.Stream] = s
		r.Streams++
		if ours(e) || es.Chained(e) {
			r.Chained++
		}
	}
	if s.broken {
		return // what follows a broken event means nothing
	}
	if !ours(e) {
		if es.Chained(e) {
			if err := s.follow(e); err != nil {
				s.broken = true
				r.fault(breach(e, err))
			}
		}
		return
	}
	entry, err := r.open(s, e)
	if err != nil {
		s.broken = true
		r.fault(breach(e, err))
		return
	}
	for _, a := range r.auditors {
		if late && a == auditor(r.custody) {
			continue
		}
		if err := a.Next(entry); err != nil {
			r.fault(breach(e, err))
		}
	}
}

// meet checks a fact.
func (r *rules) meet(f ordered) {
	if err := r.meetings[f.room].Next(f.Fact); err != nil {
		r.fault(breach(f.At, err))
	}
}

// end finds what only the end of the log shows.
func (r *rules) end(last time.Time) {
	for _, a := range r.auditors {
		for _, err := range a.End(last) {
			r.fault(breach(es.Recorded{}, err))
		}
	}
	for _, m := range r.meetings {
		for _, err := range m.End(last) {
			r.fault(breach(es.Recorded{}, err))
		}
	}
	r.Pathways, r.Open, r.Transfers = r.held.Pathways(), r.held.Open(), r.custody.Transfers()
}

// ours says that an event is one of the record, not a checkpoint, a schema or
// another writer's.
func ours(e es.Recorded) bool {
	category, _, _ := strings.Cut(e.Stream, "-")
	return strings.HasPrefix(e.Type, "waymark.") && !slices.Contains(bus.DefaultExclude(), category)
}

func (s *verified) follow(e es.Recorded) error {
	next, err := s.chain.Next(e)
	if err == nil {
		s.chain = next
	}
	return err
}

// open checks one event by itself, and its place in the stream and its command.
func (r *rules) open(s *verified, e es.Recorded) (entry es.Entry, err error) {
	if e.Revision != s.next {
		return entry, fmt.Errorf("revision %d follows %d", e.Revision, s.next-1)
	}
	s.next++
	if err := s.follow(e); err != nil {
		return entry, err
	}
	event, err := es.Decode(e)
	if err != nil {
		return entry, err
	}
	metadata, err := es.ParseMetadata(e)
	if err != nil {
		return entry, err
	}
	category, _, _ := strings.Cut(e.Stream, "-")
	if want := categoryOf(event.ProtoReflect().Descriptor()); want != category {
		return entry, fmt.Errorf("an event of %q lies in a stream of %q", want, category)
	}
	before, id := s.command, metadata.CommandID
	switch {
	case metadata.Index == 0 && before.index+1 < before.count, metadata.Index > 0 && (before.id != id || before.index+1 != metadata.Index):
		return entry, errors.New("a command was recorded in part: its events are one append")
	case metadata.Index == 0 && s.seen.has(id):
		return entry, errors.New("a command was recorded twice")
	}
	if metadata.Index == 0 {
		s.seen.add(id)
		r.Commands++
	}
	s.command = placed{id, metadata.Index, metadata.Count}
	return es.Entry{Recorded: e, Event: event, Metadata: metadata}, nil
}

func categoryOf(d protoreflect.MessageDescriptor) string {
	category, _ := proto.GetExtension(d.Options(), metav1.E_Category).(string)
	return category
}

// End is to be called once, after the last event. Progress, where not nil, is told
// how much of the checking of a long log is done.
func (v *Verifier) End(ctx context.Context, progress func(done, of int)) error {
	if v.now != nil {
		v.now.end(v.newest)
		v.take(v.now)
		return nil
	}
	lanes := len(v.events.lanes)
	for stage, check := range []func(context.Context, int) (*rules, error){v.byID, v.byKey} {
		var mu sync.Mutex
		var failed error
		next := 0
		var all sync.WaitGroup
		for range min(workers, runtime.GOMAXPROCS(0)) {
			all.Go(func() {
				mu.Lock()
				defer mu.Unlock()
				for failed == nil && next < lanes {
					lane := next
					next++
					if progress != nil {
						progress(stage*lanes+lane, 2*lanes)
					}
					mu.Unlock()
					r, err := check(ctx, lane)
					mu.Lock()
					failed = cmp.Or(failed, err)
					v.take(r)
				}
			})
		}
		if all.Wait(); failed != nil {
			return failed
		}
	}
	if progress != nil {
		progress(2*lanes, 2*lanes)
	}
	return nil
}

// byID checks the events of a lane.
func (v *Verifier) byID(ctx context.Context, lane int) (*rules, error) {
	r := newRules(func(f ordered) error { return v.facts.add(v.lane(f.Key), f.put) })
	from := reader{texts: map[string]string{}}
	err := v.events.each(lane, func(records []byte) error {
		for from.rest = records; len(from.rest) > 0; {
			late := from.rest[0] == 1
			from.rest = from.rest[1:]
			nth := from.number()
			r.next(from.event(), nth, late)
		}
		return cmp.Or(r.failed, ctx.Err())
	})
	if err == nil {
		r.end(v.newest)
		err = r.failed
	}
	return r, err
}

// byKey checks the facts of a lane, which came from all lanes of events.
func (v *Verifier) byKey(ctx context.Context, lane int) (*rules, error) {
	var facts []ordered
	from := reader{texts: map[string]string{}}
	err := v.facts.each(lane, func(records []byte) error {
		for from.rest = records; len(from.rest) > 0; {
			facts = append(facts, from.fact())
		}
		return ctx.Err()
	})
	slices.SortStableFunc(facts, inOrder)
	r := newRules(nil)
	for _, f := range facts {
		r.meet(f)
	}
	r.end(v.newest)
	return r, err
}

func breach(e es.Recorded, err error) *es.Breach {
	var b *es.Breach
	if errors.As(err, &b) {
		return b
	}
	return es.BreachAt(e, "%s", err)
}

// take takes over what was found in a part of the log.
func (v *Verifier) take(r *rules) {
	part := r.Verdict
	r.Verdict = Verdict{}
	v.Streams += part.Streams
	v.Chained += part.Chained
	v.Commands += part.Commands
	v.Pathways += part.Pathways
	v.Open += part.Open
	v.Transfers += part.Transfers
	for _, b := range part.First {
		v.first(b)
	}
	v.Faults += part.Faults
}

func (v *Verdict) fault(b *es.Breach) {
	v.Faults++
	v.first(*b)
}

// first keeps a breach if it is one of the first, whenever it is found.
func (v *Verdict) first(b es.Breach) {
	at, _ := slices.BinarySearchFunc(v.First, b, func(a, b es.Breach) int {
		return cmp.Or(cmp.Compare(a.Position, b.Position), cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Text, b.Text))
	})
	v.First = slices.Insert(v.First, at, b)
	v.First = v.First[:min(len(v.First), 20)]
}
