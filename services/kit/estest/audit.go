package estest

import (
	"context"
	"fmt"
	"testing"

	"waymark/services/kit/es"
)

// Audit reads the whole log and fails the test unless positions grow, revisions
// are dense from 0, the two orders agree, every event id is unique in its stream
// and every chained stream is whole. It returns the number of events.
func Audit(t testing.TB, log es.Log) int {
	t.Helper()
	n, err := audit(context.Background(), log)
	if err != nil {
		t.Errorf("audit: %v", err)
	}
	return n
}

func audit(ctx context.Context, log es.Log) (int, error) {
	type seen struct {
		next    es.Revision
		chain   es.Chain
		chained bool
		ids     map[[16]byte]bool
	}
	streams := make(map[string]*seen)
	last, count := es.Position(0), 0
	err := log.ReadAll(ctx, 0, func(e es.Recorded) error {
		count++
		s := streams[e.Stream]
		if s == nil {
			s = &seen{chained: es.Chained(e), ids: make(map[[16]byte]bool)}
			streams[e.Stream] = s
		}
		switch {
		case e.Position <= last:
			return fmt.Errorf("position %d after %d", e.Position, last)
		case e.Revision != s.next:
			return fmt.Errorf("stream %s: revision %d follows %d", e.Stream, e.Revision, s.next-1)
		case s.ids[e.ID]:
			return fmt.Errorf("stream %s: event id %s twice", e.Stream, e.ID)
		}
		last, s.next, s.ids[e.ID] = e.Position, s.next+1, true
		if s.chained {
			next, err := s.chain.Next(e)
			if err != nil {
				return err
			}
			s.chain = next
		}
		return nil
	})
	if err != nil {
		return count, err
	}
	for stream, s := range streams {
		next := es.Revision(0)
		err := log.Read(ctx, stream, 0, func(e es.Recorded) error {
			if next == 0 && !s.chained { // $maxCount may hide the first events, of no stream of record
				next = e.Revision
			}
			if e.Revision != next || !s.ids[e.ID] {
				return fmt.Errorf("stream %s: revision %d is not that of the whole log", stream, e.Revision)
			}
			next++
			return nil
		})
		if err != nil {
			return count, err
		}
		if next != s.next {
			return count, fmt.Errorf("stream %s: %d events in it, %d in the whole log", stream, next, s.next)
		}
	}
	return count, nil
}
