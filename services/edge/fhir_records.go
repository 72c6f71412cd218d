package edge

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

// records is what the FHIR server must know of the log itself, folded anew at
// each start: which people, pathways and sessions there are, whose a thing with
// an id is, and where and when each stream has its events. It follows every
// stream, so that waiting for the head of the log is waiting for all of it.
//
// It keeps no journal: it takes in nearly every event, so that a journal would be
// another copy of the log, and reading it would take as long (a second of CPU for a
// million events, in which the services answer already; only FHIR waits).
type records struct {
	*es.Follower // its lock guards all below

	stamps   map[streamKey][]stamp
	people   []string            // in the order of the log
	pathways []string            // likewise
	sessions []string            // likewise
	person   map[string]string   // of a pathway
	of       map[string][]string // pathways of a person
	survivor map[string]string   // a merged person to the one who survived
	whose    map[idKey]int32     // the id of a thing to that of its person, pathway or session, as a place in names
	names    []string            // of owners
	local    map[string]string   // a local identifier, organisation and value, to its person
}

// idKey is an id as 16 bytes: those of a UUID in lower case, and of a hash for any
// other. There is one for everything in the log that has an id: as strings they
// took three times the memory.
type idKey [16]byte

func keyOf(id string) idKey {
	if len(id) == 36 {
		if u, err := uuid.Parse(id); err == nil && strings.ToLower(id) == id {
			return idKey(u)
		}
	}
	sum := sha256.Sum256([]byte(id))
	return idKey(sum[:16])
}

// streamKey is a stream: its category, and the id behind it.
type streamKey struct {
	category string
	id       idKey
}

// stamp is where and when one event was recorded.
type stamp struct {
	position es.Position
	recorded int64 // Unix nanoseconds
}

func (s stamp) time() time.Time { return time.Unix(0, s.recorded).UTC() }

func newRecords(log es.Log) *records {
	x := &records{stamps: map[streamKey][]stamp{}, person: map[string]string{}, of: map[string][]string{},
		survivor: map[string]string{}, whose: map[idKey]int32{}, local: map[string]string{}}
	x.Follower = es.Follow(log, "edge.fhir.behind", x.fold)
	return x
}

// fold applies one event. The caller holds the lock.
func (x *records) fold(at es.Recorded) error {
	of, id, _ := strings.Cut(at.Stream, "-")
	n := slices.Index(followed, of)
	if n < 0 {
		return nil
	}
	category := followed[n] // not part of the name of each stream, which would be kept with it
	event, err := es.Decode(at)
	if err != nil {
		return err
	}
	stream := streamKey{category, keyOf(id)}
	if x.stamps[stream] == nil {
		switch category {
		case "person":
			x.people = append(x.people, id)
		case "pathway":
			x.pathways = append(x.pathways, id)
		case "session":
			x.sessions = append(x.sessions, id)
		}
		x.owns(id, id)
	}
	x.stamps[stream] = append(x.stamps[stream], stamp{at.Position, at.Recorded.UnixNano()})
	switch e := event.(type) {
	case *referralv1.PathwayStarted:
		x.person[id] = e.PersonId
		x.of[e.PersonId] = append(x.of[e.PersonId], id)
	case *personv1.PersonsMerged:
		x.survivor[e.MergedPersonId] = e.SurvivingPersonId
	case *personv1.MergeReversed:
		delete(x.survivor, e.MergedPersonId)
	case *personv1.LocalIdentifierAdded:
		x.local[localKey(e.Identifier)] = id
	case *personv1.LocalIdentifierReplaced:
		delete(x.local, localKey(e.Earlier))
		x.local[localKey(e.Identifier)] = id
	case *appointmentv1.SessionOpened:
		for _, slot := range e.Slots {
			x.owns(id, slot.SlotId)
		}
	}
	if category != "session" { // a session names appointments, which are pathways'
		x.things(event, id)
	}
	return nil
}

// followed are the categories whose streams are of people, pathways and sessions.
var followed = []string{"person", "pathway", "referral", "plan", "appointment", "carelead", "session"}

