package run

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

const (
	testService = "waymark.test.v1.TestService"
	doMethod    = "/" + testService + "/Do"
	watchMethod = "/" + testService + "/Watch"
)

// TestMain declares a service whose requests are commands, as a contract would.
func TestMain(m *testing.M) {
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("waymark/test/v1/test.proto"), Package: proto.String("waymark.test.v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"waymark/meta/v1/meta.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("TestService"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Do"), InputType: proto.String(".waymark.meta.v1.Command"), OutputType: proto.String(".waymark.meta.v1.Receipt")},
			{Name: proto.String("Watch"), InputType: proto.String(".waymark.meta.v1.Command"), OutputType: proto.String(".waymark.meta.v1.Receipt"), ServerStreaming: proto.Bool(true)},
		}}},
	}, protoregistry.GlobalFiles)
	if err == nil {
		err = protoregistry.GlobalFiles.RegisterFile(file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// served is a part whose calls are answered by do.
func served(do func(context.Context, *metav1.Command) error) Part {
	return Part{Name: "test", Register: func(r grpc.ServiceRegistrar) {
		r.RegisterService(&grpc.ServiceDesc{
			ServiceName: testService,
			HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
				req := &metav1.Command{}
				if err := decode(req); err != nil {
					return nil, err
				}
				return intercept(ctx, req, &grpc.UnaryServerInfo{FullMethod: doMethod}, func(ctx context.Context, req any) (any, error) {
					return &metav1.Receipt{Revision: 1}, do(ctx, req.(*metav1.Command))
				})
			}}},
			Streams: []grpc.StreamDesc{{StreamName: "Watch", ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
				req := &metav1.Command{}
				if err := ss.RecvMsg(req); err != nil {
					return err
				}
				return do(ss.Context(), req)
			}}},
		}, struct{}{})
	}}
}

type running struct {
	*Program
	conn *grpc.ClientConn // bare: no deadline, no retry
	stop func() error
	logs *syncBuffer
}

// start serves parts on free ports until the test ends or stop is called.
func start(t *testing.T, cfg Config, log es.Log, parts ...Part) *running {
	t.Helper()
	cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	cfg.HealthEvery, cfg.Drain = 10*time.Millisecond, time.Nanosecond
	logs := &syncBuffer{}
	logger, err := NewLogger(logs, "json", "debug")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Listen(t.Context(), cfg, "waymark-test", logger)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, p.Deps(log, nil, nil), parts...) }()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
	r := &running{Program: p, stop: stop, logs: logs}
	if cfg.TLSCert == "" {
		r.conn, err = grpc.NewClient(p.GRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.conn.Close() })
	}
	return r
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func (r *running) do(ctx context.Context, c *metav1.Command) error {
	return r.conn.Invoke(ctx, doMethod, c, &metav1.Receipt{})
}

func command() *metav1.Command {
	return &metav1.Command{CommandId: "7c2b1bde-9c1f-4dd4-8e0c-1d2ba3f0f0aa", Actor: &metav1.Actor{User: "U1", Organisation: "RJ1"}}
}

func detail[T proto.Message](err error) (found T) {
	for _, d := range status.Convert(err).Details() {
		if m, ok := d.(T); ok {
			return m
		}
	}
	return found
}

func TestDeadlineIsRequiredCappedAndShaved(t *testing.T) {
	var left time.Duration
	r := start(t, Config{DeadlineCap: 2 * time.Second}, nil, served(func(ctx context.Context, _ *metav1.Command) error {
		end, _ := ctx.Deadline()
		left = time.Until(end)
		return nil
	}))
	err := r.do(t.Context(), command())
	if status.Code(err) != codes.InvalidArgument || fault.CodeOf(err) != "call.deadline_missing" {
		t.Errorf("without a deadline: %v", err)
	}
	if err := r.do(within(t, time.Hour), command()); err != nil || left > 2*time.Second-hop {
		t.Errorf("an hour was not capped: %s left, %v", left, err)
	}
	caller := within(t, 1500*time.Millisecond)
	end, _ := caller.Deadline()
	if err := r.do(caller, command()); err != nil || left > time.Until(end)+(1500*time.Millisecond-hop) {
		t.Errorf("not shaved: %s left, %v", left, err)
	}
	if err := r.do(within(t, minRemaining-time.Millisecond), command()); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("too short a deadline: %v", err)
	}
}

