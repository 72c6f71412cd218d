package edge

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	pb "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
)

// service is the gRPC face of the edge.
type service struct {
	pb.UnimplementedEdgeServiceServer
	log      es.Log
	messages *es.Streams[state]
	index    *index
	locks    locks
	key      []byte
	clock    func() time.Time
	slog     *slog.Logger
	persons  personv1.PersonServiceClient
	pathways referralv1.PathwayServiceClient

	referrals    referralv1.ReferralServiceClient
	appointments appointmentv1.AppointmentServiceClient
	plans        planv1.PlanServiceClient
	facilities   map[string]string // ODS codes by names in MSH-4, in capitals
}

// cachedFolds is how many messages are kept folded: a repeat comes soon or never.
const cachedFolds = 1000

// New makes the edge service. One process runs it: the order of a patient's
// messages is kept in its memory.
func New(deps run.Deps) (run.Part, error) {
	if len(deps.Key) < 32 {
		return run.Part{}, errors.New("edge: Deps.Key needs 32 bytes, the same for the life of the log")
	}
	s := newService(deps)
	return run.Part{
		Name:     "edge",
		Register: func(r grpc.ServiceRegistrar) { pb.RegisterEdgeServiceServer(r, s) },
		Run:      s.run,
	}, nil
}

func newService(deps run.Deps) *service {
	s := &service{
		log:      deps.Log,
		messages: es.NewStreams(deps.Log, decider(), es.Options{Key: deps.Key, Jitter: deps.Jitter, Cached: cachedFolds}),
		locks:    locks{log: deps.Log, held: map[string]chan struct{}{}},
		key:      deps.Key,
		clock:    deps.Clock,
		slog:     deps.Slog,
		persons:  personv1.NewPersonServiceClient(deps.Dial("person")),
		pathways: referralv1.NewPathwayServiceClient(deps.Dial("referral")),

		referrals:    referralv1.NewReferralServiceClient(deps.Dial("referral")),
		appointments: appointmentv1.NewAppointmentServiceClient(deps.Dial("appointment")),
		plans:        planv1.NewPlanServiceClient(deps.Dial("plan")),
		facilities:   deps.Facilities,
	}
	s.index = newIndex(deps.Log, s.hash)
	s.index.Keep(deps.Dir)
	return s
}

// run keeps the index in step, and redrives what waited for a pathway.
func (s *service) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var releasing sync.WaitGroup
	defer releasing.Wait()
	defer cancel()
	releasing.Go(func() { s.release(ctx) })
	return s.index.Run(ctx)
}

// release redrives messages that were parked because their person or a pathway of
// theirs was not known, once a pathway started. What a crash left half done is
// due again at the next start.
func (s *service) release(ctx context.Context) {
	for s.index.Wait(ctx, 0) != nil {
		if ctx.Err() != nil {
			return
		}
	}
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.index.wake:
		case <-again.C:
		}
		again.Stop()
		for _, id := range s.index.released() {
			_, err := s.redrive(ctx, &pb.RedriveMessageRequest{MessageId: id, Command: &metav1.Command{
				CommandId: uuid.NewSHA1(uuid.MustParse(id), []byte("released")).String(), Actor: &metav1.Actor{User: "edge", Organisation: noFacility},
			}})
			if fault.CodeOf(err) == redriveOrder {
				continue // it stays due, and the end of what is held wakes us
			}
			if err == nil || fault.IsAnswer(err) {
				s.index.dropped(id)
				continue
			}
			again.Reset(5 * time.Second)
			break
		}
	}
}

// TakeMessage takes one message.
func (s *service) TakeMessage(ctx context.Context, req *pb.TakeMessageRequest) (*pb.TakeMessageReply, error) {
	v := readV2(req.Raw, s.facilities)
	done, err := s.take(ctx, arrival{raw: req.Raw, content: v})
	if err != nil {
		return nil, err
	}
	id := done.state.Value.Received.MessageId
	return &pb.TakeMessageReply{Message: s.index.get(id), Acknowledgement: done.ack, Duplicate: done.duplicate, Receipt: done.state.Receipt(),
		Answers: answers(v.message, id, done.state.Value.Outcome, done.ack)}, nil
}

// ListGaps lists the sequence numbers that did not come.
func (s *service) ListGaps(ctx context.Context, _ *pb.ListGapsRequest) (*pb.ListGapsReply, error) {
	if err := s.index.Wait(ctx, 0); err != nil {
		return nil, err
	}
	return &pb.ListGapsReply{Gaps: s.index.gaps()}, nil
}

// ListMessages lists what there is.
func (s *service) ListMessages(ctx context.Context, req *pb.ListMessagesRequest) (*pb.ListMessagesReply, error) {
	var after es.Position
	if req.PageToken != "" {
		n, err := strconv.ParseUint(req.PageToken, 36, 64)
		if err != nil {
			return nil, fault.Invalid("edge.page_token.invalid", "page_token", "must be next_page_token of a reply")
		}
		after = es.Position(n)
	}
	if err := s.index.Wait(ctx, 0); err != nil {
		return nil, err
	}
	size := int(req.PageSize)
	if size == 0 {
		size = 50
	}
	return s.index.list(req.State, req.ReasonCode, after, size), nil
}

