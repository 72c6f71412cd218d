package appointment

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/appointment/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
	"waymark/services/kit/runtest"
)

// record appends what another service would have recorded.
func record(t *testing.T, log es.Log, n int, stream string, events ...proto.Message) {
	t.Helper()
	category, of, _ := strings.Cut(stream, "-")
	decider := es.Decider[int]{Category: category, Evolve: func(n int, _ proto.Message) int { return n }}
	_, err := es.NewStreams(log, decider, es.Options{Key: runtest.Key}).Do(t.Context(), of, &pb.RunTimersRequest{Command: by(9_000_000 + n), PathwayId: of},
		func(int) ([]proto.Message, error) { return events, nil })
	if err != nil {
		t.Fatal(err)
	}
}

// keeping is an instance that keeps a diary.
func keeping(t *testing.T, log es.Log, at time.Time) *service {
	s := instance(log, at)
	s.diary = newDiary(log)
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { s.diary.Run(ctx) })
	t.Cleanup(func() { cancel(); ended.Wait() })
	return s
}

// twoClinics is a log with two sessions at one time, and two pathways of person 1,
// one of person 2.
func twoClinics(t *testing.T) (*estest.Log, *service) {
	log := estest.NewAuditedLog(t)
	for i, p := range []int{1, 1, 2} {
		record(t, log, i, "pathway-"+id("pathway", i+1), &referralv1.PathwayStarted{FactId: "f", PersonId: id("person", p)})
	}
	s := keeping(t, log, now)
	for i := range 2 {
		if _, err := s.clinics().OpenSession(t.Context(), clinic(i, i, 6)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { roomAudit(t, log) })
	return log, s
}

// roomAudit puts the whole log through the auditor that waymark verify uses.
func roomAudit(t *testing.T, log interface{ Events() []es.Recorded }) {
	t.Helper()
	for _, err := range audited(t, log.Events()) {
		t.Error(err)
	}
}

func audited(t *testing.T, events []es.Recorded) (found []error) {
	m := NewMeeting()
	a := NewAudit(func(f es.Fact) {
		if err := m.Next(f); err != nil {
			found = append(found, es.BreachAt(f.At, "%s", err))
		}
	})
	var last time.Time
	for _, e := range events {
		last = e.Recorded
		event, err := es.Decode(e)
		if err != nil {
			t.Fatal(err)
		}
		metadata, err := es.ParseMetadata(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Next(es.Entry{Recorded: e, Event: event, Metadata: metadata}); err != nil {
			found = append(found, es.BreachAt(e, "%s", err))
		}
	}
	return append(append(found, a.End(last)...), m.End(last)...)
}

// react brings everything in the log to the service, twice.
func react(t *testing.T, s *service, log *estest.Log) {
	t.Helper()
	for range 2 {
		for _, e := range heard(t, log) {
			if err := s.react(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func count[E proto.Message](t *testing.T, log *estest.Log) (n int) {
	for _, e := range heard(t, log) {
		if _, is := e.Message.(E); is {
			n++
		}
	}
	return n
}

func refused(t *testing.T, err error, code string) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("%v, want %s", err, code)
	}
}

// TestNobodyIsInTwoPlaces: across the pathways of one person, at booking and at
// rescheduling; another person may be there at the same time.
func TestNobodyIsInTwoPlaces(t *testing.T) {
	t.Parallel()
	log, s := twoClinics(t)
	book := func(command, pathway, session, slot int, why string) error {
		req := booking(command, pathway, session, slot)
		req.OverlapOverrideReason = why
		_, err := s.front().BookAppointment(t.Context(), req)
		return err
	}
	if err := book(10, 1, 0, 0, ""); err != nil {
		t.Fatal(err)
	}
	refused(t, book(11, 2, 1, 0, ""), "appointment.overlap")
	if err := book(12, 3, 1, 0, ""); err != nil {
		t.Errorf("another person: %v", err)
	}
	if err := book(13, 2, 1, 1, ""); err != nil {
		t.Errorf("another time: %v", err)
	}
	moved := appointmentID(commandID(&pb.RunTimersRequest{Command: by(10)}))
	to := &pb.RescheduleAppointmentRequest{Command: by(14), PathwayId: id("pathway", 1), AppointmentId: moved, To: inSlot(0, 1), Reason: "x"}
	_, err := s.front().RescheduleAppointment(t.Context(), to)
	refused(t, err, "appointment.overlap")
	if err := book(15, 2, 0, 5, "two teams see the patient together"); err != nil {
		t.Error(err)
	}
	if err := book(16, 1, 1, 5, "two teams see the patient together"); err != nil {
		t.Errorf("with a reason: %v", err)
	}
	if err := book(10, 1, 0, 0, ""); err != nil {
		t.Errorf("a repeat is not refused: %v", err)
	}
	to = proto.CloneOf(to)
	to.Command, to.OverlapOverrideReason = by(17), "one after the other in one room"
	if _, err := s.front().RescheduleAppointment(t.Context(), to); err != nil {
		t.Errorf("moved with a reason: %v", err)
	}
	react(t, s, log)
	if n := count[*pb.OverlapFound](t, log); n != 0 {
		t.Errorf("%d overlaps found where somebody said why", n)
	}
}

// TestOverlapsThatNobodySawAreFound: two bookings at one instant, and two persons
// who prove to be one. One of the two appointments has the task; moving it ends it.
func TestOverlapsThatNobodySawAreFound(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(*testing.T, *estest.Log, *service){
		"at one instant": func(t *testing.T, log *estest.Log, s *service) {
			other, once := keeping(t, log, now), false
			var second error
			log.SetFaults(estest.Faults{Before: func(ctx context.Context, call, stream string) error {
				if call == "Append" && stream == "appointment-"+id("pathway", 1) && !once {
					once = true
					_, second = other.front().BookAppointment(ctx, booking(11, 2, 1, 0))
				}
				return nil
			}})
			_, err := s.front().BookAppointment(t.Context(), booking(10, 1, 0, 0))
			log.SetFaults(estest.Faults{})
			if err = errors.Join(err, second); err != nil {
				t.Fatal(err)
			}
		},
		"two persons are one": func(t *testing.T, log *estest.Log, s *service) {
			for i, p := range []int{1, 3} {
				if _, err := s.front().BookAppointment(t.Context(), booking(10+i, p, i, 0)); err != nil {
					t.Fatal(err)
				}
			}
			react(t, s, log)
			if n := count[*pb.OverlapFound](t, log); n != 0 {
				t.Errorf("%d overlaps of two persons", n)
			}
			record(t, log, 50, "person-"+id("person", 1), &personv1.PersonsMerged{MergeId: "m", SurvivingPersonId: id("person", 1), MergedPersonId: id("person", 2)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log, s := twoClinics(t)
			make(t, log, s)
			react(t, s, log)
			if n := count[*pb.OverlapFound](t, log); n != 1 {
				t.Fatalf("%d overlaps found", n)
			}
			for i := 1; i <= 3; i++ {
				state, err := s.appointments.Load(t.Context(), id("pathway", i))
				if err != nil {
					t.Fatal(err)
				}
				for _, task := range state.Value.open() {
					if task.Cause != "overlap" || task.Due != "2026-06-01" {
						t.Errorf("task %v", task)
					}
					_, err := s.front().RescheduleAppointment(t.Context(), &pb.RescheduleAppointmentRequest{Command: by(60), PathwayId: id("pathway", i), AppointmentId: task.CauseId, To: inSlot(0, 4), Reason: "x"})
					if err != nil {
						t.Fatal(err)
					}
					state, err = s.appointments.Load(t.Context(), id("pathway", i))
					if err != nil || len(state.Value.open()) != 0 || len(state.Value.Appointment(task.CauseId).OverlapsWith) != 0 {
						t.Errorf("after it was moved: %v, %v", state.Value.open(), err)
					}
				}
			}
			react(t, s, log)
			if n := count[*pb.OverlapFound](t, log); n != 1 {
				t.Errorf("%d overlaps after one was moved", n)
			}
		})
	}
}

// TestEveryBookingCarriesTheNeeds: those of the person's record, known before or
// after; not those that have ended.
func TestEveryBookingCarriesTheNeeds(t *testing.T) {
	t.Parallel()
	log, s := twoClinics(t)
	person := "person-" + id("person", 1)
	record(t, log, 50, person, &personv1.CommunicationNeedRecorded{NeedId: "n1", Need: &personv1.CommunicationNeed{Code: "204331000000107", Language: "bfi"}})
	record(t, log, 51, person, &personv1.AdjustmentRecorded{NeedId: "n2", Adjustment: &personv1.Adjustment{Code: "1108151000000106"}})
	if err := s.diary.Wait(t.Context(), log.Events()[len(log.Events())-1].Position); err != nil {
		t.Fatal(err)
	}
	needs := func(command int) []string {
		t.Helper()
		out, err := s.front().GetAppointment(t.Context(), &pb.GetAppointmentRequest{PathwayId: id("pathway", 1), AppointmentId: appointmentID(commandID(&pb.RunTimersRequest{Command: by(command)}))})
		if err != nil {
			t.Fatal(err)
		}
		return out.Appointment.Needs
	}
	book := func(command, slot int) {
		t.Helper()
		if _, err := s.front().BookAppointment(t.Context(), booking(command, 1, 0, slot)); err != nil {
			t.Fatal(err)
		}
	}
	book(10, 0)
	if got, want := needs(10), []string{"interpreter", "1108151000000106", "204331000000107:bfi"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	record(t, log, 52, person, &personv1.AdjustmentRecorded{NeedId: "n3", Adjustment: &personv1.Adjustment{Code: "225835008"}})
	react(t, s, log)
	if !slices.Contains(needs(10), "225835008") {
		t.Errorf("what is recorded after the booking is not on it: %v", needs(10))
	}
	if n := count[*pb.AppointmentAmended](t, log); n != 1 {
		t.Errorf("%d amendments", n)
	}
	record(t, log, 53, person, &personv1.NeedsReviewed{EndedNeedIds: []string{"n2"}})
	if err := s.diary.Wait(t.Context(), log.Events()[len(log.Events())-1].Position); err != nil {
		t.Fatal(err)
	}
	book(11, 1)
	if slices.Contains(needs(11), "1108151000000106") {
		t.Errorf("a need that has ended is on a new booking: %v", needs(11))
	}
}

func TestFindSlots(t *testing.T) {
	t.Parallel()
	log, s := twoClinics(t)
	routine := clinic(5, 5, 2)
	routine.CancerPriorityReason, routine.Site, routine.TreatmentFunction, routine.Medium = "", "RJ122", "103", pb.Medium_MEDIUM_TELEPHONE
	opened, err := s.clinics().OpenSession(t.Context(), routine)
	if err != nil {
		t.Fatal(err)
	}
	find := func(req *pb.FindSlotsRequest) *pb.FindSlotsResponse {
		t.Helper()
		req.MinPosition = opened.Receipt.Position
		out, err := s.clinics().FindSlots(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	// Sessions 0 and 1 are kept for cancer, with 6 slots each; session 5 is not, with 2.
	for _, tt := range []struct {
		name string
		req  *pb.FindSlotsRequest
		want int
		more bool
	}{
		{"any", &pb.FindSlotsRequest{}, 2, false},
		{"with a priority", &pb.FindSlotsRequest{CancerPriorityReason: "usc"}, 14, false},
		{"a few", &pb.FindSlotsRequest{CancerPriorityReason: "usc", Limit: 3}, 3, true},
		{"of a site", &pb.FindSlotsRequest{CancerPriorityReason: "usc", Site: "RJ121"}, 12, false},
		{"of a service", &pb.FindSlotsRequest{CancerPriorityReason: "usc", TreatmentFunction: "103"}, 2, false},
		{"by telephone", &pb.FindSlotsRequest{CancerPriorityReason: "usc", Medium: pb.Medium_MEDIUM_TELEPHONE}, 2, false},
		{"of another trust", &pb.FindSlotsRequest{Organisation: "RRV"}, 0, false},
		{"from a time on", &pb.FindSlotsRequest{CancerPriorityReason: "usc", From: slotAt(4).Start}, 4, false},
		{"up to a time", &pb.FindSlotsRequest{CancerPriorityReason: "usc", To: slotAt(1).Start}, 3, false},
		{"from a day on", &pb.FindSlotsRequest{CancerPriorityReason: "usc", From: "2026-06-03"}, 0, false},
	} {
		out := find(tt.req)
		if len(out.Slots) != tt.want || out.NoSlots != (tt.want == 0) || out.More != tt.more {
			t.Errorf("%s: %d slots, none %v, more %v; want %d", tt.name, len(out.Slots), out.NoSlots, out.More, tt.want)
		}
		if !slices.IsSortedFunc(out.Slots, sooner) {
			t.Errorf("%s: not in order", tt.name)
		}
	}
	if first := find(&pb.FindSlotsRequest{CancerPriorityReason: "usc"}).Slots[:3]; first[0].CancerPriorityReason == "" || first[1].CancerPriorityReason == "" || first[2].CancerPriorityReason != "" {
		t.Errorf("at one time those kept for cancer come first: %v", first)
	}
	_, err = s.clinics().FindSlots(t.Context(), &pb.FindSlotsRequest{From: "soon"})
	refused(t, err, "appointment.time.invalid")

	// A diary that does not hear of a booking offers no slot that is gone.
	stale := instance(log, now)
	stale.diary = s.diary
	if _, err := s.front().BookAppointment(t.Context(), booking(20, 3, 5, 0)); err != nil {
		t.Fatal(err)
	}
	s.diary.Lock()
	session := s.diary.sessions[id("session", 5)]
	session.claims = nil
	s.diary.sessions[id("session", 5)] = session
	s.diary.Unlock()
	if out := find(&pb.FindSlotsRequest{}); len(out.Slots) != 1 {
		t.Errorf("%d slots, one is free", len(out.Slots))
	}
}

func TestHoldSlot(t *testing.T) {
	t.Parallel()
	log, s := twoClinics(t)
	hold := func(s *service, command, pathway, slot int) (*pb.HoldSlotResponse, error) {
		return s.clinics().HoldSlot(t.Context(), &pb.HoldSlotRequest{Command: by(command), PathwayId: id("pathway", pathway), SessionId: id("session", 0), SlotId: id("slot", slot)})
	}
	book := func(s *service, command, pathway, slot int, hold string) (*pb.AppointmentReply, error) {
		req := booking(command, pathway, 0, slot)
		req.Place.GetSlot().HoldId = hold
		return s.front().BookAppointment(t.Context(), req)
	}
	held, err := hold(s, 10, 1, 0)
	if err != nil || !held.Until.AsTime().Equal(now.Add(holdFor)) {
		t.Fatalf("%v, %v", held, err)
	}
	_, err = hold(s, 11, 3, 0)
	refused(t, err, "appointment.slot.taken")
	_, err = book(s, 12, 3, 0, "")
	refused(t, err, "appointment.slot.taken")
	_, err = book(s, 13, 3, 0, held.HoldId)
	refused(t, err, "appointment.hold.not_held")
	_, err = book(s, 14, 1, 1, held.HoldId)
	refused(t, err, "appointment.hold.not_held")
	a, err := book(s, 15, 1, 0, held.HoldId)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []int{15, 16} { // the same request, or another with the same hold: one appointment
		again, err := book(s, command, 1, 0, held.HoldId)
		if err != nil || again.Appointment.AppointmentId != a.Appointment.AppointmentId {
			t.Errorf("%v, %v", again, err)
		}
	}
	if n := count[*pb.AppointmentBooked](t, log); n != 1 {
		t.Errorf("%d bookings", n)
	}

	// A hold that nobody booked is given to somebody else, and cannot be booked then.
	if held, err = hold(s, 20, 1, 2); err != nil {
		t.Fatal(err)
	}
	later := keeping(t, log, now.Add(holdFor))
	if _, err := book(later, 21, 3, 2, ""); err != nil {
		t.Errorf("a lapsed hold is in the way: %v", err)
	}
	_, err = book(s, 22, 1, 2, held.HoldId)
	if code := fault.CodeOf(err); code != "appointment.hold.lapsed" && code != "appointment.hold.not_held" {
		t.Errorf("a lapsed hold was booked: %v", err)
	}
	_, err = hold(s, 20, 1, 2)
	refused(t, err, "appointment.hold.lapsed")
}

func TestStopSeries(t *testing.T) {
	t.Parallel()
	log, s := twoClinics(t)
	path := id("pathway", 1)
	var first string
	for i := range 4 {
		req := booking(10+i, 1, 0, i)
		if req.SeriesId = "RT-7"; i == 3 {
			req.SeriesId = "RT-8"
		}
		out, err := s.front().BookAppointment(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = out.Appointment.AppointmentId
		}
	}
	stop := &pb.StopSeriesRequest{Command: by(20), PathwayId: path, SeriesId: "RT-7", From: slotAt(1).Start, By: pb.CancelledBy_CANCELLED_BY_PATIENT, Reason: "x"}
	for range 2 {
		out, err := s.front().StopSeries(t.Context(), stop)
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Appointments) != 2 || len(out.OpenTasks) != 1 || out.OpenTasks[0].Cause != "series_stopped" || out.OpenTasks[0].CauseId != "RT-7" || out.Appointments[0].AttendanceCode != "2" {
			t.Errorf("%v", out)
		}
	}
	state, err := s.appointments.Load(t.Context(), path)
	if err != nil || state.Value.Appointment(first).Status != booked {
		t.Errorf("what began before stays: %v", err)
	}
	if got := slotsOf(t, s, id("session", 0)); got != "tfftff" {
		t.Errorf("slots %s", got)
	}
	for _, series := range []string{"RT-7", "RT-9"} {
		r := proto.CloneOf(stop)
		r.Command, r.SeriesId = by(21+len(log.Events())), series
		_, err := s.front().StopSeries(t.Context(), r)
		refused(t, err, "appointment.series.not_found")
	}
	react(t, s, log)
}

// TestSuspensionMeetsABooking: the session is suspended between the hold and the
// pathway, and between the pathway and the slot. Nobody keeps a booking in it, and
// nobody who was told of one is without a task.
func TestSuspensionMeetsABooking(t *testing.T) {
	t.Parallel()
	path := "appointment-" + id("pathway", 1)
	for name, at := range map[string]func(stream string, appends int) bool{
		"before the pathway": func(stream string, _ int) bool { return stream == path },
		"before the slot":    func(stream string, n int) bool { return stream == "session-"+id("session", 0) && n > 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log, s := twoClinics(t)
			other, once, appends := keeping(t, log, now), false, 0
			var suspended error
			log.SetFaults(estest.Faults{Before: func(ctx context.Context, call, stream string) error {
				if call != "Append" || once {
					return nil
				}
				if at(stream, appends) {
					once = true
					_, suspended = other.clinics().SuspendSession(ctx, &pb.SuspendSessionRequest{Command: by(30), SessionId: id("session", 0), Reason: "x"})
				}
				appends++
				return nil
			}})
			_, err := s.front().BookAppointment(t.Context(), booking(10, 1, 0, 0))
			log.SetFaults(estest.Faults{})
			if suspended != nil || !once {
				t.Fatalf("suspended: %v, %v", once, suspended)
			}
			react(t, s, log)
			state, e := s.appointments.Load(t.Context(), id("pathway", 1))
			if e != nil {
				t.Fatal(e)
			}
			switch a := state.Value.Appointment(appointmentID(commandID(&pb.RunTimersRequest{Command: by(10)}))); {
			case a == nil && fault.CodeOf(err) != "appointment.hold.lapsed":
				t.Errorf("no booking, and the caller hears %v", err)
			case a != nil && (a.Status != cancelled || len(state.Value.open()) != 1 || state.Value.open()[0].Cause != "session_suspended"):
				t.Errorf("%v, tasks %v", a, state.Value.open())
			}
			if wrong, _ := audit(t, log.Events(), true); len(wrong) > 0 {
				t.Error(wrong)
			}
		})
	}
}

// referrals answers as the referral service.
type referrals struct {
	referralv1.UnimplementedPathwayServiceServer
	mu    sync.Mutex
	asked []*referralv1.RecordFirstAppointmentMissedRequest
	reply error
}

func (r *referrals) RecordFirstAppointmentMissed(_ context.Context, req *referralv1.RecordFirstAppointmentMissedRequest) (*referralv1.PathwayReply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, req)
	return &referralv1.PathwayReply{}, r.reply
}

// TestMissedFirstAppointmentIsToldToReferral: as one command however often it is
// heard; a refusal is an answer, a fault is tried again.
func TestMissedFirstAppointmentIsToldToReferral(t *testing.T) {
	t.Parallel()
	r := &referrals{}
	h := runtest.Serve(t, estest.NewLog(), func() time.Time { return now }, func(deps run.Deps) (run.Part, error) {
		return run.Part{Name: "referral", Register: func(g grpc.ServiceRegistrar) { referralv1.RegisterPathwayServiceServer(g, r) }}, nil
	})
	s := instance(estest.NewLog(), now)
	s.pathways = referralv1.NewPathwayServiceClient(h.Conn)
	missed := bus.Event{ID: commandID(&pb.RunTimersRequest{Command: by(1)}), Category: "appointment", StreamID: id("pathway", 1), Tenant: "RJ1",
		Message: &pb.ClockAdjustmentProposed{AppointmentId: "a", AttendanceCode: "3", MissedOn: "2026-06-01"}}
	for range 2 {
		if err := s.react(t.Context(), missed); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.asked) != 2 || r.asked[0].Command.CommandId != r.asked[1].Command.CommandId || r.asked[0].PathwayId != id("pathway", 1) ||
		r.asked[0].Facts.On != "2026-06-01" || r.asked[0].Facts.Attendance != "3" || r.asked[0].Command.Actor.GetOrganisation() != "RJ1" {
		t.Errorf("asked %v", r.asked)
	}
	r.reply = fault.Refused("cwt.order.end_before_start", "x")
	if err := s.react(t.Context(), missed); err != nil {
		t.Errorf("a refusal is an answer: %v", err)
	}
	r.reply = fault.Unavailable("x", "down", time.Second)
	if err := s.react(t.Context(), missed); err == nil {
		t.Error("a fault is not tried again")
	}
	rebooked := missed
	rebooked.Message = &pb.ClockAdjustmentProposed{AppointmentId: "a", AttendanceCode: "3", MissedOn: "2026-06-01", RebookedOn: "2026-06-08"}
	n := len(r.asked)
	if err := s.react(t.Context(), rebooked); err != nil || len(r.asked) != n {
		t.Errorf("the rebooking is an event alone: %d more calls, %v", len(r.asked)-n, err)
	}
}

// TestDueTestIsATask: heard often, it is one task with a day.
func TestDueTestIsATask(t *testing.T) {
	t.Parallel()
	log, s := twoClinics(t)
	record(t, log, 50, "plan-"+id("pathway", 1), &planv1.ItemBecameDue{ItemId: "i1"})
	react(t, s, log)
	out, err := s.front().ListAppointments(t.Context(), &pb.ListAppointmentsRequest{PathwayId: id("pathway", 1)})
	if err != nil || len(out.Tasks) != 1 || out.Tasks[0].Cause != "surveillance_due" || out.Tasks[0].CauseId != "i1" || out.Tasks[0].Due != "2026-06-15" {
		t.Errorf("%v, %v", out, err)
	}
}
