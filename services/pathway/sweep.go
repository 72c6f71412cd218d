package pathway

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	pb "waymark/proto/waymark/pathway/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/fault"
)

// sweepEvery is how often deadlines are looked at. All of them count in hours or days.
const sweepEvery = 15 * time.Second

// lateReferrals is what the sweep needs of the referral service.
type lateReferrals interface {
	RecordNoResponse(context.Context, *referralv1.RecordNoResponseRequest, ...grpc.CallOption) (*referralv1.ReferralReply, error)
}

// overdueTasks is what the sweep needs of the appointment service.
type overdueTasks interface {
	RunTimers(context.Context, *appointmentv1.RunTimersRequest, ...grpc.CallOption) (*appointmentv1.ListAppointmentsResponse, error)
}

// sweeping tells the referral service of answers that are late, and the
// appointment service of what should have been booked, by the clock of the
// pathways, until ctx ends: as soon as the lists hold all of the log, and then
// from time to time. It stands here because only the read model knows
// what is due on all pathways: the plan and care lead services keep such an index
// of their own. Whoever is asked decides: the command does nothing when it is
// early, and the same deadline always gives the same command.
func (s *server) sweeping(ctx context.Context) {
	for m := s.models.following(); ; { // an older one that still answers does not follow the log
		moved := m.changed()
		if m.current() {
			break
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.slog.WarnContext(ctx, "what is overdue was not all recorded; it is tried again", slog.String("event.name", "pathway.sweep_failed"))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// untold reports whether somebody has to be told of a deadline when it is over and
// was not yet. A referral that was received is not: its desk has it, and the referral
// service records nothing more.
func untold(v *pb.Pathway, d *pb.Deadline) bool {
	switch d.Kind {
	case "referral_answer":
		return slices.ContainsFunc(v.Referrals, func(r *pb.Referral) bool {
			return r.ReferralId == d.About && r.State == "sent" && !r.Unacknowledged
		})
	case "to_be_booked":
		return slices.ContainsFunc(v.ToBeBooked, func(t *pb.ToBeBooked) bool {
			return t.TaskId == d.About && t.State == "open" && !t.Overdue
		})
	}
	return false
}

// sweep goes once through what is overdue and was not told. What was recorded of
// it is in the next view, which is no longer among them; so the work is that of what
// became due, however much is overdue for long.
func (s *server) sweep(ctx context.Context) error {
	at := s.models.following().snapshot()
	defer at.Close()
	now := s.clock()
	var failed error
	err := at.scan([]byte{'s'}, nil, func(key, _ []byte) (bool, error) {
		due, id, rest := keyed(key)
		if due.After(now) || ctx.Err() != nil {
			return false, nil
		}
		v, err := at.view(id)
		n := int(binary.BigEndian.Uint16(rest))
		if err != nil || n >= len(v.GetDeadlines()) {
			return err == nil, err
		}
		switch d := v.Deadlines[n]; {
		case !overdue(d.Due, now): // the key has it by the second
		case d.Kind == "referral_answer" && s.late != nil:
			failed = errors.Join(failed, s.tellLate(ctx, v, d))
		case d.Kind == "to_be_booked" && s.tasks != nil:
			failed = errors.Join(failed, s.tellOverdue(ctx, v, d))
		}
		return true, nil
	})
	return errors.Join(err, failed)
}

func (s *server) tellLate(ctx context.Context, v *pb.Pathway, d *pb.Deadline) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := s.late.RecordNoResponse(ctx, &referralv1.RecordNoResponseRequest{PathwayId: v.PathwayId, ReferralId: d.About,
		Command: dueCommand(v, "late/"+d.About+"/"+d.Due.AsTime().Format(time.RFC3339Nano))})
	if err != nil && fault.IsAnswer(err) {
		return nil // refused: the referral has moved on
	}
	return err
}

func (s *server) tellOverdue(ctx context.Context, v *pb.Pathway, d *pb.Deadline) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := s.tasks.RunTimers(ctx, &appointmentv1.RunTimersRequest{PathwayId: v.PathwayId, Command: dueCommand(v, "overdue/"+d.About+"/"+d.On)})
	if err != nil && fault.IsAnswer(err) {
		return nil // refused: the task has ended
	}
	return err
}

// dueCommand is the header of the command for one deadline, the same each time.
func dueCommand(v *pb.Pathway, deadline string) *metav1.Command {
	organisation := v.Holder.GetOrganisation()
	if organisation == "" {
		organisation = v.Start.GetResponsibleTeam().GetOrganisation()
	}
	return &metav1.Command{CommandId: uuid.NewSHA1(uuid.NameSpaceOID, []byte(deadline)).String(),
		Actor: &metav1.Actor{User: "waymark-pathway", Organisation: organisation}}
}
