package allinone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	edgev1 "waymark/proto/waymark/edge/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// some draws writes that break nearly every rule between streams sooner or later:
// few ids, and whatever may be said of them.
func some(r *rand.Rand) write {
	of := func(kind string, n int) string { return fmt.Sprint(kind, r.IntN(n)) }
	w, p, x, h, m := of("w", 4), of("p", 3), of("x", 3), of("h", 4), of("m", 4)
	slot, session, q := of("", 2), of("s", 2), of("p", 3)
	begin := timestamppb.New(time.Date(2026, 5, 1, 9, 10*r.IntN(4), 0, 0, time.UTC))
	booking := &appointmentv1.Booking{SessionId: session, SlotId: slot, HoldId: h, Start: begin, End: timestamppb.New(begin.AsTime().Add(20 * time.Minute))}
	start := &referralv1.StartFacts{ReceivedOn: "2026-03-02", ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Code: "BR", Name: "RJ1 Breast"}}
	holder := []*careleadv1.Party{team, team, lead}[r.IntN(3)]
	all := []write{
		{"identity-" + of("i", 4), []proto.Message{&personv1.IdentifierClaimed{PersonId: p}}},
		{"person-" + p, []proto.Message{&personv1.PersonRegistered{PersonId: p}}},
		{"person-" + p, []proto.Message{&personv1.PersonRegistered{PersonId: p}}},
		{"person-" + p, []proto.Message{&personv1.NhsNumberRecorded{NhsNumber: of("999000001", 3)}}},
		{"person-" + p, []proto.Message{&personv1.PersonMergedInto{MergeId: p + q, MergedPersonId: p, SurvivingPersonId: q}}},
		{"person-" + q, []proto.Message{&personv1.PersonsMerged{MergeId: p + q, SurvivingPersonId: q, MergedPersonId: p}}},
		{"person-" + q, []proto.Message{&personv1.PersonsMerged{MergeId: p + q, SurvivingPersonId: q, MergedPersonId: p}}},
		{"person-" + p, []proto.Message{&personv1.MergeReversed{MergeId: p + q}}},
		{"pathway-" + w, []proto.Message{&referralv1.PathwayStarted{FactId: "f1", PersonId: p, Facts: start}}},
		{"pathway-" + w, []proto.Message{&referralv1.PathwayStarted{FactId: "f1", PersonId: p, Facts: start}}},
		{"pathway-" + w, []proto.Message{&referralv1.PathwayRerouted{FactId: "f2", Facts: &referralv1.RerouteFacts{Onward: []*referralv1.Onward{{PathwayId: of("W", 4), ResponsibleTeam: start.ResponsibleTeam}}}}}},
		{"carelead-" + w, []proto.Message{&careleadv1.LedgerOpened{PathwayId: w, Holder: holder}}},
		{"carelead-" + w, []proto.Message{&careleadv1.LedgerOpened{PathwayId: w, Holder: team}}},
		{"carelead-" + w, []proto.Message{&careleadv1.LedgerClosed{Reason: careleadv1.CloseReason_CLOSE_REASON_SUPERSEDED, Evidence: "e", SupersededBy: of("w", 4)}}},
		{"carelead-" + w, []proto.Message{&careleadv1.LedgerReopened{Holder: holder}}},
		{"plan-" + w, []proto.Message{&planv1.PlanOpened{PlanId: "l1"}, &planv1.ItemBecameDue{ItemId: x}}},
		{"session-" + session, []proto.Message{&appointmentv1.SlotHeld{SlotId: slot, AppointmentId: x, PathwayId: w, HoldId: h}}},
		{"session-" + session, []proto.Message{&appointmentv1.SlotHeld{SlotId: slot, AppointmentId: x, PathwayId: w, HoldId: h}}},
		{"session-" + session, []proto.Message{&appointmentv1.SlotTaken{SlotId: slot, AppointmentId: x, HoldId: h}}},
		{"session-" + session, []proto.Message{&appointmentv1.SlotReleased{SlotId: slot, HoldId: h}}},
		{"session-" + session, []proto.Message{&appointmentv1.SessionSuspended{Displaced: []*appointmentv1.Displaced{{PathwayId: w, AppointmentId: x, HoldId: h}}}}},
		{"appointment-" + w, []proto.Message{&appointmentv1.AppointmentBooked{AppointmentId: x, Booking: booking}}},
		{"appointment-" + w, []proto.Message{&appointmentv1.AppointmentBooked{AppointmentId: x, Booking: booking}}},
		{"appointment-" + w, []proto.Message{&appointmentv1.AppointmentRescheduled{AppointmentId: x, To: booking}}},
		{"appointment-" + w, []proto.Message{&appointmentv1.AppointmentCancelled{AppointmentId: x}}},
		{"appointment-" + w, []proto.Message{&appointmentv1.PatientArrived{AppointmentId: x}}},
		{"appointment-" + w, []proto.Message{&appointmentv1.OverlapFound{AppointmentId: x}}},
		{"appointment-" + w, []proto.Message{&appointmentv1.ToBeBookedTaskRaised{TaskId: of("t", 3), Cause: "surveillance_due", CauseId: x, Due: "2026-05-01"}}},
		kept(m, ""), kept(m, of("m", 4)), parked(m),
		{"message-" + m, []proto.Message{&edgev1.MessageRedriven{ByMessageId: of("m", 4)}}},
		{"message-" + m, []proto.Message{&edgev1.MessageApplied{}}},
	}
	return all[r.IntN(len(all))]
}

