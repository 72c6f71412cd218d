package eventstore

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// admin is the user whom access control lists do not bind.
const admin = "admin"

// access is what a call wants to do to a stream.
type access byte

const (
	toRead access = iota
	toWrite
	toDelete
)

// userKey is the context key of the authenticated user's name.
type userKey struct{}

// anonymous methods need no credentials: clients call them before they have a
// place to send them.
var anonymous = map[string]bool{
	"/event_store.client.gossip.Gossip/Read":                                 true,
	"/event_store.client.server_features.ServerFeatures/GetSupportedMethods": true,
}

// authenticate returns a context that holds the caller's name. A node without TLS
// does not ask: it allows all.
func (n *Node) authenticate(ctx context.Context, method string) (context.Context, error) {
	if anonymous[method] {
		return ctx, nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for _, v := range md.Get("authorization") {
		scheme, coded, _ := strings.Cut(v, " ")
		if !strings.EqualFold(scheme, "basic") {
			continue
		}
		plain, err := base64.StdEncoding.DecodeString(coded)
		if err != nil {
			continue
		}
		name, password, _ := strings.Cut(string(plain), ":")
		want, known := n.cfg.Users[name]
		got, expect := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(want))
		if subtle.ConstantTimeCompare(got[:], expect[:]) == 1 && known {
			return context.WithValue(ctx, userKey{}, name), nil
		}
	}
	return nil, status.Error(codes.Unauthenticated, "the call needs the credentials of a user of this node")
}

func (n *Node) authenticateUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	ctx, err := n.authenticate(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

func (n *Node) authenticateStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx, err := n.authenticate(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if ctx != stream.Context() {
		stream = userStream{stream, ctx}
	}
	return handle(srv, stream)
}

// userStream is a stream whose context holds the caller's name.
type userStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s userStream) Context() context.Context { return s.ctx }

// allow checks the stream's access control list, or the default: everybody may
// use a stream, and only the administrator a system stream. Nobody writes to
// $all.
func (n *Node) allow(ctx context.Context, stream string, want access) error {
	if stream == "$all" && want != toRead {
		return &accessDenied{stream}
	}
	user, ok := ctx.Value(userKey{}).(string)
	if !ok || user == admin {
		return nil
	}
	about, meta := stream, isMetastream(stream)
	if meta {
		about = originalOf(stream)
	}
	durable, _ := n.log.position()
	h, err := n.store.head(about, durable)
	if err != nil {
		return err
	}
	var allowed []string
	if list := h.meta.acl; list != nil {
		switch {
		case meta && want == toRead:
			allowed = list.metaRead
		case meta:
			allowed = list.metaWrite
		case want == toRead:
			allowed = list.read
		case want == toWrite:
			allowed = list.write
		default:
			allowed = list.delete
		}
	}
	if allowed == nil && !isSystem(about) || slices.Contains(allowed, "$all") || slices.Contains(allowed, user) {
		return nil
	}
	return &accessDenied{stream}
}
