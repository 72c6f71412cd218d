package plan

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
)

// server is the gRPC face: it looks up what a decision needs, runs the command
// and replies. Requests reach it validated by the rules of the contract.
type server struct {
	pb.UnimplementedPlanServiceServer
	plans    *es.Streams[State]
	rounds   *rounds
	kin      *kin
	clock    func() time.Time
	slog     *slog.Logger
	pathways referralv1.PathwayServiceClient // nil where no referral service is known
	leads    careleadv1.LeadServiceClient    // nil where no care-lead service is known
}

// New makes the plan service.
func New(deps run.Deps) (run.Part, error) {
	if deps.Log == nil || deps.Clock == nil {
		return run.Part{}, errors.New("plan: needs a log and a clock")
	}
	s := &server{plans: es.NewStreams(deps.Log, decider(), es.Options{Key: deps.Key, Jitter: deps.Jitter, Cache: deps.Folds}),
		rounds: newRounds(deps.Log), kin: newKin(deps.Log), clock: deps.Clock, slog: deps.Slog}
	s.kin.Keep(deps.Dir)
	s.rounds.Keep(deps.Dir)
	if s.slog == nil {
		s.slog = slog.New(slog.DiscardHandler)
	}
	if deps.Dial != nil {
		if conn := deps.Dial("referral"); conn != nil {
			s.pathways = referralv1.NewPathwayServiceClient(conn)
		}
		if conn := deps.Dial("carelead"); conn != nil {
			s.leads = careleadv1.NewLeadServiceClient(conn)
		}
	}
	return run.Part{
		Name:       "plan",
		Register:   func(r grpc.ServiceRegistrar) { pb.RegisterPlanServiceServer(r, s) },
		React:      s.react,
		Categories: []string{"pathway", "person"},
		Run:        s.keep,
	}, nil
}

// onPathway is a command request about one pathway.
type onPathway interface {
	es.Request
	GetPathwayId() string
}

// decision is a command as decider.
type decision interface {
	Decide(State) ([]proto.Message, error)
}

// lower is a UUID as ids are kept.
func lower(id string) string { return strings.ToLower(id) }

// env is what the request and the clock say.
func (s *server) env(req es.Request) Env {
	cmd := req.GetCommand()
	id, _ := uuid.Parse(cmd.GetCommandId()) // a malformed one is es.Streams' to refuse
	return Env{Command: id, User: cmd.GetActor().GetUser(), Role: cmd.GetActor().GetRoleCode(), Now: s.clock()}
}

// do runs a command and answers with the record after it.
func (s *server) do(ctx context.Context, req onPathway, subject string, c decision) (*pb.PlanReply, error) {
	id := lower(req.GetPathwayId())
	state, err := s.plans.Do(ctx, id, req, c.Decide)
	if err != nil {
		return nil, err
	}
	return &pb.PlanReply{Record: state.Value.Record(id), SubjectId: subject, Receipt: state.Receipt()}, nil
}

// AssignAction asks the care-lead service about a named lead. Its refusal is an
// answer: who is not known there holds no live role.
func (s *server) AssignAction(ctx context.Context, req *pb.AssignActionRequest) (*pb.PlanReply, error) {
	c := AssignAction{Env: s.env(req), AssignActionRequest: req}
	if req.LeadId != "" && s.leads != nil {
		reply, err := s.leads.GetLead(ctx, &careleadv1.GetLeadRequest{LeadId: req.LeadId})
		if err != nil && !fault.IsAnswer(err) {
			return nil, err
		}
		c.LeadInactive = err != nil || reply.Lead.GetState() != careleadv1.LeadState_LEAD_STATE_ACTIVE
	}
	return s.do(ctx, req, req.ActionId, c)
}

// read loads a record that exists. It reads the stream, so its answer is never
// behind min_position.
func (s *server) read(ctx context.Context, pathwayID string) (es.State[State], error) {
	state, err := s.plans.Load(ctx, lower(pathwayID))
	if err == nil && state.Revision == es.NoStream {
		err = fault.NotFound("plan.not_found", "nothing was recorded on this pathway")
	}
	return state, err
}

