package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/anypb"

	"waymark/services/kit/fault"
)

const (
	// hop is what each server takes off a deadline, so that its answer, even
	// "too late", reaches the caller in time.
	hop = 20 * time.Millisecond
	// minRemaining is the least time in which a call is begun at all.
	minRemaining = 100 * time.Millisecond
)

// edge is what stands between the network and a service: every call passes it
// once. A unary call must carry a deadline. Streams need none: they live until
// their client leaves or the server stops, and say then that they can be
// resumed. Health and reflection pass freely.
type edge struct {
	cap      time.Duration
	calls    chan struct{}           // one token for each unary call in progress
	passed   atomic.Int64            // unary calls that tap has let pass, before they take a token
	unaries  map[string]bool         // their methods; set before the server serves, read-only then
	streams  chan struct{}           // and one for each stream; four times as many, because most are silent watchers
	validate protovalidate.Validator // set before the server serves, read-only then
	stopping context.Context         // ends when streams must
	log      *slog.Logger
	took     metric.Float64Histogram
	outcomes sync.Map // outcome -> []metric.RecordOption
}

func newEdge(cfg Config, stopping context.Context, log *slog.Logger, meter metric.Meter) (*edge, error) {
	took, err := meter.Float64Histogram("waymark.command.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from a request's arrival to its answer, by RPC, status and code."),
		metric.WithExplicitBucketBoundaries(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10))
	return &edge{
		cap:      cfg.DeadlineCap,
		calls:    make(chan struct{}, cfg.InFlight),
		unaries:  map[string]bool{},
		streams:  make(chan struct{}, 4*cfg.InFlight),
		stopping: stopping,
		log:      log,
		took:     took,
	}, err
}

func exempt(method string) bool {
	return strings.HasPrefix(method, "/grpc.health.") || strings.HasPrefix(method, "/grpc.reflection.")
}

// tap refuses a call while it is no more than a header: nothing is decoded,
// traced or queued for it. Under overload nearly all calls end here, so what it
// costs is what is lost to the calls that are taken. Calls that it has let pass and
// that unary has not seen yet count too: on a busy machine they are many.
func (e *edge) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	if !e.unaries[info.FullMethodName] {
		return ctx, nil
	}
	if len(e.calls)+int(e.passed.Load()) >= cap(e.calls) {
		// grpc-go keeps a timer for each call refused here, until the call's deadline:
		// one whose deadline is far off goes on, to be refused by unary.
		if end, ok := ctx.Deadline(); !ok || time.Until(end) > e.cap {
			return ctx, nil
		}
		e.count(ctx, outcome{info.FullMethodName, codes.ResourceExhausted, overloadedCode}, 0)
		return ctx, refusals[rand.N(len(refusals))]
	}
	e.passed.Add(1)
	p := &passing{edge: e}
	ctx = context.WithValue(ctx, passingKey{}, p)
	p.never = context.AfterFunc(ctx, p.end) // the caller may leave before unary is reached
	return ctx, nil
}

// passing is a call between tap and unary.
type passing struct {
	edge  *edge
	ended atomic.Bool
	never func() bool
}

type passingKey struct{}

func (p *passing) end() {
	if !p.ended.Swap(true) {
		p.edge.passed.Add(-1)
	}
}

// refusals are made once: making one costs as much as the rest of refusing.
var refusals = func() (made [16]error) {
	for i := range made {
		made[i] = status.Convert(overloaded()).Err()
	}
	return made
}()

func (e *edge) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	if exempt(info.FullMethod) {
		return handle(ctx, req)
	}
	begun := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
		err = e.answer(ctx, info.FullMethod, begun, err)
	}()
	select {
	case e.calls <- struct{}{}:
		defer func() { <-e.calls }()
	default:
		return nil, refusals[rand.N(len(refusals))]
	}
	if p, ok := ctx.Value(passingKey{}).(*passing); ok {
		p.never()
		p.end()
	}
	limited, cancel, err := e.deadline(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if err := e.check(req); err != nil {
		return nil, err
	}
	return handle(limited, req)
}

func (e *edge) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer context.AfterFunc(e.stopping, cancel)()
	checked := &checkedStream{ServerStream: ss, ctx: ctx, check: e.check}
	if exempt(info.FullMethod) {
		checked.check = func(any) error { return nil }
		return handle(srv, checked)
	}
	begun := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
		if err != nil && e.stopping.Err() != nil && ss.Context().Err() == nil {
			err = fault.Unavailable("call.server_stopping", "the server is stopping; connect again and resume after the last position", hop)
		}
		err = e.answer(ctx, info.FullMethod, begun, err)
	}()
	select {
	case e.streams <- struct{}{}:
		defer func() { <-e.streams }()
	default:
		return overloaded()
	}
	return handle(srv, checked)
}

const overloadedCode = "call.overloaded"

// overloaded spreads the retries of those it turns away.
func overloaded() error {
	after := 50*time.Millisecond + rand.N(100*time.Millisecond)
	return fault.Exhausted(overloadedCode, "too many calls are in progress; try again", after)
}

