package pathway

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/pathway/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// indicatorServer answers IndicatorService.
type indicatorServer struct {
	pb.UnimplementedIndicatorServiceServer
	clock   func() time.Time
	exports *exports
	// each hands every pathway and lead on, once, as of one position that is at least the
	// one named, and returns that position.
	each func(ctx context.Context, atLeast es.Position, yield func(counts) error) (es.Position, error)
}

// ListIndicators implements the service.
func (s *indicatorServer) ListIndicators(context.Context, *pb.ListIndicatorsRequest) (*pb.ListIndicatorsResponse, error) {
	out := &pb.ListIndicatorsResponse{}
	for _, d := range catalogue {
		out.Indicators = append(out.Indicators, d.IndicatorDefinition)
	}
	return out, nil
}

// GetIndicators implements the service. It counts anew over the whole read model:
// tens of microseconds for each pathway, and nothing to keep right between calls.
func (s *indicatorServer) GetIndicators(ctx context.Context, req *pb.GetIndicatorsRequest) (*pb.GetIndicatorsResponse, error) {
	for _, id := range req.Ids {
		if err := served(id); err != nil {
			return nil, err
		}
	}
	if req.FromMonth != "" && req.ToMonth != "" && req.FromMonth > req.ToMonth {
		return nil, fault.Invalid("indicator.months", "to_month", "the last month comes before the first")
	}
	now := s.clock()
	t := newTally(req, now)
	at, err := s.each(ctx, es.Position(req.AtLeastPosition), func(c counts) error {
		t.add(c)
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	asOf := timestamppb.New(now)
	out := &pb.GetIndicatorsResponse{Rows: t.rows(), Position: uint64(at), DataAsOf: asOf, Exported: req.Export}
	if !req.Export { // the number of all pathways may itself be small
		out.Pathways = t.pathways
	} else if err := s.exports.release(req, out.Rows); err != nil {
		return nil, err
	}
	for _, row := range out.Rows {
		row.Position, row.DataAsOf = uint64(at), asOf
	}
	return out, nil
}

func served(id string) error {
	for _, d := range catalogue {
		switch {
		case d.Id != id:
		case d.count == nil:
			return fault.Refused("indicator.not_served", id+" is not served: "+d.NotServed)
		default:
			return nil
		}
	}
	return fault.NotFound("indicator.unknown", "there is no such indicator: ListIndicators names them")
}