func TestDialSetsADeadline(t *testing.T) {
	r := start(t, Config{}, nil, served(func(context.Context, *metav1.Command) error { return nil }))
	conn, err := Dial(r.GRPC(), nil, r.Telemetry())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Invoke(t.Context(), doMethod, command(), &metav1.Receipt{}); err != nil {
		t.Error(err)
	}
}

func TestBadRequestNamesTheFieldAndNotTheValue(t *testing.T) {
	r := start(t, Config{}, nil, served(func(context.Context, *metav1.Command) error { return nil }))
	c := command()
	c.CommandId, c.Actor.Organisation, c.Purpose = "9990000018", "lower case", "SPY"
	err := r.do(within(t, time.Minute), c)
	var paths []string
	for _, v := range detail[*errdetails.BadRequest](err).GetFieldViolations() {
		paths = append(paths, v.Field)
	}
	slices.Sort(paths)
	if got := strings.Join(paths, " "); got != "actor.organisation command_id purpose" || fault.CodeOf(err) != "request.invalid" {
		t.Errorf("violations of %q: %v", got, err)
	}
	for _, value := range []string{"9990000018", "lower case", "SPY"} {
		if text := fmt.Sprint(status.Convert(err).Proto()); strings.Contains(text, value) {
			t.Errorf("the answer repeats %q: %s", value, text)
		}
	}
	stream, err := r.conn.NewStream(within(t, time.Minute), &grpc.StreamDesc{ServerStreams: true}, watchMethod)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg(c), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&metav1.Receipt{}); fault.CodeOf(err) != "request.invalid" {
		t.Errorf("stream: %v", err)
	}
}