// owns notes whose a thing is from now on. The caller holds the lock.
func (x *records) owns(owner, thing string) {
	at, known := x.whose[keyOf(owner)]
	if !known || x.names[at] != owner {
		at = int32(len(x.names))
		x.names = append(x.names, strings.Clone(owner))
	}
	x.whose[keyOf(thing)] = at
}

func localKey(i *personv1.LocalIdentifier) string { return i.GetAssigner() + "|" + i.GetValue() }

// things notes whose the ids in an event are: the first stream that names one has it.
func (x *records) things(event proto.Message, owner string) {
	event.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		if f.Kind() == protoreflect.StringKind && !f.IsList() && !f.IsMap() && strings.HasSuffix(name, "_id") && name != "person_id" && name != "pathway_id" {
			if id := v.String(); len(id) == 36 {
				if _, known := x.whose[keyOf(id)]; !known {
					x.owns(owner, id)
				}
			}
		}
		return true
	})
}

// ownerOf returns whose a thing is, "" when nobody's.
func (x *records) ownerOf(id string) string {
	x.Lock()
	defer x.Unlock()
	if at, known := x.whose[keyOf(id)]; known {
		return x.names[at]
	}
	return ""
}

// patient returns who a person is now, and everybody that was merged into them.
func (x *records) patient(id string) (now string, all []string) {
	x.Lock()
	defer x.Unlock()
	now = x.standsFor(id)
	all = []string{now}
	for merged := range x.survivor {
		if x.standsFor(merged) == now {
			all = append(all, merged)
		}
	}
	slices.Sort(all[1:])
	return now, all
}

func (x *records) standsFor(id string) string {
	for range len(x.survivor) { // a survivor may have been merged in turn
		into, ok := x.survivor[id]
		if !ok {
			break
		}
		id = into
	}
	return id
}

// owners lists the people, pathways or sessions; of some people only, where given.
func (x *records) owners(kind ownerKind, people []string) []string {
	x.Lock()
	defer x.Unlock()
	switch {
	case kind == ofSession:
		return slices.Clone(x.sessions)
	case kind == ofPerson && people != nil:
		return people
	case kind == ofPerson:
		return slices.Clone(x.people)
	case people == nil:
		return slices.Clone(x.pathways)
	}
	var found []string
	for _, p := range people {
		found = append(found, x.of[p]...)
	}
	return found
}

// history lists where and when the streams of an owner have events, oldest
// first. With whole, events of a stream that were recorded at one instant were one
// decision, and the last stands for them.
func (x *records) history(categories []string, owner string, whole bool) (all []stamp) {
	x.Lock()
	defer x.Unlock()
	for _, c := range categories {
		for i, s := range x.stampsOf(c, owner) {
			if whole && i > 0 && len(all) > 0 && all[len(all)-1].recorded == s.recorded {
				all[len(all)-1] = s
			} else {
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, func(a, b stamp) int { return int(int64(a.position) - int64(b.position)) })
	return all
}

// stampsOf the stream of a category that belongs to the owner; that of the person, for a pathway.
func (x *records) stampsOf(category, owner string) []stamp {
	if person := x.person[owner]; category == "person" && person != "" {
		owner = person
	}
	return x.stamps[streamKey{category, keyOf(owner)}]
}

// newest returns the last event of the owner's streams that is within the moment
// and, with whole, that ended what was recorded at its instant: nobody sees half a decision.
func (x *records) newest(categories []string, owner string, m asOf, whole bool) (last stamp, ok bool) {
	x.Lock()
	defer x.Unlock()
	for _, c := range categories {
		all := x.stampsOf(c, owner)
		for i, s := range slices.Backward(all) {
			if whole && i+1 < len(all) && all[i+1].recorded == s.recorded {
				continue
			}
			if m.has(s) {
				if !ok || s.position > last.position {
					last, ok = s, true
				}
				break
			}
		}
	}
	return last, ok
}

// asOf is what _as-of asks for: what was recorded up to a position or an instant. Zero is now.
type asOf struct {
	position es.Position
	instant  time.Time
}

func (m asOf) has(s stamp) bool {
	switch {
	case m.position > 0:
		return s.position <= m.position
	case !m.instant.IsZero():
		return s.recorded <= m.instant.UnixNano()
	}
	return true
}

func (m asOf) isNow() bool { return m.position == 0 && m.instant.IsZero() }
