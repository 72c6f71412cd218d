package pathway

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	pb "waymark/proto/waymark/pathway/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

// server answers queries.
type server struct {
	pb.UnimplementedPathwayQueryServiceServer
	log    es.Log
	clock  func() time.Time // of the pathways
	wall   func() time.Time // of the machine: how far behind a list is
	slog   *slog.Logger
	models *models
	late   lateReferrals // nil where no referral service is known
	tasks  overdueTasks  // nil where no appointment service is known
}

// New makes the pathway service: the read side of pathways.
func New(deps run.Deps) (run.Part, error) {
	if deps.Log == nil || deps.Clock == nil {
		return run.Part{}, errors.New("pathway: needs a log and a clock")
	}
	s := &server{log: deps.Log, clock: deps.Clock, wall: run.Clock, slog: deps.Slog}
	if s.slog == nil {
		s.slog = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.models, err = openModels(deps.Log, s.slog, deps.Dir, vfs.Default, modelVersion); err != nil {
		return run.Part{}, err
	}
	exported, err := openExports(deps.Dir, vfs.Default, s.slog)
	if err != nil {
		return run.Part{}, errors.Join(err, s.models.close())
	}
	if deps.Dial != nil {
		if conn := deps.Dial("referral"); conn != nil {
			s.late = referralv1.NewReferralServiceClient(conn)
		}
		if conn := deps.Dial("appointment"); conn != nil {
			s.tasks = appointmentv1.NewAppointmentServiceClient(conn)
		}
	}
	return run.Part{
		Name: "pathway",
		Register: func(r grpc.ServiceRegistrar) {
			pb.RegisterPathwayQueryServiceServer(r, s)
			pb.RegisterIndicatorServiceServer(r, &indicatorServer{clock: s.clock, exports: exported, each: s.each})
		},
		Run:   s.run,
		Fault: func() error { return s.models.following().fault() },
		Close: func() error { return errors.Join(s.models.close(), exported.close()) },
	}, nil
}

// run follows the log until ctx ends. An event that cannot be taken in ends it.
func (s *server) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var sweeps sync.WaitGroup
	sweeps.Go(func() { s.sweeping(ctx) })
	defer sweeps.Wait()
	defer cancel()
	return s.models.follow(ctx, s.log, s.wall)
}

// load reads one pathway from the log.
func (s *server) load(ctx context.Context, pathwayID string) (*history, error) {
	return load(ctx, s.log, pathwayID, s.models.serving().person(strings.ToLower(pathwayID)))
}

// GetPathway implements the service.
func (s *server) GetPathway(ctx context.Context, req *pb.GetPathwayRequest) (*pb.GetPathwayResponse, error) {
	m, err := momentOf(req.AsOf)
	if err != nil {
		return nil, err
	}
	h, err := s.load(ctx, req.PathwayId)
	if err != nil {
		return nil, err
	}
	out := &pb.GetPathwayResponse{Position: uint64(h.position)}
	if out.Pathway, err = h.view(m); err != nil {
		return nil, err
	}
	if out.Pathway == nil && !req.WithOccurred {
		return nil, errNotFound
	}
	if req.WithOccurred {
		if out.Occurred, out.LateEvidence, err = h.occurred(m, out.Pathway); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// LookUpPathway implements the service.
func (s *server) LookUpPathway(ctx context.Context, req *pb.LookUpPathwayRequest) (*pb.LookUpPathwayResponse, error) {
	id, m := strings.ToLower(req.PathwayId), s.models.serving()
	if err := m.wait(ctx, es.Position(req.MinPosition)); err != nil {
		return nil, err
	}
	at := m.snapshot()
	defer at.Close()
	answer, err := at.answered(pathwayField, id)
	if err != nil {
		return nil, legible(err)
	}
	if answer == nil {
		if _, err := s.load(ctx, id); err != nil {
			return nil, err
		}
		return nil, errBehind
	}
	out := &pb.LookUpPathwayResponse{Freshness: m.freshness(at.position, s.wall())}
	out.ProtoReflect().SetUnknown(answer)
	return out, nil
}

var pathwayField = (&pb.LookUpPathwayResponse{}).ProtoReflect().Descriptor().Fields().ByName("pathway").Number()

// WhoWasAccountable implements the service.
func (s *server) WhoWasAccountable(ctx context.Context, req *pb.WhoWasAccountableRequest) (*pb.WhoWasAccountableResponse, error) {
	m, err := momentOf(req.At)
	if err != nil {
		return nil, err
	}
	h, err := s.load(ctx, req.PathwayId)
	if err != nil {
		return nil, err
	}
	then, err := h.view(m)
	if err != nil {
		return nil, err
	}
	out := &pb.WhoWasAccountableResponse{Position: uint64(h.position), Custody: holderAt(then)}
	switch {
	case out.Custody != nil:
		// Say until when, as it is known today.
		now, err := h.view(moment{})
		if err != nil {
			return nil, err
		}
		for _, c := range now.Custody {
			if c.Position == out.Custody.Position {
				out.Custody.Until, out.Custody.UntilPosition = c.Until, c.UntilPosition
			}
		}
	case len(then.GetCustody()) == 0:
		out.None = "not_started"
	default:
		out.None = "closed"
	}
	return out, nil
}
