package plan

import (
	"slices"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
)

const (
	planned    = pb.ItemState_ITEM_STATE_PLANNED
	itemDue    = pb.ItemState_ITEM_STATE_DUE
	requested  = pb.ItemState_ITEM_STATE_REQUESTED
	performed  = pb.ItemState_ITEM_STATE_PERFORMED
	resulted   = pb.ItemState_ITEM_STATE_RESULTED
	reviewed   = pb.ItemState_ITEM_STATE_REVIEWED
	told       = pb.ItemState_ITEM_STATE_TOLD
	skipped    = pb.ItemState_ITEM_STATE_SKIPPED
	superseded = pb.ItemState_ITEM_STATE_SUPERSEDED
)

// schedule returns the schedule that runs.
func (s State) schedule() (*pb.Schedule, error) {
	x := last(s.schedules)
	if x == nil || x.EndedReason != "" {
		return nil, fault.Refused("plan.surveillance.none", "no surveillance runs on this pathway: start it first")
	}
	return x, nil
}

// item returns an item of the schedule that runs, in one of the states.
func (s State) item(id string, in ...pb.ItemState) (*pb.ItemView, error) {
	x, err := s.schedule()
	if err != nil {
		return nil, err
	}
	it, ok := find(x.Items, func(it *pb.ItemView) bool { return it.Item.GetItemId() == id })
	if !ok {
		return nil, unknown("item")
	}
	if !slices.Contains(in, it.State) {
		return nil, notAtStep("item")
	}
	return it, nil
}

// openItem reports whether an item still has steps before it.
func openItem(it *pb.ItemView) bool {
	return it.State != told && it.State != skipped && it.State != superseded
}

// watched reports whether somebody on remote monitoring still has something to
// come, or an end, when the items are these.
func watched(x *pb.Schedule, items []*pb.ItemView) bool {
	return !x.RemoteMonitoring || x.Ends != "" || slices.ContainsFunc(items, openItem)
}

var errUnwatched = fault.Refused("plan.surveillance.unwatched",
	"the patient would be on remote monitoring without any test to come: give the day it ends, suspend it, or keep a test")

// StartSurveillance enrols the patient.
type StartSurveillance struct {
	Env
	*pb.StartSurveillanceRequest
}

// Decide refuses a protocol that the organisation has not approved for the tumour
// group, and remote monitoring of nothing.
func (c StartSurveillance) Decide(s State) ([]proto.Message, error) {
	if x := last(s.schedules); x != nil && x.EndedReason == "" {
		return nil, fault.Exists("plan.surveillance.exists", "surveillance runs on this pathway: change its protocol, or end it")
	}
	if err := c.happened("anchor", c.Anchor); err != nil {
		return nil, err
	}
	p, ok := approvedProtocol(c.Protocol, c.Organisation, c.TumourGroup, c.Today())
	if !ok {
		return nil, fault.Refused("plan.protocol.not_approved", "the organisation has approved no version of this protocol for the tumour group: see ListProtocols")
	}
	if c.Ends != "" && c.Ends <= c.Today().String() {
		return nil, fault.Invalid("plan.date.order", "ends", "must be after today")
	}
	items := p.items(date(c.Anchor), func(test, due string) string { return c.ID("item/" + test + "/" + due) })
	if c.RemoteMonitoring && c.Ends == "" && !slices.ContainsFunc(items, func(it *pb.Item) bool { return it.Due >= c.Today().String() }) {
		return nil, errUnwatched
	}
	return events(&pb.SurveillanceStarted{ScheduleId: c.ID("schedule"), Protocol: p.Protocol, ProtocolVersion: p.Version,
		ApprovedByOrganisation: c.Organisation, Anchor: c.Anchor, AnchorEvent: c.AnchorEvent, RiskGroup: c.RiskGroup, Items: items,
		RemoteMonitoring: c.RemoteMonitoring, ReAccessPhone: c.ReAccessPhone, Ends: c.Ends})
}

// RecordSurveillanceNotNeeded says why there is none.
type RecordSurveillanceNotNeeded struct {
	Env
	*pb.RecordSurveillanceNotNeededRequest
}

// Decide refuses it while surveillance runs.
func (c RecordSurveillanceNotNeeded) Decide(s State) ([]proto.Message, error) {
	if _, err := s.schedule(); err == nil {
		return nil, fault.Refused("plan.surveillance.exists", "surveillance runs on this pathway: end it first")
	}
	return events(&pb.SurveillanceNotNeeded{Reason: c.Reason})
}