func TestErrorsCrossTheEdge(t *testing.T) {
	const secret = "s3cret"
	answers := map[string]error{
		"fault":      fmt.Errorf("deciding: %w", fault.Refused("referral.stale", "read the referral again")),
		"downstream": status.Convert(withReference(fault.NotFound("person.unknown", "no such person").GRPCStatus(), "theirs").Err()).Err(),
		"deadline":   fmt.Errorf("reading: %w", context.DeadlineExceeded),
		"down":       status.Error(codes.Unavailable, "dial tcp "+secret),
		"hidden":     errors.New(secret),
		"foreign":    status.Error(codes.PermissionDenied, secret),
	}
	r := start(t, Config{}, nil, served(func(_ context.Context, c *metav1.Command) error {
		if err, ok := answers[c.Reason]; ok {
			return err
		}
		if c.Reason == "nil pointer" {
			c = nil
			_ = c.Reason
		}
		panic(secret)
	}))
	for reason, want := range map[string]struct {
		grpc codes.Code
		code string
	}{
		"fault":       {codes.FailedPrecondition, "referral.stale"},
		"downstream":  {codes.NotFound, "person.unknown"},
		"deadline":    {codes.DeadlineExceeded, "call.deadline"},
		"down":        {codes.Unavailable, "call.unavailable"},
		"hidden":      {codes.Internal, ""},
		"foreign":     {codes.Internal, ""},
		"panic":       {codes.Internal, ""},
		"nil pointer": {codes.Internal, ""},
	} {
		c := command()
		c.Reason = reason
		err := r.do(within(t, time.Minute), c)
		id := detail[*errdetails.RequestInfo](err).GetRequestId()
		if status.Code(err) != want.grpc || fault.CodeOf(err) != want.code || strings.Contains(fmt.Sprint(status.Convert(err).Proto()), secret) || len(id) != 32 {
			t.Errorf("%s: %v, reference %q", reason, err, id)
		}
		logged := strings.Contains(r.logs.String(), id)
		if hidden := want.grpc == codes.Internal; logged != hidden || hidden && !strings.HasSuffix(status.Convert(err).Message(), id) {
			t.Errorf("%s: logged %v, text %q", reason, logged, status.Convert(err).Message())
		}
		if reason == "panic" && strings.Contains(r.logs.String(), `panic: `+secret) {
			t.Error("the value of a panic was logged")
		}
	}
	body := get(t, "http://"+r.HTTP()+"/metrics")
	for _, want := range []string{`waymark_command_duration_seconds_count{error_type="referral.stale"`, "go_goroutines", "rpc_server_call_duration"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestOverloadIsRefusedWithAWait(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	r := start(t, Config{InFlight: 1}, nil, served(func(context.Context, *metav1.Command) error {
		inside <- struct{}{}
		<-leave
		return nil
	}))
	first := make(chan error, 1)
	go func() { first <- r.do(within(t, time.Minute), command()) }()
	<-inside
	err := r.do(within(t, time.Minute), command())
	if status.Code(err) != codes.ResourceExhausted || detail[*errdetails.RetryInfo](err).GetRetryDelay().AsDuration() <= 0 {
		t.Errorf("second call: %v", err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Errorf("first call: %v", err)
	}
}

// TestRefusalsLeaveNothing: nobody can fill the memory with calls that are refused,
// however far off their deadlines are.
func TestRefusalsLeaveNothing(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	r := start(t, Config{InFlight: 1, DeadlineCap: time.Second}, nil, served(func(context.Context, *metav1.Command) error {
		close(inside)
		<-leave
		return nil
	}))
	first := make(chan error, 1)
	go func() { first <- r.do(within(t, time.Minute), command()) }()
	<-inside
	objects := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapObjects)
	}
	refuse := func(n int) {
		for range n {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if err := r.do(ctx, command()); status.Code(err) != codes.ResourceExhausted {
				t.Fatal(err)
			}
			cancel()
		}
	}
	refuse(100)
	before := objects()
	const n = 2000
	refuse(n)
	if more := objects() - before; more > n {
		t.Errorf("%d refused calls left %d objects", n, more)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Errorf("first call: %v", err)
	}
}

func TestStopLosesNoCallInProgress(t *testing.T) {
	inside, leave := make(chan struct{}, 8), make(chan struct{})
	part := served(func(ctx context.Context, c *metav1.Command) error {
		inside <- struct{}{}
		if c.Reason == "watch" {
			<-ctx.Done()
			return ctx.Err()
		}
		<-leave
		return nil
	})
	closed := false
	part.Close = func() error { closed = true; return nil }
	r := start(t, Config{}, nil, part)
	calls := make(chan error, 8)
	for range 4 {
		go func() { calls <- r.do(within(t, time.Minute), command()) }()
		<-inside
	}
	c := command()
	c.Reason = "watch"
	stream, err := r.conn.NewStream(within(t, time.Minute), &grpc.StreamDesc{ServerStreams: true}, watchMethod)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg(c), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	<-inside
	watch, err := healthv1.NewHealthClient(r.conn).Watch(within(t, time.Minute), &healthv1.HealthCheckRequest{Service: "test"})
	if err != nil {
		t.Fatal(err)
	}
	awaitHealth(t, watch, healthv1.HealthCheckResponse_SERVING)
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	awaitHealth(t, watch, healthv1.HealthCheckResponse_NOT_SERVING)
	if err := stream.RecvMsg(&metav1.Receipt{}); fault.CodeOf(err) != "call.server_stopping" {
		t.Errorf("stream ended with %v", err)
	}
	close(leave)
	for range 4 {
		if err := <-calls; err != nil {
			t.Errorf("call in progress: %v", err)
		}
	}
	if err := <-stopped; err != nil || !closed {
		t.Errorf("stop: %v, closed %v", err, closed)
	}
}

func TestStopCutsOffWhatDoesNotEnd(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	defer close(leave)
	cfg := Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", HealthEvery: time.Hour, Drain: time.Nanosecond}
	p, err := Listen(t.Context(), cfg, "waymark-test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p.grace = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- p.Serve(ctx, p.Deps(nil, nil, nil), served(func(context.Context, *metav1.Command) error {
			close(inside)
			<-leave
			return nil
		}))
	}()
	conn, err := Dial(p.GRPC(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go conn.Invoke(ctx, doMethod, command(), &metav1.Receipt{})
	<-inside
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("Serve ended with %v", err)
	}
}

