package plan

import (
	"slices"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

const (
	resultReceived  = pb.ResultState_RESULT_STATE_RECEIVED
	resultReviewed  = pb.ResultState_RESULT_STATE_REVIEWED
	resultTold      = pb.ResultState_RESULT_STATE_TOLD
	resultCancelled = pb.ResultState_RESULT_STATE_CANCELLED
)

// Working days in which a person reviews a result.
const (
	reviewAbnormal = 1
	reviewNormal   = 5
)

// untold reports whether the patient has yet to hear of a result.
func untold(r *pb.Result) bool { return r.State == resultReceived || r.State == resultReviewed }

func (s State) result(id string, in ...pb.ResultState) (*pb.Result, error) {
	r, ok := find(s.results, func(r *pb.Result) bool { return r.ResultId == id })
	if !ok {
		return nil, unknown("result")
	}
	if len(in) > 0 && !slices.Contains(in, r.State) {
		return nil, notAtStep("result")
	}
	return r, nil
}

// ReceiveResult takes a result in.
type ReceiveResult struct {
	Env
	*pb.ReceiveResultRequest
}

// Decide matches it to an item, or to nothing: then it is in the reviewer's
// queue all the same. A second final report of the same result is no news; a
// correction is, and opens the review again.
func (c ReceiveResult) Decide(s State) ([]proto.Message, error) {
	id := c.ResultId
	if id == "" {
		id = c.ID("result")
	}
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	days := reviewNormal
	if c.OutOfRange {
		days = reviewAbnormal
	}
	e := &pb.ResultReceived{ResultId: id, ItemId: c.ItemId, Test: c.Test, Status: c.Status, OutOfRange: c.OutOfRange, Value: c.Value, On: c.On,
		ReviewDue: waitingtimes.AddWorkingDays(c.Today(), days).String()}
	if before, err := s.result(id); err == nil {
		if before.Status != "P" && c.Status != "C" && c.Status != "X" {
			return nil, fault.Refused("plan.result.final", "this result is final: correct it with status C, or cancel it with X")
		}
		e.ItemId = before.ItemId
		return events(e)
	} else if c.Status == "C" || c.Status == "X" {
		return nil, err // nothing to correct
	}
	it := s.match(c.ItemId, c.Test)
	if c.ItemId != "" && it == nil {
		return nil, unknown("item")
	}
	if it == nil {
		return events(e)
	}
	e.ItemId = it.Item.ItemId
	if it.State == performed {
		return events(e)
	}
	return events(&pb.ItemPerformed{ItemId: e.ItemId, On: c.On}, e)
}

// match finds the item that a result is of: the one named, or else the one of
// this test that has got furthest, earliest due first.
func (s State) match(id, test string) *pb.ItemView {
	x, err := s.schedule()
	if err != nil {
		return nil
	}
	for _, state := range []pb.ItemState{performed, requested, itemDue, planned} {
		for _, it := range x.Items {
			if it.State != state || it.Item.Test != test || id != "" && it.Item.ItemId != id {
				continue
			}
			if id != "" || state != planned { // a test that nobody waits for is not the one planned for later
				return it
			}
		}
	}
	return nil
}

// tellBy is the day by which the patient hears of a test done on a day.
func tellBy(test, on string) nhs.Date {
	clock := "result_told"
	if imaging(test) {
		clock = "result_told_imaging"
	}
	due, _, err := waitingtimes.Due(clock, date(on))
	if err != nil {
		return date(on).AddDays(21) // before the rule was written
	}
	return due
}

// ReviewResult records that a person looked at it.
type ReviewResult struct {
	Env
	*pb.ReviewResultRequest
}

// Decide refuses a system where the result is out of range.
func (c ReviewResult) Decide(s State) ([]proto.Message, error) {
	r, err := s.result(c.ResultId, resultReceived)
	if err != nil {
		return nil, err
	}
	if r.OutOfRange && c.Role == "" {
		return nil, fault.Denied("plan.result.needs_person", "the result is out of range: a person in a role must review it")
	}
	if err := first(c.happened("on", c.On), inOrder("on", r.On, c.On)); err != nil {
		return nil, err
	}
	return events(&pb.ResultReviewed{ResultId: r.ResultId, ItemId: r.ItemId, ReviewedBy: c.User, On: c.On, TellBy: tellBy(r.Test, r.On).String()})
}

// TellPatient records that the patient was told.
type TellPatient struct {
	Env
	*pb.TellPatientRequest
}

// Decide needs a reviewed result. Who has nothing more to come and no end is taken
// off remote monitoring with it, which puts them before a person.
func (c TellPatient) Decide(s State) ([]proto.Message, error) {
	r, err := s.result(c.ResultId, resultReviewed)
	if err != nil {
		return nil, err
	}
	if err := first(c.happened("on", c.On), inOrder("on", r.On, c.On)); err != nil {
		return nil, err
	}
	out := []proto.Message{&pb.PatientToldResult{ResultId: r.ResultId, ItemId: r.ItemId, On: c.On, Medium: c.Medium}}
	if x, err := s.schedule(); err == nil && r.ItemId != "" {
		rest := slices.DeleteFunc(slices.Clone(x.Items), func(it *pb.ItemView) bool { return it.Item.ItemId == r.ItemId })
		if !watched(x, rest) {
			out = append(out, &pb.PatientSuspendedFromRemoteMonitoring{ScheduleId: x.ScheduleId, Reason: "no test to come"})
		}
	}
	return out, nil
}

func evolveResult(s State, e proto.Message) (State, bool) {
	edit := func(id string, change func(r *pb.Result)) {
		s.results = with(s.results, func(r *pb.Result) bool { return r.ResultId == id }, change)
	}
	item := func(id string, state pb.ItemState) (State, bool) {
		if id == "" {
			return s, true
		}
		return s.onItem(id, func(it *pb.ItemView) { it.State, it.Overdue, it.OverdueStep = state, false, "" }), true
	}
	switch e := e.(type) {
	case *pb.ResultReceived:
		r := &pb.Result{ResultId: e.ResultId, ItemId: e.ItemId, Test: e.Test, Status: e.Status, OutOfRange: e.OutOfRange, Value: e.Value, On: e.On,
			State: resultReceived, ReviewDue: e.ReviewDue}
		step := resulted
		if e.Status == "X" {
			r.State, r.ReviewDue, step = resultCancelled, "", performed
		}
		if i := slices.IndexFunc(s.results, func(r *pb.Result) bool { return r.ResultId == e.ResultId }); i >= 0 {
			s.results = slices.Clone(s.results)
			s.results[i] = r
		} else {
			s.results = add(s.results, r)
		}
		return item(e.ItemId, step)
	case *pb.ResultReviewed:
		edit(e.ResultId, func(r *pb.Result) { r.State, r.ReviewedBy, r.TellBy = resultReviewed, e.ReviewedBy, e.TellBy })
		return item(e.ItemId, reviewed)
	case *pb.PatientToldResult:
		edit(e.ResultId, func(r *pb.Result) { r.State, r.ToldOn = resultTold, e.On })
		return item(e.ItemId, told)
	}
	return s, false
}
