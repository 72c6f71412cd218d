package carelead

import (
	"encoding/csv"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/fault"
)

var monday = time.Date(2026, 7, 6, 9, 0, 0, 0, time.UTC)

func team(id string) *Party {
	return &Party{Kind: pb.PartyKind_PARTY_KIND_TEAM, Id: id, Name: "Team " + id, Organisation: "RJ1"}
}

func person(id string) *Party {
	return &Party{Kind: pb.PartyKind_PARTY_KIND_PERSON_IN_ROLE, Id: id, Name: "Lead " + id, Organisation: "RAA", SdsUserId: "user-" + id, RoleCode: "R9801"}
}

func pool(id string) *Party {
	return &Party{Kind: pb.PartyKind_PARTY_KIND_FALLBACK_POOL, Id: id, Name: "Pool " + id, Organisation: "RAA"}
}

func as(p *Party) Acceptor {
	return Acceptor{User: "user-" + p.Id, Organisation: p.Organisation}
}

type command interface {
	Decide(Ledger) ([]proto.Message, error)
}

// ledger runs commands as the service does and audits every prefix of the
// stream that they make.
type ledger struct {
	Ledger
	audit  Audit
	events []proto.Message
	broken error
}

func (l *ledger) do(c command, now time.Time) error {
	events, err := c.Decide(l.Ledger)
	if err != nil {
		return err
	}
	l.record(now, events...)
	return nil
}

// record appends the events of one command.
func (l *ledger) record(now time.Time, events ...proto.Message) {
	id := uuid.New()
	for _, e := range events {
		l.Ledger = evolveLedger(l.Ledger, e)
		l.events = append(l.events, e)
		if err := l.audit.Next(Entry{Event: e, Command: id, Recorded: now}); err != nil && l.broken == nil {
			l.broken = err
		}
		if l.Ledger.Closed == 0 && !Same(l.audit.Holder(), l.Holder) && l.broken == nil {
			l.broken = fmt.Errorf("the fold and the audit name different holders after %T", e)
		}
	}
	if err := l.audit.End(); err != nil && l.broken == nil {
		l.broken = err
	}
	if l.Violation != "" && l.broken == nil {
		l.broken = fmt.Errorf("fold: %s", l.Violation)
	}
}

