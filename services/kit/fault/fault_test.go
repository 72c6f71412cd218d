package fault

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Each kind keeps its status, its code and its details on the way to a client in
// any language, and is told apart as an answer or a failure.
func TestKinds(t *testing.T) {
	for _, c := range []struct {
		err    *Error
		grpc   codes.Code
		answer bool
	}{
		{Invalid("x.bad", "a.b", "must be good"), codes.InvalidArgument, true},
		{InvalidFields("x.bad", Field{"a", "1"}, Field{"b", "2"}), codes.InvalidArgument, true},
		{Refused("x.stale", "text"), codes.FailedPrecondition, true},
		{NotFound("x.none", "text"), codes.NotFound, true},
		{Exists("x.there", "text"), codes.AlreadyExists, true},
		{Denied("x.denied", "text"), codes.PermissionDenied, true},
		{Aborted("x.contended", "text"), codes.Aborted, false},
		{Unavailable("x.down", "text", time.Second), codes.Unavailable, false},
		{Exhausted("x.full", "text", time.Minute), codes.ResourceExhausted, false},
		{TimedOut("x.late", "text"), codes.DeadlineExceeded, false},
		{Canceled("x.gone", "text"), codes.Canceled, false},
		{Lost("x.broken", "text"), codes.DataLoss, false},
	} {
		wrapped := fmt.Errorf("while testing: %w", c.err)
		wire := status.ErrorProto(status.Convert(c.err).Proto()) // as a client gets it
		for name, err := range map[string]error{"plain": c.err, "wrapped": wrapped, "from the wire": wire} {
			if got := CodeOf(err); got != c.err.Code {
				t.Errorf("%s, %s: code %q", c.err.Code, name, got)
			}
			if IsAnswer(err) != c.answer {
				t.Errorf("%s, %s: answer %v", c.err.Code, name, !c.answer)
			}
		}
		s := status.Convert(wire)
		if s.Code() != c.grpc || s.Message() != c.err.Text {
			t.Errorf("%s: %v", c.err.Code, s)
		}
		details := make(map[string]bool)
		for _, d := range s.Details() {
			details[fmt.Sprintf("%T", d)] = true
			switch d := d.(type) {
			case *errdetails.ErrorInfo:
				if d.Reason != strings.ToUpper(strings.ReplaceAll(c.err.Code, ".", "_")) || d.Domain != Domain {
					t.Errorf("%s: %v", c.err.Code, d)
				}
			case *errdetails.BadRequest:
				if len(d.FieldViolations) != len(c.err.Fields) || d.FieldViolations[0].Field != c.err.Fields[0].Path {
					t.Errorf("%s: %v", c.err.Code, d)
				}
			case *errdetails.RetryInfo:
				if d.RetryDelay.AsDuration() != c.err.RetryAfter {
					t.Errorf("%s: %v", c.err.Code, d)
				}
			}
		}
		for detail, wanted := range map[string]bool{
			"*errdetails.ErrorInfo": true, "*errdetails.BadRequest": len(c.err.Fields) > 0,
			"*errdetails.RetryInfo": c.err.RetryAfter > 0, "*errdetails.PreconditionFailure": c.grpc == codes.FailedPrecondition,
		} {
			if details[detail] != wanted {
				t.Errorf("%s: %s there: %v", c.err.Code, detail, details[detail])
			}
		}
	}
}

func TestOtherErrors(t *testing.T) {
	for _, err := range []error{nil, errors.New("x"), status.Error(codes.Internal, "x")} {
		if CodeOf(err) != "" || IsAnswer(err) {
			t.Errorf("%v: %q, answer %v", err, CodeOf(err), IsAnswer(err))
		}
	}
	if !IsAnswer(status.Error(codes.NotFound, "of another service")) {
		t.Error("NOT_FOUND from the wire is no answer")
	}
	stale := Refused("x.stale", "one text")
	if !errors.Is(fmt.Errorf("w: %w", stale), Refused("x.stale", "another text")) || errors.Is(stale, Refused("x.other", "one text")) {
		t.Error("errors.Is does not go by the code")
	}
}
