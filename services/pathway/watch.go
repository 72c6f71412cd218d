package pathway

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"strings"

	"google.golang.org/grpc"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/planted"
)

var errAhead = fault.Refused("pathway.watch.ahead", "after_position lies beyond the end of the log, so it is of another: drop what was sent, and watch from 0")

// Watch implements the service.
func (s *server) Watch(req *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchResponse]) error {
	ctx := stream.Context()
	if id := req.GetPathwayId(); id != "" {
		if err := s.exists(ctx, id); err != nil {
			return err
		}
	}
	after := es.Position(req.AfterPosition)
	if err := s.reached(ctx, after); err != nil {
		return err
	}
	told := false // caught_up was sent
	for {
		m := s.models.serving()
		if err := m.ready(); err != nil {
			return err
		}
		moved, caughtUp := m.changed(), m.current() // asked first, so that the snapshot holds all that it is of
		at := m.snapshot()
		if at.position < after { // it went back, as it does to begin again
			at.Close()
			return errStopped
		}
		changes, err := at.changes(req, after)
		at.Close()
		if err != nil {
			return legible(err)
		}
		for i, c := range changes {
			position := at.position
			if i+1 < len(changes) {
				if position = c.at; changes[i+1].at == c.at { // one change of a person, several pathways
					position--
				}
			}
			if err := stream.Send(&pb.WatchResponse{Pathway: c.pathway, Left: c.left, Position: uint64(position)}); err != nil {
				return err
			}
		}
		after = at.position
		if !told && caughtUp {
			told = true
			if err := stream.Send(&pb.WatchResponse{Position: uint64(at.position), CaughtUp: true}); err != nil {
				return err
			}
		}
		if err := m.fault(); err != nil {
			return errStopped
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// exists fails where there is no such pathway. The model may be behind: the log knows.
func (s *server) exists(ctx context.Context, pathwayID string) error {
	at := s.models.serving().snapshot()
	defer at.Close()
	if v, err := at.view(strings.ToLower(pathwayID)); err != nil || v != nil {
		return legible(err)
	}
	_, err := s.load(ctx, pathwayID)
	return err
}

// reached returns when the model holds what a watcher was told before, perhaps by another.
func (s *server) reached(ctx context.Context, after es.Position) error {
	if s.models.serving().at() >= after {
		return nil
	}
	head, err := s.log.Head(ctx)
	if err != nil {
		return err
	}
	if head < after {
		return errAhead
	}
	for {
		m := s.models.serving()
		moved := m.changed()
		if err := m.ready(); err != nil {
			return err
		}
		if m.at() >= after {
			return nil
		}
		if m.fault() != nil {
			return errStopped
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// change is a pathway that changed or left a party, and at which position.
type change struct {
	pathway *pb.Pathway
	left    bool
	at      es.Position
}

// changes are those of what is watched after a position, in the order of the log: a
// watcher who is cut off between two goes on with the second. Nothing left a party for a
// watcher who begins.
func (s snapshot) changes(req *pb.WatchRequest, after es.Position) (out []change, err error) {
	look := func(id string) error {
		v, err := s.view(id)
		if at := es.Position(max(v.GetLastPosition(), v.GetPerson().GetLastPosition())); at > after {
			out = append(out, change{pathway: v, at: at})
		}
		return err
	}
	if id := req.GetPathwayId(); id != "" {
		err := look(strings.ToLower(id))
		return out, err
	}
	party := &careleadv1.Party{Id: req.GetPartyId()}
	held, gone := holderPrefix('h', party), holderPrefix('g', party)
	if err := s.scan(held, nil, func(key, _ []byte) (bool, error) { return true, look(string(key[len(held):])) }); err != nil {
		return nil, err
	}
	if resumed := after == es.Position(req.AfterPosition); after > 0 && !(resumed && planted.Is("resumed watch forgets who left")) {
		err = s.scan(gone, binary.BigEndian.AppendUint64(slices.Clip(gone), uint64(after)+1), func(key, _ []byte) (bool, error) {
			key = key[len(gone):]
			v, err := s.view(string(key[8:]))
			if at := binary.BigEndian.Uint64(key); at == lastHeld(v, party).GetUntilPosition() { // it did not come back
				out = append(out, change{pathway: v, left: true, at: es.Position(at)})
			}
			return true, err
		})
	}
	slices.SortStableFunc(out, func(a, b change) int { return cmp.Compare(a.at, b.at) })
	return out, err
}

// lastHeld is the last spell of a party's accountability, nil where there is none.
func lastHeld(v *pb.Pathway, party *careleadv1.Party) (last *pb.Custody) {
	for _, c := range v.GetCustody() {
		if isParty(c.Holder, party.Id) {
			last = c
		}
	}
	return last
}