// TestLedgerVectors drives the scenarios of testdata/ledger.csv, the vectors of
// the domain reference, through the commands.
func TestLedgerVectors(t *testing.T) {
	f, err := os.Open("testdata/ledger.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	party := func(letter string) *Party {
		switch letter {
		case "A":
			return team("A")
		case "P":
			return pool("P")
		}
		return person(letter)
	}
	ledgers := map[string]*ledger{}
	now := monday
	for _, r := range rows[1:] {
		id, step, who, want, holder := r[0], r[2], r[3], r[4], r[5]
		l := ledgers[id]
		if l == nil {
			l = &ledger{}
			ledgers[id] = l
		}
		offer := func(kind pb.HandoverKind) OfferHandover {
			return OfferHandover{HandoverID: uuid.NewString(), Kind: kind, To: party(who), SummaryVersion: 1, PlanVersion: 2, Now: now,
				Neighbourhood: "n1", ServesPatient: true, LeadActive: true, HasPlace: true, HasFallback: who != "M", Escalation: []*Party{party("P")}}
		}
		var err error
		switch step {
		case "opened":
			err = l.do(OpenLedger{PathwayID: uuid.NewString(), PersonID: uuid.NewString(), Holder: party(who)}, now)
		case "offered":
			err = l.do(PrepareHandover{Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, Met: all()}, now)
			if err == nil {
				err = l.do(offer(pb.HandoverKind_HANDOVER_KIND_TO_LEAD), now)
			}
		case "transfer offered":
			err = l.do(offer(pb.HandoverKind_HANDOVER_KIND_BETWEEN_LEADS), now)
		case "accepted":
			err = l.do(AcceptHandover{HandoverID: l.Handover.ID, SummaryVersion: 1, PlanVersion: 2, By: as(party(who)), Now: now}, now)
		case "declined":
			err = l.do(DeclineHandover{HandoverID: l.Handover.ID, Reason: pb.DeclineReason_DECLINE_REASON_CAPACITY, By: as(party(who))}, now)
		case "withdrawn":
			err = l.do(WithdrawHandover{HandoverID: l.Handover.ID, Reason: "sent too early", By: as(party(who))}, now)
		case "expired":
			now = l.Handover.AnswerDue
			err = l.do(RunTimers{Now: now}, now)
		case "escalated":
			if !l.Handover.Open || !Same(l.Handover.To, party(who)) || l.Handover.Level != 1 {
				err = fmt.Errorf("it is not on offer to the next level")
			}
		case "cover agreed":
			cover := uuid.NewString()
			if err = l.do(ArrangeCover{CoverID: cover, By: party(who), Starts: now.AddDate(0, 0, 1), Ends: now.AddDate(0, 0, 14)}, now); err == nil {
				err = l.do(AcceptCover{CoverID: cover, By: as(party(who))}, now)
			}
		case "cover started":
			now = l.Covers[0].Starts
			err = l.do(RunTimers{Now: now}, now)
		case "cover ended":
			now = l.Covers[0].Ends
			err = l.do(RunTimers{Now: now}, now)
		case "neighbourhood change detected":
			err = l.do(NoteMove{To: "n2", Now: now}, now)
		case "death confirmed":
			err = l.do(StopNotices{Reason: pb.NoticeSuppression_NOTICE_SUPPRESSION_DEATH}, now)
		case "closed":
			err = l.do(CloseLedger{Reason: pb.CloseReason_CLOSE_REASON_DIED, Evidence: uuid.NewString(), Died: true, Now: now}, now)
		default:
			t.Fatalf("%s: no step %q", id, step)
		}
		got := "ok"
		if err != nil {
			got = "refused: " + fault.CodeOf(err)
		}
		if got != want {
			t.Errorf("%s %s %s: %s (%v), want %s", id, r[1], step, got, err, want)
		}
		accountable := "none"
		if h := l.audit.Holder(); h != nil {
			accountable = h.Id
		}
		if accountable != holder {
			t.Errorf("%s %s %s: %s is accountable, want %s", id, r[1], step, accountable, holder)
		}
		if l.broken != nil {
			t.Errorf("%s %s: %v", id, r[1], l.broken)
		}
	}
	t.Logf("%d scenarios, %d steps", len(ledgers), len(rows)-1)
}

func all() map[string]bool {
	met := map[string]bool{}
	for _, code := range Checklist {
		met[code] = true
	}
	return met
}

// TestExactlyOneHolder runs random commands by random people with jumps of the
// clock. After each, the audit has read every prefix of the stream.
func TestExactlyOneHolder(t *testing.T) {
	steps, transfers := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		l := life(t, rapid.IntRange(1, 60).Draw(t, "steps"), func(c command) command { return c })
		steps += len(l.events)
		transfers += l.audit.Transfers()
		if l.broken != nil {
			t.Fatalf("after %s: %v", names(l.events), l.broken)
		}
	})
	if transfers == 0 {
		t.Fatal("accountability never passed: the test looked at nothing")
	}
	t.Logf("%d events, %d transfers", steps, transfers)
}

// plant replaces what a command decides.
type plant struct {
	command
	change func(Ledger, []proto.Message) []proto.Message
}

func (p plant) Decide(l Ledger) ([]proto.Message, error) {
	events, err := p.command.Decide(l)
	if err != nil {
		return nil, err
	}
	return p.change(l, events), nil
}

func without1[E proto.Message](events []proto.Message) (rest []proto.Message) {
	for _, e := range events {
		if _, is := e.(E); !is {
			rest = append(rest, e)
		}
	}
	return rest
}

