package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/allinone"
	"waymark/services/cohort"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
)

// A ward is every service in this process, called without a network and writing
// to a draft of the log in memory. What one patient's commands have made, with
// all reactions of the services to it, is then appended to the node: the work of
// the services is whole, that of gRPC and of single syncs is left out.
type ward struct {
	parts   []run.Part
	draft   *draft
	hear    func(es.Recorded) (bus.Event, bool, error)
	methods map[string]served
	inputs  map[protoreflect.FullName]string // full method by its request

	end  context.CancelFunc // of the background work
	work sync.WaitGroup

	wave     int // whose patients it records
	commands int
	refusals map[string]int // by code
}

type served struct {
	impl    any
	handler grpc.MethodHandler
	reply   protoreflect.MessageType
}

func newWard(wave int) (*ward, error) {
	logger, err := run.NewLogger(io.Discard, "text", "error")
	if err != nil {
		return nil, err
	}
	telemetry, err := run.NewTelemetry(context.Background(), run.Config{}, "bench")
	if err != nil {
		return nil, err
	}
	w := &ward{wave: wave, draft: &draft{streams: map[string][]es.Recorded{}}, hear: bus.Mapping{}.Ear(), methods: map[string]served{}, inputs: map[protoreflect.FullName]string{}, refusals: map[string]int{}}
	w.parts, err = allinone.Services(run.Deps{Log: w.draft, Dial: func(string) grpc.ClientConnInterface { return w }, Clock: run.Clock, Slog: logger, Meter: telemetry.Meter("bench"), Key: storyKey})
	if err != nil {
		return nil, err
	}
	for _, part := range w.parts {
		if part.Register != nil {
			part.Register(w)
		}
	}
	ctx, end := context.WithCancel(context.Background())
	w.end = end
	for _, part := range w.parts {
		// Lists that commands look things up in. Of what else runs in the background
		// nothing is appended, because it lacks the mark of a turn.
		if part.Run != nil && slices.Contains([]string{"person", "referral", "plan", "appointment", "carelead"}, part.Name) {
			w.work.Go(func() { _ = part.Run(ctx) }) // it ends with ctx
		}
	}
	return w, nil
}

// turn marks the context of what a ward does for the patient at hand.
type turn struct{}

func (w *ward) close() (err error) {
	w.end()
	w.work.Wait()
	for _, part := range w.parts {
		if part.Close != nil {
			err = errors.Join(err, part.Close())
		}
	}
	return err
}

// RegisterService implements grpc.ServiceRegistrar.
func (w *ward) RegisterService(desc *grpc.ServiceDesc, impl any) {
	for _, m := range desc.Methods {
		name := "/" + desc.ServiceName + "/" + m.MethodName
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(desc.ServiceName + "." + m.MethodName))
		if err != nil {
			continue // health and reflection are not called here
		}
		method := d.(protoreflect.MethodDescriptor)
		reply, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
		if err != nil {
			continue
		}
		w.methods[name] = served{impl, m.Handler, reply}
		w.inputs[method.Input().FullName()] = name
	}
}

// Invoke implements grpc.ClientConnInterface.
func (w *ward) Invoke(ctx context.Context, method string, request, reply any, _ ...grpc.CallOption) error {
	m, ok := w.methods[method]
	if !ok {
		return fmt.Errorf("bench: nobody serves %s", method)
	}
	out, err := m.handler(m.impl, ctx, func(in any) error { proto.Merge(in.(proto.Message), request.(proto.Message)); return nil }, nil)
	if err == nil {
		proto.Merge(reply.(proto.Message), out.(proto.Message))
	}
	return err
}

// NewStream implements grpc.ClientConnInterface.
func (w *ward) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("bench: a ward has no streams")
}

