package carelead

import (
	"cmp"
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
		b.closed[pathway] = true
	case *pb.LedgerReopened: // with what had not run out before
		delete(b.closed, pathway)
	}
}

// dueBy lists the pathways with a timer that has run out. A cover that has started
// to be due but was never accepted stays listed until it ends.
func (b *board) dueBy(now time.Time) (pathways []string) {
	b.Lock()
	defer b.Unlock()
	for id, due := range b.due {
		if b.closed[id] {
			continue
		}
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

// orphans lists the places, by the ids of their leads, that waited for an offer
// longer than any call takes and of whose offer nothing was heard.
func (b *board) orphans(now time.Time) (places []named[Place]) {
	b.Lock()
	defer b.Unlock()
	for id, of := range b.unoffered {
		for _, p := range of {
			if now.Sub(p.Taken) > inFlight {
				places = append(places, named[Place]{id, p})
			}
		}
	}
	slices.SortFunc(places, func(x, y named[Place]) int {
		return cmp.Or(cmp.Compare(x.id, y.id), cmp.Compare(x.value.Pathway, y.value.Pathway))
	})
	return places
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
		return len(events) > 0
	})
	for _, l := range leads {
		_, err := whole(ctx, s.leads, l.id, &pb.RunLeadTimersRequest{Command: s.due(l.id, now), LeadId: l.id}, RunLeave{Now: now}.Decide)
		keep(err)
	}
	for _, p := range s.board.orphans(now) {
		_, err := s.giveBack(ctx, p.id, p.value, &pb.RunLeadTimersRequest{Command: s.due(p.id, now), LeadId: p.id})
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
func (s *service) leadTimers(ctx context.Context, id string, req *pb.RunLeadTimersRequest) (es.State[Lead], error) {
	now := s.clock()
	state, err := whole(ctx, s.leads, id, req, RunLeave{Now: now}.Decide)
	for _, p := range state.Value.Places {
		if err == nil && p.Handover != "" && now.Sub(p.Taken) > inFlight {
			var freed es.State[Lead]
			if freed, err = s.giveBack(ctx, id, p, req); freed.Revision > state.Revision {
				state = freed
			}
		}
	}
	return state, err
}

// giveBack frees a place whose offer the ledger does not know. The state is the zero
// one where it does.
func (s *service) giveBack(ctx context.Context, id string, p Place, req *pb.RunLeadTimersRequest) (state es.State[Lead], err error) {
	ledger, err := s.ledgers.Load(ctx, p.Pathway)
	if err != nil || ledger.Value.offeredBefore(p.Handover) {
		return state, err
	}
	free := proto.CloneOf(req)
	free.Command.CommandId = idFrom(req, "free "+p.Pathway+p.Handover)
	return s.leads.Do(ctx, id, free, FreePlace{PathwayID: p.Pathway, HandoverID: p.Handover}.Decide)
}
