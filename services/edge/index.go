package edge

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// index is the read model of all messages, folded from the log anew at each
// start: lists and counts, which person an identifier stood for last, and which
// messages hold back later ones of their patient.
type index struct {
	log es.Log

	mu       sync.Mutex // guards all below
	messages map[string]*entry
	order    []*entry                   // by position of receipt
	people   map[string]string          // patient key to person id
	held     map[string]map[string]bool // patient key to messages that hold it
	position es.Position
	current  bool
	moved    chan struct{} // closed and renewed at each step
}

// entry is one message. Guarded by index.mu.
type entry struct {
	view *pb.Message
	keys []string
	at   es.Position
}

func newIndex(log es.Log) *index {
	x := &index{log: log, moved: make(chan struct{})}
	x.clear()
	return x
}

func (x *index) clear() {
	x.messages, x.order, x.people, x.held = map[string]*entry{}, nil, map[string]string{}, map[string]map[string]bool{}
	x.position, x.current = 0, false
}

// run follows the log until ctx ends.
func (x *index) run(ctx context.Context) error {
	x.mu.Lock()
	x.clear()
	x.mu.Unlock()
	return x.log.Subscribe(ctx, 0, es.Filter{Categories: []string{category}}, func(m es.Message) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		if m.Event != nil {
			if err := x.fold(*m.Event); err != nil {
				return err
			}
			x.position = m.Event.Position
		}
		x.current = x.current || m.CaughtUp
		close(x.moved)
		x.moved = make(chan struct{})
		return nil
	})
}

// wait returns when the index has reached the end of the log once and holds the
// write at position.
func (x *index) wait(ctx context.Context, position es.Position) error {
	for {
		x.mu.Lock()
		ready, moved := x.current && x.position >= position, x.moved
		x.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fault.Unavailable("edge.index.behind", "the list of messages has not reached that position yet: ask again", time.Second)
		}
	}
}

// fold applies one event. The caller holds mu.
func (x *index) fold(at es.Recorded) error {
	event, err := es.Decode(at)
	if err != nil {
		return err
	}
	_, id, _ := strings.Cut(at.Stream, "-")
	if e, ok := event.(*pb.MessageReceived); ok {
		one := &entry{keys: e.PatientKeys, at: at.Position, view: &pb.Message{
			MessageId: id, State: pb.MessageState_MESSAGE_STATE_RECEIVED, Application: e.Application, Facility: e.Facility, ControlId: e.ControlId,
			Type: e.Type, Version: e.Version, ReceivedAt: timestamppb.New(at.Recorded), RedriveOf: e.RedriveOf,
		}}
		x.messages[id] = one
		x.order = append(x.order, one)
		return nil
	}
	one := x.messages[id]
	if one == nil {
		return nil
	}
	v := clone(one.view) // readers may hold the one before
	one.view = v
	v.Acknowledgement, _, _ = verdict(event)
	switch e := event.(type) {
	case *pb.MessageApplied:
		v.State, v.Effects, v.PersonId = pb.MessageState_MESSAGE_STATE_APPLIED, e.Effects, e.PersonId
		if e.PersonId != "" {
			for _, k := range one.keys {
				if !strings.HasPrefix(k, otherPatient) {
					x.people[k] = e.PersonId
				}
			}
		}
	case *pb.MessageParked:
		v.State, v.Reason = pb.MessageState_MESSAGE_STATE_PARKED, e.Reason
		if e.Holds {
			for _, k := range one.keys {
				k = strings.TrimPrefix(k, otherPatient)
				if x.held[k] == nil {
					x.held[k] = map[string]bool{}
				}
				x.held[k][id] = true
			}
		}
	case *pb.MessageRefused:
		v.State, v.Reason = pb.MessageState_MESSAGE_STATE_REFUSED, e.Reason
	case *pb.MessageRedriven:
		v.State, v.RedrivenBy = pb.MessageState_MESSAGE_STATE_REDRIVEN, e.ByMessageId
		for _, k := range one.keys {
			delete(x.held[strings.TrimPrefix(k, otherPatient)], id)
		}
	}
	return nil
}

// person returns who the first known of the keys stood for.
func (x *index) person(keys []string) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range keys {
		if p := x.people[k]; p != "" {
			return p
		}
	}
	return ""
}

// holding reports whether a message that came before id, or any when id is "",
// holds one of the keys.
func (x *index) holding(keys []string, id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	var before es.Position
	if e := x.messages[id]; e != nil {
		before = e.at
	}
	for _, k := range keys {
		for by := range x.held[strings.TrimPrefix(k, otherPatient)] {
			if by != id && (before == 0 || x.messages[by].at < before) {
				return true
			}
		}
	}
	return false
}

// get returns a message, nil when there is none.
func (x *index) get(id string) *pb.Message {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.messages[id]; e != nil {
		return clone(e.view)
	}
	return nil
}

// list returns at most size messages after a position, oldest first, and how
// many there are of each state and reason.
func (x *index) list(want pb.MessageState, reason string, after es.Position, size int) *pb.ListMessagesReply {
	x.mu.Lock()
	defer x.mu.Unlock()
	type group struct {
		state pb.MessageState
		code  string
	}
	counts := map[group]int64{}
	out := &pb.ListMessagesReply{}
	var last es.Position
	for _, e := range x.order {
		counts[group{e.view.State, e.view.Reason.GetCode()}]++
		if e.at <= after || want != 0 && e.view.State != want || reason != "" && e.view.Reason.GetCode() != reason {
			continue
		}
		if len(out.Messages) == size {
			out.NextPageToken = strconv.FormatUint(uint64(last), 36)
			after = ^es.Position(0) // only count from here on
			continue
		}
		out.Messages, last = append(out.Messages, clone(e.view)), e.at
	}
	for g, n := range counts {
		out.Counts = append(out.Counts, &pb.MessageCount{State: g.state, ReasonCode: g.code, Count: n})
	}
	slices.SortFunc(out.Counts, func(a, b *pb.MessageCount) int {
		return cmp.Or(cmp.Compare(a.State, b.State), cmp.Compare(a.ReasonCode, b.ReasonCode))
	})
	return out
}
