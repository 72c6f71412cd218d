package eventstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// wire is a node on loopback with the stubs and the official client at hand.
type wire struct {
	*testing.T
	node   *Node
	addr   string
	stubs  streamspb.StreamsClient
	client *esdb.Client
	ctx    context.Context
}

// serve starts a node. Without a folder its store is in memory.
func serve(t *testing.T, cfg Config) *wire {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = "store"
		if cfg.FS == nil {
			cfg.FS = vfs.NewMem()
		}
	}
	n, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- n.Serve(lis) }()
	t.Cleanup(func() { closed(t, n, served) })
	w := &wire{T: t, node: n, addr: lis.Addr().String(), ctx: patient(t)}
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.stubs = streamspb.NewStreamsClient(conn)
	w.client = officialClient(t, fmt.Sprintf("esdb://%s?tls=false", w.addr))
	return w
}

// patience is far above what anything in a test takes, on a busy machine too.
const patience = 2 * time.Minute

// patient is the context of what a test waits for. When it ends before the test
// does, something hangs: all goroutines are printed, and what waits fails.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			printGoroutines(t.Name())
		}
	})
	return ctx
}

func printGoroutines(what string) {
	fmt.Fprintf(os.Stderr, "%s waits for ever:\n", what)
	_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2) // as panics print them
}

// closed closes a node and waits until it has ended.
func closed(t *testing.T, n *Node, served <-chan error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(n.Close(), <-served) }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		printGoroutines("Close of " + t.Name())
		t.Error("the node does not close")
	}
}

func officialClient(t *testing.T, url string) *esdb.Client {
	t.Helper()
	cfg, err := esdb.ParseConnectionString(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// answer is what a write came to, whichever way it was sent.
type answer struct {
	revision int64  // when it succeeded; -1 is no stream
	position uint64 // when it succeeded; 0 is none
	wrong    bool   // WrongExpectedVersion; actual says where the stream is
	actual   int64
	deleted  bool
	err      error // any other
}

func (a answer) String() string {
	switch {
	case a.err != nil:
		return a.err.Error()
	case a.deleted:
		return "deleted"
	case a.wrong:
		return fmt.Sprintf("wrong(%d)", a.actual)
	}
	return fmt.Sprintf("ok(%d)", a.revision)
}

func testID(name string) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)) }

func appendOptions(stream string, expected int64) *streamspb.AppendReq {
	o := &streamspb.AppendReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)}}
	switch expected {
	case expectAny:
		o.ExpectedStreamRevision = &streamspb.AppendReq_Options_Any{Any: &shared.Empty{}}
	case expectNoStream:
		o.ExpectedStreamRevision = &streamspb.AppendReq_Options_NoStream{NoStream: &shared.Empty{}}
	case expectExists:
		o.ExpectedStreamRevision = &streamspb.AppendReq_Options_StreamExists{StreamExists: &shared.Empty{}}
	default:
		o.ExpectedStreamRevision = &streamspb.AppendReq_Options_Revision{Revision: uint64(expected)}
	}
	return &streamspb.AppendReq{Content: &streamspb.AppendReq_Options_{Options: o}}
}

func appendEvent(id uuid.UUID, typ, contentType string, data []byte) *streamspb.AppendReq {
	return &streamspb.AppendReq{Content: &streamspb.AppendReq_ProposedMessage_{ProposedMessage: &streamspb.AppendReq_ProposedMessage{
		Id: uuidMessage(eventID(id), false), Metadata: map[string]string{"type": typ, "content-type": contentType}, Data: data}}}
}

// append sends events named by ids through the Append stub.
func (w *wire) append(stream string, expected int64, ids ...string) answer {
	msgs := []*streamspb.AppendReq{appendOptions(stream, expected)}
	for _, id := range ids {
		msgs = append(msgs, appendEvent(testID(id), "T", "application/octet-stream", []byte(id)))
	}
	return w.send(msgs...)
}

