package pathway

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// history is all that was recorded of one pathway, and of its person, in log order.
type history struct {
	pathwayID string
	events    []event
	persons   map[string][]event
	position  es.Position // of the newest event among them
}

var errNotFound = fault.NotFound("pathway.not_found", "there is no such pathway")

// load reads the streams of a pathway at once, with that of its person as
// expected, "" where nothing is. Whose it is the log alone says: a person that no
// event names is left out, and one that was not expected is read once it is named.
func load(ctx context.Context, log es.Log, id, expected string) (_ *history, err error) {
	type stream struct {
		category, id string
		events       []event
		err          error
	}
	read, reading := make(chan stream, len(categories)+1), 0
	ask := func(category, id string) {
		reading++
		go func() {
			s := stream{category: category, id: id, events: make([]event, 0, 16)}
			s.err = log.Read(ctx, category+"-"+id, 0, func(r es.Recorded) error {
				s.events = append(s.events, event{Recorded: &r})
				return nil
			})
			read <- s
		}()
	}
	h := &history{pathwayID: strings.ToLower(id), persons: make(map[string][]event)}
	persons := make(map[string][]event) // asked for, nil until read; a superset of h.persons
	var name func(id string)
	name = func(id string) {
		id = strings.ToLower(id)
		if _, named := h.persons[id]; named || id == "" {
			return
		}
		events, asked := persons[id]
		h.persons[id] = events
		if !asked {
			persons[id] = nil
			ask("person", id)
		}
		for _, e := range events {
			if m, ok := e.message.(*personv1.PersonMergedInto); ok {
				name(m.SurvivingPersonId)
			}
		}
	}
	if expected != "" {
		persons[strings.ToLower(expected)] = nil
		ask("person", strings.ToLower(expected))
	}
	for _, category := range categories {
		ask(category, h.pathwayID)
	}
	// One goroutine decodes: it does so while the others still wait for the log.
	streams := make([][]event, 0, len(categories))
	for reading > 0 {
		s := <-read
		reading--
		if err == nil {
			err = s.err
		}
		if err != nil {
			continue // those that still read end soon, or with the call
		}
		for i := range s.events {
			e := &s.events[i]
			if e.message, err = es.Decode(*e.Recorded); err != nil {
				break
			}
			switch m := e.message.(type) {
			case *referralv1.PathwayStarted:
				name(m.PersonId)
			case *careleadv1.LedgerPersonChanged:
				name(m.PersonId)
			}
		}
		if s.category != "person" {
			streams = append(streams, s.events)
			continue
		}
		persons[s.id] = s.events
		if _, named := h.persons[s.id]; named {
			delete(h.persons, s.id)
			name(s.id) // again, now for those that it was merged into
		}
	}
	if err != nil {
		return nil, err
	}
	if h.events = merge(streams); len(h.events) == 0 {
		return nil, errNotFound
	}
	h.position = h.events[len(h.events)-1].Position
	for _, events := range h.persons {
		if n := len(events); n > 0 {
			h.position = max(h.position, events[n-1].Position)
		}
	}
	return h, nil
}

// merge puts streams, each in log order, into one.
func merge(streams [][]event) (out []event) {
	n := 0
	for _, s := range streams {
		n += len(s)
	}
	out = make([]event, 0, n)
	for len(out) < n {
		least := -1
		for i, s := range streams {
			if len(s) > 0 && (least < 0 || s[0].Position < streams[least][0].Position) {
				least = i
			}
		}
		out = append(out, streams[least][0])
		streams[least] = streams[least][1:]
	}
	return out
}

// moment is what was known when: events up to position and recorded by then.
type moment struct {
	position es.Position // 0 for any
	recorded time.Time   // zero for any
}

func momentOf(a *pb.AsOf) (moment, error) {
	switch m := a.GetMoment().(type) {
	case *pb.AsOf_Position:
		if m.Position == 0 {
			return moment{}, fault.Invalid("pathway.as_of_position", "as_of.position", "positions of the log begin with 1")
		}
		return moment{position: es.Position(m.Position)}, nil
	case *pb.AsOf_Recorded:
		if err := m.Recorded.CheckValid(); err != nil {
			return moment{}, fault.Invalid("pathway.as_of_time", "as_of.recorded", "is not a valid time")
		}
		return moment{recorded: m.Recorded.AsTime()}, nil
	}
	return moment{}, nil
}

// knew reports whether an event was known at the moment.
func (m moment) knew(e event) bool {
	return (m.position == 0 || e.Position <= m.position) && (m.recorded.IsZero() || !e.Recorded.Recorded.After(m.recorded))
}

// known are the events that were known at a moment.
func known(events []event, m moment) []event {
	// Both positions and recorded times grow along the log.
	n, _ := slices.BinarySearchFunc(events, m, func(e event, m moment) int {
		if m.knew(e) {
			return -1
		}
		return 1
	})
	return events[:n]
}

