package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// link is the es.Log of one actor: the store's own protocol over a connection in
// memory that delays, drops, repeats and lies. The official client cannot take
// its place, because it dials TCP, on which the clock of a bubble stands still.
type link struct {
	wire
	node *node
}

var (
	_ es.Log   = (*link)(nil)
	_ es.Turns = (*link)(nil)
)

var (
	errAway = fault.Unavailable("log.unavailable", "the event store is away: repeat the request", time.Second)
	errLate = fault.TimedOut("log.deadline", "the event store did not answer in time: repeat the request")
)

// call runs f against the node of the moment.
func (l *link) call(ctx context.Context, purpose string, f func(context.Context, *peer) error) error {
	return judge(ctx, l.wire.call(ctx, purpose, l.node.now, f, f))
}

// judge turns the outcome of a call into the errors of es.Log.
func judge(ctx context.Context, err error) error {
	var wrong *es.WrongRevision
	var own *fault.Error
	switch {
	case err == nil, errors.As(err, &wrong), errors.As(err, &own):
		return err
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		if errors.Is(ctx.Err(), context.Canceled) {
			return fault.Canceled("log.canceled", "the caller went away")
		}
		return errLate
	case status.Code(err) == codes.ResourceExhausted:
		return fault.Exhausted("log.full", "the event store has no room for new events", time.Minute)
	}
	return errAway
}

// Append implements es.Log.
func (l *link) Append(ctx context.Context, stream string, expected es.Revision, events []es.NewEvent) (es.Appended, error) {
	if len(events) == 0 {
		return es.Appended{}, errors.New("sim: an append without events")
	}
	if l.alive.Err() != nil { // a dead process does nothing, not even a call that fails
		return es.Appended{}, errAway
	}
	op := l.a.w.history.append(l.a, stream, expected, events)
	var at es.Appended
	err := l.call(ctx, "append "+stream, func(ctx context.Context, to *peer) error {
		got, err := appendTo(ctx, streamspb.NewStreamsClient(to.conn), stream, expected, events)
		if err == nil && at == (es.Appended{}) {
			at = got
		}
		return err
	})
	l.a.w.history.appended(op, at, err)
	if err != nil {
		return es.Appended{}, err
	}
	return at, nil
}

func appendTo(ctx context.Context, to streamspb.StreamsClient, stream string, expected es.Revision, events []es.NewEvent) (es.Appended, error) {
	call, err := to.Append(ctx)
	if err != nil {
		return es.Appended{}, err
	}
	options := &streamspb.AppendReq_Options{StreamIdentifier: identifier(stream)}
	if expected == es.NoStream {
		options.ExpectedStreamRevision = &streamspb.AppendReq_Options_NoStream{NoStream: &shared.Empty{}}
	} else {
		options.ExpectedStreamRevision = &streamspb.AppendReq_Options_Revision{Revision: uint64(expected)}
	}
	err = call.Send(&streamspb.AppendReq{Content: &streamspb.AppendReq_Options_{Options: options}})
	for i := 0; err == nil && i < len(events); i++ {
		e := events[i]
		err = call.Send(&streamspb.AppendReq{Content: &streamspb.AppendReq_ProposedMessage_{ProposedMessage: &streamspb.AppendReq_ProposedMessage{
			Id: &shared.UUID{Value: &shared.UUID_String_{String_: e.ID.String()}}, Data: e.Data, CustomMetadata: e.Metadata,
			Metadata: map[string]string{"type": e.Type, "content-type": "application/octet-stream"},
		}}})
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the answer says why
		return es.Appended{}, err
	}
	resp, err := call.CloseAndRecv()
	if err != nil {
		return es.Appended{}, err
	}
	if wrong := resp.GetWrongExpectedVersion(); wrong != nil {
		actual := es.NoStream
		if r, ok := wrong.GetCurrentRevisionOption().(*streamspb.AppendResp_WrongExpectedVersion_CurrentRevision); ok {
			actual = es.Revision(r.CurrentRevision)
		}
		return es.Appended{}, &es.WrongRevision{Expected: expected, Actual: actual}
	}
	ok := resp.GetSuccess()
	return es.Appended{Revision: es.Revision(ok.GetCurrentRevision()), Position: es.Position(ok.GetPosition().GetCommitPosition())}, nil
}

func identifier(stream string) *shared.StreamIdentifier {
	return &shared.StreamIdentifier{StreamName: []byte(stream)}
}

// Read implements es.Log.
func (l *link) Read(ctx context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	if l.alive.Err() != nil {
		return errAway
	}
	op := l.a.w.history.read(l.a, stream, from)
	var events []es.Recorded
	err := l.call(ctx, "read "+stream, func(ctx context.Context, to *peer) (err error) {
		events, err = readFrom(ctx, streamspb.NewStreamsClient(to.conn), &streamspb.ReadReq_Options{
			StreamOption: &streamspb.ReadReq_Options_Stream{Stream: &streamspb.ReadReq_Options_StreamOptions{
				StreamIdentifier: identifier(stream), RevisionOption: &streamspb.ReadReq_Options_StreamOptions_Revision{Revision: uint64(max(from, 0))}}},
		}, math.MaxInt64)
		return err
	})
	l.a.w.history.was(op, events, err)
	return hand(events, err, yield)
}

