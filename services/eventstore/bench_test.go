package eventstore

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	streamspb "github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// Client and node share the machine in all of these; events are of 500 bytes.

func benchNode(b *testing.B) (*Node, string) {
	b.Helper()
	n, err := Open(Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		if err := n.Serve(lis); err != nil {
			b.Error(err)
		}
	}()
	b.Cleanup(func() {
		if err := n.Close(); err != nil {
			b.Error(err)
		}
	})
	return n, lis.Addr().String()
}

func benchClient(b *testing.B, addr string) *esdb.Client {
	b.Helper()
	cfg, err := esdb.ParseConnectionString("esdb://" + addr + "?tls=false")
	if err != nil {
		b.Fatal(err)
	}
	cfg.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	return client
}

// cpuTime is what this process has used. Where neighbours disturb the clock it
// still tells two versions apart.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppend appends with the official client, one event an append, each
// writer to a stream of its own at the exact revision, durable.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			_, addr := benchNode(b)
			client := benchClient(b, addr)
			data := make([]byte, 500)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			used := cpuTime(b)
			b.ResetTimer()
			for i := range writers {
				wg.Go(func() {
					var at esdb.ExpectedRevision = esdb.NoStream{}
					for left.Add(-1) >= 0 {
						res, err := client.AppendToStream(b.Context(), fmt.Sprint("s-", i), esdb.AppendToStreamOptions{ExpectedRevision: at},
							esdb.EventData{EventID: uuid.New(), EventType: "waymark.bench.v1.Happened", Data: data})
						if err != nil {
							b.Error(err)
							return
						}
						at = esdb.Revision(res.NextExpectedVersion)
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64((cpuTime(b)-used).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// BenchmarkBatchAppend keeps 1,000 appends in flight on one call.
func BenchmarkBatchAppend(b *testing.B) {
	_, addr := benchNode(b)
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	call, err := streamspb.NewStreamsClient(conn).BatchAppend(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 500)
	slots := make(chan struct{}, 1000)
	b.ResetTimer()
	go func() {
		for range b.N {
			slots <- struct{}{}
			id := uuidMessage(eventID(uuid.New()), false)
			if err := call.Send(&streamspb.BatchAppendReq{CorrelationId: id, IsFinal: true,
				Options: &streamspb.BatchAppendReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("s")},
					ExpectedStreamPosition: &streamspb.BatchAppendReq_Options_Any{}},
				ProposedMessages: []*streamspb.BatchAppendReq_ProposedMessage{{Id: id, Data: data,
					Metadata: map[string]string{"type": "waymark.bench.v1.Happened", "content-type": "application/octet-stream"}}}}); err != nil {
				b.Error(err)
				return
			}
		}
		if err := call.CloseSend(); err != nil {
			b.Error(err)
		}
	}()
	for range b.N {
		resp, err := call.Recv()
		if err != nil || resp.GetSuccess() == nil {
			b.Fatal(resp, err)
		}
		<-slots
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkReadAll reads the log with the official client, and without its
// decoding; BenchmarkScan shows what the store alone gives.
func BenchmarkReadAll(b *testing.B) {
	const events = 200_000
	n, addr := benchNode(b)
	fill(b, n, events)
	read := func(b *testing.B, recv func() error) {
		b.ResetTimer()
		for range b.N {
			if err := recv(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)*events/b.Elapsed().Seconds(), "events/s")
	}
	b.Run("client", func(b *testing.B) {
		client := benchClient(b, addr)
		read(b, func() error {
			stream, err := client.ReadAll(b.Context(), esdb.ReadAllOptions{}, events)
			if err != nil {
				return err
			}
			defer stream.Close()
			for {
				if _, err := stream.Recv(); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
			}
		})
	})
	b.Run("subscription", func(b *testing.B) {
		client := benchClient(b, addr)
		read(b, func() error {
			sub, err := client.SubscribeToAll(b.Context(), esdb.SubscribeToAllOptions{From: esdb.Start{}})
			if err != nil {
				return err
			}
			defer sub.Close()
			for got := 0; got < events; {
				switch e := sub.Recv(); {
				case e.EventAppeared != nil:
					got++
				case e.SubscriptionDropped != nil:
					return e.SubscriptionDropped.Error
				}
			}
			return nil
		})
	})
	b.Run("undecoded", func(b *testing.B) {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(discard{})), grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(4<<20))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		req := &streamspb.ReadReq{Options: &streamspb.ReadReq_Options{
			StreamOption: &streamspb.ReadReq_Options_All{All: &streamspb.ReadReq_Options_AllOptions{}},
			CountOption:  &streamspb.ReadReq_Options_Count{Count: events},
			UuidOption:   &streamspb.ReadReq_Options_UUIDOption{Content: &streamspb.ReadReq_Options_UUIDOption_Structured{}}}}
		read(b, func() error {
			call, err := streamspb.NewStreamsClient(conn).Read(b.Context(), req)
			if err != nil {
				return err
			}
			for {
				if _, err := call.Recv(); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
			}
		})
	})
}

// BenchmarkReadStream reads a stream of 60 events.
func BenchmarkReadStream(b *testing.B) {
	n, addr := benchNode(b)
	fill(b, n, 20_000)
	client := benchClient(b, addr)
	b.ResetTimer()
	for i := range b.N {
		stream, err := client.ReadStream(b.Context(), fmt.Sprint("s-", i%200), esdb.ReadStreamOptions{}, 60)
		if err != nil {
			b.Fatal(err)
		}
		for {
			if _, err := stream.Recv(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
		stream.Close()
	}
}

func BenchmarkScan(b *testing.B) {
	const events = 200_000
	n, _ := benchNode(b)
	fill(b, n, events)
	b.ResetTimer()
	for range b.N {
		bytes := 0
		if err := n.store.all(1, events, false, func(r record) bool { bytes += len(r.frame()); return true }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*events/b.Elapsed().Seconds(), "events/s")
}

// fill stores events in streams s-0 to s-299, 500 bytes each.
func fill(b *testing.B, n *Node, events int) {
	b.Helper()
	data := make([]byte, 500)
	for i := 0; i < events; i += 100 {
		stream := fmt.Sprint("s-", i/100%300)
		w := &write{ctx: b.Context(), stream: stream, expected: expectAny}
		for range 100 {
			w.events = append(w.events, proposed{id: eventID(uuid.New()), typ: "waymark.bench.v1.Happened", data: data})
		}
		if _, err := n.seq.do(w); err != nil {
			b.Fatal(err)
		}
	}
}

// discard encodes requests and leaves answers as they came.
type discard struct{ codec }

func (discard) Unmarshal(mem.BufferSlice, any) error { return nil }