// TestAuditCatchesPlantedBugs plants one bug at a time in the decisions; random
// commands must lead the audit to each.
func TestAuditCatchesPlantedBugs(t *testing.T) {
	bugs := map[string]func(command) command{
		"an offer changes the lead": func(c command) command {
			offer, is := c.(OfferHandover)
			if !is {
				return c
			}
			return plant{c, func(l Ledger, events []proto.Message) []proto.Message {
				return append(events, l.transfer(offer.To, &pb.AccountabilityTransferred{Cause: pb.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED, HandoverId: offer.HandoverID})...)
			}}
		},
		"a time-out transfers": func(c command) command {
			if _, is := c.(RunTimers); !is {
				return c
			}
			return plant{c, func(l Ledger, events []proto.Message) []proto.Message {
				if len(events) == 0 || !l.Handover.Open {
					return events
				}
				return append([]proto.Message{&pb.HandoverExpired{HandoverId: l.Handover.ID}},
					Ledger{Holder: l.Holder}.transfer(l.Handover.To, &pb.AccountabilityTransferred{Cause: pb.TransferCause_TRANSFER_CAUSE_HANDOVER_ACCEPTED, HandoverId: l.Handover.ID})...)
			}}
		},
		"a pool without standing acceptance": func(c command) command {
			if leave, is := c.(StartLeave); is {
				leave.Pool = &StandingPool{Party: pool("P"), Until: leave.Now.Add(time.Hour)}
				return plant{leave, func(_ Ledger, events []proto.Message) []proto.Message {
					for _, e := range events {
						if t, is := e.(*pb.AccountabilityTransferred); is {
							t.StandingUntil = nil
						}
					}
					return events
				}}
			}
			return c
		},
		"a transfer without notice": func(c command) command {
			return plant{c, func(_ Ledger, events []proto.Message) []proto.Message {
				return without1[*pb.PatientNoticeDue](without1[*pb.PatientNoticeSuppressed](events))
			}}
		},
		"a withdrawn offer is accepted": func(c command) command {
			if accept, is := c.(AcceptHandover); is {
				return anyway{accept}
			}
			return c
		},
		"a former holder's offer stays open": func(c command) command {
			return plant{c, func(_ Ledger, events []proto.Message) []proto.Message { return without1[*pb.HandoverVoided](events) }}
		},
		"an old version is accepted": func(c command) command {
			if accept, is := c.(AcceptHandover); is {
				return plant{accept, func(_ Ledger, events []proto.Message) []proto.Message {
					events[0].(*pb.HandoverAccepted).PlanVersion--
					return events
				}}
			}
			return c
		},
		"a close without evidence": func(c command) command {
			if _, is := c.(CloseLedger); is {
				return plant{c, func(_ Ledger, events []proto.Message) []proto.Message {
					for _, e := range events {
						if closed, is := e.(*pb.LedgerClosed); is {
							closed.Evidence = ""
						}
					}
					return events
				}}
			}
			return c
		},
		"a cover that nobody agreed to": func(c command) command {
			return plant{c, func(_ Ledger, events []proto.Message) []proto.Message {
				for i, e := range events {
					if agreed, is := e.(*pb.CoverAccepted); is {
						events[i] = &pb.CoverChanged{CoverId: agreed.CoverId, Ends: stamp(monday.AddDate(1, 0, 0))}
					}
					if arranged, is := e.(*pb.CoverArranged); is {
						return append(events, Ledger{Holder: arranged.Lead}.transfer(arranged.Cover,
							&pb.AccountabilityTransferred{Cause: pb.TransferCause_TRANSFER_CAUSE_COVER_STARTED, CoverId: arranged.CoverId, ActingFor: arranged.Lead})...)
					}
				}
				return events
			}}
		},
	}
	for name, bug := range bugs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caught, runs := error(nil), 0
			for seed := 0; caught == nil && seed < 400; seed++ {
				runs++
				caught = rapid.Custom(func(t *rapid.T) error { return life(t, 60, bug).broken }).Example(seed)
			}
			if caught == nil {
				t.Fatalf("MISSED in %d runs", runs)
			}
			t.Logf("control=caught after %d runs: %v", runs, caught)
		})
	}
}

// anyway accepts the newest offer whether it is open or not.
type anyway struct{ AcceptHandover }

func (a anyway) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.open(); err != nil || l.Handover.ID == "" {
		return nil, err
	}
	l.Handover.Open = true
	a.HandoverID, a.By, a.SummaryVersion, a.PlanVersion = l.Handover.ID, as(l.Handover.To), l.Handover.SummaryVersion, l.Handover.PlanVersion
	return a.AcceptHandover.Decide(l)
}

