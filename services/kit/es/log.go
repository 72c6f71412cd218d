package es

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Revision is the number of an event in its stream, from 0.
type Revision int64

// NoStream is the revision of a stream without events.
const NoStream Revision = -1

// Position is the place of an event in the log of all streams. Positions grow
// strictly; 0 is before the first event.
type Position uint64

// NewEvent is an event to be stored. Data is binary protobuf, Metadata is JSON.
type NewEvent struct {
	ID       uuid.UUID
	Type     string // full proto name
	Data     []byte
	Metadata []byte
}

// Recorded is a stored event. Data and Metadata must not be changed.
type Recorded struct {
	ID       uuid.UUID
	Stream   string
	Revision Revision
	Position Position
	Type     string
	Data     []byte
	Metadata []byte
	Recorded time.Time // when the store took it
}

// Appended says where an append ended: the last event of it.
type Appended struct {
	Revision Revision
	Position Position
}

// WrongRevision is the answer to an append whose expected revision is not the
// stream's. Nothing was written.
type WrongRevision struct{ Expected, Actual Revision }

func (e *WrongRevision) Error() string {
	return fmt.Sprintf("expected revision %d, stream is at %d", e.Expected, e.Actual)
}

// Filter limits a subscription at the server. Empty means every stream whose
// name does not begin with "$".
type Filter struct {
	Categories []string // "referral" lets streams "referral-..." pass
	// NoMetadata: the reader has no use for it, so that events may come without.
	NoMetadata bool
}

// Message is what a subscription hands on: an event, or the news that it has
// caught up with the log.
type Message struct {
	Event    *Recorded
	CaughtUp bool
}

// Log is an event store as Waymark uses one. Any number of goroutines may call
// it. estest holds the suite that every implementation passes: the client of
// EventStoreDB, what reads a node in the same process, the in-memory log.
//
// Errors: *WrongRevision; a fault with RESOURCE_EXHAUSTED (the store refuses
// writes for want of room), UNAVAILABLE or DEADLINE_EXCEEDED. After any error
// but WrongRevision and RESOURCE_EXHAUSTED an append may or may not have
// happened. Every call returns within the deadline of ctx, or within the
// client's own cap where ctx has none.
type Log interface {
	// Append stores events after revision expected, all or none, and returns when
	// they are durable. Repeating an append that succeeded, with the same ids and
	// expected revision, succeeds again and stores nothing. An append without
	// events is an error.
	Append(ctx context.Context, stream string, expected Revision, events []NewEvent) (Appended, error)

	// Read calls yield for each event of stream from revision from (inclusive),
	// oldest first, until the end of the stream or until yield fails; it returns
	// yield's error. A stream that does not exist has no events.
	Read(ctx context.Context, stream string, from Revision, yield func(Recorded) error) error

	// ReadAll does the same for all streams in log order, from the first event
	// after position after to the end of the log as it is at the call. System
	// events (stream "$...") are left out.
	ReadAll(ctx context.Context, after Position, yield func(Recorded) error) error

	// Head returns the position of the last event that ReadAll would hand on, 0
	// when there is none.
	Head(ctx context.Context) (Position, error)

	// Subscribe calls handle for each event that passes filter after position
	// after, in log order, without end, and with CaughtUp each time it reaches
	// the end of the log. It survives outages of the store by resubscribing after
	// the last event handed on, so that handle sees each event once. It returns
	// when ctx ends (with its error) or when handle fails (with that error).
	Subscribe(ctx context.Context, after Position, filter Filter, handle func(Message) error) error

	// SetMaxCount keeps only the last n events of stream visible; used for
	// checkpoints, never for a stream of record.
	SetMaxCount(ctx context.Context, stream string, n int) error

	// Health reports whether the store answers reads and takes writes now; nil is
	// healthy. It asks the store, cheaply, and answers within ctx.
	Health(ctx context.Context) (read, write error)
}
