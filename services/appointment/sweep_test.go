package appointment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	pb "waymark/proto/waymark/appointment/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// dies makes a process end at its first append to a stream whose name begins so.
func dies(log *estest.Log, prefix string) {
	log.SetFaults(estest.Faults{Before: func(_ context.Context, call, stream string) error {
		if call == "Append" && len(stream) >= len(prefix) && stream[:len(prefix)] == prefix {
			return errors.New("killed")
		}
		return nil
	}})
}

// until runs instances until the log has an event that is wanted.
func until(t *testing.T, log *estest.Log, want func(es.Recorded) bool, instances ...*service) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, s := range instances {
		s.diary = newDiary(log)
		wg.Go(func() {
			if err := s.keep(ctx); ctx.Err() == nil {
				t.Errorf("run ended with %v", err)
			}
		})
	}
	found := errors.New("found")
	err := log.Subscribe(ctx, 0, es.Filter{}, func(m es.Message) error {
		if m.Event != nil && want(*m.Event) {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		t.Fatalf("it was not recorded: %v", err)
	}
}

// TestLapsedHoldsAreSettled: a hold that a dead process left behind is settled
// although nobody wants the slot: released where nothing was booked, taken where
// it was. Instances that do it together record it once.
func TestLapsedHoldsAreSettled(t *testing.T) {
	t.Parallel()
	st := begin(t)
	dies(st.log, "appointment-")
	if _, err := st.s.front().BookAppointment(t.Context(), booking(1, 1, 0, 0)); err == nil {
		t.Fatal("it did not die")
	}
	st.log.SetFaults(estest.Faults{})
	kept := 0
	st.log.SetFaults(estest.Faults{Before: func(_ context.Context, call, stream string) error {
		if call == "Append" && stream == "session-"+id("session", 0) {
			if kept++; kept >= 2 { // after the hold, before the slot is taken
				return errors.New("killed")
			}
		}
		return nil
	}})
	if _, err := st.s.front().BookAppointment(t.Context(), booking(2, 2, 0, 1)); err == nil {
		t.Fatal("it did not die")
	}
	st.log.SetFaults(estest.Faults{})
	st.book(3, 2)
	if got := st.slots(); got != "hhtfff" {
		t.Fatalf("slots %s", got)
	}

	early := instance(st.log, now.Add(holdFor-time.Second))
	early.diary = newDiary(st.log)
	for _, e := range st.log.Events() {
		if e.Stream == "session-"+id("session", 0) {
			if err := early.diary.apply(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := early.sweep(t.Context()); err != nil || st.slots() != "hhtfff" {
		t.Fatalf("early: %v, slots %s", err, st.slots())
	}

	settled := 0
	until(t, st.log, func(e es.Recorded) bool {
		if m, err := es.Decode(e); err == nil {
			switch m := m.(type) {
			case *pb.SlotReleased:
				settled++
			case *pb.SlotTaken:
				if m.SlotId != id("slot", 2) {
					settled++
				}
			}
		}
		return settled == 2
	}, instance(st.log, now.Add(holdFor)), instance(st.log, now.Add(holdFor)))
	if got := st.slots(); got != "fttfff" {
		t.Errorf("slots %s", got)
	}
	if a, r, k := st.count(&pb.BookingAbandoned{}), st.count(&pb.SlotReleased{}), st.count(&pb.SlotTaken{}); a != 1 || r != 1 || k != 2 {
		t.Errorf("%d abandoned, %d released, %d taken", a, r, k)
	}
	if wrong, bookings := audit(t, st.log.Events(), true); len(wrong) > 0 || bookings != 2 {
		t.Errorf("%d bookings, %v", bookings, wrong)
	}
	st.later(holdFor)
	st.book(4, 0) // the slot is free again
}

// TestHoldsForgetWhatIsOver: what was followed up is not looked at again.
func TestHoldsForgetWhatIsOver(t *testing.T) {
	t.Parallel()
	st := begin(t)
	st.book(1, 0)
	d := newDiary(st.log)
	for _, e := range st.log.Events() {
		if e.Stream == "session-"+id("session", 0) {
			if err := d.apply(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(d.held) != 0 {
		t.Errorf("%v", d.held)
	}
}

// TestDiaryRestarts: with its journal the diary goes on where it stood, the holds in it too.
func TestDiaryRestarts(t *testing.T) {
	t.Parallel()
	var stories [][]es.Recorded
	for n := range 2 {
		st := begin(t)
		record(t, st.log, n, "pathway-"+id("pathway", 1), &referralv1.PathwayStarted{FactId: "f", PersonId: id("person", n)})
		record(t, st.log, 2+n, "person-"+id("person", n), &personv1.CommunicationNeedRecorded{NeedId: "n", Need: &personv1.CommunicationNeed{Code: "c"}})
		st.book(1, 2*n)
		hold := &pb.HoldSlotRequest{Command: st.header(), SessionId: id("session", 0), SlotId: id("slot", 2*n+1), PathwayId: id("pathway", 1)}
		_, err := st.s.clinics().HoldSlot(t.Context(), hold)
		st.ok(err)
		stories = append(stories, st.log.Events())
	}
	estest.Restarts(t, func(log es.Log) (*es.Follower, func() string) {
		d := newDiary(log)
		return d.Follower, func() string {
			text := fmt.Sprint(d.At(), d.person, d.pathways, d.needs, d.held)
			for _, id := range slices.Sorted(maps.Keys(d.sessions)) {
				text += fmt.Sprintf("\n%s %v", id, d.sessions[id].Message(id))
			}
			return text
		}
	}, stories...)
}
