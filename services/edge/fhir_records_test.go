package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// remembered is what records must say, kept as simply as can be: in memory, by one
// pass over the log.
type remembered struct {
	stamps   map[string][]stamp // by stream
	owners   [3][]string
	person   map[string]string
	of       map[string][]string
	survivor map[string]string
	whose    map[string]string
	local    map[string]string
}

func remember(t rapid.TB, log es.Log) *remembered {
	m := &remembered{stamps: map[string][]stamp{}, person: map[string]string{}, of: map[string][]string{}, survivor: map[string]string{}, whose: map[string]string{}, local: map[string]string{}}
	err := log.ReadAll(context.Background(), 0, func(at es.Recorded) error {
		category, id, _ := strings.Cut(at.Stream, "-")
		if !slices.Contains(followed, category) {
			return nil
		}
		event, err := es.Decode(at)
		if err != nil {
			return err
		}
		if m.stamps[at.Stream] == nil {
			if kind, is := map[string]ownerKind{"person": ofPerson, "pathway": ofPathway, "session": ofSession}[category]; is {
				m.owners[kind] = append(m.owners[kind], id)
			}
			m.whose[id] = id
		}
		m.stamps[at.Stream] = append(m.stamps[at.Stream], stamp{at.Position, at.Recorded.UnixNano()})
		switch e := event.(type) {
		case *referralv1.PathwayStarted:
			m.person[id], m.of[e.PersonId] = e.PersonId, append(m.of[e.PersonId], id)
		case *personv1.PersonsMerged:
			m.survivor[e.MergedPersonId] = e.SurvivingPersonId
		case *personv1.MergeReversed:
			delete(m.survivor, e.MergedPersonId)
		case *personv1.LocalIdentifierAdded:
			m.local[localKey(e.Identifier)] = id
		case *personv1.LocalIdentifierReplaced:
			delete(m.local, localKey(e.Earlier))
			m.local[localKey(e.Identifier)] = id
		case *appointmentv1.SessionOpened:
			for _, slot := range e.Slots {
				m.whose[slot.SlotId] = id
			}
		}
		if category == "session" {
			return nil
		}
		event.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			name := string(f.Name())
			if f.Kind() == protoreflect.StringKind && !f.IsList() && !f.IsMap() && strings.HasSuffix(name, "_id") && name != "person_id" && name != "pathway_id" {
				if _, known := m.whose[v.String()]; !known && len(v.String()) == 36 {
					m.whose[v.String()] = id
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *remembered) patient(id string) (now string, all []string) {
	stands := func(id string) string {
		for m.survivor[id] != "" {
			id = m.survivor[id]
		}
		return id
	}
	now = stands(id)
	all = []string{now}
	for merged := range m.survivor {
		if stands(merged) == now {
			all = append(all, merged)
		}
	}
	slices.Sort(all[1:])
	return now, all
}

// universe is every id of the tests' logs: of things, people, pathways, sessions.
var universe = func() (ids []string) {
	for i := range 12 {
		ids = append(ids, uuid.NewSHA1(uuid.Nil, []byte{byte(i)}).String())
	}
	return ids
}()

// says is all that can be asked, with its answers.
func (x *records) says() (string, error) {
	var b strings.Builder
	var failed error
	fail := func(err error) { failed = errors.Join(failed, err) }
	for _, id := range universe {
		owner, err := x.ownerOf(id)
		fail(err)
		person, err := x.person(id)
		fail(err)
		now, all, err := x.patient(id)
		fail(err)
		of, err := x.pathwaysOf(all)
		fail(err)
		local, err := x.local("RJ1|" + id)
		fail(err)
		fmt.Fprintln(&b, id, owner, person, now, all, of, local)
		for _, c := range followed {
			stamps, err := x.history([]string{c}, id, false)
			fail(err)
			last, ok, err := x.newest([]string{c}, id, asOf{}, false)
			fail(err)
			fmt.Fprintln(&b, c, stamps, last, ok)
		}
	}
	for kind := range ofSession + 1 {
		ids, err := x.owners(kind, 0)
		fail(err)
		fmt.Fprintln(&b, kind, ids)
	}
	return b.String(), failed
}

func (m *remembered) says() string {
	var b strings.Builder
	for _, id := range universe {
		now, all := m.patient(id)
		var of []string
		for _, p := range all {
			of = append(of, m.of[p]...)
		}
		fmt.Fprintln(&b, id, m.whose[id], m.person[id], now, all, of, m.local["RJ1|"+id])
		for _, c := range followed {
			owner := id
			if p := m.person[id]; c == "person" && p != "" {
				owner = p
			}
			stamps, last := m.stamps[c+"-"+owner], stamp{}
			if len(stamps) > 0 {
				last = stamps[len(stamps)-1]
			}
			fmt.Fprintln(&b, c, stamps, last, len(stamps) > 0)
		}
	}
	for kind := range ofSession + 1 {
		fmt.Fprintln(&b, kind, m.owners[kind])
	}
	return b.String()
}

// someRecord is any event that the index takes in, or passes over.
func someRecord(t *rapid.T) (stream string, event proto.Message) {
	any := func(of []string) string { return rapid.SampledFrom(of).Draw(t, "id") }
	people, pathways, sessions, things := universe[:3], universe[3:6], universe[6:8], universe[8:]
	switch rapid.IntRange(0, 9).Draw(t, "event") {
	case 0:
		p := any(people)
		return "person-" + p, &personv1.PersonRegistered{PersonId: p}
	case 1:
		return "person-" + any(people), &personv1.LocalIdentifierAdded{Identifier: &personv1.LocalIdentifier{Assigner: "RJ1", Value: any(things)}}
	case 2:
		return "person-" + any(people), &personv1.LocalIdentifierReplaced{Earlier: &personv1.LocalIdentifier{Assigner: "RJ1", Value: any(things)}, Identifier: &personv1.LocalIdentifier{Assigner: "RJ1", Value: any(things)}}
	case 3: // never in a ring
		n := rapid.IntRange(0, 1).Draw(t, "survivor")
		return "person-" + people[n], &personv1.PersonsMerged{MergeId: any(things), SurvivingPersonId: people[n], MergedPersonId: people[rapid.IntRange(n+1, 2).Draw(t, "merged")]}
	case 4:
		return "person-" + any(people), &personv1.MergeReversed{MergeId: any(things), MergedPersonId: any(people)}
	case 5:
		return "pathway-" + any(pathways), &referralv1.PathwayStarted{FactId: any(things), PersonId: any(people)}
	case 6, 7:
		return "referral-" + any(pathways), &referralv1.ReferralReceived{ReferralId: any(append(slices.Clone(things), pathways...))}
	case 8:
		return "session-" + any(sessions), &appointmentv1.SessionOpened{Slots: []*appointmentv1.Slot{{SlotId: any(things)}}}
	}
	return "other-1", &personv1.PersonRegistered{}
}

// recordsLive grows a log, puts others in its place, kills the index in the middle of its
// work with what was not synced lost, all or in part, and spoils its files. It returns
// how often the index, once it has caught up, said other than the log, of how often.
func recordsLive(t *rapid.T, plant func(*records)) (wrong, asked int) {
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "crashes"), 1))
	fs, log := vfs.NewCrashableMem(), estest.NewLog()
	revisions := map[string]es.Revision{}
	var x *records
	open := func() {
		x = newRecords(log, slog.New(slog.DiscardHandler), "fhir", fs)
		plant(x)
	}
	open()
	grow := func(t *rapid.T) {
		for range rapid.IntRange(1, 6).Draw(t, "events") {
			stream, event := someRecord(t)
			at, begun := revisions[stream]
			if !begun {
				at = es.NoStream
			}
			data, err := proto.Marshal(event)
			if err != nil {
				t.Fatal(err)
			}
			id := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "event id"))
			done, err := log.Append(context.Background(), stream, at, []es.NewEvent{{ID: id, Type: es.TypeOf(event), Data: data, Metadata: []byte("{}")}})
			if err != nil {
				t.Fatal(err)
			}
			revisions[stream] = done.Revision
		}
	}
	ask := func() (said string, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- x.Run(ctx) }()
		caught := make(chan error, 1)
		head, err := log.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		go func() { caught <- x.Wait(ctx, head) }()
		select {
		case err = <-caught:
		case err = <-ended:
			return "", err
		}
		if err == nil {
			said, err = x.says()
		}
		cancel()
		<-ended
		return said, err
	}
	t.Repeat(map[string]func(*rapid.T){
		"grow": grow,
		"replace": func(t *rapid.T) {
			x.close()
			log, revisions = estest.NewLog(), map[string]es.Revision{}
			grow(t)
			open()
		},
		"kill": func(t *rapid.T) {
			x.Lock()
			defer x.Unlock()
			from, err := x.begin(context.Background())
			if err != nil {
				return // damaged: the next to ask makes it again
			}
			left := rapid.IntRange(0, 8).Draw(t, "events")
			enough := errors.New("enough")
			err = log.ReadAll(context.Background(), from, func(e es.Recorded) error {
				if left--; left < 0 {
					return enough
				}
				if err := x.fold(e); err != nil {
					return err
				}
				if random.IntN(3) == 0 {
					return x.store()
				}
				return nil
			})
			if err != nil && !errors.Is(err, enough) {
				t.Fatal(err)
			}
			crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rapid.SampledFrom([]int{0, 50, 100}).Draw(t, "kept"), RNG: random})
			x.closeDB()
			fs = crashed
			open()
		},
		"spoil": func(t *rapid.T) {
			x.close()
			defer open()
			names, err := fs.List("fhir")
			if err != nil {
				return // never opened
			}
			slices.Sort(names)
			name := fs.PathJoin("fhir", rapid.SampledFrom(names).Draw(t, "file"))
			if err := spoil(fs, name, rapid.Uint32().Draw(t, "at")); err != nil {
				t.Fatal(err)
			}
		},
		"ask": func(t *rapid.T) {
			said, err := ask()
			for range 3 { // where it was damaged it is made again
				if err == nil {
					break
				}
				said, err = ask()
			}
			if err != nil {
				t.Fatal(err)
			}
			asked++
			if want := remember(t, log).says(); said != want {
				wrong++
			}
		},
	})
	x.close()
	return wrong, asked
}

