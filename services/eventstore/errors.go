package eventstore

import (
	"context"
	"errors"
	"net/url"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// accessDenied says that the user may not do this to the stream.
type accessDenied struct{ stream string }

func (e *accessDenied) Error() string { return "access is denied" }

// appendTooLarge says that one append holds more than Config.MaxAppendSize bytes.
type appendTooLarge struct{ max int }

func (e *appendTooLarge) Error() string {
	return "maximum append size of " + strconv.Itoa(e.max) + " bytes exceeded"
}

// refuse turns an error into the status that EventStoreDB answers with, and sets
// the trailers that clients read. The official client panics without
// stream-name.
func refuse(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	trailers := func(kv ...string) {
		// It fails only when the call has ended; then nobody reads trailers.
		_ = grpc.SetTrailer(ctx, metadata.Pairs(kv...))
	}
	var (
		deleted *streamDeleted
		wrong   *wrongVersion
		denied  *accessDenied
		large   *appendTooLarge
	)
	switch {
	case errors.As(err, &deleted):
		trailers("exception", "stream-deleted", "stream-name", headerText(deleted.stream))
		return status.Error(codes.FailedPrecondition, "stream is deleted")
	case errors.As(err, &wrong):
		trailers("exception", "wrong-expected-version", "stream-name", headerText(wrong.stream),
			"expected-version", strconv.FormatInt(wrong.expected, 10), "actual-version", strconv.FormatInt(wrong.actual, 10))
		return status.Error(codes.FailedPrecondition, wrong.Error())
	case errors.As(err, &denied):
		trailers("exception", "access-denied")
		return status.Error(codes.PermissionDenied, "access is denied")
	case errors.As(err, &large):
		trailers("exception", "maximum-append-size-exceeded", "maximum-append-size", strconv.Itoa(large.max))
		return status.Error(codes.InvalidArgument, large.Error())
	case errors.Is(err, errNoRoom):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, errClosed), errors.Is(err, errStorage):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case pebble.IsCorruptionError(err):
		return status.Error(codes.DataLoss, "the stored data is damaged: run fsck")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// headerText makes a stream name fit for a header.
func headerText(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return url.QueryEscape(s)
		}
	}
	return s
}

func invalid(text string) error { return status.Error(codes.InvalidArgument, text) }