// RequestItem records that a test was ordered.
type RequestItem struct {
	Env
	*pb.RequestItemRequest
}

// Decide needs an item that was not ordered yet.
func (c RequestItem) Decide(s State) ([]proto.Message, error) {
	it, err := s.item(c.ItemId, planned, itemDue)
	if err != nil {
		return nil, err
	}
	return events(&pb.ItemRequested{ItemId: it.Item.ItemId, OrderId: c.OrderId})
}

// RecordItemPerformed records that the test was done.
type RecordItemPerformed struct {
	Env
	*pb.RecordItemPerformedRequest
}

// Decide refuses days to come.
func (c RecordItemPerformed) Decide(s State) ([]proto.Message, error) {
	it, err := s.item(c.ItemId, planned, itemDue, requested)
	if err != nil {
		return nil, err
	}
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	return events(&pb.ItemPerformed{ItemId: it.Item.ItemId, On: c.On})
}

// SkipItem leaves a test out, with the reason.
type SkipItem struct {
	Env
	*pb.SkipItemRequest
}

// Decide refuses what was done already, and the last test of somebody who is
// monitored remotely without an end.
func (c SkipItem) Decide(s State) ([]proto.Message, error) {
	it, err := s.item(c.ItemId, planned, itemDue, requested)
	if err != nil {
		return nil, err
	}
	x := last(s.schedules)
	rest := slices.DeleteFunc(slices.Clone(x.Items), func(o *pb.ItemView) bool { return o == it })
	if !watched(x, rest) {
		return nil, errUnwatched
	}
	return events(&pb.ItemSkipped{ItemId: it.Item.ItemId, Reason: c.Reason})
}

// ChangeProtocol computes the items to come by another protocol or version.
type ChangeProtocol struct {
	Env
	*pb.ChangeProtocolRequest
}

// Decide keeps what is due, was ordered or done, and replaces what lies ahead.
func (c ChangeProtocol) Decide(s State) ([]proto.Message, error) {
	x, err := s.schedule()
	if err != nil {
		return nil, err
	}
	today := c.Today()
	p, ok := approvedProtocol(c.Protocol, c.Organisation, "", today)
	if !ok {
		return nil, fault.Refused("plan.protocol.not_approved", "the organisation has approved no version of this protocol: see ListProtocols")
	}
	if p.Protocol == x.Protocol && p.Version == x.ProtocolVersion {
		return nil, fault.Refused("plan.protocol.unchanged", "this version is in force already")
	}
	var out []proto.Message
	kept := map[string]bool{}
	var open []*pb.ItemView
	for _, it := range x.Items {
		switch {
		case it.State == planned && it.Item.Due > today.String():
			continue // replaced
		case it.State == planned:
			out = append(out, &pb.ItemBecameDue{ItemId: it.Item.ItemId})
		}
		if it.State != superseded {
			kept[it.Item.Test+"/"+it.Item.Due] = true
			open = append(open, it)
		}
	}
	e := &pb.ProtocolChanged{ScheduleId: x.ScheduleId, Protocol: p.Protocol, ProtocolVersion: p.Version}
	for _, it := range p.items(date(x.Anchor), func(test, due string) string { return c.ID("item/" + test + "/" + due) }) {
		if it.Due > today.String() && !kept[it.Test+"/"+it.Due] {
			e.Items = append(e.Items, it)
			open = append(open, &pb.ItemView{Item: it, State: planned})
		}
	}
	if !watched(x, open) {
		return nil, errUnwatched
	}
	return append(out, e), nil
}

// SuspendRemoteMonitoring takes the patient off remote monitoring.
type SuspendRemoteMonitoring struct {
	Env
	*pb.SuspendRemoteMonitoringRequest
}

// Decide needs somebody who is on it. Tests go on, with letters and calls.
func (c SuspendRemoteMonitoring) Decide(s State) ([]proto.Message, error) {
	x, err := s.schedule()
	if err != nil {
		return nil, err
	}
	if !x.RemoteMonitoring {
		return nil, notAtStep("surveillance")
	}
	return events(&pb.PatientSuspendedFromRemoteMonitoring{ScheduleId: x.ScheduleId, Reason: c.Reason})
}

// ReaccessPatient records that the patient came back between tests.
type ReaccessPatient struct {
	Env
	*pb.ReaccessPatientRequest
}

