package edge

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

// index is the read model of all messages, folded anew at each start: lists and counts, which person an identifier stands for, the pathways of
// each person, what is held back or waits, and which sequence numbers are missing.
type index struct {
	*es.Follower // its lock guards all below, and the entries
	hash         func(assigner, value string) string

	messages map[string]*entry
	order    []*entry                   // by position of receipt
	people   map[string]string          // patient key to person id
	keys     map[string]map[string]bool // person id to patient keys: people, turned round
	held     map[string]map[string]bool // patient key to messages that hold it

	pathways map[string][]*pathway  // person id to theirs, oldest first
	started  map[string]*pathway    // by pathway id
	into     map[string]string      // merged person to the survivor
	merged   map[string][]string    // survivor to those merged into them
	said     map[string]time.Time   // thing to when the newest message about it was sent
	senders  map[[2]string]*counter // by application and facility

	changed  map[string]time.Time // a referral or appointment to its newest change by a message
	incoming map[string]string    // a referral that came by BaRS to its message
	decided  []decided            // what was decided on those, by position

	waiting map[string]map[string]bool // patient key to parked messages that a pathway may release
	trigger map[string]es.Position     // person id to the newest event that may release them
	due     map[string]bool            // messages to be redriven now
	wake    chan struct{}              // holds one token when due may have grown
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
	// place is its place among the patient's: of a redrive, that of the message which
	// it began with.
	place es.Position
	read  es.Position // of the pathways that were known when it was parked
}

// counter follows the sequence numbers of one sender.
type counter struct {
	last int64
	gaps []*pb.Gap
}

// maxGaps is how many gaps of one sender are remembered; the oldest go first.
const maxGaps = 1000

// Reasons that a later pathway or person may remove. Messages parked with one of
// them are redriven by the service itself.
const (
	reasonNoPerson  = "edge.patient.unknown"
	reasonNoPathway = "edge.pathway.none"
)

func newIndex(log es.Log, hash func(assigner, value string) string) *index {
	x := &index{hash: hash, messages: map[string]*entry{}, people: map[string]string{}, keys: map[string]map[string]bool{}, held: map[string]map[string]bool{},
		pathways: map[string][]*pathway{}, started: map[string]*pathway{}, into: map[string]string{}, merged: map[string][]string{}, said: map[string]time.Time{}, senders: map[[2]string]*counter{},
		waiting: map[string]map[string]bool{}, trigger: map[string]es.Position{}, due: map[string]bool{}, changed: map[string]time.Time{}, incoming: map[string]string{}, wake: make(chan struct{}, 1)}
	x.Follower = es.Follow(log, "edge.index.behind", x.fold, category, "pathway", "person", "referral")
	x.Only(matters...)
	return x
}

