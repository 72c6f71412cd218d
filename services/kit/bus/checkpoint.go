package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "waymark/proto/waymark/meta/v1"
	"waymark/services/kit/es"
)

// Mark says how far a consumer has come. The zero Mark is before the first event.
type Mark struct {
	Generation time.Time   // when the stream was created; zero when nothing was read yet
	Sequence   uint64      // of the last handled message, in that generation
	Position   es.Position // of the last handled event: what counts
}

// Checkpoint keeps the mark of one consumer. Consume calls it from one goroutine
// and saves a mark only after the effects of every event up to it. Where an
// effect is a write to a store of the consumer's own, save the mark with it and
// let Save do nothing.
type Checkpoint interface {
	// Load returns the newest mark, or the zero Mark when there is none.
	Load(ctx context.Context) (Mark, error)
	// Save keeps the mark. An older mark than the kept one may be dropped.
	Save(ctx context.Context, m Mark) error
}

// LogCheckpoint keeps marks in stream checkpoint-<name> of the log, of which only
// the last few stay visible. Two equal instances of a service may share it: the
// one that is behind drops its marks, and both hear every event.
func LogCheckpoint(log es.Log, name string) Checkpoint {
	return &logCheckpoint{log: log, stream: "checkpoint-" + name, revision: es.NoStream}
}

const checkpointType = "waymark.meta.v1.Checkpoint"

type logCheckpoint struct {
	log    es.Log
	stream string

	mu       sync.Mutex
	revision es.Revision // of the newest mark known; under mu
	position es.Position // what it says; under mu
	bounded  bool        // the stream's length is limited; under mu
}

func (c *logCheckpoint) Load(ctx context.Context) (Mark, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load(ctx)
}

func (c *logCheckpoint) load(ctx context.Context) (Mark, error) {
	var mark Mark
	// From the start: marks that the limit hides are not read.
	err := c.log.Read(ctx, c.stream, 0, func(e es.Recorded) error {
		var m metav1.Checkpoint
		if err := proto.Unmarshal(e.Data, &m); err != nil {
			return fmt.Errorf("checkpoint %s at revision %d cannot be read", c.stream, e.Revision)
		}
		mark = Mark{Generation: m.GetGeneration().AsTime(), Sequence: m.GetSequence(), Position: es.Position(m.GetPosition())}
		c.revision, c.position = e.Revision, mark.Position
		return nil
	})
	if err != nil {
		return Mark{}, fmt.Errorf("load checkpoint %s: %w", c.stream, err)
	}
	return mark, nil
}

func (c *logCheckpoint) Save(ctx context.Context, m Mark) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.bounded {
		if err := c.log.SetMaxCount(ctx, c.stream, 4); err != nil {
			return fmt.Errorf("limit %s: %w", c.stream, err)
		}
		c.bounded = true
	}
	data, err := proto.Marshal(&metav1.Checkpoint{Generation: timestamppb.New(m.Generation), Sequence: m.Sequence, Position: uint64(m.Position)})
	if err != nil {
		return err
	}
	for range 3 {
		e := es.NewEvent{ID: uuid.New(), Type: checkpointType, Data: data, Metadata: []byte("{}")}
		done, err := c.log.Append(ctx, c.stream, c.revision, []es.NewEvent{e})
		if err == nil {
			c.revision, c.position = done.Revision, m.Position
			return nil
		}
		var wrong *es.WrongRevision
		if !errors.As(err, &wrong) {
			return fmt.Errorf("save checkpoint %s: %w", c.stream, err)
		}
		if _, err := c.load(ctx); err != nil {
			return err
		}
		if c.position >= m.Position {
			return nil // the other instance is ahead
		}
	}
	return nil // others write more often than we do: theirs will do
}
