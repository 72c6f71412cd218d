package eventstore

import (
	"cmp"
	"context"
	"errors"
	"io"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/genproto/googleapis/rpc/code"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// maxInFlight bounds the appends of one BatchAppend call that wait for an answer.
const maxInFlight = 1024

// batchAppend is one append of a BatchAppend call: its chunks so far, then what
// its answer repeats.
type batchAppend struct {
	correlation *shared.UUID
	options     *streamspb.BatchAppendReq_Options
	write       *write
	cancel      context.CancelFunc
	size        int
	err         error // why it will be refused once it is complete
}

// BatchAppend takes any number of appends, each in one or more chunks, and
// answers each once it is durable, in any order.
func (s *streams) BatchAppend(stream streamspb.Streams_BatchAppendServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	answers := make(chan outcome, maxInFlight)
	slots := make(chan struct{}, maxInFlight)
	received := make(chan error, 1)
	go func() { received <- s.receiveBatches(ctx, stream, answers, slots) }()

	finish := func(o outcome) error {
		<-slots
		b := o.write.token.(*batchAppend)
		b.cancel()
		return stream.Send(b.response(o))
	}
	for {
		select {
		case o := <-answers:
			if err := finish(o); err != nil {
				return err
			}
		case err := <-received:
			for err == nil && len(slots) > 0 { // drain, then close
				select {
				case o := <-answers:
					err = finish(o)
				case <-ctx.Done():
					err = ctx.Err()
				case <-s.node.seq.done:
					err = errClosed
				}
			}
			return refuse(ctx, err)
		}
	}
}

// receiveBatches takes chunks until the client has sent its last, and submits
// each append that is complete.
func (s *streams) receiveBatches(ctx context.Context, stream streamspb.Streams_BatchAppendServer, answers chan outcome, slots chan struct{}) error {
	open := map[string]*batchAppend{}
	for {
		var chunk batchMessage
		err := stream.RecvMsg(&chunk)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		key, err := proto.Marshal(chunk.correlation)
		if err != nil {
			return err
		}
		b := open[string(key)]
		if b == nil {
			if len(open) == maxInFlight {
				return invalid("too many appends are incomplete")
			}
			b = s.beginBatch(ctx, &chunk)
			open[string(key)] = b
		}
		s.addToBatch(ctx, b, &chunk)
		if !chunk.final {
			continue
		}
		delete(open, string(key))
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.write.reply = answers
		if b.err == nil {
			b.err = s.node.seq.submit(b.write)
		}
		if b.err != nil {
			answers <- outcome{write: b.write, err: b.err}
		}
	}
}

// beginBatch reads the options, which the first chunk of an append holds.
func (s *streams) beginBatch(ctx context.Context, chunk *batchMessage) *batchAppend {
	b := &batchAppend{correlation: chunk.correlation, options: chunk.options}
	w := &write{token: b}
	b.write = w
	w.ctx, b.cancel = s.batchDeadline(ctx, b.options)
	if w.stream, b.err = streamName(b.options.GetStreamIdentifier()); b.err != nil {
		return b
	}
	switch expected := b.options.GetExpectedStreamPosition().(type) {
	case *streamspb.BatchAppendReq_Options_StreamPosition:
		w.expected, b.err = exactRevision(expected.StreamPosition)
	case *streamspb.BatchAppendReq_Options_NoStream:
		w.expected = expectNoStream
	case *streamspb.BatchAppendReq_Options_Any:
		w.expected = expectAny
	case *streamspb.BatchAppendReq_Options_StreamExists:
		w.expected = expectExists
	default:
		b.err = invalid("the expected stream position is missing")
	}
	if b.err == nil {
		b.err = s.node.allow(ctx, w.stream, toWrite)
	}
	return b
}

func (s *streams) batchDeadline(ctx context.Context, o *streamspb.BatchAppendReq_Options) (context.Context, context.CancelFunc) {
	const longest = time.Hour
	switch d := o.GetDeadlineOption().(type) {
	case *streamspb.BatchAppendReq_Options_Deadline:
		return context.WithTimeout(ctx, min(d.Deadline.AsDuration(), longest))
	case *streamspb.BatchAppendReq_Options_Deadline_21_10_0:
		return context.WithTimeout(ctx, min(time.Until(d.Deadline_21_10_0.AsTime()), longest))
	}
	return ctx, func() {}
}

func (s *streams) addToBatch(ctx context.Context, b *batchAppend, chunk *batchMessage) {
	for _, m := range chunk.unusual {
		ev, err := newProposed(ctx, m)
		if err != nil {
			b.err = cmp.Or(b.err, err)
			return
		}
		chunk.events = append(chunk.events, ev)
	}
	for i := range chunk.events {
		b.size += chunk.events[i].size()
	}
	switch {
	case b.err != nil:
		b.write.events = nil
	case b.size > s.node.cfg.MaxAppendSize:
		b.err, b.write.events = &appendTooLarge{s.node.cfg.MaxAppendSize}, nil
	case b.write.events == nil:
		b.write.events = chunk.events
	default:
		b.write.events = append(b.write.events, chunk.events...)
	}
}

func (b *batchAppend) response(o outcome) *streamspb.BatchAppendResp {
	r := &streamspb.BatchAppendResp{CorrelationId: b.correlation, StreamIdentifier: b.options.GetStreamIdentifier()}
	switch expected := b.options.GetExpectedStreamPosition().(type) {
	case *streamspb.BatchAppendReq_Options_StreamPosition:
		r.ExpectedStreamPosition = &streamspb.BatchAppendResp_StreamPosition{StreamPosition: expected.StreamPosition}
	case *streamspb.BatchAppendReq_Options_NoStream:
		r.ExpectedStreamPosition = &streamspb.BatchAppendResp_NoStream{NoStream: expected.NoStream}
	case *streamspb.BatchAppendReq_Options_Any:
		r.ExpectedStreamPosition = &streamspb.BatchAppendResp_Any{Any: expected.Any}
	case *streamspb.BatchAppendReq_Options_StreamExists:
		r.ExpectedStreamPosition = &streamspb.BatchAppendResp_StreamExists{StreamExists: expected.StreamExists}
	}
	if o.err != nil {
		r.Result = &streamspb.BatchAppendResp_Error{Error: b.failure(o.err)}
		return r
	}
	success := &streamspb.BatchAppendResp_Success{
		CurrentRevisionOption: &streamspb.BatchAppendResp_Success_NoStream{NoStream: &emptypb.Empty{}},
		PositionOption:        &streamspb.BatchAppendResp_Success_NoPosition{NoPosition: &emptypb.Empty{}},
	}
	if o.revision >= 0 {
		success.CurrentRevisionOption = &streamspb.BatchAppendResp_Success_CurrentRevision{CurrentRevision: uint64(o.revision)}
	}
	if o.position > 0 {
		success.PositionOption = &streamspb.BatchAppendResp_Success_Position{
			Position: &shared.AllStreamPosition{CommitPosition: o.position, PreparePosition: o.position}}
	}
	r.Result = &streamspb.BatchAppendResp_Success_{Success: success}
	return r
}

// failure is the google.rpc.Status of one refused append, with the detail that
// clients look for.
func (b *batchAppend) failure(err error) *rpcstatus.Status {
	var (
		deleted *streamDeleted
		wrong   *wrongVersion
		denied  *accessDenied
		large   *appendTooLarge
		detail  proto.Message
		is      code.Code
	)
	switch {
	case errors.As(err, &wrong):
		is, detail = code.Code_ALREADY_EXISTS, wrongDetail(wrong)
	case errors.As(err, &deleted):
		is, detail = code.Code_NOT_FOUND, &shared.StreamDeleted{StreamIdentifier: b.options.GetStreamIdentifier()}
	case errors.As(err, &denied):
		is, detail = code.Code_PERMISSION_DENIED, &shared.AccessDenied{}
	case errors.As(err, &large):
		is, detail = code.Code_INVALID_ARGUMENT, &shared.MaximumAppendSizeExceeded{MaxAppendSize: uint32(large.max)}
	case errors.Is(err, context.DeadlineExceeded):
		is, detail = code.Code_DEADLINE_EXCEEDED, &shared.Timeout{}
	case errors.Is(err, errNoRoom):
		is, detail = code.Code_RESOURCE_EXHAUSTED, &shared.Unknown{}
	case errors.Is(err, errClosed), errors.Is(err, errStorage), errors.Is(err, context.Canceled):
		is, detail = code.Code_UNAVAILABLE, &shared.Unknown{}
	default:
		is, detail = code.Code_INTERNAL, &shared.Unknown{}
		if s, ok := status.FromError(err); ok {
			is, detail = code.Code(s.Code()), &shared.BadRequest{Message: s.Message()}
		}
	}
	packed, packErr := anypb.New(detail)
	if packErr != nil {
		return &rpcstatus.Status{Code: int32(is), Message: err.Error()}
	}
	return &rpcstatus.Status{Code: int32(is), Message: err.Error(), Details: []*anypb.Any{packed}}
}

func wrongDetail(e *wrongVersion) *shared.WrongExpectedVersion {
	none := &emptypb.Empty{}
	d := &shared.WrongExpectedVersion{
		CurrentStreamRevisionOption: &shared.WrongExpectedVersion_CurrentNoStream{CurrentNoStream: none},
	}
	if e.actual >= 0 {
		d.CurrentStreamRevisionOption = &shared.WrongExpectedVersion_CurrentStreamRevision{CurrentStreamRevision: uint64(e.actual)}
	}
	switch e.expected {
	case expectNoStream:
		d.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: none}
	case expectAny:
		d.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedAny{ExpectedAny: none}
	case expectExists:
		d.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedStreamExists{ExpectedStreamExists: none}
	default:
		d.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedStreamPosition{ExpectedStreamPosition: uint64(e.expected)}
	}
	return d
}
