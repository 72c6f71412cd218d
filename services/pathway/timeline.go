package pathway

import (
	"cmp"
	"context"
	"strings"
	"unicode"

	"google.golang.org/protobuf/types/known/timestamppb"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	pb "waymark/proto/waymark/pathway/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/planted"
)

// GetTimeline implements the service.
func (s *server) GetTimeline(ctx context.Context, req *pb.GetTimelineRequest) (*pb.GetTimelineResponse, error) {
	m, err := momentOf(req.AsOf)
	if err != nil {
		return nil, err
	}
	page, err := pageOf(req.PageSize, req.PageToken, "timeline", req.PathwayId)
	if err != nil {
		return nil, err
	}
	h, err := s.load(ctx, req.PathwayId)
	if err != nil {
		return nil, err
	}
	all, err := h.timeline(m)
	if err != nil {
		return nil, err
	}
	out := &pb.GetTimelineResponse{Position: uint64(h.position)}
	for _, t := range all {
		if es.Position(t.Position) <= page.afterPosition() || req.AtLeast != 0 && t.Importance > req.AtLeast {
			continue
		}
		if len(out.Entries) == page.size {
			out.NextPageToken = page.nextPosition(es.Position(out.Entries[page.size-1].Position))
			if planted.Is("timeline page skips an entry") {
				out.NextPageToken = page.nextPosition(es.Position(t.Position))
			}
			break
		}
		out.Entries = append(out.Entries, t)
	}
	return out, nil
}

// timeline tells what was known at a moment, oldest first.
func (h *history) timeline(m moment) ([]*pb.TimelineEntry, error) {
	corrected := make(map[string]bool)
	streams := [][]event{known(h.events, m)}
	for _, e := range streams[0] {
		if c, ok := e.message.(*referralv1.ClockCorrected); ok {
			corrected[strings.ToLower(c.WrongFactId)] = true
		}
	}
	for _, events := range h.persons {
		streams = append(streams, known(events, m))
	}
	var out []*pb.TimelineEntry
	for _, e := range merge(streams) {
		l, told := lines[e.Type]
		if !told && strings.HasPrefix(e.Stream, "person-") {
			continue // about the person, not about the pathway
		}
		if !told {
			return nil, unknown(e)
		}
		t, err := entry(e, l)
		if err != nil {
			return nil, err
		}
		if f, ok := e.message.(interface{ GetFactId() string }); ok {
			t.Corrected = corrected[strings.ToLower(f.GetFactId())]
		}
		out = append(out, t)
	}
	return out, nil
}

func entry(e event, l line) (*pb.TimelineEntry, error) {
	m, err := es.ParseMetadata(*e.Recorded)
	if err != nil {
		return nil, err
	}
	when, err := happened(e)
	if err != nil {
		return nil, err
	}
	return &pb.TimelineEntry{
		Importance: l.importance, Text: detail(e, l.text), Type: e.Type, EventId: e.ID.String(), Stream: e.Stream, Revision: int64(e.Revision),
		Position: uint64(e.Position), Recorded: e.at(), Occurred: timestamppb.New(when), Organisation: m.Actor.Organisation, RoleCode: m.Actor.Role,
		CommandId: m.CommandID.String(), CausedBy: m.CausationID, CorrelationId: m.CorrelationID,
	}, nil
}

// detail adds the parties to what is about them: teams and staff in their roles.
func detail(e event, text string) string {
	between := func(verb string, from, to *careleadv1.Party) string {
		return verb + " from " + nameOfParty(from) + " to " + nameOfParty(to) + "."
	}
	switch m := e.message.(type) {
	case *referralv1.PathwayStarted:
		return "The pathway started with " + nameOfParty(teamOf(m.Facts.GetResponsibleTeam())) + "."
	case *careleadv1.LedgerOpened:
		return "Accountability is kept from here on: " + nameOfParty(m.Holder) + "."
	case *careleadv1.AccountabilityTransferred:
		return between("Accountability passed", m.From, m.To)
	case *careleadv1.HandoverOffered:
		return between("A handover was offered", m.From, m.To)
	case *careleadv1.LedgerReopened:
		return "Accountability was taken up again: " + nameOfParty(m.Holder) + "."
	case *referralv1.ClockCorrected:
		return "A recorded fact was corrected: " + words(m.WrongEvent) + "."
	}
	return text
}

func nameOfParty(p *careleadv1.Party) string {
	return cmp.Or(p.GetName(), p.GetId(), p.GetOrganisation())
}

// words turns "FirstSeen" into "first seen".
func words(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
