package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

// eventBytes is how much data and metadata together an event of the measurements
// has, half of each; inFlight how many calls wait at a time where it is not said.
const (
	eventBytes = 300
	inFlight   = 64
)

// The bare server answers what it is asked, by methods of each shape:
//
//	Echo    unary: the bytes of the request
//	Append  the client streams messages, the answer is one: the shape of Streams.Append
//	Stream  streams as many copies of a message as asked for, encoded once
const (
	echoMethod   = "/bench/Echo"
	appendMethod = "/bench/Append"
	streamMethod = "/bench/Stream"
)

// encoded is a message that is encoded already.
type encoded []byte

// passing passes encoded messages on and leaves all else to proto.
type passing struct{}

func (passing) Name() string { return "proto" }

func (passing) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	b, err := proto.Marshal(v.(proto.Message))
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func (passing) Unmarshal(data mem.BufferSlice, v any) error {
	if b, ok := v.(*encoded); ok {
		*b = data.Materialize()
		return nil
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	return proto.Unmarshal(b.ReadOnlyData(), v.(proto.Message))
}

// newBareServer makes the server; with next it only passes an echo on.
func newBareServer(next *grpc.ClientConn) *grpc.Server {
	s := grpc.NewServer(grpc.ForceServerCodecV2(passing{}), grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(4<<20))
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "bench", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := decode(in); err != nil || next == nil {
				return echoed(in), err
			}
			out := new(wrapperspb.BytesValue)
			return out, next.Invoke(ctx, echoMethod, in, out)
		}}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Append", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				var last *wrapperspb.BytesValue
				for {
					in := new(wrapperspb.BytesValue)
					if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
						return s.SendMsg(last)
					} else if err != nil {
						return err
					}
					last = in
				}
			}},
			{StreamName: "Stream", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				in := new(wrapperspb.BytesValue)
				if err := s.RecvMsg(in); err != nil {
					return err
				}
				message := encoded(in.Value[8:])
				for range binary.BigEndian.Uint64(in.Value) {
					if err := s.SendMsg(message); err != nil {
						return err
					}
				}
				return nil
			}},
		}}, nil)
	return s
}

// echoed answers with as many bytes as the first 4 of the request say.
func echoed(in *wrapperspb.BytesValue) *wrapperspb.BytesValue {
	if n := int(binary.BigEndian.Uint32(in.Value)); n != len(in.Value) {
		return wrapperspb.Bytes(make([]byte, n))
	}
	return in
}

// ask is an echo of a request and an answer of so many bytes.
func ask(request, answer int) *wrapperspb.BytesValue {
	b := make([]byte, max(4, request))
	binary.BigEndian.PutUint32(b, uint32(answer))
	return wrapperspb.Bytes(b)
}

func echoOnce(ctx context.Context, conn *grpc.ClientConn, q *wrapperspb.BytesValue) error {
	return conn.Invoke(ctx, echoMethod, q, new(wrapperspb.BytesValue))
}

// echoRate is a side: echoes a second.
func echoRate(conn *grpc.ClientConn, request, answer int) side {
	q := ask(request, answer)
	return func(ctx context.Context, d time.Duration) (float64, error) {
		return drive(ctx, inFlight, d, func(ctx context.Context, _ int) (int, error) { return 1, echoOnce(ctx, conn, q) })
	}
}

func limitEcho(_ context.Context, l *lab) (*measure, error) {
	conn, err := l.echo(1)
	return &measure{Row: Row{What: fmt.Sprintf("gRPC echo of %d bytes, another process, %d in flight", eventBytes, inFlight), Unit: "calls/s"},
		ours: echoRate(conn, eventBytes, eventBytes)}, err
}

func limitEcho2(_ context.Context, l *lab) (*measure, error) {
	conn, err := l.echo(2)
	return &measure{Row: Row{What: "same through a process that passes it on", Unit: "calls/s"}, ours: echoRate(conn, eventBytes, eventBytes)}, err
}

// limitAppendShaped is an echo in the shape of v1 Append: the client streams two
// messages and reads one answer.
func limitAppendShaped(_ context.Context, l *lab) (*measure, error) {
	conn, err := l.echo(1)
	options, event := ask(60, 0), ask(eventBytes+100, 0)
	return &measure{Row: Row{What: "same in the shape of an append (client stream of 2 messages)", Unit: "calls/s"},
		ours: func(ctx context.Context, d time.Duration) (float64, error) {
			return drive(ctx, inFlight, d, func(ctx context.Context, _ int) (int, error) {
				s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, appendMethod)
				if err == nil {
					err = errors.Join(s.SendMsg(options), s.SendMsg(event), s.CloseSend())
				}
				if err == nil {
					err = s.RecvMsg(new(wrapperspb.BytesValue))
				}
				return 1, err
			})
		}}, err
}

// bareStream is a side: messages a second of a server stream, decoded by the client.
func bareStream(conn *grpc.ClientConn, message []byte) side {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		return drive(ctx, 1, d, func(ctx context.Context, _ int) (int, error) {
			const many = 20_000
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, streamMethod)
			if err != nil {
				return 0, err
			}
			if err := errors.Join(s.SendMsg(wrapperspb.Bytes(append(binary.BigEndian.AppendUint64(nil, many), message...))), s.CloseSend()); err != nil {
				return 0, err
			}
			for n := 0; ; n++ {
				switch err := s.RecvMsg(new(streamspb.ReadResp)); {
				case errors.Is(err, io.EOF) && n == many:
					return n, nil
				case err != nil:
					return n, err
				}
			}
		})
	}
}

