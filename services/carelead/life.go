package carelead

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/fault"
)

// CloseLedger ends accountability, for a listed reason that something shows.
type CloseLedger struct {
	Reason   pb.CloseReason
	Evidence string // event id or document reference
	// Died is looked up: a formal death notice stands for the person now.
	Died bool
	Now  time.Time
}

// Decide refuses to close without evidence, and as died without a standing notice.
func (c CloseLedger) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	died := c.Reason == pb.CloseReason_CLOSE_REASON_DIED
	switch {
	case died && !c.Died:
		return nil, fault.Refused("carelead.end.reason_not_valid", "no formal death notice stands for this person; an informal or retracted one does not close a ledger")
	case c.Reason == pb.CloseReason_CLOSE_REASON_SUPERSEDED:
		return nil, fault.Refused("carelead.end.reason_not_valid", "a ledger is superseded only by a merge")
	case c.Evidence == "":
		return nil, fault.Invalid("carelead.end.evidence_missing", "evidence", "name the event or document that shows the reason; leaving England needs the receiving contact or the documented attempts")
	}
	void := pb.VoidReason_VOID_REASON_PATHWAY_CLOSED
	switch c.Reason {
	case pb.CloseReason_CLOSE_REASON_DIED:
		void = pb.VoidReason_VOID_REASON_DIED
	case pb.CloseReason_CLOSE_REASON_LEFT_ENGLAND:
		void = pb.VoidReason_VOID_REASON_LEFT_ENGLAND
	}
	events := append(l.void(void), &pb.LedgerClosed{Reason: c.Reason, Evidence: c.Evidence})
	if died {
		events = append(events, l.task("bereavement", c.Evidence, c.Now))
	}
	return events, nil
}

// StopNotices keeps notices from the patient: an informal or formal death
// notice, a restricted record, safety. The holder is unchanged.
type StopNotices struct{ Reason pb.NoticeSuppression }

// Decide does nothing when they are stopped for that reason already.
func (c StopNotices) Decide(l Ledger) ([]proto.Message, error) {
	if !l.Opened || slices.Contains(l.Silenced, c.Reason) {
		return nil, nil
	}
	return []proto.Message{&pb.PatientNoticesStopped{Reason: c.Reason}}, nil
}

// ResumeNotices undoes StopNotices; for a death notice that was retracted it
// also reopens a ledger that was closed on it, with its last holder.
type ResumeNotices struct{ Reason pb.NoticeSuppression }

// Decide does nothing when they were not stopped for that reason.
func (c ResumeNotices) Decide(l Ledger) ([]proto.Message, error) {
	if !l.Opened {
		return nil, nil
	}
	var events []proto.Message
	if slices.Contains(l.Silenced, c.Reason) {
		events = append(events, &pb.PatientNoticesResumed{Reason: c.Reason})
	}
	if c.Reason == pb.NoticeSuppression_NOTICE_SUPPRESSION_DEATH && l.Closed == pb.CloseReason_CLOSE_REASON_DIED {
		events = append(events, &pb.LedgerReopened{Holder: l.Holder, Cause: "death notice retracted"})
	}
	return events, nil
}

// NoteDeath brings the ledger to what the person record says of a death now. One
// append does all of it, and it may be sent in any order, any number of times.
type NoteDeath struct {
	Stop     bool // a notice of either kind stands
	Died     bool // a formal one stands
	Evidence string
	Now      time.Time
}