func (w *wire) send(msgs ...*streamspb.AppendReq) answer {
	w.Helper()
	call, err := w.stubs.Append(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	for _, m := range msgs {
		if err := call.Send(m); err != nil {
			break // the status comes with CloseAndRecv
		}
	}
	resp, err := call.CloseAndRecv()
	if err != nil {
		return refused(err, call.Trailer())
	}
	if wrong := resp.GetWrongExpectedVersion(); wrong != nil {
		a := answer{wrong: true, actual: int64(wrong.GetCurrentRevision())}
		if wrong.GetCurrentNoStream() != nil {
			a.actual = noRevision
		}
		return a
	}
	a := answer{revision: int64(resp.GetSuccess().GetCurrentRevision()), position: resp.GetSuccess().GetPosition().GetCommitPosition()}
	if resp.GetSuccess().GetNoStream() != nil {
		a.revision = noRevision
	}
	return a
}

// refused reads a status by its trailers, as clients do.
func refused(err error, trailer metadata.MD) answer {
	switch v := trailer.Get("exception"); {
	case len(v) == 1 && v[0] == "stream-deleted" && len(trailer.Get("stream-name")) == 1:
		return answer{deleted: true}
	case len(v) == 1 && v[0] == "wrong-expected-version":
		a := answer{wrong: true}
		if _, err := fmt.Sscan(trailer.Get("actual-version")[0], &a.actual); err != nil {
			return answer{err: err}
		}
		return a
	}
	return answer{err: err}
}

// appendBatch sends the same through BatchAppend, each event in its own chunk.
func (w *wire) appendBatch(stream string, expected int64, ids ...string) answer {
	w.Helper()
	call, err := w.stubs.BatchAppend(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	o := &streamspb.BatchAppendReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)}}
	switch expected {
	case expectAny:
		o.ExpectedStreamPosition = &streamspb.BatchAppendReq_Options_Any{}
	case expectNoStream:
		o.ExpectedStreamPosition = &streamspb.BatchAppendReq_Options_NoStream{}
	case expectExists:
		o.ExpectedStreamPosition = &streamspb.BatchAppendReq_Options_StreamExists{}
	default:
		o.ExpectedStreamPosition = &streamspb.BatchAppendReq_Options_StreamPosition{StreamPosition: uint64(expected)}
	}
	correlation := uuidMessage(eventID(uuid.New()), false)
	chunks := []*streamspb.BatchAppendReq{{CorrelationId: correlation, Options: o}}
	for _, id := range ids {
		chunks = append(chunks, &streamspb.BatchAppendReq{CorrelationId: correlation,
			ProposedMessages: []*streamspb.BatchAppendReq_ProposedMessage{{Id: uuidMessage(eventID(testID(id)), true),
				Metadata: map[string]string{"type": "T", "content-type": "application/octet-stream"}, Data: []byte(id)}}})
	}
	chunks[len(chunks)-1].IsFinal = true
	for _, c := range chunks {
		if err := call.Send(c); err != nil {
			w.Fatal(err)
		}
	}
	if err := call.CloseSend(); err != nil {
		w.Fatal(err)
	}
	resp, err := call.Recv()
	if err != nil {
		return answer{err: err}
	}
	if _, err := call.Recv(); !errors.Is(err, io.EOF) {
		w.Errorf("the call did not end after its last answer: %v", err)
	}
	if string(resp.GetStreamIdentifier().GetStreamName()) != stream {
		w.Errorf("the answer is of stream %q", resp.GetStreamIdentifier().GetStreamName())
	}
	if e := resp.GetError(); e != nil {
		switch d, err := e.GetDetails()[0].UnmarshalNew(); d := d.(type) {
		case *shared.WrongExpectedVersion:
			a := answer{wrong: true, actual: int64(d.GetCurrentStreamRevision())}
			if d.GetCurrentNoStream() != nil {
				a.actual = noRevision
			}
			return a
		case *shared.StreamDeleted:
			return answer{deleted: true}
		default:
			return answer{err: fmt.Errorf("%v %v", e, err)}
		}
	}
	a := answer{revision: int64(resp.GetSuccess().GetCurrentRevision()), position: resp.GetSuccess().GetPosition().GetCommitPosition()}
	if resp.GetSuccess().GetNoStream() != nil {
		a.revision = noRevision
	}
	return a
}

