package carelead

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/estest"
	"waymark/services/kit/nhs"
)

func registered(capacity int32) *pb.LeadRegistered {
	return &pb.LeadRegistered{Party: person("l"), NeighbourhoodIds: []string{"n1"}, Capacity: capacity}
}

func on(day int) *timestamppb.Timestamp { return stamp(monday.AddDate(0, 0, day)) }

func booked(id string, from, to int) *pb.LeaveBooked {
	return &pb.LeaveBooked{LeaveId: id, Starts: on(from), Ends: on(to)}
}

// TestLeads goes through the states of a lead, leave by leave.
func TestLeads(t *testing.T) {
	t.Parallel()
	active := estest.Given(LeadDecider, registered(1), &pb.LeadActivated{On: "2026-07-06"})
	at := func(day int) RunLeave { return RunLeave{Now: monday.AddDate(0, 0, day)} }

	estest.Given(LeadDecider).When(RegisterLead{Party: team("A"), Neighbourhoods: []string{"n1"}, On: nhs.DateOf(monday)}.Decide).ThenRefused(t, "carelead.lead.not_a_person")
	estest.Given(LeadDecider).When(RegisterLead{Party: person("l"), On: nhs.DateOf(monday)}.Decide).ThenRefused(t, "carelead.lead.no_neighbourhood")
	estest.Given(LeadDecider).When(ActivateLead{}.Decide).ThenRefused(t, "carelead.lead.not_found")
	estest.Given(LeadDecider, registered(1)).When(TakePlace{PathwayID: "p", HandoverID: "h"}.Decide).ThenRefused(t, "carelead.lead.inactive")
	active.When(RegisterLead{Party: person("l"), Neighbourhoods: []string{"n1"}, On: nhs.DateOf(monday)}.Decide).ThenRefused(t, "carelead.lead.exists")
	active.When(ActivateLead{On: "2026-07-07"}.Decide).ThenNothing(t)

	taken := &pb.CaseloadPlaceTaken{PathwayId: "p", HandoverId: "h", TakenAt: on(0)}
	active.When(TakePlace{PathwayID: "p", HandoverID: "h", Now: monday}.Decide).Then(t, taken)
	full := active.And(taken)
	full.When(TakePlace{PathwayID: "p", HandoverID: "h", Now: monday}.Decide).ThenNothing(t)
	full.When(TakePlace{PathwayID: "q", HandoverID: "i", Now: monday}.Decide).ThenRefused(t, "carelead.lead.no_capacity")
	newer := &pb.CaseloadPlaceTaken{PathwayId: "p", HandoverId: "i", TakenAt: on(1)}
	full.When(TakePlace{PathwayID: "p", HandoverID: "i", Now: monday.AddDate(0, 0, 1)}.Decide).Then(t, newer)
	full.And(newer).When(FreePlace{PathwayID: "p", HandoverID: "h"}.Decide).ThenNothing(t) // the older offer's end
	full.When(FreePlace{PathwayID: "p", HandoverID: "h"}.Decide).Then(t, &pb.CaseloadPlaceFreed{PathwayId: "p"})
	full.When(RestorePlace{PathwayID: "q", Now: monday}.Decide).Then(t, &pb.CaseloadPlaceTaken{PathwayId: "q", TakenAt: on(0)})
	full.When(RestorePlace{PathwayID: "p", Now: monday}.Decide).ThenNothing(t)

	away := active.And(booked("v", 1, 8))
	away.When(at(0).Decide).ThenNothing(t)
	away.When(at(1).Decide).Then(t, &pb.LeaveStarted{LeaveId: "v"})
	away.When(at(9).Decide).Then(t, &pb.LeaveStarted{LeaveId: "v"}, &pb.LeaveEnded{LeaveId: "v"})
	away.When(CancelLeave{LeaveID: "v"}.Decide).Then(t, &pb.LeaveCancelled{LeaveId: "v"})
	away.When(BookLeave{LeaveID: "w", Starts: monday.AddDate(0, 0, 7), Ends: monday.AddDate(0, 0, 9), Now: monday}.Decide).ThenRefused(t, "carelead.leave.overlap")
	begun := away.And(&pb.LeaveStarted{LeaveId: "v"})
	begun.When(at(7).Decide).ThenNothing(t)
	begun.When(at(8).Decide).Then(t, &pb.LeaveEnded{LeaveId: "v"})
	begun.When(CancelLeave{LeaveID: "v"}.Decide).ThenRefused(t, "carelead.leave.started")
	begun.When(ReturnFromLeave{}.Decide).Then(t, &pb.LeaveEnded{LeaveId: "v"})
	begun.When(TakePlace{PathwayID: "p", HandoverID: "h", Now: monday}.Decide).ThenRefused(t, "carelead.lead.inactive")
	// The end of one leave is noticed after the next began: the lead is still away.
	both := begun.And(booked("w", 9, 12), &pb.LeaveStarted{LeaveId: "w"}, &pb.LeaveEnded{LeaveId: "v"})
	if s := both.State(t).State; s != pb.LeadState_LEAD_STATE_ON_LEAVE {
		t.Errorf("on a second leave the lead is %v", s)
	}
	// Leave does not activate who was only invited.
	invited := estest.Given(LeadDecider, registered(1), booked("v", 1, 2), &pb.LeaveStarted{LeaveId: "v"}, &pb.LeaveEnded{LeaveId: "v"})
	if s := invited.State(t).State; s != pb.LeadState_LEAD_STATE_INVITED {
		t.Errorf("after leave an invited lead is %v", s)
	}
	gone := begun.And(&pb.LeadDeactivated{Cause: "role_ended"})
	gone.When(DeactivateLead{Cause: "role_ended"}.Decide).ThenNothing(t)
	gone.When(at(9).Decide).ThenNothing(t)
	gone.When(BookLeave{LeaveID: "x", Starts: monday, Ends: monday.AddDate(0, 0, 1), Now: monday}.Decide).ThenRefused(t, "carelead.lead.inactive")
}

