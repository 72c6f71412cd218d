package appointment

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/appointment/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/nhs"
)

// diary is the read model of this room: which pathways are of one person, what
// the person needs, which sessions there are and which slots are held. It lives in
// memory and decides nothing: whoever finds a pathway or a session here reads its
// stream before acting.
type diary struct {
	*es.Follower // its lock guards all below

	person   map[string]string            // pathway id -> person id
	pathways map[string][]string          // person id -> pathway ids
	merged   map[string][]string          // surviving person id -> persons merged into it
	into     map[string]string            // merged person id -> survivor
	needs    map[string]map[string]string // person id -> need id -> code
	sessions map[string]Session
	held     map[string]map[string]time.Time // session -> hold -> until when; what was followed up is not in it
}

func newDiary(log es.Log) *diary {
	d := &diary{person: map[string]string{}, pathways: map[string][]string{}, merged: map[string][]string{}, into: map[string]string{},
		needs: map[string]map[string]string{}, sessions: map[string]Session{}, held: map[string]map[string]time.Time{}}
	d.Follower = es.Follow(log, "appointment.behind", d.apply, "pathway", "person", "session")
	d.Only("waymark.appointment.v1.", es.TypeOf(&referralv1.PathwayStarted{}), es.TypeOf(&personv1.PersonsMerged{}), es.TypeOf(&personv1.MergeReversed{}),
		es.TypeOf(&personv1.CommunicationNeedRecorded{}), es.TypeOf(&personv1.AdjustmentRecorded{}), es.TypeOf(&personv1.NeedsReviewed{}))
	return d
}

func (d *diary) apply(e es.Recorded) error {
	event, err := es.Decode(e)
	if err != nil {
		return err
	}
	category, id, _ := strings.Cut(e.Stream, "-")
	if category == "session" {
		d.hold(id, event)
		d.sessions[id], err = es.TryEvolve(EvolveSession, d.sessions[id], event)
		return err
	}
	switch m := event.(type) {
	case *referralv1.PathwayStarted:
		d.person[id] = m.PersonId
		d.pathways[m.PersonId] = append(d.pathways[m.PersonId], id)
	case *personv1.PersonsMerged:
		d.merged[id] = append(d.merged[id], m.MergedPersonId)
		d.into[m.MergedPersonId] = id
	case *personv1.MergeReversed:
		d.merged[m.SurvivingPersonId] = slices.DeleteFunc(d.merged[m.SurvivingPersonId], func(p string) bool { return p == m.MergedPersonId })
		delete(d.into, m.MergedPersonId)
	case *personv1.CommunicationNeedRecorded:
		code := m.Need.GetCode()
		if language := m.Need.GetLanguage(); language != "" {
			code += ":" + language
		}
		d.need(id, m.NeedId, code)
	case *personv1.AdjustmentRecorded:
		d.need(id, m.NeedId, m.Adjustment.GetCode())
	case *personv1.NeedsReviewed:
		for _, ended := range m.EndedNeedIds {
			delete(d.needs[id], ended)
		}
	}
	return nil
}

func (d *diary) need(person, id, code string) {
	if d.needs[person] == nil {
		d.needs[person] = map[string]string{}
	}
	d.needs[person][id] = code
}

