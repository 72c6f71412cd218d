package carelead

import (
	"time"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

func day(t time.Time) string { return nhs.DateOf(t).String() }

// StandingPool is a fallback pool that accepted responsibility in advance.
type StandingPool struct {
	Party *Party
	Until time.Time
}

// stands reports whether the pool's acceptance is in force.
func (p *StandingPool) stands(now time.Time) bool { return p != nil && now.Before(p.Until) }

// lead is the lead whose case it is: the holder, or the one the holder acts for.
func (l Ledger) lead() *Party {
	if l.ActingFor != nil {
		return l.ActingFor
	}
	return l.Holder
}

// ArrangeCover asks somebody to stand in for the lead.
type ArrangeCover struct {
	CoverID      string
	By           *Party
	Starts, Ends time.Time
}

// Decide refuses covers that overlap: at any time at most one stands in.
func (c ArrangeCover) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	switch {
	case l.lead().Kind != pb.PartyKind_PARTY_KIND_PERSON_IN_ROLE:
		return nil, fault.Refused("carelead.cover.no_lead", "no named lead holds this pathway, so there is nobody to cover for")
	case Same(c.By, l.lead()):
		return nil, fault.Refused("carelead.cover.own", "a lead cannot cover for themselves")
	case !c.Starts.Before(c.Ends):
		return nil, fault.Invalid("carelead.cover.times", "ends", "must be after starts")
	}
	for _, other := range l.Covers {
		if c.Starts.Before(other.Ends) && other.Starts.Before(c.Ends) {
			return nil, fault.Refused("carelead.cover.overlap", "another cover is arranged for part of that time; change or cancel it first")
		}
	}
	return []proto.Message{&pb.CoverArranged{CoverId: c.CoverID, Lead: l.lead(), Cover: c.By, Starts: stamp(c.Starts), Ends: stamp(c.Ends)}}, nil
}

func (l Ledger) cover(id string) (Cover, error) {
	if err := l.open(); err != nil {
		return Cover{}, err
	}
	for _, c := range l.Covers {
		if c.ID == id {
			return c, nil
		}
	}
	return Cover{}, fault.NotFound("carelead.cover.not_found", "no such cover is arranged: it ended, was cancelled or never was")
}

// AcceptCover agrees to stand in; without it a cover never starts.
type AcceptCover struct {
	CoverID string
	By      Acceptor
}

// Decide refuses anybody but the one who was asked.
func (c AcceptCover) Decide(l Ledger) ([]proto.Message, error) {
	cover, err := l.cover(c.CoverID)
	if err != nil {
		return nil, err
	}
	if !c.By.speaksFor(cover.By) {
		return nil, fault.Denied("carelead.cover.not_addressee", "only the one who was asked to cover may agree")
	}
	if cover.Accepted {
		return nil, nil
	}
	return []proto.Message{&pb.CoverAccepted{CoverId: c.CoverID, AcceptedBy: c.By.User}}, nil
}

// ChangeCover moves the end of a cover: an extension or an early return.
type ChangeCover struct {
	CoverID string
	Ends    time.Time
	Now     time.Time
}

// Decide refuses an extension into the next cover. An end in the past ends it now.
func (c ChangeCover) Decide(l Ledger) ([]proto.Message, error) {
	cover, err := l.cover(c.CoverID)
	if err != nil {
		return nil, err
	}
	if !cover.Starts.Before(c.Ends) {
		return nil, fault.Invalid("carelead.cover.times", "ends", "must be after the cover starts; cancel the cover instead")
	}
	for _, other := range l.Covers {
		if other.ID != cover.ID && cover.Starts.Before(other.Ends) && other.Starts.Before(c.Ends) {
			return nil, fault.Refused("carelead.cover.overlap", "another cover is arranged for part of that time; change or cancel it first")
		}
	}
	return []proto.Message{&pb.CoverChanged{CoverId: c.CoverID, Ends: stamp(c.Ends)}}, nil
}

// CancelCover drops a cover that has not started.
type CancelCover struct{ CoverID string }

// Decide refuses to cancel a cover that acts now: change its end instead.
func (c CancelCover) Decide(l Ledger) ([]proto.Message, error) {
	cover, err := l.cover(c.CoverID)
	if err != nil {
		return nil, err
	}
	if cover.Started {
		return nil, fault.Refused("carelead.cover.started", "this cover is acting now; change its end instead")
	}
	return []proto.Message{&pb.CoverCancelled{CoverId: c.CoverID}}, nil
}