// fold applies one event. The caller holds the lock.
func (x *index) fold(at es.Recorded) error {
	of, id, _ := strings.Cut(at.Stream, "-")
	event, err := es.Decode(at)
	if err != nil {
		return err
	}
	if of == "referral" {
		x.decision(at, event)
		return nil
	}
	if of != category {
		x.elsewhere(id, event, at.Position)
		return nil
	}
	if e, ok := event.(*pb.MessageReceived); ok {
		one := &entry{keys: e.PatientKeys, at: at.Position, place: at.Position, view: &pb.Message{
			MessageId: id, State: pb.MessageState_MESSAGE_STATE_RECEIVED, Application: e.Application, Facility: e.Facility, ControlId: e.ControlId,
			Type: e.Type, Version: e.Version, ReceivedAt: timestamppb.New(at.Recorded), RedriveOf: e.RedriveOf, ControlIdReused: e.ControlIdReused, ContentType: e.ContentType,
		}}
		if first := x.messages[e.RedriveOf]; first != nil {
			one.place = first.place
		}
		x.messages[id] = one
		x.order = append(x.order, one)
		if e.RedriveOf == "" && e.Sequence > 0 {
			x.sequence(e, at.Recorded)
		}
		return nil
	}
	one := x.messages[id]
	if one == nil {
		return nil
	}
	v := clone(one.view) // readers may hold the one before
	one.view = v
	if code, _, _ := verdict(event); code != "" {
		v.Acknowledgement = code
	}
	if first := x.messages[v.RedriveOf]; first != nil { // it came to an end
		delete(x.due, v.RedriveOf)
		for _, k := range first.keys {
			delete(x.held[strings.TrimPrefix(k, otherPatient)], v.RedriveOf)
		}
		x.rouse() // what is due may have waited for it
		first.view = clone(first.view)
		first.view.State = pb.MessageState_MESSAGE_STATE_REDRIVEN
	}
	switch e := event.(type) {
	case *pb.MessageApplied:
		v.State, v.Effects, v.PersonId, v.Kept, v.Reason = pb.MessageState_MESSAGE_STATE_APPLIED, e.Effects, e.PersonId, e.Kept, e.Note
		if e.PersonId != "" {
			for _, k := range one.keys {
				if !strings.HasPrefix(k, otherPatient) {
					x.stands(k, e.PersonId)
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
				x.stands(k, p.PersonId)
			}
		}
		for _, thing := range e.About {
			if at := e.SaidAt.AsTime(); at.After(x.said[thing]) {
				x.said[thing] = at
			}
		}
	case *pb.MessageParked:
		v.State, v.Reason, one.read = pb.MessageState_MESSAGE_STATE_PARKED, e.Reason, es.Position(e.ReadAt)
		for _, k := range one.keys {
			k = strings.TrimPrefix(k, otherPatient)
			switch {
			case e.Holds:
				put(x.held, k, id)
			case e.Reason.GetCode() == reasonNoPerson || e.Reason.GetCode() == reasonNoPathway:
				put(x.waiting, k, id)
				x.release(id, x.people[k])
			}
		}
	case *pb.MessageRefused:
		v.State, v.Reason = pb.MessageState_MESSAGE_STATE_REFUSED, e.Reason
	case *pb.MessageRedriven:
		// It stays parked, and holds what it holds, until the other has an outcome: a
		// crash may come first.
		v.RedrivenBy = e.ByMessageId
		for _, k := range one.keys {
			delete(x.waiting[strings.TrimPrefix(k, otherPatient)], id)
		}
	}
	return nil
}

func put(m map[string]map[string]bool, key, id string) {
	if m[key] == nil {
		m[key] = map[string]bool{}
	}
	m[key][id] = true
}

// matters names the events that are folded: all of messages, and of other services
// who is who, whose pathway, and what was decided on a referral.
var matters = func() []string {
	names := []string{"waymark.edge.v1."}
	for _, m := range []proto.Message{&referralv1.PathwayStarted{}, &referralv1.PathwayClosed{}, &referralv1.ClockCorrected{}, &personv1.PersonMergedInto{}, &personv1.MergeReversed{},
		&personv1.NhsNumberRecorded{}, &personv1.LocalIdentifierAdded{}, &personv1.LocalIdentifierReplaced{},
		&referralv1.ReferralAccepted{}, &referralv1.ReferralRejected{}, &referralv1.ReferralBegun{}, &referralv1.ReferralHeld{}, &referralv1.ReferralResumed{},
		&referralv1.ReferralRedirected{}, &referralv1.ReferralNotAttended{}, &referralv1.ReferralCompleted{}} {
		names = append(names, es.TypeOf(m))
	}
	return names
}()

// elsewhere applies an event of another service: who is who, and whose pathway.
func (x *index) elsewhere(id string, event proto.Message, at es.Position) {
	switch e := event.(type) {
	case *referralv1.PathwayStarted:
		one := &pathway{id: id, person: e.PersonId, team: e.Facts.GetResponsibleTeam()}
		x.started[id] = one
		x.pathways[e.PersonId] = append(x.pathways[e.PersonId], one)
		x.releaseAll(e.PersonId, at)
	case *referralv1.PathwayClosed:
		if one := x.started[id]; one != nil {
			one.closed = true
		}
	case *referralv1.ClockCorrected:
		if one := x.started[id]; one != nil && e.WrongEvent == "PathwayClosed" && e.Replacement == nil {
			one.closed = false
			x.releaseAll(one.person, at)
		}
	case *personv1.PersonMergedInto:
		x.into[e.MergedPersonId] = e.SurvivingPersonId
		x.merged[e.SurvivingPersonId] = append(x.merged[e.SurvivingPersonId], e.MergedPersonId)
		x.releaseAll(e.SurvivingPersonId, at)
	case *personv1.MergeReversed:
		if x.into[e.MergedPersonId] == e.SurvivingPersonId {
			delete(x.into, e.MergedPersonId)
			x.merged[e.SurvivingPersonId] = slices.DeleteFunc(x.merged[e.SurvivingPersonId], func(p string) bool { return p == e.MergedPersonId })
		}
	case *personv1.NhsNumberRecorded:
		x.stands(x.hash("NHS", e.NhsNumber), id)
	case *personv1.LocalIdentifierAdded:
		x.stands(x.hash(e.Identifier.GetAssigner(), e.Identifier.GetValue()), id)
	case *personv1.LocalIdentifierReplaced:
		x.stands(x.hash(e.Identifier.GetAssigner(), e.Identifier.GetValue()), id)
	}
}

// stands records whom an identifier stands for, from now on.
func (x *index) stands(key, person string) {
	if was := x.people[key]; was != "" {
		delete(x.keys[was], key)
	}
	x.people[key] = person
	put(x.keys, person, key)
}

// family is a person with all who were merged with them.
func (x *index) family(person string) []string {
	for x.into[person] != "" {
		person = x.into[person]
	}
	all := []string{person}
	for i := 0; i < len(all); i++ {
		all = append(all, x.merged[all[i]]...)
	}
	return all
}

// releaseAll makes due what waits for a person, because something began for them.
func (x *index) releaseAll(person string, at es.Position) {
	for _, p := range x.family(person) {
		x.trigger[p] = at
		for k := range x.keys[p] {
			for id := range x.waiting[k] {
				x.release(id, p)
			}
		}
	}
}

// release makes a message due if something began for its person that was not
// known when it was parked.
func (x *index) release(id, person string) {
	if person == "" || x.trigger[person] <= x.messages[id].read {
		return
	}
	x.due[id] = true
	x.rouse()
}

// rouse has what is due looked at.
func (x *index) rouse() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// released lists the messages that are due, oldest first, and forgets that anybody
// was to be woken for them.
func (x *index) released() []string {
	x.Lock()
	defer x.Unlock()
	select {
	case <-x.wake:
	default:
	}
	ids := slices.Collect(maps.Keys(x.due))
	slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(x.messages[a].place, x.messages[b].place) })
	return ids
}