// appendOfficial sends the same through the official client.
func (w *wire) appendOfficial(stream string, expected int64, ids ...string) answer {
	var events []esdb.EventData
	for _, id := range ids {
		events = append(events, esdb.EventData{EventID: testID(id), EventType: "T", ContentType: esdb.ContentTypeBinary, Data: []byte(id)})
	}
	var rev esdb.ExpectedRevision
	switch expected {
	case expectAny:
		rev = esdb.Any{}
	case expectNoStream:
		rev = esdb.NoStream{}
	case expectExists:
		rev = esdb.StreamExists{}
	default:
		rev = esdb.Revision(uint64(expected))
	}
	res, err := w.client.AppendToStream(w.ctx, stream, esdb.AppendToStreamOptions{ExpectedRevision: rev}, events...)
	if err == nil {
		return answer{revision: int64(res.NextExpectedVersion), position: res.CommitPosition}
	}
	var e *esdb.Error
	if errors.As(err, &e) {
		switch e.Code() {
		case esdb.ErrorCodeWrongExpectedVersion:
			return answer{wrong: true, actual: -9} // the client keeps it to itself
		case esdb.ErrorCodeStreamDeleted:
			return answer{deleted: true}
		}
	}
	return answer{err: err}
}

func (w *wire) setMetadata(stream, json string) {
	w.Helper()
	if a := w.send(appendOptions(metastreamOf(stream), expectAny), appendEvent(uuid.New(), "$metadata", "application/json", []byte(json))); a.err != nil {
		w.Fatal(a)
	}
}

func (w *wire) delete(stream string, expected int64) answer {
	o := &streamspb.DeleteReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)}}
	switch expected {
	case expectAny:
		o.ExpectedStreamRevision = &streamspb.DeleteReq_Options_Any{}
	case expectNoStream:
		o.ExpectedStreamRevision = &streamspb.DeleteReq_Options_NoStream{}
	case expectExists:
		o.ExpectedStreamRevision = &streamspb.DeleteReq_Options_StreamExists{}
	default:
		o.ExpectedStreamRevision = &streamspb.DeleteReq_Options_Revision{Revision: uint64(expected)}
	}
	var trailer metadata.MD
	resp, err := w.stubs.Delete(w.ctx, &streamspb.DeleteReq{Options: o}, grpc.Trailer(&trailer))
	if err != nil {
		return refused(err, trailer)
	}
	return answer{position: resp.GetPosition().GetCommitPosition()}
}

func (w *wire) tombstone(stream string, expected int64) answer {
	o := &streamspb.TombstoneReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)}}
	switch expected {
	case expectAny:
		o.ExpectedStreamRevision = &streamspb.TombstoneReq_Options_Any{}
	case expectNoStream:
		o.ExpectedStreamRevision = &streamspb.TombstoneReq_Options_NoStream{}
	case expectExists:
		o.ExpectedStreamRevision = &streamspb.TombstoneReq_Options_StreamExists{}
	default:
		o.ExpectedStreamRevision = &streamspb.TombstoneReq_Options_Revision{Revision: uint64(expected)}
	}
	var trailer metadata.MD
	resp, err := w.stubs.Tombstone(w.ctx, &streamspb.TombstoneReq{Options: o}, grpc.Trailer(&trailer))
	if err != nil {
		return refused(err, trailer)
	}
	return answer{position: resp.GetPosition().GetCommitPosition()}
}

// readOption changes a read request.
type readOption func(*streamspb.ReadReq_Options)