// Decide refuses days to come.
func (c ReaccessPatient) Decide(s State) ([]proto.Message, error) {
	x, err := s.schedule()
	if err != nil {
		return nil, err
	}
	if err := c.happened("on", c.On); err != nil {
		return nil, err
	}
	return events(&pb.PatientReaccessed{ScheduleId: x.ScheduleId, Reason: c.Reason, On: c.On})
}

// EndSurveillance ends it, never silently.
type EndSurveillance struct {
	Env
	*pb.EndSurveillanceRequest
}

// Decide refuses while a test is between order and telling the patient.
func (c EndSurveillance) Decide(s State) ([]proto.Message, error) {
	x, err := s.schedule()
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(s.results, untold) || slices.ContainsFunc(x.Items, func(it *pb.ItemView) bool {
		return it.State == requested || it.State == performed || it.State == resulted || it.State == reviewed
	}) {
		return nil, fault.Refused("plan.result.open", "a test was ordered or done and the patient was not told: finish or skip it first")
	}
	return events(&pb.SurveillanceEnded{ScheduleId: x.ScheduleId, Reason: c.Reason})
}

// onItem changes an item of the newest schedule.
func (s State) onItem(id string, change func(it *pb.ItemView)) State {
	s.schedules = withLast(s.schedules, func(x *pb.Schedule) {
		x.Items = with(x.Items, func(it *pb.ItemView) bool { return it.Item.GetItemId() == id }, change)
	})
	return s
}

func evolveSurveillance(s State, e proto.Message) (State, bool) {
	edit := func(change func(x *pb.Schedule)) (State, bool) {
		s.schedules = withLast(s.schedules, change)
		return s, true
	}
	switch e := e.(type) {
	case *pb.SurveillanceStarted:
		x := &pb.Schedule{ScheduleId: e.ScheduleId, Protocol: e.Protocol, ProtocolVersion: e.ProtocolVersion, ApprovedByOrganisation: e.ApprovedByOrganisation,
			Anchor: e.Anchor, AnchorEvent: e.AnchorEvent, RiskGroup: e.RiskGroup, RemoteMonitoring: e.RemoteMonitoring, ReAccessPhone: e.ReAccessPhone, Ends: e.Ends}
		for _, it := range e.Items {
			x.Items = append(x.Items, &pb.ItemView{Item: it, State: planned, ProtocolVersion: e.ProtocolVersion})
		}
		s.schedules, s.notNeeded = add(s.schedules, x), ""
		return s, true
	case *pb.SurveillanceNotNeeded:
		s.notNeeded = e.Reason
		return s, true
	case *pb.ItemBecameDue:
		return s.onItem(e.ItemId, func(it *pb.ItemView) { it.State = itemDue }), true
	case *pb.ItemRequested:
		return s.onItem(e.ItemId, func(it *pb.ItemView) { it.State, it.OrderId = requested, e.OrderId }), true
	case *pb.ItemPerformed:
		return s.onItem(e.ItemId, func(it *pb.ItemView) {
			it.State, it.PerformedOn, it.Overdue, it.OverdueStep = performed, e.On, false, ""
		}), true
	case *pb.ItemOverdue:
		return s.onItem(e.ItemId, func(it *pb.ItemView) { it.Overdue, it.OverdueStep = true, e.Step }), true
	case *pb.ItemSkipped:
		return s.onItem(e.ItemId, func(it *pb.ItemView) { it.State, it.Reason, it.Overdue = skipped, e.Reason, false }), true
	case *pb.ProtocolChanged:
		return edit(func(x *pb.Schedule) {
			x.Protocol, x.ProtocolVersion = e.Protocol, e.ProtocolVersion
			x.Items = with(x.Items, func(it *pb.ItemView) bool { return it.State == planned }, func(it *pb.ItemView) { it.State = superseded })
			for _, it := range e.Items {
				x.Items = append(x.Items, &pb.ItemView{Item: it, State: planned, ProtocolVersion: e.ProtocolVersion})
			}
		})
	case *pb.PatientSuspendedFromRemoteMonitoring:
		return edit(func(x *pb.Schedule) { x.RemoteMonitoring = false })
	case *pb.PatientReaccessed:
		return s, true
	case *pb.SurveillanceEndPassed:
		return edit(func(x *pb.Schedule) { x.EndPassed = true })
	case *pb.SurveillanceEnded:
		return edit(func(x *pb.Schedule) { x.EndedReason, x.RemoteMonitoring = e.Reason, false })
	}
	return s, false
}
