package carelead

import (
	"context"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/es"
)

// neighbourhoodServer is the gRPC face of neighbourhoods.
type neighbourhoodServer struct {
	pb.UnimplementedNeighbourhoodServiceServer
	*service
}

func (s *neighbourhoodServer) do(ctx context.Context, id string, req es.Request, c decision[Neighbourhood]) (*pb.NeighbourhoodReply, error) {
	id = streamID(id)
	state, err := s.neighbourhoods.Do(ctx, id, req, c.Decide)
	return neighbourhoodReply(id, state, err)
}

func neighbourhoodReply(id string, state es.State[Neighbourhood], err error) (*pb.NeighbourhoodReply, error) {
	if err != nil {
		return nil, err
	}
	return &pb.NeighbourhoodReply{Neighbourhood: state.Value.message(id), Receipt: state.Receipt()}, nil
}

func (s *neighbourhoodServer) DefineNeighbourhood(ctx context.Context, req *pb.DefineNeighbourhoodRequest) (*pb.NeighbourhoodReply, error) {
	id := req.NeighbourhoodId
	if id == "" {
		id = idFrom(req, "neighbourhood")
	}
	manager, err := party("manager", req.Manager)
	if err != nil {
		return nil, err
	}
	contact, err := party("alliance_contact", req.AllianceContact)
	if err != nil {
		return nil, err
	}
	return s.do(ctx, id, req, DefineNeighbourhood{Name: req.Name, Organisation: req.Organisation, Alliance: req.Alliance,
		Practices: req.Practices, Manager: manager, Contact: contact})
}

func (s *neighbourhoodServer) ChangePractices(ctx context.Context, req *pb.ChangePracticesRequest) (*pb.NeighbourhoodReply, error) {
	return s.do(ctx, req.NeighbourhoodId, req, ChangePractices{Practices: req.Practices})
}

func (s *neighbourhoodServer) ChangeManager(ctx context.Context, req *pb.ChangeManagerRequest) (*pb.NeighbourhoodReply, error) {
	manager, err := party("manager", req.Manager)
	if err != nil {
		return nil, err
	}
	return s.do(ctx, req.NeighbourhoodId, req, ChangeManager{Manager: manager})
}

func (s *neighbourhoodServer) AcceptFallback(ctx context.Context, req *pb.AcceptFallbackRequest) (*pb.NeighbourhoodReply, error) {
	pool, err := party("pool", req.Pool)
	if err != nil {
		return nil, err
	}
	return s.do(ctx, req.NeighbourhoodId, req, AcceptFallback{Pool: pool, Until: req.Until.AsTime(), Now: s.clock(), OutOfHours: req.OutOfHoursMessage, By: acceptor(req)})
}

// RunNeighbourhoodTimers records the lapse of the pool's acceptance.
func (s *neighbourhoodServer) RunNeighbourhoodTimers(ctx context.Context, req *pb.RunNeighbourhoodTimersRequest) (*pb.NeighbourhoodReply, error) {
	id := streamID(req.NeighbourhoodId)
	state, err := whole(ctx, s.neighbourhoods, id, req, RunFallback{Now: s.clock()}.Decide)
	return neighbourhoodReply(id, state, err)
}

// GetNeighbourhood reads the stream, so its answer is never behind min_position.
func (s *neighbourhoodServer) GetNeighbourhood(ctx context.Context, req *pb.GetNeighbourhoodRequest) (*pb.NeighbourhoodReply, error) {
	id := streamID(req.NeighbourhoodId)
	state, err := s.neighbourhoods.Load(ctx, id)
	if err == nil {
		err = state.Value.known()
	}
	return neighbourhoodReply(id, state, err)
}

// FindNeighbourhood answers from the board, which it waits for to reach
// min_position, and then reads the stream.
func (s *neighbourhoodServer) FindNeighbourhood(ctx context.Context, req *pb.FindNeighbourhoodRequest) (*pb.NeighbourhoodReply, error) {
	if err := s.board.Wait(ctx, es.Position(req.MinPosition)); err != nil {
		return nil, err
	}
	id := s.board.serving(req.Practice, "")
	if id == "" {
		return nil, errNotServing
	}
	return s.GetNeighbourhood(ctx, &pb.GetNeighbourhoodRequest{NeighbourhoodId: id})
}

// ListNeighbourhoods answers from the board, as FindNeighbourhood does.
func (s *neighbourhoodServer) ListNeighbourhoods(ctx context.Context, req *pb.ListNeighbourhoodsRequest) (*pb.ListNeighbourhoodsReply, error) {
	if err := s.board.Wait(ctx, es.Position(req.MinPosition)); err != nil {
		return nil, err
	}
	found, position := list(s.board, s.board.neighbourhoods, req.PageToken, func(Neighbourhood) bool { return true })
	found, next := page(found, req.PageSize)
	reply := &pb.ListNeighbourhoodsReply{NextPageToken: next, Position: uint64(position)}
	for _, n := range found {
		reply.Neighbourhoods = append(reply.Neighbourhoods, n.value.message(n.id))
	}
	return reply, nil
}