// endCover ends the first cover whose time is over; nil when there is none.
func (l Ledger) endCover(now time.Time) []proto.Message {
	for _, c := range l.Covers {
		if now.Before(c.Ends) {
			continue
		}
		events := []proto.Message{&pb.CoverEnded{CoverId: c.ID}}
		if c.Started && Same(c.By, l.Holder) && Same(c.Lead, l.ActingFor) {
			events = append(events, l.transfer(c.Lead, &pb.AccountabilityTransferred{Cause: pb.TransferCause_TRANSFER_CAUSE_COVER_ENDED, CoverId: c.ID})...)
		}
		return events
	}
	return nil
}

// startCover starts the cover that was agreed for now; nil when there is none.
func (l Ledger) startCover(now time.Time) []proto.Message {
	for _, c := range l.Covers {
		if c.Started || !c.Accepted || now.Before(c.Starts) || !now.Before(c.Ends) || !Same(c.Lead, l.Holder) {
			continue
		}
		return append([]proto.Message{&pb.CoverStarted{CoverId: c.ID}},
			l.transfer(c.By, &pb.AccountabilityTransferred{Cause: pb.TransferCause_TRANSFER_CAUSE_COVER_STARTED, CoverId: c.ID, ActingFor: c.Lead})...)
	}
	return nil
}

// standIn passes accountability to the pool that accepted it in advance. When
// no acceptance stands, the holder keeps it and a person is told: nobody is
// ever made accountable who did not accept.
func (l Ledger) standIn(cause pb.TransferCause, actingFor *Party, pool *StandingPool, now time.Time) []proto.Message {
	if pool != nil && Same(pool.Party, l.Holder) {
		return nil // the pool holds it already
	}
	if !pool.stands(now) {
		return []proto.Message{l.task("no_fallback", cause.String()+day(now), now)}
	}
	return l.transfer(pool.Party, &pb.AccountabilityTransferred{Cause: cause, ActingFor: actingFor, StandingUntil: stamp(pool.Until)})
}

// StartLeave is sent to each ledger of a lead whose leave begins.
type StartLeave struct {
	Lead  *Party
	Until time.Time
	Pool  *StandingPool
	Now   time.Time
}

// Decide does nothing where an accepted cover stands in;
// else the pool steps in and CoverMissing says so. Where it is the cover who goes
// on leave, the pool acts for the lead for whom the cover acted.
func (c StartLeave) Decide(l Ledger) ([]proto.Message, error) {
	if l.open() != nil || !Same(l.Holder, c.Lead) {
		return nil, nil
	}
	if events := l.startCover(c.Now); events != nil {
		return events, nil
	}
	return append([]proto.Message{
		&pb.CoverMissing{Lead: c.Lead, LeaveUntil: stamp(c.Until)},
		l.task("cover_missing", day(c.Now), c.Now),
	}, l.standIn(pb.TransferCause_TRANSFER_CAUSE_COVER_MISSING, l.lead(), c.Pool, c.Now)...), nil
}

// EndLeave is sent to each ledger of a lead who is back.
type EndLeave struct{ Lead *Party }

// Decide gives the pathway back where a pool stepped in for the lead; an agreed
// cover ends by its own date.
func (c EndLeave) Decide(l Ledger) ([]proto.Message, error) {
	if l.open() != nil || !Same(l.ActingFor, c.Lead) || l.Holder.Kind != pb.PartyKind_PARTY_KIND_FALLBACK_POOL {
		return nil, nil
	}
	return l.transfer(c.Lead, &pb.AccountabilityTransferred{Cause: pb.TransferCause_TRANSFER_CAUSE_COVER_ENDED}), nil
}

// LoseLead is sent to each ledger of a lead who no longer holds the role.
type LoseLead struct {
	Lead *Party
	Pool *StandingPool
	Now  time.Time
}

// Decide passes the pathway to the pool, also from a cover who acts for the
// lead: there is nobody left to give it back to. From a cover who is lost it
// passes to the pool too, which then acts for the lead as the cover did.
func (c LoseLead) Decide(l Ledger) ([]proto.Message, error) {
	if l.open() != nil {
		return nil, nil
	}
	whose, covering := Same(l.lead(), c.Lead), Same(l.Holder, c.Lead)
	var events []proto.Message
	for _, cover := range l.Covers {
		if whose || Same(cover.By, c.Lead) {
			events = append(events, &pb.CoverCancelled{CoverId: cover.ID})
		}
	}
	switch {
	case whose:
		return append(events, l.standIn(pb.TransferCause_TRANSFER_CAUSE_LEAD_DEACTIVATED, nil, c.Pool, c.Now)...), nil
	case covering:
		return append(events, l.standIn(pb.TransferCause_TRANSFER_CAUSE_LEAD_DEACTIVATED, l.ActingFor, c.Pool, c.Now)...), nil
	case Same(l.Handover.To, c.Lead):
		return append(events, l.void(pb.VoidReason_VOID_REASON_HOLDER_CHANGED)...), nil
	}
	return events, nil
}
