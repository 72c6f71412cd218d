// Package es is the only code in Waymark that appends to the event store, and
// the only load-decide-append-retry there is.
package es

import (
	"context"

	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
)

// Decider folds one kind of stream. Both functions are pure.
type Decider[S any] struct {
	// Category is the stream's: "referral" for streams "referral-<id>".
	Category string
	// Evolve applies one event. The zero S is the state of an empty stream. It
	// must not change what earlier states share (copy maps and slices that grow).
	Evolve func(S, proto.Message) S
}

// State is a fold of a stream up to and including Revision.
type State[S any] struct {
	Value    S
	Revision Revision // NoStream when nothing was ever written
	Position Position // of the event at Revision
}

// Request is a command request of a service: a proto message with the command
// header as a field.
type Request interface {
	proto.Message
	GetCommand() *metav1.Command
}

// Streams runs the commands of one kind of stream.
type Streams[S any] struct {
	_ S // TODO
}

// Options of NewStreams. The zero value of each field but Key is a sound default.
type Options struct {
	// Key keys the hash of command bodies that metadata keeps: a bare hash of a
	// body with an NHS number could be reversed by trying all numbers.
	Key []byte
	// Cached is how many folded streams are kept; 0 means 10,000.
	Cached int
}

// NewStreams returns a runner for the decider's streams in log.
func NewStreams[S any](log Log, decider Decider[S], opts Options) *Streams[S] { return nil }

// Do runs one command: loads the fold of stream id, calls decide, appends what
// it returns at the revision decided upon, and returns the state after it.
//
//   - A command id that the stream has already taken (last 256) with the same
//     request returns the state as it was right after that command, decides and
//     writes nothing; with another request it is refused with
//     command.id_reused (INVALID_ARGUMENT).
//   - decide may be called several times and must be pure; its error is returned
//     as it is. No events is success and records nothing.
//   - A lost race reads the tail and decides again, 5 attempts with jitter, then
//     command.contended (ABORTED).
//   - An append whose outcome is unknown is repeated with the same bytes or found
//     again in the tail; it is never decided anew before the tail was read.
func (s *Streams[S]) Do(ctx context.Context, id string, req Request, decide func(S) ([]proto.Message, error)) (State[S], error) {
	return State[S]{}, nil
}

// Load returns the newest state of stream id; it reads at most the tail that
// the cache lacks. An empty stream is State{Revision: NoStream}, no error.
func (s *Streams[S]) Load(ctx context.Context, id string) (State[S], error) {
	return State[S]{}, nil
}
