package es

import (
	"crypto/hmac"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"waymark/services/kit/fault"
)

// remembered is how many commands of a stream a fold recognises.
const remembered = 256

// fold is a stream up to State.Revision: the state, the end of the chain, and
// the last commands with where each ended. It holds nothing that the log did not
// prove, so it may be behind the log but never beside it.
type fold[S any] struct {
	state State[S]
	chain Chain
	taken []taken // oldest first, at most 2*remembered, the last 256 count
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
	f.state = State[S]{Value: value, Revision: e.Revision, Position: e.Position}
	f.chain = chain
	f.take(taken{id: id, hash: hash, revision: e.Revision, position: e.Position})
	return nil
}

// take records the last event of a command so far.
func (f *fold[S]) take(t taken) {
	if n := len(f.taken); n > 0 && f.taken[n-1].id == t.id {
		f.taken[n-1] = t
		return
	}
	if len(f.taken) == 2*remembered { // forget in bulk: shifting each time would cost a copy an event
		f.taken = append(f.taken[:0], f.taken[remembered+1:]...)
	}
	f.taken = append(f.taken, t)
}

// find looks c up among the last commands; with another request it is refused.
func (f *fold[S]) find(c command) (taken, bool, error) {
	recent := f.taken[max(0, len(f.taken)-remembered):]
	for i := len(recent) - 1; i >= 0; i-- {
		if t := recent[i]; t.id == c.id {
			if !hmac.Equal(t.hash[:], c.hash[:]) {
				return t, true, fault.Invalid("command.id_reused", "command.command_id",
					"was used for another request: choose a new one, or repeat the request unchanged")
			}
			return t, true, nil
		}
	}
	return taken{}, false, nil
}