// Decide stops notices to the patient at either kind of notice and closes the
// ledger at a formal one; it undoes both when the notice is gone.
func (c NoteDeath) Decide(l Ledger) ([]proto.Message, error) {
	if !l.Opened {
		return nil, nil
	}
	var events []proto.Message
	const death = pb.NoticeSuppression_NOTICE_SUPPRESSION_DEATH
	switch stopped := slices.Contains(l.Silenced, death); {
	case c.Stop && !stopped:
		events = append(events, &pb.PatientNoticesStopped{Reason: death})
	case !c.Stop && stopped:
		events = append(events, &pb.PatientNoticesResumed{Reason: death})
	}
	switch {
	case c.Died && l.Closed == 0:
		events = append(events, l.void(pb.VoidReason_VOID_REASON_DIED)...)
		events = append(events, &pb.LedgerClosed{Reason: pb.CloseReason_CLOSE_REASON_DIED, Evidence: c.Evidence}, l.task("bereavement", c.Evidence, c.Now))
	case !c.Died && l.Closed == pb.CloseReason_CLOSE_REASON_DIED:
		events = append(events, &pb.LedgerReopened{Holder: l.Holder, Cause: "death notice retracted"})
		for _, t := range l.Tasks {
			if t.Code == "bereavement" {
				events = append(events, &pb.ReviewTaskDone{TaskId: t.ID})
			}
		}
	}
	return events, nil
}

// ReopenLedger undoes the closing by a pathway whose own closing was an error.
type ReopenLedger struct{ Now time.Time }

// Decide leaves alone a ledger that something else closed.
func (c ReopenLedger) Decide(l Ledger) ([]proto.Message, error) {
	switch l.Closed {
	case pb.CloseReason_CLOSE_REASON_CANCER_RULED_OUT, pb.CloseReason_CLOSE_REASON_FOLLOW_UP_COMPLETE, pb.CloseReason_CLOSE_REASON_ENTERED_IN_ERROR:
		return []proto.Message{&pb.LedgerReopened{Holder: l.Holder, Cause: "closing of the pathway corrected"}, l.task("close_to_review", day(c.Now), c.Now)}, nil
	}
	return nil, nil
}

// FollowPerson is sent when the record of the ledger's person was merged into
// another, and when that was reversed.
type FollowPerson struct {
	MergeID, From, To string
	Reversed          bool
}

// Decide takes back only what it did for that merge.
func (c FollowPerson) Decide(l Ledger) ([]proto.Message, error) {
	if !l.Opened || l.PersonID != c.From || c.Reversed != slices.Contains(l.Followed, c.MergeID) {
		return nil, nil
	}
	return []proto.Message{&pb.LedgerPersonChanged{PersonId: c.To, MergeId: c.MergeID, Reversed: c.Reversed}}, nil
}

// PatientDecides records whether the patient wants a lead. The holder is
// unchanged either way: nobody is dropped for saying no.
type PatientDecides struct {
	WantsLead      bool
	On, AskAgainOn string
}

// Decide ends an open offer to a lead when the patient declines.
func (c PatientDecides) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	if c.WantsLead {
		return []proto.Message{&pb.LeadRequestedByPatient{On: c.On}}, nil
	}
	if c.AskAgainOn == "" {
		return nil, fault.Invalid("carelead.patient.ask_again", "ask_again_on", "give the day on which the patient is asked again")
	}
	var events []proto.Message
	if l.Handover.Kind == pb.HandoverKind_HANDOVER_KIND_TO_LEAD {
		events = l.void(pb.VoidReason_VOID_REASON_PATIENT_DECLINED)
	}
	return append(events, &pb.LeadDeclinedByPatient{AskAgainOn: c.AskAgainOn}), nil
}

// NoteMove is sent when the patient's practice or area changed.
type NoteMove struct {
	// To is the neighbourhood that serves the new practice; empty when none does.
	To  string
	Now time.Time
	// Withheld: the practice of a restricted person is not shown; somebody who may
	// see it must look.
	Withheld bool
	// Candidates are leads of the new neighbourhood who could take over, best first.
	Candidates []string
}

// Decide starts nothing while the treating team holds the pathway; a lead keeps
// it until a lead of the new neighbourhood accepts.
func (c NoteMove) Decide(l Ledger) ([]proto.Message, error) {
	if l.open() != nil || Same(l.Holder, l.Treating) {
		return nil, nil
	}
	if c.Withheld {
		return RaiseTask{Code: "neighbourhood_changed", About: day(c.Now), Now: c.Now}.Decide(l)
	}
	if c.To == l.Neighbourhood {
		return nil, nil
	}
	events := []proto.Message{&pb.NeighbourhoodChangeDetected{FromNeighbourhoodId: l.Neighbourhood, ToNeighbourhoodId: c.To, CandidateLeadIds: c.Candidates}}
	code := "neighbourhood_changed"
	if c.To == "" {
		code = "no_neighbourhood"
	}
	return append(events, l.task(code, c.To+day(c.Now), c.Now)), nil
}