// send sends a request by the method that takes it and lets the services react
// until nothing is left to react to.
func (w *ward) send(ctx context.Context, request proto.Message) (proto.Message, error) {
	method, ok := w.inputs[request.ProtoReflect().Descriptor().FullName()]
	if !ok {
		return nil, fmt.Errorf("no method takes %s", request.ProtoReflect().Descriptor().Name())
	}
	ctx = context.WithValue(ctx, turn{}, true)
	reply := w.methods[method].reply.New().Interface()
	w.commands++
	err := w.Invoke(ctx, method, request, reply)
	if err != nil {
		w.refusals[method[strings.LastIndex(method, "/")+1:]+" "+fault.CodeOf(err)]++
	}
	return reply, errors.Join(err, w.settle(ctx))
}

func (w *ward) settle(ctx context.Context) error {
	for ; w.draft.heard < len(w.draft.all); w.draft.heard++ {
		e := w.draft.all[w.draft.heard]
		category, _, _ := strings.Cut(e.Stream, "-")
		if !slices.ContainsFunc(w.parts, func(p run.Part) bool { return listens(p, category) }) {
			continue // a message that nobody would open
		}
		heard, relayed, err := w.hear(e)
		if err != nil {
			return err
		}
		for _, part := range w.parts {
			if !relayed || !listens(part, heard.Category) {
				continue
			}
			if err := part.React(ctx, heard); err != nil {
				return fmt.Errorf("%s: %w", part.Name, err)
			}
		}
	}
	return nil
}

func listens(p run.Part, category string) bool {
	return p.React != nil && (len(p.Categories) == 0 || slices.Contains(p.Categories, category))
}

// journey sends all commands of one patient.
func (w *ward) journey(ctx context.Context, j *cohort.Journey, today nhs.Date) error {
	k := &cohort.Known{Today: today, Attempt: j.Attempt, Appointments: map[string]string{}, Approved: func(string, string) bool { return false }}
	for _, step := range cohort.Steps(j) {
		k.Turn(step.Pathway)
		if step.Ready != nil && !step.Ready(k) {
			if err := w.look(ctx, k, step.Pathway); err != nil {
				return err
			}
			if !step.Ready(k) {
				return fmt.Errorf("%s: the services have not done what it waits for", step.Name)
			}
		}
		request := step.Request(k)
		if request == nil {
			continue
		}
		reply, err := w.send(ctx, request)
		if err != nil {
			if step.Optional && fault.IsAnswer(err) {
				continue
			}
			return fmt.Errorf("%s: %w", step.Name, err)
		}
		k.Learn(step, reply)
	}
	return nil
}

// look reads what the services have done by themselves.
func (w *ward) look(ctx context.Context, k *cohort.Known, pathway string) error {
	plan, err := planv1.NewPlanServiceClient(w).GetPlan(ctx, &planv1.GetPlanRequest{PathwayId: pathway})
	if err == nil {
		k.Plan = plan.Record
	} else if !fault.IsAnswer(err) {
		return err
	}
	ledger, err := careleadv1.NewHandoverServiceClient(w).GetLedger(ctx, &careleadv1.GetLedgerRequest{PathwayId: pathway})
	if err == nil {
		k.Ledger = ledger.Ledger
	} else if !fault.IsAnswer(err) {
		return err
	}
	referrals, err := referralv1.NewReferralServiceClient(w).ListReferrals(ctx, &referralv1.ListReferralsRequest{PathwayId: pathway})
	if err == nil {
		k.Offered = len(referrals.GetOffers()) > 0
	} else if !fault.IsAnswer(err) {
		return err
	}
	return nil
}

// draft is an es.Log in memory of what is not in the node yet. It keeps the
// streams of the patient at hand, and those that patients share.
type draft struct {
	mu       sync.Mutex // guards all
	streams  map[string][]es.Recorded
	all      []es.Recorded // the log, for those who listen late
	appends  []drafted
	heard    int // of all
	position es.Position
	ears     []*ear
}

// ear is a subscription.
type ear struct {
	filter  es.Filter
	waiting []es.Message // under draft.mu
	more    chan struct{}
}

