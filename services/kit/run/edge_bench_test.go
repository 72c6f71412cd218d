package run

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	metav1 "waymark/proto/waymark/meta/v1"
)

// BenchmarkCall compares a call through the edge and Dial with a bare one.
func BenchmarkCall(b *testing.B) {
	part := served(func(context.Context, *metav1.Command) error { return nil })
	b.Run("bare", func(b *testing.B) {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		pass := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			return handle(ctx, req)
		}
		server := grpc.NewServer(grpc.UnaryInterceptor(pass))
		part.Register(server)
		go server.Serve(lis)
		defer server.Stop()
		conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		calls(b, conn, codes.OK)
	})
	b.Run("ours", func(b *testing.B) {
		logger, err := NewLogger(b.Output(), "json", "warn")
		if err != nil {
			b.Fatal(err)
		}
		p, err := Listen(b.Context(), Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Drain: time.Nanosecond}, "bench", logger)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Serve(ctx, p.Deps(nil, nil, nil), part) }()
		defer func() { cancel(); <-ended }()
		conn, err := Dial(p.GRPC(), nil, p.Telemetry())
		if err != nil {
			b.Fatal(err)
		}
		calls(b, conn, codes.OK)
	})
}

// calls makes calls, all of which are answered with a code.
func calls(b *testing.B, conn *grpc.ClientConn, want codes.Code) {
	defer conn.Close()
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if err := conn.Invoke(ctx, doMethod, command(), &metav1.Receipt{}); status.Code(err) != want {
				b.Error(err)
			}
			cancel()
		}
	})
}

// BenchmarkRefusal compares what a refused call costs, caller and server together,
// with the same by a bare server.
func BenchmarkRefusal(b *testing.B) {
	refuse := func(b *testing.B, address string) {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		calls(b, conn, codes.ResourceExhausted)
	}
	b.Run("bare", func(b *testing.B) {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		refusal := status.Error(codes.ResourceExhausted, "no")
		server := grpc.NewServer(grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) { return ctx, refusal }))
		go server.Serve(lis)
		defer server.Stop()
		refuse(b, lis.Addr().String())
	})
	b.Run("ours", func(b *testing.B) {
		logger, err := NewLogger(b.Output(), "json", "warn")
		if err != nil {
			b.Fatal(err)
		}
		p, err := Listen(b.Context(), Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Drain: time.Nanosecond, InFlight: 1}, "bench", logger)
		if err != nil {
			b.Fatal(err)
		}
		inside, leave := make(chan struct{}), make(chan struct{})
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- p.Serve(ctx, p.Deps(nil, nil, nil), served(func(context.Context, *metav1.Command) error { close(inside); <-leave; return nil }))
		}()
		defer func() { cancel(); <-ended }()
		conn, err := Dial(p.GRPC(), nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		go conn.Invoke(ctx, doMethod, command(), &metav1.Receipt{})
		<-inside
		defer close(leave)
		refuse(b, p.GRPC())
	})
}
