package carelead

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

const (
	// sweepEvery is how often the board is asked what is due. All timers of this
	// room count in days.
	sweepEvery = 15 * time.Second
	// inFlight is for how long a place may wait for its offer: far longer than any
	// call takes.
	inFlight = 15 * time.Minute
	// forgotten is until when the sweep looks for such places.
	forgotten = 48 * time.Hour
)

// run keeps the board and sends the timers of this room when they are due, until
// ctx ends or the log fails.
func (s *service) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.board.Run(ctx) }()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			cancel()
			return err
		case <-tick.C:
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.slog.WarnContext(ctx, "timers were not all run; they are tried again", slog.String("event.name", "carelead.sweep_failed"))
			}
		}
	}
}

// timers keeps when something of a ledger runs out. It may name what is over
// already, never miss what is due: RunTimers does nothing when it is early.
func (b *board) timers(pathway string, event proto.Message) {
	set := func(what string, at time.Time) {
		if b.due[pathway] == nil {
			b.due[pathway] = make(map[string]time.Time)
		}
		b.due[pathway][what] = at
	}
	over := func(whats ...string) {
		for _, what := range whats {
			delete(b.due[pathway], what)
		}
		if len(b.due[pathway]) == 0 {
			delete(b.due, pathway)
		}
	}
	switch e := event.(type) {
	case *pb.HandoverOffered:
		set("seen", e.SeenDue.AsTime())
		set("answer", e.AnswerDue.AsTime())
	case *pb.HandoverOfferSeen, *pb.HandoverReminderSent:
		over("seen")
	case *pb.HandoverAccepted:
		over("seen", "answer", "contact")
		if e.FirstContactDue != nil {
			set("contact", e.FirstContactDue.AsTime())
		}
	case *pb.HandoverDeclined, *pb.HandoverExpired, *pb.HandoverWithdrawn, *pb.HandoverVoided:
		over("seen", "answer")
	case *pb.FirstContactMade, *pb.FirstContactOverdue:
		over("contact")
	case *pb.CoverArranged:
		set("start "+e.CoverId, e.Starts.AsTime())
		set("end "+e.CoverId, e.Ends.AsTime())
	case *pb.CoverChanged:
		set("end "+e.CoverId, e.Ends.AsTime())
	case *pb.CoverStarted:
		over("start " + e.CoverId)
	case *pb.CoverEnded:
		over("start "+e.CoverId, "end "+e.CoverId)
	case *pb.CoverCancelled:
		over("start "+e.CoverId, "end "+e.CoverId)
	case *pb.LedgerClosed:
		delete(b.due, pathway)
	}
}

// dueBy lists the pathways with a timer that has run out. A cover that has started
// to be due but was never accepted stays listed until it ends.
func (b *board) dueBy(now time.Time) (pathways []string) {
	b.Lock()
	defer b.Unlock()
	for id, due := range b.due {
		for _, at := range due {
			if !now.Before(at) {
				pathways = append(pathways, id)
				break
			}
		}
	}
	slices.Sort(pathways)
	return pathways
}

// sweep runs the timers of everything that has one due.
func (s *service) sweep(ctx context.Context) error {
	now := s.clock()
	var failed error
	keep := func(err error) {
		if err != nil && !fault.IsAnswer(err) {
			failed = err
		}
	}
	for _, id := range s.board.dueBy(now) {
		_, err := whole(ctx, s.ledgers, id, &pb.RunTimersRequest{Command: s.due(id, now), PathwayId: id}, RunTimers{Now: now}.Decide)
		keep(err)
	}
	leads, _ := list(s.board, s.board.leads, "", func(l Lead) bool {
		events, _ := RunLeave{Now: now}.Decide(l)
		return len(events) > 0 || slices.ContainsFunc(l.Places, func(p Place) bool { return now.Sub(p.Taken) > inFlight && now.Sub(p.Taken) < forgotten })
	})
	for _, l := range leads {
		_, err := s.leadTimers(ctx, l.id, &pb.RunLeadTimersRequest{Command: s.due(l.id, now), LeadId: l.id})
		keep(err)
	}
	lapsed, _ := list(s.board, s.board.neighbourhoods, "", func(n Neighbourhood) bool { return n.Pool != nil && !n.Pool.stands(now) })
	for _, n := range lapsed {
		_, err := whole(ctx, s.neighbourhoods, n.id, &pb.RunNeighbourhoodTimersRequest{Command: s.due(n.id, now), NeighbourhoodId: n.id}, RunFallback{Now: now}.Decide)
		keep(err)
	}
	return failed
}

// due is the header of a command that only the clock asks for.
func (s *service) due(id string, now time.Time) *metav1.Command {
	return &metav1.Command{
		CommandId: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, "timers of ", id, now.UnixNano())).String(),
		Actor:     &metav1.Actor{User: "waymark/carelead", Organisation: system},
	}
}

// system is the organisation of commands that nobody outside asked for: NHS
// England, who hold no record of a patient here; the tenant is the stream's.
const system = "X26"

// leadTimers starts and ends leave, and gives back places whose offer was never
// made because the call ended in between.
func (s *service) leadTimers(ctx context.Context, id string, req es.Request) (es.State[Lead], error) {
	now := s.clock()
	state, err := whole(ctx, s.leads, id, req, RunLeave{Now: now}.Decide)
	for _, p := range state.Value.Places {
		if err != nil {
			break
		}
		if p.Handover == "" || now.Sub(p.Taken) <= inFlight {
			continue
		}
		var ledger es.State[Ledger]
		if ledger, err = s.ledgers.Load(ctx, p.Pathway); err == nil && !ledger.Value.offeredBefore(p.Handover) {
			free := &pb.RunLeadTimersRequest{Command: proto.CloneOf(req.GetCommand()), LeadId: id}
			free.Command.CommandId = idFrom(req, "free "+p.Pathway+p.Handover)
			state, err = s.leads.Do(ctx, id, free, FreePlace{PathwayID: p.Pathway, HandoverID: p.Handover}.Decide)
		}
	}
	return state, err
}