func backwards(o *streamspb.ReadReq_Options) { o.ReadDirection = streamspb.ReadReq_Options_Backwards }
func links(o *streamspb.ReadReq_Options)     { o.ResolveLinks = true }
func count(n uint64) readOption {
	return func(o *streamspb.ReadReq_Options) { o.CountOption = &streamspb.ReadReq_Options_Count{Count: n} }
}
func subscribing(o *streamspb.ReadReq_Options) {
	o.CountOption = &streamspb.ReadReq_Options_Subscription{}
}
func stringIDs(o *streamspb.ReadReq_Options) {
	o.UuidOption.Content = &streamspb.ReadReq_Options_UUIDOption_String_{}
}
func compatible(o *streamspb.ReadReq_Options) {
	o.ControlOption = &streamspb.ReadReq_Options_ControlOption{Compatibility: 1}
}
func fromEnd(o *streamspb.ReadReq_Options) {
	switch s := o.StreamOption.(type) {
	case *streamspb.ReadReq_Options_Stream:
		s.Stream.RevisionOption = &streamspb.ReadReq_Options_StreamOptions_End{}
	case *streamspb.ReadReq_Options_All:
		s.All.AllOption = &streamspb.ReadReq_Options_AllOptions_End{}
	}
}
func from(at uint64) readOption {
	return func(o *streamspb.ReadReq_Options) {
		switch s := o.StreamOption.(type) {
		case *streamspb.ReadReq_Options_Stream:
			s.Stream.RevisionOption = &streamspb.ReadReq_Options_StreamOptions_Revision{Revision: at}
		case *streamspb.ReadReq_Options_All:
			s.All.AllOption = &streamspb.ReadReq_Options_AllOptions_Position{
				Position: &streamspb.ReadReq_Options_Position{CommitPosition: at, PreparePosition: at}}
		}
	}
}
func filtered(f *streamspb.ReadReq_Options_FilterOptions) readOption {
	return func(o *streamspb.ReadReq_Options) { o.FilterOption = &streamspb.ReadReq_Options_Filter{Filter: f} }
}

// open starts a read; stream "" is $all.
func (w *wire) open(stream string, opts ...readOption) streamspb.Streams_ReadClient {
	w.Helper()
	o := &streamspb.ReadReq_Options{
		StreamOption: &streamspb.ReadReq_Options_All{All: &streamspb.ReadReq_Options_AllOptions{}},
		CountOption:  &streamspb.ReadReq_Options_Count{Count: 1 << 40},
		UuidOption:   &streamspb.ReadReq_Options_UUIDOption{Content: &streamspb.ReadReq_Options_UUIDOption_Structured{}},
	}
	if stream != "" {
		o.StreamOption = &streamspb.ReadReq_Options_Stream{Stream: &streamspb.ReadReq_Options_StreamOptions{
			StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)}}}
	}
	for _, opt := range opts {
		opt(o)
	}
	call, err := w.stubs.Read(w.ctx, &streamspb.ReadReq{Options: o})
	if err != nil {
		w.Fatal(err)
	}
	return call
}

// read collects a read as words: "stream/revision=data" for events, and the
// names of other answers.
func (w *wire) read(stream string, opts ...readOption) []string {
	w.Helper()
	call := w.open(stream, opts...)
	var got []string
	for {
		resp, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			return append(got, refused(err, call.Trailer()).String())
		}
		got = append(got, word(resp))
	}
}

func word(resp *streamspb.ReadResp) string {
	switch c := resp.GetContent().(type) {
	case *streamspb.ReadResp_Event:
		e := c.Event.GetEvent()
		text := fmt.Sprintf("%s/%d=%s", e.GetStreamIdentifier().GetStreamName(), e.GetStreamRevision(), e.GetData())
		if e == nil {
			text = "unresolved"
		}
		if l := c.Event.GetLink(); l != nil {
			text += fmt.Sprintf("<-%s/%d", l.GetStreamIdentifier().GetStreamName(), l.GetStreamRevision())
		}
		return text
	case *streamspb.ReadResp_StreamNotFound_:
		return "not found"
	case *streamspb.ReadResp_FirstStreamPosition:
		return fmt.Sprintf("first %d", c.FirstStreamPosition)
	case *streamspb.ReadResp_LastStreamPosition:
		return fmt.Sprintf("last %d", c.LastStreamPosition)
	case *streamspb.ReadResp_Confirmation:
		return "confirmed"
	case *streamspb.ReadResp_CaughtUp_:
		return "caught up"
	case *streamspb.ReadResp_Checkpoint_:
		return fmt.Sprintf("checkpoint %d", c.Checkpoint.GetCommitPosition())
	}
	return fmt.Sprintf("%T", resp.GetContent())
}