// life draws a random life of one ledger.
func life(t *rapid.T, steps int, through func(command) command) *ledger {
	l := &ledger{}
	now := monday
	leads := []*Party{person("L"), person("M"), person("N")}
	standing := &StandingPool{Party: pool("P"), Until: monday.AddDate(0, 3, 0)}
	do := func(c command) { _ = l.do(through(c), now) } // a refusal is an answer
	do(OpenLedger{PathwayID: "p", PersonID: "q", Holder: team("A")})
	for range steps {
		now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 20, 70, 400}).Draw(t, "hours")) * time.Hour)
		lead := rapid.SampledFrom(leads).Draw(t, "lead")
		by := as(rapid.SampledFrom(append(leads, team("A"), pool("P"), team("B"))).Draw(t, "by"))
		switch rapid.IntRange(0, 19).Draw(t, "command") {
		case 0, 1:
			do(PrepareHandover{Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, Met: all()})
			do(OfferHandover{HandoverID: fmt.Sprint("h", len(l.events)), Kind: pb.HandoverKind_HANDOVER_KIND_TO_LEAD, To: lead, SummaryVersion: 1, PlanVersion: 1, Now: now,
				ServesPatient: true, LeadActive: true, HasPlace: true, HasFallback: true, Escalation: []*Party{pool("P"), person("boss")}})
		case 2:
			do(OfferHandover{HandoverID: fmt.Sprint("h", len(l.events)), Kind: pb.HandoverKind_HANDOVER_KIND_BETWEEN_TEAMS, To: team("B"), Now: now})
		case 3:
			do(OfferHandover{HandoverID: fmt.Sprint("h", len(l.events)), Kind: pb.HandoverKind_HANDOVER_KIND_BETWEEN_LEADS, To: lead, Now: now,
				ServesPatient: true, LeadActive: true, HasPlace: true, HasFallback: true})
		case 4, 5, 6:
			if l.Handover.To != nil && rapid.Bool().Draw(t, "addressee") {
				by = as(l.Handover.To)
			}
			do(AcceptHandover{HandoverID: l.Handover.ID, SummaryVersion: l.Handover.SummaryVersion, PlanVersion: l.Handover.PlanVersion, By: by, Now: now})
		case 7:
			do(DeclineHandover{HandoverID: l.Handover.ID, Reason: pb.DeclineReason_DECLINE_REASON_CAPACITY, By: by})
		case 8:
			do(WithdrawHandover{HandoverID: l.Handover.ID, Reason: "r", By: by})
		case 9, 10:
			do(RunTimers{Now: now})
		case 11:
			id := fmt.Sprint("c", len(l.events))
			do(ArrangeCover{CoverID: id, By: lead, Starts: now.Add(time.Hour), Ends: now.Add(100 * time.Hour)})
			do(AcceptCover{CoverID: id, By: as(lead)})
		case 12:
			do(StartLeave{Lead: lead, Until: now.AddDate(0, 0, 14), Pool: standing, Now: now})
		case 13:
			do(EndLeave{Lead: lead})
		case 14:
			do(LoseLead{Lead: lead, Pool: standing, Now: now})
		case 15:
			do(PatientDecides{WantsLead: rapid.Bool().Draw(t, "wants"), AskAgainOn: "2027-01-01"})
		case 16:
			do(StopNotices{Reason: pb.NoticeSuppression_NOTICE_SUPPRESSION_DEATH})
			do(CloseLedger{Reason: pb.CloseReason_CLOSE_REASON_DIED, Evidence: "e", Died: true, Now: now})
		case 17:
			do(ResumeNotices{Reason: pb.NoticeSuppression_NOTICE_SUPPRESSION_DEATH})
		case 18:
			do(NoteMove{To: rapid.SampledFrom([]string{"n1", "n2", ""}).Draw(t, "to"), Now: now})
		case 19:
			do(returnOffer(l.Ledger, now))
		}
		if l.broken != nil {
			return l
		}
	}
	return l
}

// returnOffer offers the pathway back to the treating team.
func returnOffer(l Ledger, now time.Time) OfferHandover {
	return OfferHandover{HandoverID: fmt.Sprint("r", now.Unix()), Kind: pb.HandoverKind_HANDOVER_KIND_TO_TREATING_TEAM, To: l.Treating, Now: now}
}

func names(events []proto.Message) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprint(&b, e.ProtoReflect().Descriptor().Name(), " ")
	}
	return b.String()
}
