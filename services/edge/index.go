package edge

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

// index is the read model of all messages, folded from the log anew at each
// start: lists and counts, which person an identifier stood for last, which
// messages hold back later ones of their patient, and the pathways of each person.
type index struct {
	*es.Follower // its lock guards all below, and the entries

	messages map[string]*entry
	order    []*entry                   // by position of receipt
	people   map[string]string          // patient key to person id
	held     map[string]map[string]bool // patient key to messages that hold it
	pathways map[string][]*pathway      // person id to theirs, oldest first
	started  map[string]*pathway        // by pathway id
	survivor map[string]string          // a merged person to the one who survived
	changed  map[string]time.Time       // a referral or appointment to its newest change
	incoming map[string]string          // a referral that came by BaRS to its message
	decided  []decided                  // what was decided on those, by position
}

// decided is a decision on a referral that came by BaRS.
type decided struct {
	at                es.Position
	recorded          time.Time
	message, referral string
	status            string // of the ServiceRequest from then on
	reason            string // of the message that says so
	rejection         string // why it was rejected
}

// pathway is what the edge must know of one. Guarded by the index.
type pathway struct {
	id, person string
	team       *referralv1.Team
	closed     bool
}

// entry is one message. Guarded by the index.
type entry struct {
	view *pb.Message
	keys []string
	at   es.Position
}

func newIndex(log es.Log) *index {
	x := &index{messages: map[string]*entry{}, people: map[string]string{}, held: map[string]map[string]bool{},
		pathways: map[string][]*pathway{}, started: map[string]*pathway{}, survivor: map[string]string{}, changed: map[string]time.Time{}, incoming: map[string]string{}}
	x.Follower = es.Follow(log, "edge.index.behind", x.fold, category, "pathway", "person", "referral", "appointment")
	return x
}

