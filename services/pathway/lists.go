package pathway

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
)

// list reads one page from the model: the keys with a prefix, in order. row
// returns false for what the question leaves out, and done when no later key
// can be of it.
func (s *server) list(ctx context.Context, p page, min uint64, prefix []byte, row func(at snapshot, key []byte) (is, done bool, err error)) (next string, f *pb.Freshness, err error) {
	m := s.models.serving()
	if err := m.wait(ctx, es.Position(min)); err != nil {
		return "", nil, err
	}
	at := m.snapshot()
	defer at.Close()
	n, last := 0, []byte(nil)
	err = at.scan(prefix, p.after, func(key, _ []byte) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if n == p.size {
			next = p.next(last)
			return false, nil
		}
		is, done, err := row(at, key)
		if is {
			n++
			last = append(last[:0], key...)
		}
		return !done, err
	})
	return next, m.freshness(at.position, s.wall()), legible(err)
}

// each hands all that is counted on, as of one position that is at least the one named.
func (s *server) each(ctx context.Context, atLeast es.Position, yield func(counts) error) (es.Position, error) {
	m := s.models.serving()
	if err := m.wait(ctx, atLeast); err != nil {
		return 0, err
	}
	at, err := m.each(yield)
	return at, legible(err)
}

// keyed splits a key of a list ordered by due time.
func keyed(key []byte) (due time.Time, pathwayID string, rest []byte) {
	due = time.Unix(int64(binary.BigEndian.Uint64(key[1:9])^1<<63), 0)
	id, after, _ := strings.Cut(string(key[9:]), "\x00")
	return due, id, []byte(after)
}

func isParty(p *careleadv1.Party, id string) bool {
	return id == "" || p != nil && strings.EqualFold(id, partyKey(p))
}

// ListCaseload implements the service.
func (s *server) ListCaseload(ctx context.Context, req *pb.ListCaseloadRequest) (*pb.ListCaseloadResponse, error) {
	p, err := pageOf(req.PageSize, req.PageToken, "caseload", strings.ToLower(req.PartyId), req.Organisation, fmt.Sprint(req.OverdueOnly))
	if err != nil {
		return nil, err
	}
	out, now := &pb.ListCaseloadResponse{}, s.clock()
	prefix := holderPrefix('h', &careleadv1.Party{Id: req.PartyId})
	out.NextPageToken, out.Freshness, err = s.list(ctx, p, req.MinPosition, prefix, func(at snapshot, key []byte) (bool, bool, error) {
		v, err := at.view(string(key[len(prefix):]))
		if err != nil || v == nil {
			return false, false, err
		}
		row := &pb.CaseloadRow{PathwayId: v.PathwayId, PersonId: v.PersonId, Pathway: v, NextAction: v.NextAction}
		row.Overdue = overdue(v.NextAction.GetDue(), now)
		if c := holderAt(v); c != nil {
			row.AgeDays = int32(nhs.DateOf(c.Since.AsTime()).DaysUntil(nhs.DateOf(now)))
		}
		if req.OverdueOnly && !row.Overdue || req.Organisation != "" && req.Organisation != v.Holder.GetOrganisation() {
			return false, false, nil
		}
		out.Rows = append(out.Rows, row)
		return true, false, nil
	})
	return out, err
}

// overdue reports whether a time has come.
func overdue(due *timestamppb.Timestamp, now time.Time) bool {
	return due != nil && !due.AsTime().After(now)
}

// ListHandovers implements the service.
func (s *server) ListHandovers(ctx context.Context, req *pb.ListHandoversRequest) (*pb.ListHandoversResponse, error) {
	p, err := pageOf(req.PageSize, req.PageToken, "handovers", strings.ToLower(req.ToPartyId), strings.ToLower(req.FromPartyId), fmt.Sprint(req.OverdueOnly))
	if err != nil {
		return nil, err
	}
	out, now := &pb.ListHandoversResponse{}, s.clock()
	out.NextPageToken, out.Freshness, err = s.list(ctx, p, req.MinPosition, []byte{'o'}, func(at snapshot, key []byte) (bool, bool, error) {
		due, id, _ := keyed(key)
		late := !due.After(now)
		if req.OverdueOnly && !late {
			return false, true, nil
		}
		v, err := at.view(id)
		if err != nil || v == nil || !isParty(v.OpenHandover.GetTo(), req.ToPartyId) || !isParty(v.OpenHandover.GetFrom(), req.FromPartyId) {
			return false, false, err
		}
		out.Rows = append(out.Rows, &pb.HandoverRow{PathwayId: id, Handover: v.OpenHandover, Overdue: overdue(v.OpenHandover.GetAnswerDue(), now)})
		return true, false, nil
	})
	return out, err
}

