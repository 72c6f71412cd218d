package allinone

import (
	"errors"
	"fmt"
	"slices"
	"strings"

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

// auditor checks the rules of one room, reading the whole log in order. An
// error of Next names the rule; the event is the one at hand.
type auditor interface {
	Next(es.Entry) error
	End() []error
}

// Verifier checks a whole log: that every event is as it was written and where
// it belongs, and that no rule of the domain is broken. It shares nothing with
// the services but the contracts. Not for use by several goroutines.
type Verifier struct {
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

	custody  *carelead.Custody
	auditors []auditor
	streams  map[string]*verified
	last     es.Position
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

// NewVerifier returns a verifier of a log from its first event.
func NewVerifier() *Verifier {
	custody := carelead.NewCustody()
	return &Verifier{custody: custody, auditors: []auditor{custody, person.NewAudit(), referral.NewAudit(), plan.NewAudit(), appointment.NewAudit(), edge.NewAudit()}, streams: map[string]*verified{}}
}

// Next takes the next event of the log. It never fails: it counts.
func (v *Verifier) Next(e es.Recorded) {
	if strings.HasPrefix(e.Stream, "$") {
		return
	}
	v.Events++
	if e.Position <= v.last {
		v.fault(es.BreachAt(e, "position %d does not come after %d", e.Position, v.last))
	}
	v.last = e.Position
	s := v.streams[e.Stream]
	if s == nil {
		s = &verified{}
		v.streams[e.Stream] = s
		v.Streams++
		if ours(e) || es.Chained(e) {
			v.Chained++
		}
	}
	if s.broken {
		return // what follows a broken event means nothing
	}
	if !ours(e) {
		if es.Chained(e) {
			if err := s.follow(e); err != nil {
				s.broken = true
				v.fault(breach(e, err))
			}
		}
		return
	}
	entry, err := v.open(s, e)
	if err != nil {
		s.broken = true
		v.fault(breach(e, err))
		return
	}
	for _, a := range v.auditors {
		if err := a.Next(entry); err != nil {
			v.fault(breach(e, err))
		}
	}
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
func (v *Verifier) open(s *verified, e es.Recorded) (entry es.Entry, err error) {
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
		v.Commands++
	}
	s.command = placed{id, metadata.Index, metadata.Count}
	return es.Entry{Recorded: e, Event: event, Metadata: metadata}, nil
}

func categoryOf(d protoreflect.MessageDescriptor) string {
	category, _ := proto.GetExtension(d.Options(), metav1.E_Category).(string)
	return category
}

// End is to be called after the last event.
func (v *Verifier) End() {
	for _, a := range v.auditors {
		for _, err := range a.End() {
			v.fault(breach(es.Recorded{}, err))
		}
	}
	v.Pathways, v.Open = v.custody.Pathways(), v.custody.Open()
	v.Transfers, v.Instants = v.custody.Transfers(), v.custody.Instants()
	slices.SortStableFunc(v.First, func(a, b es.Breach) int { return int(int64(a.Position) - int64(b.Position)) })
}

func breach(e es.Recorded, err error) *es.Breach {
	var b *es.Breach
	if errors.As(err, &b) {
		return b
	}
	return es.BreachAt(e, "%s", err)
}

func (v *Verifier) fault(b *es.Breach) {
	if v.Faults++; len(v.First) < 20 {
		v.First = append(v.First, *b)
	}
}
