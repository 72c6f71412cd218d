package e2e

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
	"waymark/services/pathway"
)

// TestOverdueTasksAreRecorded: the read side of pathways, started anew, has the
// appointment service record that a follow-up was not booked by its day: the two
// services as they are, over a connection. Nothing is recorded twice, however
// often it is started.
func TestOverdueTasksAreRecorded(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 7, 6, 9, 0, 0, 0, time.UTC)
	w := newWorld(t, start)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	n := 0
	by := func() *metav1.Command {
		n++
		return &metav1.Command{CommandId: uuid.NewSHA1(uuid.Nil, []byte{byte(n)}).String(), Actor: &metav1.Actor{User: "555", RoleCode: "R0600", Organisation: "RJ1"}}
	}
	opened, err := referralv1.NewPathwayServiceClient(w.conn).StartPathway(ctx, &referralv1.StartPathwayRequest{Command: by(), PersonId: uuid.NewString(),
		Facts: &referralv1.StartFacts{ReceivedOn: "2026-07-01", Priority: "3", ReferralType: "01", Source: "03", ResponsibleTeam: &referralv1.Team{Organisation: "RJ1", Code: "BREAST", Name: "RJ1 Breast"}}})
	if err != nil {
		t.Fatal(err)
	}
	id := opened.Pathway.PathwayId
	raised, err := appointmentv1.NewAppointmentServiceClient(w.conn).RaiseTask(ctx, &appointmentv1.RaiseTaskRequest{Command: by(), PathwayId: id, Cause: "surveillance_due", CauseId: "item-1"})
	if err != nil {
		t.Fatal(err)
	}
	due, err := time.ParseInLocation(time.DateOnly, raised.Task.Due, time.UTC)
	if err != nil {
		t.Fatal(err)
	}

	overdue := func() (found []*appointmentv1.ToBeBookedTaskOverdue, actor string) {
		for _, e := range w.log.Events() {
			if m, err := es.Decode(e); err == nil {
				if o, is := m.(*appointmentv1.ToBeBookedTaskOverdue); is {
					meta, err := es.ParseMetadata(e)
					if err != nil {
						t.Fatal(err)
					}
					found, actor = append(found, o), meta.Actor.User+" of "+meta.Actor.Organisation
				}
			}
		}
		return found, actor
	}
	// swept runs the read side at a time until it is done.
	swept := func(now time.Time, done func() bool) {
		t.Helper()
		w.set(now)
		life, end := context.WithCancel(ctx)
		defer end()
		part, err := pathway.New(run.Deps{Log: w.log, Clock: w.clock, Slog: slog.New(slog.NewTextHandler(io.Discard, nil)), Dial: func(string) grpc.ClientConnInterface { return w.conn }})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- part.Run(life) }()
		seen := errors.New("seen")
		err = w.log.Subscribe(life, 0, es.Filter{}, func(es.Message) error {
			if done() {
				return seen
			}
			return nil
		})
		if !errors.Is(err, seen) {
			t.Errorf("nothing was recorded: %v", err)
		}
		end()
		<-ended
		if err := part.Close(); err != nil {
			t.Error(err)
		}
	}
	recorded := func() bool { found, _ := overdue(); return len(found) > 0 }
	if recorded() {
		t.Fatal("it is overdue already")
	}
	swept(due.AddDate(0, 0, 2), recorded)
	found, actor := overdue()
	if len(found) != 1 || found[0].TaskId != raised.Task.TaskId || found[0].Due != raised.Task.Due || actor != "waymark-pathway of RJ1" {
		t.Errorf("%v by %s", found, actor)
	}
	// Another task, so that a second start has something to do; the first is not told again.
	if _, err := appointmentv1.NewAppointmentServiceClient(w.conn).RaiseTask(ctx, &appointmentv1.RaiseTaskRequest{Command: by(), PathwayId: id, Cause: "surveillance_due", CauseId: "item-2"}); err != nil {
		t.Fatal(err)
	}
	swept(due.AddDate(0, 0, 40), func() bool { found, _ := overdue(); return len(found) == 2 })
	if found, _ := overdue(); len(found) != 2 || found[0].TaskId == found[1].TaskId {
		t.Errorf("%v", found)
	}
	if err := w.verify(); err != nil {
		t.Error(err)
	}
}