// dropped forgets that a message is due.
func (x *index) dropped(id string) {
	x.Lock()
	defer x.Unlock()
	delete(x.due, id)
}

// position is how far the index has come.
func (x *index) position() es.Position {
	x.Lock()
	defer x.Unlock()
	return x.At()
}

// familyOf is family for those who do not hold the lock.
func (x *index) familyOf(person string) []string {
	x.Lock()
	defer x.Unlock()
	return x.family(person)
}

// pathwaysOf returns the pathways of a person, and of those who were merged into
// them, oldest first; open ones only where asked.
func (x *index) pathwaysOf(person string, openOnly bool) (found []pathway) {
	x.Lock()
	defer x.Unlock()
	for _, p := range x.family(person) {
		for _, one := range x.pathways[p] {
			if !one.closed || !openOnly {
				found = append(found, *one)
			}
		}
	}
	return found
}

// older reports whether a message about a thing that was sent later was applied.
func (x *index) older(thing string, said time.Time) bool {
	x.Lock()
	defer x.Unlock()
	return said.Before(x.said[thing])
}

// sequence notes which numbers a sender left out. A number that comes late fills
// its gap; one that is lower for another reason begins the count anew.
func (x *index) sequence(e *pb.MessageReceived, at time.Time) {
	sender := [2]string{e.Application, e.Facility}
	c := x.senders[sender]
	if c == nil {
		c = &counter{last: e.Sequence - 1} // what came before this record began is nobody's loss
		x.senders[sender] = c
	}
	n := e.Sequence
	if n <= c.last {
		for i, g := range c.gaps {
			if n < g.First || n > g.Last {
				continue
			}
			var rest []*pb.Gap
			if n > g.First {
				left := clone(g)
				left.Last = n - 1
				rest = append(rest, left)
			}
			if n < g.Last {
				right := clone(g)
				right.First = n + 1
				rest = append(rest, right)
			}
			c.gaps = slices.Replace(slices.Clone(c.gaps), i, i+1, rest...)
			return
		}
		c.last = n
		return
	}
	if n > c.last+1 {
		c.gaps = append(c.gaps, &pb.Gap{Application: e.Application, Facility: e.Facility, First: c.last + 1, Last: n - 1, NoticedAt: timestamppb.New(at)})
		if len(c.gaps) > maxGaps {
			c.gaps = slices.Clone(c.gaps[1:])
		}
	}
	c.last = n
}

// gaps lists what is missing, by sender.
func (x *index) gaps() (all []*pb.Gap) {
	x.Lock()
	defer x.Unlock()
	for _, c := range x.senders {
		all = append(all, c.gaps...)
	}
	slices.SortFunc(all, func(a, b *pb.Gap) int {
		return cmp.Or(cmp.Compare(a.Facility, b.Facility), cmp.Compare(a.Application, b.Application), cmp.Compare(a.First, b.First))
	})
	return all
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

// newest is when a referral or an appointment was last changed by a message, by its
// sender's clock; zero for never.
func (x *index) newest(id string) time.Time {
	x.Lock()
	defer x.Unlock()
	return x.changed[id]
}

// holding reports whether a message that came before id, or any when id is "",
// holds a patient of these keys, under these or other identifiers of theirs.
func (x *index) holding(keys []string, id string) bool {
	x.Lock()
	defer x.Unlock()
	var before es.Position
	if e := x.messages[id]; e != nil {
		before = e.place
	}
	all := map[string]bool{}
	for _, k := range keys {
		k = strings.TrimPrefix(k, otherPatient)
		all[k] = true
		if p := x.people[k]; p != "" {
			for _, q := range x.family(p) {
				for other := range x.keys[q] {
					all[other] = true
				}
			}
		}
	}
	for k := range all {
		for by := range x.held[k] {
			if by != id && (before == 0 || x.messages[by].place < before) {
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
