package eventstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	persistentpb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// fuzzed is a node in memory to which any bytes can be sent.
type fuzzed struct {
	node *Node
	conn *grpc.ClientConn
	sent int
}

func newFuzzed(f *testing.F) *fuzzed {
	n, err := Open(Config{Dir: "d", FS: vfs.NewMem(), FreeBytes: plenty})
	if err != nil {
		f.Fatal(err)
	}
	lis := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- n.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close(); n.Close(); <-served })
	return &fuzzed{node: n, conn: conn}
}

// send sends each message as it stands and takes a few answers. Whatever came,
// the node must go on serving, and its two orders must agree.
func (z *fuzzed) send(t *testing.T, method string, messages ...[]byte) {
	// A subscription has no end of its own.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	call, err := z.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodecV2(codec{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		_ = call.SendMsg(raw(m)) // a call that has ended is told of by RecvMsg
	}
	_ = call.CloseSend()
	for range 3 { // the confirmation, one event, and the end of most
		if call.RecvMsg(&emptypb.Empty{}) != nil {
			break
		}
	}
	cancel()
	if ids, err := (inProcess{z.node}).read(t.Context(), "$users"); err != nil || len(ids) == 0 {
		t.Fatalf("after the call: %d users, %v", len(ids), err)
	}
	if z.sent++; z.sent%1000 == 1 {
		if err := (inProcess{z.node}).consistent(); err != nil {
			t.Fatal(err)
		}
	}
}

// split cuts the input into messages, each behind its length in two bytes, so
// that a fuzzer can move the cuts.
func split(b []byte) (messages [][]byte) {
	for len(b) >= 2 && len(messages) < 8 {
		n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
		messages = append(messages, b[2:2+n])
		b = b[2+n:]
	}
	return messages
}

func join(t testing.TB, messages ...proto.Message) (b []byte) {
	for _, m := range messages {
		one, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(one))), one...)
	}
	return b
}

func streamID(name string) *shared.StreamIdentifier {
	return &shared.StreamIdentifier{StreamName: []byte(name)}
}

var fuzzID = uuidMessage(eventID{1}, false)

func FuzzAppend(f *testing.F) {
	z := newFuzzed(f)
	metadata := map[string]string{"type": "T", "content-type": "application/json"}
	event := &streamspb.AppendReq{Content: &streamspb.AppendReq_ProposedMessage_{ProposedMessage: &streamspb.AppendReq_ProposedMessage{
		Id: fuzzID, Metadata: metadata, Data: []byte(`{"$tb":1}`)}}}
	for _, stream := range []string{"a", "$$a", "$all", "", "\xff"} {
		options := &streamspb.AppendReq_Options{StreamIdentifier: streamID(stream), ExpectedStreamRevision: &streamspb.AppendReq_Options_Any{}}
		f.Add(join(f, &streamspb.AppendReq{Content: &streamspb.AppendReq_Options_{Options: options}}, event, event))
	}
	f.Add(join(f, event))
	f.Add([]byte{0, 3, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		z.send(t, "/event_store.client.streams.Streams/Append", split(b)...)
	})
}

func FuzzBatchAppend(f *testing.F) {
	z := newFuzzed(f)
	message := &streamspb.BatchAppendReq_ProposedMessage{Id: fuzzID, Metadata: map[string]string{"type": "T", "content-type": "x"}}
	first := &streamspb.BatchAppendReq{CorrelationId: fuzzID, ProposedMessages: []*streamspb.BatchAppendReq_ProposedMessage{message},
		Options: &streamspb.BatchAppendReq_Options{StreamIdentifier: streamID("a"), ExpectedStreamPosition: &streamspb.BatchAppendReq_Options_Any{}}}
	last := proto.CloneOf(first)
	last.Options, last.IsFinal = nil, true
	f.Add(join(f, first, last))
	f.Add(join(f, last))
	f.Fuzz(func(t *testing.T, b []byte) {
		z.send(t, "/event_store.client.streams.Streams/BatchAppend", split(b)...)
	})
}