func limitStream(_ context.Context, l *lab) (*measure, error) {
	conn, err := l.echo(1)
	if err != nil {
		return nil, err
	}
	frame, err := sampleFrame()
	return &measure{Row: Row{What: "bare gRPC stream of stored events, decoded", Unit: "events/s"}, ours: bareStream(conn, frame)}, err
}

func limitFsync(_ context.Context, l *lab) (*measure, error) {
	f, err := l.file()
	return &measure{Row: Row{What: "write of 4 KiB and fdatasync, one after the other", Unit: "syncs/s"},
		ours: func(ctx context.Context, d time.Duration) (float64, error) {
			return drive(ctx, 1, d, func(context.Context, int) (int, error) { return 1, syncOnce(f) })
		}}, err
}

// file makes a file to sync.
func (l *lab) file() (*os.File, error) {
	f, err := os.Create(filepath.Join(l.dir, "sync"))
	if err == nil {
		l.closing(f.Close)
	}
	return f, err
}

var fourKiB = make([]byte, 4<<10)

func syncOnce(f *os.File) error {
	_, err := f.Write(fourKiB)
	return errors.Join(err, f.Sync())
}

// limitPebble is how many synced commits of one event Pebble takes.
func limitPebble(writers int) func(context.Context, *lab) (*measure, error) {
	return func(_ context.Context, l *lab) (*measure, error) {
		commit, err := l.pebble(1)
		return &measure{Row: Row{What: fmt.Sprintf("Pebble, synced commits of %d bytes, %d writers", eventBytes, writers), Unit: "commits/s"},
			ours: func(ctx context.Context, d time.Duration) (float64, error) { return drive(ctx, writers, d, commit) }}, err
	}
}

// pebble opens a database and returns what commits a number of events to it, synced.
func (l *lab) pebble(events int) (func(context.Context, int) (int, error), error) {
	db, err := pebble.Open(filepath.Join(l.dir, "pebble"), &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}, MemTableSize: 16 << 20})
	if err != nil {
		return nil, err
	}
	l.closing(db.Close)
	value := make([]byte, eventBytes)
	var next atomic.Uint64
	return func(context.Context, int) (int, error) {
		b := db.NewBatch()
		defer b.Close()
		for range events {
			if err := b.Set(binary.BigEndian.AppendUint64(nil, next.Add(1)), value, nil); err != nil {
				return 0, err
			}
		}
		return events, b.Commit(pebble.Sync)
	}, nil
}

// quiet drops what Pebble tells.
type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// scanned keeps whole events as plainly as Pebble can, and reads them back.
type scanned struct{ db *pebble.DB }

func (l *lab) scanned(name string) (*scanned, error) {
	db, err := pebble.Open(filepath.Join(l.dir, name), &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
	if err != nil {
		return nil, err
	}
	l.closing(db.Close)
	return &scanned{db}, nil
}

func (s *scanned) put(e es.Recorded) error {
	value := []byte{byte(len(e.Type))}
	value = append(value, e.Type...)
	value = binary.LittleEndian.AppendUint32(value, uint32(len(e.Data)))
	for _, part := range [][]byte{e.Data, []byte(e.Stream), e.ID[:], e.Metadata} {
		value = append(value, part...)
	}
	return s.db.Set(binary.BigEndian.AppendUint64(nil, uint64(e.Position)), value, pebble.NoSync)
}

// decode scans all events and decodes them, on one core.
func (s *scanned) decode() (n int, err error) {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return 0, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		v := it.Value()
		typ, rest := v[1:1+v[0]], v[1+v[0]:]
		if _, err := es.Decode(es.Recorded{Type: string(typ), Data: rest[4:][:binary.LittleEndian.Uint32(rest)]}); err != nil {
			return n, err
		}
		n++
	}
	return n, it.Error()
}

// rate is a side: events a second.
func (s *scanned) rate(_ context.Context, d time.Duration) (float64, error) {
	return drive(context.Background(), 1, d, func(context.Context, int) (int, error) { return s.decode() })
}

func limitDecode(_ context.Context, l *lab) (*measure, error) {
	s, err := l.scanned("scan")
	if err != nil {
		return nil, err
	}
	for i := range 50_000 {
		of := sampleEvents()
		if err := s.put(encodeEvent(of[i%len(of)], es.Position(i+1))); err != nil {
			return nil, err
		}
	}
	return &measure{Row: Row{What: "scan and decode of stored events, one core", Unit: "events/s"}, ours: s.rate}, nil
}

// sampleEvents are those of the story, each once.
var sampleEvents = sync.OnceValue(func() []proto.Message {
	var out []proto.Message
	for _, t := range story(60) {
		out = append(out, t.event)
	}
	return out
})

func encodeEvent(m proto.Message, at es.Position) es.Recorded {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // of a message of our own
	}
	return es.Recorded{Type: string(m.ProtoReflect().Descriptor().FullName()), Data: data, Position: at}
}

// elapsed is how long f takes, in seconds.
func elapsed(f func() error) (float64, error) {
	began := run.Clock()
	err := f()
	return run.Clock().Sub(began).Seconds(), err
}