// spoil changes one bit of a file.
func spoil(fs vfs.FS, name string, at uint32) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	content, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil || len(content) == 0 {
		return err
	}
	content[int(at)%len(content)] ^= 1
	if f, err = fs.Create(name, vfs.WriteCategoryUnspecified); err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// TestRecordsAreTheLog: whatever crashes, damage and other logs it lives through, the
// index says what the log does.
func TestRecordsAreTheLog(t *testing.T) {
	t.Parallel()
	total := 0
	rapid.Check(t, func(rt *rapid.T) {
		wrong, asked := recordsLive(rt, func(*records) {})
		if total += asked; wrong > 0 {
			rt.Fatalf("wrong %d of %d times", wrong, asked)
		}
	})
	if total == 0 {
		t.Error("it was never asked")
	}
}

// TestPlantedRecordsBugs: an index that is believed to be of this log, and a position
// that is stored before what it stands for, are caught.
func TestPlantedRecordsBugs(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(*records){"unchecked": func(x *records) { x.unchecked = true }, "position first": func(x *records) { x.positionFirst = true }} {
		caught := false
		rapid.Check(t, func(rt *rapid.T) {
			if !caught {
				wrong, _ := recordsLive(rt, plant)
				caught = wrong > 0
			}
		})
		if !caught {
			t.Errorf("%s: not caught", name)
		}
	}
}
