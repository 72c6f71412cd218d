package bench

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/pathway/v1"
)

// BenchmarkPathway answers for one pathway of 60 events. cpu-µs/op is processor
// time of the process, all its goroutines included: on a busy machine it says
// more than ns/op.
func BenchmarkPathway(b *testing.B) {
	w, err := openBench(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := w.close(); err != nil {
			b.Error(err)
		}
	}()
	streams, err := writeStory(b.Context(), w.log, 60)
	if err != nil {
		b.Fatal(err)
	}
	head, err := w.log.Head(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	first, err := w.service.LookUpPathway(b.Context(), &pb.LookUpPathwayRequest{PathwayId: storyID, MinPosition: uint64(head)})
	if err := whole(first.GetPathway(), 60, err); err != nil {
		b.Fatal(err)
	}
	lookUp := &pb.LookUpPathwayRequest{PathwayId: storyID}
	echo := newBareServer(nil)
	defer echo.Stop()
	bare, err := serveBare(echo)
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	question := ask(40, 5602)
	for _, of := range []struct {
		name string
		once func(context.Context) error
	}{
		{"echo", func(ctx context.Context) error { return echoOnce(ctx, bare, question) }},
		{"lookup", func(ctx context.Context) error { // in the process, as it goes out
			out, err := w.inside.LookUpPathway(ctx, lookUp)
			if err == nil {
				_, err = proto.Marshal(out)
			}
			return err
		}},
		{"lookup-grpc", func(ctx context.Context) error { // its client decodes nothing
			var raw encoded
			return w.conn.Invoke(ctx, pb.PathwayQueryService_LookUpPathway_FullMethodName, lookUp, &raw, grpc.ForceCodecV2(passing{}))
		}},
		{"bare", func(ctx context.Context) error { return w.bare(ctx, streams) }},
		{"get", func(ctx context.Context) error {
			_, err := w.inside.GetPathway(ctx, &pb.GetPathwayRequest{PathwayId: storyID})
			return err
		}},
		{"get-grpc", func(ctx context.Context) error {
			var raw encoded
			return w.conn.Invoke(ctx, pb.PathwayQueryService_GetPathway_FullMethodName, &pb.GetPathwayRequest{PathwayId: storyID}, &raw, grpc.ForceCodecV2(passing{}))
		}},
	} {
		b.Run(of.name, func(b *testing.B) {
			ctx, cancel := context.WithTimeout(b.Context(), 10*time.Minute)
			defer cancel()
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				if err := of.once(ctx); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func serveBare(s *grpc.Server) (*grpc.ClientConn, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go s.Serve(lis) // Stop ends it
	return dialBare(lis.Addr().String())
}