func (s *server) GetPlan(ctx context.Context, req *pb.GetPlanRequest) (*pb.PlanReply, error) {
	state, err := s.read(ctx, req.PathwayId)
	if err != nil {
		return nil, err
	}
	r := state.Value.Record(lower(req.PathwayId))
	if req.AsOfPosition > 0 {
		then, err := s.plans.LoadAt(ctx, lower(req.PathwayId), es.Position(req.AsOfPosition))
		if err != nil {
			return nil, err
		}
		r = withheldSince(then.Value.Record(lower(req.PathwayId)), r)
		state.Revision, state.Position = then.Revision, then.Position
	}
	if req.Version > 0 {
		p, ok := find(state.Value.published, func(p *pb.Plan) bool { return p.PlanId == r.Plan.GetPlanId() && p.Version == req.Version })
		if !ok {
			return nil, fault.NotFound("plan.version.not_found", "the plan has no such version")
		}
		r.Plan = p
	}
	if req.AsSharedWithPatient {
		// Sections as they are shared now, also of an earlier version: what was withheld since stays hidden.
		p := shown(r.Plan)
		now := shown(last(state.Value.plans))
		if p != nil {
			p.Sections = slices.DeleteFunc(p.Sections, func(x *pb.SectionView) bool {
				return !slices.ContainsFunc(now.GetSections(), func(y *pb.SectionView) bool { return y.Code == x.Code })
			})
		}
		told := slices.DeleteFunc(slices.Clone(r.Results), func(x *pb.Result) bool { return x.State != resultTold })
		r = &pb.Record{PathwayId: r.PathwayId, Plan: p, Assessments: r.Assessments, Surveillance: r.Surveillance, Results: told,
			Responses: r.Responses, Revision: r.Revision}
	}
	return &pb.PlanReply{Record: r, SubjectId: r.Plan.GetPlanId(), Receipt: state.Receipt()}, nil
}

func (s *server) GetAssessment(ctx context.Context, req *pb.GetAssessmentRequest) (*pb.AssessmentReply, error) {
	state, err := s.read(ctx, req.PathwayId)
	if err != nil {
		return nil, err
	}
	a, ok := find(state.Value.assessments, func(a *pb.Assessment) bool { return a.AssessmentId == lower(req.AssessmentId) })
	if !ok {
		return nil, unknown("assessment")
	}
	return &pb.AssessmentReply{Assessment: a, ReadAt: state.Receipt()}, nil
}

func (s *server) GetSummary(ctx context.Context, req *pb.GetSummaryRequest) (*pb.SummaryReply, error) {
	state, err := s.read(ctx, req.PathwayId)
	if err != nil {
		return nil, err
	}
	x, ok := find(state.Value.summaries, func(x *pb.Summary) bool { return x.SummaryId == lower(req.SummaryId) })
	if !ok {
		return nil, unknown("summary")
	}
	return &pb.SummaryReply{Summary: x, ReadAt: state.Receipt()}, nil
}

func (s *server) GetSurveillance(ctx context.Context, req *pb.GetSurveillanceRequest) (*pb.SurveillanceReply, error) {
	state, err := s.read(ctx, req.PathwayId)
	if err != nil {
		return nil, err
	}
	r := state.Value.Record(lower(req.PathwayId))
	return &pb.SurveillanceReply{Surveillance: r.Surveillance, Earlier: r.EarlierSurveillance, Results: r.Results, ReadAt: state.Receipt()}, nil
}

func (s *server) ListConcernCodes(_ context.Context, req *pb.ListConcernCodesRequest) (*pb.ListConcernCodesReply, error) {
	reply := &pb.ListConcernCodesReply{}
	for _, e := range entries() {
		if req.Domain == "" || req.Domain == e.Domain {
			reply.Codes = append(reply.Codes, &pb.ConcernCode{Code: e.Code, Domain: e.Domain, Label: e.Label})
		}
	}
	return reply, nil
}

func (s *server) ListProtocols(_ context.Context, req *pb.ListProtocolsRequest) (*pb.ListProtocolsReply, error) {
	reply := &pb.ListProtocolsReply{}
	for _, p := range Protocols() {
		m := &pb.Protocol{Protocol: p.Protocol, Version: p.Version, TumourGroups: p.TumourGroups, EffectiveFrom: p.EffectiveFrom, Source: p.Source}
		for _, a := range p.ApprovedBy {
			m.ApprovedBy = append(m.ApprovedBy, a.Organisation)
		}
		for _, r := range p.Rows {
			m.Rows = append(m.Rows, &pb.ProtocolRow{Test: r.Test, Kind: r.Kind, GraceDays: r.GraceDays, AfterDays: r.AfterDays, AfterMonths: r.AfterMonths})
		}
		if req.Organisation == "" || slices.Contains(m.ApprovedBy, req.Organisation) {
			reply.Protocols = append(reply.Protocols, m)
		}
	}
	return reply, nil
}
