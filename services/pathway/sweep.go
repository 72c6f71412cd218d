package pathway

import (
	"context"
	"errors"
	"log/slog"
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
	for m := s.models.serving(); ; {
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

// sweep goes once through what is overdue.
func (s *server) sweep(ctx context.Context) error {
	at := s.models.serving().snapshot()
	defer at.Close()
	now := s.clock()
	var failed error
	err := at.scan([]byte{'d'}, nil, func(key, _ []byte) (bool, error) {
		due, id, _ := keyed(key)
		if due.After(now) || ctx.Err() != nil {
			return false, nil
		}
		v, err := at.view(id)
		if err != nil || v == nil {
			return err == nil, err
		}
		for _, r := range v.Referrals {
			if s.late != nil && r.RespondBy != nil && !r.Unacknowledged && overdue(r.RespondBy, now) {
				failed = errors.Join(failed, s.tellLate(ctx, v, r))
			}
		}
		for _, t := range v.ToBeBooked {
			if s.tasks != nil && t.State == "open" && !t.Overdue && !endOf(t.Due).After(now) {
				failed = errors.Join(failed, s.tellOverdue(ctx, v, t))
			}
		}
		return true, nil
	})
	return errors.Join(err, failed)
}

func (s *server) tellLate(ctx context.Context, v *pb.Pathway, r *pb.Referral) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := s.late.RecordNoResponse(ctx, &referralv1.RecordNoResponseRequest{PathwayId: v.PathwayId, ReferralId: r.ReferralId,
		Command: dueCommand(v, "late/"+r.ReferralId+"/"+r.RespondBy.AsTime().Format(time.RFC3339Nano))})
	if err != nil && fault.IsAnswer(err) {
		return nil // refused: the referral has moved on
	}
	return err
}

func (s *server) tellOverdue(ctx context.Context, v *pb.Pathway, t *pb.ToBeBooked) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := s.tasks.RunTimers(ctx, &appointmentv1.RunTimersRequest{PathwayId: v.PathwayId, Command: dueCommand(v, "overdue/"+t.TaskId+"/"+t.Due)})
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
