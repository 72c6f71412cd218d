// Package fault holds the errors that a caller can act on. Each carries its
// gRPC status and a machine code such as "referral.stale", which crosses the
// wire as google.rpc.ErrorInfo (reason REFERRAL_STALE, metadata code) so that
// any client can branch on it. Every other error is wrapped, logged and hidden
// by kit/run.
//
// Texts are for people who must act and hold no patient data: name the field
// and the fix, never the value.
package fault

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the ErrorInfo domain of every error of ours.
const Domain = "waymark"

// Error is a refusal or a failure with a code. The zero value is not valid;
// make one with the functions below.
type Error struct {
	GRPC       codes.Code
	Code       string        // lower case, dotted: "person.nhs_number.invalid"
	Text       string        // what is wrong and what to do
	Fields     []Field       // for InvalidArgument
	RetryAfter time.Duration // for Unavailable and ResourceExhausted
}

// Field is one violation of a request. Path is the proto field path.
type Field struct{ Path, Text string }

func (e *Error) Error() string { return e.Code + ": " + e.Text }

// Is makes errors.Is(err, fault) true for any error with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// GRPCStatus is how grpc-go turns the error into a status.
func (e *Error) GRPCStatus() *status.Status {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{
		Reason:   strings.ToUpper(strings.ReplaceAll(e.Code, ".", "_")),
		Domain:   Domain,
		Metadata: map[string]string{"code": e.Code},
	}}
	if len(e.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range e.Fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Text})
		}
		details = append(details, bad)
	}
	if e.GRPC == codes.FailedPrecondition {
		details = append(details, &errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{Type: e.Code, Description: e.Text}}})
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	s, err := status.New(e.GRPC, e.Text).WithDetails(details...)
	if err != nil {
		return status.New(e.GRPC, e.Text)
	}
	return s
}

// Invalid says that one field of the request is wrong whatever the state.
func Invalid(code, field, text string) *Error {
	return &Error{GRPC: codes.InvalidArgument, Code: code, Text: field + ": " + text, Fields: []Field{{field, text}}}
}

// InvalidFields says that several fields are wrong.
func InvalidFields(code string, fields ...Field) *Error {
	text := make([]string, len(fields))
	for i, f := range fields {
		text[i] = f.Path + ": " + f.Text
	}
	return &Error{GRPC: codes.InvalidArgument, Code: code, Text: strings.Join(text, "; "), Fields: fields}
}

// Refused says that the state forbids the command.
func Refused(code, text string) *Error {
	return &Error{GRPC: codes.FailedPrecondition, Code: code, Text: text}
}

// NotFound says that the thing named does not exist.
func NotFound(code, text string) *Error {
	return &Error{GRPC: codes.NotFound, Code: code, Text: text}
}

// Exists says that what was to be made is there already.
func Exists(code, text string) *Error {
	return &Error{GRPC: codes.AlreadyExists, Code: code, Text: text}
}

// Denied says that the actor may not do this.
func Denied(code, text string) *Error {
	return &Error{GRPC: codes.PermissionDenied, Code: code, Text: text}
}

// Aborted says that the command lost a race too often; the same call may succeed.
func Aborted(code, text string) *Error {
	return &Error{GRPC: codes.Aborted, Code: code, Text: text}
}

// Unavailable says that a part the call needs is down.
func Unavailable(code, text string, retryAfter time.Duration) *Error {
	return &Error{GRPC: codes.Unavailable, Code: code, Text: text, RetryAfter: retryAfter}
}

// Exhausted says that a resource ran out: room on disk, calls in flight.
func Exhausted(code, text string, retryAfter time.Duration) *Error {
	return &Error{GRPC: codes.ResourceExhausted, Code: code, Text: text, RetryAfter: retryAfter}
}

// TimedOut says that the deadline of the call passed first; a write may or may
// not have happened.
func TimedOut(code, text string) *Error {
	return &Error{GRPC: codes.DeadlineExceeded, Code: code, Text: text}
}

// Canceled says that the caller went away; a write may or may not have happened.
func Canceled(code, text string) *Error {
	return &Error{GRPC: codes.Canceled, Code: code, Text: text}
}

// Lost says that what is stored is damaged or cannot be understood. Nothing is
// decided upon it.
func Lost(code, text string) *Error {
	return &Error{GRPC: codes.DataLoss, Code: code, Text: text}
}

// IsAnswer reports whether err is a decision of the called service rather than
// a failure to reach one: a process manager records an answer and retries
// everything else. It understands errors from this process and from the wire.
func IsAnswer(err error) bool {
	var e *Error
	c := status.Code(err)
	if errors.As(err, &e) {
		c = e.GRPC
	}
	switch c {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.OutOfRange:
		return true
	}
	return false
}

// CodeOf returns the machine code of err, from this process or from the wire,
// or "" when it has none.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == Domain {
			return info.Metadata["code"]
		}
	}
	return ""
}