// persons lists who a person is: itself, and whoever is one with it by merges.
// The caller holds the lock.
func (d *diary) persons(person string) []string {
	for range len(d.into) { // up to the survivor of all; a circle ends with the range
		up := d.into[person]
		if up == "" {
			break
		}
		person = up
	}
	all := []string{person}
	for i := 0; i < len(all); i++ {
		for _, p := range d.merged[all[i]] {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

// others lists the other pathways of the person of a pathway, in order.
func (d *diary) others(pathway string) (all []string) {
	d.Lock()
	defer d.Unlock()
	person := d.person[pathway]
	if person == "" {
		return nil
	}
	for _, p := range d.persons(person) {
		all = append(all, d.pathways[p]...)
	}
	all = slices.DeleteFunc(all, func(id string) bool { return id == pathway })
	slices.Sort(all)
	return slices.Compact(all)
}

// pathwaysOf lists the pathways of a person, in order.
func (d *diary) pathwaysOf(person string) (all []string) {
	d.Lock()
	defer d.Unlock()
	for _, p := range d.persons(person) {
		all = append(all, d.pathways[p]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// needsOf lists the codes of what the patient of a pathway needs, in order: what a
// booking must carry (DAPB1605).
func (d *diary) needsOf(pathway string) (codes []string) {
	d.Lock()
	defer d.Unlock()
	person := d.person[pathway]
	if person == "" {
		return nil
	}
	for _, p := range d.persons(person) {
		for _, code := range d.needs[p] {
			codes = append(codes, code)
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// search is what a free slot must be.
type search struct {
	*pb.FindSlotsRequest
	from, to time.Time // to is zero for no end
}

func newSearch(req *pb.FindSlotsRequest, now time.Time) (search, error) {
	s := search{FindSlotsRequest: req, from: now}
	for _, f := range []struct {
		field, text string
		to          *time.Time
	}{{"from", req.From, &s.from}, {"to", req.To, &s.to}} {
		if f.text == "" {
			continue
		}
		at, err := Instant(f.field, f.text)
		if day, bad := nhs.ParseDate(f.text); bad == nil {
			at, err = day.Start(), nil
		}
		if err != nil {
			return s, err
		}
		*f.to = at
	}
	if s.from.Before(now) {
		s.from = now
	}
	return s, nil
}

// slots lists the slots of a session that fit.
func (q search) slots(id string, s Session, now time.Time) (found []*pb.FreeSlot) {
	o := s.opened
	is := func(want, has string) bool { return want == "" || want == has }
	if o == nil || !is(q.TreatmentFunction, o.TreatmentFunction) || !is(q.Site, o.Site) || !is(q.Organisation, o.Organisation) || !is(q.Modality, o.Modality) ||
		q.Medium != pb.Medium_MEDIUM_UNSPECIFIED && q.Medium != o.Medium || o.CancerPriorityReason != "" && q.CancerPriorityReason == "" {
		return nil
	}
	for _, slot := range s.Free(now) {
		if at := slot.Start.AsTime(); at.Before(q.from) || !q.to.IsZero() && !at.Before(q.to) {
			continue
		}
		found = append(found, &pb.FreeSlot{SessionId: id, Slot: slot, Organisation: o.Organisation, Site: o.Site, TreatmentFunction: o.TreatmentFunction,
			Modality: o.Modality, PractitionerRole: o.PractitionerRole, Medium: o.Medium, CancerPriorityReason: o.CancerPriorityReason})
	}
	return found
}

// sooner orders free slots: by start; at one time those kept for cancer first.
func sooner(a, b *pb.FreeSlot) int {
	if c := a.Slot.Start.AsTime().Compare(b.Slot.Start.AsTime()); c != 0 {
		return c
	}
	if (a.CancerPriorityReason != "") != (b.CancerPriorityReason != "") {
		if a.CancerPriorityReason != "" {
			return -1
		}
		return 1
	}
	return strings.Compare(a.SessionId+a.Slot.SlotId, b.SessionId+b.Slot.SlotId)
}

// FindSlots asks the diary which sessions may have a slot, and their streams
// which are free.
func (s *sessionServer) FindSlots(ctx context.Context, req *pb.FindSlotsRequest) (*pb.FindSlotsResponse, error) {
	if err := s.diary.Wait(ctx, es.Position(req.MinPosition)); err != nil {
		return nil, err
	}
	now := s.clock()
	q, err := newSearch(req, now)
	if err != nil {
		return nil, err
	}
	limit := int(req.Limit)
	if limit == 0 {
		limit = 20
	}
	var likely []*pb.FreeSlot
	s.diary.Lock()
	for id, session := range s.diary.sessions {
		likely = append(likely, q.slots(id, session, now)...)
	}
	s.diary.Unlock()
	slices.SortFunc(likely, sooner)

	out := &pb.FindSlotsResponse{}
	read := map[string]map[string]bool{} // session -> slots that are free in its stream
	for _, slot := range likely {
		if len(out.Slots) == limit {
			out.More = true
			break
		}
		free := read[slot.SessionId]
		if free == nil {
			state, err := s.loadSession(ctx, slot.SessionId)
			if err != nil {
				return nil, err
			}
			free = map[string]bool{}
			for _, f := range q.slots(slot.SessionId, state.Value, now) {
				free[f.Slot.SlotId] = true
			}
			read[slot.SessionId] = free
		}
		if free[slot.Slot.SlotId] {
			out.Slots = append(out.Slots, slot)
		}
	}
	out.NoSlots = len(out.Slots) == 0
	return out, nil
}

// HoldSlot keeps a slot for a booking that will name the hold.
func (s *sessionServer) HoldSlot(ctx context.Context, req *pb.HoldSlotRequest) (*pb.HoldSlotResponse, error) {
	hold, id := commandID(req).String(), streamID(req.SessionId)
	session, err := s.loadSession(ctx, id)
	if err != nil {
		return nil, err
	}
	c := HoldSlot{SlotID: streamID(req.SlotId), AppointmentID: or(streamID(req.AppointmentId), appointmentID(commandID(req))), PathwayID: streamID(req.PathwayId), HoldID: hold, Now: s.clock()}
	if err := s.hold(ctx, req, session.Value, c, id); err != nil {
		return nil, err
	}
	state, err := s.loadSession(ctx, id)
	if err != nil {
		return nil, err
	}
	held := state.Value.claims[c.SlotID]
	if held.holdID != hold || held.taken {
		return nil, errLapsed // a repeat from long ago
	}
	return &pb.HoldSlotResponse{HoldId: hold, Until: timestamppb.New(held.until), Receipt: state.Receipt()}, nil
}

// elsewhere lists the appointments that the patient of a pathway has on other
// pathways, and what the patient needs.
func (s *service) elsewhere(ctx context.Context, pathway string) (booked []*pb.Appointment, needs []string, err error) {
	if s.diary == nil {
		return nil, nil, nil
	}
	if err := s.diary.Wait(ctx, 0); err != nil {
		return nil, nil, err
	}
	for _, other := range s.diary.others(pathway) {
		state, err := s.appointments.Load(ctx, other)
		if err != nil {
			return nil, nil, err
		}
		for _, a := range state.Value.appointments {
			if upcoming(a) {
				booked = append(booked, Message(a, other))
			}
		}
	}
	return booked, s.diary.needsOf(pathway), nil
}

// findOverlaps records overlaps that no booking could see, because two were made
// at once or two persons became one. Of two appointments the one of the greater
// id records it, so that one person is asked and not two.
func (s *service) findOverlaps(ctx context.Context, req es.Request, pathway string) error {
	others, _, err := s.elsewhere(ctx, pathway)
	if err != nil || len(others) == 0 {
		return err
	}
	state, err := s.appointments.Load(ctx, pathway)
	if err != nil {
		return err
	}
	for _, a := range state.Value.appointments {
		for _, o := range others {
			if !overlapping(a, o) {
				continue
			}
			on, c := pathway, NoteOverlap{AppointmentID: a.AppointmentId, Other: o, Today: s.today()}
			if o.AppointmentId > a.AppointmentId {
				on, c.AppointmentID, c.Other = o.PathwayId, o.AppointmentId, Message(a, pathway)
			}
			r := part(req, "overlap/"+a.AppointmentId+"/"+o.AppointmentId)
			c.CommandID = commandID(r)
			if _, err := s.appointments.Do(ctx, on, r, c.Decide); err != nil {
				return err
			}
		}
	}
	return nil
}
