// Package runtest serves a service in tests as a program would: behind a real
// connection, with the interceptors of every Waymark process.
package runtest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"waymark/services/kit/es"
	"waymark/services/kit/run"
)

// Key keys the hashes of identifiers in tests.
var Key = []byte("0123456789abcdef0123456789abcdef")

// House is a service that is served until the test ends.
type House struct {
	T    *testing.T
	Conn *grpc.ClientConn
	Part run.Part // as it was made: served without React, the test hands events over itself
}

// Serve serves the part that create returns, and beside it those that answer as
// other services.
func Serve(t *testing.T, log es.Log, clock func() time.Time, create func(run.Deps) (run.Part, error), others ...run.Part) *House {
	t.Helper()
	p, err := run.Listen(t.Context(), run.Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Drain: time.Nanosecond}, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	deps := p.Deps(log, nil, Key)
	deps.Clock = clock
	part, err := create(deps)
	if err != nil {
		t.Fatal(err)
	}
	h := &House{T: t, Part: part}
	part.React = nil
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, deps, append([]run.Part{part}, others...)...) }()
	select {
	case <-p.Ready(): // a busy machine compiles the rules of the contracts for longer than a client waits
	case err := <-ended:
		cancel()
		t.Fatalf("Serve ended with %v", err)
	}
	if h.Conn, err = run.Dial(p.GRPC(), nil, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
	return h
}

// Call invokes the RPC that req is the request of.
func (h *House) Call(req proto.Message) (proto.Message, error) {
	h.T.Helper()
	method := MethodOf(h.T, req)
	reply, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		h.T.Fatal(err)
	}
	out := reply.New().Interface()
	ctx, cancel := context.WithTimeout(h.T.Context(), 10*time.Second)
	defer cancel()
	return out, h.Conn.Invoke(ctx, fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name()), req, out)
}

// Must is Call for requests that are not refused.
func (h *House) Must(req proto.Message) proto.Message {
	h.T.Helper()
	reply, err := h.Call(req)
	if err != nil {
		h.T.Fatalf("%s: %v", Name(req), err)
	}
	return reply
}

// BadField calls the RPC that req is the request of, which must refuse it as
// INVALID_ARGUMENT, and returns the field that is named first.
func (h *House) BadField(req proto.Message) string {
	h.T.Helper()
	_, err := h.Call(req)
	if status.Code(err) != codes.InvalidArgument {
		h.T.Errorf("%s: %v, want INVALID_ARGUMENT", Name(req), err)
		return ""
	}
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok && len(bad.FieldViolations) > 0 {
			return bad.FieldViolations[0].Field
		}
	}
	h.T.Errorf("%s: no BadRequest in %v", Name(req), err)
	return ""
}

// Name is the name of a message without its package.
func Name(m proto.Message) string { return string(m.ProtoReflect().Descriptor().Name()) }

// Methods lists the RPCs of contracts, in the order they are written.
func Methods(files ...protoreflect.FileDescriptor) (all []protoreflect.MethodDescriptor) {
	for _, f := range files {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				all = append(all, s.Methods().Get(j))
			}
		}
	}
	return all
}

// MethodOf is the RPC that req is the request of; no two have the same.
func MethodOf(t *testing.T, req proto.Message) protoreflect.MethodDescriptor {
	t.Helper()
	want := req.ProtoReflect().Descriptor()
	for _, m := range Methods(want.ParentFile()) {
		if m.Input() == want {
			return m
		}
	}
	t.Fatalf("no RPC takes %s", want.Name())
	return nil
}
