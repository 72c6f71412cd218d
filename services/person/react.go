package person

import (
	"context"
	"log/slog"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// react completes what spans two streams when the call that began it did not:
// it sends the same commands as that call, so that whoever comes second finds
// them done. It hears each event at least once.
func (s *service) react(ctx context.Context, e bus.Event) error {
	because := cause{tenant: e.Tenant, correlation: e.CorrelationID}
	var err error
	switch m := e.Message.(type) {
	case *personv1.PersonMergedInto:
		_, err = s.answer(ctx, because, merge{ID: m.MergeId, Surviving: m.SurvivingPersonId, Merged: m.MergedPersonId, Approved: m.Approved})
	case *personv1.MergeReversed:
		other := m.SurvivingPersonId
		if other == e.StreamID {
			other = m.MergedPersonId
		}
		_, err = s.reverse(ctx, because, other, merge{ID: m.MergeId, Surviving: m.SurvivingPersonId, Merged: m.MergedPersonId}, m.Reason)
	case *personv1.NhsNumberEnteredInError:
		err = s.release(ctx, because, e.StreamID)
	case *personv1.PersonsLinked:
		l := link{ID: m.LinkId, Person: m.PersonId, Other: m.OtherPersonId}
		err = s.mirror(ctx, because, l.opposite(e.StreamID), l)
	case *personv1.PersonsUnlinked:
		l := link{ID: m.LinkId, Person: m.PersonId, Other: m.OtherPersonId, Ended: true}
		err = s.mirror(ctx, because, l.opposite(e.StreamID), l)
	}
	if fault.IsAnswer(err) {
		// The steps record every outcome that they can have, so a refusal here is a
		// mistake in this code; to hear the event again would not mend it.
		s.slog.ErrorContext(ctx, "a step of a merge or link was refused", slog.String("event", e.ID.String()), slog.String("code", fault.CodeOf(err)))
		return nil
	}
	return err
}

// cause is what the steps of a merge or link inherit from the command that began
// it. The call and the reaction know it alike, so both send the same command.
type cause struct{ tenant, correlation string }

func causeOf(cmd *metav1.Command) cause {
	c := cause{tenant: cmd.GetTenant(), correlation: cmd.GetCorrelationId()}
	if c.tenant == "" {
		c.tenant = cmd.GetActor().GetOrganisation()
	}
	if c.correlation == "" {
		c.correlation = strings.ToLower(cmd.GetCommandId())
	}
	return c
}

// steps is the namespace of the command ids of steps.
var steps = uuid.NewSHA1(uuid.NameSpaceURL, []byte("uk.nhs.waymark.person.steps"))

// command is the header of one step of a merge or link.
func (c cause) command(step, id string) *metav1.Command {
	name := strings.Join([]string{step, id, c.tenant, c.correlation}, "/")
	return &metav1.Command{
		CommandId:     uuid.NewSHA1(steps, []byte(name)).String(),
		Actor:         &metav1.Actor{User: "waymark/person", Organisation: c.tenant},
		CorrelationId: c.correlation,
	}
}

// merged completes a merge that the merged person's stream has taken, or tells
// that it waits for review.
func (s *service) merged(ctx context.Context, cmd *metav1.Command, st es.State[state], id string) (*personv1.MergeReply, error) {
	claim := st.Value.Merges.get(id)
	if claim.State != personv1.MergeState_MERGE_STATE_MERGED {
		return mergeReply(st, id, nil)
	}
	survivor, err := s.answer(ctx, causeOf(cmd), claim)
	if err != nil {
		return nil, err
	}
	if survivor.Value.Merges.get(id).State != personv1.MergeState_MERGE_STATE_MERGED {
		return nil, fault.Aborted("person.merge.contended", "another change of one of the two persons came first and the merge was undone: look again, then send a new command")
	}
	return mergeReply(survivor, id, nil)
}

// answer records the survivor's answer to a claim, and takes the claim back when
// it was no. It returns the survivor right after the answer.
func (s *service) answer(ctx context.Context, because cause, claim merge) (es.State[state], error) {
	merged, err := s.people.Load(ctx, claim.Merged)
	if err != nil {
		return merged, err
	}
	req := &personv1.ApproveMergeRequest{Command: because.command("answer", claim.ID), MergedPersonId: claim.Merged, MergeId: claim.ID}
	decide := answerMerge{Claim: claim, Merged: merged.Value}.Decide
	if now := merged.Value.Merges.get(claim.ID); now.State != personv1.MergeState_MERGE_STATE_MERGED {
		// Undone in the meantime: if the survivor has not answered yet, it must not
		// answer yes.
		decide = reverseUnanswered{reverseMerge{claim, now.Reversal}}.Decide
	}
	survivor, err := s.people.Do(ctx, claim.Surviving, req, decide)
	if err != nil {
		return survivor, err
	}
	if no := survivor.Value.Merges.get(claim.ID); no.State == personv1.MergeState_MERGE_STATE_REVERSED {
		_, err = s.reverse(ctx, because, claim.Merged, claim, no.Reversal)
	}
	return survivor, err
}

// reverse carries a reversal to the stream of one of the two persons.
func (s *service) reverse(ctx context.Context, because cause, personID string, claim merge, reason personv1.ReversalReason) (es.State[state], error) {
	req := &personv1.UnmergePersonsRequest{Command: because.command("reverse/"+personID, claim.ID), MergedPersonId: claim.Merged, MergeId: claim.ID}
	return s.people.Do(ctx, personID, req, reverseMerge{claim, reason}.Decide)
}

// mirror carries links, or their ends, to the other person's stream.
func (s *service) mirror(ctx context.Context, because cause, personID string, all ...link) error {
	for _, l := range all {
		var req es.Request = &personv1.LinkPersonsRequest{Command: because.command("link/"+personID, l.ID), PersonId: l.Person, OtherPersonId: l.Other}
		if l.Ended {
			req = &personv1.UnlinkPersonsRequest{Command: because.command("unlink/"+personID, l.ID), PersonId: l.Person, OtherPersonId: l.Other}
		}
		if _, err := s.people.Do(ctx, personID, req, mirrorLink{l}.Decide); err != nil {
			return err
		}
	}
	return nil
}

// reverseUnanswered says no to a claim that is gone; an answer given stands.
type reverseUnanswered struct{ no reverseMerge }

// Decide records the answer once.
func (c reverseUnanswered) Decide(s state) ([]proto.Message, error) {
	if s.Merges.get(c.no.Claim.ID).ID != "" {
		return nil, nil
	}
	return c.no.Decide(s)
}
