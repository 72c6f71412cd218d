package carelead

import (
	"context"
	"slices"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
)

// leadServer is the gRPC face of leads.
type leadServer struct {
	pb.UnimplementedLeadServiceServer
	*service
}

// onLead is a request about one lead.
type onLead interface {
	es.Request
	GetLeadId() string
}

func (s *leadServer) do(ctx context.Context, req onLead, c decision[Lead]) (*pb.LeadReply, error) {
	id := streamID(req.GetLeadId())
	state, err := s.leads.Do(ctx, id, req, c.Decide)
	return leadReply(id, state, err)
}

func leadReply(id string, state es.State[Lead], err error) (*pb.LeadReply, error) {
	if err != nil {
		return nil, err
	}
	return &pb.LeadReply{Lead: state.Value.message(id), Receipt: state.Receipt()}, nil
}

// RegisterLead gives the lead's party the id of the lead, so that a ledger's
// holder leads back to the lead's stream.
func (s *leadServer) RegisterLead(ctx context.Context, req *pb.RegisterLeadRequest) (*pb.LeadReply, error) {
	id := streamID(req.LeadId)
	if id == "" {
		id = idFrom(req, "lead")
	}
	p, err := party("party", req.Party)
	if err != nil {
		return nil, err
	}
	p.Id = id
	neighbourhoods := make([]string, len(req.NeighbourhoodIds))
	for i, n := range req.NeighbourhoodIds {
		neighbourhoods[i] = streamID(n)
	}
	c := RegisterLead{Party: p, Neighbourhoods: neighbourhoods, Languages: req.Languages, Skills: req.Skills, Capacity: req.Capacity, On: nhs.DateOf(s.clock())}
	state, err := s.leads.Do(ctx, id, req, c.Decide)
	return leadReply(id, state, err)
}

func (s *leadServer) ActivateLead(ctx context.Context, req *pb.ActivateLeadRequest) (*pb.LeadReply, error) {
	return s.do(ctx, req, ActivateLead{On: day(s.clock())})
}

func (s *leadServer) ChangeCapacity(ctx context.Context, req *pb.ChangeCapacityRequest) (*pb.LeadReply, error) {
	return s.do(ctx, req, ChangeCapacity{Capacity: req.Capacity})
}

func (s *leadServer) BookLeave(ctx context.Context, req *pb.BookLeaveRequest) (*pb.LeadReply, error) {
	return s.do(ctx, req, BookLeave{LeaveID: idFrom(req, "leave"), Starts: req.Starts.AsTime(), Ends: req.Ends.AsTime(), Now: s.clock()})
}

func (s *leadServer) CancelLeave(ctx context.Context, req *pb.CancelLeaveRequest) (*pb.LeadReply, error) {
	return s.do(ctx, req, CancelLeave{LeaveID: streamID(req.LeaveId)})
}

func (s *leadServer) ReportSickness(ctx context.Context, req *pb.ReportSicknessRequest) (*pb.LeadReply, error) {
	now := s.clock()
	return s.do(ctx, req, BookLeave{LeaveID: idFrom(req, "leave"), Starts: now, Ends: req.ExpectedBack.AsTime(), Now: now, Sickness: true})
}

func (s *leadServer) ReturnFromLeave(ctx context.Context, req *pb.ReturnFromLeaveRequest) (*pb.LeadReply, error) {
	return s.do(ctx, req, ReturnFromLeave{})
}

func (s *leadServer) DeactivateLead(ctx context.Context, req *pb.DeactivateLeadRequest) (*pb.LeadReply, error) {
	return s.do(ctx, req, DeactivateLead{Cause: req.Cause})
}

// RunLeadTimers starts and ends leave, and gives back places that no offer followed.
func (s *leadServer) RunLeadTimers(ctx context.Context, req *pb.RunLeadTimersRequest) (*pb.LeadReply, error) {
	id := streamID(req.LeadId)
	state, err := s.leadTimers(ctx, id, req)
	return leadReply(id, state, err)
}

// GetLead reads the stream, so its answer is never behind min_position.
func (s *leadServer) GetLead(ctx context.Context, req *pb.GetLeadRequest) (*pb.LeadReply, error) {
	id := streamID(req.LeadId)
	state, err := s.leads.Load(ctx, id)
	if err == nil && state.Revision == es.NoStream {
		err = state.Value.known()
	}
	return leadReply(id, state, err)
}

// ListLeads answers from the board, which it waits for to reach min_position.
func (s *leadServer) ListLeads(ctx context.Context, req *pb.ListLeadsRequest) (*pb.ListLeadsReply, error) {
	if err := s.board.Wait(ctx, es.Position(req.MinPosition)); err != nil {
		return nil, err
	}
	want := streamID(req.NeighbourhoodId)
	found, position := list(s.board, s.board.leads, req.PageToken, func(l Lead) bool {
		free := l.State == pb.LeadState_LEAD_STATE_ACTIVE && len(l.Places) < int(l.Capacity)
		return (want == "" || slices.Contains(l.Neighbourhoods, want)) && (!req.WithPlace || free) &&
			(req.Language == "" || slices.Contains(l.Languages, req.Language))
	})
	found, next := page(found, req.PageSize)
	reply := &pb.ListLeadsReply{NextPageToken: next, Position: uint64(position)}
	for _, l := range found {
		reply.Leads = append(reply.Leads, l.value.message(l.id))
	}
	return reply, nil
}

const defaultPage, largestPage = 50, 500

// page cuts a list and returns the token of the next one: the last id on it.
func page[T any](all []named[T], size int32) ([]named[T], string) {
	n := min(int(size), largestPage)
	if n == 0 {
		n = defaultPage
	}
	if len(all) <= n {
		return all, ""
	}
	return all[:n], all[n-1].id
}