func FuzzRead(f *testing.F) {
	z := newFuzzed(f)
	all := &streamspb.ReadReq_Options{
		StreamOption: &streamspb.ReadReq_Options_All{All: &streamspb.ReadReq_Options_AllOptions{AllOption: &streamspb.ReadReq_Options_AllOptions_Start{}}},
		CountOption:  &streamspb.ReadReq_Options_Count{Count: 5},
		UuidOption:   &streamspb.ReadReq_Options_UUIDOption{Content: &streamspb.ReadReq_Options_UUIDOption_String_{}},
	}
	filtered := proto.CloneOf(all)
	filtered.CountOption = &streamspb.ReadReq_Options_Subscription{}
	filtered.FilterOption = &streamspb.ReadReq_Options_Filter{Filter: &streamspb.ReadReq_Options_FilterOptions{
		Filter: &streamspb.ReadReq_Options_FilterOptions_EventType{EventType: &streamspb.ReadReq_Options_FilterOptions_Expression{Regex: "^[^$]"}},
		Window: &streamspb.ReadReq_Options_FilterOptions_Max{Max: 1}, CheckpointIntervalMultiplier: 1}}
	stream := proto.CloneOf(all)
	stream.ResolveLinks, stream.ReadDirection = true, streamspb.ReadReq_Options_Backwards
	stream.StreamOption = &streamspb.ReadReq_Options_Stream{Stream: &streamspb.ReadReq_Options_StreamOptions{
		StreamIdentifier: streamID("$users"), RevisionOption: &streamspb.ReadReq_Options_StreamOptions_Revision{Revision: 1 << 63}}}
	for _, o := range []*streamspb.ReadReq_Options{all, filtered, stream} {
		f.Add(join(f, &streamspb.ReadReq{Options: o}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		z.send(t, "/event_store.client.streams.Streams/Read", split(b)...)
	})
}

// FuzzPersistent sends a request to make a group, then one to read from it.
func FuzzPersistent(f *testing.F) {
	z := newFuzzed(f)
	create := &persistentpb.CreateReq{Options: &persistentpb.CreateReq_Options{GroupName: "g",
		StreamOption: &persistentpb.CreateReq_Options_All{All: &persistentpb.CreateReq_AllOptions{AllOption: &persistentpb.CreateReq_AllOptions_Start{}}},
		Settings:     &persistentpb.CreateReq_Settings{HistoryBufferSize: 20, ReadBatchSize: 10, ConsumerStrategy: pinned, MaxCheckpointCount: 1}}}
	read := &persistentpb.ReadReq{Content: &persistentpb.ReadReq_Options_{Options: &persistentpb.ReadReq_Options{GroupName: "g", BufferSize: 1,
		StreamOption: &persistentpb.ReadReq_Options_All{}}}}
	nack := &persistentpb.ReadReq{Content: &persistentpb.ReadReq_Nack_{Nack: &persistentpb.ReadReq_Nack{
		Ids: []*shared.UUID{fuzzID}, Action: persistentpb.ReadReq_Nack_Park}}}
	f.Add(join(f, create, read, nack))
	f.Add(join(f, create, nack))
	f.Fuzz(func(t *testing.T, b []byte) {
		messages := split(b)
		if len(messages) == 0 {
			return
		}
		service := "/event_store.client.persistent_subscriptions.PersistentSubscriptions/"
		z.send(t, service+"Create", messages[0])
		z.send(t, service+"Read", messages[1:]...)
		// A store that a fuzzer has filled with groups says nothing more.
		if z.node.subs.mu.Lock(); len(z.node.subs.configs) > 50 {
			for key := range z.node.subs.configs {
				halt(z.node.subs.groups[key], errDropped(key))
			}
			clear(z.node.subs.configs)
			clear(z.node.subs.groups)
		}
		z.node.subs.mu.Unlock()
	})
}

func FuzzFilter(f *testing.F) {
	f.Add("^[^$].*", "", "stream", "type", true)
	f.Add("", "str", "stream", "type", false)
	f.Add("(?=a)", "(", "stream", "type", false)
	f.Fuzz(func(t *testing.T, regex, prefix, stream, typ string, onType bool) {
		if len(stream) > maxName || len(typ) > maxName {
			return
		}
		given := &groupFilter{OnType: onType, Regex: regex}
		if regex == "" {
			given.Prefix = []string{prefix}
		}
		compiled, err := given.compile()
		if err != nil {
			return
		}
		ev := proposed{id: eventID{1}, typ: typ}
		r := ev.record(stream, 1, 0, 0)
		name := stream
		if onType {
			name = typ
		}
		if got := compiled.match(r); regex == "" && got != strings.HasPrefix(name, prefix) {
			t.Errorf("prefix %q of %q: %v", prefix, name, got)
		}
	})
}

// FuzzRecord: what is proposed is what is read back, by header and by frame; and
// any bytes at all are refused or can be read.
func FuzzRecord(f *testing.F) {
	f.Add("stream", "type", []byte("metadata"), []byte("data"), uint64(1)<<63, int64(5), true)
	f.Add("", "", []byte{}, []byte{recordVersion, 46: 0}, uint64(0), int64(0), false)
	f.Fuzz(func(t *testing.T, stream, typ string, metadata, data []byte, position uint64, revision int64, json bool) {
		if any := record(data); any.check() == nil {
			_, _, _, _, _ = any.typ(), any.stream(), any.id(), any.created(), any.json()
			_, _ = decodeEvent(any)
		}
		if len(stream) > maxName || len(typ) > maxName || !utf8.ValidString(typ) {
			return
		}
		id := eventID{7: 1}
		ev := proposed{id: id, typ: typ, json: json, metadata: metadata, data: data}
		r := ev.record(stream, position, revision, 77)
		if err := r.check(); err != nil {
			t.Fatal(err)
		}
		if string(r.stream()) != stream || string(r.typ()) != typ || r.position() != position || r.revision() != revision ||
			r.id() != id || r.created() != 77 || r.json() != json {
			t.Errorf("the header says otherwise: %x", r[:recordHeader])
		}
		got, err := decodeEvent(r)
		if err != nil {
			t.Fatal(err)
		}
		gotID, err := parseUUID(got.GetId())
		if err != nil || gotID != id || string(got.GetStreamIdentifier().GetStreamName()) != stream ||
			got.GetStreamRevision() != uint64(revision) || got.GetCommitPosition() != position || got.GetPreparePosition() != position ||
			got.GetMetadata()["type"] != typ || got.GetMetadata()["created"] != "77" ||
			!bytes.Equal(got.GetCustomMetadata(), metadata) || !bytes.Equal(got.GetData(), data) {
			t.Errorf("the frame says otherwise: %v, %v", got, err)
		}
	})
}

// FuzzUsual: what the short way of reading an append takes, it reads as the
// generated types do; and it takes what clients send.
func FuzzUsual(f *testing.F) {
	event := func(m *streamspb.AppendReq_ProposedMessage) []byte {
		b, err := proto.Marshal(&streamspb.AppendReq{Content: &streamspb.AppendReq_ProposedMessage_{ProposedMessage: m}})
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	names := map[string]string{"type": "waymark.x.v1.Y", "content-type": "application/octet-stream"}
	for _, asString := range []bool{true, false} {
		b := event(&streamspb.AppendReq_ProposedMessage{Id: uuidMessage(eventID{3: 9, 12: 200}, asString), Metadata: names, CustomMetadata: []byte("{}"), Data: []byte("data")})
		var m appendMessage
		if m.read(b) != nil || m.kind != usualEvent {
			f.Error("what clients send is not read the short way")
		}
		f.Add(b)
	}
	f.Add(event(&streamspb.AppendReq_ProposedMessage{Metadata: names}))
	f.Add(event(&streamspb.AppendReq_ProposedMessage{Id: uuidMessage(eventID{1}, true), Metadata: map[string]string{"type": "a", "content-type": "b", "more": "c"}}))
	f.Add([]byte{0x0a, 0})
	for _, expected := range []int64{0, 7, expectNoStream, expectAny, expectExists} {
		b, err := proto.Marshal(appendOptions("s", expected))
		var m appendMessage
		if err != nil || m.read(b) != nil || m.kind != usualOptions {
			f.Error("options as clients send them are not read the short way")
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var short appendMessage
		var long streamspb.AppendReq
		if short.read(b) != nil || short.kind == unusual {
			return
		}
		if err := proto.Unmarshal(b, &long); err != nil {
			t.Fatal(err)
		}
		same := appendMessage{other: &long}
		if short.kind == usualOptions {
			stream, expected, err := same.options()
			if err != nil || stream != short.stream || expected != short.expected {
				t.Errorf("%v, %v\nis read as %q, %d", &long, err, short.stream, short.expected)
			}
			return
		}
		e, err := same.proposed(t.Context())
		if err != nil || len(long.GetProposedMessage().GetMetadata()) != 2 || !sameEvent(e, short.event) {
			t.Errorf("%v, %v\nis read as %+v", &long, err, short.event)
		}
	})
}

func sameEvent(a, b proposed) bool {
	return a.id == b.id && a.typ == b.typ && a.json == b.json && bytes.Equal(a.metadata, b.metadata) && bytes.Equal(a.data, b.data)
}

// FuzzUsualBatch does the same for a chunk of BatchAppend.
func FuzzUsualBatch(f *testing.F) {
	message := &streamspb.BatchAppendReq_ProposedMessage{Id: uuidMessage(eventID{3: 9, 12: 200}, false), Data: []byte("data"), Metadata: map[string]string{"type": "T", "content-type": "application/json"}}
	chunk := &streamspb.BatchAppendReq{CorrelationId: fuzzID, ProposedMessages: []*streamspb.BatchAppendReq_ProposedMessage{message, message}, IsFinal: true,
		Options: &streamspb.BatchAppendReq_Options{StreamIdentifier: streamID("a"), ExpectedStreamPosition: &streamspb.BatchAppendReq_Options_Any{}}}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(chunk)
	var m batchMessage
	if err != nil || m.read(b) != nil || len(m.events) != 2 || !m.final {
		f.Error("what clients send is not read the short way")
	}
	f.Add(b)
	f.Add(append(b, b...))
	f.Add([]byte{0x20, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var short batchMessage
		var long streamspb.BatchAppendReq
		read, decoded := short.read(b), proto.Unmarshal(b, &long)
		if (read == nil) != (decoded == nil) {
			t.Fatalf("%v, read as %v", decoded, read)
		}
		if read != nil || short.unusual != nil {
			return
		}
		if short.final != long.GetIsFinal() || !proto.Equal(short.options, long.GetOptions()) || !proto.Equal(short.correlation, long.GetCorrelationId()) ||
			len(short.events) != len(long.GetProposedMessages()) {
			t.Fatalf("%v\nis read as %+v", &long, short)
		}
		for i, m := range long.GetProposedMessages() {
			if e, err := newProposed(t.Context(), m); err != nil || !sameEvent(e, short.events[i]) {
				t.Errorf("%v, %v\nis read as %+v", m, err, short.events[i])
			}
		}
	})
}

func TestSuccessFrame(t *testing.T) {
	t.Parallel()
	for _, o := range []outcome{{revision: 0, position: 1}, {revision: 300, position: 1 << 40}, {revision: math.MaxInt64 - 1, position: math.MaxUint64}} {
		var got streamspb.AppendResp
		if err := proto.Unmarshal(successFrame(o), &got); err != nil || !proto.Equal(&got, successResponse(o)) {
			t.Errorf("%+v: %v, %v", o, &got, err)
		}
	}
}

// FuzzLogTail: any bytes can be a log.
func FuzzLogTail(f *testing.F) {
	f.Add([]byte{}, uint32(1))
	f.Add(bytes.Repeat([]byte{9}, 3*logBlock/2), uint32(0x09090909))
	f.Fuzz(func(t *testing.T, b []byte, log uint32) {
		if at, damaged := damagedAt(b, log); damaged && at >= len(b) {
			t.Errorf("damage at %d of %d", at, len(b))
		}
	})
}
