package allinone

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"waymark/services/eventstore"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// Local returns the log of a node in this process: what only reads takes events
// from its store, which is several times as fast as over gRPC and sees the same.
// All else, writes above all, goes by client, which is connected to the same node.
func Local(node *eventstore.Node, client es.Log) es.Log { return &local{client, node} }

type local struct {
	es.Log
	node *eventstore.Node
}

// Read implements es.Log.
func (l *local) Read(ctx context.Context, stream string, from es.Revision, yield func(es.Recorded) error) error {
	return l.read(ctx, yield, func(yield func([]eventstore.Event) error) error {
		return l.node.ReadStream(ctx, stream, int64(from), yield)
	})
}

// ReadAll implements es.Log.
func (l *local) ReadAll(ctx context.Context, after es.Position, yield func(es.Recorded) error) error {
	return l.read(ctx, yield, func(yield func([]eventstore.Event) error) error { return l.node.ReadAll(ctx, uint64(after), yield) })
}

func (l *local) read(ctx context.Context, yield func(es.Recorded) error, read func(func([]eventstore.Event) error) error) error {
	var failed error // of yield, which is handed on as it is
	err := read(func(events []eventstore.Event) error {
		for i := range events {
			if failed = yield(recorded(&events[i])); failed != nil {
				return failed
			}
		}
		return nil
	})
	if failed != nil {
		return failed
	}
	return outage(ctx, err)
}

// Head implements es.Log.
func (l *local) Head(ctx context.Context) (es.Position, error) {
	head, err := l.node.Head(ctx)
	return es.Position(head), outage(ctx, err)
}

// Subscribe implements es.Log.
func (l *local) Subscribe(ctx context.Context, after es.Position, filter es.Filter, handle func(es.Message) error) error {
	prefixes := make([]string, len(filter.Categories))
	for i, category := range filter.Categories {
		prefixes[i] = category + "-"
	}
	var failed error
	err := l.node.Subscribe(ctx, uint64(after), prefixes, !filter.NoMetadata, func(events []eventstore.Event) error {
		if len(events) == 0 {
			failed = handle(es.Message{CaughtUp: true})
			return failed
		}
		page := make([]es.Recorded, len(events)) // one allocation for all: handle may keep them
		for i := range events {
			page[i] = recorded(&events[i])
			if failed = handle(es.Message{Event: &page[i]}); failed != nil {
				return failed
			}
		}
		return nil
	})
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return outage(ctx, err)
}

func recorded(e *eventstore.Event) es.Recorded {
	return es.Recorded{ID: e.ID, Stream: e.Stream, Revision: es.Revision(e.Revision), Position: es.Position(e.Position),
		Type: e.Type, Data: e.Data, Metadata: e.Metadata, Recorded: e.Created}
}

// outage turns what went wrong in the store into the errors of es.Log.
func outage(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return fault.Canceled("log.canceled", "the caller went away")
	case ctx.Err() != nil:
		return fault.TimedOut("log.deadline", "the event store did not answer in time: repeat the request")
	}
	switch status.Code(err) {
	case codes.FailedPrecondition:
		return fault.Lost("log.stream_deleted", "the stream was deleted for ever")
	case codes.DataLoss:
		return fault.Lost("log.damaged", "the stored data is damaged: run waymark fsck")
	}
	return fault.Unavailable("log.unavailable", "the event store is away: repeat the request", time.Second)
}