// ListToBeBooked implements the service.
func (s *server) ListToBeBooked(ctx context.Context, req *pb.ListToBeBookedRequest) (*pb.ListToBeBookedResponse, error) {
	p, err := pageOf(req.PageSize, req.PageToken, "to-be-booked", strings.ToLower(req.PartyId), fmt.Sprint(req.OverdueOnly))
	if err != nil {
		return nil, err
	}
	out, now := &pb.ListToBeBookedResponse{}, s.clock()
	out.NextPageToken, out.Freshness, err = s.list(ctx, p, req.MinPosition, []byte{'b'}, func(at snapshot, key []byte) (bool, bool, error) {
		due, id, task := keyed(key)
		late := !due.After(now)
		if req.OverdueOnly && !late {
			return false, true, nil
		}
		v, err := at.view(id)
		if err != nil || v == nil || !isParty(v.Holder, req.PartyId) {
			return false, false, err
		}
		for _, t := range v.ToBeBooked {
			if t.TaskId == string(task) {
				out.Rows = append(out.Rows, &pb.ToBeBookedRow{PathwayId: id, Task: t, Holder: v.Holder, Overdue: late})
				return true, false, nil
			}
		}
		return false, false, nil
	})
	return out, err
}

// ListOverdue implements the service.
func (s *server) ListOverdue(ctx context.Context, req *pb.ListOverdueRequest) (*pb.ListOverdueResponse, error) {
	p, err := pageOf(req.PageSize, req.PageToken, "overdue", strings.ToLower(req.PartyId), req.Kind)
	if err != nil {
		return nil, err
	}
	out, now := &pb.ListOverdueResponse{}, s.clock()
	out.Rows, out.NextPageToken, out.Freshness, err = s.deadlines(ctx, p, req.MinPosition, req.PartyId, "", req.Kind, now.Add(time.Nanosecond), now)
	return out, err
}

// ListDeadlines implements the service.
func (s *server) ListDeadlines(ctx context.Context, req *pb.ListDeadlinesRequest) (*pb.ListDeadlinesResponse, error) {
	before := time.Time{}
	if req.DueBefore != nil {
		before = req.DueBefore.AsTime()
	}
	p, err := pageOf(req.PageSize, req.PageToken, "deadlines", strings.ToLower(req.PartyId), req.Category, req.Kind, before.String())
	if err != nil {
		return nil, err
	}
	out := &pb.ListDeadlinesResponse{}
	out.Rows, out.NextPageToken, out.Freshness, err = s.deadlines(ctx, p, req.MinPosition, req.PartyId, req.Category, req.Kind, before, s.clock())
	return out, err
}

// deadlines lists what is due before a time; zero for any.
func (s *server) deadlines(ctx context.Context, p page, min uint64, party, category, kind string, before, now time.Time) (rows []*pb.DeadlineRow, next string, f *pb.Freshness, err error) {
	next, f, err = s.list(ctx, p, min, []byte{'d'}, func(at snapshot, key []byte) (bool, bool, error) {
		due, id, rest := keyed(key)
		if !before.IsZero() && !due.Before(before) {
			return false, true, nil
		}
		v, err := at.view(id)
		n := int(binary.BigEndian.Uint16(rest))
		if err != nil || v == nil || n >= len(v.Deadlines) {
			return false, false, err
		}
		d := v.Deadlines[n]
		if !before.IsZero() && !d.Due.AsTime().Before(before) || category != "" && d.Category != category || kind != "" && d.Kind != kind || !isParty(d.Who, party) {
			return false, false, nil
		}
		row := &pb.DeadlineRow{PathwayId: id, Deadline: d, Holder: v.Holder, DaysOverdue: int32(now.Sub(d.Due.AsTime()) / (24 * time.Hour))}
		rows = append(rows, row)
		return true, false, nil
	})
	return rows, next, f, err
}