// fold applies one event. The caller holds the lock.
func (x *index) fold(at es.Recorded) error {
	event, err := es.Decode(at)
	if err != nil {
		return err
	}
	of, id, _ := strings.Cut(at.Stream, "-")
	if of == "referral" || of == "appointment" {
		return x.changes(of, at, event)
	}
	switch e := event.(type) {
	case *referralv1.PathwayStarted:
		one := &pathway{id: id, person: e.PersonId, team: e.Facts.GetResponsibleTeam()}
		x.started[id] = one
		x.pathways[e.PersonId] = append(x.pathways[e.PersonId], one)
	case *referralv1.PathwayClosed:
		if one := x.started[id]; one != nil {
			one.closed = true
		}
	case *personv1.PersonsMerged:
		x.survivor[e.MergedPersonId] = e.SurvivingPersonId
	case *personv1.MergeReversed:
		delete(x.survivor, e.MergedPersonId)
	}
	if e, ok := event.(*pb.MessageReceived); ok {
		one := &entry{keys: e.PatientKeys, at: at.Position, view: &pb.Message{
			MessageId: id, State: pb.MessageState_MESSAGE_STATE_RECEIVED, Application: e.Application, Facility: e.Facility, ControlId: e.ControlId,
			Type: e.Type, Version: e.Version, ReceivedAt: timestamppb.New(at.Recorded), RedriveOf: e.RedriveOf, ContentType: e.ContentType,
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
		v.State, v.Effects, v.PersonId, v.Kept = pb.MessageState_MESSAGE_STATE_APPLIED, e.Effects, e.PersonId, e.Kept
		if e.PersonId != "" {
			for _, k := range one.keys {
				if !strings.HasPrefix(k, otherPatient) {
					x.people[k] = e.PersonId
				}
			}
		}
		if e.FocusSaidAt != nil {
			x.change(e.FocusId, e.FocusSaidAt.AsTime())
		}
		for _, effect := range e.Effects {
			if effect.Command == "referral.AcknowledgeReceipt" && v.ContentType == fhirJSON {
				x.incoming[effect.SubjectId] = id
			}
		}
		for _, p := range e.People {
			for _, k := range p.PatientKeys {
				x.people[k] = p.PersonId
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
	x.Lock()
	defer x.Unlock()
	for _, k := range keys {
		if p := x.people[k]; p != "" {
			return p
		}
	}
	return ""
}

// change notes when a thing was changed. The caller holds the lock.
func (x *index) change(id string, at time.Time) {
	if at.After(x.changed[id]) {
		x.changed[id] = at
	}
}

// changes notes what was done here to a referral or an appointment. What a message
// did counts as of when its sender said it, by the sender's clock.
func (x *index) changes(of string, at es.Recorded, event proto.Message) error {
	x.decision(at, event)
	about := event.ProtoReflect()
	field := about.Descriptor().Fields().ByName(protoreflect.Name(of + "_id"))
	if field == nil || field.Kind() != protoreflect.StringKind || field.IsList() {
		return nil
	}
	m, err := es.ParseMetadata(at)
	if err != nil {
		return err
	}
	if x.messages[m.CausationID] == nil {
		x.change(about.Get(field).String(), at.Recorded)
	}
	return nil
}

// decision notes what the receiver of a referral decided, which its sender is told.
// The caller holds the lock.
func (x *index) decision(at es.Recorded, event proto.Message) {
	d := decided{at: at.Position, recorded: at.Recorded, status: "active", reason: "update"}
	switch e := event.(type) {
	case *referralv1.ReferralAccepted:
		d.referral, d.reason = e.ReferralId, "new"
	case *referralv1.ReferralRejected:
		d.referral, d.status, d.reason, d.rejection = e.ReferralId, "revoked", "new", e.RejectionReason
	case *referralv1.ReferralBegun:
		d.referral = e.ReferralId
	case *referralv1.ReferralHeld:
		d.referral, d.status = e.ReferralId, "on-hold"
	case *referralv1.ReferralResumed:
		d.referral = e.ReferralId
	case *referralv1.ReferralRedirected:
		d.referral, d.status = e.ReferralId, "revoked"
	case *referralv1.ReferralNotAttended:
		d.referral, d.status, d.reason = e.ReferralId, "revoked", "new"
	case *referralv1.ReferralCompleted:
		d.referral, d.status = e.ReferralId, "completed"
	}
	if d.message = x.incoming[d.referral]; d.message != "" {
		x.decided = append(x.decided, d)
	}
}

// decisions on the referrals of a sender after a position, oldest first.
func (x *index) decisions(organisation string, after es.Position, most int) (found []decided) {
	x.Lock()
	defer x.Unlock()
	for _, d := range x.decided {
		if d.at > after && x.messages[d.message].view.Facility == organisation && len(found) < most {
			found = append(found, d)
		}
	}
	return found
}

// newest is when a referral or an appointment was last changed; zero for never.
func (x *index) newest(id string) time.Time {
	x.Lock()
	defer x.Unlock()
	return x.changed[id]
}

// pathwaysOf returns the pathways of a person, and of those who were merged into
// them, oldest first; open ones only where asked.
func (x *index) pathwaysOf(person string, openOnly bool) (found []pathway) {
	x.Lock()
	defer x.Unlock()
	people := []string{person}
	for merged := range x.survivor {
		into := merged
		for range len(x.survivor) { // a survivor may have been merged in turn
			into = cmp.Or(x.survivor[into], into)
		}
		if into == person {
			people = append(people, merged)
		}
	}
	slices.Sort(people[1:])
	for _, p := range people {
		for _, one := range x.pathways[p] {
			if !one.closed || !openOnly {
				found = append(found, *one)
			}
		}
	}
	return found
}

// holding reports whether a message that came before id, or any when id is "",
// holds one of the keys.
func (x *index) holding(keys []string, id string) bool {
	x.Lock()
	defer x.Unlock()
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
	x.Lock()
	defer x.Unlock()
	if e := x.messages[id]; e != nil {
		return clone(e.view)
	}
	return nil
}

// list returns at most size messages after a position, oldest first, and how
// many there are of each state and reason.
func (x *index) list(want pb.MessageState, reason string, after es.Position, size int) *pb.ListMessagesReply {
	x.Lock()
	defer x.Unlock()
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