func hand(events []es.Recorded, err error, yield func(es.Recorded) error) error {
	if err != nil {
		return err
	}
	for _, e := range events {
		if err := yield(e); err != nil {
			return err
		}
	}
	return nil
}

// ReadAll implements es.Log.
func (l *link) ReadAll(ctx context.Context, after es.Position, yield func(es.Recorded) error) error {
	var events []es.Recorded
	err := l.call(ctx, "readall", func(ctx context.Context, to *peer) (err error) {
		events, err = readAll(ctx, streamspb.NewStreamsClient(to.conn), after)
		return err
	})
	for _, e := range events {
		l.a.w.history.saw(l.a, e)
	}
	return hand(events, err, yield)
}

func readAll(ctx context.Context, from streamspb.StreamsClient, after es.Position) (kept []es.Recorded, err error) {
	events, err := readFrom(ctx, from, &streamspb.ReadReq_Options{StreamOption: all(after)}, math.MaxInt64)
	for _, e := range events {
		if e.Position > after && !strings.HasPrefix(e.Stream, "$") {
			kept = append(kept, e)
		}
	}
	return kept, err
}

func all(after es.Position) *streamspb.ReadReq_Options_All {
	o := &streamspb.ReadReq_Options_AllOptions{AllOption: &streamspb.ReadReq_Options_AllOptions_Start{Start: &shared.Empty{}}}
	if after > 0 {
		o.AllOption = &streamspb.ReadReq_Options_AllOptions_Position{Position: &streamspb.ReadReq_Options_Position{CommitPosition: uint64(after), PreparePosition: uint64(after)}}
	}
	return &streamspb.ReadReq_Options_All{All: o}
}

func readFrom(ctx context.Context, from streamspb.StreamsClient, o *streamspb.ReadReq_Options, count uint64) (events []es.Recorded, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.CountOption = &streamspb.ReadReq_Options_Count{Count: count}
	o.FilterOption = &streamspb.ReadReq_Options_NoFilter{NoFilter: &shared.Empty{}}
	o.UuidOption = &streamspb.ReadReq_Options_UUIDOption{Content: &streamspb.ReadReq_Options_UUIDOption_Structured{Structured: &shared.Empty{}}}
	call, err := from.Read(ctx, &streamspb.ReadReq{Options: o})
	if err != nil {
		return nil, err
	}
	for {
		m, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, err
		}
		if e := m.GetEvent().GetEvent(); e != nil {
			events = append(events, recorded(e))
		}
	}
}

func recorded(e *streamspb.ReadResp_ReadEvent_RecordedEvent) es.Recorded {
	id := e.GetId().GetStructured()
	var raw uuid.UUID
	for i := range 8 {
		raw[i] = byte(uint64(id.GetMostSignificantBits()) >> (56 - 8*i))
		raw[8+i] = byte(uint64(id.GetLeastSignificantBits()) >> (56 - 8*i))
	}
	ticks, _ := strconv.ParseInt(e.GetMetadata()["created"], 10, 64)
	return es.Recorded{
		ID: raw, Stream: string(e.GetStreamIdentifier().GetStreamName()), Revision: es.Revision(e.GetStreamRevision()),
		Position: es.Position(e.GetCommitPosition()), Type: e.GetMetadata()["type"], Data: e.GetData(),
		Metadata: e.GetCustomMetadata(), Recorded: time.Unix(ticks/1e7, ticks%1e7*100).UTC(),
	}
}