// GetMessage shows one message.
func (s *service) GetMessage(ctx context.Context, req *pb.GetMessageRequest) (*pb.GetMessageReply, error) {
	st, raw, err := s.read(ctx, req.MessageId)
	if err != nil {
		return nil, err
	}
	reply := &pb.GetMessageReply{Message: s.index.get(st.Value.Received.MessageId), Receipt: st.Receipt()}
	fields, err := read(st.Value.Received, raw, s.facilities).fields()
	if err != nil {
		reply.Unreadable = err.Error()
	}
	reply.Fields = fields
	return reply, nil
}

// read returns a message and its bytes, and waits until the index has it.
func (s *service) read(ctx context.Context, id string) (es.State[state], []byte, error) {
	id = strings.ToLower(id)
	st, err := s.messages.Load(ctx, id)
	if err != nil {
		return st, nil, err
	}
	if st.Value.Received == nil {
		return st, nil, errUnknown()
	}
	var raw []byte
	err = s.log.Read(ctx, category+"-"+id, 0, func(e es.Recorded) error {
		event, err := es.Decode(e)
		if r, ok := event.(*pb.MessageReceived); ok {
			raw, err = unpack(r)
		}
		return err
	})
	if err != nil {
		return st, nil, err
	}
	return st, raw, s.index.Wait(ctx, st.Position)
}

// maxFields bounds the reply of GetMessage.
const maxFields = 5000

// list gives every value that is there, with its path.
func (m message) list() (fields []*pb.Field) {
	for n, s := range m.segments {
		for f := 1; f < len(s.fields); f++ {
			for r := range m.count(s, f) {
				repetition := nth(s.fields[f], m.sep.repetition, r+1)
				if s.name == "MSH" && f <= 2 {
					if r == 0 {
						fields = append(fields, &pb.Field{Path: path{s.name, f, 1, 0, 0}.String(), Value: s.fields[f], Segment: int32(n + 1)})
					}
					continue
				}
				components := strings.Count(repetition, string(m.sep.component)) + 1
				for c := range components {
					subs := strings.Count(nth(repetition, m.sep.component, c+1), string(m.sep.subcomponent)) + 1
					for u := range subs {
						value := m.at(s, f, r+1, c+1, u+1)
						if value == "" {
							continue
						}
						p := path{s.name, f, r + 1, 0, 0}
						if components > 1 || subs > 1 {
							p.component = c + 1
						}
						if subs > 1 {
							p.subcomponent = u + 1
						}
						if len(fields) == maxFields {
							return fields
						}
						fields = append(fields, &pb.Field{Path: p.String(), Value: value, Segment: int32(n + 1)})
					}
				}
			}
		}
	}
	return fields
}

// redriveOrder refuses to apply a message before an earlier one of its patient.
const redriveOrder = "edge.redrive.order"

// RedriveMessage applies a message again.
func (s *service) RedriveMessage(ctx context.Context, req *pb.RedriveMessageRequest) (*pb.RedriveMessageReply, error) {
	return s.redrive(ctx, req)
}

func (s *service) redrive(ctx context.Context, req *pb.RedriveMessageRequest) (*pb.RedriveMessageReply, error) {
	if err := s.index.Wait(ctx, 0); err != nil {
		return nil, err
	}
	st, raw, err := s.read(ctx, req.MessageId)
	if err != nil {
		return nil, err
	}
	original := st.Value.Received.MessageId
	if _, applied := st.Value.Outcome.(*pb.MessageApplied); applied {
		_, err := redrive("")(st.Value)
		return nil, err
	}
	id := uuid.NewSHA1(uuid.MustParse(original), []byte("redrive/"+strings.ToLower(req.Command.GetCommandId()))).String()
	a := arrival{raw: raw, id: id, redriveOf: original, commands: st.Value.Received.CommandsOf, received: st.Value.Received.ReceivedAt}
	if len(req.Corrections) > 0 {
		if a.raw, err = read(st.Value.Received, raw, s.facilities).corrected(req.Corrections); err != nil {
			return nil, err
		}
		a.commands = id
	}
	if by := st.Value.Redriven; by != "" {
		// It was linked before, and may have come no further.
		if next, err := s.messages.Load(ctx, by); err != nil {
			return nil, err
		} else if next.Value.Outcome == nil {
			a.id = by
			if next.Value.Received != nil {
				if _, a.raw, err = s.read(ctx, by); err != nil {
					return nil, err
				}
				a.commands = next.Value.Received.CommandsOf
			} else if len(req.Corrections) > 0 {
				a.commands = by
			}
		}
	}
	if s.index.holding(st.Value.Received.PatientKeys, original) {
		return nil, fault.Refused(redriveOrder, "an earlier message of this patient is held: redrive that one first")
	}
	// The link comes first: two people who redrive one message make one new one.
	if st, err = s.messages.Do(ctx, original, req, redrive(a.id)); err != nil {
		return nil, err
	}
	a.content = read(st.Value.Received, a.raw, s.facilities)
	done, err := s.take(ctx, a)
	if err != nil {
		return nil, err
	}
	if err := s.index.Wait(ctx, max(st.Position, done.state.Position)); err != nil {
		return nil, err
	}
	return &pb.RedriveMessageReply{Message: s.index.get(a.id), Acknowledgement: done.ack, Receipt: done.state.Receipt()}, nil
}

func clone[M proto.Message](m M) M { return proto.Clone(m).(M) }
