package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"waymark/services/kit/fault"
)

// The exit codes. Scripts depend on them: a code is never given another meaning.
const (
	exitOK = iota
	exitError
	exitUsage
	exitNotFound
	exitConflict
	exitVerification
	exitUnavailable
)

const exitHelp = `  0  done
  1  it failed
  2  usage: the command line or the request is wrong; repeating it will not help
  3  not found
  4  conflict: the state of the record refuses it
  5  verification failed: something recorded is not as it was written
  6  unavailable: a part is down, not ready or too slow; repeating it may help`

// coded is an error that knows its exit code and what to do next.
type coded struct {
	error
	code int
	next string // a hint, may be empty
}

func (e *coded) Unwrap() error { return e.error }

// usage says that the caller's command line is wrong; cmd, whose help would tell,
// may be nil.
func usage(cmd *cobra.Command, err error) error {
	var already *coded
	if errors.As(err, &already) {
		return err
	}
	if cmd == nil {
		return &coded{err, exitUsage, ""}
	}
	return &coded{err, exitUsage, "see " + cmd.CommandPath() + " --help"}
}

// damaged says that something recorded is not as it was written.
func damaged(next, format string, args ...any) error {
	return &coded{fmt.Errorf(format, args...), exitVerification, next}
}

func notFound(next, format string, args ...any) error {
	return &coded{fmt.Errorf(format, args...), exitNotFound, next}
}

func unavailable(next, format string, args ...any) error {
	return &coded{fmt.Errorf(format, args...), exitUnavailable, next}
}

// exitOf returns the exit code of an error.
func exitOf(err error) int {
	var known *coded
	if errors.As(err, &known) {
		return known.code
	}
	switch codeOf(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.Unimplemented:
		return exitUsage
	case codes.NotFound:
		return exitNotFound
	case codes.AlreadyExists, codes.FailedPrecondition, codes.Aborted:
		return exitConflict
	case codes.DataLoss:
		return exitVerification
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		return exitUnavailable
	}
	return exitError
}

// codeOf is the gRPC code of an error from this process or from the wire.
func codeOf(err error) codes.Code {
	var e *fault.Error
	switch {
	case errors.As(err, &e):
		return e.GRPC
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	}
	return status.Code(err)
}

// explain prints an error for a person who must act, and returns the exit code:
// what is wrong, each field that is, and what to do next.
func (c *cli) explain(err error) int {
	var known *coded
	cause := err
	if errors.As(err, &known) {
		cause = known.error
	}
	text := cause.Error()
	if answer, ok := cause.(interface{ GRPCStatus() *status.Status }); ok { // not wrapped in words of ours
		s := answer.GRPCStatus()
		text = strings.TrimSpace(fault.CodeOf(cause)+" ") + ": " + s.Message()
		text = code.Code_name[int32(s.Code())] + " " + strings.TrimPrefix(text, ": ")
	}
	fmt.Fprintf(c.err, "error: %s\n", strings.TrimSpace(text))
	if s, ok := status.FromError(cause); ok {
		for _, d := range s.Details() {
			switch d := d.(type) {
			case *errdetails.BadRequest:
				for _, f := range d.FieldViolations {
					fmt.Fprintf(c.err, "  %s: %s\n", f.Field, f.Description)
				}
			case *errdetails.RetryInfo:
				fmt.Fprintf(c.err, "  it may work in %s\n", d.RetryDelay.AsDuration())
			}
		}
	}
	if known != nil && known.next != "" && !c.quiet {
		fmt.Fprintf(c.err, "next: %s\n", known.next)
	}
	return exitOf(err)
}