// Head implements es.Log.
func (l *link) Head(ctx context.Context) (head es.Position, err error) {
	err = l.call(ctx, "head", func(ctx context.Context, to *peer) error {
		for count := uint64(16); ; count *= 16 {
			o := &streamspb.ReadReq_Options{ReadDirection: streamspb.ReadReq_Options_Backwards, StreamOption: &streamspb.ReadReq_Options_All{
				All: &streamspb.ReadReq_Options_AllOptions{AllOption: &streamspb.ReadReq_Options_AllOptions_End{End: &shared.Empty{}}}}}
			events, err := readFrom(ctx, streamspb.NewStreamsClient(to.conn), o, count)
			if err != nil {
				return err
			}
			for _, e := range events {
				if !strings.HasPrefix(e.Stream, "$") {
					head = e.Position
					return nil
				}
			}
			if uint64(len(events)) < count {
				return nil
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return head, nil
}

// Subscribe implements es.Log.
func (l *link) Subscribe(ctx context.Context, after es.Position, filter es.Filter, handle func(es.Message) error) error {
	// A service that follows twice begins both at one instant: each draws for
	// itself, by what it asks for. Two who ask for the same would be one to us.
	purpose := fmt.Sprint("subscribe ", filter.Categories)
	purpose = fmt.Sprint(purpose, " ", l.a.next(purpose))
	for {
		failed := l.follow(ctx, purpose, filter, &after, handle)
		if failed != nil {
			return failed
		}
		if err := l.a.wait(ctx, "again "+purpose, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// follow hands on what one subscription brings and moves after along. It returns
// the error of handle, or nil when the subscription broke.
func (l *link) follow(ctx context.Context, purpose string, filter es.Filter, after *es.Position, handle func(es.Message) error) error {
	if err := l.a.wait(ctx, purpose, l.a.w.opt.Delay); err != nil {
		return err
	}
	to := l.node.now()
	if to == nil || l.a.w.cutOff(l.a) || l.alive.Err() != nil {
		return nil
	}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(to.ctx, cancel)()
	f := &streamspb.ReadReq_Options_FilterOptions{
		Window:                       &streamspb.ReadReq_Options_FilterOptions_Max{Max: 32},
		CheckpointIntervalMultiplier: 32,
	}
	by := &streamspb.ReadReq_Options_FilterOptions_Expression{}
	if len(filter.Categories) == 0 {
		by.Regex = `^[^$]`
	}
	for _, c := range filter.Categories {
		by.Prefix = append(by.Prefix, c+"-")
	}
	f.Filter = &streamspb.ReadReq_Options_FilterOptions_StreamIdentifier{StreamIdentifier: by}
	call, err := streamspb.NewStreamsClient(to.conn).Read(within, &streamspb.ReadReq{Options: &streamspb.ReadReq_Options{
		StreamOption: all(*after),
		CountOption:  &streamspb.ReadReq_Options_Subscription{Subscription: &streamspb.ReadReq_Options_SubscriptionOptions{}},
		FilterOption: &streamspb.ReadReq_Options_Filter{Filter: f},
		UuidOption:   &streamspb.ReadReq_Options_UUIDOption{Content: &streamspb.ReadReq_Options_UUIDOption_Structured{Structured: &shared.Empty{}}},
	}})
	if err != nil {
		return nil
	}
	for {
		in, err := call.Recv()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || to.ctx.Err() != nil { // what a dead node still sends comes first or does not, by chance
			return nil
		}
		var m es.Message
		switch c := in.GetContent().(type) {
		case *streamspb.ReadResp_Event:
			e := recorded(c.Event.GetEvent())
			if e.Position <= *after {
				continue
			}
			m.Event = &e
		case *streamspb.ReadResp_CaughtUp_:
			m.CaughtUp = true
		default:
			continue
		}
		if err := l.a.wait(ctx, "deliver "+purpose, l.a.w.opt.Delay); err != nil {
			return err
		}
		if to.ctx.Err() != nil || l.a.w.cutOff(l.a) || l.alive.Err() != nil {
			return nil
		}
		if l.a.w.faulty() && chance(l.a.draw("break "+purpose), 1) {
			return nil
		}
		if m.Event != nil {
			l.a.w.history.saw(l.a, *m.Event)
		}
		if err := handle(m); err != nil {
			return err
		}
		if m.Event != nil {
			*after = m.Event.Position
		}
	}
}

// Turn implements es.Turns: each goes on at an instant of its own, by its name where
// several ask at one.
func (l *link) Turn(ctx context.Context, name string) error {
	return l.a.sleep(ctx, "turn "+name, 1)
}

// SetMaxCount implements es.Log.
func (l *link) SetMaxCount(ctx context.Context, stream string, n int) error {
	data := []byte(`{"$maxCount":` + strconv.Itoa(n) + `}`)
	return l.call(ctx, "maxcount "+stream, func(ctx context.Context, to *peer) error {
		call, err := streamspb.NewStreamsClient(to.conn).Append(ctx)
		if err != nil {
			return err
		}
		any := &streamspb.AppendReq_Options_Any{Any: &shared.Empty{}}
		if err := call.Send(&streamspb.AppendReq{Content: &streamspb.AppendReq_Options_{Options: &streamspb.AppendReq_Options{StreamIdentifier: identifier("$$" + stream), ExpectedStreamRevision: any}}}); err != nil {
			return err
		}
		if err := call.Send(&streamspb.AppendReq{Content: &streamspb.AppendReq_ProposedMessage_{ProposedMessage: &streamspb.AppendReq_ProposedMessage{
			Id: &shared.UUID{Value: &shared.UUID_String_{String_: uuid.NewString()}}, Data: data,
			Metadata: map[string]string{"type": "$metadata", "content-type": "application/json"},
		}}}); err != nil {
			return err
		}
		_, err = call.CloseAndRecv()
		return err
	})
}

// Health implements es.Log.
func (l *link) Health(ctx context.Context) (read, write error) {
	_, err := l.Head(ctx)
	return err, err
}
