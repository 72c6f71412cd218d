package run

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/eventstore"
	"waymark/services/kit/es"
)

// TestOutageOfTheNode stops the event store under load. Meanwhile writes are
// NOT_SERVING and every call, read or write, is answered within its deadline;
// afterwards everything recovers by itself, and every event that was
// acknowledged is there.
func TestOutageOfTheNode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := lis.Addr().String()
	up := func(lis net.Listener) (down func()) {
		node, err := eventstore.Open(eventstore.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- node.Serve(lis) }()
		return func() {
			if err := node.Close(); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	}
	down := up(lis)
	log, err := es.Open(es.Config{URL: "esdb://" + address + "?tls=false"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r := start(t, Config{}, log, served(func(ctx context.Context, c *metav1.Command) error {
		if c.Reason == "read" {
			return log.Read(ctx, "test-"+c.CommandId, 0, func(es.Recorded) error { return nil })
		}
		_, err := log.Append(ctx, "test-"+c.CommandId, es.NoStream, []es.NewEvent{{ID: uuid.New(), Type: "test", Data: []byte("x"), Metadata: []byte("{}")}})
		return err
	}))
	await := func(name string, want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		w, err := healthv1.NewHealthClient(r.conn).Watch(within(t, time.Minute), &healthv1.HealthCheckRequest{Service: name})
		if err != nil {
			t.Fatal(err)
		}
		awaitHealth(t, w, want)
	}
	await("test.write", healthv1.HealthCheckResponse_SERVING)

	// The time that calls take is counted in ticks, which are lost while the machine
	// runs others: a process that did not run has kept nobody waiting.
	const tick = 50 * time.Millisecond
	var ticks atomic.Int64
	go func() {
		for t.Context().Err() == nil {
			<-time.After(tick)
			ticks.Add(1)
		}
	}()
	// Four callers call without a pause, reading and writing in turn.
	const deadline, slack = 2 * time.Second, time.Second
	var answered, failed, hung atomic.Int64
	wrote := make(chan string, 1<<20)
	ending, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { ended <- struct{}{} }()
			for i := 0; ending.Err() == nil; i++ {
				c := command()
				c.CommandId = uuid.NewString()
				if i%2 == 1 {
					c.Reason = "read"
				}
				ctx, cancel := context.WithTimeout(context.Background(), deadline)
				begun := ticks.Load()
				err := r.do(ctx, c)
				cancel()
				answered.Add(1)
				if time.Duration(ticks.Load()-begun)*tick > deadline+slack {
					hung.Add(1)
				}
				switch status.Code(err) {
				case codes.OK:
					if c.Reason == "" {
						wrote <- c.CommandId
					}
				case codes.Unavailable, codes.DeadlineExceeded:
					failed.Add(1)
				default:
					t.Errorf("during the outage: %v", err)
				}
			}
		}()
	}
	first := <-wrote
	down()
	await("test.write", healthv1.HealthCheckResponse_NOT_SERVING)
	await("test.read", healthv1.HealthCheckResponse_NOT_SERVING)
	<-time.After(outage) // the fault itself: it must last longer than the client's own patience
	if lis, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	down = up(lis)
	await("", healthv1.HealthCheckResponse_SERVING)
	recovered := time.Since(back)
	written := []string{first}
	for len(wrote) > 0 {
		written = append(written, <-wrote)
	}
	written = append(written, <-wrote) // one after the outage
	end()
	for range 4 {
		<-ended
	}
	for _, id := range written {
		n := 0
		if err := log.Read(within(t, time.Minute), "test-"+id, 0, func(es.Recorded) error { n++; return nil }); err != nil || n != 1 {
			t.Errorf("an acknowledged event is there %d times, %v", n, err)
		}
	}
	if hung.Load() > 0 || failed.Load() == 0 {
		t.Errorf("%d calls hung, %d failed", hung.Load(), failed.Load())
	}
	t.Logf("outage of the node, %s: %d calls answered, %d of them failed, %d hung; %d acknowledged events are there; SERVING again after %s", outage, answered.Load(), failed.Load(), hung.Load(), len(written), recovered.Round(time.Millisecond))
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	down()
}
