package pathway

import (
	"strings"

	"google.golang.org/grpc"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	"waymark/services/kit/es"
)

// Watch implements the service. Each message is complete to its position, so
// that a watcher who was cut off goes on after the last one.
func (s *server) Watch(req *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchResponse]) error {
	ctx := stream.Context()
	after := es.Position(req.AfterPosition)
	seen := make(map[string]bool) // with party_id: what the party held
	told := false                 // caught_up was sent
	for first := true; ; first = false {
		m := s.models.serving()
		if err := m.ready(); err != nil {
			return err
		}
		moved, caughtUp := m.changed(), m.current() // asked first, so that the snapshot holds all that it is of
		at := m.snapshot()
		views, err := watched(at, req, seen)
		at.Close()
		if err != nil {
			return legible(err)
		}
		if first && req.GetPathwayId() != "" && len(views) == 0 {
			// The model may be behind: whether there is such a pathway the log knows.
			if _, err := s.load(ctx, req.GetPathwayId()); err != nil {
				return err
			}
		}
		for _, v := range views {
			if changed := max(v.pathway.LastPosition, v.pathway.Person.GetLastPosition()); es.Position(changed) <= after && !v.left && !v.came {
				continue
			}
			if first && v.came && after > 0 && es.Position(max(v.pathway.LastPosition, v.pathway.Person.GetLastPosition())) <= after {
				continue // as the watcher left it
			}
			if err := stream.Send(&pb.WatchResponse{Pathway: v.pathway, Position: uint64(at.position), Left: v.left}); err != nil {
				return err
			}
		}
		after = max(after, at.position)
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

type watchedView struct {
	pathway    *pb.Pathway
	came, left bool // came to or left the party
}

func watched(at snapshot, req *pb.WatchRequest, seen map[string]bool) (out []watchedView, err error) {
	if id := req.GetPathwayId(); id != "" {
		v, err := at.view(strings.ToLower(id))
		if v != nil {
			out = append(out, watchedView{pathway: v})
		}
		return out, err
	}
	prefix := holderPrefix(&careleadv1.Party{Id: req.GetPartyId()})
	held := make(map[string]bool)
	err = at.scan(prefix, nil, func(key, _ []byte) (bool, error) {
		id := string(key[len(prefix):])
		held[id] = true
		v, err := at.view(id)
		if v != nil {
			out = append(out, watchedView{pathway: v, came: !seen[id]})
			seen[id] = true
		}
		return true, err
	})
	if err != nil {
		return nil, err
	}
	for id := range seen {
		if held[id] {
			continue
		}
		delete(seen, id)
		v, err := at.view(id)
		if err != nil {
			return nil, err
		}
		if v != nil {
			out = append(out, watchedView{pathway: v, left: true})
		}
	}
	return out, nil
}
