package carelead

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
)

// service is what the three gRPC services and the reactions share.
type service struct {
	log            es.Log
	clock          func() time.Time
	slog           *slog.Logger
	ledgers        *es.Streams[Ledger]
	leads          *es.Streams[Lead]
	neighbourhoods *es.Streams[Neighbourhood]
	board          *board
	person         personv1.PersonServiceClient    // nil where no person service is known
	pathway        referralv1.PathwayServiceClient // likewise
	plan           planv1.PlanServiceClient        // likewise
	heard          atomic.Uint64                   // position of the newest event of this room that react was given
}

// New makes the care lead service.
func New(deps run.Deps) (run.Part, error) {
	if deps.Log == nil || deps.Clock == nil {
		return run.Part{}, errors.New("carelead: needs a log and a clock")
	}
	s := newService(deps)
	return run.Part{
		Name: "carelead",
		Register: func(r grpc.ServiceRegistrar) {
			pb.RegisterHandoverServiceServer(r, &handoverServer{service: s})
			pb.RegisterLeadServiceServer(r, &leadServer{service: s})
			pb.RegisterNeighbourhoodServiceServer(r, &neighbourhoodServer{service: s})
		},
		React:      s.react,
		Categories: append([]string{"pathway", "person"}, categories...),
		Run:        s.run,
	}, nil
}

func newService(deps run.Deps) *service {
	opts := es.Options{Key: deps.Key, Jitter: deps.Jitter, Cache: deps.Folds}
	s := &service{
		log:            deps.Log,
		clock:          deps.Clock,
		slog:           deps.Slog,
		ledgers:        es.NewStreams(deps.Log, LedgerDecider, opts),
		leads:          es.NewStreams(deps.Log, LeadDecider, opts),
		neighbourhoods: es.NewStreams(deps.Log, NeighbourhoodDecider, opts),
		board:          newBoard(deps.Log),
	}
	s.board.Keep(deps.Dir)
	if s.slog == nil {
		s.slog = slog.New(slog.DiscardHandler)
	}
	if deps.Dial != nil {
		if conn := deps.Dial("person"); conn != nil {
			s.person = personv1.NewPersonServiceClient(conn)
		}
		if conn := deps.Dial("referral"); conn != nil {
			s.pathway = referralv1.NewPathwayServiceClient(conn)
		}
		if conn := deps.Dial("plan"); conn != nil {
			s.plan = planv1.NewPlanServiceClient(conn)
		}
	}
	return s
}

// decision is a command as decider of a kind of stream.
type decision[S any] interface {
	Decide(S) ([]proto.Message, error)
}

// idFrom is the id of what a command makes.
func idFrom(req es.Request, what string) string {
	id, _ := uuid.Parse(req.GetCommand().GetCommandId()) // a malformed one is es.Streams' to refuse
	return uuid.NewSHA1(id, []byte(what)).String()
}

// streamID is an id as stream names hold it: in lower case.
func streamID(id string) string { return strings.ToLower(id) }

// acceptor is who sends a command.
func acceptor(req es.Request) Acceptor {
	a := req.GetCommand().GetActor()
	return Acceptor{User: a.GetUser(), OnBehalfOf: a.GetOnBehalfOf(), Organisation: a.GetOrganisation()}
}

// whole runs a command of timers until it does nothing. Each step has an id that
// derives from the request's, so that the request may be repeated.
func whole[S any](ctx context.Context, streams *es.Streams[S], id string, req es.Request, decide func(S) ([]proto.Message, error)) (es.State[S], error) {
	const most = 100 // more steps than any stream can have due at once
	for n := 0; ; n++ {
		done := false
		state, err := streams.Do(ctx, id, step(req, n), func(s S) ([]proto.Message, error) {
			events, err := decide(s)
			done = err == nil && len(events) == 0
			return events, err
		})
		if err != nil || done {
			return state, err
		}
		if n == most {
			return state, fmt.Errorf("carelead: timers of one stream took %d steps and are not done", n)
		}
	}
}

// step is the request of the nth step of a request; the first is itself.
func step(req es.Request, n int) es.Request {
	if n == 0 {
		return req
	}
	next := proto.CloneOf(req)
	next.GetCommand().CommandId = idFrom(req, fmt.Sprint("step ", n))
	return next
}

// patient is what this room asks of a person. Where the person service cannot
// tell, known is false.
type patient struct {
	known      bool
	id         string // of the record that stands: a merged person's survivor
	mergeID    string // of the merge by which it does, where it is one step away
	practice   string // "" where not known, or withheld for a restricted person
	restricted bool
	stop       bool // a death was reported: nothing goes to the patient
	died       bool // a formal notice stands
	languages  []string
}

// lookUp asks the person service. A refusal is an answer; that it cannot be
// reached is none.
func (s *service) lookUp(ctx context.Context, personID string) (patient, error) {
	if s.person == nil || personID == "" {
		return patient{}, nil
	}
	reply, err := s.person.GetPerson(ctx, &personv1.GetPersonRequest{PersonId: personID})
	if err != nil {
		if fault.IsAnswer(err) {
			return patient{}, nil
		}
		return patient{}, err
	}
	p := reply.Person
	merge := ""
	for _, m := range p.GetMerges() {
		if m.MergedPersonId == personID && m.State == personv1.MergeState_MERGE_STATE_MERGED {
			merge = m.MergeId
		}
	}
	var languages []string
	for _, n := range p.GetNeeds().GetCommunication() {
		if language := n.GetNeed().GetLanguage(); language != "" {
			languages = append(languages, language)
		}
	}
	return patient{languages: languages, known: true, id: p.GetPersonId(), mergeID: merge, practice: p.GetPractice(), restricted: p.GetRestricted(), stop: p.GetMessagesStopped(),
		died: p.GetDeath() == formalDeath}, nil
}

// formalDeath is the PDS code of a formal death notice.
const formalDeath = "2"

// planFacts asks the plan service what holds of a plan now, by the codes of
// Checklist. Where there is no plan, or no plan service, nothing holds.
func (s *service) planFacts(ctx context.Context, pathwayID string) (map[string]bool, error) {
	met := map[string]bool{}
	if s.plan == nil {
		return met, nil
	}
	reply, err := s.plan.GetPlan(ctx, &planv1.GetPlanRequest{PathwayId: pathwayID})
	switch {
	case fault.IsAnswer(err), status.Code(err) == codes.Unimplemented:
		return met, nil
	case err != nil:
		return nil, err
	}
	r := reply.Record
	met["plan_published"] = r.GetPlan().GetVersion() > 0
	met["surveillance_set"] = r.GetSurveillance() != nil || r.GetSurveillanceNotNeededReason() != ""
	for _, summary := range r.GetSummaries() {
		if summary.Version > 0 && summary.State != planv1.SummaryState_SUMMARY_STATE_WITHDRAWN {
			met["summary_approved"] = true
		}
	}
	return met, nil
}