// TestVerifyInParts: whatever is in the log, and wherever it is damaged, parts
// find what is found at once. The rules between streams are broken on the way, but
// for a circle of merges, which is in the planted damage.
func TestVerifyInParts(t *testing.T) {
	t.Parallel()
	missing := map[string]bool{}
	for _, text := range []string{
		"two persons hold", "has not claimed", "not asked of this person", "answered twice", "merged away survives", "never started", "first holder", "in a ring",
		"given away", "not held for it", "only held for it", "was not cancelled", "two places", "no task to book it", "takes the place of this one", "which does not say so",
		"recorded before the event before", "does not come after", "chain value",
	} {
		missing[text] = true
	}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		log := estest.NewLog()
		at := time.Date(2026, 4, 1, 9, 0, 0, 0, time.UTC)
		log.SetClock(func() time.Time { at = at.Add(time.Duration(r.IntN(20)) * time.Minute); return at })
		only := []string{"", "", "", "person-"}[seed%4]
		for n := range 20 + r.IntN(100) {
			w := some(r)
			for !strings.HasPrefix(w.stream, only) {
				w = some(r)
			}
			w.to(t, log, n)
		}
		events := append([]es.Recorded(nil), log.Events()...)
		if r.IntN(2) == 0 {
			e := &events[r.IntN(len(events))]
			switch r.IntN(3) {
			case 0:
				e.Data = append(bytes.Clone(e.Data), 0)
			case 1:
				e.Recorded = e.Recorded.Add(-time.Hour)
			case 2:
				e.Position = 1
			}
		}
		v := verify(t, events)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		for text := range missing {
			for _, b := range v.First {
				if strings.Contains(b.Text, text) {
					delete(missing, text)
				}
			}
		}
	}
	for text := range missing {
		t.Errorf("no log broke the rule %q", text)
	}
}

// TestVerifySetsAside: what does not fit into memory is in a file that nobody can
// find or read, and comes back as it was.
func TestVerifySetsAside(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	log := estest.NewLog()
	for i, w := range story() {
		w.to(t, log, i)
	}
	for n := range 300 {
		write{"message-" + fmt.Sprint(n%9), []proto.Message{&edgev1.MessageReceived{MessageId: fmt.Sprint(n % 9), Raw: []byte("PID|9990000018|" + uuid.NewString())}}}.to(t, log, n)
	}
	events := log.Events()
	want := verify(t, events)
	v, err := newLanes(3)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	v.events.room, v.facts.room = 0, 0
	for _, e := range events {
		if err := v.Next(e); err != nil {
			t.Fatal(err)
		}
	}
	if v.events.file == nil || v.events.size == 0 {
		t.Fatal("nothing was set aside")
	}
	stored := make([]byte, v.events.size)
	if _, err := v.events.file.ReadAt(stored, 0); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("it can be found: %v, %v", files, err)
	}
	if bytes.Contains(stored, []byte("9990000018")) || bytes.Contains(stored, []byte("message")) {
		t.Error("it can be read")
	}
	if err := v.End(t.Context(), nil); err != nil || fmt.Sprint(v.Verdict) != fmt.Sprint(want) {
		t.Errorf("%v\n%+v, want\n%+v", err, v.Verdict, want)
	}
}

// TestVerifyFails: a verdict is only given of all that was read.
func TestVerifyFails(t *testing.T) {
	log := estest.NewLog()
	for n := range 300 {
		write{"message-1", []proto.Message{&edgev1.MessageReceived{MessageId: "1", Raw: []byte("MSH" + uuid.NewString())}}}.to(t, log, n)
	}
	read := func(room int) (*Verifier, error) {
		v, err := newLanes(2)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { v.Close() })
		v.events.room = room
		for _, e := range log.Events() {
			err = errors.Join(err, v.Next(e))
		}
		return v, err
	}
	v, _ := read(inMemory)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.End(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("it was ended, and says %v", err)
	}
	v, err := read(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.events.file.WriteAt([]byte{0}, v.events.size/2); err != nil {
		t.Fatal(err)
	}
	if err := v.End(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "was changed") {
		t.Errorf("the file was changed, and it says %v", err)
	}
	t.Setenv("TMPDIR", t.TempDir()+"/none")
	if _, err := read(0); err == nil || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("there is no room, and it says %v", err)
	}
}
