package es

import (
	"crypto/hmac"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"waymark/services/kit/fault"
)

const (
	// remembered is how many commands of a stream a fold recognises.
	remembered = 256
	// atHand is how many of them have their state kept too. Two instances that hear
	// the same event send the same command at about the same time, so that an early
	// repeat is the rule; a later one folds the stream again.
	atHand = 8
)

// fold is a stream up to State.Revision: the state, the end of the chain, and
// the last commands with where each ended. It holds nothing that the log did not
// prove, so it may be behind the log but never beside it.
type fold[S any] struct {
	state  State[S]
	chain  Chain
	tenant string   // of the first event
	taken  []taken  // oldest first, at most 2*remembered, the last 256 count
	marks  []uint32 // the last bytes of their ids, which are looked through for each command
	data   int      // bytes of the events that it was made of

	recent [atHand]State[S] // after each of the last commands
	newest int              // index of the last one in recent
}

// taken is a command that the stream has taken, with its last event.
type taken struct {
	id       uuid.UUID
	hash     [hashLen]byte
	revision Revision
	position Position
}

func emptyFold[S any]() fold[S] { return fold[S]{state: State[S]{Revision: NoStream}} }

// apply adds the next event of the stream. After an error the fold is unchanged.
func (f *fold[S]) apply(evolve func(S, proto.Message) S, e Recorded) error {
	chain, err := f.chain.Next(e)
	if err != nil {
		return err
	}
	id, hash, ok := parseHead(e.Metadata)
	if !ok {
		return fault.Lost("es.metadata_unreadable", fmt.Sprintf("stream %s, revision %d: its metadata is not ours", e.Stream, e.Revision))
	}
	m, err := Decode(e)
	if err != nil {
		return err
	}
	value, err := TryEvolve(evolve, f.state.Value, m)
	if err != nil {
		return fmt.Errorf("stream %s, revision %d: %w", e.Stream, e.Revision, err)
	}
	if e.Revision == 0 {
		m, err := ParseMetadata(e)
		if err != nil {
			return err
		}
		f.tenant = m.Tenant
	}
	f.state = State[S]{Value: value, Revision: e.Revision, Position: e.Position}
	f.chain = chain
	f.data += len(e.Data)
	f.take(taken{id: id, hash: hash, revision: e.Revision, position: e.Position})
	return nil
}

// take records the last event of a command so far; the state is the one after it.
func (f *fold[S]) take(t taken) {
	if n := len(f.taken); n > 0 && f.taken[n-1].id == t.id {
		f.taken[n-1] = t
		f.recent[f.newest] = f.state
		return
	}
	f.newest = (f.newest + 1) % atHand
	f.recent[f.newest] = f.state
	if len(f.taken) == 2*remembered { // forget in bulk: shifting each time would cost a copy an event
		f.taken = append(f.taken[:0], f.taken[remembered+1:]...)
		f.marks = append(f.marks[:0], f.marks[remembered+1:]...)
	}
	f.taken, f.marks = append(f.taken, t), append(f.marks, mark(t.id))
}

// mark is part of an id that is random in all kinds of them.
func mark(id uuid.UUID) uint32 { return binary.BigEndian.Uint32(id[12:]) }

// find looks c up among the last commands; with another request it is refused.
func (f *fold[S]) find(c command) (taken, bool, error) {
	is := mark(c.id)
	for i := len(f.marks) - 1; i >= max(0, len(f.marks)-remembered); i-- {
		if f.marks[i] != is {
			continue
		}
		if t := f.taken[i]; t.id == c.id {
			if !hmac.Equal(t.hash[:], c.hash[:]) {
				return t, true, fault.Invalid("command.id_reused", "command.command_id",
					"was used for another request: choose a new one, or repeat the request unchanged")
			}
			return t, true, nil
		}
	}
	return taken{}, false, nil
}

// after returns the state after a command, where it is at hand.
func (f *fold[S]) after(t taken) (State[S], bool) {
	for _, s := range f.recent {
		if s.Position == t.position { // 0 is no event's
			return s, true
		}
	}
	return State[S]{}, false
}