// MergeLedger is sent to the ledger that goes on when two ledgers prove to be
// of one pathway; SupersedeLedger is sent to the other, afterwards.
type MergeLedger struct {
	Merged       string // pathway id of the other
	MergedHolder *Party
	Now          time.Time
}

// Decide keeps the holder, and asks a person to look when the two differ.
func (c MergeLedger) Decide(l Ledger) ([]proto.Message, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	events := []proto.Message{&pb.LedgerMerged{MergedPathwayId: c.Merged, MergedHolder: c.MergedHolder}}
	if !Same(l.Holder, c.MergedHolder) {
		events = append(events, l.task("holders_differ", c.Merged, c.Now))
	}
	return events, nil
}

// SupersedeLedger closes a ledger in favour of another.
type SupersedeLedger struct {
	By      string
	Settled []string // ledgers merged into this one that are closed, as was looked up
}

// Decide does nothing when it is closed already, and refuses while a ledger that
// was merged into this one is open. Of ledgers that were merged in a ring each
// waits for the next, so that none of them closes, and somebody stays accountable.
func (c SupersedeLedger) Decide(l Ledger) ([]proto.Message, error) {
	if l.open() != nil {
		return nil, nil
	}
	if slices.ContainsFunc(l.Merged, func(id string) bool { return id == c.By || !slices.Contains(c.Settled, id) }) {
		return nil, fault.Refused("carelead.merge.crossed", "a ledger that was merged into this one is open, perhaps because they were merged in a ring; all stay open until a person looks")
	}
	return append(l.void(pb.VoidReason_VOID_REASON_MERGED),
		&pb.LedgerClosed{Reason: pb.CloseReason_CLOSE_REASON_SUPERSEDED, Evidence: c.By, SupersededBy: c.By}), nil
}

// ResumeLedger reopens a ledger that was superseded by a merge that was reversed.
type ResumeLedger struct {
	From string // the pathway whose ledger it was closed in favour of; empty: any
	Now  time.Time
}

// Decide gives it back to its last holder and asks a person to look; it does
// nothing for a ledger that was not superseded.
func (c ResumeLedger) Decide(l Ledger) ([]proto.Message, error) {
	if l.Closed != pb.CloseReason_CLOSE_REASON_SUPERSEDED || c.From != "" && c.From != l.SupersededBy {
		return nil, nil
	}
	return []proto.Message{
		&pb.LedgerReopened{Holder: l.Holder, Cause: "merge reversed"},
		l.task("merge_reversed", l.SupersededBy, c.Now),
	}, nil
}

// RaiseTask asks a person to look at what no rule can decide.
type RaiseTask struct {
	Code, About string
	Now         time.Time
}

// Decide raises one task at a time about one thing; a closed ledger has nobody
// whose task it would be.
func (c RaiseTask) Decide(l Ledger) ([]proto.Message, error) {
	if l.open() != nil {
		return nil, nil
	}
	task := l.task(c.Code, c.About, c.Now)
	if slices.ContainsFunc(l.Tasks, func(t Task) bool { return t.ID == task.TaskId }) {
		return nil, nil
	}
	return []proto.Message{task}, nil
}

// CompleteTask ends a review task.
type CompleteTask struct{ TaskID string }

// Decide refuses a task that is not open.
func (c CompleteTask) Decide(l Ledger) ([]proto.Message, error) {
	if !slices.ContainsFunc(l.Tasks, func(t Task) bool { return t.ID == c.TaskID }) {
		return nil, fault.NotFound("carelead.task.not_found", "no such task is open")
	}
	return []proto.Message{&pb.ReviewTaskDone{TaskId: c.TaskID}}, nil
}