// TestNeighbourhoods: a pool stands until its time, and the chain of escalation
// has it only while it does.
func TestNeighbourhoods(t *testing.T) {
	t.Parallel()
	none := estest.Given(NeighbourhoodDecider)
	defined := none.And(&pb.NeighbourhoodDefined{Name: "Peckham", Organisation: "RAA", Practices: []string{"G85001"}, Manager: person("boss"), AllianceContact: person("nurse")})
	none.When(ChangePractices{}.Decide).ThenRefused(t, "carelead.neighbourhood.not_found")
	none.When(ChangeManager{Manager: person("x")}.Decide).ThenRefused(t, "carelead.neighbourhood.not_found")
	defined.When(ChangePractices{Practices: []string{"G85001"}}.Decide).ThenNothing(t)
	defined.When(DefineNeighbourhood{Name: "x"}.Decide).ThenRefused(t, "carelead.neighbourhood.exists")
	accepted := defined.And(&pb.FallbackPoolAccepted{Pool: pool("P"), Until: on(10), OutOfHoursMessage: "111", AcceptedBy: "user-P"})
	accepted.When(RunFallback{Now: monday.AddDate(0, 0, 9)}.Decide).ThenNothing(t)
	accepted.When(RunFallback{Now: monday.AddDate(0, 0, 10)}.Decide).Then(t, &pb.FallbackPoolLapsed{At: on(10)})
	for day, want := range map[int]int{9: 3, 10: 2} {
		if chain := accepted.State(t).Escalation(monday.AddDate(0, 0, day)); len(chain) != want {
			t.Errorf("on day %d the chain is %v", day, chain)
		}
	}
	if chain := accepted.And(&pb.FallbackPoolLapsed{At: on(10)}).State(t).Escalation(monday); len(chain) != 2 {
		t.Errorf("a lapsed pool is in the chain: %v", chain)
	}
}

// TestLifeOfLedgers: what the random lives cannot aim at.
func TestLifeOfLedgers(t *testing.T) {
	t.Parallel()
	opened := estest.Given(LedgerDecider, &pb.LedgerOpened{PathwayId: "p", PersonId: "q", Holder: team("A")})
	death := &pb.PatientNoticesStopped{Reason: pb.NoticeSuppression_NOTICE_SUPPRESSION_DEATH}
	task := &pb.ReviewTaskRaised{TaskId: derived("pe", "bereavement"), Code: "bereavement", Due: on(0)}
	closed := []proto.Message{death, &pb.LedgerClosed{Reason: pb.CloseReason_CLOSE_REASON_DIED, Evidence: "e"}, task}
	opened.When(NoteDeath{Stop: true, Died: true, Evidence: "e", Now: monday}.Decide).Then(t, closed...)
	died := opened.And(closed...)
	died.When(NoteDeath{Stop: true, Died: true, Evidence: "f", Now: monday}.Decide).ThenNothing(t)
	died.When(NoteDeath{Stop: true, Now: monday}.Decide).Then(t, // it was but informal
		&pb.LedgerReopened{Holder: team("A"), Cause: "death notice retracted"}, &pb.ReviewTaskDone{TaskId: task.TaskId})
	died.When(ReopenLedger{Now: monday}.Decide).ThenNothing(t)

	merged := opened.And(&pb.LedgerMerged{MergedPathwayId: "r", MergedHolder: team("B")})
	merged.When(SupersedeLedger{By: "r"}.Decide).ThenRefused(t, "carelead.merge.crossed")
	gone := opened.And(&pb.LedgerClosed{Reason: pb.CloseReason_CLOSE_REASON_SUPERSEDED, Evidence: "r", SupersededBy: "r"})
	gone.When(ResumeLedger{From: "s", Now: monday}.Decide).ThenNothing(t)
	gone.When(ReopenLedger{Now: monday}.Decide).ThenNothing(t)

	followed := opened.And(&pb.LedgerPersonChanged{PersonId: "survivor", MergeId: "m"})
	followed.When(FollowPerson{MergeID: "m", From: "q", To: "survivor"}.Decide).ThenNothing(t)
	followed.When(FollowPerson{MergeID: "n", From: "survivor", To: "q", Reversed: true}.Decide).ThenNothing(t)
	followed.When(FollowPerson{MergeID: "m", From: "survivor", To: "q", Reversed: true}.Decide).Then(t, &pb.LedgerPersonChanged{PersonId: "q", MergeId: "m", Reversed: true})

	raised := RaiseTask{Code: "c", About: "x", Now: monday}
	opened.And(&pb.ReviewTaskRaised{TaskId: derived("px", "c"), Code: "c", Due: on(0)}).When(raised.Decide).ThenNothing(t)
	opened.And(&pb.LedgerClosed{Reason: 5, Evidence: "e"}).When(raised.Decide).ThenNothing(t)
}