// view folds what was known at a moment; nil when nothing was.
func (h *history) view(m moment) (*pb.Pathway, error) {
	events := known(h.events, m)
	if len(events) == 0 {
		return nil, nil
	}
	v := newView(h.pathwayID)
	for _, e := range events {
		if err := fold(v, e); err != nil {
			return nil, err
		}
	}
	derive(v)
	return v, h.join(v, m)
}

func newView(id string) *pb.Pathway { return &pb.Pathway{PathwayId: id} }

// join adds what was known of the person.
func (h *history) join(v *pb.Pathway, m moment) (err error) {
	if v.PersonId == "" {
		return nil
	}
	v.Person, err = flags(v.PersonId, func(id string) (*pb.Person, error) {
		events := known(h.persons[strings.ToLower(id)], m)
		if len(events) == 0 {
			return nil, nil
		}
		p := &pb.Person{PersonId: id}
		for _, e := range events {
			if err := foldPerson(p, e); err != nil {
				return nil, err
			}
		}
		return p, nil
	})
	return err
}

// occurred folds the events by when they happened, up to the time that the
// moment stands for, whenever they were recorded. late counts those recorded
// after the moment. Who was accountable is as it was recorded.
func (h *history) occurred(m moment, recorded *pb.Pathway) (v *pb.Pathway, late int32, err error) {
	before := known(h.events, m)
	until := m.recorded
	if m.position != 0 && len(before) > 0 {
		until = before[len(before)-1].Recorded.Recorded
	}
	type placed struct {
		event
		when time.Time
	}
	var all []placed
	for _, e := range h.events {
		when, err := happened(e)
		if err != nil {
			return nil, 0, err
		}
		if _, ledger := ledgerEvent(e); ledger && !m.knew(e) || m != (moment{}) && when.After(until) {
			continue
		}
		if !m.knew(e) {
			late++
		}
		all = append(all, placed{e, when})
	}
	slices.SortStableFunc(all, func(a, b placed) int {
		return cmp.Or(a.when.Compare(b.when), cmp.Compare(a.Position, b.Position))
	})
	v = newView(h.pathwayID)
	for _, p := range all {
		if err := fold(v, p.event); err != nil {
			return nil, 0, err
		}
	}
	v.Custody, v.Holder = recorded.GetCustody(), recorded.GetHolder()
	derive(v)
	return v, late, h.join(v, m)
}

func ledgerEvent(e event) (string, bool) {
	return strings.CutPrefix(e.Stream, "carelead-")
}

// happened is when an event took place: as its command said; for a fact of the
// clocks the date that the fact gives, where that was not after it was recorded;
// else when it was recorded, as is always so for the accountability ledger.
func happened(e event) (time.Time, error) {
	if _, ledger := ledgerEvent(e); ledger {
		return e.Recorded.Recorded, nil
	}
	m, err := es.ParseMetadata(*e.Recorded)
	if err != nil {
		return time.Time{}, err
	}
	if !m.Occurred.IsZero() {
		return m.Occurred, nil
	}
	if day := date(dayOf(e.message)); !day.IsZero() {
		if start := day.Start(); start.Before(e.Recorded.Recorded) {
			return start, nil
		}
	}
	return e.Recorded.Recorded, nil
}

// dayOf is the civil date on which a fact of the clocks came about; "" for what
// has none, or one that may lie ahead.
func dayOf(m proto.Message) string {
	switch m := m.(type) {
	case *referralv1.PathwayStarted:
		return m.Facts.GetReceivedOn()
	case *referralv1.DiagnosisCommunicated:
		return m.Facts.GetTold().GetOn()
	case *referralv1.CancerRuledOutCommunicated:
		return m.Facts.GetTold().GetOn()
	case *referralv1.EcadSet, *referralv1.ClockCorrected:
		return ""
	}
	r := m.ProtoReflect()
	if !strings.HasPrefix(string(r.Descriptor().FullName()), "waymark.referral.v1.") {
		return ""
	}
	facts := r.Descriptor().Fields().ByName("facts")
	if facts == nil || facts.Kind() != protoreflect.MessageKind {
		return ""
	}
	on := facts.Message().Fields().ByName("on")
	if on == nil || on.Kind() != protoreflect.StringKind {
		return ""
	}
	return r.Get(facts).Message().Get(on).String()
}

// holderAt is the spell of accountability that lasts at the end of a view; nil
// when nobody is accountable.
func holderAt(v *pb.Pathway) *pb.Custody {
	if n := len(v.GetCustody()); n > 0 && v.Custody[n-1].UntilPosition == 0 {
		return v.Custody[n-1]
	}
	return nil
}

// partyKey is what a party is found by.
func partyKey(p *careleadv1.Party) string {
	return strings.ToLower(cmp.Or(p.GetId(), p.GetOrganisation()))
}