func TestHealthFollowsTheLogAndTheParts(t *testing.T) {
	log := &sick{}
	broken := make(chan error)
	part := served(func(context.Context, *metav1.Command) error { return nil })
	part.Run = func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			if err == nil {
				panic("s3cret")
			}
			return err
		}
	}
	r := start(t, Config{}, log, part)
	watch := func(name string) func(healthv1.HealthCheckResponse_ServingStatus) {
		w, err := healthv1.NewHealthClient(r.conn).Watch(within(t, time.Minute), &healthv1.HealthCheckRequest{Service: name})
		if err != nil {
			t.Fatal(err)
		}
		return func(want healthv1.HealthCheckResponse_ServingStatus) { t.Helper(); awaitHealth(t, w, want) }
	}
	const up, down = healthv1.HealthCheckResponse_SERVING, healthv1.HealthCheckResponse_NOT_SERVING
	all, read, write, service := watch(""), watch("test.read"), watch("test.write"), watch(testService)
	for _, await := range []func(healthv1.HealthCheckResponse_ServingStatus){all, read, write, service} {
		await(up)
	}
	<-r.Ready()
	log.set(nil, errors.New("disk full"))
	write(down)
	all(down)
	service(down)
	if got := check(t, r.conn, "test.read"); got != up {
		t.Errorf("read is %s while only writes fail", got)
	}
	if body := get(t, "http://"+r.HTTP()+"/readyz"); !strings.Contains(body, `test.write NOT_SERVING "disk full"`) {
		t.Errorf("/readyz:\n%s", body)
	}
	log.set(nil, nil)
	write(up)
	all(up)
	service(up)
	for _, err := range []error{errors.New("read model broke"), nil} {
		broken <- err
		read(down)
		all(down)
		if got := check(t, r.conn, "test.write"); got != up {
			t.Errorf("write is %s while only the read model fails", got)
		}
		read(up)
		all(up)
	}
	if strings.Contains(r.logs.String(), "s3cret") {
		t.Error("the value of a panic was logged")
	}
}

// TestHealthDoesNotWaitForALogThatHangs has a log that ignores its context.
func TestHealthDoesNotWaitForALogThatHangs(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	c, err := newChecker(time.Hour, &sick{hang: hang}, slog.New(slog.DiscardHandler), noop.Meter{}, []watched{{name: "test", runs: noFault, also: noFault}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if read, write := c.ask(ctx); read == nil || write == nil {
		t.Errorf("read %v, write %v", read, write)
	}
}

func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{TLSCert: filepath.Join(dir, "cert"), TLSKey: filepath.Join(dir, "key"), TLSCA: filepath.Join(dir, "cert")}
	selfSigned(t, cfg.TLSCert, cfg.TLSKey)
	r := start(t, cfg, nil, served(func(context.Context, *metav1.Command) error { return nil }))
	creds, err := cfg.clientTLS()
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := Dial(r.GRPC(), creds, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer trusted.Close()
	if err := trusted.Invoke(t.Context(), doMethod, command(), &metav1.Receipt{}); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	stranger, err := Dial(r.GRPC(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := stranger.Invoke(t.Context(), doMethod, command(), &metav1.Receipt{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: %v", err)
	}
}

func TestHugeHeadersAreRefused(t *testing.T) {
	r := start(t, Config{}, nil, served(func(context.Context, *metav1.Command) error { return nil }))
	ctx := metadata.AppendToOutgoingContext(within(t, time.Minute), "x", strings.Repeat("y", 20<<10))
	if err := r.do(ctx, command()); err == nil {
		t.Error("20 KiB of headers were taken")
	}
	c := command()
	c.Reason = strings.Repeat("y", 2<<20)
	if err := r.do(within(t, time.Minute), c); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("2 MiB: %v", err)
	}
}

// sick is a log of which only the health is asked.
type sick struct {
	es.Log
	hang        chan struct{}
	mu          sync.Mutex
	read, write error
}

func (s *sick) Health(context.Context) (read, write error) {
	if s.hang != nil {
		<-s.hang
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read, s.write
}

func (s *sick) set(read, write error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read, s.write = read, write
}

func awaitHealth(t *testing.T, w healthv1.Health_WatchClient, want healthv1.HealthCheckResponse_ServingStatus) {
	t.Helper()
	for {
		got, err := w.Recv()
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if got.Status == want {
			return
		}
	}
}

func check(t *testing.T, conn *grpc.ClientConn, name string) healthv1.HealthCheckResponse_ServingStatus {
	got, err := healthv1.NewHealthClient(conn).Check(within(t, time.Minute), &healthv1.HealthCheckRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	return got.Status
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func selfSigned(t *testing.T, cert, key string) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "waymark test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: encoded}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// syncBuffer is a log that a test may read while the program writes it.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