// take adds an event that it asked for. The draft's mu is held.
func (l *ear) take(e *es.Recorded) {
	category, _, _ := strings.Cut(e.Stream, "-")
	if len(l.filter.Categories) > 0 && !slices.Contains(l.filter.Categories, category) {
		return
	}
	l.waiting = append(l.waiting, es.Message{Event: e})
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// drafted is one append.
type drafted struct {
	stream   string
	expected es.Revision
	events   []es.NewEvent
}

// handOver returns the appends since the last, in order, and forgets the streams
// of one patient.
func (d *draft) handOver() []drafted {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.appends
	d.appends = nil
	for stream := range d.streams {
		if category, _, _ := strings.Cut(stream, "-"); category != "lead" && category != "neighbourhood" {
			delete(d.streams, stream)
		}
	}
	return out
}

// Append implements es.Log.
func (d *draft) Append(ctx context.Context, stream string, expected es.Revision, events []es.NewEvent) (es.Appended, error) {
	if ctx.Value(turn{}) == nil {
		return es.Appended{}, fault.Unavailable("bench.turn", "another patient's turn", time.Second)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	stored := d.streams[stream]
	if last := es.Revision(len(stored)) - 1; expected != last {
		return es.Appended{}, &es.WrongRevision{Expected: expected, Actual: last}
	}
	now := run.Clock().UTC()
	for _, e := range events {
		d.position++
		r := es.Recorded{ID: e.ID, Stream: stream, Revision: es.Revision(len(stored)), Position: d.position, Type: e.Type, Data: e.Data, Metadata: e.Metadata, Recorded: now}
		stored, d.all = append(stored, r), append(d.all, r)
		for _, ear := range d.ears {
			ear.take(&r)
		}
	}
	d.streams[stream] = stored
	d.appends = append(d.appends, drafted{stream, expected, events})
	return es.Appended{Revision: es.Revision(len(stored)) - 1, Position: d.position}, nil
}

// Read implements es.Log.
func (d *draft) Read(_ context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	d.mu.Lock()
	stored := d.streams[stream]
	d.mu.Unlock()
	for _, e := range stored[min(int(max(from, 0)), len(stored)):] {
		if err := yield(e); err != nil {
			return err
		}
	}
	return nil
}

var errNotInDraft = errors.New("bench: a draft is read by stream only")

// Subscribe implements es.Log.
func (d *draft) Subscribe(ctx context.Context, after es.Position, filter es.Filter, handle func(es.Message) error) error {
	own := &ear{filter: filter, more: make(chan struct{}, 1)}
	d.mu.Lock()
	for i := range d.all {
		if e := &d.all[i]; e.Position > after {
			own.take(e)
		}
	}
	own.waiting = append(own.waiting, es.Message{CaughtUp: true})
	d.ears = append(d.ears, own)
	d.mu.Unlock()
	for {
		d.mu.Lock()
		messages := own.waiting
		own.waiting = nil
		d.mu.Unlock()
		for _, m := range messages {
			if err := handle(m); err != nil {
				return err
			}
		}
		if len(messages) > 0 {
			continue
		}
		select {
		case <-own.more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ReadAll and SetMaxCount implement es.Log for nobody.
func (d *draft) ReadAll(context.Context, es.Position, func(es.Recorded) error) error {
	return errNotInDraft
}

func (d *draft) SetMaxCount(context.Context, string, int) error { return errNotInDraft }

// Head implements es.Log.
func (d *draft) Head(context.Context) (es.Position, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.position, nil
}

// Health implements es.Log.
func (d *draft) Health(context.Context) (read, write error) { return nil, nil }

// set sends commands that set up what journeys lead to.
func (w *ward) set(ctx context.Context, requests []proto.Message) error {
	for _, r := range requests {
		if _, err := w.send(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", r.ProtoReflect().Descriptor().Name(), err)
		}
	}
	return nil
}

// date of a day so many days after another.
func date(from nhs.Date, days int) string { return from.AddDays(days).String() }

// at is a time of a day.
func at(d nhs.Date, hour, minute int) time.Time {
	return d.Start().Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)
}
