package referral

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	personv1 "waymark/proto/waymark/person/v1"
	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
)

// service is what the three gRPC services and the reactions share.
type service struct {
	clock     func() time.Time
	pathways  *es.Streams[Pathway]
	referrals *es.Streams[Referrals]
	entries   *es.Streams[Entry]
	directory *directory
	person    personv1.PersonServiceClient // nil where no person service is known
	key       []byte                       // of page tokens
}

// New makes the referral service.
func New(deps run.Deps) (run.Part, error) {
	if deps.Log == nil || deps.Clock == nil {
		return run.Part{}, errors.New("referral: needs a log and a clock")
	}
	s := newService(deps)
	return run.Part{
		Name: "referral",
		Register: func(r grpc.ServiceRegistrar) {
			pb.RegisterPathwayServiceServer(r, &pathwayServer{service: s})
			pb.RegisterReferralServiceServer(r, &referralServer{service: s})
			pb.RegisterDirectoryServiceServer(r, &directoryServer{service: s})
		},
		React:      s.react,
		Categories: []string{"pathway"},
		Run:        s.directory.Run,
	}, nil
}

func newService(deps run.Deps) *service {
	opts := es.Options{Key: deps.Key, Jitter: deps.Jitter, Cache: deps.Folds}
	s := &service{
		clock:     deps.Clock,
		pathways:  es.NewStreams(deps.Log, pathwayDecider(), opts),
		referrals: es.NewStreams(deps.Log, referralDecider(), opts),
		entries:   es.NewStreams(deps.Log, directoryDecider(), opts),
		directory: newDirectory(deps.Log),
		key:       deps.Key,
	}
	s.directory.Keep(deps.Dir)
	if deps.Dial != nil {
		if conn := deps.Dial("person"); conn != nil {
			s.person = personv1.NewPersonServiceClient(conn)
		}
	}
	return s
}

// today is the civil date in England.
func (s *service) today() nhs.Date { return nhs.DateOf(s.clock()) }

// decision is a command as decider of a kind of stream.
type decision[S any] interface {
	Decide(S) ([]proto.Message, error)
}

// commandID is the id of a request; a malformed one is es.Streams' to refuse.
func commandID(req es.Request) uuid.UUID {
	id, _ := uuid.Parse(req.GetCommand().GetCommandId())
	return id
}

// streamID is a UUID as stream names hold it: in lower case.
func streamID(id string) string { return strings.ToLower(id) }

// onPathway is a request about one pathway.
type onPathway interface {
	es.Request
	GetPathwayId() string
}

// pathwayServer is the gRPC face of pathways.
type pathwayServer struct {
	pb.UnimplementedPathwayServiceServer
	*service
}

// do runs a command on a pathway and answers with the state after it.
func (s *service) doPathway(ctx context.Context, id string, req es.Request, c decision[Pathway]) (*pb.PathwayReply, error) {
	id = streamID(id)
	state, err := s.pathways.Do(ctx, id, req, c.Decide)
	if err != nil {
		return nil, err
	}
	return &pb.PathwayReply{Pathway: state.Value.Message(id), Receipt: state.Receipt()}, nil
}

// record runs the command that adds one fact.
func (s *pathwayServer) record(ctx context.Context, req onPathway, facts proto.Message) (*pb.PathwayReply, error) {
	return s.doPathway(ctx, req.GetPathwayId(), req, Record{CommandID: commandID(req), Today: s.today(), Facts: facts})
}

func (s *pathwayServer) StartPathway(ctx context.Context, req *pb.StartPathwayRequest) (*pb.PathwayReply, error) {
	id := or(req.PathwayId, uuid.NewSHA1(commandID(req), []byte("pathway")).String())
	return s.doPathway(ctx, id, req, StartPathway{CommandID: commandID(req), Today: s.today(), PersonID: streamID(req.PersonId), Facts: req.Facts})
}

func (s *pathwayServer) UpgradeByConsultant(ctx context.Context, req *pb.UpgradeByConsultantRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) RecordFirstSeen(ctx context.Context, req *pb.RecordFirstSeenRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) RecordFirstAppointmentMissed(ctx context.Context, req *pb.RecordFirstAppointmentMissedRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) SetFirstSeenAdjustment(ctx context.Context, req *pb.SetFirstSeenAdjustmentRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) CommunicateDiagnosis(ctx context.Context, req *pb.CommunicateDiagnosisRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) CommunicateCancerRuledOut(ctx context.Context, req *pb.CommunicateCancerRuledOutRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) ExcludeFromFasterDiagnosis(ctx context.Context, req *pb.ExcludeFromFasterDiagnosisRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) RecordDecisionToTreat(ctx context.Context, req *pb.RecordDecisionToTreatRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) SetEcad(ctx context.Context, req *pb.SetEcadRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) OfferTreatment(ctx context.Context, req *pb.OfferTreatmentRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) DeclineReasonableOffer(ctx context.Context, req *pb.DeclineReasonableOfferRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) SetTreatmentAdjustment(ctx context.Context, req *pb.SetTreatmentAdjustmentRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) TransferToTreatingProvider(ctx context.Context, req *pb.TransferToTreatingProviderRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) StartTreatment(ctx context.Context, req *pb.StartTreatmentRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) EndTreatmentPeriod(ctx context.Context, req *pb.EndTreatmentPeriodRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) StartFollowUp(ctx context.Context, req *pb.StartFollowUpRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) ReroutePathway(ctx context.Context, req *pb.ReroutePathwayRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) ClosePathway(ctx context.Context, req *pb.ClosePathwayRequest) (*pb.PathwayReply, error) {
	return s.record(ctx, req, req.Facts)
}

func (s *pathwayServer) CorrectClock(ctx context.Context, req *pb.CorrectClockRequest) (*pb.PathwayReply, error) {
	return s.doPathway(ctx, req.PathwayId, req, CorrectClock{CommandID: commandID(req), Today: s.today(),
		WrongFactID: req.WrongFactId, Reason: req.Reason, Replacement: req.Replacement})
}

// GetPathway reads the stream, so its answer is never behind min_position.
func (s *pathwayServer) GetPathway(ctx context.Context, req *pb.GetPathwayRequest) (*pb.GetPathwayResponse, error) {
	id := streamID(req.PathwayId)
	state, err := s.pathways.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	if state.Revision == es.NoStream {
		return nil, errNoPathway
	}
	return &pb.GetPathwayResponse{Pathway: state.Value.Message(id), ReadAt: state.Receipt()}, nil
}

// exists answers pathway.not_found for a pathway that nobody started. It is a
// help against mistyped ids, not an invariant: the pathway is another stream.
func (s *service) exists(ctx context.Context, pathwayID string) (Pathway, error) {
	state, err := s.pathways.Load(ctx, streamID(pathwayID))
	if err == nil && state.Revision == es.NoStream {
		err = errNoPathway
	}
	return state.Value, err
}

// entry looks a service up in the directory, nil for none.
func (s *service) entry(ctx context.Context, serviceID string) (*pb.Service, error) {
	if serviceID == "" {
		return nil, nil
	}
	state, err := s.entries.Load(ctx, streamID(serviceID))
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return state.Value.Service, nil
}