// deadline shortens the deadline of a call and refuses a call without one.
func (e *edge) deadline(ctx context.Context) (context.Context, context.CancelFunc, error) {
	end, ok := ctx.Deadline()
	if !ok {
		return nil, nil, &fault.Error{GRPC: codes.InvalidArgument, Code: "call.deadline_missing", Text: "set a deadline on the call; 5 seconds is usual"}
	}
	left := min(time.Until(end), e.cap)
	if left < minRemaining {
		return nil, nil, &fault.Error{GRPC: codes.DeadlineExceeded, Code: "call.deadline_short", Text: fmt.Sprintf("less than %s remain; nothing was begun", minRemaining)}
	}
	ctx, cancel := context.WithTimeout(ctx, left-hop)
	return ctx, cancel, nil
}

// check validates a request by the rules of its contract.
func (e *edge) check(req any) error {
	message, ok := req.(proto.Message)
	if !ok {
		return fmt.Errorf("request is a %T", req)
	}
	return invalid(e.validate.Validate(message))
}

type checkedStream struct {
	grpc.ServerStream
	ctx   context.Context
	check func(any) error
}

func (s *checkedStream) Context() context.Context { return s.ctx }

func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.check(m)
}

// answer turns what a handler returned into what its caller may see, counts it,
// and logs what it hides.
func (e *edge) answer(ctx context.Context, method string, begun time.Time, err error) error {
	var s *status.Status
	if err != nil {
		reference := reference(ctx)
		if s = visible(err); s == nil {
			e.log.ErrorContext(ctx, "call failed", "event.name", "call.failed", "rpc.method", method, "reference", reference, "error", err)
			s = status.New(codes.Internal, "internal error, reference "+reference)
		}
		s = withReference(s, reference)
		err = s.Err()
	}
	e.count(ctx, outcome{method, s.Code(), errorType(err)}, time.Since(begun))
	return err
}

// outcome is a set of metric labels. There are few: RPCs times codes.
type outcome struct {
	method string
	code   codes.Code
	fault  string
}

// count records a call. Making a set of labels costs as much as validating a
// request, so each is made once.
func (e *edge) count(ctx context.Context, o outcome, took time.Duration) {
	opts, known := e.outcomes.Load(o)
	if !known {
		attrs := []attribute.KeyValue{attribute.String("rpc.method", strings.TrimPrefix(o.method, "/")), attribute.String("rpc.response.status_code", o.code.String())}
		if o.fault != "" {
			attrs = append(attrs, attribute.String("error.type", o.fault))
		}
		opts, _ = e.outcomes.LoadOrStore(o, []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attrs...))})
	}
	e.took.Record(ctx, took.Seconds(), opts.([]metric.RecordOption)...)
}

func errorType(err error) string {
	if err == nil {
		return ""
	}
	if code := fault.CodeOf(err); code != "" {
		return code
	}
	return status.Code(err).String()
}

// visible returns what the caller may see of err, nil if nothing: our own
// faults from this process or from another, and the end of a context.
func visible(err error) *status.Status {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.GRPCStatus()
	}
	var carrier interface{ GRPCStatus() *status.Status }
	code := codes.Unknown
	if errors.As(err, &carrier) {
		s := carrier.GRPCStatus()
		for _, d := range s.Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == fault.Domain {
				return s
			}
		}
		code = s.Code()
	}
	switch {
	case code == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded):
		f = &fault.Error{GRPC: codes.DeadlineExceeded, Code: "call.deadline", Text: "the deadline passed; whether the call took effect is not known, repeat it with the same command id"}
	case code == codes.Canceled || errors.Is(err, context.Canceled):
		f = &fault.Error{GRPC: codes.Canceled, Code: "call.canceled", Text: "the caller went away"}
	case code == codes.Unavailable:
		f = fault.Unavailable("call.unavailable", "a service that this call needs cannot be reached", time.Second)
	case code == codes.Unimplemented:
		f = &fault.Error{GRPC: codes.Unimplemented, Code: "call.unimplemented", Text: "this version does not serve the call"}
	default:
		return nil
	}
	return f.GRPCStatus()
}

// reference names a failed call to its caller and in the log: its trace, if it
// has one, so that one search finds everything.
func reference(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		return span.TraceID().String()
	}
	return uuid.NewString()
}

// withReference sets the RequestInfo of s, in place of another service's.
func withReference(s *status.Status, reference string) *status.Status {
	p := s.Proto()
	var kept []*anypb.Any
	for _, d := range p.Details {
		if !d.MessageIs(&errdetails.RequestInfo{}) {
			kept = append(kept, d)
		}
	}
	p.Details = kept
	with, err := status.FromProto(p).WithDetails(protoadapt.MessageV1Of(&errdetails.RequestInfo{RequestId: reference}))
	if err != nil {
		return s
	}
	return with
}

// panicked describes a panic without its value, which might hold anything; a
// runtime error is the language's own text.
func panicked(p any) error {
	text := fmt.Sprintf("a %T", p)
	if known, ok := p.(runtime.Error); ok {
		text = known.Error()
	}
	return fmt.Errorf("panic: %s\n%s", text, debug.Stack())
}
